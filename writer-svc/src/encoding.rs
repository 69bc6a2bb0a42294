//! Which encoding suits a column, from a sample of its values.
//!
//! The encoder is the writer's bottleneck and hashing near-unique values into
//! a dictionary its largest waste, so a dictionary is made only where the
//! sample says that values repeat enough; a column of ascending numbers is
//! stored as differences, near-unique text that shares prefixes as suffixes.
//! A wrong guess costs size or time, never correctness. Readers that know no such
//! encodings get dictionaries and plain values only.

use std::collections::HashMap;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion,
};
use parquet::schema::types::ColumnPath;

use crate::naming;

/// Values of a column to look at.
const SAMPLE: usize = 4096;
/// Fewer say nothing.
const MIN_SAMPLE: usize = 64;
/// Consecutive values to look at for order and for shared prefixes.
const RUN: usize = 1024;
/// Distinct values, estimated, up to which a dictionary pays.
const MAX_DISTINCT: f64 = 40_000.0;
/// Bits per value that an index must save to be worth its lookup.
const INDEX_COST_BITS: f64 = 2.0;
/// Bits per byte from which compression is not tried.
const RANDOM_BITS: f64 = 7.5;
/// Bytes that are needed to tell.
const MIN_RANDOM_BYTES: usize = 1 << 14;
/// Bytes of a dictionary; parquet falls back to the other encoding above it.
const MAX_DICTIONARY_BYTES: usize = 1 << 20;
/// Bytes of a page before compression.
const PAGE_BYTES: usize = 1 << 20;
/// zstd's level.
pub const COMPRESSION_LEVEL: i32 = 1;
/// Bytes kept of a text's minimum and maximum.
pub const STATISTICS_BYTES: usize = 64;

/// Columns whose least and greatest text help no reader, and cost two
/// comparisons for each row.
const UNBOUNDED: [&str; 3] = [naming::OLAKE_ID, naming::OP_TYPE, naming::CDC_LSN];

/// How a column's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Each distinct value once, and indices.
    Dictionary,
    /// As they are.
    Plain,
    /// Differences of consecutive integers.
    Delta,
    /// Text as the length of the prefix shared with the value before, and the rest.
    Prefix,
}

impl Choice {
    fn fallback(self) -> Encoding {
        match self {
            Choice::Dictionary | Choice::Plain => Encoding::PLAIN,
            Choice::Delta => Encoding::DELTA_BINARY_PACKED,
            Choice::Prefix => Encoding::DELTA_BYTE_ARRAY,
        }
    }
}

/// How files of rows like `sample` are written, row groups of at most
/// `row_group_bytes`; `deltas`: readers know Parquet's delta encodings.
pub fn properties(sample: &RecordBatch, row_group_bytes: usize, deltas: bool) -> WriterProperties {
    let level = ZstdLevel::try_new(COMPRESSION_LEVEL).unwrap_or_default();
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("tidewater {}", proto::VERSION))
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(level))
        // Minimum and maximum of row groups; pages' own cost more than they save.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES))
        .set_offset_index_disabled(true)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_dictionary_page_size_limit(MAX_DICTIONARY_BYTES)
        .set_max_row_group_bytes(Some(row_group_bytes));
    let schema = sample.schema();
    for (field, column) in schema.fields().iter().zip(sample.columns()) {
        if UNBOUNDED.contains(&field.name().as_str()) {
            let path = ColumnPath::from(field.name().as_str());
            builder = builder.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
        builder = set_column(builder, vec![field.name().clone()], column, deltas);
    }
    builder.build()
}

fn set_column(
    builder: WriterPropertiesBuilder,
    mut path: Vec<String>,
    column: &ArrayRef,
    deltas: bool,
) -> WriterPropertiesBuilder {
    if let DataType::List(item) = column.data_type() {
        // As parquet names the levels of a list.
        path.extend(["list".to_owned(), item.name().clone()]);
        return set_column(builder, path, column.as_list::<i32>().values(), deltas);
    }
    let choice = choose(column.as_ref(), deltas);
    let path = ColumnPath::new(path);
    let builder = if choice == Choice::Plain && is_random(column.as_ref()) {
        builder.set_column_compression(path.clone(), Compression::UNCOMPRESSED)
    } else {
        builder
    };
    builder
        .set_column_dictionary_enabled(path.clone(), choice == Choice::Dictionary)
        .set_column_encoding(path, choice.fallback())
}

/// The encoding for values like those of `column`; none by differences from the
/// value before without `deltas`.
pub fn choose(column: &dyn Array, deltas: bool) -> Choice {
    match column.data_type() {
        DataType::Boolean => Choice::Plain,
        DataType::Utf8 | DataType::Binary | DataType::FixedSizeBinary(_) => {
            choose_bytes(column, deltas)
        }
        kind if kind.primitive_width().is_some() => choose_number(column, deltas),
        _ => Choice::Dictionary,
    }
}

fn choose_bytes(column: &dyn Array, deltas: bool) -> Choice {
    let data = column.to_data();
    let values = Values::new(&data);
    let sample = values.sample();
    let bytes: usize = sample.iter().map(|value| value.len()).sum();
    let mean = bytes / sample.len().max(1);
    if Distinct::of(&sample).suits_dictionary(mean) {
        return Choice::Dictionary;
    }
    if !deltas || matches!(column.data_type(), DataType::FixedSizeBinary(_)) {
        return Choice::Plain;
    }
    let run = values.run();
    let shared: usize = run.windows(2).map(|pair| shared_prefix(pair[0], pair[1])).sum();
    let total: usize = run.iter().map(|value| value.len()).sum();
    if shared * 2 > total { Choice::Prefix } else { Choice::Plain }
}

/// Whether the values are like version 4 UUIDs or hashes: nothing for zstd.
fn is_random(column: &dyn Array) -> bool {
    if !matches!(column.data_type(), DataType::FixedSizeBinary(_) | DataType::Binary) {
        return false;
    }
    let data = column.to_data();
    let mut counts = [0_usize; 256];
    for byte in Values::new(&data).sample().into_iter().flatten() {
        counts[usize::from(*byte)] += 1;
    }
    let total: usize = counts.iter().sum();
    let entropy: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| *count as f64 / total as f64)
        .map(|share| -share * share.log2())
        .sum();
    total >= MIN_RANDOM_BYTES && entropy >= RANDOM_BITS
}

fn choose_number(column: &dyn Array, deltas: bool) -> Choice {
    let data = column.to_data();
    let values = Values::new(&data);
    let width = column.data_type().primitive_width().unwrap_or(8);
    let distinct = Distinct::of(&values.sample());
    let repeats = distinct.suits_dictionary(width);
    let run = values.run();
    let stored = match integer_bits(column.data_type()) {
        Some(stored) if deltas && run.len() >= MIN_SAMPLE => stored,
        _ => return if repeats { Choice::Dictionary } else { Choice::Plain },
    };
    let bits = delta_bits(&run);
    // Packing differences takes about half the time of looking values up, so
    // an index has to be clearly smaller.
    if bits <= distinct.estimate().log2().ceil() + INDEX_COST_BITS && bits <= stored / 2.0 {
        Choice::Delta
    } else if repeats {
        Choice::Dictionary
    } else if bits <= 0.75 * stored {
        Choice::Delta
    } else {
        Choice::Plain
    }
}

/// Bits of the integer that Parquet stores for a type, if it is one.
fn integer_bits(kind: &DataType) -> Option<f64> {
    match kind {
        DataType::Int32 | DataType::Date32 => Some(32.0),
        DataType::Int64 | DataType::Time64(_) | DataType::Timestamp(..) => Some(64.0),
        DataType::Decimal64(..=9, _) | DataType::Decimal128(..=9, _) => Some(32.0),
        DataType::Decimal64(..) | DataType::Decimal128(10..=18, _) => Some(64.0),
        _ => None,
    }
}

/// Mean bits of the differences of consecutive integers, in blocks as Parquet
/// packs them.
fn delta_bits(run: &[&[u8]]) -> f64 {
    let numbers: Vec<i64> = run.iter().map(|bytes| low_bits(bytes)).collect();
    let deltas: Vec<i64> = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    let mut bits = 0.0;
    for block in deltas.chunks(32) {
        let (least, most) =
            block.iter().fold((i64::MAX, i64::MIN), |(a, b), d| (a.min(*d), b.max(*d)));
        let spread = most.wrapping_sub(least) as u64;
        bits += f64::from(64 - spread.leading_zeros()) * block.len() as f64;
    }
    bits / deltas.len().max(1) as f64
}

/// The low 64 bits of a little-endian integer, its sign kept.
fn low_bits(bytes: &[u8]) -> i64 {
    match bytes {
        [a, b, c, d] => i64::from(i32::from_le_bytes([*a, *b, *c, *d])),
        [a, b, c, d, e, f, g, h, ..] => i64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
        _ => 0,
    }
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// How often values repeat in a sample.
struct Distinct {
    sampled: usize,
    seen: usize,
    once: usize,
    twice: usize,
}

impl Distinct {
    fn of(sample: &[&[u8]]) -> Self {
        let mut counts: HashMap<&[u8], usize> = HashMap::with_capacity(sample.len());
        for value in sample {
            *counts.entry(value).or_default() += 1;
        }
        let times = |n| counts.values().filter(|count| **count == n).count();
        Distinct { sampled: sample.len(), seen: counts.len(), once: times(1), twice: times(2) }
    }

    /// Chao's estimate of the distinct values behind the sample.
    fn estimate(&self) -> f64 {
        let (once, twice) = (self.once as f64, self.twice as f64);
        self.seen as f64 + once * (once - 1.0).max(0.0) / (2.0 * (twice + 1.0))
    }

    fn suits_dictionary(&self, mean_bytes: usize) -> bool {
        if self.sampled < MIN_SAMPLE {
            // Too few rows to tell: small values do no harm.
            return mean_bytes <= 1024;
        }
        let bytes = self.estimate() * (mean_bytes + 4) as f64;
        self.estimate() <= MAX_DISTINCT && bytes <= MAX_DICTIONARY_BYTES as f64
    }
}

/// A column's values as bytes.
struct Values<'a> {
    data: &'a ArrayData,
    width: Option<usize>,
}

impl<'a> Values<'a> {
    fn new(data: &'a ArrayData) -> Self {
        let width = match data.data_type() {
            DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
            kind => kind.primitive_width(),
        };
        Values { data, width }
    }

    fn get(&self, row: usize) -> Option<&'a [u8]> {
        if self.data.is_null(row) {
            return None;
        }
        let row = row + self.data.offset();
        let buffers = self.data.buffers();
        match self.width {
            Some(width) => buffers.first()?.get(row * width..(row + 1) * width),
            None => {
                let offsets = buffers.first()?.typed_data::<i32>();
                let start = usize::try_from(*offsets.get(row)?).ok()?;
                let end = usize::try_from(*offsets.get(row + 1)?).ok()?;
                buffers.get(1)?.get(start..end)
            }
        }
    }

    /// Up to [`SAMPLE`] values from all over the column.
    fn sample(&self) -> Vec<&'a [u8]> {
        let step = self.data.len().div_ceil(SAMPLE).max(1);
        (0..self.data.len()).step_by(step).filter_map(|row| self.get(row)).collect()
    }

    /// Up to [`RUN`] consecutive values.
    fn run(&self) -> Vec<&'a [u8]> {
        (0..self.data.len()).filter_map(|row| self.get(row)).take(RUN).collect()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array,
        StringArray, TimestampMicrosecondArray,
    };

    use super::*;

    const ROWS: i64 = 20_000;

    /// A fixed sequence that looks random (splitmix64), not negative.
    fn scatter(n: i64) -> i64 {
        let mut x = (n as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 1) as i64
    }

    fn numbers(of: impl Fn(i64) -> i64) -> Int64Array {
        (0..ROWS).map(of).collect()
    }

    fn texts(of: impl Fn(i64) -> String) -> StringArray {
        (0..ROWS).map(|n| Some(of(n))).collect()
    }

    #[test]
    fn values_that_repeat_get_a_dictionary() {
        assert_eq!(choose(&numbers(|n| scatter(n) % 265 * 1_000_003), true), Choice::Dictionary);
        assert_eq!(
            choose(&texts(|n| format!("city {}", scatter(n) % 900)), true),
            Choice::Dictionary
        );
        assert_eq!(choose(&texts(|_| "r".into()), true), Choice::Dictionary);
        let prices: Float64Array = (0..ROWS).map(|n| (scatter(n) % 5000) as f64 / 100.0).collect();
        assert_eq!(choose(&prices, true), Choice::Dictionary);
    }

    #[test]
    fn ascending_and_small_numbers_are_stored_as_differences() {
        assert_eq!(choose(&numbers(|n| scatter(n) % 265), true), Choice::Delta);
        assert_eq!(choose(&numbers(|_| 1 << 60), true), Choice::Delta);
        assert_eq!(choose(&numbers(|n| n), true), Choice::Delta);
        let times = (0..ROWS).map(|n| 1_700_000_000_000_000 + n * 1_000_003);
        let times = TimestampMicrosecondArray::from_iter_values(times);
        assert_eq!(choose(&times, true), Choice::Delta);
        let amounts: Decimal128Array = (0..ROWS).map(|n| i128::from(n) * 7).collect();
        let amounts = amounts.with_precision_and_scale(10, 2).unwrap();
        assert_eq!(choose(&amounts, true), Choice::Delta);
    }

    #[test]
    fn readers_that_know_no_deltas_get_none() {
        assert_eq!(choose(&numbers(|n| n), false), Choice::Plain);
        assert_eq!(choose(&numbers(|n| scatter(n) % 265), false), Choice::Dictionary);
        assert_eq!(choose(&texts(|n| (1_000_000 + n).to_string()), false), Choice::Plain);
    }

    #[test]
    fn near_unique_values_get_no_dictionary() {
        assert_eq!(choose(&numbers(scatter), true), Choice::Plain);
        let floats: Float64Array = (0..ROWS).map(|n| scatter(n) as f64).collect();
        assert_eq!(choose(&floats, true), Choice::Plain);
        assert_eq!(choose(&texts(|n| format!("{:x}", scatter(n))), true), Choice::Plain);
        assert_eq!(choose(&texts(|n| (1_000_000 + n).to_string()), true), Choice::Prefix);
    }

    #[test]
    fn random_bytes_are_not_compressed() {
        let random = |n: i64| [scatter(n), scatter(scatter(n) + 1)].map(i64::to_le_bytes).concat();
        let uuids = FixedSizeBinaryArray::try_from_iter((0..ROWS).map(random)).unwrap();
        let ordered = |n: i64| [0, n].map(i64::to_be_bytes).concat();
        let others = FixedSizeBinaryArray::try_from_iter((0..ROWS).map(ordered)).unwrap();
        assert_eq!(choose(&uuids, true), Choice::Plain);
        assert!(is_random(&uuids));
        assert!(!is_random(&others));
    }

    #[test]
    fn small_empty_and_null_columns_are_cheap_and_do_not_fail() {
        assert_eq!(choose(&Int64Array::new_null(500), true), Choice::Dictionary);
        assert_eq!(choose(&Date32Array::from(Vec::<i32>::new()), true), Choice::Dictionary);
        assert_eq!(choose(&Int32Array::from(vec![7]), true), Choice::Dictionary);
        let large = StringArray::from(vec!["x".repeat(1 << 20)]);
        assert_eq!(choose(&large, true), Choice::Plain);
        let sliced = numbers(|n| n).slice(9_000, 9_000);
        assert_eq!(choose(&sliced, true), Choice::Delta);
    }
}
