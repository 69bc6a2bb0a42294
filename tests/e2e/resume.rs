//! Interrupted syncs go on: under the same snapshot where it still lives, else
//! anew, and never with a row of another point in time.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::gate::{self, Gate, STREAMS};
use tests::moment;
use tests::run::{Outcome, Project, Running, poll};
use tests::services::{Service, sync_through};
use tests::verify::{self, Expected};
use tests::watch;

/// Changes both tables of a gated project: updates, deletes, inserts.
const CHANGE: &str = "
    UPDATE a SET v = 'changed' WHERE id % 2 = 0 AND hold = 'open';
    DELETE FROM a WHERE id % 5 = 0 AND hold = 'open';
    INSERT INTO a SELECT i, 'late', 'open', '' FROM generate_series(100000, 100100) i;
    UPDATE b SET v = 'changed'; DELETE FROM b WHERE id < 10;";

/// How the summary says that a stream came to its content.
pub fn how(outcome: &Outcome, stream: &str) -> Result<String> {
    let line = outcome.stdout.lines().last().context("a sync prints a summary")?;
    let summary: Value = serde_json::from_str(line)?;
    let streams = summary["streams"].as_array().context("streams")?;
    let found = streams.iter().find(|entry| entry["stream"] == stream).context("the stream")?;
    Ok(found["how"].as_str().unwrap_or_default().to_owned())
}

fn both(project: &Project) -> Result<Vec<Expected>> {
    ["a", "b"].iter().map(|name| Expected::relation(project, "public", name)).collect()
}

/// Starts a sync and waits until all of `a` but its last chunk is staged and
/// `b` committed; the staged manifests.
fn held(project: &Project, arguments: &[String]) -> Result<(Running, Vec<PathBuf>)> {
    let mut sync = project.start(arguments)?;
    let state = moment::reached(project, &mut sync, "all but one chunk is staged", |state| {
        moment::staged(state, "a").len() == 4 && moment::committed(state, "b")
    })?;
    Ok((sync, moment::staged(&state, "a")))
}

/// Whether the visible files of `a` are those that these manifests describe,
/// and more.
fn reused(project: &Project, manifests: &[PathBuf]) -> bool {
    let visible = watch::parquet_files(&project.table("public", "a"));
    // …/<load>/<chunk>-<uuid>/manifest.json becomes …/<chunk>-<number>-<uuid>.parquet
    manifests.iter().all(|manifest| {
        let stage = manifest.parent().and_then(|stage| stage.file_name()).unwrap_or_default();
        let uuid = stage.to_string_lossy().split_once('-').map(|(_, uuid)| uuid.to_owned());
        visible.iter().any(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            uuid.as_ref().is_some_and(|uuid| name.contains(uuid.as_str()))
        })
    })
}

#[test]
fn within_the_grace_time_only_missing_chunks_are_read_under_the_same_snapshot() -> Result<()> {
    let project = gate::project("resumed")?;
    let (source, writer) = (Service::source(&["--grace", "120"])?, Service::writer(&[])?);
    let arguments = sync_through(Some(&source), &[&writer]);
    let gate = Gate::shut(project.database(), "second")?;
    let (sync, staged) = held(&project, &arguments)?;
    let first = both(&project)?;
    sync.kill()?;
    project.database().psql(CHANGE)?;
    drop(gate);
    let outcome = project.run(&arguments)?.succeeded()?;
    verify::same(&project, &first)?;
    assert!(reused(&project, &staged), "staged chunks were read again");
    assert_eq!(how(&outcome, "public.a")?, "resumed");
    assert_eq!(how(&outcome, "public.b")?, "committed_before");
    assert!(outcome.stderr.contains("continuing the sync"), "{}", outcome.stderr);

    // The next one is a full refresh like any other.
    project.run(&arguments)?.succeeded()?;
    verify::same_as_source(&project, &STREAMS)?;
    assert_eq!(moment::leftovers(&project), Vec::<PathBuf>::new());
    moment::no_sessions(project.database())
}

#[test]
fn a_table_that_was_not_begun_is_read_under_the_same_snapshot_too() -> Result<()> {
    let project = gate::project("not_begun")?;
    project.database().psql(
        "UPDATE a SET hold = 'open' WHERE hold = 'first'; UPDATE b SET hold = 'first' WHERE id = 25",
    )?;
    let (source, writer) = (Service::source(&["--grace", "120"])?, Service::writer(&[])?);
    let arguments = sync_through(Some(&source), &[&writer]);
    let gate = Gate::shut(project.database(), "first")?;
    let mut sync = project.start(&arguments)?;
    moment::reached(&project, &mut sync, "only b is left", |state| {
        moment::committed(state, "a") && moment::stream(state, "b")["load"].is_object()
    })?;
    let first = both(&project)?;
    sync.kill()?;
    project.database().psql(CHANGE)?;
    drop(gate);
    let outcome = project.run(&arguments)?.succeeded()?;
    verify::same(&project, &first)?;
    assert_eq!(how(&outcome, "public.a")?, "committed_before");
    assert_eq!(how(&outcome, "public.b")?, "resumed");
    Ok(())
}

#[test]
fn a_sync_stopped_by_its_user_resumes_its_chunks_too() -> Result<()> {
    let project = gate::project("stopped")?;
    let (source, writer) = (Service::source(&["--grace", "120"])?, Service::writer(&[])?);
    let arguments = sync_through(Some(&source), &[&writer]);
    let gate = Gate::shut(project.database(), "second")?;
    let (sync, staged) = held(&project, &arguments)?;
    let first = both(&project)?;
    sync.signal("INT")?;
    sync.wait()?.failed()?;
    project.database().psql(CHANGE)?;
    drop(gate);
    let outcome = project.run(&arguments)?.succeeded()?;
    verify::same(&project, &first)?;
    assert!(reused(&project, &staged), "staged chunks were read again");
    assert_eq!(how(&outcome, "public.a")?, "resumed");
    Ok(())
}

#[test]
fn after_the_grace_time_the_table_starts_again_under_a_new_snapshot() -> Result<()> {
    let project = gate::project("too_late")?;
    let (source, writer) = (Service::source(&["--grace", "1"])?, Service::writer(&[])?);
    let arguments = sync_through(Some(&source), &[&writer]);
    let gate = Gate::shut(project.database(), "second")?;
    let (sync, staged) = held(&project, &arguments)?;
    let first = both(&project)?;
    sync.kill()?;
    poll("the load is over", || Ok(source.log().contains("load closed: no caller left")))?;
    // Nothing is held at the source any more.
    moment::no_sessions(project.database())?;
    project.database().psql(CHANGE)?;
    drop(gate);
    let outcome = project.run(&arguments)?.succeeded()?;
    let after = both(&project)?;
    verify::same(&project, &[after[0].clone(), first[1].clone()])?;
    assert!(!reused(&project, &staged));
    assert_eq!(how(&outcome, "public.a")?, "loaded");
    assert_eq!(how(&outcome, "public.b")?, "committed_before");
    assert_eq!(moment::leftovers(&project), Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn a_committed_table_is_not_read_again() -> Result<()> {
    let project = gate::project("committed_before")?;
    let gate = Gate::shut(project.database(), "second")?;
    let local = Project::SYNC.map(str::to_owned);
    let (sync, _) = held(&project, &local)?;
    let first = both(&project)?;
    let files = watch::parquet_files(&project.table("public", "b"));
    sync.kill()?;
    project.database().psql(CHANGE)?;
    drop(gate);
    let outcome = project.sync()?;
    let after = both(&project)?;
    verify::same(&project, &[after[0].clone(), first[1].clone()])?;
    assert_eq!(watch::parquet_files(&project.table("public", "b")), files);
    assert_eq!(how(&outcome, "public.b")?, "committed_before");

    // After a finished run the next is fresh: rows arrive and vanish.
    project
        .database()
        .psql("DELETE FROM b WHERE id > 40; INSERT INTO b VALUES (999, '', 'open', '')")?;
    let outcome = project.sync()?;
    assert_eq!(how(&outcome, "public.b")?, "loaded");
    verify::same_as_source(&project, &STREAMS)
}

#[test]
fn a_lost_state_file_costs_only_work() -> Result<()> {
    let project = gate::project("lost_state")?;
    let gate = Gate::shut(project.database(), "second")?;
    let (sync, _) = held(&project, &Project::SYNC.map(str::to_owned))?;
    sync.kill()?;
    std::fs::remove_file(project.path().join("state.json"))?;
    project.database().psql(CHANGE)?;
    drop(gate);
    let outcome = project.sync()?;
    assert_eq!(how(&outcome, "public.b")?, "loaded");
    verify::same_as_source(&project, &STREAMS)?;
    assert_eq!(moment::leftovers(&project), Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn an_old_state_file_brings_no_old_rows_back() -> Result<()> {
    let project = gate::project("old_state")?;
    let (source, writer) = (Service::source(&["--grace", "120"])?, Service::writer(&[])?);
    let arguments = sync_through(Some(&source), &[&writer]);
    let gate = Gate::shut(project.database(), "second")?;
    let (sync, _) = held(&project, &arguments)?;
    sync.kill()?;
    let interrupted = project.read("state.json")?;
    drop(gate);
    // The run completes, and a later one brings new content.
    project.run(&arguments)?.succeeded()?;
    let finished = project.read("state.json")?;
    project.database().psql(CHANGE)?;
    project.run(&arguments)?.succeeded()?;
    project.database().psql("UPDATE a SET v = 'newest' WHERE id % 11 = 0")?;
    for old in [interrupted, finished] {
        project.write("state.json", &old)?;
        project.run(&arguments)?.succeeded()?;
        verify::same_as_source(&project, &STREAMS)?;
        assert_eq!(moment::leftovers(&project), Vec::<PathBuf>::new());
    }
    Ok(())
}

#[test]
fn a_service_that_is_killed_and_comes_back_costs_only_work() -> Result<()> {
    let project = gate::project("restarted")?;
    let (mut source, mut writer) = (Service::source(&[])?, Service::writer(&[])?);
    for victim in ["writer-svc", "source-svc"] {
        let arguments = sync_through(Some(&source), &[&writer]);
        let gate = Gate::shut(project.database(), "second")?;
        let (mut sync, staged) = held(&project, &arguments)?;
        let service = if victim == "writer-svc" { &mut writer } else { &mut source };
        service.kill()?;
        service.restart()?;
        ensure!(!sync.ended()?, "the sync did not try again");
        drop(gate);
        let outcome = sync.wait()?;
        if !outcome.status.success() {
            // Its retries were over first: it says so, and goes on.
            let said = outcome.failed()?;
            ensure!(said.contains("continue with: "), "{said}");
            project.run(&arguments)?.succeeded()?;
        }
        verify::same_as_source(&project, &STREAMS)
            .with_context(|| format!("{victim} was killed"))?;
        if victim == "writer-svc" {
            assert!(reused(&project, &staged), "what the dead writer had staged was lost");
        }
        assert_eq!(moment::leftovers(&project), Vec::<PathBuf>::new());
    }
    Ok(())
}
