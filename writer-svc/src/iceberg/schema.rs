//! The layout's columns ↔ the table's fields, by field id.
//!
//! A new table numbers its fields as Iceberg does: the columns first, in
//! order, then the elements of lists. A table that is there keeps its fields:
//!
//! - which field a column is, [`lineage`] says; the field takes its name. A
//!   column without a field gets the next id after the table's last.
//! - A field without a column stays and is null from then on; where another
//!   column takes its name, it leaves the schema (older snapshots keep it).
//! - A field becomes as wide as its column where Iceberg widens types; a column
//!   of any other type takes its field's place as a new one: all rows come anew.
//!
//! Every chunk of a load derives the same from the same table, and the commit
//! demands that the table still agrees ([`reconcile`]).
//!
//! [`lineage`]: super::lineage
//!
//! Invariant: a data file's field ids mean in the table what they meant when
//! it was written.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{
    DataType, Field, Schema as ArrowSchema, SchemaRef as ArrowSchemaRef, TimeUnit,
};
use iceberg::spec::{
    ListType, NestedField, NestedFieldRef, PrimitiveType, Schema, TableMetadata, Transform, Type,
};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use proto::columns::{COLUMN, RELATION};

use super::lineage::{self, Lineage};
use crate::error::WriterError;

/// Key of Arrow's metadata of a field that names its extension type.
pub(super) const EXTENSION: &str = "ARROW:extension:name";

/// How the columns of a load stand in the table.
#[derive(Debug)]
pub struct Plan {
    /// The table's schema once the load is committed.
    pub table: Schema,
    /// The same columns as batches and files have them, with field ids.
    pub arrow: ArrowSchemaRef,
    /// Where they come from, and what the table's fields become.
    pub lineage: Lineage,
}

/// Fits the columns of `layout` to the table, or to a new one.
///
/// `identifiers` are the columns of the key; they are declared only if all of
/// them may be.
pub fn plan(
    table: &str,
    metadata: Option<&TableMetadata>,
    layout: &ArrowSchema,
    identifiers: &[String],
) -> Result<Plan, WriterError> {
    let identifiers = if may_identify(layout, identifiers) { identifiers } else { &[] };
    let columns = layout
        .fields()
        .iter()
        .map(|field| Column::of(table, field, identifiers.contains(field.name())))
        .collect::<Result<Vec<_>, _>>()?;
    let relation = layout.metadata().get(RELATION).filter(|relation| !relation.is_empty());
    let mut lineage = Lineage { relation: relation.cloned(), ..Lineage::default() };
    let schema = match metadata {
        None => new_schema(table, &columns, identifiers)?,
        Some(metadata) => {
            let schema = extended(table, metadata, &columns, &mut lineage)?;
            check_partition_names(table, metadata, &schema)?;
            schema
        }
    };
    for column in &columns {
        let field = schema.as_struct().field_by_name(column.name);
        if let (Some(source), Some(field)) = (column.source, field)
            && lineage.columns.insert(source, field.id).is_some()
        {
            let problem = format!("two columns of {table} have the same {COLUMN}, {source}");
            return Err(WriterError::InvalidRequest(problem));
        }
    }
    let fields = columns
        .iter()
        .zip(layout.fields())
        .map(|(column, field)| arrow_field(table, &schema, column, field))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Plan { table: schema, arrow: Arc::new(ArrowSchema::new(fields)), lineage })
}

/// The table's schema with what a load has changed, if both still go together:
/// every field of `staged` means in the table what it meant when the load was
/// staged, is wider, or is new.
pub fn reconcile(
    metadata: &TableMetadata,
    staged: &Schema,
    lineage: &Lineage,
) -> Result<Schema, String> {
    let current = metadata.current_schema();
    let mut fields: Vec<NestedFieldRef> = staged.as_struct().fields().to_vec();
    for field in current.as_struct().fields() {
        match staged.field_by_id(field.id) {
            Some(ours)
                if ours.name != field.name
                    && lineage.renamed.get(&field.id) != Some(&field.name) =>
            {
                return Err(format!("field {} is now named {:?}", field.id, field.name));
            }
            Some(ours)
                if ours.field_type != field.field_type
                    && !widens(&field.field_type, &ours.field_type) =>
            {
                let kind = type_name(&field.field_type);
                return Err(format!("column {:?} has become {kind}", field.name));
            }
            Some(_) => {}
            None if lineage.removed.contains(&field.id) => {}
            None if staged.field_by_name(&field.name).is_some() => {
                return Err(format!("another column {:?} has been added", field.name));
            }
            None if field.required => {
                return Err(format!("the required column {:?} has been added", field.name));
            }
            None => fields.push(Arc::clone(field)),
        }
    }
    for field in staged.as_struct().fields() {
        if current.field_by_id(field.id).is_none() && field.id <= metadata.last_column_id() {
            return Err(format!("column {:?} has been dropped, or its id taken", field.name));
        }
    }
    with_fields(current.schema_id(), fields, staged.identifier_field_ids())
        .map_err(|error| error.to_string())
}

/// A schema of these fields; identifiers are those of `identifiers` that may be.
pub(super) fn with_fields(
    schema_id: i32,
    fields: Vec<NestedFieldRef>,
    identifiers: impl Iterator<Item = i32>,
) -> iceberg::Result<Schema> {
    let required = |id: &i32| fields.iter().any(|field| field.id == *id && field.required);
    let identifiers: Vec<i32> = identifiers.filter(required).collect();
    Schema::builder()
        .with_schema_id(schema_id)
        .with_fields(fields)
        .with_identifier_field_ids(identifiers)
        .build()
}

/// Whether Iceberg lets a field of one type become one of the other, and reads
/// files of the first as the second.
pub(super) fn widens(from: &Type, to: &Type) -> bool {
    use PrimitiveType::{Decimal, Double, Float, Int, Long};
    match (from, to) {
        (Type::Primitive(Int), Type::Primitive(Long)) => true,
        (Type::Primitive(Float), Type::Primitive(Double)) => true,
        (
            Type::Primitive(Decimal { precision, scale }),
            Type::Primitive(Decimal { precision: wider, scale: same }),
        ) => scale == same && wider > precision,
        (Type::List(from), Type::List(to)) => {
            from.element_field.id == to.element_field.id
                && widens(&from.element_field.field_type, &to.element_field.field_type)
        }
        _ => false,
    }
}

/// A column of the layout as a field without an id.
struct Column<'a> {
    name: &'a str,
    /// Which column of its relation it is.
    source: Option<i32>,
    kind: Kind,
    required: bool,
}

enum Kind {
    Primitive(PrimitiveType),
    /// Elements may be null.
    List(PrimitiveType),
}

impl<'a> Column<'a> {
    fn of(table: &str, field: &'a Field, is_key: bool) -> Result<Self, WriterError> {
        let kind = match field.data_type() {
            DataType::List(item) => primitive(item).map(Kind::List),
            _ => primitive(field).map(Kind::Primitive),
        };
        let kind = kind.ok_or_else(|| {
            let problem = format!(
                "column {:?} of {table} has the Arrow type {}, which Iceberg has no type for",
                field.name(),
                field.data_type()
            );
            WriterError::invalid_table(problem, "leave the column out with selected_columns")
        })?;
        Ok(Column {
            name: field.name(),
            source: lineage::column_of(field)?,
            kind,
            required: is_key || !field.is_nullable(),
        })
    }

    fn ids(&self) -> i32 {
        match self.kind {
            Kind::Primitive(_) => 1,
            Kind::List(_) => 2,
        }
    }

    /// `element`: the id of a list's element.
    fn field(&self, id: i32, element: i32) -> NestedFieldRef {
        let kind = match &self.kind {
            Kind::Primitive(kind) => Type::Primitive(kind.clone()),
            Kind::List(kind) => {
                let element =
                    NestedField::list_element(element, Type::Primitive(kind.clone()), false);
                Type::List(ListType::new(Arc::new(element)))
            }
        };
        Arc::new(NestedField::new(id, self.name, kind, self.required))
    }

    /// The type of the table's field if it is to hold this column; `None`: it
    /// cannot.
    fn type_in(&self, field: &NestedField) -> Option<Box<Type>> {
        if self.is_same_type(&field.field_type) {
            return Some(field.field_type.clone());
        }
        let element = match field.field_type.as_ref() {
            Type::List(list) => list.element_field.id,
            _ => 0,
        };
        let ours = self.field(field.id, element).field_type.clone();
        widens(&field.field_type, &ours).then_some(ours)
    }

    fn is_same_type(&self, kind: &Type) -> bool {
        match (&self.kind, kind) {
            (Kind::Primitive(ours), Type::Primitive(theirs)) => ours == theirs,
            (Kind::List(ours), Type::List(list)) => {
                matches!(list.element_field.field_type.as_ref(), Type::Primitive(theirs) if ours == theirs)
            }
            _ => false,
        }
    }
}

/// As in "decimal(10,2)", "list<int>".
fn type_name(kind: &Type) -> String {
    match kind {
        Type::List(list) => format!("list<{}>", type_name(&list.element_field.field_type)),
        other => other.to_string(),
    }
}

/// Iceberg's type of a column that is no list.
pub(super) fn primitive(field: &Field) -> Option<PrimitiveType> {
    let is_uuid = field.metadata().get(EXTENSION).is_some_and(|name| name == "arrow.uuid");
    Some(match field.data_type() {
        DataType::Boolean => PrimitiveType::Boolean,
        DataType::Int32 => PrimitiveType::Int,
        DataType::Int64 => PrimitiveType::Long,
        DataType::Float32 => PrimitiveType::Float,
        DataType::Float64 => PrimitiveType::Double,
        DataType::Decimal128(precision, scale) => PrimitiveType::Decimal {
            precision: u32::from(*precision),
            scale: u32::try_from(*scale).ok()?,
        },
        DataType::Date32 => PrimitiveType::Date,
        DataType::Time64(TimeUnit::Microsecond) => PrimitiveType::Time,
        DataType::Timestamp(TimeUnit::Microsecond, None) => PrimitiveType::Timestamp,
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => PrimitiveType::Timestamptz,
        DataType::FixedSizeBinary(16) if is_uuid => PrimitiveType::Uuid,
        DataType::Binary => PrimitiveType::Binary,
        DataType::Utf8 => PrimitiveType::String,
        _ => return None,
    })
}

/// Iceberg allows no float and no list in a key.
fn may_identify(layout: &ArrowSchema, identifiers: &[String]) -> bool {
    identifiers.iter().all(|name| {
        layout.field_with_name(name).is_ok_and(|field| {
            !matches!(field.data_type(), DataType::Float32 | DataType::Float64 | DataType::List(_))
        })
    })
}

/// A new table's schema. Iceberg numbers all columns before what is in them.
fn new_schema(
    table: &str,
    columns: &[Column],
    identifiers: &[String],
) -> Result<Schema, WriterError> {
    let mut element = columns.len() as i32;
    let mut fields = Vec::with_capacity(columns.len());
    let mut identifier_ids = Vec::new();
    for (id, column) in (1..).zip(columns) {
        element += column.ids() - 1;
        fields.push(column.field(id, element));
        if identifiers.iter().any(|name| name == column.name) {
            identifier_ids.push(id);
        }
    }
    Schema::builder()
        .with_fields(fields)
        .with_identifier_field_ids(identifier_ids)
        .build()
        .map_err(WriterError::iceberg(format!("making the schema of {table}")))
}

/// The table's schema with the columns that it lacks, and with the names and
/// types that they have now.
fn extended(
    table: &str,
    metadata: &TableMetadata,
    columns: &[Column],
    lineage: &mut Lineage,
) -> Result<Schema, WriterError> {
    let current = metadata.current_schema();
    let names: Vec<_> = columns.iter().map(|column| (column.name, column.source)).collect();
    let found = lineage::fields_of(metadata, lineage.relation.as_deref(), &names);
    let by_id: HashMap<i32, &Column> =
        found.iter().zip(columns).filter_map(|(id, column)| Some(((*id)?, column))).collect();
    let mut new: Vec<&Column> = columns
        .iter()
        .zip(&found)
        .filter(|(_, id)| id.is_none())
        .map(|(column, _)| column)
        .collect();
    let mut fields: Vec<NestedFieldRef> = Vec::new();
    let mut identifiers: Vec<i32> = current.identifier_field_ids().collect();
    let mut next = metadata.last_column_id() + 1;
    for field in current.as_struct().fields() {
        let column = by_id.get(&field.id).copied();
        if let Some(column) = column
            && let Some(field_type) = column.type_in(field)
        {
            if field.name != column.name {
                lineage.renamed.insert(field.id, field.name.clone());
            }
            let name = column.name.to_owned();
            // A column that was optional stays so: rows that are there may lack it.
            let required = field.required && column.required;
            let same = field.as_ref().clone();
            fields.push(Arc::new(NestedField { name, required, field_type, ..same }));
            continue;
        }
        let Some(taker) = column.or_else(|| columns.iter().find(|it| it.name == field.name)) else {
            // Null from now on.
            fields.push(Arc::new(NestedField { required: false, ..field.as_ref().clone() }));
            continue;
        };
        check_removable(table, metadata, field, taker)?;
        lineage.removed.insert(field.id);
        let unplaced = new.len();
        new.retain(|it| it.name != taker.name);
        if column.is_none() && new.len() == unplaced {
            // What takes the name has a field already.
            continue;
        }
        if let Some(identifier) = identifiers.iter_mut().find(|id| **id == field.id) {
            *identifier = next;
        }
        let taking = taker.field(next, next + 1).as_ref().clone();
        fields.push(Arc::new(NestedField { required: field.required && taker.required, ..taking }));
        next += taker.ids();
    }
    for column in new {
        // Rows that are there have no value for it.
        let new = column.field(next, next + 1).as_ref().clone();
        fields.push(Arc::new(NestedField { required: false, ..new }));
        next += column.ids();
    }
    with_fields(current.schema_id(), fields, identifiers.into_iter())
        .map_err(WriterError::iceberg(format!("changing the schema of {table}")))
}

/// What there is to do about a table that cannot take the stream's columns.
const ANOTHER_TABLE: &str = "drop the table (clear-destination) and sync again, or give the stream another \
     destination_table";

/// The field that a partition spec is made of cannot go.
fn check_removable(
    table: &str,
    metadata: &TableMetadata,
    field: &NestedField,
    taker: &Column,
) -> Result<(), WriterError> {
    let mut parts = metadata.partition_specs_iter().flat_map(|spec| spec.fields());
    if parts.all(|part| part.source_id != field.id) {
        return Ok(());
    }
    let (was, is) = (type_name(&field.field_type), type_name(&taker.field(0, 0).field_type));
    let what = match was == is {
        true => "there is no longer that of the stream".to_owned(),
        false => format!("is {was} there, and {is} in the stream"),
    };
    Err(WriterError::invalid_table(
        format!(
            "the Iceberg table {table} cannot take the stream's columns: column {:?}, by which it \
             is or was partitioned, {what}",
            field.name
        ),
        ANOTHER_TABLE,
    ))
}

/// A partition field may be named as the column is that it is made of, and as
/// no other: Iceberg's library in Java does not read such a table.
fn check_partition_names(
    table: &str,
    metadata: &TableMetadata,
    schema: &Schema,
) -> Result<(), WriterError> {
    for part in metadata.partition_specs_iter().flat_map(|spec| spec.fields()) {
        let namesake = schema.as_struct().field_by_name(&part.name);
        let own = |field: &&NestedFieldRef| {
            part.transform == Transform::Identity && field.id == part.source_id
        };
        if namesake.filter(|field| !own(field)).is_some() {
            let source = schema.name_by_field_id(part.source_id).unwrap_or("one that is gone");
            let problem = format!(
                "the Iceberg table {table} cannot take the stream's columns: column {:?} would be \
                 named as a partition of the table is, which is made of column {source:?}",
                part.name
            );
            return Err(WriterError::invalid_table(problem, ANOTHER_TABLE));
        }
    }
    Ok(())
}

/// A column as files have it: with its field id; required where it is
/// required by the key; a list's items named as Iceberg names them; text
/// without a hint of what is in it, which Iceberg does not have.
fn arrow_field(
    table: &str,
    schema: &Schema,
    column: &Column,
    field: &Field,
) -> Result<Field, WriterError> {
    let known = schema.field_by_name(column.name).ok_or_else(|| {
        WriterError::Internal(format!("column {:?} of {table} has no field", column.name))
    })?;
    let declare = |field: &Field, name: &str, id: i32| {
        let mut metadata = field.metadata().clone();
        metadata.retain(|key, value| key != COLUMN && (key != EXTENSION || value != "arrow.json"));
        metadata.insert(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string());
        field.clone().with_name(name).with_metadata(metadata)
    };
    let declared = declare(field, column.name, known.id).with_nullable(!column.required);
    Ok(match (field.data_type(), known.field_type.as_ref()) {
        (DataType::List(item), Type::List(list)) => {
            let item = declare(item, "element", list.element_field.id).with_nullable(true);
            declared.with_data_type(DataType::List(Arc::new(item)))
        }
        _ => declared,
    })
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
