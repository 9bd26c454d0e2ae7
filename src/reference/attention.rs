//! Attention by its definition, one query row at a time.
//!
//! ```text
//! for each batch row b, query head h, query i:
//!     s_j = scale · score(q_i, k_j)                 for every key j, past first
//!     s_j = score_mod(s_j);  s_j = cap · tanh(s_j / cap)
//!     s_j = s_j − slope_h · |i + offset_b − j| + mask(i, j)
//!     w   = normalize(s_j over the visible j);  w_j = 0 where hidden
//!     y   = Σ_j w_j · v_j                           over the visible j
//! ```
//! Sources: Vaswani et al. 2017 (scaled dot product, heads); Luong et al. 2015 (dot, general, concat); Bahdanau et al.
//! 2015 (additive); Graves et al. 2014 (cosine); ONNX `Attention` 23 to 25 (order of scale, softcap, mask; past,
//! lengths, window); Press et al. 2022 (ALiBi); Ainslie et al. 2023 (grouped queries); Xiao et al. 2024 and the
//! gpt-oss model card 2025 (sinks as a logit without value).

use super::linear::{add_scaled, product, transpose};
use super::normalize::{LogSumExp, gumbel, hardmax_row, log_sum_exp, softmax_row, sparsemax_row};
use super::{Float, lengths, parallel};
use crate::attention::{
    Attention, AttentionInputs, AttentionOutputs, Causal, Mask, Normalize, Score, ScoreFn, ScoreStage, ScoreWeights,
};
use crate::error::{Error, Result};
use crate::problem::AttentionProblem;
use crate::tensor::{Array, Layout};

/// Attention of host arrays.
///
/// # Errors
/// Those of [`AttentionProblem::new`]; a length that is no whole number of keys; a `score_mod` without a reference.
pub fn attention<T: Float>(
    options: &Attention,
    inputs: &AttentionInputs<Array<T>>,
) -> Result<AttentionOutputs<Array<T>>> {
    let problem = AttentionProblem::new(options, &inputs.map(Array::shape))?;
    let p = &problem;
    let score_mod = match &options.score_mod {
        None => None,
        Some(score_mod) => Some(score_mod.reference.as_ref().ok_or_else(|| {
            Error::option("score_mod", "the reference needs the function in Rust beside the WGSL: set `reference`")
        })?),
    };
    let key = join(inputs.past_key.as_ref(), &inputs.key)?;
    let value = join(inputs.past_value.as_ref(), &inputs.value)?;
    let visibility = Visibility::new(options, inputs, p)?;

    let query_rows = matrices(&inputs.query, |rows| side(options.score, Side::Query, &inputs.score, rows, p));
    let key_columns = matrices(&key, |rows| {
        let rows = side(options.score, Side::Key, &inputs.score, rows, p);
        transpose(&rows, p.score_dim)
    });
    let context = Context { options, inputs, problem: p, score_mod, visibility, value: value.data() };
    let rows = parallel::map(p.batch * p.query_heads * p.queries, |row| {
        let (head, i) = (row / p.queries, row % p.queries);
        let (b, h) = (head / p.query_heads, head % p.query_heads);
        let kv_head = b * p.kv_heads + h / p.group();
        let query = &query_rows[head][i * p.score_dim..][..p.score_dim];
        context.row([b, h, i], query, &key_columns[kv_head], kv_head)
    });

    let gather = |wanted: bool, width: usize, of: fn(&Row<T>) -> &[T]| -> Result<Option<Array<T>>> {
        let shape = [p.batch, p.query_heads, p.queries, width];
        wanted.then(|| Array::new(&shape, rows.iter().flat_map(of).copied().collect())).transpose()
    };
    let lse = rows.iter().map(|row| row.lse).collect();
    let had_past = inputs.past_key.is_some();
    Ok(AttentionOutputs {
        output: Array::new(
            &[p.batch, p.query_heads, p.queries, p.value_dim],
            rows.iter().flat_map(|row| &row.output).copied().collect(),
        )?,
        weights: gather(options.weights, p.keys, |row| &row.weights)?,
        lse: options.lse.then(|| Array::new(&[p.batch, p.query_heads, p.queries], lse)).transpose()?,
        entropy: None,
        scores: gather(options.scores.is_some(), p.keys, |row| &row.scores)?,
        present_key: had_past.then_some(key),
        present_value: had_past.then_some(value),
    })
}

/// What one query row gives.
struct Row<T> {
    output: Vec<T>,
    weights: Vec<T>,
    lse: T,
    /// At the stage asked for.
    scores: Vec<T>,
}

struct Context<'a, T> {
    options: &'a Attention,
    inputs: &'a AttentionInputs<Array<T>>,
    problem: &'a AttentionProblem,
    score_mod: Option<&'a ScoreFn>,
    visibility: Visibility<'a, T>,
    /// [B, Hkv, Nk, Dv], past included.
    value: &'a [T],
}

impl<T: Float> Context<'_, T> {
    /// `query` [score_dim] against `keys` [score_dim, Nk], both after their side of the score function.
    fn row(&self, [b, h, i]: [usize; 3], query: &[T], keys: &[T], kv_head: usize) -> Row<T> {
        let (options, p) = (self.options, self.problem);
        let mut s = self.compare(query, keys);
        for (j, s) in s.iter_mut().enumerate() {
            *s = *s * T::from_f32(p.scale);
            if let Some(f) = self.score_mod {
                *s = T::from_f64(f(s.to_f64(), b, h, i, j));
            }
        }
        let raw = if options.scores == Some(ScoreStage::Raw) { s.clone() } else { Vec::new() };
        if let Some(cap) = options.softcap.map(T::from_f32) {
            s.iter_mut().for_each(|s| *s = cap * (*s / cap).tanh());
        }
        let capped = if options.scores == Some(ScoreStage::Capped) { s.clone() } else { Vec::new() };

        // The visible keys alone, so that nothing hidden can touch a sum.
        let offset = self.visibility.offset(b);
        let mut visible = Vec::with_capacity(p.keys);
        let mut row = Vec::with_capacity(p.keys);
        for (j, &s) in s.iter().enumerate() {
            if let Some(bias) = self.visibility.bias([b, h, i, j]) {
                let alibi = self.inputs.alibi_slopes.as_ref().map_or(T::ZERO, |slopes| {
                    let distance = (i as i64 + offset - j as i64).unsigned_abs();
                    -slopes.data()[h] * T::from_f64(distance as f64)
                });
                visible.push(j);
                row.push(s + alibi + bias);
            }
        }
        let scatter = |row: &[T], hidden: T| {
            let mut out = vec![hidden; p.keys];
            visible.iter().zip(row).for_each(|(&j, &x)| out[j] = x);
            out
        };
        let scores = match options.scores {
            Some(ScoreStage::Masked) => scatter(&row, T::NEG_INFINITY),
            Some(ScoreStage::Capped) => capped,
            Some(ScoreStage::Raw) => raw,
            None => Vec::new(),
        };

        let sum = log_sum_exp(&row, self.inputs.sinks.as_ref().map(|sinks| sinks.data()[h]));
        self.normalize(&mut row, &visible, [b, h, i], sum);
        let mut output = vec![T::ZERO; p.value_dim];
        for (&j, &weight) in visible.iter().zip(&row) {
            add_scaled(&mut output, weight, &self.value[(kv_head * p.keys + j) * p.value_dim..][..p.value_dim]);
        }
        let weights = if options.weights { scatter(&row, T::ZERO) } else { Vec::new() };
        Row { output, weights, lse: sum.value(), scores }
    }

    /// The scores [Nk] of one query before the scale.
    fn compare(&self, query: &[T], keys: &[T]) -> Vec<T> {
        let n = self.problem.keys;
        match self.options.score {
            Score::ScaledDot | Score::Dot | Score::General | Score::Cosine => product(query, keys, n, None),
            Score::Additive | Score::Concat | Score::Location => {
                let mut s = vec![T::ZERO; n];
                let v = self.inputs.score.v.as_ref();
                for (a, (&q, row)) in query.iter().zip(keys.chunks_exact(n)).enumerate() {
                    let v = v.map_or(T::ONE, |v| v.data()[a]);
                    s.iter_mut().zip(row).for_each(|(s, &k)| *s += v * (q + k).tanh());
                }
                s
            }
        }
    }

    fn normalize(&self, row: &mut [T], visible: &[usize], [b, h, i]: [usize; 3], sum: LogSumExp<T>) {
        match self.options.normalize {
            Normalize::Softmax => softmax_row(row, sum),
            Normalize::Hardmax => hardmax_row(row),
            Normalize::Sparsemax | Normalize::Monotonic(_) => sparsemax_row(row),
            Normalize::Sample { seed } => {
                let index = (b * self.problem.query_heads + h) * self.problem.queries + i;
                for (s, &j) in row.iter_mut().zip(visible) {
                    *s += T::from_f32(gumbel(seed, index as u32, j as u32));
                }
                hardmax_row(row);
            }
        }
    }
}

/// Which keys a query may see, and what the mask adds to their scores.
struct Visibility<'a, T> {
    options: &'a Attention,
    problem: &'a AttentionProblem,
    lengths: Option<Vec<usize>>,
    /// The mask's elements under [B, Hq, Nq, mask_keys].
    mask: Option<(&'a Mask<Array<T>>, Layout)>,
}

impl<'a, T: Float> Visibility<'a, T> {
    fn new(options: &'a Attention, inputs: &'a AttentionInputs<Array<T>>, p: &'a AttentionProblem) -> Result<Self> {
        let lengths = lengths("kv_lengths", inputs.kv_lengths.as_ref(), p.keys)?;
        let mask = match &inputs.mask {
            None => None,
            Some(mask) => {
                let full = [p.batch, p.query_heads, p.queries, p.mask_keys];
                Some((mask, Layout::contiguous(mask.tensor().shape()).broadcast(&full)?))
            }
        };
        Ok(Self { options, problem: p, lengths, mask })
    }

    /// The query's own position is key i + offset (ONNX `Attention` 24; FlashAttention for bottom-right).
    fn offset(&self, b: usize) -> i64 {
        let p = self.problem;
        match (&self.lengths, self.options.causal) {
            (Some(lengths), _) => lengths[b] as i64 - p.queries as i64,
            (None, Some(Causal::BottomRight)) => p.keys as i64 - p.queries as i64,
            (None, _) => p.past as i64,
        }
    }

    /// What the mask adds, or nothing where the key is hidden.
    fn bias(&self, at: [usize; 4]) -> Option<T> {
        let [b, _, i, j] = at;
        let own = i as i64 + self.offset(b);
        let key = j as i64;
        let in_length = self.lengths.as_ref().is_none_or(|lengths| j < lengths[b]);
        let in_past = self.options.causal.is_none() || key <= own;
        let in_window = self.options.window.is_none_or(|window| {
            window.left.is_none_or(|left| key >= own - i64::from(left))
                && window.right.is_none_or(|right| key <= own + i64::from(right))
        });
        if !(in_length && in_past && in_window && j < self.problem.mask_keys) {
            return None;
        }
        let Some((mask, layout)) = &self.mask else {
            return Some(T::ZERO);
        };
        let index: usize = at.iter().zip(&layout.strides).map(|(i, stride)| i * stride).sum();
        match mask {
            Mask::Bool(mask) => (mask.data()[index] != T::ZERO).then_some(T::ZERO),
            Mask::Float(mask) => Some(mask.data()[index]).filter(|&bias| bias != T::NEG_INFINITY),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Query,
    Key,
}

/// The part of the score function that one side goes through alone, `rows` [N, D] to [N, score_dim]: q·W of a general
/// score; Wq·q and Wk·k + b of an additive one; the halves of W·[q; k] + b of a concat one; q/‖q‖ and k/‖k‖ of a cosine.
fn side<T: Float>(
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
        (Score::Additive, Side::Query) => weights.query_weight.as_ref().map(|w| transpose(w.data(), width)),
        (Score::Additive, Side::Key) => weights.key_weight.as_ref().map(|w| transpose(w.data(), width)),
        (Score::Concat, _) => weights.weight.as_ref().map(|w| {
            let split = p.query_dim * p.score_dim;
            let both = transpose(w.data(), p.query_dim + p.key_dim);
            if side == Side::Query { both[..split].to_vec() } else { both[split..].to_vec() }
        }),
        _ => None,
    };
    let through = |row: &[T]| match &matrix {
        Some(matrix) => product(row, matrix, p.score_dim, bias),
        None if score == Score::Cosine => {
            let norm = row.iter().map(|&x| x * x).sum::<T>().sqrt();
            let norm = if norm == T::ZERO { T::ONE } else { norm };
            row.iter().map(|&x| x / norm).collect()
        }
        None => row.to_vec(),
    };
    rows.chunks_exact(width).flat_map(through).collect()
}

/// Each [N, D] matrix of a [B, H, N, D] array through a function.
fn matrices<T: Float>(array: &Array<T>, f: impl Fn(&[T]) -> Vec<T> + Sync + Send) -> Vec<Vec<T>> {
    let size = array.shape()[2] * array.shape()[3];
    parallel::map(array.shape()[0] * array.shape()[1], |k| f(&array.data()[k * size..][..size]))
}

/// [B, H, P, D] and [B, H, N, D] joined along the third axis.
fn join<T: Float>(past: Option<&Array<T>>, new: &Array<T>) -> Result<Array<T>> {
    let Some(past) = past else {
        return Ok(new.clone());
    };
    let &[batch, heads, n, d] = new.shape() else {
        return Err(Error::shape("key", "rank", 4, new.shape().len()));
    };
    let p = past.shape()[2];
    let mut data = Vec::with_capacity(past.data().len() + new.data().len());
    for k in 0..batch * heads {
        data.extend_from_slice(&past.data()[k * p * d..][..p * d]);
        data.extend_from_slice(&new.data()[k * n * d..][..n * d]);
    }
    Array::new(&[batch, heads, p + n, d], data)
}
