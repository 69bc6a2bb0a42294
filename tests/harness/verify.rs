//! The product's promise as one call: the destination equals the source.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::compare::{Cell, Rows, same_rows};
use crate::reader::{Engine, METADATA, ReadTable, read_all};
use crate::run::Project;
use crate::truth::{self, Column, destination_name};

/// A stream and the query that says what it must hold.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its schema.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows, under the names of the destination.
    pub rows: Rows,
    /// Its primary key, under the names of the destination.
    pub key: Vec<String>,
}

impl Expected {
    /// The whole relation `namespace.name`.
    pub fn relation(project: &Project, namespace: &str, name: &str) -> Result<Expected> {
        Expected::query(
            project,
            namespace,
            name,
            &format!("SELECT * FROM {}", quoted(namespace, name)),
        )
    }

    /// Only the rows of a query that yields all columns of the relation.
    pub fn query(project: &Project, namespace: &str, name: &str, query: &str) -> Result<Expected> {
        let database = project.database();
        let columns = truth::columns(database, &quoted(namespace, name))?;
        let mut rows = truth::rows(database, &columns, query)?;
        rows.columns = columns.iter().map(|column| destination_name(&column.name)).collect();
        let key = project.stream(namespace, name)?["source_defined_primary_key"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(destination_name))
            .collect();
        Ok(Expected { namespace: namespace.to_owned(), name: name.to_owned(), columns, rows, key })
    }
}

/// `"namespace"."name"`.
pub fn quoted(namespace: &str, name: &str) -> String {
    let identifier = crate::random_schema::identifier;
    format!("{}.{}", identifier(namespace), identifier(name))
}

/// Every selected stream, read with every engine, equals its relation: rows,
/// values, column types, metadata columns.
pub fn equals_source(project: &Project, streams: &[&str]) -> Result<()> {
    equals(project, &relations(project, streams)?)
}

/// As [`equals_source`], against given rows.
pub fn equals(project: &Project, expected: &[Expected]) -> Result<()> {
    equals_by(&Engine::ALL, project, expected)
}

/// As [`equals_source`], by one engine: where the subject is which rows are
/// there and not how a file holds them.
pub fn same_as_source(project: &Project, streams: &[&str]) -> Result<()> {
    same(project, &relations(project, streams)?)
}

/// As [`same_as_source`], against given rows.
pub fn same(project: &Project, expected: &[Expected]) -> Result<()> {
    equals_by(&[Engine::DuckDb], project, expected)
}

/// What the named relations ("schema.name") hold.
pub(crate) fn relations(project: &Project, streams: &[&str]) -> Result<Vec<Expected>> {
    let expected = |stream: &&str| {
        let (namespace, name) = stream.split_once('.').context("a stream is schema.name")?;
        Expected::relation(project, namespace, name)
    };
    streams.iter().map(expected).collect()
}

fn equals_by(engines: &[Engine], project: &Project, expected: &[Expected]) -> Result<()> {
    let directories: Vec<PathBuf> =
        expected.iter().map(|stream| project.table(&stream.namespace, &stream.name)).collect();
    let mut faults = Vec::new();
    for &engine in engines {
        let tables = read_all(engine, &directories)?;
        for (stream, table) in expected.iter().zip(&tables) {
            if let Err(error) = table_equals(stream, table, types) {
                faults
                    .push(format!("{}.{} by {engine:?}: {error:#}", stream.namespace, stream.name));
            }
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// The table as read equals what is expected; `types` judges its types.
pub(crate) fn table_equals(
    expected: &Expected,
    found: &ReadTable,
    types: impl Fn(&[Column], &ReadTable) -> Result<()>,
) -> Result<()> {
    let mut faults = Vec::new();
    if let Err(error) = types(&expected.columns, found) {
        faults.push(error);
    }
    let rows = found.rows.project(&found.source_columns())?;
    if let Err(error) = same_rows(&expected.rows, &rows, &expected.key) {
        faults.push(error);
    }
    if let Err(error) = metadata(expected, found) {
        faults.push(error);
    }
    if !faults.is_empty() {
        let texts: Vec<String> = faults.iter().map(|error| format!("{error:#}")).collect();
        bail!("{}", texts.join("\n"));
    }
    Ok(())
}

/// The metadata columns of a load.
fn metadata(expected: &Expected, found: &ReadTable) -> Result<()> {
    for name in METADATA {
        let cells = found.rows.column(name)?;
        let fault = match name {
            "_op_type" => cells.iter().find(|cell| cell.as_str() != Some("r")),
            "_cdc_timestamp" | "_cdc_lsn" => cells.iter().find(|&cell| *cell != Cell::Null),
            "_olake_timestamp" => {
                cells.iter().find(|&cell| *cell == Cell::Null || *cell != cells[0])
            }
            _ => cells.iter().find(|&cell| *cell == Cell::Null),
        };
        if let Some(cell) = fault {
            bail!("{name} is {cell} in a row");
        }
    }
    if let [key] = &expected.key[..] {
        let pairs = found.rows.project(&["_olake_id".to_owned(), key.clone()])?;
        if let Some(row) = pairs.rows.iter().find(|row| row[0] != row[1]) {
            bail!("_olake_id is {} where the key is {}", row[0], row[1]);
        }
    }
    Ok(())
}

/// Every column's type in the Parquet footer is that of the type table.
pub fn types(columns: &[Column], found: &ReadTable) -> Result<()> {
    types_as(columns, found, parquet_type)
}

/// As [`types`], by another type table: (physical type, how the logical type
/// begins) of a column.
pub(crate) fn types_as(
    columns: &[Column],
    found: &ReadTable,
    wanted: impl Fn(&Column) -> (&'static str, String),
) -> Result<()> {
    let mut faults = Vec::new();
    for column in columns {
        let name = destination_name(&column.name);
        let paths = match column.list {
            true => vec![format!("{name}.list.element"), format!("{name}.list.item")],
            false => vec![name],
        };
        let Some((physical, logical)) = paths.iter().find_map(|path| found.parquet.get(path))
        else {
            faults.push(format!(
                "{}: no such column in the file (looked for {paths:?})",
                column.name
            ));
            continue;
        };
        let (wanted_physical, wanted_logical) = wanted(column);
        let logical_fits = match wanted_logical.as_str() {
            "None" => logical == "None" || logical.starts_with("Int("),
            wanted => logical.starts_with(wanted),
        };
        if !logical_fits || !(wanted_physical.is_empty() || physical == wanted_physical) {
            faults.push(format!(
                "{} ({}): {physical} {logical} instead of {wanted_physical} {wanted_logical}",
                column.name, column.base
            ));
        }
    }
    if !faults.is_empty() {
        bail!("types differ:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// (physical type, how the logical type begins) of a column or its elements.
pub(crate) fn parquet_type(column: &Column) -> (&'static str, String) {
    let decimal = truth::decimal(column.typmod);
    let (physical, logical) = match column.base.as_str() {
        "bool" => ("BOOLEAN", "None"),
        "int2" | "int4" => ("INT32", "None"),
        "int8" | "oid" => ("INT64", "None"),
        "float4" => ("FLOAT", "None"),
        "float8" => ("DOUBLE", "None"),
        "numeric" => match decimal {
            Some((precision, scale)) => {
                return ("", format!("Decimal(precision={precision}, scale={scale})"));
            }
            None => ("BYTE_ARRAY", "String"),
        },
        "date" => ("INT32", "Date"),
        "time" => ("INT64", "Time(isAdjustedToUTC=false, timeUnit=microseconds"),
        "timestamp" => ("INT64", "Timestamp(isAdjustedToUTC=false, timeUnit=microseconds"),
        "timestamptz" => ("INT64", "Timestamp(isAdjustedToUTC=true, timeUnit=microseconds"),
        "uuid" => ("FIXED_LEN_BYTE_ARRAY", "UUID"),
        "bytea" => ("BYTE_ARRAY", "None"),
        "json" | "jsonb" => ("BYTE_ARRAY", "JSON"),
        _ => ("BYTE_ARRAY", "String"),
    };
    match column.dimensions_as_text {
        true => ("BYTE_ARRAY", "String".to_owned()),
        false => (physical, logical.to_owned()),
    }
}
