//! `status`: what each stream has, how far behind it is, what is wrong and what to
//! do about it.
//!
//! ```text
//! state.json ─┐
//! discover ───┤
//! capture ────┼─► judge each stream ─► report
//! writers ────┘
//! ```
//!
//! It reads what a sync reads and changes nothing: no slot is made or moved, nothing
//! is locked, and what is staged stays. So it may be asked while a sync runs.

use std::collections::HashMap;

use futures::{StreamExt, stream};
use proto::Fault;
use proto::v1::{
    CommitRecord, DiscoverRequest, ErrorCode, OpenCaptureRequest, PrepareRequest, PrepareResponse,
    Relation, SourceCheckRequest,
};
use tokio_util::sync::CancellationToken;

use crate::cli::Flags;
use crate::config::source::UpdateMethod;
use crate::services::Services;
use crate::state::{RunStatus, State, file};
use crate::streams::{SelectedStream, SyncMode};
use crate::sync::Inputs;
use crate::sync::capture::{self, Capture};
use crate::sync::certificate;

mod judge;
mod report;

use report::{Problem, Report};

/// Tables asked about at once.
const AT_ONCE: usize = 8;

/// What was found of one stream.
struct Found<'a> {
    stream: &'a SelectedStream,
    /// None: it is not there. Absent as a whole when the source could not be asked.
    relation: Option<Option<&'a Relation>>,
    /// What change capture says of it.
    captured: Option<&'a proto::v1::CaptureTable>,
    /// It is in trouble, and the slot is held for its log.
    holds: bool,
    /// What the writer says.
    table: Result<PrepareResponse, Fault>,
}

/// Runs the command.
pub async fn run(flags: &Flags, shutdown: CancellationToken) -> Result<(), Fault> {
    let inputs = Inputs::read(flags)?;
    let state = file::read(&flags.state_path()?)?;
    let work = async {
        let services = Services::start(true, true, flags, Some(&inputs.destination)).await?;
        let report = look(&services, &inputs, &state).await;
        services.stop().await;
        Ok::<_, Fault>(report)
    };
    let stopped = || Fault::new(ErrorCode::Cancelled, "status was stopped");
    let report: Report = shutdown.run_until_cancelled(work).await.ok_or_else(stopped)??;
    report.print()?;
    report.verdict()
}

async fn look(services: &Services, inputs: &Inputs, state: &State) -> Report {
    let mut report = Report::default();
    if state.run.as_ref().is_some_and(|run| run.status == RunStatus::Running) {
        report.notes.push(
            "the last sync is not finished: it runs, or was interrupted and is continued by the \
             next"
                .to_owned(),
        );
    }
    let (relations, tables) = tokio::join!(discover(services, inputs), tables(services, inputs));
    let relations = relations.unwrap_or_else(|fault| {
        report.problems.push(Problem::of(fault.context("the source cannot be looked at")));
        None
    });
    let there = |stream: &SelectedStream| match &relations {
        Some(relations) => Some(relations.get(&stream.id())),
        None => None,
    };
    let captured: Vec<_> = inputs
        .streams
        .iter()
        .filter(|stream| matches!(stream.sync_mode, SyncMode::Cdc | SyncMode::StrictCdc))
        .collect();
    let is_any_there = captured.iter().any(|stream| there(stream).flatten().is_some());
    let commits = |stream: &SelectedStream| {
        let found = tables.get(&stream.id()).and_then(|found| found.as_ref().ok());
        found.and_then(|found| found.last_commit.clone())
    };
    let seen = match &inputs.source.update_method {
        Some(method) if is_any_there => {
            let known = captured.iter().any(|stream| is_followed(state, &commits(stream), stream));
            open(services, inputs, method, &captured, known, &mut report).await
        }
        _ => None,
    };
    let (opened, seen) = seen.unzip();
    let seen: HashMap<String, _> =
        captured.iter().map(|stream| stream.id()).zip(seen.unwrap_or_default()).collect();
    let adopted = match &opened {
        Some(capture) => recovered(services, inputs, state, capture, &mut report).await,
        None => None,
    };
    let state = adopted.as_ref().unwrap_or(state);
    let holds = |stream: &SelectedStream| {
        let trouble = seen.get(&stream.id()).and_then(|seen| seen.trouble.as_ref());
        stream.sync_mode == SyncMode::StrictCdc
            && trouble.is_some_and(|trouble| trouble.recoverable)
            && is_followed(state, &commits(stream), stream)
    };
    let held: Vec<_> = inputs.streams.iter().filter(|stream| holds(stream)).collect();
    let mut tables = tables;
    for stream in &inputs.streams {
        let none = || Err(Fault::new(ErrorCode::Internal, "no writer was asked"));
        let found = Found {
            stream,
            relation: there(stream),
            captured: seen.get(&stream.id()),
            holds: held.contains(&stream),
            table: tables.remove(&stream.id()).unwrap_or_else(none),
        };
        report.streams.push(judge::judge(found, state, opened.as_ref()));
    }
    if let (Some(capture), Some(method)) = (&opened, &inputs.source.update_method) {
        let held: Vec<_> = held.iter().map(|stream| stream.id()).collect();
        report.capture(capture, method, &held);
    }
    report
}

/// The state as the next sync makes it of what is kept beside the tables, if it is
/// behind that.
async fn recovered(
    services: &Services,
    inputs: &Inputs,
    state: &State,
    capture: &Capture,
    report: &mut Report,
) -> Option<State> {
    let log = &capture.log;
    if state.reached_in(&log.origin).is_some_and(|known| known >= log.confirmed) {
        return None;
    }
    let assigned = services.writers().take();
    let destination = &inputs.destination.destination;
    let kept = certificate::ask(assigned.writer(), destination, &log.origin, None).await;
    let kept = kept.ok()?.certificate?;
    let mut state = state.clone();
    let kept = State::parse(std::str::from_utf8(&kept).ok()?).ok()?;
    state.adopt(kept, &log.origin).then(|| {
        report.notes.push(
            "state.json is lost or old: at the next sync what is kept beside the tables takes its \
             place"
                .to_owned(),
        );
        state
    })
}

/// Whether change capture has anything to lose.
fn is_followed(state: &State, commit: &Option<CommitRecord>, stream: &SelectedStream) -> bool {
    let position = commit.as_ref().is_some_and(|commit| commit.position.contains('@'));
    position || state.certified(&stream.namespace, &stream.name).is_some()
}

/// Every relation that the source has for this role, by "schema.table".
async fn discover(
    services: &Services,
    inputs: &Inputs,
) -> Result<Option<HashMap<String, Relation>>, Fault> {
    let request = DiscoverRequest { config: Some(inputs.source.config.clone()), max_threads: 0 };
    let answer = services.source().discover(request).await?.into_inner();
    let named =
        |relation: Relation| (format!("{}.{}", relation.namespace, relation.name), relation);
    Ok(Some(answer.relations.into_iter().map(named).collect()))
}

/// What each table holds.
async fn tables(
    services: &Services,
    inputs: &Inputs,
) -> HashMap<String, Result<PrepareResponse, Fault>> {
    let asked = inputs.streams.iter().map(|stream| async move {
        let request = PrepareRequest {
            destination: Some(inputs.destination.destination.clone()),
            table: Some(stream.table.clone()),
            keep_load_ids: Vec::new(),
            columns: stream.columns.clone(),
            look: true,
        };
        let assigned = services.writers().take();
        let answer = assigned.writer().client.clone().prepare(request).await;
        (stream.id(), answer.map(tonic::Response::into_inner).map_err(Fault::from))
    });
    stream::iter(asked).buffer_unordered(AT_ONCE).collect().await
}

/// Change capture as it is; what is missing is said. `known`: it was there before.
async fn open(
    services: &Services,
    inputs: &Inputs,
    method: &UpdateMethod,
    streams: &[&SelectedStream],
    known: bool,
    report: &mut Report,
) -> Option<(Capture, Vec<proto::v1::CaptureTable>)> {
    let request = OpenCaptureRequest {
        config: Some(inputs.source.config.clone()),
        slot: method.replication_slot.clone(),
        publication: method.publication.clone(),
        streams: streams.iter().map(|stream| stream.load.clone()).collect(),
        create: false,
        heartbeat: false,
        spare_others: true,
    };
    let opened = services.source().open_capture(request).await.map_err(Fault::from);
    let opened =
        opened.and_then(|answer| capture::checked(answer.into_inner(), method, streams.len()));
    match opened {
        Ok(opened) => Some(opened),
        Err(fault) => {
            let check = SourceCheckRequest {
                config: Some(inputs.source.config.clone()),
                slot: method.replication_slot.clone(),
                publication: method.publication.clone(),
            };
            // What the first sync makes is nothing to worry about.
            match services.source().check(check).await {
                Ok(notices) if !known => report.notes.extend(notices.into_inner().notices),
                _ => report.problems.push(Problem::of(fault)),
            }
            None
        }
    }
}
