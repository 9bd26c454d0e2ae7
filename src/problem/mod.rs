//! Every rule about ranks, axes, element types and combinations of options, checked once, before any work.
//!
//! A problem is what remains of a request when the tensors are forgotten: plain numbers that the planner and the
//! reference can rely on.

mod attention;
mod options;
mod rnn;
mod score;

pub use attention::{AttentionProblem, Role, Storage, diagonal};
pub use rnn::{RnnProblem, RnnWidths};

use crate::error::{Error, Result};

fn rank4(name: &str, expected: &str, shape: &[usize]) -> Result<[usize; 4]> {
    let found: [usize; 4] = shape
        .try_into()
        .map_err(|_| Error::shape(name, "rank", format!("4 {expected}"), format!("{} {shape:?}", shape.len())))?;
    nonzero(name, &found)?;
    Ok(found)
}

/// Multiply-adds of one problem: no device ends so many, and no product of axes further on overflows.
const MOST_WORK: u64 = 1 << 56;

/// Refuses a problem of more work than that, given as terms that are products.
fn bounded(what: &str, terms: &[&[usize]]) -> Result<()> {
    let product = |term: &&[usize]| term.iter().fold(1u64, |all, &n| all.saturating_mul(n as u64));
    let needed = terms.iter().map(product).fold(0, u64::saturating_add);
    if needed <= MOST_WORK {
        return Ok(());
    }
    Err(Error::Limit { what: format!("multiply-adds of {what}"), needed, allowed: MOST_WORK })
}

/// The longest axis there can be: sums and products of two of them do not overflow.
const LONGEST: u64 = 1 << 31;

pub(crate) fn nonzero(name: &str, shape: &[usize]) -> Result<()> {
    match shape.iter().position(|&n| n == 0 || n as u64 > LONGEST) {
        Some(axis) if shape[axis] == 0 => Err(Error::shape(name, format!("axis {axis}"), "at least 1", 0)),
        Some(axis) => Err(Error::shape(name, format!("axis {axis}"), "at most 2^31", shape[axis])),
        None => Ok(()),
    }
}

pub(crate) fn same(name: &str, axis: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::shape(name, axis, expected, found)) }
}

pub(crate) fn vector(name: &str, shape: Option<&[usize]>, expected: usize, of: &str) -> Result<()> {
    match shape {
        Some(&[found]) => same(name, &format!("axis 0 ({of})"), expected, found),
        Some(shape) => Err(Error::shape(name, "rank", format!("1 [{expected}]"), format!("{} {shape:?}", shape.len()))),
        None => Ok(()),
    }
}

/// Refuses what scores cannot be divided by. Devices may take numbers below the normal ones for 0.
pub(crate) fn temperature(x: f32) -> Result<()> {
    const LEAST: f32 = f32::MIN_POSITIVE;
    let reason = if !x.is_finite() {
        format!("must be finite, not {x}")
    } else if x <= 0.0 {
        format!("must be above 0, not {x}")
    } else if x < LEAST {
        format!("must be at least {LEAST:?}, the smallest normal f32, not {x:?}")
    } else {
        return Ok(());
    };
    Err(Error::option("temperature", reason))
}

#[cfg(test)]
mod tests {
    use super::attention::check_mask;
    use super::*;
    use crate::attention::{Attention, AttentionInputs};
    use crate::rnn::RnnWeights;
    use crate::rnn::{Cell, Rnn, RnnInputs};

    fn attention(query: &[usize], key: &[usize], value: &[usize]) -> Result<AttentionProblem> {
        AttentionProblem::new(&Attention::default(), &AttentionInputs::new(query, key, value))
    }

    #[test]
    fn the_door_names_tensor_axis_expected_and_found() {
        let error = attention(&[2, 4, 5, 8], &[2, 4, 6, 7], &[2, 4, 6, 8]).unwrap_err();
        assert_eq!(error.to_string(), "`key` axis 3 (head dim): expected 8, found 7");
        let error = attention(&[2, 4, 8], &[2, 4, 6, 8], &[2, 4, 6, 8]).unwrap_err();
        assert_eq!(error.to_string(), "`query` rank: expected 4 [B, Hq, Nq, D], found 3 [2, 4, 8]");
        let error = attention(&[2, 4, 5, 8], &[2, 3, 6, 8], &[2, 3, 6, 8]).unwrap_err();
        assert_eq!(error.to_string(), "`query` axis 1 (heads): expected a multiple of key's 3 heads, found 4");
        let error = attention(&[2, 4, 0, 8], &[2, 4, 6, 8], &[2, 4, 6, 8]).unwrap_err();
        assert_eq!(error.to_string(), "`query` axis 2: expected at least 1, found 0");
    }

    #[test]
    fn masks_broadcast_and_may_be_short() {
        let full = [2, 3, 4, 5];
        assert_eq!(check_mask(&[5], full).unwrap(), 5);
        assert_eq!(check_mask(&[4, 3], full).unwrap(), 3);
        assert_eq!(check_mask(&[2, 1, 4, 1], full).unwrap(), 5);
        assert!(check_mask(&[2, 2, 4, 5], full).is_err());
        assert!(check_mask(&[6], full).is_err());
        assert!(check_mask(&[1, 2, 3, 4, 5], full).is_err());
    }

    #[test]
    fn recurrent_weights_are_checked_layer_by_layer() {
        let weights = |ih: &'static [usize], hh: &'static [usize]| RnnWeights::new(ih, hh);
        let options = Rnn::new(Cell::Lstm);
        let inputs = RnnInputs::new(&[7, 2, 3][..]);
        let good = vec![vec![weights(&[16, 3], &[16, 4])], vec![weights(&[16, 4], &[16, 4])]];
        let problem = RnnProblem::new(&options, &good, &inputs).unwrap();
        assert_eq!((problem.hidden, problem.layers, problem.inputs), (4, 2, vec![3, 4]));
        let bad = vec![vec![weights(&[16, 3], &[16, 4])], vec![weights(&[16, 3], &[16, 4])]];
        let error = RnnProblem::new(&options, &bad, &inputs).unwrap_err();
        assert_eq!(error.to_string(), "`weight_ih_l1` axis 1 (input): expected 4, found 3");
        assert!(RnnProblem::new(&options, &vec![], &inputs).is_err());
        // The width of the input is known from the weights alone when they are uploaded.
        let empty = vec![vec![weights(&[16, 0], &[16, 4])]];
        let error = RnnProblem::check_weights(&options, &empty, 0).unwrap_err();
        assert_eq!(error.to_string(), "`weight_ih_l0` axis 1: expected at least 1, found 0");
    }
}
