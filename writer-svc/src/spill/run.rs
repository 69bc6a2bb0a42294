//! A sorted run: frames on disk, in one file that has no name.
//!
//! ```text
//! schema message │ groups, batch message │ groups, batch message │ … │ zero groups
//! ```
//!
//! The groups of a frame say how many of its rows each path has; messages are
//! Arrow's stream format. Reading goes from front to back, as merging does.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use super::Frame;
use super::buffer::{FrameGroups, bytes_of};
use crate::error::WriterError;

/// Buffers between the messages and the file.
const IO_BYTES: usize = 128 << 10;

/// A complete run.
#[derive(Debug)]
pub struct Run {
    file: File,
    /// For messages: the directory that the file lies in.
    dir: PathBuf,
    /// 0: as spilled; n + 1: merged from runs of level n.
    pub level: u32,
}

/// Writes a run.
pub struct RunWriter {
    writer: StreamWriter<BufWriter<File>>,
    dir: PathBuf,
    schema: SchemaRef,
    level: u32,
    limit: Frame,
    pending: Vec<RecordBatch>,
    groups: FrameGroups,
    rows: usize,
    bytes: usize,
}

impl RunWriter {
    /// A file in `dir` that vanishes with its last handle.
    pub fn create(
        dir: &Path,
        schema: &SchemaRef,
        level: u32,
        limit: Frame,
    ) -> Result<Self, WriterError> {
        let path = dir.join(format!("{}.run", uuid::Uuid::new_v4()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(WriterError::io("creating", &path))?;
        std::fs::remove_file(&path).map_err(WriterError::io("unlinking", &path))?;
        let writer = BufWriter::with_capacity(IO_BYTES, file);
        let writer = StreamWriter::try_new(writer, schema).map_err(failed("writing", dir))?;
        Ok(RunWriter {
            writer,
            dir: dir.to_owned(),
            schema: Arc::clone(schema),
            level,
            limit,
            pending: Vec::new(),
            groups: Vec::new(),
            rows: 0,
            bytes: 0,
        })
    }

    /// Gathers small slices, in path order, into frames.
    pub fn push(&mut self, path: Arc<str>, batch: RecordBatch) -> Result<(), WriterError> {
        let (rows, bytes) = (batch.num_rows(), bytes_of(&batch));
        let full = self.rows + rows > self.limit.rows || self.bytes + bytes > self.limit.bytes;
        if full && self.rows > 0 {
            self.flush()?;
        }
        match self.groups.last_mut() {
            Some((last, count)) if *last == path => *count += rows,
            _ => self.groups.push((path, rows)),
        }
        (self.rows, self.bytes) = (self.rows + rows, self.bytes + bytes);
        self.pending.push(batch);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WriterError> {
        let (groups, pending) =
            (std::mem::take(&mut self.groups), std::mem::take(&mut self.pending));
        (self.rows, self.bytes) = (0, 0);
        let batch = concat_batches(&self.schema, &pending)
            .map_err(WriterError::arrow("joining rows of partitions"))?;
        drop(pending);
        self.write_frame(&groups, &batch)
    }

    /// A frame as it is.
    pub fn write_frame(
        &mut self,
        groups: &FrameGroups,
        batch: &RecordBatch,
    ) -> Result<(), WriterError> {
        let mut header = Vec::with_capacity(4 + groups.len() * 48);
        header.extend_from_slice(&(groups.len() as u32).to_le_bytes());
        for (path, rows) in groups {
            header.extend_from_slice(&(path.len() as u32).to_le_bytes());
            header.extend_from_slice(path.as_bytes());
            header.extend_from_slice(&(*rows as u32).to_le_bytes());
        }
        self.writer
            .get_mut()
            .write_all(&header)
            .map_err(WriterError::io("writing a sorted run in", &self.dir))?;
        self.writer.write(batch).map_err(failed("writing", &self.dir))
    }

    /// The run, ready to be read.
    pub fn finish(mut self) -> Result<Run, WriterError> {
        if self.rows > 0 {
            self.flush()?;
        }
        let doing = "writing a sorted run in";
        self.writer
            .get_mut()
            .write_all(&0u32.to_le_bytes())
            .map_err(WriterError::io(doing, &self.dir))?;
        let mut file = self
            .writer
            .into_inner()
            .map_err(failed("writing", &self.dir))?
            .into_inner()
            .map_err(|error| WriterError::io(doing, &self.dir)(error.into_error()))?;
        file.rewind().map_err(WriterError::io("rewinding a sorted run in", &self.dir))?;
        Ok(Run { file, dir: self.dir, level: self.level })
    }
}

/// Reads a run from front to back.
pub struct RunReader {
    reader: StreamReader<BufReader<File>>,
    dir: PathBuf,
}

impl RunReader {
    /// The file goes when the reader does.
    pub fn open(run: Run) -> Result<Self, WriterError> {
        let reader = BufReader::with_capacity(IO_BYTES, run.file);
        let reader = StreamReader::try_new(reader, None).map_err(failed("reading", &run.dir))?;
        Ok(RunReader { reader, dir: run.dir })
    }

    /// The groups of the next frame; none at the end. Its rows follow.
    pub fn next_groups(&mut self) -> Result<FrameGroups, WriterError> {
        self.read_groups().map_err(WriterError::io("reading a sorted run in", &self.dir))
    }

    /// The rows of the frame whose groups were read last.
    pub fn rows(&mut self) -> Result<RecordBatch, WriterError> {
        match self.reader.next() {
            Some(Ok(batch)) => Ok(batch),
            Some(Err(error)) => Err(failed("reading", &self.dir)(error)),
            None => Err(WriterError::Internal("a sorted run ended within a frame".to_owned())),
        }
    }

    fn read_groups(&mut self) -> std::io::Result<FrameGroups> {
        let file = self.reader.get_mut();
        let count = read_u32(file)?;
        let mut groups = FrameGroups::new();
        let mut path = Vec::new();
        for _ in 0..count {
            path.resize(read_u32(file)? as usize, 0);
            file.read_exact(&mut path)?;
            let path = std::str::from_utf8(&path).map_err(std::io::Error::other)?;
            groups.push((path.into(), read_u32(file)? as usize));
        }
        Ok(groups)
    }
}

fn read_u32(file: &mut impl Read) -> std::io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// What the file system said inside of Arrow's error comes out as such, so
/// that a full disk is known as one.
fn failed(doing: &'static str, dir: &Path) -> impl FnOnce(ArrowError) -> WriterError {
    move |error| match error {
        ArrowError::IoError(_, source) => {
            WriterError::Io { doing: "using a sorted run in", path: dir.to_owned(), source }
        }
        source => WriterError::Arrow {
            doing: format!("{doing} a sorted run in {}", dir.display()),
            source,
        },
    }
}
