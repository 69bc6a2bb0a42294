//! Staged chunks are added to a table's content.
//!
//! ```text
//! check chunks ─► INTENT ─► link the files ─► RECORD ─► intent and staging go
//!                 durable    each appears      the commit
//!                            whole             is made
//! ```
//!
//! The intent lies in the table's directory, names every file and holds the
//! record that will be. Whoever takes the table's lock next, after a crash, goes
//! on from it: the stage is removed only when the record stands. A link that is
//! there already is the same file, as every name is made once. So an append
//! happens once, whole, however often it is begun; between its first link and
//! its record readers may see some of its files and not yet the others.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proto::v1::CommitRecord;
use serde::{Deserialize, Serialize};

use super::record;
use super::stage::StagedFile;
use crate::error::WriterError;
use crate::record::Stored;
use crate::storage::{self, TablePaths};

/// The intent's name in the table's directory.
pub const INTENT: &str = ".tidewater-append.json";

/// An append that is being made.
#[derive(Debug, Serialize, Deserialize)]
struct Intent {
    /// As it will be.
    record: Stored,
    files: Vec<Added>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Added {
    /// Below the table's staging directory.
    staged: PathBuf,
    /// In the table.
    path: PathBuf,
}

/// Adds files, each staged at a path below `paths.staging`. Needs the table's
/// lock, and nothing half done.
pub fn append(
    paths: &TablePaths,
    files: &[(PathBuf, StagedFile)],
    record: &CommitRecord,
) -> Result<(), WriterError> {
    let added = files.iter().map(|(staged, file)| {
        let staged = staged.strip_prefix(&paths.staging).map_err(|_| {
            WriterError::Internal(format!("{} is not staged for the table", staged.display()))
        })?;
        Ok(Added { staged: staged.to_owned(), path: file.path.clone().into() })
    });
    let intent =
        Intent { record: record.clone().into(), files: added.collect::<Result<_, WriterError>>()? };
    let content = serde_json::to_vec(&intent)
        .map_err(|e| WriterError::Internal(format!("writing an intent: {e}")))?;
    storage::create_dir_durably(&paths.live)?;
    storage::write_durably(&paths.live.join(INTENT), &content)?;
    match roll_forward(paths, intent)? {
        None => Ok(()),
        Some(gone) => {
            Err(WriterError::StageGone { manifest: gone, problem: "it is no longer there".into() })
        }
    }
}

/// Ends an append that a crash has left half done. Needs the table's lock.
pub fn recover(paths: &TablePaths) -> Result<(), WriterError> {
    let path = paths.live.join(INTENT);
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(e) => return Err(WriterError::io("reading", &path)(e)),
    };
    let intent: Intent =
        serde_json::from_slice(&content).map_err(|e| WriterError::ForeignTable {
            path: paths.live.clone(),
            found: format!("an intent that cannot be read ({e})"),
        })?;
    if let Some(gone) = roll_forward(paths, intent)? {
        tracing::warn!(file = %gone.display(), "an append was taken back: its stage is gone");
    }
    Ok(())
}

/// Links every file and writes the record. Where a staged file is gone that is
/// not linked yet, the append is taken back; that file.
fn roll_forward(paths: &TablePaths, intent: Intent) -> Result<Option<PathBuf>, WriterError> {
    let mut directories = BTreeSet::from([paths.live.clone()]);
    for file in &intent.files {
        if !storage::is_inside(&file.staged) || !storage::is_inside(&file.path) {
            return Err(WriterError::ForeignTable {
                path: paths.live.clone(),
                found: format!("an intent that names {}", file.path.display()),
            });
        }
        let (staged, target) = (paths.staging.join(&file.staged), paths.live.join(&file.path));
        let parent = target.parent().unwrap_or(&paths.live);
        if !directories.contains(parent) {
            fs::create_dir_all(parent)
                .map_err(WriterError::io("creating the directory", parent))?;
            let below = parent.ancestors().take_while(|dir| *dir != paths.live);
            directories.extend(below.map(Path::to_owned));
        }
        if target.exists() {
            continue;
        }
        if !staged.exists() {
            take_back(paths, &intent)?;
            return Ok(Some(staged));
        }
        storage::link_or_copy(&staged, &target)?;
    }
    // Entries must last from the leaves up.
    directories.iter().rev().try_for_each(|dir| storage::sync_dir(dir))?;
    record::replace(&paths.live, intent.record)?;
    remove_intent(paths)?;
    Ok(None)
}

/// Removes what was linked; the content is what it was.
fn take_back(paths: &TablePaths, intent: &Intent) -> Result<(), WriterError> {
    for file in &intent.files {
        let target = paths.live.join(&file.path);
        match fs::remove_file(&target) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(WriterError::io("removing", &target)(e)),
        }
    }
    remove_intent(paths)
}

fn remove_intent(paths: &TablePaths) -> Result<(), WriterError> {
    let path = paths.live.join(INTENT);
    fs::remove_file(&path).map_err(WriterError::io("removing", &path))?;
    storage::sync_dir(&paths.live)
}

#[cfg(test)]
#[path = "append_tests.rs"]
mod tests;
