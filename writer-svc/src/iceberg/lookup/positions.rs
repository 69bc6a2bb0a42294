//! Rows that position deletes have removed from the files at hand.

use std::collections::{HashMap, HashSet};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};

use super::files::Files;
use crate::complete::Unfound;
use crate::iceberg::IcebergTable;
use crate::iceberg::manifest::entry::{DELETE_FILE_PATH, DELETE_POSITION};
use crate::scan::{Column, Scan, Which};

/// By data file.
#[derive(Debug)]
pub struct Positions<'a>(HashMap<&'a str, HashSet<u64>>);

impl<'a> Positions<'a> {
    /// Reads all position deletes of the table.
    pub fn read(table: &IcebergTable, files: &'a Files) -> Result<Self, Unfound> {
        let mut gone: HashMap<&str, HashSet<u64>> =
            files.data.iter().map(|file| (file.location.as_str(), HashSet::new())).collect();
        let columns = [
            Column { which: Which::Id(DELETE_FILE_PATH), kind: DataType::Utf8 },
            Column { which: Which::Id(DELETE_POSITION), kind: DataType::Int64 },
        ];
        for file in &files.positions {
            Scan::open(&table.storage, &file.location, file.bytes)?.read(
                &columns,
                None,
                |_, arrays| {
                    let paths = arrays[0].as_string::<i32>().iter();
                    let places = arrays[1].as_primitive::<Int64Type>().iter();
                    for (path, place) in paths.zip(places) {
                        if let (Some(path), Some(place)) = (path, place)
                            && let Some(gone) = gone.get_mut(path)
                        {
                            gone.insert(place.cast_unsigned());
                        }
                    }
                    Ok(())
                },
            )?;
        }
        gone.retain(|_, places| !places.is_empty());
        Ok(Positions(gone))
    }

    /// Whether the row at `place` of `file` is gone.
    pub fn contains(&self, file: &str, place: u64) -> bool {
        self.0.get(file).is_some_and(|places| places.contains(&place))
    }
}
