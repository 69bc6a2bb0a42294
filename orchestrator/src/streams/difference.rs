//! What is new or different among the selected streams of a second
//! streams.json, in the form of a streams.json: the streams whose tables a
//! change of settings concerns.

use std::collections::HashMap;

use super::{Catalog, Selection, Stream};

/// The selected streams of `new` that are not selected in `old`, or that lead
/// to another table content there.
pub fn difference(old: &Catalog, new: &Catalog) -> Catalog {
    let before = chosen(old);
    let mut difference = Catalog::default();
    for (key, (selection, stream)) in chosen(new) {
        let changed = match before.get(&key) {
            None => true,
            Some((earlier, earlier_stream)) => {
                selection_differs(earlier, selection) || stream_differs(*earlier_stream, stream)
            }
        };
        if changed {
            let selections = difference.selected_streams.entry(key.0.to_owned()).or_default();
            selections.push(selection.clone());
            let entry = new
                .streams
                .iter()
                .find(|entry| entry.stream.namespace == key.0 && entry.stream.name == key.1);
            difference.streams.extend(entry.cloned());
        }
    }
    difference.sort();
    difference
}

type Chosen<'a> = HashMap<(&'a str, &'a str), (&'a Selection, Option<&'a Stream>)>;

fn chosen(catalog: &Catalog) -> Chosen<'_> {
    let streams: HashMap<(&str, &str), &Stream> = catalog
        .streams
        .iter()
        .map(|entry| ((entry.stream.namespace.as_str(), entry.stream.name.as_str()), &entry.stream))
        .collect();
    catalog
        .selected_streams
        .iter()
        .flat_map(|(namespace, selections)| selections.iter().map(move |s| (namespace, s)))
        .map(|(namespace, selection)| {
            let key = (namespace.as_str(), selection.stream_name.as_str());
            (key, (selection, streams.get(&key).copied()))
        })
        .collect()
}

/// Absent and empty are the same choice, and so are the two names of the
/// split column, which only decides how the table is read. Without
/// `normalization` the destination decides: that is a choice of its own.
fn selection_differs(old: &Selection, new: &Selection) -> bool {
    let filter = |selection: &Selection| selection.filter.clone().unwrap_or_default();
    old.partition_regex != new.partition_regex
        || old.normalization != new.normalization
        || old.append_mode.unwrap_or(false) != new.append_mode.unwrap_or(false)
        || filter(old) != filter(new)
        || old.filter_config != new.filter_config
        || old.selected_columns != new.selected_columns
        || old.on_unrepresentable != new.on_unrepresentable
        || old.delete_mode != new.delete_mode
}

fn stream_differs(old: Option<&Stream>, new: Option<&Stream>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return old.is_some() != new.is_some() };
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    old.sync_mode != new.sync_mode
        || given(&old.cursor_field) != given(&new.cursor_field)
        || given(&old.destination_database) != given(&new.destination_database)
        || given(&old.destination_table) != given(&new.destination_table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::StreamEntry;
    use crate::streams::tests::sample;

    #[test]
    fn only_what_changed_among_the_selected_is_listed() {
        let old = sample();
        assert_eq!(difference(&old, &old), Catalog::default());

        let mut new = old.clone();
        new.streams.push(StreamEntry {
            stream: Stream { name: "t2".into(), namespace: "public".into(), ..Default::default() },
            ..Default::default()
        });
        assert_eq!(difference(&old, &new), Catalog::default(), "t2 is not selected");
        let added = Selection { stream_name: "t2".into(), ..Default::default() };
        new.selected_streams.get_mut("public").unwrap().push(added);
        let found = difference(&old, &new);
        assert_eq!(found.streams.len(), 1);
        assert_eq!(found.streams[0].stream.name, "t2");

        new.streams[0].stream.sync_mode = "full_refresh".into();
        assert_eq!(difference(&old, &new).selected_streams["public"].len(), 2);

        let mut partitioned = old.clone();
        partitioned.selected_streams.get_mut("public").unwrap()[0].partition_regex = "/{x}".into();
        assert_eq!(difference(&old, &partitioned).streams.len(), 1);
    }
}
