//! Small buffers that the host writes anew for each use: parameters of a run, and words that a run knows of a cache.
//!
//! A buffer is given back once all that reads it has been submitted: what is written into it next comes behind that on the
//! queue. Runs that follow one another and do the same have the same buffers, and so the same bind groups.

use super::{Gpu, Inner, lock};
use crate::error::Result;

/// Buffers that are kept.
const MOST: usize = 16;

/// Bytes of the smallest.
const LEAST: u64 = 256;

impl Gpu {
    /// A buffer for so many bytes, its contents undefined: of those that are kept the one that has been longest, of no more
    /// than the next size.
    pub(super) fn take_written(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer> {
        let size = bytes.max(LEAST).next_power_of_two().min(self.caps().max_buffer_bytes).max(bytes);
        let kept = {
            let mut kept = lock(&self.inner.written);
            let index = kept.iter().position(|buffer| (size..=2 * size).contains(&buffer.size()));
            index.map(|index| kept.remove(index))
        };
        let usage = wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        kept.map_or_else(|| self.buffer(&descriptor), Ok)
    }
}

impl Inner {
    /// Takes back a buffer that nothing is yet to be submitted with.
    pub(super) fn give_written(&self, buffer: wgpu::Buffer) {
        let mut kept = lock(&self.written);
        if kept.len() < MOST {
            return kept.push(buffer);
        }
        drop(kept);
        lock(&self.groups).forget(&buffer);
    }
}
