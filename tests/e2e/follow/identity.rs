//! What tells a row from the others, and what is published of it: keys that no type of
//! the destination can hold or no reader compares, identities that go, columns that the
//! log does not send. The source's own statements never fail for us.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::builds::Build;
use tests::compare::Rows;
use tests::follow::Followed;
use tests::iceberg::engine::Engine;
use tests::reader;

use super::Into;

/// What DuckDB reads of a table.
fn read_back(followed: &Followed, table: &str) -> Result<Rows> {
    Ok(match &followed.lake {
        None => {
            reader::read(reader::Engine::DuckDb, &followed.project.table("public", table))?.rows
        }
        Some(lake) => lake.table_of(&followed.project, "public", table).read(Engine::DuckDb)?.rows,
    })
}

#[test]
fn a_table_that_loses_its_identity_is_not_in_the_way_of_its_users() -> Result<()> {
    for build in Build::several()?.into_iter().take(1).chain([Build::newest()?]) {
        let followed = Followed::on(
            &build,
            Into::Iceberg,
            "identity_lost",
            "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b');
             CREATE TABLE u (id int PRIMARY KEY, v text); ALTER TABLE u REPLICA IDENTITY FULL;
             INSERT INTO u VALUES (1, 'a'), (2, 'b');
             CREATE TABLE p (id int, v text) PARTITION BY LIST (id);
             ALTER TABLE p REPLICA IDENTITY FULL;
             CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1, 2);
             ALTER TABLE p1 REPLICA IDENTITY FULL; INSERT INTO p VALUES (1, 'a'), (2, 'b')",
        )?;
        let streams = ["public.t", "public.u", "public.p"];
        followed.sync_equals(&streams)?;
        followed.psql(
            "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE u REPLICA IDENTITY NOTHING;
             CREATE TABLE p2 PARTITION OF p FOR VALUES IN (3, 4); INSERT INTO p VALUES (3, 'c')",
        )?;
        let outcome = followed.sync_equals(&streams)?;
        ensure!(outcome.stderr.contains("DROP TABLE ONLY"), "{}", outcome.stderr);
        followed.psql(
            "DELETE FROM t WHERE id = 1; UPDATE u SET v = 'changed' WHERE id = 1;
             UPDATE p SET v = 'changed' WHERE id IN (1, 3)",
        )?;
        tests::run::poll("PostgreSQL has counted", || {
            followed.sync()?;
            Ok(followed.equals(&streams).is_ok())
        })?;
        // And comes back to where its changes are followed.
        followed.psql("ALTER TABLE t ADD PRIMARY KEY (id)")?;
        followed.sync_equals(&streams)?;
        followed.psql("UPDATE t SET v = 'again'")?;
        let outcome = followed.sync_equals(&streams)?;
        ensure!(!outcome.stderr.contains("public.t is loaded anew"), "{}", outcome.stderr);
    }
    Ok(())
}

#[test]
fn a_server_that_does_not_count_is_warned_of() -> Result<()> {
    let sql = "CREATE TABLE n (a int); CREATE TABLE full_rows (a int);
         ALTER TABLE full_rows REPLICA IDENTITY FULL";
    let followed = Followed::new(Into::Iceberg, "uncounted", sql)?;
    let told = |told: &str| -> Result<bool> { Ok(followed.sync()?.stderr.contains(told)) };
    let without = "replica identity that can be published: public.n;";
    ensure!(told(without)? && !told("track_counts is off")?);
    let database = &followed.project.database().name;
    followed.psql(&format!("ALTER DATABASE {database} SET track_counts = off"))?;
    ensure!(told("track_counts is off")?);
    Ok(())
}

#[test]
fn generated_columns_in_an_identity_are_not_in_the_way_of_its_users() -> Result<()> {
    let followed = Followed::new(
        Into::Iceberg,
        "identity_generated",
        "CREATE TABLE s (a int, g int GENERATED ALWAYS AS (a * 2) STORED);
         ALTER TABLE s REPLICA IDENTITY FULL; INSERT INTO s (a) VALUES (1), (2);
         CREATE TABLE v (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2));
         ALTER TABLE v REPLICA IDENTITY FULL; INSERT INTO v (id) VALUES (1), (2);
         CREATE TABLE k (a int, g int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY);
         INSERT INTO k (a) VALUES (1), (2)",
    )?;
    let streams = ["public.s", "public.v", "public.k"];
    followed.select(&streams)?;
    let told = followed.project.run(&tests::run::Project::SYNC)?.failed()?;
    ensure!(told.contains("key columns are generated"), "{told}");
    for table in ["s", "v", "k"] {
        followed.psql(&format!("DELETE FROM {table} WHERE g = 2")).context(table)?;
    }
    followed.select(&streams[..2])?;
    followed.sync()?;
    for table in ["s", "v"] {
        followed.psql(&format!("DELETE FROM {table} WHERE g = 4")).context(table)?;
    }
    Ok(())
}

#[test]
fn generated_columns_that_are_not_sent_are_not_loaded_either() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::new(
            into,
            "not_sent",
            "CREATE TABLE t (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED);
             INSERT INTO t (id, a) VALUES (1, 1), (2, 2)",
        )?;
        let outcome = followed.sync()?;
        ensure!(outcome.stderr.contains("public.t.g"), "{}", outcome.stderr);
        followed.psql("UPDATE t SET a = 10 WHERE id = 1; INSERT INTO t (id, a) VALUES (3, 3)")?;
        followed.sync()?;
        let rows = read_back(&followed, "t")?;
        ensure!(!rows.columns.contains(&"g".to_owned()), "{:?}", rows.columns);
        let values: BTreeSet<_> =
            rows.column("a")?.iter().filter_map(|cell| cell.as_str().map(str::to_owned)).collect();
        ensure!(["10", "2", "3"].iter().all(|value| values.contains(*value)), "{values:?}");
    }
    Ok(())
}

#[test]
fn keys_that_no_reader_compares_are_followed_all_the_same() -> Result<()> {
    let followed = Followed::new(
        Into::Iceberg,
        "odd_keys",
        "CREATE TABLE f (k float8, n real, v text, PRIMARY KEY (k, n));
         CREATE TABLE l (k text[] PRIMARY KEY, v text);
         INSERT INTO f SELECT i / 8.0, 0.1, 'old' FROM generate_series(1, 40) i;
         INSERT INTO f VALUES ('NaN', 'Infinity', 'x'), (-0.0, 1, 'zero');
         INSERT INTO l VALUES ('{}', 'none'), ('{a,NULL}', 'some'), ('{\"a,b\"}', 'one')",
    )?;
    let streams = ["public.f", "public.l"];
    followed.sync_equals(&streams)?;
    for sql in [
        "UPDATE f SET v = 'new' WHERE k > 3; DELETE FROM f WHERE k < 2; INSERT INTO f VALUES (9, 9, '9');
         UPDATE l SET v = 'changed'",
        "UPDATE f SET v = 'odd' WHERE k = 'NaN'; UPDATE f SET k = k + 100 WHERE k = 9;
         UPDATE l SET k = k || 'x'::text WHERE v = 'changed'; DELETE FROM l WHERE k = '{x}'",
    ] {
        followed.psql(sql)?;
        let outcome = followed.sync_equals(&streams).context(sql)?;
        ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
    }
    Ok(())
}

#[test]
fn rows_whose_keys_cannot_be_held_are_loaded_and_never_taken_for_each_other() -> Result<()> {
    for (into, normalization) in
        [(Into::Parquet, true), (Into::Parquet, false), (Into::Iceberg, false)]
    {
        let followed = Followed::new(
            into,
            "unheld_keys",
            "CREATE TABLE d (k date PRIMARY KEY, v text);
             INSERT INTO d VALUES ('infinity', 'inf'), ('-infinity', '-inf'), ('2020-01-01', 'x')",
        )?;
        followed.project.select(&["public.d"], json!({"normalization": normalization}))?;
        followed.sync()?;
        for (sql, is_loaded) in [
            ("UPDATE d SET v = 'y' WHERE k = '2020-01-01'", false),
            ("UPDATE d SET v = 'infu' WHERE k = 'infinity'", true),
            ("DELETE FROM d WHERE k = '-infinity'", true),
        ] {
            followed.psql(sql)?;
            let outcome = followed.sync()?;
            let told = outcome.stderr.contains("public.d is loaded anew");
            ensure!(told == is_loaded, "{into:?} {sql}: {}", outcome.stderr);
        }
        let rows = read_back(&followed, "d")?;
        let column = if normalization { "v" } else { "data" };
        let texts: Vec<_> = rows.column(column)?;
        let mut found: Vec<&str> = texts.iter().filter_map(|cell| cell.as_str()).collect();
        found.sort_unstable();
        let is = |at: usize, v: &str| found[at] == v || found[at].contains(&format!("\"{v}\""));
        ensure!(found.len() == 2 && (is(0, "infu") || is(1, "infu")), "{found:?}");
        ensure!(is(0, "y") || is(1, "y"), "{found:?}");
    }
    Ok(())
}
