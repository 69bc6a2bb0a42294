//! What an incremental load has read, so that the next one can tell what is new.
//!
//! Above the largest value M of the cursor everything is new. At M itself, and
//! among the rows apart, it is not the value that tells: rows with the same may
//! have been committed since. There it is the transaction that wrote the row
//! (`xmin`), held against what the snapshot S of the load could see:
//!
//! ```text
//!            horizon: the oldest that ran under S
//! ─── ended, all of it seen ───┃─── ended: seen · running: not ───┃── began later: not ──►
//!                              ┃   the ones seen are listed       ┃          transaction ids
//! ```
//!
//! A row version that is there now, below the horizon or of a listed
//! transaction, was there under S, with the same value: it has been read. One of
//! another transaction was not. So the list needs only the transactions of rows
//! at M or apart that are not below the horizon; ids of subtransactions stand in
//! it like others, which `pg_snapshot` leaves out.
//!
//! `xmin` has 32 bits, of which the newest number below S's end is taken. That is
//! right for every row until the id next to be given has gone around to the
//! oldest of the listed rows ([`Seen::until`]). It says nothing of another
//! relation or server, nor after the file was rewritten, nor of views.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::content::Content;
use super::cursor::Cursor;
use super::increment::Scope;
use crate::error::SourceError;

/// Transactions that are listed at most.
const MOST_LISTED: usize = 5000;
/// Files that are listed at most.
const MOST_FILES: usize = 1000;
/// Rows that are kept at most where they may have to be told apart by what they
/// hold.
pub const MOST_ROWS: usize = 500;
/// How far ids go before they come again.
const AROUND: i64 = 1 << 32;

/// Travels as JSON, for the next load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Of each cursor field.
    pub cursor: Vec<Reached>,
    /// The relation: `<system identifier>/<database>/<oid>`.
    pub relation: String,
    /// Absent: transactions do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// What those rows hold; absent: too many, or not needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The rows at the largest values were left to the next load.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held_back: bool,
}

/// How far one column's order was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub attnum: i16,
    #[serde(rename = "type")]
    pub base_type: String,
    /// PostgreSQL's text; absent: no row had a value.
    pub max: Option<String>,
}

/// What the snapshot could see of the rows at the largest values and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Every transaction below it had ended.
    pub horizon: i64,
    /// Others of which there are rows.
    pub transactions: Vec<i64>,
    /// True as long as the id next to be given is not above it.
    pub until: i64,
    /// Where those rows lie: oid of the table and its file.
    pub files: BTreeMap<u32, u32>,
}

/// Ids of transactions under the keeper's snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Xids {
    /// The oldest that was running.
    pub horizon: i64,
    /// No row that the snapshot sees is of this or a later one.
    pub next: i64,
}

impl Mark {
    /// What was seen, if that was of this relation.
    pub fn seen_in(&self, relation: &str) -> Option<&Seen> {
        self.seen.as_ref().filter(|_| self.relation == relation)
    }

    /// The largest values.
    pub fn largest(&self) -> Vec<Option<String>> {
        self.cursor.iter().map(|reached| reached.max.clone()).collect()
    }
}

impl Xids {
    pub async fn of(scope: &Scope<'_>) -> Result<Xids, SourceError> {
        let query = "SELECT pg_snapshot_xmin(s)::text::int8, pg_snapshot_xmax(s)::text::int8 \
             FROM pg_current_snapshot() s";
        let row = scope.keeper.query_one(query, &[]).await;
        let row = row.map_err(SourceError::postgres("reading the load's snapshot"))?;
        Ok(Xids { horizon: row.get(0), next: row.get(1) })
    }

    /// The id in full of the transaction that wrote a row.
    fn wrote(self) -> String {
        let newest = self.next - 1;
        format!("({newest} - (({newest} - xmin::text::int8) & {}))", AROUND - 1)
    }
}

impl Seen {
    /// What was seen before as well: a standby may not have all of it yet.
    pub fn and(mut self, before: &Seen) -> Seen {
        let still = before.transactions.iter().filter(|listed| **listed >= self.horizon);
        self.transactions.extend(still);
        self.transactions.sort_unstable();
        self.transactions.dedup();
        self
    }

    /// Rows that were seen, as SQL.
    pub fn condition(&self, now: Xids) -> String {
        if self.files.is_empty() {
            return "false".to_owned();
        }
        let list = |ids: Vec<String>| ids.join(", ");
        let tables = list(self.files.keys().map(u32::to_string).collect());
        let (wrote, horizon) = (now.wrote(), self.horizon);
        // Ids below 3 are no transactions': such a row was always there.
        let mut wrote_before = format!("xmin::text::int8 < 3 OR {wrote} < {horizon}");
        if !self.transactions.is_empty() {
            let listed = list(self.transactions.iter().map(i64::to_string).collect());
            wrote_before.push_str(&format!(" OR {wrote} IN ({listed})"));
        }
        format!("tableoid IN ({tables}) AND ({wrote_before})")
    }
}

/// The largest values that there are; those of before where nothing is above.
pub async fn largest(
    scope: &Scope<'_>,
    cursor: &Cursor,
    before: Option<&Mark>,
) -> Result<Vec<Option<String>>, SourceError> {
    let mut largest = Vec::with_capacity(cursor.0.len());
    for (at, column) in cursor.0.iter().enumerate() {
        let known = before.and_then(|mark| mark.cursor.get(at)?.max.clone());
        let name = column.quoted();
        let mut condition = cursor.ordered(at);
        if let Some(known) = &known {
            condition.push_str(&format!(" AND {name} >= {}", column.literal(known)));
        }
        // Under its own name, the text would be what is ordered.
        let query = format!(
            "SELECT {name}::text AS \"~largest\" FROM {} ORDER BY {name} DESC LIMIT 1",
            scope.rows(&condition)
        );
        let doing = format!("looking for the largest {} of {}", column.name, scope.label());
        let row = scope.keeper.query_opt(&query, &[]).await;
        let row = row.map_err(SourceError::postgres(doing))?;
        largest.push(row.map(|row| row.get(0)).or(known));
    }
    Ok(largest)
}

/// What the snapshot sees of the rows of `condition`; `None`: too many
/// transactions or tables to be listed.
pub async fn seen(scope: &Scope<'_>, condition: &str) -> Result<Option<Seen>, SourceError> {
    let xids = Xids::of(scope).await?;
    let (wrote, horizon) = (xids.wrote(), xids.horizon);
    let query = format!(
        "SELECT array_agg(DISTINCT tableoid), \
           (array_agg(DISTINCT {wrote}) \
             FILTER (WHERE {wrote} >= {horizon} AND xmin::text::int8 >= 3))[1:{}], \
           min({wrote}) FILTER (WHERE xmin::text::int8 >= 3) \
         FROM {}",
        MOST_LISTED + 1,
        scope.rows(condition)
    );
    let doing = format!("looking at the newest rows of {}", scope.label());
    let row = scope.keeper.query_one(&query, &[]).await.map_err(SourceError::postgres(doing))?;
    let tables: Vec<u32> = row.get::<_, Option<_>>(0).unwrap_or_default();
    let transactions: Vec<i64> = row.get::<_, Option<_>>(1).unwrap_or_default();
    if transactions.len() > MOST_LISTED || tables.len() > MOST_FILES {
        return Ok(None);
    }
    let oldest: Option<i64> = row.get(2);
    Ok(Some(Seen {
        horizon,
        transactions,
        until: oldest.unwrap_or(xids.next) + AROUND,
        files: files(scope, &tables).await?,
    }))
}

/// Whether what was seen then can be told from what is there now.
pub async fn still_tells(scope: &Scope<'_>, seen: &Seen, now: Xids) -> Result<bool, SourceError> {
    if now.next > seen.until {
        return Ok(false);
    }
    let tables: Vec<u32> = seen.files.keys().copied().collect();
    let files = files(scope, &tables).await?;
    // A table that is gone has no rows to be told apart.
    Ok(files.iter().all(|(table, file)| seen.files.get(table) == Some(file)))
}

/// The file of each table that there is.
async fn files(scope: &Scope<'_>, tables: &[u32]) -> Result<BTreeMap<u32, u32>, SourceError> {
    let query = "SELECT t, pg_relation_filenode(t) FROM unnest($1::oid[]) t \
                 WHERE pg_relation_filenode(t) IS NOT NULL";
    let doing = format!("looking for the files of {}", scope.label());
    let rows = scope.keeper.query(query, &[&tables]).await.map_err(SourceError::postgres(doing))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_as_it_is_written() {
        let seen = Seen {
            horizon: 800,
            transactions: vec![801, 805],
            until: 4_294_968_000,
            files: [(16384, 16390)].into(),
        };
        let reached =
            Reached { attnum: 2, base_type: "text".into(), max: Some("it's \"x\"".into()) };
        let mark = Mark {
            cursor: vec![reached],
            relation: "7/5/16384".into(),
            seen: Some(seen),
            content: Some(Content {
                columns: vec![1, 2],
                types: "t".into(),
                rows: [("a".to_owned(), 2)].into(),
            }),
            held_back: false,
        };
        let text = serde_json::to_string(&mark).unwrap();
        assert_eq!(serde_json::from_str::<Mark>(&text).unwrap(), mark);
    }

    #[test]
    fn what_was_seen_before_stays_seen() {
        let seen = |horizon, transactions: &[i64]| Seen {
            horizon,
            transactions: transactions.to_vec(),
            ..Default::default()
        };
        let both = seen(90, &[95]).and(&seen(80, &[85, 93, 95]));
        assert_eq!(both, seen(90, &[93, 95]));
    }

    #[test]
    fn rows_of_tables_that_had_none_are_new() {
        let xids = Xids { horizon: 90, next: 100 };
        assert_eq!(Seen::default().condition(xids), "false");
        let seen = Seen { horizon: 80, files: [(7, 8)].into(), ..Default::default() };
        let condition = seen.condition(xids);
        assert!(condition.starts_with("tableoid IN (7) AND (xmin::text::int8 < 3 OR "));
        assert!(condition.ends_with("(99 - ((99 - xmin::text::int8) & 4294967295)) < 80)"));
    }
}
