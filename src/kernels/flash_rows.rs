//! Fused attention, 16 or 32 query rows a workgroup (`shaders/flash_rows.wgsl`).

use super::fused::{BUFFERS, Launch, Params, SOURCES};
use crate::plan::{FusedPlan, Tile};
use crate::problem::AttentionProblem;
use crate::wgsl::{Kernel, Source, Uniform, files};

pub static KERNEL: Kernel = Kernel {
    name: "flash_rows",
    sources: &[
        Source::Lanes { shared: &files::QUERY_ROWS_DIRECT, subgroup: &files::QUERY_ROWS_BROADCAST },
        Source::Lanes { shared: &files::REDUCE4_SHARED, subgroup: &files::REDUCE4_SUBGROUP },
        Source::All(&SOURCES),
        Source::File(&files::FLASH_ROWS),
    ],
    buffers: &BUFFERS,
    params: &Params::TYPE,
};

/// Query rows of a band, of which a workgroup has one or two.
const BAND: u32 = 16;

pub(super) fn launch(problem: &AttentionProblem, plan: &FusedPlan) -> Launch {
    let tile = plan.tile;
    Launch {
        kernel: &KERNEL,
        sizes: Vec::new(),
        overrides: vec![
            ("ROW_BLOCKS", f64::from(tile.queries / BAND)),
            ("ROW_QUADS", f64::from(tile.queries / 4)),
            ("P_ENTRIES", f64::from(tile.keys * tile.queries / 4)),
            ("VALUE_TILES", Tile::passes(problem) as f64),
        ],
        row_tiles: problem.queries.div_ceil(tile.queries as usize),
        heads: problem.query_heads,
        iterations: plan.iterations(problem),
        // Each of eight lanes loads the weights of a tile's rows, or one of the quads that it tells the others, for 64 dimensions.
        workgroup_bytes: 4.0 + Tile::passes(problem) as f64 * if tile.subgroups { 4.0 } else { 32.0 },
        padding: [4, 4],
    }
}
