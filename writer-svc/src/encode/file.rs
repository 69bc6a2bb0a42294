//! One Parquet file: record batches in, row groups out.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, SchemaRef};
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::Result;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;

use super::flat::{FlatColumn, Zstd};
use crate::encoding::COMPRESSION_LEVEL;

/// Writes a file.
pub(super) struct FileWriter<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    nested: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    columns: Vec<Column>,
    /// Of the row group at hand.
    rows: usize,
    row_group_rows: usize,
    row_group_bytes: usize,
    zstd: Zstd,
}

/// A column of the row group at hand.
enum Column {
    Flat(Box<FlatColumn>),
    /// Its leaves, for `parquet` to encode.
    Nested(Vec<ArrowColumnWriter>),
}

impl<W: Write + Send> FileWriter<W> {
    /// `schema` is that of every batch, `descriptor` the file's.
    pub(super) fn new(
        sink: W,
        schema: SchemaRef,
        descriptor: &SchemaDescriptor,
        properties: WriterProperties,
    ) -> Result<Self> {
        let properties = Arc::new(properties);
        let writer =
            SerializedFileWriter::new(sink, descriptor.root_schema_ptr(), properties.clone())?;
        Ok(FileWriter {
            nested: ArrowRowGroupWriterFactory::new(&writer, schema.clone()),
            writer,
            schema,
            columns: Vec::new(),
            rows: 0,
            row_group_rows: properties.max_row_group_row_count().unwrap_or(usize::MAX),
            row_group_bytes: properties.max_row_group_bytes().unwrap_or(usize::MAX),
            zstd: Zstd::new(COMPRESSION_LEVEL)?,
        })
    }

    /// Bytes of the file if it ended now, about.
    pub(super) fn size(&self) -> usize {
        self.writer.bytes_written() + self.row_group_size()
    }

    fn row_group_size(&self) -> usize {
        self.columns.iter().map(Column::estimated_bytes).sum()
    }

    /// Appends a batch, to as many row groups as their size demands.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut start = 0;
        while start < batch.num_rows() {
            let size = self.row_group_size();
            let room = match self.rows {
                0 => batch.num_rows(),
                // As large as those before them.
                rows => self.row_group_bytes.saturating_sub(size) / (size / rows).max(1),
            };
            let room = room.min(self.row_group_rows - self.rows);
            let rows = room.min(batch.num_rows() - start);
            if rows == 0 {
                self.end_row_group()?;
                continue;
            }
            self.append(&batch.slice(start, rows))?;
            start += rows;
            if self.rows >= self.row_group_rows || self.row_group_size() >= self.row_group_bytes {
                self.end_row_group()?;
            }
        }
        Ok(())
    }

    fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.columns.is_empty() {
            self.columns = self.columns()?;
        }
        self.rows += batch.num_rows();
        let fields = self.schema.fields().iter().zip(batch.columns());
        for ((field, array), column) in fields.zip(&mut self.columns) {
            column.append(field, array, &mut self.zstd)?;
        }
        Ok(())
    }

    /// The columns of a new row group.
    fn columns(&self) -> Result<Vec<Column>> {
        let number = self.writer.flushed_row_groups().len();
        let mut leaves = self.nested.create_column_writers(number)?.into_iter();
        let descriptor = self.writer.schema_descr();
        let mut at = 0;
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (index, field) in self.schema.fields().iter().enumerate() {
            let count = (at..descriptor.num_columns())
                .take_while(|leaf| descriptor.get_column_root_idx(*leaf) == index)
                .count();
            let own: Vec<_> = leaves.by_ref().take(count).collect();
            let descr = descriptor.column(at);
            let properties = self.writer.properties();
            let flat = match count {
                1 => FlatColumn::new(field.data_type(), &descr, properties),
                _ => None,
            };
            columns.push(match flat {
                Some(flat) => Column::Flat(Box::new(flat)),
                None => Column::Nested(own),
            });
            at += count;
        }
        Ok(columns)
    }

    fn end_row_group(&mut self) -> Result<()> {
        if std::mem::take(&mut self.rows) == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for column in self.columns.drain(..) {
            match column {
                Column::Flat(flat) => {
                    let (chunk, closed) = flat.close(&mut self.zstd)?;
                    group.append_column(&chunk, closed)?;
                }
                Column::Nested(leaves) => {
                    for leaf in leaves {
                        leaf.close()?.append_to_row_group(&mut group)?;
                    }
                }
            }
        }
        group.close()?;
        Ok(())
    }

    /// Writes what is left and the footer.
    pub(super) fn finish(&mut self) -> Result<ParquetMetaData> {
        self.end_row_group()?;
        self.writer.finish()
    }

    /// Where the bytes went.
    pub(super) fn inner_mut(&mut self) -> &mut W {
        self.writer.inner_mut()
    }
}

impl Column {
    fn append(&mut self, field: &Field, array: &ArrayRef, zstd: &mut Zstd) -> Result<()> {
        match self {
            Column::Flat(flat) => flat.append(array, zstd),
            Column::Nested(leaves) => {
                let arrays = compute_leaves(field, array)?;
                leaves.iter_mut().zip(&arrays).try_for_each(|(leaf, array)| leaf.write(array))
            }
        }
    }

    fn estimated_bytes(&self) -> usize {
        match self {
            Column::Flat(flat) => flat.estimated_bytes(),
            Column::Nested(leaves) => {
                leaves.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum()
            }
        }
    }
}
