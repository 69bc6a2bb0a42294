//! Names at the destination, and the columns that are ours.

/// Columns that every destination table has beside the source's.
pub const METADATA_COLUMNS: [&str; 5] =
    ["_olake_id", "_olake_timestamp", "_op_type", "_cdc_timestamp", "_cdc_lsn"];

/// Lower case; what lies outside [a-z0-9_] becomes `_`, character by character.
pub fn destination_name(source: &str) -> String {
    let lower = source.chars().flat_map(char::to_lowercase);
    lower
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '_' })
        .collect()
}

/// The database of a stream that names none: `postgres_<database>_<schema>`.
pub fn default_database(prefix: &str, database: &str, schema: &str) -> String {
    destination_name(&format!("{prefix}_{database}_{schema}"))
}

/// Pairs of columns that would have one name at the destination, as
/// sentences. The metadata columns take part.
pub fn column_collisions<'a>(columns: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut taken: std::collections::HashMap<String, Option<&str>> =
        METADATA_COLUMNS.iter().map(|name| ((*name).to_owned(), None)).collect();
    let mut collisions = Vec::new();
    for column in columns {
        let name = destination_name(column);
        match taken.get(&name) {
            None => {
                taken.insert(name, Some(column));
            }
            Some(None) => collisions.push(format!(
                "the column {column:?} has the name of the metadata column {name} at the destination"
            )),
            Some(Some(other)) => collisions.push(format!(
                "the columns {other:?} and {column:?} would both be named {name} at the destination"
            )),
        }
    }
    collisions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_ascii() {
        assert_eq!(destination_name("Order Items"), "order_items");
        assert_eq!(destination_name("Ünïcode-9"), "_n_code_9");
        assert_eq!(default_database("postgres", "My-DB", "public"), "postgres_my_db_public");
    }

    #[test]
    fn colliding_columns_are_named_with_each_other() {
        assert_eq!(column_collisions(["a", "b_c", "id"]).len(), 0);
        let found = column_collisions(["b c", "a", "B-C", "_OP_TYPE"]);
        assert!(found[0].contains("\"b c\" and \"B-C\""), "{found:?}");
        assert!(found[1].contains("metadata column _op_type"), "{found:?}");
    }
}
