//! The largest entries of rows (`shaders/top_k.wgsl`).

use super::View4;
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::RowPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "top_k",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::MATH),
        Source::File(&files::REDUCE_SHARED),
        Source::File(&file!("top_k.wgsl", [])),
    ],
    buffers: &[Buffer::read("x", "elem"), Buffer::write("values", "f32"), Buffer::write("ids", "u32")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `top_k.wgsl`.
    struct Params {
        x: View4,
        values: View4,
        ids: View4,
        rows: u32,
        least: f32,
    }
}

/// The k largest entries of each row of `x` [.., N] (up to four axes), largest first, the smaller index first among equals:
/// `values` [.., k] (f32) and `ids` [.., k] (u32). NaN counts as −∞.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit or k is above N, [`Error::Limit`] when a row or the grid does not.
pub fn record(recording: &mut Recording, caps: &Caps, x: &View, values: &View, ids: &View) -> Result<()> {
    let (Some((&width, lead)), Some(&k)) = (x.shape().split_last(), values.shape().last()) else {
        return Err(Error::shape("x", "rank", "1 to 4", 0));
    };
    if k > width {
        return Err(Error::shape("x", "last axis", format!("at least the {k} entries asked for"), width));
    }
    let wanted = [lead, &[k]].concat();
    for (name, view, dtype) in [("values", values, DType::F32), ("ids", ids, DType::U32)] {
        if view.shape() != wanted || view.dtype != dtype {
            let found = format!("{:?} {}", view.shape(), view.dtype);
            return Err(Error::shape(name, "shape", format!("{wanted:?} {dtype}"), found));
        }
    }
    let rows: usize = lead.iter().product();
    if rows == 0 || k == 0 {
        return Ok(());
    }
    let plan = RowPlan::new("the largest entries", rows, width, k as u64, caps)?;
    let params = Params {
        x: View4::new(x)?,
        values: View4::new(values)?,
        ids: View4::new(ids)?,
        rows: rows as u32,
        least: f32::NEG_INFINITY,
    };
    recording.push(Dispatch {
        variant: Variant::new(&KERNEL, [("elem", x.dtype)], [("LANES", f64::from(plan.lanes))]),
        params: params.bytes(),
        bindings: vec![Binding::Read(x.slot), Binding::Write(values.slot), Binding::Write(ids.slot)],
        grid: plan.grid,
        iterations: plan.iterations,
        workgroup_bytes: 0,
        flops: (rows * width * k) as u64,
        bytes: (x.dtype.bytes_of(rows * width) + 8 * rows * k) as u64,
    });
    Ok(())
}
