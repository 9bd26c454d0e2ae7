//! The GPU: a run that is being recorded.

use super::{Backend, Epilogue, Value};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs};
use crate::error::{Error, Result};
use crate::gpu::{Run, Tensor};
use crate::kernels::{copy, coverage};
use crate::layers::CoverageCost;
use crate::ops::linear::{contiguous, linear, sum, to_f32};
use crate::ops::rnn::GpuRnn;
use crate::recording::View;
use crate::rnn::{Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::{Array, DType, Layout};

impl Value for Tensor {
    fn shape(&self) -> &[usize] {
        Tensor::shape(self)
    }
}

/// The same numbers as `[rows, last]`, in up to three axes of rows.
fn rows(x: &View) -> Result<View> {
    let shape = x.shape();
    let (&last, lead) = shape.split_last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
    let lead: usize = lead.iter().product();
    Ok(x.with(x.layout.reshape(&[lead, 1, 1, last])?))
}

impl Backend for Run<'_> {
    type Value = Tensor;
    type Recurrence = GpuRnn;

    fn constant(&mut self, name: &str, array: &Array<f32>) -> Result<Tensor> {
        Tensor::upload(self.gpu(), name, array, DType::F32)
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
        linear(self, summands, epilogue.bias, epilogue.activation)
    }

    /// The output lies with its heads side by side, [B, Nq, Hq, Dv] in memory, so that joining them copies nothing.
    fn attention(&mut self, options: &Attention, inputs: &AttentionInputs<Tensor>) -> Result<AttentionOutputs<Tensor>> {
        options.record_joined(self, inputs)
    }

    fn rnn(&mut self, recurrence: &GpuRnn, inputs: &RnnInputs<Tensor>) -> Result<RnnOutputs<Tensor>> {
        recurrence.record(self, inputs)
    }

    fn multiply(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (view, product) = self.output("product", a.shape(), DType::F32)?;
        let b = b.with_layout(b.layout().broadcast(a.shape())?)?;
        let (a, b) = (contiguous_rows(self, a)?, contiguous_rows(self, &b)?);
        let elements = view.layout.elements();
        let column = |view: &View| -> Result<View> { Ok(view.with(view.layout.reshape(&[elements, 1, 1, 1])?)) };
        // A sum over one entry each.
        sum(self, &column(&a)?, &column(&b)?, &column(&view)?)?;
        Ok(product)
    }

    fn sum(&mut self, x: &Tensor) -> Result<Tensor> {
        let (_, lead) = x.shape().split_last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
        let (view, total) = self.output("sum", lead, DType::F32)?;
        let one = self.constant("one", &Array::filled(&[1], 1.0))?;
        let x = rows(&contiguous_rows(self, x)?)?;
        let &[count, _, _, last] = x.shape() else { return Err(Error::shape("x", "rank", 4, x.shape().len())) };
        let one = self.bind("one", &one);
        let ones = one.with(Layout { shape: vec![count, 1, 1, last], strides: vec![0; 4], ..one.layout.clone() });
        let x = x.with(x.layout.reshape(&[count, 1, last, 1])?);
        sum(self, &ones, &x, &view.with(view.layout.reshape(&[count, 1, 1, 1])?))?;
        Ok(total)
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

    fn embed(&mut self, table: &Tensor, ids: &Array<u32>) -> Result<Tensor> {
        let rows = table.shape().first().copied().unwrap_or(0);
        if let Some((k, &id)) = ids.data().iter().enumerate().find(|(_, id)| **id as usize >= rows) {
            return Err(Error::shape("ids", format!("id {k}"), format!("below {rows}"), id));
        }
        let flat = Tensor::upload_u32(self.gpu(), "ids", &ids.clone().reshape(&[ids.data().len()])?)?;
        let found = crate::ops::linear::embed(self, table, &flat)?;
        let width = found.shape()[1];
        found.with_layout(found.layout().reshape(&[ids.shape(), &[width]].concat())?)
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

    fn join(&mut self, axis: usize, parts: &[Tensor]) -> Result<Tensor> {
        let shape = super::joined_shape(axis, parts)?;
        if let [part] = parts {
            return Ok(part.clone());
        }
        let dtype = match parts.iter().all(|part| part.dtype() == DType::U32) {
            true => DType::U32,
            false => DType::F32,
        };
        let (whole, joined) = self.output("joined", &shape, dtype)?;
        let caps = self.gpu().caps();
        let mut start = 0;
        for part in parts {
            let length = part.shape()[axis];
            let source = self.bind("part", part);
            let target = whole.with(whole.layout.narrow(axis, start, length)?);
            if length > 0 {
                copy::record(self.recording_mut(), caps, &source, &target)?;
            }
            start += length;
        }
        Ok(joined)
    }

    fn discard(&mut self) {
        drop(self.take());
    }

    fn submit(&mut self) -> Result<()> {
        self.take().submit()
    }

    async fn read(&mut self, values: &[&Tensor]) -> Result<Vec<Array<f32>>> {
        self.take().submit_and_read_async(values).await
    }

    fn read_blocking(&mut self, values: &[&Tensor]) -> Result<Vec<Array<f32>>> {
        self.take().submit_and_read(values)
    }
}

/// A view of x whose axes can be joined into rows, after a copy where they cannot.
fn contiguous_rows(run: &mut Run<'_>, x: &Tensor) -> Result<View> {
    let elements = x.layout().elements();
    let joins = x.layout().reshape(&[elements, 1, 1, 1]).is_ok();
    let x = if joins { x.clone() } else { contiguous(run, x)? };
    Ok(run.bind("x", &x))
}
