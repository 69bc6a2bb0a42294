//! Thrift's values, whatever they mean, in its binary protocol.
//!
//! A metastore's table is read, changed and sent back: fields that only another
//! version of Hive knows must come back with it, so nothing is turned into
//! structs that know less.

use std::collections::BTreeMap;

use thrift::protocol::{
    TFieldIdentifier, TInputProtocol, TListIdentifier, TMapIdentifier, TOutputProtocol,
    TSetIdentifier, TStructIdentifier, TType,
};
use thrift::{Error, ProtocolError, ProtocolErrorKind, Result};

/// The fields of a struct by their ids.
pub type Fields = BTreeMap<i16, Value>;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `bool`.
    Bool(bool),
    /// `byte`.
    Byte(i8),
    /// `i16`.
    Short(i16),
    /// `i32`, and what is one of several words.
    Int(i32),
    /// `i64`.
    Long(i64),
    /// `double`.
    Double(f64),
    /// `string` and `binary`.
    Bytes(Vec<u8>),
    /// A struct, an exception.
    Struct(Fields),
    /// The elements' type and they.
    List(TType, Vec<Value>),
    /// The elements' type and they.
    Set(TType, Vec<Value>),
    /// The keys' and the values' type and they.
    Map(TType, TType, Vec<(Value, Value)>),
}

impl Value {
    /// A `string`.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Bytes(text.into().into_bytes())
    }

    /// A struct of these fields.
    pub fn fields<const N: usize>(fields: [(i16, Value); N]) -> Value {
        Value::Struct(BTreeMap::from(fields))
    }

    /// A `map<string, string>`.
    pub fn map(of: BTreeMap<String, String>) -> Value {
        let entries = of.into_iter().map(|(key, value)| (Value::text(key), Value::text(value)));
        Value::Map(TType::String, TType::String, entries.collect())
    }

    /// What it holds, if it is a `string`.
    pub fn as_text(&self) -> Option<String> {
        match self {
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// What it holds, if it is a `map<string, string>`; else nothing.
    pub fn as_map(&self) -> BTreeMap<String, String> {
        let Value::Map(_, _, entries) = self else { return BTreeMap::new() };
        let text = |(key, value): &(Value, Value)| Some((key.as_text()?, value.as_text()?));
        entries.iter().filter_map(text).collect()
    }

    fn kind(&self) -> TType {
        match self {
            Value::Bool(_) => TType::Bool,
            Value::Byte(_) => TType::I08,
            Value::Short(_) => TType::I16,
            Value::Int(_) => TType::I32,
            Value::Long(_) => TType::I64,
            Value::Double(_) => TType::Double,
            Value::Bytes(_) => TType::String,
            Value::Struct(_) => TType::Struct,
            Value::List(..) => TType::List,
            Value::Set(..) => TType::Set,
            Value::Map(..) => TType::Map,
        }
    }
}

/// Writes a struct.
pub fn write_fields(output: &mut dyn TOutputProtocol, fields: &Fields) -> Result<()> {
    output.write_struct_begin(&TStructIdentifier::new(""))?;
    for (id, value) in fields {
        output.write_field_begin(&TFieldIdentifier::new("", value.kind(), *id))?;
        write(output, value)?;
        output.write_field_end()?;
    }
    output.write_field_stop()?;
    output.write_struct_end()
}

fn write(output: &mut dyn TOutputProtocol, value: &Value) -> Result<()> {
    match value {
        Value::Bool(value) => output.write_bool(*value),
        Value::Byte(value) => output.write_i8(*value),
        Value::Short(value) => output.write_i16(*value),
        Value::Int(value) => output.write_i32(*value),
        Value::Long(value) => output.write_i64(*value),
        Value::Double(value) => output.write_double(*value),
        Value::Bytes(value) => output.write_bytes(value),
        Value::Struct(fields) => write_fields(output, fields),
        Value::List(kind, items) => {
            output.write_list_begin(&TListIdentifier::new(*kind, size(items.len())?))?;
            items.iter().try_for_each(|item| write(output, item))
        }
        Value::Set(kind, items) => {
            output.write_set_begin(&TSetIdentifier::new(*kind, size(items.len())?))?;
            items.iter().try_for_each(|item| write(output, item))
        }
        Value::Map(keys, values, entries) => {
            output.write_map_begin(&TMapIdentifier::new(*keys, *values, size(entries.len())?))?;
            entries.iter().try_for_each(|(key, value)| {
                write(output, key)?;
                write(output, value)
            })
        }
    }
}

/// Reads a struct.
pub fn read_fields(input: &mut dyn TInputProtocol) -> Result<Fields> {
    let mut fields = Fields::new();
    input.read_struct_begin()?;
    loop {
        let field = input.read_field_begin()?;
        if field.field_type == TType::Stop {
            break;
        }
        let value = read(input, field.field_type)?;
        fields.insert(field.id.ok_or_else(|| invalid("a field without an id"))?, value);
        input.read_field_end()?;
    }
    input.read_struct_end()?;
    Ok(fields)
}

fn read(input: &mut dyn TInputProtocol, kind: TType) -> Result<Value> {
    Ok(match kind {
        TType::Bool => Value::Bool(input.read_bool()?),
        TType::I08 => Value::Byte(input.read_i8()?),
        TType::I16 => Value::Short(input.read_i16()?),
        TType::I32 => Value::Int(input.read_i32()?),
        TType::I64 => Value::Long(input.read_i64()?),
        TType::Double => Value::Double(input.read_double()?),
        TType::String => Value::Bytes(input.read_bytes()?),
        TType::Struct => Value::Struct(read_fields(input)?),
        TType::List => {
            let list = input.read_list_begin()?;
            Value::List(list.element_type, items(input, list.element_type, list.size)?)
        }
        TType::Set => {
            let set = input.read_set_begin()?;
            Value::Set(set.element_type, items(input, set.element_type, set.size)?)
        }
        TType::Map => {
            let map = input.read_map_begin()?;
            let (keys, values) = map.key_type.zip(map.value_type).unwrap_or((KEY, KEY));
            let entries = (0..map.size).map(|_| Ok((read(input, keys)?, read(input, values)?)));
            Value::Map(keys, values, entries.collect::<Result<_>>()?)
        }
        other => return Err(invalid(&format!("a value of the type {other:?}"))),
    })
}

/// Of a map that is empty and says no types.
const KEY: TType = TType::String;

fn items(input: &mut dyn TInputProtocol, kind: TType, size: i32) -> Result<Vec<Value>> {
    (0..size).map(|_| read(input, kind)).collect()
}

fn size(length: usize) -> Result<i32> {
    i32::try_from(length).map_err(|_| invalid("more values than Thrift counts"))
}

fn invalid(problem: &str) -> Error {
    Error::Protocol(ProtocolError::new(ProtocolErrorKind::InvalidData, problem))
}

#[cfg(test)]
mod tests {
    use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};

    use super::*;

    #[test]
    fn what_is_written_is_read_back_whatever_it_means() {
        let table = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let fields = BTreeMap::from([
            (1, Value::text("näme")),
            (2, Value::Bool(true)),
            (3, Value::Byte(-1)),
            (4, Value::Short(-2)),
            (5, Value::Int(i32::MIN)),
            (6, Value::Long(i64::MAX)),
            (7, Value::Double(0.5)),
            (8, Value::List(TType::Struct, vec![Value::fields([(9, Value::map(table))])])),
            (300, Value::Set(TType::I64, vec![Value::Long(1)])),
        ]);
        let mut bytes = Vec::new();
        write_fields(&mut TBinaryOutputProtocol::new(&mut bytes, true), &fields).unwrap();
        let mut input = TBinaryInputProtocol::new(bytes.as_slice(), true);
        assert_eq!(read_fields(&mut input).unwrap(), fields);
        // Cut anywhere, it is an error and no value.
        for end in 0..bytes.len() {
            read_fields(&mut TBinaryInputProtocol::new(&bytes[..end], true)).unwrap_err();
        }
    }
}
