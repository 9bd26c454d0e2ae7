//! ONNX' `LSTM`, `GRU` and `RNN` operators: their attributes and weights as options and a stack of one layer.

use super::convert::{matrix, shaped, stacked, units};
use super::{Activation, Activations, Cell, Direction, Reset, Rnn, RnnStack, RnnWeights};
use crate::error::{Error, Result};
use crate::tensor::Array;

/// Attributes of an ONNX `LSTM`, `GRU` or `RNN` node, as its specification (opset 22) names and defaults them. `layout`
/// is left out: with `layout = 1` inputs and outputs are permuted views, and weights the same.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OnnxAttributes<'a> {
    /// `forward` (the default), `reverse` or `bidirectional`.
    pub direction: Option<&'a str>,
    /// H; the weights must agree.
    pub hidden_size: Option<usize>,
    /// Of each direction, one after the other: 3 each for an LSTM, 2 for a GRU, 1 for an RNN; all or none.
    pub activations: Vec<&'a str>,
    /// Used up in order by the activations that have an alpha.
    pub activation_alpha: Vec<f32>,
    /// Used up in order by the activations that have a beta.
    pub activation_beta: Vec<f32>,
    /// Pre-activations are clamped to ±clip.
    pub clip: Option<f32>,
    /// LSTM: input and forget gate are coupled.
    pub input_forget: bool,
    /// GRU: the reset gate acts after the product.
    pub linear_before_reset: bool,
}

/// A node's weights by the operator's names; D directions, G gates.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxWeights<A> {
    /// [D, G·H, I].
    pub w: A,
    /// [D, G·H, H].
    pub r: A,
    /// [D, 2·G·H].
    pub b: Option<A>,
    /// LSTM: [D, 3·H].
    pub p: Option<A>,
}

/// Options and weights of an ONNX node, `op` being `LSTM`, `GRU` or `RNN`.
///
/// `Y` [T, D, B, H] of the operator is the output [T, B, D·H] with its last axis split; `Y_h` and `Y_c` are `final_h`
/// and `final_c`.
///
/// ```
/// use regard::rnn::{OnnxAttributes, OnnxWeights, onnx_stack};
/// use regard::tensor::Array;
///
/// # fn main() -> regard::Result<()> {
/// let attributes = OnnxAttributes {
///     direction: Some("bidirectional"),
///     activations: vec!["HardSigmoid", "Tanh", "Sigmoid", "ScaledTanh"],
///     activation_alpha: vec![0.25, 1.5], // HardSigmoid's, ScaledTanh's
///     activation_beta: vec![0.5, 0.7],
///     ..OnnxAttributes::default()
/// };
/// let weights = OnnxWeights {
///     w: Array::filled(&[2, 12, 5], 0.1),
///     r: Array::filled(&[2, 12, 4], 0.1),
///     b: Some(Array::filled(&[2, 24], 0.0)),
///     p: None,
/// };
/// let (options, stack) = onnx_stack("GRU", &attributes, &weights)?;
/// assert!(options.reverse_activations.is_some() && stack[0].len() == 2);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Option`] for an attribute that the operator does not have or that contradicts another, [`Error::Shape`] for
/// a tensor that does not fit.
pub fn onnx_stack<T: Clone>(
    op: &str,
    attributes: &OnnxAttributes,
    weights: &OnnxWeights<Array<T>>,
) -> Result<(Rnn, RnnStack<Array<T>>)> {
    let cell = match (op, attributes.linear_before_reset) {
        ("LSTM", false) => Cell::Lstm,
        ("GRU", false) => Cell::Gru { reset: Reset::Before },
        ("GRU", true) => Cell::Gru { reset: Reset::After },
        ("RNN", false) => Cell::Rnn,
        ("LSTM" | "RNN", true) => {
            return Err(Error::option("linear_before_reset", format!("an {op} has no reset gate")));
        }
        _ => return Err(Error::option("op", format!("`{op}` is not one of LSTM, GRU, RNN"))),
    };
    let direction = match attributes.direction {
        None | Some("forward") => Direction::Forward,
        Some("reverse") => Direction::Reverse,
        Some("bidirectional") => Direction::Bidirectional,
        Some(other) => {
            let reason = format!("`{other}` is not one of forward, reverse, bidirectional");
            return Err(Error::option("direction", reason));
        }
    };
    let mut options = Rnn { direction, clip: attributes.clip, input_forget: attributes.input_forget, ..Rnn::new(cell) };
    let each = activations(cell, attributes, direction.count())?;
    if let Some(&first) = each.first() {
        options.activations = first;
        options.reverse_activations = each.get(1).copied().filter(|second| *second != first);
    }

    let directions = direction.count();
    let &[_, rows, inputs] = weights.w.shape() else {
        return Err(Error::shape("W", "rank", "3 [D, G·H, I]", weights.w.shape().len()));
    };
    let hidden = units("W", 1, cell.gates(), rows)?;
    if let Some(wanted) = attributes.hidden_size
        && wanted != hidden
    {
        return Err(Error::option("hidden_size", format!("is {wanted}, but `W` has {rows} rows, for {hidden} units")));
    }
    shaped("W", &weights.w, &[directions, rows, inputs])?;
    shaped("R", &weights.r, &[directions, rows, hidden])?;
    if let Some(b) = &weights.b {
        shaped("B", b, &[directions, 2 * rows])?;
    }
    if let Some(p) = &weights.p {
        shaped("P", p, &[directions, 3 * hidden])?;
    }
    let layer = (0..directions).map(|d| {
        let part = |a: &Array<T>| entry(a, d);
        let [b, p] = [&weights.b, &weights.p].map(|a| a.as_ref().map(part).transpose());
        RnnWeights::from_onnx(cell, part(&weights.w)?, part(&weights.r)?, b?, p?)
    });
    Ok((options, vec![layer.collect::<Result<Vec<_>>>()?]))
}

/// The activations of each direction; none when the attribute is not given.
fn activations(cell: Cell, attributes: &OnnxAttributes, directions: usize) -> Result<Vec<Activations>> {
    let each = match cell {
        Cell::Lstm => 3,
        Cell::Gru { .. } => 2,
        Cell::Rnn => 1,
    };
    let names = &attributes.activations;
    if !names.is_empty() && names.len() != directions * each {
        let wanted = directions * each;
        return Err(Error::option(
            "activations",
            format!("needs {wanted} names, {each} a direction, not {}", names.len()),
        ));
    }
    let (mut alphas, mut betas) = (attributes.activation_alpha.iter(), attributes.activation_beta.iter());
    let set = |value: &mut f32, values: &mut std::slice::Iter<f32>| {
        if let Some(&given) = values.next() {
            *value = given;
        }
    };
    let mut functions = Vec::with_capacity(names.len());
    for name in names {
        let mut function = Activation::from_name(name)?;
        match &mut function {
            Activation::Affine { alpha, beta }
            | Activation::ScaledTanh { alpha, beta }
            | Activation::HardSigmoid { alpha, beta } => {
                set(alpha, &mut alphas);
                set(beta, &mut betas);
            }
            Activation::LeakyRelu { alpha } | Activation::ThresholdedRelu { alpha } | Activation::Elu { alpha } => {
                set(alpha, &mut alphas);
            }
            _ => {}
        }
        functions.push(function);
    }
    for (name, left) in [("activation_alpha", alphas.len()), ("activation_beta", betas.len())] {
        if left > 0 {
            return Err(Error::option(name, format!("has {left} more values than the activations use")));
        }
    }
    Ok(functions
        .chunks_exact(each)
        .map(|functions| match *functions {
            [f, g, h] => Activations::onnx(cell, [f, g, h]),
            [f, g] => Activations::onnx(cell, [f, g, g]),
            _ => Activations::all(functions[0]),
        })
        .collect())
}

/// Entry `d` of the first axis.
fn entry<T: Clone>(stacked: &Array<T>, d: usize) -> Result<Array<T>> {
    let shape = &stacked.shape()[1..];
    let size: usize = shape.iter().product();
    Array::new(shape, stacked.data()[d * size..][..size].to_vec())
}

impl<T: Clone> RnnWeights<Array<T>> {
    /// From ONNX' `W` [G·H, I], `R` [G·H, H], `B` [2·G·H] and `P` [3·H] of one direction: gates i, o, f, c and
    /// peepholes i, o, f for LSTM, z, r, h for GRU. [`onnx_stack`] takes a whole node.
    ///
    /// # Errors
    /// [`Error::Shape`] when a tensor does not fit the cell or the others.
    pub fn from_onnx(cell: Cell, w: Array<T>, r: Array<T>, b: Option<Array<T>>, p: Option<Array<T>>) -> Result<Self> {
        let [rows, _] = matrix("W", &w, "[G·H, I]")?;
        let hidden = units("W", 0, cell.gates(), rows)?;
        shaped("R", &r, &[rows, hidden])?;
        let halves = |b: Array<T>| -> Result<(Array<T>, Array<T>)> {
            shaped("B", &b, &[2 * rows])?;
            let (ih, hh) = b.data().split_at(rows);
            Ok((Array::new(&[rows], ih.to_vec())?, Array::new(&[rows], hh.to_vec())?))
        };
        let (bias_ih, bias_hh) = b.map(halves).transpose()?.unzip();
        let peephole = |p: Array<T>| -> Result<Array<T>> {
            shaped("P", &p, &[3 * hidden])?;
            let p = p.reshape(&[3, hidden])?;
            let [i, o, f] = [entry(&p, 0)?, entry(&p, 1)?, entry(&p, 2)?];
            stacked(&[3, hidden], &[&i, &f, &o])
        };
        let order: &[usize] = match cell {
            Cell::Lstm => &[0, 2, 3, 1],
            Cell::Gru { .. } => &[1, 0, 2],
            Cell::Rnn => &[0],
        };
        Self { bias_ih, bias_hh, peephole: p.map(peephole).transpose()?, ..Self::new(w, r) }.reorder_gates(order)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn filled(shape: &[usize]) -> Array<f32> {
        Array::from_fn(shape, |k| k as f32)
    }

    /// Two inputs and one unit.
    fn weights(directions: usize, gates: usize) -> OnnxWeights<Array<f32>> {
        OnnxWeights {
            w: filled(&[directions, gates, 2]),
            r: filled(&[directions, gates, 1]),
            b: Some(filled(&[directions, 2 * gates])),
            p: (gates == 4).then(|| filled(&[directions, 3])),
        }
    }

    #[test]
    fn each_direction_has_its_weights_in_order() {
        let attributes = OnnxAttributes { direction: Some("bidirectional"), ..OnnxAttributes::default() };
        let (options, stack) = onnx_stack("LSTM", &attributes, &weights(2, 4)).unwrap();
        assert_eq!(options, Rnn::new(Cell::Lstm).bidirectional());
        // i, o, f, c to i, f, g, o
        let second = &stack[0][1];
        assert_eq!(second.weight_ih.data(), [8., 9., 12., 13., 14., 15., 10., 11.]);
        assert_eq!(second.weight_hh.data(), [4., 6., 7., 5.]);
        assert_eq!(second.bias_ih.as_ref().unwrap().data(), [8., 10., 11., 9.]);
        assert_eq!(second.bias_hh.as_ref().unwrap().data(), [12., 14., 15., 13.]);
        assert_eq!(second.peephole.as_ref().unwrap().data(), [3., 5., 4.]);
        let (options, stack) = onnx_stack("GRU", &OnnxAttributes::default(), &weights(1, 3)).unwrap();
        assert_eq!(options, Rnn::new(Cell::Gru { reset: Reset::Before }));
        // z, r, h to r, z, n
        assert_eq!(stack[0][0].weight_hh.data(), [1., 0., 2.]);
    }

    #[test]
    fn parameters_go_to_the_activations_that_have_them() {
        let attributes = OnnxAttributes {
            direction: Some("bidirectional"),
            activations: vec!["sigmoid", "Affine", "Elu", "HardSigmoid", "Tanh", "ThresholdedRelu"],
            activation_alpha: vec![2.0, 3.0, 4.0],
            activation_beta: vec![5.0],
            clip: Some(0.5),
            input_forget: true,
            ..OnnxAttributes::default()
        };
        let (options, _) = onnx_stack("LSTM", &attributes, &weights(2, 4)).unwrap();
        let [sigmoid, affine] = [Activation::Sigmoid, Activation::Affine { alpha: 2.0, beta: 5.0 }];
        let first = Activations { gates: [sigmoid, sigmoid, affine, sigmoid], output: Activation::Elu { alpha: 3.0 } };
        // what is not given has ONNX' defaults
        let [hard, tanh] = [Activation::HardSigmoid { alpha: 4.0, beta: 0.5 }, Activation::Tanh];
        let output = Activation::ThresholdedRelu { alpha: 1.0 };
        let second = Activations { gates: [hard, hard, tanh, hard], output };
        assert_eq!((options.activations, options.reverse_activations), (first, Some(second)));
        assert_eq!((options.clip, options.input_forget), (Some(0.5), true));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        type Edit = fn(&mut OnnxAttributes, &mut OnnxWeights<Array<f32>>);
        let cases: [(&str, Edit, &str); 15] = [
            ("Lstm", |_, _| {}, "option `op`: `Lstm` is not one of LSTM, GRU, RNN"),
            ("LSTM", |a, _| a.linear_before_reset = true, "option `linear_before_reset`: an LSTM has no reset gate"),
            (
                "LSTM",
                |a, _| a.direction = Some("both"),
                "option `direction`: `both` is not one of forward, reverse, bidirectional",
            ),
            ("LSTM", |a, _| a.hidden_size = Some(3), "option `hidden_size`: is 3, but `W` has 4 rows, for 1 units"),
            (
                "LSTM",
                |a, _| a.activations = vec!["Tanh", "Tanh"],
                "option `activations`: needs 3 names, 3 a direction, not 2",
            ),
            (
                "LSTM",
                |a, _| a.activation_alpha = vec![1.0],
                "option `activation_alpha`: has 1 more values than the activations use",
            ),
            (
                "LSTM",
                |a, _| {
                    a.activations = vec!["Elu", "Tanh", "Softsign"];
                    (a.activation_alpha, a.activation_beta) = (vec![1.0], vec![1.0, 2.0]);
                },
                "option `activation_beta`: has 2 more values than the activations use",
            ),
            ("LSTM", |_, w| w.w = filled(&[4, 2]), "`W` rank: expected 3 [D, G·H, I], found 2"),
            ("LSTM", |_, w| w.w = filled(&[1, 6, 2]), "`W` axis 1 (gates · H): expected a multiple of 4, found 6"),
            ("LSTM", |_, w| w.w = filled(&[2, 4, 2]), "`W` axis 0: expected 1, found 2"),
            ("LSTM", |_, w| w.r = filled(&[1, 4, 2]), "`R` axis 2: expected 1, found 2"),
            ("LSTM", |_, w| w.b = Some(filled(&[1, 4])), "`B` axis 1: expected 8, found 4"),
            ("LSTM", |_, w| w.p = Some(filled(&[3])), "`P` rank: expected 2 [1, 3], found 1"),
            ("GRU", |_, w| *w = weights(1, 4), "`W` axis 1 (gates · H): expected a multiple of 3, found 4"),
            ("RNN", |a, _| a.linear_before_reset = true, "option `linear_before_reset`: an RNN has no reset gate"),
        ];
        for (op, edit, wanted) in cases {
            let (mut attributes, mut weights) = (OnnxAttributes::default(), weights(1, 4));
            edit(&mut attributes, &mut weights);
            assert_eq!(onnx_stack(op, &attributes, &weights).unwrap_err().to_string(), wanted);
        }
    }
}
