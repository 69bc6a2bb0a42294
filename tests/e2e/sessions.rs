//! What happens to sessions and tables at the server while a load reads them:
//! backends killed, the server restarted, DDL.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::gate::{self, Gate, STREAMS};
use tests::postgres::{Database, Options, Server};
use tests::run::{Project, Running, poll, signal};
use tests::services::{Service, sync_through};
use tests::verify::{self, Expected};
use tests::{moment, watch};

/// Starts a sync whose last chunk waits at its gate.
fn held(project: &Project) -> Result<Running> {
    let mut sync = project.start(&Project::SYNC)?;
    moment::reached(project, &mut sync, "all but one chunk is staged", |state| {
        moment::all_but_one(state, "a")
    })?;
    Ok(sync)
}

/// SQL that selects the backends of ours with this name in this database.
fn backends(what: &str, name: &str) -> String {
    format!(
        "SELECT {what} FROM pg_stat_activity WHERE datname = current_database()
         AND application_name = 'tidewater {name}'"
    )
}

#[test]
fn a_reader_that_is_terminated_is_replaced_under_the_same_snapshot() -> Result<()> {
    let project = gate::project("reader_killed")?;
    let gate = Gate::shut(project.database(), "second")?;
    let sync = held(&project)?;
    let first = Expected::relation(&project, "public", "a")?;
    let terminate =
        backends("count(pg_terminate_backend(pid))", "reader") + " AND state = 'active'";
    ensure!(project.database().psql(&terminate)? == "1", "no reader was at work");
    project.database().psql("UPDATE a SET v = 'later' WHERE id < 2000 AND hold = 'open'")?;
    drop(gate);
    let outcome = sync.wait()?.succeeded()?;
    ensure!(outcome.stderr.contains("trying again"), "{}", outcome.stderr);
    verify::same(&project, &[first])
}

#[test]
fn a_load_whose_snapshot_is_lost_starts_again_under_a_new_one() -> Result<()> {
    let project = gate::project("keeper_killed")?;
    let gate = Gate::shut(project.database(), "second")?;
    let sync = held(&project)?;
    project.database().psql("UPDATE a SET v = 'later' WHERE id < 2000 AND hold = 'open'")?;
    let terminate = backends("count(pg_terminate_backend(pid))", "load keeper");
    ensure!(project.database().psql(&terminate)? == "1", "no keeper was there");
    drop(gate);
    let outcome = sync.wait()?.succeeded()?;
    ensure!(outcome.stderr.contains("the load was lost"), "{}", outcome.stderr);
    verify::same_as_source(&project, &STREAMS)?;
    assert_eq!(moment::leftovers(&project), Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn a_server_that_restarts_costs_only_work() -> Result<()> {
    // Else the restart may lose what was committed just before it.
    let options = Options::default().set("synchronous_commit", "on");
    let server = Arc::new(Server::start(&options)?);
    let project = gate::project_on(&Database::on(&server, "crashed")?)?;
    let gate = Gate::shut(project.database(), "second")?;
    let sync = held(&project)?;
    // A backend killed so takes all others along, and the server starts anew.
    let pid = backends("min(pid)", "reader") + " AND state = 'active'";
    signal(project.database().psql(&pid)?.parse()?, "KILL")?;
    poll("the server is back", || {
        Ok(server.log().contains("reinitializing") && server.psql("postgres", "SELECT 1").is_ok())
    })?;
    drop(gate);
    let outcome = sync.wait()?;
    if !outcome.status.success() {
        let said = outcome.failed()?;
        ensure!(said.contains("continue with: "), "{said}");
        project.sync()?;
    }
    verify::same_as_source(&project, &STREAMS)?;
    assert_eq!(moment::leftovers(&project), Vec::<PathBuf>::new());
    Ok(())
}

/// Waits until somebody waits for a lock on the table.
fn queued(database: &Database, table: &str) -> Result<()> {
    poll(&format!("a lock on {table} is waited for"), || {
        let query = format!(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass"
        );
        Ok(database.psql(&query)? != "0")
    })
}

#[test]
fn ddl_that_comes_during_a_load_waits_for_its_end() -> Result<()> {
    let project = gate::project("ddl_during")?;
    // One reader: it comes to the small table only after the DDL has.
    project.edit("source.json", |source| source["max_threads"] = json!(1))?;
    let database = project.database();
    let gate = Gate::shut(database, "second")?;
    let sync = held(&project)?;
    let first: Vec<Expected> = ["a", "b"]
        .iter()
        .map(|name| Expected::relation(&project, "public", name))
        .collect::<Result<_>>()?;
    let mut truncate = database.psql_background("TRUNCATE b")?;
    let mut rewrite = database.psql_background("ALTER TABLE a ALTER COLUMN id TYPE bigint")?;
    queued(database, "b")?;
    queued(database, "a")?;
    drop(gate);
    let outcome = sync.wait()?.succeeded()?;
    verify::same(&project, &first)?;
    ensure!(!outcome.stderr.contains("trying again"), "{}", outcome.stderr);
    poll("the DDL is done", || Ok(!truncate.running()? && !rewrite.running()?))?;

    // What discover saw is no longer true, and the sync says so.
    let said = project.run(&Project::SYNC)?.failed()?;
    ensure!(said.contains("public.a") && said.contains("discover"), "{said}");
    project.discover()?;
    project.select(&STREAMS, gate::selection())?;
    project.sync()?;
    verify::same_as_source(&project, &STREAMS)
}

#[test]
fn a_load_gives_way_to_ddl_that_its_new_readers_would_wait_for() -> Result<()> {
    let project = gate::project("ddl_ahead")?;
    project.edit("source.json", |source| source["max_threads"] = json!(1))?;
    let database = project.database();
    let (source, writer) = (Service::source(&["--grace", "120"])?, Service::writer(&[])?);
    let arguments = sync_through(Some(&source), &[&writer]);
    let gate = Gate::shut(database, "second")?;
    let mut sync = project.start(&arguments)?;
    moment::reached(&project, &mut sync, "all but one chunk is staged", |state| {
        moment::all_but_one(state, "a")
    })?;
    // Its only reader goes; the keeper stays, and DDL waits for that.
    sync.kill()?;
    poll("the reader is gone", || Ok(database.psql(&backends("count(*)", "reader"))? == "0"))?;
    let mut truncate = database.psql_background("TRUNCATE b; DELETE FROM a WHERE id % 2 = 0")?;
    queued(database, "b")?;
    drop(gate);
    project.run(&arguments)?.succeeded()?;
    poll("the DDL is done", || Ok(!truncate.running()?))?;
    project.run(&arguments)?.succeeded()?;
    verify::same_as_source(&project, &STREAMS)?;
    assert_eq!(moment::leftovers(&project), Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn a_table_rewritten_before_the_snapshot_is_read_as_it_is_after() -> Result<()> {
    let project = gate::project("ddl_before")?;
    let database = project.database();
    database.psql("VACUUM FULL a")?;
    project.sync()?;
    verify::same_as_source(&project, &STREAMS)?;

    // The load waits for the lock, and its snapshot must not be from before.
    let gate = Gate::shut(database, "first")?;
    let mut rewrite = database.psql_background(
        "BEGIN; TRUNCATE b; INSERT INTO b SELECT i, 'after', 'open', '' FROM generate_series(1, 70) i;
         SELECT pass('first', 'open'); COMMIT;",
    )?;
    poll("the table is being rewritten", || {
        let query = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock'
                     AND relation = 'b'::regclass";
        Ok(database.psql(query)? != "0")
    })?;
    let sync = project.start(&Project::SYNC)?;
    queued(database, "b")?;
    drop(gate);
    sync.wait()?.succeeded()?;
    poll("the rewrite is done", || Ok(!rewrite.running()?))?;
    assert_eq!(database.psql("SELECT count(*) FROM b")?, "70");
    verify::same_as_source(&project, &STREAMS)?;
    assert_eq!(watch::parquet_files(&project.table("public", "b")).len(), 1);
    Ok(())
}
