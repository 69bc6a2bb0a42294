//! The largest rows that pass, and the smallest that do not.

use anyhow::Result;
use serde_json::json;
use tests::reader::{Engine, read};
use tests::run::Project;
use tests::verify;

use crate::{plain, project};

#[test]
fn a_value_of_64_mb_passes() -> Result<()> {
    let project = project(
        "huge",
        "CREATE TABLE documents (id int PRIMARY KEY, body text);
         INSERT INTO documents SELECT 1, repeat(md5('a'), 2 * 1024 * 1024);
         INSERT INTO documents VALUES (2, 'small');
         INSERT INTO documents SELECT 3, repeat(md5('b'), 2 * 1024 * 1024 - 1);",
    )?;
    project.select(&["public.documents"], plain())?;
    project.sync()?;
    let table = read(Engine::PyArrow, &project.table("public", "documents"))?;
    let mut found: Vec<(String, usize, String)> = Vec::new();
    for row in table.rows.project(&["id".to_owned(), "body".to_owned()])?.rows {
        let (id, body) = (row[0].as_str().unwrap_or_default(), row[1].as_str().unwrap_or_default());
        let whole = body.as_bytes().chunks(32).all(|part| part == &body.as_bytes()[..part.len()]);
        assert!(whole, "the value of row {id} is not the repeated text that was stored");
        found.push((id.to_owned(), body.len(), body.chars().take(8).collect()));
    }
    found.sort();
    let start = |letter: &str| project.database().psql(&format!("SELECT left(md5('{letter}'), 8)"));
    let row = |id: &str, length, start| (id.to_owned(), length, start);
    assert_eq!(
        found,
        [
            row("1", 64 << 20, start("a")?),
            row("2", 5, "small".to_owned()),
            row("3", (64 << 20) - 32, start("b")?),
        ]
    );
    Ok(())
}

#[test]
fn a_row_above_the_limit_is_an_error_that_names_table_and_key() -> Result<()> {
    let project = project(
        "limit",
        "CREATE TABLE \"Documents\" (kind text, id int, body text, PRIMARY KEY (id, kind));
         INSERT INTO \"Documents\" SELECT 'letter', i, 'short' FROM generate_series(1, 100) i;
         INSERT INTO \"Documents\" VALUES ('memo', 4711, repeat('x', 2000000));",
    )?;
    project.edit("source.json", |source| source["max_row_bytes"] = json!(1_000_000))?;
    project.select(&["public.Documents"], plain())?;
    let message = project.run(&Project::SYNC)?.failed()?;
    for part in ["Documents", "4711", "memo", "max_row_bytes"] {
        assert!(message.contains(part), "{part} is missing: {message}");
    }
    assert!(!project.table("public", "Documents").exists(), "nothing half-visible");

    project.edit("source.json", |source| source["max_row_bytes"] = json!(3_000_000))?;
    project.sync()?;
    verify::equals_source(&project, &["public.Documents"])
}
