//! A table's columns as a shape has them: enough to tell, by their numbers, what
//! became of each of them since.
//!
//! ```text
//! .<column 1><column 2>…      one that was dropped: _
//!    kind (3): type, missing value, generated; the scale of a decimal
//!    name (3) · version (2) of its row in pg_attribute · precision of a decimal (1)
//! ```
//!
//! A number is never given twice: a column that was there then and is there now
//! was there all the while. While its version is the same, so is its name; else it
//! may have had any in between. A table of more columns than a commit should tell
//! has a digest of all of them instead, as all had before.

use std::collections::HashMap;

use tokio_postgres::{Client, Row};

use super::table::Table;
use crate::error::SourceError;

/// Columns that are told one by one, dropped ones among them.
const MOST_LISTED: usize = 400;
/// Letters of a column.
const LENGTH: usize = 9;
const DROPPED: u8 = b'_';

/// SQL of the columns of the relation `p.oid`: as they are listed, and their digest.
pub fn sql() -> [String; 2] {
    let hashed = |what: &str, letters: usize| {
        format!("left(encode(int4send(hashtext({what})), 'base64'), {letters})")
    };
    // A modifier is (precision << 16 | scale) + 4; readers take no other decimals.
    let scale = "((a.atttypmod - 4) & 2047)";
    let precision = "((a.atttypmod - 4) >> 16)";
    let decimal = format!(
        "a.atttypid IN (1700, 1231) AND a.atttypmod >= 4 AND {precision} <= 38 \
         AND {scale} <= {precision}"
    );
    let kind = format!(
        "format('%s %s %s %s', a.atttypid, a.attgenerated, a.attmissingval::text, \
         CASE WHEN {decimal} THEN {scale}::text \
              WHEN a.atttypid IN (1700, 1231) THEN 'm' || a.atttypmod END)"
    );
    let precision = format!(
        "CASE WHEN {decimal} THEN substr('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabc', \
         {precision} + 1, 1) ELSE '.' END"
    );
    let listed = format!(
        "(SELECT CASE WHEN count(*) <= {MOST_LISTED} THEN '.' || coalesce(string_agg(CASE \
           WHEN a.attisdropped THEN '_' ELSE {} || {} || {} || {precision} END, '' \
           ORDER BY a.attnum), '') END \
         FROM pg_attribute a WHERE a.attrelid = p.oid AND a.attnum > 0)",
        hashed(&kind, 3),
        hashed("a.attname::text", 3),
        hashed("a.xmin::text", 2)
    );
    let digest = "encode(sha256(convert_to(coalesce(( \
           SELECT string_agg(format('%s %I %s %s %s', a.attnum, a.attname, a.atttypid, \
             a.atttypmod, a.attmissingval::text), ',' ORDER BY a.attnum) FROM pg_attribute a \
           WHERE a.attrelid = p.oid AND a.attnum > 0 AND NOT a.attisdropped), ''), 'UTF8')), 'hex')";
    [listed, digest.to_owned()]
}

/// As they are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// As they are told; none: too many.
    listed: Option<String>,
    /// Over all of them.
    digest: String,
}

/// What became of the columns since they were told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Nothing was told.
    Unknown,
    /// They are the same.
    Same,
    /// Each, from number 1 on.
    Fates(Vec<Fate>),
}

/// What became of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// There then and now, under one name all the while.
    Same,
    /// There then and now, and something was done to it.
    Touched { renamed: bool, widened: bool },
    /// There then; dropped now.
    Gone,
    /// Dropped then.
    Never,
    /// Added since.
    New,
}

/// Why it is not certain what became of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncertain {
    /// They are not the same, and nothing more is known.
    Different,
    /// The column of this number has another type, or older rows read another value.
    Changed(i16),
    /// A column was added and dropped since.
    Passing,
}

struct Column<'a> {
    kind: &'a [u8],
    name: &'a [u8],
    version: &'a [u8],
    precision: u8,
}

impl Columns {
    /// Of a row with what [`sql`] selects.
    pub fn new(listed: Option<String>, digest: String) -> Self {
        Columns { listed, digest }
    }

    /// As they travel.
    pub fn text(&self) -> &str {
        self.listed.as_deref().unwrap_or(&self.digest)
    }

    /// What became of those that were told; empty: they were not.
    pub fn since(&self, told: &str) -> Result<Since, Uncertain> {
        if told.is_empty() {
            return Ok(Since::Unknown);
        }
        if told == self.text() || told == self.digest {
            return Ok(Since::Same);
        }
        let lists = self.listed.as_deref().and_then(list).zip(list(told));
        let (now, then) = lists.ok_or(Uncertain::Different)?;
        if now.len() < then.len() {
            return Err(Uncertain::Different);
        }
        let mut fates = Vec::with_capacity(now.len());
        for (at, now) in now.iter().enumerate() {
            let fate = match (then.get(at), now) {
                (Some(Some(then)), Some(now)) => {
                    if then.kind != now.kind || then.precision > now.precision {
                        return Err(Uncertain::Changed(i16::try_from(at + 1).unwrap_or(i16::MAX)));
                    }
                    let renamed = then.name != now.name;
                    let widened = then.precision != now.precision;
                    match renamed || widened || then.version != now.version {
                        true => Fate::Touched { renamed, widened },
                        false => Fate::Same,
                    }
                }
                (Some(Some(_)), None) => Fate::Gone,
                (Some(None), None) => Fate::Never,
                (Some(None), Some(_)) => return Err(Uncertain::Different),
                (None, Some(_)) => Fate::New,
                (None, None) => return Err(Uncertain::Passing),
            };
            fates.push(fate);
        }
        Ok(Since::Fates(fates))
    }
}

/// The columns that a text tells; `None`: it is no list.
fn list(text: &str) -> Option<Vec<Option<Column<'_>>>> {
    let mut rest = text.strip_prefix('.')?.as_bytes();
    let mut columns = Vec::new();
    while let Some(first) = rest.first() {
        if *first == DROPPED {
            columns.push(None);
            rest = &rest[1..];
            continue;
        }
        let (column, more) = rest.split_at_checked(LENGTH)?;
        columns.push(Some(Column {
            kind: &column[..3],
            name: &column[3..6],
            version: &column[6..8],
            precision: column[8],
        }));
        rest = more;
    }
    Some(columns)
}

impl Since {
    /// The numbers of those that were added.
    pub fn new_ones(&self) -> Vec<i16> {
        let Since::Fates(fates) = self else { return Vec::new() };
        let new = (1..).zip(fates).filter(|(_, fate)| **fate == Fate::New);
        new.map(|(attnum, _)| attnum).collect()
    }

    /// Whether rows that were there are whole only if nothing has written them anew.
    pub fn needs_same_files(&self) -> bool {
        let Since::Fates(fates) = self else { return false };
        let changes = |fate: &Fate| matches!(fate, Fate::New | Fate::Touched { widened: true, .. });
        fates.iter().any(changes)
    }

    /// Why rows that know their columns by names alone do not say the same any more.
    pub fn other_names(&self, table: &Table) -> Option<String> {
        let Since::Fates(fates) = self else { return None };
        let is_read = |attnum| table.stream.columns.iter().any(|read| read.attnum == attnum);
        let why = |(attnum, fate): (i16, &Fate)| match fate {
            Fate::Gone => Some("a column was dropped".to_owned()),
            Fate::Touched { renamed: true, .. } if is_read(attnum) => {
                Some(format!("column {} was renamed", name(table, attnum)))
            }
            Fate::Touched { widened: true, .. } if is_read(attnum) => {
                Some(format!("the type of column {} was changed", name(table, attnum)))
            }
            _ => None,
        };
        let why = (1..).zip(fates).find_map(why)?;
        Some(format!("{why}, and what its destination holds knows columns by their names"))
    }
}

impl Uncertain {
    /// For people; `table`: as it is now.
    pub fn told(self, table: &Table) -> String {
        match self {
            Uncertain::Different => {
                "its columns, or the defaults of rows that are older, are not the same".to_owned()
            }
            Uncertain::Changed(attnum) => format!(
                "column {} has another type, or another value in rows that are older",
                name(table, attnum)
            ),
            Uncertain::Passing => "a column was added and dropped again".to_owned(),
        }
    }
}

/// For people.
pub fn name(table: &Table, attnum: i16) -> String {
    let columns = &table.stream.relation.columns;
    let column = columns.iter().find(|column| column.attnum == attnum);
    column.map_or_else(|| format!("number {attnum}"), |column| column.name.clone())
}

/// The columns of these tables, by namespace and name; of those that exist.
pub async fn of(
    client: &Client,
    namespaces: &[&str],
    names: &[&str],
) -> Result<HashMap<(String, String), Columns>, SourceError> {
    let [listed, digest] = sql();
    let query = format!(
        "SELECT n.nspname::text, p.relname::text, {listed}, {digest} \
         FROM pg_class p JOIN pg_namespace n ON n.oid = p.relnamespace \
         WHERE (n.nspname::text, p.relname::text) IN \
           (SELECT * FROM unnest($1::text[], $2::text[]))"
    );
    let rows = client.query(&query, &[&namespaces, &names]).await;
    let rows = rows.map_err(SourceError::postgres("reading the tables' columns"))?;
    let columns = |row: &Row| ((row.get(0), row.get(1)), Columns::new(row.get(2), row.get(3)));
    Ok(rows.iter().map(columns).collect())
}

/// Those of a relation's columns that have a value in rows that are older than they,
/// in itself or a partition: a root does not say it.
pub async fn filled(
    client: &Client,
    relation: u32,
    attnums: &[i16],
) -> Result<Vec<i16>, SourceError> {
    let query = "SELECT a.attnum FROM pg_attribute a \
         WHERE a.attrelid = $1::oid AND a.attnum = ANY ($2::int2[]) AND EXISTS ( \
           SELECT FROM (SELECT $1::oid AS oid \
             UNION SELECT relid::oid FROM pg_partition_tree($1::oid)) t \
           JOIN pg_attribute l ON l.attrelid = t.oid AND l.attname = a.attname \
           WHERE l.atthasmissing) ORDER BY a.attnum";
    let rows = client.query(query, &[&relation, &attnums]).await;
    let rows = rows.map_err(SourceError::postgres("reading what new columns have in old rows"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(listed: &str) -> Columns {
        Columns::new(Some(listed.to_owned()), format!("{:064}", listed.len()))
    }

    #[test]
    fn columns_that_are_not_dropped_or_added_are_told_by_their_numbers() {
        let told = ".kk1nn1v1.kk2nn2v2._kk3nn3v35kk4nn4v4.";
        let since = |now: &str| columns(now).since(told);
        assert_eq!(since(told), Ok(Since::Same));
        assert_eq!(columns(told).since(&columns(told).digest), Ok(Since::Same));
        assert_eq!(columns(told).since(""), Ok(Since::Unknown));
        // The second has another name, the third is wider, the fourth is dropped.
        let now = ".kk1nn1v1.kk2nnXv9._kk3nn3v57_kk5nn5v5.";
        let (renamed, widened) = (true, false);
        let fates = [
            Fate::Same,
            Fate::Touched { renamed, widened },
            Fate::Never,
            Fate::Touched { renamed: false, widened: true },
            Fate::Gone,
            Fate::New,
        ];
        let since_then = since(now).unwrap();
        assert_eq!(since_then, Since::Fates(fates.to_vec()));
        assert_eq!(since_then.new_ones(), [6]);
        assert!(since_then.needs_same_files());
    }

    #[test]
    fn what_is_not_certain_is_said() {
        let told = ".kk1nn1v1.kk2nn2v25_";
        let since = |now: &str| columns(now).since(told).unwrap_err();
        assert_eq!(since(".kk1nn1v1.kkXnn2v35_"), Uncertain::Changed(2));
        assert_eq!(since(".kk1nn1v1.kk2nn2v34_"), Uncertain::Changed(2));
        assert_eq!(since(".kk1nn1v1.kk2nn2v25__"), Uncertain::Passing);
        for now in [".kk1nn1v1.", ".kk1nn1v1.kk2nn2v25kk3nn3v3.", "nonsense"] {
            assert_eq!(since(now), Uncertain::Different, "{now}");
        }
        let digest = "0".repeat(64);
        assert_eq!(columns(told).since(&digest), Err(Uncertain::Different));
    }
}
