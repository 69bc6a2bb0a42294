//! `./build.sh bench full-load`: a full load against PostgreSQL's own COPY.
//! `./build.sh bench cdc`: changes against `pg_recvlogical` ([`cdc`]).
//! `./build.sh bench scale`: 1, 2 and 4 writers whose storage is slow ([`scale`]).
//!
//! ```text
//! kept cluster (database) → warm → per round: floor, then sync → medians
//! ```
//!
//! Both read the same table of the same server on the same machine, in turns
//! within one run: what disturbs one disturbs the other, and only the ratio
//! says something about us.

mod cdc;
mod database;
mod floor;
mod processes;
mod report;
mod scale;
mod sync;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::cdc::Cdc;
use crate::database::{DATABASE, Trips};
use crate::report::{Ratio, Report, Round, Work, busy, cores, mega};
use crate::scale::Scale;
use crate::sync::{Format, Sync};

#[derive(Parser)]
#[command(name = "bench", about = "Measures Tidewater on this machine")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A full load to local Parquet or Iceberg, against two parallel COPYs to
    /// /dev/null.
    FullLoad(FullLoad),
    /// A backlog of changes into local Iceberg tables, against pg_recvlogical to
    /// /dev/null.
    Cdc(Cdc),
    /// A load by 1, 2 and 4 writers whose storage is slow.
    Scale(Scale),
}

#[derive(Args)]
struct FullLoad {
    /// Rows of the table.
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// How often floor and sync take turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// max_threads of source.json.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    max_threads: u32,
    /// Build the database anew instead of using the one kept from last time.
    #[arg(long)]
    fresh: bool,
    /// Load into an Iceberg table (local warehouse, catalog in SQLite) instead
    /// of plain Parquet.
    #[arg(long)]
    iceberg: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::FullLoad(options) => full_load(&options),
        Command::Cdc(options) => cdc::run(&options),
        Command::Scale(options) => scale::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn full_load(options: &FullLoad) -> Result<()> {
    let trips = Trips::open(options.rows, options.fresh)?;
    trips.warm()?;
    let bytes = floor::bytes(&trips)?;
    let format = if options.iceberg { Format::Iceberg } else { Format::Parquet };
    let source = json!({"default_mode": "full_refresh", "max_threads": options.max_threads});
    let sync = Sync::prepare(&trips.server, DATABASE, source, format)?;
    introduce(&trips, bytes, options.max_threads, format);
    let work = Work { of: "rows", count: trips.rows, bytes: Some(bytes) };
    let mut report = Report::begin(work, "floor", Ratio::Slower);
    for number in 1..=options.rounds {
        let floor = floor::run(&trips)?;
        let sync = sync.run_first().with_context(|| format!("sync of round {number}"))?;
        report.add(Round { floor, sync });
    }
    report.end();
    let output = sync.output()?;
    let (before, after) = (mega(bytes), mega(output.bytes));
    println!("{before} MB of COPY BINARY became {after} MB in {} Parquet files.", output.files);
    let read = sync.rows_read_back()?;
    ensure!(read == options.rows, "DuckDB reads {read} rows, not {}", options.rows);
    println!("DuckDB reads {read} rows back.");
    Ok(())
}

/// Prints what is measured.
fn introduce(trips: &Trips, bytes: u64, max_threads: u32, format: Format) {
    println!("full load of {} rows × 20 columns, {} MB of COPY BINARY", trips.rows, mega(bytes));
    println!(
        "PostgreSQL {} on this machine, {} cores for all; max_threads {max_threads}",
        trips.server.build().version,
        cores()
    );
    busy();
    println!("\n(a) floor: two parallel psql COPY … TO STDOUT (FORMAT binary) > /dev/null");
    let table = match format {
        Format::Parquet => "zstd Parquet",
        Format::Iceberg => "an Iceberg table of zstd Parquet",
    };
    println!("(b) sync: the whole command, to {table}, normalized, with metadata columns\n");
}
