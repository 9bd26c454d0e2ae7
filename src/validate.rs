//! Every kernel variant that a device can run, against the f64 oracle, over the [case table](crate::cases).
//!
//! A case judges each program it runs: the row of a variant holds the worst error ratio of all cases that used it.

use std::collections::BTreeMap;

use crate::attention::{Attention, AttentionOutputs, Path};
use crate::baseline::{self, Verdicts, stored};
use crate::cases::{self, AppendCase, AttentionCase, CoverageCase, LinearCase, MergeCase, RnnCase};
use crate::compare::{Verdict, judge};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::{barrier_rate, coop_rate, coverage, fma_rate};
use crate::layers::CoverageCost;
use crate::ops::cache::append;
use crate::ops::linear::{Epilogue, embed, linear};
use crate::ops::merge::{merge, merge_max_sum};
use crate::ops::rnn::GpuRnn;
use crate::plan::{AttentionPlan, Caps};
use crate::problem::{AttentionProblem, Storage};
use crate::reference::{self, Float};
use crate::rnn::RnnOutputs;
use crate::tensor::{Array, DType};

/// What the cases say of one variant.
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
    /// Cases that say nothing, because f32 arithmetic itself is a thousandth or more from the truth, with the number.
    pub unsound: Vec<String>,
}

impl Row {
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

/// One case, ready to run.
enum Case {
    Attention(Box<AttentionCase>),
    Recurrent(RnnCase),
    Linear(LinearCase),
    Append(AppendCase),
    Merge(MergeCase),
    Coverage(CoverageCase),
    /// x = a·x + b so often.
    FmaRate([f32; 2], u32),
    /// sum = left · right + sum so often, where there are cooperative matrices.
    CoopRate(u32),
    /// So many lanes, so many turns.
    BarrierRate(usize, u32),
}

impl Case {
    fn name(&self) -> &str {
        match self {
            Self::Attention(case) => &case.name,
            Self::Recurrent(case) => &case.name,
            Self::Linear(case) => &case.name,
            Self::Append(case) => &case.name,
            Self::Merge(case) => &case.name,
            Self::Coverage(case) => &case.name,
            Self::FmaRate(..) => "rate of multiply-adds",
            Self::CoopRate(..) => "rate of cooperative matrices",
            Self::BarrierRate(..) => "rate of barriers",
        }
    }

    /// How the case can be stored.
    fn storages(&self, f16: bool) -> Vec<Storage> {
        let q8 = match self {
            Self::Attention(case) => cases::in_blocks(&[&case.inputs.key, &case.inputs.value]),
            Self::Append(case) => cases::in_blocks(&[&case.cache]),
            _ => false,
        };
        let f32_only = match self {
            Self::Attention(case) => case.f32_only,
            Self::Recurrent(case) => case.f32_only,
            Self::Merge(case) => case.f32_only,
            _ => false,
        };
        let elements = [Some(DType::F32), (f16 && !f32_only).then_some(DType::F16)];
        let cached = |element: DType| {
            [Some(element), q8.then_some(DType::Q8)].map(|cache| Some(Storage { element, cache: cache? }))
        };
        elements.into_iter().flatten().flat_map(cached).flatten().collect()
    }
}

/// Cases of attention, recurrences and linear layers to take from the table; the few others are always taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The first one.
    pub first: usize,
    /// How many from one to the next; 1 or more.
    pub step: usize,
}

impl Sample {
    /// Every case.
    pub const ALL: Self = Self { first: 0, step: 1 };
    /// Every fifth case.
    pub const QUICK: Self = Self { first: 0, step: 5 };
}

/// Runs the table, attention on every path that can compute a case. `progress` is told how many of how many are done.
///
/// # Errors
/// None of the cases' own: they are in the rows. [`crate::Error::DeviceLost`] ends the run.
pub fn run(gpu: &Gpu, sample: Sample, mut progress: impl FnMut(usize, usize)) -> Result<Vec<Row>> {
    let cases: Vec<Case> = cases::attention()
        .into_iter()
        .flat_map(paths)
        .map(|case| Case::Attention(Box::new(case)))
        .chain(cases::recurrent().into_iter().map(Case::Recurrent))
        .chain(cases::linear().into_iter().map(Case::Linear))
        .skip(sample.first)
        .step_by(sample.step.max(1))
        .chain(cases::appends().into_iter().map(Case::Append))
        .chain(cases::merges().into_iter().map(Case::Merge))
        .chain(cases::coverage().into_iter().map(Case::Coverage))
        .chain(gpu.caps().cooperative.map(|_| Case::CoopRate(20)))
        .chain([Case::FmaRate([0.75, 0.5], 20), Case::BarrierRate(64, 50), Case::BarrierRate(256, 50)])
        .collect();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (done, case) in cases.iter().enumerate() {
        progress(done, cases.len());
        for storage in case.storages(gpu.caps().f16) {
            let dtype = storage.element;
            let mut run = Run::new(gpu);
            let verdicts = match case {
                Case::Attention(case) => attention(&mut run, case, storage),
                Case::Recurrent(case) => recurrent(&mut run, case, dtype),
                Case::Linear(case) => linear_case(&mut run, case, dtype),
                Case::Append(case) => append_case(&mut run, case, storage),
                Case::Merge(case) => merge_case(&mut run, case, dtype),
                Case::Coverage(case) => coverage_case(&mut run, case),
                Case::FmaRate(factors, turns) => fma_rate_case(&mut run, *factors, *turns),
                Case::CoopRate(turns) => coop_rate_case(&mut run, *turns),
                Case::BarrierRate(lanes, turns) => barrier_rate_case(&mut run, *lanes, *turns),
            };
            if let Err(lost @ crate::Error::DeviceLost(_)) = verdicts {
                return Err(lost);
            }
            let name = format!("{} {storage}", case.name());
            let mut used: BTreeMap<String, &'static str> =
                run.recording().dispatches().map(|d| (d.variant.label(), d.variant.kernel.name())).collect();
            // A case that fails before it has recorded anything must not go unseen.
            if verdicts.is_err() && used.is_empty() {
                used.insert(format!("none {name}"), "none");
            }
            for (label, kernel) in used {
                let row = rows.entry(label.clone()).or_insert_with(|| Row {
                    kernel,
                    variant: label.strip_prefix(kernel).unwrap_or(&label).trim().to_owned(),
                    cases: 0,
                    worst: 0.0,
                    worst_case: String::new(),
                    failures: Vec::new(),
                    unsound: Vec::new(),
                });
                row.cases += 1;
                match &verdicts {
                    Err(error) => row.failures.push(format!("{name}: {error}")),
                    Ok(verdicts) => verdicts.iter().for_each(|(output, verdict)| row.add(&name, output, verdict)),
                }
            }
        }
    }
    progress(cases.len(), cases.len());
    Ok(rows.into_values().collect())
}

fn widened(array: &Array<f32>) -> Array<f64> {
    array.map(|&x| f64::from_f32(x))
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

/// Reads tensors through the run without consuming its recording, so that the variants can still be told.
fn read(run: &Run<'_>, tensors: &[&Tensor]) -> Result<Vec<Array<f32>>> {
    run.clone().submit_and_read(tensors)
}

/// A case once for each path that can compute it.
fn paths(case: AttentionCase) -> Vec<AttentionCase> {
    let shapes = case.inputs.map(Array::shape);
    let on = |path: Path| {
        let options = Attention { path, ..case.options.clone() };
        let problem = AttentionProblem::new(&options, &shapes).ok()?;
        let plan = AttentionPlan::new(&options, &problem, DType::F32, &Caps::default());
        let unfused = matches!(plan, Err(Error::Option { ref option, .. }) if option == "path");
        (!unfused).then(|| AttentionCase { name: format!("{}, {path}", case.name), options, ..case.clone() })
    };
    [Path::Staged, Path::Fused, Path::Split].into_iter().filter_map(on).collect()
}

fn attention(run: &mut Run<'_>, case: &AttentionCase, storage: Storage) -> Result<Verdicts> {
    let inputs = case.inputs.upload(run.gpu(), storage)?;
    let outputs = case.options.record(run, &inputs)?;
    let tensors: Vec<_> = outputs.named().map(|(_, tensor)| tensor).collect();
    let mut read = read(run, &tensors)?.into_iter();
    let missing = |name: &str| crate::Error::missing(name, "what was read back");
    let got = outputs.try_map(|name, _| read.next().ok_or_else(|| missing(name)))?;
    baseline::judge_attention(&case.options, &case.inputs, &got, storage)
}

fn recurrent(run: &mut Run<'_>, case: &RnnCase, dtype: DType) -> Result<Verdicts> {
    let rnn = GpuRnn::upload(run.gpu(), &case.options, &case.stack, dtype)?;
    let outputs = rnn.record(run, &case.inputs.upload(run.gpu(), dtype)?)?;
    let mut tensors = vec![&outputs.output, &outputs.final_h];
    tensors.extend(&outputs.final_c);
    let mut read = read(run, &tensors)?.into_iter();
    let mut next = || read.next().ok_or_else(|| crate::Error::missing("output", "what was read back"));
    let got = RnnOutputs {
        output: next()?,
        final_h: next()?,
        final_c: outputs.final_c.as_ref().map(|_| next()).transpose()?,
    };
    baseline::judge_rnn(&case.options, &case.stack, &case.inputs, &got, dtype)
}

fn linear_case(run: &mut Run<'_>, case: &LinearCase, dtype: DType) -> Result<Verdicts> {
    let gpu = run.gpu();
    let table = Tensor::upload(gpu, "table", &case.table, dtype)?;
    let ids = Tensor::upload_u32(gpu, "ids", &Array::new(&[case.ids.len()], case.ids.clone())?)?;
    let weight = Tensor::upload(gpu, "weight", &case.weight, dtype)?;
    let bias = case.bias.as_ref().map(|b| Tensor::upload(gpu, "bias", b, DType::F32)).transpose()?;
    let x = embed(run, &table, &ids)?;
    let y = linear(
        run,
        &[(&x, &weight)],
        &Epilogue { bias: bias.as_ref(), activation: case.activation, ..Epilogue::default() },
    )?;
    let mut read = read(run, &[&y])?;
    let got = read.pop().ok_or_else(|| crate::Error::missing("y", "what was read back"))?;
    let exact = |table: &Array<f32>, weight: &Array<f32>| {
        let x = reference::embed(&widened(table), &case.ids)?;
        reference::linear(&x, &widened(weight), case.bias.as_ref().map(widened).as_ref(), case.activation)
    };
    let (table, weight) = (stored("table", &case.table, dtype)?, stored("weight", &case.weight, dtype)?);
    let baseline = {
        let x = reference::embed(&table, &case.ids)?;
        reference::linear(&x, &weight, case.bias.as_ref(), case.activation)?
    };
    let mut verdict = judge("y", &got, &exact(&case.table, &case.weight)?, &baseline, DType::F32)?;
    if !verdict.is_sound() {
        // Without what storage as f16 loses.
        verdict = verdict.made_of(0.0, &baseline, &exact(&table, &weight)?);
    }
    Ok(vec![("y", verdict)])
}

fn append_case(run: &mut Run<'_>, case: &AppendCase, storage: Storage) -> Result<Verdicts> {
    let gpu = run.gpu();
    let cache = Tensor::upload(gpu, "cache", &case.cache, storage.cache)?;
    let rows = Tensor::upload(gpu, "rows", &case.rows, storage.element)?;
    let starts = Tensor::upload_u32(gpu, "starts", &Array::new(&[case.starts.len()], case.starts.clone())?)?;
    let table = case.block_table.as_ref().map(|table| Tensor::upload_u32(gpu, "block_table", table)).transpose()?;
    append(run, &cache, &rows, &starts, table.as_ref(), case.wrap)?;
    let mut read = read(run, &[&cache])?;
    let got = read.pop().ok_or_else(|| crate::Error::missing("cache", "what was read back"))?;
    let starts: Vec<usize> = case.starts.iter().map(|&n| n as usize).collect();
    let before = case.in_one_piece(&stored("cache", &case.cache, storage.cache)?);
    let rows = stored("rows", &stored("rows", &case.rows, storage.element)?, storage.cache)?;
    let want = reference::append(&before, &rows, &starts, case.wrap)?;
    // Copies are exact, and so is the rounding to q8.
    Ok(vec![("cache", judge("cache", &case.in_one_piece(&got), &widened(&want), &want, DType::F32)?)])
}

fn merge_case(run: &mut Run<'_>, case: &MergeCase, dtype: DType) -> Result<Verdicts> {
    let gpu = run.gpu();
    let by_lse = case.parts.iter().all(|(_, stats)| stats.shape().len() == 3);
    let tensors = case.parts.iter().map(|(output, stats)| {
        Ok((Tensor::upload(gpu, "output", output, dtype)?, Tensor::upload(gpu, "stats", stats, DType::F32)?))
    });
    let tensors: Vec<_> = tensors.collect::<Result<_>>()?;
    let parts: Vec<_> = tensors.iter().map(|(output, stats)| (output, stats)).collect();
    let (output, stats) = if by_lse { merge(run, &parts) } else { merge_max_sum(run, &parts) }?;
    let [got_output, got_stats] = read(run, &[&output, &stats])?
        .try_into()
        .map_err(|_| crate::Error::missing("merged output and stats", "what was read back"))?;
    let wide: Vec<_> = case.parts.iter().map(|(output, stats)| (widened(output), widened(stats))).collect();
    let (oracle, oracle_stats) = merged(by_lse, &wide)?;
    let narrow = case.parts.iter().map(|(output, stats)| Ok((stored("output", output, dtype)?, stats.clone())));
    let (baseline, baseline_stats) = merged(by_lse, &narrow.collect::<Result<Vec<_>>>()?)?;
    let name = if by_lse { "lse" } else { "max_sum" };
    Ok(vec![
        ("output", judge("output", &got_output, &oracle, &stored("output", &baseline, dtype)?, dtype)?),
        (name, judge(name, &got_stats, &oracle_stats, &baseline_stats, DType::F32)?),
    ])
}

/// The reference's.
fn merged<T: Float>(by_lse: bool, parts: &[(Array<T>, Array<T>)]) -> Result<(Array<T>, Array<T>)> {
    let parts: Vec<_> = parts.iter().map(|(output, stats)| (output, stats)).collect();
    if by_lse { reference::merge(&parts) } else { reference::merge_max_sum(&parts) }
}

fn coverage_case(run: &mut Run<'_>, case: &CoverageCase) -> Result<Verdicts> {
    let gpu = run.gpu();
    let upload = |array: &Array<f32>| Tensor::upload(gpu, "alignment", array, DType::F32);
    let (alignment, before) = (upload(&case.alignment)?, case.before.as_ref().map(upload).transpose()?);
    let shape = case.alignment.shape();
    let (after_view, after) = run.output("coverage", shape, DType::F32)?;
    let (cost_view, cost) = run.output("cost", &shape[..1], DType::F32)?;
    let (alignment, before) = (run.bind("alignment", &alignment), before.map(|before| run.bind("before", &before)));
    let asked = case.cost.map(|cost| (cost, &cost_view));
    coverage::record(run.recording_mut(), gpu.caps(), &alignment, before.as_ref(), &after_view, asked)?;
    let [got, got_cost] = read(run, &[&after, &cost])?
        .try_into()
        .map_err(|_| crate::Error::missing("coverage and cost", "what was read back"))?;
    let of = case.cost.unwrap_or(CoverageCost::Overlap);
    let before = case.before.as_ref().map(widened);
    let (oracle, oracle_cost) = reference::coverage(&widened(&case.alignment), before.as_ref(), of)?;
    let (baseline, baseline_cost) = reference::coverage(&case.alignment, case.before.as_ref(), of)?;
    let mut found = vec![("coverage", judge("coverage", &got, &oracle, &baseline, DType::F32)?)];
    if case.cost.is_some() {
        found.push(("cost", judge("cost", &got_cost, &oracle_cost, &baseline_cost, DType::F32)?));
    }
    Ok(found)
}

fn fma_rate_case(run: &mut Run<'_>, factors: [f32; 2], turns: u32) -> Result<Verdicts> {
    let (view, tensor) = run.output("output", &[2 * fma_rate::LANES], DType::F32)?;
    let caps = run.gpu().caps();
    fma_rate::record(run.recording_mut(), caps, factors, turns, &view)?;
    let mut read = read(run, &[&tensor])?;
    let got = read.pop().ok_or_else(|| crate::Error::missing("output", "what was read back"))?;
    let oracle = Array::from_fn(got.shape(), |k| fma_rate::expected(factors, turns, k));
    Ok(vec![("output", judge("output", &got, &oracle, &oracle.map(|&x| x as f32), DType::F32)?)])
}

fn coop_rate_case(run: &mut Run<'_>, turns: u32) -> Result<Verdicts> {
    let caps = run.gpu().caps();
    let side = caps.cooperative.unwrap_or_default() as usize;
    let (view, tensor) = run.output("output", &[2 * coop_rate::SUBGROUPS * side * side], DType::F32)?;
    coop_rate::record(run.recording_mut(), caps, turns, &view)?;
    let mut read = read(run, &[&tensor])?;
    let got = read.pop().ok_or_else(|| crate::Error::missing("output", "what was read back"))?;
    let oracle = Array::from_fn(got.shape(), |k| coop_rate::expected(side, turns, k));
    Ok(vec![("output", judge("output", &got, &oracle, &oracle.map(|&x| x as f32), DType::F32)?)])
}

fn barrier_rate_case(run: &mut Run<'_>, lanes: usize, turns: u32) -> Result<Verdicts> {
    let (view, tensor) = run.output("output", &[lanes], DType::F32)?;
    let caps = run.gpu().caps();
    barrier_rate::record(run.recording_mut(), caps, turns, &view)?;
    let mut read = read(run, &[&tensor])?;
    let got = read.pop().ok_or_else(|| crate::Error::missing("output", "what was read back"))?;
    let oracle = Array::from_fn(got.shape(), |k| barrier_rate::expected(lanes, turns, k));
    Ok(vec![("output", judge("output", &got, &oracle, &oracle.map(|&x| x as f32), DType::F32)?)])
}
