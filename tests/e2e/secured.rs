//! Services that do not trust the network: TLS with certificates on both sides,
//! the places that a writer may write to, secrets that lie elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::certificates::Certificates;
use tests::postgres::PASSWORD;
use tests::python::{self, Python};
use tests::run::{Project, poll, program};
use tests::services::{Service, TOKEN, sync_through};
use tests::verify;

use super::project;

const ROWS: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
                    INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 3000) i;";
/// What every process's certificate is for.
const NAMES: [&str; 2] = ["DNS:localhost", "IP:127.0.0.1"];

fn made(dir: &Path, name: &str) -> Result<Certificates> {
    let dir = dir.join(name);
    std::fs::create_dir(&dir)?;
    Certificates::make(&dir, &NAMES, "orchestrator")
}

/// The flags of a process with this certificate, which trusts this authority.
fn tls(certificate: &Path, key: &Path, authority: &Path) -> Vec<String> {
    let flags = [("--tls-cert", certificate), ("--tls-key", key), ("--tls-ca", authority)];
    let text = |path: &Path| path.display().to_string();
    flags.into_iter().flat_map(|(flag, path)| [flag.to_owned(), text(path)]).collect()
}

fn served(certificates: &Certificates) -> Vec<String> {
    tls(&certificates.server, &certificates.server_key, &certificates.authority)
}

fn as_client(certificates: &Certificates) -> Vec<String> {
    tls(&certificates.client, &certificates.client_key, &certificates.authority)
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Where nothing must have been written.
fn untouched(project: &Project) -> Result<()> {
    ensure!(!project.output().join("postgres_public").exists(), "something was written");
    let found: Vec<PathBuf> = std::fs::read_dir(project.output())
        .map(|dir| dir.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    ensure!(found.is_empty(), "left behind: {found:?}");
    Ok(())
}

#[test]
fn services_with_certificates_on_both_sides_replicate() -> Result<()> {
    let project = project("mtls", ROWS)?;
    let certificates = made(project.path(), "one")?;
    let flags = served(&certificates);
    let source = Service::source(&borrowed(&flags))?;
    let writers = [Service::writer(&borrowed(&flags))?, Service::writer(&borrowed(&flags))?];
    let mut arguments = sync_through(Some(&source), &[&writers[0], &writers[1]]);
    arguments.extend(as_client(&certificates));
    project.run(&arguments)?.succeeded()?;
    verify::same_as_source(&project, &["public.t"])
}

#[test]
fn a_source_of_the_command_itself_shows_its_certificate_to_writers() -> Result<()> {
    let project = project("mtls_local_source", ROWS)?;
    let certificates = made(project.path(), "one")?;
    let writer = Service::writer(&borrowed(&served(&certificates)))?;
    let mut arguments = sync_through(None, &[&writer]);
    arguments.extend(as_client(&certificates));
    project.run(&arguments)?.succeeded()?;
    verify::same_as_source(&project, &["public.t"])
}

#[test]
fn a_client_in_python_shows_its_certificate_too() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let certificates = made(directory.path(), "one")?;
    let writer = Service::writer(&borrowed(&served(&certificates)))?;
    let python = Python::of(&python::protos())?;
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (database, destination, lake) = (path("t.db"), path("destination.json"), path("lake"));
    let sql = "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2);";
    python::sqlite(Path::new(&database), sql)?;
    std::fs::write(&destination, json!({"parquet": {"local_path": lake}}).to_string())?;
    let text = |path: &Path| path.display().to_string();
    let (ca, certificate) = (text(&certificates.authority), text(&certificates.client));
    let key = text(&certificates.client_key);
    let mut arguments = vec!["--writer", writer.address(), "--destination", &destination];
    arguments.extend(["--sqlite", &database, "--table", "t", "--ca", &ca]);
    ensure!(!python.example("sqlite_source.py", &arguments)?.status.success(), "no certificate");
    ensure!(!Path::new(&lake).exists(), "something was written");
    arguments.extend(["--cert", &certificate, "--key", &key]);
    let said = python.says("sqlite_source.py", &arguments)?;
    ensure!(said.contains("2 rows"), "{said}");
    Ok(())
}

#[test]
fn who_does_not_fit_is_refused_and_nothing_is_written() -> Result<()> {
    let project = project("tls_refused", ROWS)?;
    let certificates = made(project.path(), "one")?;
    let other = made(project.path(), "other")?;
    let expired = expired(project.path(), &certificates)?;
    let source = Service::source(&borrowed(&served(&certificates)))?;
    let writer = Service::writer(&borrowed(&served(&certificates)))?;
    let late = Service::writer(&borrowed(&tls(&expired.0, &expired.1, &certificates.authority)))?;
    let plain = Service::writer(&[])?;
    let here = |service: &Service, scheme: &str| format!("{scheme}{}", service.address());
    let ca = certificates.authority.display().to_string();
    let trusting = vec!["--tls-ca".to_owned(), ca];

    for (what, flags, at, expected, remedy) in [
        ("no certificate", trusting, here(&writer, ""), "certificate", "--tls-cert"),
        ("another authority's", as_client(&other), here(&writer, ""), "TLS failed", "--tls-ca"),
        ("an expired one", as_client(&certificates), here(&late, ""), "expired", "--tls-ca"),
        ("in the clear", Vec::new(), here(&writer, "http://"), "no writer-svc", "--tls-ca"),
        (
            "TLS where there is none",
            as_client(&certificates),
            here(&plain, "https://"),
            "TLS failed",
            "--tls-ca",
        ),
    ] {
        let mut arguments: Vec<String> = Project::SYNC.map(str::to_owned).into();
        arguments.extend(["--token", TOKEN, "--writer", &at].map(str::to_owned));
        arguments.extend(flags);
        let said = project.run(&arguments)?.failed()?;
        for part in [expected, remedy] {
            ensure!(said.contains(part), "{what}: not {part:?} in {said}");
        }
        untouched(&project).context(what)?;
    }
    // The one that refuses says so, too.
    poll("the writer logs what it refused", || Ok(writer.log().contains("tls accept error")))?;
    drop(source);
    Ok(())
}

/// A certificate of the authority that is valid no more, and its key.
fn expired(dir: &Path, certificates: &Certificates) -> Result<(PathBuf, PathBuf)> {
    let (out, request) = (dir.join("expired.crt"), dir.join("expired.csr"));
    let (key, extensions) = (dir.join("expired.key"), dir.join("expired.ext"));
    std::fs::write(&extensions, format!("subjectAltName={}\n", NAMES.join(",")))?;
    let run = |command: &mut Command| -> Result<()> {
        let output = command.output().context("running openssl")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let mut ask = Command::new("openssl");
    ask.args(["req", "-subj", "/CN=late", "-newkey", "ec", "-nodes"]);
    ask.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    run(ask.arg("-keyout").arg(&key).arg("-out").arg(&request))?;
    let authority_key = certificates.authority.with_file_name("ca.key");
    let mut sign = Command::new("openssl");
    sign.args(["x509", "-req", "-days", "0", "-CAcreateserial"]);
    sign.arg("-CA").arg(&certificates.authority).arg("-CAkey").arg(authority_key);
    sign.arg("-in").arg(&request).arg("-out").arg(&out).arg("-extfile").arg(&extensions);
    run(&mut sign)?;
    // It still is valid in the second that it ends with.
    poll("the certificate has expired", || {
        let mut check = Command::new("openssl");
        check.args(["x509", "-noout", "-checkend", "-1", "-in"]).arg(&out);
        Ok(!check.output()?.status.success())
    })?;
    Ok((out, key))
}

#[test]
fn off_loopback_a_service_needs_token_tls_and_places() -> Result<()> {
    let starts = |arguments: &[&str], token: &str| -> Result<String> {
        let mut command = Command::new(program("writer-svc")?);
        command.args(["--listen", "0.0.0.0:0", "--stop-with-stdin"]).args(arguments);
        let output = command.env("TIDEWATER_TOKEN", token).output()?;
        ensure!(!output.status.success(), "{arguments:?}: it started");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, token, expected) in [
        (&["--allow", "/data"][..], TOKEN, "without TLS"),
        (&["--allow", "/data", "--plaintext"], "", "without a token"),
        (&["--plaintext"], TOKEN, "--allow"),
    ] {
        let said = starts(arguments, token)?;
        ensure!(said.contains(expected), "{arguments:?}: {said}");
    }
    Ok(())
}

#[test]
fn a_writer_writes_below_its_places_and_nowhere_else() -> Result<()> {
    let project = project("allow", ROWS)?;
    let output = project.output().display().to_string();
    let writer = Service::writer(&["--allow", &output])?;
    let arguments = sync_through(None, &[&writer]);
    project.run(&arguments)?.succeeded()?;
    verify::same_as_source(&project, &["public.t"])?;

    let elsewhere = project.path().join("elsewhere");
    let link = project.output().join("link");
    std::os::unix::fs::symlink(project.path(), &link)?;
    let through = link.join("elsewhere");
    let sqlite = format!("jdbc:sqlite:{}", elsewhere.join("catalog.db").display());
    let iceberg = |warehouse: &Path, jdbc_url: &str| {
        json!({"type": "ICEBERG", "writer": {"catalog_type": "jdbc", "jdbc_url": jdbc_url,
            "iceberg_s3_path": format!("file://{}", warehouse.display())}})
    };
    let inside = format!("jdbc:sqlite:{}", project.output().join("catalog.db").display());
    for destination in [
        json!({"type": "PARQUET", "writer": {"local_path": elsewhere}}),
        json!({"type": "PARQUET", "writer": {"local_path": through}}),
        json!({"type": "PARQUET", "writer": {"s3_bucket": "b", "s3_region": "r",
            "s3_access_key": "k", "s3_secret_key": "s"}}),
        iceberg(&elsewhere, &inside),
        iceberg(&project.output().join("warehouse"), &sqlite),
    ] {
        project.write("destination.json", &destination)?;
        let said = project.run(&arguments)?.failed()?;
        ensure!(said.contains("may not write to") && said.contains("--allow"), "{said}");
        ensure!(!elsewhere.exists(), "{destination}: something was written");
    }
    Ok(())
}

#[test]
fn a_probe_tells_whether_a_service_serves() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let certificates = made(directory.path(), "one")?;
    let flags = served(&certificates);
    let mut writer = Service::writer(&borrowed(&flags))?;
    let address = writer.address().to_owned();
    let probe = |service: &str| -> Result<bool> {
        let mut command = Command::new(program(service)?);
        command.args(["--probe", "--listen", &address]).args(&flags);
        Ok(command.output()?.status.success())
    };
    ensure!(probe("writer-svc")?, "the writer serves");
    ensure!(!probe("source-svc")?, "it is no source");
    writer.kill()?;
    ensure!(!probe("writer-svc")?, "the writer is gone");
    Ok(())
}

#[test]
fn secrets_may_lie_in_files_and_in_the_environment() -> Result<()> {
    let project = project("secret_files", ROWS)?;
    let file = project.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n"))?;
    for (key, value) in [
        ("password_file", file.display().to_string()),
        ("password_env", "TIDEWATER_TEST_PASSWORD".to_owned()),
    ] {
        project.edit("source.json", |source| {
            if let Some(source) = source.as_object_mut() {
                source.retain(|key, _| !key.starts_with("password"));
                source.insert(key.to_owned(), json!(value));
            }
        })?;
        let environment = [("TIDEWATER_TEST_PASSWORD", PASSWORD)];
        project.start_with(&Project::SYNC, &environment)?.wait()?.succeeded()?;
        verify::same_as_source(&project, &["public.t"])?;
    }
    project.edit("source.json", |source| source["password_env"] = json!("TIDEWATER_NOT_SET"))?;
    let said = project.run(&Project::SYNC)?.failed()?;
    ensure!(said.contains("TIDEWATER_NOT_SET"), "{said}");
    Ok(())
}
