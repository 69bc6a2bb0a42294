//! The one type table: what each PostgreSQL type becomes, for the load and for
//! change capture alike (`pg_type` → word of streams.json → Arrow → wire form).
//!
//! A type that the table does not know becomes its text, made by its own
//! output function: nothing is ever lost by not being known.

use std::collections::HashMap;

use arrow::datatypes::{DECIMAL64_MAX_PRECISION, DataType, Field, TimeUnit};
use arrow_schema::extension::{Json as JsonExtension, Uuid as UuidExtension};

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
    /// `numeric_send` → Decimal64(precision, scale) or, above 18 digits,
    /// Decimal128, 0 ≤ scale ≤ precision ≤ 38.
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

impl Wire {
    /// The Arrow type of a column of this form, without its extension.
    pub fn data_type(&self) -> DataType {
        match self {
            Wire::Bool => DataType::Boolean,
            Wire::Int2 | Wire::Int4 => DataType::Int32,
            Wire::Int8 | Wire::Oid => DataType::Int64,
            Wire::Float4 => DataType::Float32,
            Wire::Float8 => DataType::Float64,
            Wire::Numeric { precision: precision @ ..=DECIMAL64_MAX_PRECISION, scale } => {
                DataType::Decimal64(*precision, *scale)
            }
            Wire::Numeric { precision, scale } => DataType::Decimal128(*precision, *scale),
            Wire::Date => DataType::Date32,
            Wire::Time => DataType::Time64(TimeUnit::Microsecond),
            Wire::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Wire::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Wire::Uuid => DataType::FixedSizeBinary(16),
            Wire::Bytea => DataType::Binary,
            Wire::Text | Wire::Json | Wire::Jsonb => DataType::Utf8,
            Wire::List(item) => DataType::List(item.field("item", true).into()),
        }
    }

    /// The Arrow field of this form, with its extension.
    pub fn field(&self, name: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.data_type(), nullable);
        match self {
            Wire::Uuid => field.with_extension_type(UuidExtension),
            Wire::Json | Wire::Jsonb => field.with_extension_type(JsonExtension::default()),
            _ => field,
        }
    }
}

/// What one column becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// The word of streams.json: "integer", "decimal(10,2)", "array", …
    pub word: String,
    /// How its cells arrive.
    pub wire: Wire,
    /// The query must turn the value into text by its output function; with
    /// [`Wire::List`], each element of it.
    pub as_text: bool,
}

impl ColumnType {
    fn native(word: &str, wire: Wire) -> Self {
        ColumnType { word: word.to_owned(), wire, as_text: false }
    }

    fn text() -> Self {
        ColumnType { word: "string".to_owned(), wire: Wire::Text, as_text: true }
    }

    /// The Arrow field under the column's source name. (A NOT NULL column may
    /// still need `nullable`: an unrepresentable value is stored as null.)
    pub fn field(&self, name: &str, nullable: bool) -> Field {
        self.wire.field(name, nullable)
    }

    /// The expression that a query selects for the column, given its quoted
    /// (and, if need be, qualified) name.
    ///
    /// `format('%s', …)` is the type's output function, which a cast to text is
    /// not. `IS DISTINCT FROM NULL` is false only for NULL itself, where
    /// `IS NOT NULL` is false also for a composite value with a NULL in it.
    pub fn select_expression(&self, quoted_column: &str) -> String {
        let c = quoted_column;
        match &self.wire {
            _ if !self.as_text => c.to_owned(),
            // The innermost SELECT keeps a composite element one value, which
            // unnest() in FROM would take apart. The last branch only has to
            // show the decoder the dimensions that a list cannot have.
            Wire::List(_) => format!(
                "CASE WHEN {c} IS NULL THEN NULL \
                 WHEN pg_catalog.cardinality({c}) = 0 THEN '{{}}'::pg_catalog.text[] \
                 WHEN pg_catalog.array_ndims({c}) = 1 AND pg_catalog.array_lower({c}, 1) = 1 \
                 THEN ARRAY(SELECT CASE WHEN e IS DISTINCT FROM NULL \
                 THEN pg_catalog.format('%s', e) END \
                 FROM (SELECT pg_catalog.unnest({c}) AS e, \
                 pg_catalog.generate_subscripts({c}, 1) AS o) AS u ORDER BY o) \
                 ELSE {c}::pg_catalog.text[] END"
            ),
            _ => {
                format!("CASE WHEN {c} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {c}) END")
            }
        }
    }
}

/// What `pg_type` says about a type, as far as the table needs it.
#[derive(Clone, Debug)]
pub struct TypeFacts {
    /// `typname`.
    pub name: String,
    /// `typtype`: b base, c composite, d domain, e enum, m multirange, r range.
    pub kind: char,
    /// A domain's `typbasetype`, else 0.
    pub base: u32,
    /// A domain's `typtypmod`, else -1.
    pub typmod: i32,
    /// A domain's `typndims`, else 0.
    pub ndims: i32,
    /// `typelem` of a true array, else 0 (also for int2vector and oidvector).
    pub element: u32,
    /// `prosrc` of the send function when it is internal, else empty.
    pub send: String,
}

/// The types that a set of columns uses, with what those are made of.
#[derive(Clone, Debug, Default)]
pub struct TypeCatalog(pub HashMap<u32, TypeFacts>);

/// A type without its domains.
struct Base {
    oid: u32,
    typmod: i32,
    ndims: i32,
}

impl TypeCatalog {
    /// What a column of `atttypid`, `atttypmod` and `attndims` becomes.
    pub fn column_type(&self, atttypid: u32, atttypmod: i32, attndims: i32) -> ColumnType {
        let base = self.without_domains(atttypid, atttypmod, attndims);
        let element = self.0.get(&base.oid).map_or(0, |facts| facts.element);
        if element == 0 {
            return self.scalar(&base);
        }
        if base.ndims > 1 {
            return ColumnType::text();
        }
        // numeric(10,2)[] carries its typmod for the element.
        let item = self.without_domains(element, base.typmod, 0);
        let item = self.scalar(&item);
        ColumnType {
            word: "array".to_owned(),
            wire: Wire::List(Box::new(item.wire)),
            as_text: item.as_text,
        }
    }

    /// Whether an incremental sync can follow a column of this type: its
    /// values have one order, the same in every session.
    pub fn orders(&self, atttypid: u32) -> bool {
        let base = self.without_domains(atttypid, -1, 0);
        matches!(
            base.oid,
            oid::INT2
                | oid::INT4
                | oid::INT8
                | oid::OID
                | oid::NUMERIC
                | oid::DATE
                | oid::TIME
                | oid::TIMESTAMP
                | oid::TIMESTAMPTZ
                | oid::UUID
                | oid::TEXT
                | oid::VARCHAR
        )
    }

    fn without_domains(&self, oid: u32, typmod: i32, ndims: i32) -> Base {
        let mut base = Base { oid, typmod, ndims };
        // The innermost modifier counts; only one of a chain can have one.
        while let Some(facts) = self.0.get(&base.oid).filter(|facts| facts.kind == 'd') {
            base.oid = facts.base;
            if base.typmod < 0 {
                base.typmod = facts.typmod;
            }
            base.ndims = base.ndims.max(facts.ndims);
        }
        base
    }

    fn scalar(&self, base: &Base) -> ColumnType {
        let (word, wire) = match base.oid {
            oid::BOOL => ("boolean", Wire::Bool),
            oid::INT2 => ("integer_small", Wire::Int2),
            oid::INT4 => ("integer_small", Wire::Int4),
            oid::INT8 => ("integer", Wire::Int8),
            oid::OID => ("integer", Wire::Oid),
            oid::FLOAT4 => ("number_small", Wire::Float4),
            oid::FLOAT8 => ("number", Wire::Float8),
            oid::NUMERIC => return numeric(base.typmod),
            oid::DATE => ("date", Wire::Date),
            oid::TIME => ("time", Wire::Time),
            oid::TIMESTAMP => ("timestamp", Wire::Timestamp),
            oid::TIMESTAMPTZ => ("timestamptz", Wire::TimestampTz),
            oid::UUID => ("uuid", Wire::Uuid),
            oid::BYTEA => ("binary", Wire::Bytea),
            oid::JSON => ("json", Wire::Json),
            oid::JSONB => ("json", Wire::Jsonb),
            oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME => ("string", Wire::Text),
            _ => match self.0.get(&base.oid) {
                Some(facts) if facts.sends_text() => ("string", Wire::Text),
                _ => return ColumnType::text(),
            },
        };
        ColumnType::native(word, wire)
    }
}

impl TypeFacts {
    /// Whether the binary form is already the text: enums and citext.
    fn sends_text(&self) -> bool {
        self.kind == 'e' || (self.name == "citext" && self.send == "textsend")
    }
}

/// numeric(p,s) as a decimal where Decimal128 holds it, else as text.
fn numeric(typmod: i32) -> ColumnType {
    // src/backend/utils/adt/numeric.c: VARHDRSZ, then precision and an 11-bit
    // signed scale.
    let packed = typmod - 4;
    let precision = packed >> 16 & 0xffff;
    let scale = ((packed & 0x7ff) ^ 1024) - 1024;
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision), Ok(scale))
            if typmod >= 4 && (0..=precision as i8).contains(&scale) && precision <= 38 =>
        {
            ColumnType::native(
                &format!("decimal({precision},{scale})"),
                Wire::Numeric { precision, scale },
            )
        }
        _ => ColumnType::text(),
    }
}

/// Object ids that never change (`src/include/catalog/pg_type.dat`).
mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const JSON: u32 = 114;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const JSONB: u32 = 3802;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kind: char) -> TypeFacts {
        TypeFacts {
            name: "x".into(),
            kind,
            base: 0,
            typmod: -1,
            ndims: 0,
            element: 0,
            send: String::new(),
        }
    }

    fn domain(base: u32, typmod: i32, ndims: i32) -> TypeFacts {
        TypeFacts { base, typmod, ndims, ..facts('d') }
    }

    fn array(element: u32) -> TypeFacts {
        TypeFacts { element, ..facts('b') }
    }

    fn typmod(precision: i32, scale: i32) -> i32 {
        (precision << 16 | scale & 0x7ff) + 4
    }

    #[test]
    fn a_numeric_is_a_decimal_only_where_its_scale_lies_within_its_precision() {
        let catalog = TypeCatalog::default();
        let word = |p, s| catalog.column_type(oid::NUMERIC, typmod(p, s), 0).word;
        assert_eq!(word(10, 2), "decimal(10,2)");
        assert_eq!(word(38, 38), "decimal(38,38)");
        assert_eq!(word(1, 0), "decimal(1,0)");
        for (p, s) in [(39, 0), (3, -2), (3, 5), (1000, 10), (200, 100), (300, 0)] {
            assert_eq!(word(p, s), "string", "numeric({p},{s})");
        }
        assert_eq!(catalog.column_type(oid::NUMERIC, -1, 0), ColumnType::text());
    }

    #[test]
    fn a_domain_is_its_base_type_whatever_it_is_nested_in() {
        let catalog = TypeCatalog(HashMap::from([
            (1007, array(oid::INT4)),
            (1231, array(oid::NUMERIC)),
            (90001, domain(oid::NUMERIC, typmod(12, 3), 0)),
            (90002, domain(90001, -1, 0)),
            (90003, domain(1007, -1, 1)),
            (90004, domain(1007, -1, 2)),
            (90005, array(90002)),
            (90006, domain(1231, typmod(5, 1), 0)),
            (90007, array(90003)),
        ]));
        let word = |oid| catalog.column_type(oid, -1, 0).word;
        assert_eq!(word(90002), "decimal(12,3)");
        assert_eq!(word(90003), "array");
        assert_eq!(word(90004), "string");
        let list = |precision, scale| Wire::List(Box::new(Wire::Numeric { precision, scale }));
        assert_eq!(catalog.column_type(90005, -1, 1).wire, list(12, 3));
        assert_eq!(catalog.column_type(90006, -1, 0).wire, list(5, 1));
        assert_eq!(catalog.column_type(1231, typmod(7, 7), 1).wire, list(7, 7));
        let nested = catalog.column_type(90007, -1, 1);
        assert_eq!(
            (nested.wire, nested.as_text),
            (Wire::List(Box::new(Wire::Text)), true),
            "an element that is itself an array becomes its text"
        );
    }

    #[test]
    fn declared_dimensions_decide_whether_an_array_is_a_list() {
        let catalog = TypeCatalog(HashMap::from([(1007, array(oid::INT4))]));
        assert_eq!(catalog.column_type(1007, -1, 0).word, "array");
        assert_eq!(catalog.column_type(1007, -1, 1).word, "array");
        assert_eq!(catalog.column_type(1007, -1, 2), ColumnType::text());
    }

    #[test]
    fn what_the_table_does_not_know_becomes_its_text() {
        let citext = TypeFacts { name: "citext".into(), send: "textsend".into(), ..facts('b') };
        let catalog = TypeCatalog(HashMap::from([(1, facts('e')), (2, facts('c')), (3, citext)]));
        let as_text = |oid| catalog.column_type(oid, -1, 0).as_text;
        assert!(!as_text(1) && as_text(2) && !as_text(3) && as_text(999_999));
        assert_eq!(
            ColumnType::text().select_expression("\"a\""),
            "CASE WHEN \"a\" IS DISTINCT FROM NULL THEN pg_catalog.format('%s', \"a\") END"
        );
    }

    #[test]
    fn extensions_stand_on_columns_and_on_items() {
        let name = |field: &Field| field.extension_type_name().map(str::to_owned);
        assert_eq!(name(&Wire::Uuid.field("u", true)).as_deref(), Some("arrow.uuid"));
        assert_eq!(name(&Wire::Jsonb.field("j", true)).as_deref(), Some("arrow.json"));
        let DataType::List(item) = Wire::List(Box::new(Wire::Json)).data_type() else {
            panic!("not a list");
        };
        assert_eq!(name(&item).as_deref(), Some("arrow.json"));
        assert!(item.is_nullable());
    }
}
