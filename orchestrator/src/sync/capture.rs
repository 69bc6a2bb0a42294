//! Opens change capture for a run: slot and publication, where the log begins
//! and ends, and which tables can be followed from what they hold.
//!
//! Everything else has to be loaded, by the same load as a full refresh, under
//! the snapshot of a temporary slot: what the log holds after that snapshot's
//! consistent point is all that the table lacks.

use proto::Fault;
use proto::lsn::Lsn;
use proto::v1::{CaptureTable, ErrorCode, LoadStream, OpenCaptureRequest, OpenCaptureResponse};
use serde::Serialize;

use super::changes;
use super::follow::{Doubt, Known, Log, judge};
use super::position::{Origin, Position};
use super::resume::Action;
use super::retry::Retry;
use super::settings::{self, Settings};
use super::{Context, Stop, Sync, TableRun, log};
use crate::config::source::UpdateMethod;
use crate::progress::human;
use crate::streams::SyncMode;
use crate::summary::Outcome;

/// Bytes of WAL held back for a slot that are worth a warning.
const MUCH_WAL: u64 = 10 << 30;

/// Change capture as it was opened for this run.
#[derive(Clone, Debug)]
pub struct Capture {
    pub publication: String,
    pub log: Log,
    pub initial_wait_ms: u32,
    pub held: HeldWal,
}

/// WAL that the server keeps for the slot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeldWal {
    pub retained_bytes: u64,
    /// How much more it may be before the slot is lost; none: no limit.
    pub safe_bytes: Option<i64>,
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

impl HeldWal {
    /// What the user should know of it.
    pub fn line(&self, slot: &str) -> String {
        let held = human::bytes(self.retained_bytes);
        let left = self.safe_bytes.map(|bytes| human::bytes(bytes.max(0).unsigned_abs()));
        let much = match self.safe_bytes {
            Some(left) => left < 0 || left.unsigned_abs() < self.retained_bytes,
            None => self.retained_bytes >= MUCH_WAL,
        };
        let left = left.map(|left| format!(", and may hold {left} more before it is lost"));
        format!(
            "{}: the server holds {held} of WAL for the replication slot {slot}{}{}",
            if much { "warning" } else { "note" },
            left.unwrap_or_default(),
            if much { "; sync more often" } else { "" },
        )
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
        let answer = open(&self.context, method, streams).await?;
        let (capture, tables) = checked(answer, method, captured.len())?;
        let seen = captured.iter().zip(&tables).map(|(&at, seen)| (&self.tables[at].stream, seen));
        changes::demand_whole_rows(seen)?;
        self.context.progress.note(&capture.held.line(capture.slot()));
        for (at, seen) in captured.into_iter().zip(tables) {
            self.see(at, seen, &capture)?;
        }
        self.capture = Some(capture);
        Ok(())
    }

    /// What the source says of a captured table, beside what the table holds.
    fn see(&mut self, at: usize, seen: CaptureTable, capture: &Capture) -> Result<(), Fault> {
        let table = &mut self.tables[at];
        if !seen.identity.is_empty() {
            table.stream.table.key_columns = seen.identity.clone();
        }
        // How it looks now is compared by the source, at the end, with how it was.
        let toastable = Vec::new();
        table.seen = Some(CaptureTable { shape: String::new(), toastable, ..seen });
        table.settings = Settings::of_table(&self.run, self.context.destination, table);
        let (namespace, name) = (&table.stream.namespace, &table.stream.name);
        let state = self.keeper.state();
        let reached = state.stream(namespace, name).and_then(|entry| entry.state.position.as_ref());
        let last = table.last_commit.as_ref();
        table.position = last.and_then(|commit| commit.position.parse().ok());
        let certified = state.certified(namespace, name);
        if table.is_log() {
            let reached = reached.cloned();
            return log::begin(table, capture, certified, reached.as_ref(), &self.context.progress);
        }
        // A log is no content to go on from.
        table.position = table.position.take().filter(|position| position.shape != log::LOG);
        let known = Known { position: table.position.as_ref(), certified, reached };
        let other_settings =
            last.is_some_and(|commit| !settings::is_under(&commit.commit_id, &table.settings));
        let shape = reached.filter(|reached| is_newer(reached, table.position.as_ref()));
        let shape = shape.map(|reached| reached.shape.clone());
        let why = match judge(&capture.log, &known) {
            Ok(()) if other_settings => {
                "its settings, columns, identity, files or partitions are others".to_owned()
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
        let id = &table.id;
        self.context.progress.note(&format!("{id} is loaded anew: {why}"));
        Ok(())
    }

    /// From here on the state says which streams are followed.
    pub(super) fn remember_capture(&mut self) {
        let Some(capture) = &self.capture else { return };
        let followed = self.tables.iter().filter(|table| table.action == Action::Follow);
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
        let captured = self.tables.iter_mut().enumerate().filter(|(_, t)| t.is_captured());
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
) -> Result<OpenCaptureResponse, Stop> {
    let request = OpenCaptureRequest {
        config: Some(context.source_config.clone()),
        slot: method.replication_slot.clone(),
        publication: method.publication.clone(),
        streams,
        create: true,
    };
    let mut retry = Retry::new(context.source_config.retry_count);
    loop {
        let mut source = context.source.clone();
        let answer = context.cancellable(source.open_capture(request.clone())).await?;
        let fault = match answer {
            Ok(answer) => {
                let answer = answer.into_inner();
                for notice in &answer.notices {
                    context.progress.note(&format!("note: {notice}"));
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
fn checked(
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_wal_is_a_warning() {
        let line = |retained_bytes, safe_bytes| HeldWal { retained_bytes, safe_bytes }.line("s");
        assert!(line(1 << 20, None).starts_with("note: the server holds 1.05 MB of WAL"));
        assert!(line(MUCH_WAL, None).starts_with("warning: "));
        assert!(line(10, Some(9)).starts_with("warning: "));
        assert!(line(10, Some(-1)).contains("may hold 0 B more"));
        assert!(line(10, Some(100)).starts_with("note: "));
    }
}
