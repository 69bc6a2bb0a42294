//! Streams in trouble: a table that was dropped or renamed, may not be read any more,
//! or was taken out of the publication; a log with a hole.
//!
//! ```text
//! OpenCapture or the log says so ─► set apart ─► the others go on ─► the slot moves ─► exit code 1
//!                                       │
//!                                       └─ content and position stay; the state forgets it;
//!                                          a log that can go on later holds the slot
//! ```
//!
//! Such a stream does not hold the slot, and is not passed by it unseen: the state
//! does not certify it any more, so that, when it is well again, it is behind the
//! slot ([`super::follow`]) and loaded anew. Where the slot has not moved, its
//! position is still good, and what was done while it was not published shows in its
//! shape. A log cannot be loaded anew: its hole stays an error until it is cleared.
//! So where its table is published all the while (a privilege was revoked, say), the slot
//! waits where the log is, and the others skip what they read again; that is said, and
//! how to give the log up.
//!
//! Where no stream is left that could be followed, the slot stays where it is. A table
//! that is read without being followed keeps what it has until it can be read again.

use std::fmt::Write;

use proto::Fault;
use proto::v1::{ErrorCode, TableTrouble};
use serde::Serialize;

use super::position::Position;
use super::{Stop, Sync, TableRun, log};
use crate::load::{self, OpenLoad};
use crate::state::State;

/// What is wrong with one stream, for its user.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trouble {
    /// "schema.table".
    pub stream: String,
    pub what: String,
    /// May be empty.
    pub to_do: String,
}

impl Trouble {
    /// As the source tells it.
    pub fn told(stream: &str, trouble: &TableTrouble) -> Self {
        let (what, to_do) = (trouble.what.clone(), trouble.remedy.clone());
        Trouble { stream: stream.to_owned(), what, to_do }
    }

    /// The same, of one whose log the slot is held for.
    pub fn holding(self, slot: &str) -> Self {
        let what = format!(
            "{}; the replication slot {slot} is held where its log is, and the server keeps all \
             WAL from there on",
            self.what
        );
        let to_do = format!(
            "{}\n    → or give its log up: take the stream out of selected_streams, or \
             clear-destination for it",
            self.to_do
        );
        Trouble { what, to_do, ..self }
    }

    /// Of a fault that is this stream's alone.
    pub fn of(stream: &str, fault: Fault) -> Self {
        Trouble { stream: stream.to_owned(), what: fault.message, to_do: fault.remedy }
    }
}

/// Whether it may be of single tables as they are at the source, and does not pass.
fn is_of_tables(fault: &Fault) -> bool {
    use ErrorCode::{NotFound, Permission, SchemaChanged};
    matches!(fault.code, SchemaChanged | Permission | NotFound)
}

/// Why a sync that has done all else has failed; `None`: it has not.
pub fn verdict(troubles: &[Trouble], streams: usize) -> Option<Fault> {
    if troubles.is_empty() {
        return None;
    }
    let mut message = match troubles.len() {
        all if all == streams => "no stream is synced".to_owned(),
        some => format!("{some} of {streams} streams stay as they are; the others are synced"),
    };
    for Trouble { stream, what, to_do } in troubles {
        let _ = write!(message, "\n  - {stream}: {what}");
        if !to_do.is_empty() {
            let _ = write!(message, "\n    → {to_do}");
        }
    }
    Some(Fault::new(ErrorCode::Source, message))
}

impl Sync<'_> {
    /// Leaves a stream as it is, and says so once.
    pub(super) fn set_apart(&mut self, index: usize, trouble: Trouble) {
        let table = &mut self.tables[index];
        let Trouble { stream, what, to_do } = &trouble;
        self.context.progress.note_once(&format!(
            "warning: {stream} stays as it is, and the others go on: {what}{}{to_do}",
            if to_do.is_empty() { "" } else { "\n    → " }
        ));
        let known = table.known_log(self.keeper.state());
        let (namespace, name) = (&table.stream.namespace, &table.stream.name);
        let state = self.keeper.change();
        state.unfollow(namespace, name);
        if let Some(position) = known {
            // Of one that nothing has come for yet nothing else knows where it is.
            state.set_aside(namespace, name, position);
        }
        table.trouble = Some(trouble);
        table.holds = None;
    }

    /// The same of a stream that is well again when that is put right: if it is a log,
    /// the slot is held where it is.
    pub(super) fn set_apart_for_now(&mut self, index: usize, trouble: Trouble, slot: &str) {
        let known = self.tables[index].known_log(self.keeper.state());
        let trouble = if known.is_some() { trouble.holding(slot) } else { trouble };
        self.set_apart(index, trouble);
        self.tables[index].holds = known.map(|position| position.lsn);
    }

    /// The logs that the slot is held for.
    pub(super) fn holding(&self) -> Vec<String> {
        let held = self.tables.iter().filter(|table| table.holds.is_some());
        held.map(|table| table.id.clone()).collect()
    }

    /// Leaves the tables as they are that a load cannot read.
    pub(super) fn spare_others(&mut self, load: &OpenLoad) {
        for (index, trouble) in &load.troubles {
            self.set_apart(*index, trouble.clone());
        }
    }

    /// Whether a load has failed for what is wrong with single tables of it: they
    /// are set apart, and the others can be loaded.
    pub(super) async fn is_of_single_tables(&mut self, fault: &Fault) -> Result<bool, Stop> {
        if !is_of_tables(fault) && fault.code != ErrorCode::InvalidConfig {
            return Ok(false);
        }
        let left = |sync: &Self| sync.tables.iter().filter(|table| load::is_left(table)).count();
        let before = left(self);
        self.look_again().await?;
        if left(self) < before || self.tables.iter().all(TableRun::is_captured) {
            return Ok(left(self) < before);
        }
        // Of the others another load tells.
        match load::open(&self.context, self.capture.as_ref(), &self.tables).await {
            Ok(load) => {
                self.spare_others(&load);
                load::close(&self.context, &load.live.id).await;
            }
            // Of all that are left; there may be others that are complete, or followed.
            Err(Stop::Failed(fault)) if is_of_tables(&fault) && self.has_others() => {
                for index in 0..self.tables.len() {
                    if load::is_left(&self.tables[index]) {
                        let trouble = Trouble::of(&self.tables[index].id, fault.clone());
                        self.set_apart(index, trouble);
                    }
                }
            }
            Err(_) => {}
        }
        Ok(left(self) < before)
    }

    /// Whether there are tables that nothing is wrong with, and that are not to be
    /// loaded.
    fn has_others(&self) -> bool {
        let others = |table: &TableRun| table.trouble.is_none() && !load::is_left(table);
        self.tables.iter().any(others)
    }

    /// Change capture cannot be opened, for what is wrong with all of its tables: they
    /// stay as they are, if there are others to sync. `captured`: their indices.
    pub(super) fn spare_uncaptured(&mut self, fault: &Fault, captured: &[usize]) -> bool {
        let others = captured.len() < self.tables.len() && self.context.continuous.is_none();
        if !others || !is_of_tables(fault) {
            return false;
        }
        self.context.progress.note_once(&format!(
            "warning: what is followed stays as it is, and the others are synced: {fault}"
        ));
        for &index in captured {
            let table = &mut self.tables[index];
            // Nothing moves the slot: it is followed from there when that is put right.
            table.trouble = Some(Trouble::of(&table.id, fault.clone()));
        }
        true
    }
}

impl TableRun {
    /// Up to where its log has everything; `None`: it has not begun, or is none.
    pub(super) fn known_log(&self, state: &State) -> Option<Position> {
        let certified = state.certified(&self.stream.namespace, &self.stream.name);
        self.is_log().then(|| log::known(self.committed(), certified)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_in_trouble_is_told_with_its_remedy() {
        assert_eq!(verdict(&[], 3), None);
        let trouble = |stream: &str, to_do: &str| Trouble {
            stream: stream.into(),
            what: "it is gone".into(),
            to_do: to_do.into(),
        };
        let troubles = [trouble("public.a", "run discover"), trouble("public.b", "")];
        let told = verdict(&troubles, 2).unwrap().to_string();
        assert!(told.starts_with("no stream is synced\n  - public.a: it is gone"), "{told}");
        let told = verdict(&troubles, 3).unwrap().to_string();
        assert_eq!(
            told,
            "2 of 3 streams stay as they are; the others are synced\n  - public.a: it is gone\n    \
             → run discover\n  - public.b: it is gone"
        );
    }
}
