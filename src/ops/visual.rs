//! Soft and hard attention over the grid of a picture, on the GPU.

use crate::attention::{Attention, AttentionInputs, Normalize, ScoreStage, ScoreWeights};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::copy;
use crate::layers::{CoverageCost, VisualAttention, VisualOutputs, VisualProblem, VisualState, VisualWeights};
use crate::ops::decoder::cover;
use crate::ops::linear::{Epilogue, linear, sum, to_f32};
use crate::ops::multi_head::upload_weight;
use crate::rnn::Activation;
use crate::tensor::{Array, DType, Layout};

/// Annotation vectors with their side of the score computed, once for all steps.
#[derive(Debug, Clone)]
pub struct VisualMemory {
    /// [B, L, D], f32.
    annotations: Tensor,
    /// Wa·a [B, L, A].
    keys: Tensor,
}

impl VisualAttention {
    /// Records what every step reads of the annotation vectors [B, L, D] (f32 or f16).
    ///
    /// # Errors
    /// [`Error::Shape`] when annotations and weights do not fit, [`Error::Limit`] when the work does not fit the device.
    pub fn remember(
        &self,
        run: &mut Run<'_>,
        weights: &VisualWeights<Tensor>,
        annotations: &Tensor,
    ) -> Result<VisualMemory> {
        annotations.dtype().check_float("annotations")?;
        let shapes = weights.map(Tensor::shape);
        let batch = annotations.shape().first().copied().unwrap_or(0);
        let width = shapes.hidden.weight.last().copied().unwrap_or(0);
        VisualProblem::new(self, &shapes, annotations.shape(), &[1, batch, width], None)?;
        let keys = linear(run, &[(annotations, &weights.annotation)], &Epilogue::default())?;
        Ok(VisualMemory { annotations: to_f32(run, annotations)?, keys })
    }

    /// Records the steps of `hidden` [T, B, H] (f32 or f16) after `state`, or from the start; the tensors returned are
    /// filled when the run is submitted.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Option`] when the request is wrong, [`Error::Limit`] when it does not fit the
    /// device.
    pub fn record(
        &self,
        run: &mut Run<'_>,
        weights: &VisualWeights<Tensor>,
        memory: &VisualMemory,
        hidden: &Tensor,
        state: Option<&VisualState<Tensor>>,
    ) -> Result<VisualOutputs<Tensor>> {
        hidden.dtype().check_float("hidden")?;
        let coverage = state.map(|state| state.coverage.shape());
        let shapes = weights.map(Tensor::shape);
        let p = VisualProblem::new(self, &shapes, memory.annotations.shape(), hidden.shape(), coverage)?;
        let (steps, batch) = (p.steps, p.batch);
        let first_step = state.map_or(0, |state| state.step);

        // [T, B, ·] seen as [B, 1, T, ·]
        let queries = |x: &Tensor| x.with_layout(x.layout().permute(&[1, 0, 2])?.split(0, batch, 1)?);
        let head = |x: &Tensor| x.with_layout(x.layout().split(0, batch, 1)?);
        let epilogue = Epilogue { bias: weights.hidden.bias.as_ref(), ..Epilogue::default() };
        let query = linear(run, &[(hidden, &weights.hidden.weight)], &epilogue)?;
        let made = |run: &Run<'_>, name: &str, width: usize| {
            Tensor::uninitialized(run.gpu(), name, &[steps, batch, width], DType::F32)
        };
        let mut all = Steps {
            query: queries(&query)?,
            keys: head(&memory.keys)?,
            values: head(&memory.annotations)?,
            v: weights.v.clone(),
            context: made(run, "context", p.features)?,
            alpha: made(run, "alpha", p.locations)?,
            entropy: Tensor::uninitialized(run.gpu(), "entropy", &[steps, batch], DType::F32)?,
            log_probability: None,
        };
        if self.is_hard() {
            all.log_probability = Some(made(run, "log probability", 1)?);
        }
        // Steps that draw have a seed each; the others are queries of one attention.
        let together = if matches!(self.normalize, Normalize::Sample { .. }) { 1 } else { steps };
        for first in (0..steps).step_by(together) {
            all.record(run, self, &p, first, together, first_step.wrapping_add(first as u32))?;
        }

        let beta = match &weights.gate {
            Some(gate) => {
                let activation = Some(Activation::Sigmoid);
                let epilogue = Epilogue { bias: gate.bias.as_ref(), activation, ..Epilogue::default() };
                Some(linear(run, &[(hidden, &gate.weight)], &epilogue)?)
            }
            None => None,
        };
        let context = match &beta {
            Some(beta) => gate(run, &p, beta, &all.context)?,
            None => all.context,
        };
        let total = sum_over_steps(run, &p, &all.alpha)?;
        let (penalty_view, penalty) = run.output("penalty", &[batch], DType::F32)?;
        let cost = CoverageCost::DoublyStochastic { factor: self.penalty };
        let coverage = cover(run, &total, state.map(|state| &state.coverage), Some((cost, &penalty_view)))?;
        let flat = |x: Tensor| x.with_layout(x.layout().reshape(&[steps, batch])?);
        Ok(VisualOutputs {
            context,
            alpha: all.alpha,
            beta: beta.map(flat).transpose()?,
            penalty,
            log_probability: all.log_probability.map(flat).transpose()?,
            entropy: all.entropy,
            state: VisualState { coverage, step: first_step.wrapping_add(steps as u32) },
        })
    }

    /// Runs the steps of `hidden` [T, B, H] over `annotations` [B, L, D] and submits, as [`Run::submit`] does, without waiting for it.
    ///
    /// # Errors
    /// As [`VisualAttention::record`], and [`Error::Gpu`] or [`Error::DeviceLost`] from the device.
    pub fn run(
        &self,
        gpu: &Gpu,
        weights: &VisualWeights<Tensor>,
        annotations: &Tensor,
        hidden: &Tensor,
        state: Option<&VisualState<Tensor>>,
    ) -> Result<VisualOutputs<Tensor>> {
        let mut run = Run::new(gpu);
        let memory = self.remember(&mut run, weights, annotations)?;
        let outputs = self.record(&mut run, weights, &memory, hidden, state)?;
        run.submit()?;
        Ok(outputs)
    }
}

impl VisualWeights<Array<f32>> {
    /// Uploads every tensor: matrices as `dtype`, vectors as f32.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Unsupported`] or [`Error::Gpu`] from the device.
    pub fn upload(&self, gpu: &Gpu, dtype: DType) -> Result<VisualWeights<Tensor>> {
        self.try_map(|name, array| upload_weight(gpu, name, array, dtype))
    }
}

impl VisualOutputs<Tensor> {
    /// Reads every tensor back. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Gpu`] or [`Error::DeviceLost`].
    pub fn download(&self, gpu: &Gpu) -> Result<VisualOutputs<Array<f32>>> {
        self.try_map(|_, tensor| tensor.download(gpu))
    }
}

/// The tensors of all steps; [B, 1, T or L, ·] where attention reads them, [T, B, ·] where it writes.
struct Steps {
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    v: Tensor,
    context: Tensor,
    alpha: Tensor,
    entropy: Tensor,
    log_probability: Option<Tensor>,
}

impl Steps {
    /// `count` steps from `first` on, the first of which is number `step` of the sequence.
    fn record(
        &self,
        run: &mut Run<'_>,
        layer: &VisualAttention,
        p: &VisualProblem,
        first: usize,
        count: usize,
        step: u32,
    ) -> Result<()> {
        // Part of [T, B, W] as [B, 1, count, W].
        let part = |x: &Tensor| -> Result<Tensor> {
            x.with_layout(x.layout().narrow(0, first, count)?.permute(&[1, 0, 2])?.split(0, p.batch, 1)?)
        };
        let inputs = AttentionInputs {
            score: ScoreWeights { v: Some(self.v.clone()), ..ScoreWeights::default() },
            ..AttentionInputs::new(self.query.narrow(2, first, count)?, self.keys.clone(), self.values.clone())
        };
        let hard = layer.is_hard();
        let attention = Attention { entropy: !hard, ..layer.attention(step) };
        let chosen = attention.record_into(run, &inputs, &part(&self.context)?)?;
        let weights = chosen.weights.ok_or_else(|| Error::missing("weights", "α of a step"))?;
        copy(run, &weights, &part(&self.alpha)?)?;
        let mut entropy = chosen.entropy;
        if let Some(log_probability) = &self.log_probability {
            // The distribution that was chosen from; its context is of no use and one feature wide.
            let distribution = Attention {
                normalize: Normalize::Softmax,
                temperature: layer.temperature,
                weights: false,
                lse: true,
                entropy: true,
                scores: Some(ScoreStage::Masked),
                ..attention
            };
            let inputs = AttentionInputs { value: self.values.narrow(3, 0, 1)?, ..inputs };
            let drawn_from = distribution.record(run, &inputs)?;
            entropy = drawn_from.entropy;
            let scores = drawn_from.scores.ok_or_else(|| Error::missing("scores", "e of a step"))?;
            let lse = drawn_from.lse.ok_or_else(|| Error::missing("lse", "ln Σ exp e of a step"))?;
            let found = log_of_chosen(run, layer, p, count, [&weights, &scores, &lse])?;
            copy(run, &found, &part(log_probability)?)?;
        }
        let entropy = entropy.ok_or_else(|| Error::missing("entropy", "the entropy of a step"))?;
        let target = self.entropy.narrow(0, first, count)?.permute(&[1, 0])?;
        let entropy = entropy.with_layout(entropy.layout().reshape(target.shape())?)?;
        copy(run, &entropy, &target)
    }
}

/// Σ_i chosen_i · e_i / τ − ln Σ_i exp(e_i / τ) for [B, 1, n, L], [B, 1, n, L] and [B, 1, n]: [B, 1, n, 1].
fn log_of_chosen(
    run: &mut Run<'_>,
    layer: &VisualAttention,
    p: &VisualProblem,
    count: usize,
    [chosen, scores, lse]: [&Tensor; 3],
) -> Result<Tensor> {
    let rows = p.batch * count;
    let (score_view, score) = run.output("score of the chosen", &[rows, 1, 1, 1], DType::F32)?;
    let (chosen, scores) = (run.bind("chosen", chosen), run.bind("scores", scores));
    let chosen = chosen.with(chosen.layout.reshape(&[rows, 1, 1, p.locations])?);
    let scores = scores.with(scores.layout.reshape(&[rows, 1, p.locations, 1])?);
    sum(run, &chosen, &scores, &score_view)?;
    let factor = |run: &Run<'_>, x: f32| Tensor::upload(run.gpu(), "factor", &Array::filled(&[1, 1], x), DType::F32);
    let (over, minus) = (factor(run, 1.0 / layer.temperature.unwrap_or(1.0))?, factor(run, -1.0)?);
    let column = |x: &Tensor| x.with_layout(x.layout().reshape(&[p.batch, 1, count, 1])?);
    linear(run, &[(&column(&score)?, &over), (&column(lse)?, &minus)], &Epilogue::default())
}

/// β · context for β [T, B, 1] and context [T, B, D]: a sum over one entry each.
fn gate(run: &mut Run<'_>, p: &VisualProblem, beta: &Tensor, context: &Tensor) -> Result<Tensor> {
    let (gated, tensor) = run.output("gated context", context.shape(), DType::F32)?;
    let rows = p.steps * p.batch;
    let (beta, context) = (run.bind("beta", beta), run.bind("context", context));
    let beta = beta.with(beta.layout.reshape(&[rows, 1, 1, 1])?);
    let context = context.with(context.layout.reshape(&[rows, 1, 1, p.features])?);
    let gated = gated.with(gated.layout.reshape(&[rows, 1, 1, p.features])?);
    sum(run, &beta, &context, &gated)?;
    Ok(tensor)
}

/// [T, B, L] to [B, L].
fn sum_over_steps(run: &mut Run<'_>, p: &VisualProblem, alpha: &Tensor) -> Result<Tensor> {
    let one = Tensor::upload(run.gpu(), "one", &Array::filled(&[1], 1.0), DType::F32)?;
    let (total, tensor) = run.output("sum over steps", &[p.batch, p.locations], DType::F32)?;
    let (one, alpha) = (run.bind("one", &one), run.bind("alpha", alpha));
    let ones = one.with(Layout { shape: vec![p.batch, 1, 1, p.steps], strides: vec![0; 4], ..one.layout.clone() });
    let alpha = alpha.with(alpha.layout.permute(&[1, 0, 2])?.split(0, p.batch, 1)?);
    let total = total.with(total.layout.reshape(&[p.batch, 1, 1, p.locations])?);
    sum(run, &ones, &alpha, &total)?;
    Ok(tensor)
}

fn copy(run: &mut Run<'_>, source: &Tensor, target: &Tensor) -> Result<()> {
    let (source, target) = (run.bind("source", source), run.bind("target", target));
    let caps = run.gpu().caps();
    copy::record(run.recording_mut(), caps, &source, &target)
}
