//! Recurrent encoders on the GPU.

mod sequence;
mod weights;

#[doc(hidden)]
pub use sequence::record;
#[doc(hidden)]
pub use weights::{LayerWeights, StackedWeights, Weights};

use crate::device::Caps;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::plan::RnnPlan;
use crate::problem::{RnnProblem, Role};
use crate::rnn::{Cell, Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::{Array, DType};

/// A recurrent encoder with its weights on the GPU.
#[derive(Debug, Clone)]
pub struct GpuRnn {
    options: Rnn,
    /// Shapes of the weights, for the checks at the door.
    stack: RnnStack<Vec<usize>>,
    weights: Weights<Tensor>,
    dtype: DType,
}

impl GpuRnn {
    /// Uploads weights; `dtype` is the storage of W, U and projections (biases, peepholes and norms stay f32).
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Option`] when weights and options do not fit, [`Error::Limit`] or [`Error::Gpu`]
    /// from the device.
    pub fn upload(gpu: &Gpu, options: &Rnn, stack: &RnnStack<Array<f32>>, dtype: DType) -> Result<Self> {
        let shapes = map_stack(stack, |a| Ok(a.shape().to_vec()))?;
        let input = stack.first().and_then(|layer| layer.first()).and_then(|w| w.weight_ih.shape().get(1).copied());
        let widths = RnnProblem::check_weights(options, &borrow_shapes(&shapes), input.unwrap_or(0))?;
        let weights = Weights::upload(gpu, options, &widths, stack, dtype)?;
        Ok(Self { options: options.clone(), stack: shapes, weights, dtype })
    }

    /// The options it was made with.
    pub fn options(&self) -> &Rnn {
        &self.options
    }

    /// Shapes of the weights, layer by layer.
    pub(crate) fn stack(&self) -> RnnStack<&[usize]> {
        borrow_shapes(&self.stack)
    }

    /// How inputs of these shapes would be run.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Option`] when the request is wrong.
    pub fn plan(&self, caps: &Caps, inputs: &RnnInputs<&[usize]>) -> Result<RnnPlan> {
        let problem = RnnProblem::new(&self.options, &borrow_shapes(&self.stack), inputs)?;
        RnnPlan::new(&self.options, &problem, self.dtype, caps)
    }

    /// Records the whole sequence; the tensors returned are filled when the run is submitted. `input` is [T, B, I] in
    /// f32 or f16, `lengths` u32, states f32; the outputs are f32.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Option`] when the request is wrong, [`Error::Limit`] when it does not fit the
    /// device.
    pub fn record(&self, run: &mut Run<'_>, inputs: &RnnInputs<Tensor>) -> Result<RnnOutputs<Tensor>> {
        let shapes = inputs.map(Tensor::shape, Tensor::shape);
        let problem = RnnProblem::new(&self.options, &borrow_shapes(&self.stack), &shapes)?;
        check_types(inputs)?;
        let caps = run.gpu().caps();
        let plan = RnnPlan::new(&self.options, &problem, self.dtype, caps)?;
        let states = |width: usize| [problem.layers * problem.directions, problem.batch, width];
        let (output, output_tensor) = run.output("output", &problem.output_shape(&self.options), DType::F32)?;
        let (final_h, final_h_tensor) = run.output("final_h", &states(problem.state), DType::F32)?;
        let (final_c, final_c_tensor) = match self.options.cell {
            Cell::Lstm => Some(run.output("final_c", &states(problem.hidden), DType::F32)?).unzip(),
            _ => (None, None),
        };
        // Tensors of numbers and of integers are bound alike.
        let shared = std::cell::RefCell::new(&mut *run);
        let bind = |name: &'static str, tensor: &Tensor| Ok::<_, Error>(shared.borrow_mut().bind(name, tensor));
        let views = inputs.try_map(bind, bind)?;
        let weights = self.weights.of_path(plan.path).map(|name, tensor| run.bind(name, tensor));
        let outputs = RnnOutputs { output, final_h, final_c };
        record(run.recording_mut(), caps, &self.options, &problem, &plan, &weights, &views, &outputs)?;
        Ok(RnnOutputs { output: output_tensor, final_h: final_h_tensor, final_c: final_c_tensor })
    }

    /// Runs the whole sequence and submits, as [`Run::submit`] does, without waiting for it.
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
    /// [`Error::Shape`] for a length above T, [`Error::Limit`], [`Error::Unsupported`] or
    /// [`Error::Gpu`] from the device.
    pub fn upload(&self, gpu: &Gpu, dtype: DType) -> Result<RnnInputs<Tensor>> {
        let steps = self.input.shape().first().copied().unwrap_or(0);
        self.try_map(
            |name, array| Tensor::upload(gpu, name, array, Role::of_rnn(name).dtype(dtype)),
            |name, array| Tensor::upload_lengths(gpu, name, array, steps),
        )
    }
}

impl RnnOutputs<Tensor> {
    /// Reads every tensor back. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Gpu`] or [`Error::DeviceLost`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn download(&self, gpu: &Gpu) -> Result<RnnOutputs<Array<f32>>> {
        gpu.drive(self.download_async(gpu))
    }

    /// As [`RnnOutputs::download`], without blocking: all in one submission.
    ///
    /// # Errors
    /// As [`RnnOutputs::download`].
    pub async fn download_async(&self, gpu: &Gpu) -> Result<RnnOutputs<Array<f32>>> {
        Tensor::fetch_all(gpu, |read| self.fetched(read)).await
    }

    /// Each tensor through `read`.
    pub(crate) fn fetched(
        &self,
        read: &mut dyn FnMut(&str, &Tensor) -> Result<Array>,
    ) -> Result<RnnOutputs<Array<f32>>> {
        Ok(RnnOutputs {
            output: read("output", &self.output)?,
            final_h: read("final_h", &self.final_h)?,
            final_c: self.final_c.as_ref().map(|tensor| read("final_c", tensor)).transpose()?,
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
