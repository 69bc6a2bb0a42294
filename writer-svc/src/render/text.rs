//! Values as PostgreSQL's output functions write them.

use super::Values;
use super::datetime::{self, Style};
use super::float::{write_float4, write_float8};

/// Appends the text of one value; nothing for a null.
pub fn write_text(values: &Values<'_>, row: usize, out: &mut Vec<u8>) {
    if values.is_null(row) {
        return;
    }
    match values {
        Values::Boolean(array) => out.push(if array.value(row) { b't' } else { b'f' }),
        Values::Int32(array) => write_integer(array.value(row), out),
        Values::Int64(array) => write_integer(array.value(row), out),
        Values::Float32(array) => write_float4(array.value(row), out),
        Values::Float64(array) => write_float8(array.value(row), out),
        Values::Decimal64(array, scale) => write_numeric(array.value(row).into(), *scale, out),
        Values::Decimal(array, scale) => write_numeric(array.value(row), *scale, out),
        Values::Date(array) => datetime::write_date(array.value(row).into(), out),
        Values::Time(array) => datetime::write_time(array.value(row), out),
        Values::Timestamp(array) => {
            datetime::write_timestamp(array.value(row), false, Style::Iso, out);
        }
        Values::TimestampTz(array) => {
            datetime::write_timestamp(array.value(row), true, Style::Iso, out);
        }
        Values::Uuid(array) => write_uuid(array.value(row), out),
        Values::Bytea(array) => {
            out.extend_from_slice(b"\\x");
            write_hex(array.value(row), out);
        }
        Values::Json(array) | Values::Text(array) => {
            out.extend_from_slice(array.value(row).as_bytes());
        }
        Values::List(array, elements) => {
            let offsets = array.value_offsets();
            write_array(elements, offsets[row] as usize..offsets[row + 1] as usize, out);
        }
    }
}

pub(super) fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// An unscaled value with `scale` digits after the point.
pub(super) fn write_numeric(unscaled: i128, scale: u8, out: &mut Vec<u8>) {
    if unscaled < 0 {
        out.push(b'-');
    }
    let mut buffer = itoa::Buffer::new();
    let magnitude = unscaled.unsigned_abs();
    // Most fit into 64 bits, which are much cheaper to print.
    let digits = match u64::try_from(magnitude) {
        Ok(small) => buffer.format(small),
        Err(_) => buffer.format(magnitude),
    };
    let (digits, scale) = (digits.as_bytes(), usize::from(scale));
    if scale == 0 {
        return out.extend_from_slice(digits);
    }
    if digits.len() > scale {
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(fraction);
    } else {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', scale - digits.len()));
        out.extend_from_slice(digits);
    }
}

pub(super) fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 * bytes.len());
    for byte in bytes {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

pub(super) fn write_uuid(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    for (group, length) in [4, 2, 2, 2, 6].into_iter().enumerate() {
        if group > 0 {
            out.push(b'-');
        }
        let (now, later) = rest.split_at(length.min(rest.len()));
        write_hex(now, out);
        rest = later;
    }
}

/// `{1,2,NULL,"a b"}`: array_out of a one-dimensional array.
fn write_array(elements: &Values<'_>, range: std::ops::Range<usize>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, element) in range.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if elements.is_null(element) {
            out.extend_from_slice(b"NULL");
            continue;
        }
        let start = out.len();
        write_text(elements, element, out);
        if needs_quotes(&out[start..]) {
            quote_from(start, out);
        }
    }
    out.push(b'}');
}

/// What array_in would otherwise take apart, trim, or read as a null.
fn needs_quotes(element: &[u8]) -> bool {
    element.is_empty()
        || element.eq_ignore_ascii_case(b"NULL")
        || element
            .iter()
            .any(|byte| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | b'\t'..=b'\r'))
}

/// Puts what `out` holds from `start` on in quotes, in place.
fn quote_from(start: usize, out: &mut Vec<u8>) {
    let escapes = out[start..].iter().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    let mut read = out.len();
    out.resize(read + escapes + 2, 0);
    let mut write = out.len() - 1;
    out[write] = b'"';
    // From the back, so that no byte is overwritten before it is moved.
    while read > start {
        read -= 1;
        write -= 1;
        out[write] = out[read];
        if matches!(out[read], b'"' | b'\\') {
            write -= 1;
            out[write] = b'\\';
        }
    }
    out[start] = b'"';
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
