//! A layer, all of its steps.

use super::merge;
use super::step::{InRoom, Step};
use super::weights::Weights;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::linear::{Product, Shared};
use crate::backend::cpu::lockstep::Lockstep;
use crate::backend::cpu::memory::{Room, elements};
use crate::backend::cpu::plan::StepCut;
use crate::backend::cpu::threads::with_room;
use crate::error::Result;
use crate::problem::RnnProblem;
use crate::rnn::{Cell, Rnn};

/// A layer over a sequence.
pub(super) struct Layer<'a> {
    pub(super) options: &'a Rnn,
    pub(super) problem: &'a RnnProblem,
    pub(super) lengths: &'a [usize],
    pub(super) weights: &'a [Weights],
    pub(super) wants_steps: bool,
}

/// The numbers that steps go by, and write: [directions, B, ..] each.
pub(super) struct Buffers {
    /// h as it goes into even and into odd steps, rows of `h_row`.
    pub(super) h: [Shared; 2],
    pub(super) h_row: usize,
    /// c, rows of whole blocks.
    pub(super) c: Shared,
    /// Between the two phases of a step: r∘h and z of a GRU, o∘h(c) of a projected LSTM; rows of whole blocks.
    pub(super) between: [Shared; 2],
    /// [directions, T, B, P].
    pub(super) y: Option<Shared>,
}

impl Layer<'_> {
    /// The outputs of all steps, if they are wanted; `h` and `c` [directions, B, ..] become the last ones.
    pub(super) fn run(&self, cpu: &Cpu, x: &[f32], h: &mut [f32], c: &mut [f32]) -> Result<Vec<f32>> {
        let p = self.problem;
        let (directions, batch, state, units) = (p.directions, p.batch, p.state, p.hidden);
        let gates = self.options.cell.gates();
        let weights = &self.weights[0];
        let padded = weights.padded();
        // h lies with what fills up a last block, of a projection's too.
        let h_row = state.next_multiple_of(weights.block);
        let all = elements("x·Wᵀ of all steps", &[p.steps, batch, gates, padded])?;
        let of = |w: &Weights| {
            let mut products = vec![0.0; all];
            let product = Product {
                summands: vec![(x, &w.input)],
                bias: Some(&w.input_bias[..gates * padded]),
                residual: None,
                activation: None,
            };
            product.run(cpu, p.steps * batch, &mut products);
            products
        };
        let products: Vec<Vec<f32>> = self.weights.iter().map(of).collect();
        let rows = directions * batch;
        let mut memory = [0; 5].map(|_| Room::default());
        let steps = if self.wants_steps { p.steps } else { 0 };
        let mut y = vec![0.0; elements("the output", &[directions, steps, batch, state])?];
        for (room, width) in memory.iter_mut().zip([h_row, h_row, padded, padded, padded]) {
            *room = Room::zeros(rows * width);
        }
        let spread = |from: &[f32], width: usize, into: &mut [f32], row: usize| {
            from.chunks_exact(width).zip(into.chunks_exact_mut(row)).for_each(|(a, b)| b[..width].copy_from_slice(a));
        };
        spread(h, state, &mut memory[0], h_row);
        spread(c, units, &mut memory[2], padded);
        let rounds = {
            let [h0, h1, c, first, second] = memory.each_mut().map(|room| Shared(room.as_mut_ptr()));
            let buffers = Buffers {
                h: [h0, h1],
                h_row,
                c,
                between: [first, second],
                y: self.wants_steps.then_some(Shared(y.as_mut_ptr())),
            };
            let phases = 1 + usize::from(weights.candidate.is_some() || weights.projection.is_some());
            let StepCut { rows: tile, tiles, blocks } = StepCut::new(p, cpu.processor());
            let items = directions * blocks * tiles;
            let steps = self.lengths.iter().copied().max().unwrap_or(0);
            let work = rows.saturating_mul(steps).saturating_mul(weights.hidden.columns * weights.hidden.depth);
            let lockstep = Lockstep::new(items);
            let item = |round: usize, item: usize| {
                let (block, rest) = (item / tiles % blocks, item / tiles / blocks);
                let first = item % tiles * tile;
                let cell = Step {
                    layer: self,
                    products: &products[rest],
                    buffers: &buffers,
                    direction: rest,
                    step: round / phases,
                    phase: round % phases,
                    block,
                    rows: [first, (first + tile).min(batch)],
                };
                with_room(|room| cpu.level().run(InRoom(cell, room)));
            };
            cpu.threads().together(work, items, |own, threads| lockstep.run(own, threads, steps * phases, item));
            steps
        };
        let gather = |from: &[f32], row: usize, into: &mut [f32], width: usize| {
            from.chunks_exact(row).zip(into.chunks_exact_mut(width)).for_each(|(a, b)| b.copy_from_slice(&a[..width]));
        };
        gather(&memory[rounds % 2], h_row, h, state);
        if self.options.cell == Cell::Lstm {
            gather(&memory[2], padded, c, units);
        }
        if directions == 2 && self.wants_steps {
            let (forward, backward) = y.split_at(p.steps * batch * state);
            let mut merged = vec![0.0; p.steps * batch * p.width];
            merge(self.options.merge, state, forward, Some(backward), &mut merged);
            return Ok(merged);
        }
        Ok(y)
    }
}
