//! LSTM, GRU and RNN, step by step.
//!
//! ```text
//! x·Wᵀ + b of all steps at once
//! for each step: for each tile of batch rows and block of units:
//!     gates = x·Wᵀ + b of the step + h·Uᵀ            U packed once: [blocks][G][K][units]
//!     h', c' by the formulas of the cell
//! ```
//! Threads share blocks and tiles of a step, and go from step to step together; each has its blocks of U in its own cache.

mod layer;
mod step;
mod weights;

use std::sync::Arc;

use self::layer::Layer;
use self::weights::Weights;
use super::{Cpu, CpuTensor};
use crate::backend::{Recurrence, Value};
use crate::error::Result;
use crate::problem::{RnnProblem, Role};
use crate::reference::{self, lengths};
use crate::rnn::{Cell, Merge, Rnn, RnnInputs, RnnOutputs, RnnStack, RnnWeights, Steps};
use crate::tensor::{Array, DType};

/// Why a recurrence is handed to the reference, if it is.
pub(crate) fn handed_over(options: &Rnn) -> Option<&'static str> {
    options.layer_norm.is_some().then_some("it has layer normalisation")
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
            role => Ok(CpuTensor::stored(name, array, role.dtype(dtype))?.into_array()),
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
            let arrays = inputs.map_numbers(CpuTensor::to_array);
            let outputs = cpu.threads().inside(|| reference::rnn(options, &self.stack, &arrays))?;
            let RnnOutputs { output, final_h, final_c } = outputs;
            return Ok(RnnOutputs { output: output.into(), final_h: final_h.into(), final_c: final_c.map(Into::into) });
        };
        let p = &RnnProblem::new(options, &shapes(&self.stack), &inputs.map(CpuTensor::shape, Array::shape))?;
        if layers.iter().flatten().any(|weights| weights.block != cpu.panel()) {
            // Packed for vectors of another length.
            return Self::new(cpu, options, &self.stack)?.run(cpu, inputs);
        }
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
            x = Some(layer.run(cpu, from, state, cell)?);
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
