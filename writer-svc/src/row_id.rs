//! `_olake_id`: a row's identifier, for people and for compatibility.
//!
//! One key column: its text. A composite key: the MD5, in hex, of the values'
//! text in the order of the column names, each followed by `|`. No key: the
//! same over all columns. A null's text is empty.
//!
//! It is output only. Two composite keys can share an identifier (`a|`, `b`
//! and `a`, `|b`), so whatever compares rows compares the key's own columns;
//! where only the identifier is stored, a value that contains `|` is an error.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::Schema;
use md5::{Digest, Md5};

use crate::error::WriterError;
use crate::render::Values;
use crate::render::text::write_text;

/// Makes the identifiers of one stream's rows.
#[derive(Debug)]
pub struct RowId {
    stream: String,
    kind: Kind,
    /// The text of one row's values; reused.
    text: Vec<u8>,
}

#[derive(Debug)]
enum Kind {
    /// The text of the column at this index.
    Text(usize),
    /// The hash over these columns, ordered by name.
    Hash {
        columns: Vec<usize>,
        /// Whether a `|` inside a value is an error.
        separable: bool,
    },
}

impl RowId {
    /// `key` names source columns; empty: all of them. With `separable`, no
    /// two different composite keys get the same text to hash.
    pub fn new(
        stream: &str,
        source: &Schema,
        key: &[String],
        separable: bool,
    ) -> Result<Self, WriterError> {
        let index = |name: &String| {
            source.index_of(name).map_err(|_| {
                WriterError::InvalidRequest(format!(
                    "the key column {name:?} of {stream} is not among the columns sent"
                ))
            })
        };
        let kind = if let [name] = key {
            Kind::Text(index(name)?)
        } else {
            let mut columns = match key {
                [] => (0..source.fields().len()).collect(),
                _ => key.iter().map(index).collect::<Result<Vec<_>, _>>()?,
            };
            columns.sort_by_key(|&column| source.field(column).name());
            Kind::Hash { columns, separable }
        };
        Ok(RowId { stream: stream.to_owned(), kind, text: Vec::new() })
    }

    /// One identifier for each row, never null.
    pub fn of(&mut self, batch: &RecordBatch) -> Result<ArrayRef, WriterError> {
        let schema = batch.schema();
        match &self.kind {
            &Kind::Text(column) => {
                let array = batch.column(column);
                match Values::new(schema.field(column), array)? {
                    // The identifiers are the column itself.
                    Values::Text(text) if text.null_count() == 0 => Ok(Arc::clone(array)),
                    Values::Int64(integers) if integers.null_count() == 0 => {
                        integer_ids(&self.stream, integers)
                    }
                    values => text_ids(&self.stream, &values, batch.num_rows()),
                }
            }
            Kind::Hash { columns, separable } => {
                let values = columns
                    .iter()
                    .map(|&column| Values::new(schema.field(column), batch.column(column)))
                    .collect::<Result<Vec<_>, _>>()?;
                hash_ids(&values, batch.num_rows(), &mut self.text, |column| {
                    if !separable {
                        return Ok(());
                    }
                    let name = schema.field(columns[column]).name();
                    Err(inseparable(&self.stream, name))
                })
            }
        }
    }
}

fn inseparable(stream: &str, column: &str) -> WriterError {
    WriterError::Unrepresentable {
        problem: format!(
            "a value of the key column {column:?} of {stream} contains \"|\": without \
             normalization its row could not be told from another's, as rows are then known \
             only by {} of the whole key",
            crate::naming::OLAKE_ID
        ),
        remedy: format!(
            "set normalization to true for {stream} in streams.json, or find the values with \
             a filter on {column:?} LIKE '%|%' and change them"
        ),
    }
}

fn integer_ids(stream: &str, integers: &Int64Array) -> Result<ArrayRef, WriterError> {
    let mut ids = Texts::with_capacity(integers.len(), 8);
    let mut digits = itoa::Buffer::new();
    for &integer in integers.values() {
        ids.bytes.extend_from_slice(digits.format(integer).as_bytes());
        ids.end_row();
    }
    ids.finish(&format!("the identifiers of {stream}"))
}

fn text_ids(stream: &str, values: &Values<'_>, rows: usize) -> Result<ArrayRef, WriterError> {
    let mut ids = Texts::with_capacity(rows, 16);
    for row in 0..rows {
        write_text(values, row, &mut ids.bytes);
        ids.end_row();
    }
    ids.finish(&format!("the identifiers of {stream}"))
}

/// `on_bar` decides about a `|` in a value, by its column's index in `values`.
fn hash_ids(
    values: &[Values<'_>],
    rows: usize,
    text: &mut Vec<u8>,
    on_bar: impl Fn(usize) -> Result<(), WriterError>,
) -> Result<ArrayRef, WriterError> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut ids = Texts::with_capacity(rows, 32);
    for row in 0..rows {
        text.clear();
        for (column, values) in values.iter().enumerate() {
            let start = text.len();
            write_text(values, row, text);
            if values.may_contain_bar() && text[start..].contains(&b'|') {
                on_bar(column)?;
            }
            text.push(b'|');
        }
        for byte in Md5::digest(&text) {
            let pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            ids.bytes.extend_from_slice(&pair);
        }
        ids.end_row();
    }
    ids.finish("the identifiers")
}

/// Text values under construction, without a string of its own for any.
#[derive(Debug)]
pub(crate) struct Texts {
    /// The values so far, end to end.
    pub(crate) bytes: Vec<u8>,
    ends: Vec<i32>,
    overflow: bool,
}

impl Texts {
    pub(crate) fn with_capacity(rows: usize, bytes_per_row: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Texts { bytes: Vec::with_capacity(rows * bytes_per_row), ends, overflow: false }
    }

    /// What was written to `bytes` since the last call is one value.
    pub(crate) fn end_row(&mut self) {
        match i32::try_from(self.bytes.len()) {
            Ok(end) => self.ends.push(end),
            Err(_) => self.overflow = true,
        }
    }

    /// More bytes than one array can hold: stop before memory runs out.
    pub(crate) fn is_full(&self) -> bool {
        self.overflow
    }

    /// `what` is being built, for the message.
    pub(crate) fn finish(self, what: &str) -> Result<ArrayRef, WriterError> {
        if self.overflow {
            return Err(WriterError::Unrepresentable {
                problem: format!("{what} exceed 2 GiB in one batch"),
                remedy: "lower reader_batch_size in source.json".to_owned(),
            });
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.ends));
        let array = StringArray::try_new(offsets, Buffer::from_vec(self.bytes), None)
            .map_err(WriterError::arrow(format!("building {what}")))?;
        Ok(Arc::new(array))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int32Array};
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let fields: Vec<_> = columns
            .iter()
            .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
            .collect();
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
    }

    fn ids(batch: &RecordBatch, key: &[&str], separable: bool) -> Result<Vec<String>, WriterError> {
        let key: Vec<_> = key.iter().map(|&name| name.to_owned()).collect();
        let ids = RowId::new("public.t", &batch.schema(), &key, separable)?.of(batch)?;
        Ok(ids.as_string::<i32>().iter().map(|id| id.unwrap().to_owned()).collect())
    }

    fn sample() -> RecordBatch {
        batch(vec![
            ("b", Arc::new(StringArray::from(vec![Some("x"), None, Some("p|q")]))),
            ("a", Arc::new(Int32Array::from(vec![1, 2, 3]))),
            ("c", Arc::new(Int64Array::from(vec![i64::MIN, 0, i64::MAX]))),
        ])
    }

    #[test]
    fn one_key_column_is_its_text() {
        let sample = sample();
        assert_eq!(ids(&sample, &["a"], false).unwrap(), ["1", "2", "3"]);
        assert_eq!(ids(&sample, &["b"], false).unwrap(), ["x", "", "p|q"]);
        let expected = [i64::MIN.to_string(), "0".to_owned(), i64::MAX.to_string()];
        assert_eq!(ids(&sample, &["c"], false).unwrap(), expected);
        assert_eq!(ids(&sample.slice(2, 1), &["c"], false).unwrap(), expected[2..]);
    }

    #[test]
    fn a_composite_key_is_the_md5_of_its_texts_in_the_order_of_their_names() {
        // md5('1|x|'), md5('2||'), md5('3|p|q|'), as the server computes them.
        let expected = [
            "6826d722d895aa416b12c49a98fc3fff",
            "09855e349714efe76cca846cbd22de39",
            "0a29f32801a30b23e46e379ce5bf628e",
        ];
        assert_eq!(ids(&sample(), &["b", "a"], false).unwrap(), expected);
        assert_eq!(ids(&sample(), &["a", "b"], false).unwrap(), expected);
    }

    #[test]
    fn without_a_key_all_columns_are_hashed_even_a_single_one() {
        let one = batch(vec![("a", Arc::new(Int32Array::from(vec![1])))]);
        // md5('1|')
        assert_eq!(ids(&one, &[], false).unwrap(), ["77529b68d130d125ff07a534a7b69adb"]);
    }

    #[test]
    fn a_bar_in_a_composite_key_is_an_error_where_only_the_identifier_is_stored() {
        let error = ids(&sample(), &["a", "b"], true).unwrap_err().to_string();
        assert!(error.contains("\"b\"") && error.contains("public.t"), "{error}");
        assert!(ids(&sample().slice(0, 2), &["a", "b"], true).is_ok());
        assert_eq!(DataType::Utf8, sample().schema().field(0).data_type().clone());
    }
}
