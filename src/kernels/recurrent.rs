//! One time step of a recurrent layer (`shaders/recurrent.wgsl`).

use super::{ActivationParams, View4, params, switch};
use crate::error::{Error, Result};
use crate::plan::{Caps, TILE_ROWS, grid};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::rnn::{Activations, Cell, Direction, Reset, Rnn};
use crate::wgsl::{Kernel, Variant};

params! {
    /// Uniform of `recurrent.wgsl`.
    struct Params {
        gates: View4,
        weight: View4,
        state: View4,
        output: View4,
        f: ActivationParams,
        g: ActivationParams,
        h: ActivationParams,
        step: u32,
        steps: u32,
        batch: u32,
        hidden: u32,
        unit_tiles: u32,
        batch_tiles: u32,
        tiles: u32,
        bias: u32,
        peephole: u32,
        lengths: u32,
        reverse: u32,
        read_slot: u32,
        clip: f32,
        pad_0: u32,
        pad_1: u32,
        pad_2: u32,
    }
}

/// Slots of a layer's state: h twice, then what the cell keeps beside it (c, or r∘h and z).
pub fn state_slots(cell: Cell) -> usize {
    match cell {
        Cell::Lstm => 3,
        Cell::Gru { reset: Reset::Before } => 4,
        Cell::Gru { reset: Reset::After } | Cell::Rnn => 2,
    }
}

/// Slot that holds an LSTM's c.
pub const STATE_C: usize = 2;

/// The tensors of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// X·W + b of all steps [T, B, directions, G·H], f32.
    pub gates: &'a View,
    /// U [directions, G·H, H].
    pub weight: &'a View,
    /// b' [directions, G·H], f32, dense.
    pub bias: Option<&'a View>,
    /// [directions, 3, H], f32, dense.
    pub peephole: Option<&'a View>,
    /// `[B]`, u32, dense.
    pub lengths: Option<&'a View>,
    /// [slots, directions, B, H], f32.
    pub state: &'a View,
    /// [T, B, directions, H].
    pub output: &'a View,
}

/// Time step `step` of a layer: reads h from slot `step % 2` and writes it to the other. One dispatch, or two for a
/// GRU whose reset acts before the product.
///
/// # Errors
/// [`crate::Error::Limit`] when the grid does not fit the device.
pub fn record(recording: &mut Recording, caps: &Caps, options: &Rnn, layer: Layer<'_>, step: usize) -> Result<()> {
    let &[steps, batch, directions, hidden] = layer.output.shape() else {
        return Err(Error::shape("output of a layer", "rank", "4 [T, B, directions, H]", layer.output.shape().len()));
    };
    let gate_rows = options.cell.gates() * hidden;
    let wanted = [
        ("gates", layer.gates, vec![steps, batch, directions, gate_rows]),
        ("weight_hh", layer.weight, vec![directions, gate_rows, hidden]),
        ("state", layer.state, vec![state_slots(options.cell), directions, batch, hidden]),
    ];
    if let Some((name, view, shape)) = wanted.into_iter().find(|(_, view, shape)| view.shape() != shape) {
        return Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{:?}", view.shape())));
    }
    let rows = if batch == 1 { 1 } else { TILE_ROWS };
    let lanes = hidden.next_power_of_two().clamp(8, 64).min(caps.max_invocations.max(1) as usize);
    let unit_tiles = hidden.div_ceil(lanes);
    let batch_tiles = batch.div_ceil(rows);
    let tiles = directions * unit_tiles * batch_tiles;
    let Activations { gates, output } = options.activations;
    let [f, g, h] = [gates[0], gates[2], output].map(|a| ActivationParams::new(Some(a)));
    let start = |view: Option<&View>| view.map_or(0, |view| view.layout.offset as u32);
    let params = Params {
        gates: View4::new(layer.gates)?,
        weight: View4::new(layer.weight)?,
        state: View4::new(layer.state)?,
        output: View4::new(layer.output)?,
        f,
        g,
        h,
        step: step as u32,
        steps: steps as u32,
        batch: batch as u32,
        hidden: hidden as u32,
        unit_tiles: unit_tiles as u32,
        batch_tiles: batch_tiles as u32,
        tiles: tiles as u32,
        bias: start(layer.bias),
        peephole: start(layer.peephole),
        lengths: start(layer.lengths),
        reverse: match options.direction {
            Direction::Forward => 0b00,
            Direction::Reverse => 0b01,
            Direction::Bidirectional => 0b10,
        },
        read_slot: (step % 2) as u32,
        clip: options.clip.unwrap_or(0.0),
        pad_0: 0,
        pad_1: 0,
        pad_2: 0,
    };
    let phases: &[u32] = match options.cell {
        Cell::Lstm => &[0],
        Cell::Gru { reset: Reset::After } => &[1],
        Cell::Gru { reset: Reset::Before } => &[2, 3],
        Cell::Rnn => &[4],
    };
    let read = |view: Option<&View>| view.map_or(Binding::Unused, |view| Binding::Read(view.slot));
    let work = directions * batch * options.cell.gates() * hidden;
    for &phase in phases {
        recording.push(Dispatch {
            variant: Variant {
                kernel: Kernel::Recurrent,
                aliases: vec![("w_elem", layer.weight.dtype), ("out_elem", layer.output.dtype)],
                overrides: vec![
                    ("LANES", lanes as f64),
                    ("ROWS", rows as f64),
                    ("CELL", f64::from(phase)),
                    ("LENGTHS", switch(layer.lengths.is_some())),
                    ("HAS_BIAS", switch(layer.bias.is_some())),
                    ("PEEPHOLES", switch(layer.peephole.is_some())),
                    ("INPUT_FORGET", switch(options.input_forget)),
                    ("CLIP", switch(options.clip.is_some())),
                ],
                score_mod: None,
            },
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings: vec![
                Binding::Read(layer.gates.slot),
                Binding::Read(layer.weight.slot),
                read(layer.bias),
                read(layer.peephole),
                read(layer.lengths),
                Binding::Write(layer.state.slot),
                Binding::Write(layer.output.slot),
            ],
            grid: grid("a recurrent step", tiles as u64, caps)?,
            iterations: hidden as u64 + 8,
            flops: 2 * (work * hidden / phases.len()) as u64,
            bytes: (directions * options.cell.gates() * hidden * hidden * layer.weight.dtype.bytes() / phases.len()
                + 4 * work) as u64,
        });
    }
    Ok(())
}
