//! The documented destination files as they stand, but for addresses, keys and
//! the bucket: the store keeps `warehouse` for its own catalog.

use std::net::TcpStream;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::bucket::Place;
use tests::compare::Cell;
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::table::Table;
use tests::proxy::{Fault, Proxy};
use tests::run::Project;
use tests::supervised::free_ports;

use super::Lake;
use crate::bad_input::CHECK;
use crate::plain;

const TABLE_1: &str = "CREATE TABLE table_1 (id int PRIMARY KEY, name text);
    INSERT INTO table_1 VALUES (1, 'a'), (2, NULL)";

/// Every engine finds the rows of [`TABLE_1`] as JSON.
fn rows_are_json(table: &Table) -> Result<()> {
    for engine in Engine::ALL {
        let rows = table.read(engine)?.rows;
        let data = rows.column("data")?;
        let mut data: Vec<&str> = data.iter().filter_map(Cell::as_str).collect();
        data.sort_unstable();
        let expected = [r#"{"id":1,"name":"a"}"#, r#"{"id":2,"name":null}"#];
        assert_eq!(data, expected, "{engine:?}");
    }
    Ok(())
}

#[test]
fn the_sample_of_a_jdbc_catalog_with_minio_works() -> Result<()> {
    let pair = Pair::new(Catalog::Postgres, Store::S3);
    let lake = Lake::new(pair, "minio", TABLE_1)?;
    let project = &lake.project;
    let _bucket = Place::bucket("warehouse-of-minio")?;
    let ours = lake.warehouse.destination();
    let mut sample: Value = serde_json::from_str(
        r#"{
          "type": "ICEBERG",
          "writer": {
            "catalog_type": "jdbc",
            "jdbc_url": "jdbc:postgresql://localhost:5432/iceberg",
            "jdbc_username": "iceberg",
            "jdbc_password": "password",
            "normalization": false,
            "iceberg_s3_path": "s3a://warehouse",
            "s3_endpoint": "http://localhost:9000",
            "s3_use_ssl": false,
            "s3_path_style": true,
            "aws_access_key": "admin",
            "aws_secret_key": "password",
            "iceberg_db": "olake_iceberg"
          }
        }"#,
    )?;
    let keys = ["jdbc_url", "jdbc_username", "jdbc_password"];
    for key in keys.into_iter().chain(["s3_endpoint", "aws_access_key", "aws_secret_key"]) {
        sample["writer"][key] = ours["writer"][key].clone();
    }
    sample["writer"]["iceberg_s3_path"] = "s3a://warehouse-of-minio".into();
    project.write("destination.json", &sample)?;
    project.run(&CHECK)?.succeeded()?;
    project.select(&["public.table_1"], plain())?;
    project.sync()?;

    let table = lake.warehouse.table("olake_iceberg.table_1");
    let described = table.describe()?;
    assert!(
        described
            .files
            .iter()
            .all(|file| file.path.starts_with("s3://warehouse-of-minio/olake_iceberg/")),
        "{:?}",
        described.files
    );
    rows_are_json(&table)?;
    // Its rows as columns, too.
    project.run(&Project::CLEAR)?.succeeded()?;
    project.edit("destination.json", |file| file["writer"]["normalization"] = json!(true))?;
    project.run(&Project::SYNC)?.succeeded()?;
    for engine in Engine::ALL {
        let mut ids = table.read(engine)?.rows.column("id")?;
        ids.sort();
        assert_eq!(ids, [Cell::text("1"), Cell::text("2")], "{engine:?}");
    }
    Ok(())
}

#[test]
fn the_sample_of_glue_with_s3_works_and_starts_the_writer_that_it_names() -> Result<()> {
    let lake = Lake::new(Pair::new(Catalog::Glue, Store::S3), "glue_sample", TABLE_1)?;
    let project = &lake.project;
    let ours = lake.warehouse.destination();
    let glue = lake.warehouse.catalog_address().context("an address")?;
    let proxy = Proxy::start(&glue)?;
    let mut sample: Value = serde_json::from_str(
        r#"{
          "type": "ICEBERG",
          "writer": {
            "normalization": false,
            "s3_path": "s3://{bucket_name}/{path_prefix}/",
            "aws_region": "ap-south-1",
            "aws_access_key": "XXX",
            "aws_secret_key": "XXX",
            "database": "olake_iceberg",
            "grpc_port": 50051,
            "server_host": "localhost"
          }
        }"#,
    )?;
    for key in ["s3_endpoint", "aws_access_key", "aws_secret_key"] {
        sample["writer"][key] = ours["writer"][key].clone();
    }
    sample["writer"]["glue_endpoint"] = format!("http://{}", proxy.address()).into();
    let location = lake.warehouse.location();
    sample["writer"]["s3_path"] = format!("{location}/path_prefix/").into();
    // Others may have the documented one.
    let [port] = free_ports()?;
    sample["writer"]["grpc_port"] = port.into();
    project.write("destination.json", &sample)?;
    project.run(&CHECK)?.succeeded()?;
    project.select(&["public.table_1"], plain())?;
    let held = proxy.once("AWSGlue.CreateTable", Fault::Hold);
    let sync = project.start(&Project::SYNC)?;
    held.met()?;
    TcpStream::connect(("localhost", port)).context("a writer serves there")?;
    held.release();
    sync.wait()?.succeeded()?;
    TcpStream::connect(("localhost", port)).expect_err("it ends with the command");

    let client = lake.warehouse.client().redirected("us-east-1", "ap-south-1");
    let table = Table::new(client, "olake_iceberg.table_1");
    let described = table.describe()?;
    let expected = format!("{location}/path_prefix/olake_iceberg/table_1");
    assert_eq!(described.location, expected);
    rows_are_json(&table)
}
