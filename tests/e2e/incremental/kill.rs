//! `kill -9` of any process at random moments of incremental syncs, then the
//! same command again. `TIDEWATER_SEED=<n>` repeats one.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::moment;
use tests::run::{Project, poll, signal};
use tests::watch::files;

use super::{Incremental, Into};

const SQL: &str = "
    CREATE TABLE keyed (id serial PRIMARY KEY, c int, v text);
    CREATE TABLE log (c int, v text);
    INSERT INTO keyed (c, v) SELECT i / 50, 'a' FROM generate_series(1, 5000) i;
    INSERT INTO log SELECT i / 50, 'a' FROM generate_series(1, 5000) i;
";
const STREAMS: [&str; 2] = ["public.keyed", "public.log"];

#[test]
fn kills_lose_and_double_nothing_of_increments_in_parquet() -> Result<()> {
    killed(Into::Parquet, 17)
}

#[test]
fn kills_lose_and_double_nothing_of_increments_in_iceberg() -> Result<()> {
    killed(Into::Iceberg, 18)
}

fn killed(into: Into, seed: u64) -> Result<()> {
    let seed = match std::env::var("TIDEWATER_SEED") {
        Ok(seed) => seed.parse().context("TIDEWATER_SEED is a number")?,
        Err(_) => seed,
    };
    rounds(into, seed).with_context(|| format!("reproduce with TIDEWATER_SEED={seed}"))
}

/// Rows at the largest value, above it and without one; in Iceberg, changed ones.
fn changes(into: Into, random: &mut StdRng) -> String {
    let mut sql = String::new();
    for table in ["keyed", "log"] {
        for _ in 0..random.random_range(1..4) {
            let (rows, above) = (random.random_range(1..200), random.random_range(0..3));
            sql.push_str(&format!(
                "INSERT INTO {table} (c, v) SELECT (SELECT max(c) FROM {table}) + {above}, 'b'
                    FROM generate_series(1, {rows});"
            ));
        }
        sql.push_str(&format!("INSERT INTO {table} (c, v) VALUES (NULL, 'apart');"));
    }
    if into == Into::Iceberg {
        let part = random.random_range(0..20);
        sql.push_str(&format!(
            "UPDATE keyed SET v = v || 'u', c = (SELECT max(c) + 1 FROM keyed) WHERE id % 20 = {part};"
        ));
    }
    sql
}

fn rounds(into: Into, seed: u64) -> Result<()> {
    let cursors = [("keyed", "c"), ("log", "c")];
    let tables = Incremental::new(into, "killed_increments", SQL, &cursors)?;
    let mut random = StdRng::seed_from_u64(seed);
    let root = match &tables.lake {
        Some(lake) => lake.directory().join("files"),
        None => tables.project.output(),
    };
    let mut hits = 0;
    for round in 0..8 {
        let victim = random.random_range(0..3);
        let aim = random.random_range(0..8);
        let mut sync = tables.project.start(&Project::SYNC)?;
        let before: BTreeSet<_> = files(&root).into_iter().collect();
        let mut seen = BTreeSet::new();
        let mut ended = false;
        poll("files are new", || {
            ended = sync.ended()?;
            seen.extend(files(&root).into_iter().filter(|file| !before.contains(file)));
            Ok(ended || (seen.len() >= aim && moment::services(&sync).is_ok()))
        })?;
        if ended {
            sync.wait()?.succeeded()?;
        } else {
            let (source, writer) = moment::services(&sync)?;
            signal([sync.pid(), source, writer][victim], "KILL")?;
            hits += u32::from(!sync.wait()?.status.success());
            moment::gone(&[source, writer])?;
        }
        tables.psql(&changes(into, &mut random))?;
        // What was interrupted is completed, and then what has come since is read.
        tables.sync()?;
        tables
            .sync_equals(&STREAMS)
            .with_context(|| format!("round {round}: {victim} killed after {aim} files"))?;
        tables.psql(&changes(into, &mut random))?;
    }
    ensure!(hits > 2, "only {hits} kills hit a running sync");
    Ok(())
}
