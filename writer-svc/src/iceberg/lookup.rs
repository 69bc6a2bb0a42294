//! Rows of the table as it is, found by their keys, or places by whole rows.
//!
//! ```text
//! manifests ─► files whose bounds allow a wanted key        [`files`]
//!   newest first:  data file: the key's columns ─► rows ─► the values of those
//!                  equality deletes: keys that are gone since   [`crate::scan`]
//! ```
//!
//! A key's row is the newest that no delete applies to, and there is one at
//! most: so files are read by their sequence numbers, the highest first, and of
//! one number the data before the equality deletes, which apply to what is
//! older. A key that a delete names before its row was seen has none. The
//! reading ends when every key has been found or is gone.
//!
//! Memory: the wanted keys, a batch of a file, and of position deletes those of
//! the files that may hold a wanted key.

pub mod files;
mod positions;

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::row::RowConverter;
use iceberg::spec::FormatVersion;

use super::catalog::Loaded;
use super::{IcebergTable, equality};
use crate::complete::wanted::{Key, Wanted, comparing, converter};
use crate::complete::{Asked, Found, Places, Unfound, columns_of};
use crate::error::WriterError;
use crate::scan::{Column, Scan, Which};
use files::{Bounds, Candidate};
use positions::Positions;

/// The table to look in.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// It.
    pub table: &'a IcebergTable,
    /// As it is.
    pub base: &'a Loaded,
}

/// What is read of a data file, by the order of sequence numbers.
enum Step<'a> {
    Data(&'a Candidate),
    Deletes(&'a Candidate),
}

impl Asked for Lookup<'_> {
    fn name(&self) -> String {
        self.table.name.to_string()
    }

    fn declared(&self, key: &Schema) -> Result<SchemaRef, WriterError> {
        Ok(equality::plan(&self.name(), Some(&self.base.metadata), key)?.arrow)
    }

    fn rows(
        &self,
        keys: &RecordBatch,
        values: &[Column],
        found: Found<'_>,
    ) -> Result<Vec<usize>, Unfound> {
        self.find_rows(keys, values, found)
    }

    fn places(
        &self,
        rows: &RecordBatch,
        id: usize,
        first: usize,
        taken: &mut Places,
    ) -> Result<usize, Unfound> {
        if self.base.metadata.format_version() >= FormatVersion::V3 {
            let what = "rows of a table without a key cannot be deleted by their places in format \
                        version 3";
            return Err(Unfound::Cannot(what.to_owned()));
        }
        self.find_places(rows, id, first, taken)
    }
}

impl Lookup<'_> {
    fn open(self, file: &Candidate) -> Result<Scan, Unfound> {
        let scan = Scan::open(&self.table.storage, &file.location, file.bytes)?;
        match scan.has_ids() {
            true => Ok(scan),
            false => Err(Unfound::Cannot(format!("{} has no field ids", file.location))),
        }
    }

    fn find_rows(
        self,
        keys: &RecordBatch,
        values: &[Column],
        found: Found<'_>,
    ) -> Result<Vec<usize>, Unfound> {
        let (columns, ids) = with_ids(keys)?;
        let mut wanted = Wanted::of(keys, columns)?;
        let bounds = Bounds::of(self.base, &ids, keys);
        let files = files::find(self.table, self.base, &ids, bounds.as_ref())?;
        let gone = Positions::read(self.table, &files)?;
        let mut steps: Vec<Step> = files.data.iter().map(Step::Data).collect();
        steps.extend(files.equality.iter().map(Step::Deletes));
        steps.sort_by_key(|step| match step {
            Step::Data(file) => (-file.sequence_number, 0),
            Step::Deletes(file) => (-file.sequence_number, 1),
        });
        let mut missing = Vec::new();
        for step in steps {
            if wanted.is_empty() {
                break;
            }
            match step {
                Step::Data(file) => {
                    let scan = self.open(file)?;
                    let (mut at, mut hits) = (Vec::new(), Vec::new());
                    let columns = wanted.columns().to_vec();
                    scan.read(&columns, None, |first, arrays| {
                        for (row, key) in (first..).zip(wanted.keys(&arrays)?.iter()) {
                            if wanted.contains(key.as_ref())
                                && !gone.contains(&file.location, row)
                                && let Some(place) = wanted.take(key.as_ref())
                            {
                                at.push(row);
                                hits.push(place);
                            }
                        }
                        Ok(())
                    })?;
                    wanted.tell(&scan, &at, &hits, values, found)?;
                }
                Step::Deletes(file) => {
                    let columns = wanted.columns().to_vec();
                    self.open(file)?.read(&columns, None, |_, arrays| {
                        let keys = wanted.keys(&arrays)?;
                        missing.extend(keys.iter().filter_map(|key| wanted.take(key.as_ref())));
                        Ok(())
                    })?;
                }
            }
        }
        Ok(wanted.missing(missing))
    }

    fn find_places(
        self,
        rows: &RecordBatch,
        id: usize,
        first: usize,
        taken: &mut Places,
    ) -> Result<usize, Unfound> {
        let (columns, fields) = with_ids(rows)?;
        let (ids, values) = (&columns[id..=id], &columns[first..]);
        let (by_id, by_value) = (converter(ids)?, converter(values)?);
        let convert = |converter: &RowConverter, arrays: &[ArrayRef]| {
            converter.convert_columns(arrays).map_err(comparing())
        };
        let keys = convert(&by_id, &rows.columns()[id..=id])?;
        let whole = convert(&by_value, &rows.columns()[first..])?;
        // Of the rows with an id, how many of each are wanted.
        let mut wanted: HashMap<Key, HashMap<Key, usize>> = HashMap::new();
        for (key, row) in keys.iter().zip(whole.iter()) {
            let rows = wanted.entry(key.as_ref().into()).or_default();
            *rows.entry(row.as_ref().into()).or_default() += 1;
        }
        let mut left = rows.num_rows();
        let files = files::find(self.table, self.base, &[fields[id]], None)?;
        if !files.equality.is_empty() {
            return Err(Unfound::Cannot("it has equality deletes, which are not ours".to_owned()));
        }
        let gone = Positions::read(self.table, &files)?;
        let op = op_type(self.base)?;
        let told: Vec<Column> = [op].into_iter().chain(values.iter().cloned()).collect();
        for file in &files.data {
            if left == 0 {
                break;
            }
            let scan = self.open(file)?;
            let known = taken.entry(file.location.clone()).or_default();
            let (mut at, mut at_ids) = (Vec::new(), Vec::new());
            scan.read(ids, None, |from, arrays| {
                for (row, key) in (from..).zip(convert(&by_id, &arrays)?.iter()) {
                    let live = !gone.contains(&file.location, row) && !known.contains(&row);
                    if live && wanted.contains_key(key.as_ref()) {
                        at.push(row);
                        at_ids.push(Key::from(key.as_ref()));
                    }
                }
                Ok(())
            })?;
            let mut number = 0;
            scan.read(&told, Some(&at), |_, arrays| {
                let ops = arrays[0].as_string_opt::<i32>();
                for (row, value) in convert(&by_value, &arrays[1..])?.iter().enumerate() {
                    // One that is kept as deleted is none.
                    let kept = ops.is_some_and(|ops| ops.is_valid(row) && ops.value(row) == "d");
                    let rows = wanted.get_mut(&at_ids[number]).filter(|_| !kept);
                    let count = rows.and_then(|rows| rows.get_mut(value.as_ref()));
                    if let Some(count) = count.filter(|count| **count > 0) {
                        *count -= 1;
                        left -= 1;
                        known.insert(at[number]);
                    }
                    number += 1;
                }
                Ok(())
            })?;
        }
        Ok(left)
    }
}

/// The table's own column of what a row is.
fn op_type(base: &Loaded) -> Result<Column, Unfound> {
    let name = crate::naming::OP_TYPE;
    let field = base.metadata.current_schema().as_struct().field_by_name(name);
    let field = field.ok_or_else(|| Unfound::Cannot(format!("it has no column {name}")))?;
    Ok(Column { which: Which::Id(field.id), kind: DataType::Utf8 })
}

/// The columns of a batch, and their fields' ids, which they all have.
fn with_ids(batch: &RecordBatch) -> Result<(Vec<Column>, Vec<i32>), Unfound> {
    let columns = columns_of(batch)?;
    let id = |column: &Column| match &column.which {
        Which::Id(id) => Ok(*id),
        Which::Name(name) => {
            let what = format!("the column {name:?} has no field id");
            Err(Unfound::Failed(WriterError::Internal(what)))
        }
    };
    let ids = columns.iter().map(id).collect::<Result<_, Unfound>>()?;
    Ok((columns, ids))
}
