//! What a user can get wrong, and what the world can: every sync here must be
//! refused the same way. Exit code 1 within 30 seconds, one error that names
//! the thing and the way out, no secret anywhere, and a destination in which
//! readers find exactly what they found before.

mod connection;
mod destination;
mod files;
mod secrets;
mod streams;
mod tables;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::iceberg::seaweed;
use tests::postgres::PASSWORD;
use tests::run::{Outcome, Project, Running};
use tests::watch;

use crate::{plain, project};

/// How soon a refusal must come.
pub const SOON: Duration = Duration::from_secs(30);

/// The arguments of `check` of a destination.
pub const CHECK: [&str; 3] = ["check", "--destination", "destination.json"];

/// A table with a few rows.
const ORDERS: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, price numeric(8,2), country text, at timestamptz);
    INSERT INTO orders SELECT i, i / 3.0, 'de', timestamptz '2024-01-01 00:00:00+00' + i * interval '1 day'
      FROM generate_series(1, 100) i;";

/// A database made by `sql` of which every stream is selected and synced: the
/// content that a refusal must leave as it is.
fn synced(label: &str, sql: &str) -> Result<Project> {
    let project = project(label, sql)?;
    select_all(&project)?;
    project.sync()?;
    Ok(project)
}

fn select_all(project: &Project) -> Result<()> {
    let streams = project.streams()?;
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    project.select(&streams, plain())
}

/// `check` and sync say all `parts`, soon, and not the secret of the S3 store.
pub fn refused_by_the_store(project: &Project, parts: &[&str]) -> Result<()> {
    let said = |outcome: Outcome| -> Result<()> {
        ensure!(outcome.took < SOON, "it took {:?}", outcome.took);
        let stdout = outcome.stdout.clone();
        let told = outcome.failed()?;
        for part in parts {
            ensure!(told.contains(part), "{part:?} is not in: {told}");
        }
        ensure!(!(stdout + &told).contains(seaweed::SECRET), "a secret is in: {told}");
        Ok(())
    };
    said(project.run(&CHECK)?)?;
    said(project.run(&Project::SYNC)?)
}

/// Runs the sync, which must be refused; the error names each of `named`.
fn refused(project: &Project, named: &[&str]) -> Result<String> {
    refused_with(project, &[], named)
}

/// The same with further arguments.
fn refused_with(project: &Project, more: &[&str], named: &[&str]) -> Result<String> {
    let before = visible(project)?;
    refusal(project, &before, start(project, more)?, named)
}

/// The sync of this directory, with further arguments.
fn start(project: &Project, more: &[&str]) -> Result<Running> {
    project.start(&[&Project::SYNC[..], more].concat())
}

/// The same with a file of the directory changed, and then as it was.
fn refused_by(
    project: &Project,
    file: &str,
    change: impl FnOnce(&mut Value),
    named: &[&str],
) -> Result<String> {
    let former = project.read(file)?;
    project.edit(file, change)?;
    let error = refused(project, named).with_context(|| format!("{file} for {named:?}"));
    project.write(file, &former)?;
    error
}

/// Holds a sync under way against everything that a refusal must be.
fn refusal(
    project: &Project,
    before: &BTreeMap<PathBuf, Vec<u8>>,
    sync: Running,
    named: &[&str],
) -> Result<String> {
    let outcome = sync.wait()?;
    let all = format!("{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.status.code(), Some(1), "a refusal was expected:\n{all}");
    assert!(outcome.took < SOON, "it took {:?}:\n{all}", outcome.took);
    assert_eq!(outcome.stdout, "", "a failed sync has no result");
    assert!(!all.contains("panicked"), "{all}");
    shows_no_secret(project, &outcome, &[PASSWORD])?;

    let errors = all.lines().filter(|line| line.starts_with("error: ")).count();
    println!("{all}");
    assert_eq!(errors, 1, "one error, not {errors}:\n{all}");
    let (_, error) = all.split_once("error: ").context("an error")?;
    let (message, remedy) =
        error.split_once("\n  → ").with_context(|| format!("no remedy: {all}"))?;
    assert!(!message.trim().is_empty() && !remedy.trim().is_empty(), "{all}");
    for part in named {
        assert!(error.contains(part), "{part:?} is not named:\n{error}");
    }
    assert_eq!(visible(project)?, *before, "readers see something else:\n{all}");
    Ok(error.to_owned())
}

/// Runs the sync, which must leave some tables as they are, for what is wrong with
/// them, and sync the others; the error names each of `named`.
fn left_apart(project: &Project, named: &[&str]) -> Result<String> {
    let before = visible(project)?;
    let outcome = start(project, &[])?.wait()?;
    let all = format!("{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.status.code(), Some(1), "tables are to be left as they are:\n{all}");
    assert!(!all.contains("panicked"), "{all}");
    shows_no_secret(project, &outcome, &[PASSWORD])?;
    let summary: Value = serde_json::from_str(outcome.stdout.trim())?;
    assert_eq!(summary["status"], "INCOMPLETE", "{all}");
    let after = visible(project)?;
    for problem in summary["problems"].as_array().context("problems")? {
        let stream = problem["stream"].as_str().context("a stream")?;
        let (namespace, name) = stream.split_once('.').context("schema.table")?;
        let table = project.table(namespace, name);
        let of = |files: &BTreeMap<PathBuf, Vec<u8>>| {
            files.keys().filter(|path| path.starts_with(&table)).cloned().collect::<Vec<_>>()
        };
        assert_eq!(of(&before), of(&after), "{stream} is something else:\n{all}");
    }
    let (_, error) = all.split_once("error: ").context("an error")?;
    for part in named.iter().chain(&["\n    → "]) {
        assert!(error.contains(part), "{part:?} is not named:\n{error}");
    }
    Ok(error.to_owned())
}

/// Every file that a reader's `*.parquet` matches, with its bytes.
fn visible(project: &Project) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for path in watch::parquet_files(&project.output()) {
        let hidden = path.components().any(|part| part.as_os_str() == ".tidewater");
        if !hidden {
            let bytes = std::fs::read(&path)?;
            found.insert(path, bytes);
        }
    }
    Ok(found)
}

/// No secret, as it is or as JSON and Rust write it, is in an output or a file
/// that a command leaves.
pub fn shows_no_secret(project: &Project, outcome: &Outcome, secrets: &[&str]) -> Result<()> {
    let mut places = vec![
        ("stdout".to_owned(), outcome.stdout.clone()),
        ("stderr".to_owned(), outcome.stderr.clone()),
    ];
    for name in ["state.json", "stats.json", "streams.json"] {
        if let Ok(text) = std::fs::read_to_string(project.path().join(name)) {
            places.push((name.to_owned(), text));
        }
    }
    for secret in secrets {
        let json = serde_json::to_string(secret)?;
        let twice = serde_json::to_string(&json)?;
        let debug = format!("{secret:?}");
        for form in
            [*secret, json.trim_matches('"'), twice.trim_matches('"'), debug.trim_matches('"')]
        {
            for (place, text) in &places {
                assert!(!text.contains(form), "{place} shows the secret {secret:?}:\n{text}");
            }
        }
    }
    Ok(())
}
