//! What recurrence to compute: options, weights, inputs and outputs, for the GPU and the reference alike.
//!
//! With x_t the input and (h, c) the state of one layer in one direction:
//! ```text
//! LSTM  i = σ(Wi·x + Ui·h + bi)   f = σ(…)   g = tanh(…)   o = σ(…)     (Hochreiter and Schmidhuber 1997)
//!       c = f∘c + i∘g             h = o∘tanh(c)
//! GRU   r = σ(…)   z = σ(…)       n = tanh(Wn·x + bn + r∘(Un·h + b'n))    reset after (cuDNN, PyTorch)
//!       h = (1 − z)∘n + z∘h       n = tanh(Wn·x + Un·(r∘h) + bn + b'n)    reset before (Cho et al. 2014)
//! RNN   h = tanh(W·x + U·h + b)                                            (Elman 1990)
//! ```
//! Gate rows lie in PyTorch's order: LSTM i, f, g, o; GRU r, z, n. Past a row's length the output is 0 and the state
//! does not change; the reverse direction starts at the last valid step.
//!
//! An LSTM may have more, in this order: peepholes (p∘c into i and f), input-forget coupling, a clip of c', layer
//! normalisation, the third peephole (p∘c' into o), the output activation, a projection of h and its clip.

mod convert;
mod keras;
mod onnx;
mod tensorflow;
mod torch;

pub use onnx::{OnnxAttributes, OnnxWeights, onnx_stack};
pub use torch::torch_stack;

use crate::error::{Error, Result};
use crate::tensor::TensorLike;

/// The kind of recurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Long short-term memory: 4 gates, state h and c.
    Lstm,
    /// Gated recurrent unit: 3 gates, state h.
    Gru {
        /// Where the reset gate acts.
        reset: Reset,
    },
    /// Elman's simple recurrence: 1 gate, state h.
    Rnn,
}

impl Cell {
    /// Rows of gates per hidden unit.
    pub fn gates(self) -> usize {
        match self {
            Self::Lstm => 4,
            Self::Gru { .. } => 3,
            Self::Rnn => 1,
        }
    }

    /// The default activations of the cell.
    pub fn activations(self) -> Activations {
        match self {
            Self::Lstm | Self::Gru { .. } => {
                Activations::onnx(self, [Activation::Sigmoid, Activation::Tanh, Activation::Tanh])
            }
            Self::Rnn => Activations::all(Activation::Tanh),
        }
    }
}

/// Where a GRU's reset gate acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reset {
    /// On the recurrent product: r∘(U·h + b). PyTorch, cuDNN, Keras' `reset_after`, ONNX `linear_before_reset = 1`.
    #[default]
    After,
    /// On the state: U·(r∘h) + b. Cho et al. 2014, ONNX `linear_before_reset = 0`.
    Before,
}

/// Activation functions: those of ONNX's recurrent operators, with their parameters, and those of Transformers.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// 1 / (1 + e^−x).
    Sigmoid,
    /// tanh x.
    Tanh,
    /// max(x, 0).
    Relu,
    /// alpha·x + beta.
    Affine {
        /// Factor.
        alpha: f32,
        /// Summand.
        beta: f32,
    },
    /// x for x ≥ 0, alpha·x below.
    LeakyRelu {
        /// Slope below 0.
        alpha: f32,
    },
    /// x for x ≥ alpha, else 0.
    ThresholdedRelu {
        /// Threshold.
        alpha: f32,
    },
    /// alpha·tanh(beta·x).
    ScaledTanh {
        /// Factor outside.
        alpha: f32,
        /// Factor inside.
        beta: f32,
    },
    /// min(max(alpha·x + beta, 0), 1).
    HardSigmoid {
        /// Factor.
        alpha: f32,
        /// Summand.
        beta: f32,
    },
    /// x for x ≥ 0, alpha·(e^x − 1) below.
    Elu {
        /// Factor below 0.
        alpha: f32,
    },
    /// x / (1 + |x|).
    Softsign,
    /// log(1 + e^x).
    Softplus,
    /// x·Φ(x), Φ the normal distribution's (Hendrycks and Gimpel 2016; PyTorch's `GELU`).
    Gelu,
    /// x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))), its approximation (PyTorch's `GELU(approximate="tanh")`).
    GeluTanh,
    /// x / (1 + e^−x) (PyTorch's `SiLU`).
    Silu,
}

impl Activation {
    /// By ONNX's name in any case, with ONNX's default parameters.
    ///
    /// # Errors
    /// When no activation has that name.
    pub fn from_name(name: &str) -> Result<Self> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "sigmoid" => Self::Sigmoid,
            "tanh" => Self::Tanh,
            "relu" => Self::Relu,
            "affine" => Self::Affine { alpha: 1.0, beta: 0.0 },
            "leakyrelu" => Self::LeakyRelu { alpha: 0.01 },
            "thresholdedrelu" => Self::ThresholdedRelu { alpha: 1.0 },
            "scaledtanh" => Self::ScaledTanh { alpha: 1.0, beta: 1.0 },
            "hardsigmoid" => Self::HardSigmoid { alpha: 0.2, beta: 0.5 },
            "elu" => Self::Elu { alpha: 1.0 },
            "softsign" => Self::Softsign,
            "softplus" => Self::Softplus,
            _ => {
                return Err(Error::option(
                    "activations",
                    format!(
                        "`{name}` is not one of Sigmoid, Tanh, Relu, Affine, LeakyRelu, ThresholdedRelu, ScaledTanh, \
                         HardSigmoid, Elu, Softsign, Softplus"
                    ),
                ));
            }
        })
    }
}

/// Activations of a cell, gate by gate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activations {
    /// In the order of the gate rows: LSTM i, f, g, o; GRU r, z, n; RNN its one. The rest is not used.
    pub gates: [Activation; 4],
    /// LSTM: of the cell state on its way to the output.
    pub output: Activation,
}

impl Activations {
    /// The same everywhere.
    pub fn all(activation: Activation) -> Self {
        Self { gates: [activation; 4], output: activation }
    }

    /// From ONNX's list for one direction: f of the gates (an RNN's only one), g of the candidate, h of the output.
    pub fn onnx(cell: Cell, [f, g, h]: [Activation; 3]) -> Self {
        let gates = match cell {
            Cell::Lstm => [f, f, g, f],
            Cell::Gru { .. } => [f, f, g, g],
            Cell::Rnn => [f; 4],
        };
        Self { gates, output: h }
    }
}

/// Layer normalisation inside an LSTM: LN(v) = (v − mean) / √(variance + ε) ∘ gain + shift. Biases are added after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNorm {
    /// What is normalised before the gates.
    pub over: NormOver,
    /// Whether the next step gets the normalised c', as TensorFlow Addons' `LayerNormLSTMCell` and TensorFlow
    /// 1's `LayerNormBasicLSTMCell` have it, or c' as it was (Ba et al. 2016).
    pub carry: bool,
    /// ε, added to the variance.
    pub epsilon: f32,
}

/// What layer normalisation is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOver {
    /// LN(W·x) + LN(U·h), each over all gates together (Ba et al. 2016, equation 20).
    Products,
    /// LN(W·x + U·h), over each gate alone (TensorFlow 1's `LayerNormBasicLSTMCell`).
    Gates,
}

/// Which steps the output has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Steps {
    /// Every one: [T, B, width].
    #[default]
    All,
    /// The last one that each direction has read: [B, width], the top layer's final h with its directions merged.
    Last,
}

/// How the recurrence is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum RnnAlgorithm {
    /// As [`crate::plan::RnnPlan`] finds fastest.
    #[default]
    Auto,
    /// Layer after layer, one dispatch a time step.
    Steps,
    /// All layers at once, layer l at step t beside layer l + 1 at step t − 1: T + L − 1 dispatches. One direction.
    Wavefront,
    /// Layer after layer, the loop over time inside one dispatch.
    Persistent,
}

/// Which way a layer reads the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// From the first step to the last.
    #[default]
    Forward,
    /// From the last valid step to the first.
    Reverse,
    /// Both, merged as [`Merge`] says.
    Bidirectional,
}

impl Direction {
    /// 1, or 2 for both.
    pub fn count(self) -> usize {
        if self == Self::Bidirectional { 2 } else { 1 }
    }
}

/// How the outputs of both directions become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Merge {
    /// [forward; backward], of width 2·H.
    #[default]
    Concat,
    /// forward + backward.
    Sum,
    /// forward ∘ backward.
    Mul,
    /// (forward + backward) / 2.
    Average,
}

/// Options of a recurrent encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Rnn {
    /// The kind of recurrence.
    pub cell: Cell,
    /// Which way the layers read.
    pub direction: Direction,
    /// How the outputs of both directions are merged.
    pub merge: Merge,
    /// Of each gate.
    pub activations: Activations,
    /// Of the second direction, where they are others.
    pub reverse_activations: Option<Activations>,
    /// Pre-activations are clamped to ±clip (ONNX `clip`).
    pub clip: Option<f32>,
    /// LSTM: f = 1 − i (ONNX `input_forget`; the CIFG variant of Greff et al. 2017).
    pub input_forget: bool,
    /// LSTM: added to the forget gate's pre-activation (TensorFlow's `BasicLSTMCell` adds 1.0 at run time); not with
    /// [`Rnn::input_forget`], which has no such gate.
    pub forget_bias: f32,
    /// LSTM: c' is clamped to ±`cell_clip` (TensorFlow 1's `LSTMCell`).
    pub cell_clip: Option<f32>,
    /// LSTM with a projection: h is clamped to ±`projection_clip` (TensorFlow 1's `LSTMCell`, `proj_clip`).
    pub projection_clip: Option<f32>,
    /// LSTM: layer normalisation.
    pub layer_norm: Option<LayerNorm>,
    /// Which steps the output has.
    pub steps: Steps,
    /// How it is run on the GPU.
    pub path: RnnAlgorithm,
}

impl Rnn {
    /// A cell with its usual activations, forward.
    pub fn new(cell: Cell) -> Self {
        Self {
            cell,
            direction: Direction::Forward,
            merge: Merge::Concat,
            activations: cell.activations(),
            reverse_activations: None,
            clip: None,
            input_forget: false,
            forget_bias: 0.0,
            cell_clip: None,
            projection_clip: None,
            layer_norm: None,
            steps: Steps::All,
            path: RnnAlgorithm::Auto,
        }
    }

    /// The same in both directions.
    pub fn bidirectional(mut self) -> Self {
        self.direction = Direction::Bidirectional;
        self
    }

    /// Activations of direction 0 or 1.
    pub fn activations_of(&self, direction: usize) -> Activations {
        self.reverse_activations.filter(|_| direction == 1).unwrap_or(self.activations)
    }

    /// Width of the output for an h of that width.
    pub fn output_width(&self, width: usize) -> usize {
        if self.merge == Merge::Concat { self.direction.count() * width } else { width }
    }
}

/// Weights of one layer in one direction, by PyTorch's names; G gates, H units, I inputs; h has P elements, P = H without a
/// projection.
#[derive(Debug, Clone, PartialEq)]
pub struct RnnWeights<A> {
    /// W [G·H, I].
    pub weight_ih: A,
    /// U [G·H, P].
    pub weight_hh: A,
    /// b [G·H], added to W·x.
    pub bias_ih: Option<A>,
    /// b' [G·H], added to U·h.
    pub bias_hh: Option<A>,
    /// LSTM: [3, H], rows i, f, o (Gers and Schmidhuber 2000). i and f see the old c, o the new one.
    pub peephole: Option<A>,
    /// LSTM: projection [P, H], h = R·(o∘tanh(c')) (Sak et al. 2014; PyTorch's `proj_size`).
    pub weight_hr: Option<A>,
    /// Layer normalisation over products: gain and shift of W·x, [2, G·H]; 1 and 0 when absent.
    pub norm_ih: Option<A>,
    /// Layer normalisation: gain and shift of U·h, or of each gate's sum, [2, G·H]; 1 and 0 when absent.
    pub norm_hh: Option<A>,
    /// Layer normalisation: gain and shift of c', [2, H]; 1 and 0 when absent.
    pub norm_c: Option<A>,
}

impl<A> RnnWeights<A> {
    /// The two matrices alone.
    pub fn new(weight_ih: A, weight_hh: A) -> Self {
        Self {
            weight_ih,
            weight_hh,
            bias_ih: None,
            bias_hh: None,
            peephole: None,
            weight_hr: None,
            norm_ih: None,
            norm_hh: None,
            norm_c: None,
        }
    }

    /// Each tensor through a fallible function of the tensor and its name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(
        &'a self,
        mut f: impl FnMut(&'static str, &'a A) -> Result<B, E>,
    ) -> Result<RnnWeights<B>, E> {
        let weight_ih = f("weight_ih", &self.weight_ih)?;
        let weight_hh = f("weight_hh", &self.weight_hh)?;
        let mut opt = |name: &'static str, a: &'a Option<A>| a.as_ref().map(|a| f(name, a)).transpose();
        Ok(RnnWeights {
            weight_ih,
            weight_hh,
            bias_ih: opt("bias_ih", &self.bias_ih)?,
            bias_hh: opt("bias_hh", &self.bias_hh)?,
            peephole: opt("peephole", &self.peephole)?,
            weight_hr: opt("weight_hr", &self.weight_hr)?,
            norm_ih: opt("norm_ih", &self.norm_ih)?,
            norm_hh: opt("norm_hh", &self.norm_hh)?,
            norm_c: opt("norm_c", &self.norm_c)?,
        })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> RnnWeights<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a)));
        mapped
    }
}

/// Weights of a stack: `layers[l][d]`, d = 0 forward (or the only direction), 1 backward.
pub type RnnStack<A> = Vec<Vec<RnnWeights<A>>>;

/// What a recurrent encoder reads; T steps, B rows, I inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct RnnInputs<A: TensorLike> {
    /// [T, B, I] (a batch-first tensor is a permuted view).
    pub input: A,
    /// [layers · directions, B, P]; zeros when absent.
    pub initial_h: Option<A>,
    /// LSTM: [layers · directions, B, H]; zeros when absent.
    pub initial_c: Option<A>,
    /// `[B]`: how many steps of each row are real; 0 is allowed. `upload` refuses more than T; in a tensor of the caller's
    /// own more than T are T.
    pub lengths: Option<A::Integers>,
}

impl<A: TensorLike> RnnInputs<A> {
    /// An input, zero state, full length.
    pub fn new(input: A) -> Self {
        Self { input, initial_h: None, initial_c: None, lengths: None }
    }

    /// The next chunk of a sequence: starts from the state that `previous` ended with. Chunk after chunk through
    /// forward layers equals one call.
    pub fn after(input: A, previous: RnnOutputs<A>) -> Self {
        Self { input, initial_h: Some(previous.final_h), initial_c: previous.final_c, lengths: None }
    }

    /// Each tensor through a fallible function of the tensor and its name: one for tensors of numbers, one for those of
    /// integers.
    ///
    /// # Errors
    /// The first error of either.
    pub fn try_map<'a, B: TensorLike, E>(
        &'a self,
        mut numbers: impl FnMut(&'static str, &'a A) -> Result<B, E>,
        mut integers: impl FnMut(&'static str, &'a A::Integers) -> Result<B::Integers, E>,
    ) -> Result<RnnInputs<B>, E> {
        let mut opt = |name: &'static str, a: &'a Option<A>| a.as_ref().map(|a| numbers(name, a)).transpose();
        let initial_h = opt("initial_h", &self.initial_h)?;
        let initial_c = opt("initial_c", &self.initial_c)?;
        let lengths = self.lengths.as_ref().map(|a| integers("lengths", a)).transpose()?;
        Ok(RnnInputs { input: numbers("input", &self.input)?, initial_h, initial_c, lengths })
    }

    /// Each tensor through a function: one for tensors of numbers, one for those of integers.
    pub fn map<'a, B: TensorLike>(
        &'a self,
        mut numbers: impl FnMut(&'a A) -> B,
        mut integers: impl FnMut(&'a A::Integers) -> B::Integers,
    ) -> RnnInputs<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(numbers(a)), |_, a| Ok(integers(a)));
        mapped
    }

    /// Each tensor of numbers through a function, integers as they are: host arrays of another element type.
    pub fn map_numbers<'a, B: TensorLike<Integers = A::Integers>>(
        &'a self,
        numbers: impl FnMut(&'a A) -> B,
    ) -> RnnInputs<B> {
        self.map(numbers, A::Integers::clone)
    }
}

/// What a recurrent encoder gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct RnnOutputs<A> {
    /// [T, B, directions · P], or [T, B, P] when the directions are merged otherwise; without T for [`Steps::Last`].
    pub output: A,
    /// [layers · directions, B, P], after each row's last valid step.
    pub final_h: A,
    /// LSTM: [layers · directions, B, H].
    pub final_c: Option<A>,
}

impl<A> RnnOutputs<A> {
    /// The tensors there are, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &A)> {
        let always = [("output", &self.output), ("final_h", &self.final_h)];
        always.into_iter().chain(self.final_c.as_ref().map(|c| ("final_c", c)))
    }
}
