//! Which keys a query may see, and what the mask adds to their scores.

use super::super::{Float, lengths};
use crate::attention::{Attention, AttentionInputs, BlockMask, Causal, CuSeqlens, Mask};
use crate::error::{Error, Result};
use crate::problem::AttentionProblem;
use crate::tensor::{Array, Layout};

/// A query or a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Token {
    /// The sequence it belongs to: the batch row's only one, or one of a ragged batch. None for padding.
    pub(super) sequence: Option<usize>,
    /// pos(i) of a query, j of a key: counted from the start of its sequence.
    pub(super) position: i64,
}

pub(super) struct Visibility<'a, T> {
    options: &'a Attention,
    problem: &'a AttentionProblem,
    /// [B][Nq].
    pub(super) queries: Vec<Vec<Token>>,
    /// [B][Nk].
    pub(super) keys: Vec<Vec<Token>>,
    /// The mask's elements under [B, Hq, Nq, mask_keys].
    mask: Option<(&'a Mask<Array<T>>, Layout)>,
    /// The block mask's elements under [B, Hq, blocks, blocks], and the queries and keys of a block.
    blocks: Option<(&'a [u32], Layout, [usize; 2])>,
}

impl<'a, T: Float> Visibility<'a, T> {
    pub(super) fn new(
        options: &'a Attention,
        inputs: &'a AttentionInputs<Array<T>>,
        p: &'a AttentionProblem,
    ) -> Result<Self> {
        let (queries, keys) = tokens(options, inputs, p)?;
        let layout = |shape: &[usize], full: [usize; 4]| Layout::contiguous(shape).broadcast(&full);
        let mask = match &inputs.mask {
            None => None,
            Some(mask) => Some((mask, layout(mask.shape(), [p.batch, p.query_heads, p.queries, p.mask_keys])?)),
        };
        let blocks = match &inputs.block_mask {
            Some(BlockMask { mask, size }) => {
                let full = [p.batch, p.query_heads, p.queries.div_ceil(size[0]), p.keys.div_ceil(size[1])];
                Some((mask.data(), layout(mask.shape(), full)?, *size))
            }
            None => None,
        };
        Ok(Self { options, problem: p, queries, keys, mask, blocks })
    }

    /// What the mask adds, or nothing where the key is hidden.
    pub(super) fn bias(&self, [b, h, i, j]: [usize; 4]) -> Option<T> {
        let (query, key) = (self.queries[b][i], self.keys[b][j]);
        let together = query.sequence.is_some() && query.sequence == key.sequence;
        let (own, position) = (query.position, key.position);
        let in_past = self.options.causal.is_none() || position <= own;
        let in_window = self.options.window.is_none_or(|window| {
            let near = window.left.is_none_or(|left| position >= own - i64::from(left))
                && window.right.is_none_or(|right| position <= own + i64::from(right));
            near || position < i64::from(window.sink_tokens)
        });
        let in_block = self
            .blocks
            .as_ref()
            .is_none_or(|(mask, layout, [queries, keys])| mask[index(layout, [b, h, i / queries, j / keys])] != 0);
        if !(together && in_past && in_window && in_block && j < self.problem.mask_keys) {
            return None;
        }
        match &self.mask {
            None => Some(T::ZERO),
            Some((Mask::Bool(mask), layout)) => (mask.data()[index(layout, [b, h, i, j])] != 0).then_some(T::ZERO),
            Some((Mask::Float(mask), layout)) => {
                Some(mask.data()[index(layout, [b, h, i, j])]).filter(|&bias| bias != T::NEG_INFINITY)
            }
        }
    }
}

fn index(layout: &Layout, at: [usize; 4]) -> usize {
    at.iter().zip(&layout.strides).map(|(i, stride)| i * stride).sum()
}

/// The queries and keys of each batch row. A query's own position is i + K − Q where lengths are given for the keys or
/// the diagonal ends at the bottom right, else i + P (ONNX `Attention` 24; FlashAttention for the bottom right).
#[expect(clippy::type_complexity)]
fn tokens<T: Float>(
    options: &Attention,
    inputs: &AttentionInputs<Array<T>>,
    p: &AttentionProblem,
) -> Result<(Vec<Vec<Token>>, Vec<Vec<Token>>)> {
    let bottom_right = options.causal == Some(Causal::BottomRight);
    if let Some(CuSeqlens { q, k }) = &inputs.cu_seqlens {
        let (queries, keys) = (ends("cu_seqlens_q", q, p.queries)?, ends("cu_seqlens_k", k, p.keys)?);
        let diagonal = |n: usize| if bottom_right { length(&keys, n) - length(&queries, n) } else { 0 };
        return Ok((vec![packed(&queries, p.queries, diagonal)], vec![packed(&keys, p.keys, |_| 0)]));
    }
    let kv_lengths = lengths("kv_lengths", inputs.kv_lengths.as_ref(), p.keys)?;
    let query_lengths = lengths("query_lengths", inputs.query_lengths.as_ref(), p.queries)?;
    let row = |b: usize| {
        let keys = kv_lengths.as_ref().map_or(p.keys, |lengths| lengths[b]);
        let queries = query_lengths.as_ref().map_or(p.queries, |lengths| lengths[b]);
        let diagonal = if kv_lengths.is_some() || bottom_right { keys as i64 - queries as i64 } else { p.past as i64 };
        let padded = |count: usize, real: usize, diagonal: i64| -> Vec<Token> {
            let token = |k: usize| Token { sequence: (k < real).then_some(0), position: k as i64 + diagonal };
            (0..count).map(token).collect()
        };
        (padded(p.queries, queries, diagonal), padded(p.keys, keys, 0))
    };
    Ok((0..p.batch).map(row).unzip())
}

/// Where sequences begin and the last one ends, none past the tokens.
pub(crate) fn ends(name: &str, array: &Array<u32>, tokens: usize) -> Result<Vec<usize>> {
    let ends = array.data();
    match ends.windows(2).position(|pair| pair[0] > pair[1]) {
        Some(n) => {
            let expected = format!("at least {}, where the sequence begins", ends[n]);
            Err(Error::shape(name, format!("row {}", n + 1), expected, ends[n + 1]))
        }
        None => Ok(ends.iter().map(|&end| (end as usize).min(tokens)).collect()),
    }
}

fn length(ends: &[usize], n: usize) -> i64 {
    ends[n + 1] as i64 - ends[n] as i64
}

/// The tokens of packed sequences.
fn packed(ends: &[usize], tokens: usize, diagonal: impl Fn(usize) -> i64) -> Vec<Token> {
    let token = |t: usize| match ends.windows(2).position(|ends| (ends[0]..ends[1]).contains(&t)) {
        Some(n) => Token { sequence: Some(n), position: (t - ends[n]) as i64 + diagonal(n) },
        None => Token { sequence: None, position: 0 },
    };
    (0..tokens).map(token).collect()
}
