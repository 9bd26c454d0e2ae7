//! The reference: host arrays, computed at once.

use std::convert::Infallible;
use std::marker::PhantomData;

use super::{Backend, Epilogue, OnHost, Recurrence, Value};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs, RotaryEmbedding};
use crate::coverage::CoverageCost;
use crate::error::{Error, Result};
use crate::norm::Norm;
use crate::reference::{self, Float, append_in_place};
use crate::rnn::{Activation, Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::{Array, Layout};

/// The CPU reference as a backend, in `T`: f32 or f64.
#[derive(Debug, Clone, Copy)]
pub struct Reference<T>(PhantomData<T>);

impl<T> Default for Reference<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Clone + Send + Sync> Value for Array<T> {
    fn shape(&self) -> &[usize] {
        Array::shape(self)
    }
}

/// Both of which are 1, or the same.
pub(super) fn repeat<T: Clone>(x: &Array<T>, shape: &[usize]) -> Result<Array<T>> {
    x.gather(&Layout::contiguous(x.shape()).broadcast(shape)?)
}

/// Side by side along an axis.
fn join<T: Clone + Send + Sync>(axis: usize, parts: &[Array<T>]) -> Result<Array<T>> {
    join_data(axis, parts, |part| part.data())
}

/// As [`join`], of values whose elements `data` gives.
pub(super) fn join_data<V: Value, T: Clone>(axis: usize, parts: &[V], data: impl Fn(&V) -> &[T]) -> Result<Array<T>> {
    let shape = super::joined_shape(axis, parts)?;
    let inner = shape[axis + 1..].iter().product::<usize>();
    let outer = shape[..axis].iter().product::<usize>();
    let mut joined = Vec::with_capacity(shape.iter().product());
    for o in 0..outer {
        for part in parts {
            let run = part.shape()[axis] * inner;
            joined.extend_from_slice(&data(part)[o * run..(o + 1) * run]);
        }
    }
    Array::new(&shape, joined)
}

impl<T> Recurrence for (Rnn, RnnStack<Array<T>>) {
    fn options(&self) -> &Rnn {
        &self.0
    }

    fn stack(&self) -> RnnStack<&[usize]> {
        self.1.iter().map(|layer| layer.iter().map(|weights| weights.map(Array::shape)).collect()).collect()
    }
}

impl<T: Float> Backend for Reference<T> {
    type Value = Array<T>;
    type Recurrence = (Rnn, RnnStack<Array<T>>);
    type Prepared = Infallible;

    fn constant(&mut self, _: &str, array: &Array<f32>) -> Result<Array<T>> {
        Ok(array.map(|&x| T::from_f32(x)))
    }

    fn empty(&mut self, _: &'static str, shape: &[usize]) -> Result<Array<T>> {
        Ok(Array::filled(shape, T::ZERO))
    }

    fn integers(&mut self, _: &str, array: &Array<u32>) -> Result<Array<u32>> {
        Ok(array.clone())
    }

    fn recurrence(&mut self, options: &Rnn, stack: &RnnStack<Array<f32>>) -> Result<Self::Recurrence> {
        let wide = |array: &Array<f32>| array.map(|&x| T::from_f32(x));
        Ok((options.clone(), stack.iter().map(|layer| layer.iter().map(|w| w.map(wide)).collect()).collect()))
    }

    fn wide(&mut self, _: &str, x: &Array<T>) -> Result<Array<T>> {
        Ok(x.clone())
    }

    fn linear(&mut self, summands: &[(&Array<T>, &Array<T>)], epilogue: Epilogue<'_, Array<T>>) -> Result<Array<T>> {
        let Epilogue { bias, residual, activation } = epilogue;
        if let Some(residual) = residual {
            let product = self.linear(summands, Epilogue { residual: None, activation: None, ..epilogue })?;
            if residual.shape() != product.shape() {
                let (expected, found) = (format!("{:?}", product.shape()), format!("{:?}", residual.shape()));
                return Err(Error::shape("residual", "shape", expected, found));
            }
            let sum = self.add(&product, residual)?;
            return activation.map_or(Ok(sum.clone()), |f| self.activate(f, &sum));
        }
        if let [(x, weight)] = summands {
            return reference::linear(x, weight, bias, activation);
        }
        // The concatenation, of x's and of weights alike.
        let (x, weights): (Vec<_>, Vec<_>) = summands.iter().map(|&(x, weight)| (x.clone(), weight.clone())).unzip();
        let mut side_by_side = |inputs: &[Array<T>]| {
            let last = inputs.first().map_or(0, |input| input.shape().len().saturating_sub(1));
            self.join(last, inputs)
        };
        reference::linear(&side_by_side(&x)?, &side_by_side(&weights)?, bias, activation)
    }

    fn attention(
        &mut self,
        options: &Attention,
        inputs: &AttentionInputs<Array<T>>,
    ) -> Result<AttentionOutputs<Array<T>>> {
        reference::attention(options, inputs)
    }

    fn rnn(
        &mut self,
        (options, stack): &Self::Recurrence,
        inputs: &RnnInputs<Array<T>>,
    ) -> Result<RnnOutputs<Array<T>>> {
        reference::rnn(options, stack, inputs)
    }

    fn multiply(&mut self, a: &Array<T>, b: &Array<T>) -> Result<Array<T>> {
        let b = repeat(b, a.shape())?;
        Ok(Array::from_fn(a.shape(), |k| a.data()[k] * b.data()[k]))
    }

    fn add(&mut self, a: &Array<T>, b: &Array<T>) -> Result<Array<T>> {
        let b = repeat(b, a.shape())?;
        Ok(Array::from_fn(a.shape(), |k| a.data()[k] + b.data()[k]))
    }

    fn activate(&mut self, f: Activation, x: &Array<T>) -> Result<Array<T>> {
        Ok(x.map(|&x| reference::activate(f, x)))
    }

    fn norm(
        &mut self,
        norm: Norm,
        x: &Array<T>,
        weight: Option<&Array<T>>,
        bias: Option<&Array<T>>,
    ) -> Result<Array<T>> {
        reference::norm(norm, x, weight, bias)
    }

    fn norm_residual(
        &mut self,
        norm: Norm,
        x: &Array<T>,
        residual: &Array<T>,
        weight: Option<&Array<T>>,
        bias: Option<&Array<T>>,
    ) -> Result<[Array<T>; 2]> {
        let sum = self.add(x, residual)?;
        Ok([reference::norm(norm, &sum, weight, bias)?, sum])
    }

    fn sum(&mut self, x: &Array<T>) -> Result<Array<T>> {
        reference::reduce(x, false, None)
    }

    fn mean(&mut self, x: &Array<T>, lengths: Option<&Array<u32>>) -> Result<Array<T>> {
        reference::reduce(x, true, lengths)
    }

    fn log_sum_exp(&mut self, x: &Array<T>) -> Result<Array<T>> {
        reference::log_sum_exp(x)
    }

    fn top_k(&mut self, x: &Array<T>, k: usize) -> Result<(Array<T>, Array<u32>)> {
        reference::top_k(x, k)
    }

    fn coverage(
        &mut self,
        alignment: &Array<T>,
        before: Option<&Array<T>>,
        cost: CoverageCost,
    ) -> Result<[Array<T>; 2]> {
        reference::coverage(alignment, before, cost).map(<[_; 2]>::from)
    }

    fn gather(&mut self, table: &Array<T>, ids: &Array<u32>) -> Result<Array<T>> {
        let rows = reference::embed(table, ids.data())?;
        let width = rows.shape()[1];
        rows.reshape(&[ids.shape(), &[width]].concat())
    }

    fn rotary(
        &mut self,
        x: &Array<T>,
        embedding: &RotaryEmbedding<Array<T>>,
        positions: &Array<u32>,
    ) -> Result<Array<T>> {
        reference::rotary(x, &embedding.cos, &embedding.sin, Some(positions), embedding.options)
    }

    fn append(
        &mut self,
        caches: [&mut Array<T>; 2],
        rows: [&Array<T>; 2],
        starts: &Array<u32>,
        table: Option<&Array<u32>>,
    ) -> Result<()> {
        caches.into_iter().zip(rows).try_for_each(|(cache, rows)| {
            let shape = cache.shape().to_vec();
            append_in_place((cache.data_mut(), &shape), (rows.data(), rows.shape()), starts, table)
        })
    }

    fn reshape(&mut self, x: &Array<T>, shape: &[usize]) -> Result<Array<T>> {
        x.clone().reshape(shape)
    }

    fn permute(&mut self, x: &Array<T>, order: &[usize]) -> Result<Array<T>> {
        x.permute(order)
    }

    fn slice(&mut self, x: &Array<T>, axis: usize, start: usize, length: usize) -> Result<Array<T>> {
        x.gather(&Layout::contiguous(x.shape()).narrow(axis, start, length)?)
    }

    fn broadcast(&mut self, x: &Array<T>, shape: &[usize]) -> Result<Array<T>> {
        repeat(x, shape)
    }

    fn join(&mut self, axis: usize, inputs: &[Array<T>]) -> Result<Array<T>> {
        join(axis, inputs)
    }

    fn broadcast_integers(&mut self, x: &Array<u32>, shape: &[usize]) -> Result<Array<u32>> {
        repeat(x, shape)
    }

    fn reshape_integers(&mut self, x: &Array<u32>, shape: &[usize]) -> Result<Array<u32>> {
        x.clone().reshape(shape)
    }

    fn join_integers(&mut self, axis: usize, inputs: &[Array<u32>]) -> Result<Array<u32>> {
        join(axis, inputs)
    }

    fn discard(&mut self) {}

    fn submit(&mut self) -> Result<()> {
        Ok(())
    }

    fn prepare(&mut self) -> Result<Option<Infallible>> {
        Ok(None)
    }

    fn rewrite(&mut self, integers: &mut Array<u32>, array: &Array<u32>) -> Result<()> {
        rewrite(integers, array)
    }

    async fn finish(
        &mut self,
        _: Option<&mut Infallible>,
        numbers: &[&Array<T>],
        integers: &[&Array<u32>],
    ) -> Result<OnHost> {
        let numbers = numbers.iter().map(|value| value.map(|&x| x.to_f64() as f32)).collect();
        Ok(OnHost { numbers, integers: integers.iter().map(|&value| value.clone()).collect() })
    }
}

/// Integers in the place of others.
pub(super) fn rewrite(integers: &mut Array<u32>, array: &Array<u32>) -> Result<()> {
    if integers.shape() != array.shape() {
        let (expected, found) = (format!("{:?}", integers.shape()), format!("{:?}", array.shape()));
        return Err(Error::shape("integers", "shape", expected, found));
    }
    integers.clone_from(array);
    Ok(())
}
