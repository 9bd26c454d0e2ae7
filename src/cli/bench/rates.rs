//! The adapter's ceilings, measured on the spot.

use std::time::Instant;

use regard::gpu::{Gpu, Run};
use regard::kernels::{copy, fma_rate};
use regard::tensor::{Array, DType};
use regard::{Error, Tensor};

use crate::failure::Outcome;

/// Operations and bytes per nanosecond.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    /// Multiply-adds, counted as two operations: 10⁹ a second.
    pub(crate) gflops: f64,
    /// Bytes read and bytes written: 10⁹ a second.
    pub(crate) gbps: f64,
}

/// Nanoseconds that a run takes: by timestamps where there are any, else from submission to completion.
pub(crate) fn device_time(gpu: &Gpu, run: Run<'_>) -> Outcome<f64> {
    if gpu.caps().timestamps {
        let timings = run.submit_timed()?;
        return Ok(timings.iter().filter_map(|t| t.nanoseconds).sum::<f64>().max(1.0));
    }
    gpu.wait()?;
    let start = Instant::now();
    run.submit()?;
    gpu.wait()?;
    Ok(start.elapsed().as_nanos() as f64)
}

impl Rates {
    /// Measures both, growing the work until it takes long enough to be measured.
    pub(crate) fn measure(gpu: &Gpu) -> Outcome<Self> {
        Ok(Self { gflops: multiply_adds(gpu)?, gbps: copy_rate(gpu)? })
    }
}

/// The best of several runs over enough work for 20 ms.
fn best(gpu: &Gpu, mut record: impl FnMut(&mut Run<'_>, u32) -> Outcome<f64>) -> Outcome<f64> {
    let (mut size, mut rate) = (1, 0.0f64);
    for _ in 0..12 {
        let mut run = Run::new(gpu);
        let amount = record(&mut run, size)?;
        let took = device_time(gpu, run)?;
        rate = rate.max(amount / took);
        if took < 20e6 {
            size *= 2;
        }
    }
    Ok(rate)
}

fn multiply_adds(gpu: &Gpu) -> Outcome<f64> {
    let turns = 500;
    let factors = [0.75, 0.5];
    let small = Tensor::uninitialized(gpu, "rate", &[fma_rate::LANES], DType::F32)?;
    let mut run = Run::new(gpu);
    let view = run.bind("rate", &small);
    fma_rate::record(run.recording_mut(), gpu.caps(), factors, turns, &view)?;
    let got = run.submit_and_read(&[&small])?;
    let wrong = got.iter().flat_map(|a| a.data().iter().enumerate()).find(|(k, x)| {
        let want = fma_rate::expected(factors, turns, *k);
        (f64::from(**x) - want).abs() > 1e-4 * want.abs()
    });
    if let Some((k, &x)) = wrong {
        let want = fma_rate::expected(factors, turns, k);
        let what = format!("multiply-adds of invocation {k}");
        return Err(Error::Tolerance { what, error: f64::from(x) - want, tolerance: 1e-4 * want.abs() }.into());
    }
    best(gpu, |run, size| {
        let invocations = fma_rate::LANES * 64 * size as usize;
        let view = run.recording_mut().scratch("rate", &[invocations], DType::F32);
        let caps = run.gpu().caps();
        fma_rate::record(run.recording_mut(), caps, factors, turns, &view)?;
        Ok(run.recording().dispatches().map(|d| d.flops as f64).sum())
    })
}

fn copy_rate(gpu: &Gpu) -> Outcome<f64> {
    // Larger than any cache worth the name, within every device's largest binding.
    let elements = 24 << 20;
    let source = Tensor::upload(gpu, "copy source", &Array::from_fn(&[elements], |k| k as f32), DType::F32)?;
    let target = Tensor::uninitialized(gpu, "copy target", &[elements], DType::F32)?;
    let record = |run: &mut Run<'_>, size: u32| -> Outcome<f64> {
        let (from, to) = (run.bind("copy source", &source), run.bind("copy target", &target));
        let caps = run.gpu().caps();
        for _ in 0..size.min(8) {
            copy::record(run.recording_mut(), caps, &from, &to)?;
        }
        Ok(run.recording().dispatches().map(|d| d.bytes as f64).sum())
    };
    let rate = best(gpu, record)?;
    let last = target.narrow(0, elements - 4, 4)?.download(gpu)?;
    let want = source.narrow(0, elements - 4, 4)?.download(gpu)?;
    if last != want {
        return Err(Error::Gpu("a copy did not arrive".to_owned()).into());
    }
    Ok(rate)
}
