//! What a change does not carry: large values that an UPDATE left as they were,
//! rows without a key. The table itself says what they are, and is not loaded
//! anew.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use proto::lsn::Lsn;
use serde_json::json;
use tests::follow;
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::warehouse::{CATALOG_NAME, Warehouse};
use tests::reader::{self, read};
use tests::run::Outcome;
use tests::workload::{LARGE_TABLES, MORE, SCHEMA, Workload};

use super::{Followed, Into};

const SQL: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int, v text, w text, day date);
    ALTER TABLE t ALTER v SET STORAGE EXTERNAL, ALTER w SET STORAGE EXTERNAL;
    INSERT INTO t SELECT i, i, repeat(i || 'v', 1500), repeat(i || '\"w\", {', 900),
        date '2024-01-01' + i % 5 FROM generate_series(1, 60) i;
    INSERT INTO t VALUES (100, 0, NULL, 'short', NULL);
";
const T: [&str; 1] = ["public.t"];

/// The tables equal the source, and none of them by a load.
fn followed_equals(followed: &Followed, streams: &[&str]) -> Result<Outcome> {
    let outcome = followed.sync_equals(streams)?;
    ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
    Ok(outcome)
}

#[test]
fn a_large_value_that_was_left_as_it_was_is_the_tables_in_iceberg() -> Result<()> {
    left_as_it_was(Into::Iceberg)
}

#[test]
fn a_large_value_that_was_left_as_it_was_is_the_tables_in_parquet() -> Result<()> {
    left_as_it_was(Into::Parquet)
}

fn left_as_it_was(into: Into) -> Result<()> {
    let followed = Followed::new(into, "values", SQL)?;
    followed.sync_equals(&T)?;
    for sql in [
        "UPDATE t SET n = n + 1 WHERE id < 20",
        // One of the two; and again, in the same and in the next interval.
        "UPDATE t SET v = repeat('new', 1000) WHERE id IN (3, 4, 5); UPDATE t SET n = 7 WHERE id = 4",
        "UPDATE t SET n = 8 WHERE id IN (3, 4, 100)",
        // Gone and there again; a value that was NULL becomes large.
        "DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (4, 1, repeat('again', 800), repeat('w', 3000));
         UPDATE t SET n = 9 WHERE id = 4; UPDATE t SET v = repeat('x', 3000) WHERE id = 100",
        "UPDATE t SET n = 10 WHERE id IN (4, 100)",
        "UPDATE t SET day = day + 1",
        // Another key: twice, exchanged, and the old one taken by a new row.
        "UPDATE t SET id = 205 WHERE id = 5; UPDATE t SET id = 206 WHERE id = 6;
         UPDATE t SET id = 207, n = 1 WHERE id = 206; INSERT INTO t VALUES (5, 1, 'short', 'too')",
        "BEGIN; UPDATE t SET id = -1 WHERE id = 7; UPDATE t SET id = 7 WHERE id = 8;
         UPDATE t SET id = 8 WHERE id = -1; COMMIT; UPDATE t SET n = 11 WHERE id = 8",
        "UPDATE t SET id = id + 1000, v = 'short' WHERE id BETWEEN 20 AND 40",
    ] {
        followed.psql(sql)?;
        followed_equals(&followed, &T).context(sql)?;
    }
    Ok(())
}

#[test]
fn what_the_same_interval_changed_under_another_key_is_loaded() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "values_moved", SQL)?.keeping_deleted()?;
    followed.sync()?;
    // A row that is kept as deleted has the values, too.
    followed.psql("UPDATE t SET id = 209 WHERE id = 9; UPDATE t SET id = 309 WHERE id = 209")?;
    followed_equals(&followed, &T)?;
    followed.psql(
        "UPDATE t SET v = repeat('now', 900) WHERE id = 10; UPDATE t SET id = 210 WHERE id = 10",
    )?;
    let outcome = followed.sync_equals(&T)?;
    ensure!(outcome.stderr.contains("public.t is loaded anew"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn so_it_is_in_tables_that_are_partitioned_and_in_format_version_3() -> Result<()> {
    for (label, with) in [
        ("values_parts", json!({"partition_regex": "/{day, identity}/{id, bucket[3]}"})),
        ("values_v3", json!({})),
    ] {
        let followed = Followed::new(Into::Iceberg, label, SQL)?;
        followed.project.select(&T, with)?;
        if label == "values_v3" {
            followed.project.edit("destination.json", |destination| {
                destination["writer"]["format_version"] = 3.into();
            })?;
        }
        followed.sync()?;
        for sql in [
            "UPDATE t SET n = 1, day = day + 1 WHERE id < 30",
            "UPDATE t SET n = 2; UPDATE t SET id = id + 500 WHERE id < 9",
        ] {
            followed.psql(sql)?;
            let outcome = followed.sync()?;
            ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
            followed.equals_by_duckdb(&T).context(sql)?;
        }
    }
    Ok(())
}

#[test]
fn so_it_is_in_directories_of_parquet_files() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "values_directories", SQL)?;
    followed.project.select(&T, json!({"partition_regex": "/year={day,none,YYYY}/n={n,none,}"}))?;
    followed.sync_equals(&T)?;
    for sql in [
        "UPDATE t SET n = n + 1; UPDATE t SET n = n - 1, v = 'short' WHERE id < 9",
        "UPDATE t SET n = 3; UPDATE t SET id = id + 500 WHERE id < 9",
        // A row that is gone has none.
        "DELETE FROM t WHERE id = 20; INSERT INTO t VALUES (20, 1, NULL, repeat('x', 3000))",
        "UPDATE t SET n = 4 WHERE id IN (20, 21)",
    ] {
        followed.psql(sql)?;
        followed_equals(&followed, &T).context(sql)?;
    }
    Ok(())
}

#[test]
fn so_it_is_where_rows_are_json_in_parquet_files() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "values_json_rows", SQL)?;
    followed.project.select(&T, json!({"normalization": false}))?;
    followed.sync()?;
    followed.psql("UPDATE t SET n = 1 WHERE id < 30; UPDATE t SET w = NULL WHERE id < 10")?;
    let outcome = followed.sync()?;
    ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
    let read = read(reader::Engine::DuckDb, &followed.project.table("public", "t"))?;
    let mut newest = BTreeMap::new();
    for row in read.rows.project(&["_olake_id", "_cdc_lsn", "data"].map(str::to_owned))?.rows {
        let lsn = row[1].as_str().map(str::parse::<Lsn>).transpose()?;
        let data = row[2].as_str().map(str::to_owned);
        let known = newest.entry(row[0].as_str().map(str::to_owned)).or_insert((None, None));
        if (lsn, &data) > (known.0, &known.1) {
            *known = (lsn, data);
        }
    }
    let mut found: Vec<_> = newest.into_values().filter_map(|(_, data)| data).collect();
    found.sort_unstable();
    let source = followed.psql("SELECT row_to_json(t) FROM t")?;
    let mut expected: Vec<_> = source.lines().collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    Ok(())
}

#[test]
fn so_it_is_where_rows_are_json() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "values_json", SQL)?.keeping_deleted()?;
    followed.project.select(&T, json!({"normalization": false}))?;
    followed.sync()?;
    followed.psql("UPDATE t SET n = 1 WHERE id < 30; DELETE FROM t WHERE id = 50")?;
    let gone = followed.psql("SELECT row_to_json(t) FROM t WHERE id = 51")?;
    followed.psql("UPDATE t SET w = NULL, n = n + 1 WHERE id < 10; DELETE FROM t WHERE id = 51")?;
    let outcome = followed.sync()?;
    ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
    let lake = followed.lake.as_ref().context("a lake")?;
    let read = lake.table_of(&followed.project, "public", "t").read(Engine::DuckDb)?;
    let rows = read.rows.project(&["_op_type", "data"].map(str::to_owned))?.rows;
    let text = |op: bool| {
        let rows = rows.iter().filter(move |row| (row[0].as_str() == Some("d")) == op);
        let mut texts: Vec<_> = rows.filter_map(|row| row[1].as_str()).collect();
        texts.sort_unstable();
        texts
    };
    let source = followed.psql("SELECT row_to_json(t) FROM t")?;
    let mut expected: Vec<_> = source.lines().collect();
    expected.sort_unstable();
    assert_eq!(text(false), expected);
    ensure!(text(true).len() == 2 && text(true).contains(&gone.trim()), "{:?}", text(true));
    Ok(())
}

#[test]
fn of_n_equal_rows_of_which_k_are_deleted_the_others_stay() -> Result<()> {
    let followed = Followed::new(
        Into::Iceberg,
        "multiset",
        "CREATE TABLE bag (x int, y text, f float8, l int[]);
         ALTER TABLE bag REPLICA IDENTITY FULL;
         INSERT INTO bag SELECT i % 3, NULLIF('y', 'y' || i % 2), 0.5, ARRAY[1, NULL]
            FROM generate_series(1, 30) i",
    )?;
    let streams = ["public.bag"];
    followed.sync_equals(&streams)?;
    for sql in [
        "DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE x = 1 LIMIT 3)",
        "INSERT INTO bag VALUES (1, 'y', 0.5, ARRAY[1, NULL]), (1, 'y', 0.5, ARRAY[1, NULL]);
         DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE x = 1 AND y = 'y' LIMIT 4)",
        "UPDATE bag SET f = 'NaN' WHERE ctid IN (SELECT ctid FROM bag WHERE x = 2 LIMIT 4)",
        "UPDATE bag SET f = 0.5 WHERE ctid = (SELECT ctid FROM bag WHERE f = 'NaN' LIMIT 1);
         DELETE FROM bag WHERE ctid = (SELECT ctid FROM bag WHERE f = 'NaN' LIMIT 1)",
        "DELETE FROM bag",
        "INSERT INTO bag VALUES (1, NULL, NULL, NULL)",
    ] {
        followed.psql(sql)?;
        followed_equals(&followed, &streams).context(sql)?;
    }
    Ok(())
}

#[test]
fn in_parquet_rows_without_a_key_come_and_go_as_rows() -> Result<()> {
    let sql = "CREATE TABLE bag (x int, y text); ALTER TABLE bag REPLICA IDENTITY FULL;
         INSERT INTO bag SELECT i % 3, 'y' FROM generate_series(1, 30) i";
    let followed = Followed::new(Into::Parquet, "multiset_rows", sql)?;
    followed.sync_equals(&["public.bag"])?;
    followed.psql(
        "DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE x = 1 LIMIT 3);
         UPDATE bag SET y = NULL WHERE x = 2",
    )?;
    followed_equals(&followed, &["public.bag"])?;
    Ok(())
}

#[test]
fn random_transactions_of_large_values_and_equal_rows_arrive() -> Result<()> {
    for (seed, into) in [(5, Into::Iceberg), (15, Into::Iceberg), (25, Into::Parquet)] {
        let run = || -> Result<()> {
            let sql = format!("{SCHEMA}{MORE}");
            let followed = Followed::new(into, "large_random", &sql)?;
            followed.select(&LARGE_TABLES)?;
            let mut workload = Workload::new(seed).of(&LARGE_TABLES);
            followed.sync_equals(&LARGE_TABLES)?;
            for _ in 0..3 {
                followed.psql(&workload.transactions(60))?;
                let outcome = followed.sync_equals(&LARGE_TABLES)?;
                ensure!(!outcome.stderr.contains("free is loaded anew"), "{}", outcome.stderr);
            }
            Ok(())
        };
        run().with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}

#[test]
fn a_row_that_another_writer_has_deleted_loads_the_table_anew() -> Result<()> {
    let project = follow::project("values_foreign", SQL)?;
    let lake = Warehouse::start(Pair::new(Catalog::Postgres, Store::Local))?;
    project.write("destination.json", &lake.destination())?;
    let followed = Followed { project, lake: Some(lake), soft: false };
    followed.sync_equals(&T)?;
    let lake = followed.lake.as_ref().context("a lake")?;
    let table = lake.table_of(&followed.project, "public", "t");
    let name = format!("{CATALOG_NAME}.{}", table.name());
    lake.spark(&[
        format!("ALTER TABLE {name} SET TBLPROPERTIES ('write.delete.mode' = 'merge-on-read')"),
        format!("DELETE FROM {name} WHERE id = 7"),
    ])?;
    let files = table.describe()?.files;
    ensure!(files.iter().any(|file| file.content == "position_deletes"), "{files:?}");
    // Beside the one that is gone the others are as they were …
    followed.psql("UPDATE t SET n = 1 WHERE id BETWEEN 8 AND 20")?;
    let outcome = followed.sync()?;
    ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
    assert_eq!(table.count(Engine::DuckDb, "n = 1 AND v IS NOT NULL")?, 14);
    // … and nobody knows what that one was.
    followed.psql("UPDATE t SET n = 2 WHERE id = 7")?;
    let outcome = followed.sync_equals(&T)?;
    ensure!(outcome.stderr.contains("public.t is loaded anew"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn append_mode_needs_whole_rows_where_values_may_be_large() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "append_whole", SQL)?;
    followed.project.select(&T, json!({"append_mode": true}))?;
    let told = followed.project.run(&tests::run::Project::SYNC)?.failed()?;
    for part in ["public.t (v, w)", "ALTER TABLE \"public\".\"t\" REPLICA IDENTITY FULL;"] {
        ensure!(told.contains(part), "{part}: {told}");
    }
    followed.psql("ALTER TABLE t REPLICA IDENTITY FULL")?;
    followed.sync()?;
    Ok(())
}
