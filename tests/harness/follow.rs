//! Tables that are followed: a project that captures changes, and what a reader
//! makes of a destination that holds them.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use anyhow::{Context, Result, bail, ensure};
use proto::lsn::Lsn;
use serde_json::{Value, json};

use crate::builds::Build;
use crate::compare::{Cell, Row, Rows, same_rows};
use crate::iceberg::engine::Engine as IcebergEngine;
use crate::iceberg::pair::{Catalog, Pair, Store};
use crate::iceberg::verify::iceberg_type;
use crate::iceberg::warehouse::Warehouse;
use crate::postgres::{Database, Options, Server};
use crate::reader::{Engine, ReadTable, read_all};
use crate::run::{Outcome, Project};
use crate::truth::destination_name;
use crate::verify::{Expected, quoted};

/// The server that tests of change capture share, of a given build. A slot is
/// made only when every transaction of the whole server that has written has
/// ended: other tests hold some open for long.
pub fn server(build: &Build) -> Result<Arc<Server>> {
    static SHARED: Mutex<Option<HashMap<u32, Weak<Server>>>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let shared = shared.get_or_insert_default();
    if let Some(server) = shared.get(&build.major).and_then(Weak::upgrade) {
        return Ok(server);
    }
    let server = Arc::new(start(build)?);
    shared.insert(build.major, Arc::downgrade(&server));
    Ok(server)
}

/// A server of one's own, as [`server`].
pub fn start(build: &Build) -> Result<Server> {
    let options = Options::default()
        .set("max_replication_slots", 100)
        .set("max_wal_senders", 100)
        .set("max_prepared_transactions", 100)
        // A sync ends where the log is flushed: what is committed must be.
        .set("synchronous_commit", "on");
    Server::start_build(build, &options)
}

/// A project on a new database of `build`'s server whose streams are followed
/// through a slot of its name: `sql` is run, and everything is discovered.
pub fn project_on(build: &Build, label: &str, sql: &str) -> Result<Project> {
    project_at(&server(build)?, label, sql)
}

/// The same on this server.
pub fn project_at(server: &Arc<Server>, label: &str, sql: &str) -> Result<Project> {
    let database = Database::on(server, label)?;
    database.psql(sql)?;
    let project = Project::new(&database)?;
    project.edit("source.json", |source| {
        source["default_mode"] = "cdc".into();
        source["update_method"] = json!({"replication_slot": slot(&project)});
    })?;
    project.discover()?;
    Ok(project)
}

/// The same on the newest build.
pub fn project(label: &str, sql: &str) -> Result<Project> {
    project_on(&Build::newest()?, label, sql)
}

/// The project's slot.
pub fn slot(project: &Project) -> String {
    project.database().name.clone()
}

/// What the summary on stdout says of one stream.
pub fn outcome(stdout: &str, stream: &str) -> Result<Value> {
    let line = stdout.lines().last().context("no summary was printed")?;
    let summary: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let streams = summary["streams"].as_array().cloned().unwrap_or_default();
    let found = streams.into_iter().find(|entry| entry["stream"] == stream);
    found.with_context(|| format!("{stream} is not in {line}"))
}

/// Every stream ("schema.table") equals its relation: Parquet tables read by
/// DuckDB and reduced by key.
pub fn equals_source(project: &Project, streams: &[&str]) -> Result<()> {
    let expected = relations(project, streams)?;
    let directories: Vec<PathBuf> =
        expected.iter().map(|stream| project.table(&stream.namespace, &stream.name)).collect();
    let tables = read_all(Engine::DuckDb, &directories)?;
    let mut faults = Vec::new();
    for (stream, table) in expected.iter().zip(&tables) {
        if let Err(error) = equal_reduced(stream, table) {
            faults.push(format!("{}.{}: {error:#}", stream.namespace, stream.name));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Every stream equals its relation: Iceberg tables, by the engines that know
/// equality deletes. `soft`: but for rows that are kept as deleted ones.
pub fn lake_equals_source(
    warehouse: &Warehouse,
    project: &Project,
    streams: &[&str],
    soft: bool,
) -> Result<()> {
    let engines = [IcebergEngine::DuckDb, IcebergEngine::ClickHouse];
    lake_equals_source_by(&engines, warehouse, project, streams, soft)
}

/// The same, by these engines.
pub fn lake_equals_source_by(
    engines: &[IcebergEngine],
    warehouse: &Warehouse,
    project: &Project,
    streams: &[&str],
    soft: bool,
) -> Result<()> {
    let expected = relations(project, streams)?;
    let names: Vec<String> = expected
        .iter()
        .map(|stream| {
            warehouse.table_of(project, &stream.namespace, &stream.name).name().to_owned()
        })
        .collect();
    let mut faults = Vec::new();
    for &engine in engines {
        let tables = engine.read(&warehouse.client(), &names)?;
        for (stream, table) in expected.iter().zip(&tables) {
            let kinds: Vec<String> = stream.columns.iter().map(iceberg_type).collect();
            let told = engine.tells(&stream.rows, &kinds);
            let live = if soft { without_deleted(&table.rows)? } else { table.rows.clone() };
            let compared = live
                .project(&stream.rows.columns)
                .and_then(|rows| same_rows(&told, &rows, &stream.key));
            if let Err(error) = compared {
                faults
                    .push(format!("{}.{} by {engine:?}: {error:#}", stream.namespace, stream.name));
            }
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The rows that are not kept as deleted ones.
fn without_deleted(rows: &Rows) -> Result<Rows> {
    let [op, _] = places_of(rows)?;
    let live = rows.rows.iter().filter(|row| row[op].as_str() != Some("d")).cloned();
    Ok(Rows { columns: rows.columns.clone(), rows: live.collect() })
}

/// What the relations hold; [`Expected::key`] is what changes tell rows apart by.
fn relations(project: &Project, streams: &[&str]) -> Result<Vec<Expected>> {
    let mut expected = crate::verify::relations(project, streams)?;
    for stream in &mut expected {
        let identity = project.database().psql(&format!(
            "SELECT a.attname FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
             WHERE c.oid = '{}'::regclass
             AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
             ORDER BY a.attnum",
            quoted(&stream.namespace, &stream.name)
        ))?;
        stream.key = identity.lines().map(destination_name).collect();
    }
    Ok(expected)
}

fn equal_reduced(expected: &Expected, table: &ReadTable) -> Result<()> {
    let rows = match expected.key.is_empty() {
        true => inserted(&table.rows)?,
        false => reduced(&table.rows, &expected.key)?,
    };
    same_rows(&expected.rows, &rows.project(&expected.rows.columns)?, &expected.key)
}

/// What is left when of each key the newest change counts.
fn reduced(rows: &Rows, key: &[String]) -> Result<Rows> {
    let key_places = places(rows, key)?;
    let [op, lsn] = places_of(rows)?;
    let [id] = places(rows, &["_olake_id".to_owned()])?[..] else { bail!("one place") };
    let mut newest: BTreeMap<Row, (Option<Lsn>, &Row)> = BTreeMap::new();
    for row in &rows.rows {
        let key: Row = key_places.iter().map(|&at| row[at].clone()).collect();
        let at = position(row, op, lsn)?;
        match newest.get(&key) {
            Some((_, other)) if other[id] != row[id] => {
                bail!("the key {key:?} is {} and {}", other[id], row[id])
            }
            Some((known, _)) if *known == at => {
                bail!("two rows of the key {key:?} are of one transaction ({at:?})")
            }
            Some((known, _)) if *known > at => {}
            _ => {
                newest.insert(key, (at, row));
            }
        }
    }
    let live = newest.into_values().map(|(_, row)| row);
    let live = live.filter(|row| row[op].as_str() != Some("d")).cloned();
    Ok(Rows { columns: rows.columns.clone(), rows: live.collect() })
}

/// The rows of a table without a key: those that came, without as many as went.
fn inserted(rows: &Rows) -> Result<Rows> {
    let [op, lsn] = places_of(rows)?;
    let values = |row: &Row| -> Row {
        let metadata = |at: &usize| rows.columns[*at].starts_with('_');
        (0..row.len()).filter(|at| !metadata(at)).map(|at| row[at].clone()).collect()
    };
    let mut went: BTreeMap<Row, usize> = BTreeMap::new();
    for row in &rows.rows {
        position(row, op, lsn)?;
        if row[op].as_str() == Some("d") {
            *went.entry(values(row)).or_default() += 1;
        }
    }
    let mut live = Vec::new();
    for row in rows.rows.iter().filter(|row| row[op].as_str() != Some("d")) {
        match went.get_mut(&values(row)).filter(|went| **went > 0) {
            Some(went) => *went -= 1,
            None => live.push(row.clone()),
        }
    }
    ensure!(went.values().all(|left| *left == 0), "rows went that had not come: {went:?}");
    Ok(Rows { columns: rows.columns.clone(), rows: live })
}

/// Where in the log a row is of; none: of the load. The metadata must agree.
fn position(row: &Row, op: usize, lsn: usize) -> Result<Option<Lsn>> {
    match (row[op].as_str(), &row[lsn]) {
        (Some("r"), Cell::Null) => Ok(None),
        (Some("c" | "u" | "d"), Cell::Text(text)) => Ok(Some(text.parse()?)),
        (op, lsn) => bail!("a row has _op_type {op:?} and _cdc_lsn {lsn}"),
    }
}

fn places_of(rows: &Rows) -> Result<[usize; 2]> {
    let found = places(rows, &["_op_type".to_owned(), "_cdc_lsn".to_owned()])?;
    Ok([found[0], found[1]])
}

fn places(rows: &Rows, columns: &[String]) -> Result<Vec<usize>> {
    columns
        .iter()
        .map(|name| {
            let place = rows.columns.iter().position(|known| known == name);
            place.with_context(|| format!("no column {name}; there are {:?}", rows.columns))
        })
        .collect()
}

/// Where the tables go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// Changes are appended.
    Parquet,
    /// A table of a local warehouse, with a catalog in SQLite.
    Iceberg,
}

/// Tables that are followed.
#[derive(Debug)]
pub struct Followed {
    /// Whose streams they are.
    pub project: Project,
    /// Where they lie; none: plain Parquet.
    pub lake: Option<Warehouse>,
    /// Deleted rows are kept.
    pub soft: bool,
}

impl Followed {
    /// Everything that `sql` makes is selected.
    pub fn new(into: Into, label: &str, sql: &str) -> Result<Followed> {
        Followed::on(&Build::newest()?, into, label, sql)
    }

    /// On the shared server of a build.
    pub fn on(build: &Build, into: Into, label: &str, sql: &str) -> Result<Followed> {
        Followed::at(&server(build)?, into, label, sql)
    }

    /// On this server.
    pub fn at(server: &Arc<Server>, into: Into, label: &str, sql: &str) -> Result<Followed> {
        Followed::of(project_at(server, label, sql)?, into)
    }

    /// A project's tables.
    pub fn of(project: Project, into: Into) -> Result<Followed> {
        let lake = match into {
            Into::Parquet => None,
            Into::Iceberg => {
                let lake = Warehouse::start(Pair::new(Catalog::Sqlite, Store::Local))?;
                project.write("destination.json", &lake.destination())?;
                Some(lake)
            }
        };
        Ok(Followed { project, lake, soft: false })
    }

    /// Deleted rows are kept from now on.
    pub fn keeping_deleted(mut self) -> Result<Followed> {
        self.project.edit("destination.json", |destination| {
            destination["writer"]["delete_mode"] = "soft".into();
        })?;
        self.soft = true;
        Ok(self)
    }

    /// As [`Database::psql`].
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.project.database().psql(sql)
    }

    /// Syncs, which must succeed.
    pub fn sync(&self) -> Result<Outcome> {
        self.project.sync()
    }

    /// Takes `state.json` away.
    pub fn lose_state(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.project.path().join("state.json"))?)
    }

    /// What is kept beside the tables of what the state certifies.
    pub fn certificate(&self) -> Result<Option<PathBuf>> {
        let root = self
            .lake
            .as_ref()
            .map_or_else(|| self.project.output(), |lake| lake.directory().join("files"));
        let Ok(entries) = std::fs::read_dir(root.join(".tidewater")) else { return Ok(None) };
        let names = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        Ok(names.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "json")))
    }

    /// The streams' tables are what the source is now.
    pub fn equals(&self, streams: &[&str]) -> Result<()> {
        match &self.lake {
            None => equals_source(&self.project, streams),
            Some(lake) => lake_equals_source(lake, &self.project, streams, self.soft),
        }
    }

    /// As [`Self::equals`], of Iceberg tables that not every engine can read.
    pub fn equals_by_duckdb(&self, streams: &[&str]) -> Result<()> {
        let lake = self.lake.as_ref().context("a lake")?;
        let engines = [IcebergEngine::DuckDb];
        lake_equals_source_by(&engines, lake, &self.project, streams, self.soft)
    }

    /// Syncs, and the tables are what the source is.
    pub fn sync_equals(&self, streams: &[&str]) -> Result<Outcome> {
        let outcome = self.sync()?;
        self.equals(streams)?;
        Ok(outcome)
    }

    /// How a stream came to its content, as the summary says.
    pub fn how(outcome: &Outcome, stream: &str) -> Result<String> {
        let found = self::outcome(&outcome.stdout, stream)?;
        Ok(found["how"].as_str().unwrap_or_default().to_owned())
    }

    /// Selects exactly these streams.
    pub fn select(&self, streams: &[&str]) -> Result<()> {
        self.project.select(streams, json!({}))
    }
}
