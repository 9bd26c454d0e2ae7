//! Linear layers, embeddings and dense copies on the GPU.

pub use crate::epilogue::Epilogue;
use crate::error::{Error, Result};
use crate::gpu::{Run, Tensor};
use crate::kernels::{copy, gather, matmul};
use crate::recording::View;
use crate::tensor::DType;

/// `f(Σ_p x_p · w_pᵀ + bias + residual)` for x_p [.., M, K_p], w_p [N, K_p], or [.., N, K_p] with the leading axes of x
/// where each batch has weights of its own: one linear layer over a concatenation that is never built. Operands are f32
/// or f16 each, of any strides; the result is f32 [.., M, N] with the leading axes of the first x.
///
/// ```no_run
/// use regard::gpu::{Gpu, Run, Tensor};
/// use regard::ops::linear::{Epilogue, linear};
/// use regard::rnn::Activation;
///
/// # fn example(gpu: &Gpu, x: &Tensor, weight: &Tensor, bias: &Tensor) -> regard::Result<()> {
/// let mut run = Run::new(gpu);
/// let epilogue = Epilogue { bias: Some(bias), activation: Some(Activation::Relu), ..Epilogue::default() };
/// let y = linear(&mut run, &[(x, weight)], &epilogue)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the work does not fit the device.
pub fn linear(run: &mut Run<'_>, summands: &[(&Tensor, &Tensor)], epilogue: &Epilogue<'_, Tensor>) -> Result<Tensor> {
    let Some((x, w)) = summands.first() else {
        return Err(Error::missing("x", "at least one input of a linear layer"));
    };
    let (&[.., columns, _], Some((_, leading))) = (w.shape(), x.shape().split_last()) else {
        let found = format!("{:?}, {:?}", x.shape(), w.shape());
        return Err(Error::shape("input, weight", "ranks", "1 to 4 and 2 to 4", found));
    };
    let shape = [leading, &[columns]].concat();
    let (view, y) = run.output("linear", &shape, DType::F32)?;
    record(run, summands, epilogue, &view)?;
    Ok(y)
}

/// As [`linear`], into a tensor of the caller's, f32 or f16, of any strides.
///
/// # Errors
/// As [`linear`].
pub fn linear_into(
    run: &mut Run<'_>,
    summands: &[(&Tensor, &Tensor)],
    epilogue: &Epilogue<'_, Tensor>,
    y: &Tensor,
) -> Result<()> {
    let view = run.bind("linear", y);
    record(run, summands, epilogue, &view)
}

/// Into a view.
fn record(run: &mut Run<'_>, summands: &[(&Tensor, &Tensor)], epilogue: &Epilogue<'_, Tensor>, y: &View) -> Result<()> {
    let bound: Vec<_> = summands.iter().map(|(x, w)| (run.bind("x", x), run.bind("weight", w))).collect();
    let bias = epilogue.bias.map(|bias| run.bind("bias", bias));
    let residual = epilogue.residual.map(|residual| run.bind("residual", residual));
    let epilogue = Epilogue { bias: bias.as_ref(), residual: residual.as_ref(), activation: epilogue.activation };
    let caps = run.gpu().caps();
    matmul::record(run.recording_mut(), caps, &bound, &epilogue, y)
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
