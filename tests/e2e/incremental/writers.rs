//! Sessions write all the while: rows with equal values are committed before,
//! during and after every snapshot, by subtransactions, some rolled back.

use anyhow::{Context, Result, ensure};
use tests::run::poll;

use super::{Incremental, Into};

/// A value is left only when no transaction that writes it is open, so that no
/// row comes late.
const SQL: &str = "
    CREATE TABLE epoch (n int);
    INSERT INTO epoch VALUES (1);
    CREATE TABLE t (id bigserial PRIMARY KEY, c int, who int, v text);
    CREATE TABLE log (c int, who int, v text);
    CREATE PROCEDURE write_rows(who int, rows int) LANGUAGE plpgsql AS $$
    BEGIN
      FOR i IN 1..rows LOOP
        PERFORM pg_advisory_xact_lock_shared(1);
        BEGIN
          INSERT INTO t (c, who, v) SELECT n, who, 'v' || i FROM epoch;
          INSERT INTO log SELECT n, who, 'v' || i % 3 FROM epoch;
          IF random() < 0.2 THEN RAISE EXCEPTION 'no'; END IF;
        EXCEPTION WHEN raise_exception THEN
          INSERT INTO log VALUES (NULL, who, 'apart');
        END;
        IF random() < 0.1 THEN ROLLBACK; END IF;
        IF random() < 0.4 THEN COMMIT; END IF;
      END LOOP;
      COMMIT;
    END $$;
    CREATE PROCEDURE move_on(times int) LANGUAGE plpgsql AS $$
    BEGIN
      FOR i IN 1..times LOOP
        PERFORM pg_advisory_xact_lock(1);
        UPDATE epoch SET n = n + 1;
        COMMIT;
        PERFORM pg_sleep(0.2);
      END LOOP;
    END $$;
";
const STREAMS: [&str; 2] = ["public.t", "public.log"];

#[test]
fn what_is_committed_while_syncs_run_is_read_once_in_parquet() -> Result<()> {
    written_all_the_while(Into::Parquet)
}

#[test]
fn what_is_committed_while_syncs_run_is_read_once_in_iceberg() -> Result<()> {
    written_all_the_while(Into::Iceberg)
}

fn written_all_the_while(into: Into) -> Result<()> {
    let tables = Incremental::new(into, "written", SQL, &[("t", "c"), ("log", "c")])?;
    let database = tables.project.database();
    let mut sessions = vec![database.psql_background("CALL move_on(12)")?];
    for who in 0..4 {
        let sql =
            format!("SELECT setseed({}); CALL write_rows({who}, 6000)", f64::from(who) / 10.0);
        sessions.push(database.psql_background(&sql)?);
    }
    let mut syncs = 0;
    loop {
        let mut running = false;
        for session in &mut sessions {
            running |= session.running()?;
        }
        if !running && syncs > 1 {
            break;
        }
        tables.sync()?;
        syncs += 1;
        ensure!(syncs < 100, "the writers do not end");
    }
    poll("every session is done", || {
        let count = tables.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND query ~ '^(SELECT setseed|CALL)'",
        )?;
        Ok(count == "0")
    })?;
    let rows: u64 = tables.psql("SELECT count(*) FROM log")?.parse().context("a count")?;
    ensure!(rows > 5000, "only {rows} rows were written");
    tables.sync_equals(&STREAMS)?;
    tables.sync_equals(&STREAMS)?;
    Ok(())
}
