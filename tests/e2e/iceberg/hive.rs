//! What only a Hive metastore has: locks, and tables that are not Iceberg's.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::iceberg::hive::LOCK_SECONDS;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::warehouse::namespace_of;
use tests::moment;
use tests::proxy::{Fault, Proxy};
use tests::run::{Outcome, Project, poll, signal};
use tests::supervised::free_ports;

use super::Lake;
use crate::bad_input::CHECK;
use crate::plain;

const PAIR: Pair = Pair::new(Catalog::Hive, Store::Local);
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)";
const ADD: &str = "INSERT INTO t SELECT max(id) + 1 FROM t";
/// The call that makes a commit.
pub const ALTER: &str = "alter_table_with_environment_context";

fn refusal(project: &Project, outcome: Outcome, named: &[&str]) -> Result<()> {
    super::refusal(project, outcome, &[], named).map(drop)
}

/// The lake with one table in it, synced.
fn synced(label: &str) -> Result<Lake> {
    let lake = Lake::new(PAIR, label, TABLE)?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    Ok(lake)
}

/// A proxy before the metastore, through which the project goes from here on.
fn proxied(lake: &Lake) -> Result<Proxy> {
    let proxy = Proxy::start(&lake.warehouse.catalog_address().context("an address")?)?;
    lake.project.write("destination.json", &lake.warehouse.destination_at(proxy.address()))?;
    Ok(proxy)
}

/// The locks of the lake's tables.
pub fn locks(lake: &Lake) -> Result<Vec<Value>> {
    let database = namespace_of(&lake.project, "public");
    let request = json!([{"is": "ShowLocksRequest", "dbname": database}]);
    let answer = lake.warehouse.hive("show_locks", request)?;
    Ok(answer["locks"].as_array().cloned().unwrap_or_default())
}

#[test]
fn a_metastore_that_is_not_there_is_named_with_the_way_out_and_the_table_unchanged() -> Result<()> {
    let lake = synced("no_metastore")?;
    let project = &lake.project;
    let before = lake.table("t").describe()?;
    let [port] = free_ports()?;
    let other = tests::iceberg::glue::Glue::shared()?;
    for (uri, named) in [
        (format!("thrift://127.0.0.1:{port}"), "Connection refused"),
        ("thrift://hms.tidewater.invalid".into(), "hms.tidewater.invalid"),
        ("thrift://127.0.0.1:port".into(), "thrift://host:port"),
        // Something answers there, but no metastore.
        (format!("thrift://{}", other.address()), "no answer"),
    ] {
        project.edit("destination.json", |file| file["writer"]["hive_uri"] = uri.clone().into())?;
        for arguments in [&Project::SYNC[..], &CHECK] {
            let outcome = project.run(arguments)?;
            refusal(project, outcome, &[named, "hive_uri"]).with_context(|| uri.clone())?;
        }
    }
    assert_eq!(lake.table("t").describe()?.metadata_location, before.metadata_location);
    Ok(())
}

#[test]
fn a_lock_lives_as_long_as_its_commit_and_keeps_others_out() -> Result<()> {
    let lake = synced("hive_locked")?;
    let project = &lake.project;
    let proxy = proxied(&lake)?;
    project.database().psql(ADD)?;
    let held = proxy.once(ALTER, Fault::Hold);
    let sync = project.start(&Project::SYNC)?;
    held.met()?;
    // Heartbeats keep it beyond the time of a lock without any.
    let began = std::time::Instant::now();
    poll("the lock is older than one without heartbeats becomes", || {
        assert_eq!(locks(&lake)?.len(), 1, "the lock is gone");
        Ok(began.elapsed().as_secs() > 2 * u64::from(LOCK_SECONDS))
    })?;
    held.release();
    sync.wait()?.succeeded()?;
    assert_eq!(locks(&lake)?, Vec::<Value>::new());
    lake.equals_source(&["public.t"])
}

#[test]
fn the_lock_of_a_writer_that_was_killed_ends_and_the_next_run_commits() -> Result<()> {
    let lake = synced("hive_killed")?;
    let project = &lake.project;
    let proxy = proxied(&lake)?;
    project.database().psql(ADD)?;
    let held = proxy.once(ALTER, Fault::Hold);
    let sync = project.start(&Project::SYNC)?;
    held.met()?;
    let (_, writer) = moment::services(&sync)?;
    signal(writer, "KILL")?;
    let told = sync.wait()?.failed()?;
    assert!(told.contains("writer-svc was killed by signal 9"), "{told}");
    // What is held is never to arrive.
    proxy.down(true);
    assert_eq!(locks(&lake)?.len(), 1);
    project.write("destination.json", &lake.warehouse.destination())?;
    project.sync()?;
    assert_eq!(locks(&lake)?, Vec::<Value>::new());
    assert_eq!(lake.table("t").describe()?.snapshots.len(), 2);
    lake.equals_source(&["public.t"])
}

#[test]
fn a_table_of_hive_s_own_is_refused_and_stays() -> Result<()> {
    let lake = Lake::new(PAIR, "hive_table", TABLE)?;
    let (project, warehouse) = (&lake.project, &lake.warehouse);
    project.select(&["public.t"], plain())?;
    let database = namespace_of(project, "public");
    warehouse.hive("create_database", json!([{"is": "Database", "name": database}]))?;
    let storage = json!({
        "is": "StorageDescriptor",
        "cols": [{"is": "FieldSchema", "name": "a", "type": "int"}],
        "serdeInfo": {"is": "SerDeInfo", "serializationLib": "none"},
    });
    let table = json!([{
        "is": "Table", "tableName": "t", "dbName": database, "tableType": "MANAGED_TABLE",
        "sd": storage, "parameters": {"theirs": "kept"},
    }]);
    warehouse.hive("create_table", table)?;
    for arguments in [&Project::SYNC[..], &Project::CLEAR[..]] {
        let outcome = project.run(arguments)?;
        refusal(
            project,
            outcome,
            &["no Iceberg table", "nothing was changed", "destination_table"],
        )?;
    }
    let found = warehouse.hive("get_table", json!([database, "t"]))?;
    assert_eq!(found["parameters"]["theirs"], "kept");
    Ok(())
}

#[test]
fn a_lock_that_another_keeps_is_named_and_the_table_unchanged() -> Result<()> {
    let lake = synced("hive_kept")?;
    let (project, warehouse) = (&lake.project, &lake.warehouse);
    let before = lake.table("t").describe()?;
    project.database().psql(ADD)?;
    let component = json!({
        "is": "LockComponent", "type": 3, "level": 2,
        "dbname": namespace_of(project, "public"), "tablename": "t",
    });
    let request =
        json!([{"is": "LockRequest", "component": [component], "user": "u", "hostname": "h"}]);
    let lock = warehouse.hive("lock", request)?["lockid"].clone();
    let sync = project.start(&Project::SYNC)?;
    let beating = AtomicBool::new(true);
    let beat = || -> Result<()> {
        while beating.load(Ordering::Relaxed) {
            warehouse.hive("heartbeat", json!([{"is": "HeartbeatRequest", "lockid": lock}]))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(beat);
        let outcome = sync.wait();
        beating.store(false, Ordering::Relaxed);
        other.join().expect("the thread does not panic")?;
        refusal(project, outcome?, &["the lock of", "another writer", "SHOW LOCKS"])
    })?;
    assert_eq!(lake.table("t").describe()?.metadata_location, before.metadata_location);
    assert_eq!(locks(&lake)?.len(), 1, "ours is given back");
    warehouse.hive("unlock", json!([{"is": "UnlockRequest", "lockid": lock}]))?;
    project.sync()?;
    lake.equals_source(&["public.t"])
}

#[test]
fn the_table_is_described_as_others_do() -> Result<()> {
    let lake = synced("hive_described")?;
    let database = namespace_of(&lake.project, "public");
    let found = lake.warehouse.hive("get_table", json!([database, "t"]))?;
    let described = lake.table("t").describe()?;
    let parameters = &found["parameters"];
    assert_eq!(found["tableType"], "EXTERNAL_TABLE");
    assert_eq!(parameters["table_type"], "ICEBERG");
    assert_eq!(parameters["EXTERNAL"], "TRUE");
    assert_eq!(parameters["metadata_location"], described.metadata_location);
    assert_eq!(parameters["numRows"], "2");
    let storage = &found["sd"];
    assert_eq!(storage["inputFormat"], "org.apache.iceberg.mr.hive.HiveIcebergInputFormat");
    assert_eq!(storage["cols"][0]["name"], described.schema[0].name);
    assert_eq!(storage["cols"][0]["type"], "string");
    Ok(())
}
