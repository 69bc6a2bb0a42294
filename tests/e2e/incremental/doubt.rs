//! Where state, table and source do not agree, or rows do not tell whether they
//! have been read.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Incremental, Into};

const SQL: &str = "
    CREATE TABLE t (id serial PRIMARY KEY, c int, v text);
    INSERT INTO t (c, v) SELECT i / 10, 'a' FROM generate_series(1, 95) i;
";
const MORE: &str = "INSERT INTO t (c, v) SELECT max(c), 'tie' FROM t;
    INSERT INTO t (c, v) VALUES (NULL, 'apart');
    INSERT INTO t (c, v) SELECT max(c) + 1, 'above' FROM t";
const STREAMS: [&str; 1] = ["public.t"];
const BOTH: [Into; 2] = [Into::Parquet, Into::Iceberg];

#[test]
fn a_lost_or_old_state_neither_loses_nor_doubles() -> Result<()> {
    for into in BOTH {
        let tables = Incremental::new(into, "lost", SQL, &[("t", "c")])?;
        tables.sync()?;
        let old = tables.project.read("state.json")?;
        tables.psql(MORE)?;
        tables.sync_equals(&STREAMS)?;
        std::fs::remove_file(tables.project.path().join("state.json"))?;
        tables.psql(MORE)?;
        let outcome = tables.sync_equals(&STREAMS)?;
        assert_eq!(Incremental::rows(&outcome, "public.t")?, 3);
        tables.project.write("state.json", &old)?;
        tables.psql(MORE)?;
        let outcome = tables.sync_equals(&STREAMS)?;
        assert_eq!(Incremental::rows(&outcome, "public.t")?, 3);
        // One that knows nothing, and one of another tool.
        let foreign = json!({"type": "STREAM", "streams": [{"stream": "t", "namespace": "public",
            "sync_mode": "incremental", "state": {"c": 3, "chunks": []}}]});
        tables.project.write("state.json", &foreign)?;
        tables.sync_equals(&STREAMS)?;
    }
    Ok(())
}

#[test]
fn a_table_that_was_rewritten_is_told_by_its_rows() -> Result<()> {
    for into in BOTH {
        let tables = Incremental::new(into, "rewritten", SQL, &[("t", "c")])?;
        tables.sync_equals(&STREAMS)?;
        for rewrite in
            ["VACUUM FULL t", "ALTER TABLE t ALTER v TYPE varchar(50)", "CLUSTER t USING t_pkey"]
        {
            tables.psql(MORE)?;
            tables.psql(rewrite)?;
            tables.sync_equals(&STREAMS)?;
            tables.psql(rewrite)?;
            tables.psql(MORE)?;
            tables.sync_equals(&STREAMS).map_err(|error| error.context(rewrite))?;
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_told_any_more_is_said_and_the_remedy_works() -> Result<()> {
    let sql = "CREATE TABLE log (c int, v text);
        INSERT INTO log SELECT 1, 'line' || i FROM generate_series(1, 2000) i";
    let tables = Incremental::new(Into::Parquet, "untold", sql, &[("log", "c")])?;
    let streams = ["public.log"];
    tables.sync_equals(&streams)?;
    tables.psql("INSERT INTO log VALUES (1, 'tie')")?;
    tables.sync_equals(&streams)?;
    tables.psql("VACUUM FULL log; INSERT INTO log VALUES (1, 'another'), (2, 'above')")?;
    let said = tables.project.run(&tests::run::Project::SYNC)?.failed()?;
    ensure!(said.contains("cannot be told any more"), "{said}");
    ensure!(said.contains("clear-destination"), "{said}");
    tables.project.run(&tests::run::Project::CLEAR)?.succeeded()?;
    tables.sync_equals(&streams)?;
    Ok(())
}

#[test]
fn a_view_is_followed_by_what_its_rows_hold() -> Result<()> {
    let sql = "CREATE TABLE base (c int, v text);
        INSERT INTO base SELECT i / 10, 'a' FROM generate_series(1, 95) i;
        CREATE VIEW seen AS SELECT c, v FROM base;
        CREATE MATERIALIZED VIEW kept AS SELECT c, v FROM base";
    for into in BOTH {
        let tables = Incremental::new(into, "views", sql, &[("seen", "c"), ("kept", "c")])?;
        let streams = ["public.seen", "public.kept"];
        tables.sync_equals(&streams)?;
        for _ in 0..2 {
            tables.psql(
                "INSERT INTO base SELECT max(c), 'a' FROM base; INSERT INTO base VALUES (NULL, 'x');
                 INSERT INTO base SELECT max(c) + 1, 'a' FROM base; REFRESH MATERIALIZED VIEW kept",
            )?;
            let outcome = tables.sync_equals(&streams)?;
            assert_eq!(Incremental::rows(&outcome, "public.seen")?, 3);
            assert_eq!(Incremental::rows(&tables.sync_equals(&streams)?, "public.kept")?, 0);
        }
    }
    Ok(())
}

#[test]
fn many_rows_of_a_view_with_the_largest_value_wait_for_a_larger_one() -> Result<()> {
    let sql = "CREATE TABLE base (c int, v text);
        INSERT INTO base SELECT i / 1000, 'a' FROM generate_series(0, 1999) i;
        CREATE VIEW days AS SELECT c, v FROM base";
    let tables = Incremental::new(Into::Parquet, "waiting", sql, &[("days", "c")])?;
    let outcome = tables.sync()?;
    assert_eq!(Incremental::rows(&outcome, "public.days")?, 1000);
    ensure!(outcome.stderr.contains("are read when there is a larger one"), "{}", outcome.stderr);
    tables.psql("INSERT INTO base VALUES (1, 'tie')")?;
    assert_eq!(Incremental::rows(&tables.sync()?, "public.days")?, 0);
    tables.psql("INSERT INTO base VALUES (2, 'above'), (1, 'tie')")?;
    tables.sync_equals(&["public.days"])?;
    tables.psql("INSERT INTO base VALUES (2, 'tie')")?;
    tables.sync_equals(&["public.days"])?;
    // Too many to be told: the new ones wait, and none comes twice.
    tables.psql("INSERT INTO base SELECT 2, 'many' FROM generate_series(1, 1000)")?;
    assert_eq!(Incremental::rows(&tables.sync()?, "public.days")?, 0);
    tables.psql("INSERT INTO base VALUES (3, 'above')")?;
    tables.sync_equals(&["public.days"])?;
    Ok(())
}
