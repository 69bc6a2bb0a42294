//! What is asked of the writer for a table's changes: how they are staged, and
//! how an interval of them is committed.
//!
//! | destination | the table has | stage | commit |
//! |---|---|---|---|
//! | Iceberg | an identity | each key's last change, and the keys to delete | ROW_DELTA |
//! | Parquet | an identity | each transaction's last change of a key | APPEND |
//! | either | none, or append_mode | every change as a row | APPEND |
//! | either | the sync_mode strict_cdc | every change as a row | APPEND |
//!
//! After a TRUNCATE what is staged is all that the table holds: REPLACE. A log
//! (strict_cdc) keeps what was before. Rows of which a value is not known cannot be
//! committed: the table is loaded anew, and where that would lose what it is kept
//! for, it is demanded before that there can be none.

use std::collections::BTreeMap;

use prost::Message;
use proto::Fault;
use proto::v1::commit_request::Mode;
use proto::v1::destination::Kind as Destination;
use proto::v1::stage_request::Kind;
use proto::v1::{
    CaptureTable, CommitRequest, CommitResponse, ErrorCode, StageRequest, StagedChunk, StagedTable,
};

use super::position::Position;
use super::{Context, TableRun, Unrepresentable};
use crate::state::Run;
use crate::streams::SelectedStream;

/// What an interval staged of one table.
#[derive(Clone, Debug, Default)]
pub struct Staged {
    /// Rows, and keys to delete; none when nothing came after a TRUNCATE.
    pub chunks: Vec<StagedChunk>,
    pub load_id: String,
    /// Nothing of what the table held before is left.
    pub truncated: bool,
    /// Rows that lack a value.
    pub unresolved: u64,
    pub unrepresentable: Unrepresentable,
}

impl Staged {
    /// Takes the descriptor apart; it must be of this interval and settings.
    pub fn read(load_id: &str, settings_hash: &str, table: StagedTable) -> Result<Self, Fault> {
        let wrong = |what: String| {
            Fault::new(ErrorCode::Internal, format!("the descriptor of what was staged {what}"))
                .remedy("use services of this version")
        };
        let mut chunks = Vec::new();
        if !table.staged.is_empty() {
            let mut chunk = StagedChunk::decode(table.staged)
                .map_err(|error| wrong(format!("is malformed: {error}")))?;
            let deletes = chunk.deletes.take();
            chunks.push(chunk);
            chunks.extend(deletes.map(|deletes| *deletes));
        }
        let fits = |c: &StagedChunk| c.load_id == load_id && c.settings_hash == settings_hash;
        if !chunks.iter().all(fits) {
            return Err(wrong("is of other changes".to_owned()));
        }
        let mut unrepresentable = BTreeMap::new();
        for count in table.unrepresentable {
            *unrepresentable.entry(count.column).or_default() += count.values;
        }
        let (load_id, truncated) = (load_id.to_owned(), table.truncated);
        let unresolved = chunks.iter().map(|chunk| chunk.unresolved).sum();
        Ok(Staged { chunks, load_id, truncated, unresolved, unrepresentable })
    }

    /// Why it cannot be committed.
    pub fn lost(&self) -> Option<String> {
        if self.truncated && self.chunks.is_empty() {
            // What is to take the place of its content must be staged.
            return Some("it was truncated".to_owned());
        }
        (self.unresolved > 0).then(|| {
            format!(
                "{} rows were changed beside a large value that was left as it was, and the log \
                 does not say what it is (REPLICA IDENTITY FULL would)",
                self.unresolved
            )
        })
    }

    fn rows(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.rows).sum()
    }
}

/// Demands, of tables whose rows are a history, that every change carries its
/// whole row: what it lacks is nowhere to be found, and a load ends the history.
pub fn demand_whole_rows<'a>(
    seen: impl Iterator<Item = (&'a SelectedStream, &'a CaptureTable)>,
) -> Result<(), Fault> {
    let lacking = seen.filter(|(stream, seen)| {
        stream.append_mode && !seen.full && !seen.identity.is_empty() && !seen.toastable.is_empty()
    });
    let (mut found, mut remedies) = (Vec::new(), Vec::new());
    for (stream, seen) in lacking {
        found.push(format!("{} ({})", stream.id(), seen.toastable.join(", ")));
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let (namespace, name) = (quoted(&stream.namespace), quoted(&stream.name));
        remedies.push(format!("ALTER TABLE {namespace}.{name} REPLICA IDENTITY FULL;"));
    }
    if found.is_empty() {
        return Ok(());
    }
    let message = format!(
        "with append_mode every change must carry its whole row, and an UPDATE that leaves a large \
         value as it was does not, unless the replica identity is FULL; these tables have columns \
         that may hold such values: {}",
        found.join("; ")
    );
    let remedy = format!(
        "run at the source: {}\n  → or leave those columns out by selected_columns, or take \
         append_mode away",
        remedies.join(" ")
    );
    Err(Fault::new(ErrorCode::InvalidConfig, message).remedy(remedy))
}

/// Whether changes are told apart by their rows' identity; else each is a row of
/// its own.
fn by_identity(table: &TableRun) -> bool {
    let identity = table.seen.as_ref().is_some_and(|seen| !seen.identity.is_empty());
    identity && !table.stream.append_mode && !table.is_log()
}

/// Whether changes replace rows of the table.
fn upserts(context: &Context<'_>, table: &TableRun) -> bool {
    by_identity(table) && matches!(context.destination.kind, Some(Destination::Iceberg(_)))
}

/// How the table's changes are staged under `load_id`, to which the source
/// appends each interval's number.
pub fn stage(context: &Context<'_>, run: &Run, table: &TableRun, load_id: &str) -> StageRequest {
    StageRequest {
        destination: Some(context.destination.clone()),
        table: Some(table.stream.table.clone()),
        load_id: load_id.to_owned(),
        settings_hash: table.settings.hash.clone(),
        processed_at: run.started_at.timestamp_micros(),
        kind: if by_identity(table) { Kind::Changes } else { Kind::Data }.into(),
        row_metadata: true,
        ..Default::default()
    }
}

/// The commit that brings the table to `position`.
pub fn commit(
    context: &Context<'_>,
    table: &TableRun,
    staged: &Staged,
    position: &Position,
) -> CommitRequest {
    let replaced = staged.truncated && !table.is_log();
    let mode = match (replaced, upserts(context, table)) {
        (true, _) => Mode::Replace,
        (false, true) => Mode::RowDelta,
        (false, false) => Mode::Append,
    };
    let mut chunks = staged.chunks.clone();
    if replaced {
        // What they would delete is gone.
        chunks.retain(|chunk| chunk.kind() == Kind::Data);
    }
    CommitRequest {
        destination: Some(context.destination.clone()),
        table: Some(table.stream.table.clone()),
        commit_id: format!("{}.{:016X}", table.settings.commit_id, position.lsn.0),
        load_id: staged.load_id.clone(),
        mode: mode.into(),
        staged: chunks,
        position: shaped(table, position).to_string(),
        expected_commit_id: match &table.last_commit {
            Some(commit) => Some(commit.commit_id.clone()),
            None => table.is_log().then(String::new),
        },
    }
}

/// The position of a commit: how the table looked is known of an earlier one.
fn shaped(table: &TableRun, position: &Position) -> Position {
    let shape = table.position.as_ref().map(|known| known.shape.as_str());
    position.clone().with_shape(shape.unwrap_or_default())
}

impl TableRun {
    /// The table has been brought to `position` by a commit of changes.
    pub(super) fn changed(&mut self, staged: &Staged, answer: CommitResponse, position: &Position) {
        self.changes += staged.rows();
        self.last_commit = answer.record;
        self.position = Some(shaped(self, position));
        for (column, values) in &staged.unrepresentable {
            *self.unrepresentable.entry(column.clone()).or_default() += values;
        }
    }
}
