//! A second sync replaces the content, in one commit.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::Pair;
use tests::iceberg::table::{Description, Table};

use super::Lake;
use crate::plain;

pub fn a_second_sync_replaces_everything_in_one_commit(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "replaced",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, 'old' FROM generate_series(1, 1000) i;",
    )?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    let first = lake.table("t").describe()?;
    assert_eq!(first.snapshots.len(), 1, "a table is made with its content");

    lake.project.database().psql(
        "DELETE FROM t WHERE id % 2 = 0; UPDATE t SET v = 'new' WHERE id < 100;
         INSERT INTO t SELECT i, NULL FROM generate_series(2000, 2500) i;",
    )?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    let second = lake.table("t").describe()?;
    follows(&first, &second)?;
    assert_eq!(second.current()?.operation.as_deref(), Some("overwrite"));
    assert_eq!(second.current()?.summary["deleted-records"], "1000");

    lake.project.database().psql("TRUNCATE t")?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    let third = lake.table("t").describe()?;
    follows(&second, &third)?;
    assert_eq!(third.current()?.summary["total-records"], "0");
    Ok(())
}

/// `after` is one commit later than `before`, and keeps none of its files.
fn follows(before: &Description, after: &Description) -> Result<()> {
    assert_eq!(before.uuid, after.uuid, "it is the same table");
    assert_eq!(after.snapshots.len(), before.snapshots.len() + 1, "one commit");
    assert_eq!(after.current()?.parent, before.current_snapshot_id);
    let paths = |table: &Description| -> BTreeSet<String> {
        table.files.iter().map(|file| file.path.clone()).collect()
    };
    assert!(paths(before).is_disjoint(&paths(after)));
    Ok(())
}

pub fn readers_see_the_old_content_or_the_new(pair: Pair) -> Result<()> {
    const ROWS: u64 = 5000;
    let lake = Lake::new(pair, "swapped", "CREATE TABLE t (id int PRIMARY KEY, version int)")?;
    lake.project.select(&["public.t"], plain())?;
    let fill = |version: u64| {
        // Each version has a row more than the one before.
        lake.project.database().psql(&format!(
            "TRUNCATE t; INSERT INTO t
             SELECT i, {version} FROM generate_series(1, {ROWS} + {version}) i"
        ))
    };
    fill(0)?;
    lake.project.sync()?;
    let (table, done) = (lake.table("t"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| watch(&table, &done, ROWS));
        let synced = (1..=3).try_for_each(|version| {
            fill(version)?;
            lake.project.sync().map(drop)
        });
        done.store(true, Ordering::Relaxed);
        let seen = reader.join().expect("the reader does not panic");
        synced?;
        ensure!(seen? == 3, "the last content was never seen");
        Ok(())
    })
}

/// Reads until told, and once more; every content must be whole and none older
/// than the one before. Returns the last version.
fn watch(table: &Table, done: &AtomicBool, rows: u64) -> Result<u64> {
    let mut newest = 0;
    loop {
        let last = done.load(Ordering::Relaxed);
        let found = table.read(Engine::PyIceberg)?.rows.column("version")?;
        let version = (found.len() as u64).checked_sub(rows).context("rows are missing")?;
        let text = version.to_string();
        ensure!(found.iter().all(|cell| cell.as_str() == Some(text.as_str())), "a mix of versions");
        ensure!(version >= newest, "version {version} after {newest}");
        newest = version;
        if last {
            return Ok(newest);
        }
    }
}
