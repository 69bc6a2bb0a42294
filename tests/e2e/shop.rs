//! The ordinary case: a small shop, all of it.

use anyhow::Result;
use serde_json::json;
use tests::postgres::Database;
use tests::run::Project;
use tests::{verify, watch};

use crate::{fixture, plain};

pub const STREAMS: [&str; 7] = [
    "public.customers",
    "public.order_items",
    "public.orders",
    "public.page_views",
    "public.paid_orders",
    "public.products",
    "public.revenue",
];

fn shop() -> Result<Project> {
    let database = Database::new("shop")?;
    database.psql_file(&fixture("shop.sql"))?;
    let project = Project::new(&database)?;
    project.discover()?;
    Ok(project)
}

#[test]
fn a_full_refresh_of_the_shop_equals_postgresql() -> Result<()> {
    let project = shop()?;
    assert_eq!(project.streams()?, STREAMS, "partitions are no streams, everything else is");
    project.select(&STREAMS, plain())?;
    let outcome = project.sync()?;
    verify::equals_source(&project, &STREAMS)?;

    let last = outcome.stdout.lines().last().unwrap_or_default();
    let summary: serde_json::Value = serde_json::from_str(last)?;
    assert_eq!(summary["type"], "SYNC_SUMMARY");
    assert_eq!(summary["status"], "SUCCEEDED");
    assert_eq!(summary["streams"].as_array().map(Vec::len), Some(STREAMS.len()));
    Ok(())
}

#[test]
fn a_finished_sync_leaves_state_and_tables_and_nothing_else() -> Result<()> {
    let project = shop()?;
    let some = ["public.customers", "public.page_views"];
    project.select(&some, plain())?;
    project.sync()?;

    let state = project.read("state.json")?;
    assert_eq!(state["type"], "GLOBAL");
    let lsn = state["global"]["state"]["lsn"].as_str().unwrap_or_default();
    assert!(lsn.contains('/'), "a position is kept, not {lsn:?}");
    for stream in state["streams"].as_array().into_iter().flatten() {
        assert_eq!(stream["state"]["chunks"], json!([]), "nothing is left to load: {stream}");
    }
    let tables: Vec<_> = some
        .iter()
        .filter_map(|stream| stream.split_once('.'))
        .map(|(namespace, name)| project.table(namespace, name))
        .collect();
    for file in watch::parquet_files(&project.output()) {
        let known = tables.iter().any(|table| file.starts_with(table));
        assert!(known, "{} belongs to no table", file.display());
    }
    for file in watch::files(&project.output()) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(!name.contains("staged"), "{} was left behind", file.display());
    }
    Ok(())
}

#[test]
fn discover_tells_keys_types_and_modes() -> Result<()> {
    let project = shop()?;
    let items = project.stream("public", "order_items")?;
    assert_eq!(items["source_defined_primary_key"], json!(["order_id", "line"]));
    assert_eq!(project.stream("public", "orders")?["source_defined_primary_key"], json!(["id"]));
    let revenue = project.stream("public", "revenue")?;
    let key = &revenue["source_defined_primary_key"];
    assert!(key.is_null() || *key == json!([]), "a materialized view has no key, not {key}");
    for (stream, column, word) in [
        ("orders", "status", "string"),
        ("orders", "total", "decimal(12,2)"),
        ("order_items", "discounts", "array"),
        ("page_views", "at", "timestamptz"),
        ("products", "attributes", "json"),
    ] {
        let found = &project.stream("public", stream)?["type_schema"]["properties"][column]["type"];
        assert_eq!(*found, json!([word, "null"]), "{stream}.{column}");
    }
    Ok(())
}

#[test]
fn clear_destination_removes_the_selected_tables_only() -> Result<()> {
    let project = shop()?;
    project.select(&["public.customers", "public.orders"], plain())?;
    project.sync()?;
    project.select(&["public.orders"], plain())?;
    project.run(&Project::CLEAR)?.succeeded()?;
    assert!(!project.table("public", "orders").exists());
    verify::equals_source(&project, &["public.customers"])?;
    // And the table can be made again.
    project.sync()?;
    verify::equals_source(&project, &["public.orders"])
}
