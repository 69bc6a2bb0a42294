//! A load's reader sessions: as many as max_threads, each in a transaction
//! that has imported the load's snapshot, used by one chunk after another.
//!
//! DDL that waits for the keeper's locks makes everybody behind it wait, also
//! who only reads: a reader that came to a table after it would wait for DDL
//! that waits for the load. So a reader locks what the load reads when it
//! begins; where DDL is ahead of it all the same, the load gives way.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::error::SqlState;

use super::LoadedTable;
use super::snapshot;
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;
use crate::sql;

/// Relations that a reader locks when it begins: as many as a server has room
/// for per session (max_locks_per_transaction's default). The rest it locks as
/// it comes to them.
const LOCKED_AT_ONCE: usize = 64;

/// The readers of one load.
pub struct Readers {
    config: Arc<Config>,
    snapshot: String,
    /// Statements that lock what the load reads.
    locks: String,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
}

/// A session at work. Dropping it ends the session and whatever it was doing;
/// [`Reader::give_back`] keeps it for the next chunk.
pub struct Reader {
    session: Session,
    _permit: OwnedSemaphorePermit,
}

impl Readers {
    /// `snapshot`: pg_export_snapshot()'s name.
    pub fn new(config: Arc<Config>, snapshot: String, tables: &[LoadedTable]) -> Self {
        let permits = Arc::new(Semaphore::new(config.max_threads.max(1)));
        let locks = locks(tables);
        Readers { config, snapshot, locks, permits, idle: Mutex::new(Vec::new()) }
    }

    /// Waits for a free place, then takes an idle session or opens one.
    pub async fn take(&self) -> Result<Reader, SourceError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| SourceError::Internal("the load's readers are closed".to_owned()))?;
        while let Some(session) = self.pop() {
            if !session.is_closed() {
                return Ok(Reader { session, _permit: permit });
            }
        }
        let session = Session::open(&self.config, "tidewater reader").await?;
        let import = format!(
            "{}; SET TRANSACTION SNAPSHOT {}",
            snapshot::BEGIN,
            sql::quote_literal(&self.snapshot)
        );
        if let Err(error) = session.batch_execute(&import).await {
            if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE)
                || error.code() == Some(&SqlState::UNDEFINED_OBJECT)
            {
                return Err(SourceError::LoadGone(format!(
                    "the server no longer has the load's snapshot {}",
                    self.snapshot
                )));
            }
            let doing = "importing the load's snapshot".to_owned();
            return Err(SourceError::Postgres { doing, source: error });
        }
        let locked = session.batch_execute(&self.locks).await;
        locked.map_err(|error| failed("locking the load's tables", error))?;
        Ok(Reader { session, _permit: permit })
    }

    fn pop(&self) -> Option<Session> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Locks every relation that a chunk reads, and what a view reads.
fn locks(tables: &[LoadedTable]) -> String {
    let mut relations: Vec<&str> =
        tables.iter().flat_map(|table| &table.chunks).map(|chunk| chunk.from.as_str()).collect();
    // Chunks of a relation follow each other.
    relations.dedup();
    relations.truncate(LOCKED_AT_ONCE);
    let lock = |relation: &&str| format!("SELECT 1 FROM {relation} LIMIT 0;");
    relations.iter().map(lock).collect()
}

/// Why a reader could not go on. A lock that it cannot have is one that DDL
/// waits for ahead of it, and that DDL waits for the keeper: only the end of
/// the load lets both go on.
pub fn failed(doing: &str, source: tokio_postgres::Error) -> SourceError {
    if source.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return SourceError::LoadGone(format!(
            "{doing}: the load gives way to DDL that waits for it ({source})"
        ));
    }
    SourceError::Postgres { doing: doing.to_owned(), source }
}

impl Reader {
    /// Keeps the session: its COPY ended well.
    pub fn give_back(self, readers: &Readers) {
        readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.session);
    }
}

impl std::ops::Deref for Reader {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}
