//! What a database has to read: relations with their columns and keys, from
//! the catalog, in four queries for all of them.
//!
//! A partitioned table is its root alone, whatever the levels; a child of plain
//! inheritance is a table of its own. Nothing here judges: what the role may
//! not read is listed too, with what is missing.

use std::collections::HashMap;

use proto::v1;
use proto::v1::relation::Kind;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::error::SourceError;
use crate::sql;
use crate::types::{ColumnType, TypeCatalog, TypeFacts};

/// A column as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnInfo {
    pub name: String,
    pub attnum: i16,
    pub not_null: bool,
    /// `format_type()`, always with the schema of a type that is not
    /// PostgreSQL's own: "numeric(10,2)", "public.mood".
    pub postgres_type: String,
    pub column_type: ColumnType,
}

impl ColumnInfo {
    /// As it travels.
    pub fn to_proto(&self) -> v1::Column {
        v1::Column {
            name: self.name.clone(),
            r#type: self.column_type.word.clone(),
            postgres_type: self.postgres_type.clone(),
            attnum: self.attnum.into(),
            not_null: self.not_null,
        }
    }
}

/// A table, partitioned table, view, materialized view or foreign table.
#[derive(Clone, Debug)]
pub struct RelationInfo {
    pub oid: u32,
    pub namespace: String,
    pub name: String,
    pub kind: Kind,
    /// In attnum order, generated columns included.
    pub columns: Vec<ColumnInfo>,
    /// Column names of the primary key, in key order; empty: none.
    pub primary_key: Vec<String>,
    /// Columns that an incremental sync can follow, in attnum order.
    pub cursor_fields: Vec<String>,
    /// `reltuples`, of all partitions together; -1: unknown.
    pub estimated_rows: i64,
    /// Whether the role may read the whole relation.
    pub readable: bool,
    /// Whether the role has USAGE on the schema.
    pub schema_usable: bool,
    /// Columns that the role may not read.
    pub unreadable_columns: Vec<String>,
    /// Whether row-level security applies to this role here, so that a query
    /// fails rather than hide rows.
    pub row_security: bool,
    /// False for a materialized view that was never refreshed.
    pub populated: bool,
}

impl RelationInfo {
    /// As it travels.
    pub fn to_proto(&self) -> v1::Relation {
        v1::Relation {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            kind: self.kind.into(),
            columns: self.columns.iter().map(ColumnInfo::to_proto).collect(),
            primary_key: self.primary_key.clone(),
            cursor_fields: self.cursor_fields.clone(),
            estimated_rows: self.estimated_rows,
        }
    }

    /// `"namespace"."name"`, as SQL writes it.
    pub fn qualified(&self) -> String {
        sql::qualified(&self.namespace, &self.name)
    }

    /// `namespace.name`, for people.
    pub fn label(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&ColumnInfo> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// What the role lacks to read it, with the statement that grants it.
    pub fn missing_privilege(&self, role: &str) -> Option<String> {
        if self.readable {
            return None;
        }
        let role = sql::quote_ident(role);
        let mut grants = Vec::new();
        if !self.schema_usable {
            grants.push(format!(
                "GRANT USAGE ON SCHEMA {} TO {role}",
                sql::quote_ident(&self.namespace)
            ));
        }
        if !self.unreadable_columns.is_empty() || self.columns.is_empty() {
            grants.push(format!("GRANT SELECT ON {} TO {role}", self.qualified()));
        }
        Some(grants.join("; "))
    }
}

/// The relation of that name, readable or not; also one that [`list`] leaves
/// out, such as a partition. `None`: there is none.
pub async fn find(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<RelationInfo>, SourceError> {
    Ok(find_all(client, &[namespace], &[name]).await?.into_iter().next())
}

/// As [`find`], of many names at once, those that there are.
pub async fn find_all(
    client: &Client,
    namespaces: &[&str],
    names: &[&str],
) -> Result<Vec<RelationInfo>, SourceError> {
    let only = "(n.nspname::text, c.relname::text) IN \
                (SELECT * FROM unnest($1::text[], $2::text[]))";
    read(client, only, &[&namespaces, &names]).await
}

/// Every relation of the database's own, readable or not, by namespace, then
/// name; of `schemas` if there are any. Left out: PostgreSQL's schemas,
/// partitions, temporary relations, and what belongs to an extension.
pub async fn list(client: &Client, schemas: &[String]) -> Result<Vec<RelationInfo>, SourceError> {
    let own = "NOT c.relispartition AND c.relpersistence <> 't' \
         AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
         AND (pg_catalog.cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
             WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid \
             AND d.deptype = 'e')";
    read(client, own, &[&schemas]).await
}

/// Those of `schemas` that do not exist.
pub async fn missing_schemas(
    client: &Client,
    schemas: &[String],
) -> Result<Vec<String>, SourceError> {
    let query = "SELECT s FROM pg_catalog.unnest($1::text[]) AS s \
                 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = s) \
                 ORDER BY s";
    let rows = client.query(query, &[&schemas]).await.map_err(SourceError::postgres(CATALOG))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

const CATALOG: &str = "reading the catalog";

async fn read(
    client: &Client,
    which: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<RelationInfo>, SourceError> {
    // pg_partition_tree() sees only what a root has at the moment, which is
    // enough for an estimate. The privilege functions answer NULL for what was
    // dropped in the meantime: it is not there.
    let query = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relispopulated, \
         CASE c.relkind WHEN 'v' THEN -1 WHEN 'p' THEN \
           (SELECT CASE WHEN pg_catalog.bool_or(l.reltuples >= 0) \
              THEN pg_catalog.sum(GREATEST(l.reltuples, 0)) ELSE -1 END \
            FROM pg_catalog.pg_partition_tree(c.oid) t \
            JOIN pg_catalog.pg_class l ON l.oid = t.relid WHERE t.isleaf) \
         ELSE c.reltuples END::int8, \
         COALESCE(pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false), \
         pg_catalog.has_table_privilege(c.oid, 'SELECT'), \
         c.relrowsecurity AND pg_catalog.row_security_active(c.oid) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {which} \
         ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\""
    );
    let rows = client.query(&query, parameters).await.map_err(SourceError::postgres(CATALOG))?;
    let oids: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    let mut columns = read_columns(client, &oids).await?;
    let mut keys = read_primary_keys(client, &oids).await?;
    let relations = rows.iter().filter_map(|row| {
        let oid: u32 = row.get(0);
        let parts = columns.remove(&oid).unwrap_or_default();
        let schema_usable: bool = row.get(6);
        let is_dropped = parts.some_dropped && parts.columns.is_empty();
        let table_granted = row.get::<_, Option<bool>>(7).filter(|_| !is_dropped)?;
        // A relation without columns has only the grant on itself to go by.
        let granted = parts.unreadable.is_empty() && (table_granted || !parts.columns.is_empty());
        Some(RelationInfo {
            oid,
            namespace: row.get(1),
            name: row.get(2),
            kind: kind(row.get(3)),
            columns: parts.columns,
            primary_key: keys.remove(&oid).unwrap_or_default(),
            cursor_fields: parts.cursors,
            estimated_rows: row.get(5),
            readable: schema_usable && granted,
            schema_usable,
            unreadable_columns: parts.unreadable,
            row_security: row.get(8),
            populated: row.get(4),
        })
    });
    Ok(relations.collect())
}

fn kind(relkind: &str) -> Kind {
    match relkind {
        "p" => Kind::PartitionedTable,
        "v" => Kind::View,
        "m" => Kind::MaterializedView,
        "f" => Kind::ForeignTable,
        _ => Kind::Table,
    }
}

/// The columns of one relation, in three views of them.
#[derive(Default)]
struct Columns {
    columns: Vec<ColumnInfo>,
    cursors: Vec<String>,
    unreadable: Vec<String>,
    /// There were more a moment ago.
    some_dropped: bool,
}

async fn read_columns(
    client: &Client,
    relations: &[u32],
) -> Result<HashMap<u32, Columns>, SourceError> {
    // format_type() leaves the schema out where the search path finds the type.
    let query = "SELECT a.attrelid, a.attname::text, a.attnum, a.attnotnull, \
         a.atttypid, a.atttypmod, a.attndims::int4, \
         pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT'), \
         CASE WHEN n.nspname <> 'pg_catalog' AND pg_catalog.pg_type_is_visible(e.oid) \
           THEN pg_catalog.quote_ident(n.nspname) || '.' ELSE '' END \
         || pg_catalog.format_type(a.atttypid, a.atttypmod) \
         FROM pg_catalog.pg_attribute a \
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         JOIN pg_catalog.pg_type e ON e.oid = CASE WHEN t.typelem <> 0 \
           AND t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc \
           AND t.typstorage <> 'p' THEN t.typelem ELSE t.oid END \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.typnamespace \
         WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped \
         ORDER BY a.attrelid, a.attnum";
    let rows = client.query(query, &[&relations]).await.map_err(SourceError::postgres(CATALOG))?;
    let types = read_types(client, rows.iter().map(|row| row.get(4)).collect()).await?;
    let mut all: HashMap<u32, Columns> = HashMap::new();
    for row in &rows {
        let columns = all.entry(row.get(0)).or_default();
        let Some(readable) = row.get::<_, Option<bool>>(7) else {
            columns.some_dropped = true;
            continue;
        };
        let (name, atttypid): (String, u32) = (row.get(1), row.get(4));
        if types.orders(atttypid) {
            columns.cursors.push(name.clone());
        }
        if !readable {
            columns.unreadable.push(name.clone());
        }
        columns.columns.push(ColumnInfo {
            name,
            attnum: row.get(2),
            not_null: row.get(3),
            postgres_type: row.get(8),
            column_type: types.column_type(atttypid, row.get(5), row.get(6)),
        });
    }
    Ok(all)
}

/// The types given and those they are made of.
async fn read_types(client: &Client, mut types: Vec<u32>) -> Result<TypeCatalog, SourceError> {
    types.sort_unstable();
    types.dedup();
    let query = "WITH RECURSIVE used AS ( \
           SELECT u.oid FROM pg_catalog.unnest($1::oid[]) AS u(oid) \
           UNION SELECT p.oid FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid \
             CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) AS p(oid) \
             WHERE p.oid <> 0) \
         SELECT t.oid, t.typname::text, t.typtype::text, t.typbasetype, t.typtypmod, t.typndims, \
         CASE WHEN t.typelem <> 0 \
           AND t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc \
           AND t.typstorage <> 'p' THEN t.typelem ELSE 0 END, \
         COALESCE((SELECT s.prosrc FROM pg_catalog.pg_proc s \
           JOIN pg_catalog.pg_language l ON l.oid = s.prolang AND l.lanname = 'internal' \
           WHERE s.oid = t.typsend), '') \
         FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid";
    let rows = client.query(query, &[&types]).await.map_err(SourceError::postgres(CATALOG))?;
    let facts = rows.iter().map(|row| {
        let typtype: String = row.get(2);
        let facts = TypeFacts {
            name: row.get(1),
            kind: typtype.chars().next().unwrap_or('b'),
            base: row.get(3),
            typmod: row.get(4),
            ndims: row.get(5),
            element: row.get(6),
            send: row.get(7),
        };
        (row.get(0), facts)
    });
    Ok(TypeCatalog(facts.collect()))
}

/// The primary key and nothing else: not a foreign key, not a unique index,
/// not the columns that an index only INCLUDEs.
async fn read_primary_keys(
    client: &Client,
    relations: &[u32],
) -> Result<HashMap<u32, Vec<String>>, SourceError> {
    let query = "SELECT i.indrelid, a.attname::text FROM pg_catalog.pg_index i \
         CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE i.indisprimary AND i.indisvalid AND i.indrelid = ANY ($1::oid[]) \
         AND k.place <= i.indnkeyatts ORDER BY i.indrelid, k.place";
    let rows = client.query(query, &[&relations]).await.map_err(SourceError::postgres(CATALOG))?;
    let mut keys: HashMap<u32, Vec<String>> = HashMap::new();
    for row in &rows {
        keys.entry(row.get(0)).or_default().push(row.get(1));
    }
    Ok(keys)
}
