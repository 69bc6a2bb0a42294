//! Manifests of like files, each closed at about a size and stored.

use std::collections::BTreeMap;

use iceberg::spec::{Literal, ManifestFile, PrimitiveLiteral, Struct};
use uuid::Uuid;

use super::{Common, Encoded, Writer};
use crate::error::WriterError;
use crate::iceberg::storage::Storage;

/// Where manifests go, and what they are called.
#[derive(Debug)]
pub struct Shelf<'a> {
    storage: &'a dyn Storage,
    /// Of all names: "<directory>/<uuid>-m".
    prefix: String,
    /// Locations of all that was stored.
    pub stored: Vec<String>,
}

impl<'a> Shelf<'a> {
    /// In a directory, under names that nobody else uses.
    pub fn new(storage: &'a dyn Storage, directory: &str) -> Self {
        let prefix = format!("{directory}/{}-m", Uuid::new_v4());
        Shelf { storage, prefix, stored: Vec::new() }
    }

    fn store(&mut self, encoded: Encoded) -> Result<ManifestFile, WriterError> {
        let location = format!("{}{}.avro", self.prefix, self.stored.len());
        self.stored.push(location.clone());
        self.storage.write(&location, &encoded.content)?;
        Ok(ManifestFile { manifest_path: location, ..encoded.entry })
    }
}

/// Manifests being written: one at a time, but for tables partitioned by uuids.
///
/// A reader skips a manifest by the bounds of its partition values. Java's library
/// orders uuids as two signed numbers, others as bytes: bounds are right for all
/// only where both orders are one, among uuids of like signs.
#[derive(Debug)]
pub struct Rolling {
    common: Common,
    snapshot_id: Option<i64>,
    target_bytes: usize,
    open: BTreeMap<u64, Writer>,
    closed: Vec<ManifestFile>,
}

impl Rolling {
    /// Of files that have `common` in common; see [`Writer`].
    pub fn new(common: Common, snapshot_id: Option<i64>, target_bytes: usize) -> Self {
        Rolling { common, snapshot_id, target_bytes, open: BTreeMap::new(), closed: Vec::new() }
    }

    /// Lets the open manifest take a file of this partition.
    pub fn push(
        &mut self,
        shelf: &mut Shelf,
        partition: &Struct,
        file: impl FnOnce(&mut Writer) -> Result<(), WriterError>,
    ) -> Result<(), WriterError> {
        let signs = signs(partition);
        let mut open = match self.open.remove(&signs) {
            Some(open) => open,
            None => Writer::new(&self.common, self.snapshot_id)?,
        };
        file(&mut open)?;
        if open.size() < self.target_bytes {
            self.open.insert(signs, open);
        } else {
            self.closed.push(shelf.store(open.finish()?)?);
        }
        Ok(())
    }

    /// The manifests, none without a file.
    pub fn finish(mut self, shelf: &mut Shelf) -> Result<Vec<ManifestFile>, WriterError> {
        for open in std::mem::take(&mut self.open).into_values() {
            self.closed.push(shelf.store(open.finish()?)?);
        }
        Ok(self.closed)
    }
}

/// The signs of both halves of all uuids of a partition.
fn signs(partition: &Struct) -> u64 {
    let uuids = partition.iter().filter_map(|value| match value {
        Some(Literal::Primitive(PrimitiveLiteral::UInt128(uuid))) => Some(*uuid),
        _ => None,
    });
    uuids.fold(0, |signs, uuid| {
        let halves = u64::from(uuid >> 127 == 1) << 1 | u64::from(uuid >> 63 & 1 == 1);
        signs << 2 | halves
    })
}
