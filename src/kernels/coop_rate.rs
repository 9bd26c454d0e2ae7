//! The device's rate of multiply-adds by cooperative matrices (`shaders/coop_rate.wgsl`): the ceiling of attention in
//! f16.

use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::grid;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "coop_rate",
    sources: &[
        Source::Cooperative,
        Source::File(&files::LAYOUT),
        Source::File(&file!("coop_rate.wgsl", ["LANES", "SUBGROUPS"])),
    ],
    buffers: &[Buffer::write("output", "f32")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `coop_rate.wgsl`.
    struct Params {
        iterations: u32,
    }
}

/// Subgroups of a workgroup that work.
pub const SUBGROUPS: usize = 2;
/// Products of matrices of one subgroup in one iteration of its loop: 8 chains, twice.
const PER_ITERATION: u64 = 16;

/// Runs `iterations` iterations of c = a · b + c in every subgroup; `output` `[N]` (f32), N a multiple of
/// [`SUBGROUPS`] matrices, gets the sums of the chains.
///
/// # Errors
/// [`Error::Unsupported`] without cooperative matrices, [`Error::Limit`] when the grid does not fit the device.
pub fn record(recording: &mut Recording, caps: &Caps, iterations: u32, output: &View) -> Result<()> {
    let Some(side) = caps.cooperative else {
        return Err(Error::Unsupported { feature: "cooperative matrices".into(), what: "their rate".into() });
    };
    let elements = output.layout.elements();
    let subgroups = elements / (side * side) as usize;
    recording.push(Dispatch {
        variant: Variant {
            subgroups: true,
            ..Variant::new(
                &KERNEL,
                [],
                [
                    ("SIDE", f64::from(side)),
                    ("LANES", f64::from(SUBGROUPS as u32 * caps.max_subgroup)),
                    ("SUBGROUPS", SUBGROUPS as f64),
                ],
            )
        },
        params: Params { iterations }.bytes(),
        bindings: vec![Binding::Write(output.slot)],
        grid: grid("the rate of cooperative matrices", (subgroups / SUBGROUPS) as u64, caps)?,
        iterations: u64::from(iterations) + 6 * u64::from(side * side),
        workgroup_bytes: 0,
        flops: 2 * u64::from(side).pow(3) * PER_ITERATION * u64::from(iterations) * subgroups as u64,
        bytes: 4 * elements as u64,
    });
    Ok(())
}

/// What [`record`] leaves with matrices of this side, by the element's number.
pub fn expected(side: usize, iterations: u32, element: usize) -> f64 {
    let area = side * side;
    let (row, column) = (element % area / side, element % side);
    // The operands lie one after the other, matrices a first.
    let factor = |n: usize, row: usize, column: usize| ((n * area + row * side + column) % 3) as f64;
    let product = |left: usize, right: usize| -> f64 {
        (0..side).map(|k| factor(left, row, k) * factor(2 + right, k, column)).sum()
    };
    let chains = (0..2).flat_map(|left| (0..4).map(move |right| product(left, right)));
    2.0 * f64::from(iterations) * chains.sum::<f64>()
}
