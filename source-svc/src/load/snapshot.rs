//! One snapshot for a whole load, and the session that keeps it true.
//!
//! ```text
//! BEGIN REPEATABLE READ READ ONLY (by hand-off: with a slot's snapshot) → LOCK … ACCESS SHARE → first query: the snapshot
//!   → every relation's file in the snapshot = its file now?  no: ROLLBACK, again
//!   → pg_export_snapshot()
//! ```
//!
//! A snapshot is not safe against DDL: after TRUNCATE or a rewriting ALTER
//! TABLE an older snapshot reads no rows at all. Invariant: from the moment of
//! export to the keeper's end, every relation of the load has the file that
//! the snapshot knows, because the keeper holds a lock on it and has looked.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use proto::lsn::Lsn;
use proto::v1;
use proto::v1::relation::Kind;
use tokio_postgres::error::SqlState;

use super::handoff;
use super::stream::{Faults, Stream};
use crate::capture::publication::{self, Names};
use crate::capture::server;
use crate::capture::shape::{self, Shape};
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;
use crate::relation::{self, RelationInfo};
use crate::sql;

/// Snapshots tried while tables keep being rewritten.
const ATTEMPTS: u32 = 5;

/// The transaction of the keeper and of every reader.
pub const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A snapshot with the streams that are read under it.
pub struct Snapshot {
    /// pg_export_snapshot()'s name.
    pub name: String,
    /// WAL position at or before the snapshot; by hand-off, the snapshot's.
    pub consistent_point: Lsn,
    /// In the order of the request.
    pub streams: Vec<Stream>,
    /// The requested streams that cannot be read, by namespace and name.
    pub apart: HashMap<(String, String), SourceError>,
    /// By hand-off, those of the streams' relations, by namespace and name.
    pub shapes: HashMap<(String, String), Shape>,
}

/// How a relation is to be locked.
struct Target {
    kind: char,
    /// LOCK TABLE wants SELECT on the whole table.
    may_lock: bool,
}

/// Takes a snapshot on `keeper`, whose transaction holds it from then on.
pub async fn take(
    keeper: &Session,
    request: &v1::OpenLoadRequest,
    config: &Config,
) -> Result<Snapshot, SourceError> {
    let (requests, slot) = (request.streams.as_slice(), request.slot.as_str());
    let publication = request.publication.as_deref();
    let publications = publication.map(|publication| Names::new(publication, slot)).transpose()?;
    let names = publications.as_ref().map(|names| names.both().to_vec()).unwrap_or_default();
    for attempt in 1..=ATTEMPTS {
        let targets = targets(keeper, requests).await?;
        let shapes =
            if slot.is_empty() { HashMap::new() } else { shapes(keeper, requests, &names).await? };
        let consistent_point = if slot.is_empty() {
            let consistent_point = consistent_point(keeper).await?;
            begin(keeper).await?;
            consistent_point
        } else {
            handoff::begin(keeper, config, slot).await?
        };
        let locks = Locks { keeper, lock_timeout: config.lock_timeout };
        locks.tables(requests, &targets).await?;
        let (mut streams, apart) =
            streams(keeper, requests, &config.username, request.spare_others).await?;
        if let Some(publications) = &publications {
            leave_out_unsent(keeper, publications, requests, &mut streams).await?;
        }
        locks.by_reading(&streams).await?;
        let moved = moved_relations(keeper).await?;
        if moved.is_empty() {
            let doing = "exporting the load's snapshot";
            let row = keeper
                .query_one("SELECT pg_export_snapshot()", &[])
                .await
                .map_err(SourceError::postgres(doing))?;
            let name = row.get(0);
            return Ok(Snapshot { name, consistent_point, streams, apart, shapes });
        }
        let moved = moved.join(", ");
        tracing::warn!(attempt, moved, "tables were rewritten while the snapshot was taken");
        rollback(keeper).await?;
    }
    Err(SourceError::Busy {
        what: format!("tables were rewritten or truncated during each of {ATTEMPTS} snapshots"),
        remedy: "try again when the DDL is done".to_owned(),
    })
}

/// Before the snapshot: what changes from here on is not missed.
async fn shapes(
    keeper: &Session,
    requests: &[v1::LoadStream],
    publications: &[&str],
) -> Result<HashMap<(String, String), Shape>, SourceError> {
    let namespaces: Vec<&str> = requests.iter().map(|r| r.namespace.as_str()).collect();
    let names: Vec<&str> = requests.iter().map(|r| r.name.as_str()).collect();
    shape::of(keeper, &namespaces, &names, publications).await
}

async fn begin(keeper: &Session) -> Result<(), SourceError> {
    keeper.batch_execute(BEGIN).await.map_err(SourceError::postgres("opening the load"))
}

async fn rollback(keeper: &Session) -> Result<(), SourceError> {
    keeper.batch_execute("ROLLBACK").await.map_err(SourceError::postgres("opening the load"))
}

/// Read before the snapshot: what is flushed up to here may be in it, what
/// comes after it is not missing from a log read from here.
async fn consistent_point(keeper: &Session) -> Result<Lsn, SourceError> {
    server::end_of_log(keeper).await
}

/// What each requested relation is, by its place; absent: does not exist.
async fn targets(
    keeper: &Session,
    requests: &[v1::LoadStream],
) -> Result<BTreeMap<usize, Target>, SourceError> {
    let namespaces: Vec<&str> = requests.iter().map(|r| r.namespace.as_str()).collect();
    let names: Vec<&str> = requests.iter().map(|r| r.name.as_str()).collect();
    let query = "SELECT s.place, c.relkind::text, \
           has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') \
         FROM unnest($1::text[], $2::text[]) WITH ORDINALITY s (namespace, name, place) \
         JOIN pg_catalog.pg_namespace n ON n.nspname = s.namespace \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.name";
    let rows = keeper
        .query(query, &[&namespaces, &names])
        .await
        .map_err(SourceError::postgres("looking up the streams' tables"))?;
    let target = |row: &tokio_postgres::Row| {
        let place = usize::try_from(row.get::<_, i64>(0)).unwrap_or_default();
        let kind = row.get::<_, &str>(1).chars().next().unwrap_or('?');
        (place.saturating_sub(1), Target { kind, may_lock: row.get(2) })
    };
    Ok(rows.iter().map(target).collect())
}

/// Takes the keeper's locks.
struct Locks<'a> {
    keeper: &'a Session,
    /// What the session waits; for messages.
    lock_timeout: Duration,
}

impl Locks<'_> {
    /// Locks tables and partitioned roots, with their partitions, before the
    /// snapshot. The others cannot be locked so: see [`Self::by_reading`].
    async fn tables(
        &self,
        requests: &[v1::LoadStream],
        targets: &BTreeMap<usize, Target>,
    ) -> Result<(), SourceError> {
        for (place, request) in requests.iter().enumerate() {
            let (namespace, name) = (&request.namespace, &request.name);
            let only = match targets.get(&place) {
                Some(Target { kind: 'r', may_lock: true }) => "ONLY ",
                Some(Target { kind: 'p', may_lock: true }) => "",
                _ => continue,
            };
            let table = sql::qualified(namespace, name);
            let statement = format!("LOCK TABLE {only}{table} IN ACCESS SHARE MODE");
            self.lock(&statement, namespace, name).await?;
        }
        Ok(())
    }

    /// Runs every stream's query for no rows. That locks what LOCK TABLE
    /// cannot (materialized views, what views read, foreign tables) and proves
    /// that the role may read what it must and that the server accepts the
    /// filter.
    async fn by_reading(&self, streams: &[Stream]) -> Result<(), SourceError> {
        for stream in streams {
            let relation = &stream.relation;
            let table = relation.qualified();
            if relation.kind == Kind::PartitionedTable && relation.readable {
                // Again: a partition may have been attached between the first
                // lock and the snapshot.
                let statement = format!("LOCK TABLE {table} IN ACCESS SHARE MODE");
                self.lock(&statement, &relation.namespace, &relation.name).await?;
            }
            let only = if relation.kind == Kind::Table { "ONLY " } else { "" };
            let condition = stream.filter.as_deref().unwrap_or("true");
            let list = stream.select_list();
            let statement = format!("SELECT {list} FROM {only}{table} WHERE {condition} LIMIT 0");
            self.lock(&statement, &relation.namespace, &relation.name).await?;
        }
        Ok(())
    }

    async fn lock(&self, statement: &str, namespace: &str, name: &str) -> Result<(), SourceError> {
        let Err(error) = self.keeper.batch_execute(statement).await else { return Ok(()) };
        if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
            return Err(refused(error, namespace, name));
        }
        rollback(self.keeper).await?;
        Err(SourceError::LockTimeout {
            what: format!("{namespace}.{name}"),
            waited: self.lock_timeout,
            // Who it was helps, but the timeout is what is to be reported.
            blockers: blockers(self.keeper, namespace, name).await.unwrap_or_default(),
        })
    }
}

/// A probe's refusal: of what the user wrote, or of what the role may do.
fn refused(error: tokio_postgres::Error, namespace: &str, name: &str) -> SourceError {
    let class = error.code().map(|code| code.code().get(..2).unwrap_or("").to_owned());
    let of_the_request = [
        &SqlState::UNDEFINED_FUNCTION,
        &SqlState::AMBIGUOUS_FUNCTION,
        &SqlState::DATATYPE_MISMATCH,
        &SqlState::INDETERMINATE_COLLATION,
    ];
    let wrong_value = class.as_deref() == Some("22");
    if wrong_value || error.code().is_some_and(|code| of_the_request.contains(&code)) {
        let said = error.as_db_error().map(|e| e.message().to_owned()).unwrap_or_default();
        return SourceError::Invalid {
            what: format!("the filter of {namespace}.{name} is refused by the server: {said}"),
            remedy: "correct the stream's filter in streams.json".to_owned(),
        };
    }
    SourceError::Postgres {
        doing: format!("locking {namespace}.{name} for the load"),
        source: error,
    }
}

/// Who holds, or waits ahead of us for, a lock that excludes reading.
async fn blockers(
    keeper: &Session,
    namespace: &str,
    name: &str,
) -> Result<Vec<String>, SourceError> {
    let query = "WITH RECURSIVE tree AS ( \
           SELECT c.oid FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2 \
           UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree t ON i.inhparent = t.oid) \
         SELECT DISTINCT coalesce(format('pid %s (user %s, application %s, %s): %s', \
             a.pid, a.usename, coalesce(nullif(a.application_name, ''), 'unnamed'), \
             a.state, left(a.query, 120)), \
             'a prepared transaction (see pg_prepared_xacts)') \
         FROM pg_catalog.pg_locks l \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' \
           AND l.relation IN (SELECT oid FROM tree) AND l.pid IS DISTINCT FROM pg_backend_pid() \
         LIMIT 10";
    let rows = keeper
        .query(query, &[&namespace, &name])
        .await
        .map_err(SourceError::postgres("looking for who holds the lock"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The relations as the snapshot has them, each held against its request, and, with
/// `spare_others`, those that cannot be read; else, where there are no others, and of
/// wrong requests, all faults of all tables at once.
async fn streams(
    keeper: &Session,
    requests: &[v1::LoadStream],
    role: &str,
    spare_others: bool,
) -> Result<(Vec<Stream>, HashMap<(String, String), SourceError>), SourceError> {
    let (mut all, mut wrong) = (Faults::default(), Faults::default());
    let (mut streams, mut apart) = (Vec::with_capacity(requests.len()), HashMap::new());
    for request in requests {
        let found = relation::find(keeper, &request.namespace, &request.name).await?;
        let mut faults = Faults::default();
        streams.extend(Stream::new(request, found, &mut faults));
        all.extend(faults.clone());
        wrong.config.append(&mut faults.config);
        let key = (request.namespace.clone(), request.name.clone());
        apart.extend(faults.into_result(role).err().map(|why| (key, why)));
    }
    if !spare_others || streams.is_empty() {
        all.into_result(role)?;
    }
    wrong.into_result(role)?;
    Ok((streams, apart))
}

/// Of streams that are followed, takes out the generated columns that no publication
/// sends: the log would leave them null, row by row.
async fn leave_out_unsent(
    keeper: &Session,
    names: &Names,
    requests: &[v1::LoadStream],
    streams: &mut [Stream],
) -> Result<(), SourceError> {
    let is_followed = |stream: &Stream| {
        let RelationInfo { namespace, name, .. } = &stream.relation;
        let same = |of: &&v1::LoadStream| of.namespace == *namespace && of.name == *name;
        requests.iter().find(same).is_some_and(|request| request.followed)
    };
    let mut followed: Vec<&mut Stream> =
        streams.iter_mut().filter(|stream| is_followed(stream)).collect();
    let oids: Vec<u32> = followed.iter().map(|stream| stream.relation.oid).collect();
    let query = "SELECT attrelid, attnum, attgenerated = 's' FROM pg_catalog.pg_attribute \
         WHERE attrelid = ANY ($1) AND attgenerated <> '' AND NOT attisdropped";
    let doing = "reading which columns are generated";
    let rows = keeper.query(query, &[&oids]).await.map_err(SourceError::postgres(doing))?;
    if rows.is_empty() {
        return Ok(());
    }
    let publications = publication::find(keeper, names).await?;
    for stream in &mut followed {
        let RelationInfo { oid, namespace, name, .. } = &stream.relation;
        let stored = publications.sends_stored(&(namespace.clone(), name.clone()));
        let generated = rows.iter().filter(|row| row.get::<_, u32>(0) == *oid);
        let unsent = generated.filter(|row| !(stored && row.get::<_, bool>(2)));
        let unsent: Vec<i16> = unsent.map(|row| row.get(1)).collect();
        stream.columns.retain(|column| !unsent.contains(&column.attnum));
    }
    Ok(())
}

/// Of the relations that the keeper has locked, those whose file is no longer
/// the one that the snapshot knows.
async fn moved_relations(keeper: &Session) -> Result<Vec<String>, SourceError> {
    // pg_class is read by the snapshot; pg_relation_filenode() looks at now.
    let query = "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c \
         WHERE c.relkind IN ('r', 'm') AND c.relfilenode <> 0 \
           AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid) \
           AND c.oid IN (SELECT l.relation FROM pg_catalog.pg_locks l \
             WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted \
               AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d \
                                 WHERE d.datname = current_database()))";
    let rows = keeper
        .query(query, &[])
        .await
        .map_err(SourceError::postgres("comparing the snapshot's files with the current ones"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
