//! The options of `regard encode` and what they mean to the library.

use clap::ValueEnum;
use regard::rnn::{
    Activation, Activations, Cell, Direction, LayerNorm, Merge, NormOver, Reset, Rnn, RnnAlgorithm, Steps,
};
use regard::{Error, Result};

/// ε of a layer normalisation where none is given.
const NORM_EPSILON: f32 = 1e-5;

/// What recurrence to compute.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Recurrence")]
pub(super) struct Options {
    /// The kind of recurrence
    #[arg(long, value_enum, value_name = "CELL")]
    cell: CellKind,
    /// GRU: the reset gate acts after the recurrent product (PyTorch, cuDNN) or before it (Cho et al. 2014); after,
    /// when left out
    #[arg(long, value_enum, value_name = "WHERE")]
    reset: Option<ResetKind>,
    /// RNN: its activation; tanh, when left out
    #[arg(long, value_enum, value_name = "NAME", conflicts_with = "activations")]
    activation: Option<ActivationKind>,
    /// Activations by ONNX's names, as ONNX lists them (LSTM f,g,h; GRU f,g; RNN f) or gate by gate (LSTM i,f,g,o,h;
    /// GRU r,z,n); twice as many where the second direction has its own. With parameters: `LeakyRelu:0.1` (alpha),
    /// `HardSigmoid:0.2:0.5` (alpha, beta)
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    activations: Vec<String>,
    /// LSTM: added to the forget gate (TensorFlow's BasicLSTMCell adds 1)
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_hyphen_values = true)]
    forget_bias: f32,
    /// Clamp pre-activations to -X ... X
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    clip: Option<f32>,
    /// LSTM: clamp the cell state to -X ... X (TensorFlow 1's LSTMCell)
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    cell_clip: Option<f32>,
    /// LSTM with `weight_hr_l0`: clamp the projected h to -X ... X (TensorFlow 1's LSTMCell)
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    projection_clip: Option<f32>,
    /// LSTM: the forget gate is 1 - the input gate; without --forget-bias
    #[arg(long)]
    input_forget: bool,
    /// LSTM: normalize over the gates of both products, or over each gate's sum; and the cell state. Gains and shifts
    /// are the tensors `norm_ih_l0`, `norm_hh_l0`, `norm_c_l0`, if there are any
    #[arg(long, value_enum, value_name = "OVER")]
    layer_norm: Option<NormKind>,
    /// The next step sees the normalized cell state, not only the output: with `products` this is TensorFlow Addons'
    /// LayerNormLSTMCell (epsilon 1e-3), with `gates` TensorFlow 1's LayerNormBasicLSTMCell (epsilon 1e-12)
    #[arg(long)]
    layer_norm_carry: bool,
    /// Added to the variance; 1e-5, when left out
    #[arg(long, value_name = "E", allow_hyphen_values = true)]
    layer_norm_epsilon: Option<f32>,
    /// Read backwards (weights of one direction)
    #[arg(long)]
    reverse: bool,
    /// How the outputs of two directions become one; concat, when left out
    #[arg(long, value_enum, value_name = "HOW")]
    merge: Option<MergeKind>,
    /// `output` is that of the last step each direction has read, [B, width]
    #[arg(long)]
    last: bool,
    /// How it runs on a GPU
    #[arg(long, value_enum, default_value_t, value_name = "PATH")]
    path: PathKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CellKind {
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent unit.
    Gru,
    /// Elman's simple recurrence.
    Rnn,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ResetKind {
    /// r∘(U·h).
    After,
    /// U·(r∘h).
    Before,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ActivationKind {
    /// tanh x.
    Tanh,
    /// max(x, 0).
    Relu,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NormKind {
    /// LN(W·x) + LN(U·h), each over all gates together (Ba et al. 2016; TensorFlow Addons).
    Products,
    /// LN(W·x + U·h), over each gate alone (TensorFlow 1).
    Gates,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MergeKind {
    /// [forward; backward].
    Concat,
    /// forward + backward.
    Sum,
    /// forward · backward.
    Mul,
    /// (forward + backward) / 2.
    Average,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum PathKind {
    /// The planner chooses.
    #[default]
    Auto,
    /// Layer after layer, one dispatch a time step.
    Steps,
    /// All layers at once, one dispatch for a step of the first, the one before of the second, and so on.
    Wavefront,
    /// Layer after layer, the loop over time inside one dispatch.
    Persistent,
}

/// The name on the command line.
pub(crate) fn path_name(path: RnnAlgorithm) -> &'static str {
    match path {
        RnnAlgorithm::Auto => "auto",
        RnnAlgorithm::Steps => "steps",
        RnnAlgorithm::Wavefront => "wavefront",
        RnnAlgorithm::Persistent => "persistent",
    }
}

impl Options {
    /// As the library has them, for weights of that many directions.
    pub(super) fn rnn(&self, directions: usize) -> Result<Rnn> {
        let cell = match (self.cell, self.reset) {
            (CellKind::Lstm, None) => Cell::Lstm,
            (CellKind::Rnn, None) => Cell::Rnn,
            (CellKind::Gru, reset) => Cell::Gru {
                reset: match reset {
                    Some(ResetKind::Before) => Reset::Before,
                    Some(ResetKind::After) | None => Reset::After,
                },
            },
            (_, Some(_)) => return Err(Error::option("reset", "only a GRU has a reset gate: use `--cell gru`")),
        };
        let direction = match (self.reverse, directions) {
            (false, 1) => Direction::Forward,
            (true, 1) => Direction::Reverse,
            (false, _) => Direction::Bidirectional,
            (true, _) => {
                let reason = "is for weights of one direction, and these have `…_reverse` too: leave it out";
                return Err(Error::option("reverse", reason));
            }
        };
        let (activations, reverse_activations) = self.activations(cell, directions)?;
        Ok(Rnn {
            direction,
            merge: match self.merge {
                None | Some(MergeKind::Concat) => Merge::Concat,
                Some(MergeKind::Sum) => Merge::Sum,
                Some(MergeKind::Mul) => Merge::Mul,
                Some(MergeKind::Average) => Merge::Average,
            },
            activations,
            reverse_activations,
            clip: self.clip,
            cell_clip: self.cell_clip,
            projection_clip: self.projection_clip,
            input_forget: self.input_forget,
            forget_bias: self.forget_bias,
            layer_norm: self.layer_norm()?,
            steps: if self.last { Steps::Last } else { Steps::All },
            path: match self.path {
                PathKind::Auto => RnnAlgorithm::Auto,
                PathKind::Steps => RnnAlgorithm::Steps,
                PathKind::Wavefront => RnnAlgorithm::Wavefront,
                PathKind::Persistent => RnnAlgorithm::Persistent,
            },
            ..Rnn::new(cell)
        })
    }

    fn layer_norm(&self) -> Result<Option<LayerNorm>> {
        let Some(over) = self.layer_norm else {
            let given = [
                ("layer-norm-carry", self.layer_norm_carry),
                ("layer-norm-epsilon", self.layer_norm_epsilon.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((name, _)) => {
                    let reason =
                        "belongs to a layer normalisation: add `--layer-norm products` or `--layer-norm gates`";
                    Err(Error::option(*name, reason))
                }
                None => Ok(None),
            };
        };
        Ok(Some(LayerNorm {
            over: match over {
                NormKind::Products => NormOver::Products,
                NormKind::Gates => NormOver::Gates,
            },
            carry: self.layer_norm_carry,
            epsilon: self.layer_norm_epsilon.unwrap_or(NORM_EPSILON),
        }))
    }

    /// Of the first direction, and of the second where they are others.
    fn activations(&self, cell: Cell, directions: usize) -> Result<(Activations, Option<Activations>)> {
        if let Some(kind) = self.activation {
            if cell != Cell::Rnn {
                return Err(Error::option("activation", "is for `--cell rnn`: use `--activations` for other cells"));
            }
            let activation = match kind {
                ActivationKind::Tanh => Activation::Tanh,
                ActivationKind::Relu => Activation::Relu,
            };
            return Ok((Activations::all(activation), None));
        }
        if self.activations.is_empty() {
            return Ok((cell.activations(), None));
        }
        let list = self.activations.iter().map(|text| activation(text)).collect::<Result<Vec<_>>>()?;
        let (first, second) = list.split_at(list.len() / 2);
        match (one_direction(cell, &list), one_direction(cell, first), one_direction(cell, second)) {
            (Some(same), ..) => Ok((same, None)),
            (None, Some(forward), Some(reverse)) if directions == 2 => Ok((forward, Some(reverse))),
            _ => {
                let (counts, cell) = match cell {
                    Cell::Lstm => ("3 (f,g,h) or 5 (i,f,g,o,h)", "LSTM"),
                    Cell::Gru { .. } => ("2 (f,g) or 3 (r,z,n)", "GRU"),
                    Cell::Rnn => ("1", "RNN"),
                };
                let each = if directions == 2 { ", or twice that for both directions" } else { "" };
                let reason = format!("expected {counts} for {cell}{each}, found {}", list.len());
                Err(Error::option("activations", reason))
            }
        }
    }
}

/// ONNX's list for one direction, or one activation a gate and an LSTM's output last.
fn one_direction(cell: Cell, list: &[Activation]) -> Option<Activations> {
    match (cell, list) {
        (Cell::Lstm, &[f, g, h]) => Some(Activations::onnx(cell, [f, g, h])),
        (Cell::Lstm, &[i, f, g, o, h]) => Some(Activations { gates: [i, f, g, o], output: h }),
        (Cell::Gru { .. }, &[f, g]) => Some(Activations::onnx(cell, [f, g, g])),
        (Cell::Gru { .. }, &[r, z, n]) => Some(Activations { gates: [r, z, n, n], output: n }),
        (Cell::Rnn, &[f]) => Some(Activations::all(f)),
        _ => None,
    }
}

/// `NAME`, `NAME:alpha` or `NAME:alpha:beta`.
fn activation(text: &str) -> Result<Activation> {
    let mut parts = text.split(':');
    let mut activation = Activation::from_name(parts.next().unwrap_or_default().trim())?;
    let numbers = parts
        .map(|part| part.trim().parse::<f32>().ok().filter(|x| x.is_finite()))
        .collect::<Option<Vec<f32>>>()
        .ok_or_else(|| Error::option("activations", format!("`{text}`: parameters are finite numbers")))?;
    let slots: Vec<&mut f32> = match &mut activation {
        Activation::Affine { alpha, beta }
        | Activation::ScaledTanh { alpha, beta }
        | Activation::HardSigmoid { alpha, beta } => vec![alpha, beta],
        Activation::LeakyRelu { alpha } | Activation::ThresholdedRelu { alpha } | Activation::Elu { alpha } => {
            vec![alpha]
        }
        _ => Vec::new(),
    };
    if numbers.len() > slots.len() {
        let reason = format!("`{text}`: expected at most {} parameters, found {}", slots.len(), numbers.len());
        return Err(Error::option("activations", reason));
    }
    slots.into_iter().zip(numbers).for_each(|(slot, number)| *slot = number);
    Ok(activation)
}
