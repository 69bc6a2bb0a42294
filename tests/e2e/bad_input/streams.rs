//! A streams.json that asks for what cannot be.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::postgres::Database;
use tests::run::Project;

use super::{ORDERS, refused, refused_by, synced};

/// The selection and the stream of `public.orders`.
fn orders(streams: &mut Value) -> (&mut Value, &mut Value) {
    let Value::Object(file) = streams else { panic!("streams.json is an object") };
    let mut selection = None;
    let mut stream = None;
    for (key, value) in file.iter_mut() {
        match key.as_str() {
            "selected_streams" => selection = value.pointer_mut("/public/0"),
            "streams" => stream = value.pointer_mut("/0/stream"),
            _ => {}
        }
    }
    (selection.expect("a selection"), stream.expect("a stream"))
}

#[test]
fn every_fault_of_every_selected_stream_is_named_at_once() -> Result<()> {
    let sql = "CREATE SCHEMA two; CREATE TABLE two.orders (id int);
        CREATE TABLE a (id int, v text); CREATE TABLE b (id int, v text);
        CREATE TABLE c (id int, v text); CREATE TABLE d (id int, v text); INSERT INTO a VALUES (1, 'x');";
    let project = synced("all", &format!("{ORDERS}{sql}"))?;
    project.edit("streams.json", |streams| {
        for entry in streams["streams"].as_array_mut().into_iter().flatten() {
            let stream = &mut entry["stream"];
            match stream["name"].as_str() {
                Some("orders") => {
                    stream["destination_database"] = json!("shared");
                    stream["destination_table"] = json!("Orders");
                }
                Some("a") => stream["sync_mode"] = json!("sometimes"),
                _ => {}
            }
        }
        streams["selected_streams"] = json!({
            "public": [
                {"stream_name": "orders"}, {"stream_name": "a"}, {"stream_name": "absent"},
                {"stream_name": "b", "filter": "v = = 1"},
                {"stream_name": "c", "filter": "unknown_to_c > 1", "split_column": "unknown_split"},
                {"stream_name": "d", "selected_columns": {"columns": ["unknown_choice"]}},
            ],
            "two": [{"stream_name": "orders"}],
        });
    })?;
    let named = [
        "streams.json",
        "public.absent",
        "public.a",
        "\"sometimes\"",
        "full_refresh",
        "public.b",
        "filter",
        "public.c",
        "unknown_to_c",
        "unknown_split",
        "public.d",
        "unknown_choice",
        "public.orders and two.orders",
        "shared.orders",
        "destination_table",
    ];
    refused(&project, &named)?;
    Ok(())
}

#[test]
fn a_sync_mode_that_cannot_be_run_is_refused_and_not_taken_for_another() -> Result<()> {
    let project = synced("modes", ORDERS)?;
    for mode in ["cdc", "strict_cdc"] {
        let change = |streams: &mut Value| {
            let (_, stream) = orders(streams);
            stream["sync_mode"] = json!(mode);
            stream["cursor_field"] = json!("id");
        };
        let named = ["public.orders", mode, "\"sync_mode\": \"full_refresh\""];
        refused_by(&project, "streams.json", change, &named)?;
    }
    let change = |streams: &mut Value| {
        let (selection, stream) = orders(streams);
        stream["sync_mode"] = json!("cdc");
        selection["filter"] = json!("id > 5");
    };
    refused_by(&project, "streams.json", change, &["public.orders", "filter", "cdc"])?;
    let nothing = |streams: &mut Value| streams["selected_streams"] = json!({});
    refused_by(&project, "streams.json", nothing, &["selected_streams", "at least one"])?;
    Ok(())
}

#[test]
fn a_default_mode_without_its_slot_is_refused_with_the_command_that_mends_it() -> Result<()> {
    let tables: String = (10..25).map(|t| format!("CREATE TABLE t{t} (id int);")).collect();
    let database = Database::new("default_mode")?;
    database.psql(&tables)?;
    let project = Project::new(&database)?;
    project.edit("source.json", |source| source["default_mode"] = json!("cdc"))?;
    project.discover()?;
    let named = [
        "15 of 15 selected streams",
        "public.t10 (cdc)",
        "5 more",
        "in streams.json, set",
        "in source.json, set \"default_mode\": \"full_refresh\"",
    ];
    let error = refused(&project, &named)?;
    let (_, command) = error.split_once("sed ").context("a command")?;
    let command = format!("sed {}", command.lines().next().context("a line")?);
    let mut shell = Command::new("sh");
    let status = shell.arg("-c").arg(&command).current_dir(project.path()).status()?;
    assert!(status.success(), "{command}");
    project.sync()?;
    Ok(())
}

#[test]
fn every_partition_regex_that_cannot_be_is_named() -> Result<()> {
    let project = synced("regex", &format!("{ORDERS} CREATE TABLE more (id int, at date);"))?;
    for (regex, named) in [
        ("/{unknown_column,x,}", "unknown_column"),
        ("/{country,x,YYYY}", "country"),
        ("/{at,x,QQ}", "QQ"),
        ("/{at,x,YYYY", "/{at,x,YYYY"),
        ("/../{country,x,}", ".."),
    ] {
        project.select(&["public.orders"], json!({"partition_regex": regex}))?;
        refused(&project, &["public.orders", "partition_regex", named, "streams.json"])?;
    }
    // Of several tables at once.
    let both = ["public.more", "public.orders"];
    project.select(&both, json!({"partition_regex": "/{nowhere,x,}"}))?;
    let error = refused(&project, &both)?;
    assert_eq!(error.matches("correct partition_regex").count(), 1, "one remedy: {error}");
    Ok(())
}
