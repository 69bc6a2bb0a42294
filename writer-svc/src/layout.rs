//! Source columns → destination columns.
//!
//! ```text
//! source:       id  name  …
//! normalized:   _olake_id _olake_timestamp _op_type _cdc_timestamp _cdc_lsn  id  name  …
//! otherwise:    _olake_id _olake_timestamp _op_type _cdc_timestamp _cdc_lsn  data  …
//! ```
//!
//! After `data` come the columns that an Iceberg table is partitioned by. Of rows
//! that are to be deleted there is the key alone: its columns, or `_olake_id`.
//!
//! Typed columns pass through without a copy. Metadata that is the same for
//! every row is built once and sliced.
//!
//! Invariant: every batch of a chunk has the one schema of [`Layout::schema`]
//! and as many rows as the source batch, also when that has no columns.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use proto::v1::{StageRequest, Table};

use crate::decimal;
use crate::error::WriterError;
use crate::naming;
use crate::render;
use crate::render::json::JsonRows;
use crate::row_id::RowId;

/// How the rows of one stream look at the destination.
#[derive(Debug)]
pub struct Layout {
    schema: SchemaRef,
    stream: String,
    /// Absent: of a key that stands as it is.
    row_id: Option<RowId>,
    /// Absent: of a key.
    constants: Option<Constants>,
    /// Absent: one typed column per source column.
    json: Option<JsonRows>,
    /// Places of the source columns that stand as they are.
    typed: Vec<usize>,
}

impl Layout {
    /// Checks names, types and keys; the rest of the chunk cannot fail by them.
    ///
    /// `source` has one field per source column, named as at the source; those
    /// at `typed` stand as columns of their own beside rows that are JSON.
    pub fn new(
        source: &Schema,
        stage: &StageRequest,
        typed: &[usize],
    ) -> Result<Self, WriterError> {
        let table = stage
            .table
            .as_ref()
            .ok_or_else(|| WriterError::InvalidRequest("the StageRequest names no table".into()))?;
        for field in source.fields() {
            render::check(field)?;
        }
        let mut fields = metadata_fields();
        let (json, typed) = if table.normalization {
            (None, (0..source.fields().len()).collect())
        } else {
            fields.push(
                Field::new(naming::DATA, DataType::Utf8, false)
                    .with_metadata(render::json_extension()),
            );
            (Some(JsonRows::new(source)), typed.to_vec())
        };
        let of_source = |at: &usize| source.field(*at).name().as_str();
        let names = naming::destination_columns(&table.stream, typed.iter().map(of_source))?;
        for (&at, name) in typed.iter().zip(names) {
            if json.is_some() && name == naming::DATA {
                return Err(taken(&table.stream, source.field(at).name()));
            }
            fields.push(source.field(at).clone().with_name(name).with_nullable(true));
        }
        // It must then tell any two keys apart.
        let separable = is_known_by_id(source, table) && table.key_columns.len() > 1;
        let row_id = RowId::new(&table.stream, source, &table.key_columns, separable)?;
        Ok(Layout {
            schema: Arc::new(Schema::new_with_metadata(fields, source.metadata().clone())),
            stream: table.stream.clone(),
            row_id: Some(row_id),
            constants: Some(Constants::new(stage)),
            json,
            typed,
        })
    }

    /// How the keys of rows look, by which the destination finds these.
    ///
    /// `source` has the columns of the key and no others; of a table without a
    /// key, all that tell a row.
    pub fn of_key(source: &Schema, stage: &StageRequest) -> Result<Self, WriterError> {
        let invalid = |problem: String| WriterError::InvalidRequest(problem);
        let table = stage
            .table
            .as_ref()
            .ok_or_else(|| invalid("the StageRequest names no table".into()))?;
        let names: Vec<_> = source.fields().iter().map(|field| field.name()).collect();
        let key = &table.key_columns;
        let same = names.len() == key.len() && key.iter().all(|column| names.contains(&column));
        if names.is_empty() || !(key.is_empty() || same) {
            return Err(invalid(format!(
                "deletes of {} have the columns {names:?}, and its key is {key:?}",
                table.stream
            )));
        }
        source.fields().iter().try_for_each(|field| render::check(field))?;
        let mut layout = Layout {
            schema: Arc::new(Schema::empty()),
            stream: table.stream.clone(),
            row_id: None,
            constants: None,
            json: None,
            typed: Vec::new(),
        };
        if !is_known_by_id(source, table) {
            let columns = names.iter().map(|name| name.as_str());
            let named = naming::destination_columns(&table.stream, columns)?;
            let fields = source.fields().iter().zip(named);
            let fields = fields.map(|(field, name)| field.as_ref().clone().with_name(name));
            let fields: Vec<_> = fields.collect();
            let metadata = source.metadata().clone();
            layout.schema = Arc::new(Schema::new_with_metadata(fields, metadata));
            layout.typed = (0..names.len()).collect();
        } else {
            layout.row_id = Some(RowId::new(&table.stream, source, key, key.len() > 1)?);
            layout.schema =
                Arc::new(Schema::new(vec![Field::new(naming::OLAKE_ID, DataType::Utf8, false)]));
        }
        Ok(layout)
    }

    /// Takes the same columns as the destination declares them: with field ids,
    /// with columns that are required, with its own name for a list's items.
    pub fn declare(&mut self, schema: &Schema) {
        self.schema = decimal::as_arriving(schema, &self.schema);
    }

    /// Columns that stand as they are, and must be these.
    pub fn of_columns(
        source: &Schema,
        expected: &Schema,
        stage: &StageRequest,
    ) -> Result<Self, WriterError> {
        let stream = stage.table.as_ref().map(|table| table.stream.clone()).unwrap_or_default();
        let told = |field: &Arc<Field>| (field.name().clone(), field.data_type().clone());
        let same = source.fields().iter().map(told).eq(expected.fields().iter().map(told));
        if !same {
            return Err(WriterError::InvalidRequest(format!(
                "{} of {stream} need the columns {expected}",
                stage.kind().as_str_name()
            )));
        }
        Ok(Layout {
            schema: Arc::new(expected.clone()),
            stream,
            row_id: None,
            constants: None,
            json: None,
            typed: (0..expected.fields().len()).collect(),
        })
    }

    /// Where the rows as JSON stand in a batch, if they do.
    pub fn json(&self) -> Option<usize> {
        self.json.as_ref().map(|_| self.first_column() - 1)
    }

    /// The source's columns that stand as they are, and where in a batch.
    pub fn typed(&self) -> impl Iterator<Item = (usize, usize)> {
        let first = self.first_column();
        self.typed.iter().enumerate().map(move |(at, source)| (*source, first + at))
    }

    fn first_column(&self) -> usize {
        self.schema.fields().len() - self.typed.len()
    }

    /// The schema of every batch, with the metadata of [`proto::columns`] that
    /// the source gave; [`decimal::declared`]: what the destination says of it.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// A source batch as it stands at the destination, row for row. What is said
    /// of each row goes before what the request says of all.
    pub fn apply(
        &mut self,
        batch: &RecordBatch,
        metadata: Option<[ArrayRef; 3]>,
    ) -> Result<RecordBatch, WriterError> {
        let rows = batch.num_rows();
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        if let Some(row_id) = &mut self.row_id {
            columns.push(row_id.of(batch)?);
        }
        if let Some(constants) = &mut self.constants {
            let [processed_at, said @ ..] = constants.of(rows);
            columns.push(processed_at);
            columns.extend(metadata.unwrap_or(said));
        }
        if let Some(json) = &mut self.json {
            columns.push(json.of(batch)?);
        }
        columns.extend(self.typed.iter().map(|&at| Arc::clone(batch.column(at))));
        let columns = self.declared(columns)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema(), columns, &options)
            .map_err(|error| self.mismatch(error))
    }

    /// The columns with the declared names of their items; required ones have
    /// no nulls.
    fn declared(&self, mut columns: Vec<ArrayRef>) -> Result<Vec<ArrayRef>, WriterError> {
        for (column, field) in columns.iter_mut().zip(self.schema.fields()) {
            if !field.is_nullable() && column.null_count() > 0 {
                return Err(self.null_in_key(field.name()));
            }
            if let DataType::List(item) = field.data_type()
                && let Some(list) = column.as_list_opt::<i32>()
                && column.data_type() != field.data_type()
            {
                let (_, offsets, values, nulls) = list.clone().into_parts();
                let list = ListArray::try_new(Arc::clone(item), offsets, values, nulls);
                *column = Arc::new(list.map_err(|error| self.mismatch(error))?);
            }
        }
        Ok(columns)
    }

    fn null_in_key(&self, column: &str) -> WriterError {
        WriterError::Unrepresentable {
            problem: format!(
                "column {column} of {} is part of the key, which the destination requires to \
                 have a value in every row, but a row has none",
                self.stream
            ),
            remedy: "correct source_defined_primary_key in streams.json, or set \
                     no_identifier_fields in destination.json and recreate the table"
                .into(),
        }
    }

    /// A batch whose columns are not those of the schema message.
    fn mismatch(&self, error: ArrowError) -> WriterError {
        WriterError::Arrow {
            doing: format!("fitting a batch of {} to its schema", self.stream),
            source: error,
        }
    }
}

fn taken(stream: &str, column: &str) -> WriterError {
    WriterError::invalid_table(
        format!(
            "{stream} cannot be partitioned by {column:?}: with normalization off, the column of \
             that name holds the rows"
        ),
        "partition by another column, or set normalization to true for this stream",
    )
}

/// Whether rows are told apart by their `_olake_id`: where it is all that is stored of
/// the key, or where a value of the key is such as Iceberg compares none of.
fn is_known_by_id(source: &Schema, table: &Table) -> bool {
    let is_compared = |field: &Field| {
        let kind = field.data_type();
        !matches!(kind, DataType::Float32 | DataType::Float64) && !kind.is_nested()
    };
    let mut key = source.fields().iter().filter(|field| table.key_columns.contains(field.name()));
    !table.normalization || key.any(|field| !is_compared(field))
}

/// The type of `_cdc_timestamp`.
pub fn utc_microseconds() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn metadata_fields() -> Vec<Field> {
    vec![
        Field::new(naming::OLAKE_ID, DataType::Utf8, false),
        Field::new(naming::OLAKE_TIMESTAMP, utc_microseconds(), false),
        Field::new(naming::OP_TYPE, DataType::Utf8, false),
        Field::new(naming::CDC_TIMESTAMP, utc_microseconds(), true),
        Field::new(naming::CDC_LSN, DataType::Utf8, true),
    ]
}

/// The metadata columns that say the same for every row of a run.
#[derive(Debug)]
struct Constants {
    processed_at: i64,
    op_type: String,
    /// As long as the longest batch so far, rounded up; batches take slices.
    columns: Option<[ArrayRef; 4]>,
}

impl Constants {
    fn new(stage: &StageRequest) -> Self {
        Constants {
            processed_at: stage.processed_at,
            op_type: stage.op_type.clone(),
            columns: None,
        }
    }

    /// `_olake_timestamp`, `_op_type`, `_cdc_timestamp`, `_cdc_lsn`.
    fn of(&mut self, rows: usize) -> [ArrayRef; 4] {
        let built = self.columns.take().filter(|columns| columns[0].len() >= rows);
        let columns = built.unwrap_or_else(|| self.build(rows.next_power_of_two()));
        self.columns.insert(columns).each_ref().map(|column| column.slice(0, rows))
    }

    fn build(&self, rows: usize) -> [ArrayRef; 4] {
        let processed_at = TimestampMicrosecondArray::from_value(self.processed_at, rows);
        let op_type = StringArray::new_repeated(&self.op_type, rows);
        [
            Arc::new(processed_at.with_timezone("UTC")),
            Arc::new(op_type),
            new_null_array(&utc_microseconds(), rows),
            new_null_array(&DataType::Utf8, rows),
        ]
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{FixedSizeBinaryArray, Int64Array};
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
    use proto::v1::Table;

    use super::*;

    fn stage(normalization: bool, key: &[&str]) -> StageRequest {
        StageRequest {
            table: Some(Table {
                key_columns: key.iter().map(|&name| name.to_owned()).collect(),
                normalization,
                stream: "public.t".to_owned(),
                ..Default::default()
            }),
            processed_at: 1_750_000_000_000_000,
            op_type: "r".to_owned(),
            ..Default::default()
        }
    }

    fn source() -> RecordBatch {
        let uuid = Field::new("Ref", DataType::FixedSizeBinary(16), false)
            .with_metadata([("ARROW:extension:name".to_owned(), "arrow.uuid".to_owned())].into());
        let schema = Schema::new(vec![Field::new("Id", DataType::Int64, false), uuid]);
        let ids = Int64Array::from_iter_values([7, -8, 9]);
        let refs = FixedSizeBinaryArray::try_from_iter([[1u8; 16], [2; 16], [3; 16]].iter());
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(refs.unwrap())])
            .unwrap()
    }

    #[test]
    fn a_normalized_row_has_its_metadata_and_its_typed_columns() {
        let batch = source();
        let mut layout = Layout::new(&batch.schema(), &stage(true, &["Id"]), &[]).unwrap();
        let out = layout.apply(&batch, None).unwrap();
        let schema = out.schema();
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names[..5], naming::METADATA_COLUMNS);
        assert_eq!(names[5..], ["id", "ref"]);
        assert!(schema.field(5).is_nullable() && schema.field(6).is_nullable());
        assert_eq!(schema.field(6).extension_type_name(), Some("arrow.uuid"));
        assert_eq!(out.column(0).as_string::<i32>().value(1), "-8");
        let processed = out.column(1).as_primitive::<TimestampMicrosecondType>();
        assert_eq!(processed.value(2), 1_750_000_000_000_000);
        assert_eq!(out.column(2).as_string::<i32>().value(2), "r");
        assert_eq!((out.column(3).null_count(), out.column(4).null_count()), (3, 3));
        // Typed columns are the source's, not copies.
        let (source, typed) = (batch.column(0).to_data(), out.column(5).to_data());
        assert_eq!(source.buffers()[0].as_ptr(), typed.buffers()[0].as_ptr());
    }

    #[test]
    fn an_unnormalized_row_is_metadata_and_json() {
        let batch = source();
        let mut layout = Layout::new(&batch.schema(), &stage(false, &["Id"]), &[]).unwrap();
        let out = layout.apply(&batch.slice(1, 1), None).unwrap();
        assert_eq!(out.num_columns(), 6);
        assert_eq!(out.schema().field(5).extension_type_name(), Some("arrow.json"));
        assert_eq!(
            out.column(5).as_string::<i32>().value(0),
            r#"{"Id":-8,"Ref":"02020202-0202-0202-0202-020202020202"}"#
        );
    }

    #[test]
    fn rows_without_columns_keep_their_number() {
        let options = RecordBatchOptions::new().with_row_count(Some(5));
        let schema = Arc::new(Schema::empty());
        let batch = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
        for normalization in [true, false] {
            let stage = stage(normalization, &[]);
            let mut layout = Layout::new(&batch.schema(), &stage, &[]).unwrap();
            assert_eq!(layout.apply(&batch, None).unwrap().num_rows(), 5);
            assert_eq!(layout.apply(&batch.slice(0, 0), None).unwrap().num_rows(), 0);
        }
    }

    #[test]
    fn constant_columns_are_shared_between_batches() {
        let batch = source();
        let mut layout = Layout::new(&batch.schema(), &stage(true, &["Id"]), &[]).unwrap();
        let (first, second) =
            (layout.apply(&batch, None).unwrap(), layout.apply(&batch, None).unwrap());
        for column in 1..5 {
            let (a, b) = (first.column(column).to_data(), second.column(column).to_data());
            assert_eq!(a.buffers()[0].as_ptr(), b.buffers()[0].as_ptr());
        }
    }

    #[test]
    fn columns_take_the_form_that_the_destination_declares() {
        let list = |item: &str| DataType::List(Arc::new(Field::new(item, DataType::Int64, true)));
        let items = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1)]), None]);
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let fields =
            vec![Field::new("id", DataType::Int64, true), Field::new("l", list("item"), true)];
        let columns = vec![Arc::clone(&ids), Arc::new(items) as ArrayRef];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let mut layout = Layout::new(&batch.schema(), &stage(true, &[]), &[]).unwrap();

        let declare = |id: Field, list: Field| {
            let mut fields = layout.schema().fields().to_vec();
            (fields[5], fields[6]) = (Arc::new(id), Arc::new(list));
            Arc::new(Schema::new(fields))
        };
        let id = Field::new("id", DataType::Int64, false);
        let list = Field::new("l", list("element"), true);
        let declared = declare(id.with_metadata([("k".into(), "v".into())].into()), list);
        layout.declare(&declared);
        let out = layout.apply(&batch.slice(0, 1), None).unwrap();
        assert_eq!(out.schema(), declared);
        assert_eq!(out.column(6).as_list::<i32>().values().len(), 1);
        let error = layout.apply(&batch, None).unwrap_err().to_string();
        assert!(error.contains("column id of public.t is part of the key"), "{error}");
    }

    #[test]
    fn a_key_is_its_columns_or_the_identifier_that_is_stored_of_it() {
        let batch = source();
        let key = batch.project(&[0]).unwrap();
        let mut layout = Layout::of_key(&key.schema(), &stage(true, &["Id"])).unwrap();
        let out = layout.apply(&key, None).unwrap();
        assert_eq!(out.schema().field(0).name(), "id");
        assert_eq!(out.column(0), key.column(0));
        let mut layout = Layout::of_key(&key.schema(), &stage(false, &["Id"])).unwrap();
        let out = layout.apply(&key, None).unwrap();
        assert_eq!((out.num_columns(), out.schema().field(0).name().as_str()), (1, "_olake_id"));
        assert_eq!(out.column(0).as_string::<i32>().value(1), "-8");

        for (columns, key) in [(&[0, 1][..], &["Id"][..]), (&[], &[]), (&[1], &["Id"])] {
            let columns = batch.schema().project(columns).unwrap();
            assert!(Layout::of_key(&columns, &stage(true, key)).is_err(), "{columns:?}");
        }
        // Without a key, all columns are one.
        assert!(Layout::of_key(&batch.schema(), &stage(true, &[])).is_ok());
    }

    #[test]
    fn what_cannot_be_laid_out_is_refused_before_any_row() {
        let schema = source().schema();
        let error = Layout::new(&schema, &stage(true, &["gone"]), &[]).unwrap_err().to_string();
        assert!(error.contains("\"gone\"") && error.contains("public.t"), "{error}");
        let odd = Schema::new(vec![Field::new("x", DataType::Date64, true)]);
        let error = Layout::new(&odd, &stage(true, &[]), &[]).unwrap_err().to_string();
        assert!(error.contains("\"x\""), "{error}");
        assert!(Layout::new(&schema, &StageRequest::default(), &[]).is_err());
    }
}
