//! `./build.sh bench scale`: one load by 1, 2 and 4 writers whose storage is slow.
//!
//! ```text
//! PostgreSQL → source-svc ─┬► writer-svc ─ so many MB/s ─┐
//!                          ├► writer-svc ─ so many MB/s ─┼► one bucket (SeaweedFS)
//!                          └► …                          ┘
//! ```
//!
//! Every writer reaches the store through a proxy of its own that holds what it
//! uploads to a rate, so that writers and nothing else are what there is too little
//! of; the store answers at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use tests::bucket::Place;
use tests::services::{Service, TOKEN};
use tests::throttle::Throttle;

use crate::database::{DATABASE, Trips};
use crate::sync::{Format, Sync};

/// Writers of each run, and how many times faster than one they have to be.
const RUNS: [(usize, f64); 3] = [(1, 1.0), (2, 1.7), (4, 3.0)];

#[derive(Args)]
pub struct Scale {
    /// Rows of the table.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// What each writer may upload, in MB/s.
    #[arg(long, default_value_t = 2.0)]
    rate: f64,
    /// max_threads of source.json: streams of all writers together.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    max_threads: u32,
    /// Build the database anew instead of using the one kept from last time.
    #[arg(long)]
    fresh: bool,
}

/// Runs it; an error when more writers do not help as much as they have to.
pub fn run(options: &Scale) -> Result<()> {
    ensure!(options.rate > 0.0, "--rate must be above 0");
    let trips = Trips::open(options.rows, options.fresh)?;
    trips.warm()?;
    let source = json!({"default_mode": "full_refresh", "max_threads": options.max_threads});
    let sync = Sync::prepare(&trips.server, DATABASE, source, Format::Parquet)?;
    println!(
        "{} rows into a bucket, every writer uploads {} MB/s at most",
        options.rows, options.rate
    );
    let mut first = Duration::ZERO;
    let mut too_slow = Vec::new();
    for (count, wanted) in RUNS {
        let wall =
            load(options, &sync, count).with_context(|| format!("the load by {count} writers"))?;
        if count == 1 {
            first = wall;
        }
        let ratio = first.as_secs_f64() / wall.as_secs_f64();
        println!("{count} writers: {:6.2} s, {ratio:.2} times as fast", wall.as_secs_f64());
        if ratio < wanted {
            too_slow.push(format!("{count} writers are {ratio:.2} times as fast, not {wanted}"));
        }
    }
    ensure!(too_slow.is_empty(), "{}", too_slow.join("; "));
    Ok(())
}

fn load(options: &Scale, sync: &Sync, count: usize) -> Result<Duration> {
    let place = Place::bucket(&format!("scale-{count}"))?;
    let store = place.endpoint();
    let store = store.strip_prefix("http://").context("the store speaks HTTP")?;
    let ways = (0..count).map(|_| Throttle::start(store, options.rate * 1e6));
    let ways = ways.collect::<Result<Vec<_>>>()?;
    let writers = ways.iter().map(|way| {
        let proxy = format!("http://{}", way.address());
        Service::writer_with(&[], &[("HTTP_PROXY", &proxy), ("NO_PROXY", "")])
    });
    let writers = writers.collect::<Result<Vec<_>>>()?;
    sync.write_to(&place.destination())?;
    let mut arguments = vec!["--token", TOKEN];
    arguments.extend(writers.iter().flat_map(|writer| ["--writer", writer.address()]));
    let measured = sync.run_first_with(&arguments)?;
    let table = format!("postgres_{DATABASE}_public/trips");
    let rows = place.rows(&table)?;
    ensure!(rows == options.rows, "{rows} rows were written, not {}", options.rows);
    let staged = |writer: &Service| {
        writer.log().lines().filter(|line| line.contains(r#""message":"staged""#)).count()
    };
    let shares: Vec<_> = writers.iter().map(staged).collect();
    println!("  chunks of each writer: {shares:?}");
    Ok(measured.wall)
}
