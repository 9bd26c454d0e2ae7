//! Attention without scores in memory, as cards run it: the case table on each path and rung. What this device takes by
//! itself is in `kernels.rs`. A part of the cases each, all of them where `REGARD_WHOLE_TABLE` is set.

use regard::attention::{Attention, AttentionOutputs, Path};
use regard::gpu::{Gpu, Run};
use regard::plan::{AttentionPlan, Form};
use regard::problem::AttentionProblem;
use regard::tensor::{Array, DType};
use regard::{Error, Result, cases, validate};

use crate::gpu::{all, cards, gpu};

/// A case on one path; `None` where that path cannot compute it.
fn on(case: &cases::AttentionCase, path: Path) -> Option<cases::AttentionCase> {
    let options = Attention { path, ..case.options.clone() };
    let problem = AttentionProblem::new(&options, &case.inputs.map(Array::shape)).unwrap();
    let plan = AttentionPlan::new(&options, &problem, DType::F32, gpu().caps());
    plan.is_ok().then(|| cases::AttentionCase { options, ..case.clone() })
}

/// The cases that can be stored so.
fn stored_as(dtype: DType) -> impl Iterator<Item = cases::AttentionCase> {
    cases::attention().into_iter().filter(move |case| dtype == DType::F32 || !case.f32_only)
}

fn run(gpu: &Gpu, case: &cases::AttentionCase, dtype: DType) -> Result<f64> {
    judge(case, &crate::gpu::attention(gpu, &case.options, &case.inputs, dtype)?, dtype)
}

fn judge(case: &cases::AttentionCase, outputs: &AttentionOutputs<Array>, dtype: DType) -> Result<f64> {
    let ratios = validate::judge_attention(case, outputs, dtype)?;
    match ratios.iter().find(|(_, ratio)| *ratio > 1.0) {
        Some((name, ratio)) => Err(Error::Tolerance { what: (*name).to_owned(), error: *ratio, tolerance: 1.0 }),
        None => Ok(ratios.into_iter().map(|(_, ratio)| ratio).fold(0.0, f64::max)),
    }
}

fn table(what: &str, gpu: &Gpu, path: Path, dtype: DType, every: usize) {
    let every = if std::env::var_os("REGARD_WHOLE_TABLE").is_some() { 1 } else { every };
    let cases: Vec<_> = stored_as(dtype).filter_map(|case| on(&case, path)).step_by(every).collect();
    assert!(cases.len() * every > 150, "{what}: {} cases", cases.len());
    all(what, cases, |case| case.name.clone(), |case| run(gpu, case, dtype));
}

#[test]
fn cards_with_subgroups() {
    let [card, _] = cards();
    table("fused on a card, f32", card, Path::Fused, DType::F32, 2);
    table("split on a card, f32", card, Path::Split, DType::F32, 2);
}

#[test]
fn cards_with_default_limits_and_no_features() {
    let [_, card] = cards();
    table("fused on a card of default limits", card, Path::Fused, DType::F32, 6);
    table("split on a card of default limits", card, Path::Split, DType::F32, 6);
}

#[test]
fn cards_in_half_precision() {
    let [card, _] = cards();
    if card.caps().f16 {
        table("fused on a card, f16", card, Path::Fused, DType::F16, 6);
        table("split on a card, f16", card, Path::Split, DType::F16, 6);
    }
}

/// CPU drivers give long problems to a tile that the table's cases are too small for.
#[test]
fn processors_by_long_tiles() {
    let gpu = gpu();
    let whole = std::env::var_os("REGARD_WHOLE_TABLE").is_some();
    // Compiling one takes seconds.
    let every = if whole { 1 } else { 40 };
    let planned = |case: &cases::AttentionCase, dtype: DType| {
        let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape)).unwrap();
        let plans = AttentionPlan::candidates(&case.options, &problem, dtype, gpu.caps()).unwrap_or_default();
        let long = plans.into_iter().find(|plan| plan.tile.form == Form::Rows && plan.tile.queries > 16)?;
        Some(AttentionPlan::new(&case.options, &problem, dtype, gpu.caps()).unwrap().with_fused(long))
    };
    for dtype in [DType::F32, DType::F16].into_iter().take(if whole { 2 } else { 1 }) {
        let fitting = stored_as(dtype).filter_map(|case| planned(&case, dtype).map(|plan| (case, plan)));
        let work: Vec<_> = fitting.step_by(every).collect();
        assert_eq!(work.len() * every > 150, gpu.caps().software, "{} cases", work.len());
        all(
            &format!("long tiles, {dtype}"),
            work,
            |(case, _)| case.name.clone(),
            |(case, plan)| {
                let mut run = Run::new(gpu);
                let outputs = case.options.record_planned(&mut run, &case.inputs.upload(gpu, dtype)?, plan)?;
                run.submit()?;
                judge(case, &outputs.download(gpu)?, dtype)
            },
        );
    }
}
