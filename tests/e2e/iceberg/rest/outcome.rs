//! A catalog that refuses, is away, or loses requests and answers.

use std::net::TcpListener;

use anyhow::{Context, Result};
use serde_json::json;
use tests::compare::{Cell, Rows};
use tests::iceberg::engine::Engine;
use tests::iceberg::warehouse::namespace_of;
use tests::proxy::{Fault, Proxy};
use tests::run::Project;

use super::{ADD, Lake, WRONG, fronted, lake, refusal, set, synced};
use crate::bad_input::{CHECK, shows_no_secret};

/// A proxy before the catalog.
fn proxied(lake: &Lake) -> Result<Proxy> {
    let proxy = Proxy::start(&lake.warehouse.catalog_address().context("an address")?)?;
    lake.project.write("destination.json", &lake.warehouse.destination_through(&proxy))?;
    Ok(proxy)
}

/// How the request for a commit to the table begins.
fn commit(lake: &Lake) -> String {
    let namespace = namespace_of(&lake.project, "public");
    format!("POST /v1/warehouse/namespaces/{namespace}/tables/t HTTP")
}

#[test]
fn what_is_configured_wrong_is_named_with_the_way_out_and_the_table_unchanged() -> Result<()> {
    let lake = synced("wrong")?;
    let project = &lake.project;
    let before = lake.table("t").describe()?;
    let right = project.read("destination.json")?;
    let url = right["writer"]["rest_catalog_url"].as_str().context("a URL")?;
    // Bound and closed again: nobody listens there now.
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let away = format!("http://{closed}");
    let [path, tokens] = [format!("{url}/nothing/here"), format!("{url}/nothing/here")];
    for (settings, named) in [
        (json!({"credential": format!("tidewater:{WRONG}")}), [url, "no token from", "credential"]),
        (json!({"credential": "nobody:x"}), [url, "no token from", "credential"]),
        (json!({"oauth2_uri": tokens}), [url, "no token from", "oauth2_uri"]),
        (json!({"credential": null, "token": WRONG}), [url, "401", "correct token"]),
        (json!({"credential": null}), [url, "403", "set token or credential"]),
        (json!({"rest_catalog_url": away}), [closed.as_str(), "no connection", "rest_catalog_url"]),
        (json!({"rest_catalog_url": path}), ["nothing/here", "404", "rest_catalog_url"]),
        (json!({"iceberg_s3_path": "s3://nonesuch"}), ["nonesuch", "404", "iceberg_s3_path"]),
    ] {
        project.write("destination.json", &right)?;
        set(project, settings.clone())?;
        let trace = [("TIDEWATER_LOG", "trace")];
        let traced = project.start_with(&Project::SYNC, &trace)?.wait()?;
        shows_no_secret(project, &traced, &[WRONG, tests::iceberg::seaweed::SECRET])?;
        for arguments in [&Project::SYNC[..], &CHECK] {
            let outcome = project.run(arguments)?;
            refusal(project, outcome, &named).with_context(|| settings.to_string())?;
        }
    }
    assert_eq!(lake.table("t").describe()?.metadata_location, before.metadata_location);
    project.write("destination.json", &right)?;
    project.sync()?;
    lake.equals_source(&["public.t"])
}

#[test]
fn a_warehouse_that_the_catalog_does_not_know_is_named() -> Result<()> {
    let lake = lake("nowhere")?;
    let _front = fronted(&lake, json!({}))?;
    set(&lake.project, json!({"iceberg_s3_path": "nowhere"}))?;
    for arguments in [&Project::SYNC[..], &CHECK] {
        let outcome = lake.project.run(arguments)?;
        refusal(&lake.project, outcome, &["no warehouse nowhere", "iceberg_s3_path"])?;
    }
    Ok(())
}

#[test]
fn a_namespace_that_the_catalog_refuses_is_named_before_anything_is_read() -> Result<()> {
    let lake = lake("refused_namespace")?;
    // This catalog takes none that ends so.
    set(&lake.project, json!({"iceberg_db": "ends_so_"}))?;
    let outcome = lake.project.run(&Project::SYNC)?;
    refusal(&lake.project, outcome, &["ends_so_", "400", "must end with", "iceberg_db"])
}

#[test]
fn a_catalog_that_never_answers_is_an_error_in_time() -> Result<()> {
    let lake = synced("silent")?;
    let before = lake.table("t").describe()?;
    // Accepts (the backlog does) and stays silent.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let address = silent.local_addr()?.to_string();
    set(&lake.project, json!({"rest_catalog_url": format!("http://{address}")}))?;
    let outcome = lake.project.run(&Project::SYNC)?;
    refusal(&lake.project, outcome, &[&address, "no answer", "rest_catalog_url"])?;
    assert_eq!(lake.table("t").describe()?.metadata_location, before.metadata_location);
    Ok(())
}

#[test]
fn a_swap_without_an_answer_is_made_once() -> Result<()> {
    let lake = lake("unanswered")?;
    let project = &lake.project;
    let proxy = proxied(&lake)?;
    let table = lake.table("t");
    let faults = [Fault::LoseAnswer, Fault::LoseAnswer, Fault::LoseRequest];
    for (snapshots, fault) in (1..).zip(faults) {
        project.database().psql(ADD)?;
        let lost = proxy.once(&commit(&lake), fault);
        project.sync()?;
        assert!(lost.is_met(), "{snapshots} {fault:?}");
        assert_eq!(table.describe()?.snapshots.len(), snapshots, "{fault:?}");
        lake.equals_source(&["public.t"])?;
    }
    Ok(())
}

#[test]
fn a_catalog_that_vanishes_in_a_commit_is_named_and_the_next_run_makes_it_once() -> Result<()> {
    let lake = synced("vanished")?;
    let project = &lake.project;
    let before = lake.table("t").describe()?;
    let proxy = proxied(&lake)?;
    project.database().psql(ADD)?;
    let held = proxy.once(&commit(&lake), Fault::Hold);
    let sync = project.start(&Project::SYNC)?;
    held.met()?;
    proxy.down(true);
    let outcome = sync.wait()?;
    refusal(project, outcome, &[proxy.address(), "rest_catalog_url"])?;
    held.release();
    assert_eq!(lake.table("t").describe()?.metadata_location, before.metadata_location);

    proxy.down(false);
    project.sync()?;
    assert_eq!(lake.table("t").describe()?.snapshots.len(), 2);
    lake.equals_source(&["public.t"])
}

#[test]
fn what_another_writer_commits_before_our_swap_is_built_upon() -> Result<()> {
    let lake = synced("between")?;
    let project = &lake.project;
    let proxy = proxied(&lake)?;
    project.database().psql(ADD)?;
    let held = proxy.once(&commit(&lake), Fault::Hold);
    let sync = project.start(&Project::SYNC)?;
    held.met()?;
    let table = lake.table("t");
    let theirs = [
        ("id", "9"),
        ("_olake_id", "9"),
        ("_olake_timestamp", "2024-02-29 12:00:00+00"),
        ("_op_type", "c"),
    ];
    let (columns, row) =
        theirs.map(|(name, cell)| (name.to_owned(), Cell::text(cell))).into_iter().unzip();
    table.append(&Rows { columns, rows: vec![row] })?;
    assert_eq!(table.count(Engine::PyIceberg, "id = 9")?, 1);
    held.release();
    sync.wait()?.succeeded()?;
    let described = table.describe()?;
    assert_eq!(described.snapshots.len(), 3, "theirs and two of ours");
    lake.equals_source(&["public.t"])
}
