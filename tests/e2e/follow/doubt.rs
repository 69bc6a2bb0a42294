//! Where slot, state and tables do not agree, the tables decide; the answer to
//! doubt is a load, and it is said.

use anyhow::{Context, Result, ensure};
use tests::follow;
use tests::run::Project;

use super::{Followed, Into};

const SQL: &str = "
    CREATE TABLE busy (id int PRIMARY KEY, v text);
    CREATE TABLE idle (id int PRIMARY KEY, v text);
    INSERT INTO busy SELECT i, 'a' FROM generate_series(1, 100) i;
    INSERT INTO idle SELECT i, 'a' FROM generate_series(1, 100) i;
";
const STREAMS: [&str; 2] = ["public.busy", "public.idle"];

fn changed(followed: &Followed, value: &str) -> Result<()> {
    followed.psql(&format!(
        "UPDATE busy SET v = '{value}' WHERE id < 50; DELETE FROM busy WHERE id = 60;
         INSERT INTO busy VALUES (60, '{value}')"
    ))?;
    Ok(())
}

#[test]
fn a_lost_state_is_known_from_beside_the_tables_or_costs_a_load_and_no_row() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::new(into, "lost_state", SQL)?;
        followed.sync()?;
        changed(&followed, "b")?;
        followed.sync_equals(&STREAMS)?;
        followed.lose_state()?;
        changed(&followed, "c")?;
        let outcome = followed.sync_equals(&STREAMS)?;
        for stream in STREAMS {
            assert_eq!(Followed::how(&outcome, stream)?, "followed", "{into:?} {stream}");
        }
        let certificate = followed.certificate()?.context("nothing is kept beside the tables")?;
        followed.lose_state()?;
        std::fs::remove_file(certificate)?;
        changed(&followed, "d")?;
        let outcome = followed.sync_equals(&STREAMS)?;
        // Whether it was followed all the while, nothing says any more.
        assert_eq!(Followed::how(&outcome, "public.idle")?, "loaded");
        ensure!(outcome.stderr.contains("public.idle is loaded anew"), "{}", outcome.stderr);
        changed(&followed, "e")?;
        let outcome = followed.sync_equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.idle")?, "followed");
    }
    Ok(())
}

#[test]
fn what_is_kept_beside_the_tables_does_not_hide_that_the_slot_was_moved() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "kept_and_moved", SQL)?;
    followed.sync()?;
    changed(&followed, "b")?;
    followed.sync_equals(&STREAMS)?;
    changed(&followed, "missed")?;
    followed.psql("UPDATE idle SET v = 'missed'")?;
    let slot = follow::slot(&followed.project);
    followed
        .psql(&format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"))?;
    followed.lose_state()?;
    let outcome = followed.sync_equals(&STREAMS)?;
    for stream in STREAMS {
        assert_eq!(Followed::how(&outcome, stream)?, "loaded", "{stream}");
    }
    Ok(())
}

#[test]
fn what_is_kept_beside_the_tables_goes_with_them() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = Followed::new(into, "kept_and_cleared", SQL)?;
        followed.sync()?;
        changed(&followed, "b")?;
        followed.sync()?;
        ensure!(followed.certificate()?.is_some(), "{into:?}: nothing is kept");
        followed.project.run(&Project::CLEAR)?.succeeded()?;
        ensure!(followed.certificate()?.is_none(), "{into:?}: it is left behind");
        let outcome = followed.sync_equals(&STREAMS)?;
        assert_eq!(Followed::how(&outcome, "public.idle")?, "loaded");
    }
    Ok(())
}

#[test]
fn an_old_state_loses_and_doubles_nothing() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "old_state", SQL)?;
    followed.sync()?;
    let old = followed.project.read("state.json")?;
    changed(&followed, "b")?;
    followed.sync()?;
    changed(&followed, "c")?;
    followed.sync()?;
    followed.project.write("state.json", &old)?;
    changed(&followed, "d")?;
    followed.psql("UPDATE idle SET v = 'late'")?;
    followed.sync_equals(&STREAMS)?;
    followed.sync_equals(&STREAMS)?;
    Ok(())
}

#[test]
fn a_slot_that_was_moved_or_made_anew_costs_a_load() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "moved_slot", SQL)?;
    followed.sync()?;
    changed(&followed, "missed")?;
    let slot = follow::slot(&followed.project);
    followed
        .psql(&format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"))?;
    changed(&followed, "seen")?;
    let outcome = followed.sync_equals(&STREAMS)?;
    assert_eq!(Followed::how(&outcome, "public.busy")?, "loaded");
    ensure!(outcome.stderr.contains("the replication slot is ahead"), "{}", outcome.stderr);

    changed(&followed, "missed again")?;
    followed.psql(&format!("SELECT pg_drop_replication_slot('{slot}')"))?;
    changed(&followed, "before the new slot")?;
    let outcome = followed.sync_equals(&STREAMS)?;
    assert_eq!(Followed::how(&outcome, "public.busy")?, "loaded");
    changed(&followed, "after it")?;
    let outcome = followed.sync_equals(&STREAMS)?;
    assert_eq!(Followed::how(&outcome, "public.busy")?, "followed");
    Ok(())
}

#[test]
fn a_stream_that_was_left_out_for_a_while_is_loaded_anew() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "left_out", SQL)?;
    followed.sync()?;
    followed.select(&["public.idle"])?;
    changed(&followed, "missed")?;
    followed.psql("UPDATE idle SET v = 'b'")?;
    followed.sync_equals(&["public.idle"])?;
    followed.select(&STREAMS)?;
    let outcome = followed.sync_equals(&STREAMS)?;
    assert_eq!(Followed::how(&outcome, "public.busy")?, "loaded");
    assert_eq!(Followed::how(&outcome, "public.idle")?, "followed");
    Ok(())
}
