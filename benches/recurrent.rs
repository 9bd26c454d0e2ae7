//! Recurrent encoders beside a naive GPU form and the CPU reference.
//!
//! Every answer is checked against the reference before it is timed (of a large batch, some rows). GPU times are from
//! the start of the first dispatch to the end of the last, by timestamps where the device has any, else from submission
//! to completion. Below each of criterion's lines stand time a step, rate of operations, and the time over the floor:
//! the operations at the device's measured rate of multiply-adds, or weights, inputs and outputs once at its measured
//! copy rate, whichever is longer. A software driver gets fewer steps of the large cases. Environment: `REGARD_ADAPTER`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main};
use regard::gpu::{AdapterKind, Gpu, Run};
use regard::ops::rnn::GpuRnn;
use regard::rates::Rates;
use regard::reference;
use regard::rnn::{Cell, Reset, Rnn, RnnInputs, RnnStack, RnnWeights};
use regard::tensor::{Array, DType, Layout};

#[path = "support/naive.rs"]
mod naive;
mod support;
use naive::Naive;
use support::{check, gpu, numbers};

/// Operations that the reference takes for a check and for its own time.
const REFERENCE_FLOPS: usize = 1 << 29;
/// Operations of a case on a software driver.
const SOFTWARE_FLOPS: usize = 1 << 32;

/// T, B, inputs and units H, layers.
const CASES: [[usize; 4]; 6] =
    [[1, 1, 256, 1], [128, 1, 256, 1], [128, 16, 256, 1], [128, 64, 256, 1], [512, 1, 128, 1], [100, 64, 512, 4]];

struct Work {
    options: Rnn,
    stack: RnnStack<Array>,
    input: Array,
    layers: usize,
}

impl Work {
    fn new(options: &Rnn, [steps, batch, hidden, layers]: [usize; 4]) -> Self {
        let rows = options.cell.gates() * hidden;
        let scale = |a: Array| a.map(|x| x / (hidden as f32).sqrt());
        let weights = |seed| RnnWeights {
            bias_ih: Some(scale(numbers(&[rows], seed + 2))),
            bias_hh: Some(scale(numbers(&[rows], seed + 3))),
            ..RnnWeights::new(scale(numbers(&[rows, hidden], seed)), scale(numbers(&[rows, hidden], seed + 1)))
        };
        let stack = (0..layers).map(|l| vec![weights(10 * l as u32)]).collect();
        Self { options: options.clone(), stack, input: numbers(&[steps, batch, hidden], 99), layers }
    }

    fn steps(&self) -> usize {
        self.input.shape()[0]
    }

    /// Weights, each used once a step and row.
    fn weights(&self) -> usize {
        let hidden = self.input.shape()[2];
        self.layers * self.options.cell.gates() * hidden * 2 * hidden
    }

    /// Multiplications and additions of one step of one row.
    fn flops_of_row(&self) -> usize {
        2 * self.weights()
    }

    fn flops_of_step(&self) -> usize {
        self.flops_of_row() * self.input.shape()[1]
    }

    /// Nanoseconds that the device cannot do without.
    fn floor(&self, rates: &Rates) -> f64 {
        let bytes = 4 * (self.weights() + 2 * self.input.data().len());
        let flops = self.flops_of_step() * self.steps();
        (flops as f64 / rates.gflops).max(bytes as f64 / rates.gbps)
    }

    /// Checks an output [T, B, H] on as many rows as the reference has time for.
    fn check(&self, what: &str, got: &Array) {
        let batch = self.input.shape()[1];
        let rows = (REFERENCE_FLOPS / (self.flops_of_row() * self.steps())).clamp(1, batch);
        // The first and the last are among them where there is time for two.
        let stride = if rows == 1 { batch } else { ((batch - 1) / (rows - 1)).max(1) };
        let some = |array: &Array| {
            let mut layout = Layout::contiguous(array.shape());
            layout.shape[1] = batch.div_ceil(stride);
            layout.strides[1] *= stride;
            array.gather(&layout).unwrap()
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
    mut nanoseconds: impl FnMut() -> f64,
) {
    let mut times = Vec::new();
    group.bench_function(form, |b| {
        b.iter_custom(|iterations| {
            let times_now: Vec<f64> = (0..iterations).map(|_| nanoseconds()).collect();
            times.extend(&times_now);
            Duration::from_nanos(times_now.iter().sum::<f64>() as u64)
        });
    });
    // None when criterion's filter leaves it out.
    times.sort_by(f64::total_cmp);
    if let Some(&median) = times.get(times.len() / 2) {
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
            let options = Rnn::new(cell);
            let flops_of_step = 4 * cell.gates() * hidden * hidden * batch * layers;
            let most = if gpu.adapter().kind == AdapterKind::Software { SOFTWARE_FLOPS } else { usize::MAX };
            let steps = steps.min(most / flops_of_step).max(1);
            let mut group = c.benchmark_group(format!("{cell_name} T{steps} B{batch} H{hidden} layers {layers}"));
            group
                .sample_size(10)
                .sampling_mode(SamplingMode::Flat)
                .warm_up_time(Duration::from_millis(1))
                .measurement_time(Duration::from_millis(500));
            forms(&mut group, &gpu, &rates, &options, [steps, batch, hidden, layers]);
            group.finish();
        }
    }
}

fn forms(group: &mut BenchmarkGroup<'_, WallTime>, gpu: &Gpu, rates: &Rates, options: &Rnn, shape: [usize; 4]) {
    let work = Work::new(options, shape);
    let steps = work.steps();
    let (flops, floor) = (work.flops_of_step(), work.floor(rates));

    let inputs = RnnInputs::new(work.input.clone());
    let ours = GpuRnn::upload(gpu, options, &work.stack, DType::F32).unwrap();
    let uploaded = inputs.upload(gpu, DType::F32).unwrap();
    work.check("regard", &ours.run(gpu, &uploaded).unwrap().output.download(gpu).unwrap());
    bench(group, "regard", (steps, flops, Some(floor)), || {
        let mut run = Run::new(gpu);
        ours.record(&mut run, &uploaded).unwrap();
        run.submit_and_time().unwrap()
    });

    let naive = Naive::new(gpu, options.cell, &work.stack, &work.input);
    let time = || {
        let encode = |encoder: &mut regard::wgpu::CommandEncoder| {
            naive.encode(encoder);
            Ok(())
        };
        gpu.time(encode).unwrap()
    };
    time();
    work.check("naive", &naive.output(gpu));
    bench(group, "naive GPU form", (steps, flops, Some(floor)), time);

    let part = (REFERENCE_FLOPS / flops).clamp(1, steps);
    let inputs = RnnInputs::new(work.input.gather(&first(&work.input, part)).unwrap());
    let form = if part == steps { "CPU reference".to_owned() } else { format!("CPU reference, {part} steps") };
    bench(group, &form, (part, flops, None), || {
        let start = Instant::now();
        std::hint::black_box(reference::rnn(options, &work.stack, &inputs).unwrap());
        start.elapsed().as_nanos() as f64
    });
}

/// The first entries of axis 0.
fn first(array: &Array, entries: usize) -> Layout {
    Layout::contiguous(array.shape()).narrow(0, 0, entries).unwrap()
}

criterion_group!(benches, recurrent);
criterion_main!(benches);
