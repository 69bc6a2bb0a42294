//! Batches in memory with the rows of each path, and these rows in path order.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::DataType;

use super::Frame;
use crate::error::WriterError;

/// Rows by the index of their batch, in the order they came.
type RowLists = Vec<(u32, UInt32Array)>;

/// What was pushed since the last run.
#[derive(Debug, Default)]
pub struct Buffer {
    batches: Vec<RecordBatch>,
    /// For each path.
    rows: BTreeMap<Arc<str>, RowLists>,
    bytes: usize,
}

impl Buffer {
    /// Keeps the batch; its arrays are shared, not copied.
    pub fn push(&mut self, batch: &RecordBatch, groups: &[(String, UInt32Array)]) {
        let index = self.batches.len() as u32;
        self.bytes += bytes_of(batch);
        for (path, rows) in groups {
            if rows.is_empty() {
                continue;
            }
            self.bytes += size_of::<(u32, UInt32Array)>() + rows.len() * size_of::<u32>();
            match self.rows.get_mut(path.as_str()) {
                Some(list) => list.push((index, rows.clone())),
                None => {
                    self.bytes += path.len() + PATH_OVERHEAD;
                    self.rows.insert(path.as_str().into(), vec![(index, rows.clone())]);
                }
            }
        }
        self.batches.push(batch.clone());
    }

    /// Memory held, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows in path order.
    pub fn into_frames(self, limit: Frame) -> BufferFrames {
        let widths = self.batches.iter().map(RowBytes::of).collect();
        BufferFrames {
            batches: self.batches,
            widths,
            paths: self.rows.into_iter(),
            current: None,
            limit,
        }
    }
}

/// A map's and a list's own cost for a path.
const PATH_OVERHEAD: usize = 128;

/// Bytes that the rows of a batch take, without what their buffers hold for
/// other slices.
pub fn bytes_of(batch: &RecordBatch) -> usize {
    let bytes = |column: &ArrayRef| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(bytes).sum()
}

/// A path and how many of a frame's rows are its.
pub type FrameGroups = Vec<(Arc<str>, usize)>;

/// Cuts a buffer, in path order, into frames that may span several paths.
#[derive(Debug)]
pub struct BufferFrames {
    batches: Vec<RecordBatch>,
    widths: Vec<RowBytes>,
    paths: std::collections::btree_map::IntoIter<Arc<str>, RowLists>,
    /// The path being cut, with the list and row that come next.
    current: Option<(Arc<str>, RowLists, usize, usize)>,
    limit: Frame,
}

impl BufferFrames {
    /// The next frame; its rows are copies.
    pub fn next_frame(&mut self) -> Result<Option<(FrameGroups, RecordBatch)>, WriterError> {
        let mut groups: FrameGroups = Vec::new();
        let mut picked: Vec<(usize, usize)> = Vec::new();
        let mut bytes = 0;
        while let Some((path, batch, row)) = self.peek() {
            let row_bytes = self.widths[batch].of_row(row);
            let full = picked.len() >= self.limit.rows || bytes + row_bytes > self.limit.bytes;
            if full && !picked.is_empty() {
                break;
            }
            match groups.last_mut() {
                Some((last, rows)) if Arc::ptr_eq(last, &path) => *rows += 1,
                _ => groups.push((path, 1)),
            }
            picked.push((batch, row));
            bytes += row_bytes;
            self.advance();
        }
        if picked.is_empty() {
            return Ok(None);
        }
        let batches: Vec<_> = self.batches.iter().collect();
        let frame = interleave_record_batch(&batches, &picked)
            .map_err(WriterError::arrow("sorting rows by partition"))?;
        Ok(Some((groups, frame)))
    }

    /// Path, batch and row of what comes next.
    fn peek(&mut self) -> Option<(Arc<str>, usize, usize)> {
        if self.current.is_none() {
            let (path, lists) = self.paths.next()?;
            self.current = Some((path, lists, 0, 0));
        }
        let (path, lists, list, row) = self.current.as_ref()?;
        let (batch, rows) = &lists[*list];
        Some((Arc::clone(path), *batch as usize, rows.value(*row) as usize))
    }

    fn advance(&mut self) {
        let Some((_, lists, list, row)) = &mut self.current else { return };
        *row += 1;
        if *row == lists[*list].1.len() {
            (*list, *row) = (*list + 1, 0);
        }
        if *list == lists.len() {
            self.current = None;
        }
    }
}

/// How many bytes a row of a batch has.
#[derive(Debug)]
struct RowBytes {
    fixed: usize,
    variable: Vec<(ArrayRef, Width)>,
}

/// A column whose values differ in size.
#[derive(Clone, Copy, Debug)]
enum Width {
    Text,
    Binary,
    List,
}

impl RowBytes {
    fn of(batch: &RecordBatch) -> Self {
        let mut widths = RowBytes { fixed: 0, variable: Vec::new() };
        for column in batch.columns() {
            let width = match column.data_type() {
                DataType::Utf8 => Width::Text,
                DataType::Binary => Width::Binary,
                DataType::List(_) => Width::List,
                other => {
                    widths.fixed += fixed_width(other);
                    continue;
                }
            };
            widths.fixed += size_of::<i32>();
            widths.variable.push((Arc::clone(column), width));
        }
        widths
    }

    fn of_row(&self, row: usize) -> usize {
        let bytes = |(column, width): &(ArrayRef, Width)| match width {
            Width::Text => range(column.as_string::<i32>().value_offsets(), row, row + 1),
            Width::Binary => range(column.as_binary::<i32>().value_offsets(), row, row + 1),
            Width::List => elements_bytes(column, row),
        };
        self.fixed + self.variable.iter().map(bytes).sum::<usize>()
    }
}

fn range(offsets: &[i32], from: usize, to: usize) -> usize {
    (offsets[to] - offsets[from]) as usize
}

fn elements_bytes(list: &ArrayRef, row: usize) -> usize {
    let list = list.as_list::<i32>();
    let (from, to) = (list.value_offsets()[row] as usize, list.value_offsets()[row + 1] as usize);
    let elements = list.values();
    let text = match elements.data_type() {
        DataType::Utf8 => range(elements.as_string::<i32>().value_offsets(), from, to),
        DataType::Binary => range(elements.as_binary::<i32>().value_offsets(), from, to),
        _ => 0,
    };
    text + (to - from) * fixed_width(elements.data_type())
}

/// Bytes of a value beside its text, if it has any; a bit counts as a byte.
fn fixed_width(data_type: &DataType) -> usize {
    match data_type {
        DataType::FixedSizeBinary(width) => width.unsigned_abs() as usize,
        DataType::Boolean => 1,
        other => other.primitive_width().unwrap_or(size_of::<i32>()),
    }
}
