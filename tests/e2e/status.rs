//! `status`: what streams have, how far behind they are, what is wrong.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::builds::Build;
use tests::follow::{self, Followed, Into, slot};
use tests::going::end;
use tests::run::{Outcome, Project};

const SQL: &str = "
    CREATE TABLE a (id int PRIMARY KEY, v text);
    CREATE TABLE b (id int PRIMARY KEY, v text);
    INSERT INTO a SELECT i, 'a' FROM generate_series(1, 100) i;
    INSERT INTO b SELECT i, 'b' FROM generate_series(1, 100) i;";

fn ask(project: &Project) -> Result<(Outcome, Value)> {
    let mut arguments = Project::SYNC;
    arguments[0] = "status";
    let outcome = project.run(&arguments)?;
    let line = outcome.stdout.lines().last().with_context(|| outcome.stderr.clone())?;
    let said = serde_json::from_str(line).with_context(|| line.to_owned())?;
    Ok((outcome, said))
}

/// All is well: exit code 0.
fn well(project: &Project) -> Result<Value> {
    let (outcome, said) = ask(project)?;
    outcome.succeeded()?;
    assert_eq!(said["status"], "OK", "{said}");
    Ok(said)
}

/// Something is to be done: exit code 1, and the problem on stderr with its remedy.
fn wrong(project: &Project, what: &str, to_do: &str) -> Result<Value> {
    let (outcome, said) = ask(project)?;
    let stderr = outcome.failed()?;
    assert_eq!(said["status"], "ATTENTION", "{said}");
    let at = stderr.find(what).with_context(|| format!("no {what:?} in {stderr}"))?;
    ensure!(stderr[at..].contains(to_do), "no {to_do:?} in {stderr}");
    ensure!(said.to_string().contains(what), "{said}");
    Ok(said)
}

fn stream<'v>(said: &'v Value, name: &str) -> Result<&'v Value> {
    let mut streams = said["streams"].as_array().into_iter().flatten();
    streams.find(|stream| stream["stream"] == name).context("the stream")
}

/// Everything below the project, but what one has no influence on.
fn everything(project: &Project) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut directories = vec![project.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                found.push((path.display().to_string(), std::fs::read(&path)?));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn a_status_tells_what_the_streams_have_and_changes_nothing() -> Result<()> {
    // What others write on a server is what all are behind.
    let server = Arc::new(follow::start(&Build::newest()?)?);
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::at(&server, into, "status", SQL)?;
        let project = &followed.project;
        let before = everything(project)?;
        let new = well(project)?;
        ensure!(stream(&new, "public.a")?["notes"][0] == "it was not synced yet", "{new}");
        ensure!(new["capture"].is_null(), "{new}");
        let slots = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'",
            slot(project)
        );
        assert_eq!(followed.psql(&slots)?, "0");
        ensure!(everything(project)? == before, "status has left something");

        followed.sync()?;
        followed
            .psql("INSERT INTO a SELECT i, repeat('x', 100) FROM generate_series(101, 300) i")?;
        let before = everything(project)?;
        let synced = well(project)?;
        let a = stream(&synced, "public.a")?;
        assert_eq!((&a["rows"], &a["sync_mode"]), (&100.into(), &"cdc".into()), "{synced}");
        ensure!(a["behind_bytes"].as_u64() > Some(20_000), "{synced}");
        ensure!(a["committed_at"].is_string() && a["lsn"].is_string(), "{synced}");
        ensure!(synced["capture"]["behind_bytes"].as_u64() > Some(20_000), "{synced}");
        ensure!(everything(project)? == before, "status has changed something");
        followed.sync()?;
        let again = well(project)?;
        ensure!(stream(&again, "public.a")?["behind_bytes"].as_u64() < Some(20_000), "{again}");
    }
    Ok(())
}

#[test]
fn a_status_can_be_asked_while_a_sync_goes_on() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "status_going", SQL)?;
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    let said = well(&followed.project)?;
    ensure!(said["notes"].to_string().contains("the last sync is not finished"), "{said}");
    end(going)?;
    let said = well(&followed.project)?;
    ensure!(!said["notes"].to_string().contains("not finished"), "{said}");
    Ok(())
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "status_wrong", SQL)?;
    let project = &followed.project;
    followed.sync()?;
    well(project)?;

    // The state is lost; then the slot is moved by somebody else, too.
    let state = project.read("state.json")?;
    std::fs::remove_file(project.path().join("state.json"))?;
    let said = well(project)?;
    ensure!(said["notes"].to_string().contains("kept beside the tables"), "{said}");
    followed.psql(&format!(
        "INSERT INTO b VALUES (1000, 'b');
         SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())",
        slot(project)
    ))?;
    let said = wrong(project, "the replication slot is ahead", "run sync")?;
    assert_eq!(said["problems"].as_array().map(Vec::len), Some(0), "{said}");
    project.write("state.json", &state)?;
    followed.sync()?;
    well(project)?;

    // A column that discover saw, the table at the destination, the table.
    followed.psql("ALTER TABLE b DROP COLUMN v")?;
    let said = well(project)?;
    let notes = stream(&said, "public.b")?["notes"].to_string();
    ensure!(notes.contains("columns are gone or of another type since discover: v"), "{said}");
    followed.psql("ALTER TABLE b ADD COLUMN v text")?;
    std::fs::remove_dir_all(project.table("public", "a"))?;
    let said = wrong(project, "not at the destination any more", "run sync")?;
    let a = &stream(&said, "public.a")?["problems"];
    assert_eq!(a.as_array().map(Vec::len), Some(1), "{said}");
    followed.psql("DROP TABLE b")?;
    wrong(project, "the source has no such table", "run discover")?;

    // The slot is gone.
    followed.psql(&format!("SELECT pg_drop_replication_slot('{}')", slot(project)))?;
    wrong(project, "does not exist", "pg_create_logical_replication_slot")?;
    // The source is.
    project.edit("source.json", |file| file["password"] = "wrong".into())?;
    wrong(project, "the source cannot be looked at", "")?;
    Ok(())
}

#[test]
fn a_status_of_tables_that_are_only_read() -> Result<()> {
    let project = crate::project("status_read", SQL)?;
    project.edit("streams.json", |file| {
        for entry in file["streams"].as_array_mut().into_iter().flatten() {
            if entry["stream"]["name"] == "b" {
                entry["stream"]["sync_mode"] = "incremental".into();
                entry["stream"]["cursor_field"] = "id".into();
            }
        }
    })?;
    project.sync()?;
    let said = well(&project)?;
    assert_eq!(stream(&said, "public.a")?["rows"], 100, "{said}");
    assert_eq!(stream(&said, "public.b")?["cursor"]["id"].to_string().trim_matches('"'), "100");
    Ok(())
}
