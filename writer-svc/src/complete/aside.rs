//! Rows that cannot be staged yet: an Arrow stream among what a load has staged, which
//! no reader ever sees. It goes with the load, or as soon as that is committed.
//!
//! After the columns of a change come those of its key once more, as the table has
//! it: null unless the row got another key since.

use std::io::BufReader;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use proto::v1::{StageRequest, StagedChunk};
use uuid::Uuid;

use crate::error::WriterError;
use crate::iceberg::storage::Storage;
use crate::object::{Object, Reader};
use crate::stage::Sink;

/// Where the changes of a load wait.
pub struct Place {
    /// In which store.
    pub storage: Arc<dyn Storage>,
    /// The directory.
    pub directory: String,
}

/// Marks the columns of the key that a row had.
const MOVED_FROM: &str = "tidewater.moved-from";

/// The columns of rows that are put aside; `keys`: those of a key, if there is one.
pub fn columns(sent: &Schema, keys: Option<&Schema>) -> SchemaRef {
    let mark = |field: &FieldRef| {
        let field = field.as_ref().clone().with_nullable(true);
        Arc::new(field.with_metadata([(MOVED_FROM.to_owned(), String::new())].into()))
    };
    let keys = keys.into_iter().flat_map(|keys| keys.fields().iter().map(mark));
    let fields: Vec<_> = sent.fields().iter().cloned().chain(keys).collect();
    Arc::new(Schema::new_with_metadata(fields, sent.metadata().clone()))
}

/// Changes with these columns; `from`: the keys that they had.
pub fn rows(
    columns: &SchemaRef,
    changes: &RecordBatch,
    from: Option<&RecordBatch>,
) -> Result<RecordBatch, WriterError> {
    let mut arrays = changes.columns().to_vec();
    match from {
        Some(from) => arrays.extend(from.columns().iter().cloned()),
        None => {
            let keys = columns.fields().iter().skip(arrays.len());
            let nulls = keys.map(|key| new_null_array(key.data_type(), changes.num_rows()));
            arrays.extend(nulls.collect::<Vec<_>>());
        }
    }
    RecordBatch::try_new(Arc::clone(columns), arrays)
        .map_err(WriterError::arrow("putting rows aside"))
}

/// How many of the columns are those of the changes.
pub(super) fn sent(columns: &Schema) -> usize {
    let is_from = |field: &FieldRef| field.metadata().contains_key(MOVED_FROM);
    columns.fields().iter().position(is_from).unwrap_or(columns.fields().len())
}

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
    pub fn create(place: Place, stage: &StageRequest, sent: &Schema) -> Result<Self, WriterError> {
        let Place { storage, directory } = place;
        let id = Uuid::new_v4().simple();
        let location = format!("{directory}/{:05}-aside-{id}{SUFFIX}", stage.chunk_id);
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

/// Reads what was put aside for the table of this name.
pub(super) fn open(
    place: &Place,
    table: &str,
    staged: &StagedChunk,
) -> Result<StreamReader<BufReader<Reader>>, WriterError> {
    let name = staged.manifest.strip_prefix(&place.directory);
    let name = name.and_then(|name| name.strip_prefix('/'));
    if !name.is_some_and(|name| name.ends_with(SUFFIX) && !name.contains('/')) {
        let what = format!("{} was not put aside for {table}", staged.manifest);
        return Err(WriterError::InvalidRequest(what));
    }
    let object = Object::new(&place.storage, &staged.manifest, staged.bytes);
    let opened = StreamReader::try_new(BufReader::new(object.reader()), None);
    opened.map_err(|error| match object.failure() {
        Some(ours) => ours,
        None => WriterError::arrow(format!("reading {}", staged.manifest))(error),
    })
}
