//! What a commit makes of the table's content, by mode.
//!
//! | mode | manifests of the base | and |
//! |---|---|---|
//! | [`replace`] | all rewritten, their files as DELETED | |
//! | [`append`] | stay; the small ones are merged | |
//! | [`row_delta`] | the same, but for deletes that are [`spent`](super::spent) | the deletes' keys and data files are still the table's |
//!
//! What only says what was removed is told once: the next snapshot drops it.

use iceberg::spec::{ManifestFile, Operation};
use proto::v1::commit_request::Mode;

use super::{append, replace, row_delta};
use crate::error::WriterError;
use crate::iceberg::IcebergTable;
use crate::iceberg::catalog::Loaded;
use crate::iceberg::manifest::rolling::Shelf;
use crate::iceberg::properties::Properties;
use crate::iceberg::snapshot::{Draft, Tally};
use crate::iceberg::stage::Staged;

/// An attempt at a commit, as far as modes are concerned.
pub struct Attempt<'a> {
    /// The table.
    pub table: &'a IcebergTable,
    /// As it is now; absent: it is not there.
    pub base: Option<&'a Loaded>,
    /// As its own properties want it.
    pub properties: Properties,
    /// The snapshot to be.
    pub draft: &'a Draft,
    /// What it adds.
    pub staged: &'a Staged,
    /// In so many manifests.
    pub added: usize,
}

/// The base in the new snapshot.
#[derive(Debug, Default)]
pub struct Remains {
    /// Of files that stay, and of those that go.
    pub manifests: Vec<ManifestFile>,
    /// What stays.
    pub kept: Tally,
    /// What goes.
    pub removed: Tally,
}

/// What a mode leaves of the base; stores the manifests that are new.
pub fn remains(mode: Mode, attempt: &Attempt, shelf: &mut Shelf) -> Result<Remains, WriterError> {
    match mode {
        Mode::Unspecified => Err(WriterError::InvalidRequest("a commit needs a mode".into())),
        Mode::Replace => replace::replace(attempt, shelf),
        Mode::Append => append::append(attempt, shelf),
        Mode::RowDelta => row_delta::row_delta(attempt, shelf),
    }
}

/// Refuses what a mode does not take, whatever the table.
pub fn check(mode: Mode, staged: &Staged) -> Result<(), WriterError> {
    if (staged.deletes.is_some() || staged.positions.is_some()) && mode != Mode::RowDelta {
        return Err(WriterError::InvalidRequest(format!(
            "deletes are committed with {}, not with {}",
            Mode::RowDelta.as_str_name(),
            mode.as_str_name()
        )));
    }
    Ok(())
}

/// The specification's word for what a snapshot does.
pub fn operation(added: &Tally, removed: &Tally) -> Operation {
    let removes = *removed != Tally::default();
    match (added.data_files > 0, added.delete_files > 0) {
        (false, true) if !removes => Operation::Delete,
        (_, false) if !removes => Operation::Append,
        _ => Operation::Overwrite,
    }
}
