//! What a stream of changes comes to.
//!
//! | scope | rows | keys whose rows of before have to go |
//! |---|---|---|
//! | [`Scope::Stream`]: rows can be deleted | each key's last, unless that says that it is gone | those that were there before |
//! | [`Scope::Replacing`]: and may come anew | the same | all: of one that comes a row may be there |
//! | [`Scope::Kept`]: and stay as deleted ones | each key's last | all: a deleted one may be there |
//! | [`Scope::Transaction`]: elsewhere | of each key each transaction's last, so that a reader who takes the newest by `_cdc_lsn` never has to choose between two | none |
//!
//! ```text
//! push: changes ─► by a hash of their key ─► sorter (memory, then disk)
//! finish: one bucket after the other: key ─► first and last change ─┬─► rows
//!                                                                   ├─► rows that lack values
//!                                                                   └─► keys
//! ```
//!
//! A change need not carry all of its row ([`proto::columns::UNCHANGED`]). What
//! it lacks is what the change of the same key before it has, however far back;
//! what none of the stream has stays unknown, and the row says so in the same
//! column. A row that got another key has what it lacks under the one before
//! ([`moves`]).
//!
//! Rows without a key are told apart by all of their columns, and counted
//! ([`multiset`]).
//!
//! A key's rows of before have to go unless its first change created it: then
//! there were none. Keys are compared as values, all columns of them.
//!
//! Memory: the sorter's budget while pushing; a bucket, a [`BUCKETS`]th of all
//! changes, while finishing. A key that changes again and again does not add
//! to its bucket: what it was before is let go of.

mod bucket;
mod moves;
mod multiset;

use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};

use crate::error::WriterError;
use crate::naming::OP_TYPE;
use crate::row_metadata;
use crate::spill::PartitionSorter;
use bucket::Bucket;
use moves::Numbers;
use multiset::Multiset;

/// Parts that the changes are cut into by their keys.
const BUCKETS: usize = 256;

/// What counts as the same key, and what becomes of one that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The key alone; nothing.
    Stream,
    /// The key alone; nothing. One that comes may be there.
    Replacing,
    /// The key alone; its last row says that it is gone.
    Kept,
    /// The key and the transaction that has changed it; a row of its own.
    Transaction,
}

/// Takes the changes of one stream.
pub struct Reducer {
    columns: Columns,
    converter: RowConverter,
    sorter: PartitionSorter,
    numbers: Numbers,
    budget_bytes: usize,
    unknown_keys: u64,
}

/// What a part of the keys comes to.
#[derive(Debug)]
pub struct Reduced {
    /// With all columns sent.
    pub rows: RecordBatch,
    /// The same of those that lack values; without a key: whole rows that are gone,
    /// each as often as it is.
    pub lacking: RecordBatch,
    /// The keys under which the table has what those lack; `None`: their own.
    pub from: Option<RecordBatch>,
    /// The columns of those to delete, each once.
    pub keys: RecordBatch,
}

/// What is where in the batches.
#[derive(Clone, Debug)]
struct Columns {
    scope: Scope,
    schema: SchemaRef,
    /// Columns before those of the source.
    reserved: usize,
    /// Rows have a key.
    keyed: bool,
    /// Places of the key's columns, and their schema.
    key: Vec<usize>,
    keys: SchemaRef,
}

impl Reducer {
    /// `sent` has `_op_type` as its first column; `key` names source columns; none:
    /// rows are told apart by all of them. Spills to `dir` beyond `budget_bytes`.
    pub fn new(
        scope: Scope,
        sent: SchemaRef,
        key: &[String],
        dir: &Path,
        budget_bytes: usize,
    ) -> Result<Self, WriterError> {
        let invalid = |problem: String| WriterError::InvalidRequest(problem);
        if sent.fields().first().is_none_or(|field| field.name() != OP_TYPE) {
            return Err(invalid(format!("changes begin with {OP_TYPE}")));
        }
        let reserved = row_metadata::reserved(&sent);
        let place = |name: &String| {
            let found = sent.fields().iter().skip(reserved).position(|field| field.name() == name);
            found
                .map(|at| at + reserved)
                .ok_or_else(|| invalid(format!("the key column {name:?} is not among those sent")))
        };
        let keyed = !key.is_empty();
        if !keyed && (scope == Scope::Transaction || reserved > row_metadata::UNCHANGED) {
            return Err(invalid("changes cannot be told apart without a key".into()));
        }
        let key = match keyed {
            true => key.iter().map(place).collect::<Result<Vec<_>, _>>()?,
            false => (reserved..sent.fields().len()).collect(),
        };
        let fields = key.iter().map(|&at| Arc::clone(&sent.fields()[at])).collect::<Vec<_>>();
        let keys = Arc::new(Schema::new_with_metadata(fields, sent.metadata().clone()));
        let converter = converter(&keys)?;
        let sorter = PartitionSorter::new(dir, Arc::clone(&sent), budget_bytes);
        let columns = Columns { scope, schema: sent, reserved, keyed, key, keys };
        Ok(Reducer {
            columns,
            converter,
            sorter,
            numbers: Numbers::default(),
            budget_bytes,
            unknown_keys: 0,
        })
    }

    /// The schema of [`Reduced::keys`].
    pub fn keys(&self) -> SchemaRef {
        Arc::clone(&self.columns.keys)
    }

    /// Takes a batch, which comes after all before.
    pub fn push(&mut self, sent: &RecordBatch) -> Result<(), WriterError> {
        let numbered = self.numbers.put(&self.columns, sent)?;
        let sent = numbered.as_ref().unwrap_or(sent);
        let (known, of) = (self.columns.with_keys(sent)?, sent.num_rows() as u64);
        let sent = known.as_ref().unwrap_or(sent);
        self.unknown_keys += known.as_ref().map_or(0, |known| of - known.num_rows() as u64);
        let keys = self
            .converter
            .convert_columns(&self.columns.key_of(sent))
            .map_err(WriterError::arrow("reading the keys of changes"))?;
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); BUCKETS];
        for (row, key) in keys.iter().enumerate() {
            let mut hasher = DefaultHasher::new();
            hasher.write(key.as_ref());
            // A batch has fewer than 2^32 rows.
            rows[hasher.finish() as usize % BUCKETS].push(row as u32);
        }
        let groups: Vec<_> = rows
            .into_iter()
            .enumerate()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(bucket, rows)| (format!("{bucket:02x}"), UInt32Array::from(rows)))
            .collect();
        self.sorter.push(sent, &groups)
    }

    /// Changes whose key is not known, which have been passed by: a value of it is
    /// such as no destination type can hold. A key has no nulls.
    pub fn unknown_keys(&self) -> u64 {
        self.unknown_keys
    }

    /// What all changes come to, part after part.
    pub fn finish(self) -> Result<impl Iterator<Item = Result<Reduced, WriterError>>, WriterError> {
        let Reducer { columns, converter, sorter, budget_bytes, .. } = self;
        let mut slices = sorter.finish()?.peekable();
        let mut bucket = Comes::new(columns, converter, budget_bytes);
        Ok(std::iter::from_fn(move || {
            let name = match slices.peek() {
                Some(Ok((name, _))) => name.clone(),
                Some(Err(_)) => return slices.next().and_then(Result::err).map(Err),
                None => return bucket.moved().transpose(),
            };
            while let Some(slice) =
                slices.next_if(|slice| slice.as_ref().is_ok_and(|(next, _)| *next == name))
            {
                let taken = slice.and_then(|(_, batch)| bucket.take(batch));
                if let Err(error) = taken {
                    return Some(Err(error));
                }
            }
            Some(bucket.reduce())
        }))
    }
}

/// A bucket of either kind.
enum Comes {
    ByKey(Bucket),
    Counted(Multiset),
}

impl Comes {
    fn new(columns: Columns, converter: RowConverter, budget_bytes: usize) -> Self {
        match columns.keyed {
            true => Comes::ByKey(Bucket::new(columns, converter, budget_bytes)),
            false => Comes::Counted(Multiset::new(columns, converter)),
        }
    }

    fn take(&mut self, batch: RecordBatch) -> Result<(), WriterError> {
        match self {
            Comes::ByKey(bucket) => bucket.take(batch),
            Comes::Counted(multiset) => multiset.take(batch),
        }
    }

    fn reduce(&mut self) -> Result<Reduced, WriterError> {
        match self {
            Comes::ByKey(bucket) => bucket.reduce(),
            Comes::Counted(multiset) => multiset.reduce(),
        }
    }

    /// After all buckets: rows that got another key.
    fn moved(&mut self) -> Result<Option<Reduced>, WriterError> {
        match self {
            Comes::ByKey(bucket) => bucket.moved(),
            Comes::Counted(_) => Ok(None),
        }
    }
}

impl Columns {
    /// The rows whose keys are known, if there are others.
    fn with_keys(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>, WriterError> {
        if !self.keyed || self.key.iter().all(|&at| batch.column(at).null_count() == 0) {
            return Ok(None);
        }
        let is_known = |row: &usize| self.key.iter().all(|&at| batch.column(at).is_valid(*row));
        let known = (0..batch.num_rows()).filter(is_known).map(|row| row as u32);
        take_record_batch(batch, &known.collect::<UInt32Array>())
            .map(Some)
            .map_err(WriterError::arrow("taking changes of known keys"))
    }

    fn key_of(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.key.iter().map(|&at| Arc::clone(batch.column(at))).collect()
    }
}

fn converter(keys: &Schema) -> Result<RowConverter, WriterError> {
    let fields = keys.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    RowConverter::new(fields.collect()).map_err(WriterError::arrow("comparing the keys of changes"))
}

#[cfg(test)]
mod tests;
