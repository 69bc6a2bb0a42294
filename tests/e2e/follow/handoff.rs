//! From the load to the changes: no gap, no overlap, also for a table without a
//! key, and for tables that join later.

use std::sync::Arc;

use anyhow::{Result, ensure};
use tests::builds::Build;
use tests::follow;
use tests::going::end;
use tests::run::{Project, poll};

use super::{Followed, Into};

const TICKS: &str = "
    CREATE TABLE ticks (n bigserial, at timestamptz DEFAULT now());
    CREATE TABLE keyed (n bigserial PRIMARY KEY, v int DEFAULT 0);
    INSERT INTO ticks SELECT FROM generate_series(1, 20000);
    INSERT INTO keyed SELECT FROM generate_series(1, 20000);
";

/// One transaction a row, and one for an update of it.
const WRITES: &str = "DO $$ BEGIN FOR i IN 1..3000 LOOP
    INSERT INTO ticks DEFAULT VALUES; COMMIT;
    INSERT INTO keyed DEFAULT VALUES; COMMIT;
    UPDATE keyed SET v = v + 1 WHERE n = i * 5; COMMIT;
    DELETE FROM keyed WHERE n = i * 7; COMMIT;
  END LOOP; END $$;";

#[test]
fn writes_during_the_load_are_neither_lost_nor_doubled_in_parquet() -> Result<()> {
    written_all_the_while(Into::Parquet)
}

#[test]
fn writes_during_the_load_are_neither_lost_nor_doubled_in_iceberg() -> Result<()> {
    written_all_the_while(Into::Iceberg)
}

fn written_all_the_while(into: Into) -> Result<()> {
    const STREAMS: [&str; 2] = ["public.ticks", "public.keyed"];
    let followed = Followed::new(into, "handoff", TICKS)?;
    let mut writer = followed.project.database().psql_background(WRITES)?;
    let first = followed.sync()?;
    assert_eq!(Followed::how(&first, "public.ticks")?, "loaded");
    // Others are loaded and followed while it is still written.
    let mut rounds = 0;
    while writer.running()? && rounds < 3 {
        followed.sync()?;
        rounds += 1;
    }
    poll("the writer is done", || Ok(!writer.running()?))?;
    let last = followed.sync_equals(&STREAMS)?;
    assert_eq!(Followed::how(&last, "public.ticks")?, "followed");
    Ok(())
}

#[test]
fn a_table_that_is_added_later_joins_the_slot() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::new(into, "joins", TICKS)?;
        followed.select(&["public.keyed"])?;
        followed.sync_equals(&["public.keyed"])?;
        followed.psql(
            "UPDATE keyed SET v = 7 WHERE n < 100; INSERT INTO ticks DEFAULT VALUES;
             CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'a'), (2, 'b')",
        )?;
        followed.project.discover()?;
        let all = ["public.keyed", "public.ticks", "public.late"];
        followed.select(&all)?;
        let joined = followed.sync_equals(&all)?;
        assert_eq!(Followed::how(&joined, "public.keyed")?, "followed");
        assert_eq!(Followed::how(&joined, "public.late")?, "loaded");
        followed.psql(
            "UPDATE late SET id = 3 WHERE id = 1; DELETE FROM late WHERE id = 2;
             INSERT INTO ticks DEFAULT VALUES; UPDATE keyed SET v = 8 WHERE n = 5",
        )?;
        let after = followed.sync_equals(&all)?;
        assert_eq!(Followed::how(&after, "public.late")?, "followed");
    }
    Ok(())
}

#[test]
fn a_table_that_is_added_later_is_loaded_while_the_others_are_followed() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::new(into, "joins_going", TICKS)?;
        let old = ["public.keyed"];
        followed.select(&old)?;
        let mut going = followed.go_on_patiently()?;
        followed.caught_up(&mut going)?;
        end(going)?;
        followed.psql(
            "UPDATE keyed SET v = 7 WHERE n < 100;
             CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'a'), (2, 'b')",
        )?;
        followed.project.discover()?;
        let all = ["public.keyed", "public.ticks", "public.late"];
        followed.select(&all)?;
        let holder = followed.hold_loads()?;
        let mut going = followed.go_on_patiently()?;
        poll("the load has begun", || followed.is_loading())?;
        for v in 1..4 {
            followed.psql(&format!(
                "UPDATE keyed SET v = {v} WHERE n < 50; DELETE FROM keyed WHERE n = {v};
                 INSERT INTO ticks DEFAULT VALUES; UPDATE late SET v = v || '.' WHERE id = 1;
                 INSERT INTO late VALUES ({v} + 10, 'c')"
            ))?;
            poll("the others are followed", || {
                ensure!(!going.ended()?, "the sync has ended");
                Ok(followed.equals(&old).is_ok())
            })?;
        }
        ensure!(followed.is_loading()?, "the load was not held");
        drop(holder);
        followed.psql("DELETE FROM late WHERE id = 2; INSERT INTO ticks DEFAULT VALUES")?;
        followed.caught_up(&mut going)?;
        followed.equals(&all)?;
        followed.psql(
            "UPDATE late SET id = 3 WHERE id = 1; INSERT INTO ticks DEFAULT VALUES;
             UPDATE keyed SET v = 8 WHERE n = 5",
        )?;
        let outcome = end(going)?;
        followed.equals(&all)?;
        assert_eq!(Followed::how(&outcome, "public.keyed")?, "followed");
        for joined in ["public.ticks", "public.late"] {
            assert_eq!(Followed::how(&outcome, joined)?, "loaded");
        }
        let after = followed.sync_equals(&all)?;
        assert_eq!(Followed::how(&after, "public.late")?, "followed");
    }
    Ok(())
}

#[test]
fn a_followed_table_and_a_refreshed_one_share_a_sync() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "mixed", TICKS)?;
    followed.project.edit("streams.json", |catalog| {
        for entry in catalog["streams"].as_array_mut().into_iter().flatten() {
            if entry["stream"]["name"] == "ticks" {
                entry["stream"]["sync_mode"] = "full_refresh".into();
            }
        }
    })?;
    let all = ["public.keyed", "public.ticks"];
    followed.sync_equals(&all)?;
    followed.psql("DELETE FROM ticks WHERE n < 10; UPDATE keyed SET v = 1 WHERE n = 1")?;
    let second = followed.sync_equals(&all)?;
    assert_eq!(Followed::how(&second, "public.ticks")?, "loaded");
    assert_eq!(Followed::how(&second, "public.keyed")?, "followed");
    Ok(())
}

/// The server takes a transaction that it has not seen begin (`late`) for one that
/// has truncated nothing, and does not know the file that the next one (`over`)
/// writes to: that must not be asked of it.
#[test]
fn a_slot_made_beside_a_truncate_does_not_begin_where_the_server_cannot_decode() -> Result<()> {
    begun_beside_a_truncate(false)
}

#[test]
fn a_slot_that_was_made_by_hand_does_not_begin_there_either() -> Result<()> {
    begun_beside_a_truncate(true)
}

fn begun_beside_a_truncate(by_hand: bool) -> Result<()> {
    let server = Arc::new(follow::start(&Build::newest()?)?);
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'before');
        CREATE TABLE other (id int PRIMARY KEY)";
    let followed = Followed::at(&server, Into::Parquet, "young", sql)?;
    let slot = follow::slot(&followed.project);
    let database = followed.project.database().clone();
    let waits_for = |name: &str| {
        database.psql(&format!(
            "SELECT count(*) > 0 FROM pg_locks l JOIN pg_prepared_xacts x
             ON l.transactionid = x.transaction WHERE x.gid = '{name}' AND NOT l.granted"
        ))
    };
    let is = |sql: &str| -> Result<bool> { Ok(database.psql(sql)? == "t") };
    database.psql("BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'early'")?;
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    let mut by_hand = by_hand.then(|| database.psql_background(&create)).transpose()?;
    let mut sync = match by_hand {
        Some(_) => None,
        None => Some(followed.project.start(&Project::SYNC)?),
    };
    poll("the slot waits for what runs", || Ok(waits_for("early")? == "t"))?;
    database.psql(
        "BEGIN; TRUNCATE t; INSERT INTO t VALUES (2, 'late'); PREPARE TRANSACTION 'late';
         COMMIT PREPARED 'early'",
    )?;
    poll("the slot waits for what ran by then", || Ok(waits_for("late")? == "t"))?;
    let mut over = database.psql_background(
        "BEGIN; INSERT INTO other VALUES (2); INSERT INTO t VALUES (3, 'over');
         PREPARE TRANSACTION 'over'",
    )?;
    let blocked =
        "SELECT count(*) > 0 FROM pg_locks WHERE relation = 't'::regclass AND NOT granted";
    poll("the next one waits for the table", || is(blocked))?;
    database.psql("COMMIT PREPARED 'late'")?;
    poll("it has written", || Ok(!over.running()?))?;
    let made = format!(
        "SELECT count(*) > 0 FROM pg_replication_slots
         WHERE slot_name = '{slot}' AND confirmed_flush_lsn IS NOT NULL"
    );
    poll("the slot is made", || is(&made))?;
    if let Some(by_hand) = &mut by_hand {
        poll("its session has ended", || Ok(!by_hand.running()?))?;
        sync = Some(followed.project.start(&Project::SYNC)?);
        poll("the load waits for it", || Ok(waits_for("over")? == "t"))?;
    }
    database.psql("COMMIT PREPARED 'over'")?;
    if let Some(sync) = sync {
        sync.wait()?.succeeded()?;
    }
    followed.psql("INSERT INTO t VALUES (4, 'after'); DELETE FROM t WHERE id = 2")?;
    followed.sync_equals(&["public.t", "public.other"]).map(drop)
}
