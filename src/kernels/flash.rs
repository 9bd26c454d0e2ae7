//! Fused attention, tiled through workgroup memory (`shaders/flash.wgsl`).

use super::fused::{BUFFERS, Fused, Launch, Params, SOURCES, additive_overrides};
use crate::attention::Attention;
use crate::plan::FusedPlan;
use crate::problem::AttentionProblem;
use crate::wgsl::{Kernel, Source, Uniform, files};

pub static KERNEL: Kernel = Kernel {
    name: "flash",
    sources: &[
        Source::Lanes { shared: &files::GROUP_SHARED, subgroup: &files::GROUP_SUBGROUP },
        Source::All(&SOURCES),
        Source::File(&files::FLASH),
    ],
    buffers: &BUFFERS,
    params: &Params::TYPE,
};

pub(super) fn launch(options: &Attention, problem: &AttentionProblem, plan: &FusedPlan, fused: &Fused<'_>) -> Launch {
    let tile = plan.tile;
    let [left, right] = tile.staging();
    let mut overrides = vec![
        ("LANES", f64::from(tile.lanes)),
        ("LANES_N", f64::from(tile.keys / 4)),
        ("LANES_M", f64::from(tile.queries / 4)),
        ("TILE_N", f64::from(tile.keys)),
        ("QP_ENTRIES", f64::from(left)),
        ("KV_ENTRIES", f64::from(right)),
        ("ACCUMULATORS", problem.value_dim.div_ceil(tile.keys as usize) as f64),
    ];
    overrides.extend(additive_overrides(options, fused));
    Launch {
        kernel: &KERNEL,
        overrides,
        row_tiles: problem.queries.div_ceil(tile.queries as usize),
        heads: problem.query_heads,
        iterations: plan.iterations(problem),
        // Eight quads for 64 multiply-adds of scores, two for 16 of P·V; a weight is written once.
        workgroup_bytes: 2.0 * (problem.score_dim + problem.value_dim) as f64 + 4.0,
        padding: [4, 4],
    }
}
