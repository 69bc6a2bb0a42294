//! How far the tables are behind, what the server holds, and heartbeats.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::follow;
use tests::going::end;
use tests::postgres::{Database, Options, Server};
use tests::run::{Project, poll};

use super::{Followed, Into};

const SQL: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')";
const T: [&str; 1] = ["public.t"];

/// Sets a key of update_method.
fn set(followed: &Followed, key: &str, value: u64) -> Result<()> {
    followed.project.edit("source.json", |source| source["update_method"][key] = value.into())
}

#[test]
fn the_slot_of_a_quiet_database_releases_what_others_write() -> Result<()> {
    let options = Options::default().set("synchronous_commit", "on");
    let server = Arc::new(Server::start(&options)?);
    for heartbeat in [1, 0] {
        let label = format!("quiet_{heartbeat}");
        let followed = Followed::at(&server, Into::Iceberg, &label, SQL)?;
        set(&followed, "heartbeat_interval", heartbeat)?;
        let busy = Database::on(&server, "busy")?;
        let mut going = followed.go_on()?;
        followed.caught_up(&mut going)?;
        let end_then = busy.psql(
            "CREATE TABLE noise AS SELECT repeat('x', 500) v FROM generate_series(1, 20000);
             SELECT pg_current_wal_lsn()",
        )?;
        poll("the server may drop what was written", || {
            // Which tells where a reader may begin.
            busy.psql("CHECKPOINT")?;
            ensure!(!going.ended()?, "the sync has ended");
            let released = followed.psql(&format!(
                "SELECT restart_lsn >= '{end_then}' FROM pg_replication_slots
                 WHERE slot_name = '{}'",
                follow::slot(&followed.project)
            ))?;
            Ok(released == "t")
        })?;
        end(going)?;
        followed.equals(&T)?;
    }
    Ok(())
}

#[test]
fn heartbeats_are_messages_of_ours_in_the_log_unless_they_are_turned_off() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "heartbeat", SQL)?;
    let slot = follow::slot(&followed.project);
    followed.sync()?;
    followed.psql(
        "SELECT pg_create_logical_replication_slot('probe_' || current_database(), 'pgoutput')",
    )?;
    let beats = || -> Result<u32> {
        let count = followed.psql(&format!(
            "SELECT count(*) FROM pg_logical_slot_get_binary_changes('probe_{slot}', NULL, NULL,
               'proto_version', '1', 'publication_names', 'tidewater_{slot}', 'messages', 'true')
             WHERE get_byte(data, 0) = ascii('M') AND encode(data, 'escape') LIKE '%tidewater%'"
        ))?;
        Ok(count.parse()?)
    };
    set(&followed, "heartbeat_interval", 3600)?;
    followed.sync()?;
    assert_eq!(beats()?, 1);
    set(&followed, "heartbeat_interval", 0)?;
    followed.sync()?;
    assert_eq!(beats()?, 0);
    set(&followed, "heartbeat_interval", 1)?;
    let going = followed.go_on()?;
    let mut seen = 0;
    poll("there are some", || {
        seen += beats()?;
        Ok(seen >= 3)
    })?;
    end(going)?;
    followed.psql(&format!("SELECT pg_drop_replication_slot('probe_{slot}')"))?;
    followed.equals(&T)
}

#[test]
fn the_lag_is_in_the_statistics_and_the_summary() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "lag", SQL)?;
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    let mut stats = Value::Null;
    poll("the statistics have it", || {
        stats = followed.project.read("stats.json").unwrap_or_default();
        Ok(stats["Lag Seconds"].is_f64())
    })?;
    ensure!(stats["Lag Seconds"].as_f64() < Some(60.0), "{stats}");
    ensure!(stats["Lag Bytes"].is_u64() && stats["Retained WAL Bytes"].is_u64(), "{stats}");
    ensure!(stats["Safe WAL Bytes"].is_null(), "{stats}");
    let outcome = end(going)?;
    let summary: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap_or_default())?;
    ensure!(summary["lag"]["seconds"].is_f64() && summary["lag"]["bytes"].is_u64(), "{summary}");
    Ok(())
}

#[test]
fn what_is_more_than_the_user_wants_is_a_warning() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "lag_warnings", SQL)?;
    let quiet = followed.sync()?;
    ensure!(!quiet.stderr.contains("warning: the server holds"), "{}", quiet.stderr);
    set(&followed, "retained_wal_warning_mb", 1)?;
    followed.psql("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(2, 30000) i")?;
    let outcome = followed.sync_equals(&T)?;
    ensure!(outcome.stderr.contains("warning: the server holds"), "{}", outcome.stderr);

    set(&followed, "lag_warning", 1)?;
    let going = followed.go_on_through(&Project::SYNC, 3)?;
    let mut stats = Value::Null;
    poll("it is late", || {
        stats = followed.project.read("stats.json").unwrap_or_default();
        Ok(stats["Lag Seconds"].as_f64() > Some(1.5))
    })?;
    let outcome = end(going)?;
    ensure!(outcome.stderr.contains("more than the 1.0 s of lag_warning"), "{}", outcome.stderr);
    Ok(())
}
