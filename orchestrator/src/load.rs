//! The load: one snapshot under which all chunks of a run are read. Opened,
//! continued, remembered in the state, closed.

use std::time::Duration;

use proto::Fault;
use proto::lsn::Lsn;
use proto::v1::{CloseLoadRequest, ErrorCode, LoadTable, OpenLoadRequest, OpenLoadResponse};
use serde_json::Value;

use crate::state::keeper::StateKeeper;
use crate::state::{Bounds, LiveLoad, SavedLoad};
use crate::sync::capture::Capture;
use crate::sync::resume::{self, Action};
use crate::sync::trouble::Trouble;
use crate::sync::{Context, Stop, TableRun, incremental};

/// How long a source service may take to close a load before it is left to
/// close it by itself.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A load that lives.
pub struct OpenLoad {
    /// What the state remembers of it.
    pub live: LiveLoad,
    /// The tables to read, each with its index in the run.
    pub tables: Vec<(usize, LoadTable)>,
    /// Those that cannot be read.
    pub troubles: Vec<(usize, Trouble)>,
}

/// Opens a load for every table that has to be read.
pub async fn open(
    context: &Context<'_>,
    capture: Option<&Capture>,
    tables: &[TableRun],
) -> Result<OpenLoad, Stop> {
    let wanted: Vec<_> = (0..tables.len()).filter(|&at| is_left(&tables[at])).collect();
    request(context, capture, tables, &wanted, String::new()).await
}

/// Asks for the load of an interrupted run. `None`: it is gone, or does not
/// cover what is left, and then is closed.
pub async fn resume(
    context: &Context<'_>,
    live: &LiveLoad,
    capture: Option<&Capture>,
    tables: &[TableRun],
    keeper: &StateKeeper,
) -> Result<Option<OpenLoad>, Stop> {
    let at = |id: &String| tables.iter().position(|table| table.id == *id);
    let opened: Option<Vec<_>> = live.streams.iter().map(at).collect();
    let Some(opened) = opened.filter(|opened| covers(opened, live, tables, keeper)) else {
        close(context, &live.id).await;
        return Ok(None);
    };
    let mut load = match request(context, capture, tables, &opened, live.id.clone()).await {
        Ok(load) => load,
        Err(Stop::LoadGone(_)) => return Ok(None),
        Err(stop) => return Err(stop),
    };
    load.tables.retain(|(index, _)| is_left(&tables[*index]));
    for (index, plan) in &load.tables {
        let saved = tables[*index].saved(keeper);
        if saved.is_some_and(|saved| saved.chunk_count as usize != plan.chunks.len()) {
            close(context, &live.id).await;
            return Ok(None);
        }
    }
    Ok(Some(load))
}

/// Whether everything that is left was part of the load, under the same
/// settings.
fn covers(opened: &[usize], live: &LiveLoad, tables: &[TableRun], keeper: &StateKeeper) -> bool {
    (0..tables.len()).filter(|&at| is_left(&tables[at])).all(|at| {
        let same =
            |saved: &SavedLoad| saved.id == live.id && resume::is_of(saved, &tables[at].settings);
        opened.contains(&at) && tables[at].saved(keeper).is_some_and(same)
    })
}

/// Whether a table has to be read, in full or in part.
pub fn is_left(table: &TableRun) -> bool {
    table.outcome.is_none()
        && table.trouble.is_none()
        && !table.is_loaded_beside
        && !table.is_given_up
        && matches!(table.action, Action::ReadAll | Action::ReadMissing)
}

async fn request(
    context: &Context<'_>,
    capture: Option<&Capture>,
    tables: &[TableRun],
    wanted: &[usize],
    resume_load_id: String,
) -> Result<OpenLoad, Stop> {
    let handed_off = wanted.iter().any(|&at| tables[at].is_captured());
    let slot = context.update_method.filter(|_| handed_off);
    let request = OpenLoadRequest {
        config: Some(context.source_config.clone()),
        streams: wanted.iter().map(|&at| tables[at].load_stream(context)).collect(),
        resume_load_id,
        slot: slot.map(|method| method.replication_slot.clone()).unwrap_or_default(),
        publication: capture.filter(|_| handed_off).map(|capture| capture.publication.clone()),
        spare_others: true,
    };
    let mut source = context.source.clone();
    let answer = context.cancellable(source.open_load(request)).await?;
    let answer = answer.map_err(Fault::from)?.into_inner();
    for notice in &answer.notices {
        context.progress.note(&format!("note: {notice}"));
    }
    Ok(checked(answer, tables, wanted)?)
}

/// The answer must be about what was asked, table by table.
fn checked(
    answer: OpenLoadResponse,
    tables: &[TableRun],
    wanted: &[usize],
) -> Result<OpenLoad, Fault> {
    let matches = answer.tables.len() == wanted.len()
        && answer.tables.iter().zip(wanted).all(|(plan, &at)| {
            let stream = &tables[at].stream;
            plan.namespace == stream.namespace
                && plan.name == stream.name
                && (tables[at].reached.is_some()
                    || !plan.chunks.is_empty()
                    || plan.trouble.is_some())
        });
    if !matches || answer.load_id.is_empty() {
        return Err(Fault::new(
            ErrorCode::Internal,
            "source-svc's plan of the load does not fit the streams that were asked for",
        )
        .remedy("use services of this version"));
    }
    let live = LiveLoad {
        id: answer.load_id,
        snapshot: answer.snapshot,
        consistent_point: answer.consistent_point,
        streams: wanted.iter().map(|&at| tables[at].id.clone()).collect(),
    };
    let (mut read, mut troubles) = (Vec::new(), Vec::new());
    for (at, plan) in wanted.iter().copied().zip(answer.tables) {
        match &plan.trouble {
            Some(trouble) => troubles.push((at, Trouble::told(&tables[at].id, trouble))),
            None => read.push((at, plan)),
        }
    }
    Ok(OpenLoad { live, tables: read, troubles })
}

/// Puts the load into the state: what it stages is kept from now on. What a
/// table has staged under this load already stays.
pub fn remember(
    load: &OpenLoad,
    tables: &[TableRun],
    capture: Option<&Capture>,
    keeper: &mut StateKeeper,
) -> Result<(), Fault> {
    let consistent_point = consistent_point(load)?;
    let handed_off = capture.map(|capture| capture.at(consistent_point));
    let state = keeper.change();
    state.set_consistent_point(&load.live.consistent_point);
    if let Some(run) = &mut state.run {
        run.load = Some(load.live.clone());
    }
    for (index, plan) in load.tables.iter().filter(|(_, plan)| !plan.chunks.is_empty()) {
        let (table, stream) = (&tables[*index], &tables[*index].stream);
        let known = state.stream(&stream.namespace, &stream.name);
        let known = known.and_then(|entry| entry.state.load.clone());
        let known =
            known.filter(|saved| saved.id == load.live.id && resume::is_of(saved, &table.settings));
        let saved = match known {
            Some(saved) => saved,
            None => SavedLoad {
                id: load.live.id.clone(),
                commit_id: commit_id(table, &load.live.id),
                position: handed_off
                    .clone()
                    .filter(|_| table.is_captured())
                    .map(|position| position.with_shape(&plan.shape)),
                increment: incremental::saved(table, plan)?,
                settings_hash: table.settings.hash.clone(),
                chunk_count: plan.chunks.len() as u32,
                ..Default::default()
            },
        };
        let adds = saved.increment.as_ref().is_some_and(|increment| increment.base.is_some());
        let missing = match adds {
            // Everything is loaded; this comes on top.
            true => Vec::new(),
            false => missing(plan, &saved).map(bounds).collect(),
        };
        state.begin_load(&stream.namespace, &stream.name, stream.sync_mode, saved);
        state.stream_mut(&stream.namespace, &stream.name).state.chunks = Some(missing);
    }
    Ok(())
}

/// Where in the log a load is.
pub fn consistent_point(load: &OpenLoad) -> Result<Lsn, Fault> {
    load.live.consistent_point.parse().map_err(|error| {
        Fault::new(ErrorCode::Internal, format!("source-svc says where a load is: {error}"))
    })
}

/// The commit that a table's chunks are for. One that is followed may be loaded
/// several times in a run.
fn commit_id(table: &TableRun, load_id: &str) -> String {
    match table.is_captured() {
        true => format!("{}.{load_id}", table.settings.commit_id),
        false => table.settings.commit_id.clone(),
    }
}

/// The chunks of a table that are not staged.
pub fn missing<'p>(
    plan: &'p LoadTable,
    saved: &SavedLoad,
) -> impl Iterator<Item = &'p proto::v1::Chunk> {
    let staged: std::collections::HashSet<_> =
        saved.staged.iter().map(|chunk| chunk.chunk_id).collect();
    plan.chunks.iter().filter(move |chunk| !staged.contains(&chunk.id))
}

/// A chunk as state.json shows it.
pub fn bounds(chunk: &proto::v1::Chunk) -> Bounds {
    let bound = |text: &String| match text.as_str() {
        "" => Value::Null,
        text => Value::from(text),
    };
    Bounds { min: bound(&chunk.min), max: bound(&chunk.max) }
}

/// Takes a load that is closed out of the state. Chunks that it has staged of
/// unfinished tables will not be used: no later load may add to them.
pub fn forget(keeper: &mut StateKeeper) {
    if let Some(run) = &mut keeper.change().run {
        run.load = None;
    }
}

/// Lets go of a load. It closes by itself in the end: a failure is no one's.
pub async fn close(context: &Context<'_>, load_id: &str) {
    let mut source = context.source.clone();
    let request = CloseLoadRequest { load_id: load_id.to_owned() };
    match tokio::time::timeout(CLOSE_WAIT, source.close_load(request)).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => tracing::info!("closing load {load_id}: {}", status.message()),
        Err(_) => tracing::info!("closing load {load_id}: no answer in {CLOSE_WAIT:?}"),
    }
}
