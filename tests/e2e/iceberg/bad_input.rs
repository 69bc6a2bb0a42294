//! What cannot be done is said, and changes nothing.

use anyhow::Result;
use serde_json::{Value, json};
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::run::Project;

use super::Lake;
use crate::plain;

const ONE: &str = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 2)";

fn refused(project: &Project, parts: &[&str]) -> Result<()> {
    let told = project.run(&Project::SYNC)?.failed()?;
    for part in parts {
        assert!(told.contains(part), "{part:?} is not in: {told}");
    }
    Ok(())
}

pub fn a_partition_column_of_another_type_is_refused_and_the_table_unchanged(
    pair: Pair,
) -> Result<()> {
    let lake = Lake::new(pair, "retyped", ONE)?;
    let project = &lake.project;
    let by_v = json!({"partition_regex": "/{v, identity}"});
    project.select(&["public.t"], by_v.clone())?;
    project.sync()?;
    let table = lake.table("t");
    let before = table.describe()?;
    project.database().psql("ALTER TABLE t ALTER COLUMN v TYPE text")?;
    project.discover()?;
    project.select(&["public.t"], by_v)?;
    refused(
        project,
        &["public.t", "is or was partitioned, is int there, and string in the stream"],
    )?;
    assert_eq!(table.describe()?.metadata_location, before.metadata_location);
    // The way out that the message names.
    project.run(&Project::CLEAR)?.succeeded()?;
    project.sync()?;
    lake.equals_source(&["public.t"])
}

pub fn a_table_of_others_is_not_touched(pair: Pair) -> Result<()> {
    let lake = Lake::new(pair, "others", ONE)?;
    let project = &lake.project;
    project.select(&["public.t"], plain())?;
    let table = lake.table("t");
    table.create(&[("id", "int")], &[], json!({}))?;
    table.append(&tests::compare::Rows {
        columns: vec!["id".into()],
        rows: vec![vec![tests::compare::Cell::text("7")]],
    })?;
    let before = table.describe()?;
    refused(project, &["Tidewater did not write", "nothing was changed"])?;
    let told = project.run(&Project::CLEAR)?.failed()?;
    assert!(told.contains("Tidewater did not write"), "{told}");
    assert_eq!(table.describe()?.metadata_location, before.metadata_location);
    Ok(())
}

#[test]
fn a_catalog_that_is_none_and_a_warehouse_in_a_file_are_named() -> Result<()> {
    let lake = Lake::new(Pair::new(Catalog::Sqlite, Store::Local), "broken", ONE)?;
    let (project, warehouse) = (&lake.project, &lake.warehouse);
    project.select(&["public.t"], plain())?;
    let file = warehouse.directory().join("text");
    std::fs::write(&file, "this is a text, and neither a catalog nor a directory of files")?;
    let right = project.read("destination.json")?;
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut value = right.clone();
        change(&mut value["writer"]);
        project.write("destination.json", &value)
    };
    broken(&|writer| writer["jdbc_url"] = json!(format!("jdbc:sqlite:{}", file.display())))?;
    refused(project, &[&file.display().to_string(), "not a database"])?;
    let told = project.run(&["check", "--destination", "destination.json"])?.failed()?;
    assert!(told.contains(&file.display().to_string()), "{told}");

    broken(&|writer| {
        writer["iceberg_s3_path"] = json!(format!("file://{}/warehouse", file.display()));
    })?;
    refused(project, &[&file.display().to_string()])?;
    let told = project.run(&["check", "--destination", "destination.json"])?.failed()?;
    assert!(told.contains(&file.display().to_string()), "{told}");
    assert_eq!(
        warehouse.tables(&tests::iceberg::warehouse::namespace_of(project, "public"))?,
        None
    );
    Ok(())
}

pub fn a_partition_that_cannot_be_is_refused(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "unpartitionable",
        "CREATE TABLE t (id int PRIMARY KEY, v int, u uuid, l int[]); INSERT INTO t VALUES (1, 2)",
    )?;
    for (regex, says) in [
        ("/{w, identity}", "there is no column \"w\"; there are \"id\", \"v\""),
        ("/{v, quarter}", "\"quarter\" is none of identity, year"),
        ("/{v, bucket[0]}", "\"bucket[0]\" is none of"),
        ("/{v}", "has 1 parts"),
        ("/v={v, identity}", "\"v=\" stands outside of braces"),
        ("/{v, identity}/{v, identity}", "stands there twice"),
        ("/{v, day}", "column \"v\" is int, which day cannot take: it takes dates and timestamps"),
        ("/{u, truncate[2]}", "column \"u\" is uuid, which truncate[2] cannot take"),
        ("/{l, identity}", "it takes single values only"),
    ] {
        lake.project.select(&["public.t"], json!({"partition_regex": regex}))?;
        refused(&lake.project, &["public.t", "partition_regex", says, "bucket[64]"])?;
    }
    let namespace = tests::iceberg::warehouse::namespace_of(&lake.project, "public");
    assert_eq!(lake.warehouse.tables(&namespace)?.unwrap_or_default(), Vec::<String>::new());
    Ok(())
}
