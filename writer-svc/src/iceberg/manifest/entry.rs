//! An entry of a manifest ↔ its Avro record.

use std::collections::HashMap;

use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, Datum, FormatVersion, ManifestEntry,
    ManifestMetadata, ManifestStatus, PrimitiveLiteral, PrimitiveType, Schema, SchemaRef, Struct,
    StructType,
};

use super::value;
use crate::iceberg::avro::{Encoder, Record, Value};

/// Field id of the column of position deletes that names the data file.
pub const DELETE_FILE_PATH: i32 = 2_147_483_546;
/// Field id of the column of position deletes that says the row.
pub const DELETE_POSITION: i32 = 2_147_483_545;

/// What decides how entries look.
#[derive(Debug)]
pub struct Shape {
    /// Of the columns that counts and bounds are of.
    pub schema: SchemaRef,
    /// Of the partition values.
    pub partition: StructType,
    pub spec_id: i32,
    pub version: FormatVersion,
}

impl Shape {
    /// Of a manifest that was read.
    pub fn of(metadata: &ManifestMetadata) -> Result<Self, String> {
        let spec = metadata.partition_spec();
        let partition = spec.partition_type(metadata.schema()).map_err(|e| e.to_string())?;
        let (spec_id, version) = (spec.spec_id(), *metadata.format_version());
        Ok(Shape { schema: metadata.schema().clone(), partition, spec_id, version })
    }
}

/// The type of a column's bounds.
fn bound_type(schema: &Schema, id: i32) -> Option<PrimitiveType> {
    match id {
        DELETE_FILE_PATH => Some(PrimitiveType::String),
        DELETE_POSITION => Some(PrimitiveType::Long),
        _ => schema.field_by_id(id)?.field_type.as_primitive_type().cloned(),
    }
}

/// An entry to be written. What is open is inherited by readers.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub status: ManifestStatus,
    pub snapshot_id: Option<i64>,
    pub sequence_number: Option<i64>,
    pub file_sequence_number: Option<i64>,
    pub first_row_id: Option<i64>,
    pub partition: &'a Struct,
    pub file: &'a DataFile,
}

/// Writes an entry.
pub fn encode(encoder: &mut Encoder, shape: &Shape, entry: Entry) -> Result<(), String> {
    encoder.long(entry.status as i64);
    encoder.optional(entry.snapshot_id, Encoder::long);
    encoder.optional(entry.sequence_number, Encoder::long);
    encoder.optional(entry.file_sequence_number, Encoder::long);
    let file = entry.file;
    encoder.long(file.content_type() as i64);
    encoder.bytes(file.file_path().as_bytes());
    encoder.bytes(file.file_format().to_string().to_ascii_uppercase().as_bytes());
    value::encode(encoder, &shape.partition, entry.partition)?;
    encoder.long(number(file.record_count())?);
    encoder.long(number(file.file_size_in_bytes())?);
    for counts in [
        file.column_sizes(),
        file.value_counts(),
        file.null_value_counts(),
        file.nan_value_counts(),
    ] {
        let mut counts: Vec<_> = counts.iter().map(|(id, count)| (*id, *count)).collect();
        counts.sort_unstable();
        encoder.long(1);
        encoder.array(counts.into_iter(), |encoder, (id, count)| {
            encoder.long(i64::from(id));
            encoder.long(i64::try_from(count).unwrap_or(i64::MAX));
        });
    }
    for bounds in [file.lower_bounds(), file.upper_bounds()] {
        let mut bytes = Vec::with_capacity(bounds.len());
        for (id, bound) in bounds {
            let bound = widened(bound, bound_type(&shape.schema, *id));
            bytes.push((*id, bound.to_bytes().map_err(|e| e.to_string())?));
        }
        bytes.sort_unstable();
        encoder.long(1);
        encoder.array(bytes.into_iter(), |encoder, (id, bound)| {
            encoder.long(i64::from(id));
            encoder.bytes(&bound);
        });
    }
    encoder.optional(file.key_metadata(), |encoder, bytes| encoder.bytes(bytes));
    encoder.optional(file.split_offsets(), |encoder, offsets| {
        encoder.array(offsets.iter().copied(), Encoder::long);
    });
    encoder.optional(file.equality_ids(), |encoder, ids| {
        encoder.array(ids.into_iter(), |encoder, id| encoder.long(i64::from(id)));
    });
    encoder.optional(file.sort_order_id(), |encoder, id| encoder.long(i64::from(id)));
    encoder.optional(file.referenced_data_file(), |encoder, path| encoder.bytes(path.as_bytes()));
    if shape.version >= FormatVersion::V3 {
        encoder.optional(entry.first_row_id, Encoder::long);
        encoder.optional(file.content_offset(), Encoder::long);
        encoder.optional(file.content_size_in_bytes(), Encoder::long);
    }
    Ok(())
}

fn number(count: u64) -> Result<i64, String> {
    i64::try_from(count).map_err(|e| e.to_string())
}

/// A bound of a file that was written before its column's type was widened.
fn widened(bound: &Datum, kind: Option<PrimitiveType>) -> Datum {
    match (kind, bound.data_type(), bound.literal()) {
        (Some(PrimitiveType::Long), PrimitiveType::Int, PrimitiveLiteral::Int(value)) => {
            Datum::long(*value)
        }
        (Some(PrimitiveType::Double), PrimitiveType::Float, PrimitiveLiteral::Float(value)) => {
            Datum::double(value.0)
        }
        _ => bound.clone(),
    }
}

/// Reads an entry. What it inherits is left open.
pub fn decode(shape: &Shape, entry: Value) -> Result<ManifestEntry, String> {
    let mut entry = record(entry, "an entry")?;
    let status = long(&mut entry, 0)?.ok_or("an entry has no status")?;
    // Of the first version, which has no sequence numbers.
    let none = (shape.version == FormatVersion::V1).then_some(0);
    Ok(ManifestEntry {
        status: int(status)?.try_into().map_err(|e: iceberg::Error| e.to_string())?,
        snapshot_id: long(&mut entry, 1)?,
        sequence_number: long(&mut entry, 3)?.or(none),
        file_sequence_number: long(&mut entry, 4)?.or(none),
        data_file: data_file(shape, entry.take(2))?,
    })
}

fn data_file(shape: &Shape, file: Value) -> Result<DataFile, String> {
    let mut file = record(file, "a file")?;
    let mut partition = record(file.take(102), "a partition")?;
    let path = text(&mut file, 100)?.ok_or("a file has no path")?;
    let format = text(&mut file, 101)?.unwrap_or_default();
    let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let content = long(&mut file, 134)?.unwrap_or(DataContentType::Data as i64);
    let mut builder = DataFileBuilder::default();
    builder
        .content(int(content)?.try_into().map_err(|e: iceberg::Error| e.to_string())?)
        .file_format(format.parse().map_err(|e: iceberg::Error| e.to_string())?)
        .partition(value::decode(&shape.partition, |id| partition.take(id))?)
        .partition_spec_id(shape.spec_id)
        .record_count(count(long(&mut file, 103)?).ok_or("a file has no number of rows")?)
        .file_size_in_bytes(count(long(&mut file, 104)?).ok_or("a file has no size")?)
        .column_sizes(counts(file.take(108), 117, 118)?)
        .value_counts(counts(file.take(109), 119, 120)?)
        .null_value_counts(counts(file.take(110), 121, 122)?)
        .nan_value_counts(counts(file.take(137), 138, 139)?)
        .lower_bounds(bounds(shape, file.take(125), 126, 127)?)
        .upper_bounds(bounds(shape, file.take(128), 129, 130)?)
        .key_metadata(match file.take(131) {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        })
        .split_offsets(longs(file.take(132))?)
        .equality_ids(match longs(file.take(135))? {
            Some(ids) => Some(ids.into_iter().map(int).collect::<Result<_, _>>()?),
            None => None,
        })
        .first_row_id(long(&mut file, 142)?)
        .referenced_data_file(text(&mut file, 143)?)
        .content_offset(long(&mut file, 144)?)
        .content_size_in_bytes(long(&mut file, 145)?)
        .file_path(path);
    if let Some(order) = long(&mut file, 140)? {
        builder.sort_order_id(int(order)?);
    }
    builder.build().map_err(|e| e.to_string())
}

fn record(value: Value, what: &str) -> Result<Record, String> {
    match value {
        Value::Record(record) => Ok(record),
        other => Err(format!("{what} in it is {other:?}")),
    }
}

fn int(value: i64) -> Result<i32, String> {
    i32::try_from(value).map_err(|_| format!("{value} in it is too large"))
}

fn long(record: &mut Record, id: i32) -> Result<Option<i64>, String> {
    match record.take(id) {
        Value::Null => Ok(None),
        Value::Long(value) => Ok(Some(value)),
        other => Err(format!("field {id} in it is {other:?}")),
    }
}

fn text(record: &mut Record, id: i32) -> Result<Option<String>, String> {
    match record.take(id) {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        other => Err(format!("field {id} in it is {other:?}")),
    }
}

fn items(value: Value) -> Result<Option<Vec<Value>>, String> {
    match value {
        Value::Null => Ok(None),
        Value::Array(items) => Ok(Some(items)),
        other => Err(format!("a list in it is {other:?}")),
    }
}

fn longs(value: Value) -> Result<Option<Vec<i64>>, String> {
    let Some(items) = items(value)? else { return Ok(None) };
    let long = |item| match item {
        Value::Long(value) => Ok(value),
        other => Err(format!("a number in it is {other:?}")),
    };
    items.into_iter().map(long).collect::<Result<_, _>>().map(Some)
}

/// Pairs of field ids and values.
fn pairs(value: Value, key: i32, of: i32) -> Result<Vec<(i32, Value)>, String> {
    let pair = |item| {
        let mut pair = record(item, "a pair")?;
        let id = long(&mut pair, key)?.ok_or("a pair in it has no key")?;
        Ok((int(id)?, pair.take(of)))
    };
    items(value)?.unwrap_or_default().into_iter().map(pair).collect()
}

/// Counts below none are of others' making, and nothing.
fn counts(value: Value, key: i32, of: i32) -> Result<HashMap<i32, u64>, String> {
    let pairs = pairs(value, key, of)?.into_iter();
    let count = |(id, count)| match count {
        Value::Long(count) => u64::try_from(count).ok().map(|count| (id, count)),
        _ => None,
    };
    Ok(pairs.filter_map(count).collect())
}

/// Bounds of columns that the manifest's schema does not have are left out.
fn bounds(shape: &Shape, value: Value, key: i32, of: i32) -> Result<HashMap<i32, Datum>, String> {
    let mut bounds = HashMap::new();
    for (id, bound) in pairs(value, key, of)? {
        if let (Some(kind), Value::Bytes(bytes)) = (bound_type(&shape.schema, id), bound) {
            let bound = Datum::try_from_bytes(&bytes, kind).map_err(|e| e.to_string())?;
            bounds.insert(id, bound);
        }
    }
    Ok(bounds)
}
