//! Deletes that reach no file any more: every data file is newer than they are.
//!
//! So they are where another engine has rewritten the table and left them. Who
//! reads would open them all the same, and some refuse tables that have any.

use iceberg::spec::{ManifestContentType, ManifestFile};

use super::remains::Attempt;
use crate::error::WriterError;
use crate::iceberg::manifest::Lives;
use crate::iceberg::manifest::rolling::{Rolling, Shelf};
use crate::iceberg::snapshot::Tally;

/// Manifests of a snapshot, without deletes that are spent.
#[derive(Default)]
pub struct Parted {
    /// Of files that stay.
    pub kept: Vec<ManifestFile>,
    /// Of the deletes that go.
    pub gone: Vec<ManifestFile>,
    /// These deletes.
    pub removed: Tally,
}

/// Parts them. An equality delete applies to data files of smaller sequence
/// numbers than its own, a position delete to none of a greater one.
pub fn part(
    attempt: &Attempt,
    manifests: Vec<ManifestFile>,
    shelf: &mut Shelf,
) -> Result<Parted, WriterError> {
    let is_data = |listed: &&ManifestFile| listed.content == ManifestContentType::Data;
    let numbers = manifests.iter().filter(is_data).map(|listed| listed.min_sequence_number);
    let oldest = numbers.min().unwrap_or(i64::MAX);
    let mut parted = Parted::default();
    for listed in manifests {
        if is_data(&&listed) || listed.min_sequence_number >= oldest {
            parted.kept.push(listed);
            continue;
        }
        let content = attempt.table.object(&listed.manifest_path)?;
        let lives = Lives::of(&listed, &content)?;
        let new = || {
            let common = attempt.draft.of_now(lives.common());
            let snapshot_id = Some(attempt.draft.snapshot_id);
            Rolling::new(common, snapshot_id, attempt.properties.manifest_bytes)
        };
        let (mut stay, mut go) = (new(), new());
        for live in lives {
            let live = live?;
            if live.sequence_number < oldest {
                parted.removed.add(&live.file);
                go.push(shelf, live.file.partition(), |manifest| manifest.delete(&live))?;
            } else {
                stay.push(shelf, live.file.partition(), |manifest| manifest.keep(&live))?;
            }
        }
        parted.kept.extend(stay.finish(shelf)?);
        parted.gone.extend(go.finish(shelf)?);
    }
    Ok(parted)
}
