//! Append: the base stays as it is.

use iceberg::spec::{ManifestFile, Snapshot};

use super::merge;
use super::remains::{Attempt, Remains};
use super::spent::{self, Parted};
use crate::error::WriterError;
use crate::iceberg::IcebergTable;
use crate::iceberg::catalog::Loaded;
use crate::iceberg::manifest::rolling::Shelf;
use crate::iceberg::manifest::{self, Lives};
use crate::iceberg::snapshot::Tally;

/// Keeps every manifest of the base that may hold files, or what they were
/// merged to.
pub fn append(attempt: &Attempt, shelf: &mut Shelf) -> Result<Remains, WriterError> {
    keep(attempt, shelf, |kept, _| Ok(Parted { kept, ..Default::default() }))
}

/// The same without deletes that are spent.
pub fn keep_unspent(attempt: &Attempt, shelf: &mut Shelf) -> Result<Remains, WriterError> {
    keep(attempt, shelf, |kept, shelf| spent::part(attempt, kept, shelf))
}

fn keep(
    attempt: &Attempt,
    shelf: &mut Shelf,
    part: impl FnOnce(Vec<ManifestFile>, &mut Shelf) -> Result<Parted, WriterError>,
) -> Result<Remains, WriterError> {
    let Some(base) = attempt.base else { return Ok(Remains::default()) };
    let Some(snapshot) = base.metadata.current_snapshot() else { return Ok(Remains::default()) };
    check_fields(attempt, base)?;
    let mut kept = attempt.table.manifests(base)?;
    kept.retain(manifest::may_be_live);
    let total = match told(snapshot) {
        Some(total) => total,
        None => counted(attempt.table, base)?,
    };
    let Parted { kept, gone, removed } = part(kept, shelf)?;
    let mut manifests = merge::merge(attempt, kept, shelf)?;
    manifests.extend(gone);
    Ok(Remains { manifests, kept: total.minus(&removed), removed })
}

/// Rows that are there keep every column, but one that the source does not have any
/// more, whose name another has now. (A type that cannot be widened to makes a column
/// anew, which only a refresh fills.)
fn check_fields(attempt: &Attempt, base: &Loaded) -> Result<(), WriterError> {
    for field in base.metadata.current_schema().as_struct().fields() {
        let stays = attempt.draft.schema.field_by_id(field.id).is_some();
        if !stays && !attempt.staged.lineage.is_gone(&base.metadata, field.id) {
            return Err(WriterError::invalid_table(
                format!(
                    "the Iceberg table {} has a column {:?} of type {}, and the stream has one of a \
                     type that cannot take its place in the rows that are there",
                    attempt.table.name, field.name, field.field_type
                ),
                "load the table anew (a full refresh)",
            ));
        }
    }
    Ok(())
}

/// What a snapshot's summary says that there is.
fn told(snapshot: &Snapshot) -> Option<Tally> {
    let summary = &snapshot.summary().additional_properties;
    let total = |of: &str| summary.get(&format!("total-{of}"))?.parse().ok();
    Some(Tally {
        data_files: total("data-files")?,
        records: total("records")?,
        delete_files: total("delete-files")?,
        position_deletes: total("position-deletes")?,
        equality_deletes: total("equality-deletes")?,
        bytes: total("files-size")?,
    })
}

/// The same where another writer has not said it.
fn counted(table: &IcebergTable, base: &Loaded) -> Result<Tally, WriterError> {
    let mut total = Tally::default();
    for listed in table.manifests(base)?.iter().filter(|listed| manifest::may_be_live(listed)) {
        let content = table.object(&listed.manifest_path)?;
        for live in Lives::of(listed, &content)? {
            total.add(&live?.file);
        }
    }
    Ok(total)
}
