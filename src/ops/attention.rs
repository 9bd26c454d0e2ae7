//! Attention on the GPU.

use crate::attention::{Attention, AttentionInputs, AttentionOutputs, Mask, Path, Score, ScoreStage};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::{copy, project, score, softmax, weighted_sum};
use crate::plan::{AttentionPlan, Caps};
use crate::problem::{AttentionProblem, Role};
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
        self.record_to(run, inputs, None)
    }

    /// As [`Attention::record`], with `output` written where the caller wants it: a tensor [B, Hq, Nq, Dv] of the
    /// query's element type in any layout that repeats no element, such as heads side by side ([`Tensor::heads`]).
    ///
    /// # Errors
    /// As [`Attention::record`], and [`Error::Shape`] for an output of another shape or type.
    pub fn record_into(
        &self,
        run: &mut Run<'_>,
        inputs: &AttentionInputs<Tensor>,
        output: &Tensor,
    ) -> Result<AttentionOutputs<Tensor>> {
        self.record_to(run, inputs, Some(output))
    }

    fn record_to(
        &self,
        run: &mut Run<'_>,
        inputs: &AttentionInputs<Tensor>,
        output: Option<&Tensor>,
    ) -> Result<AttentionOutputs<Tensor>> {
        let problem = AttentionProblem::new(self, &inputs.map(Tensor::shape))?;
        let element = AttentionProblem::element_type(&inputs.map(Tensor::dtype))?;
        let caps = run.gpu().caps();
        let plan = AttentionPlan::new(self, &problem, element, caps)?;

        let shapes = problem.outputs(self, element, inputs.past_key.is_some());
        let made = shapes.try_map(|name, (shape, dtype)| match output.filter(|_| name == "output") {
            Some(output) if output.shape() != shape => {
                Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{:?}", output.shape())))
            }
            Some(output) if output.dtype() != *dtype => Err(Error::shape(name, "dtype", dtype, output.dtype())),
            Some(output) => Ok((run.bind(name, output), output.clone())),
            None => run.output(name, shape, *dtype),
        })?;
        let views = inputs.try_map(|name, tensor| Ok::<_, Error>(run.bind(name, tensor)))?;
        let outputs = made.try_map(|_, (view, _)| Ok::<_, Error>(view.clone()))?;
        record(run.recording_mut(), caps, self, &problem, &plan, &views, &outputs)?;
        made.try_map(|_, (_, tensor)| Ok(tensor.clone()))
    }

    /// Runs this attention, in one submission, without waiting for it.
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

impl AttentionInputs<Array<f32>> {
    /// Uploads every tensor: query, key, value and the past as `dtype`, whole numbers and bool masks as u32, all else as
    /// f32.
    ///
    /// # Errors
    /// [`Error::Shape`] for a length or index that is not a whole number in its range, [`Error::Limit`],
    /// [`Error::Unsupported`] or [`Error::Gpu`] from the device.
    pub fn upload(&self, gpu: &Gpu, dtype: DType) -> Result<AttentionInputs<Tensor>> {
        let bool_mask = matches!(self.mask, Some(Mask::Bool(_)));
        // [B, H, N, D], or [B, N, E] of a layer that has yet to project it
        let rows = |array: &Array<f32>| array.shape().iter().rev().nth(1).copied().unwrap_or(0);
        let (queries, keys, pages) = (rows(&self.query), rows(&self.key), self.key.shape().first().copied());
        let row_pages = self.block_table.as_ref().and_then(|table| table.shape().get(1)).copied();
        self.try_map(|name, array| match (Role::of(name, bool_mask), name) {
            (Role::Integer, "kv_lengths") => Tensor::upload_lengths(gpu, name, array, row_pages.unwrap_or(1) * keys),
            (Role::Integer, "cu_seqlens_k") => Tensor::upload_lengths(gpu, name, array, keys),
            (Role::Integer, "query_lengths" | "cu_seqlens_q") => Tensor::upload_lengths(gpu, name, array, queries),
            (Role::Integer, "block_table") => {
                Tensor::upload_lengths(gpu, name, array, pages.unwrap_or(0).saturating_sub(1))
            }
            (Role::Integer, _) => Tensor::upload_u32(gpu, name, &array.map(|&x| u32::from(x != 0.0))),
            (role, _) => Tensor::upload(gpu, name, array, role.dtype(dtype)),
        })
    }
}

impl AttentionOutputs<Tensor> {
    /// Reads every tensor back. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Gpu`] or [`Error::DeviceLost`].
    pub fn download(&self, gpu: &Gpu) -> Result<AttentionOutputs<Array<f32>>> {
        self.try_map(|_, tensor| tensor.download(gpu))
    }
}

/// Records the staged path on plain views: join the past, project, then score, softmax and weighted sum for each range
/// of queries. The outputs are dense views that the caller has made.
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
    debug_assert_eq!(plan.path, Path::Staged);
    let key = join(recording, caps, inputs.past_key.as_ref(), &inputs.key, outputs.present_key.as_ref())?;
    let value = join(recording, caps, inputs.past_value.as_ref(), &inputs.value, outputs.present_value.as_ref())?;
    let (query, key) = compared(recording, caps, options.score, problem, inputs, key)?;

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
        let query = part(&query)?;
        let scored = score::Scored {
            query: &query,
            key: &key,
            v: inputs.score.v.as_ref(),
            mask: inputs.mask.as_ref(),
            kv_lengths: inputs.kv_lengths.as_ref(),
            alibi_slopes: inputs.alibi_slopes.as_ref(),
        };
        if let (Some(stage), Some(scores)) = (options.scores, &outputs.scores) {
            let scores = part(scores)?;
            score::record(recording, caps, options, problem, scored, first, stage, f32::NEG_INFINITY, &scores)?;
        }
        let masked = ScoreStage::Masked;
        score::record(recording, caps, options, problem, scored, first, masked, score::HIDDEN, &weights)?;
        let lse = outputs.lse.as_ref().map(part).transpose()?;
        let sinks = inputs.sinks.as_ref();
        softmax::record(recording, caps, options.normalize, problem.queries, first, &weights, lse.as_ref(), sinks)?;
        weighted_sum::record(recording, caps, &weights, &value, &part(&outputs.output)?)?;
    }
    Ok(())
}

/// The past and what is new, one behind the other along the keys; what is new alone without a past.
fn join(
    recording: &mut Recording,
    caps: &Caps,
    past: Option<&View>,
    new: &View,
    present: Option<&View>,
) -> Result<View> {
    let (Some(past), Some(present)) = (past, present) else {
        return Ok(new.clone());
    };
    let length = past.shape()[2];
    let head = present.with(present.layout.narrow(2, 0, length)?);
    let tail = present.with(present.layout.narrow(2, length, new.shape()[2])?);
    copy::record(recording, caps, past, &head)?;
    copy::record(recording, caps, new, &tail)?;
    Ok(present.clone())
}

/// What the score kernel compares: query and key as they are, or their projections.
fn compared(
    recording: &mut Recording,
    caps: &Caps,
    score: Score,
    problem: &AttentionProblem,
    inputs: &AttentionInputs<View>,
    key: View,
) -> Result<(View, View)> {
    let p = problem;
    let query = inputs.query.clone();
    let weights = &inputs.score;
    let query_shape = [p.batch, p.query_heads, p.queries, p.score_dim];
    let key_shape = [p.batch, p.kv_heads, p.keys, p.score_dim];
    let mut projected = |name: &str, x: &View, shape: &[usize], weight: View, bias: Option<&View>| -> Result<View> {
        let y = recording.scratch(name, shape, DType::F32);
        project::record(recording, caps, &[(x, &weight)], bias, None, &y)?;
        Ok(y)
    };
    match (score, &weights.weight, &weights.query_weight, &weights.key_weight) {
        // q·W·k = (Wᵀ·q)·k
        (Score::General, Some(w), _, _) => {
            let transposed = w.with(w.layout.permute(&[1, 0])?);
            Ok((projected("projected query", &query, &query_shape, transposed, None)?, key))
        }
        (Score::Additive, _, Some(wq), Some(wk)) => Ok((
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
        _ => Ok((query, key)),
    }
}
