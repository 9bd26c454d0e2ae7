//! Entropy of rows of weights (`shaders/entropy.wgsl`).

use super::View4;
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::RowPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "entropy",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::MATH),
        Source::File(&files::REDUCE_SHARED),
        Source::File(&file!("entropy.wgsl", [])),
    ],
    buffers: &[Buffer::read("weights", "f32"), Buffer::write("entropy", "f32")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `entropy.wgsl`.
    struct Params {
        weights: View4,
        entropy: View4,
        rows: u32,
    }
}

/// `entropy[b,h,i] = −Σ_j w · ln w` of weights [B, Hq, Nq, Nk] (f32), in nats.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when a row or the grid does not.
pub fn record(recording: &mut Recording, caps: &Caps, weights: &View, entropy: &View) -> Result<()> {
    let Some((&keys, leading)) = weights.shape().split_last() else {
        return Err(Error::shape("weights", "rank", "4", 0));
    };
    if entropy.shape() != leading || leading.len() != 3 {
        return Err(Error::shape("entropy", "shape", format!("{leading:?}"), format!("{:?}", entropy.shape())));
    }
    let rows: usize = leading.iter().product();
    let plan = RowPlan::new("an entropy", rows, keys, 1, caps)?;
    let params = Params {
        weights: View4::new(weights)?,
        entropy: View4::new(&entropy.with(entropy.layout.split(2, leading[2], 1)?))?,
        rows: rows as u32,
    };
    recording.push(Dispatch {
        variant: Variant::new(&KERNEL, [], [("LANES", f64::from(plan.lanes))]),
        params: params.bytes(),
        bindings: vec![Binding::Read(weights.slot), Binding::Write(entropy.slot)],
        grid: plan.grid,
        iterations: plan.iterations,
        workgroup_bytes: 0,
        flops: 2 * (rows * keys) as u64,
        bytes: 4 * (rows * (keys + 1)) as u64,
    });
    Ok(())
}
