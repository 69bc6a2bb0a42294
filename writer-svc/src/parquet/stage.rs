//! The files of one chunk in a directory that no reader looks into, and their
//! manifest.
//!
//! ```text
//! <staging>/<load_id>/<chunk_id>-<uuid>/0.staged, 1.staged, …   Parquet, durable
//!                                      /manifest.json           last: the chunk is whole
//! ```
//!
//! Invariant: a manifest exists only when every file it lists is whole and
//! durable.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parquet::file::metadata::ParquetMetaData;
use proto::v1::{StageRequest, StagedChunk};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::WriterError;
use crate::stage::{Sink, Stage};
use crate::storage::{self, TablePaths};

/// The name of a manifest in its stage.
pub const MANIFEST: &str = "manifest.json";
/// With more files than this the whole file system is synced once instead.
const SYNC_EACH: usize = 32;
/// Bytes of a path component on the usual file systems.
const MAX_COMPONENT: usize = 255;

/// What one DoPut staged.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// As in the request.
    pub load_id: String,
    /// As in the request.
    pub chunk_id: u32,
    /// As in the request.
    pub settings_hash: String,
    /// In all files.
    pub rows: u64,
    /// In the order they were written.
    pub files: Vec<StagedFile>,
}

/// A Parquet file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StagedFile {
    /// Its name in the stage.
    pub staged: String,
    /// Its path in the table, relative: partitions and a name.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// A stage being filled.
#[derive(Debug)]
pub struct DirectoryStage {
    dir: PathBuf,
    id: Uuid,
    chunk_id: u32,
    files: Vec<StagedFile>,
    /// Names in the stage and in the table of the file being written.
    open: Option<(String, String)>,
    opened: usize,
    sealed: bool,
}

impl DirectoryStage {
    /// Creates the chunk's own directory; other attempts at the same chunk
    /// have theirs.
    pub fn create(paths: &TablePaths, load_id: &str, chunk_id: u32) -> Result<Self, WriterError> {
        let id = Uuid::new_v4();
        let dir = paths.load(load_id)?.join(format!("{chunk_id}-{}", id.simple()));
        storage::create_dir_durably(&dir)?;
        Ok(DirectoryStage {
            dir,
            id,
            chunk_id,
            files: Vec::new(),
            open: None,
            opened: 0,
            sealed: false,
        })
    }
}

impl Stage for DirectoryStage {
    fn scratch(&self) -> &Path {
        &self.dir
    }

    fn wants_schema_file(&self) -> bool {
        self.files.is_empty()
    }

    fn open(&mut self, partition: &str) -> Result<Box<dyn Sink>, WriterError> {
        let number = self.opened;
        self.opened += 1;
        // Sorts as the rows came; no two stages of any load make the same name.
        let name = format!("{:05}-{number:05}-{}.parquet", self.chunk_id, self.id.simple());
        let path = if partition.is_empty() { name } else { format!("{partition}/{name}") };
        check_partition(partition)?;
        let staged = format!("{number}.staged");
        let location = self.dir.join(&staged);
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&location)
            .map_err(WriterError::io("creating", &location))?;
        self.open = Some((staged, path));
        Ok(Box::new(StagedSink { file, location, sync: self.files.len() < SYNC_EACH }))
    }

    fn close(&mut self, sink: &mut dyn Sink, footer: &ParquetMetaData) -> Result<(), WriterError> {
        let (staged, path) = self
            .open
            .take()
            .ok_or_else(|| WriterError::Internal("a file is closed that was not opened".into()))?;
        let rows = footer.file_metadata().num_rows().unsigned_abs();
        self.files.push(StagedFile { staged, path, rows, bytes: sink.finish()? });
        Ok(())
    }

    fn seal(mut self: Box<Self>, request: &StageRequest) -> Result<StagedChunk, WriterError> {
        if self.files.len() > SYNC_EACH {
            storage::sync_file_system(&self.dir)?;
        }
        let manifest = Manifest {
            load_id: request.load_id.clone(),
            chunk_id: request.chunk_id,
            settings_hash: request.settings_hash.clone(),
            rows: self.files.iter().map(|file| file.rows).sum(),
            files: std::mem::take(&mut self.files),
        };
        let path = self.dir.join(MANIFEST);
        let content = serde_json::to_vec(&manifest)
            .map_err(|e| WriterError::Internal(format!("writing a manifest: {e}")))?;
        storage::write_durably(&path, &content)?;
        self.sealed = true;
        manifest.describe(&path)
    }
}

impl Drop for DirectoryStage {
    fn drop(&mut self) {
        if !self.sealed
            && let Err(error) = storage::remove_tree(&self.dir)
        {
            // The next Prepare tries again.
            tracing::warn!(dir = %self.dir.display(), "{error}; left for later");
        }
    }
}

/// A file of the stage being written.
struct StagedSink {
    file: File,
    location: PathBuf,
    /// Else the whole file system is synced in the end.
    sync: bool,
}

impl Write for StagedSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for StagedSink {
    fn location(&self) -> &Path {
        &self.location
    }

    fn finish(&mut self) -> Result<u64, WriterError> {
        if self.sync {
            self.file.sync_data().map_err(WriterError::io("syncing", &self.location))?;
        }
        let meta = self.file.metadata().map_err(WriterError::io("reading", &self.location))?;
        Ok(meta.len())
    }
}

impl Manifest {
    fn describe(&self, path: &Path) -> Result<StagedChunk, WriterError> {
        let manifest = storage::utf8(path)?;
        Ok(StagedChunk {
            load_id: self.load_id.clone(),
            chunk_id: self.chunk_id,
            settings_hash: self.settings_hash.clone(),
            manifest: manifest.to_owned(),
            rows: self.rows,
            files: self.files.len() as u64,
            bytes: self.files.iter().map(|file| file.bytes).sum(),
            ..Default::default()
        })
    }

    /// Reads back what a descriptor describes, and demands that all of it is
    /// still there, inside `paths`, and the same.
    pub fn of(paths: &TablePaths, chunk: &StagedChunk) -> Result<(PathBuf, Self), WriterError> {
        let path = PathBuf::from(&chunk.manifest);
        let gone = |problem: String| WriterError::StageGone { manifest: path.clone(), problem };
        let load = paths.load(&chunk.load_id)?;
        let inside = path.strip_prefix(&load).ok().filter(|rest| {
            storage::is_inside(rest) && rest.components().count() == 2 && rest.ends_with(MANIFEST)
        });
        if inside.is_none() {
            return Err(WriterError::InvalidRequest(format!(
                "{} is no manifest of load {} in {}",
                path.display(),
                chunk.load_id,
                paths.staging.display()
            )));
        }
        let content = std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => gone("it is no longer there".into()),
            _ => WriterError::io("reading", &path)(e),
        })?;
        let manifest: Manifest =
            serde_json::from_slice(&content).map_err(|e| gone(format!("unreadable: {e}")))?;
        if manifest.describe(&path)? != *chunk {
            return Err(gone("it is another chunk than was asked for".into()));
        }
        let dir = path.parent().unwrap_or(&load).to_owned();
        for file in &manifest.files {
            let plain = |name: &str| storage::is_inside(Path::new(name));
            if !plain(&file.path) || !plain(&file.staged) {
                return Err(gone(format!("it names {:?}", file.path)));
            }
            match std::fs::metadata(dir.join(&file.staged)) {
                Ok(meta) if meta.len() == file.bytes => {}
                Ok(meta) => {
                    return Err(gone(format!(
                        "{} has {} bytes, not {}",
                        file.staged,
                        meta.len(),
                        file.bytes
                    )));
                }
                Err(e) => return Err(gone(format!("{}: {e}", file.staged))),
            }
        }
        Ok((dir, manifest))
    }
}

/// A partition's path must stay inside the table and fit the file system.
pub fn check_partition(partition: &str) -> Result<(), WriterError> {
    let long = partition.split('/').any(|part| part.len() > MAX_COMPONENT);
    if partition.is_empty() || (storage::is_inside(Path::new(partition)) && !long) {
        return Ok(());
    }
    Err(WriterError::invalid_table(
        format!("the partition {partition:?} cannot be a directory"),
        "partition by a column with shorter, plainer values",
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use parquet::file::metadata::FileMetaData;
    use parquet::schema::types::{SchemaDescriptor, Type as SchemaType};
    use proto::v1::Table;

    use super::*;
    use crate::storage::tests::parquet;

    /// Paths of table `d.t` below `root`.
    pub(crate) fn paths(root: &Path) -> TablePaths {
        let table = Table { database: "d".into(), name: "t".into(), ..Default::default() };
        TablePaths::new(&parquet(root), &table).unwrap()
    }

    /// A footer that says how many rows there are, and nothing else.
    pub(crate) fn footer(rows: u64) -> ParquetMetaData {
        let schema = SchemaType::group_type_builder("schema").build().unwrap();
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
        let file = FileMetaData::new(1, rows.cast_signed(), None, None, schema, None);
        ParquetMetaData::new(file, Vec::new())
    }

    /// Stages a chunk whose files have the given partition, content and rows.
    pub(crate) fn stage(
        paths: &TablePaths,
        load_id: &str,
        chunk_id: u32,
        files: &[(&str, &str, u64)],
    ) -> StagedChunk {
        let mut stage = Box::new(DirectoryStage::create(paths, load_id, chunk_id).unwrap());
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
    fn a_sealed_stage_reads_back_as_its_descriptor_says() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let chunk = stage(&paths, "load", 3, &[("", "abc", 2), ("x=1", "de", 1)]);
        assert_eq!((chunk.rows, chunk.files, chunk.bytes), (3, 2, 5));
        let (dir, manifest) = Manifest::of(&paths, &chunk).unwrap();
        assert!(manifest.files[1].path.starts_with("x=1/00003-00001-"), "{manifest:?}");
        let names = storage::entries(&dir).unwrap();
        assert_eq!(names, ["0.staged", "1.staged", MANIFEST]);
    }

    #[test]
    fn a_stage_that_is_not_sealed_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let mut stage = DirectoryStage::create(&paths, "load", 0).unwrap();
        let dir = stage.scratch().to_owned();
        drop(stage.open("").unwrap());
        drop(stage);
        assert!(!dir.exists());
    }

    #[test]
    fn a_chunk_that_changed_or_lies_elsewhere_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let chunk = stage(&paths, "load", 0, &[("", "abc", 2)]);

        let other = StagedChunk { rows: 1, ..chunk.clone() };
        assert!(matches!(Manifest::of(&paths, &other), Err(WriterError::StageGone { .. })));
        let outside = StagedChunk {
            manifest: chunk.manifest.replace("/load/", "/load/../load/"),
            ..chunk.clone()
        };
        assert!(matches!(Manifest::of(&paths, &outside), Err(WriterError::InvalidRequest(_))));

        let (dir, _) = Manifest::of(&paths, &chunk).unwrap();
        std::fs::write(dir.join("0.staged"), "ab").unwrap();
        assert!(matches!(Manifest::of(&paths, &chunk), Err(WriterError::StageGone { .. })));
        storage::remove_tree(&dir).unwrap();
        assert!(matches!(Manifest::of(&paths, &chunk), Err(WriterError::StageGone { .. })));
    }

    #[test]
    fn a_partition_that_leaves_the_table_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut stage = DirectoryStage::create(&paths(root.path()), "load", 0).unwrap();
        let long = "x".repeat(256);
        for partition in ["..", "/etc", "a/../b", long.as_str()] {
            assert!(stage.open(partition).is_err(), "{partition:?}");
        }
    }
}
