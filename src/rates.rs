//! What a device can do, measured on the spot: the ceilings that benchmarks are held against, and what the planner goes by
//! in place of what it assumes of a kind of device.

use crate::device::Rates;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::{barrier_rate, coop_rate, copy, fma_rate};
use crate::tensor::{Array, DType};

impl Rates {
    /// Measures all, growing the work until it takes long enough to be measured: half a second.
    ///
    /// # Errors
    /// Those of [`Run::submit`], and [`Error::Tolerance`] when an answer is wrong.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn measure(gpu: &Gpu) -> Result<Self> {
        gpu.drive(Self::measure_async(gpu))
    }

    /// As [`Rates::measure`], without blocking.
    ///
    /// # Errors
    /// As [`Rates::measure`].
    pub async fn measure_async(gpu: &Gpu) -> Result<Self> {
        let coop_gflops = match gpu.caps().cooperative {
            Some(side) => Some(cooperative(gpu, side as usize).await?),
            None => None,
        };
        Ok(Self {
            measured: true,
            gflops: multiply_adds(gpu).await?,
            coop_gflops,
            gbps: copy_rate(gpu).await?,
            dispatch: dispatch_cost(gpu).await?,
            barrier: barrier_cost(gpu).await?,
        })
    }
}

/// The best of two runs or more over enough work for 20 ms, 80 ms in all. `run` is told how large the work
/// is to be, and gives its amount and its nanoseconds.
async fn best(mut run: impl AsyncFnMut(u32) -> Result<(f64, f64)>) -> Result<f64> {
    let (mut size, mut rate, mut spent) = (1, 0.0f64, 0.0);
    for turn in 0..12 {
        let (amount, took) = run(size).await?;
        rate = rate.max(amount / took);
        spent += took;
        if took < 20e6 {
            size *= 2;
        } else if turn >= 1 && spent > 80e6 {
            break;
        }
    }
    Ok(rate)
}

async fn multiply_adds(gpu: &Gpu) -> Result<f64> {
    let iterations = 500;
    let factors = [0.75, 0.5];
    let small = Tensor::uninitialized(gpu, "rate", &[fma_rate::LANES], DType::F32)?;
    let mut run = Run::new(gpu);
    let view = run.bind("rate", &small);
    fma_rate::record(run.recording_mut(), gpu.caps(), factors, iterations, &view)?;
    let got = run.submit_and_read_async(&[&small]).await?;
    let wrong = got.iter().flat_map(|a| a.data().iter().enumerate()).find(|(k, x)| {
        let want = fma_rate::expected(factors, iterations, *k);
        (f64::from(**x) - want).abs() > 1e-4 * want.abs()
    });
    if let Some((k, &x)) = wrong {
        let want = fma_rate::expected(factors, iterations, k);
        let what = format!("multiply-adds of invocation {k}");
        return Err(Error::Tolerance { what, error: f64::from(x) - want, tolerance: 1e-4 * want.abs() });
    }
    best(async |size| {
        let mut run = Run::new(gpu);
        let view = run.recording_mut().scratch("rate", &[fma_rate::LANES * 64 * size as usize], DType::F32);
        fma_rate::record(run.recording_mut(), gpu.caps(), factors, iterations, &view)?;
        Ok((run.recording().dispatches().map(|d| d.flops as f64).sum(), run.submit_and_time_async().await?))
    })
    .await
}

async fn cooperative(gpu: &Gpu, side: usize) -> Result<f64> {
    let iterations = 200;
    let least = coop_rate::SUBGROUPS * side * side;
    let small = Tensor::uninitialized(gpu, "rate", &[least], DType::F32)?;
    let mut run = Run::new(gpu);
    let view = run.bind("rate", &small);
    coop_rate::record(run.recording_mut(), gpu.caps(), iterations, &view)?;
    let got = run.submit_and_read_async(&[&small]).await?;
    // Whole numbers below 2²⁴, exact in any order.
    let wrong = got.iter().flat_map(|a| a.data().iter().enumerate()).find_map(|(k, &x)| {
        let error = f64::from(x) - coop_rate::expected(side, iterations, k);
        (error != 0.0).then_some((k, error))
    });
    if let Some((k, error)) = wrong {
        return Err(Error::Tolerance { what: format!("cooperative matrices, element {k}"), error, tolerance: 0.0 });
    }
    best(async |size| {
        let mut run = Run::new(gpu);
        let view = run.recording_mut().scratch("rate", &[least * 64 * size as usize], DType::F32);
        coop_rate::record(run.recording_mut(), gpu.caps(), iterations, &view)?;
        Ok((run.recording().dispatches().map(|d| d.flops as f64).sum(), run.submit_and_time_async().await?))
    })
    .await
}

/// The better of a kernel's and the driver's own.
async fn copy_rate(gpu: &Gpu) -> Result<f64> {
    // Larger than the caches of the kind of device, within every device's largest binding.
    let elements = if gpu.caps().software { 8 << 20 } else { 24 << 20 };
    let source = Tensor::upload(gpu, "copy source", &Array::from_fn(&[elements], |k| k as f32), DType::F32)?;
    let target = Tensor::uninitialized(gpu, "copy target", &[elements], DType::F32)?;
    let kernel = best(async |size| {
        let mut run = Run::new(gpu);
        let (from, to) = (run.bind("copy source", &source), run.bind("copy target", &target));
        for _ in 0..size.min(8) {
            copy::record(run.recording_mut(), gpu.caps(), &from, &to)?;
        }
        Ok((run.recording().dispatches().map(|d| d.bytes as f64).sum(), run.submit_and_time_async().await?))
    })
    .await?;
    let [from, to] = [source.buffer()?, target.buffer()?];
    let driver = best(async |size| {
        let (copies, bytes) = (size.min(8), 4 * elements as u64);
        let copy = |encoder: &mut wgpu::CommandEncoder| {
            for _ in 0..copies {
                encoder.copy_buffer_to_buffer(from, 0, to, 0, Some(bytes));
            }
            Ok(())
        };
        let took = gpu.time_async(copy).await?;
        Ok((f64::from(copies) * 2.0 * bytes as f64, took))
    })
    .await?;
    let last = target.narrow(0, elements - 4, 4)?.download_async(gpu).await?;
    let want = source.narrow(0, elements - 4, 4)?.download_async(gpu).await?;
    if last != want {
        return Err(Error::Gpu("a copy did not arrive".into()));
    }
    Ok(kernel.max(driver))
}

/// Nanoseconds of one more of what `record` records a number of; the least of several differences.
async fn marginal(gpu: &Gpu, number: u32, record: impl Fn(&mut Run<'_>, u32) -> Result<()>) -> Result<f64> {
    let mut least = [f64::INFINITY; 2];
    for (least, number) in least.iter_mut().zip([2 * number, number]) {
        for _ in 0..4 {
            let mut run = Run::new(gpu);
            record(&mut run, number)?;
            *least = least.min(run.submit_and_time_async().await?);
        }
    }
    Ok((least[0] - least[1]).max(0.0) / f64::from(number))
}

/// Copies of one element to one place: each waits for the one before.
async fn dispatch_cost(gpu: &Gpu) -> Result<f64> {
    let element = |name, value| Tensor::upload(gpu, name, &Array::filled(&[1], value), DType::F32);
    let (source, target) = (element("copy source", 1.0)?, element("copy target", 0.0)?);
    let cost = marginal(gpu, 256, |run, number| {
        let (from, to) = (run.bind("copy source", &source), run.bind("copy target", &target));
        let caps = run.gpu().caps();
        (0..number).try_for_each(|_| copy::record(run.recording_mut(), caps, &from, &to))
    })
    .await?;
    match target.download_async(gpu).await?.data() {
        [1.0] => Ok(cost),
        _ => Err(Error::Gpu("a copy did not arrive".into())),
    }
}

async fn barrier_cost(gpu: &Gpu) -> Result<f64> {
    let lanes = Rates::BARRIER_LANES.min(gpu.caps().max_invocations as usize);
    let output = Tensor::uninitialized(gpu, "barriers", &[lanes], DType::F32)?;
    let iterations = 2000;
    let cost = marginal(gpu, iterations, |run, iterations| {
        let view = run.bind("barriers", &output);
        let caps = run.gpu().caps();
        barrier_rate::record(run.recording_mut(), caps, iterations, &view)
    })
    .await?;
    // The run that came last had `iterations` of them.
    let got = output.download_async(gpu).await?;
    let want = |lane| barrier_rate::expected(lanes, iterations, lane);
    match got.data().iter().enumerate().find(|&(lane, &x)| f64::from(x) != want(lane)) {
        None => Ok(cost / f64::from(barrier_rate::PER_ITERATION) / lanes as f64),
        Some((lane, &x)) => {
            let what = format!("barriers, lane {lane}");
            Err(Error::Tolerance { what, error: f64::from(x) - want(lane), tolerance: 0.0 })
        }
    }
}
