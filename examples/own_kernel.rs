//! A kernel of one's own between two of this crate's, in one submission on one's own wgpu device: a linear layer, a root
//! mean square normalisation in ten lines of WGSL, and causal attention. Judged as this crate judges its own kernels, beside
//! the same with a mistake that large inputs do not show.
//!
//! ```sh
//! cargo run --release --example own_kernel
//! ```

use regard::attention::{Attention, AttentionInputs, Causal};
use regard::compare::judge;
use regard::gpu::Run;
use regard::ops::custom::CustomCall;
use regard::ops::linear::{Epilogue, linear};
use regard::reference::{self, Float};
use regard::tensor::{Array, DType};
use regard::wgsl::CustomKernel;
use regard::{Gpu, Result, Tensor, wgpu};

/// N, D; one head.
const ROWS: usize = 48;
const DIM: usize = 16;
const EPSILON: f32 = 1e-6;

/// `y = x / sqrt(mean(x²) + ε)` (Zhang and Sennrich 2019), a row an invocation.
const KERNEL: &str = "
struct Params { rows: u32, epsilon: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;       // [rows, 16]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>; // [rows, 16]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    if (at.x >= params.rows) { return; }
    var squares = 0.0;
    for (var k = 0u; k < 4u; k++) { squares += dot(x[4u * at.x + k], x[4u * at.x + k]); }
    let norm = sqrt(squares / 16.0 + params.epsilon);
    for (var k = 0u; k < 4u; k++) { y[4u * at.x + k] = x[4u * at.x + k] / norm; }
}";

/// `Params` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    epsilon: f32,
}

fn attention() -> Attention {
    Attention { causal: Some(Causal::TopLeft), ..Attention::default() }
}

/// All three on the GPU, in one submission.
fn run(gpu: &Gpu, kernel: &CustomKernel, x: &Array, weight: &Array) -> Result<Array> {
    let upload = |name, array| Tensor::upload(gpu, name, array, DType::F32);
    let mut run = Run::new(gpu);
    let y = linear(&mut run, &[(&upload("x", x)?, &upload("weight", weight)?)], &Epilogue::default())?;
    let (_, normalized) = run.output("normalized", &[1, 1, ROWS, DIM], DType::F32)?;
    let params = Params { rows: ROWS as u32, epsilon: EPSILON };
    let params = bytemuck::bytes_of(&params);
    let grid = [ROWS.div_ceil(64) as u32, 1];
    kernel.record(&mut run, CustomCall { params, ..CustomCall::new(&[&y], &[&normalized], grid) })?;
    let inputs = AttentionInputs::new(normalized.clone(), normalized.clone(), normalized);
    let output = attention().record(&mut run, &inputs)?.output;
    Ok(run.submit_and_read(&[&output])?.remove(0))
}

/// The same on the CPU, in f32 or f64.
fn expected<T: Float>(x: &Array<T>, weight: &Array<T>) -> Result<Array<T>> {
    let mut y = reference::linear(x, weight, None, None)?;
    for row in y.data_mut().chunks_mut(DIM) {
        let squares = row.iter().fold(T::from_f32(0.0), |sum, &x| sum + x * x);
        let norm = (squares / T::from_f32(DIM as f32) + T::from_f32(EPSILON)).sqrt();
        row.iter_mut().for_each(|x| *x = *x / norm);
    }
    let y = y.reshape(&[1, 1, ROWS, DIM])?;
    Ok(reference::attention(&attention(), &AttentionInputs::new(y.clone(), y.clone(), y))?.output)
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;
    let gpu = Gpu::from_wgpu(device, queue)?;
    println!("on {}", gpu.adapter());

    // What is wrong with a kernel is told before a device sees it, with its own line.
    if let Err(error) = CustomKernel::new("normalize", &KERNEL.replace("norm = sqrt", "norm = squart")) {
        println!("{error}");
    }
    let kernels = [
        ("with epsilon", CustomKernel::new("normalize", KERNEL)?),
        ("without", CustomKernel::new("normalize", &KERNEL.replace(" + params.epsilon", ""))?),
    ];
    println!("{:<24} {:>12} {:>12} {:>12}", "", "error", "allowed", "");
    for size in [100.0, 0.001] {
        let x = Array::from_fn(&[ROWS, DIM], |k| (k as f32 * 0.37).sin() * size);
        let weight = Array::from_fn(&[DIM, DIM], |k| (k as f32 * 0.71).sin());
        // The truth in f64, and how far plain code in f32 is from it.
        let oracle = expected(&x.cast::<f64>(), &weight.cast())?;
        let plain = expected(&x, &weight)?;
        for (name, kernel) in &kernels {
            let verdict = judge("output", &run(&gpu, kernel, &x, &weight)?, &oracle, &plain, DType::F32)?;
            let word = if verdict.passed() { "passed" } else { "failed" };
            let case = format!("{name}, ±{size}");
            println!("{case:<24} {:>12.1e} {:>12.1e} {word:>12}", verdict.error, verdict.tolerance);
        }
    }
    Ok(())
}
