//! The attention decoder.

use regard::attention::{Attention, Mask, Monotonic, Normalize, Score, ScoreWeights};
use regard::gpu::{Gpu, Open, Run};
use regard::layers::GpuAttentionDecoder;
use regard::layers::{
    AttentionDecoder, DecoderMemory, DecoderOutput, DecoderOutputs, DecoderState, DecoderWeights, Linear, LocationInput,
};
use regard::reference;
use regard::rnn::{Activation, Cell, Direction, Reset, Rnn, RnnWeights};
use regard::tensor::{Array, DType};
use regard::{Result, Tensor};

use crate::gpu::some;

use super::{Named, Wrong, all, collected, gpu, judge_all, numbers, refused, stored, types};

#[derive(Clone)]
struct Case {
    name: String,
    decoder: AttentionDecoder,
    weights: DecoderWeights<Array<f32>>,
    memory: DecoderMemory<Array<f32>>,
    input: Array<f32>,
    state: Option<DecoderState<Array<f32>>>,
}

/// T, B, Nk; I, H, M, W, A; layers.
#[derive(Clone, Copy)]
struct Size([usize; 3], [usize; 5], usize);

const USUAL: Size = Size([5, 3, 7], [4, 6, 8, 9, 10], 1);

/// Input feeding, an attention layer with bias and tanh, the parameters that `score` has.
fn case(name: &str, Size([t, b, n], [i, h, m, w, a], layers): Size, cell: Cell, score: Score) -> Case {
    let matrix =
        |rows: usize, columns: usize, seed: f32| numbers(&[rows, columns], seed, (3.0 / columns as f32).sqrt());
    let gates = cell.gates() * h;
    let layer = |l: usize| RnnWeights {
        bias_ih: Some(numbers(&[gates], 3.0, 0.3)),
        bias_hh: Some(numbers(&[gates], 4.0, 0.3)),
        ..RnnWeights::new(
            matrix(gates, if l == 0 { i + w } else { h }, 1.0 + l as f32),
            matrix(gates, h, 2.0 + l as f32),
        )
    };
    let mut parameters = ScoreWeights::default();
    let p = &mut parameters;
    match score {
        Score::General => p.weight = Some(matrix(h, m, 5.0)),
        Score::Concat => {
            (p.weight, p.v, p.bias) =
                (Some(matrix(a, h + m, 5.0)), Some(numbers(&[a], 6.0, 1.0)), Some(numbers(&[a], 7.0, 0.3)))
        }
        Score::Additive | Score::Location => {
            (p.query_weight, p.key_weight) = (Some(matrix(a, h, 5.0)), Some(matrix(a, m, 6.0)));
            (p.v, p.bias) = (Some(numbers(&[a], 7.0, 1.0)), Some(numbers(&[a], 8.0, 0.3)));
        }
        _ => {}
    }
    if score == Score::Location {
        p.location_filter = Some(numbers(&[2, 3], 9.0, 1.0));
        p.location_weight = Some(numbers(&[a, 2], 10.0, 1.0));
    }
    let attention = Attention { score, ..Attention::default() };
    let decoder =
        AttentionDecoder { activation: Some(Activation::Tanh), ..AttentionDecoder::new(Rnn::new(cell), attention) };
    let weights = DecoderWeights {
        cell: (0..layers).map(|l| vec![layer(l)]).collect(),
        score: parameters,
        attention: Some(Linear::with_bias(matrix(w, h + m, 11.0), numbers(&[w], 12.0, 0.3))),
    };
    let memory = DecoderMemory::new(numbers(&[b, n, m], 13.0, 1.7));
    Case { name: name.to_owned(), decoder, weights, memory, input: numbers(&[t, b, i], 14.0, 1.7), state: None }
}

const AFTER: Cell = Cell::Gru { reset: Reset::After };

/// A state after three steps of something else.
fn with_state(case: &mut Case) {
    let &[b, n, _] = case.memory.memory.shape() else { unreachable!() };
    let (layers, h) = (case.weights.cell.len(), case.weights.cell[0][0].weight_hh.shape()[1]);
    let row = numbers(&[b, n], 20.0, 0.1).map(|x| x.abs());
    case.state = Some(DecoderState {
        h: numbers(&[layers, b, h], 21.0, 0.9),
        c: (case.decoder.cell.cell == Cell::Lstm).then(|| numbers(&[layers, b, h], 22.0, 0.9)),
        attention: Some(numbers(&[b, case.weights.attention.as_ref().unwrap().weight.shape()[0]], 23.0, 0.9)),
        alignment: Some(row.clone()),
        coverage: Some(row.map(|x| x * 3.0)),
        step: 3,
    });
}

fn cases() -> Vec<Case> {
    let mut table = Vec::new();
    let mut add = |name: &str, size: Size, cell: Cell, score: Score, edit: &dyn Fn(&mut Case)| {
        let mut case = case(name, size, cell, score);
        edit(&mut case);
        table.push(case);
    };
    let square = Size([4, 2, 9], [5, 8, 8, 7, 6], 1);
    for score in [Score::General, Score::Additive, Score::Concat, Score::Location] {
        add(&format!("{score:?}, LSTM"), USUAL, Cell::Lstm, score, &|_| {});
    }
    for score in [Score::Dot, Score::ScaledDot, Score::Cosine] {
        add(&format!("{score:?}, GRU"), square, AFTER, score, &|_| {});
    }
    add("one of everything", Size([1, 1, 1], [1, 1, 1, 1, 1], 1), Cell::Lstm, Score::Additive, &|_| {});
    add("long memory, two layers", Size([3, 2, 130], [20, 40, 33, 35, 17], 2), Cell::Lstm, Score::Additive, &|_| {});
    add(
        "GRU, reset before, three layers",
        Size([4, 1, 5], [3, 5, 4, 6, 7], 3),
        Cell::Gru { reset: Reset::Before },
        Score::General,
        &|_| {},
    );
    add("RNN, cell output, coverage", USUAL, Cell::Rnn, Score::Additive, &|case| {
        (case.decoder.output, case.decoder.coverage) = (DecoderOutput::Cell, true);
    });
    add("no attention layer", Size([4, 3, 7], [4, 6, 8, 8, 10], 1), AFTER, Score::Additive, &|case| {
        (case.weights.attention, case.decoder.activation) = (None, None);
    });
    add("no input feeding, no biases", USUAL, AFTER, Score::General, &|case| {
        case.decoder.input_feeding = false;
        case.weights.cell[0][0].weight_ih = numbers(&[18, 4], 1.0, 0.8);
        case.weights.attention = Some(Linear::new(numbers(&[9, 14], 2.0, 0.4)));
        case.decoder.activation = None;
    });
    add("lengths, bool mask, normalized v, state", USUAL, Cell::Lstm, Score::Additive, &|case| {
        with_state(case);
        case.weights.score.g = Some(Array::filled(&[1], 1.3));
        case.memory.lengths = Array::new(&[3], vec![7, 1, 4]).ok();
        let mask = numbers(&[3, 1, 1, 7], 2.0, 1.0).map(|&x| u32::from(x > -0.6));
        case.memory.mask = Some(Mask::Bool(mask));
    });
    for input in [LocationInput::Alignment, LocationInput::Coverage] {
        add(&format!("location, {input:?}, coverage, state"), USUAL, AFTER, Score::Location, &|case| {
            with_state(case);
            (case.decoder.location, case.decoder.coverage) = (input, true);
        });
        add(&format!("location, {input:?}, from the start"), USUAL, AFTER, Score::Location, &|case| {
            case.decoder.location = input;
        });
    }
    for form in [Monotonic::Parallel, Monotonic::Recursive, Monotonic::Hard] {
        let monotonic = |case: &mut Case| {
            case.decoder.attention.normalize = Normalize::Monotonic(form);
            // a score bias
            case.memory.mask = Some(Mask::Float(Array::filled(&[1], -0.4)));
        };
        add(&format!("monotonic, {form:?}"), USUAL, Cell::Lstm, Score::Additive, &|case| monotonic(case));
        add(&format!("monotonic, {form:?}, state"), USUAL, AFTER, Score::General, &|case| {
            monotonic(case);
            with_state(case);
        });
        add(&format!("monotonic, {form:?}, location"), USUAL, AFTER, Score::Location, &|case| monotonic(case));
    }
    for (name, normalize) in [
        ("hardmax", Normalize::Hardmax),
        ("sample", Normalize::Sample { seed: 9 }),
        ("sparsemax", Normalize::Sparsemax),
    ] {
        add(name, USUAL, Cell::Lstm, Score::General, &|case| case.decoder.attention.normalize = normalize);
    }
    add("scale, softcap, temperature", USUAL, Cell::Lstm, Score::General, &|case| {
        let attention = &mut case.decoder.attention;
        (attention.scale, attention.softcap, attention.temperature) = (Some(0.7), Some(2.0), Some(0.6));
    });
    table
}

fn named<T: Clone>(outputs: &DecoderOutputs<Array<T>>) -> Named<T> {
    collected(|keep| outputs.try_map(keep).map(|_| ()))
}

fn on_gpu(case: &Case, dtype: DType) -> Result<DecoderOutputs<Array<f32>>> {
    let decoder = GpuAttentionDecoder::upload(gpu(), &case.decoder, &case.weights, dtype)?;
    let input = Tensor::upload(gpu(), "input", &case.input, dtype)?;
    let state = case.state.as_ref().map(|state| state.upload(gpu())).transpose()?;
    decoder.run(gpu(), &case.memory.upload(gpu(), dtype)?, &input, state.as_ref())?.download(gpu())
}

fn on_cpu<T: reference::Float>(
    case: &Case,
    cast: impl Fn(&str, &Array<f32>) -> Array<T>,
) -> Result<DecoderOutputs<Array<T>>> {
    let ok = |name: &str, array: &Array<f32>| Ok::<_, regard::Error>(cast(name, array));
    let state = case.state.as_ref().map(|state| state.try_map(ok)).transpose()?;
    let (weights, memory) = (case.weights.try_map(ok)?, case.memory.try_map(ok, |_, array| Ok(array.clone()))?);
    case.decoder.reference(&weights, &memory, &cast("input", &case.input), state.as_ref())
}

fn check(case: &Case, dtype: DType) -> Result<f64> {
    let got = on_gpu(case, dtype)?;
    let oracle = on_cpu::<f64>(case, |_, array| array.cast())?;
    let matrices = ["input", "memory", "attention.weight", "score.weight", "score.query_weight", "score.key_weight"];
    let baseline =
        on_cpu::<f32>(case, |name, array| match matrices.contains(&name) || name.starts_with("cell.weight") {
            true => stored(array, dtype),
            false => array.clone(),
        })?;
    judge_all(&named(&got), &named(&oracle), &named(&baseline))
}

#[test]
fn decoders_are_within_the_tolerance() {
    all("attention decoders, f32", cases(), |case| case.name.clone(), |case| check(case, DType::F32));
    // A choice between two keys that rounding turns around is no error, so these go without hard ones.
    let soft = |case: &Case| {
        use Normalize::{Softmax, Sparsemax};
        matches!(case.decoder.attention.normalize, Softmax | Sparsemax)
    };
    for dtype in types().into_iter().skip(1) {
        let cases = some(cases().into_iter().filter(soft), 3);
        all(&format!("attention decoders, {dtype}"), cases, |case| case.name.clone(), |case| check(case, dtype));
    }
}

/// All steps at once, and one at a time with the state carried on, in one run: the same bits.
#[test]
fn step_by_step_is_all_at_once() {
    for case in cases() {
        let mut run = Run::new(gpu());
        let decoder = GpuAttentionDecoder::upload(gpu(), &case.decoder, &case.weights, DType::F32).unwrap();
        let memory = case.memory.upload(gpu(), DType::F32).unwrap();
        let memory = decoder.remember(&mut run, &memory).unwrap();
        let input = Tensor::upload(gpu(), "input", &case.input, DType::F32).unwrap();
        let start = case.state.as_ref().map(|state| state.upload(gpu()).unwrap());
        let together = decoder.record(&mut run, &memory, &input, start.as_ref()).unwrap();
        let mut state = start;
        let mut steps = Vec::new();
        for t in 0..case.input.shape()[0] {
            let one = decoder.record(&mut run, &memory, &input.narrow(0, t, 1).unwrap(), state.as_ref()).unwrap();
            state = Some(one.state.clone());
            steps.push(one);
        }
        run.submit().unwrap();
        let together = together.download(gpu()).unwrap();
        let steps: Vec<_> = steps.iter().map(|one| one.download(gpu()).unwrap()).collect();
        let joined = |of: fn(&DecoderOutputs<Array<f32>>) -> Option<&Array<f32>>| -> Vec<f32> {
            steps.iter().filter_map(of).flat_map(|array| array.data().to_vec()).collect()
        };
        assert_eq!(together.output.data(), joined(|one| Some(&one.output)), "{}", case.name);
        assert_eq!(together.alignments.data(), joined(|one| Some(&one.alignments)), "{}", case.name);
        let loss = together.coverage_loss.map_or_else(Vec::new, Array::into_data);
        assert_eq!(loss, joined(|one| one.coverage_loss.as_ref()), "{}", case.name);
        assert_eq!(Some(&together.state), steps.last().map(|one| &one.state), "{}", case.name);
    }
}

/// The reference goes step by step too.
#[test]
fn the_reference_carries_its_state() {
    for case in cases() {
        let cast = |_: &str, array: &Array<f32>| array.cast::<f64>();
        let together = on_cpu(&case, cast).unwrap();
        let (weights, memory) = (case.weights.map(Array::cast::<f64>), case.memory.map_numbers(Array::cast::<f64>));
        let mut state = case.state.as_ref().map(|state| state.map(Array::cast::<f64>));
        let row = case.input.data().len() / case.input.shape()[0];
        let mut output = Vec::new();
        for x in case.input.data().chunks_exact(row) {
            let shape = [1, case.input.shape()[1], case.input.shape()[2]];
            let x = Array::new(&shape, x.to_vec()).unwrap().cast();
            let one = case.decoder.reference(&weights, &memory, &x, state.as_ref()).unwrap();
            output.extend_from_slice(one.output.data());
            state = Some(one.state);
        }
        assert_eq!(together.output.data(), output, "{}", case.name);
        assert_eq!(Some(together.state), state, "{}", case.name);
    }
}

/// Nothing is read back between the steps.
#[test]
fn a_sequence_is_one_submission() {
    let gpu = Gpu::open(&Open { adapter: std::env::var("REGARD_ADAPTER").ok(), ..Open::default() }).unwrap();
    let case = case("counted", USUAL, Cell::Lstm, Score::Additive);
    let decoder = GpuAttentionDecoder::upload(&gpu, &case.decoder, &case.weights, DType::F32).unwrap();
    let memory = case.memory.upload(&gpu, DType::F32).unwrap();
    let input = Tensor::upload(&gpu, "input", &case.input, DType::F32).unwrap();
    let before = gpu.counts();
    decoder.run(&gpu, &memory, &input, None).unwrap();
    let after = gpu.counts();
    assert_eq!((after.submits - before.submits, after.downloads - before.downloads), (1, 0));
}

/// A projection of all keys, told by its work: no step makes one.
#[test]
fn keys_are_projected_once() {
    for score in [Score::Additive, Score::Concat, Score::General, Score::Location] {
        let case = case("counted", USUAL, AFTER, score);
        let Size([_, b, n], [_, h, m, _, a], _) = USUAL;
        let work = 2 * b * n * m * if score == Score::General { h } else { a };
        let count = |run: &Run<'_>| {
            let projections = run.recording().dispatches().filter(|d| d.variant.kernel.name().starts_with("matmul"));
            projections.filter(|d| d.flops == work as u64).count()
        };
        let mut run = Run::new(gpu());
        let decoder = GpuAttentionDecoder::upload(gpu(), &case.decoder, &case.weights, DType::F32).unwrap();
        let memory = decoder.remember(&mut run, &case.memory.upload(gpu(), DType::F32).unwrap()).unwrap();
        assert_eq!(count(&run), 1, "{score:?}");
        let input = Tensor::upload(gpu(), "input", &case.input, DType::F32).unwrap();
        decoder.record(&mut run, &memory, &input, None).unwrap();
        assert_eq!(count(&run), 1, "{score:?}");
    }
}

#[test]
fn wrong_requests_are_refused() {
    let wrong: Wrong<'_, Case> = &[
        (|c| c.decoder.cell.direction = Direction::Reverse, "option `cell.direction`: a decoder goes forward"),
        (
            |c| c.decoder.attention.causal = Some(Default::default()),
            "option `attention.causal`: a decoder has one query a step, which sees all of the memory",
        ),
        (
            |c| c.decoder.attention.lse = true,
            "option `attention.lse`: a decoder gives back output and alignments: leave it out",
        ),
        (
            |c| c.decoder.location = LocationInput::Coverage,
            "option `location`: coverage is read by `Score::Location` only",
        ),
        (|c| c.weights.attention = None, "option `activation`: belongs to the attention layer, which is not there"),
        (
            |c| c.weights.attention = Some(Linear::new(numbers(&[9, 13], 1.0, 1.0))),
            "`attention.weight` axis 1 (cell output + memory): expected 14, found 13",
        ),
        (
            |c| c.weights.cell[0][0].weight_ih = numbers(&[24, 4], 1.0, 1.0),
            "`weight_ih_l0` axis 1 (input): expected 13, found 4",
        ),
        (|c| c.input = numbers(&[5, 3], 1.0, 1.0), "`input` rank: expected 3 [T, B, I], found 2 [5, 3]"),
        (|c| c.input = numbers(&[5, 2, 4], 1.0, 1.0), "`input` axis 1 (batch): expected 3, found 2"),
        (
            |c| c.memory.memory = numbers(&[3, 7, 6], 1.0, 1.0),
            "`attention.weight` axis 1 (cell output + memory): expected 12, found 14",
        ),
        (
            |c| c.weights.score.weight = Some(numbers(&[6, 7], 1.0, 1.0)),
            "`score.weight` axis 1 (key dim): expected 8, found 7",
        ),
        (
            |c| c.weights.score.v = Some(numbers(&[6], 1.0, 1.0)),
            "option `score`: General has no parameter `score.v`: leave it out",
        ),
        (|c| c.memory.lengths = Some(Array::filled(&[2], 1)), "`lengths` axis 0 (batch): expected 3, found 2"),
        (
            |c| {
                with_state(c);
                c.state.as_mut().unwrap().h = numbers(&[2, 3, 6], 1.0, 1.0);
            },
            "`state.h` shape: expected [1, 3, 6], found [2, 3, 6]",
        ),
        (
            |c| {
                with_state(c);
                c.state.as_mut().unwrap().attention = Some(numbers(&[3, 8], 1.0, 1.0));
            },
            "`state.attention` shape: expected [3, 9], found [3, 8]",
        ),
    ];
    let right = || case("right", USUAL, Cell::Lstm, Score::General);
    refused(right, wrong, |c| on_cpu::<f32>(c, |_, array| array.clone()).map(|_| ()));
    refused(right, wrong, |c| on_gpu(c, DType::F32).map(|_| ()));
}
