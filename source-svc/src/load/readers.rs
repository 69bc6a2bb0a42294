//! A load's reader sessions: as many as max_threads, each in a transaction
//! that has imported the load's snapshot, used by one chunk after another.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::error::SqlState;

use super::snapshot;
use crate::config::Config;
use crate::connect::Session;
use crate::error::SourceError;
use crate::sql;

/// The readers of one load.
pub struct Readers {
    config: Arc<Config>,
    snapshot: String,
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
    pub fn new(config: Arc<Config>, snapshot: String) -> Self {
        let permits = Arc::new(Semaphore::new(config.max_threads.max(1)));
        Readers { config, snapshot, permits, idle: Mutex::new(Vec::new()) }
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
        Ok(Reader { session, _permit: permit })
    }

    fn pop(&self) -> Option<Session> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Reader {
    /// Keeps the session: its COPY ended well.
    pub fn give_back(self, readers: &Readers) {
        readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.session);
    }
}

impl std::ops::Deref for Reader {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.session
    }
}
