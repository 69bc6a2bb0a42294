//! What changes a table's rows without an event in the log, as one text: it is
//! not the same any more when that may have happened.
//!
//! ```text
//! <parts>-<files>-<columns>-<count>-<published>-<labels>
//! parts:   the table, its partitions, and since when they   attached, detached, dropped
//!          are its ([`parts`])
//! files:   of each, the file that it is in                 rewritten, truncated
//! columns: names, types, and what rows read that are older  ADD COLUMN … DEFAULT
//!          ([`columns`])
//! count:   UPDATEs and DELETEs, and since when they are     of tables whose are not published
//!          counted
//! published: the publications, and since when they have it  taken out, and put in again
//! labels: of its columns' types ([`labels`])                  ALTER TYPE … RENAME VALUE
//! ```
//!
//! What is not known is empty, and not compared.
//!
//! Read before the rows are, it is at worst older than they: a table may then be
//! loaded once more than needed, and never once less.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::columns::{self, Columns};
use super::labels::{self, Labels};
use super::parts::{self, Newcomer, Part, Told};
use crate::error::SourceError;

/// Of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The table's own; its columns are its partitions', too.
    pub columns: Columns,
    /// In the order of their oids.
    parts: Vec<Part>,
    /// When the server has begun to count: anew after a crash.
    counted_since: String,
    /// How its changes reach the log.
    published: String,
    labels: Labels,
}

/// What is known of a table beside its shape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// New files say nothing.
    pub ignore_rewrites: bool,
    /// The transaction of a TRUNCATE that the log told of, and whose the files may
    /// be. One in a savepoint has another number there.
    pub truncated_by: Option<u32>,
    /// UPDATEs and DELETEs are not published.
    pub keyless: bool,
    /// Rows of partitions that are detached or dropped stay.
    pub keep_removed: bool,
    /// New files say that rows may not be what the log and its columns say.
    pub needs_same_files: bool,
}

/// Why a table whose publications are not the same may lack changes.
const NOT_PUBLISHED: &str = "it was taken out of its publication, or put into it again, or that was \
                             changed: what was done meanwhile is not in the log";

impl Shape {
    /// As it travels. `listed`: it shall be known which partitions are gone, too.
    pub fn text(&self, listed: bool) -> String {
        let (parts, files) = parts::text(&self.parts, listed);
        let count: i64 = self.parts.iter().map(|part| part.count).sum();
        let Shape { columns, counted_since, published, labels, .. } = self;
        let (columns, labels) = (columns.text(), labels.text());
        format!("{parts}-{files}-{columns}-{count}.{counted_since}-{published}-{labels}")
    }

    /// The table itself.
    pub fn root(&self) -> Option<u32> {
        self.parts.iter().find(|part| part.links.is_empty()).map(|part| part.oid)
    }

    /// What may have changed its rows since a shape that was told, of what the log
    /// does not tell in any case: partitions, and files where those matter to columns.
    /// Else the partitions that are new.
    pub fn grown_since(&self, told: &str, rules: Rules) -> Result<Vec<Newcomer>, &'static str> {
        self.compared(told, rules).map(|(new, _)| new)
    }

    /// As [`Self::grown_since`], of everything.
    pub fn changed_since(&self, told: &str, rules: Rules) -> Result<Vec<Newcomer>, &'static str> {
        self.compared(told, rules).and_then(|(new, rest)| rest.map(|()| new))
    }

    fn compared(
        &self,
        told: &str,
        rules: Rules,
    ) -> Result<(Vec<Newcomer>, Result<(), &'static str>), &'static str> {
        const PARTS: &str = "a partition was attached, detached or dropped, or it was made anew";
        let mut pieces = told.split('-');
        let mut next = || pieces.next().unwrap_or_default();
        let (parts, files, _, count) = (next(), next(), next(), next());
        if self.published_otherwise(Some(next())) {
            return Err(NOT_PUBLISHED);
        }
        if self.labels.differ_from(next()) {
            return Err(
                "a label of an enum was renamed, or a composite type was changed: rows that \
                        are older show it, and the log does not say so",
            );
        }
        let told = Told::of(parts, files).ok_or(PARTS)?;
        let beside = told.beside(&self.parts).ok_or(PARTS)?;
        if beside.gone && !rules.keep_removed || !beside.known.iter().any(|p| p.links.is_empty()) {
            return Err(PARTS);
        }
        if rules.needs_same_files && !beside.same_files {
            return Err(
                "columns were added or changed, and it was rewritten or truncated: what rows \
                        have in them that are older is not known",
            );
        }
        let is_truncates = |part: &&Part| match (rules.truncated_by, part.file) {
            (Some(xid), Some(_)) => part.filed_by == xid,
            (truncated_by, _) => truncated_by.is_some(),
        };
        let same_rows = rules.ignore_rewrites || beside.known.iter().all(is_truncates);
        let (total, since) = count.split_once('.').unwrap_or((count, ""));
        let same_counts = since == self.counted_since
            && match beside.same_counts {
                Some(same) => same && beside.new.iter().all(|part| part.count == 0),
                None => total == self.parts.iter().map(|part| part.count).sum::<i64>().to_string(),
            };
        let rest = if !beside.same_files && !same_rows {
            Err("it was truncated or rewritten (ALTER TABLE, VACUUM FULL), or a partition was \
                 truncated, of which the log does not tell all")
        } else if rules.keyless && !same_counts {
            Err(
                "it has no identity to publish UPDATEs and DELETEs by, and there were some (or the \
                 server has crashed, and counts anew)",
            )
        } else {
            Ok(())
        };
        Ok((beside.new.into_iter().map(Newcomer::from).collect(), rest))
    }

    /// The same of a log of changes, which looks at nothing but what reaches it.
    pub fn unpublished_since(&self, told: &str) -> Option<&'static str> {
        self.published_otherwise(told.split('-').nth(4)).then_some(NOT_PUBLISHED)
    }

    fn published_otherwise(&self, told: Option<&str>) -> bool {
        let told = told.filter(|told| !told.is_empty() && !self.published.is_empty());
        told.is_some_and(|told| told != self.published)
    }
}

/// What a shape that was told says of columns; empty: nothing.
pub fn told_columns(told: &str) -> &str {
    told.split('-').nth(2).unwrap_or_default()
}

/// The tables' shapes, by namespace and name; of those that exist. `publications`:
/// those that they reach the log by; none: not known.
pub async fn of(
    client: &Client,
    namespaces: &[&str],
    names: &[&str],
    publications: &[&str],
) -> Result<HashMap<(String, String), Shape>, SourceError> {
    // The row of pg_inherits is another one after a DETACH and an ATTACH, as is that of
    // a publication's table or schema (from 15 on) after it was out of it. PostgreSQL 14
    // has a time for a database when its first numbers have come.
    let [listed, digest] = columns::sql();
    let query = format!(
        "WITH RECURSIVE part AS ( \
           SELECT c.oid AS root, c.oid, c.relkind, '{{}}'::text[] AS links \
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
           WHERE (n.nspname::text, c.relname::text) IN \
             (SELECT * FROM unnest($1::text[], $2::text[])) \
           UNION ALL \
           SELECT p.root, c.oid, c.relkind, p.links || i.xmin::text \
           FROM part p JOIN pg_inherits i ON i.inhparent = p.oid AND NOT i.inhdetachpending \
           JOIN pg_class c ON c.oid = i.inhrelid WHERE p.relkind = 'p'), \
         schema AS ( \
           SELECT p.refobjid AS publication, n.refobjid AS oid, p.objid AS entry \
           FROM pg_depend p JOIN pg_depend n USING (classid, objid) \
           WHERE p.classid = to_regclass('pg_catalog.pg_publication_namespace') \
             AND p.refclassid = 'pg_publication'::regclass \
             AND n.refclassid = 'pg_namespace'::regclass), \
         published AS ( \
           SELECT c.oid AS root, string_agg(format('%s %s %s %s', p.oid, p.xmin, r.oid, s.entry), \
             ';' ORDER BY p.oid) AS text \
           FROM (SELECT DISTINCT root AS oid FROM part) t JOIN pg_class c USING (oid) \
           JOIN pg_publication p ON p.pubname::text = ANY ($3::text[]) \
           LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid \
           LEFT JOIN schema s ON s.publication = p.oid AND s.oid = c.relnamespace \
           WHERE p.puballtables OR r.oid IS NOT NULL OR s.entry IS NOT NULL GROUP BY c.oid) \
         SELECT n.nspname::text, r.relname::text, p.oid, p.links, pg_relation_filenode(p.oid), \
           f.xmin::text, coalesce(pg_stat_get_tuples_updated(p.oid) \
             + pg_stat_get_tuples_deleted(p.oid), 0), \
           CASE WHEN p.oid = p.root THEN {listed} END, CASE WHEN p.oid = p.root THEN {digest} END, \
           concat_ws('/', extract(epoch FROM s.stats_reset)::text, \
             CASE WHEN current_setting('server_version_num')::int >= 150000 \
               THEN extract(epoch FROM d.stats_reset)::text END), \
           CASE WHEN cardinality($3::text[]) = 0 THEN '' ELSE left(encode(sha256(convert_to( \
             coalesce((SELECT o.text FROM published o WHERE o.root = p.root), ''), 'UTF8')), \
             'hex'), 16) END \
         FROM part p JOIN pg_class f ON f.oid = p.oid JOIN pg_class r ON r.oid = p.root \
         JOIN pg_namespace n ON n.oid = r.relnamespace CROSS JOIN pg_stat_bgwriter s \
         JOIN pg_stat_database d ON d.datname = current_database() \
         ORDER BY p.root, p.oid"
    );
    let doing = "looking at what the tables are stored in";
    let rows = client.query(&query, &[&namespaces, &names, &publications]).await;
    let rows = rows.map_err(SourceError::postgres(doing))?;
    let mut shapes: HashMap<(String, String), Shape> = HashMap::new();
    for row in &rows {
        let shape = shapes.entry((row.get(0), row.get(1))).or_default();
        let number = |text: &str| text.parse().unwrap_or_default();
        shape.parts.push(Part {
            oid: row.get(2),
            links: row.get::<_, Vec<&str>>(3).into_iter().map(number).collect(),
            file: row.get(4),
            filed_by: number(row.get(5)),
            count: row.get(6),
        });
        if let Some(digest) = row.get(8) {
            shape.columns = Columns::new(row.get(7), digest);
            (shape.counted_since, shape.published) = (row.get(9), row.get(10));
        }
    }
    for (table, labels) in labels::of(client, namespaces, names).await? {
        if let Some(shape) = shapes.get_mut(&table) {
            shape.labels = labels;
        }
    }
    Ok(shapes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(files: [u32; 2], columns: &str, count: i64) -> Shape {
        let part = |oid, links, file| Part { oid, links, file: Some(file), filed_by: 731, count };
        Shape {
            columns: Columns::new(Some(columns.to_owned()), String::new()),
            parts: vec![part(20, Vec::new(), files[0]), part(21, vec![700], files[1])],
            counted_since: "5".to_owned(),
            published: "x".to_owned(),
            labels: Labels::default(),
        }
    }

    #[test]
    fn what_changes_rows_without_an_event_is_told_from_what_does_not() {
        let told = shape([1, 2], "c", 7).text(false);
        let none = Rules::default();
        let changed = |now: &Shape, rules| now.changed_since(&told, rules).is_err();
        let keyless = Rules { keyless: true, ..none };
        assert!(!changed(&shape([1, 2], "c", 8), none));
        assert!(changed(&shape([1, 2], "c", 8), keyless));
        assert!(!changed(&shape([1, 2], "c", 7), keyless));
        let mut crashed = shape([1, 2], "c", 7);
        crashed.counted_since = "6".to_owned();
        assert!(changed(&crashed, keyless) && !changed(&crashed, none));
        let rewritten = shape([1, 3], "c", 7);
        assert!(changed(&rewritten, none));
        assert!(rewritten.grown_since(&told, none).is_ok());
        assert!(!changed(&rewritten, Rules { ignore_rewrites: true, ..none }));
        for (xid, is_changed) in [(731, false), (732, true)] {
            let truncated = Rules { truncated_by: Some(xid), ..none };
            assert_eq!(changed(&rewritten, truncated), is_changed);
        }
        // What columns have become is known while nothing is written anew.
        let ignored = Rules { ignore_rewrites: true, ..none };
        assert!(!changed(&shape([1, 3], "d", 7), ignored));
        let ignored = Rules { needs_same_files: true, ..ignored };
        assert!(changed(&shape([1, 3], "d", 7), ignored));
        assert!(shape([1, 3], "d", 7).grown_since(&told, ignored).is_err());
        assert!(!changed(&shape([1, 2], "d", 7), ignored));
        assert!(shape([1, 2], "c", 7).changed_since("nonsense", none).is_err());
        let elsewhere = Shape { published: "y".to_owned(), ..shape([1, 2], "c", 7) };
        assert!(elsewhere.unpublished_since(&told).is_some() && changed(&elsewhere, none));
        assert!(!changed(&Shape { published: String::new(), ..shape([1, 2], "c", 7) }, none));
        let before = told.rsplitn(3, '-').nth(2).unwrap();
        assert!(shape([1, 2], "c", 7).changed_since(before, none).is_ok());
        assert!(shape([1, 3], "d", 7).unpublished_since(before).is_none());
    }

    #[test]
    fn partitions_that_come_are_named_and_those_that_go_change_it_unless_they_may() {
        let both = shape([1, 2], "c", 0);
        let mut alone = both.clone();
        alone.parts.pop();
        let (none, keep) = (Rules::default(), Rules { keep_removed: true, ..Rules::default() });
        let new = both.changed_since(&alone.text(false), none);
        assert_eq!(new, Ok(vec![Newcomer { oid: 21, linked_by: 700 }]));
        for listed in [false, true] {
            assert!(alone.changed_since(&both.text(listed), none).is_err());
        }
        assert_eq!(alone.changed_since(&both.text(true), keep), Ok(Vec::new()));
        assert!(alone.changed_since(&both.text(false), keep).is_err());
        // Another table of that name.
        let mut other = both.clone();
        other.parts[0].oid = 19;
        assert!(other.changed_since(&both.text(true), keep).is_err());
    }
}
