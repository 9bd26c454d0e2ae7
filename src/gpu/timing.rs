//! How long a whole run takes.

use std::time::Instant;

use super::{Run, scoped};
use crate::error::Result;

impl Run<'_> {
    /// Encodes as [`Run::submit`] does, submits, waits, and returns how many nanoseconds the device took from the start
    /// of the first dispatch to the end of the last: by timestamps before and behind them where the device has any, else
    /// from submission to completion.
    ///
    /// # Errors
    /// As [`Run::submit`].
    pub fn submit_and_time(self) -> Result<f64> {
        let gpu = self.gpu();
        gpu.check_lost()?;
        let mut encoder = gpu.encoder("regard timed")?;
        let stamps = gpu.caps().timestamps.then(|| stamps(gpu.device())).transpose()?;
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
        self.encode(&mut encoder)?;
        mark(&mut encoder, 1);
        if let Some((queries, resolved, staging)) = &stamps {
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, staging, 0, Some(16));
        }
        gpu.wait()?;
        let start = Instant::now();
        gpu.submit(encoder)?;
        gpu.wait()?;
        let elapsed = start.elapsed().as_nanos() as f64;
        let Some((.., staging)) = &stamps else { return Ok(elapsed) };
        let raw = pollster::block_on(super::tensor::map(gpu, staging, 16, true))?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&raw);
        // A driver that leaves out empty passes leaves out their stamps.
        Ok(match ticks[1].checked_sub(ticks[0]) {
            Some(ticks) if ticks > 0 => ticks as f64 * f64::from(gpu.queue().get_timestamp_period()),
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
