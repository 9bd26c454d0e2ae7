//! Recurrent encoders on the GPU.

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::{copy, merge, project, recurrent};
use crate::plan::Caps;
use crate::problem::{RnnProblem, Role};
use crate::recording::{Recording, View};
use crate::rnn::{Cell, Merge, Rnn, RnnInputs, RnnOutputs, RnnStack, RnnWeights};
use crate::tensor::{Array, DType};

/// Weights of one layer, both directions side by side; D directions.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights<A> {
    /// W [D·G·H, I].
    pub weight_ih: A,
    /// b [D·G·H].
    pub bias_ih: Option<A>,
    /// U [D, G·H, H].
    pub weight_hh: A,
    /// b' [D, G·H].
    pub bias_hh: Option<A>,
    /// [D, 3, H].
    pub peephole: Option<A>,
}

/// A recurrent encoder with its weights on the GPU.
#[derive(Debug, Clone)]
pub struct GpuRnn {
    options: Rnn,
    /// Shapes of the weights, for the checks at the door.
    stack: RnnStack<Vec<usize>>,
    layers: Vec<LayerWeights<Tensor>>,
}

impl GpuRnn {
    /// Uploads weights; `dtype` is the storage of W and U (biases and peepholes stay f32).
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Option`] when weights and options do not fit, [`Error::Limit`] or [`Error::Gpu`]
    /// from the device.
    pub fn upload(gpu: &Gpu, options: &Rnn, stack: &RnnStack<Array<f32>>, dtype: DType) -> Result<Self> {
        let shapes = map_stack(stack, |a| Ok(a.shape().to_vec()))?;
        let input = stack.first().and_then(|layer| layer.first()).and_then(|w| w.weight_ih.shape().get(1).copied());
        RnnProblem::check_weights(options, &borrow_shapes(&shapes), input.unwrap_or(0))?;
        let layers = stack
            .iter()
            .map(|layer| {
                let packed = pack_layer(options, layer)?;
                let weight = |name: &str, a: &Array<f32>| Tensor::upload(gpu, name, a, dtype);
                let vector = |name: &str, a: &Option<Array<f32>>| {
                    a.as_ref().map(|a| Tensor::upload(gpu, name, a, DType::F32)).transpose()
                };
                Ok(LayerWeights {
                    weight_ih: weight("weight_ih", &packed.weight_ih)?,
                    bias_ih: vector("bias_ih", &packed.bias_ih)?,
                    // Stored [D, H, G·H], so that neighbouring units are neighbours in memory; seen as [D, G·H, H].
                    weight_hh: weight("weight_hh", &packed.weight_hh.permute(&[0, 2, 1])?)?.permute(&[0, 2, 1])?,
                    bias_hh: vector("bias_hh", &packed.bias_hh)?,
                    peephole: vector("peephole", &packed.peephole)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { options: options.clone(), stack: shapes, layers })
    }

    /// The options it was uploaded with.
    pub fn options(&self) -> &Rnn {
        &self.options
    }

    /// Records the whole sequence; the tensors returned are filled when the run is submitted. `input` is [T, B, I] in
    /// f32 or f16, `lengths` u32, states f32; the outputs are f32.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Option`] when the request is wrong, [`Error::Limit`] when it does not fit the
    /// device.
    pub fn record(&self, run: &mut Run<'_>, inputs: &RnnInputs<Tensor>) -> Result<RnnOutputs<Tensor>> {
        let shapes = inputs.map(Tensor::shape);
        let problem = RnnProblem::new(&self.options, &borrow_shapes(&self.stack), &shapes)?;
        check_types(inputs)?;
        let states = [problem.layers * problem.directions, problem.batch, problem.hidden];
        let (output, output_tensor) =
            run.output("output", &[problem.steps, problem.batch, problem.width], DType::F32)?;
        let (final_h, final_h_tensor) = run.output("final_h", &states, DType::F32)?;
        let (final_c, final_c_tensor) = match self.options.cell {
            Cell::Lstm => Some(run.output("final_c", &states, DType::F32)?).unzip(),
            _ => (None, None),
        };
        let views = inputs.try_map(|name, tensor| Ok::<_, Error>(run.bind(name, tensor)))?;
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| LayerWeights {
                weight_ih: run.bind("weight_ih", &layer.weight_ih),
                bias_ih: layer.bias_ih.as_ref().map(|t| run.bind("bias_ih", t)),
                weight_hh: run.bind("weight_hh", &layer.weight_hh),
                bias_hh: layer.bias_hh.as_ref().map(|t| run.bind("bias_hh", t)),
                peephole: layer.peephole.as_ref().map(|t| run.bind("peephole", t)),
            })
            .collect();
        let caps = run.gpu().caps();
        let outputs = RnnOutputs { output, final_h, final_c };
        record(run.recording_mut(), caps, &self.options, &problem, &layers, &views, &outputs)?;
        Ok(RnnOutputs { output: output_tensor, final_h: final_h_tensor, final_c: final_c_tensor })
    }

    /// Runs the whole sequence, in one submission, without waiting for it.
    ///
    /// # Errors
    /// As [`GpuRnn::record`], and [`Error::Gpu`] or [`Error::DeviceLost`] from the device.
    pub fn run(&self, gpu: &Gpu, inputs: &RnnInputs<Tensor>) -> Result<RnnOutputs<Tensor>> {
        let mut run = Run::new(gpu);
        let outputs = self.record(&mut run, inputs)?;
        run.submit()?;
        Ok(outputs)
    }
}

impl RnnInputs<Array<f32>> {
    /// Uploads every tensor: the input as `dtype`, states as f32, lengths as u32.
    ///
    /// # Errors
    /// [`Error::Shape`] for a length that is not a whole number, [`Error::Limit`], [`Error::Unsupported`] or
    /// [`Error::Gpu`] from the device.
    pub fn upload(&self, gpu: &Gpu, dtype: DType) -> Result<RnnInputs<Tensor>> {
        let steps = self.input.shape().first().copied().unwrap_or(0);
        self.try_map(|name, array| match Role::of_rnn(name) {
            Role::Integer => Tensor::upload_lengths(gpu, name, array, steps),
            role => Tensor::upload(gpu, name, array, role.dtype(dtype)),
        })
    }
}

impl RnnOutputs<Tensor> {
    /// Reads every tensor back. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Gpu`] or [`Error::DeviceLost`].
    pub fn download(&self, gpu: &Gpu) -> Result<RnnOutputs<Array<f32>>> {
        Ok(RnnOutputs {
            output: self.output.download(gpu)?,
            final_h: self.final_h.download(gpu)?,
            final_c: self.final_c.as_ref().map(|t| t.download(gpu)).transpose()?,
        })
    }
}

fn check_types(inputs: &RnnInputs<Tensor>) -> Result<()> {
    let wanted = |name: &str, wanted: DType, tensor: Option<&Tensor>| match tensor.map(Tensor::dtype) {
        Some(found) if found != wanted => Err(Error::shape(name, "dtype", wanted, found)),
        _ => Ok(()),
    };
    inputs.input.dtype().check_float("input")?;
    wanted("initial_h", DType::F32, inputs.initial_h.as_ref())?;
    wanted("initial_c", DType::F32, inputs.initial_c.as_ref())?;
    wanted("lengths", DType::U32, inputs.lengths.as_ref())?;
    match &inputs.lengths {
        Some(lengths) if !lengths.layout().is_contiguous() => {
            Err(Error::shape("lengths", "strides", "contiguous", format!("{:?}", lengths.layout().strides)))
        }
        _ => Ok(()),
    }
}

fn map_stack<A, B>(stack: &RnnStack<A>, f: impl Fn(&A) -> Result<B>) -> Result<RnnStack<B>> {
    stack.iter().map(|layer| layer.iter().map(|weights| weights.try_map(|_, a| f(a))).collect()).collect()
}

fn borrow_shapes(stack: &RnnStack<Vec<usize>>) -> RnnStack<&[usize]> {
    stack.iter().map(|layer| layer.iter().map(|w| w.map(Vec::as_slice)).collect()).collect()
}

type HostWeights = RnnWeights<Array<f32>>;

/// Both directions' weights behind one another. What one direction lacks is zero; the run-time forget bias goes into
/// the bias of the forget gate.
fn pack_layer(options: &Rnn, layer: &[HostWeights]) -> Result<LayerWeights<Array<f32>>> {
    let (directions, gates) = (layer.len(), options.cell.gates());
    let rows = layer[0].weight_hh.shape()[0];
    let (hidden, input) = (rows / gates, layer[0].weight_ih.shape()[1]);
    let all = |shape: &[usize], part: &dyn Fn(&HostWeights) -> Vec<f32>| {
        Array::new(shape, layer.iter().flat_map(part).collect())
    };
    let optional = |shape: &[usize], part: fn(&HostWeights) -> Option<&Array<f32>>| {
        let length = shape[1..].iter().product();
        let dense = |w: &_| part(w).map_or_else(|| vec![0.0; length], |a| a.data().to_vec());
        layer.iter().any(|w| part(w).is_some()).then(|| all(shape, &dense)).transpose()
    };
    let mut bias_ih = optional(&[directions, rows], |w| w.bias_ih.as_ref())?;
    if options.cell == Cell::Lstm && options.forget_bias != 0.0 {
        let mut bias = bias_ih.unwrap_or_else(|| Array::filled(&[directions, rows], 0.0));
        for row in bias.data_mut().chunks_mut(rows) {
            row[hidden..2 * hidden].iter_mut().for_each(|b| *b += options.forget_bias);
        }
        bias_ih = Some(bias);
    }
    Ok(LayerWeights {
        weight_ih: all(&[directions * rows, input], &|w| w.weight_ih.data().to_vec())?,
        bias_ih: bias_ih.map(|b| b.reshape(&[directions * rows])).transpose()?,
        weight_hh: all(&[directions, rows, hidden], &|w| w.weight_hh.data().to_vec())?,
        bias_hh: optional(&[directions, rows], |w| w.bias_hh.as_ref())?,
        peephole: optional(&[directions, 3, hidden], |w| w.peephole.as_ref())?,
    })
}

/// Records a stack on plain views: per layer X·W for all steps and directions as one product, then one dispatch a
/// step. The outputs are dense views that the caller has made.
///
/// # Errors
/// [`Error::Limit`] when a dispatch does not fit the device.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    options: &Rnn,
    problem: &RnnProblem,
    layers: &[LayerWeights<View>],
    inputs: &RnnInputs<View>,
    outputs: &RnnOutputs<View>,
) -> Result<()> {
    let RnnProblem { steps, batch, hidden, directions, width, .. } = *problem;
    let gate_rows = options.cell.gates() * hidden;
    let gates = recording.scratch("gates", &[steps, batch, directions, gate_rows], DType::F32);
    let mut input = inputs.input.clone();
    for (l, layer) in layers.iter().enumerate() {
        let flat = gates.with(gates.layout.reshape(&[steps, batch, directions * gate_rows])?);
        let product = [(&input, &layer.weight_ih)];
        project::record(recording, caps, &product, layer.bias_ih.as_ref(), None, &flat)?;

        let slots = recurrent::state_slots(options.cell);
        let state = recording.scratch("state", &[slots, directions, batch, hidden], DType::F32);
        let slot = |k: usize| -> Result<View> {
            let one = state.layout.narrow(0, k, 1)?;
            Ok(state.with(one.reshape(&[directions, batch, hidden])?))
        };
        let part = |view: &View| -> Result<View> { Ok(view.with(view.layout.narrow(0, l * directions, directions)?)) };
        if inputs.initial_h.is_none() || (options.cell == Cell::Lstm && inputs.initial_c.is_none()) {
            recording.clear(state.slot);
        }
        if let Some(h) = &inputs.initial_h {
            copy::record(recording, caps, &part(h)?, &slot(0)?)?;
        }
        if let Some(c) = &inputs.initial_c {
            copy::record(recording, caps, &part(c)?, &slot(recurrent::STATE_C)?)?;
        }

        let last = l + 1 == layers.len();
        let merged = if last {
            outputs.output.clone()
        } else {
            recording.scratch("layer output", &[steps, batch, width], DType::F32)
        };
        let concat = options.merge == Merge::Concat;
        let each = if concat {
            merged.with(merged.layout.split(2, directions, hidden)?)
        } else {
            recording.scratch("output of both directions", &[steps, batch, directions, hidden], DType::F32)
        };
        let tensors = recurrent::Layer {
            gates: &gates,
            weight: &layer.weight_hh,
            bias: layer.bias_hh.as_ref(),
            peephole: layer.peephole.as_ref(),
            lengths: inputs.lengths.as_ref(),
            state: &state,
            output: &each,
        };
        for step in 0..steps {
            recurrent::record(recording, caps, options, tensors, step)?;
        }
        if !concat {
            merge::record(recording, caps, options.merge, &each, &merged)?;
        }
        copy::record(recording, caps, &slot(steps % 2)?, &part(&outputs.final_h)?)?;
        if let Some(c) = &outputs.final_c {
            copy::record(recording, caps, &slot(recurrent::STATE_C)?, &part(c)?)?;
        }
        input = merged;
    }
    Ok(())
}
