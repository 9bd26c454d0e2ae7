//! What can compute: a dozen coarse primitives over a backend's own values. Layers and models are written once over them.
//!
//! | backend | its value | what it does |
//! |---|---|---|
//! | [`Run`](crate::gpu::Run) | [`Tensor`](crate::Tensor) | records kernels, to be submitted |
//! | `Cpu` | `CpuTensor` | computes at once, in blocks and vectors, in f32 (feature `cpu`) |
//! | [`Reference`] | [`Array<T>`](crate::tensor::Array) | computes at once, naively, in f32 or f64 |
//!
//! A value is a tensor of numbers. Integers (ids, lengths, boolean masks) are of a type of their own beside it,
//! [`IntegersOf`]: on the GPU a tensor too, in the reference an [`Array<u32>`]. Primitives check what they are given and name
//! the tensor at fault.

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cpu")]
mod device;
mod gpu;
mod reference;

use crate::attention::{Attention, AttentionInputs, AttentionOutputs, RotaryEmbedding};
use crate::coverage::CoverageCost;
use crate::error::{Error, Result};
use crate::norm::Norm;
use crate::rnn::{Activation, Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::{Array, TensorLike};

#[cfg(feature = "cpu")]
pub use cpu::{Cpu, CpuTensor};
#[cfg(feature = "cpu")]
pub use device::{Device, DeviceIntegers, DeviceRnn, DeviceRun, DeviceTensor};
pub use reference::Reference;

pub use crate::epilogue::Epilogue;

/// A backend's tensor, of numbers or of integers. A clone is the same tensor.
pub trait Value: Clone + Send + Sync {
    /// Length of each axis.
    fn shape(&self) -> &[usize];
}

/// A backend's tensor of numbers, which has tensors of integers beside it.
pub trait Numbers: Value + TensorLike<Integers: Value> {}

impl<V: Value + TensorLike<Integers: Value>> Numbers for V {}

/// A backend's tensors of integers.
pub type IntegersOf<B> = <<B as Backend>::Value as TensorLike>::Integers;

/// A recurrence with its weights, ready to run.
pub trait Recurrence {
    /// The options it was made with.
    fn options(&self) -> &Rnn;

    /// Shapes of the weights, layer by layer.
    fn stack(&self) -> RnnStack<&[usize]>;
}

/// The primitives.
pub trait Backend: Send {
    /// Its tensors of numbers.
    type Value: Numbers;

    /// Its recurrences.
    type Recurrence: Recurrence + Send + Sync;

    /// Work that was asked for and can be done again.
    type Prepared: Send;

    /// Numbers of the host.
    ///
    /// # Errors
    /// Those of the device.
    fn constant(&mut self, name: &str, array: &Array<f32>) -> Result<Self::Value>;

    /// Memory for numbers that are written before they are read ([`Backend::append`]).
    ///
    /// # Errors
    /// Those of the device.
    fn empty(&mut self, name: &'static str, shape: &[usize]) -> Result<Self::Value>;

    /// Integers of the host: ids, lengths, a mask of 0 and 1.
    ///
    /// # Errors
    /// Those of the device.
    fn integers(&mut self, name: &str, array: &Array<u32>) -> Result<IntegersOf<Self>>;

    /// A recurrence with weights of the host.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not fit the options, and those of the device.
    fn recurrence(&mut self, options: &Rnn, stack: &RnnStack<Array<f32>>) -> Result<Self::Recurrence>;

    /// The same numbers in the precision that the backend computes in, where `name` may be stored in less.
    ///
    /// # Errors
    /// [`Error::Shape`] for integers, and those of the device.
    fn wide(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value>;

    /// `f(Σ_p x_p · w_pᵀ + b + residual)` for x_p [.., K_p], w_p [N, K_p] and b `[N]`: [.., N], a layer over a concatenation
    /// that is never built.
    ///
    /// # Errors
    /// [`Error::Shape`] when shapes do not fit, and those of the device.
    fn linear(
        &mut self,
        summands: &[(&Self::Value, &Self::Value)],
        epilogue: Epilogue<'_, Self::Value>,
    ) -> Result<Self::Value>;

    /// Attention, as its options say.
    ///
    /// # Errors
    /// As [`reference::attention`](crate::reference::attention), and those of the device.
    fn attention(
        &mut self,
        options: &Attention,
        inputs: &AttentionInputs<Self::Value>,
    ) -> Result<AttentionOutputs<Self::Value>>;

    /// A recurrence over a sequence [T, B, I].
    ///
    /// # Errors
    /// As [`reference::rnn`](crate::reference::rnn), and those of the device.
    fn rnn(
        &mut self,
        recurrence: &Self::Recurrence,
        inputs: &RnnInputs<Self::Value>,
    ) -> Result<RnnOutputs<Self::Value>>;

    /// `a · b`, element by element. b has a's rank, and its axes of length 1 are repeated.
    ///
    /// # Errors
    /// [`Error::Shape`] when b does not fit a, and those of the device.
    fn multiply(&mut self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;

    /// `a + b`, element by element, as [`Backend::multiply`].
    ///
    /// # Errors
    /// As [`Backend::multiply`].
    fn add(&mut self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;

    /// `f(x)`, element by element.
    ///
    /// # Errors
    /// Those of the device.
    fn activate(&mut self, f: Activation, x: &Self::Value) -> Result<Self::Value>;

    /// Layer or RMS normalisation over the last axis of x [.., N], then ∘ weight + bias, each `[N]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when shapes do not fit, [`Error::Option`] for an ε that is
    /// not above 0, and those of the device.
    fn norm(
        &mut self,
        norm: Norm,
        x: &Self::Value,
        weight: Option<&Self::Value>,
        bias: Option<&Self::Value>,
    ) -> Result<Self::Value>;

    /// `s = x + residual` and its normalisation, as [`Backend::norm`]: the normalisation and s.
    ///
    /// # Errors
    /// As [`Backend::norm`].
    fn norm_residual(
        &mut self,
        norm: Norm,
        x: &Self::Value,
        residual: &Self::Value,
        weight: Option<&Self::Value>,
        bias: Option<&Self::Value>,
    ) -> Result<[Self::Value; 2]>;

    /// The sum over the last axis, which goes: [.., N] to [..].
    ///
    /// # Errors
    /// Those of the device.
    fn sum(&mut self, x: &Self::Value) -> Result<Self::Value>;

    /// The mean over the last axis, which goes: [B, .., N] to [B, ..]; of the first `lengths[b]` (`[B]`) entries where there
    /// are lengths, and 0 of none.
    ///
    /// # Errors
    /// [`Error::Shape`] when lengths do not fit, and those of the device.
    fn mean(&mut self, x: &Self::Value, lengths: Option<&IntegersOf<Self>>) -> Result<Self::Value>;

    /// ln Σ e^x over the last axis, which goes: [.., N] to [..]. −∞ of nothing, NaN with +∞ among them.
    ///
    /// # Errors
    /// Those of the device.
    fn log_sum_exp(&mut self, x: &Self::Value) -> Result<Self::Value>;

    /// The k largest entries of each row of x [.., N], largest first, the smaller index first among equals: values and
    /// indices, [.., k]. With k = 1 they are the argmax. NaN counts as −∞.
    ///
    /// # Errors
    /// [`Error::Shape`] when k is above N, and those of the device.
    fn top_k(&mut self, x: &Self::Value, k: usize) -> Result<(Self::Value, IntegersOf<Self>)>;

    /// The running sum `before + alignment` of alignments [B, Nk], and what each row of it costs, `[B]`. Without `before`
    /// that is zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] when shapes do not fit, and those of the device.
    fn coverage(
        &mut self,
        alignment: &Self::Value,
        before: Option<&Self::Value>,
        cost: CoverageCost,
    ) -> Result<[Self::Value; 2]>;

    /// Rows of a table [V, D] by ids of any shape: [.., D].
    ///
    /// # Errors
    /// [`Error::Shape`] when the table is no matrix or an id is not below V, and those of the device.
    fn embed(&mut self, table: &Self::Value, ids: &Array<u32>) -> Result<Self::Value> {
        let rows = table.shape().first().copied().unwrap_or(0);
        if let Some((k, &id)) = ids.data().iter().enumerate().find(|(_, id)| **id as usize >= rows) {
            return Err(Error::shape("ids", format!("id {k}"), format!("below {rows}"), id));
        }
        let ids = self.integers("ids", ids)?;
        self.gather(table, &ids)
    }

    /// As [`Backend::embed`], by ids of the backend. On a GPU, where nobody sees them, ids past the table read its last row.
    ///
    /// # Errors
    /// As [`Backend::embed`].
    fn gather(&mut self, table: &Self::Value, ids: &IntegersOf<Self>) -> Result<Self::Value>;

    /// x [B, H, N, D] turned by a rotary embedding, row n of batch row b as position `positions[b, n]` ([B, N]). Positions
    /// past the tables are refused, or, on a GPU, where nobody sees them, read their last row.
    ///
    /// # Errors
    /// [`Error::Shape`] when shapes do not fit, and those of the device.
    fn rotary(
        &mut self,
        x: &Self::Value,
        embedding: &RotaryEmbedding<Self::Value>,
        positions: &IntegersOf<Self>,
    ) -> Result<Self::Value>;

    /// Writes keys and values [B, H, n, D or Dv] into two caches [B, H, C, D or Dv] in place: row k of batch row b at
    /// `starts[b] + k` (`[B]`). Rows past the end are dropped. With a block table [B, pages] the caches are pools [pages, H,
    /// page size, D or Dv], and rows whose entry is past the pool are dropped. Clones of a cache may or may not change with it.
    ///
    /// # Errors
    /// [`Error::Shape`] when shapes do not fit, and those of the device.
    fn append(
        &mut self,
        caches: [&mut Self::Value; 2],
        rows: [&Self::Value; 2],
        starts: &IntegersOf<Self>,
        table: Option<&IntegersOf<Self>>,
    ) -> Result<()>;

    /// The same numbers in row-major order under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] when the numbers are not as many.
    fn reshape(&mut self, x: &Self::Value, shape: &[usize]) -> Result<Self::Value>;

    /// Axis `k` of the result is axis `order[k]` of x.
    ///
    /// # Errors
    /// [`Error::Shape`] when `order` is not a permutation.
    fn permute(&mut self, x: &Self::Value, order: &[usize]) -> Result<Self::Value>;

    /// Entries `start .. start + length` of an axis.
    ///
    /// # Errors
    /// [`Error::Shape`] when they leave the axis.
    fn slice(&mut self, x: &Self::Value, axis: usize, start: usize, length: usize) -> Result<Self::Value>;

    /// Axes of length 1, and axes that are missing in front, repeated to fill a shape.
    ///
    /// # Errors
    /// [`Error::Shape`] when another axis differs.
    fn broadcast(&mut self, x: &Self::Value, shape: &[usize]) -> Result<Self::Value>;

    /// The concatenation of values along an axis; all other axes are the same.
    ///
    /// # Errors
    /// [`Error::Shape`] when they are not, or nothing is given; those of the device.
    fn join(&mut self, axis: usize, inputs: &[Self::Value]) -> Result<Self::Value>;

    /// As [`Backend::broadcast`], of integers.
    ///
    /// # Errors
    /// As [`Backend::broadcast`].
    fn broadcast_integers(&mut self, x: &IntegersOf<Self>, shape: &[usize]) -> Result<IntegersOf<Self>>;

    /// As [`Backend::reshape`], of integers.
    ///
    /// # Errors
    /// As [`Backend::reshape`].
    fn reshape_integers(&mut self, x: &IntegersOf<Self>, shape: &[usize]) -> Result<IntegersOf<Self>>;

    /// As [`Backend::join`], of integers.
    ///
    /// # Errors
    /// As [`Backend::join`].
    fn join_integers(&mut self, axis: usize, parts: &[IntegersOf<Self>]) -> Result<IntegersOf<Self>>;

    /// Whether work waits until it is submitted or read, so that several steps can be asked for at once.
    fn defers(&self) -> bool {
        false
    }

    /// Forgets what was asked for and has not been done.
    fn discard(&mut self);

    /// Does what was asked for so far, without waiting for it.
    ///
    /// # Errors
    /// Those of the device.
    fn submit(&mut self) -> Result<()>;

    /// Makes what was asked for so far ready to be done again and again ([`Backend::finish`]), each time with what the integers
    /// that it reads hold by then ([`Backend::rewrite`]). Nothing of it is done yet. None of a backend that computes at once.
    ///
    /// # Errors
    /// Those of the device.
    fn prepare(&mut self) -> Result<Option<Self::Prepared>>;

    /// Other integers in the place of those that [`Backend::integers`] took, of the same shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape, and those of the device.
    fn rewrite(&mut self, integers: &mut IntegersOf<Self>, array: &Array<u32>) -> Result<()>;

    /// Does what was asked for so far, and `again` what was prepared; then gives these values to the host. Where the device has
    /// to be polled for it, somebody else does ([`Backend::finish_blocking`] does it itself).
    ///
    /// # Errors
    /// Those of the device.
    fn finish(
        &mut self,
        again: Option<&mut Self::Prepared>,
        numbers: &[&Self::Value],
        integers: &[&IntegersOf<Self>],
    ) -> impl Future<Output = Result<OnHost>> + Send;

    /// What waits for this backend's futures.
    #[cfg(not(target_arch = "wasm32"))]
    fn driver(&self) -> Driver {
        Driver(None)
    }

    /// As [`Backend::finish`], waiting for it.
    ///
    /// # Errors
    /// Those of the device.
    #[cfg(not(target_arch = "wasm32"))]
    fn finish_blocking(
        &mut self,
        again: Option<&mut Self::Prepared>,
        numbers: &[&Self::Value],
        integers: &[&IntegersOf<Self>],
    ) -> Result<OnHost> {
        self.driver().wait(self.finish(again, numbers, integers))
    }

    /// Does what was asked for so far, and gives these values to the host, as [`Backend::finish`].
    ///
    /// # Errors
    /// Those of the device.
    fn read(&mut self, values: &[&Self::Value]) -> impl Future<Output = Result<Vec<Array<f32>>>> + Send {
        async move { Ok(self.finish(None, values, &[]).await?.numbers) }
    }

    /// As [`Backend::read`], of integers.
    ///
    /// # Errors
    /// Those of the device.
    fn read_integers(&mut self, values: &[&IntegersOf<Self>]) -> impl Future<Output = Result<Vec<Array<u32>>>> + Send {
        async move { Ok(self.finish(None, &[], values).await?.integers) }
    }

    /// As [`Backend::read_integers`], waiting for it.
    ///
    /// # Errors
    /// Those of the device.
    #[cfg(not(target_arch = "wasm32"))]
    fn read_integers_blocking(&mut self, values: &[&IntegersOf<Self>]) -> Result<Vec<Array<u32>>> {
        Ok(self.finish_blocking(None, &[], values)?.integers)
    }

    /// As [`Backend::read`], waiting for it.
    ///
    /// # Errors
    /// Those of the device.
    #[cfg(not(target_arch = "wasm32"))]
    fn read_blocking(&mut self, values: &[&Self::Value]) -> Result<Vec<Array<f32>>> {
        Ok(self.finish_blocking(None, values, &[])?.numbers)
    }
}

/// Waits for the futures of a backend: by polling its device, where it has one.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug, Clone)]
pub struct Driver(Option<crate::gpu::Gpu>);

#[cfg(not(target_arch = "wasm32"))]
impl Driver {
    /// Of a device.
    pub fn of(gpu: &crate::gpu::Gpu) -> Self {
        Self(Some(gpu.clone()))
    }

    /// The output of a future, waiting for it.
    ///
    /// # Errors
    /// Its own, and those of the device.
    pub fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        match &self.0 {
            Some(gpu) => gpu.drive(future),
            None => pollster::block_on(future),
        }
    }
}

/// What [`Backend::finish`] gives, in the order that it was asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OnHost {
    /// Of the numbers.
    pub numbers: Vec<Array<f32>>,
    /// Of the integers.
    pub integers: Vec<Array<u32>>,
}

/// The shape of a concatenation along an axis.
fn joined_shape<V: Value>(axis: usize, inputs: &[V]) -> Result<Vec<usize>> {
    let Some(first) = inputs.first() else {
        return Err(Error::missing("parts", "at least one value to join"));
    };
    let mut shape = first.shape().to_vec();
    if axis >= shape.len() {
        return Err(Error::shape("parts", "axis", format!("below {}", shape.len()), axis));
    }
    shape[axis] = 0;
    for (k, input) in inputs.iter().enumerate() {
        let mut others = input.shape().to_vec();
        let length = others.get_mut(axis).map(std::mem::take);
        match length {
            Some(length)
                if others.iter().zip(&shape).enumerate().all(|(a, (x, y))| a == axis || x == y)
                    && others.len() == shape.len() =>
            {
                shape[axis] += length
            }
            _ => {
                let expected = format!("{:?} but for axis {axis}", first.shape());
                return Err(Error::shape(format!("part {k}"), "shape", expected, format!("{:?}", input.shape())));
            }
        }
    }
    Ok(shape)
}
