//! Strided copy with conversion of the element type (`shaders/copy.wgsl`).

use super::View4;
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::ElementPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "copy",
    sources: &[
        Source::Storage { alias: "elem", plain: &files::READ_PLAIN, q8: &files::READ_Q8 },
        Source::File(&files::LAYOUT),
        Source::File(&file!("copy.wgsl", ["LANES"])),
    ],
    buffers: &[Buffer::read("source", "elem"), Buffer::write("destination", "out_elem")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `copy.wgsl`.
    struct Params {
        source: View4,
        target_view: View4,
        elements: u32,
    }
}

/// Copies `source` into `target`, which has the same shape, up to four axes. Of q8 only the source may be.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ or the target is q8, [`Error::Limit`] when the grid does not fit.
pub fn record(recording: &mut Recording, caps: &Caps, source: &View, target: &View) -> Result<()> {
    if source.shape() != target.shape() {
        let (expected, found) = (format!("{:?}", target.shape()), format!("{:?}", source.shape()));
        return Err(Error::shape("source of a copy", "shape", expected, found));
    }
    if target.dtype == DType::Q8 {
        return Err(Error::shape("target of a copy", "dtype", "f32, f16 or u32", target.dtype));
    }
    let elements = source.layout.elements();
    if elements == 0 {
        return Ok(());
    }
    let plan = ElementPlan::new("copy", elements, caps)?;
    let params = Params { source: View4::new(source)?, target_view: View4::new(target)?, elements: elements as u32 };
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [("elem", source.dtype), ("out_elem", target.dtype)],
            [("LANES", f64::from(plan.lanes))],
        ),
        params: params.bytes(),
        bindings: vec![Binding::Read(source.slot), Binding::Write(target.slot)],
        grid: plan.grid,
        iterations: 0,
        workgroup_bytes: 0,
        flops: 0,
        bytes: (source.dtype.bytes_of(elements) + target.dtype.bytes_of(elements)) as u64,
    });
    Ok(())
}
