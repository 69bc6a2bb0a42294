//! One trace of a sync through all services, by OTLP.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use tests::collector::{Collector, Span, ancestors};
use tests::follow::{Followed, Into};
use tests::run::{Project, poll};
use tests::services::{Service, sync_through};

const SQL: &str = "
    CREATE TABLE a (id int PRIMARY KEY, v text);
    CREATE TABLE b (id int PRIMARY KEY, v text);
    INSERT INTO a SELECT i, 'a' FROM generate_series(1, 100) i;
    INSERT INTO b SELECT i, 'b' FROM generate_series(1, 100) i;";

/// The spans of one service by name.
fn named<'s>(spans: &'s [Span], service: &str, name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.service == service && span.name == name).collect()
}

/// What lies above a span: "service name", nearest first.
fn above(spans: &[Span], span: &Span) -> Result<Vec<String>> {
    let above = ancestors(spans, span)?;
    Ok(above.iter().map(|span| format!("{} {}", span.service, span.name)).collect())
}

#[test]
fn one_trace_has_the_way_of_a_sync_through_all_services() -> Result<()> {
    let collector = Collector::start()?;
    let environment = collector.environment();
    let followed = Followed::new(Into::Iceberg, "traces", SQL)?;
    let source = Service::start("source-svc", &[], &environment)?;
    let writer = Service::start("writer-svc", &[], &environment)?;
    let arguments = sync_through(Some(&source), &[&writer]);
    let sync = || followed.project.start_with(&arguments, &environment)?.wait()?.succeeded();
    sync()?;
    followed.psql("UPDATE a SET v = 'c' WHERE id < 50")?;
    sync()?;
    let done = |spans: &[Span]| {
        let of = |service, name| named(spans, service, name).len();
        of("orchestrator", "sync") == 2
            && of("writer-svc", "commit") >= 3
            && of("writer-svc", "stage") >= 3
            && of("source-svc", "replicate") >= 2
    };
    poll("all spans are exported", || Ok(done(&collector.spans())))?;
    // Spans end below before above: the rest comes with the next batch.
    poll("every parent is exported", || {
        let spans = collector.spans();
        Ok(spans.iter().all(|span| ancestors(&spans, span).is_ok()))
    })?;
    let spans = collector.spans();

    let syncs = named(&spans, "orchestrator", "sync");
    ensure!(syncs.iter().all(|sync| sync.parent.is_empty()), "{syncs:?}");
    for sync in &syncs {
        let services: BTreeSet<&str> = spans
            .iter()
            .filter(|span| span.trace == sync.trace)
            .map(|span| span.service.as_str())
            .collect();
        assert_eq!(services, BTreeSet::from(["orchestrator", "source-svc", "writer-svc"]));
    }
    // A load's chunk on its way, and its commit.
    let stage = named(&spans, "writer-svc", "stage");
    let loaded = stage
        .iter()
        .find(|span| {
            span.attributes.get("kind").is_some_and(|kind| kind == "data")
                && span.attributes.get("stream").is_some_and(|stream| stream == "public.b")
        })
        .context("the chunk of b")?;
    assert_eq!(
        above(&spans, loaded)?,
        [
            "writer-svc arrow.flight.protocol.FlightService/DoPut",
            "source-svc read",
            "source-svc tidewater.v1.Source/ReadChunk",
            "orchestrator chunk",
            "orchestrator stream",
            "orchestrator load",
            "orchestrator sync"
        ]
    );
    let commits = named(&spans, "writer-svc", "commit");
    let of_load: Vec<_> = commits
        .iter()
        .map(|commit| above(&spans, commit))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|above| above.contains(&"orchestrator load".to_owned()))
        .collect();
    assert_eq!(of_load.len(), 2, "{of_load:?}");
    for above in of_load {
        assert_eq!(
            above,
            [
                "writer-svc tidewater.v1.Writer/Commit",
                "orchestrator commit",
                "orchestrator stream",
                "orchestrator load",
                "orchestrator sync"
            ]
        );
    }
    // An interval of changes.
    let changed = stage
        .iter()
        .find(|span| span.attributes.get("kind").is_some_and(|kind| kind == "changes"))
        .context("the changes of a")?;
    let way = above(&spans, changed)?;
    ensure!(way.contains(&"source-svc replicate".to_owned()), "{way:?}");
    assert_eq!(way.last().map(String::as_str), Some("orchestrator sync"), "{way:?}");
    let of_interval = commits.iter().find(|commit| {
        above(&spans, commit).is_ok_and(|above| above.contains(&"orchestrator interval".to_owned()))
    });
    let position = of_interval.context("a commit of an interval")?.attributes.get("position");
    ensure!(position.is_some_and(|position| position.contains('/')), "{position:?}");
    // Figures take the same way.
    poll("figures are exported", || {
        let of = |service, name| collector.figures(service).contains(name);
        Ok(of("source-svc", "tidewater.sent.rows")
            && of("writer-svc", "tidewater.commit.duration")
            && of("orchestrator", "tidewater.sync.commit.rows"))
    })
}

#[test]
fn services_that_a_sync_starts_itself_are_in_its_trace() -> Result<()> {
    let collector = Collector::start()?;
    let project = crate::project("traces_local", SQL)?;
    let environment = collector.environment();
    project.start_with(&Project::SYNC, &environment)?.wait()?.succeeded()?;
    let spans = collector.spans();
    let commits = named(&spans, "writer-svc", "commit");
    assert_eq!(commits.len(), 2, "{spans:?}");
    for commit in commits {
        let above = above(&spans, commit)?;
        assert_eq!(above.last().map(String::as_str), Some("orchestrator sync"), "{above:?}");
    }
    Ok(())
}

#[test]
fn a_collector_that_is_not_there_or_not_asked_rightly_is_told() -> Result<()> {
    let project = crate::project("traces_none", SQL)?;
    let [port] = tests::supervised::free_ports()?;
    let gone = format!("http://127.0.0.1:{port}");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", gone.as_str());
    project.start_with(&Project::SYNC, &[endpoint])?.wait()?.succeeded()?;
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let said = project.start_with(&Project::SYNC, &[endpoint, http])?.wait()?.failed()?;
    ensure!(said.contains("by gRPC only") && said.contains("OTEL_EXPORTER_OTLP_PROTOCOL=grpc"));
    Ok(())
}
