//! What is timed.

use std::rc::Rc;

use regard::attention::{Attention, AttentionInputs, Causal, Score};
use regard::cases::AttentionCase;
use regard::gpu::{Gpu, Run};
use regard::plan::AttentionPlan;
use regard::problem::AttentionProblem;
use regard::rnn::{Cell, Reset, Rnn, RnnPath};
use regard::tensor::{Array, DType};
use regard::{Error, Tensor, validate};

use super::recurrent::{OnGpu, Plan, Recurrent, Shape};
use crate::encode::path_name;
use crate::failure::Outcome;

/// One piece of work with its inputs on the host.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) name: String,
    work: Work,
}

#[derive(Clone)]
enum Work {
    Attention(Rc<AttentionCase>),
    /// Weights and truth are the same for every path.
    Recurrent(Rc<Recurrent>, RnnPath),
}

/// A case with its inputs on the device.
pub(super) enum Prepared<'c> {
    Attention(&'c AttentionCase, Box<AttentionInputs<Tensor>>),
    Recurrent(&'c Recurrent, Box<OnGpu>),
}

/// Numbers in ±`size` that differ from place to place.
pub(crate) fn numbers(shape: &[usize], seed: u32, size: f32) -> Array {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    Array::from_fn(shape, |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * size
    })
}

/// B, Hq, Hkv, Nq, Nk, D.
fn attention(label: &str, [b, hq, hkv, nq, nk, d]: [usize; 6], options: Attention) -> Case {
    let name = format!("attention {label} B{b} H{hq}/{hkv} {nq}×{nk} D{d}");
    let inputs = AttentionInputs::new(
        numbers(&[b, hq, nq, d], 1, 1.7),
        numbers(&[b, hkv, nk, d], 2, 1.7),
        numbers(&[b, hkv, nk, d], 3, 1.7),
    );
    Case { name: name.clone(), work: Work::Attention(Rc::new(AttentionCase { name, options, inputs })) }
}

/// One case for each way to run it.
fn recurrent(label: &str, shape: Shape, work: Recurrent) -> Vec<Case> {
    let Shape { steps, batch, hidden, layers } = shape;
    let layers = if layers == 1 { String::new() } else { format!(" L{layers}") };
    let work = Rc::new(work);
    let case = |path| Case {
        name: format!("{label} T{steps} B{batch} H{hidden}{layers} {}", path_name(path)),
        work: Work::Recurrent(work.clone(), path),
    };
    work.paths().into_iter().map(case).collect()
}

/// T, B, H, layers.
fn shape([steps, batch, hidden, layers]: [usize; 4]) -> Shape {
    Shape { steps, batch, hidden, layers }
}

fn recurrences(quick: bool) -> Vec<Case> {
    let [lstm, gru, rnn] = [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Rnn].map(Rnn::new);
    let one = |label: &str, options: &Rnn, numbers| {
        recurrent(label, shape(numbers), Recurrent::new(options.clone(), shape(numbers)))
    };
    let both = |numbers| [one("lstm", &lstm, numbers), one("gru", &gru, numbers)].concat();
    let bidirectional = |numbers| {
        let two_ways = |options: &Rnn| options.clone().bidirectional();
        [one("bi-lstm", &two_ways(&lstm), numbers), one("bi-gru", &two_ways(&gru), numbers)].concat()
    };
    let article = |numbers| recurrent("lstm + dot attention", shape(numbers), Recurrent::article(shape(numbers)));
    if quick {
        return [
            both([32, 1, 64, 1]),
            both([32, 8, 64, 2]),
            one("rnn", &rnn, [32, 8, 64, 1]),
            bidirectional([32, 8, 64, 1]),
            article([32, 8, 64, 1]),
        ]
        .concat();
    }
    [
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
    .concat()
}

/// Every case; smaller ones when quick.
pub(super) fn all(quick: bool) -> Vec<Case> {
    [attentions(quick), recurrences(quick)].concat()
}

fn attentions(quick: bool) -> Vec<Case> {
    let plain = Attention::default();
    let causal = Attention { causal: Some(Causal::TopLeft), ..plain.clone() };
    let additive = Attention { score: Score::Additive, ..plain.clone() };
    if quick {
        return vec![
            attention("plain", [1, 4, 4, 128, 128, 64], plain.clone()),
            attention("causal", [1, 4, 4, 128, 128, 64], causal),
            attention("decode", [1, 8, 2, 1, 512, 64], plain),
            attention("additive", [1, 1, 1, 32, 64, 64], additive),
        ];
    }
    vec![
        attention("plain", [1, 8, 8, 128, 128, 64], plain.clone()),
        attention("plain", [1, 8, 8, 1024, 1024, 64], plain.clone()),
        attention("causal", [1, 8, 8, 1024, 1024, 64], causal),
        attention("plain", [1, 8, 8, 512, 512, 128], plain.clone()),
        attention("gqa", [1, 32, 8, 256, 256, 128], plain.clone()),
        attention("decode", [1, 32, 8, 1, 2048, 128], plain.clone()),
        attention("decode", [16, 32, 8, 1, 512, 128], plain),
        attention("additive", [8, 1, 1, 32, 64, 256], additive),
    ]
}

impl Case {
    pub(super) fn is_recurrent(&self) -> bool {
        matches!(self.work, Work::Recurrent(..))
    }

    /// Operations and bytes that any solution needs.
    pub(super) fn work(&self) -> Outcome<(f64, f64)> {
        match &self.work {
            Work::Attention(case) => {
                let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape))?;
                let plan = AttentionPlan::new(&case.options, &problem, DType::F32, &Default::default())?;
                // A causal mask on a square hides half of the pairs.
                let share = if case.options.causal.is_some() { 0.5 } else { 1.0 };
                Ok((plan.flops as f64 * share, plan.bytes as f64))
            }
            Work::Recurrent(work, _) => Ok(work.work()?),
        }
    }

    /// Uploads the inputs.
    pub(super) fn prepare(&self, gpu: &Gpu) -> Outcome<Prepared<'_>> {
        Ok(match &self.work {
            Work::Attention(case) => Prepared::Attention(case, Box::new(case.inputs.upload(gpu, DType::F32)?)),
            Work::Recurrent(work, path) => Prepared::Recurrent(work, Box::new(work.upload(gpu, *path)?)),
        })
    }
}

impl Prepared<'_> {
    /// How a recurrence is run on this device.
    pub(super) fn plan(&self, gpu: &Gpu) -> regard::Result<Option<Plan>> {
        match self {
            Self::Attention(..) => Ok(None),
            Self::Recurrent(work, on_gpu) => work.plan(on_gpu, gpu).map(Some),
        }
    }

    /// Records the work once.
    pub(super) fn record(&self, run: &mut Run<'_>) -> regard::Result<()> {
        match self {
            Self::Attention(case, inputs) => drop(case.options.record(run, inputs)?),
            Self::Recurrent(_, on_gpu) => drop(on_gpu.record(run)?),
        }
        Ok(())
    }

    /// Runs once and compares with the reference; the largest error as a share of the tolerance.
    pub(super) fn check(&self, gpu: &Gpu, name: &str) -> Outcome<f64> {
        let ratios = match self {
            Self::Attention(case, inputs) => {
                let got = case.options.run(gpu, inputs)?.download(gpu)?;
                validate::judge_attention(case, &got, DType::F32)?
            }
            Self::Recurrent(work, on_gpu) => work.judge(&on_gpu.run(gpu)?)?,
        };
        match ratios.iter().find(|(_, ratio)| *ratio > 1.0) {
            Some((output, ratio)) => {
                let what = format!("`{output}` of {name}, as a share of the tolerance");
                Err(Error::Tolerance { what, error: *ratio, tolerance: 1.0 }.into())
            }
            None => Ok(ratios.iter().map(|(_, ratio)| *ratio).fold(0.0, f64::max)),
        }
    }
}
