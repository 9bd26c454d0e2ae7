//! Attention and recurrences on the CPU, as the papers and operator specifications write them.
//!
//! In f64 this is the oracle that every kernel is judged by; in f32 it is the honest baseline, and what computes when
//! there is no GPU. Sums run in index order, the loops inside go over contiguous rows, and rows or batch entries are
//! shared out to every core under the feature `parallel`; nothing else is clever. Lengths, ids and masks of true and
//! false are host arrays of u32.

mod attention;
mod cache;
mod coverage;
mod float;
mod linear;
mod merge;
mod monotonic;
mod norm;
mod normalize;
mod parallel;
mod rnn;
mod rotary;

pub use attention::attention;
#[cfg(feature = "cpu")]
pub(crate) use attention::ends;
pub use cache::append;
pub(crate) use cache::append_in_place;
#[cfg(feature = "cpu")]
pub(crate) use cache::join;
pub use coverage::coverage;
pub use float::Float;
pub use linear::{activate, embed, linear};
pub use merge::{merge, merge_max_sum};
pub use norm::{log_sum_exp, norm, reduce, top_k};
#[cfg(feature = "cpu")]
pub(crate) use normalize::entropy;
pub use normalize::{gumbel, hardmax, log_softmax, softmax, sparsemax};
pub use rnn::rnn;
pub use rotary::rotary;
#[cfg(feature = "cpu")]
pub(crate) use rotary::{check_rotary, rotate};

use crate::error::{Error, Result};
use crate::tensor::Array;

/// A `[B]` array of lengths, each at most `longest`.
pub(crate) fn lengths(name: &str, array: Option<&Array<u32>>, longest: usize) -> Result<Option<Vec<usize>>> {
    array.map(|array| within(name, array, longest)).transpose()
}

/// Integers that are at most `largest`.
fn within(name: &str, array: &Array<u32>, largest: usize) -> Result<Vec<usize>> {
    let check = |(row, &n): (usize, &u32)| match n as usize {
        n if n <= largest => Ok(n),
        n => Err(Error::shape(name, format!("row {row}"), format!("a whole number from 0 to {largest}"), n)),
    };
    array.data().iter().enumerate().map(check).collect()
}
