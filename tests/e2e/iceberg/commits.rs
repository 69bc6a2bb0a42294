//! What a commit is: one step, whatever happens around it.

use anyhow::{Context, Result, ensure};
use tests::compare::{Cell, Rows};
use tests::gate::{self, Gate};
use tests::iceberg::engine::Engine;
use tests::iceberg::table::{Description, Table};
use tests::iceberg::verify;
use tests::moment;
use tests::postgres::Database;
use tests::run::Project;
use tests::watch;

use super::{into_lake, lake};
use crate::plain;

/// (operation, rows there are then) of each snapshot, in order.
fn history(described: &Description) -> Vec<(String, String)> {
    let mut snapshots: Vec<_> = described.snapshots.iter().collect();
    snapshots.sort_by_key(|snapshot| snapshot.sequence_number);
    snapshots
        .iter()
        .map(|one| {
            let total = one.summary.get("total-records").cloned().unwrap_or_default();
            (one.operation.clone().unwrap_or_default(), total)
        })
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// Every total of the current snapshot is what its live files add up to.
fn totals_are_right(described: &Description) -> Result<()> {
    let summary = &described.current()?.summary;
    let data: Vec<_> = described.data_files().collect();
    ensure!(data.len() == described.files.len(), "there are delete files");
    let totals = [
        ("total-data-files", data.len() as u64),
        ("total-records", data.iter().map(|file| file.records).sum()),
        ("total-files-size", data.iter().map(|file| file.bytes).sum()),
        ("total-delete-files", 0),
        ("total-position-deletes", 0),
        ("total-equality-deletes", 0),
    ];
    for (key, wanted) in totals {
        let found = summary.get(key).with_context(|| format!("no {key} in {summary:?}"))?;
        ensure!(*found == wanted.to_string(), "{key} is {found} instead of {wanted}");
    }
    Ok(())
}

#[test]
fn a_second_sync_replaces_the_content_in_one_snapshot() -> Result<()> {
    let (warehouse, project) = lake(
        "lake_replace",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, 'old ' || i FROM generate_series(1, 1000) i",
    )?;
    project.select(&["public.t"], plain())?;
    project.sync()?;
    let table = warehouse.table_of(&project, "public", "t");
    let first = table.describe()?;
    totals_are_right(&first)?;
    project.database().psql("DELETE FROM t WHERE id > 100; UPDATE t SET v = 'new'")?;
    project.sync()?;
    verify::equals_source(&warehouse, &project, &["public.t"])?;

    let second = table.describe()?;
    totals_are_right(&second)?;
    assert_eq!(second.uuid, first.uuid, "it is the same table");
    assert_eq!(history(&second), pairs(&[("append", "1000"), ("overwrite", "100")]));
    let current = second.current()?;
    assert_eq!(current.parent, first.current_snapshot_id);
    assert!(current.timestamp_ms > first.current()?.timestamp_ms);
    assert_eq!(current.summary["deleted-records"], "1000");
    assert_eq!(current.summary["deleted-data-files"], first.files.len().to_string());
    let counts: Vec<_> = second.manifests.iter().map(|it| (it.added, it.deleted)).collect();
    assert!(counts.contains(&(1, 0)) && counts.contains(&(0, 1)), "{counts:?}");

    project.sync()?;
    let third = table.describe()?;
    assert_eq!(third.manifests.len(), 2, "what was removed is told once");
    for engine in Engine::ALL {
        assert_eq!(table.count(engine, "id > 0")?, 100, "{engine:?}");
    }
    Ok(())
}

#[test]
fn an_empty_table_is_a_table_and_a_full_one_can_become_empty() -> Result<()> {
    let (warehouse, project) = lake("lake_empty", "CREATE TABLE t (id int PRIMARY KEY)")?;
    project.select(&["public.t"], plain())?;
    project.sync()?;
    verify::equals_source(&warehouse, &project, &["public.t"])?;
    project.database().psql("INSERT INTO t VALUES (1), (2)")?;
    project.sync()?;
    verify::equals_source(&warehouse, &project, &["public.t"])?;
    project.database().psql("TRUNCATE t")?;
    project.sync()?;
    verify::equals_source(&warehouse, &project, &["public.t"])?;
    let described = warehouse.table_of(&project, "public", "t").describe()?;
    let expected = pairs(&[("append", "0"), ("append", "2"), ("overwrite", "0")]);
    assert_eq!(history(&described), expected);
    totals_are_right(&described)
}

#[test]
fn rows_that_pyiceberg_appends_are_read_and_then_replaced() -> Result<()> {
    let (warehouse, project) = lake(
        "lake_append",
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'ours')",
    )?;
    project.select(&["public.t"], plain())?;
    project.sync()?;
    let table = warehouse.table_of(&project, "public", "t");
    append(&table, 2)?;
    for engine in Engine::ALL {
        assert_eq!(table.count(engine, "id > 0")?, 2, "{engine:?}");
    }
    project.sync()?;
    verify::equals_source(&warehouse, &project, &["public.t"])?;
    let described = table.describe()?;
    let expected = pairs(&[("append", "1"), ("append", "2"), ("overwrite", "1")]);
    assert_eq!(history(&described), expected);
    totals_are_right(&described)?;

    // A compaction moves our rows into files of others.
    table.rewrite()?;
    project.database().psql("INSERT INTO t VALUES (3, 'three')")?;
    project.sync()?;
    verify::equals_source(&warehouse, &project, &["public.t"])?;
    totals_are_right(&table.describe()?)
}

/// A row of somebody else.
fn append(table: &Table, id: u32) -> Result<()> {
    let cell = |text: &str| Cell::text(text);
    let columns = ["_olake_id", "_olake_timestamp", "_op_type", "id", "v"];
    let row = vec![
        cell(&id.to_string()),
        cell("2024-01-01 00:00:00+00"),
        cell("x"),
        cell(&id.to_string()),
        cell("theirs"),
    ];
    table.append(&Rows { columns: columns.map(str::to_owned).to_vec(), rows: vec![row] })
}

#[test]
fn a_sync_killed_between_staging_and_commit_changes_nothing() -> Result<()> {
    let database = Database::new("lake_killed")?;
    gate::create(&database)?;
    gate::table(&database, "a", 3 * gate::CHUNK, &[(3 * gate::CHUNK - 10, "second")])?;
    let (warehouse, project) = into_lake(Project::new(&database)?)?;
    project.select(&["public.a"], gate::selection())?;
    project.sync()?;
    verify::equals_source(&warehouse, &project, &["public.a"])?;
    let table = warehouse.table_of(&project, "public", "a");
    let before = table.describe()?;
    let files = files_of(&warehouse);

    database.psql("UPDATE a SET v = 'later'")?;
    let shut = Gate::shut(&database, "second")?;
    let mut sync = project.start(&Project::SYNC)?;
    moment::reached(&project, &mut sync, "chunks are staged", |state| {
        state["run"]["status"] == "running" && !moment::staged(state, "a").is_empty()
    })?;
    let (source, writer) = moment::services(&sync)?;
    sync.kill()?;
    moment::gone(&[source, writer])?;
    let after = table.describe()?;
    assert_eq!(after.metadata_location, before.metadata_location);
    assert!(files_of(&warehouse).len() > files.len(), "something was staged");
    assert_eq!(table.count(Engine::DuckDb, "v = 'later'")?, 0);

    drop(shut);
    project.sync()?;
    verify::equals_source(&warehouse, &project, &["public.a"])?;
    let after = table.describe()?;
    assert_eq!(after.snapshots.len(), 2);
    // Every data file is one that a snapshot knows: two contents of the table.
    let known = before.files.len() + after.files.len();
    let data: Vec<_> = files_of(&warehouse)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "parquet"))
        .collect();
    assert_eq!(data.len(), known, "abandoned files are gone: {data:?}");
    let staged = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("staged-"))
    };
    assert!(!files_of(&warehouse).iter().any(staged), "so are their manifests");
    Ok(())
}

fn files_of(warehouse: &tests::iceberg::warehouse::Warehouse) -> Vec<std::path::PathBuf> {
    watch::files(warehouse.directory())
}

#[test]
fn columns_are_added_by_name_and_dropped_ones_become_null() -> Result<()> {
    let (warehouse, project) = lake(
        "lake_columns",
        "CREATE TABLE t (id int PRIMARY KEY, gone text, kept int);
         INSERT INTO t VALUES (1, 'x', 10)",
    )?;
    project.select(&["public.t"], plain())?;
    project.sync()?;
    let table = warehouse.table_of(&project, "public", "t");
    let before = table.describe()?;
    project.database().psql(
        "ALTER TABLE t DROP COLUMN gone, ADD COLUMN tags text[], ADD COLUMN late numeric(5,2);
         INSERT INTO t VALUES (2, 20, '{a,NULL}', 3.14)",
    )?;
    project.discover()?;
    project.select(&["public.t"], plain())?;
    project.sync()?;
    let after = table.describe()?;
    let id = |described: &Description, name: &str| {
        described.schema.iter().find(|field| field.name == name).map(|field| field.id)
    };
    for column in ["id", "gone", "kept"] {
        assert_eq!(id(&before, column), id(&after, column), "{column}");
    }
    for engine in Engine::ALL {
        let rows = table.read(engine)?.rows;
        let of = |name: &str| rows.column(name);
        assert!(of("gone")?.iter().all(|cell| *cell == Cell::Null), "{engine:?}");
        let late = Cell::text("3.14");
        assert!(of("late")?.contains(&late) && of("late")?.contains(&Cell::Null), "{engine:?}");
        let tags = Cell::List(vec![Cell::text("a"), Cell::Null]);
        assert!(of("tags")?.contains(&tags), "{engine:?}: {:?}", of("tags")?);
        assert_eq!(of("kept")?.len(), 2, "{engine:?}");
    }
    Ok(())
}
