//! What a table's columns are.

use anyhow::{Context, Result};
use serde_json::json;
use tests::compare::Cell;
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::Pair;
use tests::iceberg::table::Description;
use tests::run::Project;

use super::Lake;
use crate::plain;

pub fn without_normalization_a_row_is_json_beside_its_identifier(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "json",
        "CREATE TABLE t (a int, b text, PRIMARY KEY (a, b));
         INSERT INTO t VALUES (1, 'x'), (2, 'y \"quoted\"')",
    )?;
    lake.project.select(&["public.t"], json!({"normalization": false}))?;
    lake.project.sync()?;
    let table = lake.table("t");
    assert_eq!(table.describe()?.identifier_fields, ["_olake_id"]);
    for engine in Engine::ALL {
        let rows = table.read(engine)?.rows;
        let data = rows.column("data")?;
        let mut data: Vec<&str> = data.iter().filter_map(Cell::as_str).collect();
        data.sort_unstable();
        let expected = [r#"{"a":1,"b":"x"}"#, r#"{"a":2,"b":"y \"quoted\""}"#];
        assert_eq!(data, expected, "{engine:?}");
    }
    Ok(())
}

pub fn keys_are_identifier_fields_where_they_may_be_and_are_wanted(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "keys",
        "CREATE TABLE floating (x float8 PRIMARY KEY); INSERT INTO floating VALUES (1.5), ('NaN');
         CREATE TABLE plain (id int PRIMARY KEY, v int); INSERT INTO plain VALUES (1, 2)",
    )?;
    let settings = |unwanted: bool| {
        let setting = |file: &mut serde_json::Value| {
            file["writer"]["no_identifier_fields"] = json!(unwanted);
        };
        lake.project.edit("destination.json", setting)
    };
    lake.project.select(&["public.floating", "public.plain"], plain())?;
    lake.project.sync()?;
    let declared = lake.table("plain").describe()?;
    assert_eq!(declared.identifier_fields, ["id"]);
    assert_eq!(declared.properties["write.parquet.compression-codec"], "zstd");
    for (name, expected) in [("_olake_id", true), ("_cdc_lsn", false), ("id", true), ("v", false)] {
        let field = declared.schema.iter().find(|field| field.name == name);
        assert_eq!(field.with_context(|| name.to_owned())?.required, expected, "{name}");
    }
    // Iceberg allows no float in a key.
    let floating = lake.table("floating");
    assert_eq!(floating.describe()?.identifier_fields, [""; 0]);
    let mut found = floating.read(Engine::DuckDb)?.rows.column("x")?;
    found.sort();
    let bits = Cell::text(format!("{:#018x}", 1.5_f64.to_bits()));
    assert_eq!(found, [bits, Cell::text("NaN")]);

    lake.project.run(&Project::CLEAR)?.succeeded()?;
    settings(true)?;
    lake.project.sync()?;
    assert_eq!(lake.table("plain").describe()?.identifier_fields, [""; 0]);
    lake.equals_source(&["public.plain"])
}

pub fn columns_are_added_by_name_and_dropped_ones_become_null(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "columns",
        "CREATE TABLE t (id int PRIMARY KEY, gone text, kept int);
         INSERT INTO t VALUES (1, 'x', 10)",
    )?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let table = lake.table("t");
    let before = table.describe()?;
    lake.project.database().psql(
        "ALTER TABLE t DROP COLUMN gone, ADD COLUMN tags text[], ADD COLUMN late numeric(5,2);
         INSERT INTO t VALUES (2, 20, '{a,NULL}', 3.14)",
    )?;
    lake.project.discover()?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let after = table.describe()?;
    let id = |described: &Description, name: &str| {
        described.schema.iter().find(|field| field.name == name).map(|field| field.id)
    };
    for column in ["id", "gone", "kept"] {
        assert_eq!(id(&before, column), id(&after, column), "{column}");
    }
    for engine in Engine::ALL {
        let rows = table.read(engine)?.rows;
        let of = |name: &str| rows.column(name);
        assert!(of("gone")?.iter().all(|cell| *cell == Cell::Null), "{engine:?}");
        let late = Cell::text("3.14");
        assert!(of("late")?.contains(&late) && of("late")?.contains(&Cell::Null), "{engine:?}");
        let tags = Cell::List(vec![Cell::text("a"), Cell::Null]);
        assert!(of("tags")?.contains(&tags), "{engine:?}: {:?}", of("tags")?);
        assert_eq!(of("kept")?.len(), 2, "{engine:?}");
    }
    Ok(())
}

pub fn columns_widen_in_place_and_other_types_are_columns_of_their_own(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "widened",
        "CREATE TABLE t (id int PRIMARY KEY, f real, d numeric(9,2), l int[], v int, w bigint);
         INSERT INTO t VALUES (1, 1.5, 7.25, '{1,NULL}', 10, -1)",
    )?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    let table = lake.table("t");
    let before = table.describe()?;
    lake.project.database().psql(
        "ALTER TABLE t ALTER id TYPE bigint, ALTER f TYPE float8, ALTER d TYPE numeric(20,2),
           ALTER l TYPE bigint[], ALTER v TYPE text, ALTER w TYPE int;
         INSERT INTO t VALUES (9223372036854775807, 1e300, 123456789012345678.25,
           '{9223372036854775807}', 'x', 5)",
    )?;
    lake.project.discover()?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    lake.equals_source(&["public.t"])?;
    let after = table.describe()?;
    let id = |described: &Description, name: &str| {
        described.schema.iter().find(|field| field.name == name).map(|field| field.id)
    };
    for (column, same) in
        [("id", true), ("f", true), ("d", true), ("l", true), ("v", false), ("w", false)]
    {
        assert_eq!(id(&before, column) == id(&after, column), same, "{column}");
    }
    assert_eq!(after.identifier_fields, ["id"]);
    assert_eq!(after.snapshots.len(), 2, "one commit each");
    // Without its key the table has no identifiers, and its old key may be null.
    lake.project.database().psql("ALTER TABLE t DROP COLUMN id")?;
    lake.project.discover()?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    assert_eq!(table.describe()?.identifier_fields, [""; 0]);
    for engine in Engine::ALL {
        let rows = table.read(engine)?.rows;
        assert_eq!(rows.column("id")?, [Cell::Null, Cell::Null], "{engine:?}");
        assert!(rows.column("v")?.contains(&Cell::text("x")), "{engine:?}");
    }
    Ok(())
}

pub fn new_tables_have_the_format_version_that_is_asked_for(pair: Pair) -> Result<()> {
    let lake = Lake::new(
        pair,
        "version",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 100) i",
    )?;
    lake.project.select(&["public.t"], plain())?;
    let table = lake.table("t");
    // Once it is there, it keeps its own.
    for wanted in [3, 2] {
        lake.project.edit("destination.json", |file| {
            file["writer"]["format_version"] = json!(wanted);
        })?;
        lake.project.sync()?;
        let described = table.describe()?;
        assert_eq!(described.format_version, 3);
        for engine in [Engine::PyIceberg, Engine::DuckDb] {
            assert_eq!(table.counts(engine, &["id > 0", "v = 'v7'"])?, [100, 1], "{engine:?}");
        }
    }
    lake.project.edit("destination.json", |file| file["writer"]["format_version"] = json!(1))?;
    let told = lake.project.run(&tests::run::Project::SYNC)?.failed()?;
    assert!(told.contains("format_version"), "{told}");
    Ok(())
}
