//! The product's promise for Iceberg as one call: the table equals the source.

use anyhow::{Context, Result, bail};

use super::engine::Engine;
use super::warehouse::Warehouse;
use crate::reader::{METADATA, ReadTable};
use crate::run::Project;
use crate::truth::{self, Column, destination_name};
use crate::verify::{Expected, parquet_type, relations, table_equals};

/// Every stream's table, read with every engine, equals its relation: rows,
/// values, types of the schema and of the files, metadata columns.
pub fn equals_source(warehouse: &Warehouse, project: &Project, streams: &[&str]) -> Result<()> {
    equals(warehouse, project, &relations(project, streams)?)
}

/// As [`equals_source`], against given rows.
pub fn equals(warehouse: &Warehouse, project: &Project, expected: &[Expected]) -> Result<()> {
    let client = warehouse.client();
    let names: Vec<String> = expected
        .iter()
        .map(|stream| {
            warehouse.table_of(project, &stream.namespace, &stream.name).name().to_owned()
        })
        .collect();
    let mut faults = Vec::new();
    for engine in Engine::ALL {
        let tables = engine
            .read(&client, &names)
            .with_context(|| format!("{} read by {engine:?}", warehouse.pair()))?;
        for (stream, table) in expected.iter().zip(&tables) {
            if let Err(error) = equal(engine, stream, table) {
                faults.push(format!(
                    "{}.{} in {} by {engine:?}: {error:#}",
                    stream.namespace,
                    stream.name,
                    warehouse.pair()
                ));
            }
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

fn equal(engine: Engine, expected: &Expected, table: &ReadTable) -> Result<()> {
    schema(&expected.columns, table)?;
    let kinds: Vec<String> = expected.columns.iter().map(iceberg_type).collect();
    let told = Expected { rows: engine.tells(&expected.rows, &kinds), ..expected.clone() };
    // A table without rows has no files, and so no types in them.
    let types = |columns: &[Column], table: &ReadTable| match table.files.is_empty() {
        true => Ok(()),
        false => crate::verify::types_as(columns, table, file_type),
    };
    table_equals(&told, table, types)
}

/// The table's schema is that of the type table.
fn schema(columns: &[Column], table: &ReadTable) -> Result<()> {
    let source =
        columns.iter().map(|column| (destination_name(&column.name), iceberg_type(column)));
    let metadata =
        METADATA.iter().zip(["string", "timestamptz", "string", "timestamptz", "string"]);
    let metadata = metadata.map(|(name, kind)| ((*name).to_owned(), kind.to_owned()));
    let mut faults = Vec::new();
    for (name, wanted) in source.chain(metadata) {
        match table.types.get(&name) {
            Some(found) if *found == wanted => {}
            found => faults.push(format!("{name}: {found:?} instead of {wanted}")),
        }
    }
    if !faults.is_empty() {
        bail!("the schema differs:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// Iceberg's type of a column.
pub fn iceberg_type(column: &Column) -> String {
    let element = match column.word().as_str() {
        "array" => {
            let element = Column { list: false, ..column.clone() };
            return format!("list<{}>", iceberg_type(&element));
        }
        "integer_small" => "int",
        "integer" => "long",
        "number_small" => "float",
        "number" => "double",
        "json" => "string",
        other => return other.to_owned(),
    };
    element.to_owned()
}

/// (physical type, how the logical type begins) of a column in a data file, as
/// Iceberg's specification has them.
fn file_type(column: &Column) -> (&'static str, String) {
    let (physical, logical) = parquet_type(column);
    match (truth::decimal(column.typmod), logical.as_str()) {
        (Some((precision, _)), decimal) if decimal.starts_with("Decimal") => {
            let physical = match precision {
                // Arrow's writers in Rust make these 64 bits wide, and every
                // reader takes either.
                ..=1 => "",
                2..=9 => "INT32",
                10..=18 => "INT64",
                _ => "FIXED_LEN_BYTE_ARRAY",
            };
            (physical, logical)
        }
        (_, "JSON") => (physical, "String".to_owned()),
        _ => (physical, logical),
    }
}
