//! What an S3 store refuses is said soon, once and with its remedy, by `check`
//! as by a sync, and changes nothing.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::seaweed;
use tests::run::Project;
use tests::supervised::free_ports;

use super::Lake;
use crate::bad_input::{CHECK, refused_by_the_store as refused};
use crate::plain;

const PAIR: Pair = Pair::new(Catalog::Sqlite, Store::S3);

/// A lake with a table of one row.
fn lake(pair: Pair, label: &str) -> Result<Lake> {
    let lake =
        Lake::new(pair, label, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    Ok(lake)
}

/// With this in destination.json both are refused, and the table stays.
fn refused_with(label: &str, key: &str, value: Value, parts: &[&str]) -> Result<()> {
    let lake = lake(PAIR, label)?;
    let (table, right) = (lake.table("t"), lake.project.read("destination.json")?);
    let before = table.describe()?;
    lake.project.edit("destination.json", |file| file["writer"][key] = value)?;
    refused(&lake.project, parts)?;
    assert_eq!(table.describe()?.metadata_location, before.metadata_location);
    lake.project.write("destination.json", &right)?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])
}

pub fn a_bucket_that_is_missing_is_named_and_leaves_no_table(pair: Pair) -> Result<()> {
    let path = "s3://tidewater-has-no-such-bucket/lake";
    let parts = match pair.catalog {
        // Which writes there first.
        Catalog::JavaRest => ["creating", "NoSuchBucket", "storage"],
        _ => ["s3://tidewater-has-no-such-bucket", "NoSuchBucket", "create the bucket"],
    };
    // The table lies where it lay: only a new one goes to the new warehouse.
    let lake = Lake::new(pair, "no_bucket", "CREATE TABLE t (id int PRIMARY KEY)")?;
    lake.project.select(&["public.t"], plain())?;
    lake.project
        .edit("destination.json", |file| file["writer"]["iceberg_s3_path"] = path.into())?;
    refused(&lake.project, &parts)?;
    let namespace = tests::iceberg::warehouse::namespace_of(&lake.project, "public");
    assert_eq!(lake.warehouse.tables(&namespace)?.unwrap_or_default(), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_table_in_another_bucket_than_the_warehouse_is_left_alone() -> Result<()> {
    let other = json!(format!("s3://{}/other", seaweed::TABLE_BUCKET));
    let lake = lake(PAIR, "moved")?;
    let before = lake.table("t").describe()?;
    lake.project.edit("destination.json", |file| file["writer"]["iceberg_s3_path"] = other)?;
    let told = lake.project.run(&Project::SYNC)?.failed()?;
    assert!(told.contains("another storage than the warehouse"), "{told}");
    assert_eq!(lake.table("t").describe()?.metadata_location, before.metadata_location);
    Ok(())
}

#[test]
fn an_unknown_key_is_told() -> Result<()> {
    let parts = ["InvalidAccessKeyId", "correct aws_access_key and aws_secret_key"];
    refused_with("unknown_key", "aws_access_key", json!("nobody"), &parts)
}

#[test]
fn a_store_that_does_not_answer_is_named() -> Result<()> {
    let [port] = free_ports::<1>()?;
    let endpoint = json!(format!("http://127.0.0.1:{port}"));
    let parts = ["Connection refused", "s3_endpoint"];
    refused_with("no_endpoint", "s3_endpoint", endpoint, &parts)
}

#[test]
fn a_host_that_does_not_exist_is_named() -> Result<()> {
    let endpoint = json!("http://s3.tidewater.invalid:9000");
    refused_with("no_host", "s3_endpoint", endpoint, &["s3.tidewater.invalid", "s3_endpoint"])
}

pub fn a_warehouse_that_may_not_be_written_is_told_and_the_table_unchanged(
    pair: Pair,
) -> Result<()> {
    let lake = lake(pair, "forbidden")?;
    let table = lake.table("t");
    let before = table.describe()?;
    lake.warehouse.forbid_writes()?;
    refused(
        &lake.project,
        match pair.catalog {
            // By which `check` makes a table, in its own words.
            Catalog::JavaRest => &["Denied"],
            _ => &["AccessDenied", "s3:PutObject"],
        },
    )?;
    assert_eq!(table.describe()?.metadata_location, before.metadata_location);
    Ok(())
}

pub fn a_wrong_secret_is_told_and_the_table_unchanged(pair: Pair) -> Result<()> {
    let lake = lake(pair, "wrong_secret")?;
    let (table, right) = (lake.table("t"), lake.project.read("destination.json")?);
    let before = table.describe()?;
    lake.project.edit("destination.json", |file| {
        file["writer"]["aws_secret_key"] = "not the secret".into()
    })?;
    // Glue is reached by the same keys, and first.
    let word = if pair.catalog == Catalog::Glue { "InvalidSignature" } else { "SignatureDoesNot" };
    refused(&lake.project, &[word, "correct aws_access_key and aws_secret_key"])?;
    assert_eq!(table.describe()?.metadata_location, before.metadata_location);
    lake.project.write("destination.json", &right)?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])
}

#[test]
fn the_keys_of_a_profile_are_used_where_none_are_set() -> Result<()> {
    let lake = lake(PAIR, "profile")?;
    let credentials = lake.project.path().join("credentials");
    let (key, secret) = (seaweed::KEY, seaweed::SECRET);
    std::fs::write(
        &credentials,
        format!("[lake]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"),
    )?;
    lake.project.edit("destination.json", |file| {
        let writer = &mut file["writer"];
        writer["aws_access_key"] = "".into();
        writer["aws_secret_key"] = "".into();
        writer["aws_profile"] = "lake".into();
    })?;
    let credentials = credentials.to_string_lossy();
    let files = [
        ("AWS_SHARED_CREDENTIALS_FILE", credentials.as_ref()),
        ("AWS_CONFIG_FILE", "/nowhere/config"),
    ];
    lake.project.database().psql("INSERT INTO t VALUES (2)")?;
    lake.project.start_with(&CHECK, &files)?.wait()?.succeeded()?;
    lake.project.start_with(&Project::SYNC, &files)?.wait()?.succeeded()?;
    lake.equals_source(&["public.t"])?;

    lake.project.edit("destination.json", |file| {
        file["writer"]["aws_profile"] = "other".into();
    })?;
    let told = lake.project.start_with(&Project::SYNC, &files)?.wait()?.failed()?;
    ensure!(told.contains("aws_profile \"other\" has no aws_access_key_id"), "{told}");
    Ok(())
}
