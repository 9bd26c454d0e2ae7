//! A recurrent decoder that attends to a memory, on the GPU.

use super::multi_head::upload_weight;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::layers::{
    AttentionDecoder, DecoderMemory, DecoderOutputs, DecoderState, DecoderWeights, LoadedDecoder, LoadedMemory,
};
use crate::ops::rnn::GpuRnn;
use crate::tensor::{Array, DType};

/// An [`AttentionDecoder`] with its weights on the GPU.
///
/// ```no_run
/// # use regard::layers::{AttentionDecoder, DecoderMemory, DecoderWeights};
/// # use regard::layers::GpuAttentionDecoder;
/// # use regard::gpu::Run;
/// # use regard::tensor::{Array, DType};
/// # fn decode(
/// #     gpu: &regard::Gpu,
/// #     options: &AttentionDecoder,
/// #     weights: &DecoderWeights<Array>,
/// #     memory: &DecoderMemory<Array>,
/// #     input: &regard::Tensor,
/// # ) -> regard::Result<()> {
/// let decoder = GpuAttentionDecoder::upload(gpu, options, weights, DType::F32)?;
/// let mut run = Run::new(gpu);
/// let memory = decoder.remember(&mut run, &memory.upload(gpu, DType::F32)?)?;
/// let outputs = decoder.record(&mut run, &memory, input, None)?;
/// // every step of both calls in one run
/// let more = decoder.record(&mut run, &memory, input, Some(&outputs.state))?;
/// run.submit()?;
/// let alignments = more.alignments.download(gpu)?;
/// # Ok(())
/// # }
/// ```
pub type GpuAttentionDecoder = LoadedDecoder<Tensor, GpuRnn>;

impl GpuAttentionDecoder {
    /// Uploads weights; matrices are stored as `dtype`, everything else as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Option`] when the recurrence and its weights do not fit, [`Error::Limit`],
    /// [`Error::Unsupported`] or [`Error::Gpu`] from the device.
    pub fn upload(
        gpu: &Gpu,
        options: &AttentionDecoder,
        weights: &DecoderWeights<Array<f32>>,
        dtype: DType,
    ) -> Result<Self> {
        let stored_as = |name: &str| match name {
            "score.weight" | "score.query_weight" | "score.key_weight" => dtype,
            _ => DType::F32,
        };
        let upload = |name: &str, array: &Array<f32>| upload_weight(gpu, name, array, dtype);
        Ok(Self {
            options: options.clone(),
            cell: GpuRnn::upload(gpu, &options.cell, &weights.cell, dtype)?,
            score: weights.score.try_map(|name, array| Tensor::upload(gpu, name, array, stored_as(name)))?,
            attention: weights.attention.as_ref().map(|layer| layer.try_map("attention", upload)).transpose()?,
        })
    }

    /// Records every step of `input` [T, B, I] (f32 or f16) after `state`, or after zeros; the tensors returned are
    /// filled when the run is submitted. Nothing is read back in between.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] when the request is wrong, [`Error::Limit`] when it
    /// does not fit the device.
    pub fn record(
        &self,
        run: &mut Run<'_>,
        memory: &LoadedMemory<Tensor>,
        input: &Tensor,
        state: Option<&DecoderState<Tensor>>,
    ) -> Result<DecoderOutputs<Tensor>> {
        input.dtype().check_float("input")?;
        if let Some(state) = state {
            state.try_map(|name, tensor| match tensor.dtype() {
                DType::F32 => Ok(()),
                found => Err(Error::shape(name, "dtype", DType::F32, found)),
            })?;
        }
        self.forward(run, memory, input, state)
    }

    /// Projects the memory and runs every step and submits, as [`Run::submit`] does, without waiting for it.
    ///
    /// # Errors
    /// As [`GpuAttentionDecoder::record`], and [`Error::Gpu`] or [`Error::DeviceLost`] from the device.
    pub fn run(
        &self,
        gpu: &Gpu,
        memory: &DecoderMemory<Tensor>,
        input: &Tensor,
        state: Option<&DecoderState<Tensor>>,
    ) -> Result<DecoderOutputs<Tensor>> {
        let mut run = Run::new(gpu);
        let memory = self.remember(&mut run, memory)?;
        let outputs = self.record(&mut run, &memory, input, state)?;
        run.submit()?;
        Ok(outputs)
    }
}

impl DecoderMemory<Array<f32>> {
    /// Uploads every tensor: the memory as `dtype`, lengths and a bool mask as u32, a float mask as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] for a length above Nk, [`Error::Limit`], [`Error::Unsupported`] or
    /// [`Error::Gpu`] from the device.
    pub fn upload(&self, gpu: &Gpu, dtype: DType) -> Result<DecoderMemory<Tensor>> {
        let keys = self.memory.shape().get(1).copied().unwrap_or(0);
        self.try_map(
            |name, array| Tensor::upload(gpu, name, array, if name == "memory" { dtype } else { DType::F32 }),
            |name, array| match name {
                "lengths" => Tensor::upload_lengths(gpu, name, array, keys),
                _ => Tensor::upload_mask(gpu, name, array),
            },
        )
    }
}

impl DecoderState<Array<f32>> {
    /// Uploads every tensor, as f32.
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::Gpu`] from the device.
    pub fn upload(&self, gpu: &Gpu) -> Result<DecoderState<Tensor>> {
        self.try_map(|name, array| Tensor::upload(gpu, name, array, DType::F32))
    }
}

impl DecoderOutputs<Tensor> {
    /// Reads every tensor back. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Gpu`] or [`Error::DeviceLost`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn download(&self, gpu: &Gpu) -> Result<DecoderOutputs<Array<f32>>> {
        gpu.drive(self.download_async(gpu))
    }

    /// As [`DecoderOutputs::download`], without blocking: all in one submission.
    ///
    /// # Errors
    /// As [`DecoderOutputs::download`].
    pub async fn download_async(&self, gpu: &Gpu) -> Result<DecoderOutputs<Array<f32>>> {
        Tensor::fetch_all(gpu, |read| self.try_map(|name, tensor| read(name, tensor))).await
    }
}
