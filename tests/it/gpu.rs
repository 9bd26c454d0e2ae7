//! The device that GPU tests share, and the whole path from host arrays to host arrays.

use std::sync::OnceLock;

use regard::attention::{Attention, AttentionInputs, AttentionOutputs};
use regard::gpu::{Gpu, Open};
use regard::ops::rnn::GpuRnn;
use regard::rnn::{Rnn, RnnInputs, RnnOutputs, RnnStack};
use regard::tensor::{Array, DType};
use regard::{Error, Result, wgpu};

/// Any adapter, the one named in `REGARD_ADAPTER` if there is such a variable. A machine without one fails here, with
/// the line that installs a software driver: GPU tests are never skipped.
pub(crate) fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| open(Open::default()))
}

/// The same adapter with WebGPU's default limits and no optional feature.
pub(crate) fn minimal_gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| open(Open { minimal: true, ..Open::default() }))
}

/// The same adapter as a graphics card, with all its features and with none: what is run on cards alone.
pub(crate) fn cards() -> [&'static Gpu; 2] {
    static GPUS: OnceLock<[Gpu; 2]> = OnceLock::new();
    let cards = || [false, true].map(|minimal| open(Open { as_card: true, minimal, ..Open::default() }));
    GPUS.get_or_init(cards).each_ref()
}

/// The same adapter with its cooperative matrices, if it lists some that fit.
pub(crate) fn cooperative_gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| open(Open { cooperative: true, ..Open::default() }))
}

/// Whether everything is run, as `tests/all` asks for, or as much as `tests/run` has time for.
pub(crate) fn whole() -> bool {
    std::env::var("REGARD_TESTS").is_ok_and(|value| value == "all")
}

/// How many of so many drawn cases are run: an eighth by `tests/run`.
pub(crate) fn drawn(cases: u32) -> u32 {
    if whole() { cases } else { cases.div_ceil(8) }
}

/// Some of a list: `tests/run` takes one in so many, the first among them.
pub(crate) fn some<T>(list: impl IntoIterator<Item = T>, one_in: usize) -> impl Iterator<Item = T> {
    list.into_iter().step_by(if whole() { 1 } else { one_in })
}

pub(crate) fn open(open: Open) -> Gpu {
    let adapter = std::env::var("REGARD_ADAPTER").ok();
    match Gpu::open(&Open { adapter, ..open }) {
        Ok(gpu) => gpu,
        Err(error) => panic!("{error}\nhint: {}", error.hint().unwrap_or("none")),
    }
}

/// The test adapter's own device with limits of the test's choosing.
pub(crate) fn device_with(limits: impl Fn(&mut wgpu::Limits)) -> (wgpu::Device, wgpu::Queue) {
    let [device] = devices_with(limits);
    device
}

/// Several such devices of one instance.
pub(crate) fn devices_with<const N: usize>(limits: impl Fn(&mut wgpu::Limits)) -> [(wgpu::Device, wgpu::Queue); N] {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let adapter = adapters.into_iter().find(|a| a.get_info().name == gpu().adapter().name).unwrap();
    let mut required_limits = wgpu::Limits::default();
    limits(&mut required_limits);
    let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
    std::array::from_fn(|_| pollster::block_on(adapter.request_device(&descriptor)).unwrap())
}

/// Uniform in ±`size`, by SplitMix64: numbers that no other stream of this seed has.
pub(crate) fn random(seed: u64, stream: u64, size: f32, shape: &[usize]) -> Array<f32> {
    let mut state = seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Array::from_fn(shape, |_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32;
        (2.0 * unit - 1.0) * size
    })
}

pub(crate) fn attention(
    gpu: &Gpu,
    options: &Attention,
    inputs: &AttentionInputs<Array<f32>>,
    dtype: DType,
) -> Result<AttentionOutputs<Array<f32>>> {
    options.run(gpu, &inputs.upload(gpu, dtype)?)?.download(gpu)
}

pub(crate) fn rnn(
    gpu: &Gpu,
    options: &Rnn,
    stack: &RnnStack<Array<f32>>,
    inputs: &RnnInputs<Array<f32>>,
    dtype: DType,
) -> Result<RnnOutputs<Array<f32>>> {
    GpuRnn::upload(gpu, options, stack, dtype)?.run(gpu, &inputs.upload(gpu, dtype)?)?.download(gpu)
}

/// Runs a check over named cases and fails with every case that did not pass.
pub(crate) fn all<C>(
    what: &str,
    cases: impl IntoIterator<Item = C>,
    name: impl Fn(&C) -> String,
    check: impl Fn(&C) -> Result<f64, Error>,
) {
    let (mut count, mut worst, mut failures) = (0, 0.0f64, Vec::new());
    for case in cases {
        count += 1;
        match check(&case) {
            Ok(ratio) => worst = worst.max(ratio),
            Err(error) => failures.push(format!("{}: {error}", name(&case))),
        }
    }
    println!("{what}: {} of {count} passed, worst error ÷ tolerance {worst:.2}", count - failures.len());
    assert!(count > 0, "{what}: no cases");
    assert!(failures.is_empty(), "{what}: {} of {count} failed\n{}", failures.len(), failures.join("\n"));
}
