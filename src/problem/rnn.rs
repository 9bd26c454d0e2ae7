//! A recurrence with its numbers checked.

use super::{Role, nonzero, same, vector};
use crate::error::{Error, Result};
use crate::rnn::{Cell, Merge, Rnn, RnnInputs, RnnStack};

/// A recurrence with its numbers checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RnnProblem {
    /// T: steps.
    pub steps: usize,
    /// B: batch rows.
    pub batch: usize,
    /// I of each layer: the input's width, then the output width of the layer below.
    pub inputs: Vec<usize>,
    /// H: hidden units, the same in every layer.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Directions: 1 or 2.
    pub directions: usize,
    /// Width of the output: directions · H when concatenated, else H.
    pub width: usize,
}

impl RnnProblem {
    /// Checks options, weights and shapes against each other.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] with the first rule that is broken.
    pub fn new(options: &Rnn, stack: &RnnStack<&[usize]>, inputs: &RnnInputs<&[usize]>) -> Result<Self> {
        let &[steps, batch, input] = inputs.input else {
            return Err(Error::shape("input", "rank", "3 [T, B, I]", inputs.input.len()));
        };
        nonzero("input", inputs.input)?;
        let (hidden, widths) = Self::check_weights(options, stack, input)?;
        let directions = options.direction.count();
        let layers = stack.len();
        for (name, state) in [("initial_h", inputs.initial_h), ("initial_c", inputs.initial_c)] {
            let Some(shape) = state else { continue };
            let &[states, rows, units] = shape else {
                return Err(Error::shape(name, "rank", "3 [layers · directions, B, H]", shape.len()));
            };
            same(name, "axis 0 (layers · directions)", layers * directions, states)?;
            same(name, "axis 1 (batch)", batch, rows)?;
            same(name, "axis 2 (hidden)", hidden, units)?;
        }
        if inputs.initial_c.is_some() && options.cell != Cell::Lstm {
            return Err(Error::option("initial_c", "only an LSTM has a cell state"));
        }
        vector("lengths", inputs.lengths, batch, "batch")?;
        Ok(Self { steps, batch, inputs: widths, hidden, layers, directions, width: options.output_width(hidden) })
    }

    /// Checks the weights alone; returns H and the input width of each layer.
    ///
    /// # Errors
    /// As [`RnnProblem::new`].
    pub fn check_weights(options: &Rnn, stack: &RnnStack<&[usize]>, input: usize) -> Result<(usize, Vec<usize>)> {
        let gates = options.cell.gates();
        let directions = options.direction.count();
        if let Some(clip) = options.clip
            && !(clip > 0.0 && clip.is_finite())
        {
            return Err(Error::option("clip", format!("must be above 0 and finite, not {clip}")));
        }
        if !options.forget_bias.is_finite() {
            return Err(Error::option("forget_bias", format!("must be finite, not {}", options.forget_bias)));
        }
        if options.cell != Cell::Lstm && (options.input_forget || options.forget_bias != 0.0) {
            return Err(Error::option("input_forget, forget_bias", "only an LSTM has a forget gate"));
        }
        if options.merge != Merge::Concat && directions == 1 {
            return Err(Error::option("merge", "needs two directions"));
        }
        let Some(first) = stack.first().and_then(|layer| layer.first()) else {
            return Err(Error::missing("weight_ih_l0", "[G·H, I] of the first layer"));
        };
        let &[_, hidden] = first.weight_hh else {
            return Err(Error::shape("weight_hh_l0", "rank", "2 [G·H, H]", first.weight_hh.len()));
        };
        nonzero("weight_hh_l0", first.weight_hh)?;
        let mut widths = Vec::with_capacity(stack.len());
        let mut width = input;
        for (l, layer) in stack.iter().enumerate() {
            if layer.len() != directions {
                return Err(Error::shape(format!("weights of layer {l}"), "directions", directions, layer.len()));
            }
            for (d, weights) in layer.iter().enumerate() {
                let suffix = if d == 1 { "_reverse" } else { "" };
                let name = |stem: &str| format!("{stem}_l{l}{suffix}");
                let matrix = |stem: &str, shape: &[usize], columns: usize, of: &str| -> Result<()> {
                    let &[rows, found] = shape else {
                        return Err(Error::shape(name(stem), "rank", 2, shape.len()));
                    };
                    same(&name(stem), "axis 0 (gates · hidden)", gates * hidden, rows)?;
                    same(&name(stem), of, columns, found)
                };
                matrix("weight_ih", weights.weight_ih, width, "axis 1 (input)")?;
                matrix("weight_hh", weights.weight_hh, hidden, "axis 1 (hidden)")?;
                vector(&name("bias_ih"), weights.bias_ih, gates * hidden, "gates · hidden")?;
                vector(&name("bias_hh"), weights.bias_hh, gates * hidden, "gates · hidden")?;
                if let Some(shape) = weights.peephole {
                    if options.cell != Cell::Lstm {
                        return Err(Error::option("peephole", "only an LSTM has peepholes"));
                    }
                    if shape != [3, hidden] {
                        let found = format!("{shape:?}");
                        return Err(Error::shape(name("peephole"), "shape", format!("[3, {hidden}]"), found));
                    }
                }
            }
            widths.push(width);
            width = options.output_width(hidden);
        }
        Ok((hidden, widths))
    }
}

impl Role {
    /// Of the input or weight that [`RnnInputs::try_map`] and [`RnnWeights::try_map`](crate::rnn::RnnWeights::try_map)
    /// call by this name.
    pub fn of_rnn(name: &str) -> Self {
        match name {
            "input" | "weight_ih" | "weight_hh" => Self::Stored,
            "lengths" => Self::Integer,
            _ => Self::Float,
        }
    }
}
