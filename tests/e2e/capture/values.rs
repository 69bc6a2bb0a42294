//! A value is the same whichever way it came: a table read by COPY, and the
//! log of the same rows.

use anyhow::{Context, Result, bail, ensure};
use arrow::array::RecordBatch;
use tests::capture::{Capture, reserved, rows};
use tests::postgres::{Build, Database, Server};
use tests::random_schema::generate;

use super::drop_slots;
use crate::fixture;

#[test]
fn every_type_is_the_same_by_copy_and_by_the_log_on_every_postgresql() -> Result<()> {
    for build in Build::several()? {
        let database = Database::on(&Server::shared_logical(&build)?, "values")?;
        database.psql_file(&fixture("types.sql"))?;
        let tables = ["types", "unrepresentable", "undeclared_dimensions"];
        both_ways(&database, "values", &tables)
            .with_context(|| format!("on PostgreSQL {}", build.version))?;
    }
    Ok(())
}

#[test]
fn random_values_are_the_same_by_copy_and_by_the_log() -> Result<()> {
    let seeds = match std::env::var("TIDEWATER_SEED") {
        Ok(seed) => vec![seed.parse().context("TIDEWATER_SEED is a number")?],
        Err(_) => vec![1, 2, 3, rand::random()],
    };
    for seed in seeds {
        let schema = generate(seed);
        let database = Database::on(&Server::shared_logical(&Build::newest()?)?, "values_random")?;
        database.psql(&schema.sql)?;
        let tables: Vec<&str> = schema.tables.iter().map(|table| table.name.as_str()).collect();
        let tables: Vec<&str> = tables.into_iter().filter(|name| plain(&database, name)).collect();
        both_ways(&database, "values_random", &tables)
            .with_context(|| format!("reproduce with TIDEWATER_SEED={seed}"))?;
    }
    Ok(())
}

/// Whether a relation is an ordinary table.
fn plain(database: &Database, name: &str) -> bool {
    let query = format!(
        "SELECT relkind FROM pg_class WHERE relname = '{}' AND relnamespace = 'public'::regnamespace",
        name.replace('\'', "''")
    );
    database.psql(&query).is_ok_and(|kind| kind == "r")
}

/// Loads the tables, then has the log tell of the same rows, and compares.
fn both_ways(database: &Database, slot: &str, tables: &[&str]) -> Result<()> {
    let copies: Vec<String> = (0..tables.len()).map(|n| format!("copy_{n}")).collect();
    for (table, copy) in tables.iter().zip(&copies) {
        let table = tests::random_schema::identifier(table);
        database.psql(&format!("CREATE TABLE {copy} AS SELECT * FROM {table} WITH NO DATA"))?;
    }
    let copied: Vec<String> = copies.iter().map(|copy| format!("public.{copy}")).collect();
    let copied: Vec<&str> = copied.iter().map(String::as_str).collect();
    let mut capture = Capture::new(database)?;
    capture.open(slot, &copied)?;
    for (table, copy) in tables.iter().zip(&copies) {
        let table = tests::random_schema::identifier(table);
        database.psql(&format!("INSERT INTO {copy} SELECT * FROM {table}"))?;
    }
    let run = capture.run(slot, &copied, |_| ());
    let (_, loaded) = capture.load(slot, &copied)?;
    drop_slots(database)?;
    let run = run?;
    for copy in &copied {
        let loaded = &loaded[*copy];
        if loaded.num_rows() == 0 {
            ensure!(run.rows(copy)?.is_empty(), "{copy}");
            continue;
        }
        let log = run.batch(copy)?;
        let columns: Vec<usize> = (reserved(&log)..log.num_columns()).collect();
        same(loaded, &log.project(&columns)?).with_context(|| (*copy).to_owned())?;
    }
    Ok(())
}

/// The same rows in the same order, to the bit.
fn same(loaded: &RecordBatch, log: &RecordBatch) -> Result<()> {
    ensure!(loaded.schema() == log.schema(), "{:?}\n{:?}", loaded.schema(), log.schema());
    if loaded == log {
        return Ok(());
    }
    let (left, right) = (rows(loaded, 0, false)?, rows(log, 0, false)?);
    ensure!(left.len() == right.len(), "{} rows, {} in the log", left.len(), right.len());
    let differs = |pair: &(&String, &String)| pair.0 != pair.1;
    let differences: Vec<_> = left.iter().zip(&right).filter(differs).take(2).collect();
    bail!("loaded, and from the log: {differences:#?}")
}
