//! What benchmarks share: the device, numbers, and the check of an answer before it is timed.

#![allow(unreachable_pub, missing_docs)]

use regard::gpu::{Gpu, Open};
use regard::tensor::Array;

pub fn gpu() -> Gpu {
    let adapter = std::env::var("REGARD_ADAPTER").ok();
    let gpu = Gpu::open(&Open { adapter, ..Open::default() }).unwrap_or_else(|error| panic!("{error}"));
    println!("device: {}", gpu.adapter());
    gpu
}

/// Numbers in ±1 that differ from place to place.
pub fn numbers(shape: &[usize], seed: u32) -> Array<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    Array::from_fn(shape, |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

pub fn check(what: &str, got: &Array<f32>, want: &Array<f32>) {
    let worst = got.data().iter().zip(want.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "{what}: off by {worst}");
}
