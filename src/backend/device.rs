//! A GPU or the CPU behind the same calls.

#[cfg(not(target_arch = "wasm32"))]
use super::Driver;
use super::cpu::{Cpu, CpuRnn, CpuTensor};
use super::{Backend, Epilogue, IntegersOf, OnHost, Recurrence, Value};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs, RotaryEmbedding};
use crate::coverage::CoverageCost;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Open, Prepared, Run, Tensor};
use crate::norm::Norm;
use crate::ops::rnn::GpuRnn;
use crate::problem::Storage;
use crate::rnn::{Activation, Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::{Array, DType, TensorLike};

/// A GPU, or the CPU: whichever computes, the calls are the same.
///
/// ```
/// use regard::attention::{Attention, AttentionInputs, Causal};
/// use regard::backend::Backend;
/// use regard::tensor::{Array, DType};
/// use regard::Device;
///
/// # fn main() -> regard::Result<()> {
/// // A graphics card, or the CPU where there is none.
/// let device = Device::auto();
/// let mut run = device.run();
/// let x = Array::from_fn(&[1, 4, 16, 32], |i| (i as f32 * 0.1).sin());
/// let inputs = run.inputs(&AttentionInputs::new(x.clone(), x.clone(), x), DType::F32)?;
/// let outputs = run.attention(&Attention { causal: Some(Causal::TopLeft), ..Attention::default() }, &inputs)?;
/// let output = &run.read_blocking(&[&outputs.output])?[0];
/// # assert_eq!(output.shape(), [1, 4, 16, 32]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub enum Device {
    /// An adapter.
    Gpu(Gpu),
    /// The CPU.
    Cpu(Cpu),
}

impl Device {
    /// A graphics card, or the CPU where there is none: software drivers are slower than the CPU that they run on.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn auto() -> Self {
        Self::open(&Open { hardware_only: true, ..Open::default() })
    }

    /// The adapter that `open` asks for, else the CPU: [`Gpu::open`] tells why there is none.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(open: &Open) -> Self {
        Gpu::open(open).map_or_else(|_| Self::Cpu(Cpu::new()), Self::Gpu)
    }

    /// As [`Device::open`], without blocking: [`Gpu::open_async`] tells why there is none.
    pub async fn open_async(open: &Open) -> Self {
        Gpu::open_async(open, |_| Default::default()).await.map_or_else(|_| Self::Cpu(Cpu::new()), Self::Gpu)
    }

    /// A run on it.
    pub fn run(&self) -> DeviceRun<'_> {
        match self {
            Self::Gpu(gpu) => DeviceRun::Gpu(Run::new(gpu)),
            Self::Cpu(cpu) => DeviceRun::Cpu(cpu.clone()),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gpu(gpu) => gpu.adapter().fmt(f),
            Self::Cpu(cpu) => cpu.fmt(f),
        }
    }
}

/// A run on either: a [`Backend`].
#[derive(Debug)]
pub enum DeviceRun<'g> {
    /// Being recorded.
    Gpu(Run<'g>),
    /// Computes at once.
    Cpu(Cpu),
}

/// A tensor of numbers on either. A clone is the same tensor.
#[derive(Debug, Clone)]
pub enum DeviceTensor {
    /// On the GPU.
    Gpu(Tensor),
    /// In host memory.
    Cpu(CpuTensor),
}

/// A tensor of integers on either.
#[derive(Debug, Clone)]
pub enum DeviceIntegers {
    /// On the GPU.
    Gpu(Tensor),
    /// In host memory.
    Cpu(Array<u32>),
}

/// A recurrence with its weights on either.
#[derive(Debug)]
pub enum DeviceRnn {
    /// On the GPU.
    Gpu(Box<GpuRnn>),
    /// In host memory.
    Cpu(CpuRnn),
}

impl Value for DeviceTensor {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Gpu(tensor) => tensor.shape(),
            Self::Cpu(tensor) => tensor.shape(),
        }
    }
}

impl Value for DeviceIntegers {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Gpu(tensor) => tensor.shape(),
            Self::Cpu(array) => array.shape(),
        }
    }
}

impl TensorLike for DeviceTensor {
    type Integers = DeviceIntegers;
}

impl Recurrence for DeviceRnn {
    fn options(&self) -> &Rnn {
        match self {
            Self::Gpu(rnn) => Recurrence::options(&**rnn),
            Self::Cpu(rnn) => rnn.options(),
        }
    }

    fn stack(&self) -> RnnStack<&[usize]> {
        match self {
            Self::Gpu(rnn) => Recurrence::stack(&**rnn),
            Self::Cpu(rnn) => rnn.stack(),
        }
    }
}

/// A backend whose values are one form of those of a device.
trait Side: Backend {
    fn number(value: &DeviceTensor) -> Option<&Self::Value>;
    fn integer(value: &DeviceIntegers) -> Option<&IntegersOf<Self>>;
    fn value(own: Self::Value) -> DeviceTensor;
    fn integers_of(own: IntegersOf<Self>) -> DeviceIntegers;

    fn number_mut(value: &mut DeviceTensor) -> Option<&mut Self::Value>;

    fn own_mut(value: &mut DeviceTensor) -> Result<&mut Self::Value> {
        Self::number_mut(value).ok_or_else(foreign)
    }

    fn own(value: &DeviceTensor) -> Result<&Self::Value> {
        Self::number(value).ok_or_else(foreign)
    }

    fn own_integers(value: &DeviceIntegers) -> Result<&IntegersOf<Self>> {
        Self::integer(value).ok_or_else(foreign)
    }

    fn own_all(values: &[&DeviceTensor]) -> Result<Vec<Self::Value>> {
        values.iter().map(|value| Self::own(value).cloned()).collect()
    }

    fn own_given(value: Option<&DeviceTensor>) -> Result<Option<&Self::Value>> {
        value.map(Self::own).transpose()
    }
}

/// Numbers and integers as one form has them.
type Own<'v, B> = (Vec<&'v <B as Backend>::Value>, Vec<&'v IntegersOf<B>>);

fn own_both<'v, B: Side>(numbers: &[&'v DeviceTensor], integers: &[&'v DeviceIntegers]) -> Result<Own<'v, B>> {
    let numbers = numbers.iter().map(|value| B::own(value)).collect::<Result<_>>()?;
    Ok((numbers, integers.iter().map(|value| B::own_integers(value)).collect::<Result<_>>()?))
}

fn foreign() -> Error {
    Error::option("tensor", "lives on another device than the run: make it with this run")
}

impl Side for Run<'_> {
    fn number(value: &DeviceTensor) -> Option<&Tensor> {
        if let DeviceTensor::Gpu(tensor) = value { Some(tensor) } else { None }
    }

    fn number_mut(value: &mut DeviceTensor) -> Option<&mut Tensor> {
        if let DeviceTensor::Gpu(tensor) = value { Some(tensor) } else { None }
    }

    fn integer(value: &DeviceIntegers) -> Option<&Tensor> {
        if let DeviceIntegers::Gpu(tensor) = value { Some(tensor) } else { None }
    }

    fn value(own: Tensor) -> DeviceTensor {
        DeviceTensor::Gpu(own)
    }

    fn integers_of(own: Tensor) -> DeviceIntegers {
        DeviceIntegers::Gpu(own)
    }
}

impl Side for Cpu {
    fn number(value: &DeviceTensor) -> Option<&CpuTensor> {
        if let DeviceTensor::Cpu(tensor) = value { Some(tensor) } else { None }
    }

    fn number_mut(value: &mut DeviceTensor) -> Option<&mut CpuTensor> {
        if let DeviceTensor::Cpu(tensor) = value { Some(tensor) } else { None }
    }

    fn integer(value: &DeviceIntegers) -> Option<&Array<u32>> {
        if let DeviceIntegers::Cpu(array) = value { Some(array) } else { None }
    }

    fn value(own: CpuTensor) -> DeviceTensor {
        DeviceTensor::Cpu(own)
    }

    fn integers_of(own: Array<u32>) -> DeviceIntegers {
        DeviceIntegers::Cpu(own)
    }
}

fn linear_on<B: Side>(
    on: &mut B,
    summands: &[(&DeviceTensor, &DeviceTensor)],
    epilogue: Epilogue<'_, DeviceTensor>,
) -> Result<DeviceTensor> {
    let own: Vec<_> = summands.iter().map(|(x, w)| Ok((B::own(x)?, B::own(w)?))).collect::<Result<_>>()?;
    let Epilogue { bias, residual, activation } = epilogue;
    let epilogue = Epilogue { bias: B::own_given(bias)?, residual: B::own_given(residual)?, activation };
    on.linear(&own, epilogue).map(B::value)
}

fn attention_on<B: Side>(
    on: &mut B,
    options: &Attention,
    inputs: &AttentionInputs<DeviceTensor>,
) -> Result<AttentionOutputs<DeviceTensor>> {
    let own = inputs.try_map(|_, x| B::own(x).cloned(), |_, x| B::own_integers(x).cloned())?;
    on.attention(options, &own)?.try_map(|_, x| Ok(B::value(x.clone())))
}

fn rnn_on<B: Side>(
    on: &mut B,
    rnn: &B::Recurrence,
    inputs: &RnnInputs<DeviceTensor>,
) -> Result<RnnOutputs<DeviceTensor>> {
    let own = inputs.try_map(|_, x| B::own(x).cloned(), |_, x| B::own_integers(x).cloned())?;
    let RnnOutputs { output, final_h, final_c } = on.rnn(rnn, &own)?;
    Ok(RnnOutputs { output: B::value(output), final_h: B::value(final_h), final_c: final_c.map(B::value) })
}

/// The same expression on either, its backend `$on` of type `$side`.
macro_rules! either {
    ($run:expr, |$on:ident: $side:ident| $do:expr) => {
        match $run {
            DeviceRun::Gpu($on) => {
                type $side<'g> = Run<'g>;
                $do
            }
            DeviceRun::Cpu($on) => {
                type $side = Cpu;
                $do
            }
        }
    };
}

impl DeviceRun<'_> {
    /// A host array as the device stores it: f32, f16 or q8.
    ///
    /// # Errors
    /// [`Error::Shape`] where the type cannot hold it, and those of the device.
    pub fn stored(&self, name: &str, array: &Array, dtype: DType) -> Result<DeviceTensor> {
        Ok(match self {
            Self::Gpu(run) => DeviceTensor::Gpu(Tensor::upload(run.gpu(), name, array, dtype)?),
            Self::Cpu(_) => DeviceTensor::Cpu(CpuTensor::stored(name, array, dtype)?),
        })
    }

    /// Attention's inputs as the device stores them.
    ///
    /// # Errors
    /// As [`DeviceRun::stored`].
    pub fn inputs(
        &mut self,
        inputs: &AttentionInputs<Array>,
        storage: impl Into<Storage>,
    ) -> Result<AttentionInputs<DeviceTensor>> {
        let storage = storage.into();
        Ok(match self {
            Self::Gpu(run) => inputs
                .upload(run.gpu(), storage)?
                .map(|x| DeviceTensor::Gpu(x.clone()), |x| DeviceIntegers::Gpu(x.clone())),
            Self::Cpu(_) => AttentionInputs::<CpuTensor>::stored(inputs, storage)?
                .map(|x| DeviceTensor::Cpu(x.clone()), |x| DeviceIntegers::Cpu(x.clone())),
        })
    }
}

impl Backend for DeviceRun<'_> {
    type Value = DeviceTensor;
    type Recurrence = DeviceRnn;
    type Prepared = Prepared;

    fn constant(&mut self, name: &str, array: &Array<f32>) -> Result<DeviceTensor> {
        either!(self, |on: On| on.constant(name, array).map(On::value))
    }

    fn empty(&mut self, name: &'static str, shape: &[usize]) -> Result<DeviceTensor> {
        either!(self, |on: On| on.empty(name, shape).map(On::value))
    }

    fn integers(&mut self, name: &str, array: &Array<u32>) -> Result<DeviceIntegers> {
        either!(self, |on: On| on.integers(name, array).map(On::integers_of))
    }

    fn recurrence(&mut self, options: &Rnn, stack: &RnnStack<Array<f32>>) -> Result<DeviceRnn> {
        match self {
            Self::Gpu(run) => run.recurrence(options, stack).map(|rnn| DeviceRnn::Gpu(Box::new(rnn))),
            Self::Cpu(cpu) => cpu.recurrence(options, stack).map(DeviceRnn::Cpu),
        }
    }

    fn wide(&mut self, name: &str, x: &DeviceTensor) -> Result<DeviceTensor> {
        either!(self, |on: On| on.wide(name, On::own(x)?).map(On::value))
    }

    fn linear(
        &mut self,
        summands: &[(&DeviceTensor, &DeviceTensor)],
        epilogue: Epilogue<'_, DeviceTensor>,
    ) -> Result<DeviceTensor> {
        match self {
            Self::Gpu(run) => linear_on(run, summands, epilogue),
            Self::Cpu(cpu) => linear_on(cpu, summands, epilogue),
        }
    }

    fn attention(
        &mut self,
        options: &Attention,
        inputs: &AttentionInputs<DeviceTensor>,
    ) -> Result<AttentionOutputs<DeviceTensor>> {
        match self {
            Self::Gpu(run) => attention_on(run, options, inputs),
            Self::Cpu(cpu) => attention_on(cpu, options, inputs),
        }
    }

    fn rnn(&mut self, recurrence: &DeviceRnn, inputs: &RnnInputs<DeviceTensor>) -> Result<RnnOutputs<DeviceTensor>> {
        match (self, recurrence) {
            (Self::Gpu(run), DeviceRnn::Gpu(rnn)) => rnn_on(run, rnn, inputs),
            (Self::Cpu(cpu), DeviceRnn::Cpu(rnn)) => rnn_on(cpu, rnn, inputs),
            _ => Err(foreign()),
        }
    }

    fn multiply(&mut self, a: &DeviceTensor, b: &DeviceTensor) -> Result<DeviceTensor> {
        either!(self, |on: On| on.multiply(On::own(a)?, On::own(b)?).map(On::value))
    }

    fn add(&mut self, a: &DeviceTensor, b: &DeviceTensor) -> Result<DeviceTensor> {
        either!(self, |on: On| on.add(On::own(a)?, On::own(b)?).map(On::value))
    }

    fn activate(&mut self, f: Activation, x: &DeviceTensor) -> Result<DeviceTensor> {
        either!(self, |on: On| on.activate(f, On::own(x)?).map(On::value))
    }

    fn norm(
        &mut self,
        norm: Norm,
        x: &DeviceTensor,
        weight: Option<&DeviceTensor>,
        bias: Option<&DeviceTensor>,
    ) -> Result<DeviceTensor> {
        either!(self, |on: On| {
            on.norm(norm, On::own(x)?, On::own_given(weight)?, On::own_given(bias)?).map(On::value)
        })
    }

    fn norm_residual(
        &mut self,
        norm: Norm,
        x: &DeviceTensor,
        residual: &DeviceTensor,
        weight: Option<&DeviceTensor>,
        bias: Option<&DeviceTensor>,
    ) -> Result<[DeviceTensor; 2]> {
        either!(self, |on: On| {
            let (weight, bias) = (On::own_given(weight)?, On::own_given(bias)?);
            Ok(on.norm_residual(norm, On::own(x)?, On::own(residual)?, weight, bias)?.map(On::value))
        })
    }

    fn sum(&mut self, x: &DeviceTensor) -> Result<DeviceTensor> {
        either!(self, |on: On| on.sum(On::own(x)?).map(On::value))
    }

    fn mean(&mut self, x: &DeviceTensor, lengths: Option<&DeviceIntegers>) -> Result<DeviceTensor> {
        either!(self, |on: On| on.mean(On::own(x)?, lengths.map(On::own_integers).transpose()?).map(On::value))
    }

    fn log_sum_exp(&mut self, x: &DeviceTensor) -> Result<DeviceTensor> {
        either!(self, |on: On| on.log_sum_exp(On::own(x)?).map(On::value))
    }

    fn top_k(&mut self, x: &DeviceTensor, k: usize) -> Result<(DeviceTensor, DeviceIntegers)> {
        either!(self, |on: On| {
            let (values, ids) = on.top_k(On::own(x)?, k)?;
            Ok((On::value(values), On::integers_of(ids)))
        })
    }

    fn coverage(
        &mut self,
        alignment: &DeviceTensor,
        before: Option<&DeviceTensor>,
        cost: CoverageCost,
    ) -> Result<[DeviceTensor; 2]> {
        either!(self, |on: On| Ok(on.coverage(On::own(alignment)?, On::own_given(before)?, cost)?.map(On::value)))
    }

    fn gather(&mut self, table: &DeviceTensor, ids: &DeviceIntegers) -> Result<DeviceTensor> {
        either!(self, |on: On| on.gather(On::own(table)?, On::own_integers(ids)?).map(On::value))
    }

    fn rotary(
        &mut self,
        x: &DeviceTensor,
        embedding: &RotaryEmbedding<DeviceTensor>,
        positions: &DeviceIntegers,
    ) -> Result<DeviceTensor> {
        let RotaryEmbedding { options, cos, sin } = embedding;
        either!(self, |on: On| {
            let own = RotaryEmbedding::new(*options, [On::own(cos)?.clone(), On::own(sin)?.clone()]);
            on.rotary(On::own(x)?, &own, On::own_integers(positions)?).map(On::value)
        })
    }

    fn append(
        &mut self,
        [keys, values]: [&mut DeviceTensor; 2],
        [key, value]: [&DeviceTensor; 2],
        starts: &DeviceIntegers,
        table: Option<&DeviceIntegers>,
    ) -> Result<()> {
        either!(self, |on: On| {
            let rows = [On::own(key)?, On::own(value)?];
            let table = table.map(On::own_integers).transpose()?;
            on.append([On::own_mut(keys)?, On::own_mut(values)?], rows, On::own_integers(starts)?, table)
        })
    }

    fn reshape(&mut self, x: &DeviceTensor, shape: &[usize]) -> Result<DeviceTensor> {
        either!(self, |on: On| on.reshape(On::own(x)?, shape).map(On::value))
    }

    fn permute(&mut self, x: &DeviceTensor, order: &[usize]) -> Result<DeviceTensor> {
        either!(self, |on: On| on.permute(On::own(x)?, order).map(On::value))
    }

    fn slice(&mut self, x: &DeviceTensor, axis: usize, start: usize, length: usize) -> Result<DeviceTensor> {
        either!(self, |on: On| on.slice(On::own(x)?, axis, start, length).map(On::value))
    }

    fn broadcast(&mut self, x: &DeviceTensor, shape: &[usize]) -> Result<DeviceTensor> {
        either!(self, |on: On| on.broadcast(On::own(x)?, shape).map(On::value))
    }

    fn join(&mut self, axis: usize, inputs: &[DeviceTensor]) -> Result<DeviceTensor> {
        let inputs: Vec<&DeviceTensor> = inputs.iter().collect();
        either!(self, |on: On| on.join(axis, &On::own_all(&inputs)?).map(On::value))
    }

    fn broadcast_integers(&mut self, x: &DeviceIntegers, shape: &[usize]) -> Result<DeviceIntegers> {
        either!(self, |on: On| on.broadcast_integers(On::own_integers(x)?, shape).map(On::integers_of))
    }

    fn reshape_integers(&mut self, x: &DeviceIntegers, shape: &[usize]) -> Result<DeviceIntegers> {
        either!(self, |on: On| on.reshape_integers(On::own_integers(x)?, shape).map(On::integers_of))
    }

    fn join_integers(&mut self, axis: usize, parts: &[DeviceIntegers]) -> Result<DeviceIntegers> {
        either!(self, |on: On| {
            let own: Vec<_> = parts.iter().map(|x| On::own_integers(x).cloned()).collect::<Result<_>>()?;
            on.join_integers(axis, &own).map(On::integers_of)
        })
    }

    fn defers(&self) -> bool {
        matches!(self, Self::Gpu(_))
    }

    fn discard(&mut self) {
        either!(self, |on: On| {
            let on: &mut On = on;
            on.discard();
        });
    }

    fn submit(&mut self) -> Result<()> {
        match self {
            Self::Gpu(run) => Backend::submit(run),
            Self::Cpu(cpu) => cpu.submit(),
        }
    }

    fn prepare(&mut self) -> Result<Option<Prepared>> {
        match self {
            Self::Gpu(run) => Backend::prepare(run),
            Self::Cpu(_) => Ok(None),
        }
    }

    fn rewrite(&mut self, integers: &mut DeviceIntegers, array: &Array<u32>) -> Result<()> {
        match (self, integers) {
            (Self::Gpu(run), DeviceIntegers::Gpu(integers)) => run.rewrite(integers, array),
            (Self::Cpu(cpu), DeviceIntegers::Cpu(integers)) => cpu.rewrite(integers, array),
            _ => Err(foreign()),
        }
    }

    async fn finish(
        &mut self,
        again: Option<&mut Prepared>,
        numbers: &[&DeviceTensor],
        integers: &[&DeviceIntegers],
    ) -> Result<OnHost> {
        match (self, again) {
            (Self::Gpu(run), again) => {
                let (numbers, integers) = own_both::<Run<'_>>(numbers, integers)?;
                run.finish(again, &numbers, &integers).await
            }
            (Self::Cpu(cpu), None) => {
                let (numbers, integers) = own_both::<Cpu>(numbers, integers)?;
                cpu.finish(None, &numbers, &integers).await
            }
            (Self::Cpu(_), Some(_)) => Err(foreign()),
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn driver(&self) -> Driver {
        match self {
            Self::Gpu(run) => run.driver(),
            Self::Cpu(cpu) => cpu.driver(),
        }
    }
}
