//! Names at the destination: lower case, anything outside `[a-z0-9_]` becomes
//! `_`, character by character.
//!
//! Invariant: a table's destination names are distinct, metadata columns
//! included; two that would collide are an error that names both.

use std::collections::HashMap;

use crate::error::WriterError;

/// Identifier of a row, for people; see [`crate::row_id`].
pub const OLAKE_ID: &str = "_olake_id";
/// When the run processed the row.
pub const OLAKE_TIMESTAMP: &str = "_olake_timestamp";
/// `r` load, `c` insert, `u` update, `d` delete.
pub const OP_TYPE: &str = "_op_type";
/// When the source committed the change; null for a load.
pub const CDC_TIMESTAMP: &str = "_cdc_timestamp";
/// The change's WAL position; null for a load.
pub const CDC_LSN: &str = "_cdc_lsn";
/// The row as JSON, in a table without normalization.
pub const DATA: &str = "data";

/// The columns that every destination table begins with, in their order.
pub const METADATA_COLUMNS: [&str; 5] =
    [OLAKE_ID, OLAKE_TIMESTAMP, OP_TYPE, CDC_TIMESTAMP, CDC_LSN];

/// The destination's spelling of a PostgreSQL name. Only ASCII letters have a
/// lower case here, so that the result depends on no Unicode version.
pub fn destination_name(source: &str) -> String {
    source
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '_') => c,
            _ => '_',
        })
        .collect()
}

/// The destination names of `columns`, in their order.
pub fn destination_columns<'a>(
    stream: &str,
    columns: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<String>, WriterError> {
    let mut taken: HashMap<String, &str> =
        METADATA_COLUMNS.iter().map(|name| ((*name).to_owned(), *name)).collect();
    columns
        .into_iter()
        .map(|column| {
            let name = destination_name(column);
            match taken.insert(name.clone(), column) {
                None => Ok(name),
                Some(other) => Err(collision(stream, other, column, &name)),
            }
        })
        .collect()
}

fn collision(stream: &str, first: &str, second: &str, name: &str) -> WriterError {
    let problem = if METADATA_COLUMNS.contains(&first) {
        format!(
            "column {second:?} of {stream} would be named {name:?} at the destination, \
             as the metadata column that every table has"
        )
    } else {
        format!(
            "columns {first:?} and {second:?} of {stream} would both be named {name:?} \
             at the destination"
        )
    };
    WriterError::invalid_table(
        problem,
        "rename one at the source, leave one out with selected_columns in streams.json, \
         or set normalization to false for this stream",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_letters_digits_and_underscores() {
        for (source, destination) in [
            ("id", "id"),
            ("OrderNo", "orderno"),
            ("unit price (€)", "unit_price____"),
            ("Straße", "stra_e"),
            ("\u{212A}elvin", "_elvin"),
            ("9lives", "9lives"),
            ("", ""),
        ] {
            assert_eq!(destination_name(source), destination, "{source}");
        }
    }

    #[test]
    fn columns_that_collide_are_both_named() {
        let error = destination_columns("public.t", ["a b", "c", "A_B"]).unwrap_err().to_string();
        assert!(error.contains("\"a b\"") && error.contains("\"A_B\""), "{error}");
        let error = destination_columns("public.t", ["_Op_Type"]).unwrap_err().to_string();
        assert!(error.contains("\"_Op_Type\"") && error.contains("metadata"), "{error}");
        assert_eq!(destination_columns("public.t", ["A", "b"]).unwrap(), ["a", "b"]);
    }
}
