//! What PostgreSQL itself says a table holds.
//!
//! The values are those of `COPY … TO STDOUT` in text form: the types' own
//! output functions, read by nothing of ours but the splitting into fields.
//! What the destination cannot represent becomes NULL here, by the rules of
//! the type table, so that the rest can be compared for equality.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::compare::{Cell, Row, Rows};
use crate::postgres::Database;

/// The settings under which text is compared.
const SETTINGS: &str =
    "SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET timezone = 'UTC';
SET extra_float_digits = 3; SET bytea_output = 'hex'; SET client_encoding = 'UTF8';
";

/// A column as the catalog describes it, domains resolved to their base type.
#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    /// Name at the source.
    pub name: String,
    /// `pg_type.typname` of the base type; of an array, of its element.
    pub base: String,
    /// typmod of the base type or of the array's element; -1: none.
    pub typmod: i32,
    /// Declared as an array of at most one dimension.
    pub list: bool,
    /// Declared as an array of more: kept as text.
    pub dimensions_as_text: bool,
    /// What separates elements in an array's text.
    pub delimiter: String,
    /// The column's comment; fixtures state the expected type word there.
    pub comment: Option<String>,
}

/// A relation's columns, in attnum order.
pub fn columns(database: &Database, relation: &str) -> Result<Vec<Column>> {
    let sql = format!(
        "WITH RECURSIVE resolved AS (
           SELECT a.attnum, a.attname, a.atttypid AS type, a.atttypmod AS typmod, a.attndims::int AS ndims
           FROM pg_attribute a
           WHERE a.attrelid = $r${relation}$r$::regclass AND a.attnum > 0 AND NOT a.attisdropped
         UNION ALL
           SELECT r.attnum, r.attname, t.typbasetype,
                  CASE WHEN r.typmod = -1 THEN t.typtypmod ELSE r.typmod END,
                  greatest(r.ndims, t.typndims)
           FROM resolved r JOIN pg_type t ON t.oid = r.type AND t.typtype = 'd'
         ), element AS (
           SELECT r.attnum, r.attname, r.ndims, a.typmod, a.is_array, a.type
           FROM resolved r JOIN pg_type t ON t.oid = r.type AND t.typtype <> 'd',
           LATERAL (WITH RECURSIVE down AS (
               SELECT CASE WHEN i.is_array THEN t.typelem ELSE t.oid END AS type, i.is_array, r.typmod
               FROM (SELECT t.typelem <> 0 AND t.typlen = -1
                            AND t.typname NOT IN ('int2vector', 'oidvector') AS is_array) i
             UNION ALL
               SELECT e.typbasetype, d.is_array, CASE WHEN d.typmod = -1 THEN e.typtypmod ELSE d.typmod END
               FROM down d JOIN pg_type e ON e.oid = d.type AND e.typtype = 'd'
             ) SELECT d.type, d.typmod, d.is_array FROM down d JOIN pg_type e ON e.oid = d.type AND e.typtype <> 'd') a
         )
         SELECT coalesce(json_agg(json_build_object(
             'name', e.attname, 'base', t.typname, 'typmod', e.typmod,
             'list', e.is_array AND e.ndims <= 1, 'dimensions_as_text', e.is_array AND e.ndims > 1,
             'delimiter', t.typdelim,
             'comment', col_description($r${relation}$r$::regclass, e.attnum)) ORDER BY e.attnum), '[]')
         FROM element e JOIN pg_type t ON t.oid = e.type"
    );
    let text = database.psql(&sql)?;
    serde_json::from_str(&text).with_context(|| format!("columns of {relation}: {text}"))
}

impl Column {
    /// The word that streams.json has for it, by the type table.
    pub fn word(&self) -> String {
        if self.list {
            return "array".to_owned();
        }
        if self.dimensions_as_text {
            return "string".to_owned();
        }
        match self.base.as_str() {
            "bool" => "boolean",
            "int2" | "int4" => "integer_small",
            "int8" | "oid" => "integer",
            "float4" => "number_small",
            "float8" => "number",
            "numeric" => match decimal(self.typmod) {
                Some((precision, scale)) => return format!("decimal({precision},{scale})"),
                None => "string",
            },
            base @ ("date" | "time" | "timestamp" | "timestamptz" | "uuid") => base,
            "bytea" => "binary",
            "json" | "jsonb" => "json",
            _ => "string",
        }
        .to_owned()
    }
}

/// All rows of `relation`.
pub fn table(database: &Database, relation: &str) -> Result<Rows> {
    let columns = columns(database, relation)?;
    rows(database, &columns, &format!("SELECT * FROM {relation}"))
}

/// The rows of a query that yields exactly `columns`.
pub fn rows(database: &Database, columns: &[Column], query: &str) -> Result<Rows> {
    let text = database
        .server
        .psql_raw(&database.name, &format!("{SETTINGS}COPY ({query}) TO STDOUT;"))?;
    let mut rows = Vec::new();
    for line in text.split_terminator('\n') {
        rows.push(row(line, columns)?);
    }
    Ok(Rows { columns: columns.iter().map(|column| column.name.clone()).collect(), rows })
}

fn row(line: &str, columns: &[Column]) -> Result<Row> {
    if columns.is_empty() {
        return Ok(Row::new());
    }
    let fields: Vec<&str> = line.split('\t').collect();
    if fields.len() != columns.len() {
        bail!("{} fields for {} columns: {line:?}", fields.len(), columns.len());
    }
    fields.iter().zip(columns).map(|(field, column)| cell(field, column)).collect()
}

fn cell(field: &str, column: &Column) -> Result<Cell> {
    if field == "\\N" {
        return Ok(Cell::Null);
    }
    let text = unescape(field);
    match (column.list, column.dimensions_as_text) {
        (true, _) => list(&text, column),
        (false, true) => Ok(Cell::Text(text)),
        (false, false) => Ok(representable(text, column)),
    }
}

/// COPY's text escapes (its output uses no others).
fn unescape(field: &str) -> String {
    if !field.contains('\\') {
        return field.to_owned();
    }
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('v') => '\u{b}',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    text
}

/// The cell, or NULL for what the destination's type cannot hold. Floats are
/// their bits: PostgreSQL does not always print the shortest digits.
fn representable(text: String, column: &Column) -> Cell {
    match (column.base.as_str(), text.parse::<f32>(), text.parse::<f64>()) {
        ("float4" | "float8", Ok(value), _) if value.is_nan() => return Cell::text("NaN"),
        ("float4", Ok(value), _) => return Cell::Text(format!("{:#010x}", value.to_bits())),
        ("float8", _, Ok(value)) => return Cell::Text(format!("{:#018x}", value.to_bits())),
        _ => {}
    }
    let holds = match column.base.as_str() {
        "date" => !text.contains("infinity"),
        "timestamp" | "timestamptz" => !text.contains("infinity") && within_micros(&text),
        "time" => text != "24:00:00",
        "numeric" => decimal(column.typmod).is_none() || !text.contains(['N', 'I']),
        _ => true,
    };
    if holds { Cell::Text(text) } else { Cell::Null }
}

/// (precision, scale) of a numeric whose typmod makes it a decimal:
/// 0 ≤ scale ≤ precision ≤ 38.
pub fn decimal(typmod: i32) -> Option<(i32, i32)> {
    let bits = typmod.checked_sub(4).filter(|bits| *bits >= 0)?;
    let precision = (bits >> 16) & 0xffff;
    // Eleven bits, signed.
    let scale = ((bits & 0x7ff) ^ 1024) - 1024;
    ((0..=precision).contains(&scale) && precision <= 38).then_some((precision, scale))
}

/// Whether microseconds since 1970 fit into 64 bits. The last one that does is
/// in January 294247; PostgreSQL goes on to 294276.
fn within_micros(text: &str) -> bool {
    let last = "294247-01-10 04:00:54.775807";
    let text = text.trim_end_matches("+00");
    text.ends_with("BC") || text.find('-').is_none_or(|year| year < 6) || text <= last
}

/// The elements of an array's text; NULL for one of several dimensions or with
/// a lower bound of its own.
fn list(text: &str, column: &Column) -> Result<Cell> {
    let Some(inner) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        // "[0:1]={…}"
        return Ok(Cell::Null);
    };
    if inner.is_empty() {
        return Ok(Cell::List(Vec::new()));
    }
    let delimiter = column.delimiter.chars().next().unwrap_or(',');
    let mut items = Vec::new();
    let mut chars = inner.chars().peekable();
    loop {
        let (mut item, mut quoted) = (String::new(), false);
        match chars.peek() {
            Some('{') => return Ok(Cell::Null),
            Some('"') => {
                quoted = true;
                chars.next();
                loop {
                    match chars.next().with_context(|| format!("an unclosed quote in {text:?}"))? {
                        '"' => break,
                        '\\' => item.extend(chars.next()),
                        other => item.push(other),
                    }
                }
            }
            _ => {
                while let Some(&c) = chars.peek()
                    && c != delimiter
                {
                    item.push(c);
                    chars.next();
                }
            }
        }
        items.push(match !quoted && item == "NULL" {
            true => Cell::Null,
            false => representable(item, column),
        });
        match chars.next() {
            None => return Ok(Cell::List(items)),
            Some(c) if c == delimiter => {}
            Some(other) => bail!("{other:?} after an element in {text:?}"),
        }
    }
}

/// A name at the destination: lower case, anything outside `[a-z0-9_]` is `_`.
pub fn destination_name(name: &str) -> String {
    name.to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '_' })
        .collect()
}
