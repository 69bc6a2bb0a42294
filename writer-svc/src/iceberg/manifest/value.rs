//! Partition values in manifests, and what a manifest says of all of them.

use std::cmp::Ordering;

use iceberg::spec::{
    FieldSummary, Literal, PrimitiveLiteral, PrimitiveType, Struct, StructType, Type,
};

use crate::iceberg::avro::{Encoder, Value};

/// A value as its field's type has it: files may have been written before the
/// type was widened.
fn widened(kind: &PrimitiveType, value: &PrimitiveLiteral) -> PrimitiveLiteral {
    match (kind, value) {
        (PrimitiveType::Long, PrimitiveLiteral::Int(value)) => {
            PrimitiveLiteral::Long(i64::from(*value))
        }
        (PrimitiveType::Double, PrimitiveLiteral::Float(value)) => {
            PrimitiveLiteral::Double(f64::from(value.0).into())
        }
        _ => value.clone(),
    }
}

fn mismatch(kind: &PrimitiveType, value: &PrimitiveLiteral) -> String {
    format!("the partition value {value:?} is no {kind}")
}

/// The last bytes of a number in 16: as many as its type has.
fn decimal(precision: u32, value: i128) -> Result<Vec<u8>, String> {
    let size = Type::decimal_required_bytes(precision).map_err(|e| e.to_string())?;
    Ok(value.to_be_bytes()[16 - size as usize..].to_vec())
}

/// Values of a partition, in the order of its fields.
fn values<'a>(
    partition: &'a StructType,
    values: &'a Struct,
) -> Result<impl Iterator<Item = (&'a PrimitiveType, Option<PrimitiveLiteral>)>, String> {
    if partition.fields().len() != values.fields().len() {
        return Err(format!(
            "a file has {} partition values, and its spec {} fields",
            values.fields().len(),
            partition.fields().len()
        ));
    }
    let mut paired = Vec::with_capacity(values.fields().len());
    for (field, value) in partition.fields().iter().zip(values.fields()) {
        let Type::Primitive(kind) = field.field_type.as_ref() else {
            return Err(format!("the partition value {} is no single value", field.name));
        };
        let value = value.as_ref().and_then(Literal::as_primitive_literal);
        paired.push((kind, value.map(|value| widened(kind, &value))));
    }
    Ok(paired.into_iter())
}

/// Writes the values of a file's partition.
pub fn encode(encoder: &mut Encoder, partition: &StructType, of: &Struct) -> Result<(), String> {
    for (kind, value) in values(partition, of)? {
        let Some(value) = value else {
            encoder.long(0);
            continue;
        };
        encoder.long(1);
        match (kind, &value) {
            (_, PrimitiveLiteral::Boolean(value)) => encoder.raw(&[u8::from(*value)]),
            (_, PrimitiveLiteral::Int(value)) => encoder.long(i64::from(*value)),
            (_, PrimitiveLiteral::Long(value)) => encoder.long(*value),
            (PrimitiveType::Float, PrimitiveLiteral::Float(value)) => {
                encoder.raw(&value.0.to_le_bytes());
            }
            (PrimitiveType::Double, PrimitiveLiteral::Double(value)) => {
                encoder.raw(&value.0.to_le_bytes());
            }
            (_, PrimitiveLiteral::String(value)) => encoder.bytes(value.as_bytes()),
            (PrimitiveType::Fixed(_), PrimitiveLiteral::Binary(value)) => encoder.raw(value),
            (_, PrimitiveLiteral::Binary(value)) => encoder.bytes(value),
            (_, PrimitiveLiteral::UInt128(value)) => encoder.raw(&value.to_be_bytes()),
            (PrimitiveType::Decimal { precision, .. }, PrimitiveLiteral::Int128(value)) => {
                encoder.raw(&decimal(*precision, *value)?);
            }
            _ => return Err(mismatch(kind, &value)),
        }
    }
    Ok(())
}

/// The values that were read for a partition.
pub fn decode(
    partition: &StructType,
    mut read: impl FnMut(i32) -> Value,
) -> Result<Struct, String> {
    let mut values = Vec::with_capacity(partition.fields().len());
    for field in partition.fields() {
        let Type::Primitive(kind) = field.field_type.as_ref() else {
            return Err(format!("the partition value {} is no single value", field.name));
        };
        values.push(literal(kind, read(field.id))?);
    }
    Ok(Struct::from_iter(values))
}

fn literal(kind: &PrimitiveType, value: Value) -> Result<Option<Literal>, String> {
    use PrimitiveType as T;
    let int = |value: i64| i32::try_from(value).map_err(|_| format!("{value} is no {kind}"));
    Ok(Some(match (kind, value) {
        (_, Value::Null) => return Ok(None),
        (T::Boolean, Value::Boolean(value)) => Literal::bool(value),
        (T::Int | T::Date, Value::Long(value)) => Literal::int(int(value)?),
        (
            T::Long | T::Time | T::Timestamp | T::Timestamptz | T::TimestampNs | T::TimestamptzNs,
            Value::Long(value),
        ) => Literal::long(value),
        (T::Float, Value::Float(value)) => Literal::float(value),
        (T::Double, Value::Float(value)) => Literal::double(f64::from(value)),
        (T::Double, Value::Double(value)) => Literal::double(value),
        (T::String, Value::String(value)) => Literal::string(value),
        (T::Uuid, Value::Bytes(bytes)) => {
            Literal::uuid(uuid::Uuid::from_slice(&bytes).map_err(|e| format!("a uuid in it: {e}"))?)
        }
        (T::Uuid, Value::String(text)) => {
            Literal::uuid(uuid::Uuid::parse_str(&text).map_err(|e| format!("a uuid in it: {e}"))?)
        }
        (T::Fixed(_) | T::Binary, Value::Bytes(bytes)) => Literal::binary(bytes),
        (T::Decimal { .. }, Value::Bytes(bytes)) if bytes.len() <= 16 => {
            let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
            let mut whole = [if negative { 0xff } else { 0 }; 16];
            whole[16 - bytes.len()..].copy_from_slice(&bytes);
            Literal::decimal(i128::from_be_bytes(whole))
        }
        (kind, other) => return Err(format!("a partition value is {other:?} and no {kind}")),
    }))
}

/// What a manifest list says of a manifest's partition values.
#[derive(Debug)]
pub struct Summaries(Vec<Summary>);

#[derive(Clone, Debug, Default)]
struct Summary {
    contains_null: bool,
    contains_nan: bool,
    bounds: Option<(PrimitiveLiteral, PrimitiveLiteral)>,
}

impl Summaries {
    /// Of no file yet.
    pub fn new(partition: &StructType) -> Self {
        Summaries(vec![Summary::default(); partition.fields().len()])
    }

    /// Counts a file in.
    pub fn add(&mut self, partition: &StructType, of: &Struct) -> Result<(), String> {
        for (summary, (_, value)) in self.0.iter_mut().zip(values(partition, of)?) {
            match value {
                None => summary.contains_null = true,
                Some(PrimitiveLiteral::Float(value)) if value.0.is_nan() => {
                    summary.contains_nan = true;
                }
                Some(PrimitiveLiteral::Double(value)) if value.0.is_nan() => {
                    summary.contains_nan = true;
                }
                Some(value) => {
                    summary.bounds = Some(match summary.bounds.take() {
                        None => (value.clone(), value),
                        Some((least, greatest)) => (
                            if order(&value, &least).is_lt() { value.clone() } else { least },
                            if order(&value, &greatest).is_gt() { value } else { greatest },
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    /// As the list has them.
    pub fn finish(self, partition: &StructType) -> Result<Vec<FieldSummary>, String> {
        let mut summaries = Vec::with_capacity(self.0.len());
        for (summary, field) in self.0.into_iter().zip(partition.fields()) {
            let mut bounds = None;
            if let (Some((least, greatest)), Type::Primitive(kind)) =
                (&summary.bounds, field.field_type.as_ref())
            {
                bounds = Some((single_value(kind, least)?, single_value(kind, greatest)?));
            }
            let (lower, upper) = bounds.unzip();
            summaries.push(FieldSummary {
                contains_null: summary.contains_null,
                contains_nan: Some(summary.contains_nan),
                lower_bound: lower.map(Into::into),
                upper_bound: upper.map(Into::into),
            });
        }
        Ok(summaries)
    }
}

/// -0 is less than 0, as Java has it.
fn order(a: &PrimitiveLiteral, b: &PrimitiveLiteral) -> Ordering {
    match (a, b) {
        (PrimitiveLiteral::Float(a), PrimitiveLiteral::Float(b)) => a.0.total_cmp(&b.0),
        (PrimitiveLiteral::Double(a), PrimitiveLiteral::Double(b)) => a.0.total_cmp(&b.0),
        _ => a.partial_cmp(b).unwrap_or(Ordering::Equal),
    }
}

/// The specification's "Binary single-value serialization".
fn single_value(kind: &PrimitiveType, value: &PrimitiveLiteral) -> Result<Vec<u8>, String> {
    Ok(match (kind, value) {
        (_, PrimitiveLiteral::Boolean(value)) => vec![u8::from(*value)],
        (_, PrimitiveLiteral::Int(value)) => value.to_le_bytes().into(),
        (_, PrimitiveLiteral::Long(value)) => value.to_le_bytes().into(),
        (_, PrimitiveLiteral::Float(value)) => value.0.to_le_bytes().into(),
        (_, PrimitiveLiteral::Double(value)) => value.0.to_le_bytes().into(),
        (_, PrimitiveLiteral::String(value)) => value.clone().into_bytes(),
        (_, PrimitiveLiteral::Binary(value)) => value.clone(),
        (_, PrimitiveLiteral::UInt128(value)) => value.to_be_bytes().into(),
        (_, PrimitiveLiteral::Int128(value)) => {
            // As few bytes as tell the number and its sign.
            let bytes = value.to_be_bytes();
            let redundant = |pair: &[u8]| {
                (pair[0] == 0 && pair[1] < 0x80) || (pair[0] == 0xff && pair[1] >= 0x80)
            };
            let skip = bytes.windows(2).take_while(|pair| redundant(pair)).count();
            bytes[skip..].to_vec()
        }
        _ => return Err(mismatch(kind, value)),
    })
}
