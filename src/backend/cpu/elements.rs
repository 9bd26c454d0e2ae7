//! Tensors as the CPU holds them: f32, or stored in less, and read as f32.

use half::{bf16, f16};

use super::simd::Simd;
use crate::q8;

/// Elements one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Elements<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    /// Blocks of [`q8`].
    Q8(&'a [u32]),
}

impl Elements<'_> {
    /// Elements `first .. first + into.len()` as f32. Of q8 `first` begins a block, and whole blocks are read.
    #[inline(always)]
    pub(crate) fn read<S: Simd>(self, s: S, first: usize, into: &mut [f32]) {
        let count = into.len();
        match self {
            Self::F32(from) => into.copy_from_slice(&from[first..first + count]),
            Self::F16(from) => {
                let from = &from[first..first + count];
                let whole = count / S::LANES * S::LANES;
                for k in (0..whole).step_by(S::LANES) {
                    // SAFETY: k + LANES is at most the length of both.
                    unsafe { s.store(into.as_mut_ptr().add(k), s.load_f16(from.as_ptr().add(k))) };
                }
                into[whole..].iter_mut().zip(&from[whole..]).for_each(|(into, x)| *into = x.to_f32());
            }
            Self::Bf16(from) => {
                let from = &from[first..first + count];
                let whole = count / S::LANES * S::LANES;
                for k in (0..whole).step_by(S::LANES) {
                    // SAFETY: k + LANES is at most the length of both.
                    unsafe { s.store(into.as_mut_ptr().add(k), s.load_bf16(from.as_ptr().add(k))) };
                }
                into[whole..].iter_mut().zip(&from[whole..]).for_each(|(into, x)| *into = x.to_f32());
            }
            Self::Q8(words) => {
                let words = &words[first / q8::BLOCK * q8::WORDS..][..count.div_ceil(q8::BLOCK) * q8::WORDS];
                for (into, words) in into.chunks_mut(q8::BLOCK).zip(words.chunks_exact(q8::WORDS)) {
                    let scale = s.splat(f32::from_bits(words[0]));
                    let bytes = words[1..].as_ptr().cast::<i8>();
                    let mut block = [0.0f32; q8::BLOCK];
                    for k in (0..q8::BLOCK).step_by(S::LANES) {
                        // SAFETY: a block has as many bytes behind its scale as the array has elements; LANES divides 32.
                        unsafe { s.store(block.as_mut_ptr().add(k), s.mul(scale, s.load_i8(bytes.add(k)))) };
                    }
                    into.copy_from_slice(&block[..into.len()]);
                }
            }
        }
    }
}
