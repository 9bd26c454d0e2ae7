//! The case table once more with the queries cut into short ranges, as they are when the scores outgrow a binding:
//! whatever depends on a query's number must count from the first query of the problem.

use regard::attention::{Attention, Path};
use regard::gpu::Run;
use regard::plan::AttentionPlan;
use regard::problem::AttentionProblem;
use regard::tensor::{Array, DType};
use regard::{Error, Result, cases, validate};

use crate::gpu::{all, gpu};

fn in_ranges(case: &cases::AttentionCase, length: usize) -> Result<f64> {
    let gpu = gpu();
    let options = &Attention { path: Path::Staged, ..case.options.clone() };
    let problem = AttentionProblem::new(options, &case.inputs.map(Array::shape))?;
    let mut plan = AttentionPlan::new(options, &problem, DType::F32, gpu.caps())?;
    let starts = (0..problem.queries).step_by(length);
    plan.query_ranges = starts.map(|first| (first, (first + length).min(problem.queries))).collect();
    let mut run = Run::new(gpu);
    let tensors = options.record_planned(&mut run, &case.inputs.upload(gpu, DType::F32)?, &plan)?;
    run.submit()?;
    let ratios = validate::judge_attention(case, &tensors.download(gpu)?, DType::F32)?;
    match ratios.iter().find(|(_, ratio)| *ratio > 1.0) {
        Some((name, ratio)) => Err(Error::Tolerance { what: (*name).to_owned(), error: *ratio, tolerance: 1.0 }),
        None => Ok(ratios.into_iter().map(|(_, ratio)| ratio).fold(0.0, f64::max)),
    }
}

#[test]
fn queries_in_ranges_give_what_all_at_once_give() {
    let cases = cases::attention().into_iter().filter(|case| case.inputs.query.shape()[2] > 5);
    all("cases in ranges of five queries", cases, |case| case.name.clone(), |case| in_ranges(case, 5));
}
