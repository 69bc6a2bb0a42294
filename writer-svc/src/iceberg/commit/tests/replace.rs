//! Full refreshes.

use super::*;

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
