//! How long a whole run takes.

use std::time::Instant;

use super::{Gpu, Run};
use crate::error::Result;

impl Run<'_> {
    /// Submits as [`Run::submit`] does and takes the time of the whole, as [`Gpu::time`]; where it takes several submissions,
    /// from the start of the first to the end of the last.
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub fn submit_and_time(self) -> Result<f64> {
        let gpu = self.gpu();
        gpu.check_lost()?;
        self.settle(|run| {
            let prepared = run.prepare()?;
            gpu.time_all(prepared.encoders("regard timed")?, |encoders| prepared.encode_into(encoders, None))
        })
    }
}

impl Gpu {
    /// Submits what `encode` encodes, waits, and returns how many nanoseconds the device took from its start to its end:
    /// by timestamps before and behind it where the device has any, else from submission to completion.
    ///
    /// # Errors
    /// Those of `encode`, [`Error::Gpu`](crate::Error::Gpu) or [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn time(&self, encode: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>) -> Result<f64> {
        self.check_lost()?;
        let encoders = self.encoders("regard timed", 1)?;
        self.time_all(encoders, |encoders| encoders.iter_mut().next().map_or(Ok(()), encode))
    }

    /// As [`Gpu::time`], with encoders that are submitted one after the other.
    fn time_all(
        &self,
        mut encoders: Vec<wgpu::CommandEncoder>,
        encode: impl FnOnce(&mut [wgpu::CommandEncoder]) -> Result<()>,
    ) -> Result<f64> {
        let stamps = self.caps().timestamps.then(|| Stamps::new(self, 1)).transpose()?;
        // A pass of its own with nothing in it: its stamp waits for what came before and nothing else.
        let mark = |encoder: Option<&mut wgpu::CommandEncoder>, index: u32| {
            if let (Some(Stamps { queries: query_set, .. }), Some(encoder)) = (&stamps, encoder) {
                encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: Some("regard timestamp"),
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set,
                        beginning_of_pass_write_index: None,
                        end_of_pass_write_index: Some(index),
                    }),
                });
            }
        };
        mark(encoders.first_mut(), 0);
        encode(&mut encoders)?;
        mark(encoders.last_mut(), 1);
        if let (Some(stamps), Some(encoder)) = (&stamps, encoders.last_mut()) {
            stamps.resolve(encoder);
        }
        self.wait()?;
        let start = Instant::now();
        self.submit(encoders)?;
        self.wait_unchecked()?;
        let elapsed = start.elapsed().as_nanos() as f64;
        let Some(stamps) = stamps else { return self.check_done().map(|()| elapsed) };
        // A driver that leaves out empty passes leaves out their stamps.
        Ok(stamps.nanoseconds(self)?.first().copied().filter(|&ns| ns > 0.0).unwrap_or(elapsed))
    }
}

/// Timestamps before and behind some pieces of work, where they are resolved to, and where they are read.
pub(super) struct Stamps {
    /// Two a piece.
    pub(super) queries: wgpu::QuerySet,
    pieces: usize,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
}

impl Stamps {
    /// For that many pieces, at least one.
    pub(super) fn new(gpu: &Gpu, pieces: usize) -> Result<Self> {
        let device = gpu.device();
        gpu.scoped(|| {
            let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("regard timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * pieces as u32,
            });
            let buffer = |usage| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("regard timestamps"),
                    size: 16 * pieces as u64,
                    usage,
                    mapped_at_creation: false,
                })
            };
            let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
            let staging = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
            Self { queries, pieces, resolved, staging }
        })
    }

    /// Encodes that they are written to where they can be read, behind the work.
    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..2 * self.pieces as u32, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, Some(16 * self.pieces as u64));
    }

    /// How long each piece took, once that has been submitted. Blocks until the device is done.
    pub(super) fn nanoseconds(&self, gpu: &Gpu) -> Result<Vec<f64>> {
        let bytes = 16 * self.pieces as u64;
        let raw = pollster::block_on(super::map::map(gpu, &self.staging, bytes, true))?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&raw);
        let period = f64::from(gpu.queue().get_timestamp_period());
        Ok(ticks.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period).collect())
    }
}
