//! Multi-head attention by its definition: project, split into heads, attend, join, project.
//!
//! Sources: Vaswani et al. 2017, section 3.2.2; PyTorch `nn.MultiheadAttention` (`add_bias_kv`, `add_zero_attn`: rows
//! behind the projected keys and values that every mask lets through).

use super::{Float, attention, linear};
use crate::attention::{AttentionInputs, AttentionOutputs, Mask};
use crate::error::{Error, Result};
use crate::layers::{Linear, MultiHeadAttention, MultiHeadProblem, MultiHeadWeights};
use crate::tensor::{Array, Layout};

/// A multi-head layer over host arrays.
///
/// # Errors
/// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] with the first rule that is broken, and those of
/// [`attention`].
pub fn multi_head<T: Float>(
    layer: &MultiHeadAttention,
    weights: &MultiHeadWeights<Array<T>>,
    inputs: &AttentionInputs<Array<T>>,
) -> Result<AttentionOutputs<Array<T>>> {
    let p = MultiHeadProblem::new(layer, &weights.map(Array::shape), &inputs.map(Array::shape))?;
    let rows = |learned: &Option<Array<T>>, width: usize| {
        let zero = layer.add_zero_attn.then(|| vec![T::ZERO; width]);
        learned.iter().map(|row| row.data().to_vec()).chain(zero).collect::<Vec<_>>()
    };
    let (key_width, value_width) = (weights.key.weight.shape()[0], weights.value.weight.shape()[0]);
    let key = behind(&apply(&weights.key, &inputs.key)?, &rows(&weights.bias_key, key_width))?;
    let value = behind(&apply(&weights.value, &inputs.value)?, &rows(&weights.bias_value, value_width))?;
    let inside = AttentionInputs {
        query: heads(&apply(&weights.query, &inputs.query)?, layer.heads)?,
        key: heads(&key, layer.kv_heads)?,
        value: heads(&value, layer.kv_heads)?,
        mask: match &inputs.mask {
            Some(Mask::Bool(mask)) if p.extra > 0 => Some(Mask::Bool(seen_by_all(&p, mask, T::ZERO, T::ONE)?)),
            Some(Mask::Float(mask)) if p.extra > 0 => {
                Some(Mask::Float(seen_by_all(&p, mask, T::NEG_INFINITY, T::ZERO)?))
            }
            mask => mask.clone(),
        },
        ..inputs.clone()
    };
    let outputs = attention(&layer.attention, &inside)?;
    let a = &p.attention;
    let joined = outputs.output.permute(&[0, 2, 1, 3])?;
    let joined = joined.reshape(&[a.batch, a.queries, a.query_heads * a.value_dim])?;
    let weights_out = match outputs.weights {
        Some(weights) if layer.average_weights => Some(mean(&weights)?),
        weights => weights,
    };
    Ok(AttentionOutputs { output: apply(&weights.output, &joined)?, weights: weights_out, ..outputs })
}

fn apply<T: Float>(layer: &Linear<Array<T>>, x: &Array<T>) -> Result<Array<T>> {
    linear(x, &layer.weight, layer.bias.as_ref(), None)
}

/// [B, N, H·D] to [B, H, N, D].
fn heads<T: Float>(x: &Array<T>, heads: usize) -> Result<Array<T>> {
    let dim = x.shape()[2] / heads;
    x.gather(&Layout::contiguous(x.shape()).split(2, heads, dim)?.permute(&[0, 2, 1, 3])?)
}

/// The same rows behind those of every batch entry of [B, N, W].
fn behind<T: Float>(x: &Array<T>, rows: &[Vec<T>]) -> Result<Array<T>> {
    let &[batch, n, width] = x.shape() else {
        return Err(Error::shape("projection", "rank", 3, x.shape().len()));
    };
    let of = |b: usize| x.data()[b * n * width..][..n * width].iter().chain(rows.iter().flatten()).copied();
    Array::new(&[batch, n + rows.len(), width], (0..batch).flat_map(of).collect())
}

/// A mask over the projected keys and, behind them, the keys that every query sees.
fn seen_by_all<T: Float>(p: &MultiHeadProblem, mask: &Array<T>, hidden: T, visible: T) -> Result<Array<T>> {
    let width = mask.shape().last().copied().unwrap_or(1);
    let total = p.attention.keys + p.extra;
    let column = |row: &[T], j: usize| match j {
        _ if j >= p.attention.keys => visible,
        _ if width == 1 => row[0],
        _ => row.get(j).copied().unwrap_or(hidden),
    };
    let data = mask.data().chunks_exact(width).flat_map(|row| (0..total).map(move |j| column(row, j))).collect();
    Array::new(&p.mask_shape(mask.shape()), data)
}

/// [B, H, Nq, Nk] to [B, Nq, Nk].
fn mean<T: Float>(weights: &Array<T>) -> Result<Array<T>> {
    let &[batch, heads, queries, keys] = weights.shape() else {
        return Err(Error::shape("weights", "rank", 4, weights.shape().len()));
    };
    let size = queries * keys;
    let at = |b: usize, h: usize, k: usize| weights.data()[(b * heads + h) * size + k];
    let of = |k: usize| (0..heads).map(|h| at(k / size, h, k % size)).sum::<T>() / T::from_f64(heads as f64);
    Ok(Array::from_fn(&[batch, queries, keys], of))
}
