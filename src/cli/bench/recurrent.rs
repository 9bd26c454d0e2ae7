//! Recurrences to be timed, and the truth about them.

use std::cell::OnceCell;

use regard::attention::{Attention, AttentionInputs, Score};
use regard::backend::cpu::CpuRnn;
use regard::backend::{Backend, CpuTensor, Value};
use regard::compare::judge;
use regard::device::Caps;
use regard::gpu::{Gpu, Run};
use regard::ops::rnn::GpuRnn;
use regard::plan::RnnPlan;
use regard::problem::RnnProblem;
use regard::reference::{self, Float};
use regard::rnn::{Cell, Rnn, RnnAlgorithm, RnnInputs, RnnOutputs, RnnStack, RnnWeights};
use regard::tensor::{Array, DType, Layout};
use regard::workload::numbers;
use regard::{Cpu, Result, Tensor};

use super::cases::OnCpu;

/// Operations that the reference may take for a check; rows of a batch are left out beyond that.
const MOST_CHECKED: f64 = 3e9;

/// A recurrent encoder with its inputs on the host, and dot-product attention over what it gives where there is a query.
pub(super) struct Recurrent {
    options: Rnn,
    stack: RnnStack<Array>,
    inputs: RnnInputs<Array>,
    /// One decoder state a row, [B, 1, 1, H].
    query: Option<Array>,
    truth: OnceCell<Truth>,
}

/// Results by name.
type Named<T = f32> = Vec<(&'static str, Array<T>)>;

/// What the reference says of some rows of the batch.
struct Truth {
    rows: Vec<usize>,
    oracle: Named<f64>,
    baseline: Named,
}

/// How a recurrence is run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) path: RnnAlgorithm,
    /// T.
    pub(super) steps: usize,
    /// What the planner expects.
    pub(super) nanoseconds: f64,
    /// Batch rows in a tile of the recurrent product; none where the weights stay in registers.
    pub(super) tile: Option<u32>,
    /// Whether the recurrence, which the estimate is of, is all that is timed: no attention follows.
    pub(super) alone: bool,
}

/// Shape of a recurrence: inputs as wide as the state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) steps: usize,
    pub(super) batch: usize,
    pub(super) hidden: usize,
    pub(super) layers: usize,
}

impl Recurrent {
    pub(super) fn new(options: Rnn, shape: Shape) -> Self {
        let Shape { steps, batch, hidden, layers } = shape;
        let (rows, size) = (options.cell.gates() * hidden, 1.0 / (hidden as f32).sqrt());
        let weights = |width, seed| RnnWeights {
            bias_ih: Some(numbers(&[rows], seed + 2, size)),
            bias_hh: Some(numbers(&[rows], seed + 3, size)),
            ..RnnWeights::new(numbers(&[rows, width], seed, size), numbers(&[rows, hidden], seed + 1, size))
        };
        let directions = options.direction.count();
        let layer = |l| {
            let width = if l == 0 { hidden } else { options.output_width(hidden) };
            (0..directions).map(|d| weights(width, 10 * (2 * l + d) as u32)).collect()
        };
        let stack = (0..layers).map(layer).collect();
        let inputs = RnnInputs::new(numbers(&[steps, batch, hidden], 99, 1.0));
        Self { options, stack, inputs, query: None, truth: OnceCell::new() }
    }

    /// The step that soft attention began with: an LSTM under TensorFlow's `dynamic_rnn`, scores as dot products with
    /// a decoder state, softmax, weighted sum.
    pub(super) fn article(shape: Shape) -> Self {
        let options = Rnn { forget_bias: 1.0, ..Rnn::new(Cell::Lstm) };
        let query = numbers(&[shape.batch, 1, 1, shape.hidden], 98, 1.0);
        Self { query: Some(query), ..Self::new(options, shape) }
    }

    /// The ways to run it that are worth telling apart.
    pub(super) fn paths(&self) -> Vec<RnnAlgorithm> {
        let mut paths = vec![RnnAlgorithm::Auto, RnnAlgorithm::Steps];
        if self.stack.len() > 1 && self.options.direction.count() == 1 {
            paths.push(RnnAlgorithm::Wavefront);
        }
        paths.push(RnnAlgorithm::Persistent);
        paths
    }

    fn problem(&self) -> Result<RnnProblem> {
        let shapes = self.stack.iter().map(|layer| layer.iter().map(|w| w.map(Array::shape)).collect()).collect();
        RnnProblem::new(&self.options, &shapes, &self.inputs.map(Array::shape, Array::shape))
    }

    /// How it is run on this device, and what the planner expects of that.
    pub(super) fn plan(&self, on_gpu: &OnGpu, gpu: &Gpu) -> Result<Plan> {
        let plan = on_gpu.rnn.plan(gpu.caps(), &self.inputs.map(Array::shape, Array::shape))?;
        let estimate = plan.estimates.into_iter().find(|estimate| estimate.path == plan.path);
        Ok(Plan {
            path: plan.path,
            steps: self.inputs.input.shape()[0],
            nanoseconds: estimate.and_then(|estimate| estimate.nanoseconds.ok()).unwrap_or(f64::NAN),
            tile: plan.persistent.is_none().then_some(plan.step.rows),
            alone: self.query.is_none(),
        })
    }

    /// Operations and bytes that any solution needs.
    pub(super) fn work(&self) -> Result<(f64, f64)> {
        let problem = self.problem()?;
        let RnnPlan { flops, bytes, .. } = RnnPlan::new(&self.options, &problem, DType::F32, &Caps::default())?;
        // Attention does two products over the states that the encoder leaves in memory.
        let attention = self.query.as_ref().map_or(0, |_| 4 * problem.steps * problem.batch * problem.width);
        Ok((flops as f64 + attention as f64, bytes as f64))
    }

    /// Ready to run on the CPU, weights packed.
    pub(super) fn on_cpu(&self, cpu: &Cpu) -> Result<OnCpu> {
        let problem = self.problem()?;
        let rnn = CpuRnn::stored(cpu, &self.options, &self.stack, DType::F32)?;
        let inputs = RnnInputs::<CpuTensor>::stored(&self.inputs, DType::F32)?;
        let query = self.query.clone().map(CpuTensor::from);
        let (plan, mut cpu) = (cpu.rnn_plan(&self.options, &problem), cpu.clone());
        let work = Box::new(move || {
            let encoded = cpu.rnn(&rnn, &inputs)?;
            let mut results: Vec<_> = encoded.named().map(|(name, tensor)| (name, tensor.clone())).collect();
            if let Some(query) = &query {
                let &[steps, batch, width] = encoded.output.shape() else { return Ok(results) };
                let states = cpu.permute(&encoded.output, &[1, 0, 2])?.reshape(&[batch, 1, steps, width])?;
                let inputs = AttentionInputs::new(query.clone(), states.clone(), states);
                results.push((ATTENDED, cpu.attention(&dot(), &inputs)?.output));
            }
            Ok(results)
        });
        Ok(OnCpu { plan, steps: Some(problem.steps), work })
    }

    /// Uploads weights and inputs.
    pub(super) fn upload(&self, gpu: &Gpu, path: RnnAlgorithm) -> Result<OnGpu> {
        let options = Rnn { path, ..self.options.clone() };
        Ok(OnGpu {
            rnn: GpuRnn::upload(gpu, &options, &self.stack, DType::F32)?,
            inputs: self.inputs.upload(gpu, DType::F32)?,
            query: self.query.as_ref().map(|query| Tensor::upload(gpu, "query", query, DType::F32)).transpose()?,
        })
    }

    /// Error as a share of the tolerance of each result, over the rows of the batch that the reference has time for.
    pub(super) fn judge(&self, got: &[(&'static str, Array)]) -> Result<Vec<(&'static str, f64)>> {
        let truth = match self.truth.get() {
            Some(truth) => truth,
            None => {
                let truth = self.truth()?;
                self.truth.get_or_init(|| truth)
            }
        };
        let truths = truth.oracle.iter().zip(&truth.baseline);
        let judged = got.iter().zip(truths).map(|((name, got), ((_, oracle), (_, baseline)))| {
            let got = take(got, batch_axis(name), &truth.rows)?;
            Ok((*name, judge(name, &got, oracle, baseline, DType::F32)?.ratio()))
        });
        judged.collect()
    }

    fn truth(&self) -> Result<Truth> {
        let batch = self.problem()?.batch;
        let (flops, _) = self.work()?;
        let count = if flops <= MOST_CHECKED { batch } else { batch.min(4) };
        // Evenly apart, the first and the last among them.
        let rows: Vec<usize> = (0..count).map(|i| i * (batch - 1) / (count - 1).max(1)).collect();
        let oracle = self.reference(&rows, |&x| f64::from(x))?;
        let baseline = self.reference(&rows, |&x| x)?;
        Ok(Truth { rows, oracle, baseline })
    }

    /// The results of some rows by the reference, in the precision that `as_float` gives.
    fn reference<T: Float>(&self, rows: &[usize], as_float: impl Fn(&f32) -> T) -> Result<Named<T>> {
        let float = |array: &Array| array.map(&as_float);
        let stack = self.stack.iter().map(|layer| layer.iter().map(|w| w.map(float)).collect()).collect();
        let inputs = RnnInputs::new(float(&take(&self.inputs.input, 1, rows)?));
        let encoded = reference::rnn(&self.options, &stack, &inputs)?;
        let mut results = named(&encoded);
        if let Some(query) = &self.query {
            let &[steps, batch, width] = encoded.output.shape() else { return Ok(results) };
            let states = encoded.output.permute(&[1, 0, 2])?.reshape(&[batch, 1, steps, width])?;
            let inputs = AttentionInputs::new(float(&take(query, 0, rows)?), states.clone(), states);
            results.push((ATTENDED, reference::attention(&dot(), &inputs)?.output));
        }
        Ok(results)
    }
}

/// What attention over the states gives.
const ATTENDED: &str = "attended";

fn dot() -> Attention {
    Attention { score: Score::Dot, ..Attention::default() }
}

fn named<T: Clone>(outputs: &RnnOutputs<Array<T>>) -> Named<T> {
    outputs.named().map(|(name, array)| (name, array.clone())).collect()
}

/// Results of a recurrence are [T or states, B, …], those of attention [B, …].
fn batch_axis(name: &str) -> usize {
    usize::from(name != ATTENDED)
}

/// Some entries of an axis.
fn take(array: &Array, axis: usize, entries: &[usize]) -> Result<Array> {
    let whole = Layout::contiguous(array.shape());
    let (length, inner) = (whole.shape[axis], whole.strides[axis]);
    let outer = array.data().chunks(length * inner);
    let data = outer.flat_map(|part| entries.iter().flat_map(move |&k| &part[k * inner..][..inner])).copied().collect();
    let mut shape = whole.shape;
    shape[axis] = entries.len();
    Array::new(&shape, data)
}

/// A recurrence with weights and inputs on the device.
pub(super) struct OnGpu {
    rnn: GpuRnn,
    inputs: RnnInputs<Tensor>,
    query: Option<Tensor>,
}

impl OnGpu {
    /// Records the work once; the results by name.
    pub(super) fn record(&self, run: &mut Run<'_>) -> Result<Vec<(&'static str, Tensor)>> {
        let encoded = self.rnn.record(run, &self.inputs)?;
        let mut results: Vec<_> = encoded.named().map(|(name, tensor)| (name, tensor.clone())).collect();
        if let Some(query) = &self.query {
            // [T, B, H] → [B, 1, T, H], as a view.
            let layout = encoded.output.layout();
            let width = layout.shape.last().copied().unwrap_or_default();
            let states = encoded.output.with_layout(layout.split(2, 1, width)?.permute(&[1, 2, 0, 3])?)?;
            let inputs = AttentionInputs::new(query.clone(), states.clone(), states);
            results.push((ATTENDED, dot().record(run, &inputs)?.output));
        }
        Ok(results)
    }
}
