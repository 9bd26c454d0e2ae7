//! A recurrent decoder that attends to a memory, step by step.
//!
//! ```text
//! for each step t:
//!     (h_t, …) = cell([x_t; a_{t−1}])
//!     α_t, context_t = attention(h_t, memory)
//!     a_t = f(W·[h_t; context_t] + b)
//!     loss_t = Σ_j min(α_tj, coverage_j);  coverage += α_t
//! ```
//! Sources: Luong et al. 2015, eq. 5 and section 3.3; TensorFlow Addons `AttentionWrapper`; See et al. 2017, eq. 10 to 12.

use super::{Float, attention, linear, rnn};
use crate::attention::{AttentionInputs, Normalize, Score};
use crate::error::{Error, Result};
use crate::layers::{
    AttentionDecoder, CoverageCost, DecoderMemory, DecoderOutput, DecoderOutputs, DecoderProblem, DecoderState,
    DecoderWeights, LocationInput,
};
use crate::rnn::RnnInputs;
use crate::tensor::Array;

/// Every step of `input` [T, B, I] over host arrays, after `state`, or after zeros.
///
/// # Errors
/// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] with the first rule that is broken, and those of
/// [`attention`] and [`rnn`].
pub fn attention_decoder<T: Float>(
    decoder: &AttentionDecoder,
    weights: &DecoderWeights<Array<T>>,
    memory: &DecoderMemory<Array<T>>,
    input: &Array<T>,
    state: Option<&DecoderState<Array<T>>>,
) -> Result<DecoderOutputs<Array<T>>> {
    let shapes = state.map(|state| state.map(Array::shape));
    let p = DecoderProblem::new(
        decoder,
        &weights.map(Array::shape),
        &memory.map(Array::shape),
        input.shape(),
        shapes.as_ref(),
    )?;
    let zeros = |columns: usize| Array::filled(&[p.batch, columns], T::ZERO);
    let mut now = match state {
        Some(state) => state.clone(),
        None => DecoderState::new(Array::filled(&[p.layers, p.batch, p.hidden], T::ZERO), None),
    };
    let mut attended = now.attention.take().unwrap_or_else(|| zeros(p.attention));
    let mut coverage = now.coverage.take().unwrap_or_else(|| zeros(p.keys));
    let mut alignment = now.alignment.take();
    let (mut outputs, mut alignments, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for x in input.data().chunks_exact(p.batch * p.input) {
        let x = Array::new(&[p.batch, p.input], x.to_vec())?;
        let x = if decoder.input_feeding { beside(&x, &attended)? } else { x };
        let width = x.shape()[1];
        let mut cell = RnnInputs::new(x.reshape(&[1, p.batch, width])?);
        (cell.initial_h, cell.initial_c) = (Some(now.h), now.c);
        let cell = rnn(&decoder.cell, &weights.cell, &cell)?;
        let hidden = cell.output.reshape(&[p.batch, p.hidden])?;

        let head = memory.memory.clone().reshape(&[p.batch, 1, p.keys, p.memory])?;
        let query = hidden.clone().reshape(&[p.batch, 1, 1, p.hidden])?;
        let monotonic = matches!(decoder.attention.normalize, Normalize::Monotonic(_));
        let previous = match (decoder.attention.score, decoder.location) {
            (Score::Location, LocationInput::Coverage) => Some(coverage.clone()),
            _ if monotonic => Some(alignment.clone().unwrap_or_else(|| first_key(p.batch, p.keys))),
            (Score::Location, LocationInput::Alignment) => Some(alignment.clone().unwrap_or_else(|| zeros(p.keys))),
            _ => None,
        };
        let inside = AttentionInputs {
            mask: memory.mask.clone(),
            kv_lengths: memory.lengths.clone(),
            previous: previous.map(|previous| previous.reshape(&[p.batch, 1, 1, p.keys])).transpose()?,
            score: weights.score.clone(),
            ..AttentionInputs::new(query, head.clone(), head)
        };
        let found = attention(&decoder.step_attention(now.step), &inside)?;
        let context = found.output.reshape(&[p.batch, p.memory])?;
        let row = found.weights.ok_or_else(|| Error::missing("weights", "the alignment of a step"))?;
        let row = row.reshape(&[p.batch, p.keys])?;

        attended = match &weights.attention {
            Some(layer) => linear(&beside(&hidden, &context)?, &layer.weight, layer.bias.as_ref(), decoder.activation)?,
            None => context,
        };
        let (sum, loss) = super::coverage(&row, Some(&coverage), CoverageCost::Overlap)?;
        coverage = sum;
        losses.extend(loss.into_data());
        alignments.extend_from_slice(row.data());
        alignment = Some(row);
        outputs.extend_from_slice(match decoder.output {
            DecoderOutput::Attention => attended.data(),
            DecoderOutput::Cell => hidden.data(),
        });
        now = DecoderState { step: now.step.wrapping_add(1), ..DecoderState::new(cell.final_h, cell.final_c) };
    }
    let keeps = decoder.keeps_coverage();
    Ok(DecoderOutputs {
        output: Array::new(&[p.steps, p.batch, p.width], outputs)?,
        alignments: Array::new(&[p.steps, p.batch, p.keys], alignments)?,
        coverage_loss: keeps.then(|| Array::new(&[p.steps, p.batch], losses)).transpose()?,
        state: DecoderState { attention: Some(attended), alignment, coverage: keeps.then_some(coverage), ..now },
    })
}

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

/// Where a monotonic alignment starts.
fn first_key<T: Float>(batch: usize, keys: usize) -> Array<T> {
    Array::from_fn(&[batch, keys], |k| if k % keys == 0 { T::ONE } else { T::ZERO })
}

/// [B, M] and [B, N] side by side.
fn beside<T: Float>(a: &Array<T>, b: &Array<T>) -> Result<Array<T>> {
    let (m, n) = (a.shape()[1], b.shape()[1]);
    let rows = a.data().chunks_exact(m).zip(b.data().chunks_exact(n));
    Array::new(&[a.shape()[0], m + n], rows.flat_map(|(a, b)| a.iter().chain(b).copied()).collect())
}
