//! Parquet's encodings of small integers
//! (`parquet-format/Encodings.md`: RLE / bit-packing hybrid, DELTA_BINARY_PACKED).

use arrow::buffer::BooleanBuffer;

/// Values of a block of differences, and of each of its miniblocks.
const BLOCK: usize = 128;
const MINIBLOCK: usize = 32;

/// Definition levels of a nullable column that is not nested: 1 where there is
/// a value. `nulls`: how many there are not.
pub(super) fn levels(valid: &BooleanBuffer, nulls: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    if nulls == 0 || nulls == valid.len() {
        varint((valid.len() as u64) << 1, out);
        out.push(u8::from(nulls == 0));
    } else {
        // A bitmap is what the hybrid has for bits.
        let groups = valid.len().div_ceil(8);
        varint(((groups as u64) << 1) | 1, out);
        out.extend_from_slice(&valid.sliced()[..groups]);
    }
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Indices into a dictionary of `entries`, with the width they have before them.
pub(super) fn indices(indices: &[u32], entries: usize, out: &mut Vec<u8>) {
    let width = u64::BITS - (entries.saturating_sub(1) as u64).leading_zeros();
    out.push(width as u8);
    let Some((first, rest)) = indices.split_first() else { return };
    if rest.iter().all(|index| index == first) {
        varint((indices.len() as u64) << 1, out);
        out.extend_from_slice(&first.to_le_bytes()[..width.div_ceil(8) as usize]);
        return;
    }
    let groups = indices.len().div_ceil(8);
    varint(((groups as u64) << 1) | 1, out);
    let padding = std::iter::repeat_n(0, groups * 8 - indices.len());
    pack(indices.iter().map(|index| u64::from(*index)).chain(padding), width, out);
}

/// `count` integers as the differences of each from the one before. `minus`
/// wraps around in the width that is stored.
pub(super) fn differences(
    mut values: impl Iterator<Item = i64>,
    count: usize,
    minus: impl Fn(i64, i64) -> i64,
    out: &mut Vec<u8>,
) {
    let mut previous = values.next().unwrap_or(0);
    for header in [BLOCK as u64, (BLOCK / MINIBLOCK) as u64, count as u64, zigzag(previous)] {
        varint(header, out);
    }
    let mut left = count.saturating_sub(1);
    while left > 0 {
        let mut block = [0_i64; BLOCK];
        let block = &mut block[..left.min(BLOCK)];
        for (difference, value) in block.iter_mut().zip(&mut values) {
            *difference = minus(value, previous);
            previous = value;
        }
        left -= block.len();
        let least = block.iter().copied().min().unwrap_or(0);
        varint(zigzag(least), out);
        let widths = out.len();
        out.extend_from_slice(&[0; BLOCK / MINIBLOCK]);
        for (at, miniblock) in block.chunks(MINIBLOCK).enumerate() {
            let above = |difference: &i64| difference.wrapping_sub(least) as u64;
            let bits = miniblock.iter().map(above).fold(0, |all, one| all | one);
            let width = u64::BITS - bits.leading_zeros();
            out[widths + at] = width as u8;
            let padding = std::iter::repeat_n(0, MINIBLOCK - miniblock.len());
            pack(miniblock.iter().map(above).chain(padding), width, out);
        }
    }
}

/// The low `width` bits of each value, from the lowest bit on.
#[inline]
fn pack(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let (mut word, mut used) = (0_u64, 0);
    values.for_each(|value| {
        word |= value << used;
        used += width;
        if used >= u64::BITS {
            out.extend_from_slice(&word.to_le_bytes());
            used -= u64::BITS;
            word = if used == 0 { 0 } else { value >> (width - used) };
        }
    });
    out.extend_from_slice(&word.to_le_bytes()[..used.div_ceil(8) as usize]);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}
