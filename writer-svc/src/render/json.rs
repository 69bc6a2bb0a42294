//! Rows as JSON, the way PostgreSQL's `row_to_json` writes them.
//!
//! Numbers are bare, but NaN and the infinities, which JSON lacks, are
//! strings; json and jsonb are embedded as they are; dates and times are
//! ISO 8601; everything that travels as text is a string.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;

use super::Values;
use super::datetime::{self, Style};
use super::float::{write_float4, write_float8};
use super::text::{write_hex, write_integer, write_numeric, write_text};
use crate::error::WriterError;
use crate::row_id::Texts;

/// Writes the rows of one stream as JSON objects.
#[derive(Debug)]
pub struct JsonRows {
    /// `"name":` of each column, escaped, with what separates it from the last.
    keys: Vec<Vec<u8>>,
    /// Bytes of a row of the last batch, to size the next.
    row_bytes: usize,
}

impl JsonRows {
    /// Keys are the source's column names, in the source's order.
    pub fn new(source: &Schema) -> Self {
        let key = |(index, field): (usize, &std::sync::Arc<arrow::datatypes::Field>)| {
            let mut key = if index == 0 { vec![] } else { vec![b','] };
            write_string(field.name(), &mut key);
            key.push(b':');
            key
        };
        let keys: Vec<_> = source.fields().iter().enumerate().map(key).collect();
        let row_bytes = keys.iter().map(|key| key.len() + 8).sum();
        JsonRows { keys, row_bytes }
    }

    /// One object for each row, never null.
    pub fn of(&mut self, batch: &RecordBatch) -> Result<ArrayRef, WriterError> {
        let schema = batch.schema();
        let columns = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, array)| Values::new(field, array))
            .collect::<Result<Vec<_>, _>>()?;
        let mut rows = Texts::with_capacity(batch.num_rows(), self.row_bytes);
        for row in 0..batch.num_rows() {
            rows.bytes.push(b'{');
            for (key, values) in self.keys.iter().zip(&columns) {
                rows.bytes.extend_from_slice(key);
                write_json(values, row, &mut rows.bytes);
            }
            rows.bytes.push(b'}');
            rows.end_row();
            if rows.is_full() {
                break;
            }
        }
        self.row_bytes = rows.bytes.len() / batch.num_rows().max(1) + 1;
        rows.finish("the rows as JSON")
    }
}

/// Appends one value as JSON; `null` for a null.
pub fn write_json(values: &Values<'_>, row: usize, out: &mut Vec<u8>) {
    if values.is_null(row) {
        return out.extend_from_slice(b"null");
    }
    match values {
        Values::Boolean(array) => {
            out.extend_from_slice(if array.value(row) { b"true" } else { b"false" });
        }
        Values::Int32(array) => write_integer(array.value(row), out),
        Values::Int64(array) => write_integer(array.value(row), out),
        Values::Float32(array) if array.value(row).is_finite() => {
            write_float4(array.value(row), out);
        }
        Values::Float64(array) if array.value(row).is_finite() => {
            write_float8(array.value(row), out);
        }
        Values::Decimal64(array, scale) => write_numeric(array.value(row).into(), *scale, out),
        Values::Decimal(array, scale) => write_numeric(array.value(row), *scale, out),
        Values::Json(array) => out.extend_from_slice(array.value(row).as_bytes()),
        Values::Text(array) => write_string(array.value(row), out),
        Values::Bytea(array) => {
            out.extend_from_slice(b"\"\\\\x");
            write_hex(array.value(row), out);
            out.push(b'"');
        }
        Values::Timestamp(array) => quoted(out, |out| {
            datetime::write_timestamp(array.value(row), false, Style::Xsd, out);
        }),
        Values::TimestampTz(array) => quoted(out, |out| {
            datetime::write_timestamp(array.value(row), true, Style::Xsd, out);
        }),
        // Their text has nothing to escape.
        Values::Float32(_)
        | Values::Float64(_)
        | Values::Date(_)
        | Values::Time(_)
        | Values::Uuid(_) => quoted(out, |out| write_text(values, row, out)),
        Values::List(array, elements) => {
            let offsets = array.value_offsets();
            out.push(b'[');
            for element in offsets[row]..offsets[row + 1] {
                if element > offsets[row] {
                    out.push(b',');
                }
                write_json(elements, element as usize, out);
            }
            out.push(b']');
        }
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// PostgreSQL's escape_json.
fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..index]);
        copied = index + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                write_hex(&[byte], out);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
