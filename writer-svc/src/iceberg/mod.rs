//! Iceberg tables: files that no reader sees until a commit refers to them.
//!
//! ```text
//! stage:   schema ─► data/load-<id>/….parquet, metrics ─► metadata/staged-….avro
//! commit:  ┌► load ─► committed? fenced? ─► manifests ─► snapshot ─► swap ─┐
//!          └──────────────── Conflict, Unknown: from the new base ◄────────┘
//! ```
//!
//! - [`schema`]: the layout's columns ↔ the table's fields, by id
//!   ([`lineage`]: which field a column is, whatever its name)
//! - [`partition`]: how the table is partitioned, and which rows go where
//!   ([`transform`]: a column's partition values)
//! - [`equality`]: the columns of a key, for deletes
//! - [`positions`]: places of rows, for deletes
//! - [`stage`]: the files of a chunk and its manifest ([`keys`]: where its rows lie)
//! - [`lookup`]: the rows that are there, for changes that lack values
//!   ([`crate::complete`])
//! - [`metrics`]: counts and bounds of a file, from its footer
//! - [`manifest`]: manifests and manifest lists ↔ bytes ([`avro`])
//! - [`prepare`]: what a table holds, and the removal of what was abandoned
//! - [`commit`]: the one loop that changes a table's content
//! - [`snapshot`]: a snapshot and the metadata that makes it current
//! - [`position`]: which commit of ours a table holds
//! - [`properties`]: what a table's own properties ask for
//! - [`drop`]: the end of a table and of its files
//! - [`check`]: whether catalog and warehouse can be written, tried for real
//! - [`catalog`]: who knows the tables: load, create, swap, drop
//! - [`storage`]: where the objects lie ([`guarded`]: within what is allowed)
//!
//! Invariants: nothing refers to a file that is not whole and durable; a swap
//! is made against the very metadata it was derived from; no file is deleted
//! that any snapshot of the table, or a commit still possible, may refer to.
//!
//! The crate of the same name serves for the spec's types and encodings only,
//! bytes in, bytes out: every object is read and written by [`storage`].

pub mod avro;
pub mod catalog;
pub mod check;
pub mod commit;
pub mod drop;
pub mod equality;
pub mod guarded;
pub mod keys;
pub mod lineage;
pub mod lookup;
pub mod manifest;
pub mod metrics;
pub mod partition;
pub mod position;
pub mod positions;
pub mod prepare;
pub mod properties;
pub mod schema;
pub mod snapshot;
pub mod stage;
pub mod storage;
pub mod transform;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use iceberg::spec::{FormatVersion, ManifestFile, Snapshot, TableMetadata};
use proto::v1::stage_request::Kind;
use proto::v1::{
    CommitRecord, CommitRequest, CompleteRequest, CompleteResponse, Iceberg, PrepareRequest,
    StageRequest, Table,
};

use crate::Options;
use crate::complete;
use crate::complete::aside::Place;
use crate::error::WriterError;
use crate::naming;
use crate::storage::plain;
use crate::target::{Committed, Staging, Target, file_bytes};
use catalog::{Catalog, Loaded, TableName};
use lookup::Lookup;
use storage::Storage;

/// An Iceberg table, there or to be.
#[derive(Debug)]
pub struct IcebergTable {
    name: TableName,
    catalog: Box<dyn Catalog>,
    storage: Arc<dyn Storage>,
    /// Where a new table is put; empty: where the catalog puts it.
    new_location: String,
    /// Its format version.
    new_version: FormatVersion,
    max_file_bytes: u64,
    /// Destination names of the columns to be declared as identifier fields.
    identifiers: Vec<String>,
    partition_regex: String,
}

impl IcebergTable {
    /// Checks every name; asks nothing of catalog or storage.
    pub fn new(iceberg: &Iceberg, table: &Table, options: &Options) -> Result<Self, WriterError> {
        plain("destination_database", &table.database)?;
        plain("destination_table", &table.name)?;
        let new_version = match iceberg.format_version {
            0 | 2 => FormatVersion::V2,
            3 => FormatVersion::V3,
            other => {
                return Err(WriterError::invalid_table(
                    format!("Iceberg tables of format version {other} cannot be made"),
                    "set format_version in destination.json to 2 or 3",
                ));
            }
        };
        let name = TableName { namespace: table.database.clone(), name: table.name.clone() };
        let (catalog, storage) = catalog::open(iceberg, &name, options)?;
        let identifiers = match iceberg.no_identifier_fields {
            true => Vec::new(),
            false => identity(Some(table)),
        };
        Ok(IcebergTable {
            new_location: match iceberg.warehouse.trim_end_matches('/') {
                "" => String::new(),
                warehouse => format!("{warehouse}/{}/{}", table.database, table.name),
            },
            new_version,
            name,
            catalog,
            storage,
            max_file_bytes: file_bytes(iceberg.max_file_size_mb),
            identifiers,
            partition_regex: table.partition_regex.clone(),
        })
    }

    /// The table as the catalog knows it now; refuses what this version cannot
    /// continue.
    fn load(&self) -> Result<Option<Loaded>, WriterError> {
        let loaded = self.catalog.load(&self.name)?;
        if let Some(loaded) = &loaded {
            self.check_metadata(&loaded.metadata)?;
        }
        Ok(loaded)
    }

    /// Among the data files of a load.
    fn aside_of(
        &self,
        metadata: Option<&TableMetadata>,
        load_id: &str,
    ) -> Result<Place, WriterError> {
        plain("load_id", load_id)?;
        let directory = Paths::of(metadata, &self.new_location).load(load_id);
        Ok(Place { storage: Arc::clone(&self.storage), directory })
    }

    /// An object that the table refers to.
    fn object(&self, location: &str) -> Result<Bytes, WriterError> {
        self.storage.read(location)?.ok_or_else(|| WriterError::BadTable {
            table: self.name.to_string(),
            problem: format!("it refers to {location}, which is not there"),
        })
    }

    /// The manifests of the table's current snapshot.
    fn manifests(&self, base: &Loaded) -> Result<Vec<ManifestFile>, WriterError> {
        let Some(snapshot) = base.metadata.current_snapshot() else { return Ok(Vec::new()) };
        self.manifests_of(snapshot, base)
    }

    /// The manifests of any snapshot.
    fn manifests_of(
        &self,
        snapshot: &Snapshot,
        base: &Loaded,
    ) -> Result<Vec<ManifestFile>, WriterError> {
        let location = snapshot.manifest_list();
        manifest::decode_list(location, &self.object(location)?, base.metadata.format_version())
    }

    fn check_metadata(&self, metadata: &TableMetadata) -> Result<(), WriterError> {
        let refuse = |problem: String| {
            Err(WriterError::invalid_table(
                format!("the Iceberg table {} {problem}", self.name),
                "give the stream another destination_table, or drop this table",
            ))
        };
        if metadata.format_version() < FormatVersion::V2 {
            return refuse(
                "has format version 1; Tidewater writes 2 and 3 (another engine upgrades it by \
                 setting the property format-version to 2)"
                    .into(),
            );
        }
        if metadata.current_snapshot().is_some() && !position::is_ours(metadata) {
            return Err(WriterError::ForeignTable {
                path: self.name.to_string().into(),
                found: "rows".into(),
            });
        }
        Ok(())
    }
}

/// Destination names of the columns that tell a row from the others; none: it has
/// no key.
fn identity(table: Option<&Table>) -> Vec<String> {
    match table {
        Some(table) if table.key_columns.is_empty() => Vec::new(),
        Some(table) if table.normalization => {
            table.key_columns.iter().map(|name| naming::destination_name(name)).collect()
        }
        // Of the key only this is stored, in a form that tells any two apart.
        Some(_) => vec![naming::OLAKE_ID.to_owned()],
        None => Vec::new(),
    }
}

/// Where the files of a table go.
#[derive(Clone, Debug)]
struct Paths {
    /// Directory of data files.
    data: String,
    /// Directory of manifests and of the rest of the metadata.
    metadata: String,
}

impl Paths {
    /// Of a table that is there, or is to be put at `new_location`.
    fn of(metadata: Option<&TableMetadata>, new_location: &str) -> Self {
        let location = metadata.map_or(new_location, TableMetadata::location);
        let path = |property: &str, default: &str| {
            let given = metadata.and_then(|metadata| metadata.properties().get(property));
            match given {
                Some(path) => path.trim_end_matches('/').to_owned(),
                None => format!("{}/{default}", location.trim_end_matches('/')),
            }
        };
        Paths {
            data: path("write.data.path", "data"),
            metadata: path("write.metadata.path", "metadata"),
        }
    }

    /// The directory of one load's data files.
    fn load(&self, load_id: &str) -> String {
        format!("{}/{LOAD_PREFIX}{load_id}", self.data)
    }
}

/// Before a load id: the name of its directory of data files.
const LOAD_PREFIX: &str = "load-";
/// Before load id, chunk and attempt: the name of a staged chunk's manifest. No
/// snapshot ever refers to one.
const STAGED_PREFIX: &str = "staged-";

impl Target for IcebergTable {
    fn location(&self) -> Result<String, WriterError> {
        let loaded = self.catalog.load(&self.name)?;
        Ok(match loaded {
            Some(loaded) => loaded.metadata.location().to_owned(),
            None if self.new_location.is_empty() => self.name.to_string(),
            None => self.new_location.clone(),
        })
    }

    fn max_file_bytes(&self) -> u64 {
        self.max_file_bytes
    }

    fn check_partitioning(&self, columns: &[&str]) -> Result<(), WriterError> {
        partition::parse(&self.partition_regex, columns).map(|_| ())
    }

    fn typed_columns(&self, columns: &[&str]) -> Result<Vec<usize>, WriterError> {
        let fields = partition::parse(&self.partition_regex, columns)?;
        let mut places: Vec<_> = fields.iter().filter_map(|field| field.source).collect();
        places.sort_unstable();
        places.dedup();
        Ok(places)
    }

    fn takes(&self, _kind: Kind) -> bool {
        true
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
        stage::begin(self, request, source, &layout)
    }

    fn aside(&self, load_id: &str) -> Result<Place, WriterError> {
        let loaded = self.load()?;
        self.aside_of(loaded.as_ref().map(|loaded| &loaded.metadata), load_id)
    }

    fn complete(
        &self,
        request: &CompleteRequest,
        options: &Options,
    ) -> Result<CompleteResponse, WriterError> {
        let Some(base) = self.load()? else { return Ok(complete::missing("it is not there")) };
        let current = position::of(&base.metadata);
        let current = current.commit_id().unwrap_or_default();
        complete::check_commit(&self.name.to_string(), request, current)?;
        let place = self.aside_of(Some(&base.metadata), complete::load_id(request)?)?;
        complete::complete(&Lookup { table: self, base: &base }, &place, request, options)
    }

    fn commit(&self, request: &CommitRequest) -> Result<Committed, WriterError> {
        commit::commit(self, request)
    }

    fn drop_table(&self) -> Result<bool, WriterError> {
        drop::drop_table(self)
    }
}
