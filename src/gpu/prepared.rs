//! From a recording to commands: memory, pipelines, bind groups and parameters are made once, and encoded as often as
//! wanted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::groups::Key;
use super::pipeline::{Pipeline, Trusted};
use super::run::{Bound, BoundSlots, Copies, another_device, write_words};
use super::tensor::Memory;
use super::{Gpu, Run, Tensor, lock};
use crate::error::{Error, Result};
use crate::fill::Drafts;
use crate::hash::WordMap;
use crate::plan::{Lifetime, ScratchPlan, Step, Submission};
use crate::recording::{Binding, Command, Dispatch, Recording, Slot, SlotInfo, SlotKind};
use crate::tensor::Array;
use crate::wgsl::FIRST_WORKGROUP;

/// Bytes of the number of a chunk's first workgroup: a u32 and padding.
const FIRST_BYTES: u64 = 16;

/// A run whose memory, pipelines, bind groups and parameters are made, to be submitted or encoded again and again: with
/// what its tensors then hold, which [`Tensor::write`] changes, with other tensors in their place ([`Prepared::rebind`]),
/// and for caches that have grown in between. Made by [`Run::prepare`].
///
/// Tensors that nobody held when it was prepared share memory with others of the run; the others are results, and each
/// submission overwrites them.
#[derive(Debug)]
pub struct Prepared {
    gpu: Gpu,
    recording: Recording,
    bound: BoundSlots,
    submissions: Vec<Submission>,
    /// Taken from the pool, and given back when this is dropped.
    scratch: Vec<wgpu::Buffer>,
    /// What each slot is bound to; none for one that no command names.
    ranges: Vec<Option<Range>>,
    params: Params,
    /// All that was encoded of it has been submitted: what comes next on the queue may write its parameters' buffer.
    in_order: bool,
    /// Of each dispatch, in order.
    pipelines: Vec<Arc<Pipeline>>,
    /// Of each dispatch, in order.
    groups: Vec<wgpu::BindGroup>,
    drafts: Drafts,
    /// Small tensors of u32 with what shaders know of the caches.
    words: Vec<Tensor>,
    footprint: Footprint,
}

/// A range of a buffer, as it is bound.
#[derive(Debug, Clone)]
struct Range {
    buffer: wgpu::Buffer,
    offset: u64,
    bytes: u64,
}

/// Where the parameters of a dispatch lie in the buffer of them, and for each chunk of a step, in order, the number of its
/// first workgroup. In bytes.
#[derive(Debug)]
struct Params {
    buffer: wgpu::Buffer,
    dispatches: Vec<u32>,
    firsts: Vec<u32>,
}

/// How much memory a run's own tensors take, in bytes: what it computes and scratch, not what was bound to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footprint {
    /// Each tensor with memory of its own.
    pub apart: u64,
    /// Results, and the buffers that the others share.
    pub shared: u64,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let inner = &self.gpu.inner;
        let gone: Vec<_> = {
            let mut pool = lock(&inner.pool);
            self.scratch.drain(..).flat_map(|buffer| pool.give(buffer)).collect()
        };
        if !gone.is_empty() {
            let mut groups = lock(&inner.groups);
            gone.iter().for_each(|buffer| groups.forget(buffer));
        }
        if self.in_order {
            inner.give_written(self.params.buffer.clone());
        } else {
            lock(&inner.groups).forget(&self.params.buffer);
        }
    }
}

impl Prepared {
    /// Makes everything that can be refused.
    pub(super) fn new(run: Run<'_>, submissions: Vec<Submission>) -> Result<Self> {
        let (gpu, recording, bound, drafts, words) = run.into_parts();
        recording.check(gpu.caps())?;
        let params = Params::new(&gpu, &recording, &submissions)?;
        let sharing = Sharing::new(&recording, &bound);
        let mut prepared = Self {
            gpu: gpu.clone(),
            recording,
            bound,
            submissions,
            scratch: Vec::new(),
            ranges: Vec::new(),
            params,
            in_order: true,
            pipelines: Vec::new(),
            groups: Vec::new(),
            drafts,
            words,
            footprint: sharing.footprint(),
        };
        prepared.make_memory(&sharing)?;
        prepared.recording.commands().iter().try_for_each(|command| prepared.check_command(command))?;
        prepared.find_pipelines()?;
        prepared.make_groups()?;
        Ok(prepared)
    }

    /// Memory of results and of what lives only here.
    fn make_memory(&mut self, sharing: &Sharing) -> Result<()> {
        for &bytes in &sharing.plan.buffers {
            self.scratch.push(self.gpu.scratch(bytes)?);
        }
        let gpu = &self.gpu;
        let range = |(index, slot): (usize, &SlotInfo)| {
            let bound = self.bound.get(Slot(index as u32));
            let shared = sharing.value_of[index].and_then(|value| sharing.plan.buffer_of[value]);
            let buffer = match (shared, bound) {
                (Some(shared), _) => &self.scratch[shared],
                (None, Some(bound)) if sharing.touched[index] && bound.memory.may_be_of(gpu) => {
                    bound.memory.make(gpu)?
                }
                _ => return Ok(None),
            };
            let offset = bound.map_or(0, |bound| bound.offset);
            Ok(Some(Range { buffer: buffer.clone(), offset, bytes: slot.bytes }))
        };
        self.ranges = self.recording.slots().iter().enumerate().map(range).collect::<Result<_>>()?;
        Ok(())
    }

    fn name(&self, slot: Slot) -> &str {
        self.recording.info(slot).map_or("slot of another run", |info| &info.name)
    }

    fn find(&self, slot: Slot) -> Result<&Range> {
        if self.bound.get(slot).is_some_and(|bound| !bound.memory.may_be_of(&self.gpu)) {
            return Err(another_device(self.name(slot)));
        }
        let range = self.ranges.get(slot.0 as usize).and_then(Option::as_ref);
        let range = range.ok_or_else(|| Error::missing(self.name(slot), "a tensor bound to its slot"))?;
        let usage = range.buffer.usage();
        match usage.contains(wgpu::BufferUsages::STORAGE) {
            true => Ok(range),
            false => Err(Error::shape(self.name(slot), "buffer usage", "STORAGE", format!("{usage:?}"))),
        }
    }

    /// Every slot that a command names must be one of this recording, with something in it that can be bound there.
    fn check_command(&self, command: &Command) -> Result<()> {
        let dispatch = match command {
            Command::Dispatch(dispatch) => dispatch,
            Command::Clear(slot) => return self.find(*slot).map(drop),
        };
        for binding in &dispatch.bindings {
            match *binding {
                Binding::Read(slot) => drop(self.find(slot)?),
                Binding::Write(slot) => {
                    let written = &self.find(slot)?.buffer;
                    self.check_written_alone(dispatch, slot, written)?;
                }
                Binding::Unused => {}
            }
        }
        Ok(())
    }

    /// WebGPU lets a dispatch either read a buffer or write it, whole, wherever in it the tensors lie.
    fn check_written_alone(&self, dispatch: &Dispatch, slot: Slot, written: &wgpu::Buffer) -> Result<()> {
        for binding in &dispatch.bindings {
            if let Binding::Read(other) = *binding
                && self.find(other)?.buffer == *written
            {
                let other = self.name(other);
                let expected = format!("another buffer than that of `{other}`, which the same dispatch reads");
                return Err(Error::shape(self.name(slot), "buffer", expected, "the same"));
            }
        }
        Ok(())
    }

    fn find_pipelines(&mut self) -> Result<()> {
        let bytes = |slot: Slot| self.ranges.get(slot.index())?.as_ref().map(|range| range.bytes);
        // The steps of a recurrence follow one another with the same program: looked up once.
        let mut last = None;
        for dispatch in self.recording.dispatches() {
            let program = (&dispatch.variant, Trusted::of(&self.gpu, dispatch, &bytes));
            let again = self.pipelines.last().filter(|_| last == Some(program)).cloned();
            let pipeline = again.map_or_else(|| self.gpu.inner.pipelines.get(&self.gpu, dispatch, program.1), Ok)?;
            self.pipelines.push(pipeline);
            last = Some(program);
        }
        Ok(())
    }

    /// One for all dispatches with the same program and the same buffers, of this run and of those before.
    fn make_groups(&mut self) -> Result<()> {
        let kept = self.kept_slots();
        self.groups = self.gpu.scoped(|| {
            let mut made: WordMap<(*const Pipeline, &[Binding], usize), wgpu::BindGroup> = WordMap::default();
            made.reserve(self.pipelines.len());
            let mut groups = Vec::with_capacity(self.pipelines.len());
            for (dispatch, pipeline) in self.recording.dispatches().zip(&self.pipelines) {
                let key = (Arc::as_ptr(pipeline), dispatch.bindings.as_slice(), dispatch.params.len());
                let make = || self.kept_group(&kept, pipeline, dispatch);
                groups.push(made.entry(key).or_insert_with(make).clone());
            }
            groups
        })?;
        Ok(())
    }

    /// Slots whose buffers may be in groups that are kept: shared memory, and tensors that have been bound before.
    fn kept_slots(&self) -> Vec<bool> {
        let kept = |index: usize| match self.bound.get(Slot(index as u32)) {
            Some(bound) => bound.memory.made().is_none() || bound.memory.is_bound_again(),
            None => true,
        };
        (0..self.ranges.len()).map(kept).collect()
    }

    /// A dispatch's group, of those that are kept where its slots allow that.
    fn kept_group(&self, kept: &[bool], pipeline: &Arc<Pipeline>, dispatch: &Dispatch) -> wgpu::BindGroup {
        let slots = || dispatch.bindings.iter().map(|binding| binding.slot());
        let zeros = || (self.gpu.inner.zeros.clone(), 0, 256);
        let of = |slot: Option<Slot>| {
            let range = slot.and_then(|slot| self.ranges[slot.index()].as_ref());
            range.map_or_else(zeros, |range| (range.buffer.clone(), range.offset, range.bytes.next_multiple_of(4)))
        };
        let params = (self.params.buffer.clone(), 0, dispatch.params.len() as u64);
        let bound = std::iter::once(params).chain(slots().map(of)).collect();
        let key = Key { pipeline: Arc::as_ptr(pipeline).addr(), bound };
        if !slots().flatten().all(|slot| kept.get(slot.index()) == Some(&true)) {
            return self.bind_group(pipeline, &key);
        }
        if let Some(group) = lock(&self.gpu.inner.groups).get(&key) {
            return group;
        }
        let group = self.bind_group(pipeline, &key);
        lock(&self.gpu.inner.groups).keep(key, group.clone());
        group
    }

    fn bind_group(&self, pipeline: &Pipeline, key: &Key) -> wgpu::BindGroup {
        let entry = |binding, buffer, offset, bytes| wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset,
                size: wgpu::BufferSize::new(bytes),
            }),
        };
        let bound = key.bound.iter().zip(0..).map(|((buffer, offset, bytes), n)| entry(n, buffer, *offset, *bytes));
        let first = entry(FIRST_WORKGROUP, &self.params.buffer, 0, FIRST_BYTES);
        self.gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&pipeline.label),
            layout: &pipeline.layout,
            entries: &bound.chain([first]).collect::<Vec<_>>(),
        })
    }

    /// What will run.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// From the next submission on, `tensor` takes the place of the tensor that was made with this name ([`Tensor::name`])
    /// and bound to the run, or of what took its place since: it has the same shape, strides and type.
    ///
    /// # Errors
    /// [`Error::Missing`] when no tensor of the run has that name, [`Error::Option`] when several do; [`Error::Shape`] for
    /// another shape, type or alignment, another device's tensor, or one that a dispatch would read and write. All is then as
    /// it was.
    pub fn rebind(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let old = {
            let mut named = self.bound.iter().map(|(_, bound)| bound.original().0).filter(|named| named.name == name);
            let old = named.next().ok_or_else(|| Error::missing(name, "a tensor of that name bound to the run"))?;
            if named.any(|other| !Arc::ptr_eq(other, old)) {
                return Err(Error::option(name, "several tensors of the run have this name: give each its own"));
            }
            old.clone()
        };
        let distance = old.distance(tensor)?;
        let memory = tensor.memory();
        if !memory.may_be_of(&self.gpu) {
            return Err(another_device(name));
        }
        let buffer = memory.make(&self.gpu)?.clone();
        let (mut ranges, mut moved) = (self.ranges.clone(), Vec::new());
        for (slot, bound) in self.bound.iter().filter(|(_, bound)| Arc::ptr_eq(bound.original().0, &old)) {
            let bytes = self.recording.info(slot).map_or(0, |info| info.bytes);
            let (original, start) = bound.original();
            let place = start.checked_add_signed(distance).filter(|place| {
                place.is_multiple_of(self.gpu.inner.alignment) && place.saturating_add(bytes) <= memory.bytes()
            });
            let offset = place.ok_or_else(|| {
                let expected = format!("{bytes} bytes from a multiple of {} on", self.gpu.inner.alignment);
                let found = format!("{} bytes, {distance} from there", memory.bytes());
                Error::shape(name, "place in the buffer", expected, found)
            })?;
            if let Some(range) = ranges.get_mut(slot.0 as usize).and_then(Option::as_mut) {
                *range = Range { buffer: buffer.clone(), offset, bytes };
            }
            let first = Some((original.clone(), start));
            moved.push((slot, Bound { memory: memory.clone(), offset, first }));
        }
        let slots: Vec<Slot> = moved.iter().map(|(slot, _)| *slot).collect();
        std::mem::swap(&mut self.ranges, &mut ranges);
        let before: Vec<_> =
            moved.into_iter().filter_map(|(slot, bound)| Some((slot, self.bound.insert(slot, bound)?))).collect();
        let touched = |command: &&Command| command.slots().any(|slot| slots.contains(&slot));
        let checked =
            self.recording.commands().iter().filter(touched).try_for_each(|command| self.check_command(command));
        let done = checked.and_then(|()| self.make_groups());
        if done.is_err() {
            self.ranges = ranges;
            before.into_iter().for_each(|(slot, bound)| drop(self.bound.insert(slot, bound)));
        }
        done
    }

    /// How much memory its own tensors take.
    pub fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// Submits, as [`Run::submit`] does, with what the tensors hold and the caches have grown to. A cache that it appends to
    /// grows each time.
    ///
    /// # Errors
    /// [`Error::Limit`] when a cache is full, [`Error::Gpu`] or [`Error::DeviceLost`]; the caches are then as they were.
    pub fn submit(&mut self) -> Result<()> {
        self.again(|prepared| prepared.gpu.submit(prepared.encode_own("regard", None)?))
    }

    /// As [`Prepared::submit`], then waits and returns these tensors' elements as f32.
    ///
    /// # Errors
    /// As [`Prepared::submit`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn submit_and_read(&mut self, tensors: &[&Tensor]) -> Result<Vec<Array<f32>>> {
        let gpu = self.gpu.clone();
        gpu.drive(self.submit_and_read_async(tensors))
    }

    /// As [`Prepared::submit_and_read`], without blocking: ready once the device has been polled past the copies.
    ///
    /// # Errors
    /// As [`Prepared::submit`].
    pub async fn submit_and_read_async(&mut self, tensors: &[&Tensor]) -> Result<Vec<Array<f32>>> {
        let read = self.read_bytes(tensors).await?;
        read.iter().map(|(tensor, raw)| tensor.decode(raw)).collect()
    }

    /// As [`Run::read_bytes`]; all in one submission where the tensors can be copied as they lie.
    pub(crate) async fn read_bytes(&mut self, tensors: &[&Tensor]) -> Result<Vec<(Tensor, Vec<u8>)>> {
        let gpu = self.gpu.clone();
        let own = |tensor: &&Tensor| tensor.memory().may_be_of(&gpu) && tensor.copyable().is_some();
        if !tensors.iter().all(own) {
            self.submit()?;
            return Run::new(&gpu).read_bytes(tensors).await;
        }
        let copies = Copies::new(&gpu, tensors.iter().map(|&tensor| tensor.clone()).collect())?;
        self.again(|prepared| {
            let mut encoders = prepared.encode_own("regard read", None)?;
            copies.encode(&gpu, &mut encoders)?;
            gpu.submit(encoders)
        })?;
        copies.read(&gpu).await
    }

    /// Encodes into the caller's encoder; nothing is submitted. What [`Run::encode`] says of long work and of caches holds
    /// here too. Submit the encoder before this is encoded or submitted again where it appends to a cache.
    ///
    /// # Errors
    /// As [`Prepared::submit`].
    pub fn encode(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.leave_order();
        self.again(|prepared| prepared.encode_into(std::slice::from_mut(encoder), None))
    }

    /// Lets `submit` have this with what its shaders know of the caches brought up to date; when it goes well, the caches are
    /// longer.
    fn again(&mut self, submit: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.gpu.check_lost()?;
        let (drafts, mut words) = self.drafts.again()?;
        drafts.submit(|tables| {
            words.extend(tables);
            write_words(&self.gpu, &self.words, words)?;
            submit(self)
        })
    }

    /// Encodes into an encoder that somebody else submits, at any time.
    pub(super) fn encode_apart(mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.leave_order();
        self.encode_into(std::slice::from_mut(encoder), None)
    }

    /// What is encoded may be submitted at any time: nobody else may ever write what it reads.
    fn leave_order(&mut self) {
        self.in_order = false;
        self.bound.iter().for_each(|(_, bound)| bound.memory.keep());
    }

    /// As many encoders as there are submissions.
    pub(super) fn encoders(&self, label: &str) -> Result<Vec<wgpu::CommandEncoder>> {
        self.gpu.encoders(label, self.submissions.len())
    }

    /// Encodes into encoders of its own.
    pub(super) fn encode_own(
        &self,
        label: &str,
        timing: Option<(&wgpu::QuerySet, usize)>,
    ) -> Result<Vec<wgpu::CommandEncoder>> {
        let mut encoders = self.encoders(label)?;
        self.encode_into(&mut encoders, timing)?;
        Ok(encoders)
    }

    /// Encodes each of the submissions into an encoder of its own, or all into the only one; `timing` has two timestamps for
    /// each of so many first dispatches.
    pub(super) fn encode_into(
        &self,
        encoders: &mut [wgpu::CommandEncoder],
        timing: Option<(&wgpu::QuerySet, usize)>,
    ) -> Result<()> {
        self.gpu.scoped(|| {
            // The dispatch that comes next, or that goes on.
            let mut number = 0;
            let mut firsts = self.params.firsts.iter();
            let last = encoders.len().saturating_sub(1);
            for (index, submission) in self.submissions.iter().enumerate() {
                let Some(encoder) = encoders.get_mut(index.min(last)) else { continue };
                let mut pass: Option<wgpu::ComputePass<'static>> = None;
                let mut set = None;
                for step in &submission.steps {
                    if let Command::Clear(slot) = self.recording.commands()[step.command] {
                        pass = None;
                        if let Some(range) = &self.ranges[slot.0 as usize] {
                            encoder.clear_buffer(&range.buffer, range.offset, Some(range.bytes.next_multiple_of(4)));
                        }
                        continue;
                    }
                    let pipeline = &self.pipelines[number];
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
                        for (chunk, first) in step.chunks.iter().zip(&mut firsts) {
                            pass.set_bind_group(0, &self.groups[number], &[self.params.dispatches[number], *first]);
                            pass.dispatch_workgroups(chunk.grid[0], chunk.grid[1], 1);
                        }
                    }
                    number += usize::from(step.last);
                }
            }
            self.gpu.inner.counters.dispatches.fetch_add(self.params.firsts.len() as u64, Ordering::Relaxed);
        })
    }
}

impl Run<'_> {
    /// How much memory what is recorded takes, of what has none yet.
    pub fn footprint(&self) -> Footprint {
        Sharing::new(self.recording(), &self.bound).footprint()
    }
}

/// Which slots lie in which shared buffers.
struct Sharing {
    /// Whether any command names the slot.
    touched: Vec<bool>,
    /// For each slot the value that it shows, of those that live within the recording.
    value_of: Vec<Option<usize>>,
    plan: ScratchPlan,
    /// Bytes of all values that live within the recording, and of the results that have no memory yet.
    values: u64,
    results: u64,
}

impl Sharing {
    fn footprint(&self) -> Footprint {
        Footprint { apart: self.results + self.values, shared: self.results + self.plan.bytes() }
    }

    fn new(recording: &Recording, bound: &BoundSlots) -> Self {
        let slots = recording.slots();
        // How many slots each memory without a buffer is bound to: as many handles on it as the run itself holds.
        let mut own: WordMap<*const Memory, usize> = WordMap::default();
        own.reserve(slots.len());
        for (_, bound) in bound.iter().filter(|(_, bound)| bound.memory.made().is_none()) {
            *own.entry(Arc::as_ptr(&bound.memory)).or_default() += 1;
        }
        let mut values: Vec<(u64, Option<Lifetime>)> = Vec::with_capacity(slots.len());
        // The value of each of them, or none of a result.
        let mut of_memory: WordMap<*const Memory, Option<usize>> = WordMap::default();
        of_memory.reserve(own.len());
        let mut results = 0;
        let mut value_of = vec![None; slots.len()];
        for (index, info) in slots.iter().enumerate() {
            let bound = bound.get(Slot(index as u32));
            value_of[index] = match (info.kind, bound) {
                (SlotKind::Scratch, _) => {
                    values.push((info.bytes, None));
                    Some(values.len() - 1)
                }
                (SlotKind::Bound, Some(Bound { memory, .. })) if memory.made().is_none() => {
                    let key = Arc::as_ptr(memory);
                    *of_memory.entry(key).or_insert_with(|| {
                        if Arc::strong_count(memory) > own[&key] {
                            results += memory.bytes();
                            return None;
                        }
                        values.push((memory.bytes(), None));
                        Some(values.len() - 1)
                    })
                }
                (SlotKind::Bound, _) => None,
            };
        }
        let mut touched = vec![false; slots.len()];
        for (number, command) in recording.commands().iter().enumerate() {
            for slot in command.slots() {
                let Some(touched) = touched.get_mut(slot.0 as usize) else { continue };
                *touched = true;
                if let Some(value) = value_of[slot.0 as usize] {
                    let life = values[value].1.get_or_insert(Lifetime { first: number, last: number });
                    life.last = number;
                }
            }
        }
        let bytes = values.iter().filter(|(_, life)| life.is_some()).map(|(bytes, _)| bytes).sum();
        Self { touched, value_of, plan: ScratchPlan::new(&values), values: bytes, results }
    }
}

impl Params {
    /// All `params` in one buffer.
    fn new(gpu: &Gpu, recording: &Recording, submissions: &[Submission]) -> Result<Self> {
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
        let dispatches = recording.dispatches().map(|dispatch| append(&dispatch.params)).collect();
        let chunks = submissions.iter().flat_map(|submission| &submission.steps).flat_map(|step| &step.chunks);
        let firsts = chunks.map(|chunk| match chunk.first {
            0 => zero,
            first => append(bytemuck::cast_slice(&[first, 0, 0, 0])),
        });
        let firsts = firsts.collect();
        let (needed, allowed) = (bytes.len() as u64, gpu.caps().max_buffer_bytes);
        if needed > allowed {
            return Err(Error::Limit { what: "bytes of the parameters of all dispatches".into(), needed, allowed });
        }
        let buffer = gpu.take_written("regard params", needed)?;
        let size = wgpu::BufferSize::new(needed).ok_or_else(|| gpu.fault("a run has parameters"))?;
        let written = gpu.scoped(|| {
            gpu.queue().write_buffer_with(&buffer, 0, size)?.copy_from_slice(&bytes);
            Some(())
        })?;
        written.ok_or_else(|| gpu.fault("the parameters could not be written"))?;
        Ok(Self { buffer, dispatches, firsts })
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
