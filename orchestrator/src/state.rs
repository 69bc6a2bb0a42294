//! state.json: what a later run has to know, as a document.
//!
//! The file is a cache. The truth about a table lies with its data (the
//! writer's commit record); an old or lost state.json costs work, never rows.
//! Both of the driver's forms are read, `GLOBAL` and `STREAM`; `GLOBAL` is
//! written. Keys of ours, all optional, stand beside the documented ones:
//!
//! ```text
//! {"type": "GLOBAL",
//!  "global": {"state": {"lsn": "0/198C935",
//!                       "slot", "system_identifier", "timeline"},               ours
//!             "streams": ["public.t"]},
//!  "streams": [{"stream": "t", "namespace": "public", "sync_mode": "full_refresh",
//!               "state": {"chunks": [{"min": "'(0,0)'", "max": "'(512,0)'"}],   still to load
//!                         "load": {"id", "commit_id", "settings_hash", "chunk_count", "position",
//!                                  "increment", "staged": […],
//!                                  "unrepresentable": {…}},                     ours
//!                         "<cursor>": "value",
//!                         "position", "certified"}}],                           ours
//!  "run": {"id", "status": "running" | "finished", "started_at",
//!          "load": {"id", "snapshot", "consistent_point", "streams": […]}}}     ours
//! ```
//!
//! `global` certifies: every stream in `global.streams` holds everything that
//! change capture has to tell of it up to `global.state.lsn`. The slot is moved
//! there only after that is saved. `certified` says it of a stream that is not
//! followed for the moment, and whose log goes on.
//!
//! Keys that nobody here knows survive a rewrite.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use proto::v1::StagedChunk;
use proto::v1::stage_request::Kind as StageKind;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::streams::SyncMode;
use crate::sync::incremental::Reached;
use crate::sync::position::{Origin, Position};

pub mod certificate;
pub mod file;
pub mod keeper;

/// The whole document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// How the file was written; ours are always `GLOBAL`.
    #[serde(rename = "type", default)]
    pub kind: Kind,
    /// Position of change capture, shared by the streams it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global: Option<Global>,
    /// One entry per stream, in the order in which they were first synced.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub streams: Vec<StreamEntry>,
    /// The last run, finished or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// The two forms of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Kind {
    #[default]
    Global,
    Stream,
}

/// `global`: what change capture has reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Global {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub state: GlobalState,
    /// Streams that change capture follows and that are loaded, "schema.table".
    #[serde(default, deserialize_with = "null_is_empty")]
    pub streams: Vec<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// `global.state`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GlobalState {
    /// "0/198C935".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// Whose position it is; absent: of a full refresh, or not ours.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// One stream of `streams`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamEntry {
    pub stream: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub sync_mode: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub state: StreamState,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What is known about one stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamState {
    /// What is still to load; empty: everything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Vec<Bounds>>,
    /// What is staged and not yet committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<SavedLoad>,
    /// What change capture has last brought the table to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Of one that is not among [`Global::streams`]: up to where it has everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certified: Option<Position>,
    /// Cursor values of incremental syncs among them.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A chunk's bounds as SQL literals; null or empty: open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    #[serde(default)]
    pub min: Value,
    #[serde(default)]
    pub max: Value,
}

/// The part of a load that concerns one stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedLoad {
    pub id: String,
    /// Commit that the staged chunks are for: says the run and the settings.
    pub commit_id: String,
    /// See [`crate::sync::settings`].
    pub settings_hash: String,
    /// Chunks of the stream in this load, staged or not.
    pub chunk_count: u32,
    /// Where change capture goes on after it; absent: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Of an incremental load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub increment: Option<SavedIncrement>,
    pub staged: Vec<SavedChunk>,
    /// Values stored as null so far, by column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unrepresentable: BTreeMap<String, u64>,
}

/// What an incremental load is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedIncrement {
    /// What its commit brings the table to.
    pub position: Reached,
    /// The commit that it adds to; absent: it replaces what there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// A [`StagedChunk`] within its [`SavedLoad`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedChunk {
    pub chunk_id: u32,
    pub manifest: String,
    pub rows: u64,
    pub files: u64,
    pub bytes: u64,
    /// Keys to delete, staged with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletes: Option<Box<SavedChunk>>,
}

/// A run lasts until all its streams are committed, however often it is
/// interrupted and continued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// UUID version 7: ids order by time.
    pub id: String,
    pub status: RunStatus,
    /// `_olake_timestamp` of every row of the run; RFC 3339 in the file.
    #[serde(with = "rfc3339")]
    pub started_at: DateTime<Utc>,
    /// The load that may still live at the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<LiveLoad>,
}

/// Whether anything of a run is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    Running,
    Finished,
}

/// What it takes to ask the source for the load again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveLoad {
    pub id: String,
    pub snapshot: String,
    pub consistent_point: String,
    /// "schema.table", in the order in which the load was opened.
    pub streams: Vec<String>,
}

/// The text is not a state.json.
#[derive(Debug, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct ParseError {
    pub line: usize,
    pub column: usize,
    pub what: String,
}

impl State {
    /// Reads either form; a blank text is an empty state.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.trim().is_empty() {
            return Ok(State::default());
        }
        serde_json::from_str(text).map_err(|error| {
            let full = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            let what = full.strip_suffix(&place).unwrap_or(&full).to_owned();
            ParseError { line: error.line(), column: error.column(), what }
        })
    }

    /// As it stands in the file, in the `GLOBAL` form.
    pub fn to_text(&self) -> String {
        let mut state = self.clone();
        state.kind = Kind::Global;
        state.global.get_or_insert_default();
        let mut text = serde_json::to_string_pretty(&state)
            .expect("a document with text keys always serialises");
        text.push('\n');
        text
    }

    /// The stream's entry, if there is one.
    pub fn stream(&self, namespace: &str, name: &str) -> Option<&StreamEntry> {
        self.streams.iter().find(|s| s.namespace == namespace && s.stream == name)
    }

    /// The stream's entry, made when it is missing.
    pub fn stream_mut(&mut self, namespace: &str, name: &str) -> &mut StreamEntry {
        let at = self.streams.iter().position(|s| s.namespace == namespace && s.stream == name);
        let at = at.unwrap_or_else(|| {
            self.streams.push(StreamEntry {
                stream: name.to_owned(),
                namespace: namespace.to_owned(),
                ..Default::default()
            });
            self.streams.len() - 1
        });
        &mut self.streams[at]
    }

    /// A load takes the stream over: nothing that change capture or a cursor
    /// knew about it holds any more.
    pub fn begin_load(&mut self, namespace: &str, name: &str, mode: SyncMode, load: SavedLoad) {
        self.unfollow(namespace, name);
        let adds = load.increment.as_ref().is_some_and(|increment| increment.base.is_some());
        let entry = self.stream_mut(namespace, name);
        entry.sync_mode = mode.as_str().to_owned();
        // What a cursor has reached holds until it is moved.
        let rest = if adds { std::mem::take(&mut entry.state.rest) } else { Map::new() };
        entry.state = StreamState { load: Some(load), rest, ..Default::default() };
    }

    /// The stream's content is committed, by a full refresh.
    pub fn finish_load(&mut self, namespace: &str, name: &str) {
        self.unfollow(namespace, name);
        let entry = self.stream_mut(namespace, name);
        entry.sync_mode = SyncMode::FullRefresh.as_str().to_owned();
        entry.state = StreamState { chunks: Some(Vec::new()), ..Default::default() };
    }

    /// An incremental sync has brought the stream's table so far.
    pub fn advance(&mut self, namespace: &str, name: &str, reached: &Reached) {
        self.unfollow(namespace, name);
        let entry = self.stream_mut(namespace, name);
        entry.sync_mode = SyncMode::Incremental.as_str().to_owned();
        let mut rest = reached.cursor.clone();
        // Columns of these names would be taken for them.
        ["chunks", "load", "position", "certified"].iter().for_each(|key| {
            rest.shift_remove(*key);
        });
        entry.state = StreamState { chunks: Some(Vec::new()), rest, ..Default::default() };
    }

    /// Change capture has brought the stream's table to `position`, by a load
    /// or by changes, and follows it from there.
    pub fn reach(&mut self, namespace: &str, name: &str, position: &Position) {
        let entry = self.stream_mut(namespace, name);
        if entry.sync_mode != SyncMode::StrictCdc.as_str() {
            entry.sync_mode = SyncMode::Cdc.as_str().to_owned();
        }
        entry.state = StreamState {
            chunks: Some(Vec::new()),
            position: Some(position.clone()),
            ..Default::default()
        };
        let id = format!("{namespace}.{name}");
        let streams = &mut self.global.get_or_insert_default().streams;
        if !streams.contains(&id) {
            streams.push(id);
        }
    }

    /// Every stream that is followed has everything up to `position`.
    pub fn certify(&mut self, position: &Position) {
        let state = &mut self.global.get_or_insert_default().state;
        state.lsn = Some(position.lsn.to_string());
        state.origin = Some(position.origin.clone());
    }

    /// Only `streams` ("schema.table") are followed from now on, and have
    /// everything up to `position`.
    pub fn follow(&mut self, position: &Position, streams: Vec<String>) {
        self.certify(position);
        for entry in self.streams.iter_mut().filter(|entry| streams.contains(&entry.id())) {
            entry.state.certified = None;
        }
        self.global.get_or_insert_default().streams = streams;
    }

    /// Up to where the stream is known to have everything.
    pub fn certified(&self, namespace: &str, name: &str) -> Option<Position> {
        let global = self.global.as_ref()?;
        if !global.streams.contains(&format!("{namespace}.{name}")) {
            return self.stream(namespace, name)?.state.certified.clone();
        }
        let lsn = global.state.lsn.as_ref()?.parse().ok()?;
        Some(Position { lsn, origin: global.state.origin.clone()?, shape: String::new() })
    }

    /// A log is not followed for the moment, and has everything up to `position`.
    pub fn set_aside(&mut self, namespace: &str, name: &str, position: Position) {
        let entry = self.stream_mut(namespace, name);
        entry.sync_mode = SyncMode::StrictCdc.as_str().to_owned();
        entry.state.certified = Some(position);
        self.unfollow(namespace, name);
    }

    /// Forgets the stream; whether it was known.
    pub fn remove(&mut self, namespace: &str, name: &str) -> bool {
        let before = self.streams.len();
        self.streams.retain(|s| s.namespace != namespace || s.stream != name);
        self.unfollow(namespace, name) || self.streams.len() < before
    }

    /// `global.state.lsn`, unless it is the position of change capture for
    /// streams that a full refresh does not touch.
    pub fn set_consistent_point(&mut self, lsn: &str) {
        let global = self.global.get_or_insert_default();
        if global.streams.is_empty() && global.state.origin.is_none() {
            global.state.lsn = Some(lsn.to_owned());
        }
    }

    /// The stream cannot be followed any further; whether it was.
    pub fn unfollow(&mut self, namespace: &str, name: &str) -> bool {
        let Some(global) = &mut self.global else { return false };
        let before = global.streams.len();
        let id = format!("{namespace}.{name}");
        global.streams.retain(|stream| *stream != id);
        global.streams.len() < before
    }
}

impl SavedLoad {
    /// Whether nothing is left to read.
    pub fn is_complete(&self) -> bool {
        self.chunk_count > 0 && self.staged.len() == self.chunk_count as usize
    }

    /// The descriptors for a commit, by chunk.
    pub fn descriptors(&self) -> Vec<StagedChunk> {
        let mut staged: Vec<_> = self.staged.iter().map(|chunk| self.descriptor(chunk)).collect();
        staged.sort_by_key(|chunk| chunk.chunk_id);
        let deletes = self.staged.iter().filter_map(|chunk| chunk.deletes.as_deref());
        staged.extend(deletes.map(|deletes| StagedChunk {
            kind: StageKind::EqualityDeletes.into(),
            ..self.descriptor(deletes)
        }));
        staged
    }

    /// Takes a chunk in, once.
    pub fn add(&mut self, chunk: &StagedChunk) {
        if self.staged.iter().all(|known| known.chunk_id != chunk.chunk_id) {
            self.staged.push(SavedChunk::of(chunk));
        }
    }

    fn descriptor(&self, chunk: &SavedChunk) -> StagedChunk {
        StagedChunk {
            load_id: self.id.clone(),
            chunk_id: chunk.chunk_id,
            settings_hash: self.settings_hash.clone(),
            manifest: chunk.manifest.clone(),
            rows: chunk.rows,
            files: chunk.files,
            bytes: chunk.bytes,
            ..Default::default()
        }
    }
}

impl SavedChunk {
    fn of(chunk: &StagedChunk) -> Self {
        SavedChunk {
            chunk_id: chunk.chunk_id,
            manifest: chunk.manifest.clone(),
            rows: chunk.rows,
            files: chunk.files,
            bytes: chunk.bytes,
            deletes: chunk.deletes.as_deref().map(|deletes| Box::new(SavedChunk::of(deletes))),
        }
    }
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Times as text, to the microsecond.
mod rfc3339 {
    use chrono::{DateTime, SecondsFormat, Utc};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        time: &DateTime<Utc>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<DateTime<Utc>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = DateTime::parse_from_rfc3339(&text)
            .map_err(|e| D::Error::custom(format_args!("{text:?} is no RFC 3339 time: {e}")))?;
        Ok(time.to_utc())
    }
}

#[cfg(test)]
mod tests;
