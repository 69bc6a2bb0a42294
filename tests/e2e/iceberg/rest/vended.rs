//! Keys that the catalog lends with a table.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::iceberg::engine::Engine;
use tests::iceberg::front::Front;
use tests::iceberg::pair::Pair;
use tests::run::Project;

use super::{ADD, Lake, PAIR, fronted, lake, set};
use crate::bad_input::CHECK;
use crate::plain;

/// Nothing of the store is configured: the catalog says all of it.
fn nothing_known() -> Value {
    json!({
        "iceberg_s3_path": "lake", "s3_endpoint": null, "s3_path_style": null, "s3_use_ssl": null,
        "aws_region": null, "aws_access_key": null, "aws_secret_key": null,
    })
}

/// A front that lends keys, with more settings.
fn lending(lake: &Lake, mut settings: Value) -> Result<Front> {
    settings["keys"] = Front::keys();
    let front = fronted(lake, settings)?;
    set(&lake.project, nothing_known())?;
    Ok(front)
}

#[test]
fn a_catalog_that_lends_all_it_takes_is_enough() -> Result<()> {
    let lake = lake("lent")?;
    let front = lending(&lake, json!({}))?;
    lake.project.run(&CHECK)?.succeeded()?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    lake.project.database().psql(ADD)?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    assert_eq!(lake.table("t").describe()?.snapshots.len(), 2);
    assert!(front.told()?.loans > 0);

    // And so for a warehouse that has a place.
    let place = Pair::new(PAIR.catalog, PAIR.store);
    let lake = Lake::new(place, "lent_at", super::TABLE)?;
    lake.project.select(&["public.t"], plain())?;
    let front = lending(&lake, json!({}))?;
    set(&lake.project, json!({"iceberg_s3_path": lake.warehouse.location()}))?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    assert!(front.told()?.loans > 0);
    Ok(())
}

#[test]
fn keys_that_the_store_refuses_are_exchanged() -> Result<()> {
    let lake = lake("spoiled")?;
    let front = lending(&lake, json!({"spoiled": 2}))?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    assert!(front.told()?.loans > 2);
    Ok(())
}

/// The smallest part that S3 takes, and row groups small enough to fill some.
const SMALL: [(&str, &str); 2] =
    [("TIDEWATER_UPLOAD_PART_BYTES", "5242880"), ("TIDEWATER_ROW_GROUP_BYTES", "1048576")];
const ROWS: u32 = 250_000;

#[test]
fn keys_are_renewed_in_the_middle_of_an_upload() -> Result<()> {
    let lake = Lake::new(
        PAIR,
        "midway",
        &format!(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT i,
                 (SELECT string_agg(md5(i + n / 10.0 || ''), '') FROM generate_series(1, 8) n)
             FROM generate_series(1, {ROWS}) i"
        ),
    )?;
    let project = &lake.project;
    project.edit("source.json", |file| file["max_threads"] = 1.into())?;
    project.select(&["public.t"], plain())?;
    // They end as soon as they are lent: every request renews them.
    let front = lending(&lake, json!({"keys_life": 0}))?;
    project.start_with(&Project::SYNC, &SMALL)?.wait()?.succeeded()?;
    let table = lake.table("t");
    let bytes: u64 = table.describe()?.data_files().map(|file| file.bytes).sum();
    let parts = bytes / (5 << 20);
    ensure!(parts > 2, "only {parts} parts");
    let loans = u64::from(front.told()?.loans);
    ensure!(loans > parts, "{loans} loans for {parts} parts");
    assert_eq!(table.count(Engine::DuckDb, "id > 0")?, u64::from(ROWS));
    Ok(())
}

#[test]
fn keys_of_destination_json_are_used_and_none_are_asked_for() -> Result<()> {
    let lake = lake("own_keys")?;
    let front = fronted(&lake, json!({"keys": ["nobody", "nothing"]}))?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    assert_eq!(front.told()?.loans, 0);
    Ok(())
}

#[test]
fn a_first_load_that_fails_leaves_an_empty_table_that_the_next_one_fills() -> Result<()> {
    let lake = lake("lent_failed")?;
    let _front = lending(&lake, json!({}))?;
    lake.project.edit("destination.json", |file| {
        file["writer"]["on_unrepresentable"] = "fail".into();
    })?;
    lake.project.database().psql("ALTER TABLE t ADD at date; UPDATE t SET at = 'infinity'")?;
    lake.project.discover()?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.run(&Project::SYNC)?.failed()?;
    let described = lake.table("t").describe()?;
    assert_eq!(described.current_snapshot_id, None, "it is empty");
    lake.project.database().psql("UPDATE t SET at = '2024-02-29'")?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    assert_eq!(lake.table("t").describe()?.uuid, described.uuid);
    Ok(())
}
