//! Change capture: load, then changes, into Parquet and Iceberg tables, read
//! back by engines that are not ours.

mod doubt;
mod handoff;
mod kill;
mod kinds;
mod random;
mod refusals;
mod reload;
mod strict;

use anyhow::Result;
use serde_json::json;
use tests::builds::Build;
use tests::follow;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::warehouse::Warehouse;
use tests::run::{Outcome, Project};

/// Where the tables go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Into {
    Parquet,
    Iceberg,
}

/// Tables that are followed.
struct Followed {
    project: Project,
    lake: Option<Warehouse>,
}

impl Followed {
    /// Everything that `sql` makes is selected.
    fn new(into: Into, label: &str, sql: &str) -> Result<Followed> {
        Followed::on(&Build::newest()?, into, label, sql)
    }

    fn on(build: &Build, into: Into, label: &str, sql: &str) -> Result<Followed> {
        let project = follow::project_on(build, label, sql)?;
        let lake = match into {
            Into::Parquet => None,
            Into::Iceberg => {
                let lake = Warehouse::start(Pair::new(Catalog::Sqlite, Store::Local))?;
                project.write("destination.json", &lake.destination())?;
                Some(lake)
            }
        };
        Ok(Followed { project, lake })
    }

    fn psql(&self, sql: &str) -> Result<String> {
        self.project.database().psql(sql)
    }

    fn sync(&self) -> Result<Outcome> {
        self.project.sync()
    }

    /// The streams' tables are what the source is now.
    fn equals(&self, streams: &[&str]) -> Result<()> {
        match &self.lake {
            None => follow::equals_source(&self.project, streams),
            Some(lake) => follow::lake_equals_source(lake, &self.project, streams),
        }
    }

    /// Syncs, and the tables are what the source is.
    fn sync_equals(&self, streams: &[&str]) -> Result<Outcome> {
        let outcome = self.sync()?;
        self.equals(streams)?;
        Ok(outcome)
    }

    /// How a stream came to its content, as the summary says.
    fn how(outcome: &Outcome, stream: &str) -> Result<String> {
        let found = follow::outcome(&outcome.stdout, stream)?;
        Ok(found["how"].as_str().unwrap_or_default().to_owned())
    }

    fn slot_is_at_the_end(&self) -> Result<bool> {
        let answer = self.psql(&format!(
            "SELECT pg_current_wal_lsn() - confirmed_flush_lsn < 100000 FROM pg_replication_slots
             WHERE slot_name = '{}'",
            follow::slot(&self.project)
        ))?;
        Ok(answer == "t")
    }

    /// Selects exactly these streams.
    fn select(&self, streams: &[&str]) -> Result<()> {
        self.project.select(streams, json!({}))
    }
}
