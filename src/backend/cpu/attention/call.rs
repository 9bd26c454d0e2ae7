//! One attention, its tasks, and what they leave.

use super::across::across;
use super::along::along;
use super::rows::Rows;
use super::visible::{MaskOf, Span, Spans};
use crate::backend::cpu::memory::Room;
use crate::backend::cpu::simd::{Kernel, Simd};

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
    pub(super) fn place(&self, kv_head: usize, row: usize) -> (usize, usize) {
        let group = self.query_heads / self.kv_heads;
        (kv_head * group + row / self.queries, row % self.queries)
    }

    pub(super) fn slope(&self, b: usize, head: usize, span: &Span) -> f32 {
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
    /// [rows, Nk] if asked for.
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
