//! Beginning again where columns have changed since they were looked at.
//!
//! ```text
//! columns A ─► window ─► look: A ─► staged ─► window ─► look: B ─► discarded
//!                                                                    │ all staged is confirmed
//! columns B ─► window … from where it was staged ◄───────────────────┘
//! ```
//!
//! What was read by columns that a table no longer has may be wrong, however well its
//! messages seemed to fit, and what did not seem to fit may. So none of that window is
//! staged, and the log is read once more from there by the columns of now. Before that
//! everything staged is committed: a writer plans by what a table has.

use proto::lsn::Lsn;
use proto::v1;

use super::Reader;
use crate::error::SourceError;

/// Beginnings without an interval in between; then what changes is lost.
const FRUITLESS: u32 = 3;

/// What there is before a reader begins.
pub(super) struct Begun {
    /// Everything that ends at or before it.
    pub(super) staged: Lsn,
    /// Of the next interval.
    pub(super) number: u64,
    /// Whether there was any change.
    pub(super) any: bool,
    /// Times that it began.
    times: u32,
    /// Those since an interval was staged.
    fruitless: u32,
}

impl Default for Begun {
    fn default() -> Self {
        Begun { staged: Lsn(0), number: 1, any: false, times: 0, fruitless: 0 }
    }
}

impl Begun {
    pub(super) fn is_first(&self) -> bool {
        self.times == 0
    }

    /// Whether it may not begin once more.
    pub(super) fn is_last(&self) -> bool {
        self.fruitless >= FRUITLESS
    }
}

impl Reader<'_> {
    /// Gives up what is not staged; `request` is what is left to do.
    pub(super) async fn begin_again(
        mut self,
        begun: Begun,
        request: &mut v1::ReplicateRequest,
    ) -> Result<Begun, SourceError> {
        tracing::info!(staged = %self.staged, "columns have changed: reading on by those of now");
        self.in_flight.none().await?;
        let staged = self.staged;
        let goes_on = |table: &v1::ReplicateTable| {
            let key = table.stream.as_ref().map(|stream| (&stream.namespace, &stream.name));
            let is = |relation: &crate::relation::RelationInfo| {
                key == Some((&relation.namespace, &relation.name))
            };
            self.tables.iter().any(|it| !it.lost && is(&it.table.stream.relation))
        };
        request.tables.retain(goes_on);
        for table in &mut request.tables {
            let position = table.position.parse().unwrap_or(Lsn(0));
            table.position = staged.max(position).to_string();
        }
        let fruitless = if self.number > begun.number { 0 } else { begun.fruitless + 1 };
        let times = begun.times + 1;
        Ok(Begun { staged, number: self.number, any: self.any, times, fruitless })
    }
}
