//! Ways to reach a server: passwords, TLS, parameters; and what `check` says.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::postgres::Database;
use tests::run::Project;
use tests::verify;

use crate::plain;

fn small(label: &str) -> Result<Project> {
    let database = Database::new(label)?;
    database.psql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")?;
    Project::new(&database)
}

/// `check` with these arguments; its one line of JSON.
pub fn check(project: &Project, arguments: &[&str]) -> Result<Value> {
    let outcome = project.run(&[&["check"], arguments].concat())?;
    let line = outcome.stdout.lines().last().context("check prints a line")?;
    let said: Value = serde_json::from_str(line)?;
    assert_eq!(said["type"], "CONNECTION_STATUS");
    let succeeded = said["connectionStatus"]["status"] == "SUCCEEDED";
    assert_eq!(outcome.status.success(), succeeded, "{said}");
    Ok(said["connectionStatus"].clone())
}

#[test]
fn check_says_whether_source_and_destination_work() -> Result<()> {
    let project = small("check")?;
    let status = check(&project, &["--config", "source.json"])?;
    assert_eq!(status["status"], "SUCCEEDED", "{status}");
    let status = check(&project, &["--destination", "destination.json"])?;
    assert_eq!(status["status"], "SUCCEEDED", "{status}");
    assert!(!project.output().exists(), "check leaves nothing behind");

    project.edit("source.json", |source| source["password"] = json!("not the password"))?;
    let status = check(&project, &["--config", "source.json"])?;
    assert_eq!(status["status"], "FAILED", "{status}");
    let text = status["message"].as_str().unwrap_or_default();
    assert!(text.contains("password"), "{text}");
    assert!(!text.contains("not the password"), "a secret was printed: {text}");
    Ok(())
}

#[test]
fn every_tls_mode_works_with_the_right_certificate() -> Result<()> {
    let project = small("tls")?;
    let server = project.database().server.clone();
    let made = server.certificates().context("the shared server offers TLS")?;
    // PEM text and paths are both accepted.
    let authority = std::fs::read_to_string(&made.authority)?;
    for ssl in [
        json!({"mode": "require"}),
        json!({"mode": "verify-ca", "server_ca": authority}),
        json!({"mode": "verify-full", "server_ca": made.authority}),
        json!({"mode": "verify-full", "server_ca": authority,
               "client_cert": made.client, "client_key": made.client_key}),
    ] {
        project.edit("source.json", |source| source["ssl"] = ssl.clone())?;
        let status = check(&project, &["--config", "source.json"])?;
        assert_eq!(status["status"], "SUCCEEDED", "{ssl}: {status}");
    }
    project.discover()?;
    project.select(&["public.t"], plain())?;
    project.sync()?;
    verify::equals_source(&project, &["public.t"])
}

#[test]
fn a_certificate_that_proves_nothing_is_refused() -> Result<()> {
    let project = small("untrusted")?;
    // Without the authority, and with an authority that did not sign.
    let elsewhere = tempfile::tempdir()?;
    let other = tests::certificates::Certificates::make(elsewhere.path(), &["DNS:localhost"], "x")?;
    for ssl in
        [json!({"mode": "verify-full"}), json!({"mode": "verify-ca", "server_ca": other.authority})]
    {
        project.edit("source.json", |source| source["ssl"] = ssl.clone())?;
        let status = check(&project, &["--config", "source.json"])?;
        assert_eq!(status["status"], "FAILED", "{ssl}: {status}");
        let text = status["message"].as_str().unwrap_or_default().to_lowercase();
        assert!(text.contains("certificate"), "{ssl}: {text}");
    }
    Ok(())
}

#[test]
fn connection_parameters_reach_the_server_and_unknown_ones_are_named() -> Result<()> {
    let project = small("parameters")?;
    project.edit("source.json", |source| {
        source["jdbc_url_params"] = json!({"application_name": "a name", "connect_timeout": "5"});
    })?;
    let status = check(&project, &["--config", "source.json"])?;
    assert_eq!(status["status"], "SUCCEEDED", "{status}");
    project.edit("source.json", |source| {
        source["jdbc_url_params"] = json!({"no_such_parameter": "x"});
    })?;
    let status = check(&project, &["--config", "source.json"])?;
    assert_eq!(status["status"], "FAILED", "{status}");
    let text = status["message"].as_str().unwrap_or_default();
    assert!(text.contains("no_such_parameter"), "{text}");
    Ok(())
}
