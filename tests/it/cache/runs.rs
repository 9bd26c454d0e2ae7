//! A cache is longer once a run that appends to it is submitted: once, and by no run that was dropped, failed or came
//! second.

use regard::attention::{Attention, AttentionInputs, Causal};
use regard::gpu::{Gpu, Open, Run};
use regard::ops::cache::{CacheShape, KvCache};
use regard::tensor::{Array, DType};
use regard::{Error, Result, Tensor, reference, wgpu};

use super::{cut, numbers, passes, upload, wide};
use crate::gpu::{device_with, gpu, open};

const SHAPE: CacheShape = CacheShape { layers: 1, batch: 2, kv_heads: 1, capacity: 24, key_dim: 8, value_dim: 8 };

/// In one piece, and in pages of three.
fn caches(gpu: &Gpu) -> [KvCache; 2] {
    [KvCache::new(gpu, SHAPE, DType::F32).unwrap(), KvCache::paged(gpu, SHAPE, 3, 16, DType::F32).unwrap()]
}

/// Queries, keys and values of all steps.
fn sequence() -> [Array<f32>; 3] {
    [1.0, 2.0, 3.0].map(|seed| numbers(&[2, 1, 20, 8], seed))
}

fn causal() -> Attention {
    Attention { causal: Some(Causal::TopLeft), ..Attention::default() }
}

/// Records that `n` tokens from `start` on are appended and attended to.
fn step(run: &mut Run<'_>, cache: &mut KvCache, start: usize, n: usize) -> Result<Tensor> {
    let gpu = run.gpu();
    let [query, key, value] = sequence().map(|array| upload(gpu, &cut(&array, 2, start, n), DType::F32));
    cache.append(run, &key, &value, None)?;
    let inputs = cache.inputs(run, &query, None)?;
    Ok(causal().record(run, &inputs)?.output)
}

/// What the tokens from `start` on see of all that came before.
fn check(output: &Array<f32>, start: usize) {
    let [query, key, value] = sequence();
    let inputs = AttentionInputs::new(query, key, value);
    let n = output.shape()[2];
    let oracle = reference::attention(&causal(), &inputs.map_numbers(wide)).unwrap().output;
    let baseline = reference::attention(&causal(), &inputs).unwrap().output;
    let layout = regard::tensor::Layout::contiguous(oracle.shape()).narrow(2, start, n).unwrap();
    passes(&format!("tokens from {start}"), output, &oracle.gather(&layout).unwrap(), &cut(&baseline, 2, start, n));
}

fn state(cache: &KvCache) -> (Vec<usize>, Option<usize>) {
    (cache.lengths(), cache.free_pages())
}

fn assert_changed<T: std::fmt::Debug>(result: Result<T>) {
    let axis =
        |error: &Error| matches!(error, Error::Shape { tensor, axis, .. } if tensor == "cache" && axis == "lengths");
    assert!(result.as_ref().is_err_and(axis), "{result:?}");
}

/// Every way to submit, each after runs that came to nothing.
#[test]
fn whatever_submits_a_run_moves_the_cache_once() {
    let gpu = gpu();
    type Submit = fn(Run<'_>, &Tensor) -> Array<f32>;
    let ways: [(&str, Submit); 6] = [
        ("submit", |run, output| {
            let gpu = run.gpu();
            run.submit().unwrap();
            output.download(gpu).unwrap()
        }),
        ("submit_and_read", |run, output| run.submit_and_read(&[output]).unwrap().remove(0)),
        ("submit_and_read_async", |run, output| {
            let gpu = run.gpu();
            let tensors = [output];
            let mut read = std::pin::pin!(run.submit_and_read_async(&tensors));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let _ = read.as_mut().poll(&mut context);
            gpu.wait().unwrap();
            pollster::block_on(read).unwrap().remove(0)
        }),
        ("submit_timed", |run, output| {
            let gpu = run.gpu();
            assert!(!run.submit_timed().unwrap().is_empty());
            output.download(gpu).unwrap()
        }),
        ("submit_and_time", |run, output| {
            let gpu = run.gpu();
            assert!(run.submit_and_time().unwrap() > 0.0);
            output.download(gpu).unwrap()
        }),
        ("encode", |run, output| {
            let gpu = run.gpu();
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            run.encode(&mut encoder).unwrap();
            gpu.queue().submit([encoder.finish()]);
            output.download(gpu).unwrap()
        }),
    ];
    for mut cache in caches(gpu) {
        let mut start = 0;
        for (what, submit) in ways {
            let before = state(&cache);
            drop(step(&mut Run::new(gpu), &mut cache, start, 3).unwrap());
            assert_eq!(state(&cache), before, "dropped before {what}");
            let mut run = Run::new(gpu);
            // Two steps of one run: the second sees the first one's rows.
            let first = step(&mut run, &mut cache, start, 2).unwrap();
            let second = step(&mut run, &mut cache, start + 2, 1).unwrap();
            assert_eq!(cache.positions(&mut run, 2).unwrap().download_u32(gpu).unwrap().data()[0], (start + 3) as u32);
            assert_eq!(
                cache.positions(&mut Run::new(gpu), 1).unwrap().download_u32(gpu).unwrap().data()[0],
                start as u32
            );
            assert_eq!(state(&cache), before, "recorded before {what}");
            let output = submit(run, &second);
            assert_eq!(cache.lengths(), [start + 3; 2], "{what}");
            check(&output, start + 2);
            check(&first.download(gpu).unwrap(), start);
            start += 3;
        }
        if let Some(free) = cache.free_pages() {
            assert_eq!(free, 16 - 2 * start.div_ceil(3));
        }
    }
}

/// Errors when recording, when encoding and when submitting.
#[test]
fn a_run_that_fails_leaves_the_cache_as_it_was() {
    let gpu = &open(Open::default());
    for mut cache in caches(gpu) {
        let mut run = Run::new(gpu);
        step(&mut run, &mut cache, 0, 5).unwrap();
        run.submit().unwrap();
        let before = state(&cache);

        // The append itself, then what comes behind it.
        let mut run = Run::new(gpu);
        let [key, value] = [8, 7].map(|dim| upload(gpu, &numbers(&[2, 1, 4, dim], 1.0), DType::F32));
        assert!(cache.append(&mut run, &key, &value, None).is_err());
        let halves = Tensor::upload_u32(gpu, "value", &Array::filled(&[2, 1, 4, 8], 1)).unwrap();
        assert!(cache.append(&mut run, &key, &halves, None).is_err());
        cache.append(&mut run, &key, &key, None).unwrap();
        let wrong = upload(gpu, &numbers(&[2, 1, 4, 6], 1.0), DType::F32);
        let inputs = cache.inputs(&mut run, &wrong, None).unwrap();
        assert!(causal().record(&mut run, &inputs).is_err());
        drop(run);
        assert_eq!(state(&cache), before, "recording");

        // A tensor of another device is found when the run is encoded.
        let foreign = upload(&open(Open::default()), &numbers(&[2, 1, 4, 8], 1.0), DType::F32);
        for submit in [
            |run: Run<'_>| run.submit(),
            |run: Run<'_>| run.submit_and_read(&[]).map(drop),
            |run: Run<'_>| {
                let mut encoder = run.gpu().device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                run.encode(&mut encoder)
            },
        ] {
            let mut run = Run::new(gpu);
            cache.append(&mut run, &key, &foreign, None).unwrap();
            let error = submit(run).unwrap_err();
            assert!(matches!(&error, Error::Shape { axis, .. } if axis == "device"), "{error}");
            assert_eq!(state(&cache), before, "encoding");
        }

        // The next run goes on where the last good one ended.
        let mut run = Run::new(gpu);
        let output = step(&mut run, &mut cache, 5, 4).unwrap();
        check(&run.submit_and_read(&[&output]).unwrap()[0], 5);
        assert_eq!(cache.lengths(), [9; 2]);
    }

    let (device, queue) = device_with(|_| {});
    let lost = Gpu::from_wgpu(device, queue).unwrap();
    let [mut whole, mut paged] = caches(&lost);
    let [mut one, mut other] = [Run::new(&lost), Run::new(&lost)];
    step(&mut one, &mut whole, 0, 5).unwrap();
    step(&mut other, &mut paged, 0, 5).unwrap();
    lost.mark_lost("for a test");
    for run in [one, other] {
        assert!(matches!(run.submit(), Err(Error::DeviceLost(_))));
    }
    assert_eq!((whole.lengths(), paged.lengths()), (vec![0; 2], vec![0; 2]), "submitting");
}

#[test]
fn a_clone_does_not_advance_a_cache_again() {
    let gpu = gpu();
    for mut cache in caches(gpu) {
        let mut run = Run::new(gpu);
        let first = step(&mut run, &mut cache, 0, 5).unwrap();
        run.clone().submit().unwrap();
        let once = state(&cache);
        // Again, which writes what is there.
        run.clone().submit().unwrap();
        assert_eq!(state(&cache), once);
        // What the clone has submitted can be gone on from.
        let mut more = run.clone();
        let second = step(&mut more, &mut cache, 5, 2).unwrap();
        more.submit().unwrap();
        assert_eq!(cache.lengths(), [7; 2]);
        check(&first.download(gpu).unwrap(), 0);
        check(&second.download(gpu).unwrap(), 5);
        // Behind which the first one comes too late.
        assert_changed(run.submit());
        assert_eq!(cache.lengths(), [7; 2]);
    }
}

#[test]
fn of_runs_side_by_side_the_first_one_counts() {
    let gpu = gpu();
    for mut cache in caches(gpu) {
        let (mut one, mut other) = (Run::new(gpu), Run::new(gpu));
        let output = step(&mut one, &mut cache, 0, 5).unwrap();
        step(&mut other, &mut cache, 0, 3).unwrap();
        one.submit().unwrap();
        let after = state(&cache);
        let late = upload(gpu, &numbers(&[2, 1, 1, 8], 1.0), DType::F32);
        assert_changed(cache.inputs(&mut other, &late, None));
        assert_changed(cache.append(&mut other, &late, &late, None));
        assert_changed(other.submit());
        assert_eq!(state(&cache), after);
        check(&output.download(gpu).unwrap(), 0);

        // A cut is a change too.
        let mut run = Run::new(gpu);
        step(&mut run, &mut cache, 5, 2).unwrap();
        cache.truncate(1, 4).unwrap();
        assert_changed(run.submit());
        assert_eq!(cache.lengths(), [5, 4]);
        // An encoder that was dropped is undone by one.
        let mut run = Run::new(gpu);
        cache.append(&mut run, &late, &late, None).unwrap();
        let before = state(&cache);
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        run.encode(&mut encoder).unwrap();
        drop(encoder);
        assert_eq!(cache.lengths(), [6, 5]);
        cache.truncate(0, 5).unwrap();
        cache.truncate(1, 4).unwrap();
        assert_eq!(state(&cache), before);
    }
    // Two caches in one run: neither moves when one of them has changed.
    let [mut whole, mut paged] = caches(gpu);
    let (mut both, mut alone) = (Run::new(gpu), Run::new(gpu));
    step(&mut both, &mut whole, 0, 2).unwrap();
    step(&mut both, &mut paged, 0, 2).unwrap();
    step(&mut alone, &mut paged, 0, 1).unwrap();
    alone.submit().unwrap();
    assert_changed(both.submit());
    assert_eq!((whole.lengths(), paged.lengths()), (vec![0; 2], vec![1; 2]));
    let mut run = Run::new(gpu);
    step(&mut run, &mut whole, 0, 2).unwrap();
    run.submit().unwrap();
    assert_eq!(whole.lengths(), [2; 2]);
}
