//! Rows against rows: as multisets, the first differences first.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use anyhow::{Result, bail};

/// One value in PostgreSQL's own text, a float as its bits in hexadecimal, so
/// that equal cells are equal bits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// SQL's NULL.
    Null,
    /// The type's text output.
    Text(String),
    /// The elements of a one-dimensional array.
    List(Vec<Cell>),
}

impl Cell {
    /// A text cell.
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Null => f.write_str("NULL"),
            Cell::Text(text) if text.chars().count() > 120 => {
                let head: String = text.chars().take(100).collect();
                write!(f, "{head:?}… ({} bytes)", text.len())
            }
            Cell::Text(text) => write!(f, "{text:?}"),
            Cell::List(items) => {
                f.write_char('[')?;
                for (position, item) in items.iter().take(20).enumerate() {
                    write!(f, "{}{item}", if position > 0 { ", " } else { "" })?;
                }
                f.write_str(if items.len() > 20 { ", …]" } else { "]" })
            }
        }
    }
}

/// One row, a cell per column.
pub type Row = Vec<Cell>;

/// Rows with the names of their columns.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Column names, as many as each row has cells.
    pub columns: Vec<String>,
    /// In no order that matters.
    pub rows: Vec<Row>,
}

impl Rows {
    /// The same rows with these columns only, in this order.
    pub fn project(&self, columns: &[String]) -> Result<Rows> {
        let mut places = Vec::with_capacity(columns.len());
        for column in columns {
            match self.columns.iter().position(|known| known == column) {
                Some(place) => places.push(place),
                None => bail!("no column {column:?}; there are {:?}", self.columns),
            }
        }
        let rows = self.rows.iter().map(|row| places.iter().map(|&at| row[at].clone()).collect());
        Ok(Rows { columns: columns.to_vec(), rows: rows.collect() })
    }

    /// The cells of one column.
    pub fn column(&self, name: &str) -> Result<Vec<Cell>> {
        Ok(self.project(&[name.to_owned()])?.rows.into_iter().flatten().collect())
    }
}

/// Fails unless both hold the same rows, each as often, under the same column
/// names. `key` (column names; may be empty) pairs rows for the report.
pub fn same_rows(expected: &Rows, found: &Rows, key: &[String]) -> Result<()> {
    if expected.columns != found.columns {
        bail!("columns differ\n  expected {:?}\n  found    {:?}", expected.columns, found.columns);
    }
    let mut missing = counted(&expected.rows);
    let mut extra = BTreeMap::new();
    for (row, count) in counted(&found.rows) {
        let known = missing.remove(row).unwrap_or(0);
        if known > count {
            missing.insert(row, known - count);
        } else if count > known {
            extra.insert(row, count - known);
        }
    }
    if missing.is_empty() && extra.is_empty() {
        return Ok(());
    }
    bail!(
        "{} rows expected, {} found: {} missing, {} extra\n{}",
        expected.rows.len(),
        found.rows.len(),
        missing.values().sum::<usize>(),
        extra.values().sum::<usize>(),
        report(&expected.columns, &missing, extra, key)
    )
}

fn counted(rows: &[Row]) -> BTreeMap<&Row, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row).or_default() += 1;
    }
    counts
}

/// At most this many lines of differences.
const REPORTED: usize = 40;

fn report(
    columns: &[String],
    missing: &BTreeMap<&Row, usize>,
    mut extra: BTreeMap<&Row, usize>,
    key: &[String],
) -> String {
    let places: Vec<usize> = columns
        .iter()
        .enumerate()
        .filter(|(_, name)| key.contains(name))
        .map(|(at, _)| at)
        .collect();
    let key_of = |row: &Row| -> Row { places.iter().map(|&at| row[at].clone()).collect() };
    let mut text = String::new();
    let mut lines = 0;
    for (&row, &count) in missing {
        let twin =
            extra.keys().copied().find(|other| !places.is_empty() && key_of(other) == key_of(row));
        match twin {
            Some(other) => {
                extra.remove(other);
                for at in (0..columns.len()).filter(|&at| row[at] != other[at]) {
                    let key = show(&key_of(row));
                    let _ = writeln!(
                        text,
                        "  {} at {key}: expected {}, found {}",
                        columns[at], row[at], other[at]
                    );
                    lines += 1;
                }
            }
            None => {
                let _ = writeln!(text, "  missing ×{count}: {}", show(row));
                lines += 1;
            }
        }
        if lines >= REPORTED {
            return text + "  …\n";
        }
    }
    for (row, count) in extra.into_iter().take(REPORTED - lines) {
        let _ = writeln!(text, "  extra ×{count}: {}", show(row));
    }
    text
}

fn show(row: &Row) -> String {
    let cells: Vec<String> = row.iter().take(12).map(Cell::to_string).collect();
    format!("({}{})", cells.join(", "), if row.len() > 12 { ", …" } else { "" })
}
