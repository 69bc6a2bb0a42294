//! What fails while a sync goes on comes back, or the error is clear; nothing is
//! lost or doubled.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tests::follow;
use tests::going::end;
use tests::iceberg::front::Front;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::seaweed::Seaweed;
use tests::iceberg::warehouse::Warehouse;
use tests::moment;
use tests::postgres::{Options, Server};
use tests::proxy::Proxy;
use tests::run::{Outcome, Running, poll, signal};
use tests::services::{Service, sync_through};
use tests::small_disk::SmallDisk;
use tests::workload::{SCHEMA, TABLES, Workload};

use super::{Followed, Into};

/// A server that may be hurt.
fn own_server(options: Options) -> Result<Arc<Server>> {
    Ok(Arc::new(Server::start(&options.set("synchronous_commit", "on"))?))
}

fn on_a_server(into: Into, label: &str, options: Options) -> Result<Followed> {
    Followed::at(&own_server(options)?, into, label, SCHEMA)
}

/// Rounds of transactions, in each of which something is hurt; the tables are
/// what the source is after each.
fn through(
    followed: &Followed,
    mut going: Running,
    seed: u64,
    mut hurt: impl FnMut(&Running) -> Result<()>,
) -> Result<Outcome> {
    let mut workload = Workload::new(seed);
    followed.caught_up(&mut going)?;
    for round in 0..2 {
        let database = followed.project.database();
        let mut writer = database.psql_background(&workload.transactions(60))?;
        hurt(&going).with_context(|| format!("round {round}"))?;
        poll("the writer has ended", || Ok(!writer.running()?))?;
        poll("the server answers", || Ok(followed.psql("SELECT 1").is_ok()))?;
        followed.psql(&workload.transactions(10))?;
        followed.caught_up(&mut going).with_context(|| format!("round {round}"))?;
        followed.equals(&TABLES).with_context(|| format!("round {round}"))?;
    }
    followed.psql(&workload.transactions(10))?;
    let outcome = end(going)?;
    followed.equals(&TABLES)?;
    Ok(outcome)
}

#[test]
fn a_server_that_crashes_and_recovers_costs_a_wait() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let followed = on_a_server(into, "crashes", Options::default())?;
        let going = followed.go_on()?;
        // Between two looks at the log it may pass unnoticed.
        through(&followed, going, 41, |_| {
            // The postmaster ends every session, as an immediate shutdown does,
            // and recovers from the log.
            let pid = followed
                .psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")?;
            signal(pid.parse()?, "KILL")
        })?;
    }
    Ok(())
}

#[test]
fn sessions_that_are_terminated_cost_an_attempt() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "terminated", SCHEMA)?;
    let going = followed.go_on()?;
    let outcome = through(&followed, going, 42, |_| {
        for _ in 0..3 {
            poll("a session of ours was terminated", || {
                let hit = followed.psql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name LIKE 'tidewater%'",
                )?;
                Ok(!hit.is_empty())
            })?;
        }
        Ok(())
    })?;
    ensure!(outcome.stderr.contains("trying again in"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_network_that_is_gone_for_a_while_is_waited_for() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "network", SCHEMA)?;
    let port = followed.project.database().server.port();
    let proxy = Proxy::start(&format!("127.0.0.1:{port}"))?;
    let (_, port) = proxy.address().rsplit_once(':').context("a port")?;
    followed
        .project
        .edit("source.json", |source| source["port"] = json!(port.parse::<u16>().ok()))?;
    let going = followed.go_on()?;
    let outcome = through(&followed, going, 43, |_| proxy.down_for(6))?;
    ensure!(outcome.stderr.contains("trying again in"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn services_that_are_killed_are_started_again() -> Result<()> {
    for (into, seed) in [(Into::Parquet, 44), (Into::Iceberg, 45)] {
        let followed = Followed::new(into, "killed_services", SCHEMA)?;
        let going = followed.go_on()?;
        let mut source_next = true;
        let outcome = through(&followed, going, seed, |going| {
            let mut services = None;
            poll("the services are there", || {
                services = moment::services(going).ok();
                Ok(services.is_some())
            })?;
            let (source, writer) = services.context("two services")?;
            let victim = if source_next { source } else { writer };
            source_next = !source_next;
            signal(victim, "KILL")?;
            moment::gone(&[victim])
        })?;
        for name in ["source-svc was killed by signal 9", "writer-svc was killed by signal 9"] {
            ensure!(outcome.stderr.contains(name), "{}", outcome.stderr);
        }
    }
    Ok(())
}

/// Hurts something of a running sync.
type Hurt<'a> = dyn FnMut(&Running) -> Result<()> + 'a;

/// What is hurt while nothing has worked yet: a transaction that is open keeps the
/// slot from being made.
fn in_the_first_moment(
    followed: &Followed,
    mut going: Running,
    hurt: &mut [&mut Hurt<'_>],
) -> Result<Outcome> {
    for hurt in hurt {
        let mut process = None;
        poll("another attempt waits for the slot", || {
            ensure!(!going.ended()?, "the sync has ended");
            let waits = followed.psql(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'tidewater capture'
                 AND query LIKE '%create_logical_replication_slot%' AND state = 'active'",
            )?;
            process = Some(waits).filter(|pid| !pid.is_empty());
            Ok(process.is_some())
        })
        .or_else(|error| Err(error.context(going.stop()?)))?;
        hurt(&going)?;
        // Its session may outlive it.
        followed.psql(&format!("SELECT pg_terminate_backend({})", process.unwrap_or_default()))?;
    }
    followed.psql("ROLLBACK PREPARED 'open'")?;
    followed.caught_up(&mut going)?;
    let outcome = end(going)?;
    followed.equals(&TABLES)?;
    ensure!(outcome.stderr.contains("trying again in"), "{}", outcome.stderr);
    Ok(outcome)
}

#[test]
fn services_that_are_killed_in_the_first_moment_do_not_end_it() -> Result<()> {
    let server = own_server(Options::default().set("max_prepared_transactions", 2))?;
    let open = "BEGIN; INSERT INTO keyless VALUES (1, 'never'); PREPARE TRANSACTION 'open'";
    // Of a deployment.
    let followed = Followed::at(&server, Into::Parquet, "first_deployed", SCHEMA)?;
    let (mut source, mut writer) = (Service::source(&[])?, Service::writer(&[])?);
    followed.psql(open)?;
    let going = followed.go_on_through(&sync_through(Some(&source), &[&writer]), 1)?;
    in_the_first_moment(
        &followed,
        going,
        &mut [
            &mut |_| {
                source.kill()?;
                source.restart()
            },
            &mut |_| {
                writer.kill()?;
                writer.restart()
            },
        ],
    )?;
    // Our own.
    let followed = Followed::at(&server, Into::Parquet, "first_own", SCHEMA)?;
    followed.psql(open)?;
    let kill = |victim: fn((u32, u32)) -> u32| {
        move |going: &Running| {
            let victim = victim(moment::services(going)?);
            signal(victim, "KILL")?;
            moment::gone(&[victim])
        }
    };
    let (mut source, mut writer) = (kill(|(source, _)| source), kill(|(_, writer)| writer));
    let outcome =
        in_the_first_moment(&followed, followed.go_on()?, &mut [&mut source, &mut writer])?;
    for name in ["source-svc was killed by signal 9", "writer-svc was killed by signal 9"] {
        ensure!(outcome.stderr.contains(name), "{}", outcome.stderr);
    }
    Ok(())
}

#[test]
fn services_of_a_deployment_may_restart() -> Result<()> {
    let followed = Followed::new(Into::Iceberg, "restarted_services", SCHEMA)?;
    let (source, writer) = (Service::source(&[])?, Service::writer(&[])?);
    let going = followed.go_on_through(&sync_through(Some(&source), &[&writer]), 1)?;
    let mut services = [source, writer].into_iter();
    let mut kept = Vec::new();
    through(&followed, going, 46, |_| {
        let mut service = services.next().context("a service for each round")?;
        service.kill()?;
        service.restart()?;
        kept.push(service);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_catalog_that_is_gone_for_a_while_is_waited_for() -> Result<()> {
    let project = follow::project("catalog_gone", SCHEMA)?;
    let lake = Warehouse::start(Pair::new(Catalog::Postgres, Store::Local))?;
    let proxy = Proxy::start(&lake.catalog_address().context("an address")?)?;
    project.write("destination.json", &lake.destination_at(proxy.address()))?;
    let followed = Followed { project, lake: Some(lake), soft: false };
    let going = followed.go_on()?;
    let outcome = through(&followed, going, 47, |_| proxy.down_for(6))?;
    ensure!(outcome.stderr.contains("trying again in"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_short_wal_sender_timeout_ends_nothing() -> Result<()> {
    let options = Options::default().set("wal_sender_timeout", "50ms");
    let followed = on_a_server(Into::Iceberg, "sender_timeout", options)?;
    let going = followed.go_on()?;
    let outcome = through(&followed, going, 48, |_| Ok(()))?;
    ensure!(!outcome.stderr.contains("trying again in"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_catalog_that_answers_by_503_is_waited_for() -> Result<()> {
    let project = follow::project("catalog_503", SCHEMA)?;
    let lake = Warehouse::start(Pair::new(Catalog::Rest, Store::S3))?;
    let front = Front::start(&Seaweed::shared()?, json!({}))?;
    let mut destination = lake.destination();
    destination["writer"]["rest_catalog_url"] = format!("http://{}", front.address()).into();
    project.write("destination.json", &destination)?;
    let followed = Followed { project, lake: Some(lake), soft: false };
    let going = followed.go_on()?;
    let outcome = through(&followed, going, 49, |_| {
        let before = front.told()?.broken;
        front.set(json!({"broken": 20}))?;
        poll("the catalog has answered so", || Ok(front.told()?.broken >= before + 20))
    })?;
    ensure!(outcome.stderr.contains("trying again in"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_full_disk_ends_it_and_it_goes_on_when_there_is_room() -> Result<()> {
    let followed = Followed::new(Into::Parquet, "full_disk", SCHEMA)?;
    let disk = SmallDisk::mount(&followed.project.output(), "size=1m")?;
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    followed.psql(
        "INSERT INTO plain SELECT i, md5(i::text) || md5('a' || i), i, 1, now()
         FROM generate_series(1000, 60000) i",
    )?;
    let told = going.wait()?.failed()?;
    for named in ["No space left", "free space"] {
        ensure!(told.contains(named), "{told}");
    }
    disk.remount("size=64m")?;
    followed.psql("UPDATE plain SET v = 'later' WHERE id < 2000")?;
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    end(going)?;
    followed.equals(&TABLES)
}

#[test]
fn a_sync_that_goes_on_may_be_killed_at_any_moment() -> Result<()> {
    for (into, seed) in [(Into::Parquet, 50), (Into::Iceberg, 51)] {
        let followed = Followed::new(into, "killed_goes_on", SCHEMA)?;
        let mut random = StdRng::seed_from_u64(seed);
        let mut workload = Workload::new(seed);
        let mut going = followed.go_on()?;
        followed.caught_up(&mut going)?;
        for round in 0..4 {
            let end = followed.psql("SELECT pg_current_wal_flush_lsn()")?;
            followed.psql(&workload.transactions(60))?;
            // Somewhere between the first of it and its confirmation.
            let looks = random.random_range(0..300);
            let mut seen = 0;
            poll("its turn has come", || {
                seen += 1;
                Ok(seen > looks || followed.is_confirmed(&end)?)
            })?;
            let services = moment::services(&going);
            going.kill()?;
            if let Ok((source, writer)) = services {
                moment::gone(&[source, writer])?;
            }
            followed.psql(&workload.transactions(5))?;
            going = followed.go_on()?;
            followed.caught_up(&mut going).with_context(|| format!("round {round}"))?;
            followed.equals(&TABLES).with_context(|| format!("round {round}"))?;
        }
        end(going)?;
        followed.equals(&TABLES)?;
    }
    Ok(())
}

#[test]
fn a_lost_slot_ends_it_with_what_to_do() -> Result<()> {
    let options = Options::default()
        .set("max_slot_wal_keep_size", "32MB")
        .set("min_wal_size", "32MB")
        .set("max_wal_size", "32MB");
    let followed = on_a_server(Into::Iceberg, "slot_lost_goes_on", options)?;
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    let pids = moment::services(&going)?;
    // It does not read for a while.
    for pid in [going.pid(), pids.0] {
        signal(pid, "STOP")?;
    }
    let lost = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE NOT temporary";
    poll("the slot is lost", || {
        followed.psql("CREATE TABLE IF NOT EXISTS noise (v text); TRUNCATE noise")?;
        followed.psql(
            "INSERT INTO noise SELECT repeat('x', 500) FROM generate_series(1, 20000);
             SELECT pg_switch_wal(); CHECKPOINT",
        )?;
        Ok(followed.psql(lost)? == "t")
    })?;
    for pid in [going.pid(), pids.0] {
        signal(pid, "CONT")?;
    }
    // Whatever it was about when it was stopped.
    going.wait()?.failed()?;
    let told = followed.go_on()?.wait()?.failed()?;
    ensure!(told.contains("is lost") && told.contains("pg_drop_replication_slot"), "{told}");
    let slot = follow::slot(&followed.project);
    followed.psql(&format!("SELECT pg_drop_replication_slot('{slot}')"))?;
    followed.lose_state()?;
    let mut going = followed.go_on()?;
    followed.caught_up(&mut going)?;
    end(going)?;
    followed.equals(&TABLES)
}
