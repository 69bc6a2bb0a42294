//! What an incremental load reads: everything the first time, then what its
//! mark lacks.
//!
//! ```text
//!   before:  ───────── read ────────────┤ M        at M, apart: what was not seen
//!   now:                                │ M ──── above M: all ────┤ M'
//!            what is committed here     ▲
//!            later ("late") is not read │ rows at M: `super::mark` tells
//! ```
//!
//! Everything is read under one snapshot and the mark is made under the same, so
//! a row is either read now or new to the next load: neither lost nor doubled,
//! but for rows that are committed below M.
//!
//! Where a row that comes again takes its own place ([`v1::Incremental::replaces`]),
//! doubt about the rows at M is answered by reading them again. Elsewhere it is by
//! what they hold ([`super::content`]), as long as they are few; more of them, of a
//! relation whose rows do not say which transaction wrote them (a view), and those
//! of a foreign table, which is not read under the snapshot, are held back until
//! there is a larger value: from then on the value tells.

use proto::v1;
use proto::v1::relation::Kind;

use super::content::{self, Content};
use super::cursor::Cursor;
use super::mark::{self, Mark, Reached, Xids};
use super::stream::Stream;
use crate::connect::Session;
use crate::error::SourceError;

/// What is looked at, under the keeper's snapshot.
pub struct Scope<'a> {
    pub keeper: &'a Session,
    pub stream: &'a Stream,
    /// What follows FROM.
    pub from: String,
    /// An SQL condition on its rows.
    pub members: String,
    /// Tables that the rows lie in.
    pub tables: Vec<u32>,
    /// As [`crate::identity::database`] has it.
    pub database: &'a str,
}

/// Which rows are to be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All, if there is no condition.
    Everything(Option<String>),
    /// A few: what follows FROM, and a condition.
    Only(String, String),
    /// There are none.
    Nothing,
}

/// An incremental load of one stream.
pub struct Increment {
    pub wanted: Wanted,
    /// What the load brings the table to.
    pub mark: Mark,
    /// The same for people.
    pub values: Vec<v1::CursorValue>,
    pub notices: Vec<String>,
}

impl Scope<'_> {
    pub fn label(&self) -> String {
        self.stream.relation.label()
    }

    /// The stream's rows under a condition, as they follow FROM.
    pub fn rows(&self, condition: &str) -> String {
        let filter = self.stream.filter.as_deref().unwrap_or("true");
        format!("{} WHERE ({}) AND ({filter}) AND ({condition})", self.from, self.members)
    }

    async fn any(&self, condition: &str) -> Result<bool, SourceError> {
        self.any_of(&self.rows(condition)).await
    }

    async fn any_of(&self, rows: &str) -> Result<bool, SourceError> {
        let query = format!("SELECT EXISTS (SELECT FROM {rows})");
        let doing = format!("looking for new rows of {}", self.label());
        let row = self.keeper.query_one(&query, &[]).await;
        Ok(row.map_err(SourceError::postgres(doing))?.get(0))
    }

    fn relation(&self) -> String {
        format!("{}/{}", self.database, self.stream.relation.oid)
    }

    /// Whether rows say which transaction wrote them.
    async fn tells(&self) -> Result<bool, SourceError> {
        if !matches!(self.stream.relation.kind, Kind::Table | Kind::PartitionedTable) {
            return Ok(false);
        }
        let query = "SELECT COALESCE(bool_and(COALESCE(m.amname, '') = 'heap'), true) \
               AND has_column_privilege($2::oid, 'xmin', 'SELECT') \
               AND has_column_privilege($2::oid, 'tableoid', 'SELECT') \
             FROM unnest($1::oid[]) t JOIN pg_catalog.pg_class c ON c.oid = t \
             LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam";
        let doing = format!("looking at the tables of {}", self.label());
        let row = self.keeper.query_one(query, &[&self.tables, &self.stream.relation.oid]).await;
        Ok(row.map_err(SourceError::postgres(doing))?.get(0))
    }
}

/// What an incremental stream is to read.
pub async fn plan(scope: &Scope<'_>) -> Result<Increment, SourceError> {
    let cursor = Cursor::of(scope.keeper, scope.stream).await?;
    let wanted = scope.stream.incremental.as_ref();
    let replaces = wanted.is_some_and(|wanted| wanted.replaces);
    let before = wanted.and_then(|wanted| wanted.mark.as_ref());
    if let Some(before) = before {
        check_same(scope, &cursor, before)?;
    }
    let tells = scope.tells().await?;
    let largest = mark::largest(scope, &cursor, before).await?;
    let newest_now = newest(&cursor, &largest);
    let content = match replaces {
        true => None,
        false => content::of(scope, &newest_now).await?,
    };
    let hold_back = !replaces && !tells && content.is_none();
    let mut notices = Vec::new();
    let wanted = match before {
        None if hold_back => {
            let below = below(&cursor, &largest);
            Wanted::Everything(Some(format!("({below}) OR ({})", cursor.apart())))
        }
        None => Wanted::Everything(None),
        Some(before) if hold_back && waits(scope, &cursor, before, &largest)? => Wanted::Nothing,
        Some(before) => {
            let bound = match hold_back {
                true => below(&cursor, &largest),
                false => "true".to_owned(),
            };
            let (from, condition) =
                match fresh(scope, &cursor, before, replaces, &mut notices).await? {
                    Fresh::By { at_largest, apart } => {
                        let condition = after(&cursor, before, &at_largest, &apart);
                        let condition = format!("({condition}) AND ({bound})");
                        (scope.from.clone(), format!("({}) AND ({condition})", scope.members))
                    }
                    Fresh::ByContent(content) => {
                        let certain = after(&cursor, before, "false", "false");
                        let certain = format!("({certain}) AND ({bound})");
                        let doubtful = newest(&cursor, &before.largest());
                        let told = content.new_rows(scope, &certain, &doubtful);
                        told.ok_or_else(|| untold(scope, &cursor))?
                    }
                };
            let filter = scope.stream.filter.as_deref().unwrap_or("true");
            match scope.any_of(&format!("{from} WHERE ({filter}) AND ({condition})")).await? {
                true => Wanted::Only(from, condition),
                false => Wanted::Nothing,
            }
        }
    };
    let values = cursor.values(&largest);
    if let (Wanted::Nothing, Some(before)) = (&wanted, before) {
        return Ok(Increment { wanted, mark: before.clone(), values, notices });
    }
    let seen = match tells {
        true => mark::seen(scope, &newest_now).await?,
        false => None,
    };
    if tells && seen.is_none() && !replaces {
        return Err(SourceError::Busy {
            what: format!(
                "{}: too many transactions have written rows with the largest {} (or without \
                 one) while an older transaction is open",
                scope.label(),
                names(&cursor)
            ),
            remedy: "end the oldest transaction (pg_stat_activity, backend_xmin), or follow a \
                     column that is not NULL"
                .to_owned(),
        });
    }
    if hold_back {
        notices.push(format!(
            "{}: rows with the largest {} are read when there is a larger one: which of them are \
             new cannot be told",
            scope.label(),
            names(&cursor)
        ));
    }
    let relation = scope.relation();
    let seen_before = before.and_then(|before| before.seen_in(&relation));
    let seen = seen.map(|seen| match seen_before {
        Some(before) => seen.and(before),
        None => seen,
    });
    let reached = cursor.0.iter().zip(largest).map(|(column, max)| Reached {
        attnum: column.attnum,
        base_type: column.base_type.clone(),
        max,
    });
    let mark = Mark { cursor: reached.collect(), relation, seen, content, held_back: hold_back };
    Ok(Increment { wanted, mark, values, notices })
}

/// The mark must be of this cursor.
fn check_same(scope: &Scope<'_>, cursor: &Cursor, before: &Mark) -> Result<(), SourceError> {
    let other = |what: String| SourceError::Invalid {
        what: format!("{} was followed by another cursor: {what}", scope.label()),
        remedy: "clear-destination for this stream, then sync: everything is read anew (rows \
                 that only the destination still has are lost)"
            .to_owned(),
    };
    if cursor.0.len() != before.cursor.len() {
        return Err(other(format!("now by {}", names(cursor))));
    }
    for (column, reached) in cursor.0.iter().zip(&before.cursor) {
        if before.relation == scope.relation() && column.attnum != reached.attnum {
            return Err(other(format!("{} is not the column it was", column.name)));
        }
        if !column.agrees_with(&reached.base_type) {
            let (was, is) = (&reached.base_type, &column.base_type);
            return Err(other(format!("{} was {was}, now is {is}", column.name)));
        }
    }
    Ok(())
}

/// What is new among rows whose value does not tell.
enum Fresh<'a> {
    /// By conditions: of the rows at the largest values of before, and of those
    /// without a place in the order.
    By { at_largest: String, apart: String },
    /// By what they hold.
    ByContent(&'a Content),
}

async fn fresh<'a>(
    scope: &Scope<'_>,
    cursor: &Cursor,
    before: &'a Mark,
    replaces: bool,
    notices: &mut Vec<String>,
) -> Result<Fresh<'a>, SourceError> {
    let both = |condition: String| Fresh::By { at_largest: condition.clone(), apart: condition };
    let all = || both("true".to_owned());
    if before.held_back {
        if replaces {
            return Ok(all());
        }
        if scope.any(&cursor.apart()).await? {
            notices.push(format!(
                "{}: rows without {} are read by the first sync only: which of them are new \
                 cannot be told",
                scope.label(),
                names(cursor)
            ));
        }
        return Ok(Fresh::By { at_largest: "true".to_owned(), apart: "false".to_owned() });
    }
    let now = Xids::of(scope).await?;
    if let Some(seen) = before.seen_in(&scope.relation()) {
        if now.horizon < seen.horizon {
            return Err(SourceError::Busy {
                what: format!("the server is behind what has been read of {}", scope.label()),
                remedy: "a standby: wait until it has caught up; a server that was restored to an \
                         earlier time: clear-destination for this stream, then sync"
                    .to_owned(),
            });
        }
        if mark::still_tells(scope, seen, now).await? {
            return Ok(both(format!("NOT ({})", seen.condition(now))));
        }
    }
    if replaces || !scope.any(&newest(cursor, &before.largest())).await? {
        return Ok(all());
    }
    match &before.content {
        Some(content) => Ok(Fresh::ByContent(content)),
        None => Err(untold(scope, cursor)),
    }
}

/// Whether everything new has to wait: some of the rows at the largest values have
/// been read, and there are too many now to tell them.
fn waits(
    scope: &Scope<'_>,
    cursor: &Cursor,
    before: &Mark,
    largest: &[Option<String>],
) -> Result<bool, SourceError> {
    let same: Vec<bool> =
        before.cursor.iter().zip(largest).map(|(reached, now)| reached.max == *now).collect();
    match before.held_back {
        false if same.iter().all(|same| *same) => Ok(true),
        false if same.iter().any(|same| *same) => Err(untold(scope, cursor)),
        _ => Ok(false),
    }
}

fn untold(scope: &Scope<'_>, cursor: &Cursor) -> SourceError {
    SourceError::Invalid {
        what: format!(
            "which rows of {} with the largest {} (or without one) have been read before cannot \
             be told any more: the table was rewritten, made anew or restored, or was not synced \
             for very long",
            scope.label(),
            names(cursor)
        ),
        remedy: "clear-destination for this stream, then sync: everything is read anew (rows that \
                 only the destination still has are lost)"
            .to_owned(),
    }
}

/// Rows that come after a mark; `at_largest` and `apart`: which of those.
fn after(cursor: &Cursor, before: &Mark, at_largest: &str, apart: &str) -> String {
    let columns = cursor.0.iter().zip(&before.cursor).enumerate();
    let mut parts: Vec<String> = columns
        .map(|(at, (column, reached))| {
            let ordered = cursor.ordered(at);
            let Some(max) = &reached.max else { return format!("({ordered})") };
            let (name, max) = (column.quoted(), column.literal(max));
            // The outer bound is one that an index serves.
            format!("({ordered} AND {name} >= {max} AND ({name} > {max} OR {at_largest}))")
        })
        .collect();
    if apart != "false" {
        parts.push(format!("(({}) AND {apart})", cursor.apart()));
    }
    parts.join(" OR ")
}

/// Rows below the largest values.
fn below(cursor: &Cursor, largest: &[Option<String>]) -> String {
    let parts = at_each(cursor, largest, "<");
    if parts.is_empty() { "false".to_owned() } else { parts.join(" OR ") }
}

/// Rows at the largest values, and those apart.
fn newest(cursor: &Cursor, largest: &[Option<String>]) -> String {
    let mut parts = at_each(cursor, largest, "=");
    parts.push(format!("({})", cursor.apart()));
    parts.join(" OR ")
}

fn at_each(cursor: &Cursor, largest: &[Option<String>], operator: &str) -> Vec<String> {
    let columns = cursor.0.iter().zip(largest).enumerate();
    columns
        .filter_map(|(at, (column, max))| {
            let max = column.literal(max.as_ref()?);
            Some(format!("({} AND {} {operator} {max})", cursor.ordered(at), column.quoted()))
        })
        .collect()
}

fn names(cursor: &Cursor) -> String {
    let names: Vec<&str> = cursor.0.iter().map(|column| column.name.as_str()).collect();
    names.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::super::cursor::CursorColumn;
    use super::*;

    fn cursor() -> Cursor {
        let column = |name: &str, attnum, base_type: &str| CursorColumn {
            name: name.to_owned(),
            attnum,
            base_type: base_type.to_owned(),
        };
        Cursor(vec![column("a", 1, "int8"), column("b", 2, "date")])
    }

    fn mark(a: Option<&str>, b: Option<&str>) -> Mark {
        let reached = |attnum, base_type: &str, max: Option<&str>| Reached {
            attnum,
            base_type: base_type.to_owned(),
            max: max.map(str::to_owned),
        };
        let cursor = vec![reached(1, "int8", a), reached(2, "date", b)];
        Mark { cursor, relation: String::new(), seen: None, content: None, held_back: false }
    }

    #[test]
    fn what_comes_after_a_mark_is_above_it_or_not_seen() {
        assert_eq!(
            after(&cursor(), &mark(Some("5"), None), "X", "Y"),
            r#"("a" IS NOT NULL AND "a" >= '5'::pg_catalog.int8 AND ("a" > '5'::pg_catalog.int8 OR X)) OR ("a" IS NULL AND "b" < 'infinity'::pg_catalog.date) OR (("a" IS NULL AND ("b" >= 'infinity'::pg_catalog.date OR "b" IS NULL)) AND Y)"#
        );
    }

    #[test]
    fn nothing_is_below_no_value() {
        assert_eq!(below(&cursor(), &[None, None]), "false");
        let largest = [None, Some("2024-01-01".to_owned())];
        assert_eq!(
            below(&cursor(), &largest),
            r#"("a" IS NULL AND "b" < 'infinity'::pg_catalog.date AND "b" < '2024-01-01'::pg_catalog.date)"#
        );
    }
}
