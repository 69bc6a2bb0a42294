//! The publications: what of the log reaches us.
//!
//! ```text
//! <name>          insert, update, delete, truncate    tables that have an identity
//! <name>_insert   insert, truncate                    tables that have none
//! ```
//!
//! A table without an identity is never put into the first: its users' UPDATEs
//! and DELETEs would fail from then on. A publication of the user's own is
//! looked at and never changed; one by our default name is ours.

use std::collections::HashMap;

use proto::v1::relation::Kind;
use tokio_postgres::error::SqlState;

use super::selected::{Key, Selected};
use super::slot::MAX_NAME;
use super::table::Table;
use crate::connect::Session;
use crate::error::SourceError;
use crate::{check, sql};

/// What the second publication's name ends with.
const INSERT: &str = "_insert";

/// The names of both publications.
pub struct Names {
    pub all: String,
    pub insert: String,
    /// The name is our default: we may add tables.
    own: bool,
}

impl Names {
    /// `publication` as configured; empty: the slot's default.
    pub fn new(publication: &str, slot: &str) -> Result<Names, SourceError> {
        let default = format!("tidewater_{slot}");
        let all = if publication.is_empty() { default.clone() } else { publication.to_owned() };
        let insert = format!("{all}{INSERT}");
        if insert.len() > MAX_NAME || all.contains('\0') {
            return Err(SourceError::Config(vec![format!(
                "update_method.publication: {all:?} is too long for a publication, or holds a NUL; \
                 allowed are {} bytes",
                MAX_NAME - INSERT.len()
            )]));
        }
        Ok(Names { own: all == default, all, insert })
    }

    /// Both of them.
    pub fn both(&self) -> [&str; 2] {
        [&self.all, &self.insert]
    }

    /// For `publication_names`: as pgoutput splits them.
    pub fn option(&self, insert: bool) -> String {
        match insert {
            true => format!("{},{}", sql::quote_ident(&self.all), sql::quote_ident(&self.insert)),
            false => sql::quote_ident(&self.all),
        }
    }
}

/// What the catalog says of one.
#[derive(Clone, Debug, Default)]
struct Found {
    publishes: [bool; 4],
    via_root: bool,
    /// Stored generated columns as well.
    stored: bool,
    tables: HashMap<(String, String), Covered>,
}

/// What of a table is published.
#[derive(Clone, Debug, Default)]
struct Covered {
    /// `None`: the server has no column lists.
    columns: Option<Vec<String>>,
    row_filter: bool,
}

/// Both publications, as they are.
#[derive(Clone, Debug, Default)]
pub struct Publications {
    all: Option<Found>,
    insert: Option<Found>,
}

/// What is left to do, and what is wrong.
#[derive(Debug, Default, PartialEq)]
struct Lacks {
    /// Statements, in their order.
    statements: Vec<String>,
    /// What they are for.
    what: Vec<String>,
    /// Publications that they create.
    creates: Vec<String>,
    /// Tables that they add, each by itself.
    adds: Vec<Add>,
    /// What only the publication's owner can put right, with how.
    faults: Vec<String>,
    of_tables: Vec<(Key, String)>,
}

/// A table that is to be added.
#[derive(Debug, PartialEq)]
struct Add {
    table: Key,
    what: String,
    statement: String,
}

impl Publications {
    /// Whether there is one of the first name; of the second.
    pub fn exist(&self) -> (bool, bool) {
        (self.all.is_some(), self.insert.is_some())
    }

    /// Whether all that changes in the table reaches us.
    pub fn cover(&self, table: &Key) -> bool {
        let found = [&self.all, &self.insert].into_iter().flatten();
        found.filter_map(|found| found.tables.get(table)).any(|covered| !covered.row_filter)
    }

    /// Whether a publication of this table sends its stored generated columns.
    pub fn sends_stored(&self, table: &Key) -> bool {
        let found = [&self.all, &self.insert];
        found.into_iter().flatten().any(|found| found.stored && found.tables.contains_key(table))
    }
}

/// Reads both.
pub async fn find(session: &Session, names: &Names) -> Result<Publications, SourceError> {
    let wanted = [&names.all, &names.insert];
    let doing = || SourceError::postgres(format!("looking at the publication {:?}", names.all));
    // Columns that came with later versions are absent on earlier ones.
    let query = "SELECT p.pubname::text, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, \
           p.pubviaroot, coalesce(to_jsonb(p)->>'pubgencols', '') = 's' \
         FROM pg_publication p WHERE p.pubname = ANY ($1::text[])";
    let rows = session.query(query, &[&&wanted[..]]).await.map_err(doing())?;
    let mut found: HashMap<String, Found> = rows
        .iter()
        .map(|row| {
            let publishes = [row.get(1), row.get(2), row.get(3), row.get(4)];
            let (via_root, stored) = (row.get(5), row.get(6));
            (row.get(0), Found { publishes, via_root, stored, tables: HashMap::new() })
        })
        .collect();
    let query = "SELECT t.pubname::text, t.schemaname::text, t.tablename::text, \
           to_jsonb(t) ? 'attnames', \
           ARRAY(SELECT jsonb_array_elements_text(CASE jsonb_typeof(to_jsonb(t)->'attnames') \
             WHEN 'array' THEN to_jsonb(t)->'attnames' ELSE '[]' END)), \
           coalesce(to_jsonb(t)->>'rowfilter', '') <> '' \
         FROM pg_publication_tables t WHERE t.pubname = ANY ($1::text[])";
    let rows = session.query(query, &[&&wanted[..]]).await.map_err(doing())?;
    for row in &rows {
        let publication: String = row.get(0);
        let columns = row.get::<_, bool>(3).then(|| row.get(4));
        let covered = Covered { columns, row_filter: row.get(5) };
        if let Some(found) = found.get_mut(&publication) {
            found.tables.insert((row.get(1), row.get(2)), covered);
        }
    }
    Ok(Publications { all: found.remove(&names.all), insert: found.remove(&names.insert) })
}

/// Makes the publications cover every table, if `create` says so and the role
/// may; tables that are not covered then are set apart, if that is wanted. Says
/// what it did; true if a publication is new.
pub async fn ensure(
    session: &Session,
    names: &Names,
    selected: &mut Selected,
    create: bool,
) -> Result<(Publications, Vec<String>, bool), SourceError> {
    let found = find(session, names).await?;
    // Since PostgreSQL 18 an UPDATE fails whose identity is not all published.
    let stored = found.all.as_ref().is_some_and(|found| found.stored);
    for table in selected.tables.iter_mut().filter(|table| table.identity_is_stored && !stored) {
        table.publishable = false;
    }
    let Lacks { statements, what, creates, adds, mut faults, of_tables } =
        lacks(&found, names, &selected.tables);
    if !selected.spares_others() {
        faults.extend(of_tables.iter().map(|(_, fault)| fault.clone()));
    }
    if !faults.is_empty() {
        return Err(SourceError::Capture {
            what: format!("the publication cannot serve:\n  - {}", faults.join("\n  - ")),
            remedy: "correct it, or give another name in update_method.publication".to_owned(),
        });
    }
    selected.set_apart(of_tables.into_iter().map(|(table, what)| {
        let remedy = "correct that, or take the stream out of selected_streams".to_owned();
        (table, SourceError::Capture { what, remedy })
    }))?;
    if statements.is_empty() {
        return Ok((found, Vec::new(), false));
    }
    let what = what.join("; ");
    let each_apart = selected.spares_others() && creates.is_empty();
    if !create && !each_apart {
        return Err(SourceError::Capture { what, remedy: as_owner(&statements.join("; ")) });
    }
    if !create {
        selected.set_apart(adds.into_iter().map(|Add { table, what, statement }| {
            (table, SourceError::Capture { what, remedy: as_owner(&statement) })
        }))?;
        return Ok((found, Vec::new(), false));
    }
    let mut done = Vec::new();
    match publish(session, &statements.join("; ")).await {
        Ok(()) => done = statements,
        Err(error) if !each_apart => return Err(refused(error, what, &statements.join("; "))),
        Err(_) => {
            for Add { table, what, statement } in adds {
                match publish(session, &statement).await {
                    Ok(()) => done.push(statement),
                    Err(error) => {
                        selected.set_apart([(table, refused(error, what, &statement))])?;
                    }
                }
            }
        }
    }
    let found = find(session, names).await?;
    let left = self::lacks(&found, names, &selected.tables);
    if !left.statements.is_empty() || !left.faults.is_empty() {
        return Err(SourceError::Internal(format!(
            "tables were published and are not: {} {}",
            left.what.join("; "),
            left.faults.join("; ")
        )));
    }
    let notices = done.iter().map(|statement| format!("done: {statement}")).collect();
    Ok((found, notices, !creates.is_empty()))
}

/// Both publications or none.
async fn publish(session: &Session, statements: &str) -> Result<(), tokio_postgres::Error> {
    let published = session.batch_execute(&format!("BEGIN; {statements}; COMMIT")).await;
    if published.is_err() {
        // Ends the transaction that has failed; the first error is what counts.
        let _ = session.batch_execute("ROLLBACK").await;
    }
    published
}

fn as_owner(statements: &str) -> String {
    format!("run as the tables' owner: {statements};")
}

/// Why tables could not be published. `what`: what is lacking.
fn refused(error: tokio_postgres::Error, what: String, statements: &str) -> SourceError {
    let remedy = as_owner(statements);
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let said = error.as_db_error().map(|said| said.message()).unwrap_or_default();
            SourceError::Permission {
                what: format!("{what}, and the role may not change that: {said}"),
                remedy,
            }
        }
        Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => SourceError::Capture {
            what: format!("{what}, and a standby cannot change that"),
            remedy: format!("on the primary, {remedy}"),
        },
        Some(&SqlState::LOCK_NOT_AVAILABLE) => SourceError::Busy {
            what: format!("{what}; a table is locked by another session"),
            remedy: format!("try again when that is done, or {remedy}"),
        },
        _ => SourceError::Postgres { doing: "publishing the tables".to_owned(), source: error },
    }
}

/// Compares what is with what must be.
fn lacks(found: &Publications, names: &Names, tables: &[Table]) -> Lacks {
    let mut lacks = Lacks::default();
    let (with, without): (Vec<&Table>, Vec<&Table>) =
        tables.iter().partition(|table| table.publishable);
    // In the first one, although it has no identity any more: its UPDATEs and DELETEs
    // fail for its users.
    let (failing, without): (Vec<&Table>, Vec<&Table>) = without.into_iter().partition(|table| {
        found.all.as_ref().is_some_and(|found| found.tables.contains_key(&table.key()))
    });
    let (taken_out, without) = lacks.take_out(names, failing, without);
    lacks.of(&names.all, found.all.as_ref(), &with, names, true);
    // Made together with the first: the log cannot be read by one that is
    // younger than the slot.
    if !without.is_empty() || found.all.is_none() {
        lacks.of(&names.insert, found.insert.as_ref(), &without, names, false);
    }
    // Each by itself: from the one to the other at once.
    for Add { table, what, statement } in taken_out {
        match lacks.adds.iter_mut().find(|add| add.table == table) {
            Some(add) => add.statement = format!("{statement}; {}", add.statement),
            None => lacks.adds.push(Add { table, what, statement }),
        }
    }
    lacks
}

impl Lacks {
    /// Takes tables out of the first publication, if it is ours: how, and those for the
    /// second.
    fn take_out<'a>(
        &mut self,
        names: &Names,
        failing: Vec<&'a Table>,
        mut without: Vec<&'a Table>,
    ) -> (Vec<Add>, Vec<&'a Table>) {
        let mut taken_out = Vec::new();
        let quoted = sql::quote_ident(&names.all);
        for table in failing {
            let relation = &table.stream.relation;
            let what = format!(
                "{quoted} publishes UPDATEs and DELETEs of {}, which fail for its users, for it \
                 has no replica identity that is published",
                relation.label()
            );
            let statement =
                format!("ALTER PUBLICATION {quoted} DROP TABLE ONLY {}", relation.qualified());
            if names.own {
                self.statements.push(statement.clone());
                self.what.push(what.clone());
                taken_out.push(Add { table: table.key(), what, statement });
                without.push(table);
            } else {
                self.of_tables.push((table.key(), format!("{what}: {statement}")));
            }
        }
        (taken_out, without)
    }

    fn of(
        &mut self,
        name: &str,
        found: Option<&Found>,
        tables: &[&Table],
        names: &Names,
        every_kind: bool,
    ) {
        let quoted = sql::quote_ident(name);
        let list = |tables: &[&Table]| {
            let relations = tables.iter().map(|table| table.stream.relation.qualified());
            // Children of plain inheritance are tables of their own.
            relations.map(|relation| format!("ONLY {relation}")).collect::<Vec<_>>().join(", ")
        };
        let Some(found) = found else {
            let publish = if every_kind { "" } else { ", publish = 'insert, truncate'" };
            let of = if tables.is_empty() {
                String::new()
            } else {
                format!(" FOR TABLE {}", list(tables))
            };
            self.statements.push(format!(
                "CREATE PUBLICATION {quoted}{of} WITH (publish_via_partition_root = true{publish})"
            ));
            self.what.push(format!("the publication {quoted} does not exist"));
            self.creates.push(name.to_owned());
            return;
        };
        self.faults.extend(found.faults(&quoted, tables, every_kind));
        self.of_tables.extend(found.faults_of_tables(&quoted, tables));
        let missing: Vec<&Table> = tables
            .iter()
            .filter(|table| !found.tables.contains_key(&table.key()))
            .filter(|table| found.via_root || !is_partitioned(table))
            .copied()
            .collect();
        if missing.is_empty() {
            return;
        }
        let add = |tables: &[&Table]| {
            let labels = tables.iter().map(|table| table.stream.relation.label());
            let what = format!("the publication {quoted} lacks {}", check::names(labels));
            (what, format!("ALTER PUBLICATION {quoted} ADD TABLE {}", list(tables)))
        };
        let each = missing.iter().map(|table| (table.key(), add(&[*table])));
        if names.own || !every_kind {
            let (what, statement) = add(&missing);
            self.statements.push(statement);
            self.what.push(what);
            self.adds.extend(each.map(|(table, (what, statement))| Add { table, what, statement }));
        } else {
            self.of_tables.extend(
                each.map(|(table, (what, statement))| (table, format!("{what}: {statement}"))),
            );
        }
    }
}

impl Found {
    fn faults(&self, quoted: &str, tables: &[&Table], every_kind: bool) -> Vec<String> {
        let mut faults = Vec::new();
        let [insert, update, delete, truncate] = self.publishes;
        let enough = insert && truncate && (!every_kind || update && delete);
        if !enough && !tables.is_empty() {
            let publish =
                if every_kind { "insert, update, delete, truncate" } else { "insert, truncate" };
            faults.push(format!(
                "{quoted} does not publish every kind of change: \
                 ALTER PUBLICATION {quoted} SET (publish = '{publish}')"
            ));
        }
        faults
    }

    /// What it keeps from us of single tables.
    fn faults_of_tables(&self, quoted: &str, tables: &[&Table]) -> Vec<(Key, String)> {
        let mut faults = Vec::new();
        for table in tables {
            let label = table.stream.relation.label();
            let mut fault = |what: String| faults.push((table.key(), what));
            if !self.via_root && is_partitioned(table) {
                fault(format!(
                    "{quoted} publishes the partitions of {label} instead of it: \
                     ALTER PUBLICATION {quoted} SET (publish_via_partition_root = true)"
                ));
            }
            let Some(covered) = self.tables.get(&table.key()) else { continue };
            if covered.row_filter {
                fault(format!("{quoted} filters the rows of {label}: publish all of them"));
            }
            let Some(columns) = &covered.columns else { continue };
            let plain = table.published.iter().filter(|column| column.generated.is_empty());
            let absent: Vec<&str> = plain
                .map(|column| column.name.as_str())
                .filter(|name| !columns.iter().any(|column| column == name))
                .collect();
            if !absent.is_empty() {
                fault(format!(
                    "{quoted} has a list of columns for {label}, without {}: publish all of them",
                    absent.join(", ")
                ));
            }
        }
        faults
    }
}

fn is_partitioned(table: &Table) -> bool {
    table.stream.relation.kind == Kind::PartitionedTable
}

/// What is wrong with a publication, whatever tables it will have.
pub fn faults_of_any(found: &Publications, names: &Names) -> Option<SourceError> {
    let [insert, update, delete, truncate] = found.all.as_ref()?.publishes;
    if insert && update && delete && truncate {
        return None;
    }
    let quoted = sql::quote_ident(&names.all);
    Some(SourceError::Capture {
        what: format!("the publication {quoted} does not publish every kind of change"),
        remedy: format!(
            "ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate')"
        ),
    })
}

#[cfg(test)]
#[path = "publication_tests.rs"]
mod tests;
