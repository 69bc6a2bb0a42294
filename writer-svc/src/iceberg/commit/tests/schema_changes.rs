//! Somebody else's change of the schema, between our read and our swap.

use iceberg::spec::{NestedField, NestedFieldRef, PrimitiveType, Type};

use super::*;
use crate::iceberg::schema::with_fields;

/// A commit of somebody else that only changes the columns.
fn evolve(table: &IcebergTable, change: impl FnOnce(&mut Vec<NestedFieldRef>)) {
    let base = table.load().unwrap().unwrap();
    let mut fields = base.metadata.current_schema().as_struct().fields().to_vec();
    change(&mut fields);
    let schema = with_fields(0, fields, std::iter::empty()).unwrap();
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let made = builder.add_current_schema(schema).unwrap().build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    let swap = table.catalog.swap(&table.name, Some(&base), &next).unwrap();
    assert!(matches!(swap, Swap::Swapped));
}

/// A table of `id` with two rows, whose next swap comes after `change`.
fn contested(
    root: &Path,
    change: impl FnOnce(&mut Vec<NestedFieldRef>) + Send + 'static,
) -> IcebergTable {
    commit_rows(&table(root), "c1", 2);
    let other = table(root);
    scripted(root, vec![Step::After(Box::new(move || evolve(&other, change)))])
}

fn field(id: i32, name: &str, kind: PrimitiveType) -> NestedFieldRef {
    Arc::new(NestedField::optional(id, name, Type::Primitive(kind)))
}

#[test]
fn a_column_that_others_add_stays() {
    let root = tempfile::tempdir().unwrap();
    let theirs = field(2, "theirs", PrimitiveType::String);
    let table = contested(root.path(), |fields| fields.push(theirs));
    commit_rows(&table, "c2", 3);
    assert_eq!((rows(&table), commit_ids(&table)), (3, vec!["c2".to_owned(), "c1".into()]));
    let now = metadata(&table);
    let names: Vec<_> =
        now.current_schema().as_struct().fields().iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["id", "theirs"]);
    assert_eq!(now.current_snapshot().unwrap().schema_id(), Some(now.current_schema_id()));
}

#[test]
fn a_column_that_others_give_another_type_or_name_ends_the_commit() {
    type Change = fn(&mut Vec<NestedFieldRef>);
    let changes: [(Change, &str); 3] = [
        (|fields| fields[0] = field(1, "id", PrimitiveType::String), "has become string"),
        (|fields| fields[0] = field(1, "key", PrimitiveType::Long), "field 1 is now named \"key\""),
        (|fields| fields[0] = field(2, "x", PrimitiveType::Long), "\"id\" has been dropped"),
    ];
    for (change, problem) in changes {
        let root = tempfile::tempdir().unwrap();
        let table = contested(root.path(), change);
        let staged = vec![stage(&table, "l1", 0, 0..3)];
        let refused = commit(&table, &request("c2", "l1", staged)).unwrap_err();
        assert!(matches!(refused, WriterError::StageGone { .. }), "{refused}");
        assert!(refused.to_string().contains(problem), "{refused}");
        assert_eq!((rows(&table), commit_ids(&table)), (2, vec!["c1".to_owned()]));
    }
}
