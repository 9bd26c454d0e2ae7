//! LSTM, GRU and RNN, step by step.
//!
//! ```text
//! x·Wᵀ + b of all steps at once
//! for each step: for each tile of batch rows and block of units:
//!     gates = x·Wᵀ + b of the step + h·Uᵀ            U packed once: [blocks][G][K][units]
//!     h', c' by the formulas of the cell
//! ```
//! Threads share blocks and tiles of a step, and go from step to step together; each has its blocks of U in its own cache.

use std::sync::Arc;

use super::activation::{Activate, clip};
use super::linear::{Packed, Product, Shared};
use super::lockstep::Lockstep;
use super::memory::Room;
use super::product::{Columns, Strided, Tiles, accumulate, tiles};
use super::simd::{Kernel, Simd};
use super::threads::with_room;
use super::{Cpu, CpuTensor};
use crate::backend::{Recurrence, Value};
use crate::baseline;
use crate::error::Result;
use crate::problem::{RnnProblem, Role};
use crate::reference::{self, lengths};
use crate::rnn::{Activations, Cell, Direction, Merge, Reset, Rnn, RnnInputs, RnnOutputs, RnnStack, RnnWeights, Steps};
use crate::tensor::{Array, DType};

/// Why a recurrence is handed to the reference, if it is.
pub(crate) fn handed_over(options: &Rnn) -> Option<&'static str> {
    options.layer_norm.is_some().then_some("it has layer normalisation")
}

/// The plan in words.
pub(crate) fn describe(p: &RnnProblem, cpu: &Cpu) -> String {
    let (tile, blocks) = (tile_rows(p, cpu), p.hidden.div_ceil(cpu.panel()));
    format!(
        "{}, weights packed once, {} tasks a step ({tile} rows by {} units) on {} threads",
        cpu.instructions(),
        p.directions * blocks * p.batch.div_ceil(tile),
        cpu.panel(),
        cpu.thread_count()
    )
}

/// Batch rows of a task: as many as a tile holds, about the same in each.
fn tile_rows(p: &RnnProblem, cpu: &Cpu) -> usize {
    p.batch.div_ceil(p.batch.div_ceil(cpu.level().rows()))
}

/// A recurrence with its weights, packed for products.
#[derive(Debug, Clone)]
pub struct CpuRnn {
    options: Rnn,
    stack: Arc<RnnStack<Array>>,
    /// None where the reference computes it.
    cells: Option<Arc<Vec<Vec<Weights>>>>,
}

impl CpuRnn {
    /// With weights rounded as they are stored: f32 or f16. They are multiplied as f32 either way.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when they do not fit the options or the type.
    pub fn stored(cpu: &Cpu, options: &Rnn, stack: &RnnStack<Array>, dtype: DType) -> Result<Self> {
        let kept = |name: &str, array: &Array| match Role::of_rnn(name) {
            Role::Float => Ok(array.clone()),
            role => baseline::stored(name, array, role.dtype(dtype)),
        };
        let layer = |layer: &Vec<RnnWeights<Array>>| layer.iter().map(|weights| weights.try_map(kept)).collect();
        Self::new(cpu, options, &stack.iter().map(layer).collect::<Result<_>>()?)
    }

    pub(super) fn new(cpu: &Cpu, options: &Rnn, stack: &RnnStack<Array>) -> Result<Self> {
        let shapes = shapes(stack);
        let input = stack.first().and_then(|layer| layer.first()).and_then(|w| w.weight_ih.shape().get(1).copied());
        RnnProblem::check_weights(options, &shapes, input.unwrap_or(0))?;
        let block = cpu.panel();
        let of = |layer: &Vec<RnnWeights<Array>>| -> Vec<Weights> {
            let weights = |(d, w): (usize, &RnnWeights<Array>)| Weights::new(options, d, w, block);
            layer.iter().enumerate().map(weights).collect()
        };
        let cells = handed_over(options).is_none().then(|| Arc::new(stack.iter().map(of).collect()));
        Ok(Self { options: options.clone(), stack: Arc::new(stack.clone()), cells })
    }

    /// As [`Backend::rnn`](crate::backend::Backend::rnn).
    pub(super) fn run(&self, cpu: &Cpu, inputs: &RnnInputs<CpuTensor>) -> Result<RnnOutputs<CpuTensor>> {
        let options = &self.options;
        let Some(layers) = &self.cells else {
            let outputs = reference::rnn(options, &self.stack, &inputs.map_numbers(CpuTensor::to_array))?;
            let RnnOutputs { output, final_h, final_c } = outputs;
            return Ok(RnnOutputs { output: output.into(), final_h: final_h.into(), final_c: final_c.map(Into::into) });
        };
        let p = &RnnProblem::new(options, &shapes(&self.stack), &inputs.map(CpuTensor::shape, Array::shape))?;
        let lengths = lengths("lengths", inputs.lengths.as_ref(), p.steps)?.unwrap_or_else(|| vec![p.steps; p.batch]);
        let [initial_h, initial_c] = [&inputs.initial_h, &inputs.initial_c].map(|x| x.as_ref().map(CpuTensor::wide));
        let (states, cells) = (p.batch * p.state, p.batch * p.hidden);
        let mut final_h = vec![0.0; p.layers * p.directions * states];
        let mut final_c = vec![0.0; p.layers * p.directions * cells];
        if let Some(given) = &initial_h {
            final_h.copy_from_slice(given.data());
        }
        if let Some(given) = &initial_c {
            final_c.copy_from_slice(given.data());
        }
        let input = inputs.input.wide();
        let mut x: Option<Vec<f32>> = None;
        for (l, weights) in layers.iter().enumerate() {
            let state = &mut final_h[l * p.directions * states..][..p.directions * states];
            let cell = &mut final_c[l * p.directions * cells..][..p.directions * cells];
            let from = x.as_deref().unwrap_or_else(|| input.data());
            let layer = Layer {
                options,
                problem: p,
                lengths: &lengths,
                weights,
                wants_steps: options.steps == Steps::All || l + 1 < p.layers,
            };
            x = Some(layer.run(cpu, from, state, cell));
        }
        let top = &final_h[(p.layers - 1) * p.directions * states..];
        let output = match options.steps {
            Steps::All => x.unwrap_or_default(),
            Steps::Last => {
                let mut last = vec![0.0; p.batch * p.width];
                let second = (p.directions == 2).then(|| &top[states..]);
                merge(options.merge, p.state, &top[..states], second, &mut last);
                last
            }
        };
        let shape = |width: usize| [p.layers * p.directions, p.batch, width];
        let final_c = (options.cell == Cell::Lstm).then(|| Array::new(&shape(p.hidden), final_c)).transpose()?;
        Ok(RnnOutputs {
            output: Array::new(&p.output_shape(options), output)?.into(),
            final_h: Array::new(&shape(p.state), final_h)?.into(),
            final_c: final_c.map(CpuTensor::from),
        })
    }
}

impl Recurrence for CpuRnn {
    fn options(&self) -> &Rnn {
        &self.options
    }

    fn stack(&self) -> RnnStack<&[usize]> {
        shapes(&self.stack)
    }
}

fn shapes(stack: &RnnStack<Array>) -> RnnStack<&[usize]> {
    stack.iter().map(|layer| layer.iter().map(|weights| weights.map(Array::shape)).collect()).collect()
}

/// Rows of both directions, each [.., P], as one.
fn merge(merge: Merge, state: usize, forward: &[f32], backward: Option<&[f32]>, output: &mut [f32]) {
    let Some(backward) = backward else { return output.copy_from_slice(forward) };
    let each = |f: fn(f32, f32) -> f32, output: &mut [f32]| {
        output.iter_mut().zip(forward.iter().zip(backward)).for_each(|(y, (&a, &b))| *y = f(a, b));
    };
    match merge {
        Merge::Sum => each(|a, b| a + b, output),
        Merge::Mul => each(|a, b| a * b, output),
        Merge::Average => each(|a, b| (a + b) * 0.5, output),
        Merge::Concat => {
            let rows = forward.chunks_exact(state).zip(backward.chunks_exact(state));
            for (y, (a, b)) in output.chunks_exact_mut(2 * state).zip(rows) {
                y[..state].copy_from_slice(a);
                y[state..].copy_from_slice(b);
            }
        }
    }
}

/// The weights of one layer in one direction. Units come in blocks of two vectors, filled up with zeros.
#[derive(Debug)]
struct Weights {
    activations: Activations,
    /// Units of a block, and blocks of units.
    block: usize,
    blocks: usize,
    /// W, columns [blocks][G][block], and b with b' where nothing stands between them.
    input: Packed,
    input_bias: Room,
    /// U, panels of [blocks][gates]. Of a GRU with the reset before: r and z.
    hidden: Packed,
    /// Of a GRU's candidate, whose products stay apart: b' [blocks][block].
    candidate_bias: Option<Room>,
    /// Of a GRU with the reset before: the candidate's rows of U.
    candidate: Option<Packed>,
    /// [3][blocks][block].
    peephole: Option<Room>,
    /// R, [P / block][K][block].
    projection: Option<Packed>,
}

impl Weights {
    fn new(options: &Rnn, direction: usize, w: &RnnWeights<Array>, block: usize) -> Self {
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
    fn padded(&self) -> usize {
        self.blocks * self.block
    }
}

/// A layer over a sequence.
struct Layer<'a> {
    options: &'a Rnn,
    problem: &'a RnnProblem,
    lengths: &'a [usize],
    weights: &'a [Weights],
    wants_steps: bool,
}

/// The numbers that steps go by, and write: [directions, B, ..] each.
struct Buffers {
    /// h as it goes into even and into odd steps, rows of `h_row`.
    h: [Shared; 2],
    h_row: usize,
    /// c, rows of whole blocks.
    c: Shared,
    /// Between the two phases of a step: r∘h and z of a GRU, o∘h(c) of a projected LSTM; rows of whole blocks.
    between: [Shared; 2],
    /// [directions, T, B, P].
    y: Option<Shared>,
}

impl Layer<'_> {
    /// The outputs of all steps, if they are wanted; `h` and `c` [directions, B, ..] become the last ones.
    fn run(&self, cpu: &Cpu, x: &[f32], h: &mut [f32], c: &mut [f32]) -> Vec<f32> {
        let p = self.problem;
        let (directions, batch, state, units) = (p.directions, p.batch, p.state, p.hidden);
        let gates = self.options.cell.gates();
        let weights = &self.weights[0];
        let padded = weights.padded();
        // h lies with what fills up a last block, of a projection's too.
        let h_row = state.next_multiple_of(weights.block);
        let products: Vec<Vec<f32>> = self
            .weights
            .iter()
            .map(|w| {
                let mut products = vec![0.0; p.steps * batch * gates * padded];
                let product = Product {
                    summands: vec![(x, &w.input)],
                    bias: Some(&w.input_bias[..gates * padded]),
                    residual: None,
                    activation: None,
                };
                product.run(cpu, p.steps * batch, &mut products);
                products
            })
            .collect();
        let rows = directions * batch;
        let mut memory = [0; 5].map(|_| Room::default());
        let mut y = vec![0.0; if self.wants_steps { directions * p.steps * batch * state } else { 0 }];
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
            let tile = tile_rows(p, cpu);
            let tiles = batch.div_ceil(tile);
            let blocks = weights.blocks.max(h_row / weights.block);
            let items = directions * blocks * tiles;
            let steps = self.lengths.iter().copied().max().unwrap_or(0);
            let work = rows * steps * weights.hidden.columns * weights.hidden.depth;
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
            return merged;
        }
        y
    }
}

/// One phase of one step, for some batch rows and a block of units.
struct Step<'a> {
    layer: &'a Layer<'a>,
    /// x·Wᵀ + b, [T, B, blocks, G, block].
    products: &'a [f32],
    buffers: &'a Buffers,
    direction: usize,
    step: usize,
    phase: usize,
    block: usize,
    rows: [usize; 2],
}

struct InRoom<'a>(Step<'a>, &'a mut Room);

impl Kernel for InRoom<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(step, room) = self;
        let weights = &step.layer.weights[step.direction];
        let is_block = |width: usize| step.block * weights.block < width;
        match step.phase {
            0 if is_block(weights.padded()) => step.gates(s, room),
            1 if weights.projection.is_some() && is_block(step.buffers.h_row) => step.project(s, room),
            1 if weights.candidate.is_some() => step.candidates(s, room),
            _ => {}
        }
    }
}

/// Rows of h, or of what stands between the phases, times panels of [gates][K][block], to [gates][rows][block].
struct Gates<'a> {
    from: *const f32,
    from_row: usize,
    packed: &'a [f32],
    depth: usize,
    gates: usize,
    /// What each sum begins with, for gate and row: a block, or 0.
    start: &'a dyn Fn(usize, usize) -> Option<&'a [f32]>,
    rows: usize,
    sums: &'a mut [f32],
}

impl Kernel for Gates<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match (self.rows, self.gates) {
            (1, 4) => self.row::<S, 4>(s),
            (1, 3) => self.row::<S, 3>(s),
            (1, 2) => self.row::<S, 2>(s),
            (rows, _) => tiles(s, rows, &mut self),
        }
    }
}

impl Gates<'_> {
    #[inline(always)]
    fn start<S: Simd>(&self, s: S, gate: usize, row: usize) -> [S::V; 2] {
        match (self.start)(gate, row) {
            // SAFETY: a block is two vectors.
            Some(block) => unsafe { [s.load(block.as_ptr()), s.load(block[S::LANES..].as_ptr())] },
            None => [s.splat(0.0); 2],
        }
    }

    #[inline(always)]
    fn put<S: Simd>(&mut self, s: S, gate: usize, row: usize, sums: [S::V; 2]) {
        let block = 2 * S::LANES;
        let at = self.sums[(gate * self.rows + row) * block..][..block].as_mut_ptr();
        // SAFETY: the slice is two vectors long.
        unsafe {
            s.store(at, sums[0]);
            s.store(at.add(S::LANES), sums[1]);
        }
    }

    /// One row, all its gates at once: a sum alone would wait for itself.
    #[inline(always)]
    fn row<S: Simd, const G: usize>(&mut self, s: S) {
        let block = 2 * S::LANES;
        let mut sums = [[s.splat(0.0); 2]; G];
        for (gate, sums) in sums.iter_mut().enumerate() {
            *sums = self.start(s, gate, 0);
        }
        assert!(self.packed.len() >= G * self.depth * block);
        for k in 0..self.depth {
            // SAFETY: the row is as long as panels are deep, and there are G of them.
            unsafe {
                let x = s.splat(*self.from.add(k));
                for (gate, sums) in sums.iter_mut().enumerate() {
                    let at = self.packed.as_ptr().add((gate * self.depth + k) * block);
                    sums[0] = s.mul_add(x, s.load(at), sums[0]);
                    sums[1] = s.mul_add(x, s.load(at.add(S::LANES)), sums[1]);
                }
            }
        }
        for (gate, sums) in sums.into_iter().enumerate() {
            self.put(s, gate, 0, sums);
        }
    }
}

impl<S: Simd> Tiles<S> for Gates<'_> {
    #[inline(always)]
    fn tile<const R: usize>(&mut self, s: S, first: usize) {
        let block = 2 * S::LANES;
        for gate in 0..self.gates {
            let mut start = [[s.splat(0.0); 2]; R];
            for (r, start) in start.iter_mut().enumerate() {
                *start = self.start(s, gate, first + r);
            }
            let panel = &self.packed[gate * self.depth * block..][..self.depth * block];
            // SAFETY: rows `first .. first + R` are as long as the panel is deep.
            let sums = unsafe {
                let a = Strided { at: self.from.add(first * self.from_row), row: self.from_row, column: 1 };
                accumulate::<S, R, 2>(s, self.depth, a, Columns { at: panel.as_ptr(), row: block }, start)
            };
            for (r, sums) in sums.into_iter().enumerate() {
                self.put(s, gate, first + r, sums);
            }
        }
    }
}

impl Step<'_> {
    fn weights(&self) -> &Weights {
        &self.layer.weights[self.direction]
    }

    fn count(&self) -> usize {
        self.rows[1] - self.rows[0]
    }

    /// The time that this step is for batch row `b`, if its sequence is so long.
    fn time(&self, b: usize) -> Option<usize> {
        let length = self.layer.lengths[b];
        let reverse = self.direction == 1 || self.layer.options.direction == Direction::Reverse;
        (self.step < length).then(|| if reverse { length - 1 - self.step } else { self.step })
    }

    /// The block of batch row `b` in a buffer of rows of so many.
    ///
    /// # Safety
    /// The buffer has [directions, B] rows of whole blocks, and nobody else reads or writes this block in this phase.
    #[expect(clippy::mut_from_ref, reason = "the block is not behind self: the caller says that it is nobody else's")]
    unsafe fn block_of(&self, buffer: Shared, row: usize, b: usize) -> &mut [f32] {
        let block = self.weights().block;
        let first = (self.direction * self.layer.problem.batch + b) * row + self.block * block;
        // SAFETY: as the caller's.
        unsafe { std::slice::from_raw_parts_mut(buffer.0.add(first), block) }
    }

    /// As [`Step::block_of`], to read.
    ///
    /// # Safety
    /// The buffer has [directions, B] rows of whole blocks, and nobody writes this block in this phase.
    unsafe fn read_block(&self, buffer: Shared, row: usize, b: usize) -> &[f32] {
        let block = self.weights().block;
        let first = (self.direction * self.layer.problem.batch + b) * row + self.block * block;
        // SAFETY: as the caller's.
        unsafe { std::slice::from_raw_parts(buffer.0.add(first), block) }
    }

    /// The first batch row in a buffer of rows of so many.
    fn rows_of(&self, buffer: Shared, row: usize) -> *const f32 {
        buffer.0.cast_const().wrapping_add((self.direction * self.layer.problem.batch + self.rows[0]) * row)
    }

    /// h as the step finds it.
    fn h(&self) -> Shared {
        self.buffers.h[self.step % 2]
    }

    /// x·Wᵀ + b of a gate of this block.
    fn product_of(&self, b: usize, gate: usize) -> Option<&[f32]> {
        let (w, gates) = (self.weights(), self.layer.options.cell.gates());
        let time = self.time(b)?;
        let first = ((time * self.layer.problem.batch + b) * w.blocks + self.block) * gates + gate;
        Some(&self.products[first * w.block..][..w.block])
    }

    /// Writes a block of h' of a batch row, and of the output; h' = h where its sequence has ended.
    ///
    /// # Safety
    /// As [`Step::block_of`].
    unsafe fn put_h(&self, b: usize, new: &[f32]) {
        let p = self.layer.problem;
        // SAFETY: as the caller's; of the output as many columns are written as there are, by nobody else.
        unsafe {
            let next = self.block_of(self.buffers.h[(self.step + 1) % 2], self.buffers.h_row, b);
            let Some(time) = self.time(b) else {
                return next.copy_from_slice(self.read_block(self.h(), self.buffers.h_row, b));
            };
            next.copy_from_slice(new);
            if let Some(y) = self.buffers.y {
                let column = self.block * new.len();
                let first = ((self.direction * p.steps + time) * p.batch + b) * p.state + column;
                let new = &new[..new.len().min(p.state - column)];
                std::slice::from_raw_parts_mut(y.0.add(first), new.len()).copy_from_slice(new);
            }
        }
    }

    /// The first phase: all gates, and h' where nothing follows.
    #[inline(always)]
    fn gates<S: Simd>(&self, s: S, room: &mut Room) {
        let (w, p, options) = (self.weights(), self.layer.problem, self.layer.options);
        let block = w.block;
        let gates = w.hidden.columns / w.padded();
        let count = self.count();
        let size = count * block;
        let [sums, state, new] = room.split([gates * size, size, size]);
        let start = |gate: usize, row: usize| match &w.candidate_bias {
            Some(bias) if gate == 2 => Some(&bias[self.block * block..][..block]),
            _ => self.product_of(self.rows[0] + row, gate),
        };
        s.call(Gates {
            from: self.rows_of(self.h(), self.buffers.h_row),
            from_row: self.buffers.h_row,
            packed: w.hidden.panels(self.block * gates, gates),
            depth: p.state,
            gates,
            start: &start,
            rows: count,
            sums,
        });
        // c of an LSTM, h of a GRU; in the end what carries on.
        let (buffer, row) = match options.cell {
            Cell::Lstm => (self.buffers.c, w.padded()),
            Cell::Gru { .. } | Cell::Rnn => (self.h(), self.buffers.h_row),
        };
        let active = |row: &usize| self.time(self.rows[0] + row).is_some();
        for (n, state) in state.chunks_exact_mut(block).enumerate() {
            // SAFETY: this item's own block of c, or one of h, which nobody writes.
            state.copy_from_slice(unsafe { self.read_block(buffer, row, self.rows[0] + n) });
        }
        let limit = options.clip;
        let f = w.activations.gates;
        let [a, b, c, d] = parts(sums, size);
        let mut between = None;
        match options.cell {
            Cell::Lstm => {
                self.lstm(s, [a, b, c, d], state, new);
                for n in (0..count).filter(active) {
                    // SAFETY: this item's own block.
                    let c = unsafe { self.block_of(self.buffers.c, w.padded(), self.rows[0] + n) };
                    c.copy_from_slice(&state[n * block..][..block]);
                }
                if w.projection.is_some() {
                    between = Some([&*new, &*new]);
                }
            }
            Cell::Gru { .. } => {
                s.call(Activate { f: f[0], limit, x: a });
                s.call(Activate { f: f[1], limit, x: b });
                if w.candidate.is_some() {
                    a.iter_mut().zip(&*state).for_each(|(r, h)| *r *= h);
                    between = Some([&*a, &*b]);
                } else {
                    c.iter_mut().zip(&*a).for_each(|(n, r)| *n *= r);
                    self.add_products(c);
                    s.call(Activate { f: f[2], limit, x: c });
                    blend(b, c, state, new);
                }
            }
            Cell::Rnn => {
                s.call(Activate { f: f[0], limit, x: a });
                new.copy_from_slice(a);
            }
        }
        for n in 0..count {
            let (b, of) = (self.rows[0] + n, n * block..(n + 1) * block);
            // SAFETY: this item's own block.
            unsafe {
                match between {
                    None => self.put_h(b, &new[of]),
                    Some(both) => {
                        for (buffer, from) in self.buffers.between.into_iter().zip(both) {
                            self.block_of(buffer, w.padded(), b).copy_from_slice(&from[of.clone()]);
                        }
                    }
                }
            }
        }
    }

    /// Adds x·W + b of a GRU's candidate to rows of a block.
    fn add_products(&self, candidates: &mut [f32]) {
        for (n, candidates) in candidates.chunks_exact_mut(self.weights().block).enumerate() {
            if let Some(product) = self.product_of(self.rows[0] + n, 2) {
                candidates.iter_mut().zip(product).for_each(|(n, x)| *n += x);
            }
        }
    }

    /// c' in place of c and o∘h(c'), from the sums of the gates.
    #[inline(always)]
    fn lstm<S: Simd>(&self, s: S, [i, f, g, o]: [&mut [f32]; 4], c: &mut [f32], new: &mut [f32]) {
        let (w, options) = (self.weights(), self.layer.options);
        let activations = w.activations.gates;
        let limit = options.clip;
        self.peep(0, c, i);
        s.call(Activate { f: activations[0], limit, x: i });
        if options.input_forget {
            f.iter_mut().zip(&*i).for_each(|(f, i)| *f = 1.0 - i);
        } else {
            if options.forget_bias != 0.0 {
                f.iter_mut().for_each(|f| *f += options.forget_bias);
            }
            self.peep(1, c, f);
            s.call(Activate { f: activations[1], limit, x: f });
        }
        s.call(Activate { f: activations[2], limit, x: g });
        for (((c, f), i), g) in c.iter_mut().zip(&*f).zip(&*i).zip(&*g) {
            *c = f * *c + i * g;
        }
        clip(c, options.cell_clip);
        self.peep(2, c, o);
        s.call(Activate { f: activations[3], limit, x: o });
        new.copy_from_slice(c);
        s.call(Activate { f: w.activations.output, limit: None, x: new });
        new.iter_mut().zip(&*o).for_each(|(new, o)| *new *= o);
    }

    /// Adds what a gate sees of c through row `row` of the peepholes, if there are some.
    fn peep(&self, row: usize, c: &[f32], sums: &mut [f32]) {
        let w = self.weights();
        let Some(p) = &w.peephole else { return };
        let p = &p[row * w.padded() + self.block * w.block..][..w.block];
        for (sums, c) in sums.chunks_exact_mut(w.block).zip(c.chunks_exact(w.block)) {
            sums.iter_mut().zip(p.iter().zip(c)).for_each(|(sum, (p, c))| *sum += p * c);
        }
    }

    /// The second phase of a GRU with the reset before: n = g(x + U·(r∘h) + b').
    #[inline(always)]
    fn candidates<S: Simd>(&self, s: S, room: &mut Room) {
        let w = self.weights();
        let (Some(packed), Some(bias)) = (&w.candidate, &w.candidate_bias) else { return };
        let (block, count) = (w.block, self.count());
        let [sums, new] = room.split([count * block, block]);
        s.call(Gates {
            from: self.rows_of(self.buffers.between[0], w.padded()),
            from_row: w.padded(),
            packed: packed.panels(self.block, 1),
            depth: self.layer.problem.state,
            gates: 1,
            start: &|_, _| Some(&bias[self.block * block..][..block]),
            rows: count,
            sums,
        });
        self.add_products(sums);
        s.call(Activate { f: w.activations.gates[2], limit: self.layer.options.clip, x: sums });
        for (n, candidates) in sums.chunks_exact(block).enumerate() {
            let b = self.rows[0] + n;
            // SAFETY: this item's own block.
            unsafe {
                let z = self.read_block(self.buffers.between[1], w.padded(), b);
                blend(z, candidates, self.read_block(self.h(), self.buffers.h_row, b), new);
                self.put_h(b, new);
            }
        }
    }

    /// The second phase of a projected LSTM: h' = R·(o∘h(c')), clipped.
    #[inline(always)]
    fn project<S: Simd>(&self, s: S, room: &mut Room) {
        let w = self.weights();
        let Some(packed) = &w.projection else { return };
        let (block, count) = (w.block, self.count());
        let [sums] = room.split([count * block]);
        s.call(Gates {
            from: self.rows_of(self.buffers.between[0], w.padded()),
            from_row: w.padded(),
            packed: packed.panels(self.block, 1),
            depth: self.layer.problem.hidden,
            gates: 1,
            start: &|_, _| None,
            rows: count,
            sums,
        });
        clip(sums, self.layer.options.projection_clip);
        for (n, h) in sums.chunks_exact(block).enumerate() {
            // SAFETY: this item's own block.
            unsafe { self.put_h(self.rows[0] + n, h) };
        }
    }
}

/// (1 − z)∘n + z∘h.
fn blend(z: &[f32], n: &[f32], h: &[f32], new: &mut [f32]) {
    for (new, ((z, n), h)) in new.iter_mut().zip(z.iter().zip(n).zip(h)) {
        *new = (1.0 - z) * n + z * h;
    }
}

/// The parts of [gates][rows][block], as many as there are.
fn parts(mut sums: &mut [f32], size: usize) -> [&mut [f32]; 4] {
    [0; 4].map(|_| {
        let (own, rest) = std::mem::take(&mut sums).split_at_mut_checked(size).unwrap_or_default();
        sums = rest;
        own
    })
}
