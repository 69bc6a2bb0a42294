//! The one loop that changes a table's content.
//!
//! ```text
//!     ┌─► load ─► our commit id in main's ancestry? ──yes──► done
//!     │    │ no: is our position still the one we began with? the load not given up?
//!     │    ▼
//!     │   staged manifests ─► manifests of the new files ([`added`], once)
//!     │   base's manifests ─► what the mode leaves of them ([`remains`])
//!     │    ▼
//!     │   manifest list ─► metadata ─► swap ──Swapped──► clean up, done
//!     └── Conflict, Unknown ◄────────────┘
//! ```
//!
//! Every attempt derives everything from the base it loads. After Conflict as
//! after Unknown the table is asked first whether the commit has been made:
//! what lies between us and a catalog may have repeated the request. What an
//! attempt has written is removed only when its swap is certain to be refused.
//!
//! A foreign commit in between is taken as the new base. Two of ours from one
//! base exclude each other: the second is refused. The caller may say which
//! base that is, so that it holds from one call to the next.
//!
//! Where the catalog can, the swaps of several tables are one ([`together`]).

mod added;
mod append;
mod merge;
pub mod remains;
mod replace;
mod row_delta;
pub mod spent;
pub mod together;

use std::collections::HashSet;
use std::time::Duration;

use iceberg::spec::DataFile;
use proto::v1::commit_request::Mode;
use proto::v1::{CommitRecord, CommitRequest};
use uuid::Uuid;

use super::catalog::{Loaded, Swap};
use super::manifest;
use super::manifest::rolling::Shelf;
use super::position::Position;
use super::properties::Properties;
use super::snapshot::{self, Draft, Made, Tally};
use super::stage::{self as staged, Staged};
use super::{IcebergTable, Paths, position, prepare};
use crate::error::WriterError;
use crate::stage::check_chunks;
use crate::storage::plain;
use crate::target::Committed;
use added::Added;
use remains::Attempt;

/// Swaps to try against bases that do not last.
const ATTEMPTS: u32 = 10;
/// Wait after the first that was refused; doubled for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Changes the table's content by the staged chunks, as the mode says.
pub fn commit(table: &IcebergTable, request: &CommitRequest) -> Result<Committed, WriterError> {
    let mut commit = Commit::new(table, request)?;
    commit.run().map_err(|error| commit.end(error))
}

/// A commit under way.
struct Commit<'a> {
    table: &'a IcebergTable,
    request: &'a CommitRequest,
    /// The id of our last commit before the first attempt.
    began: Option<Option<String>>,
    /// What there is to commit; read by the first attempt that came so far.
    staged: Option<Staged>,
    /// The same in manifests; made with it.
    added: Option<Added>,
    /// Objects that only the current attempt refers to.
    written: Vec<String>,
    /// The attempt of which it is not known whether it was or will be made.
    unclear: Option<Unclear>,
}

/// A swap without an answer. It is refused once main is no longer where it was
/// in its base.
struct Unclear {
    cause: String,
    base: Option<i64>,
}

/// How far an attempt has come by itself.
enum Step {
    /// The table has the commit already.
    Found(Committed),
    /// The swap is all that is missing.
    Swap(Box<Ready>),
}

struct Ready {
    base: Option<Loaded>,
    made: Made,
    then: Then,
}

/// What a commit is, once its swap is made.
struct Then {
    record: CommitRecord,
    /// Of the metadata.
    location: String,
    paths: Paths,
    /// Metadata files to be removed.
    forgotten: Vec<String>,
    /// Main's snapshot in its base.
    base: Option<i64>,
}

impl<'a> Commit<'a> {
    /// Refuses what no correct client asks for.
    fn new(table: &'a IcebergTable, request: &'a CommitRequest) -> Result<Self, WriterError> {
        if request.mode() == Mode::Unspecified {
            return Err(WriterError::InvalidRequest("a commit needs a known mode".into()));
        }
        plain("commit_id", &request.commit_id)?;
        check_chunks(request)?;
        let began = request.expected_commit_id.clone();
        let began = began.map(|expected| Some(expected).filter(|id| !id.is_empty()));
        Ok(Commit {
            table,
            request,
            began,
            staged: None,
            added: None,
            written: Vec::new(),
            unclear: None,
        })
    }

    fn run(&mut self) -> Result<Committed, WriterError> {
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(wait(attempt));
            }
            let Ready { base, made, then } = match self.attempt(attempt)? {
                Step::Found(committed) => return Ok(committed),
                Step::Swap(ready) => *ready,
            };
            match self.table.catalog.swap(&self.table.name, base.as_ref(), &made.next)? {
                Swap::Swapped => return Ok(self.swapped(then)),
                Swap::Conflict => self.refused()?,
                Swap::Unknown(cause) => self.unanswered(&then, &cause),
            }
        }
        Err(WriterError::Contended { table: self.table.name.to_string(), attempts: ATTEMPTS })
    }

    /// Everything but the swap, from the table as it is now.
    fn attempt(&mut self, attempt: u32) -> Result<Step, WriterError> {
        let base = self.table.load()?;
        if let Some(base) = &base
            && let Some(record) = position::find(&base.metadata, &self.request.commit_id)
        {
            let paths = Paths::of(Some(&base.metadata), &self.table.new_location);
            self.clean_up(&paths, &[]);
            return Ok(Step::Found(committed(base.metadata.location(), record, attempt == 0)));
        }
        let current = base.as_ref().and_then(|base| base.metadata.current_snapshot_id());
        self.unclear = self.unclear.take().filter(|unclear| unclear.base == current);
        self.check_position(base.as_ref())?;
        let made = self.derive(base.as_ref())?;
        let then = self.then(&made, current)?;
        Ok(Step::Swap(Box::new(Ready { base, made, then })))
    }

    /// The end of a commit that is not made, or not known to be.
    fn end(&mut self, error: WriterError) -> WriterError {
        if let Some(unclear) = &self.unclear {
            return WriterError::CommitUnclear {
                table: self.table.name.to_string(),
                cause: unclear.cause.clone(),
                source: Box::new(error),
            };
        }
        self.give_up();
        error
    }

    /// Removes what was written for it, if that is certain not to be needed.
    fn give_up(&mut self) {
        if self.unclear.is_none() {
            self.added.iter().for_each(|added| added.discard(self.table));
            self.discard_written();
        }
    }

    fn discard_written(&mut self) {
        self.written.drain(..).for_each(|location| discard(self.table, &location));
    }

    /// Another commit of ours in between fences this one; so does a Prepare
    /// that has given its load up.
    fn check_position(&mut self, base: Option<&Loaded>) -> Result<(), WriterError> {
        let position = base.map(|base| position::of(&base.metadata));
        if let Some(Position::RolledBack(last)) = &position
            && self.request.mode() != Mode::Replace
        {
            return Err(WriterError::RolledBack {
                table: self.table.name.to_string(),
                last: last.commit_id.clone(),
            });
        }
        let current = position.as_ref().and_then(|current| current.commit_id());
        let began = self.began.get_or_insert_with(|| current.map(str::to_owned));
        if began.as_deref() != current {
            return Err(WriterError::Fenced {
                table: self.table.name.to_string(),
                by: current.unwrap_or("a table that was dropped or rolled back").to_owned(),
            });
        }
        if base.is_some_and(|base| prepare::is_given_up(&base.metadata, &self.request.load_id)) {
            return Err(WriterError::StageGone {
                manifest: self.request.staged[0].manifest.clone().into(),
                problem: "a later run has given the load up".into(),
            });
        }
        Ok(())
    }

    /// Everything of a new snapshot but the swap.
    fn derive(&mut self, base: Option<&Loaded>) -> Result<Made, WriterError> {
        let table = self.table;
        let storage = table.storage.as_ref();
        let metadata = base.map(|base| &base.metadata);
        let paths = Paths::of(metadata, &table.new_location);
        let staged = match self.staged.take() {
            Some(staged) => staged,
            None => staged::read(storage, &paths, self.request)?,
        };
        let staged = &*self.staged.insert(staged);
        remains::check(self.request.mode(), staged)?;
        let draft = Draft::of(base, staged, &table.new_location, table.new_version)?;
        let draft = draft.map_err(|problem| staged.outdated(table, &problem))?;
        let properties = Properties::of(metadata);
        let mut shelf = Shelf::new(storage, &paths.metadata);
        let added = match self.added.take() {
            Some(added) if added.fits(&draft) => added,
            // Others have changed schema or spec in between.
            outdated => {
                outdated.iter().for_each(|outdated| outdated.discard(table));
                let added = Added::write(staged, &draft, properties.manifest_bytes, &mut shelf);
                let stored = std::mem::take(&mut shelf.stored);
                added.inspect_err(|_| self.written = stored)?
            }
        };
        let added = &*self.added.insert(added);
        let count = added.manifests.len();
        let attempt = Attempt { table, base, properties, draft: &draft, staged, added: count };
        let mut shelf = Shelf::new(storage, &paths.metadata);
        let remains = remains::remains(self.request.mode(), &attempt, &mut shelf);
        self.written.append(&mut shelf.stored);
        let remains = remains?;
        let mut tally = Tally::default();
        staged.files().for_each(|file| tally.add(file));
        let operation = remains::operation(&tally, &remains.removed);
        let total = remains.kept.plus(&tally);
        let mut summary = snapshot::summary(&tally, &remains.removed, &total);
        summary.extend(position::summary(self.request));
        let mut manifests = added.manifests.clone();
        for manifest in &mut manifests {
            manifest.added_snapshot_id = draft.snapshot_id;
        }
        manifests.extend(remains.manifests);
        let id = Uuid::new_v4();
        let location = format!("{}/snap-{}-0-{id}.avro", paths.metadata, draft.snapshot_id);
        let (list, next_row_id) = manifest::list(&draft.head(), manifests)?;
        self.written.push(location.clone());
        storage.write(&location, &list)?;
        let snapshot = draft.snapshot(location, next_row_id, operation, summary);
        draft.finish(snapshot, &self.request.load_id)
    }

    /// After a Conflict: removes what the attempt wrote, unless the table says
    /// that the commit has been made all the same, or another attempt may be.
    fn refused(&mut self) -> Result<(), WriterError> {
        if self.unclear.is_some() {
            self.written.clear();
            return Ok(());
        }
        let now = self.table.load()?;
        let made =
            now.is_some_and(|now| position::find(&now.metadata, &self.request.commit_id).is_some());
        if made {
            self.written.clear();
        } else {
            self.discard_written();
        }
        Ok(())
    }

    /// What the attempt wrote may be the table's, or become it.
    fn unanswered(&mut self, then: &Then, cause: &WriterError) {
        self.written.clear();
        tracing::warn!(
            table = %self.table.name, commit = self.request.commit_id,
            "whether a swap was made is not known: {cause}"
        );
        self.unclear = Some(Unclear { cause: cause.to_string(), base: then.base });
    }

    /// What there will be to say and to do, of what is swapped in.
    fn then(&self, made: &Made, base: Option<i64>) -> Result<Then, WriterError> {
        let metadata = &made.next.metadata;
        let record = position::record(&made.snapshot)
            .ok_or_else(|| WriterError::Internal("a commit has no record".into()))?;
        let delete = Properties::of(Some(metadata)).deletes_metadata
            && !self.table.catalog.owns_metadata_files();
        Ok(Then {
            record,
            location: metadata.location().to_owned(),
            paths: Paths::of(Some(metadata), &self.table.new_location),
            forgotten: if delete { made.forgotten.clone() } else { Vec::new() },
            base,
        })
    }

    fn swapped(&mut self, then: Then) -> Committed {
        // From here on these are the table's.
        self.written.clear();
        self.added = None;
        self.clean_up(&then.paths, &then.forgotten);
        committed(&then.location, then.record, false)
    }

    /// Removes what the commit has made useless. It stands either way.
    fn clean_up(&mut self, paths: &Paths, forgotten: &[String]) {
        let table = self.table;
        for location in self.request.staged.iter().map(|chunk| &chunk.manifest).chain(forgotten) {
            discard(table, location);
        }
        // Attempts at a chunk that were repeated have left files, too.
        let Some(staged) = &self.staged else { return };
        let known: HashSet<&str> = staged.files().map(DataFile::file_path).collect();
        let directory = paths.load(&self.request.load_id);
        match table.storage.list(&directory) {
            Ok(listing) => {
                let files = listing.objects.iter().map(|name| format!("{directory}/{name}"));
                for location in files.filter(|file| !known.contains(file.as_str())) {
                    discard(table, &location);
                }
            }
            Err(error) => tracing::warn!("{error}; what lies there is left"),
        }
    }
}

fn committed(location: &str, record: CommitRecord, already: bool) -> Committed {
    Committed { record, already, location: location.to_owned() }
}

/// Removes an object that nothing needs any more; if that fails, it stays.
pub(super) fn discard(table: &IcebergTable, location: &str) {
    if let Err(error) = table.storage.delete(location) {
        tracing::warn!("{error}; {location} is left");
    }
}

/// A wait that grows, and differs between writers.
fn wait(attempt: u32) -> Duration {
    let full = FIRST_WAIT.saturating_mul(1 << (attempt - 1).min(10)).min(LONGEST_WAIT);
    let (random, _) = Uuid::new_v4().as_u64_pair();
    full.mul_f64(0.5 + (random % 1000) as f64 / 2000.0)
}

#[cfg(test)]
mod tests;
