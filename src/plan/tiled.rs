//! Tiles of attention staged in the workgroup memory of a card.

use super::Tile;
use crate::device::Caps;
use crate::problem::AttentionProblem;

/// Bytes of four f32.
const VEC4: u64 = 16;

/// How the rows, keys and dimensions of a tile are assigned to lanes, `lanes_m` × `lanes_n` of them (`flash.wgsl`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Lanes along the queries.
    pub lanes_m: u32,
    /// Lanes that share the same queries: each has four keys of a tile and four dimensions of a slice of values.
    pub lanes_n: u32,
    /// Quads of queries of a lane, 1 or 2.
    pub row_quads: u32,
    /// Quads of dimensions of Q and K that are staged together, and quads of values.
    pub chunk: u32,
    /// Slices of 4 · `lanes_n` dimensions of a value that are staged together: 2 where a lane has two quads of rows and a value
    /// an even number of slices, as it then reads the weights half as often.
    pub value_slices: u32,
    /// Slices of a value.
    pub slices: u32,
}

impl Tiling {
    /// Quads of a chunk: 128 neighbouring bytes of a row in f32.
    const CHUNK: u32 = 8;
    /// Slices of a value at most: variables of the shader.
    const MOST_SLICES: u32 = 4;
    /// Registers of a lane for each quad of rows, beside its accumulators, scores and operands: row max and row sum, indices
    /// and addresses. Held against the compilers' counts by `tests/cards`.
    const OTHER_REGISTERS: u32 = 38;
    /// What a tanh for each pair and unit wants beside.
    const ADDITIVE_REGISTERS: u32 = 40;

    /// The tiling of a tile.
    pub fn new(tile: Tile, problem: &AttentionProblem) -> Self {
        let lanes_n = (tile.keys / 4).max(1);
        let lanes_m = (tile.lanes / lanes_n).max(1);
        let slices = (problem.value_dim as u32).div_ceil(4 * lanes_n);
        let row_quads = (tile.queries / 4 / lanes_m).max(1);
        Self {
            lanes_m,
            lanes_n,
            row_quads,
            chunk: Self::CHUNK.min(lanes_n),
            value_slices: if lanes_n == 8 && row_quads == 2 && slices.is_multiple_of(2) { 2 } else { 1 },
            slices,
        }
    }

    /// Whether the shader has variables for so many slices.
    pub fn is_possible(&self) -> bool {
        self.slices <= Self::MOST_SLICES
    }

    /// Quads of a value that are staged together.
    pub fn staged_quads(&self) -> usize {
        (self.value_slices * self.lanes_n) as usize
    }

    /// Workgroup memory in bytes, without reductions: `qp_tile`, `kv_tile` and `has_non_finite`.
    pub fn bytes(&self) -> u64 {
        let [m, n, quads, chunk, slices] =
            [self.lanes_m, self.lanes_n, self.row_quads, self.chunk, self.value_slices].map(u64::from);
        n * (4 * quads * m + 1) * VEC4 + slices * chunk * (4 * n + 1) * VEC4 + 16
    }

    /// f32 registers of a lane where most are needed: all accumulators, and the larger of the scores with their operands
    /// and of the weights with values.
    pub fn registers(&self, additive: bool) -> u32 {
        let accumulators = 16 * self.row_quads * self.slices;
        let scores = 16 * (2 * self.row_quads + 1);
        let weights = 16 * (self.row_quads + self.value_slices);
        let tanh = if additive { Self::ADDITIVE_REGISTERS } else { 0 };
        accumulators + scores.max(weights) + Self::OTHER_REGISTERS * self.row_quads + tanh
    }

    /// Whether the lanes of a workgroup have so many registers.
    pub fn fits_registers(&self, additive: bool, caps: &Caps) -> bool {
        let lanes = (self.lanes_m * self.lanes_n) as usize;
        caps.software || self.registers(additive) as usize <= caps.registers.of_lane(lanes)
    }

    /// Loop iterations of an invocation for a tile of keys; a loop's last, failing test counts too.
    pub fn iterations(&self, problem: &AttentionProblem) -> u64 {
        let [m, n, quads, chunk] = [self.lanes_m, self.lanes_n, self.row_quads, self.chunk].map(u64::from);
        let chunks = (problem.score_dim.div_ceil(4) as u64).div_ceil(chunk);
        let key_loads = (4 * chunk).div_ceil(m).div_ceil(2) + 1;
        let query_loads = (4 * quads * chunk).div_ceil(n).div_ceil(4) + 1;
        let values = u64::from(self.slices.div_ceil(self.value_slices)) * n.div_ceil(chunk);
        // Finding the sequence of a query takes up to 33 iterations.
        let ranges = if problem.sequences.is_some() { 34 * 4 * quads } else { 0 };
        chunks * (chunk + 2 + query_loads + key_loads) + values * (4 * chunk + 2 + key_loads) + ranges + 60
    }
}
