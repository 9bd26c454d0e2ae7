//! One case of the table: what it records on a device, and what is said of its answer.

use crate::attention::{Algorithm, Attention};
use crate::backend::Reference;
use crate::baseline::{self, Verdicts, stored};
use crate::cases::{self, AppendCase, AttentionCase, CoverageCase, LinearCase, MergeCase, PrimitiveCase, RnnCase};
use crate::compare::judge;
use crate::coverage::CoverageCost;
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::{barrier_rate, coop_rate, coverage, fma_rate};
use crate::ops::cache::append;
use crate::ops::linear::{Epilogue, embed, linear};
use crate::ops::merge::{merge, merge_max_sum};
use crate::ops::rnn::GpuRnn;
use crate::plan::{AttentionPlan, RnnPlan};
use crate::problem::{AttentionProblem, RnnProblem, Storage};
use crate::reference::{self, Float};
use crate::rnn::RnnOutputs;
use crate::tensor::{Array, DType};

/// One case, ready to run.
pub(super) enum Case {
    Attention(Box<AttentionCase>),
    Recurrent(RnnCase),
    Linear(LinearCase),
    Append(AppendCase),
    Merge(MergeCase),
    Coverage(CoverageCase),
    Primitive(PrimitiveCase),
    /// x = a·x + b so often.
    FmaRate([f32; 2], u32),
    /// sum = left · right + sum so often, where there are cooperative matrices.
    CoopRate(u32),
    /// So many lanes, so many iterations.
    BarrierRate(usize, u32),
}

/// What a case has recorded: the tensors to read, and the judgement of what was read.
pub(super) struct Recorded<'c> {
    pub(super) results: Vec<Tensor>,
    /// Results of integers, and what they have to be.
    pub(super) integers: Vec<(Tensor, Array<u32>)>,
    pub(super) judge: Box<dyn FnOnce(Vec<Array<f32>>) -> Result<Verdicts> + 'c>,
}

impl<'c> Recorded<'c> {
    fn new<const N: usize>(
        results: [Tensor; N],
        judge: impl FnOnce([Array<f32>; N]) -> Result<Verdicts> + 'c,
    ) -> Result<Self> {
        let judge = move |read: Vec<Array<f32>>| judge(read.try_into().map_err(|_| not_read())?);
        Ok(Self { results: results.into(), integers: Vec::new(), judge: Box::new(judge) })
    }
}

fn not_read() -> Error {
    Error::missing("a result", "what was read back")
}

impl Case {
    /// Every case of the table, attention on every path that can compute it.
    pub(super) fn all(caps: &Caps) -> Vec<Self> {
        let attention = cases::attention().into_iter().flat_map(paths).map(|case| Self::Attention(Box::new(case)));
        attention
            .chain(cases::recurrent().into_iter().map(Self::Recurrent))
            .chain(cases::linear().into_iter().map(Self::Linear))
            .chain(cases::appends().into_iter().map(Self::Append))
            .chain(cases::merges().into_iter().map(Self::Merge))
            .chain(cases::coverage().into_iter().map(Self::Coverage))
            .chain(cases::primitives().into_iter().map(Self::Primitive))
            .chain(caps.cooperative.map(|_| Self::CoopRate(20)))
            .chain([Self::FmaRate([0.75, 0.5], 20), Self::BarrierRate(64, 50), Self::BarrierRate(256, 50)])
            .collect()
    }

    /// Those that every backend can compute.
    #[cfg(feature = "cpu")]
    pub(super) fn for_cpu() -> Vec<Self> {
        let attention = cases::attention().into_iter().map(|case| Self::Attention(Box::new(case)));
        attention
            .chain(cases::recurrent().into_iter().map(Self::Recurrent))
            .chain(cases::linear().into_iter().map(Self::Linear))
            .chain(cases::primitives().into_iter().map(Self::Primitive))
            .collect()
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Attention(case) => &case.name,
            Self::Recurrent(case) => &case.name,
            Self::Linear(case) => &case.name,
            Self::Append(case) => &case.name,
            Self::Merge(case) => &case.name,
            Self::Coverage(case) => &case.name,
            Self::Primitive(case) => &case.name,
            Self::FmaRate(..) => "rate of multiply-adds",
            Self::CoopRate(..) => "rate of cooperative matrices",
            Self::BarrierRate(..) => "rate of barriers",
        }
    }

    /// The path that attention is asked for, or that a recurrence takes.
    pub(super) fn path(&self, storage: Storage, caps: &Caps) -> Option<String> {
        match self {
            Self::Attention(case) => Some(format!("attention {}", case.options.path)),
            Self::Recurrent(case) => {
                let stack =
                    case.stack.iter().map(|layer| layer.iter().map(|w| w.map(Array::shape)).collect()).collect();
                let problem =
                    RnnProblem::new(&case.options, &stack, &case.inputs.map(Array::shape, Array::shape)).ok()?;
                let plan = RnnPlan::new(&case.options, &problem, storage.element, caps).ok()?;
                Some(format!("recurrence {:?}", plan.path).to_lowercase())
            }
            _ => None,
        }
    }

    /// How the case can be stored.
    pub(super) fn storages(&self, f16: bool) -> Vec<Storage> {
        let q8 = match self {
            Self::Attention(case) => cases::in_blocks(&[&case.inputs.key, &case.inputs.value]),
            Self::Append(case) => cases::in_blocks(&[&case.cache]),
            _ => false,
        };
        let f32_only = match self {
            Self::Attention(case) => case.f32_only,
            Self::Recurrent(case) => case.f32_only,
            Self::Merge(case) => case.f32_only,
            // Nothing is stored in another type.
            Self::Coverage(_) | Self::Primitive(_) | Self::FmaRate(..) | Self::CoopRate(_) | Self::BarrierRate(..) => {
                true
            }
            Self::Linear(_) | Self::Append(_) => false,
        };
        let elements = [Some(DType::F32), (f16 && !f32_only).then_some(DType::F16)];
        let cached = |element: DType| {
            [Some(element), q8.then_some(DType::Q8)].map(|cache| Some(Storage { element, cache: cache? }))
        };
        elements.into_iter().flatten().flat_map(cached).flatten().collect()
    }

    /// Records the case, attention by `plan` where one is given.
    pub(super) fn record(
        &self,
        run: &mut Run<'_>,
        storage: Storage,
        plan: Option<&AttentionPlan>,
    ) -> Result<Recorded<'_>> {
        let dtype = storage.element;
        match self {
            Self::Attention(case) => attention(run, case, storage, plan),
            Self::Recurrent(case) => recurrent(run, case, dtype),
            Self::Linear(case) => linear_case(run, case, dtype),
            Self::Append(case) => append_case(run, case, storage),
            Self::Merge(case) => merge_case(run, case, dtype),
            Self::Coverage(case) => coverage_case(run, case),
            Self::Primitive(case) => primitive_case(run, case),
            Self::FmaRate(factors, iterations) => fma_rate_case(run, *factors, *iterations),
            Self::CoopRate(iterations) => coop_rate_case(run, *iterations),
            Self::BarrierRate(lanes, iterations) => barrier_rate_case(run, *lanes, *iterations),
        }
    }
}

/// A case once for each path that can compute it.
fn paths(case: AttentionCase) -> Vec<AttentionCase> {
    let shapes = case.inputs.map(Array::shape, Array::shape);
    let on = |path: Algorithm| {
        let options = Attention { path, ..case.options.clone() };
        let problem = AttentionProblem::new(&options, &shapes).ok()?;
        let plan = AttentionPlan::new(&options, &problem, DType::F32, &Caps::default());
        let unfused = matches!(plan, Err(Error::Option { ref option, .. }) if option == "path");
        (!unfused).then(|| AttentionCase { name: format!("{}, {path}", case.name), options, ..case.clone() })
    };
    [Algorithm::Staged, Algorithm::Fused, Algorithm::Split].into_iter().filter_map(on).collect()
}

fn widened(array: &Array<f32>) -> Array<f64> {
    array.map(|&x| f64::from_f32(x))
}

fn attention<'c>(
    run: &mut Run<'_>,
    case: &'c AttentionCase,
    storage: Storage,
    plan: Option<&AttentionPlan>,
) -> Result<Recorded<'c>> {
    let inputs = case.inputs.upload(run.gpu(), storage)?;
    let outputs = match plan {
        Some(plan) => case.options.record_planned(run, &inputs, plan)?,
        None => case.options.record(run, &inputs)?,
    };
    let results = outputs.named().map(|(_, tensor)| tensor.clone()).collect();
    let judge = move |read: Vec<Array<f32>>| {
        let mut read = read.into_iter();
        let got = outputs.try_map(|_, _| read.next().ok_or_else(not_read))?;
        baseline::judge_attention(&case.options, &case.inputs, &got, storage)
    };
    Ok(Recorded { results, integers: Vec::new(), judge: Box::new(judge) })
}

fn recurrent<'c>(run: &mut Run<'_>, case: &'c RnnCase, dtype: DType) -> Result<Recorded<'c>> {
    let rnn = GpuRnn::upload(run.gpu(), &case.options, &case.stack, dtype)?;
    let outputs = rnn.record(run, &case.inputs.upload(run.gpu(), dtype)?)?;
    let mut results = vec![outputs.output, outputs.final_h];
    results.extend(outputs.final_c);
    let judge = move |read: Vec<Array<f32>>| {
        let mut read = read.into_iter();
        let [output, final_h] = [read.next(), read.next()].map(|array| array.ok_or_else(not_read));
        let got = RnnOutputs { output: output?, final_h: final_h?, final_c: read.next() };
        baseline::judge_rnn(&case.options, &case.stack, &case.inputs, &got, dtype)
    };
    Ok(Recorded { results, integers: Vec::new(), judge: Box::new(judge) })
}

fn linear_case<'c>(run: &mut Run<'_>, case: &'c LinearCase, dtype: DType) -> Result<Recorded<'c>> {
    let gpu = run.gpu();
    let table = Tensor::upload(gpu, "table", &case.table, dtype)?;
    let ids = Tensor::upload_u32(gpu, "ids", &Array::new(&[case.ids.len()], case.ids.clone())?)?;
    let weight = Tensor::upload(gpu, "weight", &case.weight, dtype)?;
    let bias = case.bias.as_ref().map(|b| Tensor::upload(gpu, "bias", b, DType::F32)).transpose()?;
    let x = embed(run, &table, &ids)?;
    let epilogue = Epilogue { bias: bias.as_ref(), activation: case.activation, ..Epilogue::default() };
    let y = linear(run, &[(&x, &weight)], &epilogue)?;
    Recorded::new([y], move |[got]| linear_verdicts(case, dtype, &got))
}

/// The judgement of a linear layer over rows of a table, both stored as `dtype`.
pub(super) fn linear_verdicts(case: &LinearCase, dtype: DType, got: &Array<f32>) -> Result<Verdicts> {
    let exact = |table: &Array<f32>, weight: &Array<f32>| {
        let x = reference::embed(&widened(table), &case.ids)?;
        reference::linear(&x, &widened(weight), case.bias.as_ref().map(widened).as_ref(), case.activation)
    };
    let (table, weight) = (stored("table", &case.table, dtype)?, stored("weight", &case.weight, dtype)?);
    let baseline = {
        let x = reference::embed(&table, &case.ids)?;
        reference::linear(&x, &weight, case.bias.as_ref(), case.activation)?
    };
    let mut verdict = judge("y", got, &exact(&case.table, &case.weight)?, &baseline, DType::F32)?;
    if !verdict.is_sound() {
        // Without what storage as f16 loses.
        verdict = verdict.made_of(0.0, &baseline, &exact(&table, &weight)?);
    }
    Ok(vec![("y", verdict)])
}

fn append_case<'c>(run: &mut Run<'_>, case: &'c AppendCase, storage: Storage) -> Result<Recorded<'c>> {
    let gpu = run.gpu();
    let cache = Tensor::upload(gpu, "cache", &case.cache, storage.cache)?;
    let rows = Tensor::upload(gpu, "rows", &case.rows, storage.element)?;
    let starts = Tensor::upload_u32(gpu, "starts", &Array::new(&[case.starts.len()], case.starts.clone())?)?;
    let table = case.block_table.as_ref().map(|table| Tensor::upload_u32(gpu, "block_table", table)).transpose()?;
    append(run, &cache, &rows, &starts, table.as_ref(), case.wrap)?;
    Recorded::new([cache], move |[got]| {
        let starts: Vec<usize> = case.starts.iter().map(|&n| n as usize).collect();
        let before = case.in_one_piece(&stored("cache", &case.cache, storage.cache)?);
        let rows = stored("rows", &stored("rows", &case.rows, storage.element)?, storage.cache)?;
        let want = reference::append(&before, &rows, &starts, case.wrap)?;
        // Copies are exact, and so is the rounding to q8.
        Ok(vec![("cache", judge("cache", &case.in_one_piece(&got), &widened(&want), &want, DType::F32)?)])
    })
}

fn merge_case<'c>(run: &mut Run<'_>, case: &'c MergeCase, dtype: DType) -> Result<Recorded<'c>> {
    let gpu = run.gpu();
    let by_lse = case.partials.iter().all(|(_, stats)| stats.shape().len() == 3);
    let tensors = case.partials.iter().map(|(output, stats)| {
        Ok((Tensor::upload(gpu, "output", output, dtype)?, Tensor::upload(gpu, "stats", stats, DType::F32)?))
    });
    let tensors: Vec<_> = tensors.collect::<Result<_>>()?;
    let partials: Vec<_> = tensors.iter().map(|(output, stats)| (output, stats)).collect();
    let (output, stats) = if by_lse { merge(run, &partials) } else { merge_max_sum(run, &partials) }?;
    Recorded::new([output, stats], move |[got_output, got_stats]| {
        let wide: Vec<_> = case.partials.iter().map(|(output, stats)| (widened(output), widened(stats))).collect();
        let (oracle, oracle_stats) = merged(by_lse, &wide)?;
        let narrow = case.partials.iter().map(|(output, stats)| Ok((stored("output", output, dtype)?, stats.clone())));
        let (baseline, baseline_stats) = merged(by_lse, &narrow.collect::<Result<Vec<_>>>()?)?;
        let name = if by_lse { "lse" } else { "max_sum" };
        Ok(vec![
            ("output", judge("output", &got_output, &oracle, &stored("output", &baseline, dtype)?, dtype)?),
            (name, judge(name, &got_stats, &oracle_stats, &baseline_stats, DType::F32)?),
        ])
    })
}

/// The reference's.
fn merged<T: Float>(by_lse: bool, partials: &[(Array<T>, Array<T>)]) -> Result<(Array<T>, Array<T>)> {
    let partials: Vec<_> = partials.iter().map(|(output, stats)| (output, stats)).collect();
    if by_lse { reference::merge(&partials) } else { reference::merge_max_sum(&partials) }
}

fn coverage_case<'c>(run: &mut Run<'_>, case: &'c CoverageCase) -> Result<Recorded<'c>> {
    let gpu: &Gpu = run.gpu();
    let upload = |array: &Array<f32>| Tensor::upload(gpu, "alignment", array, DType::F32);
    let (alignment, before) = (upload(&case.alignment)?, case.before.as_ref().map(upload).transpose()?);
    let shape = case.alignment.shape();
    let (after_view, after) = run.output("coverage", shape, DType::F32)?;
    let (cost_view, cost) = run.output("cost", &shape[..1], DType::F32)?;
    let (alignment, before) = (run.bind("alignment", &alignment), before.map(|before| run.bind("before", &before)));
    let asked = case.cost.map(|cost| (cost, &cost_view));
    coverage::record(run.recording_mut(), gpu.caps(), &alignment, before.as_ref(), &after_view, asked)?;
    Recorded::new([after, cost], move |[got, got_cost]| {
        let of = case.cost.unwrap_or(CoverageCost::Overlap);
        let before = case.before.as_ref().map(widened);
        let (oracle, oracle_cost) = reference::coverage(&widened(&case.alignment), before.as_ref(), of)?;
        let (baseline, baseline_cost) = reference::coverage(&case.alignment, case.before.as_ref(), of)?;
        let mut found = vec![("coverage", judge("coverage", &got, &oracle, &baseline, DType::F32)?)];
        if case.cost.is_some() {
            found.push(("cost", judge("cost", &got_cost, &oracle_cost, &baseline_cost, DType::F32)?));
        }
        Ok(found)
    })
}

fn primitive_case<'c>(run: &mut Run<'_>, case: &'c PrimitiveCase) -> Result<Recorded<'c>> {
    let recorded = case.run(run)?;
    let oracle = case.run(&mut Reference::<f64>::default())?;
    let integers = recorded.integers.into_iter().zip(oracle.integers).collect();
    let judge = move |read: Vec<Array<f32>>| {
        let baseline = case.run(&mut Reference::<f32>::default())?;
        let judged = read.iter().zip(&oracle.numbers).zip(&baseline.numbers);
        judged
            .map(|((got, oracle), baseline)| Ok(("result", judge("result", got, oracle, baseline, DType::F32)?)))
            .collect()
    };
    Ok(Recorded { results: recorded.numbers, integers, judge: Box::new(judge) })
}

/// The judgement of a measurement's numbers, each of which is known.
fn expected<'c>(output: Tensor, expected: impl Fn(usize) -> f64 + 'c) -> Result<Recorded<'c>> {
    Recorded::new([output], move |[got]| {
        let oracle = Array::from_fn(got.shape(), expected);
        Ok(vec![("output", judge("output", &got, &oracle, &oracle.map(|&x| x as f32), DType::F32)?)])
    })
}

fn fma_rate_case(run: &mut Run<'_>, factors: [f32; 2], iterations: u32) -> Result<Recorded<'static>> {
    let (view, output) = run.output("output", &[2 * fma_rate::LANES], DType::F32)?;
    let caps = run.gpu().caps();
    fma_rate::record(run.recording_mut(), caps, factors, iterations, &view)?;
    expected(output, move |k| fma_rate::expected(factors, iterations, k))
}

fn coop_rate_case(run: &mut Run<'_>, iterations: u32) -> Result<Recorded<'static>> {
    let caps = run.gpu().caps();
    let side = caps.cooperative.unwrap_or_default() as usize;
    let (view, output) = run.output("output", &[2 * coop_rate::SUBGROUPS * side * side], DType::F32)?;
    coop_rate::record(run.recording_mut(), caps, iterations, &view)?;
    expected(output, move |k| coop_rate::expected(side, iterations, k))
}

fn barrier_rate_case(run: &mut Run<'_>, lanes: usize, iterations: u32) -> Result<Recorded<'static>> {
    let (view, output) = run.output("output", &[lanes], DType::F32)?;
    let caps = run.gpu().caps();
    barrier_rate::record(run.recording_mut(), caps, iterations, &view)?;
    expected(output, move |k| barrier_rate::expected(lanes, iterations, k))
}
