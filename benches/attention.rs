//! Attention on each path that the device can take, beside a naive GPU form.
//!
//! Every answer is checked against the reference before it is timed (of a large problem, some rows). Times are from the
//! start of the first dispatch to the end of the last, by timestamps where the device has any, else from submission to
//! completion. Throughput is in operations: a multiplication and an addition for each pair of a query and a key that it
//! sees. Below each of criterion's lines stand GFLOP/s and the time over the floor: the operations at the device's
//! measured rate of multiply-adds, or each input and output once at its measured copy rate, whichever is longer.
//!
//! The cases are the small ones of `regard bench --quick` and one of 1,024 tokens, which a software driver can do;
//! `REGARD_BENCH=full` takes all those of `regard bench --suite attention`. Environment: `REGARD_ADAPTER`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]
#![allow(missing_docs)]

use std::cell::LazyCell;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use regard::attention::Algorithm;
use regard::device::Rates;
use regard::gpu::{Gpu, Run};
use regard::tensor::DType;
use regard::workload::{self, Workload, naive::Naive};

mod support;
use support::{device_time, gpu};

/// How far off the naive form may be: a driver's own `exp` and `tanh` are no better on some.
const NAIVE_ERROR: [f64; 2] = [1e-4, 1e-2];

const PATHS: [(&str, Algorithm); 4] = [
    ("auto", Algorithm::Auto),
    ("fused", Algorithm::Fused),
    ("split", Algorithm::Split),
    ("staged", Algorithm::Staged),
];

fn cases() -> Vec<Workload> {
    if std::env::var("REGARD_BENCH").is_ok_and(|value| value == "full") {
        return workload::all(false);
    }
    let mut cases = workload::all(true);
    cases.extend(workload::all(false).into_iter().find(|work| work.name() == "prefill B1 H8 N1024 D64 f32"));
    cases
}

fn attention(c: &mut Criterion) {
    let gpu = gpu();
    let rates = Rates::measure(&gpu).unwrap();
    println!("multiply-adds {:.1} GFLOP/s, copy {:.1} GB/s, measured here\n", rates.gflops, rates.gbps);
    for work in cases().into_iter().filter(|work| gpu.caps().f16 || work.dtype != DType::F16) {
        let mut group = c.benchmark_group(work.name());
        group
            .sample_size(10)
            .sampling_mode(SamplingMode::Flat)
            .warm_up_time(Duration::from_millis(1))
            .measurement_time(Duration::from_millis(500))
            .throughput(Throughput::Elements(work.work().0 as u64));
        forms(&mut group, &gpu, &rates, &work);
        group.finish();
    }
}

/// Nothing is made or checked before it is to be timed: criterion may leave it out.
fn forms(group: &mut BenchmarkGroup<'_, WallTime>, gpu: &Gpu, rates: &Rates, work: &Workload) {
    if let Err(reason) = work.check_limits(gpu.caps()) {
        println!("{}: not run: {reason}", work.name());
        return;
    }
    let data = LazyCell::new(|| {
        let inputs = work.inputs();
        let truth = work.truth(&inputs).unwrap();
        (inputs.upload(gpu, work.dtype).unwrap(), truth)
    });
    let (flops, bytes) = work.work();
    let floor = rates.floor(flops, bytes, false);
    let report = |form: &str, median: Option<f64>| {
        if let Some(median) = median {
            println!("    {form}: {:.2} GFLOP/s, {:.1} × floor\n", flops / median, median / floor);
        }
    };
    for (form, path) in PATHS {
        match work.plan(path, gpu) {
            Err(reason) => {
                println!("{} {form}: not run: {reason}", work.name());
                continue;
            }
            // A row must be what it is called.
            Ok(plan) if path != Algorithm::Auto && plan.path != path => continue,
            Ok(_) => {}
        }
        let ready = LazyCell::new(|| {
            let (inputs, truth) = &*data;
            let mut run = Run::new(gpu);
            let output = work.options(path).record(&mut run, inputs).unwrap().output;
            run.clone().submit().unwrap();
            truth.judge(&output.download(gpu).unwrap()).unwrap().check(work.name()).unwrap();
            run
        });
        report(form, device_time(group, form, || ready.clone().submit_and_time().unwrap()));
    }
    let time = |naive: &Naive| {
        let encode = |encoder: &mut regard::wgpu::CommandEncoder| {
            naive.encode(encoder);
            Ok(())
        };
        gpu.time(encode).unwrap()
    };
    let naive = LazyCell::new(|| {
        let (inputs, truth) = &*data;
        let naive = Naive::new(gpu, work, inputs).unwrap();
        time(&naive);
        let error = truth.judge(&naive.output().download(gpu).unwrap()).unwrap().error;
        assert!(error < NAIVE_ERROR[usize::from(work.dtype == DType::F16)], "naive: off by {error}");
        naive
    });
    if let Err(reason) = Naive::check(work, gpu.caps()) {
        println!("{} naive: not run: {reason}", work.name());
        return;
    }
    report("naive", device_time(group, "naive", || time(&naive)));
}

criterion_group!(benches, attention);
criterion_main!(benches);
