//! What a stream says of each of its rows, in columns before those of the source:
//! `_op_type`, `_cdc_timestamp`, `_cdc_lsn`; and, where a change need not carry
//! all of its row, which values it lacks.
//!
//! Known by their place and not only by their names, which a source's columns
//! may have as well.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use proto::v1::StageRequest;
use proto::v1::stage_request::Kind;

use crate::error::WriterError;
use crate::layout::utc_microseconds;
use crate::naming::{CDC_LSN, CDC_TIMESTAMP, OP_TYPE};

/// Puts the columns before those of a stream that has none: the same for all rows.
#[derive(Debug)]
pub struct Said {
    schema: SchemaRef,
    op_type: String,
}

impl Said {
    /// What the request says; `sent` is what the stream has.
    pub fn of(request: &StageRequest, sent: &Schema) -> Self {
        let said = columns().map(|(name, kind)| Field::new(name, kind, name != OP_TYPE));
        let fields = said.into_iter().map(Arc::new).chain(sent.fields().iter().cloned());
        let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), sent.metadata().clone());
        Said { schema: Arc::new(schema), op_type: request.op_type.clone() }
    }

    /// The columns of [`Self::put`].
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// A batch with the three before it.
    pub fn put(&self, sent: &RecordBatch) -> Result<RecordBatch, WriterError> {
        let rows = sent.num_rows();
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::new_repeated(&self.op_type, rows)),
            new_null_array(&utc_microseconds(), rows),
            new_null_array(&DataType::Utf8, rows),
        ];
        arrays.extend(sent.columns().iter().cloned());
        RecordBatch::try_new(self.schema(), arrays)
            .map_err(WriterError::arrow("saying of rows what they are"))
    }
}

fn columns() -> [(&'static str, DataType); 3] {
    [(OP_TYPE, DataType::Utf8), (CDC_TIMESTAMP, utc_microseconds()), (CDC_LSN, DataType::Utf8)]
}

/// Place of the column that says what a change lacks.
pub const UNCHANGED: usize = 3;

/// How many columns come before those of the source.
pub fn reserved(sent: &Schema) -> usize {
    let lacking = sent.fields().get(UNCHANGED).is_some_and(|field| {
        field.metadata().contains_key(proto::columns::UNCHANGED)
            && *field.data_type() == DataType::Binary
    });
    UNCHANGED + usize::from(lacking)
}

/// What the changes of a batch lack, if any can.
pub fn unchanged(sent: &RecordBatch) -> Option<&BinaryArray> {
    let known = reserved(&sent.schema()) > UNCHANGED;
    known.then(|| sent.column(UNCHANGED).as_binary_opt()).flatten()
}

/// Rows of a batch that are to be and lack values. (One that is gone is its key.)
pub fn unresolved(sent: &RecordBatch) -> u64 {
    let (Some(unchanged), Some(ops)) = (unchanged(sent), sent.column(0).as_string_opt::<i32>())
    else {
        return 0;
    };
    if unchanged.null_count() == unchanged.len() {
        return 0;
    }
    let lacks = |row: &usize| unchanged.is_valid(*row) && ops.value(*row) != "d";
    (0..sent.num_rows()).filter(lacks).count() as u64
}

/// The columns of a stream.
#[derive(Debug)]
pub struct RowMetadata {
    source: SchemaRef,
    reserved: usize,
}

impl RowMetadata {
    /// `None`: the request says the same of all rows. `sent` is what the stream
    /// has.
    pub fn of(request: &StageRequest, sent: &Schema) -> Result<Option<Self>, WriterError> {
        if !request.row_metadata {
            return Ok(None);
        }
        let expected = columns();
        let fits = sent.fields().len() >= expected.len()
            && sent
                .fields()
                .iter()
                .zip(&expected)
                .all(|(field, (name, kind))| field.name() == name && field.data_type() == kind);
        if !fits || !matches!(request.kind(), Kind::Data | Kind::Changes) {
            return Err(WriterError::InvalidRequest(format!(
                "with row_metadata, data begins with the columns {expected:?}"
            )));
        }
        let reserved = reserved(sent);
        let fields = sent.fields()[reserved..].to_vec();
        let source = Schema::new_with_metadata(fields, sent.metadata().clone());
        Ok(Some(RowMetadata { source: Arc::new(source), reserved }))
    }

    /// The columns of the source.
    pub fn source(&self) -> SchemaRef {
        Arc::clone(&self.source)
    }

    /// The source's columns of a batch, and the three.
    pub fn split(
        &self,
        sent: &RecordBatch,
    ) -> Result<(RecordBatch, Option<[ArrayRef; 3]>), WriterError> {
        let columns: Vec<_> = (self.reserved..sent.num_columns()).collect();
        let batch = sent
            .project(&columns)
            .map_err(WriterError::arrow("taking the source's columns of a batch"))?;
        let said = [0, 1, 2].map(|at| Arc::clone(sent.column(at)));
        if said[0].null_count() > 0 {
            return Err(WriterError::BadData(format!("a row has no {OP_TYPE}")));
        }
        Ok((batch, Some(said)))
    }
}
