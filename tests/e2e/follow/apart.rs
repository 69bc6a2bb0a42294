//! One table's trouble does not hold up the others: it stays as it is, the others
//! are followed, the slot moves on, and when it is well again it has what it missed.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::follow::{self, slot};
use tests::run::{Outcome, Project, poll};

use super::{Followed, Into};

const SQL: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE other (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, 'a' FROM generate_series(1, 50) i;
    INSERT INTO other SELECT i, 'a' FROM generate_series(1, 50) i;
";
const STREAMS: [&str; 2] = ["public.t", "public.other"];
const OTHER: [&str; 1] = ["public.other"];
/// How a table comes into trouble, and out of it; what is said, and what to do.
const TROUBLES: [(&str, &str, &str, &str); 4] = [
    (
        "DROP TABLE t",
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'anew')",
        "public.t no longer exists",
        "run discover",
    ),
    (
        "ALTER TABLE t RENAME TO away",
        "ALTER TABLE away RENAME TO t",
        "public.t no longer exists",
        "selected_streams",
    ),
    (
        "REVOKE SELECT ON t FROM reader",
        "GRANT SELECT ON t TO reader",
        "may not read public.t",
        "GRANT SELECT",
    ),
    (
        "ALTER PUBLICATION theirs DROP TABLE t",
        "ALTER PUBLICATION theirs ADD TABLE t",
        "the publication \"theirs\" lacks public.t",
        "ADD TABLE",
    ),
];

fn of_reader(into: Into, label: &str) -> Result<Followed> {
    let followed = Followed::new(into, label, SQL)?;
    read_by_another(&followed, "t, other")?;
    Ok(followed)
}

/// Read by a role of its own, through a publication of the user's.
pub(super) fn read_by_another(followed: &Followed, tables: &str) -> Result<()> {
    let reader = format!("reader_{}", slot(&followed.project));
    followed.psql(&format!(
        "DROP ROLE IF EXISTS {reader}; CREATE ROLE {reader} LOGIN REPLICATION PASSWORD 'reader';
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader};
         CREATE PUBLICATION theirs FOR TABLE {tables};
         CREATE PUBLICATION theirs_insert WITH (publish = 'insert, truncate')"
    ))?;
    followed.project.edit("source.json", |source| {
        source["username"] = reader.clone().into();
        source["password"] = "reader".into();
        source["update_method"]["publication"] = "theirs".into();
    })
}

pub(super) fn as_reader(followed: &Followed, sql: &str) -> Result<()> {
    let reader = format!("reader_{}", slot(&followed.project));
    followed.psql(&sql.replace("reader", &reader))?;
    Ok(())
}

fn change(followed: &Followed, table: &str) -> Result<()> {
    followed.psql(&format!(
        "UPDATE {table} SET v = v || '.' WHERE id < 20; DELETE FROM {table} WHERE id = 30;
         INSERT INTO {table} VALUES (30, 'again')"
    ))?;
    Ok(())
}

/// What is said by a sync in which `t` is in trouble; the others are followed.
fn others_only(followed: &Followed, told: &[&str]) -> Result<Outcome> {
    let end = followed.psql("SELECT pg_current_wal_flush_lsn()")?;
    let outcome = followed.project.run(&Project::SYNC)?;
    outcome.clone().failed()?;
    for part in told {
        ensure!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
    assert_eq!(Followed::how(&outcome, "public.other")?, "followed");
    let summary: serde_json::Value = serde_json::from_str(outcome.stdout.trim())?;
    assert_eq!(
        (&summary["status"], &summary["problems"][0]["stream"]),
        (&json!("INCOMPLETE"), &json!("public.t")),
        "{summary}"
    );
    followed.equals(&OTHER)?;
    ensure!(followed.is_confirmed(&end)?, "the slot is held");
    Ok(outcome)
}

#[test]
fn a_table_in_trouble_is_passed_by_and_loaded_when_it_is_well_again() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = of_reader(into, "apart")?;
        followed.sync_equals(&STREAMS)?;
        for (trouble, remedy, what, to_do) in TROUBLES {
            change(&followed, "t")?;
            as_reader(&followed, trouble)?;
            // Whoever has it, it changes meanwhile.
            let name = if trouble.contains("RENAME") { "away" } else { "t" };
            for _ in 0..2 {
                if !trouble.starts_with("DROP") {
                    change(&followed, name)?;
                }
                change(&followed, "other")?;
                others_only(&followed, &[what, to_do])?;
            }
            let mut status = Project::SYNC;
            status[0] = "status";
            let said = followed.project.run(&status)?.failed()?;
            ensure!(said.contains("problem: public.t: "), "{trouble}: {said}");
            ensure!(!said.contains("problem: public.other"), "{trouble}: {said}");
            as_reader(&followed, remedy)?;
            as_reader(&followed, "GRANT SELECT ON t TO reader")?;
            if trouble.starts_with("DROP") {
                followed.psql("ALTER PUBLICATION theirs ADD TABLE t")?;
            }
            let outcome = followed.sync_equals(&STREAMS).map_err(|e| e.context(trouble))?;
            assert_eq!(Followed::how(&outcome, "public.t")?, "loaded", "{trouble}");
            assert_eq!(Followed::how(&outcome, "public.other")?, "followed", "{trouble}");
        }
    }
    Ok(())
}

#[test]
fn what_was_done_while_a_table_was_not_published_is_loaded() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "apart_published", SQL)?;
    let publication = format!("tidewater_{}", slot(&followed.project));
    let out = format!("ALTER PUBLICATION {publication} DROP TABLE t");
    let back = format!("ALTER PUBLICATION {publication} ADD TABLE t");
    followed.sync_equals(&STREAMS)?;
    // Nothing is to be seen of it afterwards but when it was put in; ours is put in
    // by the sync.
    for back in [back.as_str(), ""] {
        followed.psql(&out)?;
        followed.psql("UPDATE t SET v = 'unseen' WHERE id < 10")?;
        followed.psql(back)?;
        followed.psql("UPDATE t SET v = 'seen' WHERE id = 5")?;
        change(&followed, "other")?;
        let outcome = followed.sync_equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.t")?, "loaded", "{back}");
        assert_eq!(Followed::how(&outcome, "public.other")?, "followed", "{back}");
        change(&followed, "t")?;
        let outcome = followed.sync_equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.t")?, "followed", "{back}");
    }
    // The same of every table of a publication that did not publish all for a while.
    for publish in ["insert", "insert, update, delete, truncate"] {
        followed.psql(&format!("ALTER PUBLICATION {publication} SET (publish = '{publish}')"))?;
        followed.psql("UPDATE t SET v = 'unseen too' WHERE id < 10")?;
    }
    followed.sync_equals(&STREAMS)?;
    Ok(())
}

#[test]
fn a_sync_that_goes_on_passes_a_table_in_trouble_by_and_says_so_once() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "apart_going", SQL)?;
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    change(&followed, "t")?;
    followed.psql("DROP TABLE t")?;
    for _ in 0..3 {
        change(&followed, "other")?;
        let end = followed.psql("SELECT pg_current_wal_flush_lsn()")?;
        poll("the slot has moved there", || {
            ensure!(!going.ended()?, "the sync has ended");
            followed.is_confirmed(&end)
        })?;
        followed.equals(&OTHER)?;
    }
    going.signal("TERM")?;
    let outcome = going.wait()?;
    assert_eq!(Followed::how(&outcome, "public.other")?, "loaded");
    let told = outcome.failed()?;
    assert_eq!(told.matches("warning: public.t stays as it is").count(), 1, "{told}");
    ensure!(told.contains("run discover"), "{told}");

    // It comes back while the others are followed.
    let mut going = followed.go_on()?;
    change(&followed, "other")?;
    followed.psql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'b')")?;
    followed.caught_up(&mut going)?;
    followed.equals(&STREAMS)?;
    tests::going::end(going)?;
    Ok(())
}

#[test]
fn followed_tables_and_those_that_are_only_read_do_not_hold_up_each_other() -> Result<()> {
    let followed = of_reader(Into::Iceberg, "apart_read")?;
    followed.project.edit("streams.json", |catalog| {
        for entry in catalog["streams"].as_array_mut().into_iter().flatten() {
            if entry["stream"]["name"] == "t" {
                entry["stream"]["sync_mode"] = "full_refresh".into();
            }
        }
    })?;
    followed.sync_equals(&STREAMS)?;
    for (trouble, remedy, what, _) in TROUBLES.into_iter().skip(1).take(2) {
        as_reader(&followed, trouble)?;
        change(&followed, "other")?;
        others_only(&followed, &[what])?;
        as_reader(&followed, remedy)?;
        let outcome = followed.sync_equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.other")?, "followed");
    }
    // The only one that is followed may not be read; it is followed on afterwards.
    as_reader(&followed, "REVOKE SELECT ON other FROM reader")?;
    for _ in 0..2 {
        change(&followed, "other")?;
        change(&followed, "t")?;
        let told = followed.project.run(&Project::SYNC)?.failed()?;
        ensure!(told.contains("may not read public.other"), "{told}");
        followed.equals(&["public.t"])?;
    }
    as_reader(&followed, "GRANT SELECT ON other TO reader")?;
    let outcome = followed.sync_equals(&STREAMS)?;
    assert_eq!(Followed::how(&outcome, "public.other")?, "followed");
    Ok(())
}

#[test]
fn a_log_that_was_not_published_for_a_while_has_a_hole_and_holds_no_other() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "apart_log", SQL)?;
    followed.project.edit("streams.json", |catalog| {
        for entry in catalog["streams"].as_array_mut().into_iter().flatten() {
            if entry["stream"]["name"] == "t" {
                entry["stream"]["sync_mode"] = "strict_cdc".into();
            }
        }
    })?;
    followed.sync()?;
    change(&followed, "t")?;
    followed.sync()?;
    let publication = format!("tidewater_{}", slot(&followed.project));
    followed.psql(&format!("ALTER PUBLICATION {publication} DROP TABLE t"))?;
    followed.psql("UPDATE t SET v = 'unseen'")?;
    followed.psql(&format!("ALTER PUBLICATION {publication} ADD TABLE t"))?;
    for _ in 0..2 {
        change(&followed, "other")?;
        others_only(&followed, &["hole", "clear-destination for this stream"])?;
    }
    followed.project.run(&Project::CLEAR)?.succeeded()?;
    followed.sync_equals(&OTHER)?;
    change(&followed, "t")?;
    let outcome = followed.sync_equals(&OTHER)?;
    assert_eq!(follow::outcome(&outcome.stdout, "public.t")?["changes"], 21);
    Ok(())
}
