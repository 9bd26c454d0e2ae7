//! What must hold of the recurrent reference whatever the numbers, each cell against its formula, and what is refused.

mod formulas;
mod refusals;

use regard::compare::close;
use regard::reference::rnn;
use regard::rnn::{
    Activation, Activations, Cell, Direction, LayerNorm, Merge, NormOver, Reset, Rnn, RnnInputs, RnnOutputs, RnnStack,
    RnnWeights, Steps,
};
use regard::tensor::{Array, Layout};

type Tensor = Array<f64>;
type Stack = RnnStack<Tensor>;

const HIDDEN: usize = 4;

/// Every cell as it comes, and LSTMs that have everything, in both forms of layer normalisation.
fn kinds() -> Vec<Rnn> {
    let cells =
        [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn].map(Rnn::new);
    let everything = [(NormOver::Products, true), (NormOver::Gates, false)].map(|(over, carry)| Rnn {
        clip: Some(2.5),
        forget_bias: 0.5,
        cell_clip: Some(0.9),
        projection_clip: Some(0.6),
        layer_norm: Some(LayerNorm { over, carry, epsilon: 1e-3 }),
        ..Rnn::new(Cell::Lstm)
    });
    [&cells[..], &everything[..]].concat()
}

/// P: a kind whose projection is clipped has one.
fn width(options: &Rnn) -> usize {
    if options.projection_clip.is_some() { 3 } else { HIDDEN }
}

/// Deterministic numbers within ±`size`.
fn numbers(shape: &[usize], seed: f64, size: f64) -> Tensor {
    Array::from_fn(shape, |k| ((k as f64 + 1.0) * (seed + 0.37)).sin() * size)
}

fn weights(options: &Rnn, columns: usize, seed: f64) -> RnnWeights<Tensor> {
    let (cell, width) = (options.cell, width(options));
    let rows = cell.gates() * HIDDEN;
    let norm = |seed: f64, given: bool, width: usize| {
        let near_one = |k: usize| if k < width { 1.0 } else { 0.0 };
        let spread = numbers(&[2, width], seed, 0.4);
        given.then(|| Array::from_fn(&[2, width], |k| near_one(k) + spread.data()[k]))
    };
    let products = options.layer_norm.is_some_and(|norm| norm.over == NormOver::Products);
    RnnWeights {
        bias_ih: Some(numbers(&[rows], seed + 0.2, 0.5)),
        bias_hh: Some(numbers(&[rows], seed + 0.3, 0.5)),
        peephole: (cell == Cell::Lstm).then(|| numbers(&[3, HIDDEN], seed + 0.4, 0.9)),
        weight_hr: (width != HIDDEN).then(|| numbers(&[width, HIDDEN], seed + 0.5, 0.9)),
        norm_ih: norm(seed + 0.6, products, rows),
        norm_hh: norm(seed + 0.7, options.layer_norm.is_some(), rows),
        norm_c: norm(seed + 0.8, options.layer_norm.is_some(), HIDDEN),
        ..RnnWeights::new(numbers(&[rows, columns], seed, 0.9), numbers(&[rows, width], seed + 0.1, 0.9))
    }
}

fn inputs(options: &Rnn, steps: usize, batch: usize, states: usize) -> RnnInputs<Tensor> {
    RnnInputs {
        input: numbers(&[steps, batch, 3], 1.0, 1.5),
        initial_h: Some(numbers(&[states, batch, width(options)], 2.0, 1.0)),
        initial_c: (options.cell == Cell::Lstm).then(|| numbers(&[states, batch, HIDDEN], 3.0, 1.0)),
        lengths: None,
    }
}

fn run(options: &Rnn, stack: &Stack, inputs: &RnnInputs<Tensor>) -> RnnOutputs<Tensor> {
    rnn(options, stack, inputs).unwrap()
}

fn same(what: &str, got: &Tensor, want: &Tensor) {
    close(what, got, want, 1e-12, 1e-13).and_then(|verdict| verdict.check(what)).unwrap();
}

/// One axis cut to `length` entries from `start` on.
fn cut(array: &Tensor, axis: usize, start: usize, length: usize) -> Tensor {
    array.gather(&Layout::contiguous(array.shape()).narrow(axis, start, length).unwrap()).unwrap()
}

/// The first `length` steps in reverse order, the rest as it is.
fn flip(array: &Tensor, length: usize) -> Tensor {
    let row = array.data().len() / array.shape()[0];
    let step = |t: usize| if t < length { length - 1 - t } else { t };
    Array::from_fn(array.shape(), |k| array.data()[step(k / row) * row + k % row])
}

#[test]
fn reverse_equals_flipping() {
    for options in kinds() {
        let stack = vec![vec![weights(&options, 3, 4.0)]];
        let forward = inputs(&options, 6, 2, 1);
        let got = run(&Rnn { direction: Direction::Reverse, ..options.clone() }, &stack, &forward);
        let want = run(&options, &stack, &RnnInputs { input: flip(&forward.input, 6), ..forward });
        same("output", &got.output, &flip(&want.output, 6));
        same("final_h", &got.final_h, &want.final_h);
    }
}

#[test]
fn both_directions_equal_two_runs() {
    for mut options in kinds() {
        let layer = vec![weights(&options, 3, 4.0), weights(&options, 3, 5.0)];
        let mut two = inputs(&options, 6, 3, 2);
        two.lengths = Some(Array::new(&[3], vec![6, 0, 4]).unwrap());
        let second = Activations {
            gates: [
                Activation::HardSigmoid { alpha: 0.3, beta: 0.4 },
                Activation::Sigmoid,
                Activation::Softsign,
                Activation::Tanh,
            ],
            output: Activation::Elu { alpha: 0.8 },
        };
        let runs = [(Direction::Forward, options.activations), (Direction::Reverse, second)].map(
            |(direction, activations)| {
                let d = usize::from(direction == Direction::Reverse);
                let mut one = two.clone();
                one.initial_h = two.initial_h.as_ref().map(|h| cut(h, 0, d, 1));
                one.initial_c = two.initial_c.as_ref().map(|c| cut(c, 0, d, 1));
                run(&Rnn { direction, activations, ..options.clone() }, &vec![vec![layer[d].clone()]], &one)
            },
        );
        options = Rnn { reverse_activations: Some(second), ..options.bidirectional() };
        let (stack, width) = (vec![layer], width(&options));
        let got = run(&options, &stack, &two);
        for (d, one) in runs.iter().enumerate() {
            same("output", &cut(&got.output, 2, d * width, width), &one.output);
            same("final_h", &cut(&got.final_h, 0, d, 1), &one.final_h);
            if let (Some(got), Some(one)) = (&got.final_c, &one.final_c) {
                same("final_c", &cut(got, 0, d, 1), one);
            }
        }
        type Join = fn(f64, f64) -> f64;
        let merges: [(Merge, Join); 3] =
            [(Merge::Sum, |a, b| a + b), (Merge::Mul, |a, b| a * b), (Merge::Average, |a, b| 0.5 * (a + b))];
        for (merge, f) in merges {
            let merged = run(&Rnn { merge, ..options.clone() }, &stack, &two);
            let [a, b] = [&runs[0].output, &runs[1].output];
            same("merged", &merged.output, &Array::from_fn(a.shape(), |k| f(a.data()[k], b.data()[k])));
        }
    }
}

#[test]
fn chunk_after_chunk_equals_one_call() {
    for options in kinds() {
        let stack = vec![vec![weights(&options, 3, 4.0)], vec![weights(&options, width(&options), 5.0)]];
        let whole = inputs(&options, 9, 2, 2);
        let want = run(&options, &stack, &whole);
        let first = run(&options, &stack, &RnnInputs { input: cut(&whole.input, 0, 0, 4), ..whole.clone() });
        same("output", &first.output, &cut(&want.output, 0, 0, 4));
        let second = run(&options, &stack, &RnnInputs::after(cut(&whole.input, 0, 4, 1), first));
        same("output", &second.output, &cut(&want.output, 0, 4, 1));
        let third = run(&options, &stack, &RnnInputs::after(cut(&whole.input, 0, 5, 4), second));
        same("output", &third.output, &cut(&want.output, 0, 5, 4));
        same("final_h", &third.final_h, &want.final_h);
        assert_eq!(third.final_c.is_some(), options.cell == Cell::Lstm);
        if let (Some(got), Some(want)) = (&third.final_c, &want.final_c) {
            same("final_c", got, want);
        }
    }
}

#[test]
fn a_stack_equals_its_layers_one_after_the_other() {
    for options in kinds() {
        let options = options.bidirectional();
        let layers = [(3, 4.0), (2 * width(&options), 6.0)]
            .map(|(columns, seed)| vec![weights(&options, columns, seed), weights(&options, columns, seed + 1.0)]);
        let stacked = inputs(&options, 5, 2, 4);
        let want = run(&options, &layers.to_vec(), &stacked);
        let mut input = stacked.input.clone();
        for (l, layer) in layers.iter().enumerate() {
            let state = |a: &Option<Tensor>| a.as_ref().map(|a| cut(a, 0, 2 * l, 2));
            let one = RnnInputs {
                input,
                initial_h: state(&stacked.initial_h),
                initial_c: state(&stacked.initial_c),
                lengths: None,
            };
            let got = run(&options, &vec![layer.clone()], &one);
            same("final_h", &got.final_h, &cut(&want.final_h, 0, 2 * l, 2));
            input = got.output;
        }
        same("output", &input, &want.output);
    }
}

#[test]
fn a_padded_batch_equals_each_row_alone() {
    let lengths = [6, 2, 0, 5];
    for kind in kinds() {
        for direction in [Direction::Forward, Direction::Reverse] {
            let (options, width) = (Rnn { direction, ..kind.clone() }, width(&kind));
            let stack = vec![vec![weights(&options, 3, 4.0)], vec![weights(&options, width, 5.0)]];
            let mut padded = inputs(&options, 6, 4, 2);
            padded.lengths = Some(Array::new(&[4], lengths.map(|n| n as u32).to_vec()).unwrap());
            for (k, x) in padded.input.data_mut().iter_mut().enumerate() {
                if k / 12 >= lengths[k / 3 % 4] {
                    *x = f64::NAN;
                }
            }
            let got = run(&options, &stack, &padded);
            for (b, &length) in lengths.iter().enumerate() {
                let row = cut(&got.output, 1, b, 1);
                assert!(row.data()[length * width..].iter().all(|x| *x == 0.0));
                let state = |a: &Option<Tensor>| a.as_ref().map(|a| cut(a, 1, b, 1));
                if length == 0 {
                    assert_eq!(Some(cut(&got.final_h, 1, b, 1)), state(&padded.initial_h));
                    continue;
                }
                let alone = RnnInputs {
                    input: cut(&cut(&padded.input, 1, b, 1), 0, 0, length),
                    initial_h: state(&padded.initial_h),
                    initial_c: state(&padded.initial_c),
                    lengths: None,
                };
                let want = run(&options, &stack, &alone);
                same("output", &cut(&row, 0, 0, length), &want.output);
                same("final_h", &cut(&got.final_h, 1, b, 1), &want.final_h);
            }
        }
    }
}

/// The last step that each direction reads: the end of the row, or its beginning; the initial state of an empty row.
#[test]
fn the_last_step_is_the_last_of_all() {
    let lengths = [6, 2, 0, 5];
    for kind in kinds() {
        let width = width(&kind);
        for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
            let options = Rnn { direction, ..kind.clone() };
            let directions = direction.count();
            let layer = |columns: usize, seed: f64| {
                (0..directions).map(|d| weights(&options, columns, seed + d as f64)).collect::<Vec<_>>()
            };
            let stack = vec![layer(3, 4.0), layer(directions * width, 6.0)];
            let mut inputs = inputs(&options, 6, 4, 2 * directions);
            inputs.lengths = Some(Array::new(&[4], lengths.map(|n| n as u32).to_vec()).unwrap());
            let all = run(&options, &stack, &inputs);
            let initial = inputs.initial_h.as_ref().unwrap();
            let want = Array::from_fn(&[4, directions * width], |k| {
                let (b, d, unit) = (k / (directions * width), k / width % directions, k % width);
                let backwards = direction == Direction::Reverse || d == 1;
                match lengths[b] {
                    0 => initial.data()[((directions + d) * 4 + b) * width + unit],
                    n => {
                        let t = if backwards { 0 } else { n - 1 };
                        all.output.data()[((t * 4 + b) * directions + d) * width + unit]
                    }
                }
            });
            let last = run(&Rnn { steps: Steps::Last, ..options.clone() }, &stack, &inputs);
            same("output", &last.output, &want);
            same("final_h", &last.final_h, &all.final_h);
        }
    }
}

#[test]
fn the_last_step_is_merged_as_all_are() {
    let options = Rnn { steps: Steps::Last, ..Rnn::new(Cell::Rnn).bidirectional() };
    let stack = vec![vec![weights(&options, 3, 4.0), weights(&options, 3, 5.0)]];
    let inputs = inputs(&options, 6, 2, 2);
    let halves = run(&options, &stack, &inputs).output;
    type Join = fn(f64, f64) -> f64;
    let merges: [(Merge, Join); 3] =
        [(Merge::Sum, |a, b| a + b), (Merge::Mul, |a, b| a * b), (Merge::Average, |a, b| 0.5 * (a + b))];
    for (merge, f) in merges {
        let [a, b] = [0, HIDDEN].map(|start| cut(&halves, 1, start, HIDDEN));
        let want = Array::from_fn(a.shape(), |k| f(a.data()[k], b.data()[k]));
        same("merged", &run(&Rnn { merge, ..options.clone() }, &stack, &inputs).output, &want);
    }
}

#[test]
fn a_projection_by_the_identity_changes_nothing() {
    let options = Rnn::new(Cell::Lstm);
    let mut stack = vec![vec![weights(&options, 3, 4.0)], vec![weights(&options, HIDDEN, 5.0)]];
    let inputs = inputs(&options, 6, 2, 2);
    let want = run(&options, &stack, &inputs);
    for weights in stack.iter_mut().flatten() {
        let identity = |k: usize| if k / HIDDEN == k % HIDDEN { 1.0 } else { 0.0 };
        weights.weight_hr = Some(Array::from_fn(&[HIDDEN, HIDDEN], identity));
    }
    assert_eq!(run(&options, &stack, &inputs), want);
}

/// LN(a·v) = LN(v) for a > 0, but for ε.
#[test]
fn layer_normalisation_does_not_see_the_size_of_the_weights() {
    for over in [NormOver::Products, NormOver::Gates] {
        let norm = LayerNorm { over, carry: true, epsilon: 1e-12 };
        let options = Rnn { layer_norm: Some(norm), ..Rnn::new(Cell::Lstm) };
        let mut weights = weights(&options, 3, 4.0);
        let inputs = inputs(&options, 6, 2, 1);
        let want = run(&options, &vec![vec![weights.clone()]], &inputs);
        let factors = if over == NormOver::Products { [7.0, 0.3] } else { [7.0, 7.0] };
        for (matrix, factor) in [&mut weights.weight_ih, &mut weights.weight_hh].into_iter().zip(factors) {
            *matrix = matrix.map(|w| factor * w);
        }
        let got = run(&options, &vec![vec![weights]], &inputs);
        close("output", &got.output, &want.output, 1e-9, 1e-9).and_then(|verdict| verdict.check("output")).unwrap();
    }
}

#[test]
fn bad_lengths_are_errors() {
    let options = Rnn::new(Cell::Rnn);
    let stack = vec![vec![weights(&options, 3, 4.0)]];
    let mut bad = inputs(&options, 4, 2, 1);
    bad.lengths = Some(Array::new(&[2], vec![4, 5]).unwrap());
    let error = rnn(&options, &stack, &bad).unwrap_err();
    assert_eq!(error.to_string(), "`lengths` row 1: expected a whole number from 0 to 4, found 5");
}
