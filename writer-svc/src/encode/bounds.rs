//! The least and the greatest value of a column chunk.

use parquet::basic::Type as Physical;
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescPtr;

use super::flat::variable;
use crate::encoding::STATISTICS_BYTES;

/// Bounds of the values seen so far. A NaN bounds nothing.
pub(super) struct Bounds {
    kind: Kind,
    /// Of strings: a bound that is cut must end with a character.
    utf8: bool,
    signed: bool,
}

enum Kind {
    Int32(Option<(i32, i32)>),
    Int64(Option<(i64, i64)>),
    Float(Option<(f32, f32)>),
    Double(Option<(f64, f64)>),
    Fixed(usize, Option<(Vec<u8>, Vec<u8>)>),
    Bytes(Option<(Vec<u8>, Vec<u8>)>),
}

impl Bounds {
    pub(super) fn new(descr: &ColumnDescPtr) -> Self {
        let kind = match descr.physical_type() {
            Physical::INT32 => Kind::Int32(None),
            Physical::INT64 => Kind::Int64(None),
            Physical::FLOAT => Kind::Float(None),
            Physical::DOUBLE => Kind::Double(None),
            Physical::FIXED_LEN_BYTE_ARRAY => {
                Kind::Fixed(usize::try_from(descr.type_length()).unwrap_or(1).max(1), None)
            }
            _ => Kind::Bytes(None),
        };
        let utf8 = descr.converted_type() == parquet::basic::ConvertedType::UTF8
            || descr.logical_type_ref() == Some(&parquet::basic::LogicalType::String);
        Bounds { kind, utf8, signed: descr.sort_order().is_signed() }
    }

    /// Includes values, as PLAIN has them.
    pub(super) fn widen(&mut self, plain: &[u8]) {
        match &mut self.kind {
            Kind::Int32(bounds) => {
                let values =
                    plain.as_chunks::<4>().0.iter().map(|value| i32::from_le_bytes(*value));
                widen(bounds, values, |a, b| a < b);
            }
            Kind::Int64(bounds) => {
                let values =
                    plain.as_chunks::<8>().0.iter().map(|value| i64::from_le_bytes(*value));
                widen(bounds, values, |a, b| a < b);
            }
            Kind::Float(bounds) => {
                let values =
                    plain.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value));
                widen(bounds, values.filter(|value| !value.is_nan()), |a, b| a < b);
            }
            Kind::Double(bounds) => {
                let values =
                    plain.as_chunks::<8>().0.iter().map(|value| f64::from_le_bytes(*value));
                widen(bounds, values.filter(|value| !value.is_nan()), |a, b| a < b);
            }
            Kind::Fixed(width, bounds) => widen_bytes(bounds, plain.chunks_exact(*width)),
            Kind::Bytes(bounds) => widen_bytes(bounds, variable(plain)),
        }
    }

    /// As the footer has them, with the number of nulls.
    pub(super) fn statistics(&self, nulls: u64) -> Statistics {
        macro_rules! bounded {
            ($kind:path, $bounds:expr) => {{
                let (least, greatest) = $bounds.unzip();
                let values = ValueStatistics::new(least, greatest, None, Some(nulls), false);
                $kind(values.with_backwards_compatible_min_max(self.signed))
            }};
        }
        match &self.kind {
            Kind::Int32(bounds) => bounded!(Statistics::Int32, *bounds),
            Kind::Int64(bounds) => bounded!(Statistics::Int64, *bounds),
            // A zero stands for both of them.
            Kind::Float(bounds) => bounded!(
                Statistics::Float,
                bounds.map(|(a, b)| (
                    if a == 0.0 { -0.0 } else { a },
                    if b == 0.0 { 0.0 } else { b }
                ))
            ),
            Kind::Double(bounds) => bounded!(
                Statistics::Double,
                bounds.map(|(a, b)| (
                    if a == 0.0 { -0.0 } else { a },
                    if b == 0.0 { 0.0 } else { b }
                ))
            ),
            Kind::Fixed(_, bounds) => bounded!(
                Statistics::FixedLenByteArray,
                bounds.as_ref().map(|(least, greatest)| {
                    let value = |bytes: &Vec<u8>| FixedLenByteArray::from(bytes.clone());
                    (value(least), value(greatest))
                })
            ),
            Kind::Bytes(None) => bounded!(Statistics::ByteArray, None::<(ByteArray, ByteArray)>),
            Kind::Bytes(Some((least, greatest))) => {
                let (low, high) = (self.cut(least), self.cut_above(greatest));
                let (low_is_exact, high_is_exact) = (low == *least, high == *greatest);
                let values = ValueStatistics::new(
                    Some(low.into()),
                    Some(high.into()),
                    None,
                    Some(nulls),
                    false,
                );
                Statistics::ByteArray(
                    values
                        .with_backwards_compatible_min_max(self.signed)
                        .with_min_is_exact(low_is_exact)
                        .with_max_is_exact(high_is_exact),
                )
            }
        }
    }

    /// The beginning of a long value, which is not above it.
    fn cut(&self, value: &[u8]) -> Vec<u8> {
        let mut end = value.len().min(STATISTICS_BYTES);
        // Not within a character.
        while self.utf8 && end < value.len() && end > 0 && value[end] & 0xC0 == 0x80 {
            end -= 1;
        }
        value[..end].to_vec()
    }

    /// A short value that is not below a long one; where there is none, that one.
    fn cut_above(&self, value: &[u8]) -> Vec<u8> {
        let mut cut = self.cut(value);
        if cut.len() == value.len() {
            return cut;
        }
        if !self.utf8 {
            let Some(last) = cut.iter().rposition(|byte| *byte < u8::MAX) else {
                return value.to_vec();
            };
            cut.truncate(last + 1);
            cut[last] += 1;
            return cut;
        }
        let mut text = String::from_utf8(cut).unwrap_or_default();
        while let Some(last) = text.pop() {
            // Of the same length, so that the order of bytes is that of characters.
            let next = char::from_u32(last as u32 + 1);
            if let Some(next) = next.filter(|next| next.len_utf8() == last.len_utf8()) {
                text.push(next);
                return text.into_bytes();
            }
        }
        value.to_vec()
    }
}

#[inline]
fn widen<T: Copy>(
    bounds: &mut Option<(T, T)>,
    mut values: impl Iterator<Item = T>,
    less: impl Fn(T, T) -> bool,
) {
    let Some(first) = bounds.map(|bounds| bounds.0).or_else(|| values.next()) else { return };
    let start = (first, bounds.map_or(first, |bounds| bounds.1));
    *bounds = Some(values.fold(start, |(least, greatest), value| {
        (
            if less(value, least) { value } else { least },
            if less(greatest, value) { value } else { greatest },
        )
    }));
}

fn widen_bytes<'a>(
    bounds: &mut Option<(Vec<u8>, Vec<u8>)>,
    mut values: impl Iterator<Item = &'a [u8]>,
) {
    let (mut least, mut greatest) = match bounds {
        Some((least, greatest)) => (least.as_slice(), greatest.as_slice()),
        None => match values.next() {
            Some(first) => (first, first),
            None => return,
        },
    };
    let (mut low, mut high) = (head(least), head(greatest));
    for value in values {
        let beginning = head(value);
        // Where the beginnings differ, they decide.
        if beginning < low || (beginning == low && value < least) {
            (least, low) = (value, beginning);
        }
        if beginning > high || (beginning == high && value > greatest) {
            (greatest, high) = (value, beginning);
        }
    }
    *bounds = Some((least.to_vec(), greatest.to_vec()));
}

/// The first bytes as a number of the same order; zeros follow a short value.
#[inline]
fn head(value: &[u8]) -> u64 {
    match value.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..value.len()].copy_from_slice(value);
            u64::from_be_bytes(bytes)
        }
    }
}
