//! The floor: what it costs to get the rows out of PostgreSQL at all.
//!
//! Two `psql`, each with half of the table's pages, in binary, over the same
//! TCP address as the sync, to /dev/null.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::postgres::PASSWORD;

use crate::database::{DATABASE, Trips};

/// Wall time of the two together.
pub fn run(trips: &Trips) -> Result<Duration> {
    let started = Instant::now();
    let mut halves = Vec::new();
    for range in halves_of(trips) {
        halves.push(copy(trips, &range).stdout(Stdio::null()).spawn().context("starting psql")?);
    }
    for mut half in halves {
        let status = half.wait()?;
        ensure!(status.success(), "psql failed: {status}");
    }
    Ok(started.elapsed())
}

/// Bytes of the table in COPY's binary form; warms the way there, too.
pub fn bytes(trips: &Trips) -> Result<u64> {
    let mut total = 0;
    for range in halves_of(trips) {
        let mut half =
            copy(trips, &range).stdout(Stdio::piped()).spawn().context("starting psql")?;
        let mut stdout = half.stdout.take().context("psql without stdout")?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match stdout.read(&mut buffer)? {
                0 => break,
                read => total += read as u64,
            }
        }
        let status = half.wait()?;
        ensure!(status.success(), "psql failed: {status}");
    }
    Ok(total)
}

fn halves_of(trips: &Trips) -> [String; 2] {
    let middle = trips.pages / 2;
    [
        format!("ctid >= '(0,0)' AND ctid < '({middle},0)'"),
        format!("ctid >= '({middle},0)' AND ctid < '({},0)'", trips.pages),
    ]
}

fn copy(trips: &Trips, range: &str) -> Command {
    let mut command = trips.server.psql_command(DATABASE);
    // Said later, these win over the Unix socket that psql_command has set.
    command.args(["-h", "127.0.0.1"]).env("PGPASSWORD", PASSWORD).stdin(Stdio::null());
    let sql = format!("COPY (SELECT * FROM trips WHERE {range}) TO STDOUT (FORMAT binary)");
    command.args(["-c", &sql]);
    command
}
