//! Staged chunks become the table's content, in one rename; or are added to it
//! ([`super::append`]).
//!
//! ```text
//! lock ─► recover ─► repeated? ─► check chunks ─► build .commit-<id> ─► EXCHANGE ─► clean up
//!                    record says    all there,     links, record,        with the    old content,
//!                    so: done       unchanged      all durable           live one    staging
//! ```
//!
//! The new content is made of second links, so up to the exchange the stage is
//! whole and the commit can begin anew; after it the record in the live
//! directory says that it was made. A crash therefore needs nothing but the
//! same call again. Nothing is deleted before the exchange is durable.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use proto::v1::commit_request::Mode;
use proto::v1::{CommitRecord, CommitRequest};

use super::append::append;
use super::stage::{Manifest, StagedFile};
use super::{COMMIT_PREFIX, LOCK_PATIENCE, Live, OLD_PREFIX, live, record, recover};
use crate::error::WriterError;
use crate::stage;
use crate::storage::{self, TableLock, TablePaths};
use crate::target::Committed;

/// With more directories than this the whole file system is synced once.
const SYNC_EACH: usize = 32;

/// A reader that opened the old directory before the exchange and lists it
/// afterwards must still find its files: an empty listing would pass for an
/// empty table.
const READER_GRACE: Duration = Duration::from_millis(500);

/// Replaces the table's content by the staged chunks, or adds them to it.
pub fn commit(paths: &TablePaths, request: &CommitRequest) -> Result<Committed, WriterError> {
    commit_with(paths, request, || std::thread::sleep(READER_GRACE))
}

/// The same; between an exchange and the removal of the old content, readers
/// get as long as `grace` takes.
fn commit_with(
    paths: &TablePaths,
    request: &CommitRequest,
    grace: impl FnOnce(),
) -> Result<Committed, WriterError> {
    check_mode(request.mode())?;
    storage::plain("commit_id", &request.commit_id)?;
    let load = paths.load(&request.load_id)?;
    storage::create_dir_durably(&paths.staging)?;
    let _lock = TableLock::acquire(paths, LOCK_PATIENCE)?;
    recover(paths)?;
    let before = live(&paths.live)?;
    if let Live::Ours(record) = &before
        && record.commit_id == request.commit_id
    {
        clean_up(&[load]);
        return Ok(committed(paths, record.clone(), true));
    }
    check_expected(paths, request, &before)?;
    let files = Files::of(paths, request)?;
    let record = CommitRecord {
        commit_id: request.commit_id.clone(),
        load_id: request.load_id.clone(),
        rows: files.total(|file| file.rows),
        files: files.0.len() as u64,
        bytes: files.total(|file| file.bytes),
        committed_at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
        position: request.position.clone(),
    };
    if request.mode() == Mode::Append {
        append(paths, &files.0, &record)?;
        clean_up(&[load]);
        return Ok(committed(paths, record, false));
    }
    let next = paths.staging.join(format!("{COMMIT_PREFIX}{}", request.commit_id));
    if let Err(error) = build(&next, &files, &record) {
        clean_up(&[next]);
        return Err(error);
    }
    let replaced = matches!(before, Live::Ours(_));
    let old = publish(paths, &next, before, &request.commit_id)?;
    clean_up(&[load]);
    if replaced {
        grace();
    }
    clean_up(&[old]);
    Ok(committed(paths, record, false))
}

/// Refuses what only tables with delete files can do.
pub fn check_mode(mode: Mode) -> Result<(), WriterError> {
    match mode {
        Mode::Replace | Mode::Append => Ok(()),
        Mode::RowDelta => Err(WriterError::InvalidRequest(
            "rows of a Parquet table cannot be deleted one by one; append the changes".into(),
        )),
        Mode::Unspecified => Err(WriterError::InvalidRequest("a commit needs a known mode".into())),
    }
}

/// Another commit than the caller knows of fences this one.
fn check_expected(
    paths: &TablePaths,
    request: &CommitRequest,
    before: &Live,
) -> Result<(), WriterError> {
    let current = match before {
        Live::Ours(record) => record.commit_id.as_str(),
        Live::Absent | Live::Empty => "",
    };
    stage::check_expected(&paths.live.display().to_string(), request, current)
}

fn committed(paths: &TablePaths, record: CommitRecord, already: bool) -> Committed {
    Committed { record, already, location: paths.live.display().to_string() }
}

/// The files of a commit, each with where it is staged.
struct Files(Vec<(PathBuf, StagedFile)>);

impl Files {
    /// Checks every chunk of the request. Files without rows only serve to
    /// keep an empty table's schema: one stays, and only if nothing else does.
    fn of(paths: &TablePaths, request: &CommitRequest) -> Result<Self, WriterError> {
        stage::check_chunks(request)?;
        let (mut full, mut empty) = (Vec::new(), Vec::new());
        for chunk in &request.staged {
            let (dir, manifest) = Manifest::of(paths, chunk)?;
            for file in manifest.files {
                let target = if file.rows == 0 { &mut empty } else { &mut full };
                target.push((dir.join(&file.staged), file));
            }
        }
        if full.is_empty() {
            empty.truncate(1);
            full = empty;
        }
        Ok(Files(full))
    }

    fn total(&self, of: impl Fn(&StagedFile) -> u64) -> u64 {
        self.0.iter().map(|(_, file)| of(file)).sum()
    }
}

/// Makes `next` the whole new content, durable up to the last entry.
fn build(next: &Path, files: &Files, record: &CommitRecord) -> Result<(), WriterError> {
    storage::create_dir_durably(next)?;
    let mut dirs = BTreeSet::from([next.to_owned()]);
    for (staged, file) in &files.0 {
        let target = next.join(&file.path);
        let parent = target.parent().unwrap_or(next);
        if !dirs.contains(parent) {
            fs::create_dir_all(parent)
                .map_err(WriterError::io("creating the directory", parent))?;
            let below = parent.ancestors().take_while(|dir| *dir != next);
            dirs.extend(below.map(Path::to_owned));
        }
        storage::link_or_copy(staged, &target)?;
    }
    record::write(next, record)?;
    if dirs.len() > SYNC_EACH {
        return storage::sync_file_system(next);
    }
    // A set of paths has parents first: entries must last from the leaves up.
    dirs.iter().rev().try_for_each(|dir| storage::sync_dir(dir))
}

/// Puts `next` where readers look; says where the old content is now.
fn publish(
    paths: &TablePaths,
    next: &Path,
    before: Live,
    commit_id: &str,
) -> Result<PathBuf, WriterError> {
    let rename =
        |from: &Path, to: &Path| fs::rename(from, to).map_err(WriterError::io("renaming to", to));
    let old = match before {
        Live::Absent => {
            rename(next, &paths.live)?;
            next.to_owned()
        }
        _ if storage::exchange(next, &paths.live)? => next.to_owned(),
        _ => {
            let old = paths.staging.join(format!("{OLD_PREFIX}{commit_id}"));
            rename(&paths.live, &old)?;
            rename(next, &paths.live)?;
            old
        }
    };
    storage::sync_dir(&paths.database)?;
    storage::sync_dir(&paths.staging)?;
    Ok(old)
}

/// Removes what is no longer needed. The commit stands either way, and the
/// next Prepare or Commit removes what is left.
fn clean_up(trees: &[PathBuf]) {
    for tree in trees {
        if let Err(error) = storage::remove_tree(tree) {
            tracing::warn!(path = %tree.display(), "{error}; left for later");
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::StagedChunk;

    use super::*;
    use crate::parquet::prepare::prepare;
    use crate::parquet::stage::tests::{paths, stage};

    fn request(commit_id: &str, load_id: &str, staged: Vec<StagedChunk>) -> CommitRequest {
        CommitRequest {
            commit_id: commit_id.into(),
            load_id: load_id.into(),
            mode: Mode::Replace.into(),
            staged,
            ..Default::default()
        }
    }

    /// Contents of the visible Parquet files, with their directories, sorted.
    fn content(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for name in storage::entries(dir).unwrap() {
            let path = dir.join(&name);
            if path.is_dir() {
                found.extend(content(&path).iter().map(|inner| format!("{name}/{inner}")));
            } else if name.ends_with(".parquet") {
                found.push(fs::read_to_string(path).unwrap());
            }
        }
        found
    }

    fn first_commit(paths: &TablePaths) {
        let staged = vec![stage(paths, "load1", 0, &[("", "old", 1)])];
        commit(paths, &request("c1", "load1", staged)).unwrap();
        assert_eq!(content(&paths.live), ["old"]);
    }

    #[test]
    fn a_commit_replaces_the_content_and_leaves_no_garbage() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        first_commit(&paths);
        let staged = vec![
            stage(&paths, "load2", 1, &[("x=1", "b", 2), ("", "c", 1)]),
            stage(&paths, "load2", 0, &[("x=1", "a", 4)]),
        ];
        let committed = commit(&paths, &request("c2", "load2", staged)).unwrap();
        assert_eq!((committed.record.rows, committed.record.files), (7, 3));
        assert_eq!(content(&paths.live), ["c", "x=1/a", "x=1/b"]);
        assert!(storage::entries(&paths.staging).unwrap().is_empty());
        let record = prepare(&paths, &Default::default()).unwrap();
        assert_eq!(record, Some(committed.record));
    }

    /// A directory as a reader holds it while it lists: by its handle, whatever
    /// its path leads to meanwhile.
    fn held(dir: &Path) -> (fs::File, PathBuf) {
        use std::os::fd::AsRawFd;
        let handle = fs::File::open(dir).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
        (handle, path)
    }

    #[test]
    fn a_reader_that_opened_the_old_directory_finds_its_files_until_the_grace_is_over() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        first_commit(&paths);
        let (_handle, opened) = held(&paths.live);
        let staged = vec![stage(&paths, "load2", 0, &[("", "new", 1)])];
        let mut during = None;
        commit_with(&paths, &request("c2", "load2", staged), || {
            during = Some((content(&paths.live), content(&opened)));
        })
        .unwrap();
        let (by_path, by_handle) = during.expect("readers get their time");
        assert_eq!(by_path, ["new"], "who comes now sees the new content");
        assert_eq!(by_handle, ["old"], "who came before sees the old one");
        // What the grace is for: later the listing is empty, and no error.
        assert!(content(&opened).is_empty());
    }

    #[test]
    fn only_a_replacement_waits_for_readers() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let request_of = |commit_id, load| {
            request(commit_id, load, vec![stage(&paths, load, 0, &[("", "x", 1)])])
        };
        let first = request_of("c1", "load1");
        commit_with(&paths, &first, || panic!("there are no readers yet")).unwrap();
        commit_with(&paths, &first, || panic!("nothing is replaced")).unwrap();
        let started = std::time::Instant::now();
        commit(&paths, &request_of("c2", "load2")).unwrap();
        assert!(started.elapsed() >= READER_GRACE);
    }

    #[test]
    fn a_repeated_commit_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let staged = vec![stage(&paths, "load", 0, &[("", "a", 1)])];
        let request = request("c1", "load", staged);
        let first = commit(&paths, &request).unwrap();
        let again = commit(&paths, &request).unwrap();
        assert_eq!(again, Committed { already: true, ..first });
        assert_eq!(content(&paths.live), ["a"]);
    }

    #[test]
    fn a_commit_after_a_crash_at_any_step_ends_in_the_new_content() {
        type Crash = fn(&TablePaths, &CommitRequest);
        let steps: [(&str, Crash); 5] = [
            ("before the build", |_, _| {}),
            ("while building", |paths, _| {
                let next = paths.staging.join(".commit-c2");
                storage::create_dir_durably(&next.join("x=1")).unwrap();
                fs::write(next.join("x=1/torn.parquet"), "to").unwrap();
            }),
            ("after the build", |paths, request| {
                let files = Files::of(paths, request).unwrap();
                let record = CommitRecord { commit_id: "c2".into(), ..Default::default() };
                build(&paths.staging.join(".commit-c2"), &files, &record).unwrap();
            }),
            ("between two renames", |paths, _| {
                fs::rename(&paths.live, paths.staging.join(".old-c2")).unwrap();
                storage::create_dir_durably(&paths.staging.join(".commit-c2")).unwrap();
            }),
            ("after the exchange", |paths, request| {
                let files = Files::of(paths, request).unwrap();
                let record = CommitRecord { commit_id: "c2".into(), ..Default::default() };
                let next = paths.staging.join(".commit-c2");
                build(&next, &files, &record).unwrap();
                publish(paths, &next, live(&paths.live).unwrap(), "c2").unwrap();
            }),
        ];
        for (step, crash) in steps {
            let root = tempfile::tempdir().unwrap();
            let paths = paths(root.path());
            first_commit(&paths);
            let staged = vec![stage(&paths, "load2", 0, &[("x=1", "new", 1)])];
            let request = request("c2", "load2", staged);
            crash(&paths, &request);
            commit(&paths, &request).unwrap();
            assert_eq!(content(&paths.live), ["x=1/new"], "{step}");
            assert!(storage::entries(&paths.staging).unwrap().is_empty(), "{step}");
        }
    }

    #[test]
    fn an_empty_table_keeps_one_file_for_its_schema() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let empty = |load| {
            vec![
                stage(&paths, load, 0, &[("", "schema0", 0)]),
                stage(&paths, load, 1, &[("", "schema1", 0)]),
            ]
        };
        commit(&paths, &request("c1", "a", empty("a"))).unwrap();
        assert_eq!(content(&paths.live), ["schema0"]);
        let mut staged = empty("b");
        staged.push(stage(&paths, "b", 2, &[("", "rows", 3)]));
        commit(&paths, &request("c2", "b", staged)).unwrap();
        assert_eq!(content(&paths.live), ["rows"]);
    }

    #[test]
    fn what_is_not_ours_is_not_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let staged = vec![stage(&paths, "load", 0, &[("", "new", 1)])];
        let request = request("c", "load", staged);

        storage::create_dir_durably(&paths.live).unwrap();
        fs::write(paths.live.join("theirs.parquet"), "theirs").unwrap();
        assert!(matches!(commit(&paths, &request), Err(WriterError::ForeignTable { .. })));
        assert_eq!(content(&paths.live), ["theirs"]);

        storage::remove_tree(&paths.live).unwrap();
        std::os::unix::fs::symlink(root.path(), &paths.live).unwrap();
        assert!(matches!(commit(&paths, &request), Err(WriterError::ForeignTable { .. })));

        fs::remove_file(&paths.live).unwrap();
        storage::create_dir_durably(&paths.live).unwrap();
        commit(&paths, &request).unwrap();
        assert_eq!(content(&paths.live), ["new"]);
    }

    #[test]
    fn a_commit_of_what_does_not_belong_together_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let chunk = stage(&paths, "load", 0, &[("", "a", 1)]);
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
            assert!(commit(&paths, &request).is_err(), "{request:?}");
        }
        let unspecified = CommitRequest { mode: 0, ..request("c", "load", vec![chunk]) };
        assert!(commit(&paths, &unspecified).is_err());
        assert!(!paths.live.exists());
    }
}
