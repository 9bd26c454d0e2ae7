//! Attention on the GPU.

use crate::attention::{
    Algorithm, Attention, AttentionInputs, AttentionOutputs, Monotonic, Normalize, Past, Score, ScoreStage,
};
use crate::device::Caps;
use crate::epilogue::Epilogue;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::fused::{self, Fused};
use crate::kernels::monotonic::Before;
use crate::kernels::rotary::RowPositions;
use crate::kernels::score::Scored;
use crate::kernels::visibility::Visibility;
use crate::kernels::{copy, entropy, location, matmul, monotonic, rotary, score, softmax, weighted_sum};
use crate::plan::AttentionPlan;
use crate::problem::{AttentionProblem, Role, Storage};
use crate::recording::{Recording, View};
use crate::tensor::{Array, DType};

impl Attention {
    /// Records this attention over `inputs`; the tensors returned are filled when the run is submitted.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or
    /// [`Error::Option`] when the request is wrong, [`Error::Limit`] when it
    /// does not fit the device.
    pub fn record(&self, run: &mut Run<'_>, inputs: &AttentionInputs<Tensor>) -> Result<AttentionOutputs<Tensor>> {
        self.record_to(run, inputs, Output::Dense, None)
    }

    /// As [`Attention::record`], as the caller has planned it: to measure a plan, or to test one.
    ///
    /// # Errors
    /// As [`Attention::record`].
    pub fn record_planned(
        &self,
        run: &mut Run<'_>,
        inputs: &AttentionInputs<Tensor>,
        plan: &AttentionPlan,
    ) -> Result<AttentionOutputs<Tensor>> {
        self.record_to(run, inputs, Output::Dense, Some(plan))
    }

    /// As [`Attention::record`], with `output` written where the caller wants it: a tensor [B, Hq, Nq, Dv] of the
    /// query's element type in any layout that repeats no element, such as heads side by side ([`Tensor::heads`]). Its memory
    /// must not overlap that of any input.
    ///
    /// # Errors
    /// As [`Attention::record`], and [`Error::Shape`] for an output of another shape or type.
    pub fn record_into(
        &self,
        run: &mut Run<'_>,
        inputs: &AttentionInputs<Tensor>,
        output: &Tensor,
    ) -> Result<AttentionOutputs<Tensor>> {
        self.record_to(run, inputs, Output::Given(output), None)
    }

    /// As [`Attention::record`], with `output` [B, Hq, Nq, Dv] laid out as [B, Nq, Hq, Dv], heads side by side.
    pub(crate) fn record_joined(
        &self,
        run: &mut Run<'_>,
        inputs: &AttentionInputs<Tensor>,
    ) -> Result<AttentionOutputs<Tensor>> {
        self.record_to(run, inputs, Output::Joined, None)
    }

    fn record_to(
        &self,
        run: &mut Run<'_>,
        inputs: &AttentionInputs<Tensor>,
        output: Output<'_>,
        plan: Option<&AttentionPlan>,
    ) -> Result<AttentionOutputs<Tensor>> {
        let problem = AttentionProblem::new(self, &inputs.map(Tensor::shape, Tensor::shape))?;
        let storage = AttentionProblem::storage(&inputs.map(Tensor::dtype, Tensor::dtype))?;
        let caps = run.gpu().caps();
        let plan = match plan {
            Some(plan) => plan.clone(),
            None => AttentionPlan::tuned(self, &problem, storage, caps, run.gpu().tuning())?,
        };

        let shapes = problem.outputs(self, storage.element, inputs.past.is_some());
        let made = shapes.try_map(|name, (shape, dtype)| match (&output, &shape[..]) {
            (Output::Given(output), _) if name == "output" => {
                check_output(output, shape, *dtype)?;
                Ok((run.bind(name, output), (*output).clone()))
            }
            (Output::Joined, &[batch, heads, queries, dim]) if name == "output" => {
                let (_, joined) = run.output(name, &[batch, queries, heads, dim], *dtype)?;
                let output = joined.permute(&[0, 2, 1, 3])?;
                Ok((run.bind(name, &output), output))
            }
            _ => run.output(name, shape, *dtype),
        })?;
        // Tensors of numbers and of integers are bound alike.
        let shared = std::cell::RefCell::new(&mut *run);
        let bind = |name: &'static str, tensor: &Tensor| Ok::<_, Error>(shared.borrow_mut().bind(name, tensor));
        let views = inputs.try_map(bind, bind)?;
        let outputs = made.try_map(|_, (view, _)| Ok::<_, Error>(view.clone()))?;
        record(run.recording_mut(), caps, self, &problem, &plan, &views, &outputs)?;
        made.try_map(|_, (_, tensor)| Ok(tensor.clone()))
    }

    /// Runs this attention and submits, as [`Run::submit`] does, without waiting for it.
    ///
    /// # Errors
    /// As [`Attention::record`], and [`Error::Gpu`] or
    /// [`Error::DeviceLost`] from the device.
    pub fn run(&self, gpu: &Gpu, inputs: &AttentionInputs<Tensor>) -> Result<AttentionOutputs<Tensor>> {
        let mut run = Run::new(gpu);
        let outputs = self.record(&mut run, inputs)?;
        run.submit()?;
        Ok(outputs)
    }
}

/// Where the output goes.
enum Output<'t> {
    /// A tensor of its own, dense.
    Dense,
    /// A tensor of its own that lies as [B, Nq, Hq, Dv].
    Joined,
    /// The caller's.
    Given(&'t Tensor),
}

/// A caller's output.
fn check_output(output: &Tensor, shape: &[usize], dtype: DType) -> Result<()> {
    let name = "output";
    if output.shape() != shape {
        return Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{:?}", output.shape())));
    }
    if output.dtype() != dtype {
        return Err(Error::shape(name, "dtype", dtype, output.dtype()));
    }
    let layout = output.layout();
    match layout.shape.iter().zip(&layout.strides).position(|(&n, &stride)| n > 1 && stride == 0) {
        Some(axis) => Err(Error::shape(name, format!("stride of axis {axis}"), "at least 1", 0)),
        None => Ok(()),
    }
}

impl AttentionInputs<Array<f32>> {
    /// Uploads every tensor: query, key, value and the past as `storage` has it (a [`DType`] for all of them, or a
    /// [`Storage`]), whole numbers and bool masks as u32, all else as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] for a length or index that is not a whole number in its range, or for keys and values that are not
    /// made of whole blocks of q8; [`Error::Limit`], [`Error::Unsupported`] or [`Error::Gpu`] from the device.
    pub fn upload(&self, gpu: &Gpu, storage: impl Into<Storage>) -> Result<AttentionInputs<Tensor>> {
        let storage = storage.into();
        // [B, H, N, D], or [B, N, E] of a layer that has yet to project it
        let rows = |array: &Array<f32>| array.shape().iter().rev().nth(1).copied().unwrap_or(0);
        let (queries, keys, pages) = (rows(&self.query), rows(&self.key), self.key.shape().first().copied());
        let row_pages = self.block_table.as_ref().and_then(|table| table.shape().get(1)).copied();
        let lengths =
            |name: &str, array: &Array<u32>, longest: usize| Tensor::upload_lengths(gpu, name, array, longest);
        // Ends past the last token mean the last token.
        let ends = |name: &str, array: &Array<u32>, tokens: usize| {
            lengths(name, &array.map(|&end| end.min(u32::try_from(tokens).unwrap_or(u32::MAX))), tokens)
        };
        self.try_map(
            |name, array| Tensor::upload(gpu, name, array, Role::of(name).dtype(storage)),
            |name, array| match name {
                "kv_lengths" => lengths(name, array, row_pages.unwrap_or(1).saturating_mul(keys)),
                "query_lengths" => lengths(name, array, queries),
                "cu_seqlens_q" => ends(name, array, queries),
                "cu_seqlens_k" => ends(name, array, keys),
                "block_table" => {
                    let entry =
                        |at: usize| if self.is_real_page(at, row_pages.unwrap_or(0)) { array.data()[at] } else { 0 };
                    let entries = Array::from_fn(array.shape(), entry);
                    lengths(name, &entries, pages.unwrap_or(0).saturating_sub(1))
                }
                _ => Tensor::upload_mask(gpu, name, array),
            },
        )
    }
}

impl AttentionOutputs<Tensor> {
    /// Reads every tensor back. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Gpu`] or [`Error::DeviceLost`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn download(&self, gpu: &Gpu) -> Result<AttentionOutputs<Array<f32>>> {
        gpu.drive(self.download_async(gpu))
    }

    /// As [`AttentionOutputs::download`], without blocking: all in one submission.
    ///
    /// # Errors
    /// As [`AttentionOutputs::download`].
    pub async fn download_async(&self, gpu: &Gpu) -> Result<AttentionOutputs<Array<f32>>> {
        Tensor::fetch_all(gpu, |read| self.try_map(read)).await
    }
}

/// Records attention on plain views: join the past, project, then one fused kernel, or score, softmax and weighted sum
/// for each range of queries. The outputs are views that the caller has made.
///
/// # Errors
/// [`Error::Limit`] when a dispatch does not fit the device.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    options: &Attention,
    problem: &AttentionProblem,
    plan: &AttentionPlan,
    inputs: &AttentionInputs<View>,
    outputs: &AttentionOutputs<View>,
) -> Result<()> {
    let fused = plan.fused.as_ref().ok().filter(|_| plan.path != Algorithm::Staged);
    let tile = fused.map(|fused| fused.tile.of_mask());
    let wide = widened(recording, caps, options, fused.is_some(), inputs)?;
    let inputs = wide.as_ref().unwrap_or(inputs);
    let visibility = Visibility::record(recording, caps, options, problem, inputs, tile)?;
    let (query, key) = turned(recording, caps, problem, inputs, &visibility, outputs.present_key.as_ref())?;
    let value = match (&inputs.past, &outputs.present_value) {
        (Some(Past { value: past, .. }), Some(present)) => {
            let (head, tail) = split(present, past.shape()[2])?;
            copy::record(recording, caps, past, &head)?;
            copy::record(recording, caps, &inputs.value, &tail)?;
            present.clone()
        }
        _ => inputs.value.clone(),
    };
    let (query, key) = compared(recording, caps, options.score, problem, inputs, query, key)?;
    if let Some(plan) = fused {
        let fused = Fused {
            query: &query,
            key: &key,
            value: &value,
            sinks: inputs.sinks.is_some(),
            additive: [inputs.score.v.is_some(), inputs.score.g.is_some()],
            visibility: &visibility,
            output: &outputs.output,
            lse: outputs.lse.as_ref(),
            max_sum: outputs.max_sum.as_ref(),
        };
        return fused::record(recording, caps, options, problem, plan, fused);
    }
    let located = Located::record(recording, caps, options.score, problem, inputs)?;
    let mut alignment = match options.normalize {
        Normalize::Monotonic(form) => {
            Some(Alignment::record(recording, caps, form, problem, inputs.previous.as_ref())?)
        }
        _ => None,
    };

    let scratch = match &outputs.weights {
        Some(weights) => weights.clone(),
        None => {
            let longest = plan.query_ranges.first().map_or(0, |(first, last)| last - first);
            recording.scratch("scores", &[problem.batch, problem.query_heads, longest, problem.keys], DType::F32)
        }
    };
    for &(first, last) in &plan.query_ranges {
        let part = |view: &View| -> Result<View> { Ok(view.with(view.layout.narrow(2, first, last - first)?)) };
        let weights = match &outputs.weights {
            Some(weights) => part(weights)?,
            None => scratch.with(scratch.layout.narrow(2, 0, last - first)?),
        };
        let mut score = |stage: ScoreStage, hidden: f32, scores: &View| -> Result<()> {
            let (weights, visibility) = (&inputs.score, &visibility);
            let Some(located) = &located else {
                let scored = Scored { query: &part(&query)?, key: &key, weights, visibility };
                return score::record(recording, caps, options, problem, scored, first, stage, hidden, scores);
            };
            // Each query has keys of its own.
            for i in first..last {
                let row = |view: &View, i: usize| -> Result<View> { Ok(view.with(view.layout.narrow(2, i, 1)?)) };
                let previous = row(&located.previous, i)?;
                location::record(recording, caps, visibility, &key, [&located.filters, &previous], &located.key)?;
                let scored = Scored { query: &row(&query, i)?, key: &located.key, weights, visibility };
                let scores = row(scores, i - first)?;
                score::record(recording, caps, options, problem, scored, i, stage, hidden, &scores)?;
            }
            Ok(())
        };
        if let (Some(stage), Some(scores)) = (options.scores, &outputs.scores) {
            score(stage, f32::NEG_INFINITY, &part(scores)?)?;
        }
        score(ScoreStage::Masked, score::HIDDEN, &weights)?;
        match &mut alignment {
            Some(alignment) => alignment.advance(recording, caps, &visibility, options.temperature, &weights)?,
            None => {
                let lse = outputs.lse.as_ref().map(part).transpose()?;
                let max_sum = outputs.max_sum.as_ref().map(part).transpose()?;
                let stats = softmax::Stats { lse: lse.as_ref(), max_sum: max_sum.as_ref() };
                let sinks = inputs.sinks.as_ref();
                softmax::record(recording, caps, options, problem.queries, first, &weights, stats, sinks)?;
            }
        }
        if let Some(entropy) = &outputs.entropy {
            entropy::record(recording, caps, &weights, &part(entropy)?)?;
        }
        weighted_sum::record(recording, caps, &visibility, first, &weights, &value, &part(&outputs.output)?)?;
    }
    Ok(())
}

/// The inputs with keys and values of q8 as f32, where there are some and something reads them that reads no blocks: fused
/// kernels and copies do, staged ones, projections and rotations do not.
fn widened(
    recording: &mut Recording,
    caps: &Caps,
    options: &Attention,
    fused: bool,
    inputs: &AttentionInputs<View>,
) -> Result<Option<AttentionInputs<View>>> {
    if inputs.key.dtype != DType::Q8 {
        return Ok(None);
    }
    let mut wide = |name: &'static str, view: &View, reads_blocks: bool| -> Result<View> {
        if reads_blocks {
            return Ok(view.clone());
        }
        let wide = recording.scratch(name, view.shape(), DType::F32);
        copy::record(recording, caps, view, &wide)?;
        Ok(wide)
    };
    let projected = inputs.score.key_weight.is_some() || options.score == Score::Concat;
    let key = wide("key in f32", &inputs.key, fused && !projected && inputs.rotary.is_none())?;
    let value = wide("value in f32", &inputs.value, fused)?;
    Ok(Some(AttentionInputs { key, value, ..inputs.clone() }))
}

/// The first `length` rows of a [B, H, N, D] view, and the others.
fn split(view: &View, length: usize) -> Result<(View, View)> {
    let rest = view.shape()[2] - length;
    Ok((view.with(view.layout.narrow(2, 0, length)?), view.with(view.layout.narrow(2, length, rest)?)))
}

/// Query and key, past included, with their rotary embedding.
fn turned(
    recording: &mut Recording,
    caps: &Caps,
    problem: &AttentionProblem,
    inputs: &AttentionInputs<View>,
    visibility: &Visibility,
    present: Option<&View>,
) -> Result<(View, View)> {
    let rotary = inputs.rotary.as_ref().map(|rotary| (rotary.options, [&rotary.cos, &rotary.sin]));
    let mut query = inputs.query.clone();
    if let Some((rotary, tables)) = rotary {
        query = recording.scratch("turned query", inputs.query.shape(), DType::F32);
        rotary::record(recording, caps, rotary, &inputs.query, tables, RowPositions::Query(visibility), &query)?;
    }
    let target = match (&inputs.past, present) {
        (Some(Past { key: past, .. }), Some(present)) => {
            let (head, tail) = split(present, past.shape()[2])?;
            copy::record(recording, caps, past, &head)?;
            Some((present.clone(), tail))
        }
        _ => rotary.map(|_| {
            let key = recording.scratch("turned key", inputs.key.shape(), DType::F32);
            (key.clone(), key)
        }),
    };
    let Some((key, new)) = target else {
        return Ok((query, inputs.key.clone()));
    };
    match rotary {
        Some((rotary, tables)) => {
            let place = RowPositions::Key { visibility: Some(visibility), first: problem.past };
            rotary::record(recording, caps, rotary, &inputs.key, tables, place, &new)?;
        }
        None => copy::record(recording, caps, &inputs.key, &new)?,
    }
    Ok((query, key))
}

/// What the score kernel compares: query and key as they are, or their projections.
fn compared(
    recording: &mut Recording,
    caps: &Caps,
    score: Score,
    problem: &AttentionProblem,
    inputs: &AttentionInputs<View>,
    query: View,
    key: View,
) -> Result<(View, View)> {
    let p = problem;
    let weights = &inputs.score;
    let query_shape = [p.batch, p.query_heads, p.queries, p.score_dim];
    let key_shape = [p.batch, p.kv_heads, p.keys, p.score_dim];
    let mut projected =
        |name: &'static str, x: &View, shape: &[usize], weight: View, bias: Option<&View>| -> Result<View> {
            let y = recording.scratch(name, shape, DType::F32);
            let epilogue = Epilogue { bias, ..Epilogue::default() };
            matmul::record(recording, caps, &[(x, &weight)], &epilogue, &y)?;
            Ok(y)
        };
    match (score, &weights.weight, &weights.query_weight, &weights.key_weight) {
        // q·W·k = (Wᵀ·q)·k
        (Score::General, Some(w), _, _) => {
            let transposed = w.with(w.layout.permute(&[1, 0])?);
            Ok((projected("projected query", &query, &query_shape, transposed, None)?, key))
        }
        (Score::Additive | Score::Location, _, Some(wq), Some(wk)) => Ok((
            projected("projected query", &query, &query_shape, wq.clone(), weights.bias.as_ref())?,
            projected("projected key", &key, &key_shape, wk.clone(), None)?,
        )),
        // W·[q; k] = Wq·q + Wk·k with W = [Wq | Wk]
        (Score::Concat, Some(w), _, _) => {
            let wq = w.with(w.layout.narrow(1, 0, p.query_dim)?);
            let wk = w.with(w.layout.narrow(1, p.query_dim, p.key_dim)?);
            Ok((
                projected("projected query", &query, &query_shape, wq, weights.bias.as_ref())?,
                projected("projected key", &key, &key_shape, wk, None)?,
            ))
        }
        // The location is added to keys in f32.
        (Score::Location, ..) if key.dtype != DType::F32 => {
            let wide = recording.scratch("key in f32", key.shape(), DType::F32);
            copy::record(recording, caps, &key, &wide)?;
            Ok((query, wide))
        }
        _ => Ok((query, key)),
    }
}

/// What a location-sensitive score needs beside query and key.
struct Located {
    /// U·F [A, W]: the convolution and the projection of its channels in one.
    filters: View,
    /// [B, Hq, Nq, Nk].
    previous: View,
    /// The keys of one query at a time, [B, Hq, Nk, A].
    key: View,
}

impl Located {
    fn record(
        recording: &mut Recording,
        caps: &Caps,
        score: Score,
        problem: &AttentionProblem,
        inputs: &AttentionInputs<View>,
    ) -> Result<Option<Self>> {
        let weights = (&inputs.score.location_filter, &inputs.score.location_weight, &inputs.previous);
        let (Score::Location, (Some(filter), Some(weight), Some(previous))) = (score, weights) else {
            return Ok(None);
        };
        let (width, p) = (filter.shape()[1], problem);
        let filters = recording.scratch("location filters", &[p.score_dim, width], DType::F32);
        let columns = filter.with(filter.layout.permute(&[1, 0])?);
        matmul::record(recording, caps, &[(weight, &columns)], &Epilogue::default(), &filters)?;
        let key = recording.scratch("located key", &[p.batch, p.query_heads, p.keys, p.score_dim], DType::F32);
        Ok(Some(Self { filters, previous: previous.clone(), key }))
    }
}

/// The alignment that a monotonic normalizer carries from query to query.
struct Alignment {
    form: Monotonic,
    /// [B, Hq, 1, Nk].
    view: View,
    before: Before,
}

impl Alignment {
    fn record(
        recording: &mut Recording,
        caps: &Caps,
        form: Monotonic,
        problem: &AttentionProblem,
        previous: Option<&View>,
    ) -> Result<Self> {
        let shape = [problem.batch, problem.query_heads, 1, problem.keys];
        let view = recording.scratch("alignment", &shape, DType::F32);
        if let Some(previous) = previous {
            copy::record(recording, caps, previous, &view)?;
        }
        let before = if previous.is_some() { Before::Given } else { Before::AtFirstKey };
        Ok(Self { form, view, before })
    }

    /// Turns scores into weights, in place.
    fn advance(
        &mut self,
        recording: &mut Recording,
        caps: &Caps,
        visibility: &Visibility,
        temperature: Option<f32>,
        scores: &View,
    ) -> Result<()> {
        let before = std::mem::replace(&mut self.before, Before::Carried);
        monotonic::record(recording, caps, self.form, visibility, temperature, before, [scores, &self.view])
    }
}
