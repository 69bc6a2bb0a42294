//! End-to-end tests: the real programs, a real PostgreSQL, and readers that
//! are not ours. Each file is one subject; names are sentences.

mod bad_input;
mod capture;
mod connections;
mod consistency;
mod deployed;
mod follow;
mod from_python;
mod iceberg;
mod incremental;
mod interrupt;
mod json_rows;
mod kill;
mod large_rows;
mod limits;
mod observed;
mod operations;
mod parquet_s3;
mod partitions;
mod random;
mod relations;
mod replace;
mod resume;
mod rolling;
mod secured;
mod sessions;
mod shop;
mod split_column;
mod ssh;
mod state;
mod status;
mod terminal;
mod types;
mod writers;

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};
use tests::postgres::Database;
use tests::run::Project;

/// A file of `fixtures/`.
fn fixture(name: &str) -> PathBuf {
    tests::parts::package().join("fixtures").join(name)
}

/// A database made by `sql`, and a project on it whose `streams.json` is
/// discovered.
fn project(label: &str, sql: &str) -> Result<Project> {
    let database = Database::new(label)?;
    database.psql(sql)?;
    let project = Project::new(&database)?;
    project.discover()?;
    Ok(project)
}

/// Nothing beyond the defaults: normalization is on, as the destination says.
fn plain() -> Value {
    json!({})
}
