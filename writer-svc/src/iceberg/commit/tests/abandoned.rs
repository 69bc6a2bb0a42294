//! What is staged and never committed, and the end of a table.

use super::*;

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
