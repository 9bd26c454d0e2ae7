//! A recurrent encoder and the attention of decoder states over its outputs, one after the other.
//!
//! Sources: Bahdanau et al. 2015, section 3; Luong et al. 2015, section 3.1; TensorFlow's `dynamic_rnn` (lengths).

use super::{Float, attention, rnn};
use crate::attention::AttentionInputs;
use crate::error::Result;
use crate::layers::{AttentiveEncoder, AttentiveInputs, AttentiveOutputs, AttentiveProblem, AttentiveWeights};
use crate::tensor::Array;

/// An encoder over host arrays, and what each query sees of its outputs.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Missing`](crate::Error::Missing) or
/// [`Error::Option`](crate::Error::Option) with the first rule that is broken.
pub fn attentive_encoder<T: Float>(
    layer: &AttentiveEncoder,
    weights: &AttentiveWeights<Array<T>>,
    inputs: &AttentiveInputs<Array<T>>,
) -> Result<AttentiveOutputs<Array<T>>> {
    let p = AttentiveProblem::new(layer, &weights.map(Array::shape), &inputs.map(Array::shape))?;
    let encoded = rnn(&layer.rnn, &weights.rnn, &inputs.sequence)?;
    let states = encoded.output.permute(&[1, 0, 2])?.reshape(&[p.batch, 1, p.steps, p.width])?;
    // [B, ·, ·] as one head, and back
    let head = |x: &Array<T>| x.clone().reshape(&[p.batch, 1, x.shape()[1], x.shape()[2]]);
    let pairs = |x: Option<Array<T>>| x.map(|x| x.reshape(&[p.batch, p.queries, p.steps])).transpose();
    let rows = |x: Option<Array<T>>| x.map(|x| x.reshape(&[p.batch, p.queries])).transpose();
    let attended = AttentionInputs {
        mask: inputs.mask.clone(),
        kv_lengths: inputs.sequence.lengths.clone(),
        previous: inputs.previous.as_ref().map(head).transpose()?,
        score: weights.score.clone(),
        ..AttentionInputs::new(head(&inputs.query)?, states.clone(), states)
    };
    let attended = attention(&layer.attention, &attended)?;
    Ok(AttentiveOutputs {
        context: attended.output.reshape(&[p.batch, p.queries, p.width])?,
        weights: pairs(attended.weights)?,
        lse: rows(attended.lse)?,
        max_sum: attended.max_sum.map(|x| x.reshape(&[p.batch, p.queries, 2])).transpose()?,
        entropy: rows(attended.entropy)?,
        scores: pairs(attended.scores)?,
        encoded,
    })
}
