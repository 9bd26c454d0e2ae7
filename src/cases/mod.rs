//! The case table: work that a kernel can get wrong, small enough that the f64 oracle answers the whole table at once.
//!
//! Sizes are one below, at and one above the tiles; masks hide whole rows; hidden entries are NaN, infinities and
//! 1e30. The numbers come from a generator seeded by the case's name, so a case never changes because another does.

mod attention;
mod cache;
mod coverage;
mod linear;
mod primitives;
mod recurrent;

pub use attention::{AttentionCase, attention};
pub use cache::{AppendCase, MergeCase, appends, merges};
pub use coverage::{CoverageCase, coverage};
pub use linear::{ACTIVATIONS, LinearCase, linear};
pub use primitives::{Primitive, PrimitiveCase, PrimitiveOutputs, primitives};
pub use recurrent::{RnnCase, recurrent};

use crate::tensor::{Array, DType};

/// SplitMix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators").
struct Random(u64);

impl Random {
    /// Seeded by a name (FNV-1a).
    fn new(name: &str) -> Self {
        Self(
            name.bytes()
                .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)),
        )
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 … below − 1.
    fn below(&mut self, below: usize) -> usize {
        (((self.next() >> 32) * below as u64) >> 32) as usize
    }

    /// Uniform in ±`size`.
    fn uniform(&mut self, size: f32) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1 << 24) as f32;
        (2.0 * unit - 1.0) * size
    }

    /// Uniform with variance 1.
    fn array(&mut self, shape: &[usize]) -> Array<f32> {
        Array::from_fn(shape, |_| self.uniform(1.732))
    }

    /// Whole numbers in ±`size`, whose products and sums are exact.
    fn whole(&mut self, shape: &[usize], size: usize) -> Array<f32> {
        Array::from_fn(shape, |_| self.below(2 * size + 1) as f32 - size as f32)
    }

    /// 1 with the given chance in 16, else 0.
    fn mask(&mut self, shape: &[usize], sixteenths: usize) -> Array<u32> {
        Array::from_fn(shape, |_| u32::from(self.below(16) < sixteenths))
    }
}

/// Whether arrays can be stored as q8: no row ends within a block.
pub fn in_blocks(arrays: &[&Array<f32>]) -> bool {
    let block = DType::Q8.block();
    arrays.iter().all(|array| array.shape().last().is_some_and(|n| n % block == 0))
}

/// What hidden entries are filled with.
const POISON: [f32; 5] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30];
