//! `delete_mode` soft: what is deleted stays, and says so.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::compare::Cell;
use tests::iceberg::engine::Engine;
use tests::workload::{LARGE_TABLES, MORE, SCHEMA, Workload};

use super::{Followed, Into};

/// A table whose old rows are known by their keys only, and one of whole ones.
const SQL: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int, v text);
    CREATE TABLE whole (id int PRIMARY KEY, n int, v text);
    ALTER TABLE whole REPLICA IDENTITY FULL;
    INSERT INTO t SELECT i, i, 'v' || i FROM generate_series(1, 20) i;
    INSERT INTO whole SELECT * FROM t;
";
const STREAMS: [&str; 2] = ["public.t", "public.whole"];

/// The rows that are kept as deleted: "id n v", as DuckDB reads them.
fn deleted(followed: &Followed, table: &str) -> Result<Vec<String>> {
    let lake = followed.lake.as_ref().context("a lake")?;
    let read = lake.table_of(&followed.project, "public", table).read(Engine::DuckDb)?;
    let columns = ["_op_type", "_cdc_lsn", "id", "n", "v"].map(str::to_owned);
    let rows = read.rows.project(&columns)?.rows;
    let mut found = Vec::new();
    for row in rows.iter().filter(|row| row[0].as_str() == Some("d")) {
        ensure!(row[1] != Cell::Null, "a deletion has its place in the log");
        let texts: Vec<_> = row[2..].iter().map(|cell| cell.as_str().unwrap_or("-")).collect();
        found.push(texts.join(" "));
    }
    found.sort();
    Ok(found)
}

#[test]
fn deleted_rows_stay_with_their_last_values() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "soft", SQL)?.keeping_deleted()?;
    followed.sync_equals(&STREAMS)?;
    followed.psql(
        "DELETE FROM t WHERE id = 1; DELETE FROM whole WHERE id = 1;
         UPDATE t SET v = 'last' WHERE id = 2; DELETE FROM t WHERE id = 2;
         INSERT INTO t VALUES (30, 30, 'brief'); DELETE FROM t WHERE id = 30;
         UPDATE whole SET id = 40 WHERE id = 4",
    )?;
    let outcome = followed.sync_equals(&STREAMS)?;
    assert_eq!(Followed::how(&outcome, "public.t")?, "followed");
    assert_eq!(deleted(&followed, "whole")?, ["1 1 v1", "4 4 v4"]);
    assert_eq!(deleted(&followed, "t")?, ["1 1 v1", "2 2 last", "30 30 brief"]);
    // Again and again: of each key there is one row.
    followed.psql(
        "INSERT INTO t VALUES (1, 100, 'again'), (30, 31, 'again'); DELETE FROM t WHERE id = 30;
         INSERT INTO whole VALUES (1, 5, 'again'); DELETE FROM whole WHERE id = 40",
    )?;
    followed.sync_equals(&STREAMS)?;
    assert_eq!(deleted(&followed, "t")?, ["2 2 last", "30 31 again"]);
    assert_eq!(deleted(&followed, "whole")?, ["4 4 v4", "40 4 v4"]);
    Ok(())
}

#[test]
fn a_truncate_empties_a_table_that_keeps_deleted_rows() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "soft_truncate", SQL)?.keeping_deleted()?;
    followed.sync_equals(&STREAMS)?;
    followed.psql("DELETE FROM t WHERE id = 1")?;
    followed.sync_equals(&STREAMS)?;
    followed.psql(
        "TRUNCATE t; INSERT INTO t VALUES (1, 1, 'after'), (2, 2, 'after'); DELETE FROM t WHERE id = 2;
         TRUNCATE whole",
    )?;
    followed.sync_equals(&STREAMS)?;
    assert_eq!(deleted(&followed, "t")?, ["2 2 after"]);
    assert!(deleted(&followed, "whole")?.is_empty());
    Ok(())
}

#[test]
fn changed_to_soft_the_table_is_loaded_anew_and_with_append_mode_it_says_nothing() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "soft_later", SQL)?;
    followed.select(&["public.whole"])?;
    followed.sync_equals(&["public.whole"])?;
    let followed = followed.keeping_deleted()?;
    followed.psql("DELETE FROM whole WHERE id = 3")?;
    let outcome = followed.sync_equals(&["public.whole"])?;
    assert_eq!(Followed::how(&outcome, "public.whole")?, "loaded");
    followed.psql("DELETE FROM whole WHERE id = 4")?;
    followed.sync_equals(&["public.whole"])?;
    assert_eq!(deleted(&followed, "whole")?, ["4 4 v4"]);
    // Every change is a row, and that is all.
    followed.project.select(&["public.whole"], json!({"append_mode": true}))?;
    followed.sync()?;
    followed.psql("UPDATE whole SET v = 'b' WHERE id = 5; DELETE FROM whole WHERE id = 5")?;
    followed.sync()?;
    assert_eq!(deleted(&followed, "whole")?, ["5 5 b"]);
    Ok(())
}

#[test]
fn random_transactions_arrive_where_deleted_rows_are_kept() -> Result<()> {
    for seed in [3, 13] {
        let run = || -> Result<()> {
            let sql = format!("{SCHEMA}{MORE}");
            let followed = Followed::new(Into::Iceberg, "soft_random", &sql)?.keeping_deleted()?;
            followed.select(&LARGE_TABLES)?;
            let mut workload = Workload::new(seed).of(&LARGE_TABLES);
            for _ in 0..3 {
                followed.psql(&workload.transactions(60))?;
                followed.sync_equals(&LARGE_TABLES)?;
            }
            Ok(())
        };
        run().with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}
