//! Attention by its definition, one query row at a time.
//!
//! ```text
//! q, k ← rotary(q), rotary(k)                       at their positions, if asked for
//! for each batch row b, query head h, query i:
//!     s_j = scale · score(q_i, k_j)                 for every key j, past first
//!     s_j = score_mod(s_j);  s_j = cap · tanh(s_j / cap)
//!     s_j = s_j − slope_h · |pos(i) − j| + mask(i, j)
//!     w   = normalize(s_j / τ over the visible j);  w_j = 0 where hidden
//!     y   = Σ_j w_j · v_j                           over the visible j of weight above 0
//! ```
//! Sources: Vaswani et al. 2017 (scaled dot product, heads); Luong et al. 2015 (dot, general, concat); Bahdanau et al.
//! 2015 (additive); Chorowski et al. 2015 (location-sensitive); Graves et al. 2014 (cosine); ONNX `Attention` 23 to 25
//! (order of scale, softcap, mask; past, lengths, window); Press et al. 2022 (ALiBi); Su et al. 2021 (rotary); Ainslie
//! et al. 2023 (grouped queries); Xiao et al. 2024 and the gpt-oss model card 2025 (sinks: tokens that stay in a window,
//! and a logit without value); Raffel et al. 2017 (monotonic); Kwon et al. 2023, "PagedAttention" (block table).

mod score;
mod visibility;

#[cfg(feature = "cpu")]
pub(crate) use visibility::ends;

use super::cache::{join, unpage};
use super::linear::{add_scaled, transpose};
use super::monotonic::monotonic_row;
use super::normalize::{LogSumExp, entropy, gumbel, hardmax_row, log_sum_exp, softmax_row, sparsemax_row};
use super::rotary::rotate;
use super::{Float, lengths, parallel};
use crate::attention::{
    Attention, AttentionInputs, AttentionOutputs, Monotonic, Normalize, RotaryEmbedding, Score, ScoreFn, ScoreStage,
};
use crate::error::{Error, Result};
use crate::problem::AttentionProblem;
use crate::tensor::Array;
use score::{Side, compare, direction, location, side};
use visibility::{Token, Visibility};

/// Attention of host arrays.
///
/// # Errors
/// Those of [`AttentionProblem::new`]; a length out of its range, ends of sequences that descend; a
/// `score_mod` without a reference.
pub fn attention<T: Float>(
    options: &Attention,
    inputs: &AttentionInputs<Array<T>>,
) -> Result<AttentionOutputs<Array<T>>> {
    let problem = AttentionProblem::new(options, &inputs.map(Array::shape, Array::shape))?;
    let p = &problem;
    let score_mod = match &options.score_mod {
        None => None,
        Some(score_mod) => Some(score_mod.reference.as_ref().ok_or_else(|| {
            Error::option("score_mod", "the reference needs the function in Rust beside the WGSL: set `reference`")
        })?),
    };
    let visibility = Visibility::new(options, inputs, p)?;
    let query = turned(inputs.rotary.as_ref(), &inputs.query, |b, i| visibility.queries[b][i]);
    let new_key = turned(inputs.rotary.as_ref(), &inputs.key, |b, j| visibility.keys[b][p.past + j]);
    let (key, value) = match (&inputs.block_table, lengths("kv_lengths", inputs.kv_lengths.as_ref(), p.keys)?) {
        (Some(table), Some(lengths)) => (unpage(&new_key, table, &lengths)?, unpage(&inputs.value, table, &lengths)?),
        _ => {
            let past = inputs.past.as_ref();
            (join(past.map(|past| &past.key), &new_key)?, join(past.map(|past| &past.value), &inputs.value)?)
        }
    };

    let context = Context {
        options,
        inputs,
        problem: p,
        score_mod,
        visibility,
        queries: matrices(&query, |rows| side(options.score, Side::Query, &inputs.score, rows, p)),
        keys: matrices(&key, |rows| transpose(&side(options.score, Side::Key, &inputs.score, rows, p), p.score_dim)),
        value: value.data(),
        v: direction(&inputs.score),
    };
    let heads = p.batch * p.query_heads;
    let index = |head: usize, i: usize| [head / p.query_heads, head % p.query_heads, i];
    let rows: Vec<Row<T>> = match options.normalize {
        // Each row needs the one before it.
        Normalize::Monotonic(form) => parallel::map(heads, |head| {
            let mut alignment = Vec::new();
            let row = |i| context.monotonic(form, index(head, i), &mut alignment);
            (0..p.queries).map(row).collect::<Vec<_>>()
        })
        .into_iter()
        .flatten()
        .collect(),
        _ => parallel::map(heads * p.queries, |row| context.row(index(row / p.queries, row % p.queries))),
    };

    let per_row = [p.batch, p.query_heads, p.queries];
    let gather = |wanted: bool, width: usize, of: fn(&Row<T>) -> &[T]| -> Result<Option<Array<T>>> {
        let shape = [&per_row[..], &[width]].concat();
        wanted.then(|| Array::new(&shape, rows.iter().flat_map(of).copied().collect())).transpose()
    };
    let number = |wanted: bool, of: fn(&Row<T>) -> T| -> Result<Option<Array<T>>> {
        wanted.then(|| Array::new(&per_row, rows.iter().map(of).collect())).transpose()
    };
    let had_past = inputs.past.is_some();
    Ok(AttentionOutputs {
        output: Array::new(
            &[&per_row[..], &[p.value_dim]].concat(),
            rows.iter().flat_map(|row| &row.output).copied().collect(),
        )?,
        weights: gather(options.weights, p.keys, |row| &row.weights)?,
        lse: number(options.lse, |row| row.sum.value())?,
        max_sum: match options.max_sum {
            true => {
                Some(Array::new(&[&per_row[..], &[2]].concat(), rows.iter().flat_map(|row| row.sum.pair()).collect())?)
            }
            false => None,
        },
        entropy: number(options.entropy, |row| row.entropy)?,
        scores: gather(options.scores.is_some(), p.keys, |row| &row.scores)?,
        present_key: had_past.then_some(key),
        present_value: had_past.then_some(value),
    })
}

/// What one query row gives.
struct Row<T> {
    output: Vec<T>,
    /// If asked for.
    weights: Vec<T>,
    sum: LogSumExp<T>,
    entropy: T,
    /// At the stage asked for.
    scores: Vec<T>,
}

/// The visible keys of one query row, so that nothing hidden can touch a sum.
struct Visible<T> {
    keys: Vec<usize>,
    /// After ALiBi and mask, beside `keys`.
    scores: Vec<T>,
    /// Of all keys, at the stage asked for.
    asked: Vec<T>,
}

impl<T: Float> Visible<T> {
    /// One number a visible key, as a row over all keys.
    fn scatter(&self, row: &[T], hidden: T, keys: usize) -> Vec<T> {
        let mut out = vec![hidden; keys];
        self.keys.iter().zip(row).for_each(|(&j, &x)| out[j] = x);
        out
    }
}

struct Context<'a, T> {
    options: &'a Attention,
    inputs: &'a AttentionInputs<Array<T>>,
    problem: &'a AttentionProblem,
    score_mod: Option<&'a ScoreFn>,
    visibility: Visibility<'a, T>,
    /// [B · Hq] of [Nq, score_dim], after their side of the score function.
    queries: Vec<Vec<T>>,
    /// [B · Hkv] of [score_dim, Nk], after theirs, past included.
    keys: Vec<Vec<T>>,
    /// [B, Hkv, Nk, Dv], past included.
    value: &'a [T],
    /// v of the score function.
    v: Option<Vec<T>>,
}

impl<T: Float> Context<'_, T> {
    fn kv_head(&self, b: usize, h: usize) -> usize {
        b * self.problem.kv_heads + h / self.problem.group()
    }

    fn visible(&self, [b, h, i]: [usize; 3]) -> Visible<T> {
        let (options, p) = (self.options, self.problem);
        let query = &self.queries[b * p.query_heads + h][i * p.score_dim..][..p.score_dim];
        let location = match options.score {
            Score::Location => location(&self.inputs.score, &self.previous([b, h], i)),
            _ => None,
        };
        let keys = &self.keys[self.kv_head(b, h)];
        let mut s = compare(options.score, query, keys, self.v.as_deref(), location.as_deref());
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

        let mut visible = Visible { keys: Vec::new(), scores: Vec::new(), asked: Vec::new() };
        for (j, &s) in s.iter().enumerate() {
            if let Some(bias) = self.visibility.bias([b, h, i, j]) {
                let alibi = self.inputs.alibi_slopes.as_ref().map_or(T::ZERO, |slopes| {
                    let (own, key) = (self.visibility.queries[b][i], self.visibility.keys[b][j]);
                    // [Hq], or a row for each batch row, or each sequence of a ragged batch.
                    let row = match (slopes.shape().len(), p.sequences, own.sequence) {
                        (1, ..) => 0,
                        (_, Some(_), Some(sequence)) => sequence,
                        _ => b,
                    };
                    let slope = slopes.data()[row * p.query_heads + h];
                    -slope * T::from_f64((own.position - key.position).unsigned_abs() as f64)
                });
                visible.keys.push(j);
                visible.scores.push(s + alibi + bias);
            }
        }
        visible.asked = match options.scores {
            Some(ScoreStage::Masked) => visible.scatter(&visible.scores, T::NEG_INFINITY, p.keys),
            Some(ScoreStage::Capped) => capped,
            Some(ScoreStage::Raw) => raw,
            None => Vec::new(),
        };
        visible
    }

    /// Row `row` of the alignment before, 0 past the batch row's keys; without one, at the first key.
    fn previous(&self, [b, h]: [usize; 2], row: usize) -> Vec<T> {
        let p = self.problem;
        let given = self.inputs.previous.as_ref().map(|previous| {
            let rows = previous.shape()[2];
            &previous.data()[((b * p.query_heads + h) * rows + row) * p.keys..][..p.keys]
        });
        let at = |(j, key): (usize, &Token)| match (key.sequence, given, j) {
            (Some(_), Some(given), _) => given[j],
            (Some(_), None, 0) => T::ONE,
            _ => T::ZERO,
        };
        self.visibility.keys[b].iter().enumerate().map(at).collect()
    }

    /// A row by itself.
    fn row(&self, [b, h, i]: [usize; 3]) -> Row<T> {
        let visible = self.visible([b, h, i]);
        let mut row = visible.scores.clone();
        // One of −∞ is none.
        let mut sink = self.inputs.sinks.as_ref().map(|sinks| sinks.data()[h]).filter(|&sink| sink != T::NEG_INFINITY);
        let mut shift = T::ZERO;
        if let Some(temperature) = self.options.temperature.map(T::from_f32) {
            // The largest is taken off first: scores over a small temperature may not be numbers any more.
            let most = sink.iter().chain(&row).copied().fold(T::NEG_INFINITY, T::max);
            row.iter_mut().chain(&mut sink).for_each(|s| *s = (*s - most) / temperature);
            shift = most / temperature;
        }
        let sum = log_sum_exp(&row, sink);
        match self.options.normalize {
            Normalize::Hardmax => hardmax_row(&mut row),
            Normalize::Sparsemax => sparsemax_row(&mut row),
            Normalize::Sample { seed } => {
                let index = (b * self.problem.query_heads + h) * self.problem.queries + i;
                for (s, &j) in row.iter_mut().zip(&visible.keys) {
                    *s += T::from_f32(gumbel(seed, index as u32, j as u32));
                }
                // There is no softmax to draw from.
                let none = !row.is_empty() && row.iter().all(|&s| s == T::NEG_INFINITY);
                if none { row.fill(T::NAN) } else { hardmax_row(&mut row) }
            }
            Normalize::Softmax | Normalize::Monotonic(_) => softmax_row(&mut row, sum),
        }
        let sum = LogSumExp { max: sum.max + shift, ..sum };
        self.finish(visible, &row, self.kv_head(b, h), sum)
    }

    /// A row that scans on from `alignment`, and leaves its own there.
    fn monotonic(&self, form: Monotonic, [b, h, i]: [usize; 3], alignment: &mut Vec<T>) -> Row<T> {
        let keys = self.problem.keys;
        if i == 0 {
            *alignment = self.previous([b, h], 0);
        }
        let visible = self.visible([b, h, i]);
        let temperature = self.options.temperature.map_or(T::ONE, T::from_f32);
        let scores: Vec<T> = visible.scores.iter().map(|&s| s / temperature).collect();
        let nan = scores.iter().chain(alignment.iter()).any(|x| x.is_nan());
        let all = monotonic_row(form, &visible.scatter(&scores, T::NEG_INFINITY, keys), alignment);
        let row: Vec<T> = visible.keys.iter().map(|&j| if nan { T::NAN } else { all[j] }).collect();
        *alignment = visible.scatter(&row, T::ZERO, keys);
        self.finish(visible, &row, self.kv_head(b, h), LogSumExp { max: T::NAN, sum: T::NAN })
    }

    /// `weights` of the visible keys to the row's results.
    fn finish(&self, visible: Visible<T>, weights: &[T], kv_head: usize, sum: LogSumExp<T>) -> Row<T> {
        let p = self.problem;
        let mut output = vec![T::ZERO; p.value_dim];
        for (&j, &weight) in visible.keys.iter().zip(weights).filter(|(_, weight)| **weight != T::ZERO) {
            add_scaled(&mut output, weight, &self.value[(kv_head * p.keys + j) * p.value_dim..][..p.value_dim]);
        }
        let entropy = entropy(weights);
        let weights = if self.options.weights { visible.scatter(weights, T::ZERO, p.keys) } else { Vec::new() };
        Row { output, weights, sum, entropy, scores: visible.asked }
    }
}

/// `x` [B, H, N, D] after the rotary embedding, if there is one; `token` tells of batch row and row. Positions below 0
/// count as 0.
fn turned<T: Float>(
    rotary: Option<&RotaryEmbedding<Array<T>>>,
    x: &Array<T>,
    token: impl Fn(usize, usize) -> Token,
) -> Array<T> {
    let mut x = x.clone();
    if let Some(RotaryEmbedding { options, cos, sin }) = rotary {
        let [heads, rows, dim] = [1, 2, 3].map(|axis| x.shape()[axis]);
        for (row, data) in x.data_mut().chunks_exact_mut(dim).enumerate() {
            let position = token(row / (heads * rows), row % rows).position.max(0) as usize;
            let at = position.saturating_add(options.offset);
            rotate(data, [cos.data(), sin.data()], cos.shape()[1], options.layout, at);
        }
    }
    x
}

/// Each [N, D] matrix of a [B, H, N, D] array through a function.
fn matrices<T: Float>(array: &Array<T>, f: impl Fn(&[T]) -> Vec<T> + Sync + Send) -> Vec<Vec<T>> {
    let size = array.shape()[2] * array.shape()[3];
    parallel::map(array.shape()[0] * array.shape()[1], |k| f(&array.data()[k * size..][..size]))
}
