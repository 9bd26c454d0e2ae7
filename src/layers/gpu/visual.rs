//! Soft and hard attention over the grid of a picture, on the GPU.

use super::multi_head::upload_weight;
use crate::error::Result;
use crate::gpu::{Gpu, Run, Tensor};
use crate::layers::{LoadedVisual, VisualAttention, VisualMemory, VisualOutputs, VisualState, VisualWeights};
use crate::tensor::{Array, DType};

/// A [`VisualAttention`] with its weights on the GPU: [`LoadedVisual::remember`] once for a picture, then
/// [`GpuVisualAttention::record`] for each step or for a whole sequence of states.
pub type GpuVisualAttention = LoadedVisual<Tensor>;

impl GpuVisualAttention {
    /// Uploads weights: matrices as `dtype`, vectors as f32.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit), [`Error::Unsupported`](crate::Error::Unsupported) or
    /// [`Error::Gpu`](crate::Error::Gpu) from the device.
    pub fn upload(
        gpu: &Gpu,
        layer: &VisualAttention,
        weights: &VisualWeights<Array<f32>>,
        dtype: DType,
    ) -> Result<Self> {
        let weights = weights.try_map(|name, array| upload_weight(gpu, name, array, dtype))?;
        Ok(Self::new(layer.clone(), weights))
    }

    /// Records the steps of `hidden` [T, B, H] (f32 or f16) after `state`, or from the start; the tensors returned are
    /// filled when the run is submitted.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) or [`Error::Option`](crate::Error::Option) when the request is wrong,
    /// [`Error::Limit`](crate::Error::Limit) when it does not fit the device.
    pub fn record(
        &self,
        run: &mut Run<'_>,
        memory: &VisualMemory<Tensor>,
        hidden: &Tensor,
        state: Option<&VisualState<Tensor>>,
    ) -> Result<VisualOutputs<Tensor>> {
        hidden.dtype().check_float("hidden")?;
        self.forward(run, memory, hidden, state)
    }

    /// Runs the steps of `hidden` [T, B, H] over `annotations` [B, L, D] and submits, as [`Run::submit`] does, without waiting
    /// for it.
    ///
    /// # Errors
    /// As [`GpuVisualAttention::record`], and [`Error::Gpu`](crate::Error::Gpu) or
    /// [`Error::DeviceLost`](crate::Error::DeviceLost) from the device.
    pub fn run(
        &self,
        gpu: &Gpu,
        annotations: &Tensor,
        hidden: &Tensor,
        state: Option<&VisualState<Tensor>>,
    ) -> Result<VisualOutputs<Tensor>> {
        let mut run = Run::new(gpu);
        let memory = self.remember(&mut run, annotations)?;
        let outputs = self.record(&mut run, &memory, hidden, state)?;
        run.submit()?;
        Ok(outputs)
    }
}

impl VisualOutputs<Tensor> {
    /// Reads every tensor back. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Gpu`](crate::Error::Gpu) or [`Error::DeviceLost`](crate::Error::DeviceLost).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn download(&self, gpu: &Gpu) -> Result<VisualOutputs<Array<f32>>> {
        gpu.drive(self.download_async(gpu))
    }

    /// As [`VisualOutputs::download`], without blocking: all in one submission.
    ///
    /// # Errors
    /// As [`VisualOutputs::download`].
    pub async fn download_async(&self, gpu: &Gpu) -> Result<VisualOutputs<Array<f32>>> {
        Tensor::fetch_all(gpu, |read| self.try_map(|name, tensor| read(name, tensor))).await
    }
}
