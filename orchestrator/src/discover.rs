//! `discover`: what can be synced. The catalog goes to stdout and into
//! streams.json; a streams.json that is there already is merged into, so that
//! no choice of the user's is lost.

use std::path::{Path, PathBuf};

use proto::Fault;
use proto::v1::relation::Kind;
use proto::v1::{DiscoverRequest, ErrorCode, Relation};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::Flags;
use crate::config::source::{self, SourceFile};
use crate::output;
use crate::services::Services;
use crate::streams::difference::difference;
use crate::streams::merge::merge;
use crate::streams::{Catalog, Selection, Stream, StreamEntry, SyncMode, TypeSchema, naming};

/// Discovers, or compares two files when `--difference` is given.
pub async fn run(flags: &Flags, shutdown: CancellationToken) -> Result<(), Fault> {
    if let Some(second) = &flags.difference {
        return compare(flags, second);
    }
    let path = match &flags.catalog {
        Some(path) => path.clone(),
        None => flags.beside_config("streams.json")?,
    };
    let source = source::load(flags.require_config()?, flags.key())?;
    let old = match path.try_exists() {
        Ok(true) => Some(Catalog::load(&path, flags.key())?),
        _ => None,
    };
    let relations = tokio::select! {
        relations = relations(flags, &source) => relations?,
        () = shutdown.cancelled() => {
            return Err(Fault::new(ErrorCode::Cancelled, "discover was stopped; nothing was written"));
        }
    };
    let (mut catalog, mut warnings) = fresh(relations, &source, flags);
    if let Some(old) = old {
        let (merged, more) = merge(old, catalog);
        catalog = merged;
        warnings.extend(more);
    }
    for warning in warnings {
        output::human(format_args!("warning: {warning}"));
    }
    if !flags.no_save {
        catalog.save(&path)?;
        let streams = catalog.streams.len();
        let selected: usize = catalog.selected_streams.values().map(Vec::len).sum();
        output::human(format_args!("{streams} streams, {selected} selected: {}", path.display()));
    }
    output::machine(&json!({"type": "CATALOG", "catalog": catalog}))
}

/// Asks the source.
async fn relations(flags: &Flags, source: &SourceFile) -> Result<Vec<Relation>, Fault> {
    let services = Services::start(true, false, flags, None).await?;
    let request = DiscoverRequest {
        config: Some(source.config.clone()),
        max_threads: flags.max_discover_threads,
    };
    let answer = services.source().discover(request).await;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let fault = services.explain(Fault::from(status)).await;
            services.stop().await;
            return Err(fault);
        }
    };
    services.stop().await;
    for notice in answer.notices {
        output::human(format_args!("note: {notice}"));
    }
    if answer.relations.is_empty() {
        output::human(format_args!(
            "warning: the role {:?} can read no table of the database {:?}{}",
            source.config.username,
            source.database,
            if source.config.schemas.is_empty() { "" } else { " in the schemas listed" }
        ));
    }
    Ok(answer.relations)
}

/// The catalog of what there is, all of it selected.
fn fresh(relations: Vec<Relation>, source: &SourceFile, flags: &Flags) -> (Catalog, Vec<String>) {
    let mut catalog = Catalog::default();
    let mut warnings = Vec::new();
    for relation in relations {
        let columns = relation.columns.iter().map(|column| column.name.as_str());
        for collision in naming::column_collisions(columns) {
            warnings.push(format!(
                "{}.{}: {collision}; with normalization it cannot be synced unless \
                 selected_columns leaves one of them out",
                relation.namespace, relation.name
            ));
        }
        let selection = Selection {
            stream_name: relation.name.clone(),
            // Absent, so that the destination's default applies.
            normalization: None,
            ..Selection::default()
        };
        catalog.selected_streams.entry(relation.namespace.clone()).or_default().push(selection);
        let stream = stream(relation, source, flags.destination_database_prefix.as_deref());
        catalog.streams.push(StreamEntry { stream, ..StreamEntry::default() });
    }
    catalog.sort();
    (catalog, warnings)
}

fn stream(relation: Relation, source: &SourceFile, prefix: Option<&str>) -> Stream {
    let modes = supported(relation.kind(), !relation.cursor_fields.is_empty());
    let sync_mode = match source.default_mode {
        mode if modes.contains(&mode) => mode,
        _ => SyncMode::FullRefresh,
    };
    let cursor_field = (sync_mode == SyncMode::Incremental).then(|| cursor(&relation)).flatten();
    let properties = relation
        .columns
        .into_iter()
        .map(|column| (column.name, json!({"type": [column.r#type, "null"]})))
        .collect::<serde_json::Map<String, Value>>();
    Stream {
        destination_database: prefix
            .filter(|prefix| !prefix.is_empty())
            .map(|prefix| naming::default_database(prefix, &source.database, &relation.namespace)),
        name: relation.name,
        namespace: relation.namespace,
        type_schema: TypeSchema { properties, ..TypeSchema::default() },
        supported_sync_modes: modes.iter().map(|mode| mode.as_str().to_owned()).collect(),
        source_defined_primary_key: relation.primary_key,
        available_cursor_fields: relation.cursor_fields,
        cursor_field,
        sync_mode: sync_mode.as_str().to_owned(),
        ..Stream::default()
    }
}

/// Only tables leave changes in the WAL that a publication can carry.
fn supported(kind: Kind, has_cursor: bool) -> Vec<SyncMode> {
    let changes = matches!(kind, Kind::Table | Kind::PartitionedTable);
    SyncMode::ALL
        .into_iter()
        .filter(|mode| match mode {
            SyncMode::FullRefresh => true,
            SyncMode::Incremental => has_cursor,
            SyncMode::Cdc | SyncMode::StrictCdc => changes,
        })
        .collect()
}

/// A cursor to begin with: the key's first column if it can be one.
fn cursor(relation: &Relation) -> Option<String> {
    let first = relation.primary_key.first();
    let key = first.filter(|column| relation.cursor_fields.contains(column));
    key.or(relation.cursor_fields.first()).cloned()
}

/// `--streams A --difference B`: what is selected in B and new or different.
fn compare(flags: &Flags, second: &Path) -> Result<(), Fault> {
    let first = flags.require_catalog()?;
    let old = Catalog::load(first, flags.key())?;
    let new = Catalog::load(second, flags.key())?;
    let found = difference(&old, &new);
    let path: PathBuf = match &flags.config {
        Some(config) => config.with_file_name("difference_streams.json"),
        None => first.with_file_name("difference_streams.json"),
    };
    if !flags.no_save {
        found.save(&path)?;
        let streams: usize = found.selected_streams.values().map(Vec::len).sum();
        output::human(format_args!("{streams} streams are new or different: {}", path.display()));
    }
    output::machine(&json!({"type": "CATALOG", "catalog": found}))
}

#[cfg(test)]
mod tests {
    use proto::v1::{Column, SourceConfig};

    use super::*;

    fn relation(name: &str, kind: Kind) -> Relation {
        let column = |name: &str, r#type: &str| Column {
            name: name.into(),
            r#type: r#type.into(),
            ..Default::default()
        };
        Relation {
            namespace: "public".into(),
            name: name.into(),
            kind: kind.into(),
            columns: vec![column("z", "integer"), column("a", "string")],
            primary_key: vec!["z".into()],
            cursor_fields: vec!["a".into(), "z".into()],
            ..Default::default()
        }
    }

    fn source(default_mode: SyncMode) -> SourceFile {
        SourceFile {
            config: SourceConfig::default(),
            default_mode,
            update_method: None,
            database: "shop".into(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_fresh_catalog_has_the_documented_shape() {
        let relations = vec![relation("v", Kind::View), relation("t", Kind::Table)];
        let flags = Flags::default();
        let (catalog, warnings) = fresh(relations, &source(SyncMode::Cdc), &flags);
        assert_eq!(warnings, [""; 0]);
        let expected = |name: &str, modes: Value, mode: &str| {
            json!({"stream": {
                "name": name, "namespace": "public",
                "type_schema": {"properties": {
                    "z": {"type": ["integer", "null"]}, "a": {"type": ["string", "null"]}}},
                "supported_sync_modes": modes,
                "source_defined_primary_key": ["z"],
                "available_cursor_fields": ["a", "z"],
                "sync_mode": mode,
            }})
        };
        assert_eq!(
            serde_json::to_value(&catalog).unwrap(),
            json!({
                "selected_streams": {"public": [
                    {"partition_regex": "", "stream_name": "t"},
                    {"partition_regex": "", "stream_name": "v"},
                ]},
                "streams": [
                    expected("t", json!(["full_refresh", "incremental", "cdc", "strict_cdc"]), "cdc"),
                    expected("v", json!(["full_refresh", "incremental"]), "full_refresh"),
                ],
            })
        );
        let columns: Vec<&String> =
            catalog.streams[0].stream.type_schema.properties.keys().collect();
        assert_eq!(columns, ["z", "a"], "in the table's order");
    }

    #[test]
    fn a_prefix_names_the_destination_database() {
        let flags = Flags { destination_database_prefix: Some("Lake".into()), ..Flags::default() };
        let relations = vec![relation("t", Kind::Table)];
        let (catalog, _) = fresh(relations, &source(SyncMode::Incremental), &flags);
        let stream = &catalog.streams[0].stream;
        assert_eq!(stream.destination_database.as_deref(), Some("lake_shop_public"));
        assert_eq!(stream.cursor_field.as_deref(), Some("z"), "the key is preferred");
    }
}
