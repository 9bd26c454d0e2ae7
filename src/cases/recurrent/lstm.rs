//! What only an LSTM has: peepholes, forget bias, coupled gates, clips, projection, layer normalisation.

use super::{RnnCase, Size, Table, USUAL, both, lengths, nothing, reverse, state};
use crate::cases::Random;
use crate::rnn::{Activation, Activations, Cell, LayerNorm, NormOver, Rnn, Steps};
use crate::tensor::Array;

const FIVE: Size = [7, 5, 4, 9];

pub(super) fn add(table: &mut Table) {
    gates(table);
    projection(table);
    cell_clip(table);
    layer_norm(table);
}

impl Table {
    fn lstm(
        &mut self,
        name: impl AsRef<str>,
        size: Size,
        layers: usize,
        configure: impl FnOnce(&mut Rnn),
        edit: impl FnOnce(&mut RnnCase, &mut Random),
    ) {
        self.add(format!("LSTM, {}", name.as_ref()), Cell::Lstm, size, layers, configure, edit);
    }
}

/// H of a case.
fn hidden(case: &RnnCase) -> usize {
    case.stack[0][0].weight_ih.shape()[0] / 4
}

fn peepholes(case: &mut RnnCase, random: &mut Random) {
    let hidden = hidden(case);
    for weights in case.stack.iter_mut().flatten() {
        weights.peephole = Some(random.array(&[3, hidden]));
    }
}

fn no_bias(case: &mut RnnCase) {
    for weights in case.stack.iter_mut().flatten() {
        (weights.bias_ih, weights.bias_hh) = (None, None);
    }
}

fn gates(table: &mut Table) {
    let peepholes = |case: &mut RnnCase, random: &mut Random| {
        state(case, random);
        peepholes(case, random);
    };
    table.lstm("peepholes", USUAL, 1, nothing, peepholes);
    table.lstm("peepholes, both directions", USUAL, 2, both, peepholes);
    table.lstm("forget bias", USUAL, 1, |options| options.forget_bias = 1.0, state);
    table.lstm("coupled gates", USUAL, 1, |options| options.input_forget = true, state);
    let all = |options: &mut Rnn| {
        *options = Rnn { input_forget: true, clip: Some(0.4), ..Rnn::new(Cell::Lstm) };
        options.activations = Activations::onnx(
            Cell::Lstm,
            [Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }, Activation::Softsign, Activation::Tanh],
        );
    };
    table.lstm("peepholes, coupled gates, clip, activations", USUAL, 1, all, peepholes);
    let all = |options: &mut Rnn| {
        *options = Rnn { forget_bias: -0.5, clip: Some(0.4), ..Rnn::new(Cell::Lstm) };
        reverse(options);
        options.activations = Activations::onnx(
            Cell::Lstm,
            [Activation::Sigmoid, Activation::ScaledTanh { alpha: 1.7, beta: 0.6 }, Activation::Softplus],
        );
    };
    table.lstm("peepholes, forget bias, clip, activations", USUAL, 1, all, peepholes);
}

/// A projection to `width` in every layer and direction: the width of h, and of the input of the next layer.
fn project(case: &mut RnnCase, random: &mut Random, width: usize) {
    let hidden = hidden(case);
    let mut draw = |shape: &[usize]| {
        let bound = 1.0 / (shape[1] as f32).sqrt();
        Array::from_fn(shape, |_| random.uniform(bound))
    };
    for (l, layer) in case.stack.iter_mut().enumerate() {
        for weights in layer {
            if l > 0 {
                weights.weight_ih = draw(&[4 * hidden, case.options.output_width(width)]);
            }
            weights.weight_hh = draw(&[4 * hidden, width]);
            weights.weight_hr = Some(draw(&[width, hidden]));
        }
    }
}

fn projection(table: &mut Table) {
    for [hidden, width] in [[1, 1], [9, 4], [7, 13], [33, 17], [64, 32], [65, 33], [100, 65], [129, 64]] {
        let name = format!("projection of {hidden} to {width}");
        table.lstm(name, [4, 3, 5, hidden], 1, nothing, |case, random| {
            project(case, random, width);
            state(case, random);
        });
    }
    let to_five = |case: &mut RnnCase, random: &mut Random| {
        project(case, random, 5);
        lengths(case, random);
    };
    table.lstm("projection, 2 layers, lengths, both directions", FIVE, 2, both, to_five);
    table.lstm("projection, 3 layers, lengths", FIVE, 3, nothing, to_five);
    table.lstm("projection, 3 layers, lengths, reverse", FIVE, 3, reverse, to_five);
    let clipped = |options: &mut Rnn| options.projection_clip = Some(0.1);
    table.lstm("projection clip, 2 layers", FIVE, 2, clipped, to_five);
    let last = |options: &mut Rnn| {
        both(options);
        (options.projection_clip, options.steps) = (Some(0.15), Steps::Last);
    };
    table.lstm("projection clip, last step, lengths, both directions", FIVE, 2, last, to_five);
    table.lstm("NaN in one row, projection clip", USUAL, 1, clipped, |case, random| {
        project(case, random, 5);
        case.inputs.input.data_mut()[7] = f32::NAN;
    });
    let all = |options: &mut Rnn| {
        both(options);
        (options.forget_bias, options.clip) = (1.0, Some(1.5));
        (options.cell_clip, options.projection_clip) = (Some(0.6), Some(0.2));
    };
    table.lstm("projection, peepholes, forget bias, every clip", [5, 4, 10, 33], 2, all, |case, random| {
        project(case, random, 12);
        state(case, random);
        peepholes(case, random);
    });
    table.lstm("saturated, projection", USUAL, 1, nothing, |case, random| {
        project(case, random, 5);
        case.inputs.input = random.whole(&[6, 3, 5], 1).map(|x| x * 1e4);
    });
}

fn cell_clip(table: &mut Table) {
    let clipped = |options: &mut Rnn| options.cell_clip = Some(0.2);
    table.lstm("cell clip", USUAL, 1, clipped, state);
    table.lstm("cell clip, peepholes, lengths, 2 layers", FIVE, 2, clipped, |case, random| {
        lengths(case, random);
        peepholes(case, random);
    });
    table.lstm("NaN in one row, cell clip", USUAL, 1, clipped, |case, _| {
        case.inputs.input.data_mut()[7] = f32::NAN;
    });
    // c grows by 1 a step: the clip holds it at 3
    let held = |options: &mut Rnn| options.cell_clip = Some(3.0);
    table.lstm("saturated, cell clip", USUAL, 1, held, |case, _| {
        let bias = case.stack[0][0].bias_ih.as_mut();
        bias.into_iter().for_each(|bias| bias.data_mut().fill(1e4));
    });
}

/// Gains around 1 and shifts around 0.
fn norms(case: &mut RnnCase, random: &mut Random) {
    let hidden = hidden(case);
    let products = case.options.layer_norm.is_some_and(|norm| norm.over == NormOver::Products);
    let mut norm = |width: usize| {
        let near = |k: usize| if k < width { 1.0 } else { 0.0 };
        Some(Array::from_fn(&[2, width], |k| near(k) + random.uniform(0.5)))
    };
    for weights in case.stack.iter_mut().flatten() {
        weights.norm_ih = if products { norm(4 * hidden) } else { None };
        (weights.norm_hh, weights.norm_c) = (norm(4 * hidden), norm(hidden));
    }
}

fn layer_norm(table: &mut Table) {
    let carried = |carry: bool| if carry { "carried" } else { "not carried" };
    for over in [NormOver::Products, NormOver::Gates] {
        for carry in [false, true] {
            let named = |what: &str| format!("layer norm over {over:?}, {}{what}", carried(carry));
            let normed = |options: &mut Rnn| options.layer_norm = Some(LayerNorm { over, carry, epsilon: 1e-3 });
            table.lstm(named(""), USUAL, 1, normed, |case, random| {
                state(case, random);
                norms(case, random);
            });
            table.lstm(named(", no gains, no bias"), USUAL, 1, normed, |case, random| {
                state(case, random);
                no_bias(case);
            });
            table.lstm(named(", gains of c alone, one bias, 2 layers"), USUAL, 2, normed, |case, random| {
                state(case, random);
                norms(case, random);
                for weights in case.stack.iter_mut().flatten() {
                    (weights.norm_ih, weights.norm_hh, weights.bias_ih) = (None, None, None);
                }
            });
            let two = |options: &mut Rnn| {
                normed(options);
                both(options);
                options.forget_bias = 1.0;
            };
            table.lstm(named(", peepholes, lengths, both directions"), FIVE, 2, two, |case, random| {
                lengths(case, random);
                norms(case, random);
                peepholes(case, random);
            });
            let all = |options: &mut Rnn| {
                normed(options);
                (options.clip, options.cell_clip, options.projection_clip) = (Some(2.0), Some(0.8), Some(0.4));
            };
            table.lstm(named(", projection, every clip, 3 layers"), [4, 3, 5, 33], 3, all, |case, random| {
                project(case, random, 12);
                state(case, random);
                norms(case, random);
                peepholes(case, random);
            });
            table.lstm(named(", saturated"), USUAL, 1, normed, |case, random| {
                norms(case, random);
                case.inputs.input = random.whole(&[6, 3, 5], 1).map(|x| x * 1e4);
            });
            for (size, epsilon) in [(1e20, 1e-3), (1e37, 1e-3), (1e-19, 1.2e-38), (1e-35, 1e-3)] {
                let normed = |options: &mut Rnn| options.layer_norm = Some(LayerNorm { over, carry, epsilon });
                table.lstm(named(&format!(", products near {size:e}")), [3, 3, 5, 9], 1, normed, |case, random| {
                    case.f32_only = true;
                    norms(case, random);
                    case.inputs.input.data_mut().iter_mut().for_each(|x| *x *= size);
                });
            }
        }
        // All the same: a single unit of large products has no deviation.
        let normed = |options: &mut Rnn| options.layer_norm = Some(LayerNorm { over, carry: true, epsilon: 1e-12 });
        table.lstm(
            format!("layer norm over {over:?}, 1 unit of products near 1e36"),
            [3, 4, 10, 1],
            1,
            normed,
            |case, random| {
                case.f32_only = true;
                norms(case, random);
                case.inputs.input.data_mut().iter_mut().for_each(|x| *x *= 1e36);
            },
        );
        for hidden in [1, 7, 31, 64, 65, 129] {
            let normed = |options: &mut Rnn| {
                options.layer_norm = Some(LayerNorm { over, carry: hidden % 2 == 0, epsilon: 1e-2 })
            };
            let name = format!("layer norm over {over:?}, {hidden} units");
            table.lstm(name, [3, 4, 10, hidden], 1, normed, |case, random| {
                state(case, random);
                norms(case, random);
            });
        }
        let last = |options: &mut Rnn| {
            reverse(options);
            options.input_forget = true;
            (options.layer_norm, options.steps) = (Some(LayerNorm { over, carry: true, epsilon: 1e-5 }), Steps::Last);
        };
        let name = format!("layer norm over {over:?}, coupled gates, last step, lengths, reverse");
        table.lstm(name, FIVE, 2, last, |case, random| {
            lengths(case, random);
            norms(case, random);
        });
    }
}
