//! One stream → its chunks: parts that cover every row of the snapshot exactly
//! once.
//!
//! - tables and materialized views: ranges of pages (ctid), from the true page
//!   count and not from statistics; the last one is open, so that a wrong
//!   count costs balance and never rows
//! - partitioned tables: the pages of each leaf; through the root, as one
//!   chunk, where a leaf may not be read directly or is a foreign table
//! - a split column: ranges of its values ([`super::split`])
//! - views and foreign tables: one chunk
//!
//! What an incremental load reads after its first time is one chunk, through the
//! index of its cursor where there is one ([`super::increment`]).

use proto::v1;
use proto::v1::relation::Kind;

use super::increment::{self, Increment, Scope, Wanted};
use super::split;
use super::stream::Stream;
use crate::connect::Session;
use crate::error::SourceError;
use crate::sql;

/// Pages of a chunk: at least 8 MiB, below which a chunk is all overhead …
const MIN_CHUNK_PAGES: u64 = 1024;
/// … and at most 1 GiB, so that a failed one is cheap to repeat.
const MAX_CHUNK_PAGES: u64 = 131_072;
/// Chunks that each thread gets, to even out their times.
const CHUNKS_PER_THREAD: u64 = 4;
/// Pages of a chunk at most where few are wanted: 4 GiB. The writer may have to
/// keep all of it on disk before it can write the first file.
const MAX_FEW_CHUNK_PAGES: u64 = 4 * MAX_CHUNK_PAGES;

/// A chunk and how to read it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedChunk {
    /// As the caller sees it.
    pub chunk: v1::Chunk,
    /// What follows FROM.
    pub from: String,
    /// SQL conditions that all must hold; the stream's filter is not among them.
    pub conditions: Vec<String>,
}

/// A stream's chunks.
pub struct Plan {
    /// Ids count from 0. None: an incremental load has nothing to read.
    pub chunks: Vec<PlannedChunk>,
    /// Of an incremental load.
    pub increment: Option<Increment>,
    /// Bytes of the relation's pages; 0 for views and foreign tables, and where
    /// only a part is read.
    pub bytes: u64,
    /// Things a user should know.
    pub notices: Vec<String>,
}

/// A relation that has rows of its own.
struct Leaf {
    oid: u32,
    namespace: String,
    name: String,
    foreign: bool,
    pages: u64,
    /// The role may read it without going through the root.
    direct: bool,
}

/// Plans under the keeper's snapshot, whose locks keep pages where they are.
/// `database`: as [`crate::identity::database`] has it.
pub async fn plan(
    keeper: &Session,
    stream: &Stream,
    threads: usize,
    database: &str,
) -> Result<Plan, SourceError> {
    let sources = Sources::new(keeper, stream, threads).await?;
    if stream.incremental.is_none() {
        return everything(keeper, stream, &sources).await;
    }
    let increment = increment::plan(&sources.scope(keeper, database)).await?;
    let mut plan = match &increment.wanted {
        Wanted::Everything(condition) => {
            let mut plan = everything(keeper, stream, &sources).await?;
            for chunk in &mut plan.chunks {
                chunk.conditions.extend(condition.clone());
            }
            plan
        }
        Wanted::Only(from, condition) => Plan {
            chunks: vec![PlannedChunk {
                chunk: v1::Chunk::default(),
                from: from.clone(),
                conditions: vec![condition.clone()],
            }],
            ..Plan::nothing()
        },
        Wanted::Nothing => Plan::nothing(),
    };
    plan.notices.extend(increment.notices.iter().cloned());
    plan.increment = Some(increment);
    Ok(plan)
}

impl Plan {
    fn nothing() -> Self {
        Plan { chunks: Vec::new(), increment: None, bytes: 0, notices: Vec::new() }
    }
}

/// All rows of the relation.
async fn everything(
    keeper: &Session,
    stream: &Stream,
    sources: &Sources<'_>,
) -> Result<Plan, SourceError> {
    let label = stream.relation.label();
    let mut notices = Vec::new();
    if stream.relation.kind == Kind::ForeignTable {
        notices.push(format!(
            "{label} is a foreign table: its rows are read outside the load's snapshot"
        ));
    }
    let mut chunks = if let Some(column) = &stream.split_column {
        sources.by_values(keeper, column).await?
    } else if !sources.paged {
        vec![sources.whole()]
    } else if sources.leaves.iter().all(|leaf| leaf.direct) {
        sources.by_pages()
    } else {
        notices.push(format!(
            "{label} has partitions that can only be read through their root: it is one chunk"
        ));
        vec![sources.whole()]
    };
    for (id, planned) in (0..).zip(&mut chunks) {
        planned.chunk.id = id;
    }
    Ok(Plan { chunks, increment: None, bytes: sources.bytes(), notices })
}

/// What a stream's rows lie in.
struct Sources<'a> {
    stream: &'a Stream,
    /// The relation itself, or its partitions; empty for views and the like.
    leaves: Vec<Leaf>,
    /// Whether ranges of pages make sense.
    paged: bool,
    pages: u64,
    page_bytes: u64,
    threads: usize,
}

impl<'a> Sources<'a> {
    async fn new(
        keeper: &Session,
        stream: &'a Stream,
        threads: usize,
    ) -> Result<Self, SourceError> {
        let paged = matches!(
            stream.relation.kind,
            Kind::Table | Kind::PartitionedTable | Kind::MaterializedView
        );
        let leaves = if paged { leaves(keeper, stream).await? } else { Vec::new() };
        let pages = leaves.iter().map(|leaf| leaf.pages).sum();
        let page_bytes = page_bytes(keeper).await?;
        Ok(Sources { stream, leaves, paged, pages, page_bytes, threads })
    }

    fn scope<'s>(&'s self, keeper: &'s Session, database: &'s str) -> Scope<'s> {
        Scope {
            keeper,
            stream: self.stream,
            from: self.root(),
            members: self.members().unwrap_or_else(|| "true".to_owned()),
            tables: self.leaves.iter().map(|leaf| leaf.oid).collect(),
            database,
        }
    }

    fn bytes(&self) -> u64 {
        self.pages * self.page_bytes
    }

    fn partitioned(&self) -> bool {
        self.stream.relation.kind == Kind::PartitionedTable
    }

    fn chunk_pages(&self) -> u64 {
        chunk_pages(self.pages, self.threads, self.stream.few_chunks)
    }

    /// The relation as it follows FROM.
    fn root(&self) -> String {
        let only = if self.stream.relation.kind == Kind::Table { "ONLY " } else { "" };
        format!("{only}{}", self.stream.relation.qualified())
    }

    /// Through the root, a partition attached after the snapshot would be read
    /// too: its rows may be older than the snapshot.
    fn members(&self) -> Option<String> {
        self.partitioned().then(|| member_condition(&self.leaves))
    }

    /// Everything at once, through the root.
    fn whole(&self) -> PlannedChunk {
        let chunk = v1::Chunk { bytes: self.bytes(), ..Default::default() };
        PlannedChunk { chunk, from: self.root(), conditions: self.members().into_iter().collect() }
    }

    /// Ranges of pages, leaf by leaf.
    fn by_pages(&self) -> Vec<PlannedChunk> {
        let size = self.chunk_pages();
        let mut chunks = Vec::new();
        for leaf in &self.leaves {
            // A partition without pages has no rows: its size was read after
            // the snapshot was taken.
            if self.partitioned() && leaf.pages == 0 {
                continue;
            }
            let name = sql::qualified(&leaf.namespace, &leaf.name);
            for (mut chunk, condition) in page_ranges(leaf.pages, size, self.page_bytes) {
                if self.partitioned() {
                    chunk.relation = name.clone();
                }
                let conditions = condition.into_iter().collect();
                chunks.push(PlannedChunk { chunk, from: format!("ONLY {name}"), conditions });
            }
        }
        if chunks.is_empty() { vec![self.whole()] } else { chunks }
    }

    /// Ranges of a column's values, through the root.
    async fn by_values(
        &self,
        keeper: &Session,
        column: &str,
    ) -> Result<Vec<PlannedChunk>, SourceError> {
        let wanted = match self.paged {
            true => self.pages.div_ceil(self.chunk_pages()),
            false => self.threads as u64,
        };
        let members = self.members();
        let within = split::Within {
            from: self.root(),
            members: members.clone().unwrap_or_else(|| "true".to_owned()),
            // Neither views nor foreign tables can be sampled.
            sampled_pages: (self.paged && !self.leaves.iter().any(|leaf| leaf.foreign))
                .then_some(self.pages),
        };
        let ranges = split::ranges(keeper, self.stream, column, &within, wanted).await?;
        let bytes = self.bytes() / ranges.len().max(1) as u64;
        let planned = |range: split::Range| PlannedChunk {
            chunk: v1::Chunk { min: range.min, max: range.max, bytes, ..Default::default() },
            from: self.root(),
            conditions: members.iter().cloned().chain(range.condition).collect(),
        };
        Ok(ranges.into_iter().map(planned).collect())
    }
}

/// Pages of one chunk; `few`: chunks cost more than uneven times do.
fn chunk_pages(pages: u64, threads: usize, few: bool) -> u64 {
    let (each, most) = match few {
        true => (1, MAX_FEW_CHUNK_PAGES),
        false => (CHUNKS_PER_THREAD, MAX_CHUNK_PAGES),
    };
    let chunks = (threads as u64).max(1) * each;
    pages.div_ceil(chunks).clamp(MIN_CHUNK_PAGES, most)
}

/// Half-open page ranges of `size` pages; the last has no end. One range for
/// an empty relation.
fn page_ranges(
    pages: u64,
    size: u64,
    page_bytes: u64,
) -> impl Iterator<Item = (v1::Chunk, Option<String>)> {
    let count = pages.div_ceil(size).max(1);
    (0..count).map(move |index| {
        let (start, end) = (index * size, (index + 1) * size);
        let last = index + 1 == count;
        let min = format!("'({start},0)'");
        let max = if last { String::new() } else { format!("'({end},0)'") };
        let bytes = (end.min(pages) - start) * page_bytes;
        let condition = match (start, last) {
            (0, true) => None,
            (_, true) => Some(format!("ctid >= {min}::tid")),
            (0, false) => Some(format!("ctid < {max}::tid")),
            _ => Some(format!("ctid >= {min}::tid AND ctid < {max}::tid")),
        };
        (v1::Chunk { min, max, bytes, ..Default::default() }, condition)
    })
}

/// Only rows of the partitions that the snapshot knows.
fn member_condition(leaves: &[Leaf]) -> String {
    if leaves.is_empty() {
        return "false".to_owned();
    }
    let oids: Vec<String> = leaves.iter().map(|leaf| leaf.oid.to_string()).collect();
    format!("tableoid IN ({})", oids.join(", "))
}

async fn page_bytes(keeper: &Session) -> Result<u64, SourceError> {
    let row = keeper
        .query_one("SELECT current_setting('block_size')::int8", &[])
        .await
        .map_err(SourceError::postgres("reading the server's block size"))?;
    Ok(row.get::<_, i64>(0).unsigned_abs().max(1))
}

/// The relation itself, or all leaves of a partitioned table at any level, as
/// the snapshot has them (pg_inherits, not pg_partition_tree(), which looks at
/// now).
async fn leaves(keeper: &Session, stream: &Stream) -> Result<Vec<Leaf>, SourceError> {
    let relation = &stream.relation;
    let query = "WITH RECURSIVE tree AS ( \
           SELECT $1::oid AS oid \
           UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i \
             JOIN tree t ON i.inhparent = t.oid WHERE $2 AND NOT i.inhdetachpending) \
         SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'f', \
           CASE WHEN c.relkind IN ('r', 'm') THEN \
             pg_relation_size(c.oid, 'main') / current_setting('block_size')::int8 ELSE 0 END, \
           c.relkind IN ('r', 'm') AND has_schema_privilege(n.oid, 'USAGE') \
             AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid) \
         FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind <> 'p' ORDER BY n.nspname, c.relname";
    let partitioned = relation.kind == Kind::PartitionedTable;
    let rows = keeper
        .query(query, &[&relation.oid, &partitioned])
        .await
        .map_err(SourceError::postgres(format!("counting the pages of {}", relation.label())))?;
    let leaf = |row: &tokio_postgres::Row| Leaf {
        oid: row.get(0),
        namespace: row.get(1),
        name: row.get(2),
        foreign: row.get(3),
        // Absent: dropped since the snapshot, which its lock rules out.
        pages: row.get::<_, Option<i64>>(4).unwrap_or(0).unsigned_abs(),
        // The relation itself was proven readable, by column if not as a whole.
        direct: !partitioned || row.get::<_, bool>(5),
    };
    Ok(rows.iter().map(leaf).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_megabytes_already_use_every_thread() {
        let pages = 12_800;
        for threads in [1, 2, 3, 8] {
            assert!(pages / chunk_pages(pages, threads, false) >= threads as u64, "{threads}");
        }
        assert_eq!(chunk_pages(0, 3, false), MIN_CHUNK_PAGES);
        assert_eq!(chunk_pages(u64::MAX / 2, 3, false), MAX_CHUNK_PAGES);
    }

    #[test]
    fn where_few_chunks_are_wanted_each_thread_gets_one() {
        for pages in [12_800, 1_000_001, 3 * MAX_FEW_CHUNK_PAGES] {
            for threads in [1, 2, 3] {
                let chunks = pages.div_ceil(chunk_pages(pages, threads, true));
                let most = pages.div_ceil(MAX_FEW_CHUNK_PAGES).max(threads as u64);
                assert_eq!(chunks, most, "{pages} pages, {threads} threads");
            }
        }
        assert_eq!(chunk_pages(100, 3, true), MIN_CHUNK_PAGES, "small tables stay whole");
    }

    #[test]
    fn page_ranges_meet_and_the_last_is_open() {
        let ranges: Vec<_> = page_ranges(2500, 1024, 8192).collect();
        let bounds: Vec<_> =
            ranges.iter().map(|(chunk, _)| (chunk.min.as_str(), chunk.max.as_str())).collect();
        assert_eq!(
            bounds,
            [("'(0,0)'", "'(1024,0)'"), ("'(1024,0)'", "'(2048,0)'"), ("'(2048,0)'", "")]
        );
        assert_eq!(ranges.iter().map(|(chunk, _)| chunk.bytes).sum::<u64>(), 2500 * 8192);
        assert_eq!(ranges[0].1.as_deref(), Some("ctid < '(1024,0)'::tid"));
        assert_eq!(ranges[2].1.as_deref(), Some("ctid >= '(2048,0)'::tid"));
    }

    #[test]
    fn an_empty_table_has_exactly_one_chunk() {
        let ranges: Vec<_> = page_ranges(0, 1024, 8192).collect();
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges[0].1, None);
    }
}
