//! Fused attention, four query rows an invocation (`shaders/flash_rows.wgsl`).

use super::fused::Cut;
use crate::attention::Attention;
use crate::plan::FusedPlan;
use crate::problem::AttentionProblem;
use crate::wgsl::Kernel;

/// Query rows of an invocation.
pub const ROWS: usize = 4;
/// Dimensions of a block of registers.
const BLOCK: usize = 16;

pub(super) fn cut(options: &Attention, problem: &AttentionProblem, plan: &FusedPlan) -> Cut {
    let tile = plan.tile;
    let blocks = |dim: usize| dim.div_ceil(BLOCK) as f64;
    Cut {
        kernel: Kernel::FlashRows,
        overrides: vec![
            ("LANES", f64::from(tile.lanes)),
            ("KEYS", f64::from(tile.keys)),
            ("BLOCKS_OF_QUERY", blocks(problem.score_dim)),
            ("BLOCKS_OF_VALUE", blocks(problem.value_dim)),
        ],
        row_tiles: problem.queries.div_ceil(tile.queries as usize),
        heads: problem.query_heads,
        iterations: plan.iterations(options, problem),
        padding: [BLOCK, BLOCK],
    }
}
