//! Fifty seeds of random transactions, changes of tables and kills
//! ([`tests::seeds`]). `TIDEWATER_SEED=<n>` repeats one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tests::seeds;

/// Seeds of each test.
const SEEDS: u64 = 25;
/// Run at once in each.
const AT_ONCE: usize = 2;

#[test]
fn seeds_of_random_transactions_and_kills_end_in_equality_in_parquet() -> Result<()> {
    all(0)
}

#[test]
fn seeds_of_random_transactions_and_kills_end_in_equality_in_iceberg() -> Result<()> {
    all(1)
}

/// Every second one: a seed decides where its tables go.
fn all(first: u64) -> Result<()> {
    let server = seeds::server()?;
    if let Ok(seed) = std::env::var("TIDEWATER_SEED") {
        let seed: u64 = seed.parse().context("TIDEWATER_SEED is a number")?;
        if seed % 2 == first {
            seeds::run(&server, seed, false)?;
        }
        return Ok(());
    }
    let (next, done) = (AtomicU64::new(0), Mutex::new((Vec::new(), Duration::ZERO)));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let number @ 0..SEEDS = next.fetch_add(1, Ordering::Relaxed) {
                    let outcome = seeds::run(&server, first + 2 * number, false);
                    let Ok(mut done) = done.lock() else { return };
                    match outcome {
                        Ok(took) => done.1 = done.1.max(took),
                        Err(error) => done.0.push(format!("{error:#}")),
                    }
                }
            });
        }
    });
    let (faults, longest) = done.into_inner().map_err(|_| anyhow!("a seed's thread panicked"))?;
    println!("the longest seed took {:.1} s", longest.as_secs_f64());
    ensure!(faults.is_empty(), "{} of {SEEDS} failed:\n{}", faults.len(), faults.join("\n\n"));
    Ok(())
}
