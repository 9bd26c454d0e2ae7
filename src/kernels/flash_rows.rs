//! Fused attention, 16 query rows a workgroup (`shaders/flash_rows.wgsl`).

use super::fused::Cut;
use crate::attention::Attention;
use crate::plan::FusedPlan;
use crate::problem::AttentionProblem;
use crate::wgsl::Kernel;

/// Query rows of a workgroup.
pub const ROWS: usize = 16;
/// Keys, and then dimensions, of a lane.
pub const PER_LANE: usize = 8;

pub(super) fn cut(options: &Attention, problem: &AttentionProblem, plan: &FusedPlan) -> Cut {
    let tile = plan.tile;
    Cut {
        kernel: Kernel::FlashRows,
        overrides: vec![
            ("LANES", f64::from(tile.lanes)),
            ("KEYS", f64::from(tile.keys)),
            ("WEIGHTS", f64::from(4 * tile.keys)),
        ],
        row_tiles: problem.queries.div_ceil(ROWS),
        heads: problem.query_heads,
        iterations: plan.iterations(options, problem),
        padding: [4, 4],
    }
}
