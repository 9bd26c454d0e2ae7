//! Weights of Keras' `LSTM`, `GRU` and `SimpleRNN`.

use super::convert::{matrix, shaped, units};
use super::{Cell, Reset, RnnWeights};
use crate::error::{Error, Result};
use crate::tensor::Array;

impl<T: Clone> RnnWeights<Array<T>> {
    /// From Keras' `kernel` [I, G·H], `recurrent_kernel` [H, G·H] and `bias` [G·H]: gates i, f, c, o for LSTM, z, r, h
    /// for GRU. A GRU with `reset_after` ([`Reset::After`]) has two biases, [2, 3·H]: of the input and of the state.
    ///
    /// # Errors
    /// [`Error::Shape`] when a tensor does not fit the cell or the others.
    pub fn from_keras(
        cell: Cell,
        kernel: &Array<T>,
        recurrent_kernel: &Array<T>,
        bias: Option<&Array<T>>,
    ) -> Result<Self> {
        let [_, columns] = matrix("kernel", kernel, "[I, G·H]")?;
        let hidden = units("kernel", 1, cell.gates(), columns)?;
        shaped("recurrent_kernel", recurrent_kernel, &[hidden, columns])?;
        let (bias_ih, bias_hh) = match (bias, cell) {
            (None, _) => (None, None),
            (Some(both), Cell::Gru { reset: Reset::After }) => {
                if both.shape().len() == 1 {
                    let expected = "2 [2, 3·H]: a bias of rank 1 is that of `reset_after = False`, Reset::Before";
                    return Err(Error::shape("bias", "rank", expected, 1));
                }
                shaped("bias", both, &[2, columns])?;
                let (ih, hh) = both.data().split_at(columns);
                (Some(Array::new(&[columns], ih.to_vec())?), Some(Array::new(&[columns], hh.to_vec())?))
            }
            (Some(one), _) => {
                shaped("bias", one, &[columns])?;
                (Some(one.clone()), None)
            }
        };
        let order: &[usize] = match cell {
            Cell::Lstm => &[0, 1, 2, 3],
            Cell::Gru { .. } => &[1, 0, 2],
            Cell::Rnn => &[0],
        };
        let matrices = Self::new(kernel.permute(&[1, 0])?, recurrent_kernel.permute(&[1, 0])?);
        Self { bias_ih, bias_hh, ..matrices }.reorder_gates(order)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Element [row, column] is 10·row + column.
    fn table(shape: &[usize]) -> Array<f32> {
        let columns = shape[shape.len() - 1];
        Array::from_fn(shape, |k| (10 * (k / columns) + k % columns) as f32)
    }

    #[test]
    fn gates_are_reordered_and_kernels_transposed() {
        let cell = Cell::Gru { reset: Reset::After };
        let got = RnnWeights::from_keras(cell, &table(&[2, 6]), &table(&[2, 6]), Some(&table(&[2, 6]))).unwrap();
        // z, r, h to r, z, n
        assert_eq!(got.weight_ih.data(), [2., 12., 3., 13., 0., 10., 1., 11., 4., 14., 5., 15.]);
        assert_eq!(got.weight_hh, got.weight_ih);
        assert_eq!(got.bias_ih.unwrap().data(), [2., 3., 0., 1., 4., 5.]);
        assert_eq!(got.bias_hh.unwrap().data(), [12., 13., 10., 11., 14., 15.]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (lstm, gru) = (Cell::Lstm, |reset| Cell::Gru { reset });
        let refused = |cell, kernel: &[usize], recurrent: &[usize], bias: &[usize]| {
            let bias = table(bias);
            RnnWeights::from_keras(cell, &table(kernel), &table(recurrent), Some(&bias)).unwrap_err().to_string()
        };
        for (found, wanted) in [
            (refused(lstm, &[8], &[2, 8], &[8]), "`kernel` rank: expected 2 [I, G·H], found 1"),
            (refused(lstm, &[3, 9], &[2, 8], &[8]), "`kernel` axis 1 (gates · H): expected a multiple of 4, found 9"),
            (refused(lstm, &[3, 8], &[3, 8], &[8]), "`recurrent_kernel` axis 0: expected 2, found 3"),
            (refused(lstm, &[3, 8], &[2, 4], &[8]), "`recurrent_kernel` axis 1: expected 8, found 4"),
            (refused(lstm, &[3, 8], &[2, 8], &[2, 8]), "`bias` rank: expected 1 [8], found 2"),
            (refused(gru(Reset::Before), &[3, 6], &[2, 6], &[2, 6]), "`bias` rank: expected 1 [6], found 2"),
            (
                refused(gru(Reset::After), &[3, 6], &[2, 6], &[6]),
                "`bias` rank: expected 2 [2, 3·H]: a bias of rank 1 is that of `reset_after = False`, Reset::Before, \
                 found 1",
            ),
            (refused(gru(Reset::After), &[3, 6], &[2, 6], &[2, 3]), "`bias` axis 1: expected 6, found 3"),
        ] {
            assert_eq!(found, wanted);
        }
    }
}
