//! The baseline of a comparison: the reference in f32, over what a device that stores f16 keeps of inputs and results.
//! Beside it and the f64 reference over the inputs as given, every result of a computation is judged.

use half::f16;

use crate::attention::{Attention, AttentionInputs, AttentionOutputs, Mask};
use crate::compare::{Verdict, judge};
use crate::error::{Error, Result};
use crate::problem::{AttentionProblem, Role};
use crate::reference;
use crate::rnn::{Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::{Array, DType};

/// What a comparison says of each result, by name.
pub type Verdicts = Vec<(&'static str, Verdict)>;

/// The values that storage as `dtype` leaves of an array.
pub fn stored(array: &Array, dtype: DType) -> Array {
    match dtype {
        DType::F16 => array.map(|&x| f16::from_f32(x).to_f32()),
        DType::F32 | DType::U32 => array.clone(),
    }
}

/// An input as its role leaves it on a device that stores `dtype`.
fn input(role: Role, array: &Array, dtype: DType) -> Result<Array> {
    Ok(if role == Role::Stored { stored(array, dtype) } else { array.clone() })
}

/// Attention in f32, its inputs and results rounded as storage as `dtype` rounds them.
///
/// # Errors
/// Those of the reference.
pub fn attention(
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    dtype: DType,
) -> Result<AttentionOutputs<Array>> {
    let types = attention_types(options, inputs, dtype)?;
    let bool_mask = matches!(inputs.mask, Some(Mask::Bool(_)));
    let inputs = inputs.try_map(|name, array| input(Role::of(name, bool_mask), array, dtype))?;
    let outputs = reference::attention(options, &inputs)?;
    let mut types = types.into_iter();
    outputs.try_map(|_, array| Ok(stored(array, types.next().unwrap_or(DType::F32))))
}

/// Element types of the results, in the order of [`AttentionOutputs::named`].
fn attention_types(options: &Attention, inputs: &AttentionInputs<Array>, dtype: DType) -> Result<Vec<DType>> {
    let problem = AttentionProblem::new(options, &inputs.map(Array::shape))?;
    let outputs = problem.outputs(options, dtype, inputs.past_key.is_some());
    Ok(outputs.named().map(|(_, (_, dtype))| *dtype).collect())
}

/// A recurrence in f32, its inputs and weights rounded as storage as `dtype` rounds them.
///
/// # Errors
/// Those of the reference.
pub fn rnn(
    options: &Rnn,
    stack: &RnnStack<Array>,
    inputs: &RnnInputs<Array>,
    dtype: DType,
) -> Result<RnnOutputs<Array>> {
    let kept = |name: &str, array: &Array| input(Role::of_rnn(name), array, dtype);
    let stack: Result<_> = stack.iter().map(|layer| layer.iter().map(|w| w.try_map(kept)).collect()).collect();
    reference::rnn(options, &stack?, &inputs.try_map(kept)?)
}

/// Every result of an attention against the reference.
///
/// # Errors
/// Those of the reference; [`Error::Shape`] where the results are others than the reference has.
pub fn judge_attention(
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    got: &AttentionOutputs<Array>,
    dtype: DType,
) -> Result<Verdicts> {
    let oracle = reference::attention(options, &inputs.map(widened))?;
    let baseline = attention(options, inputs, dtype)?;
    let types = attention_types(options, inputs, dtype)?;
    verdicts(got.named(), oracle.named(), baseline.named(), types)
}

/// Every result of a recurrence against the reference.
///
/// # Errors
/// As [`judge_attention`].
pub fn judge_rnn(
    options: &Rnn,
    stack: &RnnStack<Array>,
    inputs: &RnnInputs<Array>,
    got: &RnnOutputs<Array>,
    dtype: DType,
) -> Result<Verdicts> {
    let wide = stack.iter().map(|layer| layer.iter().map(|w| w.map(widened)).collect()).collect();
    let oracle = reference::rnn(options, &wide, &inputs.map(widened))?;
    let baseline = rnn(options, stack, inputs, dtype)?;
    verdicts(got.named(), oracle.named(), baseline.named(), std::iter::repeat(DType::F32))
}

fn widened(array: &Array) -> Array<f64> {
    array.map(|&x| f64::from(x))
}

fn verdicts<'a>(
    got: impl Iterator<Item = (&'static str, &'a Array)>,
    oracle: impl Iterator<Item = (&'static str, &'a Array<f64>)>,
    baseline: impl Iterator<Item = (&'static str, &'a Array)>,
    types: impl IntoIterator<Item = DType>,
) -> Result<Verdicts> {
    let (got, oracle): (Vec<_>, Vec<_>) = (got.collect(), oracle.collect());
    let (found, wanted): (Vec<_>, Vec<_>) =
        (got.iter().map(|(name, _)| *name).collect(), oracle.iter().map(|(name, _)| *name).collect());
    if found != wanted {
        return Err(Error::shape("outputs", "names", wanted.join(", "), found.join(", ")));
    }
    got.into_iter()
        .zip(oracle)
        .zip(baseline.zip(types))
        .map(|(((name, got), (_, oracle)), ((_, baseline), dtype))| {
            Ok((name, judge(name, got, oracle, baseline, dtype)?))
        })
        .collect()
}
