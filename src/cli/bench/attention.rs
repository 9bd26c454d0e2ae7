//! Attention on the device: one workload, each way to run it.

use std::cell::OnceCell;

use regard::attention::{Algorithm, AttentionInputs};
use regard::backend::{Backend, CpuTensor};
use regard::gpu::{Gpu, Run};
use regard::plan::{FusedPlan, Tile};
use regard::problem::AttentionProblem;
use regard::tensor::Array;
use regard::workload::{Truth, Workload, naive::Naive};
use regard::{Cpu, Error, Result, Tensor};

use super::cases::{OnCpu, Ready, Runnable, Way};

/// A workload with its inputs on host and device and the truth about it, once they are asked for.
pub(super) struct Attended {
    pub(super) work: Workload,
    inputs: OnceCell<Result<Inputs>>,
}

struct Inputs {
    on_gpu: AttentionInputs<Tensor>,
    truth: Truth,
}

/// How an attention is run.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    /// Which kernels.
    pub(super) path: &'static str,
    /// Form and tile.
    pub(super) text: String,
}

impl Attended {
    pub(super) fn new(work: Workload) -> Self {
        Self { work, inputs: OnceCell::new() }
    }

    /// The ways to run it.
    pub(super) fn ways() -> [Way; 5] {
        [Way::Auto, Way::Fused, Way::Split, Way::Staged, Way::Naive]
    }

    fn inputs(&self, gpu: &Gpu) -> Result<&Inputs> {
        let make = || {
            self.work.check_limits(gpu.caps())?;
            let inputs = self.work.inputs();
            let on_gpu = inputs.upload(gpu, self.work.dtype)?;
            Ok(Inputs { on_gpu, truth: self.work.truth(&inputs)? })
        };
        self.inputs.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// Ready to run on the CPU.
    pub(super) fn on_cpu(&self, cpu: &Cpu) -> Result<OnCpu> {
        let options = self.work.options(Algorithm::Auto);
        let inputs = self.work.inputs();
        let problem = AttentionProblem::new(&options, &inputs.map(Array::shape, Array::shape))?;
        let tensors = AttentionInputs::<CpuTensor>::stored(&inputs, self.work.dtype)?;
        let (plan, mut cpu) = (cpu.attention_plan(&options, &problem), cpu.clone());
        let work = Box::new(move || Ok(vec![("output", cpu.attention(&options, &tensors)?.output)]));
        Ok(OnCpu { plan, steps: None, work })
    }

    /// The error of an output as a share of the tolerance, where there is no GPU.
    pub(super) fn judge_on_host(&self, output: &Array) -> Result<f64> {
        Ok(self.work.truth(&self.work.inputs())?.judge(output)?.ratio())
    }

    /// Uploads the inputs, for the first of the ways.
    pub(super) fn upload(&self, gpu: &Gpu) -> Result<()> {
        self.inputs(gpu).map(drop)
    }

    /// How it would be run.
    ///
    /// # Errors
    /// Why it would not.
    pub(super) fn plan(&self, gpu: &Gpu, way: Way) -> Result<Planned> {
        let Some(path) = way.attention() else {
            return Ok(Planned {
                path: Way::Naive.name(),
                text: "three dispatches, an invocation a number".to_owned(),
            });
        };
        let plan = self.work.plan(path, gpu)?;
        let (path, text) = match (plan.path, &plan.fused) {
            (Algorithm::Split, Ok(fused)) => (Way::Split, tile(fused, self.work.keys)),
            (_, Ok(fused)) => (Way::Fused, tile(fused, self.work.keys)),
            (_, Err(reason)) => {
                let why = if path == Algorithm::Auto { format!(": {reason}") } else { String::new() };
                let ranges = count(plan.query_ranges.len(), "ranges of queries");
                (Way::Staged, format!("scores in memory{ranges}{why}"))
            }
        };
        // A row must be what it is called.
        if way != Way::Auto && path != way {
            return Err(Error::option("path", format!("there is no `{}` for this", way.name())));
        }
        Ok(Planned { path: path.name(), text })
    }

    /// Records the work once.
    ///
    /// # Errors
    /// Those of the way, which may be that the device has not the limits for it.
    pub(super) fn record<'g>(&self, gpu: &'g Gpu, way: Way) -> Result<Ready<'g>> {
        let inputs = &self.inputs(gpu)?.on_gpu;
        Ok(match way.attention() {
            Some(path) => {
                let mut run = Run::new(gpu);
                let output = self.work.options(path).record(&mut run, inputs)?.output;
                Ready { work: Runnable::Recorded(run), results: vec![("output", output)] }
            }
            None => {
                let naive = Naive::new(gpu, &self.work, inputs)?;
                let output = naive.output().clone();
                Ready { work: Runnable::Naive(naive), results: vec![("output", output)] }
            }
        })
    }

    /// The error of an output as a share of the tolerance.
    pub(super) fn judge(&self, gpu: &Gpu, output: &Array) -> Result<f64> {
        Ok(self.inputs(gpu)?.truth.judge(output)?.ratio())
    }
}

/// `tiled 64×32, 128 lanes, 2 to a row, subgroups, 4 ranges of keys`.
fn tile(fused: &FusedPlan, keys: usize) -> String {
    let Tile { form, lanes, queries, keys: columns, k_splits, subgroups } = fused.tile;
    let shared = if k_splits > 1 { format!(", {k_splits} to a score") } else { String::new() };
    let subgroups = if subgroups { ", subgroups" } else { "" };
    let splits = count(fused.splits(keys), "ranges of keys");
    format!("{form} {queries}×{columns}, {lanes} lanes{shared}{subgroups}{splits}")
}

/// Nothing about one.
fn count(n: usize, what: &str) -> String {
    if n > 1 { format!(", {n} {what}") } else { String::new() }
}
