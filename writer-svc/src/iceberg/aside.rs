//! Rows that cannot be staged yet: an Arrow stream among the load's data files,
//! which no snapshot ever refers to. It goes with the load, or as soon as that is
//! committed.

use std::io::BufReader;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use proto::v1::{StageRequest, StagedChunk};
use uuid::Uuid;

use super::object::{Object, Reader};
use super::storage::Storage;
use super::{IcebergTable, Paths};
use crate::error::WriterError;
use crate::stage::Sink;
use crate::storage::plain;

/// How its name ends.
const SUFFIX: &str = ".arrow";

/// One being written; removed if it is not finished.
pub struct Aside {
    storage: Arc<dyn Storage>,
    location: String,
    writer: Option<StreamWriter<Box<dyn Sink>>>,
    rows: u64,
}

impl Aside {
    /// For rows of the changes that `stage` stages, with the columns of `sent`.
    pub fn create(
        table: &IcebergTable,
        stage: &StageRequest,
        sent: &Schema,
    ) -> Result<Self, WriterError> {
        plain("load_id", &stage.load_id)?;
        let loaded = table.load()?;
        let metadata = loaded.as_ref().map(|loaded| &loaded.metadata);
        let directory = Paths::of(metadata, &table.new_location).load(&stage.load_id);
        let id = Uuid::new_v4().simple();
        let location = format!("{directory}/{:05}-aside-{id}{SUFFIX}", stage.chunk_id);
        let storage = Arc::clone(&table.storage);
        let sink = storage.create(&location)?;
        let mut aside = Aside { storage, location, writer: None, rows: 0 };
        let writer = StreamWriter::try_new(sink, sent).map_err(aside.failed());
        aside.writer = Some(writer.inspect_err(|_| aside.remove())?);
        Ok(aside)
    }

    /// Takes rows.
    pub fn push(&mut self, sent: &RecordBatch) -> Result<(), WriterError> {
        self.rows += sent.num_rows() as u64;
        let failed = self.failed();
        self.writer.as_mut().map_or(Ok(()), |writer| writer.write(sent)).map_err(failed)
    }

    /// It is whole.
    pub fn finish(mut self, stage: &StageRequest) -> Result<StagedChunk, WriterError> {
        let Some(writer) = self.writer.take() else {
            return Err(WriterError::Internal("rows were put aside twice".into()));
        };
        let ended = writer.into_inner().map_err(self.failed()).and_then(|mut sink| sink.finish());
        let bytes = ended.inspect_err(|_| self.remove())?;
        Ok(StagedChunk {
            load_id: stage.load_id.clone(),
            chunk_id: stage.chunk_id,
            settings_hash: stage.settings_hash.clone(),
            manifest: self.location.clone(),
            rows: self.rows,
            files: 1,
            bytes,
            kind: stage.kind,
            ..Default::default()
        })
    }

    fn failed(&self) -> impl FnOnce(arrow::error::ArrowError) -> WriterError + use<> {
        WriterError::arrow(format!("putting rows aside in {}", self.location))
    }

    fn remove(&self) {
        if let Err(error) = self.storage.delete(&self.location) {
            // A Prepare tries again.
            tracing::warn!("{error}; {} is left for later", self.location);
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            self.remove();
        }
    }
}

/// Reads what was put aside for the table.
pub(super) fn open(
    table: &IcebergTable,
    paths: &Paths,
    staged: &StagedChunk,
) -> Result<StreamReader<BufReader<Reader>>, WriterError> {
    plain("load_id", &staged.load_id)?;
    let name = staged.manifest.strip_prefix(&paths.load(&staged.load_id));
    let name = name.and_then(|name| name.strip_prefix('/'));
    if !name.is_some_and(|name| name.ends_with(SUFFIX) && !name.contains('/')) {
        let what = format!("{} was not put aside for {}", staged.manifest, table.name);
        return Err(WriterError::InvalidRequest(what));
    }
    let object = Object::new(&table.storage, &staged.manifest, staged.bytes);
    let opened = StreamReader::try_new(BufReader::new(object.reader()), None);
    opened.map_err(|error| match object.failure() {
        Some(ours) => ours,
        None => WriterError::arrow(format!("reading {}", staged.manifest))(error),
    })
}
