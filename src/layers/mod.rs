//! Layers made of attention, projections and recurrences, for every backend alike. All have one shape:
//!
//! - options (such as [`MultiHeadAttention`]) and weights make a loaded layer: `GpuX::upload(gpu, &options, &weights, dtype)` on
//!   the GPU, as [`GpuRnn::upload`](crate::ops::rnn::GpuRnn::upload) for recurrences;
//! - a loaded layer has `record(&mut run, &inputs)`, `run(&gpu, &inputs)` and, over any backend, `forward(&mut backend, &inputs)`;
//! - `inputs.upload(&gpu, dtype)` and `outputs.download(&gpu)` are the ways in and out;
//! - `options.reference(&weights, &inputs)` computes the same over host arrays.
//!
//! | layer | what it is |
//! |---|---|
//! | [`MultiHeadAttention`] | projections, attention over heads, projection; loads PyTorch's and Keras' weights |
//! | [`AttentionDecoder`] | a recurrent decoder that attends to a memory at every step (Luong, Bahdanau, See) |
//! | [`AttentiveEncoder`] | a recurrent encoder and the attention of decoder states over its outputs (Bahdanau, Luong) |
//! | [`TransformerEncoder`] | self-attention and feed-forward blocks, norms before or after (Vaswani et al. 2017; BERT, PyTorch) |
//! | [`VisualAttention`] | soft and hard attention over the grid of a picture (Xu et al. 2015, "Show, Attend and Tell") |

mod attentive;
mod decoder;
mod embedding;
mod gpu;
mod multi_head;
mod reference;
mod torch;
mod transformer;
mod visual;

pub use crate::coverage::CoverageCost;
pub use attentive::{AttentiveEncoder, AttentiveInputs, AttentiveOutputs, AttentiveWeights, LoadedEncoder};
pub use decoder::{
    AttentionDecoder, DecoderMemory, DecoderOutput, DecoderOutputs, DecoderState, DecoderWeights, LoadedDecoder,
    LoadedMemory, LocationInput,
};
pub use embedding::{Embedding, SinusoidLayout, sinusoidal};
pub use gpu::{GpuAttentionDecoder, GpuAttentiveEncoder, GpuMultiHeadAttention, GpuVisualAttention};
pub use multi_head::{LoadedMultiHead, MultiHeadAttention, MultiHeadWeights};
pub use torch::torch_mask;
pub use transformer::{
    BlockOutputs, BlockWeights, Cache, CacheSize, CrossWeights, EncoderOutputs, EncoderWeights, LoadedBlock,
    LoadedTransformer, Memory, NormOrder, NormWeights, Places, TransformerBlock, TransformerEncoder, Visible,
};
pub use visual::{LoadedVisual, VisualAttention, VisualMemory, VisualOutputs, VisualState, VisualWeights};

use crate::backend::{Backend, Epilogue, Value};
use crate::error::{Error, Result};
use crate::problem::{nonzero, same, vector};
use crate::rnn::Activation;

/// y = f(W·x + b).
#[derive(Debug, Clone, PartialEq)]
pub struct Linear<A> {
    /// W [N, K].
    pub weight: A,
    /// b `[N]`.
    pub bias: Option<A>,
    /// f; `None` is the identity.
    pub activation: Option<Activation>,
}

impl<A> Linear<A> {
    /// W alone.
    pub fn new(weight: A) -> Self {
        Self { weight, bias: None, activation: None }
    }

    /// W and b.
    pub fn with_bias(weight: A, bias: A) -> Self {
        Self { weight, bias: Some(bias), activation: None }
    }

    /// The same with or without a bias.
    #[must_use]
    pub fn with(weight: A, bias: Option<A>) -> Self {
        Self { weight, bias, activation: None }
    }

    /// Both tensors through a fallible function of the tensor and its name, `layer.weight` and `layer.bias`.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(
        &'a self,
        layer: &str,
        mut f: impl FnMut(&str, &'a A) -> Result<B, E>,
    ) -> Result<Linear<B>, E> {
        let weight = f(&format!("{layer}.weight"), &self.weight)?;
        let bias = self.bias.as_ref().map(|bias| f(&format!("{layer}.bias"), bias)).transpose()?;
        Ok(Linear { weight, bias, activation: self.activation })
    }

    /// Both tensors through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> Linear<B> {
        Linear { weight: f(&self.weight), bias: self.bias.as_ref().map(f), activation: self.activation }
    }
}

impl<A: Value> Linear<A> {
    /// f(W·x + b) on any backend, for x [.., K].
    ///
    /// # Errors
    /// [`Error::Shape`] when x does not fit, and those of the backend.
    pub fn forward<B: Backend<Value = A>>(&self, backend: &mut B, x: &A) -> Result<A> {
        let epilogue = Epilogue { bias: self.bias.as_ref(), activation: self.activation, ..Epilogue::default() };
        backend.linear(&[(x, &self.weight)], epilogue)
    }
}

impl Linear<&[usize]> {
    /// Checks ranks, the length of the bias, and the K inputs that `of` gives; returns N.
    pub(crate) fn check(&self, layer: &str, inputs: usize, of: &str) -> Result<usize> {
        let name = format!("{layer}.weight");
        let &[outputs, found] = self.weight else {
            return Err(Error::shape(name, "rank", "2 [N, K]", self.weight.len()));
        };
        nonzero(&name, self.weight)?;
        same(&name, &format!("axis 1 ({of})"), inputs, found)?;
        vector(&format!("{layer}.bias"), self.bias, outputs, "outputs")?;
        Ok(outputs)
    }
}

/// A [.., ..] shape of three axes, none of them 0.
fn rank3(name: &str, expected: &str, shape: &[usize]) -> Result<[usize; 3]> {
    let found: [usize; 3] = shape
        .try_into()
        .map_err(|_| Error::shape(name, "rank", format!("3 {expected}"), format!("{} {shape:?}", shape.len())))?;
    nonzero(name, shape)?;
    Ok(found)
}
