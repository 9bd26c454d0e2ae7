//! Attention and recurrences on the CPU, as the papers and operator specifications write them.
//!
//! In f64 this is the oracle that every kernel is judged by; in f32 it is the honest baseline, and what computes when
//! there is no GPU. Sums run in index order, the loops inside go over contiguous rows, and rows or batch entries are
//! shared out to every core under the feature `parallel`; nothing else is clever. Host arrays hold masks as 0 and 1
//! and lengths as whole numbers, in the element type of the rest.

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
pub use cache::append;
pub use coverage::coverage;
pub use float::Float;
pub use linear::{activate, embed, linear};
pub use merge::{merge, merge_max_sum};
pub use norm::{norm, reduce, top_k};
pub use normalize::{gumbel, hardmax, log_softmax, softmax, sparsemax};
pub use rnn::rnn;
pub use rotary::rotary;

use crate::error::{Error, Result};
use crate::tensor::Array;

/// A `[B]` array of lengths as whole numbers, each at most `longest`.
fn lengths<T: Float>(name: &str, array: Option<&Array<T>>, longest: usize) -> Result<Option<Vec<usize>>> {
    array.map(|array| whole_numbers(name, array.data(), longest)).transpose()
}

/// Numbers that must be whole and at most `largest`.
fn whole_numbers<T: Float>(name: &str, numbers: &[T], largest: usize) -> Result<Vec<usize>> {
    let whole = |(row, value): (usize, &T)| {
        let value = value.to_f64();
        if value.fract() == 0.0 && (0.0..=largest as f64).contains(&value) {
            Ok(value as usize)
        } else {
            Err(Error::shape(name, format!("row {row}"), format!("a whole number from 0 to {largest}"), value))
        }
    };
    numbers.iter().enumerate().map(whole).collect()
}
