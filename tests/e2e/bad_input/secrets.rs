//! Passwords, keys and tokens appear nowhere, however much is logged and
//! however a command ends.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::postgres::PASSWORD;
use tests::run::{Outcome, Project, children};
use tests::services::{Service, TOKEN};

use super::{ORDERS, shows_no_secret, synced};

const ENCRYPTION_KEY: &str = "the key of the config files";
const PASSPHRASE: &str = "the passphrase of the ssh key";
const SSH_PASSWORD: &str = "the password at the ssh server";
const WRONG: &str = "not-the-password-nor-the-token";
/// As much as there is to log.
const TRACE: [(&str, &str); 1] = [("TIDEWATER_LOG", "trace")];

/// A private key that PASSPHRASE opens.
fn encrypted_key(directory: &Path) -> Result<String> {
    let path = directory.join("ssh_key");
    let mut command = Command::new("openssl");
    command.args(["genpkey", "-algorithm", "ed25519", "-aes256", "-pass"]);
    command.arg(format!("pass:{PASSPHRASE}")).arg("-out").arg(&path);
    let output = command.output().context("running openssl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(std::fs::read_to_string(path)?)
}

/// The lines of a PEM text between its frame.
fn body(pem: &str) -> Vec<&str> {
    pem.lines().filter(|line| line.len() > 20 && !line.starts_with("-----")).collect()
}

/// Runs a command that logs everything; nothing it leaves shows a secret.
fn quiet(project: &Project, arguments: &[&str], secrets: &[&str]) -> Result<Outcome> {
    let key = ["--encryption-key", ENCRYPTION_KEY];
    let outcome = project.start_with(&[arguments, &key].concat(), &TRACE)?.wait()?;
    shows_no_secret(project, &outcome, secrets)?;
    Ok(outcome)
}

#[test]
fn no_secret_of_a_config_file_is_shown_however_much_is_logged() -> Result<()> {
    let project = synced("secrets", ORDERS)?;
    let made = project.database().server.certificates().context("the shared server offers TLS")?;
    let client_key = std::fs::read_to_string(&made.client_key)?;
    let ssh_key = encrypted_key(project.path())?;
    let mut secrets = vec![PASSWORD, WRONG, ENCRYPTION_KEY, PASSPHRASE, SSH_PASSWORD];
    secrets.extend(body(&client_key).into_iter().chain(body(&ssh_key)));
    let run = |arguments: &[&str]| quiet(&project, arguments, &secrets);

    project.edit("source.json", |source| {
        source["ssl"] = json!({"mode": "verify-full", "server_ca": made.authority,
            "client_cert": made.client, "client_key": client_key});
    })?;
    for arguments in [
        &["check", "--config", "source.json"][..],
        &["check", "--destination", "destination.json"],
        &["discover", "--config", "source.json"],
        &Project::SYNC,
    ] {
        let said = run(arguments)?.succeeded()?.stderr;
        ensure!(said.contains("\"TRACE\""), "nothing was logged:\n{said}");
    }

    let good = project.read("source.json")?;
    let port = project.database().server.port();
    let ssh = json!({"host": "127.0.0.1", "port": port, "username": "me", "private_key": ssh_key,
        "passphrase": PASSPHRASE, "password": SSH_PASSWORD, "known_hosts": "a b c"});
    for (key, value) in [
        ("password", json!(WRONG)),
        ("password", json!([WRONG, PASSWORD])),
        ("jdbc_url_params", json!({"password": WRONG})),
        ("jdbc_url_params", json!({"sslpassword": WRONG})),
        ("ssh_config", ssh.clone()),
        ("ssh_config", json!({"host": 7, "private_key": ssh_key, "passphrase": [PASSPHRASE]})),
        ("ssl", json!({"mode": "require", "client_cert": client_key, "client_key": client_key})),
        ("ssl", json!({"mode": "verify-ca", "server_ca": client_key})),
    ] {
        project.edit("source.json", |source| source[key] = value.clone())?;
        let outcome = run(&Project::SYNC)?;
        ensure!(!outcome.status.success(), "{key}: {value} was accepted");
        project.write("source.json", &good)?;
    }
    let text = serde_json::to_string(&good)?;
    std::fs::write(project.path().join("source.json"), &text[..text.len() - 2])?;
    run(&Project::SYNC)?.failed()?;
    // A file that the key does not open.
    project.write("source.json", &Value::from("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="))?;
    let error = run(&Project::SYNC)?.failed()?;
    ensure!(error.contains("--encryption-key"), "{error}");
    Ok(())
}

#[test]
fn the_token_between_our_own_processes_is_not_shown() -> Result<()> {
    let project = synced("token", ORDERS)?;
    // A server that never answers keeps everything running meanwhile.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let port = silent.local_addr()?.port();
    project.edit("source.json", |source| {
        source["port"] = json!(port);
        source["retry_count"] = json!(0);
    })?;
    let sync = project.start_with(&Project::SYNC, &TRACE)?;
    let (connection, _) = silent.accept()?;
    let mut tokens = Vec::new();
    for (pid, _) in children(sync.pid())? {
        let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let set = environment.split('\0').find_map(|entry| entry.strip_prefix("TIDEWATER_TOKEN="));
        tokens.push(set.context("a service of ours has a token")?.to_owned());
    }
    drop((connection, silent));
    let outcome = sync.wait()?;
    assert_eq!(tokens.len(), 2, "{}", outcome.stderr);
    ensure!(!outcome.status.success(), "a server that hangs up was accepted");
    let secrets: Vec<&str> = tokens.iter().map(String::as_str).chain([PASSWORD]).collect();
    shows_no_secret(&project, &outcome, &secrets)
}

#[test]
fn services_apart_show_neither_their_token_nor_what_they_are_sent() -> Result<()> {
    let project = synced("apart", ORDERS)?;
    let (source, writer) = (Service::source(&[])?, Service::writer(&[])?);
    let run = |token: &str| {
        let addresses = ["--source", source.address(), "--writer", writer.address()];
        let arguments = [&Project::SYNC[..], &addresses, &["--token", token]].concat();
        project.start_with(&arguments, &TRACE)?.wait()
    };
    let secrets = [TOKEN, WRONG, PASSWORD];
    let outcome = run(TOKEN)?.succeeded()?;
    shows_no_secret(&project, &outcome, &secrets)?;
    let outcome = run(WRONG)?;
    shows_no_secret(&project, &outcome, &secrets)?;
    let error = outcome.failed()?;
    ensure!(error.contains("does not know the token"), "{error}");
    project.edit("source.json", |source| source["password"] = json!(WRONG))?;
    let outcome = run(TOKEN)?;
    shows_no_secret(&project, &outcome, &secrets)?;
    outcome.failed()?;
    for (name, log) in [("source-svc", source.log()), ("writer-svc", writer.log())] {
        ensure!(!log.is_empty(), "{name} logged nothing");
        for secret in secrets {
            let json = serde_json::to_string(secret)?;
            for form in [secret, json.trim_matches('"')] {
                ensure!(!log.contains(form), "{name} logs the secret {secret:?}:\n{log}");
            }
        }
    }
    Ok(())
}
