//! What is heavy, in a size of the caller's: tests take small ones,
//! `./build.sh soak` the real ones.

use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::compare::{Cell, Rows, same_rows};
use crate::follow::{Followed, Into};
use crate::iceberg::engine::Engine;
use crate::postgres::Server;
use crate::run::Project;

/// So many tables in one slot, each with a few rows, changed twice.
pub fn many_tables(server: &Arc<Server>, tables: u32) -> Result<()> {
    let sql = format!(
        "SELECT format('CREATE TABLE t%s (id int PRIMARY KEY, v text);
            INSERT INTO t%1$s VALUES (1, ''a''), (2, ''b''), (3, NULL)', i)
         FROM generate_series(1, {tables}) i \\gexec"
    );
    let followed = Followed::at(server, Into::Iceberg, "many", &sql)?;
    followed.sync().context("the first sync")?;
    for change in [
        "UPDATE t%s SET v = 'changed' WHERE id = 2; DELETE FROM t%1$s WHERE id = 1",
        "INSERT INTO t%s VALUES (4, 'new')",
    ] {
        // All in one transaction, and each for itself.
        let change = change.replace('\'', "''");
        followed.psql(&format!(
            "BEGIN;
             SELECT format('{change}', i) FROM generate_series(1, {tables} / 2) i \\gexec
             COMMIT;
             SELECT format('{change}', i) FROM generate_series({tables} / 2 + 1, {tables}) i \\gexec"
        ))?;
        followed.sync()?;
    }
    // All are alike: asking PostgreSQL about each would take longer than the syncs.
    let truth = followed.psql(&format!("SELECT id, v FROM t{tables} ORDER BY id"))?;
    ensure!(truth == "2|changed\n3|\n4|new", "{truth}");
    let lake = followed.lake.as_ref().context("an Iceberg table")?;
    let table =
        |i: u32| lake.table_of(&followed.project, "public", &format!("t{i}")).name().to_owned();
    let names: Vec<String> = (1..=tables).map(table).collect();
    let row = |id: &str, v: Option<&str>| {
        vec![Cell::Text(id.to_owned()), v.map_or(Cell::Null, |v| Cell::Text(v.to_owned()))]
    };
    let columns = ["id".to_owned(), "v".to_owned()];
    let expected = Rows {
        columns: columns.to_vec(),
        rows: vec![row("2", Some("changed")), row("3", None), row("4", Some("new"))],
    };
    for (name, read) in names.iter().zip(Engine::DuckDb.read(&lake.client(), &names)?) {
        same_rows(&expected, &read.rows.project(&columns)?, &columns[..1])
            .with_context(|| name.clone())?;
    }
    Ok(())
}

/// One transaction of so many rows: inserted, half of them updated, a tenth
/// deleted, and one of as many that is rolled back.
pub fn large_transaction(server: &Arc<Server>, rows: u64) -> Result<()> {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, n int, v text);
               INSERT INTO t SELECT i, i % 1000, 'old' FROM generate_series(-1000, 0) i";
    let followed = Followed::at(server, Into::Iceberg, "large_transaction", sql)?;
    followed.sync().context("the first sync")?;
    followed.psql(&format!(
        "BEGIN;
         INSERT INTO t SELECT i, i % 1000, 'v' || i FROM generate_series(1, {rows}) i;
         SAVEPOINT s;
         UPDATE t SET n = n + 1 WHERE id % 2 = 0;
         RELEASE s;
         DELETE FROM t WHERE id % 10 = 3;
         COMMIT;
         BEGIN; UPDATE t SET v = 'rolled back'; ROLLBACK;"
    ))?;
    followed.sync()?;
    let classes: Vec<String> = (0..20).map(|k| format!("n % 20 = {k}")).collect();
    same_counts(&followed, "t", &classes)?;
    same_counts(&followed, "t", &["v = 'old'", "v = 'rolled back'", "id < 0", "id % 10 = 3"])
}

/// A row with a text of so many bytes comes, a neighbour of it changes, and it goes.
pub fn large_row(server: &Arc<Server>, bytes: u64) -> Result<()> {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v text, long text);
               ALTER TABLE t REPLICA IDENTITY FULL;
               INSERT INTO t VALUES (1, 'a', 'short')";
    let followed = Followed::at(server, Into::Iceberg, "large_row", sql)?;
    followed.sync().context("the first sync")?;
    for change in [
        format!("INSERT INTO t VALUES (2, 'a', repeat('0123456789', {bytes} / 10))"),
        "UPDATE t SET v = 'beside' WHERE id = 2".to_owned(),
        "DELETE FROM t WHERE id = 2".to_owned(),
    ] {
        followed.psql(&change)?;
        followed.sync()?;
        let whole = format!("length(long) = {}", bytes / 10 * 10);
        let beside = format!("{whole} AND v = 'beside'");
        same_counts(&followed, "t", &["id > 0", &whole, &beside, "long LIKE '%0123456789'"])?;
    }
    Ok(())
}

/// A value that the server cannot send as text is an error that says what to
/// do, and doing it helps.
pub fn unsendable_value(server: &Arc<Server>) -> Result<()> {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v bytea); INSERT INTO t VALUES (1, 'a')";
    let followed = Followed::at(server, Into::Iceberg, "unsendable", sql)?;
    followed.sync().context("the first sync")?;
    followed.psql(
        "INSERT INTO t SELECT 2, decode(repeat('61', 600000000 / 2), 'hex') || decode(repeat('62', \
         600000000 / 2), 'hex')",
    )?;
    let told = followed.project.run(&Project::SYNC)?.failed()?;
    ensure!(told.contains("larger than the server can send as text"), "{told}");
    ensure!(told.contains("pg_replication_slot_advance"), "{told}");
    // As it says.
    followed.psql(&format!(
        "DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (3, 'b');
         SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())",
        crate::follow::slot(&followed.project)
    ))?;
    followed.sync_equals(&["public.t"]).map(drop)
}

/// pgbench at full speed while its tables are loaded and followed; its history
/// has no key.
pub fn pgbench(server: &Arc<Server>, scale: u32, transactions: u32) -> Result<()> {
    const STREAMS: [&str; 4] = [
        "public.pgbench_accounts",
        "public.pgbench_branches",
        "public.pgbench_history",
        "public.pgbench_tellers",
    ];
    let followed = Followed::at(server, Into::Iceberg, "pgbench", "CREATE TABLE none ()")?;
    let bench = |arguments: &[&str]| -> Result<Command> {
        let mut command = server.build().command("pgbench");
        command.arg("-h").arg(server.directory()).args(["-U", crate::postgres::USER]);
        command.arg("-p").arg(server.port().to_string()).args(arguments);
        command.arg(&followed.project.database().name);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    };
    let output = bench(&["-i", "-q", "-s", &scale.to_string()])?.output().context("pgbench -i")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    followed.project.discover()?;
    followed.select(&STREAMS)?;
    let transactions = transactions.to_string();
    let mut load = bench(&["-n", "-c", "4", "-t", &transactions])?;
    let mut load = load.stderr(Stdio::null()).spawn().context("starting pgbench")?;
    // Loaded and followed while it runs.
    let mut syncs = 0;
    while load.try_wait()?.is_none() || syncs < 2 {
        followed.sync().with_context(|| format!("after {syncs} syncs"))?;
        syncs += 1;
    }
    ensure!(load.wait()?.success(), "pgbench failed");
    followed.sync_equals(&["public.pgbench_branches", "public.pgbench_tellers"])?;
    let classes = |column: &str| -> Vec<String> {
        (-9..10).map(|k| format!("{column} % 10 = {k}")).collect()
    };
    same_counts(&followed, "pgbench_accounts", &classes("abalance"))?;
    same_counts(&followed, "pgbench_accounts", &classes("aid + abalance"))?;
    same_counts(&followed, "pgbench_history", &classes("delta"))?;
    same_counts(&followed, "pgbench_history", &classes("aid"))
}

/// As many rows fulfil each condition in the table as in the relation. By ClickHouse:
/// DuckDB compares each row with each deleted key.
fn same_counts<T: AsRef<str>>(followed: &Followed, table: &str, conditions: &[T]) -> Result<()> {
    let conditions: Vec<&str> = conditions.iter().map(AsRef::as_ref).collect();
    let filters: Vec<String> =
        conditions.iter().map(|of| format!("count(*) FILTER (WHERE {of})")).collect();
    let truth = followed.psql(&format!("SELECT {} FROM {table}", filters.join(", ")))?;
    let truth: Vec<u64> = truth.split('|').map(str::parse).collect::<Result<_, _>>()?;
    let lake = followed.lake.as_ref().context("an Iceberg table")?;
    let read = lake.table_of(&followed.project, "public", table);
    let read = read.counts(Engine::ClickHouse, &conditions)?;
    ensure!(
        read == truth,
        "{table}: ClickHouse counts {read:?} where PostgreSQL counts {truth:?} by {conditions:?}"
    );
    Ok(())
}
