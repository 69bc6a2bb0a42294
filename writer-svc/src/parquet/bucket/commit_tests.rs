//! A commit that is killed at every request in turn, raced, and robbed of its
//! uploads.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::v1::{PrepareRequest, StagedChunk};

use super::*;
use crate::parquet::bucket::prepare::{drop_table, prepare};
use crate::parquet::bucket::stage::tests::{stage, table};
use crate::s3::fake::{Fake, blocking};

fn request(commit_id: &str, load_id: &str, staged: Vec<StagedChunk>) -> CommitRequest {
    CommitRequest {
        commit_id: commit_id.into(),
        load_id: load_id.into(),
        mode: Mode::Replace.into(),
        staged,
        ..Default::default()
    }
}

/// Contents of the files that the record names.
fn named(table: &BucketTable) -> Vec<String> {
    let found = record::read(table).unwrap();
    let content = |path: &String| {
        let object = table.bucket.read(&at(table, path)).unwrap().expect("what is named is there");
        String::from_utf8(object.content.to_vec()).unwrap()
    };
    let mut contents: Vec<String> = found.record.files.iter().map(content).collect();
    contents.sort();
    contents
}

/// The record names all that there is, nothing is staged, no upload is open.
fn is_clean(fake: &Fake, table: &BucketTable) {
    let found = record::read(table).unwrap();
    assert!(found.is_settled(), "{found:?}");
    let named: BTreeSet<String> = found.record.files.iter().cloned().collect();
    let present: BTreeSet<String> = present(table, &found).unwrap().into_iter().collect();
    assert_eq!(named, present);
    assert_eq!(table.bucket.walk(&table.paths.staging).unwrap(), [""; 0]);
    assert_eq!(fake.open_uploads(), 0);
}

/// With the content "old", committed as "c1".
fn with_old(fake: &Arc<Fake>) -> BucketTable {
    let table = table(fake);
    let staged = vec![stage(&table, "load1", 0, &[("", "old", 1), ("x=1", "old too", 1)])];
    commit(&table, &request("c1", "load1", staged)).unwrap();
    assert_eq!(named(&table), ["old", "old too"]);
    table
}

fn new_chunks(table: &BucketTable) -> Vec<StagedChunk> {
    vec![
        stage(table, "load2", 1, &[("x=1", "b", 2), ("", "more than one part", 1)]),
        stage(table, "load2", 0, &[("x=1", "a", 4)]),
    ]
}

const NEW: [&str; 3] = ["a", "b", "more than one part"];

#[test]
fn a_commit_replaces_the_content_and_leaves_no_garbage() {
    blocking(|| {
        let fake = Arc::<Fake>::default();
        let table = with_old(&fake);
        // Attempts at the same load that failed go with it.
        stage(&table, "load2", 7, &[("", "not committed", 1)]);
        let request = request("c2", "load2", new_chunks(&table));
        let made = commit(&table, &request).unwrap();
        assert_eq!((made.record.rows, made.record.files, made.already), (7, 3, false));
        assert_eq!(named(&table), NEW);
        is_clean(&fake, &table);
        let again = commit(&table, &request).unwrap();
        assert_eq!((again.already, &again.record), (true, &made.record));
        assert_eq!(prepare(&table, &Default::default()).unwrap(), Some(made.record));
    });
}

#[test]
fn a_commit_that_is_killed_at_any_request_is_ended_by_the_next_call() {
    let mut killed = 0;
    loop {
        let survived = blocking(move || {
            let fake = Arc::<Fake>::default();
            let table = with_old(&fake);
            let request = request("c2", "load2", new_chunks(&table));
            *fake.lifetime.lock().unwrap() = Some(killed);
            let survived = commit(&table, &request).is_ok() && fake.lifetime_left() > 0;
            *fake.lifetime.lock().unwrap() = None;
            // Readers that follow the record have one content or the other.
            let seen = named(&table);
            assert!(seen == NEW || seen == ["old", "old too"], "after {killed}: {seen:?}");
            match killed % 3 {
                // The same call again, …
                0 => {}
                // … a run that goes on with the load, …
                1 => {
                    let keep_load_ids = vec!["load2".to_owned()];
                    let keep = PrepareRequest { keep_load_ids, ..Default::default() };
                    prepare(&table, &keep).unwrap();
                }
                // … or one that begins anew.
                _ => {
                    prepare(&table, &Default::default()).unwrap();
                    is_clean(&fake, &table);
                    if named(&table) != NEW {
                        let again = request_of(&table);
                        commit(&table, &again).unwrap();
                    }
                    assert_eq!(named(&table), NEW);
                    is_clean(&fake, &table);
                    return survived;
                }
            }
            commit(&table, &request).unwrap();
            assert_eq!(named(&table), NEW);
            is_clean(&fake, &table);
            survived
        });
        if survived {
            break;
        }
        killed += 1;
    }
    assert!(killed > 20, "a commit makes many requests, not {killed}");
}

fn request_of(table: &BucketTable) -> CommitRequest {
    request("c3", "load2", new_chunks(table))
}

#[test]
fn a_commit_whose_upload_is_gone_is_taken_back() {
    blocking(|| {
        let fake = Arc::<Fake>::default();
        let table = with_old(&fake);
        let chunks = new_chunks(&table);
        let lost = &Manifest::of(&table, &chunks[1]).unwrap().files[0];
        table.bucket.abort(&at(&table, &lost.path), &lost.upload).unwrap();
        let request = request("c2", "load2", chunks);
        for _ in 0..2 {
            let error = commit(&table, &request).unwrap_err();
            assert!(matches!(error, WriterError::StageGone { .. }), "{error}");
            assert_eq!(named(&table), ["old", "old too"]);
        }
        prepare(&table, &Default::default()).unwrap();
        is_clean(&fake, &table);
    });
}

#[test]
fn of_many_commits_at_once_one_is_the_content() {
    blocking(|| {
        let fake = Arc::<Fake>::default();
        let table = with_old(&fake);
        let requests: Vec<CommitRequest> = (0..6)
            .map(|n| {
                let load = format!("l{n}");
                let staged = vec![stage(&table, &load, 0, &[("", &load, 1), ("y=1", &load, 1)])];
                request(&format!("commit{n}"), &load, staged)
            })
            .collect();
        let made: Vec<_> = std::thread::scope(|scope| {
            let commits: Vec<_> = requests
                .iter()
                .map(|request| scope.spawn(|| commit(&table, request).map_err(|e| e.to_string())))
                .collect();
            commits.into_iter().map(|commit| commit.join().unwrap()).collect()
        });
        assert!(made.iter().any(Result::is_ok), "{made:?}");
        let last = record::read(&table).unwrap().commit().unwrap();
        assert_eq!(named(&table), [last.load_id.clone(), last.load_id]);
        prepare(&table, &Default::default()).unwrap();
        is_clean(&fake, &table);
    });
}

#[test]
fn an_empty_table_keeps_one_file_for_its_schema() {
    blocking(|| {
        let fake = Arc::<Fake>::default();
        let table = with_old(&fake);
        let staged = vec![
            stage(&table, "load2", 0, &[("", "schema", 0)]),
            stage(&table, "load2", 1, &[("", "schema", 0)]),
        ];
        let made = commit(&table, &request("c2", "load2", staged)).unwrap();
        assert_eq!((made.record.rows, made.record.files), (0, 1));
        assert_eq!(named(&table), ["schema"]);
        is_clean(&fake, &table);
    });
}

#[test]
fn what_others_wrote_is_not_touched() {
    blocking(|| {
        let fake = Arc::<Fake>::default();
        let table = table(&fake);
        let theirs = at(&table, "theirs.parquet");
        table.bucket.write(&theirs, b"x").unwrap();
        let staged = vec![stage(&table, "load", 0, &[("", "new", 1)])];
        let refused = [
            commit(&table, &request("c", "load", staged)).map(drop),
            prepare(&table, &Default::default()).map(drop),
            drop_table(&table).map(drop),
        ];
        for refused in refused {
            assert!(matches!(refused, Err(WriterError::ForeignTable { .. })), "{refused:?}");
        }
        assert!(table.bucket.size(&theirs).unwrap().is_some());
    });
}

#[test]
fn a_drop_that_is_killed_at_any_request_leaves_the_table_or_what_the_next_removes() {
    for killed in 0..60 {
        blocking(move || {
            let fake = Arc::<Fake>::default();
            let table = with_old(&fake);
            stage(&table, "load2", 0, &[("", "x", 1)]);
            *fake.lifetime.lock().unwrap() = Some(killed);
            let _ = drop_table(&table);
            *fake.lifetime.lock().unwrap() = None;
            let seen = named(&table);
            assert!(seen.is_empty() || seen == ["old", "old too"], "after {killed}: {seen:?}");
            drop_table(&table).unwrap();
            assert_eq!(table.bucket.walk("s3://lake").unwrap(), [""; 0]);
            assert_eq!(fake.open_uploads(), 0);
            assert!(!drop_table(&table).unwrap());
        });
    }
}

#[test]
fn a_commit_of_what_does_not_belong_together_is_refused() {
    blocking(|| {
        let table = table(&Arc::<Fake>::default());
        let chunk = stage(&table, "load", 0, &[("", "a", 1)]);
        let other = StagedChunk { settings_hash: "other".into(), ..chunk.clone() };
        let refused: [(&str, &str, Vec<StagedChunk>); 6] = [
            ("c", "load", vec![]),
            ("c", "load", vec![chunk.clone(), chunk.clone()]),
            ("c", "load", vec![other, StagedChunk { chunk_id: 1, ..chunk.clone() }]),
            ("c", "load2", vec![chunk.clone()]),
            ("../c", "load", vec![chunk.clone()]),
            ("c", "..", vec![chunk.clone()]),
        ];
        for (commit_id, load_id, staged) in refused {
            let request = request(commit_id, load_id, staged);
            assert!(commit(&table, &request).is_err(), "{request:?}");
        }
        let unspecified = CommitRequest { mode: 0, ..request("c", "load", vec![chunk]) };
        assert!(commit(&table, &unspecified).is_err());
        assert!(!record::read(&table).unwrap().exists());
    });
}

#[test]
fn an_append_that_is_killed_at_any_request_adds_once() {
    const BOTH: [&str; 5] = ["a", "b", "more than one part", "old", "old too"];
    let mut killed = 0;
    loop {
        let survived = blocking(move || {
            let fake = Arc::<Fake>::default();
            let table = with_old(&fake);
            let mut request = request("c2", "load2", new_chunks(&table));
            request.mode = Mode::Append.into();
            request.expected_commit_id = Some("c1".into());
            request.position = "here".into();
            *fake.lifetime.lock().unwrap() = Some(killed);
            let survived = commit(&table, &request).is_ok() && fake.lifetime_left() > 0;
            *fake.lifetime.lock().unwrap() = None;
            let seen = named(&table);
            assert!(seen == BOTH || seen == ["old", "old too"], "after {killed}: {seen:?}");
            let made = commit(&table, &request).unwrap();
            assert_eq!(
                (named(&table), &*made.record.position),
                (BOTH.map(str::to_owned).into(), "here")
            );
            is_clean(&fake, &table);
            // Who knows of another commit is refused.
            request.commit_id = "c3".into();
            assert!(matches!(commit(&table, &request), Err(WriterError::Fenced { .. })));
            survived
        });
        if survived {
            break;
        }
        killed += 1;
    }
    assert!(killed > 5, "{killed}");
}
