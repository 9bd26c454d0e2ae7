//! The running sum of alignments and its cost (`shaders/coverage.wgsl`).

use super::{View4, read, switch, vector};
use crate::coverage::CoverageCost;
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::RowPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "coverage",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::REDUCE_SHARED),
        Source::File(&file!("coverage.wgsl", ["COST", "HAS_BEFORE"])),
    ],
    buffers: &[
        Buffer::read("alignment", "f32"),
        Buffer::read("before", "f32"),
        Buffer::write("after", "f32"),
        Buffer::write("cost", "f32"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `coverage.wgsl`.
    struct Params {
        alignment: View4,
        before: View4,
        after: View4,
        rows: u32,
        factor: f32,
        cost_start: u32,
        cost_step: u32,
    }
}

/// `after = before + alignment`, each [B, Nk] in f32, and the cost of each row into a view `[B]`. Without `before` it is
/// zeros. `after` and `before` lie in different buffers.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when a row or the grid does not fit the device.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    alignment: &View,
    before: Option<&View>,
    after: &View,
    cost: Option<(CoverageCost, &View)>,
) -> Result<()> {
    let &[rows, keys] = alignment.shape() else {
        return Err(Error::shape("alignment", "rank", "2 [B, Nk]", alignment.shape().len()));
    };
    let fits = |name: &str, view: &View, shape: &[usize]| {
        if view.shape() == shape && view.dtype == DType::F32 {
            return Ok(());
        }
        let found = format!("{:?} {}", view.shape(), view.dtype);
        Err(Error::shape(name, "shape", format!("{shape:?} f32"), found))
    };
    fits("alignment", alignment, &[rows, keys])?;
    fits("coverage", after, &[rows, keys])?;
    before.map(|before| fits("coverage", before, &[rows, keys])).transpose()?;
    cost.map(|(_, view)| fits("cost", view, &[rows])).transpose()?;
    let (mode, factor) = match cost {
        None => (0, 0.0),
        Some((CoverageCost::Overlap, _)) => (1, 1.0),
        Some((CoverageCost::DoublyStochastic { factor }, _)) => (2, factor),
    };
    let plan = RowPlan::new("coverage", rows, keys, 1, caps)?;
    // The binding must exist: scratch takes its place where no cost is asked for.
    let costs = cost.map_or_else(|| recording.scratch("no cost", &[1], DType::F32), |(_, view)| view.clone());
    let [cost_start, cost_step] = vector(Some(&costs));
    let params = Params {
        alignment: View4::new(alignment)?,
        before: View4::new(before.unwrap_or(alignment))?,
        after: View4::new(after)?,
        rows: rows as u32,
        factor,
        cost_start,
        cost_step,
    };
    let words = 2 + usize::from(before.is_some());
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [],
            [("LANES", f64::from(plan.lanes)), ("COST", f64::from(mode)), ("HAS_BEFORE", switch(before.is_some()))],
        ),
        params: params.bytes(),
        bindings: vec![
            Binding::Read(alignment.slot),
            read(before),
            Binding::Write(after.slot),
            Binding::Write(costs.slot),
        ],
        grid: plan.grid,
        iterations: plan.iterations,
        workgroup_bytes: 0,
        flops: 4 * (rows * keys) as u64,
        bytes: (4 * words * rows * keys) as u64,
    });
    Ok(())
}
