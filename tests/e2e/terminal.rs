//! What a person sees of a sync on a terminal.

use anyhow::Result;
use serde_json::json;
use tests::run::Project;
use tests::terminal;

use crate::{plain, project};

const TABLES: usize = 5;

#[test]
fn a_sync_leaves_its_lines_and_n_of_n_but_no_bars() -> Result<()> {
    let tables: String = (1..=TABLES)
        .map(|table| {
            format!(
                "CREATE TABLE t{table} (id int PRIMARY KEY, v text);
                 INSERT INTO t{table} SELECT i, repeat(md5(i::text), 20)
                 FROM generate_series(1, {table} * 8000) i;"
            )
        })
        .collect();
    let project = project("bars", &tables)?;
    let streams: Vec<String> = (1..=TABLES).map(|table| format!("public.t{table}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    project.select(&streams, plain())?;
    project.edit("source.json", |source| source["max_threads"] = json!(4))?;

    let (status, lines) = terminal::run(project.command(&Project::SYNC)?)?;
    let screen = lines.join("\n");
    assert!(status.success(), "{screen}");
    for stream in &streams {
        let of_it = lines.iter().filter(|line| line.starts_with(&format!("{stream}: committed ")));
        assert_eq!(of_it.count(), 1, "{stream} is not told once:\n{screen}");
    }
    let total = format!("{TABLES}/{TABLES} streams, {} rows, ", "120,000");
    let totals: Vec<_> = lines.iter().filter(|line| line.contains(" streams, ")).collect();
    assert!(totals[0].starts_with(&total), "{total:?} is not what was last:\n{screen}");
    assert!(!screen.contains(" left"), "there is nothing left:\n{screen}");
    assert_eq!(totals.len(), 2, "the last total and the summary:\n{screen}");
    assert!(!screen.contains('━') && !screen.contains('%'), "bars remain:\n{screen}");
    Ok(())
}
