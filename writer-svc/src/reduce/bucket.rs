//! The changes of one bucket of keys, as far as they still count.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch};
use arrow::compute::{concat_batches, interleave, interleave_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::row::RowConverter;
use proto::columns::{unchanged, unchanged_bits};

use super::moves::{Departure, Moves, split};
use super::{Columns, Reduced, Scope};
use crate::error::WriterError;
use crate::naming::OP_TYPE;
use crate::row_metadata;

/// Bytes that a bucket may take before what is outdated is let go of.
pub(super) const COMPACT_BYTES: usize = 16 << 20;
/// The `_op_type` of a row that is new, and of one that is gone.
const CREATED: &str = "c";
pub(super) const DELETED: &str = "d";
/// Place of `_cdc_lsn`, which tells transactions apart.
const LSN: usize = 2;

/// A batch and a row of it.
pub(super) type Place = (usize, usize);

/// Filled and reduced, again and again.
pub(super) struct Bucket {
    columns: Columns,
    converter: RowConverter,
    batches: Vec<RecordBatch>,
    pub(super) bytes: usize,
    compact_at: usize,
    states: Vec<State>,
    /// The state of each key's last change.
    last: HashMap<Box<[u8]>, usize>,
    /// Of all buckets.
    moves: Moves,
}

/// What is known of a key; by transaction: of what one has made of it.
struct State {
    /// Its last change.
    last: Place,
    deleted: bool,
    /// There was no row of it before the first change.
    created: bool,
    /// Columns that the last change does not carry, and the one that does;
    /// `None`: none of this stream.
    lacking: Vec<(usize, Option<Place>)>,
    /// The move by which the row came under this key, with values that none of the
    /// stream carries.
    origin: Option<u64>,
}

impl State {
    /// The change that carries the column.
    fn place(&self, column: usize) -> Option<Place> {
        let lacking = self.lacking.iter().find(|(lacking, _)| *lacking == column);
        lacking.map_or(Some(self.last), |(_, place)| *place)
    }

    /// Columns whose values are not known.
    fn unknown(&self) -> impl Iterator<Item = usize> {
        self.lacking.iter().filter(|(_, place)| place.is_none()).map(|(column, _)| *column)
    }

    /// Whether a value is not known.
    fn lacks(&self) -> bool {
        self.unknown().next().is_some()
    }
}

impl Bucket {
    pub(super) fn new(columns: Columns, converter: RowConverter, budget_bytes: usize) -> Self {
        Bucket {
            columns,
            converter,
            batches: Vec::new(),
            bytes: 0,
            compact_at: COMPACT_BYTES,
            states: Vec::new(),
            last: HashMap::new(),
            moves: Moves::new(budget_bytes),
        }
    }

    pub(super) fn take(&mut self, batch: RecordBatch) -> Result<(), WriterError> {
        let keys = self
            .converter
            .convert_columns(&self.columns.key_of(&batch))
            .map_err(WriterError::arrow("reading the keys of changes"))?;
        let ops = batch.column(0).as_string_opt::<i32>();
        let ops = ops.ok_or_else(|| WriterError::BadData(format!("{OP_TYPE} is no text")))?;
        let unchanged = row_metadata::unchanged(&batch);
        // The new rows' transactions are compared with those of older ones.
        let number = self.batches.len();
        self.bytes += bytes_of(&batch);
        self.batches.push(batch.clone());
        for (row, key) in keys.iter().enumerate() {
            let (last, op) = ((number, row), ops.value(row));
            let (deleted, known) = (op == DELETED, self.last.get(key.as_ref()).copied());
            let said = unchanged.filter(|bits| bits.is_valid(row)).map(|bits| bits.value(row));
            let said = said.map(|said| split(&self.columns, said));
            let before = known.map(|known| &self.states[known]);
            let (lacking, origin) = match said {
                // It had another key before: what this one's row was says nothing.
                Some((bits, Some(number))) if !deleted => (self.taken_along(bits)?, Some(number)),
                Some((bits, _)) if !deleted || self.columns.scope == Scope::Kept => {
                    let origin = before.and_then(|state| state.origin);
                    (self.lacking(bits, known)?, origin)
                }
                _ => (Vec::new(), None),
            };
            if let Some((_, Some(number))) = said.filter(|_| deleted) {
                let departure = Departure {
                    key: key.as_ref().into(),
                    unknown: before.map(|state| state.unknown().collect()),
                    origin: before.and_then(|state| state.origin),
                };
                self.moves.depart(number, departure);
            }
            let same = known.filter(|&known| self.is_same_transaction(known, last));
            if let Some(state) = same.map(|known| &mut self.states[known]) {
                (state.last, state.deleted, state.lacking) = (last, deleted, lacking);
                state.origin = origin;
                continue;
            }
            let at = self.states.len();
            self.states.push(State { last, deleted, created: op == CREATED, lacking, origin });
            match known {
                Some(_) => {
                    if let Some(known) = self.last.get_mut(key.as_ref()) {
                        *known = at;
                    }
                }
                None => {
                    self.last.insert(key.as_ref().into(), at);
                }
            }
        }
        if self.bytes > self.compact_at {
            self.compact()?;
        }
        Ok(())
    }

    /// What a change lacks that its row had under another key.
    fn taken_along(&self, bits: &[u8]) -> Result<Vec<(usize, Option<Place>)>, WriterError> {
        unchanged(bits).map(|bit| Ok((self.column(bit)?, None))).collect()
    }

    /// The place of a source's column.
    fn column(&self, bit: usize) -> Result<usize, WriterError> {
        let column = bit + self.columns.reserved;
        if column >= self.columns.schema.fields().len() {
            return Err(WriterError::BadData("a change lacks a column that is none".into()));
        }
        Ok(column)
    }

    /// Where the columns are that a change lacks, of the key whose state is
    /// `known`.
    fn lacking(
        &self,
        bits: &[u8],
        known: Option<usize>,
    ) -> Result<Vec<(usize, Option<Place>)>, WriterError> {
        let before = known.map(|known| &self.states[known]);
        if self.columns.scope != Scope::Kept && before.is_some_and(|before| before.deleted) {
            return Err(WriterError::BadData("a row is changed after it is gone".into()));
        }
        let found = |bit: usize| {
            let column = self.column(bit)?;
            Ok((column, before.and_then(|state| state.place(column))))
        };
        unchanged(bits).map(found).collect()
    }

    /// Whether a change belongs to what a state stands for.
    fn is_same_transaction(&self, state: usize, change: Place) -> bool {
        let lsn = |(batch, row): Place| {
            self.batches[batch].column(LSN).as_string_opt::<i32>().map(|lsn| lsn.value(row))
        };
        self.columns.scope != Scope::Transaction || lsn(self.states[state].last) == lsn(change)
    }

    /// Lets go of all changes that no state needs.
    fn compact(&mut self) -> Result<(), WriterError> {
        let mut states: Vec<&mut State> = self.states.iter_mut().collect();
        states.sort_unstable_by_key(|state| state.last);
        let picked: Vec<&State> = states.iter().map(|state| &**state).collect();
        let batch = pick(&self.columns, &self.batches, &picked)?;
        for (row, state) in states.into_iter().enumerate() {
            state.last = (0, row);
            state.lacking.retain(|(_, place)| place.is_none());
        }
        self.bytes = bytes_of(&batch);
        self.compact_at = (2 * self.bytes).max(COMPACT_BYTES);
        self.batches = vec![batch];
        Ok(())
    }

    /// What the bucket comes to; it is empty then.
    pub(super) fn reduce(&mut self) -> Result<Reduced, WriterError> {
        let mut states = std::mem::take(&mut self.states);
        self.last.clear();
        // In the order of the changes, as the table is read.
        states.sort_unstable_by_key(|state| state.last);
        let batches = std::mem::take(&mut self.batches);
        (self.bytes, self.compact_at) = (0, COMPACT_BYTES);
        let scope = self.columns.scope;
        let removes = matches!(scope, Scope::Stream | Scope::Replacing);
        let live = states.iter().filter(|state| !removes || !state.deleted);
        let (whole, lacking): (Vec<_>, Vec<_>) = live.partition(|state| !state.lacks());
        let (moved, lacking): (Vec<_>, Vec<_>) =
            lacking.into_iter().partition(|state| state.origin.is_some());
        let mut rows = pick(&self.columns, &batches, &whole)?;
        let lacking = pick(&self.columns, &batches, &lacking)?;
        if !moved.is_empty() {
            let came = moved.iter().filter_map(|state| state.origin).collect();
            if let Some(too_many) = self.moves.wait(pick(&self.columns, &batches, &moved)?, came) {
                rows = concat_batches(&self.columns.schema, [&rows, &too_many])
                    .map_err(WriterError::arrow("putting changes together"))?;
            }
        }
        let keys: Vec<_> = batches
            .iter()
            .map(|batch| batch.project(&self.columns.key))
            .collect::<Result<_, _>>()
            .map_err(WriterError::arrow("taking the keys of changes"))?;
        let gone = states.iter().filter(|state| match scope {
            Scope::Stream => !state.created,
            Scope::Replacing | Scope::Kept => true,
            Scope::Transaction => false,
        });
        let gone: Vec<_> = gone.map(|state| state.last).collect();
        let keys = interleaved(&self.columns.keys, &keys, &gone)?;
        Ok(Reduced { rows, lacking, from: None, keys })
    }

    /// After all buckets: rows that got another key.
    pub(super) fn moved(&mut self) -> Result<Option<Reduced>, WriterError> {
        self.moves.next(&self.columns, &self.converter)
    }
}

/// The rows that states stand for.
fn pick(
    columns: &Columns,
    batches: &[RecordBatch],
    states: &[&State],
) -> Result<RecordBatch, WriterError> {
    let last: Vec<_> = states.iter().map(|state| state.last).collect();
    let picked = interleaved(&columns.schema, batches, &last)?;
    let lacking: BTreeSet<_> =
        states.iter().flat_map(|state| &state.lacking).map(|(column, _)| *column).collect();
    if columns.reserved == row_metadata::UNCHANGED || states.is_empty() {
        return Ok(picked);
    }
    let mut arrays = picked.columns().to_vec();
    for column in lacking {
        // Null in the last change as well where nobody knows.
        let places: Vec<_> =
            states.iter().map(|state| state.place(column).unwrap_or(state.last)).collect();
        let parts: Vec<&dyn Array> =
            batches.iter().map(|batch| batch.column(column).as_ref()).collect();
        arrays[column] = interleave(&parts, &places)
            .map_err(WriterError::arrow("taking values of earlier changes"))?;
    }
    let unknown = states.iter().map(|state| {
        let bits = unchanged_bits(state.unknown().map(|column| column - columns.reserved));
        (!bits.is_empty()).then_some(bits)
    });
    arrays[row_metadata::UNCHANGED] = Arc::new(unknown.collect::<BinaryArray>());
    RecordBatch::try_new(Arc::clone(&columns.schema), arrays)
        .map_err(WriterError::arrow("putting changes together"))
}

pub(super) fn interleaved(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    places: &[Place],
) -> Result<RecordBatch, WriterError> {
    if places.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    }
    let batches: Vec<_> = batches.iter().collect();
    interleave_record_batch(&batches, places).map_err(WriterError::arrow("reducing changes"))
}

pub(super) fn bytes_of(batch: &RecordBatch) -> usize {
    let slice = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default();
    batch.columns().iter().map(slice).sum()
}
