//! Tiles of attention by cooperative matrices.

use super::{Caps, Form, Tile};
use crate::attention::{Attention, Score};
use crate::problem::AttentionProblem;
use crate::tensor::DType;

/// Matrices of a subgroup in registers, which are variables of the shader: of a carried output, of scores, and of the query
/// rows.
/// Eight and four of 16 × 16 take 96 registers of each of 32 lanes; queries of f16 take four each, eight on RDNA 3.
const MOST_OUTPUT_MATRICES: u32 = 8;
const MOST_SCORE_MATRICES: u32 = 4;
const MOST_QUERY_MATRICES: u32 = 8;
/// Matrices of a subgroup that go through workgroup memory at a time: with two, a tile of 64 × 64 takes 28 KiB instead of 36,
/// for 5 % more instructions.
const MOST_BLOCK_MATRICES: u32 = 2;
/// Quads of scores of a lane, and of outputs where those are its own, in so many blocks.
const MOST_SCORE_QUADS: u32 = 8;
const MOST_OUTPUT_QUADS: u32 = 16;
const MOST_OUTPUT_BLOCKS: u32 = 8;
/// Lanes that stage a row of keys together: 64 bytes.
const MOST_KEY_LANES: u32 = 8;
/// Bytes of workgroup memory with which two workgroups share a core of 64 KiB, so that one computes while the other waits at a
/// barrier.
const SHARED_CORE: u32 = 32 << 10;

/// Strips of queries and matrices of keys of each subgroup, best guess first. Keys and values are read once for all
/// queries of a workgroup, so more subgroups_m come first; more keys mean fewer barriers, and fewer loads of the same query
/// rows, so a single matrix of keys comes late.
const TILES: [(u32, u32); 9] = [(4, 4), (4, 2), (2, 4), (2, 2), (4, 1), (1, 4), (1, 2), (2, 1), (1, 1)];
/// As many as are worth a measurement, of each form.
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
    /// Matrices of a subgroup that go through workgroup memory at a time.
    pub block_matrices: u32,
    /// Output matrices of a subgroup, `block_matrices` of them side by side.
    pub output_matrices: u32,
    /// Query matrices that a subgroup keeps in registers: D / side, or 0.
    pub query_matrices: u32,
    /// D rounded up to whole matrices.
    pub head_dim: u32,
    /// Dv rounded up to whole matrices.
    pub value_dim: u32,
}

impl CooperativeTiling {
    /// The tiling of a tile of `tiles`.
    pub fn new(tile: Tile, problem: &AttentionProblem, caps: &Caps) -> Option<Self> {
        let side = caps.cooperative?;
        let subgroups_m = tile.queries / side;
        let subgroups_n =
            (tile.lanes / caps.max_subgroup.max(1)).checked_div(subgroups_m).filter(|&subgroups_n| subgroups_n > 0)?;
        let score_matrices = tile.keys / side / subgroups_n;
        let [head, columns] = [problem.score_dim, problem.value_dim].map(|dim| (dim as u32).div_ceil(side));
        let block_matrices = score_matrices.min(MOST_BLOCK_MATRICES);
        // What the subgroups that share rows have together of a block.
        let blocks = columns.div_ceil((subgroups_n * block_matrices).max(1));
        Some(Self {
            side,
            subgroups_m,
            subgroups_n,
            score_matrices,
            block_matrices,
            output_matrices: columns.min(blocks * block_matrices),
            query_matrices: if head <= MOST_QUERY_MATRICES { head } else { 0 },
            head_dim: head * side,
            value_dim: columns * side,
        })
    }

    /// Neighbouring lanes that stage quads of a row together.
    pub(crate) fn key_lanes(&self) -> u32 {
        1 << (self.head_dim / 4).trailing_zeros().min(MOST_KEY_LANES.ilog2())
    }

    /// Quads of `kv_tile`: keys, then transposed values; the queries too on their way to registers.
    pub(crate) fn kv_entries(&self, tile: Tile) -> u32 {
        let values = self.subgroups_n * self.output_matrices * self.side;
        (tile.keys * (self.head_dim / 4 + 2)).max(values * (tile.keys / 4 + 2))
    }

    /// Quads of `q_tile`, at least one.
    pub(crate) fn q_entries(&self, tile: Tile) -> u32 {
        if self.query_matrices > 0 { 1 } else { tile.queries * (self.head_dim / 4 + 2) }
    }

    /// Workgroup memory in bytes: `q_tile`, `kv_tile`, `p_tile`, `s_tile` and `flags` of `flash_coop.wgsl`.
    fn bytes(&self, tile: Tile) -> u32 {
        let weights = tile.queries * (tile.keys / 4 + 2);
        let scores = tile.queries * (self.subgroups_n * self.block_matrices * self.side / 4 + 2);
        let halves = [self.q_entries(tile), self.kv_entries(tile), weights];
        halves.into_iter().map(|entries| (8 * entries).next_multiple_of(16)).sum::<u32>() + 16 * scores + 16
    }
}

/// Tiles that the device can hold, best guess first; none where the problem is not one for cooperative matrices: they
/// take f16 alone, and dot products.
///
/// Outputs in the lanes come first, those carried in matrices after them. Both take the same instructions, for a product of
/// 16³ (Mesa 26.1, D 64): 28 vector ones on navi31 against 29, 39 a tensor instruction on ampere against 41. And an accumulator
/// kept across the loop has been seen to double elements at random on NVIDIA's Blackwell (reported by the authors of meganeura), while O in
/// the lanes is what llama.cpp does (`flash_attn_cm1.comp`).
pub(super) fn tiles(options: &Attention, problem: &AttentionProblem, element: DType, caps: &Caps) -> Vec<Tile> {
    let dot = matches!(options.score, Score::ScaledDot | Score::Dot);
    // A rotated query or key is f32, which the other forms take as it is.
    let half = element == DType::F16 && !problem.rotary;
    let Some(side) = caps.cooperative.filter(|_| dot && half) else {
        return Vec::new();
    };
    let columns = (problem.value_dim as u32).div_ceil(side);
    let tile = |form: Form, (subgroups_m, matrices): (u32, u32)| {
        let most = match form {
            Form::Carried => MOST_OUTPUT_MATRICES,
            _ => (MOST_OUTPUT_BLOCKS * matrices.min(MOST_BLOCK_MATRICES))
                .min(4 * MOST_OUTPUT_QUADS * caps.max_subgroup / (side * side)),
        };
        let subgroups_n = columns.div_ceil(most.max(1)).next_power_of_two();
        let lanes = subgroups_m * subgroups_n * caps.max_subgroup;
        let tile = Tile {
            form,
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
        let bytes = tiling.bytes(tile);
        let fits = lanes <= caps.max_invocations && bytes <= caps.max_workgroup_bytes;
        // Whole quads of scores, and no more than there are variables for; a quad of each four keys is staged at once.
        let quads = tile.keys / tile.k_splits / 4;
        let held = (1..=MOST_SCORE_QUADS).contains(&quads) && tile.keys <= lanes;
        (shared && held && fits && !idle && tiling.score_matrices <= MOST_SCORE_MATRICES).then_some((tile, bytes))
    };
    let of = |form: Form| {
        let tiles = TILES.into_iter().filter_map(move |tiles| tile(form, tiles));
        let (short, long): (Vec<_>, Vec<_>) = tiles.partition(|(_, bytes)| *bytes <= SHARED_CORE);
        short.into_iter().chain(long).map(|(tile, _)| tile).take(CANDIDATES)
    };
    of(Form::Cooperative).chain(of(Form::Carried)).collect()
}

/// Loop iterations of one invocation in a step over the keys of a tile. What a rescaling of the outputs adds is left
/// out: the limit is of a driver that has no cooperative matrices.
pub(super) fn iterations(tile: Tile, problem: &AttentionProblem) -> u64 {
    let quads = (problem.score_dim + problem.value_dim).div_ceil(4) as u32 + 8;
    let staging = (tile.keys * quads).div_ceil(tile.lanes);
    let products = (problem.score_dim as u32).div_ceil(8) + tile.keys / 8;
    u64::from(staging + products + 2 * (tile.keys / tile.k_splits.max(1)) + 20)
}
