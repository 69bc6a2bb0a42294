//! Rows of the table as it is, found by their keys, or places by whole rows.
//!
//! ```text
//! manifests ─► files whose bounds allow a wanted key        [`files`]
//!   newest first:  data file: the key's columns ─► rows ─► the values of those
//!                  equality deletes: keys that are gone since   [`scan`]
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
pub mod scan;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use arrow::row::{RowConverter, SortField};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use super::IcebergTable;
use super::catalog::Loaded;
use crate::error::WriterError;
use files::{Bounds, Candidate};
use positions::Positions;
use scan::{Column, Scan};

/// Why rows cannot be found.
#[derive(Debug)]
pub enum Unfound {
    /// The table has what is not understood here; in words.
    Cannot(String),
    /// It could not be read.
    Failed(WriterError),
}

impl From<WriterError> for Unfound {
    fn from(error: WriterError) -> Self {
        Unfound::Failed(error)
    }
}

/// The table to look in.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// It.
    pub table: &'a IcebergTable,
    /// As it is.
    pub base: &'a Loaded,
}

/// A key, or a whole row, in Arrow's row format.
type Key = Box<[u8]>;

/// What is read of a data file, by the order of sequence numbers.
enum Step<'a> {
    Data(&'a Candidate),
    Deletes(&'a Candidate),
}

impl Lookup<'_> {
    /// Finds the row of each of `keys`, whose fields have ids, and tells of rows
    /// together their keys' places and `values`. Returns the places of the keys
    /// that have no row.
    pub fn rows(
        self,
        keys: &RecordBatch,
        values: &[Column],
        mut found: impl FnMut(&[usize], Vec<ArrayRef>) -> Result<(), Unfound>,
    ) -> Result<Vec<usize>, Unfound> {
        let columns = columns_of(keys)?;
        let converter = converter(&columns)?;
        let mut wanted = HashMap::with_capacity(keys.num_rows());
        // Of a key that is wanted again: the place before, by the last one.
        let mut again = HashMap::new();
        let rows = converter.convert_columns(keys.columns()).map_err(comparing())?;
        for (place, key) in rows.iter().enumerate() {
            if let Some(before) = wanted.insert(Key::from(key.as_ref()), place) {
                again.insert(place, before);
            }
        }
        let ids: Vec<i32> = columns.iter().map(|column| column.id).collect();
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
                    let scan = Scan::open(self.table, file)?;
                    let (mut at, mut hits) = (Vec::new(), Vec::new());
                    scan.read(&columns, None, |first, arrays| {
                        let keys = converter.convert_columns(&arrays).map_err(comparing())?;
                        for (row, key) in (first..).zip(keys.iter()) {
                            if wanted.contains_key(key.as_ref())
                                && !gone.contains(&file.location, row)
                                && let Some(place) = wanted.remove(key.as_ref())
                            {
                                at.push(row);
                                hits.push(place);
                            }
                        }
                        Ok(())
                    })?;
                    let mut told = 0;
                    scan.read(values, Some(&at), |_, arrays| {
                        let rows = arrays.first().map_or(0, |array| array.len());
                        let hits = &hits[told..told + rows];
                        told += rows;
                        let (mut at, mut places): (Vec<u32>, Vec<usize>) = Default::default();
                        for (row, mut place) in (0..).zip(hits) {
                            while let Some(before) = again.get(place) {
                                at.push(row);
                                places.push(*before);
                                place = before;
                            }
                        }
                        if !at.is_empty() {
                            let arrays = take_arrays(&arrays, &UInt32Array::from(at), None);
                            found(&places, arrays.map_err(comparing())?)?;
                        }
                        found(hits, arrays)
                    })?;
                }
                Step::Deletes(file) => {
                    Scan::open(self.table, file)?.read(&columns, None, |_, arrays| {
                        let keys = converter.convert_columns(&arrays).map_err(comparing())?;
                        missing.extend(keys.iter().filter_map(|key| wanted.remove(key.as_ref())));
                        Ok(())
                    })?;
                }
            }
        }
        missing.extend(wanted.into_values());
        for at in 0..missing.len() {
            let mut place = missing[at];
            while let Some(before) = again.get(&place) {
                missing.push(*before);
                place = *before;
            }
        }
        Ok(missing)
    }

    /// Finds places of rows that are equal to those of `rows` in all columns from
    /// `first` on, as many as each is there, and adds them to `taken`, of which it
    /// finds none again; `id` is a column that equal rows have in common. Returns
    /// how many were not found.
    pub fn places(
        self,
        rows: &RecordBatch,
        id: usize,
        first: usize,
        taken: &mut Places,
    ) -> Result<usize, Unfound> {
        let columns = columns_of(rows)?;
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
        let files = files::find(self.table, self.base, &[columns[id].id], None)?;
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
            let scan = Scan::open(self.table, file)?;
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

/// Rows of data files by their places, ascending.
pub type Places = BTreeMap<String, BTreeSet<u64>>;

/// The table's own column of what a row is.
fn op_type(base: &Loaded) -> Result<Column, Unfound> {
    let name = crate::naming::OP_TYPE;
    let field = base.metadata.current_schema().as_struct().field_by_name(name);
    let field = field.ok_or_else(|| Unfound::Cannot(format!("it has no column {name}")))?;
    Ok(Column { id: field.id, kind: arrow::datatypes::DataType::Utf8 })
}

/// The columns of a batch whose fields have ids.
pub fn columns_of(batch: &RecordBatch) -> Result<Vec<Column>, Unfound> {
    let schema = batch.schema();
    let column = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        let id = field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| {
            let what = format!("the column {:?} has no field id", field.name());
            Unfound::Failed(WriterError::Internal(what))
        })?;
        Ok(Column { id, kind: field.data_type().clone() })
    };
    schema.fields().iter().map(column).collect()
}

fn converter(columns: &[Column]) -> Result<RowConverter, Unfound> {
    let fields = columns.iter().map(|column| SortField::new(column.kind.clone())).collect();
    Ok(RowConverter::new(fields).map_err(WriterError::arrow("comparing keys"))?)
}

fn comparing() -> impl FnOnce(arrow::error::ArrowError) -> WriterError {
    WriterError::arrow("comparing keys")
}
