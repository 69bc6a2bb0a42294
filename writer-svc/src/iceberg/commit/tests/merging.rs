//! Thousands of commits to a table in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

use super::*;
use crate::iceberg::storage::Storage;
use crate::s3::bucket::Below;
use crate::stage::Sink;

/// Objects in memory.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl Storage for Memory {
    fn read(&self, location: &str) -> Result<Option<Bytes>, WriterError> {
        Ok(self.0.lock().unwrap().get(location).cloned())
    }

    fn read_range(
        &self,
        location: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Option<Bytes>, WriterError> {
        let range = range.start as usize..range.end as usize;
        Ok(self.read(location)?.map(|content| content.slice(range)))
    }

    fn write(&self, location: &str, content: &[u8]) -> Result<(), WriterError> {
        self.0.lock().unwrap().insert(location.to_owned(), content.to_vec().into());
        Ok(())
    }

    fn create(&self, location: &str) -> Result<Box<dyn Sink>, WriterError> {
        Ok(Box::new(MemorySink { to: self.clone(), path: location.into(), content: Vec::new() }))
    }

    fn list(&self, directory: &str) -> Result<Below, WriterError> {
        let inside = format!("{directory}/");
        let objects = self.0.lock().unwrap();
        let found = objects.range(inside.clone()..).map_while(|(at, _)| at.strip_prefix(&inside));
        let objects = found.filter(|name| !name.contains('/')).map(str::to_owned).collect();
        Ok(Below { objects, directories: Vec::new() })
    }

    fn delete(&self, location: &str) -> Result<(), WriterError> {
        self.0.lock().unwrap().remove(location);
        Ok(())
    }
}

struct MemorySink {
    to: Memory,
    path: PathBuf,
    content: Vec<u8>,
}

impl std::io::Write for MemorySink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.content.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink for MemorySink {
    fn location(&self) -> &Path {
        &self.path
    }

    fn finish(&mut self) -> Result<u64, WriterError> {
        self.to.write(&self.path.to_string_lossy(), &self.content)?;
        Ok(self.content.len() as u64)
    }
}

/// Metadata in memory.
#[derive(Debug, Default)]
struct Kept(Mutex<Option<Loaded>>);

impl Catalog for Kept {
    fn check(&self) -> Result<(), WriterError> {
        Ok(())
    }

    fn load(&self, _table: &TableName) -> Result<Option<Loaded>, WriterError> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn list(&self, _namespace: &str) -> Result<Vec<TableName>, WriterError> {
        Ok(Vec::new())
    }

    fn swap(
        &self,
        _table: &TableName,
        base: Option<&Loaded>,
        next: &Next,
    ) -> Result<Swap, WriterError> {
        let mut current = self.0.lock().unwrap();
        if current.as_ref().map(|it| &it.location) != base.map(|it| &it.location) {
            return Ok(Swap::Conflict);
        }
        let location = Uuid::new_v4().to_string();
        *current = Some(Loaded { metadata: next.metadata.clone(), location });
        Ok(Swap::Swapped)
    }

    fn drop_table(&self, _table: &TableName, _base: &Loaded) -> Result<bool, WriterError> {
        Ok(false)
    }
}

fn in_memory(format_version: u32) -> IcebergTable {
    let mut table = table_as(Path::new("/nowhere"), "", format_version);
    table.storage = Arc::new(Memory::default());
    table.catalog = Box::new(Kept::default());
    table
}

/// Every snapshot but the current one expires, as a user's engine has it.
fn expire(table: &IcebergTable) {
    let base = table.load().unwrap().unwrap();
    let current = base.metadata.current_snapshot_id();
    let old: Vec<_> = base.metadata.snapshots().map(|it| it.snapshot_id()).collect();
    let old: Vec<_> = old.into_iter().filter(|id| Some(*id) != current).collect();
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let made = builder.remove_snapshots(&old).build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    table.catalog.swap(&table.name, Some(&base), &next).unwrap();
}

fn set(table: &IcebergTable, properties: &[(&str, &str)]) {
    let base = table.load().unwrap().unwrap();
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let made = builder.set_properties(properties.collect()).unwrap().build().unwrap();
    let next = Next { metadata: made.metadata, changes: made.changes, absent: Vec::new() };
    table.catalog.swap(&table.name, Some(&base), &next).unwrap();
}

/// One row, and in some commits a delete. Snapshot id, sequence number and row
/// id of each row are in the order of the commits.
fn commit_one(table: &IcebergTable, at: i64) {
    let load = format!("c{at}");
    let mut staged = vec![stage(table, &load, 0, at..at + 1)];
    let mode = if at % 7 == 6 {
        staged.push(stage_deletes(table, &load, 1, at - 1..at));
        Mode::RowDelta
    } else {
        Mode::Append
    };
    let request = CommitRequest { mode: mode.into(), ..request(&load, &load, staged) };
    commit(table, &request).unwrap();
}

/// What is live, each file with its load.
fn lives(table: &IcebergTable) -> Vec<(String, manifest::Live)> {
    let mut found = Vec::new();
    for entry in manifests(table) {
        let content = table.object(&entry.manifest_path).unwrap();
        for live in manifest::Lives::of(&entry, &content).unwrap() {
            let live = live.unwrap();
            let load = live.file.file_path().split("/load-").nth(1).unwrap();
            found.push((load.split('/').next().unwrap().to_owned(), live));
        }
    }
    found
}

#[test]
fn ten_thousand_commits_leave_at_most_a_hundred_manifests() {
    const COMMITS: i64 = 10_000;
    let table = in_memory(2);
    let mut most = 0;
    let mut snapshots = BTreeMap::new();
    for at in 0..COMMITS {
        commit_one(&table, at);
        let current = metadata(&table).current_snapshot().unwrap().clone();
        snapshots.insert(format!("c{at}"), (current.snapshot_id(), current.sequence_number()));
        if at % 50 == 49 || at > COMMITS - 50 {
            most = most.max(manifests(&table).len());
        }
        if at % 20 == 19 {
            expire(&table);
        }
    }
    assert!((2..=100).contains(&most), "{most} manifests");
    let lives = lives(&table);
    let deletes = COMMITS / 7;
    assert_eq!(lives.len() as i64, COMMITS + deletes);
    for (load, live) in &lives {
        let expected = snapshots[load];
        let found = (live.snapshot_id, live.sequence_number);
        assert_eq!((found, live.file_sequence_number), (expected, expected.1), "{load}");
        assert!(table.storage.read(live.file.file_path()).unwrap().is_some());
    }
    let metadata = metadata(&table);
    let summary = &metadata.current_snapshot().unwrap().summary().additional_properties;
    assert_eq!(summary["total-records"], COMMITS.to_string());
    assert_eq!(summary["total-data-files"], COMMITS.to_string());
    assert_eq!(summary["total-equality-deletes"], deletes.to_string());
}

#[test]
fn merged_manifests_keep_the_row_ids_of_the_third_format_version() {
    const COMMITS: i64 = 400;
    let table = in_memory(3);
    commit_one(&table, 0);
    set(&table, &[("commit.manifest.min-count-to-merge", "5")]);
    for at in 1..COMMITS {
        commit_one(&table, at);
        assert!(manifests(&table).len() <= 7, "{}", manifests(&table).len());
    }
    assert_eq!(metadata(&table).next_row_id() as i64, COMMITS, "no number is wasted");
    for (load, live) in lives(&table) {
        let at: i64 = load[1..].parse().unwrap();
        let is_data = live.file.content_type() == iceberg::spec::DataContentType::Data;
        assert_eq!(live.first_row_id, is_data.then_some(at), "{load}");
    }
}

#[test]
fn a_table_may_ask_for_manifests_of_another_size_or_for_no_merging() {
    let table = in_memory(2);
    commit_one(&table, 0);
    let merging = ("commit.manifest-merge.enabled", "false");
    set(&table, &[merging, ("commit.manifest.min-count-to-merge", "4")]);
    (1..20).for_each(|at| commit_one(&table, at));
    assert_eq!(manifests(&table).len(), 22, "as many as there were");
    set(&table, &[(merging.0, "true")]);
    commit_one(&table, 20);
    assert_eq!(manifests(&table).len(), 4, "two new ones, and one of each content");

    let size = manifests(&table).iter().map(|it| it.manifest_length).max().unwrap();
    set(&table, &[("commit.manifest.target-size-bytes", &(2 * size).to_string())]);
    (21..60).for_each(|at| commit_one(&table, at));
    let found = manifests(&table);
    assert!(found.iter().all(|it| it.manifest_length <= 3 * size), "{found:?}");
    assert!(found.len() > 3, "{}", found.len());
    assert_eq!(rows(&table), 60 + 8);
}
