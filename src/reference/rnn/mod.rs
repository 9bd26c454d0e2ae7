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
//! Sources: PyTorch `nn.LSTM`, `nn.GRU` (stacked layers, packed sequences); ONNX `LSTM` 22 (`sequence_lens`); the
//! cells' own in `cell`.

mod cell;

use self::cell::CellWeights;
use super::{Float, lengths, parallel};
use crate::error::Result;
use crate::problem::RnnProblem;
use crate::rnn::{Cell, Direction, Merge, Rnn, RnnInputs, RnnOutputs, RnnStack, Steps};
use crate::tensor::Array;

/// A recurrent encoder over host arrays.
///
/// # Errors
/// Those of [`RnnProblem::new`], and a length above T.
pub fn rnn<T: Float>(
    options: &Rnn,
    stack: &RnnStack<Array<T>>,
    inputs: &RnnInputs<Array<T>>,
) -> Result<RnnOutputs<Array<T>>> {
    let shapes = stack.iter().map(|layer| layer.iter().map(|w| w.map(Array::shape)).collect()).collect();
    let p = RnnProblem::new(options, &shapes, &inputs.map(Array::shape, Array::shape))?;
    let (batch, state) = (p.batch, p.state);
    let lengths = lengths("lengths", inputs.lengths.as_ref(), p.steps)?.unwrap_or_else(|| vec![p.steps; batch]);

    let mut x = inputs.input.data().to_vec();
    let (mut final_h, mut final_c) = (Vec::new(), Vec::new());
    for (l, layer) in stack.iter().enumerate() {
        let width = p.inputs[l];
        let cells: Vec<_> =
            layer.iter().enumerate().map(|(d, weights)| CellWeights::new(options, d, weights, &p, width)).collect();
        let runs = parallel::map(p.directions * batch, |k| {
            let (d, b) = (k / batch, k % batch);
            let initial = |array: &Option<Array<T>>, width: usize| match array {
                Some(array) => array.data()[((l * p.directions + d) * batch + b) * width..][..width].to_vec(),
                None => vec![T::ZERO; width],
            };
            let reverse = d == 1 || options.direction == Direction::Reverse;
            let (mut h, mut c) = (initial(&inputs.initial_h, state), initial(&inputs.initial_c, p.hidden));
            let mut y = vec![T::ZERO; p.steps * state];
            for step in 0..lengths[b] {
                let t = if reverse { lengths[b] - 1 - step } else { step };
                (h, c) = cells[d].step(&x[(t * batch + b) * width..][..width], &h, &c);
                y[t * state..][..state].copy_from_slice(&h);
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
                let of = |d: usize| &runs[d * batch + b].0[t * state..][..state];
                merge(options.merge, of(0), (p.directions == 2).then(|| of(1)), &mut x);
            }
        }
    }
    let output = match options.steps {
        Steps::All => x,
        Steps::Last => {
            let top = &final_h[(p.layers - 1) * p.directions * batch * state..];
            let of = |d: usize, b: usize| &top[(d * batch + b) * state..][..state];
            let mut last = Vec::with_capacity(batch * p.width);
            (0..batch).for_each(|b| merge(options.merge, of(0, b), (p.directions == 2).then(|| of(1, b)), &mut last));
            last
        }
    };
    let states = |width: usize| [p.layers * p.directions, batch, width];
    let cell_state = options.cell == Cell::Lstm;
    Ok(RnnOutputs {
        output: Array::new(&p.output_shape(options), output)?,
        final_h: Array::new(&states(state), final_h)?,
        final_c: cell_state.then(|| Array::new(&states(p.hidden), final_c)).transpose()?,
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
