//! Attention without scores in memory: the whole table on each path and rung.

use regard::attention::{Attention, Path};
use regard::gpu::Gpu;
use regard::plan::AttentionPlan;
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

fn run(gpu: &Gpu, case: &cases::AttentionCase, dtype: DType) -> Result<f64> {
    let outputs = crate::gpu::attention(gpu, &case.options, &case.inputs, dtype)?;
    let ratios = validate::judge_attention(case, &outputs, dtype)?;
    match ratios.iter().find(|(_, ratio)| *ratio > 1.0) {
        Some((name, ratio)) => Err(Error::Tolerance { what: (*name).to_owned(), error: *ratio, tolerance: 1.0 }),
        None => Ok(ratios.into_iter().map(|(_, ratio)| ratio).fold(0.0, f64::max)),
    }
}

fn table(what: &str, gpu: &Gpu, path: Path, dtype: DType) {
    let cases: Vec<_> = cases::attention().iter().filter_map(|case| on(case, path)).collect();
    assert!(cases.len() > 150, "{what}: {} cases", cases.len());
    all(what, cases, |case| case.name.clone(), |case| run(gpu, case, dtype));
}

#[test]
fn cards_with_subgroups() {
    let [card, _] = cards();
    table("fused on a card, f32", card, Path::Fused, DType::F32);
    table("split on a card, f32", card, Path::Split, DType::F32);
}

#[test]
fn cards_with_default_limits_and_no_features() {
    let [_, card] = cards();
    table("fused on a card of default limits", card, Path::Fused, DType::F32);
    table("split on a card of default limits", card, Path::Split, DType::F32);
}

#[test]
fn cards_in_half_precision() {
    let [card, _] = cards();
    if card.caps().f16 {
        table("fused on a card, f16", card, Path::Fused, DType::F16);
        table("split on a card, f16", card, Path::Split, DType::F16);
    }
}
