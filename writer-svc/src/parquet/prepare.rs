//! The two calls around a table's life: make ready for a run, and remove.

use std::fs;

use proto::v1::{CommitRecord, PrepareRequest};
use uuid::Uuid;

use super::{DROPPED_PREFIX, LOCK_PATIENCE, Live, live, recover};
use crate::error::WriterError;
use crate::storage::{self, TableLock, TablePaths};

/// Says what the table holds, after removing what abandoned loads and crashed
/// commits have left. Fails where a later commit would. One that only looks sees
/// what readers see.
pub fn prepare(
    paths: &TablePaths,
    request: &PrepareRequest,
) -> Result<Option<CommitRecord>, WriterError> {
    if request.look {
        return Ok(match live(&paths.live)? {
            Live::Absent | Live::Empty => None,
            Live::Ours(record) => Some(record),
        });
    }
    for load in &request.keep_load_ids {
        storage::plain("load_id", load)?;
    }
    storage::create_dir_durably(&paths.staging)?;
    let _lock = TableLock::acquire(paths, LOCK_PATIENCE)?;
    recover(paths)?;
    let record = match live(&paths.live)? {
        Live::Absent | Live::Empty => None,
        Live::Ours(record) => Some(record),
    };
    // First, so that what an abandoned load has filled is free again.
    for name in storage::entries(&paths.staging)? {
        if !request.keep_load_ids.contains(&name) {
            storage::remove_tree(&paths.staging.join(name))?;
        }
    }
    try_writing(paths)?;
    Ok(record)
}

/// A commit renames in the database's directory and writes below staging.
fn try_writing(paths: &TablePaths) -> Result<(), WriterError> {
    let probe = format!(".probe-{}", Uuid::new_v4().simple());
    let (from, to) = (paths.staging.join(&probe), paths.database.join(&probe));
    storage::create_dir_durably(&from)?;
    storage::write_durably(&from.join("file"), b"tidewater")?;
    let moved = fs::rename(&from, &to).map_err(WriterError::io("renaming to", &to));
    storage::remove_tree(if moved.is_ok() { &to } else { &from })?;
    moved
}

/// Removes the table and all that is staged for it; whether there was any of
/// it. A crash in the middle leaves the table whole or gone.
pub fn drop_table(paths: &TablePaths) -> Result<bool, WriterError> {
    if !paths.staging.exists() && live(&paths.live)? == Live::Absent {
        return Ok(false);
    }
    storage::create_dir_durably(&paths.staging)?;
    let lock = TableLock::acquire(paths, LOCK_PATIENCE)?;
    recover(paths)?;
    let existed = live(&paths.live)? != Live::Absent;
    if existed {
        let aside = paths.staging.join(format!("{DROPPED_PREFIX}{}", Uuid::new_v4().simple()));
        storage::create_dir_durably(&paths.staging)?;
        fs::rename(&paths.live, &aside).map_err(WriterError::io("removing", &paths.live))?;
        storage::sync_dir(&paths.database)?;
    }
    storage::remove_tree(&paths.staging)?;
    lock.remove()?;
    // Gone with their last table; not empty while there is another.
    if let Some(private) = paths.staging.parent() {
        let _ = fs::remove_dir(private);
    }
    let _ = fs::remove_dir(&paths.database);
    Ok(existed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet::record;
    use crate::parquet::stage::tests::{paths, stage};

    fn ours(paths: &TablePaths) -> CommitRecord {
        storage::create_dir_durably(&paths.live).unwrap();
        let record = CommitRecord { commit_id: "c".into(), rows: 7, ..Default::default() };
        record::write(&paths.live, &record).unwrap();
        record
    }

    #[test]
    fn only_the_kept_loads_survive_a_prepare() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        for load in ["old", "kept"] {
            stage(&paths, load, 0, &[("", "x", 1)]);
        }
        let record = ours(&paths);
        storage::create_dir_durably(&paths.staging.join(".commit-crashed")).unwrap();
        let request = PrepareRequest { keep_load_ids: vec!["kept".into()], ..Default::default() };
        assert_eq!(prepare(&paths, &request).unwrap(), Some(record));
        assert_eq!(storage::entries(&paths.staging).unwrap(), ["kept"]);
        assert_eq!(storage::entries(&paths.database).unwrap(), [".tidewater", "t"]);
    }

    #[test]
    fn who_only_looks_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let look = PrepareRequest { look: true, ..Default::default() };
        assert_eq!(prepare(&paths, &look).unwrap(), None);
        assert_eq!(storage::entries(root.path()).unwrap(), [""; 0]);
        stage(&paths, "load", 0, &[("", "x", 1)]);
        let record = ours(&paths);
        assert_eq!(prepare(&paths, &look).unwrap(), Some(record));
        assert_eq!(storage::entries(&paths.staging).unwrap(), ["load"]);
    }

    #[test]
    fn the_old_content_returns_after_a_crash_between_two_renames() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let record = ours(&paths);
        storage::create_dir_durably(&paths.staging).unwrap();
        fs::rename(&paths.live, paths.staging.join(".old-c2")).unwrap();
        let found = prepare(&paths, &PrepareRequest::default()).unwrap();
        assert_eq!(found, Some(record));
    }

    #[test]
    fn a_drop_removes_ours_and_refuses_what_is_not() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        assert!(!drop_table(&paths).unwrap());
        ours(&paths);
        stage(&paths, "load", 0, &[("", "x", 1)]);
        assert!(drop_table(&paths).unwrap());
        assert!(!paths.database.exists());

        storage::create_dir_durably(&paths.live).unwrap();
        fs::write(paths.live.join("theirs.parquet"), "x").unwrap();
        assert!(matches!(drop_table(&paths), Err(WriterError::ForeignTable { .. })));
        assert!(paths.live.join("theirs.parquet").exists());
        let refused = prepare(&paths, &PrepareRequest::default());
        assert!(matches!(refused, Err(WriterError::ForeignTable { .. })));
    }
}
