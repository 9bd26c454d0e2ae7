//! Layer and RMS normalisation (`shaders/norm.wgsl`).

use super::{View4, read, switch, vector};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::norm::{Norm, NormKind};
use crate::plan::RowPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "norm",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::MATH),
        Source::File(&files::REDUCE_SHARED),
        Source::File(&file!("norm.wgsl", ["RMS", "HAS_RESIDUAL", "HAS_WEIGHT", "HAS_BIAS"])),
    ],
    buffers: &[
        Buffer::read("x", "elem"),
        Buffer::read("residual", "residual_elem"),
        Buffer::read("weight", "f32"),
        Buffer::read("bias", "f32"),
        Buffer::write("sum", "f32"),
        Buffer::write("y", "out_elem"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `norm.wgsl`.
    struct Params {
        x: View4,
        residual: View4,
        sum: View4,
        y: View4,
        rows: u32,
        epsilon: f32,
        weight: [u32; 2],
        bias: [u32; 2],
    }
}

/// What is added before the normalisation, and where the sum goes (f32).
#[derive(Debug, Clone, Copy)]
pub struct Residual<'v> {
    /// Of x's shape.
    pub residual: &'v View,
    /// Of x's shape.
    pub sum: &'v View,
}

/// `y = norm(x)` or `y = norm(x + residual)` over the last axis of up to four, with weight and bias `[N]` (f32).
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when a row or the grid does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    norm: Norm,
    x: &View,
    residual: Option<Residual<'_>>,
    [weight, bias]: [Option<&View>; 2],
    y: &View,
) -> Result<()> {
    norm.check()?;
    let Some((&width, lead)) = x.shape().split_last() else {
        return Err(Error::shape("x", "rank", "at least 1", 0));
    };
    for (name, view) in [("weight", weight), ("bias", bias)] {
        if let Some(view) = view
            && (view.shape() != [width] || view.dtype != DType::F32)
        {
            let found = format!("{:?} {}", view.shape(), view.dtype);
            return Err(Error::shape(name, "shape", format!("[{width}] f32"), found));
        }
    }
    let same = |name: &str, view: &View| match view.shape() == x.shape() {
        true => Ok(()),
        false => Err(Error::shape(name, "shape", format!("{:?}", x.shape()), format!("{:?}", view.shape()))),
    };
    same("y", y)?;
    if let Some(Residual { residual, sum }) = residual {
        same("residual", residual)?;
        same("sum", sum)?;
    }
    let rows: usize = lead.iter().product();
    if rows == 0 || width == 0 {
        return Ok(());
    }
    let plan = RowPlan::new("a normalisation", rows, width, 4, caps)?;
    let no_sum = match residual {
        Some(Residual { sum, .. }) => sum.clone(),
        None => recording.scratch("no sum", &[1], DType::F32),
    };
    let no_view = View4::default();
    let params = Params {
        x: View4::new(x)?,
        residual: residual.map_or(Ok(no_view), |r| View4::new(r.residual))?,
        sum: residual.map_or(Ok(no_view), |r| View4::new(r.sum))?,
        y: View4::new(y)?,
        rows: rows as u32,
        epsilon: norm.epsilon,
        weight: vector(weight),
        bias: vector(bias),
    };
    let elements = rows * width;
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [
                ("elem", x.dtype),
                ("residual_elem", residual.map_or(DType::F32, |r| r.residual.dtype)),
                ("out_elem", y.dtype),
            ],
            [
                ("LANES", f64::from(plan.lanes)),
                ("RMS", switch(norm.kind == NormKind::Rms)),
                ("HAS_RESIDUAL", switch(residual.is_some())),
                ("HAS_WEIGHT", switch(weight.is_some())),
                ("HAS_BIAS", switch(bias.is_some())),
            ],
        ),
        params: params.bytes(),
        bindings: vec![
            Binding::Read(x.slot),
            read(residual.map(|r| r.residual)),
            read(weight),
            read(bias),
            Binding::Write(no_sum.slot),
            Binding::Write(y.slot),
        ],
        grid: plan.grid,
        iterations: plan.iterations,
        workgroup_bytes: 0,
        flops: 8 * elements as u64,
        bytes: (x.dtype.bytes_of(elements) + y.dtype.bytes_of(elements)) as u64,
    });
    Ok(())
}
