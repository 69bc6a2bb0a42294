//! The hand-off: a load's snapshot, and the log from exactly there.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tests::capture::{Capture, rows};
use tests::postgres::{Database, Options, Server};

use super::{drop_slots, on_both_ends};

/// Sessions that write all the while: each transaction a row of a table
/// without a key, and of one with.
const WRITER: &str = "DO $$ BEGIN
  FOR i IN 1..100000 LOOP
    INSERT INTO log (who, n) VALUES (pg_backend_pid(), i);
    INSERT INTO pairs VALUES (pg_backend_pid() % 7, i) ON CONFLICT (k) DO UPDATE SET n = EXCLUDED.n;
    COMMIT;
  END LOOP; END $$";

#[test]
fn a_load_and_the_log_after_it_have_every_row_once_while_others_write() -> Result<()> {
    on_both_ends("handoff_writers", |database, capture| {
        database.psql(
            "CREATE TABLE log (who int, n int); CREATE TABLE pairs (k int PRIMARY KEY, n int)",
        )?;
        let tables = ["public.log", "public.pairs"];
        capture.open("handoff_writers", &tables)?;
        let writers: Vec<_> =
            (0..3).map(|_| database.psql_background(WRITER)).collect::<Result<_>>()?;
        let grown = |beyond: u64| -> Result<u64> {
            loop {
                let count: u64 = database.psql("SELECT count(*) FROM log")?.parse()?;
                if count > beyond {
                    return Ok(count);
                }
            }
        };
        let before = grown(200)?;
        let (load, loaded) = capture.load("handoff_writers", &tables)?;
        grown(before + 500)?;
        drop(writers);
        let gone = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name LIKE 'background%'";
        while database.psql(gone)? != "0" {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let truth = |query: &str| database.psql(query);
        let run = capture.run("handoff_writers", &tables, |request| {
            for table in &mut request.tables {
                table.position = load.consistent_point.clone();
            }
        })?;
        ensure!(run.lost.is_empty(), "{:?}", run.lost);
        // Without a key: every row, as often as it is there.
        let mut log = rows(&loaded["public.log"], 0, false)?;
        let loaded_rows = log.len();
        log.extend(run.rows("public.log")?.iter().map(|row| row.replacen("c ", "", 1)));
        log.sort();
        let mut expected: Vec<String> = truth("SELECT format('who=%s n=%s', who, n) FROM log")?
            .lines()
            .map(str::to_owned)
            .collect();
        expected.sort();
        ensure!(log == expected, "{} rows, {} expected", log.len(), expected.len());
        ensure!(loaded_rows > 0 && loaded_rows < expected.len(), "{loaded_rows}");
        // With one: the last of each.
        let mut pairs: BTreeMap<String, String> = BTreeMap::new();
        let changes = run.rows("public.pairs")?;
        let first = rows(&loaded["public.pairs"], 0, false)?;
        let changes = changes.iter().map(|row| row.get(2..).unwrap_or_default().to_owned());
        for row in first.into_iter().chain(changes) {
            let (key, value) = row.split_once(' ').context("two columns")?;
            pairs.insert(key.to_owned(), value.to_owned());
        }
        let pairs: Vec<String> =
            pairs.iter().map(|(key, value)| format!("{key} {value}")).collect();
        let query = "SELECT format('k=%s n=%s', k, n) FROM pairs ORDER BY k";
        assert_eq!(pairs.join("\n"), truth(query)?);
        Ok(())
    })
}

#[test]
fn a_hand_off_leaves_no_slot_and_no_walsender_behind_and_keeps_the_tables() -> Result<()> {
    on_both_ends("handoff_keeper", |database, capture| {
        database.psql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")?;
        capture.open("handoff_keeper", &["public.t"])?;
        let load = capture.open_load("handoff_keeper", &["public.t"])?;
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        assert_eq!(database.psql(slots)?, "1");
        let senders = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND backend_type = 'walsender'";
        assert_eq!(database.psql(senders)?, "0");
        // TRUNCATE would make the snapshot read no rows: it waits.
        let refused = database.psql("SET lock_timeout = '200ms'; TRUNCATE t").unwrap_err();
        ensure!(refused.to_string().contains("lock timeout"), "{refused}");
        database.psql("INSERT INTO t VALUES (2)")?;
        let read = capture.read_load(&load)?;
        assert_eq!(rows(&read["public.t"], 0, false)?, ["id=1"]);
        let run = capture.run("handoff_keeper", &["public.t"], |request| {
            request.tables[0].position = load.consistent_point.clone();
        })?;
        assert_eq!(run.rows("public.t")?, ["c id=2"]);
        Ok(())
    })
}

#[test]
fn a_hand_off_without_its_slot_is_refused() -> Result<()> {
    let (_database, mut capture) =
        super::capture("handoff_none", "CREATE TABLE t (id int PRIMARY KEY)")?;
    let refused = capture.open_load("handoff_none", &["public.t"]).unwrap_err();
    ensure!(refused.message.contains("\"handoff_none\" does not exist"), "{refused}");
    Ok(())
}

#[test]
fn a_hand_off_works_over_tls_and_by_a_role_that_may_only_read_and_replicate() -> Result<()> {
    let (database, mut capture) = super::capture(
        "handoff_tls",
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);
         DROP ROLE IF EXISTS handoff_reader;
         CREATE ROLE handoff_reader LOGIN REPLICATION PASSWORD 'pw';
         GRANT SELECT ON t TO handoff_reader",
    )?;
    capture.open("handoff_tls", &["public.t"])?;
    capture.config.username = "handoff_reader".to_owned();
    capture.config.password = "pw".to_owned();
    let mode = proto::v1::ssl::Mode::Require.into();
    capture.config.ssl = Some(proto::v1::Ssl { mode, ..Default::default() });
    capture.open("handoff_tls", &["public.t"])?;
    let (load, read) = capture.load("handoff_tls", &["public.t"])?;
    assert_eq!(read["public.t"].num_rows(), 1);
    database.psql("INSERT INTO t VALUES (2)")?;
    let run = capture.run("handoff_tls", &["public.t"], |request| {
        request.tables[0].position = load.consistent_point;
    })?;
    assert_eq!(run.rows("public.t")?, ["c id=2"]);
    drop_slots(&database)?;
    database.psql("DROP OWNED BY handoff_reader; DROP ROLE handoff_reader")?;
    Ok(())
}

#[test]
fn a_hand_off_that_waits_for_a_writer_names_it() -> Result<()> {
    // A server of its own: it waits for the writers of every database.
    let server = std::sync::Arc::new(Server::start(&Options::default())?);
    let database = Database::on(&server, "handoff_wait")?;
    database.psql("CREATE TABLE t (id int PRIMARY KEY)")?;
    let mut capture = Capture::new(&database)?;
    capture.open("handoff_wait", &["public.t"])?;
    let writer =
        database.psql_background("BEGIN; INSERT INTO t VALUES (1); SELECT pg_sleep(100)")?;
    while database.psql("SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL")?
        == "0"
    {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    capture.config.lock_timeout_ms = 300;
    let refused = capture.open_load("handoff_wait", &["public.t"]).unwrap_err();
    ensure!(refused.message.contains("pg_sleep(100)") && refused.transient, "{refused}");
    drop(writer);
    capture.config.lock_timeout_ms = 0;
    capture.open_load("handoff_wait", &["public.t"])?;
    Ok(())
}
