//! Arrays of 8, which a compiler turns into what vectors there are. Without fused multiply-adds: where there are none, they
//! are calls.

use super::{Kernel, Simd};

#[derive(Clone, Copy)]
pub(super) struct Portable;

const N: usize = 8;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; N] {
    let mut out = [0.0; N];
    for (k, out) in out.iter_mut().enumerate() {
        *out = f(k);
    }
    out
}

impl Simd for Portable {
    const LANES: usize = N;
    const ROWS: usize = 3;
    type V = [f32; N];
    type M = [bool; N];

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [f32; N] {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; N] {
        // SAFETY: as the caller's.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; N]) {
        // SAFETY: as the caller's.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn add(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(|k| a[k] + b[k])
    }
    #[inline(always)]
    fn sub(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(|k| a[k] - b[k])
    }
    #[inline(always)]
    fn mul(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(|k| a[k] * b[k])
    }
    #[inline(always)]
    fn div(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(|k| a[k] / b[k])
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        each(|k| a[k] * b[k] + c[k])
    }
    #[inline(always)]
    fn max(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(|k| if a[k] > b[k] { a[k] } else { b[k] })
    }
    #[inline(always)]
    fn min(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(|k| if a[k] < b[k] { a[k] } else { b[k] })
    }
    #[inline(always)]
    fn round(self, a: [f32; N]) -> [f32; N] {
        // 1.5 · 2²³: what is added to it has no digits behind the point. Exact for |a| up to 2²².
        const WHOLE: f32 = 12_582_912.0;
        each(|k| (a[k] + WHOLE) - WHOLE)
    }
    #[inline(always)]
    fn scale(self, a: [f32; N], n: [f32; N]) -> [f32; N] {
        each(|k| {
            let half = n[k] as i32 >> 1;
            let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
            a[k] * power(half) * power(n[k] as i32 - half)
        })
    }
    #[inline(always)]
    fn less(self, a: [f32; N], b: [f32; N]) -> [bool; N] {
        let mut out = [false; N];
        for (k, out) in out.iter_mut().enumerate() {
            *out = a[k] < b[k];
        }
        out
    }
    #[inline(always)]
    fn select(self, m: [bool; N], yes: [f32; N], no: [f32; N]) -> [f32; N] {
        each(|k| if m[k] { yes[k] } else { no[k] })
    }
}
