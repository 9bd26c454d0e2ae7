//! Many time steps of a recurrence in one dispatch (`shaders/recurrent_loop.wgsl`).

use super::recurrent::{CELL, CellParams, Recurrence, StateLayout, reverse_bits, vector_rows};
use super::{View4, read, switch};
use crate::device::Caps;
use crate::error::Result;
use crate::plan::{LoopPlan, grid};
use crate::recording::{Binding, Dispatch, Recording};
use crate::rnn::{Cell, Reset};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, params};

pub static KERNEL: Kernel = Kernel {
    name: "recurrent_loop",
    sources: &[
        CELL,
        Source::File(&file!(
            "recurrent_loop.wgsl",
            ["LANES", "UNITS", "K_SPLITS", "SPLIT_BLOCKS", "HIDDEN_ROWS", "CELL", "HAS_BIAS", "PEEPHOLES", "EMIT"]
        )),
    ],
    buffers: &[
        Buffer::read("gates", "f32"),
        Buffer::read("weight", "w_elem"),
        Buffer::read("vectors", "f32"),
        Buffer::read("lengths", "u32"),
        Buffer::write("state", "f32"),
        Buffer::write("output", "out_elem"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `recurrent_loop.wgsl`.
    struct Params {
        output: View4,
        cell: CellParams,
        first: u32,
        last: u32,
        steps: u32,
        batch: u32,
        units: u32,
        gate_count: u32,
        directions: u32,
        hidden: u32,
        row_stride: u32,
        row_state: u32,
        vector_rows: u32,
        lengths: u32,
        reverse: u32,
        weight_start: u32,
        vectors_start: u32,
    }
}

/// Records all steps of one layer; h and c are where the state has them at step 0, before and after.
///
/// # Errors
/// [`crate::Error::Limit`] when the grid does not fit the device.
pub fn record(recording: &mut Recording, caps: &Caps, plan: &LoopPlan, of: &Recurrence<'_>) -> Result<()> {
    let (options, p) = (of.options, of.problem);
    let layout = StateLayout::new(options, p);
    let cell = CellParams::new(options);
    let rows = p.batch * p.directions;
    let kind = match options.cell {
        Cell::Lstm => 0,
        Cell::Gru { reset: Reset::After } => 1,
        Cell::Gru { reset: Reset::Before } => 2,
        Cell::Rnn => 4,
    };
    let gates = options.cell.gates();
    for &(first, last) in &plan.ranges {
        let params = Params {
            output: View4::new(of.output)?,
            cell,
            first: first as u32,
            last: last as u32,
            steps: p.steps as u32,
            batch: p.batch as u32,
            units: p.hidden as u32,
            gate_count: gates as u32,
            directions: p.directions as u32,
            hidden: 4 * layout.h_offset(0),
            row_stride: layout.row_stride(),
            row_state: 4 * layout.cell_offset(),
            vector_rows: vector_rows(options.cell) as u32,
            lengths: of.lengths_start(),
            reverse: reverse_bits(options.direction),
            weight_start: of.weight.layout.offset as u32,
            vectors_start: of.vectors.map_or(0, |view| view.layout.offset as u32),
        };
        let mut overrides = vec![
            ("LANES", f64::from(plan.lanes())),
            ("UNITS", f64::from(plan.units)),
            ("K_SPLITS", f64::from(plan.k_splits)),
            ("SPLIT_BLOCKS", f64::from(plan.split_blocks)),
            ("HIDDEN_ROWS", f64::from(plan.hidden_rows())),
            ("CELL", f64::from(kind)),
            ("LENGTHS", switch(of.lengths.is_some())),
            ("HAS_BIAS", switch(of.has_bias)),
            ("PEEPHOLES", switch(of.peepholes)),
            ("EMIT", switch(of.emit)),
        ];
        overrides.extend(cell.overrides(options));
        let steps = last - first;
        recording.push(Dispatch {
            variant: Variant::new(&KERNEL, [("w_elem", of.weight.dtype), ("out_elem", of.output.dtype)], overrides),
            params: params.bytes(),
            bindings: vec![
                Binding::Read(of.gates.slot),
                Binding::Read(of.weight.slot),
                read(of.vectors),
                read(of.lengths),
                Binding::Write(of.state.slot),
                Binding::Write(of.output.slot),
            ],
            grid: grid("a recurrence", rows as u64, caps)?,
            iterations: plan.iterations(),
            // Each unit reads all of h.
            workgroup_bytes: (4 * steps * rows * p.hidden * p.hidden) as u64,
            flops: 2 * (steps * rows * gates * p.hidden * p.hidden) as u64,
            bytes: (of.weight.dtype.bytes_of(p.directions * gates * p.hidden * p.hidden)
                + DType::F32.bytes_of(steps * rows * (gates + 1) * p.hidden)) as u64,
        });
    }
    Ok(())
}
