//! Weights of Transformer blocks, and where other libraries keep them.

use crate::backend::{Backend, Value};
use crate::error::{Error, Result};
use crate::layers::Linear;
use crate::norm::Norm;
use crate::problem::same;
use crate::tensor::Array;

/// What follows a normalisation: ∘ weight + bias, each `[E]`; 1 and 0 when absent.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights<A> {
    /// `[E]`.
    pub weight: Option<A>,
    /// `[E]`.
    pub bias: Option<A>,
}

/// Of a block that attends to a memory of M channels besides itself, as decoders do.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossWeights<A> {
    /// Wq [H·D, E].
    pub query: Linear<A>,
    /// The rows of Wk [Hkv·D, M] and Wv [Hkv·D, M], one below the other.
    pub key_value: Linear<A>,
    /// Wo [E, H·D].
    pub output: Linear<A>,
    /// Beside it.
    pub norm: NormWeights<A>,
}

/// Weights of a [`TransformerBlock`](super::TransformerBlock) of E channels, H query heads on Hkv, and F inner channels.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockWeights<A> {
    /// The rows of Wq [H·D, E], Wk [Hkv·D, E] and Wv [Hkv·D, E], one below the other: one product.
    pub query_key_value: Linear<A>,
    /// Wo [E, H·D].
    pub output: Linear<A>,
    /// Beside the attention.
    pub attention_norm: NormWeights<A>,
    /// Attention to a memory, between the two.
    pub cross: Option<CrossWeights<A>>,
    /// W1 [F, E].
    pub up: Linear<A>,
    /// Of a gated feed-forward: Wg [F, E].
    pub gate: Option<Linear<A>>,
    /// W2 [E, F].
    pub down: Linear<A>,
    /// Beside the feed-forward.
    pub feed_forward_norm: NormWeights<A>,
}

/// Weights of a [`TransformerEncoder`](super::TransformerEncoder).
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderWeights<A> {
    /// Block by block.
    pub blocks: Vec<BlockWeights<A>>,
    /// After the last block, if there is one.
    pub norm: Option<NormWeights<A>>,
}

impl<A> NormWeights<A> {
    pub(in crate::layers) fn try_map<'a, B, E>(
        &'a self,
        name: &str,
        f: &mut impl FnMut(&str, &'a A) -> Result<B, E>,
    ) -> Result<NormWeights<B>, E> {
        let mut own = |kind: &str, a: &'a Option<A>| a.as_ref().map(|a| f(&format!("{name}.{kind}"), a)).transpose();
        Ok(NormWeights { weight: own("weight", &self.weight)?, bias: own("bias", &self.bias)? })
    }
}

impl<A: Value> NormWeights<A> {
    pub(super) fn forward<B: Backend<Value = A>>(&self, b: &mut B, norm: Norm, x: &A) -> Result<A> {
        b.norm(norm, x, self.weight.as_ref(), self.bias.as_ref())
    }
}

impl<A> CrossWeights<A> {
    fn try_map<'a, B, E>(&'a self, f: &mut impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<CrossWeights<B>, E> {
        Ok(CrossWeights {
            query: self.query.try_map("cross.query", &mut *f)?,
            key_value: self.key_value.try_map("cross.key_value", &mut *f)?,
            output: self.output.try_map("cross.output", &mut *f)?,
            norm: self.norm.try_map("cross.norm", f)?,
        })
    }
}

impl<A> BlockWeights<A> {
    /// Each tensor through a fallible function of the tensor and its name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(&'a self, mut f: impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<BlockWeights<B>, E> {
        Ok(BlockWeights {
            query_key_value: self.query_key_value.try_map("query_key_value", &mut f)?,
            output: self.output.try_map("output", &mut f)?,
            attention_norm: self.attention_norm.try_map("attention_norm", &mut f)?,
            cross: self.cross.as_ref().map(|cross| cross.try_map(&mut f)).transpose()?,
            up: self.up.try_map("up", &mut f)?,
            gate: self.gate.as_ref().map(|gate| gate.try_map("gate", &mut f)).transpose()?,
            down: self.down.try_map("down", &mut f)?,
            feed_forward_norm: self.feed_forward_norm.try_map("feed_forward_norm", &mut f)?,
        })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> BlockWeights<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a)));
        mapped
    }
}

impl<A> EncoderWeights<A> {
    /// Each tensor through a fallible function of the tensor and its name, such as `blocks.0.up.weight`.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(&'a self, mut f: impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<EncoderWeights<B>, E> {
        let block =
            |(n, block): (usize, &'a BlockWeights<A>)| block.try_map(|name, a| f(&format!("blocks.{n}.{name}"), a));
        let blocks = self.blocks.iter().enumerate().map(block).collect::<Result<_, E>>()?;
        Ok(EncoderWeights { blocks, norm: self.norm.as_ref().map(|norm| norm.try_map("norm", &mut f)).transpose()? })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> EncoderWeights<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a)));
        mapped
    }
}

/// Finds tensors by name, for names that begin alike.
struct Finder<'f, T> {
    find: &'f mut dyn FnMut(&str) -> Result<Option<Array<T>>>,
    prefix: &'f str,
}

impl<T: Clone> Finder<'_, T> {
    fn optional(&mut self, name: &str) -> Result<Option<Array<T>>> {
        (self.find)(&format!("{}{name}", self.prefix))
    }

    fn required(&mut self, name: &str, expected: &str) -> Result<Array<T>> {
        self.optional(name)?.ok_or_else(|| Error::missing(format!("{}{name}", self.prefix), expected))
    }

    /// `NAME.weight` and, if there is one, `NAME.bias`.
    fn linear(&mut self, name: &str, expected: &str) -> Result<Linear<Array<T>>> {
        let weight = self.required(&format!("{name}.weight"), expected)?;
        Ok(Linear::with(weight, self.optional(&format!("{name}.bias"))?))
    }

    fn norm(&mut self, name: &str) -> Result<NormWeights<Array<T>>> {
        let weight = Some(self.required(&format!("{name}.weight"), "[E]")?);
        Ok(NormWeights { weight, bias: self.optional(&format!("{name}.bias"))? })
    }

    /// Linear layers, one below the other.
    fn joined(&mut self, names: &[&str]) -> Result<Linear<Array<T>>> {
        let mut layers = Vec::with_capacity(names.len());
        for &name in names {
            layers.push((format!("{}{name}", self.prefix), self.linear(name, "[H·D, E]")?));
        }
        let columns = layers[0].1.weight.shape().get(1).copied().unwrap_or(0);
        let (mut rows, mut weight, mut bias) = (0, Vec::new(), Vec::new());
        let biased = layers[0].1.bias.is_some();
        for (name, layer) in layers {
            let &[own, found] = layer.weight.shape() else {
                return Err(Error::shape(format!("{name}.weight"), "rank", "2 [H·D, E]", layer.weight.shape().len()));
            };
            same(&format!("{name}.weight"), "axis 1 (channels)", columns, found)?;
            if layer.bias.is_some() != biased {
                let reason = "either all of query, key and value have a bias, or none";
                return Err(Error::option(format!("{name}.bias"), reason));
            }
            rows += own;
            weight.extend_from_slice(layer.weight.data());
            bias.extend(layer.bias.iter().flat_map(|bias| bias.data()).cloned());
        }
        let bias = biased.then(|| Array::new(&[rows], bias)).transpose()?;
        Ok(Linear::with(Array::new(&[rows, columns], weight)?, bias))
    }
}

impl<T: Clone> BlockWeights<Array<T>> {
    /// From the tensors of a layer of Hugging Face's BERT, found by their names behind `prefix`, such as `encoder.layer.0.`:
    /// `attention.self.query`, `.key`, `.value`, `attention.output.dense` and `.LayerNorm`, `intermediate.dense`,
    /// `output.dense` and `.LayerNorm`.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Shape`] by those names.
    pub fn from_bert(prefix: &str, mut find: impl FnMut(&str) -> Result<Option<Array<T>>>) -> Result<Self> {
        let mut of = Finder { find: &mut find, prefix };
        Ok(Self {
            query_key_value: of.joined(&["attention.self.query", "attention.self.key", "attention.self.value"])?,
            output: of.linear("attention.output.dense", "[E, H·D]")?,
            attention_norm: of.norm("attention.output.LayerNorm")?,
            cross: None,
            up: of.linear("intermediate.dense", "[F, E]")?,
            gate: None,
            down: of.linear("output.dense", "[E, F]")?,
            feed_forward_norm: of.norm("output.LayerNorm")?,
        })
    }

    /// From the tensors of a layer of Hugging Face's DistilBERT behind `prefix`, such as `transformer.layer.0.`:
    /// `attention.q_lin`, `.k_lin`, `.v_lin`, `.out_lin`, `sa_layer_norm`, `ffn.lin1`, `ffn.lin2`, `output_layer_norm`.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Shape`] by those names.
    pub fn from_distilbert(prefix: &str, mut find: impl FnMut(&str) -> Result<Option<Array<T>>>) -> Result<Self> {
        let mut of = Finder { find: &mut find, prefix };
        Ok(Self {
            query_key_value: of.joined(&["attention.q_lin", "attention.k_lin", "attention.v_lin"])?,
            output: of.linear("attention.out_lin", "[E, H·D]")?,
            attention_norm: of.norm("sa_layer_norm")?,
            cross: None,
            up: of.linear("ffn.lin1", "[F, E]")?,
            gate: None,
            down: of.linear("ffn.lin2", "[E, F]")?,
            feed_forward_norm: of.norm("output_layer_norm")?,
        })
    }

    /// From the tensors of a layer of Hugging Face's GPT-2 behind `prefix`, such as `h.0.`: `ln_1`, `attn.c_attn` [E, 3·E],
    /// `attn.c_proj`, `ln_2`, `mlp.c_fc`, `mlp.c_proj`; its matrices are [inputs, outputs].
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Shape`] by those names.
    pub fn from_gpt2(prefix: &str, mut find: impl FnMut(&str) -> Result<Option<Array<T>>>) -> Result<Self> {
        let mut of = Finder { find: &mut find, prefix };
        let turned = |of: &mut Finder<'_, T>, name: &str, expected: &str| -> Result<Linear<Array<T>>> {
            let layer = of.linear(name, expected)?;
            Ok(Linear::with(layer.weight.permute(&[1, 0])?, layer.bias))
        };
        Ok(Self {
            query_key_value: turned(&mut of, "attn.c_attn", "[E, 3·E]")?,
            output: turned(&mut of, "attn.c_proj", "[E, E]")?,
            attention_norm: of.norm("ln_1")?,
            cross: None,
            up: turned(&mut of, "mlp.c_fc", "[E, F]")?,
            gate: None,
            down: turned(&mut of, "mlp.c_proj", "[F, E]")?,
            feed_forward_norm: of.norm("ln_2")?,
        })
    }

    /// From the tensors of a layer of Hugging Face's LLaMA behind `prefix`, such as `model.layers.0.`: `self_attn.q_proj`,
    /// `.k_proj`, `.v_proj`, `.o_proj`, `input_layernorm`, `mlp.gate_proj`, `.up_proj`, `.down_proj`,
    /// `post_attention_layernorm`.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Shape`] by those names.
    pub fn from_llama(prefix: &str, mut find: impl FnMut(&str) -> Result<Option<Array<T>>>) -> Result<Self> {
        let mut of = Finder { find: &mut find, prefix };
        Ok(Self {
            query_key_value: of.joined(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
            output: of.linear("self_attn.o_proj", "[E, H·D]")?,
            attention_norm: of.norm("input_layernorm")?,
            cross: None,
            up: of.linear("mlp.up_proj", "[F, E]")?,
            gate: Some(of.linear("mlp.gate_proj", "[F, E]")?),
            down: of.linear("mlp.down_proj", "[E, F]")?,
            feed_forward_norm: of.norm("post_attention_layernorm")?,
        })
    }

    /// From the tensors of a layer of Hugging Face's BART or Marian behind `prefix`, such as `decoder.layers.0.`:
    /// `self_attn.q_proj`, `.k_proj`, `.v_proj`, `.out_proj`, `self_attn_layer_norm`, `fc1`, `fc2`, `final_layer_norm`; of a
    /// decoder also `encoder_attn` with the same, and `encoder_attn_layer_norm`.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Shape`] by those names.
    pub fn from_bart(prefix: &str, mut find: impl FnMut(&str) -> Result<Option<Array<T>>>) -> Result<Self> {
        let mut of = Finder { find: &mut find, prefix };
        let cross = match of.optional("encoder_attn.q_proj.weight")? {
            None => None,
            Some(_) => Some(CrossWeights {
                query: of.linear("encoder_attn.q_proj", "[E, E]")?,
                key_value: of.joined(&["encoder_attn.k_proj", "encoder_attn.v_proj"])?,
                output: of.linear("encoder_attn.out_proj", "[E, E]")?,
                norm: of.norm("encoder_attn_layer_norm")?,
            }),
        };
        Ok(Self {
            query_key_value: of.joined(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
            output: of.linear("self_attn.out_proj", "[E, E]")?,
            attention_norm: of.norm("self_attn_layer_norm")?,
            cross,
            up: of.linear("fc1", "[F, E]")?,
            gate: None,
            down: of.linear("fc2", "[E, F]")?,
            feed_forward_norm: of.norm("final_layer_norm")?,
        })
    }

    /// From the tensors of PyTorch's `nn.TransformerEncoderLayer` or `nn.TransformerDecoderLayer` behind `prefix`, such as
    /// `layers.0.`: `self_attn.in_proj_weight` [3·E, E] and `.in_proj_bias`, `self_attn.out_proj`, `linear1`, `linear2`, `norm1`,
    /// `norm2`; of a decoder also `multihead_attn` with the same, and `norm3`.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Shape`] by those names.
    pub fn from_torch(prefix: &str, mut find: impl FnMut(&str) -> Result<Option<Array<T>>>) -> Result<Self> {
        let mut of = Finder { find: &mut find, prefix };
        let packed = of.required("self_attn.in_proj_weight", "[3·E, E]")?;
        let cross = match of.optional("multihead_attn.in_proj_weight")? {
            None => None,
            Some(packed) => {
                let bias = of.optional("multihead_attn.in_proj_bias")?;
                let [query, key_value] = first_third(&format!("{prefix}multihead_attn"), &packed, bias.as_ref())?;
                let output = of.linear("multihead_attn.out_proj", "[E, E]")?;
                Some(CrossWeights { query, key_value, output, norm: of.norm("norm2")? })
            }
        };
        let last_norm = if cross.is_some() { "norm3" } else { "norm2" };
        Ok(Self {
            query_key_value: Linear::with(packed, of.optional("self_attn.in_proj_bias")?),
            output: of.linear("self_attn.out_proj", "[E, E]")?,
            attention_norm: of.norm("norm1")?,
            cross,
            up: of.linear("linear1", "[F, E]")?,
            gate: None,
            down: of.linear("linear2", "[E, F]")?,
            feed_forward_norm: of.norm(last_norm)?,
        })
    }
}

/// The rows of the query, and those of key and value, of PyTorch's packed ones.
fn first_third<T: Clone>(name: &str, packed: &Array<T>, bias: Option<&Array<T>>) -> Result<[Linear<Array<T>>; 2]> {
    let &[rows, columns] = packed.shape() else {
        return Err(Error::shape(format!("{name}.in_proj_weight"), "rank", "2 [3·E, E]", packed.shape().len()));
    };
    let third = rows / 3;
    let parts = [(0, third), (third, rows - third)];
    let part = |(first, count): (usize, usize)| {
        let weight = packed.data()[first * columns..(first + count) * columns].to_vec();
        let bias = match bias {
            Some(bias) if bias.shape() == [rows] => {
                Some(Array::new(&[count], bias.data()[first..first + count].to_vec())?)
            }
            Some(bias) => {
                let (wanted, found) = (format!("[{rows}]"), format!("{:?}", bias.shape()));
                return Err(Error::shape(format!("{name}.in_proj_bias"), "shape", wanted, found));
            }
            None => None,
        };
        Ok(Linear::with(Array::new(&[count, columns], weight)?, bias))
    };
    Ok([part(parts[0])?, part(parts[1])?])
}

impl<T: Clone> EncoderWeights<Array<T>> {
    /// From the tensors of PyTorch's `nn.TransformerEncoder` or `nn.TransformerDecoder` of so many layers: `layers.N.…` as
    /// [`BlockWeights::from_torch`] has them, and `norm` if there is one.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Shape`] by those names.
    pub fn from_torch(layers: usize, mut find: impl FnMut(&str) -> Result<Option<Array<T>>>) -> Result<Self> {
        let block = |n: usize| BlockWeights::from_torch(&format!("layers.{n}."), &mut find);
        let blocks = (0..layers).map(block).collect::<Result<_>>()?;
        let norm = match find("norm.weight")? {
            Some(weight) => Some(NormWeights { weight: Some(weight), bias: find("norm.bias")? }),
            None => None,
        };
        Ok(Self { blocks, norm })
    }
}
