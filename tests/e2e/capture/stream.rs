//! The stream: every kind of change, in order, exactly what lies in an interval.

use anyhow::{Result, ensure};
use tests::capture::{Capture, texts};
use tests::postgres::Database;

use super::{capture, drop_slots, on_both_ends};

const T: &str = "public.t";

#[test]
fn changes_come_in_commit_order_and_only_those_that_were_committed() -> Result<()> {
    on_both_ends("stream_kinds", |database, capture| {
        database.psql("CREATE TABLE t (id int PRIMARY KEY, v text)")?;
        capture.open("stream_kinds", &[T])?;
        database.psql(
            "INSERT INTO t VALUES (1, 'a'), (2, NULL);
             BEGIN; INSERT INTO t VALUES (3, 'kept'); SAVEPOINT s;
               INSERT INTO t VALUES (4, 'undone'); UPDATE t SET v = 'undone' WHERE id = 1;
               ROLLBACK TO s; UPDATE t SET v = 'b' WHERE id = 2; COMMIT;
             BEGIN; INSERT INTO t VALUES (5, 'undone'); ROLLBACK;
             UPDATE t SET id = 30 WHERE id = 3;
             DELETE FROM t WHERE id = 1",
        )?;
        let run = capture.run("stream_kinds", &[T], |_| ())?;
        assert_eq!(
            run.rows(T)?,
            [
                "c id=1 v=a",
                "c id=2",
                "c id=3 v=kept",
                "u id=2 v=b",
                "d id=3",
                "u id=30 v=kept",
                "d id=1"
            ]
        );
        ensure!(run.lost.is_empty(), "{:?}", run.lost);
        // Times and places of commits, in order; a transaction's are one.
        let batch = run.batch(T)?;
        let lsns = texts(&batch, "_cdc_lsn")?;
        ensure!(lsns[0] == lsns[1] && lsns[2] == lsns[3] && lsns[1] != lsns[2], "{lsns:?}");
        // What was confirmed is not sent again.
        let again = capture.run("stream_kinds", &[T], |_| ())?;
        ensure!(again.rows(T)?.is_empty());
        Ok(())
    })
}

#[test]
fn an_interval_ends_with_a_transaction_and_the_next_begins_there() -> Result<()> {
    on_both_ends("stream_windows", |database, capture| {
        database.psql("CREATE TABLE t (id int PRIMARY KEY)")?;
        capture.open("stream_windows", &[T])?;
        for first in [1, 11, 21] {
            database
                .psql(&format!("INSERT INTO t SELECT generate_series({first}, {first} + 9)"))?;
        }
        let run = capture.run("stream_windows", &[T], |request| request.interval_changes = 1)?;
        let rows: Vec<String> = (1..=30).map(|id| format!("c id={id}")).collect();
        assert_eq!(run.rows(T)?, rows);
        let with_rows = run.intervals.iter().filter(|interval| !interval.tables.is_empty());
        ensure!(with_rows.count() == 3, "{:?}", run.intervals);
        for pair in run.intervals.windows(2) {
            ensure!(pair[0].to == pair[1].from && pair[0].number + 1 == pair[1].number, "{pair:?}");
        }
        ensure!(run.intervals.last().is_some_and(|last| last.to == run.finished));
        Ok(())
    })
}

#[test]
fn a_position_is_an_end_and_what_ends_at_it_does_not_come_again() -> Result<()> {
    on_both_ends("stream_position", |database, capture| {
        database.psql("CREATE TABLE t (id int PRIMARY KEY)")?;
        capture.open("stream_position", &[T])?;
        database.psql("INSERT INTO t VALUES (1)")?;
        let request = |capture: &Capture, position: &str| {
            let mut request = capture.request("stream_position", &[T])?;
            request.tables[0].position = position.to_owned();
            anyhow::Ok(request)
        };
        // Nothing is confirmed: the log is read from the same place again.
        let first = capture.replicate(request(capture, "")?, false)?;
        assert_eq!(first.rows(T)?, ["c id=1"]);
        let end = first.intervals[0].to.clone();
        database.psql("INSERT INTO t VALUES (2)")?;
        let more = capture.replicate(request(capture, &end)?, false)?;
        assert_eq!(more.rows(T)?, ["c id=2"]);
        // The transaction that begins its commit at a position is not in it.
        let commit = texts(&more.batch(T)?, "_cdc_lsn")?[0].clone();
        let same = capture.replicate(request(capture, &commit)?, false)?;
        assert_eq!(same.rows(T)?, ["c id=2"]);
        Ok(())
    })
}

#[test]
fn only_so_many_intervals_are_staged_before_one_is_confirmed() -> Result<()> {
    let (database, mut capture) = capture("stream_flight", "CREATE TABLE t (id int PRIMARY KEY)")?;
    capture.open("stream_flight", &[T])?;
    for id in 0..6 {
        database.psql(&format!("INSERT INTO t VALUES ({id})"))?;
    }
    let mut request = capture.request("stream_flight", &[T])?;
    request.interval_changes = 1;
    request.intervals_in_flight = 2;
    let (staged, finished) = capture.staged_without_confirming(request)?;
    ensure!(staged == 2 && !finished, "{staged} intervals, finished: {finished}");
    drop_slots(&database)
}

#[test]
fn confirm_moves_the_slot_and_nothing_else_does() -> Result<()> {
    on_both_ends("stream_confirm", |database, capture| {
        database.psql("CREATE TABLE t (id int PRIMARY KEY)")?;
        let opened = capture.open("stream_confirm", &[T])?;
        let at = || {
            database.psql(
                "SELECT confirmed_flush_lsn FROM pg_replication_slots \
                 WHERE slot_name = 'stream_confirm'",
            )
        };
        database.psql("INSERT INTO t VALUES (1)")?;
        let run = capture.replicate(capture.request("stream_confirm", &[T])?, false)?;
        assert_eq!(at()?, opened.confirmed_flush);
        let end = &run.finished;
        assert_eq!(&capture.confirm("stream_confirm", end)?, end);
        assert_eq!(&at()?, end);
        // Told twice, it is as once.
        assert_eq!(&capture.confirm("stream_confirm", end)?, end);
        let back = capture.confirm("stream_confirm", &opened.confirmed_flush).unwrap_err();
        ensure!(back.message.contains("something else moves it"), "{back}");
        let none = capture.confirm("no_such_slot", end).unwrap_err();
        ensure!(none.message.contains("does not exist"), "{none}");
        Ok(())
    })
}

#[test]
fn truncate_leaves_what_came_after_it() -> Result<()> {
    on_both_ends("stream_truncate", |database, capture| {
        database.psql(
            "CREATE TABLE t (id int PRIMARY KEY);
             CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t);
             CREATE TABLE other (id int PRIMARY KEY)",
        )?;
        let tables = [T, "public.child", "public.other"];
        capture.open("stream_truncate", &tables)?;
        database.psql(
            "INSERT INTO t VALUES (1); INSERT INTO child VALUES (1, 1); INSERT INTO other VALUES (1);
             TRUNCATE t CASCADE; INSERT INTO t VALUES (2)",
        )?;
        let run = capture.run("stream_truncate", &tables, |_| ())?;
        assert_eq!(run.rows(T)?, ["c id=2"]);
        ensure!(run.rows("public.child")?.is_empty());
        assert_eq!(run.rows("public.other")?, ["c id=1"]);
        let staged: Vec<_> = run.intervals.iter().flat_map(|interval| &interval.tables).collect();
        let told: Vec<_> = staged
            .iter()
            .map(|table| (table.name.as_str(), table.truncated, table.staged.is_empty()))
            .collect();
        ensure!(told.contains(&("t", true, false)), "{told:?}");
        ensure!(told.contains(&("child", true, true)), "{told:?}");
        ensure!(told.contains(&("other", false, false)), "{told:?}");
        Ok(())
    })
}

#[test]
fn silence_before_the_end_is_waited_out_and_a_first_change_ends_the_wait() -> Result<()> {
    let (database, mut capture) = capture("stream_wait", "CREATE TABLE t (id int PRIMARY KEY)")?;
    capture.open("stream_wait", &[T])?;
    let mut request = capture.request("stream_wait", &[T])?;
    // As long as a test may take: the change ends it, not the time.
    request.initial_wait_ms = 120_000;
    let writer = database.psql_background("SELECT pg_sleep(0.5); INSERT INTO t VALUES (1)")?;
    let run = capture.replicate(request, true)?;
    drop(writer);
    assert_eq!(run.rows(T)?, ["c id=1"]);
    // And without any, it ends cleanly when its time is over.
    let run = capture.run("stream_wait", &[T], |request| request.initial_wait_ms = 300)?;
    ensure!(run.rows(T)?.is_empty() && !run.finished.is_empty());
    drop_slots(&database)
}

#[test]
fn a_prepared_transaction_comes_at_its_commit() -> Result<()> {
    let server = std::sync::Arc::new(tests::postgres::Server::start(
        &tests::postgres::Options::default().set("max_prepared_transactions", 5),
    )?);
    let database = Database::on(&server, "prepared")?;
    database.psql("CREATE TABLE t (id int PRIMARY KEY)")?;
    let mut capture = Capture::new(&database)?;
    capture.open("prepared", &[T])?;
    database.psql("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'")?;
    database.psql("INSERT INTO t VALUES (2)")?;
    let run = capture.run("prepared", &[T], |_| ())?;
    assert_eq!(run.rows(T)?, ["c id=2"]);
    database.psql("COMMIT PREPARED 'p'")?;
    let run = capture.run("prepared", &[T], |_| ())?;
    assert_eq!(run.rows(T)?, ["c id=1"]);
    // A slot waits for those that have written, and says for whom.
    database.psql("BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'q'")?;
    capture.config.lock_timeout_ms = 300;
    let fault = capture.open("prepared_more", &[T]).unwrap_err();
    ensure!(fault.message.contains("'q'") && fault.transient, "{fault}");
    database.psql("ROLLBACK PREPARED 'q'")?;
    capture.open("prepared_more", &[T])?;
    Ok(())
}

#[test]
fn a_slot_is_read_by_one_sync_at_a_time() -> Result<()> {
    let (database, mut capture) = capture("stream_alone", "CREATE TABLE t (id int PRIMARY KEY)")?;
    capture.open("stream_alone", &[T])?;
    let holder = database.psql_background(
        "SELECT pg_advisory_lock(1953064037, hashtext('stream_alone')); SELECT pg_sleep(100)",
    )?;
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted \
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    while database.psql(held)? != "1" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    capture.config.lock_timeout_ms = 300;
    let refused = capture.run("stream_alone", &[T], |_| ()).unwrap_err().to_string();
    ensure!(refused.contains("another sync reads") && refused.contains("pid"), "{refused}");
    drop(holder);
    capture.config.lock_timeout_ms = 0;
    capture.run("stream_alone", &[T], |_| ())?;
    drop_slots(&database)
}

#[test]
fn a_large_transaction_over_many_tables_is_held_in_bounded_memory() -> Result<()> {
    const TABLES: usize = 24;
    let names: Vec<String> = (0..TABLES).map(|n| format!("public.m{n}")).collect();
    let create: String = (0..TABLES)
        .map(|n| format!("CREATE TABLE m{n} (id int PRIMARY KEY, v text STORAGE PLAIN);"))
        .collect();
    let (database, mut capture) = capture("stream_large", &create)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    capture.open("stream_large", &names)?;
    // 120 MB in one transaction, row by row over all tables.
    database.psql(&format!(
        "DO $$ BEGIN FOR i IN 1..1250 LOOP FOR n IN 0..{} LOOP
           EXECUTE format('INSERT INTO m%s VALUES ($1, $2)', n) USING i, repeat('x', 4000);
         END LOOP; END LOOP; END $$",
        TABLES - 1
    ))?;
    let run = capture.run("stream_large", &names, |_| ())?;
    for name in &names {
        let rows = run.rows(name)?;
        ensure!(rows.len() == 1250, "{name}: {}", rows.len());
        ensure!(rows[0].starts_with("c id=1 ") && rows[1249].starts_with("c id=1250 "));
    }
    ensure!(run.lost.is_empty(), "{:?}", run.lost);
    ensure!(capture.most_open() <= 8, "{} DoPuts at once", capture.most_open());
    let peak = capture.source().peak_memory()?;
    ensure!(peak < 400 << 20, "{} MiB", peak >> 20);
    drop_slots(&database)
}

#[test]
fn many_tables_in_one_slot_are_a_few_uploads_at_once() -> Result<()> {
    const TABLES: usize = 200;
    let names: Vec<String> = (0..TABLES).map(|n| format!("public.n{n}")).collect();
    let create: String =
        (0..TABLES).map(|n| format!("CREATE TABLE n{n} (id int PRIMARY KEY);")).collect();
    let (database, mut capture) = capture("stream_many", &create)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    capture.open("stream_many", &names)?;
    let insert: String = (0..TABLES).map(|n| format!("INSERT INTO n{n} VALUES ({n});")).collect();
    database.psql(&insert)?;
    let run = capture.run("stream_many", &names, |_| ())?;
    for (number, name) in names.iter().enumerate() {
        assert_eq!(run.rows(name)?, [format!("c id={number}")]);
    }
    ensure!(capture.most_open() <= 8, "{} DoPuts at once", capture.most_open());
    drop_slots(&database)
}

#[test]
fn a_row_beyond_the_limit_is_named_with_its_key() -> Result<()> {
    let (database, mut capture) =
        capture("stream_row", "CREATE TABLE t (id int PRIMARY KEY, v bytea)")?;
    capture.open("stream_row", &[T])?;
    database.psql("INSERT INTO t VALUES (42, decode(repeat('00', 3000000), 'hex'))")?;
    capture.config.max_row_bytes = 2 << 20;
    let refused = capture.run("stream_row", &[T], |_| ()).unwrap_err().to_string();
    for part in [T, "id = 42", "max_row_bytes"] {
        ensure!(refused.contains(part), "{part}: {refused}");
    }
    capture.config.max_row_bytes = 4 << 20;
    let run = capture.run("stream_row", &[T], |_| ())?;
    ensure!(run.batch(T)?.num_rows() == 1);
    drop_slots(&database)
}

#[test]
fn a_source_killed_in_between_tells_the_same_again_and_leaves_one_slot() -> Result<()> {
    on_both_ends("stream_killed", |database, capture| {
        database.psql("CREATE TABLE t (id int PRIMARY KEY)")?;
        capture.open("stream_killed", &[T])?;
        for id in 0..4 {
            database.psql(&format!("INSERT INTO t VALUES ({id})"))?;
        }
        let mut request = capture.request("stream_killed", &[T])?;
        request.interval_changes = 1;
        capture.staged_without_confirming(request)?;
        capture.source().kill()?;
        capture.source().restart()?;
        let run = capture.run("stream_killed", &[T], |_| ())?;
        assert_eq!(run.rows(T)?, ["c id=0", "c id=1", "c id=2", "c id=3"]);
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        while database.psql(slots)? != "1" {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(())
    })
}
