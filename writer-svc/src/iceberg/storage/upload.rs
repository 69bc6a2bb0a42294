//! A large object on its way into a bucket.
//!
//! ```text
//! write ─► buffer ─(a part is full)─► at most `parts` requests at once ─► complete
//! ```
//!
//! What fits into one part is one put. More is a multipart upload, which nobody
//! sees until it is completed, and which is aborted when it is given up; only a
//! process that is killed leaves one behind. Parts are of one size, as some
//! stores demand. Memory: `parts` + 1 parts.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path as Key;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::Uploads;
use super::refusal::refused;
use crate::error::WriterError;
use crate::stage::Sink;

/// Longest wait for the end of an upload that is given up.
const ABORT: Duration = Duration::from_secs(10);

/// An object being written.
pub struct Upload {
    store: Arc<dyn ObjectStore>,
    key: Key,
    location: PathBuf,
    handle: Handle,
    limits: Uploads,
    /// The part that is being filled.
    buffer: Vec<u8>,
    /// Once there is more than one part, until all are completed or aborted.
    begun: Option<Box<dyn MultipartUpload>>,
    /// Parts on their way.
    sending: JoinSet<Result<(), Error>>,
    size: u64,
}

impl Upload {
    /// Of an object that nobody else writes; sends nothing yet.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        key: Key,
        location: &str,
        handle: Handle,
        limits: Uploads,
    ) -> Self {
        Upload {
            store,
            key,
            location: location.into(),
            handle,
            limits,
            buffer: Vec::new(),
            begun: None,
            sending: JoinSet::new(),
            size: 0,
        }
    }

    /// Continues as a multipart upload that has begun.
    #[cfg(test)]
    pub(super) fn begin(&mut self, begun: Box<dyn MultipartUpload>) {
        self.begun = Some(begun);
    }

    fn error(&self, error: &Error) -> WriterError {
        refused("writing", &self.location.to_string_lossy(), error)
    }

    /// Waits until fewer than `limit` parts are on their way.
    fn wait(&mut self, limit: usize) -> Result<(), Error> {
        while self.sending.len() >= limit.max(1) {
            match self.handle.block_on(self.sending.join_next()) {
                Some(Ok(sent)) => sent?,
                Some(Err(ended)) => return Err(ended.into()),
                None => break,
            }
        }
        Ok(())
    }

    /// Sends what is in the buffer as the next part.
    fn send(&mut self) -> Result<(), Error> {
        self.wait(self.limits.parts)?;
        let begun = match &mut self.begun {
            Some(begun) => begun,
            none => none.insert(self.handle.block_on(self.store.put_multipart(&self.key))?),
        };
        let part = std::mem::take(&mut self.buffer);
        let part = begun.put_part(PutPayload::from(part));
        self.sending.spawn_on(part, &self.handle);
        Ok(())
    }

    fn complete(&mut self) -> Result<(), Error> {
        if self.begun.is_none() {
            let whole = PutPayload::from(std::mem::take(&mut self.buffer));
            return self.handle.block_on(self.store.put(&self.key, whole)).map(drop);
        }
        if !self.buffer.is_empty() {
            self.send()?;
        }
        self.wait(1)?;
        if let Some(begun) = &mut self.begun {
            self.handle.block_on(begun.complete())?;
            self.begun = None;
        }
        Ok(())
    }

    fn abort(&mut self) {
        let Some(mut begun) = self.begun.take() else { return };
        let sending = &mut self.sending;
        let aborted = self.handle.block_on(async {
            sending.shutdown().await;
            tokio::time::timeout(ABORT, begun.abort()).await
        });
        let left = match aborted {
            Ok(Ok(())) => return,
            Ok(Err(error)) => self.error(&error).to_string(),
            Err(_) => format!("no answer in {} s", ABORT.as_secs()),
        };
        tracing::warn!("the upload of {} is left unfinished: {left}", self.location.display());
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A part is sent when more comes: the last may be the only one.
        if self.buffer.len() == self.limits.part_bytes {
            self.send().map_err(|error| io::Error::other(self.error(&error)))?;
        }
        let taken = bytes.len().min(self.limits.part_bytes - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.size += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Upload {
    fn location(&self) -> &Path {
        &self.location
    }

    fn finish(&mut self) -> Result<u64, WriterError> {
        self.complete().map_err(|error| self.error(&error))?;
        Ok(self.size)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.abort();
    }
}
