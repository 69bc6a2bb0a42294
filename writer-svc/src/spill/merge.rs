//! Several sources, each in path order → one, in path order.
//!
//! Of equal paths the older source's rows come first, so that the rows of a
//! partition keep the order in which they came.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use super::buffer::{Buffer, BufferFrames, FrameGroups, bytes_of};
use super::run::{Run, RunReader};
use super::{Frame, Slice};
use crate::error::WriterError;

/// A batch of this many rows or bytes is worth passing on.
const ENOUGH_ROWS: usize = 8_192;
const ENOUGH_BYTES: usize = 1 << 20;

/// A place in one source.
pub struct Cursor {
    source: Source,
    /// Paths of the current frame that are still to come, with their rows.
    groups: VecDeque<(Arc<str>, usize)>,
    /// A run's rows are read when they are needed, and let go with their last
    /// group: a large row is a frame of its own and stays for no other's turn.
    frame: Option<RecordBatch>,
    offset: usize,
}

enum Source {
    Run(Box<RunReader>),
    Buffer(Box<BufferFrames>),
}

impl Cursor {
    /// At the beginning of a run.
    pub fn of_run(run: Run) -> Result<Self, WriterError> {
        Cursor::new(Source::Run(Box::new(RunReader::open(run)?)))
    }

    /// At the beginning of what is still in memory.
    pub fn of_buffer(buffer: Buffer, limit: Frame) -> Result<Self, WriterError> {
        Cursor::new(Source::Buffer(Box::new(buffer.into_frames(limit))))
    }

    fn new(source: Source) -> Result<Self, WriterError> {
        let mut cursor = Cursor { source, groups: VecDeque::new(), frame: None, offset: 0 };
        cursor.next_frame()?;
        Ok(cursor)
    }

    fn next_frame(&mut self) -> Result<(), WriterError> {
        let (groups, frame) = match &mut self.source {
            Source::Run(reader) => (reader.next_groups()?, None),
            Source::Buffer(frames) => frames.next_frame()?.map_or_else(
                || (FrameGroups::new(), None),
                |(groups, frame)| (groups, Some(frame)),
            ),
        };
        (self.groups, self.frame, self.offset) = (groups.into(), frame, 0);
        Ok(())
    }

    fn path(&self) -> Option<&Arc<str>> {
        self.groups.front().map(|(path, _)| path)
    }

    /// The rows of the frame that belong to the path in front.
    fn take(&mut self) -> Result<RecordBatch, WriterError> {
        let frame = match (self.frame.take(), &mut self.source) {
            (Some(frame), _) => frame,
            (None, Source::Run(reader)) => reader.rows()?,
            (None, Source::Buffer(_)) => {
                return Err(WriterError::Internal("took from a finished buffer".to_owned()));
            }
        };
        let rows = self.groups.pop_front().map_or(0, |(_, rows)| rows);
        if self.offset + rows > frame.num_rows() {
            return Err(WriterError::Internal("a frame has fewer rows than groups".to_owned()));
        }
        let slice = frame.slice(self.offset, rows);
        if self.groups.is_empty() {
            self.next_frame()?;
        } else {
            (self.frame, self.offset) = (Some(frame), self.offset + rows);
        }
        Ok(slice)
    }
}

/// Merges cursors, oldest first.
pub struct Merge {
    schema: SchemaRef,
    cursors: Vec<Cursor>,
    /// The path being given out, and the first cursor that may still hold it.
    current: Option<(Arc<str>, usize)>,
    failed: bool,
}

impl Merge {
    /// All cursors have batches of `schema`.
    pub fn new(schema: SchemaRef, cursors: Vec<Cursor>) -> Self {
        Merge { schema, cursors, current: None, failed: false }
    }

    fn next_slice(&mut self) -> Result<Option<Slice>, WriterError> {
        loop {
            let (path, from) = match self.current.take() {
                Some(current) => current,
                None => match self.cursors.iter().filter_map(Cursor::path).min() {
                    Some(path) => (Arc::clone(path), 0),
                    None => return Ok(None),
                },
            };
            let (parts, rest) = self.gather(&path, from)?;
            self.current = rest.map(|from| (Arc::clone(&path), from));
            let batch = match <[RecordBatch; 1]>::try_from(parts) {
                Ok([batch]) => batch,
                Err(parts) if parts.is_empty() => continue,
                Err(parts) => concat_batches(&self.schema, &parts)
                    .map_err(WriterError::arrow("joining rows of a partition"))?,
            };
            return Ok(Some((path, batch)));
        }
    }

    /// Enough rows of `path`, from cursor `from` on; if there may be more,
    /// the cursor to go on from.
    fn gather(
        &mut self,
        path: &Arc<str>,
        from: usize,
    ) -> Result<(Vec<RecordBatch>, Option<usize>), WriterError> {
        let (mut parts, mut rows, mut bytes) = (Vec::new(), 0, 0);
        for index in from..self.cursors.len() {
            while self.cursors[index].path() == Some(path) {
                if rows >= ENOUGH_ROWS || bytes >= ENOUGH_BYTES {
                    return Ok((parts, Some(index)));
                }
                let part = self.cursors[index].take()?;
                rows += part.num_rows();
                bytes += bytes_of(&part);
                parts.push(part);
            }
        }
        Ok((parts, None))
    }
}

impl Iterator for Merge {
    type Item = Result<Slice, WriterError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_slice();
        self.failed = next.is_err();
        next.transpose()
    }
}
