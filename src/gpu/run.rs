//! From a recording to command buffers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::pipeline::{FIRST_WORKGROUP, Pipeline};
use super::timing::Stamps;
use super::{Gpu, Tensor, lock};
use crate::error::{Error, Result};
use crate::plan;
use crate::recording::{Binding, Command, Dispatch, Recording, Slot, SlotKind, View};
use crate::tensor::{Array, DType, Layout};

/// A part of a buffer, as it is bound.
#[derive(Debug, Clone)]
struct Range {
    buffer: wgpu::Buffer,
    offset: u64,
    bytes: u64,
    /// A tensor's that another [`Gpu`] made.
    foreign: bool,
}

/// A recording on its way to a device: tensors are bound to its slots, then it is encoded and submitted once.
#[derive(Debug, Clone)]
pub struct Run<'g> {
    gpu: &'g Gpu,
    recording: Recording,
    bound: HashMap<Slot, Range>,
}

/// Bytes of the number of a part's first workgroup: a u32 and padding.
const FIRST_BYTES: u64 = 16;

/// How a dispatch is launched: where its parameters lie in the buffer of them, in bytes, and for each part where the
/// number of its first workgroup lies, and its grid.
struct Launch {
    params: u32,
    parts: Vec<(u32, [u32; 2])>,
}

/// What one dispatch was and how long it took.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Timing {
    /// The dispatch.
    pub dispatch: Dispatch,
    /// Parts that it was run in: [`plan::parts()`].
    pub parts: usize,
    /// Device time in nanoseconds, of all parts; `None` where the device has no timestamps.
    pub nanoseconds: Option<f64>,
}

impl<'g> Run<'g> {
    /// Nothing recorded yet.
    pub fn new(gpu: &'g Gpu) -> Self {
        Self { gpu, recording: Recording::new(), bound: HashMap::new() }
    }

    /// The device this will run on.
    pub fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// What is recorded so far.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// What is recorded so far, to add to.
    pub fn recording_mut(&mut self) -> &mut Recording {
        &mut self.recording
    }

    /// Binds a tensor and returns its view.
    pub fn bind(&mut self, name: &str, tensor: &Tensor) -> View {
        let (layout, dtype) = (tensor.layout(), tensor.dtype());
        let (block, block_bytes) = (dtype.block(), dtype.bytes_of(dtype.block()) as u64);
        // The binding starts at the last aligned block before the first element; the rest of the offset stays in the
        // view. Buffers much larger than a binding can be used that way.
        let start = dtype.bytes_of(layout.offset) as u64;
        let unit = least_common_multiple(self.gpu.inner.alignment, block_bytes);
        let offset = start / unit * unit;
        let end = (dtype.bytes_of(layout.span()) as u64).max(offset + 4).next_multiple_of(4);
        let bytes = end.min(tensor.buffer().size()) - offset;
        let view = Layout { offset: ((start - offset) / block_bytes) as usize * block, ..layout.clone() };
        let view = self.recording.bound(name, view, dtype, bytes);
        let foreign = !tensor.may_be_of(self.gpu);
        self.bound.insert(view.slot, Range { buffer: tensor.buffer().clone(), offset, bytes, foreign });
        view
    }

    /// Makes a dense tensor for a result and binds it.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::OutOfMemory`] or [`Error::Gpu`] when the device cannot hold it.
    pub fn output(&mut self, name: &str, shape: &[usize], dtype: DType) -> Result<(View, Tensor)> {
        let tensor = Tensor::uninitialized(self.gpu, name, shape, dtype)?;
        Ok((self.bind(name, &tensor), tensor))
    }

    /// Encodes into the caller's encoder; nothing is submitted.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Unsupported`], [`Error::Shape`] for a tensor that cannot be bound, [`Error::OutOfMemory`],
    /// [`Error::Gpu`] or [`Error::DeviceLost`]; the encoder is then as it was. That the encoder is another device's shows only
    /// where it is finished.
    pub fn encode(self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.encode_with(encoder, None)
    }

    /// Encodes and submits, once. Does not wait.
    ///
    /// # Errors
    /// As [`Run::encode`].
    pub fn submit(self) -> Result<()> {
        let gpu = self.gpu;
        gpu.check_lost()?;
        let mut encoder = gpu.encoder("regard")?;
        self.encode_with(&mut encoder, None)?;
        gpu.submit(encoder)
    }

    /// Encodes, submits once, waits, and returns these tensors' elements as f32.
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub fn submit_and_read(self, tensors: &[&Tensor]) -> Result<Vec<Array<f32>>> {
        pollster::block_on(self.read(tensors, true))
    }

    /// As [`Run::submit_and_read`], without blocking: submits at the first poll, and is ready once the device has been
    /// polled past the copies (`device.poll` on native; browsers poll by themselves).
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub async fn submit_and_read_async(self, tensors: &[&Tensor]) -> Result<Vec<Array<f32>>> {
        self.read(tensors, false).await
    }

    /// Encodes and submits once; with `block` the device is waited for, else the future wakes when it has been polled
    /// past the copies.
    pub(super) async fn read(mut self, tensors: &[&Tensor], block: bool) -> Result<Vec<Array<f32>>> {
        let gpu = self.gpu;
        gpu.check_lost()?;
        // A tensor that cannot be copied as it lies is made dense first.
        let mut dense = Vec::with_capacity(tensors.len());
        for &tensor in tensors {
            if !tensor.may_be_of(gpu) {
                return Err(another_device("download source"));
            }
            if tensor.copyable().is_some() {
                dense.push(tensor.clone());
                continue;
            }
            let dtype = if tensor.dtype() == DType::Q8 { DType::F32 } else { tensor.dtype() };
            let (target, copy) = self.output("download", tensor.shape(), dtype)?;
            let source = self.bind("download source", tensor);
            crate::kernels::copy::record(&mut self.recording, gpu.caps(), &source, &target)?;
            dense.push(copy);
        }
        let ranges: Vec<_> = dense.iter().map(|t| t.copyable().unwrap_or(0..0)).collect();
        let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let mut encoder = gpu.encoder("regard read")?;
        self.encode_with(&mut encoder, None)?;
        let staging = gpu.buffer(&wgpu::BufferDescriptor {
            label: Some("regard read"),
            size: total.max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })?;
        gpu.scoped(|| {
            let mut to = 0;
            for (tensor, range) in dense.iter().zip(&ranges) {
                let bytes = range.end - range.start;
                if bytes > 0 {
                    encoder.copy_buffer_to_buffer(tensor.buffer(), range.start, &staging, to, Some(bytes));
                }
                to += bytes;
            }
        })?;
        gpu.submit(encoder)?;
        gpu.inner.counters.downloads.fetch_add(1, Ordering::Relaxed);
        let raw = super::map::map(gpu, &staging, total.max(4), block).await?;
        let mut from = 0;
        dense
            .iter()
            .zip(&ranges)
            .map(|(tensor, range)| {
                let start = from as usize;
                from += range.end - range.start;
                tensor.decode(&raw[start..from as usize])
            })
            .collect()
    }

    /// Encodes each dispatch in a pass of its own, submits, waits and returns how long each took on the device.
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub fn submit_timed(self) -> Result<Vec<Timing>> {
        let gpu = self.gpu;
        gpu.check_lost()?;
        let dispatches: Vec<Dispatch> = self.recording.dispatches().cloned().collect();
        // A query set holds at most 4096 timestamps; later dispatches go untimed.
        let timed = if gpu.caps().timestamps { dispatches.len().min(2048) } else { 0 };
        let stamps = (timed > 0).then(|| Stamps::new(gpu, timed)).transpose()?;
        let mut encoder = gpu.encoder("regard timed")?;
        self.encode_with(&mut encoder, stamps.as_ref().map(|stamps| (&stamps.queries, timed)))?;
        if let Some(stamps) = &stamps {
            stamps.resolve(&mut encoder);
        }
        gpu.submit(encoder)?;
        gpu.wait()?;
        let times = stamps.map_or(Ok(Vec::new()), |stamps| stamps.nanoseconds(gpu))?;
        let times = times.into_iter().map(Some).chain(std::iter::repeat(None));
        let timing = |(dispatch, nanoseconds)| {
            let parts = plan::parts(&dispatch, gpu.caps()).len();
            Timing { dispatch, parts, nanoseconds }
        };
        Ok(dispatches.into_iter().zip(times).map(timing).collect())
    }

    fn encode_with(
        mut self,
        encoder: &mut wgpu::CommandEncoder,
        timing: Option<(&wgpu::QuerySet, usize)>,
    ) -> Result<()> {
        let gpu = self.gpu;
        self.recording.check(gpu.caps())?;
        let mut scratch = Vec::new();
        let encoded = self
            .take_scratch(&mut scratch)
            .and_then(|()| self.check_bound())
            .and_then(|()| self.encode_commands(encoder, timing));
        let mut pool = lock(&gpu.inner.pool);
        scratch.into_iter().for_each(|buffer| pool.give(buffer));
        encoded
    }

    /// Every slot that a command names must be one of this recording, with something in it that can be bound there.
    fn check_bound(&self) -> Result<()> {
        let name = |slot: Slot| self.recording.info(slot).map_or("slot of another run", |s| &s.name);
        let find = |slot: Slot| {
            let range =
                self.bound.get(&slot).ok_or_else(|| Error::missing(name(slot), "a tensor bound to its slot"))?;
            if range.foreign {
                return Err(another_device(name(slot)));
            }
            let usage = range.buffer.usage();
            match usage.contains(wgpu::BufferUsages::STORAGE) {
                true => Ok(range),
                false => Err(Error::shape(name(slot), "buffer usage", "STORAGE", format!("{usage:?}"))),
            }
        };
        for command in self.recording.commands() {
            let dispatch = match command {
                Command::Dispatch(dispatch) => dispatch,
                Command::Clear(slot) => {
                    find(*slot)?;
                    continue;
                }
            };
            let (mut read, mut written) = (Vec::new(), Vec::new());
            for binding in &dispatch.bindings {
                match *binding {
                    Binding::Read(slot) => read.push((slot, find(slot)?)),
                    Binding::Write(slot) => written.push((slot, find(slot)?)),
                    Binding::Unused => {}
                }
            }
            // WebGPU lets a dispatch either read a buffer or write it, whole, wherever in it the tensors lie.
            for (slot, range) in &written {
                if let Some((other, _)) = read.iter().find(|(_, read)| read.buffer == range.buffer) {
                    let expected =
                        format!("another buffer than that of `{}`, which the same dispatch reads", name(*other));
                    return Err(Error::shape(name(*slot), "buffer", expected, "the same"));
                }
            }
        }
        Ok(())
    }

    fn take_scratch(&mut self, taken: &mut Vec<wgpu::Buffer>) -> Result<()> {
        let gpu = self.gpu;
        let limit = gpu.caps().max_binding_bytes.min(gpu.caps().max_buffer_bytes);
        for (index, info) in self.recording.slots().iter().enumerate() {
            if info.kind == SlotKind::Scratch {
                let buffer = gpu.scratch(info.bytes, limit)?;
                self.bound.insert(
                    Slot(index as u32),
                    Range { buffer: buffer.clone(), offset: 0, bytes: info.bytes, foreign: false },
                );
                taken.push(buffer);
            }
        }
        Ok(())
    }

    fn encode_commands(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        timing: Option<(&wgpu::QuerySet, usize)>,
    ) -> Result<()> {
        let gpu = self.gpu;
        // The steps of a recurrence follow one another with the same program: looked up once.
        let mut pipelines: Vec<Arc<Pipeline>> = Vec::new();
        let mut last = None;
        for dispatch in self.recording.dispatches() {
            let again = pipelines.last().filter(|_| last == Some(&dispatch.variant)).cloned();
            pipelines.push(again.map_or_else(|| gpu.inner.pipelines.get(gpu, dispatch), Ok)?);
            last = Some(&dispatch.variant);
        }
        // All that can be refused is made before the encoder is touched.
        let (params, launches) = self.params()?;
        let groups = gpu.scoped(|| {
            let mut made: HashMap<(*const Pipeline, &[Binding], usize), wgpu::BindGroup> = HashMap::new();
            let mut groups = Vec::with_capacity(pipelines.len());
            for (dispatch, pipeline) in self.recording.dispatches().zip(&pipelines) {
                let size = dispatch.params.len();
                let key = (Arc::as_ptr(pipeline), dispatch.bindings.as_slice(), size);
                let make = || self.bind_group(pipeline, &dispatch.bindings, &params, size as u64);
                groups.push(made.entry(key).or_insert_with(make).clone());
            }
            groups
        })?;
        gpu.scoped(|| {
            let mut pass: Option<wgpu::ComputePass<'static>> = None;
            let mut set = None;
            let (mut number, mut dispatches) = (0, 0);
            for command in self.recording.commands() {
                let dispatch = match command {
                    Command::Dispatch(dispatch) => dispatch,
                    Command::Clear(slot) => {
                        pass = None;
                        let range = &self.bound[slot];
                        encoder.clear_buffer(&range.buffer, range.offset, Some(range.bytes.next_multiple_of(4)));
                        continue;
                    }
                };
                let pipeline = &pipelines[number];
                let stamp = timing.filter(|(_, timed)| number < *timed);
                if timing.is_some() || pass.is_none() {
                    drop(pass.take());
                    let label = dispatch.variant.label();
                    let begun = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: Some(if timing.is_some() { &label } else { "regard" }),
                        timestamp_writes: stamp.map(|(query_set, _)| wgpu::ComputePassTimestampWrites {
                            query_set,
                            beginning_of_pass_write_index: Some(2 * number as u32),
                            end_of_pass_write_index: Some(2 * number as u32 + 1),
                        }),
                    });
                    (pass, set) = (Some(begun.forget_lifetime()), None);
                }
                if let Some(pass) = &mut pass {
                    if set != Some(Arc::as_ptr(pipeline)) {
                        pass.insert_debug_marker(&pipeline.label);
                        pass.set_pipeline(&pipeline.pipeline);
                        set = Some(Arc::as_ptr(pipeline));
                    }
                    let launch = &launches[number];
                    for (first, [x, y]) in &launch.parts {
                        pass.set_bind_group(0, &groups[number], &[launch.params, *first]);
                        pass.dispatch_workgroups(*x, *y, 1);
                    }
                    dispatches += launch.parts.len();
                }
                number += 1;
            }
            gpu.inner.counters.dispatches.fetch_add(dispatches as u64, Ordering::Relaxed);
        })
    }

    /// All `params` in one buffer, and how each dispatch is launched.
    fn params(&self) -> Result<(wgpu::Buffer, Vec<Launch>)> {
        let unit = self.gpu.inner.alignment.max(16) as usize;
        let mut bytes: Vec<u8> = Vec::new();
        let mut append = |data: &[u8]| {
            let offset = bytes.len();
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(unit), 0);
            offset as u32
        };
        // What is not cut starts at workgroup 0, which all of them share.
        let zero = append(&[0; FIRST_BYTES as usize]);
        let mut launch = |dispatch: &Dispatch| {
            let params = append(&dispatch.params);
            let parts = plan::parts(dispatch, self.gpu.caps()).into_iter().map(|part| match part.first {
                0 => (zero, part.grid),
                first => (append(bytemuck::cast_slice(&[first, 0, 0, 0])), part.grid),
            });
            Launch { params, parts: parts.collect() }
        };
        let launches = self.recording.dispatches().map(&mut launch).collect();
        let (needed, allowed) = (bytes.len() as u64, self.gpu.caps().max_buffer_bytes);
        if needed > allowed {
            return Err(Error::Limit { what: "bytes of the parameters of all dispatches".into(), needed, allowed });
        }
        let buffer = self.gpu.buffer(&wgpu::BufferDescriptor {
            label: Some("regard params"),
            size: needed,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::STORAGE,
            mapped_at_creation: true,
        })?;
        let written = self.gpu.scoped(|| {
            buffer.slice(..).get_mapped_range_mut().ok()?.copy_from_slice(&bytes);
            buffer.unmap();
            Some(())
        })?;
        written.ok_or_else(|| self.gpu.fault("the parameters could not be written"))?;
        Ok((buffer, launches))
    }

    fn bind_group(
        &self,
        pipeline: &Pipeline,
        bindings: &[Binding],
        params: &wgpu::Buffer,
        size: u64,
    ) -> wgpu::BindGroup {
        let resource = |buffer, offset, bytes| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(bytes) })
        };
        let mut entries = vec![
            wgpu::BindGroupEntry { binding: 0, resource: resource(params, 0, size) },
            wgpu::BindGroupEntry { binding: FIRST_WORKGROUP, resource: resource(params, 0, FIRST_BYTES) },
        ];
        for (index, binding) in bindings.iter().enumerate() {
            let resource = match binding {
                Binding::Read(slot) | Binding::Write(slot) => {
                    let range = &self.bound[slot];
                    resource(&range.buffer, range.offset, range.bytes.next_multiple_of(4))
                }
                Binding::Unused => resource(&self.gpu.inner.zeros, 0, 256),
            };
            entries.push(wgpu::BindGroupEntry { binding: index as u32 + 1, resource });
        }
        self.gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&pipeline.label),
            layout: &pipeline.layout,
            entries: &entries,
        })
    }
}

fn another_device(tensor: &str) -> Error {
    Error::shape(
        tensor,
        "device",
        "a tensor of this `Gpu`, or over an embedder's buffer",
        "one that another `Gpu` made",
    )
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut gcd, mut rest) = (a, b);
    while rest != 0 {
        (gcd, rest) = (rest, gcd % rest);
    }
    a / gcd.max(1) * b
}

impl Gpu {
    pub(super) fn encoder(&self, label: &str) -> Result<wgpu::CommandEncoder> {
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some(label) };
        self.scoped(|| self.device().create_command_encoder(&descriptor))
    }
}
