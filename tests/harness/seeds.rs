//! Random transactions and kills by a seed, and equality where it is quiet.
//!
//! ```text
//! round:  two sessions write ─┐
//!         sync ◄── a kill ────┴─► both are done ─► discover, sync ─► equal?
//! ```
//!
//! The seed decides on the tables, where they go, what is written, who is killed
//! and when. Two sessions interleave as they like: a seed that fails may need a
//! few tries to fail again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::follow::{self, Followed, Into};
use crate::iceberg::engine::Engine;
use crate::moment;
use crate::postgres::Server;
use crate::run::{Project, Running, poll, signal};
use crate::watch;
use crate::workload::{ALL_TABLES, MORE, SCHEMA, Workload};

/// Syncs that are disturbed.
const ROUNDS: u32 = 2;
/// Tables of a seed.
const FOLLOWED: usize = 6;
/// Transactions of each session in a round.
const TRANSACTIONS: u32 = 60;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Orchestrator,
    Source,
    Writer,
    /// Our sessions at the server.
    Sessions,
    /// The server, which recovers.
    Server,
}

/// Runs a seed on this server. `may_crash`: nobody else needs it, so that it may
/// be killed, too.
pub fn run(server: &Arc<Server>, seed: u64, may_crash: bool) -> Result<Duration> {
    let started = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let into = if seed.is_multiple_of(2) { Into::Parquet } else { Into::Iceberg };
    // ClickHouse takes longer than all the rest.
    let engine = if seed % 8 == 1 { Engine::ClickHouse } else { Engine::DuckDb };
    let mut tables = ALL_TABLES.to_vec();
    tables.shuffle(&mut random);
    tables.truncate(FOLLOWED);
    let seeded = || -> Result<()> {
        let followed =
            Followed::at(server, into, &format!("seed_{seed}"), &format!("{SCHEMA}{MORE}"))?;
        followed.select(&tables)?;
        // A sync that meets a transaction which was prepared and left fails soon.
        followed.project.edit("source.json", |source| {
            source["lock_timeout_ms"] = 3_000.into();
        })?;
        Seed { followed, random, tables: tables.clone(), engine, may_crash }.rounds(seed)
    };
    seeded().with_context(|| {
        format!(
            "seed {seed} (PostgreSQL {}, {into:?}, {}); repeat it with TIDEWATER_SEED={seed} \
             ./build.sh test seeds, or ./build.sh soak --seed {seed} --seeds 1",
            server.build().version,
            tables.join(" ")
        )
    })?;
    Ok(started.elapsed())
}

struct Seed {
    followed: Followed,
    random: StdRng,
    tables: Vec<&'static str>,
    /// Who reads Iceberg tables.
    engine: Engine,
    may_crash: bool,
}

impl Seed {
    fn rounds(mut self, seed: u64) -> Result<()> {
        let name = self.followed.project.database().name.clone();
        let workload = Workload::new(seed).of(&self.tables).with_truncates().with_prepared(&name);
        let shapes = self.random.random_range(0..2) == 0;
        let mut workload = if shapes { workload.with_shapes() } else { workload };
        for round in 0..ROUNDS {
            self.round(&mut workload, shapes).with_context(|| format!("round {round}"))?;
        }
        self.remove()
    }

    fn round(&mut self, workload: &mut Workload, shapes: bool) -> Result<()> {
        let project = &self.followed.project;
        let mut writers = Vec::new();
        for _ in 0..2 {
            let sql = workload.transactions(TRANSACTIONS);
            writers.push(project.database().psql_background(&sql)?);
        }
        let victim = self.victim();
        let aim = self.random.random_range(0..16);
        let sync = self.followed.project.start(&Project::SYNC)?;
        let what = match victim {
            None => String::from("nobody was killed"),
            Some(victim) => format!("{victim:?} was killed after {aim} files"),
        };
        let disturbed = self.disturbed(sync, victim, aim, shapes);
        disturbed.with_context(|| format!("while it was written; {what}"))?;
        for writer in &mut writers {
            poll("the sessions have written", || Ok(!writer.running()?))?;
        }
        self.quiet(workload).with_context(|| format!("afterwards; {what}"))
    }

    fn victim(&mut self) -> Option<Victim> {
        Some(match self.random.random_range(0..8) {
            0 => Victim::Orchestrator,
            1 => Victim::Source,
            2 => Victim::Writer,
            3 => Victim::Sessions,
            4 if self.may_crash => Victim::Server,
            _ => return None,
        })
    }

    /// The sync that runs while others write; it may be killed on the way.
    fn disturbed(
        &self,
        mut sync: Running,
        victim: Option<Victim>,
        aim: usize,
        shapes: bool,
    ) -> Result<()> {
        let Some(victim) = victim else {
            let outcome = sync.wait()?;
            // What changes its form all the time may be beyond following.
            return if shapes { told(outcome) } else { outcome.succeeded().map(drop) };
        };
        let root = match &self.followed.lake {
            Some(lake) => lake.directory().join("files"),
            None => self.followed.project.output(),
        };
        let before: BTreeSet<_> = watch::files(&root).into_iter().collect();
        if !moment::new_files(&root, &before, &mut sync, aim)? {
            return told(sync.wait()?);
        }
        let (source, writer) = moment::services(&sync)?;
        match victim {
            Victim::Orchestrator => signal(sync.pid(), "KILL")?,
            Victim::Source => signal(source, "KILL")?,
            Victim::Writer => signal(writer, "KILL")?,
            Victim::Sessions => {
                self.followed.psql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name LIKE 'tidewater%'",
                )?;
            }
            Victim::Server => self.crash()?,
        }
        let outcome = sync.wait()?;
        moment::gone(&[source, writer])?;
        if victim == Victim::Orchestrator { Ok(()) } else { told(outcome) }
    }

    /// One process that is killed takes all others with it, and the server
    /// recovers as after a crash.
    fn crash(&self) -> Result<()> {
        let database = self.followed.project.database();
        let checkpointer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
        let before = database.psql(checkpointer)?;
        signal(before.parse().context("a process id")?, "KILL")?;
        poll("the server is back", || {
            let now = database.psql(checkpointer);
            Ok(now.is_ok_and(|now| !now.is_empty() && now != before))
        })
    }

    /// Nobody writes any more: a sync succeeds, and the tables are equal.
    fn quiet(&self, workload: &mut Workload) -> Result<()> {
        let followed = &self.followed;
        // Of a session that was killed.
        let left = followed.psql(
            "SELECT format('ROLLBACK PREPARED %L;', gid) FROM pg_prepared_xacts
             WHERE database = current_database()",
        )?;
        followed.psql(&left)?;
        followed.psql(&workload.transactions(5))?;
        followed.project.discover()?;
        followed.sync()?;
        match &followed.lake {
            None => followed.equals(&self.tables),
            Some(lake) => follow::lake_equals_source_by(
                &[self.engine],
                lake,
                &followed.project,
                &self.tables,
                false,
            ),
        }
    }

    /// What is left of a seed would hold the log of all that follow.
    fn remove(self) -> Result<()> {
        let database = self.followed.project.database();
        database.psql(&format!("SELECT pg_drop_replication_slot('{}')", database.name))?;
        let drop = format!("DROP DATABASE \"{}\" WITH (FORCE)", database.name);
        database.server.psql("postgres", &drop)?;
        Ok(())
    }
}

/// A command that has failed says why, and ends as one that failed.
fn told(outcome: crate::run::Outcome) -> Result<()> {
    match outcome.status.code() {
        Some(0) => Ok(()),
        Some(1) => {
            ensure!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
            ensure!(!outcome.stderr.trim().is_empty(), "it failed and said nothing");
            Ok(())
        }
        _ => bail!("{}:\n{}", outcome.status, outcome.stderr),
    }
}

/// The server that seeds share in tests.
pub fn server() -> Result<Arc<Server>> {
    follow::server(&crate::builds::Build::newest()?)
}
