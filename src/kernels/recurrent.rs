//! One time step of a recurrence (`shaders/recurrent.wgsl`), and what the kernels of a recurrence share.

use super::{ActivationParams, View4, read, switch, vec4_index};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::{StepPlan, grid};
use crate::problem::RnnProblem;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::rnn::{Activation, Activations, Cell, Direction, Reset, Rnn};
use crate::tensor::{DType, Layout};
use crate::wgsl::{Buffer, Kernel, Override, Source, Uniform, Variant, file, files, params};

/// The files of a cell.
pub(super) const CELL: Source = Source::All(&[
    Source::File(&files::LAYOUT),
    Source::File(&files::MATH),
    Source::File(&files::ACTIVATION),
    Source::File(&files::CELL),
]);

pub static KERNEL: Kernel = Kernel {
    name: "recurrent",
    sources: &[
        Source::Lanes { shared: &files::SPLIT_K_SHARED, subgroup: &files::SPLIT_K_SUBGROUP },
        CELL,
        Source::File(&files::TILE),
        Source::File(&file!(
            "recurrent.wgsl",
            [
                "TALL",
                "SINGLE",
                "FOURS",
                "STAGE",
                "STACKED",
                "HAS_BIAS",
                "PEEPHOLES",
                "PROJECTED",
                "EMIT",
                "PROJECTION_CLIP"
            ]
        )),
    ],
    buffers: &[
        Buffer::read("gates", "vec4<f32>"),
        Buffer::read("weight", "vec4<w_elem>"),
        Buffer::read("weight_below", "vec4<w_elem>"),
        Buffer::read("vectors", "vec4<f32>"),
        Buffer::read("lengths", "u32"),
        Buffer::write("state", "vec4<f32>"),
        Buffer::write("output", "out_elem"),
    ],
    params: &Params::TYPE,
};

params! {
    /// `CellParams` of `common/cell.wgsl`.
    struct CellParams {
        activations: [ActivationParams; 10],
        clip: f32,
        cell_clip: f32,
    }
}

params! {
    /// Uniform of `recurrent.wgsl`.
    struct Params {
        output: View4,
        cell: CellParams,
        step: u32,
        steps: u32,
        batch: u32,
        units: u32,
        depth: u32,
        input_depth: u32,
        gate_count: u32,
        quads: u32,
        row_quads: u32,
        directions: u32,
        row_tiles: u32,
        unit_tiles: u32,
        tiles: u32,
        layers: u32,
        first_layer: u32,
        layer_state: u32,
        operand: u32,
        result: u32,
        operand_flip: u32,
        result_flip: u32,
        old: u32,
        old_flip: u32,
        row_state: u32,
        sums: u32,
        vector_rows: u32,
        lengths: u32,
        reverse: u32,
        projection_clip: f32,
        weight_start: u32,
        below_start: u32,
        vectors_start: u32,
    }
}

impl CellParams {
    /// Activations and clips of `options`.
    pub fn new(options: &Rnn) -> Self {
        let mut activations = [ActivationParams::new(None); 10];
        for (direction, of) in activations.chunks_mut(5).enumerate() {
            let chosen = options.activations_of(direction);
            let all = chosen.gates.into_iter().chain([chosen.output]);
            of.iter_mut().zip(all).for_each(|(params, activation)| *params = ActivationParams::new(Some(activation)));
        }
        Self { activations, clip: options.clip.unwrap_or(0.0), cell_clip: options.cell_clip.unwrap_or(0.0) }
    }

    /// Constants of `common/cell.wgsl`.
    pub fn overrides(&self, options: &Rnn) -> Vec<Override> {
        let used = |k: usize| k < options.cell.gates() || (k == 4 && options.cell == Cell::Lstm);
        let usual = |a: Activation| matches!(a, Activation::Sigmoid | Activation::Tanh | Activation::Relu);
        let of = |direction: usize| {
            let Activations { gates: [a, b, c, d], output } = options.activations_of(direction);
            [a, b, c, d, output]
        };
        // Programs are made for the activations that nearly all models have, and one for all others.
        let unusual = (0..5).any(|k| used(k) && (!usual(of(0)[k]) || of(0)[k] != of(1)[k]));
        let names = ["ACTIVATION_0", "ACTIVATION_1", "ACTIVATION_2", "ACTIVATION_3", "ACTIVATION_OUTPUT"];
        let kind = |k: usize| if used(k) && !unusual { f64::from(self.activations[k].kind) } else { 0.0 };
        let mut all: Vec<Override> = names.into_iter().enumerate().map(|(k, name)| (name, kind(k))).collect();
        all.extend([
            ("RUNTIME_ACTIVATIONS", switch(unusual)),
            ("CLIP", switch(options.clip.is_some())),
            ("CELL_CLIP", switch(options.cell_clip.is_some())),
            ("INPUT_FORGET", switch(options.input_forget)),
        ]);
        all
    }
}

/// Bit d: direction d reads backwards.
pub fn reverse_bits(direction: Direction) -> u32 {
    match direction {
        Direction::Forward => 0b00,
        Direction::Reverse => 0b01,
        Direction::Bidirectional => 0b10,
    }
}

/// Rows of the tensor of vectors of one direction: G of b', G of b, 3 of peepholes.
pub fn vector_rows(cell: Cell) -> usize {
    2 * cell.gates() + 3
}

/// Where the state of a stack lies in its one buffer. Operands of a product are [directions, units, rows], so
/// that four rows are one load; the others [directions, rows, units]. Units and rows are rounded up to multiples of 4,
/// but a single row stays one. Offsets count elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLayout {
    directions: usize,
    batch: usize,
    hidden: usize,
    state: usize,
    /// Rows of an operand.
    rows: usize,
    /// Of r∘h, or of the operand of a projection.
    operand: usize,
    /// Of c, or z.
    cell: usize,
    /// Of U·h of a layer normalisation.
    sums: usize,
    /// Elements of one layer.
    pub layer: usize,
}

impl StateLayout {
    /// For one layer of this problem.
    pub fn new(options: &Rnn, p: &RnnProblem) -> Self {
        let up = |n: usize| n.next_multiple_of(4);
        let rows = if p.batch == 1 { 1 } else { up(p.batch) };
        let (h, operand) = (p.directions * up(p.state) * rows, p.directions * up(p.hidden) * rows);
        let by_row = p.directions * p.batch * up(p.hidden);
        let before = options.cell == Cell::Gru { reset: Reset::Before };
        let has_operand = before || p.projected;
        let has_cell = before || options.cell == Cell::Lstm;
        let operand_at = 2 * h;
        let cell = operand_at + if has_operand { operand } else { 0 };
        let sums = cell + if has_cell { by_row } else { 0 };
        let layer = sums + if options.layer_norm.is_some() { options.cell.gates() * by_row } else { 0 };
        Self {
            directions: p.directions,
            batch: p.batch,
            hidden: p.hidden,
            state: p.state,
            rows,
            operand: operand_at,
            cell,
            sums,
            layer,
        }
    }

    /// Elements from h at even steps to h at odd ones.
    fn flip(&self) -> usize {
        self.directions * self.state.next_multiple_of(4) * self.rows
    }

    /// h of a layer after `step` steps, [directions, B, P].
    pub fn h(&self, state: &View, layer: usize, step: usize) -> View {
        let units = self.state.next_multiple_of(4);
        state.with(Layout {
            shape: [self.directions, self.batch, self.state].into(),
            strides: [units * self.rows, 1, self.rows].into(),
            offset: state.layout.offset + layer * self.layer + if step % 2 == 1 { self.flip() } else { 0 },
        })
    }

    /// c of a layer, [directions, B, H].
    pub fn c(&self, state: &View, layer: usize) -> View {
        let units = self.hidden.next_multiple_of(4);
        state.with(Layout {
            shape: [self.directions, self.batch, self.hidden].into(),
            strides: [self.batch * units, units, 1].into(),
            offset: state.layout.offset + layer * self.layer + self.cell,
        })
    }

    /// Offset of h, in vec4 as the offsets below.
    pub fn h_offset(&self, step: usize) -> u32 {
        (if step % 2 == 1 { self.flip() / 4 } else { 0 }) as u32
    }

    /// Offset of r∘h, or of the operand of a projection.
    pub fn operand_offset(&self) -> u32 {
        (self.operand / 4) as u32
    }

    /// Offset of c, or z.
    pub fn cell_offset(&self) -> u32 {
        (self.cell / 4) as u32
    }

    /// Offset of U·h.
    pub fn sums_offset(&self) -> u32 {
        (self.sums / 4) as u32
    }

    /// Quads of rows in an operand.
    pub fn row_quads(&self) -> u32 {
        self.rows.div_ceil(4) as u32
    }

    /// Elements between neighbouring units in an operand.
    pub fn row_stride(&self) -> u32 {
        self.rows as u32
    }
}

/// What the dispatches of a recurrence are asked for, read and write: of one layer, or of a stack in a wavefront.
#[derive(Debug, Clone, Copy)]
pub struct Recurrence<'a> {
    /// The cell and its options.
    pub options: &'a Rnn,
    /// The sizes.
    pub problem: &'a RnnProblem,
    /// X·W + b of all steps of the lowest layer [T, B, directions, G, units], f32, dense.
    pub gates: &'a View,
    /// U [layers · directions, P, G, units].
    pub weight: &'a View,
    /// W of the layers above the lowest [layers − 1, P, G, units], in a wavefront.
    pub weight_below: Option<&'a View>,
    /// R [directions, H, P] of a projection, its columns rounded up.
    pub projection: Option<&'a View>,
    /// [layers · directions, rows, units] f32: b', b, peepholes ([`vector_rows`]).
    pub vectors: Option<&'a View>,
    /// Whether the vectors have biases.
    pub has_bias: bool,
    /// Whether the vectors have peepholes.
    pub peepholes: bool,
    /// Gains and shifts of a layer normalisation [directions, 18, units], f32.
    pub norms: Option<&'a View>,
    /// `[B]`, u32, dense.
    pub lengths: Option<&'a View>,
    /// All layers' [`StateLayout`], f32.
    pub state: &'a View,
    /// [T, B, directions, P].
    pub output: &'a View,
    /// Whether the output is written.
    pub emit: bool,
}

impl Recurrence<'_> {
    /// First index of the lengths.
    pub fn lengths_start(&self) -> u32 {
        self.lengths.map_or(0, |view| view.layout.offset as u32)
    }
}

/// What a dispatch of `recurrent.wgsl` computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A whole step.
    Step,
    /// GRU with the reset before: r∘h and z.
    Reset,
    /// The same: n and h.
    Update,
    /// U·h alone.
    Product,
    /// h = R·(o∘act(c)).
    Project,
}

/// Records one stage of step `step`: of one layer, or of all layers that have a step then in a wavefront.
///
/// # Errors
/// [`Error::Limit`] when the grid does not fit the device.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    plan: StepPlan,
    of: &Recurrence<'_>,
    stage: Stage,
    step: usize,
) -> Result<()> {
    let (options, p) = (of.options, of.problem);
    let layout = StateLayout::new(options, p);
    let stacked = of.weight_below.is_some();
    // In a wavefront the layer l is at step `step` − l.
    let (first_layer, layers) = if stacked {
        let first = (step + 1).saturating_sub(p.steps);
        (first, (step + 1).min(p.layers) - first)
    } else {
        (0, 1)
    };
    let project = stage == Stage::Project;
    let (units, depth) = if project { (p.state, p.hidden) } else { (p.hidden, p.state) };
    let gate_count = if project { 1 } else { options.cell.gates() };
    let quads = units.div_ceil(4);
    let weight = if project { of.projection } else { Some(of.weight) };
    let Some(weight) = weight else {
        return Err(Error::missing("weight_hr", "[P, H] of a projection"));
    };
    let unit_tiles = quads.div_ceil(plan.columns());
    let tiles = layers * p.directions * plan.row_tiles as usize * unit_tiles;
    let (h, flip) = (layout.h_offset(0), layout.h_offset(1));
    let operand = layout.operand_offset();
    let projected = p.projected;
    // What the stage reads and writes, and whether these alternate between two buffers from step to step.
    let (from, from_flip, to, to_flip) = match stage {
        Stage::Step | Stage::Product if projected => (h, flip, operand, 0),
        Stage::Step | Stage::Product => (h, flip, h, flip),
        Stage::Reset => (h, flip, operand, 0),
        Stage::Update | Stage::Project => (operand, 0, h, flip),
    };
    let cell = CellParams::new(options);
    let params = Params {
        output: View4::new(of.output)?,
        cell,
        step: step as u32,
        steps: p.steps as u32,
        batch: p.batch as u32,
        units: units as u32,
        depth: depth as u32,
        input_depth: p.state as u32,
        gate_count: gate_count as u32,
        quads: quads as u32,
        row_quads: layout.row_quads(),
        directions: p.directions as u32,
        row_tiles: plan.row_tiles,
        unit_tiles: unit_tiles as u32,
        tiles: tiles as u32,
        layers: p.layers as u32,
        first_layer: first_layer as u32,
        layer_state: (layout.layer / 4) as u32,
        operand: from,
        result: to,
        operand_flip: from_flip,
        result_flip: to_flip,
        old: h,
        old_flip: flip,
        row_state: layout.cell_offset(),
        sums: layout.sums_offset(),
        vector_rows: vector_rows(options.cell) as u32,
        lengths: of.lengths_start(),
        reverse: reverse_bits(options.direction),
        projection_clip: options.projection_clip.unwrap_or(0.0),
        weight_start: vec4_index("weight of a recurrence", weight)?,
        below_start: of.weight_below.map_or(Ok(0), |view| vec4_index("weight of a recurrence", view))?,
        vectors_start: of.vectors.map_or(Ok(0), |view| vec4_index("vectors of a recurrence", view))?,
    };
    let number = match (stage, options.cell) {
        (Stage::Step, Cell::Lstm) => 0,
        (Stage::Step, Cell::Gru { .. }) => 1,
        (Stage::Reset, _) => 2,
        (Stage::Update, _) => 3,
        (Stage::Step, Cell::Rnn) => 4,
        (Stage::Product, _) => 5,
        (Stage::Project, _) => 6,
    };
    let makes_h = project || (!projected && matches!(stage, Stage::Step | Stage::Update));
    let emit = of.emit && makes_h;
    let input_layers = layers - usize::from(first_layer == 0);
    let macs = layers * p.directions * gate_count * units * depth
        + if stacked { input_layers * gate_count * units * p.state } else { 0 };
    let share = match stage {
        Stage::Reset => (2, 3),
        Stage::Update => (1, 3),
        _ => (1, 1),
    };
    // Both loops over the depth, the rows of a tile, and up to eight sums over up to eight slices of the depth.
    let iterations = (depth + if stacked { p.state } else { 0 }) as u64 + 128;
    if iterations > caps.max_iterations {
        return Err(Error::Limit {
            what: "units of a recurrence".to_owned(),
            needed: iterations,
            allowed: caps.max_iterations,
        });
    }
    let mut overrides = vec![
        ("LANES", f64::from(plan.lanes)),
        ("K_SPLITS", f64::from(plan.k_splits)),
        ("STAGE", f64::from(number)),
        ("TALL", switch(plan.rows == 8)),
        ("SINGLE", switch(plan.rows == 1)),
        ("FOURS", switch(plan.fours)),
        ("STACKED", switch(stacked)),
        ("LENGTHS", switch(of.lengths.is_some())),
        ("HAS_BIAS", switch(of.has_bias && !project)),
        ("PEEPHOLES", switch(of.peepholes)),
        ("PROJECTED", switch(projected)),
        ("EMIT", switch(emit)),
        ("PROJECTION_CLIP", switch(options.projection_clip.is_some())),
    ];
    overrides.extend(cell.overrides(options));
    recording.push(Dispatch {
        variant: Variant {
            subgroups: plan.subgroups,
            ..Variant::new(&KERNEL, [("w_elem", weight.dtype), ("out_elem", of.output.dtype)], overrides)
        },
        params: params.bytes(),
        bindings: vec![
            Binding::Read(of.gates.slot),
            Binding::Read(weight.slot),
            read(of.weight_below),
            read(of.vectors),
            read(of.lengths),
            Binding::Write(of.state.slot),
            Binding::Write(of.output.slot),
        ],
        grid: grid("a recurrent step", tiles as u64, caps)?,
        iterations,
        workgroup_bytes: 0,
        flops: 2 * (p.batch * macs * share.0 / share.1) as u64,
        bytes: (weight.dtype.bytes_of(macs) * share.0 / share.1
            + DType::F32.bytes_of(layers * p.directions * p.batch * (gate_count + 2) * units)) as u64,
    });
    Ok(())
}
