//! A second sync replaces the content, atomically for readers.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use tests::reader::{Engine, Observation, Watcher};
use tests::watch::PartialFiles;
use tests::{verify, watch};

use crate::{plain, project};

#[test]
fn a_second_sync_replaces_rows_columns_and_files() -> Result<()> {
    let project = project(
        "replaced",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, 'old' FROM generate_series(1, 1000) i;",
    )?;
    project.select(&["public.t"], plain())?;
    project.sync()?;
    verify::equals_source(&project, &["public.t"])?;
    let before = watch::parquet_files(&project.output());
    project.database().psql(
        "DELETE FROM t WHERE id % 2 = 0; UPDATE t SET v = 'new' WHERE id < 100;
         INSERT INTO t SELECT i, NULL FROM generate_series(2000, 2500) i;",
    )?;
    project.sync()?;
    verify::equals_source(&project, &["public.t"])?;
    let after = watch::parquet_files(&project.output());
    assert!(after.iter().all(|file| !before.contains(file)), "{before:?} then {after:?}");

    // Found by a new discover, a new column comes along.
    project.database().psql("ALTER TABLE t ADD COLUMN extra numeric(6,2) DEFAULT 1.25")?;
    project.discover()?;
    project.select(&["public.t"], plain())?;
    project.sync()?;
    verify::equals_source(&project, &["public.t"])?;

    project.database().psql("TRUNCATE t")?;
    project.sync()?;
    verify::equals_source(&project, &["public.t"])
}

const ROWS: u64 = 20_000;

#[test]
fn readers_see_the_old_content_or_the_new_and_no_partial_file() -> Result<()> {
    let project =
        project("swapped", "CREATE TABLE versions (id int PRIMARY KEY, version text, body text)")?;
    let table = project.table("public", "versions");
    let fill = |version: u64| {
        // Each version has a row more than the one before.
        project.database().psql(&format!(
            "TRUNCATE versions; INSERT INTO versions
             SELECT i, '{version}', md5(i::text) FROM generate_series(1, {ROWS} + {version}) i"
        ))
    };
    let partial = PartialFiles::watch(&project.output());
    project.select(&["public.versions"], plain())?;
    fill(0)?;
    project.sync()?;

    let mut watchers = Vec::new();
    for engine in Engine::ALL {
        let (watcher, first) = Watcher::start(engine, &table, "version")?;
        assert_eq!(first, whole(0), "{engine:?}");
        watchers.push((engine, watcher));
    }
    for version in 1..=4 {
        fill(version)?;
        project.sync()?;
    }
    for (engine, watcher) in watchers {
        let seen = watcher.stop()?;
        check(&seen).with_context(|| format!("read by {engine:?}"))?;
    }
    partial.stop()
}

fn whole(version: u64) -> Observation {
    Observation::Values(BTreeMap::from([(version.to_string(), ROWS + version)]))
}

/// Only whole versions, never an older one after a newer one, the newest last.
fn check(seen: &[Observation]) -> Result<()> {
    let mut newest = 0;
    for observation in seen {
        match observation {
            // Listed before the swap, opened after it: the reader tries again.
            Observation::Missing(_) => {}
            Observation::Error(error) => bail!("a reader failed: {error}"),
            values => {
                let version = (newest..=4).find(|version| *values == whole(*version));
                newest = version.with_context(|| format!("after version {newest}: {values:?}"))?;
            }
        }
    }
    if newest != 4 || seen.last() != Some(&whole(4)) {
        bail!("the last content was never seen: {:?}", seen.last());
    }
    Ok(())
}
