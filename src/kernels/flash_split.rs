//! Fused attention for few queries, over ranges of keys (`shaders/flash_split.wgsl`).

use super::fused::{BUFFERS, Fused, Launch, Params, SOURCES, additive_overrides};
use super::switch;
use crate::attention::Attention;
use crate::device::Caps;
use crate::plan::FusedPlan;
use crate::problem::AttentionProblem;
use crate::wgsl::{Kernel, Source, Uniform, files};

pub static KERNEL: Kernel = Kernel {
    name: "flash_split",
    sources: &[
        Source::Lanes { shared: &files::SPLIT_K_SHARED, subgroup: &files::SPLIT_K_SUBGROUP },
        Source::Lanes { shared: &files::REDUCE4_SHARED, subgroup: &files::REDUCE4_SUBGROUP },
        Source::All(&SOURCES),
        Source::File(&files::FLASH_SPLIT),
    ],
    buffers: &BUFFERS,
    params: &Params::TYPE,
};

/// Rows of a workgroup: queries of the heads that share one key head.
pub const ROWS: usize = 4;

pub(super) fn launch(
    caps: &Caps,
    options: &Attention,
    problem: &AttentionProblem,
    plan: &FusedPlan,
    fused: &Fused<'_>,
) -> Launch {
    let tile = plan.tile;
    let quads = problem.score_dim.div_ceil(4);
    let mut overrides = vec![
        ("LANES", f64::from(tile.lanes)),
        ("K_SPLITS", f64::from(tile.k_splits)),
        ("TILE_N", f64::from(tile.keys)),
        ("VALUE_LANES", f64::from(tile.value_lanes(problem))),
        ("QUERY_QUADS", quads.next_multiple_of(tile.k_splits as usize) as f64),
        ("HEAD_TAIL", switch(!quads.is_multiple_of(tile.k_splits as usize))),
        ("BRANCHES", switch(!caps.software)),
    ];
    overrides.extend(additive_overrides(options, fused));
    Launch {
        kernel: &KERNEL,
        sizes: Vec::new(),
        overrides,
        row_tiles: (problem.queries * problem.group()).div_ceil(ROWS),
        heads: problem.kv_heads,
        iterations: plan.iterations(problem),
        // Four quads of queries for 64 multiply-adds of scores, one of weights for 16 of P·V; a score is written, read and
        // masked, and read again for its weight.
        workgroup_bytes: (problem.score_dim + problem.value_dim) as f64 + 20.0,
        padding: [4, 4],
    }
}
