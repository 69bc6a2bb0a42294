//! A table's metadata, and a foreign writer of it: PyIceberg.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::engine::Engine;
use crate::compare::{Cell, Rows};
use crate::reader::ReadTable;

/// A table in a catalog, which need not exist.
#[derive(Clone, Debug)]
pub struct Table {
    client: Client,
    name: String,
}

/// Everything that the table's metadata and manifests say.
#[derive(Clone, Debug, Deserialize)]
pub struct Description {
    /// The file the catalog names.
    pub metadata_location: String,
    /// Where the table lies.
    pub location: String,
    /// Stays when a table is replaced, changes when it is made anew.
    pub uuid: String,
    /// 1, 2 or 3.
    pub format_version: u8,
    /// The table's properties.
    pub properties: BTreeMap<String, String>,
    /// The current schema's columns, in order.
    pub schema: Vec<Field>,
    /// Names of the identifier fields.
    pub identifier_fields: Vec<String>,
    /// The default partition spec.
    pub partition: Vec<PartitionField>,
    /// All snapshots that have not expired.
    pub snapshots: Vec<Snapshot>,
    /// None in a table that was never written.
    pub current_snapshot_id: Option<i64>,
    /// Earlier metadata files, oldest first.
    pub metadata_log: Vec<String>,
    /// Of the current snapshot.
    pub manifests: Vec<Manifest>,
    /// The current snapshot's live files, delete files too.
    pub files: Vec<File>,
}

/// A column.
#[derive(Clone, Debug, Deserialize)]
pub struct Field {
    /// Iceberg's field id.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// As in "decimal(10,2)", "list<int>".
    #[serde(rename = "type")]
    pub kind: String,
    /// Never null.
    pub required: bool,
    /// The comment.
    pub doc: Option<String>,
}

/// A field of a partition spec.
#[derive(Clone, Debug, Deserialize)]
pub struct PartitionField {
    /// Its field id.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// The column it is made of.
    pub source: String,
    /// As in "bucket[16]".
    pub transform: String,
}

/// A snapshot.
#[derive(Clone, Debug, Deserialize)]
pub struct Snapshot {
    /// Its id.
    pub id: i64,
    /// The one before it.
    pub parent: Option<i64>,
    /// Ascending.
    pub sequence_number: i64,
    /// When it was made.
    pub timestamp_ms: i64,
    /// "append", "overwrite", "delete", "replace".
    pub operation: Option<String>,
    /// The rest of its summary.
    pub summary: BTreeMap<String, String>,
}

/// A manifest of the current snapshot.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    /// Where it lies.
    pub path: String,
    /// "data" or "deletes".
    pub content: String,
    /// The partition spec of its files.
    pub spec_id: i32,
    /// Of the commit that added it.
    pub sequence_number: i64,
    /// That commit's snapshot.
    pub added_snapshot_id: i64,
    /// Entries added by that snapshot.
    pub added: u64,
    /// Entries added before.
    pub existing: u64,
    /// Entries removed by that snapshot.
    pub deleted: u64,
}

/// A live data or delete file, with its metrics by column name; an element of
/// a list is `column.element`.
#[derive(Clone, Debug, Deserialize)]
pub struct File {
    /// Where it lies.
    pub path: String,
    /// "data", "position_deletes", "equality_deletes".
    pub content: String,
    /// Its rows.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
    /// Of the commit that added it.
    pub sequence_number: i64,
    /// Partition field → value, as its cell's text.
    pub partition: BTreeMap<String, Option<String>>,
    /// Values, nulls included.
    pub values: BTreeMap<String, u64>,
    /// Nulls.
    pub nulls: BTreeMap<String, u64>,
    /// NaNs.
    pub nans: BTreeMap<String, u64>,
    /// Lower bounds, as their cells' text.
    pub lower: BTreeMap<String, String>,
    /// Upper bounds.
    pub upper: BTreeMap<String, String>,
}

impl Description {
    /// The current snapshot.
    pub fn current(&self) -> Result<&Snapshot> {
        let id = self.current_snapshot_id.context("the table has no snapshot")?;
        let found = self.snapshots.iter().find(|snapshot| snapshot.id == id);
        found.with_context(|| format!("the current snapshot {id} is not in the metadata"))
    }

    /// The live data files.
    pub fn data_files(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.content == "data")
    }

    /// The type of each column, in order.
    pub fn kinds(&self) -> Vec<String> {
        self.schema.iter().map(|field| field.kind.clone()).collect()
    }
}

impl Table {
    /// A table by its name, "namespace.table".
    pub fn new(client: Client, name: &str) -> Table {
        Table { client, name: name.to_owned() }
    }

    /// "namespace.table".
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its metadata, as it is now.
    pub fn describe(&self) -> Result<Description> {
        self.client.ask("describe", json!({"table": self.name}))
    }

    /// Its rows, as an engine reads them.
    pub fn read(&self, engine: Engine) -> Result<ReadTable> {
        let mut tables = engine.read(&self.client, std::slice::from_ref(&self.name))?;
        tables.pop().context("the reader printed no table")
    }

    /// As [`Table::read`], of an earlier snapshot, under the schema of then.
    pub fn read_at(&self, engine: Engine, snapshot: i64) -> Result<ReadTable> {
        engine.read_at(&self.client, &self.name, snapshot)
    }

    /// How many rows an engine finds for each condition. Written so that all
    /// understand it: names that are no keywords, timestamps as
    /// '2024-02-29T12:00:00+00:00'.
    pub fn counts(&self, engine: Engine, conditions: &[&str]) -> Result<Vec<u64>> {
        let request = json!({"table": self.name, "conditions": conditions});
        self.client.ask("count", engine.asked(request)?)
    }

    /// As [`Table::counts`], for one condition.
    pub fn count(&self, engine: Engine, condition: &str) -> Result<u64> {
        self.counts(engine, &[condition])?.pop().context("no count was printed")
    }

    /// The data files that PyIceberg would open for each condition.
    pub fn plans(&self, conditions: &[&str]) -> Result<Vec<Vec<String>>> {
        self.client.ask("plan", json!({"table": self.name, "conditions": conditions}))
    }

    /// Fails unless every row lies in the partition that PyIceberg's transforms
    /// put it in, and there are so many.
    pub fn rows_are_in_their_partitions(&self, rows: u64) -> Result<()> {
        #[derive(Deserialize)]
        struct Answer {
            faults: Vec<String>,
            rows: u64,
        }
        let answer: Answer = self.client.ask("misplaced", json!({"table": self.name}))?;
        ensure!(answer.faults.is_empty(), "{}: {}", self.name, answer.faults.join("\n"));
        ensure!(answer.rows == rows, "{} has {} rows, not {rows}", self.name, answer.rows);
        Ok(())
    }

    /// Creates it, and its namespace: columns are (name, type), the partition
    /// (column, transform).
    pub fn create(
        &self,
        columns: &[(&str, &str)],
        partition: &[(&str, &str)],
        properties: Value,
    ) -> Result<()> {
        let request = json!({
            "table": self.name, "columns": columns, "partition": partition, "properties": properties,
        });
        self.client.call("create", request).map(drop)
    }

    /// Appends rows, as a foreign writer; columns that they do not have are null.
    pub fn append(&self, rows: &Rows) -> Result<()> {
        let cells: Vec<Vec<Value>> =
            rows.rows.iter().map(|row| row.iter().map(value).collect()).collect();
        let request = json!({"table": self.name, "columns": rows.columns, "rows": cells});
        self.client.call("append", request).map(drop)
    }

    /// Sets properties of it, as a user does with another engine.
    pub fn set_properties(&self, properties: Value) -> Result<()> {
        let request = json!({"table": self.name, "properties": properties});
        self.client.call("set_properties", request).map(drop)
    }

    /// Writes its own rows into new files, in a commit that removes the old
    /// ones and one that adds the new, as a compaction does.
    pub fn rewrite(&self) -> Result<()> {
        self.client.call("rewrite", json!({"table": self.name})).map(drop)
    }

    /// Changes its schema, as a foreign writer: a list of `["add", column, type]`,
    /// `["rename", column, name]`, `["type", column, type]`, `["drop", column]`.
    pub fn evolve(&self, changes: Value) -> Result<()> {
        self.client.call("evolve", json!({"table": self.name, "changes": changes})).map(drop)
    }

    /// Forgets a property.
    pub fn unset(&self, property: &str) -> Result<()> {
        self.client.call("unset", json!({"table": self.name, "property": property})).map(drop)
    }

    /// Makes an earlier snapshot the current one; the schema stays as it is.
    pub fn roll_back(&self, snapshot: i64) -> Result<()> {
        self.client.call("roll_back", json!({"table": self.name, "snapshot": snapshot})).map(drop)
    }

    /// Removes it with its files.
    pub fn drop_with_files(&self) -> Result<()> {
        self.client.call("drop", json!({"table": self.name})).map(drop)
    }
}

fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Text(text) => text.as_str().into(),
        Cell::List(items) => items.iter().map(value).collect(),
    }
}
