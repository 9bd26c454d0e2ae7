//! Attention inside a program that owns its wgpu device, between the program's own passes: points on a circle, pulled
//! together by what they have near them (mean shift: the mean of all points, weighted by softmax(κ · p · q)), drawn by a
//! render pass. One encoder, the program's buffers, one submission.
//!
//! ```sh
//! cargo run --release --example embed
//! ```

use regard::attention::{Attention, AttentionInputs};
use regard::gpu::Run;
use regard::tensor::{DType, Layout};
use regard::wgpu;
use regard::{Gpu, Tensor};

const POINTS: u32 = 48;
const ROUNDS: usize = 12;
/// Width and height of the picture; a row of it is 256 bytes, as copies ask for.
const SIDE: u32 = 64;

const SHADERS: &str = "
@group(0) @binding(0) var<storage, read_write> points: array<vec4f>; // cos, sin, 0, 0
@group(0) @binding(1) var<storage, read> means: array<vec4f>;

@compute @workgroup_size(48)
fn scatter(@builtin(local_invocation_index) i: u32) { // three loose clumps
    let angle = 0.6 + 2.1 * f32(i / 16u) + 0.7 * sin(f32(i) * 1.7);
    points[i] = vec4f(cos(angle), sin(angle), 0.0, 0.0);
}

@compute @workgroup_size(48)
fn back_to_the_circle(@builtin(local_invocation_index) i: u32) {
    points[i] = normalize(means[i]);
}

override shade: f32;

@vertex
fn place(@location(0) point: vec4f) -> @builtin(position) vec4f {
    return vec4f(0.9 * point.xy, 0.0, 1.0);
}

@fragment
fn paint() -> @location(0) vec4f {
    return vec4f(shade);
}";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The program's device, with limits of its own.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let limits =
        wgpu::Limits { max_buffer_size: 4 << 20, max_storage_buffer_binding_size: 1 << 20, ..Default::default() };
    let (device, queue) = pollster::block_on(
        adapter.request_device(&wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() }),
    )?;

    // The program's buffers, picture and pipelines.
    let buffer = |label, size, usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
    };
    let bytes = u64::from(POINTS) * 16;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::VERTEX;
    let (points, means) = (buffer("points", bytes, usage), buffer("means", bytes, usage));
    let first = buffer("first", bytes, wgpu::BufferUsages::VERTEX | wgpu::BufferUsages::COPY_DST);
    let readable =
        buffer("readable", u64::from(SIDE * SIDE) * 4, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let size = wgpu::Extent3d { width: SIDE, height: SIDE, depth_or_array_layers: 1 };
    let picture = device.create_texture(&wgpu::TextureDescriptor {
        label: Some("picture"),
        size,
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: wgpu::TextureFormat::Rgba8Unorm,
        usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
        view_formats: &[],
    });
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("embed"),
        source: wgpu::ShaderSource::Wgsl(SHADERS.into()),
    });
    let step = |entry, buffers: &[&wgpu::Buffer]| {
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let entries: Vec<_> = (0..).zip(buffers).map(|(binding, buffer)| entry_of(binding, buffer)).collect();
        let layout = &pipeline.get_bind_group_layout(0);
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
        (pipeline, group)
    };
    let draw = |shade| {
        let options = wgpu::PipelineCompilationOptions { constants: &[("shade", shade)], ..Default::default() };
        device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some("points"),
            layout: None,
            vertex: wgpu::VertexState {
                module: &module,
                entry_point: Some("place"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                buffers: &[Some(wgpu::VertexBufferLayout {
                    array_stride: 16,
                    step_mode: wgpu::VertexStepMode::Vertex,
                    attributes: &wgpu::vertex_attr_array![0 => Float32x4],
                })],
            },
            primitive: wgpu::PrimitiveState { topology: wgpu::PrimitiveTopology::PointList, ..Default::default() },
            depth_stencil: None,
            multisample: wgpu::MultisampleState::default(),
            fragment: Some(wgpu::FragmentState {
                module: &module,
                entry_point: Some("paint"),
                compilation_options: options,
                targets: &[Some(wgpu::TextureFormat::Rgba8Unorm.into())],
            }),
            multiview_mask: None,
            cache: None,
        })
    };
    let (scatter, back) = (step("scatter", &[&points]), step("back_to_the_circle", &[&points, &means]));
    let drawn = [(draw(0.5), &first), (draw(1.0), &points)];

    // The same buffers as tensors [B = 1, H = 1, N = 48, D = 4].
    let gpu = Gpu::from_wgpu(device.clone(), queue.clone())?;
    let tensor = |buffer: &wgpu::Buffer| {
        Tensor::from_buffer("points", buffer.clone(), Layout::contiguous(&[1, 1, POINTS as usize, 4]), DType::F32)
    };
    let inputs = AttentionInputs::new(tensor(&points)?, tensor(&points)?, tensor(&points)?);
    let attention = Attention { scale: Some(12.0), ..Attention::default() };

    // Everything into one encoder: the program's compute passes and copies, attention, the program's render pass.
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let compute = |encoder: &mut wgpu::CommandEncoder, (pipeline, group): &(wgpu::ComputePipeline, wgpu::BindGroup)| {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    };
    compute(&mut encoder, &scatter);
    encoder.copy_buffer_to_buffer(&points, 0, &first, 0, bytes);
    for _ in 0..ROUNDS {
        let mut run = Run::new(&gpu);
        attention.record_into(&mut run, &inputs, &tensor(&means)?)?;
        run.encode(&mut encoder)?;
        compute(&mut encoder, &back);
    }
    {
        let view = picture.create_view(&wgpu::TextureViewDescriptor::default());
        let target = wgpu::RenderPassColorAttachment {
            view: &view,
            depth_slice: None,
            resolve_target: None,
            ops: wgpu::Operations { load: wgpu::LoadOp::Clear(wgpu::Color::TRANSPARENT), store: wgpu::StoreOp::Store },
        };
        let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            color_attachments: &[Some(target)],
            ..Default::default()
        });
        for (pipeline, buffer) in &drawn {
            pass.set_pipeline(pipeline);
            pass.set_vertex_buffer(0, buffer.slice(..));
            pass.draw(0..POINTS, 0..1);
        }
    }
    let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(SIDE * 4), rows_per_image: None };
    let to = wgpu::TexelCopyBufferInfo { buffer: &readable, layout };
    encoder.copy_texture_to_buffer(picture.as_image_copy(), to, size);
    queue.submit([encoder.finish()]);

    readable.map_async(wgpu::MapMode::Read, .., |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let shades: Vec<u8> = readable.get_mapped_range(..)?.iter().copied().step_by(4).collect();
    println!("on {}: {POINTS} points (·) after {ROUNDS} rounds of attention (#)", adapter.get_info().name);
    for rows in shades.chunks(2 * SIDE as usize) {
        let (upper, lower) = rows.split_at(SIDE as usize);
        let symbol = |(&a, &b): (&u8, &u8)| [' ', '·', '#'][usize::from(a.max(b) > 0) + usize::from(a.max(b) > 200)];
        println!("{}", upper.iter().zip(lower).map(symbol).collect::<String>().trim_end());
    }
    println!("the points lie in {} places", shades.iter().filter(|&&shade| shade > 200).count());
    Ok(())
}

fn entry_of(binding: u32, buffer: &wgpu::Buffer) -> wgpu::BindGroupEntry<'_> {
    wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() }
}
