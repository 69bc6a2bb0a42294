//! Where a writer may write, whatever a caller asks for: `--allow`.
//!
//! A place is a directory of this machine or a prefix in a bucket. What lies
//! below one is allowed, component by component, after symbolic links; without
//! any, everything is: then the writer must not be reachable from elsewhere.

use std::convert::Infallible;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::error::WriterError;

/// A place that may be written to, and all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of this machine.
    Directory(PathBuf),
    /// "scheme://bucket" or "scheme://bucket/prefix", without a slash at the end.
    Prefix(String),
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let path = match text.strip_prefix("file:") {
            Some(path) => path.strip_prefix("//").unwrap_or(path),
            None if text.contains("://") => {
                let url = text.trim_end_matches('/');
                // What Hadoop's clients call S3.
                let s3 = ["s3a://", "s3n://"].iter().find_map(|other| url.strip_prefix(other));
                return Ok(Place::Prefix(match s3 {
                    Some(rest) => format!("s3://{rest}"),
                    None => url.to_owned(),
                }));
            }
            None => text,
        };
        Ok(Place::Directory(path.into()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Directory(path) => path.display().fmt(f),
            Place::Prefix(url) => f.write_str(url),
        }
    }
}

impl Place {
    fn holds(&self, place: &Place) -> bool {
        match (self, place) {
            (Place::Directory(allowed), Place::Directory(path)) => {
                is_plain(path) && real(path).starts_with(real(allowed))
            }
            (Place::Prefix(allowed), Place::Prefix(url)) => {
                let rest = url.strip_prefix(allowed.as_str());
                let below = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                below && !url.split('/').any(|part| part == "..")
            }
            _ => false,
        }
    }
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

/// The path without symbolic links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return real.join(rest);
        }
    }
    path.to_owned()
}

/// Demands that `place` (a path or URL) lie below one of `allowed`, if there are
/// any.
pub fn demand(allowed: &[Place], place: &str) -> Result<(), WriterError> {
    let Ok(asked) = place.parse::<Place>();
    if allowed.is_empty() || allowed.iter().any(|allowed| allowed.holds(&asked)) {
        return Ok(());
    }
    Err(WriterError::NotAllowed { place: place.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(places: &[&str], place: &str) -> bool {
        let Ok(places) = places.iter().map(|place| place.parse()).collect::<Result<Vec<_>, _>>();
        demand(&places, place).is_ok()
    }

    #[test]
    fn what_lies_below_a_place_is_allowed_and_nothing_else() {
        let places = ["/data/lake", "s3://bucket/prefix", "s3a://all/"];
        for inside in [
            "/data/lake",
            "/data/lake/db/table",
            "file:///data/lake/x",
            "s3://bucket/prefix",
            "s3://bucket/prefix/a/b",
            "s3a://bucket/prefix/a",
            "s3://all",
            "s3://all/x",
        ] {
            assert!(allowed(&places, inside), "{inside}");
        }
        for outside in [
            "/data/lakes",
            "/data",
            "/data/lake/../secrets",
            "lake",
            "s3://bucket",
            "s3://bucket/prefixes",
            "s3://bucket/prefix/../x",
            "s3://other/prefix",
            "hdfs://bucket/prefix",
            "",
        ] {
            assert!(!allowed(&places, outside), "{outside}");
        }
        assert!(allowed(&[], "/anywhere"));
    }

    #[test]
    fn a_symbolic_link_leads_nowhere_else() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(other.path(), dir.path().join("out")).unwrap();
        let place = dir.path().to_str().unwrap();
        assert!(allowed(&[place], &format!("{place}/new/table")));
        assert!(!allowed(&[place], &format!("{place}/out/table")));
    }
}
