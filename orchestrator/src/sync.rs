//! `sync`: from the config files to committed tables.
//!
//! ```text
//! read and validate ─► lock state ─► services ─► prepare: what do the tables hold?
//!                                                   │ capture: which can be followed?
//!                                                   │ resume: what is left to load?
//!        ┌──────────────────────────────────────────┘
//!        ▼
//! commit what is staged ─► open (or resume) the load ─► drain: read chunks, stage, commit each
//!        ▲                           ▲                        │ table as its last chunk is staged
//!        │                           └─── the snapshot died ──┤
//!        │                                                    ▼
//!        │                                             close the load
//!        │                                                    ▼
//!        └── tables were lost ── replicate: intervals of changes, staged, committed, confirmed
//!                                                             ▼
//!                                                  run finished ─► summary
//! ```
//!
//! With `--continuous` the replication is repeated, see [`continuous`].
//!
//! Invariant: files staged ≤ commit visible ≤ state saved ≤ slot moved. The
//! state is saved when a load is opened (so that what it stages is kept), after
//! every commit, before the slot is moved, and however the sync ends; between
//! those at a bounded rate.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::Fault;
use proto::lsn::Lsn;
use proto::v1::{CaptureTable, CommitRecord, Destination, ErrorCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use crate::cli::Flags;
use crate::config::{destination, source};
use crate::error::together;
use crate::load::{self, OpenLoad};
use crate::output;
use crate::state::file::StateFile;
use crate::state::keeper::StateKeeper;
use crate::state::{Run, RunStatus, SavedLoad};
use crate::streams::{Catalog, SelectedStream, SyncMode};
use crate::summary::{Format, Outcome, Summary};

mod attempt;
mod beside;
pub mod capture;
pub mod certificate;
mod changes;
mod chunk;
mod commit;
mod confirm;
mod context;
mod continuous;
mod drain;
pub mod follow;
pub mod incremental;
pub mod lag;
mod log;
mod lost;
mod modes;
pub mod position;
mod prepare;
mod replicate;
pub mod resume;
pub mod retry;
pub mod settings;
mod stop;
#[cfg(test)]
mod tests;
pub mod trouble;

pub use stop::Stop;

use attempt::Job;
use beside::{Beside, Hold, Place};
use capture::Capture;
pub use context::Context;
use continuous::Continuous;
use incremental::Reached;
use position::Position;
use resume::Action;
use retry::Retry;
use settings::Settings;
use trouble::Trouble;

/// One selected stream in this run.
#[derive(Clone)]
pub struct TableRun {
    /// "schema.table".
    pub id: String,
    /// What the user selected.
    pub stream: SelectedStream,
    /// Its identity in this run.
    pub settings: Settings,
    /// What the table is.
    pub format: Format,
    /// Where the table lies.
    pub location: String,
    /// What the table held when the run was prepared; of a table that is
    /// followed, what it holds.
    pub last_commit: Option<CommitRecord>,
    /// What is left to do.
    pub action: Action,
    /// Set once it is committed; of a table that is only followed, at the end.
    pub outcome: Option<Outcome>,
    /// What change capture says of it.
    pub seen: Option<CaptureTable>,
    /// What its content is, for change capture to go on from.
    pub position: Option<Position>,
    /// The same for an incremental sync.
    pub reached: Option<Reached>,
    /// Changes committed in this sync.
    pub changes: u64,
    /// Of those.
    pub unrepresentable: Unrepresentable,
    /// Why it cannot be followed any further.
    pub lost: Option<String>,
    /// How often that was so in this sync (one that goes on: of late).
    pub times_lost: u32,
    /// When it was so last.
    pub lost_at: Option<Instant>,
    /// It is not loaded anew before then.
    pub reload_at: Option<Instant>,
    /// Why it stays as it is, whatever becomes of the others.
    pub trouble: Option<Trouble>,
    /// Then the slot is held here, for its log.
    pub holds: Option<Lsn>,
    /// It is being loaded while the others are followed.
    pub is_loaded_beside: bool,
    /// Its load was given up, since the sync is to end: the next one begins it anew.
    pub is_given_up: bool,
}

impl TableRun {
    fn new(run: &Run, destination: &Destination, stream: &SelectedStream) -> Self {
        TableRun {
            id: stream.id(),
            settings: Settings::of(run, destination, &stream.table, &stream.load, None),
            stream: stream.clone(),
            format: Format::of(destination),
            location: String::new(),
            last_commit: None,
            action: Action::ReadAll,
            outcome: None,
            seen: None,
            position: None,
            reached: None,
            changes: 0,
            unrepresentable: Unrepresentable::new(),
            lost: None,
            times_lost: 0,
            lost_at: None,
            reload_at: None,
            trouble: None,
            holds: None,
            is_loaded_beside: false,
            is_given_up: false,
        }
    }

    /// All of it is staged, and not committed.
    fn is_staged(&self) -> bool {
        self.action == Action::CommitStaged && self.outcome.is_none()
    }

    /// What the state has of its load.
    pub fn saved<'k>(&self, keeper: &'k StateKeeper) -> Option<&'k SavedLoad> {
        keeper.state().stream(&self.stream.namespace, &self.stream.name)?.state.load.as_ref()
    }
}

/// Everything the config files say.
pub(crate) struct Inputs {
    pub(crate) source: source::SourceFile,
    pub(crate) destination: destination::DestinationFile,
    pub(crate) streams: Vec<SelectedStream>,
}

/// Runs the command.
pub async fn run(flags: &Flags, shutdown: CancellationToken) -> Result<(), Fault> {
    let inputs = Inputs::read(flags)?;
    let (file, state) = StateFile::open(&flags.state_path()?, !flags.no_save)?;
    let keeper = StateKeeper::new(file, state);
    let job = Job::new(flags, &inputs, shutdown);
    match Continuous::wanted(flags, &inputs, &job.shutdown) {
        Some(continuous) => continuous::run(&job, &continuous, keeper).await,
        None => {
            let attempt = job.attempt(keeper, None).instrument(info_span!("sync"));
            attempt.await.told(&job)
        }
    }
}

impl Inputs {
    /// Reads and validates everything before anything runs.
    pub(crate) fn read(flags: &Flags) -> Result<Self, Fault> {
        let (config, catalog_path) = (flags.require_config()?, flags.require_catalog()?);
        let destination = flags.require_destination()?;
        let source = source::load(config, flags.key());
        let destination = destination::load(destination, flags.key());
        let catalog = Catalog::load(catalog_path, flags.key());
        let (mut source, destination, catalog) = match (source, destination, catalog) {
            (Ok(source), Ok(destination), Ok(catalog)) => (source, destination, catalog),
            (source, destination, catalog) => {
                let errors = [source.err(), destination.err(), catalog.err()];
                return Err(together(errors.into_iter().flatten().map(Fault::from)));
            }
        };
        let streams = catalog.selected(&source, &destination, flags)?;
        modes::demand(&streams, &source, config, catalog_path)?;
        continuous::demand(flags, &streams)?;
        let refreshed = streams.iter().filter(|s| s.sync_mode == SyncMode::FullRefresh);
        for stream in refreshed.filter(|stream| stream.append_mode) {
            output::human(format_args!(
                "warning: {}: append_mode is ignored: a full_refresh replaces the table's content",
                stream.id()
            ));
        }
        if let Some(rows) = flags.destination_buffer_size.filter(|rows| *rows > 0) {
            let rows = u32::try_from(rows).unwrap_or(u32::MAX);
            source.config.reader_batch_size = source.config.reader_batch_size.min(rows);
        }
        Ok(Inputs { source, destination, streams })
    }
}

/// A running sync.
struct Sync<'a> {
    context: Context<'a>,
    keeper: StateKeeper,
    run: Run,
    /// The run was interrupted and goes on.
    resumed: bool,
    tables: Vec<TableRun>,
    /// Open from the preparation on, if a stream asks for it.
    capture: Option<Capture>,
    /// Told where a load is, if this is one beside a sync.
    place: Option<Place>,
    /// Keeps the slot back for such a load.
    hold: Option<Hold>,
    /// When the log was last asked where it ends.
    round_began: Instant,
    /// It was asked when the sync was to end already.
    is_last_round: bool,
    /// How long the log was read for in that round; loads do not count.
    round_took: Duration,
    /// Changes that were read since.
    round_changes: u64,
    /// When a message of ours was last written into it.
    heart_beat: Option<Instant>,
    /// When the user was last warned of a lag, by setting.
    warned: BTreeMap<&'static str, Instant>,
}

impl<'a> Sync<'a> {
    fn new(context: Context<'a>, streams: &[SelectedStream], keeper: StateKeeper) -> Self {
        let interrupted = resume::interrupted(keeper.state().run.as_ref());
        let resumed = interrupted.is_some();
        let run = interrupted.unwrap_or_else(settings::new_run);
        let table = |stream: &SelectedStream| {
            let table = TableRun::new(&run, context.destination, stream);
            let before = context.continuous.as_ref().map(|before| before.changes_of(&table.id));
            TableRun { changes: before.unwrap_or_default(), ..table }
        };
        let tables = streams.iter().map(table).collect();
        Sync {
            context,
            keeper,
            run,
            resumed,
            tables,
            capture: None,
            place: None,
            hold: None,
            round_began: Instant::now(),
            is_last_round: false,
            round_took: Duration::ZERO,
            round_changes: 0,
            heart_beat: None,
            warned: BTreeMap::new(),
        }
    }

    async fn run(&mut self) -> Result<(), Stop> {
        let mut load = self.prepare().instrument(info_span!("prepare")).await?;
        self.begin_run().await?;
        let mut beside = None;
        let done = self.rounds(&mut load, &mut beside).await;
        if let Some(beside) = beside {
            self.leave(beside).await;
        }
        done
    }

    async fn rounds(
        &mut self,
        load: &mut Option<OpenLoad>,
        beside: &mut Option<Beside<'a>>,
    ) -> Result<(), Stop> {
        if self.tables.iter().any(TableRun::is_staged) {
            // What the interrupted run has left; no load beside knows of it.
            self.drain(None).await?;
        }
        loop {
            if beside.is_some() || load.is_none() && self.can_load_beside() {
                if beside.is_none() {
                    *beside = Some(self.load_beside());
                }
            } else {
                self.load_first(load.take()).await?;
            }
            self.following(true);
            let mut on = match beside {
                Some(beside) => beside.run(self.round()).await?,
                None => self.round().await?,
            };
            if let (false, Some(loading)) = (on, beside.as_mut()) {
                self.wait_for(loading).await?;
            }
            if let Some(loaded) = beside.take() {
                *beside = self.join(loaded).await?;
            }
            // Who was lost while others were loaded has waited for that.
            on |= self.context.continuous.is_none() && self.tables.iter().any(load::is_left);
            if !on {
                if let Some(loading) = beside.take() {
                    self.leave(loading).await;
                }
                self.give_up_loads();
                self.release().await?;
                return self.finish_run().await;
            }
        }
    }

    /// Loads what is to be loaded, before anything is followed.
    async fn load_first(&mut self, load: Option<OpenLoad>) -> Result<(), Stop> {
        self.following(false);
        let span = match self.tables.iter().any(load::is_left) {
            true => info_span!("load"),
            false => Span::none(),
        };
        self.load(load).instrument(span).await
    }

    /// Follows the log to where it ended; whether the sync goes on.
    async fn round(&mut self) -> Result<bool, Stop> {
        let began = Instant::now();
        let lost = self.replicate().instrument(info_span!("replicate")).await?;
        self.round_took = began.elapsed();
        match self.context.continuous.clone() {
            Some(continuous) => self.next_round(&continuous, lost).await,
            None => Ok(lost),
        }
    }

    /// Whether a continuous sync has something to complete before it ends: a
    /// load is no such thing.
    fn following(&self, following: bool) {
        let Some(continuous) = &self.context.continuous else { return };
        continuous.proven();
        if following || self.tables.iter().any(load::is_left) {
            continuous.following(following);
        }
    }

    /// Commits what is staged and reads what is missing, until every table
    /// that is not followed is committed.
    async fn load(&mut self, mut load: Option<OpenLoad>) -> Result<(), Stop> {
        let mut retry = Retry::new(self.context.source_config.retry_count);
        let mut reopening = false;
        loop {
            self.drain(None).await?;
            if !self.tables.iter().any(load::is_left) {
                return Ok(());
            }
            let load = match load.take() {
                Some(load) => Ok(load),
                None => load::open(&self.context, self.capture.as_ref(), &self.tables).await,
            };
            let drained = match load {
                Ok(load) => {
                    self.spare_others(&load);
                    self.read(&load).await
                }
                // A server that restarts took the load along and comes back.
                Err(Stop::Failed(fault)) if reopening && fault.transient => {
                    Err(Stop::LoadGone(fault))
                }
                Err(stop) => Err(stop),
            };
            let fault = match drained {
                Ok(()) => continue,
                Err(Stop::LoadGone(fault)) => Fault { transient: true, ..fault },
                Err(Stop::Failed(fault)) if self.is_of_single_tables(&fault).await? => {
                    self.restart_unfinished().await?;
                    continue;
                }
                Err(stop) => return Err(stop),
            };
            reopening = true;
            let again = retry.again("the load was lost", fault, |line| {
                self.context.progress.note(line);
            });
            self.context.cancellable(again).await??;
            self.restart_unfinished().await?;
        }
    }

    async fn drain(&mut self, load: Option<&OpenLoad>) -> Result<(), Stop> {
        drain::drain(&self.context, &self.run, load, &mut self.tables, &mut self.keeper).await
    }

    /// Drains the load, and lets go of it unless a later sync may continue it.
    async fn read(&mut self, load: &OpenLoad) -> Result<(), Stop> {
        if let Some(place) = &self.place {
            place.tell(load)?;
        }
        self.settle_unchanged(load);
        load::remember(load, &self.tables, self.capture.as_ref(), &mut self.keeper)?;
        self.keeper.save().await?;
        let drained = self.drain(Some(load)).await;
        let keep = match &drained {
            Err(Stop::Interrupted) => !self.context.owns_source,
            Err(Stop::Failed(fault)) => fault.transient && !self.context.owns_source,
            Ok(()) | Err(Stop::LoadGone(_)) => false,
        };
        if !keep {
            load::close(&self.context, &load.live.id).await;
            load::forget(&mut self.keeper);
        }
        drained
    }

    /// From here on the state says that this run is under way.
    async fn begin_run(&mut self) -> Result<(), Stop> {
        if self.resumed {
            self.context.progress.note(&format!(
                "continuing the sync that began at {}",
                self.run.started_at.format("%Y-%m-%d %H:%M:%S UTC")
            ));
        }
        for (index, table) in self.tables.iter_mut().enumerate() {
            let (Action::Done, Some(record)) = (table.action, &table.last_commit) else { continue };
            let outcome = Outcome::before(table, record);
            self.context.progress.table_done(index, &outcome.line());
            table.outcome = Some(outcome);
            let (namespace, name) = (&table.stream.namespace, &table.stream.name);
            match &table.reached {
                Some(reached) => self.keeper.change().advance(namespace, name, reached),
                None => self.keeper.change().finish_load(namespace, name),
            }
        }
        self.remember_capture();
        self.keeper.change().run = Some(self.run.clone());
        Ok(self.keeper.save().await?)
    }

    async fn finish_run(&mut self) -> Result<(), Stop> {
        self.finish_followed();
        let forgotten = |table: &&TableRun| {
            table.outcome.is_none() && table.trouble.is_none() && !table.is_given_up
        };
        if let Some(table) = self.tables.iter().find(forgotten) {
            let what = format!("{} was neither read nor committed", table.id);
            return Err(Stop::Failed(Fault::new(ErrorCode::Internal, what)));
        }
        self.run = Run { status: RunStatus::Finished, load: None, ..self.run.clone() };
        self.keeper.change().run = Some(self.run.clone());
        Ok(self.keeper.save().await?)
    }

    fn summary(&self) -> Summary {
        let outcomes = self.tables.iter().filter_map(|table| table.outcome.clone()).collect();
        let counters = self.context.progress.counters();
        Summary {
            run_id: self.run.id.clone(),
            outcomes,
            troubles: self.tables.iter().filter_map(|table| table.trouble.clone()).collect(),
            given_up: self.given_up(),
            seconds: counters.seconds,
            held: self.capture.as_ref().map(|capture| capture.held),
            lag: counters.lag,
        }
    }
}

/// Values stored as null, by column.
pub type Unrepresentable = BTreeMap<String, u64>;
