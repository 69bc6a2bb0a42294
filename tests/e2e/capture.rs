//! Change capture, source-svc alone: what the log says, change by change.

mod handoff;
mod random;
mod slot;
mod stream;
mod tables;
mod values;

use anyhow::{Context, Result};
use tests::capture::Capture;
use tests::postgres::{Build, Database, Server};

/// A database made by `sql`, and change capture on it.
fn capture(label: &str, sql: &str) -> Result<(Database, Capture)> {
    let database = Database::on(&Server::shared_logical(&Build::newest()?)?, label)?;
    database.psql(sql)?;
    let capture = Capture::new(&database)?;
    Ok((database, capture))
}

/// Runs `test` on the oldest and the newest PostgreSQL found. A slot's name is
/// the server's: each is named after its test.
fn on_both_ends(label: &str, test: fn(&Database, &mut Capture) -> Result<()>) -> Result<()> {
    let builds = Build::several()?;
    let ends = builds.iter().take(1).chain(builds.iter().skip(1).last());
    for build in ends {
        let database = Database::on(&Server::shared_logical(build)?, label)?;
        let mut capture = Capture::new(&database)?;
        let tested = test(&database, &mut capture);
        drop_slots(&database)?;
        tested.with_context(|| format!("on PostgreSQL {}", build.version))?;
    }
    Ok(())
}

/// Slots hold back the whole server's log: they go with their test.
fn drop_slots(database: &Database) -> Result<()> {
    database.psql(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
         WHERE database = current_database() AND NOT active",
    )?;
    Ok(())
}
