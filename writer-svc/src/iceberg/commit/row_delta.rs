//! Row delta: deletes for what was there before, and rows besides.
//!
//! Sequence numbers make the order: an equality delete applies to data files
//! of snapshots before its own, so the rows that come with it stay. A position
//! delete applies to the one data file that it refers to.

use super::append;
use super::remains::{Attempt, Remains};
use crate::error::WriterError;
use crate::iceberg::manifest::rolling::Shelf;
use crate::iceberg::{equality, positions};

/// Keeps the base; demands that the deletes mean in it what they were staged
/// as.
pub fn row_delta(attempt: &Attempt, shelf: &mut Shelf) -> Result<Remains, WriterError> {
    if let Some(deletes) = &attempt.staged.deletes {
        equality::check(&attempt.draft.schema, &deletes.common.schema)
            .map_err(|problem| attempt.staged.outdated(attempt.table, &problem))?;
    }
    let mut manifests = positions::place(attempt, shelf)?;
    let mut remains = append::keep_unspent(attempt, shelf)?;
    manifests.append(&mut remains.manifests);
    Ok(Remains { manifests, ..remains })
}
