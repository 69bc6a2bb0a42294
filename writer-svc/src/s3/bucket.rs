//! The objects of a bucket, whole: put, read, listed and removed.
//!
//! The clients are asynchronous and everything here blocks: every call drives
//! them by the runtime's handle, on a thread that may block. A plain put is of
//! a name that nobody else uses, so it needs no condition and may be repeated.
//!
//! A call has a short patience until the store has answered once, if only that it
//! is busy: what is configured wrong is said soon. After that a store may be away
//! for a while.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::{
    Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};
use proto::v1::S3;
use tokio::runtime::Handle;

use super::lent::{Lender, with_keys};
use super::refusal::{Refusal, is_busy, refused};
use super::settings::{self, Names, Patience};
use super::upload::Upload;
use super::{Uploads, split};
use crate::error::WriterError;

/// Requests at once for one call about many objects.
const AT_ONCE: usize = 16;

/// A store that can upload in parts across processes.
pub trait Store: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Store for T {}

/// A bucket, and what is needed to reach it.
pub struct Bucket {
    name: String,
    names: &'static Names,
    /// Used until it has answered once.
    first: Arc<dyn Store>,
    /// Used after that, and for data.
    steady: Arc<dyn Store>,
    answered: AtomicBool,
    handle: Handle,
    uploads: Uploads,
    /// Of the keys, if they are not ours.
    lender: Option<Arc<dyn Lender>>,
}

// The clients' own would show what the configuration says.
impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An object that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// All of it.
    pub content: Bytes,
    /// What tells it from any other content of that name.
    pub tag: Option<String>,
}

/// What must be true of a name for a put to be made.
#[derive(Clone, Copy, Debug)]
pub enum Condition<'a> {
    /// There is no such object.
    Absent,
    /// It is still the one with this tag.
    Is(&'a str),
}

/// An upload that waits to be completed.
#[derive(Clone, Debug)]
pub struct Pending<'a> {
    /// The object to be.
    pub location: String,
    /// The store's name of the upload.
    pub upload: &'a str,
    /// What it answered to each part, in order.
    pub parts: &'a [String],
    /// All of them together.
    pub bytes: u64,
}

/// What is below a directory, by name.
#[derive(Debug, Default, PartialEq)]
pub struct Below {
    /// Directories in it.
    pub directories: Vec<String>,
    /// Objects in it.
    pub objects: Vec<String>,
}

impl Bucket {
    /// The bucket in `location`; reaches for nothing yet. Must be called within
    /// a runtime.
    pub fn new(
        location: &str,
        settings: &S3,
        names: &'static Names,
        uploads: Uploads,
    ) -> Result<Self, WriterError> {
        Bucket::open(location, settings, names, uploads, None)
    }

    /// The same, with keys that are lent.
    pub fn lent(
        location: &str,
        settings: &S3,
        names: &'static Names,
        uploads: Uploads,
        lender: Arc<dyn Lender>,
    ) -> Result<Self, WriterError> {
        Bucket::open(location, settings, names, uploads, Some(lender))
    }

    fn open(
        location: &str,
        settings: &S3,
        names: &'static Names,
        uploads: Uploads,
        lender: Option<Arc<dyn Lender>>,
    ) -> Result<Self, WriterError> {
        let invalid = |problem: String| {
            WriterError::invalid_table(
                problem,
                format!("correct {} in destination.json: {}", names.whole(), Names::FORM),
            )
        };
        let (bucket, key) = split(location)
            .ok_or_else(|| invalid(format!("{location:?} names no bucket of S3")))?;
        Key::parse(key).map_err(|e| invalid(format!("{location:?}: {e}")))?;
        let client = |patience| {
            let mut builder = settings::builder(bucket, settings, names, patience)?;
            if let Some(lender) = &lender {
                builder = builder.with_credentials(Arc::clone(lender).provider());
            }
            let built = builder.build();
            built.map(Arc::new).map_err(|error| refused("setting up", location, names, &error))
        };
        let (first, steady) = (client(Patience::Short)?, client(Patience::Long)?);
        let bucket = Bucket::over(bucket, names, first, steady, uploads)?;
        Ok(Bucket { lender, ..bucket })
    }

    /// Over clients that are there.
    pub(crate) fn over(
        name: &str,
        names: &'static Names,
        first: Arc<dyn Store>,
        steady: Arc<dyn Store>,
        uploads: Uploads,
    ) -> Result<Self, WriterError> {
        let handle = Handle::try_current()
            .map_err(|e| WriterError::Internal(format!("S3 needs a runtime: {e}")))?;
        let (name, answered) = (name.to_owned(), AtomicBool::new(false));
        Ok(Bucket { name, names, first, steady, answered, handle, uploads, lender: None })
    }

    fn key(&self, location: &str) -> Result<Key, WriterError> {
        match split(location) {
            Some((bucket, key)) if bucket == self.name => Key::parse(key)
                .map_err(|e| WriterError::BadData(format!("{location} is no location: {e}"))),
            _ => Err(WriterError::invalid_table(
                format!(
                    "{location} lies in another storage than the warehouse, the bucket {}",
                    self.name
                ),
                format!(
                    "set {} to where the table lies, or give the stream another \
                     destination_table",
                    self.names.path
                ),
            )),
        }
    }

    fn refused(&self, doing: &'static str, location: &str, error: &Error) -> WriterError {
        refused(doing, location, self.names, error)
    }

    /// Drives one call to its end.
    fn wait<T>(&self, call: impl AsyncFn(Arc<dyn Store>) -> Result<T, Error>) -> Result<T, Error> {
        let lender = self.lender.as_ref();
        let call = |store: &Arc<dyn Store>| {
            let store = Arc::clone(store);
            self.handle.block_on(with_keys(lender, async || call(Arc::clone(&store)).await))
        };
        if !self.answered.load(Ordering::Relaxed) {
            let outcome = call(&self.first);
            let busy = matches!(&outcome, Err(error) if is_busy(error));
            if outcome.is_ok() || busy {
                self.answered.store(true, Ordering::Relaxed);
            }
            if !busy {
                return outcome;
            }
        }
        call(&self.steady)
    }

    /// The whole of an object; `None`: it is not there.
    pub fn read(&self, location: &str) -> Result<Option<Object>, WriterError> {
        let key = self.key(location)?;
        let read = self.wait(async |store| {
            let found = store.get(&key).await?;
            let tag = found.meta.e_tag.clone();
            Ok(Object { content: found.bytes().await?, tag })
        });
        absent(read.map_err(|error| self.refused("reading", location, &error)))
    }

    /// A part of an object; `None`: it is not there.
    pub fn read_range(
        &self,
        location: &str,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, WriterError> {
        let key = self.key(location)?;
        let read = self.wait(async |store| store.get_range(&key, range.clone()).await);
        absent(read.map_err(|error| self.refused("reading", location, &error)))
    }

    /// Bytes of an object; `None`: it is not there.
    pub fn size(&self, location: &str) -> Result<Option<u64>, WriterError> {
        let key = self.key(location)?;
        let found = self.wait(async |store| Ok(store.head(&key).await?.size));
        absent(found.map_err(|error| self.refused("reading", location, &error)))
    }

    /// Makes a whole object, or none.
    pub fn write(&self, location: &str, content: &[u8]) -> Result<(), WriterError> {
        let key = self.key(location)?;
        let payload = PutPayload::from(Bytes::copy_from_slice(content));
        let put = self.wait(async |store| store.put(&key, payload.clone()).await);
        put.map(drop).map_err(|error| self.refused("writing", location, &error))
    }

    /// Makes a whole object provided that the condition holds; whether it did.
    /// Where a request is repeated, the condition may fail because of our own:
    /// read what is there.
    pub fn write_if(
        &self,
        location: &str,
        content: &[u8],
        condition: Condition<'_>,
    ) -> Result<bool, WriterError> {
        let key = self.key(location)?;
        let payload = PutPayload::from(Bytes::copy_from_slice(content));
        let mode = match condition {
            Condition::Absent => PutMode::Create,
            Condition::Is(tag) => {
                PutMode::Update(UpdateVersion { e_tag: Some(tag.to_owned()), version: None })
            }
        };
        let options = PutOptions::from(mode);
        let put =
            self.wait(async |store| store.put_opts(&key, payload.clone(), options.clone()).await);
        match put {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(self.refused("writing", location, &error)),
        }
    }

    /// Begins a large object under a name that nobody else uses.
    pub fn create(&self, location: &str) -> Result<Upload, WriterError> {
        let key = self.key(location)?;
        let (store, handle) = (Arc::clone(&self.steady), self.handle.clone());
        let lender = self.lender.clone();
        Ok(Upload::new(store, key, location, self.names, handle, self.uploads).lent(lender))
    }

    /// Begins an upload that another process may complete; the store's name of
    /// it.
    pub fn begin(&self, location: &str) -> Result<String, WriterError> {
        let key = self.key(location)?;
        let begun = self.wait(async |store| store.create_multipart(&key).await);
        begun.map_err(|error| self.refused("writing", location, &error))
    }

    /// Makes an upload's parts the object; `false`: there is no such upload and
    /// the object is not what it would have made.
    pub fn complete(&self, pending: &Pending<'_>) -> Result<bool, WriterError> {
        let key = self.key(&pending.location)?;
        let parts = || pending.parts.iter().map(|part| PartId { content_id: part.clone() });
        let upload = pending.upload.to_owned();
        let completed = self
            .wait(async |store| store.complete_multipart(&key, &upload, parts().collect()).await);
        match completed.map_err(|error| self.refused("completing", &pending.location, &error)) {
            Ok(_) => Ok(true),
            // Perhaps by another hand, or by us and the answer was lost.
            Err(WriterError::Store { refusal: Refusal::NoUpload, .. }) => {
                Ok(self.size(&pending.location)? == Some(pending.bytes))
            }
            Err(error) => Err(error),
        }
    }

    /// Gives an upload up; one that is not there is no error.
    pub fn abort(&self, location: &str, upload: &str) -> Result<(), WriterError> {
        let key = self.key(location)?;
        let upload = upload.to_owned();
        let aborted = self.wait(async |store| store.abort_multipart(&key, &upload).await);
        match aborted.map_err(|error| self.refused("giving up", location, &error)) {
            Err(WriterError::Store { refusal: Refusal::NoUpload | Refusal::NoObject, .. }) => {
                Ok(())
            }
            other => other,
        }
    }

    /// What lies in a directory; nothing when there is none.
    pub fn list(&self, directory: &str) -> Result<Below, WriterError> {
        let key = self.key(directory)?;
        let found = self
            .wait(async |store| store.list_with_delimiter(Some(&key)).await)
            .map_err(|error| self.refused("listing", directory, &error))?;
        let name = |path: &Key| path.filename().map(str::to_owned);
        // Some stores have an object for the directory itself.
        let inside = |path: &&Key| **path != key;
        let objects = found.objects.iter().map(|object| &object.location);
        let mut below = Below {
            directories: found.common_prefixes.iter().filter_map(name).collect(),
            objects: objects.filter(inside).filter_map(name).collect(),
        };
        below.directories.sort();
        below.objects.sort();
        Ok(below)
    }

    /// All objects in and below a directory, by their paths in it, in order.
    pub fn walk(&self, directory: &str) -> Result<Vec<String>, WriterError> {
        let key = self.key(directory)?;
        let found: Vec<_> = self
            .wait(async |store| store.list(Some(&key)).try_collect().await)
            .map_err(|error| self.refused("listing", directory, &error))?;
        let inside = |path: &Key| {
            let parts: Vec<_> = path.prefix_match(&key)?.collect();
            let path: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
            (!path.is_empty()).then(|| path.join("/"))
        };
        let mut paths: Vec<String> =
            found.iter().filter_map(|object| inside(&object.location)).collect();
        paths.sort();
        Ok(paths)
    }

    /// Removes an object; one that is not there is no error.
    pub fn delete(&self, location: &str) -> Result<(), WriterError> {
        let key = self.key(location)?;
        let deleted = self.wait(async |store| store.delete(&key).await);
        absent(deleted.map_err(|error| self.refused("removing", location, &error))).map(drop)
    }

    /// Does the same for many, several at once; the first error ends it.
    pub fn each<T: Sync>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> Result<(), WriterError> + Sync,
    ) -> Result<(), WriterError> {
        let failed = AtomicBool::new(false);
        let next = std::sync::atomic::AtomicUsize::new(0);
        let hand = || {
            while !failed.load(Ordering::Relaxed)
                && let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed))
            {
                work(item).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let hands = items.len().min(AT_ONCE).saturating_sub(1);
            let others: Vec<_> = (0..hands).map(|_| scope.spawn(hand)).collect();
            let ours = hand();
            others.into_iter().fold(ours, |outcome, other| {
                let other = other
                    .join()
                    .unwrap_or_else(|_| Err(WriterError::Internal("a thread ended".into())));
                outcome.and(other)
            })
        })
    }
}

/// An object that is not there; what else is wrong is an error.
fn absent<T>(outcome: Result<T, WriterError>) -> Result<Option<T>, WriterError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(WriterError::Store { refusal: Refusal::NoObject, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
