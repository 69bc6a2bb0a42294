//! COPY's binary form → Arrow columns. Pure: bytes in, columns out, no panic
//! on any input.
//!
//! ```text
//! push(bytes) → block ─ frame ─► cells of whole rows ─ column by column ─► builders ─► RecordBatch
//! ```
//!
//! Bytes gather in a *block*, however they were cut; [`frame`] finds the rows
//! in it and notes where each cell lies; a full block is decoded one column at
//! a time, so that a column's type is looked at once per block, not per value.
//! Nothing reaches a builder before its row is known to be whole.

mod array;
mod column;
pub(crate) mod frame;
mod numeric;
mod text;
pub mod transcode;

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::types::Wire;
use column::Builder;
use frame::{Cell, Cells, Framed};

/// Rows in a block: their bytes and cells stay in the second-level cache.
const BLOCK_ROWS: usize = 256;
/// Bytes of whole rows at which a block is decoded.
const BLOCK_BYTES: usize = 128 << 10;
/// A column's memory beyond this is given back after a large row.
const KEEP_BYTES: usize = 1 << 20;
/// Characters of a key or a value that a message shows.
const SHOWN: usize = 100;

/// A column to decode.
#[derive(Clone, Debug)]
pub struct Column {
    /// Name and Arrow type, which fits `wire`.
    pub field: Field,
    /// How its cells arrive.
    pub wire: Wire,
    /// Part of the primary key: shown in messages.
    pub key: bool,
}

/// What a value becomes that its Arrow type cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnrepresentable {
    /// Null, and counted.
    Null,
    /// An error.
    Fail,
}

/// Why bytes could not be decoded. `key` names the row: "id = 42".
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes are not what PostgreSQL sends for these columns.
    #[error("{key}: {what}")]
    BadData {
        /// The row.
        key: String,
        /// What is wrong, with its column.
        what: String,
    },
    /// The row has more bytes than allowed.
    #[error("{key}: {bytes} bytes, {limit} allowed")]
    RowTooLarge {
        /// The row.
        key: String,
        /// At least so many bytes.
        bytes: u64,
        /// max_row_bytes.
        limit: u64,
    },
    /// A value that the Arrow type cannot hold, and the policy is to fail.
    #[error("{key}: {column} = {value}")]
    Unrepresentable {
        /// The row.
        key: String,
        /// The column.
        column: String,
        /// The value, as PostgreSQL would print it or described.
        value: String,
    },
}

/// What is wrong with one cell.
#[derive(Debug, PartialEq, Eq)]
enum CellError {
    /// Not what the type's send function makes.
    Bad(String),
    /// Right, but beyond the Arrow type.
    Unrepresentable(String),
}

/// Decodes one `COPY … TO STDOUT (FORMAT binary)`.
pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    builders: Vec<Builder>,
    policy: OnUnrepresentable,
    max_row_bytes: usize,
    /// Bytes not decoded yet, from `decoded` on. Those before `framed` are the
    /// block's rows.
    block: Vec<u8>,
    decoded: usize,
    framed: usize,
    /// Cells of the block's rows, row by row.
    cells: Vec<Cell>,
    block_rows: usize,
    /// Rows in the builders.
    built_rows: usize,
    /// Rows accepted in all.
    rows: u64,
    header_seen: bool,
    trailer_seen: bool,
    unrepresentable: Vec<u64>,
}

impl Decoder {
    /// `max_row_bytes`: what one row may have in COPY's binary form.
    pub fn new(columns: Vec<Column>, policy: OnUnrepresentable, max_row_bytes: u64) -> Self {
        let fields: Vec<Field> = columns.iter().map(|column| column.field.clone()).collect();
        let builders = columns.iter().map(|c| Builder::new(&c.wire, c.field.data_type())).collect();
        Decoder {
            schema: Arc::new(Schema::new(fields)),
            unrepresentable: vec![0; columns.len()],
            columns,
            builders,
            policy,
            // Offsets in a block and in Arrow's strings are of 32 bits.
            max_row_bytes: usize::try_from(max_row_bytes).unwrap_or(usize::MAX).min(1 << 30),
            block: Vec::new(),
            decoded: 0,
            framed: 0,
            cells: Vec::new(),
            block_rows: 0,
            built_rows: 0,
            rows: 0,
            header_seen: false,
            trailer_seen: false,
        }
    }

    /// The schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows decoded or accepted for decoding.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Values stored as null because their type cannot hold them, per column.
    pub fn unrepresentable(&self) -> impl Iterator<Item = (&str, u64)> {
        self.columns
            .iter()
            .zip(&self.unrepresentable)
            .map(|(column, count)| (column.field.name().as_str(), *count))
    }

    /// Takes bytes as they come, cut anywhere, and gives back memory that is of
    /// no more use. The caller takes the rows out before it pushes more.
    pub fn push(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
        self.decode_block()?;
        if self.framed == self.block.len() {
            // No row is cut: the bytes are used where they are.
            std::mem::swap(&mut self.block, &mut bytes);
        } else {
            self.block.drain(..self.framed);
            self.block.extend_from_slice(&bytes);
        }
        self.framed = 0;
        self.decoded = 0;
        Ok(bytes)
    }

    /// The size of the next row, once all of it has arrived.
    pub fn next_row(&mut self) -> Result<Option<usize>, DecodeError> {
        if !self.header_seen {
            match frame::header(&self.block[self.framed..]) {
                Ok(Some(length)) => self.framed += length,
                Ok(None) => return Ok(None),
                Err(what) => return Err(self.bad_stream(what)),
            }
            self.header_seen = true;
        }
        let start = self.framed;
        if start == self.block.len() {
            return Ok(None);
        }
        if self.trailer_seen {
            return Err(self.bad_stream("bytes follow the end of the data".to_owned()));
        }
        let known = self.block_rows * self.columns.len();
        self.cells.truncate(known);
        let limit = self.max_row_bytes;
        match frame::row(&self.block, start, self.columns.len(), limit, &mut self.cells) {
            Ok(Framed::Row(length)) => Ok(Some(length)),
            Ok(Framed::Trailer) => {
                self.trailer_seen = true;
                self.framed += 2;
                if self.framed < self.block.len() {
                    return Err(self.bad_stream("bytes follow the end of the data".to_owned()));
                }
                Ok(None)
            }
            Ok(Framed::Incomplete) => Ok(None),
            Ok(Framed::TooLarge(bytes)) => Err(DecodeError::RowTooLarge {
                key: self.key_of(self.block_rows),
                bytes: bytes as u64,
                limit: limit as u64,
            }),
            Err(what) => Err(self.bad_row(self.block_rows, what)),
        }
    }

    /// Takes the row that [`Self::next_row`] has just measured.
    pub fn accept_row(&mut self, length: usize) -> Result<(), DecodeError> {
        debug_assert_eq!(self.cells.len(), (self.block_rows + 1) * self.columns.len());
        self.framed += length;
        self.block_rows += 1;
        self.rows += 1;
        if self.block_rows >= BLOCK_ROWS || self.framed - self.decoded >= BLOCK_BYTES {
            self.decode_block()?;
        }
        Ok(())
    }

    /// Rows that a batch made now would have.
    pub fn pending_rows(&self) -> usize {
        self.built_rows + self.block_rows
    }

    /// The rows accepted since the last batch, as one.
    pub fn take_batch(&mut self) -> Result<RecordBatch, DecodeError> {
        self.decode_block()?;
        let rows = std::mem::take(&mut self.built_rows);
        let columns = self.builders.iter_mut().map(Builder::finish).collect();
        // The count matters where a table has no columns.
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| self.bad_stream(format!("columns do not fit their schema: {e}")))
    }

    /// Succeeds if the server said that this was all: the trailer, which it
    /// sends only after the last row.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.trailer_seen && self.framed == self.block.len() {
            return Ok(());
        }
        Err(self
            .bad_stream(format!("the data ends after {} rows without COPY's end mark", self.rows)))
    }

    fn decode_block(&mut self) -> Result<(), DecodeError> {
        let stride = self.columns.len();
        // A row that was measured but not accepted is measured again.
        self.cells.truncate(self.block_rows * stride);
        for index in 0..stride {
            let cells = Cells { bytes: &self.block, cells: &self.cells, stride, index };
            let count = &mut self.unrepresentable[index];
            if let Err((row, error)) = self.builders[index].append(cells, self.policy, count) {
                return Err(self.cell_error(row, index, error));
            }
        }
        self.built_rows += self.block_rows;
        self.block_rows = 0;
        self.decoded = self.framed;
        self.cells.clear();
        Ok(())
    }

    fn cell_error(&self, row: usize, index: usize, error: CellError) -> DecodeError {
        let column = self.columns[index].field.name().clone();
        match error {
            CellError::Bad(what) => self.bad_row(row, format!("column {column}: {what}")),
            CellError::Unrepresentable(value) => {
                DecodeError::Unrepresentable { key: self.key_of(row), column, value }
            }
        }
    }

    fn bad_row(&self, row: usize, what: String) -> DecodeError {
        DecodeError::BadData { key: self.key_of(row), what }
    }

    fn bad_stream(&self, what: String) -> DecodeError {
        DecodeError::BadData { key: format!("after {} rows", self.rows), what }
    }

    /// Names a row of the block by its primary key, as far as its cells are
    /// known: "id = 42", "a = 1, b = x", "row 7, which has no primary key".
    pub fn key_of(&self, row: usize) -> String {
        let stride = self.columns.len();
        let mut parts = Vec::new();
        for (index, column) in self.columns.iter().enumerate().filter(|(_, c)| c.key) {
            let shown = match self.cells.get(row * stride + index) {
                Some(cell) => column::show(&column.wire, &column.field, cell.of(&self.block)),
                None => "?".to_owned(),
            };
            parts.push(format!("{} = {}", column.field.name(), shorten(shown)));
        }
        if parts.is_empty() {
            let number = self.rows - (self.block_rows as u64) + row as u64 + 1;
            return format!("row {number} of the chunk, which has no primary key");
        }
        parts.join(", ")
    }

    /// The name of the row that [`Self::next_row`] has just measured.
    pub fn next_key(&self) -> String {
        self.key_of(self.block_rows)
    }
}

/// A text of bounded length for a message.
fn shorten(text: String) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
