//! What is timed.

use regard::attention::{Attention, AttentionInputs, Causal, Score};
use regard::cases::{AttentionCase, RnnCase};
use regard::gpu::{Gpu, Run};
use regard::ops::rnn::GpuRnn;
use regard::plan::AttentionPlan;
use regard::problem::{AttentionProblem, RnnProblem};
use regard::rnn::{Cell, Reset, Rnn, RnnInputs, RnnWeights};
use regard::tensor::{Array, DType};
use regard::{Error, Tensor, validate};

use crate::failure::Outcome;

/// One piece of work with its inputs on the host.
pub(super) struct Case {
    pub(super) name: String,
    work: Work,
}

enum Work {
    Attention(Box<AttentionCase>),
    Recurrent(Box<RnnCase>),
}

/// A case with its inputs on the device.
pub(super) enum Prepared<'c> {
    Attention(&'c AttentionCase, Box<AttentionInputs<Tensor>>),
    Recurrent(&'c RnnCase, Box<GpuRnn>, Box<RnnInputs<Tensor>>),
}

/// Numbers in ±`size` that differ from place to place.
fn numbers(shape: &[usize], seed: u32, size: f32) -> Array {
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
    Case { name: name.clone(), work: Work::Attention(Box::new(AttentionCase { name, options, inputs })) }
}

/// T, B, H (inputs as wide as the state), layers.
fn recurrent(label: &str, cell: Cell, [t, b, h, layers]: [usize; 4]) -> Case {
    let name = format!("{label} T{t} B{b} H{h} layers {layers}");
    let (rows, size) = (cell.gates() * h, 1.0 / (h as f32).sqrt());
    let weights = |seed| RnnWeights {
        bias_ih: Some(numbers(&[rows], seed + 2, size)),
        bias_hh: Some(numbers(&[rows], seed + 3, size)),
        ..RnnWeights::new(numbers(&[rows, h], seed, size), numbers(&[rows, h], seed + 1, size))
    };
    let stack = (0..layers).map(|l| vec![weights(10 * l as u32)]).collect();
    let inputs = RnnInputs::new(numbers(&[t, b, h], 99, 1.0));
    let case = RnnCase { name: name.clone(), options: Rnn::new(cell), stack, inputs };
    Case { name, work: Work::Recurrent(Box::new(case)) }
}

/// Every case; smaller ones when quick.
pub(super) fn all(quick: bool) -> Vec<Case> {
    let plain = Attention::default();
    let causal = Attention { causal: Some(Causal::TopLeft), ..plain.clone() };
    let additive = Attention { score: Score::Additive, ..plain.clone() };
    let gru = Cell::Gru { reset: Reset::After };
    if quick {
        return vec![
            attention("plain", [1, 4, 4, 128, 128, 64], plain.clone()),
            attention("causal", [1, 4, 4, 128, 128, 64], causal),
            attention("decode", [1, 8, 2, 1, 512, 64], plain),
            attention("additive", [1, 1, 1, 32, 64, 64], additive),
            recurrent("lstm", Cell::Lstm, [32, 1, 64, 1]),
            recurrent("gru", gru, [32, 8, 64, 1]),
            recurrent("rnn", Cell::Rnn, [32, 8, 64, 2]),
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
        recurrent("lstm", Cell::Lstm, [128, 1, 256, 1]),
        recurrent("lstm", Cell::Lstm, [128, 16, 256, 1]),
        recurrent("lstm", Cell::Lstm, [128, 64, 256, 1]),
        recurrent("lstm", Cell::Lstm, [512, 1, 128, 1]),
        recurrent("gru", gru, [128, 16, 256, 1]),
        recurrent("gru", gru, [128, 16, 256, 2]),
        recurrent("rnn", Cell::Rnn, [128, 16, 256, 1]),
    ]
}

impl Case {
    pub(super) fn is_recurrent(&self) -> bool {
        matches!(self.work, Work::Recurrent(_))
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
            Work::Recurrent(case) => {
                let shapes =
                    case.stack.iter().map(|layer| layer.iter().map(|w| w.map(Array::shape)).collect()).collect();
                let problem = RnnProblem::new(&case.options, &shapes, &case.inputs.map(Array::shape))?;
                let (flops, bytes) = crate::encode::floor(&case.options, &problem, DType::F32);
                Ok((flops as f64, bytes as f64))
            }
        }
    }

    /// Uploads the inputs.
    pub(super) fn prepare(&self, gpu: &Gpu) -> Outcome<Prepared<'_>> {
        Ok(match &self.work {
            Work::Attention(case) => Prepared::Attention(case, Box::new(case.inputs.upload(gpu, DType::F32)?)),
            Work::Recurrent(case) => {
                let rnn = GpuRnn::upload(gpu, &case.options, &case.stack, DType::F32)?;
                Prepared::Recurrent(case, Box::new(rnn), Box::new(case.inputs.upload(gpu, DType::F32)?))
            }
        })
    }
}

impl Prepared<'_> {
    /// Records the work once.
    pub(super) fn record(&self, run: &mut Run<'_>) -> Outcome {
        match self {
            Self::Attention(case, inputs) => drop(case.options.record(run, inputs)?),
            Self::Recurrent(_, rnn, inputs) => drop(rnn.record(run, inputs)?),
        }
        Ok(())
    }

    /// Runs once and compares with the reference; the largest error as a share of the tolerance.
    pub(super) fn check(&self, gpu: &Gpu) -> Outcome<f64> {
        let ratios = match self {
            Self::Attention(case, inputs) => {
                let got = case.options.run(gpu, inputs)?.download(gpu)?;
                validate::judge_attention(case, &got, DType::F32)?
            }
            Self::Recurrent(case, rnn, inputs) => {
                let got = rnn.run(gpu, inputs)?.download(gpu)?;
                validate::judge_rnn(case, &got, DType::F32)?
            }
        };
        match ratios.iter().find(|(_, ratio)| *ratio > 1.0) {
            Some((output, ratio)) => {
                let name = match self {
                    Self::Attention(case, _) => &case.name,
                    Self::Recurrent(case, ..) => &case.name,
                };
                let what = format!("`{output}` of {name}, as a share of the tolerance");
                Err(Error::Tolerance { what, error: *ratio, tolerance: 1.0 }.into())
            }
            None => Ok(ratios.iter().map(|(_, ratio)| *ratio).fold(0.0, f64::max)),
        }
    }
}
