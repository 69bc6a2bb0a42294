//! A value's text, as PostgreSQL's output functions make it under the settings
//! of every session of ours, → the bytes of COPY's binary form. Pure.
//!
//! pgoutput sends text. Turned into what the type's send function would have
//! made, it takes the same way as a load's rows: one decoder, one type table,
//! and so the same value whichever way it came.
//!
//! What a type cannot be (a date that is none) is an error here; what Arrow
//! cannot hold (infinity, 24:00:00, NaN in a decimal, an array of two
//! dimensions) keeps its binary form, and the decoder judges it.

use super::CellError;
use crate::types::Wire;

/// Days from 0000-03-01 to 2000-01-01.
const EPOCH_DAYS: i64 = 730_425;
const DAY_MICROS: i64 = 86_400_000_000;
/// Digits in one of numeric's.
const GROUP: usize = 4;
/// PostgreSQL's MAXDIM.
const MAX_DIMENSIONS: usize = 6;

/// What a column's text is turned into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcoder {
    wire: Wire,
    /// Between an array's elements: `typdelim` of their type.
    delimiter: u8,
}

impl Transcoder {
    /// For a column of this form. `delimiter` matters to arrays alone: a
    /// comma, but for a few types of element.
    pub fn new(wire: Wire, delimiter: u8) -> Self {
        Transcoder { wire, delimiter }
    }

    /// Appends a cell, its length first, as a row of COPY has it. What is
    /// wrong is said without the column.
    pub fn cell(&self, text: &[u8], row: &mut Vec<u8>) -> Result<(), String> {
        let start = row.len();
        row.extend_from_slice(&[0; 4]);
        let written = match &self.wire {
            Wire::List(item) => self.array(item, text, row),
            wire => scalar(wire, text, row),
        };
        written.map_err(|error| match error {
            CellError::Bad(what) | CellError::Unrepresentable(what) => what,
        })?;
        fill_length(row, start)
    }
}

/// Writes how many bytes follow the four at `start`.
fn fill_length(row: &mut [u8], start: usize) -> Result<(), String> {
    let length = i32::try_from(row.len() - start - 4).map_err(|_| "more than 2 GiB".to_owned())?;
    row[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Everything but arrays.
fn scalar(wire: &Wire, text: &[u8], out: &mut Vec<u8>) -> Result<(), CellError> {
    match wire {
        Wire::Text | Wire::Json => out.extend_from_slice(text),
        Wire::Jsonb => {
            out.push(1);
            out.extend_from_slice(text);
        }
        Wire::Bytea => bytea(text, out)?,
        Wire::Bool => match text {
            b"t" => out.push(1),
            b"f" => out.push(0),
            _ => return Err(no("boolean", text)),
        },
        Wire::Int2 => out.extend(parsed::<i16>("int2", text)?.to_be_bytes()),
        Wire::Int4 => out.extend(parsed::<i32>("int4", text)?.to_be_bytes()),
        Wire::Int8 => out.extend(parsed::<i64>("int8", text)?.to_be_bytes()),
        Wire::Oid => out.extend(parsed::<u32>("oid", text)?.to_be_bytes()),
        // The shortest digits that mean one float, read back exactly; NaN and
        // Infinity go by the same names in both worlds.
        Wire::Float4 => out.extend(parsed::<f32>("float4", text)?.to_be_bytes()),
        Wire::Float8 => out.extend(parsed::<f64>("float8", text)?.to_be_bytes()),
        Wire::Numeric { .. } => numeric(text, out)?,
        Wire::Date => out.extend(date(text)?.to_be_bytes()),
        Wire::Time => out.extend(time(text).ok_or_else(|| no("time", text))?.to_be_bytes()),
        Wire::Timestamp => out.extend(timestamp(text, b"")?.to_be_bytes()),
        Wire::TimestampTz => out.extend(timestamp(text, b"+00")?.to_be_bytes()),
        Wire::Uuid => uuid(text, out)?,
        Wire::List(_) => return Err(CellError::Bad("an array in an array".to_owned())),
    }
    Ok(())
}

fn no(what: &str, text: &[u8]) -> CellError {
    let shown = String::from_utf8_lossy(&text[..text.len().min(super::SHOWN)]);
    CellError::Bad(format!("{shown:?} is no {what}"))
}

fn parsed<T: std::str::FromStr>(what: &str, text: &[u8]) -> Result<T, CellError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| no(what, text))
}

/// `\x` and two hexadecimal digits for each byte.
fn bytea(text: &[u8], out: &mut Vec<u8>) -> Result<(), CellError> {
    let digits = text.strip_prefix(b"\\x").filter(|digits| digits.len() % 2 == 0);
    let digits = digits.ok_or_else(|| no("bytea in hex form", text))?;
    out.reserve(digits.len() / 2);
    for pair in digits.chunks_exact(2) {
        match (hex(pair[0]), hex(pair[1])) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => return Err(no("bytea in hex form", text)),
        }
    }
    Ok(())
}

fn uuid(text: &[u8], out: &mut Vec<u8>) -> Result<(), CellError> {
    let start = out.len();
    let mut digits = text.iter().filter(|letter| **letter != b'-').map(|letter| hex(*letter));
    while let Some(high) = digits.next() {
        match (high, digits.next().flatten()) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => return Err(no("uuid", text)),
        }
    }
    if out.len() - start == 16 { Ok(()) } else { Err(no("uuid", text)) }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// `numeric_send`: groups of four decimal digits around the point.
fn numeric(text: &[u8], out: &mut Vec<u8>) -> Result<(), CellError> {
    let special = match text {
        b"NaN" => Some(0xC000u16),
        b"Infinity" => Some(0xD000),
        b"-Infinity" => Some(0xF000),
        _ => None,
    };
    if let Some(sign) = special {
        out.extend([0, 0, 0, 0]);
        out.extend(sign.to_be_bytes());
        out.extend([0, 0]);
        return Ok(());
    }
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let point = digits.iter().position(|digit| *digit == b'.').unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
    if whole.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return Err(no("numeric", text));
    }
    let whole_groups = whole.len().div_ceil(GROUP);
    let groups = whole_groups + fraction.len().div_ceil(GROUP);
    let (Ok(count), Ok(weight), Ok(scale)) =
        (i16::try_from(groups), i16::try_from(whole_groups), i16::try_from(fraction.len()))
    else {
        return Err(no("numeric of this size", text));
    };
    out.extend(count.to_be_bytes());
    out.extend((weight - 1).to_be_bytes());
    out.extend(if negative { [0x40, 0] } else { [0, 0] });
    out.extend(scale.to_be_bytes());
    // The first group may be short on its left, the last on its right.
    let first = whole.len() - (whole_groups - 1) * GROUP;
    let (head, tail) = whole.split_at(first);
    out.extend(group(head, 0).to_be_bytes());
    tail.chunks(GROUP).for_each(|digits| out.extend(group(digits, 0).to_be_bytes()));
    for digits in fraction.chunks(GROUP) {
        out.extend(group(digits, GROUP - digits.len()).to_be_bytes());
    }
    Ok(())
}

/// Up to four digits, and zeros after them.
fn group(digits: &[u8], zeros: usize) -> u16 {
    let value = digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
    (0..zeros).fold(value, |value, _| value * 10)
}

/// Days since 2000-01-01.
fn date(text: &[u8]) -> Result<i32, CellError> {
    match text {
        b"infinity" => return Ok(i32::MAX),
        b"-infinity" => return Ok(i32::MIN),
        _ => {}
    }
    let (text_of_day, before_christ) = era(text);
    let days = days(text_of_day, before_christ).and_then(|days| i32::try_from(days).ok());
    days.ok_or_else(|| no("date", text))
}

/// Microseconds since 2000-01-01; `zone` is what follows the time.
fn timestamp(text: &[u8], zone: &[u8]) -> Result<i64, CellError> {
    match text {
        b"infinity" => return Ok(i64::MAX),
        b"-infinity" => return Ok(i64::MIN),
        _ => {}
    }
    let (rest, before_christ) = era(text);
    let moment = || {
        let rest = rest.strip_suffix(zone)?;
        let space = rest.iter().position(|letter| *letter == b' ')?;
        let (day, clock) = (&rest[..space], &rest[space + 1..]);
        days(day, before_christ)?.checked_mul(DAY_MICROS)?.checked_add(time(clock)?)
    };
    moment().ok_or_else(|| no("timestamp", text))
}

fn era(text: &[u8]) -> (&[u8], bool) {
    match text.strip_suffix(b" BC") {
        Some(rest) => (rest, true),
        None => (text, false),
    }
}

/// `YYYY-MM-DD`, the year of any length, as days since 2000-01-01.
fn days(text: &[u8], before_christ: bool) -> Option<i64> {
    let [.., b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = number(&text[..text.len() - 6])?;
    let (month, day) = (number(&[*m1, *m2])?, number(&[*d1, *d2])?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // 1 BC is the year 0. Years begin in March, so that a leap day is a year's
    // last day.
    let year = if before_christ { 1 - year } else { year };
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let (century, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    Some(century * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - EPOCH_DAYS)
}

/// `HH:MM:SS`, with up to six digits of a fraction, as microseconds.
fn time(text: &[u8]) -> Option<i64> {
    let (clock, fraction) = text.split_at_checked(8)?;
    let [h1, h2, b':', m1, m2, b':', s1, s2] = clock else { return None };
    let (hour, minute) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
    let second = number(&[*s1, *s2])?;
    if hour > 24 || minute > 59 || second > 60 {
        return None;
    }
    let micros = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => {
            (digits.len()..6).fold(number(digits)?, |micros, _| micros * 10)
        }
        _ => return None,
    };
    Some(((hour * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

/// Digits, few enough for the product that follows.
fn number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
}

impl Transcoder {
    /// `array_out` → `array_send` (`src/backend/utils/adt/arrayfuncs.c`).
    ///
    /// ```text
    /// [lower:upper]…={element,"el\"ement",NULL,{…}}       bounds only where not 1
    /// ```
    fn array(&self, item: &Wire, text: &[u8], out: &mut Vec<u8>) -> Result<(), CellError> {
        let malformed = || no("array", text);
        let (lower_bounds, body) = bounds(text).ok_or_else(malformed)?;
        let dimensions = body.iter().take_while(|letter| **letter == b'{').count();
        if body == b"{}" {
            // No dimension, no nulls, and a type that nobody looks at.
            out.extend([0; 12]);
            return Ok(());
        }
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(malformed());
        }
        out.extend((dimensions as u32).to_be_bytes());
        out.extend([0; 8]);
        // Of more dimensions than one, only their number is looked at.
        let count_at = out.len();
        out.extend([0; 4]);
        let lower_bound = lower_bounds.first().copied().unwrap_or(1);
        out.extend(lower_bound.to_be_bytes());
        if dimensions > 1 {
            return Ok(());
        }
        let inside = body[1..].strip_suffix(b"}").ok_or_else(malformed)?;
        let mut elements = Elements { rest: inside, delimiter: self.delimiter, more: true };
        let (mut count, mut unescaped) = (0u32, Vec::new());
        while let Some(element) = elements.next(&mut unescaped).map_err(|()| malformed())? {
            count += 1;
            let start = out.len();
            match element {
                Element::Null => out.extend((-1i32).to_be_bytes()),
                Element::Text(text) => {
                    out.extend([0; 4]);
                    scalar(item, text, out).map_err(|e| e.in_element(count as usize - 1))?;
                    fill_length(out, start).map_err(CellError::Bad)?;
                }
            }
        }
        out[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
        Ok(())
    }
}

/// The lower bounds that a text begins with, if it does, and what follows.
fn bounds(text: &[u8]) -> Option<(Vec<i32>, &[u8])> {
    let (mut lower_bounds, mut rest) = (Vec::new(), text);
    while let Some(inside) = rest.strip_prefix(b"[") {
        let end = inside.iter().position(|letter| *letter == b']')?;
        let (lower, _upper) = std::str::from_utf8(&inside[..end]).ok()?.split_once(':')?;
        lower_bounds.push(lower.parse().ok()?);
        rest = &inside[end + 1..];
    }
    if !lower_bounds.is_empty() {
        rest = rest.strip_prefix(b"=")?;
    }
    rest.starts_with(b"{").then_some((lower_bounds, rest))
}

/// The elements of an array of one dimension, one after another.
struct Elements<'a> {
    rest: &'a [u8],
    delimiter: u8,
    /// An element follows: the text does not end after a delimiter.
    more: bool,
}

enum Element<'a> {
    Null,
    Text(&'a [u8]),
}

impl<'a> Elements<'a> {
    /// `scratch` holds an element that had to be unescaped.
    fn next<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Result<Option<Element<'s>>, ()>
    where
        'a: 's,
    {
        if !self.more {
            return Ok(None);
        }
        let element = match self.rest.strip_prefix(b"\"") {
            Some(quoted) => {
                scratch.clear();
                self.rest = unquote(quoted, scratch).ok_or(())?;
                Element::Text(scratch)
            }
            None => {
                let end = self.rest.iter().position(|letter| *letter == self.delimiter);
                let (text, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                match text {
                    b"" => return Err(()),
                    b"NULL" => Element::Null,
                    text => Element::Text(text),
                }
            }
        };
        match self.rest.split_first() {
            None => self.more = false,
            Some((delimiter, rest)) if *delimiter == self.delimiter => self.rest = rest,
            Some(_) => return Err(()),
        }
        Ok(Some(element))
    }
}

/// Everything up to the closing quote; what comes after it.
fn unquote<'a>(mut text: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let plain = text.iter().position(|letter| matches!(letter, b'"' | b'\\'))?;
        out.extend_from_slice(&text[..plain]);
        match &text[plain..] {
            [b'"', rest @ ..] => return Some(rest),
            [_, escaped, rest @ ..] => {
                out.push(*escaped);
                text = rest;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
#[path = "transcode_tests.rs"]
mod tests;
