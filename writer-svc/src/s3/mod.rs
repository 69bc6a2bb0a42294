//! A bucket of an S3 store, for every kind of destination.
//!
//! - [`settings`]: how the store is reached ([`profile`]: by whose keys;
//!   [`lent`]: for a while)
//! - [`bucket`]: whole objects, put, read, listed and removed
//! - [`upload`]: a large object on its way into the bucket
//! - [`refusal`]: what it means when the store refuses
//!
//! Invariant: an object is seen whole or not at all, and what is given up is
//! aborted; only a process that is killed leaves an upload behind.

pub mod bucket;
pub mod lent;
pub mod profile;
pub mod refusal;
pub mod settings;
pub mod upload;

use crate::Options;

pub use bucket::Bucket;
pub use lent::Lender;
pub use settings::Names;

/// What an upload may hold.
#[derive(Clone, Copy, Debug)]
pub struct Uploads {
    /// Bytes of a part.
    pub part_bytes: usize,
    /// Parts on their way at once, of one upload.
    pub parts: usize,
}

impl Uploads {
    /// A store takes no more parts of one object than this (S3: 10,000), so
    /// large files have larger ones.
    const MOST: u64 = 8_000;

    /// For files of about `file_bytes`.
    pub fn of(options: &Options, file_bytes: u64) -> Self {
        let bytes = options.upload_part_bytes.max(file_bytes / Self::MOST);
        let part_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Uploads { part_bytes, parts: options.upload_parts.into() }
    }
}

/// Bucket and key (perhaps empty) of a location; other writers use every one of
/// these schemes.
pub fn split(location: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = location.split_once("://")?;
    if !["s3", "s3a", "s3n"].contains(&scheme) {
        return None;
    }
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!bucket.is_empty() && bucket.chars().all(plain)).then_some((bucket, key))
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
