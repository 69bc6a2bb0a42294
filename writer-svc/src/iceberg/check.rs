//! Whether tables can be written, tried for real: the catalog, and in the
//! warehouse every kind of step that a commit takes.

use std::io::Write;
use std::sync::Arc;

use proto::v1::Iceberg;
use uuid::Uuid;

use super::{catalog, storage};
use crate::Options;
use crate::error::WriterError;

/// Tries, and leaves nothing behind.
pub fn check(iceberg: &Iceberg, options: &Options) -> Result<(), WriterError> {
    let storage = storage::open(iceberg, options)?;
    catalog::open(iceberg, Arc::clone(&storage))?.check()?;
    let warehouse = iceberg.warehouse.trim_end_matches('/');
    let probe = format!("{warehouse}/tidewater-check-{}", Uuid::new_v4().simple());
    let (whole, large) = (format!("{probe}/whole"), format!("{probe}/large"));
    let tried = || {
        storage.write(&whole, b"tidewater")?;
        let mut sink = storage.create(&large)?;
        sink.write_all(b"tidewater").map_err(WriterError::io("writing", &large))?;
        sink.finish()?;
        let found = storage.list(&probe)?.objects;
        let read = storage.read(&whole)?;
        if found != ["large", "whole"] || read.as_deref() != Some(b"tidewater") {
            return Err(WriterError::BadData(format!(
                "what was written to {probe} cannot be read back"
            )));
        }
        Ok(())
    };
    let outcome = tried();
    let removed = storage.delete(&whole).and(storage.delete(&large));
    outcome.and(removed)
}
