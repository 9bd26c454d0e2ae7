//! PyTorch's two masks as one.

use crate::attention::Mask;
use crate::error::{Error, Result};
use crate::problem::same;
use crate::tensor::Array;

/// The masks of PyTorch's `MultiheadAttention` combined into one: `attn_mask` [Nq, Nk] or [B·H, Nq, Nk] and `key_padding_mask`
/// [B, Nk]. Both are given as PyTorch has them, where a true element **hides** a pair and a float is added; the result
/// [B or 1, H or 1, Nq or 1, Nk] is this crate's, where true means attend: a bool mask from bool masks, else a float
/// one. Nothing from nothing.
///
/// ```
/// use regard::attention::Mask;
/// use regard::layers::torch_mask;
/// use regard::tensor::Array;
///
/// # fn main() -> regard::Result<()> {
/// let padding = Mask::Bool(Array::new(&[2, 3], vec![0, 0, 1, 0, 0, 0])?);
/// let joined = torch_mask(None, Some(&padding), 2, 4)?;
/// assert_eq!(joined, Some(Mask::Bool(Array::new(&[2, 1, 1, 3], vec![1, 1, 0, 1, 1, 1])?)));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Shape`] when the masks do not fit each other, the batch or the heads.
pub fn torch_mask(
    attn_mask: Option<&Mask<Array<f32>>>,
    key_padding_mask: Option<&Mask<Array<f32>>>,
    batch: usize,
    heads: usize,
) -> Result<Option<Mask<Array<f32>>>> {
    let pairs = attn_mask.map(|mask| lift("attn_mask", mask, batch, heads)).transpose()?;
    let padding = key_padding_mask.map(|mask| lift("key_padding_mask", mask, batch, heads)).transpose()?;
    match (pairs, padding) {
        (None, None) => Ok(None),
        (Some(one), None) | (None, Some(one)) => Ok(Some(one)),
        (Some(pairs), Some(padding)) => join(&pairs, &padding).map(Some),
    }
}

/// One mask over [B, H, Nq, Nk], true = attend.
fn lift(name: &str, mask: &Mask<Array<f32>>, batch: usize, heads: usize) -> Result<Mask<Array<f32>>> {
    let shape = match (name, mask.shape()) {
        ("attn_mask", &[queries, keys]) => [1, 1, queries, keys],
        ("attn_mask", &[both, queries, keys]) => {
            same(name, "axis 0 (batch · heads)", batch * heads, both)?;
            [batch, heads, queries, keys]
        }
        ("attn_mask", shape) => {
            return Err(Error::shape(name, "rank", "2 [Nq, Nk] or 3 [B·H, Nq, Nk]", shape.len()));
        }
        (_, &[rows, keys]) => {
            same(name, "axis 0 (batch)", batch, rows)?;
            [batch, 1, 1, keys]
        }
        (_, shape) => return Err(Error::shape(name, "rank", "2 [B, Nk]", shape.len())),
    };
    Ok(match mask {
        Mask::Bool(mask) => Mask::Bool(mask.map(|&hidden| u32::from(hidden == 0)).reshape(&shape)?),
        Mask::Float(mask) => Mask::Float(mask.clone().reshape(&shape)?),
    })
}

/// Both over one shape: attended where both attend, or the sum.
fn join(pairs: &Mask<Array<f32>>, padding: &Mask<Array<f32>>) -> Result<Mask<Array<f32>>> {
    let (&[batch, heads, queries, keys], &[rows, _, _, found]) = (pairs.shape(), padding.shape()) else {
        return Err(Error::shape("attn_mask", "rank", 4, pairs.shape().len()));
    };
    same("key_padding_mask", "axis 1 (keys)", keys, found)?;
    let shape = [batch.max(rows), heads, queries, keys];
    let per_row = heads * queries * keys;
    let pair = |k: usize| if batch == 1 { k % per_row } else { k };
    let key = |k: usize| k / per_row * keys + k % keys;
    let added = |mask: &Mask<Array<f32>>, k: usize| match mask {
        Mask::Bool(mask) if mask.data()[k] == 0 => f32::NEG_INFINITY,
        Mask::Bool(_) => 0.0,
        Mask::Float(mask) => mask.data()[k],
    };
    Ok(match (pairs, padding) {
        (Mask::Bool(p), Mask::Bool(q)) => Mask::Bool(Array::from_fn(&shape, |k| p.data()[pair(k)] * q.data()[key(k)])),
        _ => Mask::Float(Array::from_fn(&shape, |k| added(pairs, pair(k)) + added(padding, key(k)))),
    })
}
