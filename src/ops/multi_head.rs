//! Multi-head attention with its projections on the GPU.

use crate::attention::{AttentionInputs, AttentionOutputs, Mask};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::copy;
use crate::layers::{Linear, MultiHeadAttention, MultiHeadProblem, MultiHeadWeights};
use crate::ops::linear::{self, Epilogue, linear, sum, to_f32};
use crate::tensor::{Array, DType, Layout};

impl MultiHeadAttention {
    /// Records this layer over `inputs`; the tensors returned are filled when the run is submitted. Heads are views:
    /// nothing is copied, except keys and values that a learned or a zero one is put behind.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] when the request is wrong, [`Error::Limit`] when it
    /// does not fit the device.
    pub fn record(
        &self,
        run: &mut Run<'_>,
        weights: &MultiHeadWeights<Tensor>,
        inputs: &AttentionInputs<Tensor>,
    ) -> Result<AttentionOutputs<Tensor>> {
        let problem = MultiHeadProblem::new(self, &weights.map(Tensor::shape), &inputs.map(Tensor::shape))?;
        for (name, tensor) in [("query", &inputs.query), ("key", &inputs.key), ("value", &inputs.value)] {
            tensor.dtype().check_float(name)?;
        }
        weights.try_map(|name, tensor| match name.ends_with(".weight") {
            true => tensor.dtype().check_float(name),
            false if tensor.dtype() == DType::F32 => Ok(()),
            false => Err(Error::shape(name, "dtype", DType::F32, tensor.dtype())),
        })?;

        let zero = match self.add_zero_attn {
            true => Some(Tensor::upload(run.gpu(), "zero", &Array::filled(&[1], 0.0), DType::F32)?),
            false => None,
        };
        let added = |learned: &Option<Tensor>| [learned, &zero].into_iter().flatten().cloned().collect::<Vec<_>>();
        let query = project_rows(run, "projected query", &inputs.query, &weights.query, &[])?;
        let key = project_rows(run, "projected key", &inputs.key, &weights.key, &added(&weights.bias_key))?;
        let value = project_rows(run, "projected value", &inputs.value, &weights.value, &added(&weights.bias_value))?;
        let inside = AttentionInputs {
            query: query.heads(self.heads)?,
            key: key.heads(self.kv_heads)?,
            value: value.heads(self.kv_heads)?,
            mask: match &inputs.mask {
                Some(mask) if problem.extra > 0 => Some(extend_mask(run, &problem, mask)?),
                mask => mask.clone(),
            },
            past_key: inputs.past_key.as_ref().map(|past| to_f32(run, past)).transpose()?,
            past_value: inputs.past_value.as_ref().map(|past| to_f32(run, past)).transpose()?,
            ..inputs.clone()
        };

        // [B, Nq, H·Dv], which the attention writes as heads.
        let p = &problem.attention;
        let shape = [p.batch, p.queries, p.query_heads * p.value_dim];
        let joined = Tensor::uninitialized(run.gpu(), "joined heads", &shape, DType::F32)?;
        let outputs = self.attention.record_into(run, &inside, &joined.heads(self.heads)?)?;
        let output = {
            let epilogue = Epilogue { bias: weights.output.bias.as_ref(), ..Epilogue::default() };
            linear(run, &[(&joined, &weights.output.weight)], &epilogue)?
        };
        let weights = match outputs.weights {
            Some(weights) if self.average_weights => Some(mean_over_heads(run, &weights)?),
            weights => weights,
        };
        Ok(AttentionOutputs { output, weights, ..outputs })
    }

    /// Runs this layer and submits, as [`Run::submit`] does, without waiting for it.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::record`], and [`Error::Gpu`] or [`Error::DeviceLost`] from the device.
    pub fn run(
        &self,
        gpu: &Gpu,
        weights: &MultiHeadWeights<Tensor>,
        inputs: &AttentionInputs<Tensor>,
    ) -> Result<AttentionOutputs<Tensor>> {
        let mut run = Run::new(gpu);
        let outputs = self.record(&mut run, weights, inputs)?;
        run.submit()?;
        Ok(outputs)
    }
}

impl MultiHeadWeights<Array<f32>> {
    /// Uploads every tensor: matrices as `dtype`, vectors as f32.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Unsupported`] or [`Error::Gpu`] from the device.
    pub fn upload(&self, gpu: &Gpu, dtype: DType) -> Result<MultiHeadWeights<Tensor>> {
        self.try_map(|name, array| upload_weight(gpu, name, array, dtype))
    }
}

/// A matrix as `dtype`, a vector as f32.
pub(super) fn upload_weight(gpu: &Gpu, name: &str, array: &Array<f32>, dtype: DType) -> Result<Tensor> {
    Tensor::upload(gpu, name, array, if array.shape().len() == 2 { dtype } else { DType::F32 })
}

/// The projection of [B, N, K] with rows `added` behind it: f32 [B, N + added, W]. A row of one element is repeated.
fn project_rows(run: &mut Run<'_>, name: &str, x: &Tensor, layer: &Linear<Tensor>, added: &[Tensor]) -> Result<Tensor> {
    let (&[batch, rows, _], &[width, _]) = (x.shape(), layer.weight.shape()) else {
        return Err(Error::shape(name, "ranks", "3 and 2", format!("{:?}", x.shape())));
    };
    let (whole, tensor) = run.output(name, &[batch, rows + added.len(), width], DType::F32)?;
    let head = whole.with(whole.layout.narrow(1, 0, rows)?);
    let epilogue = Epilogue { bias: layer.bias.as_ref(), ..Epilogue::default() };
    linear::record(run, &[(x, &layer.weight)], &epilogue, &head)?;
    let caps = run.gpu().caps();
    for (k, row) in added.iter().enumerate() {
        let source = run.bind("added row", row);
        let source = source.with(source.layout.broadcast(&[batch, 1, width])?);
        let target = whole.with(whole.layout.narrow(1, rows + k, 1)?);
        copy::record(run.recording_mut(), caps, &source, &target)?;
    }
    Ok(tensor)
}

/// The mask with columns behind it for the keys that are added: those every query sees.
fn extend_mask(run: &mut Run<'_>, problem: &MultiHeadProblem, mask: &Mask<Tensor>) -> Result<Mask<Tensor>> {
    let gpu = run.gpu();
    let (one, hidden) = (Array::filled(&[1], 1u32), Array::filled(&[1], 0u32));
    let (visible, hidden) = match mask {
        Mask::Bool(_) => (Tensor::upload_u32(gpu, "visible", &one)?, Tensor::upload_u32(gpu, "hidden", &hidden)?),
        Mask::Float(_) => (
            Tensor::upload(gpu, "visible", &Array::filled(&[1], 0.0), DType::F32)?,
            Tensor::upload(gpu, "hidden", &Array::filled(&[1], f32::NEG_INFINITY), DType::F32)?,
        ),
    };
    let given = mask.tensor();
    let shape = problem.mask_shape(given.shape());
    let last = shape.len() - 1;
    let (whole, tensor) = run.output("mask", &shape, given.dtype())?;
    let keys = problem.attention.keys;
    let reach = problem.attention.mask_keys;
    let caps = run.gpu().caps();
    let part = |run: &mut Run<'_>, source: &Tensor, first: usize, length: usize| -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let target = whole.with(whole.layout.narrow(last, first, length)?);
        let source = run.bind("part of the mask", source);
        let source = source.with(source.layout.broadcast(target.shape())?);
        copy::record(run.recording_mut(), caps, &source, &target)
    };
    part(run, given, 0, reach)?;
    part(run, &hidden, reach, keys - reach)?;
    part(run, &visible, keys, problem.extra)?;
    Ok(match mask {
        Mask::Bool(_) => Mask::Bool(tensor),
        Mask::Float(_) => Mask::Float(tensor),
    })
}

/// [B, H, Nq, Nk] to [B, Nq, Nk]: a weighted sum over the heads with weights 1 / H.
fn mean_over_heads(run: &mut Run<'_>, weights: &Tensor) -> Result<Tensor> {
    let &[batch, heads, queries, keys] = weights.shape() else {
        return Err(Error::shape("weights", "rank", 4, weights.shape().len()));
    };
    let share = Tensor::upload(run.gpu(), "share", &Array::filled(&[1], 1.0 / heads as f32), DType::F32)?;
    let (mean, tensor) = run.output("mean weights", &[batch, queries, keys], DType::F32)?;
    let (share, weights) = (run.bind("share", &share), run.bind("weights", weights));
    let share = share.with(Layout { shape: vec![batch, 1, 1, heads], strides: vec![0; 4], ..share.layout.clone() });
    let weights = weights.with(weights.layout.reshape(&[batch, 1, heads, queries * keys])?);
    let mean = mean.with(mean.layout.reshape(&[batch, 1, 1, queries * keys])?);
    sum(run, &share, &weights, &mean)?;
    Ok(tensor)
}
