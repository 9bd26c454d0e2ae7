//! From scores to weights, along the last axis.

use super::{Float, parallel};
use crate::error::{Error, Result};
use crate::tensor::Array;

/// exp(x − max) / Σ exp(x − max) of each row.
///
/// # Errors
/// [`Error::Shape`] for an array without axes.
pub fn softmax<T: Float>(x: &Array<T>) -> Result<Array<T>> {
    rows(x, |row| {
        let lse = log_sum_exp(row, None);
        softmax_row(row, lse);
    })
}

/// x − max − ln Σ exp(x − max) of each row.
///
/// # Errors
/// [`Error::Shape`] for an array without axes.
pub fn log_softmax<T: Float>(x: &Array<T>) -> Result<Array<T>> {
    rows(x, |row| {
        let LogSumExp { max, sum } = log_sum_exp(row, None);
        let log = sum.ln();
        row.iter_mut().for_each(|x| *x = *x - max - log);
    })
}

/// 1 at the largest element of each row, the first one on ties (ONNX `Hardmax`).
///
/// # Errors
/// [`Error::Shape`] for an array without axes.
pub fn hardmax<T: Float>(x: &Array<T>) -> Result<Array<T>> {
    rows(x, hardmax_row)
}

/// Euclidean projection of each row onto the simplex.
///
/// # Errors
/// [`Error::Shape`] for an array without axes.
pub fn sparsemax<T: Float>(x: &Array<T>) -> Result<Array<T>> {
    rows(x, sparsemax_row)
}

fn rows<T: Float>(x: &Array<T>, f: impl Fn(&mut [T]) + Sync + Send) -> Result<Array<T>> {
    let Some(&width) = x.shape().last() else {
        return Err(Error::shape("x", "rank", "at least 1", 0));
    };
    if x.data().is_empty() {
        return Ok(x.clone());
    }
    let out = parallel::map(x.data().len() / width, |row| {
        let mut row = x.data()[row * width..][..width].to_vec();
        f(&mut row);
        row
    });
    Array::new(x.shape(), out.concat())
}

/// ln Σ exp(x) as two numbers, max and Σ exp(x − max), so that nothing overflows (Higham, "Accuracy and Stability of
/// Numerical Algorithms", §1.14 on shifting).
#[derive(Clone, Copy)]
pub(super) struct LogSumExp<T> {
    pub(super) max: T,
    pub(super) sum: T,
}

impl<T: Float> LogSumExp<T> {
    /// The sum of both; −∞ for no element.
    pub(super) fn value(self) -> T {
        self.max + self.sum.ln()
    }

    /// Both; NaN twice where either is.
    pub(super) fn pair(self) -> [T; 2] {
        if self.sum.is_nan() { [T::NAN; 2] } else { [self.max, T::ZERO + self.sum] }
    }
}

/// Over a row and, if there is one, a sink.
pub(super) fn log_sum_exp<T: Float>(row: &[T], sink: Option<T>) -> LogSumExp<T> {
    let sink = sink.filter(|&sink| sink != T::NEG_INFINITY);
    let all = || sink.into_iter().chain(row.iter().copied());
    let max = all().fold(T::NEG_INFINITY, T::max);
    LogSumExp { max, sum: all().map(|x| (x - max).exp()).sum() }
}

/// exp(x − max) / sum.
pub(super) fn softmax_row<T: Float>(row: &mut [T], LogSumExp { max, sum }: LogSumExp<T>) {
    row.iter_mut().for_each(|x| *x = (*x - max).exp() / sum);
}

/// −Σ w · ln w in nats, 0 · ln 0 being 0 (Shannon 1948).
pub(crate) fn entropy<T: Float>(weights: &[T]) -> T {
    weights.iter().filter(|&&w| w != T::ZERO).fold(T::ZERO, |sum, &w| sum - w * w.ln())
}

/// One-hot at the first of the largest; all NaN if any is.
pub(super) fn hardmax_row<T: Float>(row: &mut [T]) {
    if row.iter().any(|x| x.is_nan()) {
        return row.fill(T::NAN);
    }
    let mut best = 0;
    for j in 1..row.len() {
        if row[j] > row[best] {
            best = j;
        }
    }
    row.fill(T::ZERO);
    if let Some(x) = row.get_mut(best) {
        *x = T::ONE;
    }
}

/// Sparsemax (Martins and Astudillo 2016, algorithm 1): with z sorted downwards, k = max{k : 1 + k·z_k > Σ_{j≤k} z_j},
/// τ = (Σ_{j≤k} z_j − 1) / k, weights max(z − τ, 0). The largest score is subtracted first, which changes nothing.
pub(super) fn sparsemax_row<T: Float>(row: &mut [T]) {
    let max = row.iter().copied().fold(T::NEG_INFINITY, T::max);
    row.iter_mut().for_each(|x| *x = *x - max);
    if row.iter().any(|x| x.is_nan()) {
        return row.fill(T::NAN);
    }
    let mut sorted = row.to_vec();
    sorted.sort_by(|a, b| b.to_f64().total_cmp(&a.to_f64()));
    let (mut count, mut sum, mut threshold) = (T::ZERO, T::ZERO, T::ZERO);
    for z in sorted {
        count += T::ONE;
        sum += z;
        if T::ONE + count * z > sum {
            threshold = (sum - T::ONE) / count;
        }
    }
    row.iter_mut().for_each(|x| *x = (*x - threshold).max(T::ZERO));
}

/// Gumbel noise −ln(−ln u) for key `j` of attention row `row` = (b·Hq + h)·Nq + i, so that argmax(s + noise) draws
/// from softmax(s) (Gumbel 1954; Maddison et al. 2014, "A* Sampling"). u = (k + ½) / 2²³ with k the upper 23 bits of
/// PCG hashes chained over seed, row and key (Jarzynski and Olano 2020, "Hash Functions for GPU Rendering"): exact in
/// f32, and never 0 or 1 (with 24 bits k + ½ would round up to 2²⁴). In f32 whatever the element type, as the kernels
/// do it.
pub fn gumbel(seed: u32, row: u32, j: u32) -> f32 {
    fn pcg(x: u32) -> u32 {
        let state = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
        (word >> 22) ^ word
    }
    let k = pcg(pcg(pcg(seed) ^ row) ^ j) >> 9;
    let u = (k as f32 + 0.5) / 8_388_608.0;
    -(-u.ln()).ln()
}
