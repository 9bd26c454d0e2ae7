//! A recurrent encoder and the attention of decoder states over its outputs, on the GPU.

use crate::attention::Mask;
use crate::error::Result;
use crate::gpu::{Gpu, Run, Tensor};
use crate::layers::{AttentiveEncoder, AttentiveInputs, AttentiveOutputs, AttentiveWeights, LoadedEncoder};
use crate::ops::rnn::GpuRnn;
use crate::tensor::{Array, DType};

/// An [`AttentiveEncoder`] with its weights on the GPU.
///
/// ```no_run
/// # use regard::layers::{AttentiveEncoder, AttentiveInputs, AttentiveWeights};
/// # use regard::layers::GpuAttentiveEncoder;
/// # use regard::tensor::{Array, DType};
/// # fn attend(
/// #     gpu: &regard::Gpu,
/// #     layer: &AttentiveEncoder,
/// #     weights: &AttentiveWeights<Array>,
/// #     inputs: &AttentiveInputs<Array>,
/// # ) -> regard::Result<()> {
/// let encoder = GpuAttentiveEncoder::upload(gpu, layer, weights, DType::F32)?;
/// // every step and the attention in one go, nothing read back in between
/// let outputs = encoder.run(gpu, &inputs.upload(gpu, DType::F32)?)?;
/// let context = outputs.context.download(gpu)?;
/// # Ok(())
/// # }
/// ```
pub type GpuAttentiveEncoder = LoadedEncoder<Tensor, GpuRnn>;

impl GpuAttentiveEncoder {
    /// Uploads weights; `dtype` is the storage of the encoder's matrices, everything else is f32.
    ///
    /// # Errors
    /// Those of [`GpuRnn::upload`].
    pub fn upload(
        gpu: &Gpu,
        layer: &AttentiveEncoder,
        weights: &AttentiveWeights<Array<f32>>,
        dtype: DType,
    ) -> Result<Self> {
        Ok(Self {
            layer: layer.clone(),
            rnn: GpuRnn::upload(gpu, &layer.rnn, &weights.rnn, dtype)?,
            score: weights.score.try_map(|name, array| Tensor::upload(gpu, name, array, DType::F32))?,
        })
    }

    /// Records the whole sequence and the attention over it; the tensors returned are filled when the run is submitted.
    /// `input` and `query` are f32 or f16, `lengths` and a bool mask u32, everything else f32; the outputs are f32.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape), [`Error::Missing`](crate::Error::Missing) or
    /// [`Error::Option`](crate::Error::Option) when the request is wrong, [`Error::Limit`](crate::Error::Limit) when it
    /// does not fit the device.
    pub fn record(&self, run: &mut Run<'_>, inputs: &AttentiveInputs<Tensor>) -> Result<AttentiveOutputs<Tensor>> {
        self.forward(run, inputs)
    }

    /// Runs the whole sequence and the attention over it, submitted as [`Run::submit`] does, without waiting for it.
    ///
    /// # Errors
    /// As [`GpuAttentiveEncoder::record`], and [`Error::Gpu`](crate::Error::Gpu) or
    /// [`Error::DeviceLost`](crate::Error::DeviceLost) from the device.
    pub fn run(&self, gpu: &Gpu, inputs: &AttentiveInputs<Tensor>) -> Result<AttentiveOutputs<Tensor>> {
        let mut run = Run::new(gpu);
        let outputs = self.record(&mut run, inputs)?;
        run.submit()?;
        Ok(outputs)
    }
}

impl AttentiveInputs<Array<f32>> {
    /// Uploads every tensor: the input and the queries as `dtype`, lengths and a bool mask as u32, everything else as
    /// f32.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a length above T,
    /// [`Error::Limit`](crate::Error::Limit), [`Error::Unsupported`](crate::Error::Unsupported) or
    /// [`Error::Gpu`](crate::Error::Gpu) from the device.
    pub fn upload(&self, gpu: &Gpu, dtype: DType) -> Result<AttentiveInputs<Tensor>> {
        let float = |name: &str, array: &Array<f32>| Tensor::upload(gpu, name, array, DType::F32);
        let mask = |mask: &Mask<Array<f32>>| {
            mask.try_map(|array| float("mask", array), |array| Tensor::upload_mask(gpu, "mask", array))
        };
        Ok(AttentiveInputs {
            sequence: self.sequence.upload(gpu, dtype)?,
            query: Tensor::upload(gpu, "query", &self.query, dtype)?,
            mask: self.mask.as_ref().map(mask).transpose()?,
            previous: self.previous.as_ref().map(|array| float("previous", array)).transpose()?,
        })
    }
}

impl AttentiveOutputs<Tensor> {
    /// Reads every tensor back. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Gpu`](crate::Error::Gpu) or [`Error::DeviceLost`](crate::Error::DeviceLost).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn download(&self, gpu: &Gpu) -> Result<AttentiveOutputs<Array<f32>>> {
        gpu.drive(self.download_async(gpu))
    }

    /// As [`AttentiveOutputs::download`], without blocking: all in one submission.
    ///
    /// # Errors
    /// As [`AttentiveOutputs::download`].
    pub async fn download_async(&self, gpu: &Gpu) -> Result<AttentiveOutputs<Array<f32>>> {
        Tensor::fetch_all(gpu, |read| {
            let mut get =
                |name: &str, tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| read(name, tensor)).transpose();
            let weights = get("weights", &self.weights)?;
            let lse = get("lse", &self.lse)?;
            let max_sum = get("max_sum", &self.max_sum)?;
            let entropy = get("entropy", &self.entropy)?;
            let scores = get("scores", &self.scores)?;
            let context = read("context", &self.context)?;
            let encoded = self.encoded.fetched(read)?;
            Ok(AttentiveOutputs { context, weights, lse, max_sum, entropy, scores, encoded })
        })
        .await
    }
}
