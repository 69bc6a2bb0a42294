//! A log that may not be read for a while has all of its changes afterwards: the slot
//! waits for it, and the others do not.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::follow::slot;
use tests::going::end;
use tests::run::{Project, poll};

use super::apart::{as_reader, read_by_another};
use super::strict::{log_of, mode};
use super::{Followed, Into};

const SQL: &str = "
    CREATE SCHEMA kept;
    CREATE TABLE kept.t (id int PRIMARY KEY, v text);
    CREATE TABLE other (id int PRIMARY KEY, v text);
    INSERT INTO other SELECT i, 'a' FROM generate_series(1, 50) i;
";
const OTHER: [&str; 1] = ["public.other"];
/// What keeps the role from the table, and what ends it.
const TROUBLES: [(&str, &str, &str); 3] = [
    (
        "REVOKE SELECT ON kept.t FROM reader",
        "GRANT SELECT ON kept.t TO reader",
        "may not read kept.t",
    ),
    (
        "REVOKE USAGE ON SCHEMA kept FROM reader",
        "GRANT USAGE ON SCHEMA kept TO reader",
        "kept.t (its schema)",
    ),
    (
        "ALTER TABLE kept.t ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE kept.t DISABLE ROW LEVEL SECURITY",
        "row-level security hides rows of kept.t",
    ),
];

/// `kept.t` is a log, `other` is followed.
fn logged(into: Into, label: &str) -> Result<Followed> {
    let followed = Followed::new(into, label, SQL)?;
    mode(&followed, "strict_cdc")?;
    read_by_another(&followed, "kept.t, other")?;
    as_reader(&followed, "GRANT USAGE ON SCHEMA kept TO reader; GRANT SELECT ON kept.t TO reader")?;
    Ok(followed)
}

/// What the log has, and what it should have.
struct Log<'a> {
    followed: &'a Followed,
    expected: Vec<String>,
}

impl Log<'_> {
    /// Three changes, and some of the other table.
    fn write(&mut self) -> Result<()> {
        let id = self.expected.len();
        self.followed.psql(&format!(
            "INSERT INTO kept.t VALUES ({id}, 'a'); UPDATE kept.t SET v = 'b' WHERE id = {id};
             DELETE FROM kept.t WHERE id = {id};
             UPDATE other SET v = v || '.' WHERE id < 20; DELETE FROM other WHERE id = 30;
             INSERT INTO other VALUES (30, 'again')"
        ))?;
        self.expected.extend([format!("c {id} a"), format!("u {id} b"), format!("d {id} -")]);
        Ok(())
    }

    fn is_whole(&self) -> Result<()> {
        assert_eq!(log_of(self.followed, "kept", "v")?, self.expected);
        self.followed.equals(&OTHER)
    }

    /// The other table is synced, and the sync fails for the log.
    fn waits(&self, told: &[&str]) -> Result<()> {
        let before = confirmed(self.followed)?;
        let outcome = self.followed.project.run(&Project::SYNC)?;
        assert_eq!(Followed::how(&outcome, "public.other")?, "followed");
        let summary: serde_json::Value = serde_json::from_str(outcome.stdout.trim())?;
        assert_eq!(
            (&summary["status"], &summary["problems"][0]["stream"]),
            (&json!("INCOMPLETE"), &json!("kept.t")),
        );
        let said = outcome.failed()?;
        for part in told.iter().chain(&["is held where its log is", "give its log up"]) {
            ensure!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(confirmed(self.followed)?, before, "the slot is held");
        self.followed.equals(&OTHER)
    }
}

fn confirmed(followed: &Followed) -> Result<String> {
    let slot = slot(&followed.project);
    followed.psql(&format!(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'"
    ))
}

#[test]
fn a_log_that_may_not_be_read_for_a_while_has_every_change_once() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = logged(into, "held")?;
        let mut log = Log { followed: &followed, expected: Vec::new() };
        followed.sync_equals(&OTHER)?;
        for (trouble, remedy, what) in TROUBLES {
            log.write()?;
            as_reader(&followed, trouble)?;
            let before = log_of(&followed, "kept", "v").unwrap_or_default();
            for _ in 0..2 {
                log.write()?;
                log.waits(&[what, "which is held for the log of kept.t"])?;
                assert_eq!(log_of(&followed, "kept", "v").unwrap_or_default(), before);
                // The other table is loaded anew meanwhile, or the state is lost.
                followed.psql("VACUUM FULL other")?;
                followed.project.run(&Project::SYNC)?.failed()?;
                followed.equals(&OTHER)?;
                followed.lose_state()?;
            }
            let mut status = Project::SYNC;
            status[0] = "status";
            let said = followed.project.run(&status)?.failed()?;
            ensure!(said.contains("problem: kept.t: ") && said.contains(what), "{said}");
            ensure!(said.contains("is held for the log of kept.t"), "{said}");
            as_reader(&followed, remedy)?;
            log.write()?;
            let end = followed.psql("SELECT pg_current_wal_flush_lsn()")?;
            followed.sync()?;
            log.is_whole()?;
            ensure!(followed.is_confirmed(&end)?, "the slot is held");
            followed.sync()?;
            log.is_whole()?;
        }
    }
    Ok(())
}

#[test]
fn a_log_that_is_given_up_holds_the_slot_no_longer_and_begins_anew() -> Result<()> {
    let followed = logged(Into::Iceberg, "held_given_up")?;
    let mut log = Log { followed: &followed, expected: Vec::new() };
    followed.sync()?;
    log.write()?;
    followed.sync()?;
    as_reader(&followed, TROUBLES[0].0)?;
    log.write()?;
    log.waits(&[])?;
    followed.project.run(&Project::CLEAR)?.succeeded()?;
    let end = followed.psql("SELECT pg_current_wal_flush_lsn()")?;
    let told = followed.project.run(&Project::SYNC)?.failed()?;
    ensure!(told.contains("may not read kept.t") && !told.contains("is held"), "{told}");
    ensure!(followed.is_confirmed(&end)?, "the slot is held");
    as_reader(&followed, TROUBLES[0].1)?;
    followed.sync()?;
    log.expected.clear();
    log.write()?;
    followed.sync()?;
    log.is_whole()
}

#[test]
fn a_sync_that_goes_on_waits_for_a_log_and_follows_the_others() -> Result<()> {
    let followed = logged(Into::Iceberg, "held_going")?;
    let mut log = Log { followed: &followed, expected: Vec::new() };
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    log.write()?;
    followed.caught_up(&mut going)?;
    log.is_whole()?;
    as_reader(&followed, TROUBLES[0].0)?;
    let held = confirmed(&followed)?;
    followed.psql("SELECT pg_logical_emit_message(false, 'test', repeat('x', 3000000))")?;
    for _ in 0..3 {
        log.write()?;
        poll("the others are followed", || {
            ensure!(!going.ended()?, "the sync has ended");
            Ok(followed.equals(&OTHER).is_ok())
        })?;
    }
    let behind =
        followed.psql(&format!("SELECT '{}'::pg_lsn - '{held}'", confirmed(&followed)?))?;
    // It may have moved before it was seen that the privilege is gone.
    ensure!(behind.parse::<u64>()? < 3_000_000, "the slot has moved by {behind}");
    as_reader(&followed, TROUBLES[0].1)?;
    followed.caught_up(&mut going)?;
    log.is_whole()?;
    log.write()?;
    let outcome = end(going)?;
    log.is_whole()?;
    let told = &outcome.stderr;
    assert_eq!(told.matches("warning: kept.t stays as it is").count(), 1, "{told}");
    ensure!(told.contains("is held where its log is"), "{told}");
    Ok(())
}
