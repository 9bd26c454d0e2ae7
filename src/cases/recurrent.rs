//! Recurrent cases: every cell by sizes, sequences and numbers; what only an LSTM has; every activation.

use super::{POISON, Random};
use crate::rnn::{Activation, Activations, Cell, Direction, Merge, Reset, Rnn, RnnInputs, RnnStack, RnnWeights};
use crate::tensor::Array;

/// One call of a recurrent encoder.
#[derive(Debug, Clone)]
pub struct RnnCase {
    /// Unique in the table.
    pub name: String,
    /// What is asked for.
    pub options: Rnn,
    /// Host weights.
    pub stack: RnnStack<Array<f32>>,
    /// Host tensors.
    pub inputs: RnnInputs<Array<f32>>,
}

const CELLS: [(&str, Cell); 4] = [
    ("LSTM", Cell::Lstm),
    ("GRU", Cell::Gru { reset: Reset::After }),
    ("GRU, reset before", Cell::Gru { reset: Reset::Before }),
    ("RNN", Cell::Rnn),
];

/// T, B, I, H; the usual ones differ on every axis.
type Size = [usize; 4];
const USUAL: Size = [6, 3, 5, 9];

#[derive(Default)]
struct Table(Vec<RnnCase>);

impl Table {
    /// `layers` layers with uniform weights of 1/√H (PyTorch's rule), after `configure` has set the options; `edit`
    /// changes the tensors.
    fn add(
        &mut self,
        name: impl Into<String>,
        cell: Cell,
        [steps, batch, width, hidden]: Size,
        layers: usize,
        configure: impl FnOnce(&mut Rnn),
        edit: impl FnOnce(&mut RnnCase, &mut Random),
    ) {
        let name = name.into();
        let mut random = Random::new(&name);
        let mut options = Rnn::new(cell);
        configure(&mut options);
        let rows = cell.gates() * hidden;
        let bound = 1.0 / (hidden as f32).sqrt();
        let mut weights = |columns: usize| {
            let mut draw = |shape: &[usize]| Array::from_fn(shape, |_| random.uniform(bound));
            RnnWeights {
                bias_ih: Some(draw(&[rows])),
                bias_hh: Some(draw(&[rows])),
                ..RnnWeights::new(draw(&[rows, columns]), draw(&[rows, hidden]))
            }
        };
        let mut layer = |l: usize| {
            let columns = if l == 0 { width } else { options.output_width(hidden) };
            (0..options.direction.count()).map(|_| weights(columns)).collect()
        };
        let stack = (0..layers).map(&mut layer).collect();
        let inputs = RnnInputs::new(random.array(&[steps, batch, width]));
        let mut case = RnnCase { name, options, stack, inputs };
        edit(&mut case, &mut random);
        self.0.push(case);
    }
}

/// Every recurrent case.
pub fn recurrent() -> Vec<RnnCase> {
    let mut table = Table::default();
    for (name, cell) in CELLS {
        sizes(&mut table, name, cell);
        sequences(&mut table, name, cell);
        numbers(&mut table, name, cell);
    }
    lstm(&mut table);
    activations(&mut table);
    table.0
}

fn nothing(_: &mut Rnn) {}

fn sizes(table: &mut Table, name: &str, cell: Cell) {
    for hidden in [1, 7, 63, 64, 65, 100, 128] {
        table.add(format!("{name}, {hidden} units"), cell, [3, 2, 10, hidden], 1, nothing, |_, _| {});
    }
    for (steps, batch, width) in [(1, 1, 1), (1, 5, 65), (2, 3, 64), (9, 1, 33), (5, 5, 1)] {
        let size = [steps, batch, width, 8];
        table.add(format!("{name}, {steps} steps, batch {batch}, input {width}"), cell, size, 1, nothing, |_, _| {});
    }
    table.add(format!("{name}, 80 steps"), cell, [80, 2, 6, 16], 1, nothing, |_, _| {});
    table.add(format!("{name}, batch 33"), cell, [3, 33, 6, 17], 1, nothing, |_, _| {});
}

fn sequences(table: &mut Table, name: &str, cell: Cell) {
    let reverse = |options: &mut Rnn| options.direction = Direction::Reverse;
    let both = |options: &mut Rnn| options.direction = Direction::Bidirectional;
    let five = [7, 5, 4, 9];
    table.add(format!("{name}, initial state"), cell, USUAL, 1, nothing, state);
    table.add(format!("{name}, reverse"), cell, USUAL, 1, reverse, state);
    table.add(format!("{name}, both directions"), cell, USUAL, 1, both, state);
    table.add(format!("{name}, lengths"), cell, five, 1, nothing, lengths);
    table.add(format!("{name}, lengths, reverse"), cell, five, 1, reverse, lengths);
    table.add(format!("{name}, lengths, both directions"), cell, five, 1, both, lengths);
    table.add(format!("{name}, 2 layers"), cell, USUAL, 2, nothing, state);
    table.add(format!("{name}, 3 layers"), cell, [4, 3, 5, 65], 3, nothing, |_, _| {});
    table.add(format!("{name}, 2 layers, lengths, both directions"), cell, five, 2, both, lengths);
    for merge in [Merge::Sum, Merge::Mul, Merge::Average] {
        let configure = |options: &mut Rnn| {
            both(options);
            options.merge = merge;
        };
        table.add(format!("{name}, 2 layers, merged by {merge:?}"), cell, five, 2, configure, lengths);
    }
}

fn numbers(table: &mut Table, name: &str, cell: Cell) {
    table.add(format!("{name}, no bias"), cell, USUAL, 2, nothing, |case, _| {
        for weights in case.stack.iter_mut().flatten() {
            (weights.bias_ih, weights.bias_hh) = (None, None);
        }
    });
    table.add(format!("{name}, one bias"), cell, USUAL, 1, nothing, |case, _| {
        case.stack.iter_mut().flatten().for_each(|weights| weights.bias_ih = None);
    });
    table.add(format!("{name}, the other bias"), cell, USUAL, 1, nothing, |case, _| {
        case.stack.iter_mut().flatten().for_each(|weights| weights.bias_hh = None);
    });
    table.add(format!("{name}, clip"), cell, USUAL, 1, |options| options.clip = Some(0.3), state);
    // NaN stays in its batch row.
    table.add(format!("{name}, NaN in one row"), cell, USUAL, 1, nothing, |case, _| {
        case.inputs.input.data_mut()[7] = f32::NAN;
    });
    table.add(
        format!("{name}, NaN in one row, clip"),
        cell,
        USUAL,
        1,
        |options| options.clip = Some(3.0),
        |case, _| {
            case.inputs.input.data_mut()[7] = f32::NAN;
        },
    );
    // Pre-activations of thousands: exp and tanh must not overflow into NaN.
    table.add(format!("{name}, saturated"), cell, USUAL, 1, nothing, |case, random| {
        case.inputs.input = random.whole(&[6, 3, 5], 1).map(|x| x * 1e4);
    });
}

/// [layers · directions, B, H], and a cell state for an LSTM.
fn state(case: &mut RnnCase, random: &mut Random) {
    let first = &case.stack[0][0];
    let shape = [case.stack.len() * case.stack[0].len(), case.inputs.input.shape()[1], first.weight_hh.shape()[1]];
    case.inputs.initial_h = Some(random.array(&shape));
    case.inputs.initial_c = (case.options.cell == Cell::Lstm).then(|| random.array(&shape));
}

/// Lengths for 7 steps of 5 rows, an initial state, and poison past the end.
fn lengths(case: &mut RnnCase, random: &mut Random) {
    let lengths = [3, 7, 0, 1, 6];
    state(case, random);
    case.inputs.lengths = Some(Array::from_fn(&[5], |b| lengths[b] as f32));
    let width = case.inputs.input.shape()[2];
    for (row, data) in case.inputs.input.data_mut().chunks_exact_mut(width).enumerate() {
        if row / 5 >= lengths[row % 5] {
            data.iter_mut().enumerate().for_each(|(k, x)| *x = POISON[(row + k) % POISON.len()]);
        }
    }
}

/// What only an LSTM has.
fn lstm(table: &mut Table) {
    let peepholes = |case: &mut RnnCase, random: &mut Random| {
        state(case, random);
        for weights in case.stack.iter_mut().flatten() {
            weights.peephole = Some(random.array(&[3, 9]));
        }
    };
    table.add("LSTM, peepholes", Cell::Lstm, USUAL, 1, nothing, peepholes);
    let both = |options: &mut Rnn| options.direction = Direction::Bidirectional;
    table.add("LSTM, peepholes, both directions", Cell::Lstm, USUAL, 2, both, peepholes);
    table.add("LSTM, forget bias", Cell::Lstm, USUAL, 1, |options| options.forget_bias = 1.0, state);
    table.add("LSTM, coupled gates", Cell::Lstm, USUAL, 1, |options| options.input_forget = true, state);
    let all = |options: &mut Rnn| {
        *options = Rnn { input_forget: true, forget_bias: -0.5, clip: Some(0.4), ..Rnn::new(Cell::Lstm) };
        options.activations = Activations::onnx(
            Cell::Lstm,
            [Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }, Activation::Softsign, Activation::Tanh],
        );
    };
    table.add("LSTM, peepholes, coupled gates, clip, activations", Cell::Lstm, USUAL, 1, all, peepholes);
    let all = |options: &mut Rnn| {
        *options = Rnn { forget_bias: 1.0, clip: Some(0.4), direction: Direction::Reverse, ..Rnn::new(Cell::Lstm) };
        options.activations = Activations::onnx(
            Cell::Lstm,
            [Activation::Sigmoid, Activation::ScaledTanh { alpha: 1.7, beta: 0.6 }, Activation::Softplus],
        );
    };
    table.add("LSTM, peepholes, forget bias, clip, activations", Cell::Lstm, USUAL, 1, all, peepholes);
}

/// Each activation as an RNN's only one, saturated too where it is bounded.
fn activations(table: &mut Table) {
    let all = [
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Relu,
        Activation::Affine { alpha: 0.5, beta: -0.1 },
        Activation::LeakyRelu { alpha: 0.1 },
        Activation::ThresholdedRelu { alpha: 0.2 },
        Activation::ScaledTanh { alpha: 1.5, beta: 0.7 },
        Activation::HardSigmoid { alpha: 0.3, beta: 0.4 },
        Activation::Elu { alpha: 0.8 },
        Activation::Softsign,
        Activation::Softplus,
    ];
    for activation in all {
        let configure = |options: &mut Rnn| options.activations = Activations::all(activation);
        table.add(format!("RNN, {activation:?}"), Cell::Rnn, USUAL, 1, configure, state);
        table.add(
            format!("GRU, candidate {activation:?}"),
            Cell::Gru { reset: Reset::After },
            USUAL,
            1,
            |options| {
                options.activations.gates[2] = activation;
            },
            state,
        );
        let bounded = !matches!(
            activation,
            Activation::Relu
                | Activation::Affine { .. }
                | Activation::LeakyRelu { .. }
                | Activation::ThresholdedRelu { .. }
                | Activation::Elu { .. }
                | Activation::Softplus
        );
        if bounded {
            table.add(format!("RNN, {activation:?}, saturated"), Cell::Rnn, USUAL, 1, configure, |case, random| {
                case.inputs.input = random.whole(&[6, 3, 5], 1).map(|x| x * 1e4);
            });
        }
    }
}
