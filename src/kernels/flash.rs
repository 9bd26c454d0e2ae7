//! Fused attention, tiled through workgroup memory (`shaders/flash.wgsl`).

use super::fused::{BUFFERS, Fused, Launch, Params, SOURCES, additive_overrides};
use super::switch;
use crate::attention::Attention;
use crate::plan::{FusedPlan, Tiling};
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
    let tiling = Tiling::new(tile, problem);
    let mut overrides = vec![
        ("LANES", f64::from(tile.lanes)),
        ("HEAD_TAIL", switch(!problem.score_dim.div_ceil(4).is_multiple_of(tiling.chunk as usize))),
        ("VALUE_TAIL", switch(!problem.value_dim.div_ceil(4).is_multiple_of(tiling.staged_quads()))),
        ("SLICES", f64::from(tiling.slices)),
    ];
    overrides.extend(additive_overrides(options, fused));
    Launch {
        kernel: &KERNEL,
        sizes: vec![
            ("LANES_M", tiling.lanes_m),
            ("LANES_N", tiling.lanes_n),
            ("ROW_QUADS", tiling.row_quads),
            ("CHUNK", tiling.chunk),
            ("VALUE_SLICES", tiling.value_slices),
        ],
        overrides,
        row_tiles: problem.queries.div_ceil(tile.queries as usize),
        heads: problem.query_heads,
        iterations: plan.iterations(problem),
        // A lane reads a quad of each of its rows and keys, then of its weights and values; a weight is written once.
        workgroup_bytes: {
            let [rows, slices] = [tiling.row_quads, tiling.value_slices].map(f64::from);
            let products = (rows + 1.0) / rows * problem.score_dim as f64;
            products + (rows + slices) / (rows * slices) * problem.value_dim as f64 + 4.0
        },
        padding: [4, 4],
    }
}
