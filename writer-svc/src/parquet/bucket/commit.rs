//! Staged chunks become the table's content, or are added to it, by two changes
//! of the record.
//!
//! ```text
//! settle ─► repeated? ─► read chunks ─► INTEND ─► complete ─► PUBLISH ─► remove ─► clean up
//! what is   record says                 record:   uploads     record:    the old    record,
//! half done so: done                    + next                commit     files      staging
//! ```
//!
//! Before PUBLISH the old content is whole, after it the new one. A crash needs
//! nothing but the same call again, or any other: [`settle`] ends what was begun.
//! It goes on where it can; where an upload is gone that is needed, the commit is
//! taken back, and its chunks have to be staged anew.
//!
//! What is removed was named in the record by the one who changed it, and every
//! name is used once. So a hand that is late removes nothing that is needed, and
//! its change of the record fails.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use chrono::{SecondsFormat, Utc};
use proto::v1::commit_request::Mode;
use proto::v1::{CommitRecord, CommitRequest};

use super::BucketTable;
use super::record::{self, Found, Held, Next, Record};
use super::stage::{self, Manifest};
use crate::error::WriterError;
use crate::parquet::commit::check_mode;
use crate::parquet::record::RECORD;
use crate::record::Stored;
use crate::s3::bucket::Pending;
use crate::stage::{check_chunks, check_expected};
use crate::storage::plain;
use crate::target::Committed;

/// Bases to try against.
const ATTEMPTS: u32 = 10;

/// Replaces the table's content by the staged chunks, or adds them to it.
pub fn commit(table: &BucketTable, request: &CommitRequest) -> Result<Committed, WriterError> {
    check_mode(request.mode())?;
    let append = request.mode() == Mode::Append;
    plain("commit_id", &request.commit_id)?;
    let load = table.paths.load(&request.load_id)?;
    let mut chunks = None;
    for _ in 0..ATTEMPTS {
        let base = settle(table)?;
        if let Some(record) = base.commit().filter(|made| made.commit_id == request.commit_id) {
            clean_up(table, &load, &[]);
            return Ok(committed(table, record, true));
        }
        let current = base.record.commit.as_ref().map_or("", Stored::commit_id);
        check_expected(&table.paths.live, request, current)?;
        let chunks = match &chunks {
            Some(chunks) => chunks,
            None => chunks.insert(Chunks::read(table, request)?),
        };
        let next = Next {
            commit: chunks.record(request).into(),
            files: chunks.files.clone(),
            remove: match append {
                true => Vec::new(),
                false => outdated(table, &base, &chunks.files)?,
            },
            append,
        };
        let intent = Record { next: Some(next), ..base.record.clone() };
        let Some(intended) = record::swap(table, &base, intent)? else { continue };
        match advance(table, intended)? {
            Step::Settled(found) => {
                if let Some(record) = found.commit().filter(|r| r.commit_id == request.commit_id) {
                    chunks.give_up_unused(table);
                    clean_up(table, &load, &chunks.directories);
                    return Ok(committed(table, record, false));
                }
            }
            Step::TakenBack(path) => {
                return Err(WriterError::StageGone {
                    manifest: load.into(),
                    problem: format!("the upload of {path} is no longer there"),
                });
            }
            // Another hand went on with it: its outcome is in the record.
            Step::Overtaken => {}
        }
    }
    Err(WriterError::Contended { table: table.paths.live.clone(), attempts: ATTEMPTS })
}

fn committed(table: &BucketTable, record: CommitRecord, already: bool) -> Committed {
    Committed { record, already, location: table.paths.live.clone() }
}

/// The chunks of a commit.
struct Chunks {
    /// The files that become the content.
    files: Vec<Held>,
    /// Files that do not.
    unused: Vec<Held>,
    /// Where the chunks lie.
    directories: Vec<String>,
}

impl Chunks {
    /// Checks every chunk of the request. Files without rows only serve to keep
    /// an empty table's schema: one stays, and only if nothing else does.
    fn read(table: &BucketTable, request: &CommitRequest) -> Result<Self, WriterError> {
        check_chunks(request)?;
        let (mut full, mut empty) = (Vec::new(), Vec::new());
        for chunk in &request.staged {
            for file in Manifest::of(table, chunk)?.files {
                if file.rows == 0 { &mut empty } else { &mut full }.push(file);
            }
        }
        if full.is_empty() {
            full.extend(empty.pop());
        }
        let directory = |manifest: &str| {
            let end = manifest.rfind('/').map_or(manifest.len(), |slash| slash + 1);
            manifest[..end].to_owned()
        };
        let directories = request.staged.iter().map(|chunk| directory(&chunk.manifest)).collect();
        Ok(Chunks { files: full, unused: empty, directories })
    }

    fn record(&self, request: &CommitRequest) -> CommitRecord {
        CommitRecord {
            commit_id: request.commit_id.clone(),
            load_id: request.load_id.clone(),
            rows: self.files.iter().map(|file| file.rows).sum(),
            files: self.files.len() as u64,
            bytes: self.files.iter().map(|file| file.bytes).sum(),
            committed_at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
            position: request.position.clone(),
        }
    }

    fn give_up_unused(&self, table: &BucketTable) {
        let given_up = table
            .bucket
            .each(&self.unused, |file| table.bucket.abort(&at(table, &file.path), &file.upload));
        if let Err(error) = given_up {
            tracing::warn!("{error}; the upload of a file without rows is left");
        }
    }
}

fn at(table: &BucketTable, path: &str) -> String {
    format!("{}/{path}", table.paths.live)
}

/// All that lies in the table and will not belong to it any more. Refuses what
/// is not ours.
fn outdated(table: &BucketTable, base: &Found, files: &[Held]) -> Result<Vec<String>, WriterError> {
    let kept: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let found = present(table, base)?;
    Ok(found.into_iter().filter(|path| !kept.contains(path.as_str())).collect())
}

/// All objects of the table but the record. Refuses what is not ours.
pub fn present(table: &BucketTable, base: &Found) -> Result<Vec<String>, WriterError> {
    let mut found = table.bucket.walk(&table.paths.live)?;
    found.retain(|path| path != RECORD);
    if !base.exists() && !found.is_empty() {
        let path = table.paths.live.clone().into();
        return Err(WriterError::ForeignTable { path, found: "files".to_owned() });
    }
    Ok(found)
}

/// Ends what is half done, by whomever; what there is then.
pub fn settle(table: &BucketTable) -> Result<Found, WriterError> {
    for _ in 0..ATTEMPTS {
        let found = record::read(table)?;
        if found.is_settled() {
            return Ok(found);
        }
        if let Step::Settled(found) = advance(table, found)? {
            return Ok(*found);
        }
    }
    Err(WriterError::Contended { table: table.paths.live.clone(), attempts: ATTEMPTS })
}

/// How far a record has come.
enum Step {
    /// Nothing is left to do.
    Settled(Box<Found>),
    /// Nothing is left to do, and the commit is not made: this file is gone.
    TakenBack(String),
    /// Somebody else has changed the record.
    Overtaken,
}

/// Takes a record to where nothing is half done.
fn advance(table: &BucketTable, found: Found) -> Result<Step, WriterError> {
    let Some(next) = found.record.next.clone() else { return remove(table, found) };
    match complete(table, &next.files)? {
        None => {
            let mut files = if next.append { found.record.files.clone() } else { Vec::new() };
            files.extend(next.files.into_iter().map(|file| file.path));
            let published =
                Record { commit: Some(next.commit), files, next: None, remove: next.remove };
            match record::swap(table, &found, published)? {
                Some(found) => remove(table, found),
                None => Ok(Step::Overtaken),
            }
        }
        Some(gone) => {
            // First, so that nobody completes one of them after its removal.
            table.bucket.each(&next.files, |file| {
                table.bucket.abort(&at(table, &file.path), &file.upload)
            })?;
            let former = Record {
                next: None,
                remove: next.files.into_iter().map(|file| file.path).collect(),
                ..found.record.clone()
            };
            match record::swap(table, &found, former)? {
                Some(found) => match remove(table, found)? {
                    Step::Settled(_) => Ok(Step::TakenBack(gone)),
                    other => Ok(other),
                },
                None => Ok(Step::Overtaken),
            }
        }
    }
}

/// Makes objects of all uploads; the path of one that cannot be, if there is.
fn complete(table: &BucketTable, files: &[Held]) -> Result<Option<String>, WriterError> {
    let gone = Mutex::new(None);
    table.bucket.each(files, |file| {
        let pending = Pending {
            location: at(table, &file.path),
            upload: &file.upload,
            parts: &file.parts,
            bytes: file.bytes,
        };
        if !table.bucket.complete(&pending)? {
            *gone.lock().unwrap_or_else(PoisonError::into_inner) = Some(file.path.clone());
        }
        Ok(())
    })?;
    Ok(gone.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Removes what the record says is to go, and says that it is gone.
fn remove(table: &BucketTable, found: Found) -> Result<Step, WriterError> {
    if found.record.remove.is_empty() {
        return Ok(Step::Settled(Box::new(found)));
    }
    let kept: HashSet<&String> = found.record.files.iter().collect();
    let going: Vec<_> = found.record.remove.iter().filter(|path| !kept.contains(path)).collect();
    table.bucket.each(&going, |path| table.bucket.delete(&at(table, path)))?;
    let settled = Record { remove: Vec::new(), ..found.record.clone() };
    let swapped = record::swap(table, &found, settled)?;
    Ok(swapped.map_or(Step::Overtaken, |found| Step::Settled(Box::new(found))))
}

/// Removes what is staged for a load. The commit stands either way, and the next
/// Prepare removes what is left.
fn clean_up(table: &BucketTable, load: &str, done: &[String]) {
    let done: Vec<&str> = done.iter().map(String::as_str).collect();
    if let Err(error) = stage::remove(table, load, &done) {
        tracing::warn!("{error}; {load} is left for later");
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
