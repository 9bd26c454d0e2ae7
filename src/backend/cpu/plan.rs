//! How work is cut: blocks that stay in the cache, and pieces that threads share.
//!
//! Nothing here depends on how many threads there are, so that sums come in the same order, and results have the same bits,
//! with any number of them.

use super::Cpu;
use super::attention::Blocks;
use crate::problem::{AttentionProblem, RnnProblem};

/// What the plan knows of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Processor {
    /// f32 in a vector.
    pub(crate) lanes: usize,
    /// Rows of a product's largest tile.
    pub(crate) rows: usize,
    /// Bytes of the second-level cache of a core.
    pub(crate) cache: usize,
}

/// Pieces that make enough of threads, of which one may be twice as long as another.
const PIECES: usize = 32;

/// How a product with packed weights is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Rows of a piece.
    pub(crate) rows: usize,
    /// Panels of a piece.
    pub(crate) panels: usize,
}

impl Cut {
    /// Rows whose x stays in a quarter of the cache, and so many panels that a piece is worth a thread's while.
    pub(crate) fn new(rows: usize, panels: usize, depth: usize, processor: Processor) -> Self {
        let block = (processor.cache / 4 / (4 * depth.max(1))).clamp(16, 128);
        Self { rows: block, panels: (rows.div_ceil(block) * panels).div_ceil(2 * PIECES).max(1) }
    }
}

/// How a step of a recurrence is cut: tiles of batch rows, and blocks of units as wide as a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepCut {
    /// Batch rows of a tile: about the same in each, at most as many as a product's tile has.
    pub(crate) rows: usize,
    /// Tiles.
    pub(crate) tiles: usize,
    /// Blocks of units.
    pub(crate) blocks: usize,
}

impl StepCut {
    pub(crate) fn new(p: &RnnProblem, processor: Processor) -> Self {
        let rows = p.batch.div_ceil(p.batch.div_ceil(processor.rows));
        let widest = p.hidden.max(p.state);
        Self { rows, tiles: p.batch.div_ceil(rows), blocks: widest.div_ceil(2 * processor.lanes) }
    }

    /// The plan in words.
    pub(crate) fn describe(&self, p: &RnnProblem, cpu: &Cpu) -> String {
        format!(
            "{}, weights packed once, {} tasks a step ({} rows by {} units) on {} threads",
            cpu.instructions(),
            p.directions * self.blocks * self.tiles,
            self.rows,
            cpu.panel(),
            cpu.thread_count()
        )
    }
}

impl Blocks {
    /// For a problem; `whole_rows` where each row's keys have to stay together.
    pub(crate) fn new(p: &AttentionProblem, processor: Processor, whole_rows: bool) -> Self {
        let Processor { lanes, cache, .. } = processor;
        let rows = p.group() * p.queries;
        let heads = p.batch * p.kv_heads;
        // Half of the cache for keys and values, 32 KiB of the first level for scores.
        let row = 4 * (p.score_dim + p.value_dim);
        let fit = |lanes: usize| (cache / 2 / row).min(8192 / lanes).clamp(16, 256) / 16 * 16;
        let (vectors, keys, own) = match rows {
            // In vectors of queries more than half of the lanes would be idle.
            rows if 2 * rows <= lanes => (0, 64, rows),
            rows if rows <= lanes => (1, fit(lanes), rows),
            rows => {
                let lanes = 2 * lanes;
                let share = (rows * heads).div_ceil(PIECES).next_multiple_of(lanes);
                (2, fit(lanes), share.clamp(lanes, 8 * lanes))
            }
        };
        let pieces = heads * rows.div_ceil(own);
        let range = match pieces {
            pieces if whole_rows || pieces >= PIECES / 2 => p.keys,
            pieces => (p.keys * pieces).div_ceil(PIECES / 2).max(512).next_multiple_of(keys).min(p.keys),
        };
        Self { vectors, keys, rows: own, range }
    }

    /// The plan in words.
    pub(crate) fn describe(&self, p: &AttentionProblem, cpu: &Cpu) -> String {
        let tile = match self.vectors {
            0 => "products along D and Dv".to_owned(),
            vectors => format!("{} queries side by side", vectors * cpu.processor().lanes),
        };
        let tasks = p.batch * p.kv_heads * (p.group() * p.queries).div_ceil(self.rows) * p.keys.div_ceil(self.range);
        format!(
            "{}, {tile}, blocks of {} keys, {tasks} tasks of {} rows and {} keys on {} threads",
            cpu.instructions(),
            self.keys.min(p.keys),
            self.rows,
            self.range,
            cpu.thread_count()
        )
    }
}
