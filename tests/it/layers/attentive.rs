//! A recurrent encoder with the attention of decoder states over its outputs.

use regard::attention::{Attention, AttentionInputs, Causal, Mask, Monotonic, Normalize, Score, ScoreStage, Window};
use regard::gpu::{Gpu, Open, Run};
use regard::layers::GpuAttentiveEncoder;
use regard::layers::{AttentiveEncoder, AttentiveInputs, AttentiveOutputs, AttentiveWeights};
use regard::ops::rnn::GpuRnn;
use regard::rnn::{Cell, Direction, Merge, Reset, Rnn, RnnInputs, RnnWeights, Steps};
use regard::tensor::{Array, DType};
use regard::{Error, Result, Tensor};

use super::{Named, Wrong, all, gpu, judge_all, minimal_gpu, numbers, refused, stored, types};
use crate::gpu::some;

#[derive(Clone)]
struct Case {
    name: String,
    layer: AttentiveEncoder,
    weights: AttentiveWeights<Array<f32>>,
    inputs: AttentiveInputs<Array<f32>>,
}

/// T, B, Q, I, H, layers.
type Size = [usize; 6];
const USUAL: Size = [7, 3, 4, 5, 9, 1];
const GRU: Cell = Cell::Gru { reset: Reset::After };

/// Every output asked for.
fn full(score: Score) -> Attention {
    Attention {
        score,
        weights: true,
        lse: true,
        entropy: true,
        scores: Some(ScoreStage::Masked),
        ..Attention::default()
    }
}

fn case(name: &str, rnn: Rnn, attention: Attention, [steps, batch, queries, input, hidden, layers]: Size) -> Case {
    let (rows, width) = (rnn.cell.gates() * hidden, rnn.output_width(hidden));
    let matrix = |shape: [usize; 2], seed: usize| numbers(&shape, seed as f32, (3.0 / shape[1] as f32).sqrt());
    let cell = |l: usize, d: usize| RnnWeights {
        bias_ih: Some(numbers(&[rows], (l + 3 * d) as f32 + 0.3, 0.3)),
        bias_hh: Some(numbers(&[rows], (l + 3 * d) as f32 + 0.6, 0.3)),
        ..RnnWeights::new(
            matrix([rows, if l == 0 { input } else { width }], 1 + l + 3 * d),
            matrix([rows, hidden], 11 + l + 3 * d),
        )
    };
    let stack = (0..layers).map(|l| (0..rnn.direction.count()).map(|d| cell(l, d)).collect()).collect();
    let mut weights = AttentiveWeights::new(stack);
    let mut query = width;
    // Scores with weights for both sides take queries of a width of their own.
    match attention.score {
        Score::General => {
            query = 6;
            weights.score.weight = Some(matrix([6, width], 21));
        }
        Score::Additive | Score::Location => {
            query = 6;
            weights.score.query_weight = Some(matrix([10, 6], 22));
            weights.score.key_weight = Some(matrix([10, width], 23));
            (weights.score.v, weights.score.bias) = (Some(numbers(&[10], 24.0, 1.0)), Some(numbers(&[10], 25.0, 0.3)));
        }
        Score::Concat => {
            query = 6;
            weights.score.weight = Some(matrix([10, 6 + width], 26));
            weights.score.v = Some(numbers(&[10], 27.0, 1.0));
        }
        _ => {}
    }
    let mut inputs = AttentiveInputs::new(
        RnnInputs::new(numbers(&[steps, batch, input], 31.0, 1.7)),
        numbers(&[batch, queries, query], 32.0, 1.7),
    );
    if attention.score == Score::Location {
        weights.score.location_filter = Some(matrix([2, 3], 28));
        weights.score.location_weight = Some(matrix([10, 2], 29));
        inputs.previous = Some(numbers(&[batch, queries, steps], 33.0, 0.5).map(|x| x.abs()));
    }
    Case { name: name.to_owned(), layer: AttentiveEncoder { rnn, attention }, weights, inputs }
}

/// Row 0 empty, row 1 full, the others in between; NaN in every step past the end.
fn shorten(case: &mut Case) {
    let &[steps, batch, input] = case.inputs.sequence.input.shape() else { unreachable!() };
    let length = |b: usize| [0, steps, steps / 2, 1][b % 4];
    case.inputs.sequence.lengths = Some(Array::from_fn(&[batch], |b| length(b) as u32));
    for (row, x) in case.inputs.sequence.input.data_mut().chunks_exact_mut(input).enumerate() {
        if row / batch >= length(row % batch) {
            x.fill(f32::NAN);
        }
    }
}

fn start(case: &mut Case) {
    let (rnn, shape) = (&case.layer.rnn, case.inputs.sequence.input.shape());
    let hidden = case.weights.rnn[0][0].weight_hh.shape()[1];
    let states = [case.weights.rnn.len() * rnn.direction.count(), shape[1], hidden];
    case.inputs.sequence.initial_h = Some(numbers(&states, 41.0, 0.8));
    case.inputs.sequence.initial_c = (rnn.cell == Cell::Lstm).then(|| numbers(&states, 42.0, 0.8));
}

fn cases() -> Vec<Case> {
    let mut table = Vec::new();
    let mut add = |name: &str, rnn: Rnn, attention: Attention, size: Size, edit: &dyn Fn(&mut Case)| {
        let mut case = case(name, rnn, attention, size);
        edit(&mut case);
        table.push(case);
    };
    let article = Rnn { forget_bias: 1.0, ..Rnn::new(Cell::Lstm) };
    let dot = Attention { score: Score::Dot, weights: true, ..Attention::default() };
    add("the article's", article.clone(), dot.clone(), [12, 2, 1, 10, 16, 1], &shorten);
    add("no output but the context", article.clone(), Attention::default(), USUAL, &|_| {});
    add("one of everything", article.clone(), dot.clone(), [1; 6], &|_| {});
    add("every row empty", article.clone(), full(Score::Dot), USUAL, &|case| {
        case.inputs.sequence.lengths = Some(Array::filled(&[3], 0));
        start(case);
    });
    for cell in [Cell::Lstm, GRU, Cell::Gru { reset: Reset::Before }, Cell::Rnn] {
        add(&format!("{cell:?}"), Rnn::new(cell), full(Score::Dot), USUAL, &shorten);
        let both = Rnn::new(cell).bidirectional();
        add(
            &format!("{cell:?}, both directions, 2 layers, state"),
            both,
            full(Score::General),
            [7, 3, 4, 5, 9, 2],
            &|c| {
                shorten(c);
                start(c);
            },
        );
    }
    let reverse = Rnn { direction: Direction::Reverse, ..Rnn::new(GRU) };
    add("reverse", reverse, full(Score::ScaledDot), USUAL, &shorten);
    let sum = Rnn { merge: Merge::Sum, ..Rnn::new(Cell::Lstm).bidirectional() };
    add("both directions, summed", sum, full(Score::Cosine), USUAL, &shorten);
    for score in [Score::ScaledDot, Score::Dot, Score::Cosine, Score::General, Score::Additive, Score::Concat] {
        add(&format!("{score:?}"), Rnn::new(Cell::Lstm).bidirectional(), full(score), USUAL, &shorten);
    }
    add("location", Rnn::new(GRU), full(Score::Location), USUAL, &shorten);
    add("additive without weights", Rnn::new(GRU), full(Score::Additive), USUAL, &|case| {
        case.weights.score = AttentiveWeights::new(vec![]).score;
        case.inputs.query = numbers(&[3, 4, 9], 32.0, 1.7);
    });
    for (name, normalize) in [
        ("sparsemax", Normalize::Sparsemax),
        ("hardmax", Normalize::Hardmax),
        ("sample", Normalize::Sample { seed: 5 }),
        ("monotonic", Normalize::Monotonic(Monotonic::Recursive)),
    ] {
        let lse = matches!(normalize, Normalize::Sample { .. });
        let attention = Attention { normalize, lse, ..full(Score::General) };
        add(name, Rnn::new(Cell::Lstm), attention, USUAL, &|case| {
            shorten(case);
            if name == "monotonic" {
                case.inputs.previous = Some(Array::from_fn(&[3, 1, 7], |k| f32::from(u8::from(k % 7 == 1))));
            }
        });
    }
    let tempered = Attention { temperature: Some(0.5), softcap: Some(3.0), scale: Some(1.5), ..full(Score::Dot) };
    add("scale, softcap, temperature", Rnn::new(Cell::Rnn), tempered, USUAL, &shorten);
    add("bool mask and lengths", Rnn::new(GRU), full(Score::Dot), USUAL, &|case| {
        shorten(case);
        let mask = numbers(&[3, 1, 4, 7], 51.0, 1.0).map(|&x| u32::from(x > -0.5));
        case.inputs.mask = Some(Mask::Bool(mask));
    });
    add("float mask", Rnn::new(GRU), full(Score::Dot), USUAL, &|case| {
        case.inputs.mask = Some(Mask::Float(numbers(&[4, 7], 52.0, 2.0)));
    });
    add("long", Rnn::new(Cell::Lstm), full(Score::Dot), [70, 5, 3, 33, 40, 1], &shorten);
    table
}

fn named<T: Clone>(outputs: &AttentiveOutputs<Array<T>>) -> Named<T> {
    outputs.named().map(|(name, array)| (name.to_owned(), array.clone())).collect()
}

fn on(gpu: &Gpu, case: &Case, dtype: DType) -> Result<AttentiveOutputs<Array<f32>>> {
    let encoder = GpuAttentiveEncoder::upload(gpu, &case.layer, &case.weights, dtype)?;
    encoder.run(gpu, &case.inputs.upload(gpu, dtype)?)?.download(gpu)
}

fn check(gpu: &Gpu, case: &Case, dtype: DType) -> Result<f64> {
    let got = on(gpu, case, dtype)?;
    let oracle = case.layer.reference::<f64>(&case.weights.map(Array::cast), &case.inputs.map_numbers(Array::cast))?;
    let round = |name: &str, array: &Array<f32>| -> Result<Array<f32>> {
        let halved = name.starts_with("weight_") || ["input", "query"].contains(&name);
        Ok(if halved { stored(array, dtype) } else { array.clone() })
    };
    let (weights, inputs) = (case.weights.try_map(round)?, case.inputs.try_map(round, |_, array| Ok(array.clone()))?);
    let baseline = case.layer.reference(&weights, &inputs)?;
    judge_all(&named(&got), &named(&oracle), &named(&baseline))
}

#[test]
fn attentive_encoders_are_within_the_tolerance() {
    for dtype in types() {
        // A choice between two steps that rounding turns around is no error, so f16 goes without hard ones.
        let hard =
            |case: &Case| matches!(case.layer.attention.normalize, Normalize::Hardmax | Normalize::Sample { .. });
        let cases = some(cases(), 2).filter(|case| dtype == DType::F32 || !hard(case));
        all(&format!("attentive encoders, {dtype}"), cases, |case| case.name.clone(), |case| check(gpu(), case, dtype));
    }
    all(
        "attentive encoders, minimal GPU",
        some(cases(), 4),
        |case| case.name.clone(),
        |case| check(minimal_gpu(), case, DType::F32),
    );
}

/// The encoder's own call, then attention over [B, 1, T, W] of what it gave.
#[test]
fn one_call_is_its_parts_one_after_the_other() {
    for case in cases() {
        let one = on(gpu(), &case, DType::F32).unwrap();
        let encoder = GpuRnn::upload(gpu(), &case.layer.rnn, &case.weights.rnn, DType::F32).unwrap();
        let encoded = encoder.run(gpu(), &case.inputs.sequence.upload(gpu(), DType::F32).unwrap()).unwrap();
        let encoded = encoded.download(gpu()).unwrap();
        let &[steps, batch, width] = encoded.output.shape() else { unreachable!() };
        let states = encoded.output.permute(&[1, 0, 2]).unwrap().reshape(&[batch, 1, steps, width]).unwrap();
        let head = |x: &Array<f32>| x.clone().reshape(&[batch, 1, x.shape()[1], x.shape()[2]]).unwrap();
        let attended = AttentionInputs {
            mask: case.inputs.mask.clone(),
            kv_lengths: case.inputs.sequence.lengths.clone(),
            previous: case.inputs.previous.as_ref().map(head),
            score: case.weights.score.clone(),
            ..AttentionInputs::new(head(&case.inputs.query), states.clone(), states)
        };
        let attended = attended.upload(gpu(), DType::F32).unwrap();
        let attended = case.layer.attention.run(gpu(), &attended).unwrap().download(gpu()).unwrap();
        let parts = attended.named().map(|(name, array)| (if name == "output" { "context" } else { name }, array));
        let parts: Vec<_> = parts.chain(encoded.named()).collect();
        assert_eq!(one.named().count(), parts.len(), "{}", case.name);
        for ((name, got), (part, want)) in one.named().zip(parts) {
            assert_eq!((name, got.data()), (part, want.data()), "{}: {name}", case.name);
        }
    }
}

/// α of a row sums to 1 over its own steps and is 0 beyond them; a row without steps has α = 0, y = 0 and keeps its state.
#[test]
fn lengths_reach_the_encoder_and_the_attention() {
    for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
        let rnn = Rnn { direction, ..Rnn::new(Cell::Lstm) };
        let mut case = case("lengths", rnn, AttentiveEncoder::new(Rnn::new(Cell::Lstm)).attention, [8, 4, 3, 5, 9, 1]);
        shorten(&mut case);
        start(&mut case);
        let got = on(gpu(), &case, DType::F32).unwrap();
        let lengths = [0, 8, 4, 1];
        for (row, alpha) in got.weights.as_ref().unwrap().data().chunks_exact(8).enumerate() {
            let length = lengths[row / 3];
            assert!(alpha[length..].iter().all(|&a| a == 0.0), "{alpha:?}");
            let sum: f32 = alpha.iter().sum();
            assert!(if length == 0 { sum == 0.0 } else { (sum - 1.0).abs() < 1e-6 }, "{alpha:?}");
        }
        let width = got.context.shape()[2];
        assert!(got.context.data()[..3 * width].iter().all(|&y| y == 0.0));
        for (row, x) in got.encoded.output.data().chunks_exact(width).enumerate() {
            assert_eq!(x.iter().all(|&x| x == 0.0), row / 4 >= lengths[row % 4], "step {}, row {}", row / 4, row % 4);
        }
        let (start, end) = (case.inputs.sequence.initial_h.unwrap(), got.encoded.final_h);
        for d in 0..direction.count() {
            let row = d * 4 * 9..d * 4 * 9 + 9;
            assert_eq!(end.data()[row.clone()], start.data()[row], "the empty row's state");
        }
    }
}

#[test]
fn one_call_is_one_submission_and_reads_nothing_back() {
    let gpu = Gpu::open(&Open { adapter: Some(gpu().adapter().name.clone()), ..Open::default() }).unwrap();
    for steps in [1, 9, 120] {
        let mut case = case("counted", Rnn::new(Cell::Lstm).bidirectional(), full(Score::Additive), USUAL);
        case.inputs.sequence.input = numbers(&[steps, 3, 5], 1.0, 1.0);
        let encoder = GpuAttentiveEncoder::upload(&gpu, &case.layer, &case.weights, DType::F32).unwrap();
        let inputs = case.inputs.upload(&gpu, DType::F32).unwrap();
        let before = gpu.counts();
        encoder.run(&gpu, &inputs).unwrap();
        let after = gpu.counts();
        assert_eq!((after.submits - before.submits, after.downloads - before.downloads), (1, 0), "{steps} steps");
    }
}

/// The decoder's states may be made by the same recording: here the encoder's own final state asks.
#[test]
fn a_query_may_be_a_view_of_what_the_same_run_computes() {
    let mut case = case("view", Rnn::new(GRU), full(Score::Dot), [7, 3, 1, 5, 9, 1]);
    shorten(&mut case);
    let encoder = GpuAttentiveEncoder::upload(gpu(), &case.layer, &case.weights, DType::F32).unwrap();
    let mut inputs = case.inputs.upload(gpu(), DType::F32).unwrap();
    let mut run = Run::new(gpu());
    let first = encoder.record(&mut run, &inputs).unwrap();
    // [1, B, H] as [B, 1, H]
    inputs.query = first.encoded.final_h.permute(&[1, 0, 2]).unwrap();
    let second = encoder.record(&mut run, &inputs).unwrap();
    run.submit().unwrap();
    case.inputs.query = inputs.query.download(gpu()).unwrap();
    let want = on(gpu(), &case, DType::F32).unwrap();
    assert_eq!(second.context.download(gpu()).unwrap(), want.context);
}

#[test]
fn wrong_requests_are_refused() {
    let positional = "decoder states have no position among the encoder's steps: write it out as a mask";
    let causal = format!("option `attention.causal`: {positional}");
    let window = format!("option `attention.window`: {positional}");
    let wrong: Wrong<'_, Case> = &[
        (
            |c| c.layer.rnn.steps = Steps::Last,
            "option `rnn.steps`: attention reads every step: leave it at `Steps::All`",
        ),
        (|c| c.layer.attention.causal = Some(Causal::TopLeft), &causal),
        (|c| c.layer.attention.window = Some(Window::new(Some(1), None)), &window),
        (|c| c.layer.attention.softcap = Some(0.0), "option `softcap`: must be above 0, not 0; leave it out for none"),
        (|c| c.inputs.query = numbers(&[3, 9], 1.0, 1.0), "`query` rank: expected 3 [B, Q, Dq], found 2 [3, 9]"),
        (|c| c.inputs.query = numbers(&[2, 4, 9], 1.0, 1.0), "`query` axis 0 (batch): expected 3, found 2"),
        (
            |c| c.inputs.query = numbers(&[3, 4, 8], 1.0, 1.0),
            "`query` axis 2 (width of the encoder's output): expected 9, found 8",
        ),
        (|c| c.inputs.query = Array::filled(&[3, 0, 9], 0.0), "`query` axis 1: expected at least 1, found 0"),
        (
            |c| c.inputs.sequence.input = numbers(&[7, 3, 6], 1.0, 1.0),
            "`weight_ih_l0` axis 1 (input): expected 6, found 5",
        ),
        (|c| c.inputs.sequence.lengths = Some(Array::filled(&[2], 1)), "`lengths` axis 0 (batch): expected 3, found 2"),
        (
            |c| c.inputs.sequence.lengths = Some(Array::new(&[3], vec![7, 8, 0]).unwrap()),
            "`lengths` row 1: expected a whole number from 0 to 7, found 8",
        ),
        (
            |c| c.inputs.mask = Some(Mask::Bool(Array::filled(&[5, 7], 1))),
            "`mask` axis 0 (queries): expected 4 or 1, found 5",
        ),
        (
            |c| c.inputs.previous = Some(numbers(&[3, 4, 7], 1.0, 1.0)),
            "option `previous`: belongs to a location-sensitive score or a monotonic alignment: leave it out",
        ),
        (
            |c| c.weights.score.v = Some(numbers(&[9], 1.0, 1.0)),
            "option `score`: Dot has no parameter `score.v`: leave it out",
        ),
        (
            |c| c.layer.attention.score = Score::General,
            "`score.weight`: expected [Dq, Dk] for the general score, found none",
        ),
    ];
    let right = || case("right", Rnn::new(Cell::Lstm), Attention { score: Score::Dot, ..Attention::default() }, USUAL);
    refused(right, wrong, |c| on(gpu(), c, DType::F32).map(|_| ()));
    refused(right, wrong, |c| c.layer.reference(&c.weights, &c.inputs).map(|_| ()));

    let right = right();
    let encoder = GpuAttentiveEncoder::upload(gpu(), &right.layer, &right.weights, DType::F32).unwrap();
    let mut inputs = right.inputs.upload(gpu(), DType::F32).unwrap();
    inputs.query = Tensor::upload_u32(gpu(), "query", &Array::filled(&[3, 4, 9], 1)).unwrap();
    let error = encoder.run(gpu(), &inputs).unwrap_err();
    assert_eq!(error, Error::shape("query", "dtype", "f32 or f16", "u32"));
}
