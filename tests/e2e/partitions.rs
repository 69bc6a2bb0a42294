//! `partition_regex`: directories by value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use tests::compare::{Rows, same_rows};
use tests::reader::{Engine, read_all};
use tests::run::Project;
use tests::services::{Service, TOKEN};
use tests::{truth, verify, watch};

use crate::project;

const EVENTS: &str = "
    CREATE TABLE events (id int PRIMARY KEY, at timestamptz, country text);
    INSERT INTO events VALUES
      (1, '2024-02-29 23:30:00-05', 'de'), (2, '2024-12-31 23:59:59.999999+00', 'a/b'), (3, NULL, NULL),
      (4, '1969-07-20 20:17:00+00', ''), (5, '2024-12-30 00:00:00+00', '..'), (6, '2024-03-01 04:00:00+00', 'ünï 😀'),
      (7, '0044-03-15 00:00:00+00 BC', '%2F'), (8, '2024-02-29 00:00:00+00', 'de');";

/// Directory below the table → ids of the rows in it.
fn directories(project: &Project) -> Result<BTreeMap<String, Vec<String>>> {
    let table = project.table("public", "events");
    let mut paths: Vec<PathBuf> = watch::parquet_files(&table)
        .iter()
        .filter_map(|file| file.parent().map(Path::to_owned))
        .collect();
    paths.dedup();
    let mut found = BTreeMap::new();
    for (path, part) in paths.iter().zip(read_all(Engine::DuckDb, &paths)?) {
        let ids = part.rows.column("id")?;
        let mut ids: Vec<String> =
            ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
        ids.sort();
        found.insert(path.strip_prefix(&table)?.display().to_string(), ids);
    }
    Ok(found)
}

fn expected(entries: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    entries.iter().map(|(name, ids)| ((*name).to_owned(), owned(ids))).collect()
}

#[test]
fn rows_go_to_the_directories_of_their_values() -> Result<()> {
    let project = project("partitions", EVENTS)?;
    let sync = |regex: &str| -> Result<()> {
        project.select(&["public.events"], json!({"partition_regex": regex}))?;
        project.sync()?;
        verify::equals_source(&project, &["public.events"])
    };

    sync("/dt={at,2025,YYYY}-{at,06,MM}")?;
    let mut found = directories(&project)?;
    // How a year before Christ is written is the writer's choice, as long as
    // it is a directory of its own.
    found.retain(|_, ids| ids.as_slice() != ["7"]);
    assert_eq!(
        found,
        expected(&[
            ("dt=2024-03", &["1", "6"]),
            ("dt=2024-12", &["2", "5"]),
            ("dt=2025-06", &["3"]),
            ("dt=1969-07", &["4"]),
            ("dt=2024-02", &["8"]),
        ])
    );

    sync("/week={at,none,WW}/day={at,none,DD}/hour={at,none,HH}")?;
    let found = directories(&project)?;
    assert_eq!(found["week=01/day=31/hour=23"], ["2"], "ISO week of the next year");
    assert_eq!(found["week=none/day=none/hour=none"], ["3"]);

    sync("/country={country,none,}")?;
    let found = directories(&project)?;
    assert_eq!(found["country=de"], ["1", "8"]);
    assert_eq!(found["country=none"], ["3", "4"], "NULL and the empty text take the default");
    assert_eq!(found.len(), 6, "no two values share a directory: {found:?}");
    for name in found.keys() {
        assert_eq!(Path::new(name).components().count(), 1, "a value made a directory: {name}");
    }

    sync("/{country,,}/year={now(),2025,YYYY}")?;
    let year = project.database().psql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY')")?;
    assert_eq!(directories(&project)?[&format!("default_country/year={year}")], ["3", "4"]);
    Ok(())
}

#[test]
fn a_partition_that_cannot_be_is_an_error_before_anything_is_read() -> Result<()> {
    let project = project("wrong", EVENTS)?;
    for (regex, named) in [
        ("/{missing,x,}", "missing"),
        ("/{country,x,YYYY}", "country"),
        ("/{at,x,ZZ}", "ZZ"),
        ("/{at,x,YYYY", "{at"),
    ] {
        project.select(&["public.events"], json!({"partition_regex": regex}))?;
        let message = project.run(&Project::SYNC)?.failed()?;
        assert!(message.contains(named), "{regex}: {message}");
        assert!(!project.table("public", "events").exists());
    }
    Ok(())
}

#[test]
fn a_partitioned_table_has_no_more_files_in_a_directory_than_there_are_threads() -> Result<()> {
    // A row fills a page: eight chunks of 8 MiB, but for the partitions.
    let project = project(
        "few",
        "CREATE TABLE events (id int PRIMARY KEY, tenant int, padding text) WITH (fillfactor = 10);
         INSERT INTO events SELECT i, i % 7, repeat('x', 700) FROM generate_series(1, 8000) i;",
    )?;
    project.edit("source.json", |source| source["max_threads"] = json!(2))?;
    let files = |regex: &str| -> Result<usize> {
        project.select(&["public.events"], json!({"partition_regex": regex}))?;
        project.sync()?;
        verify::equals_source(&project, &["public.events"])?;
        Ok(watch::parquet_files(&project.table("public", "events")).len())
    };
    assert_eq!(files("")?, 8);
    assert_eq!(files("/tenant={tenant,none,}")?, 2 * 7);
    Ok(())
}

const MEGABYTE: u64 = 1024 * 1024;

#[test]
fn ten_thousand_partitions_stay_within_a_memory_bound() -> Result<()> {
    let project = project(
        "many",
        "CREATE TABLE events (id int PRIMARY KEY, tenant int, a text, b text, c text);
         INSERT INTO events SELECT i, i * 7919 % 10000, repeat(md5(i::text), 6), md5('b' || i), NULL
         FROM generate_series(1, 20000) i;",
    )?;
    let writer = Service::writer(&[])?;
    project.select(&["public.events"], json!({"partition_regex": "/tenant={tenant,none,}"}))?;
    let mut arguments = Project::SYNC.to_vec();
    arguments.extend(["--writer", writer.address(), "--token", TOKEN]);
    project.run(&arguments)?.succeeded()?;

    let peak = writer.peak_memory()?;
    assert!(peak < 500 * MEGABYTE, "writer-svc had {} MB resident", peak / MEGABYTE);
    let table = project.table("public", "events");
    let directories = std::fs::read_dir(&table)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("tenant="));
    assert_eq!(directories.count(), 10_000);
    let columns = truth::columns(project.database(), "events")?;
    // A hundred of them value by value, all of them by their number of rows.
    let rows = truth::rows(
        project.database(),
        &columns,
        "SELECT * FROM events WHERE tenant < 100 ORDER BY tenant",
    )?;
    let some: Vec<_> = (0..100).map(|tenant| table.join(format!("tenant={tenant}"))).collect();
    let mut found = Rows { columns: rows.columns.clone(), rows: Vec::new() };
    for part in read_all(Engine::DuckDb, &some)? {
        found.rows.extend(part.rows.project(&rows.columns)?.rows);
    }
    same_rows(&rows, &found, &["id".to_owned()])?;
    let committed = committed_rows(&project)?;
    assert_eq!(committed, 20_000);
    Ok(())
}

/// Rows by the table's commit record.
fn committed_rows(project: &Project) -> Result<u64> {
    let path = project.table("public", "events").join(".tidewater-commit.json");
    let record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    record["rows"].as_u64().context("a number of rows")
}
