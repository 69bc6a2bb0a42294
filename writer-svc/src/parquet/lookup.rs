//! Rows of a table of Parquet files as it is, found by their keys.
//!
//! ```text
//! every file: the key's columns and _cdc_lsn ─► of each wanted key the newest row
//! the files of those: ─► their values
//! ```
//!
//! A table that changes are appended to has a row of a key for each transaction
//! that changed it, and which is the newest only their `_cdc_lsn` says; a row that was
//! loaded has none. One that is gone has its `d` there.
//!
//! Memory: the wanted keys, and a batch of a file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use proto::lsn::Lsn;

use crate::complete::wanted::{Key, Wanted};
use crate::complete::{Asked, Found, Places, Unfound, columns_of};
use crate::error::WriterError;
use crate::iceberg::storage::Storage;
use crate::naming;
use crate::scan::{Column, Scan, Which};

/// A file of the table.
#[derive(Clone, Debug)]
pub struct File {
    /// Where the storage has it.
    pub location: String,
    /// Its size.
    pub bytes: u64,
}

/// The table to look in.
pub struct Lookup {
    /// For messages.
    pub name: String,
    /// Where its files are.
    pub storage: Arc<dyn Storage>,
    /// All of them.
    pub files: Vec<File>,
}

/// A row of a key.
struct Row {
    /// Zero: it was loaded.
    lsn: Lsn,
    file: usize,
    at: u64,
    is_gone: bool,
}

impl Lookup {
    fn open(&self, file: usize) -> Result<Scan, Unfound> {
        let File { location, bytes } = &self.files[file];
        Scan::open(&self.storage, location, *bytes)
    }

    /// The newest rows of the wanted keys.
    fn newest(&self, wanted: &Wanted) -> Result<HashMap<Key, Row>, Unfound> {
        let text = |name: &str| Column { which: Which::Name(name.into()), kind: DataType::Utf8 };
        let mut columns = wanted.columns().to_vec();
        let key = columns.len();
        columns.extend([text(naming::CDC_LSN), text(naming::OP_TYPE)]);
        let mut newest: HashMap<Key, Row> = HashMap::new();
        for file in 0..self.files.len() {
            self.open(file)?.read(&columns, None, |first, arrays| {
                let (lsns, ops) =
                    (arrays[key].as_string::<i32>(), arrays[key + 1].as_string::<i32>());
                for (row, value) in wanted.keys(&arrays[..key])?.iter().enumerate() {
                    if !wanted.contains(value.as_ref()) {
                        continue;
                    }
                    let lsn = match lsns.is_valid(row) {
                        true => lsn(lsns.value(row))?,
                        false => Lsn(0),
                    };
                    let is_gone = ops.is_valid(row) && ops.value(row) == "d";
                    let found = Row { lsn, file, at: first + row as u64, is_gone };
                    match newest.get_mut(value.as_ref()) {
                        Some(known) if known.lsn > lsn => {}
                        Some(known) => *known = found,
                        None => {
                            newest.insert(value.as_ref().into(), found);
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(newest)
    }
}

impl Asked for Lookup {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn declared(&self, key: &Schema) -> Result<SchemaRef, WriterError> {
        Ok(Arc::new(key.clone()))
    }

    fn rows(
        &self,
        keys: &RecordBatch,
        values: &[Column],
        found: Found<'_>,
    ) -> Result<Vec<usize>, Unfound> {
        let mut wanted = Wanted::of(keys, columns_of(keys)?)?;
        let mut hits: BTreeMap<usize, Vec<(u64, usize)>> = BTreeMap::new();
        for (key, row) in self.newest(&wanted)? {
            if !row.is_gone
                && let Some(place) = wanted.take(&key)
            {
                hits.entry(row.file).or_default().push((row.at, place));
            }
        }
        for (file, mut rows) in hits {
            rows.sort_unstable();
            let (at, hits): (Vec<u64>, Vec<usize>) = rows.into_iter().unzip();
            wanted.tell(&self.open(file)?, &at, &hits, values, found)?;
        }
        Ok(wanted.missing(Vec::new()))
    }

    fn places(
        &self,
        _rows: &RecordBatch,
        _id: usize,
        _first: usize,
        _taken: &mut Places,
    ) -> Result<usize, Unfound> {
        Err(Unfound::Cannot("no rows can be deleted from it by their places".to_owned()))
    }
}

/// As rows have it.
fn lsn(text: &str) -> Result<Lsn, Unfound> {
    text.parse().map_err(|error| {
        Unfound::Cannot(format!("a {} of it is not understood: {error}", naming::CDC_LSN))
    })
}
