//! What is timed: attention and recurrences, a case for each way to run each of them.

use std::rc::Rc;

use clap::ValueEnum;
use regard::attention::Algorithm;
use regard::backend::CpuTensor;
use regard::gpu::{Gpu, Run};
use regard::rnn::{Cell, Reset, Rnn, RnnAlgorithm};
use regard::tensor::{Array, DType};
use regard::workload::{self, naive::Naive};
use regard::{Cpu, Error, Result, Tensor};

use super::attention::{Attended, Planned};
use super::recurrent::{OnGpu, Plan, Recurrent, Shape};
use super::report;

/// A way to run a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(super) enum Way {
    /// What the planner chooses.
    Auto,
    /// Attention without scores in memory.
    Fused,
    /// The same, ranges of keys side by side.
    Split,
    /// Attention with scores in memory.
    Staged,
    /// Attention with an invocation for each number, nothing reused: not the library's.
    Naive,
    /// A recurrence, a dispatch a step.
    Steps,
    /// A recurrence, layers side by side.
    Wavefront,
    /// A recurrence, the loop over time in the shader.
    Persistent,
}

impl Way {
    /// The name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fused => "fused",
            Self::Split => "split",
            Self::Staged => "staged",
            Self::Naive => "naive",
            Self::Steps => "steps",
            Self::Wavefront => "wavefront",
            Self::Persistent => "persistent",
        }
    }

    /// The library's path of attention, if it is one.
    pub(super) fn attention(self) -> Option<Algorithm> {
        match self {
            Self::Auto => Some(Algorithm::Auto),
            Self::Fused => Some(Algorithm::Fused),
            Self::Split => Some(Algorithm::Split),
            Self::Staged => Some(Algorithm::Staged),
            _ => None,
        }
    }

    fn of_recurrence(path: RnnAlgorithm) -> Self {
        match path {
            RnnAlgorithm::Auto => Self::Auto,
            RnnAlgorithm::Steps => Self::Steps,
            RnnAlgorithm::Wavefront => Self::Wavefront,
            RnnAlgorithm::Persistent => Self::Persistent,
        }
    }
}

/// One piece of work, run one way.
pub(super) struct Case {
    /// The work, then the way.
    pub(super) name: String,
    pub(super) way: Way,
    work: Work,
}

/// Inputs and truth are made once for all ways, and freed with the last of them.
enum Work {
    Attention(Rc<Attended>),
    Recurrent(Rc<Recurrent>, RnnAlgorithm),
}

/// Recorded work that can be run again and again, and what it gives.
pub(super) struct Ready<'g> {
    pub(super) work: Runnable<'g>,
    pub(super) results: Vec<(&'static str, Tensor)>,
}

pub(super) enum Runnable<'g> {
    Recorded(Run<'g>),
    Naive(Naive),
}

impl Ready<'_> {
    /// Runs it; nanoseconds on the device.
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub(super) fn time(&self, gpu: &Gpu) -> Result<f64> {
        match &self.work {
            Runnable::Recorded(run) => run.clone().submit_and_time(),
            Runnable::Naive(naive) => gpu.time(|encoder| {
                naive.encode(encoder);
                Ok(())
            }),
        }
    }

    pub(super) fn dispatches(&self) -> usize {
        match &self.work {
            Runnable::Recorded(run) => run.recording().dispatches().count(),
            Runnable::Naive(naive) => naive.dispatches(),
        }
    }
}

/// Results on the CPU by name.
pub(super) type Results = Vec<(&'static str, CpuTensor)>;

/// Work that can be run on the CPU again and again.
pub(super) struct OnCpu {
    /// How it is run.
    pub(super) plan: String,
    /// T of a recurrence.
    pub(super) steps: Option<usize>,
    pub(super) work: Box<dyn FnMut() -> Result<Results>>,
}

impl OnCpu {
    /// Runs it; the results by name.
    pub(super) fn run(&mut self) -> Result<Results> {
        (self.work)()
    }
}

/// How a case is run on a device.
#[derive(Debug, Clone)]
pub(super) enum How {
    Attention(Planned),
    Recurrent(Plan),
}

/// One case for each way to run it.
fn recurrent(label: &str, shape: Shape, work: Recurrent) -> Vec<Case> {
    let Shape { steps, batch, hidden, layers } = shape;
    let layers = if layers == 1 { String::new() } else { format!(" L{layers}") };
    let work = Rc::new(work);
    let case = |path| {
        let way = Way::of_recurrence(path);
        let name = format!("{label} T{steps} B{batch} H{hidden}{layers} {}", way.name());
        Case { name, way, work: Work::Recurrent(work.clone(), path) }
    };
    work.paths().into_iter().map(case).collect()
}

/// T, B, H, layers.
fn shape([steps, batch, hidden, layers]: [usize; 4]) -> Shape {
    Shape { steps, batch, hidden, layers }
}

/// Recurrences; smaller ones when quick.
pub(super) fn recurrences(quick: bool) -> Vec<Case> {
    let [lstm, gru, rnn] = [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Rnn].map(Rnn::new);
    let one = |label: &str, options: &Rnn, numbers| {
        recurrent(label, shape(numbers), Recurrent::new(options.clone(), shape(numbers)))
    };
    let both = |numbers| [one("lstm", &lstm, numbers), one("gru", &gru, numbers)].into_iter().flatten().collect();
    let bidirectional = |numbers| -> Vec<Case> {
        let two_ways = |options: &Rnn| options.clone().bidirectional();
        [one("bi-lstm", &two_ways(&lstm), numbers), one("bi-gru", &two_ways(&gru), numbers)]
            .into_iter()
            .flatten()
            .collect()
    };
    let article = |numbers| recurrent("lstm + dot attention", shape(numbers), Recurrent::article(shape(numbers)));
    let cases: Vec<Vec<Case>> = if quick {
        vec![
            both([32, 1, 64, 1]),
            both([32, 8, 64, 2]),
            one("rnn", &rnn, [32, 8, 64, 1]),
            bidirectional([32, 8, 64, 1]),
            article([32, 8, 64, 1]),
        ]
    } else {
        vec![
            both([1, 1, 256, 1]),
            both([128, 1, 256, 1]),
            both([128, 16, 256, 1]),
            both([128, 64, 256, 1]),
            both([512, 1, 128, 1]),
            both([100, 64, 512, 4]),
            one("rnn", &rnn, [128, 16, 256, 1]),
            bidirectional([128, 16, 256, 1]),
            article([128, 16, 256, 1]),
        ]
    };
    cases.into_iter().flatten().collect()
}

/// Attention; smaller and fewer problems when quick.
pub(super) fn attentions(quick: bool) -> Vec<Case> {
    let of_work = |work: workload::Workload| {
        let name = work.name();
        let work = Rc::new(Attended::new(work));
        Attended::ways().map(|way| Case {
            name: format!("{name} {}", way.name()),
            way,
            work: Work::Attention(work.clone()),
        })
    };
    workload::all(quick).into_iter().flat_map(of_work).collect()
}

impl Case {
    /// The name without the way.
    pub(super) fn work_name(&self) -> &str {
        self.name.strip_suffix(self.way.name()).unwrap_or(&self.name).trim_end()
    }

    /// Query, key and value of f16.
    pub(super) fn is_half(&self) -> bool {
        matches!(&self.work, Work::Attention(attended) if attended.work.dtype == DType::F16)
    }

    pub(super) fn is_recurrent(&self) -> bool {
        matches!(self.work, Work::Recurrent(..))
    }

    /// What an attention has in common with others of another sequence length, and that length. llama.cpp's cases are
    /// to be compared with its own, not with one another.
    pub(super) fn point(&self) -> Option<(String, usize)> {
        match &self.work {
            Work::Attention(attended) if attended.work.kind != workload::Kind::Ggml => {
                Some((attended.work.series(), attended.work.keys))
            }
            _ => None,
        }
    }

    /// The problem, of attention.
    pub(super) fn shape(&self) -> Option<report::Shape> {
        match &self.work {
            Work::Attention(attended) => Some((&attended.work).into()),
            Work::Recurrent(..) => None,
        }
    }

    /// Operations and bytes that any solution needs.
    pub(super) fn work(&self) -> Result<(f64, f64)> {
        match &self.work {
            Work::Attention(attended) => Ok(attended.work.work()),
            Work::Recurrent(work, _) => work.work(),
        }
    }

    /// Ready to run on the CPU, with tensors and weights as it stores them.
    pub(super) fn on_cpu(&self, cpu: &Cpu) -> Result<OnCpu> {
        match &self.work {
            Work::Attention(attended) => attended.on_cpu(cpu),
            Work::Recurrent(work, _) => work.on_cpu(cpu),
        }
    }

    /// What a run on the CPU gave against the reference; the largest error as a share of the tolerance.
    ///
    /// # Errors
    /// [`Error::Tolerance`] when that is above 1.
    pub(super) fn check_on_cpu(&self, got: &[(&'static str, Array)]) -> Result<f64> {
        let ratios = match &self.work {
            Work::Attention(attended) => {
                got.iter().map(|(name, output)| Ok((*name, attended.judge_on_host(output)?))).collect::<Result<_>>()?
            }
            Work::Recurrent(work, _) => work.judge(got)?,
        };
        worst(&ratios, &self.name)
    }

    /// Uploads what it needs, once for all ways.
    pub(super) fn prepare(&self, gpu: &Gpu) -> Result<Prepared<'_>> {
        Ok(match &self.work {
            Work::Attention(attended) => {
                attended.upload(gpu)?;
                Prepared::Attention(attended, self.way)
            }
            Work::Recurrent(work, path) => Prepared::Recurrent(work, Box::new(work.upload(gpu, *path)?)),
        })
    }
}

/// A case with its inputs on the device.
pub(super) enum Prepared<'c> {
    Attention(&'c Attended, Way),
    Recurrent(&'c Recurrent, Box<OnGpu>),
}

impl Prepared<'_> {
    /// How it is run on this device.
    pub(super) fn plan(&self, gpu: &Gpu) -> Result<How> {
        match self {
            Self::Attention(attended, way) => attended.plan(gpu, *way).map(How::Attention),
            Self::Recurrent(work, on_gpu) => work.plan(on_gpu, gpu).map(How::Recurrent),
        }
    }

    /// Records the work once.
    pub(super) fn record<'g>(&self, gpu: &'g Gpu) -> Result<Ready<'g>> {
        match self {
            Self::Attention(attended, way) => attended.record(gpu, *way),
            Self::Recurrent(_, on_gpu) => {
                let mut run = Run::new(gpu);
                let results = on_gpu.record(&mut run)?;
                Ok(Ready { work: Runnable::Recorded(run), results })
            }
        }
    }

    /// What a run left against the reference; the largest error as a share of the tolerance.
    ///
    /// # Errors
    /// [`Error::Tolerance`] when that is above 1.
    pub(super) fn check(&self, gpu: &Gpu, ready: &Ready<'_>, name: &str) -> Result<f64> {
        let got: Vec<_> =
            ready.results.iter().map(|(name, tensor)| Ok((*name, tensor.download(gpu)?))).collect::<Result<_>>()?;
        let ratios = match self {
            Self::Attention(attended, _) => {
                got.iter().map(|(name, output)| Ok((*name, attended.judge(gpu, output)?))).collect::<Result<_>>()?
            }
            Self::Recurrent(work, _) => work.judge(&got)?,
        };
        worst(&ratios, name)
    }
}

/// The largest of some shares of the tolerance.
///
/// # Errors
/// [`Error::Tolerance`] when that is above 1.
fn worst(ratios: &[(&'static str, f64)], name: &str) -> Result<f64> {
    match ratios.iter().find(|(_, ratio)| *ratio > 1.0) {
        Some((output, ratio)) => {
            let what = format!("`{output}` of {name}, as a share of the tolerance");
            Err(Error::Tolerance { what, error: *ratio, tolerance: 1.0 })
        }
        None => Ok(ratios.iter().map(|(_, ratio)| *ratio).fold(0.0, f64::max)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_end_with_the_way() {
        for quick in [false, true] {
            let cases = [attentions(quick), recurrences(quick)].into_iter().flatten().collect::<Vec<_>>();
            let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
            assert_eq!(names.len(), cases.len());
            for case in &cases {
                assert_eq!(format!("{} {}", case.work_name(), case.way.name()), case.name);
            }
        }
    }
}
