//! Tables of random types with random rows, the same for the same seed.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// SQL that makes the tables, and what a test must know of them.
#[derive(Clone, Debug)]
pub struct RandomSchema {
    /// Statements for `psql`.
    pub sql: String,
    /// The tables made.
    pub tables: Vec<RandomTable>,
}

/// One of them; it lies in schema `public`.
#[derive(Clone, Debug)]
pub struct RandomTable {
    /// Its name, unquoted.
    pub name: String,
    /// A column that may serve as split column, unquoted.
    pub split_column: Option<String>,
}

impl RandomTable {
    /// The name as SQL writes it.
    pub fn relation(&self) -> String {
        format!("public.{}", identifier(&self.name))
    }
}

/// A quoted identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

const TYPES: &str = "CREATE TYPE color AS ENUM ('red', 'dark green', 'bl''ue');
CREATE TYPE spot AS (x int, label text);
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
";

/// A type without its array-ness.
#[derive(Clone, Copy, Debug)]
enum Scalar {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Decimal(u32, u32),
    Numeric,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Uuid,
    Bytea,
    Json,
    Jsonb,
    Text,
    Varchar,
    Char(u32),
    Interval,
    Inet,
    TimeTz,
    Money,
    Bit(u32),
    Range,
    Enum,
    Point,
    Composite,
    Domain,
}

struct Column {
    name: String,
    scalar: Scalar,
    array: bool,
    key: bool,
    nulls: f64,
}

/// Makes one to three tables.
pub fn generate(seed: u64) -> RandomSchema {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut sql, mut tables) = (TYPES.to_owned(), Vec::new());
    for number in 0..rng.random_range(1..=3) {
        let prefix = ["plain", "Mixed Case ", "we\"ird'", "ünï "].choose(&mut rng).copied();
        let name = format!("{}{number}", prefix.unwrap_or_default());
        tables.push(table(&mut rng, &mut sql, name));
    }
    RandomSchema { sql, tables }
}

fn table(rng: &mut StdRng, sql: &mut String, name: String) -> RandomTable {
    let mut columns: Vec<Column> =
        (0..rng.random_range(1..=20)).map(|number| column(rng, number)).collect();
    if rng.random_bool(0.7) {
        let keys = rng.random_range(1..=2);
        let can = |column: &&mut Column| !column.array && column.scalar.orders();
        for column in columns.iter_mut().filter(can).take(keys) {
            column.key = true;
            column.nulls = 0.0;
        }
    }
    let relation = format!("public.{}", identifier(&name));
    let definitions: Vec<String> = columns
        .iter()
        .map(|column| format!("{} {}", identifier(&column.name), column.sql_type()))
        .collect();
    let key: Vec<String> =
        columns.iter().filter(|column| column.key).map(|column| identifier(&column.name)).collect();
    let constraint = match key.is_empty() {
        true => String::new(),
        false => format!(", PRIMARY KEY ({})", key.join(", ")),
    };
    let _ = writeln!(
        sql,
        "CREATE TABLE {relation} (gone text, {}{constraint});",
        definitions.join(", ")
    );
    let _ = writeln!(sql, "ALTER TABLE {relation} DROP COLUMN gone;");
    let rows = *[0, 1, 7, 100, 400].choose(rng).unwrap_or(&1);
    let list: Vec<String> = (0..rows)
        .map(|_| {
            let cells: Vec<String> = columns.iter().map(|column| column.value(rng)).collect();
            format!("({})", cells.join(", "))
        })
        .collect();
    for rows in list.chunks(50) {
        let _ = writeln!(
            sql,
            "INSERT INTO {relation} VALUES {} ON CONFLICT DO NOTHING;",
            rows.join(",\n")
        );
    }
    let split = columns.iter().filter(|column| !column.array && column.scalar.orders());
    let split_column =
        split.map(|column| column.name.clone()).next().filter(|_| rng.random_bool(0.5));
    RandomTable { name, split_column }
}

fn column(rng: &mut StdRng, number: usize) -> Column {
    let names = ["col", "Mixed Case ", "sel\"ect", "ünï", "a.b-", "x'y ", "order%"];
    let name = format!("{}{number}", names.choose(rng).copied().unwrap_or("col"));
    let nulls = *[0.0, 0.1, 0.9].choose(rng).unwrap_or(&0.1);
    Column { name, scalar: Scalar::any(rng), array: rng.random_bool(0.25), key: false, nulls }
}

impl Column {
    fn sql_type(&self) -> String {
        format!("{}{}", self.scalar.sql_type(), if self.array { "[]" } else { "" })
    }

    fn value(&self, rng: &mut StdRng) -> String {
        if rng.random_bool(self.nulls) {
            return "NULL".to_owned();
        }
        if !self.array {
            // Now and then what the destination cannot hold.
            return match self
                .scalar
                .unrepresentable()
                .filter(|_| !self.key && rng.random_bool(0.03))
            {
                Some(value) => format!("'{value}'::{}", self.sql_type()),
                None => self.scalar.value(rng),
            };
        }
        if rng.random_bool(0.05) {
            let item = self.scalar.value(rng);
            return format!("ARRAY[[{item}]]::{}", self.sql_type());
        }
        let items: Vec<String> = (0..rng.random_range(0..5))
            .map(|_| if rng.random_bool(0.2) { "NULL".to_owned() } else { self.scalar.value(rng) })
            .collect();
        format!("ARRAY[{}]::{}", items.join(", "), self.sql_type())
    }
}

impl Scalar {
    fn any(rng: &mut StdRng) -> Scalar {
        use Scalar::*;
        let precision = rng.random_range(1..=38);
        let decimal = Decimal(precision, rng.random_range(0..=precision));
        let (char, bit) = (Char(rng.random_range(1..8)), Bit(rng.random_range(1..70)));
        let all = [
            Bool,
            Int2,
            Int4,
            Int8,
            Oid,
            Float4,
            Float8,
            decimal,
            Numeric,
            Date,
            Time,
            Timestamp,
            TimestampTz,
            Uuid,
            Bytea,
            Json,
            Jsonb,
            Text,
            Varchar,
            char,
            Interval,
            Inet,
            TimeTz,
            Money,
            bit,
            Range,
            Enum,
            Point,
            Composite,
            Domain,
        ];
        *all.choose(rng).unwrap_or(&Text)
    }

    /// Whether it may be a key or a split column here.
    fn orders(self) -> bool {
        use Scalar::*;
        matches!(self, Int2 | Int4 | Int8 | Uuid | Text | Varchar | Date | Timestamp | TimestampTz)
    }

    fn unrepresentable(self) -> Option<&'static str> {
        match self {
            Scalar::Date | Scalar::Timestamp => Some("infinity"),
            Scalar::TimestampTz => Some("-infinity"),
            Scalar::Time => Some("24:00:00"),
            Scalar::Decimal(..) => Some("NaN"),
            _ => None,
        }
    }

    fn sql_type(self) -> String {
        use Scalar::*;
        match self {
            Decimal(precision, scale) => return format!("numeric({precision},{scale})"),
            Char(length) => return format!("char({length})"),
            Bit(length) => return format!("bit({length})"),
            Bool => "bool",
            Int2 => "int2",
            Int4 => "int4",
            Int8 => "int8",
            Oid => "oid",
            Float4 => "float4",
            Float8 => "float8",
            Numeric => "numeric",
            Date => "date",
            Time => "time",
            Timestamp => "timestamp",
            TimestampTz => "timestamptz",
            Uuid => "uuid",
            Bytea => "bytea",
            Json => "json",
            Jsonb => "jsonb",
            Text => "text",
            Varchar => "varchar",
            Interval => "interval",
            Inet => "inet",
            TimeTz => "timetz",
            Money => "money",
            Range => "int4range",
            Enum => "color",
            Point => "point",
            Composite => "spot",
            Domain => "percent",
        }
        .to_owned()
    }

    /// An SQL expression of this type.
    fn value(self, rng: &mut StdRng) -> String {
        format!("{}::{}", self.untyped(rng), self.sql_type())
    }

    fn untyped(self, rng: &mut StdRng) -> String {
        use Scalar::*;
        match self {
            Bool => format!("'{}'", rng.random_bool(0.5)),
            Int2 => format!("'{}'", rng.random::<i16>()),
            Int4 => format!("'{}'", rng.random::<i32>() >> rng.random_range(0..31)),
            Int8 => format!("'{}'", rng.random::<i64>() >> rng.random_range(0..63)),
            Oid => format!("'{}'", rng.random::<u32>()),
            Float4 => format!("'{:e}'", f32::from_bits(rng.random())),
            Float8 => match rng.random_bool(0.5) {
                true => format!("'{:e}'", f64::from_bits(rng.random())),
                false => {
                    format!("'{}'", f64::from(rng.random_range(-1_000_000..1_000_000)) / 1000.0)
                }
            },
            Decimal(precision, scale) => decimal(rng, precision - scale, scale),
            Numeric => match rng.random_range(0..20) {
                0 => "'NaN'".to_owned(),
                1 => "'-Infinity'".to_owned(),
                _ => {
                    let (whole, fraction) = (rng.random_range(1..60), rng.random_range(0..60));
                    decimal(rng, whole, fraction)
                }
            },
            Date => date(rng),
            Time => time(rng),
            Timestamp | TimestampTz => format!("({} + {})", date(rng), time(rng)),
            Uuid => format!("'{:032x}'", rng.random::<u128>()),
            Bytea => {
                let length = rng.random_range(0..20);
                let bytes: String =
                    (0..length).map(|_| format!("{:02x}", rng.random::<u8>())).collect();
                format!("'\\x{bytes}'")
            }
            Json | Jsonb => {
                let (key, text) = (text(rng), text(rng));
                let number = rng.random_range(-100..100);
                literal(&serde_json::json!({ key: [number, text, null, true] }).to_string())
            }
            Text | Varchar => literal(&text(rng)),
            Char(length) => literal(&text(rng).chars().take(length as usize).collect::<String>()),
            Interval => format!(
                "(interval '{} months {} days' + {} * interval '1 microsecond')",
                rng.random_range(-2000..2000),
                rng.random_range(-2000..2000),
                rng.random::<i64>() >> rng.random_range(10..40)
            ),
            Inet => format!(
                "'{}.{}.0.{}/{}'",
                rng.random::<u8>(),
                rng.random::<u8>(),
                rng.random::<u8>(),
                rng.random_range(0..=32)
            ),
            TimeTz => format!("({} AT TIME ZONE '{:+}')", time(rng), rng.random_range(-12..=12)),
            Money => format!("'{}'", f64::from(rng.random::<i32>()) / 100.0),
            Bit(length) => {
                let bits: String =
                    (0..length).map(|_| if rng.random_bool(0.5) { '1' } else { '0' }).collect();
                format!("B'{bits}'")
            }
            Range => {
                let low = rng.random_range(-1000..1000);
                format!("'[{low},{})'", low + rng.random_range(0..50))
            }
            Enum => literal(["red", "dark green", "bl'ue"].choose(rng).unwrap_or(&"red")),
            Point => format!("'({:e},{})'", f64::from_bits(rng.random()), rng.random_range(-9..9)),
            Composite => match rng.random_bool(0.3) {
                true => "ROW(NULL, NULL)".to_owned(),
                false => format!("ROW({}, {})", rng.random::<i16>(), literal(&text(rng))),
            },
            Domain => format!("'{}'", rng.random_range(0..=100)),
        }
    }
}

fn decimal(rng: &mut StdRng, whole: u32, fraction: u32) -> String {
    let mut digits = |count: u32| -> String {
        let count = rng.random_range(0..=count);
        (0..count).map(|_| char::from(b'0' + rng.random_range(0..10u8))).collect()
    };
    let (whole, fraction) = (digits(whole), digits(fraction));
    let sign = if rng.random_bool(0.5) { "-" } else { "" };
    format!("'{sign}0{whole}.{fraction}0'")
        .replace(".0'", if fraction.is_empty() { "'" } else { ".0'" })
}

/// Any day that a timestamp of the destination can hold, mostly recent ones.
fn date(rng: &mut StdRng) -> String {
    let days = match rng.random_bool(0.2) {
        true => rng.random_range(-2_451_000..106_741_000),
        false => rng.random_range(-20_000..20_000),
    };
    format!("(date '2000-01-01' + {days})")
}

fn time(rng: &mut StdRng) -> String {
    let micros = rng.random_range(0..86_400_000_000_i64);
    let seconds = micros / 1_000_000;
    format!(
        "time '{:02}:{:02}:{:02}.{:06}'",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        micros % 1_000_000
    )
}

fn text(rng: &mut StdRng) -> String {
    let alphabet: Vec<char> =
        "abcXYZ 019\n\t\r\\'\"|,{}()NULLäß😀中\u{1}\u{7f}/.%$".chars().collect();
    let length = rng.random_range(0..12);
    (0..length).filter_map(|_| alphabet.choose(rng).copied()).collect()
}
