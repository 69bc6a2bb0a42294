//! The one type table: what each PostgreSQL type becomes, for the load and for
//! change capture alike (`typname` → word of streams.json → Arrow → wire form).

use arrow::datatypes::Field;

/// How a cell of a column arrives in COPY's binary form, which decides its
/// Arrow type (`src/backend/utils/adt/*`, the type's send function).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// 1 byte → Boolean.
    Bool,
    /// 2 bytes → Int32.
    Int2,
    /// 4 bytes → Int32.
    Int4,
    /// 8 bytes → Int64.
    Int8,
    /// 4 bytes, unsigned → Int64.
    Oid,
    /// 4 bytes → Float32.
    Float4,
    /// 8 bytes → Float64.
    Float8,
    /// `numeric_send` → Decimal128(precision, scale), 0 ≤ scale ≤ precision ≤ 38.
    Numeric {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: i8,
    },
    /// Days since 2000-01-01 → Date32.
    Date,
    /// Microseconds since midnight → Time64(µs).
    Time,
    /// Microseconds since 2000-01-01 → Timestamp(µs).
    Timestamp,
    /// Microseconds since 2000-01-01 UTC → Timestamp(µs, "UTC").
    TimestampTz,
    /// 16 bytes → FixedSizeBinary(16), extension arrow.uuid.
    Uuid,
    /// → Binary.
    Bytea,
    /// UTF-8 → Utf8. Also every type that the query turns into its text.
    Text,
    /// UTF-8 → Utf8, extension arrow.json.
    Json,
    /// A version byte 1, then UTF-8 → Utf8, extension arrow.json.
    Jsonb,
    /// `array_send` → List<item>; the item is nullable.
    List(Box<Wire>),
}

/// What one column becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnType {
    /// The word of streams.json: "integer", "decimal(10,2)", "array", …
    pub word: String,
    /// How its cells arrive.
    pub wire: Wire,
    /// The query must turn the value into text by its output function.
    pub as_text: bool,
}

impl ColumnType {
    /// The Arrow field under the column's source name.
    pub fn field(&self, _name: &str, _nullable: bool) -> Field {
        unimplemented!()
    }
}
