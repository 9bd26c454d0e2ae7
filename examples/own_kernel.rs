//! A kernel of one's own, judged as this crate judges its own: causal attention in twenty lines of WGSL, on one's own wgpu
//! device, and the same with a mistake that small inputs do not show.
//!
//! ```sh
//! cargo run --release --example own_kernel
//! ```

use regard::attention::{Attention, AttentionInputs, Causal};
use regard::compare::{Verdict, judge};
use regard::tensor::{Array, DType};
use regard::wgpu::{self, util::DeviceExt};
use regard::{baseline, reference};

/// N, D; one head.
const QUERIES: usize = 48;
const DIM: usize = 16;

/// A query an invocation. `MOST` is what the scores are taken relative to.
const KERNEL: &str = "
@group(0) @binding(0) var<storage, read> qkv: array<f32>; // [3, 48, 16]
@group(0) @binding(1) var<storage, read_write> output: array<f32>; // [48, 16]

fn score(i: u32, j: u32) -> f32 {
    var sum = 0.0;
    for (var d = 0u; d < 16u; d++) { sum += qkv[i * 16u + d] * qkv[768u + j * 16u + d]; }
    return sum * 0.25; // 1 / sqrt(16)
}

@compute @workgroup_size(48)
fn main(@builtin(local_invocation_index) i: u32) {
    var largest = -3e38;
    for (var j = 0u; j <= i; j++) { largest = max(largest, score(i, j)); }
    var total = 0.0;
    var y = array<f32, 16>();
    for (var j = 0u; j <= i; j++) {
        let p = exp(score(i, j) - MOST);
        total += p;
        for (var d = 0u; d < 16u; d++) { y[d] += p * qkv[1536u + j * 16u + d]; }
    }
    for (var d = 0u; d < 16u; d++) { output[i * 16u + d] = y[d] / total; }
}";

/// Query, key and value one after the other through the kernel.
fn run(device: &wgpu::Device, queue: &wgpu::Queue, source: &str, qkv: &[f32]) -> Result<Vec<f32>, wgpu::PollError> {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("own kernel"),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("own kernel"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let input = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("qkv"),
        contents: bytemuck::cast_slice(qkv),
        usage: wgpu::BufferUsages::STORAGE,
    });
    let buffer = |label, usage| {
        let size = (QUERIES * DIM * size_of::<f32>()) as u64;
        device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
    };
    let output = buffer("output", wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let readable = buffer("readable", wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: input.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: output.as_entire_binding() },
        ],
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
    encoder.copy_buffer_to_buffer(&output, 0, &readable, 0, output.size());
    queue.submit([encoder.finish()]);
    readable.map_async(wgpu::MapMode::Read, .., |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    Ok(bytemuck::pod_collect_to_vec(&readable.get_mapped_range(..).expect("mapped above")))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;
    println!("on {}", adapter.get_info().name);

    let attention = Attention { causal: Some(Causal::TopLeft), ..Attention::default() };
    println!("{:<24} {:>12} {:>12} {:>12}", "", "error", "allowed", "");
    for size in [1.0, 16.0] {
        let wave = |f: f32| Array::from_fn(&[1, 1, QUERIES, DIM], |k| (k as f32 * f).sin() * size);
        let inputs = AttentionInputs::new(wave(0.37), wave(0.71), wave(0.93));
        // The truth in f64, and how far plain code in f32 is from it.
        let oracle = reference::attention(&attention, &inputs.map(|array| array.map(|&x| f64::from(x))))?.output;
        let plain = baseline::attention(&attention, &inputs, DType::F32)?.output;
        let qkv = [inputs.query.data(), inputs.key.data(), inputs.value.data()].concat();
        for (name, most) in [("stable", "largest"), ("without the largest", "0.0")] {
            let got = run(&device, &queue, &KERNEL.replace("MOST", most), &qkv)?;
            let got = Array::new(&[1, 1, QUERIES, DIM], got)?;
            let verdict: Verdict = judge("output", &got, &oracle, &plain, DType::F32)?;
            let word = if verdict.passed() { "passed" } else { "failed" };
            println!(
                "{:<24} {:>12.1e} {:>12.1e} {word:>12}",
                format!("{name}, ±{size}"),
                verdict.error,
                verdict.tolerance
            );
        }
    }
    Ok(())
}
