//! A Transformer block.

use super::encoder::CacheSize;
use super::weights::{BlockWeights, CrossWeights, NormWeights};
use crate::attention::{Attention, AttentionInputs, Mask, RotaryEmbedding};
use crate::backend::{Backend, Epilogue, IntegersOf, Numbers, Value};
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
}

/// Where the tokens of a call stand among those that a [`Cache`](super::Cache) has of their rows.
#[derive(Debug, Clone)]
pub struct Places<I> {
    /// `[B]`: tokens of each row that come before.
    pub starts: I,
    /// `[B]`: tokens of each row, those of this call included.
    pub lengths: I,
    /// [B, N]: `starts[b] + n`.
    pub positions: I,
    /// `[B]`: how many of the N are real, where not all are.
    pub counts: Option<I>,
    /// [B, C], of a cache that rows share: where in it each token of a row lies.
    pub table: Option<I>,
}

/// Keys and values of one block.
#[derive(Debug, Clone)]
pub(super) struct BlockCache<V: TensorLike> {
    /// Keys and values [B, Hkv, C, D], or [B·C, Hkv, 1, D] where rows share them.
    pub(super) own: [V; 2],
    /// What is attended to besides, for B / S rows each.
    pub(super) memory: Option<Remembered<V>>,
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
}

impl<V: Numbers> LoadedBlock<V> {
    /// Memory for the keys and values of a cache.
    pub(super) fn empty_cache<B: Backend<Value = V>>(&self, b: &mut B, size: CacheSize) -> Result<[V; 2]> {
        let (kv_heads, width) = (self.block.kv_heads, self.weights.output.weight.shape()[1] / self.block.heads);
        let shape = match size.shared {
            false => [size.rows, kv_heads, size.capacity, width],
            true => [size.rows * size.capacity, kv_heads, 1, width],
        };
        Ok([b.empty("cached keys", &shape)?, b.empty("cached values", &shape)?])
    }

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
        let block = &self.block;
        let heads = self.heads(b, x)?;
        let mut inputs = AttentionInputs::new(
            b.slice(&heads, 1, 0, block.heads)?,
            b.slice(&heads, 1, block.heads, block.kv_heads)?,
            b.slice(&heads, 1, block.heads + block.kv_heads, block.kv_heads)?,
        );
        inputs.kv_lengths = visible.lengths.clone();
        inputs.query_lengths = visible.lengths.clone();
        inputs.mask = visible.mask.clone();
        inputs.rotary = visible.rotary.clone();
        let attention = Attention { weights: attention_weights, ..block.attention.clone() };
        let attended = b.attention(&attention, &inputs)?;
        let mut memory = self.remember(b, visible.memory.as_ref())?;
        if let Some(memory) = &mut memory {
            memory.query_lengths = visible.lengths.clone();
        }
        let output = self.after(b, x, &attended.output, memory)?;
        Ok(BlockOutputs { output, weights: attended.weights })
    }

    /// The block over some more tokens x [B, N, E], which see those in the cache and are added to it.
    pub(super) fn forward_cached<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        x: &V,
        places: &Places<IntegersOf<B>>,
        rotary: Option<&RotaryEmbedding<V>>,
        cache: &mut BlockCache<V>,
    ) -> Result<V> {
        let block = &self.block;
        let heads = self.heads(b, x)?;
        // Keys are turned where they are new; they lie beside the queries.
        let turned = match rotary {
            Some(rotary) => {
                let both = b.slice(&heads, 1, 0, block.heads + block.kv_heads)?;
                b.rotary(&both, rotary, &places.positions)?
            }
            None => heads.clone(),
        };
        let key = b.slice(&turned, 1, block.heads, block.kv_heads)?;
        let value = b.slice(&heads, 1, block.heads + block.kv_heads, block.kv_heads)?;
        let [keys, values] = &mut cache.own;
        b.append([keys, values], [&key, &value], &places.starts, places.table.as_ref())?;
        let query = b.slice(&turned, 1, 0, block.heads)?;
        let mut inputs = AttentionInputs::new(query, keys.clone(), values.clone());
        inputs.kv_lengths = Some(places.lengths.clone());
        inputs.query_lengths = places.counts.clone();
        inputs.block_table = places.table.clone();
        let attended = b.attention(&Attention { weights: false, ..block.attention.clone() }, &inputs)?;
        self.after(b, x, &attended.output, cache.memory.clone())
    }

    /// Keys and values of the memory, if these blocks attend to one.
    pub(super) fn remember<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        memory: Option<&Memory<V>>,
    ) -> Result<Option<Remembered<V>>> {
        let (cross, memory) = match (&self.weights.cross, memory) {
            (None, None) => return Ok(None),
            (Some(cross), Some(memory)) => (cross, memory),
            (Some(_), None) => return Err(Error::missing("memory", "[B, Nm, M], what these blocks attend to")),
            (None, Some(_)) => {
                let reason = "these blocks have no weights to attend to one: leave it out";
                return Err(Error::option("memory", reason));
            }
        };
        let kv_heads = self.block.kv_heads;
        let packed = cross.key_value.forward(b, &memory.states)?;
        let packed = split(b, &packed, 2 * kv_heads)?;
        Ok(Some(Remembered {
            key: b.slice(&packed, 1, 0, kv_heads)?,
            value: b.slice(&packed, 1, kv_heads, kv_heads)?,
            lengths: memory.lengths.clone(),
            mask: memory.mask.clone(),
            query_lengths: None,
        }))
    }

    /// Queries, keys and values of x [B, N, E], one behind the other: [B, H + 2·Hkv, N, D].
    fn heads<B: Backend<Value = V>>(&self, b: &mut B, x: &V) -> Result<V> {
        let (block, weights) = (&self.block, &self.weights);
        let &[_, _, channels] = x.shape() else {
            return Err(Error::shape("x", "rank", "3 [B, N, E]", x.shape().len()));
        };
        same("x", "axis 2 (channels)", self.channels(), channels)?;
        let normed = match block.order {
            NormOrder::Pre => weights.attention_norm.forward(b, block.norm, x)?,
            NormOrder::Post => x.clone(),
        };
        let packed = weights.query_key_value.forward(b, &normed)?;
        split(b, &packed, block.heads + 2 * block.kv_heads)
    }

    /// What comes after the attention of x to its own tokens, which gave `attended` [B, H, N, D].
    fn after<B: Backend<Value = V>>(&self, b: &mut B, x: &V, attended: &V, memory: Option<Remembered<V>>) -> Result<V> {
        let (block, weights) = (&self.block, &self.weights);
        let joined = join(b, attended)?;
        let mut sum = add(b, &weights.output, &joined, x)?;
        let mut norm = &weights.attention_norm;
        if let (Some(cross), Some(memory)) = (&weights.cross, memory) {
            let (seen, residual) = block.between(b, norm, &cross.norm, sum)?;
            let joined = block.attend_to_memory(b, cross, &seen, memory)?;
            sum = add(b, &cross.output, &joined, &residual)?;
            norm = &cross.norm;
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
        match block.order {
            NormOrder::Pre => Ok(sum),
            NormOrder::Post => weights.feed_forward_norm.forward(b, block.norm, &sum),
        }
    }
}

/// Keys and values [S, Hkv, Nm, D] of a memory, and what is visible of it.
#[derive(Debug, Clone)]
pub(super) struct Remembered<A: TensorLike> {
    key: A,
    value: A,
    lengths: Option<A::Integers>,
    mask: Option<Mask<A>>,
    query_lengths: Option<A::Integers>,
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

    /// concat_h attention of x [B, N, E] to the memory, [B, N, H·D]. The rows of a memory are the queries of one batch row, so
    /// that it is stored once.
    fn attend_to_memory<B: Backend>(
        &self,
        b: &mut B,
        cross: &CrossWeights<B::Value>,
        x: &B::Value,
        memory: Remembered<B::Value>,
    ) -> Result<B::Value> {
        let query = cross.query.forward(b, x)?;
        let &[batch, tokens, width] = query.shape() else {
            return Err(Error::shape("x", "rank", "3 [B, N, E]", query.shape().len()));
        };
        let sources = memory.key.shape()[0];
        if sources == 0 || !batch.is_multiple_of(sources) {
            let expected = format!("a divisor of {batch} batch rows");
            return Err(Error::shape("memory", "axis 0 (batch)", expected, sources));
        }
        let query = b.reshape(&query, &[sources, batch / sources * tokens, width])?;
        let query = split(b, &query, self.heads)?;
        let mut inputs = AttentionInputs::new(query, memory.key, memory.value);
        inputs.kv_lengths = memory.lengths;
        inputs.query_lengths = memory.query_lengths;
        inputs.mask = memory.mask;
        // A memory has no order that tokens stand in.
        let attention = Attention { causal: None, window: None, weights: false, ..self.attention.clone() };
        let attended = b.attention(&attention, &inputs)?.output;
        let joined = join(b, &attended)?;
        b.reshape(&joined, &[batch, tokens, width])
    }
}

/// [B, H, N, D] to [B, N, H·D].
fn join<B: Backend>(b: &mut B, x: &B::Value) -> Result<B::Value> {
    let &[batch, heads, tokens, width] = x.shape() else {
        return Err(Error::shape("attention", "rank", "4 [B, H, N, D]", x.shape().len()));
    };
    let joined = b.permute(x, &[0, 2, 1, 3])?;
    b.reshape(&joined, &[batch, tokens, heads * width])
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
