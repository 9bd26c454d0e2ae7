//! How long a whole run takes.

use std::time::Instant;

use super::{Gpu, Run, scoped};
use crate::error::Result;

impl Run<'_> {
    /// Encodes as [`Run::submit`] does and takes the time of the whole, as [`Gpu::time`].
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub fn submit_and_time(self) -> Result<f64> {
        let gpu = self.gpu();
        gpu.time(|encoder| self.encode(encoder))
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
        let mut encoder = self.encoder("regard timed")?;
        let stamps = self.caps().timestamps.then(|| stamps(self.device())).transpose()?;
        // A pass of its own with nothing in it: its stamp waits for what came before and nothing else.
        let mark = |encoder: &mut wgpu::CommandEncoder, index: u32| {
            if let Some((query_set, ..)) = &stamps {
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
        mark(&mut encoder, 0);
        encode(&mut encoder)?;
        mark(&mut encoder, 1);
        if let Some((queries, resolved, staging)) = &stamps {
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, staging, 0, Some(16));
        }
        self.wait()?;
        let start = Instant::now();
        self.submit(encoder)?;
        self.wait()?;
        let elapsed = start.elapsed().as_nanos() as f64;
        let Some((.., staging)) = &stamps else { return Ok(elapsed) };
        let raw = pollster::block_on(super::tensor::map(self, staging, 16, true))?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&raw);
        // A driver that leaves out empty passes leaves out their stamps.
        Ok(match ticks[1].checked_sub(ticks[0]) {
            Some(ticks) if ticks > 0 => ticks as f64 * f64::from(self.queue().get_timestamp_period()),
            _ => elapsed,
        })
    }
}

/// Two timestamps, where they are resolved to, and where they are read.
fn stamps(device: &wgpu::Device) -> Result<(wgpu::QuerySet, wgpu::Buffer, wgpu::Buffer)> {
    scoped(device, || {
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("regard timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("regard timestamps"),
                size: 16,
                usage,
                mapped_at_creation: false,
            })
        };
        let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        (queries, resolved, buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST))
    })
}
