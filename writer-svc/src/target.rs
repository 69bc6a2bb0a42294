//! A table at a destination: the one place that knows which kinds there are.
//!
//! Everything on a [`Target`] blocks: call it off the async threads. An
//! implementation over async clients drives them by its runtime's handle.

use arrow::datatypes::{Schema, SchemaRef};
use proto::v1::destination::Kind as Destined;
use proto::v1::stage_request::Kind;
use proto::v1::{
    CommitRecord, CommitRequest, CompleteRequest, CompleteResponse, Destination, PrepareRequest,
    StageRequest, Table,
};

use crate::Options;
use crate::allow;
use crate::complete::aside::Place;
use crate::error::WriterError;
use crate::iceberg::{self, IcebergTable};
use crate::parquet::bucket::BucketTable;
use crate::parquet::{self, ParquetTable};
use crate::partition::Split;
use crate::stage::Stage;
use crate::storage::{self, TablePaths};

/// Megabytes per file when the destination names none.
const DEFAULT_FILE_MB: u32 = 512;

/// What a commit came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// As it stands in the table.
    pub record: CommitRecord,
    /// The same commit had been made before.
    pub already: bool,
    /// Where the table lies, for people.
    pub location: String,
}

/// A stage, and what goes into it.
pub struct Staging {
    /// It.
    pub stage: Box<dyn Stage>,
    /// The schema of its batches: the layout's columns as the destination
    /// declares them.
    pub schema: SchemaRef,
    /// Which rows go to which files; `None`: not partitioned.
    pub split: Option<Box<dyn Split>>,
}

/// One table.
pub trait Target: Send + Sync {
    /// Where the table lies, for people.
    fn location(&self) -> Result<String, WriterError>;

    /// Bytes at which a file is closed.
    fn max_file_bytes(&self) -> u64;

    /// Refuses now what [`Target::stage`] would refuse later for how the table
    /// is to be partitioned; the columns' types come with the data.
    fn check_partitioning(&self, columns: &[&str]) -> Result<(), WriterError>;

    /// Places of the source columns that stand as columns of their own even
    /// where a row is one JSON text: those whose values the table is
    /// partitioned by, as directories are not.
    fn typed_columns(&self, _columns: &[&str]) -> Result<Vec<usize>, WriterError> {
        Ok(Vec::new())
    }

    /// Whether chunks of this kind can be staged.
    fn takes(&self, kind: Kind) -> bool {
        kind == Kind::Data
    }

    /// Says what the table holds, after removing what abandoned loads have
    /// left. Fails where a later commit would. One that only looks changes nothing.
    fn prepare(&self, request: &PrepareRequest) -> Result<Option<CommitRecord>, WriterError>;

    /// Begins a chunk whose batches have the columns of `layout`, made of those
    /// of `source`.
    fn stage(
        &self,
        request: &StageRequest,
        source: &Schema,
        layout: SchemaRef,
    ) -> Result<Staging, WriterError>;

    /// Where changes of a load wait that cannot be staged before the table is asked.
    fn aside(&self, load_id: &str) -> Result<Place, WriterError>;

    /// Stages what was put aside, by what the table holds.
    fn complete(
        &self,
        request: &CompleteRequest,
        options: &Options,
    ) -> Result<CompleteResponse, WriterError>;

    /// Makes staged chunks the table's content, in one atomic step.
    fn commit(&self, request: &CommitRequest) -> Result<Committed, WriterError>;

    /// Removes the table and all that is staged for it; whether there was one.
    fn drop_table(&self) -> Result<bool, WriterError>;
}

/// The table of a request. Checks every name; touches nothing.
pub fn of(
    destination: Option<&Destination>,
    table: Option<&Table>,
    options: &Options,
) -> Result<Box<dyn Target>, WriterError> {
    let table =
        table.ok_or_else(|| WriterError::InvalidRequest("the request has no table".into()))?;
    Ok(match kind(destination)? {
        Destined::Parquet(parquet) if parquet.bucket.is_empty() => {
            let paths = TablePaths::new(parquet, table)?;
            for place in [&paths.live, &paths.staging] {
                allow::demand(&options.allow, &place.to_string_lossy())?;
            }
            Box::new(ParquetTable::new(parquet, table)?)
        }
        Destined::Parquet(parquet) => Box::new(BucketTable::new(parquet, table, options)?),
        Destined::Iceberg(iceberg) => Box::new(IcebergTable::new(iceberg, table, options)?),
    })
}

/// Makes the commits of several tables of one destination at once; `None`: they
/// have to be made one by one.
pub fn commit_together(
    commits: Vec<CommitRequest>,
    options: &Options,
) -> Result<Option<Vec<Committed>>, WriterError> {
    let Some(destination) = commits.first().map(|commit| commit.destination.clone()) else {
        return Err(WriterError::InvalidRequest("the request has no commits".into()));
    };
    if commits.iter().any(|commit| commit.destination != destination) {
        return Err(WriterError::InvalidRequest("the commits are of several destinations".into()));
    }
    let Destined::Iceberg(iceberg) = kind(destination.as_ref())? else { return Ok(None) };
    let mut tables = Vec::with_capacity(commits.len());
    for commit in commits {
        let table = commit.table.as_ref();
        let table =
            table.ok_or_else(|| WriterError::InvalidRequest("a commit has no table".into()))?;
        tables.push((IcebergTable::new(iceberg, table, options)?, commit));
    }
    iceberg::commit::together::commit(&tables)
}

/// Whether the destination can be written, tried for real; leaves nothing behind.
pub fn check(destination: Option<&Destination>, options: &Options) -> Result<(), WriterError> {
    match kind(destination)? {
        Destined::Parquet(parquet) if parquet.bucket.is_empty() => {
            allow::demand(&options.allow, &parquet.local_path)?;
            parquet::check::check(&storage::local_path(parquet)?)
        }
        Destined::Parquet(parquet) => parquet::bucket::check::check(parquet, options),
        Destined::Iceberg(iceberg) => iceberg::check::check(iceberg, options),
    }
}

/// The kind of a request's destination.
pub fn kind(destination: Option<&Destination>) -> Result<&Destined, WriterError> {
    destination
        .and_then(|destination| destination.kind.as_ref())
        .ok_or_else(|| WriterError::InvalidRequest("the request has no destination".into()))
}

/// Bytes of a file from the setting in megabytes; 0: the default.
pub fn file_bytes(megabytes: u32) -> u64 {
    let megabytes = if megabytes == 0 { DEFAULT_FILE_MB } else { megabytes };
    u64::from(megabytes) << 20
}
