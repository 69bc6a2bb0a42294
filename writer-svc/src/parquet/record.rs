//! The commit record: what the table holds, stored with it and exchanged with
//! it, under a name that no `*.parquet` matches.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use proto::v1::CommitRecord;

use crate::error::WriterError;
use crate::record::Stored;
use crate::storage;

/// Its name in the table's directory.
pub const RECORD: &str = ".tidewater-commit.json";

/// The record of a table's directory; `None` when there is none.
pub fn read(table: &Path) -> Result<Option<CommitRecord>, WriterError> {
    let path = table.join(RECORD);
    let content = match std::fs::read(&path) {
        Ok(content) => content,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(WriterError::io("reading", &path)(e)),
    };
    let stored: Stored =
        serde_json::from_slice(&content).map_err(|e| WriterError::ForeignTable {
            path: table.to_owned(),
            found: format!("a commit record that cannot be read ({e})"),
        })?;
    Ok(Some(stored.into()))
}

/// Writes the record, durably but for the directory's entry.
pub fn write(table: &Path, record: &CommitRecord) -> Result<(), WriterError> {
    let path = table.join(RECORD);
    let content = content(&record.clone().into())?;
    File::create(&path)
        .and_then(|mut file| {
            file.write_all(&content)?;
            file.sync_all()
        })
        .map_err(WriterError::io("writing", &path))
}

/// Puts another record in the place of the one of a table that readers see,
/// durably and in one step.
pub fn replace(table: &Path, record: Stored) -> Result<(), WriterError> {
    storage::write_durably(&table.join(RECORD), &content(&record)?)
}

fn content(record: &Stored) -> Result<Vec<u8>, WriterError> {
    serde_json::to_vec_pretty(record)
        .map_err(|e| WriterError::Internal(format!("writing a commit record: {e}")))
}
