//! Tiles of attention by cooperative matrices.

use super::{Caps, Form, Tile};
use crate::attention::{Attention, Score};
use crate::problem::AttentionProblem;
use crate::tensor::DType;

/// Output matrices that a subgroup accumulates in registers, and score matrices that it computes at a time: variables of the
/// shader. Eight and four matrices of 16 × 16 take 96 registers of each of 32 lanes.
const MOST_OUTPUT_MATRICES: u32 = 8;
const MOST_SCORE_MATRICES: u32 = 4;

/// Strips of queries and matrices of keys of each subgroup, best guess first. Keys and values are read once for all
/// queries of a workgroup, so more subgroups_m come first; more keys mean fewer barriers, and fewer loads of the same query
/// rows, so a single matrix of keys comes late.
const TILES: [(u32, u32); 9] = [(4, 4), (4, 2), (2, 4), (2, 2), (4, 1), (1, 4), (1, 2), (2, 1), (1, 1)];
/// As many as are worth a measurement.
const CANDIDATES: usize = 4;

/// How the matrices of a tile are assigned to its subgroups, `subgroups_m` × `subgroups_n` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CooperativeTiling {
    /// Rows and columns of a matrix.
    pub side: u32,
    /// Rows of subgroups, each of which has `side` queries.
    pub subgroups_m: u32,
    /// Subgroups that share the same queries.
    pub subgroups_n: u32,
    /// Score matrices of a subgroup, side by side.
    pub score_matrices: u32,
    /// Output matrices of a subgroup, side by side.
    pub output_matrices: u32,
    /// D rounded up to whole matrices.
    pub head_dim: u32,
}

impl CooperativeTiling {
    /// The tiling of a tile of `tiles`.
    pub fn new(tile: Tile, problem: &AttentionProblem, caps: &Caps) -> Option<Self> {
        let side = caps.cooperative?;
        let subgroups_m = tile.queries / side;
        let subgroups_n =
            (tile.lanes / caps.max_subgroup.max(1)).checked_div(subgroups_m).filter(|&subgroups_n| subgroups_n > 0)?;
        let matrices = |dim: usize| (dim as u32).div_ceil(side);
        Some(Self {
            side,
            subgroups_m,
            subgroups_n,
            score_matrices: tile.keys / side / subgroups_n,
            output_matrices: matrices(problem.value_dim).div_ceil(subgroups_n),
            head_dim: matrices(problem.score_dim) * side,
        })
    }

    /// Elements of a staged row of keys or values, without padding.
    pub fn kv_elements(&self) -> u32 {
        self.head_dim.max(self.subgroups_n * self.output_matrices * self.side)
    }

    /// Workgroup memory in bytes: `q_tile`, `kv_tile`, `s_tile`, `p_tile`, `row_scale` and `flags` of `flash_coop.wgsl`.
    fn bytes(&self, tile: Tile) -> u32 {
        let rows = tile.queries * (self.head_dim + 8) * 2;
        let staged = tile.keys * (self.kv_elements() + 8) * 2;
        let scores = tile.queries * (tile.keys + 4) * 4;
        let weights = tile.queries * (tile.keys + 8) * 2;
        [rows, staged, scores, weights, tile.queries * 4, 4].into_iter().map(|bytes| bytes.next_multiple_of(16)).sum()
    }
}

/// Tiles that the device can hold, best guess first; none where the problem is not one for cooperative matrices: they
/// take f16 alone, and dot products.
pub(super) fn tiles(options: &Attention, problem: &AttentionProblem, element: DType, caps: &Caps) -> Vec<Tile> {
    let dot = matches!(options.score, Score::ScaledDot | Score::Dot);
    // A rotated query or key is f32, which the other forms take as it is.
    let half = element == DType::F16 && !problem.rotary;
    let Some(side) = caps.cooperative.filter(|_| dot && half) else {
        return Vec::new();
    };
    let columns = (problem.value_dim as u32).div_ceil(side);
    let subgroups_n = columns.div_ceil(MOST_OUTPUT_MATRICES).next_power_of_two();
    let tile = |(subgroups_m, matrices): (u32, u32)| {
        let lanes = subgroups_m * subgroups_n * caps.max_subgroup;
        let tile = Tile {
            form: Form::Cooperative,
            lanes,
            queries: subgroups_m * side,
            keys: matrices * subgroups_n * side,
            k_splits: lanes / (subgroups_m * side),
            subgroups: true,
        };
        let tiling = CooperativeTiling::new(tile, problem, caps)?;
        // Half as many rows of subgroups would do for so few queries.
        let idle = subgroups_m > 1 && (subgroups_m / 2 * side) as usize >= problem.queries;
        // The lanes of a row are neighbours in a subgroup, whatever its size turns out to be.
        let shared = tile.k_splits.is_power_of_two() && tile.k_splits <= caps.min_subgroup.min(tile.keys);
        let fits = lanes <= caps.max_invocations && tiling.bytes(tile) <= caps.max_workgroup_bytes;
        (shared && fits && !idle && tiling.score_matrices <= MOST_SCORE_MATRICES).then_some(tile)
    };
    TILES.into_iter().filter_map(tile).take(CANDIDATES).collect()
}

/// Loop iterations of one invocation in a step over the keys of a tile. What a rescaling of the outputs adds is left
/// out: the limit is of a driver that has no cooperative matrices.
pub(super) fn iterations(tile: Tile, problem: &AttentionProblem) -> u64 {
    let quads = (problem.score_dim + problem.value_dim).div_ceil(4) as u32 + 8;
    let staging = (tile.keys * quads).div_ceil(tile.lanes);
    let products = (problem.score_dim as u32).div_ceil(8) + tile.keys / 8;
    u64::from(staging + products + 2 * (tile.keys / tile.k_splits.max(1)) + 20)
}
