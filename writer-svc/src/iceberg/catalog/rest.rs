//! A catalog that speaks Iceberg's REST protocol.
//!
//! ```text
//! load:    GET  …/namespaces/{n}/tables/{t}
//! create:  POST …/namespaces/{n}/tables
//! swap:    POST …/namespaces/{n}/tables/{t}   requirements, updates
//!          POST …/transactions/commit         the same of several tables
//! ```
//!
//! The catalog writes the metadata files; a swap sends what changes, with what
//! must be true of the table for it. A catalog may put commits together whose
//! requirements both hold: so everything that a commit is derived from is
//! required, main's snapshot first of all.
//!
//! Commits of several tables belong to what a catalog that lists no endpoints is
//! to be taken to have. It is asked then, and one that refuses is not asked again
//! for some minutes.
//!
//! - [`changes`]: what a swap demands and changes
//! - [`client`]: requests, and what is certain of them
//! - [`oauth`]: the tokens that they are sent with
//! - [`failure`]: what it means when they fail
//! - [`lending`]: what the catalog lends with a table
//! - [`storage`]: where the table's files lie, by that
//!
//! A new table is created before its first file is written, and is empty until
//! its first commit: only the catalog knows where it lies, by which ids its
//! fields go, and with which keys it is written. (A table that is created with
//! its first commit gets ids of the catalog's own, whatever its files have.)

pub mod changes;
pub mod client;
pub mod failure;
pub mod lending;
pub mod oauth;
pub mod storage;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use iceberg::spec::{
    FormatVersion, NestedField, PartitionSpec, PrimitiveType, Schema, SortOrder, TableMetadata,
    Type, UnboundPartitionSpec,
};
use iceberg::{TableRequirement, TableUpdate};
use proto::v1::Iceberg;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use self::storage::LentStorage;
use super::{Catalog, Loaded, Next, Opened, Swap, TableChange, TableName};
use crate::error::WriterError;
use crate::iceberg::storage::{self as stores, Storage};
use crate::iceberg::{Paths, snapshot};
use crate::{Options, s3};
use client::{Ask, Client, json};
use failure::{Failure, Refusal};
use lending::{Lending, Terms};

/// A REST catalog.
#[derive(Debug)]
pub struct RestCatalog {
    client: Arc<Client>,
    storage: Arc<dyn Storage>,
    /// Where new tables are put; `None`: where the catalog puts them.
    warehouse: Option<String>,
    /// Where storage is the catalog's to lend.
    lending: Option<Arc<Lending>>,
    handle: Handle,
}

/// A table, as the catalog sends it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    metadata_location: Option<String>,
    metadata: TableMetadata,
    #[serde(flatten)]
    terms: Terms,
}

/// A page of a namespace's tables.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Page {
    identifiers: Vec<Identifier>,
    next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Identifier {
    name: String,
}

/// A table to be made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Create<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    schema: &'a Schema,
    partition_spec: UnboundPartitionSpec,
    write_order: &'a SortOrder,
    stage_create: bool,
    properties: HashMap<&'a str, &'a str>,
}

/// A change of a table; among several, with its name.
#[derive(Debug, Serialize)]
struct Commit<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    identifier: Option<Named<'a>>,
    requirements: &'a [TableRequirement],
    updates: &'a [TableUpdate],
}

#[derive(Debug, Serialize)]
struct Named<'a> {
    namespace: [&'a str; 1],
    name: &'a str,
}

impl<'a> Commit<'a> {
    fn of(change: &'a TableChange) -> Self {
        Commit { identifier: None, requirements: &change.requirements, updates: &change.updates }
    }

    fn named(change: &'a TableChange) -> Self {
        let TableName { namespace, name } = &change.table;
        let identifier = Some(Named { namespace: [namespace], name });
        Commit { identifier, ..Commit::of(change) }
    }
}

/// Changes of several tables.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Commits<'a> {
    table_changes: Vec<Commit<'a>>,
}

#[derive(Debug, Serialize)]
struct CreateNamespace<'a> {
    namespace: [&'a str; 1],
    properties: HashMap<&'a str, &'a str>,
}

/// What a catalog must be able to do, in its own words.
const COMMITS: &str = "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}";
const COMMITS_TOGETHER: &str = "POST /v1/{prefix}/transactions/commit";
const CREATES_NAMESPACES: &str = "POST /v1/{prefix}/namespaces";

/// The catalog for a table, and the storage that the table is in. Connects to
/// nothing yet; must be called within a runtime.
pub fn open(
    rest: &proto::v1::RestCatalog,
    iceberg: &Iceberg,
    table: &TableName,
    options: &Options,
) -> Result<Opened, WriterError> {
    let s3 = iceberg.s3.clone().unwrap_or_default();
    let client = Client::shared(rest, &s3)?;
    let warehouse = Some(iceberg.warehouse.trim_end_matches('/').to_owned());
    let warehouse = warehouse.filter(|warehouse| !warehouse.is_empty());
    let has_keys = !s3.access_key.is_empty() || !s3.profile.is_empty();
    let is_told = match &warehouse {
        Some(warehouse) => has_keys || s3::split(warehouse).is_none(),
        None => false,
    };
    let lending = (!is_told).then(|| Arc::new(Lending::new(Arc::clone(&client), table.clone())));
    let storage: Arc<dyn Storage> = match &lending {
        Some(lending) => Arc::new(LentStorage::new(Arc::clone(lending), iceberg, options)?),
        None => stores::open(iceberg, options)?,
    };
    let handle = Handle::try_current()
        .map_err(|e| WriterError::Internal(format!("a REST catalog needs a runtime: {e}")))?;
    let catalog = RestCatalog { client, storage: Arc::clone(&storage), warehouse, lending, handle };
    Ok((Box::new(catalog), storage))
}

impl RestCatalog {
    fn failed(&self, doing: impl fmt::Display) -> impl FnOnce(Failure) -> WriterError {
        let doing = format!("{doing} in the REST catalog at {}", self.client.name());
        move |failure| failure.doing(doing)
    }

    /// A namespace of this name, made if need be.
    fn ensure_namespace(&self, namespace: &str) -> Result<(), WriterError> {
        let looking = || self.failed(format!("looking for the namespace {namespace}"));
        match self.client.read(&Ask::of(&["namespaces", namespace])) {
            Ok(_) => return Ok(()),
            Err(Failure::Refused(refusal)) if refusal.is_missing() => {}
            Err(failure) => return Err(looking()(failure)),
        }
        if !self.client.can(CREATES_NAMESPACES).map_err(looking())? {
            return Err(WriterError::invalid_table(
                format!(
                    "the REST catalog at {} has no namespace {namespace} and creates none",
                    self.client.name()
                ),
                "create it by the catalog's own means, or name one that is there by iceberg_db in \
                 destination.json or destination_database in streams.json",
            ));
        }
        self.create_namespace(namespace)
    }

    fn create_namespace(&self, namespace: &str) -> Result<(), WriterError> {
        let body = CreateNamespace { namespace: [namespace], properties: HashMap::new() };
        let ask = Ask::of(&["namespaces"]).body(&body)?;
        match self.client.write(Method::POST, &ask) {
            Ok(_) => Ok(()),
            // Somebody else was quicker.
            Err(Failure::Refused(Refusal { status: 409, .. })) => Ok(()),
            Err(failure) => {
                Err(self.failed(format!("creating the namespace {namespace}"))(failure))
            }
        }
    }

    fn table_path(table: &TableName) -> [&str; 4] {
        ["namespaces", &table.namespace, "tables", &table.name]
    }

    /// Has the catalog make a table; `Ok(None)`: there is one already.
    fn create(
        &self,
        table: &TableName,
        metadata: &TableMetadata,
    ) -> Result<Option<Table>, WriterError> {
        let version = (metadata.format_version() as u8).to_string();
        let mut properties: HashMap<&str, &str> =
            metadata.properties().iter().map(|(key, value)| (key.as_str(), &**value)).collect();
        properties.insert("format-version", &version);
        let body = Create {
            name: &table.name,
            location: self.warehouse.as_ref().map(|_| metadata.location().to_owned()),
            schema: metadata.current_schema(),
            partition_spec: metadata.default_partition_spec().as_ref().clone().into_unbound(),
            write_order: metadata.default_sort_order(),
            stage_create: false,
            properties,
        };
        let ask = Ask::of(&["namespaces", &table.namespace, "tables"]).body(&body)?;
        let doing = || self.failed(format!("creating {table}"));
        match self.client.write(Method::POST, &ask.delegated(self.lending.is_some())) {
            Ok(answer) => self.described(&answer).map(Some).map_err(doing()),
            Err(Failure::Refused(Refusal { status: 409, .. })) => Ok(None),
            Err(failure) => Err(doing()(failure)),
        }
    }

    fn commit(&self, change: &TableChange) -> Result<Swap, WriterError> {
        let table = &change.table;
        let ask = Ask::of(&Self::table_path(table)).body(&Commit::of(change))?;
        let failed = self.failed(format!("committing to {table}"));
        match self.client.write(Method::POST, &ask) {
            Ok(_) => Ok(Swap::Swapped),
            Err(Failure::Refused(Refusal { status: 409, .. })) => Ok(Swap::Conflict),
            Err(failure) if failure.is_undone() => Err(failed(failure)),
            Err(failure) => Ok(Swap::Unknown(failed(failure))),
        }
    }

    /// A description of the table, and what comes with it.
    fn described(&self, answer: &[u8]) -> Result<Table, Failure> {
        let table: Table = json(answer)?;
        if let Some(lending) = &self.lending {
            self.handle.block_on(lending.take(&table.terms, table.metadata.location()));
        }
        Ok(table)
    }

    fn read_table(&self, table: &TableName) -> Result<Option<Table>, WriterError> {
        let ask = Ask::of(&Self::table_path(table)).delegated(self.lending.is_some());
        let failed = || self.failed(format!("loading {table}"));
        match self.client.read(&ask) {
            Ok(answer) => self.described(&answer).map(Some).map_err(failed()),
            Err(Failure::Refused(refusal)) if refusal.is_missing() => Ok(None),
            Err(failure) => Err(failed()(failure)),
        }
    }

    fn delete(&self, parts: &[&str], purge: bool, doing: &str) -> Result<bool, WriterError> {
        let mut ask = Ask::of(parts);
        if parts.contains(&"tables") {
            ask = ask.with("purgeRequested", purge.to_string());
        }
        match self.client.write(Method::DELETE, &ask) {
            Ok(_) => Ok(true),
            Err(Failure::Refused(refusal)) if refusal.is_missing() => Ok(false),
            // Some remove the files themselves, or nothing.
            Err(Failure::Refused(Refusal { status: 400, message, .. }))
                if !purge && message.to_ascii_lowercase().contains("purge") =>
            {
                self.delete(parts, true, doing)
            }
            Err(failure) => Err(self.failed(doing)(failure)),
        }
    }
}

impl Catalog for RestCatalog {
    /// By a namespace and a table of its own, see [`Catalog::check_inside`].
    fn check(&self) -> Result<(), WriterError> {
        Ok(())
    }

    fn check_inside(
        &self,
        table: &TableName,
        probe: &dyn Fn(&str) -> Result<(), WriterError>,
    ) -> Result<bool, WriterError> {
        let namespace = &table.namespace;
        self.ensure_namespace(namespace)?;
        let tried = || {
            let metadata = sample(self.warehouse.as_deref(), table)?;
            let created = self.create(table, &metadata)?.ok_or_else(|| {
                WriterError::BadData(format!("the table {table} was there before it was created"))
            })?;
            let paths = Paths::of(Some(&created.metadata), "");
            let probed = probe(&paths.metadata);
            let dropped = self.delete(&Self::table_path(table), false, "dropping a table");
            // What the catalog wrote, in a directory that is nobody else's.
            let left = self.storage.list(&paths.metadata).map(|below| below.objects);
            for name in left.unwrap_or_default() {
                self.storage.delete(&format!("{}/{name}", paths.metadata))?;
            }
            probed.and(dropped.map(drop))
        };
        let outcome = tried();
        let removed = self.delete(&["namespaces", namespace], false, "dropping a namespace");
        outcome.and(removed).map(|_| true)
    }

    fn owns_metadata_files(&self) -> bool {
        true
    }

    fn make_ready(&self, table: &TableName) -> Result<(), WriterError> {
        let offers = self.client.can(COMMITS).map_err(self.failed("reading the configuration"))?;
        if !offers {
            return Err(WriterError::invalid_table(
                format!("the REST catalog at {} takes no commits", self.client.name()),
                "use a catalog that can be written",
            ));
        }
        self.ensure_namespace(&table.namespace)
    }

    fn places_tables(&self) -> bool {
        true
    }

    fn create_empty(&self, table: &TableName, metadata: &TableMetadata) -> Result<(), WriterError> {
        self.ensure_namespace(&table.namespace)?;
        // Of several that create it, one does.
        self.create(table, metadata).map(drop)
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>, WriterError> {
        let Some(found) = self.read_table(table)? else { return Ok(None) };
        let location = found.metadata_location.ok_or_else(|| WriterError::BadTable {
            table: table.to_string(),
            problem: "its catalog names no metadata".into(),
        })?;
        Ok(Some(Loaded { metadata: found.metadata, location }))
    }

    fn list(&self, namespace: &str) -> Result<Vec<TableName>, WriterError> {
        let failed = || self.failed(format!("listing {namespace}"));
        let mut names = Vec::new();
        let mut page: Option<String> = None;
        loop {
            let mut ask = Ask::of(&["namespaces", namespace, "tables"]);
            if let Some(token) = &page {
                ask = ask.with("pageToken", token);
            }
            let answer = match self.client.read(&ask) {
                Ok(answer) => answer,
                Err(Failure::Refused(refusal)) if refusal.is_missing() => return Ok(Vec::new()),
                Err(failure) => return Err(failed()(failure)),
            };
            let answer: Page = json(&answer).map_err(failed())?;
            names.extend(answer.identifiers.into_iter().map(|identifier| identifier.name));
            match answer.next_page_token.filter(|token| !token.is_empty()) {
                // Some repeat themselves.
                Some(next) if page.as_ref() != Some(&next) => page = Some(next),
                _ => break,
            }
        }
        names.sort();
        names.dedup();
        let table = |name| TableName { namespace: namespace.to_owned(), name };
        Ok(names.into_iter().map(table).collect())
    }

    fn swap(
        &self,
        table: &TableName,
        base: Option<&Loaded>,
        next: &Next,
    ) -> Result<Swap, WriterError> {
        let Some(base) = base else {
            return Err(WriterError::invalid_table(
                format!("the table {table} was dropped while it was loaded"),
                "run the sync again",
            ));
        };
        let outcome = self.commit(&TableChange::of(table, base, next));
        // Some refuse what does not fit what was changed in between, before they
        // come to the requirements.
        match outcome {
            Err(error @ WriterError::Catalog { transient: false, .. }) => match self.load(table) {
                Ok(now) if now.as_ref().is_none_or(|now| now.location != base.location) => {
                    Ok(Swap::Conflict)
                }
                _ => Err(error),
            },
            outcome => outcome,
        }
    }

    fn swaps_together(&self) -> Result<bool, WriterError> {
        self.client.offers(COMMITS_TOGETHER).map_err(self.failed("reading the configuration"))
    }

    fn swap_all(&self, changes: &[&TableChange]) -> Result<Option<Swap>, WriterError> {
        let body =
            Commits { table_changes: changes.iter().map(|change| Commit::named(change)).collect() };
        let ask = Ask::of(&["transactions", "commit"]).body(&body)?;
        let failed = self.failed(format!("committing to {} tables", changes.len()));
        match self.client.write(Method::POST, &ask) {
            Ok(_) => Ok(Some(Swap::Swapped)),
            Err(Failure::Refused(Refusal { status: 409, .. })) => Ok(Some(Swap::Conflict)),
            Err(failure) if !failure.is_undone() => Ok(Some(Swap::Unknown(failed(failure)))),
            Err(failure) if failure.is_transient() => Err(failed(failure)),
            Err(failure) => {
                // One of the tables may be missing, which says nothing of the rest.
                if !failure.refusal().is_some_and(Refusal::is_missing) {
                    self.client.remember_refusal(COMMITS_TOGETHER);
                }
                tracing::warn!("{}", failed(failure));
                Ok(None)
            }
        }
    }

    fn drop_table(&self, table: &TableName, base: &Loaded) -> Result<bool, WriterError> {
        // The protocol has no condition here.
        match self.load(table)? {
            Some(now) if now.location == base.location => {}
            _ => return Ok(false),
        }
        self.delete(&Self::table_path(table), false, &format!("dropping {table}"))
    }
}

/// The metadata of a table to try.
fn sample(warehouse: Option<&str>, table: &TableName) -> Result<TableMetadata, WriterError> {
    let field = NestedField::optional(1, "x", Type::Primitive(PrimitiveType::Int));
    let location =
        warehouse.map(|warehouse| format!("{warehouse}/{}/{}", table.namespace, table.name));
    let schema = Schema::builder()
        .with_fields([Arc::new(field)])
        .build()
        .map_err(WriterError::iceberg("describing a table to try"))?;
    let spec = PartitionSpec::unpartition_spec();
    snapshot::empty_table(&schema, &spec, &location.unwrap_or_default(), FormatVersion::V2)
}

#[cfg(test)]
mod tests;
