//! Replace: every file of the base goes.

use super::remains::{Attempt, Remains};
use crate::error::WriterError;
use crate::iceberg::manifest::rolling::{Rolling, Shelf};
use crate::iceberg::manifest::{self, Lives};

/// Rewrites every manifest of the base that may hold files, with those as
/// DELETED: who expires snapshots finds by them what to remove.
pub fn replace(attempt: &Attempt, shelf: &mut Shelf) -> Result<Remains, WriterError> {
    let mut remains = Remains::default();
    let Some(base) = attempt.base else { return Ok(remains) };
    let table = attempt.table;
    for listed in table.manifests(base)? {
        if !manifest::may_be_live(&listed) {
            continue;
        }
        let content = table.object(&listed.manifest_path)?;
        let lives = Lives::of(&listed, &content)?;
        let common = attempt.draft.of_now(lives.common());
        let snapshot_id = Some(attempt.draft.snapshot_id);
        // As it was: one for one.
        let mut gone = Rolling::new(common, snapshot_id, usize::MAX);
        for live in lives {
            let live = live?;
            remains.removed.add(&live.file);
            gone.push(shelf, live.file.partition(), |manifest| manifest.delete(&live))?;
        }
        remains.manifests.extend(gone.finish(shelf)?);
    }
    Ok(remains)
}
