//! The GPU: a run that is being recorded.

#[cfg(not(target_arch = "wasm32"))]
use super::Driver;
use super::{Backend, Epilogue, OnHost, Recurrence, Value};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs, RotaryEmbedding};
use crate::coverage::CoverageCost;
use crate::error::{Error, Result};
use crate::gpu::{Prepared, Run, Tensor};
use crate::kernels::elementwise::{self, Op};
use crate::kernels::reduce::{self, Reduction};
use crate::kernels::{copy, coverage, norm, top_k};
use crate::norm::Norm;
use crate::ops::cache::append_pair;
use crate::ops::linear::{contiguous, linear, to_f32};
use crate::ops::rnn::GpuRnn;
use crate::recording::View;
use crate::rnn::{Activation, Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::{Array, DType};

impl Value for Tensor {
    fn shape(&self) -> &[usize] {
        Tensor::shape(self)
    }
}

impl Recurrence for GpuRnn {
    fn options(&self) -> &Rnn {
        GpuRnn::options(self)
    }

    fn stack(&self) -> RnnStack<&[usize]> {
        GpuRnn::stack(self)
    }
}

impl Backend for Run<'_> {
    type Value = Tensor;
    type Recurrence = GpuRnn;
    type Prepared = Prepared;

    fn constant(&mut self, name: &str, array: &Array<f32>) -> Result<Tensor> {
        Tensor::upload(self.gpu(), name, array, DType::F32)
    }

    fn empty(&mut self, name: &'static str, shape: &[usize]) -> Result<Tensor> {
        Tensor::uninitialized(self.gpu(), name, shape, DType::F32)
    }

    fn integers(&mut self, name: &str, array: &Array<u32>) -> Result<Tensor> {
        Tensor::upload_u32(self.gpu(), name, array)
    }

    fn recurrence(&mut self, options: &Rnn, stack: &RnnStack<Array<f32>>) -> Result<GpuRnn> {
        GpuRnn::upload(self.gpu(), options, stack, DType::F32)
    }

    fn wide(&mut self, name: &str, x: &Tensor) -> Result<Tensor> {
        x.dtype().check_float(name)?;
        to_f32(self, x)
    }

    fn linear(&mut self, summands: &[(&Tensor, &Tensor)], epilogue: Epilogue<'_, Tensor>) -> Result<Tensor> {
        linear(self, summands, &epilogue)
    }

    /// The output lies with its heads side by side, [B, Nq, Hq, Dv] in memory, so that joining them copies nothing.
    fn attention(&mut self, options: &Attention, inputs: &AttentionInputs<Tensor>) -> Result<AttentionOutputs<Tensor>> {
        options.record_joined(self, inputs)
    }

    fn rnn(&mut self, recurrence: &GpuRnn, inputs: &RnnInputs<Tensor>) -> Result<RnnOutputs<Tensor>> {
        recurrence.record(self, inputs)
    }

    fn multiply(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        elementwise(self, "product", a, Some((Op::Multiply, b)), None)
    }

    fn add(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        elementwise(self, "sum", a, Some((Op::Add, b)), None)
    }

    fn activate(&mut self, f: Activation, x: &Tensor) -> Result<Tensor> {
        elementwise(self, "activation", x, None, Some(f))
    }

    fn norm(&mut self, norm: Norm, x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>) -> Result<Tensor> {
        normalised(self, norm, x, None, [weight, bias])
    }

    fn norm_residual(
        &mut self,
        norm: Norm,
        x: &Tensor,
        residual: &Tensor,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
    ) -> Result<[Tensor; 2]> {
        let (view, sum) = self.output("sum", x.shape(), DType::F32)?;
        Ok([normalised(self, norm, x, Some((residual, &view)), [weight, bias])?, sum])
    }

    fn sum(&mut self, x: &Tensor) -> Result<Tensor> {
        reduced(self, Reduction::Sum, x, None)
    }

    fn mean(&mut self, x: &Tensor, lengths: Option<&Tensor>) -> Result<Tensor> {
        reduced(self, Reduction::Mean, x, lengths)
    }

    fn log_sum_exp(&mut self, x: &Tensor) -> Result<Tensor> {
        reduced(self, Reduction::LogSumExp, x, None)
    }

    fn top_k(&mut self, x: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
        let (_, lead) = x.shape().split_last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
        let shape = [lead, &[k]].concat();
        let (values, values_tensor) = self.output("largest", &shape, DType::F32)?;
        let (ids, ids_tensor) = self.output("indices of the largest", &shape, DType::U32)?;
        let x = self.bind("x", x);
        let caps = self.gpu().caps();
        top_k::record(self.recording_mut(), caps, &x, &values, &ids)?;
        Ok((values_tensor, ids_tensor))
    }

    fn coverage(&mut self, alignment: &Tensor, before: Option<&Tensor>, cost: CoverageCost) -> Result<[Tensor; 2]> {
        let rows = alignment.shape().first().copied().unwrap_or(0);
        let (after, after_tensor) = self.output("coverage", alignment.shape(), DType::F32)?;
        let (costs, costs_tensor) = self.output("cost of coverage", &[rows], DType::F32)?;
        let alignment = self.bind("alignment", alignment);
        let before = before.map(|before| self.bind("coverage before", before));
        let caps = self.gpu().caps();
        coverage::record(self.recording_mut(), caps, &alignment, before.as_ref(), &after, Some((cost, &costs)))?;
        Ok([after_tensor, costs_tensor])
    }

    fn gather(&mut self, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
        let flat = self.reshape(ids, &[ids.shape().iter().product()])?;
        let found = crate::ops::linear::embed(self, table, &flat)?;
        let width = found.shape()[1];
        found.with_layout(found.layout().reshape(&[ids.shape(), &[width]].concat())?)
    }

    fn rotary(&mut self, x: &Tensor, embedding: &RotaryEmbedding<Tensor>, positions: &Tensor) -> Result<Tensor> {
        let RotaryEmbedding { options, cos, sin } = embedding;
        crate::ops::rotary::rotary(self, x, [cos, sin], Some(positions), *options)
    }

    fn append(
        &mut self,
        [keys, values]: [&mut Tensor; 2],
        [key, value]: [&Tensor; 2],
        starts: &Tensor,
        table: Option<&Tensor>,
    ) -> Result<()> {
        append_pair(self, [keys, values], [key, value], starts, table)
    }

    fn reshape(&mut self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        if let Ok(layout) = x.layout().reshape(shape) {
            return x.with_layout(layout);
        }
        let dense = contiguous(self, x)?;
        dense.with_layout(dense.layout().reshape(shape)?)
    }

    fn permute(&mut self, x: &Tensor, order: &[usize]) -> Result<Tensor> {
        x.permute(order)
    }

    fn slice(&mut self, x: &Tensor, axis: usize, start: usize, length: usize) -> Result<Tensor> {
        x.narrow(axis, start, length)
    }

    fn broadcast(&mut self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        x.with_layout(x.layout().broadcast(shape)?)
    }

    fn join(&mut self, axis: usize, inputs: &[Tensor]) -> Result<Tensor> {
        let shape = super::joined_shape(axis, inputs)?;
        if let [input] = inputs {
            return Ok(input.clone());
        }
        let dtype = match inputs.iter().all(|input| input.dtype() == DType::U32) {
            true => DType::U32,
            false => DType::F32,
        };
        let (whole, joined) = self.output("joined", &shape, dtype)?;
        let caps = self.gpu().caps();
        let mut start = 0;
        for input in inputs {
            let length = input.shape()[axis];
            let source = self.bind("part", input);
            let target = whole.with(whole.layout.narrow(axis, start, length)?);
            if length > 0 {
                copy::record(self.recording_mut(), caps, &source, &target)?;
            }
            start += length;
        }
        Ok(joined)
    }

    fn broadcast_integers(&mut self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        self.broadcast(x, shape)
    }

    fn reshape_integers(&mut self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        self.reshape(x, shape)
    }

    fn join_integers(&mut self, axis: usize, parts: &[Tensor]) -> Result<Tensor> {
        self.join(axis, parts)
    }

    fn defers(&self) -> bool {
        true
    }

    fn discard(&mut self) {
        drop(self.take());
    }

    fn submit(&mut self) -> Result<()> {
        self.take().submit()
    }

    fn prepare(&mut self) -> Result<Option<Prepared>> {
        self.take().prepare().map(Some)
    }

    fn rewrite(&mut self, integers: &mut Tensor, array: &Array<u32>) -> Result<()> {
        integers.write_u32(self.gpu(), array)
    }

    async fn finish(
        &mut self,
        again: Option<&mut Prepared>,
        numbers: &[&Tensor],
        integers: &[&Tensor],
    ) -> Result<OnHost> {
        let all = [numbers, integers].concat();
        let recorded = self.take();
        let read = match again {
            None => recorded.read_bytes(&all).await?,
            Some(prepared) => {
                if !recorded.recording().commands().is_empty() {
                    recorded.submit()?;
                }
                prepared.read_bytes(&all).await?
            }
        };
        let (of_numbers, of_integers) = read.split_at(numbers.len());
        Ok(OnHost {
            numbers: of_numbers.iter().map(|(tensor, raw)| tensor.decode(raw)).collect::<Result<_>>()?,
            integers: of_integers.iter().map(|(tensor, raw)| tensor.decode_u32(raw)).collect::<Result<_>>()?,
        })
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn driver(&self) -> Driver {
        Driver::of(self.gpu())
    }
}

fn elementwise(
    run: &mut Run<'_>,
    name: &'static str,
    a: &Tensor,
    other: Option<(Op, &Tensor)>,
    activation: Option<Activation>,
) -> Result<Tensor> {
    let (view, y) = run.output(name, a.shape(), DType::F32)?;
    let a = run.bind("a", a);
    let other = other.map(|(op, b)| (op, run.bind("b", b)));
    let caps = run.gpu().caps();
    let other = other.as_ref().map(|(op, b)| (*op, b));
    elementwise::record(run.recording_mut(), caps, &a, other, activation, &view)?;
    Ok(y)
}

/// The normalisation of x, or of x and a residual, whose sum goes into the view.
fn normalised(
    run: &mut Run<'_>,
    norm: Norm,
    x: &Tensor,
    residual: Option<(&Tensor, &View)>,
    scale: [Option<&Tensor>; 2],
) -> Result<Tensor> {
    let (view, y) = run.output("normalised", x.shape(), DType::F32)?;
    let x = run.bind("x", x);
    let residual = residual.map(|(residual, sum)| (run.bind("residual", residual), sum));
    let residual = residual.as_ref().map(|(residual, sum)| norm::Residual { residual, sum });
    let scale = scale.map(|tensor| tensor.map(|tensor| run.bind("weight or bias", tensor)));
    let caps = run.gpu().caps();
    norm::record(run.recording_mut(), caps, norm, &x, residual, scale.each_ref().map(Option::as_ref), &view)?;
    Ok(y)
}

fn reduced(run: &mut Run<'_>, reduction: Reduction, x: &Tensor, lengths: Option<&Tensor>) -> Result<Tensor> {
    let (_, lead) = x.shape().split_last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
    let (view, y) = run.output("reduced", lead, DType::F32)?;
    let x = run.bind("x", x);
    let lengths = lengths.map(|lengths| run.bind("lengths", lengths));
    let caps = run.gpu().caps();
    reduce::record(run.recording_mut(), caps, reduction, &x, lengths.as_ref(), &view)?;
    Ok(y)
}
