//! Rows told apart by what they hold, where who wrote them does not tell: of a
//! view, or after a table was rewritten.
//!
//! A load keeps a digest of each row at the largest values and apart, as long as
//! they are few. Of the rows with one digest that are there now, as many are new
//! as there are more than were read.

use std::collections::BTreeMap;

use proto::v1::relation::Kind;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::increment::Scope;
use super::mark::MOST_ROWS;
use crate::error::SourceError;
use crate::relation::ColumnInfo;
use crate::sql;

/// Names that no column of a user's has.
const DIGEST: &str = "\"~tidewater digest\"";
const PLACE: &str = "\"~tidewater place\"";
/// Hexadecimal digits of a digest that are kept: 96 bits.
const DIGITS: u32 = 24;

/// The rows at the largest values and apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Columns that the digests are of.
    pub columns: Vec<i16>,
    /// A digest of their types.
    pub types: String,
    /// Of each row, as often as it is there.
    pub rows: BTreeMap<String, i64>,
}

/// What the rows of `condition` hold; `None`: they are too many, or are not
/// read under the load's snapshot.
pub async fn of(scope: &Scope<'_>, condition: &str) -> Result<Option<Content>, SourceError> {
    if scope.stream.relation.kind == Kind::ForeignTable {
        return Ok(None);
    }
    let columns: Vec<&ColumnInfo> = scope.stream.columns.iter().collect();
    let query = format!(
        "SELECT {} FROM {} LIMIT {}",
        digest(&columns),
        scope.rows(condition),
        MOST_ROWS + 1
    );
    let doing = format!("looking at the newest rows of {}", scope.label());
    let found = scope.keeper.query(&query, &[]).await.map_err(SourceError::postgres(doing))?;
    if found.len() > MOST_ROWS {
        return Ok(None);
    }
    let mut rows = BTreeMap::new();
    for row in &found {
        *rows.entry(row.get(0)).or_default() += 1;
    }
    let attnums = columns.iter().map(|column| column.attnum).collect();
    Ok(Some(Content { columns: attnums, types: types(&columns), rows }))
}

impl Content {
    /// What follows FROM to read the rows of `certain`, and of the rows of
    /// `doubtful` those that were not there, with the condition that tells them.
    /// `None`: the columns are not what they were.
    pub fn new_rows(
        &self,
        scope: &Scope<'_>,
        certain: &str,
        doubtful: &str,
    ) -> Option<(String, String)> {
        let relation = &scope.stream.relation;
        let column = |attnum: &i16| relation.columns.iter().find(|it| it.attnum == *attnum);
        let columns: Vec<&ColumnInfo> = self.columns.iter().map(column).collect::<Option<_>>()?;
        if types(&columns) != self.types {
            return None;
        }
        let readable =
            relation.columns.iter().filter(|it| !relation.unreadable_columns.contains(&it.name));
        let list: String =
            readable.map(|column| format!("{}, ", sql::quote_ident(&column.name))).collect();
        let from = format!(
            "(SELECT {list}NULL AS {DIGEST}, 0 AS {PLACE} FROM {} \
             UNION ALL SELECT {list}{DIGEST}, row_number() OVER (PARTITION BY {DIGEST}) \
             FROM (SELECT {list}{} AS {DIGEST} FROM {}) AS d) AS t",
            scope.rows(certain),
            digest(&columns),
            scope.rows(doubtful)
        );
        let pairs: Vec<String> =
            self.rows.iter().map(|(row, n)| format!("('{row}', {n})")).collect();
        let known = match pairs.is_empty() {
            true => "0".to_owned(),
            false => format!(
                "COALESCE((SELECT k.n FROM (VALUES {}) AS k (digest, n) WHERE k.digest = {DIGEST}), 0)",
                pairs.join(", ")
            ),
        };
        Some((from, format!("{DIGEST} IS NULL OR {PLACE} > {known}")))
    }
}

/// The digest of a row, as SQL.
fn digest(columns: &[&ColumnInfo]) -> String {
    let names: Vec<String> = columns.iter().map(|column| sql::quote_ident(&column.name)).collect();
    format!(
        "left(encode(sha256(pg_catalog.textsend(ROW({})::text)), 'hex'), {DIGITS})",
        names.join(", ")
    )
}

fn types(columns: &[&ColumnInfo]) -> String {
    let mut hasher = Sha256::new();
    for column in columns {
        // Types among which a value keeps its text.
        let kind = match column.postgres_type.as_str() {
            "smallint" | "integer" | "bigint" => "integer",
            text if text == "text" || text.starts_with("character varying") => "text",
            other => other,
        };
        hasher.update(kind.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
