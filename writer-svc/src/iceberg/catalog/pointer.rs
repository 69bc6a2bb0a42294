//! Metadata files: a catalog that only holds the location of the current one
//! swaps that, and the file is ours to read and to write.

use std::io::Read;

use iceberg::spec::TableMetadata;
use uuid::Uuid;

use super::{Catalog, Loaded, TableName};
use crate::error::WriterError;
use crate::iceberg::Paths;
use crate::iceberg::storage::Storage;

/// The metadata at a location that a catalog gave.
pub fn load(
    storage: &dyn Storage,
    table: &TableName,
    location: String,
) -> Result<Loaded, WriterError> {
    let content = storage.read(&location)?.ok_or_else(|| WriterError::BadTable {
        table: table.to_string(),
        problem: format!("its catalog names {location}, which is not there"),
    })?;
    let metadata = parse(&content).map_err(|problem| WriterError::BadTable {
        table: table.to_string(),
        problem: format!("{location} cannot be read: {problem}"),
    })?;
    Ok(Loaded { metadata, location })
}

/// JSON, or what others have compressed.
fn parse(content: &[u8]) -> Result<TableMetadata, String> {
    let mut plain = Vec::new();
    let json = if content.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = flate2::read::GzDecoder::new(content);
        unpacked.read_to_end(&mut plain).map_err(|e| e.to_string())?;
        plain.as_slice()
    } else {
        content
    };
    serde_json::from_slice(json).map_err(|e| e.to_string())
}

/// Writes the metadata that are to follow `base`; where.
pub fn write(
    storage: &dyn Storage,
    base: Option<&Loaded>,
    next: &TableMetadata,
) -> Result<String, WriterError> {
    let version = base.map_or(0, |base| version(&base.location) + 1);
    let directory = Paths::of(Some(next), next.location()).metadata;
    let location = format!("{directory}/{version:05}-{}.metadata.json", Uuid::new_v4());
    let json = serde_json::to_vec(next)
        .map_err(|e| WriterError::Internal(format!("writing a table's metadata: {e}")))?;
    storage.write(&location, &json)?;
    Ok(location)
}

/// Whether a table's current or earlier metadata are those of a location.
fn was_at(table: &Loaded, location: &str) -> bool {
    let log = table.metadata.metadata_log();
    table.location == location || log.iter().any(|earlier| earlier.metadata_file == location)
}

/// Removes the new metadata file of a swap that is certain not to be made.
pub fn forget(storage: &dyn Storage, location: &str) {
    if let Err(error) = storage.delete(location) {
        tracing::warn!("{error}; {location} is left");
    }
}

/// The same after a Conflict, unless the table is or was at that file: what lies
/// between us and the catalog may have repeated the request.
pub fn forget_unless_made(
    catalog: &dyn Catalog,
    storage: &dyn Storage,
    table: &TableName,
    location: &str,
) {
    match catalog.load(table) {
        Ok(Some(now)) if was_at(&now, location) => {}
        Ok(_) => forget(storage, location),
        Err(error) => tracing::warn!("{error}; {location} is left"),
    }
}

/// The version in a metadata file's name: `00007-<uuid>.metadata.json`, or
/// `v7.metadata.json` of tables without a catalog.
fn version(location: &str) -> u64 {
    let name = location.rsplit('/').next().unwrap_or(location);
    let name = name.strip_prefix('v').unwrap_or(name);
    let digits = name.len() - name.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    name[..digits].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_file_name() {
        for (location, expected) in [
            ("file:///w/t/metadata/00007-6c3c.metadata.json", 7),
            ("/w/t/metadata/v12.metadata.json", 12),
            ("/w/9/metadata/x.metadata.json", 0),
            ("123456-a.gz.metadata.json", 123_456),
        ] {
            assert_eq!(version(location), expected, "{location}");
        }
    }
}
