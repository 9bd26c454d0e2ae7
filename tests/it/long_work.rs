//! Dispatches that would take too long are run in chunks of workgroups, and every bit of the result stays.

use std::time::Duration;

use regard::attention::{Algorithm, Attention, AttentionInputs, Causal, Monotonic, Normalize, Score};
use regard::device::{Caps, DeviceKind};
use regard::gpu::{Gpu, Run};
use regard::ops::rnn::GpuRnn;
use regard::plan::{RnnPlan, chunks};
use regard::rnn::{Cell, Reset, Rnn, RnnAlgorithm, RnnInputs, RnnWeights};
use regard::tensor::{Array, DType};

use crate::gpu::gpu;
use crate::recordings::{self, Given};

fn wave(shape: &[usize], f: f32) -> Array<f32> {
    Array::from_fn(shape, |i| (i as f32 * f).sin())
}

/// The shared device, with dispatches of one workgroup, of some, and of all.
fn handles() -> Vec<Gpu> {
    let some = [2, 20, 200, 2000].map(Duration::from_micros);
    let limits = [Duration::ZERO].into_iter().chain(some).chain([Duration::MAX]);
    limits.map(|longest| gpu().clone().with_longest_dispatch(longest)).collect()
}

/// Runs the same recording on every handle: the chunks that it took, and all bits of the results.
fn in_parts(record: impl Fn(&mut Run<'_>) -> Vec<regard::Tensor>) -> Vec<(usize, Vec<Vec<u32>>)> {
    let run = |gpu: &Gpu| {
        let mut run = Run::new(gpu);
        let outputs = record(&mut run);
        let count = run.recording().dispatches().map(|dispatch| chunks(dispatch, gpu.caps()).len()).sum();
        let read = run.submit_and_read(&outputs.iter().collect::<Vec<_>>()).unwrap();
        (count, read.iter().map(|array| array.data().iter().map(|x| x.to_bits()).collect()).collect())
    };
    handles().iter().map(run).collect()
}

fn check(what: &str, runs: &[(usize, Vec<Vec<u32>>)]) {
    let counts: Vec<usize> = runs.iter().map(|(count, _)| *count).collect();
    println!("{what}: {counts:?} dispatches");
    let (most, least) = (counts[0], counts[counts.len() - 1]);
    assert!(counts.is_sorted_by(|a, b| a >= b) && counts.iter().any(|&n| most > n && n > least), "{what}: {counts:?}");
    assert!(runs.windows(2).all(|pair| pair[0].1 == pair[1].1), "{what}: other bits");
}

#[test]
fn attention_in_parts_has_the_same_bits() {
    let mut inputs =
        AttentionInputs::new(wave(&[2, 4, 150, 32], 0.31), wave(&[2, 2, 300, 32], 0.73), wave(&[2, 2, 300, 32], 1.17));
    inputs.kv_lengths = Array::new(&[2], vec![300, 211]).ok();
    let plain = Attention { causal: Some(Causal::BottomRight), lse: true, ..Attention::default() };
    let weighed = Attention { weights: true, entropy: true, lse: false, ..plain.clone() };
    let monotonic = Normalize::Monotonic(Monotonic::Recursive);
    for (what, options) in [
        ("fused", Attention { path: Algorithm::Fused, ..plain.clone() }),
        ("split", Attention { path: Algorithm::Split, ..plain.clone() }),
        ("additive", Attention { score: Score::Additive, path: Algorithm::Split, ..plain.clone() }),
        ("staged", weighed.clone()),
        // In place, each row after the one before it.
        ("monotonic", Attention { normalize: monotonic, ..weighed }),
    ] {
        let runs = in_parts(|run| {
            let uploaded = inputs.upload(run.gpu(), DType::F32).unwrap();
            let outputs = options.record(run, &uploaded).unwrap();
            outputs.named().map(|(_, tensor)| tensor.clone()).collect()
        });
        check(what, &runs);
    }
}

#[test]
fn recurrences_in_parts_have_the_same_bits() {
    let weights = |inputs: usize| RnnWeights::new(wave(&[4 * 20, inputs], 0.3), wave(&[4 * 20, 20], 0.7));
    let inputs = RnnInputs::new(wave(&[60, 9, 12], 0.2));
    for path in [RnnAlgorithm::Steps, RnnAlgorithm::Wavefront, RnnAlgorithm::Persistent] {
        let options = Rnn { path, ..Rnn::new(Cell::Lstm) };
        let runs = in_parts(|run| {
            let stack = vec![vec![weights(12)], vec![weights(20)]];
            let rnn = GpuRnn::upload(run.gpu(), &options, &stack, DType::F32).unwrap();
            let uploaded = inputs.upload(run.gpu(), DType::F32).unwrap();
            let outputs = rnn.record(run, &uploaded).unwrap();
            outputs.named().map(|(_, tensor)| tensor.clone()).collect()
        });
        check(&format!("{path:?}"), &runs);
    }
}

/// A loop over time inside a dispatch is cut by steps: its workgroup is one, whatever the length.
#[test]
fn long_loops_over_time_are_cut_by_steps() {
    let given = Given { lengths: true, bias: true, peephole: false, initial: true, norms: false, projection: None };
    let options = Rnn { path: RnnAlgorithm::Persistent, ..Rnn::new(Cell::Gru { reset: Reset::Before }) };
    for kind in [DeviceKind::Discrete, DeviceKind::Software] {
        let plan = |longest| -> RnnPlan {
            let caps = Caps::of(kind).with(|caps| caps.longest_dispatch = longest);
            recordings::rnn(&caps, &options, [3000, 2, 6, 60, 1], given, DType::F32).1
        };
        assert_eq!(plan(Duration::MAX).dispatches, 1);
        let [short, shorter] = [2000, 1000].map(|micros| plan(Duration::from_micros(micros)).dispatches);
        assert!(short > 1 && shorter > short, "{short}, {shorter}");
    }
}

/// What a call of a million keys, or of a batch that fills a card for seconds, comes to on paper.
#[test]
fn no_dispatch_of_a_large_problem_is_long() {
    for kind in [DeviceKind::Discrete, DeviceKind::Integrated, DeviceKind::Software] {
        let caps = Caps::of(kind).with(|caps| {
            caps.max_binding_bytes = 16 << 30;
            caps.max_buffer_bytes = 16 << 30;
        });
        for [batch, heads, queries, keys] in [[1, 32, 16_384, 16_384], [1, 1, 64, 1 << 20], [4, 8, 1, 1 << 19]] {
            let shape = [batch, heads, queries, keys];
            let [query, key] = [queries, keys].map(|n| vec![batch, heads, n, 128]);
            let inputs = AttentionInputs::new(query, key.clone(), key);
            let recording = recordings::attention(&caps, &Attention::default(), &inputs, DType::F32);
            for dispatch in recording.dispatches() {
                let workgroups = u64::from(dispatch.grid[0]) * u64::from(dispatch.grid[1]);
                for chunk in chunks(dispatch, &caps) {
                    let share = u64::from(chunk.grid[0]) * u64::from(chunk.grid[1]);
                    let [flops, bytes] = [dispatch.flops, dispatch.bytes].map(|n| n / workgroups * share);
                    let takes = caps.rates.longest(flops, bytes);
                    // A single workgroup has a processor to itself, not the whole device.
                    assert!(takes <= caps.longest_dispatch || share == 1, "{kind:?}, {shape:?}: {takes:?}");
                    assert!(dispatch.flops / workgroups <= 1 << 32, "{kind:?}, {shape:?}");
                }
            }
        }
    }
}

/// A handle on a device of its own, whose submissions are counted.
fn counted(longest: Duration) -> Gpu {
    let opened = crate::gpu::open(regard::gpu::Open::default());
    opened.with_longest_dispatch(Duration::from_micros(200)).with_longest_submission(longest)
}

fn bits(arrays: &[Array<f32>]) -> Vec<Vec<u32>> {
    arrays.iter().map(|array| array.data().iter().map(|x| x.to_bits()).collect()).collect()
}

/// Attention in dispatches of many chunks, then a recurrence of many dispatches, with scratch memory throughout.
fn record(run: &mut Run<'_>) -> Vec<regard::Tensor> {
    let qkv =
        AttentionInputs::new(wave(&[2, 4, 70, 32], 0.3), wave(&[2, 2, 150, 32], 0.7), wave(&[2, 2, 150, 32], 1.1));
    let attention = Attention { weights: true, ..Attention::default() };
    let attended = attention.record(run, &qkv.upload(run.gpu(), DType::F32).unwrap()).unwrap();
    let weights = |inputs: usize| RnnWeights::new(wave(&[4 * 20, inputs], 0.3), wave(&[4 * 20, 20], 0.7));
    let options = Rnn { path: RnnAlgorithm::Steps, ..Rnn::new(Cell::Lstm) };
    let rnn = GpuRnn::upload(run.gpu(), &options, &vec![vec![weights(12)], vec![weights(20)]], DType::F32).unwrap();
    let inputs = RnnInputs::new(wave(&[40, 9, 12], 0.2)).upload(run.gpu(), DType::F32).unwrap();
    let encoded = rnn.record(run, &inputs).unwrap();
    attended.named().chain(encoded.named()).map(|(_, tensor)| tensor.clone()).collect()
}

/// Whatever submits, a long recording goes in as many submissions as its expected time calls for, with the same bits.
#[test]
fn a_long_recording_is_submitted_in_several() {
    let want = {
        let gpu = counted(Duration::MAX);
        let mut run = Run::new(&gpu);
        let outputs = record(&mut run);
        let before = gpu.counts().submits;
        let read = run.submit_and_read(&outputs.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(gpu.counts().submits, before + 1);
        bits(&read)
    };
    let mut last = usize::MAX;
    for longest in [Duration::ZERO, Duration::from_micros(100), Duration::from_millis(1), Duration::from_secs(10)] {
        let gpu = counted(longest);
        type Submit = fn(Run<'_>, &[&regard::Tensor]);
        let ways: [Submit; 4] = [
            |run, tensors| drop(run.submit_and_read(tensors).unwrap()),
            |run, _| run.submit().unwrap(),
            |run, _| drop(run.submit_timed().unwrap()),
            |run, _| assert!(run.submit_and_time().unwrap() > 0.0),
        ];
        for (number, submit) in ways.into_iter().enumerate() {
            let mut run = Run::new(&gpu);
            let outputs = record(&mut run);
            let expected = run.expected_submissions();
            assert_eq!(expected.iter().sum::<Duration>(), run.expected_time());
            let before = gpu.counts();
            let tensors: Vec<_> = outputs.iter().collect();
            submit(run, &tensors);
            let submits = (gpu.counts().submits - before.submits) as usize;
            assert_eq!(submits, expected.len(), "way {number}, {longest:?}");
            let read: Vec<_> = outputs.iter().map(|tensor| tensor.download(&gpu).unwrap()).collect();
            assert_eq!(bits(&read), want, "way {number}, {longest:?}");
            if number == 0 {
                println!("{longest:?}: {submits} submissions");
                assert!(submits < last || longest.is_zero() && submits > 80, "{submits} after {last}");
                last = submits;
            }
        }
    }
    assert_eq!(last, 1, "a short recording is one submission");
}

/// Every dispatch has its time, those that are spread over submissions too.
#[test]
fn timings_of_a_long_recording_are_whole() {
    let gpu = counted(Duration::ZERO);
    let mut run = Run::new(&gpu);
    record(&mut run);
    let dispatches = run.recording().dispatches().count();
    let timings = run.submit_timed().unwrap();
    assert_eq!(timings.len(), dispatches);
    assert!(timings.iter().any(|timing| timing.chunks > 1));
    if gpu.caps().timestamps {
        assert!(timings.iter().all(|timing| timing.nanoseconds.is_some_and(|ns| ns > 0.0 && ns < 60e9)), "{timings:?}");
    }
}

/// What one encoder holds cannot be cut.
#[test]
fn an_encoder_of_the_callers_takes_all() {
    let gpu = counted(Duration::ZERO);
    let mut run = Run::new(&gpu);
    let outputs = record(&mut run);
    assert!(run.expected_submissions().len() > 80 && run.expected_time() > Duration::from_millis(1));
    let mut encoder = gpu.device().create_command_encoder(&regard::wgpu::CommandEncoderDescriptor::default());
    run.encode(&mut encoder).unwrap();
    let before = gpu.counts().submits;
    gpu.queue().submit([encoder.finish()]);
    assert_eq!(gpu.counts().submits, before);
    let whole = counted(Duration::MAX);
    let mut run = Run::new(&whole);
    let same = record(&mut run);
    let want = run.submit_and_read(&same.iter().collect::<Vec<_>>()).unwrap();
    let got: Vec<_> = outputs.iter().map(|tensor| tensor.download(&gpu).unwrap()).collect();
    assert_eq!(bits(&got), bits(&want));
}

/// Between the submissions of one thread come those of others: no scratch memory is shared.
#[test]
fn submissions_of_several_threads_do_not_mix() {
    let gpu = counted(Duration::ZERO);
    let answer = |gpu: &Gpu| {
        let mut run = Run::new(gpu);
        let outputs = record(&mut run);
        bits(&run.submit_and_read(&outputs.iter().collect::<Vec<_>>()).unwrap())
    };
    let want = answer(&gpu);
    let whole = gpu.clone().with_longest_submission(Duration::MAX);
    std::thread::scope(|scope| {
        for gpu in [&gpu, &gpu, &whole] {
            let (want, answer) = (&want, &answer);
            scope.spawn(move || (0..6).for_each(|_| assert!(answer(gpu) == *want)));
        }
    });
}
