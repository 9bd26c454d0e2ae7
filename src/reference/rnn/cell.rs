//! One step of one cell.
//!
//! Sources: ONNX `LSTM`, `GRU`, `RNN` 22 (formulas, peepholes, clip, activations); PyTorch `nn.LSTM`, `nn.GRU` (gate
//! order, `proj_size`); Gers and Schmidhuber 2000 (peepholes); Greff et al. 2017 (coupled gates); Sak et al. 2014
//! (projection); TensorFlow 1 `LSTMCell` (its clips); Ba et al. 2016 (layer normalisation).

use super::super::linear::{activate, product, transpose};
use super::super::{Float, norm::normalize as normalize_row};
use crate::norm::Norm;
use crate::problem::RnnProblem;
use crate::rnn::{Activations, Cell, NormOver, Reset, Rnn, RnnWeights};
use crate::tensor::Array;

/// One layer in one direction; matrices transposed, so that a product runs along rows of gates.
pub(super) struct CellWeights<'a, T> {
    options: &'a Rnn,
    activations: Activations,
    weights: &'a RnnWeights<Array<T>>,
    units: usize,
    state: usize,
    /// Wᵀ [I, G·H].
    input: Vec<T>,
    /// Uᵀ [P, G·H].
    hidden: Vec<T>,
    /// GRU with the reset before: the rows of Uᵀ of the candidate n, [H, H].
    candidate: Vec<T>,
    /// Rᵀ [H, P].
    projection: Option<Vec<T>>,
}

impl<'a, T: Float> CellWeights<'a, T> {
    /// `width` is I.
    pub(super) fn new(
        options: &'a Rnn,
        direction: usize,
        weights: &'a RnnWeights<Array<T>>,
        problem: &RnnProblem,
        width: usize,
    ) -> Self {
        let (units, state) = (problem.hidden, problem.state);
        let recurrent = weights.weight_hh.data();
        let candidate = match options.cell {
            Cell::Gru { reset: Reset::Before } => transpose(&recurrent[2 * units * state..], state),
            _ => Vec::new(),
        };
        Self {
            options,
            activations: options.activations_of(direction),
            weights,
            units,
            state,
            input: transpose(weights.weight_ih.data(), width),
            hidden: transpose(recurrent, state),
            candidate,
            projection: weights.weight_hr.as_ref().map(|r| transpose(r.data(), units)),
        }
    }

    /// The next (h, c).
    pub(super) fn step(&self, x: &[T], h: &[T], c: &[T]) -> (Vec<T>, Vec<T>) {
        let (wx, uh) = self.products(x, h);
        match self.options.cell {
            Cell::Lstm => self.lstm(&wx, &uh, c),
            Cell::Gru { reset } => (self.gru(reset, &wx, &uh, h), Vec::new()),
            Cell::Rnn => ((0..self.units).map(|k| self.gate(0, wx[k] + uh[k])).collect(), Vec::new()),
        }
    }

    /// b + W·x and b' + U·h, whose sum is what the gates see. Layer normalisation comes before the biases:
    ///
    /// b + LN(W·x) and b' + LN(U·h)           over products
    /// b + LN(W·x + U·h) and b'               over each gate
    fn products(&self, x: &[T], h: &[T]) -> (Vec<T>, Vec<T>) {
        let rows = self.options.cell.gates() * self.units;
        let w = self.weights;
        let (mut wx, mut uh) = (product(x, &self.input, rows, None), product(h, &self.hidden, rows, None));
        if let Some(norm) = self.options.layer_norm {
            match norm.over {
                NormOver::Products => {
                    normalize(&mut wx, rows, norm.epsilon, w.norm_ih.as_ref());
                    normalize(&mut uh, rows, norm.epsilon, w.norm_hh.as_ref());
                }
                NormOver::Gates => {
                    add(&mut wx, &uh);
                    normalize(&mut wx, self.units, norm.epsilon, w.norm_hh.as_ref());
                    uh.fill(T::ZERO);
                }
            }
        }
        if let Some(bias) = &w.bias_ih {
            add(&mut wx, bias.data());
        }
        if let Some(bias) = &w.bias_hh {
            add(&mut uh, bias.data());
        }
        (wx, uh)
    }

    /// A gate's activation of its pre-activation, which is clipped first (ONNX `clip`).
    fn gate(&self, gate: usize, x: T) -> T {
        activate(self.activations.gates[gate], clipped(x, self.options.clip))
    }

    /// i = f(Wi·x + Ui·h + pi∘c + bi)          f = f(… + pf∘c …), or 1 − i when coupled
    /// g = g(Wg·x + Ug·h + bg)                 c' = f∘c + i∘g, clipped
    /// o = f(Wo·x + Uo·h + po∘c' + bo)         h' = R·(o∘h(LN(c'))), clipped
    ///
    /// The peephole of o reads the c' that the next step gets: LN(c') if that is carried.
    fn lstm(&self, wx: &[T], uh: &[T], c: &[T]) -> (Vec<T>, Vec<T>) {
        let n = self.units;
        let peep = |row: usize, k: usize, c: T| match &self.weights.peephole {
            Some(p) => p.data()[row * n + k] * c,
            None => T::ZERO,
        };
        let pre = |gate: usize, k: usize| wx[gate * n + k] + uh[gate * n + k];
        let cell = |k: usize| {
            let i = self.gate(0, pre(0, k) + peep(0, k, c[k]));
            let f = if self.options.input_forget {
                T::ONE - i
            } else {
                self.gate(1, pre(1, k) + peep(1, k, c[k]) + T::from_f32(self.options.forget_bias))
            };
            let g = self.gate(2, pre(2, k));
            clipped(f * c[k] + i * g, self.options.cell_clip)
        };
        let mut carried: Vec<T> = (0..n).map(cell).collect();
        let mut seen = carried.clone();
        if let Some(norm) = self.options.layer_norm {
            normalize(&mut seen, n, norm.epsilon, self.weights.norm_c.as_ref());
            if norm.carry {
                carried.clone_from(&seen);
            }
        }
        let out = |k: usize| {
            let o = self.gate(3, pre(3, k) + peep(2, k, carried[k]));
            o * activate(self.activations.output, seen[k])
        };
        let mut h: Vec<T> = (0..n).map(out).collect();
        if let Some(projection) = &self.projection {
            h = product(&h, projection, self.state, None);
            h.iter_mut().for_each(|h| *h = clipped(*h, self.options.projection_clip));
        }
        (h, carried)
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
                    add(&mut out, &bias.data()[2 * n..]);
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

/// Layer normalisation of each stretch of `width` values (Ba et al. 2016, equation 4), then ∘ gain + shift, which are the
/// rows of [2, values].
fn normalize<T: Float>(values: &mut [T], width: usize, epsilon: f32, gain_shift: Option<&Array<T>>) {
    values.chunks_exact_mut(width).for_each(|stretch| normalize_row(Norm::layer(epsilon), stretch));
    if let Some(gain_shift) = gain_shift {
        let (gain, shift) = gain_shift.data().split_at(values.len());
        values.iter_mut().zip(gain).zip(shift).for_each(|((v, &gain), &shift)| *v = *v * gain + shift);
    }
}

/// Into ±`limit`.
fn clipped<T: Float>(x: T, limit: Option<f32>) -> T {
    limit.map_or(x, |limit| x.clamp(-T::from_f32(limit), T::from_f32(limit)))
}

/// y += x.
fn add<T: Float>(y: &mut [T], x: &[T]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
}
