//! `array_send` → the elements of a list (`src/backend/utils/adt/arrayfuncs.c`).
//!
//! ```text
//! i32 dimensions · i32 has nulls · u32 element type
//!   · { i32 length · i32 lower bound } per dimension
//!   · { i32 length, −1 for null · bytes } per element
//! ```
//!
//! Dimensions belong to the value, not to its type: any other than none, or
//! one that starts at 1, is no list.

use super::CellError;
use super::frame::Cell;

/// PostgreSQL's MAXDIM.
const MAX_DIMENSIONS: i32 = 6;

/// Notes where each element of `bytes` lies; `elements` is cleared first.
pub(super) fn elements(bytes: &[u8], elements: &mut Vec<Cell>) -> Result<(), CellError> {
    elements.clear();
    let dimensions = i32_at(bytes, 0)?;
    let _has_nulls = i32_at(bytes, 4)?;
    let _element_type = i32_at(bytes, 8)?;
    match dimensions {
        0 if bytes.len() == 12 => return Ok(()),
        0 => return Err(bad("an empty array with elements")),
        1 => {}
        2..=MAX_DIMENSIONS => {
            return Err(CellError::Unrepresentable(format!("an array of {dimensions} dimensions")));
        }
        _ => return Err(CellError::Bad(format!("an array of {dimensions} dimensions"))),
    }
    let length = i32_at(bytes, 12)?;
    let lower_bound = i32_at(bytes, 16)?;
    if lower_bound != 1 {
        return Err(CellError::Unrepresentable(format!("an array that starts at {lower_bound}")));
    }
    let mut at = 20;
    // No memory is set aside for a count that the bytes do not bear out.
    if length < 0 || length as usize > (bytes.len() - at) / 4 {
        return Err(CellError::Bad(format!("an array of {length} elements in too few bytes")));
    }
    elements.reserve(length as usize);
    for _ in 0..length {
        let length = i32_at(bytes, at)?;
        at += 4;
        let size = length.max(0) as usize;
        if length < -1 || size > bytes.len() - at {
            return Err(CellError::Bad(format!("an array element of {length} bytes")));
        }
        elements.push(Cell { start: at as u32, length });
        at += size;
    }
    if at != bytes.len() {
        return Err(bad("bytes follow an array's last element"));
    }
    Ok(())
}

fn i32_at(bytes: &[u8], at: usize) -> Result<i32, CellError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map(|bytes| i32::from_be_bytes(*bytes))
        .ok_or_else(|| bad("an array that ends early"))
}

fn bad(what: &str) -> CellError {
    CellError::Bad(what.to_owned())
}
