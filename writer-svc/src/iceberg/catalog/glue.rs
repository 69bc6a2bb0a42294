//! AWS Glue's data catalog, its tables as Java's GlueCatalog and PyIceberg have
//! them.
//!
//! ```text
//! load:  GetTable ─► metadata_location ─► metadata file
//! swap:  GetTable ─► VersionId, still at the base? ─► metadata file ─► UpdateTable(VersionId)
//! ```
//!
//! - [`client`]: one signed call, and what a refusal means
//! - [`table`]: a table as Glue describes it
//!
//! A swap is one UpdateTable that names the version it was derived from: Glue
//! refuses it once the table has another. DeleteTable knows no such condition: a
//! commit in the moment between the last look and the drop is dropped with it.

pub mod client;
pub mod table;

use std::sync::Arc;

use proto::v1::{self, S3};
use serde_json::{Value, json};

use self::client::{Client, Reason, Refused, Repeat};
use self::table::Described;
use super::{Catalog, Loaded, Next, Swap, TableName, pointer};
use crate::error::WriterError;
use crate::iceberg::storage::Storage;

/// Tables of an answer.
const PAGE: u32 = 100;

/// A Glue catalog.
#[derive(Debug)]
pub struct GlueCatalog {
    client: Client,
    /// Whether Glue keeps the version before an update.
    archive: bool,
    storage: Arc<dyn Storage>,
}

impl GlueCatalog {
    /// Connects to nothing yet. Must be called within a runtime.
    pub fn new(
        glue: &v1::GlueCatalog,
        settings: &S3,
        storage: Arc<dyn Storage>,
    ) -> Result<Self, WriterError> {
        let client = Client::new(glue, settings)?;
        Ok(GlueCatalog { client, archive: glue.archive, storage })
    }

    fn failed(&self, doing: &str) -> impl FnOnce(Refused) -> WriterError {
        let doing = format!("{doing} in the Glue catalog at {}", self.client.url());
        move |refused| refused.into_error(doing)
    }

    /// The table as Glue describes it.
    fn describe(&self, table: &TableName) -> Result<Option<Described>, WriterError> {
        let request = json!({"DatabaseName": table.namespace, "Name": table.name});
        match self.client.call("GetTable", request, Repeat::Safe) {
            Ok(answer) => Described::parse(table, &answer["Table"]).map(Some),
            Err(refused) if refused.reason() == Reason::NotFound => Ok(None),
            Err(refused) => Err(self.failed(&format!("looking for {table}"))(refused)),
        }
    }

    /// Creates a table, and its database if need be.
    fn create(&self, table: &TableName, input: &Value) -> Result<(), Refused> {
        let create = || {
            let request = json!({"DatabaseName": table.namespace, "TableInput": input});
            self.client.call("CreateTable", request, Repeat::Never).map(drop)
        };
        match create() {
            Err(refused) if refused.reason() == Reason::NotFound => {
                self.create_database(&table.namespace)?;
                create()
            }
            created => created,
        }
    }

    fn create_database(&self, name: &str) -> Result<(), Refused> {
        let request = json!({"DatabaseInput": {"Name": name}});
        match self.client.call("CreateDatabase", request, Repeat::Safe) {
            Err(refused) if refused.reason() == Reason::Exists => Ok(()),
            created => created.map(drop),
        }
    }

    fn update(&self, table: &TableName, version: &str, input: &Value) -> Result<(), Refused> {
        let request = json!({
            "DatabaseName": table.namespace,
            "TableInput": input,
            "VersionId": version,
            "SkipArchive": !self.archive,
        });
        self.client.call("UpdateTable", request, Repeat::Never).map(drop)
    }

    fn delete(&self, table: &TableName) -> Result<(), Refused> {
        let request = json!({"DatabaseName": table.namespace, "Name": table.name});
        self.client.call("DeleteTable", request, Repeat::Never).map(drop)
    }
}

impl Catalog for GlueCatalog {
    /// In a database of its own, which need not be that of the tables.
    fn check(&self) -> Result<(), WriterError> {
        let namespace = format!("tidewater_check_{}", uuid::Uuid::new_v4().simple());
        let table = TableName { namespace, name: "t".into() };
        self.create_database(&table.namespace)
            .map_err(self.failed("trying to create a database"))?;
        let tried = || {
            let input = json!({"Name": table.name, "Parameters": {"table_type": "ICEBERG",
                "metadata_location": "none"}});
            self.create(&table, &input).map_err(self.failed("trying to create a table"))?;
            let version = self.describe(&table)?.map(|it| it.version).unwrap_or_default();
            self.update(&table, &version, &input)
                .map_err(self.failed("trying to update a table"))?;
            let deleted = self.delete(&table);
            deleted.map_err(self.failed("trying to delete a table"))
        };
        let outcome = tried();
        let request = json!({"Name": table.namespace});
        let removed = self.client.call("DeleteDatabase", request, Repeat::Safe).map(drop);
        outcome.and(removed.map_err(self.failed("removing a database that was tried")))
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>, WriterError> {
        let described = self.describe(table)?;
        let load = |it: Described| pointer::load(self.storage.as_ref(), table, it.location);
        described.map(load).transpose()
    }

    fn list(&self, namespace: &str) -> Result<Vec<TableName>, WriterError> {
        let mut names = Vec::new();
        let mut next = Value::Null;
        loop {
            let mut request = json!({"DatabaseName": namespace, "MaxResults": PAGE});
            if !next.is_null() {
                request["NextToken"] = next;
            }
            let mut answer = match self.client.call("GetTables", request, Repeat::Safe) {
                Err(refused) if refused.reason() == Reason::NotFound => return Ok(Vec::new()),
                answer => answer.map_err(self.failed(&format!("listing {namespace}")))?,
            };
            let tables = answer["TableList"].as_array().map(Vec::as_slice).unwrap_or_default();
            let tables = tables.iter().filter(|table| table::is_iceberg(table));
            names.extend(tables.filter_map(|table| table["Name"].as_str().map(str::to_owned)));
            next = answer["NextToken"].take();
            if next.as_str().is_none_or(str::is_empty) {
                break;
            }
        }
        names.sort();
        let table = |name| TableName { namespace: namespace.to_owned(), name };
        Ok(names.into_iter().map(table).collect())
    }

    fn swap(
        &self,
        table: &TableName,
        base: Option<&Loaded>,
        next: &Next,
    ) -> Result<Swap, WriterError> {
        let described = match base {
            Some(base) => match self.describe(table)? {
                Some(described) if described.location == base.location => Some(described),
                _ => return Ok(Swap::Conflict),
            },
            None => None,
        };
        let storage = self.storage.as_ref();
        let location = pointer::write(storage, base, &next.metadata)?;
        let input = table::input(table, described.as_ref(), &next.metadata, &location);
        let done = match &described {
            Some(described) => self.update(table, &described.version, &input),
            None => self.create(table, &input),
        };
        let refused = match done {
            Ok(()) => return Ok(Swap::Swapped),
            Err(refused) => refused,
        };
        match (refused.reason(), described.is_some()) {
            (Reason::Exists | Reason::Changed, _) | (Reason::NotFound, true) => {
                pointer::forget_unless_made(self, storage, table, &location);
                Ok(Swap::Conflict)
            }
            _ if refused.undone() => {
                pointer::forget(storage, &location);
                Err(self.failed(&format!("committing to {table}"))(refused))
            }
            _ => Ok(Swap::Unknown(self.failed(&format!("committing to {table}"))(refused))),
        }
    }

    fn drop_table(&self, table: &TableName, base: &Loaded) -> Result<bool, WriterError> {
        if self.describe(table)?.is_none_or(|now| now.location != base.location) {
            return Ok(false);
        }
        match self.delete(table) {
            Ok(()) => Ok(true),
            Err(refused) if refused.reason() == Reason::NotFound => Ok(false),
            Err(refused) => {
                let gone = !refused.undone() && self.describe(table)?.is_none();
                if gone {
                    Ok(true)
                } else {
                    Err(self.failed(&format!("dropping {table}"))(refused))
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "glue_tests.rs"]
mod tests;
