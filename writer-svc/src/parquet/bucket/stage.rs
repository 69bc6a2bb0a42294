//! The files of one chunk as uploads that are held open, and their manifest.
//!
//! ```text
//! <staging>/<load_id>/<chunk_id>-<uuid>/0.upload, 1.upload, …   which upload is of which file
//!                                      /manifest.json           last: the chunk is whole
//! ```
//!
//! An upload is noted before a part of it is sent, so that whoever gives a load
//! up can abort what a process that was killed has begun. Invariants: a manifest
//! exists only when all parts of every upload that it lists are with the store;
//! who removes a chunk removes the manifest first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::file::metadata::ParquetMetaData;
use proto::v1::{StageRequest, StagedChunk};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::BucketTable;
use super::record::Held;
use crate::error::WriterError;
use crate::parquet::stage::{MANIFEST, check_partition};
use crate::s3::upload::Parts;
use crate::stage::{Sink, Stage};
use crate::storage::is_inside;

/// The ending of a note's name.
const UPLOAD: &str = ".upload";

/// What one DoPut staged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// As in the request.
    pub load_id: String,
    /// As in the request.
    pub chunk_id: u32,
    /// As in the request.
    pub settings_hash: String,
    /// In the order they were written.
    pub files: Vec<Held>,
}

/// An upload that was begun.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Of the file, in the table.
    path: String,
    upload: String,
}

/// A stage being filled.
#[derive(Debug)]
pub struct BucketStage {
    table: BucketTable,
    directory: String,
    scratch: PathBuf,
    id: Uuid,
    chunk_id: u32,
    files: Vec<Held>,
    /// The file being written.
    open: Option<(Note, Parts)>,
    /// All that were begun.
    begun: Vec<Note>,
    sealed: bool,
}

impl BucketStage {
    /// Begins the chunk's own directory; other attempts at the same chunk have
    /// theirs.
    pub fn create(table: &BucketTable, load_id: &str, chunk_id: u32) -> Result<Self, WriterError> {
        let id = Uuid::new_v4();
        Ok(BucketStage {
            directory: format!("{}/{chunk_id}-{}", table.paths.load(load_id)?, id.simple()),
            table: table.clone(),
            scratch: std::env::temp_dir(),
            id,
            chunk_id,
            files: Vec::new(),
            open: None,
            begun: Vec::new(),
            sealed: false,
        })
    }

    fn file(&self, path: &str) -> String {
        format!("{}/{path}", self.table.paths.live)
    }

    fn note(&self, number: usize) -> String {
        format!("{}/{number}{UPLOAD}", self.directory)
    }
}

impl Stage for BucketStage {
    fn scratch(&self) -> &Path {
        &self.scratch
    }

    fn wants_schema_file(&self) -> bool {
        self.files.is_empty()
    }

    fn open(&mut self, partition: &str) -> Result<Box<dyn Sink>, WriterError> {
        check_partition(partition)?;
        let number = self.begun.len();
        // Sorts as the rows came; no two stages of any load make the same name.
        let name = format!("{:05}-{number:05}-{}.parquet", self.chunk_id, self.id.simple());
        let path = if partition.is_empty() { name } else { format!("{partition}/{name}") };
        let location = self.file(&path);
        let upload = self.table.bucket.begin(&location)?;
        let note = || Note { path: path.clone(), upload: upload.clone() };
        self.begun.push(note());
        let content = serde_json::to_vec(&note())
            .map_err(|e| WriterError::Internal(format!("writing a note: {e}")))?;
        self.table.bucket.write(&self.note(number), &content)?;
        let parts = Parts::default();
        self.open = Some((note(), Arc::clone(&parts)));
        Ok(Box::new(self.table.bucket.create(&location)?.held(upload, parts)))
    }

    fn close(&mut self, sink: &mut dyn Sink, footer: &ParquetMetaData) -> Result<(), WriterError> {
        let rows = footer.file_metadata().num_rows().unsigned_abs();
        let bytes = sink.finish()?;
        let (Note { path, upload }, parts) = self
            .open
            .take()
            .ok_or_else(|| WriterError::Internal("a file is closed that was not opened".into()))?;
        let parts = parts
            .get()
            .ok_or_else(|| WriterError::Internal("a file is closed before it ended".into()))?;
        self.files.push(Held { path, rows, bytes, upload, parts: parts.clone() });
        Ok(())
    }

    fn seal(mut self: Box<Self>, request: &StageRequest) -> Result<StagedChunk, WriterError> {
        let manifest = Manifest {
            load_id: request.load_id.clone(),
            chunk_id: request.chunk_id,
            settings_hash: request.settings_hash.clone(),
            files: std::mem::take(&mut self.files),
        };
        let location = format!("{}/{MANIFEST}", self.directory);
        let content = serde_json::to_vec(&manifest)
            .map_err(|e| WriterError::Internal(format!("writing a manifest: {e}")))?;
        self.table.bucket.write(&location, &content)?;
        self.sealed = true;
        Ok(manifest.describe(&location))
    }
}

impl Drop for BucketStage {
    fn drop(&mut self) {
        if self.sealed {
            return;
        }
        let numbered: Vec<_> = self.begun.iter().enumerate().collect();
        let given_up = self.table.bucket.each(&numbered, |(number, note)| {
            self.table.bucket.abort(&self.file(&note.path), &note.upload)?;
            self.table.bucket.delete(&self.note(*number))
        });
        if let Err(error) = given_up {
            // The next Prepare tries again.
            tracing::warn!("{error}; {} is left for later", self.directory);
        }
    }
}

impl Manifest {
    fn describe(&self, location: &str) -> StagedChunk {
        StagedChunk {
            load_id: self.load_id.clone(),
            chunk_id: self.chunk_id,
            settings_hash: self.settings_hash.clone(),
            manifest: location.to_owned(),
            rows: self.files.iter().map(|file| file.rows).sum(),
            files: self.files.len() as u64,
            bytes: self.files.iter().map(|file| file.bytes).sum(),
            ..Default::default()
        }
    }

    /// Reads back what a descriptor describes, and demands that it is the same,
    /// inside the table. Whether its uploads are still there, their completion
    /// tells.
    pub fn of(table: &BucketTable, chunk: &StagedChunk) -> Result<Self, WriterError> {
        let gone = |problem: String| WriterError::StageGone {
            manifest: chunk.manifest.clone().into(),
            problem,
        };
        let load = table.paths.load(&chunk.load_id)?;
        let name = chunk.manifest.strip_prefix(&load).and_then(|rest| rest.strip_prefix('/'));
        let name = name.and_then(|rest| rest.split_once('/'));
        if !name.is_some_and(|(stage, name)| !stage.starts_with('.') && name == MANIFEST) {
            return Err(WriterError::InvalidRequest(format!(
                "{} is no manifest of load {} in {}",
                chunk.manifest, chunk.load_id, table.paths.staging
            )));
        }
        let object = table.bucket.read(&chunk.manifest)?;
        let object = object.ok_or_else(|| gone("it is no longer there".into()))?;
        let manifest: Manifest = serde_json::from_slice(&object.content)
            .map_err(|e| gone(format!("unreadable: {e}")))?;
        if manifest.describe(&chunk.manifest) != *chunk {
            return Err(gone("it is another chunk than was asked for".into()));
        }
        match manifest.files.iter().find(|file| !is_inside(Path::new(&file.path))) {
            Some(file) => Err(gone(format!("it names {:?}", file.path))),
            None => Ok(manifest),
        }
    }
}

/// Removes what is staged below a location, and gives its uploads up. Those in
/// directories that `done` names are completed, or given up already.
pub fn remove(table: &BucketTable, location: &str, done: &[&str]) -> Result<(), WriterError> {
    let found = table.bucket.walk(location)?;
    let at = |path: &String| format!("{location}/{path}");
    let (manifests, others): (Vec<_>, Vec<_>) =
        found.iter().map(at).partition(|path| path.ends_with(MANIFEST));
    table.bucket.each(&manifests, |path| table.bucket.delete(path))?;
    table.bucket.each(&others, |path| {
        let is_done = done.iter().any(|directory| path.starts_with(directory));
        if path.ends_with(UPLOAD) && !is_done
            && let Some(object) = table.bucket.read(path)?
            // A note that was written, or none: objects are whole.
            && let Ok(note) = serde_json::from_slice::<Note>(&object.content)
        {
            table.bucket.abort(&format!("{}/{}", table.paths.live, note.path), &note.upload)?;
        }
        table.bucket.delete(path)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use proto::v1::Table;

    use super::*;
    use crate::parquet::stage::tests::footer;
    use crate::s3::fake::{Fake, blocking};

    /// The table `d.t` below `s3://lake/in`.
    pub(crate) fn table(fake: &Arc<Fake>) -> BucketTable {
        let table = Table { database: "d".into(), name: "t".into(), ..Default::default() };
        BucketTable::over(Arc::new(fake.bucket()), "s3://lake/in", &table, 1 << 20).unwrap()
    }

    /// Stages a chunk whose files have the given partition, content and rows.
    pub(crate) fn stage(
        table: &BucketTable,
        load_id: &str,
        chunk_id: u32,
        files: &[(&str, &str, u64)],
    ) -> StagedChunk {
        let mut stage = Box::new(BucketStage::create(table, load_id, chunk_id).unwrap());
        for (partition, content, rows) in files {
            let mut sink = stage.open(partition).unwrap();
            sink.write_all(content.as_bytes()).unwrap();
            stage.close(sink.as_mut(), &footer(*rows)).unwrap();
        }
        let load_id = load_id.to_owned();
        let settings_hash = "hash".to_owned();
        let request = StageRequest { load_id, chunk_id, settings_hash, ..Default::default() };
        stage.seal(&request).unwrap()
    }

    #[test]
    fn a_sealed_stage_reads_back_as_its_descriptor_says_and_nothing_is_seen_of_it() {
        blocking(|| {
            let table = table(&Arc::<Fake>::default());
            let chunk = stage(&table, "load", 3, &[("", "more than a part", 2), ("x=1", "de", 1)]);
            assert_eq!((chunk.rows, chunk.files, chunk.bytes), (3, 2, 18));
            let manifest = Manifest::of(&table, &chunk).unwrap();
            assert!(manifest.files[1].path.starts_with("x=1/00003-00001-"), "{manifest:?}");
            assert_eq!(manifest.files[0].parts.len(), 2);
            assert_eq!(table.bucket.walk(&table.paths.live).unwrap(), [""; 0]);
            assert_eq!(table.bucket.walk(&table.paths.staging).unwrap().len(), 3);
        });
    }

    #[test]
    fn a_stage_that_is_not_sealed_or_is_removed_leaves_neither_object_nor_upload() {
        blocking(|| {
            let fake = Arc::<Fake>::default();
            let table = table(&fake);
            let mut dropped = BucketStage::create(&table, "load", 0).unwrap();
            let mut sink = dropped.open("").unwrap();
            sink.write_all(&[7; 25]).unwrap();
            drop(sink);
            drop(dropped);
            stage(&table, "load", 1, &[("", "abc", 1), ("x=1", "d", 1)]);
            // As if the process had been killed while it wrote.
            let mut killed = BucketStage::create(&table, "load", 2).unwrap();
            killed.open("").unwrap().finish().unwrap();
            killed.sealed = true;
            drop(killed);
            remove(&table, &table.paths.load("load").unwrap(), &[]).unwrap();
            assert_eq!(fake.keys_of("begun").len(), 4);
            let aborted: std::collections::BTreeSet<_> =
                fake.keys_of("aborted").into_iter().collect();
            assert_eq!(aborted, fake.keys_of("begun").into_iter().collect());
            assert_eq!(table.bucket.walk("s3://lake").unwrap(), [""; 0]);
        });
    }

    #[test]
    fn a_chunk_that_changed_or_lies_elsewhere_is_refused() {
        blocking(|| {
            let table = table(&Arc::<Fake>::default());
            let chunk = stage(&table, "load", 0, &[("", "abc", 2)]);
            let other = StagedChunk { rows: 1, ..chunk.clone() };
            assert!(matches!(Manifest::of(&table, &other), Err(WriterError::StageGone { .. })));
            for outside in ["/load/../load/", "/other/", "/load/x/y/"] {
                let manifest = chunk.manifest.replace("/load/", outside);
                let outside = StagedChunk { manifest, ..chunk.clone() };
                let refused = Manifest::of(&table, &outside);
                assert!(matches!(refused, Err(WriterError::InvalidRequest(_))), "{outside:?}");
            }
            table.bucket.delete(&chunk.manifest).unwrap();
            assert!(matches!(Manifest::of(&table, &chunk), Err(WriterError::StageGone { .. })));
        });
    }

    #[test]
    fn a_partition_that_leaves_the_table_is_refused() {
        blocking(|| {
            let table = table(&Arc::<Fake>::default());
            let mut stage = BucketStage::create(&table, "load", 0).unwrap();
            let long = "x".repeat(256);
            for partition in ["..", "/etc", "a/../b", long.as_str()] {
                assert!(stage.open(partition).is_err(), "{partition:?}");
            }
        });
    }
}
