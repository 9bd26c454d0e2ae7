//! Embedding look-up (`shaders/gather.wgsl`).

use super::View4;
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::ElementPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "gather",
    sources: &[Source::File(&files::LAYOUT), Source::File(&file!("gather.wgsl", ["LANES"]))],
    buffers: &[Buffer::read("table", "elem"), Buffer::read("ids", "u32"), Buffer::write("output", "out_elem")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `gather.wgsl`.
    struct Params {
        table: View4,
        ids: View4,
        output: View4,
        elements: u32,
    }
}

/// `output[r, :] = table[ids[r], :]` for a table [V, D], ids `[R]` (u32) and R output rows of width D.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the grid does not.
pub fn record(recording: &mut Recording, caps: &Caps, table: &View, ids: &View, output: &View) -> Result<()> {
    let (&[_, width], &[rows]) = (table.shape(), ids.shape()) else {
        return Err(Error::shape("table, ids", "ranks", "2 and 1", format!("{:?}, {:?}", table.shape(), ids.shape())));
    };
    table.dtype.check_float("table")?;
    if table.layout.elements() == 0 {
        return Err(Error::shape("table", "elements", "at least 1", 0));
    }
    if ids.dtype != DType::U32 {
        return Err(Error::shape("ids", "dtype", DType::U32, ids.dtype));
    }
    if output.shape().last() != Some(&width) || output.layout.elements() != rows.saturating_mul(width) {
        return Err(Error::shape(
            "output",
            "shape",
            format!("{rows} rows of {width}"),
            format!("{:?}", output.shape()),
        ));
    }
    let elements = rows * width;
    let plan = ElementPlan::new("gather", elements, caps)?;
    let params = Params {
        table: View4::new(table)?,
        ids: View4::new(ids)?,
        output: View4::new(output)?,
        elements: elements as u32,
    };
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [("elem", table.dtype), ("out_elem", output.dtype)],
            [("LANES", f64::from(plan.lanes))],
        ),
        params: params.bytes(),
        bindings: vec![Binding::Read(table.slot), Binding::Read(ids.slot), Binding::Write(output.slot)],
        grid: plan.grid,
        iterations: 0,
        workgroup_bytes: 0,
        flops: 0,
        bytes: (table.dtype.bytes_of(elements) + output.dtype.bytes_of(elements) + rows * 4) as u64,
    });
    Ok(())
}
