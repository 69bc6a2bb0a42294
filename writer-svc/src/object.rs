//! An object read in parts, as Parquet files are.
//!
//! What is read in small pieces, one after the other, is fetched in blocks, of
//! which the last ones are kept.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::WriterError;
use crate::iceberg::storage::Storage;

/// Bytes of a block.
const BLOCK: u64 = 1 << 20;
/// Blocks that are kept.
const KEPT: usize = 16;

/// An object whose length is known.
#[derive(Clone, Debug)]
pub struct Object(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
    location: String,
    length: u64,
    /// By their numbers, the newest last.
    blocks: Mutex<VecDeque<(u64, Bytes)>>,
    /// What a caller could not be told as it is.
    failure: Mutex<Option<WriterError>>,
}

impl Object {
    /// Nothing is read yet.
    pub fn new(storage: &Arc<dyn Storage>, location: &str, length: u64) -> Self {
        let (storage, location) = (Arc::clone(storage), location.to_owned());
        let (blocks, failure) = (Mutex::default(), Mutex::default());
        Object(Arc::new(Inner { storage, location, length, blocks, failure }))
    }

    /// The error of the storage by which reading has failed, if it was one.
    pub fn failure(&self) -> Option<WriterError> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps an error for who asks; in words.
    fn failed(&self, error: WriterError) -> String {
        let words = error.to_string();
        *self.0.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        words
    }

    /// Where it lies.
    pub fn location(&self) -> &str {
        &self.0.location
    }

    /// From its beginning.
    pub fn reader(&self) -> Reader {
        Reader { object: self.clone(), at: 0 }
    }

    /// All the bytes of a range.
    fn bytes(&self, start: u64, length: usize) -> Result<Bytes, WriterError> {
        let end = start.saturating_add(length as u64);
        if end > self.0.length {
            return Err(WriterError::BadData(format!("{} ends too early", self.0.location)));
        }
        if length as u64 > BLOCK {
            return self.fetch(start, end);
        }
        let first = self.block(start / BLOCK)?;
        let offset = (start % BLOCK) as usize;
        if offset + length <= first.len() {
            return Ok(first.slice(offset..offset + length));
        }
        let mut bytes = BytesMut::with_capacity(length);
        bytes.extend_from_slice(&first[offset..]);
        let rest = length - bytes.len();
        bytes.extend_from_slice(&self.block(start / BLOCK + 1)?[..rest]);
        Ok(bytes.freeze())
    }

    fn block(&self, number: u64) -> Result<Bytes, WriterError> {
        let mut blocks = self.0.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = blocks.iter().find(|(known, _)| *known == number) {
            return Ok(block.clone());
        }
        let start = number * BLOCK;
        let block = self.fetch(start, (start + BLOCK).min(self.0.length))?;
        if blocks.len() == KEPT {
            blocks.pop_front();
        }
        blocks.push_back((number, block.clone()));
        Ok(block)
    }

    fn fetch(&self, start: u64, end: u64) -> Result<Bytes, WriterError> {
        let location = &self.0.location;
        let bytes = self.0.storage.read_range(location, start..end)?;
        match bytes {
            Some(bytes) if bytes.len() as u64 == end - start => Ok(bytes),
            Some(_) => Err(WriterError::BadData(format!("{location} ends too early"))),
            None => Err(WriterError::BadData(format!("{location} is not there"))),
        }
    }
}

impl Length for Object {
    fn len(&self) -> u64 {
        self.0.length
    }
}

impl ChunkReader for Object {
    type T = Reader;

    fn get_read(&self, start: u64) -> Result<Reader, ParquetError> {
        Ok(Reader { object: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.bytes(start, length).map_err(|error| ParquetError::General(self.failed(error)))
    }
}

/// Reads on from a place.
#[derive(Debug)]
pub struct Reader {
    object: Object,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.object.0.length.saturating_sub(self.at);
        let length = (into.len() as u64).min(left).min(BLOCK) as usize;
        if length == 0 {
            return Ok(0);
        }
        let bytes = self.object.bytes(self.at, length);
        let bytes = bytes.map_err(|error| io::Error::other(self.object.failed(error)))?;
        into[..length].copy_from_slice(&bytes);
        self.at += length as u64;
        Ok(length)
    }
}
