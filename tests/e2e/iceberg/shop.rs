//! The ordinary case: a small shop, all of it.

use anyhow::Result;
use tests::iceberg::pair::Pair;
use tests::iceberg::warehouse::namespace_of;
use tests::postgres::Database;

use super::Lake;
use crate::shop::STREAMS;
use crate::{fixture, plain};

pub fn a_full_refresh_of_the_shop_equals_postgresql(pair: Pair) -> Result<()> {
    let lake = shop(pair)?;
    lake.project.select(&STREAMS, plain())?;
    lake.project.sync()?;
    lake.equals_source(&STREAMS)?;

    let names: Vec<&str> = STREAMS.iter().filter_map(|stream| stream.split('.').nth(1)).collect();
    let namespace = namespace_of(&lake.project, "public");
    assert_eq!(lake.warehouse.tables(&namespace)?.unwrap_or_default(), names);

    let items = lake.table("order_items").describe()?;
    assert_eq!(items.format_version, 2);
    assert_eq!(items.identifier_fields, ["order_id", "line"]);
    let mut ids: Vec<i32> = items.schema.iter().map(|field| field.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), items.schema.len(), "each column has an id of its own");
    // Engines plan by these.
    let rows = lake.project.database().psql("SELECT count(*) FROM order_items")?;
    let summary = &items.current()?.summary;
    assert_eq!(summary["total-records"], rows);
    assert_eq!(summary["added-records"], rows);
    assert_eq!(summary["total-data-files"], items.files.len().to_string());
    let bytes: u64 = items.files.iter().map(|file| file.bytes).sum();
    assert_eq!(summary["total-files-size"], bytes.to_string());
    Ok(())
}

/// The shop's database with a warehouse.
pub fn shop(pair: Pair) -> Result<Lake> {
    let database = Database::new("shop")?;
    database.psql_file(&fixture("shop.sql"))?;
    Lake::on(pair, &database)
}
