//! What is read: everything once, ties included, by every kind of cursor.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::increments;

use super::{Incremental, Into};

const EVENTS: &str = "
    CREATE TABLE events (id bigserial PRIMARY KEY, at timestamptz NOT NULL, v text);
    CREATE TABLE log (n int, line text);
    INSERT INTO events (at, v) SELECT timestamptz '2024-01-01' + i / 10 * interval '1 s', 'a'
        FROM generate_series(1, 1000) i;
    INSERT INTO log SELECT i / 7, 'line ' || i % 3 FROM generate_series(1, 1000) i;
";
const STREAMS: [&str; 2] = ["public.events", "public.log"];
const CURSORS: [(&str, &str); 2] = [("events", "at"), ("log", "n")];

/// Rows above the largest value and others with exactly that value.
const MORE: &str = "
    INSERT INTO events (at, v) SELECT max(at), 'tie' FROM events;
    INSERT INTO events (at, v) SELECT max(at) + interval '1 microsecond', 'above' FROM events;
    INSERT INTO events (at, v) SELECT max(at), 'tie above' FROM events;
    INSERT INTO log SELECT max(n), 'line 1' FROM log;
    INSERT INTO log SELECT max(n), 'line 1' FROM log;
    INSERT INTO log SELECT max(n) + 1, 'line 1' FROM log;
";

#[test]
fn rows_with_the_largest_value_are_neither_lost_nor_doubled_in_parquet() -> Result<()> {
    ties(Into::Parquet)
}

#[test]
fn rows_with_the_largest_value_are_neither_lost_nor_doubled_in_iceberg() -> Result<()> {
    ties(Into::Iceberg)
}

fn ties(into: Into) -> Result<()> {
    let tables = Incremental::new(into, "ties", EVENTS, &CURSORS)?;
    let first = tables.sync_equals(&STREAMS)?;
    assert_eq!(Incremental::how(&first, "public.events")?, "loaded");
    for _ in 0..3 {
        tables.psql(MORE)?;
        let outcome = tables.sync_equals(&STREAMS)?;
        for stream in STREAMS {
            assert_eq!(Incremental::how(&outcome, stream)?, "added");
            assert_eq!(Incremental::rows(&outcome, stream)?, 3, "{stream}");
        }
        // Nothing new is nothing to commit.
        let outcome = tables.sync_equals(&STREAMS)?;
        assert_eq!(Incremental::rows(&outcome, "public.log")?, 0);
        // At the largest value alone.
        tables.psql("INSERT INTO log SELECT max(n), 'line 1' FROM log")?;
        tables.psql("INSERT INTO events (at, v) SELECT max(at), 'late tie' FROM events")?;
        let outcome = tables.sync_equals(&STREAMS)?;
        assert_eq!(Incremental::rows(&outcome, "public.log")?, 1);
    }
    Ok(())
}

#[test]
fn rows_that_are_changed_take_their_own_place_in_iceberg() -> Result<()> {
    let tables = Incremental::new(Into::Iceberg, "upserts", EVENTS, &CURSORS)?;
    tables.sync_equals(&STREAMS)?;
    for round in 0..3 {
        let at = format!("timestamptz '2025-01-01' + {round} * interval '1 h'");
        tables.psql(&format!(
            "UPDATE events SET v = 'changed {round}', at = {at} WHERE id % 10 = {round};
             INSERT INTO events (at, v) VALUES ({at}, 'new')"
        ))?;
        let outcome = tables.sync_equals(&STREAMS)?;
        ensure!(Incremental::rows(&outcome, "public.events")? > 100);
    }
    Ok(())
}

#[test]
fn what_the_state_says_is_what_the_table_holds() -> Result<()> {
    let tables = Incremental::new(Into::Parquet, "says", EVENTS, &CURSORS)?;
    tables.sync()?;
    let state = increments::state(&tables.project, "log")?;
    assert_eq!(state["sync_mode"], "incremental");
    assert_eq!(state["state"]["n"], "142");
    ensure!(state["state"]["chunks"].as_array().is_some_and(Vec::is_empty), "{state}");
    let state = increments::state(&tables.project, "events")?;
    assert_eq!(state["state"]["at"], "2024-01-01 00:01:40+00");
    Ok(())
}

/// Name, type, three groups of values in their order.
const KINDS: [(&str, &str, [&str; 3]); 12] = [
    ("small", "smallint", ["1", "2", "30"]),
    ("int", "int", ["-5", "7", "2147483647"]),
    ("big", "bigint", ["5", "6", "9223372036854775807"]),
    ("num", "numeric", ["1.5", "1.50000000000000000001", "99999999999999999999999"]),
    ("money", "numeric(10, 2)", ["-1.10", "0", "1.10"]),
    ("day", "date", ["0044-03-15 BC", "2024-02-29", "2024-03-01"]),
    ("at", "timestamp", ["2024-01-01 00:00:00.000001", "2024-01-01 00:00:00.000002", "9999-12-31"]),
    ("tz", "timestamptz", ["2024-01-01 12:00+02", "2024-01-01 12:00+01", "2024-01-01 12:00+00"]),
    (
        "v7",
        "uuid",
        [
            "018cc251-f400-7000-8000-000000000001",
            "018cc251-f400-7000-8000-000000000002",
            "018cc251-f401-7fff-bfff-ffffffffffff",
        ],
    ),
    ("word", "text", ["it''s \\ a", "it''s \\ b", "z é"]),
    ("code", "varchar(9)", ["", "A1", "B"]),
    ("clock", "time", ["00:00", "12:00:00.000001", "24:00"]),
];

#[test]
fn every_kind_of_cursor_is_followed() -> Result<()> {
    let create = |(name, kind, values): &(&str, &str, [&str; 3])| {
        format!(
            "CREATE TABLE by_{name} (id serial PRIMARY KEY, c {kind}, v text);
             INSERT INTO by_{name} (c, v) VALUES ('{0}', 'first'), ('{0}', 'first');",
            values[0]
        )
    };
    let sql: String = KINDS.iter().map(create).collect();
    let names: Vec<String> = KINDS.iter().map(|(name, ..)| format!("by_{name}")).collect();
    let cursors: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "c")).collect();
    let streams: Vec<String> = names.iter().map(|name| format!("public.{name}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    for into in [Into::Parquet, Into::Iceberg] {
        let tables = Incremental::new(into, "kinds", &sql, &cursors)?;
        tables.sync()?;
        for at in [1, 2] {
            for (name, _, values) in KINDS {
                tables.psql(&format!(
                    "INSERT INTO by_{name} (c, v) VALUES ('{0}', 'tie'), ('{1}', 'above'), ('{1}', 'above')",
                    values[at - 1], values[at]
                ))?;
            }
            let outcome = tables.sync()?;
            for stream in &streams {
                assert_eq!(Incremental::rows(&outcome, stream)?, 3, "{stream}");
            }
        }
        // BC and 24:00 are no dates and times of Iceberg's or Parquet's.
        let told: Vec<&str> = streams
            .iter()
            .copied()
            .filter(|stream| !["public.by_day", "public.by_clock"].contains(stream))
            .collect();
        tables.equals(&told)?;
    }
    Ok(())
}

#[test]
fn where_the_first_column_is_null_the_second_counts() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let tables = Incremental::new(
            into,
            "fallback",
            "CREATE TABLE t (changed timestamptz, made int, v text);
             INSERT INTO t SELECT NULL, i, 'made' FROM generate_series(1, 50) i;
             INSERT INTO t SELECT timestamptz '2024-01-01', i, 'changed' FROM generate_series(1, 50) i;",
            &[("t", "changed:made")],
        )?;
        let streams = ["public.t"];
        tables.sync_equals(&streams)?;
        let state = increments::state(&tables.project, "t")?;
        assert_eq!(state["state"]["changed"], "2024-01-01 00:00:00+00");
        assert_eq!(state["state"]["made"], "50");
        tables.psql(
            "INSERT INTO t VALUES (NULL, 50, 'tie'), (NULL, 51, 'above'), (NULL, NULL, 'apart'),
                ('2024-01-01', NULL, 'tie'), ('2024-01-02', 7, 'above'), (NULL, 51, 'above')",
        )?;
        let outcome = tables.sync_equals(&streams)?;
        assert_eq!(Incremental::rows(&outcome, "public.t")?, 6);
        assert_eq!(Incremental::rows(&tables.sync_equals(&streams)?, "public.t")?, 0);
    }
    Ok(())
}

#[test]
fn rows_without_a_value_and_with_an_infinite_one_are_read_once() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let tables = Incremental::new(
            into,
            "apart",
            "CREATE TABLE days (c timestamptz, v text);
             CREATE TABLE numbers (c numeric, v text);
             INSERT INTO days VALUES (NULL, 'a'), ('infinity', 'b'), ('2024-01-01', 'c'), ('-infinity', 'd');
             INSERT INTO numbers VALUES (NULL, 'a'), ('Infinity', 'b'), ('NaN', 'c'), (1, 'd');",
            &[("days", "c"), ("numbers", "c")],
        )?;
        tables.sync()?;
        assert_eq!(
            increments::state(&tables.project, "days")?["state"]["c"],
            "2024-01-01 00:00:00+00"
        );
        for round in 0..2 {
            tables.psql(&format!(
                "INSERT INTO days VALUES (NULL, 'a{round}'), (NULL, 'x'), ('infinity', 'b'),
                    ('2024-02-01', 'c'), ('2024-02-01', 'c');
                 INSERT INTO numbers VALUES (NULL, 'a{round}'), (NULL, 'x'), ('Infinity', 'b'),
                    ('NaN', 'c'), (1.5, 'd');"
            ))?;
            let outcome = tables.sync()?;
            assert_eq!(Incremental::rows(&outcome, "public.days")?, 5);
            assert_eq!(Incremental::rows(&outcome, "public.numbers")?, 5);
            // Iceberg and Parquet have no infinite times: they are null there.
            tables.equals(&["public.numbers"])?;
        }
    }
    Ok(())
}

#[test]
fn an_empty_table_begins_with_its_first_rows() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let sql = "CREATE TABLE t (id int PRIMARY KEY, at date)";
        let tables = Incremental::new(into, "empty", sql, &[("t", "at")])?;
        let streams = ["public.t"];
        tables.sync()?;
        tables.psql("INSERT INTO t VALUES (1, NULL), (2, '2024-01-01')")?;
        tables.sync_equals(&streams)?;
        tables.psql("INSERT INTO t VALUES (3, NULL), (4, '2024-01-01')")?;
        tables.sync_equals(&streams)?;
    }
    Ok(())
}

#[test]
fn partitions_filters_and_chosen_columns_apply() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let tables = Incremental::new(
            into,
            "parts",
            "CREATE TABLE p (id int, k int, c int, hidden text) PARTITION BY LIST (k);
             CREATE TABLE p0 PARTITION OF p FOR VALUES IN (0);
             CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
             INSERT INTO p SELECT i, i % 2, i / 4, 'x' FROM generate_series(1, 100) i;
             CREATE TABLE p2 (id int, k int, c int, hidden text);
             INSERT INTO p2 VALUES (1000, 2, 25, 'before'), (1001, 2, 26, 'before');
             CREATE TABLE f (id int, c int, kind text, hidden text);
             INSERT INTO f SELECT i, i / 4, CASE i % 2 WHEN 0 THEN 'even' ELSE 'odd' END, 'x'
                FROM generate_series(1, 100) i;
             CREATE VIEW odd AS SELECT id, c FROM f WHERE kind = 'odd'",
            &[("p", "c"), ("f", "c")],
        )?;
        tables.project.edit("streams.json", |catalog| {
            let selected = catalog["selected_streams"]["public"].as_array_mut();
            for stream in selected.into_iter().flatten().filter(|it| it["stream_name"] == "f") {
                stream["filter"] = "kind = \"odd\"".into();
                stream["selected_columns"] = json!({"columns": ["id", "c"]});
            }
        })?;
        let check = || -> Result<()> {
            tables.equals(&["public.p"])?;
            let database = tables.project.database();
            let expected = database.psql("SELECT count(*), sum(id) FROM f WHERE kind = 'odd'")?;
            assert_eq!(tables.counted("f", "id")?, expected);
            Ok(())
        };
        tables.sync()?;
        check()?;
        tables.psql(
            "INSERT INTO p VALUES (200, 0, 25, 'tie'), (201, 1, 25, 'tie'), (202, 1, 26, 'above');
             INSERT INTO f VALUES (200, 25, 'odd', 'tie'), (201, 25, 'even', 'tie'), (203, 26, 'odd', 'y')",
        )?;
        tables.sync()?;
        check()?;
        // What it holds is older than the last sync, and new to the table.
        tables.psql(
            "ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2); DELETE FROM p2 WHERE c < 26",
        )?;
        tables.sync()?;
        check()?;
    }
    Ok(())
}

#[test]
fn in_append_mode_every_version_stays() -> Result<()> {
    let tables = Incremental::new(Into::Iceberg, "appended", EVENTS, &CURSORS)?;
    tables.append_mode(&STREAMS)?;
    tables.sync_equals(&STREAMS)?;
    tables.psql(
        "CREATE TABLE before AS TABLE events;
         UPDATE events SET at = '2025-01-01', v = 'new' WHERE id <= 10",
    )?;
    tables.sync()?;
    let expected = tables.psql(
        "SELECT count(*), sum(id) FROM (TABLE before UNION ALL SELECT * FROM events WHERE id <= 10) s",
    )?;
    assert_eq!(tables.counted("events", "id")?, expected);
    Ok(())
}

#[test]
fn parquet_keeps_every_version_and_the_newest_is_the_source() -> Result<()> {
    let tables = Incremental::new(Into::Parquet, "versions", EVENTS, &CURSORS)?;
    tables.sync()?;
    for round in 1..3 {
        tables.psql(&format!(
            "UPDATE events SET at = timestamptz '2025-01-01' + {round} * interval '1 s', v = 'v{round}'
             WHERE id % 7 = {round}"
        ))?;
        tables.sync()?;
        increments::newest_equal_source(&tables.project, &["public.events"])?;
    }
    Ok(())
}
