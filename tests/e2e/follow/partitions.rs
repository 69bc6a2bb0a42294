//! Partitions that come and go: what the log tells of costs no load, the rest one
//! of that table.

use anyhow::{Context, Result, ensure};
use tests::builds::Build;
use tests::going::end;
use tests::iceberg::engine::Engine;

use super::{Followed, Into, about};

/// What is done with a table `t` whose partitions are 100 wide, of which `t_0` is
/// there; and how the table comes to its content then.
const NEW: [(&str, &str, &str); 16] = [
    ("empty", "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (100) TO (200)", "followed"),
    (
        "filled",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (100) TO (200);
         INSERT INTO t SELECT i, 'root' FROM generate_series(101, 110) i;
         INSERT INTO t_1 VALUES (120, 'itself'); UPDATE t SET k = k + 150 WHERE k < 5;
         DELETE FROM t WHERE k = 105",
        "followed",
    ),
    (
        "nested",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (k);
         CREATE TABLE t_11 PARTITION OF t_1 FOR VALUES FROM (100) TO (150);
         INSERT INTO t VALUES (101, 'new')",
        "followed",
    ),
    (
        "attached_empty",
        "CREATE TABLE t_1 (LIKE t INCLUDING ALL);
         ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (100) TO (200);
         UPDATE t SET v = 'later' WHERE k = 3",
        "followed",
    ),
    (
        "attached_full",
        "CREATE TABLE t_1 (LIKE t INCLUDING ALL); INSERT INTO t_1 VALUES (101, 'before');
         ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (100) TO (200)",
        "loaded",
    ),
    // By nothing that is left can it be told from the one before.
    (
        "attached_then_filled",
        "CREATE TABLE t_1 (LIKE t INCLUDING ALL);
         ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (100) TO (200);
         INSERT INTO t VALUES (101, 'after')",
        "loaded",
    ),
    (
        "attached_at_once",
        "BEGIN; CREATE TABLE t_1 (k int NOT NULL, v text, PRIMARY KEY (k));
         INSERT INTO t_1 VALUES (101, 'before');
         ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (100) TO (200); COMMIT",
        "loaded",
    ),
    (
        "attached_with_parts",
        "CREATE TABLE t_1 (LIKE t INCLUDING ALL) PARTITION BY RANGE (k);
         CREATE TABLE t_11 PARTITION OF t_1 FOR VALUES FROM (100) TO (150);
         INSERT INTO t_1 VALUES (101, 'before');
         ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (100) TO (200)",
        "loaded",
    ),
    // Its TRUNCATE is in no log, and leaves the file as it is.
    (
        "emptied_at_once",
        "BEGIN; CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (100) TO (200);
         INSERT INTO t VALUES (101, 'gone'); TRUNCATE t_1; COMMIT",
        "loaded",
    ),
    (
        "emptied_in_a_savepoint",
        "BEGIN; UPDATE t SET v = 'x' WHERE k = 1; SAVEPOINT s;
         CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (100) TO (200);
         INSERT INTO t VALUES (101, 'gone'); TRUNCATE t_1; RELEASE s; COMMIT;
         INSERT INTO t VALUES (102, 'there')",
        "loaded",
    ),
    (
        "emptied",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (100) TO (200);
         INSERT INTO t VALUES (101, 'gone'); TRUNCATE t_1",
        "loaded",
    ),
    (
        "away_and_back",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (100) TO (200);
         INSERT INTO t VALUES (101, 'one'); ALTER TABLE t DETACH PARTITION t_1;
         UPDATE t_1 SET v = 'apart'; INSERT INTO t_1 VALUES (102, 'apart');
         ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (100) TO (200)",
        "loaded",
    ),
    (
        "rewritten",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (100) TO (200);
         INSERT INTO t VALUES (101, 'one'); VACUUM FULL t_1",
        "loaded",
    ),
    ("dropped", "DROP TABLE t_0", "loaded"),
    (
        "replaced",
        "DROP TABLE t_0; CREATE TABLE t_0 PARTITION OF t FOR VALUES FROM (0) TO (100);
         INSERT INTO t VALUES (1, 'anew')",
        "loaded",
    ),
    ("truncated", "TRUNCATE t_0; INSERT INTO t VALUES (1, 'after')", "loaded"),
];

fn table(name: &str) -> String {
    about(
        name,
        "CREATE TABLE t (k int PRIMARY KEY, v text) PARTITION BY RANGE (k);
         CREATE TABLE t_0 PARTITION OF t FOR VALUES FROM (0) TO (100);
         INSERT INTO t SELECT i, 'a' FROM generate_series(1, 20) i;",
    )
}

#[test]
fn partitions_that_are_new_cost_a_load_only_where_the_log_lacks_rows_of_them() -> Result<()> {
    all_new(&Build::newest()?, Into::Iceberg)
}

#[test]
fn partitions_that_are_new_cost_as_little_on_the_oldest_server() -> Result<()> {
    all_new(&Build::all()?[0], Into::Parquet)
}

fn all_new(build: &Build, into: Into) -> Result<()> {
    let sql: String = NEW.iter().map(|(name, ..)| table(name)).collect();
    let followed = Followed::on(build, into, "new_partitions", &sql)?;
    let streams: Vec<String> = NEW.iter().map(|(name, ..)| format!("public.{name}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    let equal = || match into {
        Into::Parquet => followed.equals(&streams),
        Into::Iceberg => followed.equals_by_duckdb(&streams),
    };
    followed.select(&streams)?;
    followed.sync()?;
    for (name, sql, _) in NEW {
        followed.psql(&about(name, sql)).context(name)?;
    }
    let outcome = followed.sync()?;
    equal()?;
    for (name, _, how) in NEW {
        assert_eq!(Followed::how(&outcome, &format!("public.{name}"))?, how, "{name}");
    }
    // Whatever it was, they are followed from there.
    for (name, ..) in NEW {
        let more = "INSERT INTO t VALUES (130, 'more'); UPDATE t SET v = v || '.'";
        let more = if name == "truncated" || name.starts_with("drop") || name == "replaced" {
            "UPDATE t SET v = v || '.'"
        } else {
            more
        };
        followed.psql(&about(name, more)).context(name)?;
    }
    let outcome = followed.sync()?;
    equal()?;
    for stream in streams {
        assert_eq!(Followed::how(&outcome, stream)?, "followed", "{stream}");
    }
    Ok(())
}

#[test]
fn partitions_come_and_go_while_a_sync_goes_on() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "going_partitions", &table("p"))?;
    let streams = ["public.p"];
    followed.select(&streams)?;
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    for sql in [
        "CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (100) TO (200)",
        "INSERT INTO p VALUES (101, 'x'); UPDATE p SET k = k + 100 WHERE k = 7;
         CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (200) TO (300); INSERT INTO p VALUES (201, 'y')",
        "DELETE FROM p WHERE k IN (8, 101); UPDATE p SET v = v || '.'",
    ] {
        followed.psql(sql)?;
        followed.caught_up(&mut going)?;
        followed.equals_by_duckdb(&streams).with_context(|| sql.to_owned())?;
    }
    let told = end(going)?;
    ensure!(!told.stderr.contains("is loaded anew"), "{}", told.stderr);
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    followed.psql("ALTER TABLE p DETACH PARTITION p_1")?;
    followed.caught_up(&mut going)?;
    followed.psql("UPDATE p SET v = v || '!'")?;
    followed.caught_up(&mut going)?;
    followed.equals_by_duckdb(&streams)?;
    let told = end(going)?;
    ensure!(told.stderr.contains("public.p is loaded anew"), "{}", told.stderr);
    Ok(())
}

#[test]
fn rows_of_partitions_that_go_are_kept_where_that_is_wanted() -> Result<()> {
    let names = ["detached", "dropped", "replaced", "back", "truncated", "keyless"];
    let mut sql: String = names[..5].iter().map(|name| table(name)).collect();
    sql.push_str(&table("keyless").replace(" PRIMARY KEY", ""));
    let followed = Followed::new(Into::Iceberg, "kept_partitions", &sql)?;
    let streams = names.map(|name| format!("public.{name}"));
    let streams = streams.each_ref().map(String::as_str);
    followed.select(&streams)?;
    followed.project.edit("source.json", |source| {
        source["update_method"]["on_partition_removed"] = "keep".into();
    })?;
    followed.sync()?;
    for name in names {
        followed.psql(&about(
            name,
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (100) TO (200);
             INSERT INTO t SELECT i, 'b' FROM generate_series(101, 105) i",
        ))?;
    }
    let outcome = followed.sync()?;
    followed.equals_by_duckdb(&streams)?;
    for stream in streams {
        assert_eq!(Followed::how(&outcome, stream)?, "followed", "{stream}");
    }
    followed.psql(
        "UPDATE detached SET v = 'last' WHERE k = 3; ALTER TABLE detached DETACH PARTITION detached_0;
         DELETE FROM detached_0; INSERT INTO detached VALUES (110, 'b');
         DELETE FROM dropped WHERE k = 4; DROP TABLE dropped_0; UPDATE dropped SET v = 'c' WHERE k = 101;
         DROP TABLE replaced_0;
         CREATE TABLE replaced_0 PARTITION OF replaced FOR VALUES FROM (0) TO (100);
         INSERT INTO replaced VALUES (1, 'anew');
         ALTER TABLE back DETACH PARTITION back_0; UPDATE back_0 SET v = 'apart'; DELETE FROM back_0 WHERE k > 10;
         ALTER TABLE back ATTACH PARTITION back_0 FOR VALUES FROM (0) TO (100);
         TRUNCATE truncated_0;
         DROP TABLE keyless_0; INSERT INTO keyless VALUES (110, 'b')",
    )?;
    let lake = followed.lake.as_ref().context("a lake")?;
    for round in 0..2 {
        let outcome = followed.sync()?;
        for (name, how, conditions) in [
            ("detached", "followed", [("k < 100", 20), ("v = 'last'", 1), ("k > 100", 6)]),
            ("dropped", "followed", [("k < 100", 19), ("v = 'c'", 1), ("k > 100", 5)]),
            ("replaced", "followed", [("k < 100", 20), ("v = 'anew'", 1), ("k > 100", 5)]),
            ("back", "loaded", [("k < 100", 10), ("v = 'apart'", 10), ("k > 100", 5)]),
            ("truncated", "loaded", [("k < 100", 0), ("v = 'b'", 5), ("k > 100", 5)]),
            ("keyless", "followed", [("k < 100", 20), ("v = 'b'", 6), ("k > 100", 6)]),
        ] {
            let table = lake.table_of(&followed.project, "public", name);
            let counts =
                table.counts(Engine::DuckDb, &conditions.map(|(condition, _)| condition))?;
            assert_eq!(counts, conditions.map(|(_, rows)| rows), "{name} in round {round}");
            let how = if round == 0 { how } else { "followed" };
            assert_eq!(Followed::how(&outcome, &format!("public.{name}"))?, how, "{name}");
        }
    }
    followed.project.edit("source.json", |source| {
        source["update_method"]["on_partition_removed"] = "reload".into();
    })?;
    followed.psql("DROP TABLE detached_1")?;
    followed.sync()?;
    followed.equals_by_duckdb(&["public.detached"])
}
