//! A storage that reaches only what the writer may write to: a table's location
//! comes from its catalog, which may name any place.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::storage::Storage;
use crate::allow::{self, Place};
use crate::error::WriterError;
use crate::s3::bucket::Below;
use crate::stage::Sink;

#[derive(Debug)]
struct Guarded {
    storage: Arc<dyn Storage>,
    allowed: Vec<Place>,
}

/// The same storage, within the places that are allowed.
pub fn guarded(storage: Arc<dyn Storage>, allowed: &[Place]) -> Arc<dyn Storage> {
    if allowed.is_empty() {
        return storage;
    }
    Arc::new(Guarded { storage, allowed: allowed.to_vec() })
}

impl Storage for Guarded {
    fn read(&self, location: &str) -> Result<Option<Bytes>, WriterError> {
        allow::demand(&self.allowed, location)?;
        self.storage.read(location)
    }

    fn read_range(&self, location: &str, range: Range<u64>) -> Result<Option<Bytes>, WriterError> {
        allow::demand(&self.allowed, location)?;
        self.storage.read_range(location, range)
    }

    fn write(&self, location: &str, content: &[u8]) -> Result<(), WriterError> {
        allow::demand(&self.allowed, location)?;
        self.storage.write(location, content)
    }

    fn create(&self, location: &str) -> Result<Box<dyn Sink>, WriterError> {
        allow::demand(&self.allowed, location)?;
        self.storage.create(location)
    }

    fn list(&self, directory: &str) -> Result<Below, WriterError> {
        allow::demand(&self.allowed, directory)?;
        self.storage.list(directory)
    }

    fn delete(&self, location: &str) -> Result<(), WriterError> {
        allow::demand(&self.allowed, location)?;
        self.storage.delete(location)
    }

    fn scratch(&self) -> PathBuf {
        self.storage.scratch()
    }
}
