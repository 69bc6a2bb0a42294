//! A window of the log: its messages in commit order, and where it ends.
//!
//! ```text
//! once:  pg_copy_logical_replication_slot(slot, ours, temporary)
//! each:  COPY (SELECT data FROM pg_logical_slot_get_binary_changes(ours, to, window, …))
//!        confirmed_flush_lsn of ours = where the window ends
//! ```
//!
//! The server looks at the window's size between transactions only: a window
//! holds whole transactions, and everything that was committed at or before its
//! end is in it or in one before it. The end is that of a record, never `to`
//! itself, which may lie in the middle of one.
//!
//! The permanent slot is not touched by reading, and the temporary one goes
//! with its session.

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use proto::lsn::Lsn;
use tokio_postgres::CopyOutStream;
use tokio_postgres::error::SqlState;

use crate::capture::{server, slot};
use crate::connect::Session;
use crate::decode::frame::{self, Cell, Framed};
use crate::error::SourceError;
use crate::sql;
use crate::tap::Copying;

/// Of a window, however little room the server has.
const LEAST_MESSAGES: i32 = 1_000;

/// A reader of one slot's log.
pub struct Log {
    session: Arc<Session>,
    /// The temporary copy.
    copy: String,
    /// Of `publication_names`.
    publications: String,
    /// Messages at which a window ends with its transaction.
    window: i32,
    /// Where the window before ended.
    position: Lsn,
}

impl Log {
    /// From the slot's confirmed position on.
    pub async fn open(
        session: Session,
        slot: &str,
        publications: String,
        window: i32,
    ) -> Result<Log, SourceError> {
        let copy = format!("tidewater_{}", uuid::Uuid::new_v4().simple());
        let statement = format!(
            "SELECT pg_catalog.pg_copy_logical_replication_slot({}, {}, true)",
            sql::quote_literal(slot),
            sql::quote_literal(&copy)
        );
        if let Err(error) = session.batch_execute(&statement).await {
            let what = format!("the replication slot {slot:?} could not be copied");
            return Err(slot::explain_creation(&session, what, error).await);
        }
        let session = Arc::new(session);
        let mut log = Log { session, copy, publications, window, position: Lsn(0) };
        log.position = log.confirmed().await?;
        log.window = log.window.min(log.affordable().await?);
        Ok(log)
    }

    /// Messages of a window that the server's temporary files have room for.
    async fn affordable(&self) -> Result<i32, SourceError> {
        let query = "SELECT setting::int8 FROM pg_settings WHERE name = 'temp_file_limit'";
        let row = self.session.query_one(query, &[]).await;
        let row = row.map_err(SourceError::postgres("reading temp_file_limit"))?;
        // In kilobytes, which a message has less than on average; -1: no limit.
        Ok(match row.get::<_, i64>(0) {
            ..0 => i32::MAX,
            kilobytes => i32::try_from(kilobytes).unwrap_or(i32::MAX).max(LEAST_MESSAGES),
        })
    }

    /// Everything that ends at or before it has been read.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The session, between windows.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Begins the next window, which reaches `to` if it does not fill before. The
    /// answer comes when the server has looked through all of it.
    pub fn window(
        &self,
        to: Lsn,
        max_row_bytes: u64,
    ) -> impl Future<Output = Result<Window, SourceError>> + Send + use<> {
        let statement = format!(
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes({}, {}, {}, \
             'proto_version', '1', 'publication_names', {})) TO STDOUT (FORMAT binary)",
            sql::quote_literal(&self.copy),
            sql::quote_literal(&to.to_string()),
            self.window,
            sql::quote_literal(&self.publications)
        );
        let session = Arc::clone(&self.session);
        async move {
            let data = session.tap().open();
            let rest = session.copy_out(&statement).await.map_err(failed)?;
            Ok(Window { data, rest, messages: Messages::new(max_row_bytes) })
        }
    }

    /// Where the window ends that was read to its end.
    pub async fn end(&mut self) -> Result<Lsn, SourceError> {
        let end = self.confirmed().await?;
        self.position = end;
        Ok(end)
    }

    async fn confirmed(&self) -> Result<Lsn, SourceError> {
        let query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots \
                     WHERE slot_name = $1";
        let row = self.session.query_one(query, &[&self.copy]).await;
        let row = row.map_err(SourceError::postgres("reading how far the log was read"))?;
        let position = server::lsn(&row, 0)?;
        position.ok_or_else(|| SourceError::Internal("a slot without a position".to_owned()))
    }
}

/// One window being read.
pub struct Window {
    data: Copying,
    rest: CopyOutStream,
    messages: Messages,
}

impl Window {
    /// Waits for more; `false`: all messages have come. Afterwards,
    /// [`Self::messages`] until there are none.
    pub async fn more(&mut self) -> bool {
        match self.data.next().await {
            Some(block) => {
                self.data.recycle(self.messages.push(block));
                true
            }
            None => false,
        }
    }

    /// The messages that have come.
    pub fn messages(&mut self) -> &mut Messages {
        &mut self.messages
    }

    /// Succeeds if the window is whole: the server says so, and counts as many
    /// messages as came.
    pub async fn finish(self) -> Result<(), SourceError> {
        let Window { data, rest, messages } = self;
        if let Some(more) = pin!(rest).next().await {
            more.map_err(failed)?;
            return Err(SourceError::Internal("data of a COPY went the wrong way".to_owned()));
        }
        let tag = data.tag().await;
        if messages.ended && tag == Some(messages.count) {
            return Ok(());
        }
        Err(bad(format!("the log ends after {} messages, the server says {tag:?}", messages.count)))
    }
}

/// Messages in COPY's binary form, however it is cut.
pub struct Messages {
    block: Vec<u8>,
    /// Bytes of it that are done with.
    done: usize,
    cells: Vec<Cell>,
    begun: bool,
    ended: bool,
    count: u64,
    /// What a message may have.
    limit: usize,
}

impl Messages {
    fn new(max_row_bytes: u64) -> Self {
        // An old and a new row, each byte as two digits; and what goes with it.
        let limit = max_row_bytes.saturating_mul(4).saturating_add(1 << 20);
        Messages {
            block: Vec::new(),
            done: 0,
            cells: Vec::new(),
            begun: false,
            ended: false,
            count: 0,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    /// Takes bytes; gives back memory that is of no more use.
    fn push(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if self.done == self.block.len() {
            std::mem::swap(&mut self.block, &mut bytes);
        } else {
            self.block.drain(..self.done);
            self.block.extend_from_slice(&bytes);
        }
        self.done = 0;
        bytes
    }

    /// The next message; `None`: more bytes are needed.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, SourceError> {
        if !self.begun {
            match frame::header(&self.block).map_err(bad)? {
                Some(length) => self.done = length,
                None => return Ok(None),
            }
            self.begun = true;
        }
        if self.done == self.block.len() {
            return Ok(None);
        }
        self.cells.clear();
        match frame::row(&self.block, self.done, 1, self.limit, &mut self.cells).map_err(bad)? {
            Framed::Row(length) if !self.ended => {
                self.done += length;
                self.count += 1;
                let message = self.cells.first().and_then(|cell| cell.of(&self.block));
                message.map(Some).ok_or_else(|| bad("a message that is NULL".to_owned()))
            }
            Framed::Row(_) => Err(bad("messages follow the end".to_owned())),
            Framed::Trailer => {
                self.ended = true;
                self.done = self.block.len();
                Ok(None)
            }
            Framed::Incomplete => Ok(None),
            Framed::TooLarge(bytes) => Err(SourceError::RowTooLarge {
                table: "the log".to_owned(),
                key: format!("in message {} of the window", self.count + 1),
                bytes: bytes as u64,
                limit: self.limit as u64,
            }),
        }
    }
}

/// The log is not what it should be.
pub fn bad(what: String) -> SourceError {
    SourceError::BadData { table: "the log".to_owned(), key: "none".to_owned(), what }
}

/// A read that the server refused.
fn failed(source: tokio_postgres::Error) -> SourceError {
    let said = source.as_db_error().map(|said| said.message().to_owned()).unwrap_or_default();
    if said.contains("invalid memory alloc request size")
        || said.contains("out of memory") && said.contains("Cannot enlarge string buffer")
    {
        return SourceError::Capture {
            what: format!("a row of the log is larger than the server can send as text: {said}"),
            remedy: "take the table out of selected_streams and out of the publication, or move the \
                     slot past the row (pg_replication_slot_advance); the next sync loads anew what \
                     missed something"
                .to_owned(),
        };
    }
    if source.code() == Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED) {
        return SourceError::Capture {
            what: format!("the server may not keep a large transaction in temporary files: {said}"),
            remedy:
                "raise temp_file_limit for our role (ALTER ROLE … SET temp_file_limit), or sync \
                     without the slot: drop it, and the next sync loads anew"
                    .to_owned(),
        };
    }
    if said.contains("could not map filen") {
        return SourceError::Capture {
            what: format!(
                "the server cannot decode its own log where it reads it from, beside a table that \
                 was rewritten or truncated in a transaction that had begun before: {said}"
            ),
            remedy: "sync again; if that does not help, drop the slot (SELECT \
                     pg_drop_replication_slot(…)): the next sync makes it anew and loads the tables"
                .to_owned(),
        };
    }
    SourceError::Postgres { doing: "reading the log".to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(messages: &[&[u8]]) -> Vec<u8> {
        let mut bytes = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        for message in messages {
            bytes.extend([0, 1]);
            bytes.extend((message.len() as i32).to_be_bytes());
            bytes.extend(*message);
        }
        bytes.extend((-1i16).to_be_bytes());
        bytes
    }

    #[test]
    fn messages_come_out_however_the_copy_was_cut() {
        let bytes = copy(&[b"B1", b"", &[7; 300]]);
        for piece in [1, 2, 7, 64, 1000] {
            let mut messages = Messages::new(1 << 20);
            let mut read = Vec::new();
            for piece in bytes.chunks(piece) {
                messages.push(piece.to_vec());
                while let Some(message) = messages.next_message().unwrap() {
                    read.push(message.to_vec());
                }
            }
            assert_eq!(read, [b"B1".to_vec(), Vec::new(), vec![7; 300]]);
            assert!(messages.ended);
        }
    }

    #[test]
    fn a_message_beyond_the_limit_is_an_error_before_it_is_all_here() {
        let mut messages = Messages::new(0);
        let mut bytes = copy(&[]);
        bytes.truncate(19);
        bytes.extend([0, 1]);
        bytes.extend((2i32 << 20).to_be_bytes());
        messages.push(bytes);
        assert!(matches!(messages.next_message(), Err(SourceError::RowTooLarge { .. })));
    }
}
