//! What a commit is: one step, whatever happens around it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::gate::{self, Gate};
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::table::Description;
use tests::moment;
use tests::postgres::Database;
use tests::run::Project;

use super::Lake;
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

pub fn every_commit_tells_what_it_removed_once_and_what_there_is(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "told",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, 'old ' || i FROM generate_series(1, 1000) i",
    )?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let table = lake.table("t");
    let first = table.describe()?;
    totals_are_right(&first)?;
    lake.project.database().psql("DELETE FROM t WHERE id > 100; UPDATE t SET v = 'new'")?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;

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

    lake.project.sync()?;
    let third = table.describe()?;
    assert_eq!(third.manifests.len(), 2, "what was removed is told once");
    for engine in Engine::ALL {
        assert_eq!(table.count(engine, "id > 0")?, 100, "{engine:?}");
    }
    Ok(())
}

pub fn an_empty_table_is_a_table_and_a_full_one_can_become_empty(pair: Pair) -> Result<()> {
    let lake = Lake::new(pair, "emptied", "CREATE TABLE t (id int PRIMARY KEY)")?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    lake.project.database().psql("INSERT INTO t VALUES (1), (2)")?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    lake.project.database().psql("TRUNCATE t")?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    let described = lake.table("t").describe()?;
    let expected = pairs(&[("append", "0"), ("append", "2"), ("overwrite", "0")]);
    assert_eq!(history(&described), expected);
    totals_are_right(&described)
}

pub fn a_sync_killed_between_staging_and_commit_changes_nothing(pair: Pair) -> Result<()> {
    let database = Database::new("killed")?;
    gate::create(&database)?;
    gate::table(&database, "a", 3 * gate::CHUNK, &[(3 * gate::CHUNK - 10, "second")])?;
    let lake = Lake::on(pair, &database)?;
    lake.project.select(&["public.a"], gate::selection())?;
    lake.project.sync()?;
    lake.equals_source(&["public.a"])?;
    let table = lake.table("a");
    let before = table.describe()?;
    let files = || lake.warehouse.files(&before.location);
    let at_first = files()?.len();

    database.psql("UPDATE a SET v = 'later'")?;
    let shut = Gate::shut(&database, "second")?;
    let mut sync = lake.project.start(&Project::SYNC)?;
    moment::reached(&lake.project, &mut sync, "chunks are staged", |state| {
        state["run"]["status"] == "running" && !moment::staged(state, "a").is_empty()
    })?;
    let (source, writer) = moment::services(&sync)?;
    sync.kill()?;
    moment::gone(&[source, writer])?;
    let after = table.describe()?;
    assert_eq!(after.metadata_location, before.metadata_location);
    assert!(files()?.len() > at_first, "something was staged");
    assert_eq!(table.count(Engine::DuckDb, "v = 'later'")?, 0);

    drop(shut);
    lake.project.sync()?;
    lake.equals_source(&["public.a"])?;
    let after = table.describe()?;
    assert_eq!(after.snapshots.len(), 2);
    // Every data file is one that a snapshot knows: two contents of the table.
    let known = before.files.len() + after.files.len();
    let left = files()?;
    let data: Vec<_> = left.iter().filter(|path| path.ends_with(".parquet")).collect();
    assert_eq!(data.len(), known, "abandoned files are gone: {data:?}");
    assert!(!left.iter().any(|path| path.contains("/staged-")), "so are their manifests");
    Ok(())
}

#[test]
fn a_commit_onto_one_from_the_future_is_a_moment_after_it() -> Result<()> {
    let lake = Lake::new(
        Pair::new(Catalog::Sqlite, Store::Local),
        "future",
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)",
    )?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let table = lake.table("t");
    let first = table.describe()?;
    // As a writer would have left it whose clock is a day ahead.
    let ahead = first.current()?.timestamp_ms + 24 * 60 * 60 * 1000;
    let path = first.metadata_location.strip_prefix("file://").context("a file")?;
    let mut metadata: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    metadata["last-updated-ms"] = ahead.into();
    metadata["snapshots"][0]["timestamp-ms"] = ahead.into();
    metadata["snapshot-log"][0]["timestamp-ms"] = ahead.into();
    std::fs::write(path, metadata.to_string())?;
    assert_eq!(table.describe()?.current()?.timestamp_ms, ahead);
    // What an earlier run left cannot be removed at such a time, and is no obstacle.
    let left = std::path::Path::new(path).with_file_name("staged-earlier-00000-0.avro");
    std::fs::write(&left, "no manifest")?;

    for (row, expected) in [(2, ahead + 1), (3, ahead + 2)] {
        lake.project.database().psql(&format!("INSERT INTO t VALUES ({row})"))?;
        lake.project.sync()?;
        lake.equals_source(&["public.t"])?;
        assert_eq!(table.describe()?.current()?.timestamp_ms, expected);
    }
    assert!(left.exists());
    Ok(())
}
