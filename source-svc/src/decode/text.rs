//! Texts, side by side in one buffer: checked a block at a time.

use std::sync::Arc;

use arrow::array::{ArrayRef, NullArray, NullBufferBuilder, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};

use super::CellError;
use super::column::{room, room_bytes};
use super::frame::Cells;

/// Builds a column of text.
pub(super) struct TextBuilder {
    values: Vec<u8>,
    /// End of each text, after a 0.
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl TextBuilder {
    pub(super) fn with_capacity(texts: usize, bytes: usize) -> Self {
        let mut offsets = Vec::with_capacity(texts + 1);
        offsets.push(0);
        let values = Vec::with_capacity(bytes);
        TextBuilder { values, offsets, nulls: NullBufferBuilder::new(texts) }
    }

    /// Appends what `text` makes of every cell. On an error: which cell, and
    /// what is wrong with it; the builder is then of no use.
    #[inline]
    pub(super) fn append<'a>(
        &mut self,
        cells: Cells<'a>,
        text: impl Fn(&'a [u8]) -> Result<&'a [u8], CellError>,
    ) -> Result<(), (usize, CellError)> {
        let (first_text, first_byte) = (self.offsets.len(), self.values.len());
        for (row, cell) in cells.iter().enumerate() {
            match cell {
                Some(cell) => {
                    let text = text(cell).map_err(|error| (row, error))?;
                    self.values.extend_from_slice(text);
                    self.nulls.append_non_null();
                }
                None => self.nulls.append_null(),
            }
            let Ok(end) = i32::try_from(self.values.len()) else {
                let what = "more than 2 GiB of text in a batch".to_owned();
                return Err((row, CellError::Bad(what)));
            };
            self.offsets.push(end);
        }
        if self.is_utf8(first_text, first_byte) {
            return Ok(());
        }
        Err((self.first_invalid(first_text), CellError::Bad(NOT_UTF8.to_owned())))
    }

    /// Whether each text from here on is valid: all of them together are, and
    /// none ends within a character.
    fn is_utf8(&self, first_text: usize, first_byte: usize) -> bool {
        let Ok(block) = simdutf8::basic::from_utf8(&self.values[first_byte..]) else {
            return false;
        };
        self.offsets[first_text..]
            .iter()
            .all(|end| block.is_char_boundary(*end as usize - first_byte))
    }

    /// Which text from here on is not valid.
    fn first_invalid(&self, first_text: usize) -> usize {
        let ends = self.offsets[first_text - 1..].windows(2);
        let mut texts = ends.map(|ends| &self.values[ends[0] as usize..ends[1] as usize]);
        texts.position(|text| simdutf8::basic::from_utf8(text).is_err()).unwrap_or(0)
    }

    /// The array of everything appended since the last; the builder then holds
    /// nothing, with room for as much again.
    pub(super) fn finish(&mut self) -> ArrayRef {
        let (texts, bytes) = (self.offsets.len() - 1, self.values.len());
        let next = TextBuilder::with_capacity(room(texts), room_bytes(bytes));
        let TextBuilder { values, offsets, mut nulls } = std::mem::replace(self, next);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        match StringArray::try_new(offsets, Buffer::from_vec(values), nulls.finish()) {
            Ok(array) => Arc::new(array),
            // The batch refuses a column of another type, with its own words.
            Err(_) => Arc::new(NullArray::new(texts)),
        }
    }
}

const NOT_UTF8: &str = "a text that is not valid UTF-8";
