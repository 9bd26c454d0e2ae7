//! The kernel: queries side by side in the lanes of vectors, keys one below the other.
//!
//! ```text
//! for each block of keys, as many as stay in the cache:
//!     for each tile of queries:
//!         s[j, lane] = Σ_d k[j, d] · q[lane, d]            products of keys as they lie and queries turned once
//!         s = cap · tanh(scale · s / cap) − slope · |own − j| + mask
//!         m' = max(m, s);  f = e^((m − m') / τ);  p = e^((s − m') / τ) / 2^h;  l = l·f + Σ_j p
//!         o[c, lane] = o·f + Σ_j v[j, c] · p[j, lane]      products of values as they lie
//! y = o / l
//! ```
//! Online softmax of Milakov and Gimelshein 2018, in blocks as Dao et al. 2022. Maxima and sums run down the keys, so no
//! vector is summed across its lanes. Where there are fewer queries than lanes, products run along D and Dv instead.

use super::call::{Place, Run};
use super::softmax::{Exponentials, Prepare, all_finite, biases, scaled, vector};
use super::tile::{LANES, Scored, Tile};
use crate::backend::cpu::product::{Columns, Strided, Sums, Tiles, accumulate, tiles};
use crate::backend::cpu::simd::{Kernel, Simd};

/// Queries across the lanes, W vectors of them.
#[inline(always)]
pub(super) fn across<S: Simd, const W: usize>(s: S, run: Run<'_>) {
    let Run { call, task, blocks, place, room } = run;
    let lanes = W * S::LANES;
    let (dim, width) = (call.key.width, call.value.width);
    let rows = task.rows[1] - task.rows[0];
    let count = rows.div_ceil(lanes);
    let [queries, outputs, scores, mask_room, key_room, value_room] = room.split([
        count * dim * lanes,
        count * width * lanes,
        blocks.keys * lanes,
        if call.masks.is_empty() { 0 } else { blocks.keys * lanes },
        blocks.keys * dim,
        blocks.keys * width,
    ]);
    outputs.fill(0.0);
    let own_rows = (task.b * call.kv_heads + task.kv_head) * call.rows();
    let mut all: Vec<Tile> = Vec::with_capacity(count);
    for n in 0..count {
        let first = task.rows[0] + n * lanes;
        let tile = Tile::new(call, &task, first, lanes.min(task.rows[1] - first), task.keys[0] == 0);
        let turned = &mut queries[n * dim * lanes..][..dim * lanes];
        for lane in 0..lanes {
            let row = first + lane.min(tile.count - 1);
            let query = &call.query[(own_rows + row) * dim..][..dim];
            for (d, &x) in query.iter().enumerate() {
                turned[d * lanes + lane] = x;
            }
        }
        all.push(tile);
    }
    let ranges = || all.iter().flat_map(|tile| tile.ranges);
    let low = ranges().map(|range| range[0]).min().unwrap_or(0).max(task.keys[0]);
    let high = ranges().map(|range| range[1]).max().unwrap_or(0).min(task.keys[1]);
    let at = (task.b, task.kv_head);
    let mut from = low / blocks.keys * blocks.keys;
    while from < high {
        let start = from.max(task.keys[0]);
        let end = (from + blocks.keys).min(high);
        from += blocks.keys;
        if all.iter().all(|tile| tile.parts(start, end).next().is_none()) {
            continue;
        }
        let keys = call.key.read(s, at, start, end - start, key_room);
        let values = call.value.read(s, at, start, end - start, value_room);
        let guarded = !all_finite(s, values);
        for (n, tile) in all.iter_mut().enumerate() {
            let queries = Columns { at: queries[n * dim * lanes..].as_ptr(), row: lanes };
            let output = outputs[n * width * lanes..].as_mut_ptr();
            for (low, high) in tile.parts(start, end) {
                let (skip, part) = (low - start, high - low);
                let scores = &mut scores[..part * lanes];
                let (from, count) = (low, part);
                let at = keys[skip * dim..].as_ptr();
                s.call(Scores::<W> { keys: at, width: dim, count, queries, scores: scores.as_mut_ptr() });
                let biases = biases(call, task.b, tile, lanes, (from, count), mask_room);
                let prepared = s.call(Prepare::<W> { call, tile, scores, biases, from, count });
                s.call(Exponentials::<W> { call, tile, scores, prepared });
                s.call(Values::<W> {
                    values: values[skip * width..].as_ptr(),
                    width,
                    count,
                    weights: Columns { at: scores.as_ptr(), row: lanes },
                    factors: &tile.factors,
                    output,
                    guarded,
                });
            }
        }
    }
    let Place { states, output, weights } = place;
    for (n, tile) in all.iter_mut().enumerate() {
        let own = tile.first - task.rows[0];
        let turned = &outputs[n * width * lanes..][..width * lanes];
        for lane in 0..tile.count {
            states[own + lane] = tile.state(lane);
            for (c, y) in output[(own + lane) * width..][..width].iter_mut().enumerate() {
                *y = turned[c * lanes + lane];
            }
        }
    }
    let Some(weights) = weights else { return };
    for (n, tile) in all.iter_mut().enumerate() {
        let own = tile.first - task.rows[0];
        for (from, count) in tile.pieces(call.keys, blocks.keys) {
            let keys = call.key.read(s, at, from, count, key_room).as_ptr();
            let scores = &mut scores[..count * lanes];
            let queries = Columns { at: queries[n * dim * lanes..].as_ptr(), row: lanes };
            s.call(Scores::<W> { keys, width: dim, count, queries, scores: scores.as_mut_ptr() });
            let biases = biases(call, task.b, tile, lanes, (from, count), mask_room);
            let prepared = s.call(Prepare::<W> { call, tile, scores, biases, from, count });
            let weights = &mut weights[own * call.keys..];
            tile.weights(call, &task, Scored { scores, lanes, prepared, from }, weights);
        }
    }
}

/// s[j, lane] of `count` keys.
struct Scores<const W: usize> {
    keys: *const f32,
    width: usize,
    count: usize,
    queries: Columns,
    scores: *mut f32,
}

impl<const W: usize> Kernel for Scores<W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        tiles(s, self.count, &mut self);
    }
}

impl<S: Simd, const W: usize> Tiles<S> for Scores<W> {
    #[inline(always)]
    fn tile<const R: usize>(&mut self, s: S, first: usize) {
        // SAFETY: rows `first .. first + R` are keys of the block, and the scores have a row for each.
        unsafe {
            let a = Strided { at: self.keys.add(first * self.width), row: self.width, column: 1 };
            let sums = accumulate::<S, R, W>(s, self.width, a, self.queries, [[s.splat(0.0); W]; R]);
            store(s, &sums, self.scores.add(first * W * S::LANES));
        }
    }
}

/// o[c, lane] of all Dv over `count` keys.
struct Values<'a, const W: usize> {
    values: *const f32,
    width: usize,
    count: usize,
    weights: Columns,
    factors: &'a [f32; LANES],
    output: *mut f32,
    /// Whether a weight of 0 has to keep out a value that is not finite.
    guarded: bool,
}

impl<const W: usize> Kernel for Values<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        if !self.guarded {
            return tiles(s, self.width, &mut self);
        }
        for c in 0..self.width {
            for w in 0..W {
                // SAFETY: a column of values, and its row of the output.
                unsafe {
                    let output = self.output.add((c * W + w) * S::LANES);
                    let mut sum = scaled(s, s.load(output), vector(s, self.factors, w * S::LANES));
                    for j in 0..self.count {
                        let p = s.load(self.weights.at.add(j * self.weights.row + w * S::LANES));
                        let x = s.splat(*self.values.add(j * self.width + c));
                        sum = s.select(s.less(p, s.splat(f32::from_bits(1))), sum, s.mul_add(x, p, sum));
                    }
                    s.store(output, sum);
                }
            }
        }
    }
}

impl<S: Simd, const W: usize> Tiles<S> for Values<'_, W> {
    #[inline(always)]
    fn tile<const R: usize>(&mut self, s: S, first: usize) {
        // SAFETY: columns `first .. first + R` are columns of values, and the output has a row for each.
        unsafe {
            let output = self.output.add(first * W * S::LANES);
            let mut sums: Sums<S, R, W> = [[s.splat(0.0); W]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (w, sum) in sums.iter_mut().enumerate() {
                    let factor = vector(s, self.factors, w * S::LANES);
                    *sum = scaled(s, s.load(output.add((r * W + w) * S::LANES)), factor);
                }
            }
            let a = Strided { at: self.values.add(first), row: 1, column: self.width };
            store(s, &accumulate(s, self.count, a, self.weights, sums), output);
        }
    }
}

/// # Safety
/// `at` can be written for R · W vectors.
#[inline(always)]
unsafe fn store<S: Simd, const R: usize, const W: usize>(s: S, sums: &Sums<S, R, W>, at: *mut f32) {
    for (r, sums) in sums.iter().enumerate() {
        for (w, &sum) in sums.iter().enumerate() {
            // SAFETY: as the caller's.
            unsafe { s.store(at.add((r * W + w) * S::LANES), sum) };
        }
    }
}
