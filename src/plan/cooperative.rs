//! Tiles of attention by cooperative matrices.

use super::{Caps, Form, Tile};
use crate::attention::{Attention, Score};
use crate::problem::AttentionProblem;
use crate::tensor::DType;

/// Sums of outputs that one subgroup keeps in registers, and of scores that it computes at a time: named variables of
/// the shader. Eight and four matrices of 16 × 16 take 96 registers of each of 32 lanes.
const MOST_COLUMNS: u32 = 8;
const MOST_SCORES: u32 = 4;

/// Strips of queries and matrices of keys of each subgroup, best guess first. Keys and values are read once for all
/// queries of a workgroup, so more strips come first; more keys mean fewer barriers, and fewer loads of the same query
/// rows, so a single matrix of keys comes late.
const TILES: [(u32, u32); 9] = [(4, 4), (4, 2), (2, 4), (2, 2), (4, 1), (1, 4), (1, 2), (2, 1), (1, 1)];
/// As many as are worth a measurement.
const CANDIDATES: usize = 4;

/// How a tile is shared among subgroups, each of which multiplies matrices of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CooperativeCut {
    /// Rows and columns of a matrix.
    pub side: u32,
    /// Strips of `side` queries.
    pub strips: u32,
    /// Subgroups of a strip.
    pub groups: u32,
    /// Score matrices of a subgroup.
    pub scores: u32,
    /// Output matrices of a subgroup, side by side.
    pub columns: u32,
    /// D as whole matrices.
    pub query_dim: u32,
}

impl CooperativeCut {
    /// The cut that belongs to a tile of `tiles`.
    pub fn new(tile: Tile, problem: &AttentionProblem, caps: &Caps) -> Option<Self> {
        let side = caps.cooperative?;
        let strips = tile.queries / side;
        let groups = (tile.lanes / caps.max_subgroup.max(1)).checked_div(strips).filter(|&groups| groups > 0)?;
        let matrices = |dim: usize| (dim as u32).div_ceil(side);
        Some(Self {
            side,
            strips,
            groups,
            scores: tile.keys / side / groups,
            columns: matrices(problem.value_dim).div_ceil(groups),
            query_dim: matrices(problem.score_dim) * side,
        })
    }

    /// Elements of a staged row of keys or values, without what lies between rows.
    pub fn widest(&self) -> u32 {
        self.query_dim.max(self.groups * self.columns * self.side)
    }

    /// Workgroup memory: `rows`, `tile`, `scores`, `weights`, `factors` and `flags` of `flash_coop.wgsl`.
    fn bytes(&self, tile: Tile) -> u32 {
        let rows = tile.queries * (self.query_dim + 8) * 2;
        let staged = tile.keys * (self.widest() + 8) * 2;
        let scores = tile.queries * (tile.keys + 4) * 4;
        let weights = tile.queries * (tile.keys + 8) * 2;
        [rows, staged, scores, weights, tile.queries * 4, 4].into_iter().map(|bytes| bytes.next_multiple_of(16)).sum()
    }
}

/// Tiles that the device can hold, best guess first; none where the problem is not one for cooperative matrices: they
/// take f16 alone, and dot products.
pub(super) fn tiles(options: &Attention, problem: &AttentionProblem, element: DType, caps: &Caps) -> Vec<Tile> {
    let dot = matches!(options.score, Score::ScaledDot | Score::Dot);
    // A turned query or key is f32, and loses nothing of that on the other paths.
    let half = element == DType::F16 && !problem.rotary;
    let Some(side) = caps.cooperative.filter(|_| dot && half) else {
        return Vec::new();
    };
    let columns = (problem.value_dim as u32).div_ceil(side);
    let groups = columns.div_ceil(MOST_COLUMNS).next_power_of_two();
    let tile = |(strips, matrices): (u32, u32)| {
        let lanes = strips * groups * caps.max_subgroup;
        let tile = Tile {
            form: Form::Cooperative,
            lanes,
            queries: strips * side,
            keys: matrices * groups * side,
            parts: lanes / (strips * side),
            subgroups: true,
        };
        let cut = CooperativeCut::new(tile, problem, caps)?;
        // Half of the strips would do for so few queries.
        let idle = strips > 1 && (strips / 2 * side) as usize >= problem.queries;
        // The lanes of a row are neighbours in a subgroup, whatever its size turns out to be.
        let shared = tile.parts.is_power_of_two() && tile.parts <= caps.min_subgroup.min(tile.keys);
        let fits = lanes <= caps.max_invocations && cut.bytes(tile) <= caps.max_workgroup_bytes;
        (shared && fits && !idle && cut.scores <= MOST_SCORES).then_some(tile)
    };
    TILES.into_iter().filter_map(tile).take(CANDIDATES).collect()
}

/// Loop iterations of one invocation in a step over the keys of a tile. What a rescaling of the outputs adds is left
/// out: the limit is of a driver that has no cooperative matrices.
pub(super) fn iterations(tile: Tile, problem: &AttentionProblem) -> u64 {
    let quads = (problem.score_dim + problem.value_dim).div_ceil(4) as u32 + 8;
    let staging = (tile.keys * quads).div_ceil(tile.lanes);
    let products = (problem.score_dim as u32).div_ceil(8) + tile.keys / 8;
    u64::from(staging + products + 2 * (tile.keys / tile.parts.max(1)) + 20)
}
