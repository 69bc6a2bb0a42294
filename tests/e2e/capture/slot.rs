//! Slot and publication: created where they may be, else the SQL to run; and
//! every one that cannot serve is an error with its remedy.

use std::sync::Arc;

use anyhow::{Result, ensure};
use proto::Fault;
use proto::v1::ErrorCode;
use serde_json::json;
use tests::capture::Capture;
use tests::postgres::{Database, Options, PASSWORD, Server};
use tests::run::{Outcome, Project};

use super::{capture, drop_slots, on_both_ends};

const T: &str = "public.t";

/// The fault says all of this, in its message or its remedy.
fn says(fault: &Fault, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(fault.to_string().contains(part), "{part:?} is not in: {fault}");
    }
    Ok(())
}

#[test]
fn what_is_missing_is_created_and_said() -> Result<()> {
    on_both_ends("1_created", |database, capture| {
        database.psql(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE \"No Key\" (a int);
             CREATE TABLE whole (a int); ALTER TABLE whole REPLICA IDENTITY FULL",
        )?;
        let tables = [T, "public.No Key", "public.whole"];
        // Without leave to create: the statement, and nothing made.
        let refused = capture.open_with("1_created", &tables, |r| r.create = false).unwrap_err();
        says(&refused, &["\"1_created\"", "pg_create_logical_replication_slot('1_created'"])?;
        let opened = capture.open("1_created", &tables)?;
        ensure!(opened.slot_created && !opened.slot_moved, "{opened:?}");
        assert_eq!(opened.publication, "tidewater_1_created");
        ensure!(opened.notices.iter().any(|note| note.contains("CREATE PUBLICATION")));
        ensure!(opened.notices.iter().any(|note| note.contains("public.No Key")));
        let identities: Vec<_> =
            opened.tables.iter().map(|t| (t.identity.join(","), t.full)).collect();
        assert_eq!(
            identities,
            [("id".into(), false), (String::new(), false), (String::new(), true)]
        );
        let published = "SELECT string_agg(name, ' ' ORDER BY name) FROM \
                         (SELECT pubname || '.' || tablename AS name FROM pg_publication_tables) p";
        assert_eq!(
            database.psql(published)?,
            "tidewater_1_created.t tidewater_1_created.whole tidewater_1_created_insert.No Key"
        );
        // Their users' UPDATEs and DELETEs go on.
        database.psql("INSERT INTO \"No Key\" VALUES (1); UPDATE \"No Key\" SET a = 2; DELETE FROM \"No Key\"")?;
        let slot = "SELECT plugin, two_phase, confirmed_flush_lsn, \
                    coalesce((to_jsonb(s)->>'failover')::bool, true) \
                    FROM pg_replication_slots s WHERE slot_name = '1_created'";
        assert_eq!(database.psql(slot)?, format!("pgoutput|f|{}|t", opened.confirmed_flush));
        let identifier = "SELECT system_identifier FROM pg_control_system()";
        assert_eq!(database.psql(identifier)?, opened.system_identifier);
        assert_eq!(opened.timeline, 1);
        // Again: all is there.
        let again = capture.open("1_created", &tables)?;
        ensure!(!again.slot_created && again.confirmed_flush == opened.confirmed_flush);
        ensure!(!again.notices.iter().any(|note| note.contains("CREATE")), "{again:?}");
        // A table that comes later joins our own publication.
        database.psql("CREATE TABLE later (id int PRIMARY KEY)")?;
        let later = capture.open("1_created", &[T, "public.later"])?;
        ensure!(later.notices.iter().any(|note| note.contains("ADD TABLE")), "{later:?}");
        database.psql("INSERT INTO later VALUES (1)")?;
        let run = capture.run("1_created", &[T, "public.later"], |_| ())?;
        assert_eq!(run.rows("public.later")?, ["c id=1"]);
        Ok(())
    })
}

#[test]
fn a_publication_made_beside_a_slot_moves_it_and_says_so() -> Result<()> {
    on_both_ends("slot_moved", |database, capture| {
        database.psql("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE keyless (a int)")?;
        database.psql("SELECT pg_create_logical_replication_slot('slot_moved', 'pgoutput')")?;
        database.psql("INSERT INTO t VALUES (1)")?;
        let opened = capture.open("slot_moved", &[T])?;
        ensure!(opened.slot_moved && !opened.slot_created, "{opened:?}");
        database.psql("INSERT INTO t VALUES (2)")?;
        // 14 and 15 could not read what is older than the publication.
        assert_eq!(capture.run("slot_moved", &[T], |_| ())?.rows(T)?, ["c id=2"]);
        Ok(())
    })
}

#[test]
fn slots_that_cannot_serve_are_refused() -> Result<()> {
    on_both_ends("slot_refused", |database, capture| {
        database.psql("CREATE TABLE t (id int PRIMARY KEY)")?;
        let create = "SELECT pg_create_logical_replication_slot";
        database.psql(&format!("{create}('slot_plugin', 'test_decoding')"))?;
        database.psql(&format!("{create}('slot_two_phase', 'pgoutput', false, true)"))?;
        database.psql("SELECT pg_create_physical_replication_slot('slot_physical')")?;
        let other = Database::on(&database.server, "slot_other")?;
        other.psql(&format!("{create}('slot_elsewhere', 'pgoutput')"))?;
        let refused = |capture: &mut Capture, slot: &str, parts: &[&str]| -> Result<()> {
            says(&capture.open(slot, &[T]).unwrap_err(), parts)?;
            says(&capture.check(slot, "").unwrap_err(), parts)
        };
        refused(capture, "slot_plugin", &["test_decoding", "pg_drop_replication_slot"])?;
        refused(capture, "slot_two_phase", &["two_phase", "pg_drop_replication_slot"])?;
        refused(capture, "slot_physical", &["physical"])?;
        refused(capture, "slot_elsewhere", &[&other.name, "`database`"])?;
        refused(capture, "Bad-Name", &["replication_slot", "a-z"])?;
        // None of it has made anything.
        assert_eq!(database.psql("SELECT count(*) FROM pg_publication")?, "0");
        drop_slots(&other)?;
        database.psql("SELECT pg_drop_replication_slot('slot_physical')")?;
        Ok(())
    })
}

#[test]
fn a_slot_in_use_names_who_uses_it() -> Result<()> {
    let (database, mut capture) = capture("slot_used", "CREATE TABLE t (id int PRIMARY KEY)")?;
    capture.open("slot_used", &[T])?;
    let opened = capture.open("slot_used", &[T])?;
    let mut reader = database.server.build().command("pg_recvlogical");
    reader.args(["--slot", "slot_used", "--start", "-f", "/dev/null", "-U", "postgres"]);
    reader.args(["-o", "proto_version=1", "-o", "publication_names=tidewater_slot_used"]);
    reader.arg("-d").arg(&database.name).arg("-h").arg(database.server.directory());
    reader.arg("-p").arg(database.server.port().to_string());
    let mut reader = reader.stderr(std::process::Stdio::null()).spawn()?;
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'slot_used'";
    while database.psql(active)? != "t" {
        ensure!(reader.try_wait()?.is_none(), "pg_recvlogical has ended");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let refused = capture.open("slot_used", &[T]).unwrap_err();
    says(&refused, &["in use by pid", "pg_recvlogical", "pg_terminate_backend"])?;
    ensure!(refused.transient);
    says(&capture.confirm("slot_used", &opened.end).unwrap_err(), &["in use by pid"])?;
    reader.kill()?;
    reader.wait()?;
    while database.psql(active)? != "f" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    drop_slots(&database)
}

#[test]
fn a_lost_slot_is_an_error_and_never_an_empty_success() -> Result<()> {
    let options = Options::default()
        .set("max_slot_wal_keep_size", "1MB")
        .set("min_wal_size", "32MB")
        .set("max_wal_size", "32MB");
    let database = Database::on(&Arc::new(Server::start(&options)?), "slot_lost")?;
    database.psql("CREATE TABLE t (id int PRIMARY KEY, v text)")?;
    let mut capture = Capture::new(&database)?;
    let opened = capture.open("slot_lost", &[T])?;
    ensure!(opened.safe_wal_bytes.is_some(), "{opened:?}");
    let status = "SELECT wal_status FROM pg_replication_slots";
    let mut id = 0;
    while database.psql(status)? != "lost" {
        id += 1;
        ensure!(id < 40, "the slot was not lost");
        database.psql(&format!(
            "INSERT INTO t SELECT {id} * 100000 + n, repeat('x', 500) FROM generate_series(1, 20000) n;
             SELECT pg_switch_wal(); CHECKPOINT"
        ))?;
    }
    let parts = ["is lost", "pg_drop_replication_slot('slot_lost')", "loads every table anew"];
    says(&capture.open("slot_lost", &[T]).unwrap_err(), &parts)?;
    says(&capture.check("slot_lost", "").unwrap_err(), &parts)?;
    let refused = capture.run("slot_lost", &[T], |_| ()).unwrap_err().to_string();
    ensure!(refused.contains("is lost"), "{refused}");
    Ok(())
}

#[test]
fn a_server_or_a_role_that_cannot_do_it_is_told_how() -> Result<()> {
    let server = Arc::new(Server::start(&Options::default().set("wal_level", "replica"))?);
    let database = Database::on(&server, "wal_level")?;
    database.psql("CREATE TABLE t (id int PRIMARY KEY)")?;
    let mut capture = Capture::new(&database)?;
    says(&capture.open("s", &[T]).unwrap_err(), &["wal_level", "ALTER SYSTEM SET wal_level"])?;

    let (database, mut capture) = super::capture(
        "slot_role",
        "CREATE TABLE t (id int PRIMARY KEY);
         DROP ROLE IF EXISTS slot_reader; CREATE ROLE slot_reader LOGIN PASSWORD 'pw';
         GRANT SELECT ON t TO slot_reader",
    )?;
    capture.config.username = "slot_reader".to_owned();
    capture.config.password = "pw".to_owned();
    let refused = capture.open("slot_role", &[T]).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Permission);
    says(&refused, &["ALTER ROLE \"slot_reader\" REPLICATION"])?;
    // It may read the log, but not publish: the SQL for who may.
    database.psql("ALTER ROLE slot_reader REPLICATION")?;
    let refused = capture.open("slot_role", &[T]).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Permission);
    says(
        &refused,
        &["CREATE PUBLICATION \"tidewater_slot_role\" FOR TABLE ONLY \"public\".\"t\""],
    )?;
    let sql = refused.remedy.split_once(": ").map(|(_, sql)| sql.to_owned()).unwrap_or_default();
    database.psql(&sql)?;
    let opened = capture.open("slot_role", &[T])?;
    ensure!(opened.slot_created, "{opened:?}");
    capture.config.username = tests::postgres::USER.to_owned();
    capture.config.password = PASSWORD.to_owned();
    drop_slots(&database)?;
    database.psql("DROP OWNED BY slot_reader; DROP ROLE slot_reader")?;
    Ok(())
}

#[test]
fn a_publication_that_keeps_changes_back_is_refused() -> Result<()> {
    on_both_ends("slot_publication", |database, capture| {
        database.psql(
            "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE more (id int PRIMARY KEY);
             CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE part PARTITION OF parts DEFAULT",
        )?;
        let refused = |capture: &mut Capture, tables: &[&str], parts: &[&str]| -> Result<()> {
            let opened =
                capture.open_with("slot_publication", tables, |r| r.publication = "theirs".into());
            says(&opened.unwrap_err(), parts)
        };
        database.psql("CREATE PUBLICATION theirs FOR TABLE t WITH (publish = 'insert, update')")?;
        refused(capture, &[T], &["every kind of change", "SET (publish ="])?;
        says(&capture.check("slot_publication", "theirs").unwrap_err(), &["SET (publish ="])?;
        database
            .psql("ALTER PUBLICATION theirs SET (publish = 'insert, update, delete, truncate')")?;
        let add = "ALTER PUBLICATION \"theirs\" ADD TABLE ONLY \"public\".\"more\"";
        refused(capture, &[T, "public.more"], &["lacks public.more", add])?;
        database.psql("ALTER PUBLICATION theirs ADD TABLE parts")?;
        refused(capture, &[T, "public.parts"], &["publish_via_partition_root = true"])?;
        if database.server.build().major >= 15 {
            database.psql("ALTER PUBLICATION theirs SET TABLE t WHERE (id > 5)")?;
            refused(capture, &[T], &["filters the rows of public.t"])?;
            database.psql("ALTER PUBLICATION theirs SET TABLE t (id)")?;
            refused(capture, &[T], &["list of columns", "without v"])?;
        }
        database.psql("ALTER PUBLICATION theirs SET TABLE t")?;
        capture.open_with("slot_publication", &[T], |r| r.publication = "theirs".into())?;
        Ok(())
    })
}

#[test]
fn relations_of_which_the_log_tells_nothing_are_refused() -> Result<()> {
    let (_database, mut capture) = capture(
        "slot_relations",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW seen AS SELECT * FROM t;
         CREATE MATERIALIZED VIEW kept AS SELECT * FROM t;
         CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF parts DEFAULT;
         CREATE TABLE reserved (id int PRIMARY KEY, _op_type text)",
    )?;
    for (table, parts) in [
        ("public.seen", &["a view", "full_refresh"][..]),
        ("public.kept", &["a materialized view"][..]),
        ("public.unlogged", &["not logged"][..]),
        ("public.part", &["is a partition"][..]),
        ("public.reserved", &["_op_type"][..]),
        ("public.none", &["no longer exists"][..]),
    ] {
        says(&capture.open("slot_relations", &[T, table]).unwrap_err(), parts)?;
    }
    Ok(())
}

#[test]
fn check_looks_and_creates_nothing() -> Result<()> {
    let (database, mut capture) = capture("slot_check", "CREATE TABLE t (id int PRIMARY KEY)")?;
    let notices = capture.check("slot_check", "")?;
    ensure!(notices.iter().filter(|note| note.contains("does not exist yet")).count() == 2);
    let made = "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM \
                pg_replication_slots WHERE database = current_database())";
    assert_eq!(database.psql(made)?, "0");
    capture.open("slot_check", &[T])?;
    ensure!(!capture.check("slot_check", "")?.iter().any(|note| note.contains("not exist")));
    // The command looks at what source.json says.
    let create = "SELECT pg_create_logical_replication_slot('slot_check_2', 'test_decoding')";
    database.psql(create)?;
    let project = Project::new(&database)?;
    let check = |slot: &str| -> Result<Outcome> {
        project.edit("source.json", |source| {
            source["update_method"] = json!({"replication_slot": slot});
        })?;
        project.run(&["check", "--config", "source.json"])
    };
    check("slot_check")?.succeeded()?;
    let said = check("slot_check_2")?.failed()?;
    ensure!(said.contains("test_decoding"), "{said}");
    drop_slots(&database)
}
