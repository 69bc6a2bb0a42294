//! The two calls around a table's life: make ready for a run, and remove.

use proto::v1::{CommitRecord, PrepareRequest};
use uuid::Uuid;

use super::commit::{present, settle};
use super::record::{self, Record};
use super::{BucketTable, stage};
use crate::error::WriterError;
use crate::storage::plain;

/// Says what the table holds, after ending what a crashed commit has left half
/// done and removing what abandoned loads have staged. Fails where a later commit
/// would.
pub fn prepare(
    table: &BucketTable,
    request: &PrepareRequest,
) -> Result<Option<CommitRecord>, WriterError> {
    if request.look {
        return Ok(record::read(table)?.commit());
    }
    for load in &request.keep_load_ids {
        plain("load_id", load)?;
    }
    let found = settle(table)?;
    if !found.exists() {
        present(table, &found)?;
    }
    for load in table.bucket.list(&table.paths.staging)?.directories {
        if !request.keep_load_ids.contains(&load) {
            stage::remove(table, &format!("{}/{load}", table.paths.staging), &[])?;
        }
    }
    let probe = format!("{}/.probe-{}", table.paths.staging, Uuid::new_v4().simple());
    table.bucket.write(&probe, b"tidewater")?;
    table.bucket.delete(&probe)?;
    Ok(found.commit())
}

/// Removes the table and all that is staged for it; whether there was one. A
/// crash in the middle leaves the table whole, or gone but for objects that the
/// same call removes.
pub fn drop_table(table: &BucketTable) -> Result<bool, WriterError> {
    let mut found = settle(table)?;
    let existed = found.record.commit.is_some();
    let present = present(table, &found)?;
    if found.exists() && (existed || !present.is_empty()) {
        let gone = Record { remove: present, ..Record::default() };
        // Who has changed it meanwhile has made a table that is not this one.
        if record::swap(table, &found, gone)?.is_none() {
            return Err(WriterError::Fenced {
                table: table.paths.live.clone(),
                by: "a commit of the same moment".to_owned(),
            });
        }
        found = settle(table)?;
    }
    stage::remove(table, &table.paths.staging, &[])?;
    if found.exists() && record::read(table)? == found {
        table.bucket.delete(&record::location(table))?;
    }
    Ok(existed)
}
