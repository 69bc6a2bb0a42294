//! Which rows go to which directory: `partition_regex` of Parquet tables.
//!
//! `/dt={now(),2025,YYYY}-{now(),06,MM}/country={country,none,}` is literal
//! text with `{column, default, granularity}` in it. The granularity cuts a
//! date or timestamp (a timestamptz in UTC) down to `HH`, `DD`, `WW` (ISO
//! week), `MM` or `YYYY`; empty, the value stands as PostgreSQL's text. A null
//! or empty value becomes the default; an empty default means
//! `default_<column>`. `now()` is the run's own time, `_olake_timestamp`.
//!
//! Invariant: a path is relative, has as many components as the template, and
//! neither climbs nor hides, whatever the values are.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::datatypes::Schema;

use super::groups::Groups;
use super::path;
use super::template::{self, Granularity, Piece, Template};
use crate::error::WriterError;
use crate::partition::Split;
use crate::render::Values;
use crate::render::datetime::{DAY, Date, pad2, write_year};
use crate::render::text::write_text;

/// How the rows of one stream are partitioned.
#[derive(Debug)]
pub struct Directories {
    template: Template,
}

impl Directories {
    /// `None` for a table that is not partitioned. `source` has one field per
    /// source column; `processed_at` is `now()`, in microseconds since 1970.
    pub fn parse(
        regex: &str,
        source: &Schema,
        processed_at: i64,
    ) -> Result<Option<Self>, WriterError> {
        let template = Template::parse(regex, source, processed_at)?;
        Ok(template.map(|template| Directories { template }))
    }

    /// Finds what can be wrong with `regex` before the columns' types are known.
    pub fn check<'a>(
        regex: &str,
        columns: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), WriterError> {
        template::check(regex, &columns.into_iter().collect::<Vec<_>>())
    }
}

impl Split for Directories {
    fn split(
        &self,
        source: &RecordBatch,
        _laid_out: &RecordBatch,
    ) -> Result<Vec<(String, UInt32Array)>, WriterError> {
        let schema = source.schema();
        let mut columns = Vec::new();
        for piece in self.template.pieces() {
            if let Piece::Column { index, granularity, .. } = piece {
                let values = Values::new(schema.field(*index), source.column(*index))?;
                columns.push((values, *granularity));
            }
        }
        let mut groups = Groups::with_capacity(source.num_rows());
        // What decides a row's path, in bytes: equal keys, equal path.
        let mut key = Vec::new();
        for row in 0..source.num_rows() {
            key.clear();
            for (values, granularity) in &columns {
                write_key(values, *granularity, row, &mut key);
            }
            groups.push(&key, || Ok::<_, WriterError>(render(&self.template, &key)))?;
        }
        Ok(groups.collect())
    }
}

/// Length of what follows, in a key; this much: a null.
const NULL: u32 = u32::MAX;

fn write_key(values: &Values<'_>, granularity: Option<Granularity>, row: usize, key: &mut Vec<u8>) {
    let length_at = key.len();
    key.extend_from_slice(&NULL.to_le_bytes());
    if values.is_null(row) {
        return;
    }
    match granularity {
        Some(granularity) => {
            let (days, microseconds) = day_and_time(values, row);
            write_part(granularity, days, microseconds, key);
        }
        None => write_text(values, row, key),
    }
    // A value is shorter than 2^31 bytes, and its text at most a few times as
    // long as that: what does not fit cannot be told from a null, and is none.
    let length = u32::try_from(key.len() - length_at - 4).unwrap_or(NULL - 1);
    key[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Days since 1970 and microseconds since midnight. Only dates and timestamps
/// have a granularity; the template saw to that.
fn day_and_time(values: &Values<'_>, row: usize) -> (i64, i64) {
    match values {
        Values::Date(array) => (array.value(row).into(), 0),
        Values::Timestamp(array) | Values::TimestampTz(array) => {
            (array.value(row).div_euclid(DAY), array.value(row).rem_euclid(DAY))
        }
        _ => (0, 0),
    }
}

/// One part of a date and time, zero-padded.
pub(super) fn write_part(
    granularity: Granularity,
    days: i64,
    microseconds: i64,
    out: &mut Vec<u8>,
) {
    match granularity {
        Granularity::Hour => pad2((microseconds / 3_600_000_000) as u64, out),
        Granularity::Day => pad2(Date::from_days(days).day.into(), out),
        Granularity::Week => pad2(Date::iso_week(days).into(), out),
        Granularity::Month => pad2(Date::from_days(days).month.into(), out),
        Granularity::Year => {
            let (year, before_christ) = Date::from_days(days).year_and_era();
            write_year(year, out);
            if before_christ {
                out.extend_from_slice(b" BC");
            }
        }
    }
}

/// The path of all rows with this key.
fn render(template: &Template, mut key: &[u8]) -> String {
    let mut whole = String::new();
    for component in &template.components {
        let mut text = String::new();
        for piece in component {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Column { default, .. } => {
                    let (length, rest) = key.split_at(4);
                    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
                    let length = if length == NULL { 0 } else { length as usize };
                    let (value, rest) = rest.split_at(length.min(rest.len()));
                    key = rest;
                    let value = String::from_utf8_lossy(value);
                    let value = if value.is_empty() { default.as_str() } else { &value };
                    path::push_value(value, &mut text);
                }
            }
        }
        if !whole.is_empty() {
            whole.push('/');
        }
        whole.push_str(&path::finish(text));
    }
    whole
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Array, ArrayRef, Date32Array, Int32Array, StringArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::Field;

    use super::*;

    /// 2025-06-15 08:09:10.5 UTC
    const NOW: i64 = 1_749_974_950_500_000;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let field =
            |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        RecordBatch::try_new(Arc::new(schema), arrays).unwrap()
    }

    fn split(regex: &str, batch: &RecordBatch) -> Vec<(String, Vec<u32>)> {
        let directories = Directories::parse(regex, &batch.schema(), NOW).unwrap().unwrap();
        let groups = directories.split(batch, batch).unwrap();
        groups.into_iter().map(|(path, rows)| (path, rows.values().to_vec())).collect()
    }

    fn strings(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    #[test]
    fn rows_are_grouped_by_path_in_their_order() {
        let countries =
            strings(&[Some("de"), None, Some("fr"), Some("de"), Some(""), Some("none")]);
        let batch = batch(vec![("country", countries)]);
        let groups = split("/dt={now(),2025,YYYY}-{now(),06,MM}/country={country,none,}", &batch);
        let expected = [
            ("dt=2025-06/country=de", vec![0, 3]),
            ("dt=2025-06/country=none", vec![1, 4, 5]),
            ("dt=2025-06/country=fr", vec![2]),
        ];
        assert_eq!(groups, expected.map(|(path, rows)| (path.to_owned(), rows)));
    }

    #[test]
    fn an_empty_default_names_the_column() {
        let batch = batch(vec![("A b", strings(&[None]))]);
        assert_eq!(split("{A b,,}", &batch), [("default_A b".to_owned(), vec![0])]);
        assert_eq!(split("x/{a_b,'n/a',}/", &batch), [("x/n%2Fa".to_owned(), vec![0])]);
    }

    #[test]
    fn times_are_cut_to_their_granularity_also_before_1970() {
        let at: ArrayRef = Arc::new(
            TimestampMicrosecondArray::from(vec![
                Some(NOW),
                Some(-1),
                Some(-62_135_596_800_000_001), // 0001-12-31 23:59:59.999999 BC
                None,
            ])
            .with_timezone("UTC"),
        );
        let on: ArrayRef = Arc::new(Date32Array::from(vec![18_630, 0, -1, 20_000]));
        let batch = batch(vec![("at", at), ("on", on)]);
        let paths = |regex: &str| -> Vec<String> {
            split(regex, &batch).into_iter().map(|(path, _)| path).collect()
        };
        assert_eq!(
            paths("{at,none,YYYY}-{at,none,MM}-{at,none,DD}T{at,none,HH}/w{at,none,WW}"),
            [
                "2025-06-15T08/w24",
                "1969-12-31T23/w01",
                "0001 BC-12-31T23/w52",
                "none-none-noneTnone/wnone"
            ]
        );
        assert_eq!(paths("{on,,WW}"), ["53", "01", "40"]);
        assert_eq!(paths("{on,,HH}"), ["00"]);
        assert_eq!(
            paths("{at,x,}")[..2],
            ["2025-06-15 08%3A09%3A10.5+00", "1969-12-31 23%3A59%3A59.999999+00"]
        );
        assert_eq!(paths("{now(),,}"), ["2025-06-15 08%3A09%3A10.5+00"]);
    }

    #[test]
    fn values_side_by_side_do_not_run_into_each_other() {
        let batch = batch(vec![
            ("a", strings(&[Some("x"), Some("xy"), Some("x")])),
            ("b", strings(&[Some("yz"), Some("z"), Some("yz")])),
        ]);
        let expected = [("x-yz".to_owned(), vec![0, 2]), ("xy-z".to_owned(), vec![1])];
        assert_eq!(split("{a,,}-{b,,}", &batch), expected);
    }

    #[test]
    fn ten_thousand_values_are_ten_thousand_groups_that_hold_every_row_once() {
        let values = Int32Array::from_iter_values((0..50_000).map(|row| row * 7919 % 10_000));
        let batch = batch(vec![("k", Arc::new(values))]);
        let groups = split("k={k,,}", &batch);
        assert_eq!(groups.len(), 10_000);
        assert!(groups.iter().all(|(_, rows)| rows.is_sorted() && rows.len() == 5));
        let mut rows: Vec<_> = groups.into_iter().flat_map(|(_, rows)| rows).collect();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..50_000));
    }

    #[test]
    fn a_batch_without_rows_has_no_groups_and_a_path_without_columns_has_one() {
        let batch = batch(vec![("a", strings(&[Some("x"), None]))]);
        assert!(split("{a,,}", &batch.slice(0, 0)).is_empty());
        assert_eq!(split("/fixed/", &batch), [("fixed".to_owned(), vec![0, 1])]);
    }
}
