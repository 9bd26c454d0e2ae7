//! Whole operations and the whole encode–attend–decode step, on the device at hand beside the CPU reference.
//!
//! Every answer is checked against the reference before anything is timed. Times are from submission to completion;
//! `regard bench` reports device time by timestamps; recurrences are in `recurrent.rs`. Environment: `REGARD_ADAPTER`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use regard::attention::{Attention, AttentionInputs, Normalize, Score};
use regard::backend::Reference;
use regard::device::Rates;
use regard::gpu::{Run, Tensor};
use regard::ops::linear::{Epilogue, linear};
use regard::reference;
use regard::seq2seq::{Decoding, Model, Network, SourceText, transliterate};
use regard::tensor::{Array, DType};

mod support;
use support::{check, device_time, gpu, numbers};

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

/// Device time of linear layers, of X·W before a recurrence (weights the other way round), and of deep products with few
/// outputs, with the rate beside what the device's multiply-adds reach in registers.
fn products(c: &mut Criterion) {
    let gpu = gpu();
    let ceiling = Rates::measure(&gpu).unwrap().gflops;
    println!("multiply-adds in registers: {ceiling:.1} GFLOP/s");
    let mut group = c.benchmark_group("product");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let layers = [1, 8, 39, 128, 512].into_iter().flat_map(|rows| {
        let sizes = [[384, 384], [384, 1536], [1536, 384], [64, 512], [512, 64]];
        sizes.map(|[depth, columns]| ("linear", [rows, depth, columns]))
    });
    let sequences = [[64, 256, 1024], [1024, 256, 1024]].map(|size| ("X·W", size));
    let deep = [[4, 16_384, 16], [39, 384, 30_000]].map(|size| ("linear", size));
    for (what, [rows, depth, columns]) in layers.chain(sequences).chain(deep) {
        let name = format!("{what} {rows}×{depth}×{columns}");
        let (x, w) = (numbers(&[rows, depth], 1), numbers(&[columns, depth], 2));
        let gx = Tensor::upload(&gpu, "x", &x, DType::F32).unwrap();
        let gw = match what {
            "X·W" => {
                let turned = w.permute(&[1, 0]).unwrap();
                Tensor::upload(&gpu, "w", &turned, DType::F32).unwrap().permute(&[1, 0]).unwrap()
            }
            _ => Tensor::upload(&gpu, "w", &w, DType::F32).unwrap(),
        };
        let timed = || {
            let mut run = Run::new(&gpu);
            let y = linear(&mut run, &[(&gx, &gw)], &Epilogue::default()).unwrap();
            (run.submit_and_time().unwrap(), y)
        };
        let want: Array<f32> = reference::linear(&x.cast::<f64>(), &w.cast(), None, None).unwrap().cast();
        check(&name, &timed().1.download(&gpu).unwrap(), &want);
        let macs = (rows * depth * columns) as f64;
        group.throughput(Throughput::Elements(macs as u64));
        if let Some(nanoseconds) = device_time(&mut group, &name, || timed().0) {
            let rate = 2.0 * macs / nanoseconds;
            let share = 100.0 * rate / ceiling;
            println!("{name}: {:.1} µs, {rate:.2} GFLOP/s, {share:.0} % of the multiply-adds", nanoseconds / 1e3);
        }
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
    let mut on_gpu = model.network(Run::new(&gpu)).unwrap();
    let mut on_cpu = model.network(Reference::<f32>::default()).unwrap();
    assert_eq!(outputs(&mut on_gpu), outputs(&mut on_cpu));
    group.throughput(Throughput::Elements(names.len() as u64));
    group.bench_function("8 names, gpu", |b| b.iter(|| black_box(outputs(&mut on_gpu))));
    group.bench_function("8 names, cpu reference", |b| b.iter(|| black_box(outputs(&mut on_cpu))));
}

criterion_group!(operations, attention, products, names);
criterion_main!(operations);
