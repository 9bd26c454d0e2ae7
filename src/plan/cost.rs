//! What share of a device's rates the kernels reach.

use crate::device::Caps;

/// Multiply-adds per ns and worker of a product in register tiles of so many rows. The shares of the peak: measured on lavapipe
/// of Mesa 22.3 to 26.1 on two cores of an AMD EPYC (Zen 5), 2026-11-23; assumed for cards.
pub fn tile_rate(rows: usize, caps: &Caps) -> f64 {
    let [one, few, many] = if caps.software { [0.22, 0.68, 0.88] } else { [0.064, 0.19, 0.26] };
    peak(caps)
        * match rows {
            0 | 1 => one,
            2..=4 => few,
            _ => many,
        }
}

/// The same of one row with the weights in registers.
pub fn register_rate(caps: &Caps) -> f64 {
    peak(caps) * if caps.software { 0.3 } else { 0.26 }
}

/// Multiply-adds per ns and worker.
fn peak(caps: &Caps) -> f64 {
    caps.rates.gflops / 2.0 / f64::from(caps.workers.max(1))
}
