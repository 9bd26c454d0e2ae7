//! Soft and hard attention over the grid of a picture.

use super::{CoverageCost, Linear, rank3};
use crate::attention::{Attention, AttentionInputs, Normalize, Score, ScoreStage, ScoreWeights};
use crate::backend::{Backend, Epilogue, Numbers, Value};
use crate::error::{Error, Result};
use crate::problem::{same, temperature, vector};
use crate::rnn::Activation;
use crate::tensor::Array;

/// Attention over the annotation vectors a_1 … a_L of a picture's grid, given a decoder's state h (Xu et al. 2015, "Show,
/// Attend and Tell: Neural Image Caption Generation with Visual Attention", sections 3.1 and 4):
/// ```text
/// e_ti = v · tanh(Wa·a_i + Wh·h_t + b)        eq. 4, f_att as an additive score
/// α_t  = softmax(e_t)                         soft attention, section 4.2
///      = one location drawn from it           hard attention, section 4.1: `Normalize::Sample`
/// β_t  = sigmoid(Wβ·h_t + bβ)                 section 4.2.1, the gate; 1 without
/// z_t  = β_t · Σ_i α_ti · a_i                 eq. 9 and 13
/// penalty = λ · Σ_i (1 − Σ_t α_ti)²           eq. 14, doubly stochastic attention
/// ```
/// `Normalize::Hardmax` takes the likeliest location instead of drawing one. For either hard form the outputs hold
/// what REINFORCE learns from (eq. 11 and 12): ln softmax(e_t) at the chosen location, and the entropy of softmax(e_t).
///
/// ```
/// use regard::layers::{Linear, VisualAttention, VisualWeights};
/// use regard::reference;
/// use regard::tensor::Array;
///
/// # fn main() -> regard::Result<()> {
/// let numbers = |shape: &[usize]| Array::from_fn(shape, |k| (k as f32 * 0.7).sin());
/// let weights = VisualWeights {
///     annotation: numbers(&[8, 5]),
///     hidden: Linear::with_bias(numbers(&[8, 6]), numbers(&[8])),
///     v: numbers(&[8]),
///     gate: Some(Linear::new(numbers(&[1, 6]))),
/// };
/// // two pictures of 3 × 4 cells with 5 features each, three decoder steps
/// let (annotations, hidden) = (numbers(&[2, 12, 5]), numbers(&[3, 2, 6]));
/// let hard = VisualAttention::hard(42);
/// let outputs = hard.reference(&weights, &annotations, &hidden, None)?;
/// assert_eq!(outputs.context.shape(), [3, 2, 5]);
/// assert_eq!(outputs.alpha.shape(), [3, 2, 12]);
/// assert!(outputs.log_probability.unwrap().data().iter().all(|&p| p < 0.0));
/// # Ok(())
/// # }
/// ```
/// On the GPU: [`GpuVisualAttention`](super::GpuVisualAttention).
#[derive(Debug, Clone, PartialEq)]
pub struct VisualAttention {
    /// Softmax or sparsemax for soft attention, sample or hardmax for hard attention. Under [`Normalize::Sample`] step t
    /// draws with seed + t.
    pub normalize: Normalize,
    /// τ, above 0: scores are divided by it before the softmax.
    pub temperature: Option<f32>,
    /// λ of the doubly stochastic penalty.
    pub penalty: f32,
}

impl VisualAttention {
    /// Soft attention, λ = 1.
    pub fn soft() -> Self {
        Self { normalize: Normalize::Softmax, temperature: None, penalty: 1.0 }
    }

    /// Hard attention that draws locations, λ = 1.
    pub fn hard(seed: u32) -> Self {
        Self { normalize: Normalize::Sample { seed }, ..Self::soft() }
    }

    /// Whether one location is chosen.
    pub(crate) fn is_hard(&self) -> bool {
        matches!(self.normalize, Normalize::Sample { .. } | Normalize::Hardmax)
    }

    /// The attention of steps from `step` on, over [B, 1, T, A].
    pub(crate) fn attention(&self, step: u32) -> Attention {
        let normalize = match self.normalize {
            Normalize::Sample { seed } => Normalize::Sample { seed: seed.wrapping_add(step) },
            normalize => normalize,
        };
        let temperature = self.temperature.filter(|_| normalize != Normalize::Hardmax);
        Attention { score: Score::Additive, normalize, temperature, weights: true, ..Attention::default() }
    }
}

/// Annotation vectors with their side of the score computed, once for all steps.
#[derive(Debug, Clone)]
pub struct VisualMemory<V> {
    /// [B, L, D].
    annotations: V,
    /// Wa·a [B, L, A].
    keys: V,
}

/// Some steps: context [B, 1, n, D], α [B, 1, n, L], entropy and, of hard attention, ln p, both [B, 1, n].
struct Seen<V> {
    context: V,
    alpha: V,
    entropy: V,
    log_probability: Option<V>,
}

/// A [`VisualAttention`] with its weights on a backend, `V` its values.
#[derive(Debug, Clone)]
pub struct LoadedVisual<V> {
    layer: VisualAttention,
    weights: VisualWeights<V>,
}

impl<V> LoadedVisual<V> {
    /// From weights that are on the backend already.
    pub fn new(layer: VisualAttention, weights: VisualWeights<V>) -> Self {
        Self { layer, weights }
    }

    /// The layer it was loaded with.
    pub fn layer(&self) -> &VisualAttention {
        &self.layer
    }
}

impl<V: Numbers> LoadedVisual<V> {
    /// What every step reads of the annotation vectors [B, L, D].
    ///
    /// # Errors
    /// [`Error::Shape`] when annotations and weights do not fit, and those of the backend.
    pub fn remember<B: Backend<Value = V>>(&self, backend: &mut B, annotations: &V) -> Result<VisualMemory<V>> {
        let Self { layer, weights } = self;
        let shapes = weights.map(Value::shape);
        let batch = annotations.shape().first().copied().unwrap_or(0);
        let width = shapes.hidden.weight.last().copied().unwrap_or(0);
        VisualProblem::new(layer, &shapes, annotations.shape(), &[1, batch, width], None)?;
        let annotations = backend.wide("annotations", annotations)?;
        let keys = backend.linear(&[(&annotations, &weights.annotation)], Epilogue::default())?;
        Ok(VisualMemory { annotations, keys })
    }

    /// The steps of `hidden` [T, B, H] after `state`, or from the start.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Option`] when the request is wrong, and those of the backend.
    pub fn forward<B: Backend<Value = V>>(
        &self,
        backend: &mut B,
        memory: &VisualMemory<V>,
        hidden: &V,
        state: Option<&VisualState<V>>,
    ) -> Result<VisualOutputs<V>> {
        let (b, Self { layer, weights }) = (backend, self);
        let coverage = state.map(|state| state.coverage.shape());
        let shapes = weights.map(Value::shape);
        let p = VisualProblem::new(layer, &shapes, memory.annotations.shape(), hidden.shape(), coverage)?;
        let (steps, batch) = (p.steps, p.batch);
        let first_step = state.map_or(0, |state| state.step);

        let units = weights.v.shape()[0];
        let query = weights.hidden.forward(b, hidden)?;
        let query = b.permute(&query, &[1, 0, 2])?;
        let inputs = AttentionInputs {
            score: ScoreWeights { v: Some(weights.v.clone()), ..ScoreWeights::default() },
            ..AttentionInputs::new(
                b.reshape(&query, &[batch, 1, steps, units])?,
                b.reshape(&memory.keys, &[batch, 1, p.locations, units])?,
                b.reshape(&memory.annotations, &[batch, 1, p.locations, p.features])?,
            )
        };
        // Steps that draw have a seed each; the others are queries of one attention.
        let together = if matches!(layer.normalize, Normalize::Sample { .. }) { 1 } else { steps };
        let (mut contexts, mut alphas, mut entropies, mut logarithms) = (vec![], vec![], vec![], vec![]);
        for first in (0..steps).step_by(together) {
            let query = b.slice(&inputs.query, 2, first, together)?;
            let inputs = AttentionInputs { query, ..inputs.clone() };
            let seen = layer.look(b, &inputs, first_step.wrapping_add(first as u32))?;
            contexts.push(seen.context);
            alphas.push(seen.alpha);
            entropies.push(seen.entropy);
            logarithms.extend(seen.log_probability);
        }
        // [B, 1, n, W] of some steps each as [T, B, W]
        let all = |b: &mut B, inputs: &[B::Value], width: usize| {
            let joined = b.join(2, inputs)?;
            let joined = b.reshape(&joined, &[batch, steps, width])?;
            b.permute(&joined, &[1, 0, 2])
        };
        let context = all(b, &contexts, p.features)?;
        let alpha = all(b, &alphas, p.locations)?;
        let entropy = all(b, &entropies, 1)?;
        let log_probability = if logarithms.is_empty() { None } else { Some(all(b, &logarithms, 1)?) };

        let beta = match &weights.gate {
            Some(gate) => {
                let gate = Linear { activation: Some(Activation::Sigmoid), ..gate.clone() };
                Some(gate.forward(b, hidden)?)
            }
            None => None,
        };
        let context = match &beta {
            Some(beta) => b.multiply(&context, beta)?,
            None => context,
        };
        // Σ_t α_t
        let last = b.permute(&alpha, &[1, 2, 0])?;
        let total = b.sum(&last)?;
        let cost = CoverageCost::DoublyStochastic { factor: layer.penalty };
        let [coverage, penalty] = b.coverage(&total, state.map(|state| &state.coverage), cost)?;
        let mut flat = |x: B::Value| b.reshape(&x, &[steps, batch]);
        Ok(VisualOutputs {
            context,
            alpha,
            beta: beta.map(&mut flat).transpose()?,
            penalty,
            log_probability: log_probability.map(&mut flat).transpose()?,
            entropy: flat(entropy)?,
            state: VisualState { coverage, step: first_step.wrapping_add(steps as u32) },
        })
    }
}

impl VisualAttention {
    /// Steps that are queries of one attention, the first of which is number `step` of the sequence.
    fn look<B: Backend>(&self, b: &mut B, inputs: &AttentionInputs<B::Value>, step: u32) -> Result<Seen<B::Value>> {
        let missing = |name: &str| Error::missing(name, "what attention was asked for");
        let hard = self.is_hard();
        let attention = Attention { entropy: !hard, ..self.attention(step) };
        let chosen = b.attention(&attention, inputs)?;
        let alpha = chosen.weights.ok_or_else(|| missing("weights"))?;
        if !hard {
            let entropy = chosen.entropy.ok_or_else(|| missing("entropy"))?;
            return Ok(Seen { context: chosen.output, alpha, entropy, log_probability: None });
        }
        // The distribution that was sampled from. Its context is not used, so the value has a single feature.
        let distribution = Attention {
            normalize: Normalize::Softmax,
            temperature: self.temperature,
            weights: false,
            lse: true,
            entropy: true,
            scores: Some(ScoreStage::Masked),
            ..attention
        };
        let value = b.slice(&inputs.value, 3, 0, 1)?;
        let drawn_from = b.attention(&distribution, &AttentionInputs { value, ..inputs.clone() })?;
        let (Some(scores), Some(lse), Some(entropy)) = (drawn_from.scores, drawn_from.lse, drawn_from.entropy) else {
            return Err(missing("scores, lse, entropy"));
        };
        // Σ_i chosen_i · e_i / τ − ln Σ_i exp(e_i / τ)
        let score = b.multiply(&alpha, &scores)?;
        let score = b.sum(&score)?;
        let column = |b: &mut B, x: &B::Value| b.reshape(x, &[x.shape(), &[1]].concat());
        let factor = |b: &mut B, x: f32| b.constant("factor", &Array::filled(&[1, 1], x));
        let (over, minus) = (factor(b, 1.0 / self.temperature.unwrap_or(1.0))?, factor(b, -1.0)?);
        let (score, lse) = (column(b, &score)?, column(b, &lse)?);
        let log_probability = b.linear(&[(&score, &over), (&lse, &minus)], Epilogue::default())?;
        Ok(Seen { context: chosen.output, alpha, entropy, log_probability: Some(log_probability) })
    }
}

/// Weights of a [`VisualAttention`].
#[derive(Debug, Clone, PartialEq)]
pub struct VisualWeights<A> {
    /// Wa [A, D].
    pub annotation: A,
    /// Wh [A, H] and b `[A]`.
    pub hidden: Linear<A>,
    /// v `[A]`.
    pub v: A,
    /// Wβ [1, H] and bβ `[1]`.
    pub gate: Option<Linear<A>>,
}

impl<A> VisualWeights<A> {
    /// Each tensor through a fallible function of the tensor and its name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(&'a self, mut f: impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<VisualWeights<B>, E> {
        Ok(VisualWeights {
            annotation: f("annotation", &self.annotation)?,
            hidden: self.hidden.try_map("hidden", &mut f)?,
            v: f("v", &self.v)?,
            gate: self.gate.as_ref().map(|gate| gate.try_map("gate", &mut f)).transpose()?,
        })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> VisualWeights<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a)));
        mapped
    }
}

/// What visual attention carries from step to step; nothing at first.
#[derive(Debug, Clone, PartialEq)]
pub struct VisualState<A> {
    /// [B, L]: Σ_t α_ti of the steps done.
    pub coverage: A,
    /// Steps done.
    pub step: u32,
}

/// What visual attention gives back over T steps.
#[derive(Debug, Clone, PartialEq)]
pub struct VisualOutputs<A> {
    /// z [T, B, D], gated.
    pub context: A,
    /// α [T, B, L].
    pub alpha: A,
    /// β [T, B], if there is a gate.
    pub beta: Option<A>,
    /// `[B]`: λ · Σ_i (1 − Σ_t α_ti)² over all steps so far.
    pub penalty: A,
    /// [T, B], of hard attention: the logarithm of the chosen location's probability.
    pub log_probability: Option<A>,
    /// [T, B]: the entropy (nats) of α_t, or of the distribution that hard attention chooses from.
    pub entropy: A,
    /// After the last step.
    pub state: VisualState<A>,
}

impl<A> VisualOutputs<A> {
    /// Each tensor through a fallible function of the tensor and its name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(&'a self, mut f: impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<VisualOutputs<B>, E> {
        Ok(VisualOutputs {
            context: f("context", &self.context)?,
            alpha: f("alpha", &self.alpha)?,
            beta: self.beta.as_ref().map(|a| f("beta", a)).transpose()?,
            penalty: f("penalty", &self.penalty)?,
            log_probability: self.log_probability.as_ref().map(|a| f("log_probability", a)).transpose()?,
            entropy: f("entropy", &self.entropy)?,
            state: VisualState { coverage: f("state.coverage", &self.state.coverage)?, step: self.state.step },
        })
    }
}

/// Visual attention with its numbers checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct VisualProblem {
    steps: usize,
    batch: usize,
    /// L.
    locations: usize,
    /// D.
    features: usize,
}

impl VisualProblem {
    fn new(
        layer: &VisualAttention,
        weights: &VisualWeights<&[usize]>,
        annotations: &[usize],
        hidden: &[usize],
        coverage: Option<&[usize]>,
    ) -> Result<Self> {
        let [batch, locations, features] = rank3("annotations", "[B, L, D]", annotations)?;
        let [steps, rows, width] = rank3("hidden", "[T, B, H]", hidden)?;
        same("hidden", "axis 1 (batch)", batch, rows)?;
        let units = Linear::new(weights.annotation).check("annotation", features, "features")?;
        let found = weights.hidden.check("hidden", width, "hidden")?;
        same("hidden.weight", "axis 0 (attention dim)", units, found)?;
        vector("v", Some(weights.v), units, "attention dim")?;
        if let Some(gate) = &weights.gate {
            let found = gate.check("gate", width, "hidden")?;
            same("gate.weight", "axis 0 (one number)", 1, found)?;
        }
        if let Some(coverage) = coverage
            && coverage != [batch, locations]
        {
            let expected = format!("[{batch}, {locations}]");
            return Err(Error::shape("state.coverage", "shape", expected, format!("{coverage:?}")));
        }
        if matches!(layer.normalize, Normalize::Monotonic(_)) {
            return Err(Error::option(
                "normalize",
                "a grid has no order: choose softmax, sparsemax, sample or hardmax",
            ));
        }
        if !layer.penalty.is_finite() {
            return Err(Error::option("penalty", format!("must be finite, not {}", layer.penalty)));
        }
        layer.temperature.map_or(Ok(()), temperature)?;
        Ok(Self { steps, batch, locations, features })
    }
}
