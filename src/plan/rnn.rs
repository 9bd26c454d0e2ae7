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
}

impl StepPlan {
    /// Chooses tiles where `copies` such products run side by side; a lane has a quad of columns.
    pub fn new(rows: usize, quads: usize, depth: usize, copies: usize, caps: &Caps) -> Self {
        let lanes_of = |tile: usize| copies * rows.div_ceil(tile) * quads;
        // On a card the taller tile, which loads half as many weights, only where it leaves enough lanes.
        let tile = match rows {
            1 => 1,
            2..=4 => QUAD,
            _ if caps.software || lanes_of(2 * QUAD) >= LANES_WANTED => 2 * QUAD,
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
    /// Split-K: slices of the depth.
    pub k_splits: u32,
    /// Blocks of four steps of the depth in a lane's registers.
    pub split_blocks: u32,
    /// Ranges of steps, one dispatch each, so that no invocation runs too many iterations and no dispatch takes too long.
    pub ranges: Vec<(usize, usize)>,
}

impl LoopPlan {
    /// Blocks of 16 weights that a lane can hold: half of the 255 registers that cards have for a lane at most.
    const MOST_BLOCKS: usize = 8;
    /// Registers that a card has for all lanes of a workgroup (NVIDIA's multiprocessors and AMD's: 65,536), and those
    /// that a lane needs beside its weights.
    pub(super) const REGISTERS: usize = 65_536;
    const OTHER_REGISTERS: usize = 40;

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
        let k_splits = quads.div_ceil(Self::MOST_BLOCKS);
        let split_blocks = quads.div_ceil(k_splits);
        let (units, lanes) = (quads * QUAD, quads * QUAD * k_splits);
        let bytes = 16 * (lanes + (k_splits * split_blocks).max(quads));
        if lanes > caps.max_invocations as usize || bytes > caps.max_workgroup_bytes as usize {
            let (max_lanes, max_bytes) = (caps.max_invocations, caps.max_workgroup_bytes);
            return Err(UnfitPath::Workgroup { units: problem.hidden, lanes, bytes, max_lanes, max_bytes });
        }
        let registers = lanes * (16 * split_blocks + Self::OTHER_REGISTERS);
        if !caps.software && registers > Self::REGISTERS {
            return Err(UnfitPath::Registers { units: problem.hidden, registers });
        }
        // Loop iterations of one step: the loop over time and the sums over the slices; a loop's last, failing test counts too.
        let iterations = 2 + 2 * (k_splits as u64 + 1);
        let few = (caps.max_iterations.saturating_sub(8) / iterations) as usize;
        let plan = Self {
            units: units as u32,
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
        passes * (macs / register_rate(caps) + 3.0 * caps.rates.barrier * f64::from(self.lanes()))
    }

    /// Lanes of the workgroup.
    pub fn lanes(&self) -> u32 {
        self.units * self.k_splits
    }

    /// Quads of units of the workgroup's copy of h.
    pub fn quads(&self) -> u32 {
        (self.k_splits * self.split_blocks).max(self.units / QUAD as u32)
    }

    /// Loop iterations of one invocation over the longest range of steps.
    pub fn iterations(&self) -> u64 {
        let longest = self.ranges.iter().map(|(a, b)| b - a).max().unwrap_or(0) as u64;
        longest * (2 + 2 * (u64::from(self.k_splits) + 1)) + 8
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

        let step = StepPlan::new(p.batch, quads, p.state, p.directions, caps);
        let step_macs = product(p.state, p.directions * gates * p.hidden, p.batch)
            + if projected { product(p.hidden, p.directions * p.state, p.batch) } else { 0.0 };
        let tiles = |plan: &StepPlan, copies: usize| copies * plan.row_tiles as usize * quads.div_ceil(plan.columns());
        let steps_time = all_inputs
            + (p.layers * p.steps) as f64
                * (stages as f64 * dispatch + step_macs / step.rate(tiles(&step, p.directions), caps));

        let wave = StepPlan::new(p.batch, quads, 2 * p.state, p.layers, caps);
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
