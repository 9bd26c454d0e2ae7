//! Multi-head attention with its projections on the GPU.

use crate::attention::{AttentionInputs, AttentionOutputs};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::layers::{LoadedMultiHead, MultiHeadAttention, MultiHeadWeights};
use crate::tensor::{Array, DType};

/// A [`MultiHeadAttention`] with its weights on the GPU.
pub type GpuMultiHeadAttention = LoadedMultiHead<Tensor>;

impl GpuMultiHeadAttention {
    /// Uploads weights: matrices as `dtype`, vectors as f32.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Unsupported`] or [`Error::Gpu`] from the device.
    pub fn upload(
        gpu: &Gpu,
        layer: &MultiHeadAttention,
        weights: &MultiHeadWeights<Array<f32>>,
        dtype: DType,
    ) -> Result<Self> {
        let weights = weights.try_map(|name, array| upload_weight(gpu, name, array, dtype))?;
        Ok(Self::new(layer.clone(), weights))
    }

    /// Records this layer over `inputs`; the tensors returned are filled when the run is submitted. Heads are views:
    /// nothing is copied, except keys and values to which a learned or a zero one is appended.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] when the request is wrong, [`Error::Limit`] when it
    /// does not fit the device.
    pub fn record(&self, run: &mut Run<'_>, inputs: &AttentionInputs<Tensor>) -> Result<AttentionOutputs<Tensor>> {
        for (name, tensor) in [("query", &inputs.query), ("key", &inputs.key), ("value", &inputs.value)] {
            tensor.dtype().check_float(name)?;
        }
        self.weights().try_map(|name, tensor| match name.ends_with(".weight") {
            true => tensor.dtype().check_float(name),
            false if tensor.dtype() == DType::F32 => Ok(()),
            false => Err(Error::shape(name, "dtype", DType::F32, tensor.dtype())),
        })?;
        self.forward(run, inputs)
    }

    /// Runs this layer and submits, as [`Run::submit`] does, without waiting for it.
    ///
    /// # Errors
    /// As [`GpuMultiHeadAttention::record`], and [`Error::Gpu`] or [`Error::DeviceLost`] from the device.
    pub fn run(&self, gpu: &Gpu, inputs: &AttentionInputs<Tensor>) -> Result<AttentionOutputs<Tensor>> {
        let mut run = Run::new(gpu);
        let outputs = self.record(&mut run, inputs)?;
        run.submit()?;
        Ok(outputs)
    }
}

/// A matrix as `dtype`, a vector as f32.
pub(super) fn upload_weight(gpu: &Gpu, name: &str, array: &Array<f32>, dtype: DType) -> Result<Tensor> {
    Tensor::upload(gpu, name, array, if array.shape().len() == 2 { dtype } else { DType::F32 })
}
