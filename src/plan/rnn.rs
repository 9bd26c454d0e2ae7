//! How a recurrence is run: which path, by a cost model, and with what tiles.

use super::{MatmulPlan, ProductShape, UnfitPath, register_rate, tile_rate};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::problem::{RnnProblem, RnnWidths};
use crate::rnn::{Cell, Reset, Rnn, RnnAlgorithm, Steps};
use crate::tensor::DType;

/// Batch rows in one column of a register tile, and units in one of its components.
const QUAD: usize = 4;

/// Lanes that a dispatch should have before it goes without split-K: enough to hide the latency of
/// memory on a middling card.
const LANES_WANTED: usize = 16_384;

/// Slices of the depth (split-K) at most; more would leave each with too little to do between the sums.
const MOST_SPLITS: usize = 8;

/// Persistent path: dispatches of a layer at most, each a range of steps.
pub(super) const MOST_RANGES: usize = 1 << 16;

/// The product of a step: [K, rows]ᵀ · [K, 4·quads] for each gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepShape {
    /// Batch rows.
    pub rows: usize,
    /// Quads of units.
    pub quads: usize,
    /// K, of both products together where there are two.
    pub depth: usize,
    /// Such products side by side: directions, or layers of a wavefront.
    pub copies: usize,
    /// Gates whose sums a lane has.
    pub gates: usize,
    /// Whether it has the product with the layer below as well.
    pub stacked: bool,
}

/// Tiles of the product of a step, [K, rows]ᵀ · [K, 4·quads] for each gate, as `recurrent` computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepPlan {
    /// Rows of a tile: 1, 4 or 8.
    pub rows: u32,
    /// Tiles along the rows.
    pub row_tiles: u32,
    /// Lanes of a workgroup.
    pub lanes: u32,
    /// Split-K: slices of the depth, each with `lanes / k_splits` lanes.
    pub k_splits: u32,
    /// Whether the slices are summed by subgroup operations.
    pub subgroups: bool,
    /// Whether four steps of the depth are loaded at a time, so that more loads are in flight. A CPU driver has none in
    /// flight, and is up to 9 % slower with them.
    pub fours: bool,
}

impl StepPlan {
    /// Registers of a lane beside its sums and their copies.
    const OTHER_REGISTERS: usize = 40;

    /// Registers of a lane with a tile of so many rows: its sums, and as many again for each loop over a depth, on entry to
    /// and exit from which NVIDIA's compiler (Mesa's) copies them. It takes 168 for 64 sums and one loop, 232 for 96, 232 for
    /// 64 and two loops; AMD's 108 to 192 for 64 to 128.
    fn lane_registers(shape: &StepShape, rows: usize) -> usize {
        let loops = 1 + usize::from(shape.stacked);
        QUAD * rows * shape.gates * (1 + loops) + Self::OTHER_REGISTERS
    }

    /// Chooses tiles.
    pub fn new(shape: &StepShape, caps: &Caps) -> Self {
        let StepShape { rows, quads, depth, copies, .. } = *shape;
        let lanes_of = |tile: usize| copies * rows.div_ceil(tile) * quads;
        let fits = |tile: usize| Self::lane_registers(shape, tile) <= caps.registers.of_lane(64);
        // On a card the taller tile, which loads half as many weights, only where it leaves enough lanes.
        let tile = match rows {
            1 => 1,
            2..=4 => QUAD,
            _ if caps.software || (lanes_of(2 * QUAD) >= LANES_WANTED && fits(2 * QUAD)) => 2 * QUAD,
            _ => QUAD,
        };
        let most = caps.max_invocations.max(1) as usize;
        // A CPU driver runs vectors of eight lanes, and one workgroup after the other on each thread.
        let lanes = if caps.software { 8 } else { 64 }.min(1 << most.ilog2());
        let mut k_splits = 1;
        if !caps.software {
            let least = caps.min_subgroup.max(1) as usize;
            let limit = if caps.subgroups { MOST_SPLITS.min(1 << least.ilog2()) } else { MOST_SPLITS };
            while k_splits < limit
                && lanes_of(tile) * k_splits < LANES_WANTED
                && depth >= 16 * k_splits
                && lanes / (2 * k_splits) >= 1
            {
                k_splits *= 2;
            }
        }
        let lanes = lanes.min((quads.next_power_of_two() * k_splits).max(8));
        let subgroups = k_splits > 1 && caps.subgroups && lanes.is_multiple_of(caps.max_subgroup.max(1) as usize);
        Self {
            rows: tile as u32,
            row_tiles: rows.div_ceil(tile) as u32,
            lanes: lanes as u32,
            k_splits: k_splits.min(lanes) as u32,
            subgroups,
            fours: !caps.software,
        }
    }

    /// Quads of columns of a workgroup.
    pub fn columns(&self) -> usize {
        (self.lanes / self.k_splits) as usize
    }

    /// Multiply-adds per ns of the whole device at this tile.
    fn rate(&self, workgroups: usize, caps: &Caps) -> f64 {
        tile_rate(self.rows as usize, caps) * (workgroups.clamp(1, caps.workers.max(1) as usize) as f64)
    }
}

/// The persistent path: the loop over time runs inside a dispatch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoopPlan {
    /// H rounded up to a multiple of 4.
    pub units: u32,
    /// Split-K: slices of the depth, 1 to 8.
    pub k_splits: u32,
    /// Blocks of four steps of the depth in a lane's registers.
    pub split_blocks: u32,
    /// Ranges of steps, one dispatch each, so that no invocation runs too many iterations and no dispatch takes too long.
    pub ranges: Vec<(usize, usize)>,
}

impl LoopPlan {
    /// Blocks of four steps of the depth that `recurrent_loop` has names for.
    const MOST_BLOCKS: usize = 8;
    /// Registers of a lane beside its weights. Mesa's compilers take 16 to 40 on NVIDIA, 24 to 60 on AMD, 24 to 43 on Apple's.
    const OTHER_REGISTERS: usize = 44;

    /// Registers of a lane with so many blocks of the weights of all its gates.
    fn lane_registers(cell: Cell, blocks: usize) -> usize {
        QUAD * cell.gates() * blocks + Self::OTHER_REGISTERS
    }

    /// # Errors
    /// When the weights of one row's recurrence do not fit the registers of a workgroup, or a step takes several dispatches.
    fn new(options: &Rnn, problem: &RnnProblem, caps: &Caps) -> Result<Self, UnfitPath> {
        if options.layer_norm.is_some() {
            return Err(UnfitPath::LayerNorm);
        }
        if problem.projected {
            return Err(UnfitPath::Projection);
        }
        let quads = problem.hidden.div_ceil(QUAD);
        let blocks = |k_splits: usize| quads.div_ceil(k_splits);
        let lanes = |k_splits: usize| quads * QUAD * k_splits;
        let needed = |k_splits: usize| Self::lane_registers(options.cell, blocks(k_splits));
        // The fewest slices with which no weight leaves the registers. A CPU driver has a stack instead.
        let fits = |&k: &usize| {
            blocks(k) <= Self::MOST_BLOCKS && (caps.software || needed(k) <= caps.registers.of_lane(lanes(k)))
        };
        let Some(k_splits) = (1..=MOST_SPLITS).find(fits) else {
            let registers = needed(MOST_SPLITS);
            let allowed = caps.registers.of_lane(lanes(MOST_SPLITS));
            return Err(UnfitPath::Registers { units: problem.hidden, registers, allowed });
        };
        let (split_blocks, lanes) = (blocks(k_splits), lanes(k_splits));
        let bytes = 144 * k_splits.max(2) + 16 * lanes;
        if lanes > caps.max_invocations as usize || bytes > caps.max_workgroup_bytes as usize {
            let (max_lanes, max_bytes) = (caps.max_invocations, caps.max_workgroup_bytes);
            return Err(UnfitPath::Workgroup { units: problem.hidden, lanes, bytes, max_lanes, max_bytes });
        }
        // The loop over time is the only one; its last, failing test counts too.
        let few = caps.max_iterations.saturating_sub(8) as usize;
        let plan = Self {
            units: (quads * QUAD) as u32,
            k_splits: k_splits as u32,
            split_blocks: split_blocks as u32,
            ranges: Vec::new(),
        };
        // The work of a workgroup cannot be divided, so the steps of a dispatch are bounded by the time of one row.
        let short = (caps.longest_dispatch.as_nanos() as f64 / plan.step_time(options, problem, caps)) as usize;
        let range = few.min(short).max(1);
        if problem.steps.div_ceil(range) > MOST_RANGES {
            return Err(UnfitPath::Ranges { steps: problem.steps, range });
        }
        let ranges = (0..problem.steps).step_by(range).map(|t| (t, (t + range).min(problem.steps))).collect();
        Ok(Self { ranges, ..plan })
    }

    /// Nanoseconds of one step of one row by the cost model.
    fn step_time(&self, options: &Rnn, problem: &RnnProblem, caps: &Caps) -> f64 {
        let passes = if stages(options, problem.projected) > 1 { 2.0 } else { 1.0 };
        let macs = (problem.state * options.cell.gates().max(QUAD) * problem.hidden) as f64;
        // Two barriers, and the exchange of partial sums between them costs about a third.
        passes * (macs / register_rate(caps) + 3.0 * caps.rates.barrier * f64::from(self.lanes()))
    }

    /// Lanes of the workgroup.
    pub fn lanes(&self) -> u32 {
        self.units * self.k_splits
    }

    /// Rows of the workgroup's copy of h, each with a slice of the depth; a single slice has two, in turns.
    pub fn hidden_rows(&self) -> u32 {
        self.k_splits.max(2)
    }

    /// Loop iterations of one invocation over the longest range of steps.
    pub fn iterations(&self) -> u64 {
        self.ranges.iter().map(|(a, b)| b - a).max().unwrap_or(0) as u64 + 8
    }
}

/// What a path would take, or why it cannot be taken.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// The path.
    pub path: RnnAlgorithm,
    /// Dispatches of the recurrence itself (not of X·W, nor of copies).
    pub dispatches: usize,
    /// Nanoseconds by the cost model, X·W included; or the reason why it cannot be.
    pub nanoseconds: Result<f64, UnfitPath>,
}

/// How a recurrence is run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RnnPlan {
    /// The path taken, never [`RnnAlgorithm::Auto`].
    pub path: RnnAlgorithm,
    /// Every path.
    pub estimates: Vec<Estimate>,
    /// Dispatches of the recurrence itself.
    pub dispatches: usize,
    /// U·h, on the paths with a dispatch for each step.
    pub step: StepPlan,
    /// The loop over time, where it can run inside a dispatch.
    pub persistent: Option<LoopPlan>,
    /// Multiplications and additions of all products.
    pub flops: u64,
    /// Bytes of weights, inputs and outputs, each counted once.
    pub bytes: u64,
}

/// Dispatches of one step of a layer.
fn stages(options: &Rnn, projected: bool) -> usize {
    1 + usize::from(options.cell == Cell::Gru { reset: Reset::Before })
        + usize::from(options.layer_norm.is_some())
        + usize::from(projected)
}

impl RnnPlan {
    /// Whether a stack can run as a wavefront.
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn wavefront(
        options: &Rnn,
        widths: &RnnWidths,
        layers: usize,
        element: DType,
        caps: &Caps,
    ) -> Result<(), UnfitPath> {
        let stages = stages(options, widths.projected);
        let units = widths.hidden.next_multiple_of(QUAD);
        let bytes = element.bytes_of(layers * widths.state * options.cell.gates() * units) as u64;
        let allowed = caps.max_tensor_bytes();
        if options.direction.count() == 2 {
            return Err(UnfitPath::TwoDirections);
        }
        if stages > 1 {
            return Err(UnfitPath::Stages(stages));
        }
        if layers < 2 {
            return Err(UnfitPath::OneLayer);
        }
        if bytes > allowed {
            return Err(UnfitPath::Binding { bytes, allowed });
        }
        Ok(())
    }

    /// Chooses path and tiles; `element` is the storage of the weights.
    ///
    /// # Errors
    /// [`Error::Option`] when the path asked for cannot be taken.
    pub fn new(options: &Rnn, problem: &RnnProblem, element: DType, caps: &Caps) -> Result<Self> {
        let p = problem;
        let (gates, dispatch) = (options.cell.gates(), caps.rates.dispatch);
        let quads = p.hidden.div_ceil(QUAD);
        let rows = p.steps * p.batch;
        let product = |depth: usize, width: usize, rows: usize| (depth * width * rows) as f64;
        let projected = p.projected;
        let stages = stages(options, projected);
        let columns = p.directions * gates * quads * QUAD;
        let inputs = p.inputs.iter().map(|&depth| {
            let shape = ProductShape { batches: 1, rows, columns, depth };
            Ok(MatmulPlan::new("X·W", &shape, caps)?.time(&shape, caps))
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let all_inputs: f64 = inputs.iter().sum();

        let shape = StepShape { rows: p.batch, quads, depth: p.state, copies: p.directions, gates, stacked: false };
        let step = StepPlan::new(&shape, caps);
        let step_macs = product(p.state, p.directions * gates * p.hidden, p.batch)
            + if projected { product(p.hidden, p.directions * p.state, p.batch) } else { 0.0 };
        let tiles = |plan: &StepPlan, copies: usize| copies * plan.row_tiles as usize * quads.div_ceil(plan.columns());
        let steps_time = all_inputs
            + (p.layers * p.steps) as f64
                * (stages as f64 * dispatch + step_macs / step.rate(tiles(&step, p.directions), caps));

        // A GRU has sums of its own for what the layer below adds to n.
        let sums = if matches!(options.cell, Cell::Gru { .. }) { gates + 1 } else { gates };
        let shape = StepShape { depth: 2 * p.state, copies: p.layers, gates: sums, stacked: true, ..shape };
        let wave = StepPlan::new(&shape, caps);
        let widths = RnnWidths { inputs: p.inputs.clone(), hidden: p.hidden, state: p.state, projected };
        let wavefront = Self::wavefront(options, &widths, p.layers, element, caps).map(|()| {
            let macs = step_macs * (2 * p.layers - 1) as f64;
            let time = dispatch + macs / wave.rate(tiles(&wave, p.layers), caps);
            inputs[0] + (p.steps + p.layers - 1) as f64 * time
        });

        let persistent = LoopPlan::new(options, p, caps);
        let loop_time = persistent.as_ref().map_err(|&reason| reason).map(|plan| {
            let waves = (p.batch * p.directions).div_ceil(caps.workers.max(1) as usize) as f64;
            let step = plan.step_time(options, p, caps);
            all_inputs + p.layers as f64 * (plan.ranges.len() as f64 * dispatch + waves * p.steps as f64 * step)
        });
        let estimates = vec![
            Estimate {
                path: RnnAlgorithm::Steps,
                dispatches: p.layers * p.steps * stages,
                nanoseconds: Ok(steps_time),
            },
            Estimate { path: RnnAlgorithm::Wavefront, dispatches: p.steps + p.layers - 1, nanoseconds: wavefront },
            Estimate {
                path: RnnAlgorithm::Persistent,
                dispatches: persistent.as_ref().map_or(0, |plan| p.layers * plan.ranges.len()),
                nanoseconds: loop_time,
            },
        ];
        let time = |e: &Estimate| e.nanoseconds.unwrap_or(f64::INFINITY);
        let chosen = match options.path {
            RnnAlgorithm::Auto => estimates.iter().min_by(|a, b| time(a).total_cmp(&time(b))),
            // A wavefront of one layer is the same as its steps.
            RnnAlgorithm::Wavefront if p.layers == 1 => estimates.iter().find(|e| e.path == RnnAlgorithm::Steps),
            path => estimates.iter().find(|e| e.path == path),
        };
        let Some(chosen) = chosen else {
            return Err(Error::option("path", "no such path"));
        };
        if let Err(reason) = &chosen.nanoseconds {
            let path = format!("{:?}", chosen.path).to_lowercase();
            return Err(Error::option("path", format!("{path} cannot run this: {reason}")));
        }
        // X·W + b of all steps is one tensor.
        let needed = DType::F32.bytes_of(rows * p.directions * gates * quads * QUAD) as u64;
        let allowed = caps.max_tensor_bytes();
        if needed > allowed {
            let what = "bytes of the gates' inputs of all steps (run the sequence in chunks)".to_owned();
            return Err(Error::Limit { what, needed, allowed });
        }
        let weights: usize = p
            .inputs
            .iter()
            .map(|input| {
                p.directions * (gates * p.hidden * (input + p.state) + if projected { p.state * p.hidden } else { 0 })
            })
            .sum();
        let (path, dispatches) = (chosen.path, chosen.dispatches);
        let outputs = if options.steps == Steps::All { rows } else { p.batch };
        Ok(Self {
            path,
            dispatches,
            step: if path == RnnAlgorithm::Wavefront { wave } else { step },
            persistent: persistent.ok().filter(|_| path == RnnAlgorithm::Persistent),
            estimates,
            flops: 2 * (weights * rows) as u64,
            bytes: (element.bytes_of(weights + rows * p.inputs[0]) + DType::F32.bytes_of(outputs * p.width)) as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceKind, Registers};
    use crate::rnn::{RnnInputs, RnnWeights};

    const CELLS: [Cell; 4] =
        [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn];

    fn card(registers: Registers) -> Caps {
        Caps::of(DeviceKind::Discrete).with(|caps| {
            (caps.max_invocations, caps.max_workgroup_bytes, caps.registers) = (1024, 32 << 10, registers);
        })
    }

    fn loop_plan(cell: Cell, hidden: usize, caps: &Caps) -> Result<LoopPlan, UnfitPath> {
        let options = Rnn::new(cell);
        let (weight, input) = ([cell.gates() * hidden, hidden], [64, 1, hidden]);
        let stack = vec![vec![RnnWeights::new(&weight[..], &weight[..])]];
        let problem = RnnProblem::new(&options, &stack, &RnnInputs::new(&input[..])).unwrap();
        LoopPlan::new(&options, &problem, caps)
    }

    fn step(rows: usize, quads: usize, gates: usize, stacked: bool) -> StepShape {
        StepShape { rows, quads, depth: 4 * quads, copies: 1, gates, stacked }
    }

    #[test]
    fn weights_of_a_loop_stay_in_registers() {
        for registers in [Registers::CARD, Registers::APPLE, Registers::INTEL, Registers::QUALCOMM] {
            let caps = card(registers);
            for cell in CELLS {
                for hidden in 1..=200 {
                    let Ok(plan) = loop_plan(cell, hidden, &caps) else { continue };
                    let (lanes, blocks) = (plan.lanes() as usize, plan.split_blocks as usize);
                    let needed = LoopPlan::lane_registers(cell, blocks);
                    assert!(needed <= registers.of_lane(lanes), "{cell:?}, {hidden} units, {registers:?}: {plan:?}");
                    assert!(4 * blocks * plan.k_splits as usize >= hidden);
                    assert!(blocks <= LoopPlan::MOST_BLOCKS && plan.k_splits as usize <= MOST_SPLITS);
                }
            }
        }
    }

    #[test]
    fn a_loop_has_as_few_slices_as_its_registers_allow() {
        let slices = |cell, hidden, registers| loop_plan(cell, hidden, &card(registers)).map(|plan| plan.k_splits);
        let [lstm, gru, _, rnn] = CELLS;
        // 288 lanes would have 170 registers each, of which the weights of 8 blocks leave 42: 384 lanes have as many.
        assert_eq!([64, 96, 100].map(|hidden| slices(lstm, hidden, Registers::CARD)), [Ok(2), Ok(4), Ok(5)]);
        assert_eq!([64, 96].map(|hidden| slices(gru, hidden, Registers::CARD)), [Ok(2), Ok(3)]);
        assert_eq!([32, 64].map(|hidden| slices(lstm, hidden, Registers::APPLE)), [Ok(2), Ok(4)]);
        assert_eq!([64, 96].map(|hidden| slices(rnn, hidden, Registers::APPLE)), [Ok(2), Ok(3)]);
        // 44 and 4 of each gate beside 48 of each of 1,024 lanes.
        let unfit = UnfitPath::Registers { units: 128, registers: 44 + 4 * 16, allowed: 64 };
        assert_eq!(slices(lstm, 128, Registers::CARD), Err(unfit));
        // A CPU driver has memory instead.
        let software = Caps::of(DeviceKind::Software).with(|caps| {
            (caps.max_invocations, caps.max_workgroup_bytes) = (1024, 32 << 10);
        });
        assert_eq!(loop_plan(lstm, 168, &software).map(|plan| plan.k_splits), Ok(6));
    }

    #[test]
    fn a_step_takes_the_tall_tile_where_its_sums_fit() {
        let rows = |shape: StepShape, registers| StepPlan::new(&shape, &card(registers)).rows;
        assert_eq!(rows(step(1, 256, 4, false), Registers::CARD), 1);
        // Few lanes would be left.
        assert_eq!(rows(step(16, 256, 1, false), Registers::CARD), 4);
        assert_eq!([1, 3, 4].map(|gates| rows(step(1024, 256, gates, false), Registers::CARD)), [8, 8, 4]);
        assert_eq!([1, 3, 4].map(|gates| rows(step(1024, 256, gates, true), Registers::CARD)), [8, 4, 4]);
        assert_eq!([1, 3].map(|gates| rows(step(1024, 256, gates, false), Registers::APPLE)), [8, 4]);
        assert_eq!(StepPlan::new(&step(16, 64, 4, true), &Caps::of(DeviceKind::Software)).rows, 8);
    }
}
