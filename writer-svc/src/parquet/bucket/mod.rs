//! A table of Parquet files in a bucket.
//!
//! ```text
//! s3://<bucket>/<path>/<database>/<table>/…/<name>.parquet        what readers see
//!                                /<table>/.tidewater-commit.json  which of it is the table
//!                     /<database>/.tidewater/<table>/<load>/…     staged chunks
//! ```
//!
//! A bucket cannot exchange directories, so the [`record`] is the table's one
//! switch: it names the files that are the content, and it changes only if
//! nobody else has changed it. Staged files are uploads held open, invisible and
//! not copied; a commit completes them, switches the record, and then removes
//! what was. There are no locks: whoever finds a step half done ends it.
//!
//! Invariant: the record names a whole content of one commit, all of whose files
//! are there. A reader that lists instead sees, from the first upload that is
//! completed to the last old file that is removed, the old files, the new, or
//! both.
//!
//! - [`stage`]: the uploads of a chunk, and their manifest
//! - [`commit`]: staged chunks become the table's content
//! - [`record`]: what the table holds and what is being done to it
//! - [`prepare`]: what a table holds, and the removal of what was abandoned
//! - [`check`]: whether the bucket can be written, tried for real

pub mod check;
pub mod commit;
pub mod prepare;
pub mod record;
pub mod stage;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use proto::v1::{
    CommitRecord, CommitRequest, CompleteRequest, CompleteResponse, Parquet, PrepareRequest,
    StageRequest, Table,
};

use crate::Options;
use crate::allow;
use crate::complete;
use crate::complete::aside::Place;
use crate::error::WriterError;
use crate::iceberg::storage::Storage;
use crate::parquet::lookup::{File, Lookup};
use crate::partition::directories::Directories;
use crate::s3::{Bucket, Names, Uploads};
use crate::storage::{PRIVATE, plain};
use crate::target::{Committed, Staging, Target, file_bytes};

/// A table in a bucket.
#[derive(Clone, Debug)]
pub struct BucketTable {
    bucket: Arc<Bucket>,
    paths: Paths,
    partition_regex: String,
    max_file_bytes: u64,
}

/// Where one table lies; locations without a last slash.
#[derive(Clone, Debug)]
pub struct Paths {
    /// What readers see.
    pub live: String,
    /// What they do not.
    pub staging: String,
}

impl Paths {
    /// Where the chunks of a load are staged.
    pub fn load(&self, load_id: &str) -> Result<String, WriterError> {
        plain("load_id", load_id)?;
        Ok(format!("{}/{load_id}", self.staging))
    }
}

/// The bucket of a destination, and where in it the databases lie.
fn open(parquet: &Parquet, options: &Options) -> Result<(Bucket, String), WriterError> {
    let path = parquet.path.trim_matches('/');
    let location = match path {
        "" => format!("s3://{}", parquet.bucket),
        path => format!("s3://{}/{path}", parquet.bucket),
    };
    let settings = parquet.s3.clone().unwrap_or_default();
    let uploads = Uploads::of(options, file_bytes(parquet.max_file_size_mb));
    allow::demand(&options.allow, &location)?;
    let bucket = Bucket::new(&location, &settings, &Names::PARQUET, uploads)?;
    Ok((bucket, location))
}

impl BucketTable {
    /// Checks every name; asks nothing of the store.
    pub fn new(parquet: &Parquet, table: &Table, options: &Options) -> Result<Self, WriterError> {
        let (bucket, location) = open(parquet, options)?;
        let max_file_bytes = file_bytes(parquet.max_file_size_mb);
        BucketTable::over(Arc::new(bucket), &location, table, max_file_bytes)
    }

    /// In a bucket that is open.
    fn over(
        bucket: Arc<Bucket>,
        location: &str,
        table: &Table,
        max_file_bytes: u64,
    ) -> Result<Self, WriterError> {
        plain("destination_database", &table.database)?;
        plain("destination_table", &table.name)?;
        let database = format!("{location}/{}", table.database);
        Ok(BucketTable {
            bucket,
            paths: Paths {
                live: format!("{database}/{}", table.name),
                staging: format!("{database}/{PRIVATE}/{}", table.name),
            },
            partition_regex: table.partition_regex.clone(),
            max_file_bytes,
        })
    }
}

impl Target for BucketTable {
    fn location(&self) -> Result<String, WriterError> {
        Ok(self.paths.live.clone())
    }

    fn max_file_bytes(&self) -> u64 {
        self.max_file_bytes
    }

    fn check_partitioning(&self, columns: &[&str]) -> Result<(), WriterError> {
        Directories::check(&self.partition_regex, columns.iter().copied())
    }

    fn prepare(&self, request: &PrepareRequest) -> Result<Option<CommitRecord>, WriterError> {
        prepare::prepare(self, request)
    }

    fn stage(
        &self,
        request: &StageRequest,
        source: &Schema,
        layout: SchemaRef,
    ) -> Result<Staging, WriterError> {
        let split = Directories::split(&self.partition_regex, source, request.processed_at)?;
        let stage = stage::BucketStage::create(self, &request.load_id, request.chunk_id)?;
        Ok(Staging { stage: Box::new(stage), schema: layout, split })
    }

    fn aside(&self, load_id: &str) -> Result<Place, WriterError> {
        let storage: Arc<dyn Storage> = self.bucket.clone();
        Ok(Place { storage, directory: self.paths.load(load_id)? })
    }

    fn complete(
        &self,
        request: &CompleteRequest,
        options: &Options,
    ) -> Result<CompleteResponse, WriterError> {
        let found = commit::settle(self)?;
        let Some(record) = found.commit() else {
            return Ok(complete::missing("it is not there"));
        };
        let name = self.paths.live.clone();
        complete::check_commit(&name, request, &record.commit_id)?;
        let place = self.aside(complete::load_id(request)?)?;
        let mut files = Vec::with_capacity(found.record.files.len());
        for path in &found.record.files {
            let location = format!("{name}/{path}");
            let Some(bytes) = self.bucket.size(&location)? else {
                return Ok(complete::missing(format!("{location} is not there")));
            };
            files.push(File { location, bytes });
        }
        let storage = Arc::clone(&place.storage);
        complete::complete(&Lookup { name, storage, files }, &place, request, options)
    }

    fn commit(&self, request: &CommitRequest) -> Result<Committed, WriterError> {
        commit::commit(self, request)
    }

    fn drop_table(&self) -> Result<bool, WriterError> {
        prepare::drop_table(self)
    }
}
