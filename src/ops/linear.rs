//! Linear layers, embeddings and dense copies on the GPU.

use crate::error::{Error, Result};
use crate::gpu::{Run, Tensor};
use crate::kernels::{copy, gather, project};
use crate::rnn::Activation;
use crate::tensor::DType;

/// `f(Σ_p x_p · w_pᵀ + b)` for x_p [.., K_p], w_p [N, K_p], b `[N]`: one linear layer over a concatenation that is never
/// built. The result is f32 [.., N] with the leading axes of the first x.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the work does not fit the device.
pub fn linear(
    run: &mut Run<'_>,
    summands: &[(&Tensor, &Tensor)],
    bias: Option<&Tensor>,
    activation: Option<Activation>,
) -> Result<Tensor> {
    let Some((x, w)) = summands.first() else {
        return Err(Error::missing("x", "at least one input of a linear layer"));
    };
    let (&[columns, _], Some((_, leading))) = (w.shape(), x.shape().split_last()) else {
        let found = format!("{:?}, {:?}", x.shape(), w.shape());
        return Err(Error::shape("input, weight", "ranks", "1 to 4 and 2", found));
    };
    let shape = [leading, &[columns]].concat();
    let (view, y) = run.output("linear", &shape, DType::F32)?;
    let bound: Vec<_> = summands.iter().map(|(x, w)| (run.bind("x", x), run.bind("weight", w))).collect();
    let pairs: Vec<_> = bound.iter().map(|(x, w)| (x, w)).collect();
    let bias = bias.map(|b| run.bind("bias", b));
    let caps = run.gpu().caps();
    project::record(run.recording_mut(), caps, &pairs, bias.as_ref(), activation, &view)?;
    Ok(y)
}

/// The elements of a view, made dense in row-major order: what a reshape that joins axes needs.
///
/// # Errors
/// [`Error::Shape`] for more than four axes, [`Error::Limit`] when the work does not fit the device.
pub fn contiguous(run: &mut Run<'_>, tensor: &Tensor) -> Result<Tensor> {
    let (view, dense) = run.output("contiguous", tensor.shape(), tensor.dtype())?;
    let source = run.bind("view", tensor);
    let caps = run.gpu().caps();
    copy::record(run.recording_mut(), caps, &source, &view)?;
    Ok(dense)
}

/// The same tensor in f32.
pub(crate) fn to_f32(run: &mut Run<'_>, tensor: &Tensor) -> Result<Tensor> {
    if tensor.dtype() == DType::F32 {
        return Ok(tensor.clone());
    }
    let (view, wide) = run.output("in f32", tensor.shape(), DType::F32)?;
    let source = run.bind("in f16", tensor);
    let caps = run.gpu().caps();
    copy::record(run.recording_mut(), caps, &source, &view)?;
    Ok(wide)
}

/// Rows of a table [V, D] by ids `[R]` (u32), as [R, D] in the table's type. Ids past the table read its last row: check
/// them before they reach the GPU.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the work does not fit the device.
pub fn embed(run: &mut Run<'_>, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (&[_, width], &[rows]) = (table.shape(), ids.shape()) else {
        let found = format!("{:?}, {:?}", table.shape(), ids.shape());
        return Err(Error::shape("table, ids", "ranks", "2 and 1", found));
    };
    let (view, output) = run.output("embedding", &[rows, width], table.dtype())?;
    let (table, ids) = (run.bind("table", table), run.bind("ids", ids));
    let caps = run.gpu().caps();
    gather::record(run.recording_mut(), caps, &table, &ids, &view)?;
    Ok(output)
}
