//! Soft and hard attention over the grid of a picture, step by step.
//!
//! Source: Xu et al. 2015, "Show, Attend and Tell", eq. 4, 5, 8, 11 to 14 and section 4.2.1.

use super::{Float, activate, attention, linear};
use crate::attention::{Attention, AttentionInputs, ScoreStage, ScoreWeights};
use crate::error::{Error, Result};
use crate::layers::{CoverageCost, VisualAttention, VisualOutputs, VisualProblem, VisualState, VisualWeights};
use crate::rnn::Activation;
use crate::tensor::Array;

/// The steps of `hidden` [T, B, H] over `annotations` [B, L, D], after `state`, or from the start.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Option`] with the first rule that is broken.
pub fn visual<T: Float>(
    layer: &VisualAttention,
    weights: &VisualWeights<Array<T>>,
    annotations: &Array<T>,
    hidden: &Array<T>,
    state: Option<&VisualState<Array<T>>>,
) -> Result<VisualOutputs<Array<T>>> {
    let before = state.map(|state| state.coverage.shape());
    let p = VisualProblem::new(layer, &weights.map(Array::shape), annotations.shape(), hidden.shape(), before)?;
    let mut coverage = state.map(|state| state.coverage.clone());
    let mut penalty = Array::filled(&[p.batch], T::ZERO);
    let mut step = state.map_or(0, |state| state.step);
    let grid = annotations.clone().reshape(&[p.batch, 1, p.locations, p.features])?;
    let (mut contexts, mut alphas, mut betas) = (Vec::new(), Vec::new(), Vec::new());
    let (mut logs, mut entropies) = (Vec::new(), Vec::new());
    for h in hidden.data().chunks_exact(p.batch * p.hidden) {
        let h = Array::new(&[p.batch, p.hidden], h.to_vec())?;
        let inputs = AttentionInputs {
            score: ScoreWeights {
                query_weight: Some(weights.hidden.weight.clone()),
                key_weight: Some(weights.annotation.clone()),
                v: Some(weights.v.clone()),
                bias: weights.hidden.bias.clone(),
                ..ScoreWeights::default()
            },
            ..AttentionInputs::new(h.clone().reshape(&[p.batch, 1, 1, p.hidden])?, grid.clone(), grid.clone())
        };
        let options = Attention { scores: Some(ScoreStage::Masked), ..layer.attention(step) };
        let found = attention(&options, &inputs)?;
        let (Some(alpha), Some(scores)) = (found.weights, found.scores) else {
            return Err(Error::missing("weights, scores", "what was asked for"));
        };
        let beta = match &weights.gate {
            Some(gate) => {
                linear(&h, &gate.weight, gate.bias.as_ref(), None)?.map(|&x| activate(Activation::Sigmoid, x))
            }
            None => Array::filled(&[p.batch, 1], T::ONE),
        };
        for b in 0..p.batch {
            let alpha = &alpha.data()[b * p.locations..][..p.locations];
            let context = &found.output.data()[b * p.features..][..p.features];
            contexts.extend(context.iter().map(|&z| beta.data()[b] * z));
            let (log, entropy) = match layer.is_hard() {
                true => chosen(&scores.data()[b * p.locations..][..p.locations], alpha, layer.temperature),
                false => (T::ZERO, entropy(alpha)),
            };
            logs.push(log);
            entropies.push(entropy);
        }
        let row = alpha.reshape(&[p.batch, p.locations])?;
        let cost = CoverageCost::DoublyStochastic { factor: layer.penalty };
        let (sum, costs) = super::coverage(&row, coverage.as_ref(), cost)?;
        (coverage, penalty) = (Some(sum), costs);
        alphas.extend(row.into_data());
        betas.extend_from_slice(beta.data());
        step = step.wrapping_add(1);
    }
    let coverage = coverage.ok_or_else(|| Error::missing("hidden", "at least one step"))?;
    let steps = [p.steps, p.batch];
    Ok(VisualOutputs {
        context: Array::new(&[p.steps, p.batch, p.features], contexts)?,
        alpha: Array::new(&[p.steps, p.batch, p.locations], alphas)?,
        beta: weights.gate.as_ref().map(|_| Array::new(&steps, betas)).transpose()?,
        penalty,
        log_probability: layer.is_hard().then(|| Array::new(&steps, logs)).transpose()?,
        entropy: Array::new(&steps, entropies)?,
        state: VisualState { coverage, step },
    })
}

/// ln p at the chosen location and −Σ p · ln p, for p = softmax(e / τ).
fn chosen<T: Float>(scores: &[T], one_hot: &[T], temperature: Option<f32>) -> (T, T) {
    let scores: Vec<T> = scores.iter().map(|&e| e / T::from_f32(temperature.unwrap_or(1.0))).collect();
    let max = scores.iter().copied().fold(T::NEG_INFINITY, T::max);
    let log_sum = scores.iter().map(|&e| (e - max).exp()).sum::<T>().ln();
    let log = |e: T| e - max - log_sum;
    let entropy = -scores.iter().map(|&e| log(e).exp() * log(e)).sum::<T>();
    let chosen = one_hot.iter().position(|&a| a == T::ONE);
    (chosen.map_or(T::NAN, |i| log(scores[i])), entropy)
}

/// −Σ α · ln α, with 0 · ln 0 = 0.
fn entropy<T: Float>(alpha: &[T]) -> T {
    -alpha.iter().filter(|&&a| a != T::ZERO).map(|&a| a * a.ln()).sum::<T>()
}
