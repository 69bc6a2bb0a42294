//! A table as a directory of Parquet files.
//!
//! - [`check`]: whether the destination can be written, tried for real
//! - [`prepare`]: what a table holds, and the removal of what was abandoned
//! - [`stage`]: the files of a chunk, and their manifest
//! - [`commit`]: staged chunks become the table's content in one rename
//! - [`append`]: or are added to it
//! - [`record`]: the commit record, stored with the data
//! - [`lookup`]: the rows that are there, for changes that lack values
//!   ([`crate::complete`])
//! - [`bucket`]: the same of a table in a bucket
//!
//! Invariant: whoever finds the live directory finds a whole content of one
//! commit, or, for the moment between the two renames that are needed where
//! directories cannot be exchanged, none; [`recover`] ends such a moment that
//! a crash has prolonged.

pub mod append;
pub mod bucket;
pub mod check;
pub mod commit;
pub mod lookup;
pub mod prepare;
pub mod record;
pub mod stage;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use proto::v1::{
    CommitRecord, CommitRequest, CompleteRequest, CompleteResponse, Parquet, PrepareRequest,
    StageRequest, Table,
};

use crate::Options;
use crate::complete;
use crate::complete::aside::Place;
use crate::error::WriterError;
use crate::iceberg::storage::LocalStorage;
use crate::partition::directories::Directories;
use crate::storage::{self, TablePaths};
use crate::target::{Committed, Staging, Target, file_bytes};
use lookup::Lookup;

/// How long a call waits for another that changes the same table.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// Content about to become live (after an exchange: the old one).
const COMMIT_PREFIX: &str = ".commit-";
/// The old content, where directories cannot be exchanged.
const OLD_PREFIX: &str = ".old-";
/// A table that was dropped and is being removed.
const DROPPED_PREFIX: &str = ".dropped-";

/// A table that is a directory.
#[derive(Debug)]
pub struct ParquetTable {
    paths: TablePaths,
    partition_regex: String,
    max_file_bytes: u64,
}

impl ParquetTable {
    /// Checks every name; touches no file.
    pub fn new(parquet: &Parquet, table: &Table) -> Result<Self, WriterError> {
        Ok(ParquetTable {
            paths: TablePaths::new(parquet, table)?,
            partition_regex: table.partition_regex.clone(),
            max_file_bytes: file_bytes(parquet.max_file_size_mb),
        })
    }
}

impl Target for ParquetTable {
    fn location(&self) -> Result<String, WriterError> {
        Ok(self.paths.live.display().to_string())
    }

    fn max_file_bytes(&self) -> u64 {
        self.max_file_bytes
    }

    fn check_partitioning(&self, columns: &[&str]) -> Result<(), WriterError> {
        Directories::check(&self.partition_regex, columns.iter().copied())
    }

    fn prepare(&self, request: &PrepareRequest) -> Result<Option<CommitRecord>, WriterError> {
        prepare::prepare(&self.paths, request)
    }

    fn stage(
        &self,
        request: &StageRequest,
        source: &Schema,
        layout: SchemaRef,
    ) -> Result<Staging, WriterError> {
        let split = Directories::split(&self.partition_regex, source, request.processed_at)?;
        let stage = stage::DirectoryStage::create(&self.paths, &request.load_id, request.chunk_id)?;
        Ok(Staging { stage: Box::new(stage), schema: layout, split })
    }

    fn aside(&self, load_id: &str) -> Result<Place, WriterError> {
        let directory = self.paths.load(load_id)?;
        let directory = storage::utf8(&directory)?.to_owned();
        Ok(Place { storage: Arc::new(LocalStorage::new(self.paths.staging.clone())), directory })
    }

    fn complete(
        &self,
        request: &CompleteRequest,
        options: &Options,
    ) -> Result<CompleteResponse, WriterError> {
        let Live::Ours(record) = live(&self.paths.live)? else {
            return Ok(complete::missing("it is not there"));
        };
        let name = self.location()?;
        complete::check_commit(&name, request, &record.commit_id)?;
        let place = self.aside(complete::load_id(request)?)?;
        let (storage, files) = (Arc::clone(&place.storage), files(&self.paths.live)?);
        complete::complete(&Lookup { name, storage, files }, &place, request, options)
    }

    fn commit(&self, request: &CommitRequest) -> Result<Committed, WriterError> {
        commit::commit(&self.paths, request)
    }

    fn drop_table(&self) -> Result<bool, WriterError> {
        prepare::drop_table(&self.paths)
    }
}

/// What lies where readers look.
#[derive(Debug, PartialEq)]
enum Live {
    Absent,
    Empty,
    Ours(CommitRecord),
}

/// The data files in a table's directory, as readers see them.
fn files(table: &Path) -> Result<Vec<lookup::File>, WriterError> {
    let mut files = Vec::new();
    let mut directories = vec![table.to_owned()];
    while let Some(directory) = directories.pop() {
        for name in storage::entries(&directory)? {
            let path = directory.join(&name);
            let meta = fs::symlink_metadata(&path).map_err(WriterError::io("reading", &path))?;
            if meta.is_dir() {
                directories.push(path);
            } else if name.ends_with(".parquet") && !name.starts_with('.') {
                let location = storage::utf8(&path)?.to_owned();
                files.push(lookup::File { location, bytes: meta.len() });
            }
        }
    }
    Ok(files)
}

/// Looks, and refuses what is not ours.
fn live(path: &Path) -> Result<Live, WriterError> {
    let foreign = |found: &str| {
        Err(WriterError::ForeignTable { path: path.to_owned(), found: found.to_owned() })
    };
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Live::Absent),
        Err(e) => return Err(WriterError::io("reading", path)(e)),
    };
    if meta.is_symlink() {
        return foreign("a symbolic link");
    }
    if !meta.is_dir() {
        return foreign("a file");
    }
    if let Some(record) = record::read(path)? {
        return Ok(Live::Ours(record));
    }
    let mut listing = fs::read_dir(path).map_err(WriterError::io("listing", path))?;
    if listing.next().is_some() { foreign("files") } else { Ok(Live::Empty) }
}

/// Ends what a crash left half done. Needs the table's lock.
///
/// Only between the two renames of a commit without exchange is the live
/// directory absent while an old content exists: it goes back. Everything else
/// that a commit or a drop has left is garbage, but for an append, which goes on.
fn recover(paths: &TablePaths) -> Result<(), WriterError> {
    let names = storage::entries(&paths.staging)?;
    if let Some(old) = names.iter().find(|name| name.starts_with(OLD_PREFIX))
        && live(&paths.live)? == Live::Absent
    {
        let old = paths.staging.join(old);
        fs::rename(&old, &paths.live).map_err(WriterError::io("renaming to", &paths.live))?;
        storage::sync_dir(&paths.database)?;
    }
    for name in names {
        if [COMMIT_PREFIX, OLD_PREFIX, DROPPED_PREFIX].iter().any(|mark| name.starts_with(mark)) {
            storage::remove_tree(&paths.staging.join(name))?;
        }
    }
    append::recover(paths)
}
