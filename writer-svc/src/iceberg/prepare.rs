//! Before a run: what a table holds, and the removal of what earlier runs have
//! staged and given up.
//!
//! Removing is safe without a lock by the order of things. A load that is to
//! go is first named in a property of the table, in a swap: a commit of that
//! load derived from an older base then conflicts, and from this one on every
//! attempt sees that its load is given up. Only then go the staged manifests,
//! and after them the data files. When the next loads take the property's
//! place, those manifests are gone, and a commit finds none.
//!
//! A table that does not exist yet has nothing to swap: what was staged for it
//! waits for the first Prepare after its creation, or for a drop.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iceberg::spec::TableMetadata;
use proto::v1::{CommitRecord, PrepareRequest};
use uuid::Uuid;

use super::catalog::{Loaded, Next, Swap};
use super::commit::discard;
use super::position::{self, Position};
use super::{IcebergTable, LOAD_PREFIX, Paths, manifest, stage};
use crate::error::WriterError;
use crate::storage::plain;

/// Table property: ids of the loads given up last, with commas.
const GIVEN_UP: &str = "tidewater.given-up-loads";
/// Bases to try the property's swap against, before it is left to a later run.
const ATTEMPTS: u32 = 5;

/// Says what the table holds, after removing what abandoned loads have left.
pub fn prepare(
    table: &IcebergTable,
    request: &PrepareRequest,
) -> Result<Option<CommitRecord>, WriterError> {
    for load in &request.keep_load_ids {
        plain("load_id", load)?;
    }
    let Some(base) = table.load()? else {
        try_writing(table, &Paths::of(None, &table.new_location))?;
        return Ok(None);
    };
    let paths = Paths::of(Some(&base.metadata), &table.new_location);
    try_writing(table, &paths)?;
    let position = position::of(&base.metadata);
    remove_abandoned(table, base, &paths, &request.keep_load_ids)?;
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

/// Whether a Prepare has given a load up.
pub fn is_given_up(metadata: &TableMetadata, load_id: &str) -> bool {
    let given_up = metadata.properties().get(GIVEN_UP);
    given_up.is_some_and(|loads| loads.split(',').any(|load| load == load_id))
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
        let next = give_up(&base, remains.keys())?;
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

fn give_up<'a>(
    base: &Loaded,
    loads: impl Iterator<Item = &'a String>,
) -> Result<Next, WriterError> {
    let loads: Vec<&str> = loads.map(String::as_str).collect();
    let property = HashMap::from([(GIVEN_UP.to_owned(), loads.join(","))]);
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let made = builder
        .set_properties(property)
        .and_then(|builder| builder.build())
        .map_err(WriterError::iceberg("giving loads up"))?;
    Ok(Next { metadata: made.metadata, changes: made.changes })
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
