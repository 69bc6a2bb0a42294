//! The keys whose rows are wanted, each perhaps by several changes.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use arrow::row::{RowConverter, Rows, SortField};

use super::{Found, Unfound};
use crate::error::WriterError;
use crate::scan::{Column, Scan};

/// A key, or a whole row, in Arrow's row format.
pub type Key = Box<[u8]>;

/// Keys, and the places of those who want their rows.
pub struct Wanted {
    columns: Vec<Column>,
    converter: RowConverter,
    /// The last place of each.
    places: HashMap<Key, usize>,
    /// Of a key that is wanted again: the place before, by a later one.
    again: HashMap<usize, usize>,
}

impl Wanted {
    /// The rows of `keys`, whose columns are these.
    pub fn of(keys: &RecordBatch, columns: Vec<Column>) -> Result<Self, Unfound> {
        let converter = converter(&columns)?;
        let mut places = HashMap::with_capacity(keys.num_rows());
        let mut again = HashMap::new();
        let rows = converter.convert_columns(keys.columns()).map_err(comparing())?;
        for (place, key) in rows.iter().enumerate() {
            if let Some(before) = places.insert(Key::from(key.as_ref()), place) {
                again.insert(place, before);
            }
        }
        Ok(Wanted { columns, converter, places, again })
    }

    /// The key's columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Values of those, to be compared with what is wanted.
    pub fn keys(&self, arrays: &[ArrayRef]) -> Result<Rows, Unfound> {
        Ok(self.converter.convert_columns(arrays).map_err(comparing())?)
    }

    /// Whether nothing is wanted any more.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether a key is wanted.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.places.contains_key(key)
    }

    /// The key is wanted no longer; its last place.
    pub fn take(&mut self, key: &[u8]) -> Option<usize> {
        self.places.remove(key)
    }

    /// Tells the values of a file's rows `at`, ascending, which are those of the
    /// keys with the last places `hits`: once for each that wants them.
    pub fn tell(
        &self,
        scan: &Scan,
        at: &[u64],
        hits: &[usize],
        values: &[Column],
        found: Found<'_>,
    ) -> Result<(), Unfound> {
        let mut told = 0;
        scan.read(values, Some(at), |_, arrays| {
            let rows = arrays.first().map_or(0, |array| array.len());
            let hits = &hits[told..told + rows];
            told += rows;
            let (mut at, mut places): (Vec<u32>, Vec<usize>) = Default::default();
            for (row, hit) in (0..).zip(hits) {
                for before in self.before(*hit) {
                    at.push(row);
                    places.push(before);
                }
            }
            if !at.is_empty() {
                let arrays = take_arrays(&arrays, &UInt32Array::from(at), None);
                found(&places, arrays.map_err(comparing())?)?;
            }
            found(hits, arrays)
        })
    }

    /// All places of the keys with the last places `gone`, and of those that nobody
    /// has taken.
    pub fn missing(self, mut gone: Vec<usize>) -> Vec<usize> {
        gone.extend(self.places.values());
        let before: Vec<usize> = gone.iter().flat_map(|&place| self.before(place)).collect();
        gone.extend(before);
        gone
    }

    /// Earlier places of the same key.
    fn before(&self, place: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.again.get(&place).copied(), |place| {
            self.again.get(place).copied()
        })
    }
}

/// Compares values of these columns.
pub fn converter(columns: &[Column]) -> Result<RowConverter, Unfound> {
    let fields = columns.iter().map(|column| SortField::new(column.kind.clone())).collect();
    Ok(RowConverter::new(fields).map_err(WriterError::arrow("comparing keys"))?)
}

pub fn comparing() -> impl FnOnce(arrow::error::ArrowError) -> WriterError {
    WriterError::arrow("comparing keys")
}
