//! What the log will say of each table: which columns its rows have, and what
//! tells an old row from the others.
//!
//! Replica identity belongs to the relation that stores the row: a partition's
//! counts, not its root's. A root says FULL, a partition does not, and the old
//! rows of that partition come with their other columns falsely NULL. So an
//! identity is what every partition carries.

use std::collections::HashMap;

use proto::v1;
use proto::v1::relation::Kind;
use tokio_postgres::Client;

use crate::error::SourceError;
use crate::load::stream::{Faults, Stream};
use crate::relation;

/// Columns of a change that are not its row's.
pub const RESERVED: [&str; 3] = ["_op_type", "_cdc_timestamp", "_cdc_lsn"];

/// A stream of change capture.
#[derive(Clone, Debug)]
pub struct Table {
    /// The relation, and the columns that are asked for and published.
    pub stream: Stream,
    /// Every column that the log's rows have, in attnum order.
    pub published: Vec<Published>,
    /// Columns of the replica identity (FULL: of the primary key, if there is
    /// one), in attnum order; empty: none.
    pub identity: Vec<String>,
    /// Old rows are whole.
    pub full: bool,
    /// Every partition has an identity of some kind: publishing its UPDATEs
    /// makes none of them fail.
    pub publishable: bool,
    /// A stored generated column is in the identity of one: that holds only where the
    /// publication sends it.
    pub identity_is_stored: bool,
    /// Columns that were asked for and are not published.
    pub left_out: Vec<String>,
}

/// A column of the log's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub name: String,
    pub attnum: i16,
    /// `atttypid`.
    pub type_oid: u32,
    /// `atttypmod`.
    pub type_modifier: i32,
    /// `typdelim` of an array's elements; a comma for what is no array.
    pub delimiter: u8,
    /// "s": stored and generated; "v": virtual; empty: neither.
    pub generated: String,
    /// Its values may be stored apart from their rows.
    pub toastable: bool,
}

impl Table {
    /// Its namespace and name.
    pub fn key(&self) -> (String, String) {
        (self.stream.relation.namespace.clone(), self.stream.relation.name.clone())
    }

    /// As it travels, without its shape.
    pub fn to_proto(&self) -> v1::CaptureTable {
        v1::CaptureTable {
            namespace: self.stream.relation.namespace.clone(),
            name: self.stream.relation.name.clone(),
            columns: self.stream.columns.iter().map(|column| column.to_proto()).collect(),
            identity: self.identity.clone(),
            full: self.full,
            shape: String::new(),
            toastable: self.toastable(),
            trouble: None,
        }
    }

    /// Columns of the stream whose values the log may leave out.
    fn toastable(&self) -> Vec<String> {
        let read = |name: &str| self.stream.columns.iter().any(|column| column.name == name);
        let toastable = self.published.iter().filter(|column| column.toastable);
        toastable.filter(|column| read(&column.name)).map(|column| column.name.clone()).collect()
    }
}

/// Every stream's table, or what is wrong with it, in their order. Generated columns
/// are among the published: what a publication does not send is taken out by
/// [`Table::without_generated`].
pub async fn look(
    client: &Client,
    requests: &[v1::LoadStream],
) -> Result<Vec<Result<Table, Faults>>, SourceError> {
    let namespaces: Vec<&str> = requests.iter().map(|stream| stream.namespace.as_str()).collect();
    let names: Vec<&str> = requests.iter().map(|stream| stream.name.as_str()).collect();
    let found = relation::find_all(client, &namespaces, &names).await?;
    let mut found: HashMap<_, _> = found
        .into_iter()
        .map(|relation| ((relation.namespace.clone(), relation.name.clone()), relation))
        .collect();
    let wrong = |what: String| Faults { config: vec![what], ..Faults::default() };
    let mut streams: Vec<Result<Stream, Faults>> = requests
        .iter()
        .map(|request| {
            if request.filter.is_some() {
                let label = format!("{}.{}", request.namespace, request.name);
                let what = format!("{label} has a filter, which change capture cannot apply");
                return Err(wrong(what));
            }
            let relation = found.remove(&(request.namespace.clone(), request.name.clone()));
            let mut faults = Faults::default();
            let stream = Stream::new(request, relation, &mut faults);
            stream.ok_or(faults)
        })
        .collect();
    let oids: Vec<u32> = streams.iter().flatten().map(|stream| stream.relation.oid).collect();
    let facts = facts(client, &oids).await?;
    for found in &mut streams {
        let Ok(stream) = found else { continue };
        if let Some(what) = refused(stream, facts.get(&stream.relation.oid)) {
            *found = Err(wrong(what));
        }
    }
    let mut published = published(client, &oids).await?;
    let mut table = |stream: Stream| {
        let oid = stream.relation.oid;
        let parts = facts.get(&oid).map_or(&[][..], |facts| &facts.parts);
        let (identity, full) = identity(&stream, parts);
        let publishable =
            parts.iter().all(|part| part.carries().is_none_or(|columns| !columns.is_empty()));
        let is_generated = |how: &str| parts.iter().any(|part| part.generated == how);
        let (publishable, identity_is_stored) =
            (publishable && !is_generated("v"), is_generated("s"));
        let published = published.remove(&oid).unwrap_or_default();
        let left_out = Vec::new();
        let mut table =
            Table { stream, published, identity, full, publishable, identity_is_stored, left_out };
        table.add_identity();
        table
    };
    Ok(streams.into_iter().map(|stream| stream.map(&mut table)).collect())
}

impl Table {
    /// The identity's columns are read whatever is selected.
    fn add_identity(&mut self) {
        let Stream { relation, columns, .. } = &mut self.stream;
        let wanted = |name: &String| {
            columns.iter().any(|column| column.name == *name) || self.identity.contains(name)
        };
        *columns = relation.columns.iter().filter(|column| wanted(&column.name)).cloned().collect();
    }

    /// Takes out the generated columns that a publication does not send;
    /// `stored`: it sends those that are stored.
    pub fn without_generated(&mut self, stored: bool) {
        let sent = |column: &Published| match column.generated.as_str() {
            "" => true,
            "s" => stored,
            _ => false,
        };
        self.published.retain(sent);
        let names: Vec<&str> = self.published.iter().map(|column| column.name.as_str()).collect();
        let is_sent = |name: &str| names.contains(&name);
        self.left_out = self
            .stream
            .columns
            .iter()
            .filter(|column| !is_sent(&column.name))
            .map(|column| column.name.clone())
            .collect();
        self.stream.columns.retain(|column| is_sent(&column.name));
    }

    /// A key that the log does not carry is none.
    pub fn key_not_sent(&self) -> Option<&str> {
        let keys = self.identity.iter().chain(&self.stream.relation.primary_key);
        keys.map(String::as_str).find(|key| self.left_out.iter().any(|name| name == key))
    }
}

/// What is not to be had from the catalog's view of a relation.
struct Facts {
    /// `relpersistence`.
    persistence: String,
    is_partition: bool,
    /// Those that store rows: partitions, or the table itself.
    parts: Vec<Part>,
}

/// A relation that stores rows.
struct Part {
    /// `relreplident`.
    replident: String,
    /// Of the primary key that can serve as identity.
    primary_key: Vec<String>,
    /// Of the index chosen as identity.
    index: Vec<String>,
    /// The stream's own relation.
    is_root: bool,
    /// `attgenerated` of a column of the identity where the server refuses UPDATEs for
    /// it: "v" before "s"; empty: none.
    generated: String,
}

impl Part {
    /// The columns that an old row has for certain; `None`: all.
    fn carries(&self) -> Option<&[String]> {
        match self.replident.as_str() {
            "f" => None,
            "d" => Some(&self.primary_key),
            "i" => Some(&self.index),
            _ => Some(&[]),
        }
    }
}

async fn facts(client: &Client, oids: &[u32]) -> Result<HashMap<u32, Facts>, SourceError> {
    let index = |which: &str| {
        format!(
            "COALESCE((SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) \
             FROM pg_catalog.pg_index i \
             CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
             WHERE i.indrelid = c.oid AND i.{which} AND i.indisvalid AND i.indimmediate \
             AND k.place <= i.indnkeyatts), '{{}}')"
        )
    };
    let query = format!(
        "SELECT s.oid, c.relpersistence::text, c.relispartition, c.relreplident::text, \
         {}, {}, c.oid = s.oid, \
           coalesce((SELECT max(a.attgenerated::text) FROM pg_catalog.pg_attribute a \
             LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND a.attnum = ANY (i.indkey) \
               AND CASE c.relreplident WHEN 'd' THEN i.indisprimary \
                 WHEN 'i' THEN i.indisreplident ELSE false END \
             WHERE a.attrelid = c.oid AND NOT a.attisdropped \
               AND pg_catalog.current_setting('server_version_num')::int >= 180000 \
               AND (c.relreplident = 'f' OR i.indrelid IS NOT NULL)), '') \
         FROM pg_catalog.unnest($1::oid[]) AS s(oid) CROSS JOIN LATERAL ( \
           SELECT s.oid AS relid UNION \
           SELECT t.relid::oid FROM pg_catalog.pg_partition_tree(s.oid) t WHERE t.isleaf) p \
         JOIN pg_catalog.pg_class c ON c.oid = p.relid",
        index("indisprimary"),
        index("indisreplident")
    );
    let doing = "reading the tables' replica identities";
    let rows = client.query(&query, &[&oids]).await.map_err(SourceError::postgres(doing))?;
    let mut all: HashMap<u32, Facts> = HashMap::new();
    for row in &rows {
        let facts = all.entry(row.get(0)).or_insert_with(|| Facts {
            persistence: String::new(),
            is_partition: false,
            parts: Vec::new(),
        });
        let is_root: bool = row.get(6);
        if is_root {
            (facts.persistence, facts.is_partition) = (row.get(1), row.get(2));
        }
        let (primary_key, index) = (row.get(4), row.get(5));
        facts.parts.push(Part {
            replident: row.get(3),
            primary_key,
            index,
            is_root,
            generated: row.get(7),
        });
    }
    Ok(all)
}

/// Why the log does not tell of a relation, or cannot be told.
fn refused(stream: &Stream, facts: Option<&Facts>) -> Option<String> {
    let label = stream.relation.label();
    let reserved = stream.columns.iter().find(|column| RESERVED.contains(&column.name.as_str()));
    if let Some(column) = reserved {
        return Some(format!("{label} has a column {}, a name that changes need", column.name));
    }
    let other = match stream.relation.kind {
        Kind::View => "a view",
        Kind::MaterializedView => "a materialized view",
        Kind::ForeignTable => "a foreign table",
        _ => match facts {
            Some(facts) if facts.is_partition => {
                return Some(format!(
                    "{label} is a partition, whose changes are its root's: select that instead"
                ));
            }
            Some(facts) if facts.persistence != "p" => "not logged (UNLOGGED or temporary)",
            _ => return None,
        },
    };
    Some(format!("{label} is {other}, of which the log tells nothing: use sync_mode full_refresh"))
}

/// The identity that every part carries, and whether every old row is whole.
fn identity(stream: &Stream, parts: &[Part]) -> (Vec<String>, bool) {
    let full = parts.iter().all(|part| part.replident == "f");
    let Some(root) = parts.iter().find(|part| part.is_root) else { return (Vec::new(), false) };
    let declared = root.carries().unwrap_or(&root.primary_key);
    let carried = |part: &Part| match part.carries() {
        None => true,
        Some(columns) => declared.iter().all(|column| columns.contains(column)),
    };
    if declared.is_empty() || !parts.iter().all(carried) {
        return (Vec::new(), full);
    }
    let in_order = stream.relation.columns.iter().map(|column| &column.name);
    (in_order.filter(|name| declared.contains(name)).cloned().collect(), full)
}

async fn published(
    client: &Client,
    oids: &[u32],
) -> Result<HashMap<u32, Vec<Published>>, SourceError> {
    // A domain's base type says what its text is.
    let query = "WITH RECURSIVE base AS ( \
           SELECT t.oid AS type, t.oid, t.typtype, t.typbasetype, t.typelem \
             FROM pg_catalog.pg_type t WHERE t.oid IN ( \
               SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY ($1)) \
           UNION ALL SELECT b.type, t.oid, t.typtype, t.typbasetype, t.typelem \
             FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typbasetype \
             WHERE b.typtype = 'd') \
         SELECT a.attrelid, a.attname::text, a.atttypid, a.atttypmod, a.attgenerated::text, \
           (SELECT e.typdelim::text FROM base b JOIN pg_catalog.pg_type e ON e.oid = b.typelem \
            WHERE b.type = a.atttypid AND b.typtype <> 'd'), \
           a.attlen = -1 AND a.attstorage <> 'p', a.attnum \
         FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped \
         ORDER BY a.attrelid, a.attnum";
    let doing = "reading the tables' columns";
    let rows = client.query(query, &[&oids]).await.map_err(SourceError::postgres(doing))?;
    let mut all: HashMap<u32, Vec<Published>> = HashMap::new();
    for row in &rows {
        let delimiter: Option<String> = row.get(5);
        all.entry(row.get(0)).or_default().push(Published {
            name: row.get(1),
            type_oid: row.get(2),
            type_modifier: row.get(3),
            delimiter: delimiter.and_then(|text| text.bytes().next()).unwrap_or(b','),
            generated: row.get(4),
            toastable: row.get(6),
            attnum: row.get(7),
        });
    }
    Ok(all)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::decode::OnUnrepresentable;
    use crate::relation::ColumnInfo;
    use crate::types::TypeCatalog;

    /// `public.<name>`, with the columns a and b and no identity.
    pub(crate) fn table(name: &str) -> Table {
        let column = |name: &str| Published {
            name: name.to_owned(),
            attnum: 1 + i16::from(name != "a"),
            type_oid: 23,
            type_modifier: -1,
            delimiter: b',',
            generated: String::new(),
            toastable: false,
        };
        let relation = crate::check::tests::relation(name);
        Table {
            stream: Stream { relation, columns: Vec::new(), ..stream() },
            published: vec![column("a"), column("b")],
            identity: Vec::new(),
            full: false,
            publishable: true,
            identity_is_stored: false,
            left_out: Vec::new(),
        }
    }

    fn part(replident: &str, primary_key: &[&str], index: &[&str], is_root: bool) -> Part {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Part {
            replident: replident.to_owned(),
            primary_key: owned(primary_key),
            index: owned(index),
            is_root,
            generated: String::new(),
        }
    }

    fn stream() -> Stream {
        let mut relation = crate::check::tests::relation("t");
        relation.columns = (1..=3)
            .map(|attnum| ColumnInfo {
                name: ["a", "b", "c"][attnum - 1].to_owned(),
                attnum: attnum as i16,
                not_null: true,
                postgres_type: "integer".to_owned(),
                column_type: TypeCatalog::default().column_type(23, -1, 0),
            })
            .collect();
        Stream {
            columns: relation.columns.clone(),
            relation,
            filter: None,
            split_column: None,
            policy: OnUnrepresentable::Null,
            few_chunks: false,
            incremental: None,
            changed: Vec::new(),
        }
    }

    #[test]
    fn an_identity_is_what_every_partition_carries() {
        let found = |parts: &[Part]| {
            let (identity, full) = identity(&stream(), parts);
            (identity.join(","), full)
        };
        let root = || part("d", &["b", "a"], &[], true);
        let cases = [
            (vec![root()], ("a,b", false)),
            (vec![part("d", &[], &[], true)], ("", false)),
            (vec![part("n", &["a"], &[], true)], ("", false)),
            (vec![part("i", &["a"], &["c"], true)], ("c", false)),
            (vec![part("i", &["a"], &[], true)], ("", false)),
            (vec![part("f", &["a"], &[], true)], ("a", true)),
            (vec![part("f", &[], &[], true)], ("", true)),
            // Partitions.
            (vec![root(), part("d", &["a", "b"], &[], false)], ("a,b", false)),
            (vec![root(), part("f", &["a", "b"], &[], false)], ("a,b", false)),
            (vec![root(), part("n", &["a", "b"], &[], false)], ("", false)),
            (vec![root(), part("i", &["a", "b"], &["a"], false)], ("", false)),
            (vec![part("f", &["a"], &[], true), part("d", &["a"], &[], false)], ("a", false)),
            (vec![part("f", &["a"], &[], true), part("f", &["a"], &[], false)], ("a", true)),
        ];
        for (number, (parts, (columns, full))) in cases.iter().enumerate() {
            assert_eq!(found(parts), ((*columns).to_owned(), *full), "case {number}");
        }
    }

    #[test]
    fn generated_columns_are_left_out_unless_they_are_sent() {
        let column = |name: &str, generated: &str| Published {
            name: name.to_owned(),
            attnum: 0,
            type_oid: 23,
            type_modifier: -1,
            delimiter: b',',
            generated: generated.to_owned(),
            toastable: false,
        };
        let table = Table {
            stream: stream(),
            published: vec![column("a", ""), column("b", "s"), column("c", "v")],
            identity: vec!["a".to_owned(), "b".to_owned()],
            full: false,
            publishable: true,
            identity_is_stored: false,
            left_out: Vec::new(),
        };
        let mut stored = table.clone();
        stored.without_generated(true);
        assert_eq!((stored.left_out.join(","), stored.key_not_sent()), ("c".to_owned(), None));
        let mut none = table;
        none.without_generated(false);
        assert_eq!((none.left_out.join(","), none.key_not_sent()), ("b,c".to_owned(), Some("b")));
        assert_eq!(none.stream.columns.len(), 1);
    }
}
