//! Commits by a catalog that puts changes of one base together where what
//! they demand still holds, as REST catalogs may.

use super::*;
use crate::iceberg::catalog::rest::changes::requirements;

#[derive(Debug)]
struct Merging(Box<dyn Catalog>);

impl Catalog for Merging {
    fn check(&self) -> Result<(), WriterError> {
        self.0.check()
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>, WriterError> {
        self.0.load(table)
    }

    fn list(&self, namespace: &str) -> Result<Vec<TableName>, WriterError> {
        self.0.list(namespace)
    }

    fn swap(
        &self,
        table: &TableName,
        base: Option<&Loaded>,
        next: &Next,
    ) -> Result<Swap, WriterError> {
        let Some(base) = base else { return self.0.swap(table, None, next) };
        let now = self.0.load(table)?.expect("nobody drops it");
        for required in requirements(&base.metadata, next) {
            if required.check(Some(&now.metadata)).is_err() {
                return Ok(Swap::Conflict);
            }
        }
        let mut builder = now.metadata.clone().into_builder(Some(now.location.clone()));
        for update in &next.changes {
            builder = update.clone().apply(builder).expect("what is demanded is enough");
        }
        let made = builder.build().expect("what is demanded is enough");
        let merged = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
        self.0.swap(table, Some(&now), &merged)
    }

    fn drop_table(&self, table: &TableName, base: &Loaded) -> Result<bool, WriterError> {
        self.0.drop_table(table, base)
    }
}

/// The table by such a catalog; first its next swaps go as told.
fn merging(root: &Path, steps: Vec<Step>) -> IcebergTable {
    let mut table = table(root);
    let inner: Box<dyn Catalog> = Box::new(Merging(table.catalog));
    table.catalog = Box::new(Scripted { inner, steps: Mutex::new(steps.into()) });
    table
}

#[test]
fn a_change_that_touches_nothing_of_a_commit_is_put_together_with_it() {
    let root = tempfile::tempdir().unwrap();
    commit_rows(&table(root.path()), "c1", 2);
    let other = table(root.path());
    let foreign = Step::After(Box::new(move || foreign_commit(&other, "theirs")));
    let table = merging(root.path(), vec![foreign]);
    commit_rows(&table, "c2", 3);
    assert_eq!((rows(&table), commit_ids(&table)), (3, vec!["c2".to_owned(), "c1".into()]));
    assert_eq!(metadata(&table).properties()["theirs"], "x");
}

#[test]
fn of_two_of_ours_one_is_refused() {
    let root = tempfile::tempdir().unwrap();
    commit_rows(&table(root.path()), "c0", 1);
    let other = merging(root.path(), Vec::new());
    let first = Step::After(Box::new(move || drop(commit_rows(&other, "theirs", 7))));
    let table = merging(root.path(), vec![first]);
    let staged = vec![stage(&table, "l1", 0, 0..3)];
    let refused = commit(&table, &request("ours", "l1", staged)).unwrap_err();
    assert!(matches!(&refused, WriterError::Fenced { by, .. } if by == "theirs"), "{refused}");
    assert_eq!((rows(&table), commit_ids(&table)), (7, vec!["theirs".to_owned(), "c0".into()]));
}

/// A Prepare that comes between a commit's base and its swap.
fn give_up(root: &Path) -> Step {
    let other = merging(root, Vec::new());
    Step::After(Box::new(move || drop(other.prepare(&PrepareRequest::default()).unwrap())))
}

#[test]
fn a_load_that_is_given_up_meanwhile_is_not_committed() {
    let root = tempfile::tempdir().unwrap();
    commit_rows(&table(root.path()), "c0", 2);
    // Once more with a load on the same snapshot that was given up before it.
    for load in ["l1", "l2"] {
        let table = merging(root.path(), vec![give_up(root.path())]);
        let staged = vec![stage(&table, load, 0, 0..3)];
        let refused = commit(&table, &request("c1", load, staged)).unwrap_err();
        assert!(matches!(refused, WriterError::StageGone { .. }), "{refused}");
        assert_eq!((rows(&table), commit_ids(&table)), (2, vec!["c0".to_owned()]));
    }
    let now = metadata(&table(root.path()));
    assert_eq!(prepare::tagged(&now), ["l1", "l2"]);
    // The tags go with the next commit: it moves main, which is demanded, too.
    let table = merging(root.path(), Vec::new());
    commit_rows(&table, "c3", 4);
    let now = metadata(&table);
    assert_eq!(prepare::tagged(&now), [""; 0]);
    assert!(!["l1", "l2"].iter().any(|load| prepare::is_given_up(&now, load)));
    assert_eq!(rows(&table), 4);
}

#[test]
fn a_commit_between_what_is_left_and_giving_it_up_keeps_its_files() {
    let root = tempfile::tempdir().unwrap();
    commit_rows(&table(root.path()), "c0", 2);
    let other = merging(root.path(), Vec::new());
    let request = request("c1", "l1", vec![stage(&other, "l1", 0, 0..3)]);
    let first = Step::After(Box::new(move || drop(commit(&other, &request).unwrap())));
    let table = merging(root.path(), vec![first]);
    table.prepare(&PrepareRequest::default()).unwrap();
    assert_eq!((rows(&table), commit_ids(&table)), (3, vec!["c1".to_owned(), "c0".into()]));
}
