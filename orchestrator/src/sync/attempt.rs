//! One attempt at a sync: services are started or dialled, the sync runs through
//! them, and they are stopped.

use std::io::IsTerminal;

use proto::Fault;
use tokio_util::sync::CancellationToken;

use super::{Context, Continuous, Inputs, Stop, Sync, trouble};
use crate::cli::Flags;
use crate::figures;
use crate::progress::Progress;
use crate::services::Services;
use crate::state::keeper::StateKeeper;
use crate::stats::StatsWriter;
use crate::streams::SelectedStream;
use crate::summary::Summary;

/// A sync as it was asked for: what outlives the services of one attempt at it.
pub(super) struct Job<'a> {
    pub(super) flags: &'a Flags,
    pub(super) inputs: &'a Inputs,
    pub(super) progress: Progress,
    pub(super) shutdown: CancellationToken,
}

/// How an attempt has ended.
pub(super) struct Attempt {
    pub(super) keeper: StateKeeper,
    pub(super) done: Result<(), Stop>,
    summary: Summary,
}

impl<'a> Job<'a> {
    pub(super) fn new(flags: &'a Flags, inputs: &'a Inputs, shutdown: CancellationToken) -> Self {
        let names = inputs.streams.iter().map(SelectedStream::id).collect();
        let bars = !flags.no_progress && std::io::stderr().is_terminal();
        let progress = Progress::new(names, bars);
        figures::observe(&progress, inputs.source.update_method.as_ref());
        Job { flags, inputs, progress, shutdown }
    }

    /// Starts the services, syncs through them, and stops them.
    pub(super) async fn attempt(
        &self,
        keeper: StateKeeper,
        continuous: Option<&Continuous>,
    ) -> Attempt {
        let start = Services::start(true, true, self.flags, Some(&self.inputs.destination));
        let services = match self.shutdown.run_until_cancelled(start).await {
            Some(Ok(services)) => services,
            Some(Err(fault)) => return Attempt::none(keeper, Stop::Failed(fault)),
            None => return Attempt::none(keeper, Stop::Interrupted),
        };
        let stats_path = keeper.path().with_file_name("stats.json");
        let stats = (!self.flags.no_save)
            .then(|| StatsWriter::start(stats_path, self.progress.clone(), services.pids()));
        let context = Context::new(self, &services, continuous);
        let mut sync = Sync::new(context, &self.inputs.streams, keeper);
        let done = tokio::select! {
            biased;
            done = sync.run() => done,
            // No retry brings a service of ours back.
            death = services.lost() => Err(Stop::Failed(death)),
        };
        let done = match done {
            // A child that stopped on the same Ctrl-C is no failure.
            Err(_) if sync.context.shutdown.is_cancelled() => Err(Stop::Interrupted),
            done => done,
        };
        if let Some(continuous) = continuous {
            continuous.keep_changes(&sync.tables);
        }
        let saved = sync.keeper.save().await;
        let summary = sync.summary();
        let keeper = sync.keeper;
        if let Some(stats) = stats {
            stats.stop().await;
        }
        let done = match done {
            Err(Stop::Failed(fault)) => Err(Stop::Failed(services.explain(fault).await)),
            Ok(()) => saved.map_err(Stop::Failed),
            done => done,
        };
        services.stop().await;
        Attempt { keeper, done, summary }
    }
}

impl Attempt {
    /// One that came to nothing.
    fn none(keeper: StateKeeper, stop: Stop) -> Self {
        Attempt { keeper, done: Err(stop), summary: Summary::default() }
    }

    /// Its end, as its user is told it.
    pub(super) fn told(self, job: &Job<'_>) -> Result<(), Fault> {
        job.progress.finish();
        match self.done {
            Ok(()) => {
                self.summary.print()?;
                let verdict = trouble::verdict(&self.summary.troubles, job.inputs.streams.len());
                verdict.map_or(Ok(()), Err)
            }
            Err(stop) => Err(stop.into_fault(self.summary.committed(), job.inputs.streams.len())),
        }
    }
}
