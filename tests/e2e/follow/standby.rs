//! A standby that is followed and becomes the primary; standbys that the slot
//! waits for.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::follow;
use tests::postgres::{Database, Options, Server};
use tests::run::Project;
use tests::standby::Standby;
use tests::workload::{SCHEMA, TABLES, Workload};

use super::{Followed, Into};

/// What a standby cannot create.
const PUBLICATIONS: &str = "
    CREATE PUBLICATION tidewater_on_standby FOR TABLE plain, whole, indexed, pair
        WITH (publish_via_partition_root = true);
    CREATE PUBLICATION tidewater_on_standby_insert FOR TABLE keyless
        WITH (publish_via_partition_root = true, publish = 'insert, truncate')";

#[test]
fn a_standby_is_followed_and_so_is_the_primary_that_it_becomes() -> Result<()> {
    let options = Options::default().set("synchronous_commit", "on");
    let primary = Arc::new(Server::start(&options)?);
    let database = Database::on(&primary, "promoted")?;
    database.psql(SCHEMA)?;
    database.psql(PUBLICATIONS)?;
    let standby = Standby::of(&primary)?;
    standby.has_everything()?;
    let name = database.name.clone();
    let project = Project::new(&Database { server: standby.server.clone(), name })?;
    project.edit("source.json", |source| {
        source["default_mode"] = "cdc".into();
        source["update_method"] = json!({"replication_slot": "on_standby"});
    })?;
    project.discover()?;
    let followed = Followed::of(project, Into::Iceberg)?;
    let mut workload = Workload::new(60);
    {
        // A slot on a standby begins at what the primary tells now and then.
        let _telling = database.psql_background("SELECT pg_log_standby_snapshot() \\watch 0.1")?;
        followed.sync_equals(&TABLES)?;
    }
    database.psql(&workload.transactions(20))?;
    standby.has_everything()?;
    let outcome = followed.sync_equals(&TABLES)?;
    assert_eq!(Followed::how(&outcome, "public.plain")?, "followed");

    database.psql(&workload.transactions(20))?;
    standby.has_everything()?;
    standby.promote()?;
    followed.psql(&workload.transactions(20))?;
    let outcome = followed.sync_equals(&TABLES)?;
    assert_eq!(Followed::how(&outcome, "public.plain")?, "followed");
    Ok(())
}

#[test]
fn a_standby_that_the_slot_waits_for_is_named() -> Result<()> {
    let options = Options::default()
        .set("synchronous_commit", "on")
        .set("synchronized_standby_slots", "standby_1");
    let server = Arc::new(Server::start(&options)?);
    let project = follow::project_at(&server, "waits_for_standby", SCHEMA)?;
    project.edit("source.json", |source| source["retry_count"] = 0.into())?;
    let followed = Followed::of(project, Into::Parquet)?;
    followed.psql("SELECT pg_create_physical_replication_slot('standby_1', true)")?;
    followed.psql("UPDATE plain SET v = 'later'")?;
    let told = followed.project.run(&Project::SYNC)?.failed()?;
    for named in ["standby_1", "no standby is connected", "synchronized_standby_slots", "behind"] {
        ensure!(told.contains(named), "{told}");
    }
    followed.psql("ALTER SYSTEM SET synchronized_standby_slots = ''")?;
    followed.psql("SELECT pg_reload_conf()")?;
    followed.sync_equals(&TABLES)?;
    Ok(())
}
