//! Tables that the log tells all of, and those of which it does not: lost, and
//! never silently wrong.

use anyhow::{Result, ensure};
use tests::capture::Capture;
use tests::postgres::Database;

use super::on_both_ends;

const T: &str = "public.t";

/// Opens, changes, replicates: why `public.t` was lost, and its changes.
fn after(
    database: &Database,
    capture: &mut Capture,
    slot: &str,
    create: &str,
    change: &str,
) -> Result<(Option<String>, Vec<String>)> {
    database.psql(&format!("DROP TABLE IF EXISTS t, other CASCADE; {create}"))?;
    database
        .psql(&format!("DROP PUBLICATION IF EXISTS tidewater_{slot}, tidewater_{slot}_insert"))?;
    super::drop_slots(database)?;
    capture.open(slot, &[T])?;
    database.psql(change)?;
    let run = capture.run(slot, &[T], |_| ())?;
    Ok((run.lost(T).map(str::to_owned), run.rows(T)?))
}

/// Storage that is not compressed: a long value lies apart from its row.
const WIDE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int, v text);
    ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
    INSERT INTO t VALUES (1, 0, repeat('x', 3000))";

#[test]
fn an_unchanged_large_value_is_the_old_rows_or_said_to_be_unchanged() -> Result<()> {
    on_both_ends("tables_toast", |database, capture| {
        let change = "UPDATE t SET n = 1";
        let (lost, rows) = after(database, capture, "tables_toast", WIDE, change)?;
        assert_eq!((lost, rows), (None, vec!["u id=1 n=1 v?".to_owned()]));
        // Of a row that got another key, both changes say that they are one move.
        let moved = "UPDATE t SET id = 2";
        let (lost, rows) = after(database, capture, "tables_toast", WIDE, moved)?;
        let both = ["d id=1 moved", "u id=2 n=0 v? moved"].map(str::to_owned);
        assert_eq!((lost, rows), (None, both.to_vec()));
        let full = format!("{WIDE}; ALTER TABLE t REPLICA IDENTITY FULL");
        let (lost, rows) = after(database, capture, "tables_toast", &full, change)?;
        assert_eq!((lost, rows), (None, vec![format!("u id=1 n=1 v={}", "x".repeat(3000))]));
        // A large key: the old row has it, so that it need not be guessed.
        let key = "CREATE TABLE t (k text PRIMARY KEY, n int);
            ALTER TABLE t ALTER k SET STORAGE EXTERNAL;
            INSERT INTO t VALUES (repeat('k', 2500), 0)";
        let (lost, rows) = after(database, capture, "tables_toast", key, change)?;
        assert_eq!((lost, rows), (None, vec![format!("u k={} n=1", "k".repeat(2500))]));
        Ok(())
    })
}

#[test]
fn each_replica_identity_is_what_it_says() -> Result<()> {
    on_both_ends("tables_identity", |database, capture| {
        let table = "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL UNIQUE, c int);
            INSERT INTO t VALUES (1, 10, 100), (2, 20, 200)";
        let index = format!("{table}; ALTER TABLE t REPLICA IDENTITY USING INDEX t_b_key");
        let full = format!("{table}; ALTER TABLE t REPLICA IDENTITY FULL");
        let change = "UPDATE t SET a = 5 WHERE a = 1; UPDATE t SET b = 11 WHERE a = 5;
            UPDATE t SET c = 0 WHERE a = 2; DELETE FROM t WHERE a = 2";
        let cases: [(&str, &[&str]); 3] = [
            (table, &["d a=1", "u a=5 b=10 c=100", "u a=5 b=11 c=100", "u a=2 b=20 c=0", "d a=2"]),
            // An UPDATE of the primary key leaves this identity as it is.
            (
                &index,
                &["u a=5 b=10 c=100", "d b=10", "u a=5 b=11 c=100", "u a=2 b=20 c=0", "d b=20"],
            ),
            (
                &full,
                &[
                    "d a=1 b=10 c=100",
                    "u a=5 b=10 c=100",
                    "u a=5 b=11 c=100",
                    "u a=2 b=20 c=0",
                    "d a=2 b=20 c=0",
                ],
            ),
        ];
        for (create, expected) in cases {
            let (lost, rows) = after(database, capture, "tables_identity", create, change)?;
            assert_eq!(
                (lost, rows),
                (None, expected.iter().map(|row| (*row).to_owned()).collect())
            );
        }
        Ok(())
    })
}

#[test]
fn without_an_identity_inserts_are_followed() -> Result<()> {
    on_both_ends("tables_keyless", |database, capture| {
        let table = "CREATE TABLE t (a int); INSERT INTO t VALUES (1)";
        for (create, change) in [
            (table.to_owned(), "UPDATE t SET a = 9"),
            (table.to_owned(), "DELETE FROM t"),
            (format!("{table}; ALTER TABLE t ADD PRIMARY KEY (a) DEFERRABLE"), "DELETE FROM t"),
        ] {
            let slot = "tables_keyless";
            let insert = "INSERT INTO t VALUES (2); TRUNCATE t; INSERT INTO t VALUES (3)";
            let (lost, rows) = after(database, capture, slot, &create, insert)?;
            assert_eq!((lost, rows), (None, vec!["c a=3".to_owned()]));
            // Its users' UPDATEs and DELETEs go on as before.
            let (lost, _) = after(database, capture, slot, &create, change)?;
            // What is not published does not come: the table has no such change.
            assert_eq!(lost, None, "{create}: {change}");
        }
        Ok(())
    })
}

#[test]
fn without_an_identity_but_with_whole_old_rows_every_change_is_followed() -> Result<()> {
    on_both_ends("tables_whole", |database, capture| {
        let table = "CREATE TABLE t (a int, b text); ALTER TABLE t REPLICA IDENTITY FULL;
            INSERT INTO t VALUES (1, NULL), (1, NULL), (2, repeat('x', 2500));
            ALTER TABLE t ALTER b SET STORAGE EXTERNAL; UPDATE t SET b = b || 'y' WHERE a = 2";
        let change = "UPDATE t SET a = 9 WHERE a = 2;
            DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE a = 1)";
        let (lost, rows) = after(database, capture, "tables_whole", table, change)?;
        let large = format!("{}y", "x".repeat(2500));
        let expected = [format!("d a=2 b={large}"), format!("u a=9 b={large}"), "d a=1".to_owned()];
        assert_eq!((lost, rows), (None, expected.to_vec()));
        Ok(())
    })
}

#[test]
fn a_table_that_looks_different_than_it_did_is_lost() -> Result<()> {
    on_both_ends("tables_ddl", |database, capture| {
        let table = "CREATE TABLE t (id int PRIMARY KEY, b text, n numeric(10,2));
            INSERT INTO t VALUES (1, 'x', 1)";
        for (ddl, why) in [
            ("ALTER TABLE t ADD c int", "column c"),
            ("ALTER TABLE t DROP b", "column"),
            ("ALTER TABLE t RENAME b TO d", "not the same"),
            ("ALTER TABLE t DROP b; ALTER TABLE t ADD d text", "column"),
            ("ALTER TABLE t ALTER n TYPE numeric(12,2)", "type of column n"),
            ("ALTER TABLE t ALTER id TYPE bigint", "type of column id"),
            ("ALTER TABLE t RENAME TO other; CREATE TABLE t (id int PRIMARY KEY)", "dropped"),
            (
                "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, b text, n numeric(10,2))",
                "dropped",
            ),
        ] {
            // A change before it, in the table's old form.
            let change = format!("UPDATE t SET n = 2; {ddl}");
            let create = format!("DROP TABLE IF EXISTS other; {table}");
            database.psql(&format!("DROP TABLE IF EXISTS t, other CASCADE; {create}"))?;
            database.psql(
                "DROP PUBLICATION IF EXISTS tidewater_tables_ddl, tidewater_tables_ddl_insert",
            )?;
            super::drop_slots(database)?;
            capture.open("tables_ddl", &[T])?;
            database.psql(&change)?;
            // A table that took the name is published before it is followed.
            capture.open("tables_ddl", &[T])?;
            let run = capture.run("tables_ddl", &[T], |_| ())?;
            let lost = run.lost(T).unwrap_or_default();
            ensure!(lost.contains(why), "{ddl}: {lost:?} {:?}", run.rows(T)?);
            ensure!(run.rows(T)?.is_empty(), "{ddl}");
        }
        Ok(())
    })
}

#[test]
fn columns_that_change_while_the_log_is_read_are_followed_from_where_it_is() -> Result<()> {
    on_both_ends("tables_meanwhile", |database, capture| {
        let slot = "tables_meanwhile";
        database.psql("CREATE TABLE t (id int PRIMARY KEY, a int, b int)")?;
        capture.open(slot, &[T])?;
        let load = capture.open_load(slot, &[T])?;
        capture.read_load(&load)?;
        for id in 1..7 {
            database.psql(&format!("INSERT INTO t VALUES ({id}, {id}, -{id})"))?;
        }
        let mut request = capture.request(slot, &[T])?;
        request.tables[0].position = load.consistent_point.clone();
        request.tables[0].shape = load.tables[0].shape.clone();
        request.tables[0].numbered = true;
        request.interval_changes = 1;
        request.intervals_in_flight = 1;
        let mut filled = 0;
        let run = capture.replicate_while(request, true, |interval| {
            filled += interval.tables.len();
            let sql = match filled {
                1 if !interval.tables.is_empty() => {
                    "ALTER TABLE t DROP a; ALTER TABLE t ADD c text"
                }
                2 if !interval.tables.is_empty() => {
                    "SET synchronous_commit = on; INSERT INTO t VALUES (7, 7, '7');
                     ALTER TABLE t RENAME b TO a"
                }
                _ => return Ok(()),
            };
            database.psql(sql).map(drop)
        })?;
        ensure!(run.lost.is_empty(), "{:?}", run.lost);
        let expected = [
            "c id=1 a=1 b=-1",
            "c id=2 b=-2",
            "c id=3 a=-3",
            "c id=4 a=-4",
            "c id=5 a=-5",
            "c id=6 a=-6",
            "c id=7 a=7 c=7",
        ];
        assert_eq!(run.rows(T)?, expected);
        let numbers: Vec<u64> = run.intervals.iter().map(|interval| interval.number).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        let mut ends = run.intervals.iter().map(|interval| &interval.to);
        ensure!(run.intervals.iter().skip(1).all(|next| Some(&next.from) == ends.next()));
        Ok(())
    })
}

#[test]
fn one_lost_table_does_not_keep_the_others() -> Result<()> {
    on_both_ends("tables_lost", |database, capture| {
        database.psql(&format!("{WIDE}; CREATE TABLE other (id int PRIMARY KEY)"))?;
        let tables = [T, "public.other"];
        capture.open("tables_lost", &tables)?;
        database.psql(
            "INSERT INTO other VALUES (1); INSERT INTO t VALUES (2, 0, 'y');
             ALTER TABLE t ADD c int; INSERT INTO other VALUES (2)",
        )?;
        let run = capture.run("tables_lost", &tables, |_| ())?;
        assert_eq!(run.rows("public.other")?, ["c id=1", "c id=2"]);
        ensure!(run.lost.len() == 1 && run.lost(T).is_some(), "{:?}", run.lost);
        ensure!(run.rows(T)?.is_empty());
        Ok(())
    })
}

#[test]
fn a_partitioned_table_is_its_root_whatever_its_partitions_say() -> Result<()> {
    on_both_ends("tables_partitions", |database, capture| {
        let table = "CREATE TABLE t (id int, part int, v text, PRIMARY KEY (id, part))
              PARTITION BY LIST (part);
            CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
            CREATE TABLE t2 (v text, part int NOT NULL, id int NOT NULL, PRIMARY KEY (id, part));
            ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2);
            INSERT INTO t VALUES (1, 1, 'one'), (2, 2, 'two')";
        let change = "UPDATE t SET v = 'uno' WHERE id = 1; UPDATE t SET part = 2 WHERE id = 1;
            DELETE FROM t2 WHERE id = 2; INSERT INTO t1 VALUES (3, 1, 'three'); TRUNCATE t;
            INSERT INTO t VALUES (4, 2, 'four'); UPDATE t SET id = 5 WHERE id = 4;
            DELETE FROM t WHERE id = 5";
        let after_truncate = |d4: &str, d5: &str| {
            ["c id=4 part=2 v=four", d4, "u id=5 part=2 v=four", d5].map(str::to_owned).to_vec()
        };
        let slot = "tables_partitions";
        let (lost, rows) = after(database, capture, slot, table, change)?;
        assert_eq!((lost, rows), (None, after_truncate("d id=4 part=2", "d id=5 part=2")));
        // FULL of the root alone: a partition's old rows have only their key.
        let root = format!("{table}; ALTER TABLE t REPLICA IDENTITY FULL");
        let (lost, rows) = after(database, capture, slot, &root, change)?;
        assert_eq!((lost, rows), (None, after_truncate("d id=4 part=2", "d id=5 part=2")));
        let all = format!(
            "{root}; ALTER TABLE t1 REPLICA IDENTITY FULL; ALTER TABLE t2 REPLICA IDENTITY FULL"
        );
        let (lost, rows) = after(database, capture, slot, &all, change)?;
        let whole = after_truncate("d id=4 part=2 v=four", "d id=5 part=2 v=four");
        assert_eq!((lost, rows), (None, whole));
        Ok(())
    })
}

#[test]
fn children_of_plain_inheritance_are_tables_of_their_own() -> Result<()> {
    on_both_ends("tables_inherit", |database, capture| {
        let table = "CREATE TABLE t (id int PRIMARY KEY);
            CREATE TABLE other (PRIMARY KEY (id)) INHERITS (t)";
        let change = "INSERT INTO t VALUES (1); INSERT INTO other VALUES (2)";
        let (lost, rows) = after(database, capture, "tables_inherit", table, change)?;
        assert_eq!((lost, rows), (None, vec!["c id=1".to_owned()]));
        Ok(())
    })
}

#[test]
fn generated_columns_that_the_log_leaves_out_are_left_out_and_it_is_said() -> Result<()> {
    on_both_ends("tables_generated", |database, capture| {
        database.psql(
            "CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
             CREATE TABLE keyed (a int, k int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY)",
        )?;
        let opened = capture.open("tables_generated", &[T])?;
        let columns: Vec<_> = opened.tables[0].columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(columns, ["id", "a"]);
        ensure!(
            opened.notices.iter().any(|n| n.contains("public.t.twice")),
            "{:?}",
            opened.notices
        );
        database.psql("INSERT INTO t VALUES (1, 5)")?;
        assert_eq!(capture.run("tables_generated", &[T], |_| ())?.rows(T)?, ["c id=1 a=5"]);
        let refused = capture.open("tables_generated", &["public.keyed"]).unwrap_err();
        ensure!(refused.message.contains("public.keyed.k"), "{refused}");
        Ok(())
    })
}

#[test]
fn rows_that_change_without_an_event_lose_the_table() -> Result<()> {
    on_both_ends("tables_shape", |database, capture| {
        let create = "CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
            CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100);
            CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200);
            INSERT INTO t VALUES (1, 1), (101, 1)";
        let plain = "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1)";
        let keyless = "CREATE TABLE t (id int, n int); INSERT INTO t VALUES (1, 1)";
        for (create, change, lost) in [
            (plain, "UPDATE t SET n = 2; VACUUM t; ANALYZE t; CREATE INDEX ON t (n)", false),
            (plain, "TRUNCATE t; INSERT INTO t VALUES (5, 5)", false),
            (plain, "ALTER TABLE t ADD c int DEFAULT 7", true),
            (plain, "ALTER TABLE t ADD c uuid DEFAULT gen_random_uuid()", true),
            (plain, "ALTER TABLE t ALTER n TYPE int USING n + 1", true),
            (plain, "VACUUM FULL t", true),
            (create, "INSERT INTO t VALUES (2, 2)", false),
            (create, "TRUNCATE t1", true),
            (create, "ALTER TABLE t DETACH PARTITION t2", true),
            (create, "DROP TABLE t2", true),
            (create, "CREATE TABLE t3 PARTITION OF t DEFAULT", false),
            (
                create,
                "CREATE TABLE t3 (id int PRIMARY KEY, n int); INSERT INTO t3 VALUES (201, 1);
                ALTER TABLE t ATTACH PARTITION t3 DEFAULT",
                true,
            ),
            (keyless, "INSERT INTO t VALUES (2, 2)", false),
            (keyless, "UPDATE t SET n = 2", true),
            (keyless, "DELETE FROM t", true),
        ] {
            database.psql(&format!("DROP TABLE IF EXISTS t, t2 CASCADE; {create}"))?;
            database.psql(
                "DROP PUBLICATION IF EXISTS tidewater_tables_shape, tidewater_tables_shape_insert",
            )?;
            super::drop_slots(database)?;
            capture.open("tables_shape", &[T])?;
            let load = capture.open_load("tables_shape", &[T])?;
            capture.read_load(&load)?;
            let counted = "SELECT coalesce(sum(n_tup_upd + n_tup_del), 0) FROM pg_stat_all_tables \
                           WHERE relid = 't'::regclass";
            let before = database.psql(counted)?;
            database.psql(change)?;
            // The server counts when it comes to it.
            while create == keyless && lost && database.psql(counted)? == before {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            let run = capture.run("tables_shape", &[T], |request| {
                request.tables[0].position = load.consistent_point.clone();
                request.tables[0].shape = load.tables[0].shape.clone();
            })?;
            assert_eq!(run.lost(T).is_some(), lost, "{change}: {:?}", run.lost);
        }
        Ok(())
    })
}
