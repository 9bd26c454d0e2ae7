//! Attention with its numbers checked.

use super::options::{check_blocks, check_options, check_previous, check_rotary, check_slopes, paged, ragged};
use super::score::check_score;
use super::{bounded, nonzero, rank4, same, vector};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs, Causal, Past, Score, ScoreMod};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Attention with its numbers checked.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct AttentionProblem {
    /// B: batch rows.
    pub batch: usize,
    /// Hq: query heads.
    pub query_heads: usize,
    /// Hkv: key and value heads; divides `query_heads`.
    pub kv_heads: usize,
    /// Nq: queries.
    pub queries: usize,
    /// Nk: keys, the past included.
    pub keys: usize,
    /// P: keys of the past.
    pub past: usize,
    /// D of the query as given.
    pub query_dim: usize,
    /// D of the key as given.
    pub key_dim: usize,
    /// Length over which query and key are compared: D, or A after the projections of an additive score.
    pub score_dim: usize,
    /// Dv.
    pub value_dim: usize,
    /// What the scores are multiplied with.
    pub scale: f32,
    /// Columns of the mask; keys past them are hidden. Nk without a mask.
    pub mask_keys: usize,
    /// S: sequences of a ragged batch.
    pub sequences: Option<usize>,
    /// Keys in one page of a paged cache.
    pub page: Option<usize>,
    /// Queries and keys of one entry of a block mask.
    pub block: Option<[usize; 2]>,
    /// Whether query and key are turned by a rotary embedding.
    pub rotary: bool,
}

impl AttentionProblem {
    /// Checks options and shapes against each other.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] with the first rule that is broken.
    pub fn new(options: &Attention, inputs: &AttentionInputs<&[usize]>) -> Result<Self> {
        let [batch, query_heads, queries, query_dim] = rank4("query", "[B, Hq, Nq, D]", inputs.query)?;
        let [key_batch, kv_heads, new_keys, key_dim] = rank4("key", "[B, Hkv, Nk, D]", inputs.key)?;
        let [value_batch, value_heads, value_keys, value_dim] = rank4("value", "[B, Hkv, Nk, Dv]", inputs.value)?;
        if inputs.block_table.is_none() {
            same("key", "axis 0 (batch)", batch, key_batch)?;
        }
        same("value", "axis 0 (batch)", key_batch, value_batch)?;
        same("value", "axis 1 (heads)", kv_heads, value_heads)?;
        same("value", "axis 2 (keys)", new_keys, value_keys)?;
        if query_heads % kv_heads != 0 {
            return Err(Error::shape(
                "query",
                "axis 1 (heads)",
                format!("a multiple of key's {kv_heads} heads"),
                query_heads,
            ));
        }

        let page = paged(options, inputs, batch, new_keys)?;
        let past = match &inputs.past {
            None => 0,
            Some(Past { key, value }) => {
                past_length("past_key", key, [batch, kv_heads, key_dim])?;
                let length = past_length("past_value", value, [batch, kv_heads, value_dim])?;
                same("past_value", "axis 2 (keys)", key[2], length)?;
                length
            }
        };
        if past > 0 && inputs.kv_lengths.is_some() {
            return Err(Error::option(
                "kv_lengths",
                "cannot stand beside past_key and past_value: join the cache first, or leave the lengths out",
            ));
        }
        let keys = page.map_or(past + new_keys, |(pages, size)| pages * size);
        let sequences = ragged(options, inputs, batch)?;

        let mask_keys = match &inputs.mask {
            None => keys,
            Some(mask) => check_mask(mask.tensor(), [batch, query_heads, queries, keys])?,
        };
        vector("kv_lengths", inputs.kv_lengths, batch, "batch")?;
        vector("query_lengths", inputs.query_lengths, batch, "batch")?;
        check_slopes(inputs.alibi_slopes, batch, sequences, query_heads)?;
        vector("sinks", inputs.sinks, query_heads, "query heads")?;

        check_blocks(inputs.block_mask.as_ref(), [batch, query_heads, queries, keys])?;
        let score_dim = check_score(options.score, &inputs.score, query_dim, key_dim)?;
        check_previous(options, inputs.previous, [batch, query_heads, queries, keys])?;
        check_options(options, inputs)?;
        options.score_mod.as_ref().map_or(Ok(()), ScoreMod::check)?;
        let dims = score_dim + query_dim + key_dim + value_dim;
        // Pairs, what projections make of rows, and what a location-sensitive score makes of a key for each query.
        let filter = inputs.score.location_filter.map_or(1, |shape| shape.iter().product());
        bounded(
            "an attention",
            &[
                &[batch, query_heads, queries, keys, dims],
                &[batch, query_heads, queries.max(keys), score_dim, query_dim + key_dim],
                &[batch, query_heads, queries, keys, if inputs.previous.is_some() { score_dim } else { 1 }, filter],
                &[inputs.key[0], kv_heads, new_keys, dims],
            ],
        )?;
        let longest = if sequences.is_some() { 1 } else { keys.max(past + queries) };
        check_rotary(inputs.rotary.as_ref(), query_dim.min(key_dim), longest)?;
        let scale = options.scale.unwrap_or(match options.score {
            Score::ScaledDot => 1.0 / (query_dim as f32).sqrt(),
            _ => 1.0,
        });
        Ok(Self {
            batch,
            query_heads,
            kv_heads,
            queries,
            keys,
            past,
            query_dim,
            key_dim,
            score_dim,
            value_dim,
            scale,
            mask_keys,
            sequences,
            page: page.map(|(_, size)| size),
            block: inputs.block_mask.as_ref().map(|mask| mask.size),
            rotary: inputs.rotary.is_some(),
        })
    }

    /// Query heads that share one key head.
    pub fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }

    /// Checks the element types of GPU tensors and returns those that they are stored as.
    ///
    /// # Errors
    /// [`Error::Shape`] with axis `dtype`.
    pub fn storage(inputs: &AttentionInputs<DType>) -> Result<Storage> {
        inputs.query.check_float("query")?;
        let mut storage = Storage::from(inputs.query);
        if inputs.key == DType::Q8 {
            storage.cache = DType::Q8;
        }
        let check = |name: &str, wanted: DType, found: DType| match found == wanted {
            true => Ok(()),
            false => Err(Error::shape(name, "dtype", wanted, found)),
        };
        inputs.try_map::<(), _>(
            |name, &found| check(name, Role::of(name).dtype(storage), found),
            |name, &found| check(name, DType::U32, found),
        )?;
        Ok(storage)
    }

    /// Shape and type of every result; `has_past` is whether there is [`AttentionInputs::past`].
    pub fn outputs(
        &self,
        options: &Attention,
        element: DType,
        has_past: bool,
    ) -> AttentionOutputs<(Vec<usize>, DType)> {
        let rows = [self.batch, self.query_heads, self.queries];
        let pairs = [self.batch, self.query_heads, self.queries, self.keys];
        let present = |dim| has_past.then(|| (vec![self.batch, self.kv_heads, self.keys, dim], element));
        let optional = |wanted: bool, shape: &[usize]| wanted.then(|| (shape.to_vec(), DType::F32));
        AttentionOutputs {
            output: ([&rows[..], &[self.value_dim]].concat(), element),
            weights: optional(options.weights, &pairs),
            lse: optional(options.lse, &rows),
            max_sum: optional(options.max_sum, &[&rows[..], &[2]].concat()),
            entropy: optional(options.entropy, &rows),
            scores: optional(options.scores.is_some(), &pairs),
            present_key: present(self.key_dim),
            present_value: present(self.value_dim),
        }
    }
}

/// Element types of attention's tensors on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Storage {
    /// Query, past, output: f32 or f16.
    pub element: DType,
    /// Key and value: as the query, or q8.
    pub cache: DType,
}

impl From<DType> for Storage {
    /// All alike.
    fn from(element: DType) -> Self {
        Self { element, cache: element }
    }
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.cache == self.element {
            true => self.element.fmt(f),
            false => write!(f, "{}, cache {}", self.element, self.cache),
        }
    }
}

/// How a tensor of numbers is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Stored as the caller chose, f32 or f16: query and the past.
    Stored,
    /// Key and value, which may be q8 as well.
    Cached,
    /// f32 always.
    Float,
}

impl Role {
    /// Of the tensor of numbers that [`AttentionInputs::try_map`] calls by this name.
    pub fn of(name: &str) -> Self {
        match name {
            "query" | "past_key" | "past_value" => Self::Stored,
            "key" | "value" => Self::Cached,
            _ => Self::Float,
        }
    }

    /// Element type on the GPU.
    pub fn dtype(self, storage: impl Into<Storage>) -> DType {
        let storage = storage.into();
        match self {
            Self::Stored => storage.element,
            Self::Cached => storage.cache,
            Self::Float => DType::F32,
        }
    }
}

/// The offset of the diagonal: key j is at the query's own position when j = i + offset.
///
/// `length` is the batch row's key length, when lengths are given.
pub fn diagonal(options: &Attention, problem: &AttentionProblem) -> i64 {
    match options.causal {
        Some(Causal::BottomRight) => problem.keys as i64 - problem.queries as i64,
        _ => problem.past as i64,
    }
}

/// A past is [B, Hkv, P, D] with P ≥ 0; returns P.
fn past_length(name: &str, shape: &[usize], [batch, heads, dim]: [usize; 3]) -> Result<usize> {
    let &[b, h, length, d] = shape else {
        return Err(Error::shape(name, "rank", "4 [B, Hkv, P, D]", format!("{} {shape:?}", shape.len())));
    };
    same(name, "axis 0 (batch)", batch, b)?;
    same(name, "axis 1 (heads)", heads, h)?;
    same(name, "axis 3 (dim)", dim, d)?;
    // A past of no key is a past.
    nonzero(name, &[length.max(1)])?;
    Ok(length)
}

/// Broadcast over [B, Hq, Nq, Nk] by the usual rules, except that the last axis may be shorter than Nk (but a last
/// axis of 1 is repeated); returns how many keys the mask covers.
pub(super) fn check_mask(shape: &[usize], full: [usize; 4]) -> Result<usize> {
    const AXES: [&str; 4] = ["batch", "query heads", "queries", "keys"];
    if shape.is_empty() || shape.len() > 4 {
        let expected = format!("1 to 4, broadcast to {full:?}");
        return Err(Error::shape("mask", "rank", expected, format!("{} {shape:?}", shape.len())));
    }
    nonzero("mask", shape)?;
    let lead = 4 - shape.len();
    for (axis, &found) in shape.iter().enumerate() {
        let (wanted, name) = (full[lead + axis], AXES[lead + axis]);
        let fits = found == wanted || found == 1 || (lead + axis == 3 && found < wanted);
        if !fits {
            return Err(Error::shape("mask", format!("axis {axis} ({name})"), format!("{wanted} or 1"), found));
        }
    }
    let last = shape[shape.len() - 1];
    Ok(if last == 1 { full[3] } else { last })
}
