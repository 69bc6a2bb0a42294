//! Chunks as ranges of a column's values.
//!
//! Boundaries are values that the server picked from a sample; correctness
//! does not depend on them: ranges are half-open and meet, the first has no
//! lower bound and takes the nulls, the last has no upper bound. Text is
//! ordered by its bytes (COLLATE "C"), so that no collation's ties or versions
//! matter.

use super::stream::Stream;
use crate::connect::Session;
use crate::error::SourceError;
use crate::sql;

/// Types whose order the server keeps and whose text form reads back the same.
const TYPES: [&str; 11] = [
    "int2",
    "int4",
    "int8",
    "oid",
    "uuid",
    "text",
    "varchar",
    "date",
    "timestamp",
    "timestamptz",
    "numeric",
];
/// Of these, the ones with a collation.
const TEXTS: [&str; 2] = ["text", "varchar"];
/// How text is ordered.
const TEXT_ORDER: &str = " COLLATE \"C\"";
/// Pages that a sample should have: enough for a few thousand values.
const SAMPLE_PAGES: u64 = 2000;
/// Ranges at most, whatever the size.
const MAX_RANGES: u64 = 10_000;

/// What the ranges are to cover.
pub struct Within {
    /// What follows FROM.
    pub from: String,
    /// An SQL condition on its rows.
    pub members: String,
    /// Its pages; `None`: it cannot be sampled.
    pub sampled_pages: Option<u64>,
}

/// One chunk's values.
#[derive(Debug, PartialEq, Eq)]
pub struct Range {
    /// Inclusive, an SQL literal; empty: open.
    pub min: String,
    /// Exclusive, an SQL literal; empty: open.
    pub max: String,
    /// `None`: every row.
    pub condition: Option<String>,
}

/// About `wanted` ranges of `column`, of equal numbers of rows.
pub async fn ranges(
    keeper: &Session,
    stream: &Stream,
    column: &str,
    within: &Within,
    wanted: u64,
) -> Result<Vec<Range>, SourceError> {
    let label = stream.relation.label();
    let base_type = base_type(keeper, stream, column, "split_column").await?;
    if !TYPES.contains(&base_type.as_str()) {
        return Err(SourceError::Invalid {
            what: format!("{label} cannot be split by {column}, which is of type {base_type}"),
            remedy: format!(
                "choose a split_column of one of the types {}, or none: pages are then used",
                TYPES.join(", ")
            ),
        });
    }
    let mut key = sql::quote_ident(column);
    if TEXTS.contains(&base_type.as_str()) {
        key.push_str(TEXT_ORDER);
    }
    let boundaries = if wanted < 2 {
        Vec::new()
    } else {
        let wanted = wanted.min(MAX_RANGES);
        let filter = stream.filter.as_deref().unwrap_or("true");
        let query = boundary_query(&key, within, filter, wanted);
        let doing = format!("looking for ranges of {label}.{column}");
        let rows = keeper.query(&query, &[]).await.map_err(SourceError::postgres(doing))?;
        rows.iter().map(|row| row.get(0)).collect()
    };
    Ok(between(&key, &boundaries))
}

/// The type under the column's domains, if any; `setting` names the column.
pub async fn base_type(
    keeper: &Session,
    stream: &Stream,
    column: &str,
    setting: &str,
) -> Result<String, SourceError> {
    let query = "WITH RECURSIVE base AS ( \
           SELECT t.oid, t.typname, t.typtype, t.typbasetype FROM pg_catalog.pg_attribute a \
             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
             WHERE a.attrelid = $1 AND a.attname = $2 AND NOT a.attisdropped \
           UNION ALL SELECT t.oid, t.typname, t.typtype, t.typbasetype FROM base b \
             JOIN pg_catalog.pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd') \
         SELECT typname::text FROM base WHERE typtype <> 'd'";
    let label = stream.relation.label();
    let row = keeper
        .query_opt(query, &[&stream.relation.oid, &column])
        .await
        .map_err(SourceError::postgres(format!("looking up the type of {label}.{column}")))?;
    row.map(|row| row.get(0)).ok_or_else(|| SourceError::NotFound {
        what: format!("{label} has no column {column}"),
        remedy: format!("correct {setting} in streams.json"),
    })
}

/// The distinct values that part the rows, or a sample of them, into equal
/// shares, ascending.
fn boundary_query(key: &str, within: &Within, filter: &str, wanted: u64) -> String {
    let collation = if key.ends_with(TEXT_ORDER) { TEXT_ORDER } else { "" };
    let shares: Vec<String> =
        (1..wanted).map(|share| format!("{:.6}", share as f64 / wanted as f64)).collect();
    let Within { from, members, sampled_pages } = within;
    let sampled = match *sampled_pages {
        Some(pages) if pages > SAMPLE_PAGES => {
            let percent = 100.0 * SAMPLE_PAGES as f64 / pages as f64;
            format!(" TABLESAMPLE SYSTEM ({percent:.6}) REPEATABLE (1)")
        }
        _ => String::new(),
    };
    // Ordered by the values: a bare `b` would be the output column, their text.
    format!(
        "SELECT s.b::text FROM (SELECT DISTINCT unnest( \
           percentile_disc(ARRAY[{}]::float8[]) WITHIN GROUP (ORDER BY {key})) AS b \
           FROM {from}{sampled} WHERE ({members}) AND ({filter})) s \
         WHERE s.b IS NOT NULL ORDER BY s.b{collation}",
        shares.join(", ")
    )
}

/// The ranges between ascending boundaries.
fn between(key: &str, boundaries: &[String]) -> Vec<Range> {
    let literals: Vec<String> =
        boundaries.iter().map(|text| sql::quote_literal(text).trim_start().to_owned()).collect();
    let mut ranges = Vec::with_capacity(literals.len() + 1);
    for index in 0..=literals.len() {
        let min = index.checked_sub(1).map(|before| literals[before].clone());
        let max = literals.get(index).cloned();
        let condition = match (&min, &max) {
            (None, None) => None,
            (None, Some(max)) => Some(format!("({key} < {max} OR {key} IS NULL)")),
            (Some(min), Some(max)) => Some(format!("{key} >= {min} AND {key} < {max}")),
            (Some(min), None) => Some(format!("{key} >= {min}")),
        };
        let (min, max) = (min.unwrap_or_default(), max.unwrap_or_default());
        ranges.push(Range { min, max, condition });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet_and_nulls_belong_to_the_first() {
        let ranges = between("\"k\"", &["5".to_owned(), "it's".to_owned()]);
        let conditions: Vec<_> =
            ranges.iter().map(|range| range.condition.as_deref().unwrap()).collect();
        assert_eq!(
            conditions,
            [
                r#"("k" < '5' OR "k" IS NULL)"#,
                r#""k" >= '5' AND "k" < 'it''s'"#,
                r#""k" >= 'it''s'"#,
            ]
        );
        assert_eq!((ranges[0].min.as_str(), ranges[0].max.as_str()), ("", "'5'"));
        assert_eq!(between("k", &[])[0].condition, None);
    }
}
