//! A table as Glue describes it, and its description after a commit.
//!
//! Java's GlueCatalog and PyIceberg look for the same parameters. What others have
//! set in a description (owner, partition keys, parameters, …) stays as it is.

use std::collections::HashSet;

use iceberg::spec::{NestedField, TableMetadata};
use serde_json::{Map, Value, json};

use super::super::TableName;
use super::super::hive_type::hive_type;
use crate::error::WriterError;

const TABLE_TYPE: &str = "table_type";
const ICEBERG: &str = "ICEBERG";
const METADATA_LOCATION: &str = "metadata_location";
const PREVIOUS: &str = "previous_metadata_location";

/// What of a description an update takes; the rest of an answer is Glue's own.
const INPUT: [&str; 12] = [
    "Name",
    "Description",
    "Owner",
    "LastAccessTime",
    "LastAnalyzedTime",
    "Retention",
    "StorageDescriptor",
    "PartitionKeys",
    "ViewOriginalText",
    "ViewExpandedText",
    "TableType",
    "Parameters",
];
/// Characters of a column's comment that Glue takes.
const COMMENT: usize = 255;

/// What GetTable says of an Iceberg table.
#[derive(Clone, Debug)]
pub struct Described {
    /// As an update takes it.
    input: Map<String, Value>,
    /// Changes with every update.
    pub version: String,
    /// Of the current metadata file.
    pub location: String,
}

impl Described {
    /// From the `Table` of an answer; refuses what is no Iceberg table.
    pub fn parse(name: &TableName, table: &Value) -> Result<Self, WriterError> {
        let parameters = &table["Parameters"];
        let kind = parameters[TABLE_TYPE].as_str();
        let location = parameters[METADATA_LOCATION].as_str();
        let is_iceberg = kind.is_some_and(|kind| kind.eq_ignore_ascii_case(ICEBERG));
        let (Some(location), true) = (location, is_iceberg) else {
            let kind = kind.or(table["TableType"].as_str()).unwrap_or("of no type");
            return Err(WriterError::invalid_table(
                format!(
                    "Glue has a table {name} that is no Iceberg table ({kind}); nothing was changed"
                ),
                "give the stream another destination_table or destination_database, or drop that \
                 table",
            ));
        };
        let version = table["VersionId"].as_str().ok_or_else(|| WriterError::BadTable {
            table: name.to_string(),
            problem: "its catalog says no VersionId, so that commits of others could be lost; \
                      is glue_endpoint of destination.json a Glue?"
                .into(),
        })?;
        let input = INPUT.iter().filter(|key| !table[**key].is_null());
        Ok(Described {
            input: input.map(|key| ((*key).to_owned(), table[*key].clone())).collect(),
            version: version.to_owned(),
            location: location.to_owned(),
        })
    }
}

/// Whether the `Table` of an answer is an Iceberg table.
pub fn is_iceberg(table: &Value) -> bool {
    let kind = table["Parameters"][TABLE_TYPE].as_str();
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(ICEBERG))
}

/// The TableInput of a table whose metadata are now at `location`.
pub fn input(
    name: &TableName,
    base: Option<&Described>,
    metadata: &TableMetadata,
    location: &str,
) -> Value {
    let mut input = base.map_or_else(Map::new, |base| base.input.clone());
    input.insert("Name".into(), name.name.as_str().into());
    input.insert("TableType".into(), "EXTERNAL_TABLE".into());
    let mut parameters = object(input.remove("Parameters"));
    parameters.insert(TABLE_TYPE.into(), ICEBERG.into());
    parameters.insert(METADATA_LOCATION.into(), location.into());
    if let Some(base) = base {
        parameters.insert(PREVIOUS.into(), base.location.as_str().into());
    }
    input.insert("Parameters".into(), parameters.into());
    let mut storage = object(input.remove("StorageDescriptor"));
    let columns = columns(metadata, &storage);
    storage.insert("Columns".into(), columns);
    storage.insert("Location".into(), metadata.location().into());
    input.insert("StorageDescriptor".into(), storage.into());
    input.into()
}

fn object(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// The current schema's columns, and those that only earlier ones have. A comment
/// of Glue's own stays where the table has none.
fn columns(metadata: &TableMetadata, storage: &Map<String, Value>) -> Value {
    let known = storage.get("Columns").and_then(Value::as_array);
    let comment = |field: &NestedField| {
        let theirs = || {
            let column = known?.iter().find(|column| column["Name"] == field.name.as_str())?;
            column["Comment"].as_str()
        };
        field.doc.as_deref().or_else(theirs).map(one_line)
    };
    let current = metadata.current_schema();
    let mut others: Vec<_> = metadata.schemas_iter().collect();
    others.retain(|schema| schema.schema_id() != current.schema_id());
    others.sort_by_key(|schema| std::cmp::Reverse(schema.schema_id()));
    let mut seen = HashSet::new();
    let mut columns = Vec::new();
    for schema in [current].into_iter().chain(others) {
        for field in schema.as_struct().fields() {
            if !seen.insert(field.name.clone()) {
                continue;
            }
            let mut column = json!({
                "Name": field.name,
                "Type": hive_type(&field.field_type),
                "Parameters": {
                    "iceberg.field.id": field.id.to_string(),
                    "iceberg.field.optional": (!field.required).to_string(),
                    "iceberg.field.current":
                        (schema.schema_id() == current.schema_id()).to_string(),
                },
            });
            if let Some(comment) = comment(field) {
                column["Comment"] = comment.into();
            }
            columns.push(column);
        }
    }
    columns.into()
}

/// A comment in the form that Glue takes.
fn one_line(comment: &str) -> String {
    comment.chars().map(|c| if c.is_control() { ' ' } else { c }).take(COMMENT).collect()
}
