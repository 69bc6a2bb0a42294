//! Before a run: what a table holds, and the removal of what earlier runs have
//! staged and given up.
//!
//! Removing is safe without a lock by the order of things. A load that is to
//! go is first given up by a tag of its name, set by a swap: a commit of that
//! load derived from an older base then conflicts, for it demands that there is
//! no such tag (a catalog may put together two changes of which neither touches
//! what the other demands), and from this one on every attempt sees that its
//! load is given up. Only then go the staged manifests, and after them the data
//! files. The tag stays until the next commit: that moves main, which every
//! commit demands to be where it was, and removes the tag.
//!
//! A table without a snapshot has nothing to tag, one that does not exist
//! nothing to swap: what was staged waits for the first Prepare after the first
//! commit, or for a drop.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::Utc;
use iceberg::spec::{SnapshotReference, SnapshotRetention, TableMetadata};
use proto::v1::{CommitRecord, PrepareRequest};
use uuid::Uuid;

use super::catalog::{Loaded, Next, Swap};
use super::commit::discard;
use super::position::{self, Position};
use super::{IcebergTable, LOAD_PREFIX, Paths, manifest, stage};
use crate::error::WriterError;
use crate::storage::plain;

/// Before a load id: the tag of a load that is given up.
const TAG_PREFIX: &str = "tidewater-given-up-";
/// Table property: ids of the loads that may have tags, with commas. Tags that
/// are missing in it end by their age.
const GIVEN_UP: &str = "tidewater.given-up-loads";
/// A tag keeps its snapshot from expiring for so long at most.
const TAG_AGE_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Bases to try the property's swap against, before it is left to a later run.
const ATTEMPTS: u32 = 5;
/// How far ahead of our clock a table's last commit may be. A property is set at
/// our time, which may not be before that; only a snapshot can wait out more.
const AHEAD_MS: i64 = 60_000;

/// Says what the table holds, after removing what abandoned loads have left.
pub fn prepare(
    table: &IcebergTable,
    request: &PrepareRequest,
) -> Result<Option<CommitRecord>, WriterError> {
    for load in &request.keep_load_ids {
        plain("load_id", load)?;
    }
    let Some(base) = table.load()? else {
        if request.look {
            return Ok(None);
        }
        table.catalog.make_ready(&table.name)?;
        if !table.catalog.places_tables() {
            try_writing(table, &Paths::of(None, &table.new_location))?;
        }
        return Ok(None);
    };
    let position = position::of(&base.metadata);
    if !request.look {
        let paths = Paths::of(Some(&base.metadata), &table.new_location);
        try_writing(table, &paths)?;
        remove_abandoned(table, base, &paths, &request.keep_load_ids)?;
    }
    match position {
        Position::None => Ok(None),
        Position::At(record) => Ok(Some(record)),
        Position::RolledBack(record) => {
            // A full refresh depends on nothing that was there.
            tracing::warn!(
                table = %table.name, commit = record.commit_id,
                "the table was rolled back to before our last commit"
            );
            Ok(None)
        }
    }
}

/// The tag that says that a load is given up.
pub fn tag(load_id: &str) -> String {
    format!("{TAG_PREFIX}{load_id}")
}

/// Whether a Prepare has given a load up.
pub fn is_given_up(metadata: &TableMetadata, load_id: &str) -> bool {
    metadata.snapshot_for_ref(&tag(load_id)).is_some()
}

/// The loads whose tags are there.
pub fn tagged(metadata: &TableMetadata) -> Vec<&str> {
    let listed = metadata.properties().get(GIVEN_UP).map(String::as_str).unwrap_or_default();
    listed.split(',').filter(|load| is_given_up(metadata, load)).collect()
}

/// A commit writes there, too.
fn try_writing(table: &IcebergTable, paths: &Paths) -> Result<(), WriterError> {
    let probe = format!("{}/probe-{}.avro", paths.metadata, Uuid::new_v4().simple());
    table.storage.write(&probe, b"tidewater")?;
    table.storage.delete(&probe)
}

/// What loads have left: their staged manifests, and whether they have data.
type Remains = BTreeMap<String, Vec<String>>;

fn remove_abandoned(
    table: &IcebergTable,
    mut base: Loaded,
    paths: &Paths,
    keep: &[String],
) -> Result<(), WriterError> {
    for _ in 0..ATTEMPTS {
        let mut remains = remains(table, paths, &base.metadata, keep)?;
        let loads: BTreeSet<String> = remains.keys().cloned().collect();
        let used = used(table, &base, paths, &loads)?;
        remains.retain(|load, _| !used.contains(load));
        if remains.is_empty() {
            return Ok(());
        }
        let Some(snapshot_id) = base.metadata.current_snapshot_id() else { return Ok(()) };
        if remains.keys().all(|load| is_given_up(&base.metadata, load)) {
            return remove(table, paths, &remains);
        }
        if base.metadata.last_updated_ms() > Utc::now().timestamp_millis() + AHEAD_MS {
            tracing::warn!(
                table = %table.name,
                "abandoned loads are left for later: the table's last commit is from the future"
            );
            return Ok(());
        }
        let next = give_up(&base, snapshot_id, remains.keys())?;
        match table.catalog.swap(&table.name, Some(&base), &next)? {
            Swap::Swapped => {
                tracing::info!(table = %table.name, loads = remains.len(), "removing abandoned loads");
                return remove(table, paths, &remains);
            }
            Swap::Conflict => {}
            Swap::Unknown(cause) => {
                tracing::warn!(table = %table.name, "abandoned loads are left for later: {cause}");
                return Ok(());
            }
        }
        match table.load()? {
            Some(current) => base = current,
            None => return Ok(()),
        }
    }
    tracing::warn!(table = %table.name, "abandoned loads are left for later: the table is busy");
    Ok(())
}

/// Loads that have left something, are not kept, and made no commit that is
/// remembered.
fn remains(
    table: &IcebergTable,
    paths: &Paths,
    metadata: &TableMetadata,
    keep: &[String],
) -> Result<Remains, WriterError> {
    let committed = position::loads(metadata);
    let mut remains = Remains::new();
    for name in table.storage.list(&paths.metadata)?.objects {
        if let Some(load) = stage::load_of(&name) {
            let staged = format!("{}/{name}", paths.metadata);
            remains.entry(load.to_owned()).or_default().push(staged);
        }
    }
    for name in table.storage.list(&paths.data)?.directories {
        if let Some(load) = name.strip_prefix(LOAD_PREFIX) {
            remains.entry(load.to_owned()).or_default();
        }
    }
    remains.retain(|load, _| !keep.contains(load) && !committed.contains(load));
    // Some stores go on naming directories that nothing is in.
    let mut emptied = Vec::new();
    for (load, staged) in &remains {
        if staged.is_empty() && table.storage.list(&paths.load(load))?.objects.is_empty() {
            emptied.push(load.clone());
        }
    }
    remains.retain(|load, _| !emptied.contains(load));
    Ok(remains)
}

/// Those of `loads` that a snapshot refers to all the same: their own has
/// expired, and the files live on. Reads every manifest of the table, which
/// only a run after an interrupted one has to.
fn used(
    table: &IcebergTable,
    base: &Loaded,
    paths: &Paths,
    loads: &BTreeSet<String>,
) -> Result<BTreeSet<String>, WriterError> {
    let mut used = BTreeSet::new();
    if loads.is_empty() {
        return Ok(used);
    }
    let mut seen = BTreeSet::new();
    let data = format!("{}/{LOAD_PREFIX}", paths.data);
    for snapshot in base.metadata.snapshots() {
        for entry in table.manifests_of(snapshot, base)? {
            if !seen.insert(entry.manifest_path.clone()) {
                continue;
            }
            let content = table.object(&entry.manifest_path)?;
            let manifest = manifest::decode(&entry.manifest_path, &content)?;
            for file in manifest.entries() {
                let load = file.file_path().strip_prefix(&data).and_then(|p| p.split('/').next());
                used.extend(load.filter(|load| loads.contains(*load)).map(str::to_owned));
            }
        }
    }
    Ok(used)
}

/// The table with the tags of `loads`, on its current snapshot.
fn give_up<'a>(
    base: &'a Loaded,
    snapshot_id: i64,
    loads: impl Iterator<Item = &'a String>,
) -> Result<Next, WriterError> {
    let failed = || WriterError::iceberg("giving loads up");
    let retention = SnapshotRetention::Tag { max_ref_age_ms: Some(TAG_AGE_MS) };
    let tagged: BTreeSet<&str> = loads.map(String::as_str).chain(tagged(&base.metadata)).collect();
    let mut builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    for load in &tagged {
        if !is_given_up(&base.metadata, load) {
            let reference = SnapshotReference::new(snapshot_id, retention.clone());
            builder = builder.set_ref(&tag(load), reference).map_err(failed())?;
        }
    }
    let listed = tagged.into_iter().collect::<Vec<_>>().join(",");
    let property = HashMap::from([(GIVEN_UP.to_owned(), listed)]);
    let made =
        builder.set_properties(property).and_then(|builder| builder.build()).map_err(failed())?;
    Ok(Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() })
}

/// The manifests first: without them nothing of the load can be committed.
fn remove(table: &IcebergTable, paths: &Paths, remains: &Remains) -> Result<(), WriterError> {
    for staged in remains.values().flatten() {
        table.storage.delete(staged)?;
    }
    for load in remains.keys() {
        let directory = paths.load(load);
        for name in table.storage.list(&directory)?.objects {
            discard(table, &format!("{directory}/{name}"));
        }
    }
    Ok(())
}
