//! streams.json: the catalog of streams and what the user wants of them.
//!
//! - [`naming`]: names at the destination
//! - [`filter`]: `filter` and `filter_config` → the conditions sent to a source
//! - [`select`]: the selected streams of a run, all faults at once
//! - [`merge`]: a new discover into an old file; the user's choices stay
//! - [`difference`]: what changed between two files
//!
//! Keys that this version does not know survive a rewrite, and the order is
//! always the same: schemas, then names.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::config::validate::{self, STREAMS};
use crate::config::{ConfigError, ConfigFault, read};

pub mod difference;
pub mod filter;
pub mod merge;
pub mod naming;
pub mod select;

pub use select::SelectedStream;

/// How a stream is kept up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// Every run replaces the table's content.
    FullRefresh,
    /// Every run reads what lies above the cursor.
    Incremental,
    /// A load, then changes.
    Cdc,
    /// Changes only, no load.
    StrictCdc,
}

impl SyncMode {
    /// Every mode, as messages list them.
    pub const ALL: [SyncMode; 4] =
        [SyncMode::FullRefresh, SyncMode::Incremental, SyncMode::Cdc, SyncMode::StrictCdc];

    /// The word of streams.json.
    pub fn as_str(self) -> &'static str {
        match self {
            SyncMode::FullRefresh => "full_refresh",
            SyncMode::Incremental => "incremental",
            SyncMode::Cdc => "cdc",
            SyncMode::StrictCdc => "strict_cdc",
        }
    }

    /// The mode of a word of streams.json.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// streams.json.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// What to sync, by schema.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub selected_streams: BTreeMap<String, Vec<Selection>>,
    /// What there is.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub streams: Vec<StreamEntry>,
    /// Keys of other versions.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the user wants of one stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// How the table is partitioned; empty: not.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub partition_regex: String,
    /// The stream's name within its schema.
    pub stream_name: String,
    /// Absent: as destination.json says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalization: Option<bool>,
    /// Every change is a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_mode: Option<bool>,
    /// Column to cut the table into chunks by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_column: Option<String>,
    /// The same by its other name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_column: Option<String>,
    /// Rows to read, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Rows to read, as conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_config: Option<FilterConfig>,
    /// Columns to read; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected_columns: Option<SelectedColumns>,
    /// As in destination.json, for this stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_unrepresentable: Option<String>,
    /// As in destination.json, for this stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_mode: Option<String>,
    /// Keys of other versions.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `filter_config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilterConfig {
    /// "and" or "or"; absent: and.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical_operator: Option<String>,
    /// At least one.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub conditions: Vec<FilterCondition>,
    /// Keys of other versions.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One comparison of `filter_config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilterCondition {
    /// The column's name.
    pub column: String,
    /// =  !=  <  <=  >  >=
    pub operator: String,
    /// Text, a number, a boolean, or null.
    #[serde(default)]
    pub value: Value,
    /// Keys of other versions.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `selected_columns`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SelectedColumns {
    /// Empty: all.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub columns: Vec<String>,
    /// Whether columns that appear later are added.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub sync_new_columns: bool,
    /// Keys of other versions.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An element of `streams`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamEntry {
    /// The stream itself.
    pub stream: Stream,
    /// Keys of other versions.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A relation that can be synced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// The relation's name.
    pub name: String,
    /// Its schema.
    pub namespace: String,
    /// Its columns.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub type_schema: TypeSchema,
    /// Words of [`SyncMode`].
    #[serde(default, deserialize_with = "null_is_empty")]
    pub supported_sync_modes: Vec<String>,
    /// Columns of the primary key, in key order.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub source_defined_primary_key: Vec<String>,
    /// Columns that an incremental sync can follow.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub available_cursor_fields: Vec<String>,
    /// The column it follows, or two, "a:b".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor_field: Option<String>,
    /// The user's choice, a word of [`SyncMode`].
    #[serde(default, deserialize_with = "null_is_empty")]
    pub sync_mode: String,
    /// Database at the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_database: Option<String>,
    /// Table at the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_table: Option<String>,
    /// Keys of other versions.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Columns with their types.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TypeSchema {
    /// Column name → `{"type": [T, "null"]}`, in the table's order.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub properties: Map<String, Value>,
    /// Keys of other versions.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Other tools write null for an empty list.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl Stream {
    /// "schema.table".
    pub fn id(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }
}

impl TypeSchema {
    /// The type word of a column; empty when the file does not say.
    pub fn type_of(property: &Value) -> &str {
        match &property["type"] {
            Value::String(word) => word,
            Value::Array(words) => {
                let mut words = words.iter().filter_map(Value::as_str);
                words.find(|word| *word != "null").unwrap_or_default()
            }
            _ => "",
        }
    }
}

impl Catalog {
    /// Reads, decrypts and validates a streams.json.
    pub fn load(path: &Path, key: Option<&str>) -> Result<Catalog, ConfigError> {
        let value = read::json(path, key)?;
        let invalid = |faults| ConfigError::Invalid { path: path.to_owned(), faults };
        let faults = validate::faults(&STREAMS, &value);
        if !faults.is_empty() {
            return Err(invalid(faults));
        }
        warn_of_unknown_keys(path, &value);
        let mut catalog: Catalog = serde_json::from_value(value)
            .map_err(|e| invalid(vec![ConfigFault::new("", format!("cannot be used: {e}"))]))?;
        catalog.sort();
        Ok(catalog)
    }

    /// Puts the streams into their order.
    pub fn sort(&mut self) {
        self.streams.sort_by(|a, b| {
            (&a.stream.namespace, &a.stream.name).cmp(&(&b.stream.namespace, &b.stream.name))
        });
        for selections in self.selected_streams.values_mut() {
            selections.sort_by(|a, b| a.stream_name.cmp(&b.stream_name));
        }
    }

    /// Writes it so that a reader sees the old file or the new one.
    pub fn save(&self, path: &Path) -> Result<(), ConfigError> {
        let failed = |source| ConfigError::Write { path: path.to_owned(), source };
        let mut text =
            serde_json::to_vec_pretty(self).map_err(|e| failed(std::io::Error::other(e)))?;
        text.push(b'\n');
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, path));
        written.map_err(|error| {
            // The error that matters is the first one.
            let _ = fs::remove_file(&temporary);
            failed(error)
        })
    }
}

/// Only what the user writes by hand is looked at: tools add keys to streams.
fn warn_of_unknown_keys(path: &Path, value: &Value) {
    let rules = &STREAMS.json()["properties"]["selected_streams"]["additionalProperties"];
    for (schema, selections) in value["selected_streams"].as_object().into_iter().flatten() {
        for warning in validate::unknown_under(rules, selections, schema) {
            tracing::warn!("{}: {warning}", path.display());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The documented example with its placeholders filled in.
    pub(crate) const SAMPLE: &str = r#"{
      "selected_streams": {
        "public": [
          {"partition_regex": "", "stream_name": "table_1", "normalization": false}
        ]
      },
      "streams": [
        {
          "stream": {
            "name": "table_1",
            "namespace": "public",
            "type_schema": {
              "properties": {
                "id": {"type": ["integer", "null"]},
                "name": {"type": ["string", "null"], "destination_column_name": "name"},
                "Price": {"type": ["decimal(10,2)", "null"]}
              }
            },
            "supported_sync_modes": ["full_refresh", "cdc"],
            "source_defined_primary_key": ["id"],
            "available_cursor_fields": ["id"],
            "sync_mode": "cdc"
          }
        }
      ]
    }"#;

    pub(crate) fn sample() -> Catalog {
        serde_json::from_str(SAMPLE).unwrap()
    }

    #[test]
    fn a_rewrite_changes_nothing_and_keeps_unknown_keys() {
        let mut value: Value = serde_json::from_str(SAMPLE).unwrap();
        value["later"] = 1.into();
        value["selected_streams"]["public"][0]["ours"] = "kept".into();
        value["selected_streams"]["public"][0]["chunk_column"] = "id".into();
        value["streams"][0]["stream"]["theirs"] = vec!["kept"].into();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("streams.json");
        fs::write(&path, value.to_string()).unwrap();
        let catalog = Catalog::load(&path, None).unwrap();
        catalog.save(&path).unwrap();
        let again: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(again, value);
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 1, "a temporary file was left behind");
    }

    #[test]
    fn null_stands_for_empty() {
        let text = r#"{"selected_streams": {"s": []}, "streams": [{"stream": {"name": "t",
            "namespace": "s", "type_schema": null, "supported_sync_modes": null,
            "available_cursor_fields": null, "sync_mode": null}}]}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let catalog = Catalog::load(file.path(), None).unwrap();
        assert!(catalog.streams[0].stream.supported_sync_modes.is_empty());
    }

    #[test]
    fn every_fault_of_the_file_is_listed() {
        let text = r#"{"selected_streams": {"s": [{"stream_name": 3},
            {"stream_name": "t", "normalization": "yes"}]}, "streams": [{"stream": {"name": "t"}}]}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let error = Catalog::load(file.path(), None).unwrap_err().to_string();
        for part in [
            "selected_streams.s[0].stream_name is 3",
            "selected_streams.s[1].normalization is \"yes\"; it must be true or false",
            "streams[0].stream.namespace is missing",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
