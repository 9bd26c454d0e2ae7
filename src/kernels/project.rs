//! Linear layers (`shaders/project.wgsl`).

use super::{ActivationParams, View4, copy, read, switch};
use crate::error::{Error, Result};
use crate::plan::{Caps, TilePlan};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::rnn::Activation;
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "project",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::MATH),
        Source::File(&files::ACTIVATION),
        Source::File(&file!("project.wgsl", ["LANES", "ROWS", "HAS_BIAS", "ACCUMULATE", "ACTIVATE"])),
    ],
    buffers: &[
        Buffer::read("x", "elem"),
        Buffer::read("w", "w_elem"),
        Buffer::read("bias", "f32"),
        Buffer::write("y", "out_elem"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `project.wgsl`.
    struct Params {
        x: View4,
        w: View4,
        y: View4,
        activation: ActivationParams,
        rows: u32,
        first: u32,
        last: u32,
        column_tiles: u32,
        tiles: u32,
        bias: u32,
        bias_stride: u32,
    }
}

/// `y = f(Σ_p x_p · w_pᵀ + b)` over one or more summands: x_p [.., K_p] (up to four axes), w_p [N, K_p], b `[N]` (f32),
/// y [.., N] with x's leading axes. Several summands are the product with a concatenation that is never built.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the grid does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    summands: &[(&View, &View)],
    bias: Option<&View>,
    activation: Option<Activation>,
    y: &View,
) -> Result<()> {
    let Some((&columns, leading)) = y.shape().split_last() else {
        return Err(Error::shape("output of a projection", "rank", "1 to 4", 0));
    };
    let rows: usize = leading.iter().product();
    if let Some(bias) = bias
        && (bias.shape() != [columns] || bias.dtype != DType::F32)
    {
        return Err(Error::shape(
            "bias",
            "shape",
            format!("[{columns}] f32"),
            format!("{:?} {}", bias.shape(), bias.dtype),
        ));
    }
    // f16 outputs would round between the dispatches of a sum.
    let depth = summands.iter().filter_map(|(_, w)| w.shape().last()).max().copied().unwrap_or(0);
    if y.dtype != DType::F32 && (summands.len() > 1 || depth as u64 > caps.max_iterations) {
        let sum = recording.scratch("projection", y.shape(), DType::F32);
        record(recording, caps, summands, bias, activation, &sum)?;
        return copy::record(recording, caps, &sum, y);
    }
    for (p, (x, w)) in summands.iter().enumerate() {
        let &[found, depth] = w.shape() else {
            return Err(Error::shape("weight", "rank", 2, w.shape().len()));
        };
        if found != columns {
            return Err(Error::shape("weight", "axis 0 (output)", columns, found));
        }
        let fits =
            x.shape().split_last().is_some_and(|(&k, lead)| k == depth && lead.iter().product::<usize>() == rows);
        if !fits {
            let expected = format!("{rows} rows of {depth}");
            return Err(Error::shape("input of a projection", "shape", expected, format!("{:?}", x.shape())));
        }
        let plan = TilePlan::new("a projection", 1, rows, columns, depth, caps)?;
        let ranges = plan.depth.len();
        for (range, &(first, last)) in plan.depth.iter().enumerate() {
            let is_first = p == 0 && range == 0;
            let is_last = p + 1 == summands.len() && range + 1 == ranges;
            let bias = bias.filter(|_| is_last);
            let params = Params {
                x: View4::new(x)?,
                w: View4::new(w)?,
                y: View4::new(y)?,
                activation: ActivationParams::new(activation),
                rows: rows as u32,
                first: first as u32,
                last: last as u32,
                column_tiles: plan.column_tiles,
                tiles: plan.workgroups as u32,
                bias: bias.map_or(0, |b| b.layout.offset as u32),
                bias_stride: bias.map_or(0, |b| b.layout.strides[0] as u32),
            };
            let flops = 2 * (rows * columns * (last - first)) as u64;
            let bytes = (x.dtype.bytes_of(rows * depth) + w.dtype.bytes_of(columns * depth)) / ranges
                + y.dtype.bytes_of(rows * columns);
            recording.push(Dispatch {
                variant: Variant::new(
                    &KERNEL,
                    [("elem", x.dtype), ("w_elem", w.dtype), ("out_elem", y.dtype)],
                    [
                        ("LANES", f64::from(plan.lanes)),
                        ("ROWS", f64::from(plan.rows)),
                        ("HAS_BIAS", switch(bias.is_some())),
                        ("ACCUMULATE", switch(!is_first)),
                        ("ACTIVATE", switch(is_last && activation.is_some())),
                    ],
                ),
                params: params.bytes(),
                bindings: vec![Binding::Read(x.slot), Binding::Read(w.slot), read(bias), Binding::Write(y.slot)],
                grid: plan.grid,
                iterations: (last - first) as u64,
                flops,
                bytes: bytes as u64,
            });
        }
    }
    Ok(())
}
