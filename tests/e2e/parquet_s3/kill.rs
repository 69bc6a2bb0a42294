//! `kill -9` of any process of a sync into a bucket, then the same command again.

use anyhow::{Context, Result, ensure};
use tests::bucket::{Place, named};
use tests::gate::{self, Gate, STREAMS};
use tests::moment;
use tests::proxy::Fault;
use tests::run::{Project, signal};
use tests::verify;

use super::nothing_else;

#[derive(Clone, Copy, Debug)]
enum Victim {
    Orchestrator,
    Source,
    Writer,
}

/// When it is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// A part of the large table is staged, the small one committed.
    Staged,
    /// The commit of the large table has begun: some of its uploads are objects.
    Committing,
}

#[test]
fn a_killed_orchestrator_costs_only_work() -> Result<()> {
    killed(Victim::Orchestrator)
}

#[test]
fn a_killed_source_service_costs_only_work() -> Result<()> {
    killed(Victim::Source)
}

#[test]
fn a_killed_writer_service_costs_only_work() -> Result<()> {
    killed(Victim::Writer)
}

fn killed(victim: Victim) -> Result<()> {
    let project = gate::project("killed_s3")?;
    let place = Place::new(&project)?;
    project.sync()?;
    for (round, moment) in [Moment::Staged, Moment::Committing].into_iter().enumerate() {
        project.database().psql(&format!(
            "UPDATE a SET v = 'round {round}' WHERE id % 7 = {round} AND id BETWEEN 200 AND 4000;
             DELETE FROM b WHERE id = {round} + 10; INSERT INTO b VALUES ({round} + 100, 'new', 'open', '')"
        ))?;
        kill_and_repeat(&project, &place, victim, moment)
            .with_context(|| format!("{victim:?} killed at {moment:?}"))?;
    }
    Ok(())
}

fn kill_and_repeat(project: &Project, place: &Place, victim: Victim, moment: Moment) -> Result<()> {
    let table = project.table("public", "a");
    place.mirror(project)?;
    let before = named(&table)?;
    let right = project.read("destination.json")?;
    let proxy = place.through_proxy(project)?;
    let mut gate = Some(Gate::shut(project.database(), "second")?);
    let mut sync = project.start(&Project::SYNC)?;
    moment::reached(project, &mut sync, "all but one chunk is staged", |state| {
        moment::all_but_one(state, "a") && moment::committed(state, "b")
    })?;
    let mut held = None;
    if let Moment::Committing = moment {
        let first = proxy.once(COMPLETES, Fault::Hold);
        drop(gate.take());
        first.met()?;
        held = Some(first);
    }
    let (source, writer) = moment::services(&sync)?;
    let pid = match victim {
        Victim::Orchestrator => sync.pid(),
        Victim::Source => source,
        Victim::Writer => writer,
    };
    signal(pid, "KILL")?;
    // The others may be in the middle of a commit, and end it.
    if !matches!(victim, Victim::Writer) {
        drop(held.take());
    }
    sync.wait()?;
    drop((gate, held));
    moment::gone(&[source, writer])?;
    moment::no_sessions(project.database())?;
    place.mirror(project)?;
    // Readers that follow the record have one content, all of it.
    let now = named(&table)?;
    let one = now == before || now.is_disjoint(&before);
    ensure!(one && now.len() == before.len(), "{before:?} became {now:?}");
    if matches!((victim, moment), (Victim::Writer, _) | (_, Moment::Staged)) {
        assert_eq!(now, before, "nobody has ended it");
    }
    project.write("destination.json", &right)?;
    project.sync()?;
    place.mirror(project)?;
    verify::same_as_source(project, &STREAMS)?;
    nothing_else(project, place, &STREAMS)?;
    assert_eq!(moment::state(project)?["run"]["status"], "finished");
    Ok(())
}

/// In the request that completes an upload.
const COMPLETES: &str = ".parquet?uploadId=";
