//! Who reads, and what each cannot tell.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::client::Client;
use super::spark::Spark;
use crate::compare::{Cell, Rows};
use crate::reader::{ReadTable, tables_in};

/// An engine that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// PyIceberg, through the catalog.
    PyIceberg,
    /// DuckDB's `iceberg_scan` of the catalog's metadata file.
    DuckDb,
    /// ClickHouse's (chdb) `icebergLocal` and `icebergS3` of that file.
    ClickHouse,
    /// Spark, by Iceberg's own reader, of that file.
    Spark,
}

impl Engine {
    /// Every engine.
    pub const ALL: [Engine; 4] =
        [Engine::PyIceberg, Engine::DuckDb, Engine::ClickHouse, Engine::Spark];

    /// What `iceberg.py` calls it.
    fn name(self) -> &'static str {
        match self {
            Engine::PyIceberg => "pyiceberg",
            Engine::DuckDb => "duckdb",
            Engine::ClickHouse => "clickhouse",
            Engine::Spark => "spark",
        }
    }

    /// A request of `iceberg.py` with the engine that is to fulfil it.
    pub fn asked(self, mut request: Value) -> Result<Value> {
        request["engine"] = self.name().into();
        if self == Engine::Spark {
            request["spark"] = Spark::shared()?.socket().to_string_lossy().into();
        }
        Ok(request)
    }

    /// Whether it applies equality deletes to a table that is partitioned, or not.
    ///
    /// PyIceberg refuses tables that have any. ClickHouse looks for those of a data
    /// file under the spec of that file only, and misses those that the
    /// specification means for all partitions: of an unpartitioned spec.
    pub fn applies_equality_deletes(self, is_partitioned: bool) -> bool {
        match self {
            Engine::PyIceberg => false,
            Engine::DuckDb | Engine::Spark => true,
            Engine::ClickHouse => !is_partitioned,
        }
    }

    /// Reads tables ("namespace.table") with one start of the engine. In
    /// [`ReadTable::types`] are Iceberg's types, as the table's schema has them.
    pub fn read(self, client: &Client, tables: &[String]) -> Result<Vec<ReadTable>> {
        let text = client.call("read", self.asked(json!({"tables": tables}))?)?;
        tables_in(&text, tables.len())
    }

    /// Reads a table as it was with a snapshot, under the schema of then.
    pub fn read_at(self, client: &Client, table: &str, snapshot: i64) -> Result<ReadTable> {
        let request = self.asked(json!({"tables": [table], "snapshot": snapshot}))?;
        let mut tables = tables_in(&client.call("read", request)?, 1)?;
        tables.pop().context("the reader printed no table")
    }

    /// What the engine tells of rows whose columns have these Iceberg types.
    ///
    /// PyIceberg and DuckDB tell everything. ClickHouse has no null arrays (they
    /// are empty), no dates outside 0000-01-01 to 9999-12-31 (they end there) and
    /// no time type (it counts whole seconds). Spark has no time type either: of a
    /// table with one it tells neither that column nor any list.
    pub fn tells(self, rows: &Rows, kinds: &[String]) -> Rows {
        let is_time = |kind: &String| ["time", "list<time>"].contains(&kind.as_str());
        let timed = kinds.iter().any(is_time);
        let tell = |cell: &mut Cell, kind: &String| match self {
            Engine::ClickHouse => clickhouse(cell, kind),
            Engine::Spark if is_time(kind) || timed && kind.starts_with("list<") => {
                *cell = Cell::Null;
            }
            Engine::PyIceberg | Engine::DuckDb | Engine::Spark => {}
        };
        let mut told = rows.clone();
        for row in &mut told.rows {
            row.iter_mut().zip(kinds).for_each(|(cell, kind)| tell(cell, kind));
        }
        told
    }
}

fn clickhouse(cell: &mut Cell, kind: &str) {
    if let Some(element) = kind.strip_prefix("list<").and_then(|rest| rest.strip_suffix('>')) {
        match cell {
            Cell::List(items) => items.iter_mut().for_each(|item| clickhouse(item, element)),
            other => *other = Cell::List(Vec::new()),
        }
        return;
    }
    let Cell::Text(text) = cell else { return };
    match kind {
        "time" => text.truncate("00:00:00".len()),
        // The year 0 is 1 BC.
        "date" if text.ends_with(" BC") && !text.starts_with("0001-") => {
            *text = "0001-01-01 BC".to_owned();
        }
        "date" if text.find('-').is_some_and(|year| year > 4) => *text = "9999-12-31".to_owned(),
        _ => {}
    }
}
