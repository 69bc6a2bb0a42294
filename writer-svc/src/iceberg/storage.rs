//! Where the objects of tables lie: `file:///…` or `s3://bucket/…`.
//!
//! Locations are URLs. An object is whole and durable as soon as it is seen;
//! directories exist only as far as objects lie in them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proto::v1::Iceberg;

use super::guarded::guarded;
use crate::Options;
use crate::error::WriterError;
use crate::s3::bucket::Below;
use crate::s3::{self, Bucket, Names, Uploads};
use crate::stage::Sink;
use crate::storage as files;
use crate::target::file_bytes;

/// How often a directory may vanish before a file is in it.
const RACES: usize = 100;

/// A store of objects. Everything blocks.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The whole of an object; `None`: it is not there.
    fn read(&self, location: &str) -> Result<Option<Bytes>, WriterError>;

    /// Bytes of an object, as many as there are in the range; `None`: it is not
    /// there.
    fn read_range(&self, location: &str, range: Range<u64>) -> Result<Option<Bytes>, WriterError>;

    /// Makes a whole object, or none.
    fn write(&self, location: &str, content: &[u8]) -> Result<(), WriterError>;

    /// Begins a large object under a name that nobody else uses.
    fn create(&self, location: &str) -> Result<Box<dyn Sink>, WriterError>;

    /// What lies in a directory; nothing when there is none.
    fn list(&self, directory: &str) -> Result<Below, WriterError>;

    /// Removes an object; one that is not there is no error.
    fn delete(&self, location: &str) -> Result<(), WriterError>;

    /// A directory of this machine for what is spilled.
    fn scratch(&self) -> PathBuf {
        std::env::temp_dir()
    }
}

/// The storage that a destination's warehouse is in. Of a bucket, call it
/// within a runtime.
pub fn open(iceberg: &Iceberg, options: &Options) -> Result<Arc<dyn Storage>, WriterError> {
    Ok(guarded(unguarded(iceberg, options)?, &options.allow))
}

fn unguarded(iceberg: &Iceberg, options: &Options) -> Result<Arc<dyn Storage>, WriterError> {
    let warehouse = &iceberg.warehouse;
    if s3::split(warehouse).is_some() {
        let settings = iceberg.s3.clone().unwrap_or_default();
        let uploads = Uploads::of(options, file_bytes(iceberg.max_file_size_mb));
        return Ok(Arc::new(Bucket::new(warehouse, &settings, &Names::ICEBERG, uploads)?));
    }
    match path_of(warehouse) {
        Some(path) if files::is_inside(path.strip_prefix("/").unwrap_or(&path)) => {
            Ok(Arc::new(LocalStorage::new(path)))
        }
        _ => Err(WriterError::invalid_table(
            format!("the warehouse {warehouse:?} is neither file:///path nor s3://bucket/prefix"),
            "set iceberg_s3_path to s3://bucket/prefix or file:///path/of/the/warehouse",
        )),
    }
}

/// The path in a `file:` URL or of a bare path, absolute; other writers use
/// every one of these forms.
pub fn path_of(location: &str) -> Option<PathBuf> {
    let path = match location.strip_prefix("file:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None => location,
    };
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// Whether an object lies below a directory, in whatever form each is written.
pub fn is_below(location: &str, directory: &str) -> bool {
    if let (Some(path), Some(directory)) = (path_of(location), path_of(directory)) {
        return path != directory && path.starts_with(directory);
    }
    let parts = s3::split(location).zip(s3::split(directory));
    parts.is_some_and(|((bucket, key), (same, prefix))| {
        let below = |prefix: &str| prefix.is_empty() || key.starts_with(&format!("{prefix}/"));
        bucket == same && below(prefix.trim_end_matches('/'))
    })
}

/// What Hadoop's file system writes beside a file.
fn checksum_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    Some(path.with_file_name(format!(".{name}.crc")))
}

/// Files of this machine.
#[derive(Debug)]
pub struct LocalStorage {
    /// The warehouse.
    root: PathBuf,
    /// The warehouse and directories above it that were missing before.
    created: Mutex<Vec<PathBuf>>,
}

impl LocalStorage {
    /// Of a warehouse, whose directory need not exist yet.
    pub fn new(root: PathBuf) -> Self {
        LocalStorage { root, created: Mutex::default() }
    }

    fn path(&self, location: &str) -> Result<PathBuf, WriterError> {
        path_of(location).ok_or_else(|| {
            WriterError::BadData(format!("{location} lies in another storage than the warehouse"))
        })
    }

    /// Removes the directories that an object was the last in, as if they had
    /// never been: below the warehouse, and what was missing before.
    fn prune(&self, path: &Path) {
        let created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = |dir: &Path| dir.starts_with(&self.root) && dir != self.root;
        for dir in path.ancestors().skip(1) {
            let may_go = ours(dir) || created.iter().any(|missing| missing == dir);
            if !may_go || fs::remove_dir(dir).is_err() {
                return;
            }
        }
    }

    /// Opens a new file; its directory may vanish at any moment, as the last
    /// object in it is removed.
    fn create_new(&self, path: &Path) -> Result<File, WriterError> {
        if !self.root.exists() {
            let missing = self.root.ancestors().take_while(|dir| !dir.exists());
            let missing = missing.map(Path::to_owned);
            self.created.lock().unwrap_or_else(PoisonError::into_inner).extend(missing);
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        let create = || {
            files::create_dir_durably(parent)?;
            let mut options = OpenOptions::new();
            options
                .write(true)
                .create_new(true)
                .open(path)
                .map_err(WriterError::io("creating", path))
        };
        let vanished = |error: &WriterError| matches!(error, WriterError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
        let mut created = create();
        for _ in 0..RACES {
            match &created {
                Err(error) if vanished(error) => created = create(),
                _ => break,
            }
        }
        created
    }
}

impl Storage for LocalStorage {
    fn read(&self, location: &str) -> Result<Option<Bytes>, WriterError> {
        let path = self.path(location)?;
        match fs::read(&path) {
            Ok(content) => Ok(Some(content.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(WriterError::io("reading", path)(e)),
        }
    }

    fn read_range(&self, location: &str, range: Range<u64>) -> Result<Option<Bytes>, WriterError> {
        let path = self.path(location)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(WriterError::io("reading", path)(e)),
        };
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start).map_err(WriterError::io("reading", path))?;
        Ok(Some(bytes.into()))
    }

    fn write(&self, location: &str, content: &[u8]) -> Result<(), WriterError> {
        let path = self.path(location)?;
        // Nobody looks for a name that nothing refers to yet, so a torn file
        // needs no other name meanwhile.
        let mut file = self.create_new(&path)?;
        file.write_all(content)
            .and_then(|()| file.sync_all())
            .map_err(WriterError::io("writing", &path))
            .and_then(|()| path.parent().map_or(Ok(()), files::sync_dir))
            .inspect_err(|_| {
                let _ = fs::remove_file(&path);
                self.prune(&path);
            })
    }

    fn create(&self, location: &str) -> Result<Box<dyn Sink>, WriterError> {
        let path = self.path(location)?;
        let file = self.create_new(&path)?;
        Ok(Box::new(LocalSink { file, path }))
    }

    fn list(&self, directory: &str) -> Result<Below, WriterError> {
        let path = self.path(directory)?;
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Below::default()),
            Err(e) => return Err(WriterError::io("listing", path)(e)),
        };
        let mut listing = Below::default();
        for entry in entries {
            let entry = entry.map_err(WriterError::io("listing", &path))?;
            let kind = entry.file_type().map_err(WriterError::io("reading", entry.path()))?;
            // Names of Iceberg are all UTF-8; any other is left alone.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if kind.is_dir() {
                listing.directories.push(name);
            } else {
                listing.objects.push(name);
            }
        }
        listing.directories.sort();
        listing.objects.sort();
        Ok(listing)
    }

    /// A file that Hadoop wrote goes with its checksum.
    fn delete(&self, location: &str) -> Result<(), WriterError> {
        let path = self.path(location)?;
        match fs::remove_file(&path) {
            Ok(()) => {
                if let Some(checksum) = checksum_of(&path) {
                    let _ = fs::remove_file(checksum);
                }
                self.prune(&path);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(WriterError::io("removing", path)(e)),
        }
        Ok(())
    }
}

impl Storage for Bucket {
    fn read(&self, location: &str) -> Result<Option<Bytes>, WriterError> {
        Ok(Bucket::read(self, location)?.map(|object| object.content))
    }

    fn read_range(&self, location: &str, range: Range<u64>) -> Result<Option<Bytes>, WriterError> {
        Bucket::read_range(self, location, range)
    }

    fn write(&self, location: &str, content: &[u8]) -> Result<(), WriterError> {
        Bucket::write(self, location, content)
    }

    fn create(&self, location: &str) -> Result<Box<dyn Sink>, WriterError> {
        Ok(Box::new(Bucket::create(self, location)?))
    }

    fn list(&self, directory: &str) -> Result<Below, WriterError> {
        Bucket::list(self, directory)
    }

    fn delete(&self, location: &str) -> Result<(), WriterError> {
        Bucket::delete(self, location)
    }
}

/// A file being written.
struct LocalSink {
    file: File,
    path: PathBuf,
}

impl Write for LocalSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for LocalSink {
    fn location(&self) -> &Path {
        &self.path
    }

    fn finish(&mut self) -> Result<u64, WriterError> {
        self.file.sync_all().map_err(WriterError::io("syncing", &self.path))?;
        let size = self.file.metadata().map_err(WriterError::io("reading", &self.path))?.len();
        self.path.parent().map_or(Ok(()), files::sync_dir)?;
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_there_whole_until_it_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("new/warehouse");
        let at = |name: &str| format!("file://{}/{name}", root.display());
        let storage = LocalStorage::new(root.clone());
        assert_eq!(storage.read(&at("a/b")).unwrap(), None);
        storage.write(&at("a/b"), b"content").unwrap();
        assert!(storage.write(&at("a/b"), b"other").is_err());
        assert_eq!(storage.read(&at("a/b")).unwrap().unwrap(), "content");
        let bare = root.join("a/b").display().to_string();
        assert_eq!(storage.read(&bare).unwrap().unwrap(), "content");

        let mut sink = storage.create(&at("a/c/d")).unwrap();
        sink.write_all(b"12345").unwrap();
        assert_eq!(sink.finish().unwrap(), 5);
        let listing = storage.list(&at("a")).unwrap();
        let expected = Below { directories: vec!["c".into()], objects: vec!["b".into()] };
        assert_eq!(listing, expected);

        storage.delete(&at("a/c/d")).unwrap();
        storage.delete(&at("a/c/d")).unwrap();
        assert_eq!(storage.list(&at("a")).unwrap().directories, [""; 0]);
        assert_eq!(storage.list(&at("gone")).unwrap(), Below::default());
        storage.delete(&at("a/b")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_hadoop_wrote_goes_with_its_checksum() {
        let root = tempfile::tempdir().unwrap();
        let storage = LocalStorage::new(root.path().to_owned());
        let at = |name: &str| format!("file:{}/d/{name}", root.path().display());
        for name in ["a", ".a.crc", ".b.crc"] {
            storage.write(&at(name), b"x").unwrap();
        }
        storage.delete(&at("a")).unwrap();
        assert_eq!(storage.list(&at("")).unwrap().objects, [".b.crc"]);
    }

    #[test]
    fn what_is_below_a_directory_is_so_in_every_form() {
        for (location, directory) in [
            ("file:/w/d/t/metadata/a", "file:///w/d/t"),
            ("/w/d/t/a", "file:///w/d/t/"),
            ("s3a://b/w/t/a", "s3://b/w/t"),
            ("s3://b/a", "s3://b"),
        ] {
            assert!(is_below(location, directory), "{location} {directory}");
        }
        for (location, directory) in [
            ("file:///w/d/tt/a", "file:///w/d/t"),
            ("file:///w/d/t", "file:///w/d/t"),
            ("s3://b/w/tt/a", "s3://b/w/t"),
            ("s3://c/w/t/a", "s3://b/w/t"),
            ("s3://b/w/t/a", "file:///w/t"),
        ] {
            assert!(!is_below(location, directory), "{location} {directory}");
        }
    }

    #[test]
    fn directories_come_and_go_under_many_hands() {
        let dir = tempfile::tempdir().unwrap();
        let storage = LocalStorage::new(dir.path().join("warehouse"));
        std::thread::scope(|scope| {
            for hand in 0..8 {
                let (storage, dir) = (&storage, dir.path());
                scope.spawn(move || {
                    for _ in 0..50 {
                        let object = format!("file://{}/warehouse/d/t/{hand}", dir.display());
                        storage.write(&object, b"x").unwrap();
                        storage.delete(&object).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_warehouse_that_was_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let object = format!("file://{}/a/b", root.path().display());
        let storage = LocalStorage::new(root.path().to_owned());
        storage.write(&object, b"x").unwrap();
        storage.delete(&object).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_warehouse_elsewhere_or_without_a_path_is_refused() {
        for warehouse in [
            "",
            "s3://",
            "s3:///x",
            "gs://bucket/x",
            "relative",
            "file://",
            "file:///",
            "file:///a/../b",
        ] {
            let iceberg = Iceberg { warehouse: warehouse.into(), ..Default::default() };
            assert!(open(&iceberg, &Options::default()).is_err(), "{warehouse:?}");
        }
        for warehouse in ["file:///a/b", "file:/a", "/a"] {
            let iceberg = Iceberg { warehouse: warehouse.into(), ..Default::default() };
            assert!(open(&iceberg, &Options::default()).is_ok(), "{warehouse:?}");
        }
    }
}
