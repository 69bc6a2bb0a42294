//! Random transactions, by seeds: written while tables are loaded and followed,
//! compared where the source is quiet. `TIDEWATER_SEED=<n>` repeats one.

use anyhow::{Context, Result};
use tests::workload::{SCHEMA, TABLES, Workload};

use super::{Followed, Into};

#[test]
fn random_transactions_arrive_in_parquet() -> Result<()> {
    seeds(Into::Parquet, 1)
}

#[test]
fn random_transactions_arrive_in_iceberg() -> Result<()> {
    seeds(Into::Iceberg, 2)
}

fn seeds(into: Into, first: u64) -> Result<()> {
    if let Ok(seed) = std::env::var("TIDEWATER_SEED") {
        return one(into, seed.parse().context("TIDEWATER_SEED is a number")?);
    }
    for seed in [first, first + 10, first + 20] {
        one(into, seed).with_context(|| format!("reproduce with TIDEWATER_SEED={seed}"))?;
    }
    Ok(())
}

fn one(into: Into, seed: u64) -> Result<()> {
    let followed = Followed::new(into, "random_changes", SCHEMA)?;
    let mut workload = Workload::new(seed).with_truncates();
    for round in 0..4 {
        // Two sessions write while the sync runs, the first one loads.
        let database = followed.project.database();
        let mut writers = Vec::new();
        for _ in 0..2 {
            writers.push(database.psql_background(&workload.transactions(60))?);
        }
        followed.sync().with_context(|| format!("round {round}, while it is written"))?;
        for writer in &mut writers {
            tests::run::poll("the writers are done", || Ok(!writer.running()?))?;
        }
        followed.psql(&workload.transactions(10))?;
        followed.sync_equals(&TABLES).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
