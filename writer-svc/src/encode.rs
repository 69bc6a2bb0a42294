//! Record batches → Parquet files of bounded size, in a stage.
//!
//! One file is open at a time: batches come in the order of their partitions.
//! A file is closed when it has about `max_file_bytes` or when the partition
//! changes; a row group is written out when it holds `row_group_bytes`, which
//! bounds the memory.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::basic::Type as Physical;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

use crate::decimal;
use crate::encoding;
use crate::error::WriterError;
use crate::stage::{Sink, Stage};

mod bounds;
mod dictionary;
mod file;
mod flat;
mod packing;

use file::FileWriter;

/// Bytes written to a file at once. With parquet's own 8 KiB, most writes began
/// within a page, which the file system then filled with zeros first.
const WRITE_BYTES: usize = 1 << 20;
/// A batch is cut so that one slice adds no more than this part of a file.
const SLICES_PER_FILE: usize = 4;

/// Writes the rows of one chunk into the files of its stage.
pub struct Encoder {
    stage: Box<dyn Stage>,
    schema: SchemaRef,
    max_file_bytes: u64,
    row_group_bytes: usize,
    properties: Option<WriterProperties>,
    open: Option<Open>,
}

struct Open {
    partition: String,
    location: PathBuf,
    writer: FileWriter<BufWriter<Box<dyn Sink>>>,
}

impl Encoder {
    /// `schema` is that of every batch to come.
    pub fn new(
        stage: Box<dyn Stage>,
        schema: SchemaRef,
        max_file_bytes: u64,
        row_group_bytes: usize,
    ) -> Self {
        Encoder { stage, schema, max_file_bytes, row_group_bytes, properties: None, open: None }
    }

    /// A directory for what is spilled on the way here.
    pub fn scratch(&self) -> &std::path::Path {
        self.stage.scratch()
    }

    /// Chooses how all files are written by rows like those to come, unless
    /// that was done before. [`Encoder::write`] takes its first batch.
    pub fn learn(&mut self, sample: &RecordBatch) {
        if self.properties.is_none() && sample.num_rows() > 0 {
            self.properties = Some(self.properties_for(sample));
        }
    }

    /// With the Arrow schema that readers are to find in the file.
    fn properties_for(&self, sample: &RecordBatch) -> WriterProperties {
        let mut properties =
            encoding::properties(sample, self.row_group_bytes, self.stage.readers_know_deltas());
        add_encoded_arrow_schema_to_metadata(&decimal::declared(&self.schema), &mut properties);
        properties
    }

    /// Appends the rows of one partition (a relative path; empty: none).
    pub fn write(&mut self, partition: &str, batch: &RecordBatch) -> Result<(), WriterError> {
        self.learn(batch);
        let slice = self.slice_rows(batch);
        let mut start = 0;
        while start < batch.num_rows() {
            let rows = slice.min(batch.num_rows() - start);
            self.append(partition, &batch.slice(start, rows))?;
            start += rows;
        }
        Ok(())
    }

    /// Closes the last file; a chunk without rows gets one for its schema where
    /// that is needed.
    pub fn finish(mut self) -> Result<Box<dyn Stage>, WriterError> {
        if self.open.is_none() && self.stage.wants_schema_file() {
            let nothing = RecordBatch::new_empty(Arc::clone(&self.schema));
            self.properties = Some(self.properties_for(&nothing));
            self.open("")?;
        }
        self.close()?;
        Ok(self.stage)
    }

    /// Rows after which to look at the file's size again.
    fn slice_rows(&self, batch: &RecordBatch) -> usize {
        let bytes = slice_bytes(batch).max(1);
        let limit = usize::try_from(self.max_file_bytes).unwrap_or(usize::MAX) / SLICES_PER_FILE;
        if bytes <= limit {
            return batch.num_rows();
        }
        let rows = batch.num_rows() as u128 * limit as u128 / bytes as u128;
        usize::try_from(rows).unwrap_or(usize::MAX).max(1)
    }

    fn append(&mut self, partition: &str, batch: &RecordBatch) -> Result<(), WriterError> {
        if self.open.as_ref().is_some_and(|open| open.partition != partition) {
            self.close()?;
        }
        if self.open.is_none() {
            self.open(partition)?;
        }
        let Some(open) = &mut self.open else {
            return Err(WriterError::Internal("a file was opened and is not there".into()));
        };
        open.writer.write(batch).map_err(WriterError::parquet(&open.location))?;
        self.stage.wrote(batch)?;
        if open.writer.size() as u64 >= self.max_file_bytes {
            self.close()?;
        }
        Ok(())
    }

    fn open(&mut self, partition: &str) -> Result<(), WriterError> {
        let sink = self.stage.open(partition)?;
        let location = sink.location().to_owned();
        let schema = Arc::clone(&self.schema);
        let sink = BufWriter::with_capacity(WRITE_BYTES, sink);
        let writer = file_schema(&schema)
            .and_then(|descriptor| {
                let properties = self.properties.clone().unwrap_or_default();
                FileWriter::new(sink, schema, &descriptor, properties)
            })
            .map_err(WriterError::parquet(&location))?;
        self.open = Some(Open { partition: partition.to_owned(), location, writer });
        Ok(())
    }

    fn close(&mut self) -> Result<(), WriterError> {
        let Some(Open { location, mut writer, .. }) = self.open.take() else { return Ok(()) };
        let footer = writer.finish().map_err(WriterError::parquet(&location))?;
        let buffered = writer.inner_mut();
        buffered.flush().map_err(WriterError::io("writing", &location))?;
        self.stage.close(buffered.get_mut().as_mut(), &footer)
    }
}

/// The schema in the file's footer: the crate's, but for decimals of one digit,
/// which it stores in 64 bits where the rule is 32.
fn file_schema(schema: &Schema) -> Result<SchemaDescriptor, ParquetError> {
    let root = ArrowSchemaConverter::new().convert(schema)?.root_schema_ptr();
    Ok(SchemaDescriptor::new(narrowed(&root)?))
}

fn narrowed(node: &TypePtr) -> Result<TypePtr, ParquetError> {
    let info = node.get_basic_info();
    let id = info.has_id().then(|| info.id());
    let repetition = info.has_repetition().then(|| info.repetition());
    match node.as_ref() {
        Type::PrimitiveType { physical_type: Physical::INT64, precision: 1, scale, .. } => {
            let mut builder = Type::primitive_type_builder(info.name(), Physical::INT32)
                .with_logical_type(info.logical_type_ref().cloned())
                .with_converted_type(info.converted_type())
                .with_precision(1)
                .with_scale(*scale)
                .with_id(id);
            if let Some(repetition) = repetition {
                builder = builder.with_repetition(repetition);
            }
            Ok(Arc::new(builder.build()?))
        }
        Type::PrimitiveType { .. } => Ok(Arc::clone(node)),
        Type::GroupType { fields, .. } => {
            let mut builder = Type::group_type_builder(info.name())
                .with_logical_type(info.logical_type_ref().cloned())
                .with_converted_type(info.converted_type())
                .with_fields(fields.iter().map(narrowed).collect::<Result<_, _>>()?)
                .with_id(id);
            if let Some(repetition) = repetition {
                builder = builder.with_repetition(repetition);
            }
            Ok(Arc::new(builder.build()?))
        }
    }
}

/// Bytes of the rows themselves: columns share the memory of the message they
/// came in, which must not count once for each.
fn slice_bytes(batch: &RecordBatch) -> usize {
    let of = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
    batch.columns().iter().map(of).sum()
}

#[cfg(test)]
#[path = "encode/flat_tests.rs"]
mod flat_tests;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use arrow::array::{Decimal64Array, Decimal128Array, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use proto::v1::{StageRequest, StagedChunk};

    use super::*;
    use crate::parquet::stage::tests::paths;
    use crate::parquet::stage::{DirectoryStage, Manifest};
    use crate::storage::TablePaths;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("text", DataType::Utf8, true),
        ]))
    }

    fn batch(ids: std::ops::Range<i64>) -> RecordBatch {
        let texts: StringArray =
            ids.clone().map(|id| Some(format!("{:x}", id.wrapping_mul(0x9E37_79B9)))).collect();
        let ids: Int64Array = ids.collect();
        RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(texts)]).unwrap()
    }

    /// Encodes the batches of each partition into a sealed stage of load "l".
    fn encode(
        paths: &TablePaths,
        max_file_bytes: u64,
        row_group_bytes: usize,
        parts: &[(&str, RecordBatch)],
    ) -> StagedChunk {
        let stage = Box::new(DirectoryStage::create(paths, "l", 0).unwrap());
        let mut encoder = Encoder::new(stage, schema(), max_file_bytes, row_group_bytes);
        for (partition, batch) in parts {
            encoder.write(partition, batch).unwrap();
        }
        let request = StageRequest { load_id: "l".into(), ..Default::default() };
        encoder.finish().unwrap().seal(&request).unwrap()
    }

    fn reader(path: PathBuf) -> ParquetRecordBatchReaderBuilder<File> {
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap()
    }

    #[test]
    fn files_roll_at_their_size_and_hold_every_row_in_order() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let chunk = encode(&paths, 200_000, 1 << 16, &[("", batch(0..100_000))]);
        let (dir, manifest) = Manifest::of(&paths, &chunk).unwrap();
        assert!(manifest.files.len() > 2, "{manifest:?}");
        let mut next = 0;
        for file in &manifest.files {
            assert!(file.bytes < 400_000, "{file:?}");
            let reader = reader(dir.join(&file.staged));
            let metadata = reader.metadata();
            assert_eq!(metadata.file_metadata().num_rows() as u64, file.rows);
            let by = metadata.file_metadata().created_by().unwrap();
            assert_eq!(by, format!("tidewater {}", proto::VERSION));
            for read in reader.build().unwrap() {
                let read = read.unwrap();
                assert_eq!(read, batch(next..next + read.num_rows() as i64));
                next += read.num_rows() as i64;
            }
        }
        assert_eq!((next, chunk.rows), (100_000, 100_000));
    }

    #[test]
    fn decimals_read_back_as_128_bits_however_they_came() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        for (load, precision) in [("a", 1), ("b", 9), ("c", 10), ("d", 18)] {
            let values = [Some(-7), None, Some(10_i64.pow(precision.into()) - 1)];
            let narrow = Decimal64Array::from(values.to_vec());
            let narrow = narrow.with_precision_and_scale(precision, 1).unwrap();
            let wide: Decimal128Array = values.iter().map(|v| v.map(i128::from)).collect();
            let wide = wide.with_precision_and_scale(precision, 1).unwrap();
            let narrow = RecordBatch::try_from_iter([("d", Arc::new(narrow) as ArrayRef)]).unwrap();
            let wide = RecordBatch::try_from_iter([("d", Arc::new(wide) as ArrayRef)]).unwrap();

            let stage = Box::new(DirectoryStage::create(&paths, load, 0).unwrap());
            let mut encoder = Encoder::new(stage, narrow.schema(), 1 << 30, 1 << 20);
            encoder.write("", &narrow).unwrap();
            let request = StageRequest { load_id: load.into(), ..Default::default() };
            let chunk = encoder.finish().unwrap().seal(&request).unwrap();
            let (dir, manifest) = Manifest::of(&paths, &chunk).unwrap();
            let reader = reader(dir.join(&manifest.files[0].staged)).build().unwrap();
            let read: Vec<_> = reader.map(Result::unwrap).collect();
            assert_eq!(read, [wide], "{precision}");
        }
    }

    #[test]
    fn row_groups_are_bounded_in_bytes() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let parts: Vec<_> = (0..10).map(|n| ("", batch(n * 10_000..(n + 1) * 10_000))).collect();
        let chunk = encode(&paths, 1 << 30, 1 << 17, &parts);
        let (dir, manifest) = Manifest::of(&paths, &chunk).unwrap();
        let reader = reader(dir.join(&manifest.files[0].staged));
        let groups = reader.metadata().row_groups();
        assert!(groups.len() > 3, "{}", groups.len());
        assert!(groups.iter().all(|group| group.compressed_size() < 1 << 18));
    }

    #[test]
    fn decimals_of_up_to_nine_digits_are_stored_in_32_bits() {
        let one = Field::new("one", DataType::Decimal128(1, 1), false);
        let fields = vec![
            one.clone(),
            Field::new("two", DataType::Decimal128(2, 0), true),
            Field::new("ten", DataType::Decimal128(10, 0), true),
            Field::new("items", DataType::List(Arc::new(one)), true),
        ];
        let descriptor = file_schema(&Schema::new(fields)).unwrap();
        let physical: Vec<_> = descriptor.columns().iter().map(|c| c.physical_type()).collect();
        let expected = [Physical::INT32, Physical::INT32, Physical::INT64, Physical::INT32];
        assert_eq!(physical, expected);
        let plain = schema();
        let crates = ArrowSchemaConverter::new().convert(&plain).unwrap();
        assert_eq!(file_schema(&plain).unwrap().root_schema(), crates.root_schema());
    }

    #[test]
    fn each_partition_has_its_own_files() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let parts = [("x=1", batch(0..10)), ("x=1", batch(10..20)), ("x=2", batch(20..30))];
        let chunk = encode(&paths, 1 << 30, 1 << 20, &parts);
        let (_, manifest) = Manifest::of(&paths, &chunk).unwrap();
        let rows: Vec<_> = manifest.files.iter().map(|file| (&file.path[..4], file.rows)).collect();
        assert_eq!(rows, [("x=1/", 20), ("x=2/", 10)]);
    }

    #[test]
    fn a_chunk_without_rows_has_one_file_with_the_schema() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let chunk = encode(&paths, 1 << 30, 1 << 20, &[("", batch(0..0))]);
        assert_eq!((chunk.rows, chunk.files), (0, 1));
        let (dir, manifest) = Manifest::of(&paths, &chunk).unwrap();
        let reader = reader(dir.join(&manifest.files[0].staged));
        assert_eq!(reader.schema().fields(), schema().fields());
    }
}
