//! What a table remembers of its commits.

use super::*;

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
fn files_go_where_the_tables_properties_say() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    commit_rows(&table, "c0", 1);
    let base = table.load().unwrap().unwrap();
    let elsewhere = format!("file://{}/elsewhere", root.path().display());
    let properties = [
        ("write.data.path".to_owned(), format!("{elsewhere}/rows/")),
        ("write.metadata.path".to_owned(), format!("{elsewhere}/meta")),
    ];
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let made = builder.set_properties(properties.into()).unwrap().build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    table.catalog.swap(&table.name, Some(&base), &next).unwrap();
    commit_rows(&table, "c1", 5);
    let now = table.load().unwrap().unwrap();
    assert!(now.location.starts_with(&format!("{elsewhere}/meta/")), "{}", now.location);
    assert_eq!(rows(&table), 5);
    let list = |directory: &str| table.storage.list(&format!("{elsewhere}/{directory}")).unwrap();
    assert_eq!(list("rows/load-load-of-c1").objects.len(), 1);
    let snapshot = now.metadata.current_snapshot().unwrap();
    assert!(snapshot.manifest_list().starts_with(&elsewhere));
    assert!(manifests(&table).iter().all(|it| it.manifest_path.starts_with(&elsewhere)));
    table.drop_table().unwrap();
    assert_eq!(list("meta").objects, [""; 0]);
    assert_eq!(list("rows/load-load-of-c1").objects, [""; 0]);
}
