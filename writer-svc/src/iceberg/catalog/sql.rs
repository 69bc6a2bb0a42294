//! The tables of a JDBC catalog, as Java's JdbcCatalog and PyIceberg's
//! SqlCatalog have them.
//!
//! `iceberg_tables` has two layouts: V0, and V1 with the column
//! `iceberg_type`, where null means a table as well. Missing tables are created
//! as V1, which readers of V0 can use. A swap is one UPDATE that names the old
//! location, alone in its transaction: no row changed, no swap.

use std::fmt;
use std::sync::Arc;

use proto::v1::JdbcCatalog;

use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{Catalog, Failure, Loaded, Next, Swap, TableName, jdbc_url, pointer};
use crate::error::WriterError;
use crate::iceberg::storage::Storage;

const CREATE_TABLES: &str = "CREATE TABLE IF NOT EXISTS iceberg_tables (\
    catalog_name VARCHAR(255) NOT NULL, \
    table_namespace VARCHAR(255) NOT NULL, \
    table_name VARCHAR(255) NOT NULL, \
    metadata_location VARCHAR(1000), \
    previous_metadata_location VARCHAR(1000), \
    iceberg_type VARCHAR(5), \
    PRIMARY KEY (catalog_name, table_namespace, table_name))";
const CREATE_PROPERTIES: &str = "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (\
    catalog_name VARCHAR(255) NOT NULL, \
    namespace VARCHAR(255) NOT NULL, \
    property_key VARCHAR(255) NOT NULL, \
    property_value VARCHAR(1000), \
    PRIMARY KEY (catalog_name, namespace, property_key))";
/// As both others mark a namespace that has no other property.
const CREATE_NAMESPACE: &str = "INSERT INTO iceberg_namespace_properties \
    (catalog_name, namespace, property_key, property_value) \
    VALUES ($1, $2, 'exists', 'true') ON CONFLICT DO NOTHING";
const ONE_TABLE: &str = " WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3";
const IS_TABLE: &str = " AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)";

/// A connection to a database of a catalog. Parameters are `$1`, `$2`, … in the
/// order of their first use; all values are text. Every statement is a
/// transaction of its own.
pub trait Connection {
    /// Names of a table's columns; none when there is no such table.
    fn columns(&mut self, table: &str) -> Result<Vec<String>, Failure>;

    /// The one column of a query's rows.
    fn query(&mut self, sql: &str, values: &[&str]) -> Result<Vec<Option<String>>, Failure>;

    /// Rows changed.
    fn execute(&mut self, sql: &str, values: &[&str]) -> Result<u64, Failure>;
}

/// A database that may hold catalogs.
pub trait Database: Send + Sync + fmt::Debug {
    /// What and where it is, for messages: no secrets.
    fn name(&self) -> String;

    /// Connects; `None`: there is no such database, and it was not to be
    /// created.
    fn connect(&self, create: bool) -> Result<Option<Box<dyn Connection>>, Failure>;

    /// Whether tables could be created, tried for real.
    fn check(&self) -> Result<(), Failure>;
}

/// A JDBC catalog.
#[derive(Debug)]
pub struct SqlCatalog {
    name: String,
    database: Box<dyn Database>,
    storage: Arc<dyn Storage>,
}

/// A connection to a database that has the catalog's tables.
struct Session {
    connection: Box<dyn Connection>,
    /// `iceberg_tables` has the column `iceberg_type`.
    typed: bool,
}

impl Session {
    /// The condition for one table, and not a view of that name.
    fn one_table(&self) -> String {
        format!("{ONE_TABLE}{}", if self.typed { IS_TABLE } else { "" })
    }

    /// `None`: the database has no catalog yet.
    fn on(mut connection: Box<dyn Connection>) -> Result<Option<Self>, Failure> {
        let columns = connection.columns("iceberg_tables")?;
        let typed = columns.iter().any(|column| column == "iceberg_type");
        Ok((!columns.is_empty()).then_some(Session { connection, typed }))
    }
}

impl SqlCatalog {
    /// Connects to nothing yet.
    pub fn new(jdbc: &JdbcCatalog, storage: Arc<dyn Storage>) -> Result<Self, WriterError> {
        let database: Box<dyn Database> = match jdbc.url.strip_prefix("jdbc:sqlite:") {
            Some(path) => Box::new(Sqlite::new(path)?),
            None if jdbc.url.starts_with(jdbc_url::SCHEME) => Box::new(Postgres::new(jdbc)?),
            None => {
                return Err(WriterError::invalid_table(
                    "the catalog's jdbc_url begins with neither jdbc:sqlite: nor jdbc:postgresql:",
                    "set jdbc_url to jdbc:sqlite:/path/of/catalog.db or to \
                     jdbc:postgresql://host:port/database",
                ));
            }
        };
        Ok(SqlCatalog { name: jdbc.catalog_name.clone(), database, storage })
    }

    fn failed(&self, doing: &str) -> impl FnOnce(Failure) -> WriterError {
        let doing = format!("{doing} in the catalog {} of {}", self.name, self.database.name());
        move |failure| failure.into_error(doing)
    }

    /// `None`: there is no catalog yet.
    fn session(&self) -> Result<Option<Session>, WriterError> {
        let connect = || match self.database.connect(false)? {
            Some(connection) => Session::on(connection),
            None => Ok(None),
        };
        connect().map_err(self.failed("looking for the tables"))
    }

    /// Creates what is missing, up to the namespace.
    fn session_for(&self, namespace: &str) -> Result<Session, WriterError> {
        let connect = || {
            let mut connection = self.database.connect(true)?.ok_or_else(|| Failure {
                source: "the database was not created".into(),
                undone: true,
                transient: false,
                remedy: "",
            })?;
            create(connection.as_mut(), "iceberg_tables", CREATE_TABLES)?;
            create(connection.as_mut(), "iceberg_namespace_properties", CREATE_PROPERTIES)?;
            connection.execute(CREATE_NAMESPACE, &[&self.name, namespace])?;
            Session::on(connection)
        };
        connect().map_err(self.failed("creating the tables"))?.ok_or_else(|| {
            WriterError::Internal("a catalog's tables were created and are not there".into())
        })
    }

    /// What a swap's statement means. Without a proxy between us and the
    /// database, a row that did not change is certain: the new metadata file
    /// has no use any more.
    fn outcome(&self, done: Result<u64, Failure>, location: &str) -> Result<Swap, WriterError> {
        let forget = || pointer::forget(self.storage.as_ref(), location);
        match done {
            Ok(0) => {
                forget();
                Ok(Swap::Conflict)
            }
            Ok(_) => Ok(Swap::Swapped),
            Err(failure) if failure.undone => {
                forget();
                Err(self.failed("committing")(failure))
            }
            Err(failure) => Ok(Swap::Unknown(self.failed("committing")(failure))),
        }
    }
}

/// Creates a table that is not there. One that is takes no right to create.
fn create(connection: &mut dyn Connection, table: &str, sql: &str) -> Result<(), Failure> {
    if !connection.columns(table)?.is_empty() {
        return Ok(());
    }
    match connection.execute(sql, &[]) {
        // Of two that create it at once, PostgreSQL refuses one all the same.
        Err(failure) if connection.columns(table)?.is_empty() => Err(failure),
        _ => Ok(()),
    }
}

impl Catalog for SqlCatalog {
    fn check(&self) -> Result<(), WriterError> {
        self.database.check().map_err(self.failed("trying to create tables"))
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>, WriterError> {
        let Some(mut session) = self.session()? else { return Ok(None) };
        let sql = format!("SELECT metadata_location FROM iceberg_tables{}", session.one_table());
        let values = [self.name.as_str(), &table.namespace, &table.name];
        let rows = session.connection.query(&sql, &values);
        let rows = rows.map_err(self.failed(&format!("looking for {table}")))?;
        match rows.into_iter().next() {
            None => Ok(None),
            Some(Some(location)) => pointer::load(self.storage.as_ref(), table, location).map(Some),
            Some(None) => Err(WriterError::BadTable {
                table: table.to_string(),
                problem: "its catalog names no metadata".into(),
            }),
        }
    }

    fn list(&self, namespace: &str) -> Result<Vec<TableName>, WriterError> {
        let Some(mut session) = self.session()? else { return Ok(Vec::new()) };
        let sql = format!(
            "SELECT table_name FROM iceberg_tables \
             WHERE catalog_name = $1 AND table_namespace = $2{} ORDER BY table_name",
            if session.typed { IS_TABLE } else { "" }
        );
        let names = session.connection.query(&sql, &[&self.name, namespace]);
        let names = names.map_err(self.failed(&format!("listing {namespace}")))?;
        let table = |name| TableName { namespace: namespace.to_owned(), name };
        Ok(names.into_iter().flatten().map(table).collect())
    }

    fn swap(
        &self,
        table: &TableName,
        base: Option<&Loaded>,
        next: &Next,
    ) -> Result<Swap, WriterError> {
        let session = match base {
            Some(_) => self.session()?,
            None => Some(self.session_for(&table.namespace)?),
        };
        let Some(mut session) = session else { return Ok(Swap::Conflict) };
        let location = pointer::write(self.storage.as_ref(), base, &next.metadata)?;
        let (catalog, namespace, name) = (&self.name, &table.namespace, &table.name);
        let done = match base {
            Some(base) => {
                let sql = "UPDATE iceberg_tables \
                     SET metadata_location = $1, previous_metadata_location = $2 \
                     WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5 \
                     AND metadata_location = $2";
                let sql = format!("{sql}{}", if session.typed { IS_TABLE } else { "" });
                let values = [&location, &base.location, catalog, namespace, name];
                session.connection.execute(&sql, &values.map(String::as_str))
            }
            None => {
                let (column, value) =
                    if session.typed { (", iceberg_type", ", 'TABLE'") } else { ("", "") };
                let sql = format!(
                    "INSERT INTO iceberg_tables \
                     (catalog_name, table_namespace, table_name, metadata_location{column}) \
                     VALUES ($1, $2, $3, $4{value}) ON CONFLICT DO NOTHING"
                );
                let values = [catalog, namespace, name, &location];
                session.connection.execute(&sql, &values.map(String::as_str))
            }
        };
        self.outcome(done, &location)
    }

    fn drop_table(&self, table: &TableName, base: &Loaded) -> Result<bool, WriterError> {
        let Some(mut session) = self.session()? else { return Ok(false) };
        let sql =
            format!("DELETE FROM iceberg_tables{} AND metadata_location = $4", session.one_table());
        let values = [&self.name, &table.namespace, &table.name, &base.location];
        let gone = session.connection.execute(&sql, &values.map(String::as_str));
        Ok(gone.map_err(self.failed(&format!("dropping {table}")))? > 0)
    }
}

#[cfg(test)]
#[path = "sql_tests.rs"]
mod tests;
