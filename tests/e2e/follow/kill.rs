//! `kill -9` of any process at random moments while tables are loaded and
//! followed, then the same command again. `TIDEWATER_SEED=<n>` repeats one.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::moment;
use tests::run::{Project, signal};
use tests::watch::{self, PartialFiles};
use tests::workload::{LARGE_TABLES, MORE, SCHEMA, TABLES, Workload};

use super::{Followed, Into};

#[test]
fn kills_lose_and_double_nothing_in_parquet() -> Result<()> {
    killed(Into::Parquet, 7)
}

#[test]
fn kills_lose_and_double_nothing_in_iceberg() -> Result<()> {
    killed(Into::Iceberg, 8)
}

fn killed(into: Into, seed: u64) -> Result<()> {
    let seed = match std::env::var("TIDEWATER_SEED") {
        Ok(seed) => seed.parse().context("TIDEWATER_SEED is a number")?,
        Err(_) => seed,
    };
    rounds(into, seed).with_context(|| format!("reproduce with TIDEWATER_SEED={seed}"))
}

fn rounds(into: Into, seed: u64) -> Result<()> {
    // A Parquet table cannot be asked for large values: it would be loaded anew.
    let large = into == Into::Iceberg;
    let tables = if large { &LARGE_TABLES[..] } else { &TABLES[..] };
    let followed = Followed::new(into, "killed_changes", &format!("{SCHEMA}{MORE}"))?;
    followed.select(tables)?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut workload = Workload::new(seed).of(tables);
    let root = match &followed.lake {
        Some(lake) => lake.directory().join("files"),
        None => followed.project.output(),
    };
    let partial = PartialFiles::watch(&root);
    let mut hits = 0;
    for round in 0..8 {
        followed.psql(&workload.transactions(40))?;
        let victim = random.random_range(0..3);
        let aim = random.random_range(0..12);
        let mut sync = followed.project.start(&Project::SYNC)?;
        let before: BTreeSet<_> = watch::files(&root).into_iter().collect();
        if moment::new_files(&root, &before, &mut sync, aim)? {
            let (source, writer) = moment::services(&sync)?;
            signal([sync.pid(), source, writer][victim], "KILL")?;
            hits += u32::from(!sync.wait()?.status.success());
            moment::gone(&[source, writer])?;
        } else {
            sync.wait()?.succeeded()?;
        }
        followed.psql(&workload.transactions(5))?;
        followed
            .sync_equals(tables)
            .with_context(|| format!("round {round}: {victim} killed after {aim} files"))?;
    }
    if into == Into::Parquet {
        partial.stop()?;
    }
    ensure!(hits > 2, "only {hits} kills hit a running sync");
    Ok(())
}
