//! What the caller certifies of tables that follow a log, kept beside them: an
//! idle table's own position does not say that the log had nothing for it.
//!
//! ```text
//! <local_path>/.tidewater/<log>.json                  a directory
//! s3://<bucket>/<path>/.tidewater/<log>.json          a bucket
//! <warehouse>/.tidewater/<log>.json                   Iceberg, in either
//! ```
//!
//! A warehouse that only the catalog knows has no such place: nothing is kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::v1::destination::Kind;
use proto::v1::{Destination, Iceberg, Parquet};

use crate::Options;
use crate::allow;
use crate::error::WriterError;
use crate::iceberg::storage::{self as objects, Storage};
use crate::s3;
use crate::storage::{self as files, PRIVATE, plain};
use crate::target;

/// Where one log's certificate is.
enum Place {
    File(PathBuf),
    Object(Arc<dyn Storage>, String),
}

/// Puts another in the place of what is kept, if there is another (an empty one
/// is none); says what is kept.
pub fn certify(
    destination: Option<&Destination>,
    log: &str,
    certificate: Option<&[u8]>,
    options: &Options,
) -> Result<Option<Vec<u8>>, WriterError> {
    plain("log", log)?;
    let Some(place) = place(target::kind(destination)?, log, options)? else { return Ok(None) };
    match certificate {
        None => place.read(),
        Some([]) => place.remove().map(|()| None),
        Some(certificate) => {
            place.write(certificate)?;
            Ok(Some(certificate.to_vec()))
        }
    }
}

/// The certificate's place, below what is allowed.
fn place(kind: &Kind, log: &str, options: &Options) -> Result<Option<Place>, WriterError> {
    let iceberg = match kind {
        Kind::Parquet(parquet) => warehouse(parquet)?,
        Kind::Iceberg(iceberg) => iceberg.clone(),
    };
    let name = format!("{PRIVATE}/{log}.json");
    if s3::split(&iceberg.warehouse).is_some() {
        let root = iceberg.warehouse.trim_end_matches('/');
        return Ok(Some(Place::Object(
            objects::open(&iceberg, options)?,
            format!("{root}/{name}"),
        )));
    }
    let Some(root) = objects::path_of(&iceberg.warehouse) else { return Ok(None) };
    let path = root.join(name);
    allow::demand(&options.allow, &path.display().to_string())?;
    Ok(Some(Place::File(path)))
}

/// What holds the databases of Parquet files, in the words of a warehouse.
fn warehouse(parquet: &Parquet) -> Result<Iceberg, WriterError> {
    let warehouse = match (parquet.bucket.as_str(), parquet.path.trim_matches('/')) {
        ("", _) => files::local_path(parquet)?.display().to_string(),
        (bucket, "") => format!("s3://{bucket}"),
        (bucket, path) => format!("s3://{bucket}/{path}"),
    };
    Ok(Iceberg { warehouse, s3: parquet.s3.clone(), ..Default::default() })
}

impl Place {
    fn read(&self) -> Result<Option<Vec<u8>>, WriterError> {
        match self {
            Place::Object(storage, location) => {
                Ok(storage.read(location)?.map(|content| content.to_vec()))
            }
            Place::File(path) => match fs::read(path) {
                Ok(content) => Ok(Some(content)),
                Err(e) if is_missing(&e) => Ok(None),
                Err(e) => Err(WriterError::io("reading", path)(e)),
            },
        }
    }

    fn write(&self, content: &[u8]) -> Result<(), WriterError> {
        match self {
            Place::Object(storage, location) => storage.write(location, content),
            Place::File(path) => {
                path.parent().map_or(Ok(()), files::create_dir_durably)?;
                files::write_durably(path, content)
            }
        }
    }

    /// One that is not there is no error; nor is a directory that others are in.
    fn remove(&self) -> Result<(), WriterError> {
        let path = match self {
            Place::Object(storage, location) => return storage.delete(location),
            Place::File(path) => path,
        };
        match fs::remove_file(path) {
            Err(e) if !is_missing(&e) => return Err(WriterError::io("removing", path)(e)),
            _ => {}
        }
        let _ = path.parent().map(fs::remove_dir);
        path.parent()
            .and_then(Path::parent)
            .filter(|root| root.exists())
            .map_or(Ok(()), files::sync_dir)
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> Destination {
        let local_path = path.display().to_string();
        let parquet = Parquet { local_path, ..Default::default() };
        Destination { kind: Some(Kind::Parquet(parquet)) }
    }

    #[test]
    fn what_is_kept_is_said_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("not/there/yet");
        let destination = at(&root);
        let options = Options::default();
        let certify = |log: &str, certificate: Option<&[u8]>| {
            certify(Some(&destination), log, certificate, &options).unwrap()
        };
        assert_eq!(certify("slot-7", None), None);
        assert_eq!(certify("slot-7", Some(b"")), None);
        for content in [b"one".as_slice(), b"another"] {
            assert_eq!(certify("slot-7", Some(content)).as_deref(), Some(content));
            assert_eq!(certify("slot-7", None).as_deref(), Some(content));
        }
        assert_eq!(certify("slot-8", None), None);
        assert_eq!(certify("slot-8", Some(b"other")).as_deref(), Some(b"other".as_slice()));
        assert_eq!(certify("slot-7", Some(b"")), None);
        assert_eq!(certify("slot-8", None).as_deref(), Some(b"other".as_slice()));
        assert_eq!(certify("slot-8", Some(b"")), None);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn it_lies_where_the_writer_may_write_and_under_a_plain_name() {
        let directory = tempfile::tempdir().unwrap();
        let destination = at(&directory.path().join("lake"));
        let allowed = directory.path().join("elsewhere").display().to_string();
        let options = Options { allow: vec![allowed.parse().unwrap()], ..Default::default() };
        assert!(certify(Some(&destination), "s", Some(b"x"), &options).is_err());
        for log in ["", ".s", "../s", "a/b"] {
            let kept = certify(Some(&destination), log, Some(b"x"), &Options::default());
            assert!(kept.is_err(), "{log}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn where_only_the_catalog_knows_a_place_nothing_is_kept() {
        for warehouse in ["", "a warehouse's name"] {
            let iceberg = Iceberg { warehouse: warehouse.into(), ..Default::default() };
            let destination = Destination { kind: Some(Kind::Iceberg(iceberg)) };
            let kept = certify(Some(&destination), "s", Some(b"x"), &Options::default());
            assert_eq!(kept.unwrap(), None);
        }
    }
}
