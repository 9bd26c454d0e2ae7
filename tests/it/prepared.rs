//! Runs that are submitted again with other contents, other tensors and longer caches, and the memory that their values
//! share.

use regard::attention::{Attention, AttentionInputs, Causal, Rotary};
use regard::gpu::{Gpu, Prepared, Run};
use regard::layers::GpuAttentionDecoder;
use regard::layers::{
    AttentionDecoder, DecoderMemory, DecoderState, DecoderWeights, GpuMultiHeadAttention, Linear, MultiHeadAttention,
    MultiHeadWeights,
};
use regard::ops::cache::{CacheShape, CacheStep, KvCache};
use regard::ops::linear::{Epilogue, linear};
use regard::ops::rotary::rotary;
use regard::rnn::{Activation, Cell, Rnn, RnnWeights};
use regard::tensor::{Array, DType, Layout};
use regard::{Error, Tensor, reference, wgpu};

use crate::gpu::{gpu, minimal_gpu, open};

fn relu() -> Epilogue<'static, Tensor> {
    Epilogue { activation: Some(Activation::Relu), ..Epilogue::default() }
}

fn numbers(shape: &[usize], seed: f32) -> Array<f32> {
    Array::from_fn(shape, |k| ((k as f32 + 1.0) * (seed + 0.37)).sin())
}

fn upload(gpu: &Gpu, name: &str, array: &Array<f32>) -> Tensor {
    Tensor::upload(gpu, name, array, DType::F32).unwrap()
}

/// Token `t` of [B, H, T, D].
fn token(array: &Array<f32>, t: usize) -> Array<f32> {
    array.gather(&Layout::contiguous(array.shape()).narrow(2, t, 1).unwrap()).unwrap()
}

/// The small tensors of a run's positions and lengths are used again by later runs, but not while an encoder that nobody has
/// submitted yet reads them, nor while somebody holds their buffer.
#[test]
fn words_of_an_encoder_stay_its_own_until_it_is_submitted() {
    let gpu = &open(Default::default());
    let tables = Rotary::tables(10_000.0, 8, 16).unwrap().map(|table| upload(gpu, "table", &table));
    let rows = upload(gpu, "rows", &numbers(&[1, 1, 2, 8], 0.5));
    // Caches of 2, 3 and 4 keys: their next positions differ.
    let caches = [2, 3, 4].map(|length| {
        let shape = CacheShape { layers: 1, batch: 1, kv_heads: 1, capacity: 16, key_dim: 8, value_dim: 8 };
        let mut cache = KvCache::new(gpu, shape, DType::F32).unwrap();
        let past = upload(gpu, "past", &numbers(&[1, 1, length, 8], 1.5));
        let mut run = Run::new(gpu);
        cache.append(&mut run, &past, &past, None).unwrap();
        run.submit().unwrap();
        cache
    });
    let turned = |run: &mut Run<'_>, cache: &KvCache| {
        let positions = cache.positions(run, 2).unwrap();
        let turned = rotary(run, &rows, tables.each_ref(), Some(&positions), Rotary::default()).unwrap();
        (positions, turned)
    };
    let expected = caches.each_ref().map(|cache| {
        let mut run = Run::new(gpu);
        let (_, turned) = turned(&mut run, cache);
        run.submit_and_read(&[&turned]).unwrap().remove(0)
    });
    assert!(expected[0] != expected[1] && expected[1] != expected[2]);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut run = Run::new(gpu);
    let (_, encoded) = turned(&mut run, &caches[0]);
    run.encode(&mut encoder).unwrap();
    let mut run = Run::new(gpu);
    let (positions, _) = turned(&mut run, &caches[1]);
    let held = positions.buffer().unwrap().clone();
    run.submit().unwrap();
    drop(positions);
    for k in 0..4 {
        let mut run = Run::new(gpu);
        let (positions, again) = turned(&mut run, &caches[2]);
        assert!(k < 3 || *positions.buffer().unwrap() != held);
        assert_eq!(run.submit_and_read(&[&again]).unwrap(), [expected[2].clone()]);
    }
    gpu.queue().submit([encoder.finish()]);
    assert_eq!(encoded.download(gpu).unwrap(), expected[0]);
}

#[test]
fn a_prepared_run_reads_what_its_tensors_hold_then() {
    let gpu = &open(Default::default());
    let options = Attention { causal: Some(Causal::TopLeft), weights: true, ..Attention::default() };
    let inputs = |seed: f32| {
        AttentionInputs::new(numbers(&[2, 3, 5, 8], seed), numbers(&[2, 3, 7, 8], 2.0), numbers(&[2, 3, 7, 4], 3.0))
    };
    let uploaded = inputs(0.0).upload(gpu, DType::F32).unwrap();
    let mut run = Run::new(gpu);
    let outputs = options.record(&mut run, &uploaded).unwrap();
    let mut prepared = run.prepare().unwrap();
    let weights = outputs.weights.as_ref().unwrap();
    prepared.submit().unwrap();
    for seed in [0.5, 1.5, 2.5] {
        uploaded.query.write(gpu, &inputs(seed).query).unwrap();
        let before = gpu.counts();
        let got = prepared.submit_and_read(&[&outputs.output, weights]).unwrap();
        // Nothing was built or allocated for it.
        let after = gpu.counts();
        assert_eq!((after.pipelines, after.scratch_bytes), (before.pipelines, before.scratch_bytes));
        let fresh = options.run(gpu, &inputs(seed).upload(gpu, DType::F32).unwrap()).unwrap().download(gpu).unwrap();
        assert_eq!(got, [fresh.output, fresh.weights.unwrap()], "{seed}");
    }

    // Into an encoder of one's own, twice.
    uploaded.query.write(gpu, &inputs(4.0).query).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    prepared.encode(&mut encoder).unwrap();
    prepared.encode(&mut encoder).unwrap();
    gpu.queue().submit([encoder.finish()]);
    let fresh = options.run(gpu, &inputs(4.0).upload(gpu, DType::F32).unwrap()).unwrap().download(gpu).unwrap();
    assert_eq!(outputs.output.download(gpu).unwrap(), fresh.output);
}

#[test]
fn writes_that_do_not_fit_are_refused() {
    let gpu = gpu();
    let tensor = upload(gpu, "x", &numbers(&[2, 4], 0.0));
    let message = |result: regard::Result<()>| result.unwrap_err().to_string();
    assert_eq!(message(tensor.write(gpu, &numbers(&[4, 2], 0.0))), "`x` shape: expected [2, 4], found [4, 2]");
    assert_eq!(message(tensor.write_u32(gpu, &Array::filled(&[2, 4], 1))), "`x` dtype: expected u32, found f32");
    let turned = tensor.permute(&[1, 0]).unwrap();
    assert_eq!(message(turned.write(gpu, &numbers(&[4, 2], 0.0))), "`x` strides: expected contiguous, found [1, 4]");
    // Part of it, from the second row on.
    let row = tensor.narrow(0, 1, 1).unwrap();
    row.write(gpu, &Array::filled(&[1, 4], 7.0)).unwrap();
    let want: Vec<f32> = numbers(&[4], 0.0).into_data().into_iter().chain([7.0; 4]).collect();
    assert_eq!(tensor.download(gpu).unwrap().data(), want);
    let other = open(Default::default());
    assert!(matches!(tensor.write(&other, &numbers(&[2, 4], 0.0)), Err(Error::Shape { axis, .. }) if axis == "device"));
    if gpu.caps().f16 {
        let halves = Tensor::upload(gpu, "halves", &numbers(&[2, 3], 0.0), DType::F16).unwrap();
        halves.write(gpu, &Array::filled(&[2, 3], 2.0)).unwrap();
        assert_eq!(halves.download(gpu).unwrap(), Array::filled(&[2, 3], 2.0));
        let found = message(halves.narrow(0, 0, 1).unwrap().write(gpu, &numbers(&[1, 3], 0.0)));
        assert_eq!(found, "`halves` place: expected whole words of 4 bytes, found 6 bytes from 0 on");
        let found = message(halves.narrow(0, 1, 1).unwrap().write(gpu, &numbers(&[1, 3], 0.0)));
        assert_eq!(found, "`halves` place: expected whole words of 4 bytes, found 6 bytes from 6 on");
    }
}

#[test]
fn tensors_are_rebound_by_name() {
    let gpu = gpu();
    let (x, weight) = (upload(gpu, "x", &numbers(&[3, 8], 0.0)), upload(gpu, "weight", &numbers(&[5, 8], 1.0)));
    let mut run = Run::new(gpu);
    let y = linear(&mut run, &[(&x, &weight)], &Epilogue::default()).unwrap();
    let z = linear(&mut run, &[(&x, &weight)], &Epilogue { activation: Some(Activation::Relu), ..Epilogue::default() })
        .unwrap();
    let mut prepared = run.prepare().unwrap();
    let check = |prepared: &mut Prepared, x: &Array<f32>| {
        let weight = numbers(&[5, 8], 1.0);
        let want = [None, Some(Activation::Relu)].map(|f| reference::linear(x, &weight, None, f).unwrap());
        let got = prepared.submit_and_read(&[&y, &z]).unwrap();
        for (got, want) in got.iter().zip(want) {
            assert!(got.data().iter().zip(want.data()).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?} {want:?}");
        }
    };
    check(&mut prepared, &numbers(&[3, 8], 0.0));
    let other = upload(gpu, "other", &numbers(&[3, 8], 2.0));
    prepared.rebind("x", &other).unwrap();
    check(&mut prepared, &numbers(&[3, 8], 2.0));
    // Part of a larger tensor, far enough into it to be bound.
    let many = upload(gpu, "many", &numbers(&[64, 3, 8], 3.0));
    let part = many.narrow(0, 32, 1).unwrap();
    let part =
        part.with_layout(Layout { shape: [3, 8].into(), strides: [8, 1].into(), ..part.layout().clone() }).unwrap();
    prepared.rebind("x", &part).unwrap();
    let rows = numbers(&[64, 3, 8], 3.0).data()[32 * 24..33 * 24].to_vec();
    let rows = Array::new(&[3, 8], rows).unwrap();
    check(&mut prepared, &rows);

    let refused =
        |prepared: &mut Prepared, name: &str, tensor: &Tensor| prepared.rebind(name, tensor).unwrap_err().to_string();
    assert_eq!(refused(&mut prepared, "y", &other), "`y`: expected a tensor of that name bound to the run, found none");
    let wide = upload(gpu, "wide", &numbers(&[3, 9], 0.0));
    assert_eq!(refused(&mut prepared, "x", &wide), "`x` shape: expected [3, 8], found [3, 9]");
    let turned = upload(gpu, "turned", &numbers(&[8, 3], 0.0)).permute(&[1, 0]).unwrap();
    assert_eq!(refused(&mut prepared, "x", &turned), "`x` strides: expected [8, 1], found [1, 3]");
    let ids = Tensor::upload_u32(gpu, "ids", &Array::filled(&[3, 8], 1)).unwrap();
    assert_eq!(refused(&mut prepared, "x", &ids), "`x` dtype: expected f32, found u32");
    let odd = upload(gpu, "odd", &numbers(&[25], 0.0));
    let odd = odd.with_layout(Layout { shape: [3, 8].into(), strides: [8, 1].into(), offset: 1 }).unwrap();
    assert!(
        refused(&mut prepared, "x", &odd).starts_with("`x` place in the buffer: expected 96 bytes from a multiple of")
    );
    let foreign = upload(&open(Default::default()), "foreign", &numbers(&[3, 8], 0.0));
    assert!(refused(&mut prepared, "x", &foreign).starts_with("`x` device: expected a tensor of this `Gpu`"));
    // A dispatch must not read what it writes.
    let output = Tensor::uninitialized(gpu, "output", &[3, 8], DType::F32).unwrap();
    let mut copying = Run::new(gpu);
    let (from, to) = (copying.bind("from", &other), copying.bind("to", &output));
    regard::kernels::copy::record(copying.recording_mut(), gpu.caps(), &from, &to).unwrap();
    let mut copying = copying.prepare().unwrap();
    assert!(refused(&mut copying, "other", &output).contains("which the same dispatch reads"));
    // After all that, both are as they were.
    check(&mut prepared, &rows);
    assert_eq!(copying.submit_and_read(&[&output]).unwrap()[0], numbers(&[3, 8], 2.0));

    // Two tensors of one name cannot be told apart.
    let mut run = Run::new(gpu);
    let twins = [0.0, 1.0].map(|seed| upload(gpu, "x", &numbers(&[3, 8], seed)));
    let _outputs = twins.each_ref().map(|x| linear(&mut run, &[(x, &weight)], &Epilogue::default()).unwrap());
    assert!(refused(&mut run.prepare().unwrap(), "x", &other).contains("several tensors of the run have this name"));
}

/// What a token of one layer passes through: turned, appended, attended to.
fn layer(
    run: &mut Run<'_>,
    step: &CacheStep,
    positions: &Tensor,
    layer: usize,
    [query, key, value]: [&Tensor; 3],
    tables: [&Tensor; 2],
) -> Tensor {
    let turn = |run: &mut Run<'_>, x: &Tensor| rotary(run, x, tables, Some(positions), Rotary::default()).unwrap();
    let (query, key) = (turn(run, query), turn(run, key));
    step.append(run, layer, &key, value).unwrap();
    let attention = Attention { causal: Some(Causal::TopLeft), ..Attention::default() };
    attention.record(run, &step.inputs(layer, &query).unwrap()).unwrap().output
}

/// A token that is recorded once and replayed, against tokens that are recorded anew, bit by bit: in one piece and in
/// pages, on several layers of one cache.
#[test]
fn a_replayed_token_is_a_recorded_one() {
    for gpu in [gpu(), minimal_gpu()] {
        for page in [None, Some(3)] {
            let shape = CacheShape { layers: 3, batch: 2, kv_heads: 2, capacity: 12, key_dim: 8, value_dim: 6 };
            let cache = || match page {
                None => KvCache::new(gpu, shape, DType::F32).unwrap(),
                Some(size) => KvCache::paged(gpu, shape, size, 10, DType::F32).unwrap(),
            };
            let all = [numbers(&[2, 4, 14, 8], 1.0), numbers(&[2, 2, 14, 8], 2.0), numbers(&[2, 2, 14, 6], 3.0)];
            let tables = [4.0, 5.0].map(|seed| upload(gpu, "table", &numbers(&[16, 4], seed)));
            let tables = tables.each_ref();
            let record = |run: &mut Run<'_>, cache: &mut KvCache, inputs: [&Tensor; 3]| {
                let positions = cache.positions(run, 1).unwrap();
                let step = cache.step(run, 1, None).unwrap();
                (0..cache.layers()).map(|l| layer(run, &step, &positions, l, inputs, tables)).collect::<Vec<_>>()
            };
            let names = ["query", "key", "value"];
            let mut anew = cache();
            let mut replayed = cache();
            let held: Vec<Tensor> = (0..3).map(|k| upload(gpu, names[k], &token(&all[k], 0))).collect();
            let mut run = Run::new(gpu);
            let outputs = record(&mut run, &mut replayed, [&held[0], &held[1], &held[2]]);
            let mut prepared = run.prepare().unwrap();
            assert_eq!(replayed.lengths(), [0, 0]);
            for t in 0..12 {
                for k in 0..3 {
                    held[k].write(gpu, &token(&all[k], t)).unwrap();
                }
                let got = prepared.submit_and_read(&outputs.iter().collect::<Vec<_>>()).unwrap();
                let mut run = Run::new(gpu);
                let fresh: Vec<Tensor> = (0..3).map(|k| upload(gpu, names[k], &token(&all[k], t))).collect();
                let want = record(&mut run, &mut anew, [&fresh[0], &fresh[1], &fresh[2]]);
                let want = run.submit_and_read(&want.iter().collect::<Vec<_>>()).unwrap();
                assert_eq!(got, want, "page {page:?}, token {t}");
                assert_eq!(replayed.lengths(), [t + 1; 2]);
                assert_eq!(replayed.free_pages(), anew.free_pages());
                // What is cut off is written again, on pages that something else may have held.
                if t == 6 {
                    for cache in [&mut anew, &mut replayed] {
                        cache.truncate(1, 2).unwrap();
                        cache.truncate(0, 5).unwrap();
                    }
                    let cut = |cache: &mut KvCache, prepared: Option<&mut Prepared>| match prepared {
                        Some(prepared) => (0..2).for_each(|_| prepared.submit().unwrap()),
                        None => (0..2).for_each(|_| {
                            let mut run = Run::new(gpu);
                            record(&mut run, cache, [&held[0], &held[1], &held[2]]);
                            run.submit().unwrap();
                        }),
                    };
                    cut(&mut anew, None);
                    cut(&mut replayed, Some(&mut prepared));
                    for cache in [&mut anew, &mut replayed] {
                        assert_eq!(cache.lengths(), [7, 4]);
                        cache.truncate(0, 4).unwrap();
                        for _ in 4..7 {
                            let mut run = Run::new(gpu);
                            record(&mut run, cache, [&held[0], &held[1], &held[2]]);
                            run.submit().unwrap();
                        }
                    }
                }
            }
            // The thirteenth has no room, and leaves everything as it was.
            let before = (replayed.lengths(), replayed.free_pages());
            assert!(matches!(prepared.submit(), Err(Error::Limit { .. })));
            assert_eq!((replayed.lengths(), replayed.free_pages()), before);
        }
    }
}

#[test]
fn steps_of_several_layers_are_refused_where_one_is_meant() {
    let gpu = gpu();
    let shape = CacheShape { layers: 2, batch: 1, kv_heads: 1, capacity: 4, key_dim: 4, value_dim: 4 };
    let mut cache = KvCache::new(gpu, shape, DType::F32).unwrap();
    let rows = upload(gpu, "rows", &numbers(&[1, 1, 1, 4], 0.0));
    let mut run = Run::new(gpu);
    let refused = "option `cache`: has 2 layers: begin a step with `KvCache::step`";
    assert_eq!(cache.append(&mut run, &rows, &rows, None).unwrap_err().to_string(), refused);
    assert_eq!(cache.inputs(&mut run, &rows, None).unwrap_err().to_string(), refused);
    let step = cache.step(&mut run, 1, None).unwrap();
    step.append(&mut run, 1, &rows, &rows).unwrap();
    let message = step.append(&mut run, 2, &rows, &rows).unwrap_err().to_string();
    assert_eq!(message, "`cache` layer: expected below 2, found 2");
    let wide = upload(gpu, "rows", &numbers(&[1, 1, 2, 4], 0.0));
    let message = step.append(&mut run, 0, &wide, &wide).unwrap_err().to_string();
    assert_eq!(message, "`key` shape: expected [1, 1, 1, 4], found [1, 1, 2, 4]");
    assert!(KvCache::new(gpu, CacheShape { layers: 0, ..shape }, DType::F32).is_err());
}

/// `record` twice: with values that share memory, and with a clone of the run that keeps each value's own. The same bits, in
/// at most `share` of the memory.
fn shares_memory(what: &str, share: f64, record: impl Fn(&mut Run<'_>) -> Vec<Tensor>) {
    let gpu = gpu();
    let mut run = Run::new(gpu);
    let apart = record(&mut run);
    let held = run.clone();
    let footprint = run.footprint();
    assert!(footprint.shared * 10 >= footprint.apart * 9, "{what}: a clone holds the values: {footprint:?}");
    let want = run.submit_and_read(&apart.iter().collect::<Vec<_>>()).unwrap();
    drop(held);
    let mut run = Run::new(gpu);
    let outputs = record(&mut run);
    let footprint = run.footprint();
    let prepared = run.prepare().unwrap();
    assert_eq!(prepared.footprint(), footprint);
    drop(prepared);
    let mut run = Run::new(gpu);
    let outputs_too = record(&mut run);
    drop(outputs);
    let got = run.submit_and_read(&outputs_too.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(got, want, "{what}");
    let found = footprint.shared as f64 / footprint.apart as f64;
    println!("{what}: {} of {} bytes, {found:.3}", footprint.shared, footprint.apart);
    assert!(found <= share, "{what}: {footprint:?}");
}

/// Six layers of attention and a feed-forward network.
#[test]
fn an_encoder_of_six_layers_needs_a_fraction_of_its_values() {
    let (width, rows) = (64, 48);
    let matrix = |out: usize, inputs: usize, seed: f32| numbers(&[out, inputs], seed).map(|x| x * 0.1);
    let layers: Vec<_> = (0..6)
        .map(|l| {
            let linear =
                |k: usize| Linear::with_bias(matrix(width, width, (l * 9 + k) as f32), numbers(&[width], k as f32));
            let attention = MultiHeadWeights {
                query: linear(0),
                key: linear(1),
                value: linear(2),
                output: linear(3),
                bias_key: None,
                bias_value: None,
            };
            let layer = MultiHeadAttention::new(4);
            let attention = GpuMultiHeadAttention::upload(gpu(), &layer, &attention, DType::F32).unwrap();
            let feed = [matrix(4 * width, width, l as f32), matrix(width, 4 * width, l as f32 + 0.5)];
            (attention, feed.map(|weight| upload(gpu(), "feed-forward", &weight)))
        })
        .collect();
    let x = upload(gpu(), "x", &numbers(&[2, rows, width], 0.0));
    shares_memory("6-layer encoder", 0.2, |run| {
        let mut x = x.clone();
        for (attention, [up, down]) in &layers {
            let inputs = AttentionInputs::new(x.clone(), x.clone(), x.clone());
            x = attention.record(run, &inputs).unwrap().output;
            let wide = linear(run, &[(&x, up)], &relu()).unwrap();
            x = linear(run, &[(&wide, down)], &Epilogue::default()).unwrap();
        }
        vec![x]
    });
}

/// One step of a decoder of four layers that attends to a memory and feeds its input.
#[test]
fn a_decoder_step_needs_a_fraction_of_its_values() {
    let (hidden, width, keys) = (32, 48, 40);
    let decoder = AttentionDecoder::luong(Rnn::new(Cell::Lstm));
    let cell = |l: usize| {
        let input = if l == 0 { 16 + 24 } else { hidden };
        vec![RnnWeights::new(numbers(&[4 * hidden, input], l as f32), numbers(&[4 * hidden, hidden], l as f32 + 0.5))]
    };
    let weights = DecoderWeights {
        cell: (0..4).map(cell).collect(),
        score: regard::attention::ScoreWeights { weight: Some(numbers(&[hidden, width], 1.0)), ..Default::default() },
        attention: Some(Linear::new(numbers(&[24, hidden + width], 2.0))),
    };
    let gpu = gpu();
    let decoder = GpuAttentionDecoder::upload(gpu, &decoder, &weights, DType::F32).unwrap();
    let memory = DecoderMemory::new(numbers(&[8, keys, width], 3.0)).upload(gpu, DType::F32).unwrap();
    let mut run = Run::new(gpu);
    let memory = decoder.remember(&mut run, &memory).unwrap();
    run.submit().unwrap();
    let state =
        DecoderState::new(numbers(&[4, 8, hidden], 4.0), Some(numbers(&[4, 8, hidden], 5.0))).upload(gpu).unwrap();
    let input = upload(gpu, "input", &numbers(&[1, 8, 16], 6.0));
    shares_memory("step of a recurrent decoder", 0.75, |run| {
        let outputs = decoder.record(run, &memory, &input, Some(&state)).unwrap();
        vec![outputs.output]
    });
}

/// One token through six layers of self-attention with a cache, attention to a memory and a feed-forward network.
#[test]
fn a_token_through_six_layers_needs_a_fraction_of_its_values() {
    let gpu = gpu();
    let (width, heads) = (64, 4);
    let matrix = |seed: usize, out: usize, inputs: usize| {
        upload(gpu, "weight", &numbers(&[out, inputs], seed as f32).map(|x| x * 0.1))
    };
    let weights: Vec<Vec<Tensor>> = (0..6)
        .map(|l| {
            let square = (0..8).map(|k| matrix(l * 10 + k, width, width));
            square.chain([matrix(l, 4 * width, width), matrix(l + 6, width, 4 * width)]).collect()
        })
        .collect();
    let memory = upload(gpu, "memory", &numbers(&[2, 20, width], 3.0));
    let x = upload(gpu, "x", &numbers(&[2, 1, width], 1.0));
    let shape = CacheShape { layers: 6, batch: 2, kv_heads: heads, capacity: 8, key_dim: 16, value_dim: 16 };
    shares_memory("token of 6 layers", 0.2, |run| {
        let mut cache = KvCache::new(gpu, shape, DType::F32).unwrap();
        let step = cache.step(run, 1, None).unwrap();
        let mut x = x.clone();
        for (l, w) in weights.iter().enumerate() {
            let project = |run: &mut Run<'_>, x: &Tensor, w: &Tensor| {
                linear(run, &[(x, w)], &Epilogue::default()).unwrap().heads(heads).unwrap()
            };
            let joined = |run: &mut Run<'_>, x: &Tensor, w: &Tensor| {
                let x = x.permute(&[0, 2, 1, 3]).unwrap();
                let x = x.with_layout(x.layout().reshape(&[2, 1, width]).unwrap()).unwrap();
                linear(run, &[(&x, w)], &Epilogue::default()).unwrap()
            };
            let [query, key, value] = [0, 1, 2].map(|k| project(run, &x, &w[k]));
            step.append(run, l, &key, &value).unwrap();
            let own = Attention::default().record(run, &step.inputs(l, &query).unwrap()).unwrap();
            x = joined(run, &own.output, &w[3]);
            let [query, key, value] = [(&x, 4), (&memory, 5), (&memory, 6)].map(|(x, k)| project(run, x, &w[k]));
            let cross = Attention::default().record(run, &AttentionInputs::new(query, key, value)).unwrap();
            x = joined(run, &cross.output, &w[7]);
            let wide = linear(run, &[(&x, &w[8])], &relu()).unwrap();
            x = linear(run, &[(&wide, &w[9])], &Epilogue::default()).unwrap();
        }
        vec![x]
    });
}
