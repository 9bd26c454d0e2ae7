//! Independent pieces of work, on every core when the feature `parallel` is on.

/// `f(0) … f(count − 1)` in order.
#[cfg(feature = "parallel")]
pub(super) fn map<R: Send>(count: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    use rayon::prelude::*;
    (0..count).into_par_iter().map(f).collect()
}

/// `f(0) … f(count − 1)` in order.
#[cfg(not(feature = "parallel"))]
pub(super) fn map<R: Send>(count: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    (0..count).map(f).collect()
}
