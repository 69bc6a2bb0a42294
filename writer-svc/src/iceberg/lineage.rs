//! Which column of the source each field is: a column that is renamed stays
//! the field it was.
//!
//! ```text
//! schema of a DoPut ─► plan ─► note in the staged manifest ─► commit ─► tidewater.columns
//!   relation, columns   ▲                                                      │
//!                       └───────────────── the next load ◄─────────────────────┘
//! ```
//!
//! The source's word on what a column is, beyond its name, is in
//! [`proto::columns`]. Where it says nothing, and for columns that the table
//! does not know yet (of another relation, or written before this was noted),
//! names decide, and are remembered.
//!
//! Invariant: no column ever becomes the field of another column of its
//! relation, whatever their names; no two columns are one field.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::Field;
use iceberg::spec::{NestedField, NestedFieldRef, Schema, TableMetadata};
use proto::columns::COLUMN;
use serde::{Deserialize, Serialize};

use super::schema;
use crate::error::WriterError;

/// Table property: [`Known`] as JSON.
const PROPERTY: &str = "tidewater.columns";
/// Before the [`Note`] in a staged schema.
const NOTE: &str = "tidewater.lineage: ";

/// Where the columns of a load come from, and what becomes of the fields that
/// the table had when the load was fitted to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lineage {
    /// `None`: the source does not tell columns apart but by names.
    pub relation: Option<String>,
    /// The source's columns and their field ids.
    pub columns: BTreeMap<i32, i32>,
    /// Ids of fields whose names change, and the names they had.
    pub renamed: BTreeMap<i32, String>,
    /// Ids of fields that leave the schema: another takes their name.
    pub removed: BTreeSet<i32>,
}

/// The property's content: the relation that filled the table last, and which
/// field each of its columns is or was.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    relation: String,
    fields: BTreeMap<i32, i32>,
}

impl Known {
    fn of(metadata: &TableMetadata) -> Option<Self> {
        let known: Self = serde_json::from_str(metadata.properties().get(PROPERTY)?).ok()?;
        let distinct: BTreeSet<_> = known.fields.values().collect();
        // Not by us.
        (distinct.len() == known.fields.len()).then_some(known)
    }
}

/// What a field of a DoPut's schema says that it is.
pub fn column_of(field: &Field) -> Result<Option<i32>, WriterError> {
    let Some(text) = field.metadata().get(COLUMN) else { return Ok(None) };
    let column = text.parse().map_err(|_| {
        WriterError::InvalidRequest(format!(
            "{COLUMN} of the field {:?} is {text:?}, which is no 32-bit integer",
            field.name()
        ))
    })?;
    Ok(Some(column))
}

/// The id of the table's field that each column (name, column of `relation`)
/// is; `None`: a new one.
pub fn fields_of(
    metadata: &TableMetadata,
    relation: Option<&str>,
    columns: &[(&str, Option<i32>)],
) -> Vec<Option<i32>> {
    let fields = metadata.current_schema().as_struct();
    let known = Known::of(metadata).filter(|known| Some(known.relation.as_str()) == relation);
    let known = known.map(|known| known.fields).unwrap_or_default();
    let of_others: BTreeSet<_> = known.values().copied().collect();
    let field = |(name, column): &(&str, Option<i32>)| {
        let followed = column.and_then(|column| known.get(&column));
        if let Some(field) = followed.and_then(|id| fields.field_by_id(*id)) {
            return Some(field.id);
        }
        let named = fields.field_by_name(name)?;
        (!of_others.contains(&named.id)).then_some(named.id)
    };
    columns.iter().map(field).collect()
}

impl Lineage {
    /// The property that remembers it in a table with this schema, which was
    /// `base` before; `None`: there is nothing new to remember.
    pub fn property(
        &self,
        base: Option<&TableMetadata>,
        schema: &Schema,
    ) -> Result<Option<(String, String)>, WriterError> {
        let Some(relation) = self.relation.clone().filter(|_| !self.columns.is_empty()) else {
            return Ok(None);
        };
        let before = base.and_then(Known::of).filter(|known| known.relation == relation);
        let mut fields = before.map(|known| known.fields).unwrap_or_default();
        fields.extend(&self.columns);
        fields.retain(|_, id| schema.as_struct().field_by_id(*id).is_some());
        Ok(Some((PROPERTY.to_owned(), json(&Known { relation, fields })?)))
    }

    /// Whether a field of the table is that of a column that its relation does not have
    /// among those that are read any more.
    pub fn is_gone(&self, metadata: &TableMetadata, field: i32) -> bool {
        let known = Known::of(metadata).filter(|it| Some(&it.relation) == self.relation.as_ref());
        let column = known.and_then(|known| {
            known.fields.into_iter().find(|(_, id)| *id == field).map(|(column, _)| column)
        });
        column.is_some_and(|column| !self.columns.contains_key(&column))
    }

    /// `schema` with a note of this, for a staged manifest: in the doc of its
    /// first field, which nobody else reads there.
    pub fn noted(&self, schema: &Schema) -> Result<Schema, WriterError> {
        let mut doc = None;
        if let Some(first) = schema.as_struct().fields().first() {
            let note = Note { lineage: self.clone(), doc: first.doc.clone() };
            doc = Some(format!("{NOTE}{}", json(&note)?));
        }
        with_first_doc(schema, doc)
    }

    /// The inverse of [`Lineage::noted`]. Manifests of earlier versions have no
    /// note.
    pub fn of_noted(noted: &Schema) -> Result<(Schema, Lineage), WriterError> {
        let first = noted.as_struct().fields().first();
        let note = first.and_then(|field| field.doc.as_deref()?.strip_prefix(NOTE));
        let Some(note) = note else { return Ok((noted.clone(), Lineage::default())) };
        let note: Note = serde_json::from_str(note)
            .map_err(|e| WriterError::BadData(format!("a staged manifest's note: {e}")))?;
        Ok((with_first_doc(noted, note.doc)?, note.lineage))
    }
}

#[derive(Serialize, Deserialize)]
struct Note {
    lineage: Lineage,
    /// The field's own.
    doc: Option<String>,
}

fn json(value: &impl Serialize) -> Result<String, WriterError> {
    serde_json::to_string(value).map_err(|e| WriterError::Internal(format!("noting columns: {e}")))
}

fn with_first_doc(schema: &Schema, doc: Option<String>) -> Result<Schema, WriterError> {
    let mut fields: Vec<NestedFieldRef> = schema.as_struct().fields().to_vec();
    if let Some(first) = fields.first_mut() {
        *first = Arc::new(NestedField { doc, ..first.as_ref().clone() });
    }
    schema::with_fields(schema.schema_id(), fields, schema.identifier_field_ids())
        .map_err(WriterError::iceberg("noting where columns come from"))
}

#[cfg(test)]
#[path = "lineage_tests.rs"]
mod tests;
