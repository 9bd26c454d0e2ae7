//! Attention the way a first port to a GPU has it (`naive.wgsl`): what the library's kernels are held against. On wgpu
//! alone.

use crate::attention::{AttentionInputs, Mask};
use crate::device::Caps;
use crate::gpu::{Gpu, Tensor};
use crate::plan::grid;
use crate::tensor::{Array, DType};
use crate::{Error, Result, wgpu};

use super::Workload;

/// Invocations in a workgroup.
const LANES: u64 = 64;
/// Passes of an invocation over the keys of its row.
const PASSES: u64 = 3;

/// A workload, ready to run.
pub struct Naive {
    /// Score, softmax, weighted sum.
    steps: Vec<Step>,
    output: Tensor,
}

struct Step {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    grid: [u32; 2],
}

impl Naive {
    /// Whether a device has the limits for it.
    ///
    /// # Errors
    /// [`Error::Limit`] where the scores do not fit one binding, or a row has more keys than an invocation may loop over.
    pub fn check(work: &Workload, caps: &Caps) -> Result<()> {
        let scores = DType::F32.bytes_of(work.batch * work.query_heads * work.queries * work.keys) as u64;
        let largest = caps.max_tensor_bytes();
        let iterations = PASSES * work.keys as u64;
        let limits =
            [("bytes of the scores", scores, largest), ("loop iterations of a row", iterations, caps.max_iterations)];
        match limits.into_iter().find(|(_, needed, allowed)| needed > allowed) {
            Some((what, needed, allowed)) => Err(Error::Limit { what: what.to_owned(), needed, allowed }),
            None => Ok(()),
        }
    }

    /// Over a workload's inputs on the device.
    ///
    /// # Errors
    /// As [`Naive::check`].
    pub fn new(gpu: &Gpu, work: &Workload, inputs: &AttentionInputs<Tensor>) -> Result<Self> {
        Self::check(work, gpu.caps())?;
        let Workload { batch, query_heads, kv_heads, queries, keys, dim, value_dim, dtype, .. } = *work;
        let scores = Tensor::uninitialized(gpu, "scores", &[batch, query_heads, queries, keys], DType::F32)?;
        let output = Tensor::uninitialized(gpu, "output", &[batch, query_heads, queries, value_dim], dtype)?;
        let unused = Tensor::upload(gpu, "unused", &Array::filled(&[1], 0.0), DType::F32)?;
        let mask = inputs.mask.as_ref().map_or(&unused, Mask::tensor);
        let v = inputs.score.v.as_ref().unwrap_or(&unused);
        let tensors = [&inputs.query, &inputs.key, &inputs.value, mask, v, &scores, &output];

        let device = gpu.device();
        let header = if dtype == DType::F16 { "enable f16;\nalias elem = f16;\n" } else { "alias elem = f32;\n" };
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("naive attention"),
            source: wgpu::ShaderSource::Wgsl(format!("{header}{}", include_str!("naive.wgsl")).into()),
        });
        let entries: Vec<_> = (0..=tensors.len() as u32).map(layout_entry).collect();
        let layout = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some("naive"), entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("naive"),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let scale = if work.is_additive() { 1.0 } else { 1.0 / (dim as f32).sqrt() };
        let rows = (batch * query_heads * queries) as u64;
        let entry_points = [("score", rows * keys as u64), ("softmax", rows), ("weigh", rows * value_dim as u64)];
        let step = |(entry_point, invocations): (&str, u64)| -> Result<Step> {
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(entry_point),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(entry_point),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            });
            let grid = grid(entry_point, invocations.div_ceil(LANES), gpu.caps())?;
            let sizes = [batch, query_heads, kv_heads, queries, keys, dim, value_dim].map(|n| n as u32);
            let flags = [work.is_causal(), work.is_masked(), work.is_additive()].map(u32::from);
            let width = [grid[0] * LANES as u32];
            let params: Vec<u8> = [&sizes[..], &[scale.to_bits()], &flags, &width]
                .concat()
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect();
            let params = uniform(gpu, &params);
            let tensors: Vec<_> = tensors.iter().map(|tensor| tensor.buffer()).collect::<Result<_>>()?;
            let entries: Vec<_> = std::iter::once(&params)
                .chain(tensors)
                .zip(0..)
                .map(|(buffer, binding)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
                .collect();
            let descriptor = wgpu::BindGroupDescriptor { label: Some("naive"), layout: &layout, entries: &entries };
            Ok(Step { pipeline, group: device.create_bind_group(&descriptor), grid })
        };
        Ok(Self { steps: entry_points.into_iter().map(step).collect::<Result<_>>()?, output })
    }

    /// The three dispatches.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for Step { pipeline, group, grid } in &self.steps {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(grid[0], grid[1], 1);
        }
    }

    pub fn dispatches(&self) -> usize {
        self.steps.len()
    }

    /// What the last run left, [B, Hq, Nq, Dv].
    pub fn output(&self) -> &Tensor {
        &self.output
    }
}

fn layout_entry(binding: u32) -> wgpu::BindGroupLayoutEntry {
    let ty = match binding {
        0 => wgpu::BufferBindingType::Uniform,
        _ => wgpu::BufferBindingType::Storage { read_only: binding < 6 },
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}

fn uniform(gpu: &Gpu, bytes: &[u8]) -> wgpu::Buffer {
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("naive params"),
        size: bytes.len() as u64,
        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue().write_buffer(&buffer, 0, bytes);
    buffer
}
