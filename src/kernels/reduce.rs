//! Sums, means and ln Σ e^x of rows (`shaders/reduce.wgsl`).

use super::{View4, read, switch, vector};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::RowPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "reduce",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::REDUCE_SHARED),
        Source::File(&files::MATH),
        Source::File(&file!("reduce.wgsl", ["MEAN", "LOG_SUM_EXP", "LENGTHS"])),
    ],
    buffers: &[Buffer::read("x", "elem"), Buffer::read("lengths", "u32"), Buffer::write("y", "f32")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `reduce.wgsl`.
    struct Params {
        x: View4,
        y: View4,
        rows: u32,
        lengths: [u32; 2],
        negative_infinity: f32,
    }
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Σ x.
    Sum,
    /// Σ x / n; 0 of nothing.
    Mean,
    /// ln Σ e^x; −∞ of nothing.
    LogSumExp,
}

/// `y[b, ..] = Σ_k x[b, .., k]`, or another [`Reduction`], over the last of two to four axes, of the first `lengths[b]` (`[B]`, u32)
/// where there are lengths; y is f32.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when a row or the grid does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    reduction: Reduction,
    x: &View,
    lengths: Option<&View>,
    y: &View,
) -> Result<()> {
    let Some((&width, lead)) = x.shape().split_last() else {
        return Err(Error::shape("x", "rank", "1 to 4", 0));
    };
    if y.shape() != lead {
        return Err(Error::shape("sums", "shape", format!("{lead:?}"), format!("{:?}", y.shape())));
    }
    let batch = lead.first().copied().unwrap_or(1);
    if let Some(lengths) = lengths
        && (lengths.shape() != [batch] || lengths.dtype != DType::U32)
    {
        let found = format!("{:?} {}", lengths.shape(), lengths.dtype);
        return Err(Error::shape("lengths", "shape", format!("[{batch}] u32"), found));
    }
    let rows: usize = lead.iter().product();
    if rows == 0 {
        return Ok(());
    }
    let passes = if reduction == Reduction::LogSumExp { 2 } else { 1 };
    let plan = RowPlan::new("a reduction", rows, width, passes, caps)?;
    let params = Params {
        x: View4::new(&batch_first(x.clone()))?,
        y: View4::new(&batch_first(with_a_column(y)))?,
        rows: rows as u32,
        lengths: vector(lengths),
        negative_infinity: f32::NEG_INFINITY,
    };
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [("elem", x.dtype)],
            [
                ("LANES", f64::from(plan.lanes)),
                ("MEAN", switch(reduction == Reduction::Mean)),
                ("LOG_SUM_EXP", switch(reduction == Reduction::LogSumExp)),
                ("LENGTHS", switch(lengths.is_some())),
            ],
        ),
        params: params.bytes(),
        bindings: vec![Binding::Read(x.slot), read(lengths), Binding::Write(y.slot)],
        grid: plan.grid,
        iterations: plan.iterations,
        workgroup_bytes: 0,
        flops: (rows * width * if reduction == Reduction::LogSumExp { super::EXP_OPERATIONS } else { 1 }) as u64,
        bytes: (x.dtype.bytes_of(rows * width) + 4 * rows) as u64,
    });
    Ok(())
}

/// y [..] as [.., 1].
fn with_a_column(y: &View) -> View {
    let mut layout = y.layout.clone();
    layout.shape.insert(y.shape().len(), 1);
    layout.strides.insert(y.shape().len(), 1);
    y.with(layout)
}

/// The same with four axes, the batch still the first and the rows the last.
fn batch_first(view: View) -> View {
    let mut layout = view.layout.clone();
    while layout.rank() < 4 {
        let at = 1.min(layout.rank() - 1);
        layout.shape.insert(at, 1);
        layout.strides.insert(at, 0);
    }
    view.with(layout)
}
