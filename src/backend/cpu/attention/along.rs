//! The kernel for few queries: products run along D and Dv. The queries are in the lanes of one vector in between.

use super::call::{Place, Run};
use super::softmax::{Exponentials, Prepare, all_finite, biases, scaled};
use super::tile::{LANES, Scored, Tile};
use crate::backend::cpu::simd::{Kernel, Simd};

/// Few queries, in the lanes of one vector between the products, which run along D and Dv.
#[inline(always)]
pub(super) fn along<S: Simd>(s: S, run: Run<'_>) {
    let Run { call, task, blocks, place, room } = run;
    let (dim, width) = (call.key.width, call.value.width);
    let rows = task.rows[1] - task.rows[0];
    let [scores, mask_room, key_room, value_room] = room.split([
        blocks.keys * S::LANES,
        if call.masks.is_empty() { 0 } else { blocks.keys * S::LANES },
        blocks.keys * dim,
        blocks.keys * width,
    ]);
    let mut tile = Tile::new(call, &task, task.rows[0], rows, task.keys[0] == 0);
    let own_rows = (task.b * call.kv_heads + task.kv_head) * call.rows() + task.rows[0];
    let queries = &call.query[own_rows * dim..][..rows * dim];
    let Place { states, output, weights } = place;
    output.fill(0.0);
    let at = (task.b, task.kv_head);
    // Lanes behind the last query are never written, and read.
    scores.fill(0.0);
    let low = tile.ranges.iter().map(|range| range[0]).min().unwrap_or(0);
    let high = tile.ranges.iter().map(|range| range[1]).max().unwrap_or(0);
    let mut from = low.max(task.keys[0]) / blocks.keys * blocks.keys;
    while from < high.min(task.keys[1]) {
        let (start, end) = (from.max(task.keys[0]), (from + blocks.keys).min(task.keys[1]));
        from += blocks.keys;
        for (low, high) in tile.parts(start, end) {
            let part = high - low;
            let scores = &mut scores[..part * S::LANES];
            let keys = call.key.read(s, at, low, part, key_room);
            s.call(Dots { queries, keys, dim, scores });
            let (from, count) = (low, part);
            let biases = biases(call, task.b, &tile, S::LANES, (from, count), mask_room);
            let prepared = s.call(Prepare::<1> { call, tile: &mut tile, scores, biases, from, count });
            s.call(Exponentials::<1> { call, tile: &mut tile, scores, prepared });
            let values = call.value.read(s, at, low, part, value_room);
            s.call(Weigh { weights: scores, values, width, factors: &tile.factors, output });
        }
    }
    for (lane, state) in states.iter_mut().enumerate() {
        *state = tile.state(lane);
    }
    let Some(weights) = weights else { return };
    for (from, count) in tile.pieces(call.keys, blocks.keys) {
        let scores = &mut scores[..count * S::LANES];
        let keys = call.key.read(s, at, from, count, key_room);
        s.call(Dots { queries, keys, dim, scores });
        let biases = biases(call, task.b, &tile, S::LANES, (from, count), mask_room);
        let prepared = s.call(Prepare::<1> { call, tile: &mut tile, scores, biases, from, count });
        tile.weights(call, &task, Scored { scores, lanes: S::LANES, prepared, from }, weights);
    }
}

/// q · k of each query [rows, D] and key [keys, D], to [keys, LANES].
struct Dots<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    dim: usize,
    scores: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { queries, keys, dim, scores } = self;
        for (n, queries) in queries.chunks(4 * dim).enumerate() {
            macro_rules! of {
            ($($rows:literal)*) => {
                match queries.len() / dim {
                    $($rows => dots_of::<S, $rows>(s, queries, keys, dim, &mut scores[4 * n..]),)*
                    _ => {}
                }
            };
        }
            of!(1 2 3 4);
        }
    }
}

/// Of R queries; the scores of a key are LANES behind those of the one before.
#[inline(always)]
fn dots_of<S: Simd, const R: usize>(s: S, queries: &[f32], keys: &[f32], dim: usize, scores: &mut [f32]) {
    const KEYS: usize = 4;
    let count = keys.len() / dim;
    let mut key = 0;
    while key < count {
        if count - key >= KEYS && S::ROWS >= 12 {
            dots_at::<S, R, KEYS>(s, queries, &keys[key * dim..], dim, &mut scores[key * S::LANES..]);
            key += KEYS;
        } else {
            dots_at::<S, R, 1>(s, queries, &keys[key * dim..], dim, &mut scores[key * S::LANES..]);
            key += 1;
        }
    }
}

#[inline(always)]
fn dots_at<S: Simd, const R: usize, const C: usize>(
    s: S,
    queries: &[f32],
    keys: &[f32],
    dim: usize,
    scores: &mut [f32],
) {
    assert!(queries.len() >= R * dim && keys.len() >= C * dim);
    let mut sums = [[s.splat(0.0); C]; R];
    let whole = dim / S::LANES * S::LANES;
    for d in (0..whole).step_by(S::LANES) {
        let mut query = [s.splat(0.0); R];
        for (r, query) in query.iter_mut().enumerate() {
            // SAFETY: d + LANES ≤ D, and there are R rows.
            *query = unsafe { s.load(queries.as_ptr().add(r * dim + d)) };
        }
        for c in 0..C {
            // SAFETY: as above, and there are C keys.
            let key = unsafe { s.load(keys.as_ptr().add(c * dim + d)) };
            for (sums, query) in sums.iter_mut().zip(query) {
                sums[c] = s.mul_add(query, key, sums[c]);
            }
        }
    }
    if whole < dim {
        for c in 0..C {
            // SAFETY: what is left of row c.
            let key = unsafe { s.load_part(keys.as_ptr().add(c * dim + whole), dim - whole) };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: what is left of row r.
                let query = unsafe { s.load_part(queries.as_ptr().add(r * dim + whole), dim - whole) };
                sums[c] = s.mul_add(query, key, sums[c]);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (c, sum) in sums.into_iter().enumerate() {
            scores[c * S::LANES + r] = s.sum(sum);
        }
    }
}

/// output[r] = output[r] · factor[r] + Σ_j p[j, r] · v[j], for [keys, LANES] of weights.
struct Weigh<'a> {
    weights: &'a [f32],
    values: &'a [f32],
    width: usize,
    factors: &'a [f32; LANES],
    output: &'a mut [f32],
}

impl Kernel for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { weights, values, width, factors, output } = self;
        let guarded = !all_finite(s, values);
        for (n, output) in output.chunks_mut(4 * width).enumerate() {
            macro_rules! of {
            ($($rows:literal)*) => {
                match output.len() / width {
                    $($rows => weigh_of::<S, $rows>(s, &weights[4 * n..], values, width, &factors[4 * n..], output, guarded),)*
                    _ => {}
                }
            };
        }
            of!(1 2 3 4);
        }
    }
}

#[inline(always)]
fn weigh_of<S: Simd, const R: usize>(
    s: S,
    weights: &[f32],
    values: &[f32],
    width: usize,
    factors: &[f32],
    output: &mut [f32],
    guarded: bool,
) {
    const VECTORS: usize = 4;
    let count = values.len() / width;
    assert!(output.len() >= R * width && weights.len() >= (count - 1) * S::LANES + R);
    if guarded {
        for r in 0..R {
            let output = &mut output[r * width..][..width];
            output.iter_mut().for_each(|y| *y = if factors[r] == 0.0 { 0.0 } else { *y * factors[r] });
            for (j, value) in values.chunks_exact(width).enumerate() {
                let weight = weights[j * S::LANES + r];
                if weight != 0.0 {
                    output.iter_mut().zip(value).for_each(|(y, v)| *y += weight * v);
                }
            }
        }
        return;
    }
    let mut column = 0;
    while column < width {
        let left = width - column;
        // SAFETY: columns `column .. column + left` of rows below `count` and R; loads and stores keep within them.
        unsafe {
            if left >= VECTORS * S::LANES {
                weigh_at::<S, R, VECTORS>(s, weights, (values, width), factors, output, (column, count), None);
                column += VECTORS * S::LANES;
            } else if left >= S::LANES {
                weigh_at::<S, R, 1>(s, weights, (values, width), factors, output, (column, count), None);
                column += S::LANES;
            } else {
                weigh_at::<S, R, 1>(s, weights, (values, width), factors, output, (column, count), Some(left));
                column += left;
            }
        }
    }
}

/// # Safety
/// Columns `column .. column + C · LANES`, or `part` of them, are within `width`; there are `count` rows of values and
/// weights.
#[inline(always)]
unsafe fn weigh_at<S: Simd, const R: usize, const C: usize>(
    s: S,
    weights: &[f32],
    (values, width): (&[f32], usize),
    factors: &[f32],
    output: &mut [f32],
    (column, count): (usize, usize),
    part: Option<usize>,
) {
    // SAFETY: as the caller's.
    unsafe {
        let mut sums = [[s.splat(0.0); C]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (c, sum) in sums.iter_mut().enumerate() {
                let at = output.as_ptr().add(r * width + column + c * S::LANES);
                *sum = scaled(s, load(s, at, part), s.splat(factors[r]));
            }
        }
        for j in 0..count {
            for c in 0..C {
                let value = load(s, values.as_ptr().add(j * width + column + c * S::LANES), part);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let weight = s.splat(*weights.as_ptr().add(j * S::LANES + r));
                    sums[c] = s.mul_add(weight, value, sums[c]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                let at = output.as_mut_ptr().add(r * width + column + c * S::LANES);
                match part {
                    Some(n) => s.store_part(at, sum, n),
                    None => s.store(at, sum),
                }
            }
        }
    }
}

/// The vector at `at`, or its first elements if only so many are there.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, at: *const f32, part: Option<usize>) -> S::V {
    // SAFETY: as the caller's.
    unsafe {
        match part {
            Some(n) => s.load_part(at, n),
            None => s.load(at),
        }
    }
}
