//! Changes of a table itself between changes of its rows, in a log that is read in
//! many intervals.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tests::builds::Build;
use tests::follow;
use tests::iceberg::engine::Engine;
use tests::run::{poll, signal};

use super::{Followed, Into, about};

/// What is done with a table `t (id, a, b)`, and how it comes to its content then.
const CASES: [(&str, &str, &str); 13] = [
    (
        "renamed",
        "INSERT INTO t VALUES (101, 1, 1); ALTER TABLE t RENAME b TO d;
         INSERT INTO t VALUES (102, 2, 2); UPDATE t SET d = 7 WHERE id < 5",
        "followed",
    ),
    // In the log, the same.
    (
        "exchanged",
        "INSERT INTO t VALUES (101, 1, 1); ALTER TABLE t DROP b, ADD d int;
         INSERT INTO t VALUES (102, 2, 2); UPDATE t SET d = 7 WHERE id < 5",
        "loaded",
    ),
    // Its rows from before and after look alike.
    (
        "made_anew",
        "UPDATE t SET b = 77 WHERE id < 9; INSERT INTO t VALUES (101, 1, 1);
         ALTER TABLE t DROP b, ADD b int; INSERT INTO t VALUES (102, 2, 2); UPDATE t SET a = 7 WHERE id < 5",
        "loaded",
    ),
    (
        "swapped",
        "INSERT INTO t VALUES (101, 1, 2); ALTER TABLE t RENAME a TO c; ALTER TABLE t RENAME b TO a;
         ALTER TABLE t RENAME c TO b; INSERT INTO t VALUES (102, 3, 4); UPDATE t SET a = 5 WHERE id < 5",
        "followed",
    ),
    (
        "there_and_back",
        "ALTER TABLE t RENAME a TO c; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME c TO b;
         INSERT INTO t VALUES (101, 1, 2); ALTER TABLE t RENAME a TO c; ALTER TABLE t RENAME b TO a;
         ALTER TABLE t RENAME c TO b; INSERT INTO t VALUES (102, 3, 4)",
        "followed",
    ),
    (
        "added",
        "BEGIN; INSERT INTO t VALUES (101, 1, 1); ALTER TABLE t ADD n int DEFAULT 7;
         INSERT INTO t VALUES (102, 2, 2), (103, 3, 3); UPDATE t SET n = id WHERE id < 5; COMMIT;
         INSERT INTO t VALUES (104, 4, 4, 4)",
        "loaded",
    ),
    (
        "volatile",
        "INSERT INTO t VALUES (101, 1, 1); ALTER TABLE t ADD n float8 DEFAULT random();
         INSERT INTO t VALUES (102, 2, 2)",
        "loaded",
    ),
    (
        "rewritten",
        "INSERT INTO t VALUES (101, 1, 1), (102, 2, 2); ALTER TABLE t ALTER b TYPE int USING b + 1000;
         INSERT INTO t VALUES (103, 3, 3); UPDATE t SET a = 5 WHERE id < 5",
        "loaded",
    ),
    (
        "widened",
        "INSERT INTO t VALUES (101, 1, 1); ALTER TABLE t ALTER b TYPE bigint;
         INSERT INTO t VALUES (102, 2, 5000000000)",
        "loaded",
    ),
    (
        "undone",
        "BEGIN; INSERT INTO t VALUES (101, 1, 1); SAVEPOINT s; ALTER TABLE t RENAME b TO d;
         ALTER TABLE t ADD n int DEFAULT 7; INSERT INTO t VALUES (102, 2, 2, 2); ROLLBACK TO s;
         INSERT INTO t VALUES (103, 3, 3); UPDATE t SET b = 9 WHERE id < 5; COMMIT;
         BEGIN; ALTER TABLE t DROP b; INSERT INTO t VALUES (104, 4); ROLLBACK; DELETE FROM t WHERE id = 6",
        "followed",
    ),
    // Beyond logical_decoding_work_mem, too.
    (
        "large",
        "BEGIN; INSERT INTO t SELECT i, i, i FROM generate_series(1001, 3000) i;
         ALTER TABLE t RENAME b TO d; ALTER TABLE t ADD b int;
         INSERT INTO t SELECT i, i, i FROM generate_series(3001, 5000) i; SAVEPOINT s;
         ALTER TABLE t ADD n text DEFAULT 'x'; INSERT INTO t VALUES (5001, 1, 1, 1); ROLLBACK TO s;
         UPDATE t SET b = 8 WHERE id % 7 = 0; DELETE FROM t WHERE id % 11 = 0; COMMIT;
         INSERT INTO t VALUES (6001, 1, 1, 1)",
        "followed",
    ),
    (
        "moved",
        "INSERT INTO t VALUES (101, 1, 1); ALTER TABLE t RENAME TO t_away;
         INSERT INTO t_away VALUES (102, 2, 2); ALTER TABLE t_away RENAME TO t;
         INSERT INTO t VALUES (103, 3, 3)",
        "loaded",
    ),
    ("quiet", "UPDATE t SET a = a + 1; DELETE FROM t WHERE id = 3", "followed"),
];

#[test]
fn changes_of_a_table_amid_changes_of_its_rows_end_in_equality() -> Result<()> {
    let sql: String = CASES
        .iter()
        .map(|(name, ..)| {
            format!(
                "CREATE TABLE {name} (id int PRIMARY KEY, a int, b int);
                 INSERT INTO {name} SELECT i, i, -i FROM generate_series(1, 20) i;"
            )
        })
        .collect();
    let sql = format!("ALTER DATABASE :\"DBNAME\" SET logical_decoding_work_mem = '64kB'; {sql}");
    let followed = Followed::new(Into::Iceberg, "midstream", &sql)?;
    let streams: Vec<String> = CASES.iter().map(|(name, ..)| format!("public.{name}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    followed.project.edit("source.json", |source| {
        // Several transactions of each table.
        source["update_method"]["commit_changes"] = 12.into();
    })?;
    followed.sync()?;
    for (name, sql, _) in CASES {
        followed.psql(&about(name, sql)).context(name)?;
    }
    let outcome = followed.sync()?;
    followed.equals_by_duckdb(&streams)?;
    for (name, _, how) in CASES {
        assert_eq!(Followed::how(&outcome, &format!("public.{name}"))?, how, "{name}");
    }
    // No reader has seen values of a column that was dropped in the one that has its
    // name.
    let lake = followed.lake.as_ref().context("a lake")?;
    let table = lake.table_of(&followed.project, "public", "made_anew");
    for snapshot in table.describe()?.snapshots {
        let seen = table.read_at(Engine::DuckDb, snapshot.id)?.rows.column("b")?;
        ensure!(!seen.iter().any(|cell| cell.as_str() == Some("77")), "in {snapshot:?}");
    }
    Ok(())
}

#[test]
fn updates_that_a_crash_has_made_the_server_forget_are_not_missed() -> Result<()> {
    let server = Arc::new(follow::start(&Build::newest()?)?);
    let sql = "CREATE TABLE keyless (x int, y text); INSERT INTO keyless SELECT i, 'a' FROM generate_series(1, 9) i";
    let followed = Followed::at(&server, Into::Iceberg, "forgotten", sql)?;
    followed.sync()?;
    followed.psql("INSERT INTO keyless VALUES (10, 'b')")?;
    let outcome = followed.sync()?;
    assert_eq!(Followed::how(&outcome, "public.keyless")?, "followed");
    // As many UPDATEs are counted afterwards as there were before: none.
    followed
        .psql("UPDATE keyless SET y = 'changed' WHERE x < 5; DELETE FROM keyless WHERE x = 7")?;
    let checkpointer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
    let before = followed.psql(checkpointer)?;
    signal(before.parse()?, "KILL")?;
    poll("the server is back", || {
        let now = followed.psql(checkpointer);
        Ok(now.is_ok_and(|now| !now.is_empty() && now != before))
    })?;
    assert_eq!(followed.psql("SELECT n_tup_upd + n_tup_del FROM pg_stat_user_tables")?, "0");
    followed.sync()?;
    followed.equals_by_duckdb(&["public.keyless"])
}
