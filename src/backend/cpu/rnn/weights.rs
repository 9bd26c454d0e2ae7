//! Weights as the steps read them.

use crate::backend::cpu::linear::Packed;
use crate::backend::cpu::memory::Room;
use crate::rnn::{Activations, Cell, Reset, Rnn, RnnWeights};
use crate::tensor::Array;

/// The weights of one layer in one direction. Units come in blocks of two vectors, filled up with zeros.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) activations: Activations,
    /// Units of a block, and blocks of units.
    pub(super) block: usize,
    pub(super) blocks: usize,
    /// W, columns [blocks][G][block], and b with b' where nothing stands between them.
    pub(super) input: Packed,
    pub(super) input_bias: Room,
    /// U, panels of [blocks][gates]. Of a GRU with the reset before: r and z.
    pub(super) hidden: Packed,
    /// Of a GRU's candidate, whose products stay apart: b' [blocks][block].
    pub(super) candidate_bias: Option<Room>,
    /// Of a GRU with the reset before: the candidate's rows of U.
    pub(super) candidate: Option<Packed>,
    /// [3][blocks][block].
    pub(super) peephole: Option<Room>,
    /// R, [P / block][K][block].
    pub(super) projection: Option<Packed>,
}

impl Weights {
    pub(super) fn new(options: &Rnn, direction: usize, w: &RnnWeights<Array>, block: usize) -> Self {
        let gates = options.cell.gates();
        let units = w.weight_ih.shape()[0] / gates;
        let (width, state) = (w.weight_ih.shape()[1], w.weight_hh.shape()[1]);
        let blocks = units.div_ceil(block);
        // The row of gate and unit that column n of [blocks][count][block] is, gates from `first` on.
        let row = |first: usize, count: usize| {
            move |n: usize| {
                let unit = n / (count * block) * block + n % block;
                (unit < units).then(|| (first + n / block % count) * units + unit)
            }
        };
        let hidden = |first: usize, count: usize| {
            Packed::new(w.weight_hh.data(), state, blocks * count * block, block, row(first, count))
        };
        let apart = matches!(options.cell, Cell::Gru { .. });
        let before = options.cell == Cell::Gru { reset: Reset::Before };
        let of = |bias: &Option<Array>, row: usize| bias.as_ref().map_or(0.0, |bias| bias.data()[row]);
        let filled = |columns: usize, of: &dyn Fn(usize) -> f32| {
            let mut room = Room::zeros(columns);
            room.iter_mut().take(columns).enumerate().for_each(|(n, x)| *x = of(n));
            room
        };
        Self {
            activations: options.activations_of(direction),
            block,
            blocks,
            input: Packed::new(w.weight_ih.data(), width, blocks * gates * block, block, row(0, gates)),
            input_bias: filled(blocks * gates * block, &|n| {
                let gate = n / block % gates;
                row(0, gates)(n)
                    .map_or(0.0, |row| of(&w.bias_ih, row) + if apart && gate == 2 { 0.0 } else { of(&w.bias_hh, row) })
            }),
            hidden: if before { hidden(0, 2) } else { hidden(0, gates) },
            candidate_bias: apart
                .then(|| filled(blocks * block, &|n| if n < units { of(&w.bias_hh, 2 * units + n) } else { 0.0 })),
            candidate: before.then(|| hidden(2, 1)),
            peephole: w.peephole.as_ref().map(|p| {
                let width = blocks * block;
                filled(3 * width, &|n| if n % width < units { p.data()[n / width * units + n % width] } else { 0.0 })
            }),
            projection: w.weight_hr.as_ref().map(|r| Packed::new(r.data(), units, state, block, Some)),
        }
    }

    /// Units with what fills up the last block.
    pub(super) fn padded(&self) -> usize {
        self.blocks * self.block
    }
}
