//! Avro object container files ↔ records, as far as manifests need them.
//!
//! ```text
//! "Obj" 1, {avro.schema, avro.codec, …}, sync ─► (records, bytes, block, sync)…
//! ```
//!
//! The format is small, and the crate of its name takes uuid values of 16 bytes
//! for text of a length. Fields are known by Iceberg's field ids, whatever
//! their order and names; a reader holds one block at a time.
//!
//! Reading never panics, whatever the bytes are.

use std::collections::HashMap;
use std::io::Read;

use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder};
use serde_json::Value as Json;
use uuid::Uuid;

/// How a container begins.
const MAGIC: &[u8; 4] = b"Obj\x01";
/// Bytes of records that make a block.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes that a block of somebody else may unpack to.
const LARGEST_BLOCK: u64 = 1 << 30;
/// Types within types.
const DEEPEST: usize = 32;

/// Appends values to a block.
#[derive(Debug, Default)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// An int or a long.
    pub fn long(&mut self, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while rest >= 0x80 {
            self.0.push((rest as u8 & 0x7f) | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    /// Bytes or a string, with their length.
    pub fn bytes(&mut self, value: &[u8]) {
        self.long(value.len() as i64);
        self.0.extend_from_slice(value);
    }

    /// A boolean, a float, a fixed: as they are.
    pub fn raw(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    /// A union of null and something else.
    pub fn optional<T>(&mut self, value: Option<T>, some: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.long(0),
            Some(value) => {
                self.long(1);
                some(self, value);
            }
        }
    }

    /// An array, in one block.
    pub fn array<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut item: impl FnMut(&mut Self, T),
    ) {
        if items.len() > 0 {
            self.long(items.len() as i64);
            items.for_each(|one| item(self, one));
        }
        self.long(0);
    }
}

/// A container being written, deflated.
#[derive(Debug)]
pub struct Writer {
    out: Vec<u8>,
    block: Encoder,
    records: i64,
    sync: [u8; 16],
}

impl Writer {
    /// Of records of `schema`; with what else is to be said of them.
    pub fn new<'a>(
        schema: &'a str,
        metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let own = [("avro.schema", schema), ("avro.codec", "deflate")];
        let metadata: Vec<_> = own.into_iter().chain(metadata).collect();
        let sync = *Uuid::new_v4().as_bytes();
        let mut header = Encoder(MAGIC.to_vec());
        header.array(metadata.into_iter(), |encoder, (key, value)| {
            encoder.bytes(key.as_bytes());
            encoder.bytes(value.as_bytes());
        });
        header.raw(&sync);
        Writer { out: header.0, block: Encoder::default(), records: 0, sync }
    }

    /// Takes a record.
    pub fn record(&mut self, write: impl FnOnce(&mut Encoder)) {
        write(&mut self.block);
        self.records += 1;
        if self.block.0.len() >= BLOCK_BYTES {
            self.flush();
        }
    }

    /// Bytes so far, but for those of the open block.
    pub fn size(&self) -> usize {
        self.out.len()
    }

    fn flush(&mut self) {
        if self.records == 0 {
            return;
        }
        let mut packed = Vec::new();
        let mut deflate = DeflateEncoder::new(self.block.0.as_slice(), Compression::default());
        // Neither source nor target of this can fail.
        let _ = deflate.read_to_end(&mut packed);
        let mut header = Encoder::default();
        header.long(self.records);
        header.long(packed.len() as i64);
        self.out.extend_from_slice(&header.0);
        self.out.extend_from_slice(&packed);
        self.out.extend_from_slice(&self.sync);
        self.block.0.clear();
        self.records = 0;
    }

    /// The whole of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.out
    }
}

/// A value that was read. Ints are longs, enums their index.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Boolean(bool),
    Long(i64),
    Float(f32),
    Double(f64),
    String(String),
    /// Or a fixed.
    Bytes(Vec<u8>),
    /// Of a map, only the values.
    Array(Vec<Value>),
    Record(Record),
}

/// Values by field id; fields without an id are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record(Vec<(i32, Value)>);

impl Record {
    /// A field's value, taken out; null when there is no such field.
    pub fn take(&mut self, id: i32) -> Value {
        let found = self.0.iter_mut().find(|(field, _)| *field == id);
        found.map_or(Value::Null, |(_, value)| std::mem::replace(value, Value::Null))
    }
}

/// What a schema says of how values are written.
#[derive(Clone, Debug, PartialEq)]
enum Schema {
    Null,
    Boolean,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Array(Box<Schema>),
    Map(Box<Schema>),
    Union(Vec<Schema>),
    Record(Vec<(Option<i32>, Schema)>),
}

impl Schema {
    fn parse(
        json: &Json,
        named: &mut HashMap<String, Schema>,
        depth: usize,
    ) -> Result<Self, String> {
        if depth > DEEPEST {
            return Err("its schema has types within types without end".into());
        }
        let mut parse = |json: &Json| Schema::parse(json, named, depth + 1);
        let unknown = || format!("its schema has a type that is not known: {json}");
        let kind = match json {
            Json::Array(branches) => {
                return branches.iter().map(parse).collect::<Result<_, _>>().map(Schema::Union);
            }
            Json::String(kind) => kind.as_str(),
            Json::Object(object) => match object.get("type") {
                Some(Json::String(kind)) => kind.as_str(),
                // A type with attributes around a type.
                Some(inner) => return parse(inner),
                None => return Err(unknown()),
            },
            _ => return Err(unknown()),
        };
        let schema = match kind {
            "null" => Schema::Null,
            "boolean" => Schema::Boolean,
            "int" | "long" | "enum" => Schema::Long,
            "float" => Schema::Float,
            "double" => Schema::Double,
            "bytes" => Schema::Bytes,
            "string" => Schema::String,
            "array" => Schema::Array(Box::new(parse(&json["items"])?)),
            "map" => Schema::Map(Box::new(parse(&json["values"])?)),
            "fixed" => {
                let size = json["size"].as_u64().and_then(|size| usize::try_from(size).ok());
                Schema::Fixed(size.ok_or_else(unknown)?)
            }
            "record" => {
                let fields = json["fields"].as_array().ok_or_else(unknown)?;
                let field = |field: &Json| {
                    let id = field["field-id"].as_i64().and_then(|id| i32::try_from(id).ok());
                    Ok::<_, String>((id, parse(&field["type"])?))
                };
                Schema::Record(fields.iter().map(field).collect::<Result<_, _>>()?)
            }
            name => return named.get(name).cloned().ok_or_else(unknown),
        };
        if let Some(name) = json["name"].as_str() {
            named.insert(name.to_owned(), schema.clone());
        }
        Ok(schema)
    }
}

/// The values of a block, one after the other.
struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn long(&mut self) -> Result<i64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or("it ends within a number")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err("a number in it has no end".into())
    }

    fn raw(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or("it ends within a value")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.raw(N)?.try_into().map_err(|_| "it ends within a value".to_owned())
    }

    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = usize::try_from(self.long()?).map_err(|_| "a length in it is negative")?;
        self.raw(length)
    }

    fn string(&mut self) -> Result<String, String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|e| format!("a text in it: {e}"))
    }

    /// The items of an array or a map, which come in runs.
    fn items(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                count = count.checked_neg().ok_or("a length in it is negative")?;
                self.long()?;
            }
            // Every item has a byte at least.
            if usize::try_from(count).is_ok_and(|count| count > self.0.len()) {
                return Err("it ends within an array".into());
            }
            for _ in 0..count {
                item(self)?;
            }
        }
    }

    fn value(&mut self, schema: &Schema) -> Result<Value, String> {
        Ok(match schema {
            Schema::Null => Value::Null,
            Schema::Boolean => Value::Boolean(self.array::<1>()?[0] != 0),
            Schema::Long => Value::Long(self.long()?),
            Schema::Float => Value::Float(f32::from_le_bytes(self.array()?)),
            Schema::Double => Value::Double(f64::from_le_bytes(self.array()?)),
            Schema::Bytes => Value::Bytes(self.bytes()?.to_vec()),
            Schema::String => Value::String(self.string()?),
            Schema::Fixed(size) => Value::Bytes(self.raw(*size)?.to_vec()),
            Schema::Array(item) | Schema::Map(item) => {
                let is_map = matches!(schema, Schema::Map(_));
                let mut items = Vec::new();
                self.items(|decoder| {
                    if is_map {
                        decoder.bytes()?;
                    }
                    items.push(decoder.value(item)?);
                    Ok(())
                })?;
                Value::Array(items)
            }
            Schema::Union(branches) => {
                let branch = usize::try_from(self.long()?).ok().and_then(|at| branches.get(at));
                self.value(branch.ok_or("a union in it has no such branch")?)?
            }
            Schema::Record(fields) => {
                let mut record = Vec::with_capacity(fields.len());
                for (id, schema) in fields {
                    let value = self.value(schema)?;
                    if let Some(id) = id {
                        record.push((*id, value));
                    }
                }
                Value::Record(Record(record))
            }
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

impl Codec {
    fn unpack(self, block: &[u8]) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        match self {
            Codec::Null => return Ok(block.to_vec()),
            Codec::Deflate => {
                DeflateDecoder::new(block).take(LARGEST_BLOCK).read_to_end(&mut plain)
            }
            Codec::Zstandard => zstd::stream::read::Decoder::new(block)
                .and_then(|decoder| decoder.take(LARGEST_BLOCK).read_to_end(&mut plain)),
            Codec::Snappy => {
                // Four bytes of a checksum follow.
                let packed = block.len().checked_sub(4).map(|end| &block[..end]);
                let packed = packed.ok_or("a block in it is too short")?;
                return snap::raw::Decoder::new()
                    .decompress_vec(packed)
                    .map_err(|e| format!("a block in it: {e}"));
            }
        }
        .map_err(|e| format!("a block in it: {e}"))?;
        Ok(plain)
    }
}

/// The records of a container, in their order. After an error there are none.
#[derive(Debug)]
pub struct Reader<'a> {
    /// What is said of the records.
    pub metadata: HashMap<String, Vec<u8>>,
    schema: Schema,
    codec: Codec,
    sync: [u8; 16],
    rest: &'a [u8],
    block: Vec<u8>,
    /// Of the block, in bytes and records.
    done: usize,
    left: i64,
}

impl<'a> Reader<'a> {
    /// Reads the header.
    pub fn new(content: &'a [u8]) -> Result<Self, String> {
        let rest = content.strip_prefix(MAGIC).ok_or("it is no Avro file")?;
        let mut decoder = Decoder(rest);
        let mut metadata = HashMap::new();
        decoder.items(|decoder| {
            let key = decoder.string()?;
            metadata.insert(key, decoder.bytes()?.to_vec());
            Ok(())
        })?;
        let sync = decoder.array()?;
        let schema = metadata.get("avro.schema").ok_or("it has no schema")?;
        let schema: Json =
            serde_json::from_slice(schema).map_err(|e| format!("its schema: {e}"))?;
        let schema = Schema::parse(&schema, &mut HashMap::new(), 0)?;
        let codec = match metadata.get("avro.codec").map(Vec::as_slice) {
            None | Some(b"null") => Codec::Null,
            Some(b"deflate") => Codec::Deflate,
            Some(b"snappy") => Codec::Snappy,
            Some(b"zstandard") => Codec::Zstandard,
            Some(other) => {
                return Err(format!("its codec {} is not known", String::from_utf8_lossy(other)));
            }
        };
        let (block, done, left) = (Vec::new(), 0, 0);
        Ok(Reader { metadata, schema, codec, sync, rest: decoder.0, block, done, left })
    }

    fn next_record(&mut self) -> Result<Option<Value>, String> {
        while self.left == 0 {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let mut decoder = Decoder(self.rest);
            self.left = decoder.long()?;
            if self.left < 0 {
                return Err("a block in it has less than no records".into());
            }
            self.block = self.codec.unpack(decoder.bytes()?)?;
            self.done = 0;
            if decoder.array()? != self.sync {
                return Err("its blocks are torn".into());
            }
            self.rest = decoder.0;
        }
        let mut decoder = Decoder(&self.block[self.done..]);
        let value = decoder.value(&self.schema)?;
        let done = self.block.len() - decoder.0.len();
        if done == self.done {
            return Err("a record in it has no bytes".into());
        }
        self.done = done;
        self.left -= 1;
        Ok(Some(value))
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<Value, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_record();
        if next.is_err() {
            (self.rest, self.left) = (&[], 0);
        }
        next.transpose()
    }
}

#[cfg(test)]
#[path = "avro_tests.rs"]
mod tests;
