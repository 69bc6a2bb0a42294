//! Where the row of each key lies that a chunk stages: what an index of keys is
//! made of.
//!
//! A Parquet file among the load's data files, which no snapshot ever refers to. It
//! goes with the load, or as soon as that is committed. `file_path` and `pos` are
//! those of position deletes; the key's columns are those that tell a row in the
//! table, with their field ids.

use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int32Type, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use uuid::Uuid;

use super::positions;
use super::storage::Storage;
use crate::encoding::COMPRESSION_LEVEL;
use crate::error::WriterError;
use crate::stage::Sink;

/// Bytes of a row group: what is held in memory.
const ROW_GROUP_BYTES: usize = 8 << 20;

/// The report of a chunk; removed unless it is kept.
pub struct Keys {
    storage: Arc<dyn Storage>,
    location: String,
    schema: SchemaRef,
    /// Places of the key's columns in the rows.
    columns: Vec<usize>,
    /// Absent until there is a row.
    writer: Option<ArrowWriter<Box<dyn Sink>>>,
    /// The data file being written.
    file: StringArray,
    /// Its rows so far.
    rows: i64,
    kept: bool,
}

impl Keys {
    /// Of a chunk whose rows have the columns of `rows`, among them those of `names`;
    /// it lies in `directory`.
    pub fn new(
        storage: &Arc<dyn Storage>,
        directory: &str,
        chunk_id: u32,
        names: &[String],
        rows: &Schema,
    ) -> Result<Self, WriterError> {
        let place = |name: &String| {
            rows.index_of(name).map_err(|_| {
                WriterError::InvalidRequest(format!(
                    "the key column {name:?} is not among the rows"
                ))
            })
        };
        let columns = names.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        if columns.is_empty() {
            let what = "keys of rows without a key cannot be reported".to_owned();
            return Err(WriterError::InvalidRequest(what));
        }
        let place = positions::columns();
        let path = DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into());
        let mut fields = vec![
            Arc::new(place.field(0).clone().with_data_type(path)),
            Arc::new(place.field(1).clone()),
        ];
        fields.extend(columns.iter().map(|&at| Arc::clone(&rows.fields()[at])));
        let id = Uuid::new_v4().simple();
        Ok(Keys {
            storage: Arc::clone(storage),
            location: format!("{directory}/{chunk_id:05}-keys-{id}.parquet"),
            schema: Arc::new(Schema::new(fields)),
            columns,
            writer: None,
            file: StringArray::new_null(1),
            rows: 0,
            kept: false,
        })
    }

    /// The next rows go to this data file.
    pub fn opened(&mut self, location: &str) {
        self.file = StringArray::from(vec![location]);
        self.rows = 0;
    }

    /// Rows that were written to it, after those before.
    pub fn wrote(&mut self, rows: &RecordBatch) -> Result<(), WriterError> {
        let count = rows.num_rows();
        // A batch and a file have fewer than 2^31 and 2^63 rows.
        let end = self.rows + count as i64;
        let file = DictionaryArray::<Int32Type>::new(
            Int32Array::from_value(0, count),
            Arc::new(self.file.clone()),
        );
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(file), Arc::new(Int64Array::from_iter_values(self.rows..end))];
        columns.extend(self.columns.iter().map(|&at| Arc::clone(rows.column(at))));
        self.rows = end;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(WriterError::arrow("reporting keys"))?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let sink = self.storage.create(&self.location)?;
                let writer =
                    ArrowWriter::try_new(sink, Arc::clone(&self.schema), Some(properties()));
                self.writer.insert(writer.map_err(WriterError::parquet(&self.location))?)
            }
        };
        writer.write(&batch).map_err(WriterError::parquet(&self.location))
    }

    /// Makes it whole; where it lies; empty: there were no rows.
    pub fn finish(&mut self) -> Result<&str, WriterError> {
        let Some(writer) = &mut self.writer else { return Ok("") };
        writer.finish().map_err(WriterError::parquet(&self.location))?;
        writer.inner_mut().finish()?;
        Ok(&self.location)
    }

    /// From here on it is the chunk's.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if self.writer.is_none() || self.kept {
            return;
        }
        if let Err(error) = self.storage.delete(&self.location) {
            // A Prepare tries again.
            tracing::warn!("{error}; {} is left for later", self.location);
        }
    }
}

fn properties() -> WriterProperties {
    let level = ZstdLevel::try_new(COMPRESSION_LEVEL).unwrap_or_default();
    WriterProperties::builder()
        .set_created_by(format!("tidewater {}", proto::VERSION))
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .build()
}
