//! What a call costs the thread that makes it: recorded anew, and replayed, beside the same dispatches in bare wgpu with
//! kept bind groups, in the same minutes.

use std::time::Instant;

use regard::attention::{Attention, AttentionInputs, Causal, Rotary, RotaryEmbedding};
use regard::compare::judge;
use regard::gpu::{Gpu, Prepared, Run};
use regard::layers::{GpuMultiHeadAttention, Linear, MultiHeadAttention, MultiHeadWeights};
use regard::ops::cache::{CacheShape, KvCache};
use regard::ops::linear::{Epilogue, linear};
use regard::ops::rotary::rotary;
use regard::recording::{Binding, Recording};
use regard::tensor::{Array, DType, Layout};
use regard::wgsl::ParamsSpace;
use regard::{Error, Result, Tensor, reference, wgpu};

use super::report::LaunchRow;

/// Width of a layer, and how many heads share it.
const WIDTH: usize = 128;
const HEADS: usize = 4;
const DIM: usize = WIDTH / HEADS;
/// Tokens before the one that is timed.
const PROMPT: usize = 15;
/// Keys that a cache holds, and those of a page.
const CAPACITY: usize = 64;
const PAGE: usize = 16;

/// What is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Attention,
    Linear,
    MultiHead,
    /// A token through so many layers of projections, rotary embedding, a cache and attention.
    Decode {
        layers: usize,
        paged: bool,
    },
}

impl Work {
    pub(super) const ALL: [Self; 7] = [
        Self::Attention,
        Self::Linear,
        Self::MultiHead,
        Self::Decode { layers: 1, paged: false },
        Self::Decode { layers: 1, paged: true },
        Self::Decode { layers: 12, paged: false },
        Self::Decode { layers: 12, paged: true },
    ];

    pub(super) fn name(self) -> String {
        match self {
            Self::Attention => "attention".to_owned(),
            Self::Linear => "linear".to_owned(),
            Self::MultiHead => "multi-head layer".to_owned(),
            Self::Decode { layers, paged } => {
                let layers = if layers == 1 { "1 layer".to_owned() } else { format!("{layers} layers") };
                format!("decode token, {layers}, {}", if paged { "paged" } else { "contiguous" })
            }
        }
    }
}

fn numbers(shape: &[usize], seed: f32) -> Array {
    Array::from_fn(shape, |k| ((k as f32 + 1.0) * (seed + 0.37)).sin())
}

/// Weights of one layer, about as large as what keeps the size of its input.
fn weights(seed: usize) -> MultiHeadWeights<Array> {
    let matrix = |k: usize| Linear::new(numbers(&[WIDTH, WIDTH], (seed * 4 + k) as f32).map(|x| x * 0.12));
    let (query, key, value, output) = (matrix(0), matrix(1), matrix(2), matrix(3));
    MultiHeadWeights { query, key, value, output, bias_key: None, bias_value: None }
}

/// A piece of work with its tensors on a device.
struct Launched {
    work: Work,
    x: Tensor,
    layers: Vec<GpuMultiHeadAttention>,
    tables: [Tensor; 2],
    cache: Option<KvCache>,
}

impl Launched {
    fn new(gpu: &Gpu, work: Work) -> Result<Self> {
        let (layers, tokens) = match work {
            Work::Decode { layers, .. } => (layers, 1),
            _ => (1, PROMPT + 1),
        };
        let layer = Self::layer();
        let loaded = (0..layers).map(|l| GpuMultiHeadAttention::upload(gpu, &layer, &weights(l), DType::F32));
        let loaded = loaded.collect::<Result<_>>()?;
        let x = Tensor::upload(gpu, "x", &numbers(&[1, tokens, WIDTH], 0.5), DType::F32)?;
        let [cos, sin] = Self::tables();
        let tables = [Tensor::upload(gpu, "cos", &cos, DType::F32)?, Tensor::upload(gpu, "sin", &sin, DType::F32)?];
        let shape = CacheShape { layers, batch: 1, kv_heads: HEADS, capacity: CAPACITY, key_dim: DIM, value_dim: DIM };
        let cache = match work {
            Work::Decode { paged: true, .. } => Some(KvCache::paged(gpu, shape, PAGE, CAPACITY / PAGE, DType::F32)?),
            Work::Decode { paged: false, .. } => Some(KvCache::new(gpu, shape, DType::F32)?),
            _ => None,
        };
        Ok(Self { work, x, layers: loaded, tables, cache })
    }

    /// cos and sin [C, D / 2].
    fn tables() -> [Array; 2] {
        let angle = |k: usize| {
            let (position, pair) = (k / (DIM / 2), k % (DIM / 2));
            position as f32 / 10_000f32.powf(2.0 * pair as f32 / DIM as f32)
        };
        let shape = [CAPACITY, DIM / 2];
        [Array::from_fn(&shape, |k| angle(k).cos()), Array::from_fn(&shape, |k| angle(k).sin())]
    }

    fn causal() -> Attention {
        Attention { causal: Some(Causal::TopLeft), ..Attention::default() }
    }

    fn layer() -> MultiHeadAttention {
        MultiHeadAttention { attention: Self::causal(), ..MultiHeadAttention::new(HEADS) }
    }

    fn record(&mut self, run: &mut Run<'_>) -> Result<Tensor> {
        let x = &self.x;
        match self.work {
            Work::Attention => {
                let x = x.heads(HEADS)?;
                let inputs = AttentionInputs::new(x.clone(), x.clone(), x);
                Ok(Self::causal().record(run, &inputs)?.output)
            }
            Work::Linear => linear(run, &[(x, &self.layers[0].weights().query.weight)], &Epilogue::default()),
            Work::MultiHead => {
                let inputs = AttentionInputs::new(x.clone(), x.clone(), x.clone());
                Ok(self.layers[0].record(run, &inputs)?.output)
            }
            Work::Decode { .. } => {
                let cache = self.cache.as_mut().ok_or_else(|| Error::missing("cache", "a cache of all layers"))?;
                let positions = cache.positions(run, 1)?;
                let step = cache.step(run, 1, None)?;
                let tables = self.tables.each_ref();
                let mut x = x.clone();
                for (layer, weights) in self.layers.iter().map(GpuMultiHeadAttention::weights).enumerate() {
                    let heads = |run: &mut Run<'_>, layer: &Linear<Tensor>| {
                        linear(run, &[(&x, &layer.weight)], &Epilogue::default())?.heads(HEADS)
                    };
                    let [query, key] = [heads(run, &weights.query)?, heads(run, &weights.key)?];
                    let value = heads(run, &weights.value)?;
                    let query = rotary(run, &query, tables, Some(&positions), Rotary::default())?;
                    let key = rotary(run, &key, tables, Some(&positions), Rotary::default())?;
                    step.append(run, layer, &key, &value)?;
                    let attended = Self::causal().record(run, &step.inputs(layer, &query)?)?.output;
                    let joined = attended.permute(&[0, 2, 1, 3])?;
                    let joined = joined.with_layout(joined.layout().reshape(&[1, 1, WIDTH])?)?;
                    x = linear(run, &[(&joined, &weights.output.weight)], &Epilogue::default())?;
                }
                Ok(x)
            }
        }
    }

    /// What the reference makes of it, of the last token.
    fn expected<T: reference::Float>(&self, from: impl Fn(f32) -> T) -> Result<Array<T>> {
        let wide = |array: &Array| array.map(|&x| from(x));
        let x = wide(&numbers(&[1, PROMPT + 1, WIDTH], 0.5));
        match self.work {
            Work::Linear => reference::linear(&x, &wide(&weights(0).query.weight), None, None),
            Work::Attention => {
                let heads = Layout::contiguous(x.shape()).split(2, HEADS, DIM)?.permute(&[0, 2, 1, 3])?;
                let x = x.gather(&heads)?;
                let inputs = AttentionInputs::new(x.clone(), x.clone(), x);
                Ok(reference::attention(&Self::causal(), &inputs)?.output)
            }
            Work::MultiHead | Work::Decode { .. } => {
                let layer = Self::layer();
                let decodes = self.cache.is_some();
                let mut x = x;
                for l in 0..self.layers.len() {
                    let mut inputs = AttentionInputs::new(x.clone(), x.clone(), x);
                    if decodes {
                        let tables = Self::tables().map(|table| wide(&table));
                        inputs.rotary = Some(RotaryEmbedding::new(Rotary::default(), tables));
                    }
                    x = layer.reference(&weights(l).map(&wide), &inputs)?.output;
                }
                let first = if decodes { PROMPT } else { 0 };
                x.gather(&Layout::contiguous(x.shape()).narrow(1, first, PROMPT + 1 - first)?)
            }
        }
    }

    /// Fills the cache with the tokens before the last one, and leaves the last one in x.
    fn fill(&self, prepared: &mut Prepared, gpu: &Gpu) -> Result<()> {
        if self.cache.is_some() {
            let tokens = numbers(&[1, PROMPT + 1, WIDTH], 0.5);
            for t in 0..PROMPT {
                self.x.write(gpu, &tokens.gather(&Layout::contiguous(tokens.shape()).narrow(1, t, 1)?)?)?;
                prepared.submit()?;
            }
            self.x.write(gpu, &tokens.gather(&Layout::contiguous(tokens.shape()).narrow(1, PROMPT, 1)?)?)?;
        }
        Ok(())
    }

    /// Makes room for the next token after one that was timed.
    fn rewind(&mut self) -> Result<()> {
        self.cache.as_mut().map_or(Ok(()), |cache| cache.truncate(0, PROMPT))
    }
}

/// The dispatches of a recording in plain wgpu, over buffers of its own; pipelines, bind groups and parameters are kept.
struct Bare {
    steps: Vec<(wgpu::ComputePipeline, wgpu::BindGroup, [u32; 2])>,
    /// Small buffers that each launch writes, as a cache's lengths and positions.
    words: Vec<(wgpu::Buffer, Vec<u8>)>,
}

impl Bare {
    fn new(gpu: &Gpu, recording: &Recording, words: usize) -> Self {
        let device = gpu.device();
        let buffer = |size: u64, usage: wgpu::BufferUsages| {
            let usage = usage | wgpu::BufferUsages::COPY_DST;
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("bare"),
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let storage = wgpu::BufferUsages::STORAGE;
        let slots: Vec<_> =
            recording.slots().iter().map(|slot| buffer(slot.bytes.next_multiple_of(4).max(4), storage)).collect();
        let unused = buffer(256, storage | wgpu::BufferUsages::UNIFORM);
        let step = |dispatch: &regard::recording::Dispatch| {
            let space = ParamsSpace::of(gpu.caps(), dispatch.bindings.len());
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some("bare"),
                source: wgpu::ShaderSource::Wgsl(dispatch.variant.source(space).into()),
            });
            let params = buffer(dispatch.params.len() as u64, storage | wgpu::BufferUsages::UNIFORM);
            gpu.queue().write_buffer(&params, 0, &dispatch.params);
            let ty = match space {
                ParamsSpace::Uniform => wgpu::BufferBindingType::Uniform,
                ParamsSpace::Storage => wgpu::BufferBindingType::Storage { read_only: true },
            };
            let mut bound =
                vec![(0, ty, &params), (regard::wgsl::FIRST_WORKGROUP, wgpu::BufferBindingType::Uniform, &unused)];
            for (binding, number) in dispatch.bindings.iter().zip(1..) {
                let (read_only, buffer) = match *binding {
                    Binding::Read(slot) => (true, &slots[slot.index()]),
                    Binding::Write(slot) => (false, &slots[slot.index()]),
                    Binding::Unused => (true, &unused),
                };
                bound.push((number, wgpu::BufferBindingType::Storage { read_only }, buffer));
            }
            let entry =
                |&(binding, ty, _): &(u32, wgpu::BufferBindingType, &wgpu::Buffer)| wgpu::BindGroupLayoutEntry {
                    binding,
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                    count: None,
                };
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some("bare"),
                entries: &bound.iter().map(entry).collect::<Vec<_>>(),
            });
            let entries: Vec<_> = bound
                .iter()
                .map(|&(binding, _, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
                .collect();
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("bare"),
                layout: &layout,
                entries: &entries,
            });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some("bare"),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some("bare"),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &dispatch.variant.overrides,
                    ..Default::default()
                },
                cache: None,
            });
            (pipeline, group, dispatch.grid)
        };
        let words = (0..words).map(|_| (buffer(16, storage), vec![0; 8])).collect();
        Self { steps: recording.dispatches().map(step).collect(), words }
    }

    fn launch(&self, gpu: &Gpu) {
        for (buffer, bytes) in &self.words {
            gpu.queue().write_buffer(buffer, 0, bytes);
        }
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for (pipeline, group, grid) in &self.steps {
                pass.set_pipeline(pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(grid[0], grid[1], 1);
            }
        }
        gpu.queue().submit([encoder.finish()]);
    }
}

/// Checks the answer of a piece of work, recorded anew and replayed, and times what each costs the calling thread: a row for
/// either.
///
/// # Errors
/// [`Error::Tolerance`] for a wrong answer, and those of the device.
pub(super) fn measure(gpu: &Gpu, work: Work, quick: bool) -> Result<[LaunchRow; 2]> {
    let mut launched = Launched::new(gpu, work)?;
    let mut run = Run::new(gpu);
    let kept = launched.record(&mut run)?;
    let words = if launched.cache.is_some() { 2 } else { 0 };
    let bare = Bare::new(gpu, run.recording(), words);
    let dispatches = run.recording().dispatches().count();
    let mut prepared = run.prepare()?;
    launched.fill(&mut prepared, gpu)?;

    let (oracle, baseline) = (launched.expected(f64::from)?, launched.expected(|x| x)?);
    let check = |name: &str, got: &Array| -> Result<()> {
        judge(name, got, &oracle, &baseline, DType::F32)?.check(name).map(drop)
    };
    let replayed = prepared.submit_and_read(&[&kept])?;
    check(&work.name(), &replayed[0])?;
    launched.rewind()?;
    let mut run = Run::new(gpu);
    let output = launched.record(&mut run)?;
    check(&work.name(), &run.submit_and_read(&[&output])?[0])?;
    launched.rewind()?;

    let micros = |work: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        let start = Instant::now();
        work()?;
        let took = start.elapsed().as_nanos() as f64 / 1e3;
        gpu.wait()?;
        Ok(took)
    };
    let (mut again, mut anew, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..if quick { 60 } else { 400 } {
        plain.push(micros(&mut || {
            bare.launch(gpu);
            Ok(())
        })?);
        again.push(micros(&mut || prepared.submit())?);
        launched.rewind()?;
        anew.push(micros(&mut || {
            let mut run = Run::new(gpu);
            launched.record(&mut run)?;
            run.submit()
        })?);
        launched.rewind()?;
    }
    let middle = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let bare_us = middle(plain);
    let row = |how: &str, times: Vec<f64>| {
        let ours_us = middle(times);
        LaunchRow { name: format!("{}, {how}", work.name()), dispatches, ours_us, bare_us, ratio: ours_us / bare_us }
    };
    Ok([row("replayed", again), row("recorded anew", anew)])
}
