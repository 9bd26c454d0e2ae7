//! What a device takes over from earlier runs, and leaves for later ones.

use super::seal::{hash, seal, unseal};
use super::{Adapter, Faults, Gpu, scoped};
use crate::device::Rates;
use crate::error::Result;
use crate::plan::Tuning;

/// What earlier runs on an adapter left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// Measured choices, in place of the planner's table.
    pub tuning: Tuning,
    /// Measured rates, in place of those that are assumed of the device's kind.
    pub rates: Option<Rates>,
    /// Compiled pipelines, as [`Gpu::pipeline_cache_data`] gave them. Of another adapter or driver, or damaged, they are
    /// passed over.
    pub pipelines: Option<Vec<u8>>,
}

impl Adapter {
    /// A name for files about this adapter with its driver: letters, digits and dashes.
    pub fn key(&self) -> String {
        let whole = format!("{}\n{}\n{}", self.name, self.driver, self.backend);
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let readable: String = self.name.chars().map(letter).take(40).collect();
        let parts: Vec<&str> = readable.split('-').filter(|part| !part.is_empty()).collect();
        format!("{}-{:016x}", parts.join("-"), hash(whole.as_bytes())).trim_start_matches('-').to_owned()
    }
}

/// A cache for the pipelines of a device, filled with what was kept, where the backend has such caches.
pub(super) fn pipeline_cache(
    faults: &Faults,
    device: &wgpu::Device,
    adapter: &Adapter,
    kept: Option<&[u8]>,
) -> Result<Option<wgpu::PipelineCache>> {
    let Some(key) = cache_key(device, adapter) else { return Ok(None) };
    let data = kept.and_then(|kept| unseal(&key, kept));
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("regard"), data, fallback: true };
    // SAFETY: data, if given, must come from `PipelineCache::get_data` of the same adapter. `unseal` lets nothing else
    // through: the bytes carry the seal that `Gpu::pipeline_cache_data` alone puts on them, with a hash of the adapter's name,
    // driver, backend and `wgpu::util::pipeline_cache_key`, and their length and own hash are right, so that they are
    // whole. wgpu compares vendor, device and driver version once more and, by `fallback`, starts afresh where they
    // differ.
    #[expect(unsafe_code, reason = "wgpu has no other way to a pipeline cache; the proof is above")]
    let cache = scoped(faults, device, || unsafe { device.create_pipeline_cache(&descriptor) })?;
    Ok(Some(cache))
}

/// What tells apart pipelines that can be exchanged; `None` where there are no caches.
fn cache_key(device: &wgpu::Device, adapter: &Adapter) -> Option<String> {
    let key = wgpu::util::pipeline_cache_key(&device.adapter_info()).filter(|_| adapter.pipeline_cache)?;
    Some(format!("{} {key}", adapter.key()))
}

impl Gpu {
    /// The pipelines compiled so far, for [`Kept::pipelines`] of a later run; `None` where the backend has no such cache.
    pub fn pipeline_cache_data(&self) -> Option<Vec<u8>> {
        let data = self.inner.pipelines.cache()?.get_data()?;
        Some(seal(&cache_key(self.device(), self.adapter())?, &data))
    }
}
