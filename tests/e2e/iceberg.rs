//! Iceberg tables: every catalog with every store, read by engines that are
//! not ours.

mod bad_input;
mod commits;
mod full_refresh;
mod proof;
mod pruning;

use anyhow::Result;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::warehouse::Warehouse;
use tests::postgres::Database;
use tests::run::Project;

/// SQLite and a directory: what needs no server.
const LOCAL: Pair = Pair::new(Catalog::Sqlite, Store::Local);

/// A database made by `sql`, and a project that writes its tables into a
/// warehouse of its own.
fn lake(label: &str, sql: &str) -> Result<(Warehouse, Project)> {
    let database = Database::new(label)?;
    database.psql(sql)?;
    let project = Project::new(&database)?;
    into_lake(project)
}

/// The project with a warehouse as its destination, discovered.
fn into_lake(project: Project) -> Result<(Warehouse, Project)> {
    let warehouse = Warehouse::start(LOCAL)?;
    project.write("destination.json", &warehouse.destination())?;
    project.discover()?;
    Ok((warehouse, project))
}

/// The arguments of `clear-destination` of everything in the project.
fn clear() -> [&'static str; 7] {
    let mut arguments = Project::SYNC;
    arguments[0] = "clear-destination";
    arguments
}
