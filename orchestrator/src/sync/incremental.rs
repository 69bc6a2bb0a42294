//! Incremental tables: each sync adds what has come since the last one.
//!
//! ```text
//! prepare: the table's commit record ─► mark ─► OpenLoad: what is new since, or nothing
//!                                                  ▼
//!            commit on top of that very commit ◄─ chunk staged
//!            with the new mark as its position
//! ```
//!
//! The mark (the source's word for what has been read) lies with the rows that it
//! is of, in one commit, and the next commit demands to be made on that one. So a
//! mark is never older or newer than the table, whatever became of the state and
//! wherever a sync was killed: what was not committed is read again, and what was
//! is not.
//!
//! | destination | the table has | stage | commit |
//! |---|---|---|---|
//! | any, first sync | | rows | REPLACE |
//! | Iceberg | a key, no append_mode | rows, and their keys to delete | ROW_DELTA |
//! | Iceberg, Parquet | | rows | APPEND |

use proto::Fault;
use proto::v1::commit_request::Mode;
use proto::v1::destination::Kind as Destination;
use proto::v1::stage_request::Kind;
use proto::v1::{CommitRecord, ErrorCode, LoadStream, LoadTable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Context, Stop, Sync, TableRun};
use crate::load::OpenLoad;
use crate::state::{SavedIncrement, SavedLoad};
use crate::streams::SyncMode;
use crate::summary::Outcome;

/// What an incremental table holds: the position of its commits, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// As in streams.json.
    pub cursor_field: String,
    /// The largest value of each column of it, as state.json shows them.
    pub cursor: Map<String, Value>,
    /// How its rows are laid out.
    pub normalization: bool,
    /// The source's.
    pub mark: Value,
}

impl Reached {
    /// Of a table's last commit, if an incremental sync made it.
    pub fn of(record: &CommitRecord) -> Option<Self> {
        serde_json::from_str(&record.position).ok()
    }

    /// What the load brings a table to.
    fn by(table: &TableRun, plan: &LoadTable) -> Result<Self, Fault> {
        let mark = serde_json::from_str(&plan.mark).map_err(|error| {
            let what = format!("source-svc does not tell what it reads of {}: {error}", table.id);
            Fault::new(ErrorCode::Internal, what).remedy("use services of this version")
        })?;
        let value = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from);
        let cursor = plan.cursor.iter().map(|it| (it.column.clone(), value(&it.value)));
        Ok(Reached {
            cursor_field: table.stream.cursor_field.clone(),
            cursor: cursor.collect(),
            normalization: table.stream.normalization,
            mark,
        })
    }

    /// As it travels and is kept.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a document with text keys always serialises")
    }

    /// A table that was filled in another way cannot be added to.
    fn demand_same(&self, table: &TableRun) -> Result<(), Fault> {
        let stream = &table.stream;
        let (what, back) = if self.cursor_field != stream.cursor_field {
            (
                format!(
                    "{} was followed by {:?} and cannot go on by {:?}",
                    table.id, self.cursor_field, stream.cursor_field
                ),
                format!("set its cursor_field back to {:?}", self.cursor_field),
            )
        } else if self.normalization != stream.normalization {
            (
                format!(
                    "{} was filled with normalization {} and cannot go on with {}",
                    table.id, self.normalization, stream.normalization
                ),
                format!("set its normalization back to {}", self.normalization),
            )
        } else {
            return Ok(());
        };
        Err(Fault::new(ErrorCode::InvalidConfig, what).remedy(format!(
            "{back}\n  → or clear-destination for this stream, then sync: everything is read \
             anew (rows that only the destination still has are lost)"
        )))
    }
}

impl TableRun {
    /// Whether a sync adds to what the one before has read.
    pub fn is_incremental(&self) -> bool {
        self.stream.sync_mode == SyncMode::Incremental
    }

    /// What the source is asked to read.
    pub fn load_stream(&self, context: &Context<'_>) -> LoadStream {
        let mut stream = self.stream.load.clone();
        stream.followed = self.is_captured();
        if let Some(incremental) = &mut stream.incremental {
            incremental.mark =
                self.reached.as_ref().map(|it| it.mark.to_string()).unwrap_or_default();
            incremental.replaces = replaces(context, self);
        }
        stream
    }
}

/// Whether a row takes the place of an earlier one with its key.
fn replaces(context: &Context<'_>, table: &TableRun) -> bool {
    matches!(context.destination.kind, Some(Destination::Iceberg(_)))
        && !table.stream.append_mode
        && !table.stream.table.key_columns.is_empty()
}

/// How chunks of a load are staged.
pub fn kind(context: &Context<'_>, table: &TableRun) -> Kind {
    let adds = table.is_incremental() && table.reached.is_some();
    if adds && replaces(context, table) { Kind::Changes } else { Kind::Data }
}

/// How they are committed.
pub fn mode(context: &Context<'_>, table: &TableRun, load: &SavedLoad) -> Mode {
    match &load.increment {
        Some(SavedIncrement { base: Some(_), .. }) if replaces(context, table) => Mode::RowDelta,
        Some(SavedIncrement { base: Some(_), .. }) => Mode::Append,
        _ => Mode::Replace,
    }
}

/// What the state keeps of an incremental load.
pub fn saved(table: &TableRun, plan: &LoadTable) -> Result<Option<SavedIncrement>, Fault> {
    if !table.is_incremental() {
        return Ok(None);
    }
    let base = table.reached.as_ref().and(table.last_commit.as_ref());
    Ok(Some(SavedIncrement {
        position: Reached::by(table, plan)?,
        base: base.map(|commit| commit.commit_id.clone()),
    }))
}

/// Whether what is staged can still be committed on what the table holds.
pub fn fits(table: &TableRun, load: &SavedLoad) -> bool {
    let base = load.increment.as_ref().and_then(|increment| increment.base.as_deref());
    let current = table.reached.as_ref().and(table.last_commit.as_ref());
    table.is_incremental() == load.increment.is_some()
        && base == current.map(|commit| commit.commit_id.as_str())
}

impl Sync<'_> {
    /// What the incremental tables hold, by their own word.
    pub(super) fn look_at_marks(&mut self) -> Result<(), Stop> {
        for table in self.tables.iter_mut().filter(|table| table.is_incremental()) {
            let reached = table.last_commit.as_ref().and_then(Reached::of);
            if let Some(reached) = &reached {
                reached.demand_same(table)?;
            }
            if reached.is_none() && table.last_commit.is_some() {
                self.context.progress.note(&format!(
                    "{} is loaded anew: its content is not of an incremental sync",
                    table.id
                ));
            }
            table.reached = reached;
        }
        Ok(())
    }

    /// Tables of a load that have nothing new.
    pub(super) fn settle_unchanged(&mut self, load: &OpenLoad) {
        for (index, _) in load.tables.iter().filter(|(_, plan)| plan.chunks.is_empty()) {
            let table = &mut self.tables[*index];
            let outcome = Outcome::unchanged(table);
            self.context.progress.table_done(*index, &outcome.line());
            table.outcome = Some(outcome);
            if let Some(reached) = &table.reached {
                let (namespace, name) = (&table.stream.namespace, &table.stream.name);
                self.keeper.change().advance(namespace, name, reached);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_position_reads_back_as_it_is_written_and_is_no_other() {
        let reached = Reached {
            cursor_field: "a:b".into(),
            cursor: [("a".to_owned(), json!("5")), ("b".to_owned(), Value::Null)]
                .into_iter()
                .collect(),
            normalization: true,
            mark: json!({"cursor": []}),
        };
        let record = CommitRecord { position: reached.text(), ..Default::default() };
        assert_eq!(Reached::of(&record), Some(reached));
        for other in ["", "0/198C935@slot@7212345678901234567@1"] {
            let record = CommitRecord { position: other.into(), ..Default::default() };
            assert_eq!(Reached::of(&record), None);
        }
    }
}
