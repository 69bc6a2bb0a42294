//! One column chunk of a column that is not nested: values in, pages out.
//!
//! ```text
//! arrays ─► page: validity, values as PLAIN has them ─► encode ─► compress ─► pages ─► chunk
//! ```
//!
//! `parquet`'s own column writers look at one value at a time: they gather it,
//! compare it, look it up and put it into the encoding. That was the largest
//! part of a load. Here a page's values lie side by side, and each step goes
//! over all of them at once. What it cannot do ([`FlatColumn::new`] says
//! `None`) is left to `parquet`.

use arrow::array::{Array, ArrayRef, AsArray, BooleanBufferBuilder};
use arrow::datatypes::{DataType, Decimal64Type};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType, Type as Physical};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, PageEncodingStats};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::bounds::Bounds;
use super::dictionary::Dictionary;
use super::packing;

/// Rows of a page at most.
const PAGE_ROWS: usize = 20_000;
/// Rows after which to look at a page's bytes.
const STEP_ROWS: usize = 1024;
/// A page that does not become this much smaller says that the column is not
/// worth compressing.
const WORTH_COMPRESSING: f64 = 0.95;
/// Bytes that a page must have to say so.
const MIN_TELLING: usize = 1 << 12;

/// How a value lies in PLAIN.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Width {
    Four,
    Eight,
    /// So many bytes.
    Fixed(usize),
    /// Behind its length.
    Variable,
}

/// A column chunk under construction.
pub(super) struct FlatColumn {
    descr: ColumnDescPtr,
    nullable: bool,
    width: Width,
    /// Of the pages to come, unless there is a dictionary.
    encoding: Encoding,
    codec: Compression,
    page_bytes: usize,
    dictionary_bytes: usize,
    /// Of the page at hand.
    valid: BooleanBufferBuilder,
    page_nulls: usize,
    values: Vec<u8>,
    /// Until it has become too large.
    dictionary: Option<Dictionary>,
    /// One that has.
    full: Option<Dictionary>,
    bounds: Option<Bounds>,
    pages: Vec<DataPage>,
    pages_bytes: usize,
    rows: usize,
    nulls: usize,
}

struct DataPage {
    bytes: Vec<u8>,
    uncompressed: usize,
    rows: usize,
    encoding: Encoding,
}

impl FlatColumn {
    /// `None`: not for a column of this type or encoding.
    pub(super) fn new(
        kind: &DataType,
        descr: &ColumnDescPtr,
        properties: &WriterProperties,
    ) -> Option<Self> {
        let width = match (kind, descr.physical_type()) {
            (DataType::Int32 | DataType::Date32 | DataType::Decimal64(..), Physical::INT32)
            | (DataType::Float32, Physical::FLOAT) => Width::Four,
            (
                DataType::Int64
                | DataType::Time64(_)
                | DataType::Timestamp(..)
                | DataType::Decimal64(..),
                Physical::INT64,
            )
            | (DataType::Float64, Physical::DOUBLE) => Width::Eight,
            (DataType::FixedSizeBinary(width @ 1..), _) => Width::Fixed(*width as usize),
            (DataType::Utf8 | DataType::Binary, Physical::BYTE_ARRAY) => Width::Variable,
            _ => return None,
        };
        let path = descr.path();
        let encoding = properties.encoding(path).unwrap_or(Encoding::PLAIN);
        let integers = matches!(descr.physical_type(), Physical::INT32 | Physical::INT64);
        let known =
            encoding == Encoding::PLAIN || (encoding == Encoding::DELTA_BINARY_PACKED && integers);
        let codec = properties.compression(path);
        let compresses = matches!(codec, Compression::ZSTD(_) | Compression::UNCOMPRESSED);
        let flat = descr.max_rep_level() == 0 && descr.max_def_level() <= 1;
        if !known || !compresses || !flat {
            return None;
        }
        let wanted = properties.dictionary_enabled(path) && !matches!(width, Width::Fixed(_));
        let bounded = properties.statistics_enabled(path) != EnabledStatistics::None;
        Some(FlatColumn {
            nullable: descr.max_def_level() == 1,
            width,
            encoding,
            codec,
            page_bytes: properties.column_data_page_size_limit(path),
            dictionary_bytes: properties.column_dictionary_page_size_limit(path),
            valid: BooleanBufferBuilder::new(PAGE_ROWS),
            page_nulls: 0,
            values: Vec::new(),
            dictionary: wanted.then(Dictionary::new),
            full: None,
            bounds: bounded.then(|| Bounds::new(descr)),
            pages: Vec::new(),
            pages_bytes: 0,
            rows: 0,
            nulls: 0,
            descr: descr.clone(),
        })
    }

    /// Appends all rows of an array.
    pub(super) fn append(&mut self, array: &ArrayRef, zstd: &mut Zstd) -> Result<()> {
        let mut start = 0;
        while start < array.len() {
            let room = PAGE_ROWS - self.valid.len();
            let step = if self.width == Width::Variable { STEP_ROWS } else { PAGE_ROWS };
            let rows = room.min(step).min(array.len() - start);
            self.add(array.slice(start, rows).as_ref())?;
            start += rows;
            if self.valid.len() == PAGE_ROWS || self.values.len() >= self.page_bytes {
                self.end_page(zstd)?;
            }
        }
        Ok(())
    }

    /// Bytes of the chunk if it ended now, about.
    pub(super) fn estimated_bytes(&self) -> usize {
        let dictionary = self.dictionary.iter().chain(&self.full);
        // An index has two bytes, or less.
        let values = match self.dictionary {
            Some(_) => self.valid.len() * 2,
            None => self.values.len(),
        };
        self.pages_bytes + values + dictionary.map(|known| known.plain().len()).sum::<usize>()
    }

    /// Appends rows to the page at hand.
    fn add(&mut self, array: &dyn Array) -> Result<()> {
        match array.nulls() {
            Some(nulls) => self.valid.append_buffer(nulls.inner()),
            None => self.valid.append_n(array.len(), true),
        }
        let nulls = array.null_count();
        self.page_nulls += nulls;
        if nulls > 0 && !self.nullable {
            let what = format!("a null in the required column {}", self.descr.path());
            return Err(ParquetError::General(what));
        }
        if nulls == array.len() {
            return Ok(());
        }
        let data = array.to_data();
        let wrong = || ParquetError::General(format!("an array of {}", array.data_type()));
        let every = 0..array.len();
        let valid = || array.nulls().into_iter().flat_map(|nulls| nulls.valid_indices());
        match self.width {
            Width::Variable => {
                let offsets = data.buffers().first().ok_or_else(wrong)?.typed_data::<i32>();
                let offsets = &offsets[data.offset()..=data.offset() + data.len()];
                let bytes = data.buffers().get(1).ok_or_else(wrong)?.as_slice();
                let put = |row: usize| {
                    let value = &bytes[offsets[row] as usize..offsets[row + 1] as usize];
                    self.values.extend_from_slice(&(value.len() as u32).to_le_bytes());
                    self.values.extend_from_slice(value);
                };
                if nulls == 0 { every.for_each(put) } else { valid().for_each(put) }
            }
            Width::Four if matches!(array.data_type(), DataType::Decimal64(..)) => {
                let numbers = array.as_primitive::<Decimal64Type>().values();
                // At most nine digits.
                let put = |row: usize| {
                    self.values.extend_from_slice(&(numbers[row] as i32).to_le_bytes());
                };
                if nulls == 0 { every.for_each(put) } else { valid().for_each(put) }
            }
            Width::Four | Width::Eight | Width::Fixed(_) => {
                let width = self.width.bytes();
                let all = data.buffers().first().ok_or_else(wrong)?.as_slice();
                let all = &all[data.offset() * width..(data.offset() + data.len()) * width];
                if nulls == 0 {
                    self.values.extend_from_slice(all);
                } else {
                    valid().for_each(|row| {
                        self.values.extend_from_slice(&all[row * width..(row + 1) * width]);
                    });
                }
            }
        }
        Ok(())
    }

    /// Encodes and compresses the page at hand.
    fn end_page(&mut self, zstd: &mut Zstd) -> Result<()> {
        let rows = self.valid.len();
        if rows == 0 {
            return Ok(());
        }
        let valid = self.valid.finish();
        let mut body = std::mem::take(&mut zstd.body);
        body.clear();
        if self.nullable {
            packing::levels(&valid, self.page_nulls, &mut body);
        }
        let encoding = self.encode(rows - self.page_nulls, &mut body);
        // A dictionary's own page may be worth it where the indices are not.
        let tells = self.pages.is_empty() && encoding != Encoding::RLE_DICTIONARY;
        let bytes = zstd.page(&mut self.codec, &body, tells)?;
        self.pages_bytes += bytes.len();
        self.pages.push(DataPage { bytes, uncompressed: body.len(), rows, encoding });
        zstd.body = body;
        self.rows += rows;
        self.nulls += std::mem::take(&mut self.page_nulls);
        self.values.clear();
        Ok(())
    }

    /// Writes the page's values; says how.
    fn encode(&mut self, count: usize, body: &mut Vec<u8>) -> Encoding {
        if let Some(mut dictionary) = self.dictionary.take() {
            let mut indices = Vec::with_capacity(count);
            match self.width {
                Width::Four => indices.extend(
                    self.values.as_chunks::<4>().0.iter().map(|value| dictionary.number(*value)),
                ),
                Width::Eight => indices.extend(
                    self.values.as_chunks::<8>().0.iter().map(|value| dictionary.number(*value)),
                ),
                Width::Fixed(_) | Width::Variable => {
                    indices.extend(variable(&self.values).map(|value| dictionary.bytes(value)));
                }
            }
            packing::indices(&indices, dictionary.len(), body);
            if dictionary.plain().len() < self.dictionary_bytes {
                self.dictionary = Some(dictionary);
            } else {
                self.full = Some(dictionary);
            }
            return Encoding::RLE_DICTIONARY;
        }
        if let Some(bounds) = &mut self.bounds {
            bounds.widen(&self.values);
        }
        match (self.encoding, self.width) {
            (Encoding::DELTA_BINARY_PACKED, Width::Four) => {
                let values = self.values.as_chunks::<4>().0.iter();
                let values = values.map(|value| i64::from(i32::from_le_bytes(*value)));
                let minus = |a: i64, b: i64| i64::from((a as i32).wrapping_sub(b as i32));
                packing::differences(values, count, minus, body);
            }
            (Encoding::DELTA_BINARY_PACKED, _) => {
                let values = self.values.as_chunks::<8>().0.iter();
                let values = values.map(|value| i64::from_le_bytes(*value));
                packing::differences(values, count, i64::wrapping_sub, body);
            }
            _ => body.extend_from_slice(&self.values),
        }
        self.encoding
    }

    /// The chunk's bytes, and what the footer says of it.
    pub(super) fn close(mut self, zstd: &mut Zstd) -> Result<(Bytes, ColumnCloseResult)> {
        self.end_page(zstd)?;
        let mut chunk = Vec::with_capacity(self.estimated_bytes() + 64 * (self.pages.len() + 1));
        let mut sink = TrackedWrite::new(&mut chunk);
        let mut writer = SerializedPageWriter::new(&mut sink);
        let (mut compressed, mut uncompressed) = (0, 0);
        let mut write = |page: CompressedPage| {
            let spec = writer.write_page(page)?;
            compressed += spec.compressed_size as i64;
            uncompressed += spec.uncompressed_size as i64;
            Ok::<_, ParquetError>(spec.offset as i64)
        };
        let mut stats: Vec<PageEncodingStats> = Vec::new();
        let mut dictionary_at = None;
        if let Some(dictionary) = self.dictionary.take().or(self.full.take()) {
            if let Some(bounds) = &mut self.bounds {
                bounds.widen(dictionary.plain());
            }
            let buf = zstd.page(&mut self.codec, dictionary.plain(), false)?;
            let page = Page::DictionaryPage {
                buf: buf.into(),
                num_values: dictionary.len() as u32,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            dictionary_at = Some(write(CompressedPage::new(page, dictionary.plain().len()))?);
            let page_type = PageType::DICTIONARY_PAGE;
            stats.push(PageEncodingStats { page_type, encoding: Encoding::PLAIN, count: 1 });
        }
        let mut data_at = None;
        for page in std::mem::take(&mut self.pages) {
            let (encoding, page_type) = (page.encoding, PageType::DATA_PAGE);
            match stats.last_mut() {
                Some(last) if last.page_type == page_type && last.encoding == encoding => {
                    last.count += 1;
                }
                _ => stats.push(PageEncodingStats { page_type, encoding, count: 1 }),
            }
            let data = Page::DataPage {
                buf: page.bytes.into(),
                num_values: page.rows as u32,
                encoding,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let at = write(CompressedPage::new(data, page.uncompressed))?;
            data_at.get_or_insert(at);
        }
        std::io::Write::flush(&mut sink)?;
        drop(sink);
        let mut encodings: Vec<_> = stats.iter().map(|page| page.encoding).collect();
        encodings.push(Encoding::RLE);
        let mut metadata = ColumnChunkMetaData::builder(self.descr.clone())
            .set_compression(self.codec)
            .set_encodings(encodings)
            .set_page_encoding_stats(stats)
            .set_total_compressed_size(compressed)
            .set_total_uncompressed_size(uncompressed)
            .set_num_values(self.rows as i64)
            .set_data_page_offset(data_at.unwrap_or(0))
            .set_dictionary_page_offset(dictionary_at);
        if let Some(bounds) = &self.bounds {
            metadata = metadata.set_statistics(bounds.statistics(self.nulls as u64));
        }
        let closed = ColumnCloseResult {
            bytes_written: compressed as u64,
            rows_written: self.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        Ok((chunk.into(), closed))
    }
}

impl Width {
    /// Of a value that has no length of its own.
    fn bytes(self) -> usize {
        match self {
            Width::Four => 4,
            Width::Eight => 8,
            Width::Fixed(width) => width,
            Width::Variable => 0,
        }
    }
}

/// Values that PLAIN has behind their lengths.
pub(super) fn variable(mut plain: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = plain.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        plain = rest;
        Some(value)
    })
}

/// The compressor of all columns of a file, one after the other, and the memory
/// that it and they fill again and again.
pub(super) struct Zstd {
    compressor: zstd::bulk::Compressor<'static>,
    compressed: Vec<u8>,
    body: Vec<u8>,
}

impl Zstd {
    pub(super) fn new(level: i32) -> Result<Self> {
        let compressor = zstd::bulk::Compressor::new(level)?;
        Ok(Zstd { compressor, compressed: Vec::new(), body: Vec::new() })
    }

    /// A page's bytes as they are stored. One that `tells` may decide that its
    /// chunk, which it is the first of, is not compressed.
    fn page(&mut self, codec: &mut Compression, body: &[u8], tells: bool) -> Result<Vec<u8>> {
        if *codec == Compression::UNCOMPRESSED {
            return Ok(body.to_vec());
        }
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(body.len()));
        self.compressor.compress_to_buffer(body, &mut self.compressed)?;
        let ratio = self.compressed.len() as f64 / body.len().max(1) as f64;
        if tells && body.len() >= MIN_TELLING && ratio > WORTH_COMPRESSING {
            *codec = Compression::UNCOMPRESSED;
            return Ok(body.to_vec());
        }
        Ok(self.compressed.clone())
    }
}
