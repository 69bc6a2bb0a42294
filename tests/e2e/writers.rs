//! Writers that hang, are slow, or come while a sync runs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tests::follow::{Followed, Into};
use tests::gate::{self, CHUNK, Gate};
use tests::going::end;
use tests::names::Names;
use tests::postgres::Database;
use tests::run::{Project, Running, poll, signal};
use tests::services::{Service, TOKEN, sync_through};
use tests::{moment, verify};

/// Seconds after which a silent peer is gone, short for a test's sake.
const PATIENCE: [&str; 2] = ["--peer-timeout", "2"];
const STREAMS: [&str; 2] = ["public.a", "public.b"];

/// Two tables of six chunks each, whose first chunks wait for the gate `first`, and
/// whose last ones for `second`.
fn project(label: &str) -> Result<Project> {
    let database = Database::new(label)?;
    gate::create(&database)?;
    for table in ["a", "b"] {
        let held = [(100, "first"), (CHUNK + 100, "first"), (5 * CHUNK + 50, "second")];
        gate::table(&database, table, 5 * CHUNK + 100, &held)?;
    }
    let project = Project::new(&database)?;
    project.discover()?;
    project.select(&STREAMS, gate::selection())?;
    Ok(project)
}

/// Chunks that a writer has staged.
fn staged(writer: &Service) -> usize {
    writer.log().lines().filter(|line| line.contains(r#""message":"staged""#)).count()
}

/// Waits until so many chunks wait for the gate `first`.
fn waiting(project: &Project, sync: &mut Running, chunks: usize) -> Result<()> {
    poll("chunks wait for their gate", || {
        ensure!(!sync.ended()?, "the sync ended: {}", sync.stop()?);
        let count = project.database().psql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND query LIKE 'COPY%' AND wait_event = 'PgSleep'",
        )?;
        Ok(count.parse::<usize>()? >= chunks)
    })
}

#[test]
fn a_writer_that_hangs_is_noticed_and_its_chunks_are_given_to_others() -> Result<()> {
    let project = project("writer_hangs")?;
    let source = Service::source(&PATIENCE)?;
    let writers = [Service::writer(&PATIENCE)?, Service::writer(&PATIENCE)?];
    let mut arguments = sync_through(Some(&source), &[&writers[0], &writers[1]]);
    arguments.extend(PATIENCE.map(str::to_owned));
    let gate = Gate::shut(project.database(), "first")?;
    let mut sync = project.start(&arguments)?;
    // Writers take turns: of three chunks that are read, each has one.
    waiting(&project, &mut sync, 3)?;
    signal(writers[0].pid(), "STOP")?;
    drop(gate);
    let said = sync.wait()?.succeeded()?.stderr;
    ensure!(said.contains("trying again"), "no chunk was taken from the one that hangs: {said}");
    verify::same_as_source(&project, &STREAMS)?;
    let had = staged(&writers[0]);

    // Back again, it is used again, and knows nothing that would disturb.
    signal(writers[0].pid(), "CONT")?;
    project.run(&arguments)?.succeeded()?;
    verify::same_as_source(&project, &STREAMS)?;
    ensure!(staged(&writers[0]) > had, "the writer that was back was not used");
    assert_eq!(moment::leftovers(&project), Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn a_writer_that_hangs_from_the_start_is_an_error_that_names_it() -> Result<()> {
    let project = project("writer_hangs_at_once")?;
    let writers = [Service::writer(&[])?, Service::writer(&[])?];
    let mut arguments = sync_through(None, &[&writers[0], &writers[1]]);
    arguments.extend(PATIENCE.map(str::to_owned));
    signal(writers[0].pid(), "STOP")?;
    let said = project.run(&arguments)?.failed()?;
    ensure!(said.contains(writers[0].address()) && said.contains("does not answer"), "{said}");
    Ok(())
}

#[test]
fn changes_go_through_the_others_when_a_writer_hangs() -> Result<()> {
    let followed = Followed::new(
        Into::Iceberg,
        "writer_hangs_following",
        "CREATE TABLE a (id int PRIMARY KEY, v text);
         CREATE TABLE b (id int PRIMARY KEY, v text);
         INSERT INTO a SELECT i, 'a' FROM generate_series(1, 100) i;
         INSERT INTO b SELECT i, 'b' FROM generate_series(1, 100) i;",
    )?;
    let writers = [Service::writer(&PATIENCE)?, Service::writer(&PATIENCE)?];
    let mut arguments = sync_through(None, &[&writers[0], &writers[1]]);
    arguments.extend(PATIENCE.map(str::to_owned));
    let mut going = followed.go_on_through(&arguments, 1)?;
    followed.caught_up(&mut going)?;
    signal(writers[0].pid(), "STOP")?;
    for _ in 0..3 {
        followed.psql("UPDATE a SET v = v || '.'; UPDATE b SET v = v || '.' WHERE id % 2 = 0")?;
        followed.caught_up(&mut going)?;
        followed.equals(&STREAMS)?;
    }
    signal(writers[0].pid(), "CONT")?;
    followed.psql("DELETE FROM a WHERE id < 10; INSERT INTO b VALUES (101, 'new')")?;
    followed.caught_up(&mut going)?;
    end(going)?;
    followed.equals(&STREAMS)
}

#[test]
fn a_slow_writer_does_not_stop_the_others() -> Result<()> {
    let project = project("writer_slow")?;
    let source = Service::source(&[])?;
    let writers = [Service::writer(&[])?, Service::writer(&[])?];
    let arguments = sync_through(Some(&source), &[&writers[0], &writers[1]]);
    let gate = Gate::shut(project.database(), "first")?;
    let mut sync = project.start(&arguments)?;
    waiting(&project, &mut sync, 3)?;
    // As slow as can be, and not yet so long that it counts as gone.
    signal(writers[0].pid(), "STOP")?;
    drop(gate);
    // Of three readers, two at most wait for it.
    poll("all is staged but what the slow one has", || {
        ensure!(!sync.ended()?, "the sync ended: {}", sync.stop()?);
        Ok(staged(&writers[0]) + staged(&writers[1]) >= 12 - 2)
    })?;
    let had = staged(&writers[0]);
    signal(writers[0].pid(), "CONT")?;
    let said = sync.wait()?.succeeded()?.stderr;
    ensure!(!said.contains("trying again"), "{said}");
    ensure!(staged(&writers[0]) > had, "what the slow one had was given to another");
    verify::same_as_source(&project, &STREAMS)
}

#[test]
fn a_writer_that_is_added_while_a_sync_runs_is_used() -> Result<()> {
    let project = project("writer_added")?;
    let source = Service::source(&[])?;
    let first = Service::writer(&[])?;
    let port = first.address().rsplit_once(':').context("host:port")?.1.to_owned();
    let names = Names::new(project.path(), &[("writers.test", "127.0.0.1")])?;
    let mut arguments: Vec<String> = Project::SYNC.map(str::to_owned).into();
    let behind = format!("dns://writers.test:{port}");
    arguments.extend(["--source", source.address(), "--writer", &behind].map(str::to_owned));
    arguments.extend(["--token", TOKEN].map(str::to_owned));
    let first_gate = Gate::shut(project.database(), "first")?;
    let second_gate = Gate::shut(project.database(), "second")?;
    let mut command = project.command(&arguments)?;
    names.apply(&mut command);
    let mut sync = Running::spawn(command)?;
    waiting(&project, &mut sync, 3)?;

    let second = Service::writer_at(&format!("127.0.0.2:{port}"), &[])?;
    names.write(&[("writers.test", "127.0.0.1"), ("writers.test", "127.0.0.2")])?;
    poll("the new writer is connected to", || {
        ensure!(!sync.ended()?, "the sync ended: {}", sync.stop()?);
        Ok(connections(&second)? > 0)
    })?;
    drop((first_gate, second_gate));
    sync.wait()?.succeeded()?;
    ensure!(staged(&second) > 0, "the new writer has staged nothing");
    verify::same_as_source(&project, &STREAMS)
}

/// Connections that are made to a service.
fn connections(service: &Service) -> Result<usize> {
    let (host, port) = service.address().rsplit_once(':').context("host:port")?;
    let address: std::net::Ipv4Addr = host.parse()?;
    // As the kernel prints it: the address in the machine's order, in hexadecimal.
    let local =
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.octets()), port.parse::<u16>()?);
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let established = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(local.as_str()) && words.nth(1) == Some("01")
    };
    Ok(table.lines().filter(established).count())
}
