//! The one loop that changes a table's content.
//!
//! ```text
//!     ┌─► load ─► our commit id in main's ancestry? ──yes──► done
//!     │    │ no: is our position still the one we began with? the load not given up?
//!     │    ▼
//!     │   staged manifests ─► manifests of the new files (once)
//!     │   base's manifests ─► the same files as DELETED
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
//! base exclude each other: the second is refused.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use iceberg::spec::{DataFile, ManifestFile, Operation, PartitionSpecRef, SchemaRef};
use proto::v1::commit_request::Mode;
use proto::v1::{CommitRecord, CommitRequest};
use uuid::Uuid;

use super::catalog::{Loaded, Swap};
use super::manifest::{self, Common};
use super::snapshot::{self, Draft, Made, Tally};
use super::stage::{self as staged, Staged};
use super::{IcebergTable, Paths, position, prepare};
use crate::error::WriterError;
use crate::stage::check_chunks;
use crate::storage::plain;
use crate::target::Committed;

/// Swaps to try against bases that do not last.
const ATTEMPTS: u32 = 10;
/// Wait after the first that was refused; doubled for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// Bytes of a manifest, about: what engines plan by in one piece.
const MANIFEST_BYTES: usize = 8 << 20;

/// Replaces the table's content by the staged chunks.
pub fn commit(table: &IcebergTable, request: &CommitRequest) -> Result<Committed, WriterError> {
    if request.mode() != Mode::Replace {
        return Err(WriterError::InvalidRequest("a commit needs a known mode".into()));
    }
    plain("commit_id", &request.commit_id)?;
    check_chunks(request)?;
    let mut commit =
        Commit { table, request, began: None, staged: None, added: None, unclear: None };
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
    /// The attempt of which it is not known whether it was or will be made.
    unclear: Option<Unclear>,
}

/// A swap without an answer. It is refused once main is no longer where it was
/// in its base.
struct Unclear {
    cause: WriterError,
    base: Option<i64>,
}

/// The new files in manifests that fit any snapshot of a table with this
/// schema and spec. (An id must mean one schema in all files of a table.)
struct Added {
    schema: SchemaRef,
    spec: PartitionSpecRef,
    manifests: Vec<ManifestFile>,
}

impl Commit<'_> {
    fn run(&mut self) -> Result<Committed, WriterError> {
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(wait(attempt));
            }
            let base = self.table.load()?;
            if let Some(base) = &base
                && let Some(record) = position::find(&base.metadata, &self.request.commit_id)
            {
                let paths = Paths::of(Some(&base.metadata), &self.table.new_location);
                self.clean_up(&paths, &[]);
                return Ok(committed(base.metadata.location(), record, attempt == 0));
            }
            let current = base.as_ref().and_then(|base| base.metadata.current_snapshot_id());
            self.unclear = self.unclear.take().filter(|unclear| unclear.base == current);
            self.check_position(base.as_ref())?;
            let (made, written) = self.derive(base.as_ref())?;
            match self.table.catalog.swap(&self.table.name, base.as_ref(), &made.next)? {
                Swap::Swapped => return self.swapped(made),
                Swap::Conflict if self.unclear.is_none() => {
                    self.forget_unless_made(&written)?;
                }
                Swap::Conflict => {}
                Swap::Unknown(cause) => {
                    tracing::warn!(
                        table = %self.table.name, commit = self.request.commit_id,
                        "whether a swap was made is not known: {cause}"
                    );
                    self.unclear = Some(Unclear { cause, base: current });
                }
            }
        }
        Err(WriterError::Contended { table: self.table.name.to_string(), attempts: ATTEMPTS })
    }

    /// The end of a commit that is not made, or not known to be.
    fn end(&mut self, error: WriterError) -> WriterError {
        if let Some(unclear) = &self.unclear {
            return WriterError::CommitUnclear {
                table: self.table.name.to_string(),
                cause: unclear.cause.to_string(),
                source: Box::new(error),
            };
        }
        self.added.iter().for_each(|added| added.discard(self.table));
        error
    }

    /// Another commit of ours in between fences this one; so does a Prepare
    /// that has given its load up.
    fn check_position(&mut self, base: Option<&Loaded>) -> Result<(), WriterError> {
        let current = base.map(|base| position::of(&base.metadata));
        let current = current.as_ref().and_then(|current| current.commit_id());
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

    /// Everything of a new snapshot but the swap; and the objects that only
    /// this attempt refers to.
    fn derive(&mut self, base: Option<&Loaded>) -> Result<(Made, Vec<String>), WriterError> {
        let table = self.table;
        let storage = table.storage.as_ref();
        let paths = Paths::of(base.map(|base| &base.metadata), &table.new_location);
        let staged = match self.staged.take() {
            Some(staged) => staged,
            None => staged::read(storage, &paths, &self.request.load_id, &self.request.staged)?,
        };
        let staged = &*self.staged.insert(staged);
        let Common { schema, spec, .. } = &staged.common;
        let draft = Draft::of(base, schema, &staged.lineage, spec, &table.new_location)?;
        let draft = draft.map_err(|problem| WriterError::StageGone {
            manifest: self.request.staged[0].manifest.clone().into(),
            problem: format!("the table {} has changed since: {problem}", table.name),
        })?;
        let added = match self.added.take() {
            Some(added) if added.fits(&draft) => added,
            // Others have changed schema or spec in between.
            outdated => {
                outdated.iter().for_each(|outdated| outdated.discard(table));
                Added::write(table, &paths, staged, &draft)?
            }
        };
        let added = &*self.added.insert(added);
        let mut tally = Tally::default();
        staged.files.iter().for_each(|file| tally.add(file));
        let id = Uuid::new_v4();
        let mut written = Vec::new();
        let mut manifests = added.manifests.clone();
        for manifest in &mut manifests {
            manifest.added_snapshot_id = draft.snapshot_id;
        }
        let removed = match base {
            Some(base) => remove(table, base, &paths, &draft, id, &mut written)?,
            None => Removed::default(),
        };
        manifests.extend(removed.manifests);
        let operation = if removed.tally == Tally::default() {
            Operation::Append
        } else {
            Operation::Overwrite
        };
        let mut summary = snapshot::summary(&tally, &removed.tally, &tally);
        summary.extend(position::summary(&self.request.commit_id, &self.request.load_id));
        let list = format!("{}/snap-{}-0-{id}.avro", paths.metadata, draft.snapshot_id);
        let snapshot = draft.snapshot(list.clone(), operation, summary);
        storage.write(&list, &manifest::list(&snapshot, manifests)?)?;
        written.push(list);
        Ok((draft.finish(snapshot, &self.request.load_id)?, written))
    }

    /// After a Conflict: removes what the attempt wrote, unless the table says
    /// that the commit has been made all the same.
    fn forget_unless_made(&self, written: &[String]) -> Result<(), WriterError> {
        let now = self.table.load()?;
        let made =
            now.is_some_and(|now| position::find(&now.metadata, &self.request.commit_id).is_some());
        if !made {
            for location in written {
                discard(self.table, location);
            }
        }
        Ok(())
    }

    fn swapped(&mut self, made: Made) -> Result<Committed, WriterError> {
        let metadata = &made.next.metadata;
        let record = position::record(&made.snapshot)
            .ok_or_else(|| WriterError::Internal("a commit has no record".into()))?;
        let paths = Paths::of(Some(metadata), &self.table.new_location);
        let delete = "write.metadata.delete-after-commit.enabled";
        let wanted = metadata.properties().get(delete).is_some_and(|value| value == "true")
            && !self.table.catalog.owns_metadata_files();
        let forgotten = if wanted { made.forgotten.as_slice() } else { &[] };
        self.clean_up(&paths, forgotten);
        Ok(committed(metadata.location(), record, false))
    }

    /// Removes what the commit has made useless. It stands either way.
    fn clean_up(&mut self, paths: &Paths, forgotten: &[String]) {
        let table = self.table;
        for location in self.request.staged.iter().map(|chunk| &chunk.manifest).chain(forgotten) {
            discard(table, location);
        }
        // Attempts at a chunk that were repeated have left files, too.
        let Some(staged) = &self.staged else { return };
        let known: HashSet<&str> = staged.files.iter().map(DataFile::file_path).collect();
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

impl Added {
    fn write(
        table: &IcebergTable,
        paths: &Paths,
        staged: &Staged,
        draft: &Draft,
    ) -> Result<Self, WriterError> {
        let (schema, spec) = (Arc::clone(&draft.schema), Arc::clone(&draft.spec));
        let common = Common {
            schema: Arc::clone(&schema),
            spec: spec.as_ref().clone(),
            content: staged.common.content,
        };
        let id = Uuid::new_v4();
        let mut added = Added { schema, spec, manifests: Vec::new() };
        for (number, files) in by_size(&staged.files).into_iter().enumerate() {
            let location = format!("{}/{id}-m{number}.avro", paths.metadata);
            let mut encoded = manifest::added(&common, files.to_vec())?;
            table.storage.write(&location, &encoded.content)?;
            encoded.entry.manifest_path = location;
            added.manifests.push(encoded.entry);
        }
        Ok(added)
    }

    fn fits(&self, draft: &Draft) -> bool {
        self.schema.schema_id() == draft.schema.schema_id()
            && self.schema.as_struct() == draft.schema.as_struct()
            && self.spec == draft.spec
    }

    /// Of a commit that will not be made with them.
    fn discard(&self, table: &IcebergTable) {
        for manifest in &self.manifests {
            discard(table, &manifest.manifest_path);
        }
    }
}

/// The base's files on their way out.
#[derive(Default)]
struct Removed {
    manifests: Vec<ManifestFile>,
    tally: Tally,
}

/// Rewrites every manifest of the base that may hold files, with those as
/// DELETED. Manifests that only say what was removed are dropped.
fn remove(
    table: &IcebergTable,
    base: &Loaded,
    paths: &Paths,
    draft: &Draft,
    id: Uuid,
    written: &mut Vec<String>,
) -> Result<Removed, WriterError> {
    let mut removed = Removed::default();
    for (number, entry) in table.manifests(base)?.into_iter().enumerate() {
        if !manifest::may_be_live(&entry) {
            continue;
        }
        let manifest =
            manifest::decode(&entry.manifest_path, &table.object(&entry.manifest_path)?)?;
        let live = manifest::live(&manifest, &entry)?;
        if live.is_empty() {
            continue;
        }
        live.iter().for_each(|live| removed.tally.add(&live.file));
        let common = Common {
            schema: manifest.metadata().schema().clone(),
            spec: manifest.metadata().partition_spec().clone(),
            content: entry.content,
        };
        let mut encoded = manifest::deleted(&common, draft.snapshot_id, live)?;
        let location = format!("{}/{id}-d{number}.avro", paths.metadata);
        table.storage.write(&location, &encoded.content)?;
        written.push(location.clone());
        encoded.entry.manifest_path = location;
        removed.manifests.push(encoded.entry);
    }
    Ok(removed)
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

/// Cuts files into runs for manifests of about [`MANIFEST_BYTES`].
fn by_size(files: &[DataFile]) -> Vec<&[DataFile]> {
    let mut runs = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (at, file) in files.iter().enumerate() {
        let bytes = data_file_bytes(file);
        if at > start && size + bytes > MANIFEST_BYTES {
            runs.push(&files[start..at]);
            (start, size) = (at, 0);
        }
        size += bytes;
    }
    if start < files.len() {
        runs.push(&files[start..]);
    }
    runs
}

/// About what a file takes in a manifest.
fn data_file_bytes(file: &DataFile) -> usize {
    let counts =
        file.column_sizes().len() + file.value_counts().len() + file.null_value_counts().len();
    let bounds = file.lower_bounds().len() + file.upper_bounds().len();
    200 + file.file_path().len() + 8 * counts + 20 * bounds
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
