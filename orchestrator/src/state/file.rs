//! The state file on disk: one run at a time, and never half written.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use proto::Fault;
use proto::v1::ErrorCode;

use super::State;

/// The file, locked for this process as long as this lives.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Whether anything may be written.
    save: bool,
    /// Closing it lets go of the lock, however the process ends. The file
    /// stays: removing it would let two runs lock two files of one name.
    _lock: Option<File>,
}

impl StateFile {
    /// Locks and reads the file at `path`; a missing one is an empty state.
    /// Without `save` nothing is ever written, not even the lock.
    pub fn open(path: &Path, save: bool) -> Result<(Self, State), Fault> {
        // A link stays a link: what it leads to is replaced.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let lock = lock(&path, save)?;
        let state = read(&path)?;
        Ok((StateFile { path, save, _lock: lock }, state))
    }

    /// No file: nothing is ever written.
    pub fn none() -> Self {
        StateFile { path: PathBuf::new(), save: false, _lock: None }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file's content, durably, or not at all. Blocks.
    pub fn write(&self, text: &str) -> Result<(), Fault> {
        if !self.save {
            return Ok(());
        }
        write_atomically(&self.path, text.as_bytes()).map_err(|error| {
            Fault::new(
                ErrorCode::InvalidConfig,
                format!("writing the state file {}: {error}", self.path.display()),
            )
            .remedy("make its directory writable, with space left, or name another by --state")
        })
    }
}

/// Writes beside the target, syncs, renames over it, syncs the directory: a
/// reader sees the old content or the new. Blocks.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = directory(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // Best effort: the error that matters is the first.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Reads the file, which another run may be using; a missing one is an empty state.
pub fn read(path: &Path) -> Result<State, Fault> {
    let invalid = |message| Fault::new(ErrorCode::InvalidConfig, message);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => {
            return Err(invalid(format!("reading the state file {}: {error}", path.display()))
                .remedy("make it a readable file, or name another by --state"));
        }
    };
    State::parse(&text).map_err(|error| {
        invalid(format!("the state file {} is malformed: {error}", path.display())).remedy(
            "correct it, or remove it: the tables know what they hold, and full refreshes start anew",
        )
    })
}

fn lock(path: &Path, create: bool) -> Result<Option<File>, Fault> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let failed = |error: io::Error| {
        Fault::new(
            ErrorCode::InvalidConfig,
            format!("locking the state file by {}: {error}", lock_path.display()),
        )
        .remedy("make its directory exist and writable, name another by --state, or use --no-save")
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false);
    let mut file = match options.open(&lock_path) {
        Ok(file) => file,
        // Nobody has saved here before, and this run will not either.
        Err(_) if !create => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(held(path, &mut file)),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    if create {
        let pid = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(pid.as_bytes()))
            .map_err(failed)?;
    }
    Ok(Some(file))
}

fn held(path: &Path, file: &mut File) -> Fault {
    let mut text = String::new();
    // Who holds it is a courtesy.
    let _ = file.take(32).read_to_string(&mut text);
    let holder = match text.trim().parse::<u32>() {
        Ok(pid) => format!(" (process {pid})"),
        Err(_) => String::new(),
    };
    let mut fault = Fault::new(
        ErrorCode::Conflict,
        format!("another run{holder} is using the state file {}", path.display()),
    )
    .remedy("wait for it or stop it, or give this run its own --state");
    fault.transient = false;
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_state_is_read_back_and_leaves_nothing_else_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let (file, mut state) = StateFile::open(&path, true).unwrap();
        assert_eq!(state, State::default());
        state.set_consistent_point("0/1");
        file.write(&state.to_text()).unwrap();
        file.write(&state.to_text()).unwrap();
        drop(file);
        let (_file, again) = StateFile::open(&path, true).unwrap();
        assert_eq!(again.global, state.global);
        let mut names: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["state.json", "state.json.lock"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("kept"), "old").unwrap();
        assert!(write_atomically(&path, b"new").is_err(), "a directory is no file");
        assert_eq!(std::fs::read_to_string(path.join("kept")).unwrap(), "old");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_run_is_told_who_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let first = StateFile::open(&path, true).unwrap();
        for save in [true, false] {
            let fault = StateFile::open(&path, save).unwrap_err();
            assert_eq!(fault.code, ErrorCode::Conflict);
            assert!(fault.message.contains(&std::process::id().to_string()), "{fault}");
        }
        drop(first);
        assert!(StateFile::open(&path, true).is_ok());
    }

    #[test]
    fn without_saving_nothing_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let (file, state) = StateFile::open(&directory.path().join("state.json"), false).unwrap();
        file.write(&state.to_text()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_malformed_file_is_named_with_line_and_column() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        std::fs::write(&path, "{\n  \"type\": 1}").unwrap();
        let fault = StateFile::open(&path, true).unwrap_err();
        assert!(fault.message.contains("state.json is malformed: line 2, column"), "{fault}");
    }
}
