//! Soft and hard attention over a picture's grid.

use regard::attention::{Monotonic, Normalize};
use regard::compare::close;
use regard::gpu::Run;
use regard::layers::{GpuVisualAttention, Linear, VisualAttention, VisualOutputs, VisualState, VisualWeights};
use regard::reference;
use regard::tensor::{Array, DType};
use regard::{Result, Tensor};

use super::{Named, Wrong, all, collected, gpu, judge_all, numbers, refused, stored, types};

#[derive(Clone)]
struct Case {
    name: String,
    layer: VisualAttention,
    weights: VisualWeights<Array<f32>>,
    annotations: Array<f32>,
    hidden: Array<f32>,
    state: Option<VisualState<Array<f32>>>,
}

/// T, B, L, D, H, A.
fn case(name: &str, layer: VisualAttention, [t, b, l, d, h, a]: [usize; 6]) -> Case {
    let matrix =
        |rows: usize, columns: usize, seed: f32| numbers(&[rows, columns], seed, (3.0 / columns as f32).sqrt());
    let weights = VisualWeights {
        annotation: matrix(a, d, 1.0),
        hidden: Linear::with_bias(matrix(a, h, 2.0), numbers(&[a], 3.0, 0.3)),
        v: numbers(&[a], 4.0, 1.0),
        gate: Some(Linear::with_bias(matrix(1, h, 5.0), numbers(&[1], 6.0, 0.3))),
    };
    let (annotations, hidden) = (numbers(&[b, l, d], 7.0, 1.7), numbers(&[t, b, h], 8.0, 1.7));
    Case { name: name.to_owned(), layer, weights, annotations, hidden, state: None }
}

const USUAL: [usize; 6] = [4, 3, 12, 7, 6, 9];

fn cases() -> Vec<Case> {
    let mut table = Vec::new();
    let forms = [
        ("soft", VisualAttention::soft()),
        ("soft, temperature, λ", VisualAttention { temperature: Some(0.4), penalty: 0.3, ..VisualAttention::soft() }),
        ("sparsemax", VisualAttention { normalize: Normalize::Sparsemax, ..VisualAttention::soft() }),
        ("hard", VisualAttention::hard(17)),
        ("hard, temperature", VisualAttention { temperature: Some(2.5), ..VisualAttention::hard(u32::MAX) }),
        ("hardmax", VisualAttention { normalize: Normalize::Hardmax, ..VisualAttention::soft() }),
        (
            "hardmax, temperature",
            VisualAttention { normalize: Normalize::Hardmax, temperature: Some(0.5), ..VisualAttention::soft() },
        ),
    ];
    for (name, layer) in forms {
        table.push(case(name, layer.clone(), USUAL));
        table.push(case(&format!("{name}, one of everything"), layer.clone(), [1; 6]));
        table.push(case(&format!("{name}, one picture"), layer.clone(), [1, 1, 196, 33, 20, 65]));
        let mut bare = case(&format!("{name}, no gate, no bias, state"), layer, [2, 5, 9, 4, 8, 3]);
        (bare.weights.gate, bare.weights.hidden.bias) = (None, None);
        bare.state = Some(VisualState { coverage: numbers(&[5, 9], 9.0, 0.5).map(|x| x.abs()), step: 11 });
        table.push(bare);
    }
    table
}

fn named<T: Clone>(outputs: &VisualOutputs<Array<T>>) -> Named<T> {
    collected(|keep| outputs.try_map(keep).map(|_| ()))
}

fn on_gpu(case: &Case, dtype: DType) -> Result<VisualOutputs<Array<f32>>> {
    let upload = |name: &str, array: &Array<f32>, dtype| Tensor::upload(gpu(), name, array, dtype);
    let (annotations, hidden) =
        (upload("annotations", &case.annotations, dtype)?, upload("hidden", &case.hidden, dtype)?);
    let state = match &case.state {
        Some(VisualState { coverage, step }) => {
            Some(VisualState { coverage: upload("coverage", coverage, DType::F32)?, step: *step })
        }
        None => None,
    };
    let layer = GpuVisualAttention::upload(gpu(), &case.layer, &case.weights, dtype)?;
    layer.run(gpu(), &annotations, &hidden, state.as_ref())?.download(gpu())
}

fn on_cpu<T: reference::Float>(
    case: &Case,
    cast: impl Fn(&str, &Array<f32>) -> Array<T>,
) -> Result<VisualOutputs<Array<T>>> {
    let weights = case.weights.try_map(|name, array| Ok::<_, regard::Error>(cast(name, array)))?;
    let state =
        case.state.as_ref().map(|state| VisualState { coverage: cast("coverage", &state.coverage), step: state.step });
    let (annotations, hidden) = (cast("annotations", &case.annotations), cast("hidden", &case.hidden));
    case.layer.reference(&weights, &annotations, &hidden, state.as_ref())
}

fn check(case: &Case, dtype: DType) -> Result<f64> {
    let got = on_gpu(case, dtype)?;
    let oracle = on_cpu::<f64>(case, |_, array| array.cast())?;
    let kept = ["v", "hidden.bias", "gate.bias", "coverage"];
    let baseline = on_cpu::<f32>(case, |name, array| match kept.contains(&name) {
        true => array.clone(),
        false => stored(array, dtype),
    })?;
    judge_all(&named(&got), &named(&oracle), &named(&baseline))
}

#[test]
fn visual_attention_is_within_the_tolerance() {
    for dtype in types() {
        // A choice between two locations that rounding turns around is no error, so f16 goes without hard ones.
        let cases = cases().into_iter().filter(|case| dtype == DType::F32 || !case.name.starts_with("hard"));
        all(&format!("visual attention, {dtype}"), cases, |case| case.name.clone(), |case| check(case, dtype));
    }
}

/// Step by step with the state carried on, and the whole sequence.
#[test]
fn steps_are_the_sequence() {
    for case in cases() {
        let whole = on_gpu(&case, DType::F32).unwrap();
        let layer = GpuVisualAttention::upload(gpu(), &case.layer, &case.weights, DType::F32).unwrap();
        let upload = |array: &Array<f32>| Tensor::upload(gpu(), "tensor", array, DType::F32).unwrap();
        let (annotations, hidden) = (upload(&case.annotations), upload(&case.hidden));
        let mut run = Run::new(gpu());
        let memory = layer.remember(&mut run, &annotations).unwrap();
        let mut state =
            case.state.as_ref().map(|state| VisualState { coverage: upload(&state.coverage), step: state.step });
        let mut steps = Vec::new();
        for t in 0..case.hidden.shape()[0] {
            let h = hidden.narrow(0, t, 1).unwrap();
            let one = layer.record(&mut run, &memory, &h, state.as_ref()).unwrap();
            state = Some(one.state.clone());
            steps.push(one);
        }
        run.submit().unwrap();
        let steps: Vec<_> = steps.iter().map(|one| one.download(gpu()).unwrap()).collect();
        let last = steps.last().unwrap();
        assert_eq!((last.state.step, last.state.step), (whole.state.step, state.unwrap().step));
        let joined = |name: &str, want: &Array<f32>| {
            let parts = steps.iter().flat_map(|one| named(one).into_iter().find(|(n, _)| n == name));
            let parts: Vec<f32> = parts.flat_map(|(_, array)| array.into_data()).collect();
            Array::new(want.shape(), parts).unwrap()
        };
        for (name, want) in named(&whole) {
            let got = match name.as_str() {
                "penalty" => last.penalty.clone(),
                "state.coverage" => last.state.coverage.clone(),
                _ => joined(&name, &want),
            };
            close(&name, &got, &want, 1e-5, 1e-5).unwrap().check(format!("{}: {name}", case.name)).unwrap();
        }
    }
}

/// A hard choice is one location, another at another step, and its logarithm is that of the softmax there.
#[test]
fn hard_attention_draws_from_the_soft_one() {
    let mut hard = case("hard", VisualAttention::hard(3), [200, 1, 5, 4, 3, 6]);
    // every step the same state, so every step draws from one distribution
    let row = hard.hidden.data()[..3].to_vec();
    hard.hidden.data_mut().chunks_exact_mut(3).for_each(|h| h.copy_from_slice(&row));
    let mut soft = hard.clone();
    soft.layer = VisualAttention::soft();
    let (drawn, from) = (on_gpu(&hard, DType::F32).unwrap(), on_gpu(&soft, DType::F32).unwrap());
    let mut share = [0.0f32; 5];
    let logs = drawn.log_probability.unwrap();
    for (t, alpha) in drawn.alpha.data().chunks_exact(5).enumerate() {
        assert_eq!(alpha.iter().sum::<f32>(), 1.0);
        let place = alpha.iter().position(|&a| a == 1.0).unwrap();
        share[place] += 1.0 / 200.0;
        let p = from.alpha.data()[t * 5 + place];
        assert!((logs.data()[t] - p.ln()).abs() < 1e-5, "{} {}", logs.data()[t], p.ln());
        assert!((drawn.entropy.data()[t] - from.entropy.data()[t]).abs() < 1e-5);
    }
    // 200 draws: a standard deviation is at most 0.035
    let worst = share.iter().zip(from.alpha.data()).map(|(s, p)| (s - p).abs()).fold(0.0, f32::max);
    assert!(worst < 0.12, "{share:?} {:?}", &from.alpha.data()[..5]);
}

#[test]
fn wrong_requests_are_refused() {
    let wrong: Wrong<'_, Case> = &[
        (
            |c| c.annotations = numbers(&[3, 3, 4, 7], 1.0, 1.0),
            "`annotations` rank: expected 3 [B, L, D], found 4 [3, 3, 4, 7]",
        ),
        (|c| c.hidden = numbers(&[4, 2, 6], 1.0, 1.0), "`hidden` axis 1 (batch): expected 3, found 2"),
        (|c| c.hidden = numbers(&[4, 3, 5], 1.0, 1.0), "`hidden.weight` axis 1 (hidden): expected 5, found 6"),
        (
            |c| c.weights.annotation = numbers(&[9, 8], 1.0, 1.0),
            "`annotation.weight` axis 1 (features): expected 7, found 8",
        ),
        (
            |c| c.weights.annotation = numbers(&[8, 7], 1.0, 1.0),
            "`hidden.weight` axis 0 (attention dim): expected 8, found 9",
        ),
        (|c| c.weights.v = numbers(&[8], 1.0, 1.0), "`v` axis 0 (attention dim): expected 9, found 8"),
        (
            |c| c.weights.gate = Some(Linear::new(numbers(&[7, 6], 1.0, 1.0))),
            "`gate.weight` axis 0 (one number): expected 1, found 7",
        ),
        (
            |c| c.layer.normalize = Normalize::Monotonic(Monotonic::Hard),
            "option `normalize`: a grid has no order: choose softmax, sparsemax, sample or hardmax",
        ),
        (|c| c.layer.temperature = Some(0.0), "option `temperature`: must be above 0, not 0"),
        (
            |c| c.layer.temperature = Some(1e-40),
            "option `temperature`: must be at least 1.1754944e-38, the smallest normal f32, not 1e-40",
        ),
        (|c| c.layer.penalty = f32::NAN, "option `penalty`: must be finite, not NaN"),
        (
            |c| c.state = Some(VisualState { coverage: numbers(&[3, 11], 1.0, 1.0), step: 1 }),
            "`state.coverage` shape: expected [3, 12], found [3, 11]",
        ),
    ];
    let right = || case("right", VisualAttention::soft(), USUAL);
    refused(right, wrong, |c| on_cpu::<f32>(c, |_, array| array.clone()).map(|_| ()));
    refused(right, wrong, |c| on_gpu(c, DType::F32).map(|_| ()));
}
