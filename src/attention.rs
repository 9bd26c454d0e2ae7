//! What attention to compute: options, inputs and outputs, for the GPU and the reference alike.
//!
//! For query row i of head h and key row j of head ⌊h / group⌋
//! ```text
//! q_i, k_j ← rotary(q_i, pos(i)), rotary(k_j, j)        if asked for
//! s(i, j) = scale · score(q_i, k_j)                     score_mod, then softcap: cap · tanh(s / cap)
//! s(i, j) += slope_h · −|pos(i) − j|                    ALiBi
//! s(i, j) += mask(i, j)                                 float mask; all other masks hide (i, j)
//! w(i, :) = normalize over the visible j of s / τ       softmax by default
//! y_i = Σ_j w(i, j) · v_j                               over the j of weight above 0
//! ```
//! A hidden value contributes nothing, NaN and infinity too; nor does a visible one whose weight is 0, except that on the
//! fused paths a weight that underflows in f32 is treated as a small one: 0 · ∞ is NaN there.
//!
//! A row without a visible key has weights 0, output 0, entropy 0 and log-sum-exp −∞ (that of its sink, if it has one):
//! decided by the mask, never by the scores. A visible score of −∞ has weight 0; a row whose visible scores are all −∞, and
//! that has no finite sink, is NaN where its weights depend on their differences (all but hardmax and monotonic ones). On the
//! GPU a finite score below −3.402823·10³⁸ (the two lowest numbers of f32) counts as −3.402823·10³⁸.
//!
//! Positions. A batch row has K keys (Nk, or its `kv_lengths`) and Q queries (Nq, or its `query_lengths`). The query's
//! position among the keys is pos(i) = i + offset with offset = K − Q where lengths are given for the keys or the
//! alignment is [`Causal::BottomRight`], else the length of the past. Causal hides j > pos(i), a window keeps
//! pos(i) − left ≤ j ≤ pos(i) + right. Negative positions are legal: such a query has no visible key under a causal mask.
//!
//! So with lengths of the keys alone the last of all Nq queries is at the batch row's last valid key, as decoding with a cache
//! needs it: of 4 queries over 6 keys of which 5 are valid, query 0 is at key 1. In a padded batch, where query i belongs to
//! key i and both are valid up to the row's length, they would move every query of a short row back by its padding: give
//! `query_lengths` as well, and the offset is 0.
//!
//! Lists on the device. `upload` refuses a length, an end or a page that is out of range. In tensors of the caller's own no
//! host looks at them; shaders take what is out of range as each input below says, and read and write nothing outside
//! the tensors.
//!
//! Ragged batches. With `cu_seqlens_q` and `cu_seqlens_k` the batch axis is 1 and the sequences are packed one after
//! the other: sequence n has queries `cu_seqlens_q[n] .. cu_seqlens_q[n + 1]` and keys likewise. A query attends to keys of its own
//! sequence only, and positions count from the sequence's start: K and Q above are the sequence's own, and the offset
//! is K − Q for [`Causal::BottomRight`], else 0 (FlashAttention, `flash_attn_varlen_func`, whose window without causal
//! masking counts from K − Q as well: give such batches as rows with `kv_lengths` and `query_lengths`). Both lists
//! ascend; ends past the last token mean the last token. A token in no sequence attends to nothing, and nothing attends to it. The
//! indices i and j of masks, block masks and `score_mod` are those of the packed tensors.

use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::tensor::Array;

/// How a query and a key are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
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
    /// v·tanh(Wq·q + Wk·k + U·f_j + b) with f = F ∗ `previous`, the alignment before this query convolved along the
    /// keys: f_j\[c\] = Σ_n F\[c, n\] · previous\[j + n − ⌊(W − 1) / 2⌋\], 0 outside (Chorowski et al. 2015, "Attention-Based
    /// Models for Speech Recognition", eq. 8 and 9). With the sum of all alignments as `previous` and a filter of
    /// width 1 it is the coverage of See et al. 2017, eq. 11. Without Wq and Wk, q and k are projected already.
    Location,
}

impl Score {
    /// v·tanh(q + k) of the projections as they are; a location-sensitive score has keys of its own for each query.
    pub(crate) fn is_additive(self) -> bool {
        matches!(self, Self::Additive | Self::Concat)
    }
}

/// How the scores of a row become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
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
    /// Monotonic alignment (Raffel et al. 2017, "Online and Linear-Time Attention by Enforcing Monotonic Alignments"):
    /// p_j = sigmoid(s_j), 0 where hidden, is the probability to stop at key j, scanning on from where the query before
    /// stopped. `previous` is the alignment before the first query, at key 0 if not given; each query's weights are the
    /// next one's `previous`. Weights may sum to less than 1: the scan can run off the end, and after a query without
    /// a visible key all weights are 0. A NaN among a row's visible scores or in the alignment before it makes its visible
    /// weights NaN.
    Monotonic(Monotonic),
}

/// How a monotonic alignment is computed, by TensorFlow Addons' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Monotonic {
    /// w_j = p_j · c_j · Σ_{k ≤ j} previous_k / clamp(c_k, 1e-10, 1) with c_j = Π_{k < j} (1 − p_k). Loses what has to
    /// travel past keys that nearly all stop at, where c underflows the clamp.
    #[default]
    Parallel,
    /// w_j = p_j · q_j with q_j = (1 − p_{j−1}) · q_{j−1} + previous_j: what the parallel form approximates.
    Recursive,
    /// p_j = 1 where s_j > 0, else 0: stops at the first such key. w_j = a_j · Π_{k < j} (1 − a_k) with
    /// a_j = p_j · Σ_{k ≤ j} previous_k.
    Hard,
}

/// Which keys causal attention hides: key j is visible to query i when j ≤ pos(i) = i + offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Causal {
    /// offset = length of the past, or K − Q of the batch row when `kv_lengths` are given, where Q is Nq unless
    /// `query_lengths` say otherwise (PyTorch, ONNX).
    #[default]
    TopLeft,
    /// offset = K − Q: the last key is visible to the last query (FlashAttention).
    BottomRight,
}

/// Keys pos(i) − left … pos(i) + right are visible; `None` leaves that side unlimited. pos(i) is not i where there is a past or
/// `kv_lengths` are given: see the [module's docs](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// Keys visible before the query's position.
    pub left: Option<u32>,
    /// Keys visible after the query's position.
    pub right: Option<u32>,
    /// The first keys of the sequence that stay visible outside the window, as far as causal masking and lengths
    /// allow (Xiao et al. 2024, "Efficient Streaming Language Models with Attention Sinks").
    pub sink_tokens: u32,
}

impl Window {
    /// Without sink tokens.
    pub fn new(left: Option<u32>, right: Option<u32>) -> Self {
        Self { left, right, sink_tokens: 0 }
    }
}

/// Rotary position embedding (Su et al. 2021, "RoFormer") of query and key, before the score:
/// ```text
/// (x_a, x_b) ← (x_a · cos − x_b · sin,  x_b · cos + x_a · sin)
/// ```
/// for each pair n, with cos and sin at row (position + offset), column n of the tables `rotary_cos` and `rotary_sin`
/// [positions, width / 2], or at their last row where they have fewer. Element 2 · (columns of the tables) of a head and
/// those after it stay as they are. A query's position is pos(i), at least 0; a key's is j. A past is taken as turned
/// already, and `present_key` is turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotary {
    /// Which elements form a pair.
    pub layout: RotaryLayout,
    /// Added to every position.
    pub offset: usize,
}

/// Which elements of a head a rotary embedding rotates as a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RotaryLayout {
    /// n and n + width / 2 (GPT-NeoX, LLaMA in `transformers`; ONNX `interleaved = 0`).
    #[default]
    HalfSplit,
    /// 2n and 2n + 1 (RoFormer, GPT-J; ONNX `interleaved = 1`).
    Interleaved,
}

impl Rotary {
    /// The tables cos and sin [positions, width / 2] of angles position · base^(−2n / width), computed in f64.
    ///
    /// # Errors
    /// [`Error::Option`] for an odd or zero width, or a base that is not above 0; [`Error::Limit`] for tables of more than
    /// 2³² elements.
    pub fn tables(base: f64, width: usize, positions: usize) -> Result<[Array<f32>; 2]> {
        if width == 0 || !width.is_multiple_of(2) {
            return Err(Error::option("rotary width", format!("must be even and above 0, not {width}")));
        }
        if !(base.is_finite() && base > 0.0) {
            return Err(Error::option("rotary base", format!("must be finite and above 0, not {base}")));
        }
        let pairs = width / 2;
        let elements = (positions as u64).saturating_mul(pairs as u64);
        if elements > u64::from(u32::MAX) {
            let allowed = u64::from(u32::MAX);
            return Err(Error::Limit { what: "elements of a rotary table".into(), needed: elements, allowed });
        }
        let angle = |k: usize| (k / pairs) as f64 * base.powf(-((k % pairs) as f64) / pairs as f64);
        let table = |f: fn(f64) -> f64| Array::from_fn(&[positions, pairs], |k| f(angle(k)) as f32);
        Ok([table(f64::cos), table(f64::sin)])
    }
}

/// A stage at which the scores can be had (ONNX `qk_matmul_output_mode` 0, 1, 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScoreStage {
    /// After the scale (and `score_mod`). Tokens in no sequence of a ragged batch, and keys in pages past `kv_lengths`,
    /// have scores of no meaning before the mask.
    Raw,
    /// After the softcap.
    Capped,
    /// After ALiBi, bias and mask; hidden entries are −∞.
    Masked,
}

/// Which kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// The planner chooses.
    #[default]
    Auto,
    /// Score, softmax and weighted sum as three dispatches, scores in memory.
    Staged,
    /// One kernel with an online softmax (Dao et al. 2022, "FlashAttention"); memory grows with Nq + Nk.
    Fused,
    /// Fused, for few queries, split-KV: splits of the keys in parallel, merged by row max and row sum (Dao et al. 2023,
    /// "Flash-Decoding").
    Split,
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Staged => "staged",
            Self::Fused => "fused",
            Self::Split => "split",
        })
    }
}

/// A function of one score, in the reference: (score, batch, head, query, key) → score.
pub type ScoreFn = Arc<dyn Fn(f64, usize, usize, usize, usize) -> f64 + Send + Sync>;

/// A user's own term, applied to each score after the scale.
#[derive(Clone)]
pub struct ScoreMod {
    pub(crate) wgsl: Arc<str>,
    pub(crate) reference: Option<ScoreFn>,
    /// What the check has found, once it has been made: every recorded call asks.
    checked: Arc<OnceLock<Result<()>>>,
}

impl ScoreMod {
    /// From WGSL source with `fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32`, and the functions, constants,
    /// structs and aliases that it uses. It is checked alone, so that errors name its own lines, and refused
    /// if it has anything else at module scope (bindings, variables, entry points, `override`, `enable`), a name that
    /// is the kernel's or WGSL's, barriers or subgroup operations, or is of a size that compilers choke on. Its loops
    /// have to end: nobody bounds them, and a device takes one that does not for a hang. `reference` is the same function
    /// for the reference, which refuses without it.
    pub fn new(wgsl: impl Into<Arc<str>>, reference: Option<ScoreFn>) -> Self {
        Self { wgsl: wgsl.into(), reference, checked: Arc::default() }
    }

    /// Checks the WGSL as every use of it does.
    ///
    /// # Errors
    /// [`Error::Option`] of `score_mod` with the compiler's words, the line, the column and the text there, or the reason
    /// why it is refused.
    pub fn check(&self) -> Result<()> {
        self.checked.get_or_init(|| crate::wgsl::check_score_mod(&self.wgsl)).clone()
    }

    /// The line of the WGSL that [`ScoreMod::check`] refuses: its number and the line, whole, and on a second line marks
    /// below what is wrong there. None where nothing is wrong, or no line is to blame.
    pub fn excerpt(&self) -> Option<String> {
        crate::wgsl::excerpt_of_score_mod(&self.wgsl)
    }
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
    /// τ, above 0: scores (and sinks) are divided by it on their way into the normalizer.
    pub temperature: Option<f32>,
    /// Rotary position embedding of query and key.
    pub rotary: Option<Rotary>,
    /// Queries and keys of one entry of `block_mask`; needed with it.
    pub block_size: Option<[usize; 2]>,
    /// How scores become weights.
    pub normalize: Normalize,
    /// Which kernels run.
    pub path: Algorithm,
    /// Also return the weights [B, Hq, Nq, Nk].
    pub weights: bool,
    /// Also return the log-sum-exp (natural) of each row [B, Hq, Nq].
    pub lse: bool,
    /// Also return the largest score and the sum of each row [B, Hq, Nq, 2]: m = max s/τ and l = Σ exp(s/τ − m), sinks
    /// included. Their log-sum-exp is m + ln l, which as one f32 has the fewer digits of l the larger |m| is.
    pub max_sum: bool,
    /// Also return the entropy −Σ_j w_j · ln w_j (nats) of each row's weights [B, Hq, Nq].
    pub entropy: bool,
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

    pub(crate) fn try_map<'a, B, E>(
        &'a self,
        f: impl FnOnce(&'a A) -> std::result::Result<B, E>,
    ) -> std::result::Result<Mask<B>, E> {
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
    /// [`Score::Additive`] and [`Score::Location`]: Wq [A, Dq].
    pub query_weight: Option<A>,
    /// [`Score::Additive`] and [`Score::Location`]: Wk [A, Dk].
    pub key_weight: Option<A>,
    /// [`Score::Additive`], [`Score::Concat`] and [`Score::Location`]: v `[A]`.
    pub v: Option<A>,
    /// [`Score::Additive`], [`Score::Concat`] and [`Score::Location`]: b `[A]`.
    pub bias: Option<A>,
    /// Beside v: g `[1]`, and v is replaced by g · v / ‖v‖, 0 where the norm is 0 (Salimans and Kingma 2016, "Weight
    /// Normalization"; TensorFlow's `BahdanauAttention(normalize=True)`).
    pub g: Option<A>,
    /// [`Score::Location`]: the filter F [C, W], C channels of width W.
    pub location_filter: Option<A>,
    /// [`Score::Location`]: U [A, C].
    pub location_weight: Option<A>,
}

impl<A> Default for ScoreWeights<A> {
    fn default() -> Self {
        Self {
            weight: None,
            query_weight: None,
            key_weight: None,
            v: None,
            bias: None,
            g: None,
            location_filter: None,
            location_weight: None,
        }
    }
}

impl<A> ScoreWeights<A> {
    /// Each tensor through a fallible function of the tensor and its name, `score.weight` and so on.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(
        &'a self,
        mut f: impl FnMut(&'static str, &'a A) -> std::result::Result<B, E>,
    ) -> std::result::Result<ScoreWeights<B>, E> {
        let mut opt = |name: &'static str, a: &'a Option<A>| a.as_ref().map(|a| f(name, a)).transpose();
        Ok(ScoreWeights {
            weight: opt("score.weight", &self.weight)?,
            query_weight: opt("score.query_weight", &self.query_weight)?,
            key_weight: opt("score.key_weight", &self.key_weight)?,
            v: opt("score.v", &self.v)?,
            bias: opt("score.bias", &self.bias)?,
            g: opt("score.g", &self.g)?,
            location_filter: opt("score.location_filter", &self.location_filter)?,
            location_weight: opt("score.location_weight", &self.location_weight)?,
        })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> ScoreWeights<B> {
        match self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a))) {
            Ok(mapped) => mapped,
            Err(never) => match never {},
        }
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
    /// Which keys each query attends to, or what is added to its scores.
    pub mask: Option<Mask<A>>,
    /// Keys [B, Hkv, P, D] that come before `key`.
    pub past_key: Option<A>,
    /// Values [B, Hkv, P, Dv] that come before `value`.
    pub past_value: Option<A>,
    /// `[B]`: how many keys of each batch row are valid; more than Nk are Nk. They move the queries' positions, see the
    /// [module's docs](self): a padded batch has `query_lengths` too. Not with a past: they count the keys of a cache that
    /// contains it already (ONNX `nonpad_kv_seqlen`).
    pub kv_lengths: Option<A>,
    /// `[B]`: how many queries of each batch row are valid; the others have no visible key. More than Nq are Nq.
    pub query_lengths: Option<A>,
    /// `[S + 1]`: where each of S sequences begins among the queries, and where the last one ends. B is 1 then. Ends past
    /// the last token mean the last token. With a list that descends it is undefined which tokens attend to which.
    pub cu_seqlens_q: Option<A>,
    /// `[S + 1]`: the same among the keys; a sequence that ends before it begins has none.
    pub cu_seqlens_k: Option<A>,
    /// [B, Hq, ⌈Nq / block⌉, ⌈Nk / block⌉], each axis but the last two may be 1: a zero hides every pair of a block, which
    /// is then not computed (PyTorch FlexAttention's `BlockMask`). The block is [`Attention::block_size`].
    pub block_mask: Option<A>,
    /// [B, pages]: which page of `key` [page count, Hkv, page size, D] and `value` holds each block of a batch row's
    /// keys (vLLM, FlashAttention `block_table`). Nk is pages · page size; `kv_lengths` says how many are valid. Entries
    /// past the last valid key are ignored; those past the page count read the last page. `upload` refuses these.
    pub block_table: Option<A>,
    /// [positions, width / 2]: cosines of [`Attention::rotary`].
    pub rotary_cos: Option<A>,
    /// [positions, width / 2]: sines of [`Attention::rotary`].
    pub rotary_sin: Option<A>,
    /// The alignment before each query: [B, Hq, Nq, Nk] for [`Score::Location`]; [B, Hq, 1, Nk], before the first, for
    /// [`Normalize::Monotonic`]. Read at the K keys of the batch row, 0 beyond them.
    pub previous: Option<A>,
    /// `[Hq]`: ALiBi slopes (Press et al. 2022); or [B, Hq] where batch rows have slopes of their own, which are [S, Hq] in
    /// a ragged batch.
    pub alibi_slopes: Option<A>,
    /// `[Hq]`: a learned logit that takes part in each row's softmax and has no value ("attention sink"). Where subsets of
    /// the keys are merged later, give it to one of them only.
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
            query_lengths: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            block_mask: None,
            block_table: None,
            rotary_cos: None,
            rotary_sin: None,
            previous: None,
            alibi_slopes: None,
            sinks: None,
            score: ScoreWeights::default(),
        }
    }

    /// Each tensor through a fallible function of the tensor and its name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(
        &'a self,
        mut f: impl FnMut(&'static str, &'a A) -> std::result::Result<B, E>,
    ) -> std::result::Result<AttentionInputs<B>, E> {
        fn opt<'a, A, B, E>(
            name: &'static str,
            a: &'a Option<A>,
            f: &mut impl FnMut(&'static str, &'a A) -> std::result::Result<B, E>,
        ) -> std::result::Result<Option<B>, E> {
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
            query_lengths: opt("query_lengths", &self.query_lengths, &mut f)?,
            cu_seqlens_q: opt("cu_seqlens_q", &self.cu_seqlens_q, &mut f)?,
            cu_seqlens_k: opt("cu_seqlens_k", &self.cu_seqlens_k, &mut f)?,
            block_mask: opt("block_mask", &self.block_mask, &mut f)?,
            block_table: opt("block_table", &self.block_table, &mut f)?,
            rotary_cos: opt("rotary_cos", &self.rotary_cos, &mut f)?,
            rotary_sin: opt("rotary_sin", &self.rotary_sin, &mut f)?,
            previous: opt("previous", &self.previous, &mut f)?,
            alibi_slopes: opt("alibi_slopes", &self.alibi_slopes, &mut f)?,
            sinks: opt("sinks", &self.sinks, &mut f)?,
            score: self.score.try_map(&mut f)?,
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

impl AttentionInputs<Array<f32>> {
    /// Whether entry `at` (row-major) of the block table names the page of a real key, before `kv_lengths`; other entries
    /// may hold anything.
    pub fn is_real_page(&self, at: usize) -> bool {
        let axis = |array: &Array<f32>, axis: usize| array.shape().get(axis).copied().unwrap_or(0);
        let columns = self.block_table.as_ref().map_or(0, |table| axis(table, 1)).max(1);
        let length = self.kv_lengths.as_ref().and_then(|lengths| lengths.data().get(at / columns));
        length.is_none_or(|&length| (at % columns) as f32 * (axis(&self.key, 2) as f32) < length)
    }
}

/// What attention gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionOutputs<A> {
    /// [B, Hq, Nq, Dv].
    pub output: A,
    /// [B, Hq, Nq, Nk], if asked for.
    pub weights: Option<A>,
    /// [B, Hq, Nq], if asked for, sinks included; −∞ for a row without a visible key and without a sink.
    pub lse: Option<A>,
    /// [B, Hq, Nq, 2], if asked for, sinks included; (−∞, 0) for a row without a visible key and without a sink, two NaN where
    /// either is.
    pub max_sum: Option<A>,
    /// [B, Hq, Nq], if asked for; 0 for a row without a visible key.
    pub entropy: Option<A>,
    /// [B, Hq, Nq, Nk], if asked for.
    pub scores: Option<A>,
    /// `past_key` and `key` concatenated, [B, Hkv, P + Nk, D], if there was a past.
    pub present_key: Option<A>,
    /// `past_value` and `value` concatenated, if there was a past.
    pub present_value: Option<A>,
}

impl<A> AttentionOutputs<A> {
    /// The tensors there are, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &A)> {
        let optional = [
            ("weights", &self.weights),
            ("lse", &self.lse),
            ("max_sum", &self.max_sum),
            ("entropy", &self.entropy),
            ("scores", &self.scores),
            ("present_key", &self.present_key),
            ("present_value", &self.present_value),
        ];
        let some = optional.into_iter().filter_map(|(name, a)| Some((name, a.as_ref()?)));
        std::iter::once(("output", &self.output)).chain(some)
    }

    /// Each tensor through a fallible function of the tensor and its name, in the order of
    /// [`AttentionOutputs::named`].
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(
        &'a self,
        mut f: impl FnMut(&'static str, &'a A) -> std::result::Result<B, E>,
    ) -> std::result::Result<AttentionOutputs<B>, E> {
        let output = f("output", &self.output)?;
        let mut opt = |name: &'static str, a: &'a Option<A>| a.as_ref().map(|a| f(name, a)).transpose();
        Ok(AttentionOutputs {
            output,
            weights: opt("weights", &self.weights)?,
            lse: opt("lse", &self.lse)?,
            max_sum: opt("max_sum", &self.max_sum)?,
            entropy: opt("entropy", &self.entropy)?,
            scores: opt("scores", &self.scores)?,
            present_key: opt("present_key", &self.present_key)?,
            present_value: opt("present_value", &self.present_value)?,
        })
    }
}
