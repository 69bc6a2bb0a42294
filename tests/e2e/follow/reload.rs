//! What the stream cannot tell truly: that one table is loaded anew, the others
//! go on.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::going::end;
use tests::run::{Project, poll};

use super::{Followed, Into};

const SQL: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text, long text);
    CREATE TABLE other (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, 'a', (SELECT string_agg(md5(random()::text), '') FROM
        generate_series(1, 200 + 0 * i)) FROM generate_series(1, 20) i;
    INSERT INTO other SELECT i, 'a' FROM generate_series(1, 20) i;
";
const STREAMS: [&str; 2] = ["public.t", "public.other"];

fn synced(followed: &Followed, sql: &str, how: &str) -> Result<()> {
    followed.psql(sql)?;
    followed.psql("UPDATE other SET v = v || 'b'")?;
    // What discover saw is out of date; tables are compared by what they are.
    followed.project.discover()?;
    let outcome = followed.sync_equals(&STREAMS)?;
    assert_eq!(Followed::how(&outcome, "public.t")?, how, "{sql}");
    let anew = outcome.stderr.contains("public.t is loaded anew");
    assert_eq!(anew, how == "loaded", "{}", outcome.stderr);
    assert_eq!(Followed::how(&outcome, "public.other")?, "followed", "{sql}");
    followed.psql("UPDATE t SET v = v || 'c', long = id::text WHERE id = 2")?;
    let outcome = followed.sync_equals(&STREAMS)?;
    assert_eq!(Followed::how(&outcome, "public.t")?, "followed", "after {sql}");
    Ok(())
}

#[test]
fn columns_that_come_and_go_and_change_are_followed_by_a_load_where_it_takes_one() -> Result<()> {
    for (into, dropped) in [(Into::Parquet, "loaded"), (Into::Iceberg, "followed")] {
        let followed = Followed::new(into, "ddl", SQL)?;
        followed.sync()?;
        for (sql, how) in [
            (
                "ALTER TABLE t ADD COLUMN more int DEFAULT 5; INSERT INTO t (id, v) VALUES (101, 'x')",
                "loaded",
            ),
            ("ALTER TABLE t DROP COLUMN more; INSERT INTO t (id, v) VALUES (102, 'x')", dropped),
            (
                "INSERT INTO t (id, v) VALUES (103, 'x'); ALTER TABLE t RENAME v TO w;
                 ALTER TABLE t RENAME w TO v; ALTER TABLE t ADD COLUMN n int;
                 UPDATE t SET n = id, long = 'x' WHERE id < 5",
                "followed",
            ),
        ] {
            synced(&followed, sql, how)?;
        }
    }
    Ok(())
}

#[test]
fn columns_are_followed_without_another_discover() -> Result<()> {
    for (into, named) in [(Into::Parquet, "loaded"), (Into::Iceberg, "followed")] {
        let followed = Followed::new(into, "undiscovered", SQL)?;
        followed.sync()?;
        for (sql, said, how) in [
            (
                "ALTER TABLE t ADD COLUMN n int DEFAULT 5; INSERT INTO t (id, v) VALUES (101, 'x')",
                "",
                "loaded",
            ),
            (
                "ALTER TABLE t RENAME v TO w; UPDATE t SET w = 'y' WHERE id = 3",
                "renamed to w?",
                named,
            ),
            (
                "ALTER TABLE t ALTER id TYPE bigint; UPDATE t SET n = 7 WHERE id = 4",
                "column id was",
                "loaded",
            ),
            (
                "ALTER TABLE t DROP COLUMN long; DELETE FROM t WHERE id = 5",
                "column long no longer",
                named,
            ),
            (
                "ALTER TABLE t RENAME id TO key; UPDATE t SET n = 8 WHERE key = 6",
                "column id no longer",
                named,
            ),
        ] {
            followed.psql(sql)?;
            followed.psql("UPDATE other SET v = v || 'b'")?;
            let outcome = followed.sync_equals(&STREAMS).map_err(|e| e.context(sql))?;
            assert_eq!(Followed::how(&outcome, "public.t")?, how, "{sql}");
            assert_eq!(Followed::how(&outcome, "public.other")?, "followed", "{sql}");
            ensure!(outcome.stderr.contains(said), "{}", outcome.stderr);
        }
        // That is no reason to load it once more.
        followed.project.discover()?;
        followed.psql("UPDATE t SET n = 9 WHERE key = 7")?;
        let outcome = followed.sync_equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.t")?, "followed");
        ensure!(!outcome.stderr.contains("changed since discover"), "{}", outcome.stderr);
        // What the user names must be there.
        followed.project.select(&["public.t"], json!({"selected_columns": {"columns": ["w"]}}))?;
        followed.psql("ALTER TABLE t RENAME w TO v")?;
        let told = followed.project.run(&Project::SYNC)?.failed()?;
        ensure!(told.contains("column w no longer exists"), "{told}");
    }
    Ok(())
}

#[test]
fn a_sync_that_goes_on_follows_columns_without_another_discover() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "undiscovered_going", SQL)?;
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    for sql in [
        "ALTER TABLE t RENAME v TO w; UPDATE t SET w = 'y' WHERE id = 3",
        "ALTER TABLE t DROP COLUMN w; ALTER TABLE t RENAME id TO key; DELETE FROM t WHERE key = 5",
    ] {
        followed.psql(sql)?;
        followed.psql("UPDATE other SET v = v || '.'; DELETE FROM other WHERE id = 5")?;
        followed.caught_up(&mut going)?;
        followed.equals(&STREAMS).map_err(|e| e.context(sql))?;
    }
    end(going)?;
    followed.equals(&STREAMS)
}

#[test]
fn the_others_are_followed_while_a_table_is_loaded() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::new(into, "reload_beside", SQL)?;
        let mut going = followed.go_on_patiently()?;
        followed.caught_up(&mut going)?;
        let holder = followed.hold_loads()?;
        followed.psql("VACUUM FULL t; UPDATE t SET v = 'late' WHERE id = 3")?;
        poll("the load has begun", || followed.is_loading())?;
        for _ in 0..2 {
            followed
                .psql("UPDATE other SET v = v || '.' WHERE id < 9; UPDATE t SET v = v || 'b'")?;
            poll("the others are followed", || {
                ensure!(!going.ended()?, "the sync has ended");
                Ok(followed.equals(&["public.other"]).is_ok())
            })?;
        }
        ensure!(followed.is_loading()?, "the load was not held");
        drop(holder);
        followed.caught_up(&mut going)?;
        followed.equals(&STREAMS)?;
        followed.psql("UPDATE t SET v = v || 'c' WHERE id < 7")?;
        let outcome = end(going)?;
        followed.equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.t")?, "loaded");
    }
    Ok(())
}

#[test]
fn a_sync_that_is_to_end_completes_the_others_and_gives_up_the_load() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::new(into, "reload_given_up", SQL)?;
        let mut going = followed.go_on_patiently()?;
        followed.caught_up(&mut going)?;
        let holder = followed.hold_loads()?;
        followed.psql("VACUUM FULL t; UPDATE t SET v = 'late' WHERE id = 3")?;
        poll("the load has begun", || followed.is_loading())?;
        followed
            .psql("UPDATE other SET v = v || '.' WHERE id < 9; DELETE FROM other WHERE id = 9")?;
        let end = followed.psql("SELECT pg_current_wal_flush_lsn()")?;
        let outcome = tests::going::end(going)?;
        followed.equals(&["public.other"])?;
        ensure!(followed.is_confirmed(&end)?, "what was followed is not acknowledged");
        let told = &outcome.stderr;
        ensure!(told.contains("warning: public.t: its load is given up"), "{told}");
        let summary: serde_json::Value = serde_json::from_str(outcome.stdout.trim())?;
        assert_eq!(
            (&summary["status"], &summary["given_up"]),
            (&json!("INCOMPLETE"), &json!(["public.t"]))
        );
        ensure!(!followed.is_loading()?, "the load goes on");
        drop(holder);
        followed.psql("UPDATE other SET v = v || '.' WHERE id < 5; UPDATE t SET v = v || 'b'")?;
        let outcome = followed.sync_equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.t")?, "loaded");
        assert_eq!(Followed::how(&outcome, "public.other")?, "followed");
    }
    Ok(())
}

#[test]
fn rows_that_change_without_an_event_are_loaded_anew() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "rewritten", SQL)?;
    followed.sync()?;
    for sql in [
        "ALTER TABLE t ALTER v TYPE text USING upper(v)",
        "ALTER TABLE t ADD COLUMN filled text DEFAULT 'x'; ALTER TABLE t DROP COLUMN filled",
        "TRUNCATE t; INSERT INTO t VALUES (2, 'after', 'x')",
        // The new file is the TRUNCATE's, and then another one.
        "TRUNCATE t; INSERT INTO t VALUES (2, 'after', 'x'), (3, 'more', 'y')",
        "BEGIN; TRUNCATE t; INSERT INTO t VALUES (2, 'after', 'x'), (3, 'more', 'y'); COMMIT;
         ALTER TABLE t ALTER v TYPE text USING upper(v) || '!'",
    ] {
        followed.psql(sql)?;
        followed.sync_equals(&STREAMS)?;
        followed.psql("UPDATE t SET v = v || 'c', long = id::text WHERE id = 2")?;
        followed.sync_equals(&STREAMS)?;
    }
    Ok(())
}

#[test]
fn partitions_that_come_and_go_are_followed_by_a_load() -> Result<()> {
    let followed = Followed::new(
        Into::Iceberg,
        "parts",
        "CREATE TABLE p (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
         INSERT INTO p SELECT i, date '2024-01-01' + i, 'a' FROM generate_series(1, 50) i;
         CREATE TABLE p3 (id int, at date, v text, PRIMARY KEY (id, at));
         INSERT INTO p3 SELECT i, '2024-03-05', 'b' FROM generate_series(1, 50) i;",
    )?;
    let streams = ["public.p"];
    followed.select(&streams)?;
    followed.sync_equals(&streams)?;
    // From one partition to another is a delete and an insert.
    followed.psql("UPDATE p SET at = at + 31 WHERE id = 3; UPDATE p SET v = 'c' WHERE id = 4")?;
    let outcome = followed.sync_equals(&streams)?;
    assert_eq!(Followed::how(&outcome, "public.p")?, "followed");
    for sql in [
        "ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM ('2024-03-01') TO ('2024-04-01')",
        // In between, its rows are its own.
        "ALTER TABLE p DETACH PARTITION p1; UPDATE p1 SET v = 'apart'; DELETE FROM p1 WHERE id = 9;
         ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')",
        "ALTER TABLE p DETACH PARTITION p2",
        "TRUNCATE p3; INSERT INTO p VALUES (7, '2024-03-09', 'after')",
        "DROP TABLE p3",
    ] {
        followed.psql(sql)?;
        let outcome = followed.sync_equals(&streams).map_err(|e| e.context(sql))?;
        assert_eq!(Followed::how(&outcome, "public.p")?, "loaded", "{sql}");
    }
    Ok(())
}

#[test]
fn a_rewrite_that_the_user_wants_ignored_costs_no_load() -> Result<()> {
    let followed = Followed::new(
        Into::Iceberg,
        "rewrite_ignored",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, 'a' FROM generate_series(1, 100) i",
    )?;
    let streams = ["public.t"];
    followed.sync_equals(&streams)?;
    for (on_rewrite, how) in [("reload", "loaded"), ("ignore", "followed")] {
        followed.project.edit("source.json", |source| {
            source["update_method"]["on_rewrite"] = on_rewrite.into();
        })?;
        followed.psql("VACUUM FULL t")?;
        followed.psql("UPDATE t SET v = v || '.' WHERE id < 10; DELETE FROM t WHERE id = 50")?;
        let outcome = followed.sync_equals(&streams)?;
        assert_eq!(Followed::how(&outcome, "public.t")?, how, "{on_rewrite}");
    }
    // What is known to change rows is not ignored.
    followed.psql("ALTER TABLE t ADD COLUMN w int NOT NULL DEFAULT 7")?;
    let outcome = followed.sync_equals(&streams)?;
    assert_eq!(Followed::how(&outcome, "public.t")?, "loaded");
    Ok(())
}

#[test]
fn a_truncate_is_followed_and_a_rewrite_after_it_is_loaded() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "truncated", SQL)?;
    followed.sync()?;
    let truncate =
        "BEGIN; TRUNCATE t; INSERT INTO t VALUES (2, 'after', 'x'), (3, 'more', 'y'); COMMIT;";
    for (then, how) in [
        ("", "followed"),
        ("INSERT INTO t VALUES (4, 'later', 'x'); ANALYZE t", "followed"),
        ("ALTER TABLE t ALTER v TYPE text USING upper(v) || '!'", "loaded"),
        ("TRUNCATE t; INSERT INTO t VALUES (5, 'last', 'x')", "followed"),
    ] {
        followed.psql(&format!("{truncate} {then}"))?;
        let outcome = followed.sync_equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.t")?, how, "after {then:?}");
    }
    Ok(())
}

#[test]
fn a_sync_that_ends_follows_the_others_while_a_table_is_loaded() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::new(into, "reload_bounded", SQL)?;
        followed
            .project
            .edit("source.json", |source| source["lock_timeout_ms"] = 300_000.into())?;
        followed.select(&["public.other"])?;
        followed.sync()?;
        followed.select(&STREAMS)?;
        let holder = followed.hold_loads()?;
        followed
            .psql("UPDATE other SET v = v || '.' WHERE id < 9; DELETE FROM other WHERE id = 9")?;
        let mut sync = followed.project.start(&Project::SYNC)?;
        poll("the others are followed", || {
            ensure!(!sync.ended()?, "the sync has ended");
            Ok(followed.equals(&["public.other"]).is_ok())
        })?;
        poll("the load has begun", || followed.is_loading())?;
        followed.psql("UPDATE t SET v = v || 'b'; DELETE FROM t WHERE id = 3")?;
        let end = followed.psql("SELECT pg_current_wal_flush_lsn()")?;
        drop(holder);
        let outcome = sync.wait()?.succeeded()?;
        followed.equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.t")?, "loaded");
        assert_eq!(Followed::how(&outcome, "public.other")?, "followed");
        followed.psql(
            "UPDATE t SET v = v || 'c', long = 'x' WHERE id < 7; DELETE FROM other WHERE id = 7",
        )?;
        let outcome = followed.sync_equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.t")?, "followed");
        ensure!(followed.is_confirmed(&end)?, "the slot is held");
    }
    Ok(())
}

#[test]
fn values_that_their_type_shows_otherwise_are_loaded_anew() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::new(
            into,
            "labels",
            "CREATE TYPE state AS ENUM ('new', 'done'); CREATE DOMAIN kept AS state;
             CREATE TYPE pair AS (a int, b text);
             CREATE TABLE t (id int PRIMARY KEY, s state, l state[], k kept, p pair);
             CREATE TABLE keyed (s state PRIMARY KEY, v text); CREATE TABLE none (id int PRIMARY KEY);
             INSERT INTO t VALUES (1, 'new', '{new,done}', 'done', (1, 'a')), (2, 'done', '{}', NULL, NULL);
             INSERT INTO keyed VALUES ('new', '1'), ('done', '2')",
        )?;
        let streams = ["public.t", "public.keyed", "public.none"];
        followed.sync()?;
        for (sql, loaded) in [
            ("ALTER TYPE state ADD VALUE 'later'", [false, false]),
            ("ALTER TYPE state ADD VALUE 'first' BEFORE 'new'", [false, false]),
            ("ALTER TYPE state RENAME VALUE 'new' TO 'open'", [true, true]),
            ("ALTER TYPE pair ADD ATTRIBUTE c int", [true, false]),
            ("ALTER TYPE pair DROP ATTRIBUTE b", [true, false]),
        ] {
            followed.psql(sql)?;
            followed.psql(
                "UPDATE keyed SET v = v || 'x'; INSERT INTO none SELECT count(*) FROM none",
            )?;
            let outcome = followed.sync_equals(&streams).context(sql)?;
            for (stream, loaded) in streams.iter().zip([loaded[0], loaded[1], false]) {
                let anew = outcome.stderr.contains(&format!("{stream} is loaded anew"));
                assert_eq!(anew, loaded, "{stream} {sql}: {}", outcome.stderr);
            }
        }
    }
    Ok(())
}
