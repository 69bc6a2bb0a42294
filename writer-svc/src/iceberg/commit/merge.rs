//! Small manifests become fewer: readers open every one.
//!
//! Merged are manifests of one spec and one content, neighbours up to the
//! target size, as soon as the snapshot would have `min-count-to-merge`. The
//! files keep their sequence numbers, snapshot ids and row ids: no reader sees
//! a difference. One manifest is read and one is written at a time.

use std::collections::BTreeMap;

use iceberg::spec::ManifestFile;

use super::remains::Attempt;
use crate::error::WriterError;
use crate::iceberg::manifest::Lives;
use crate::iceberg::manifest::rolling::{Rolling, Shelf};

/// Of what would have to be merged, the part that must become less by it: else
/// every commit to a table of many full manifests would rewrite one.
const WORTHWHILE: usize = 10;

/// The same files in as many manifests or fewer.
pub fn merge(
    attempt: &Attempt,
    kept: Vec<ManifestFile>,
    shelf: &mut Shelf,
) -> Result<Vec<ManifestFile>, WriterError> {
    let Some(most) = attempt.properties.merged_from else { return Ok(kept) };
    if kept.len() + attempt.added < most {
        return Ok(kept);
    }
    let bins = bins(kept, attempt.properties.manifest_bytes);
    let vanishing: usize = bins.iter().map(|bin| bin.len() - 1).sum();
    if vanishing < (most / WORTHWHILE).max(1) {
        return Ok(bins.into_iter().flatten().collect());
    }
    let mut merged = Vec::new();
    for bin in bins {
        if bin.len() == 1 {
            merged.extend(bin);
        } else {
            merged.extend(merge_bin(attempt, &bin, shelf)?);
        }
    }
    Ok(merged)
}

/// Neighbours of one spec and content that are no larger than the target
/// together, or one that is.
fn bins(kept: Vec<ManifestFile>, target_bytes: usize) -> Vec<Vec<ManifestFile>> {
    let mut open: BTreeMap<(i32, i32), (Vec<ManifestFile>, usize)> = BTreeMap::new();
    let mut full = Vec::new();
    for listed in kept {
        let kind = (listed.partition_spec_id, listed.content as i32);
        let bytes = usize::try_from(listed.manifest_length).unwrap_or(usize::MAX);
        let (bin, size) = open.entry(kind).or_default();
        if !bin.is_empty() && size.saturating_add(bytes) > target_bytes {
            full.push(std::mem::take(bin));
            *size = 0;
        }
        bin.push(listed);
        *size = size.saturating_add(bytes);
    }
    full.extend(open.into_values().map(|(bin, _)| bin));
    full
}

fn merge_bin(
    attempt: &Attempt,
    bin: &[ManifestFile],
    shelf: &mut Shelf,
) -> Result<Vec<ManifestFile>, WriterError> {
    let mut merged: Option<Rolling> = None;
    for listed in bin {
        let content = attempt.table.object(&listed.manifest_path)?;
        let lives = Lives::of(listed, &content)?;
        let merged = merged.get_or_insert_with(|| {
            let common = attempt.draft.of_now(lives.common());
            let snapshot_id = Some(attempt.draft.snapshot_id);
            Rolling::new(common, snapshot_id, attempt.properties.manifest_bytes)
        });
        for live in lives {
            let live = live?;
            merged.push(shelf, live.file.partition(), |manifest| manifest.keep(&live))?;
        }
    }
    merged.map_or(Ok(Vec::new()), |merged| merged.finish(shelf))
}
