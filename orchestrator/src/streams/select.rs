//! From the catalog to the streams of a run. Everything that can be known to
//! be wrong is said here, at once, before a service is asked anything.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto::v1::{Column, Filter, Incremental, LoadStream, Table};

use super::{Catalog, Selection, Stream, SyncMode, TypeSchema, filter, naming};
use crate::cli::Flags;
use crate::config::destination::{self, DestinationFile, Kind};
use crate::config::source::SourceFile;
use crate::config::{ConfigError, ConfigFault};

/// One stream of a run, ready to be sent to the services.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedStream {
    /// Schema of the relation.
    pub namespace: String,
    /// Name of the relation.
    pub name: String,
    /// How it is synced.
    pub sync_mode: SyncMode,
    /// "a" or "a:b"; empty: none.
    pub cursor_field: String,
    /// One typed column per source column.
    pub normalization: bool,
    /// Every change is a row.
    pub append_mode: bool,
    /// What the source is asked to read.
    pub load: LoadStream,
    /// Where the writer puts it.
    pub table: Table,
    /// Names of the columns that will come, in the table's order, as far as
    /// the catalog knows them.
    pub columns: Vec<String>,
}

impl SelectedStream {
    /// "schema.table".
    pub fn id(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }
}

impl Catalog {
    /// The streams to sync, ordered by schema and name; at least one. All
    /// faults are reported at once.
    pub fn selected(
        &self,
        source: &SourceFile,
        destination: &DestinationFile,
        flags: &Flags,
    ) -> Result<Vec<SelectedStream>, ConfigError> {
        destination.writable()?;
        let mut faults = Vec::new();
        let known = self.by_id(&mut faults);
        let mut chosen = BTreeSet::new();
        let mut selected = Vec::new();
        for (namespace, selections) in &self.selected_streams {
            for selection in selections {
                let id = format!("{namespace}.{}", selection.stream_name);
                let mut fault =
                    |problem: String| faults.push(ConfigFault::new(id.clone(), problem));
                let Some(stream) = known.get(&(namespace.as_str(), selection.stream_name.as_str()))
                else {
                    fault(
                        "is selected but absent from streams; correct its name, or run discover \
                         again"
                            .to_owned(),
                    );
                    continue;
                };
                if !chosen.insert(id.clone()) {
                    fault("is selected twice".to_owned());
                    continue;
                }
                selected.push(select(stream, selection, source, destination, &mut fault));
            }
        }
        if selected.is_empty() && faults.is_empty() {
            let problem = "is empty; at least one stream must be selected";
            faults.push(ConfigFault::new("selected_streams", problem));
        }
        faults.extend(collisions(&selected));
        if faults.is_empty() {
            return Ok(selected);
        }
        let path = flags.catalog.clone().unwrap_or_else(|| "streams.json".into());
        Err(ConfigError::Invalid { path, faults })
    }

    fn by_id(&self, faults: &mut Vec<ConfigFault>) -> HashMap<(&str, &str), &Stream> {
        let mut known = HashMap::new();
        for entry in &self.streams {
            let stream = &entry.stream;
            if known.insert((stream.namespace.as_str(), stream.name.as_str()), stream).is_some() {
                faults.push(ConfigFault::new(stream.id(), "occurs twice in streams"));
            }
        }
        known
    }
}

/// One stream; what is wrong with it goes to `fault`.
fn select(
    stream: &Stream,
    selection: &Selection,
    source: &SourceFile,
    destination: &DestinationFile,
    fault: &mut impl FnMut(String),
) -> SelectedStream {
    let sync_mode = sync_mode(stream, source, fault);
    let (cursor_field, cursor_fields) = cursor_field(stream, sync_mode, fault);
    let incremental = (sync_mode == SyncMode::Incremental)
        .then(|| Incremental { cursor_fields, ..Default::default() });
    let all: Vec<&str> = stream.type_schema.properties.keys().map(String::as_str).collect();
    let mut known = |what: &str, column: &str| {
        // Without a type_schema nothing is known: the source will say.
        if !all.is_empty() && !all.contains(&column) {
            fault(unknown(what, column));
        }
    };
    let chosen = selection.selected_columns.as_ref();
    let selected: Vec<String> = chosen.map(|c| c.columns.clone()).unwrap_or_default();
    for column in &selected {
        known("selected_columns", column);
    }
    let split_column = selection
        .split_column
        .as_deref()
        .filter(|column| !column.is_empty())
        .or(selection.chunk_column.as_deref())
        .unwrap_or_default();
    if !split_column.is_empty() {
        known("split_column", split_column);
    }
    let filter = conditions(selection, sync_mode, fault);
    if let Some(filter) = &filter {
        for condition in filter
            .conditions
            .iter()
            .filter(|c| !all.is_empty() && !all.contains(&c.column.as_str()))
        {
            fault(unknown("filter", &condition.column));
        }
    }
    let columns = coming(stream, &selected);
    let normalization = selection.normalization.unwrap_or(destination.normalization);
    if normalization {
        naming::column_collisions(columns.iter().map(String::as_str))
            .into_iter()
            .for_each(&mut *fault);
    }
    let append_mode = selection.append_mode.unwrap_or(false);
    let mut table = table(stream, selection, normalization, source, destination);
    let soft = match selection.delete_mode.as_deref() {
        Some(mode) => mode == destination::SOFT,
        None => destination.soft_deletes,
    };
    // Elsewhere a deletion is a row in any case, or is not seen.
    let upserts = sync_mode == SyncMode::Cdc && destination.kind == Kind::Iceberg && !append_mode;
    table.soft_deletes = soft && upserts;
    let policy = selection.on_unrepresentable.as_deref();
    let policy = match policy {
        Some(_) => destination::on_unrepresentable(policy),
        None => destination.on_unrepresentable,
    };
    SelectedStream {
        namespace: stream.namespace.clone(),
        name: stream.name.clone(),
        sync_mode,
        cursor_field,
        normalization,
        append_mode,
        load: LoadStream {
            namespace: stream.namespace.clone(),
            name: stream.name.clone(),
            expected: expected(stream),
            // Without a choice, a column that appears later is one of all.
            sync_new_columns: chosen.is_none_or(|c| c.columns.is_empty() || c.sync_new_columns),
            selected,
            split_column: split_column.to_owned(),
            filter,
            on_unrepresentable: policy.into(),
            // Every chunk may have a file in every partition.
            few_chunks: !selection.partition_regex.is_empty(),
            incremental,
            // Changes carry the columns that the table has.
            follows_columns: matches!(sync_mode, SyncMode::Cdc | SyncMode::StrictCdc),
            followed: false,
        },
        table,
        columns,
    }
}

fn unknown(what: &str, column: &str) -> String {
    format!(
        "{what} names {column:?}, which is no column of it; if it was renamed, write its new name"
    )
}

fn sync_mode(stream: &Stream, source: &SourceFile, fault: &mut impl FnMut(String)) -> SyncMode {
    let supported = &stream.supported_sync_modes;
    let supports =
        |mode: SyncMode| supported.is_empty() || supported.iter().any(|word| word == mode.as_str());
    if stream.sync_mode.is_empty() {
        let default = source.default_mode;
        return if supports(default) { default } else { SyncMode::FullRefresh };
    }
    let Some(mode) = SyncMode::from_word(&stream.sync_mode) else {
        let words = SyncMode::ALL.map(SyncMode::as_str).join(", ");
        fault(format!("has the sync_mode {:?}; it must be one of {words}", stream.sync_mode));
        return SyncMode::FullRefresh;
    };
    // Files of other tools list cdc alone for what also does strict_cdc.
    let strict = mode == SyncMode::StrictCdc && supports(SyncMode::Cdc);
    if !supports(mode) && !strict {
        let words = supported.join(", ");
        fault(format!("has the sync_mode {mode}, but supports only {words}"));
    }
    mode
}

/// As it is written, and as the one or two columns that it names.
fn cursor_field(
    stream: &Stream,
    mode: SyncMode,
    fault: &mut impl FnMut(String),
) -> (String, Vec<String>) {
    let cursor = stream.cursor_field.clone().unwrap_or_default();
    if mode != SyncMode::Incremental {
        return (cursor, Vec::new());
    }
    let (available, all) = (&stream.available_cursor_fields, &stream.type_schema.properties);
    // A column's own name may have a colon.
    let fields: Vec<String> = match all.contains_key(&cursor) {
        true => vec![cursor.clone()],
        false => cursor.split(':').map(|field| field.trim().to_owned()).collect(),
    };
    if cursor.is_empty() {
        let words = if available.is_empty() { String::new() } else { available.join(", ") };
        fault(format!("is incremental but has no cursor_field; it can be one of {words}"));
    } else if fields.len() > 2 || fields.iter().any(String::is_empty) {
        fault(format!(
            "has the cursor_field {cursor:?}; it must be a column, or a column and its fallback, \
             \"a:b\""
        ));
    } else if fields.len() == 2 && fields[0] == fields[1] {
        fault(format!("cursor_field names {:?} twice", fields[0]));
    } else {
        for column in &fields {
            if !available.is_empty() && !available.contains(column) {
                let words = available.join(", ");
                fault(format!("cursor_field names {column:?}; it must be one of {words}"));
            }
        }
    }
    (cursor, fields)
}

fn conditions(
    selection: &Selection,
    mode: SyncMode,
    fault: &mut impl FnMut(String),
) -> Option<Filter> {
    let text = selection.filter.as_deref().filter(|text| !text.trim().is_empty());
    let config = selection.filter_config.as_ref().filter(|config| !config.conditions.is_empty());
    if (text.is_some() || config.is_some()) && matches!(mode, SyncMode::Cdc | SyncMode::StrictCdc) {
        fault(format!("has a filter, which {mode} cannot have; remove it or use full_refresh"));
    }
    let (name, parsed) = match (text, config) {
        (None, None) => return None,
        (Some(_), Some(_)) => {
            fault("has both filter and filter_config; only one must be".to_owned());
            return None;
        }
        (Some(text), None) => ("filter", filter::parse(text)),
        (None, Some(config)) => ("filter_config", filter::from_config(config)),
    };
    parsed.map_err(|problem| fault(format!("{name} {problem}"))).ok()
}

/// What discover saw, for the source to compare.
fn expected(stream: &Stream) -> Vec<Column> {
    let properties = &stream.type_schema.properties;
    properties
        .iter()
        .map(|(name, property)| Column {
            name: name.clone(),
            r#type: TypeSchema::type_of(property).to_owned(),
            ..Default::default()
        })
        .collect()
}

/// The chosen columns and the key's, in the table's order.
fn coming(stream: &Stream, selected: &[String]) -> Vec<String> {
    let all = stream.type_schema.properties.keys();
    all.filter(|column| {
        selected.is_empty()
            || selected.contains(column)
            || stream.source_defined_primary_key.contains(column)
    })
    .cloned()
    .collect()
}

fn table(
    stream: &Stream,
    selection: &Selection,
    normalization: bool,
    source: &SourceFile,
    destination: &DestinationFile,
) -> Table {
    let given = stream.destination_database.as_deref().filter(|name| !name.is_empty());
    let database = match given.unwrap_or(&destination.default_database) {
        "" => naming::default_database("postgres", &source.database, &stream.namespace),
        name => naming::destination_name(name),
    };
    let name = stream.destination_table.as_deref().filter(|name| !name.is_empty());
    Table {
        database,
        name: naming::destination_name(name.unwrap_or(&stream.name)),
        key_columns: stream.source_defined_primary_key.clone(),
        normalization,
        partition_regex: selection.partition_regex.clone(),
        stream: stream.id(),
        soft_deletes: false,
    }
}

/// Streams that would land in one table.
fn collisions(selected: &[SelectedStream]) -> Vec<ConfigFault> {
    let mut tables: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for stream in selected {
        let key = (stream.table.database.as_str(), stream.table.name.as_str());
        tables.entry(key).or_default().push(stream.id());
    }
    tables
        .into_iter()
        .filter(|(_, streams)| streams.len() > 1)
        .map(|((database, table), streams)| {
            let problem = format!(
                "would all be written to the table {database}.{table}; give each its own \
                 destination_table (or destination_database)"
            );
            ConfigFault::new(streams.join(" and "), problem)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proto::v1::load_stream::OnUnrepresentable;
    use proto::v1::{Destination, Parquet, SourceConfig, destination};
    use serde_json::json;

    use super::*;
    use crate::streams::tests::SAMPLE;

    fn source() -> SourceFile {
        SourceFile {
            config: SourceConfig::default(),
            default_mode: SyncMode::FullRefresh,
            update_method: None,
            database: "Shop".into(),
            warnings: Vec::new(),
        }
    }

    fn destination() -> DestinationFile {
        let parquet =
            Parquet { local_path: "/out".into(), max_file_size_mb: 512, ..Default::default() };
        DestinationFile {
            destination: Destination { kind: Some(destination::Kind::Parquet(parquet)) },
            kind: Kind::LocalParquet,
            normalization: true,
            on_unrepresentable: OnUnrepresentable::Fail,
            soft_deletes: false,
            writer_address: None,
            writer_is_loopback: true,
            default_database: String::new(),
            warnings: Vec::new(),
            unsupported: None,
        }
    }

    fn selected(value: serde_json::Value) -> Result<Vec<SelectedStream>, ConfigError> {
        let catalog: Catalog = serde_json::from_value(value).unwrap();
        catalog.selected(&source(), &destination(), &Flags::default())
    }

    #[test]
    fn a_selection_becomes_a_load_and_a_table() {
        let mut value: serde_json::Value = serde_json::from_str(SAMPLE).unwrap();
        value["streams"][0]["stream"]["sync_mode"] = "".into();
        let selection = &mut value["selected_streams"]["public"][0];
        selection["selected_columns"] = json!({"columns": ["Price"]});
        selection["filter"] = "id > 5".into();
        selection["chunk_column"] = "id".into();
        let streams = selected(value).unwrap();
        let stream = &streams[0];
        assert_eq!(
            (stream.id().as_str(), stream.sync_mode),
            ("public.table_1", SyncMode::FullRefresh)
        );
        assert!(!stream.normalization, "the stream's own setting wins");
        assert_eq!(stream.columns, ["id", "Price"], "the key is always read");
        assert_eq!(stream.load.selected, ["Price"]);
        assert!(!stream.load.sync_new_columns);
        assert_eq!(stream.load.expected[2].r#type, "decimal(10,2)");
        assert_eq!(stream.load.split_column, "id");
        assert_eq!(stream.load.filter.as_ref().unwrap().conditions[0].value, "5");
        assert_eq!(stream.load.on_unrepresentable(), OnUnrepresentable::Fail);
        let table = &stream.table;
        assert_eq!(
            (table.database.as_str(), table.name.as_str()),
            ("postgres_shop_public", "table_1")
        );
        assert_eq!(table.key_columns, ["id"]);
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let stream = |name: &str, mode: &str| {
            json!({"stream": {
                "name": name, "namespace": "public", "sync_mode": mode,
                "type_schema": {"properties": {
                    "a b": {"type": ["integer", "null"]}, "a_b": {"type": ["integer", "null"]}}},
                "supported_sync_modes": ["full_refresh", "cdc"],
            }})
        };
        let error = selected(json!({
            "selected_streams": {"public": [
                {"stream_name": "absent"},
                {"stream_name": "t", "filter": "a_b > 1", "selected_columns": {"columns": ["x"]}},
                {"stream_name": "T", "split_column": "y", "filter": "z = 1"},
                {"stream_name": "u", "filter": "a_b >"},
                {"stream_name": "v"},
            ]},
            "streams": [stream("t", "cdc"), stream("T", "full_refresh"), stream("u", "hourly"),
                        stream("v", "incremental")],
        }))
        .unwrap_err()
        .to_string();
        for part in [
            "public.absent is selected but absent from streams",
            "public.t has a filter, which cdc cannot have",
            "public.t selected_columns names \"x\"",
            "public.T split_column names \"y\"",
            "public.T filter names \"z\"",
            "public.T the columns \"a b\" and \"a_b\" would both be named a_b",
            "public.u has the sync_mode \"hourly\"; it must be one of full_refresh, incremental",
            "public.u filter lacks a value",
            "public.v is incremental but has no cursor_field",
            "public.v has the sync_mode incremental, but supports only full_refresh, cdc",
            "public.t and public.T would all be written to the table postgres_shop_public.t; give \
             each its own destination_table",
        ] {
            assert!(error.contains(part), "{part}\n{error}");
        }
    }

    #[test]
    fn selecting_nothing_is_a_fault() {
        let error = selected(json!({"selected_streams": {}, "streams": []})).unwrap_err();
        assert!(error.to_string().contains("at least one stream must be selected"), "{error}");
    }
}
