//! The device layer: one build per pipeline, one submission per sequence, steady memory, errors instead of panics,
//! an embedder's own device, buffers and encoder.

use regard::attention::{Algorithm, Attention, AttentionInputs, CuSeqlens, Score, ScoreMod};
use regard::gpu::{Gpu, Open, Run};
use regard::ops::rnn::GpuRnn;
use regard::rnn::{Cell, Rnn, RnnAlgorithm, RnnInputs, RnnWeights};
use regard::tensor::{Array, DType, Layout};
use regard::wgpu;
use regard::{Error, Tensor, reference};

use crate::gpu::{device_with, gpu, minimal_gpu};

fn wave(shape: &[usize], f: f32) -> Array<f32> {
    Array::from_fn(shape, |i| (i as f32 * f).sin())
}

fn qkv(queries: usize, keys: usize) -> AttentionInputs<Array<f32>> {
    AttentionInputs::new(wave(&[2, 4, queries, 8], 0.3), wave(&[2, 2, keys, 8], 0.7), wave(&[2, 2, keys, 6], 1.1))
}

fn close(got: &Array<f32>, want: &Array<f32>) {
    assert_eq!(got.shape(), want.shape());
    let worst = got.data().iter().zip(want.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "off by {worst}");
}

#[test]
fn threads_share_one_build_of_each_pipeline() {
    let gpu = Gpu::open(&Open { adapter: Some(gpu().adapter().name.clone()), ..Open::default() }).unwrap();
    let inputs = qkv(5, 9);
    let staged = Attention { path: Algorithm::Staged, ..Attention::default() };
    let want = reference::attention(&staged, &inputs).unwrap().output;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let uploaded = inputs.upload(&gpu, DType::F32).unwrap();
                    let got = staged.run(&gpu, &uploaded).unwrap();
                    close(&got.output.download(&gpu).unwrap(), &want);
                }
            });
        }
    });
    assert_eq!(gpu.counts().pipelines, 3, "score, softmax, weighted sum");
    assert_eq!(gpu.counts().submits, 8 * 5 * 2, "one for the attention, one for the download");
}

#[test]
fn a_sequence_is_one_submission_whatever_its_length_and_reads_nothing_back() {
    let gpu = Gpu::open(&Open { adapter: Some(gpu().adapter().name.clone()), ..Open::default() }).unwrap();
    let weights = |inputs: usize| RnnWeights::new(wave(&[32, inputs], 0.3), wave(&[32, 8], 0.7));
    let (one, both) = (Rnn::new(Cell::Lstm), Rnn::new(Cell::Lstm).bidirectional());
    for (options, path) in [
        (&both, RnnAlgorithm::Auto),
        (&both, RnnAlgorithm::Steps),
        (&both, RnnAlgorithm::Persistent),
        (&one, RnnAlgorithm::Auto),
        (&one, RnnAlgorithm::Wavefront),
    ] {
        let options = Rnn { path, ..options.clone() };
        let layer = |inputs: usize| vec![weights(inputs); options.direction.count()];
        let stack = vec![layer(5), layer(options.output_width(8))];
        let rnn = GpuRnn::upload(&gpu, &options, &stack, DType::F32).unwrap();
        for steps in [1, 7, 150] {
            let inputs = RnnInputs::new(wave(&[steps, 3, 5], 0.2));
            let uploaded = inputs.upload(&gpu, DType::F32).unwrap();
            let before = gpu.counts();
            let got = rnn.run(&gpu, &uploaded).unwrap();
            let after = gpu.counts();
            assert_eq!(after.submits - before.submits, 1, "{path:?}, {steps} steps");
            assert_eq!(after.downloads, before.downloads);
            close(&got.output.download(&gpu).unwrap(), &reference::rnn(&options, &stack, &inputs).unwrap().output);
        }
    }
}

#[cfg(feature = "seq2seq")]
#[test]
fn encoding_a_batch_of_names_is_one_submission_and_each_decoder_step_one_more() {
    use regard::seq2seq::{Model, Network, SourceBatch};
    let gpu = Gpu::open(&Open { adapter: Some(gpu().adapter().name.clone()), ..Open::default() }).unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/arabic-names");
    let model = Model::from_folder(folder.as_ref()).unwrap();
    let mut network = model.network(Run::new(&gpu)).unwrap();
    for steps in [2, 30] {
        let batch = SourceBatch {
            sources: 2,
            steps,
            ids: vec![124; 2 * steps],
            lengths: vec![steps as u32, 1],
            visible: vec![steps as u32, 1],
        };
        let before = gpu.counts();
        network.start(&batch, 3).unwrap();
        let started = gpu.counts();
        assert_eq!((started.submits - before.submits, started.downloads - before.downloads), (1, 0));
        let driver = network.driver();
        driver.wait(network.step(vec![0, 1, 2, 3, 4, 5], vec![1; 6], 1, true)).unwrap();
        let stepped = gpu.counts();
        assert_eq!((stepped.submits - started.submits, stepped.downloads - started.downloads), (1, 1));
    }
}

#[test]
fn scratch_memory_is_used_again_and_can_be_given_back() {
    let gpu = Gpu::open(&Open { adapter: Some(gpu().adapter().name.clone()), ..Open::default() }).unwrap();
    let inputs = qkv(5, 9).upload(&gpu, DType::F32).unwrap();
    Attention::default().run(&gpu, &inputs).unwrap();
    let first = gpu.counts().scratch_bytes;
    assert!(first > 0);
    for _ in 0..50 {
        Attention::default().run(&gpu, &inputs).unwrap();
    }
    assert_eq!(gpu.counts().scratch_bytes, first);
    gpu.trim();
    assert_eq!(gpu.counts().scratch_bytes, 0);
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let inputs = qkv(33, 65).upload(gpu(), DType::F32).unwrap();
    let run = || Attention::default().run(gpu(), &inputs).unwrap().output.download(gpu()).unwrap();
    let bits = |a: Array<f32>| a.data().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let first = bits(run());
    for _ in 0..5 {
        assert_eq!(bits(run()), first);
    }
}

#[test]
fn views_need_no_copy_and_give_the_same_answer() {
    // Packed [B, N, 3·H·D] against the same numbers unpacked on the host.
    let packed = wave(&[2, 5, 3 * 4 * 8], 0.13);
    let tensor = Tensor::upload(gpu(), "packed", &packed, DType::F32).unwrap();
    let [query, key, value] = tensor.unpack_qkv(4).unwrap();
    assert_eq!(query.buffer().unwrap(), value.buffer().unwrap());
    let got =
        Attention::default().run(gpu(), &AttentionInputs::new(query.clone(), key.clone(), value.clone())).unwrap();
    let part = |tensor: &Tensor| packed.gather(tensor.layout()).unwrap();
    let inputs = AttentionInputs::new(part(&query), part(&key), part(&value));
    close(&got.output.download(gpu()).unwrap(), &reference::attention(&Attention::default(), &inputs).unwrap().output);
    // A strided view read back is its elements in order.
    assert_eq!(key.download(gpu()).unwrap(), part(&key));

    // [B, N, H, D] as [B, H, N, D], and a part of the keys.
    let q = Tensor::upload(gpu(), "q", &wave(&[1, 6, 2, 4], 0.3), DType::F32).unwrap();
    let q = q.permute(&[0, 2, 1, 3]).unwrap();
    let kv = q.narrow(2, 1, 3).unwrap();
    let got = Attention::default().run(gpu(), &AttentionInputs::new(q.clone(), kv.clone(), kv.clone())).unwrap();
    let host = wave(&[1, 6, 2, 4], 0.3);
    let (q, kv) = (host.gather(q.layout()).unwrap(), host.gather(kv.layout()).unwrap());
    let want = reference::attention(&Attention::default(), &AttentionInputs::new(q, kv.clone(), kv)).unwrap();
    close(&got.output.download(gpu()).unwrap(), &want.output);
}

#[test]
fn vectors_may_be_views_too() {
    // Every second element from the second on, of a tensor that holds other numbers in between.
    fn spread<T: Copy>(array: &Array<T>, between: T) -> Array<T> {
        let n = array.data().len();
        Array::from_fn(&[2 * n + 2], |i| if i % 2 == 1 { array.data()[i / 2 % n] } else { between })
    }
    let every_second = |tensor: Tensor| {
        let n = tensor.shape()[0] / 2 - 1;
        tensor.with_layout(Layout { shape: [n].into(), strides: [2].into(), offset: 1 }).unwrap()
    };
    let strided =
        |array: &Array| every_second(Tensor::upload(gpu(), "spread", &spread(array, 3.0), DType::F32).unwrap());
    let strided_lengths =
        |array: &Array<u32>| every_second(Tensor::upload_u32(gpu(), "spread", &spread(array, 3)).unwrap());
    let mut inputs = qkv(4, 7);
    inputs.kv_lengths = Some(Array::new(&[2], vec![5, 2]).unwrap());
    inputs.alibi_slopes = Some(wave(&[4], 0.4));
    inputs.sinks = Some(wave(&[4], 0.9));
    let mut tensors = inputs.upload(gpu(), DType::F32).unwrap();
    tensors.kv_lengths = inputs.kv_lengths.as_ref().map(strided_lengths);
    tensors.alibi_slopes = inputs.alibi_slopes.as_ref().map(strided);
    tensors.sinks = inputs.sinks.as_ref().map(strided);
    let options = Attention { causal: Some(Default::default()), ..Attention::default() };
    let got = options.run(gpu(), &tensors).unwrap().output.download(gpu()).unwrap();
    close(&got, &reference::attention(&options, &inputs).unwrap().output);

    let mut inputs = qkv(4, 7);
    inputs.score.v = Some(wave(&[8], 0.6));
    let mut tensors = inputs.upload(gpu(), DType::F32).unwrap();
    tensors.score.v = inputs.score.v.as_ref().map(strided);
    let options = Attention { score: Score::Additive, ..Attention::default() };
    let got = options.run(gpu(), &tensors).unwrap().output.download(gpu()).unwrap();
    close(&got, &reference::attention(&options, &inputs).unwrap().output);
}

#[test]
fn layouts_lengths_and_slots_that_make_no_sense_are_errors() {
    let tensor = Tensor::upload(gpu(), "x", &wave(&[4, 4], 0.5), DType::F32).unwrap();
    let layout =
        |shape: &[usize], strides: &[usize], offset| Layout { shape: shape.into(), strides: strides.into(), offset };
    for odd in [
        layout(&[2, 2, 2, 2], &[], 0),
        layout(&[0], &[1], 100),
        layout(&[17], &[1], 0),
        layout(&[2], &[usize::MAX], 1),
        layout(&[1], &[1], usize::MAX),
    ] {
        assert!(matches!(tensor.with_layout(odd.clone()), Err(Error::Shape { .. })), "{odd:?}");
    }
    assert_eq!(tensor.narrow(0, 4, 0).unwrap().download(gpu()).unwrap().shape(), [0, 4]);

    for length in [8, 16_777_217, u32::MAX] {
        let mut inputs = qkv(4, 7);
        inputs.kv_lengths = Some(Array::new(&[2], vec![5, length]).unwrap());
        assert!(matches!(inputs.upload(gpu(), DType::F32), Err(Error::Shape { .. })), "{length}");
    }

    let (mut one, mut other) = (Run::new(gpu()), Run::new(gpu()));
    let another = Tensor::uninitialized(gpu(), "another", &[4, 4], DType::F32).unwrap();
    let (a, b) = (one.bind("a", &tensor), one.bind("b", &another));
    // One tensor, one slot.
    assert_eq!(one.bind("again", &tensor), a);
    let (to, _) = other.output("to", &[4, 4], DType::F32).unwrap();
    assert_eq!((a.shape(), b.shape()), (to.shape(), to.shape()));
    regard::kernels::copy::record(other.recording_mut(), gpu().caps(), &b, &to).unwrap();
    assert!(matches!(other.submit(), Err(Error::Missing { .. })));
}

#[test]
fn an_embedders_device_buffer_and_encoder_are_enough() {
    let (device, queue) = device_with(|_| {});
    let gpu = Gpu::from_wgpu(device.clone(), queue.clone()).unwrap();
    let inputs = qkv(4, 7);
    // One buffer of the embedder's holds all three tensors behind some other data; no COPY usage.
    let whole: Vec<f32> = std::iter::repeat_n(f32::NAN, 1000)
        .chain([&inputs.query, &inputs.key, &inputs.value].into_iter().flat_map(|a| a.data().iter().copied()))
        .collect();
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: whole.len() as u64 * 4,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: true,
    });
    buffer.slice(..).get_mapped_range_mut().unwrap().copy_from_slice(bytemuck::cast_slice(&whole));
    buffer.unmap();
    let mut offset = 1000;
    let mut tensor = |array: &Array<f32>| {
        let layout = Layout { offset, ..Layout::contiguous(array.shape()) };
        offset += array.data().len();
        Tensor::from_buffer("part", buffer.clone(), layout, DType::F32).unwrap()
    };
    let tensors = AttentionInputs::new(tensor(&inputs.query), tensor(&inputs.key), tensor(&inputs.value));

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut run = Run::new(&gpu);
    let got = Attention::default().record(&mut run, &tensors).unwrap();
    run.encode(&mut encoder).unwrap();
    assert_eq!(gpu.counts().submits, 0, "nothing is submitted behind the embedder's back");
    queue.submit([encoder.finish()]);
    let want = reference::attention(&Attention::default(), &inputs).unwrap();
    close(&got.output.download(&gpu).unwrap(), &want.output);
}

/// An executor may move what waits for a device from thread to thread; nothing is ready before the device is polled.
#[test]
fn reading_without_blocking_ends_when_the_device_is_polled() {
    fn movable<F: Future + Send>(future: F) -> std::pin::Pin<Box<F>> {
        Box::pin(future)
    }
    // A device of its own: what other tests do polls the shared one.
    let gpu = Gpu::open(&Open { adapter: Some(gpu().adapter().name.clone()), ..Open::default() }).unwrap();
    let tensor = Tensor::upload(&gpu, "x", &wave(&[3, 4], 0.5), DType::F32).unwrap();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut one = movable(tensor.download_async(&gpu));
    let (tensors, run) = ([&tensor, &tensor], Run::new(&gpu));
    let mut two = movable(run.submit_and_read_async(&tensors));
    assert!(one.as_mut().poll(&mut context).is_pending() && two.as_mut().poll(&mut context).is_pending());
    assert_eq!(gpu.counts().submits, 2);
    gpu.wait().unwrap();
    let want = wave(&[3, 4], 0.5);
    assert_eq!(pollster::block_on(one).unwrap(), want);
    assert_eq!(pollster::block_on(two).unwrap(), [want.clone(), want]);
}

#[test]
fn scores_larger_than_a_binding_are_computed_in_ranges() {
    // 64 KiB bindings: the scores of 2 · 4 heads · 70 queries · 90 keys need 202 KiB.
    let (device, queue) = device_with(|limits| limits.max_storage_buffer_binding_size = 64 << 10);
    let small = Gpu::from_wgpu(device, queue).unwrap();
    let inputs = qkv(70, 90);
    let options =
        Attention { causal: Some(Default::default()), lse: true, path: Algorithm::Staged, ..Attention::default() };
    let uploaded = inputs.upload(&small, DType::F32).unwrap();
    let mut run = Run::new(&small);
    let got = options.record(&mut run, &uploaded).unwrap();
    assert!(run.recording().dispatches().count() > 3);
    run.submit().unwrap();
    let want = reference::attention(&options, &inputs).unwrap();
    close(&got.output.download(&small).unwrap(), &want.output);
    close(&got.lse.unwrap().download(&small).unwrap(), &want.lse.unwrap());

    let weights = Attention { weights: true, ..options };
    let error = weights.run(&small, &uploaded).unwrap_err();
    assert_eq!(error, Error::Limit { what: "bytes of `weights`".into(), needed: 201_600, allowed: 65_536 });
}

#[test]
fn what_the_device_cannot_do_is_an_error() {
    let array = wave(&[2, 2], 0.5);
    let error = Tensor::upload(minimal_gpu(), "x", &array, DType::F16).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { feature, .. } if feature.contains("f16")), "{error}");
    assert!(error.hint().is_some());
    let error = Tensor::uninitialized(gpu(), "huge", &[1 << 40, 1 << 20], DType::F32).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
    let error = Tensor::uninitialized(minimal_gpu(), "large", &[1 << 26], DType::F32).unwrap_err();
    assert_eq!(error, Error::Limit { what: "bytes of `large`".into(), needed: 1 << 28, allowed: 128 << 20 });
    let error = Gpu::open(&Open { adapter: Some("no such card".into()), ..Open::default() }).unwrap_err();
    assert!(matches!(error, Error::NoAdapter(_)) && error.to_string().contains("no such card"), "{error}");
}

#[test]
fn a_users_score_function_runs_or_is_refused_with_the_compilers_words() {
    let inputs = qkv(3, 5);
    let with = |wgsl: &str| Attention {
        score_mod: Some(ScoreMod::new(
            wgsl,
            Some(std::sync::Arc::new(|s, _, h, i, j| s + 0.1 * h as f64 - 0.2 * (i as f64 - j as f64).abs())),
        )),
        ..Attention::default()
    };
    let good = with(
        "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
            return score + 0.1 * f32(h) - 0.2 * abs(f32(i) - f32(j));
        }",
    );
    let got = good.run(gpu(), &inputs.upload(gpu(), DType::F32).unwrap()).unwrap();
    close(&got.output.download(gpu()).unwrap(), &reference::attention(&good, &inputs).unwrap().output);

    let bad = with("fn score_mod(score: f32) -> f32 { return scores; }");
    let error = bad.run(gpu(), &inputs.upload(gpu(), DType::F32).unwrap()).unwrap_err();
    assert!(matches!(&error, Error::Option { option, reason } if option == "score_mod" && reason.contains("scores")));
    // The device is unharmed.
    Attention::default().run(gpu(), &inputs.upload(gpu(), DType::F32).unwrap()).unwrap();
}

/// Shapes that no memory could hold reach the door through layouts that repeat one element.
#[test]
fn enormous_requests_are_errors() {
    use regard::attention::Rotary;
    use regard::ops::cache::{CacheShape, KvCache};
    let gpu = gpu();
    let one = Tensor::upload(gpu, "one", &Array::filled(&[1], 1.0), DType::F32).unwrap();
    let repeated = |shape: &[usize]| {
        let layout = Layout { shape: shape.into(), strides: vec![0; shape.len()].into(), offset: 0 };
        one.with_layout(layout).unwrap()
    };
    for shape in [[1 << 31, 1, 1 << 31, 1], [1 << 15, 1 << 15, 1 << 31, 1], [1, 1, 1 << 31, 1 << 31]] {
        let tensor = repeated(&shape);
        let inputs = AttentionInputs::new(tensor.clone(), tensor.clone(), tensor);
        let error = Attention::default().run(gpu, &inputs).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
    let tensor = repeated(&[1, 1, 1 << 40, 1]);
    let inputs = AttentionInputs::new(tensor.clone(), tensor.clone(), tensor);
    let error = Attention::default().run(gpu, &inputs).unwrap_err();
    assert_eq!(error.to_string(), format!("`query` axis 2: expected at most 2^31, found {}", 1u64 << 40));
    assert!(matches!(Rotary::tables(10_000.0, 64, usize::MAX), Err(Error::Limit { .. })));
    let shape = CacheShape { layers: 1, batch: 2, kv_heads: 1, capacity: usize::MAX, key_dim: 4, value_dim: 4 };
    let cache = KvCache::paged(gpu, shape, 16, 3, DType::F32).unwrap();
    assert!(cache.inputs(&mut Run::new(gpu), &repeated(&[2, 1, 1, 4]), None).is_ok());
    assert!(matches!(KvCache::new(gpu, shape, DType::F32), Err(Error::Limit { .. })));
}

/// What stands in a block table past the keys, and ends past the last token, is no error on the way in.
#[test]
fn padding_of_lists_may_hold_anything() {
    let gpu = gpu();
    let numbers = |shape: &[usize]| Array::from_fn(shape, |k| (k as f32 * 0.7).sin());
    let mut paged = AttentionInputs::new(numbers(&[2, 2, 1, 4]), numbers(&[3, 1, 4, 4]), numbers(&[3, 1, 4, 4]));
    paged.kv_lengths = Array::new(&[2], vec![5, 3]).ok();
    let run = |inputs: &AttentionInputs<Array>| {
        let outputs = Attention::default().run(gpu, &inputs.upload(gpu, DType::F32).unwrap()).unwrap();
        outputs.output.download(gpu).unwrap()
    };
    paged.block_table = Array::new(&[2, 3], vec![2, 0, u32::MAX, 1, 4_000_000_000, 3]).ok();
    let padded = run(&paged);
    paged.block_table = Array::new(&[2, 3], vec![2, 0, 0, 1, 0, 0]).ok();
    assert_eq!(padded, run(&paged));
    paged.block_table = Array::new(&[2, 3], vec![2, 3, 0, 1, 0, 0]).ok();
    assert!(paged.upload(gpu, DType::F32).is_err(), "page 3 of 3");

    let mut ragged = AttentionInputs::new(numbers(&[1, 2, 5, 4]), numbers(&[1, 2, 7, 4]), numbers(&[1, 2, 7, 4]));
    let sequences = |q: [u32; 3], k: [u32; 3]| {
        let [q, k] = [q, k].map(|ends| Array::new(&[3], ends.to_vec()).unwrap());
        Some(CuSeqlens { q, k })
    };
    ragged.cu_seqlens = sequences([0, 2, 99], [0, 3, 4_000_000_000]);
    let beyond = run(&ragged);
    ragged.cu_seqlens = sequences([0, 2, 5], [0, 3, 7]);
    assert_eq!(beyond, run(&ragged));
}
