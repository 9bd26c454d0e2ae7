//! Fused attention by cooperative matrices (`shaders/flash_coop.wgsl`).

use super::fused::{BUFFERS, Launch, Params, SOURCES};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::{CooperativeTiling, Form, FusedPlan};
use crate::problem::AttentionProblem;
use crate::wgsl::{Kernel, Source, Uniform, files};

pub static KERNEL: Kernel = Kernel {
    name: "flash_coop",
    sources: &[
        Source::Cooperative,
        Source::All(&SOURCES),
        Source::File(&files::COOP_TILES),
        Source::File(&files::FLASH_COOP),
    ],
    buffers: &BUFFERS,
    params: &Params::TYPE,
};

/// # Errors
/// [`Error::Unsupported`] on a device without cooperative matrices.
pub(super) fn launch(caps: &Caps, problem: &AttentionProblem, plan: &FusedPlan) -> Result<Launch> {
    let Some(tiling) = CooperativeTiling::new(plan.tile, problem, caps) else {
        return Err(Error::Unsupported { feature: "cooperative matrices".into(), what: "this plan".into() });
    };
    let side = tiling.side as usize;
    let overrides = [
        ("LANES", plan.tile.lanes),
        ("SIDE", tiling.side),
        ("SUBGROUPS_M", tiling.subgroups_m),
        ("SUBGROUPS_N", tiling.subgroups_n),
        ("TILE_N", plan.tile.keys),
        ("SCORE_MATRICES", tiling.score_matrices),
        ("OUTPUT_MATRICES", tiling.output_matrices),
        ("BLOCK_MATRICES", tiling.block_matrices),
        ("QUERY_MATRICES", tiling.query_matrices),
        ("ROW_LANES", plan.tile.k_splits),
        ("HEAD_QUADS", tiling.head_dim / 4),
        ("VALUE_QUADS", tiling.value_dim / 4),
        ("KEY_LANES", tiling.key_lanes()),
        ("Q_ENTRIES", tiling.q_entries(plan.tile)),
        ("KV_ENTRIES", tiling.kv_entries(plan.tile)),
        ("CARRIED", u32::from(plan.tile.form == Form::Carried)),
    ];
    Ok(Launch {
        kernel: &KERNEL,
        sizes: Vec::new(),
        overrides: overrides.map(|(name, value)| (name, f64::from(value))).to_vec(),
        row_tiles: problem.queries.div_ceil(plan.tile.queries as usize),
        heads: problem.query_heads,
        iterations: plan.iterations(problem),
        workgroup_bytes: {
            // One matrix of the left factor for some of the right, of two bytes an element, for side³ multiply-adds each.
            let loads = |matrices: u32| 2.0 * f64::from(1 + matrices) / f64::from(matrices * tiling.side);
            let scores = loads(tiling.score_matrices) * problem.score_dim as f64;
            // A score is stored, read and masked, and read again for its weight, which is stored in f16.
            scores + loads(tiling.output_matrices) * problem.value_dim as f64 + 18.0
        },
        padding: [side, side],
    })
}
