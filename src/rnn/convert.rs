//! What the converters of other frameworks' weights share.

use super::RnnWeights;
use crate::error::{Error, Result};
use crate::tensor::Array;

impl<T: Clone> RnnWeights<Array<T>> {
    /// The rows of both matrices and biases with their gates in another order: gate `k` of the result is gate
    /// `order[k]` of these.
    ///
    /// # Errors
    /// When a weight has not as many rows as there are gates.
    pub(super) fn reorder_gates(&self, order: &[usize]) -> Result<Self> {
        let rows = |name: &str, a: &Array<T>| -> Result<Array<T>> {
            let n = a.shape().first().copied().unwrap_or(0);
            if n == 0 || !n.is_multiple_of(order.len()) {
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
}

/// The two axes of a matrix, each at least 1; `shape` is what they should be.
pub(super) fn matrix<T>(name: &str, array: &Array<T>, shape: &str) -> Result<[usize; 2]> {
    match *array.shape() {
        [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
        [_, _] => Err(Error::shape(name, "shape", shape, format!("{:?}", array.shape()))),
        _ => Err(Error::shape(name, "rank", format!("2 {shape}"), array.shape().len())),
    }
}

/// H of an axis that has the rows or columns of all gates.
pub(super) fn units(name: &str, axis: usize, gates: usize, found: usize) -> Result<usize> {
    if found == 0 || !found.is_multiple_of(gates) {
        return Err(Error::shape(name, format!("axis {axis} (gates · H)"), format!("a multiple of {gates}"), found));
    }
    Ok(found / gates)
}

/// A tensor of exactly this shape.
pub(super) fn shaped<T>(name: &str, array: &Array<T>, wanted: &[usize]) -> Result<()> {
    let found = array.shape();
    if found.len() != wanted.len() {
        return Err(Error::shape(name, "rank", format!("{} {wanted:?}", wanted.len()), found.len()));
    }
    match (0..wanted.len()).find(|&axis| found[axis] != wanted[axis]) {
        None => Ok(()),
        Some(axis) => Err(Error::shape(name, format!("axis {axis}"), wanted[axis], found[axis])),
    }
}

/// Vectors and rows one after the other.
pub(super) fn stacked<T: Clone>(shape: &[usize], arrays: &[&Array<T>]) -> Result<Array<T>> {
    Array::new(shape, arrays.iter().flat_map(|array| array.data().iter().cloned()).collect())
}
