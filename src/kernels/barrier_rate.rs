//! What a workgroup barrier costs (`shaders/barrier_rate.wgsl`), for benchmarks to hold beside what the planner assumes.

use crate::device::Caps;
use crate::error::Result;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "barrier_rate",
    sources: &[Source::File(&files::LAYOUT), Source::File(&file!("barrier_rate.wgsl", ["LANES"]))],
    buffers: &[Buffer::write("output", "f32")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `barrier_rate.wgsl`.
    struct Params {
        iterations: u32,
    }
}

/// Barriers in one iteration of the loop.
pub const PER_ITERATION: u32 = 2;

/// `iterations` iterations in one workgroup, each lane adding 1 to its neighbour's number between barriers; `output` `[lanes]`
/// (f32) gets the numbers at the end.
///
/// # Errors
/// [`crate::Error::Limit`] when there are more lanes than a workgroup may have.
pub fn record(recording: &mut Recording, caps: &Caps, iterations: u32, output: &View) -> Result<()> {
    let lanes = output.layout.elements() as u64;
    let allowed = u64::from(caps.max_invocations.min(caps.max_workgroup_bytes / 8));
    if lanes > allowed {
        let what = "invocations of a workgroup at a barrier".to_owned();
        return Err(crate::Error::Limit { what, needed: lanes, allowed });
    }
    recording.push(Dispatch {
        variant: Variant::new(&KERNEL, [], [("LANES", lanes as f64)]),
        params: Params { iterations }.bytes(),
        bindings: vec![Binding::Write(output.slot)],
        grid: [1, 1],
        iterations: u64::from(iterations),
        workgroup_bytes: 0,
        flops: 0,
        bytes: 4 * lanes,
    });
    Ok(())
}

/// What lane `lane` of `lanes` has at the end.
pub fn expected(lanes: usize, iterations: u32, lane: usize) -> f64 {
    let added = (PER_ITERATION * iterations) as usize;
    ((lane + added) % lanes.max(1) + added) as f64
}
