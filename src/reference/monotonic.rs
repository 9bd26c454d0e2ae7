//! Monotonic alignment: each query scans on from where the one before it stopped.

use super::{Float, activate};
use crate::attention::Monotonic;
use crate::rnn::Activation;

/// Turns the scores of all keys, −∞ where hidden, into the alignment of a query, given the one before it (Raffel et al.
/// 2017, "Online and Linear-Time Attention by Enforcing Monotonic Alignments", eq. 9, 13 and algorithm 1; forms and
/// names of TensorFlow Addons' `monotonic_attention`).
pub(super) fn monotonic_row<T: Float>(form: Monotonic, scores: &[T], previous: &[T]) -> Vec<T> {
    let stop = scores.iter().map(|&s| match form {
        _ if s == T::NEG_INFINITY => T::ZERO,
        Monotonic::Hard if s > T::ZERO => T::ONE,
        Monotonic::Hard => T::ZERO,
        _ => activate(Activation::Sigmoid, s),
    });
    let before = stop.zip(previous);
    match form {
        Monotonic::Parallel => {
            let (mut go_on, mut sum) = (T::ONE, T::ZERO);
            before
                .map(|(p, &previous)| {
                    sum += previous / go_on.clamp(T::from_f64(1e-10), T::ONE);
                    let weight = p * go_on * sum;
                    go_on = go_on * (T::ONE - p);
                    weight
                })
                .collect()
        }
        Monotonic::Recursive => {
            // q_j: the chance to look at key j
            let (mut q, mut p_before) = (T::ZERO, T::ZERO);
            before
                .map(|(p, &previous)| {
                    q = (T::ONE - p_before) * q + previous;
                    p_before = p;
                    p * q
                })
                .collect()
        }
        Monotonic::Hard => {
            let (mut go_on, mut sum) = (T::ONE, T::ZERO);
            before
                .map(|(p, &previous)| {
                    sum += previous;
                    let stop = p * sum;
                    let weight = stop * go_on;
                    go_on = go_on * (T::ONE - stop);
                    weight
                })
                .collect()
        }
    }
}
