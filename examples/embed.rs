//! Attention inside a program that owns its wgpu device: its own buffers, its own command encoder, one submission.
//!
//! ```sh
//! cargo run --release --example embed
//! ```

use regard::attention::{Attention, AttentionInputs};
use regard::gpu::Run;
use regard::tensor::{DType, Layout};
use regard::wgpu::{self, util::DeviceExt};
use regard::{Gpu, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The embedder's device, with WebGPU's default limits.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;
    let gpu = Gpu::from_wgpu(device.clone(), queue.clone())?;

    // The embedder's buffer: packed query, key and value [B=1, N=6, 3·H·D] with 2 heads of 4.
    let packed: Vec<f32> = (0..6 * 24).map(|i| (i as f32 * 0.37).sin()).collect();
    let buffer = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("packed qkv"),
        contents: bytemuck::cast_slice(&packed),
        usage: wgpu::BufferUsages::STORAGE,
    });
    let packed = Tensor::from_buffer(buffer, Layout::contiguous(&[1, 6, 24]), DType::F32)?;
    let [query, key, value] = packed.unpack_qkv(2)?;

    // Recorded into the embedder's encoder, beside whatever else is in it.
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut run = Run::new(&gpu);
    let attention = Attention { weights: true, ..Attention::default() };
    let outputs = attention.record(&mut run, &AttentionInputs::new(query, key, value))?;
    run.encode(&mut encoder)?;
    queue.submit([encoder.finish()]);

    println!("on {}", gpu.adapter());
    println!("output {:?}", outputs.output.download(&gpu)?.shape());
    if let Some(weights) = outputs.weights {
        for row in weights.download(&gpu)?.data().chunks(6).take(6) {
            println!("{row:.3?}");
        }
    }
    Ok(())
}
