//! Streams in trouble: a captured table that was dropped or renamed, may not be
//! read any more, or was taken out of the publication; a log with a hole.
//!
//! ```text
//! OpenCapture or the log says so ─► set apart ─► the others go on ─► the slot moves ─► exit code 1
//!                                       │
//!                                       └─ content and position stay; the state forgets it
//! ```
//!
//! Such a stream does not hold the slot, and is not passed by it unseen: the state
//! does not certify it any more, so that, when it is well again, it is behind the
//! slot ([`super::follow`]) and loaded anew. Where the slot has not moved, its
//! position is still good, and what was done while it was not published shows in its
//! shape. A log cannot be loaded anew: its hole stays an error until it is cleared.
//!
//! Where no stream is left that could be followed, the slot stays where it is.

use std::fmt::Write;

use proto::Fault;
use proto::v1::{ErrorCode, TableTrouble};
use serde::Serialize;

use super::{Stop, Sync};
use crate::load;

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

    /// Of a fault that is this stream's alone.
    pub fn of(stream: &str, fault: Fault) -> Self {
        Trouble { stream: stream.to_owned(), what: fault.message, to_do: fault.remedy }
    }
}

/// Why a sync that has done all else has failed; `None`: it has not.
pub fn verdict(troubles: &[Trouble], streams: usize) -> Option<Fault> {
    if troubles.is_empty() {
        return None;
    }
    let mut message =
        format!("{} of {streams} streams stay as they are; the others are synced", troubles.len());
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
            if to_do.is_empty() { "" } else { "\n  → " }
        ));
        self.keeper.change().unfollow(&table.stream.namespace, &table.stream.name);
        table.trouble = Some(trouble);
    }

    /// Whether a load has failed for what is wrong with single tables of it: they
    /// are set apart, and the others can be loaded.
    pub(super) async fn is_of_single_tables(&mut self, fault: &Fault) -> Result<bool, Stop> {
        use ErrorCode::{InvalidConfig, NotFound, Permission, SchemaChanged};
        if !matches!(fault.code, SchemaChanged | Permission | NotFound | InvalidConfig) {
            return Ok(false);
        }
        let left = |sync: &Self| sync.tables.iter().filter(|table| load::is_left(table)).count();
        let before = left(self);
        self.look_again().await?;
        Ok(left(self) < before)
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
        let told = verdict(&troubles, 3).unwrap().to_string();
        assert_eq!(
            told,
            "2 of 3 streams stay as they are; the others are synced\n  - public.a: it is gone\n    \
             → run discover\n  - public.b: it is gone"
        );
    }
}
