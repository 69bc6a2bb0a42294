//! Tables of ours that Java writes, too: Spark, through Iceberg's own catalogs.

use anyhow::Result;
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::warehouse::CATALOG_NAME;

use super::Lake;
use crate::plain;

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, amount numeric(10,2), words text[], moment timestamptz);
    INSERT INTO t SELECT i, i / 3.0, ARRAY['a', NULL, i::text], '1969-12-31 23:59:59.999999+00'
    FROM generate_series(1, 500) i;";

fn spark_appends_rewrites_and_deletes_and_we_go_on(catalog: Catalog, store: Store) -> Result<()> {
    let lake = Lake::new(Pair::new(catalog, store), "java", TABLE)?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let table = lake.table("t");
    let name = format!("{CATALOG_NAME}.{}", table.name());
    let described = table.describe()?;
    let negative: Vec<&str> = described
        .schema
        .iter()
        .map(|field| match field.name.as_str() {
            "id" => "-id",
            "_olake_id" => "concat('-', _olake_id)",
            other => other,
        })
        .collect();
    lake.warehouse.spark(&[
        format!("INSERT INTO {name} SELECT {} FROM {name} WHERE id <= 10", negative.join(", ")),
        format!(
            "CALL {CATALOG_NAME}.system.rewrite_data_files(table => '{}', \
             options => map('rewrite-all', 'true'))",
            table.name()
        ),
        format!("ALTER TABLE {name} SET TBLPROPERTIES ('write.delete.mode' = 'merge-on-read')"),
        format!("DELETE FROM {name} WHERE id % 10 = 3"),
    ])?;
    let theirs = table.describe()?;
    assert!(theirs.files.iter().any(|file| file.content == "position_deletes"));
    for engine in Engine::ALL {
        let found = table.counts(engine, &["id < 0", "id > 0"])?;
        assert_eq!(found, [10, 450], "{engine:?}");
    }

    lake.project.database().psql("DELETE FROM t WHERE id > 100")?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    let ours = table.describe()?;
    assert_eq!(ours.current()?.parent, theirs.current_snapshot_id);
    assert!(ours.files.iter().all(|file| file.content == "data"), "no delete file is left");
    // And Java again.
    lake.warehouse.spark(&[format!("DELETE FROM {name} WHERE id > 50")])?;
    for engine in Engine::ALL {
        assert_eq!(table.count(engine, "id > 0")?, 50, "{engine:?}");
    }
    Ok(())
}

#[test]
fn spark_through_hive_on_files() -> Result<()> {
    spark_appends_rewrites_and_deletes_and_we_go_on(Catalog::Hive, Store::Local)
}

#[test]
fn spark_through_hive_on_s3() -> Result<()> {
    spark_appends_rewrites_and_deletes_and_we_go_on(Catalog::Hive, Store::S3)
}

#[test]
fn spark_through_rest_on_files() -> Result<()> {
    spark_appends_rewrites_and_deletes_and_we_go_on(Catalog::JavaRest, Store::Local)
}

#[test]
fn spark_through_rest_on_s3() -> Result<()> {
    spark_appends_rewrites_and_deletes_and_we_go_on(Catalog::JavaRest, Store::S3)
}

#[test]
fn spark_through_jdbc_on_files() -> Result<()> {
    spark_appends_rewrites_and_deletes_and_we_go_on(Catalog::Postgres, Store::Local)
}

#[test]
fn spark_through_jdbc_on_s3() -> Result<()> {
    spark_appends_rewrites_and_deletes_and_we_go_on(Catalog::Postgres, Store::S3)
}
