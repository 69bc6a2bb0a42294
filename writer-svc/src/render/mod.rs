//! Arrow values in PostgreSQL's words.
//!
//! - [`text`]: as PostgreSQL's output functions write them, under
//!   `DateStyle=ISO, TimeZone=UTC, extra_float_digits=3, bytea_output=hex`
//! - [`json`]: a row as `row_to_json` writes it
//! - [`float`]: shortest digits, the way PostgreSQL chooses them
//! - [`datetime`]: days and microseconds as calendar dates and times
//!
//! Everything appends to a byte buffer that the caller reuses; what is
//! appended is valid UTF-8. [`Values`] is an array with its type resolved
//! once, so that rendering a value is one branch.

pub mod datetime;
pub mod float;
pub mod json;
pub mod members;
pub mod text;

use std::collections::HashMap;

use arrow::array::{
    Array, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal64Array, Decimal128Array,
    FixedSizeBinaryArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal64Type, Decimal128Type, Field, Float32Type, Float64Type,
    Int32Type, Int64Type, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};

use crate::error::WriterError;

/// Name of Arrow's canonical extension type for JSON text.
const ARROW_JSON: &str = "arrow.json";

/// Metadata of a Utf8 field whose values are JSON. Arrow's canonical keys.
pub fn json_extension() -> HashMap<String, String> {
    HashMap::from([
        ("ARROW:extension:name".to_owned(), ARROW_JSON.to_owned()),
        ("ARROW:extension:metadata".to_owned(), String::new()),
    ])
}

/// A column of any type that can arrive.
#[derive(Debug)]
pub enum Values<'a> {
    /// bool
    Boolean(&'a BooleanArray),
    /// int2, int4
    Int32(&'a Int32Array),
    /// int8, oid
    Int64(&'a Int64Array),
    /// float4
    Float32(&'a Float32Array),
    /// float8
    Float64(&'a Float64Array),
    /// numeric(p,s) with p ≤ 18, and s
    Decimal64(&'a Decimal64Array, u8),
    /// numeric(p,s), and s
    Decimal(&'a Decimal128Array, u8),
    /// date
    Date(&'a Date32Array),
    /// time
    Time(&'a Time64MicrosecondArray),
    /// timestamp
    Timestamp(&'a TimestampMicrosecondArray),
    /// timestamptz
    TimestampTz(&'a TimestampMicrosecondArray),
    /// uuid
    Uuid(&'a FixedSizeBinaryArray),
    /// bytea
    Bytea(&'a BinaryArray),
    /// json, jsonb
    Json(&'a StringArray),
    /// every type that travels as PostgreSQL's own text
    Text(&'a StringArray),
    /// a one-dimensional array, with its elements
    List(&'a ListArray, Box<Values<'a>>),
}

/// Refuses a column of a type that no source sends.
pub fn check(field: &Field) -> Result<(), WriterError> {
    let known = match field.data_type() {
        DataType::Boolean | DataType::Int32 | DataType::Int64 => true,
        DataType::Float32 | DataType::Float64 | DataType::Date32 => true,
        DataType::Decimal64(1..=18, scale) | DataType::Decimal128(_, scale) => *scale >= 0,
        DataType::Time64(TimeUnit::Microsecond) => true,
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            zone.as_deref().is_none_or(|zone| zone == "UTC" || zone == "+00:00")
        }
        DataType::FixedSizeBinary(16) | DataType::Binary | DataType::Utf8 => true,
        DataType::List(element) => {
            !matches!(element.data_type(), DataType::List(_)) && check(element).is_ok()
        }
        _ => false,
    };
    if known { Ok(()) } else { Err(unknown_type(field)) }
}

fn unknown_type(field: &Field) -> WriterError {
    WriterError::InvalidRequest(format!(
        "column {:?} has the Arrow type {}, which the writer does not take",
        field.name(),
        field.data_type()
    ))
}

impl<'a> Values<'a> {
    /// `field` says what `array` holds; its type must be one that
    /// [`check`] accepts.
    pub fn new(field: &Field, array: &'a dyn Array) -> Result<Self, WriterError> {
        check(field)?;
        if array.data_type() != field.data_type() {
            return Err(WriterError::BadData(format!(
                "column {:?} should be of the Arrow type {} but is {}",
                field.name(),
                field.data_type(),
                array.data_type()
            )));
        }
        Ok(match array.data_type() {
            DataType::Boolean => Values::Boolean(array.as_boolean()),
            DataType::Int32 => Values::Int32(array.as_primitive::<Int32Type>()),
            DataType::Int64 => Values::Int64(array.as_primitive::<Int64Type>()),
            DataType::Float32 => Values::Float32(array.as_primitive::<Float32Type>()),
            DataType::Float64 => Values::Float64(array.as_primitive::<Float64Type>()),
            DataType::Decimal64(_, scale) => {
                Values::Decimal64(array.as_primitive::<Decimal64Type>(), scale.unsigned_abs())
            }
            DataType::Decimal128(_, scale) => {
                Values::Decimal(array.as_primitive::<Decimal128Type>(), scale.unsigned_abs())
            }
            DataType::Date32 => Values::Date(array.as_primitive::<Date32Type>()),
            DataType::Time64(_) => Values::Time(array.as_primitive::<Time64MicrosecondType>()),
            DataType::Timestamp(_, zone) => {
                let array = array.as_primitive::<TimestampMicrosecondType>();
                match zone {
                    None => Values::Timestamp(array),
                    Some(_) => Values::TimestampTz(array),
                }
            }
            DataType::FixedSizeBinary(_) => Values::Uuid(array.as_fixed_size_binary()),
            DataType::Binary => Values::Bytea(array.as_binary::<i32>()),
            DataType::Utf8 if field.extension_type_name() == Some(ARROW_JSON) => {
                Values::Json(array.as_string::<i32>())
            }
            DataType::Utf8 => Values::Text(array.as_string::<i32>()),
            DataType::List(element) => {
                let list = array.as_list::<i32>();
                Values::List(list, Box::new(Values::new(element, list.values())?))
            }
            _ => return Err(unknown_type(field)),
        })
    }

    fn array(&self) -> &dyn Array {
        match self {
            Values::Boolean(array) => *array,
            Values::Int32(array) => *array,
            Values::Int64(array) => *array,
            Values::Float32(array) => *array,
            Values::Float64(array) => *array,
            Values::Decimal64(array, _) => *array,
            Values::Decimal(array, _) => *array,
            Values::Date(array) => *array,
            Values::Time(array) => *array,
            Values::Timestamp(array) | Values::TimestampTz(array) => *array,
            Values::Uuid(array) => *array,
            Values::Bytea(array) => *array,
            Values::Json(array) | Values::Text(array) => *array,
            Values::List(array, _) => *array,
        }
    }

    /// Whether the value of this row is null.
    pub fn is_null(&self, row: usize) -> bool {
        match self {
            Values::Int32(array) => array.is_null(row),
            Values::Int64(array) => array.is_null(row),
            Values::Text(array) => array.is_null(row),
            _ => self.array().is_null(row),
        }
    }

    /// Whether the text of a value can contain `|` at all.
    pub fn may_contain_bar(&self) -> bool {
        match self {
            Values::Json(_) | Values::Text(_) => true,
            Values::List(_, elements) => elements.may_contain_bar(),
            _ => false,
        }
    }
}
