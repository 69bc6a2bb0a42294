//! Others who commit at the same time, and swaps whose end is not heard.

use super::*;

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
        (count("snap-"), count("-m0.avro"), count(".metadata.json")),
        (2, 3, 3),
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
