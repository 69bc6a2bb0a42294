//! The changes of one bucket of rows that have no key: how many of each whole row
//! are more, or fewer.
//!
//! Every change carries all of its row. Of a row that came as often as it went
//! nothing is left to do, whichever of its equals it was.

use std::collections::HashMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::row::RowConverter;

use super::bucket::{COMPACT_BYTES, DELETED, Place, bytes_of, interleaved};
use super::{Columns, Reduced, Scope};
use crate::error::WriterError;
use crate::naming::OP_TYPE;

/// Filled and reduced, again and again.
pub(super) struct Multiset {
    columns: Columns,
    converter: RowConverter,
    batches: Vec<RecordBatch>,
    bytes: usize,
    compact_at: usize,
    rows: HashMap<Box<[u8]>, Count>,
}

/// What has become of a row.
#[derive(Default)]
struct Count {
    /// How many there are more, and the last change that made one.
    more: i64,
    came: Option<Place>,
    /// The last change by which one has gone.
    went: Option<Place>,
}

impl Multiset {
    pub(super) fn new(columns: Columns, converter: RowConverter) -> Self {
        Multiset {
            columns,
            converter,
            batches: Vec::new(),
            bytes: 0,
            compact_at: COMPACT_BYTES,
            rows: HashMap::new(),
        }
    }

    pub(super) fn take(&mut self, batch: RecordBatch) -> Result<(), WriterError> {
        let rows = self
            .converter
            .convert_columns(&self.columns.key_of(&batch))
            .map_err(WriterError::arrow("comparing the rows of changes"))?;
        let ops = batch.column(0).as_string_opt::<i32>();
        let ops = ops.ok_or_else(|| WriterError::BadData(format!("{OP_TYPE} is no text")))?;
        let number = self.batches.len();
        for (at, row) in rows.iter().enumerate() {
            if !self.rows.contains_key(row.as_ref()) {
                self.rows.insert(row.as_ref().into(), Count::default());
            }
            let Some(count) = self.rows.get_mut(row.as_ref()) else { continue };
            match ops.value(at) == DELETED {
                true => (count.more, count.went) = (count.more - 1, Some((number, at))),
                false => (count.more, count.came) = (count.more + 1, Some((number, at))),
            }
        }
        self.bytes += bytes_of(&batch);
        self.batches.push(batch);
        if self.bytes > self.compact_at {
            self.compact()?;
        }
        Ok(())
    }

    /// Lets go of all changes but the last of each kind of each row.
    fn compact(&mut self) -> Result<(), WriterError> {
        let mut places: Vec<&mut Place> = self
            .rows
            .values_mut()
            .flat_map(|count| [count.came.as_mut(), count.went.as_mut()])
            .flatten()
            .collect();
        places.sort_unstable();
        let picked: Vec<Place> = places.iter().map(|place| **place).collect();
        let batch = interleaved(&self.columns.schema, &self.batches, &picked)?;
        for (row, place) in places.into_iter().enumerate() {
            *place = (0, row);
        }
        self.bytes = bytes_of(&batch);
        self.compact_at = (2 * self.bytes).max(COMPACT_BYTES);
        self.batches = vec![batch];
        Ok(())
    }

    /// What the bucket comes to; it is empty then.
    pub(super) fn reduce(&mut self) -> Result<Reduced, WriterError> {
        let rows = std::mem::take(&mut self.rows);
        let batches = std::mem::take(&mut self.batches);
        (self.bytes, self.compact_at) = (0, COMPACT_BYTES);
        let (mut more, mut fewer) = (Vec::new(), Vec::new());
        for count in rows.into_values() {
            let times = count.more.unsigned_abs() as usize;
            let (into, place) = match count.more {
                0.. => (&mut more, count.came),
                ..0 => (&mut fewer, count.went),
            };
            into.extend(place.into_iter().flat_map(|place| std::iter::repeat_n(place, times)));
        }
        if self.columns.scope == Scope::Kept {
            more.extend(&fewer);
        }
        // In the order of the changes, as the table is read.
        more.sort_unstable();
        fewer.sort_unstable();
        let Columns { schema, keys, .. } = &self.columns;
        Ok(Reduced {
            rows: interleaved(schema, &batches, &more)?,
            lacking: interleaved(schema, &batches, &fewer)?,
            from: None,
            keys: RecordBatch::new_empty(keys.clone()),
        })
    }
}
