//! Rows that cannot be replicated as they are: the row is named, and nothing
//! of its table changes. (Rows above `max_row_bytes`: `large_rows`.)

use anyhow::Result;
use serde_json::json;
use tests::postgres::{Database, Server};
use tests::run::Project;

use super::{refused, select_all, synced};

#[test]
fn text_that_is_not_utf8_is_refused_by_table_column_and_key() -> Result<()> {
    let server = Server::shared()?;
    let name = "ascii";
    server.psql("postgres", "CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII'")?;
    let database = Database { server, name: name.to_owned() };
    database.psql(
        "CREATE TABLE notes (kind text, id int, body text, PRIMARY KEY (kind, id));
         INSERT INTO notes SELECT 'letter', i, 'plain' FROM generate_series(1, 50) i;",
    )?;
    let project = Project::new(&database)?;
    project.discover()?;
    for normalization in [true, false] {
        database.psql("DELETE FROM notes WHERE kind = 'memo'")?;
        project.select(&["public.notes"], json!({"normalization": normalization}))?;
        project.sync()?;
        database.psql("INSERT INTO notes VALUES ('memo', 4711, E'caf\\xe9')")?;
        refused(&project, &["public.notes", "body", "memo", "4711", "UTF-8"])?;
    }
    Ok(())
}

#[test]
fn a_value_without_representation_is_refused_by_table_column_and_key() -> Result<()> {
    let project = synced(
        "unheld",
        "CREATE TABLE readings (id int PRIMARY KEY, day date, at timestamptz, \"Amount\" numeric(10,2), items int[], t time);
         INSERT INTO readings SELECT i, '2020-01-01', '2020-01-01', 1, '{1}', '12:00' FROM generate_series(1, 50) i;",
    )?;
    project.database().psql(
        "INSERT INTO readings VALUES (4711, 'infinity', '-infinity', 'NaN', '[0:0]={1}', '24:00')",
    )?;
    let columns = [
        ("day", "infinity"),
        ("at", "-infinity"),
        ("Amount", "NaN"),
        ("items", ""),
        ("t", "24:00"),
    ];
    for (column, value) in columns {
        project.select(
            &["public.readings"],
            json!({"on_unrepresentable": "fail", "selected_columns": {"columns": [column]}}),
        )?;
        let place = format!("public.readings.{column}");
        refused(&project, &[&place, value, "4711", "on_unrepresentable"])?;
    }
    select_all(&project)?;
    project.sync()?;
    Ok(())
}
