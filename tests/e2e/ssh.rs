//! The SSH tunnel: the ways to log in, whom it trusts, and how it ends. The
//! database is reached by a name that only the SSH server resolves.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::gate::{self, Gate, STREAMS};
use tests::moment;
use tests::postgres::Database;
use tests::run::{Project, Running};
use tests::sshd::{INSIDE, PASSWORD, Sshd};
use tests::verify;

use crate::connections::check;
use crate::plain;

/// How soon a failure must be told.
const SOON: Duration = Duration::from_secs(30);

const PASSPHRASE: &str = r#"open "se'same\"#;

/// Reads `project`'s database through the tunnel from now on.
fn through(project: &Project, config: Value) -> Result<()> {
    project.edit("source.json", |source| {
        source["host"] = json!(INSIDE);
        source["ssh_config"] = config;
    })
}

/// A way to log in, and more, on top of a server's `ssh_config`.
fn with(server: &Sshd, more: Value) -> Result<Value> {
    let mut config = server.config()?;
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    Ok(config)
}

fn by_password(server: &Sshd) -> Result<Value> {
    with(server, json!({"password": PASSWORD}))
}

fn small(label: &str) -> Result<Project> {
    let database = Database::new(label)?;
    database.psql("CREATE TABLE t (id int PRIMARY KEY, v text)")?;
    Project::new(&database)
}

/// `check`, which must fail soon; its message, which names each of `named`.
fn refused(project: &Project, named: &[&str]) -> Result<String> {
    let started = Instant::now();
    let status = check(project, &["--config", "source.json"])?;
    let took = started.elapsed();
    assert_eq!(status["status"], "FAILED", "{status}");
    assert!(took < SOON, "it took {took:?}: {status}");
    let message = status["message"].as_str().context("a message")?.to_owned();
    println!("{took:?}: {message}\n");
    for part in named {
        assert!(message.contains(part), "{part:?} is not named: {message}");
    }
    for secret in [PASSWORD, PASSPHRASE, "not the password"] {
        assert!(!message.contains(secret), "a secret was printed: {message}");
    }
    Ok(message)
}

fn works(project: &Project) -> Result<()> {
    let status = check(project, &["--config", "source.json"])?;
    ensure!(status["status"] == "SUCCEEDED", "{status}");
    Ok(())
}

#[test]
fn every_way_to_log_in_works() -> Result<()> {
    let project = small("logins")?;
    let (server, other) = (Sshd::start(&[])?, Sshd::start(&[])?);
    let ed25519 = server.key("ed25519", PASSPHRASE)?;
    let rsa = server.key("rsa", PASSPHRASE)?;
    let open = server.key("ed25519", "")?;
    let unknown = other.key("ed25519", "")?;
    // A key as its path and as its text.
    let text = std::fs::read_to_string(&ed25519)?;
    for (way, accepted) in [
        (json!({"private_key": ed25519, "passphrase": PASSPHRASE}), "ssh2: ED25519"),
        (json!({"private_key": text, "passphrase": PASSPHRASE}), "ssh2: ED25519"),
        (json!({"private_key": rsa, "passphrase": PASSPHRASE}), "ssh2: RSA"),
        (json!({"private_key": open}), "ssh2: ED25519"),
        (json!({"password": PASSWORD}), "Accepted password"),
        (json!({"private_key": unknown, "password": PASSWORD}), "Accepted password"),
    ] {
        let before = server.log().len();
        through(&project, with(&server, way)?)?;
        works(&project).with_context(|| format!("looking for {accepted:?}"))?;
        let log = server.log().split_off(before);
        ensure!(log.contains(accepted), "not {accepted:?}: {log}");
    }
    Ok(())
}

#[test]
fn what_comes_through_the_tunnel_equals_the_source_with_tls_inside() -> Result<()> {
    let project = small("tunnel")?;
    // More than a channel's window, in several chunks.
    project.database().psql(
        "INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 60000) i",
    )?;
    let server = Sshd::start(&[])?;
    through(&project, by_password(&server)?)?;
    project.discover()?;
    project.select(&["public.t"], plain())?;
    project.sync()?;
    verify::equals_source(&project, &["public.t"])?;

    project.database().psql("UPDATE t SET v = 'second'")?;
    let made = project.database().server.certificates().context("a server with TLS")?;
    let ssl = json!({"mode": "verify-full", "server_ca": made.authority});
    project.edit("source.json", |source| source["ssl"] = ssl)?;
    project.sync()?;
    verify::equals_source(&project, &["public.t"])
}

#[test]
fn only_a_server_whose_key_is_known_is_trusted() -> Result<()> {
    let project = small("trust")?;
    let (server, other) = (Sshd::start(&[])?, Sshd::start(&[])?);
    let known = |lines: &str| -> Result<()> {
        through(&project, with(&server, json!({"password": PASSWORD, "known_hosts": lines}))?)
    };
    let name = format!("[127.0.0.1]:{}", server.port());
    // Of another server only: the message has the line to add.
    known(&other.known_hosts()?)?;
    let message = refused(&project, &[&name, "has no key for it", "fingerprint"])?;
    let line = message.rsplit(&name).next().context("the line to add")?;
    known(&format!("{}{name}{line}", other.known_hosts()?))?;
    works(&project)?;

    // Another key under its name.
    let changed =
        other.known_hosts()?.replace(&other.port().to_string(), &server.port().to_string());
    known(&format!("# a comment\n{changed}"))?;
    refused(&project, &["line 2 of known_hosts", "listening in", &name])?;
    known(&format!("{changed}@revoked {}", server.known_hosts()?))?;
    refused(&project, &["revoked"])?;
    ensure!(!server.log().contains("Failed password"), "a secret was sent: {}", server.log());

    // The user's own file, without and with the line; and a path.
    let home = tempfile::tempdir()?;
    let own = home.path().join(".ssh/known_hosts");
    known("")?;
    let checked = || -> Result<_> {
        let home = home.path().to_str().context("a path in UTF-8")?;
        let check = ["check", "--config", "source.json"];
        project.start_with(&check, &[("HOME", home)])?.wait()
    };
    let said = checked()?.failed()?;
    ensure!(said.contains("ssh-keyscan") && said.contains("known_hosts"), "{said}");
    std::fs::create_dir(home.path().join(".ssh"))?;
    std::fs::write(&own, server.known_hosts()?)?;
    checked()?.succeeded()?;
    known(own.to_str().context("a path in UTF-8")?)?;
    works(&project)
}

#[test]
fn a_refusal_says_who_refused_what() -> Result<()> {
    let project = small("refusals")?;
    let server = Sshd::start(&["AllowTcpForwarding no"])?;
    let at = format!("127.0.0.1:{}", server.port());
    through(&project, by_password(&server)?)?;
    refused(&project, &[&at, "does not allow forwarding", "AllowTcpForwarding"])?;

    let server = Sshd::start(&[])?;
    let at = format!("127.0.0.1:{}", server.port());
    let key = server.key("ed25519", PASSPHRASE)?;
    let refuses = |way: Value, named: &[&str]| -> Result<()> {
        through(&project, with(&server, way)?)?;
        refused(&project, named).map(drop)
    };
    let wrong = json!({"password": "not the password"});
    refuses(wrong, &[&at, "tunnel", "password", "ssh_config"])?;
    let wrong = json!({"private_key": key, "passphrase": "not the password"});
    refuses(wrong, &["ssh_config.private_key", "ssh_config.passphrase does not open it"])?;
    let without = json!({"private_key": key});
    refuses(without, &["ssh_config.private_key", "no passphrase"])?;

    // Behind the tunnel nobody listens, or nobody has that name.
    through(&project, by_password(&server)?)?;
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let former = project.read("source.json")?;
    project.edit("source.json", |source| source["port"] = json!(closed))?;
    refused(&project, &[&at, &format!("{INSIDE}:{closed}"), "could not connect there"])?;
    project.edit("source.json", |source| source["host"] = json!("no-such-host.invalid"))?;
    refused(&project, &[&at, "no-such-host.invalid", "as seen from the SSH server"])?;
    // PostgreSQL's own refusal comes through the tunnel.
    project.write("source.json", &former)?;
    project.edit("source.json", |source| source["password"] = json!("not the password"))?;
    refused(&project, &["`password`"])?;
    Ok(())
}

#[test]
fn an_ssh_server_that_is_not_there_or_silent_is_named() -> Result<()> {
    let project = small("nowhere")?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let port = silent.local_addr()?.port();
    let some = Sshd::start(&[])?.known_hosts()?;
    let config =
        json!({"host": "127.0.0.1", "username": "x", "password": "y", "known_hosts": some});
    for (port, said) in [(closed, "refused"), (port, "no answer")] {
        let mut config = config.clone();
        config["port"] = json!(port);
        through(&project, config)?;
        refused(&project, &["SSH", &format!("127.0.0.1:{port}"), said, "ssh_config"])?;
    }
    Ok(())
}

/// A sync that reads through `server` and waits at the gate `second`.
fn under_way(server: &Sshd, project: &Project) -> Result<(Gate, Running)> {
    through(project, by_password(server)?)?;
    let gate = Gate::shut(project.database(), "second")?;
    let mut sync = project.start(&Project::SYNC)?;
    moment::reached(project, &mut sync, "all but one chunk is staged", |state| {
        moment::all_but_one(state, "a")
    })?;
    Ok((gate, sync))
}

#[test]
fn an_ssh_server_that_dies_or_falls_silent_ends_the_sync_soon() -> Result<()> {
    for (signal, what) in [("KILL", "refused"), ("STOP", "no answer within 3s")] {
        let project = gate::project("cut")?;
        project.edit("source.json", |source| {
            source["connect_timeout_ms"] = json!(3000);
            source["retry_count"] = json!(1);
        })?;
        let server = Sshd::start(&[])?;
        let (gate, sync) = under_way(&server, &project)?;
        let cut = Instant::now();
        server.signal(signal)?;
        let said = sync.wait()?.failed()?;
        let took = cut.elapsed();
        drop(gate);
        let error = said.split("error: ").nth(1).context("an error")?;
        let at = format!("127.0.0.1:{}", server.port());
        for part in ["SSH", &at, what, "ssh_config", "continue with"] {
            ensure!(error.contains(part), "{part:?} is not named: {said}");
        }
        ensure!(took < SOON, "{signal}: it took {took:?}: {said}");

        // The same command with a server: complete.
        drop(server);
        moment::no_sessions(project.database())?;
        let server = Sshd::start(&[])?;
        through(&project, by_password(&server)?)?;
        project.sync()?;
        verify::same_as_source(&project, &STREAMS)?;
    }
    Ok(())
}

#[test]
fn a_session_that_is_cut_is_made_anew() -> Result<()> {
    let project = gate::project("reconnect")?;
    let server = Sshd::start(&[])?;
    let (gate, sync) = under_way(&server, &project)?;
    server.cut_sessions()?;
    drop(gate);
    let said = sync.wait()?.succeeded()?.stderr;
    ensure!(said.contains("the load was lost"), "{said}");
    verify::same_as_source(&project, &STREAMS)
}
