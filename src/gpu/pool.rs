//! Scratch buffers that are used again.
//!
//! Only memory that the GPU alone writes comes from here. Command buffers run one after the other on the queue and
//! every scratch tensor is written before it is read, so two recordings may share a buffer in any order. A recording that
//! is run in several command buffers, between which others may come, shares none.

/// Buffers that nobody uses, and how much is in use.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// The longest unused first.
    free: Vec<wgpu::Buffer>,
    /// Bytes taken and not given back, now and at most so far.
    taken: u64,
    most: u64,
}

/// The size of a buffer that is made for so many bytes. Sizes step by an eighth of a power of two, so that at most an
/// eighth is wasted and few sizes exist.
pub(super) fn size(bytes: u64, limit: u64) -> u64 {
    let step = (bytes.next_power_of_two() / 8).max(256);
    bytes.next_multiple_of(step).min(limit).max(bytes)
}

impl Pool {
    /// Bytes of all buffers made for this pool, in use or free.
    pub(super) fn bytes(&self) -> u64 {
        self.taken + self.free_bytes()
    }

    fn free_bytes(&self) -> u64 {
        self.free.iter().map(wgpu::Buffer::size).sum()
    }

    /// The smallest free buffer of at least this size and at most twice that, its contents undefined.
    pub(super) fn take(&mut self, size: u64) -> Option<wgpu::Buffer> {
        let fits = |(_, buffer): &(usize, &wgpu::Buffer)| (size..=2 * size).contains(&buffer.size());
        let (index, _) = self.free.iter().enumerate().filter(fits).min_by_key(|(_, buffer)| buffer.size())?;
        let buffer = self.free.remove(index);
        self.lend(&buffer);
        Some(buffer)
    }

    /// Counts a buffer that was made because none was free.
    pub(super) fn lend(&mut self, buffer: &wgpu::Buffer) {
        self.taken += buffer.size();
        self.most = self.most.max(self.taken);
    }

    /// A buffer that is not needed any more. Free ones together hold at most twice what was in use at once; what has
    /// been unused longest goes first, and is returned.
    #[must_use]
    pub(super) fn give(&mut self, buffer: wgpu::Buffer) -> Vec<wgpu::Buffer> {
        self.taken -= buffer.size();
        self.free.push(buffer);
        let mut excess = self.free_bytes().saturating_sub(2 * self.most);
        let mut gone = Vec::new();
        while excess > 0 {
            let buffer = self.free.remove(0);
            excess = excess.saturating_sub(buffer.size());
            gone.push(buffer);
        }
        gone
    }

    /// Drops the free buffers.
    pub(super) fn trim(&mut self) {
        self.free.clear();
        self.most = self.taken;
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_few_and_tight() {
        let size = |bytes| size(bytes, u64::MAX);
        assert_eq!(size(1), 256);
        assert_eq!(size(4096), 4096);
        assert_eq!(size(4097), 5120);
        for bytes in [300, 5000, 70_000, 1_000_000, 123_456_789u64] {
            let size_of = size(bytes);
            assert!(size_of >= bytes && size_of - bytes <= (bytes / 4).max(256), "{bytes} -> {size_of}");
            assert_eq!(size(size_of), size_of);
        }
    }

    #[test]
    fn a_size_stays_within_the_limit() {
        assert_eq!(size(1000, 1004), 1004);
        assert_eq!(size(1000, 100), 1000);
    }
}
