//! The floor: what it costs to be sent the changes at all.
//!
//! `pg_recvlogical` over the same TCP address as the sync, to /dev/null.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::postgres::{PASSWORD, USER};

use super::backlog::{Backlog, DATABASE};

const SLOT: &str = "bench_floor";

/// Its wall time, from the program's start to its end.
pub fn run(backlog: &Backlog) -> Result<Duration> {
    backlog.copy_slot(SLOT)?;
    let end = backlog.psql("SELECT pg_current_wal_flush_lsn()")?;
    let publication = backlog.psql("SELECT string_agg(pubname, ',') FROM pg_publication")?;
    let mut command = backlog.server().build().command("pg_recvlogical");
    command.args(["-h", "127.0.0.1", "-U", USER, "-d", DATABASE, "-S", SLOT]);
    command.arg("-p").arg(backlog.server().port().to_string()).env("PGPASSWORD", PASSWORD);
    command.args(["--start", "--no-loop", "-E", &end, "-f", "/dev/null"]);
    command.args(["-o", "proto_version=1", "-o"]).arg(format!("publication_names={publication}"));
    command.stdin(Stdio::null());
    let started = Instant::now();
    let output = command.output().context("starting pg_recvlogical")?;
    let took = started.elapsed();
    ensure!(output.status.success(), "pg_recvlogical: {}", String::from_utf8_lossy(&output.stderr));
    // It holds back what the server keeps of its log.
    backlog.psql(&format!("SELECT pg_drop_replication_slot('{SLOT}')"))?;
    Ok(took)
}
