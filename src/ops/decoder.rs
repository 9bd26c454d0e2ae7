//! A recurrent decoder that attends to a memory, on the GPU.

use crate::attention::{Attention, AttentionInputs, Mask, Normalize, Score, ScoreWeights};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::{copy, coverage};
use crate::layers::{
    AttentionDecoder, CoverageCost, DecoderMemory, DecoderOutput, DecoderOutputs, DecoderProblem, DecoderState,
    DecoderWeights, Linear, LocationInput, MemoryProblem,
};
use crate::ops::linear::{Epilogue, linear, linear_into, to_f32};
use crate::ops::multi_head::upload_weight;
use crate::ops::rnn::GpuRnn;
use crate::recording::View;
use crate::rnn::RnnInputs;
use crate::tensor::{Array, DType};

/// An [`AttentionDecoder`] with its weights on the GPU.
///
/// ```no_run
/// # use regard::layers::{AttentionDecoder, DecoderMemory, DecoderWeights};
/// # use regard::ops::decoder::GpuAttentionDecoder;
/// # use regard::gpu::Run;
/// # use regard::tensor::{Array, DType};
/// # fn decode(
/// #     gpu: &regard::Gpu,
/// #     options: &AttentionDecoder,
/// #     weights: &DecoderWeights<Array>,
/// #     memory: &DecoderMemory<Array>,
/// #     input: &regard::Tensor,
/// # ) -> regard::Result<()> {
/// let decoder = GpuAttentionDecoder::upload(gpu, options, weights, DType::F32)?;
/// let mut run = Run::new(gpu);
/// let memory = decoder.remember(&mut run, &memory.upload(gpu, DType::F32)?)?;
/// let outputs = decoder.record(&mut run, &memory, input, None)?;
/// // every step of both calls in one run
/// let more = decoder.record(&mut run, &memory, input, Some(&outputs.state))?;
/// run.submit()?;
/// let alignments = more.alignments.download(gpu)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct GpuAttentionDecoder {
    options: AttentionDecoder,
    /// Shapes of the weights, for the checks at the door.
    shapes: DecoderWeights<Vec<usize>>,
    cell: GpuRnn,
    score: ScoreWeights<Tensor>,
    attention: Option<Linear<Tensor>>,
}

/// A memory whose keys are projected, once for all steps.
#[derive(Debug, Clone)]
pub struct GpuDecoderMemory {
    given: DecoderMemory<Tensor>,
    /// [B, 1, Nk, A], as the score compares them.
    keys: Tensor,
    /// [B, 1, Nk, M], f32.
    values: Tensor,
}

/// What is left of a score once the keys are projected: how the query is, and what compares the two.
struct Compared {
    score: Score,
    query: Option<Linear<Tensor>>,
}

impl GpuAttentionDecoder {
    /// Uploads weights; matrices are stored as `dtype`, everything else as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Option`] when the recurrence and its weights do not fit, [`Error::Limit`],
    /// [`Error::Unsupported`] or [`Error::Gpu`] from the device.
    pub fn upload(
        gpu: &Gpu,
        options: &AttentionDecoder,
        weights: &DecoderWeights<Array<f32>>,
        dtype: DType,
    ) -> Result<Self> {
        let stored_as = |name: &str| match name {
            "score.weight" | "score.query_weight" | "score.key_weight" => dtype,
            _ => DType::F32,
        };
        let upload = |name: &str, array: &Array<f32>| upload_weight(gpu, name, array, dtype);
        Ok(Self {
            options: options.clone(),
            shapes: weights.map(|array| array.shape().to_vec()),
            cell: GpuRnn::upload(gpu, &options.cell, &weights.cell, dtype)?,
            score: weights.score.try_map(|name, array| Tensor::upload(gpu, name, array, stored_as(name)))?,
            attention: weights.attention.as_ref().map(|layer| layer.try_map("attention", upload)).transpose()?,
        })
    }

    /// The options it was uploaded with.
    pub fn options(&self) -> &AttentionDecoder {
        &self.options
    }

    /// Records the projection of the keys, which every step then reads.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] when memory and decoder do not fit, [`Error::Limit`]
    /// when the work does not fit the device.
    pub fn remember(&self, run: &mut Run<'_>, memory: &DecoderMemory<Tensor>) -> Result<GpuDecoderMemory> {
        memory.memory.dtype().check_float("memory")?;
        let shapes = self.shapes.map(Vec::as_slice);
        let p = MemoryProblem::new(&self.options, &shapes, &memory.map(Tensor::shape))?;
        let values = to_f32(run, &memory.memory)?;
        let weight = match self.options.attention.score {
            // q·W·k = q·(W·k)
            Score::General => self.score.weight.clone(),
            // W·[q; k] = Wq·q + Wk·k with W = [Wq | Wk]
            Score::Concat => self.score.weight.as_ref().map(|w| w.narrow(1, p.hidden, p.memory)).transpose()?,
            _ => self.score.key_weight.clone(),
        };
        let keys = match weight {
            Some(weight) => linear(run, &[(&memory.memory, &weight)], &Epilogue::default())?,
            None => values.clone(),
        };
        let head = |x: &Tensor| x.with_layout(x.layout().split(0, p.batch, 1)?);
        Ok(GpuDecoderMemory { given: memory.clone(), keys: head(&keys)?, values: head(&values)? })
    }

    /// Records every step of `input` [T, B, I] (f32 or f16) after `state`, or after zeros; the tensors returned are
    /// filled when the run is submitted. Nothing is read back in between.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] when the request is wrong, [`Error::Limit`] when it
    /// does not fit the device.
    pub fn record(
        &self,
        run: &mut Run<'_>,
        memory: &GpuDecoderMemory,
        input: &Tensor,
        state: Option<&DecoderState<Tensor>>,
    ) -> Result<DecoderOutputs<Tensor>> {
        input.dtype().check_float("input")?;
        if let Some(state) = state {
            state.try_map(|name, tensor| match tensor.dtype() {
                DType::F32 => Ok(()),
                found => Err(Error::shape(name, "dtype", DType::F32, found)),
            })?;
        }
        let shapes = state.map(|state| state.map(Tensor::shape));
        let p = self.problem(&memory.given.map(Tensor::shape), input.shape(), shapes.as_ref())?;
        let (attentions_view, attentions) = run.output("attention", &[p.steps, p.batch, p.attention], DType::F32)?;
        let (alignments_view, alignments) = run.output("alignments", &[p.steps, p.batch, p.keys], DType::F32)?;
        let cells = match self.options.output {
            DecoderOutput::Cell => Some(run.output("output", &[p.steps, p.batch, p.hidden], DType::F32)?),
            DecoderOutput::Attention => None,
        };
        let loss = match self.options.keeps_coverage() {
            true => Some(run.output("coverage loss", &[p.steps, p.batch], DType::F32)?),
            false => None,
        };
        let fed = self.cell_inputs(run, &p, input, state)?;
        let mut now = match state {
            Some(state) => state.clone(),
            None => DecoderState::new(zeros(run, &[p.layers, p.batch, p.hidden])?, None),
        };
        for t in 0..p.steps {
            let cell_input = RnnInputs {
                input: fed.as_ref().map_or(input, |(_, fed)| fed).narrow(0, t, 1)?,
                initial_h: Some(now.h.clone()),
                initial_c: now.c.clone(),
                lengths: None,
            };
            let cell = self.cell.record(run, &cell_input)?;
            let attention = row(&attentions, t)?;
            let alignment = self.attend(run, &p, memory, &cell.output, &attention, &now)?;
            if let (Some((view, _)), true) = (&fed, t + 1 < p.steps) {
                let place = view.layout.narrow(0, t + 1, 1)?.narrow(2, p.input, p.attention)?;
                let source = attentions_view.with(attentions_view.layout.narrow(0, t, 1)?);
                copy_to(run, &source, &view.with(place))?;
            }
            let source = run.bind("alignment", &alignment);
            copy_to(run, &source, &row_view(&alignments_view, t)?)?;
            if let Some((view, _)) = &cells {
                let source = run.bind("cell output", &cell.output);
                copy_to(run, &source, &view.with(view.layout.narrow(0, t, 1)?))?;
            }
            now = DecoderState {
                h: cell.final_h,
                c: cell.final_c,
                attention: Some(attention),
                coverage: match &loss {
                    Some((view, _)) => {
                        let loss = view.with(view.layout.narrow(0, t, 1)?.reshape(&[p.batch])?);
                        Some(cover(run, &alignment, now.coverage.as_ref(), Some((CoverageCost::Overlap, &loss)))?)
                    }
                    None => None,
                },
                alignment: Some(alignment),
                step: now.step.wrapping_add(1),
            };
        }
        Ok(DecoderOutputs {
            output: cells.map_or(attentions, |(_, cells)| cells),
            alignments,
            coverage_loss: loss.map(|(_, loss)| loss),
            state: now,
        })
    }

    /// Projects the memory and runs every step and submits, as [`Run::submit`] does, without waiting for it.
    ///
    /// # Errors
    /// As [`GpuAttentionDecoder::record`], and [`Error::Gpu`] or [`Error::DeviceLost`] from the device.
    pub fn run(
        &self,
        gpu: &Gpu,
        memory: &DecoderMemory<Tensor>,
        input: &Tensor,
        state: Option<&DecoderState<Tensor>>,
    ) -> Result<DecoderOutputs<Tensor>> {
        let mut run = Run::new(gpu);
        let memory = self.remember(&mut run, memory)?;
        let outputs = self.record(&mut run, &memory, input, state)?;
        run.submit()?;
        Ok(outputs)
    }

    fn problem(
        &self,
        memory: &DecoderMemory<&[usize]>,
        input: &[usize],
        state: Option<&DecoderState<&[usize]>>,
    ) -> Result<DecoderProblem> {
        DecoderProblem::new(&self.options, &self.shapes.map(Vec::as_slice), memory, input, state)
    }

    /// With input feeding, [T, B, I + W]: the input, and room for the attention vector of the step before, which the
    /// first step finds there.
    fn cell_inputs(
        &self,
        run: &mut Run<'_>,
        p: &DecoderProblem,
        input: &Tensor,
        state: Option<&DecoderState<Tensor>>,
    ) -> Result<Option<(View, Tensor)>> {
        if !self.options.input_feeding {
            return Ok(None);
        }
        let (view, fed) = run.output("cell input", &[p.steps, p.batch, p.input + p.attention], DType::F32)?;
        let source = run.bind("input", input);
        copy_to(run, &source, &view.with(view.layout.narrow(2, 0, p.input)?))?;
        let first = match state.and_then(|state| state.attention.clone()) {
            Some(attention) => attention,
            None => zeros(run, &[p.batch, p.attention])?,
        };
        let source = run.bind("first attention", &first);
        let place = row_view(&view, 0)?.layout.narrow(1, p.input, p.attention)?;
        copy_to(run, &source, &view.with(place))?;
        Ok(Some((view, fed)))
    }

    /// One step after the cell: writes the attention vector to `attention` [B, W], returns the alignment [B, Nk].
    fn attend(
        &self,
        run: &mut Run<'_>,
        p: &DecoderProblem,
        memory: &GpuDecoderMemory,
        output: &Tensor,
        attention: &Tensor,
        before: &DecoderState<Tensor>,
    ) -> Result<Tensor> {
        let Compared { score, query } = self.compared(p)?;
        let options = Attention { score, ..self.options.step_attention(before.step) };
        // [B, W] as [B, 1, 1, W]
        let row = |x: &Tensor| x.with_layout(x.layout().split(0, p.batch, 1)?.split(1, 1, 1)?);
        let hidden = output.with_layout(output.layout().reshape(&[p.batch, p.hidden])?)?;
        let query = match &query {
            Some(Linear { weight, bias }) => {
                linear(run, &[(&hidden, weight)], &Epilogue { bias: bias.as_ref(), ..Epilogue::default() })?
            }
            None => hidden.clone(),
        };
        let inputs = AttentionInputs {
            mask: memory.given.mask.clone(),
            kv_lengths: memory.given.lengths.clone(),
            previous: self.previous(run, p, before)?.as_ref().map(row).transpose()?,
            score: ScoreWeights {
                v: self.score.v.clone(),
                g: self.score.g.clone(),
                location_filter: self.score.location_filter.clone(),
                location_weight: self.score.location_weight.clone(),
                ..ScoreWeights::default()
            },
            ..AttentionInputs::new(row(&query)?, memory.keys.clone(), memory.values.clone())
        };
        let outputs = match &self.attention {
            None => options.record_into(run, &inputs, &row(attention)?)?,
            Some(layer) => {
                let outputs = options.record(run, &inputs)?;
                let context = outputs.output.layout().reshape(&[p.batch, p.memory])?;
                self.attention_layer(run, p, layer, [&hidden, &outputs.output.with_layout(context)?], attention)?;
                outputs
            }
        };
        let weights = outputs.weights.ok_or_else(|| Error::missing("weights", "the alignment of a step"))?;
        weights.with_layout(weights.layout().reshape(&[p.batch, p.keys])?)
    }

    /// attention = f(W · [h; context] + b), which is Wh·h + Wc·context.
    fn attention_layer(
        &self,
        run: &mut Run<'_>,
        p: &DecoderProblem,
        layer: &Linear<Tensor>,
        [hidden, context]: [&Tensor; 2],
        attention: &Tensor,
    ) -> Result<()> {
        let weights = [layer.weight.narrow(1, 0, p.hidden)?, layer.weight.narrow(1, p.hidden, p.memory)?];
        let [of_hidden, of_context] = &weights;
        let bias = layer.bias.as_ref();
        let epilogue = Epilogue { bias, activation: self.options.activation, ..Epilogue::default() };
        linear_into(run, &[(hidden, of_hidden), (context, of_context)], &epilogue, attention)
    }

    fn compared(&self, p: &DecoderProblem) -> Result<Compared> {
        let bias = self.score.bias.clone();
        let score = self.options.attention.score;
        Ok(match (score, &self.score.weight, &self.score.query_weight) {
            (Score::General, ..) => Compared { score: Score::Dot, query: None },
            (Score::Concat, Some(w), _) => {
                let weight = w.narrow(1, 0, p.hidden)?;
                Compared { score: Score::Additive, query: Some(Linear { weight, bias }) }
            }
            (_, _, Some(weight)) => Compared { score, query: Some(Linear { weight: weight.clone(), bias }) },
            _ => Compared { score, query: None },
        })
    }

    /// The alignment, or the sum of them, that this step reads.
    fn previous(&self, run: &mut Run<'_>, p: &DecoderProblem, before: &DecoderState<Tensor>) -> Result<Option<Tensor>> {
        let location = self.options.attention.score == Score::Location;
        let monotonic = matches!(self.options.attention.normalize, Normalize::Monotonic(_));
        let known = match self.options.location {
            _ if !location && !monotonic => return Ok(None),
            LocationInput::Alignment => &before.alignment,
            LocationInput::Coverage => &before.coverage,
        };
        match known {
            Some(known) => Ok(Some(known.clone())),
            // the attention's own start
            None if !location => Ok(None),
            None if monotonic => {
                let first = Array::from_fn(&[p.batch, p.keys], |k| f32::from(u8::from(k % p.keys == 0)));
                Tensor::upload(run.gpu(), "first alignment", &first, DType::F32).map(Some)
            }
            None => zeros(run, &[p.batch, p.keys]).map(Some),
        }
    }
}

impl DecoderMemory<Array<f32>> {
    /// Uploads every tensor: the memory as `dtype`, lengths and a bool mask as u32, a float mask as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] for a length that is not a whole number up to Nk, [`Error::Limit`], [`Error::Unsupported`] or
    /// [`Error::Gpu`] from the device.
    pub fn upload(&self, gpu: &Gpu, dtype: DType) -> Result<DecoderMemory<Tensor>> {
        let keys = self.memory.shape().get(1).copied().unwrap_or(0);
        let bool_mask = matches!(self.mask, Some(Mask::Bool(_)));
        self.try_map(|name, array| match name {
            "memory" => Tensor::upload(gpu, name, array, dtype),
            "lengths" => Tensor::upload_lengths(gpu, name, array, keys),
            _ if bool_mask => Tensor::upload_u32(gpu, name, &array.map(|&x| u32::from(x != 0.0))),
            _ => Tensor::upload(gpu, name, array, DType::F32),
        })
    }
}

impl DecoderState<Array<f32>> {
    /// Uploads every tensor, as f32.
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::Gpu`] from the device.
    pub fn upload(&self, gpu: &Gpu) -> Result<DecoderState<Tensor>> {
        self.try_map(|name, array| Tensor::upload(gpu, name, array, DType::F32))
    }
}

impl DecoderOutputs<Tensor> {
    /// Reads every tensor back. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Gpu`] or [`Error::DeviceLost`].
    pub fn download(&self, gpu: &Gpu) -> Result<DecoderOutputs<Array<f32>>> {
        self.try_map(|_, tensor| tensor.download(gpu))
    }
}

/// `before + alignment` in a tensor of its own, each [B, Nk], with its cost.
pub(super) fn cover(
    run: &mut Run<'_>,
    alignment: &Tensor,
    before: Option<&Tensor>,
    cost: Option<(CoverageCost, &View)>,
) -> Result<Tensor> {
    let (after, tensor) = run.output("coverage", alignment.shape(), DType::F32)?;
    let alignment = run.bind("alignment", alignment);
    let before = before.map(|before| run.bind("coverage before", before));
    let caps = run.gpu().caps();
    coverage::record(run.recording_mut(), caps, &alignment, before.as_ref(), &after, cost)?;
    Ok(tensor)
}

/// A tensor of zeros, filled when the run is.
fn zeros(run: &mut Run<'_>, shape: &[usize]) -> Result<Tensor> {
    let (view, tensor) = run.output("zeros", shape, DType::F32)?;
    run.recording_mut().clear(view.slot);
    Ok(tensor)
}

fn copy_to(run: &mut Run<'_>, source: &View, target: &View) -> Result<()> {
    let caps = run.gpu().caps();
    copy::record(run.recording_mut(), caps, source, target)
}

/// Entry `t` of the first axis of [T, B, W]: [B, W].
fn row(tensor: &Tensor, t: usize) -> Result<Tensor> {
    let one = tensor.narrow(0, t, 1)?;
    one.with_layout(one.layout().reshape(&one.shape()[1..])?)
}

/// The same of a view, whose last axis may be part of a wider one.
fn row_view(view: &View, t: usize) -> Result<View> {
    let mut layout = view.layout.narrow(0, t, 1)?;
    layout.shape.remove(0);
    layout.strides.remove(0);
    Ok(view.with(layout))
}
