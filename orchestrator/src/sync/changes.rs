//! What is asked of the writer for a table's changes: how they are staged, and
//! how an interval of them is committed.
//!
//! | destination | the table has | stage | commit |
//! |---|---|---|---|
//! | Iceberg | an identity | each key's last change, and the keys to delete | ROW_DELTA |
//! | Iceberg | none, and old rows are whole | how many of each row are more or fewer | ROW_DELTA |
//! | Parquet | an identity | each transaction's last change of a key | APPEND |
//! | either | none, or append_mode | every change as a row | APPEND |
//! | either | the sync_mode strict_cdc | every change as a row | APPEND |
//!
//! What an upsert does not say is completed by the table's own rows, after the
//! commit before: values that an UPDATE left as they were, the last ones of rows
//! that are kept as deleted, places of rows without a key.
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
    CaptureTable, CommitRequest, CommitResponse, CompleteRequest, CompleteResponse, ErrorCode,
    StageRequest, StagedChunk, StagedTable,
};

use super::position::Position;
use super::retry::Retry;
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
    /// Changes of rows whose key no type of the destination can hold.
    pub unknown_keys: u64,
    /// To be completed.
    pub pending: Option<StagedChunk>,
    pub unrepresentable: Unrepresentable,
}

impl Staged {
    /// Takes the descriptor apart; it must be of this interval and settings.
    pub fn read(load_id: &str, settings_hash: &str, table: StagedTable) -> Result<Self, Fault> {
        let wrong = |what: String| {
            Fault::new(ErrorCode::Internal, format!("the descriptor of what was staged {what}"))
                .remedy("use services of this version")
        };
        let (mut chunks, mut pending) = (Vec::new(), None);
        if !table.staged.is_empty() {
            let mut chunk = StagedChunk::decode(table.staged)
                .map_err(|error| wrong(format!("is malformed: {error}")))?;
            let deletes = chunk.deletes.take();
            pending = chunk.pending.take().map(|pending| *pending);
            chunks.push(chunk);
            chunks.extend(deletes.map(|deletes| *deletes));
        }
        let fits = |c: &StagedChunk| c.load_id == load_id && c.settings_hash == settings_hash;
        if !chunks.iter().chain(&pending).all(fits) {
            return Err(wrong("is of other changes".to_owned()));
        }
        let mut unrepresentable = BTreeMap::new();
        for count in table.unrepresentable {
            *unrepresentable.entry(count.column).or_default() += count.values;
        }
        let (load_id, truncated) = (load_id.to_owned(), table.truncated);
        let unresolved = chunks.iter().map(|chunk| chunk.unresolved).sum();
        let unknown_keys = chunks.iter().map(|chunk| chunk.unknown_keys).sum();
        Ok(Staged {
            chunks,
            load_id,
            truncated,
            unresolved,
            unknown_keys,
            pending,
            unrepresentable,
        })
    }

    /// Why it cannot be committed.
    pub fn lost(&self) -> Option<String> {
        if self.truncated && self.chunks.is_empty() {
            // What is to take the place of its content must be staged.
            return Some("it was truncated".to_owned());
        }
        if self.unknown_keys > 0 {
            return Some(format!(
                "{} changes are of rows whose key has a value that no type of the destination can \
                 hold (infinity, a date out of range)",
                self.unknown_keys
            ));
        }
        let unknown = match (self.truncated, &self.pending) {
            // Nothing of what was there is left to ask.
            (true, Some(pending)) => self.unresolved + pending.rows,
            _ => self.unresolved,
        };
        (unknown > 0).then(|| {
            format!(
                "{unknown} rows were changed beside a large value that was left as it was, and the log \
                 does not say what it is (REPLICA IDENTITY FULL would)"
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

/// Whether changes come to less than each of them as a row.
fn reduces(context: &Context<'_>, table: &TableRun) -> bool {
    let seen = table.seen.as_ref();
    let identity = seen.is_some_and(|seen| !seen.identity.is_empty());
    let whole = seen.is_some_and(|seen| seen.full) && deletes(context);
    (identity || whole) && !table.stream.append_mode && !table.is_log()
}

/// Whether changes replace rows of the table.
fn upserts(context: &Context<'_>, table: &TableRun) -> bool {
    reduces(context, table) && deletes(context)
}

/// Whether rows can be deleted from the destination's tables.
fn deletes(context: &Context<'_>) -> bool {
    matches!(context.destination.kind, Some(Destination::Iceberg(_)))
}

/// Whether the table knows which column is which, whatever their names are.
pub fn knows_columns(context: &Context<'_>, table: &TableRun) -> bool {
    deletes(context) && table.stream.table.normalization
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
        kind: if reduces(context, table) { Kind::Changes } else { Kind::Data }.into(),
        row_metadata: true,
        ..Default::default()
    }
}

/// What is to be completed before the commit, by the table as it is.
pub fn completion(
    context: &Context<'_>,
    run: &Run,
    table: &TableRun,
    staged: &Staged,
) -> Option<CompleteRequest> {
    let pending = staged.pending.clone()?;
    let commit = table.last_commit.as_ref();
    Some(CompleteRequest {
        stage: Some(stage(context, run, table, &staged.load_id)),
        pending: Some(pending),
        expected_commit_id: commit.map(|commit| commit.commit_id.clone()).unwrap_or_default(),
    })
}

/// Has it completed, trying again after transient failures.
pub async fn complete(
    context: &Context<'_>,
    request: CompleteRequest,
) -> Result<CompleteResponse, Fault> {
    let stage = request.stage.as_ref();
    let stream = stage.and_then(|stage| stage.table.as_ref()).map(|table| table.stream.clone());
    let what = format!("completing the changes of {}", stream.unwrap_or_default());
    let mut retry = Retry::new(context.source_config.retry_count);
    loop {
        let assigned = context.writers.take();
        let mut client = assigned.writer().client.clone();
        match client.complete(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => {
                assigned.failed();
                let say = |line: &str| context.progress.note(line);
                retry.again(&what, Fault::from(status), say).await?;
            }
        }
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
