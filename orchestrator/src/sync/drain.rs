//! Reads all chunks of a load, several at once, and commits each table as its
//! last chunk is staged.
//!
//! At most `max_threads` chunks are read at a time, whatever their tables;
//! commits run beside them. The first failure ends everything: reading is
//! dropped (which stops it at the source), commits under way may finish.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::Fault;
use proto::metrics::{self, Held};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{Instrument, Span};

use super::chunk::{Reading, Staged};
use super::commit::{self, Committed};
use super::resume::Action;
use super::{Context, Stop, TableRun};
use crate::assign::{self, Job};
use crate::load::{self, OpenLoad};
use crate::state::Run;
use crate::state::keeper::StateKeeper;
use crate::summary::Outcome;

/// How long commits under way may take when everything else has stopped.
const COMMIT_GRACE: Duration = Duration::from_secs(10);
/// Between two refreshes of what only time changes.
const TICK: Duration = Duration::from_secs(1);

/// What happened next.
enum Event {
    Interrupted,
    Staged(Result<Staged, Fault>),
    Committed(Committed),
    SaveDue,
    Tick,
}

/// Commits what is fully staged and, with a load, reads what is missing and
/// commits that too.
pub async fn drain(
    context: &Context<'_>,
    run: &Run,
    load: Option<&OpenLoad>,
    tables: &mut [TableRun],
    keeper: &mut StateKeeper,
) -> Result<(), Stop> {
    let mut jobs = jobs(context, load, tables, keeper);
    let load_id = load.map(|load| load.live.id.as_str()).unwrap_or_default();
    let readers = context.source_config.max_threads.max(1) as usize;
    let mut reading = FuturesUnordered::new();
    let mut committing = FuturesUnordered::new();
    // Of each table, from its first chunk to its commit.
    let mut spans = HashMap::new();
    for (index, table) in tables.iter().enumerate() {
        if let Some(request) = ready(context, table, keeper) {
            let span = spans.entry(index).or_insert_with(|| stream(&table.id));
            committing.push(commit::commit(context, index, request).instrument(span.clone()));
        }
    }
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let stop = loop {
        while reading.len() < readers
            && let Some((job, _)) = jobs.pop_front()
        {
            let table = &tables[job.table];
            let parent = spans.entry(job.table).or_insert_with(|| stream(&table.id));
            let span = tracing::info_span!(parent: &*parent, "chunk", chunk = job.chunk.id);
            let read = Reading::new(context, run, load_id, table, job).run(context);
            reading.push(read.instrument(span));
        }
        if reading.is_empty() && committing.is_empty() {
            return Ok(());
        }
        let due = keeper.due();
        let event = tokio::select! {
            biased;
            () = context.shutdown.cancelled() => Event::Interrupted,
            Some(committed) = committing.next() => Event::Committed(committed),
            Some(staged) = reading.next() => Event::Staged(staged),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::SaveDue,
            _ = tick.tick() => Event::Tick,
        };
        let handled = match event {
            Event::Interrupted => Err(Stop::Interrupted),
            Event::Staged(staged) => staged.map_err(Stop::from).map(|staged| {
                let index = staged.table;
                keep(staged, &tables[index], keeper);
                if let Some(request) = ready(context, &tables[index], keeper) {
                    let span = spans.remove(&index).unwrap_or_else(Span::current);
                    committing.push(commit::commit(context, index, request).instrument(span));
                }
            }),
            Event::Committed(committed) => settle(context, committed, tables, keeper).await,
            Event::SaveDue => keeper.save().await.map_err(Stop::from),
            Event::Tick => {
                context.progress.tick();
                Ok(())
            }
        };
        if let Err(stop) = handled {
            break stop;
        }
    };
    drop(reading);
    let settled = timeout(COMMIT_GRACE, async {
        while let Some(committed) = committing.next().await {
            // The first failure is the one that is told.
            let _ = settle(context, committed, tables, keeper).await;
        }
    });
    // A commit that is cut off is found, or made, by the next run.
    let _ = settled.await;
    // A child of ours that stopped on the same Ctrl-C is no failure.
    Err(if context.shutdown.is_cancelled() { Stop::Interrupted } else { stop })
}

fn stream(id: &str) -> Span {
    tracing::info_span!("stream", stream = id)
}

/// What to read, in order, told to the display.
fn jobs(
    context: &Context<'_>,
    load: Option<&OpenLoad>,
    tables: &[TableRun],
    keeper: &StateKeeper,
) -> VecDeque<(Job, Held)> {
    let plans = load.map(|load| load.tables.as_slice()).unwrap_or_default();
    let planned = plans.iter().map(|(index, plan)| {
        let kept = tables[*index].saved(keeper).cloned().unwrap_or_default();
        let missing: Vec<_> = load::missing(plan, &kept).cloned().collect();
        let rows = kept.staged.iter().map(|chunk| chunk.rows).sum();
        context.progress.begin(*index, plan, &missing, rows);
        (*index, plan, missing)
    });
    assign::order(planned).into_iter().map(|job| (job, metrics::waiting())).collect()
}

/// The commit of a table that is fully staged and not committed.
fn ready(
    context: &Context<'_>,
    table: &TableRun,
    keeper: &StateKeeper,
) -> Option<proto::v1::CommitRequest> {
    let load = table.saved(keeper).filter(|load| {
        table.outcome.is_none() && load.is_complete() && super::resume::is_of(load, &table.settings)
    })?;
    Some(commit::request(context, table, load))
}

/// Enters a staged chunk into the state.
fn keep(staged: Staged, table: &TableRun, keeper: &mut StateKeeper) {
    let entry = keeper.change().stream_mut(&table.stream.namespace, &table.stream.name);
    if let Some(chunks) = &mut entry.state.chunks {
        let bounds = load::bounds(&staged.chunk);
        if let Some(at) = chunks.iter().position(|chunk| *chunk == bounds) {
            chunks.remove(at);
        }
    }
    if let Some(load) = &mut entry.state.load {
        load.add(&staged.staged);
        for count in staged.unrepresentable {
            *load.unrepresentable.entry(count.column).or_default() += count.values;
        }
    }
}

/// Records a commit, durably; a failed one is the sync's failure unless the
/// table can simply be read anew.
async fn settle(
    context: &Context<'_>,
    committed: Committed,
    tables: &mut [TableRun],
    keeper: &mut StateKeeper,
) -> Result<(), Stop> {
    let table = &mut tables[committed.table];
    let (namespace, name) = (&table.stream.namespace, &table.stream.name);
    let load = table.saved(keeper).cloned().unwrap_or_default();
    let answer = match committed.result {
        Ok(answer) => answer,
        Err(fault) if commit::lost_its_stage(&fault) => {
            keeper.change().remove(namespace, name);
            if table.action != Action::CommitStaged {
                return Err(Stop::from(fault));
            }
            context.progress.note(&format!(
                "{}: what an earlier sync had staged is gone ({}): reading it anew",
                table.id, fault.message
            ));
            table.action = Action::ReadAll;
            return Ok(());
        }
        Err(fault) => return Err(Stop::Failed(fault)),
    };
    let seconds = context.progress.seconds(committed.table);
    let outcome = Outcome::committed(table, &answer, load.unrepresentable, seconds);
    context.progress.table_done(committed.table, &outcome.line());
    for warning in outcome.warnings() {
        context.progress.note(&warning);
    }
    match (load.increment, load.position) {
        (Some(increment), _) => keeper.change().advance(namespace, name, &increment.position),
        (None, None) => keeper.change().finish_load(namespace, name),
        (None, Some(position)) => {
            keeper.change().reach(namespace, name, &position);
            table.position = Some(position);
            table.last_commit = answer.record;
        }
    }
    table.outcome = Some(outcome);
    Ok(keeper.save().await?)
}
