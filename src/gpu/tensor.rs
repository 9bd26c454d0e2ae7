//! Tensors in GPU memory: upload, views, download.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use half::f16;

use super::faults::scoped;
use super::{Gpu, Inner, Run, lock};
use crate::error::{Error, Result};
use crate::q8;
use crate::tensor::{Array, DType, Layout, TensorLike};

/// A strided tensor in GPU memory. Cloning shares the memory.
///
/// What a [`Run`] makes has no memory until the run is submitted, encoded or prepared. It gets some of its own if a
/// handle on it is left then, which makes it a result; else nobody can ever read it, and it shares memory with other
/// such tensors of the run.
#[derive(Debug, Clone)]
pub struct Tensor {
    memory: Arc<Memory>,
    layout: Layout,
    dtype: DType,
}

impl TensorLike for Tensor {
    type Integers = Self;
}

/// What a tensor is, whatever memory it lies in.
#[derive(Debug)]
pub(super) struct Signature {
    /// Shown in labels and errors, and what [`Prepared::rebind`](super::Prepared::rebind) goes by.
    pub(super) name: Cow<'static, str>,
    layout: Layout,
    dtype: DType,
}

impl Signature {
    /// How far behind the elements of this tensor, in bytes, those of another lie that may take its place: of the same
    /// shape, strides and type.
    pub(super) fn distance(&self, tensor: &Tensor) -> Result<i64> {
        let (own, other) = (&self.layout, &tensor.layout);
        let name: &str = &self.name;
        if other.shape != own.shape {
            return Err(Error::shape(name, "shape", format!("{:?}", own.shape), format!("{:?}", other.shape)));
        }
        if tensor.dtype != self.dtype {
            return Err(Error::shape(name, "dtype", self.dtype, tensor.dtype));
        }
        if other.strides != own.strides {
            return Err(Error::shape(name, "strides", format!("{:?}", own.strides), format!("{:?}", other.strides)));
        }
        let start = |layout: &Layout| self.dtype.bytes_of(layout.offset) as i64;
        Ok(start(other) - start(own))
    }
}

/// A buffer that may not have been made yet.
#[derive(Debug)]
pub(super) struct Memory {
    /// Of the tensor that it was made for.
    pub(super) signature: Arc<Signature>,
    /// Of the buffer.
    bytes: u64,
    buffer: OnceLock<wgpu::Buffer>,
    /// A run has bound it.
    bound: AtomicBool,
    /// The buffer is [one of those](super::written) that the host writes anew for each use, and goes back to them.
    returns: AtomicBool,
    /// Whose it is, unless the buffer is an embedder's. wgpu tells devices of one instance apart; buffers of two
    /// instances have the same numbers, and it takes one for the other.
    owner: Option<Weak<Inner>>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        let owner = self.owner.as_ref().and_then(Weak::upgrade);
        if let (Some(owner), Some(buffer)) = (owner, self.buffer.take()) {
            if *self.returns.get_mut() {
                owner.give_written(buffer);
            } else {
                lock(&owner.groups).forget(&buffer);
            }
        }
    }
}

impl Memory {
    /// Whether bind groups over it may be kept: it is this crate's, and has been bound before.
    pub(super) fn is_bound_again(&self) -> bool {
        self.bound.swap(true, Ordering::Relaxed) && self.owner.is_some()
    }

    /// Lets nobody else have the buffer, which may be read at any time from here on.
    pub(super) fn keep(&self) {
        self.returns.store(false, Ordering::Relaxed);
    }

    /// The size of the buffer, which may not have been made yet, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The buffer, if it has been made.
    pub(super) fn made(&self) -> Option<&wgpu::Buffer> {
        self.buffer.get()
    }

    /// The buffer, made now if it has not been.
    pub(super) fn make(&self, gpu: &Gpu) -> Result<&wgpu::Buffer> {
        self.make_with(|descriptor| gpu.buffer(descriptor))
    }

    fn make_with(
        &self,
        make: impl FnOnce(&wgpu::BufferDescriptor<'_>) -> Result<wgpu::Buffer>,
    ) -> Result<&wgpu::Buffer> {
        if let Some(buffer) = self.buffer.get() {
            return Ok(buffer);
        }
        let buffer = make(&wgpu::BufferDescriptor {
            label: Some(&self.signature.name),
            size: self.bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })?;
        Ok(self.buffer.get_or_init(|| buffer))
    }

    /// False for memory that another [`Gpu`] made.
    pub(super) fn may_be_of(&self, gpu: &Gpu) -> bool {
        self.owner.as_ref().is_none_or(|owner| std::ptr::eq(owner.as_ptr(), Arc::as_ptr(&gpu.inner)))
    }
}

impl Tensor {
    /// A dense tensor whose contents are undefined until something writes it.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::OutOfMemory`], [`Error::Gpu`] or [`Error::DeviceLost`] when the device cannot hold it.
    pub fn uninitialized(gpu: &Gpu, name: &str, shape: &[usize], dtype: DType) -> Result<Self> {
        let tensor = Self::unmade(gpu, name.to_owned(), shape, dtype)?;
        gpu.check_lost()?;
        tensor.memory.make(gpu)?;
        Ok(tensor)
    }

    /// As [`Tensor::uninitialized`], without memory yet.
    pub(super) fn unmade(gpu: &Gpu, name: impl Into<Cow<'static, str>>, shape: &[usize], dtype: DType) -> Result<Self> {
        let name = name.into();
        let elements = shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis)).unwrap_or(usize::MAX);
        let bytes = dtype.bytes_of(elements) as u64;
        let allowed = gpu.caps().max_tensor_bytes();
        if bytes > allowed {
            return Err(Error::Limit { what: format!("bytes of `{name}`"), needed: bytes, allowed });
        }
        if dtype == DType::F16 && !gpu.caps().f16 {
            return Err(Error::Unsupported { feature: "f16 in shaders".into(), what: format!("`{name}`") });
        }
        let layout = Layout::contiguous(shape);
        dtype.check_layout(&name, &layout)?;
        let memory = Memory {
            signature: Arc::new(Signature { name, layout: layout.clone(), dtype }),
            bytes: bytes.max(4).next_multiple_of(4),
            buffer: OnceLock::new(),
            bound: AtomicBool::default(),
            returns: AtomicBool::default(),
            owner: Some(Arc::downgrade(&gpu.inner)),
        };
        Ok(Self { memory: Arc::new(memory), layout, dtype })
    }

    /// Host data as a tensor of f32, or rounded to f16 or q8.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Unsupported`] or [`Error::Gpu`]; [`Error::Shape`] for a dtype that is not a float,
    /// or a last axis that is not made of whole blocks of q8.
    pub fn upload(gpu: &Gpu, name: &str, array: &Array<f32>, dtype: DType) -> Result<Self> {
        dtype.check_cache(name)?;
        let tensor = Self::uninitialized(gpu, name, array.shape(), dtype)?;
        tensor.write(gpu, array)?;
        Ok(tensor)
    }

    /// Host integers as a tensor: ids, lengths, bool masks.
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::Gpu`].
    pub fn upload_u32(gpu: &Gpu, name: &str, array: &Array<u32>) -> Result<Self> {
        let tensor = Self::uninitialized(gpu, name, array.shape(), DType::U32)?;
        tensor.write_u32(gpu, array)?;
        Ok(tensor)
    }

    /// Words that a run's shaders read, which the next run knows anew: in a buffer that is used again.
    pub(crate) fn words(gpu: &Gpu, name: &'static str, shape: &[usize], words: &[u32]) -> Result<Self> {
        let mut tensor = Self::unmade(gpu, name, shape, DType::U32)?;
        gpu.check_lost()?;
        let buffer = gpu.take_written(name, tensor.memory.bytes)?;
        if let Some(memory) = Arc::get_mut(&mut tensor.memory) {
            // Bind groups are kept from the first time on: the buffer has been bound before, or will be again.
            (memory.buffer, memory.bound, memory.returns) = (OnceLock::from(buffer), true.into(), true.into());
        }
        tensor.write_words(gpu, 0, words)?;
        Ok(tensor)
    }

    /// As [`Tensor::upload_u32`], of lengths up to `longest`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a number above `longest`, and as [`Tensor::upload_u32`].
    pub fn upload_lengths(gpu: &Gpu, name: &str, array: &Array<u32>, longest: usize) -> Result<Self> {
        match array.data().iter().position(|&n| n as usize > longest) {
            Some(row) => {
                let expected = format!("a whole number from 0 to {longest}");
                Err(Error::shape(name, format!("row {row}"), expected, array.data()[row]))
            }
            None => Self::upload_u32(gpu, name, array),
        }
    }

    /// As [`Tensor::upload_u32`], of a boolean mask: 1 for what is not 0.
    pub(crate) fn upload_mask(gpu: &Gpu, name: &str, array: &Array<u32>) -> Result<Self> {
        Self::upload_u32(gpu, name, &array.map(|&x| u32::from(x != 0)))
    }

    /// A tensor of this name over an embedder's buffer, which must have usage `STORAGE` (and `COPY_SRC` to be downloaded without another
    /// copy on the device) and be of the device that it is used with.
    ///
    /// # Errors
    /// [`Error::Shape`] when the layout reaches past the buffer, or cuts through blocks of q8.
    pub fn from_buffer(name: &str, buffer: wgpu::Buffer, layout: Layout, dtype: DType) -> Result<Self> {
        let memory = Memory {
            signature: Arc::new(Signature { name: name.to_owned().into(), layout: layout.clone(), dtype }),
            bytes: buffer.size(),
            buffer: OnceLock::from(buffer),
            bound: AtomicBool::default(),
            returns: AtomicBool::default(),
            owner: None,
        };
        Self::over(Arc::new(memory), layout, dtype)
    }

    fn over(memory: Arc<Memory>, layout: Layout, dtype: DType) -> Result<Self> {
        let block = dtype.block();
        let holds = memory.bytes / dtype.bytes_of(block) as u64 * block as u64;
        if layout.checked_span()?.max(layout.offset) as u64 > holds {
            return Err(Error::shape(&*memory.signature.name, "elements", format!("at most {holds}"), layout.span()));
        }
        dtype.check_layout(&memory.signature.name, &layout)?;
        Ok(Self { memory, layout, dtype })
    }

    /// The memory underneath.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The name that it was made with.
    pub fn name(&self) -> &str {
        &self.memory.signature.name
    }

    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.layout.shape
    }

    /// How the elements lie in the buffer.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The buffer underneath; that of a run's result is made now if it has not been.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Gpu`] or [`Error::DeviceLost`] when it cannot be made.
    pub fn buffer(&self) -> Result<&wgpu::Buffer> {
        self.memory.keep();
        self.memory.make_with(|descriptor| match self.memory.owner.as_ref().and_then(Weak::upgrade) {
            Some(owner) => scoped(&owner.faults, &owner.device, || owner.device.create_buffer(descriptor)),
            None => Err(Error::Gpu(format!("the device of `{}` is gone", self.memory.signature.name).into())),
        })
    }

    /// Another view of the same buffer.
    ///
    /// # Errors
    /// [`Error::Shape`] when the layout reaches past the buffer.
    pub fn with_layout(&self, layout: Layout) -> Result<Self> {
        Self::over(self.memory.clone(), layout, self.dtype)
    }

    /// The axes in another order, without a copy; see [`Layout::permute`].
    ///
    /// # Errors
    /// [`Error::Shape`] when `order` is not a permutation.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        self.with_layout(self.layout.permute(order)?)
    }

    /// A part of one axis, without a copy; see [`Layout::narrow`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the range leaves the axis.
    pub fn narrow(&self, axis: usize, start: usize, length: usize) -> Result<Self> {
        self.with_layout(self.layout.narrow(axis, start, length)?)
    }

    /// [B, N, heads·D] seen as [B, heads, N, D], without a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] when the rank is not 3 or the heads do not divide the last axis.
    pub fn heads(&self, heads: usize) -> Result<Self> {
        let &[_, _, width] = self.shape() else {
            return Err(Error::shape("tensor of packed heads", "rank", "3 [B, N, H·D]", self.shape().len()));
        };
        if heads == 0 || width % heads != 0 {
            return Err(Error::shape(
                "tensor of packed heads",
                "axis 2",
                format!("a multiple of {heads} heads"),
                width,
            ));
        }
        self.with_layout(self.layout.split(2, heads, width / heads)?.permute(&[0, 2, 1, 3])?)
    }

    /// Packed [B, N, 3·H·D] as query, key and value [B, H, N, D], without a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] when the last axis is not 3 · heads · D.
    pub fn unpack_qkv(&self, heads: usize) -> Result<[Self; 3]> {
        let width = self.shape().get(2).copied().unwrap_or(0);
        if self.shape().len() != 3 || heads == 0 || width % (3 * heads) != 0 {
            let found = format!("{:?}", self.shape());
            return Err(Error::shape("packed query, key, value", "shape", format!("[B, N, 3·{heads}·D]"), found));
        }
        let part = |k: usize| self.narrow(2, k * width / 3, width / 3)?.heads(heads);
        Ok([part(0)?, part(1)?, part(2)?])
    }

    /// Other contents: as [`Tensor::upload`] has them, for whatever is submitted next. The tensor is dense, f32, f16 or q8.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape or type, for a tensor that is not dense or starts between two words of 4 bytes, or
    /// an embedder's buffer without usage `COPY_DST`; [`Error::Gpu`] or [`Error::DeviceLost`].
    pub fn write(&self, gpu: &Gpu, array: &Array<f32>) -> Result<()> {
        self.check_same_shape(array.shape())?;
        match self.dtype {
            DType::F32 => self.write_bytes(gpu, bytemuck::cast_slice(array.data())),
            DType::F16 => {
                let halves: Vec<f16> = array.data().iter().map(|&x| f16::from_f32(x)).collect();
                self.write_bytes(gpu, bytemuck::cast_slice(&halves))
            }
            DType::Q8 => self.write_bytes(gpu, bytemuck::cast_slice(&q8::quantize(array.data()))),
            DType::U32 => Err(Error::shape(self.name(), "dtype", "f32, f16 or q8", self.dtype)),
        }
    }

    /// As [`Tensor::write`], for integers: ids, lengths, bool masks.
    ///
    /// # Errors
    /// As [`Tensor::write`].
    pub fn write_u32(&self, gpu: &Gpu, array: &Array<u32>) -> Result<()> {
        self.check_same_shape(array.shape())?;
        if self.dtype != DType::U32 {
            return Err(Error::shape(self.name(), "dtype", "u32", self.dtype));
        }
        self.write_bytes(gpu, bytemuck::cast_slice(array.data()))
    }

    /// Other words from index `at` on, of a dense tensor of u32.
    pub(super) fn write_words(&self, gpu: &Gpu, at: usize, words: &[u32]) -> Result<()> {
        let layout = Layout { offset: self.layout.offset + at, ..Layout::contiguous(&[words.len()]) };
        self.with_layout(layout)?.write_bytes(gpu, bytemuck::cast_slice(words))
    }

    fn check_same_shape(&self, shape: &[usize]) -> Result<()> {
        if shape == self.shape() {
            return Ok(());
        }
        Err(Error::shape(self.name(), "shape", format!("{:?}", self.shape()), format!("{shape:?}")))
    }

    fn write_bytes(&self, gpu: &Gpu, bytes: &[u8]) -> Result<()> {
        let name = self.name();
        // Writes are in units of 4 bytes; an odd number of halves is padded with zeros, where nothing lies behind it.
        let Some(size) = wgpu::BufferSize::new(bytes.len().next_multiple_of(4) as u64) else { return Ok(()) };
        if !self.layout.is_contiguous() {
            return Err(Error::shape(name, "strides", "contiguous", format!("{:?}", self.layout.strides)));
        }
        if !self.memory.may_be_of(gpu) {
            return Err(super::run::another_device(name));
        }
        let offset = self.dtype.bytes_of(self.layout.offset) as u64;
        let end = offset + size.get();
        if !offset.is_multiple_of(4) || (!bytes.len().is_multiple_of(4) && end < self.memory.bytes) {
            let found = format!("{} bytes from {offset} on", bytes.len());
            return Err(Error::shape(name, "place", "whole words of 4 bytes", found));
        }
        let buffer = self.memory.make(gpu)?;
        if !buffer.usage().contains(wgpu::BufferUsages::COPY_DST) {
            return Err(Error::shape(name, "buffer usage", "COPY_DST", format!("{:?}", buffer.usage())));
        }
        let written = gpu.scoped(|| {
            let mut staged = gpu.queue().write_buffer_with(buffer, offset, size)?;
            staged.slice(..bytes.len()).copy_from_slice(bytes);
            staged.slice(bytes.len()..).fill(0);
            Some(())
        })?;
        written.ok_or_else(|| gpu.fault("an upload was passed over"))
    }

    /// The elements in host memory as f32, f16 and q8 widened. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Shape`] for integers ([`Tensor::download_u32`]), [`Error::Gpu`] or [`Error::DeviceLost`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn download(&self, gpu: &Gpu) -> Result<Array<f32>> {
        gpu.drive(self.fetch(gpu, Self::decode))
    }

    /// The integers in host memory. Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor that is not of u32, [`Error::Gpu`] or [`Error::DeviceLost`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn download_u32(&self, gpu: &Gpu) -> Result<Array<u32>> {
        gpu.drive(self.fetch(gpu, Self::decode_u32))
    }

    /// As [`Tensor::download`], without blocking: the future is ready once the device has been polled past the copy
    /// (`device.poll` on native; browsers poll by themselves).
    ///
    /// # Errors
    /// As [`Tensor::download`].
    pub async fn download_async(&self, gpu: &Gpu) -> Result<Array<f32>> {
        self.fetch(gpu, Self::decode).await
    }

    /// As [`Tensor::download_u32`], without blocking.
    ///
    /// # Errors
    /// As [`Tensor::download_u32`].
    pub async fn download_u32_async(&self, gpu: &Gpu) -> Result<Array<u32>> {
        self.fetch(gpu, Self::decode_u32).await
    }

    /// The bytes of the buffer that a copy command can take as they are, if there is such a range.
    pub(super) fn copyable(&self) -> Option<std::ops::Range<u64>> {
        let start = self.dtype.bytes_of(self.layout.offset) as u64;
        let end = start + self.dtype.bytes_of(self.layout.elements()) as u64;
        let readable = |buffer: &wgpu::Buffer| buffer.usage().contains(wgpu::BufferUsages::COPY_SRC);
        let dense = self.layout.is_contiguous() && self.memory.made().is_none_or(readable);
        // Copies are in units of 4 bytes; a buffer's size is one of them.
        (dense && start.is_multiple_of(4) && end.next_multiple_of(4) <= self.memory.bytes)
            .then_some(start..end.next_multiple_of(4))
    }

    /// The host array behind bytes read from the device.
    pub(crate) fn decode(&self, raw: &[u8]) -> Result<Array<f32>> {
        let raw = &raw[..self.dtype.bytes_of(self.layout.elements())];
        let data = match self.dtype {
            DType::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(raw),
            DType::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(raw).into_iter().map(f16::to_f32).collect(),
            DType::Q8 => q8::dequantize(&bytemuck::pod_collect_to_vec(raw)),
            DType::U32 => return Err(Error::shape(self.name(), "dtype", "f32, f16 or q8", self.dtype)),
        };
        Array::new(self.shape(), data)
    }

    /// As [`Tensor::decode`], of integers.
    pub(crate) fn decode_u32(&self, raw: &[u8]) -> Result<Array<u32>> {
        if self.dtype != DType::U32 {
            return Err(Error::shape(self.name(), "dtype", "u32", self.dtype));
        }
        let raw = &raw[..self.dtype.bytes_of(self.layout.elements())];
        Array::new(self.shape(), bytemuck::pod_collect_to_vec(raw))
    }

    /// What `map` makes of the host arrays behind its tensors, which are all read in one submission. It is called twice, and gives
    /// the same tensors in the same order: what it makes the first time is dropped.
    pub(crate) async fn fetch_all<O>(
        gpu: &Gpu,
        map: impl Fn(&mut dyn FnMut(&str, &Self) -> Result<Array>) -> Result<O>,
    ) -> Result<O> {
        let mut tensors = Vec::new();
        map(&mut |_, tensor| {
            tensors.push(tensor.clone());
            Ok(Array::filled(&[0], 0.0))
        })?;
        let read = Run::new(gpu).read(&tensors.iter().collect::<Vec<_>>(), Self::decode).await?;
        let mut arrays = read.into_iter();
        map(&mut |name, _| arrays.next().ok_or_else(|| Error::missing(name, "what was read back")))
    }

    async fn fetch<T>(&self, gpu: &Gpu, decode: fn(&Self, &[u8]) -> Result<Array<T>>) -> Result<Array<T>> {
        let mut read = Run::new(gpu).read(&[self], decode).await?;
        read.pop().ok_or_else(|| Error::missing("tensor", "what was read back"))
    }
}
