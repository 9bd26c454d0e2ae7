//! Every kernel variant that a device can run, against the f64 oracle, over the [case table](crate::cases).
//!
//! A case judges each program it runs: the row of a variant holds the worst error ratio of all cases that used it.

mod case;
#[cfg(feature = "cpu")]
mod cpu;
mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::rc::Rc;

use crate::attention::AttentionOutputs;
use crate::baseline::{self, Verdicts};
use crate::cases::AttentionCase;
use crate::compare::Verdict;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run};
use crate::plan::AttentionPlan;
use crate::problem::Storage;
use crate::recording::Dispatch;
use crate::tensor::Array;
use case::Case;
#[cfg(feature = "cpu")]
pub use cpu::run_on_cpu;

/// The results of one variant over all cases.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// The kernel.
    pub kernel: &'static str,
    /// Its types and constants.
    pub variant: String,
    /// Cases that used it.
    pub cases: usize,
    /// Largest error ÷ tolerance; at most 1 for a pass.
    pub worst: f64,
    /// The case that had it.
    pub worst_case: String,
    /// Cases that failed, with the reason.
    pub failures: Vec<String>,
    /// Cases that prove nothing, because f32 arithmetic itself is a thousandth or more from the truth, with the number.
    pub unsound: Vec<String>,
}

impl Row {
    fn new(kernel: &'static str, label: &str) -> Self {
        Self {
            kernel,
            variant: label.strip_prefix(kernel).unwrap_or(label).trim().to_owned(),
            cases: 0,
            worst: 0.0,
            worst_case: String::new(),
            failures: Vec::new(),
            unsound: Vec::new(),
        }
    }

    fn add(&mut self, case: &str, output: &str, verdict: &Verdict) {
        let ratio = verdict.ratio();
        if ratio > self.worst {
            (self.worst, self.worst_case) = (ratio, case.to_owned());
        }
        if ratio > 1.0 {
            self.failures.push(format!("{case}, {output}: {ratio:.2} times the tolerance"));
        } else if !verdict.is_sound() {
            let off = verdict.baseline_relative;
            self.unsound.push(format!("{case}, {output}: f32 arithmetic itself is off by {off:.1e}"));
        }
    }
}

/// How much of the table is run.
///
/// Most of the time is a driver's compiler's, so the smaller samples choose programs, not cases: every case that needs no
/// others is run on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sample {
    /// Every case.
    All,
    /// Programs that together have every kernel with each of its element types and each value of its switches.
    Quick,
    /// Programs that together have every kernel, and attention and recurrences on every path.
    Kernels,
}

/// What a case of attention that is stored like this becomes, and how it is run; `None` leaves it out.
#[doc(hidden)]
pub type Planned<'p> = &'p dyn Fn(AttentionCase, Storage) -> Option<(AttentionCase, AttentionPlan)>;

/// A way through the table.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Sweep<'p> {
    /// How much of it.
    pub sample: Sample,
    /// Cases of attention alone, each changed and planned like this.
    pub planned: Option<Planned<'p>>,
    /// Each case a second time, on this handle of the device, which must give the same bits.
    pub again: Option<&'p Gpu>,
}

/// A case as it is stored and planned.
struct Job {
    case: Rc<Case>,
    storage: Storage,
    /// `None`: the planner's choice.
    plan: Option<AttentionPlan>,
}

impl Job {
    fn name(&self) -> String {
        format!("{} {}", self.case.name(), self.storage)
    }

    /// Runs the case; `run` keeps the recording, so that its variants can be reported.
    async fn verdicts(&self, run: &mut Run<'_>, again: Option<&Gpu>) -> Result<Verdicts> {
        let recorded = self.case.record(run, self.storage, self.plan.as_ref())?;
        let tensors: Vec<_> = recorded.results.iter().collect();
        let read = run.clone().submit_and_read_async(&tensors).await?;
        if let Some(gpu) = again {
            let mut run = Run::new(gpu);
            let recorded = self.case.record(&mut run, self.storage, self.plan.as_ref())?;
            let second = run.submit_and_read_async(&recorded.results.iter().collect::<Vec<_>>()).await?;
            let bits =
                |read: &[Array<f32>]| -> Vec<u32> { read.iter().flat_map(Array::data).map(|x| x.to_bits()).collect() };
            if bits(&read) != bits(&second) {
                return Err(Error::Gpu("other bits the second time".into()));
            }
        }
        for (found, wanted) in &recorded.integers {
            let found = found.download_u32_async(run.gpu()).await?;
            if found != *wanted {
                let numbers = |array: &Array<u32>| format!("{:?}", array.data());
                return Err(Error::shape("integers", "elements", numbers(wanted), numbers(&found)));
            }
        }
        (recorded.judge)(read)
    }
}

/// Runs the table, attention on every path that can compute a case. `progress` gets the numbers of
/// cases done and of all cases.
///
/// # Errors
/// None of the cases' own: they are in the rows. [`crate::Error::DeviceLost`] ends the run.
#[cfg(not(target_arch = "wasm32"))]
pub fn run(gpu: &Gpu, sample: Sample, progress: impl FnMut(usize, usize)) -> Result<Vec<Row>> {
    Sweep { sample, planned: None, again: None }.run(gpu, progress)
}

/// As [`run`], without blocking. `progress` may wait, so that others get their turn, and end the run with what it has by then.
///
/// # Errors
/// As [`run`].
pub async fn run_async(
    gpu: &Gpu,
    sample: Sample,
    progress: impl AsyncFnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Row>> {
    Sweep { sample, planned: None, again: None }.run_async(gpu, progress).await
}

impl Sweep<'_> {
    /// As [`run`].
    ///
    /// # Errors
    /// As [`run`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, gpu: &Gpu, mut progress: impl FnMut(usize, usize)) -> Result<Vec<Row>> {
        gpu.drive(self.run_async(gpu, async |done, all| {
            progress(done, all);
            ControlFlow::Continue(())
        }))
    }

    /// As [`run_async`].
    ///
    /// # Errors
    /// As [`run_async`].
    pub async fn run_async(
        &self,
        gpu: &Gpu,
        mut progress: impl AsyncFnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<Row>> {
        let jobs = sample::of(self.sample, gpu, self.jobs(gpu));
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for (done, job) in jobs.iter().enumerate() {
            if progress(done, jobs.len()).await.is_break() {
                return Ok(rows.into_values().collect());
            }
            let mut run = Run::new(gpu);
            let verdicts = job.verdicts(&mut run, self.again).await;
            if let Err(lost @ Error::DeviceLost(_)) = verdicts {
                return Err(lost);
            }
            let name = job.name();
            let named = |d: &Dispatch| Some((d.variant.label(), d.variant.kernel.built_in()?.name));
            let mut used: BTreeMap<String, &'static str> = run.recording().dispatches().filter_map(named).collect();
            // A case that fails before it has recorded anything must not go unseen.
            if verdicts.is_err() && used.is_empty() {
                used.insert(format!("none {name}"), "none");
            }
            for (label, kernel) in used {
                let row = rows.entry(label).or_insert_with_key(|label| Row::new(kernel, label));
                row.cases += 1;
                match &verdicts {
                    Err(error) => row.failures.push(format!("{name}: {error}")),
                    Ok(verdicts) => verdicts.iter().for_each(|(output, verdict)| row.add(&name, output, verdict)),
                }
            }
        }
        let _ = progress(jobs.len(), jobs.len()).await;
        Ok(rows.into_values().collect())
    }

    /// Builds the programs of the sample, without running one; `built` gets each case, with the reason where they cannot be
    /// built.
    pub fn build(&self, gpu: &Gpu, mut built: impl FnMut(&str, Result<()>)) {
        for job in sample::of(self.sample, gpu, self.jobs(gpu)) {
            let mut run = Run::new(gpu);
            let recorded = job.case.record(&mut run, job.storage, job.plan.as_ref());
            built(&job.name(), recorded.and_then(|_| run.prepare().map(drop)));
        }
    }

    /// The kernels and paths that the whole table has on a device, and those of the sample; nothing is run.
    pub fn kernels_and_paths(&self, gpu: &Gpu) -> [BTreeSet<String>; 2] {
        let jobs = self.jobs(gpu);
        let all = sample::kernels_and_paths(&jobs, gpu);
        [all, sample::kernels_and_paths(&sample::of(self.sample, gpu, jobs), gpu)]
    }

    /// Each case in each way to store it.
    fn jobs(&self, gpu: &Gpu) -> Vec<Job> {
        let mut jobs = Vec::new();
        for case in Case::all(gpu.caps()).into_iter().map(Rc::new) {
            for storage in case.storages(gpu.caps().f16) {
                match (self.planned, &*case) {
                    (None, _) => jobs.push(Job { case: case.clone(), storage, plan: None }),
                    (Some(planned), Case::Attention(attention)) => {
                        if let Some((case, plan)) = planned((**attention).clone(), storage) {
                            jobs.push(Job { case: Rc::new(Case::Attention(case.into())), storage, plan: Some(plan) });
                        }
                    }
                    (Some(_), _) => {}
                }
            }
        }
        jobs
    }
}

/// Error ÷ tolerance of every output of an attention, as [`baseline::judge_attention`].
///
/// # Errors
/// Those of the reference.
#[doc(hidden)]
pub fn judge_attention(
    case: &AttentionCase,
    got: &AttentionOutputs<Array<f32>>,
    storage: impl Into<Storage>,
) -> Result<Vec<(&'static str, f64)>> {
    let verdicts = baseline::judge_attention(&case.options, &case.inputs, got, storage)?;
    Ok(verdicts.into_iter().map(|(name, verdict)| (name, verdict.ratio())).collect())
}
