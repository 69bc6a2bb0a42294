//! No secret is in anything that is written, kept, served or exported.

use std::path::Path;

use anyhow::{Result, ensure};
use tests::collector::Collector;
use tests::figures::Figures;
use tests::follow;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::seaweed;
use tests::iceberg::warehouse::Warehouse;
use tests::postgres::PASSWORD;
use tests::run::{Outcome, Project};
use tests::services::{Service, TOKEN, sync_through};
use tests::supervised::percent_encoded;

/// A password and a key that are wrong, and secrets all the same.
const WRONG: &str = "wrong-and-secret-all-the-same";

/// A secret in every form that careless printing gives it.
fn forms(secret: &str) -> [String; 4] {
    let quoted = |text: &str| format!("{text:?}").trim_matches('"').to_owned();
    [secret.to_owned(), quoted(secret), quoted(&quoted(secret)), percent_encoded(secret)]
}

/// Where secrets could be: what it is called, and its text.
type Texts = Vec<(String, String)>;

/// All that a project keeps, but the files in which its user wrote the secrets.
fn kept(directory: &Path, texts: &mut Texts) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            kept(&path, texts)?;
        } else if !["source.json", "destination.json"].contains(&name.as_str()) {
            let content = std::fs::read(&path)?;
            texts.push((name, String::from_utf8_lossy(&content).into_owned()));
        }
    }
    Ok(())
}

fn said(what: &str, outcome: Outcome, texts: &mut Texts) {
    texts.push((what.to_owned(), outcome.stdout + &outcome.stderr));
}

#[test]
fn no_secret_is_in_logs_errors_traces_figures_or_state() -> Result<()> {
    for catalog in [Catalog::Postgres, Catalog::Rest] {
        let project = follow::project(
            "secrets",
            "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, 'x');",
        )?;
        let warehouse = Warehouse::start(Pair { catalog, store: Store::S3 })?;
        project.write("destination.json", &warehouse.destination())?;
        let collector = Collector::start()?;
        let mut environment = vec![("TIDEWATER_LOG", "trace")];
        environment.extend(collector.environment());
        let served = ["--metrics", "127.0.0.1:0"];
        let source = Service::start("source-svc", &served, &environment)?;
        let writer = Service::start("writer-svc", &served, &environment)?;
        let apart = sync_through(Some(&source), &[&writer]);
        let mut texts = Texts::new();
        let run = |arguments: &[String]| project.start_with(arguments, &environment)?.wait();
        let command = |name: &str| {
            let mut arguments = apart.clone();
            arguments[0] = name.to_owned();
            arguments
        };

        said("sync", run(&apart)?.succeeded()?, &mut texts);
        project.database().psql("UPDATE a SET v = 'y'; INSERT INTO a VALUES (2, 'z')")?;
        said("sync again", run(&apart)?.succeeded()?, &mut texts);
        for name in ["check", "discover", "status"] {
            said(name, run(&command(name))?.succeeded()?, &mut texts);
        }
        // Services of its own, at the end of whose log an error looks.
        let local = Project::SYNC.map(str::to_owned);
        said("sync alone", run(&local)?.succeeded()?, &mut texts);
        // What is refused says why.
        for (file, key) in [("source.json", "password"), ("destination.json", "aws_secret_key")] {
            let before = project.read(file)?;
            project.edit(file, |file| match file.get("writer").is_some() {
                true => file["writer"][key] = WRONG.into(),
                false => file[key] = WRONG.into(),
            })?;
            said(&format!("a wrong {key}"), run(&apart)?, &mut texts);
            said(&format!("a wrong {key}, alone"), run(&local)?, &mut texts);
            project.write(file, &before)?;
        }
        let mut other = apart.clone();
        if let Some(token) = other.iter_mut().find(|argument| *argument == TOKEN) {
            *token = WRONG.to_owned();
        }
        said("a wrong token", run(&other)?, &mut texts);

        for (name, service) in [("source-svc", &source), ("writer-svc", &writer)] {
            let log = service.log();
            ensure!(log.contains(r#""level":"TRACE""#), "{name} has not logged everything");
            texts.push((format!("the log of {name}"), log));
            let figures = Figures::of(service.metrics()?)?;
            texts.push((format!("the figures of {name}"), figures.text().to_owned()));
        }
        let traces = collector.text();
        ensure!(traces.contains("commit") && traces.contains("public.a"), "nothing was exported");
        texts.push(("what is exported".to_owned(), traces));
        kept(project.path(), &mut texts)?;
        ensure!(texts.iter().any(|(name, _)| name == "state.json"), "there is no state");
        for secret in [PASSWORD, TOKEN, seaweed::SECRET, WRONG] {
            for form in forms(secret) {
                for (name, text) in &texts {
                    let Some(at) = text.find(&form) else { continue };
                    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
                    let line: String = text[line..].chars().take(2000).collect();
                    anyhow::bail!("{secret:?} is in {name} ({catalog:?}): {line}");
                }
            }
        }
    }
    Ok(())
}
