//! SIGINT, SIGTERM and --timeout in the middle of a sync.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::gate::{self, Gate, STREAMS};
use tests::run::Project;
use tests::{moment, verify};

/// From the signal to the end.
const LIMIT: Duration = Duration::from_secs(15);

#[test]
fn a_stopped_sync_says_how_to_go_on_and_does() -> Result<()> {
    let project = gate::project("interrupted")?;
    for how in ["INT", "TERM", "timeout"] {
        stop(&project, how).with_context(|| format!("stopped by {how}"))?;
    }
    Ok(())
}

fn stop(project: &Project, how: &str) -> Result<()> {
    let gate = Gate::shut(project.database(), "second")?;
    let mut arguments = Project::SYNC.to_vec();
    if how == "timeout" {
        arguments.extend(["--timeout", "2"]);
    }
    let mut sync = project.start(&arguments)?;
    moment::reached(project, &mut sync, "chunks are staged", |state| {
        moment::staged(state, "a").len() >= 3
    })?;
    let (source, writer) = moment::services(&sync)?;
    let since = Instant::now();
    if how != "timeout" {
        sync.signal(how)?;
    }
    let said = sync.wait()?.failed()?;
    assert!(since.elapsed() < LIMIT, "it took {:?}", since.elapsed());
    assert!(said.contains("stopped before it was complete"), "{said}");
    assert!(said.contains("continue with: ") && said.contains(" sync --config "), "{said}");
    moment::gone(&[source, writer])?;
    // Also while the gate is shut: what a reader was doing is cancelled.
    moment::no_sessions(project.database())?;
    assert_eq!(moment::state(project)?["run"]["status"], "running");
    drop(gate);
    project.sync()?;
    verify::same_as_source(project, &STREAMS)?;
    assert_eq!(moment::leftovers(project), Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn a_sync_stopped_before_it_began_leaves_nothing() -> Result<()> {
    let project = gate::project("early")?;
    let mut sync = project.start(&Project::SYNC)?;
    tests::run::poll("its services run", || Ok(sync.ended()? || moment::services(&sync).is_ok()))?;
    let (source, writer) = moment::services(&sync)?;
    sync.signal("TERM")?;
    let outcome = sync.wait()?;
    assert!(outcome.took < LIMIT);
    moment::gone(&[source, writer])?;
    project.sync()?;
    verify::same_as_source(&project, &STREAMS)
}
