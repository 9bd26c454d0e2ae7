//! A model's network on the CPU, in f32, through the reference.

use super::Model;
use super::layers::Dense;
use super::network::{Graph, Network, Ops, SourceBatch, StepOutput};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs};
use crate::error::{Error, Result};
use crate::reference;
use crate::rnn::{Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::Array;

/// A model's network on the CPU.
pub struct CpuNetwork<'m>(Graph<'m, Cpu>);

impl<'m> CpuNetwork<'m> {
    /// The network of a model.
    ///
    /// # Errors
    /// None in practice; the signature is that of every device.
    pub fn new(model: &'m Model) -> Result<Self> {
        Graph::new(model, Cpu).map(Self)
    }
}

impl Network for CpuNetwork<'_> {
    fn start(&mut self, batch: &SourceBatch, width: usize) -> Result<()> {
        self.0.start(batch, width)
    }

    fn step(&mut self, parents: &[u32], tokens: &[u32], weights: bool) -> Result<StepOutput> {
        self.0.step(parents, tokens, weights)
    }
}

/// The reference's operations.
#[derive(Debug, Clone, Copy)]
struct Cpu;

impl Ops for Cpu {
    type Tensor = Array;
    type Recurrence = (Rnn, RnnStack<Array>);

    fn upload(&mut self, array: &Array) -> Result<Array> {
        Ok(array.clone())
    }

    fn lengths(&mut self, lengths: &[u32]) -> Result<Array> {
        Ok(Array::from_fn(&[lengths.len()], |i| lengths[i] as f32))
    }

    fn embed(&mut self, table: &Array, ids: &[u32]) -> Result<Array> {
        reference::embed(table, ids)
    }

    fn concat(&mut self, parts: &[Array]) -> Result<Array> {
        let rows = parts.first().and_then(|p| p.shape().first().copied()).unwrap_or(0);
        let mut width = 0;
        for part in parts {
            match *part.shape() {
                [r, w] if r == rows => width += w,
                ref shape => return Err(Error::shape("part", "shape", format!("[{rows}, …]"), format!("{shape:?}"))),
            }
        }
        let row = |r: usize| parts.iter().flat_map(move |p| &p.data()[r * p.shape()[1]..(r + 1) * p.shape()[1]]);
        Array::new(&[rows, width], (0..rows).flat_map(row).copied().collect())
    }

    fn dense(&mut self, layer: &Dense<Array>, x: &Array) -> Result<Array> {
        reference::linear(x, &layer.weight, layer.bias.as_ref(), layer.activation)
    }

    fn recurrence(&mut self, options: &Rnn, stack: &RnnStack<Array>) -> Result<Self::Recurrence> {
        Ok((options.clone(), stack.clone()))
    }

    fn rnn(&mut self, (options, stack): &Self::Recurrence, inputs: &RnnInputs<Array>) -> Result<RnnOutputs<Array>> {
        reference::rnn(options, stack, inputs)
    }

    fn submit(&mut self) -> Result<()> {
        Ok(())
    }

    fn attention(&mut self, options: &Attention, inputs: &AttentionInputs<Array>) -> Result<AttentionOutputs<Array>> {
        reference::attention(options, inputs)
    }

    fn reshape(&mut self, x: &Array, shape: &[usize]) -> Result<Array> {
        x.clone().reshape(shape)
    }

    fn permute(&mut self, x: &Array, order: &[usize]) -> Result<Array> {
        x.permute(order)
    }

    fn read(&mut self, tensors: &[&Array]) -> Result<Vec<Array>> {
        Ok(tensors.iter().map(|&t| t.clone()).collect())
    }
}
