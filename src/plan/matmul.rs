//! How one matrix product is cut: which form, by what tiles, split-K.

use super::{grid, tile_rate};
use crate::device::Caps;
use crate::error::Result;

/// Steps of the depth that are read together, and columns of a lane in registers.
const QUAD: usize = 4;

/// Workgroups that a card should have before the depth of a product stays whole: a few for each of its processors.
const WORKGROUPS_WANTED: usize = 128;

/// Quads of the depth of a split at least.
const LEAST_SPLIT: usize = 64;

/// Splits of the depth at most, unless an invocation may not run long enough.
const MOST_SPLITS: usize = 16;

/// y [batches, rows, columns] = x [batches, rows, depth] · w [batches, columns, depth]ᵀ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductShape {
    /// Products with weights of their own.
    pub batches: usize,
    /// M.
    pub rows: usize,
    /// N.
    pub columns: usize,
    /// K.
    pub depth: usize,
}

impl ProductShape {
    /// Multiply-adds.
    fn macs(&self) -> f64 {
        self.batches as f64 * self.rows as f64 * self.columns as f64 * self.depth as f64
    }
}

/// Where a product stages its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProductForm {
    /// In registers: each lane loads its own: on CPU drivers, and for few rows.
    Registers,
    /// Tiles of both operands in workgroup memory.
    Tiled,
    /// The same, multiplied by f16 cooperative matrices: of f16 operands, where the device's are asked for.
    Cooperative {
        /// Rows and columns of a matrix.
        side: u32,
        /// Quads of the depth that are staged at a time.
        k_quads: u32,
    },
}

/// How a matrix product is run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MatmulPlan {
    /// Where the operands are staged.
    pub form: ProductForm,
    /// Rows of a workgroup's tile: 1, 4, 8, 16 or 32 in registers, which are a lane's; 32, 64 or 128 in workgroup memory.
    pub tile_m: u32,
    /// Columns of a workgroup's tile.
    pub tile_n: u32,
    /// Invocations in a workgroup.
    pub lanes: u32,
    /// Split-K within a workgroup: lanes that share a register tile, each with a slice of the depth.
    pub k_splits: u32,
    /// Whether lanes use subgroup operations: to sum the slices of split-K, or to broadcast rows to each other.
    pub subgroups: bool,
    /// Split-K over workgroups: slices of the depth, whose partial sums a second dispatch adds up where there are several.
    pub splits: u32,
    /// Quads of the depth in such a slice.
    pub split_quads: u32,
    /// Tiles along the rows of a batch.
    pub row_tiles: u32,
    /// Tiles along the columns.
    pub column_tiles: u32,
    /// Whether neighbouring workgroups have the same columns, which is when there are more of them than rows.
    pub rows_inner: bool,
    /// Whether the last iteration over the depth goes past its end.
    pub tail: bool,
    /// Workgroups in all.
    pub workgroups: u64,
    /// Workgroups in x and y.
    pub grid: [u32; 2],
    /// Loop iterations of one invocation.
    pub iterations: u64,
}

/// Tiles of one workgroup, before split-K over workgroups.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    form: ProductForm,
    m: usize,
    n: usize,
    lanes: usize,
    k_splits: usize,
    subgroups: bool,
}

impl Tiles {
    /// How many there are, each over the whole depth.
    fn number(&self, shape: &ProductShape) -> usize {
        shape.batches * shape.rows.div_ceil(self.m) * shape.columns.div_ceil(self.n)
    }

    /// Quads of the depth of one iteration of the outer loop.
    fn tile_k(&self) -> usize {
        match self.form {
            ProductForm::Registers => self.k_splits,
            ProductForm::Tiled => self.lanes / (self.m / QUAD),
            ProductForm::Cooperative { k_quads, .. } => k_quads as usize,
        }
    }

    /// Nanoseconds of a workgroup for a quad of the depth: the weights are read, then each row takes its share. Measured
    /// on software Vulkan (lavapipe 22.3, Zen 5); a card's are an assumption.
    fn quad_time(&self, caps: &Caps) -> f64 {
        let macs = (QUAD * self.m * self.n) as f64;
        match self.form {
            ProductForm::Registers if caps.software => {
                (if self.m == 1 { 60.0 } else { 56.0 + 6.0 * self.m as f64 }) * self.n as f64 / 32.0
            }
            ProductForm::Registers => macs / tile_rate(self.m, caps),
            ProductForm::Tiled | ProductForm::Cooperative { .. } => macs / tile_rate(QUAD * QUAD, caps),
        }
    }

    /// Nanoseconds of a product with split-K over so many slices.
    fn time(&self, shape: &ProductShape, splits: usize, caps: &Caps) -> f64 {
        let workers = caps.workers.max(1) as usize;
        let waves = (splits * self.number(shape)).div_ceil(workers) as f64;
        let quads = shape.depth.div_ceil(QUAD).div_ceil(splits) as f64;
        // Partial sums are written, then read and added up by a second dispatch.
        let reduction = match splits {
            1 => 0.0,
            _ => {
                let sums = (splits * shape.batches * shape.rows * shape.columns) as f64;
                caps.rates.dispatch + sums / workers as f64
            }
        };
        waves * quads * self.quad_time(caps) + reduction
    }
}

/// The largest power of two that is at most `n`.
fn power_of_two_within(n: u32) -> usize {
    1 << n.max(1).ilog2()
}

impl MatmulPlan {
    /// Bytes of workgroup memory of the tiled form.
    const TILED_BYTES: u32 = 2 * 64 * 80;

    /// Multiply-adds from which the larger tiles of a CPU driver are worth their compilation: 16 rows, and 32.
    const SOME_MACS: f64 = 1e6;
    const MANY_MACS: f64 = 5e7;

    /// Chooses form, tiles and split-K, for operands of which one at least is f32.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) when the grid does not fit the device.
    pub fn new(what: &str, shape: &ProductShape, caps: &Caps) -> Result<Self> {
        Self::of_operands(what, shape, false, caps)
    }

    /// As [`MatmulPlan::new`], for operands that are both f16 if `half`.
    ///
    /// # Errors
    /// As [`MatmulPlan::new`].
    pub fn of_operands(what: &str, shape: &ProductShape, half: bool, caps: &Caps) -> Result<Self> {
        let matrices = half.then(|| Self::by_matrices(shape, caps)).flatten();
        let tiles = match matrices {
            Some(tiles) => tiles,
            None if caps.software => Self::for_cpu(shape, caps),
            None => Self::for_card(shape, caps),
        };
        let (quads, tile_k) = (shape.depth.div_ceil(QUAD), tiles.tile_k());
        let splits = Self::splits(shape, &tiles, caps);
        let split_quads = quads.div_ceil(splits).max(1).next_multiple_of(tile_k);
        let splits = quads.div_ceil(split_quads).max(1);
        let [row_tiles, column_tiles] = [shape.rows.div_ceil(tiles.m), shape.columns.div_ceil(tiles.n)];
        let workgroups = (splits * tiles.number(shape)) as u64;
        Ok(Self {
            form: tiles.form,
            tile_m: tiles.m as u32,
            tile_n: tiles.n as u32,
            lanes: tiles.lanes as u32,
            k_splits: tiles.k_splits as u32,
            subgroups: tiles.subgroups,
            splits: splits as u32,
            split_quads: split_quads as u32,
            row_tiles: row_tiles as u32,
            column_tiles: column_tiles as u32,
            rows_inner: shape.rows < shape.columns,
            tail: !shape.depth.is_multiple_of(QUAD * tile_k),
            workgroups,
            grid: grid(what, workgroups, caps)?,
            iterations: Self::iterations(&tiles, split_quads),
        })
    }

    /// Loop iterations of an invocation over a slice of so many quads of the depth; a loop's last, failing test counts too.
    fn iterations(tiles: &Tiles, quads: usize) -> u64 {
        let iterations = match tiles.form {
            ProductForm::Registers => quads.div_ceil(tiles.tile_k()) + 2,
            ProductForm::Tiled => quads.div_ceil(tiles.tile_k()) * (tiles.tile_k() + 2) + 1,
            ProductForm::Cooperative { side, .. } => {
                // Staging, the matrices along the depth, and what the lanes store in the end.
                let staging = tiles.tile_k() * (tiles.m + tiles.n / QUAD) / tiles.lanes + 3;
                let products = QUAD * tiles.tile_k() / side as usize + 1;
                quads.div_ceil(tiles.tile_k()) * (staging + products) + tiles.m * tiles.n / QUAD / tiles.lanes + 9
            }
        };
        // The sums over K_SPLITS slices, of two register tiles at most.
        (iterations + 2 * (tiles.k_splits + 1)) as u64
    }

    /// Registers alone, as barriers are expensive: the tile that takes the least time, which is a matter of how many rows
    /// are computed for nothing.
    fn for_cpu(shape: &ProductShape, caps: &Caps) -> Tiles {
        // A subgroup, which is a vector of the processor; half of one of 16 lanes stays idle in narrow products.
        let lanes = if caps.subgroups { caps.max_subgroup.clamp(8, 16) as usize } else { 8 };
        let lanes = lanes.min(power_of_two_within(caps.max_invocations));
        let broadcast = caps.subgroups && caps.min_subgroup >= 8 && lanes >= 8;
        let of = |m: usize| Tiles {
            form: ProductForm::Registers,
            m,
            n: QUAD * lanes,
            lanes,
            k_splits: 1,
            subgroups: broadcast,
        };
        let sizes: &[usize] = match shape.rows {
            0 | 1 => &[1],
            2..=4 => &[4],
            _ if shape.macs() < Self::SOME_MACS => &[4, 8],
            _ if shape.macs() < Self::MANY_MACS => &[4, 8, 16],
            _ => &[4, 8, 16, 32],
        };
        let time = |m: &&usize| of(**m).time(shape, 1, caps);
        let best = sizes.iter().min_by(|a, b| time(a).total_cmp(&time(b)));
        of(best.copied().unwrap_or(4))
    }

    /// Few rows in registers, split-K over lanes; else tiles in workgroup memory, the larger ones where they are
    /// enough to fill the card.
    fn for_card(shape: &ProductShape, caps: &Caps) -> Tiles {
        let lanes = power_of_two_within(caps.max_invocations).min(64);
        let fits = caps.max_workgroup_bytes >= Self::TILED_BYTES && lanes == 64;
        if shape.rows > 8 && fits {
            let of = |side| Tiles { form: ProductForm::Tiled, m: side, n: side, lanes, k_splits: 1, subgroups: false };
            let large = of(64);
            // 64 sums, 16 operands and 32 on their way into the tile, which are compared with the end where it is not whole.
            let tail = !shape.depth.is_multiple_of(QUAD * large.tile_k());
            let has_registers = caps.registers.of_lane(lanes) >= if tail { 136 } else { 124 };
            return if has_registers && large.number(shape) >= WORKGROUPS_WANTED { large } else { of(32) };
        }
        let m = match shape.rows {
            0 | 1 => 1,
            2..=4 => 4,
            _ => 8,
        };
        let subgroups = caps.subgroups && lanes.is_multiple_of(caps.max_subgroup.max(1) as usize);
        let limit = if subgroups { power_of_two_within(caps.min_subgroup) } else { 8 };
        // 16 partial sums of each lane, where they are added up through workgroup memory.
        let shared = subgroups || caps.max_workgroup_bytes as usize >= 64 * lanes;
        let k_splits = if shared { limit.min(8).min(lanes) } else { 1 };
        Tiles {
            form: ProductForm::Registers,
            m,
            n: QUAD * lanes / k_splits,
            lanes,
            k_splits,
            subgroups: subgroups && k_splits > 1,
        }
    }

    /// Tiles of cooperative matrices, where they are asked for: the larger ones where they are enough to fill the card; none for
    /// so few rows that most of a matrix would be empty.
    fn by_matrices(shape: &ProductShape, caps: &Caps) -> Option<Tiles> {
        let side = caps.cooperative.filter(|side| shape.rows > *side as usize / 2)?;
        let lanes = 4 * caps.max_subgroup.max(1);
        // Rows, and quads of the depth staged at a time: 30, 28 and 16 KiB.
        let sizes = [(128, 8), (64, 16), (64, 4)].map(|(m, k_quads)| {
            let form = ProductForm::Cooperative { side, k_quads };
            let tiles = Tiles { form, m, n: m, lanes: lanes as usize, k_splits: 1, subgroups: true };
            // `x_tile`, `w_tile` and `sums`.
            (tiles, 2 * m as u32 * (k_quads + 2) * 8 + 4 * side * (side / 2 + 2) * 16)
        });
        // A subgroup has variables for 16 matrices.
        let fits = |(tiles, bytes): &(Tiles, u32)| {
            let large = side == 16 && tiles.number(shape) >= WORKGROUPS_WANTED;
            *bytes <= caps.max_workgroup_bytes && (tiles.m == 64 || large)
        };
        sizes.into_iter().find(fits).map(|(tiles, _)| tiles).filter(|_| lanes <= caps.max_invocations)
    }

    /// Slices of the depth: as many as the limit of loop iterations needs, or more where tiles are few.
    fn splits(shape: &ProductShape, tiles: &Tiles, caps: &Caps) -> usize {
        let quads = shape.depth.div_ceil(QUAD);
        let mut least = 1;
        while Self::iterations(tiles, quads.div_ceil(least)) > caps.max_iterations && least < quads {
            least += 1;
        }
        let most = (quads / LEAST_SPLIT).min(MOST_SPLITS).max(least);
        let number = tiles.number(shape).max(1);
        if caps.software {
            let time = |splits: &usize| tiles.time(shape, *splits, caps);
            let workers = caps.workers.max(1) as usize;
            let most = most.min(workers.div_ceil(number)).max(least);
            return (least..=most).min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(least);
        }
        WORKGROUPS_WANTED.div_ceil(number).clamp(least, most)
    }

    /// Nanoseconds by the cost model.
    pub fn time(&self, shape: &ProductShape, caps: &Caps) -> f64 {
        let tiles = Tiles {
            form: self.form,
            m: self.tile_m as usize,
            n: self.tile_n as usize,
            lanes: self.lanes as usize,
            k_splits: self.k_splits as usize,
            subgroups: self.subgroups,
        };
        caps.rates.dispatch + tiles.time(shape, self.splits as usize, caps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(caps: &Caps, [batches, rows, columns, depth]: [usize; 4]) -> MatmulPlan {
        MatmulPlan::new("test", &ProductShape { batches, rows, columns, depth }, caps).unwrap()
    }

    fn devices() -> [Caps; 3] {
        let card = Caps::default();
        [
            card.with(|caps| {
                caps.software = true;
                caps.workers = 2;
            }),
            card.with(|caps| caps.subgroups = true),
            card,
        ]
    }

    #[test]
    fn splits_are_the_whole_depth_and_no_invocation_runs_past_the_iteration_limit() {
        for caps in devices() {
            for depth in [0, 1, 3, 4, 64, 1000, 70_000, 260_001, 3_000_000] {
                for rows in [1, 5, 70] {
                    let plan = plan(&caps, [1, rows, 7, depth]);
                    assert!(plan.iterations <= caps.max_iterations, "{depth}: {plan:?}");
                    let quads = depth.div_ceil(4) as u32;
                    assert!(
                        plan.splits * plan.split_quads >= quads && (plan.splits - 1) * plan.split_quads <= quads,
                        "{plan:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn tiles_cover_the_product() {
        for caps in devices() {
            for rows in [1, 2, 4, 5, 8, 9, 16, 17, 33, 1000] {
                for columns in [1, 31, 32, 33, 1000] {
                    let plan = plan(&caps, [3, rows, columns, 20]);
                    assert!((plan.row_tiles * plan.tile_m) as usize >= rows);
                    assert!((plan.column_tiles * plan.tile_n) as usize >= columns);
                    assert_eq!(plan.workgroups, u64::from(3 * plan.splits * plan.row_tiles * plan.column_tiles));
                }
            }
        }
    }

    #[test]
    fn forms_by_device_and_rows() {
        let [software, subgroups, card] = devices();
        let one = plan(&software, [1, 1, 384, 384]);
        assert_eq!((one.form, one.tile_m, one.k_splits), (ProductForm::Registers, 1, 1));
        // Narrow products take the smaller tiles, which compile faster.
        assert_eq!(plan(&software, [1, 39, 64, 64]).tile_m, 8);
        // 39 rows are 48 in sixteens, which still take less than 40 in eights: a load of the weights serves more of them.
        assert_eq!(plan(&software, [1, 39, 384, 384]).tile_m, 16);
        assert_eq!(plan(&software, [1, 128, 384, 384]).tile_m, 16);
        assert_eq!(plan(&software, [1, 512, 512, 512]).tile_m, 32);
        for caps in [subgroups, card.clone()] {
            assert_eq!(plan(&caps, [1, 8, 384, 384]).form, ProductForm::Registers);
            assert_eq!(plan(&caps, [1, 1024, 1024, 384]).tile_m, 64);
            let few = plan(&caps, [1, 64, 64, 4096]);
            assert_eq!((few.form, few.tile_m), (ProductForm::Tiled, 32));
            assert!(few.splits > 1);
        }
        let matrices = |side: u32, bytes: u32| {
            card.with(|caps| {
                (caps.f16, caps.subgroups, caps.cooperative) = (true, true, Some(side));
                (caps.min_subgroup, caps.max_subgroup, caps.max_workgroup_bytes) = (32, 32, bytes);
            })
        };
        let by = |caps: &Caps, half: bool, [rows, columns, depth]: [usize; 3]| {
            let shape = ProductShape { batches: 1, rows, columns, depth };
            let plan = MatmulPlan::of_operands("test", &shape, half, caps).unwrap();
            assert!(plan.iterations <= caps.max_iterations, "{plan:?}");
            (matches!(plan.form, ProductForm::Cooperative { .. }), plan.tile_m, plan.splits)
        };
        for side in [8, 16] {
            let caps = matrices(side, 32 << 10);
            // f16 alone, and rows that fill half a matrix.
            assert!(!by(&caps, false, [512, 512, 512]).0 && !by(&caps, true, [4, 512, 512]).0);
            assert!(by(&caps, true, [9, 40, 30]).0 && by(&caps, true, [4096, 4096, 4096]).0);
            assert_eq!(by(&caps, true, [4096, 4096, 4096]).1, if side == 16 { 128 } else { 64 });
            assert!(by(&caps, true, [64, 64, 70_000]).2 > 1);
            assert!(by(&matrices(side, 16 << 10), true, [512, 512, 512]).0);
            assert!(!by(&matrices(side, 8 << 10), true, [512, 512, 512]).0);
        }
        // Tiles that do not fit are not taken.
        let small = card.with(|caps| caps.max_workgroup_bytes = 4096);
        assert_eq!(plan(&small, [1, 1024, 1024, 384]).form, ProductForm::Registers);
    }
}
