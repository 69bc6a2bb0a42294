//! The contract of storage over a store in memory, and what settings come to.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::v1::{Iceberg, S3};

use super::bucket::{Below, Condition, Pending};
use super::fake::{Fake, LIMITS, blocking};
use super::settings::address;
use super::*;
use crate::error::WriterError;
use crate::iceberg::storage;
use crate::stage::Sink;

#[test]
fn an_object_is_there_whole_until_it_is_deleted() {
    blocking(|| {
        let storage = Arc::<Fake>::default().bucket();
        let read = |at: &str| storage.read(at).unwrap().map(|object| object.content);
        assert_eq!(read("s3://lake/a/b"), None);
        storage.write("s3://lake/a/b%20c", b"content").unwrap();
        assert_eq!(read("s3a://lake/a/b%20c").unwrap(), "content");
        for (name, bytes) in [("none", 0), ("one", 10), ("more", 11), ("many", 57)] {
            let at = format!("s3://lake/a/sizes/{name}");
            let mut sink = storage.create(&at).unwrap();
            let content: Vec<u8> = (0..bytes).collect();
            sink.write_all(&content).unwrap();
            assert_eq!(read(&at), None, "seen before it is whole");
            assert_eq!(sink.finish().unwrap(), u64::from(bytes));
            assert_eq!(read(&at).unwrap(), content);
        }
        let listing = storage.list("s3://lake/a").unwrap();
        let expected = Below { directories: vec!["sizes".into()], objects: vec!["b%20c".into()] };
        assert_eq!(listing, expected);
        assert_eq!(storage.list("s3://lake/gone").unwrap(), Below::default());
        let all = ["b%20c", "sizes/many", "sizes/more", "sizes/none", "sizes/one"];
        assert_eq!(storage.walk("s3://lake/a").unwrap(), all);
        assert_eq!(storage.walk("s3://lake/gone").unwrap(), [""; 0]);
        assert_eq!(storage.size("s3://lake/a/sizes/many").unwrap(), Some(57));
        storage.delete("s3://lake/a/b%20c").unwrap();
        storage.delete("s3://lake/a/b%20c").unwrap();
        assert_eq!(storage.list("s3://lake/a").unwrap().objects, [""; 0]);
        for elsewhere in ["s3://other/a", "file:///lake/a", "s3://lake/a//b", "s3://lake/../b"] {
            assert!(storage.write(elsewhere, b"x").is_err(), "{elsewhere}");
        }
    });
}

#[test]
fn a_condition_is_kept() {
    blocking(|| {
        let bucket = Arc::<Fake>::default().bucket();
        let at = "s3://lake/a";
        assert!(!bucket.write_if(at, b"0", Condition::Is("1")).unwrap());
        assert!(bucket.write_if(at, b"1", Condition::Absent).unwrap());
        assert!(!bucket.write_if(at, b"2", Condition::Absent).unwrap());
        let tag = bucket.read(at).unwrap().unwrap().tag.unwrap();
        assert!(bucket.write_if(at, b"3", Condition::Is(&tag)).unwrap());
        assert!(!bucket.write_if(at, b"4", Condition::Is(&tag)).unwrap());
        assert_eq!(bucket.read(at).unwrap().unwrap().content, "3");
    });
}

#[test]
fn few_parts_are_on_their_way_at_once() {
    blocking(|| {
        let fake = Arc::<Fake>::default();
        let mut upload = fake.bucket().create("s3://lake/a/b").unwrap();
        upload.write_all(&[7; 100]).unwrap();
        assert_eq!(upload.finish().unwrap(), 100);
        drop(upload);
        let most = fake.most.load(Ordering::SeqCst);
        assert!((1..=LIMITS.parts).contains(&most), "{most}");
        assert_eq!(*fake.events.lock().unwrap(), ["begun a/b", "completed a/b"]);
    });
}

#[test]
fn an_upload_that_is_dropped_or_fails_is_aborted() {
    blocking(|| {
        let fake = Arc::<Fake>::default();
        let mut upload = fake.bucket().create("s3://lake/a/b").unwrap();
        upload.write_all(&[7; 55]).unwrap();
        drop(upload);
        assert_eq!(fake.keys_of("aborted"), ["a/b"]);

        let fake = Arc::<Fake>::default();
        fake.failing.lock().unwrap().push("part");
        let mut upload = fake.bucket().create("s3://lake/a/b").unwrap();
        let error = upload.write_all(&[7; 100]).unwrap_err();
        // What Parquet and buffers pass on is still the store's refusal.
        let error = WriterError::io("writing", "s3://lake/a/b")(error);
        let fault = proto::Fault::from(error);
        assert!(fault.transient && fault.message.contains("503"), "{fault}");
        drop(upload);
        assert_eq!(fake.keys_of("aborted"), ["a/b"]);
    });
}

#[test]
fn a_held_upload_is_completed_by_another_hand_or_aborted() {
    blocking(|| {
        let fake = Arc::<Fake>::default();
        let at = "s3://lake/a/b";
        let (parts, bytes) = (upload::Parts::default(), 25);
        let held = fake.bucket().begin(at).unwrap();
        let mut upload = fake.bucket().create(at).unwrap().held(held.clone(), Arc::clone(&parts));
        upload.write_all(&[7; 25]).unwrap();
        assert_eq!(upload.finish().unwrap(), bytes);
        drop(upload);
        let bucket = fake.bucket();
        assert_eq!(bucket.read(at).unwrap(), None);
        let parts = parts.get().unwrap();
        assert_eq!(parts.len(), 3);
        let pending = Pending { location: at.to_owned(), upload: &held, parts, bytes };
        assert!(bucket.complete(&pending).unwrap());
        assert!(bucket.complete(&pending).unwrap(), "it is what it would have made");
        assert_eq!(bucket.size(at).unwrap(), Some(bytes));
        bucket.delete(at).unwrap();
        assert!(!bucket.complete(&pending).unwrap());
        bucket.abort(at, &held).unwrap();

        let other = bucket.begin(at).unwrap();
        let mut upload = bucket.create(at).unwrap().held(other, upload::Parts::default());
        upload.write_all(&[7; 25]).unwrap();
        drop(upload);
        assert_eq!(fake.keys_of("aborted"), ["a/b"]);
    });
}

#[test]
fn many_are_done_by_a_few_and_an_error_ends_them() {
    blocking(|| {
        let bucket = Arc::<Fake>::default().bucket();
        let items: Vec<String> = (0..100).map(|n| format!("s3://lake/many/{n}")).collect();
        bucket.each(&items, |at| bucket.write(at, b"x")).unwrap();
        assert_eq!(bucket.walk("s3://lake/many").unwrap().len(), 100);
        let failed = bucket.each(&items, |at| match at.ends_with("/7") {
            true => Err(WriterError::Cancelled),
            false => Ok(()),
        });
        assert!(matches!(failed, Err(WriterError::Cancelled)));
        bucket.each(&[""; 0], |_| Err(WriterError::Cancelled)).unwrap();
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
        let torn = S3 { session_token: "hunter3\n".into(), ..whole.clone() };
        let said = open(torn).unwrap_err().to_string();
        assert!(said.contains("aws_access_key") && !said.contains("hunter"), "{said}");
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
