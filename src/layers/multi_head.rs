//! Multi-head attention with its projections.

use super::{Linear, rank3};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs, Mask, Normalize};
use crate::backend::{Backend, Numbers, Value};
use crate::error::{Error, Result};
use crate::problem::{AttentionProblem, same, vector};
use crate::tensor::Array;

/// Multi-head attention with its projections (Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2;
/// PyTorch's `MultiheadAttention`, Keras' `MultiHeadAttention` and `GroupQueryAttention`):
/// ```text
/// q = Wq·x + bq, k = Wk·x' + bk, v = Wv·x'' + bv      viewed as heads: [B, N, H·D] → [B, H, N, D]
/// y = Wo · concat_h attention(q_h, k_⌊h / group⌋, v_⌊h / group⌋) + bo
/// ```
/// Its inputs are [`AttentionInputs`] with query [B, Nq, Eq], key [B, Nk, Ek] and value [B, Nk, Ev] before the
/// projections, and all else as attention has it: masks, lengths, past, rotary tables and so on. Its outputs are
/// [`AttentionOutputs`](crate::attention::AttentionOutputs) with `output` [B, Nq, E]. On the GPU inputs and weights
/// are f32 or f16, everything after the projections is f32.
///
/// ```
/// use regard::attention::{Attention, AttentionInputs};
/// use regard::layers::{Linear, MultiHeadAttention, MultiHeadWeights};
/// use regard::reference;
/// use regard::tensor::Array;
///
/// # fn main() -> regard::Result<()> {
/// let numbers = |shape: &[usize]| Array::from_fn(shape, |k| (k as f32 * 0.7).sin());
/// let layer = MultiHeadAttention {
///     attention: Attention { weights: true, ..Attention::default() },
///     ..MultiHeadAttention::new(4)
/// };
/// // as `torch.nn.MultiheadAttention(16, 4)` names its tensors
/// let weights = MultiHeadWeights::from_torch(|name| match name {
///     "in_proj_weight" => Some(numbers(&[48, 16])),
///     "in_proj_bias" => Some(numbers(&[48])),
///     "out_proj.weight" => Some(numbers(&[16, 16])),
///     "out_proj.bias" => Some(numbers(&[16])),
///     _ => None,
/// })?;
/// let x = numbers(&[2, 5, 16]);
/// let outputs = layer.reference(&weights, &AttentionInputs::new(x.clone(), x.clone(), x))?;
/// assert_eq!(outputs.output.shape(), [2, 5, 16]);
/// assert_eq!(outputs.weights.unwrap().shape(), [2, 4, 5, 5]);
/// # Ok(())
/// # }
/// ```
/// On the GPU: [`GpuMultiHeadAttention`](super::GpuMultiHeadAttention).
#[derive(Debug, Clone)]
pub struct MultiHeadAttention {
    /// H: query heads.
    pub heads: usize,
    /// Hkv: key and value heads, a divisor of H; fewer than H for grouped queries, 1 for a multi-query layer.
    pub kv_heads: usize,
    /// The attention inside, over [B, H, N, D].
    pub attention: Attention,
    /// Adds a key and a value of zeros, visible to every query (PyTorch's `add_zero_attn`).
    pub add_zero_attn: bool,
    /// Weights as their mean over the heads, [B, Nq, Nk] (PyTorch's `average_attn_weights`).
    pub average_weights: bool,
}

impl MultiHeadAttention {
    /// Plain attention over `heads` heads.
    pub fn new(heads: usize) -> Self {
        let attention = Attention::default();
        Self { heads, kv_heads: heads, attention, add_zero_attn: false, average_weights: false }
    }
}

/// A [`MultiHeadAttention`] with its weights on a backend, `V` its values.
#[derive(Debug, Clone)]
pub struct LoadedMultiHead<V> {
    layer: MultiHeadAttention,
    weights: MultiHeadWeights<V>,
}

impl<V> LoadedMultiHead<V> {
    /// From weights that are on the backend already.
    pub fn new(layer: MultiHeadAttention, weights: MultiHeadWeights<V>) -> Self {
        Self { layer, weights }
    }

    /// The layer it was loaded with.
    pub fn layer(&self) -> &MultiHeadAttention {
        &self.layer
    }

    /// Its weights.
    pub fn weights(&self) -> &MultiHeadWeights<V> {
        &self.weights
    }
}

impl<V: Numbers> LoadedMultiHead<V> {
    /// This layer over `inputs`. Heads are views: a GPU copies nothing, except keys and values that a learned or a zero one
    /// is put behind.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] when the request is wrong, and those of the backend.
    pub fn forward<B: Backend<Value = V>>(
        &self,
        backend: &mut B,
        inputs: &AttentionInputs<V>,
    ) -> Result<AttentionOutputs<V>> {
        let (b, Self { layer, weights }) = (backend, self);
        let problem =
            MultiHeadProblem::new(layer, &weights.map(Value::shape), &inputs.map(Value::shape, Value::shape))?;
        let query = weights.query.forward(b, &inputs.query)?;
        let key = weights.key.forward(b, &inputs.key)?;
        let key = layer.behind(b, key, weights.bias_key.as_ref())?;
        let value = weights.value.forward(b, &inputs.value)?;
        let value = layer.behind(b, value, weights.bias_value.as_ref())?;
        let inside = AttentionInputs {
            query: split_heads(b, &query, layer.heads)?,
            key: split_heads(b, &key, layer.kv_heads)?,
            value: split_heads(b, &value, layer.kv_heads)?,
            mask: match &inputs.mask {
                Some(mask) if problem.extra > 0 => Some(extend_mask(b, &problem, mask)?),
                mask => mask.clone(),
            },
            ..inputs.clone()
        };
        let attended = b.attention(&layer.attention, &inside)?;
        let p = &problem.attention;
        let joined = b.permute(&attended.output, &[0, 2, 1, 3])?;
        let joined = b.reshape(&joined, &[p.batch, p.queries, p.query_heads * p.value_dim])?;
        let output = weights.output.forward(b, &joined)?;
        let weights = match attended.weights {
            Some(weights) if layer.average_weights => Some(mean_over_heads(b, &weights)?),
            weights => weights,
        };
        Ok(AttentionOutputs { output, weights, ..attended })
    }
}

impl MultiHeadAttention {
    /// Projected rows [B, N, W] with a learned one and a zero one appended.
    fn behind<B: Backend>(&self, b: &mut B, rows: B::Value, learned: Option<&B::Value>) -> Result<B::Value> {
        let &[batch, _, width] = rows.shape() else {
            return Err(Error::shape("projection", "rank", 3, rows.shape().len()));
        };
        let zero = match self.add_zero_attn {
            true => Some(b.constant("zero", &Array::filled(&[1], 0.0))?),
            false => None,
        };
        let added: Vec<_> = learned.cloned().into_iter().chain(zero).collect();
        if added.is_empty() {
            return Ok(rows);
        }
        let mut inputs = vec![rows];
        for row in added {
            inputs.push(b.broadcast(&row, &[batch, 1, width])?);
        }
        b.join(1, &inputs)
    }
}

/// [B, N, H·D] to [B, H, N, D].
fn split_heads<B: Backend>(b: &mut B, x: &B::Value, heads: usize) -> Result<B::Value> {
    let &[batch, rows, width] = x.shape() else {
        return Err(Error::shape("projection", "rank", 3, x.shape().len()));
    };
    let x = b.reshape(x, &[batch, rows, heads, width / heads])?;
    b.permute(&x, &[0, 2, 1, 3])
}

/// The mask with columns appended for the keys that are added, which are visible to every query.
fn extend_mask<B: Backend>(b: &mut B, problem: &MultiHeadProblem, mask: &Mask<B::Value>) -> Result<Mask<B::Value>> {
    let (keys, given) = (problem.attention.keys, problem.attention.mask_keys);
    let widths = [given, keys - given, problem.extra];
    let shapes = |mask: &[usize]| {
        let shape = problem.mask_shape(mask);
        widths.map(|width| shape.split_last().map_or(vec![], |(_, lead)| [lead, &[width]].concat()))
    };
    match mask {
        Mask::Bool(mask) => {
            let hidden = b.integers("hidden", &Array::filled(&[1], 0))?;
            let visible = b.integers("visible", &Array::filled(&[1], 1))?;
            let mut parts = Vec::with_capacity(3);
            for (part, shape) in [mask, &hidden, &visible].into_iter().zip(shapes(mask.shape())) {
                if shape.last() != Some(&0) {
                    parts.push(b.broadcast_integers(part, &shape)?);
                }
            }
            b.join_integers(mask.shape().len() - 1, &parts).map(Mask::Bool)
        }
        Mask::Float(mask) => {
            let hidden = b.constant("hidden", &Array::filled(&[1], f32::NEG_INFINITY))?;
            let visible = b.constant("visible", &Array::filled(&[1], 0.0))?;
            let mut parts = Vec::with_capacity(3);
            for (part, shape) in [mask, &hidden, &visible].into_iter().zip(shapes(mask.shape())) {
                if shape.last() != Some(&0) {
                    parts.push(b.broadcast(part, &shape)?);
                }
            }
            b.join(mask.shape().len() - 1, &parts).map(Mask::Float)
        }
    }
}

/// [B, H, Nq, Nk] to [B, Nq, Nk].
fn mean_over_heads<B: Backend>(b: &mut B, weights: &B::Value) -> Result<B::Value> {
    let heads = weights.shape().get(1).copied().unwrap_or(1);
    let last = b.permute(weights, &[0, 2, 3, 1])?;
    let sum = b.sum(&last)?;
    let share = b.constant("share", &Array::filled(&[1, 1, 1], 1.0 / heads as f32))?;
    b.multiply(&sum, &share)
}

/// Weights of a [`MultiHeadAttention`].
#[derive(Debug, Clone, PartialEq)]
pub struct MultiHeadWeights<A> {
    /// Wq [H·D, Eq].
    pub query: Linear<A>,
    /// Wk [Hkv·D, Ek].
    pub key: Linear<A>,
    /// Wv [Hkv·Dv, Ev].
    pub value: Linear<A>,
    /// Wo [E, H·Dv].
    pub output: Linear<A>,
    /// [Hkv·D]: a learned key after the projected ones, visible to every query (PyTorch's `add_bias_kv`).
    pub bias_key: Option<A>,
    /// [Hkv·Dv]: its value.
    pub bias_value: Option<A>,
}

impl<A> MultiHeadWeights<A> {
    /// Each tensor through a fallible function of the tensor and its name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(
        &'a self,
        mut f: impl FnMut(&str, &'a A) -> Result<B, E>,
    ) -> Result<MultiHeadWeights<B>, E> {
        Ok(MultiHeadWeights {
            query: self.query.try_map("query", &mut f)?,
            key: self.key.try_map("key", &mut f)?,
            value: self.value.try_map("value", &mut f)?,
            output: self.output.try_map("output", &mut f)?,
            bias_key: self.bias_key.as_ref().map(|a| f("bias_key", a)).transpose()?,
            bias_value: self.bias_value.as_ref().map(|a| f("bias_value", a)).transpose()?,
        })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> MultiHeadWeights<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a)));
        mapped
    }
}

impl<T: Clone> MultiHeadWeights<Array<T>> {
    /// From the tensors of PyTorch's `MultiheadAttention`, found by their names in its state dict: `in_proj_weight`
    /// [3·E, E] or `q_proj_weight` [E, E], `k_proj_weight` [E, kdim] and `v_proj_weight` [E, vdim]; `in_proj_bias`
    /// [3·E]; `out_proj.weight` [E, E] and `out_proj.bias`; `bias_k` and `bias_v` [1, 1, E].
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Shape`] by those names.
    pub fn from_torch(mut find: impl FnMut(&str) -> Option<Array<T>>) -> Result<Self> {
        let output = find("out_proj.weight").ok_or_else(|| Error::missing("out_proj.weight", "[E, E]"))?;
        let &[width, _] = output.shape() else {
            return Err(Error::shape("out_proj.weight", "rank", "2 [E, E]", output.shape().len()));
        };
        expect("out_proj.weight", &output, &[width, width])?;
        let [query, key, value] = match find("in_proj_weight") {
            Some(packed) => {
                expect("in_proj_weight", &packed, &[3 * width, width])?;
                thirds(&packed, &[width, width])?
            }
            None => {
                let mut own = |name: &str, columns: &str| {
                    let expected = format!("[{width}, {columns}], or `in_proj_weight` [{}, {width}]", 3 * width);
                    let weight = find(name).ok_or_else(|| Error::missing(name, expected))?;
                    match *weight.shape() {
                        [rows, _] => same(name, "axis 0 (embedding)", width, rows).map(|()| weight),
                        ref shape => Err(Error::shape(name, "rank", 2, shape.len())),
                    }
                };
                [own("q_proj_weight", "E")?, own("k_proj_weight", "kdim")?, own("v_proj_weight", "vdim")?]
            }
        };
        let [query_bias, key_bias, value_bias] = match find("in_proj_bias") {
            Some(packed) => {
                expect("in_proj_bias", &packed, &[3 * width])?;
                thirds(&packed, &[width])?.map(Some)
            }
            None => [None, None, None],
        };
        let output_bias = find("out_proj.bias");
        if let Some(bias) = &output_bias {
            expect("out_proj.bias", bias, &[width])?;
        }
        let mut row = |name: &str| -> Result<Option<Array<T>>> {
            let Some(bias) = find(name) else { return Ok(None) };
            expect(name, &bias, &[1, 1, width])?;
            bias.reshape(&[width]).map(Some)
        };
        Ok(Self {
            query: Linear::with(query, query_bias),
            key: Linear::with(key, key_bias),
            value: Linear::with(value, value_bias),
            output: Linear::with(output, output_bias),
            bias_key: row("bias_k")?,
            bias_value: row("bias_v")?,
        })
    }

    /// From the variables of Keras' `MultiHeadAttention` or `GroupQueryAttention`, found by their paths inside the
    /// layer: `query/kernel` [Eq, H, D], `key/kernel` [Ek, Hkv, D], `value/kernel` [Ev, Hkv, Dv], `query/bias` [H, D]
    /// and so on, `attention_output/kernel` [H, Dv, E], `attention_output/bias` `[E]`.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Shape`] by those names, heads other than the layer's among them.
    pub fn from_keras(layer: &MultiHeadAttention, mut find: impl FnMut(&str) -> Option<Array<T>>) -> Result<Self> {
        let mut kernel = |name: &str, expected: &str| -> Result<(String, Array<T>, [usize; 3])> {
            let path = format!("{name}/kernel");
            let kernel = find(&path).ok_or_else(|| Error::missing(&path, expected))?;
            match *kernel.shape() {
                [a, b, c] => Ok((path, kernel, [a, b, c])),
                ref shape => Err(Error::shape(path, "rank", format!("3 {expected}"), shape.len())),
            }
        };
        let mut kernels = Vec::with_capacity(3);
        for (name, expected, heads) in [
            ("query", "[E, H, D]", layer.heads),
            ("key", "[E, Hkv, D]", layer.kv_heads),
            ("value", "[E, Hkv, Dv]", layer.kv_heads),
        ] {
            let (path, kernel, [inputs, found, dim]) = kernel(name, expected)?;
            same(&path, "axis 1 (heads)", heads, found)?;
            kernels.push((name, kernel.reshape(&[inputs, heads * dim])?.permute(&[1, 0])?, [heads, dim]));
        }
        let (path, output, [heads, dim, width]) = kernel("attention_output", "[H, Dv, E]")?;
        same(&path, "axis 0 (heads)", layer.heads, heads)?;
        let output = output.reshape(&[heads * dim, width])?.permute(&[1, 0])?;

        let mut bias = |name: &str, shape: &[usize]| -> Result<Option<Array<T>>> {
            let path = format!("{name}/bias");
            let Some(bias) = find(&path) else { return Ok(None) };
            expect(&path, &bias, shape)?;
            bias.reshape(&[shape.iter().product()]).map(Some)
        };
        let mut projections = Vec::with_capacity(3);
        for (name, weight, shape) in kernels {
            projections.push(Linear::with(weight, bias(name, &shape)?));
        }
        let output = Linear::with(output, bias("attention_output", &[width])?);
        match <[Linear<Array<T>>; 3]>::try_from(projections) {
            Ok([query, key, value]) => Ok(Self { query, key, value, output, bias_key: None, bias_value: None }),
            Err(found) => Err(Error::shape("projections", "number", 3, found.len())),
        }
    }
}

fn expect<T>(name: &str, array: &Array<T>, shape: &[usize]) -> Result<()> {
    if array.shape() == shape {
        Ok(())
    } else {
        Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{:?}", array.shape())))
    }
}

/// What is stacked along the first axis, three of `shape`.
fn thirds<T: Clone>(packed: &Array<T>, shape: &[usize]) -> Result<[Array<T>; 3]> {
    let size = shape.iter().product::<usize>();
    let slice = |k: usize| Array::new(shape, packed.data()[k * size..(k + 1) * size].to_vec());
    Ok([slice(0)?, slice(1)?, slice(2)?])
}

/// A multi-head layer with its numbers checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MultiHeadProblem {
    /// The attention inside, without the rows that the layer adds.
    pub(crate) attention: AttentionProblem,
    /// Keys appended to the projected ones: the learned one, the zero one.
    pub(crate) extra: usize,
}

impl MultiHeadProblem {
    pub(crate) fn new(
        layer: &MultiHeadAttention,
        weights: &MultiHeadWeights<&[usize]>,
        inputs: &AttentionInputs<&[usize]>,
    ) -> Result<Self> {
        let (heads, kv_heads) = (layer.heads, layer.kv_heads);
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
            let reason = format!("{heads} heads cannot share {kv_heads}: heads must be a multiple, and neither 0");
            return Err(Error::option("heads, kv_heads", reason));
        }
        if inputs.block_table.is_some() {
            let reason = "a cache in pages holds projected keys: project new ones, append them, and call the attention";
            return Err(Error::option("block_table", reason));
        }
        let [batch, queries, query_width] = rank3("query", "[B, Nq, E]", inputs.query)?;
        let [key_batch, keys, key_width] = rank3("key", "[B, Nk, E]", inputs.key)?;
        let [value_batch, value_keys, value_width] = rank3("value", "[B, Nk, E]", inputs.value)?;
        same("key", "axis 0 (batch)", batch, key_batch)?;
        same("value", "axis 0 (batch)", batch, value_batch)?;
        same("value", "axis 1 (keys)", keys, value_keys)?;

        let head_dim = |name: &str, linear: &Linear<&[usize]>, inputs: usize, heads: usize| -> Result<usize> {
            let rows = linear.check(name, inputs, "input")?;
            if rows % heads == 0 {
                Ok(rows / heads)
            } else {
                let expected = format!("a multiple of {heads} heads");
                Err(Error::shape(format!("{name}.weight"), "axis 0 (heads · dim)", expected, rows))
            }
        };
        let query_dim = head_dim("query", &weights.query, query_width, heads)?;
        let key_dim = head_dim("key", &weights.key, key_width, kv_heads)?;
        let value_dim = head_dim("value", &weights.value, value_width, kv_heads)?;
        weights.output.check("output", heads * value_dim, "heads · value dim")?;
        match (weights.bias_key, weights.bias_value) {
            (Some(_), None) => return Err(Error::missing("bias_value", "the value that belongs to `bias_key`")),
            (None, Some(_)) => return Err(Error::missing("bias_key", "the key that belongs to `bias_value`")),
            _ => {}
        }
        vector("bias_key", weights.bias_key, kv_heads * key_dim, "heads · dim")?;
        vector("bias_value", weights.bias_value, kv_heads * value_dim, "heads · value dim")?;

        let (query, key, value) =
            ([batch, heads, queries, query_dim], [batch, kv_heads, keys, key_dim], [batch, kv_heads, keys, value_dim]);
        // For as long as these shapes live.
        let given = inputs.map(|&shape| shape, |&shape| shape);
        let inside = AttentionInputs { query: &query[..], key: &key[..], value: &value[..], ..given };
        let attention = AttentionProblem::new(&layer.attention, &inside)?;
        let extra = usize::from(weights.bias_key.is_some()) + usize::from(layer.add_zero_attn);
        if extra > 0 {
            check_added(layer, inputs)?;
        }
        if layer.average_weights && !layer.attention.weights {
            return Err(Error::option("average_weights", "needs `attention.weights`, which is what it averages"));
        }
        Ok(Self { attention, extra })
    }

    /// The shape of the mask once it covers the keys that are added.
    pub(crate) fn mask_shape(&self, mask: &[usize]) -> Vec<usize> {
        let keys = self.attention.keys + self.extra;
        mask.split_last().map_or(vec![], |(_, lead)| [lead, &[keys]].concat())
    }
}

/// Keys that are added have no position, and are visible to every query: what counts positions or lengths must come as a
/// mask, which is extended over them.
fn check_added(layer: &MultiHeadAttention, inputs: &AttentionInputs<&[usize]>) -> Result<()> {
    let attention = &layer.attention;
    let given = [
        ("causal", attention.causal.is_some()),
        ("window", attention.window.is_some()),
        ("rotary", inputs.rotary.is_some()),
        ("block_mask", inputs.block_mask.is_some()),
        ("kv_lengths", inputs.kv_lengths.is_some()),
        ("query_lengths", inputs.query_lengths.is_some()),
        ("cu_seqlens_q", inputs.cu_seqlens.is_some()),
        ("alibi_slopes", inputs.alibi_slopes.is_some()),
        ("past_key", inputs.past.is_some()),
        ("previous", inputs.previous.is_some()),
        ("normalize", matches!(attention.normalize, Normalize::Monotonic(_))),
        ("score_mod", attention.score_mod.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            let reason = "keys that `add_zero_attn` or `bias_key` add have no position: write it out as a mask";
            Err(Error::option(*name, reason))
        }
        None => Ok(()),
    }
}
