//! A full refresh into Iceberg: every value, by every engine.

use anyhow::{Context, Result};
use serde_json::json;
use tests::iceberg::engine::Engine;
use tests::iceberg::verify;
use tests::iceberg::warehouse::namespace_of;
use tests::postgres::{Build, Database, Server};
use tests::run::Project;
use tests::watch;

use super::{clear, into_lake, lake};
use crate::{fixture, plain};

#[test]
fn the_shop_equals_postgresql() -> Result<()> {
    let database = Database::new("lake_shop")?;
    database.psql_file(&fixture("shop.sql"))?;
    let (warehouse, project) = into_lake(Project::new(&database)?)?;
    let streams = project.streams()?;
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    project.select(&streams, plain())?;
    let outcome = project.sync()?;
    verify::equals_source(&warehouse, &project, &streams)?;

    let orders = warehouse.table_of(&project, "public", "orders").describe()?;
    assert_eq!((orders.format_version, orders.partition.len()), (2, 0));
    assert_eq!(orders.identifier_fields, ["id"]);
    assert_eq!(orders.properties["write.parquet.compression-codec"], "zstd");
    let required = |name: &str| orders.schema.iter().find(|field| field.name == name);
    for (name, expected) in
        [("_olake_id", true), ("id", true), ("_cdc_lsn", false), ("status", false)]
    {
        let field = required(name).with_context(|| format!("a column {name}"))?;
        assert_eq!(field.required, expected, "{name}");
    }
    let items = warehouse.table_of(&project, "public", "order_items").describe()?;
    let mut key = items.identifier_fields;
    key.sort();
    assert_eq!(key, ["line", "order_id"]);
    let views = warehouse.table_of(&project, "public", "page_views").describe()?;
    assert!(views.files.len() > 1, "each partition is a chunk: {:?}", views.files.len());
    assert_eq!(views.manifests.len(), 1, "and all of them are one manifest");

    let summary: serde_json::Value =
        serde_json::from_str(outcome.stdout.lines().last().unwrap_or_default())?;
    assert_eq!(summary["streams"][0]["format"], "iceberg");
    let location = summary["streams"][0]["location"].as_str().unwrap_or_default();
    assert!(location.starts_with(&warehouse.location()), "{location}");
    Ok(())
}

#[test]
fn every_type_is_read_as_postgresql_prints_it() -> Result<()> {
    let build = Build::all()?.pop().context("no PostgreSQL")?;
    let database = Database::on(&Server::shared_build(&build)?, "lake_types")?;
    database.psql_file(&fixture("types.sql"))?;
    let (warehouse, project) = into_lake(Project::new(&database)?)?;
    let streams = project.streams()?;
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    project.select(&streams, plain())?;
    project.sync()?;
    // The source schema's own namespace holds the other one.
    verify::equals_source(&warehouse, &project, &streams)
}

#[test]
fn without_normalization_a_row_is_json_beside_its_identifier() -> Result<()> {
    let (warehouse, project) = lake(
        "lake_json",
        "CREATE TABLE t (a int, b text, PRIMARY KEY (a, b));
         INSERT INTO t VALUES (1, 'x'), (2, 'y \"quoted\"')",
    )?;
    project.select(&["public.t"], json!({"normalization": false}))?;
    project.sync()?;
    let table = warehouse.table_of(&project, "public", "t");
    assert_eq!(table.describe()?.identifier_fields, ["_olake_id"]);
    for engine in Engine::ALL {
        let rows = table.read(engine)?.rows;
        let mut data: Vec<String> = rows
            .column("data")?
            .iter()
            .map(|cell| cell.as_str().unwrap_or_default().to_owned())
            .collect();
        data.sort();
        let expected = [r#"{"a":1,"b":"x"}"#, r#"{"a":2,"b":"y \"quoted\""}"#];
        assert_eq!(data, expected, "{engine:?}");
    }
    Ok(())
}

#[test]
fn keys_that_iceberg_forbids_or_nobody_wants_are_not_declared() -> Result<()> {
    let (warehouse, project) = lake(
        "lake_keys",
        "CREATE TABLE floating (x float8 PRIMARY KEY); INSERT INTO floating VALUES (1.5), ('NaN');
         CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1)",
    )?;
    let streams = ["public.floating", "public.plain"];
    project.select(&streams, plain())?;
    project
        .edit("destination.json", |file| file["writer"]["no_identifier_fields"] = json!(true))?;
    project.sync()?;
    project.run(&clear())?.succeeded()?;
    let declared = |name: &str| -> Result<Vec<String>> {
        Ok(warehouse.table_of(&project, "public", name).describe()?.identifier_fields)
    };
    project.sync()?;
    assert_eq!(declared("plain")?, [""; 0]);
    project.run(&clear())?.succeeded()?;
    project
        .edit("destination.json", |file| file["writer"]["no_identifier_fields"] = json!(false))?;
    project.sync()?;
    assert_eq!((declared("plain")?, declared("floating")?), (vec!["id".to_owned()], Vec::new()));
    // A float's _olake_id is its text, which is not how cells are compared.
    verify::equals_source(&warehouse, &project, &["public.plain"])?;
    let floating = warehouse.table_of(&project, "public", "floating").read(Engine::DuckDb)?;
    let mut found = floating.rows.column("x")?;
    found.sort();
    let bits = |value: f64| tests::compare::Cell::text(format!("{:#018x}", value.to_bits()));
    assert_eq!(found, [bits(1.5), tests::compare::Cell::text("NaN")]);
    Ok(())
}

#[test]
fn clear_destination_removes_the_table_and_its_files_and_no_other() -> Result<()> {
    let (warehouse, project) = lake(
        "lake_clear",
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);
         CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (2)",
    )?;
    project.select(&["public.a", "public.b"], plain())?;
    project.sync()?;
    project.sync()?;
    project.select(&["public.a"], plain())?;
    project.run(&clear())?.succeeded()?;
    let namespace = namespace_of(&project, "public");
    assert_eq!(warehouse.tables(&namespace)?, Some(vec!["b".to_owned()]));
    let of_a = |path: &std::path::PathBuf| path.components().any(|part| part.as_os_str() == "a");
    let left: Vec<_> = watch::files(warehouse.directory()).into_iter().filter(of_a).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    verify::equals_source(&warehouse, &project, &["public.b"])?;
    // And the table can be made again.
    project.sync()?;
    verify::equals_source(&warehouse, &project, &["public.a"])
}

#[test]
fn check_tries_catalog_and_warehouse_and_leaves_nothing() -> Result<()> {
    let (warehouse, project) = lake("lake_check", "CREATE TABLE t (id int)")?;
    let check = ["check", "--destination", "destination.json"];
    project.run(&check)?.succeeded()?;
    assert_eq!(watch::files(warehouse.directory()), [""; 0].map(std::path::PathBuf::from));
    Ok(())
}
