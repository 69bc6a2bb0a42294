//! `kill -9` of any process of a local sync, then the same command again.
//! `TIDEWATER_SEED=<n>` repeats one series of random kills.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::gate::{self, Gate, STREAMS};
use tests::moment;
use tests::postgres::Database;
use tests::run::{Project, Running, poll, signal};
use tests::watch::PartialFiles;
use tests::{verify, watch};

use crate::plain;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Orchestrator,
    Source,
    Writer,
}

impl Victim {
    fn pid(self, sync: &Running) -> Result<u32> {
        let (source, writer) = moment::services(sync)?;
        Ok(match self {
            Victim::Orchestrator => sync.pid(),
            Victim::Source => source,
            Victim::Writer => writer,
        })
    }

    /// What the user is told; the orchestrator tells nothing any more.
    fn told(self) -> Option<&'static str> {
        match self {
            Victim::Orchestrator => None,
            Victim::Source => Some("source-svc was killed by signal 9"),
            Victim::Writer => Some("writer-svc was killed by signal 9"),
        }
    }
}

/// When it is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The snapshot is taken and chunks are being read.
    Opened,
    /// A part of the large table is staged.
    Staged,
    /// The small table is committed, the large one still being read.
    Committed,
}

impl Moment {
    const ALL: [Moment; 3] = [Moment::Opened, Moment::Staged, Moment::Committed];

    fn gates(self) -> &'static [&'static str] {
        match self {
            Moment::Opened => &["first", "second"],
            _ => &["second"],
        }
    }

    fn await_in(self, project: &Project, sync: &mut Running) -> Result<()> {
        moment::reached(project, sync, &format!("{self:?}"), |state| {
            state["run"]["status"] == "running"
                && match self {
                    Moment::Opened => state["run"]["load"].is_object(),
                    Moment::Staged => moment::staged(state, "a").len() >= 2,
                    Moment::Committed => moment::committed(state, "b"),
                }
        })?;
        Ok(())
    }
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
    let project = gate::project("killed")?;
    project.sync()?;
    for (round, moment) in Moment::ALL.into_iter().enumerate() {
        project.database().psql(&format!(
            "UPDATE a SET v = 'round {round}' WHERE id % 7 = {round} AND id BETWEEN 200 AND 4000;
             DELETE FROM b WHERE id = {round} + 10; INSERT INTO b VALUES ({round} + 100, 'new', 'open', '')"
        ))?;
        kill_and_repeat(&project, victim, moment)
            .with_context(|| format!("{victim:?} killed at {moment:?}"))?;
    }
    Ok(())
}

fn kill_and_repeat(project: &Project, victim: Victim, moment: Moment) -> Result<()> {
    let visible = watch::parquet_files(&project.table("public", "a"));
    let gates: Vec<Gate> = moment
        .gates()
        .iter()
        .map(|name| Gate::shut(project.database(), name))
        .collect::<Result<_>>()?;
    let mut sync = project.start(&Project::SYNC)?;
    moment.await_in(project, &mut sync)?;
    let (source, writer) = moment::services(&sync)?;
    signal(victim.pid(&sync)?, "KILL")?;
    let outcome = sync.wait()?;
    match victim.told() {
        None => ensure!(!outcome.status.success(), "it had ended before"),
        Some(told) => {
            let said = outcome.failed()?;
            ensure!(said.contains(told), "{said}");
        }
    }
    moment::gone(&[source, writer])?;
    // Until the new content is whole, readers have the old one.
    assert_eq!(watch::parquet_files(&project.table("public", "a")), visible);
    drop(gates);
    moment::no_sessions(project.database())?;
    project.sync()?;
    verify::same_as_source(project, &STREAMS)?;
    assert_eq!(moment::leftovers(project), Vec::<std::path::PathBuf>::new());
    assert_eq!(moment::state(project)?["run"]["status"], "finished");
    Ok(())
}

const TABLES: [&str; 3] = ["public.c0", "public.c1", "public.c2"];

#[test]
fn kills_at_random_moments_lose_and_double_nothing() -> Result<()> {
    let seed = match std::env::var("TIDEWATER_SEED") {
        Ok(seed) => seed.parse().context("TIDEWATER_SEED is a number")?,
        Err(_) => 2026,
    };
    random_kills(seed).with_context(|| format!("reproduce with TIDEWATER_SEED={seed}"))
}

fn random_kills(seed: u64) -> Result<()> {
    const ROUNDS: u32 = 3;
    let mut rng = StdRng::seed_from_u64(seed);
    let database = Database::new("random_kills")?;
    gate::create(&database)?;
    for (name, rows) in [("c0", 4000), ("c1", 2500), ("c2", 100)] {
        gate::table(&database, name, rows, &[])?;
    }
    let project = Project::new(&database)?;
    project.discover()?;
    project.select(&TABLES, plain())?;
    let partial = PartialFiles::watch(&project.output());
    let mut hits = 0;
    for round in 0..ROUNDS {
        for table in TABLES {
            database.psql(&format!("UPDATE {table} SET v = 'round {round}' WHERE id % 3 = 0"))?;
        }
        let victim = [Victim::Orchestrator, Victim::Source, Victim::Writer][rng.random_range(0..3)];
        let aim = rng.random_range(0..7);
        let mut sync = project.start(&Project::SYNC)?;
        if staged_so_far(&project, &mut sync, aim)? {
            let pids = moment::services(&sync)?;
            signal(victim.pid(&sync)?, "KILL")?;
            hits += u32::from(!sync.wait()?.status.success());
            moment::gone(&[pids.0, pids.1])?;
        } else {
            sync.wait()?.succeeded()?;
        }
        project.sync()?;
        verify::same_as_source(&project, &TABLES)
            .with_context(|| format!("{victim:?} killed after {aim} chunks in round {round}"))?;
        assert_eq!(moment::leftovers(&project), Vec::<std::path::PathBuf>::new());
    }
    partial.stop()?;
    ensure!(hits > 0, "only {hits} of {ROUNDS} kills hit a running sync");
    Ok(())
}

/// Waits until the sync has staged so many chunks; false: it ended before.
fn staged_so_far(project: &Project, sync: &mut Running, aim: usize) -> Result<bool> {
    let mut seen = BTreeSet::new();
    let mut ended = false;
    poll("chunks are staged", || {
        ended = sync.ended()?;
        let mut files = watch::files(&project.output());
        files.retain(|path| path.ends_with("manifest.json"));
        seen.extend(files);
        Ok(ended || (seen.len() >= aim && moment::services(sync).is_ok()))
    })?;
    Ok(!ended)
}
