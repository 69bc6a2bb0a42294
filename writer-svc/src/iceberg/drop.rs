//! The end of a table: the catalog forgets it, then its files go.
//!
//! Removed is what lies under the table's location, or where its properties put
//! new files, and is referred to by any
//! of its snapshots or metadata, or was named by us. What lies elsewhere (files
//! that somebody registered) stays.

use std::collections::BTreeSet;

use super::catalog::Loaded;
use super::commit::discard;
use super::storage::is_below;
use super::{IcebergTable, LOAD_PREFIX, Paths, manifest, stage};
use crate::error::WriterError;

/// Bases to try against.
const ATTEMPTS: u32 = 10;

/// Removes the table and all that is staged for it; whether there was one. A
/// crash in the middle leaves the table whole or gone, and files of it that the
/// same call removes, as far as their names are ours.
pub fn drop_table(table: &IcebergTable) -> Result<bool, WriterError> {
    for _ in 0..ATTEMPTS {
        let Some(base) = table.load()? else {
            if table.catalog.places_tables() {
                return Ok(false);
            }
            remove_ours(table, &Paths::of(None, &table.new_location))?;
            return Ok(false);
        };
        let files = reachable(table, &base)?;
        if table.catalog.drop_table(&table.name, &base)? {
            for location in &files {
                discard(table, location);
            }
            remove_ours(table, &Paths::of(Some(&base.metadata), &table.new_location))?;
            return Ok(true);
        }
    }
    Err(WriterError::Contended { table: table.name.to_string(), attempts: ATTEMPTS })
}

/// Everything that the table refers to, under its location; the data first.
fn reachable(table: &IcebergTable, base: &Loaded) -> Result<Vec<String>, WriterError> {
    let metadata = &base.metadata;
    let (mut data, mut manifests, mut others) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for snapshot in metadata.snapshots() {
        others.insert(snapshot.manifest_list().to_owned());
        // A table that is damaged can be dropped as well.
        let Ok(entries) = table.manifests_of(snapshot, base) else { continue };
        for entry in entries {
            if !manifests.insert(entry.manifest_path.clone()) {
                continue;
            }
            let manifest = table
                .object(&entry.manifest_path)
                .and_then(|content| manifest::decode(&entry.manifest_path, &content));
            if let Ok(manifest) = manifest {
                data.extend(manifest.entries().iter().map(|file| file.file_path().to_owned()));
            }
        }
    }
    let statistics = metadata.statistics_iter().map(|file| &file.statistics_path);
    let partitions = metadata.partition_statistics_iter().map(|file| &file.statistics_path);
    let log = metadata.metadata_log().iter().map(|log| &log.metadata_file);
    others.extend(statistics.chain(partitions).chain(log).chain([&base.location]).cloned());
    let Paths { data: data_path, metadata: metadata_path } =
        Paths::of(Some(metadata), &table.new_location);
    let ours = [metadata.location(), &data_path, &metadata_path];
    let inside = |location: &String| ours.iter().any(|path| is_below(location, path));
    let all = data.into_iter().chain(manifests).chain(others);
    Ok(all.filter(inside).collect())
}

/// What we name after loads: staged manifests first, then data files.
fn remove_ours(table: &IcebergTable, paths: &Paths) -> Result<(), WriterError> {
    for name in table.storage.list(&paths.metadata)?.objects {
        if stage::load_of(&name).is_some() {
            discard(table, &format!("{}/{name}", paths.metadata));
        }
    }
    for directory in table.storage.list(&paths.data)?.directories {
        if directory.starts_with(LOAD_PREFIX) {
            let directory = format!("{}/{directory}", paths.data);
            for name in table.storage.list(&directory)?.objects {
                discard(table, &format!("{directory}/{name}"));
            }
        }
    }
    Ok(())
}
