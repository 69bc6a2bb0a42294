//! A standby that is followed and becomes the primary; standbys that the slot
//! waits for.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::follow;
use tests::going::end;
use tests::postgres::{Background, Database, Options, Server};
use tests::run::{Project, Running, poll};
use tests::standby::Standby;
use tests::workload::{SCHEMA, TABLES, Workload};

use super::{Followed, Into};

/// A standby, and what it replicates.
struct Pair {
    /// Of the primary.
    database: Database,
    standby: Standby,
    /// The standby's tables.
    followed: Followed,
}

impl Pair {
    fn start(label: &str) -> Result<Pair> {
        let options = Options::default().set("synchronous_commit", "on");
        let primary = Arc::new(Server::start(&options)?);
        let database = Database::on(&primary, label)?;
        let name = database.name.clone();
        database.psql(SCHEMA)?;
        // What a standby cannot create.
        database.psql(&format!(
            "CREATE PUBLICATION tidewater_{name} FOR TABLE plain, whole, indexed, pair
                 WITH (publish_via_partition_root = true);
             CREATE PUBLICATION tidewater_{name}_insert FOR TABLE keyless
                 WITH (publish_via_partition_root = true, publish = 'insert, truncate')"
        ))?;
        let standby = Standby::of(&primary)?;
        standby.has_everything()?;
        let project = Project::new(&Database { server: standby.server.clone(), name })?;
        project.edit("source.json", |source| {
            source["default_mode"] = "cdc".into();
            source["update_method"] = json!({"replication_slot": follow::slot(&project)});
        })?;
        project.discover()?;
        Ok(Pair { database, standby, followed: Followed::of(project, Into::Iceberg)? })
    }

    /// A slot on a standby begins at what the primary tells now and then.
    fn telling(&self) -> Result<Background> {
        self.database.psql_background("SELECT pg_log_standby_snapshot() \\watch 0.1")
    }

    /// Waits until what the primary has now is acknowledged at the standby.
    fn reached(&self, going: &mut Running) -> Result<()> {
        let end = self.database.psql("SELECT pg_current_wal_flush_lsn()")?;
        let reached = poll("the standby's slot has moved there", || {
            ensure!(!going.ended()?, "the sync has ended");
            self.followed.is_confirmed(&end)
        });
        reached.or_else(|error| Err(error.context(going.stop()?)))
    }

    /// Writes at the primary.
    fn write(&self, workload: &mut Workload) -> Result<()> {
        self.database.psql(&workload.transactions(20))?;
        self.standby.has_everything()
    }
}

#[test]
fn a_standby_is_followed_and_so_is_the_primary_that_it_becomes() -> Result<()> {
    let pair = Pair::start("promoted")?;
    let followed = &pair.followed;
    let mut workload = Workload::new(60);
    {
        let _telling = pair.telling()?;
        followed.sync_equals(&TABLES)?;
    }
    pair.write(&mut workload)?;
    let outcome = followed.sync_equals(&TABLES)?;
    assert_eq!(Followed::how(&outcome, "public.plain")?, "followed");

    pair.write(&mut workload)?;
    pair.standby.promote()?;
    followed.psql(&workload.transactions(20))?;
    let outcome = followed.sync_equals(&TABLES)?;
    assert_eq!(Followed::how(&outcome, "public.plain")?, "followed");
    Ok(())
}

#[test]
fn a_sync_that_goes_on_follows_the_primary_that_its_standby_becomes() -> Result<()> {
    let pair = Pair::start("promoted_going")?;
    let followed = &pair.followed;
    let mut workload = Workload::new(61);
    let mut going = {
        let _telling = pair.telling()?;
        let mut going = followed.go_on()?;
        pair.reached(&mut going)?;
        going
    };
    pair.write(&mut workload)?;
    pair.reached(&mut going)?;
    followed.equals(&TABLES)?;

    pair.write(&mut workload)?;
    pair.standby.promote()?;
    followed.psql(&workload.transactions(20))?;
    followed.caught_up(&mut going)?;
    followed.equals(&TABLES)?;
    let outcome = end(going)?;
    ensure!(!outcome.stderr.contains("loaded anew"), "{}", outcome.stderr);
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
