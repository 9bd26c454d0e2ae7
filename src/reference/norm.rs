//! Normalisation of rows, sums of rows, and their largest entries.

use super::Float;
use super::linear::largest;
use crate::error::{Error, Result};
use crate::norm::{Norm, NormKind};
use crate::tensor::Array;

/// Layer or RMS normalisation over the last axis of x [.., N], then ∘ weight + bias, each `[N]`.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Option`] for an ε that is not above 0.
pub fn norm<T: Float>(
    norm: Norm,
    x: &Array<T>,
    weight: Option<&Array<T>>,
    bias: Option<&Array<T>>,
) -> Result<Array<T>> {
    norm.check()?;
    let &width = x.shape().last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
    for (name, array) in [("weight", weight), ("bias", bias)] {
        if let Some(array) = array
            && array.shape() != [width]
        {
            return Err(Error::shape(name, "shape", format!("[{width}]"), format!("{:?}", array.shape())));
        }
    }
    let mut y = x.clone();
    for row in y.data_mut().chunks_exact_mut(width.max(1)) {
        normalize(norm, row);
        for (k, v) in row.iter_mut().enumerate() {
            *v = weight.map_or(*v, |weight| *v * weight.data()[k]);
            *v = bias.map_or(*v, |bias| *v + bias.data()[k]);
        }
    }
    Ok(y)
}

/// A row by the formula of [`NormKind`]. Values are divided by the largest of them first, so that no sum or square overflows
/// or vanishes.
pub(super) fn normalize<T: Float>(norm: Norm, row: &mut [T]) {
    let count = T::from_f64(row.len() as f64);
    let unit = match largest(row) {
        largest if largest == T::ZERO => T::ONE,
        largest => largest,
    };
    row.iter_mut().for_each(|v| *v = *v / unit);
    let mean = match norm.kind {
        NormKind::Layer => row.iter().copied().sum::<T>() / count,
        NormKind::Rms => T::ZERO,
    };
    let square = row.iter().map(|&v| (v - mean) * (v - mean)).sum::<T>() / count;
    let deviation = length(unit * square.sqrt(), T::from_f32(norm.epsilon).sqrt());
    row.iter_mut().for_each(|v| *v = (*v - mean) / (deviation / unit));
}

/// √(a² + b²) of two numbers of which b is above 0.
fn length<T: Float>(a: T, b: T) -> T {
    let (longer, shorter) = if b > a { (b, a) } else { (a, b) };
    longer * (T::ONE + (shorter / longer) * (shorter / longer)).sqrt()
}

/// The sum over the last axis of x [B, .., K], or with `mean` the mean, of the first `lengths[b]` (`[B]`) entries where
/// there are lengths; a mean of nothing is 0.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit.
pub fn reduce<T: Float>(x: &Array<T>, mean: bool, lengths: Option<&Array<u32>>) -> Result<Array<T>> {
    let (&width, lead) = x.shape().split_last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
    let batch = lead.first().copied().unwrap_or(1);
    if let Some(lengths) = lengths
        && lengths.shape() != [batch]
    {
        return Err(Error::shape("lengths", "shape", format!("[{batch}]"), format!("{:?}", lengths.shape())));
    }
    let lengths = super::lengths("lengths", lengths, usize::MAX)?;
    let rows: usize = lead.iter().product();
    let of_row = |row: usize| {
        let count = lengths.as_ref().map_or(width, |lengths| lengths[row / (rows / batch)].min(width));
        let sum = x.data()[row * width..][..count].iter().copied().sum::<T>();
        if mean { sum / T::from_f64(count.max(1) as f64) } else { sum }
    };
    Ok(Array::from_fn(lead, of_row))
}

/// ln Σ e^x over the last axis of x [.., N], which goes; −∞ of nothing, NaN with +∞ among them.
///
/// # Errors
/// [`Error::Shape`] for a scalar.
pub fn log_sum_exp<T: Float>(x: &Array<T>) -> Result<Array<T>> {
    let (&width, lead) = x.shape().split_last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
    let of_row = |row: usize| {
        let row = &x.data()[row * width..][..width];
        let largest = row.iter().copied().fold(T::NEG_INFINITY, T::max);
        match largest == T::NEG_INFINITY {
            true => largest,
            false => largest + row.iter().map(|&x| (x - largest).exp()).sum::<T>().ln(),
        }
    };
    Ok(Array::from_fn(lead, of_row))
}

/// The k largest entries of each row of x [.., N], largest first, the smaller index first among equals: values and indices,
/// [.., k]. NaN counts as −∞.
///
/// # Errors
/// [`Error::Shape`] when k is above N.
pub fn top_k<T: Float>(x: &Array<T>, k: usize) -> Result<(Array<T>, Array<u32>)> {
    let (&width, lead) = x.shape().split_last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
    if k > width {
        return Err(Error::shape("x", "last axis", format!("at least the {k} entries asked for"), width));
    }
    let (mut values, mut ids) = (Vec::new(), Vec::new());
    for row in x.data().chunks_exact(width.max(1)) {
        let key = |i: &u32| {
            let value = row[*i as usize];
            if value.to_f64().is_nan() { T::NEG_INFINITY } else { value }
        };
        let mut order: Vec<u32> = (0..width as u32).collect();
        // Stable, so that equals stay in the order of their indices.
        order.sort_by(|a, b| key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal));
        values.extend(order[..k].iter().map(|&i| row[i as usize]));
        ids.extend_from_slice(&order[..k]);
    }
    let shape = [lead, &[k]].concat();
    Ok((Array::new(&shape, values)?, Array::new(&shape, ids)?))
}
