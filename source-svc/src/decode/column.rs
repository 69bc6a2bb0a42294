//! One column's builder: cells in, an Arrow array out. The only place that
//! knows how PostgreSQL's send functions write each type.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanBuilder, Decimal64Builder, Decimal128Builder,
    FixedSizeBinaryBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder, ListArray,
    NullArray, NullBufferBuilder, PrimitiveBuilder,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Field, FieldRef, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::frame::{Cell, Cells};
use super::text::TextBuilder;
use super::{CellError, OnUnrepresentable, array, numeric};
use crate::types::Wire;

/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
/// Microseconds between the same.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const DAY_MICROS: i64 = 86_400_000_000;
/// Values of a type of fixed size that are appended at once.
const RUN: usize = 64;
/// Room of a first batch; a later one has that of the batch before.
const START: usize = 64;

/// Builds one column. Capacities come from the batch before.
pub(super) enum Builder {
    Bool(BooleanBuilder),
    Int2(Int32Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Oid(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Numeric64 { values: Decimal64Builder, precision: u8, scale: i8 },
    Numeric { values: Decimal128Builder, precision: u8, scale: i8 },
    Date(PrimitiveBuilder<Date32Type>),
    Time(PrimitiveBuilder<Time64MicrosecondType>),
    Timestamp(PrimitiveBuilder<TimestampMicrosecondType>),
    Uuid(FixedSizeBinaryBuilder),
    Bytea(BinaryBuilder),
    Text(TextBuilder),
    Jsonb(TextBuilder),
    List(ListBuilder),
}

/// A list's elements lie in a builder of their own.
pub(super) struct ListBuilder {
    field: FieldRef,
    item: Box<Builder>,
    /// End of each list among the elements, after a 0.
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
    /// Where the elements of the array at hand lie.
    elements: Vec<Cell>,
}

impl Builder {
    /// For cells that arrive as `wire` and become `data_type`.
    pub(super) fn new(wire: &Wire, data_type: &DataType) -> Self {
        match wire {
            Wire::Bool => Builder::Bool(BooleanBuilder::with_capacity(START)),
            Wire::Int2 => Builder::Int2(Int32Builder::with_capacity(START)),
            Wire::Int4 => Builder::Int4(Int32Builder::with_capacity(START)),
            Wire::Int8 => Builder::Int8(Int64Builder::with_capacity(START)),
            Wire::Oid => Builder::Oid(Int64Builder::with_capacity(START)),
            Wire::Float4 => Builder::Float4(Float32Builder::with_capacity(START)),
            Wire::Float8 => Builder::Float8(Float64Builder::with_capacity(START)),
            Wire::Numeric { precision, scale } if matches!(data_type, DataType::Decimal64(..)) => {
                let (precision, scale) = (*precision, *scale);
                Builder::Numeric64 { values: typed(data_type), precision, scale }
            }
            Wire::Numeric { precision, scale } => {
                Builder::Numeric { values: typed(data_type), precision: *precision, scale: *scale }
            }
            Wire::Date => Builder::Date(typed(data_type)),
            Wire::Time => Builder::Time(typed(data_type)),
            Wire::Timestamp | Wire::TimestampTz => Builder::Timestamp(typed(data_type)),
            Wire::Uuid => Builder::Uuid(FixedSizeBinaryBuilder::with_capacity(START, 16)),
            Wire::Bytea => Builder::Bytea(BinaryBuilder::with_capacity(START, START)),
            Wire::Text | Wire::Json => Builder::Text(TextBuilder::with_capacity(START, START)),
            Wire::Jsonb => Builder::Jsonb(TextBuilder::with_capacity(START, START)),
            Wire::List(item) => {
                let field = match data_type {
                    DataType::List(field) => field.clone(),
                    other => Arc::new(Field::new_list_field(other.clone(), true)),
                };
                Builder::List(ListBuilder {
                    item: Box::new(Builder::new(item, field.data_type())),
                    field,
                    offsets: vec![0],
                    nulls: NullBufferBuilder::new(START),
                    elements: Vec::new(),
                })
            }
        }
    }

    /// Appends every cell. On an error: which cell, and what is wrong with it;
    /// the builder is then of no use.
    pub(super) fn append(
        &mut self,
        cells: Cells<'_>,
        policy: OnUnrepresentable,
        nulled: &mut u64,
    ) -> Result<(), (usize, CellError)> {
        match self {
            Builder::Bool(values) => each(cells, policy, nulled, |cell| {
                values.append_option(cell.map(boolean).transpose()?);
                Ok(())
            }),
            Builder::Int2(values) => primitive(values, cells, policy, nulled, |cell| {
                fixed(cell).map(|bytes| i32::from(i16::from_be_bytes(bytes)))
            }),
            Builder::Int4(values) => {
                primitive(values, cells, policy, nulled, |cell| fixed(cell).map(i32::from_be_bytes))
            }
            Builder::Int8(values) => {
                primitive(values, cells, policy, nulled, |cell| fixed(cell).map(i64::from_be_bytes))
            }
            Builder::Oid(values) => primitive(values, cells, policy, nulled, |cell| {
                fixed(cell).map(|bytes| i64::from(u32::from_be_bytes(bytes)))
            }),
            Builder::Float4(values) => {
                primitive(values, cells, policy, nulled, |cell| fixed(cell).map(f32::from_be_bytes))
            }
            Builder::Float8(values) => {
                primitive(values, cells, policy, nulled, |cell| fixed(cell).map(f64::from_be_bytes))
            }
            Builder::Numeric64 { values, precision, scale } => {
                let (precision, scale) = (*precision, *scale);
                primitive(values, cells, policy, nulled, |cell| {
                    numeric::decode64(cell, precision, scale)
                })
            }
            Builder::Numeric { values, precision, scale } => {
                let (precision, scale) = (*precision, *scale);
                primitive(values, cells, policy, nulled, |cell| {
                    numeric::decode(cell, precision, scale)
                })
            }
            Builder::Date(values) => primitive(values, cells, policy, nulled, date),
            Builder::Time(values) => primitive(values, cells, policy, nulled, time),
            Builder::Timestamp(values) => primitive(values, cells, policy, nulled, timestamp),
            Builder::Uuid(values) => each(cells, policy, nulled, |cell| {
                match cell {
                    None => values.append_null(),
                    Some(cell) => values
                        .append_value(fixed::<16>(cell)?)
                        .map_err(|e| CellError::Bad(e.to_string()))?,
                }
                Ok(())
            }),
            Builder::Bytea(values) => each(cells, policy, nulled, |cell| {
                values.append_option(cell);
                Ok(())
            }),
            Builder::Text(texts) => texts.append(cells, Ok),
            Builder::Jsonb(texts) => texts.append(cells, jsonb),
            Builder::List(list) => list.append(cells, policy, nulled),
        }
    }

    /// The array of everything appended since the last; the builder then holds
    /// nothing, with room for as much again.
    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Bool(values) => {
                let array = values.finish();
                *values = BooleanBuilder::with_capacity(room(array.len()));
                Arc::new(array)
            }
            Builder::Int2(values) | Builder::Int4(values) => finish_primitive(values),
            Builder::Int8(values) | Builder::Oid(values) => finish_primitive(values),
            Builder::Float4(values) => finish_primitive(values),
            Builder::Float8(values) => finish_primitive(values),
            Builder::Numeric64 { values, .. } => finish_primitive(values),
            Builder::Numeric { values, .. } => finish_primitive(values),
            Builder::Date(values) => finish_primitive(values),
            Builder::Time(values) => finish_primitive(values),
            Builder::Timestamp(values) => finish_primitive(values),
            Builder::Uuid(values) => {
                let array = values.finish();
                *values = FixedSizeBinaryBuilder::with_capacity(room(array.len()), 16);
                Arc::new(array)
            }
            Builder::Bytea(values) => {
                let array = values.finish();
                let bytes = array.values().len();
                *values = BinaryBuilder::with_capacity(room(array.len()), room_bytes(bytes));
                Arc::new(array)
            }
            Builder::Text(texts) | Builder::Jsonb(texts) => texts.finish(),
            Builder::List(list) => list.finish(),
        }
    }
}

impl ListBuilder {
    fn append(
        &mut self,
        cells: Cells<'_>,
        policy: OnUnrepresentable,
        nulled: &mut u64,
    ) -> Result<(), (usize, CellError)> {
        // An element's null counts like a cell's own.
        let mut nulled_elements = 0;
        each(cells, policy, nulled, |cell| {
            let Some(bytes) = cell else {
                self.nulls.append_null();
                self.offsets.push(self.end());
                return Ok(());
            };
            array::elements(bytes, &mut self.elements)?;
            let added = i32::try_from(self.elements.len()).ok();
            let Some(end) = added.and_then(|added| self.end().checked_add(added)) else {
                return Err(CellError::Bad("more than 2^31 elements in a batch".to_owned()));
            };
            let elements = Cells { bytes, cells: &self.elements, stride: 1, index: 0 };
            self.item
                .append(elements, policy, &mut nulled_elements)
                .map_err(|(index, error)| error.in_element(index))?;
            self.nulls.append_non_null();
            self.offsets.push(end);
            Ok(())
        })?;
        *nulled += nulled_elements;
        Ok(())
    }

    fn end(&self) -> i32 {
        self.offsets.last().copied().unwrap_or(0)
    }

    fn finish(&mut self) -> ArrayRef {
        let lists = self.offsets.len();
        let mut offsets = Vec::with_capacity(room(lists));
        offsets.push(0);
        let offsets = std::mem::replace(&mut self.offsets, offsets);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let (items, nulls) = (self.item.finish(), self.nulls.finish());
        if self.elements.capacity() > super::KEEP_BYTES {
            self.elements = Vec::new();
        }
        match ListArray::try_new(self.field.clone(), offsets, items, nulls) {
            Ok(array) => Arc::new(array),
            // The batch refuses a column of another type, with its own words.
            Err(_) => Arc::new(NullArray::new(lists - 1)),
        }
    }
}

impl CellError {
    pub(super) fn in_element(self, index: usize) -> Self {
        let add = |what: String| format!("element {}: {what}", index + 1);
        match self {
            CellError::Bad(what) => CellError::Bad(add(what)),
            CellError::Unrepresentable(what) => CellError::Unrepresentable(add(what)),
        }
    }
}

/// Hands each cell to `put`, and a null for one that cannot be represented,
/// if the policy says so.
#[inline]
fn each<'a>(
    cells: Cells<'a>,
    policy: OnUnrepresentable,
    nulled: &mut u64,
    mut put: impl FnMut(Option<&'a [u8]>) -> Result<(), CellError>,
) -> Result<(), (usize, CellError)> {
    for (row, cell) in cells.iter().enumerate() {
        match put(cell) {
            Ok(()) => {}
            Err(CellError::Unrepresentable(_)) if policy == OnUnrepresentable::Null => {
                *nulled += 1;
                put(None).map_err(|error| (row, error))?;
            }
            Err(error) => return Err((row, error)),
        }
    }
    Ok(())
}

/// Appends values a block at a time; nulls, which are rarer, one by one.
#[inline]
fn primitive<'a, T: ArrowPrimitiveType>(
    values: &mut PrimitiveBuilder<T>,
    cells: Cells<'a>,
    policy: OnUnrepresentable,
    nulled: &mut u64,
    decode: impl Fn(&'a [u8]) -> Result<T::Native, CellError>,
) -> Result<(), (usize, CellError)> {
    let mut run = [T::Native::default(); RUN];
    let mut length = 0;
    each(cells, policy, nulled, |cell| {
        match cell {
            Some(cell) => {
                run[length] = decode(cell)?;
                length += 1;
                if length < RUN {
                    return Ok(());
                }
                values.append_slice(&run);
            }
            None => {
                values.append_slice(&run[..length]);
                values.append_null();
            }
        }
        length = 0;
        Ok(())
    })?;
    values.append_slice(&run[..length]);
    Ok(())
}

/// A builder of one of a type's variants (zone, precision and scale).
fn typed<T: ArrowPrimitiveType>(data_type: &DataType) -> PrimitiveBuilder<T> {
    PrimitiveBuilder::with_capacity(START).with_data_type(data_type.clone())
}

fn finish_primitive<T: ArrowPrimitiveType>(values: &mut PrimitiveBuilder<T>) -> ArrayRef {
    let array = values.finish();
    let next = PrimitiveBuilder::<T>::with_capacity(room(array.len()));
    *values = next.with_data_type(array.data_type().clone());
    Arc::new(array)
}

/// Rows to have room for: a batch of equal bytes may have a few more.
pub(super) fn room(rows: usize) -> usize {
    rows + rows / 16
}

/// Bytes to have room for. A large row is no measure of the next batch.
pub(super) fn room_bytes(bytes: usize) -> usize {
    (bytes + bytes / 16).min(super::KEEP_BYTES)
}

#[inline]
fn fixed<const N: usize>(cell: &[u8]) -> Result<[u8; N], CellError> {
    match <[u8; N]>::try_from(cell) {
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(wrong_length(cell.len(), N)),
    }
}

#[cold]
fn wrong_length(length: usize, expected: usize) -> CellError {
    CellError::Bad(format!("a value of {length} bytes, {expected} expected"))
}

fn boolean(cell: &[u8]) -> Result<bool, CellError> {
    match fixed::<1>(cell)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(CellError::Bad(format!("a boolean of {other}"))),
    }
}

fn date(cell: &[u8]) -> Result<i32, CellError> {
    let days = i32::from_be_bytes(fixed(cell)?);
    match days {
        i32::MAX => Err(CellError::Unrepresentable("infinity".to_owned())),
        i32::MIN => Err(CellError::Unrepresentable("-infinity".to_owned())),
        _ => days.checked_add(EPOCH_DAYS).ok_or_else(|| {
            CellError::Unrepresentable(format!("the date {days} days after 2000-01-01"))
        }),
    }
}

fn time(cell: &[u8]) -> Result<i64, CellError> {
    match i64::from_be_bytes(fixed(cell)?) {
        micros @ 0..DAY_MICROS => Ok(micros),
        DAY_MICROS => Err(CellError::Unrepresentable("24:00:00".to_owned())),
        micros => Err(CellError::Bad(format!("a time {micros} µs after midnight"))),
    }
}

fn timestamp(cell: &[u8]) -> Result<i64, CellError> {
    let micros = i64::from_be_bytes(fixed(cell)?);
    match micros {
        i64::MAX => Err(CellError::Unrepresentable("infinity".to_owned())),
        i64::MIN => Err(CellError::Unrepresentable("-infinity".to_owned())),
        _ => micros.checked_add(EPOCH_MICROS).ok_or_else(|| {
            CellError::Unrepresentable(format!(
                "the time {micros} µs after 2000-01-01, past 294247-01-10"
            ))
        }),
    }
}

fn jsonb(cell: &[u8]) -> Result<&[u8], CellError> {
    match cell.split_first() {
        Some((1, text)) => Ok(text),
        _ => Err(CellError::Bad("a jsonb of unknown version".to_owned())),
    }
}

/// A cell as people read it, for messages.
pub(super) fn show(wire: &Wire, field: &Field, cell: Option<&[u8]>) -> String {
    let Some(bytes) = cell else { return "null".to_owned() };
    // Only the beginning of a long text is looked at.
    if matches!(wire, Wire::Text | Wire::Json) {
        let head = &bytes[..bytes.len().min(4 * super::SHOWN + 4)];
        return String::from_utf8_lossy(head).into_owned();
    }
    let mut builder = Builder::new(wire, field.data_type());
    let (Ok(length), mut nulled) = (i32::try_from(bytes.len()), 0) else {
        return "?".to_owned();
    };
    let cells = Cells { bytes, cells: &[Cell { start: 0, length }], stride: 1, index: 0 };
    match builder.append(cells, OnUnrepresentable::Fail, &mut nulled) {
        Err((_, CellError::Unrepresentable(value))) => return value,
        Err((_, CellError::Bad(what))) => return what,
        Ok(()) => {}
    }
    let array = builder.finish();
    match ArrayFormatter::try_new(array.as_ref(), &FormatOptions::default()) {
        Ok(formatter) => formatter.value(0).to_string(),
        Err(_) => "?".to_owned(),
    }
}
