//! Weights from other frameworks: each names, orders and transposes them in its own way.

use super::{Cell, RnnWeights};
use crate::error::{Error, Result};
use crate::tensor::Array;

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
            ..self.clone()
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
        Self { bias_ih, bias_hh, peephole, ..Self::new(w, r) }.reorder_gates(order)
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
        let matrices = Self::new(two("kernel", kernel)?, two("recurrent_kernel", recurrent_kernel)?);
        Self { bias_ih, bias_hh, ..matrices }.reorder_gates(order)
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
        Self { bias_ih: bias.cloned(), ..Self::new(ih, hh) }.reorder_gates(&[0, 2, 1, 3])
    }
}
