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

use super::rows::Rows;
use super::visible::{MaskOf, Span, Spans};
use crate::backend::cpu::math;
use crate::backend::cpu::memory::Room;
use crate::backend::cpu::product::{Columns, Strided, Sums, Tiles, accumulate, tiles};
use crate::backend::cpu::simd::{Kernel, Simd};

/// The most lanes that a tile has: two vectors of 16.
pub(super) const LANES: usize = 32;

/// One attention, in numbers.
pub(super) struct Call<'a> {
    pub(super) query_heads: usize,
    pub(super) kv_heads: usize,
    /// Nq.
    pub(super) queries: usize,
    /// Nk.
    pub(super) keys: usize,
    pub(super) scale: f32,
    pub(super) softcap: Option<f32>,
    pub(super) temperature: Option<f32>,
    /// Weights are 2^−halvings of what they are, so that not even the largest values overflow when they are added up.
    pub(super) halvings: f32,
    /// [B, Hq, Nq, D].
    pub(super) query: &'a [f32],
    pub(super) key: Rows<'a>,
    pub(super) value: Rows<'a>,
    pub(super) spans: Spans,
    pub(super) masks: Vec<MaskOf<'a>>,
    /// Rows of slopes for each query head, and whether a row is of a sequence rather than of a batch row.
    pub(super) slopes: Option<(&'a [f32], usize, bool)>,
    pub(super) sinks: Option<&'a [f32]>,
}

impl Call<'_> {
    /// Query rows that share a key head: [group · Nq].
    pub(super) fn rows(&self) -> usize {
        self.query_heads / self.kv_heads * self.queries
    }

    /// Query head and query of row `row` of a key head.
    fn place(&self, kv_head: usize, row: usize) -> (usize, usize) {
        let group = self.query_heads / self.kv_heads;
        (kv_head * group + row / self.queries, row % self.queries)
    }

    fn slope(&self, b: usize, head: usize, span: &Span) -> f32 {
        self.slopes.map_or(0.0, |(slopes, rows, by_sequence)| {
            let row = if rows == 1 {
                0
            } else if by_sequence {
                span.sequence
            } else {
                b
            };
            slopes[row * self.query_heads + head]
        })
    }
}

/// Some rows of a key head over a range of keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    pub(super) b: usize,
    pub(super) kv_head: usize,
    /// Rows of [group · Nq].
    pub(super) rows: [usize; 2],
    pub(super) keys: [usize; 2],
}

/// How a task is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Vectors of queries side by side; 0 where products run along D and Dv, with the queries of a task in one vector.
    pub(crate) vectors: usize,
    /// Keys that are gone through for all queries of a task before the next ones.
    pub(crate) keys: usize,
    /// Query rows of a task.
    pub(crate) rows: usize,
    /// Keys of a task.
    pub(crate) range: usize,
}

/// What a task leaves of a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RowState {
    /// The largest score.
    pub(super) max: f32,
    /// Σ e^((s − max) / τ) / 2^halvings.
    pub(super) sum: f32,
    /// Whether it saw a key.
    pub(super) seen: bool,
}

/// Where a task writes: rows of its own, [rows] and [rows, Dv], `output` not yet divided by the sum.
pub(super) struct Place<'a> {
    pub(super) states: &'a mut [RowState],
    pub(super) output: &'a mut [f32],
    /// [rows, Nk] if asked for, and then the output is divided.
    pub(super) weights: Option<&'a mut [f32]>,
}

/// A task with room to work in.
pub(super) struct Run<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) task: Task,
    pub(super) blocks: Blocks,
    pub(super) place: Place<'a>,
    pub(super) room: &'a mut Room,
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.blocks.vectors {
            0 => along::<S>(s, self),
            1 => across::<S, 1>(s, self),
            _ => across::<S, 2>(s, self),
        }
    }
}

/// The queries of a tile, one a lane; lanes behind the last one are it again.
struct Tile {
    /// The first row, and how many there are.
    first: usize,
    count: usize,
    spans: [Span; LANES],
    slopes: [f32; LANES],
    /// Query head and query.
    places: [(usize, usize); LANES],
    max: [f32; LANES],
    sum: [f32; LANES],
    seen: [f32; LANES],
    /// Of the last block: its largest score, and what all before is multiplied with after it.
    block_max: [f32; LANES],
    factors: [f32; LANES],
    /// Keys that any of them sees: sinks, then the rest.
    ranges: [[usize; 2]; 2],
}

impl Tile {
    fn new(call: &Call<'_>, task: &Task, first: usize, count: usize, begins: bool) -> Self {
        let mut tile = Self {
            first,
            count,
            spans: [Span::default(); LANES],
            slopes: [0.0; LANES],
            places: [(0, 0); LANES],
            max: [f32::NEG_INFINITY; LANES],
            sum: [0.0; LANES],
            seen: [0.0; LANES],
            block_max: [0.0; LANES],
            factors: [0.0; LANES],
            ranges: [[usize::MAX, 0]; 2],
        };
        for lane in 0..LANES {
            let (head, query) = call.place(task.kv_head, first + lane.min(count - 1));
            let span = call.spans.of(task.b, query);
            tile.places[lane] = (head, query);
            tile.spans[lane] = span;
            tile.slopes[lane] = call.slope(task.b, head, &span);
            // A sink of −∞ is none.
            if let Some(sink) = call.sinks.map(|sinks| sinks[head]).filter(|&sink| begins && sink != f32::NEG_INFINITY)
            {
                tile.max[lane] = sink;
                // e^(sink − sink), or NaN where there is no softmax.
                tile.sum[lane] = if sink.is_finite() { 1.0 / call.halvings.exp2() } else { f32::NAN };
            }
            for (range, [low, high]) in tile.ranges.iter_mut().zip([span.sinks, [span.low, span.high]]) {
                if low < high {
                    *range = [range[0].min(low), range[1].max(high)];
                }
            }
        }
        // As one where they meet.
        if tile.ranges[0][1] >= tile.ranges[1][0] && tile.ranges[0][0] != usize::MAX {
            let [sinks, rest] = tile.ranges;
            tile.ranges = [[usize::MAX, 0], [sinks[0].min(rest[0]), sinks[1].max(rest[1])]];
        }
        for range in &mut tile.ranges {
            *range = [range[0].max(task.keys[0]), range[1].min(task.keys[1])];
        }
        tile
    }

    /// The parts of keys `from .. to` that any of them sees, apart from each other those that all of them see.
    fn parts(&self, from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let low = self.spans.iter().map(|span| span.low).max().unwrap_or(0);
        let high = self.spans.iter().map(|span| span.high).min().unwrap_or(0);
        let [sinks, [first, end]] = self.ranges;
        let (low, high) = if low < high { (low, high) } else { (end, end) };
        let parts = [(sinks[0], sinks[1]), (first, low.min(end)), (low, high.min(end)), (high, end)];
        parts.into_iter().map(move |(low, high)| (low.max(from), high.min(to))).filter(|(low, high)| low < high)
    }

    /// Whether each of them sees each of these keys, before any mask.
    fn sees_all(&self, from: usize, to: usize) -> bool {
        self.spans.iter().all(|span| span.low <= from && to <= span.high)
    }
}

/// Scores of [count, W · LANES] as they go into the softmax, −∞ where hidden, and the largest of each lane. Where every query
/// sees all keys and nothing is added, they stay as they are, without the scale.
struct Prepare<'a, const W: usize> {
    call: &'a Call<'a>,
    tile: &'a mut Tile,
    scores: &'a mut [f32],
    /// What masks add, [count, W · LANES], if there are any.
    biases: Option<&'a [f32]>,
    /// The first key, and how many.
    from: usize,
    count: usize,
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
struct Exponentials<'a, const W: usize> {
    call: &'a Call<'a>,
    tile: &'a mut Tile,
    scores: &'a mut [f32],
    /// Whether the scale is in them.
    prepared: bool,
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
fn biases<'b>(
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
fn vector<S: Simd>(s: S, from: &[f32], at: usize) -> S::V {
    // SAFETY: the slice is a vector long.
    unsafe { s.load(from[at..at + S::LANES].as_ptr()) }
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

/// x · factor; 0 where the factor is, whatever x.
#[inline(always)]
fn scaled<S: Simd>(s: S, x: S::V, factor: S::V) -> S::V {
    s.select(s.less(factor, s.splat(f32::from_bits(1))), s.splat(0.0), s.mul(x, factor))
}

/// Whether all are finite: x − x is 0 then, else NaN.
#[inline(always)]
fn all_finite<S: Simd>(s: S, values: &[f32]) -> bool {
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

/// Queries across the lanes, W vectors of them.
#[inline(always)]
fn across<S: Simd, const W: usize>(s: S, run: Run<'_>) {
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
        let mut from = 0;
        while from < call.keys {
            let part = blocks.keys.min(call.keys - from);
            if tile.parts(from, from + part).next().is_some() {
                let keys = call.key.read(s, at, from, part, key_room);
                let scores = &mut scores[..part * lanes];
                let queries = Columns { at: queries[n * dim * lanes..].as_ptr(), row: lanes };
                let (keys, count) = (keys.as_ptr(), part);
                s.call(Scores::<W> { keys, width: dim, count, queries, scores: scores.as_mut_ptr() });
                let biases = biases(call, task.b, tile, lanes, (from, count), mask_room);
                let prepared = s.call(Prepare::<W> { call, tile, scores, biases, from, count });
                let weights = &mut weights[own * call.keys..];
                tile.weights(call, &task, scores, lanes, prepared, from, weights);
            }
            from += part;
        }
    }
}

impl Tile {
    fn state(&self, lane: usize) -> RowState {
        RowState { max: self.max[lane], sum: self.sum[lane], seen: self.seen[lane] != 0.0 }
    }

    /// The weights of [part, lanes] scores into rows of [Nk].
    #[expect(clippy::too_many_arguments)]
    fn weights(
        &self,
        call: &Call<'_>,
        task: &Task,
        scores: &[f32],
        lanes: usize,
        prepared: bool,
        from: usize,
        weights: &mut [f32],
    ) {
        let scale = if prepared { 1.0 } else { call.scale };
        for lane in 0..self.count {
            let RowState { max, sum, seen } = self.state(lane);
            let row = &mut weights[lane * call.keys + from..];
            let broken = seen && !(sum > 0.0 && max.is_finite());
            let (head, query) = self.places[lane];
            for (j, scores) in scores.chunks_exact(lanes).enumerate() {
                let score = scores[lane] * scale;
                row[j] = if broken {
                    // Nothing but NaN among what is seen.
                    let at = [task.b, head, query, from + j];
                    let sees = self.spans[lane].sees(from + j)
                        && call.masks.iter().all(|mask| mask.bias(at) != f32::NEG_INFINITY);
                    if sees { f32::NAN } else { 0.0 }
                } else if score == f32::NEG_INFINITY || !seen {
                    0.0
                } else {
                    ((score - max) / call.temperature.unwrap_or(1.0)).exp() / (sum * call.halvings.exp2())
                };
            }
        }
    }
}

/// Few queries, in the lanes of one vector between the products, which run along D and Dv.
#[inline(always)]
fn along<S: Simd>(s: S, run: Run<'_>) {
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
    let mut from = 0;
    while from < call.keys {
        let part = blocks.keys.min(call.keys - from);
        if tile.parts(from, from + part).next().is_some() {
            let scores = &mut scores[..part * S::LANES];
            let keys = call.key.read(s, at, from, part, key_room);
            s.call(Dots { queries, keys, dim, scores });
            let count = part;
            let biases = biases(call, task.b, &tile, S::LANES, (from, count), mask_room);
            let prepared = s.call(Prepare::<1> { call, tile: &mut tile, scores, biases, from, count });
            tile.weights(call, &task, scores, S::LANES, prepared, from, weights);
        }
        from += part;
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
    assert!(output.len() >= R * width && weights.len() + 3 >= (count - 1) * S::LANES + R);
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
