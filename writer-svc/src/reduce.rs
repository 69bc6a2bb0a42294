//! What a stream of changes comes to.
//!
//! - Where rows can be deleted ([`Scope::Stream`]): for each key its last row,
//!   unless that says that the row is gone; and the keys whose rows of before
//!   have to go.
//! - Elsewhere ([`Scope::Transaction`]): for each key and transaction its last
//!   change, so that a reader who takes a key's newest one by `_cdc_lsn` never
//!   has to choose between two.
//!
//! ```text
//! push: changes ─► by a hash of their key ─► sorter (memory, then disk)
//! finish: one bucket after the other: key ─► first and last change ─┬─► rows
//!                                                                   └─► keys
//! ```
//!
//! A key's rows of before have to go unless its first change created it: then
//! there were none. Keys are compared as values, all columns of them.
//!
//! Memory: the sorter's budget while pushing; a bucket, a [`BUCKETS`]th of all
//! changes, while finishing. A key that changes again and again does not add
//! to its bucket: what it was before is let go of.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};

use crate::error::WriterError;
use crate::naming::OP_TYPE;
use crate::spill::PartitionSorter;

/// Parts that the changes are cut into by their keys.
const BUCKETS: usize = 256;
/// Bytes that a bucket may take before what is outdated is let go of.
const COMPACT_BYTES: usize = 16 << 20;
/// The `_op_type` of a row that is new, and of one that is gone.
const CREATED: &str = "c";
const DELETED: &str = "d";

/// Place of `_cdc_lsn`, which tells transactions apart.
const LSN: usize = 2;

/// What counts as the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The key alone.
    Stream,
    /// The key and the transaction that has changed it.
    Transaction,
}

/// Takes the changes of one stream.
pub struct Reducer {
    scope: Scope,
    schema: SchemaRef,
    /// Places of the key's columns.
    key: Vec<usize>,
    /// Places of the columns that have to be equal.
    compared: Vec<usize>,
    converter: RowConverter,
    sorter: PartitionSorter,
}

/// What a part of the keys comes to.
#[derive(Debug)]
pub struct Reduced {
    /// The last rows of those that live, with all columns sent; by transaction:
    /// of those that are gone, too.
    pub rows: RecordBatch,
    /// The columns of those to delete, each once.
    pub keys: RecordBatch,
}

impl Reducer {
    /// `sent` has `_op_type` as its first column; `key` names source columns,
    /// at least one. Spills to `dir` beyond `budget_bytes`.
    pub fn new(
        scope: Scope,
        sent: SchemaRef,
        key: &[String],
        dir: &Path,
        budget_bytes: usize,
    ) -> Result<Self, WriterError> {
        let invalid = |problem: String| WriterError::InvalidRequest(problem);
        if key.is_empty() {
            return Err(invalid("changes cannot be told apart without a key".into()));
        }
        if sent.fields().first().is_none_or(|field| field.name() != OP_TYPE) {
            return Err(invalid(format!("changes begin with {OP_TYPE}")));
        }
        // After the three columns that are none of the source's.
        let place = |name: &String| {
            let found = sent.fields().iter().skip(3).position(|field| field.name() == name);
            found
                .map(|at| at + 3)
                .ok_or_else(|| invalid(format!("the key column {name:?} is not among those sent")))
        };
        let key = key.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let mut compared = key.clone();
        if scope == Scope::Transaction {
            compared.push(LSN);
        }
        let converter = converter(&sent, &compared)?;
        let sorter = PartitionSorter::new(dir, Arc::clone(&sent), budget_bytes);
        Ok(Reducer { scope, schema: sent, key, compared, converter, sorter })
    }

    /// The schema of [`Reduced::keys`].
    pub fn keys(&self) -> SchemaRef {
        let fields = self.key.iter().map(|&at| Arc::clone(&self.schema.fields()[at]));
        let metadata = self.schema.metadata().clone();
        Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), metadata))
    }

    /// Takes a batch, which comes after all before.
    pub fn push(&mut self, sent: &RecordBatch) -> Result<(), WriterError> {
        let keys = self
            .converter
            .convert_columns(&columns(sent, &self.compared))
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

    /// What all changes come to, part after part.
    pub fn finish(self) -> Result<impl Iterator<Item = Result<Reduced, WriterError>>, WriterError> {
        let keys = self.keys();
        let Reducer { scope, schema, key, compared, converter, sorter } = self;
        let mut slices = sorter.finish()?.peekable();
        let mut bucket = Bucket::new(scope, schema, keys, key, compared, converter);
        Ok(std::iter::from_fn(move || {
            let name = match slices.peek()? {
                Ok((name, _)) => name.clone(),
                Err(_) => return slices.next().and_then(Result::err).map(Err),
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

fn converter(schema: &SchemaRef, key: &[usize]) -> Result<RowConverter, WriterError> {
    let fields = key.iter().map(|&at| SortField::new(schema.field(at).data_type().clone()));
    RowConverter::new(fields.collect()).map_err(WriterError::arrow("comparing the keys of changes"))
}

fn columns(batch: &RecordBatch, places: &[usize]) -> Vec<ArrayRef> {
    places.iter().map(|&at| Arc::clone(batch.column(at))).collect()
}

/// The changes of one bucket, as far as they still count.
struct Bucket {
    scope: Scope,
    schema: SchemaRef,
    keys: SchemaRef,
    key: Vec<usize>,
    compared: Vec<usize>,
    converter: RowConverter,
    batches: Vec<RecordBatch>,
    bytes: usize,
    compact_at: usize,
    state: HashMap<Box<[u8]>, State>,
}

/// What is known of a key.
struct State {
    /// Its last change: batch and row.
    last: (usize, usize),
    deleted: bool,
    /// There was no row of it before the first change.
    created: bool,
}

impl Bucket {
    fn new(
        scope: Scope,
        schema: SchemaRef,
        keys: SchemaRef,
        key: Vec<usize>,
        compared: Vec<usize>,
        converter: RowConverter,
    ) -> Self {
        Bucket {
            scope,
            schema,
            keys,
            key,
            compared,
            converter,
            batches: Vec::new(),
            bytes: 0,
            compact_at: COMPACT_BYTES,
            state: HashMap::new(),
        }
    }

    fn take(&mut self, batch: RecordBatch) -> Result<(), WriterError> {
        let keys = self
            .converter
            .convert_columns(&columns(&batch, &self.compared))
            .map_err(WriterError::arrow("reading the keys of changes"))?;
        let ops = batch.column(0).as_string_opt::<i32>();
        let ops = ops.ok_or_else(|| WriterError::BadData(format!("{OP_TYPE} is no text")))?;
        for (row, key) in keys.iter().enumerate() {
            let (last, op) = ((self.batches.len(), row), ops.value(row));
            let deleted = op == DELETED;
            match self.state.get_mut(key.as_ref()) {
                Some(state) => (state.last, state.deleted) = (last, deleted),
                None => {
                    let state = State { last, deleted, created: op == CREATED };
                    self.state.insert(key.as_ref().into(), state);
                }
            }
        }
        self.bytes += bytes_of(&batch);
        self.batches.push(batch);
        if self.bytes > self.compact_at {
            self.compact()?;
        }
        Ok(())
    }

    /// Lets go of all but each key's last change.
    fn compact(&mut self) -> Result<(), WriterError> {
        let mut states: Vec<_> = self.state.values_mut().collect();
        states.sort_unstable_by_key(|state| state.last);
        let last: Vec<_> = states.iter().map(|state| state.last).collect();
        let batch = pick(&self.schema, &self.batches, &last)?;
        for (row, state) in states.into_iter().enumerate() {
            state.last = (0, row);
        }
        self.bytes = bytes_of(&batch);
        self.compact_at = (2 * self.bytes).max(COMPACT_BYTES);
        self.batches = vec![batch];
        Ok(())
    }

    /// What the bucket comes to; it is empty then.
    fn reduce(&mut self) -> Result<Reduced, WriterError> {
        let mut states: Vec<_> = std::mem::take(&mut self.state).into_values().collect();
        // In the order of the changes, as the table is read.
        states.sort_unstable_by_key(|state| state.last);
        let batches = std::mem::take(&mut self.batches);
        (self.bytes, self.compact_at) = (0, COMPACT_BYTES);
        let places = |of: &dyn Fn(&State) -> bool| {
            states.iter().filter(|state| of(state)).map(|state| state.last).collect::<Vec<_>>()
        };
        let all = self.scope == Scope::Transaction;
        let rows = pick(&self.schema, &batches, &places(&|state| all || !state.deleted))?;
        let keys: Vec<_> = batches
            .iter()
            .map(|batch| batch.project(&self.key))
            .collect::<Result<_, _>>()
            .map_err(WriterError::arrow("taking the keys of changes"))?;
        let keys = pick(&self.keys, &keys, &places(&|state| !state.created))?;
        Ok(Reduced { rows, keys })
    }
}

fn pick(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    places: &[(usize, usize)],
) -> Result<RecordBatch, WriterError> {
    if places.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    }
    let batches: Vec<_> = batches.iter().collect();
    interleave_record_batch(&batches, places).map_err(WriterError::arrow("reducing changes"))
}

fn bytes_of(batch: &RecordBatch) -> usize {
    let slice = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default();
    batch.columns().iter().map(slice).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field, Int64Type};

    use super::*;
    use crate::layout::utc_microseconds;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new(OP_TYPE, DataType::Utf8, false),
            Field::new("_cdc_timestamp", utc_microseconds(), true),
            Field::new("_cdc_lsn", DataType::Utf8, true),
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8, true),
            Field::new("v", DataType::Int64, true),
        ]))
    }

    type Change = (&'static str, i64, &'static str, i64);

    fn batch(changes: &[Change]) -> RecordBatch {
        let ops: StringArray = changes.iter().map(|change| Some(change.0)).collect();
        let times = TimestampMicrosecondArray::from_value(7, changes.len()).with_timezone("UTC");
        let lsns = StringArray::new_repeated("0/1", changes.len());
        let a: Int64Array = changes.iter().map(|change| Some(change.1)).collect();
        let b: StringArray = changes.iter().map(|change| Some(change.2)).collect();
        let v: Int64Array = changes.iter().map(|change| Some(change.3)).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(ops),
            Arc::new(times),
            Arc::new(lsns),
            Arc::new(a),
            Arc::new(b),
            Arc::new(v),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    }

    type Keys = Vec<(i64, String)>;

    /// Key → value of what lives, and the keys to delete.
    fn reduce(batches: &[RecordBatch], budget: usize) -> (BTreeMap<(i64, String), i64>, Keys) {
        let dir = tempfile::tempdir().unwrap();
        let key = ["b".to_owned(), "a".to_owned()];
        let mut reducer = Reducer::new(Scope::Stream, schema(), &key, dir.path(), budget).unwrap();
        batches.iter().for_each(|batch| reducer.push(batch).unwrap());
        let (mut rows, mut keys) = (BTreeMap::new(), Vec::new());
        for reduced in reducer.finish().unwrap() {
            let Reduced { rows: live, keys: gone } = reduced.unwrap();
            let (a, v) = (live.column(3).as_primitive::<Int64Type>(), live.column(5));
            for row in 0..live.num_rows() {
                let b = live.column(4).as_string::<i32>().value(row).to_owned();
                let value = v.as_primitive::<Int64Type>().value(row);
                let before = rows.insert((a.value(row), b), value);
                assert_eq!(before, None, "a key has one row");
            }
            for row in 0..gone.num_rows() {
                let b = gone.column(0).as_string::<i32>().value(row).to_owned();
                keys.push((gone.column(1).as_primitive::<Int64Type>().value(row), b));
            }
        }
        keys.sort();
        (rows, keys)
    }

    #[test]
    fn each_key_comes_to_its_last_change() {
        let (rows, keys) = reduce(
            &[
                batch(&[("c", 1, "x", 1), ("u", 2, "x", 2), ("d", 3, "x", 0), ("c", 1, "y", 4)]),
                batch(&[("u", 1, "x", 5), ("d", 1, "y", 0), ("c", 3, "x", 6), ("d", 4, "x", 0)]),
            ],
            1 << 20,
        );
        let key = |a: i64, b: &str| (a, b.to_owned());
        assert_eq!(rows, [(key(1, "x"), 5), (key(2, "x"), 2), (key(3, "x"), 6)].into());
        // (1, y) was created and deleted: nobody has ever seen it.
        assert_eq!(keys, [key(2, "x"), key(3, "x"), key(4, "x")]);
    }

    #[test]
    fn keys_are_told_apart_as_values() {
        // Both have the same text when their values are put together.
        let (rows, _) = reduce(&[batch(&[("c", 1, "2", 1), ("c", 12, "", 2)])], 1 << 20);
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn what_does_not_fit_into_memory_comes_to_the_same() {
        let mut random = 7_u64;
        let mut next = |below: u64| {
            // Knuth's MMIX constants.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut table: BTreeMap<(i64, String), i64> = BTreeMap::new();
        let (mut seen, mut old) = (BTreeMap::new(), Vec::new());
        for key in 0..300 {
            table.insert((key, "k".to_owned()), -1);
            old.push(key);
        }
        let mut batches = Vec::new();
        for value in 0..200 {
            let mut changes = Vec::new();
            for _ in 0..100 {
                let key = next(900) as i64;
                let known = table.contains_key(&(key, "k".to_owned()));
                let op = match (known, next(10) < 3) {
                    (false, _) => "c",
                    (true, true) => "d",
                    (true, false) => "u",
                };
                seen.entry(key).or_insert(op);
                match op {
                    "d" => table.remove(&(key, "k".to_owned())),
                    _ => table.insert((key, "k".to_owned()), value),
                };
                changes.push((op, key, "k", value));
            }
            batches.push(batch(&changes));
        }
        table.retain(|(key, _), _| seen.contains_key(key));
        let gone: Keys = seen
            .iter()
            .filter(|(_, first)| **first != "c")
            .map(|(key, _)| (*key, "k".to_owned()))
            .collect();
        for budget in [1, 64 << 10, 64 << 20] {
            assert_eq!(reduce(&batches, budget), (table.clone(), gone.clone()), "{budget}");
        }
    }

    #[test]
    fn a_key_that_changes_all_the_time_takes_no_memory() {
        let converter = converter(&schema(), &[3, 4]).unwrap();
        let keys = Arc::new(schema().project(&[3, 4]).unwrap());
        let key = vec![3, 4];
        let mut bucket = Bucket::new(Scope::Stream, schema(), keys, key.clone(), key, converter);
        let changes = vec![("u", 1, "hot", 1); 10_000];
        let batch = batch(&changes);
        for _ in 0..200 {
            bucket.take(batch.clone()).unwrap();
            assert!(bucket.bytes <= COMPACT_BYTES, "{}", bucket.bytes);
        }
        assert_eq!(bucket.reduce().unwrap().rows.num_rows(), 1);
    }

    #[test]
    fn by_transaction_each_keeps_what_it_has_made_of_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let mut reducer =
            Reducer::new(Scope::Transaction, schema(), &["a".to_owned()], dir.path(), 1 << 20)
                .unwrap();
        let first = batch(&[("c", 1, "x", 1), ("u", 1, "x", 2), ("c", 2, "x", 1)]);
        let mut columns = batch(&[("u", 1, "x", 3), ("d", 1, "x", 0)]).columns().to_vec();
        columns[LSN] = Arc::new(StringArray::new_repeated("0/2", 2));
        let second = RecordBatch::try_new(schema(), columns).unwrap();
        reducer.push(&first).unwrap();
        reducer.push(&second).unwrap();
        let mut kept = Vec::new();
        for reduced in reducer.finish().unwrap() {
            let rows = reduced.unwrap().rows;
            let text = |column: usize, row| rows.column(column).as_string::<i32>().value(row);
            let key = rows.column(3).as_primitive::<Int64Type>();
            kept.extend(
                (0..rows.num_rows())
                    .map(|row| format!("{} {} {}", key.value(row), text(LSN, row), text(0, row))),
            );
        }
        kept.sort();
        assert_eq!(kept, ["1 0/1 u", "1 0/2 d", "2 0/1 c"]);
    }

    #[test]
    fn changes_without_a_key_or_an_operation_are_refused() {
        let refused = |sent: SchemaRef, key: &[String]| {
            Reducer::new(Scope::Stream, sent, key, Path::new("/nowhere"), 1).is_err()
        };
        assert!(refused(schema(), &[]));
        assert!(refused(schema(), &["gone".into()]));
        // A column of the source is meant, whatever it is called.
        assert!(refused(schema(), &["_cdc_lsn".into()]));
        let plain = Arc::new(schema().project(&[3, 4]).unwrap());
        assert!(refused(plain, &["a".into()]));
    }
}
