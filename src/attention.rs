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
//! Ragged batches. With `cu_seqlens` the batch axis is 1 and the sequences are packed one after the other: sequence n has
//! queries `cu_seqlens.q[n] .. cu_seqlens.q[n + 1]` and keys likewise. A query attends to keys of its own
//! sequence only, and positions count from the sequence's start: K and Q above are the sequence's own, and the offset
//! is K − Q for [`Causal::BottomRight`], else 0 (FlashAttention, `flash_attn_varlen_func`, whose window without causal
//! masking counts from K − Q as well: give such batches as rows with `kv_lengths` and `query_lengths`). Both lists
//! ascend; ends past the last token mean the last token. A token in no sequence attends to nothing, and nothing attends to it. The
//! indices i and j of masks, block masks and `score_mod` are those of the packed tensors.

mod inputs;

pub use inputs::{AttentionInputs, AttentionOutputs, BlockMask, CuSeqlens, Mask, Past, RotaryEmbedding, ScoreWeights};

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
/// for each pair n, with cos and sin at row (position + offset), column n of the tables [positions, width / 2], or at their
/// last row where they have fewer. Element 2 · (columns of the tables) of a head and those after it stay as they are. In
/// attention a query's position is pos(i), at least 0, and a key's is j; a past is taken as rotated already, and
/// `present_key` is rotated.
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
