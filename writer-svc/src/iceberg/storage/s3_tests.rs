//! The contract of storage over a store in memory, and what settings come to.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use object_store::memory::InMemory;
use object_store::{MultipartUpload, PutResult, UploadPart};
use proto::v1::Iceberg;

use super::*;
use crate::Options;
use crate::iceberg::storage;

const LIMITS: Uploads = Uploads { part_bytes: 10, parts: 2 };

/// Runs `work` as the writer does: on a thread of the runtime that may block.
fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(runtime.spawn_blocking(work)).unwrap()
}

fn in_memory() -> S3Storage {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    S3Storage::over("lake", Arc::clone(&store), store, LIMITS).unwrap()
}

#[test]
fn an_object_is_there_whole_until_it_is_deleted() {
    blocking(|| {
        let storage = in_memory();
        assert_eq!(storage.read("s3://lake/a/b").unwrap(), None);
        storage.write("s3://lake/a/b%20c", b"content").unwrap();
        assert_eq!(storage.read("s3a://lake/a/b%20c").unwrap().unwrap(), "content");
        for (name, bytes) in [("none", 0), ("one", 10), ("more", 11), ("many", 57)] {
            let at = format!("s3://lake/a/sizes/{name}");
            let mut sink = storage.create(&at).unwrap();
            let content: Vec<u8> = (0..bytes).collect();
            sink.write_all(&content).unwrap();
            assert_eq!(storage.read(&at).unwrap(), None, "seen before it is whole");
            assert_eq!(sink.finish().unwrap(), u64::from(bytes));
            assert_eq!(storage.read(&at).unwrap().unwrap(), content);
        }
        let listing = storage.list("s3://lake/a").unwrap();
        let expected = Listing { directories: vec!["sizes".into()], objects: vec!["b%20c".into()] };
        assert_eq!(listing, expected);
        assert_eq!(storage.list("s3://lake/gone").unwrap(), Listing::default());
        storage.delete("s3://lake/a/b%20c").unwrap();
        storage.delete("s3://lake/a/b%20c").unwrap();
        assert_eq!(storage.list("s3://lake/a").unwrap().objects, [""; 0]);
        for elsewhere in ["s3://other/a", "file:///lake/a", "s3://lake/a//b", "s3://lake/../b"] {
            assert!(storage.write(elsewhere, b"x").is_err(), "{elsewhere}");
        }
    });
}

/// A store whose uploads tell what becomes of them.
#[derive(Debug, Default)]
struct Watched {
    sending: AtomicUsize,
    most: AtomicUsize,
    events: Mutex<Vec<&'static str>>,
    parts_fail: AtomicBool,
}

#[derive(Debug)]
struct WatchedUpload(Arc<Watched>);

#[tonic::async_trait]
impl MultipartUpload for WatchedUpload {
    fn put_part(&mut self, _: PutPayload) -> UploadPart {
        let watched = Arc::clone(&self.0);
        Box::pin(async move {
            let sending = watched.sending.fetch_add(1, Ordering::SeqCst) + 1;
            watched.most.fetch_max(sending, Ordering::SeqCst);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            watched.sending.fetch_sub(1, Ordering::SeqCst);
            if watched.parts_fail.load(Ordering::SeqCst) {
                let source = "Server returned non-2xx status code: 503 Slow: ".into();
                return Err(Error::Generic { store: "S3", source });
            }
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult, Error> {
        assert_eq!(self.0.sending.load(Ordering::SeqCst), 0);
        self.0.events.lock().unwrap().push("completed");
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn abort(&mut self) -> Result<(), Error> {
        self.0.events.lock().unwrap().push("aborted");
        Ok(())
    }
}

impl Watched {
    /// Writes 100 bytes, in parts of 10.
    fn upload(self: &Arc<Self>) -> Upload {
        let store = Arc::new(InMemory::new());
        let key = Key::parse("a/b").unwrap();
        let mut upload = Upload::new(store, key, "s3://lake/a/b", Handle::current(), LIMITS);
        upload.begin(Box::new(WatchedUpload(Arc::clone(self))));
        upload
    }
}

#[test]
fn few_parts_are_on_their_way_at_once() {
    blocking(|| {
        let watched = Arc::<Watched>::default();
        let mut upload = watched.upload();
        upload.write_all(&[7; 100]).unwrap();
        assert_eq!(upload.finish().unwrap(), 100);
        drop(upload);
        let most = watched.most.load(Ordering::SeqCst);
        assert!((1..=LIMITS.parts).contains(&most), "{most}");
        assert_eq!(*watched.events.lock().unwrap(), ["completed"]);
    });
}

#[test]
fn an_upload_that_is_dropped_or_fails_is_aborted() {
    blocking(|| {
        let watched = Arc::<Watched>::default();
        let mut upload = watched.upload();
        upload.write_all(&[7; 55]).unwrap();
        drop(upload);
        assert_eq!(*watched.events.lock().unwrap(), ["aborted"]);

        let watched = Arc::<Watched>::default();
        watched.parts_fail.store(true, Ordering::SeqCst);
        let mut upload = watched.upload();
        let error = upload.write_all(&[7; 100]).unwrap_err();
        // What Parquet and buffers pass on is still the store's refusal.
        let error = WriterError::io("writing", "s3://lake/a/b")(error);
        let fault = proto::Fault::from(error);
        assert!(fault.transient && fault.message.contains("503"), "{fault}");
        drop(upload);
        assert_eq!(*watched.events.lock().unwrap(), ["aborted"]);
    });
}

#[test]
fn a_location_is_a_bucket_and_a_key() {
    for (location, expected) in [
        ("s3://lake", Some(("lake", ""))),
        ("s3a://lake/", Some(("lake", ""))),
        ("s3n://la.ke-1/a/b", Some(("la.ke-1", "a/b"))),
        ("s3://", None),
        ("s3:///a", None),
        ("s3://user:secret@lake/a", None),
        ("gs://lake/a", None),
        ("/lake/a", None),
    ] {
        assert_eq!(split(location), expected, "{location}");
    }
}

#[test]
fn the_bucket_is_in_the_path_or_in_the_host() {
    let of = |bucket: &str, endpoint: &str, path_style| {
        let settings = S3 { endpoint: endpoint.into(), path_style, ..Default::default() };
        address(bucket, &settings).map_err(|error| error.to_string())
    };
    let own = |endpoint: &str| Some(endpoint.to_owned());
    assert_eq!(of("lake", "", None), Ok((None, true)));
    assert_eq!(of("la.ke", "", None), Ok((None, false)));
    assert_eq!(of("lake", "", Some(true)), Ok((None, false)));
    assert_eq!(of("lake", "http://minio:9000/", None), Ok((own("http://minio:9000"), false)));
    let hosted = own("https://lake.s3.example.org");
    assert_eq!(of("lake", "https://s3.example.org", Some(false)), Ok((hosted, true)));
    for bad in ["minio:9000", "ftp://minio", "http://", "http://a/b", "http://key:secret@minio"] {
        let said = of("lake", bad, None).unwrap_err();
        assert!(said.contains("s3_endpoint"), "{said}");
    }
}

#[test]
fn what_settings_lack_is_said_and_nothing_secret_is_shown() {
    // As the programs do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    blocking(|| {
        let open = |s3: S3| {
            let warehouse = "s3://lake/a".to_owned();
            let iceberg = Iceberg { warehouse, s3: Some(s3), ..Default::default() };
            storage::open(&iceberg, &Options::default())
        };
        let half = S3 { access_key: "key".into(), ..Default::default() };
        let said = open(half).unwrap_err().to_string();
        assert!(said.contains("only one is set"), "{said}");
        let whole = S3 {
            access_key: "key".into(),
            secret_key: "hunter2".into(),
            session_token: "hunter3".into(),
            ..Default::default()
        };
        let shown = format!("{:?}", open(whole).unwrap());
        assert!(shown.contains("lake") && !shown.contains("hunter"), "{shown}");
    });
}

#[test]
fn large_files_have_large_parts() {
    let options = Options::default();
    assert_eq!(Uploads::of(&options, 512 << 20).part_bytes, 8 << 20);
    let large = Uploads::of(&options, 1 << 40);
    assert!((1_u64 << 40) / (large.part_bytes as u64) < 10_000);
}
