//! Recurrent cases: every cell by sizes, sequences and numbers; every activation; what only an LSTM has.

mod lstm;

use super::{POISON, Random};
use crate::rnn::{Activation, Activations, Cell, Direction, Merge, Reset, Rnn, RnnInputs, RnnStack, RnnWeights, Steps};
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
    /// Has numbers that f16 does not hold.
    pub f32_only: bool,
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
        let mut case = RnnCase { name, options, stack, inputs, f32_only: false };
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
    activations(&mut table);
    activations_by_gate(&mut table);
    lstm::add(&mut table);
    table.0
}

fn nothing(_: &mut Rnn) {}

fn reverse(options: &mut Rnn) {
    options.direction = Direction::Reverse;
}

fn both(options: &mut Rnn) {
    options.direction = Direction::Bidirectional;
}

/// Units and rows: both one below, at and one above 8, 32 and 64, each with few and with many of the other.
const UNITS_AND_ROWS: [[usize; 2]; 20] = [
    [1, 1],
    [7, 2],
    [8, 3],
    [9, 4],
    [31, 5],
    [32, 7],
    [33, 8],
    [63, 9],
    [64, 16],
    [65, 17],
    [100, 2],
    [128, 2],
    [129, 3],
    [1, 17],
    [8, 8],
    [9, 16],
    [33, 1],
    [64, 1],
    [65, 4],
    [128, 1],
];

fn sizes(table: &mut Table, name: &str, cell: Cell) {
    for [hidden, batch] in UNITS_AND_ROWS {
        let size = [3, batch, 10, hidden];
        table.add(format!("{name}, {hidden} units, batch {batch}"), cell, size, 1, nothing, |_, _| {});
    }
    for (steps, batch, width) in [(1, 1, 1), (1, 5, 65), (2, 3, 64), (9, 1, 33), (5, 5, 1)] {
        let size = [steps, batch, width, 8];
        table.add(format!("{name}, {steps} steps, batch {batch}, input {width}"), cell, size, 1, nothing, |_, _| {});
    }
    table.add(format!("{name}, 80 steps"), cell, [80, 2, 6, 16], 1, nothing, |_, _| {});
    table.add(format!("{name}, batch 33"), cell, [3, 33, 6, 17], 1, nothing, |_, _| {});
}

fn sequences(table: &mut Table, name: &str, cell: Cell) {
    let five = [7, 5, 4, 9];
    table.add(format!("{name}, initial state"), cell, USUAL, 1, nothing, state);
    table.add(format!("{name}, reverse"), cell, USUAL, 1, reverse, state);
    table.add(format!("{name}, both directions"), cell, USUAL, 1, both, state);
    table.add(format!("{name}, lengths"), cell, five, 1, nothing, lengths);
    table.add(format!("{name}, lengths, reverse"), cell, five, 1, reverse, lengths);
    table.add(format!("{name}, lengths, both directions"), cell, five, 1, both, lengths);
    table.add(format!("{name}, 2 layers"), cell, USUAL, 2, nothing, state);
    table.add(format!("{name}, 3 layers"), cell, [4, 3, 5, 65], 3, nothing, |_, _| {});
    table.add(format!("{name}, 3 layers, 1 step"), cell, [1, 3, 5, 9], 3, nothing, state);
    table.add(format!("{name}, 3 layers, lengths, reverse"), cell, five, 3, reverse, lengths);
    table.add(format!("{name}, 4 layers, 2 steps"), cell, [2, 4, 10, 33], 4, nothing, state);
    table.add(format!("{name}, 4 layers, lengths"), cell, five, 4, nothing, lengths);
    table.add(format!("{name}, 2 layers, lengths, both directions"), cell, five, 2, both, lengths);
    for merge in [Merge::Sum, Merge::Mul, Merge::Average] {
        let configure = |options: &mut Rnn| {
            both(options);
            options.merge = merge;
        };
        table.add(format!("{name}, 2 layers, merged by {merge:?}"), cell, five, 2, configure, lengths);
        let last = |options: &mut Rnn| {
            configure(options);
            options.steps = Steps::Last;
        };
        table.add(format!("{name}, last step, lengths, merged by {merge:?}"), cell, five, 1, last, lengths);
    }
    let ways =
        [("", Direction::Forward), (", reverse", Direction::Reverse), (", both directions", Direction::Bidirectional)];
    for (way, direction) in ways {
        let last = |options: &mut Rnn| (options.direction, options.steps) = (direction, Steps::Last);
        table.add(format!("{name}, last step, 2 layers, lengths{way}"), cell, five, 2, last, lengths);
    }
    table.add(
        format!("{name}, last step of 1"),
        cell,
        [1, 2, 5, 33],
        1,
        |options| options.steps = Steps::Last,
        |_, _| {},
    );
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
    // Each gate by itself fully open in some units and shut in others, by the bias alone.
    for gate in 0..cell.gates() {
        table.add(format!("{name}, gate {gate} saturated"), cell, USUAL, 1, nothing, |case, random| {
            state(case, random);
            let bias = case.stack[0][0].bias_hh.as_mut();
            bias.into_iter()
                .flat_map(|bias| bias.data_mut()[gate * 9..][..9].iter_mut())
                .enumerate()
                .for_each(|(k, b)| *b = if k % 2 == 0 { 1e4 } else { -1e4 });
        });
    }
}

/// [layers · directions, B, P], and a cell state [layers · directions, B, H] for an LSTM.
fn state(case: &mut RnnCase, random: &mut Random) {
    let recurrent = case.stack[0][0].weight_hh.shape();
    let (hidden, width) = (recurrent[0] / case.options.cell.gates(), recurrent[1]);
    let [states, batch] = [case.stack.len() * case.stack[0].len(), case.inputs.input.shape()[1]];
    case.inputs.initial_h = Some(random.array(&[states, batch, width]));
    case.inputs.initial_c = (case.options.cell == Cell::Lstm).then(|| random.array(&[states, batch, hidden]));
}

/// Lengths for 7 steps of 5 rows, an initial state, and poison past the end.
fn lengths(case: &mut RnnCase, random: &mut Random) {
    let lengths = [3, 7, 0, 1, 6];
    state(case, random);
    case.inputs.lengths = Some(Array::from_fn(&[5], |b| lengths[b] as u32));
    let width = case.inputs.input.shape()[2];
    for (row, data) in case.inputs.input.data_mut().chunks_exact_mut(width).enumerate() {
        if row / 5 >= lengths[row % 5] {
            data.iter_mut().enumerate().for_each(|(k, x)| *x = POISON[(row + k) % POISON.len()]);
        }
    }
}

/// Other activations for every gate, and others again for the second direction.
fn activations_by_gate(table: &mut Table) {
    let hard = Activation::HardSigmoid { alpha: 0.3, beta: 0.4 };
    let (scaled, soft) = (Activation::ScaledTanh { alpha: 1.5, beta: 0.7 }, Activation::Softsign);
    let first =
        Activations { gates: [hard, Activation::Sigmoid, scaled, soft], output: Activation::Elu { alpha: 0.8 } };
    let second = Activations {
        gates: [Activation::Sigmoid, hard, soft, Activation::Tanh],
        output: Activation::LeakyRelu { alpha: 0.1 },
    };
    for (name, cell) in CELLS {
        let by_gate = |options: &mut Rnn| options.activations = first;
        table.add(format!("{name}, activations by gate"), cell, USUAL, 2, by_gate, state);
        let by_direction = |options: &mut Rnn| {
            both(options);
            (options.activations, options.reverse_activations) = (second, Some(first));
        };
        let name = format!("{name}, lengths, activations by direction");
        table.add(name, cell, [7, 5, 4, 9], 1, by_direction, lengths);
    }
    let reversed = |options: &mut Rnn| {
        both(options);
        options.reverse_activations = Some(Activations::all(Activation::Relu));
    };
    table.add("RNN, relu in the second direction, 2 layers", Cell::Rnn, [4, 3, 5, 33], 2, reversed, state);
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
