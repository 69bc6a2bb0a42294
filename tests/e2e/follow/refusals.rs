//! What is not possible is said before anything is read.

use anyhow::{Result, ensure};
use tests::follow;
use tests::run::Project;

use super::{Followed, Into};

const SQL: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')";

#[test]
fn cdc_and_strict_cdc_without_a_slot_are_refused_with_every_way_out() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "no_slot", SQL)?;
    let project = &followed.project;
    project.edit("source.json", |source| {
        source.as_object_mut().map(|source| source.remove("update_method"));
    })?;
    let told = project.run(&Project::SYNC)?.failed()?;
    for part in
        ["cdc needs a replication slot", "public.t (cdc)", "\"update_method\"", "full_refresh"]
    {
        ensure!(told.contains(part), "{part}: {told}");
    }
    project.edit("streams.json", |catalog| {
        catalog["streams"][0]["stream"]["sync_mode"] = "strict_cdc".into();
    })?;
    let told = project.run(&Project::SYNC)?.failed()?;
    for part in ["cdc needs a replication slot", "public.t (strict_cdc)", "\"update_method\""] {
        ensure!(told.contains(part), "{part}: {told}");
    }
    Ok(())
}

#[test]
fn a_slot_that_is_gone_for_good_is_never_an_empty_success() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "foreign_slot", SQL)?;
    let slot = follow::slot(&followed.project);
    followed
        .psql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')"))
        .or_else(|_| {
            // Without the contrib module a physical one is as foreign.
            followed.psql(&format!("SELECT pg_create_physical_replication_slot('{slot}')"))
        })?;
    let told = followed.project.run(&Project::SYNC)?.failed()?;
    ensure!(told.contains(&slot), "{told}");
    Ok(())
}
