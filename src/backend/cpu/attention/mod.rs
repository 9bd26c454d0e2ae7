//! Attention with a softmax over products of query and key.

mod across;
mod along;
mod call;
mod rows;
mod softmax;
mod tile;
mod visible;

use self::call::{Call, Place, RowState, Run, Task};
use self::rows::Rows;
use self::visible::{MaskOf, Spans};
use super::memory::elements;
use super::threads::with_room;
use super::{Cpu, CpuTensor};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs, Mask, Normalize, RotaryEmbedding, Score};
use crate::backend::Value;
use crate::error::Result;
use crate::problem::AttentionProblem;
use crate::reference::{check_rotary, entropy, join, rotate};
use crate::tensor::{Array, Layout};

pub(crate) use self::call::Blocks;

/// Why a problem is handed to the reference, if it is.
pub(crate) fn handed_over(options: &Attention) -> Option<&'static str> {
    if !matches!(options.score, Score::ScaledDot | Score::Dot) {
        return Some("its score is no product of query and key as they are");
    }
    if options.normalize != Normalize::Softmax {
        return Some("its weights are no softmax");
    }
    if options.score_mod.is_some() {
        return Some("its scores pass through a function of the caller's");
    }
    options.scores.is_some().then_some("its scores are asked for")
}

/// Attention of tensors that [`handed_over`] has nothing against.
pub(super) fn attention(
    cpu: &Cpu,
    options: &Attention,
    inputs: &AttentionInputs<CpuTensor>,
) -> Result<AttentionOutputs<CpuTensor>> {
    let problem = AttentionProblem::new(options, &inputs.map(CpuTensor::shape, Array::shape))?;
    let p = &problem;
    let spans = Spans::new(options, inputs, p)?;
    let query = turned(inputs.rotary.as_ref(), &inputs.query, |b, i| spans.of_query(b, i)).wide();
    let new_key = turned(inputs.rotary.as_ref(), &inputs.key, |_, j| spans.of_key(p.past + j));
    // Masks, slopes and sinks are few beside keys: as f32, however they are stored.
    let float_mask = match &inputs.mask {
        Some(Mask::Float(mask)) => Some(mask.wide()),
        _ => None,
    };
    let [slopes, sinks] = [&inputs.alibi_slopes, &inputs.sinks].map(|x| x.as_ref().map(CpuTensor::wide));
    let past = inputs.past.as_ref();
    let [past_key, past_value] = [past.map(|past| &past.key), past.map(|past| &past.value)];
    let call = Call {
        query_heads: p.query_heads,
        kv_heads: p.kv_heads,
        queries: p.queries,
        keys: p.keys,
        scale: p.scale,
        softcap: options.softcap,
        temperature: options.temperature,
        // Of as many values, each at most the largest number, half the sum.
        halvings: (p.keys.next_power_of_two().ilog2() + 1) as f32,
        query: query.data(),
        key: rows(inputs, &new_key, past_key, p.key_dim),
        value: rows(inputs, &inputs.value, past_value, p.value_dim),
        spans,
        masks: masks(inputs, float_mask.as_ref(), p)?,
        slopes: slopes.as_ref().map(|slopes| {
            let rows = if slopes.shape().len() == 1 { 1 } else { slopes.shape()[0] };
            (slopes.data(), rows, p.sequences.is_some())
        }),
        sinks: sinks.as_ref().map(CpuTensor::data),
    };
    let results = Results::of(cpu, &call, p, options.weights || options.entropy)?;

    let per_row = [p.batch, p.query_heads, p.queries];
    let by_pair = [p.batch, p.query_heads, p.queries, p.keys];
    let temperature = options.temperature.unwrap_or(1.0);
    let number =
        |wanted: bool, of: &dyn Fn(usize) -> f32| wanted.then(|| CpuTensor::from(Array::from_fn(&per_row, of)));
    let state = |row: usize| {
        let RowState { max, sum, seen } = results.states[row];
        RowState { max, sum: sum * call.halvings.exp2(), seen }
    };
    let max_sum = |k: usize| match state(k / 2) {
        RowState { sum, .. } if sum.is_nan() => f32::NAN,
        RowState { max, .. } if k.is_multiple_of(2) => max / temperature,
        RowState { sum, .. } => sum,
    };
    let pairs = |k: usize| &results.weights[k * p.keys..][..p.keys];
    let present = |past: Option<&CpuTensor>, new: &CpuTensor| {
        past.map(|past| Ok(past.alike(join(Some(&past.to_array()), &new.to_array())?))).transpose()
    };
    Ok(AttentionOutputs {
        lse: number(options.lse, &|k| state(k).max / temperature + state(k).sum.ln()),
        max_sum: options.max_sum.then(|| Array::from_fn(&[&per_row[..], &[2]].concat(), max_sum).into()),
        entropy: number(options.entropy, &|k| entropy(pairs(k))),
        scores: None,
        present_key: present(past_key, &new_key)?,
        present_value: present(past_value, &inputs.value)?,
        output: inputs.query.alike(Array::new(&[&per_row[..], &[p.value_dim]].concat(), results.output)?),
        weights: options.weights.then(|| Array::new(&by_pair, results.weights)).transpose()?.map(CpuTensor::from),
    })
}

/// What there is of each row of [B, Hq, Nq].
struct Results {
    states: Vec<RowState>,
    /// [.., Dv].
    output: Vec<f32>,
    /// [.., Nk]; none where nobody asks.
    weights: Vec<f32>,
}

impl Results {
    fn of(cpu: &Cpu, call: &Call<'_>, p: &AttentionProblem, weights: bool) -> Result<Self> {
        let blocks = Blocks::new(p, cpu.processor(), weights);
        let rows = p.batch * p.query_heads * p.queries;
        let ranges = p.keys.div_ceil(blocks.range);
        let work = rows.saturating_mul(p.keys).saturating_mul(p.score_dim + p.value_dim);
        let mut results = Self {
            states: vec![RowState::default(); rows * ranges],
            output: vec![0.0; elements("the output", &[rows, ranges, p.value_dim])?],
            weights: vec![0.0; if weights { elements("the weights", &[rows, p.keys])? } else { 0 }],
        };
        // The parts of a task lie one behind the other: [heads, chunks of rows, ranges of keys].
        let mut tasks = Vec::new();
        let (mut states, mut output, mut pairs) =
            (&mut results.states[..], &mut results.output[..], &mut results.weights[..]);
        for head in 0..p.batch * p.kv_heads {
            for first in (0..call.rows()).step_by(blocks.rows) {
                let end = (first + blocks.rows).min(call.rows());
                for from in (0..p.keys).step_by(blocks.range) {
                    let task = Task {
                        b: head / p.kv_heads,
                        kv_head: head % p.kv_heads,
                        rows: [first, end],
                        keys: [from, (from + blocks.range).min(p.keys)],
                    };
                    let count = end - first;
                    let place = Place {
                        states: cut(&mut states, count),
                        output: cut(&mut output, count * p.value_dim),
                        weights: weights.then(|| cut(&mut pairs, count * p.keys)),
                    };
                    tasks.push((task, place));
                }
            }
        }
        cpu.threads().each(work, tasks, |(task, Place { states, output, weights })| {
            let place = Place { states: &mut *states, output: &mut *output, weights };
            with_room(|room| cpu.level().run(Run { call, task, blocks, place, room }));
            if ranges == 1 {
                states.iter_mut().zip(output.chunks_exact_mut(p.value_dim)).for_each(|(state, row)| state.finish(row));
            }
        });
        Ok(if ranges > 1 { results.merged(call, p.value_dim, blocks.rows, ranges) } else { results })
    }

    /// The parts over ranges of keys as one, in the order of the ranges, each weighed by e^((its max − the largest) / τ).
    fn merged(self, call: &Call<'_>, width: usize, chunk: usize, ranges: usize) -> Self {
        let rows = self.states.len() / ranges;
        let mut merged =
            Self { states: Vec::with_capacity(rows), output: vec![0.0; rows * width], weights: Vec::new() };
        let mut first = 0;
        while merged.states.len() < rows {
            // Chunks end with the rows of a key head.
            let count = chunk.min(call.rows() - merged.states.len() % call.rows());
            for row in 0..count {
                let part = |n: usize| first * ranges + n * count + row;
                let largest = |max: f32, n: usize| {
                    let next = self.states[part(n)].max;
                    if max.is_nan() || max > next { max } else { next }
                };
                let max = (0..ranges).fold(f32::NEG_INFINITY, largest);
                let mut state = RowState { max, sum: 0.0, seen: false };
                let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
                let output = &mut merged.output[(first + row) * width..][..width];
                for n in 0..ranges {
                    let own = self.states[part(n)];
                    let factor = ((own.max - base) / call.temperature.unwrap_or(1.0)).exp();
                    state.seen |= own.seen;
                    if own.sum.is_nan() {
                        state.sum = f32::NAN;
                    } else if factor != 0.0 {
                        state.sum += own.sum * factor;
                        let own = &self.output[part(n) * width..][..width];
                        output.iter_mut().zip(own).for_each(|(y, x)| *y += x * factor);
                    }
                }
                state.finish(output);
                merged.states.push(state);
            }
            first += count;
        }
        merged
    }
}

impl RowState {
    /// From Σ p·v to Σ p·v / Σ p; 0 where no key was seen, NaN where all that is seen has a score of −∞.
    fn finish(&mut self, output: &mut [f32]) {
        if self.seen && self.max == f32::NEG_INFINITY {
            self.sum = f32::NAN;
        }
        let factor = 1.0 / self.sum;
        output.iter_mut().for_each(|y| *y = if self.seen { *y * factor } else { 0.0 });
    }
}

/// Rows of keys or values.
fn rows<'a>(
    inputs: &'a AttentionInputs<CpuTensor>,
    new: &'a CpuTensor,
    past: Option<&'a CpuTensor>,
    width: usize,
) -> Rows<'a> {
    Rows {
        heads: new.shape()[1],
        width,
        past: past.map(|past| (past.elements(), past.shape()[2])),
        new: new.elements(),
        piece: new.shape()[2],
        table: inputs.block_table.as_ref().map(|table| (table.data(), table.shape()[1], new.shape()[0])),
    }
}

/// `float` is the mask's numbers as f32, if it has some.
fn masks<'a>(
    inputs: &'a AttentionInputs<CpuTensor>,
    float: Option<&'a CpuTensor>,
    p: &AttentionProblem,
) -> Result<Vec<MaskOf<'a>>> {
    let mut masks = Vec::new();
    let layout = |shape: &[usize], full: [usize; 4]| Layout::contiguous(shape).broadcast(&full);
    let pairs = [p.batch, p.query_heads, p.queries, p.mask_keys];
    if let Some(Mask::Bool(mask)) = &inputs.mask {
        masks.push(MaskOf::Bool(mask.data(), layout(mask.shape(), pairs)?));
    }
    if let Some(mask) = float {
        masks.push(MaskOf::Float(mask.data(), layout(mask.shape(), pairs)?));
    }
    if let Some(blocks) = &inputs.block_mask {
        let full = [p.batch, p.query_heads, p.queries.div_ceil(blocks.size[0]), p.keys.div_ceil(blocks.size[1])];
        masks.push(MaskOf::Blocks(blocks.mask.data(), layout(blocks.mask.shape(), full)?, blocks.size));
    }
    Ok(masks)
}

/// As [`Backend::rotary`](crate::backend::Backend::rotary).
pub(super) fn rotary(
    x: &CpuTensor,
    embedding: &RotaryEmbedding<CpuTensor>,
    positions: &Array<u32>,
) -> Result<CpuTensor> {
    let RotaryEmbedding { options, cos, sin } = embedding;
    check_rotary(x.shape(), [cos.shape(), sin.shape()], Some(positions), options.offset)?;
    let rows = x.shape()[2];
    Ok(turned(Some(embedding), x, |b, n| i64::from(positions.data()[b * rows + n])))
}

/// [B, H, N, D] after the rotary embedding, if there is one; `position` tells of batch row and row. Positions below 0 count
/// as 0.
fn turned(
    rotary: Option<&RotaryEmbedding<CpuTensor>>,
    x: &CpuTensor,
    position: impl Fn(usize, usize) -> i64,
) -> CpuTensor {
    let Some(RotaryEmbedding { options, cos, sin }) = rotary else { return x.clone() };
    let (cos, sin, mut x) = (cos.wide(), sin.wide(), x.to_array());
    let [heads, rows, dim] = [1, 2, 3].map(|axis| x.shape()[axis]);
    for (row, data) in x.data_mut().chunks_exact_mut(dim.max(1)).enumerate() {
        let position = position(row / (heads * rows), row % rows).max(0) as usize;
        let at = position.saturating_add(options.offset);
        rotate(data, [cos.data(), sin.data()], cos.shape()[1], options.layout, at);
    }
    x.into()
}

/// The first `count` elements, taken off.
fn cut<'a, T>(rest: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let (own, others) = std::mem::take(rest).split_at_mut(count);
    *rest = others;
    own
}
