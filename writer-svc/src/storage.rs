//! Paths that cannot leave the destination, and file work that lasts.
//!
//! ```text
//! <local_path>/<database>/<table>/…                      what readers see
//! <local_path>/<database>/.tidewater/<table>/<load>/…    staged chunks
//! <local_path>/<database>/.tidewater/<table>/.commit-…   a commit under way
//! <local_path>/<database>/.tidewater/.lock-<table>       held while it changes
//! ```
//!
//! All of it lies in one file system, so that a rename is atomic. Names that
//! come from outside are single plain components that do not start with a dot,
//! so no request reaches outside its table and none meets our own names.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use proto::v1::{Parquet, Table};
use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use crate::error::WriterError;

/// The directory, beside the tables of a database, of all that is not visible.
pub const PRIVATE: &str = ".tidewater";
/// Bytes of a name, so that ours with a prefix still fit the usual 255.
const MAX_NAME: usize = 200;
/// How often a held lock is tried again.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Where one table lies.
#[derive(Clone, Debug)]
pub struct TablePaths {
    /// `<local_path>/<database>`
    pub database: PathBuf,
    /// What readers see.
    pub live: PathBuf,
    /// What they do not.
    pub staging: PathBuf,
    /// Held by whoever changes either.
    pub lock: PathBuf,
}

impl TablePaths {
    /// Checks every name; touches no file.
    pub fn new(parquet: &Parquet, table: &Table) -> Result<Self, WriterError> {
        let root = local_path(parquet)?;
        plain("destination_database", &table.database)?;
        plain("destination_table", &table.name)?;
        let database = root.join(&table.database);
        let private = database.join(PRIVATE);
        Ok(TablePaths {
            live: database.join(&table.name),
            staging: private.join(&table.name),
            lock: private.join(format!(".lock-{}", table.name)),
            database,
        })
    }

    /// Where the chunks of a load are staged.
    pub fn load(&self, load_id: &str) -> Result<PathBuf, WriterError> {
        plain("load_id", load_id)?;
        Ok(self.staging.join(load_id))
    }
}

/// The destination's directory, absolute.
pub fn local_path(parquet: &Parquet) -> Result<PathBuf, WriterError> {
    let path = PathBuf::from(&parquet.local_path);
    if !path.is_absolute() {
        return Err(WriterError::invalid_table(
            format!("local_path {path:?} is not absolute"),
            "give the writer an absolute local_path",
        ));
    }
    Ok(path)
}

/// The path as text, as it travels.
pub fn utf8(path: &Path) -> Result<&str, WriterError> {
    path.to_str().ok_or_else(|| {
        WriterError::invalid_table(
            format!("local_path {} is not UTF-8", path.display()),
            "give the destination a local_path in UTF-8",
        )
    })
}

/// Demands that `name` be one path component, not hidden, and short.
pub fn plain(what: &str, name: &str) -> Result<(), WriterError> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.starts_with('.') {
        "starts with a dot"
    } else if name.contains(['/', '\0']) {
        "is more than a plain name"
    } else if name.len() > MAX_NAME {
        "is too long"
    } else {
        return Ok(());
    };
    Err(WriterError::invalid_table(
        format!("{what} {name:?} {problem}"),
        format!("give {what} a plain name of at most {MAX_NAME} bytes"),
    ))
}

/// Whether `path` stays below where it is joined to, in plain components.
pub fn is_inside(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Creates `path` and its missing parents so that they outlive a power loss.
/// Where a directory vanishes meanwhile, the error is one of kind `NotFound`.
pub fn create_dir_durably(path: &Path) -> Result<(), WriterError> {
    match create_dir(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or_else(|| {
                WriterError::Internal(format!("{} has no parent", path.display()))
            })?;
            create_dir_durably(parent)?;
            match create_dir(path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(WriterError::io("creating the directory", path))?,
            }
        }
        Err(e) => return Err(WriterError::io("creating the directory", path)(e)),
    }
    path.parent().map_or(Ok(()), sync_dir)
}

/// `AlreadyExists` is a directory that is there still.
fn create_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match fs::metadata(path)? {
            there if there.is_dir() => Err(e),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        },
        other => other,
    }
}

/// Makes the entries of a directory durable.
pub fn sync_dir(path: &Path) -> Result<(), WriterError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(WriterError::io("syncing", path))
}

/// Makes everything in the file system of `path` durable: for many files,
/// cheaper than one by one.
pub fn sync_file_system(path: &Path) -> Result<(), WriterError> {
    let dir = File::open(path).map_err(WriterError::io("opening", path))?;
    rustix::fs::syncfs(&dir).map_err(WriterError::errno("syncing the file system of", path))
}

/// Writes a file that is either absent or whole, whatever happens.
pub fn write_durably(path: &Path, content: &[u8]) -> Result<(), WriterError> {
    let partial = partial(path);
    File::create(&partial)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .map_err(WriterError::io("writing", &partial))?;
    fs::rename(&partial, path).map_err(WriterError::io("renaming to", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// The name of a file that is not whole yet.
fn partial(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    partial.into()
}

/// Swaps two existing paths in one step; `false` where the file system or the
/// kernel cannot.
pub fn exchange(a: &Path, b: &Path) -> Result<bool, WriterError> {
    match rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(WriterError::errno("exchanging", b)(errno)),
    }
}

/// A second name for a durable file; a durable copy where there are no links.
/// Either way the name appears with the whole file.
pub fn link_or_copy(from: &Path, to: &Path) -> Result<(), WriterError> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(e)
            if matches!(
                e.raw_os_error().map(Errno::from_raw_os_error),
                Some(Errno::OPNOTSUPP | Errno::PERM | Errno::NOSYS | Errno::MLINK)
            ) =>
        {
            let partial = partial(to);
            fs::copy(from, &partial).map_err(WriterError::io("writing", &partial))?;
            File::open(&partial)
                .and_then(|file| file.sync_all())
                .map_err(WriterError::io("syncing", &partial))?;
            fs::rename(&partial, to).map_err(WriterError::io("renaming to", to))
        }
        Err(e) => Err(WriterError::io("linking", to)(e)),
    }
}

/// Removes a directory and all in it; whether there was one.
pub fn remove_tree(path: &Path) -> Result<bool, WriterError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(WriterError::io("removing", path)(e)),
    }
}

/// The entries of a directory by name; none when it does not exist.
pub fn entries(path: &Path) -> Result<Vec<String>, WriterError> {
    let listing = match fs::read_dir(path) {
        Ok(listing) => listing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(WriterError::io("listing", path)(e)),
    };
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(WriterError::io("listing", path))?;
        // Names of ours are all UTF-8; any other is left alone.
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// The right to change a table, across processes; given up on drop.
#[derive(Debug)]
pub struct TableLock {
    path: PathBuf,
    // Closing it unlocks it.
    _file: File,
}

impl TableLock {
    /// Waits for at most `patience`. Blocks the thread.
    pub fn acquire(paths: &TablePaths, patience: Duration) -> Result<Self, WriterError> {
        let path = &paths.lock;
        if let Some(parent) = path.parent() {
            create_dir_durably(parent)?;
        }
        let start = Instant::now();
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
                .map_err(WriterError::io("opening", path))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Dropping a table removes its lock file: hold only what is there.
                Ok(()) if is_at(&file, path) => {
                    return Ok(TableLock { path: path.clone(), _file: file });
                }
                Ok(()) => continue,
                Err(Errno::WOULDBLOCK) if start.elapsed() < patience => {
                    std::thread::sleep(LOCK_POLL);
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(WriterError::Locked { lock: path.clone(), waited: patience });
                }
                Err(errno) => return Err(WriterError::errno("locking", path)(errno)),
            }
        }
    }

    /// Removes the lock file as well: for a table that is no more.
    pub fn remove(self) -> Result<(), WriterError> {
        fs::remove_file(&self.path).map_err(WriterError::io("removing", &self.path))
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => identity(held) == identity(named),
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proto::v1::Destination;
    use proto::v1::destination::Kind;

    use super::*;

    /// Parquet files in `path`.
    pub(crate) fn parquet(path: &Path) -> Parquet {
        let local_path = path.to_str().expect("test paths are UTF-8").to_owned();
        Parquet { local_path, ..Default::default() }
    }

    /// A destination in `path`.
    pub(crate) fn destination(path: &Path) -> Destination {
        Destination { kind: Some(Kind::Parquet(parquet(path))) }
    }

    fn table(database: &str, name: &str) -> Table {
        Table { database: database.into(), name: name.into(), ..Default::default() }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let root = parquet(Path::new("/data"));
        for bad in ["", ".", "..", ".hidden", "a/b", "../x", "/etc", "a\0b", &"x".repeat(201)] {
            assert!(TablePaths::new(&root, &table(bad, "t")).is_err(), "{bad:?}");
            assert!(TablePaths::new(&root, &table("d", bad)).is_err(), "{bad:?}");
            let paths = TablePaths::new(&root, &table("d", "t")).unwrap();
            assert!(paths.load(bad).is_err(), "{bad:?}");
        }
        assert!(TablePaths::new(&parquet(Path::new("x")), &table("d", "t")).is_err());
        assert!(!is_inside(Path::new("")));
        assert!(!is_inside(Path::new("a/../b")));
        assert!(!is_inside(Path::new("/a")));
        assert!(is_inside(Path::new("dt=2024-01-01/00000-a.parquet")));
    }

    #[test]
    fn a_lock_is_held_by_one_and_survives_its_removal() {
        let dir = tempfile::tempdir().unwrap();
        let root = parquet(dir.path());
        let paths = TablePaths::new(&root, &table("d", "t")).unwrap();
        let held = TableLock::acquire(&paths, Duration::ZERO).unwrap();
        let refused = TableLock::acquire(&paths, Duration::ZERO);
        assert!(matches!(refused, Err(WriterError::Locked { .. })));
        held.remove().unwrap();
        let again = TableLock::acquire(&paths, Duration::ZERO).unwrap();
        assert!(TableLock::acquire(&paths, Duration::ZERO).is_err());
        drop(again);
        TableLock::acquire(&paths, Duration::ZERO).unwrap();
    }

    #[test]
    fn directories_exchange_in_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        create_dir_durably(&a.join("in_a")).unwrap();
        create_dir_durably(&b.join("in_b")).unwrap();
        if exchange(&a, &b).unwrap() {
            assert_eq!(entries(&a).unwrap(), ["in_b"]);
            assert_eq!(entries(&b).unwrap(), ["in_a"]);
        }
    }
}
