//! The table that is read: built once, kept between runs, warmed before each.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use tests::postgres::{Build, Options, Server};

/// The database that holds `public.trips`.
pub const DATABASE: &str = "bench";

/// A running server with `public.trips` in it.
pub struct Trips {
    /// Stops when dropped; its cluster stays.
    pub server: Server,
    /// Rows of the table.
    pub rows: u64,
    /// Pages of the table: `ctid` runs from (0,1) to below (pages,0).
    pub pages: u64,
}

impl Trips {
    /// Starts the kept cluster for this many rows, building it first when it is
    /// not there, or was built by other SQL, or `fresh` asks for it.
    pub fn open(rows: u64, fresh: bool) -> Result<Trips> {
        let build = Build::newest()?;
        let directory =
            tests::parts::root().join("bench").join(format!("trips-{rows}-pg{}", build.version));
        let sql = include_str!("trips.sql").replace(":rows", &rows.to_string());
        // Written when everything is in place: the SQL it was built with.
        let built = directory.join("built.sql");
        let is_built = std::fs::read_to_string(&built).is_ok_and(|kept| kept == sql);
        if (fresh || !is_built) && directory.exists() {
            std::fs::remove_dir_all(&directory)
                .with_context(|| format!("removing {}", directory.display()))?;
        }
        let server = Server::start_build(&build, &settings(&directory))?;
        if fresh || !is_built {
            load(&server, rows, &sql)?;
            std::fs::write(&built, &sql)?;
        }
        let pages = server
            .psql(
                DATABASE,
                "SELECT pg_relation_size('trips') / current_setting('block_size')::int",
            )?
            .parse()?;
        Ok(Trips { server, rows, pages })
    }

    /// Puts the table into shared buffers, from where both will read it.
    pub fn warm(&self) -> Result<()> {
        self.server
            .psql(DATABASE, "CREATE EXTENSION IF NOT EXISTS pg_prewarm; SELECT pg_prewarm('trips')")
            .context("warming the table (pg_prewarm is part of postgresql-contrib)")?;
        Ok(())
    }
}

/// Nothing happens on the server during a run but what is measured.
fn settings(directory: &Path) -> Options {
    let options = Options { keep_in: Some(directory.to_owned()), ..Options::default() };
    options
        .set("shared_buffers", "2GB")
        .set("maintenance_work_mem", "512MB")
        .set("max_wal_size", "16GB")
        .set("checkpoint_timeout", "1h")
        .set("autovacuum", "off")
}

fn load(server: &Server, rows: u64, sql: &str) -> Result<()> {
    let started = Instant::now();
    eprintln!("building a table of {rows} rows; it is kept for the next time");
    server.psql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    server.psql(DATABASE, sql).context("loading the table")?;
    // Hint bits and visibility are settled now rather than in the first run.
    server.psql(DATABASE, "VACUUM (FREEZE, ANALYZE) trips")?;
    server.psql(DATABASE, "CHECKPOINT")?;
    eprintln!("built in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}
