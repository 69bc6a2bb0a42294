//! float4 and float8 as PostgreSQL 12 and later write them.
//!
//! The digits are the fewest that read back as the same value, strictly
//! between the midpoints to its neighbours; of several such, the nearest.
//! Ryu's usual form lets a midpoint count where rounding half to even would
//! bring it back; PostgreSQL does not, as not every reader rounds so. These
//! cases are found exactly, and given the digits they need.

use std::io::Write;

/// `digits` × 10^`exponent`, without trailing zeros in `digits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decimal {
    digits: u64,
    exponent: i32,
}

/// Exponents below -4 or from here on are written with `e`.
const FLOAT8_EXPONENT_FORM: i32 = 15;
const FLOAT4_EXPONENT_FORM: i32 = 6;

/// `0.1`, `1e+20`, `-0`, `NaN`, `-Infinity`.
pub fn write_float8(value: f64, out: &mut Vec<u8>) {
    if let Some(word) = special(value) {
        return out.extend_from_slice(word);
    }
    let bits = value.to_bits();
    let (fraction, biased) = (bits & ((1 << 52) - 1), ((bits >> 52) & 0x7ff) as i32);
    let mid = Midpoints::new(fraction, biased, 52, 1075);
    let magnitude = value.abs();
    let shortest = parse(ryu::Buffer::new().format_finite(magnitude));
    let shortest = mid.avoid(
        shortest,
        17,
        |text| text.parse() == Ok(magnitude),
        |digits, to| {
            // Nothing but a full Vec fails, and a Vec grows.
            let _ = write!(to, "{magnitude:.digits$e}");
        },
    );
    write_decimal(value.is_sign_negative(), shortest, FLOAT8_EXPONENT_FORM, out);
}

/// The same for float4.
pub fn write_float4(value: f32, out: &mut Vec<u8>) {
    if let Some(word) = special(value.into()) {
        return out.extend_from_slice(word);
    }
    let bits = value.to_bits();
    let (fraction, biased) = (u64::from(bits & ((1 << 23) - 1)), ((bits >> 23) & 0xff) as i32);
    let mid = Midpoints::new(fraction, biased, 23, 150);
    let magnitude = value.abs();
    let shortest = parse(ryu::Buffer::new().format_finite(magnitude));
    let shortest = mid.avoid(
        shortest,
        9,
        |text| text.parse() == Ok(magnitude),
        |digits, to| {
            let _ = write!(to, "{magnitude:.digits$e}");
        },
    );
    write_decimal(value.is_sign_negative(), shortest, FLOAT4_EXPONENT_FORM, out);
}

fn special(value: f64) -> Option<&'static [u8]> {
    match value {
        _ if value.is_nan() => Some(b"NaN"),
        f64::INFINITY => Some(b"Infinity"),
        f64::NEG_INFINITY => Some(b"-Infinity"),
        _ if value == 0.0 => Some(if value.is_sign_negative() { b"-0" } else { b"0" }),
        _ => None,
    }
}

/// Reads `12.5`, `1e21`, `1.25e-7`: what ryu and `{:e}` write.
fn parse(text: &str) -> Decimal {
    let (shown, scale) = match text.split_once('e') {
        Some((shown, scale)) => (shown, scale.as_bytes()),
        None => (text, &b""[..]),
    };
    let (mut digits, mut exponent, mut point) = (0u64, 0i32, false);
    for byte in shown.bytes() {
        if byte == b'.' {
            point = true;
        } else {
            digits = digits * 10 + u64::from(byte - b'0');
            exponent -= i32::from(point);
        }
    }
    let (sign, rest) = match scale.strip_prefix(b"-") {
        Some(rest) => (-1, rest),
        None => (1, scale),
    };
    let scale = rest.iter().fold(0, |scale, &byte| scale * 10 + i32::from(byte - b'0'));
    Decimal { digits, exponent: exponent + sign * scale }.trimmed()
}

impl Decimal {
    fn trimmed(mut self) -> Self {
        while self.digits != 0 && self.digits.is_multiple_of(10) {
            self.digits /= 10;
            self.exponent += 1;
        }
        self
    }
}

/// The midpoints between a value and its two neighbours, exactly:
/// odd × 2^k each.
struct Midpoints {
    upper: (u64, i32),
    lower: (u64, i32),
    /// Rounding half to even brings the midpoints back to the value.
    even: bool,
}

impl Midpoints {
    /// `fraction` and `biased` exponent of a format with `width` fraction
    /// bits, whose values are mantissa × 2^(biased − bias).
    fn new(fraction: u64, biased: i32, width: u32, bias: i32) -> Self {
        let normal = biased != 0;
        let mantissa = if normal { fraction | (1 << width) } else { fraction };
        let exponent = biased.max(1) - bias;
        // Below a power of two the neighbours lie closer together.
        let closer = fraction == 0 && biased > 1;
        Midpoints {
            upper: (2 * mantissa + 1, exponent - 1),
            lower: if closer {
                (4 * mantissa - 1, exponent - 2)
            } else {
                (2 * mantissa - 1, exponent - 1)
            },
            even: mantissa.is_multiple_of(2),
        }
    }

    fn hit(&self, decimal: Decimal) -> bool {
        self.even && (equal(decimal, self.upper) || equal(decimal, self.lower))
    }

    /// `shortest`, or what replaces it if it is a midpoint. `reads_back` says
    /// whether a text is the value; `round` writes the value with so many
    /// digits after the first.
    fn avoid(
        &self,
        shortest: Decimal,
        max_digits: usize,
        reads_back: impl Fn(&str) -> bool,
        round: impl Fn(usize, &mut Vec<u8>),
    ) -> Decimal {
        if !self.hit(shortest) {
            return shortest;
        }
        let fits = |decimal: Decimal| {
            reads_back(&format!("{}e{}", decimal.digits, decimal.exponent)) && !self.hit(decimal)
        };
        let mut text = Vec::new();
        for digits in 0..max_digits {
            text.clear();
            round(digits, &mut text);
            let nearest = parse(std::str::from_utf8(&text).unwrap_or("0"));
            if fits(nearest) {
                return nearest;
            }
            // Below a power of two the nearest may lie outside, while the next
            // above lies inside.
            if let Some(above) = step_up(&text).filter(|&above| fits(above)) {
                return above;
            }
        }
        shortest
    }
}

/// The next larger number with as many digits as `text`, `1.25e-7`, shows.
fn step_up(text: &[u8]) -> Option<Decimal> {
    let mark = text.iter().position(|&byte| byte == b'e')?;
    let shown = std::str::from_utf8(&text[..mark]).ok()?;
    let places = shown.split_once('.').map_or(0, |(_, places)| places.len());
    let digits: u64 = shown.replace('.', "").parse().ok()?;
    let scale: i32 = std::str::from_utf8(&text[mark + 1..]).ok()?.parse().ok()?;
    Some(Decimal { digits: digits + 1, exponent: scale - places as i32 }.trimmed())
}

/// Whether digits × 10^exponent = odd × 2^k, without rounding.
fn equal(decimal: Decimal, (odd, k): (u64, i32)) -> bool {
    let twos = decimal.digits.trailing_zeros() as i32;
    if decimal.digits == 0 || decimal.exponent + twos != k {
        return false;
    }
    let digits = decimal.digits >> twos;
    // 5^27 is the last below 2^63; beyond, the sides differ in size.
    match (u32::try_from(decimal.exponent), u32::try_from(-decimal.exponent)) {
        (Ok(fives), _) if fives <= 27 => u128::from(digits) * 5u128.pow(fives) == u128::from(odd),
        (_, Ok(fives)) if fives <= 27 => u128::from(digits) == u128::from(odd) * 5u128.pow(fives),
        _ => false,
    }
}

fn write_decimal(negative: bool, decimal: Decimal, exponent_form: i32, out: &mut Vec<u8>) {
    if negative {
        out.push(b'-');
    }
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(decimal.digits).as_bytes();
    let leading = decimal.exponent + digits.len() as i32 - 1;
    if leading < -4 || leading >= exponent_form {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        out.extend_from_slice(if leading < 0 { b"e-" } else { b"e+" });
        if leading.abs() < 10 {
            out.push(b'0');
        }
        out.extend_from_slice(itoa::Buffer::new().format(leading.abs()).as_bytes());
    } else if leading < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', (-leading - 1) as usize));
        out.extend_from_slice(digits);
    } else if decimal.exponent >= 0 {
        out.extend_from_slice(digits);
        out.extend(std::iter::repeat_n(b'0', decimal.exponent as usize));
    } else {
        let (whole, fraction) = digits.split_at(leading as usize + 1);
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(fraction);
    }
}
