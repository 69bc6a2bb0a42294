//! Who knows the tables: which metadata of a table is the current one.
//!
//! A [`Catalog`] has one operation that matters, [`Catalog::swap`]: this
//! metadata becomes the current one if that one still is. Everything else about
//! commits is above it.
//!
//! - [`pointer`]: what catalogs have in common that only hold the location of
//!   a metadata file
//! - [`sql`]: the tables of a JDBC catalog
//! - [`sqlite`], [`postgres`]: the databases they may lie in; [`jdbc_url`] and
//!   [`tls`]: the way to the latter
//! - [`glue`]: AWS Glue
//! - [`hive_type`]: what a column's type is called in a catalog of Hive's kind

pub mod glue;
pub mod hive_type;
pub mod jdbc_url;
pub mod pointer;
pub mod postgres;
pub mod sql;
pub mod sqlite;
pub mod tls;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use iceberg::TableUpdate;
use iceberg::spec::TableMetadata;
use proto::v1::Iceberg;
use proto::v1::iceberg::Catalog as Configured;

use super::storage::Storage;
use crate::error::WriterError;

/// A table's name in a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// One level.
    pub namespace: String,
    /// Unique in it.
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

/// A table as its catalog knows it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The current metadata.
    pub metadata: TableMetadata,
    /// Where they were read from.
    pub location: String,
}

/// What a table is to become.
#[derive(Debug)]
pub struct Next {
    /// All of it.
    pub metadata: TableMetadata,
    /// The same as changes of the base.
    pub changes: Vec<TableUpdate>,
}

/// What became of a swap.
#[derive(Debug)]
pub enum Swap {
    /// It is made.
    Swapped,
    /// The base is no longer current, or a table exists that should not.
    /// Where something between us and the catalog repeats requests, it may be
    /// our own swap that was found there.
    Conflict,
    /// It may have been made, or be made later.
    Unknown(WriterError),
}

/// A request to a catalog that failed.
#[derive(Debug)]
pub struct Failure {
    /// What the catalog or the connection said.
    pub source: Box<dyn Error + Send + Sync>,
    /// Whether it is certain to have changed nothing.
    pub undone: bool,
    /// Whether trying again may succeed.
    pub transient: bool,
    /// What to do about it; empty when that is not known.
    pub remedy: &'static str,
}

impl Failure {
    /// With what was being done, where.
    pub fn into_error(self, doing: String) -> WriterError {
        let Failure { source, transient, remedy, .. } = self;
        WriterError::Catalog { doing, transient, remedy, source }
    }
}

/// A catalog. Everything blocks.
pub trait Catalog: Send + Sync + fmt::Debug {
    /// Whether tables could be created, tried for real; leaves nothing behind.
    fn check(&self) -> Result<(), WriterError>;

    /// The table; `None`: there is no such table.
    fn load(&self, table: &TableName) -> Result<Option<Loaded>, WriterError>;

    /// The tables of a namespace, by name; none when it does not exist.
    fn list(&self, namespace: &str) -> Result<Vec<TableName>, WriterError>;

    /// Makes `next` the table, provided that `base` still is; without a base,
    /// that there is none: then the namespace is created, too, if need be. An
    /// error says that the swap is not made and never will be.
    fn swap(
        &self,
        table: &TableName,
        base: Option<&Loaded>,
        next: &Next,
    ) -> Result<Swap, WriterError>;

    /// Forgets the table, provided that `base` still is; whether it did.
    /// Deletes no file.
    fn drop_table(&self, table: &TableName, base: &Loaded) -> Result<bool, WriterError>;
}

/// The catalog that a destination names. Connects to nothing yet. Of Glue, call it
/// within a runtime.
pub fn open(iceberg: &Iceberg, storage: Arc<dyn Storage>) -> Result<Box<dyn Catalog>, WriterError> {
    match &iceberg.catalog {
        Some(Configured::Jdbc(jdbc)) => Ok(Box::new(sql::SqlCatalog::new(jdbc, storage)?)),
        Some(Configured::Glue(glue)) => {
            let settings = iceberg.s3.clone().unwrap_or_default();
            Ok(Box::new(glue::GlueCatalog::new(glue, &settings, storage)?))
        }
        None => Err(WriterError::InvalidRequest("the destination names no catalog".into())),
    }
}

#[cfg(test)]
mod example;
