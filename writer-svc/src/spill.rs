//! Rows in the order of their partitions, in bounded memory.
//!
//! ```text
//! push: batches ─► buffer ─(budget)─► sorted run on disk   … 16 runs ─► one run
//! finish: runs + buffer ─► merge ─► (path, batch), (path, batch), …
//! ```
//!
//! The consumer has one partition open at a time, however many there are.
//! Rows of one partition keep the order in which they came.
//!
//! - [`buffer`]: batches with their groups → frames in path order
//! - [`run`]: frames on disk, one sorted run per file
//! - [`merge`]: several sorted sources → one
//!
//! Memory: the budget and one batch while pushing; while merging, besides, a
//! frame (a 32nd of the budget, or one row) for each of at most 15 runs per
//! level. A file is unlinked as soon as it is made: nothing is left behind,
//! however the process ends. Everything here blocks: call it off the async
//! threads.

mod buffer;
mod merge;
mod run;

use std::path::{Path, PathBuf};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;

use crate::error::WriterError;
use buffer::Buffer;
use merge::{Cursor, Merge};
use run::{Run, RunWriter};

/// Runs that are read at once; as many more make a run of the next level.
const FAN_IN: usize = 16;

/// Rows of one partition on their way through.
type Slice = (std::sync::Arc<str>, RecordBatch);

/// Limits of a frame: rows that are written, read and kept together.
#[derive(Clone, Copy, Debug)]
struct Frame {
    rows: usize,
    bytes: usize,
}

impl Frame {
    fn of_budget(budget_bytes: usize) -> Self {
        Frame { rows: 16 << 10, bytes: (budget_bytes / 32).clamp(64 << 10, 4 << 20) }
    }
}

/// Sorts the rows of one stream by partition path.
#[derive(Debug)]
pub struct PartitionSorter {
    dir: PathBuf,
    schema: SchemaRef,
    budget_bytes: usize,
    frame: Frame,
    buffer: Buffer,
    /// Oldest first; levels never rise along the list.
    runs: Vec<Run>,
}

impl PartitionSorter {
    /// Runs go to `dir`, which must exist, when the rows outgrow
    /// `budget_bytes`; until then no disk is touched.
    pub fn new(dir: &Path, schema: SchemaRef, budget_bytes: usize) -> Self {
        PartitionSorter {
            dir: dir.to_owned(),
            schema,
            budget_bytes,
            frame: Frame::of_budget(budget_bytes),
            buffer: Buffer::default(),
            runs: Vec::new(),
        }
    }

    /// Takes a batch in. `groups` are the rows of each path, as
    /// [`crate::partition::Split::split`] made them.
    pub fn push(
        &mut self,
        destination_batch: &RecordBatch,
        groups: &[(String, UInt32Array)],
    ) -> Result<(), WriterError> {
        self.buffer.push(destination_batch, groups);
        if self.buffer.bytes() >= self.budget_bytes {
            self.spill()?;
        }
        Ok(())
    }

    /// Everything by path, paths ascending, in batches of at least 8,192 rows
    /// or 1 MiB but for each partition's last. One partition's batches follow
    /// each other.
    pub fn finish(
        self,
    ) -> Result<impl Iterator<Item = Result<(String, RecordBatch), WriterError>>, WriterError> {
        let mut cursors = Vec::with_capacity(self.runs.len() + 1);
        for run in self.runs {
            cursors.push(Cursor::of_run(run)?);
        }
        // The buffer holds the newest rows, so it comes last.
        cursors.push(Cursor::of_buffer(self.buffer, self.frame)?);
        let merge = Merge::new(self.schema, cursors);
        Ok(merge.map(|slice| slice.map(|(path, batch)| (path.to_string(), batch))))
    }

    /// The buffer becomes a run.
    fn spill(&mut self) -> Result<(), WriterError> {
        let mut frames = std::mem::take(&mut self.buffer).into_frames(self.frame);
        let mut writer = RunWriter::create(&self.dir, &self.schema, 0, self.frame)?;
        while let Some((groups, batch)) = frames.next_frame()? {
            writer.write_frame(&groups, &batch)?;
        }
        self.runs.push(writer.finish()?);
        self.compact()
    }

    /// As long as the newest runs fill a level, they become one of the next.
    fn compact(&mut self) -> Result<(), WriterError> {
        while let Some(first) = self.runs.len().checked_sub(FAN_IN)
            && let level = self.runs[first].level
            && self.runs.last().is_some_and(|newest| newest.level == level)
        {
            let cursors = self.runs.drain(first..).map(Cursor::of_run);
            let cursors = cursors.collect::<Result<Vec<_>, _>>()?;
            let mut writer = RunWriter::create(&self.dir, &self.schema, level + 1, self.frame)?;
            for slice in Merge::new(SchemaRef::clone(&self.schema), cursors) {
                let (path, batch) = slice?;
                writer.push(path, batch)?;
            }
            self.runs.push(writer.finish()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array, ListArray, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    fn schema() -> SchemaRef {
        let element = Arc::new(Field::new("item", DataType::Int64, true));
        Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("s", DataType::Utf8, true),
            Field::new("l", DataType::List(element), true),
        ]))
    }

    /// Rows numbered from `start`, with a text of about `width` bytes each.
    fn batch(start: i64, rows: i64, width: usize) -> RecordBatch {
        let numbers = start..start + rows;
        let texts =
            numbers.clone().map(|n| (n % 7 != 0).then(|| format!("{n}{}", "-".repeat(width))));
        let lists = numbers.clone().map(|n| (n % 5 != 0).then(|| vec![Some(n), None]));
        RecordBatch::try_new(
            schema(),
            vec![
                Arc::new(Int64Array::from_iter_values(numbers)),
                Arc::new(StringArray::from_iter(texts)),
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)),
            ],
        )
        .unwrap()
    }

    /// By the number's remainder, in the order of first appearance.
    fn groups(batch: &RecordBatch, partitions: i64) -> Vec<(String, UInt32Array)> {
        let mut groups: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, n) in batch.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
            groups.entry(n.wrapping_mul(7919) % partitions).or_default().push(row as u32);
        }
        groups.into_iter().map(|(key, rows)| (format!("k={key:05}"), rows.into())).collect()
    }

    /// Sorts, and checks order, completeness and values.
    fn sort(batches: &[RecordBatch], partitions: i64, budget: usize) -> Vec<(String, RecordBatch)> {
        let dir = tempdir();
        let mut sorter = PartitionSorter::new(&dir, schema(), budget);
        for batch in batches {
            sorter.push(batch, &groups(batch, partitions)).unwrap();
            assert!(sorter.buffer.bytes() < budget);
        }
        let sorted: Vec<_> = sorter.finish().unwrap().map(|slice| slice.unwrap()).collect();
        std::fs::remove_dir(&dir).expect("nothing is left in the directory");
        assert!(sorted.is_sorted_by_key(|(path, _)| path.clone()));
        let all = arrow::compute::concat_batches(&schema(), batches).unwrap();
        let mut expected: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
        for (path, rows) in groups(&all, partitions) {
            let rows = arrow::compute::take_record_batch(&all, &rows).unwrap();
            expected.entry(path).or_default().push(rows);
        }
        let mut found: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
        for (path, batch) in &sorted {
            found.entry(path.clone()).or_default().push(batch.clone());
        }
        assert!(expected.keys().eq(found.keys()));
        for (path, batches) in found {
            let found = arrow::compute::concat_batches(&schema(), &batches).unwrap();
            assert_eq!(found, expected[&path][0], "{path}");
        }
        sorted
    }

    fn tempdir() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tidewater-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn what_fits_is_sorted_without_a_disk() {
        let batches = [batch(0, 1_000, 5), batch(1_000, 1_000, 5)];
        let mut sorter = PartitionSorter::new(Path::new("/does/not/exist"), schema(), 1 << 20);
        for batch in &batches {
            sorter.push(batch, &groups(batch, 7)).unwrap();
        }
        assert_eq!(sorter.finish().unwrap().count(), 7);
        assert_eq!(sort(&batches, 7, 1 << 20).len(), 7);
        assert_eq!(sort(&[], 7, 1 << 20).len(), 0);
    }

    #[test]
    fn many_partitions_over_many_runs_come_out_whole_and_in_order() {
        let batches: Vec<_> = (0..40).map(|n| batch(n * 1_000, 1_000, 40)).collect();
        assert_eq!(sort(&batches, 3_000, 256 << 10).len(), 3_000);
    }

    #[test]
    fn runs_are_merged_before_there_are_too_many() {
        let batches: Vec<_> = (0..300).map(|n| batch(n * 50, 50, 10)).collect();
        // Every batch exceeds the budget: 300 runs, merged twice over.
        let sorted = sort(&batches, 11, 1);
        assert_eq!(sorted.len(), 11);
    }

    #[test]
    fn batches_of_one_partition_have_a_sensible_size() {
        let batches: Vec<_> = (0..100).map(|n| batch(n * 1_000, 1_000, 20)).collect();
        let sorted = sort(&batches, 2, 1 << 20);
        for pair in sorted.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            assert!(pair[0].1.num_rows() >= 8_192, "{}", pair[0].1.num_rows());
        }
        assert!(sorted.iter().all(|(_, batch)| batch.num_rows() <= 3 * 8_192));
    }

    #[test]
    fn a_huge_row_travels_alone() {
        let batches = [batch(4, 200, 10), batch(204, 3, 3 << 20), batch(207, 200, 10)];
        let sorted = sort(&batches, 1, 2 << 20);
        assert!(
            sorted
                .iter()
                .all(|(_, batch)| batch.num_rows() == 1 || batch.get_array_memory_size() < 8 << 20)
        );
    }

    #[test]
    fn a_disk_that_takes_nothing_is_an_error_that_names_the_directory() {
        let gone = Path::new("/does/not/exist");
        let mut sorter = PartitionSorter::new(gone, schema(), 1);
        let batch = batch(0, 10, 5);
        let error = sorter.push(&batch, &groups(&batch, 2)).unwrap_err().to_string();
        assert!(error.contains("/does/not/exist"), "{error}");
    }
}
