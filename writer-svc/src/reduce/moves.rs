//! Rows that got another key beside values that were left as they were: under
//! which key the table has those.
//!
//! ```text
//! d 1 (moves on)  u 2 (came)   d 2 (moves on)  u 3 (came)
//!    └── departure 0 ──┘          └── departure 1 ──┘   3's values: the table's of 1
//! ```
//!
//! The two changes of a move fall into different buckets. So each move gets a
//! number that both of its rows carry, behind the bits of
//! [`proto::columns::UNCHANGED`]; of each departure it is kept which values were
//! not known of the row then, and where it had come from itself. When all buckets
//! are done, that leads from a row to the key that it had in the table, unless
//! the stream itself has changed what it lacks in between: then it stays unknown.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::row::RowConverter;
use proto::columns::unchanged;

use super::bucket::bytes_of;
use super::{Columns, Reduced};
use crate::error::WriterError;
use crate::row_metadata;

/// Bytes of a departure besides its key.
const DEPARTURE_BYTES: usize = 128;

/// Numbers moves as they come.
#[derive(Default)]
pub(super) struct Numbers {
    next: u64,
}

impl Numbers {
    /// The batch with the numbers of its moves; `None`: it has none.
    pub(super) fn put(
        &mut self,
        columns: &Columns,
        sent: &RecordBatch,
    ) -> Result<Option<RecordBatch>, WriterError> {
        let Some(bits) = row_metadata::unchanged(sent) else { return Ok(None) };
        let flag = columns.schema.fields().len() - columns.reserved;
        let is_move = |bits: &[u8]| bits.get(flag / 8).is_some_and(|b| b >> (flag % 8) & 1 == 1);
        if !bits.iter().flatten().any(is_move) {
            return Ok(None);
        }
        let ops = sent.column(0).as_string::<i32>();
        let mut numbered: Vec<Option<Vec<u8>>> = Vec::with_capacity(bits.len());
        for (row, bits) in bits.iter().enumerate() {
            let Some(bits) = bits else {
                numbered.push(None);
                continue;
            };
            let mut said = bits.to_vec();
            if is_move(bits) {
                let departs = ops.value(row) == super::bucket::DELETED;
                let number = match (departs, self.next) {
                    (true, next) => next,
                    (false, 0) => {
                        let what = "a row has got another key than none".to_owned();
                        return Err(WriterError::BadData(what));
                    }
                    (false, next) => next - 1,
                };
                self.next += u64::from(departs);
                said[flag / 8] &= !(1 << (flag % 8));
                said.resize(width(columns), 0);
                said.extend(number.to_be_bytes());
            }
            numbered.push(Some(said));
        }
        let mut arrays = sent.columns().to_vec();
        arrays[row_metadata::UNCHANGED] = Arc::new(numbered.into_iter().collect::<BinaryArray>());
        let batch = RecordBatch::try_new(sent.schema(), arrays);
        Ok(Some(batch.map_err(WriterError::arrow("numbering changes"))?))
    }
}

/// Bytes that the bits of all columns take.
fn width(columns: &Columns) -> usize {
    (columns.schema.fields().len() - columns.reserved) / 8 + 1
}

/// The bits of a change, and the number of its move.
pub(super) fn split<'a>(columns: &Columns, said: &'a [u8]) -> (&'a [u8], Option<u64>) {
    match said.split_at_checked(width(columns)) {
        Some((bits, number)) => (bits, number.try_into().ok().map(u64::from_be_bytes)),
        None => (said, None),
    }
}

/// A row's leaving a key.
pub(super) struct Departure {
    /// The key.
    pub(super) key: Box<[u8]>,
    /// Columns that the stream did not know of the row; `None`: any.
    pub(super) unknown: Option<Vec<usize>>,
    /// The move by which it had come there; `None`: the table has it.
    pub(super) origin: Option<u64>,
}

/// What is known of the moves of a stream, in bounded memory: what goes beyond
/// stays unknown.
pub(super) struct Moves {
    departures: HashMap<u64, Departure>,
    /// Rows that wait for all departures, and the move that brought each.
    waiting: Vec<(RecordBatch, Vec<u64>)>,
    bytes: usize,
    budget: usize,
}

impl Moves {
    pub(super) fn new(budget: usize) -> Self {
        Moves { departures: HashMap::new(), waiting: Vec::new(), bytes: 0, budget }
    }

    pub(super) fn depart(&mut self, number: u64, departure: Departure) {
        self.bytes += departure.key.len() + DEPARTURE_BYTES;
        if self.bytes <= self.budget {
            self.departures.insert(number, departure);
        }
    }

    /// Takes rows that lack values; hands them back if there are too many.
    pub(super) fn wait(&mut self, rows: RecordBatch, came: Vec<u64>) -> Option<RecordBatch> {
        self.bytes += bytes_of(&rows);
        if self.bytes > self.budget {
            return Some(rows);
        }
        self.waiting.push((rows, came));
        None
    }

    /// The key under which the table has the values that a row lacks.
    fn origin(&self, came: u64, lacking: &[usize]) -> Option<&[u8]> {
        let mut departure = self.departures.get(&came)?;
        loop {
            let known = departure.unknown.as_ref();
            if known.is_some_and(|unknown| !lacking.iter().all(|column| unknown.contains(column))) {
                return None;
            }
            match departure.origin {
                // Each number is less than the one before.
                Some(earlier) => departure = self.departures.get(&earlier)?,
                None => return Some(&departure.key),
            }
        }
    }

    /// What the rows that have waited come to, part after part.
    pub(super) fn next(
        &mut self,
        columns: &Columns,
        converter: &RowConverter,
    ) -> Result<Option<Reduced>, WriterError> {
        let Some((rows, came)) = self.waiting.pop() else { return Ok(None) };
        let bits = row_metadata::unchanged(&rows);
        let parser = converter.parser();
        let (mut found, mut from, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for (row, came) in came.into_iter().enumerate() {
            let bits = bits.filter(|bits| bits.is_valid(row)).map(|bits| bits.value(row));
            let lacking = unchanged(bits.unwrap_or_default()).map(|bit| bit + columns.reserved);
            match self.origin(came, &lacking.collect::<Vec<_>>()) {
                Some(key) => {
                    found.push(row as u32);
                    from.push(parser.parse(key));
                }
                None => unknown.push(row as u32),
            }
        }
        let take = |at: Vec<u32>| {
            take_record_batch(&rows, &UInt32Array::from(at))
                .map_err(WriterError::arrow("taking changes of keys"))
        };
        let from = converter
            .convert_rows(from)
            .and_then(|arrays| RecordBatch::try_new(Arc::clone(&columns.keys), arrays))
            .map_err(WriterError::arrow("taking keys of before"))?;
        Ok(Some(Reduced {
            rows: take(unknown)?,
            lacking: take(found)?,
            from: Some(from),
            keys: RecordBatch::new_empty(Arc::clone(&columns.keys)),
        }))
    }
}
