//! Each kernel alone, on the device at hand. Every answer is checked against the reference before it is timed.
//!
//! Times are from submission to completion; `regard bench` reports device time by timestamps. Environment:
//! `REGARD_ADAPTER`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use regard::attention::{Attention, AttentionInputs, ScoreStage, ScoreWeights};
use regard::gpu::{Gpu, Run};
use regard::kernels::visibility::Visibility;
use regard::kernels::{copy, gather, merge, score, softmax, weighted_sum};
use regard::problem::AttentionProblem;
use regard::recording::View;
use regard::rnn::Merge;
use regard::tensor::{Array, DType};
use regard::{Tensor, reference};

mod support;
use support::{check, gpu, numbers};

const BATCH: usize = 8;
const QUERIES: usize = 256;
const KEYS: usize = 256;
const DIM: usize = 64;

fn upload(gpu: &Gpu, array: &Array<f32>) -> Tensor {
    Tensor::upload(gpu, "bench", array, DType::F32).unwrap()
}

/// Runs `record` over these inputs and an output of this shape: checks the output once, then times.
fn kernel(
    c: &mut Criterion,
    gpu: &Gpu,
    name: &str,
    inputs: &[&Tensor],
    want: &Array<f32>,
    record: impl Fn(&mut Run<'_>, &[View], &View),
) {
    let output = Tensor::uninitialized(gpu, "output", want.shape(), DType::F32).unwrap();
    let build = || {
        let mut run = Run::new(gpu);
        let views: Vec<View> = inputs.iter().map(|tensor| run.bind("input", tensor)).collect();
        let to = run.bind("output", &output);
        record(&mut run, &views, &to);
        run
    };
    check(name, &build().submit_and_read(&[&output]).unwrap()[0], want);
    let bytes = build().recording().dispatches().map(|d| d.bytes).sum();
    let mut group = c.benchmark_group("kernel");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    group.bench_function(name, |b| {
        b.iter(|| {
            build().submit().unwrap();
            gpu.wait().unwrap();
        });
    });
}

fn kernels(c: &mut Criterion) {
    let gpu = gpu();
    let caps = gpu.caps();
    let q = numbers(&[1, BATCH, QUERIES, DIM], 1);
    let k = numbers(&[1, BATCH, KEYS, DIM], 2);
    let v = numbers(&[1, BATCH, KEYS, DIM], 3);
    let (gq, gk, gv) = (upload(&gpu, &q), upload(&gpu, &k), upload(&gpu, &v));
    let options = Attention { weights: true, scores: Some(ScoreStage::Masked), ..Attention::default() };
    let inputs = AttentionInputs::new(q, k, v);
    let problem = AttentionProblem::new(&options, &inputs.map(Array::shape)).unwrap();
    let want = reference::attention(&options, &inputs).unwrap();
    let (scores, weights) = (want.scores.unwrap(), want.weights.unwrap());
    let (gpu_scores, gpu_weights) = (upload(&gpu, &scores), upload(&gpu, &weights));

    let visibility = Visibility::full(QUERIES, KEYS);
    kernel(c, &gpu, "score", &[&gq, &gk], &scores, |run, inputs, output| {
        let weights = ScoreWeights::default();
        let scored = score::Scored { query: &inputs[0], key: &inputs[1], weights: &weights, visibility: &visibility };
        let (stage, hidden) = (ScoreStage::Masked, score::HIDDEN);
        score::record(run.recording_mut(), caps, &options, &problem, scored, 0, stage, hidden, output).unwrap();
    });
    // The kernel works in place, so its scores are put there first.
    kernel(c, &gpu, "copy + softmax", &[&gpu_scores], &weights, |run, inputs, output| {
        copy::record(run.recording_mut(), caps, &inputs[0], output).unwrap();
        softmax::record(run.recording_mut(), caps, &options, QUERIES, 0, output, None, None).unwrap();
    });
    kernel(c, &gpu, "weighted sum", &[&gpu_weights, &gv], &want.output, |run, inputs, output| {
        weighted_sum::record(run.recording_mut(), caps, &visibility, 0, &inputs[0], &inputs[1], output).unwrap();
    });

    let table = numbers(&[1000, 256], 4);
    let ids = Array::from_fn(&[2048], |i| (i as u32 * 37) % 1000);
    let rows = reference::embed(&table, ids.data()).unwrap();
    let (gpu_table, gpu_ids) = (upload(&gpu, &table), Tensor::upload_u32(&gpu, "ids", &ids).unwrap());
    kernel(c, &gpu, "gather", &[&gpu_table, &gpu_ids], &rows, |run, inputs, output| {
        gather::record(run.recording_mut(), caps, &inputs[0], &inputs[1], output).unwrap();
    });

    let both = numbers(&[128, 16, 2, 128], 5);
    let mean = Array::from_fn(&[128, 16, 128], |i| {
        let at = i / 128 * 256 + i % 128;
        0.5 * (both.data()[at] + both.data()[at + 128])
    });
    kernel(c, &gpu, "merge", &[&upload(&gpu, &both)], &mean, |run, inputs, output| {
        merge::record(run.recording_mut(), caps, Merge::Average, &inputs[0], output).unwrap();
    });
    let turned = both.permute(&[0, 2, 1, 3]).unwrap();
    let view = upload(&gpu, &both).permute(&[0, 2, 1, 3]).unwrap();
    kernel(c, &gpu, "strided copy", &[&view], &turned, |run, inputs, output| {
        copy::record(run.recording_mut(), caps, &inputs[0], output).unwrap();
    });
}

criterion_group!(benches, kernels);
criterion_main!(benches);
