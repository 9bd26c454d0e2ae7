//! What benchmarks share: the device, numbers, and the check of an answer before it is timed.

#![allow(unreachable_pub, missing_docs)]
#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub mod naive;

use std::time::Duration;

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;
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

/// Runs a benchmark of something that tells how many nanoseconds it took; their median, none when criterion's filter
/// leaves it out.
pub fn device_time(
    group: &mut BenchmarkGroup<'_, WallTime>,
    form: &str,
    mut nanoseconds: impl FnMut() -> f64,
) -> Option<f64> {
    let mut times = Vec::new();
    group.bench_function(form, |b| {
        b.iter_custom(|iterations| {
            let times_now: Vec<f64> = (0..iterations).map(|_| nanoseconds()).collect();
            times.extend(&times_now);
            Duration::from_nanos(times_now.iter().sum::<f64>() as u64)
        });
    });
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}
