//! What the processor can do at most, measured: ceilings to hold figures against.

use crate::clock::Instant;
use std::hint::black_box;

use super::Cpu;
use super::simd::{Kernel, Simd};

/// Ceilings of a processor with all of its threads.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct CpuRates {
    /// Multiply-adds in registers, two operations each, in 10⁹ a second.
    pub gflops: f64,
    /// Bytes read and written by a copy of 128 MiB, which few caches hold, in 10⁹ a second.
    pub gbps: f64,
}

/// Sums that wait for themselves alone: as many as registers hold, which hides the time of a multiply-add.
const SUMS: usize = 16;
/// The same where there are 16 registers.
const FEW_SUMS: usize = 12;
/// Multiply-adds of vectors in a measurement: a multiple of both.
const ADDS: usize = 4_800_000;
/// Bytes of a copy.
const COPIED: usize = 128 << 20;
/// Measurements, of which the fastest counts.
const TRIES: usize = 5;

struct MultiplyAdds;

impl Kernel for MultiplyAdds {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if S::ROWS < SUMS / 2 { multiply_adds::<S, FEW_SUMS>(s) } else { multiply_adds::<S, SUMS>(s) }
    }
}

/// Multiply-adds of N sums, as many in all whatever N.
#[inline(always)]
fn multiply_adds<S: Simd, const N: usize>(s: S) {
    let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
    let mut sums = [b; N];
    for _ in 0..ADDS / N {
        for sum in &mut sums {
            *sum = s.mul_add(*sum, a, b);
        }
    }
    let total = sums.iter().skip(1).fold(sums[0], |total, &sum| s.add(total, sum));
    black_box(s.sum(total));
}

impl Cpu {
    /// Measures what the processor can do; some tenths of a second.
    pub fn rates(&self) -> CpuRates {
        let threads = self.thread_count();
        let each = |f: &(dyn Fn(&mut [u8], &[u8]) + Sync), to: &mut [u8], from: &[u8]| {
            let size = from.len().div_ceil(threads).max(1);
            let parts = to.chunks_mut(size).zip(from.chunks(size)).collect();
            let start = Instant::now();
            self.threads().each(usize::MAX, parts, |(to, from): (&mut [u8], &[u8])| f(to, from));
            start.elapsed().as_secs_f64()
        };
        let fastest = |f: &(dyn Fn(&mut [u8], &[u8]) + Sync), to: &mut [u8], from: &[u8]| {
            (0..TRIES).map(|_| each(f, to, from)).fold(f64::INFINITY, f64::min)
        };
        let operations = 2 * ADDS * self.processor().lanes * threads;
        let seconds = fastest(&|_, _| self.level().run(MultiplyAdds), &mut vec![0; threads], &vec![0; threads]);
        let (mut to, from) = (vec![0u8; COPIED], vec![1u8; COPIED]);
        let copy = fastest(&|to: &mut [u8], from: &[u8]| to.copy_from_slice(from), &mut to, &from);
        black_box(to);
        CpuRates { gflops: operations as f64 / seconds / 1e9, gbps: 2.0 * COPIED as f64 / copy / 1e9 }
    }
}
