//! Commits to real tables in a directory, by a catalog that can be told to
//! misbehave.

mod abandoned;
mod catalog_merges;
mod concurrent;
mod deltas;
mod history;
mod lookups;
mod merging;
mod replace;
mod schema_changes;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use iceberg::spec::{
    ManifestFile, ManifestStatus, Operation, SnapshotReference, SnapshotRetention, TableMetadata,
};
use proto::v1::iceberg::Catalog as Configured;
use proto::v1::stage_request::Kind;
use proto::v1::{Iceberg, JdbcCatalog, PrepareRequest, StageRequest, StagedChunk, Table};

use super::*;
use crate::encode::Encoder;
use crate::iceberg::catalog::{Catalog, Next, TableName};
use crate::iceberg::position::Position;
use crate::target::{Staging, Target};

/// A table in a warehouse below `root`.
fn table(root: &Path) -> IcebergTable {
    table_as(root, "", 0)
}

/// The same, partitioned, of a format version.
fn table_as(root: &Path, partition_regex: &str, format_version: u32) -> IcebergTable {
    let root = root.display();
    let jdbc = JdbcCatalog {
        url: format!("jdbc:sqlite:{root}/catalog.db"),
        catalog_name: "test".into(),
        ..Default::default()
    };
    let iceberg = Iceberg {
        warehouse: format!("file://{root}/warehouse"),
        catalog: Some(Configured::Jdbc(jdbc)),
        format_version,
        ..Default::default()
    };
    let table = Table {
        database: "d".into(),
        name: "t".into(),
        partition_regex: partition_regex.into(),
        ..Default::default()
    };
    IcebergTable::new(&iceberg, &table, &crate::Options::default()).unwrap()
}

/// Stages a chunk of the rows `ids`.
fn stage(table: &IcebergTable, load: &str, chunk: u32, ids: std::ops::Range<i64>) -> StagedChunk {
    stage_kind(table, load, chunk, Kind::Data, ids)
}

/// Stages a chunk of deletes of the rows `ids`.
fn stage_deletes(
    table: &IcebergTable,
    load: &str,
    chunk: u32,
    ids: std::ops::Range<i64>,
) -> StagedChunk {
    stage_kind(table, load, chunk, Kind::EqualityDeletes, ids)
}

fn stage_kind(
    table: &IcebergTable,
    load: &str,
    chunk: u32,
    kind: Kind,
    ids: std::ops::Range<i64>,
) -> StagedChunk {
    let request = StageRequest {
        load_id: load.into(),
        chunk_id: chunk,
        settings_hash: "hash".into(),
        kind: kind.into(),
        ..Default::default()
    };
    let layout = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let source = Arc::clone(&layout);
    let Staging { stage, schema, split } = table.stage(&request, &source, layout).unwrap();
    let mut encoder = Encoder::new(stage, Arc::clone(&schema), 1 << 30, 1 << 20);
    let ids = Arc::new(Int64Array::from_iter_values(ids));
    let rows = RecordBatch::try_new(schema, vec![ids]).unwrap();
    match split {
        None => encoder.write("", &rows).unwrap(),
        Some(split) => {
            for (partition, of) in split.split(&rows, &rows).unwrap() {
                let rows = take(&rows, &of);
                encoder.write(&partition, &rows).unwrap();
            }
        }
    }
    encoder.finish().unwrap().seal(&request).unwrap()
}

fn take(rows: &RecordBatch, of: &UInt32Array) -> RecordBatch {
    arrow::compute::take_record_batch(rows, of).unwrap()
}

fn request(commit_id: &str, load_id: &str, staged: Vec<StagedChunk>) -> CommitRequest {
    CommitRequest {
        commit_id: commit_id.into(),
        load_id: load_id.into(),
        mode: Mode::Replace.into(),
        staged,
        ..Default::default()
    }
}

/// A commit of one chunk of the rows `0..rows`.
fn commit_rows(table: &IcebergTable, commit_id: &str, rows: i64) -> Committed {
    let load = format!("load-of-{commit_id}");
    let staged = stage(table, &load, 0, 0..rows);
    commit(table, &request(commit_id, &load, vec![staged])).unwrap()
}

fn metadata(table: &IcebergTable) -> TableMetadata {
    table.load().unwrap().expect("the table exists").metadata
}

fn manifests(table: &IcebergTable) -> Vec<ManifestFile> {
    let base = table.load().unwrap().unwrap();
    table.manifests(&base).unwrap()
}

/// Rows of the live files; every one of them must be there.
fn rows(table: &IcebergTable) -> u64 {
    let mut rows = 0;
    for entry in manifests(table) {
        let content = table.object(&entry.manifest_path).unwrap();
        for live in manifest::Lives::of(&entry, &content).unwrap() {
            let live = live.unwrap();
            assert!(table.storage.read(live.file.file_path()).unwrap().is_some());
            rows += live.file.record_count();
        }
    }
    rows
}

fn commit_ids(table: &IcebergTable) -> Vec<String> {
    let metadata = metadata(table);
    let records = position::ancestors(&metadata).filter_map(|snapshot| position::record(snapshot));
    records.map(|record| record.commit_id).collect()
}

fn objects(table: &IcebergTable, directory: &str) -> Vec<String> {
    table.storage.list(&format!("{}/{directory}", table.new_location)).unwrap().objects
}

/// What becomes of one swap.
enum Step {
    /// Something happens first, then it is made.
    After(Box<dyn FnOnce() + Send>),
    /// It is made, and nobody hears of it.
    MadeUnknown,
    /// It is lost on the way.
    LostUnknown,
    /// It is made, repeated by a proxy, and the repetition refused.
    MadeConflict,
}

/// A catalog that takes its next steps from a list, and then behaves.
#[derive(Debug)]
struct Scripted {
    inner: Box<dyn Catalog>,
    steps: Mutex<VecDeque<Step>>,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a step")
    }
}

impl Catalog for Scripted {
    fn check(&self) -> Result<(), WriterError> {
        self.inner.check()
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>, WriterError> {
        self.inner.load(table)
    }

    fn list(&self, namespace: &str) -> Result<Vec<TableName>, WriterError> {
        self.inner.list(namespace)
    }

    fn swap(
        &self,
        table: &TableName,
        base: Option<&Loaded>,
        next: &Next,
    ) -> Result<Swap, WriterError> {
        let swap = || self.inner.swap(table, base, next);
        let lost = || Ok(Swap::Unknown(WriterError::Internal("no answer".into())));
        let step = self.steps.lock().unwrap().pop_front();
        match step {
            None => swap(),
            Some(Step::After(first)) => {
                first();
                swap()
            }
            Some(Step::LostUnknown) => lost(),
            Some(Step::MadeUnknown) => swap().and_then(|_| lost()),
            Some(Step::MadeConflict) => swap().map(|_| Swap::Conflict),
        }
    }

    fn drop_table(&self, table: &TableName, base: &Loaded) -> Result<bool, WriterError> {
        self.inner.drop_table(table, base)
    }
}

/// The table, its next swaps going as told.
fn scripted(root: &Path, steps: Vec<Step>) -> IcebergTable {
    let mut table = table(root);
    let inner = table.catalog;
    table.catalog = Box::new(Scripted { inner, steps: Mutex::new(steps.into()) });
    table
}

/// A commit of somebody else that touches no file.
fn foreign_commit(table: &IcebergTable, key: &str) {
    let base = table.load().unwrap().unwrap();
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let property = [(key.to_owned(), "x".to_owned())].into();
    let made = builder.set_properties(property).unwrap().build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    let swap = table.catalog.swap(&table.name, Some(&base), &next).unwrap();
    assert!(matches!(swap, Swap::Swapped));
}
