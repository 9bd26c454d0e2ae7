//! What attention to compute: options, inputs and outputs, for the GPU and the reference alike.
//!
//! For query row i of head h and key row j of head ⌊h / group⌋
//! ```text
//! s(i, j) = scale · score(q_i, k_j)            score_mod, then softcap: cap · tanh(s / cap)
//! s(i, j) += slope_h · −|i + offset − j|        ALiBi
//! s(i, j) += mask(i, j)                         float mask; a bool mask, causal, window and lengths hide (i, j)
//! w(i, :) = normalize over the visible j of s   softmax unless told otherwise
//! y_i = Σ_j w(i, j) · v_j
//! ```
//! A row that sees no key has weights 0, output 0 and log-sum-exp −∞: decided by the mask, never by the scores.

use std::sync::Arc;

/// How a query and a key are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Score {
    /// q·k / √D (Vaswani et al. 2017, "Attention Is All You Need", eq. 1).
    #[default]
    ScaledDot,
    /// q·k (Luong et al. 2015, "dot").
    Dot,
    /// q·W·k with `score.weight` [Dq, Dk] (Luong et al. 2015, "general").
    General,
    /// v·tanh(Wq·q + Wk·k + b) (Bahdanau et al. 2015). Without weights q and k are added as they are, and without
    /// `v` the sum is plain, as in Keras' `AdditiveAttention`.
    Additive,
    /// v·tanh(W·[q; k]) with `score.weight` [A, Dq + Dk] (Luong et al. 2015, "concat").
    Concat,
    /// q·k / (‖q‖·‖k‖), 0 where either norm is 0 (Graves et al. 2014, Neural Turing Machines, eq. 6).
    Cosine,
}

/// How the scores of a row become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normalize {
    /// exp(s − max) / Σ exp(s − max): soft attention.
    #[default]
    Softmax,
    /// 1 at the largest score, the first one on ties: hard attention by argmax.
    Hardmax,
    /// 1 at one key drawn from the softmax: hard attention by sampling (Xu et al. 2015, "Show, Attend and Tell").
    /// The draw is argmax(s + Gumbel noise) with noise from a counter-based generator, so the same seed gives the
    /// same draw on every device.
    Sample {
        /// Seed of the generator.
        seed: u32,
    },
    /// Euclidean projection onto the simplex (Martins and Astudillo 2016).
    Sparsemax,
}

/// Which keys causal attention hides: key j is visible to query i when j ≤ i + offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Causal {
    /// offset = length of the past, or `kv_length − Nq` of the batch row when lengths are given (PyTorch, ONNX).
    #[default]
    TopLeft,
    /// offset = Nk − Nq, or `kv_length − Nq`: the last query sees the last key (FlashAttention).
    BottomRight,
}

/// Keys i + offset − left … i + offset + right are visible; `None` leaves that side open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// Keys visible before the query's own position.
    pub left: Option<u32>,
    /// Keys visible after the query's own position.
    pub right: Option<u32>,
}

/// A stage at which the scores can be had (ONNX `qk_matmul_output_mode` 0, 1, 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreStage {
    /// After the scale (and `score_mod`).
    Raw,
    /// After the softcap.
    Capped,
    /// After ALiBi, bias and mask; hidden entries are −∞.
    Masked,
}

/// Which kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Path {
    /// The planner chooses.
    #[default]
    Auto,
    /// Score, softmax and weighted sum as three dispatches, scores in memory.
    Staged,
}

/// A function of one score, in the reference: (score, batch, head, query, key) → score.
pub type ScoreFn = Arc<dyn Fn(f64, usize, usize, usize, usize) -> f64 + Send + Sync>;

/// A user's own term, applied to each score after the scale.
#[derive(Clone)]
pub struct ScoreMod {
    /// WGSL source with `fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32`.
    pub wgsl: String,
    /// The same function for the reference; without it the reference refuses.
    pub reference: Option<ScoreFn>,
}

impl std::fmt::Debug for ScoreMod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScoreMod").field("wgsl", &self.wgsl).field("reference", &self.reference.is_some()).finish()
    }
}

/// Attention options; `Attention::default()` is PyTorch's `scaled_dot_product_attention` without a mask.
#[derive(Debug, Clone, Default)]
pub struct Attention {
    /// How a query and a key are compared.
    pub score: Score,
    /// Multiplies the scores; `None` is 1/√D for [`Score::ScaledDot`], 1 otherwise.
    pub scale: Option<f32>,
    /// A user's own term, applied after the scale.
    pub score_mod: Option<ScoreMod>,
    /// cap·tanh(s / cap), before the mask; above 0.
    pub softcap: Option<f32>,
    /// Causal masking.
    pub causal: Option<Causal>,
    /// Sliding window around the query's own position.
    pub window: Option<Window>,
    /// How scores become weights.
    pub normalize: Normalize,
    /// Which kernels run.
    pub path: Path,
    /// Also return the weights [B, Hq, Nq, Nk].
    pub weights: bool,
    /// Also return the log-sum-exp (natural) of each row [B, Hq, Nq].
    pub lse: bool,
    /// Also return the scores [B, Hq, Nq, Nk] at this stage.
    pub scores: Option<ScoreStage>,
}

/// A mask, broadcast over [B, Hq, Nq, Nk] (rank 1 to 4). Keys past its last column are hidden.
#[derive(Debug, Clone, PartialEq)]
pub enum Mask<A> {
    /// Nonzero = attend. On the GPU a [`DType::U32`](crate::tensor::DType::U32) tensor.
    Bool(A),
    /// Added to the scores; −∞ hides.
    Float(A),
}

impl<A> Mask<A> {
    /// The tensor inside.
    pub fn tensor(&self) -> &A {
        match self {
            Self::Bool(a) | Self::Float(a) => a,
        }
    }

    fn try_map<'a, B, E>(&'a self, f: impl FnOnce(&'a A) -> Result<B, E>) -> Result<Mask<B>, E> {
        Ok(match self {
            Self::Bool(a) => Mask::Bool(f(a)?),
            Self::Float(a) => Mask::Float(f(a)?),
        })
    }
}

/// Parameters of the score function.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreWeights<A> {
    /// [`Score::General`]: [Dq, Dk]. [`Score::Concat`]: [A, Dq + Dk].
    pub weight: Option<A>,
    /// [`Score::Additive`]: Wq [A, Dq].
    pub query_weight: Option<A>,
    /// [`Score::Additive`]: Wk [A, Dk].
    pub key_weight: Option<A>,
    /// [`Score::Additive`] and [`Score::Concat`]: v `[A]`.
    pub v: Option<A>,
    /// [`Score::Additive`] and [`Score::Concat`]: b `[A]`.
    pub bias: Option<A>,
}

impl<A> Default for ScoreWeights<A> {
    fn default() -> Self {
        Self { weight: None, query_weight: None, key_weight: None, v: None, bias: None }
    }
}

/// The tensors that attention reads; `A` is a GPU tensor, a view in a recording, a host array or a bare layout.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionInputs<A> {
    /// [B, Hq, Nq, D].
    pub query: A,
    /// [B, Hkv, Nk, D]; Hq is a multiple of Hkv, query head h reads key head ⌊h / (Hq / Hkv)⌋.
    pub key: A,
    /// [B, Hkv, Nk, Dv].
    pub value: A,
    /// Which keys each query may see, or what is added to its scores.
    pub mask: Option<Mask<A>>,
    /// Keys [B, Hkv, P, D] that stand before `key`.
    pub past_key: Option<A>,
    /// Values [B, Hkv, P, Dv] that stand before `value`.
    pub past_value: Option<A>,
    /// `[B]`: how many keys of each batch row are real.
    pub kv_lengths: Option<A>,
    /// `[Hq]`: ALiBi slopes (Press et al. 2022).
    pub alibi_slopes: Option<A>,
    /// `[Hq]`: a learned logit that takes part in each row's softmax and has no value ("attention sink").
    pub sinks: Option<A>,
    /// Parameters of the score function.
    pub score: ScoreWeights<A>,
}

impl<A> AttentionInputs<A> {
    /// Query, key and value, nothing else.
    pub fn new(query: A, key: A, value: A) -> Self {
        Self {
            query,
            key,
            value,
            mask: None,
            past_key: None,
            past_value: None,
            kv_lengths: None,
            alibi_slopes: None,
            sinks: None,
            score: ScoreWeights::default(),
        }
    }

    /// Each tensor through a fallible function that is told the tensor's name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(
        &'a self,
        mut f: impl FnMut(&str, &'a A) -> Result<B, E>,
    ) -> Result<AttentionInputs<B>, E> {
        fn opt<'a, A, B, E>(
            name: &str,
            a: &'a Option<A>,
            f: &mut impl FnMut(&str, &'a A) -> Result<B, E>,
        ) -> Result<Option<B>, E> {
            a.as_ref().map(|a| f(name, a)).transpose()
        }
        Ok(AttentionInputs {
            query: f("query", &self.query)?,
            key: f("key", &self.key)?,
            value: f("value", &self.value)?,
            mask: self.mask.as_ref().map(|m| m.try_map(|a| f("mask", a))).transpose()?,
            past_key: opt("past_key", &self.past_key, &mut f)?,
            past_value: opt("past_value", &self.past_value, &mut f)?,
            kv_lengths: opt("kv_lengths", &self.kv_lengths, &mut f)?,
            alibi_slopes: opt("alibi_slopes", &self.alibi_slopes, &mut f)?,
            sinks: opt("sinks", &self.sinks, &mut f)?,
            score: ScoreWeights {
                weight: opt("score.weight", &self.score.weight, &mut f)?,
                query_weight: opt("score.query_weight", &self.score.query_weight, &mut f)?,
                key_weight: opt("score.key_weight", &self.score.key_weight, &mut f)?,
                v: opt("score.v", &self.score.v, &mut f)?,
                bias: opt("score.bias", &self.score.bias, &mut f)?,
            },
        })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> AttentionInputs<B> {
        match self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a))) {
            Ok(mapped) => mapped,
            Err(never) => match never {},
        }
    }
}

/// What attention gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionOutputs<A> {
    /// [B, Hq, Nq, Dv].
    pub output: A,
    /// [B, Hq, Nq, Nk], if asked for.
    pub weights: Option<A>,
    /// [B, Hq, Nq], if asked for; −∞ for a row that sees no key.
    pub lse: Option<A>,
    /// [B, Hq, Nq, Nk], if asked for.
    pub scores: Option<A>,
    /// `past_key` and `key` joined, [B, Hkv, P + Nk, D], if there was a past.
    pub present_key: Option<A>,
    /// `past_value` and `value` joined, if there was a past.
    pub present_value: Option<A>,
}
