//! Appends and row deltas.

use iceberg::spec::ManifestContentType;

use super::*;

fn delta(mode: Mode, commit_id: &str, load: &str, staged: Vec<StagedChunk>) -> CommitRequest {
    CommitRequest { mode: mode.into(), ..request(commit_id, load, staged) }
}

/// Rows are added, in one chunk.
fn append_rows(table: &IcebergTable, commit_id: &str, ids: std::ops::Range<i64>) -> Committed {
    let staged = vec![stage(table, commit_id, 0, ids)];
    commit(table, &delta(Mode::Append, commit_id, commit_id, staged)).unwrap()
}

/// Rows are deleted, and others added.
fn change_rows(
    table: &IcebergTable,
    commit_id: &str,
    deleted: std::ops::Range<i64>,
    added: std::ops::Range<i64>,
) -> Committed {
    let staged =
        vec![stage(table, commit_id, 0, added), stage_deletes(table, commit_id, 1, deleted)];
    commit(table, &delta(Mode::RowDelta, commit_id, commit_id, staged)).unwrap()
}

fn summary(table: &IcebergTable) -> (Operation, std::collections::HashMap<String, String>) {
    let metadata = metadata(table);
    let summary = metadata.current_snapshot().unwrap().summary();
    (summary.operation.clone(), summary.additional_properties.clone())
}

fn has(table: &IcebergTable, expected: &[(&str, &str)]) {
    let (_, summary) = summary(table);
    for (key, value) in expected {
        assert_eq!(summary.get(*key).map(String::as_str), Some(*value), "{key} in {summary:?}");
    }
}

#[test]
fn an_append_adds_to_what_is_there_and_makes_what_is_not() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    let first = append_rows(&table, "c1", 0..10);
    assert_eq!((first.record.rows, summary(&table).0), (10, Operation::Append));
    let second = append_rows(&table, "c2", 10..15);
    assert_eq!(summary(&table).0, Operation::Append);
    assert_eq!((rows(&table), manifests(&table).len()), (15, 2));
    let bytes = (first.record.bytes + second.record.bytes).to_string();
    has(&table, &[("added-records", "5"), ("total-records", "15"), ("total-data-files", "2")]);
    has(&table, &[("total-files-size", &bytes), ("total-delete-files", "0")]);
    assert!(!summary(&table).1.contains_key("deleted-records"));

    // What a refresh removed is told once.
    commit_rows(&table, "c3", 3);
    assert_eq!(manifests(&table).len(), 3);
    append_rows(&table, "c4", 0..1);
    assert_eq!((rows(&table), manifests(&table).len()), (4, 2));
    has(&table, &[("total-records", "4"), ("total-data-files", "2")]);
    assert_eq!(commit_ids(&table), ["c4", "c3", "c2", "c1"]);
}

#[test]
fn a_row_delta_has_rows_and_deletes_in_one_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    append_rows(&table, "c1", 0..10);
    change_rows(&table, "c2", 0..3, 100..102);
    assert_eq!(summary(&table).0, Operation::Overwrite);
    has(&table, &[("added-records", "2"), ("added-delete-files", "1")]);
    has(&table, &[("added-equality-deletes", "3"), ("total-equality-deletes", "3")]);
    has(&table, &[("total-records", "12"), ("total-data-files", "2"), ("total-delete-files", "1")]);
    let found = manifests(&table);
    assert_eq!(found.len(), 3);
    let deletes: Vec<_> =
        found.iter().filter(|it| it.content == ManifestContentType::Deletes).collect();
    assert_eq!((deletes.len(), deletes[0].sequence_number), (1, 2));
    let content = table.object(&deletes[0].manifest_path).unwrap();
    let live: Vec<_> =
        manifest::Lives::of(deletes[0], &content).unwrap().map(Result::unwrap).collect();
    let id = metadata(&table).current_schema().field_by_name("id").unwrap().id;
    assert_eq!(live[0].file.equality_ids(), Some(vec![id]));
    assert_eq!((live[0].sequence_number, live[0].file.record_count()), (2, 3));
}

#[test]
fn deletes_alone_are_a_delete_and_rows_alone_an_append() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    append_rows(&table, "c1", 0..10);
    let staged = vec![stage_deletes(&table, "l2", 0, 0..4)];
    commit(&table, &delta(Mode::RowDelta, "c2", "l2", staged)).unwrap();
    assert_eq!(summary(&table).0, Operation::Delete);
    has(&table, &[("total-records", "10"), ("total-equality-deletes", "4")]);
    let staged = vec![stage(&table, "l3", 0, 0..4)];
    commit(&table, &delta(Mode::RowDelta, "c3", "l3", staged)).unwrap();
    assert_eq!(summary(&table).0, Operation::Append);
    // A refresh removes the deletes with the rows.
    commit_rows(&table, "c4", 1);
    has(&table, &[("removed-delete-files", "1"), ("removed-equality-deletes", "4")]);
    has(&table, &[("total-delete-files", "0"), ("total-records", "1")]);
    assert_eq!(rows(&table), 1);
}

#[test]
fn deletes_that_reach_no_file_any_more_are_dropped_by_the_next_delta() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    append_rows(&table, "c1", 0..10);
    change_rows(&table, "c2", 0..3, 100..102);
    append_rows(&table, "theirs", 0..9);
    // As a compaction leaves it that minds data files only.
    let now = metadata(&table);
    let snapshot = now.current_snapshot().unwrap();
    let head = manifest::Head {
        version: now.format_version(),
        snapshot_id: snapshot.snapshot_id(),
        parent: snapshot.parent_snapshot_id(),
        sequence_number: snapshot.sequence_number(),
        first_row_id: 0,
    };
    let mut kept = manifests(&table);
    kept.retain(|it| it.content == ManifestContentType::Deletes || it.sequence_number == 3);
    assert_eq!(kept.len(), 2);
    let (list, _) = manifest::list(&head, kept).unwrap();
    table.storage.delete(snapshot.manifest_list()).unwrap();
    table.storage.write(snapshot.manifest_list(), &list).unwrap();

    // An append removes nothing.
    append_rows(&table, "c4", 20..21);
    has(&table, &[("total-delete-files", "1")]);
    change_rows(&table, "c5", 0..1, 0..1);
    has(&table, &[("removed-delete-files", "1"), ("removed-equality-deletes", "3")]);
    has(&table, &[("total-delete-files", "1"), ("total-equality-deletes", "1")]);
    let gone: Vec<_> = manifests(&table).into_iter().filter(|it| it.has_deleted_files()).collect();
    assert_eq!(gone.len(), 1, "what was removed is told");
    change_rows(&table, "c6", 1..2, 1..2);
    has(&table, &[("total-delete-files", "2"), ("total-equality-deletes", "2")]);
    assert!(manifests(&table).iter().all(|it| !it.has_deleted_files()), "once");
    assert!(!summary(&table).1.contains_key("removed-delete-files"));
}

#[test]
fn deletes_of_a_partitioned_table_lie_under_no_partition() {
    let root = tempfile::tempdir().unwrap();
    let table = table_as(root.path(), "/{id, bucket[4]}", 0);
    append_rows(&table, "c1", 0..100);
    assert_eq!(metadata(&table).partition_specs_iter().len(), 1);
    change_rows(&table, "c2", 0..50, 0..50);
    let now = metadata(&table);
    assert_eq!(now.partition_specs_iter().len(), 2);
    assert_eq!(now.default_partition_spec().fields().len(), 1, "the table's own stays");
    for listed in manifests(&table) {
        let spec = now.partition_spec_by_id(listed.partition_spec_id).unwrap();
        let is_data = listed.content == ManifestContentType::Data;
        assert_eq!(spec.fields().len(), usize::from(is_data), "{listed:?}");
    }
    change_rows(&table, "c3", 0..50, 0..50);
    assert_eq!(metadata(&table).partition_specs_iter().len(), 2, "made once");
}

#[test]
fn a_commit_expects_the_base_that_its_caller_knows() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    let expecting = |commit_id: &str, expected: &str, ids| CommitRequest {
        expected_commit_id: Some(expected.into()),
        ..delta(Mode::Append, commit_id, commit_id, vec![stage(&table, commit_id, 0, ids)])
    };
    let fenced = |request: &CommitRequest| {
        let refused = commit(&table, request).unwrap_err();
        assert!(matches!(refused, WriterError::Fenced { .. }), "{refused}");
    };
    fenced(&expecting("c1", "c0", 0..1));
    let first = expecting("c1", "", 0..1);
    commit(&table, &first).unwrap();
    commit(&table, &expecting("c2", "c1", 1..2)).unwrap();
    // Of two from c1 the second is late, and one that was made is no other.
    fenced(&expecting("c3", "c1", 2..3));
    fenced(&expecting("c4", "", 2..3));
    assert!(commit(&table, &first).unwrap().already);
    assert_eq!((rows(&table), commit_ids(&table)), (2, vec!["c2".to_owned(), "c1".into()]));
}

#[test]
fn a_delta_is_derived_anew_from_what_another_writer_committed() {
    let root = tempfile::tempdir().unwrap();
    append_rows(&table(root.path()), "c1", 0..10);
    let other = table(root.path());
    let theirs = move || {
        // Another snapshot, which is not of ours: ids and totals taken away.
        append_rows(&other, "theirs", 10..20);
        let base = other.load().unwrap().unwrap();
        let mut json = serde_json::to_value(&base.metadata).unwrap();
        for snapshot in json["snapshots"].as_array_mut().unwrap() {
            if snapshot["summary"]["tidewater.commit-id"] == "theirs" {
                snapshot["summary"] = serde_json::json!({"operation": "append"});
            }
        }
        let ours = json["properties"]["tidewater.position"].as_str().unwrap().to_owned();
        json["properties"]["tidewater.position"] = ours.replace("theirs", "c1").into();
        let metadata: TableMetadata = serde_json::from_value(json).unwrap();
        let next = Next { metadata, changes: Vec::new(), absent: Vec::new() };
        let swap = other.catalog.swap(&other.name, Some(&base), &next).unwrap();
        assert!(matches!(swap, Swap::Swapped));
    };
    let table = scripted(root.path(), vec![Step::After(Box::new(theirs))]);
    change_rows(&table, "c2", 0..15, 100..101);
    let now = metadata(&table);
    assert_eq!(now.current_snapshot().unwrap().sequence_number(), 3);
    // Totals are counted where they are not told.
    has(&table, &[("total-records", "21"), ("total-data-files", "3"), ("total-delete-files", "1")]);
    let numbers: Vec<_> = manifests(&table).iter().map(|it| it.sequence_number).collect();
    assert_eq!(numbers, [3, 3, 2, 1]);
    assert_eq!(commit_ids(&table), ["c2", "c1"]);
}

#[test]
fn of_two_deltas_from_one_base_one_is_fenced() {
    let root = tempfile::tempdir().unwrap();
    append_rows(&table(root.path()), "c0", 0..10);
    let other = table(root.path());
    let first = move || drop(change_rows(&other, "theirs", 0..1, 0..1));
    let table = scripted(root.path(), vec![Step::After(Box::new(first))]);
    let staged = vec![stage(&table, "l1", 0, 5..6), stage_deletes(&table, "l1", 1, 5..6)];
    let refused = commit(&table, &delta(Mode::RowDelta, "ours", "l1", staged)).unwrap_err();
    assert!(matches!(&refused, WriterError::Fenced { by, .. } if by == "theirs"), "{refused}");
    // Only what two commits made is left.
    let left = objects(&table, "metadata");
    let count = |mark: &str| left.iter().filter(|name| name.contains(mark)).count();
    assert_eq!((count("snap-"), count("-m")), (2, 3), "{left:?}");
}

#[test]
fn a_delta_to_a_table_that_was_rolled_back_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    append_rows(&table, "c1", 0..1);
    let first = metadata(&table).current_snapshot_id().unwrap();
    append_rows(&table, "c2", 1..2);
    let base = table.load().unwrap().unwrap();
    let main = SnapshotReference::new(first, SnapshotRetention::branch(None, None, None));
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let made = builder.set_ref("main", main).unwrap().build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    table.catalog.swap(&table.name, Some(&base), &next).unwrap();
    let staged = vec![stage(&table, "l3", 0, 2..3)];
    let refused = commit(&table, &delta(Mode::Append, "c3", "l3", staged)).unwrap_err();
    assert!(matches!(&refused, WriterError::RolledBack { last, .. } if last == "c2"), "{refused}");
    commit_rows(&table, "c4", 5);
    append_rows(&table, "c5", 5..6);
    assert_eq!(rows(&table), 6);
}

#[test]
fn what_the_table_is_brought_to_is_kept_with_the_commit() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    let staged = vec![stage(&table, "l1", 0, 0..1)];
    let request =
        CommitRequest { position: "0/198C935".into(), ..delta(Mode::Append, "c1", "l1", staged) };
    assert_eq!(commit(&table, &request).unwrap().record.position, "0/198C935");
    let told = table.prepare(&PrepareRequest::default()).unwrap().unwrap();
    assert_eq!(told.position, "0/198C935");
    has(&table, &[("tidewater.position", "0/198C935")]);
    // When the snapshot has expired, too.
    let base = table.load().unwrap().unwrap();
    let only = base.metadata.current_snapshot_id().unwrap();
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let made = builder.remove_ref("main").remove_snapshots(&[only]).build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    table.catalog.swap(&table.name, Some(&base), &next).unwrap();
    assert_eq!(table.prepare(&PrepareRequest::default()).unwrap().unwrap(), told);
}

#[test]
fn deletes_that_have_no_place_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    let stage_key = |name: &str, kind: DataType| {
        let request = StageRequest {
            load_id: "l".into(),
            kind: Kind::EqualityDeletes.into(),
            ..Default::default()
        };
        let layout = Arc::new(Schema::new(vec![Field::new(name, kind, true)]));
        let staged = table.stage(&request, &Arc::clone(&layout), layout);
        staged.map(drop).map_err(|error| error.to_string())
    };
    assert!(stage_key("id", DataType::Int64).unwrap_err().contains("does not exist"));
    append_rows(&table, "c1", 0..1);
    assert!(stage_key("gone", DataType::Int64).unwrap_err().contains("no column \"gone\""));
    assert!(stage_key("id", DataType::Utf8).unwrap_err().contains("is long, and string"));
    assert!(stage_key("id", DataType::Float64).unwrap_err().contains("can be no key"));
    stage_key("id", DataType::Int32).unwrap();
    stage_key("id", DataType::Int64).unwrap();

    for mode in [Mode::Replace, Mode::Append] {
        let staged = vec![stage_deletes(&table, "l2", 0, 0..1)];
        let refused = commit(&table, &delta(mode, "c2", "l2", staged)).unwrap_err();
        assert!(refused.to_string().contains("MODE_ROW_DELTA"), "{refused}");
    }
    // A descriptor that calls them rows.
    let staged = StagedChunk { kind: 0, ..stage_deletes(&table, "l3", 0, 0..1) };
    let refused = commit(&table, &delta(Mode::RowDelta, "c3", "l3", vec![staged])).unwrap_err();
    assert!(matches!(refused, WriterError::StageGone { .. }), "{refused}");
    assert_eq!(rows(&table), 1);
}

#[test]
fn rows_of_another_type_are_no_more_rows_of_the_table() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    append_rows(&table, "c1", 0..1);
    let request = StageRequest { load_id: "l2".into(), ..Default::default() };
    let layout = Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, true)]));
    let staging = table.stage(&request, &Arc::clone(&layout), layout).unwrap();
    let staged = Encoder::new(staging.stage, staging.schema, 1 << 30, 1 << 20).finish().unwrap();
    let staged = vec![staged.seal(&request).unwrap()];
    let refused = commit(&table, &delta(Mode::Append, "c2", "l2", staged)).unwrap_err();
    assert!(refused.to_string().contains("column \"id\" of type long"), "{refused}");
    assert_eq!((rows(&table), commit_ids(&table)), (1, vec!["c1".to_owned()]));
}

#[test]
fn deletes_by_a_column_that_was_dropped_meanwhile_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    append_rows(&table, "c1", 0..1);
    let staged = vec![stage_deletes(&table, "l2", 0, 0..1)];
    let base = table.load().unwrap().unwrap();
    let mut json = serde_json::to_value(&base.metadata).unwrap();
    json["schemas"][0]["fields"][0]["id"] = 2.into();
    json["last-column-id"] = 2.into();
    let metadata: TableMetadata = serde_json::from_value(json).unwrap();
    let next = Next { metadata, changes: Vec::new(), absent: Vec::new() };
    table.catalog.swap(&table.name, Some(&base), &next).unwrap();
    let refused = commit(&table, &delta(Mode::RowDelta, "c2", "l2", staged)).unwrap_err();
    assert!(refused.to_string().contains("column \"id\" has been dropped"), "{refused}");
}

#[test]
fn rows_of_the_third_format_version_are_numbered_once() {
    let root = tempfile::tempdir().unwrap();
    let table = table_as(root.path(), "", 3);
    append_rows(&table, "c1", 0..10);
    append_rows(&table, "c2", 10..15);
    change_rows(&table, "c3", 0..1, 20..21);
    let now = metadata(&table);
    assert_eq!((now.format_version() as u8, now.next_row_id()), (3, 16));
    let ranges: Vec<_> = position::ancestors(&now).map(|it| it.row_range().unwrap()).collect();
    assert_eq!(ranges, [(15, 1), (10, 5), (0, 10)]);
    let firsts: Vec<_> = manifests(&table).iter().map(|it| it.first_row_id).collect();
    assert_eq!(firsts, [Some(15), None, Some(10), Some(0)]);
    commit_rows(&table, "c4", 7);
    assert_eq!(metadata(&table).next_row_id(), 23);

    // An older table stays what it is.
    let root = tempfile::tempdir().unwrap();
    append_rows(&table_as(root.path(), "", 2), "c1", 0..1);
    let table = table_as(root.path(), "", 3);
    append_rows(&table, "c2", 1..2);
    assert_eq!(metadata(&table).format_version() as u8, 2);
}

#[test]
fn rows_from_before_a_table_was_upgraded_get_their_numbers_by_the_next_commit() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    append_rows(&table, "c1", 0..10);
    change_rows(&table, "c2", 0..1, 10..12);
    let base = table.load().unwrap().unwrap();
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let made = builder.upgrade_format_version(iceberg::spec::FormatVersion::V3).unwrap();
    let made = made.build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    table.catalog.swap(&table.name, Some(&base), &next).unwrap();
    append_rows(&table, "c3", 20..23);
    let mut numbered = Vec::new();
    for listed in manifests(&table) {
        let content = table.object(&listed.manifest_path).unwrap();
        for live in manifest::Lives::of(&listed, &content).unwrap().map(Result::unwrap) {
            let rows = live.file.record_count() as i64;
            numbered.extend(live.first_row_id.map(|first| first..first + rows));
        }
    }
    numbered.sort_by_key(|range| range.start);
    let all: Vec<i64> = numbered.into_iter().flatten().collect();
    assert_eq!(all, (0..15).collect::<Vec<_>>());
    assert_eq!(metadata(&table).next_row_id(), 15);
}
