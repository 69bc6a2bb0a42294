//! Which rows belong to which partition.
//!
//! `partition_regex` means directories for Parquet tables ([`directories`]) and
//! the fields of a partition spec for Iceberg's ([`crate::iceberg::partition`]).
//! Either way a partition has a name of its own, rows are sorted by it, and
//! its files are written one after the other.
//!
//! - [`syntax`]: the text → literals and braces; columns by their names
//! - [`template`]: the text → components of a path, with all its faults
//! - [`path`]: any value → a component that stays where it belongs
//! - [`directories`]: rows → paths
//! - [`groups`]: rows with equal keys → the rows of each partition

pub mod directories;
pub mod groups;
pub mod path;
pub mod syntax;
pub mod template;

use arrow::array::{RecordBatch, UInt32Array};

use crate::error::WriterError;

/// Tells the rows of a batch apart by their partitions.
pub trait Split: Send {
    /// The rows of each partition, ascending; partitions by name, in the order
    /// of their first row. Every row is in exactly one. `laid_out` are the rows
    /// of `source` as the destination has them.
    fn split(
        &self,
        source: &RecordBatch,
        laid_out: &RecordBatch,
    ) -> Result<Vec<(String, UInt32Array)>, WriterError>;
}
