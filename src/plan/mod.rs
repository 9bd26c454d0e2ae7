//! Every decision about how a problem is run, made once by pure functions of the problem and the device's limits.

mod attention;
mod chunks;
mod cooperative;
mod cost;
mod matmul;
mod reasons;
mod rnn;
mod roofline;
mod scratch;
mod submissions;
mod tiled;
mod tuning;

pub use attention::{AttentionPlan, Form, FusedPlan, LONGEST_HEAD, Tile};
pub use chunks::{Chunk, chunks};
pub use cooperative::CooperativeTiling;
pub use cost::{register_rate, tile_rate};
pub use matmul::{MatmulPlan, ProductForm, ProductShape};
pub use reasons::{UnfitPath, Unfused};
pub use rnn::{Estimate, LoopPlan, RnnPlan, StepPlan, StepShape};
pub use roofline::{Limit, Roofline, Work};
pub use scratch::{Lifetime, ScratchPlan};
pub(crate) use submissions::whole;
pub use submissions::{Step, Submission, submissions};
pub use tiled::Tiling;
pub use tuning::{Bucket, Choice, Tuning};

use crate::device::Caps;
use crate::error::{Error, Result};

/// Rows of a register tile: each invocation computes this many rows of a product in registers.
pub const TILE_ROWS: usize = 4;
/// Columns of a register tile, one every `lanes` apart so that neighbouring lanes touch neighbouring columns.
pub const TILE_COLUMNS: usize = 4;

/// How a matrix product [rows, depth] · [depth, columns], repeated `batches` times, is tiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TilePlan {
    /// Invocations in a workgroup, side by side along the columns.
    pub lanes: u32,
    /// Rows of the register tile that are computed: with 1 the compiler drops the other three.
    pub rows: u32,
    /// Row tiles per batch.
    pub row_tiles: u32,
    /// Column tiles per batch.
    pub column_tiles: u32,
    /// Workgroups in all.
    pub workgroups: u64,
    /// Workgroups in x and y.
    pub grid: [u32; 2],
    /// Ranges of the depth, one dispatch each, which add to the output one after the other.
    pub depth: Vec<(usize, usize)>,
}

impl TilePlan {
    /// Chooses tiles for one product.
    ///
    /// # Errors
    /// [`Error::Limit`] when the grid does not fit the device.
    pub fn new(what: &str, batches: usize, rows: usize, columns: usize, depth: usize, caps: &Caps) -> Result<Self> {
        Self::with_lanes(what, batches, rows, columns, depth, 64, caps)
    }

    /// As [`TilePlan::new`], for a product of which whole tiles may be hidden by a mask: narrower tiles, so that more of them
    /// are. On a card no narrower than most cards' subgroups.
    ///
    /// # Errors
    /// [`Error::Limit`] when the grid does not fit the device.
    pub fn sparse(what: &str, batches: usize, rows: usize, columns: usize, depth: usize, caps: &Caps) -> Result<Self> {
        let most = if caps.software { 16 } else { 32 };
        Self::with_lanes(what, batches, rows, columns, depth, most, caps)
    }

    fn with_lanes(
        what: &str,
        batches: usize,
        rows: usize,
        columns: usize,
        depth: usize,
        most: usize,
        caps: &Caps,
    ) -> Result<Self> {
        // Few columns do not fill 64 lanes; fewer than 8 lanes would leave part of a CPU driver's vector unit idle.
        let lanes =
            columns.div_ceil(TILE_COLUMNS).next_power_of_two().clamp(8, most).min(caps.max_invocations.max(1) as usize);
        let row_tiles = rows.div_ceil(TILE_ROWS);
        let column_tiles = columns.div_ceil(TILE_COLUMNS * lanes);
        let workgroups = (batches * row_tiles * column_tiles) as u64;
        let chunk = (caps.max_iterations as usize).max(1);
        Ok(Self {
            lanes: lanes as u32,
            rows: if rows == 1 { 1 } else { TILE_ROWS as u32 },
            row_tiles: row_tiles as u32,
            column_tiles: column_tiles as u32,
            workgroups,
            grid: grid(what, workgroups, caps)?,
            depth: (0..depth.max(1)).step_by(chunk).map(|start| (start, (start + chunk).min(depth))).collect(),
        })
    }
}

/// Folds a number of workgroups into two dimensions; shaders ignore the ones past the end.
///
/// # Errors
/// [`Error::Limit`] when even two dimensions do not hold them.
pub fn grid(what: &str, workgroups: u64, caps: &Caps) -> Result<[u32; 2]> {
    let limit = u64::from(caps.max_workgroups.max(1));
    let y = workgroups.div_ceil(limit).max(1);
    if y > limit {
        return Err(Error::Limit { what: format!("workgroups of {what}"), needed: workgroups, allowed: limit * limit });
    }
    Ok([workgroups.div_ceil(y).max(1) as u32, y as u32])
}

/// The grid of element-wise work: one element per invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementPlan {
    /// Invocations in a workgroup.
    pub lanes: u32,
    /// Workgroups in x and y.
    pub grid: [u32; 2],
}

impl ElementPlan {
    /// Chooses a workgroup for element-wise work.
    ///
    /// # Errors
    /// [`Error::Limit`] when the grid does not fit the device.
    pub fn new(what: &str, elements: usize, caps: &Caps) -> Result<Self> {
        let lanes = caps.max_invocations.clamp(1, 64);
        Ok(Self { lanes, grid: grid(what, (elements as u64).div_ceil(u64::from(lanes)), caps)? })
    }
}

/// The grid of reductions over rows: one workgroup per row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlan {
    /// Invocations that share a row; a power of two.
    pub lanes: u32,
    /// Workgroups in x and y.
    pub grid: [u32; 2],
    /// Loop iterations of one invocation.
    pub iterations: u64,
}

/// Passes over a row: a sparsemax narrows its support at most this often (Newton steps from below, each of which
/// drops at least one entry; in practice a handful).
pub const SPARSEMAX_STEPS: u32 = 64;

impl RowPlan {
    /// Chooses lanes for rows of `length` entries that are read `passes` times.
    ///
    /// # Errors
    /// [`Error::Limit`] when a row is too long for one workgroup or the grid does not fit the device.
    pub fn new(what: &str, rows: usize, length: usize, passes: u64, caps: &Caps) -> Result<Self> {
        // On a CPU driver each barrier costs a context switch per vector of lanes, so a row gets one vector of them unless
        // it is long.
        let wish = if caps.software { length / 64 } else { length / 4 };
        // A reduction has at most 9 iterations, a loop's last, failing test counts too, and a pass has at most two
        // reductions.
        let iterations = |lanes: usize| passes * (length.div_ceil(lanes) as u64 + 20);
        // The reduction keeps one f32 and one u32 per lane in workgroup memory.
        let most = 256.min(caps.max_invocations as usize).min(caps.max_workgroup_bytes as usize / 8);
        if most < 8 {
            let what = "invocations and bytes of workgroup memory of a reduction".to_owned();
            return Err(Error::Limit { what, needed: 8, allowed: most as u64 });
        }
        let most = 1 << most.ilog2();
        let mut lanes = wish.next_power_of_two().clamp(8, most);
        while iterations(lanes) > caps.max_iterations && lanes < most {
            lanes *= 2;
        }
        if iterations(lanes) > caps.max_iterations {
            return Err(Error::Limit {
                what: format!("loop iterations of {what} over {length} keys"),
                needed: iterations(lanes),
                allowed: caps.max_iterations,
            });
        }
        Ok(Self { lanes: lanes as u32, grid: grid(what, rows as u64, caps)?, iterations: iterations(lanes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceKind;

    #[test]
    fn no_invocation_runs_past_the_iteration_limit() {
        let caps = Caps::of(DeviceKind::Software);
        for depth in [1, 64, 64_999, 65_000, 65_001, 200_000] {
            let plan = TilePlan::new("test", 1, 5, 7, depth, &caps).unwrap();
            assert!(plan.depth.iter().all(|(a, b)| (b - a) as u64 <= caps.max_iterations), "{depth}");
            assert_eq!(plan.depth.first().unwrap().0, 0);
            assert_eq!(plan.depth.last().unwrap().1, depth);
            assert!(plan.depth.windows(2).all(|w| w[0].1 == w[1].0));
        }
        for length in [1, 7, 1000, 65_536, 1_000_000, 4_000_000] {
            let plan = RowPlan::new("test", 3, length, 3, &caps).unwrap();
            assert!(plan.iterations <= caps.max_iterations, "{length}: {}", plan.iterations);
        }
        assert!(RowPlan::new("test", 1, 100_000_000, 3, &caps).is_err());
    }

    #[test]
    fn grids_fold_and_refuse() {
        let caps = Caps::default();
        assert_eq!(grid("x", 0, &caps).unwrap(), [1, 1]);
        assert_eq!(grid("x", 65_535, &caps).unwrap(), [65_535, 1]);
        let [x, y] = grid("x", 65_536, &caps).unwrap();
        assert!(u64::from(x) * u64::from(y) >= 65_536 && x <= 65_535 && y == 2);
        assert!(grid("x", 65_535 * 65_535 + 1, &caps).is_err());
    }

    #[test]
    fn workgroup_memory_bounds_the_lanes() {
        let caps = Caps::default().with(|caps| caps.max_workgroup_bytes = 128);
        assert_eq!(RowPlan::new("test", 1, 4096, 3, &caps).unwrap().lanes, 16);
        assert_eq!(RowPlan::new("test", 1, 4096, 3, &Caps::default()).unwrap().lanes, 256);
    }
}
