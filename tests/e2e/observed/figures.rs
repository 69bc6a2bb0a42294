//! Figures for Prometheus, of each service.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tests::builds::Build;
use tests::figures::Figures;
use tests::follow::{self, Followed, Into};
use tests::going::end;
use tests::run::{Project, Running, poll};
use tests::services::{Service, TOKEN, sync_through};
use tests::supervised::{free_ports, http};

const SERVED: [&str; 2] = ["--metrics", "127.0.0.1:0"];
const STREAM: &str = r#"stream="public.a""#;

/// Three processes that serve figures, of a sync that goes on.
struct Watched {
    followed: Followed,
    source: Service,
    writer: Service,
    going: Running,
    address: String,
}

impl Watched {
    fn start(label: &str) -> Result<Watched> {
        let server = Arc::new(follow::start(&Build::newest()?)?);
        let followed = Followed::at(
            &server,
            Into::Iceberg,
            label,
            "ALTER SYSTEM SET max_slot_wal_keep_size = '1GB';
             SELECT pg_reload_conf();
             CREATE TABLE a (id int PRIMARY KEY, v text);
             INSERT INTO a SELECT i, 'a' FROM generate_series(1, 100) i;",
        )?;
        let (source, writer) = (Service::source(&SERVED)?, Service::writer(&SERVED)?);
        let [port] = free_ports()?;
        let address = format!("127.0.0.1:{port}");
        let mut arguments = sync_through(Some(&source), &[&writer]);
        arguments.extend(["--metrics".to_owned(), address.clone()]);
        let going = followed.go_on_through(&arguments, 1)?;
        Ok(Watched { followed, source, writer, going, address })
    }

    /// Waits until what is committed now is replicated, and the sync knows it.
    fn catch_up(&mut self) -> Result<()> {
        self.followed.caught_up(&mut self.going)?;
        poll("the sync says how late it is", || {
            Ok(Figures::of(&self.address)?.sum("tidewater_sync_lag_seconds", &[]).is_some())
        })
    }

    /// Of the source, the writer, and the sync.
    fn look(&self) -> Result<[Figures; 3]> {
        Ok([
            Figures::of(self.source.metrics()?)?,
            Figures::of(self.writer.metrics()?)?,
            Figures::of(&self.address)?,
        ])
    }
}

#[test]
fn every_service_serves_what_it_has_done_and_how_far_it_is() -> Result<()> {
    let mut watched = Watched::start("figures")?;
    watched.catch_up()?;
    let [source, writer, sync] = watched.look()?;
    let loaded = [STREAM, r#"kind="load""#];
    assert_eq!(source.expect("tidewater_sent_rows_total", &loaded)?, 100.0);
    assert_eq!(source.expect("tidewater_sent_batches_total", &loaded)?, 1.0);
    let bytes = source.expect("tidewater_sent_bytes_total", &loaded)?;
    ensure!(bytes > 500.0, "{bytes}");
    assert_eq!(writer.expect("tidewater_received_rows_total", &[STREAM])?, 100.0);
    assert_eq!(writer.expect("tidewater_commit_rows_total", &[STREAM])?, 100.0);
    assert_eq!(sync.expect("tidewater_sync_commit_rows_total", &[STREAM])?, 100.0);

    watched.followed.psql("INSERT INTO a SELECT i, 'b' FROM generate_series(101, 150) i")?;
    watched.followed.psql("DELETE FROM a WHERE id <= 10")?;
    watched.catch_up()?;
    let [source, writer, sync] = watched.look()?;
    let changed = [STREAM, r#"kind="changes""#];
    assert_eq!(source.expect("tidewater_sent_rows_total", &changed)?, 60.0);
    assert_eq!(writer.expect("tidewater_received_rows_total", &changed)?, 60.0);
    assert_eq!(writer.expect("tidewater_commit_rows_total", &[STREAM])?, 150.0);
    let made = writer.expect("tidewater_commit_duration_seconds_count", &[r#"outcome="made""#])?;
    ensure!(made >= 2.0, "{made}");
    let within = writer.expect("tidewater_commit_duration_seconds_bucket", &[r#"le="+Inf""#])?;
    assert_eq!(within, made);
    assert_eq!(sync.expect("tidewater_sync_commit_duration_seconds_count", &[])?, made);
    for idle in [&source, &writer] {
        assert_eq!(idle.expect("tidewater_queue_batches", &[])?, 0.0);
    }
    assert_eq!(writer.expect("tidewater_staging_streams", &[])?, 0.0);
    for figures in [&source, &writer, &sync] {
        let memory = figures.expect("process_memory_usage_bytes", &[])?;
        ensure!((1e6..1e9).contains(&memory), "{memory}");
        ensure!(figures.expect("process_cpu_time_seconds_total", &[])? > 0.0);
    }
    // What was written since is behind, until the next look.
    let slot = format!("slot=\"{}\"", follow::slot(&watched.followed.project));
    for figure in ["lag_bytes", "lag_seconds", "retained_wal_bytes", "safe_wal_bytes"] {
        let figure = sync.expect(&format!("tidewater_sync_{figure}"), &[&slot])?;
        ensure!((0.0..2e9).contains(&figure), "{figure}");
    }
    poll("nothing is behind", || {
        Ok(Figures::of(&watched.address)?.expect("tidewater_sync_lag_bytes", &[&slot])? == 0.0)
    })?;
    end(watched.going)?;
    Ok(())
}

#[test]
fn what_fails_is_counted_by_its_kind() -> Result<()> {
    let source = Service::source(&SERVED)?;
    let project = crate::project("figures_errors", "CREATE TABLE a (id int PRIMARY KEY)")?;
    project.edit("source.json", |file| file["password"] = "wrong".into())?;
    let arguments =
        ["check", "--config", "source.json", "--source", source.address(), "--token", TOKEN];
    project.run(&arguments)?.failed()?;
    let figures = Figures::of(source.metrics()?)?;
    let refused = figures.expect("tidewater_errors_total", &[r#"kind="authentication""#])?;
    assert_eq!(refused, 1.0);
    Ok(())
}

#[test]
fn figures_are_served_where_they_are_asked_for_and_nothing_else_is() -> Result<()> {
    let source = Service::source(&SERVED)?;
    let address = source.metrics()?;
    for (request, status) in [("GET /", "404"), ("GET /metrics/x", "404"), ("POST /metrics", "405")]
    {
        let answer = http(address, request, "")?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    // Without the flag there is no address; one that is taken is an error.
    ensure!(Service::source(&[])?.metrics().is_err());
    let said = Service::source(&["--metrics", address]).err().context("the port was taken")?;
    let said = format!("{said:#}");
    ensure!(said.contains("serving metrics on") && said.contains("--metrics"), "{said}");
    let project = crate::project("figures_taken", "CREATE TABLE a (id int PRIMARY KEY)")?;
    let said =
        project.run(&["check", "--config", "source.json", "--metrics", address])?.failed()?;
    ensure!(said.contains("serving metrics on"), "{said}");
    Ok(())
}

/// Every figure in the expressions of the dashboard.
fn shown() -> Result<BTreeSet<String>> {
    let file = tests::parts::package().join("../deploy/grafana/tidewater.json");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let dashboard: serde_json::Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut names = BTreeSet::new();
    for target in targets {
        let expression = target["expr"].as_str().context("an expression")?;
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let ours = |word: &&str| word.starts_with("tidewater_") || word.starts_with("process_");
        names.extend(words.filter(ours).map(str::to_owned));
    }
    Ok(names)
}

#[test]
fn the_dashboard_shows_figures_that_are_there() -> Result<()> {
    let mut watched = Watched::start("dashboard")?;
    watched.catch_up()?;
    // Something fails, so that what fails is counted.
    let project = crate::project("dashboard_error", "CREATE TABLE a (id int PRIMARY KEY)")?;
    project.edit("source.json", |file| file["password"] = "wrong".into())?;
    let source = watched.source.address();
    let check = ["check", "--config", "source.json", "--source", source, "--token", TOKEN];
    project.run(&check)?.failed()?;
    let served: BTreeSet<String> =
        watched.look()?.iter().flat_map(|figures| figures.names()).collect();
    let shown = shown()?;
    ensure!(shown.len() > 10, "{shown:?}");
    let part = |name: &String| {
        let parts = ["_bucket", "_sum", "_count"];
        let whole = parts.iter().find_map(|part| name.strip_suffix(part));
        whole.unwrap_or(name).to_owned()
    };
    let absent: Vec<_> = shown.iter().filter(|name| !served.contains(&part(name))).collect();
    ensure!(absent.is_empty(), "{absent:?} are shown; there are {served:?}");
    // And what is served is shown, but for what has no place in it.
    let unseen: Vec<_> = served
        .iter()
        .filter(|name| !shown.iter().any(|shown| part(shown) == **name))
        .filter(|name| *name != "target_info")
        .collect();
    ensure!(unseen.is_empty(), "{unseen:?} are not shown");
    end(watched.going)?;
    Ok(())
}

#[test]
fn a_bounded_sync_serves_figures_while_it_runs() -> Result<()> {
    let project = tests::gate::project("figures_bounded")?;
    let gate = tests::gate::Gate::shut(project.database(), "second")?;
    let [port] = free_ports()?;
    let address = format!("127.0.0.1:{port}");
    let mut arguments = Project::SYNC.to_vec();
    arguments.extend(["--metrics", &address]);
    let sync = project.start(&arguments)?;
    poll("a chunk is being read", || {
        let Ok(figures) = Figures::of(&address) else { return Ok(false) };
        let reading = figures.sum("tidewater_sync_reading_chunks", &[]);
        Ok(reading.is_some_and(|reading| reading > 0.0))
    })?;
    drop(gate);
    sync.wait()?.succeeded()?;
    Ok(())
}
