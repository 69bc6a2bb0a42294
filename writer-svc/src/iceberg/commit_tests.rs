//! Commits to real tables in a directory, by a catalog that can be told to
//! misbehave.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use iceberg::spec::{
    ManifestFile, ManifestStatus, SnapshotReference, SnapshotRetention, TableMetadata,
};
use proto::v1::iceberg::Catalog as Configured;
use proto::v1::{Iceberg, JdbcCatalog, PrepareRequest, StageRequest, StagedChunk, Table};

#[path = "commit_schema_tests.rs"]
mod schema_changes;

use super::*;
use crate::encode::Encoder;
use crate::iceberg::catalog::{Catalog, Next, TableName};
use crate::iceberg::position::Position;
use crate::target::{Staging, Target};

#[path = "commit_merging_tests.rs"]
mod merging;

/// A table in a warehouse below `root`.
fn table(root: &Path) -> IcebergTable {
    let root = root.display();
    let jdbc = JdbcCatalog {
        url: format!("jdbc:sqlite:{root}/catalog.db"),
        catalog_name: "test".into(),
        ..Default::default()
    };
    let iceberg = Iceberg {
        warehouse: format!("file://{root}/warehouse"),
        catalog: Some(Configured::Jdbc(jdbc)),
        ..Default::default()
    };
    let table = Table { database: "d".into(), name: "t".into(), ..Default::default() };
    IcebergTable::new(&iceberg, &table, &crate::Options::default()).unwrap()
}

/// Stages a chunk of the rows `ids`.
fn stage(table: &IcebergTable, load: &str, chunk: u32, ids: std::ops::Range<i64>) -> StagedChunk {
    let request = StageRequest {
        load_id: load.into(),
        chunk_id: chunk,
        settings_hash: "hash".into(),
        ..Default::default()
    };
    let layout = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let Staging { stage, schema, .. } = table.stage(&request, &Schema::empty(), layout).unwrap();
    let mut encoder = Encoder::new(stage, Arc::clone(&schema), 1 << 30, 1 << 20);
    let rows = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(ids))]);
    encoder.write("", &rows.unwrap()).unwrap();
    encoder.finish().unwrap().seal(&request).unwrap()
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
        let manifest = manifest::decode(&entry.manifest_path, &content).unwrap();
        for live in manifest::live(&manifest, &entry).unwrap() {
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

#[test]
fn a_commit_replaces_the_content_in_one_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    let staged = vec![stage(&table, "l1", 0, 0..10), stage(&table, "l1", 1, 10..15)];
    let first = commit(&table, &request("c1", "l1", staged)).unwrap();
    assert_eq!((first.record.rows, first.record.files, first.already), (15, 2, false));
    assert_eq!(first.location, table.new_location);
    let snapshot = metadata(&table).current_snapshot().unwrap().clone();
    assert_eq!(snapshot.summary().operation, Operation::Append);
    assert_eq!(manifests(&table).len(), 1);

    let second = commit_rows(&table, "c2", 4);
    let now = metadata(&table);
    let snapshot = now.current_snapshot().unwrap();
    assert_eq!((now.snapshots().len(), snapshot.sequence_number()), (2, 2));
    assert_eq!(snapshot.summary().operation, Operation::Overwrite);
    let summary = &snapshot.summary().additional_properties;
    for (key, value) in [
        ("added-records", "4"),
        ("deleted-records", "15"),
        ("deleted-data-files", "2"),
        ("total-records", "4"),
        ("total-data-files", "1"),
        ("total-delete-files", "0"),
    ] {
        assert_eq!(summary.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(summary["total-files-size"], second.record.bytes.to_string());
    assert_eq!(rows(&table), 4);
    assert_eq!(position::of(&now), Position::At(second.record));
    assert!(objects(&table, "metadata").iter().all(|name| !name.starts_with("staged-")));

    // What was removed is told once, with the numbers it had.
    let gone = manifests(&table).into_iter().find(|entry| !manifest::may_be_live(entry)).unwrap();
    let content = table.object(&gone.manifest_path).unwrap();
    let gone = manifest::decode(&gone.manifest_path, &content).unwrap();
    assert_eq!(gone.entries().len(), 2);
    for entry in gone.entries() {
        assert_eq!(entry.status(), ManifestStatus::Deleted);
        assert_eq!((entry.sequence_number, entry.file_sequence_number), (Some(1), Some(1)));
        assert_eq!(entry.snapshot_id, Some(snapshot.snapshot_id()));
    }
    commit_rows(&table, "c3", 1);
    assert_eq!(manifests(&table).len(), 2, "one that adds, one that removes");
    assert_eq!(commit_ids(&table), ["c3", "c2", "c1"]);
}

#[test]
fn a_commit_without_rows_empties_the_table() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    let empty = commit_rows(&table, "c0", 0);
    assert_eq!((empty.record.rows, empty.record.files), (0, 0));
    assert_eq!(rows(&table), 0);
    commit_rows(&table, "c1", 5);
    commit_rows(&table, "c2", 0);
    assert_eq!(rows(&table), 0);
    assert_eq!(
        metadata(&table).current_snapshot().unwrap().summary().operation,
        Operation::Overwrite
    );
}

#[test]
fn a_repeated_commit_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    let request = request("c1", "l1", vec![stage(&table, "l1", 0, 0..3)]);
    let first = commit(&table, &request).unwrap();
    let before = table.load().unwrap().unwrap().location;
    let again = commit(&table, &request).unwrap();
    assert_eq!(again, Committed { already: true, ..first.clone() });
    assert_eq!(table.load().unwrap().unwrap().location, before);

    // Also when another has been made since.
    commit_rows(&table, "c2", 1);
    assert_eq!(commit(&table, &request).unwrap(), Committed { already: true, ..first });
    assert_eq!(rows(&table), 1);
}

#[test]
fn a_foreign_commit_in_between_is_built_upon() {
    let root = tempfile::tempdir().unwrap();
    commit_rows(&table(root.path()), "c1", 2);
    let other = table(root.path());
    let table = scripted(
        root.path(),
        vec![Step::After(Box::new(move || foreign_commit(&other, "theirs")))],
    );
    let done = commit_rows(&table, "c2", 3);
    assert!(!done.already);
    assert_eq!((rows(&table), commit_ids(&table)), (3, vec!["c2".to_owned(), "c1".into()]));
    assert_eq!(metadata(&table).properties()["theirs"], "x");
    // The refused attempt has left nothing: two commits, one foreign.
    let metadata = objects(&table, "metadata");
    let count = |mark: &str| metadata.iter().filter(|name| name.contains(mark)).count();
    assert_eq!(
        (count("snap-"), count("-d0.avro"), count(".metadata.json")),
        (2, 1, 3),
        "{metadata:?}"
    );
}

#[test]
fn of_two_of_ours_from_one_base_one_is_refused() {
    let root = tempfile::tempdir().unwrap();
    commit_rows(&table(root.path()), "c0", 1);
    let other = table(root.path());
    let table = scripted(
        root.path(),
        vec![Step::After(Box::new(move || drop(commit_rows(&other, "theirs", 7))))],
    );
    let staged = vec![stage(&table, "l1", 0, 0..3)];
    let refused = commit(&table, &request("ours", "l1", staged)).unwrap_err();
    assert!(matches!(&refused, WriterError::Fenced { by, .. } if by == "theirs"), "{refused}");
    assert_eq!((rows(&table), commit_ids(&table)), (7, vec!["theirs".to_owned(), "c0".into()]));
    // So is one of two that would create the table.
    let root = tempfile::tempdir().unwrap();
    let other = self::table(root.path());
    let table = scripted(
        root.path(),
        vec![Step::After(Box::new(move || drop(commit_rows(&other, "theirs", 7))))],
    );
    let staged = vec![stage(&table, "l1", 0, 0..3)];
    let refused = commit(&table, &request("ours", "l1", staged)).unwrap_err();
    assert!(matches!(refused, WriterError::Fenced { .. }), "{refused}");
    assert_eq!(rows(&table), 7);
}

#[test]
fn a_swap_that_was_made_unheard_is_found_and_not_repeated() {
    for step in [Step::MadeUnknown, Step::MadeConflict] {
        let root = tempfile::tempdir().unwrap();
        commit_rows(&table(root.path()), "c0", 1);
        let table = scripted(root.path(), vec![step]);
        let done = commit_rows(&table, "c1", 3);
        assert!(!done.already);
        assert_eq!((rows(&table), metadata(&table).snapshots().len()), (3, 2));
        assert_eq!(commit_ids(&table), ["c1", "c0"]);
    }
}

#[test]
fn a_swap_that_was_lost_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let table = scripted(root.path(), vec![Step::LostUnknown, Step::LostUnknown]);
    commit_rows(&table, "c1", 3);
    assert_eq!((rows(&table), commit_ids(&table)), (3, vec!["c1".to_owned()]));
}

#[test]
fn what_is_staged_and_not_committed_is_not_seen_and_goes_when_it_is_given_up() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    commit_rows(&table, "c0", 2);
    let kept = stage(&table, "kept", 0, 0..3);
    let lost = stage(&table, "lost", 0, 0..4);
    assert_eq!(rows(&table), 2);

    let keep = PrepareRequest { keep_load_ids: vec!["kept".into()], ..Default::default() };
    let record = table.prepare(&keep).unwrap().unwrap();
    assert_eq!(record.commit_id, "c0");
    assert_eq!(objects(&table, "data/load-lost"), [""; 0]);
    assert_eq!(objects(&table, "data/load-kept").len(), 1);
    let before = table.load().unwrap().unwrap().location;
    table.prepare(&keep).unwrap();
    assert_eq!(table.load().unwrap().unwrap().location, before, "nothing to give up");

    let refused = commit(&table, &request("c1", "lost", vec![lost])).unwrap_err();
    assert!(matches!(refused, WriterError::StageGone { .. }), "{refused}");
    commit(&table, &request("c2", "kept", vec![kept])).unwrap();
    assert_eq!(rows(&table), 3);
    // Committed files are no remains, whatever is kept.
    table.prepare(&PrepareRequest::default()).unwrap();
    assert_eq!(rows(&table), 3);
}

#[test]
fn a_load_given_up_while_it_is_committed_is_not_committed() {
    let root = tempfile::tempdir().unwrap();
    commit_rows(&table(root.path()), "c0", 2);
    let other = table(root.path());
    let give_up = move || drop(other.prepare(&PrepareRequest::default()).unwrap());
    let table = scripted(root.path(), vec![Step::After(Box::new(give_up))]);
    let staged = vec![stage(&table, "l1", 0, 0..3)];
    let refused = commit(&table, &request("c1", "l1", staged)).unwrap_err();
    assert!(matches!(refused, WriterError::StageGone { .. }), "{refused}");
    assert_eq!((rows(&table), commit_ids(&table)), (2, vec!["c0".to_owned()]));
}

#[test]
fn a_commit_between_staging_and_given_up_keeps_its_files() {
    let root = tempfile::tempdir().unwrap();
    commit_rows(&table(root.path()), "c0", 2);
    let other = table(root.path());
    let request = request("c1", "l1", vec![stage(&other, "l1", 0, 0..3)]);
    let commit_first = move || drop(commit(&other, &request).unwrap());
    // The first swap is that of Prepare.
    let table = scripted(root.path(), vec![Step::After(Box::new(commit_first))]);
    table.prepare(&PrepareRequest::default()).unwrap();
    assert_eq!((rows(&table), commit_ids(&table)), (3, vec!["c1".to_owned(), "c0".into()]));
}

#[test]
fn files_of_repeated_attempts_at_a_chunk_go_with_the_commit() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    stage(&table, "l1", 0, 0..9);
    let staged = vec![stage(&table, "l1", 0, 0..3)];
    commit(&table, &request("c1", "l1", staged)).unwrap();
    assert_eq!((rows(&table), objects(&table, "data/load-l1").len()), (3, 1));
}

#[test]
fn a_table_that_was_rolled_back_has_no_position() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    commit_rows(&table, "c1", 1);
    let first = metadata(&table).current_snapshot_id().unwrap();
    let last = commit_rows(&table, "c2", 2).record;

    let base = table.load().unwrap().unwrap();
    let main = SnapshotReference::new(first, SnapshotRetention::branch(None, None, None));
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let made = builder.set_ref("main", main).unwrap().build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    table.catalog.swap(&table.name, Some(&base), &next).unwrap();

    assert_eq!(position::of(&metadata(&table)), Position::RolledBack(last));
    assert_eq!(table.prepare(&PrepareRequest::default()).unwrap(), None);
    // A refresh depends on nothing that was there.
    commit_rows(&table, "c3", 5);
    assert_eq!((rows(&table), commit_ids(&table)), (5, vec!["c3".to_owned(), "c1".into()]));
}

#[test]
fn the_position_outlives_its_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    let first = commit_rows(&table, "c1", 1).record;
    let base = table.load().unwrap().unwrap();
    let only = base.metadata.current_snapshot_id().unwrap();
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let made = builder.remove_ref("main").remove_snapshots(&[only]).build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    table.catalog.swap(&table.name, Some(&base), &next).unwrap();
    let now = metadata(&table);
    assert_eq!(position::of(&now), Position::At(first.clone()));
    assert_eq!(position::find(&now, "c1"), Some(first));
    assert_eq!(position::find(&now, "c2"), None);
}

#[test]
fn metadata_files_do_not_grow_without_end() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    commit_rows(&table, "c0", 1);
    let base = table.load().unwrap().unwrap();
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let limit = [("write.metadata.previous-versions-max".to_owned(), "2".to_owned())].into();
    let made = builder.set_properties(limit).unwrap().build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    table.catalog.swap(&table.name, Some(&base), &next).unwrap();
    for n in 1..6 {
        commit_rows(&table, &format!("c{n}"), n);
    }
    let files = objects(&table, "metadata");
    let kept = files.iter().filter(|name| name.ends_with(".metadata.json")).count();
    assert_eq!(kept, 3, "the current and two before it: {files:?}");
}

#[test]
fn a_drop_leaves_nothing_and_spares_what_is_not_ours() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    assert!(!table.drop_table().unwrap());
    stage(&table, "early", 0, 0..1);
    assert!(!table.drop_table().unwrap());
    assert!(!root.path().join("warehouse/d").exists());

    commit_rows(&table, "c1", 1);
    commit_rows(&table, "c2", 2);
    stage(&table, "late", 0, 0..1);
    let theirs = root.path().join("warehouse/d/t/theirs.txt");
    std::fs::write(&theirs, "x").unwrap();
    assert!(table.drop_table().unwrap());
    assert!(table.load().unwrap().is_none());
    assert!(theirs.exists());
    assert!(!root.path().join("warehouse/d/t/data").exists());
    assert!(!root.path().join("warehouse/d/t/metadata").exists());
    commit_rows(&table, "c3", 3);
    assert_eq!(rows(&table), 3);
}

#[test]
fn a_commit_of_what_does_not_belong_together_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    let chunk = stage(&table, "load", 0, 0..1);
    let elsewhere = format!("{}/other/metadata/staged-load-00000-x.avro", table.new_location);
    let refused: [(&str, &str, StagedChunk); 5] = [
        ("../c", "load", chunk.clone()),
        ("c", "load2", chunk.clone()),
        ("c", "load", StagedChunk { manifest: elsewhere, ..chunk.clone() }),
        ("c", "load", StagedChunk { rows: 2, ..chunk.clone() }),
        ("c", "load", StagedChunk { manifest: "/etc/passwd".into(), ..chunk.clone() }),
    ];
    for (commit_id, load_id, chunk) in refused {
        let request = request(commit_id, load_id, vec![chunk]);
        assert!(commit(&table, &request).is_err(), "{request:?}");
    }
    let unspecified = CommitRequest { mode: 0, ..request("c", "load", vec![chunk]) };
    assert!(commit(&table, &unspecified).is_err());
    assert!(table.load().unwrap().is_none());
}
