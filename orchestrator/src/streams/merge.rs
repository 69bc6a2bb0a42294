//! A new discover into an old streams.json. What the source says is renewed;
//! what the user chose stays: the selections, sync_mode, cursor_field and
//! destination names. New streams come unselected, vanished ones go.

use std::collections::HashMap;

use super::{Catalog, Selection, Stream, StreamEntry};

/// The merged catalog, and what a user should know about it.
pub fn merge(old: Catalog, fresh: Catalog) -> (Catalog, Vec<String>) {
    let mut warnings = Vec::new();
    let mut before: HashMap<(String, String), StreamEntry> = old
        .streams
        .into_iter()
        .map(|entry| ((entry.stream.namespace.clone(), entry.stream.name.clone()), entry))
        .collect();
    let mut merged = Catalog { extra: old.extra, ..Catalog::default() };
    // The selections of streams that are still there, in their schemas.
    let mut selections = old.selected_streams;
    for mut entry in fresh.streams {
        let stream = &mut entry.stream;
        let key = (stream.namespace.clone(), stream.name.clone());
        if let Some(earlier) = before.remove(&key) {
            let chosen = selections
                .get_mut(&stream.namespace)
                .into_iter()
                .flatten()
                .filter(|selection| selection.stream_name == stream.name);
            for selection in chosen {
                renew_columns(selection, &earlier.stream, stream, &mut warnings);
            }
            keep_choices(stream, earlier.stream, &mut warnings);
            keep_unknown(&mut entry.extra, earlier.extra);
        }
        merged.streams.push(entry);
    }
    for (namespace, chosen) in &mut selections {
        chosen.retain(|selection| {
            let there = merged.streams.iter().any(|entry| {
                entry.stream.namespace == *namespace && entry.stream.name == selection.stream_name
            });
            if !there {
                before.remove(&(namespace.clone(), selection.stream_name.clone()));
                warnings.push(format!(
                    "{namespace}.{} was selected, but the source no longer has it (or the role \
                     may no longer read it): removed",
                    selection.stream_name
                ));
            }
            there
        });
    }
    let mut vanished: Vec<String> = before.values().map(|entry| entry.stream.id()).collect();
    vanished.sort();
    warnings.extend(vanished.into_iter().map(|id| format!("{id} is no longer there: removed")));
    merged.selected_streams = selections;
    merged.sort();
    (merged, warnings)
}

fn keep_choices(stream: &mut Stream, old: Stream, warnings: &mut Vec<String>) {
    if !old.sync_mode.is_empty() {
        let supported = &stream.supported_sync_modes;
        if !supported.is_empty() && !supported.contains(&old.sync_mode) {
            warnings.push(format!(
                "{} keeps its sync_mode {}, but supports only {}",
                stream.id(),
                old.sync_mode,
                supported.join(", ")
            ));
        }
        stream.sync_mode = old.sync_mode;
    }
    stream.cursor_field = old.cursor_field.or(stream.cursor_field.take());
    stream.destination_database = old.destination_database.or(stream.destination_database.take());
    stream.destination_table = old.destination_table.or(stream.destination_table.take());
    keep_unknown(&mut stream.extra, old.extra);
}

fn keep_unknown(
    fresh: &mut serde_json::Map<String, serde_json::Value>,
    old: serde_json::Map<String, serde_json::Value>,
) {
    for (key, value) in old {
        fresh.entry(key).or_insert(value);
    }
}

/// A list of chosen columns follows the table: vanished columns go, new ones
/// come when `sync_new_columns` says so. An empty list means all and stays.
fn renew_columns(
    selection: &mut Selection,
    old: &Stream,
    fresh: &Stream,
    warnings: &mut Vec<String>,
) {
    let Some(chosen) = &mut selection.selected_columns else { return };
    if chosen.columns.is_empty() {
        return;
    }
    let now = &fresh.type_schema.properties;
    let seen = &old.type_schema.properties;
    let mut new: Vec<String> = now.keys().filter(|it| !seen.contains_key(*it)).cloned().collect();
    chosen.columns.retain(|column| {
        let there = now.contains_key(column);
        if !there {
            let mut warning =
                format!("{} no longer has the selected column {column:?}: removed", fresh.id());
            if !new.is_empty() && !chosen.sync_new_columns {
                let new = new.join(", ");
                warning += &format!("; if it was renamed, select its new name (new are: {new})");
            }
            warnings.push(warning);
        }
        there
    });
    if chosen.columns.is_empty() {
        warnings.push(format!(
            "{} has none of its selected columns left: all columns are selected now",
            fresh.id()
        ));
    } else if chosen.sync_new_columns {
        new.retain(|column| !chosen.columns.contains(column));
        chosen.columns.extend(new);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalog(value: serde_json::Value) -> Catalog {
        serde_json::from_value(value).unwrap()
    }

    fn stream(name: &str, columns: &[&str]) -> serde_json::Value {
        let properties: serde_json::Map<_, _> = columns
            .iter()
            .map(|column| (column.to_string(), json!({"type": ["integer", "null"]})))
            .collect();
        json!({"stream": {
            "name": name, "namespace": "public", "type_schema": {"properties": properties},
            "supported_sync_modes": ["full_refresh", "cdc"], "sync_mode": "full_refresh",
            "source_defined_primary_key": ["id"], "available_cursor_fields": ["id"],
        }})
    }

    #[test]
    fn choices_stay_new_streams_come_unselected_and_vanished_ones_go() {
        let mut kept = stream("kept", &["id", "a", "gone"]);
        kept["stream"]["sync_mode"] = "cdc".into();
        kept["stream"]["cursor_field"] = "id".into();
        kept["stream"]["destination_table"] = "elsewhere".into();
        kept["stream"]["ours"] = 1.into();
        let old = catalog(json!({
            "selected_streams": {"public": [
                {"stream_name": "kept", "partition_regex": "/{a}", "normalization": true,
                 "selected_columns": {"columns": ["id", "gone"], "sync_new_columns": true}},
                {"stream_name": "vanished"},
            ]},
            "streams": [kept, stream("vanished", &["id"]), stream("unselected_gone", &["id"])],
        }));
        let fresh = catalog(json!({
            "selected_streams": {"public": [{"stream_name": "kept"}, {"stream_name": "new"}]},
            "streams": [stream("kept", &["id", "a", "later"]), stream("new", &["id"])],
        }));
        let (merged, warnings) = merge(old, fresh);
        let selections = &merged.selected_streams["public"];
        assert_eq!(selections.len(), 1);
        assert_eq!(selections[0].partition_regex, "/{a}");
        assert_eq!(selections[0].normalization, Some(true));
        let columns = &selections[0].selected_columns.as_ref().unwrap().columns;
        assert_eq!(columns, &["id", "later"], "`a` was not chosen before and is not now");
        let streams: Vec<&Stream> = merged.streams.iter().map(|entry| &entry.stream).collect();
        assert_eq!(streams.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["kept", "new"]);
        assert_eq!(streams[0].sync_mode, "cdc");
        assert_eq!(streams[0].cursor_field.as_deref(), Some("id"));
        assert_eq!(streams[0].destination_table.as_deref(), Some("elsewhere"));
        assert_eq!(streams[0].extra["ours"], 1);
        assert!(streams[0].type_schema.properties.contains_key("later"));
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }

    #[test]
    fn merging_what_is_the_same_changes_nothing() {
        let catalog = crate::streams::tests::sample();
        let (merged, warnings) = merge(catalog.clone(), catalog.clone());
        assert_eq!(merged, catalog);
        assert_eq!(warnings, [""; 0]);
    }
}
