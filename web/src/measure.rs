//! How fast this device is: cases of `regard bench`, in the form that it writes, beside ceilings measured on the spot.

use regard::attention::Algorithm;
use regard::backend::{Backend, DeviceRun, DeviceTensor, Epilogue};
use regard::compare::judge;
use regard::device::Rates;
use regard::rnn::{Cell, Reset, Rnn, RnnInputs, RnnWeights};
use regard::tensor::{Array, DType};
use regard::workload::{self, Workload};
use regard::{Device, Error, Result, reference};
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

use crate::engine::Engine;
use crate::{Progress, thrown};

/// Times a case is run, after one that is not counted.
const RUNS: usize = 5;

/// What is timed.
enum Case {
    Attention(Workload),
    /// T, B, H.
    Recurrent(Cell, [usize; 3]),
    /// M, N, K.
    Linear([usize; 3]),
}

/// Operations, bytes and the answer's error over its tolerance.
struct Measured {
    nanoseconds: Vec<f64>,
    dispatches: usize,
    work: (f64, f64),
    error_ratio: f64,
    steps: Option<usize>,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases: Vec<Self> = workload::all(true).into_iter().map(Self::Attention).collect();
        for cell in [Cell::Lstm, Cell::Gru { reset: Reset::After }] {
            cases.extend([[32, 1, 128], [32, 16, 128]].map(|shape| Self::Recurrent(cell, shape)));
        }
        cases.extend([[1, 1024, 1024], [256, 512, 512]].map(Self::Linear));
        cases
    }

    fn name(&self) -> String {
        match self {
            Self::Attention(work) => work.name(),
            Self::Recurrent(cell, [t, b, h]) => {
                let cell = if matches!(cell, Cell::Lstm) { "LSTM" } else { "GRU" };
                format!("{cell} T {t} B {b} H {h}")
            }
            Self::Linear([m, n, k]) => format!("linear M {m} N {n} K {k}"),
        }
    }

    /// What a plot has in one line, and where on it this case is.
    fn place(&self) -> (Option<String>, Option<usize>) {
        match self {
            Self::Attention(work) => (Some(work.series()), Some(work.keys)),
            _ => (None, None),
        }
    }

    async fn run(&self, device: &Device) -> Result<Measured> {
        match self {
            Self::Attention(work) => attention(device, work).await,
            Self::Recurrent(cell, shape) => recurrent(device, *cell, *shape).await,
            Self::Linear(shape) => linear(device, *shape).await,
        }
    }
}

/// Records and runs work several times: the first answer, how long each took, and how many dispatches it is.
async fn time(
    device: &Device,
    mut work: impl FnMut(&mut DeviceRun<'_>) -> Result<DeviceTensor>,
) -> Result<(Array, Vec<f64>, usize)> {
    let mut run = device.run();
    let first = work(&mut run)?;
    let answer = run.read(&[&first]).await?.pop().ok_or_else(|| Error::missing("answer", "what was read back"))?;
    let (mut times, mut dispatches) = (Vec::with_capacity(RUNS), 0);
    for _ in 0..RUNS {
        let mut run = device.run();
        let start = js_sys::Date::now();
        let mut count = 0;
        // What is too short for the clock is done again until it is not.
        loop {
            let kept = work(&mut run)?;
            count += 1;
            match &mut run {
                DeviceRun::Gpu(run) => {
                    dispatches = run.recording().dispatches().count();
                    times.push(run.take().submit_and_time_async().await?);
                    drop(kept);
                    break;
                }
                DeviceRun::Cpu(_) => {
                    let took = js_sys::Date::now() - start;
                    if took >= 20.0 {
                        times.push(1e6 * took / f64::from(count));
                        break;
                    }
                }
            }
        }
    }
    Ok((answer, times, dispatches))
}

/// The same in f64, for the oracle.
fn wide(array: &Array) -> Array<f64> {
    array.map(|&x| f64::from(x))
}

async fn attention(device: &Device, work: &Workload) -> Result<Measured> {
    let inputs = work.inputs();
    let truth = work.truth(&inputs)?;
    let options = work.options(Algorithm::Auto);
    let own = device.run().inputs(&inputs, work.dtype)?;
    let (answer, nanoseconds, dispatches) =
        time(device, |run| run.attention(&options, &own).map(|outputs| outputs.output)).await?;
    let error_ratio = truth.judge(&answer)?.ratio();
    Ok(Measured { nanoseconds, dispatches, work: work.work(), error_ratio, steps: None })
}

async fn recurrent(device: &Device, cell: Cell, [steps, batch, hidden]: [usize; 3]) -> Result<Measured> {
    let rows = cell.gates() * hidden;
    let size = 1.0 / (hidden as f32).sqrt();
    let numbers = |shape: &[usize], seed| workload::numbers(shape, seed, size);
    let weights = RnnWeights {
        bias_ih: Some(numbers(&[rows], 3)),
        bias_hh: Some(numbers(&[rows], 4)),
        ..RnnWeights::new(numbers(&[rows, hidden], 1), numbers(&[rows, hidden], 2))
    };
    let (options, stack) = (Rnn::new(cell), vec![vec![weights]]);
    let input = workload::numbers(&[steps, batch, hidden], 99, 1.0);
    let mut run = device.run();
    let network = run.recurrence(&options, &stack)?;
    let inputs = RnnInputs::new(run.constant("input", &input)?);
    let (answer, nanoseconds, dispatches) =
        time(device, |run| run.rnn(&network, &inputs).map(|outputs| outputs.output)).await?;
    let exact: Vec<Vec<_>> = stack.iter().map(|layer| layer.iter().map(|w| w.map(wide)).collect()).collect();
    let oracle = reference::rnn(&options, &exact, &RnnInputs::new(wide(&input)))?.output;
    let baseline = reference::rnn(&options, &stack, &RnnInputs::new(input.clone()))?.output;
    let error_ratio = judge("output", &answer, &oracle, &baseline, DType::F32)?.ratio();
    let flops = 4.0 * (steps * batch * rows * hidden) as f64;
    let bytes = 4.0 * (2 * rows * hidden + 2 * steps * batch * hidden) as f64;
    Ok(Measured { nanoseconds, dispatches, work: (flops, bytes), error_ratio, steps: Some(steps) })
}

async fn linear(device: &Device, [m, n, k]: [usize; 3]) -> Result<Measured> {
    let (x, weight) = (workload::numbers(&[m, k], 1, 1.0), workload::numbers(&[n, k], 2, 1.0 / (k as f32).sqrt()));
    let mut run = device.run();
    let (own_x, own_weight) = (run.constant("x", &x)?, run.constant("weight", &weight)?);
    let (answer, nanoseconds, dispatches) =
        time(device, |run| run.linear(&[(&own_x, &own_weight)], Epilogue::default())).await?;
    let oracle = reference::linear(&wide(&x), &wide(&weight), None, None)?;
    let baseline = reference::linear(&x, &weight, None, None)?;
    let error_ratio = judge("y", &answer, &oracle, &baseline, DType::F32)?.ratio();
    let work = (2.0 * (m * n * k) as f64, 4.0 * (m * k + n * k + m * n) as f64);
    Ok(Measured { nanoseconds, dispatches, work, error_ratio, steps: None })
}

#[wasm_bindgen]
impl Engine {
    /// A report in the form of `regard bench --json`. `progress` is called with the number of cases done and of all, and ends it
    /// with `false`; `row` with each row as JSON, as soon as it is there.
    pub async fn measure(&self, progress: js_sys::Function, row: js_sys::Function) -> Result<String, JsError> {
        let mut progress = Progress::new(progress);
        let cases = Case::all();
        progress.goes_on(0, cases.len()).await;
        let (gflops, gbps, timestamps, device) = match &self.device {
            Device::Gpu(gpu) => {
                let rates = Rates::measure_async(gpu).await.map_err(thrown)?;
                let adapter = gpu.adapter();
                let device = json!({
                    "kind": "gpu", "adapter": adapter.name, "driver": adapter.driver, "backend": adapter.backend,
                    "type": adapter.kind.to_string(),
                });
                (rates.gflops, rates.gbps, gpu.caps().timestamps, device)
            }
            Device::Cpu(cpu) => {
                let rates = cpu.rates();
                let device = json!({
                    "kind": "cpu", "adapter": cpu.to_string(), "driver": "", "backend": "WebAssembly", "type": "cpu",
                });
                (rates.gflops, rates.gbps, false, device)
            }
        };
        let (mut rows, mut not_run, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        for (done, case) in cases.iter().enumerate() {
            if !progress.goes_on(done, cases.len()).await {
                break;
            }
            let name = case.name();
            match case.run(&self.device).await {
                Err(error @ Error::DeviceLost(_)) => return Err(thrown(error)),
                Err(error) => not_run.push(format!("{name}: {error}")),
                Ok(measured) if measured.error_ratio > 1.0 => wrong.push(name),
                Ok(measured) => {
                    let found = as_row(case, &name, measured, gflops, gbps);
                    let _ = row.call1(&JsValue::UNDEFINED, &found.to_string().into());
                    rows.push(found);
                }
            }
        }
        progress.goes_on(cases.len(), cases.len()).await;
        let date: String = js_sys::Date::new_0().to_iso_string().into();
        let report = json!({
            "regard": env!("CARGO_PKG_VERSION"),
            "commit": null,
            "date": date.get(..10),
            "command": "web",
            "device": device,
            "timestamps": timestamps,
            "fma_gflops": gflops,
            "copy_gbps": gbps,
            "cooperative_gflops": null,
            "planner": [],
            "wrong": wrong,
            "not_run": not_run,
            "cases": rows,
            "launch": [],
        });
        Ok(report.to_string())
    }
}

fn as_row(case: &Case, name: &str, measured: Measured, gflops: f64, gbps: f64) -> Value {
    let Measured { mut nanoseconds, dispatches, work: (flops, bytes), error_ratio, steps } = measured;
    nanoseconds.sort_by(f64::total_cmp);
    let (median, minimum) = (nanoseconds[nanoseconds.len() / 2], nanoseconds[0]);
    let floor = (flops / gflops).max(bytes / gbps);
    let (series, length) = case.place();
    json!({
        "name": format!("{name} auto"),
        "work": name,
        "way": "auto",
        "series": series,
        "length": length,
        "shape": null,
        "path": "auto",
        "plan": null,
        "median_ns": median,
        "minimum_ns": minimum,
        "compile_ns": null,
        "planned_ns": null,
        "ns_per_step": steps.map(|steps| median / steps as f64),
        "runs": nanoseconds.len(),
        "dispatches": dispatches,
        "flops": flops,
        "bytes": bytes,
        "gflops": flops / median,
        "gbps": bytes / median,
        "floor_ns": floor,
        "times_floor": median / floor,
        "error_ratio": error_ratio,
    })
}
