//! `./build.sh soak`: seeds of random transactions, changes of tables, kills and
//! crashes of the server, one after the other for as long as there is time, and
//! what is heavy in its real size.
//!
//! ```text
//! heavy: on a server of its own, one after the other
//! seeds: each worker with a server of its own, majors in turns
//! ```

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use tests::builds::Build;
use tests::postgres::Server;
use tests::{follow, heavy, seeds};

#[derive(Parser)]
#[command(name = "soak", about = "Looks for seeds that do not end in equality")]
struct Cli {
    /// How long seeds are tried.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The first seed; without it, one that differs each time.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds at most.
    #[arg(long, default_value_t = u64::MAX)]
    seeds: u64,
    /// Seeds at once.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// First, once: 2,000 tables, 2 million rows in a transaction, a row of 100 MB,
    /// a value that cannot be sent, pgbench.
    #[arg(long)]
    heavy: bool,
}

fn main() -> ExitCode {
    match soak(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A heavy case and its name.
type Case = (&'static str, fn(&Arc<Server>) -> Result<()>);

const HEAVY: [Case; 5] = [
    ("2,000 tables in one slot", |server| heavy::many_tables(server, 2_000)),
    ("a transaction of 2,000,000 rows", |server| heavy::large_transaction(server, 2_000_000)),
    ("a row of 100 MB", |server| heavy::large_row(server, 100_000_000)),
    ("a value that cannot be sent as text", heavy::unsendable_value),
    ("pgbench", |server| heavy::pgbench(server, 10, 20_000)),
];

fn soak(options: &Cli) -> Result<()> {
    let builds = Build::all()?;
    let faults = Mutex::new(Vec::new());
    let fault = |line: String| {
        println!("FAILED: {line}\n");
        if let Ok(mut faults) = faults.lock() {
            faults.push(line);
        }
    };
    if options.heavy {
        for (name, case) in HEAVY {
            let (server, started) = (Arc::new(follow::start(&Build::newest()?)?), Instant::now());
            match case(&server) {
                Ok(()) => println!("{name}: equal after {:.0} s", started.elapsed().as_secs_f64()),
                Err(error) => fault(format!("{name}: {error:#}")),
            }
        }
    }
    let first = options.seed.unwrap_or_else(|| u64::from(std::process::id()) * 1_000_000);
    let majors: Vec<u32> = builds.iter().map(|build| build.major).collect();
    println!("seeds from {first} on, PostgreSQL {majors:?}");
    let end = Instant::now() + Duration::from_secs(options.minutes * 60);
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..options.workers {
            let (builds, next, done, fault) = (&builds, &next, &done, &fault);
            scope.spawn(move || {
                let mut server: Option<Arc<Server>> = None;
                while Instant::now() < end {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= options.seeds {
                        break;
                    }
                    let seed = first + number;
                    // A seed has its major, however often it is tried.
                    let build = &builds[(seed / 2) as usize % builds.len()];
                    let outcome = with_server(&mut server, build)
                        .and_then(|server| seeds::run(&server, seed, true));
                    match outcome {
                        Ok(took) => {
                            done.fetch_add(1, Ordering::Relaxed);
                            println!("seed {seed}: equal after {:.1} s", took.as_secs_f64());
                        }
                        Err(error) => {
                            // What it has left may disturb the next one.
                            server = None;
                            fault(format!("{error:#}"));
                        }
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap_or_default();
    println!("{} seeds ended in equality", done.load(Ordering::Relaxed));
    ensure!(faults.is_empty(), "{} did not:\n{}", faults.len(), faults.join("\n\n"));
    Ok(())
}

/// The worker's server, of this build.
fn with_server(kept: &mut Option<Arc<Server>>, build: &Build) -> Result<Arc<Server>> {
    if let Some(server) = kept.as_ref().filter(|server| server.build() == build) {
        return Ok(server.clone());
    }
    *kept = None;
    let server = Arc::new(follow::start(build)?);
    *kept = Some(server.clone());
    Ok(server)
}
