//! Counts and bounds of a data file, from its footer: engines skip files by
//! them, so a wrong bound loses rows silently. Where there is doubt there is
//! no bound.
//!
//! - A bound is the least (greatest) of the row groups' statistics, which may
//!   be truncated themselves: they bound all the same. A group with values and
//!   no statistics leaves the column without bounds.
//! - Text and binary are cut to 16 code points or bytes, an upper bound then
//!   incremented; where that cannot be, there is none.
//! - Some engines order NaN above all numbers, so that `x > 5` is true for it:
//!   with a NaN in it, a column has no upper bound.
//! - uuid has none: Java orders them as signed numbers.
//! - Elements of lists have their size only.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, PrimitiveLiteral,
    PrimitiveType, Schema, Struct, Type,
};
use parquet::basic::Type as Physical;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::Statistics;

use super::manifest::entry::DELETE_FILE_PATH;
use crate::error::WriterError;

/// Code points or bytes of a bound.
const BOUND_LENGTH: usize = 16;

/// Counts the NaN of a file while it is encoded: footers do not.
#[derive(Debug, Default)]
pub struct NanCounts(HashMap<usize, u64>);

impl NanCounts {
    /// Counts a batch in.
    pub fn add(&mut self, batch: &RecordBatch) {
        for (at, column) in batch.columns().iter().enumerate() {
            let count = match column.data_type() {
                DataType::Float32 => {
                    let values = column.as_primitive::<Float32Type>();
                    values.iter().flatten().filter(|value| value.is_nan()).count()
                }
                DataType::Float64 => {
                    let values = column.as_primitive::<Float64Type>();
                    values.iter().flatten().filter(|value| value.is_nan()).count()
                }
                _ => continue,
            };
            *self.0.entry(at).or_default() += count as u64;
        }
    }
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Rows.
    Data,
    /// Keys of rows that are deleted; the ids of their fields.
    EqualityDeletes(Vec<i32>),
    /// Places of rows of this data file.
    PositionDeletes(String),
}

/// The file as manifests describe it.
pub fn data_file(
    location: String,
    bytes: u64,
    footer: &ParquetMetaData,
    schema: &Schema,
    content: &Content,
    partition: Struct,
    nan: &NanCounts,
) -> Result<DataFile, WriterError> {
    let mut builder = DataFileBuilder::default();
    match content {
        Content::Data => builder.content(DataContentType::Data),
        Content::EqualityDeletes(ids) => {
            builder.content(DataContentType::EqualityDeletes).equality_ids(Some(ids.clone()))
        }
        Content::PositionDeletes(path) => builder
            .content(DataContentType::PositionDeletes)
            .referenced_data_file(Some(path.clone())),
    };
    builder
        .file_path(location)
        .file_format(DataFileFormat::Parquet)
        .partition(partition)
        .record_count(footer.file_metadata().num_rows().unsigned_abs())
        .file_size_in_bytes(bytes)
        .split_offsets(Some(
            footer
                .row_groups()
                .iter()
                .filter(|group| group.num_columns() > 0)
                .map(|group| group.column(0).byte_range().0.cast_signed())
                .collect(),
        ));
    let mut columns = Columns::default();
    let leaves = footer.file_metadata().schema_descr().columns();
    for (at, leaf) in leaves.iter().enumerate() {
        let info = leaf.self_type().get_basic_info();
        if !info.has_id() {
            return Err(WriterError::Internal(format!("{} has no field id", leaf.path())));
        }
        let chunks: Vec<_> = footer.row_groups().iter().map(|group| group.column(at)).collect();
        let id = info.id();
        columns.sizes.insert(id, chunks.iter().map(|c| c.compressed_size().unsigned_abs()).sum());
        let top = schema.as_struct().field_by_id(id);
        let Some(Type::Primitive(kind)) = top.map(|field| field.field_type.as_ref()) else {
            continue;
        };
        // A top column's place is known by its root; lists come in between.
        let nan = nan.0.get(&footer.file_metadata().schema_descr().get_column_root_idx(at));
        columns.add(id, kind, &chunks, nan.copied());
    }
    builder
        .column_sizes(columns.sizes)
        .value_counts(columns.values)
        .null_value_counts(columns.nulls)
        .nan_value_counts(columns.nans)
        .lower_bounds(columns.lower)
        .upper_bounds(columns.upper);
    builder.build().map_err(|e| WriterError::Internal(format!("describing a data file: {e}")))
}

#[derive(Debug, Default)]
struct Columns {
    sizes: HashMap<i32, u64>,
    values: HashMap<i32, u64>,
    nulls: HashMap<i32, u64>,
    nans: HashMap<i32, u64>,
    lower: HashMap<i32, Datum>,
    upper: HashMap<i32, Datum>,
}

impl Columns {
    fn add(
        &mut self,
        id: i32,
        kind: &PrimitiveType,
        chunks: &[&ColumnChunkMetaData],
        nan: Option<u64>,
    ) {
        let values = chunks.iter().map(|chunk| chunk.num_values().unsigned_abs()).sum();
        self.values.insert(id, values);
        let nulls: Option<u64> = chunks.iter().map(|chunk| nulls(chunk)).sum();
        if let Some(nulls) = nulls {
            self.nulls.insert(id, nulls);
        }
        if let Some(nan) = nan {
            self.nans.insert(id, nan);
        }
        if *kind == PrimitiveType::Uuid {
            return;
        }
        let Some((lower, upper)) = bounds(kind, chunks) else { return };
        if id == DELETE_FILE_PATH {
            // Whole, some readers know by both which file it is.
            self.lower.insert(id, lower);
            self.upper.insert(id, upper);
            return;
        }
        self.lower.insert(id, cut(lower));
        if nan.unwrap_or(0) == 0
            && let Some(upper) = cut_upper(upper)
        {
            self.upper.insert(id, upper);
        }
    }
}

fn nulls(chunk: &ColumnChunkMetaData) -> Option<u64> {
    chunk.statistics()?.null_count_opt()
}

/// The least and the greatest of all row groups; `None`: not known, or there
/// are no values.
fn bounds(kind: &PrimitiveType, chunks: &[&ColumnChunkMetaData]) -> Option<(Datum, Datum)> {
    let mut found: Option<(Datum, Datum)> = None;
    for chunk in chunks {
        if nulls(chunk) == Some(chunk.num_values().unsigned_abs()) {
            continue;
        }
        let (least, greatest) = group_bounds(kind, chunk.statistics()?)?;
        found = Some(match found {
            None => (least, greatest),
            Some((lower, upper)) => (
                if least < lower { least } else { lower },
                if greatest > upper { greatest } else { upper },
            ),
        });
    }
    found
}

fn group_bounds(kind: &PrimitiveType, statistics: &Statistics) -> Option<(Datum, Datum)> {
    let (least, greatest) = (statistics.min_bytes_opt()?, statistics.max_bytes_opt()?);
    Some((
        datum(kind, statistics.physical_type(), least)?,
        datum(kind, statistics.physical_type(), greatest)?,
    ))
}

/// A statistic as a value: Parquet's bytes are Iceberg's but for decimals,
/// which Parquet may store as little-endian integers.
fn datum(kind: &PrimitiveType, physical: Physical, bytes: &[u8]) -> Option<Datum> {
    let big_endian: Vec<u8>;
    let bytes = match (kind, physical) {
        (PrimitiveType::Decimal { .. }, Physical::INT32 | Physical::INT64) => {
            big_endian = bytes.iter().rev().copied().collect();
            &big_endian
        }
        _ => bytes,
    };
    Datum::try_from_bytes(bytes, kind.clone()).ok().filter(|datum| !datum.is_nan())
}

/// A lower bound of at most [`BOUND_LENGTH`].
fn cut(bound: Datum) -> Datum {
    match bound.literal() {
        PrimitiveLiteral::String(text) => match text.char_indices().nth(BOUND_LENGTH) {
            Some((end, _)) => Datum::string(&text[..end]),
            None => bound,
        },
        PrimitiveLiteral::Binary(bytes) if bytes.len() > BOUND_LENGTH => {
            Datum::binary(bytes[..BOUND_LENGTH].iter().copied())
        }
        _ => bound,
    }
}

/// An upper bound of at most [`BOUND_LENGTH`]; `None`: there is none that short.
fn cut_upper(bound: Datum) -> Option<Datum> {
    match bound.literal() {
        PrimitiveLiteral::String(text) => {
            let Some((end, _)) = text.char_indices().nth(BOUND_LENGTH) else { return Some(bound) };
            let mut kept: Vec<char> = text[..end].chars().collect();
            while let Some(last) = kept.pop() {
                if let Some(next) = successor(last) {
                    kept.push(next);
                    return Some(Datum::string(kept.into_iter().collect::<String>()));
                }
            }
            None
        }
        PrimitiveLiteral::Binary(bytes) if bytes.len() > BOUND_LENGTH => {
            let mut kept = bytes[..BOUND_LENGTH].to_vec();
            while let Some(last) = kept.pop() {
                if let Some(next) = last.checked_add(1) {
                    kept.push(next);
                    return Some(Datum::binary(kept));
                }
            }
            None
        }
        _ => Some(bound),
    }
}

/// The next code point that a text can hold: not a surrogate.
fn successor(c: char) -> Option<char> {
    match c {
        '\u{d7ff}' => Some('\u{e000}'),
        _ => char::from_u32(u32::from(c) + 1),
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
