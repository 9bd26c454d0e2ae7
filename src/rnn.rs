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
//! is kept; the reverse direction starts at the last valid step.

use crate::error::{Error, Result};
use crate::tensor::Array;

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

    /// The activations that the cell has unless told otherwise: f for the gates, g for the candidate, h for the output.
    pub fn activations(self) -> [Activation; 3] {
        match self {
            Self::Lstm | Self::Gru { .. } => [Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
            Self::Rnn => [Activation::Tanh; 3],
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

/// Activation functions of ONNX's recurrent operators, with their parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
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

/// Which way a layer reads the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// From the first step to the last.
    #[default]
    Forward,
    /// From the last valid step to the first.
    Reverse,
    /// Both, joined as [`Merge`] says.
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
    /// [forward; backward], 2·H wide.
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
    /// How both directions are joined.
    pub merge: Merge,
    /// f, g, h of each cell (ONNX's order); LSTM uses all, GRU f and g, RNN f alone.
    pub activations: [Activation; 3],
    /// Pre-activations are clamped to ±clip (ONNX `clip`).
    pub clip: Option<f32>,
    /// LSTM: f = 1 − i (ONNX `input_forget`; the CIFG variant of Greff et al. 2017).
    pub input_forget: bool,
    /// LSTM: added to the forget gate's pre-activation (TensorFlow's `BasicLSTMCell` adds 1.0 at run time).
    pub forget_bias: f32,
}

impl Rnn {
    /// A cell with its usual activations, forward.
    pub fn new(cell: Cell) -> Self {
        Self {
            cell,
            direction: Direction::Forward,
            merge: Merge::Concat,
            activations: cell.activations(),
            clip: None,
            input_forget: false,
            forget_bias: 0.0,
        }
    }

    /// The same in both directions.
    pub fn bidirectional(mut self) -> Self {
        self.direction = Direction::Bidirectional;
        self
    }

    /// Width of the output for `hidden` units.
    pub fn output_width(&self, hidden: usize) -> usize {
        if self.merge == Merge::Concat { self.direction.count() * hidden } else { hidden }
    }
}

/// Weights of one layer in one direction, by PyTorch's names; G gates, H units, I inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct RnnWeights<A> {
    /// W [G·H, I].
    pub weight_ih: A,
    /// U [G·H, H].
    pub weight_hh: A,
    /// b [G·H], added to W·x.
    pub bias_ih: Option<A>,
    /// b' [G·H], added to U·h.
    pub bias_hh: Option<A>,
    /// LSTM: [3, H], rows i, f, o (Gers and Schmidhuber 2000). i and f see the old c, o the new one.
    pub peephole: Option<A>,
}

impl<T: Clone> RnnWeights<Array<T>> {
    /// The rows of every weight and bias with their gates in another order: gate `k` of the result is gate
    /// `order[k]` of these.
    ///
    /// # Errors
    /// When a weight has not as many rows as there are gates.
    fn reorder_gates(&self, order: &[usize]) -> Result<Self> {
        let rows = |name: &str, a: &Array<T>| -> Result<Array<T>> {
            let n = a.shape().first().copied().unwrap_or(0);
            if n == 0 || n % order.len() != 0 {
                return Err(Error::shape(name, "axis 0 (gates)", format!("a multiple of {}", order.len()), n));
            }
            let block = a.data().len() / order.len();
            let data = order.iter().flat_map(|&g| a.data()[g * block..(g + 1) * block].iter().cloned()).collect();
            Array::new(a.shape(), data)
        };
        Ok(Self {
            weight_ih: rows("weight_ih", &self.weight_ih)?,
            weight_hh: rows("weight_hh", &self.weight_hh)?,
            bias_ih: self.bias_ih.as_ref().map(|b| rows("bias_ih", b)).transpose()?,
            bias_hh: self.bias_hh.as_ref().map(|b| rows("bias_hh", b)).transpose()?,
            peephole: self.peephole.clone(),
        })
    }

    /// From ONNX's `W` [G·H, I], `R` [G·H, H], `B` [2·G·H] and `P` [3·H] of one direction: gates i, o, f, c and
    /// peepholes i, o, f for LSTM, z, r, h for GRU.
    ///
    /// # Errors
    /// When a tensor's length does not fit the gates.
    pub fn from_onnx(cell: Cell, w: Array<T>, r: Array<T>, b: Option<Array<T>>, p: Option<Array<T>>) -> Result<Self> {
        let halves = |b: Array<T>| -> Result<(Array<T>, Array<T>)> {
            let n = b.data().len();
            if !n.is_multiple_of(2) {
                return Err(Error::shape("B", "elements", "an even number", n));
            }
            let (ih, hh) = b.data().split_at(n / 2);
            Ok((Array::new(&[n / 2], ih.to_vec())?, Array::new(&[n / 2], hh.to_vec())?))
        };
        let (bias_ih, bias_hh) = b.map(halves).transpose()?.unzip();
        let peephole = p
            .map(|p| -> Result<_> {
                let h = p.data().len() / 3;
                let row = |k: usize| p.data()[k * h..(k + 1) * h].to_vec();
                Array::new(&[3, h], [row(0), row(2), row(1)].concat())
            })
            .transpose()?;
        let order: &[usize] = match cell {
            Cell::Lstm => &[0, 2, 3, 1],
            Cell::Gru { .. } => &[1, 0, 2],
            Cell::Rnn => &[0],
        };
        Self { weight_ih: w, weight_hh: r, bias_ih, bias_hh, peephole }.reorder_gates(order)
    }

    /// From Keras' `kernel` [I, G·H], `recurrent_kernel` [H, G·H] and `bias` ([G·H], or [2, G·H] for a GRU with
    /// `reset_after`): gates i, f, c, o for LSTM, z, r, h for GRU.
    ///
    /// # Errors
    /// When a tensor's rank or length does not fit the gates.
    pub fn from_keras(
        cell: Cell,
        kernel: &Array<T>,
        recurrent_kernel: &Array<T>,
        bias: Option<&Array<T>>,
    ) -> Result<Self> {
        let two = |name: &str, a: &Array<T>| match a.shape() {
            [_, _] => a.permute(&[1, 0]),
            shape => Err(Error::shape(name, "rank", 2, shape.len())),
        };
        let (bias_ih, bias_hh) = match bias {
            None => (None, None),
            Some(b) => match *b.shape() {
                [_] => (Some(b.clone()), None),
                [2, n] => {
                    (Some(Array::new(&[n], b.data()[..n].to_vec())?), Some(Array::new(&[n], b.data()[n..].to_vec())?))
                }
                ref shape => return Err(Error::shape("bias", "shape", "[G·H] or [2, G·H]", format!("{shape:?}"))),
            },
        };
        let order: &[usize] = match cell {
            Cell::Lstm => &[0, 1, 2, 3],
            Cell::Gru { .. } => &[1, 0, 2],
            Cell::Rnn => &[0],
        };
        Self {
            weight_ih: two("kernel", kernel)?,
            weight_hh: two("recurrent_kernel", recurrent_kernel)?,
            bias_ih,
            bias_hh,
            peephole: None,
        }
        .reorder_gates(order)
    }

    /// From TensorFlow 1's `BasicLSTMCell`: one `kernel` [I + H, 4·H] and `bias` [4·H], gates i, j, f, o. The cell
    /// adds 1.0 to the forget gate at run time: set [`Rnn::forget_bias`].
    ///
    /// # Errors
    /// When the kernel is not [I + H, 4·H].
    pub fn from_tensorflow(kernel: &Array<T>, bias: Option<&Array<T>>) -> Result<Self> {
        let &[rows, columns] = kernel.shape() else {
            return Err(Error::shape("kernel", "rank", 2, kernel.shape().len()));
        };
        let hidden = columns / 4;
        if columns % 4 != 0 || rows <= hidden {
            return Err(Error::shape("kernel", "shape", "[I + H, 4·H]", format!("{:?}", kernel.shape())));
        }
        let (ih, hh) = kernel.data().split_at((rows - hidden) * columns);
        let ih = Array::new(&[rows - hidden, columns], ih.to_vec())?.permute(&[1, 0])?;
        let hh = Array::new(&[hidden, columns], hh.to_vec())?.permute(&[1, 0])?;
        Self { weight_ih: ih, weight_hh: hh, bias_ih: bias.cloned(), bias_hh: None, peephole: None }
            .reorder_gates(&[0, 2, 1, 3])
    }
}

impl<A> RnnWeights<A> {
    /// Each tensor through a fallible function that is told the tensor's name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(&'a self, mut f: impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<RnnWeights<B>, E> {
        let mut opt = |name: &str, a: &'a Option<A>| a.as_ref().map(|a| f(name, a)).transpose();
        let bias_ih = opt("bias_ih", &self.bias_ih)?;
        let bias_hh = opt("bias_hh", &self.bias_hh)?;
        let peephole = opt("peephole", &self.peephole)?;
        Ok(RnnWeights {
            weight_ih: f("weight_ih", &self.weight_ih)?,
            weight_hh: f("weight_hh", &self.weight_hh)?,
            bias_ih,
            bias_hh,
            peephole,
        })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> RnnWeights<B> {
        match self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a))) {
            Ok(mapped) => mapped,
            Err(never) => match never {},
        }
    }
}

/// Weights of a stack: `layers[l][d]`, d = 0 forward (or the only direction), 1 backward.
pub type RnnStack<A> = Vec<Vec<RnnWeights<A>>>;

/// What a recurrent encoder reads; T steps, B rows, I inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct RnnInputs<A> {
    /// [T, B, I] (a batch-first tensor is a permuted view).
    pub input: A,
    /// [layers · directions, B, H]; zeros when absent.
    pub initial_h: Option<A>,
    /// LSTM: [layers · directions, B, H]; zeros when absent.
    pub initial_c: Option<A>,
    /// `[B]`: how many steps of each row are real; 0 is allowed.
    pub lengths: Option<A>,
}

impl<A> RnnInputs<A> {
    /// An input, zero state, full length.
    pub fn new(input: A) -> Self {
        Self { input, initial_h: None, initial_c: None, lengths: None }
    }

    /// Each tensor through a fallible function that is told the tensor's name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(&'a self, mut f: impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<RnnInputs<B>, E> {
        let mut opt = |name: &str, a: &'a Option<A>| a.as_ref().map(|a| f(name, a)).transpose();
        let initial_h = opt("initial_h", &self.initial_h)?;
        let initial_c = opt("initial_c", &self.initial_c)?;
        let lengths = opt("lengths", &self.lengths)?;
        Ok(RnnInputs { input: f("input", &self.input)?, initial_h, initial_c, lengths })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> RnnInputs<B> {
        match self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a))) {
            Ok(mapped) => mapped,
            Err(never) => match never {},
        }
    }
}

/// What a recurrent encoder gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct RnnOutputs<A> {
    /// [T, B, directions · H], or [T, B, H] when the directions are merged otherwise.
    pub output: A,
    /// [layers · directions, B, H], after each row's last valid step.
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
