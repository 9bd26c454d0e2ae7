//! The baseline of a comparison: the reference in f32, over inputs and results rounded to f16 where the device stores them so.
//! Beside it and the f64 reference over the inputs as given, every result of a computation is judged.

use half::f16;

use crate::attention::{Attention, AttentionInputs, AttentionOutputs};
use crate::compare::{Verdict, judge};
use crate::error::{Error, Result};
use crate::problem::{AttentionProblem, Role, Storage};
use crate::q8;
use crate::reference;
use crate::rnn::{Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::{Array, DType, Layout};

/// The verdict on each result, by name.
pub type Verdicts = Vec<(&'static str, Verdict)>;

/// The values that storage as `dtype` leaves of an array called `name`.
///
/// # Errors
/// [`Error::Shape`] for an array that is not made of whole blocks of q8.
pub fn stored(name: &str, array: &Array, dtype: DType) -> Result<Array> {
    dtype.check_layout(name, &Layout::contiguous(array.shape()))?;
    match dtype {
        DType::F16 => Ok(array.map(|&x| f16::from_f32(x).to_f32())),
        DType::Q8 => Array::new(array.shape(), q8::dequantize(&q8::quantize(array.data()))),
        DType::F32 | DType::U32 => Ok(array.clone()),
    }
}

/// Attention in f32, its inputs and results rounded as `storage` rounds them.
///
/// # Errors
/// Those of the reference; [`Error::Shape`] for keys and values that are not made of whole blocks of q8.
pub fn attention(
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    storage: impl Into<Storage>,
) -> Result<AttentionOutputs<Array>> {
    let storage = storage.into();
    let types = attention_types(options, inputs, storage)?;
    let outputs = reference::attention(options, &kept(inputs, storage)?)?;
    let mut types = types.into_iter();
    outputs.try_map(|name, array| stored(name, array, types.next().unwrap_or(DType::F32)))
}

/// The inputs rounded to the storage type of the device.
fn kept(inputs: &AttentionInputs<Array>, storage: Storage) -> Result<AttentionInputs<Array>> {
    inputs.try_map(
        |name, array| match Role::of(name) {
            role @ (Role::Stored | Role::Cached) => stored(name, array, role.dtype(storage)),
            Role::Float => Ok(array.clone()),
        },
        |_, array| Ok(array.clone()),
    )
}

/// Element types of the results, in the order of [`AttentionOutputs::named`].
fn attention_types(options: &Attention, inputs: &AttentionInputs<Array>, storage: Storage) -> Result<Vec<DType>> {
    let problem = AttentionProblem::new(options, &inputs.map(Array::shape, Array::shape))?;
    let outputs = problem.outputs(options, storage.element, inputs.past.is_some());
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
    let (stack, inputs) = kept_rnn(stack, inputs, dtype)?;
    reference::rnn(options, &stack, &inputs)
}

/// Weights and inputs rounded to the storage type of the device.
fn kept_rnn(
    stack: &RnnStack<Array>,
    inputs: &RnnInputs<Array>,
    dtype: DType,
) -> Result<(RnnStack<Array>, RnnInputs<Array>)> {
    let kept = |name: &str, array: &Array| match Role::of_rnn(name) {
        Role::Stored => stored(name, array, dtype),
        _ => Ok(array.clone()),
    };
    let stack: Result<_> = stack.iter().map(|layer| layer.iter().map(|w| w.try_map(kept)).collect()).collect();
    Ok((stack?, inputs.try_map(kept, |_, array| Ok(array.clone()))?))
}

/// Every result of an attention against the reference.
///
/// What keys and values lose in a cache of q8 is no error of a kernel: all references are given what the cache holds.
///
/// # Errors
/// Those of [`attention`]; [`Error::Shape`] where the results are others than the reference has.
pub fn judge_attention(
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    got: &AttentionOutputs<Array>,
    storage: impl Into<Storage>,
) -> Result<Verdicts> {
    let storage = storage.into();
    let held;
    let inputs = match storage.cache {
        DType::Q8 => {
            held = cached(inputs, storage)?;
            &held
        }
        _ => inputs,
    };
    let element = storage.element;
    let oracle = reference::attention(options, &inputs.map_numbers(widened))?;
    let baseline = attention(options, inputs, element)?;
    let types = attention_types(options, inputs, storage)?;
    let mut found = verdicts(got.named(), oracle.named(), baseline.named(), types)?;
    if found.iter().any(|(_, verdict)| !verdict.is_sound()) {
        // Rounding to f16 is the caller's choice: the error of f32 arithmetic is judged over the rounded inputs.
        let kept = kept(inputs, element.into())?;
        let oracle = reference::attention(options, &kept.map_numbers(widened))?;
        let plain = reference::attention(options, &kept)?;
        let values = kept.value.data().iter().filter(|x| x.is_finite());
        let largest = values.fold(0.0, |largest: f64, x| largest.max(f64::from(x.abs())));
        of_f32_alone(&mut found, plain.named(), oracle.named(), |name| match name {
            "output" => largest,
            "weights" | "lse" | "max_sum" | "entropy" | "scores" => 1.0,
            _ => 0.0,
        });
    }
    Ok(found)
}

/// The largest difference between the outputs of attention, in f64, over keys and values as given and as the cache holds
/// them.
///
/// # Errors
/// As [`judge_attention`].
pub fn cache_error(options: &Attention, inputs: &AttentionInputs<Array>, storage: Storage) -> Result<f64> {
    let exact = reference::attention(options, &inputs.map_numbers(widened))?.output;
    let held = reference::attention(options, &cached(inputs, storage)?.map_numbers(widened))?.output;
    let differences = exact.data().iter().zip(held.data()).map(|(a, b)| (a - b).abs());
    // The largest one, or NaN if there is any.
    Ok(differences.fold(0.0, |worst, x| if x > worst || x.is_nan() { x } else { worst }))
}

/// The inputs with keys and values as the cache holds them.
fn cached(inputs: &AttentionInputs<Array>, storage: Storage) -> Result<AttentionInputs<Array>> {
    Ok(AttentionInputs {
        key: stored("key", &inputs.key, storage.cache)?,
        value: stored("value", &inputs.value, storage.cache)?,
        ..inputs.clone()
    })
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
    let wide = |stack: &RnnStack<Array>| -> RnnStack<Array<f64>> {
        stack.iter().map(|layer| layer.iter().map(|w| w.map(widened)).collect()).collect()
    };
    let oracle = reference::rnn(options, &wide(stack), &inputs.map_numbers(widened))?;
    let baseline = rnn(options, stack, inputs, dtype)?;
    let mut found = verdicts(got.named(), oracle.named(), baseline.named(), std::iter::repeat(DType::F32))?;
    if dtype == DType::F16 && found.iter().any(|(_, verdict)| !verdict.is_sound()) {
        let (stack, inputs) = kept_rnn(stack, inputs, dtype)?;
        let oracle = reference::rnn(options, &wide(&stack), &inputs.map_numbers(widened))?;
        of_f32_alone(&mut found, baseline.named(), oracle.named(), |_| 0.0);
    }
    Ok(found)
}

/// Judges the baseline anew, by results of f32 and f64 over the same inputs; `least` tells how large the numbers are that
/// a result is made of.
fn of_f32_alone<'a>(
    verdicts: &mut Verdicts,
    plain: impl Iterator<Item = (&'static str, &'a Array)>,
    oracle: impl Iterator<Item = (&'static str, &'a Array<f64>)>,
    least: impl Fn(&str) -> f64,
) {
    for (((name, verdict), (_, plain)), (_, oracle)) in verdicts.iter_mut().zip(plain).zip(oracle) {
        *verdict = verdict.made_of(least(name), plain, oracle);
    }
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
