//! Recurrent encoders beside a naive GPU form and the CPU reference.
//!
//! Every answer is checked against the reference before it is timed (of a large batch, some rows). GPU times are from
//! the start of the first dispatch to the end of the last, by timestamps where the device has any, else from submission
//! to completion. Below each of criterion's lines stand time a step, rate of operations, and the time over the floor:
//! the operations at the device's measured rate of multiply-adds, or weights, inputs and outputs once at its measured
//! copy rate, whichever is longer. A software driver gets fewer steps of the large cases. Environment: `REGARD_ADAPTER`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]
#![allow(missing_docs)]

use std::cell::LazyCell;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main};
use regard::device::DeviceKind;
use regard::device::Rates;
use regard::gpu::{Gpu, Run};
use regard::ops::rnn::GpuRnn;
use regard::reference;
use regard::rnn::{Cell, Reset, Rnn, RnnInputs, RnnStack, RnnWeights};
use regard::tensor::{Array, DType, Layout};

mod support;
use support::naive::Naive;
use support::{check, device_time, gpu, numbers};

/// Operations that the reference takes for a check and for its own time.
const REFERENCE_FLOPS: usize = 1 << 29;
/// Operations of a case on a software driver.
const SOFTWARE_FLOPS: usize = 1 << 32;

/// T, B, inputs and units H, layers.
const CASES: [[usize; 4]; 6] =
    [[1, 1, 256, 1], [128, 1, 256, 1], [128, 16, 256, 1], [128, 64, 256, 1], [512, 1, 128, 1], [100, 64, 512, 4]];

/// A forward stack, inputs as wide as the state.
#[derive(Clone, Copy)]
struct Work {
    cell: Cell,
    steps: usize,
    batch: usize,
    hidden: usize,
    layers: usize,
}

/// Its weights and input.
struct Data {
    work: Work,
    options: Rnn,
    stack: RnnStack<Array>,
    input: Array,
}

impl Work {
    fn data(self) -> Data {
        let Self { cell, steps, batch, hidden, layers } = self;
        let rows = cell.gates() * hidden;
        let scale = |a: Array| a.map(|x| x / (hidden as f32).sqrt());
        let weights = |seed| RnnWeights {
            bias_ih: Some(scale(numbers(&[rows], seed + 2))),
            bias_hh: Some(scale(numbers(&[rows], seed + 3))),
            ..RnnWeights::new(scale(numbers(&[rows, hidden], seed)), scale(numbers(&[rows, hidden], seed + 1)))
        };
        let stack = (0..layers).map(|l| vec![weights(10 * l as u32)]).collect();
        Data { work: self, options: Rnn::new(cell), stack, input: numbers(&[steps, batch, hidden], 99) }
    }

    /// Weights, each used once a step and row.
    fn weights(self) -> usize {
        self.layers * self.cell.gates() * self.hidden * 2 * self.hidden
    }

    /// Multiplications and additions of one step.
    fn flops_of_step(self) -> usize {
        2 * self.weights() * self.batch
    }

    /// Nanoseconds that the device cannot do without.
    fn floor(self, rates: &Rates) -> f64 {
        let bytes = 4 * (self.weights() + 2 * self.steps * self.batch * self.hidden);
        let flops = self.flops_of_step() * self.steps;
        rates.floor(flops as f64, bytes as f64, false)
    }
}

impl Data {
    /// Checks an output [T, B, H] on as many rows as the reference has time for.
    fn check(&self, what: &str, got: &Array) {
        let Work { steps, batch, .. } = self.work;
        let count = (REFERENCE_FLOPS / (2 * self.work.weights() * steps)).clamp(1, batch);
        // Evenly apart, the first and the last among them where there is time for two.
        let rows: Vec<usize> = (0..count).map(|i| i * (batch - 1) / (count - 1).max(1)).collect();
        let some = |array: &Array| {
            let width = array.shape()[2];
            let row = |t: usize, b: usize| &array.data()[(t * batch + b) * width..][..width];
            let data = (0..steps).flat_map(|t| rows.iter().flat_map(move |&b| row(t, b))).copied().collect();
            Array::new(&[steps, count, width], data).unwrap()
        };
        let want = reference::rnn(&self.options, &self.stack, &RnnInputs::new(some(&self.input))).unwrap();
        check(what, &some(got), &want.output);
    }
}

/// Runs a benchmark of something that tells how long it took, and prints what that comes to.
fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    form: &str,
    (steps, flops_of_step, floor): (usize, usize, Option<f64>),
    nanoseconds: impl FnMut() -> f64,
) {
    if let Some(median) = device_time(group, form, nanoseconds) {
        let flops = (steps * flops_of_step) as f64;
        let floor = floor.map_or(String::new(), |floor| format!(", {:.1} × floor", median / floor));
        println!("    {form}: {:.0} ns/step, {:.2} GFLOP/s{floor}\n", median / steps as f64, flops / median);
    }
}

fn recurrent(c: &mut Criterion) {
    let gpu = gpu();
    let rates = Rates::measure(&gpu).unwrap();
    println!("multiply-adds {:.1} GFLOP/s, copy {:.1} GB/s, measured here\n", rates.gflops, rates.gbps);
    for (cell_name, cell) in [("lstm", Cell::Lstm), ("gru", Cell::Gru { reset: Reset::After })] {
        for [steps, batch, hidden, layers] in CASES {
            let whole = Work { cell, steps, batch, hidden, layers };
            let most = if gpu.adapter().kind == DeviceKind::Software { SOFTWARE_FLOPS } else { usize::MAX };
            let steps = steps.min(most / whole.flops_of_step()).max(1);
            let mut group = c.benchmark_group(format!("{cell_name} T{steps} B{batch} H{hidden} layers {layers}"));
            group
                .sample_size(10)
                .sampling_mode(SamplingMode::Flat)
                .warm_up_time(Duration::from_millis(1))
                .measurement_time(Duration::from_millis(500));
            forms(&mut group, &gpu, &rates, Work { steps, ..whole });
            group.finish();
        }
    }
}

/// Nothing is made or checked before it is to be timed: criterion may leave it out.
fn forms(group: &mut BenchmarkGroup<'_, WallTime>, gpu: &Gpu, rates: &Rates, work: Work) {
    let data = LazyCell::new(|| work.data());
    let (steps, flops, floor) = (work.steps, work.flops_of_step(), work.floor(rates));

    let ours = LazyCell::new(|| {
        let rnn = GpuRnn::upload(gpu, &data.options, &data.stack, DType::F32).unwrap();
        let inputs = RnnInputs::new(data.input.clone()).upload(gpu, DType::F32).unwrap();
        data.check("regard", &rnn.run(gpu, &inputs).unwrap().output.download(gpu).unwrap());
        (rnn, inputs)
    });
    bench(group, "regard", (steps, flops, Some(floor)), || {
        let (rnn, inputs) = &*ours;
        let mut run = Run::new(gpu);
        rnn.record(&mut run, inputs).unwrap();
        run.submit_and_time().unwrap()
    });

    let time = |naive: &Naive| {
        let encode = |encoder: &mut regard::wgpu::CommandEncoder| {
            naive.encode(encoder);
            Ok(())
        };
        gpu.time(encode).unwrap()
    };
    let naive = LazyCell::new(|| {
        let naive = Naive::new(gpu, work.cell, &data.stack, &data.input);
        time(&naive);
        data.check("naive", &naive.output(gpu));
        naive
    });
    bench(group, "naive GPU form", (steps, flops, Some(floor)), || time(&naive));

    let part = (REFERENCE_FLOPS / flops).clamp(1, steps);
    let form = if part == steps { "CPU reference".to_owned() } else { format!("CPU reference, {part} steps") };
    let inputs = LazyCell::new(|| {
        let first = Layout::contiguous(data.input.shape()).narrow(0, 0, part).unwrap();
        RnnInputs::new(data.input.gather(&first).unwrap())
    });
    bench(group, &form, (part, flops, None), || {
        let inputs = &*inputs;
        let start = Instant::now();
        std::hint::black_box(reference::rnn(&data.options, &data.stack, inputs).unwrap());
        start.elapsed().as_nanos() as f64
    });
}

criterion_group!(benches, recurrent);
criterion_main!(benches);
