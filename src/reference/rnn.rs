//! LSTM, GRU and Elman recurrences by their definitions, one step of one batch row at a time.
//!
//! ```text
//! for each layer l, direction d, batch row b:
//!     (h, c) = initial state
//!     for t over the valid steps, backwards if d is the reverse direction:
//!         (h, c) = cell(x[t, b], h, c);  y[t, b] = h
//!     y past the row's length is 0;  final state = (h, c)
//!     the next layer reads the merged y of this one
//! ```
//! Sources: ONNX `LSTM`, `GRU`, `RNN` 22 (formulas, peepholes, clip, activations); PyTorch `nn.LSTM`, `nn.GRU` (gate
//! order, stacked layers, packed sequences); Gers and Schmidhuber 2000 (peepholes); Greff et al. 2017 (coupled gates).

use super::linear::{activate, product, transpose};
use super::{Float, lengths, parallel};
use crate::error::Result;
use crate::problem::RnnProblem;
use crate::rnn::{Activations, Cell, Direction, Merge, Reset, Rnn, RnnInputs, RnnOutputs, RnnStack, RnnWeights};
use crate::tensor::Array;

/// A recurrent encoder over host arrays.
///
/// # Errors
/// Those of [`RnnProblem::new`], and a length that is no whole number of steps.
pub fn rnn<T: Float>(
    options: &Rnn,
    stack: &RnnStack<Array<T>>,
    inputs: &RnnInputs<Array<T>>,
) -> Result<RnnOutputs<Array<T>>> {
    let shapes = stack.iter().map(|layer| layer.iter().map(|w| w.map(Array::shape)).collect()).collect();
    let p = RnnProblem::new(options, &shapes, &inputs.map(Array::shape))?;
    let (batch, units) = (p.batch, p.hidden);
    let lengths = lengths("lengths", inputs.lengths.as_ref(), p.steps)?.unwrap_or_else(|| vec![p.steps; batch]);

    let mut x = inputs.input.data().to_vec();
    let (mut final_h, mut final_c) = (Vec::new(), Vec::new());
    for (l, layer) in stack.iter().enumerate() {
        let width = p.inputs[l];
        let cells: Vec<_> =
            layer.iter().enumerate().map(|(d, weights)| CellWeights::new(options, d, weights, units, width)).collect();
        let runs = parallel::map(p.directions * batch, |k| {
            let (d, b) = (k / batch, k % batch);
            let state = |array: &Option<Array<T>>| match array {
                Some(array) => array.data()[((l * p.directions + d) * batch + b) * units..][..units].to_vec(),
                None => vec![T::ZERO; units],
            };
            let reverse = d == 1 || options.direction == Direction::Reverse;
            let (mut h, mut c) = (state(&inputs.initial_h), state(&inputs.initial_c));
            let mut y = vec![T::ZERO; p.steps * units];
            for step in 0..lengths[b] {
                let t = if reverse { lengths[b] - 1 - step } else { step };
                (h, c) = cells[d].step(&x[(t * batch + b) * width..][..width], &h, &c);
                y[t * units..][..units].copy_from_slice(&h);
            }
            (y, h, c)
        });
        for (_, h, c) in &runs {
            final_h.extend_from_slice(h);
            final_c.extend_from_slice(c);
        }
        x = Vec::with_capacity(p.steps * batch * p.width);
        for t in 0..p.steps {
            for b in 0..batch {
                let of = |d: usize| &runs[d * batch + b].0[t * units..][..units];
                merge(options.merge, of(0), (p.directions == 2).then(|| of(1)), &mut x);
            }
        }
    }
    let states = [p.layers * p.directions, batch, units];
    let cell_state = options.cell == Cell::Lstm;
    Ok(RnnOutputs {
        output: Array::new(&[p.steps, batch, p.width], x)?,
        final_h: Array::new(&states, final_h)?,
        final_c: cell_state.then(|| Array::new(&states, final_c)).transpose()?,
    })
}

fn merge<T: Float>(merge: Merge, forward: &[T], backward: Option<&[T]>, out: &mut Vec<T>) {
    let Some(backward) = backward else {
        return out.extend_from_slice(forward);
    };
    let mut each = |f: fn(T, T) -> T| out.extend(forward.iter().zip(backward).map(|(&a, &b)| f(a, b)));
    match merge {
        Merge::Sum => each(|a, b| a + b),
        Merge::Mul => each(|a, b| a * b),
        Merge::Average => each(|a, b| (a + b) * T::from_f64(0.5)),
        Merge::Concat => {
            out.extend_from_slice(forward);
            out.extend_from_slice(backward);
        }
    }
}

/// One layer in one direction; W and U transposed, so that a product runs along rows of gates.
struct CellWeights<'a, T> {
    options: &'a Rnn,
    activations: Activations,
    weights: &'a RnnWeights<Array<T>>,
    units: usize,
    /// Wᵀ [I, G·H].
    input: Vec<T>,
    /// Uᵀ [H, G·H].
    hidden: Vec<T>,
    /// GRU with the reset before: the candidate's part of Uᵀ, [H, H].
    candidate: Vec<T>,
}

impl<'a, T: Float> CellWeights<'a, T> {
    fn new(options: &'a Rnn, direction: usize, weights: &'a RnnWeights<Array<T>>, units: usize, width: usize) -> Self {
        let recurrent = weights.weight_hh.data();
        let candidate = match options.cell {
            Cell::Gru { reset: Reset::Before } => transpose(&recurrent[2 * units * units..], units),
            _ => Vec::new(),
        };
        let (input, hidden) = (transpose(weights.weight_ih.data(), width), transpose(recurrent, units));
        Self { options, activations: options.activations_of(direction), weights, units, input, hidden, candidate }
    }

    /// The next (h, c).
    fn step(&self, x: &[T], h: &[T], c: &[T]) -> (Vec<T>, Vec<T>) {
        let rows = self.options.cell.gates() * self.units;
        // b + W·x and b' + U·h
        let wx = product(x, &self.input, rows, self.weights.bias_ih.as_ref());
        let uh = product(h, &self.hidden, rows, self.weights.bias_hh.as_ref());
        match self.options.cell {
            Cell::Lstm => self.lstm(&wx, &uh, c),
            Cell::Gru { reset } => (self.gru(reset, &wx, &uh, h), Vec::new()),
            Cell::Rnn => ((0..self.units).map(|k| self.gate(0, wx[k] + uh[k])).collect(), Vec::new()),
        }
    }

    /// A gate's activation of its pre-activation, which is clipped first (ONNX `clip`).
    fn gate(&self, gate: usize, x: T) -> T {
        let x = self.options.clip.map_or(x, |clip| x.clamp(-T::from_f32(clip), T::from_f32(clip)));
        activate(self.activations.gates[gate], x)
    }

    /// i = f(Wi·x + Ui·h + pi∘c + bi)          f = f(… + pf∘c …), or 1 − i when coupled
    /// g = g(Wg·x + Ug·h + bg)                 c' = f∘c + i∘g
    /// o = f(Wo·x + Uo·h + po∘c' + bo)         h' = o∘h(c')
    fn lstm(&self, wx: &[T], uh: &[T], c: &[T]) -> (Vec<T>, Vec<T>) {
        let n = self.units;
        let peep = |row: usize, k: usize, c: T| match &self.weights.peephole {
            Some(p) => p.data()[row * n + k] * c,
            None => T::ZERO,
        };
        let mut next = (Vec::with_capacity(n), Vec::with_capacity(n));
        for k in 0..n {
            let pre = |gate: usize| wx[gate * n + k] + uh[gate * n + k];
            let i = self.gate(0, pre(0) + peep(0, k, c[k]));
            let f = if self.options.input_forget {
                T::ONE - i
            } else {
                self.gate(1, pre(1) + peep(1, k, c[k]) + T::from_f32(self.options.forget_bias))
            };
            let g = self.gate(2, pre(2));
            let cell = f * c[k] + i * g;
            let o = self.gate(3, pre(3) + peep(2, k, cell));
            next.0.push(o * activate(self.activations.output, cell));
            next.1.push(cell);
        }
        next
    }

    /// r = f(Wr·x + Ur·h + br)                 z = f(Wz·x + Uz·h + bz)
    /// n = g(Wn·x + bn + r∘(Un·h + b'n))       reset after
    /// n = g(Wn·x + bn + Un·(r∘h) + b'n)       reset before
    /// h' = (1 − z)∘n + z∘h
    fn gru(&self, reset: Reset, wx: &[T], uh: &[T], h: &[T]) -> Vec<T> {
        let n = self.units;
        let sigma = |gate: usize, k: usize| self.gate(gate, wx[gate * n + k] + uh[gate * n + k]);
        let r: Vec<T> = (0..n).map(|k| sigma(0, k)).collect();
        let recurrent: Vec<T> = match reset {
            Reset::After => (0..n).map(|k| r[k] * uh[2 * n + k]).collect(),
            Reset::Before => {
                let rh: Vec<T> = r.iter().zip(h).map(|(&r, &h)| r * h).collect();
                let mut out = product(&rh, &self.candidate, n, None);
                if let Some(bias) = &self.weights.bias_hh {
                    out.iter_mut().zip(&bias.data()[2 * n..]).for_each(|(y, &b)| *y += b);
                }
                out
            }
        };
        (0..n)
            .map(|k| {
                let z = sigma(1, k);
                let candidate = self.gate(2, wx[2 * n + k] + recurrent[k]);
                (T::ONE - z) * candidate + z * h[k]
            })
            .collect()
    }
}
