//! Tensors in GPU memory: upload, views, download.

use std::sync::{Arc, Weak};

use half::f16;

use super::{Gpu, Inner, Run};
use crate::error::{Error, Result};
use crate::q8;
use crate::tensor::{Array, DType, Layout};

/// A strided tensor in a GPU buffer. Cloning shares the buffer.
#[derive(Debug, Clone)]
pub struct Tensor {
    buffer: wgpu::Buffer,
    /// Whose it is, unless the buffer is an embedder's. wgpu tells devices of one instance apart; buffers of two
    /// instances have the same numbers, and it takes one for the other.
    owner: Option<Weak<Inner>>,
    layout: Layout,
    dtype: DType,
}

impl Tensor {
    /// A dense tensor whose contents are undefined until something writes it.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::OutOfMemory`], [`Error::Gpu`] or [`Error::DeviceLost`] when the device cannot hold it.
    pub fn uninitialized(gpu: &Gpu, name: &str, shape: &[usize], dtype: DType) -> Result<Self> {
        let elements = shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis)).unwrap_or(usize::MAX);
        let bytes = dtype.bytes_of(elements) as u64;
        let allowed = gpu.caps().max_binding_bytes.min(gpu.caps().max_buffer_bytes);
        if bytes > allowed {
            return Err(Error::Limit { what: format!("bytes of `{name}`"), needed: bytes, allowed });
        }
        if dtype == DType::F16 && !gpu.caps().f16 {
            return Err(Error::Unsupported { feature: "f16 in shaders".into(), what: format!("`{name}`") });
        }
        let layout = Layout::contiguous(shape);
        dtype.check_layout(name, &layout)?;
        gpu.check_lost()?;
        let buffer = gpu.buffer(&wgpu::BufferDescriptor {
            label: Some(name),
            size: bytes.max(4).next_multiple_of(4),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })?;
        Ok(Self { buffer, owner: Some(Arc::downgrade(&gpu.inner)), layout, dtype })
    }

    /// Host data as a tensor of f32, or rounded to f16 or q8.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Unsupported`] or [`Error::Gpu`]; [`Error::Shape`] for a dtype that is not a float,
    /// or a last axis that is not made of whole blocks of q8.
    pub fn upload(gpu: &Gpu, name: &str, array: &Array<f32>, dtype: DType) -> Result<Self> {
        let tensor = Self::uninitialized(gpu, name, array.shape(), dtype)?;
        match dtype {
            DType::F32 => tensor.write(gpu, bytemuck::cast_slice(array.data()))?,
            DType::F16 => {
                let halves: Vec<f16> = array.data().iter().map(|&x| f16::from_f32(x)).collect();
                tensor.write(gpu, bytemuck::cast_slice(&halves))?;
            }
            DType::Q8 => tensor.write(gpu, bytemuck::cast_slice(&q8::quantize(array.data())))?,
            DType::U32 => return Err(Error::shape(name, "dtype", "f32, f16 or q8", dtype)),
        }
        Ok(tensor)
    }

    /// Host integers as a tensor: ids, lengths, bool masks.
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::Gpu`].
    pub fn upload_u32(gpu: &Gpu, name: &str, array: &Array<u32>) -> Result<Self> {
        let tensor = Self::uninitialized(gpu, name, array.shape(), DType::U32)?;
        tensor.write(gpu, bytemuck::cast_slice(array.data()))?;
        Ok(tensor)
    }

    /// Lengths given as whole numbers in f32, as u32.
    ///
    /// # Errors
    /// [`Error::Shape`] for a number that is negative, fractional or above `longest`, and as [`Tensor::upload_u32`].
    pub fn upload_lengths(gpu: &Gpu, name: &str, array: &Array<f32>, longest: usize) -> Result<Self> {
        let whole = |(row, &x): (usize, &f32)| {
            if x.fract() == 0.0 && (0.0..=longest as f32).contains(&x) {
                Ok(x as u32)
            } else {
                Err(Error::shape(name, format!("row {row}"), format!("a whole number from 0 to {longest}"), x))
            }
        };
        let data = array.data().iter().enumerate().map(whole).collect::<Result<_>>()?;
        Self::upload_u32(gpu, name, &Array::new(array.shape(), data)?)
    }

    /// A tensor over an embedder's buffer, which must have usage `STORAGE` (and `COPY_SRC` to be downloaded without another
    /// copy on the device) and be of the device that it is used with.
    ///
    /// # Errors
    /// [`Error::Shape`] when the layout reaches past the buffer, or cuts through blocks of q8.
    pub fn from_buffer(buffer: wgpu::Buffer, layout: Layout, dtype: DType) -> Result<Self> {
        Self::over(buffer, None, layout, dtype)
    }

    fn over(buffer: wgpu::Buffer, owner: Option<Weak<Inner>>, layout: Layout, dtype: DType) -> Result<Self> {
        let block = dtype.block();
        let holds = buffer.size() / dtype.bytes_of(block) as u64 * block as u64;
        if layout.checked_span()?.max(layout.offset) as u64 > holds {
            return Err(Error::shape("tensor over a buffer", "elements", format!("at most {holds}"), layout.span()));
        }
        dtype.check_layout("tensor over a buffer", &layout)?;
        Ok(Self { buffer, owner, layout, dtype })
    }

    /// False for a tensor that another [`Gpu`] made.
    pub(super) fn may_be_of(&self, gpu: &Gpu) -> bool {
        self.owner.as_ref().is_none_or(|owner| std::ptr::eq(owner.as_ptr(), Arc::as_ptr(&gpu.inner)))
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

    /// The buffer underneath.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Another view of the same buffer.
    ///
    /// # Errors
    /// [`Error::Shape`] when the layout reaches past the buffer.
    pub fn with_layout(&self, layout: Layout) -> Result<Self> {
        Self::over(self.buffer.clone(), self.owner.clone(), layout, self.dtype)
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

    /// Overwrites a dense tensor's bytes; the write happens before the next submission.
    fn write(&self, gpu: &Gpu, bytes: &[u8]) -> Result<()> {
        // Writes are in units of 4 bytes; an odd number of halves is padded with zeros.
        let Some(size) = wgpu::BufferSize::new(bytes.len().next_multiple_of(4) as u64) else { return Ok(()) };
        let offset = self.dtype.bytes_of(self.layout.offset) as u64;
        let written = gpu.scoped(|| {
            let mut staged = gpu.queue().write_buffer_with(&self.buffer, offset, size)?;
            staged.slice(..bytes.len()).copy_from_slice(bytes);
            staged.slice(bytes.len()..).fill(0);
            Some(())
        })?;
        written.ok_or_else(|| gpu.fault("an upload was passed over"))
    }

    /// The elements in host memory as f32 (f16 and q8 widened, integers converted). Blocks until the device is done.
    ///
    /// # Errors
    /// [`Error::Gpu`] or [`Error::DeviceLost`].
    pub fn download(&self, gpu: &Gpu) -> Result<Array<f32>> {
        pollster::block_on(self.fetch(gpu, true))
    }

    /// As [`Tensor::download`], without blocking: the future is ready once the device has been polled past the copy
    /// (`device.poll` on native; browsers poll by themselves).
    ///
    /// # Errors
    /// As [`Tensor::download`].
    pub async fn download_async(&self, gpu: &Gpu) -> Result<Array<f32>> {
        self.fetch(gpu, false).await
    }

    /// The bytes of the buffer that a copy command can take as they are, if there is such a range.
    pub(super) fn copyable(&self) -> Option<std::ops::Range<u64>> {
        let start = self.dtype.bytes_of(self.layout.offset) as u64;
        let end = start + self.dtype.bytes_of(self.layout.elements()) as u64;
        let dense = self.layout.is_contiguous() && self.buffer.usage().contains(wgpu::BufferUsages::COPY_SRC);
        // Copies are in units of 4 bytes; a buffer's size is one of them.
        (dense && start.is_multiple_of(4) && end.next_multiple_of(4) <= self.buffer.size())
            .then_some(start..end.next_multiple_of(4))
    }

    /// The host array behind bytes read from the device.
    pub(super) fn decode(&self, raw: &[u8]) -> Result<Array<f32>> {
        let raw = &raw[..self.dtype.bytes_of(self.layout.elements())];
        let data = match self.dtype {
            DType::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(raw),
            DType::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(raw).into_iter().map(f16::to_f32).collect(),
            DType::Q8 => q8::dequantize(&bytemuck::pod_collect_to_vec(raw)),
            DType::U32 => bytemuck::pod_collect_to_vec::<u8, u32>(raw).into_iter().map(|n| n as f32).collect(),
        };
        Array::new(self.shape(), data)
    }

    async fn fetch(&self, gpu: &Gpu, block: bool) -> Result<Array<f32>> {
        let mut read = Run::new(gpu).read(&[self], block).await?;
        read.pop().ok_or_else(|| Error::missing("tensor", "what was read back"))
    }
}
