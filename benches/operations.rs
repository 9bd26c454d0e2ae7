//! Whole operations and the whole encode–attend–decode step, on the device at hand beside the CPU reference.
//!
//! Every answer is checked against the reference before anything is timed. Times are from submission to completion;
//! `regard bench` reports device time by timestamps; recurrences are in `recurrent.rs`. Environment: `REGARD_ADAPTER`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use regard::attention::{Attention, AttentionInputs, Normalize, Score};
use regard::gpu::{Run, Tensor};
use regard::ops::linear::{Epilogue, linear};
use regard::reference;
use regard::seq2seq::{CpuNetwork, Decoding, GpuNetwork, Model, Network, SourceText, transliterate};
use regard::tensor::DType;

mod support;
use support::{check, gpu, numbers};

fn attention(c: &mut Criterion) {
    let gpu = gpu();
    let mut group = c.benchmark_group("attention");
    group.sample_size(10);
    let shape = [1, 8, 256, 64];
    let inputs = AttentionInputs::new(numbers(&shape, 1), numbers(&shape, 2), numbers(&shape, 3));
    let on_gpu = inputs.upload(&gpu, DType::F32).unwrap();
    for (name, options) in [
        ("scaled dot", Attention::default()),
        ("additive", Attention { score: Score::Additive, ..Attention::default() }),
        ("sparsemax", Attention { normalize: Normalize::Sparsemax, ..Attention::default() }),
    ] {
        let want = reference::attention(&options, &inputs).unwrap();
        let got = options.run(&gpu, &on_gpu).unwrap().download(&gpu).unwrap();
        check(name, &got.output, &want.output);
        group.throughput(Throughput::Elements(8 * 256 * 256));
        group.bench_function(BenchmarkId::new(name, "gpu"), |b| {
            b.iter(|| {
                black_box(options.run(&gpu, &on_gpu).unwrap());
                gpu.wait().unwrap();
            });
        });
        group.bench_function(BenchmarkId::new(name, "cpu reference"), |b| {
            b.iter(|| black_box(reference::attention(&options, &inputs).unwrap()));
        });
    }
}

fn projection(c: &mut Criterion) {
    let gpu = gpu();
    let mut group = c.benchmark_group("project");
    group.sample_size(10);
    for rows in [1, 64, 1024] {
        let (x, w) = (numbers(&[rows, 256], 1), numbers(&[768, 256], 2));
        let (gx, gw) =
            (Tensor::upload(&gpu, "x", &x, DType::F32).unwrap(), Tensor::upload(&gpu, "w", &w, DType::F32).unwrap());
        let run = || {
            let mut run = Run::new(&gpu);
            let y = linear(&mut run, &[(&gx, &gw)], &Epilogue::default()).unwrap();
            run.submit().unwrap();
            y
        };
        check("project", &run().download(&gpu).unwrap(), &reference::linear(&x, &w, None, None).unwrap());
        group.throughput(Throughput::Elements((rows * 256 * 768) as u64));
        group.bench_function(BenchmarkId::new(format!("{rows}×256×768"), "gpu"), |b| {
            b.iter(|| {
                black_box(run());
                gpu.wait().unwrap();
            });
        });
        group.bench_function(BenchmarkId::new(format!("{rows}×256×768"), "cpu reference"), |b| {
            b.iter(|| black_box(reference::linear(&x, &w, None, None).unwrap()));
        });
    }
}

fn names(c: &mut Criterion) {
    let gpu = gpu();
    let mut group = c.benchmark_group("encode-attend-decode");
    group.sample_size(10);
    let model = Model::built_in("arabic-names").unwrap();
    let names = ["محمد", "عبد الرحمن", "القحطاني", "فاطمة", "يوسف", "خديجة", "مصطفى", "زينب"];
    let texts: Vec<SourceText> = names.iter().map(|&name| SourceText::from(name)).collect();
    let outputs = |network: &mut dyn Network| -> Vec<String> {
        let found = transliterate(&model, network, &texts, &Decoding::default()).unwrap();
        found.into_iter().map(|t| t.output).collect()
    };
    let mut on_gpu = GpuNetwork::new(&model, &gpu).unwrap();
    let mut on_cpu = CpuNetwork::new(&model).unwrap();
    assert_eq!(outputs(&mut on_gpu), outputs(&mut on_cpu));
    group.throughput(Throughput::Elements(names.len() as u64));
    group.bench_function("8 names, gpu", |b| b.iter(|| black_box(outputs(&mut on_gpu))));
    group.bench_function("8 names, cpu reference", |b| b.iter(|| black_box(outputs(&mut on_cpu))));
}

criterion_group!(operations, attention, projection, names);
criterion_main!(operations);
