//! The running sum of alignments.
//!
//! Sources: See et al. 2017, "Get To The Point", eq. 10 to 12; Xu et al. 2015, "Show, Attend and Tell", eq. 14.

use super::Float;
use crate::coverage::CoverageCost;
use crate::error::{Error, Result};
use crate::tensor::Array;

/// The running sum `before + alignment` of alignments [B, Nk], and what each row of it costs, `[B]`. Without `before` it is
/// zeros.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit.
pub fn coverage<T: Float>(
    alignment: &Array<T>,
    before: Option<&Array<T>>,
    cost: CoverageCost,
) -> Result<(Array<T>, Array<T>)> {
    let &[rows, keys] = alignment.shape() else {
        return Err(Error::shape("alignment", "rank", "2 [B, Nk]", alignment.shape().len()));
    };
    let zeros = Array::filled(&[rows, keys], T::ZERO);
    let before = before.unwrap_or(&zeros);
    if before.shape() != alignment.shape() {
        return Err(Error::shape("coverage", "shape", format!("[{rows}, {keys}]"), format!("{:?}", before.shape())));
    }
    let after = Array::from_fn(&[rows, keys], |k| before.data()[k] + alignment.data()[k]);
    let of_row = |b: usize| {
        (b * keys..(b + 1) * keys).map(|k| match cost {
            CoverageCost::Overlap if alignment.data()[k] < before.data()[k] => alignment.data()[k],
            CoverageCost::Overlap => before.data()[k],
            CoverageCost::DoublyStochastic { .. } => (T::ONE - after.data()[k]) * (T::ONE - after.data()[k]),
        })
    };
    let factor = match cost {
        CoverageCost::Overlap => T::ONE,
        CoverageCost::DoublyStochastic { factor } => T::from_f32(factor),
    };
    let costs = Array::from_fn(&[rows], |b| factor * of_row(b).sum::<T>());
    Ok((after, costs))
}
