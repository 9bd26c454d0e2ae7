//! Rotary position embedding on the GPU.

use crate::attention::Rotary;
use crate::error::{Error, Result};
use crate::gpu::{Run, Tensor};
use crate::kernels::rotary::{self, RowPositions};
use crate::tensor::DType;

/// `x` [B, H, N, D] turned by the tables `cos` and `sin` [P, width / 2] (f32; see [`Rotary::tables`]): row n of batch row b
/// stands at `positions[b, n]` ([B, N], u32), or at n without a list, plus [`Rotary::offset`]. Positions past the tables
/// read their last row. The result has x's shape and type (ONNX `RotaryEmbedding` 23).
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the work does not fit the device.
pub fn rotary(
    run: &mut Run<'_>,
    x: &Tensor,
    [cos, sin]: [&Tensor; 2],
    positions: Option<&Tensor>,
    options: Rotary,
) -> Result<Tensor> {
    for (name, table) in [("cos", cos), ("sin", sin)] {
        if table.dtype() != DType::F32 {
            return Err(Error::shape(name, "dtype", DType::F32, table.dtype()));
        }
    }
    x.dtype().check_float("x")?;
    let (view, turned) = run.output("turned", x.shape(), x.dtype())?;
    let (x, cos, sin) = (run.bind("x", x), run.bind("cos", cos), run.bind("sin", sin));
    let list = positions.map(|positions| run.bind("positions", positions));
    let place = list.as_ref().map_or(RowPositions::Key { visibility: None, first: 0 }, RowPositions::List);
    let caps = run.gpu().caps();
    rotary::record(run.recording_mut(), caps, options, &x, [&cos, &sin], place, &view)?;
    Ok(turned)
}
