//! Follows the log from the slot's position to the run's end.
//!
//! ```text
//! source:  interval staged ─► next interval staged ─► …          finished
//!                │                                                  │
//!                ▼                                                  ▼
//!         commit its tables ─► certify ─► Confirm                the same for what is left
//! ```
//!
//! An interval's tables are committed, at once where the catalog can, else one by
//! one, each with the interval's end as its position; only then does the state certify that end, and what is kept
//! beside the tables ([`super::certificate`]), and only after that does the slot
//! move. So what is confirmed is in the tables, and what is
//! in a table is skipped when the interval comes again.
//!
//! What every table has already is confirmed before the first interval.
//!
//! A table that the stream cannot tell the truth about is lost: it leaves the
//! state before anything further is confirmed, and is loaded anew.

use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use prost::Message;
use proto::Fault;
use proto::lsn::Lsn;
use proto::v1::replicate_response::Event;
use proto::v1::{
    ErrorCode, IntervalStaged, ReplicateRequest, ReplicateTable, StagedTable, TableLost, TableShape,
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::capture::Capture;
use super::changes::{self, Staged};
use super::commit;
use super::lag::WARN_AGAIN;
use super::retry::Retry;
use super::{Stop, Sync, log, settings};
use crate::state::Run;
use crate::writers::Assigned;

/// Tables of an interval that are completed at once.
const COMPLETED_AT_ONCE: usize = 8;
/// Between two refreshes of what only time changes.
const TICK: Duration = Duration::from_secs(1);

/// One call of Replicate.
struct Call {
    /// What its stages' load ids begin with.
    load_id: String,
    /// The followed tables' indices in the run, by namespace and name.
    tables: HashMap<(String, String), usize>,
    /// Up to where everything is confirmed.
    confirmed: Lsn,
    /// The tables' writers.
    assigned: Vec<Assigned>,
}

impl Sync<'_> {
    /// Reads the log to the run's end; whether tables have to be loaded anew.
    pub(super) async fn replicate(&mut self) -> Result<bool, Stop> {
        let Some(capture) = self.capture.clone() else { return Ok(false) };
        let mut retry = Retry::new(self.context.source_config.retry_count);
        let mut confirmed = capture.log.confirmed;
        if self.context.continuous.is_none() {
            self.context.progress.note(&format!(
                "reading changes through {} from {} to {}",
                capture.slot(),
                confirmed,
                capture.log.end
            ));
        }
        loop {
            let before = confirmed;
            let fault = match self.follow(&capture, &mut confirmed).await {
                Ok(()) => return self.reload_lost().await,
                Err(Stop::LoadGone(fault)) => Fault { transient: true, ..fault },
                Err(Stop::Failed(fault)) => fault,
                Err(stop) => return Err(stop),
            };
            if confirmed > before {
                retry = Retry::new(self.context.source_config.retry_count);
            }
            let say = |line: &str| self.context.progress.note(line);
            let again = retry.again("following the changes", fault, say);
            self.context.cancellable(again).await??;
            // What became of the last commits is known to the tables alone.
            self.ask_again().await?;
        }
    }

    async fn follow(&mut self, capture: &Capture, confirmed: &mut Lsn) -> Result<(), Stop> {
        let load_id = Uuid::now_v7().to_string();
        let mut call =
            Call { load_id, tables: HashMap::new(), confirmed: *confirmed, assigned: Vec::new() };
        let followed = self.follow_by(capture, &mut call, confirmed).await;
        if let Err(Stop::Failed(fault)) = &followed {
            call.blame(fault);
        }
        followed
    }

    async fn follow_by(
        &mut self,
        capture: &Capture,
        call: &mut Call,
        confirmed: &mut Lsn,
    ) -> Result<(), Stop> {
        let request = self.request(capture, call)?;
        if request.tables.is_empty() {
            return Ok(());
        }
        self.pass_over(capture, call).await?;
        *confirmed = call.confirmed;
        let mut source = self.context.source.clone();
        let answer = self.context.cancellable(source.replicate(request)).await?;
        let mut events = answer.map_err(Fault::from)?.into_inner();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let event = tokio::select! {
                biased;
                () = self.context.shutdown.cancelled() => return Err(Stop::Interrupted),
                event = events.message() => event.map_err(Fault::from)?,
                _ = tick.tick() => {
                    self.tick();
                    continue;
                }
            };
            match event.and_then(|event| event.event) {
                Some(Event::Progress(read)) => {
                    self.round_changes += read.rows;
                    self.context.progress.streamed(read.rows, read.bytes);
                }
                Some(Event::Staged(staged)) => {
                    let span = info_span!("interval", from = staged.from, to = staged.to);
                    self.settle(capture, call, staged).instrument(span).await?;
                    if self.is_left_alone(call) {
                        return Ok(());
                    }
                    if let Some(continuous) = &self.context.continuous {
                        continuous.works();
                        // What is left is for the next start; with the last one
                        // comes how the tables look.
                        if continuous.is_ending() && call.confirmed < capture.log.end {
                            return Ok(());
                        }
                    }
                }
                Some(Event::Lost(lost)) => {
                    let index = call.index(&lost.namespace, &lost.name)?;
                    self.lose(capture.slot(), index, lost)?;
                    if self.is_left_alone(call) {
                        return Ok(());
                    }
                }
                Some(Event::Finished(finished)) => {
                    let to = end(&finished.to)?;
                    self.remember_shapes(call, finished.shapes)?;
                    if to > call.confirmed {
                        self.confirm(capture, call, to).await?;
                    }
                    self.context.progress.confirmed(|lag| lag.reach(to, 0));
                    return Ok(());
                }
                None => {
                    let what = "source-svc ended the changes before their end";
                    return Err(Fault::new(ErrorCode::IncompleteStream, what).into());
                }
            }
            *confirmed = call.confirmed;
        }
    }

    fn request(&self, capture: &Capture, call: &mut Call) -> Result<ReplicateRequest, Fault> {
        let mut tables = Vec::new();
        // What a sync that goes on processes now it does not process when it began.
        let run = match self.context.continuous {
            Some(_) => Run { started_at: settings::now(), ..self.run.clone() },
            None => self.run.clone(),
        };
        for (index, table) in self.tables.iter().enumerate() {
            if !table.is_captured() || !table.goes_on() {
                continue;
            }
            let position = table.position.as_ref().ok_or_else(|| {
                Fault::new(ErrorCode::Internal, format!("{} has no position", table.id))
            })?;
            let assigned = self.context.writers.take();
            let writer = assigned.writer();
            let stage = changes::stage(&self.context, &run, table, &call.load_id);
            tables.push(ReplicateTable {
                stream: Some(table.stream.load.clone()),
                position: position.lsn.to_string(),
                shape: match table.is_log() {
                    true => log::table_shape(position).to_owned(),
                    false => position.shape.clone(),
                },
                log: table.is_log(),
                numbered: changes::knows_columns(&self.context, table),
                writer_address: writer.address.clone(),
                writer_token: writer
                    .token
                    .as_ref()
                    .map(|token| token.reveal().to_owned())
                    .unwrap_or_default(),
                stage: stage.encode_to_vec().into(),
            });
            let key = (table.stream.namespace.clone(), table.stream.name.clone());
            call.tables.insert(key, index);
            call.assigned.push(assigned);
        }
        Ok(ReplicateRequest {
            config: Some(self.context.source_config.clone()),
            slot: capture.slot().to_owned(),
            publication: capture.publication.clone(),
            to: capture.log.end.to_string(),
            tables,
            interval_changes: self.context.update_method.map_or(0, |method| method.commit_changes),
            intervals_in_flight: 0,
            // One that goes on looks again anyway.
            initial_wait_ms: match self.context.continuous {
                Some(_) => 0,
                None => capture.initial_wait_ms,
            },
            ignore_rewrites: self
                .context
                .update_method
                .is_some_and(|method| method.ignore_rewrites),
            keep_removed_partitions: self
                .context
                .update_method
                .is_some_and(|method| method.keep_removed_partitions),
        })
    }

    /// Confirms what every table has: after a load, all of the log before it. That
    /// is more than a shortcut. A server may be unable to decode the beginning of a
    /// slot that somebody made beside running transactions (ours are made so that it
    /// can: see source-svc's capture/settle.rs).
    async fn pass_over(&mut self, capture: &Capture, call: &mut Call) -> Result<(), Stop> {
        let positions = call.tables.values().map(|&index| self.tables[index].position.as_ref());
        let least = positions.map(|position| position.map_or(Lsn(0), |at| at.lsn)).min();
        match least {
            Some(least) if least > call.confirmed => self.confirm(capture, call, least).await,
            _ => Ok(()),
        }
    }

    /// Commits the tables of an interval, then says so to the slot.
    async fn settle(
        &mut self,
        capture: &Capture,
        call: &mut Call,
        staged: IntervalStaged,
    ) -> Result<(), Stop> {
        let to = end(&staged.to)?;
        let position = capture.at(to);
        let load_id = format!("{}-{}", call.load_id, staged.number);
        let mut changed = Vec::new();
        for table in staged.tables {
            let index = call.index(&table.namespace, &table.name)?;
            if !self.tables[index].goes_on() {
                continue;
            }
            let (namespace, name) = (table.namespace.clone(), table.name.clone());
            if !table.identity.is_empty() {
                // Renamed since it was looked at, perhaps.
                self.tables[index].stream.table.key_columns = table.identity.clone();
            }
            let staged = self.staged(&load_id, index, table)?;
            if self.tables[index].is_log() && staged.truncated {
                log::note_truncate(&self.tables[index], &position, &self.context.progress);
                if staged.chunks.is_empty() {
                    continue;
                }
            }
            if let Some(reason) = staged.lost() {
                let lost = TableLost { namespace, name, reason, ..Default::default() };
                self.lose(capture.slot(), index, lost)?;
                continue;
            }
            changed.push((staged, index));
        }
        self.complete(capture, &mut changed).await?;
        let (mut requests, mut by_table) = (Vec::new(), HashMap::new());
        for (staged, index) in changed {
            let table = &self.tables[index];
            requests.push((index, changes::commit(&self.context, table, &staged, &position)));
            by_table.insert(index, staged);
        }
        let made = commit::commits(&self.context, requests);
        let made = self.context.cancellable(made).await??;
        let mut failed = None;
        for committed in made {
            let table = &mut self.tables[committed.table];
            match committed.result {
                Ok(answer) => {
                    table.changed(&by_table[&committed.table], answer, &position);
                    let (namespace, name) = (&table.stream.namespace, &table.stream.name);
                    let reached = table.position.as_ref().unwrap_or(&position);
                    self.keeper.change().reach(namespace, name, reached);
                }
                // The first one is told; the others may be made all the same.
                Err(fault) => failed = failed.or(Some(fault)),
            }
        }
        if let Some(fault) = failed {
            self.keeper.save().await?;
            return Err(fault.into());
        }
        if self.is_left_alone(call) {
            return Ok(());
        }
        self.confirm(capture, call, to).await?;
        self.context.progress.confirmed(|lag| lag.reach(to, staged.committed_at));
        Ok(())
    }

    /// Completes what has to be, by the tables as the interval before has left
    /// them; tables of which that cannot be are lost.
    async fn complete(
        &mut self,
        capture: &Capture,
        changed: &mut Vec<(Staged, usize)>,
    ) -> Result<(), Stop> {
        let requests: Vec<_> = changed
            .iter()
            .enumerate()
            .filter_map(|(at, (staged, index))| {
                let table = &self.tables[*index];
                Some((at, changes::completion(&self.context, &self.run, table, staged)?))
            })
            .collect();
        if requests.is_empty() {
            return Ok(());
        }
        let context = &self.context;
        let answers = stream::iter(requests)
            .map(|(at, request)| async move { (at, changes::complete(context, request).await) })
            .buffer_unordered(COMPLETED_AT_ONCE)
            .collect::<Vec<_>>();
        let mut missing = HashMap::new();
        for (at, answer) in context.cancellable(answers).await? {
            let answer = answer?;
            match answer.missing {
                what if what.is_empty() => changed[at].0.chunks.extend(answer.staged),
                what => {
                    missing.insert(changed[at].1, what);
                }
            }
        }
        changed.retain(|(_, index)| !missing.contains_key(index));
        for (index, what) in missing {
            let table = &self.tables[index].stream;
            let (namespace, name) = (table.namespace.clone(), table.name.clone());
            let reason = format!("the table does not say what the changes leave out: {what}");
            let lost = TableLost { namespace, name, reason, ..Default::default() };
            self.lose(capture.slot(), index, lost)?;
        }
        Ok(())
    }

    fn staged(&self, load_id: &str, index: usize, table: StagedTable) -> Result<Staged, Fault> {
        Staged::read(load_id, &self.tables[index].settings.hash, table)
            .map_err(|fault| fault.context(format_args!("following {}", self.tables[index].id)))
    }

    /// Whether every table of the call is in trouble: the slot stays where it is.
    fn is_left_alone(&self, call: &Call) -> bool {
        call.tables.values().all(|&index| self.tables[index].trouble.is_some())
    }

    /// Everything up to `to` is committed.
    async fn confirm(&mut self, capture: &Capture, call: &mut Call, to: Lsn) -> Result<(), Stop> {
        self.move_slot(capture, to).await?;
        call.confirmed = to;
        Ok(())
    }

    /// What only time changes; warns of a lag that is more than the user wants.
    pub(super) fn tick(&mut self) {
        self.context.progress.tick();
        let (Some(method), Some(lag)) = (self.context.update_method, self.context.progress.lag())
        else {
            return;
        };
        for (setting, warning) in lag.warnings(method, &self.holding()) {
            let last = self.warned.get(setting);
            if last.is_none_or(|last| last.elapsed() >= WARN_AGAIN) {
                self.context.progress.note(&warning);
                self.warned.insert(setting, Instant::now());
            }
        }
    }

    /// How the tables look now that they have everything.
    fn remember_shapes(&mut self, call: &Call, shapes: Vec<TableShape>) -> Result<(), Fault> {
        for TableShape { namespace, name, shape } in shapes {
            let table = &mut self.tables[call.index(&namespace, &name)?];
            let (goes_on, is_log) = (table.goes_on(), table.is_log());
            if let Some(position) = table.position.as_mut().filter(|_| goes_on) {
                position.shape = if is_log { log::shape(&shape) } else { shape };
                self.keeper.change().reach(&namespace, &name, position);
            }
        }
        Ok(())
    }

    /// Where the followed tables are now.
    async fn ask_again(&mut self) -> Result<(), Stop> {
        let followed: Vec<_> = (0..self.tables.len())
            .filter(|&at| self.tables[at].is_captured() && self.tables[at].goes_on())
            .collect();
        self.ask_writers(&followed).await?;
        for index in followed {
            let table = &mut self.tables[index];
            if table.is_log() && table.last_commit.is_none() {
                // Nothing has come of it yet.
                continue;
            }
            let commit = table.last_commit.as_ref();
            let position = commit.and_then(|commit| commit.position.parse().ok());
            let behind = position.as_ref().is_none_or(|position: &super::position::Position| {
                table.position.as_ref().is_some_and(|known| position.lsn < known.lsn)
            });
            if behind {
                let what = format!("{} was changed by somebody else while it was synced", table.id);
                let fault = Fault::new(ErrorCode::Conflict, what);
                return Err(Stop::Failed(Fault { transient: false, ..fault }));
            }
            let shape = table.position.take().map(|known| known.shape);
            table.position = position.map(|position| match &shape {
                Some(shape) => position.with_shape(shape),
                None => position,
            });
        }
        Ok(())
    }
}

impl Call {
    /// The writer that is to blame for a fault is left alone for a while.
    fn blame(self, fault: &Fault) {
        self.assigned.into_iter().for_each(|assigned| assigned.blame(fault));
    }

    fn index(&self, namespace: &str, name: &str) -> Result<usize, Fault> {
        let index = self.tables.get(&(namespace.to_owned(), name.to_owned()));
        index.copied().ok_or_else(|| {
            Fault::new(
                ErrorCode::Internal,
                format!("source-svc tells of {namespace}.{name}, which was not asked for"),
            )
        })
    }
}

pub(super) fn end(text: &str) -> Result<Lsn, Fault> {
    text.parse().map_err(|error| {
        Fault::new(ErrorCode::Internal, format!("source-svc says where an interval ends: {error}"))
    })
}
