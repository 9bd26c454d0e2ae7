//! A tile of queries, and what is known of each after some keys.

use super::call::{Call, RowState, Task};
use super::visible::Span;

/// The most lanes that a tile has: two vectors of 16.
pub(super) const LANES: usize = 32;

/// Scores of [keys, lanes] from key `from` on.
pub(super) struct Scored<'a> {
    pub(super) scores: &'a [f32],
    pub(super) lanes: usize,
    /// Whether they are as they go into the softmax; else the scale is not in them.
    pub(super) prepared: bool,
    pub(super) from: usize,
}

/// The queries of a tile, one a lane; lanes behind the last one are it again.
pub(super) struct Tile {
    /// The first row, and how many there are.
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) spans: [Span; LANES],
    pub(super) slopes: [f32; LANES],
    /// Query head and query.
    pub(super) places: [(usize, usize); LANES],
    pub(super) max: [f32; LANES],
    pub(super) sum: [f32; LANES],
    pub(super) seen: [f32; LANES],
    /// Of the last block: its largest score, and what all before is multiplied with after it.
    pub(super) block_max: [f32; LANES],
    pub(super) factors: [f32; LANES],
    /// Keys that any of them sees: sinks, then the rest.
    pub(super) ranges: [[usize; 2]; 2],
}

impl Tile {
    pub(super) fn new(call: &Call<'_>, task: &Task, first: usize, count: usize, begins: bool) -> Self {
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
    pub(super) fn parts(&self, from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let low = self.spans.iter().map(|span| span.low).max().unwrap_or(0);
        let high = self.spans.iter().map(|span| span.high).min().unwrap_or(0);
        let [sinks, [first, end]] = self.ranges;
        let (low, high) = if low < high { (low, high) } else { (end, end) };
        let parts = [(sinks[0], sinks[1]), (first, low.min(end)), (low, high.min(end)), (high, end)];
        parts.into_iter().map(move |(low, high)| (low.max(from), high.min(to))).filter(|(low, high)| low < high)
    }

    /// The same of all keys, block by block: the first key of each, and how many.
    pub(super) fn pieces(&self, keys: usize, block: usize) -> Vec<(usize, usize)> {
        let parts = (0..keys).step_by(block).flat_map(|from| self.parts(from, (from + block).min(keys)));
        parts.map(|(low, high)| (low, high - low)).collect()
    }

    /// Whether each of them sees each of these keys, before any mask.
    pub(super) fn sees_all(&self, from: usize, to: usize) -> bool {
        self.spans.iter().all(|span| span.low <= from && to <= span.high)
    }
}

impl Tile {
    pub(super) fn state(&self, lane: usize) -> RowState {
        RowState { max: self.max[lane], sum: self.sum[lane], seen: self.seen[lane] != 0.0 }
    }

    /// The weights of scores into rows of [Nk].
    pub(super) fn weights(&self, call: &Call<'_>, task: &Task, scored: Scored<'_>, weights: &mut [f32]) {
        let Scored { scores, lanes, prepared, from } = scored;
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
