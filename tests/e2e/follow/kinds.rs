//! Every kind of change, of tables with every kind of identity.

use anyhow::{Context, Result, ensure};
use tests::builds::Build;
use tests::workload::{SCHEMA, TABLES};

use super::{Followed, Into};

/// What is changed, round after round.
const ROUNDS: [&str; 4] = [
    // Insert, update, delete; a row that comes and goes in one transaction.
    "INSERT INTO plain VALUES (1001, 'new', 1.5, 1, '2024-02-29 12:00:00.123456+02'),
        (1002, NULL, NULL, NULL, NULL);
     UPDATE plain SET v = 'changed' WHERE id BETWEEN 10 AND 20;
     DELETE FROM plain WHERE id BETWEEN 30 AND 40;
     BEGIN; INSERT INTO plain VALUES (1003, 'gone', 0, 0); DELETE FROM plain WHERE id = 1003; COMMIT;
     BEGIN; DELETE FROM plain WHERE id = 50; INSERT INTO plain VALUES (50, 'again', 0, 0); COMMIT;
     INSERT INTO keyless VALUES (1, 'twice'), (1, 'twice');",
    // The key, the partition value, a column beside a long one.
    "UPDATE plain SET id = id + 5000 WHERE id BETWEEN 60 AND 70;
     BEGIN; UPDATE plain SET id = 7001 WHERE id = 80; UPDATE plain SET id = 80 WHERE id = 7001; COMMIT;
     UPDATE plain SET part = 99 WHERE id BETWEEN 90 AND 95;
     UPDATE whole SET v = 'beside' WHERE id < 50;
     UPDATE whole SET id = id + 1000 WHERE id BETWEEN 60 AND 65;
     UPDATE whole SET long = 'short' WHERE id = 99;
     UPDATE indexed SET code = -code WHERE code < 10;
     UPDATE indexed SET id = id + 100000 WHERE code BETWEEN 20 AND 30;
     UPDATE pair SET b = 'k|' WHERE a = 5;
     UPDATE pair SET a = a + 1000 WHERE a BETWEEN 10 AND 12;
     DELETE FROM indexed WHERE code = 50; DELETE FROM pair WHERE a = 20; DELETE FROM whole WHERE id = 3;",
    // Savepoints, and what is rolled back.
    "BEGIN; INSERT INTO plain VALUES (2001, 'kept'); SAVEPOINT s; UPDATE plain SET v = 'undone';
        DELETE FROM plain; ROLLBACK TO s; UPDATE plain SET v = 'kept, too' WHERE id = 2001; COMMIT;
     BEGIN; DELETE FROM plain; DELETE FROM whole; ROLLBACK;
     UPDATE plain SET v = v; UPDATE whole SET v = v;",
    // TRUNCATE, of several tables, with rows before and after.
    "BEGIN; INSERT INTO plain VALUES (3001, 'before'); TRUNCATE plain, keyless;
        INSERT INTO plain VALUES (3002, 'after'), (10, 'after'); COMMIT;
     UPDATE plain SET v = 'later' WHERE id = 10;
     INSERT INTO whole VALUES (9000, 'before', 'x'); TRUNCATE whole;
     INSERT INTO keyless VALUES (7, 'after');",
];

#[test]
fn every_kind_of_change_arrives_in_parquet_on_the_newest_server() -> Result<()> {
    all_kinds(&Build::newest()?, Into::Parquet)
}

#[test]
fn every_kind_of_change_arrives_in_iceberg_on_the_newest_server() -> Result<()> {
    all_kinds(&Build::newest()?, Into::Iceberg)
}

#[test]
fn every_kind_of_change_arrives_in_iceberg_on_the_oldest_server() -> Result<()> {
    all_kinds(&Build::all()?[0], Into::Iceberg)
}

#[test]
fn every_kind_of_change_arrives_in_parquet_on_the_oldest_server() -> Result<()> {
    all_kinds(&Build::all()?[0], Into::Parquet)
}

#[test]
fn every_kind_of_change_arrives_on_the_servers_in_between() -> Result<()> {
    let builds = Build::all()?;
    for build in builds.iter().skip(1).take(builds.len().saturating_sub(2)) {
        few_syncs(build).with_context(|| format!("on PostgreSQL {}", build.version))?;
    }
    Ok(())
}

/// The same, of all rounds but the last at once.
fn few_syncs(build: &Build) -> Result<()> {
    let followed = Followed::on(build, Into::Iceberg, "kinds", SCHEMA)?;
    followed.sync()?;
    let (last, before) = ROUNDS.split_last().context("several rounds")?;
    followed.psql(&before.join(" "))?;
    let outcome = followed.sync()?;
    followed.equals_by_duckdb(&TABLES)?;
    for table in TABLES {
        assert_eq!(Followed::how(&outcome, table)?, "followed", "{table}");
    }
    followed.psql(last)?;
    followed.sync()?;
    followed.equals_by_duckdb(&TABLES)
}

fn all_kinds(build: &Build, into: Into) -> Result<()> {
    let followed = Followed::on(build, into, "kinds", SCHEMA)?;
    let first = followed.sync_equals(&TABLES).context("the first sync")?;
    for table in TABLES {
        assert_eq!(Followed::how(&first, table)?, "loaded", "{table}");
    }
    for (round, sql) in ROUNDS.into_iter().enumerate() {
        followed.psql(sql)?;
        let outcome = followed.sync_equals(&TABLES).with_context(|| format!("round {round}"))?;
        if round < 3 {
            for table in TABLES {
                assert_eq!(Followed::how(&outcome, table)?, "followed", "{table} in round {round}");
            }
        }
    }
    // Nothing happens, twice; the slot goes on all the same.
    for _ in 0..2 {
        let idle = followed.sync_equals(&TABLES)?;
        assert_eq!(Followed::how(&idle, "public.plain")?, "followed");
        followed.psql("CREATE TABLE IF NOT EXISTS other (x int); INSERT INTO other SELECT 1 FROM generate_series(1, 10000)")?;
    }
    let end = followed.psql("SELECT pg_current_wal_flush_lsn()")?;
    followed.sync()?;
    ensure!(followed.is_confirmed(&end)?, "WAL of an idle database is released");
    Ok(())
}
