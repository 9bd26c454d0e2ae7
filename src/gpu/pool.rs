//! Scratch buffers that are used again.
//!
//! Only memory that the GPU alone writes comes from here. Command buffers run one after the other on the queue and
//! every scratch tensor is written before it is read, so two recordings may share a buffer in any order.

use std::collections::HashMap;

use crate::error::Result;

/// Free buffers by size.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: HashMap<u64, Vec<wgpu::Buffer>>,
    bytes: u64,
}

/// Sizes step by an eighth of a power of two, so that at most an eighth is wasted and few sizes exist.
fn bucket(bytes: u64) -> u64 {
    let step = (bytes.next_power_of_two() / 8).max(256);
    bytes.next_multiple_of(step)
}

impl Pool {
    /// Bytes of all buffers made here, in use or free.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A buffer of at least this size, its contents undefined.
    pub(super) fn take(&mut self, device: &wgpu::Device, bytes: u64, limit: u64) -> Result<wgpu::Buffer> {
        let size = bucket(bytes).min(limit).max(bytes);
        if let Some(buffer) = self.free.get_mut(&size).and_then(Vec::pop) {
            return Ok(buffer);
        }
        let buffer = super::scoped(device, || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("regard scratch"),
                size,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        self.bytes += size;
        Ok(buffer)
    }

    /// A buffer that is not needed any more.
    pub(super) fn give(&mut self, buffer: wgpu::Buffer) {
        self.free.entry(buffer.size()).or_default().push(buffer);
    }

    /// Drops the free buffers.
    pub(super) fn trim(&mut self) {
        let freed: u64 = self.free.values().flatten().map(wgpu::Buffer::size).sum();
        self.bytes -= freed;
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_are_few_and_tight() {
        assert_eq!(bucket(1), 256);
        assert_eq!(bucket(4096), 4096);
        assert_eq!(bucket(4097), 5120);
        for bytes in [300, 5000, 70_000, 1_000_000, 123_456_789u64] {
            let size = bucket(bytes);
            assert!(size >= bytes && size - bytes <= (bytes / 4).max(256), "{bytes} -> {size}");
            assert_eq!(bucket(size), size);
        }
    }
}
