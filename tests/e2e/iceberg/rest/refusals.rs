//! A catalog that refuses.

use std::net::TcpListener;

use anyhow::{Context, Result};
use serde_json::json;
use tests::run::Project;

use super::{WRONG, fronted, lake, refusal, set, synced};
use crate::bad_input::{CHECK, shows_no_secret};

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
