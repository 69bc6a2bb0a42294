//! `strict_cdc`: the table is the log of changes, from the first sync on.

use anyhow::{Context, Result, ensure};
use tests::follow;
use tests::iceberg::engine::Engine as Lake;
use tests::reader::{Engine, read};
use tests::run::Project;

use super::{Followed, Into};

const SQL: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, 'before' FROM generate_series(1, 10) i;
    CREATE TABLE other (id int PRIMARY KEY, v text);
    INSERT INTO other SELECT i, 'before' FROM generate_series(1, 10) i;
";
const BOTH: [Into; 2] = [Into::Parquet, Into::Iceberg];

/// `t` is a log, `other` is followed.
fn logged(into: Into, label: &str) -> Result<Followed> {
    let followed = Followed::new(into, label, SQL)?;
    mode(&followed, "strict_cdc")?;
    Ok(followed)
}

pub(super) fn mode(followed: &Followed, mode: &str) -> Result<()> {
    followed.project.edit("streams.json", |catalog| {
        for entry in catalog["streams"].as_array_mut().into_iter().flatten() {
            if entry["stream"]["name"] == "t" {
                entry["stream"]["sync_mode"] = mode.into();
            }
        }
    })
}

fn log(followed: &Followed) -> Result<Vec<String>> {
    log_of(followed, "public", "v")
}

/// The rows of the log `t` in this schema, in its order: `_op_type`, key, and the column
/// `value`.
pub(super) fn log_of(followed: &Followed, schema: &str, value: &str) -> Result<Vec<String>> {
    let project = &followed.project;
    let rows = match &followed.lake {
        None => read(Engine::DuckDb, &project.table(schema, "t"))?.rows,
        Some(lake) => lake.table_of(project, schema, "t").read(Lake::DuckDb)?.rows,
    };
    let wanted = ["_cdc_lsn", "_op_type", "id", value].map(str::to_owned);
    let mut changes = Vec::new();
    for row in rows.project(&wanted)?.rows {
        let text = |at: usize| row[at].as_str().unwrap_or("-").to_owned();
        let lsn: proto::lsn::Lsn = text(0).parse().context("a change without its place")?;
        changes.push((lsn, format!("{} {} {}", text(1), text(2), text(3))));
    }
    changes.sort();
    Ok(changes.into_iter().map(|(_, change)| change).collect())
}

#[test]
fn a_log_has_every_change_once_and_nothing_from_before() -> Result<()> {
    for into in BOTH {
        let followed = logged(into, "log")?;
        followed.sync_equals(&["public.other"])?;
        followed.psql("INSERT INTO t VALUES (11, 'a'); UPDATE t SET v = 'b' WHERE id = 11")?;
        followed.psql("UPDATE t SET id = 12 WHERE id = 11")?;
        followed.psql("UPDATE other SET v = 'c' WHERE id < 5")?;
        followed.sync_equals(&["public.other"])?;
        let mut expected = vec!["c 11 a", "u 11 b", "d 11 -", "u 12 b"];
        assert_eq!(log(&followed)?, expected, "{into:?}");
        // Each transaction's changes of one key stay apart, too.
        followed
            .psql("BEGIN; INSERT INTO t VALUES (13, 'x'); DELETE FROM t WHERE id = 13; COMMIT")?;
        followed.psql("TRUNCATE t")?;
        followed.psql("INSERT INTO t VALUES (1, 'after')")?;
        let outcome = followed.sync_equals(&["public.other"])?;
        ensure!(outcome.stderr.contains("its log has no row for that"), "{}", outcome.stderr);
        expected.extend(["c 13 x", "d 13 -", "c 1 after"]);
        assert_eq!(log(&followed)?, expected, "{into:?}");
        followed.sync()?;
        assert_eq!(log(&followed)?, expected, "{into:?}");
    }
    Ok(())
}

#[test]
fn columns_that_come_go_and_get_other_names_leave_no_hole_in_a_log() -> Result<()> {
    for into in BOTH {
        let followed = logged(into, "log_columns")?;
        followed.sync()?;
        followed.psql("INSERT INTO t VALUES (11, 'a')")?;
        followed.psql("ALTER TABLE t ADD n int DEFAULT 7")?;
        followed.psql("INSERT INTO t VALUES (12, 'b', 1); DELETE FROM t WHERE id = 11")?;
        followed.sync()?;
        assert_eq!(log(&followed)?, ["c 11 a", "c 12 b", "d 11 -"], "{into:?}");
        assert_eq!(log_of(&followed, "public", "n")?, ["c 11 -", "c 12 1", "d 11 -"], "{into:?}");
        followed.psql("UPDATE t SET n = 2 WHERE id = 12")?;
        followed.psql("ALTER TABLE t DROP n")?;
        followed.psql("UPDATE t SET v = 'c' WHERE id = 12")?;
        followed.psql("ALTER TABLE t RENAME v TO w")?;
        followed.psql("UPDATE t SET w = 'd' WHERE id = 12")?;
        followed.sync()?;
        // What has come before the last sync has its name of then, where names are all.
        let before = match into {
            Into::Parquet => ["c 11 -", "c 12 -", "d 11 -"],
            Into::Iceberg => ["c 11 a", "c 12 b", "d 11 -"],
        };
        let expected = [&before[..], &["u 12 b", "u 12 c", "u 12 d"]].concat();
        assert_eq!(log_of(&followed, "public", "w")?, expected, "{into:?}");
    }
    Ok(())
}

#[test]
fn a_hole_in_a_log_is_an_error_and_its_remedy_works() -> Result<()> {
    let followed = logged(Into::Parquet, "log_state")?;
    followed.sync()?;
    followed.psql("INSERT INTO t VALUES (11, 'a')")?;
    followed.sync()?;
    // Past what the log has, that there was nothing for it only the state knows, and
    // what is kept beside the tables.
    followed.psql("UPDATE other SET v = 'c' WHERE id < 5")?;
    followed.sync()?;
    followed.lose_state()?;
    followed.psql("INSERT INTO t VALUES (12, 'b')")?;
    followed.sync()?;
    assert_eq!(log(&followed)?, ["c 11 a", "c 12 b"]);
    // Behind a slot that others have moved, changes are missing.
    followed.psql("INSERT INTO t VALUES (13, 'missed')")?;
    let slot = follow::slot(&followed.project);
    followed
        .psql(&format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"))?;
    holed(&followed, &["c 11 a", "c 12 b"])?;
    // Without both, whether there was anything is not known.
    followed.psql("INSERT INTO t VALUES (15, 'e')")?;
    followed.sync()?;
    followed.psql("UPDATE other SET v = 'd' WHERE id < 5")?;
    followed.sync()?;
    followed.lose_state()?;
    std::fs::remove_file(followed.certificate()?.context("nothing is kept")?)?;
    holed(&followed, &["d 14 -", "c 14 d", "c 15 e"])
}

/// The log has a hole until it is cleared; the others go on.
fn holed(followed: &Followed, before: &[&str]) -> Result<()> {
    for value in ["x", "y"] {
        followed.psql(&format!("UPDATE other SET v = '{value}' WHERE id > 5"))?;
        followed.psql("INSERT INTO t VALUES (14, 'd') ON CONFLICT DO NOTHING")?;
        let told = followed.project.run(&Project::SYNC)?.failed()?;
        for part in ["the changes of public.t have a hole", "clear-destination"] {
            ensure!(told.contains(part), "{part}: {told}");
        }
        followed.equals(&["public.other"])?;
        assert_eq!(log(followed)?, before);
    }
    followed.psql("DELETE FROM t WHERE id = 14")?;
    followed.project.run(&Project::CLEAR)?.succeeded()?;
    followed.sync_equals(&["public.other"])?;
    followed.psql("INSERT INTO t VALUES (14, 'd')")?;
    followed.sync()?;
    let log = log(followed)?;
    ensure!(log.last().is_some_and(|last| last == "c 14 d"), "{log:?}");
    Ok(())
}

#[test]
fn a_change_that_cannot_be_told_is_an_error_with_its_remedy() -> Result<()> {
    let followed = logged(Into::Iceberg, "log_lost")?;
    followed.sync()?;
    followed.psql("INSERT INTO t VALUES (11, 'a')")?;
    followed.sync()?;
    followed.psql("INSERT INTO t VALUES (12, 'b'); ALTER TABLE t ALTER id TYPE bigint")?;
    followed.psql("UPDATE other SET v = 'c' WHERE id > 5")?;
    let told = followed.project.run(&Project::SYNC)?.failed()?;
    for part in ["a change of public.t cannot be told", "clear-destination"] {
        ensure!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(log(&followed)?, ["c 11 a"]);
    followed.equals(&["public.other"])
}

#[test]
fn a_large_value_that_the_log_leaves_out_is_warned_of_and_never_null() -> Result<()> {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, n int, v text)";
    let followed = Followed::new(Into::Parquet, "log_large", sql)?;
    mode(&followed, "strict_cdc")?;
    let outcome = followed.sync()?;
    ensure!(outcome.stderr.contains("REPLICA IDENTITY FULL"), "{}", outcome.stderr);
    followed.psql(
        "ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
         INSERT INTO t VALUES (1, 1, 'short'), (2, 1, repeat('x', 10000))",
    )?;
    followed.sync()?;
    followed.psql("UPDATE t SET n = 2 WHERE id = 1")?;
    followed.sync()?;
    let before = log(&followed)?;
    assert_eq!(before.len(), 3);
    followed.psql("UPDATE t SET n = 2 WHERE id = 2")?;
    let told = followed.project.run(&Project::SYNC)?.failed()?;
    ensure!(told.contains("a change of public.t cannot be told"), "{told}");
    assert_eq!(log(&followed)?, before);
    Ok(())
}

#[test]
fn a_table_and_a_log_are_not_taken_for_each_other() -> Result<()> {
    let followed = logged(Into::Parquet, "log_or_table")?;
    followed.sync()?;
    followed.psql("INSERT INTO t VALUES (11, 'a')")?;
    followed.sync()?;
    mode(&followed, "cdc")?;
    let outcome = followed.sync_equals(&["public.t", "public.other"])?;
    assert_eq!(Followed::how(&outcome, "public.t")?, "loaded");
    mode(&followed, "strict_cdc")?;
    let told = followed.project.run(&Project::SYNC)?.failed()?;
    ensure!(told.contains("public.t holds what is no log of changes"), "{told}");
    Ok(())
}
