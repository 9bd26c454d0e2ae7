//! A recurrence with its numbers checked.

use super::{Role, bounded, nonzero, same, vector};
use crate::error::{Error, Result};
use crate::rnn::{Cell, Merge, NormOver, Rnn, RnnAlgorithm, RnnInputs, RnnStack, Steps};

/// A recurrence with its numbers checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RnnProblem {
    /// T: steps.
    pub steps: usize,
    /// B: batch rows.
    pub batch: usize,
    /// I of each layer: the input's width, then the output width of the layer below.
    pub inputs: Vec<usize>,
    /// H: hidden units, the same in every layer.
    pub hidden: usize,
    /// P: width of h; H, or what a projection makes of it.
    pub state: usize,
    /// Whether h is projected.
    pub projected: bool,
    /// Layers.
    pub layers: usize,
    /// Directions: 1 or 2.
    pub directions: usize,
    /// Width of the output: directions · P when concatenated, else P.
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
        let RnnWidths { inputs: widths, hidden, state, projected } = Self::check_weights(options, stack, input)?;
        let directions = options.direction.count();
        let layers = stack.len();
        for (name, given, width) in [("initial_h", inputs.initial_h, state), ("initial_c", inputs.initial_c, hidden)] {
            let Some(shape) = given else { continue };
            let &[states, rows, units] = shape else {
                return Err(Error::shape(name, "rank", "3 [layers · directions, B, H]", shape.len()));
            };
            same(name, "axis 0 (layers · directions)", layers * directions, states)?;
            same(name, "axis 1 (batch)", batch, rows)?;
            same(name, "axis 2 (hidden)", width, units)?;
        }
        if inputs.initial_c.is_some() && options.cell != Cell::Lstm {
            return Err(Error::option("initial_c", "only an LSTM has a cell state"));
        }
        vector("lengths", inputs.lengths, batch, "batch")?;
        let widest = widths.iter().copied().max().unwrap_or(0) + state;
        let gates = options.cell.gates();
        bounded("a recurrence", &[&[steps, batch, layers, directions, gates, hidden.next_multiple_of(4), widest]])?;
        Ok(Self {
            steps,
            batch,
            inputs: widths,
            hidden,
            state,
            projected,
            layers,
            directions,
            width: options.output_width(state),
        })
    }

    /// Shape of the output.
    pub fn output_shape(&self, options: &Rnn) -> Vec<usize> {
        match options.steps {
            Steps::All => vec![self.steps, self.batch, self.width],
            Steps::Last => vec![self.batch, self.width],
        }
    }

    /// Checks the weights alone.
    ///
    /// # Errors
    /// As [`RnnProblem::new`].
    pub fn check_weights(options: &Rnn, stack: &RnnStack<&[usize]>, input: usize) -> Result<RnnWidths> {
        check_options(options)?;
        let gates = options.cell.gates();
        let directions = options.direction.count();
        let Some(first) = stack.first().and_then(|layer| layer.first()) else {
            return Err(Error::missing("weight_ih_l0", "[G·H, I] of the first layer"));
        };
        let &[_, state] = first.weight_hh else {
            return Err(Error::shape("weight_hh_l0", "rank", "2 [G·H, H]", first.weight_hh.len()));
        };
        nonzero("weight_hh_l0", first.weight_hh)?;
        let hidden = match first.weight_hr {
            None => state,
            Some(shape @ &[_, hidden]) => {
                nonzero("weight_hr_l0", shape)?;
                hidden
            }
            Some(shape) => return Err(Error::shape("weight_hr_l0", "rank", "2 [P, H]", shape.len())),
        };
        let mut inputs = Vec::with_capacity(stack.len());
        let mut width = input;
        for (l, layer) in stack.iter().enumerate() {
            if layer.len() != directions {
                return Err(Error::shape(format!("weights of layer {l}"), "directions", directions, layer.len()));
            }
            for (d, weights) in layer.iter().enumerate() {
                let suffix = if d == 1 { "_reverse" } else { "" };
                let name = |stem: &str| format!("{stem}_l{l}{suffix}");
                let matrix = |stem: &str, shape: &[usize], rows: [&str; 2], [n, k]: [usize; 2]| -> Result<()> {
                    let &[found_rows, found] = shape else {
                        let found = format!("{} {shape:?}", shape.len());
                        return Err(Error::shape(name(stem), "rank", format!("2 [{n}, {k}]"), found));
                    };
                    nonzero(&name(stem), shape)?;
                    same(&name(stem), rows[0], n, found_rows)?;
                    same(&name(stem), rows[1], k, found)
                };
                let gate_rows = "axis 0 (gates · hidden)";
                matrix("weight_ih", weights.weight_ih, [gate_rows, "axis 1 (input)"], [gates * hidden, width])?;
                matrix("weight_hh", weights.weight_hh, [gate_rows, "axis 1 (hidden)"], [gates * hidden, state])?;
                vector(&name("bias_ih"), weights.bias_ih, gates * hidden, "gates · hidden")?;
                vector(&name("bias_hh"), weights.bias_hh, gates * hidden, "gates · hidden")?;
                match (weights.weight_hr, first.weight_hr) {
                    (None, None) => {}
                    (None, Some(_)) => {
                        return Err(Error::missing(name("weight_hr"), "[P, H], as the first layer has one"));
                    }
                    (Some(_), None) => {
                        return Err(Error::option(
                            name("weight_hr"),
                            "the first layer has none: all have it or none has",
                        ));
                    }
                    (Some(shape), _) => matrix("weight_hr", shape, ["axis 0 (P)", "axis 1 (hidden)"], [state, hidden])?,
                }
                let normed = options.layer_norm.is_some();
                let products = options.layer_norm.is_some_and(|norm| norm.over == NormOver::Products);
                let gate_norm = [2, gates * hidden];
                for (stem, shape, allowed, wanted, needs) in [
                    (
                        "peephole",
                        weights.peephole,
                        options.cell == Cell::Lstm,
                        [3, hidden],
                        "only an LSTM has peepholes",
                    ),
                    ("norm_ih", weights.norm_ih, products, gate_norm, "is for layer normalisation over products"),
                    ("norm_hh", weights.norm_hh, normed, gate_norm, "is for layer normalisation"),
                    ("norm_c", weights.norm_c, normed, [2, hidden], "is for layer normalisation"),
                ] {
                    let Some(shape) = shape else { continue };
                    if !allowed {
                        return Err(Error::option(name(stem), needs));
                    }
                    if shape != wanted {
                        return Err(Error::shape(name(stem), "shape", format!("{wanted:?}"), format!("{shape:?}")));
                    }
                }
                if weights.weight_hr.is_some() && options.cell != Cell::Lstm {
                    return Err(Error::option(name("weight_hr"), "only an LSTM has a projection"));
                }
            }
            inputs.push(width);
            width = options.output_width(state);
        }
        if options.projection_clip.is_some() && first.weight_hr.is_none() {
            return Err(Error::option("projection_clip", "needs a projection, `weight_hr`"));
        }
        if options.path == RnnAlgorithm::Wavefront && directions == 2 {
            let reason = "a wavefront runs one direction: the second reads each layer from its end";
            return Err(Error::option("path", reason));
        }
        Ok(RnnWidths { inputs, hidden, state, projected: first.weight_hr.is_some() })
    }
}

/// Widths of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RnnWidths {
    /// I of each layer.
    pub inputs: Vec<usize>,
    /// H.
    pub hidden: usize,
    /// P.
    pub state: usize,
    /// Whether h is projected.
    pub projected: bool,
}

/// The options among themselves.
fn check_options(options: &Rnn) -> Result<()> {
    let clips =
        [("clip", options.clip), ("cell_clip", options.cell_clip), ("projection_clip", options.projection_clip)];
    for (name, clip) in clips {
        if let Some(clip) = clip
            && !(clip > 0.0 && clip.is_finite())
        {
            return Err(Error::option(name, format!("must be above 0 and finite, not {clip}")));
        }
    }
    if !options.forget_bias.is_finite() {
        return Err(Error::option("forget_bias", format!("must be finite, not {}", options.forget_bias)));
    }
    if options.input_forget && options.forget_bias != 0.0 {
        return Err(Error::option("forget_bias", "has no effect with `input_forget`: f = 1 − i"));
    }
    let lstm_only = [
        ("input_forget", options.input_forget, "only an LSTM has a forget gate"),
        ("forget_bias", options.forget_bias != 0.0, "only an LSTM has a forget gate"),
        ("cell_clip", options.cell_clip.is_some(), "only an LSTM has a cell state"),
        ("projection_clip", options.projection_clip.is_some(), "only an LSTM has a projection"),
        ("layer_norm", options.layer_norm.is_some(), "only an LSTM has layer normalisation"),
    ];
    if options.cell != Cell::Lstm
        && let Some((name, _, reason)) = lstm_only.into_iter().find(|(_, given, _)| *given)
    {
        return Err(Error::option(name, reason));
    }
    if let Some(norm) = options.layer_norm
        && !(norm.epsilon > 0.0 && norm.epsilon.is_finite())
    {
        return Err(Error::option("layer_norm", format!("epsilon must be above 0 and finite, not {}", norm.epsilon)));
    }
    if options.direction.count() == 1 {
        if options.merge != Merge::Concat {
            return Err(Error::option("merge", "needs two directions"));
        }
        if options.reverse_activations.is_some() {
            return Err(Error::option("reverse_activations", "needs two directions"));
        }
    }
    Ok(())
}

impl Role {
    /// Of the tensor of numbers that [`RnnInputs::try_map`] and [`RnnWeights::try_map`](crate::rnn::RnnWeights::try_map)
    /// call by this name.
    pub fn of_rnn(name: &str) -> Self {
        match name {
            "input" | "weight_ih" | "weight_hh" | "weight_hr" => Self::Stored,
            _ => Self::Float,
        }
    }
}
