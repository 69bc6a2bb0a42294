//! Incremental syncs: rows are added by a cursor, to Parquet and to Iceberg
//! tables, read back by engines that are not ours.

mod bad_input;
mod cursors;
mod doubt;
mod kill;
mod writers;

use anyhow::{Context, Result};
use serde_json::json;
use tests::follow;
use tests::iceberg::engine::Engine as Lake;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::warehouse::Warehouse;
use tests::increments;
use tests::reader::{Engine, read};
use tests::run::{Outcome, Project};

/// Where the tables go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Into {
    Parquet,
    Iceberg,
}

/// Tables that are read incrementally.
struct Incremental {
    project: Project,
    lake: Option<Warehouse>,
}

impl Incremental {
    /// Everything that `sql` makes, by these cursors.
    fn new(into: Into, label: &str, sql: &str, cursors: &[(&str, &str)]) -> Result<Incremental> {
        let project = crate::project(label, sql)?;
        increments::follow_cursors(&project, cursors)?;
        let lake = match into {
            Into::Parquet => None,
            Into::Iceberg => {
                let lake = Warehouse::start(Pair::new(Catalog::Sqlite, Store::Local))?;
                project.write("destination.json", &lake.destination())?;
                Some(lake)
            }
        };
        Ok(Incremental { project, lake })
    }

    fn psql(&self, sql: &str) -> Result<String> {
        self.project.database().psql(sql)
    }

    fn sync(&self) -> Result<Outcome> {
        self.project.sync()
    }

    /// The streams' tables hold what the source does, each row as often.
    fn equals(&self, streams: &[&str]) -> Result<()> {
        match &self.lake {
            None => increments::equals_source(&self.project, streams),
            Some(lake) => follow::lake_equals_source(lake, &self.project, streams, false),
        }
    }

    fn sync_equals(&self, streams: &[&str]) -> Result<Outcome> {
        let outcome = self.sync()?;
        self.equals(streams)?;
        Ok(outcome)
    }

    /// How many rows a table has, and the sum of one of its columns, as DuckDB
    /// reads it and psql prints it.
    fn counted(&self, table: &str, column: &str) -> Result<String> {
        let rows = match &self.lake {
            None => read(Engine::DuckDb, &self.project.table("public", table))?.rows,
            Some(lake) => lake.table_of(&self.project, "public", table).read(Lake::DuckDb)?.rows,
        };
        let mut sum = 0;
        for cell in rows.column(column)? {
            sum += cell.as_str().context("a number")?.parse::<i64>()?;
        }
        Ok(format!("{}|{sum}", rows.rows.len()))
    }

    /// How many rows a sync has read of a stream, as its summary says.
    fn rows(outcome: &Outcome, stream: &str) -> Result<u64> {
        let found = follow::outcome(&outcome.stdout, stream)?;
        Ok(found["rows"].as_u64().unwrap_or_default())
    }

    /// How a stream came to its content.
    fn how(outcome: &Outcome, stream: &str) -> Result<String> {
        let found = follow::outcome(&outcome.stdout, stream)?;
        Ok(found["how"].as_str().unwrap_or_default().to_owned())
    }

    /// Every version of a row stays.
    fn append_mode(&self, streams: &[&str]) -> Result<()> {
        self.project.select(streams, json!({"append_mode": true}))
    }
}
