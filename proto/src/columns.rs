//! Which column of which relation a field of a DoPut's Arrow schema is: what
//! lasts when the column is renamed.
//!
//! Optional for a source. Without both keys, or with another relation than a
//! table was last filled from, names decide.

/// Key of the schema's metadata: the relation that the columns are of. Any
/// text that no other relation has, or ever had. From PostgreSQL:
/// `<system identifier>/<oid of the database>/<oid of the relation>`.
pub const RELATION: &str = "tidewater.relation";

/// Key of a field's metadata: a decimal 32-bit integer that no other column of
/// the relation has, or ever had. From PostgreSQL: `attnum`.
pub const COLUMN: &str = "tidewater.column";

/// Key of a field's metadata, whatever its value: the column (Binary) that says
/// which values of a change are not in it, after the three of row_metadata. Bit
/// `i % 8`, from the lowest, of byte `i / 8` stands for the source's column `i`,
/// whose value is then null; no bits, or null: all are there. The bit after those of
/// all columns stands for a change of the key: of a delete, that the next change of the
/// stream is what the row became; of an update, that what it lacks the row had under
/// the key of the change before it.
pub const UNCHANGED: &str = "tidewater.unchanged";

/// The places that the bits of an [`UNCHANGED`] value stand for, ascending.
pub fn unchanged(bits: &[u8]) -> impl Iterator<Item = usize> {
    let set = |byte: u8| (0..8).filter(move |bit| byte >> bit & 1 == 1);
    bits.iter().enumerate().flat_map(move |(at, byte)| set(*byte).map(move |bit| at * 8 + bit))
}

/// The bits that stand for these places; as many bytes as they need.
pub fn unchanged_bits(places: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let mut bits = Vec::new();
    for place in places {
        if bits.len() <= place / 8 {
            bits.resize(place / 8 + 1, 0);
        }
        bits[place / 8] |= 1 << (place % 8);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_stand_for_places_both_ways() {
        for places in [&[][..], &[0], &[7, 8, 1599], &[3, 4, 5, 16]] {
            let bits = unchanged_bits(places.iter().copied());
            assert_eq!(unchanged(&bits).collect::<Vec<_>>(), places);
        }
        assert_eq!(unchanged_bits([0, 9]), [1, 2]);
    }
}
