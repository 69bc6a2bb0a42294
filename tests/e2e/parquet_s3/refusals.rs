//! What the store refuses is said soon, once and with its remedy, by `check` as
//! by a sync, and changes nothing.

use anyhow::Result;
use serde_json::{Value, json};
use tests::bucket::Place;
use tests::certificates::Certificates;
use tests::run::Project;
use tests::supervised::free_ports;

use super::{equals_source, placed};
use crate::bad_input::{CHECK, refused_by_the_store as refused};
use crate::project;

fn table(label: &str) -> Result<(Project, Place)> {
    let (project, place) =
        placed(label, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")?;
    project.sync()?;
    Ok((project, place))
}

/// With this in destination.json both are refused, and the table stays.
fn refused_with(label: &str, key: &str, value: Value, parts: &[&str]) -> Result<()> {
    let (project, place) = table(label)?;
    let (right, before) = (project.read("destination.json")?, place.objects()?);
    project.edit("destination.json", |file| file["writer"][key] = value)?;
    refused(&project, parts)?;
    assert_eq!(place.objects()?, before);
    project.write("destination.json", &right)?;
    project.sync()?;
    equals_source(&project, &place, &["public.t"])
}

#[test]
fn check_tries_the_bucket_and_leaves_nothing() -> Result<()> {
    let (project, place) = placed("checked_s3", "CREATE TABLE t (id int PRIMARY KEY)")?;
    project.run(&CHECK)?.succeeded()?;
    assert_eq!(place.objects()?, [""; 0]);
    assert_eq!(place.uploads()?, [""; 0]);
    Ok(())
}

#[test]
fn a_bucket_that_is_missing_is_named() -> Result<()> {
    let bucket = json!("tidewater-has-no-such-bucket");
    let parts = ["s3://tidewater-has-no-such-bucket", "NoSuchBucket", "s3_bucket", "s3_region"];
    refused_with("no_bucket_s3", "s3_bucket", bucket, &parts)
}

#[test]
fn a_wrong_secret_is_told() -> Result<()> {
    let parts = ["SignatureDoesNotMatch", "correct s3_access_key and s3_secret_key"];
    refused_with("wrong_secret_s3", "s3_secret_key", json!("not the secret"), &parts)
}

#[test]
fn a_store_that_does_not_answer_is_named() -> Result<()> {
    let [port] = free_ports::<1>()?;
    let endpoint = json!(format!("http://127.0.0.1:{port}"));
    refused_with("no_endpoint_s3", "s3_endpoint", endpoint, &["Connection refused", "s3_endpoint"])
}

#[test]
fn a_missing_permission_is_told_with_what_is_needed() -> Result<()> {
    let (project, place) = table("forbidden_s3")?;
    let before = place.objects()?;
    place.forbid_writes()?;
    refused(&project, &["AccessDenied", "s3:PutObject", "s3_path"])?;
    assert_eq!(place.objects()?, before);
    Ok(())
}

#[test]
fn objects_of_others_are_not_touched() -> Result<()> {
    let (project, place) = table("theirs_s3")?;
    let record = place.objects()?.into_iter().find(|key| key.ends_with(".json"));
    place.delete(&record.unwrap_or_default())?;
    let before = place.objects()?;
    assert!(!before.is_empty());
    let told = project.run(&Project::SYNC)?.failed()?;
    assert!(told.contains("which Tidewater did not write"), "{told}");
    assert_eq!(place.objects()?, before);
    Ok(())
}

#[test]
fn a_store_behind_tls_must_be_trusted() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let certificates = Certificates::make(directory.path(), &["IP:127.0.0.1"], "nobody")?;
    let project =
        project("tls_s3", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")?;
    let place = Place::behind_tls(&project, &certificates)?;
    refused(&project, &["certificate", "trust the S3 store's certificate"])?;
    assert_eq!(place.objects()?, [""; 0]);
    let authority = certificates.authority.to_string_lossy();
    let trusting = [("SSL_CERT_FILE", authority.as_ref())];
    project.start_with(&CHECK, &trusting)?.wait()?.succeeded()?;
    project.start_with(&Project::SYNC, &trusting)?.wait()?.succeeded()?;
    equals_source(&project, &place, &["public.t"])
}
