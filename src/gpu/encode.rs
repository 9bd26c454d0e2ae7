//! From a recording to commands.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::pipeline::{FIRST_WORKGROUP, Pipeline};
use super::run::{Range, another_device};
use super::{Run, lock};
use crate::error::{Error, Result};
use crate::plan::{Step, Submission};
use crate::recording::{Binding, Command, Slot, SlotKind};

/// Bytes of the number of a part's first workgroup: a u32 and padding.
const FIRST_BYTES: u64 = 16;

/// Where the parameters of a dispatch lie in the buffer of them, and for each part of a step, in order, the number of its
/// first workgroup. In bytes.
struct Params {
    buffer: wgpu::Buffer,
    dispatches: Vec<u32>,
    firsts: Vec<u32>,
}

/// Scratch memory of one run.
struct Scratch {
    buffers: Vec<wgpu::Buffer>,
    /// From the pool, and back to it.
    pooled: bool,
}

impl Run<'_> {
    /// Encodes each of the submissions, which are this run's, into an encoder; `timing` has two timestamps for each of so
    /// many first dispatches.
    pub(super) fn encode_with(
        mut self,
        submissions: &[Submission],
        encoders: &mut [wgpu::CommandEncoder],
        timing: Option<(&wgpu::QuerySet, usize)>,
    ) -> Result<()> {
        let gpu = self.gpu();
        self.recording().check(gpu.caps())?;
        let mut scratch = Scratch { buffers: Vec::new(), pooled: submissions.len() == 1 };
        let encoded = self
            .take_scratch(&mut scratch)
            .and_then(|()| self.check_bound())
            .and_then(|()| self.encode_commands(submissions, encoders, timing));
        if scratch.pooled {
            let mut pool = lock(&gpu.inner.pool);
            scratch.buffers.into_iter().for_each(|buffer| pool.give(buffer));
        }
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

    /// Memory of the pool is anybody's between two submissions, so a run of several has some of its own.
    fn take_scratch(&mut self, scratch: &mut Scratch) -> Result<()> {
        let gpu = self.gpu();
        for (index, info) in self.recording.slots().iter().enumerate() {
            if info.kind == SlotKind::Scratch {
                let buffer = if scratch.pooled { gpu.scratch(info.bytes)? } else { gpu.scratch_buffer(info.bytes)? };
                let range = Range { buffer: buffer.clone(), offset: 0, bytes: info.bytes, foreign: false };
                self.bound.insert(Slot(index as u32), range);
                scratch.buffers.push(buffer);
            }
        }
        Ok(())
    }

    fn encode_commands(
        &self,
        submissions: &[Submission],
        encoders: &mut [wgpu::CommandEncoder],
        timing: Option<(&wgpu::QuerySet, usize)>,
    ) -> Result<()> {
        let gpu = self.gpu();
        // The steps of a recurrence follow one another with the same program: looked up once.
        let mut pipelines: Vec<Arc<Pipeline>> = Vec::new();
        let mut last = None;
        for dispatch in self.recording.dispatches() {
            let again = pipelines.last().filter(|_| last == Some(&dispatch.variant)).cloned();
            pipelines.push(again.map_or_else(|| gpu.inner.pipelines.get(gpu, dispatch), Ok)?);
            last = Some(&dispatch.variant);
        }
        // All that can be refused is made before an encoder is touched.
        let params = self.params(submissions)?;
        let groups = gpu.scoped(|| {
            let mut made: HashMap<(*const Pipeline, &[Binding], usize), wgpu::BindGroup> = HashMap::new();
            let mut groups = Vec::with_capacity(pipelines.len());
            for (dispatch, pipeline) in self.recording.dispatches().zip(&pipelines) {
                let size = dispatch.params.len();
                let key = (Arc::as_ptr(pipeline), dispatch.bindings.as_slice(), size);
                let make = || self.bind_group(pipeline, &dispatch.bindings, &params.buffer, size as u64);
                groups.push(made.entry(key).or_insert_with(make).clone());
            }
            groups
        })?;
        gpu.scoped(|| {
            // The dispatch that comes next, or that goes on.
            let mut number = 0;
            let mut firsts = params.firsts.iter();
            for (submission, encoder) in submissions.iter().zip(encoders) {
                let mut pass: Option<wgpu::ComputePass<'static>> = None;
                let mut set = None;
                for step in &submission.steps {
                    if let Command::Clear(slot) = &self.recording.commands()[step.command] {
                        pass = None;
                        let range = &self.bound[slot];
                        encoder.clear_buffer(&range.buffer, range.offset, Some(range.bytes.next_multiple_of(4)));
                        continue;
                    }
                    let pipeline = &pipelines[number];
                    if timing.is_some() || pass.is_none() {
                        drop(pass.take());
                        let stamp = timing.filter(|(_, timed)| number < *timed);
                        let begun = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                            label: Some(if timing.is_some() { &pipeline.label } else { "regard" }),
                            timestamp_writes: stamp.and_then(|(queries, _)| stamps(queries, number as u32, step)),
                        });
                        (pass, set) = (Some(begun.forget_lifetime()), None);
                    }
                    if let Some(pass) = &mut pass {
                        if set != Some(Arc::as_ptr(pipeline)) {
                            pass.insert_debug_marker(&pipeline.label);
                            pass.set_pipeline(&pipeline.pipeline);
                            set = Some(Arc::as_ptr(pipeline));
                        }
                        for (part, first) in step.parts.iter().zip(&mut firsts) {
                            pass.set_bind_group(0, &groups[number], &[params.dispatches[number], *first]);
                            pass.dispatch_workgroups(part.grid[0], part.grid[1], 1);
                        }
                    }
                    number += usize::from(step.last);
                }
            }
            gpu.inner.counters.dispatches.fetch_add(params.firsts.len() as u64, Ordering::Relaxed);
        })
    }

    /// All `params` in one buffer, and where each lies.
    fn params(&self, submissions: &[Submission]) -> Result<Params> {
        let gpu = self.gpu();
        let unit = gpu.inner.alignment.max(16) as usize;
        let mut bytes: Vec<u8> = Vec::new();
        let mut append = |data: &[u8]| {
            let offset = bytes.len();
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(unit), 0);
            offset as u32
        };
        // What is not cut starts at workgroup 0, which all of them share.
        let zero = append(&[0; FIRST_BYTES as usize]);
        let dispatches = self.recording.dispatches().map(|dispatch| append(&dispatch.params)).collect();
        let parts = submissions.iter().flat_map(|submission| &submission.steps).flat_map(|step| &step.parts);
        let firsts = parts.map(|part| match part.first {
            0 => zero,
            first => append(bytemuck::cast_slice(&[first, 0, 0, 0])),
        });
        let firsts = firsts.collect();
        let (needed, allowed) = (bytes.len() as u64, gpu.caps().max_buffer_bytes);
        if needed > allowed {
            return Err(Error::Limit { what: "bytes of the parameters of all dispatches".into(), needed, allowed });
        }
        let buffer = gpu.buffer(&wgpu::BufferDescriptor {
            label: Some("regard params"),
            size: needed,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::STORAGE,
            mapped_at_creation: true,
        })?;
        let written = gpu.scoped(|| {
            buffer.slice(..).get_mapped_range_mut().ok()?.copy_from_slice(&bytes);
            buffer.unmap();
            Some(())
        })?;
        written.ok_or_else(|| gpu.fault("the parameters could not be written"))?;
        Ok(Params { buffer, dispatches, firsts })
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
                Binding::Unused => resource(&self.gpu().inner.zeros, 0, 256),
            };
            entries.push(wgpu::BindGroupEntry { binding: index as u32 + 1, resource });
        }
        self.gpu().device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&pipeline.label),
            layout: &pipeline.layout,
            entries: &entries,
        })
    }
}

/// Timestamps of a dispatch, where it begins and where it ends.
fn stamps<'q>(query_set: &'q wgpu::QuerySet, number: u32, step: &Step) -> Option<wgpu::ComputePassTimestampWrites<'q>> {
    let beginning_of_pass_write_index = step.first.then_some(2 * number);
    let end_of_pass_write_index = step.last.then_some(2 * number + 1);
    (step.first || step.last).then_some(wgpu::ComputePassTimestampWrites {
        query_set,
        beginning_of_pass_write_index,
        end_of_pass_write_index,
    })
}
