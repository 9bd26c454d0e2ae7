//! Fused attention by cooperative matrices (`shaders/flash_coop.wgsl`).

use super::fused::{BUFFERS, Cut, Params, SOURCES};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::{CooperativeCut, FusedPlan};
use crate::problem::AttentionProblem;
use crate::wgsl::{Kernel, Source, Uniform, file};

pub static KERNEL: Kernel = Kernel {
    name: "flash_coop",
    sources: &[
        Source::Cooperative,
        Source::All(&SOURCES),
        Source::File(&file!(
            "flash_coop.wgsl",
            ["LANES", "STRIPS", "GROUPS", "KEYS", "SCORES", "COLUMNS", "PARTS", "QUERY_QUADS", "WIDEST"]
        )),
    ],
    buffers: &BUFFERS,
    params: &Params::TYPE,
};

/// # Errors
/// [`Error::Unsupported`] on a device without cooperative matrices.
pub(super) fn cut(caps: &Caps, problem: &AttentionProblem, plan: &FusedPlan) -> Result<Cut> {
    let Some(cut) = CooperativeCut::new(plan.tile, problem, caps) else {
        return Err(Error::Unsupported { feature: "cooperative matrices".into(), what: "this plan".into() });
    };
    let side = cut.side as usize;
    let overrides = [
        ("LANES", plan.tile.lanes),
        ("SIDE", cut.side),
        ("STRIPS", cut.strips),
        ("GROUPS", cut.groups),
        ("KEYS", plan.tile.keys),
        ("SCORES", cut.scores),
        ("COLUMNS", cut.columns),
        ("PARTS", plan.tile.parts),
        ("QUERY_QUADS", cut.query_dim / 4),
        ("WIDEST", cut.widest()),
    ];
    Ok(Cut {
        kernel: &KERNEL,
        overrides: overrides.map(|(name, value)| (name, f64::from(value))).to_vec(),
        row_tiles: problem.queries.div_ceil(plan.tile.queries as usize),
        heads: problem.query_heads,
        iterations: plan.iterations(problem),
        padding: [side, side],
    })
}
