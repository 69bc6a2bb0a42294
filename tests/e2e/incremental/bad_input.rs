//! What a user can get wrong, and what may become of a cursor.

use anyhow::{Context, Result, ensure};
use tests::iceberg::engine::Engine;
use tests::run::Project;

use super::{Incremental, Into};

const SQL: &str = "
    CREATE TABLE t (id serial PRIMARY KEY, c int, d date, v text, b boolean);
    INSERT INTO t (c, d, v) SELECT i, '2024-01-01', 'a' FROM generate_series(1, 20) i;
";

impl Incremental {
    fn refused(&self, words: &[&str]) -> Result<()> {
        let said = self.project.run(&Project::SYNC)?.failed()?;
        for word in words {
            ensure!(said.contains(word), "{word:?} is not said:\n{said}");
        }
        Ok(())
    }

    /// Rows of the Iceberg table `t` under a condition, as DuckDB counts them: its
    /// files differ in their columns.
    fn found(&self, condition: &str) -> Result<u64> {
        let lake = self.lake.as_ref().context("an Iceberg table")?;
        lake.table_of(&self.project, "public", "t").count(Engine::DuckDb, condition)
    }

    fn set(&self, key: &str, value: serde_json::Value) -> Result<()> {
        self.project.edit("streams.json", |catalog| {
            catalog["streams"][0]["stream"][key] = value;
        })
    }

    fn streams_know(&self, cursors: &[(&str, &str)]) -> Result<()> {
        self.project.discover()?;
        tests::increments::follow_cursors(&self.project, cursors)
    }
}

#[test]
fn a_cursor_field_must_be_a_column_that_can_be_followed() -> Result<()> {
    let tables = Incremental::new(Into::Parquet, "wrong_cursor", SQL, &[("t", "c")])?;
    for (cursor, words) in [
        ("", "has no cursor_field"),
        ("absent", "cursor_field names \"absent\"; it must be one of id, c, d, v"),
        ("b", "cursor_field names \"b\"; it must be one of"),
        ("c:absent", "cursor_field names \"absent\""),
        ("c:c", "cursor_field names \"c\" twice"),
        ("c:d:v", "it must be a column, or a column and its fallback"),
        ("c:", "it must be a column, or a column and its fallback"),
    ] {
        tables.set("cursor_field", cursor.into())?;
        tables.refused(&[words])?;
    }
    // A file that does not say what there is: the source does.
    tables.set("available_cursor_fields", serde_json::json!([]))?;
    tables.set("cursor_field", "b".into())?;
    tables.refused(&["cannot be followed by b, which is of type bool", "choose a cursor_field"])?;
    Ok(())
}

#[test]
fn another_cursor_or_layout_is_refused_until_the_table_is_cleared() -> Result<()> {
    let tables = Incremental::new(Into::Parquet, "other_cursor", SQL, &[("t", "c")])?;
    tables.sync()?;
    tables.set("cursor_field", "d".into())?;
    tables.refused(&["was followed by \"c\" and cannot go on by \"d\"", "clear-destination"])?;
    tables.set("cursor_field", "c".into())?;
    tables.project.select(&["public.t"], serde_json::json!({"normalization": false}))?;
    tables.refused(&["was filled with normalization true", "clear-destination"])?;
    tables.project.select(&["public.t"], serde_json::json!({}))?;
    tables.sync_equals(&["public.t"])?;
    Ok(())
}

#[test]
fn a_cursor_that_is_dropped_or_another_is_refused_and_one_that_is_wider_goes_on() -> Result<()> {
    let cursors = [("t", "c")];
    let tables = Incremental::new(Into::Iceberg, "changed_cursor", SQL, &cursors)?;
    tables.sync()?;
    tables
        .psql("ALTER TABLE t ALTER c TYPE bigint; INSERT INTO t (c) VALUES (20), (30000000000)")?;
    tables.streams_know(&cursors)?;
    // The file is another one: the row at the largest value takes its own place.
    assert_eq!(Incremental::rows(&tables.sync()?, "public.t")?, 3);
    assert_eq!(tables.found("c <= 20")?, 21);
    assert_eq!(tables.found("c = 30000000000")?, 1);
    tables.psql("ALTER TABLE t RENAME c TO renamed")?;
    tables.refused(&["column c no longer exists", "renamed to renamed?"])?;
    tables.psql("ALTER TABLE t DROP renamed; ALTER TABLE t ADD c bigint")?;
    tables.streams_know(&cursors)?;
    tables.refused(&["c is not the column it was", "clear-destination"])?;
    Ok(())
}

#[test]
fn columns_that_come_and_go_between_syncs_are_right_in_what_is_read() -> Result<()> {
    for into in [Into::Parquet, Into::Iceberg] {
        let cursors = [("t", "c")];
        let tables = Incremental::new(into, "columns", SQL, &cursors)?;
        tables.sync()?;
        tables
            .psql("ALTER TABLE t ADD more int; INSERT INTO t (c, more) VALUES (20, 5), (21, 6)")?;
        tables.streams_know(&cursors)?;
        let outcome = tables.sync()?;
        assert_eq!(Incremental::rows(&outcome, "public.t")?, 2);
        tables.psql("ALTER TABLE t DROP b; INSERT INTO t (c, more) VALUES (21, 7), (22, 8)")?;
        tables.streams_know(&cursors)?;
        let outcome = tables.sync()?;
        assert_eq!(Incremental::rows(&outcome, "public.t")?, 2);
        if into == Into::Iceberg {
            assert_eq!(tables.found("more IS NULL")?, 20);
            for (c, more) in [(20, 5), (21, 6), (21, 7), (22, 8)] {
                assert_eq!(tables.found(&format!("c = {c} AND more = {more}"))?, 1);
            }
            assert_eq!(tables.found("id > 0")?, 24);
        }
    }
    Ok(())
}

#[test]
fn discover_says_what_can_be_followed() -> Result<()> {
    let project = crate::project(
        "cursors_discovered",
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0);
         CREATE TABLE t (a int, b boolean, c timestamptz, d jsonb, e uuid, f float8, g numeric(9, 2),
            h positive, i text, j date, k int[], l bytea);
         CREATE VIEW w AS SELECT a, b FROM t;
         CREATE TABLE none (b boolean, f float8)",
    )?;
    let said = |name: &str| -> Result<(serde_json::Value, bool)> {
        let stream = project.stream("public", name)?;
        let modes = stream["supported_sync_modes"].as_array().cloned().unwrap_or_default();
        Ok((stream["available_cursor_fields"].clone(), modes.contains(&"incremental".into())))
    };
    let fields = serde_json::json!(["a", "c", "e", "g", "h", "i", "j"]);
    assert_eq!(said("t")?, (fields, true));
    assert_eq!(said("w")?, (serde_json::json!(["a"]), true));
    assert_eq!(said("none")?, (serde_json::json!([]), false));
    Ok(())
}
