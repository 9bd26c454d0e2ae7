//! What attention reads and gives back.

use super::Rotary;
use crate::tensor::{Array, TensorLike};

/// A mask, broadcast over [B, Hq, Nq, Nk] (rank 1 to 4). Keys past its last column are hidden.
#[derive(Debug, Clone, PartialEq)]
pub enum Mask<A: TensorLike> {
    /// Nonzero = attend. On the GPU a [`DType::U32`](crate::tensor::DType::U32) tensor.
    Bool(A::Integers),
    /// Added to the scores; −∞ hides.
    Float(A),
}

impl<A: TensorLike> Mask<A> {
    pub(crate) fn try_map<'a, B: TensorLike, E>(
        &'a self,
        numbers: impl FnOnce(&'a A) -> std::result::Result<B, E>,
        integers: impl FnOnce(&'a A::Integers) -> std::result::Result<B::Integers, E>,
    ) -> std::result::Result<Mask<B>, E> {
        Ok(match self {
            Self::Bool(a) => Mask::Bool(integers(a)?),
            Self::Float(a) => Mask::Float(numbers(a)?),
        })
    }
}

impl Mask<&[usize]> {
    /// The same for as long as wanted.
    pub(crate) fn reborrow(&self) -> Mask<&[usize]> {
        match *self {
            Self::Bool(shape) => Mask::Bool(shape),
            Self::Float(shape) => Mask::Float(shape),
        }
    }
}

impl<A: TensorLike<Integers = A>> Mask<A> {
    /// The tensor inside.
    pub fn tensor(&self) -> &A {
        match self {
            Self::Bool(a) | Self::Float(a) => a,
        }
    }
}

impl<T> Mask<Array<T>> {
    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Bool(a) => a.shape(),
            Self::Float(a) => a.shape(),
        }
    }
}

/// Parameters of the score function.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreWeights<A> {
    /// `Score::General`: [Dq, Dk]. `Score::Concat`: [A, Dq + Dk].
    pub weight: Option<A>,
    /// `Score::Additive` and `Score::Location`: Wq [A, Dq].
    pub query_weight: Option<A>,
    /// `Score::Additive` and `Score::Location`: Wk [A, Dk].
    pub key_weight: Option<A>,
    /// `Score::Additive`, `Score::Concat` and `Score::Location`: v `[A]`.
    pub v: Option<A>,
    /// `Score::Additive`, `Score::Concat` and `Score::Location`: b `[A]`.
    pub bias: Option<A>,
    /// Beside v: g `[1]`, and v is replaced by g · v / ‖v‖, 0 where the norm is 0 (Salimans and Kingma 2016, "Weight
    /// Normalization"; TensorFlow's `BahdanauAttention(normalize=True)`).
    pub g: Option<A>,
    /// `Score::Location`: the filter F [C, W], C channels of width W.
    pub location_filter: Option<A>,
    /// `Score::Location`: U [A, C].
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
    /// The tensors there are, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &A)> {
        let all = [
            ("score.weight", &self.weight),
            ("score.query_weight", &self.query_weight),
            ("score.key_weight", &self.key_weight),
            ("score.v", &self.v),
            ("score.bias", &self.bias),
            ("score.g", &self.g),
            ("score.location_filter", &self.location_filter),
            ("score.location_weight", &self.location_weight),
        ];
        all.into_iter().filter_map(|(name, a)| Some((name, a.as_ref()?)))
    }

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
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a)));
        mapped
    }
}

/// Keys and values that stand before the new ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Past<A> {
    /// [B, Hkv, P, D].
    pub key: A,
    /// [B, Hkv, P, Dv].
    pub value: A,
}

/// Where each of S sequences begins, and where the last one ends, by FlashAttention's name. Ends past the last token mean
/// the last token. Of a list that descends nothing is said of which tokens see which.
#[derive(Debug, Clone, PartialEq)]
pub struct CuSeqlens<I> {
    /// `[S + 1]`: among the queries.
    pub q: I,
    /// `[S + 1]`: among the keys; a sequence that ends before it begins has none.
    pub k: I,
}

/// A mask of blocks (PyTorch FlexAttention's `BlockMask`).
#[derive(Debug, Clone, PartialEq)]
pub struct BlockMask<I> {
    /// [B, Hq, ⌈Nq / queries⌉, ⌈Nk / keys⌉], each axis but the last two may be 1: a zero hides every pair of a block.
    pub mask: I,
    /// Queries and keys of a block.
    pub size: [usize; 2],
}

/// A rotary embedding and its tables.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryEmbedding<A> {
    /// Pairs and offset.
    pub options: Rotary,
    /// [positions, width / 2]: cosines.
    pub cos: A,
    /// [positions, width / 2]: sines.
    pub sin: A,
}

impl<A> RotaryEmbedding<A> {
    /// From tables such as [`Rotary::tables`].
    pub fn new(options: Rotary, [cos, sin]: [A; 2]) -> Self {
        Self { options, cos, sin }
    }
}

/// The tensors that attention reads; `A` is a GPU tensor, a view in a recording, a host array or a bare shape, and lengths,
/// boolean masks, and block tables are the integers beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionInputs<A: TensorLike> {
    /// [B, Hq, Nq, D].
    pub query: A,
    /// [B, Hkv, Nk, D]; Hq is a multiple of Hkv, query head h reads key head ⌊h / (Hq / Hkv)⌋.
    pub key: A,
    /// [B, Hkv, Nk, Dv].
    pub value: A,
    /// Which keys each query attends to, or what is added to its scores.
    pub mask: Option<Mask<A>>,
    /// Keys and values that come before `key` and `value`.
    pub past: Option<Past<A>>,
    /// `[B]`: how many keys of each batch row are valid; more than Nk are Nk. They move the queries' positions, see the
    /// [module's docs](super): a padded batch has `query_lengths` too. Not with a past: they count the keys of a cache that
    /// contains it already (ONNX `nonpad_kv_seqlen`).
    pub kv_lengths: Option<A::Integers>,
    /// `[B]`: how many queries of each batch row are valid; the others have no visible key. More than Nq are Nq.
    pub query_lengths: Option<A::Integers>,
    /// The sequences of a ragged batch; B is 1 then.
    pub cu_seqlens: Option<CuSeqlens<A::Integers>>,
    /// Blocks of queries and keys that are hidden, and then not computed.
    pub block_mask: Option<BlockMask<A::Integers>>,
    /// [B, pages]: which page of `key` [page count, Hkv, page size, D] and `value` holds each block of a batch row's
    /// keys (vLLM, FlashAttention `block_table`). Nk is pages · page size; `kv_lengths` says how many are valid. Entries
    /// past the last valid key are ignored; those past the page count read the last page. `upload` refuses these.
    pub block_table: Option<A::Integers>,
    /// Rotary position embedding of query and key.
    pub rotary: Option<RotaryEmbedding<A>>,
    /// The alignment before each query: [B, Hq, Nq, Nk] for `Score::Location`; [B, Hq, 1, Nk], before the first, for
    /// `Normalize::Monotonic`. Read at the K keys of the batch row, 0 beyond them.
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

impl<A: TensorLike> AttentionInputs<A> {
    /// Query, key and value, nothing else.
    pub fn new(query: A, key: A, value: A) -> Self {
        Self {
            query,
            key,
            value,
            mask: None,
            past: None,
            kv_lengths: None,
            query_lengths: None,
            cu_seqlens: None,
            block_mask: None,
            block_table: None,
            rotary: None,
            previous: None,
            alibi_slopes: None,
            sinks: None,
            score: ScoreWeights::default(),
        }
    }

    /// Each tensor through a fallible function of the tensor and its name: one for tensors of numbers, one for those of
    /// integers.
    ///
    /// # Errors
    /// The first error of either.
    pub fn try_map<'a, B: TensorLike, E>(
        &'a self,
        mut numbers: impl FnMut(&'static str, &'a A) -> std::result::Result<B, E>,
        mut integers: impl FnMut(&'static str, &'a A::Integers) -> std::result::Result<B::Integers, E>,
    ) -> std::result::Result<AttentionInputs<B>, E> {
        let (f, g) = (&mut numbers, &mut integers);
        Ok(AttentionInputs {
            query: f("query", &self.query)?,
            key: f("key", &self.key)?,
            value: f("value", &self.value)?,
            mask: self.mask.as_ref().map(|m| m.try_map(|a| f("mask", a), |a| g("mask", a))).transpose()?,
            past: match &self.past {
                Some(past) => Some(Past { key: f("past_key", &past.key)?, value: f("past_value", &past.value)? }),
                None => None,
            },
            kv_lengths: optional("kv_lengths", &self.kv_lengths, g)?,
            query_lengths: optional("query_lengths", &self.query_lengths, g)?,
            cu_seqlens: match &self.cu_seqlens {
                Some(CuSeqlens { q, k }) => Some(CuSeqlens { q: g("cu_seqlens_q", q)?, k: g("cu_seqlens_k", k)? }),
                None => None,
            },
            block_mask: match &self.block_mask {
                Some(BlockMask { mask, size }) => Some(BlockMask { mask: g("block_mask", mask)?, size: *size }),
                None => None,
            },
            block_table: optional("block_table", &self.block_table, g)?,
            rotary: match &self.rotary {
                Some(RotaryEmbedding { options, cos, sin }) => {
                    let (cos, sin) = (f("rotary_cos", cos)?, f("rotary_sin", sin)?);
                    Some(RotaryEmbedding { options: *options, cos, sin })
                }
                None => None,
            },
            previous: optional("previous", &self.previous, f)?,
            alibi_slopes: optional("alibi_slopes", &self.alibi_slopes, f)?,
            sinks: optional("sinks", &self.sinks, f)?,
            score: self.score.try_map(f)?,
        })
    }

    /// Each tensor through a function: one for tensors of numbers, one for those of integers.
    pub fn map<'a, B: TensorLike>(
        &'a self,
        mut numbers: impl FnMut(&'a A) -> B,
        mut integers: impl FnMut(&'a A::Integers) -> B::Integers,
    ) -> AttentionInputs<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(numbers(a)), |_, a| Ok(integers(a)));
        mapped
    }

    /// Each tensor of numbers through a function, integers as they are: host arrays of another element type.
    pub fn map_numbers<'a, B: TensorLike<Integers = A::Integers>>(
        &'a self,
        numbers: impl FnMut(&'a A) -> B,
    ) -> AttentionInputs<B> {
        self.map(numbers, A::Integers::clone)
    }
}

/// A tensor that may be missing through a function that is told its name.
fn optional<'a, A, B, E>(
    name: &'static str,
    a: &'a Option<A>,
    f: &mut impl FnMut(&'static str, &'a A) -> std::result::Result<B, E>,
) -> std::result::Result<Option<B>, E> {
    a.as_ref().map(|a| f(name, a)).transpose()
}

impl AttentionInputs<Array<f32>> {
    /// Whether entry `at` (row-major) of a block table of so many columns names the page of a real key, before `kv_lengths`;
    /// other entries may hold anything.
    pub fn is_real_page(&self, at: usize, columns: usize) -> bool {
        let (columns, size) = (columns.max(1), self.key.shape().get(2).copied().unwrap_or(0));
        let length = self.kv_lengths.as_ref().and_then(|lengths| lengths.data().get(at / columns));
        length.is_none_or(|&length| (at % columns) * size < length as usize)
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
