//! What must hold of the recurrent reference whatever the numbers, and each cell against its formula.

use regard::compare::close;
use regard::reference::{activate, rnn};
use regard::rnn::{
    Activation, Activations, Cell, Direction, Merge, Reset, Rnn, RnnInputs, RnnOutputs, RnnStack, RnnWeights,
};
use regard::tensor::{Array, Layout};

type Tensor = Array<f64>;
type Stack = RnnStack<Tensor>;

const CELLS: [Cell; 4] = [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn];
const HIDDEN: usize = 4;

/// Deterministic numbers within ±`size`.
fn numbers(shape: &[usize], seed: f64, size: f64) -> Tensor {
    Array::from_fn(shape, |k| ((k as f64 + 1.0) * (seed + 0.37)).sin() * size)
}

fn weights(cell: Cell, columns: usize, seed: f64) -> RnnWeights<Tensor> {
    let rows = cell.gates() * HIDDEN;
    RnnWeights {
        bias_ih: Some(numbers(&[rows], seed + 0.2, 0.5)),
        bias_hh: Some(numbers(&[rows], seed + 0.3, 0.5)),
        peephole: (cell == Cell::Lstm).then(|| numbers(&[3, HIDDEN], seed + 0.4, 0.9)),
        ..RnnWeights::new(numbers(&[rows, columns], seed, 0.9), numbers(&[rows, HIDDEN], seed + 0.1, 0.9))
    }
}

fn inputs(cell: Cell, steps: usize, batch: usize, states: usize) -> RnnInputs<Tensor> {
    RnnInputs {
        input: numbers(&[steps, batch, 3], 1.0, 1.5),
        initial_h: Some(numbers(&[states, batch, HIDDEN], 2.0, 1.0)),
        initial_c: (cell == Cell::Lstm).then(|| numbers(&[states, batch, HIDDEN], 3.0, 1.0)),
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
    for cell in CELLS {
        let stack = vec![vec![weights(cell, 3, 4.0)]];
        let forward = inputs(cell, 6, 2, 1);
        let options = Rnn { direction: Direction::Reverse, ..Rnn::new(cell) };
        let got = run(&options, &stack, &forward);
        let want = run(&Rnn::new(cell), &stack, &RnnInputs { input: flip(&forward.input, 6), ..forward });
        same("output", &got.output, &flip(&want.output, 6));
        same("final_h", &got.final_h, &want.final_h);
    }
}

#[test]
fn both_directions_equal_two_runs() {
    for cell in CELLS {
        let layer = vec![weights(cell, 3, 4.0), weights(cell, 3, 5.0)];
        let mut both = inputs(cell, 6, 3, 2);
        both.lengths = Some(Array::new(&[3], vec![6.0, 0.0, 4.0]).unwrap());
        let runs = [Direction::Forward, Direction::Reverse].map(|direction| {
            let d = usize::from(direction == Direction::Reverse);
            let mut one = both.clone();
            one.initial_h = both.initial_h.as_ref().map(|h| cut(h, 0, d, 1));
            one.initial_c = both.initial_c.as_ref().map(|c| cut(c, 0, d, 1));
            run(&Rnn { direction, ..Rnn::new(cell) }, &vec![vec![layer[d].clone()]], &one)
        });
        let stack = vec![layer];
        let got = run(&Rnn::new(cell).bidirectional(), &stack, &both);
        for (d, one) in runs.iter().enumerate() {
            same("output", &cut(&got.output, 2, d * HIDDEN, HIDDEN), &one.output);
            same("final_h", &cut(&got.final_h, 0, d, 1), &one.final_h);
            if let (Some(got), Some(one)) = (&got.final_c, &one.final_c) {
                same("final_c", &cut(got, 0, d, 1), one);
            }
        }
        type Join = fn(f64, f64) -> f64;
        let merges: [(Merge, Join); 3] =
            [(Merge::Sum, |a, b| a + b), (Merge::Mul, |a, b| a * b), (Merge::Average, |a, b| 0.5 * (a + b))];
        for (merge, f) in merges {
            let merged = run(&Rnn { merge, ..Rnn::new(cell).bidirectional() }, &stack, &both);
            let [a, b] = [&runs[0].output, &runs[1].output];
            same("merged", &merged.output, &Array::from_fn(a.shape(), |k| f(a.data()[k], b.data()[k])));
        }
    }
}

#[test]
fn two_chunks_equal_one_call() {
    for cell in CELLS {
        let stack = vec![vec![weights(cell, 3, 4.0)], vec![weights(cell, HIDDEN, 5.0)]];
        let whole = inputs(cell, 9, 2, 2);
        let want = run(&Rnn::new(cell), &stack, &whole);
        let first = run(&Rnn::new(cell), &stack, &RnnInputs { input: cut(&whole.input, 0, 0, 4), ..whole.clone() });
        let rest = RnnInputs {
            input: cut(&whole.input, 0, 4, 5),
            initial_h: Some(first.final_h),
            initial_c: first.final_c,
            lengths: None,
        };
        let second = run(&Rnn::new(cell), &stack, &rest);
        same("output", &first.output, &cut(&want.output, 0, 0, 4));
        same("output", &second.output, &cut(&want.output, 0, 4, 5));
        same("final_h", &second.final_h, &want.final_h);
    }
}

#[test]
fn a_stack_equals_its_layers_one_after_the_other() {
    for cell in CELLS {
        let options = Rnn::new(cell).bidirectional();
        let layers = [(3, 4.0), (2 * HIDDEN, 6.0)]
            .map(|(columns, seed)| vec![weights(cell, columns, seed), weights(cell, columns, seed + 1.0)]);
        let stacked = inputs(cell, 5, 2, 4);
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
    for cell in CELLS {
        for direction in [Direction::Forward, Direction::Reverse] {
            let options = Rnn { direction, ..Rnn::new(cell) };
            let stack = vec![vec![weights(cell, 3, 4.0)], vec![weights(cell, HIDDEN, 5.0)]];
            let mut padded = inputs(cell, 6, 4, 2);
            padded.lengths = Some(Array::new(&[4], lengths.map(|n| n as f64).to_vec()).unwrap());
            for (k, x) in padded.input.data_mut().iter_mut().enumerate() {
                if k / 12 >= lengths[k / 3 % 4] {
                    *x = f64::NAN;
                }
            }
            let got = run(&options, &stack, &padded);
            for (b, &length) in lengths.iter().enumerate() {
                let row = cut(&got.output, 1, b, 1);
                assert!(row.data()[length * HIDDEN..].iter().all(|x| *x == 0.0));
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

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One unit, one step: weights and input of one number each, so that every formula is a line.
fn one_unit(options: &Rnn, w: &[f64], u: &[f64], peephole: Option<[f64; 3]>, [x, h, c]: [f64; 3]) -> [f64; 2] {
    let column = |x: &[f64]| Array::new(&[x.len(), 1], x.to_vec()).unwrap();
    let bias = |offset: f64| Some(Array::from_fn(&[w.len()], |k| offset + 0.1 * k as f64));
    let cell = RnnWeights {
        bias_ih: bias(0.2),
        bias_hh: bias(-0.3),
        peephole: peephole.map(|p| column(&p)),
        ..RnnWeights::new(column(w), column(u))
    };
    let one = |x: f64| Array::new(&[1, 1, 1], vec![x]).unwrap();
    let mut inputs = RnnInputs::new(one(x));
    inputs.initial_h = Some(one(h));
    inputs.initial_c = (options.cell == Cell::Lstm).then(|| one(c));
    let got = run(options, &vec![vec![cell]], &inputs);
    assert_eq!(got.output.data(), got.final_h.data());
    [got.final_h.data()[0], got.final_c.map_or(0.0, |c| c.data()[0])]
}

#[test]
fn an_lstm_with_everything_follows_its_formulas() {
    let (w, u, p) = ([0.5, -0.7, 1.1, 0.9], [0.3, 0.8, -0.6, 0.4], [0.6, -0.9, 0.7]);
    let (x, h, c) = (1.3, -0.4, 0.8);
    let bias = |k: usize| 0.2 + 0.1 * k as f64 - 0.3 + 0.1 * k as f64;
    let pre = |k: usize| w[k] * x + u[k] * h + bias(k);
    for clip in [None, Some(0.25f32)] {
        let limit = |x: f64| clip.map_or(x, |clip| x.clamp(-f64::from(clip), f64::from(clip)));
        for input_forget in [false, true] {
            for hard in [false, true] {
                let mut options = Rnn { clip, input_forget, forget_bias: 0.75, ..Rnn::new(Cell::Lstm) };
                if hard {
                    options.activations = Activations::onnx(
                        Cell::Lstm,
                        [
                            Activation::HardSigmoid { alpha: 0.25, beta: 0.5 },
                            Activation::Softsign,
                            Activation::Affine { alpha: 2.0, beta: 0.5 },
                        ],
                    );
                }
                let f = |x: f64| if hard { (0.25 * x + 0.5).clamp(0.0, 1.0) } else { sigmoid(x) };
                let g = |x: f64| if hard { x / (1.0 + x.abs()) } else { x.tanh() };
                let out = |x: f64| if hard { 2.0 * x + 0.5 } else { x.tanh() };
                let i = f(limit(pre(0) + p[0] * c));
                let forget = if input_forget { 1.0 - i } else { f(limit(pre(1) + p[1] * c + 0.75)) };
                let cell = forget * c + i * g(limit(pre(2)));
                let o = f(limit(pre(3) + p[2] * cell));
                let got = one_unit(&options, &w, &u, Some(p), [x, h, c]);
                assert!((got[0] - o * out(cell)).abs() < 1e-12 && (got[1] - cell).abs() < 1e-12, "{options:?}");
            }
        }
    }
}

#[test]
fn grus_and_elman_cells_follow_their_formulas() {
    let (w, u, x, h) = ([0.5, -0.7, 1.1], [0.3, 0.8, -0.6], 1.3, -0.4);
    let (wb, ub) = (|k: usize| 0.2 + 0.1 * k as f64, |k: usize| -0.3 + 0.1 * k as f64);
    for clip in [None, Some(0.25f32)] {
        let limit = |x: f64| clip.map_or(x, |clip| x.clamp(-f64::from(clip), f64::from(clip)));
        let gate = |k: usize| sigmoid(limit(w[k] * x + wb(k) + u[k] * h + ub(k)));
        let (r, z) = (gate(0), gate(1));
        for reset in [Reset::After, Reset::Before] {
            let recurrent = match reset {
                Reset::After => r * (u[2] * h + ub(2)),
                Reset::Before => u[2] * (r * h) + ub(2),
            };
            let n = limit(w[2] * x + wb(2) + recurrent).tanh();
            let options = Rnn { clip, ..Rnn::new(Cell::Gru { reset }) };
            let got = one_unit(&options, &w, &u, None, [x, h, 0.0]);
            assert!((got[0] - ((1.0 - z) * n + z * h)).abs() < 1e-12, "{options:?}");
        }
        let options = Rnn { clip, ..Rnn::new(Cell::Rnn) };
        let got = one_unit(&options, &w[..1], &u[..1], None, [x, h, 0.0]);
        assert!((got[0] - limit(w[0] * x + wb(0) + u[0] * h + ub(0)).tanh()).abs() < 1e-12);
    }
}

#[test]
fn activations_follow_their_formulas() {
    type Formula = fn(f64) -> f64;
    let all: [(Activation, Formula); 11] = [
        (Activation::Sigmoid, sigmoid),
        (Activation::Tanh, f64::tanh),
        (Activation::Relu, |x| x.max(0.0)),
        (Activation::Affine { alpha: 0.5, beta: 2.0 }, |x| 0.5 * x + 2.0),
        (Activation::LeakyRelu { alpha: 0.25 }, |x| if x >= 0.0 { x } else { 0.25 * x }),
        (Activation::ThresholdedRelu { alpha: 0.5 }, |x| if x >= 0.5 { x } else { 0.0 }),
        (Activation::ScaledTanh { alpha: 2.0, beta: 0.5 }, |x| 2.0 * (0.5 * x).tanh()),
        (Activation::HardSigmoid { alpha: 0.25, beta: 0.5 }, |x| (0.25 * x + 0.5).clamp(0.0, 1.0)),
        (Activation::Elu { alpha: 0.5 }, |x| if x >= 0.0 { x } else { 0.5 * (x.exp() - 1.0) }),
        (Activation::Softsign, |x| x / (1.0 + x.abs())),
        (Activation::Softplus, |x| x.exp().ln_1p()),
    ];
    for (activation, formula) in all {
        for x in [-30.0, -1.5, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0, 30.0] {
            let (got, want) = (activate(activation, x), formula(x));
            assert!((got - want).abs() <= 1e-12 * want.abs().max(1e-3), "{activation:?} of {x}: {got} for {want}");
        }
        assert!(activate(activation, f64::NAN).is_nan(), "{activation:?}");
        for x in [-1e4f32, 1e4] {
            assert!(activate(activation, x).is_finite(), "{activation:?} of {x}");
        }
    }
}

#[test]
fn bad_lengths_are_errors() {
    let stack = vec![vec![weights(Cell::Rnn, 3, 4.0)]];
    let mut bad = inputs(Cell::Rnn, 4, 2, 1);
    bad.lengths = Some(Array::new(&[2], vec![4.0, 5.0]).unwrap());
    let error = rnn(&Rnn::new(Cell::Rnn), &stack, &bad).unwrap_err();
    assert_eq!(error.to_string(), "`lengths` row 1: expected a whole number from 0 to 4, found 5");
}
