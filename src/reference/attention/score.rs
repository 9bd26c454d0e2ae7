//! How a query is compared with every key.

use super::super::Float;
use super::super::linear::{add_scaled, largest, product, transpose};
use crate::attention::{Score, ScoreWeights};
use crate::problem::AttentionProblem;
use crate::tensor::Array;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Side {
    Query,
    Key,
}

/// The projection of one side before the score, `rows` [N, D] to [N, score_dim]: q·W of a general
/// score; Wq·q and Wk·k + b of an additive or location-sensitive one; the halves of W·[q; k] + b of a concat one;
/// q/‖q‖ and k/‖k‖ of a cosine.
pub(super) fn side<T: Float>(
    score: Score,
    side: Side,
    weights: &ScoreWeights<Array<T>>,
    rows: &[T],
    p: &AttentionProblem,
) -> Vec<T> {
    let width = if side == Side::Query { p.query_dim } else { p.key_dim };
    let bias = if side == Side::Key { weights.bias.as_ref() } else { None };
    // [width, score_dim]
    let matrix = match (score, side) {
        (Score::General, Side::Query) => weights.weight.as_ref().map(|w| w.data().to_vec()),
        (Score::Additive | Score::Location, Side::Query) => {
            weights.query_weight.as_ref().map(|w| transpose(w.data(), width))
        }
        (Score::Additive | Score::Location, Side::Key) => {
            weights.key_weight.as_ref().map(|w| transpose(w.data(), width))
        }
        (Score::Concat, _) => weights.weight.as_ref().map(|w| {
            let split = p.query_dim * p.score_dim;
            let both = transpose(w.data(), p.query_dim + p.key_dim);
            if side == Side::Query { both[..split].to_vec() } else { both[split..].to_vec() }
        }),
        _ => None,
    };
    let through = |row: &[T]| match &matrix {
        Some(matrix) => product(row, matrix, p.score_dim, bias),
        None if score == Score::Cosine => unit(row),
        None => row.to_vec(),
    };
    rows.chunks_exact(width).flat_map(through).collect()
}

/// v of an additive, concat or location-sensitive score: as given, or g · v / ‖v‖ (Salimans and Kingma 2016).
pub(super) fn direction<T: Float>(weights: &ScoreWeights<Array<T>>) -> Option<Vec<T>> {
    let v = weights.v.as_ref()?.data();
    let Some(g) = &weights.g else {
        return Some(v.to_vec());
    };
    let g = g.data()[0];
    Some(unit(v).into_iter().map(|v| g * v).collect())
}

/// x / ‖x‖; a vector without a direction stays 0. Divided by its largest element first, so that squares neither overflow
/// nor vanish (Blue 1978, "A Portable Fortran Program to Find the Euclidean Norm of a Vector").
fn unit<T: Float>(row: &[T]) -> Vec<T> {
    let largest = largest(row);
    if largest == T::ZERO {
        return row.to_vec();
    }
    let scaled: Vec<T> = row.iter().map(|&x| x / largest).collect();
    let norm = scaled.iter().map(|&x| x * x).sum::<T>().sqrt();
    scaled.into_iter().map(|x| x / norm).collect()
}

/// One query [score_dim] against `keys` [score_dim, Nk], both after their side: the scores [Nk] before the scale.
/// `location` [score_dim, Nk] is what the alignment before this query adds to the keys.
pub(super) fn compare<T: Float>(
    score: Score,
    query: &[T],
    keys: &[T],
    v: Option<&[T]>,
    location: Option<&[T]>,
) -> Vec<T> {
    let n = keys.len() / query.len();
    match score {
        Score::ScaledDot | Score::Dot | Score::General | Score::Cosine => product(query, keys, n, None),
        Score::Additive | Score::Concat | Score::Location => {
            let mut s = vec![T::ZERO; n];
            for (a, &q) in query.iter().enumerate() {
                let v = v.map_or(T::ONE, |v| v[a]);
                for (j, s) in s.iter_mut().enumerate() {
                    let at = a * n + j;
                    *s += v * (q + keys[at] + location.map_or(T::ZERO, |location| location[at])).tanh();
                }
            }
            s
        }
    }
}

/// U·f_j for every key j, [score_dim, Nk], with f = F ∗ `alignment` and zeros around it (Chorowski et al. 2015, eq. 8):
/// f_j[c] = Σ_n F[c, n] · alignment[j + n − ⌊(W − 1) / 2⌋].
pub(super) fn location<T: Float>(weights: &ScoreWeights<Array<T>>, alignment: &[T]) -> Option<Vec<T>> {
    let (filter, matrix) = (weights.location_filter.as_ref()?, weights.location_weight.as_ref()?);
    let (width, keys) = (filter.shape()[1], alignment.len());
    let before = (width - 1) / 2;
    // [C, Nk]
    let mut features = Vec::with_capacity(filter.shape()[0] * keys);
    for channel in filter.data().chunks_exact(width) {
        features.extend((0..keys).map(|j| {
            let inside = |n: usize| Some(channel[n] * *alignment.get((j + n).checked_sub(before)?)?);
            (0..width).filter_map(inside).sum::<T>()
        }));
    }
    let mut out = Vec::with_capacity(matrix.shape()[0] * keys);
    for row in matrix.data().chunks_exact(matrix.shape()[1]) {
        let mut y = vec![T::ZERO; keys];
        row.iter().zip(features.chunks_exact(keys)).for_each(|(&u, feature)| add_scaled(&mut y, u, feature));
        out.extend(y);
    }
    Some(out)
}
