//! Columns that come, go and change while a table is followed, without a load.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::going::end;
use tests::iceberg::engine::Engine as Lake;
use tests::run::Project;

use super::{Followed, Into, about};

/// A table `t` with its content, and what is done with it: none of it costs a load.
const FOLLOWED: [(&str, &str, &str); 12] = [
    (
        "added",
        PLAIN,
        "INSERT INTO t VALUES (101, 1, 1); ALTER TABLE t ADD n int;
         INSERT INTO t VALUES (102, 2, 2, 2); UPDATE t SET n = id WHERE id < 5;
         UPDATE t SET a = 0 WHERE id = 7; DELETE FROM t WHERE id = 9; ALTER TABLE t ADD more text[];
         UPDATE t SET id = 103, more = '{x,y}' WHERE id = 3",
    ),
    (
        "dropped",
        PLAIN,
        "UPDATE t SET a = 1, b = 2 WHERE id < 9; ALTER TABLE t DROP a;
         UPDATE t SET b = 3 WHERE id < 5; INSERT INTO t VALUES (101, 1); DELETE FROM t WHERE id = 8",
    ),
    (
        "renamed",
        PLAIN,
        "UPDATE t SET b = 2 WHERE id < 9; ALTER TABLE t RENAME b TO c;
         UPDATE t SET c = 3 WHERE id < 5; INSERT INTO t VALUES (101, 1, 1)",
    ),
    (
        "key_renamed",
        PLAIN,
        "UPDATE t SET b = 2 WHERE id < 9; ALTER TABLE t RENAME id TO key;
         UPDATE t SET b = 3 WHERE key < 5; DELETE FROM t WHERE key = 6; UPDATE t SET key = 99 WHERE key = 7",
    ),
    (
        "swapped",
        PLAIN,
        "UPDATE t SET a = 8, b = 9 WHERE id < 9; ALTER TABLE t RENAME a TO x; UPDATE t SET x = 7 WHERE id < 7;
         ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME x TO b; UPDATE t SET a = 5, b = 4 WHERE id < 3",
    ),
    (
        "wider",
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(10, 2), v varchar(10), l numeric(5, 1)[]);
         INSERT INTO t SELECT i, i / 7.0, 'v' || i, ARRAY[i, i / 7.0] FROM generate_series(1, 20) i",
        "UPDATE t SET n = -3.25 WHERE id < 9;
         ALTER TABLE t ALTER n TYPE numeric(20, 2), ALTER v TYPE varchar(20);
         UPDATE t SET n = 123456789012345678.25, v = 'longer than ten' WHERE id < 5; DELETE FROM t WHERE id = 8",
    ),
    (
        "toasted",
        "CREATE TABLE t (id int PRIMARY KEY, a int, long text); ALTER TABLE t ALTER long SET STORAGE EXTERNAL;
         INSERT INTO t SELECT i, i, repeat(md5(i::text), 100) FROM generate_series(1, 20) i",
        "UPDATE t SET a = 0 WHERE id < 4; ALTER TABLE t RENAME long TO longer; ALTER TABLE t ADD n text;
         UPDATE t SET a = 1 WHERE id BETWEEN 3 AND 6;
         UPDATE t SET n = repeat('n', 3000) WHERE id IN (3, 7); UPDATE t SET id = 100 WHERE id = 3",
    ),
    (
        "whole",
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text); ALTER TABLE t REPLICA IDENTITY FULL;
         INSERT INTO t SELECT i, i, 'b' FROM generate_series(1, 20) i",
        "UPDATE t SET a = 0 WHERE id < 4; ALTER TABLE t DROP a; ALTER TABLE t RENAME b TO a;
         UPDATE t SET a = 'c' WHERE id BETWEEN 3 AND 6; ALTER TABLE t ADD n int; DELETE FROM t WHERE id = 5",
    ),
    (
        "keyless",
        "CREATE TABLE t (a int, b text); INSERT INTO t SELECT i, 'b' FROM generate_series(1, 20) i",
        "INSERT INTO t VALUES (1, 'b'); ALTER TABLE t ADD n int; INSERT INTO t VALUES (2, 'c', 3);
         ALTER TABLE t RENAME b TO x; INSERT INTO t VALUES (3, 'd', 4); ALTER TABLE t DROP a",
    ),
    (
        "free",
        "CREATE TABLE t (a int, b text); ALTER TABLE t REPLICA IDENTITY FULL;
         INSERT INTO t SELECT i % 3, 'b' FROM generate_series(1, 20) i",
        "INSERT INTO t VALUES (7, 'b'), (7, 'b'); ALTER TABLE t ADD n int; INSERT INTO t VALUES (7, 'b', NULL);
         DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE a = 7)",
    ),
    (
        "parts",
        "CREATE TABLE t (id int, a int, g int, v text, PRIMARY KEY (id, a)) PARTITION BY LIST (a);
         CREATE TABLE t_0 PARTITION OF t FOR VALUES IN (0);
         CREATE TABLE t_1 (v text, a int NOT NULL, id int NOT NULL, g int);
         ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES IN (1);
         INSERT INTO t SELECT i, i % 2, 0, 'v' FROM generate_series(1, 20) i",
        "UPDATE t SET v = 'w' WHERE id < 9; ALTER TABLE t ADD n int, ADD m int; UPDATE t SET n = id WHERE id < 5;
         ALTER TABLE t RENAME v TO value; UPDATE t SET a = 1 - a WHERE id < 7; ALTER TABLE t DROP g;
         DELETE FROM t WHERE id = 5",
    ),
    (
        "touched",
        PLAIN,
        "UPDATE t SET a = 0 WHERE id < 4; ALTER TABLE t ALTER a SET NOT NULL, ALTER b SET STATISTICS 7,
         ALTER b SET DEFAULT 9; INSERT INTO t VALUES (101, 1); UPDATE t SET b = 3 WHERE id < 9",
    ),
];

const PLAIN: &str = "CREATE TABLE t (id int PRIMARY KEY, a int, b int);
    INSERT INTO t SELECT i, i, -i FROM generate_series(1, 20) i";

fn names() -> Vec<String> {
    FOLLOWED.iter().map(|(name, ..)| format!("public.{name}")).collect()
}

fn create() -> String {
    let sql = |(name, create, _): &(&str, &str, &str)| about(name, create);
    FOLLOWED.iter().map(sql).collect::<Vec<_>>().join(";\n")
}

/// A statement at a time, each a transaction of its own.
fn each(followed: &Followed, name: &str, sql: &str) -> Result<()> {
    for statement in about(name, sql).split("; ").flat_map(|part| part.split(";\n")) {
        followed.psql(statement).with_context(|| statement.to_owned())?;
    }
    Ok(())
}

#[test]
fn columns_that_come_go_and_change_cost_no_load() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "columns", &create())?;
    let names = names();
    let streams: Vec<&str> = names.iter().map(String::as_str).collect();
    followed.sync()?;
    for (name, _, sql) in FOLLOWED {
        each(&followed, name, sql)?;
    }
    let outcome = followed.sync_equals(&streams)?;
    for stream in &streams {
        assert_eq!(Followed::how(&outcome, stream)?, "followed", "{stream}: {}", outcome.stderr);
    }
    ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
    // How they are now is known.
    followed.lose_state()?;
    followed.project.discover()?;
    followed.psql("INSERT INTO added (id) VALUES (201); DELETE FROM dropped WHERE id = 1")?;
    let outcome = followed.sync_equals(&streams)?;
    ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn what_is_not_certain_is_loaded_anew() -> Result<()> {
    let cases = [
        ("ALTER TABLE t ADD n int DEFAULT 7", "added with a default"),
        ("ALTER TABLE t ADD n uuid DEFAULT gen_random_uuid()", "rewritten or truncated"),
        ("ALTER TABLE t ADD n int; ALTER TABLE t DROP n", "added and dropped again"),
        ("ALTER TABLE t ALTER a TYPE bigint", "column a has another type"),
        ("ALTER TABLE t ADD n int; TRUNCATE t", "rewritten or truncated"),
        ("UPDATE t SET b = 8; ALTER TABLE t DROP b, ADD b int", "not certain"),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (a)", "identity"),
    ];
    let tables = cases.iter().enumerate().map(|(at, _)| about(&format!("c{at}"), PLAIN));
    let followed =
        Followed::new(Into::Iceberg, "uncertain", &tables.collect::<Vec<_>>().join(";\n"))?;
    followed.sync()?;
    for (at, (sql, _)) in cases.iter().enumerate() {
        each(&followed, &format!("c{at}"), sql)?;
        followed.psql(&format!("INSERT INTO c{at} (id, a) VALUES (101, 101)"))?;
    }
    let streams: Vec<String> = (0..cases.len()).map(|at| format!("public.c{at}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    let outcome = followed.sync_equals(&streams)?;
    for (stream, (sql, why)) in streams.iter().zip(cases) {
        assert_eq!(Followed::how(&outcome, stream)?, "loaded", "{sql}");
        let said =
            outcome.stderr.lines().find(|line| line.contains(&format!("{stream} is loaded")));
        ensure!(said.is_some_and(|said| said.contains(why)), "{sql}: {said:?}");
    }
    Ok(())
}

#[test]
fn files_that_know_columns_by_name_take_new_ones_and_no_other_change() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "columns_by_name", PLAIN)?;
    let streams = ["public.t"];
    followed.sync_equals(&streams)?;
    for (sql, how) in [
        (
            "UPDATE t SET a = 0 WHERE id < 5; ALTER TABLE t ADD n int; UPDATE t SET n = 1 WHERE id < 3",
            "followed",
        ),
        ("ALTER TABLE t ALTER a SET NOT NULL", "followed"),
        (
            "UPDATE t SET a = 0 WHERE id < 5; ALTER TABLE t DROP n; UPDATE t SET a = 1 WHERE id < 3",
            "loaded",
        ),
        ("ALTER TABLE t ADD n int; UPDATE t SET n = 1 WHERE id < 3", "followed"),
        ("ALTER TABLE t RENAME n TO m; UPDATE t SET m = 2 WHERE id < 2", "loaded"),
    ] {
        each(&followed, "t", sql)?;
        let outcome = followed.sync_equals(&streams).with_context(|| sql)?;
        assert_eq!(Followed::how(&outcome, "public.t")?, how, "{sql}: {}", outcome.stderr);
    }
    Ok(())
}

#[test]
fn a_sync_that_goes_on_follows_columns_without_a_load() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "columns_going", PLAIN)?;
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    for sql in [
        "ALTER TABLE t ADD n int; UPDATE t SET n = 1 WHERE id < 3; DELETE FROM t WHERE id = 9",
        "ALTER TABLE t RENAME n TO m; UPDATE t SET m = 2 WHERE id < 2",
        "ALTER TABLE t DROP a; ALTER TABLE t RENAME id TO key; DELETE FROM t WHERE key = 5",
        "ALTER TABLE t ADD a text; UPDATE t SET a = 'again' WHERE key < 7",
    ] {
        each(&followed, "t", sql)?;
        followed.caught_up(&mut going)?;
        followed.equals(&["public.t"]).with_context(|| sql)?;
    }
    let outcome = end(going)?;
    followed.equals(&["public.t"])?;
    let anew = outcome.stderr.lines().filter(|line| line.contains("loaded anew")).count();
    ensure!(anew == 0, "{}", outcome.stderr);
    Ok(())
}

#[test]
fn only_what_discover_was_asked_for_is_followed() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "columns_selected", PLAIN)?;
    let only = json!({"selected_columns": {"columns": ["b"], "sync_new_columns": false}});
    followed.project.select(&["public.t"], only)?;
    followed.sync()?;
    followed.psql("UPDATE t SET b = 1 WHERE id < 5; ALTER TABLE t ADD n int DEFAULT 7")?;
    followed.psql("ALTER TABLE t DROP a; UPDATE t SET b = 2, n = 3 WHERE id < 3")?;
    let outcome = followed.sync()?;
    assert_eq!(Followed::how(&outcome, "public.t")?, "followed", "{}", outcome.stderr);
    let lake = followed.lake.as_ref().context("a lake")?;
    let rows = lake.table_of(&followed.project, "public", "t");
    let rows = rows.read(Lake::DuckDb)?.rows;
    let wanted = ["id", "b"].map(str::to_owned);
    let found = rows.project(&wanted)?;
    let told = followed.psql("SELECT count(*), sum(id), sum(b) FROM t")?;
    let sum = |at: usize| -> i64 {
        let cells = found.rows.iter().filter_map(|row| row[at].as_str()?.parse::<i64>().ok());
        cells.sum()
    };
    assert_eq!(told, format!("{}|{}|{}", found.rows.len(), sum(0), sum(1)));
    followed.psql("ALTER TABLE t RENAME b TO c")?;
    let told = followed.project.run(&Project::SYNC)?.failed()?;
    ensure!(told.contains("column b no longer exists"), "{told}");
    Ok(())
}

#[test]
fn rows_as_json_take_new_columns_and_no_other_change() -> Result<()> {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, a int, long text);
        ALTER TABLE t ALTER long SET STORAGE EXTERNAL;
        INSERT INTO t SELECT i, i, repeat(md5(i::text), 100) FROM generate_series(1, 20) i";
    let followed = Followed::new(Into::Iceberg, "columns_json", sql)?;
    followed.project.select(&["public.t"], json!({"normalization": false}))?;
    followed.sync()?;
    let lake = followed.lake.as_ref().context("a lake")?;
    for (sql, how) in [
        (
            "UPDATE t SET a = 0 WHERE id < 5; ALTER TABLE t ADD n int; UPDATE t SET n = 1 WHERE id < 3",
            "followed",
        ),
        ("ALTER TABLE t RENAME a TO b; UPDATE t SET b = 2 WHERE id < 2", "loaded"),
        ("UPDATE t SET b = 3 WHERE id < 7; ALTER TABLE t DROP n", "loaded"),
    ] {
        each(&followed, "t", sql)?;
        let outcome = followed.sync()?;
        assert_eq!(Followed::how(&outcome, "public.t")?, how, "{sql}: {}", outcome.stderr);
        let read = lake.table_of(&followed.project, "public", "t").read(Lake::DuckDb)?;
        let rows = read.rows.project(&["data".to_owned()])?.rows;
        let mut found = Vec::new();
        for row in &rows {
            found.push(without_nulls(row[0].as_str().unwrap_or_default())?);
        }
        found.sort_unstable();
        let told = followed.psql("SELECT row_to_json(t) FROM t")?;
        let mut told = told.lines().map(without_nulls).collect::<Result<Vec<_>>>()?;
        told.sort_unstable();
        assert_eq!(found, told, "{sql}");
    }
    Ok(())
}

/// A row of before a column is one that has none of it.
fn without_nulls(row: &str) -> Result<String> {
    let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(row)?;
    row.retain(|_, value| !value.is_null());
    Ok(serde_json::to_string(&row)?)
}

#[test]
fn large_values_are_completed_in_many_intervals_across_a_change_of_columns() -> Result<()> {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, a int, long text);
        ALTER TABLE t ALTER long SET STORAGE EXTERNAL;
        INSERT INTO t SELECT i, i, repeat(md5(i::text), 100) FROM generate_series(1, 20) i";
    let followed = Followed::new(Into::Iceberg, "columns_intervals", sql)?;
    followed.project.edit("source.json", |source| {
        source["update_method"]["commit_changes"] = 8.into();
    })?;
    followed.sync()?;
    let some = |what: &str| -> Result<()> {
        for id in 1..9 {
            followed
                .psql(&format!("UPDATE t SET {what} = {id} WHERE id BETWEEN {id} AND {id} + 4"))?;
        }
        Ok(())
    };
    some("a")?;
    followed.psql("ALTER TABLE t RENAME long TO longer")?;
    some("a")?;
    followed.psql("ALTER TABLE t RENAME a TO b; ALTER TABLE t ADD a text")?;
    some("b")?;
    let outcome = followed.sync_equals(&["public.t"])?;
    ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
    ensure!(!outcome.stderr.contains("trying again"), "{}", outcome.stderr);
    Ok(())
}
