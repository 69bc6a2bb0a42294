//! What only a Glue catalog has: keys, a region, permissions, and descriptions that
//! others write, too.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::iceberg::glue;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::run::{Outcome, Project};
use tests::supervised::free_ports;

use super::Lake;
use crate::bad_input::{CHECK, shows_no_secret};
use crate::plain;

const PAIR: Pair = Pair::new(Catalog::Glue, Store::Local);
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)";
const WRONG: &str = "not/the+secret=";

fn refusal(project: &Project, outcome: Outcome, named: &[&str]) -> Result<()> {
    super::refusal(project, outcome, &[glue::SECRET, WRONG], named).map(drop)
}

/// The lake with one table in it, synced.
fn synced(label: &str) -> Result<Lake> {
    let lake = Lake::new(PAIR, label, TABLE)?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    Ok(lake)
}

#[test]
fn a_glue_that_refuses_is_named_with_the_way_out_and_the_table_unchanged() -> Result<()> {
    let lake = synced("refused_by_glue")?;
    let project = &lake.project;
    let before = lake.table("t").describe()?;
    let right = project.read("destination.json")?;
    let [port] = free_ports()?;
    let away = format!("http://127.0.0.1:{port}");
    // No rows and no namespace: the sync itself must find it out.
    for (key, value, named) in [
        ("aws_secret_key", WRONG, ["InvalidSignatureException", "aws_secret_key"]),
        ("aws_access_key", "nobody", ["UnrecognizedClientException", "aws_access_key"]),
        ("glue_endpoint", &away, ["Connection refused", "glue_endpoint"]),
        ("glue_endpoint", "glue.tidewater.invalid", ["glue.tidewater.invalid", "glue_endpoint"]),
        (
            "glue_endpoint",
            "http://user:not/the+secret=@glue",
            ["http://host:port", "glue_endpoint"],
        ),
        ("aws_region", "nowhere.example", ["no region of AWS", "aws_region"]),
        ("aws_secret_key", "", ["only one is set", "aws_access_key"]),
    ] {
        let mut wrong = right.clone();
        wrong["writer"][key] = json!(value);
        project.write("destination.json", &wrong)?;
        let trace = [("TIDEWATER_LOG", "trace")];
        let traced = project.start_with(&Project::SYNC, &trace)?.wait()?;
        shows_no_secret(project, &traced, &[glue::SECRET, WRONG])?;
        for arguments in [&Project::SYNC[..], &CHECK] {
            let outcome = project.run(arguments)?;
            refusal(project, outcome, &named).with_context(|| format!("{key} {value}"))?;
        }
    }
    assert_eq!(lake.table("t").describe()?.metadata_location, before.metadata_location);
    project.write("destination.json", &right)?;
    project.sync()?;
    lake.equals_source(&["public.t"])
}

#[test]
fn a_region_that_is_none_is_a_host_that_is_none() -> Result<()> {
    let lake = synced("no_region")?;
    lake.project.edit("destination.json", |file| {
        let writer = &mut file["writer"];
        writer["glue_endpoint"] = "".into();
        writer["aws_region"] = "nowhere-1".into();
    })?;
    for arguments in [&Project::SYNC[..], &CHECK] {
        let outcome = lake.project.run(arguments)?;
        refusal(&lake.project, outcome, &["https://glue.nowhere-1.amazonaws.com", "aws_region"])?;
    }
    Ok(())
}

#[test]
fn a_key_that_may_not_write_is_told_what_it_needs_and_leaves_nothing() -> Result<()> {
    let lake = synced("read_only")?;
    let project = &lake.project;
    let table = lake.table("t");
    let before = table.describe()?;
    project.edit("destination.json", |file| {
        file["writer"]["aws_access_key"] = glue::READER.into();
    })?;
    let named = ["AccessDeniedException", "glue:UpdateTable", "glue:CreateDatabase"];
    for arguments in [&Project::SYNC[..], &CHECK] {
        let outcome = project.run(arguments)?;
        refusal(project, outcome, &named)?;
    }
    assert_eq!(table.describe()?.metadata_location, before.metadata_location);
    project.write("destination.json", &lake.warehouse.destination())?;
    project.sync()?;
    assert_eq!(table.describe()?.snapshots.len(), 2);
    lake.equals_source(&["public.t"])
}

#[test]
fn what_others_say_of_a_table_stays() -> Result<()> {
    let lake = synced("described")?;
    let (project, warehouse) = (&lake.project, &lake.warehouse);
    let namespace = tests::iceberg::warehouse::namespace_of(project, "public");
    let ask = || -> Result<Value> {
        let arguments = json!({"DatabaseName": namespace, "Name": "t"});
        Ok(warehouse.glue("get_table", arguments)?["Table"].take())
    };
    let first = ask()?;
    assert_eq!(first["TableType"], "EXTERNAL_TABLE");
    assert_eq!(first["Parameters"]["table_type"], "ICEBERG");
    let mut theirs = json!({"Name": "t", "Owner": "them", "Description": "theirs", "Retention": 7});
    for key in ["TableType", "Parameters", "StorageDescriptor"] {
        theirs[key] = first[key].clone();
    }
    theirs["Parameters"]["theirs"] = "kept".into();
    theirs["StorageDescriptor"]["SerdeInfo"] = json!({"Name": "theirs"});
    warehouse.glue("update_table", json!({"DatabaseName": namespace, "TableInput": theirs}))?;

    project.database().psql("ALTER TABLE t ADD COLUMN price numeric(8,2)")?;
    project.discover()?;
    project.select(&["public.t"], plain())?;
    project.sync()?;
    lake.equals_source(&["public.t"])?;
    let second = ask()?;
    for key in ["Owner", "Description", "Retention"] {
        assert_eq!(second[key], theirs[key], "{key}");
    }
    let (parameters, storage) = (&second["Parameters"], &second["StorageDescriptor"]);
    assert_eq!(parameters["theirs"], "kept");
    let described = lake.table("t").describe()?;
    assert_eq!(parameters["metadata_location"], described.metadata_location);
    assert_eq!(parameters["previous_metadata_location"], first["Parameters"]["metadata_location"]);
    assert_eq!(storage["Location"], described.location);
    assert_eq!(storage["SerdeInfo"]["Name"], "theirs");
    let columns = storage["Columns"].as_array().context("columns")?;
    let price = columns.iter().find(|column| column["Name"] == "price").context("the new one")?;
    assert_eq!(price["Type"], "decimal(8,2)");
    assert_eq!(price["Parameters"]["iceberg.field.current"], "true");
    Ok(())
}

#[test]
fn a_table_that_is_none_of_iceberg_is_refused_and_stays() -> Result<()> {
    let lake = Lake::new(PAIR, "glue_hive_table", TABLE)?;
    let (project, warehouse) = (&lake.project, &lake.warehouse);
    project.select(&["public.t"], plain())?;
    let namespace = tests::iceberg::warehouse::namespace_of(project, "public");
    warehouse.glue("create_database", json!({"DatabaseInput": {"Name": namespace}}))?;
    let hive = json!({"Name": "t", "TableType": "EXTERNAL_TABLE",
        "Parameters": {"classification": "parquet"}});
    warehouse.glue("create_table", json!({"DatabaseName": namespace, "TableInput": hive}))?;
    for arguments in [&Project::SYNC[..], &Project::CLEAR[..]] {
        let outcome = project.run(arguments)?;
        refusal(
            project,
            outcome,
            &["no Iceberg table", "nothing was changed", "destination_table"],
        )?;
    }
    let table = warehouse.glue("get_table", json!({"DatabaseName": namespace, "Name": "t"}))?;
    assert_eq!(table["Table"]["Parameters"], hive["Parameters"]);
    Ok(())
}
