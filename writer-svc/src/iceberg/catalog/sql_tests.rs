//! The catalog's tables as others make them, and what a swap does to them.

use std::path::Path;

use super::super::example::{comment, name, next};
use super::*;
use crate::iceberg::storage::LocalStorage;

fn catalog(root: &Path, name: &str) -> SqlCatalog {
    let jdbc = JdbcCatalog {
        url: format!("jdbc:sqlite:{}/catalog.db", root.display()),
        catalog_name: name.into(),
        ..Default::default()
    };
    SqlCatalog::new(&jdbc, Arc::new(LocalStorage::new(root.join("w")))).unwrap()
}

fn sqlite(root: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(root.join("catalog.db")).unwrap()
}

fn metadata_files(root: &Path) -> usize {
    std::fs::read_dir(root.join("w/ns/t/metadata")).unwrap().count()
}

#[test]
fn a_catalog_is_created_with_its_first_table() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let catalog = catalog(root, "c");
    assert!(catalog.load(&name("t")).unwrap().is_none());
    assert!(catalog.list("ns").unwrap().is_empty());
    catalog.check().unwrap();
    assert!(!root.join("catalog.db").exists(), "looking creates nothing");

    let swap = catalog.swap(&name("t"), None, &next(root, None, "first")).unwrap();
    assert!(matches!(swap, Swap::Swapped));
    let first = catalog.load(&name("t")).unwrap().unwrap();
    assert_eq!(comment(&first), "first");
    assert!(first.location.contains("/metadata/00000-"));
    assert_eq!(catalog.list("ns").unwrap(), [name("t")]);
    catalog.check().unwrap();

    let swap = catalog.swap(&name("t"), Some(&first), &next(root, Some(&first), "second")).unwrap();
    assert!(matches!(swap, Swap::Swapped));
    let second = catalog.load(&name("t")).unwrap().unwrap();
    assert_eq!(comment(&second), "second");
    assert!(second.location.contains("/metadata/00001-"));
    let row: (String, String, String) = sqlite(root)
        .query_row(
            "SELECT metadata_location, previous_metadata_location, iceberg_type \
             FROM iceberg_tables",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    assert_eq!(row, (second.location.clone(), first.location, "TABLE".to_owned()));
    let namespace: (String, String) = sqlite(root)
        .query_row("SELECT namespace, property_key FROM iceberg_namespace_properties", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(namespace, ("ns".to_owned(), "exists".to_owned()));

    assert!(catalog.drop_table(&name("t"), &second).unwrap());
    assert!(!catalog.drop_table(&name("t"), &second).unwrap());
    assert!(catalog.load(&name("t")).unwrap().is_none());
}

#[test]
fn a_swap_against_what_is_no_longer_current_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let catalog = catalog(root, "c");
    catalog.swap(&name("t"), None, &next(root, None, "first")).unwrap();
    let first = catalog.load(&name("t")).unwrap().unwrap();
    catalog.swap(&name("t"), Some(&first), &next(root, Some(&first), "second")).unwrap();
    assert_eq!(metadata_files(root), 2);

    let stale = catalog.swap(&name("t"), Some(&first), &next(root, Some(&first), "stale")).unwrap();
    assert!(matches!(stale, Swap::Conflict));
    let created = catalog.swap(&name("t"), None, &next(root, None, "anew")).unwrap();
    assert!(matches!(created, Swap::Conflict));
    assert!(!catalog.drop_table(&name("t"), &first).unwrap());
    assert_eq!(comment(&catalog.load(&name("t")).unwrap().unwrap()), "second");
    assert_eq!(metadata_files(root), 2);
}

#[test]
fn tables_of_the_old_layout_are_used_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    sqlite(root)
        .execute_batch(
            "CREATE TABLE iceberg_tables (catalog_name VARCHAR(255) NOT NULL, \
             table_namespace VARCHAR(255) NOT NULL, table_name VARCHAR(255) NOT NULL, \
             metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000), \
             PRIMARY KEY (catalog_name, table_namespace, table_name))",
        )
        .unwrap();
    let catalog = catalog(root, "c");
    catalog.swap(&name("t"), None, &next(root, None, "first")).unwrap();
    let first = catalog.load(&name("t")).unwrap().unwrap();
    catalog.swap(&name("t"), Some(&first), &next(root, Some(&first), "second")).unwrap();
    let second = catalog.load(&name("t")).unwrap().unwrap();
    assert_eq!(comment(&second), "second");
    let columns: i64 = sqlite(root)
        .query_row("SELECT count(*) FROM pragma_table_info('iceberg_tables')", [], |row| row.get(0))
        .unwrap();
    assert_eq!(columns, 5);
    assert!(catalog.drop_table(&name("t"), &second).unwrap());
}

#[test]
fn catalogs_of_other_names_and_views_are_others() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let (one, two) = (catalog(root, "one"), catalog(root, "two"));
    one.swap(&name("t"), None, &next(root, None, "one")).unwrap();
    assert!(two.load(&name("t")).unwrap().is_none());
    two.swap(&name("t"), None, &next(root, None, "two")).unwrap();
    assert_eq!(comment(&one.load(&name("t")).unwrap().unwrap()), "one");
    assert_eq!(comment(&two.load(&name("t")).unwrap().unwrap()), "two");

    // As PyIceberg writes them: without a type.
    let changed = "UPDATE iceberg_tables SET iceberg_type = ? WHERE catalog_name = 'one'";
    sqlite(root).execute(changed, [None::<&str>]).unwrap();
    assert!(one.load(&name("t")).unwrap().is_some());
    sqlite(root).execute(changed, ["VIEW"]).unwrap();
    assert!(one.load(&name("t")).unwrap().is_none());
    assert!(one.list("ns").unwrap().is_empty());
    let swap = one.swap(&name("t"), None, &next(root, None, "over a view")).unwrap();
    assert!(matches!(swap, Swap::Conflict));
}

#[test]
fn what_is_no_database_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("catalog.db"), "this is a text and no database at all").unwrap();
    let error = catalog(dir.path(), "c").load(&name("t")).unwrap_err();
    assert!(error.to_string().contains("catalog.db"), "{error}");
    let jdbc = JdbcCatalog { url: "jdbc:mysql://h/d".into(), ..Default::default() };
    let storage = Arc::new(LocalStorage::new("/w".into()));
    assert!(SqlCatalog::new(&jdbc, storage).is_err());
}
