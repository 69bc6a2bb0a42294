//! Finds header, rows and trailer in COPY's binary form
//! (`src/backend/commands/copyto.c`).
//!
//! ```text
//! header:  PGCOPY\n\377\r\n\0 · i32 flags · i32 extension length · extension
//! row:     i16 cells · { i32 length, −1 for null · bytes } per cell
//! trailer: i16 −1
//! ```

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Flag bits 16–31 are critical: an unknown one means another format.
const CRITICAL_FLAGS: u32 = 0xffff_0000;
/// A header extension longer than this is no header.
const MAX_EXTENSION: u32 = 1 << 16;

/// Where a cell lies in its block; `length` −1: null.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) start: u32,
    pub(crate) length: i32,
}

impl Cell {
    /// The cell's bytes; `None`: null.
    #[inline]
    pub(crate) fn of<'a>(&self, block: &'a [u8]) -> Option<&'a [u8]> {
        if self.length < 0 {
            return None;
        }
        let start = self.start as usize;
        Some(&block[start..start + self.length as usize])
    }
}

/// One column's cells in a block, in row order.
#[derive(Clone, Copy)]
pub(crate) struct Cells<'a> {
    pub(crate) bytes: &'a [u8],
    /// All cells of the block, row by row.
    pub(crate) cells: &'a [Cell],
    /// Columns in a row.
    pub(crate) stride: usize,
    /// The column.
    pub(crate) index: usize,
}

impl<'a> Cells<'a> {
    /// The column's cells; `None`: null.
    #[inline]
    pub(crate) fn iter(self) -> impl Iterator<Item = Option<&'a [u8]>> {
        self.cells.chunks_exact(self.stride).map(move |row| row[self.index].of(self.bytes))
    }
}

/// What lies at a place in the block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framed {
    /// A row of so many bytes; its cells were added.
    Row(usize),
    /// The end of the data.
    Trailer,
    /// Part of a row.
    Incomplete,
    /// A row of at least so many bytes, more than allowed; the cells known so
    /// far were added.
    TooLarge(usize),
}

/// The header's length, once it is all there.
pub(crate) fn header(bytes: &[u8]) -> Result<Option<usize>, String> {
    let present = bytes.len().min(SIGNATURE.len());
    if bytes[..present] != SIGNATURE[..present] {
        return Err("the data does not begin as COPY's binary form does".to_owned());
    }
    let (Some(flags), Some(extension)) = (u32_at(bytes, 11), u32_at(bytes, 15)) else {
        return Ok(None);
    };
    if flags & CRITICAL_FLAGS != 0 {
        return Err(format!("unknown flags {flags:#x} in COPY's header"));
    }
    if extension > MAX_EXTENSION {
        return Err(format!("a header extension of {extension} bytes"));
    }
    let length = 19 + extension as usize;
    Ok((bytes.len() >= length).then_some(length))
}

/// Looks at the row that begins at `start`, adding its cells to `cells`.
pub(crate) fn row(
    block: &[u8],
    start: usize,
    columns: usize,
    limit: usize,
    cells: &mut Vec<Cell>,
) -> Result<Framed, String> {
    if u32::try_from(block.len()).is_err() {
        return Err("more than 4 GiB of undecoded data".to_owned());
    }
    let Some((count, mut rest)) = block.get(start..).and_then(<[u8]>::split_first_chunk::<2>)
    else {
        return Ok(Framed::Incomplete);
    };
    let count = i16::from_be_bytes(*count);
    if count == -1 {
        return Ok(Framed::Trailer);
    }
    if usize::try_from(count) != Ok(columns) {
        return Err(format!("a row of {count} columns, {columns} expected"));
    }
    cells.reserve(columns);
    for _ in 0..columns {
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            let seen = block.len() - start;
            return Ok(too_large_or(Framed::Incomplete, seen, limit));
        };
        let length = i32::from_be_bytes(*length);
        let at = block.len() - after.len();
        rest = match usize::try_from(length) {
            Ok(bytes) => match after.get(bytes..) {
                Some(rest) => rest,
                None => {
                    let seen = (at - start).saturating_add(bytes);
                    return Ok(too_large_or(Framed::Incomplete, seen, limit));
                }
            },
            Err(_) if length == -1 => after,
            Err(_) => return Err(format!("a cell of {length} bytes")),
        };
        cells.push(Cell { start: at as u32, length });
    }
    let length = block.len() - rest.len() - start;
    Ok(too_large_or(Framed::Row(length), length, limit))
}

fn too_large_or(framed: Framed, bytes: usize, limit: usize) -> Framed {
    if bytes > limit { Framed::TooLarge(bytes) } else { framed }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}
