//! Decoded rows → record batches, bounded in rows and in bytes.
//!
//! A batch closes at `rows` rows or `bytes` bytes (of COPY's binary form),
//! whichever comes first. A row larger than `bytes` travels alone: Flight
//! cannot split a row, and the message that holds it should hold little else.
//! With rows bounded to 1 GiB, no 32-bit offset can overflow.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::decode::{DecodeError, Decoder};

/// When a batch closes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Rows at most.
    pub rows: usize,
    /// Bytes of COPY's binary form, unless one row alone has more.
    pub bytes: usize,
}

/// A batch and what to call its row if it has only one.
pub struct Batch {
    /// The rows.
    pub records: RecordBatch,
    /// Bytes of COPY's binary form.
    pub bytes: usize,
    /// The primary key of a row that travels alone.
    pub key: Option<String>,
}

/// Cuts a COPY's data into batches.
pub struct Batcher {
    decoder: Decoder,
    bounds: Bounds,
    /// Bytes of the rows accepted since the last batch.
    bytes: usize,
    /// Set when the row accepted last is to travel alone.
    alone: Option<String>,
}

impl Batcher {
    /// `decoder` has not seen any bytes.
    pub fn new(decoder: Decoder, bounds: Bounds) -> Self {
        let bounds = Bounds { rows: bounds.rows.max(1), bytes: bounds.bytes.max(1) };
        Batcher { decoder, bounds, bytes: 0, alone: None }
    }

    /// The schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        self.decoder.schema()
    }

    /// The decoder, for its counts.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Takes bytes as they come and gives back memory that is of no more use.
    /// Afterwards, [`Self::next_batch`] until it has none.
    pub fn push(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
        self.decoder.push(bytes)
    }

    /// The next batch that is full; `None`: more bytes are needed.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, DecodeError> {
        if self.alone.is_some() {
            return self.close().map(Some);
        }
        while let Some(length) = self.decoder.next_row()? {
            let large = length > self.bounds.bytes;
            let full = self.bytes + length > self.bounds.bytes;
            if full && self.decoder.pending_rows() > 0 {
                return self.close().map(Some);
            }
            if large {
                self.alone = Some(self.decoder.next_key());
            }
            self.decoder.accept_row(length)?;
            self.bytes += length;
            if large || self.decoder.pending_rows() >= self.bounds.rows {
                return self.close().map(Some);
            }
        }
        Ok(None)
    }

    /// What has come of the next batch, if anything has: for who cannot wait
    /// until it is full.
    pub fn cut(&mut self) -> Result<Option<Batch>, DecodeError> {
        if self.decoder.pending_rows() == 0 { Ok(None) } else { self.close().map(Some) }
    }

    /// The last batch, if any rows are left; an error if the data did not end
    /// as a complete COPY does.
    pub fn finish(&mut self) -> Result<Option<Batch>, DecodeError> {
        self.decoder.end()?;
        self.cut()
    }

    fn close(&mut self) -> Result<Batch, DecodeError> {
        let records = self.decoder.take_batch()?;
        let bytes = std::mem::take(&mut self.bytes);
        Ok(Batch { records, bytes, key: self.alone.take() })
    }
}
