//! Fused attention, 16 or 32 query rows a workgroup (`shaders/flash_rows.wgsl`).

use super::fused::{BUFFERS, Cut, Params, SOURCES};
use crate::plan::{FusedPlan, Tile};
use crate::problem::AttentionProblem;
use crate::wgsl::{Kernel, Source, Uniform, file, files};

pub static KERNEL: Kernel = Kernel {
    name: "flash_rows",
    sources: &[
        Source::Lanes { shared: &files::SPREAD_DIRECT, subgroup: &files::SPREAD_SUBGROUP },
        Source::Lanes { shared: &files::REDUCE4_SHARED, subgroup: &files::REDUCE4_SUBGROUP },
        Source::All(&SOURCES),
        Source::File(&file!("flash_rows.wgsl", ["BANDS", "FOURS", "WEIGHTS", "PARTS"])),
    ],
    buffers: &BUFFERS,
    params: &Params::TYPE,
};

/// Query rows of a band, of which a workgroup has one or two.
const BAND: u32 = 16;

pub(super) fn cut(problem: &AttentionProblem, plan: &FusedPlan) -> Cut {
    let tile = plan.tile;
    Cut {
        kernel: &KERNEL,
        overrides: vec![
            ("BANDS", f64::from(tile.queries / BAND)),
            ("FOURS", f64::from(tile.queries / 4)),
            ("WEIGHTS", f64::from(tile.keys * tile.queries / 4)),
            ("PARTS", Tile::passes(problem) as f64),
        ],
        row_tiles: problem.queries.div_ceil(tile.queries as usize),
        heads: problem.query_heads,
        iterations: plan.iterations(problem),
        padding: [4, 4],
    }
}
