//! The device's rate of multiply-adds (`shaders/fma_rate.wgsl`): the ceiling that benchmarks are held against.

use crate::device::Caps;
use crate::error::Result;
use crate::plan::grid;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "fma_rate",
    sources: &[Source::File(&files::LAYOUT), Source::File(&file!("fma_rate.wgsl", ["LANES"]))],
    buffers: &[Buffer::write("output", "f32")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `fma_rate.wgsl`.
    struct Params {
        a: f32,
        b: f32,
        iterations: u32,
    }
}

/// Invocations in a workgroup.
pub const LANES: usize = 64;
/// Multiply-adds of one invocation in one iteration of its loop: 4 chains of vec4, 4 times.
const PER_ITERATION: u64 = 64;

/// Runs `iterations` iterations of x = a·x + b in every invocation; `output` `[N]` (f32), N a multiple of [`LANES`], gets the
/// sums of the chains.
///
/// # Errors
/// [`crate::Error::Limit`] when the grid does not fit the device.
pub fn record(recording: &mut Recording, caps: &Caps, [a, b]: [f32; 2], iterations: u32, output: &View) -> Result<()> {
    let invocations = output.layout.elements();
    recording.push(Dispatch {
        variant: Variant::new(&KERNEL, [], [("LANES", LANES as f64)]),
        params: Params { a, b, iterations }.bytes(),
        bindings: vec![Binding::Write(output.slot)],
        grid: grid("the rate of multiply-adds", (invocations / LANES) as u64, caps)?,
        iterations: u64::from(iterations),
        workgroup_bytes: 0,
        flops: 2 * PER_ITERATION * u64::from(iterations) * invocations as u64,
        bytes: 4 * invocations as u64,
    });
    Ok(())
}

/// What every invocation of [`record`] with these arguments leaves, by its number.
pub fn expected([a, b]: [f32; 2], iterations: u32, invocation: usize) -> f64 {
    let (a, b, start) = (f64::from(a), f64::from(b), (invocation % 7) as f64);
    let chain = |x: f64| (0..4 * iterations).fold(x, |x, _| a * x + b);
    4.0 * (0..4).map(|k| chain(start + f64::from(k))).sum::<f64>()
}
