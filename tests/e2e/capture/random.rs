//! Random work, with savepoints and rollbacks: a load and the changes after it,
//! applied, are the table. `TIDEWATER_SEED=<n>` runs one seed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::capture::{Run, rows};
use tests::postgres::Database;

use super::{capture, drop_slots};

/// A table, and the columns that tell its rows apart.
const TABLES: [(&str, &[&str]); 3] =
    [("public.by_key", &["id"]), ("public.by_index", &["k"]), ("public.whole", &["id"])];

const CREATE: &str = "
    CREATE TABLE by_key (id int PRIMARY KEY, k int NOT NULL UNIQUE, v text);
    CREATE TABLE by_index (id int PRIMARY KEY, k int NOT NULL UNIQUE, v text);
    ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_k_key;
    CREATE TABLE whole (id int PRIMARY KEY, k int NOT NULL UNIQUE, v text);
    ALTER TABLE whole ALTER v SET STORAGE EXTERNAL, REPLICA IDENTITY FULL";

#[test]
fn a_load_and_the_changes_after_it_are_the_table() -> Result<()> {
    let seeds = match std::env::var("TIDEWATER_SEED") {
        Ok(seed) => vec![seed.parse().context("TIDEWATER_SEED is a number")?],
        Err(_) => vec![1, 2, 3, rand::random()],
    };
    for seed in seeds {
        seeded(seed).with_context(|| format!("reproduce with TIDEWATER_SEED={seed}"))?;
    }
    Ok(())
}

fn seeded(seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let (database, mut capture) = capture("random_work", CREATE)?;
    let slot = format!("random_{}", database.name);
    let names = TABLES.map(|(name, _)| name);
    work(&database, &mut random)?;
    capture.open(&slot, &names)?;
    work(&database, &mut random)?;
    let (load, loaded) = capture.load(&slot, &names)?;
    let mut tables = BTreeMap::new();
    for (name, key) in TABLES {
        let rows = rows(&loaded[name], 0, false)?;
        let keyed = rows.into_iter().map(|row| (key_of(&row, key), row));
        tables.insert(name, keyed.collect::<BTreeMap<_, _>>());
    }
    for _ in 0..3 {
        work(&database, &mut random)?;
        let changes = random.random_range(1..60);
        let run = capture.run(&slot, &names, |request| {
            request.interval_changes = changes;
            for table in &mut request.tables {
                table.position = load.consistent_point.clone();
            }
        })?;
        ensure!(run.lost.is_empty(), "{:?}", run.lost);
        for (name, key) in TABLES {
            apply(&run, name, key, tables.entry(name).or_default())?;
            let query = "SELECT concat_ws(' ', 'id=' || id, 'k=' || k, 'v=' || v) FROM ";
            let mut truth: Vec<String> =
                database.psql(&format!("{query} {name}"))?.lines().map(str::to_owned).collect();
            truth.sort();
            let mut held: Vec<String> = tables[name].values().cloned().collect();
            held.sort();
            ensure!(held == truth, "{name}: {} rows, {} expected", held.len(), truth.len());
        }
    }
    drop_slots(&database)
}

/// The key's part of a row's text.
fn key_of(row: &str, key: &[&str]) -> String {
    let of_key = |part: &&str| part.split_once('=').is_some_and(|(name, _)| key.contains(&name));
    row.split(' ').filter(of_key).collect::<Vec<_>>().join(" ")
}

/// Applies what a run told of a table.
fn apply(run: &Run, name: &str, key: &[&str], table: &mut BTreeMap<String, String>) -> Result<()> {
    let (namespace, bare) = name.split_once('.').context("schema.table")?;
    let intervals = run.intervals.iter().flat_map(|interval| &interval.tables);
    let mut changes = run.intervals_of(name)?.into_iter();
    for staged in intervals.filter(|of| of.namespace == namespace && of.name == bare) {
        if staged.truncated {
            table.clear();
        }
        if staged.staged.is_empty() {
            continue;
        }
        for change in changes.next().context("changes of an interval")? {
            let (op, row) = change.split_once(' ').context("an operation and a row")?;
            let before = match op {
                "d" => table.remove(&key_of(row, key)),
                _ => table.insert(key_of(row, key), row.to_owned()),
            };
            // An INSERT finds none; everything else finds a row, unless the
            // UPDATE of an identity has just removed it.
            ensure!(op == "u" || before.is_some() == (op == "d"), "{change} on {before:?}");
        }
    }
    Ok(())
}

/// Some transactions of random changes.
fn work(database: &Database, random: &mut StdRng) -> Result<()> {
    let mut sql = String::new();
    for _ in 0..random.random_range(5..25) {
        sql.push_str("BEGIN;\n");
        for _ in 0..random.random_range(1..8) {
            let undone = random.random_range(0..4) == 0;
            if undone {
                sql.push_str("SAVEPOINT s;\n");
            }
            sql.push_str(&change(random));
            if undone {
                sql.push_str("ROLLBACK TO s;\n");
            }
        }
        sql.push_str(if random.random_range(0..5) == 0 { "ROLLBACK;\n" } else { "COMMIT;\n" });
    }
    database.psql(&sql)?;
    Ok(())
}

fn change(random: &mut StdRng) -> String {
    let (name, _) = TABLES[random.random_range(0..TABLES.len())];
    let (id, other) = (random.random_range(0..30), random.random_range(0..30));
    let free = |column: &str| format!("NOT EXISTS (SELECT FROM {name} WHERE {column} = {other})");
    // Long values only where the old row carries them.
    let value = match random.random_range(0..3) {
        0 => "NULL".to_owned(),
        1 if name == "public.whole" => format!("repeat('{other}', 1500)"),
        _ => format!("'{other}'"),
    };
    match random.random_range(0..12) {
        0..=3 => {
            format!("INSERT INTO {name} VALUES ({id}, {other}, {value}) ON CONFLICT DO NOTHING;\n")
        }
        4..=5 => format!("UPDATE {name} SET v = {value} WHERE id < {id};\n"),
        6 => format!("UPDATE {name} SET id = {other} WHERE id = {id} AND {};\n", free("id")),
        7 => format!("UPDATE {name} SET k = {other} WHERE id = {id} AND {};\n", free("k")),
        8..=9 => format!("DELETE FROM {name} WHERE id = {id};\n"),
        10 => format!(
            "UPDATE {name} t SET k = k + 100, id = id + 100 WHERE id = {id} AND NOT EXISTS \
             (SELECT FROM {name} o WHERE o.id = t.id + 100 OR o.k = t.k + 100);\n"
        ),
        _ if random.random_range(0..6) == 0 => format!("TRUNCATE {name};\n"),
        _ => format!("DELETE FROM {name} WHERE k > 60;\n"),
    }
}
