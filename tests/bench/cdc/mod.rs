//! `./build.sh bench cdc`: a backlog of changes against `pg_recvlogical`.
//!
//! ```text
//! tables → first sync → base slot → backlog
//!     per round: copy of base → pg_recvlogical > /dev/null
//!                copy of base → sync of the tables as the first sync left them
//! ClickHouse reads the tables → what PostgreSQL says
//! ```
//!
//! Both decode the same log of the same server on the same machine, in turns
//! within one run: only the ratio says something about us.

mod backlog;
mod recvlogical;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::report::{Ratio, Report, Round, Work, busy, cores};
use crate::sync::{Format, Sync};
use backlog::{Backlog, DATABASE};

/// The slot that is followed; its copies are named after it.
const SLOT: &str = "bench";

/// What `bench cdc` takes.
#[derive(Args)]
pub struct Cdc {
    /// Changes of the backlog: half in large transactions, half in ones of a row.
    #[arg(long, default_value_t = 1_500_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    changes: u64,
    /// How often pg_recvlogical and the sync take turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Runs it.
pub fn run(options: &Cdc) -> Result<()> {
    let backlog = Backlog::begin(options.changes)?;
    let source = json!({
        "default_mode": "cdc",
        "max_threads": 2,
        "update_method": {"replication_slot": SLOT},
    });
    let sync = Sync::prepare(backlog.server(), DATABASE, source, Format::Iceberg)?;
    sync.run_first().context("the first sync")?;
    sync.keep()?;
    backlog.write()?;
    introduce(&backlog);
    let work = Work { of: "changes", count: backlog.changes, bytes: None };
    let mut report = Report::begin(work, "recv", Ratio::Faster);
    for number in 1..=options.rounds {
        let floor = recvlogical::run(&backlog)?;
        sync.restore()?;
        backlog.copy_slot(SLOT)?;
        let sync = sync.run().with_context(|| format!("sync of round {number}"))?;
        report.add(Round { floor, sync });
    }
    report.end();
    for table in backlog::TABLES {
        backlog.equals(table, &sync)?;
    }
    println!("ClickHouse reads both tables as PostgreSQL has them.");
    Ok(())
}

/// Prints what is measured.
fn introduce(backlog: &Backlog) {
    let changes = backlog.changes;
    println!("a backlog of {changes} changes of two tables, half of them in ten transactions,");
    println!("half in one for each; five of ten are updates, three inserts, two deletes");
    let version = &backlog.server().build().version;
    println!("PostgreSQL {version} on this machine, {} cores for all", cores());
    busy();
    println!("\n(a) recv: pg_recvlogical, pgoutput of a copy of the slot to /dev/null");
    println!("(b) sync: the whole command, into Iceberg tables, committed and the slot moved\n");
}
