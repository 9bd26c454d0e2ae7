//! Maps by keys of some machine words: addresses, numbers of slots, sizes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys the crate itself chooses, so that nothing defends it against keys that collide.
pub(crate) type WordMap<K, V> = HashMap<K, V, BuildHasherDefault<WordHasher>>;

/// A polynomial of the words at a large odd number, modulo 2⁶⁴ (as rustc-hash 2 has it).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WordHasher(u64);

const BASE: u64 = 0xf135_7aea_2e62_a9c5;

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = self.0.wrapping_add(word).wrapping_mul(BASE);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        // The high bits depend on all of a word, addresses that differ in their middle bits among them; a map goes by the
        // lowest first.
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neighbouring addresses, as those of buffers are, are told apart by the bits that a map goes by.
    #[test]
    fn addresses_spread_over_the_lowest_and_the_highest_bits() {
        let hash = |address: usize| {
            let mut hasher = WordHasher::default();
            hasher.write_usize(address);
            hasher.finish()
        };
        for step in [16, 48, 112, 4096] {
            let hashes: Vec<u64> = (0..256).map(|k| hash(0x7f3a_5c00_1230_u64 as usize + k * step)).collect();
            let different = |bits: fn(u64) -> u64| {
                hashes.iter().map(|&hash| bits(hash)).collect::<std::collections::HashSet<_>>().len()
            };
            assert!(different(|hash| hash & 0xff) > 100, "{step}");
            assert!(different(|hash| hash >> 57) > 50, "{step}");
        }
    }
}
