//! Who knows the tables: which metadata of a table is the current one.
//!
//! A [`Catalog`] has one operation that matters, [`Catalog::swap`]: this
//! metadata becomes the current one if that one still is. Everything else about
//! commits is above it.
//!
//! - [`pointer`]: what catalogs have in common that only hold the location of
//!   a metadata file
//! - [`sql`]: the tables of a JDBC catalog
//! - [`sqlite`], [`postgres`]: the databases they may lie in; [`jdbc_url`]: the
//!   way to the latter
//! - [`glue`]: AWS Glue
//! - [`hive`]: a Hive metastore
//! - [`hive_type`]: what a column's type is called in a catalog of Hive's kind
//! - [`rest`]: catalogs that keep the metadata themselves

pub mod glue;
#[cfg(feature = "hive")]
pub mod hive;
pub mod hive_type;
pub mod jdbc_url;
pub mod pointer;
pub mod postgres;
pub mod rest;
pub mod sql;
pub mod sqlite;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use proto::v1::Iceberg;
use proto::v1::iceberg::Catalog as Configured;

use super::storage::{self, Storage};
use crate::Options;
use crate::allow;
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
    /// Tags that must not be there. They say what makes a base unfit to a
    /// catalog that would put two changes of it together.
    pub absent: Vec<String>,
}

/// A swap of one table among several, in the form that catalogs are sent it:
/// without the metadata themselves.
#[derive(Debug)]
pub struct TableChange {
    /// Whose.
    pub table: TableName,
    /// What must be true of the table.
    pub requirements: Vec<TableRequirement>,
    /// What changes.
    pub updates: Vec<TableUpdate>,
}

impl TableChange {
    /// `next` as a change of `base`.
    pub fn of(table: &TableName, base: &Loaded, next: &Next) -> Self {
        TableChange {
            table: table.clone(),
            requirements: rest::changes::requirements(&base.metadata, next),
            updates: rest::changes::updates(&base.metadata, next),
        }
    }
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

    /// Tries `probe` on the metadata directory of a table that is made for it,
    /// with its namespace, where files may lie in tables only; whether it did.
    fn check_inside(
        &self,
        _table: &TableName,
        _probe: &dyn Fn(&str) -> Result<(), WriterError>,
    ) -> Result<bool, WriterError> {
        Ok(false)
    }

    /// Whether the catalog writes the metadata files, and removes old ones.
    fn owns_metadata_files(&self) -> bool {
        false
    }

    /// Fails now where creating the table would; may create its namespace.
    fn make_ready(&self, _table: &TableName) -> Result<(), WriterError> {
        Ok(())
    }

    /// Whether the catalog decides where a table lies, how its fields are
    /// numbered and how its files are reached: then a new one is created before
    /// anything is staged for it.
    fn places_tables(&self) -> bool {
        false
    }

    /// Makes a table without content, if there is none; load it to know it.
    fn create_empty(
        &self,
        table: &TableName,
        _metadata: &TableMetadata,
    ) -> Result<(), WriterError> {
        Err(WriterError::Internal(format!("{table} is created by its first commit")))
    }

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

    /// Whether the catalog says that it can swap several tables in one step, and
    /// has not refused to lately.
    fn swaps_together(&self) -> Result<bool, WriterError> {
        Ok(false)
    }

    /// Swaps all of the tables, of this catalog, or none. `None`: it does not,
    /// though each by itself may be swapped.
    fn swap_all(&self, _changes: &[&TableChange]) -> Result<Option<Swap>, WriterError> {
        Ok(None)
    }

    /// Forgets the table, provided that `base` still is; whether it did.
    /// Deletes no file.
    fn drop_table(&self, table: &TableName, base: &Loaded) -> Result<bool, WriterError>;
}

/// A catalog, and the storage of a table of it.
pub type Opened = (Box<dyn Catalog>, Arc<dyn Storage>);

/// The catalog that a destination names, and the storage that this table of it
/// is in, or is to be. Connects to nothing yet; call it within a runtime.
pub fn open(
    iceberg: &Iceberg,
    table: &TableName,
    options: &Options,
) -> Result<Opened, WriterError> {
    if let Some(Configured::Rest(rest)) = &iceberg.catalog {
        return rest::open(rest, iceberg, table, options);
    }
    let storage = storage::open(iceberg, options)?;
    let of_catalog = Arc::clone(&storage);
    let catalog: Box<dyn Catalog> = match &iceberg.catalog {
        Some(Configured::Jdbc(jdbc)) => {
            if let Some(file) = jdbc.url.strip_prefix("jdbc:sqlite:") {
                allow::demand(&options.allow, file)?;
            }
            Box::new(sql::SqlCatalog::new(jdbc, of_catalog)?)
        }
        Some(Configured::Glue(glue)) => {
            let settings = iceberg.s3.clone().unwrap_or_default();
            Box::new(glue::GlueCatalog::new(glue, &settings, of_catalog)?)
        }
        #[cfg(feature = "hive")]
        Some(Configured::Hive(hive)) => Box::new(hive::HiveCatalog::new(hive, of_catalog)?),
        #[cfg(not(feature = "hive"))]
        Some(Configured::Hive(_)) => {
            return Err(WriterError::invalid_table(
                "this writer-svc was built without Hive metastores",
                "use one that was built with the feature hive, as it is by default",
            ));
        }
        Some(Configured::Rest(_)) | None => {
            return Err(WriterError::InvalidRequest("the destination names no catalog".into()));
        }
    };
    Ok((catalog, storage))
}

#[cfg(test)]
mod example;
