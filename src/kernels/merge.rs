//! Merge of both directions of a recurrence (`shaders/merge.wgsl`).

use super::View4;
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::ElementPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::rnn::Merge;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "merge",
    sources: &[Source::File(&files::LAYOUT), Source::File(&file!("merge.wgsl", ["LANES", "MERGE"]))],
    buffers: &[Buffer::read("source", "f32"), Buffer::write("destination", "out_elem")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `merge.wgsl`.
    struct Params {
        source: View4,
        target_view: View4,
        elements: u32,
    }
}

/// Sum, product or average of `source` [T, B, 2, H] over its directions into `target` [T, B, H].
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Option`] for a concatenation, which needs no kernel.
pub fn record(recording: &mut Recording, caps: &Caps, merge: Merge, source: &View, target: &View) -> Result<()> {
    let mode = match merge {
        Merge::Sum => 0,
        Merge::Mul => 1,
        Merge::Average => 2,
        Merge::Concat => return Err(Error::option("merge", "a concatenation is written in place")),
    };
    let &[steps, batch, hidden] = target.shape() else {
        return Err(Error::shape("merged output", "rank", 3, target.shape().len()));
    };
    if source.shape() != [steps, batch, 2, hidden] {
        let expected = format!("[{steps}, {batch}, 2, {hidden}]");
        return Err(Error::shape("output of both directions", "shape", expected, format!("{:?}", source.shape())));
    }
    let elements = steps * batch * hidden;
    let plan = ElementPlan::new("merge", elements, caps)?;
    let params = Params {
        source: View4::new(source)?,
        target_view: View4::new(&target.with(target.layout.split(1, batch, 1)?))?,
        elements: elements as u32,
    };
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [("out_elem", target.dtype)],
            [("LANES", f64::from(plan.lanes)), ("MERGE", f64::from(mode))],
        ),
        params: params.bytes(),
        bindings: vec![Binding::Read(source.slot), Binding::Write(target.slot)],
        grid: plan.grid,
        iterations: 0,
        workgroup_bytes: 0,
        flops: 2 * elements as u64,
        bytes: (8 * elements + target.dtype.bytes_of(elements)) as u64,
    });
    Ok(())
}
