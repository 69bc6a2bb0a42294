//! Opens change capture for a run: slot and publication, where the log begins
//! and ends, and which tables can be followed from what they hold.
//!
//! Everything else has to be loaded, by the same load as a full refresh, under
//! the snapshot of a temporary slot: what the log holds after that snapshot's
//! consistent point is all that the table lacks.

use proto::Fault;
use proto::lsn::Lsn;
use proto::v1::{CaptureTable, ErrorCode, LoadStream, OpenCaptureRequest, OpenCaptureResponse};
use tokio::time::Instant;

use super::changes;
use super::follow::{Doubt, Known, Log, judge};
use super::lag::HeldWal;
use super::position::{Origin, Position};
use super::resume::Action;
use super::retry::Retry;
use super::settings::{self, Settings};
use super::trouble::Trouble;
use super::{Context, Stop, Sync, TableRun, log};
use crate::config::source::UpdateMethod;
use crate::load;
use crate::streams::SyncMode;
use crate::summary::Outcome;

/// Change capture as it was opened for this run.
#[derive(Clone, Debug)]
pub struct Capture {
    pub publication: String,
    pub log: Log,
    pub initial_wait_ms: u32,
    pub held: HeldWal,
}

impl Capture {
    /// A position in this log.
    pub fn at(&self, lsn: Lsn) -> Position {
        Position { lsn, origin: self.log.origin.clone(), shape: String::new() }
    }

    pub fn slot(&self) -> &str {
        &self.log.origin.slot
    }
}

impl Sync<'_> {
    /// Opens change capture, if a stream asks for it, and tells the tables that
    /// can be followed from those that have to be loaded.
    pub(super) async fn open_capture(&mut self) -> Result<(), Stop> {
        let captured: Vec<_> =
            (0..self.tables.len()).filter(|&at| self.tables[at].is_captured()).collect();
        let Some(method) = self.context.update_method.filter(|_| !captured.is_empty()) else {
            return Ok(());
        };
        let streams = captured.iter().map(|&at| self.tables[at].stream.load.clone()).collect();
        let heartbeat = self.heart_beats(method);
        let answer = match open(&self.context, method, streams, heartbeat).await {
            Err(Stop::Failed(fault)) if self.spare_uncaptured(&fault, &captured) => return Ok(()),
            answer => answer?,
        };
        let (capture, tables) = checked(answer, method, captured.len())?;
        let seen = captured.iter().zip(&tables).map(|(&at, seen)| (&self.tables[at].stream, seen));
        changes::demand_whole_rows(seen)?;
        if self.capture.is_none() {
            self.recover(&capture).await?;
        }
        for (at, seen) in captured.into_iter().zip(tables) {
            // One that is lost is loaded anew, whatever it holds.
            let table = &self.tables[at];
            if table.lost.is_some() || table.is_loaded_beside || table.is_given_up {
                continue;
            }
            self.judge(at, seen, &capture);
        }
        self.say_held(&capture, method);
        self.capture = Some(capture);
        Ok(())
    }

    /// Whether a table can be followed, has to be loaded, or is in trouble.
    fn judge(&mut self, at: usize, seen: CaptureTable, capture: &Capture) {
        let id = self.tables[at].id.clone();
        let told = match &seen.trouble {
            None => self.see(at, seen, capture),
            Some(trouble) if trouble.recoverable => match self.goes_on_later(at, capture) {
                Ok(()) => {
                    let trouble = Trouble::told(&id, trouble);
                    return self.set_apart_for_now(at, trouble, capture.slot());
                }
                hole => hole,
            },
            Some(trouble) => return self.set_apart(at, Trouble::told(&id, trouble)),
        };
        match told {
            Err(fault) => self.set_apart(at, Trouble::of(&id, fault)),
            Ok(()) => (self.tables[at].trouble, self.tables[at].holds) = (None, None),
        }
    }

    /// Says how much WAL is held, when the sync begins, and keeps it for the
    /// display.
    fn say_held(&self, capture: &Capture, method: &UpdateMethod) {
        let progress = &self.context.progress;
        if self.capture.is_none() {
            let much = method.retained_wal_warning;
            progress.note(&capture.held.line(capture.slot(), much, &self.holding()));
        }
        progress.log(capture.log.confirmed, capture.log.end, capture.held);
    }

    /// Whether a message of ours is due in the log.
    fn heart_beats(&mut self, method: &UpdateMethod) -> bool {
        let Some(every) = method.heartbeat_interval else { return false };
        let due = self.heart_beat.is_none_or(|last| last.elapsed() >= every);
        if due {
            self.heart_beat = Some(Instant::now());
        }
        due
    }

    /// What the source says of a captured table, beside what the table holds. A fault
    /// is that stream's alone.
    fn see(&mut self, at: usize, seen: CaptureTable, capture: &Capture) -> Result<(), Fault> {
        let toastable = self.learn(at, seen);
        let table = &mut self.tables[at];
        table.action = Action::ReadAll;
        let (namespace, name) = (&table.stream.namespace, &table.stream.name);
        let state = self.keeper.state();
        let reached = state.stream(namespace, name).and_then(|entry| entry.state.position.as_ref());
        table.position = table.committed();
        let last = table.last_commit.as_ref();
        let certified = state.certified(namespace, name);
        if table.is_log() {
            let reached = reached.cloned();
            log::warn(table, &toastable, &self.context.progress);
            return log::begin(table, capture, certified, reached.as_ref());
        }
        // A log is no content to go on from.
        table.position = table.position.take().filter(|position| !log::is_of_log(position));
        let known = Known { position: table.position.as_ref(), certified, reached };
        let shape = reached.filter(|reached| is_newer(reached, table.position.as_ref()));
        let shape = shape.map(|reached| reached.shape.clone());
        let known_shape = shape.as_ref().or(table.position.as_ref().map(|at| &at.shape));
        let compared = known_shape.is_some_and(|shape| !shape.is_empty());
        let is_under = |id: &str| settings::is_under(id, &table.settings, compared);
        let other_settings = last.is_some_and(|commit| !is_under(&commit.commit_id));
        let why = match judge(&capture.log, &known) {
            Ok(()) if other_settings => {
                "its settings, identity, files or partitions are others".to_owned()
            }
            Ok(()) => {
                if let (Some(position), Some(shape)) = (&mut table.position, shape) {
                    position.shape = shape;
                }
                table.action = Action::Follow;
                return Ok(());
            }
            Err(Doubt::New) if last.is_none() => return Ok(()),
            Err(doubt) => doubt.to_string(),
        };
        if table.outcome.take().is_some() {
            // It was followed until now.
            self.context.progress.restart(at);
        }
        let id = &table.id;
        self.context.progress.note(&format!("{id} is loaded anew: {why}"));
        Ok(())
    }

    /// Whether a log that cannot be followed now has no hole so far.
    fn goes_on_later(&mut self, at: usize, capture: &Capture) -> Result<(), Fault> {
        let (table, state) = (&mut self.tables[at], self.keeper.state());
        if table.known_log(state).is_none() {
            return Ok(());
        }
        table.position = table.committed();
        let (namespace, name) = (&table.stream.namespace, &table.stream.name);
        let reached = state.stream(namespace, name).and_then(|entry| entry.state.position.clone());
        log::begin(table, capture, state.certified(namespace, name), reached.as_ref())
    }

    /// Keeps what the source says of a table; its columns whose values the log may
    /// leave out.
    fn learn(&mut self, at: usize, seen: CaptureTable) -> Vec<String> {
        let table = &mut self.tables[at];
        if !seen.identity.is_empty() {
            table.stream.table.key_columns = seen.identity.clone();
        }
        // How it looks now is compared by the source, at the end, with how it was.
        let mut seen = CaptureTable { shape: String::new(), ..seen };
        let toastable = std::mem::take(&mut seen.toastable);
        table.seen = Some(seen);
        table.settings = Settings::of_table(&self.run, self.context.destination, table);
        toastable
    }

    /// Looks at the tables again that are to be loaded anew: as they are now, with
    /// other columns perhaps, or not at all.
    pub(super) async fn look_again(&mut self) -> Result<(), Stop> {
        let captured: Vec<_> =
            (0..self.tables.len()).filter(|&at| self.tables[at].is_captured()).collect();
        let Some(method) = self.context.update_method.filter(|_| !captured.is_empty()) else {
            return Ok(());
        };
        let streams = captured.iter().map(|&at| self.tables[at].stream.load.clone()).collect();
        let answer = open(&self.context, method, streams, false).await?;
        let (_, tables) = checked(answer, method, captured.len())?;
        for (at, seen) in captured.into_iter().zip(tables) {
            let table = &self.tables[at];
            if !load::is_left(table) {
                continue;
            }
            if let Some(trouble) = &seen.trouble {
                let trouble = Trouble::told(&table.id, trouble);
                self.set_apart(at, trouble);
            } else if table.action == Action::ReadAll && table.position.is_none() {
                self.learn(at, seen);
            }
        }
        Ok(())
    }

    /// From here on the state says which streams are followed.
    pub(super) fn remember_capture(&mut self) {
        let Some(capture) = &self.capture else { return };
        let follows = |table: &&TableRun| table.action == Action::Follow && table.goes_on();
        let followed = self.tables.iter().filter(follows);
        let followed = followed.map(|table| table.id.clone()).collect();
        let position = capture.at(capture.log.confirmed);
        let state = self.keeper.change();
        state.follow(&position, followed);
        for table in self.tables.iter().filter(|table| table.is_log()) {
            let entry = state.stream_mut(&table.stream.namespace, &table.stream.name);
            entry.sync_mode = SyncMode::StrictCdc.as_str().to_owned();
        }
    }

    /// What changes have made of the tables.
    pub(super) fn finish_followed(&mut self) {
        let followed =
            |table: &TableRun| table.is_captured() && table.trouble.is_none() && !table.is_given_up;
        let captured = self.tables.iter_mut().enumerate().filter(|(_, table)| followed(table));
        for (index, table) in captured {
            let outcome = match table.outcome.take() {
                Some(loaded) => loaded.with_changes(table),
                None => Outcome::followed(table),
            };
            if let Some(line) = outcome.changes_line() {
                self.context.progress.table_done(index, &line);
            }
            table.outcome = Some(outcome);
        }
    }
}

/// Whether what the state says of a table is of its last commit, or later.
fn is_newer(reached: &Position, last: Option<&Position>) -> bool {
    last.is_some_and(|last| reached.origin == last.origin && reached.lsn >= last.lsn)
}

async fn open(
    context: &Context<'_>,
    method: &UpdateMethod,
    streams: Vec<LoadStream>,
    heartbeat: bool,
) -> Result<OpenCaptureResponse, Stop> {
    let request = OpenCaptureRequest {
        config: Some(context.source_config.clone()),
        slot: method.replication_slot.clone(),
        publication: method.publication.clone(),
        streams,
        create: true,
        heartbeat,
        spare_others: true,
    };
    let mut retry = Retry::new(context.source_config.retry_count);
    loop {
        let mut source = context.source.clone();
        let answer = context.cancellable(source.open_capture(request.clone())).await?;
        let fault = match answer {
            Ok(answer) => {
                let answer = answer.into_inner();
                for notice in &answer.notices {
                    context.progress.note_once(&format!("note: {notice}"));
                }
                for standby in &answer.standbys_behind {
                    context.progress.note(&format!(
                        "warning: the slot waits for a standby of synchronized_standby_slots: \
                         {standby}"
                    ));
                }
                return Ok(answer);
            }
            Err(status) => Fault::from(status),
        };
        let say = |line: &str| context.progress.note(line);
        let again = retry.again("opening change capture", fault, say);
        context.cancellable(again).await??;
    }
}

/// The answer must be about what was asked.
pub(crate) fn checked(
    answer: OpenCaptureResponse,
    method: &UpdateMethod,
    tables: usize,
) -> Result<(Capture, Vec<CaptureTable>), Fault> {
    let wrong = |what: String| {
        Fault::new(ErrorCode::Internal, format!("source-svc's answer about change capture {what}"))
            .remedy("use services of this version")
    };
    if answer.tables.len() != tables {
        return Err(wrong(format!("is of {} tables, not {tables}", answer.tables.len())));
    }
    let lsn = |text: &str| text.parse::<Lsn>().map_err(|error| wrong(format!("has {error}")));
    let capture = Capture {
        publication: answer.publication,
        log: Log {
            origin: Origin {
                slot: method.replication_slot.clone(),
                system_identifier: answer.system_identifier,
                timeline: answer.timeline,
            },
            confirmed: lsn(&answer.confirmed_flush)?,
            end: lsn(&answer.end)?,
        },
        initial_wait_ms: u32::try_from(method.initial_wait_time.saturating_mul(1000))
            .unwrap_or(u32::MAX),
        held: HeldWal {
            retained_bytes: answer.retained_wal_bytes,
            safe_bytes: answer.safe_wal_bytes,
        },
    };
    Ok((capture, answer.tables))
}

impl TableRun {
    /// Whether changes are followed, not only the content read.
    pub fn is_captured(&self) -> bool {
        matches!(self.stream.sync_mode, SyncMode::Cdc | SyncMode::StrictCdc)
    }

    /// What change capture can go on from, as of its last commit.
    pub fn committed(&self) -> Option<Position> {
        self.last_commit.as_ref().and_then(|commit| commit.position.parse().ok())
    }

    /// Whether nothing keeps it from being followed any further.
    pub fn goes_on(&self) -> bool {
        let loads = self.is_loaded_beside || self.is_given_up || load::is_left(self);
        self.lost.is_none() && self.trouble.is_none() && !loads
    }
}
