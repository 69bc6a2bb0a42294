//! What lasts when things are renamed: the metadata of [`proto::columns`] for
//! a relation of PostgreSQL.
//!
//! An attnum is never used again in its relation, an oid of a relation only by
//! chance in its database. A table that is dropped and created anew, restored
//! elsewhere or replicated logically is another relation; a physical standby's
//! is the same.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use proto::columns::{COLUMN, RELATION};
use tokio_postgres::Client;

use crate::error::SourceError;

/// `<system identifier>/<oid of the database>`; without the former where the
/// role may not know it. Not inside a transaction block.
pub async fn database(client: &Client) -> Result<String, SourceError> {
    let failed = || SourceError::postgres("reading which database this is");
    let query = "SELECT d.oid::text, COALESCE(pg_catalog.has_function_privilege( \
           pg_catalog.to_regprocedure('pg_catalog.pg_control_system()')::oid, 'EXECUTE'), false) \
         FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";
    let row = client.query_one(query, &[]).await.map_err(failed())?;
    let (oid, may): (String, bool) = (row.get(0), row.get(1));
    if !may {
        return Ok(format!("/{oid}"));
    }
    let query = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
    let row = client.query_one(query, &[]).await.map_err(failed())?;
    Ok(format!("{}/{oid}", row.get::<_, &str>(0)))
}

/// `schema` with what its fields are: the columns `attnums`, in order, of the
/// relation `oid` of the database.
pub fn told(
    schema: &Schema,
    database: &str,
    oid: u32,
    attnums: impl Iterator<Item = i16>,
) -> SchemaRef {
    let of = |(field, attnum): (&Arc<Field>, i16)| {
        let mut metadata = field.metadata().clone();
        metadata.insert(COLUMN.to_owned(), attnum.to_string());
        field.as_ref().clone().with_metadata(metadata)
    };
    let fields: Vec<Field> = schema.fields().iter().zip(attnums).map(of).collect();
    let relation = HashMap::from([(RELATION.to_owned(), format!("{database}/{oid}"))]);
    Arc::new(Schema::new_with_metadata(fields, relation))
}
