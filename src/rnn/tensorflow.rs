//! Weights of TensorFlow 1's recurrent cells (`tf.nn.rnn_cell`), whose one kernel multiplies input and state together.

use super::RnnWeights;
use super::convert::{matrix, shaped, stacked, units};
use crate::error::{Error, Result};
use crate::tensor::Array;

impl<T: Clone> RnnWeights<Array<T>> {
    /// From `BasicLSTMCell`: `kernel` [I + H, 4·H] and `bias` [4·H], gates i, j, f, o. The cell adds its `forget_bias`,
    /// 1.0 by default, at run time: set [`Rnn::forget_bias`](super::Rnn::forget_bias).
    ///
    /// # Errors
    /// [`Error::Shape`] when a tensor does not fit the others.
    pub fn from_tensorflow(kernel: &Array<T>, bias: Option<&Array<T>>) -> Result<Self> {
        Self::from_tensorflow_lstm(kernel, bias, None, None)
    }

    /// From `LSTMCell`: `kernel` [I + P, 4·H], gates i, j, f, o, and `bias` [4·H]; with `use_peepholes` the vectors
    /// `w_i_diag`, `w_f_diag` and `w_o_diag` `[H]`, in this order; with `num_proj` the `projection/kernel` [H, P].
    ///
    /// The cell adds its `forget_bias`, 1.0 by default, at run time: set
    /// [`Rnn::forget_bias`](super::Rnn::forget_bias). Its `cell_clip` and `proj_clip` are
    /// [`Rnn::cell_clip`](super::Rnn::cell_clip) and [`Rnn::projection_clip`](super::Rnn::projection_clip).
    ///
    /// # Errors
    /// [`Error::Shape`] when a tensor does not fit the others.
    pub fn from_tensorflow_lstm(
        kernel: &Array<T>,
        bias: Option<&Array<T>>,
        peepholes: Option<[&Array<T>; 3]>,
        projection: Option<&Array<T>>,
    ) -> Result<Self> {
        let [_, columns] = matrix("kernel", kernel, "[I + P, 4·H]")?;
        let hidden = units("kernel", 1, 4, columns)?;
        let state = match projection {
            None => hidden,
            Some(projection) => {
                let [rows, state] = matrix("projection/kernel", projection, "[H, P]")?;
                if rows != hidden {
                    return Err(Error::shape("projection/kernel", "axis 0 (H)", hidden, rows));
                }
                state
            }
        };
        let [weight_ih, weight_hh] = halves("kernel", kernel, state)?;
        if let Some(bias) = bias {
            shaped("bias", bias, &[columns])?;
        }
        let peephole = |rows: [&Array<T>; 3]| -> Result<Array<T>> {
            for (name, row) in ["w_i_diag", "w_f_diag", "w_o_diag"].into_iter().zip(rows) {
                shaped(name, row, &[hidden])?;
            }
            stacked(&[3, hidden], &rows)
        };
        Self {
            bias_ih: bias.cloned(),
            peephole: peepholes.map(peephole).transpose()?,
            weight_hr: projection.map(|projection| projection.permute(&[1, 0])).transpose()?,
            ..Self::new(weight_ih, weight_hh)
        }
        .reorder_gates(&[0, 2, 1, 3])
    }

    /// From `GRUCell`: `gates/kernel` [I + H, 2·H], gates r, u, with `gates/bias` [2·H], and `candidate/kernel`
    /// [I + H, H] with `candidate/bias` `[H]`. Its reset comes before the product ([`Reset::Before`]), and its u is z:
    /// h' = u∘h + (1 − u)∘c.
    ///
    /// [`Reset::Before`]: super::Reset::Before
    ///
    /// # Errors
    /// [`Error::Shape`] when a tensor does not fit the others.
    pub fn from_tensorflow_gru(
        gates_kernel: &Array<T>,
        gates_bias: &Array<T>,
        candidate_kernel: &Array<T>,
        candidate_bias: &Array<T>,
    ) -> Result<Self> {
        let [rows, columns] = matrix("gates/kernel", gates_kernel, "[I + H, 2·H]")?;
        let hidden = units("gates/kernel", 1, 2, columns)?;
        shaped("gates/bias", gates_bias, &[columns])?;
        shaped("candidate/kernel", candidate_kernel, &[rows, hidden])?;
        shaped("candidate/bias", candidate_bias, &[hidden])?;
        let [gates_ih, gates_hh] = halves("gates/kernel", gates_kernel, hidden)?;
        let [candidate_ih, candidate_hh] = halves("candidate/kernel", candidate_kernel, hidden)?;
        Ok(Self {
            bias_ih: Some(stacked(&[3 * hidden], &[gates_bias, candidate_bias])?),
            ..Self::new(
                stacked(&[3 * hidden, rows - hidden], &[&gates_ih, &candidate_ih])?,
                stacked(&[3 * hidden, hidden], &[&gates_hh, &candidate_hh])?,
            )
        })
    }
}

/// A kernel [I + P, C] as [C, I] and [C, P].
fn halves<T: Clone>(name: &str, kernel: &Array<T>, state: usize) -> Result<[Array<T>; 2]> {
    let [rows, columns] = matrix(name, kernel, "[I + P, C]")?;
    if rows <= state {
        return Err(Error::shape(name, "axis 0 (I + P)", format!("more than the state's {state}"), rows));
    }
    let (ih, hh) = kernel.data().split_at((rows - state) * columns);
    let transposed = |rows: usize, part: &[T]| Array::new(&[rows, columns], part.to_vec())?.permute(&[1, 0]);
    Ok([transposed(rows - state, ih)?, transposed(state, hh)?])
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
    fn a_kernel_is_split_transposed_and_reordered() {
        // I = 2, P = 1, H = 1
        let diagonals = [5.0, 6.0, 7.0].map(|x| Array::filled(&[1], x));
        let got = RnnWeights::from_tensorflow_lstm(
            &table(&[3, 4]),
            Some(&table(&[4])),
            Some(diagonals.each_ref()),
            Some(&table(&[1, 1])),
        )
        .unwrap();
        // i, j, f, o to i, f, g, o
        assert_eq!(got.weight_ih, Array::new(&[4, 2], vec![0., 10., 2., 12., 1., 11., 3., 13.]).unwrap());
        assert_eq!(got.weight_hh, Array::new(&[4, 1], vec![20., 22., 21., 23.]).unwrap());
        assert_eq!(got.bias_ih.unwrap().data(), [0., 2., 1., 3.]);
        assert_eq!(got.peephole.unwrap(), Array::new(&[3, 1], vec![5., 6., 7.]).unwrap());
        assert_eq!(got.weight_hr.unwrap(), table(&[1, 1]));
    }

    #[test]
    fn a_projection_says_how_wide_the_state_is() {
        let got = RnnWeights::from_tensorflow_lstm(&table(&[5, 8]), None, None, Some(&table(&[2, 3]))).unwrap();
        assert_eq!([got.weight_ih.shape(), got.weight_hh.shape()], [[8, 2], [8, 3]]);
        assert_eq!(got.weight_hr.unwrap(), Array::new(&[3, 2], vec![0., 10., 1., 11., 2., 12.]).unwrap());
    }

    #[test]
    fn the_two_kernels_of_a_gru_become_one() {
        let got = RnnWeights::from_tensorflow_gru(
            &table(&[3, 4]),
            &table(&[4]),
            &table(&[3, 2]).map(|x| -x),
            &table(&[2]).map(|x| -x),
        )
        .unwrap();
        assert_eq!(got.weight_ih, Array::new(&[6, 1], vec![0., 1., 2., 3., 0., -1.]).unwrap());
        let rows = [[10., 20.], [11., 21.], [12., 22.], [13., 23.], [-10., -20.], [-11., -21.]];
        assert_eq!(got.weight_hh, Array::new(&[6, 2], rows.concat()).unwrap());
        assert_eq!((got.bias_ih.unwrap().data(), got.bias_hh), (&[0., 1., 2., 3., 0., -1.][..], None));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        type Shapes<'a> = (&'a [usize], Option<&'a [usize]>, Option<[&'a [usize]; 3]>, Option<&'a [usize]>);
        let lstm = |(kernel, bias, peepholes, projection): Shapes| {
            let [bias, projection] = [bias, projection].map(|shape| shape.map(table));
            let peepholes = peepholes.map(|rows| rows.map(table));
            let peepholes = peepholes.as_ref().map(|rows| rows.each_ref());
            let kernel = table(kernel);
            RnnWeights::from_tensorflow_lstm(&kernel, bias.as_ref(), peepholes, projection.as_ref())
                .unwrap_err()
                .to_string()
        };
        let gru = |shapes: [&[usize]; 4]| {
            let [a, b, c, d] = shapes.map(table);
            RnnWeights::from_tensorflow_gru(&a, &b, &c, &d).unwrap_err().to_string()
        };
        for (found, wanted) in [
            (lstm((&[8], None, None, None)), "`kernel` rank: expected 2 [I + P, 4·H], found 1"),
            (lstm((&[3, 6], None, None, None)), "`kernel` axis 1 (gates · H): expected a multiple of 4, found 6"),
            (lstm((&[2, 8], None, None, None)), "`kernel` axis 0 (I + P): expected more than the state's 2, found 2"),
            (lstm((&[3, 8], Some(&[4]), None, None)), "`bias` axis 0: expected 8, found 4"),
            (lstm((&[3, 8], None, Some([&[2], &[2], &[3]]), None)), "`w_o_diag` axis 0: expected 2, found 3"),
            (lstm((&[3, 8], None, None, Some(&[3, 2]))), "`projection/kernel` axis 0 (H): expected 2, found 3"),
            (
                lstm((&[3, 8], None, None, Some(&[2, 3]))),
                "`kernel` axis 0 (I + P): expected more than the state's 3, found 3",
            ),
            (
                gru([&[3, 3], &[4], &[3, 2], &[2]]),
                "`gates/kernel` axis 1 (gates · H): expected a multiple of 2, found 3",
            ),
            (gru([&[3, 4], &[2], &[3, 2], &[2]]), "`gates/bias` axis 0: expected 4, found 2"),
            (gru([&[3, 4], &[4], &[4, 2], &[2]]), "`candidate/kernel` axis 0: expected 3, found 4"),
            (gru([&[3, 4], &[4], &[3, 2], &[4]]), "`candidate/bias` axis 0: expected 2, found 4"),
        ] {
            assert_eq!(found, wanted);
        }
    }
}
