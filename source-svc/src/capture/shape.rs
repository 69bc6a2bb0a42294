//! What changes a table's rows without an event in the log, as one text: it is
//! not the same any more when that may have happened.
//!
//! ```text
//! <parts>-<files>-<columns>-<count>-<published>
//! parts:   the table, its partitions, and since when they   attached, detached, dropped
//!          are its
//! files:   of each, the file that it is in                 rewritten, truncated
//! columns: names, types, and what rows read that are older  ADD COLUMN … DEFAULT, renamed, dropped
//! count:   UPDATEs and DELETEs so far                       of tables whose are not published
//! published: the publications, and since when they have it  taken out, and put in again
//! ```
//!
//! What is not known is empty, and not compared.
//!
//! Read before the rows are, it is at worst older than they: a table may then be
//! loaded once more than needed, and never once less.

use std::collections::HashMap;

use tokio_postgres::Client;

use crate::error::SourceError;

/// Of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    parts: String,
    files: String,
    columns: String,
    count: String,
    published: String,
    /// The transactions that have said last where the files are.
    filed_by: String,
}

/// Why a table whose publications are not the same may lack changes.
const NOT_PUBLISHED: &str = "it was taken out of its publication, or put into it again, or that was \
                             changed: what was done meanwhile is not in the log";

impl Shape {
    /// As it travels.
    pub fn text(&self) -> String {
        let Shape { parts, files, columns, count, published, .. } = self;
        format!("{parts}-{files}-{columns}-{count}-{published}")
    }

    /// Whether the files are all this transaction's, as a TRUNCATE's are: nobody
    /// has rewritten them since. One in a savepoint has another number there.
    pub fn is_filed_by(&self, xid: u32) -> bool {
        self.filed_by == xid.to_string()
    }

    /// What may have changed since a shape that was told; `None`: nothing.
    /// `same_rows`: new files say nothing: they are a TRUNCATE's that the log told
    /// of, or the user wants it so.
    /// `keyless`: UPDATEs and DELETEs are not published.
    pub fn changed_since(
        &self,
        told: &str,
        same_rows: bool,
        keyless: bool,
    ) -> Option<&'static str> {
        let mut parts = told.split('-');
        let mut next = || parts.next();
        let (parts, files, columns, count) = (next(), next(), next(), next());
        if self.published_otherwise(next()) {
            return Some(NOT_PUBLISHED);
        }
        if parts != Some(self.parts.as_str()) {
            return Some("a partition was attached, detached or dropped, or it was made anew");
        }
        if columns != Some(self.columns.as_str()) {
            return Some("its columns, or the defaults of rows that are older, are not the same");
        }
        if files != Some(self.files.as_str()) && !same_rows {
            return Some(
                "it was truncated or rewritten (ALTER TABLE, VACUUM FULL), or a partition was \
                 truncated, of which the log does not tell all",
            );
        }
        if keyless && count != Some(self.count.as_str()) {
            return Some(
                "it has no identity to publish UPDATEs and DELETEs by, and there were some",
            );
        }
        None
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

/// The tables' shapes, by namespace and name; of those that exist. `publications`:
/// those that they reach the log by; none: not known.
pub async fn of(
    client: &Client,
    namespaces: &[&str],
    names: &[&str],
    publications: &[&str],
) -> Result<HashMap<(String, String), Shape>, SourceError> {
    let hash = |text: &str| {
        format!(
            "encode(sha256(convert_to(coalesce(string_agg({text}, ';' ORDER BY p.oid), ''), 'UTF8')), 'hex')"
        )
    };
    let query = format!(
        "WITH part AS ( \
           SELECT c.oid AS root, n.nspname, c.relname, p.relid AS oid \
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
           CROSS JOIN LATERAL (SELECT c.oid AS relid UNION \
             SELECT t.relid::oid FROM pg_partition_tree(c.oid) t) p \
           WHERE (n.nspname::text, c.relname::text) IN \
             (SELECT * FROM unnest($1::text[], $2::text[]))), \
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
         SELECT p.nspname::text, p.relname::text, {}, {}, {}, \
           coalesce(sum(s.n_tup_upd + s.n_tup_del), 0)::text, \
           coalesce(string_agg(DISTINCT f.xmin::text, ','), ''), \
           CASE WHEN cardinality($3::text[]) = 0 THEN '' ELSE left(encode(sha256(convert_to( \
             coalesce((SELECT o.text FROM published o WHERE o.root = p.root), ''), 'UTF8')), \
             'hex'), 16) END \
         FROM part p LEFT JOIN pg_stat_all_tables s ON s.relid = p.oid \
         LEFT JOIN pg_class f ON f.oid = p.oid AND f.relkind = 'r' \
         LEFT JOIN pg_inherits i ON i.inhrelid = p.oid AND p.oid <> p.root \
         LEFT JOIN LATERAL (SELECT string_agg(format('%s %I %s %s %s', a.attnum, a.attname, \
             a.atttypid, a.atttypmod, a.attmissingval::text), ',' ORDER BY a.attnum) AS text \
           FROM pg_attribute a \
           WHERE a.attrelid = p.oid AND a.attnum > 0 AND NOT a.attisdropped) columns ON true \
         GROUP BY p.root, p.nspname, p.relname",
        // The row of pg_inherits is another one after a DETACH and an ATTACH, as is that of
        // a publication's table or schema (from 15 on) after it was out of it.
        hash("format('%s %s', p.oid, i.xmin)"),
        hash("format('%s %s', p.oid, pg_relation_filenode(p.oid))"),
        hash("columns.text")
    );
    let doing = "looking at what the tables are stored in";
    let rows = client.query(&query, &[&namespaces, &names, &publications]).await;
    let rows = rows.map_err(SourceError::postgres(doing))?;
    let shape = |row: &tokio_postgres::Row| {
        let (parts, files, columns) = (row.get(2), row.get(3), row.get(4));
        let (count, filed_by, published) = (row.get(5), row.get(6), row.get(7));
        let shape = Shape { parts, files, columns, count, published, filed_by };
        ((row.get(0), row.get(1)), shape)
    };
    Ok(rows.iter().map(shape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_rows_without_an_event_is_told_from_what_does_not() {
        let shape = |files: &str, columns: &str, count: &str| Shape {
            parts: "p".to_owned(),
            files: files.to_owned(),
            columns: columns.to_owned(),
            count: count.to_owned(),
            published: "x".to_owned(),
            filed_by: "731".to_owned(),
        };
        let told = shape("f", "c", "7").text();
        let changed =
            |now: Shape, truncated, keyless| now.changed_since(&told, truncated, keyless).is_some();
        assert!(!changed(shape("f", "c", "8"), false, false));
        assert!(changed(shape("f", "c", "8"), false, true));
        assert!(changed(shape("g", "c", "7"), false, false));
        assert!(!changed(shape("g", "c", "7"), true, false));
        assert!(changed(shape("g", "d", "7"), true, false));
        assert!(shape("f", "c", "7").changed_since("nonsense", false, false).is_some());
        let attached = Shape { parts: "q".to_owned(), ..shape("f", "c", "7") };
        assert!(changed(attached, true, false));
        let elsewhere = Shape { published: "y".to_owned(), ..shape("f", "c", "7") };
        assert!(elsewhere.unpublished_since(&told).is_some());
        assert!(changed(elsewhere, true, false));
        assert!(!changed(Shape { published: String::new(), ..shape("f", "c", "7") }, false, false));
        let before = "p-f-c-7";
        assert!(shape("f", "c", "7").changed_since(before, false, false).is_none());
        assert!(shape("g", "d", "7").unpublished_since(before).is_none());
        let mut filed = shape("g", "c", "7");
        assert!(filed.is_filed_by(731));
        filed.filed_by = "731,732".to_owned();
        assert!(!filed.is_filed_by(731));
    }
}
