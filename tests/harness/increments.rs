//! Tables that are read incrementally: a project that follows cursors, and what
//! a reader makes of tables that rows are added to.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::compare::{Cell, Row, Rows, same_rows};
use crate::reader::{Engine, read_all};
use crate::run::Project;
use crate::verify::{Expected, relations};

/// Every stream is read incrementally from now on, by the cursor that `cursors`
/// ("table" → "a:b") has for it.
pub fn follow_cursors(project: &Project, cursors: &[(&str, &str)]) -> Result<()> {
    project.edit("streams.json", |catalog| {
        for entry in catalog["streams"].as_array_mut().into_iter().flatten() {
            let stream = &mut entry["stream"];
            if let Some((_, cursor)) = cursors.iter().find(|(table, _)| stream["name"] == *table) {
                stream["sync_mode"] = "incremental".into();
                stream["cursor_field"] = (*cursor).into();
            }
        }
    })?;
    let streams: Vec<String> = cursors.iter().map(|(table, _)| format!("public.{table}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    project.select(&streams, json!({}))
}

/// Every row of a Parquet table, its versions included: the table holds exactly
/// what the relation does, each row as often.
pub fn equals_source(project: &Project, streams: &[&str]) -> Result<()> {
    compared(project, streams, |rows, _| Ok(rows.clone()))
}

/// As [`equals_source`] when of each key only the row that was read last counts.
pub fn newest_equal_source(project: &Project, streams: &[&str]) -> Result<()> {
    compared(project, streams, newest)
}

fn compared(
    project: &Project,
    streams: &[&str],
    reduce: impl Fn(&Rows, &[String]) -> Result<Rows>,
) -> Result<()> {
    let expected: Vec<Expected> = relations(project, streams)?;
    let directories: Vec<_> =
        expected.iter().map(|stream| project.table(&stream.namespace, &stream.name)).collect();
    let tables = read_all(Engine::DuckDb, &directories)?;
    let mut faults = Vec::new();
    for (stream, table) in expected.iter().zip(&tables) {
        let rows = reduce(&table.rows, &stream.key)?.project(&stream.rows.columns)?;
        if let Err(error) = same_rows(&stream.rows, &rows, &stream.key) {
            faults.push(format!("{}.{}: {error:#}", stream.namespace, stream.name));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn newest(rows: &Rows, key: &[String]) -> Result<Rows> {
    let place = |name: &str| {
        let found = rows.columns.iter().position(|known| known == name);
        found.with_context(|| format!("no column {name}"))
    };
    let at = place("_olake_timestamp")?;
    let places = key.iter().map(|name| place(name)).collect::<Result<Vec<_>>>()?;
    let mut newest: BTreeMap<Row, &Row> = BTreeMap::new();
    for row in &rows.rows {
        let key: Row = places.iter().map(|&place| row[place].clone()).collect();
        match newest.get(&key) {
            Some(known) if known[at] == row[at] => bail!("{key:?} was read twice in one sync"),
            Some(known) if known[at] > row[at] => {}
            _ => {
                newest.insert(key, row);
            }
        }
    }
    Ok(Rows {
        columns: rows.columns.clone(),
        rows: newest.into_values().cloned().collect::<Vec<Vec<Cell>>>(),
    })
}

/// What `state.json` says of a table's stream.
pub fn state(project: &Project, table: &str) -> Result<Value> {
    let state = project.read("state.json")?;
    let streams = state["streams"].as_array().cloned().unwrap_or_default();
    let found = streams.into_iter().find(|entry| entry["stream"] == table);
    found.with_context(|| format!("{table} is not in {state}"))
}
