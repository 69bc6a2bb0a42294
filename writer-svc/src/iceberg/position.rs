//! Which commit of ours a table holds.
//!
//! Every commit writes its id and its load into the summary of its snapshot,
//! and the whole record, with the snapshot's id, into a property of the table:
//! both in the one swap. The newest ancestor of main that has an id counts;
//! foreign snapshots in between do not matter. The property serves when that
//! snapshot has expired. If its snapshot is still there but no ancestor of
//! main, the table was rolled back, and nothing can be concluded from either.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat};
use iceberg::spec::{Snapshot, SnapshotRef, TableMetadata};
use proto::v1::{CommitRecord, CommitRequest};
use serde::{Deserialize, Serialize};

use crate::error::WriterError;
use crate::record;

/// Summary: [`CommitRecord::commit_id`].
const COMMIT_ID: &str = "tidewater.commit-id";
/// Summary: [`CommitRecord::load_id`].
const LOAD_ID: &str = "tidewater.load-id";
/// Summary: [`CommitRecord::position`]; absent when it is empty.
const REACHED: &str = "tidewater.position";
/// Table property: [`Stored`] as JSON.
const PROPERTY: &str = "tidewater.position";

/// What is known of a table's content.
#[derive(Debug, PartialEq)]
pub enum Position {
    /// No commit of ours.
    None,
    /// This is the last one.
    At(CommitRecord),
    /// This was the last one, and no longer is part of the table's history.
    RolledBack(CommitRecord),
}

impl Position {
    /// Its commit id.
    pub fn commit_id(&self) -> Option<&str> {
        match self {
            Position::None => None,
            Position::At(record) | Position::RolledBack(record) => Some(&record.commit_id),
        }
    }
}

/// The property's content.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "snapshot-id")]
    snapshot_id: i64,
    #[serde(flatten)]
    record: record::Stored,
}

/// Where a table stands.
pub fn of(metadata: &TableMetadata) -> Position {
    let mut stored = stored(metadata);
    let is_ancestor = |id: i64| ancestors(metadata).any(|snapshot| snapshot.snapshot_id() == id);
    let is_aside = |stored: &mut Stored| {
        metadata.snapshot_by_id(stored.snapshot_id).is_some() && !is_ancestor(stored.snapshot_id)
    };
    if let Some(stored) = stored.take_if(is_aside) {
        return Position::RolledBack(stored.record.into());
    }
    match ancestors(metadata).find_map(|snapshot| record(snapshot)) {
        Some(record) => Position::At(record),
        None => stored.map_or(Position::None, |stored| Position::At(stored.record.into())),
    }
}

/// The record of a commit that is part of the table's history.
pub fn find(metadata: &TableMetadata, commit_id: &str) -> Option<CommitRecord> {
    let known = ancestors(metadata).filter_map(|snapshot| record(snapshot));
    let expired = || {
        let stored = stored(metadata)?;
        metadata.snapshot_by_id(stored.snapshot_id).is_none().then(|| stored.record.into())
    };
    known.chain(std::iter::once_with(expired).flatten()).find(|it| it.commit_id == commit_id)
}

/// Whether any commit of ours was ever made to the table.
pub fn is_ours(metadata: &TableMetadata) -> bool {
    metadata.properties().contains_key(PROPERTY)
        || metadata.snapshots().any(|snapshot| record(snapshot).is_some())
}

/// Loads whose files a snapshot of ours has added, as far as is remembered.
pub fn loads(metadata: &TableMetadata) -> Vec<String> {
    let mut loads: Vec<_> = metadata
        .snapshots()
        .filter_map(|snapshot| snapshot.summary().additional_properties.get(LOAD_ID).cloned())
        .collect();
    loads.extend(stored(metadata).map(|stored| CommitRecord::from(stored.record).load_id));
    loads
}

/// What a commit says of itself in its snapshot's summary.
pub fn summary(request: &CommitRequest) -> impl Iterator<Item = (String, String)> {
    let CommitRequest { commit_id, load_id, position, .. } = request;
    let said = [(COMMIT_ID, commit_id), (LOAD_ID, load_id), (REACHED, position)];
    let said = said.into_iter().filter(|(key, value)| *key != REACHED || !value.is_empty());
    said.map(|(key, value)| (key.to_owned(), value.clone()))
}

/// What a commit says of itself in the table's properties.
pub fn property(snapshot: &Snapshot) -> Result<HashMap<String, String>, WriterError> {
    let internal = |what: String| WriterError::Internal(format!("writing a position: {what}"));
    let record = record(snapshot).ok_or_else(|| internal("the snapshot has none".into()))?;
    let stored = Stored { snapshot_id: snapshot.snapshot_id(), record: record.into() };
    let json = serde_json::to_string(&stored).map_err(|e| internal(e.to_string()))?;
    Ok([(PROPERTY.to_owned(), json)].into())
}

/// The snapshots of main, the newest first, as far as they have not expired.
pub fn ancestors(metadata: &TableMetadata) -> impl Iterator<Item = &SnapshotRef> {
    let parent = |snapshot: &&SnapshotRef| metadata.snapshot_by_id(snapshot.parent_snapshot_id()?);
    // No more than there are, whatever the parents say.
    std::iter::successors(metadata.current_snapshot(), parent).take(metadata.snapshots().len())
}

/// The record in a snapshot's summary, if it is ours.
pub fn record(snapshot: &Snapshot) -> Option<CommitRecord> {
    let summary = &snapshot.summary().additional_properties;
    let number = |key: &str| summary.get(key).and_then(|text| text.parse().ok()).unwrap_or(0);
    let committed_at = DateTime::from_timestamp_millis(snapshot.timestamp_ms());
    Some(CommitRecord {
        commit_id: summary.get(COMMIT_ID)?.clone(),
        load_id: summary.get(LOAD_ID)?.clone(),
        rows: number("added-records"),
        files: number("added-data-files"),
        bytes: number("added-files-size"),
        committed_at: committed_at
            .map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true))
            .unwrap_or_default(),
        position: summary.get(REACHED).cloned().unwrap_or_default(),
    })
}

fn stored(metadata: &TableMetadata) -> Option<Stored> {
    serde_json::from_str(metadata.properties().get(PROPERTY)?).ok()
}
