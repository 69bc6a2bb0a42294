//! Tokens, signatures and certificates.

use anyhow::Result;
use serde_json::{Value, json};
use tests::certificates::Certificates;
use tests::iceberg::front::Front;
use tests::iceberg::seaweed::{self, Seaweed};
use tests::run::Project;
use tests::supervised::{http, percent_encoded};

use super::{ADD, WRONG, fronted, lake, refusal, set, synced};
use crate::bad_input::CHECK;

#[test]
fn a_token_that_is_given_is_used_as_it_is() -> Result<()> {
    let lake = lake("token")?;
    let form = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}",
        seaweed::KEY,
        percent_encoded(seaweed::SECRET)
    );
    let answer = http(Seaweed::shared()?.rest(), "POST /v1/oauth/tokens", &form)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let token: Value = serde_json::from_str(body)?;
    set(&lake.project, json!({"token": token["access_token"], "credential": null}))?;
    lake.project.run(&CHECK)?.succeeded()?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])
}

#[test]
fn a_token_is_renewed_before_its_end() -> Result<()> {
    let lake = lake("renewed")?;
    let front = fronted(&lake, json!({"uses": 1000, "expires_in": 0}))?;
    lake.project.sync()?;
    let told = front.told()?;
    assert!(told.tokens > 2 && told.refused == 0, "{told:?}");
    lake.equals_source(&["public.t"])
}

#[test]
fn one_token_serves_until_its_end() -> Result<()> {
    let lake = lake("kept")?;
    let front = fronted(&lake, json!({"uses": 1000}))?;
    lake.project.sync()?;
    let told = front.told()?;
    assert_eq!((told.tokens, told.refused), (1, 0));
    lake.equals_source(&["public.t"])
}

#[test]
fn a_token_that_is_refused_is_exchanged_and_nothing_made_twice() -> Result<()> {
    let lake = lake("exchanged")?;
    let front = fronted(&lake, json!({"uses": 1}))?;
    for snapshots in 1..=2 {
        lake.project.database().psql(ADD)?;
        lake.project.sync()?;
        assert_eq!(lake.table("t").describe()?.snapshots.len(), snapshots);
        lake.equals_source(&["public.t"])?;
    }
    let told = front.told()?;
    assert!(told.refused > 5 && told.tokens > told.refused, "{told:?}");
    Ok(())
}

#[test]
fn a_client_that_is_no_longer_known_is_told() -> Result<()> {
    let lake = synced("closed")?;
    let front = fronted(&lake, json!({"uses": 1, "closed": true}))?;
    let before = lake.table("t").describe()?;
    let outcome = lake.project.run(&Project::SYNC)?;
    let named = [front.address(), "the client is unknown", "correct credential"];
    refusal(&lake.project, outcome, &named)?;
    assert_eq!(lake.table("t").describe()?.metadata_location, before.metadata_location);
    front.set(json!({"closed": false}))?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])
}

#[test]
fn a_catalog_behind_tls_must_be_trusted() -> Result<()> {
    let lake = lake("tls_rest")?;
    let directory = tempfile::tempdir()?;
    let certificates = Certificates::make(directory.path(), &["IP:127.0.0.1"], "nobody")?;
    let tls = json!([certificates.server, certificates.server_key]);
    let front = Front::start(&Seaweed::shared()?, json!({"tls": tls, "uses": 1000}))?;
    let url = format!("https://{}/", front.address());
    set(&lake.project, json!({"rest_catalog_url": url, "oauth2_uri": null}))?;
    for arguments in [&Project::SYNC[..], &CHECK] {
        let outcome = lake.project.run(arguments)?;
        refusal(&lake.project, outcome, &["certificate", "trust the catalog's certificate"])?;
    }
    let authority = certificates.authority.to_string_lossy();
    let trusting = [("SSL_CERT_FILE", authority.as_ref())];
    lake.project.start_with(&CHECK, &trusting)?.wait()?.succeeded()?;
    lake.project.start_with(&Project::SYNC, &trusting)?.wait()?.succeeded()?;
    lake.equals_source(&["public.t"])
}

#[test]
fn requests_are_signed_with_the_keys_of_aws() -> Result<()> {
    let lake = lake("signed")?;
    let signed = json!({
        "credential": null, "oauth2_uri": null, "rest_signing_v_4": true,
        "rest_signing_name": "s3tables", "rest_signing_region": "eu-north-1",
    });
    set(&lake.project, signed)?;
    lake.project.run(&CHECK)?.succeeded()?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;

    set(&lake.project, json!({"aws_secret_key": WRONG}))?;
    for arguments in [&Project::SYNC[..], &CHECK] {
        let outcome = lake.project.run(arguments)?;
        refusal(&lake.project, outcome, &["403", "signature", "aws_secret_key"])?;
    }
    Ok(())
}
