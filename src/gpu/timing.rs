//! How long a whole run takes.

use crate::clock::Instant;

use std::sync::Arc;

use super::map::Read;
use super::{Gpu, Run};
use crate::error::Result;

impl Run<'_> {
    /// Submits as [`Run::submit`] does and takes the time of the whole, as [`Gpu::time`]; where it takes several submissions,
    /// from the start of the first to the end of the last.
    ///
    /// # Errors
    /// As [`Run::submit`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn submit_and_time(self) -> Result<f64> {
        let gpu = self.gpu();
        gpu.drive(self.submit_and_time_async())
    }

    /// As [`Run::submit_and_time`], without blocking.
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub async fn submit_and_time_async(self) -> Result<f64> {
        let gpu = self.gpu();
        gpu.done().await?;
        let timed = self.settle(|run| {
            let prepared = run.prepare()?;
            gpu.submit_timed(prepared.encoders("regard timed")?, |encoders| prepared.encode_into(encoders, None))
        })?;
        timed.nanoseconds(gpu).await
    }
}

impl Gpu {
    /// Submits what `encode` encodes, waits, and returns how many nanoseconds the device took from its start to its end:
    /// by timestamps before and behind it where the device has any, else from submission to completion.
    ///
    /// # Errors
    /// Those of `encode`, [`Error::Gpu`](crate::Error::Gpu) or [`Error::DeviceLost`](crate::Error::DeviceLost).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn time(&self, encode: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>) -> Result<f64> {
        self.drive(self.time_async(encode))
    }

    /// As [`Gpu::time`], without blocking.
    ///
    /// # Errors
    /// As [`Gpu::time`].
    pub async fn time_async(&self, encode: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>) -> Result<f64> {
        self.done().await?;
        let encoders = self.encoders("regard timed", 1)?;
        let timed = self.submit_timed(encoders, |encoders| encoders.iter_mut().next().map_or(Ok(()), encode))?;
        timed.nanoseconds(self).await
    }

    /// Submits encoders one after the other, and takes the time from here on.
    fn submit_timed(
        &self,
        mut encoders: Vec<wgpu::CommandEncoder>,
        encode: impl FnOnce(&mut [wgpu::CommandEncoder]) -> Result<()>,
    ) -> Result<Timed> {
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
        let start = Instant::now();
        self.submit(encoders)?;
        Ok(Timed { stamps, start })
    }

    /// Everything that was submitted so far is done.
    pub(super) async fn done(&self) -> Result<()> {
        self.check_lost()?;
        self.finished().await;
        self.settled().await?;
        self.check_done()
    }

    /// What was submitted so far has ended, well or not.
    async fn finished(&self) {
        let read = Arc::new(Read::default());
        self.inner.faults.watch_read(&read);
        let callback = read.clone();
        self.queue().on_submitted_work_done(move || callback.end(true));
        read.ended().await;
    }
}

/// Work whose time is taken.
struct Timed {
    stamps: Option<Stamps>,
    start: Instant,
}

impl Timed {
    /// How long it took.
    async fn nanoseconds(self, gpu: &Gpu) -> Result<f64> {
        let Self { stamps, start } = self;
        gpu.finished().await;
        let elapsed = start.elapsed().as_nanos() as f64;
        let Some(stamps) = stamps else { return gpu.done().await.map(|()| elapsed) };
        // A driver that leaves out empty passes leaves out their stamps.
        Ok(stamps.nanoseconds(gpu).await?.first().copied().filter(|&ns| ns > 0.0).unwrap_or(elapsed))
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

    /// How long each piece took, once that has been submitted.
    pub(super) async fn nanoseconds(&self, gpu: &Gpu) -> Result<Vec<f64>> {
        let bytes = 16 * self.pieces as u64;
        let raw = super::map::map(gpu, &self.staging, bytes).await?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&raw);
        let period = f64::from(gpu.queue().get_timestamp_period());
        Ok(ticks.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period).collect())
    }
}
