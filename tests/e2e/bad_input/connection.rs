//! A server that cannot be reached, trusted or logged in to.

use std::net::TcpListener;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::certificates::Certificates;
use tests::postgres::{Database, Options, Server};
use tests::run::Project;

use super::{ORDERS, refusal, refused, refused_by, select_all, start, synced, visible};

#[test]
fn a_login_that_the_server_refuses_is_named_with_its_reason() -> Result<()> {
    let project = synced("login", ORDERS)?;
    let wrong = |key: &str, value: &str, named: &[&str]| {
        refused_by(&project, "source.json", |source| source[key] = json!(value), named)
    };
    let address = format!("127.0.0.1:{}", project.database().server.port());
    let error = wrong("password", "not the password", &[&address, "postgres", "`password`"])?;
    assert!(!error.contains("not the password"), "the wrong password is a secret too: {error}");
    wrong("password", "", &[&address, "asks for a password", "`password`"])?;
    wrong("username", "nobody_here", &[&address, "nobody_here", "`username`"])?;
    wrong("database", "no_such_database", &["no_such_database", "`database`"])?;
    Ok(())
}

#[test]
fn a_server_that_is_not_there_or_never_answers_is_named_with_its_address() -> Result<()> {
    let project = synced("nowhere", ORDERS)?;
    let before = visible(&project)?;
    // Accepts (the backlog does) and stays silent. Waited for meanwhile, by a
    // directory of its own: two runs do not share a state.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let waiting = Project::new(project.database())?;
    waiting.write("streams.json", &project.read("streams.json")?)?;
    let at = silent.local_addr()?;
    waiting.edit("source.json", |source| source["port"] = json!(at.port()))?;
    let patient = start(&waiting, &[])?;

    // Bound and closed again: nobody listens there now.
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let change = |source: &mut Value| source["port"] = json!(closed.port());
    let named = [&closed.to_string(), "refused", "`host`", "`port`"];
    refused_by(&project, "source.json", change, &named)?;
    let change = |source: &mut Value| source["host"] = json!("no-such-host.invalid");
    refused_by(&project, "source.json", change, &["no-such-host.invalid", "`host`"])?;
    assert_eq!(visible(&project)?, before);

    let nothing = visible(&waiting)?;
    refusal(&waiting, &nothing, patient, &[&at.to_string(), "no answer", "`host`"])?;
    Ok(())
}

#[test]
fn tls_that_proves_nothing_is_refused() -> Result<()> {
    let options = Options { tls: true, ..Options::default() };
    let options = options.set("listen_addresses", "127.0.0.1,127.0.0.2");
    let server = std::sync::Arc::new(Server::start(&options)?);
    let database = Database::on(&server, "tls")?;
    database.psql(ORDERS)?;
    let project = Project::new(&database)?;
    project.discover()?;
    select_all(&project)?;
    let made = server.certificates().context("a server with TLS")?;
    let ssl = |source: &mut Value, ssl: Value| source["ssl"] = ssl;
    let full = json!({"mode": "verify-full", "server_ca": made.authority});
    project.edit("source.json", |source| ssl(source, full))?;
    project.sync()?;

    // The certificate is for localhost and 127.0.0.1.
    let other_name = |source: &mut Value| source["host"] = json!("127.0.0.2");
    let named = ["127.0.0.2", "certificate", "localhost", "subjectAltName"];
    refused_by(&project, "source.json", other_name, &named)?;

    let elsewhere = tempfile::tempdir()?;
    let other = Certificates::make(elsewhere.path(), &["DNS:localhost"], "x")?;
    let other = json!({"mode": "verify-ca", "server_ca": other.authority});
    let named = ["certificate", "ssl.server_ca"];
    refused_by(&project, "source.json", |source| ssl(source, other), &named)?;

    database.psql("ALTER SYSTEM SET ssl = off; SELECT pg_reload_conf()")?;
    while database.psql("SHOW ssl")? == "on" {
        std::thread::yield_now();
    }
    let require = json!({"mode": "require"});
    project.edit("source.json", |source| ssl(source, require))?;
    refused(&project, &["TLS", "127.0.0.1", "ssl.mode"])?;
    Ok(())
}
