//! Looks at a directory again and again while something runs.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow, bail};

/// Checks that no file that a `*.parquet` glob matches is ever partial.
#[derive(Debug)]
pub struct PartialFiles {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Found>>,
}

#[derive(Debug, Default)]
struct Found {
    looks: u64,
    partial: Vec<String>,
}

impl PartialFiles {
    /// Starts looking below `directory`, which need not exist yet.
    pub fn watch(directory: &Path) -> Self {
        let (directory, stop) = (directory.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut found = Found::default();
            while !stopped.load(Ordering::Relaxed) && found.partial.is_empty() {
                for file in parquet_files(&directory) {
                    if let Err(why) = whole(&file) {
                        found.partial.push(format!("{}: {why}", file.display()));
                    }
                }
                found.looks += 1;
                std::thread::yield_now();
            }
            found
        });
        PartialFiles { stop, thread: Some(thread) }
    }

    /// Stops looking; an error names the partial files seen.
    pub fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let found = thread.join().map_err(|_| anyhow!("the watching thread panicked"))?;
        if found.looks == 0 {
            bail!("the directory was never looked at");
        }
        if !found.partial.is_empty() {
            bail!("partial files were visible:\n  {}", found.partial.join("\n  "));
        }
        Ok(())
    }
}

impl Drop for PartialFiles {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Every file below `directory` that `*.parquet` matches, hidden places
/// included, in order.
pub fn parquet_files(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = files(directory);
    found.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    found
}

/// Every file below `directory`, in order; what vanishes meanwhile is left out.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

/// A Parquet file begins and ends with its magic, and its footer fits in it.
fn whole(path: &Path) -> std::result::Result<(), String> {
    let read = || -> std::io::Result<Option<String>> {
        let mut file = File::open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        if length < 12 {
            return Ok(Some(format!("only {length} bytes")));
        }
        let (mut head, mut tail) = ([0; 4], [0; 8]);
        file.rewind()?;
        file.read_exact(&mut head)?;
        file.seek(SeekFrom::End(-8))?;
        file.read_exact(&mut tail)?;
        let footer = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
        if &head != b"PAR1" || &tail[4..] != b"PAR1" {
            return Ok(Some("no Parquet magic at both ends".to_owned()));
        }
        Ok((u64::from(footer) + 12 > length).then(|| "a footer larger than the file".to_owned()))
    };
    match read() {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(why),
        // Replaced between listing and opening: never partial, just gone.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
