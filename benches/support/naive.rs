//! A recurrent stack the way a first port to a GPU has it: layer after layer, a dispatch a step, an invocation a unit,
//! nothing hoisted out of the loop (`naive.wgsl`). On wgpu alone; what `regard` is held against.

#![allow(unreachable_pub, missing_docs)]

use regard::gpu::{Gpu, Tensor};
use regard::rnn::{Cell, RnnStack};
use regard::tensor::{Array, DType, Layout};
use regard::wgpu;

/// Bytes between the parameters of two steps: the largest alignment that a device may ask for.
const STRIDE: u64 = 256;
/// Invocations in a workgroup.
const LANES: usize = 64;

/// A stack with its input, ready to run.
pub struct Naive {
    pipeline: wgpu::ComputePipeline,
    layers: Vec<Layer>,
    steps: usize,
    workgroups: u32,
    /// [1 + T, B, H] of the last layer.
    states: wgpu::Buffer,
    output: Layout,
}

struct Layer {
    group: wgpu::BindGroup,
    cell: wgpu::Buffer,
}

impl Naive {
    /// Forward layers with biases over `input` [T, B, I] from zero states.
    pub fn new(gpu: &Gpu, cell: Cell, stack: &RnnStack<Array>, input: &Array) -> Self {
        let device = gpu.device();
        let &[steps, batch, _] = input.shape() else { panic!("an input [T, B, I]") };
        let hidden = stack[0][0].weight_hh.shape()[1];
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("naive"),
            source: wgpu::ShaderSource::Wgsl(include_str!("naive.wgsl").into()),
        });
        let entries: Vec<_> = (0..7).map(layout_entry).collect();
        let layout = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some("naive"), entries: &entries });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("naive"),
            layout: Some(&device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some("naive"),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            })),
            module: &module,
            entry_point: Some(if cell == Cell::Lstm { "lstm" } else { "gru" }),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });

        let upload = |array: &Array| Tensor::upload(gpu, "naive", array, DType::F32).unwrap().buffer().unwrap().clone();
        let zeros = |elements: usize| upload(&Array::filled(&[elements], 0.0));
        // A layer's outputs are the next one's input; its zeros at the start are left out by an offset of the binding.
        let alignment = device.limits().min_storage_buffer_offset_alignment as usize / 4;
        assert!((batch * hidden).is_multiple_of(alignment), "B·H is a multiple of {alignment}");
        let (mut source, mut offset) = (upload(input), 0);
        let mut layers = Vec::new();
        for weights in stack {
            let [weights] = &weights[..] else { panic!("one direction") };
            let bias = [&weights.bias_ih, &weights.bias_hh].map(|bias| bias.as_ref().expect("a bias").data().to_vec());
            let bias = bias.concat();
            let params = params(gpu, steps, [batch, weights.weight_ih.shape()[1], hidden]);
            let states = zeros((1 + steps) * batch * hidden);
            let cell = zeros(batch * hidden);
            let buffers = [
                upload(&weights.weight_ih),
                upload(&weights.weight_hh),
                upload(&Array::new(&[bias.len()], bias).unwrap()),
                states.clone(),
                cell.clone(),
            ];
            let first = [
                wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &params,
                        offset: 0,
                        size: wgpu::BufferSize::new(16),
                    }),
                },
                wgpu::BindGroupEntry {
                    binding: 1,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &source,
                        offset,
                        size: None,
                    }),
                },
            ];
            let rest = buffers
                .iter()
                .zip(2..)
                .map(|(buffer, binding)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
            let entries: Vec<_> = first.into_iter().chain(rest).collect();
            let descriptor = wgpu::BindGroupDescriptor { label: Some("naive"), layout: &layout, entries: &entries };
            let group = device.create_bind_group(&descriptor);
            layers.push(Layer { group, cell });
            (source, offset) = (states, (4 * batch * hidden) as u64);
        }
        let mut output = Layout::contiguous(&[steps, batch, hidden]);
        output.offset = batch * hidden;
        let workgroups = (batch * hidden).div_ceil(LANES) as u32;
        Self { pipeline, layers, steps, workgroups, states: source, output }
    }

    /// The whole stack.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        self.layers.iter().for_each(|layer| encoder.clear_buffer(&layer.cell, 0, None));
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        for layer in &self.layers {
            for step in 0..self.steps {
                pass.set_bind_group(0, &layer.group, &[step as u32 * STRIDE as u32]);
                pass.dispatch_workgroups(self.workgroups, 1, 1);
            }
        }
    }

    /// What the last run left, [T, B, H].
    pub fn output(&self, gpu: &Gpu) -> Array {
        let output = Tensor::from_buffer("states", self.states.clone(), self.output.clone(), DType::F32).unwrap();
        output.download(gpu).unwrap()
    }
}

fn layout_entry(binding: u32) -> wgpu::BindGroupLayoutEntry {
    let ty = match binding {
        0 => wgpu::BufferBindingType::Uniform,
        _ => wgpu::BufferBindingType::Storage { read_only: binding < 5 },
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: binding == 0, min_binding_size: None },
        count: None,
    }
}

/// The parameters of every step.
fn params(gpu: &Gpu, steps: usize, sizes: [usize; 3]) -> wgpu::Buffer {
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("naive params"),
        size: steps as u64 * STRIDE,
        usage: wgpu::BufferUsages::UNIFORM,
        mapped_at_creation: true,
    });
    let mut bytes = Vec::new();
    for step in 0..steps {
        bytes.extend([step, sizes[0], sizes[1], sizes[2]].iter().flat_map(|&n| (n as u32).to_le_bytes()));
        bytes.resize((step + 1) * STRIDE as usize, 0);
    }
    buffer.slice(..).get_mapped_range_mut().unwrap().copy_from_slice(&bytes);
    buffer.unmap();
    buffer
}
