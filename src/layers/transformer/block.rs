//! A Transformer block.

use super::weights::{BlockWeights, CrossWeights, NormWeights};
use crate::attention::{Attention, AttentionInputs, Mask, Past, RotaryEmbedding};
use crate::backend::{Backend, Epilogue, Numbers, Value};
use crate::error::{Error, Result};
use crate::layers::Linear;
use crate::norm::Norm;
use crate::problem::{same, vector};
use crate::rnn::Activation;
use crate::tensor::TensorLike;

/// Where the norms of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NormOrder {
    /// Of each sum, as in "Attention Is All You Need" and BERT: y = norm(x + f(x)).
    #[default]
    Post,
    /// Of what goes in, as in GPT-2 and LLaMA: y = x + f(norm(x)) (Xiong et al. 2020).
    Pre,
}

/// Self-attention and a feed-forward layer, each with a residual and a norm (Vaswani et al. 2017, "Attention Is All You
/// Need", section 3.1; PyTorch's `nn.TransformerEncoderLayer`, Hugging Face's `BertLayer`):
/// ```text
/// q, k, v = rows of Wqkv·x + b             as heads: [B, N, H·D] → [B, H, N, D]
/// a = x + Wo · concat_h attention(q_h, k_⌊h / group⌋, v_⌊h / group⌋) + bo
/// y = a + W2 · f(W1·a + b1) + b2           or gated: W2 · (f(Wg·a) ∘ (W1·a))   (Shazeer 2020)
/// ```
/// with norms as [`NormOrder`] says. With [`CrossWeights`] a second attention, to a memory, stands between the two,
/// with a residual and a norm of its own: a decoder's block (`nn.TransformerDecoderLayer`). Without, a block is seven
/// dispatches on a GPU where attention is fused, nine if it is gated.
#[derive(Debug, Clone)]
pub struct TransformerBlock {
    /// H: query heads.
    pub heads: usize,
    /// Hkv: key and value heads, a divisor of H.
    pub kv_heads: usize,
    /// The attention inside, over [B, H, N, D].
    pub attention: Attention,
    /// Layer or RMS normalisation.
    pub norm: Norm,
    /// Where it stands.
    pub order: NormOrder,
    /// f of the feed-forward layer.
    pub activation: Activation,
}

impl TransformerBlock {
    /// As BERT has it: layer norms of the sums, GELU.
    pub fn new(heads: usize, epsilon: f32) -> Self {
        Self {
            heads,
            kv_heads: heads,
            attention: Attention::default(),
            norm: Norm::layer(epsilon),
            order: NormOrder::Post,
            activation: Activation::Gelu,
        }
    }
}

/// What blocks with [`CrossWeights`](super::CrossWeights) attend to besides their own tokens.
#[derive(Debug, Clone)]
pub struct Memory<A: TensorLike> {
    /// [B, Nm, M], such as an encoder's output.
    pub states: A,
    /// `[B]`: how many of each row are real.
    pub lengths: Option<A::Integers>,
    /// Over [B, H, N, Nm].
    pub mask: Option<Mask<A>>,
}

/// What tokens may see, the same for every block.
#[derive(Debug, Clone)]
pub struct Visible<A: TensorLike> {
    /// `[B]`: how many tokens of each row are real.
    pub lengths: Option<A::Integers>,
    /// Over [B, H, N, N].
    pub mask: Option<Mask<A>>,
    /// Turns query and key.
    pub rotary: Option<RotaryEmbedding<A>>,
    /// What a decoder's blocks attend to as well.
    pub memory: Option<Memory<A>>,
}

impl<A: TensorLike> Default for Visible<A> {
    fn default() -> Self {
        Self { lengths: None, mask: None, rotary: None, memory: None }
    }
}

/// What a block gives back.
#[derive(Debug, Clone)]
pub struct BlockOutputs<A> {
    /// [B, N, E].
    pub output: A,
    /// [B, H, N, N], if asked for.
    pub weights: Option<A>,
    /// Keys and values [B, Hkv, P + N, D] for the next call, of a call with a past.
    pub present: Option<Past<A>>,
}

/// A [`TransformerBlock`] with its weights on a backend, `V` its values.
#[derive(Debug, Clone)]
pub struct LoadedBlock<V> {
    block: TransformerBlock,
    weights: BlockWeights<V>,
}

impl<V: Value> LoadedBlock<V> {
    /// From weights that are on the backend already.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not fit the block or one another.
    pub fn new(block: TransformerBlock, weights: BlockWeights<V>) -> Result<Self> {
        check(&block, &weights.map(Value::shape))?;
        let mut weights = weights;
        let activated = weights.gate.as_mut().unwrap_or(&mut weights.up);
        activated.activation = Some(block.activation);
        Ok(Self { block, weights })
    }

    /// E.
    pub fn channels(&self) -> usize {
        self.weights.output.weight.shape()[0]
    }

    /// Shape of the keys of so many tokens: [B, Hkv, N, D].
    pub fn key_shape(&self, batch: usize, tokens: usize) -> [usize; 4] {
        let width = self.weights.output.weight.shape()[1] / self.block.heads;
        [batch, self.block.kv_heads, tokens, width]
    }
}

impl<V: Numbers> LoadedBlock<V> {
    /// The block over x [B, N, E]; `attention_weights` asks for those as well.
    ///
    /// # Errors
    /// [`Error::Shape`] when x does not fit, and those of the backend.
    pub fn forward<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        x: &V,
        visible: &Visible<V>,
        attention_weights: bool,
    ) -> Result<BlockOutputs<V>> {
        self.forward_after(b, x, visible, None, attention_weights)
    }

    /// As [`LoadedBlock::forward`], for tokens that come after those of a past: what an earlier call left as
    /// [`BlockOutputs::present`], or keys and values [B, Hkv, 0, D] to begin with. Lengths cannot stand beside it; a mask can.
    ///
    /// # Errors
    /// As [`LoadedBlock::forward`].
    pub fn forward_after<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        x: &V,
        visible: &Visible<V>,
        past: Option<&Past<V>>,
        attention_weights: bool,
    ) -> Result<BlockOutputs<V>> {
        let (block, weights) = (&self.block, &self.weights);
        let &[batch, tokens, channels] = x.shape() else {
            return Err(Error::shape("x", "rank", "3 [B, N, E]", x.shape().len()));
        };
        same("x", "axis 2 (channels)", self.channels(), channels)?;
        let normed = match block.order {
            NormOrder::Pre => weights.attention_norm.forward(b, block.norm, x)?,
            NormOrder::Post => x.clone(),
        };
        let packed = weights.query_key_value.forward(b, &normed)?;
        let all = block.heads + 2 * block.kv_heads;
        let width = packed.shape()[2] / all;
        let heads = split(b, &packed, all)?;
        let mut inputs = AttentionInputs::new(
            b.slice(&heads, 1, 0, block.heads)?,
            b.slice(&heads, 1, block.heads, block.kv_heads)?,
            b.slice(&heads, 1, block.heads + block.kv_heads, block.kv_heads)?,
        );
        inputs.kv_lengths = visible.lengths.clone();
        inputs.query_lengths = visible.lengths.clone();
        inputs.mask = visible.mask.clone();
        inputs.rotary = visible.rotary.clone();
        inputs.past = past.cloned();
        let attention = Attention { weights: attention_weights, ..block.attention.clone() };
        let attended = b.attention(&attention, &inputs)?;
        let joined = b.permute(&attended.output, &[0, 2, 1, 3])?;
        let joined = b.reshape(&joined, &[batch, tokens, block.heads * width])?;

        let mut sum = add(b, &weights.output, &joined, x)?;
        let mut norm = &weights.attention_norm;
        if let Some(cross) = &weights.cross {
            let (seen, residual) = block.between(b, norm, &cross.norm, sum)?;
            let joined = block.attend_to_memory(b, cross, &seen, visible)?;
            sum = add(b, &cross.output, &joined, &residual)?;
            norm = &cross.norm;
        } else if visible.memory.is_some() {
            return Err(Error::option("memory", "these blocks have no weights to attend to one: leave it out"));
        }
        let (seen, residual) = block.between(b, norm, &weights.feed_forward_norm, sum)?;
        let up = weights.up.forward(b, &seen)?;
        let inner = match &weights.gate {
            None => up,
            Some(gate) => {
                let gate = gate.forward(b, &seen)?;
                b.multiply(&gate, &up)?
            }
        };
        let sum = add(b, &weights.down, &inner, &residual)?;
        let output = match block.order {
            NormOrder::Pre => sum,
            NormOrder::Post => weights.feed_forward_norm.forward(b, block.norm, &sum)?,
        };
        let present = attended.present_key.zip(attended.present_value).map(|(key, value)| Past { key, value });
        Ok(BlockOutputs { output, weights: attended.weights, present })
    }
}

impl TransformerBlock {
    /// After the sum of one part of a block, what goes into the next part, and what that is added to.
    fn between<B: Backend>(
        &self,
        b: &mut B,
        own: &NormWeights<B::Value>,
        next: &NormWeights<B::Value>,
        sum: B::Value,
    ) -> Result<(B::Value, B::Value)> {
        match self.order {
            NormOrder::Pre => Ok((next.forward(b, self.norm, &sum)?, sum)),
            NormOrder::Post => {
                let normed = own.forward(b, self.norm, &sum)?;
                Ok((normed.clone(), normed))
            }
        }
    }

    /// concat_h attention of x [B, N, E] to the memory, [B, N, H·D].
    fn attend_to_memory<B: Backend>(
        &self,
        b: &mut B,
        cross: &CrossWeights<B::Value>,
        x: &B::Value,
        visible: &Visible<B::Value>,
    ) -> Result<B::Value> {
        let Some(memory) = &visible.memory else {
            return Err(Error::missing("memory", "[B, Nm, M], what these blocks attend to"));
        };
        let query = cross.query.forward(b, x)?;
        let packed = cross.key_value.forward(b, &memory.states)?;
        let &[batch, tokens, width] = query.shape() else {
            return Err(Error::shape("x", "rank", "3 [B, N, E]", query.shape().len()));
        };
        let query = split(b, &query, self.heads)?;
        let packed = split(b, &packed, 2 * self.kv_heads)?;
        let mut inputs = AttentionInputs::new(
            query,
            b.slice(&packed, 1, 0, self.kv_heads)?,
            b.slice(&packed, 1, self.kv_heads, self.kv_heads)?,
        );
        inputs.kv_lengths = memory.lengths.clone();
        inputs.query_lengths = visible.lengths.clone();
        inputs.mask = memory.mask.clone();
        // A memory has no order that tokens stand in.
        let attention = Attention { causal: None, window: None, weights: false, ..self.attention.clone() };
        let attended = b.attention(&attention, &inputs)?.output;
        let joined = b.permute(&attended, &[0, 2, 1, 3])?;
        b.reshape(&joined, &[batch, tokens, width])
    }
}

/// [B, N, H·D] to [B, H, N, D].
fn split<B: Backend>(b: &mut B, x: &B::Value, heads: usize) -> Result<B::Value> {
    let &[batch, tokens, width] = x.shape() else {
        return Err(Error::shape("projection", "rank", "3 [B, N, H·D]", x.shape().len()));
    };
    let x = b.reshape(x, &[batch, tokens, heads, width / heads])?;
    b.permute(&x, &[0, 2, 1, 3])
}

/// W·x + b + residual.
fn add<B: Backend>(b: &mut B, layer: &Linear<B::Value>, x: &B::Value, residual: &B::Value) -> Result<B::Value> {
    let epilogue = Epilogue { bias: layer.bias.as_ref(), residual: Some(residual), activation: None };
    b.linear(&[(x, &layer.weight)], epilogue)
}

/// Weights against the block and one another.
fn check(block: &TransformerBlock, weights: &BlockWeights<&[usize]>) -> Result<()> {
    if block.kv_heads == 0 || !block.heads.is_multiple_of(block.kv_heads) || block.heads == 0 {
        let reason = format!("must be a multiple of {} key and value heads, not {}", block.kv_heads, block.heads);
        return Err(Error::option("heads", reason));
    }
    let &[channels, joined] = weights.output.weight else {
        return Err(Error::shape("output.weight", "rank", "2 [E, H·D]", weights.output.weight.len()));
    };
    weights.output.check("output", joined, "H·D")?;
    if !joined.is_multiple_of(block.heads) {
        let expected = format!("a multiple of {} heads", block.heads);
        return Err(Error::shape("output.weight", "axis 1 (H·D)", expected, joined));
    }
    let rows = joined / block.heads * (block.heads + 2 * block.kv_heads);
    let found = weights.query_key_value.check("query_key_value", channels, "channels")?;
    same("query_key_value.weight", "axis 0 ((H + 2·Hkv)·D)", rows, found)?;
    if let Some(cross) = &weights.cross {
        let found = cross.query.check("cross.query", channels, "channels")?;
        same("cross.query.weight", "axis 0 (H·D)", joined, found)?;
        let columns = cross.key_value.weight.get(1).copied().unwrap_or(0);
        let found = cross.key_value.check("cross.key_value", columns, "channels of the memory")?;
        let rows = 2 * joined / block.heads * block.kv_heads;
        same("cross.key_value.weight", "axis 0 (2·Hkv·D)", rows, found)?;
        let found = cross.output.check("cross.output", joined, "H·D")?;
        same("cross.output.weight", "axis 0 (channels)", channels, found)?;
        for (kind, shape) in [("weight", cross.norm.weight), ("bias", cross.norm.bias)] {
            vector(&format!("cross.norm.{kind}"), shape, channels, "channels")?;
        }
    }
    let inner = weights.up.check("up", channels, "channels")?;
    if let Some(gate) = &weights.gate {
        let found = gate.check("gate", channels, "channels")?;
        same("gate.weight", "axis 0 (inner channels)", inner, found)?;
    }
    let found = weights.down.check("down", inner, "inner channels")?;
    same("down.weight", "axis 0 (channels)", channels, found)?;
    for (name, norm) in [("attention_norm", &weights.attention_norm), ("feed_forward_norm", &weights.feed_forward_norm)]
    {
        for (kind, shape) in [("weight", norm.weight), ("bias", norm.bias)] {
            vector(&format!("{name}.{kind}"), shape, channels, "channels")?;
        }
    }
    block.norm.check()
}
