//! The files of one chunk, invisible to readers until a commit names them.
//!
//! The encoder fills a [`Stage`], one file at a time; what a file is, where it
//! lies and what is written down about it is the destination's:
//! [`crate::parquet::stage`], [`crate::iceberg::stage`].
//!
//! Invariant: a chunk can be committed only once it is sealed, and it is
//! sealed only when every file of it is whole and durable. A stage that is
//! dropped before removes what it wrote.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use arrow::array::RecordBatch;
use parquet::file::metadata::ParquetMetaData;
use proto::v1::{CommitRequest, StageRequest, StagedChunk};

use crate::error::WriterError;

/// A stage being filled.
pub trait Stage: Send {
    /// A directory of this machine for what is spilled.
    fn scratch(&self) -> &Path;

    /// Whether a chunk without rows still needs a file, for its schema.
    fn wants_schema_file(&self) -> bool;

    /// Whether all that read the files know Parquet's delta encodings.
    fn readers_know_deltas(&self) -> bool {
        true
    }

    /// Starts the next file, for rows of `partition` (relative; empty: none).
    fn open(&mut self, partition: &str) -> Result<Box<dyn Sink>, WriterError>;

    /// Sees each batch that went into the open file.
    fn wrote(&mut self, _batch: &RecordBatch) -> Result<(), WriterError> {
        Ok(())
    }

    /// Takes the open file, all of whose bytes are written.
    fn close(&mut self, sink: &mut dyn Sink, footer: &ParquetMetaData) -> Result<(), WriterError>;

    /// Writes the manifest: from here on the chunk can be committed.
    fn seal(self: Box<Self>, request: &StageRequest) -> Result<StagedChunk, WriterError>;
}

/// A file being written.
pub trait Sink: Write + Send {
    /// Where it lies, for messages.
    fn location(&self) -> &Path;

    /// Makes it whole and durable; its size in bytes. Nothing is written after.
    fn finish(&mut self) -> Result<u64, WriterError>;
}

/// Demands that the table's last commit, `current` (empty: none), be the one
/// that the caller knows of, if it says which.
pub fn check_expected(
    table: &str,
    request: &CommitRequest,
    current: &str,
) -> Result<(), WriterError> {
    match &request.expected_commit_id {
        Some(expected) if expected != current => Err(WriterError::Fenced {
            table: table.to_owned(),
            by: match current {
                "" => "a table that was dropped".to_owned(),
                current => current.to_owned(),
            },
        }),
        _ => Ok(()),
    }
}

/// Demands that the chunks of a commit belong together: one load, one set of
/// settings, each chunk once, at least one.
pub fn check_chunks(request: &CommitRequest) -> Result<(), WriterError> {
    let refuse = |problem: String| Err(WriterError::InvalidRequest(problem));
    let Some(first) = request.staged.first() else {
        return refuse("a commit needs at least one staged chunk".into());
    };
    let mut seen = BTreeSet::new();
    for chunk in &request.staged {
        if chunk.load_id != request.load_id {
            return refuse(format!(
                "chunk {} was staged by load {}, not {}",
                chunk.chunk_id, chunk.load_id, request.load_id
            ));
        }
        if chunk.settings_hash != first.settings_hash {
            return refuse(format!(
                "chunks {} and {} were staged under different settings",
                first.chunk_id, chunk.chunk_id
            ));
        }
        if !seen.insert(chunk.chunk_id) {
            return refuse(format!("chunk {} is named twice", chunk.chunk_id));
        }
    }
    Ok(())
}
