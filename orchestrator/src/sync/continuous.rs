//! `sync --continuous`: the log is followed round after round, until SIGTERM.
//!
//! ```text
//! round:    where does the log end now? ─► replicate to there, interval by interval ─► wait
//!                 ▲                          └─ tables were lost ─► load them ─┘         │
//!                 └──────────────────────────────────────────────────────────────────────┘
//! attempt:  services ─► prepare ─► load ─► round ─► round ─► … ─► a failure that may pass
//!              ▲                                                    │ backoff
//!              └────────────────────────────────────────────────────┘
//! ```
//!
//! A round is what a bounded sync does once everything is loaded, and commits
//! and confirms in the same order. An attempt that has failed is followed by
//! another, which goes the way of a new process: services are started or dialled
//! anew, and the tables say where they are. So nothing has to be repaired.
//!
//! Where others are followed, tables are loaded beside the rounds ([`super::beside`]).
//!
//! Asked to end, a round stops after the interval at hand, and one more reads to
//! where the log ends by then, or one interval; see [`Continuous::end`]. Loads that take
//! longer are given up.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use proto::Fault;
use proto::v1::ErrorCode;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::{Inputs, Job, Stop, Sync, TableRun};
use crate::cli::Flags;
use crate::config::source::UpdateMethod;
use crate::progress::human;
use crate::state::keeper::StateKeeper;
use crate::streams::{SelectedStream, SyncMode};

/// How long the interval at hand may take when the sync is asked to end.
const GRACE: Duration = Duration::from_secs(20);
/// How long a load may take from then on.
const GRACE_OF_LOADS: Duration = Duration::from_secs(5);
/// Wait before the second attempt; it doubles from there …
const FIRST: Duration = Duration::from_secs(1);
/// … up to this.
const LONGEST: Duration = Duration::from_secs(30);
/// Changes of a round that had little.
const FEW: u64 = 1_000;
/// What is no long time for them.
const DEAR: Duration = Duration::from_secs(10);
/// The longest pause after a round that took long for little.
const LONGEST_REST: Duration = Duration::from_secs(120);
/// Between two refreshes of what only time changes.
const TICK: Duration = Duration::from_secs(1);

/// A sync that goes on until it is asked to end; clones are of the same.
#[derive(Clone)]
pub struct Continuous {
    commit_interval: Duration,
    give_up_after: Option<Duration>,
    /// It is to end, in order.
    ending: CancellationToken,
    /// When it was asked to.
    asked: Arc<OnceLock<Instant>>,
    /// It is to end now.
    shutdown: CancellationToken,
    /// Changes are being followed: there may be something to complete.
    following: Arc<AtomicBool>,
    working: Arc<Mutex<Working>>,
    /// Changes that earlier attempts have committed, by stream.
    changes: Arc<Mutex<HashMap<String, u64>>>,
}

/// What is known to work.
struct Working {
    /// Configuration, services and server did once.
    proven: bool,
    /// When something was last achieved.
    last: Instant,
}

impl Continuous {
    /// If the flags say so. `ending`: asks it to end.
    pub(super) fn wanted(
        flags: &Flags,
        inputs: &Inputs,
        ending: &CancellationToken,
    ) -> Option<Self> {
        let method = inputs.source.update_method.as_ref().filter(|_| flags.continuous)?;
        Some(Continuous::new(method, ending.clone()))
    }

    /// As `method` says, until `ending`.
    pub fn new(method: &UpdateMethod, ending: CancellationToken) -> Self {
        Continuous {
            commit_interval: method.commit_interval,
            give_up_after: method.give_up_after,
            ending,
            asked: Arc::default(),
            shutdown: CancellationToken::new(),
            following: Arc::default(),
            working: Arc::new(Mutex::new(Working { proven: false, last: Instant::now() })),
            changes: Arc::default(),
        }
    }

    /// Stops everything that goes on.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Whether it is asked to end.
    pub fn is_ending(&self) -> bool {
        self.ending.is_cancelled()
    }

    /// Whether there is something to complete before an end.
    pub fn following(&self, following: bool) {
        self.following.store(following, Ordering::Relaxed);
    }

    /// The same, asked.
    pub fn is_following(&self) -> bool {
        self.following.load(Ordering::Relaxed)
    }

    /// Something was achieved.
    pub fn works(&self) {
        *self.working() = Working { proven: true, last: Instant::now() };
    }

    /// Source and destination are what the configuration says.
    pub fn proven(&self) {
        self.working().proven = true;
    }

    /// Changes of a stream that earlier attempts have committed.
    pub fn changes_of(&self, stream: &str) -> u64 {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.get(stream).copied().unwrap_or_default()
    }

    /// An attempt has ended, with so many of them.
    pub(super) fn keep_changes(&self, tables: &[TableRun]) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.extend(tables.iter().map(|table| (table.id.clone(), table.changes)));
    }

    fn working(&self) -> std::sync::MutexGuard<'_, Working> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the end about: of a load at once, of an interval when it is
    /// committed or the grace is over.
    async fn end(&self) -> Infallible {
        self.ending.cancelled().await;
        self.asked.get_or_init(Instant::now);
        if self.is_following() {
            sleep(GRACE).await;
        }
        self.shutdown.cancel();
        std::future::pending().await
    }

    /// It is to end, and loads have had their time.
    pub(super) async fn no_time_for_loads(&self) {
        self.ending.cancelled().await;
        sleep_until(*self.asked.get_or_init(Instant::now) + GRACE_OF_LOADS).await;
    }

    /// Whether another attempt may fare better. What worked before and is gone
    /// now (a server that restarts, a name) may come back. A service that has ended
    /// is started again, or comes back, in the first moment as well; then so often
    /// ([`Backoff`]).
    fn may_pass(&self, fault: &Fault) -> bool {
        use ErrorCode::{Conflict, IncompleteStream, Unavailable, Unreachable};
        let gone = matches!(fault.code, Unreachable | Conflict) && self.working().proven;
        fault.transient || gone || matches!(fault.code, Unavailable | IncompleteStream)
    }
}

/// Refuses a continuous sync of nothing that could go on.
pub(super) fn demand(flags: &Flags, streams: &[SelectedStream]) -> Result<(), Fault> {
    let follows = |mode| matches!(mode, SyncMode::Cdc | SyncMode::StrictCdc);
    let followed = streams.iter().any(|stream| follows(stream.sync_mode));
    if !flags.continuous || followed {
        return Ok(());
    }
    let message =
        "--continuous follows changes, and no selected stream has the sync_mode cdc or strict_cdc";
    Err(Fault::new(ErrorCode::InvalidConfig, message)
        .remedy("set \"sync_mode\": \"cdc\" for the streams to follow, or leave the flag out"))
}

/// Attempts, one after the other, until the user wants an end or a failure is
/// for good.
pub(super) async fn run(
    job: &Job<'_>,
    continuous: &Continuous,
    keeper: StateKeeper,
) -> Result<(), Fault> {
    tokio::select! {
        told = attempts(job, continuous, keeper) => told,
        never = continuous.end() => match never {},
    }
}

async fn attempts(
    job: &Job<'_>,
    continuous: &Continuous,
    mut keeper: StateKeeper,
) -> Result<(), Fault> {
    let mut backoff = Backoff::new(job.inputs.source.config.retry_count);
    loop {
        let began = Instant::now();
        let attempt = job.attempt(keeper, Some(continuous)).await;
        let (Err(Stop::Failed(fault)) | Err(Stop::LoadGone(fault))) = &attempt.done else {
            return attempt.told(job);
        };
        let (proven, last) = {
            let working = continuous.working();
            (working.proven, working.last)
        };
        if last > began {
            backoff.reset();
        }
        let given_up = continuous.give_up_after.is_some_and(|after| last.elapsed() >= after);
        if given_up || !continuous.may_pass(fault) {
            return attempt.told(job);
        }
        let Some(wait) = backoff.next(proven) else { return attempt.told(job) };
        job.progress.note(&format!(
            "warning: {}; nothing has worked for {}, trying again in {}",
            fault.message,
            human::seconds(last.elapsed().as_secs_f64()),
            human::seconds(wait.as_secs_f64())
        ));
        if continuous.ending.run_until_cancelled(sleep(wait)).await.is_none() {
            return attempt.told(job);
        }
        keeper = attempt.keeper;
    }
}

/// Waits between attempts.
struct Backoff {
    made: u32,
    /// Attempts before anything has worked.
    limit: u32,
}

impl Backoff {
    fn new(limit: u32) -> Self {
        Backoff { made: 0, limit }
    }

    fn reset(&mut self) {
        self.made = 0;
    }

    /// `proven`: it has worked before; else it may never do.
    fn next(&mut self, proven: bool) -> Option<Duration> {
        if !proven && self.made >= self.limit {
            return None;
        }
        let step = FIRST.saturating_mul(1 << self.made.min(16)).min(LONGEST);
        self.made += 1;
        Some(step.mul_f64(rand::random_range(0.5..=1.0)))
    }
}

impl Sync<'_> {
    /// After a round: waits, and looks where the log ends now; `false`: the sync
    /// is to end. `lost`: tables have to be loaded first.
    pub(super) async fn next_round(
        &mut self,
        continuous: &Continuous,
        lost: bool,
    ) -> Result<bool, Stop> {
        if lost {
            // Without them it would be incomplete, at the end as well.
            return Ok(true);
        }
        continuous.works();
        if self.is_last_round {
            return Ok(false);
        }
        if let Some(capture) = &self.capture {
            self.context.progress.note_once(&format!(
                "following {}: changes are committed every {}; SIGTERM ends it",
                capture.slot(),
                human::seconds(continuous.commit_interval.as_secs_f64())
            ));
        }
        self.wait(continuous).await?;
        // Asked to end in the middle of a round, it takes another.
        self.is_last_round = continuous.is_ending();
        self.round_began = Instant::now();
        self.round_changes = 0;
        self.open_capture().instrument(info_span!("look")).await?;
        self.remember_capture();
        self.keeper.save().await?;
        Ok(true)
    }

    /// Until the next round is due, or the last one.
    async fn wait(&mut self, continuous: &Continuous) -> Result<(), Stop> {
        let took = self.round_took;
        let mut due = self.round_began + continuous.commit_interval;
        if took > continuous.commit_interval.max(DEAR) && self.round_changes < FEW {
            // The server has read much again for little: it begins where the
            // oldest transaction did that is open.
            due = Instant::now() + took.min(LONGEST_REST);
            self.context.progress.note_once(&format!(
                "warning: a look at the log took {}, with little in it for these tables: a \
                 transaction that is open for long makes it read everything since again and again \
                 (SELECT * FROM pg_stat_activity ORDER BY xact_start); there are pauses as long",
                human::seconds(took.as_secs_f64())
            ));
        }
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = self.context.shutdown.cancelled() => return Err(Stop::Interrupted),
                () = continuous.ending.cancelled() => return Ok(()),
                () = sleep_until(due) => return Ok(()),
                _ = tick.tick() => self.tick(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_bounded_only_until_something_has_worked() {
        let mut backoff = Backoff::new(2);
        let waits: Vec<_> = std::iter::from_fn(|| backoff.next(false)).collect();
        assert_eq!(waits.len(), 2);
        let waits: Vec<_> = (0..40).filter_map(|_| backoff.next(true)).collect();
        assert_eq!(waits.len(), 40);
        assert!(waits[39] >= LONGEST / 2 && waits.iter().all(|wait| *wait <= LONGEST));
        backoff.reset();
        assert!(backoff.next(true).is_some_and(|wait| wait <= FIRST));
    }

    #[tokio::test]
    async fn what_worked_before_may_come_back_and_a_wrong_setting_does_not() {
        let continuous = Continuous::new(&UpdateMethod::default(), CancellationToken::new());
        let refused = Fault { transient: false, ..Fault::new(ErrorCode::Unreachable, "refused") };
        let wrong = Fault::new(ErrorCode::Authentication, "no");
        let died = Fault { transient: false, ..Fault::new(ErrorCode::Unavailable, "killed") };
        assert!(!continuous.may_pass(&refused) && continuous.may_pass(&died));
        continuous.proven();
        assert!(continuous.may_pass(&refused));
        assert!(!continuous.may_pass(&wrong));
    }
}
