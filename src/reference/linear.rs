//! Linear layers, embeddings and activation functions.

use super::{Float, parallel};
use crate::error::{Error, Result};
use crate::rnn::Activation;
use crate::tensor::Array;

/// y = activation(x·Wᵀ + b) with x [.., K], `weight` W [N, K] and `bias` b `[N]` (PyTorch's `nn.Linear`).
///
/// # Errors
/// [`Error::Shape`] when an axis does not fit.
pub fn linear<T: Float>(
    x: &Array<T>,
    weight: &Array<T>,
    bias: Option<&Array<T>>,
    activation: Option<Activation>,
) -> Result<Array<T>> {
    let &[units, columns] = weight.shape() else {
        return Err(Error::shape("weight", "rank", "2 [N, K]", weight.shape().len()));
    };
    let Some((&width, lead)) = x.shape().split_last() else {
        return Err(Error::shape("x", "rank", "at least 1", 0));
    };
    if width != columns {
        return Err(Error::shape("x", format!("axis {} (features)", lead.len()), columns, width));
    }
    if let Some(b) = bias
        && b.shape() != [units]
    {
        return Err(Error::shape("bias", "shape", format!("[{units}]"), format!("{:?}", b.shape())));
    }
    if columns == 0 || units == 0 {
        return Err(Error::shape("weight", "shape", "at least 1 on each axis", format!("{:?}", weight.shape())));
    }
    let weight = transpose(weight.data(), columns);
    let rows = parallel::map(x.data().len() / columns, |row| {
        let mut y = product(&x.data()[row * columns..][..columns], &weight, units, bias);
        if let Some(activation) = activation {
            y.iter_mut().for_each(|y| *y = activate(activation, *y));
        }
        y
    });
    Array::new(&[lead, &[units]].concat(), rows.concat())
}

/// Rows `ids` of `table` [V, D]: [ids, D].
///
/// # Errors
/// [`Error::Shape`] when the table is no matrix or an id is not below V.
pub fn embed<T: Float>(table: &Array<T>, ids: &[u32]) -> Result<Array<T>> {
    let &[entries, width] = table.shape() else {
        return Err(Error::shape("table", "rank", "2 [V, D]", table.shape().len()));
    };
    let mut data = Vec::with_capacity(ids.len().saturating_mul(width));
    for (k, &id) in ids.iter().enumerate() {
        if id as usize >= entries {
            return Err(Error::shape("ids", format!("id {k}"), format!("below {entries}"), id));
        }
        data.extend_from_slice(&table.data()[id as usize * width..][..width]);
    }
    Array::new(&[ids.len(), width], data)
}

/// The activation functions of ONNX' LSTM, GRU and RNN, by that specification's formulas. NaN stays NaN.
pub fn activate<T: Float>(activation: Activation, x: T) -> T {
    let (zero, one, f) = (T::ZERO, T::ONE, T::from_f32);
    match activation {
        Activation::Sigmoid => one / (one + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Relu => {
            if x < zero {
                zero
            } else {
                x
            }
        }
        Activation::Affine { alpha, beta } => f(alpha) * x + f(beta),
        Activation::LeakyRelu { alpha } => {
            if x < zero {
                f(alpha) * x
            } else {
                x
            }
        }
        Activation::ThresholdedRelu { alpha } => {
            if x < f(alpha) {
                zero
            } else {
                x
            }
        }
        Activation::ScaledTanh { alpha, beta } => f(alpha) * (f(beta) * x).tanh(),
        Activation::HardSigmoid { alpha, beta } => (f(alpha) * x + f(beta)).clamp(zero, one),
        Activation::Elu { alpha } => {
            if x < zero {
                f(alpha) * x.exp_m1()
            } else {
                x
            }
        }
        Activation::Softsign => x / (one + x.abs()),
        // log(1 + e^x) = max(x, 0) + log(1 + e^−|x|), which does not overflow
        Activation::Softplus => x.max(zero) + (-x.abs()).exp().ln_1p(),
        Activation::Gelu => x * T::from_f64(0.5 * erfc(-x.to_f64() / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let root = T::from_f64((2.0 / std::f64::consts::PI).sqrt());
            let inner = root * (x + T::from_f64(0.044_715) * x * x * x);
            f(0.5) * x * (one + inner.tanh())
        }
        Activation::Silu => x / (one + (-x).exp()),
    }
}

/// 1 − erf(x): the Taylor series of erf near 0, the continued fraction of erfc beyond (Abramowitz and Stegun 7.1.5 and 7.1.14).
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return 1.0 - 2.0 / std::f64::consts::PI.sqrt() * sum;
    }
    let fraction = (1..=120).rev().fold(x, |below, k| x + f64::from(k) / 2.0 / below);
    (-x * x).exp() / std::f64::consts::PI.sqrt() / fraction
}

/// [rows, columns] to [columns, rows].
pub(super) fn transpose<T: Float>(matrix: &[T], columns: usize) -> Vec<T> {
    let rows = matrix.len() / columns;
    let mut out = vec![T::ZERO; matrix.len()];
    for (r, row) in matrix.chunks_exact(columns).enumerate() {
        for (c, &x) in row.iter().enumerate() {
            out[c * rows + r] = x;
        }
    }
    out
}

/// b + x·M with x [K] and M [K, N], K in index order.
pub(super) fn product<T: Float>(x: &[T], matrix: &[T], columns: usize, bias: Option<&Array<T>>) -> Vec<T> {
    let mut y = bias.map_or_else(|| vec![T::ZERO; columns], |b| b.data().to_vec());
    for (&x, row) in x.iter().zip(matrix.chunks_exact(columns)) {
        add_scaled(&mut y, x, row);
    }
    y
}

/// The largest |x|; 0 of none.
pub(super) fn largest<T: Float>(x: &[T]) -> T {
    x.iter().fold(T::ZERO, |largest, x| largest.max(x.abs()))
}

/// y += a·x.
pub(super) fn add_scaled<T: Float>(y: &mut [T], a: T, x: &[T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}
