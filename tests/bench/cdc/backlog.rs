//! A server with two tables, and a backlog of changes of theirs in its log.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tests::postgres::{Build, Options, Server};

use super::SLOT;
use crate::sync::Sync;

/// The database that holds them.
pub const DATABASE: &str = "bench";
/// The tables, of the schema public.
pub const TABLES: [&str; 2] = ["orders", "payments"];
/// The copy of the slot from before the backlog.
const BASE: &str = "bench_base";

/// What a table comes to, told alike by PostgreSQL and ClickHouse.
const SUMS: &str = "count(*), sum(id), sum(id % 1000 * version), CAST(sum(amount) * 100 AS bigint)";

pub struct Backlog {
    server: Server,
    pub changes: u64,
}

impl Backlog {
    /// Starts a throwaway server and fills the tables.
    pub fn begin(changes: u64) -> Result<Backlog> {
        // Nothing happens on the server but what is measured.
        let options = Options::default()
            .set("shared_buffers", "1GB")
            .set("max_wal_size", "16GB")
            .set("checkpoint_timeout", "1h")
            .set("autovacuum", "off");
        let server = Server::start_build(&Build::newest()?, &options)?;
        server.psql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
        let backlog = Backlog { server, changes };
        backlog.file(include_str!("tables.sql")).context("filling the tables")?;
        Ok(backlog)
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Keeps the slot as it is, and writes the changes.
    pub fn write(&self) -> Result<()> {
        let started = Instant::now();
        eprintln!("writing {} changes", self.changes);
        self.psql(&format!("SELECT pg_copy_logical_replication_slot('{SLOT}', '{BASE}')"))?;
        self.file(include_str!("backlog.sql")).context("writing the changes")?;
        // Settled now rather than in the first round.
        self.psql("CHECKPOINT")?;
        eprintln!("written in {:.0} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    /// A slot of this name stands where the backlog begins.
    pub fn copy_slot(&self, name: &str) -> Result<()> {
        self.psql(&format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
             WHERE slot_name = '{name}';
             SELECT pg_copy_logical_replication_slot('{BASE}', '{name}')"
        ))?;
        Ok(())
    }

    pub fn psql(&self, sql: &str) -> Result<String> {
        self.server.psql(DATABASE, sql)
    }

    fn file(&self, sql: &str) -> Result<String> {
        self.psql(&sql.replace(":changes", &self.changes.to_string()))
    }

    /// The table as ClickHouse reads it is the table as PostgreSQL has it. DuckDB
    /// (1.5) is no use here: with so many equality deletes it takes minutes.
    pub fn equals(&self, table: &str, sync: &Sync) -> Result<()> {
        let truth = self.psql(&format!("SELECT {SUMS} FROM {table}"))?;
        let (place, metadata) = newest_metadata(sync, table)?;
        let query = format!(
            "SELECT {SUMS} FROM icebergLocal('{}/', \
             SETTINGS iceberg_metadata_file_path = 'metadata/{metadata}')",
            place.display()
        );
        let code = "import chdb, sys; print(chdb.query(sys.argv[1], 'TSV'))";
        let mut command = Command::new(tests::parts::iceberg_python()?);
        // It opens files below the working directory only.
        let output = command.args(["-c", code, &query]).current_dir("/").output()?;
        let read = String::from_utf8_lossy(&output.stdout).trim().replace('\t', "|");
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            read == truth,
            "{table}: ClickHouse reads {read:?} where PostgreSQL has {truth:?}; {said}"
        );
        Ok(())
    }
}

/// Where the table lies, and the name of its newest metadata file: names begin
/// with their number.
fn newest_metadata(sync: &Sync, table: &str) -> Result<(PathBuf, String)> {
    let place = sync.lake().join("warehouse/postgres_bench_public").join(table);
    let directory = place.join("metadata");
    let entries = std::fs::read_dir(&directory)
        .with_context(|| directory.display().to_string())?
        .collect::<Result<Vec<_>, _>>()?;
    let names = entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let newest = names.filter(|name| name.ends_with(".metadata.json")).max();
    Ok((place, newest.with_context(|| format!("no metadata in {}", directory.display()))?))
}
