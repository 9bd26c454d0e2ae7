//! A recording on its way to a device.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::prepared::Prepared;
use super::tensor::{Memory, Signature};
use super::timing::Stamps;
use super::{Gpu, Tensor};
use crate::error::{Error, Result};
use crate::fill::{Drafts, Words};
use crate::hash::WordMap;
use crate::plan::{self, Submission};
use crate::recording::{Dispatch, Recording, Slot, View};
use crate::tensor::{Array, DType, Layout};

/// What a slot is bound to.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub(super) memory: Arc<Memory>,
    /// Where the binding starts, in bytes.
    pub(super) offset: u64,
    /// Where another memory was bound first: that one's tensor, and where the binding started then.
    pub(super) first: Option<(Arc<Signature>, u64)>,
}

impl Bound {
    /// The tensor that was bound first, and where the binding started then.
    pub(super) fn original(&self) -> (&Arc<Signature>, u64) {
        self.first.as_ref().map_or((&self.memory.signature, self.offset), |(signature, offset)| (signature, *offset))
    }
}

/// What each slot is bound to, by its number; nothing of scratch.
#[derive(Debug, Clone, Default)]
pub(super) struct BoundSlots(Vec<Option<Bound>>);

impl BoundSlots {
    pub(super) fn get(&self, slot: Slot) -> Option<&Bound> {
        self.0.get(slot.index()).and_then(Option::as_ref)
    }

    /// Binds a slot, and returns what was bound to it before.
    pub(super) fn insert(&mut self, slot: Slot, bound: Bound) -> Option<Bound> {
        if self.0.len() <= slot.index() {
            self.0.resize(slot.index() + 1, None);
        }
        self.0[slot.index()].replace(bound)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Bound)> {
        (0..).map(Slot).zip(&self.0).filter_map(|(slot, bound)| Some((slot, bound.as_ref()?)))
    }
}

/// A recording on its way to a device: tensors are bound to its slots, then it is encoded, submitted or prepared.
#[derive(Debug, Clone)]
pub struct Run<'g> {
    gpu: &'g Gpu,
    recording: Recording,
    pub(super) bound: BoundSlots,
    /// The slot of each memory and place in it.
    slots: WordMap<(usize, u64), Slot>,
    /// Of the caches that it appends to.
    drafts: Drafts,
    /// Small tensors of u32 with what shaders know of the caches.
    words: Vec<Tensor>,
}

/// What one dispatch was and how long it took.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Timing {
    /// The dispatch.
    pub dispatch: Dispatch,
    /// Chunks of workgroups that it was run in: [`plan::chunks()`].
    pub chunks: usize,
    /// Device time in nanoseconds, of all chunks; `None` where the device has no timestamps.
    pub nanoseconds: Option<f64>,
}

impl<'g> Run<'g> {
    /// Nothing recorded yet.
    pub fn new(gpu: &'g Gpu) -> Self {
        Self {
            gpu,
            recording: Recording::new(),
            bound: BoundSlots::default(),
            slots: WordMap::default(),
            drafts: Drafts::default(),
            words: Vec::new(),
        }
    }

    /// The device this will run on.
    pub fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// What is recorded so far, leaving nothing.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.gpu))
    }

    /// What is recorded so far.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// What is recorded so far, to add to.
    pub fn recording_mut(&mut self) -> &mut Recording {
        &mut self.recording
    }

    /// How full the caches will be that it appends to.
    pub(crate) fn drafts(&self) -> &Drafts {
        &self.drafts
    }

    pub(crate) fn drafts_mut(&mut self) -> &mut Drafts {
        &mut self.drafts
    }

    /// Keeps a tensor whose words change when this is submitted again; its number.
    pub(crate) fn keep_words(&mut self, tensor: Tensor) -> usize {
        self.words.push(tensor);
        self.words.len() - 1
    }

    /// The tensor of this number.
    pub(crate) fn words(&self, number: usize) -> Option<&Tensor> {
        self.words.get(number)
    }

    /// Binds a tensor and returns its view.
    pub fn bind(&mut self, name: impl Into<Cow<'static, str>>, tensor: &Tensor) -> View {
        let (layout, dtype) = (tensor.layout(), tensor.dtype());
        let (block, block_bytes) = (dtype.block(), dtype.bytes_of(dtype.block()) as u64);
        // The binding starts at the last aligned block before the first element; the rest of the offset stays in the
        // view. Buffers much larger than a binding can be used that way.
        let start = dtype.bytes_of(layout.offset) as u64;
        let offset = match start {
            0 => 0,
            _ => start - start % least_common_multiple(self.gpu.inner.alignment, block_bytes),
        };
        let end = (dtype.bytes_of(layout.span()) as u64).max(offset + 4).next_multiple_of(4);
        let memory = tensor.memory();
        let bytes = end.min(memory.bytes()) - offset;
        let layout = Layout { offset: ((start - offset) / block_bytes) as usize * block, ..layout.clone() };
        let key = (Arc::as_ptr(memory) as usize, offset);
        if let Some(&slot) = self.slots.get(&key) {
            self.recording.grow(slot, bytes);
            return View { slot, layout, dtype };
        }
        let view = self.recording.bound(name, layout, dtype, bytes);
        self.slots.insert(key, view.slot);
        self.bound.insert(view.slot, Bound { memory: memory.clone(), offset, first: None });
        view
    }

    /// A dense tensor that this run makes, bound. It has no memory yet; see [`Tensor`].
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::Unsupported`] when the device cannot hold it.
    pub fn output(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        shape: &[usize],
        dtype: DType,
    ) -> Result<(View, Tensor)> {
        let name = name.into();
        let tensor = Tensor::unmade(self.gpu, name.clone(), shape, dtype)?;
        Ok((self.bind(name, &tensor), tensor))
    }

    /// Expected time of each [submission](plan::submissions()) that this is run in, at the pace that the device's kind is
    /// taken to have.
    pub fn expected_submissions(&self) -> Vec<Duration> {
        self.submissions().into_iter().map(|submission| submission.takes).collect()
    }

    /// Expected time of all that is recorded.
    pub fn expected_time(&self) -> Duration {
        plan::whole(&self.recording, self.gpu.caps()).takes
    }

    /// Encodes into the caller's encoder; nothing is submitted.
    ///
    /// What one encoder holds is one submission, however long it takes, and some drivers reset a device that is busy with
    /// one for two seconds. Where [`Run::expected_time`] with what else the encoder holds comes near that, record less into
    /// each run and give each an encoder, or use [`Run::submit`], which cuts.
    ///
    /// A [`KvCache`](crate::ops::cache::KvCache) that the run appends to counts as longer from here on, so that the next run
    /// can be recorded: submit the encoder before any of them, or, where it is dropped, cut the cache back with
    /// [`KvCache::truncate`](crate::ops::cache::KvCache::truncate).
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Unsupported`], [`Error::Shape`] for a tensor that cannot be bound or a cache that has
    /// changed since it was appended to, [`Error::OutOfMemory`], [`Error::Gpu`] or [`Error::DeviceLost`]; the encoder is
    /// then as it was. That the encoder is another device's shows only where it is finished.
    pub fn encode(self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.gpu.check_lost()?;
        self.settle(|run| {
            let whole = plan::whole(&run.recording, run.gpu.caps());
            Prepared::new(run, vec![whole])?.encode_apart(encoder)
        })
    }

    /// Makes all that is needed to submit or encode this again and again: memory, pipelines, bind groups, parameters. Nothing
    /// is submitted.
    ///
    /// # Errors
    /// As [`Run::encode`].
    pub fn prepare(self) -> Result<Prepared> {
        self.gpu.check_lost()?;
        let submissions = self.submissions();
        Prepared::new(self, submissions)
    }

    /// Encodes and submits: at once, or where it would keep the device busy for longer than
    /// [`Caps::longest_submission`](crate::device::Caps::longest_submission) in several submissions, one right after the other
    /// ([`Run::expected_submissions`]). Does not wait.
    ///
    /// # Errors
    /// As [`Run::encode`].
    pub fn submit(self) -> Result<()> {
        let gpu = self.gpu;
        gpu.check_lost()?;
        self.settle(|run| {
            let prepared = run.prepare()?;
            gpu.submit(prepared.encode_own("regard", None)?)
        })
    }

    /// Submits as [`Run::submit`] does, waits, and returns these tensors' elements as f32.
    ///
    /// # Errors
    /// As [`Run::submit`], and [`Error::Shape`] for integers, which [`Tensor::download_u32`] reads.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn submit_and_read(self, tensors: &[&Tensor]) -> Result<Vec<Array<f32>>> {
        let gpu = self.gpu;
        gpu.drive(self.read(tensors, Tensor::decode))
    }

    /// As [`Run::submit_and_read`], without blocking: submits at the first poll, and is ready once the device has been
    /// polled past the copies (`device.poll` on native; browsers poll by themselves).
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub async fn submit_and_read_async(self, tensors: &[&Tensor]) -> Result<Vec<Array<f32>>> {
        self.read(tensors, Tensor::decode).await
    }

    /// Encodes and submits, and decodes what was read, once the device has been polled past the copies.
    pub(crate) async fn read<T>(
        self,
        tensors: &[&Tensor],
        decode: fn(&Tensor, &[u8]) -> Result<Array<T>>,
    ) -> Result<Vec<Array<T>>> {
        let read = self.read_bytes(tensors).await?;
        read.iter().map(|(tensor, raw)| decode(tensor, raw)).collect()
    }

    /// As [`Run::read`]: the bytes of each tensor, and a dense tensor of that type and shape.
    pub(crate) async fn read_bytes(mut self, tensors: &[&Tensor]) -> Result<Vec<(Tensor, Vec<u8>)>> {
        let gpu = self.gpu;
        gpu.check_lost()?;
        // A tensor that cannot be copied as it lies is made dense first.
        let mut dense = Vec::with_capacity(tensors.len());
        for &tensor in tensors {
            if !tensor.memory().may_be_of(gpu) {
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
        let copies = Copies::new(gpu, dense)?;
        self.settle(|run| {
            let prepared = run.prepare()?;
            let mut encoders = prepared.encode_own("regard read", None)?;
            copies.encode(gpu, &mut encoders)?;
            gpu.submit(encoders)
        })?;
        copies.read(gpu).await
    }

    /// Encodes each dispatch in a pass of its own, or one a submission that it is spread over, submits as [`Run::submit`] does,
    /// waits and returns how long each took on the device.
    ///
    /// # Errors
    /// As [`Run::submit`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn submit_timed(self) -> Result<Vec<Timing>> {
        let gpu = self.gpu;
        gpu.drive(self.submit_timed_async())
    }

    /// As [`Run::submit_timed`], without blocking.
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub async fn submit_timed_async(self) -> Result<Vec<Timing>> {
        let gpu = self.gpu;
        gpu.check_lost()?;
        let dispatches: Vec<Dispatch> = self.recording.dispatches().cloned().collect();
        // A query set holds at most 4096 timestamps; later dispatches go untimed.
        let timed = if gpu.caps().timestamps { dispatches.len().min(2048) } else { 0 };
        let stamps = (timed > 0).then(|| Stamps::new(gpu, timed)).transpose()?;
        self.settle(|run| {
            let timing = stamps.as_ref().map(|stamps| (&stamps.queries, timed));
            let prepared = run.prepare()?;
            let mut encoders = prepared.encode_own("regard timed", timing)?;
            if let (Some(stamps), Some(encoder)) = (&stamps, encoders.last_mut()) {
                stamps.resolve(encoder);
            }
            gpu.submit(encoders)
        })?;
        let times = match stamps {
            Some(stamps) => stamps.nanoseconds(gpu).await?,
            None => {
                gpu.done().await?;
                Vec::new()
            }
        };
        let times = times.into_iter().map(Some).chain(std::iter::repeat(None));
        let timing = |(dispatch, nanoseconds)| {
            let chunks = plan::chunks(&dispatch, gpu.caps()).len();
            Timing { dispatch, chunks, nanoseconds }
        };
        Ok(dispatches.into_iter().zip(times).map(timing).collect())
    }

    pub(super) fn submissions(&self) -> Vec<Submission> {
        plan::submissions(&self.recording, self.gpu.caps())
    }

    /// Lets `submit` have the run; when it goes well, the caches that it appends to are longer.
    pub(super) fn settle<T>(mut self, submit: impl FnOnce(Self) -> Result<T>) -> Result<T> {
        let drafts = std::mem::take(&mut self.drafts);
        drafts.submit(|words| {
            write_words(self.gpu, &self.words, words)?;
            submit(self)
        })
    }

    /// What it is made of.
    pub(super) fn into_parts(self) -> (Gpu, Recording, BoundSlots, Drafts, Vec<Tensor>) {
        (self.gpu.clone(), self.recording, self.bound, self.drafts, self.words)
    }
}

/// Dense tensors on their way to host memory.
pub(super) struct Copies {
    tensors: Vec<Tensor>,
    /// Bytes of each in its buffer.
    ranges: Vec<std::ops::Range<u64>>,
    staging: wgpu::Buffer,
}

impl Copies {
    pub(super) fn new(gpu: &Gpu, tensors: Vec<Tensor>) -> Result<Self> {
        let ranges: Vec<_> = tensors.iter().map(|tensor| tensor.copyable().unwrap_or(0..0)).collect();
        let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let allowed = gpu.caps().max_buffer_bytes;
        if total > allowed {
            return Err(Error::Limit { what: "bytes that are read back together".into(), needed: total, allowed });
        }
        let staging = gpu.buffer(&wgpu::BufferDescriptor {
            label: Some("regard read"),
            size: total.max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })?;
        Ok(Self { tensors, ranges, staging })
    }

    /// Encodes the copies behind all else.
    pub(super) fn encode(&self, gpu: &Gpu, encoders: &mut [wgpu::CommandEncoder]) -> Result<()> {
        let sources: Vec<_> = self.tensors.iter().map(|tensor| tensor.memory().make(gpu)).collect::<Result<_>>()?;
        gpu.scoped(|| {
            let mut to = 0;
            for (source, range) in sources.iter().zip(&self.ranges) {
                let bytes = range.end - range.start;
                if let (Some(encoder), true) = (encoders.last_mut(), bytes > 0) {
                    encoder.copy_buffer_to_buffer(source, range.start, &self.staging, to, Some(bytes));
                }
                to += bytes;
            }
        })
    }

    /// The tensors with their bytes, once what was encoded has been submitted and done.
    pub(super) async fn read(self, gpu: &Gpu) -> Result<Vec<(Tensor, Vec<u8>)>> {
        gpu.inner.counters.downloads.fetch_add(1, Ordering::Relaxed);
        let total: u64 = self.ranges.iter().map(|range| range.end - range.start).sum();
        let raw = super::map::map(gpu, &self.staging, total.max(4)).await?;
        let mut rest = raw.as_slice();
        let mut own = |range: &std::ops::Range<u64>| {
            let (own, others) = rest.split_at((range.end - range.start) as usize);
            rest = others;
            own.to_vec()
        };
        let bytes: Vec<_> = self.ranges.iter().map(&mut own).collect();
        Ok(self.tensors.into_iter().zip(bytes).collect())
    }
}

/// Writes words into their tensors, for whatever is submitted next.
pub(super) fn write_words(gpu: &Gpu, tensors: &[Tensor], words: Vec<Words>) -> Result<()> {
    words.into_iter().try_for_each(|Words { tensor, at, words }| tensors[tensor].write_words(gpu, at, &words))
}

pub(super) fn another_device(tensor: &str) -> Error {
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
    pub(super) fn encoders(&self, label: &str, count: usize) -> Result<Vec<wgpu::CommandEncoder>> {
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some(label) };
        self.scoped(|| (0..count).map(|_| self.device().create_command_encoder(&descriptor)).collect())
    }
}
