//! Each kernel alone, on the device at hand: its dispatches in an operation that runs it, timed one by one. Every answer is
//! checked against the reference before it is timed.
//!
//! Times are by timestamps; without them a row is the whole operation, from submission to completion. Environment:
//! `REGARD_ADAPTER`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]
#![allow(missing_docs)]

use std::collections::BTreeSet;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use regard::attention::{
    Algorithm, Attention, AttentionInputs, AttentionOutputs, Mask, Monotonic, Normalize, Rotary, Score, ScoreWeights,
};
use regard::baseline::{Verdicts, judge_attention, judge_rnn};
use regard::gpu::{Gpu, Run};
use regard::kernels::{barrier_rate, coop_rate, coverage, fma_rate};
use regard::layers::CoverageCost;
use regard::ops::cache::append;
use regard::ops::linear::{Epilogue, contiguous, embed, linear};
use regard::ops::merge::merge;
use regard::ops::rnn::GpuRnn;
use regard::ops::rotary::rotary;
use regard::plan::{AttentionPlan, Form};
use regard::problem::AttentionProblem;
use regard::rnn::{Cell, Direction, LayerNorm, Merge, NormOver, Rnn, RnnAlgorithm, RnnInputs, RnnOutputs, RnnWeights};
use regard::tensor::{Array, DType};
use regard::{Tensor, reference};

mod support;
use support::{check, device_time, gpu, numbers};

/// Kernels that only some devices have a use for.
const OF_SOME: [&str; 4] = ["flash", "flash_coop", "flash_rows", "coop_rate"];

/// Operations that have been recorded and checked.
struct Works<'g> {
    gpu: &'g Gpu,
    ready: Vec<(String, Run<'g>)>,
}

impl<'g> Works<'g> {
    fn upload(&self, array: &Array) -> Tensor {
        Tensor::upload(self.gpu, "bench", array, DType::F32).unwrap()
    }

    fn integers(&self, array: &Array<u32>) -> Tensor {
        Tensor::upload_u32(self.gpu, "bench", array).unwrap()
    }

    /// Records an operation, and checks the tensor that it gives.
    fn add(&mut self, name: &str, want: &Array, record: impl FnOnce(&mut Run<'g>) -> Tensor) {
        let mut run = Run::new(self.gpu);
        let output = record(&mut run);
        check(name, &run.clone().submit_and_read(&[&output]).unwrap()[0], want);
        self.ready.push((name.to_owned(), run));
    }

    /// As planned, or on each fused form that the device can run.
    fn attention(&mut self, name: &str, options: &Attention, inputs: &AttentionInputs<Array>, dtype: DType) {
        let problem = AttentionProblem::new(options, &inputs.map(Array::shape, Array::shape)).unwrap();
        let caps = self.gpu.caps();
        let planned = AttentionPlan::new(options, &problem, dtype, caps).unwrap();
        let mut plans = vec![planned.clone()];
        if options.path == Algorithm::Auto {
            let mut forms: Vec<Form> = planned.fused.iter().map(|plan| plan.tile.form).collect();
            for plan in AttentionPlan::candidates(options, &problem, dtype, caps).unwrap_or_default() {
                if !forms.contains(&plan.tile.form) {
                    forms.push(plan.tile.form);
                    plans.push(planned.clone().with_fused(plan));
                }
            }
        }
        let tensors = inputs.upload(self.gpu, dtype).unwrap();
        for plan in plans {
            let mut run = Run::new(self.gpu);
            let outputs = options.record_planned(&mut run, &tensors, &plan).unwrap();
            let read: Vec<&Tensor> = outputs.named().map(|(_, tensor)| tensor).collect();
            let mut read = run.clone().submit_and_read(&read).unwrap().into_iter();
            let got: AttentionOutputs<Array> = outputs.try_map(|_, _| read.next().ok_or(())).unwrap();
            passed(name, &judge_attention(options, inputs, &got, dtype).unwrap());
            self.ready.push((format!("{name}, {dtype}"), run));
        }
    }

    fn recurrence(&mut self, name: &str, options: &Rnn) {
        let [steps, batch, width, hidden] = [32, 8, 64, 64];
        let weights = |seed| {
            let rows = options.cell.gates() * hidden;
            let small = |columns, seed| numbers(&[rows, columns], seed).map(|x| x / 8.0);
            RnnWeights::new(small(width, seed), small(hidden, seed + 1))
        };
        let stack = vec![(0..options.direction.count()).map(|d| weights(10 * d as u32)).collect::<Vec<_>>()];
        let inputs = RnnInputs::new(numbers(&[steps, batch, width], 5));
        let network = GpuRnn::upload(self.gpu, options, &stack, DType::F32).unwrap();
        let mut run = Run::new(self.gpu);
        let outputs = network.record(&mut run, &inputs.upload(self.gpu, DType::F32).unwrap()).unwrap();
        let tensors = [Some(&outputs.output), Some(&outputs.final_h), outputs.final_c.as_ref()];
        let read = run.clone().submit_and_read(&tensors.into_iter().flatten().collect::<Vec<_>>()).unwrap();
        let got = RnnOutputs { output: read[0].clone(), final_h: read[1].clone(), final_c: read.get(2).cloned() };
        passed(name, &judge_rnn(options, &stack, &inputs, &got, DType::F32).unwrap());
        self.ready.push((name.to_owned(), run));
    }

    /// A measurement of the device, whose answer is known.
    fn rate(
        &mut self,
        name: &str,
        elements: usize,
        want: impl Fn(usize) -> f64,
        record: impl FnOnce(&mut Run<'g>) -> Tensor,
    ) {
        self.add(name, &Array::from_fn(&[elements], |k| want(k) as f32), record);
    }
}

fn passed(name: &str, verdicts: &Verdicts) {
    verdicts
        .iter()
        .for_each(|(output, verdict)| assert!(verdict.passed(), "{name}: {output} is off by {}", verdict.error));
}

fn attentions(works: &mut Works<'_>) {
    let prompt = [1, 8, 256, 64];
    let mut inputs = AttentionInputs::new(numbers(&prompt, 1), numbers(&prompt, 2), numbers(&prompt, 3));
    let staged = Attention { path: Algorithm::Staged, entropy: true, ..Attention::default() };
    works.attention("prompt, staged", &staged, &inputs, DType::F32);
    let monotonic = Attention { normalize: Normalize::Monotonic(Monotonic::Parallel), ..Attention::default() };
    works.attention("prompt, monotonic", &monotonic, &inputs, DType::F32);
    inputs.mask = Some(Mask::Float(numbers(&[256, 256], 4)));
    works.attention("prompt with a mask", &Attention::default(), &inputs, DType::F32);
    if works.gpu.caps().cooperative.is_some() {
        works.attention("prompt with a mask", &Attention::default(), &inputs, DType::F16);
    }
    let cache = [1, 8, 4096, 64];
    let step = AttentionInputs::new(numbers(&[1, 8, 1, 64], 1), numbers(&cache, 2), numbers(&cache, 3));
    works.attention(
        "step over a cache",
        &Attention { path: Algorithm::Split, ..Attention::default() },
        &step,
        DType::F32,
    );
    let (queries, keys) = (4, 256);
    let location = AttentionInputs {
        previous: Some(Array::filled(&[1, 8, queries, keys], 1.0 / keys as f32)),
        score: ScoreWeights {
            query_weight: Some(numbers(&[32, 64], 5)),
            key_weight: Some(numbers(&[32, 64], 6)),
            v: Some(numbers(&[32], 7)),
            location_filter: Some(numbers(&[8, 31], 8)),
            location_weight: Some(numbers(&[32, 8], 9)),
            ..ScoreWeights::default()
        },
        ..AttentionInputs::new(numbers(&[1, 8, queries, 64], 1), numbers(&prompt, 2), numbers(&prompt, 3))
    };
    works.attention("location", &Attention { score: Score::Location, ..Attention::default() }, &location, DType::F32);
}

fn recurrences(works: &mut Works<'_>) {
    let lstm = |path| Rnn { path, ..Rnn::new(Cell::Lstm) };
    works.recurrence("LSTM, step by step", &lstm(RnnAlgorithm::Steps));
    works.recurrence("LSTM, persistent", &lstm(RnnAlgorithm::Persistent));
    let both = Rnn { direction: Direction::Bidirectional, merge: Merge::Average, ..lstm(RnnAlgorithm::Steps) };
    works.recurrence("LSTM, mean of both directions", &both);
    let norm = LayerNorm { over: NormOver::Products, carry: false, epsilon: 1e-5 };
    works.recurrence("LSTM, layer normalisation", &Rnn { layer_norm: Some(norm), ..lstm(RnnAlgorithm::Steps) });
}

fn layers(works: &mut Works<'_>) {
    let x = numbers(&[128, 16, 2, 128], 5);
    let turned = works.upload(&x).permute(&[0, 2, 1, 3]).unwrap();
    works.add("transposition", &x.permute(&[0, 2, 1, 3]).unwrap(), |run| contiguous(run, &turned).unwrap());

    let table = numbers(&[1000, 256], 4);
    let ids = Array::from_fn(&[2048], |i| (i as u32 * 37) % 1000);
    let rows = reference::embed(&table, ids.data()).unwrap();
    let (on_table, on_ids) = (works.upload(&table), works.integers(&ids));
    works.add("embedding", &rows, |run| embed(run, &on_table, &on_ids).unwrap());

    let (x, weight) = (numbers(&[256, 256], 1), numbers(&[768, 256], 2));
    let want = reference::linear(&x, &weight, None, None).unwrap();
    let (x, weight) = (works.upload(&x), works.upload(&weight));
    works.add("linear layer", &want, |run| linear(run, &[(&x, &weight)], &Epilogue::default()).unwrap());

    let (x, [cos, sin]) = (numbers(&[1, 8, 256, 64], 1), Rotary::tables(1e4, 64, 256).unwrap());
    let want = reference::rotary(&x, &cos, &sin, None, Rotary::default()).unwrap();
    let [x, cos, sin] = [&x, &cos, &sin].map(|array| works.upload(array));
    works.add("rotary embedding", &want, |run| rotary(run, &x, [&cos, &sin], None, Rotary::default()).unwrap());

    let (cache, rows) = (numbers(&[8, 8, 512, 64], 1), numbers(&[8, 8, 16, 64], 2));
    let starts = Array::from_fn(&[8], |b| 31 * b as u32);
    let places: Vec<usize> = starts.data().iter().map(|&n| n as usize).collect();
    let want = reference::append(&cache, &rows, &places, false).unwrap();
    let (cache, rows, starts) = (works.upload(&cache), works.upload(&rows), works.integers(&starts));
    works.add("rows into a cache", &want, |run| {
        append(run, &cache, &rows, &starts, None, false).unwrap();
        cache.clone()
    });

    let parts = [1, 3].map(|seed| (numbers(&[1, 8, 256, 64], seed), numbers(&[1, 8, 256], seed + 1)));
    let want = reference::merge(&parts.iter().map(|(output, lse)| (output, lse)).collect::<Vec<_>>()).unwrap().0;
    let parts = parts.map(|(output, lse)| (works.upload(&output), works.upload(&lse)));
    works.add("parts of the keys", &want, |run| {
        merge(run, &[(&parts[0].0, &parts[0].1), (&parts[1].0, &parts[1].1)]).unwrap().0
    });

    let [alignment, before] = [1, 2].map(|seed| numbers(&[256, 1024], seed).map(|x| x.abs()));
    let want = reference::coverage(&alignment, Some(&before), CoverageCost::Overlap).unwrap().0;
    let [alignment, before] = [alignment, before].map(|array| works.upload(&array));
    works.add("coverage", &want, |run| {
        let (view, after) = run.output("coverage", &[256, 1024], DType::F32).unwrap();
        let [alignment, before] = [&alignment, &before].map(|tensor| run.bind("input", tensor));
        let caps = run.gpu().caps();
        coverage::record(run.recording_mut(), caps, &alignment, Some(&before), &view, None).unwrap();
        after
    });
}

fn rates(works: &mut Works<'_>) {
    let caps = works.gpu.caps();
    let ([a, b], iterations) = ([0.75, 0.5], 2000);
    let elements = 256 * fma_rate::LANES;
    works.rate(
        "multiply-adds",
        elements,
        |k| fma_rate::expected([a, b], iterations, k),
        |run| {
            let (view, output) = run.output("output", &[elements], DType::F32).unwrap();
            fma_rate::record(run.recording_mut(), caps, [a, b], iterations, &view).unwrap();
            output
        },
    );
    works.rate(
        "barriers",
        64,
        |lane| barrier_rate::expected(64, 1000, lane),
        |run| {
            let (view, output) = run.output("output", &[64], DType::F32).unwrap();
            barrier_rate::record(run.recording_mut(), caps, 1000, &view).unwrap();
            output
        },
    );
    if let Some(side) = caps.cooperative {
        let elements = coop_rate::SUBGROUPS * (side * side) as usize;
        works.rate(
            "cooperative matrices",
            elements,
            |k| coop_rate::expected(side as usize, 200, k),
            |run| {
                let (view, output) = run.output("output", &[elements], DType::F32).unwrap();
                coop_rate::record(run.recording_mut(), caps, 200, &view).unwrap();
                output
            },
        );
    }
}

/// Nanoseconds of the dispatches of one kernel; of the whole run where the device has no timestamps.
fn time(run: &Run<'_>, kernel: &str) -> f64 {
    if !run.gpu().caps().timestamps {
        return run.clone().submit_and_time().unwrap();
    }
    let timings = run.clone().submit_timed().unwrap();
    timings
        .iter()
        .filter(|timing| timing.dispatch.variant.kernel.name() == kernel)
        .filter_map(|timing| timing.nanoseconds)
        .sum()
}

fn kernels(c: &mut Criterion) {
    let gpu = gpu();
    let mut works = Works { gpu: &gpu, ready: Vec::new() };
    layers(&mut works);
    attentions(&mut works);
    recurrences(&mut works);
    rates(&mut works);
    let mut timed = BTreeSet::new();
    let mut group = c.benchmark_group("kernel");
    group.sample_size(10);
    for (name, run) in &works.ready {
        let names = run.recording().dispatches().map(|dispatch| dispatch.variant.kernel.name().to_owned());
        let used: BTreeSet<String> = names.collect();
        // Once each, in the first operation that runs it.
        for kernel in used.into_iter().filter(|kernel| timed.insert(kernel.clone())) {
            let of_kernel = run.recording().dispatches().filter(|dispatch| dispatch.variant.kernel.name() == kernel);
            group.throughput(Throughput::Bytes(of_kernel.map(|dispatch| dispatch.bytes).sum()));
            device_time(&mut group, &format!("{kernel} ({name})"), || time(run, &kernel));
        }
    }
    group.finish();
    for name in regard::kernels::ALL.map(|kernel| kernel.name).into_iter().filter(|name| !timed.contains(*name)) {
        assert!(OF_SOME.contains(&name), "nothing runs `{name}`");
        println!("{name}: this device has no use for it");
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
