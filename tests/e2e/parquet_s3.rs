//! Plain Parquet in a bucket: the same promises as in a directory.

mod changes;
mod kill;
mod refusals;
mod uploads;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::bucket::{Place, named, seen};
use tests::gate::{self, Gate};
use tests::iceberg::seaweed;
use tests::moment;
use tests::postgres::Database;
use tests::run::Project;
use tests::services::{Service, sync_through};
use tests::verify;

use crate::shop::STREAMS;
use crate::{fixture, json_rows, plain, project};

/// A project with everything discovered and a place in a bucket.
fn placed(label: &str, sql: &str) -> Result<(Project, Place)> {
    let project = project(label, sql)?;
    let place = Place::new(&project)?;
    Ok((project, place))
}

/// What lies in the bucket, as files, is each stream's relation and nothing else.
fn equals_source(project: &Project, place: &Place, streams: &[&str]) -> Result<()> {
    place.mirror(project)?;
    verify::equals_source(project, streams)?;
    nothing_else(project, place, streams)
}

/// Readers that list see what the record names; nothing is staged or begun.
fn nothing_else(project: &Project, place: &Place, streams: &[&str]) -> Result<()> {
    for stream in streams {
        let (namespace, name) = stream.split_once('.').context("a stream is schema.name")?;
        let table = project.table(namespace, name);
        assert_eq!(named(&table)?, seen(&table), "{stream}");
    }
    assert_eq!(moment::leftovers(project), Vec::<std::path::PathBuf>::new());
    assert_eq!(place.uploads()?, [""; 0]);
    Ok(())
}

#[test]
fn a_full_refresh_of_the_shop_equals_postgresql_again_and_again() -> Result<()> {
    let database = Database::new("shop_s3")?;
    database.psql_file(&fixture("shop.sql"))?;
    let project = Project::new(&database)?;
    project.discover()?;
    let place = Place::new(&project)?;
    project.select(&STREAMS, plain())?;
    project.sync()?;
    equals_source(&project, &place, &STREAMS)?;
    let before = seen(&project.table("public", "orders"));

    database.psql("DELETE FROM page_views; UPDATE products SET title = 'other ' || title")?;
    project.sync()?;
    equals_source(&project, &place, &STREAMS)?;
    let after = seen(&project.table("public", "orders"));
    assert!(before.is_disjoint(&after), "{before:?} then {after:?}");
    // By its address in the bucket, too.
    let table = format!("postgres_{}_public/orders", database.name);
    let rows = database.psql("SELECT count(*) FROM orders")?;
    assert_eq!(place.rows(&table)?.to_string(), rows);
    Ok(())
}

#[test]
fn every_type_arrives_as_postgresql_prints_it() -> Result<()> {
    let database = Database::new("types_s3")?;
    database.psql_file(&fixture("types.sql"))?;
    let project = Project::new(&database)?;
    project.discover()?;
    let place = Place::new(&project)?;
    let streams = ["public.types", "public.generated", "public.zero_rows"];
    project.select(&streams, plain())?;
    project.sync()?;
    equals_source(&project, &place, &streams)
}

/// The documented sample as it stands, but for the store's address: this store
/// is not AWS. The keys are those of writer-svc's environment, as the sample's
/// empty ones say.
#[test]
fn the_documented_sample_works() -> Result<()> {
    let project = project(
        "sample",
        "CREATE TABLE table_1 (id int PRIMARY KEY, name text, price numeric(8,2), at timestamptz);
         INSERT INTO table_1 SELECT i, 'name ' || i, i / 7.0, now() - i * interval '1 minute'
         FROM generate_series(1, 5000) i; INSERT INTO table_1 VALUES (0, NULL, NULL, NULL);",
    )?;
    let place = Place::bucket("olake")?;
    let mut destination: Value = serde_json::from_str(
        r#"{
          "type": "PARQUET",
          "writer": {
            "normalization": false,
            "s3_bucket": "olake",
            "s3_region": "",
            "s3_access_key": "",
            "s3_secret_key": "",
            "s3_path": ""
          }
        }"#,
    )?;
    destination["writer"]["s3_endpoint"] = place.endpoint().into();
    project.write("destination.json", &destination)?;
    let keys = [("AWS_ACCESS_KEY_ID", seaweed::KEY), ("AWS_SECRET_ACCESS_KEY", seaweed::SECRET)];
    let check = ["check", "--destination", "destination.json"];
    project.start_with(&check, &keys)?.wait()?.succeeded()?;
    project.start_with(&Project::SYNC, &keys)?.wait()?.succeeded()?;
    place.mirror(&project)?;
    json_rows::rows_equal(&project, "public.table_1", "public", "table_1")?;
    nothing_else(&project, &place, &["public.table_1"])?;
    assert_eq!(place.rows(&format!("postgres_{}_public/table_1", project.database().name))?, 5001);

    project.edit("destination.json", |file| file["writer"]["normalization"] = json!(true))?;
    project.start_with(&Project::SYNC, &keys)?.wait()?.succeeded()?;
    equals_source(&project, &place, &["public.table_1"])
}

#[test]
fn partitions_are_prefixes() -> Result<()> {
    let (project, place) = placed(
        "partitions_s3",
        "CREATE TABLE t (id int PRIMARY KEY, country text, at date);
         INSERT INTO t SELECT i, (ARRAY['DE', 'a/b c', 'ü', NULL])[1 + i % 4],
             date '2024-01-01' + i % 40 FROM generate_series(1, 4000) i;",
    )?;
    let regex = "/country={country,none,}/{at,unknown,YYYY}-{at,unknown,MM}";
    project.select(&["public.t"], json!({"partition_regex": regex}))?;
    project.sync()?;
    place.mirror(&project)?;
    verify::same_as_source(&project, &["public.t"])?;
    nothing_else(&project, &place, &["public.t"])?;
    let table = project.table("public", "t");
    assert!(table.join("country=none/2024-02").is_dir(), "{:?}", seen(&table));
    // Rows that are gone leave no partition behind.
    project.database().psql("DELETE FROM t WHERE country IS NULL")?;
    project.sync()?;
    place.mirror(&project)?;
    verify::same_as_source(&project, &["public.t"])?;
    nothing_else(&project, &place, &["public.t"])?;
    assert!(!table.join("country=none").exists());
    Ok(())
}

#[test]
fn an_empty_table_is_a_table_and_a_full_one_can_become_empty() -> Result<()> {
    let (project, place) = placed("empty_s3", "CREATE TABLE t (id int PRIMARY KEY, v text)")?;
    project.select(&["public.t"], plain())?;
    for sql in ["INSERT INTO t VALUES (1, 'x')", "TRUNCATE t"] {
        project.sync()?;
        equals_source(&project, &place, &["public.t"])?;
        project.database().psql(sql)?;
    }
    project.sync()?;
    equals_source(&project, &place, &["public.t"])
}

#[test]
fn clear_destination_leaves_nothing_of_the_selected_tables() -> Result<()> {
    let (project, place) = placed(
        "clear_s3",
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);
         CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (2);",
    )?;
    project.sync()?;
    project.select(&["public.a"], plain())?;
    project.run(&Project::CLEAR)?.succeeded()?;
    let left = place.objects()?;
    assert!(!left.is_empty() && left.iter().all(|key| key.contains("/b/")), "{left:?}");
    project.sync()?;
    equals_source(&project, &place, &["public.a", "public.b"])?;
    project.select(&["public.a", "public.b"], plain())?;
    project.run(&Project::CLEAR)?.succeeded()?;
    assert_eq!(place.objects()?, [""; 0]);
    Ok(())
}

#[test]
fn chunks_that_one_writer_staged_are_committed_by_another() -> Result<()> {
    let project = gate::project("resumed_s3")?;
    let place = Place::new(&project)?;
    let source = Service::source(&["--grace", "120"])?;
    let mut first = Service::writer(&[])?;
    let gate = Gate::shut(project.database(), "second")?;
    let mut sync = project.start(&sync_through(Some(&source), &[&first]))?;
    let state = moment::reached(&project, &mut sync, "all but one chunk is staged", |state| {
        moment::all_but_one(state, "a") && moment::committed(state, "b")
    })?;
    let staged = moment::staged(&state, "a");
    sync.kill()?;
    first.kill()?;
    drop(gate);
    let second = Service::writer(&[])?;
    let outcome = project.run(&sync_through(Some(&source), &[&second]))?.succeeded()?;
    assert_eq!(crate::resume::how(&outcome, "public.a")?, "resumed");
    place.mirror(&project)?;
    verify::same_as_source(&project, &gate::STREAMS)?;
    nothing_else(&project, &place, &gate::STREAMS)?;
    let files = seen(&project.table("public", "a"));
    for manifest in staged {
        // …/<load>/<chunk>-<uuid>/manifest.json becomes …/<chunk>-<number>-<uuid>.parquet
        let stage = manifest.parent().and_then(|stage| stage.file_name()).unwrap_or_default();
        let stage = stage.to_string_lossy().into_owned();
        let uuid = stage.split_once('-').map(|(_, uuid)| uuid).context("a stage's name")?;
        assert!(files.iter().any(|file| file.contains(uuid)), "{stage} was staged again");
    }
    Ok(())
}
