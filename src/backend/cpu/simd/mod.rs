//! Vectors of f32 in the instruction sets that processors have.
//!
//! Kernels are written once, over [`Simd`], and compiled for each instruction set; [`Level::run`] picks one when the program
//! runs. Everything between it and a vector instruction has to be inlined, or it would not be compiled for that set.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::{bf16, f16};

/// Instructions over vectors of [`Simd::LANES`] f32. Whoever holds a value knows that the processor has them.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// f32 in a vector.
    const LANES: usize;
    /// Rows of the largest tile of a product whose sums, two vectors a row, stay in registers.
    const ROWS: usize;
    /// A vector.
    type V: Copy;
    /// A truth for each lane.
    type M: Copy;

    /// Runs a kernel as a function of its own, compiled for this instruction set: what is inlined everywhere is compiled as
    /// often.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// The same in all lanes.
    fn splat(self, x: f32) -> Self::V;

    /// # Safety
    /// `p` can be read for [`Simd::LANES`] elements.
    unsafe fn load(self, p: *const f32) -> Self::V;

    /// # Safety
    /// `p` can be written for [`Simd::LANES`] elements.
    unsafe fn store(self, p: *mut f32, v: Self::V);

    /// a + b.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a − b.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once where the processor can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of two; b where b is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of two; b where b is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest whole number, the even one of two.
    fn round(self, a: Self::V) -> Self::V;
    /// a · 2ⁿ of a whole n in ±250, with one rounding where the result is below normal numbers.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;
    /// a < b.
    fn less(self, a: Self::V, b: Self::V) -> Self::M;
    /// `yes` where m is true, else `no`.
    fn select(self, m: Self::M, yes: Self::V, no: Self::V) -> Self::V;

    /// All lanes, into the first `LANES` elements.
    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; 16] {
        let mut lanes = [0.0; 16];
        // SAFETY: no vector is longer than 16.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        lanes
    }

    /// The sum of all lanes: halves added until one is left.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        self.fold(v, |a, b| a + b)
    }

    /// Halves joined until one lane is left.
    #[inline(always)]
    fn fold(self, v: Self::V, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = self.lanes(v);
        let mut half = Self::LANES / 2;
        while half > 0 {
            for k in 0..half {
                lanes[k] = f(lanes[k], lanes[k + half]);
            }
            half /= 2;
        }
        lanes[0]
    }

    /// The first `n` elements, and 0 behind them.
    ///
    /// # Safety
    /// `p` can be read for `n` elements, at most [`Simd::LANES`].
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::V {
        let mut lanes = [0.0f32; 16];
        // SAFETY: as the caller's; the array holds any vector.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            self.load(lanes.as_ptr())
        }
    }

    /// The first `n` elements.
    ///
    /// # Safety
    /// `p` can be written for `n` elements, at most [`Simd::LANES`].
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, v: Self::V, n: usize) {
        let lanes = self.lanes(v);
        // SAFETY: as the caller's.
        unsafe { std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n) }
    }

    /// # Safety
    /// `p` can be read for [`Simd::LANES`] elements.
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> Self::V {
        let mut lanes = [0.0f32; 16];
        for (k, lane) in lanes.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: as the caller's.
            *lane = unsafe { *p.add(k) }.to_f32();
        }
        // SAFETY: the array holds any vector.
        unsafe { self.load(lanes.as_ptr()) }
    }

    /// # Safety
    /// `p` can be read for [`Simd::LANES`] elements.
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> Self::V {
        let mut lanes = [0.0f32; 16];
        for (k, lane) in lanes.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: as the caller's.
            *lane = unsafe { *p.add(k) }.to_f32();
        }
        // SAFETY: the array holds any vector.
        unsafe { self.load(lanes.as_ptr()) }
    }

    /// # Safety
    /// `p` can be read for [`Simd::LANES`] elements.
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::V {
        let mut lanes = [0.0f32; 16];
        for (k, lane) in lanes.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: as the caller's.
            *lane = f32::from(unsafe { *p.add(k) });
        }
        // SAFETY: the array holds any vector.
        unsafe { self.load(lanes.as_ptr()) }
    }
}

/// Code over any instruction set. `run` and all that it calls have to be `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;

    /// Runs it.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// 16 lanes.
    #[cfg(all(target_arch = "x86_64", avx512))]
    Avx512,
    /// 8 lanes, with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 4 lanes.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// 4 lanes.
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128,
    /// Whatever the compiler makes of arrays of 8.
    Portable,
}

impl Level {
    /// Every level that this processor has, best first.
    pub(crate) fn all() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(all(target_arch = "x86_64", avx512))]
        if x86::has_avx512() {
            found.push(Self::Avx512);
        }
        #[cfg(target_arch = "x86_64")]
        if x86::has_avx2() {
            found.push(Self::Avx2);
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Self::Neon);
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        found.push(Self::Simd128);
        found.push(Self::Portable);
        found
    }

    /// The best of them.
    pub(crate) fn best() -> Self {
        Self::all()[0]
    }

    /// The name that people know it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(all(target_arch = "x86_64", avx512))]
            Self::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "NEON",
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => "SIMD128",
            Self::Portable => "portable",
        }
    }

    /// f32 in a vector.
    pub(crate) fn lanes(self) -> usize {
        self.run(Size(|[lanes, _]| lanes))
    }

    /// Rows of the largest tile.
    pub(crate) fn rows(self) -> usize {
        self.run(Size(|[_, rows]| rows))
    }

    /// Runs code compiled for this level.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: a level is made only where the processor has it.
            #[cfg(all(target_arch = "x86_64", avx512))]
            Self::Avx512 => unsafe { x86::run_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Self::Neon => unsafe { neon::run(kernel) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => wasm::Simd128.call(kernel),
            Self::Portable => portable::Portable.call(kernel),
        }
    }
}

/// One of the sizes of an instruction set.
struct Size(fn([usize; 2]) -> usize);

impl Kernel for Size {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        self.0([S::LANES, S::ROWS])
    }
}

/// Bytes of the second-level cache of a core: as the processor says, else what most have at least.
pub(crate) fn second_level_cache() -> usize {
    const USUAL: usize = 512 << 10;
    #[cfg(target_arch = "x86_64")]
    return x86::second_level_cache().unwrap_or(USUAL);
    #[cfg(not(target_arch = "x86_64"))]
    USUAL
}

#[cfg(test)]
mod tests;
