//! A model's network on a GPU: operations are recorded one after the other, submitted once for the encoder and once
//! for each decoder step, and only logits (and weights, if asked for) come back.

use super::Model;
use super::layers::Dense;
use super::network::{Graph, Network, Ops, SourceBatch, StepOutput};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::copy;
use crate::ops::linear::{Epilogue, embed, linear};
use crate::ops::rnn::GpuRnn;
use crate::rnn::{Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::{Array, DType};

/// A model's network on a GPU, weights in f32.
pub struct GpuNetwork<'m>(Graph<'m, Recorder<'m>>);

impl<'m> GpuNetwork<'m> {
    /// The network of a model, its weights uploaded.
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::Gpu`] when the device does not take the weights.
    pub fn new(model: &'m Model, gpu: &'m Gpu) -> Result<Self> {
        Graph::new(model, Recorder { gpu, run: Run::new(gpu) }).map(Self)
    }
}

impl GpuNetwork<'_> {
    /// What was recorded before an error must not run with the next batch.
    fn clean_up<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            drop(self.0.ops_mut().take());
        }
        result
    }
}

impl Network for GpuNetwork<'_> {
    fn start(&mut self, batch: &SourceBatch, width: usize) -> Result<()> {
        let started = self.0.start(batch, width);
        self.clean_up(started)
    }

    fn step(&mut self, parents: &[u32], tokens: &[u32], weights: bool) -> Result<StepOutput> {
        let stepped = self.0.step(parents, tokens, weights);
        self.clean_up(stepped)
    }
}

/// Operations as additions to a run that has not been submitted yet.
struct Recorder<'g> {
    gpu: &'g Gpu,
    run: Run<'g>,
}

impl<'g> Recorder<'g> {
    /// What was recorded, leaving an empty run.
    fn take(&mut self) -> Run<'g> {
        std::mem::replace(&mut self.run, Run::new(self.gpu))
    }
}

impl Ops for Recorder<'_> {
    type Tensor = Tensor;
    type Recurrence = GpuRnn;

    fn upload(&mut self, array: &Array) -> Result<Tensor> {
        Tensor::upload(self.gpu, "upload", array, DType::F32)
    }

    fn lengths(&mut self, lengths: &[u32]) -> Result<Tensor> {
        Tensor::upload_u32(self.gpu, "lengths", &Array::new(&[lengths.len()], lengths.to_vec())?)
    }

    fn embed(&mut self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        let rows = table.shape().first().copied().unwrap_or(0);
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= rows) {
            return Err(Error::shape("table", "axis 0 (rows)", format!("more than id {id}"), rows));
        }
        let ids = Tensor::upload_u32(self.gpu, "ids", &Array::new(&[ids.len()], ids.to_vec())?)?;
        embed(&mut self.run, table, &ids)
    }

    fn concat(&mut self, parts: &[Tensor]) -> Result<Tensor> {
        let rows = parts.first().and_then(|p| p.shape().first().copied()).unwrap_or(0);
        let width = parts.iter().filter_map(|p| p.shape().get(1)).sum();
        let (whole, tensor) = self.run.output("concatenation", &[rows, width], DType::F32)?;
        let mut column = 0;
        for part in parts {
            let view = self.run.bind("part", part);
            let columns = view.shape().get(1).copied().unwrap_or(0);
            let place = whole.with(whole.layout.narrow(1, column, columns)?);
            copy::record(self.run.recording_mut(), self.gpu.caps(), &view, &place)?;
            column += columns;
        }
        Ok(tensor)
    }

    fn dense(&mut self, layer: &Dense<Tensor>, x: &Tensor) -> Result<Tensor> {
        let (bias, activation) = (layer.bias.as_ref(), layer.activation);
        linear(&mut self.run, &[(x, &layer.weight)], &Epilogue { bias, activation, ..Epilogue::default() })
    }

    fn recurrence(&mut self, options: &Rnn, stack: &RnnStack<Array>) -> Result<GpuRnn> {
        GpuRnn::upload(self.gpu, options, stack, DType::F32)
    }

    fn rnn(&mut self, recurrence: &GpuRnn, inputs: &RnnInputs<Tensor>) -> Result<RnnOutputs<Tensor>> {
        recurrence.record(&mut self.run, inputs)
    }

    fn attention(&mut self, options: &Attention, inputs: &AttentionInputs<Tensor>) -> Result<AttentionOutputs<Tensor>> {
        options.record(&mut self.run, inputs)
    }

    fn reshape(&mut self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        x.with_layout(x.layout().reshape(shape)?)
    }

    fn permute(&mut self, x: &Tensor, order: &[usize]) -> Result<Tensor> {
        x.permute(order)
    }

    fn submit(&mut self) -> Result<()> {
        self.take().submit()
    }

    fn read(&mut self, tensors: &[&Tensor]) -> Result<Vec<Array>> {
        self.take().submit_and_read(tensors)
    }
}
