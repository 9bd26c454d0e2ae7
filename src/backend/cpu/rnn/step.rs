//! One step of a tile of batch rows and a block of units.

use super::layer::{Buffers, Layer};
use super::weights::Weights;
use crate::backend::cpu::activation::{Activate, clip};
use crate::backend::cpu::linear::Shared;
use crate::backend::cpu::memory::Room;
use crate::backend::cpu::product::{Columns, Strided, Tiles, accumulate, tiles};
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::rnn::{Cell, Direction};

/// One phase of one step, for some batch rows and a block of units.
pub(super) struct Step<'a> {
    pub(super) layer: &'a Layer<'a>,
    /// x·Wᵀ + b, [T, B, blocks, G, block].
    pub(super) products: &'a [f32],
    pub(super) buffers: &'a Buffers,
    pub(super) direction: usize,
    pub(super) step: usize,
    pub(super) phase: usize,
    pub(super) block: usize,
    pub(super) rows: [usize; 2],
}

/// With room to work in.
pub(super) struct InRoom<'a>(pub(super) Step<'a>, pub(super) &'a mut Room);

impl Kernel for InRoom<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(step, room) = self;
        let weights = &step.layer.weights[step.direction];
        assert_eq!(weights.block, 2 * S::LANES, "weights are packed for these vectors");
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
