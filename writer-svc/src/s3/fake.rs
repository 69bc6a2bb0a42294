//! A store in memory for tests, which tells what became of its uploads and can
//! be told to fail.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::{Bucket, Names, Uploads};

pub const LIMITS: Uploads = Uploads { part_bytes: 10, parts: 2 };

/// Runs `work` as the writer does: on a thread of the runtime that may block.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(runtime.spawn_blocking(work)).unwrap()
}

/// The store. Requests that are named in `failing` are refused.
#[derive(Debug, Default)]
pub struct Fake {
    memory: InMemory,
    sending: AtomicUsize,
    open: AtomicUsize,
    /// Parts that were on their way at once.
    pub most: AtomicUsize,
    /// "begun <key>", "completed <key>" and "aborted <key>".
    pub events: Mutex<Vec<String>>,
    /// "part", "complete", "put <end of the key>", …
    pub failing: Mutex<Vec<&'static str>>,
    /// After so many requests every one is refused, as if we had been killed.
    pub lifetime: Mutex<Option<usize>>,
}

impl Fake {
    /// A bucket "lake" over this store. Call it within a runtime.
    pub fn bucket(self: &Arc<Self>) -> Bucket {
        let [first, steady] = [Arc::clone(self), Arc::clone(self)];
        Bucket::over("lake", &Names::PARQUET, first, steady, LIMITS).unwrap()
    }

    /// Events of one kind, as the keys they are of.
    pub fn keys_of(&self, event: &str) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let keys = events.iter().filter_map(|said| said.strip_prefix(event));
        keys.map(|key| key.trim().to_owned()).collect()
    }

    /// Uploads that were neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Requests until every one is refused.
    pub fn lifetime_left(&self) -> usize {
        self.lifetime.lock().unwrap().unwrap_or(usize::MAX)
    }

    fn tell(&self, event: &str, key: &Key) {
        self.events.lock().unwrap().push(format!("{event} {key}"));
    }

    fn refuse(&self, request: &str) -> Result<(), Error> {
        if let Some(left) = self.lifetime.lock().unwrap().as_mut() {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => return Err(answered("400 Killed")),
            }
        }
        let failing = self.failing.lock().unwrap();
        match failing.iter().any(|named| request.starts_with(named) || request.ends_with(named)) {
            true => Err(answered("503 Slow: ")),
            false => Ok(()),
        }
    }
}

fn answered(status: &str) -> Error {
    let source = format!("Server returned non-2xx status code: {status}").into();
    Error::Generic { store: "S3", source }
}

/// As S3 says it.
fn no_upload(error: Error) -> Error {
    match error.to_string().contains("not found") {
        true => answered("404 Not Found: <Error><Code>NoSuchUpload</Code></Error>"),
        false => error,
    }
}

impl fmt::Display for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

#[tonic::async_trait]
impl MultipartStore for Fake {
    async fn create_multipart(&self, path: &Key) -> Result<MultipartId, Error> {
        self.refuse("begin")?;
        self.tell("begun", path);
        self.open.fetch_add(1, Ordering::SeqCst);
        self.memory.create_multipart(path).await
    }

    async fn put_part(
        &self,
        path: &Key,
        id: &MultipartId,
        index: usize,
        data: PutPayload,
    ) -> Result<PartId, Error> {
        let sending = self.sending.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(sending, Ordering::SeqCst);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.sending.fetch_sub(1, Ordering::SeqCst);
        self.refuse("part")?;
        self.memory.put_part(path, id, index, data).await.map_err(no_upload)
    }

    async fn complete_multipart(
        &self,
        path: &Key,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult, Error> {
        assert_eq!(self.sending.load(Ordering::SeqCst), 0);
        self.refuse(&format!("complete {path}"))?;
        let done = self.memory.complete_multipart(path, id, parts).await.map_err(no_upload)?;
        self.open.fetch_sub(1, Ordering::SeqCst);
        self.tell("completed", path);
        Ok(done)
    }

    async fn abort_multipart(&self, path: &Key, id: &MultipartId) -> Result<(), Error> {
        self.refuse("abort")?;
        self.memory.abort_multipart(path, id).await.map_err(no_upload)?;
        self.open.fetch_sub(1, Ordering::SeqCst);
        self.tell("aborted", path);
        Ok(())
    }
}

#[tonic::async_trait]
impl ObjectStore for Fake {
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult, Error> {
        self.refuse(&format!("put {location}"))?;
        self.memory.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Key,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>, Error> {
        self.memory.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult, Error> {
        self.refuse(&format!("get {location}"))?;
        self.memory.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Key, Error>>,
    ) -> BoxStream<'static, Result<Key, Error>> {
        if let Err(error) = self.refuse("delete") {
            return Box::pin(futures::stream::iter([Err(error)]));
        }
        self.memory.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta, Error>> {
        if let Err(error) = self.refuse("list") {
            return Box::pin(futures::stream::iter([Err(error)]));
        }
        self.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult, Error> {
        self.refuse("list")?;
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<(), Error> {
        self.memory.copy_opts(from, to, options).await
    }
}
