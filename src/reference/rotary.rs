//! Rotary position embedding (Su et al. 2021, "RoFormer", eq. 34).

use super::{Float, within};
use crate::attention::{Rotary, RotaryLayout};
use crate::error::{Error, Result};
use crate::tensor::Array;

/// Turns the rows of `x` [B, H, N, D] by the angles of the tables `cos` and `sin` [positions, width / 2] at row
/// position + offset. Without `positions` [B, N] row n of each head has position n (ONNX `RotaryEmbedding` 23).
///
/// # Errors
/// [`Error::Shape`] when an axis does not fit, or a position has no row in the tables.
pub fn rotary<T: Float>(
    x: &Array<T>,
    cos: &Array<T>,
    sin: &Array<T>,
    positions: Option<&Array<u32>>,
    rotary: Rotary,
) -> Result<Array<T>> {
    let &[batch, heads, n, dim] = x.shape() else {
        return Err(Error::shape("x", "rank", "4 [B, H, N, D]", x.shape().len()));
    };
    let &[rows, pairs] = cos.shape() else {
        return Err(Error::shape("cos", "rank", "2 [positions, width / 2]", cos.shape().len()));
    };
    if sin.shape() != cos.shape() {
        return Err(Error::shape("sin", "shape", format!("{:?}", cos.shape()), format!("{:?}", sin.shape())));
    }
    if 2 * pairs > dim {
        return Err(Error::shape("cos", "axis 1 (width / 2)", format!("at most {}", dim / 2), pairs));
    }
    let positions = match positions {
        None => {
            let needed = rotary.offset.saturating_add(n);
            if rows < needed {
                return Err(Error::shape("cos", "axis 0 (positions)", format!("at least {needed}"), rows));
            }
            (0..batch).flat_map(|_| 0..n).collect()
        }
        Some(positions) => {
            if positions.shape() != [batch, n] {
                let (expected, found) = (format!("[{batch}, {n}]"), format!("{:?}", positions.shape()));
                return Err(Error::shape("positions", "shape", expected, found));
            }
            let last = rows.checked_sub(rotary.offset.saturating_add(1)).ok_or_else(|| {
                let needed = rotary.offset.saturating_add(1);
                Error::shape("cos", "axis 0 (positions)", format!("at least {needed}"), rows)
            })?;
            within("positions", positions, last)?
        }
    };
    let mut out = x.clone();
    if x.data().is_empty() {
        return Ok(out);
    }
    for (row, data) in out.data_mut().chunks_exact_mut(dim).enumerate() {
        let position = positions[row / (heads * n) * n + row % n];
        rotate(data, cos, sin, rotary.layout, position + rotary.offset);
    }
    Ok(out)
}

/// Turns one head of one token by row `at` of the tables, by the last row where there are fewer.
pub(crate) fn rotate<T: Float>(x: &mut [T], cos: &Array<T>, sin: &Array<T>, layout: RotaryLayout, at: usize) {
    let pairs = cos.shape()[1];
    let first = at.min(cos.shape()[0] - 1) * pairs;
    for n in 0..pairs {
        let (a, b) = match layout {
            RotaryLayout::HalfSplit => (n, n + pairs),
            RotaryLayout::Interleaved => (2 * n, 2 * n + 1),
        };
        let (cos, sin) = (cos.data()[first + n], sin.data()[first + n]);
        (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
    }
}
