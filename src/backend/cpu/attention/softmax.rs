//! Between the two products: from scores to weights.

use super::call::Call;
use super::tile::{LANES, Tile};
use crate::backend::cpu::math;
use crate::backend::cpu::simd::{Kernel, Simd};

/// Scores of [count, W · LANES] as they go into the softmax, −∞ where hidden, and the largest of each lane. Where every query
/// sees all keys and nothing is added, they stay as they are, without the scale.
pub(super) struct Prepare<'a, const W: usize> {
    pub(super) call: &'a Call<'a>,
    pub(super) tile: &'a mut Tile,
    pub(super) scores: &'a mut [f32],
    /// What masks add, [count, W · LANES], if there are any.
    pub(super) biases: Option<&'a [f32]>,
    /// The first key, and how many.
    pub(super) from: usize,
    pub(super) count: usize,
}

impl<const W: usize> Kernel for Prepare<'_, W> {
    /// Whether the scores were written.
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let Self { call, tile, scores, biases, from, count } = self;
        let lanes = W * S::LANES;
        let mut max = [s.splat(f32::NEG_INFINITY); W];
        let scale = s.splat(call.scale);
        let sees_all = tile.sees_all(from, from + count);
        if sees_all && biases.is_none() && call.softcap.is_none() && call.slopes.is_none() {
            for row in scores.chunks_exact(lanes) {
                for (w, max) in max.iter_mut().enumerate() {
                    *max = s.max(s.mul(vector(s, row, w * S::LANES), scale), *max);
                }
            }
            tile.seen = [1.0; LANES];
            put(s, &max, &mut tile.block_max);
            return false;
        }
        // Keys by their number from `from` on: exact in f32.
        let relative = |key: usize| (key.clamp(from, from + count) - from) as f32;
        let low = tile.spans.map(|span| relative(span.low));
        let high = tile.spans.map(|span| relative(span.high));
        let sinks = [0, 1].map(|end| tile.spans.map(|span| relative(span.sinks[end])));
        let own = tile.spans.map(|span| (span.own - from as i64) as f32);
        let has_sinks = tile.spans.iter().any(|span| span.sinks[0] < span.sinks[1]);
        let mut all_seen = [s.splat(0.0); W];
        for (j, row) in scores.chunks_exact_mut(lanes).enumerate() {
            let key = s.splat(j as f32);
            for (w, max) in max.iter_mut().enumerate() {
                let at = w * S::LANES;
                let mut x = s.mul(vector(s, row, at), scale);
                if let Some(cap) = call.softcap {
                    x = s.mul(s.splat(cap), math::tanh(s, s.div(x, s.splat(cap))));
                }
                if call.slopes.is_some() {
                    let distance = math::abs(s, s.sub(vector(s, &own, at), key));
                    x = s.sub(x, s.mul(vector(s, &tile.slopes, at), distance));
                }
                let mut seen = s.splat(1.0);
                if !sees_all {
                    seen = inside(s, key, vector(s, &low, at), vector(s, &high, at));
                    if has_sinks {
                        let sinks = inside(s, key, vector(s, &sinks[0], at), vector(s, &sinks[1], at));
                        seen = s.max(seen, sinks);
                    }
                }
                if let Some(biases) = biases {
                    let bias = vector(s, biases, j * lanes + at);
                    x = s.add(x, bias);
                    seen = s.select(s.less(bias, s.splat(f32::MIN)), s.splat(0.0), seen);
                }
                x = s.select(s.less(seen, s.splat(0.5)), s.splat(f32::NEG_INFINITY), x);
                *max = s.max(x, *max);
                all_seen[w] = s.max(seen, all_seen[w]);
                // SAFETY: the slice is a vector long.
                unsafe { s.store(row[at..at + S::LANES].as_mut_ptr(), x) };
            }
        }
        for (w, seen) in all_seen.iter_mut().enumerate() {
            *seen = s.max(*seen, vector(s, &tile.seen, w * S::LANES));
        }
        put(s, &all_seen, &mut tile.seen);
        put(s, &max, &mut tile.block_max);
        true
    }
}

/// p = e^((s − m') / τ), in place, and the state of the tile after it.
pub(super) struct Exponentials<'a, const W: usize> {
    pub(super) call: &'a Call<'a>,
    pub(super) tile: &'a mut Tile,
    pub(super) scores: &'a mut [f32],
    /// Whether the scale is in them.
    pub(super) prepared: bool,
}

impl<const W: usize> Kernel for Exponentials<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { call, tile, scores, prepared } = self;
        let scale = s.splat(if prepared { 1.0 } else { call.scale });
        let zero = s.splat(0.0);
        for w in 0..W {
            let at = w * S::LANES;
            let before = vector(s, &tile.max, at);
            let max = s.max(vector(s, &tile.block_max, at), before);
            // −∞ as long as every key was hidden, or its score was −∞: then nothing is there to weigh.
            let base = s.select(s.less(max, s.splat(f32::MIN)), zero, max);
            let factor = power(s, s.sub(before, base), call.temperature, 0.0);
            let mut sums = [zero; 2];
            for (j, row) in scores.chunks_exact_mut(W * S::LANES).enumerate() {
                let x = s.sub(s.mul(vector(s, row, at), scale), base);
                let weight = power(s, x, call.temperature, call.halvings);
                sums[j % 2] = s.add(sums[j % 2], weight);
                // SAFETY: the slice is a vector long.
                unsafe { s.store(row[at..at + S::LANES].as_mut_ptr(), weight) };
            }
            let sum = s.mul_add(vector(s, &tile.sum, at), factor, s.add(sums[0], sums[1]));
            put(s, &[sum], &mut tile.sum[at..]);
            put(s, &[max], &mut tile.max[at..]);
            put(s, &[factor], &mut tile.factors[at..]);
        }
    }
}

/// What masks add to the scores of a tile, [count, lanes]; none without masks.
pub(super) fn biases<'b>(
    call: &Call<'_>,
    b: usize,
    tile: &Tile,
    lanes: usize,
    (from, count): (usize, usize),
    room: &'b mut [f32],
) -> Option<&'b [f32]> {
    for (n, mask) in call.masks.iter().enumerate() {
        for (j, row) in room[..count * lanes].chunks_exact_mut(lanes).enumerate() {
            let bias = |lane: usize| {
                let (head, query) = tile.places[lane];
                mask.bias([b, head, query, from + j])
            };
            if n == 0 && mask.is_of_keys() {
                row.fill(bias(0));
                continue;
            }
            for (lane, x) in row.iter_mut().enumerate() {
                let bias = bias(lane);
                *x = match n {
                    0 => bias,
                    _ if bias == f32::NEG_INFINITY || *x == f32::NEG_INFINITY => f32::NEG_INFINITY,
                    _ => *x + bias,
                };
            }
        }
    }
    (!call.masks.is_empty()).then_some(room)
}

/// Vectors into the first elements of an array of lanes.
#[inline(always)]
fn put<S: Simd>(s: S, vectors: &[S::V], into: &mut [f32]) {
    for (&vector, into) in vectors.iter().zip(into.chunks_exact_mut(S::LANES)) {
        // SAFETY: the chunk is a vector long.
        unsafe { s.store(into.as_mut_ptr(), vector) };
    }
}

/// e^(x / τ) / 2^halvings.
#[inline(always)]
fn power<S: Simd>(s: S, x: S::V, temperature: Option<f32>, halvings: f32) -> S::V {
    let x = match temperature {
        Some(temperature) => s.div(x, s.splat(temperature)),
        None => x,
    };
    math::exp_halved(s, x, halvings)
}

/// 1 where low ≤ key < high, else 0.
#[inline(always)]
fn inside<S: Simd>(s: S, key: S::V, low: S::V, high: S::V) -> S::V {
    let zero = s.splat(0.0);
    s.select(s.less(key, low), zero, s.select(s.less(key, high), s.splat(1.0), zero))
}

/// The vector from element `at` on.
#[inline(always)]
pub(super) fn vector<S: Simd>(s: S, from: &[f32], at: usize) -> S::V {
    // SAFETY: the slice is a vector long.
    unsafe { s.load(from[at..at + S::LANES].as_ptr()) }
}

/// x · factor; 0 where the factor is, whatever x.
#[inline(always)]
pub(super) fn scaled<S: Simd>(s: S, x: S::V, factor: S::V) -> S::V {
    s.select(s.less(factor, s.splat(f32::from_bits(1))), s.splat(0.0), s.mul(x, factor))
}

/// Whether all are finite: x − x is 0 then, else NaN.
#[inline(always)]
pub(super) fn all_finite<S: Simd>(s: S, values: &[f32]) -> bool {
    let mut sum = [s.splat(0.0); 4];
    let chunks = values.chunks_exact(4 * S::LANES);
    let rest = chunks.remainder().iter().all(|x| x.is_finite());
    for chunk in chunks {
        for (k, sum) in sum.iter_mut().enumerate() {
            // SAFETY: a chunk has four vectors.
            let x = unsafe { s.load(chunk.as_ptr().add(k * S::LANES)) };
            *sum = s.add(*sum, s.sub(x, x));
        }
    }
    rest && s.sum(s.add(s.add(sum[0], sum[1]), s.add(sum[2], sum[3]))) == 0.0
}
