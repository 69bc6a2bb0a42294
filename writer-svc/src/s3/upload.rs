//! A large object on its way into a bucket.
//!
//! ```text
//! write ─► buffer ─(a part is full)─► at most `parts` requests at once ─► complete
//! ```
//!
//! What fits into one part is one put. More is a multipart upload, which nobody
//! sees until it is completed, and which is aborted when it is given up; only a
//! process that is killed leaves one behind. A held upload is not completed here:
//! its end is all parts sent, and whoever holds its name completes or aborts it.
//! Parts are of one size, as some stores demand. Memory: `parts` + 1 parts.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use object_store::multipart::PartId;
use object_store::path::Path as Key;
use object_store::{Error, MultipartId, ObjectStoreExt, PutPayload};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::bucket::Store;
use super::lent::{Lender, are_exchanged, with_keys};
use super::refusal::refused;
use super::{Names, Uploads};
use crate::error::WriterError;
use crate::stage::Sink;

/// Longest wait for the end of an upload that is given up.
const ABORT: Duration = Duration::from_secs(8);

/// What the store answered to the parts of a held upload, once all are sent.
pub type Parts = Arc<OnceLock<Vec<String>>>;

/// An object being written.
pub struct Upload {
    store: Arc<dyn Store>,
    key: Key,
    location: PathBuf,
    names: &'static Names,
    handle: Handle,
    limits: Uploads,
    /// Of the keys, if they are not ours.
    lender: Option<Arc<dyn Lender>>,
    /// The part that is being filled.
    buffer: Vec<u8>,
    /// Once there is more than one part, until all are completed or aborted.
    begun: Option<MultipartId>,
    /// Where to leave the parts, and not complete them.
    held: Option<Parts>,
    /// Parts begun.
    next: usize,
    /// Parts on their way.
    sending: JoinSet<Result<(usize, PartId), Error>>,
    sent: BTreeMap<usize, PartId>,
    size: u64,
}

impl Upload {
    /// Of an object that nobody else writes; sends nothing yet.
    pub(super) fn new(
        store: Arc<dyn Store>,
        key: Key,
        location: &str,
        names: &'static Names,
        handle: Handle,
        limits: Uploads,
    ) -> Self {
        Upload {
            store,
            key,
            location: location.into(),
            names,
            handle,
            limits,
            lender: None,
            buffer: Vec::new(),
            begun: None,
            held: None,
            next: 0,
            sending: JoinSet::new(),
            sent: BTreeMap::new(),
            size: 0,
        }
    }

    /// With keys that are lent.
    pub(super) fn lent(mut self, lender: Option<Arc<dyn Lender>>) -> Self {
        self.lender = lender;
        self
    }

    /// One request, of which the store is told as often as its keys need.
    fn ask<T>(&self, request: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
        self.handle.block_on(with_keys(self.lender.as_ref(), request))
    }

    /// Sends the parts of an upload that has begun, and leaves what the store
    /// answered in `parts`.
    pub fn held(mut self, upload: String, parts: Parts) -> Self {
        self.begun = Some(upload);
        self.held = Some(parts);
        self
    }

    fn error(&self, error: &Error) -> WriterError {
        refused("writing", &self.location.to_string_lossy(), self.names, error)
    }

    /// Waits until fewer than `limit` parts are on their way.
    fn wait(&mut self, limit: usize) -> Result<(), Error> {
        while self.sending.len() >= limit.max(1) {
            match self.handle.block_on(self.sending.join_next()) {
                Some(Ok(sent)) => {
                    let (number, part) = sent?;
                    self.sent.insert(number, part);
                }
                Some(Err(ended)) => return Err(ended.into()),
                None => break,
            }
        }
        Ok(())
    }

    /// Sends what is in the buffer as the next part.
    fn send(&mut self) -> Result<(), Error> {
        self.wait(self.limits.parts)?;
        let upload = match &self.begun {
            Some(begun) => begun.clone(),
            None => {
                let begun = self.ask(async || self.store.create_multipart(&self.key).await)?;
                self.begun.insert(begun).clone()
            }
        };
        let (store, key, number) = (Arc::clone(&self.store), self.key.clone(), self.next);
        let part = PutPayload::from(std::mem::take(&mut self.buffer));
        self.next += 1;
        let lender = self.lender.clone();
        let send = async move {
            let began = Instant::now();
            let mut sent = store.put_part(&key, &upload, number, part.clone()).await;
            if are_exchanged(lender.as_ref(), &sent, began).await {
                sent = store.put_part(&key, &upload, number, part).await;
            }
            sent.map(|part| (number, part))
        };
        self.sending.spawn_on(send, &self.handle);
        Ok(())
    }

    fn complete(&mut self) -> Result<(), Error> {
        if self.begun.is_none() {
            let whole = PutPayload::from(std::mem::take(&mut self.buffer));
            let put = async || self.store.put(&self.key, whole.clone()).await;
            return self.ask(put).map(drop);
        }
        if !self.buffer.is_empty() || self.next == 0 {
            self.send()?;
        }
        self.wait(1)?;
        let parts = std::mem::take(&mut self.sent).into_values();
        if let Some(held) = &self.held {
            let parts = parts.map(|part| part.content_id).collect();
            // Set once: nothing is written after.
            let _ = held.set(parts);
        } else if let Some(begun) = &self.begun {
            let parts: Vec<PartId> = parts.collect();
            let complete =
                async || self.store.complete_multipart(&self.key, begun, parts.clone()).await;
            self.ask(complete)?;
        }
        self.begun = None;
        Ok(())
    }

    fn abort(&mut self) {
        let Some(begun) = self.begun.take() else { return };
        let sending = &mut self.sending;
        let aborted = self.handle.block_on(async {
            sending.shutdown().await;
            tokio::time::timeout(ABORT, self.store.abort_multipart(&self.key, &begun)).await
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
        if self.buffer.capacity() == 0 {
            // Growing would take up to twice as much.
            self.buffer.reserve_exact(self.limits.part_bytes);
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
