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
    let pairs = check_rotary(x.shape(), [cos.shape(), sin.shape()], positions, rotary.offset)?;
    let [heads, n, dim] = [1, 2, 3].map(|axis| x.shape()[axis]);
    let mut out = x.clone();
    if x.data().is_empty() {
        return Ok(out);
    }
    for (row, data) in out.data_mut().chunks_exact_mut(dim).enumerate() {
        let position =
            positions.map_or(row % n, |positions| positions.data()[row / (heads * n) * n + row % n] as usize);
        rotate(data, [cos.data(), sin.data()], pairs, rotary.layout, position + rotary.offset);
    }
    Ok(out)
}

/// Shapes of x, the two tables and the positions against one another: pairs that are turned.
pub(crate) fn check_rotary(
    x: &[usize],
    [cos, sin]: [&[usize]; 2],
    positions: Option<&Array<u32>>,
    offset: usize,
) -> Result<usize> {
    let &[batch, _, n, dim] = x else {
        return Err(Error::shape("x", "rank", "4 [B, H, N, D]", x.len()));
    };
    let &[rows, pairs] = cos else {
        return Err(Error::shape("cos", "rank", "2 [positions, width / 2]", cos.len()));
    };
    if sin != cos {
        return Err(Error::shape("sin", "shape", format!("{cos:?}"), format!("{sin:?}")));
    }
    if 2 * pairs > dim {
        return Err(Error::shape("cos", "axis 1 (width / 2)", format!("at most {}", dim / 2), pairs));
    }
    let last = match positions {
        None => n.checked_sub(1),
        Some(positions) => {
            if positions.shape() != [batch, n] {
                let (expected, found) = (format!("[{batch}, {n}]"), format!("{:?}", positions.shape()));
                return Err(Error::shape("positions", "shape", expected, found));
            }
            if let Some(last) = rows.checked_sub(offset.saturating_add(1)) {
                within("positions", positions, last)?;
            }
            // Of any position, the least.
            Some(0)
        }
    };
    let needed = last.map_or(0, |last| last.saturating_add(offset).saturating_add(1));
    if needed > rows {
        return Err(Error::shape("cos", "axis 0 (positions)", format!("at least {needed}"), rows));
    }
    Ok(pairs)
}

/// Turns one head of one token by row `at` of the tables [positions, pairs], by the last row where there are fewer.
pub(crate) fn rotate<T: Float>(x: &mut [T], tables: [&[T]; 2], pairs: usize, layout: RotaryLayout, at: usize) {
    let first = at.min(tables[0].len() / pairs.max(1) - 1) * pairs;
    let [cos, sin] = tables.map(|table| &table[first..first + pairs]);
    for (n, (&cos, &sin)) in cos.iter().zip(sin).enumerate() {
        let (a, b) = match layout {
            RotaryLayout::HalfSplit => (n, n + pairs),
            RotaryLayout::Interleaved => (2 * n, 2 * n + 1),
        };
        (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
    }
}
