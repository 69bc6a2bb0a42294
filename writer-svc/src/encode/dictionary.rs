//! The distinct values of a column chunk, each with its index.

/// Slots of an empty table.
const SLOTS: usize = 1 << 10;
const FREE: u32 = u32::MAX;

/// Values in the order of their first appearance.
pub(super) struct Dictionary {
    /// Indices of values, each near where its hash says; at most half in use.
    slots: Vec<u32>,
    hashes: Vec<u64>,
    /// Of numbers: the values' bits.
    numbers: Vec<u64>,
    /// All values, as PLAIN has them.
    plain: Vec<u8>,
    /// Where each value begins in `plain`, behind its length if it has one.
    starts: Vec<usize>,
    /// Unknown to who writes the values, so that he cannot make them collide.
    seed: u64,
}

impl Dictionary {
    pub(super) fn new() -> Self {
        let seed = uuid::Uuid::new_v4().as_u64_pair().0 | 1;
        let slots = vec![FREE; SLOTS];
        let (hashes, numbers, plain, starts) = Default::default();
        Dictionary { slots, hashes, numbers, plain, starts, seed }
    }

    /// Distinct values.
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// The values as PLAIN has them.
    pub(super) fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// The index of a number, by its little-endian bytes.
    #[inline]
    pub(super) fn number<const WIDTH: usize>(&mut self, bytes: [u8; WIDTH]) -> u32 {
        let mut wide = [0; 8];
        wide[..WIDTH].copy_from_slice(&bytes);
        let bits = u64::from_le_bytes(wide);
        let hash = mix(bits ^ self.seed, self.seed);
        match self.find(hash, |known, index| known.numbers[index] == bits) {
            Ok(index) => index,
            Err(slot) => {
                self.numbers.push(bits);
                self.plain.extend_from_slice(&bytes);
                self.insert(slot, hash)
            }
        }
    }

    /// The index of a value that PLAIN stores behind its length.
    #[inline]
    pub(super) fn bytes(&mut self, value: &[u8]) -> u32 {
        let hash = self.hash(value);
        let same = |known: &Self, index: usize| {
            let start = known.starts[index];
            known.plain[start - 4..start] == (value.len() as u32).to_le_bytes()
                && known.plain[start..start + value.len()] == *value
        };
        match self.find(hash, same) {
            Ok(index) => index,
            Err(slot) => {
                self.plain.extend_from_slice(&(value.len() as u32).to_le_bytes());
                self.starts.push(self.plain.len());
                self.plain.extend_from_slice(value);
                self.insert(slot, hash)
            }
        }
    }

    #[inline]
    fn hash(&self, value: &[u8]) -> u64 {
        let mut hash = mix(value.len() as u64 ^ self.seed, self.seed);
        let mut words = value.chunks_exact(8);
        for word in &mut words {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            hash = mix(hash ^ word, self.seed);
        }
        let rest = words.remainder().iter().rev();
        let rest = rest.fold(0, |bits, byte| (bits << 8) | u64::from(*byte));
        mix(hash ^ rest, self.seed)
    }

    /// The index of the value with this hash, or the slot for it.
    #[inline]
    fn find(&self, hash: u64, same: impl Fn(&Self, usize) -> bool) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let index = self.slots[slot];
            if index == FREE {
                return Err(slot);
            }
            if self.hashes[index as usize] == hash && same(self, index as usize) {
                return Ok(index);
            }
            slot = (slot + 1) & mask;
        }
    }

    fn insert(&mut self, slot: usize, hash: u64) -> u32 {
        let index = self.hashes.len() as u32;
        self.slots[slot] = index;
        self.hashes.push(hash);
        if self.hashes.len() * 2 > self.slots.len() {
            let mut slots = vec![FREE; self.slots.len() * 2];
            let mask = slots.len() - 1;
            for (index, hash) in (0..).zip(&self.hashes) {
                let mut slot = *hash as usize & mask;
                while slots[slot] != FREE {
                    slot = (slot + 1) & mask;
                }
                slots[slot] = index;
            }
            self.slots = slots;
        }
        index
    }
}

/// Both halves of a product, folded.
#[inline]
fn mix(value: u64, seed: u64) -> u64 {
    let product = u128::from(value) * u128::from(seed ^ 0x9E37_79B9_7F4A_7C15);
    (product as u64) ^ ((product >> 64) as u64)
}
