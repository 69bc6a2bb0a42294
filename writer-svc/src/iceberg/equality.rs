//! Equality deletes: the columns of a key, as the table has them.
//!
//! Their files have the key's columns and no others, and lie under the table's
//! unpartitioned spec: under any other they would reach one partition only, and
//! a row may have been in another before.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use iceberg::spec::{NestedField, PartitionSpec, Schema, TableMetadata, Type};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use proto::columns::{COLUMN, RELATION};

use super::lineage::{self, Lineage};
use super::schema::{self, Plan};
use crate::error::WriterError;

/// Fits the columns of a key to the table. [`Plan::table`] has these only.
pub fn plan(
    table: &str,
    metadata: Option<&TableMetadata>,
    layout: &ArrowSchema,
) -> Result<Plan, WriterError> {
    let refuse = |problem: String| {
        WriterError::invalid_table(
            format!("no rows can be deleted from the Iceberg table {table}: {problem}"),
            "load the table anew (a full refresh)",
        )
    };
    let metadata = metadata.ok_or_else(|| refuse("it does not exist".into()))?;
    let current = metadata.current_schema();
    let mut named = Vec::new();
    for column in layout.fields() {
        named.push((column.name().as_str(), lineage::column_of(column)?));
    }
    let relation = layout.metadata().get(RELATION).map(String::as_str);
    let found = lineage::fields_of(metadata, relation, &named);
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (column, id) in layout.fields().iter().zip(found) {
        let name = column.name();
        let known = id
            .and_then(|id| current.field_by_id(id))
            .ok_or_else(|| refuse(format!("it has no column {name:?}")))?;
        let kind = schema::primitive(column).filter(|_| !is_float(column)).ok_or_else(|| {
            refuse(format!("its column {name:?} is {}, which can be no key", known.field_type))
        })?;
        let kind = Type::Primitive(kind);
        if !agree(&known.field_type, &kind) {
            return Err(refuse(format!(
                "its column {name:?} is {}, and {kind} in the stream",
                known.field_type
            )));
        }
        let nullable = column.is_nullable() && !known.required;
        fields.push(Arc::new(NestedField::new(known.id, name, kind, !nullable)));
        let mut attributes = column.metadata().clone();
        attributes.retain(|key, value| {
            key != COLUMN && (key != schema::EXTENSION || value != "arrow.json")
        });
        attributes.insert(PARQUET_FIELD_ID_META_KEY.to_owned(), known.id.to_string());
        columns.push(column.as_ref().clone().with_nullable(nullable).with_metadata(attributes));
    }
    let schema = Schema::builder()
        .with_schema_id(current.schema_id())
        .with_fields(fields)
        .build()
        .map_err(WriterError::iceberg(format!("making a key of {table}")))?;
    Ok(Plan {
        table: schema,
        arrow: Arc::new(ArrowSchema::new(columns)),
        lineage: Lineage::default(),
    })
}

/// Equal numbers of floats are not always the same.
fn is_float(column: &Field) -> bool {
    matches!(column.data_type(), DataType::Float32 | DataType::Float64)
}

/// Whether readers can compare values of the one with values of the other.
fn agree(a: &Type, b: &Type) -> bool {
    a == b || schema::widens(a, b) || schema::widens(b, a)
}

/// The spec of delete files, whatever the table's own is.
pub fn spec() -> PartitionSpec {
    PartitionSpec::unpartition_spec()
}

/// Whether keys that were staged mean the same in the table still; else why not.
pub fn check(table: &Schema, staged: &Schema) -> Result<(), String> {
    for field in staged.as_struct().fields() {
        match table.field_by_id(field.id) {
            None => return Err(format!("column {:?} has been dropped", field.name)),
            Some(known) if !agree(&known.field_type, &field.field_type) => {
                return Err(format!("column {:?} has become {}", field.name, known.field_type));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
