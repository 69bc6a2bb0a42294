use std::fs;
use std::path::PathBuf;

use proto::v1::commit_request::Mode;
use proto::v1::{CommitRequest, PrepareRequest, StagedChunk};

use super::*;
use crate::parquet::commit::commit;
use crate::parquet::prepare::prepare;
use crate::parquet::stage::tests::{paths, stage};

fn request(mode: Mode, commit_id: &str, load_id: &str, staged: Vec<StagedChunk>) -> CommitRequest {
    CommitRequest {
        commit_id: commit_id.into(),
        load_id: load_id.into(),
        mode: mode.into(),
        staged,
        position: format!("position of {commit_id}"),
        ..Default::default()
    }
}

/// A table with one file, "old", made by commit c1.
fn loaded(paths: &TablePaths) {
    let staged = vec![stage(paths, "load1", 0, &[("", "old", 1)])];
    commit(paths, &request(Mode::Replace, "c1", "load1", staged)).unwrap();
}

fn content(dir: &Path) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for name in storage::entries(dir).unwrap() {
        let path = dir.join(&name);
        if path.is_dir() {
            found.extend(content(&path));
        } else if name.ends_with(".parquet") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
    found.sort();
    found
}

#[test]
fn an_append_adds_once_and_keeps_its_position() {
    let root = tempfile::tempdir().unwrap();
    let paths = paths(root.path());
    loaded(&paths);
    let staged = vec![stage(&paths, "i-1", 0, &[("", "new", 2), ("x=1", "more", 3)])];
    let mut request = request(Mode::Append, "c2", "i-1", staged);
    request.expected_commit_id = Some("c1".into());
    let made = commit(&paths, &request).unwrap();
    assert_eq!((made.record.rows, made.already), (5, false));
    assert_eq!(content(&paths.live), ["more", "new", "old"]);
    let again = commit(&paths, &request).unwrap();
    assert!(again.already);
    assert_eq!(again.record.position, "position of c2");
    assert_eq!(content(&paths.live), ["more", "new", "old"]);
    assert_eq!(storage::entries(&paths.staging).unwrap(), [] as [&str; 0]);
    let names = storage::entries(&paths.live).unwrap();
    assert!(names.iter().all(|name| name != INTENT), "{names:?}");
    let last = prepare(&paths, &PrepareRequest::default()).unwrap().unwrap();
    assert_eq!((&*last.commit_id, &*last.position), ("c2", "position of c2"));

    let late = vec![stage(&paths, "i-2", 0, &[("", "late", 1)])];
    let mut late = self::request(Mode::Append, "c3", "i-2", late);
    late.expected_commit_id = Some("c1".into());
    assert!(matches!(commit(&paths, &late), Err(WriterError::Fenced { .. })));
    let delta = self::request(Mode::RowDelta, "c4", "i-2", late.staged);
    assert!(matches!(commit(&paths, &delta), Err(WriterError::InvalidRequest(_))));
}

/// What a crash leaves: the intent and some of the links.
fn crashed(paths: &TablePaths, links: usize) {
    loaded(paths);
    let chunk = stage(paths, "i-1", 0, &[("", "a", 1), ("x=1", "b", 1)]);
    let dir = PathBuf::from(&chunk.manifest).parent().unwrap().to_owned();
    let record = CommitRecord { commit_id: "c2".into(), rows: 2, ..Default::default() };
    let files: Vec<_> = [("0.staged", "a.parquet"), ("1.staged", "x=1/b.parquet")]
        .into_iter()
        .map(|(staged, path)| Added {
            staged: dir.join(staged).strip_prefix(&paths.staging).unwrap().to_owned(),
            path: path.into(),
        })
        .collect();
    fs::create_dir_all(paths.live.join("x=1")).unwrap();
    for file in files.iter().take(links) {
        let staged = paths.staging.join(&file.staged);
        fs::hard_link(staged, paths.live.join(&file.path)).unwrap();
    }
    let intent = Intent { record: record.into(), files };
    fs::write(paths.live.join(INTENT), serde_json::to_vec(&intent).unwrap()).unwrap();
}

#[test]
fn an_append_that_a_crash_cut_off_goes_on() {
    for links in 0..=2 {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        crashed(&paths, links);
        // Nobody asks for the load any more: the intent does.
        let last = prepare(&paths, &PrepareRequest::default()).unwrap().unwrap();
        assert_eq!(last.commit_id, "c2", "{links} links");
        assert_eq!(content(&paths.live), ["a", "b", "old"]);
        assert!(!paths.live.join(INTENT).exists());
        assert_eq!(storage::entries(&paths.staging).unwrap(), [] as [&str; 0]);
    }
}

#[test]
fn an_append_whose_stage_is_gone_is_taken_back() {
    let root = tempfile::tempdir().unwrap();
    let paths = paths(root.path());
    crashed(&paths, 1);
    storage::remove_tree(&paths.load("i-1").unwrap()).unwrap();
    let last = prepare(&paths, &PrepareRequest::default()).unwrap().unwrap();
    assert_eq!(last.commit_id, "c1");
    assert_eq!(content(&paths.live), ["old"]);
    assert!(!paths.live.join(INTENT).exists());
}

#[test]
fn an_intent_that_leads_elsewhere_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let paths = paths(root.path());
    loaded(&paths);
    for (staged, path) in [("../x", "a.parquet"), ("i/x", "../a.parquet"), ("/x", "a.parquet")] {
        let files = vec![Added { staged: staged.into(), path: path.into() }];
        let intent = Intent { record: CommitRecord::default().into(), files };
        fs::write(paths.live.join(INTENT), serde_json::to_vec(&intent).unwrap()).unwrap();
        let refused = prepare(&paths, &PrepareRequest::default());
        assert!(matches!(refused, Err(WriterError::ForeignTable { .. })), "{staged} {path}");
    }
}
