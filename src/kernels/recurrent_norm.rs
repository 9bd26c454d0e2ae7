//! Gates of an LSTM with layer normalisation (`shaders/recurrent_norm.wgsl`).

use super::recurrent::{CELL, CellParams, Recurrence, StateLayout, reverse_bits, vector_rows};
use super::{View4, read, switch, vec4_index};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::RowPlan;
use crate::recording::{Binding, Dispatch, Recording};
use crate::rnn::NormOver;
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, params};

pub static KERNEL: Kernel = Kernel {
    name: "recurrent_norm",
    sources: &[
        CELL,
        Source::File(&file!(
            "recurrent_norm.wgsl",
            ["LANES", "OVER_GATES", "CARRY", "GAINS", "HAS_BIAS", "PEEPHOLES", "PROJECTED", "EMIT"]
        )),
    ],
    buffers: &[
        Buffer::read("gates", "vec4<f32>"),
        Buffer::read("norms", "vec4<f32>"),
        Buffer::read("vectors", "vec4<f32>"),
        Buffer::read("lengths", "u32"),
        Buffer::write("state", "f32"),
        Buffer::write("output", "out_elem"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `recurrent_norm.wgsl`.
    struct Params {
        output: View4,
        cell: CellParams,
        step: u32,
        steps: u32,
        batch: u32,
        units: u32,
        quads: u32,
        rows: u32,
        directions: u32,
        result: u32,
        old: u32,
        row_state: u32,
        sums: u32,
        vector_rows: u32,
        lengths: u32,
        reverse: u32,
        epsilon: f32,
        vectors_start: u32,
        norms_start: u32,
    }
}

/// Rows of the tensor of gains and shifts of one direction: 4 gains and 4 shifts of x, the same of U·h, both of c'.
pub const NORM_ROWS: usize = 18;

/// Records step `step` of one layer, after the product U·h.
///
/// # Errors
/// [`Error::Limit`] when the grid does not fit the device, [`Error::Missing`] without a layer normalisation.
pub fn record(recording: &mut Recording, caps: &Caps, of: &Recurrence<'_>, step: usize) -> Result<()> {
    let (options, p) = (of.options, of.problem);
    let Some(norm) = options.layer_norm else {
        return Err(Error::missing("layer_norm", "of the options"));
    };
    let layout = StateLayout::new(options, p);
    let projected = p.projected;
    let quads = p.hidden.div_ceil(4);
    let rows = p.batch * p.directions;
    // Iterations a quad: four loops over the four gates and three over the quad alone; a loop's last, failing test counts too.
    let plan = RowPlan::new("a normalised cell", rows, quads, 4 * 6 + 3, caps)?;
    let cell = CellParams::new(options);
    let params = Params {
        output: View4::new(of.output)?,
        cell,
        step: step as u32,
        steps: p.steps as u32,
        batch: p.batch as u32,
        units: p.hidden as u32,
        quads: quads as u32,
        rows: layout.row_stride(),
        directions: p.directions as u32,
        result: if projected { layout.operand_offset() } else { layout.h_offset(step + 1) },
        old: layout.h_offset(step),
        row_state: layout.cell_offset(),
        sums: layout.sums_offset(),
        vector_rows: vector_rows(options.cell) as u32,
        lengths: of.lengths_start(),
        reverse: reverse_bits(options.direction),
        epsilon: norm.epsilon,
        vectors_start: of.vectors.map_or(Ok(0), |view| vec4_index("vectors of a recurrence", view))?,
        norms_start: of.norms.map_or(Ok(0), |view| vec4_index("norms of a recurrence", view))?,
    };
    let mut overrides = vec![
        ("LANES", f64::from(plan.lanes)),
        ("OVER_GATES", switch(norm.over == NormOver::Gates)),
        ("CARRY", switch(norm.carry)),
        ("GAINS", switch(of.norms.is_some())),
        ("LENGTHS", switch(of.lengths.is_some())),
        ("HAS_BIAS", switch(of.has_bias)),
        ("PEEPHOLES", switch(of.peepholes)),
        ("PROJECTED", switch(projected)),
        ("EMIT", switch(of.emit && !projected)),
    ];
    overrides.extend(cell.overrides(options));
    recording.push(Dispatch {
        variant: Variant::new(&KERNEL, [("out_elem", of.output.dtype)], overrides),
        params: params.bytes(),
        bindings: vec![
            Binding::Read(of.gates.slot),
            read(of.norms),
            read(of.vectors),
            read(of.lengths),
            Binding::Write(of.state.slot),
            Binding::Write(of.output.slot),
        ],
        grid: plan.grid,
        iterations: plan.iterations,
        workgroup_bytes: 0,
        flops: (40 * rows * p.hidden) as u64,
        bytes: DType::F32.bytes_of(12 * rows * p.hidden) as u64,
    });
    Ok(())
}
