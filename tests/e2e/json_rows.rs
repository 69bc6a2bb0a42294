//! Normalization off: the row as JSON in the column `data`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tests::compare::Cell;
use tests::postgres::Database;
use tests::random_schema::identifier;
use tests::reader::{Engine, read};
use tests::run::Project;
use tests::truth::{self, Column};
use tests::verify;

use crate::{fixture, project};

/// Types that JSON rows hold as such; all others are their text.
const NATIVE: [&str; 20] = [
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "numeric",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "uuid",
    "bytea",
    "json",
    "jsonb",
    "text",
    "varchar",
    "bpchar",
    "name",
    "citext",
];

/// A query whose row_to_json is what the destination must hold.
fn json_query(relation: &str, columns: &[Column]) -> String {
    let list: Vec<String> = columns.iter().map(json_expression).collect();
    format!("SELECT row_to_json(r) FROM (SELECT {} FROM {relation}) r", list.join(", "))
}

fn json_expression(column: &Column) -> String {
    let name = identifier(&column.name);
    // Numerics without a declared precision are text.
    let native = NATIVE.contains(&column.base.as_str())
        && (column.base != "numeric" || truth::decimal(column.typmod).is_some());
    let expression = match column.list {
        _ if column.dimensions_as_text => text(&name),
        // A number in every other respect.
        list if column.base == "oid" => format!("{name}::int8{}", if list { "[]" } else { "" }),
        _ if native => name.clone(),
        true => format!(
            "CASE WHEN {name} IS DISTINCT FROM NULL THEN ARRAY(SELECT {} \
             FROM generate_subscripts({name}, 1) i ORDER BY i) END",
            text(&format!("{name}[i]"))
        ),
        false => text(&name),
    };
    format!("{expression} AS {name}")
}

fn text(expression: &str) -> String {
    format!("CASE WHEN {expression} IS DISTINCT FROM NULL THEN format('%s', {expression}) END")
}

/// JSON text without the spaces between its tokens.
fn compact(json: &str) -> String {
    let (mut out, mut quoted, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if quoted {
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c == '"' {
            quoted = true;
        } else if c.is_ascii_whitespace() {
            continue;
        }
        out.push(c);
    }
    out
}

/// The table's rows are PostgreSQL's row_to_json, by every engine.
pub fn rows_equal(project: &Project, relation: &str, namespace: &str, name: &str) -> Result<()> {
    let database = project.database();
    let columns = truth::columns(database, relation)?;
    let single = Column {
        name: "data".to_owned(),
        base: "json".to_owned(),
        typmod: -1,
        list: false,
        dimensions_as_text: false,
        delimiter: ",".to_owned(),
        comment: None,
    };
    let wanted = truth::rows(database, &[single], &json_query(relation, &columns))?;
    let mut wanted: Vec<String> = texts(wanted.column("data")?)?;
    wanted.sort();
    for engine in Engine::ALL {
        let table = read(engine, &project.table(namespace, name))?;
        assert_eq!(table.source_columns(), ["data"]);
        assert_eq!(table.parquet["data"], ("BYTE_ARRAY".to_owned(), "JSON".to_owned()));
        let mut found = texts(table.rows.column("data")?)?;
        found.sort();
        if wanted != found {
            bail!("{relation} by {engine:?}:\n{}", first_difference(&wanted, &found));
        }
    }
    Ok(())
}

fn texts(cells: Vec<Cell>) -> Result<Vec<String>> {
    cells.iter().map(|cell| cell.as_str().map(compact).context("a row without data")).collect()
}

fn first_difference(wanted: &[String], found: &[String]) -> String {
    let pairs = wanted.iter().zip(found).find(|(wanted, found)| wanted != found);
    let Some((wanted, found)) = pairs else {
        return format!("{} rows expected, {} found", wanted.len(), found.len());
    };
    let same = wanted.chars().zip(found.chars()).take_while(|(a, b)| a == b).count();
    let around =
        |text: &str| text.chars().skip(same.saturating_sub(80)).take(200).collect::<String>();
    format!("  expected …{}\n  found    …{}", around(wanted), around(found))
}

#[test]
fn without_normalization_data_is_row_to_json() -> Result<()> {
    let database = Database::new("json")?;
    database.psql_file(&fixture("types.sql"))?;
    let project = Project::new(&database)?;
    project.discover()?;
    let streams = [
        "public.types",
        "public.order",
        "public.generated",
        "public.zero_columns",
        "public.zero_rows",
    ];
    project.select(&streams, json!({"normalization": false}))?;
    project.sync()?;
    rows_equal(&project, "public.types", "public", "types")?;
    rows_equal(&project, "public.\"order\"", "public", "order")?;
    rows_equal(&project, "public.generated", "public", "generated")?;
    rows_equal(&project, "public.zero_columns", "public", "zero_columns")?;
    rows_equal(&project, "public.zero_rows", "public", "zero_rows")
}

#[test]
fn the_destination_says_for_streams_that_do_not_say_themselves() -> Result<()> {
    let project = project(
        "default",
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x'), (2, NULL);",
    )?;
    let default = |on: bool| {
        project.edit("destination.json", |file| file["writer"]["normalization"] = json!(on))
    };
    // As discover wrote it.
    default(true)?;
    project.sync()?;
    verify::equals_source(&project, &["public.t"])?;
    default(false)?;
    project.sync()?;
    rows_equal(&project, "public.t", "public", "t")?;
    // A stream's own setting wins, and a new discover keeps it.
    let own = |catalog: &mut Value| {
        catalog["selected_streams"]["public"][0]["normalization"] = json!(true);
    };
    project.edit("streams.json", own)?;
    project.discover()?;
    project.sync()?;
    verify::equals_source(&project, &["public.t"])
}

#[test]
fn rows_carry_their_identity() -> Result<()> {
    let project = project(
        "identity",
        "CREATE TABLE one (k text PRIMARY KEY, v int);
         INSERT INTO one VALUES ('a|b', 1), ('', 2), ('ünï', NULL);
         CREATE TABLE two (b int, a uuid, v timestamptz, PRIMARY KEY (b, a));
         INSERT INTO two SELECT i, md5(i::text)::uuid, now() FROM generate_series(1, 50) i;
         CREATE TABLE none (b text, a int, \"C\" numeric(6,2));
         INSERT INTO none VALUES ('x', 1, 1.5), (NULL, NULL, NULL), ('x', 1, 1.5);",
    )?;
    project.select(&["public.one", "public.two", "public.none"], json!({}))?;
    project.sync()?;
    for (table, query) in [
        ("one", "SELECT k FROM one"),
        ("two", "SELECT md5(a::text || '|' || b::text || '|') FROM two"),
        // Columns in the order of their names; NULL is empty.
        (
            "none",
            "SELECT md5(coalesce(\"C\"::text, '') || '|' || coalesce(a::text, '') || '|' || coalesce(b, '') || '|') FROM none",
        ),
    ] {
        let found = read(Engine::DuckDb, &project.table("public", table))?;
        let mut counts: BTreeMap<String, i32> = BTreeMap::new();
        for id in found.rows.column("_olake_id")? {
            *counts.entry(id.as_str().context("an _olake_id")?.to_owned()).or_default() += 1;
        }
        for id in project.database().psql(query)?.split('\n') {
            *counts.entry(id.to_owned()).or_default() -= 1;
        }
        counts.retain(|_, count| *count != 0);
        assert!(counts.is_empty(), "{table}: identities differ (+ found, - expected): {counts:?}");
    }
    Ok(())
}

#[test]
fn a_composite_key_that_would_be_ambiguous_is_refused_without_normalization() -> Result<()> {
    let project = project(
        "ambiguous",
        "CREATE TABLE pairs (a text, b text, PRIMARY KEY (a, b));
         INSERT INTO pairs VALUES ('x', 'y|z'), ('x|y', 'z');",
    )?;
    project.select(&["public.pairs"], json!({"normalization": false}))?;
    let message = project.run(&Project::SYNC)?.failed()?;
    assert!(message.contains("pairs") && message.contains('|'), "{message}");
    project.select(&["public.pairs"], json!({"normalization": true}))?;
    project.sync()?;
    verify::equals_source(&project, &["public.pairs"])
}
