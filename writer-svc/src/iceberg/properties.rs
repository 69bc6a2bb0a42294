//! What a table's own properties ask of those who write it.

use iceberg::spec::TableMetadata;

/// Bytes of a manifest, about: what engines plan by in one piece.
const MANIFEST_BYTES: usize = 8 << 20;
/// What a manifest may be asked to grow to: one is held in memory.
const LARGEST_MANIFEST_BYTES: usize = 64 << 20;
/// Manifests of a snapshot, about, at most.
const MANIFESTS: usize = 100;

/// Iceberg's names and defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Properties {
    /// `commit.manifest.target-size-bytes`.
    pub manifest_bytes: usize,
    /// `commit.manifest.min-count-to-merge`; none: `commit.manifest-merge.enabled`
    /// is false.
    pub merged_from: Option<usize>,
    /// `write.metadata.delete-after-commit.enabled`.
    pub deletes_metadata: bool,
}

impl Properties {
    /// Of a table; of one that is to be, the defaults. A value that cannot be
    /// read is taken for none.
    pub fn of(metadata: Option<&TableMetadata>) -> Self {
        let get = |key: &str| metadata.and_then(|metadata| metadata.properties().get(key));
        let number = |key: &str| get(key).and_then(|text| text.trim().parse::<usize>().ok());
        let is =
            |key: &str, value: &str| get(key).is_some_and(|text| text.eq_ignore_ascii_case(value));
        let bytes = number("commit.manifest.target-size-bytes").unwrap_or(MANIFEST_BYTES);
        let count = number("commit.manifest.min-count-to-merge").unwrap_or(MANIFESTS);
        Properties {
            manifest_bytes: bytes.clamp(1, LARGEST_MANIFEST_BYTES),
            merged_from: (!is("commit.manifest-merge.enabled", "false")).then_some(count.max(2)),
            deletes_metadata: is("write.metadata.delete-after-commit.enabled", "true"),
        }
    }
}
