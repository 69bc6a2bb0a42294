//! `numeric_send` → i64 or i128 with a fixed scale, exactly
//! (`src/backend/utils/adt/numeric.c`).
//!
//! ```text
//! i16 digits · i16 weight · u16 sign · u16 display scale · i16 × digits
//! value = ± Σ digit[i] · 10000^(weight − i)
//! ```

use super::CellError;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// 10^n for n = 0 … 18.
const POWERS_64: [u64; 19] = {
    let mut powers = [1; 19];
    let mut n = 1;
    while n < 19 {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
};

/// 10^n for n = 0 … 38.
const POWERS: [i128; 39] = {
    let mut powers = [1i128; 39];
    let mut n = 1;
    while n < 39 {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
};

/// The value times 10^scale; `precision` ≤ 18 digits, 0 ≤ `scale` ≤ precision.
#[inline]
pub(super) fn decode64(bytes: &[u8], precision: u8, scale: i8) -> Result<i64, CellError> {
    let (digits, weight, negative) = parts(bytes)?;
    match small_magnitude(digits, weight, scale) {
        Some(small) if small < POWERS_64[usize::from(precision.min(18))] => {
            // Below 10^18.
            let value = small as i64;
            Ok(if negative { -value } else { value })
        }
        _ => i64::try_from(decode(bytes, precision, scale)?).map_err(|_| beyond(precision, scale)),
    }
}

/// The value times 10^scale; `precision` ≤ 38 digits, 0 ≤ `scale` ≤ precision.
#[inline]
pub(super) fn decode(bytes: &[u8], precision: u8, scale: i8) -> Result<i128, CellError> {
    let (digits, weight, negative) = parts(bytes)?;
    let magnitude = match small_magnitude(digits, weight, scale) {
        Some(small) => Some(i128::from(small)),
        None => magnitude(digits, weight, scale)?,
    };
    match magnitude {
        Some(value) if value < POWERS[usize::from(precision.min(38))] => {
            Ok(if negative { -value } else { value })
        }
        _ => Err(beyond(precision, scale)),
    }
}

/// The groups of digits, the weight of the first, and whether it is negative.
#[inline]
fn parts(bytes: &[u8]) -> Result<(&[u8], i16, bool), CellError> {
    let (Some(head), Some(digits)) = (bytes.first_chunk::<8>(), bytes.get(8..)) else {
        return Err(bad("a numeric of less than 8 bytes"));
    };
    let count = u16::from_be_bytes([head[0], head[1]]) as usize;
    let weight = i16::from_be_bytes([head[2], head[3]]);
    let sign = u16::from_be_bytes([head[4], head[5]]);
    let negative = match sign {
        0 => false,
        NEGATIVE => true,
        NAN => return Err(CellError::Unrepresentable("NaN".to_owned())),
        INFINITY => return Err(CellError::Unrepresentable("Infinity".to_owned())),
        NEGATIVE_INFINITY => return Err(CellError::Unrepresentable("-Infinity".to_owned())),
        _ => return Err(bad("a numeric of unknown sign")),
    };
    if digits.len() != count * 2 {
        return Err(bad("a numeric whose digits are not as many as it says"));
    }
    Ok((digits, weight, negative))
}

/// The same as [`magnitude`] in 64 bits, for the numbers that most are;
/// `None`: not one of those.
#[inline]
fn small_magnitude(digits: &[u8], weight: i16, scale: i8) -> Option<u64> {
    if digits.len() > 8 {
        return None;
    }
    let mut value: u64 = 0;
    let mut groups = 0;
    for group in digits.chunks_exact(2) {
        let group = u16::from_be_bytes([group[0], group[1]]);
        if group >= 10_000 {
            return None;
        }
        value = value * 10_000 + u64::from(group);
        groups += 1;
    }
    // The power of ten that the last group lacks. Divisors are constants, so
    // that no division is left.
    let (quotient, rest) = match 4 * (i32::from(weight) + 1 - groups) + i32::from(scale) {
        0 => return Some(value),
        -1 => (value / 10, value % 10),
        -2 => (value / 100, value % 100),
        -3 => (value / 1000, value % 1000),
        power @ 1..=18 => return value.checked_mul(POWERS_64[power as usize]),
        _ => return None,
    };
    (rest == 0).then_some(quotient)
}

/// `None`: more digits, before or after the point, than an i128 of this scale.
fn magnitude(digits: &[u8], weight: i16, scale: i8) -> Result<Option<i128>, CellError> {
    let mut value: i128 = 0;
    // The power of ten that the group at hand is to be multiplied by.
    let mut exponent = 4 * i32::from(weight) + i32::from(scale);
    // The power that the groups so far still lack.
    let mut lacking = 0;
    for group in digits.chunks_exact(2) {
        let group = i128::from(u16::from_be_bytes([group[0], group[1]]));
        if group >= 10_000 {
            return Err(bad("a numeric with a digit group above 9999"));
        }
        // Below the scale: part of the group counts, or none of it.
        let (factor, part) = match exponent {
            0.. => (POWERS[4], group),
            -3..=-1 => {
                let cut = POWERS[-exponent as usize];
                if group % cut != 0 {
                    return Ok(None);
                }
                (POWERS[(4 + exponent) as usize], group / cut)
            }
            _ if group == 0 => (1, 0),
            _ => return Ok(None),
        };
        let Some(next) = value.checked_mul(factor).and_then(|v| v.checked_add(part)) else {
            return Ok(None);
        };
        value = next;
        lacking = exponent.max(0);
        exponent -= 4;
    }
    if value == 0 {
        return Ok(Some(0));
    }
    let power = usize::try_from(lacking).ok().and_then(|n| POWERS.get(n));
    Ok(power.and_then(|power| value.checked_mul(*power)))
}

#[cold]
fn beyond(precision: u8, scale: i8) -> CellError {
    CellError::Unrepresentable(format!("a number beyond decimal({precision},{scale})"))
}

fn bad(what: &str) -> CellError {
    CellError::Bad(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(digits: &[u16], weight: i16, sign: u16) -> Vec<u8> {
        let mut bytes = (digits.len() as u16).to_be_bytes().to_vec();
        bytes.extend(weight.to_be_bytes());
        bytes.extend(sign.to_be_bytes());
        bytes.extend(0u16.to_be_bytes());
        digits.iter().for_each(|digit| bytes.extend(digit.to_be_bytes()));
        bytes
    }

    #[test]
    fn every_digit_arrives() {
        /// Digits, weight, sign, (precision, scale), and the value times 10^scale.
        type Case<'a> = (&'a [u16], i16, u16, (u8, i8), i128);
        let cases: [Case; 10] = [
            (&[], 0, 0, (10, 2), 0),
            (&[1], 0, 0, (10, 2), 100),
            (&[1, 5000], 0, 0, (10, 2), 150),
            (&[1234, 5600], 0, NEGATIVE, (10, 2), -123_456),
            (&[1], 2, 0, (18, 0), 100_000_000),
            (&[5], -1, 0, (4, 4), 5),
            (&[5000], -2, 0, (9, 9), 50_000),
            (&[9999, 9999, 9999, 9999], 3, 0, (16, 0), 9_999_999_999_999_999),
            (&[1, 2], 5, 0, (30, 3), (POWERS[20] + 2 * POWERS[16]) * 1000),
            // 37 digits before the point and one after: 11 groups.
            (
                &[9, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9000],
                9,
                0,
                (38, 1),
                POWERS[38] - 1,
            ),
        ];
        for (digits, weight, sign, (precision, scale), expected) in cases {
            let value = decode(&wire(digits, weight, sign), precision, scale);
            assert_eq!(value, Ok(expected), "{digits:?} {weight}");
            if precision <= 18 {
                let value = decode64(&wire(digits, weight, sign), precision, scale);
                assert_eq!(value.map(i128::from), Ok(expected), "{digits:?} {weight}");
            }
        }
    }

    #[test]
    fn what_a_decimal_cannot_hold_is_said_not_rounded() {
        for (bytes, shown) in [
            (wire(&[], 0, NAN), "NaN"),
            (wire(&[], 0, INFINITY), "Infinity"),
            (wire(&[], 0, NEGATIVE_INFINITY), "-Infinity"),
            (wire(&[1, 50], 0, 0), "a number beyond decimal(4,1)"),
            (wire(&[1], -9, 0), "a number beyond decimal(4,1)"),
            (wire(&[1000], 0, 0), "a number beyond decimal(4,1)"),
            (wire(&[1], i16::MAX, 0), "a number beyond decimal(4,1)"),
            (wire(&[9999; 40], 39, 0), "a number beyond decimal(4,1)"),
        ] {
            let error = decode64(&bytes, 4, 1).unwrap_err();
            assert_eq!(decode(&bytes, 4, 1).unwrap_err(), error);
            assert_eq!(error, CellError::Unrepresentable(shown.to_owned()));
        }
        for bytes in [vec![], wire(&[10_000], 0, 0), wire(&[1], 0, 7), vec![0, 9, 0, 0, 0, 0, 0, 0]]
        {
            assert!(matches!(decode(&bytes, 4, 1), Err(CellError::Bad(_))));
            assert!(matches!(decode64(&bytes, 4, 1), Err(CellError::Bad(_))));
        }
    }
}
