//! The services called from Python (`examples/python`), by clients made of today's
//! protos and of released ones.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::compare::{Cell, Rows, same_rows};
use tests::iceberg::engine::Engine as IcebergEngine;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::warehouse::Warehouse;
use tests::postgres::{PASSWORD, USER};
use tests::python::{self, Python};
use tests::reader::{self, Engine, ReadTable};
use tests::run::Project;
use tests::services::Service;

use super::project;

/// The version whose protos clients out there have.
const RELEASED: &str = "0.1";

/// Rows with the ids in (`above`, `to`], of every type that the example knows.
fn insert(sqlite: &Path, above: u32, to: u32) -> Result<()> {
    python::sqlite(
        sqlite,
        &format!(
            "CREATE TABLE IF NOT EXISTS readings (id INTEGER PRIMARY KEY, station TEXT, \
                value REAL, good BOOLEAN, day DATE, at TIMESTAMP, raw BLOB);
             WITH RECURSIVE n(i) AS (SELECT {above} + 1 UNION ALL SELECT i + 1 FROM n WHERE i < {to})
             INSERT INTO readings SELECT i, CASE WHEN i % 5 THEN 'Straße ' || (i % 7) END, i / 4.0, \
                i % 2, printf('2026-02-%02d', i % 28 + 1), \
                printf('2026-02-01T12:00:%02d.%06d', i % 60, i), CAST(char(i % 100) AS BLOB) FROM n;"
        ),
    )
}

/// The same rows as PostgreSQL would show them.
fn expected(to: u32) -> Rows {
    let columns = ["id", "station", "value", "good", "day", "at", "raw"];
    let row = |i: u32| {
        let station = match i % 5 {
            0 => Cell::Null,
            _ => Cell::text(format!("Straße {}", i % 7)),
        };
        let fraction = format!("{i:06}");
        let fraction = fraction.trim_end_matches('0');
        vec![
            Cell::text(i.to_string()),
            station,
            Cell::text(format!("0x{:016x}", (f64::from(i) / 4.0).to_bits())),
            Cell::text(if i % 2 == 1 { "t" } else { "f" }),
            Cell::text(format!("2026-02-{:02}", i % 28 + 1)),
            Cell::text(format!("2026-02-01 12:00:{:02}.{fraction}+00", i % 60)),
            Cell::text(format!("\\x{:02x}", i % 100)),
        ]
    };
    Rows { columns: columns.map(str::to_owned).into(), rows: (1..=to).map(row).collect() }
}

fn same(to: u32, found: &[ReadTable]) -> Result<()> {
    let expected = expected(to);
    let key = ["id".to_owned()];
    found
        .iter()
        .try_for_each(|table| same_rows(&expected, &table.rows.project(&expected.columns)?, &key))
}

/// The example loads a table, says that there is nothing new, and adds what is.
fn replicates(
    python: &Python,
    destination: &Value,
    read: impl Fn() -> Result<Vec<ReadTable>>,
) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let (file, sqlite) = (path("destination.json"), path("source.db"));
    std::fs::write(&file, destination.to_string())?;
    let writer = Service::writer(&[])?;
    let (file, database) = (file.display().to_string(), sqlite.display().to_string());
    let arguments = [
        ["--writer", writer.address()],
        ["--destination", &file],
        ["--sqlite", &database],
        ["--table", "readings"],
    ]
    .concat();

    insert(&sqlite, 0, 25_000)?;
    let said = python.says("sqlite_source.py", &arguments)?;
    ensure!(said.contains("25000 rows, up to rowid 25000"), "{said}");
    same(25_000, &read()?)?;
    let said = python.says("sqlite_source.py", &arguments)?;
    ensure!(said.contains("up to date"), "{said}");
    insert(&sqlite, 25_000, 25_400)?;
    let said = python.says("sqlite_source.py", &arguments)?;
    ensure!(said.contains("400 rows, up to rowid 25400"), "{said}");
    same(25_400, &read()?)
}

fn into_parquet(python: &Python) -> Result<()> {
    let lake = tempfile::tempdir()?;
    let destination = json!({"parquet": {"local_path": lake.path()}});
    let table = lake.path().join("example/readings");
    replicates(python, &destination, || {
        Engine::ALL.into_iter().map(|engine| reader::read(engine, &table)).collect()
    })
}

fn into_iceberg(python: &Python) -> Result<()> {
    let warehouse = Warehouse::start(Pair::new(Catalog::Sqlite, Store::Local))?;
    let catalog = warehouse.wire().catalog;
    let Some(proto::v1::iceberg::Catalog::Jdbc(jdbc)) = catalog else {
        anyhow::bail!("SQLite's catalog is a JDBC catalog");
    };
    let destination = json!({"iceberg": {
        "warehouse": warehouse.location(),
        "jdbc": {"url": jdbc.url, "catalog_name": jdbc.catalog_name},
    }});
    let table = warehouse.table("example.readings");
    replicates(python, &destination, || {
        let engines = [IcebergEngine::PyIceberg, IcebergEngine::DuckDb];
        engines.into_iter().map(|engine| table.read(engine)).collect()
    })
}

#[test]
fn a_source_in_python_fills_parquet_files() -> Result<()> {
    into_parquet(&Python::of(&python::protos())?)
}

#[test]
fn a_source_in_python_fills_an_iceberg_table() -> Result<()> {
    into_iceberg(&Python::of(&python::protos())?)
}

#[test]
fn a_client_of_the_released_protos_works_with_the_services_of_today() -> Result<()> {
    let python = Python::of(&python::protos_of(RELEASED))?;
    into_parquet(&python)?;
    into_iceberg(&python)?;
    discovers(&python)
}

#[test]
fn nothing_that_was_released_changes_in_the_protos() -> Result<()> {
    let released = python::protos_of(RELEASED);
    let broken = python::incompatibilities(&released, &python::protos())?;
    ensure!(broken.is_empty(), "{broken:#?}");

    // What would break is seen.
    for (text, with, expected) in [
        ("string commit_id = 1;", "string commit_id = 99;", "is gone, and not reserved"),
        ("uint64 batches = 2;", "int64 batches = 2;", "TYPE_INT64"),
        ("uint64 batches = 2;", "uint64 parts = 2;", "parts"),
        ("MODE_APPEND = 2;", "MODE_ADD = 2;", "MODE_ADD"),
        ("returns (DropResponse);", "returns (stream DropResponse);", "True"),
        ("  uint64 batches = 2;", "  reserved 2;", "name batches: 2 is gone"),
    ] {
        let changed = tempfile::tempdir()?;
        let directory = changed.path().join("tidewater/v1");
        std::fs::create_dir_all(&directory)?;
        for name in ["common.proto", "source.proto", "writer.proto"] {
            let file = released.join("tidewater/v1").join(name);
            let before = std::fs::read_to_string(file)?;
            std::fs::write(directory.join(name), before.replace(text, with))?;
        }
        let broken = python::incompatibilities(&released, changed.path())?;
        ensure!(broken.iter().any(|line| line.contains(expected)), "{with}: {broken:?}");
        // What comes new breaks no one.
        let broken = python::incompatibilities(changed.path(), changed.path())?;
        ensure!(broken.is_empty(), "{with}: {broken:?}");
    }
    Ok(())
}

fn source_config(project: &Project) -> Value {
    let database = project.database();
    json!({
        "host": "127.0.0.1", "port": database.server.port(), "database": database.name,
        "username": USER, "password": PASSWORD, "max_threads": 1, "reader_batch_size": 1000,
    })
}

fn discovers(python: &Python) -> Result<()> {
    let project = project(
        "from_python",
        "CREATE TABLE orders (id int, line int, price numeric(10,2), PRIMARY KEY (id, line));
         CREATE VIEW cheap AS SELECT id FROM orders WHERE price < 1;",
    )?;
    project.write("config.json", &source_config(&project))?;
    let source = Service::source(&[])?;
    let config = project.path().join("config.json").display().to_string();
    let arguments = ["--source", source.address(), "--config", &config];
    let said = python.says("discover.py", &arguments)?;
    for line in [
        "public.cheap (id integer_small) key ()",
        "public.orders (id integer_small, line integer_small, price decimal(10,2)) key (id, line)",
    ] {
        ensure!(said.lines().any(|said| said == line), "{said}");
    }
    Ok(())
}

#[test]
fn a_database_is_discovered_from_python() -> Result<()> {
    discovers(&Python::of(&python::protos())?)
}

#[test]
fn what_is_refused_is_told_in_python_with_its_remedy() -> Result<()> {
    let python = Python::of(&python::protos())?;
    let project = project("from_python_refused", "CREATE TABLE t (id int)")?;
    let mut config = source_config(&project);
    config["password"] = json!("wrong");
    project.write("config.json", &config)?;
    let source = Service::source(&[])?;
    let config = project.path().join("config.json").display().to_string();
    let arguments = ["--source", source.address(), "--config", &config];
    let refused = python.example("discover.py", &arguments)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "{said}");
    ensure!(said.contains("ERROR_CODE_AUTHENTICATION") && said.contains("->"), "{said}");

    let refused = python.example_with("discover.py", &arguments, "another")?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(said.contains("does not know the token"), "{said}");
    Ok(())
}
