//! Caches, rotary embedding and merging on the GPU, each against the reference and against doing it all at once.

use regard::attention::{Attention, AttentionInputs, Causal, Rotary, RotaryLayout, Window};
use regard::baseline::stored;
use regard::compare::judge;
use regard::gpu::Run;
use regard::ops::cache::{CacheShape, KvCache, append};
use regard::ops::merge::merge;
use regard::ops::rotary::rotary;
use regard::reference;
use regard::tensor::{Array, DType, Layout};
use regard::{Error, Gpu, Tensor};

use crate::gpu::{gpu, minimal_gpu, some};

mod runs;

fn numbers(shape: &[usize], seed: f32) -> Array<f32> {
    Array::from_fn(shape, |k| ((k as f32 + 1.0) * (seed + 0.37)).sin() * 1.5)
}

fn upload(gpu: &Gpu, array: &Array<f32>, dtype: DType) -> Tensor {
    Tensor::upload(gpu, "test", array, dtype).unwrap()
}

fn wide(array: &Array<f32>) -> Array<f64> {
    array.map(|&x| f64::from(x))
}

/// One axis cut to `length` entries from `start` on.
fn cut(array: &Array<f32>, axis: usize, start: usize, length: usize) -> Array<f32> {
    array.gather(&Layout::contiguous(array.shape()).narrow(axis, start, length).unwrap()).unwrap()
}

/// `got` against the same in f64, with the f32 reference as baseline.
fn passes(what: &str, got: &Array<f32>, oracle: &Array<f64>, baseline: &Array<f32>) {
    judge(what, got, oracle, baseline, DType::F32).and_then(|verdict| verdict.check(what)).unwrap();
}

const SHAPE: CacheShape = CacheShape { layers: 1, batch: 3, kv_heads: 2, capacity: 40, key_dim: 6, value_dim: 5 };

/// Prefill and then single steps through a cache, in one run without a read-back, against one causal call over
/// everything.
#[test]
fn decoding_through_a_cache_equals_one_causal_call() {
    let (query, key, value) =
        (numbers(&[3, 4, 33, 6], 1.0), numbers(&[3, 2, 33, 6], 2.0), numbers(&[3, 2, 33, 5], 3.0));
    let options = Attention {
        causal: Some(Causal::TopLeft),
        window: Some(Window { left: Some(20), right: None, sink_tokens: 2 }),
        lse: true,
        ..Attention::default()
    };
    let whole = AttentionInputs::new(query.clone(), key.clone(), value.clone());
    let oracle = reference::attention(&options, &whole.map_numbers(wide)).unwrap();
    let baseline = reference::attention(&options, &whole).unwrap();
    for gpu in some([gpu(), minimal_gpu()], 2) {
        for page in [None, Some(1), Some(4), Some(7), Some(64)] {
            let mut cache = match page {
                None => KvCache::new(gpu, SHAPE, DType::F32).unwrap(),
                Some(size) => KvCache::paged(gpu, SHAPE, size, 3 * 40usize.div_ceil(size), DType::F32).unwrap(),
            };
            let mut run = Run::new(gpu);
            let mut parts = Vec::new();
            for (start, n) in [(0, 17), (17, 1), (18, 3), (21, 1), (22, 11)] {
                let part = |array: &Array<f32>| upload(gpu, &cut(array, 2, start, n), DType::F32);
                cache.append(&mut run, &part(&key), &part(&value), None).unwrap();
                let inputs = cache.inputs(&mut run, &part(&query), None).unwrap();
                parts.push((start, n, options.record(&mut run, &inputs).unwrap()));
            }
            let submits = gpu.counts().submits;
            run.submit().unwrap();
            assert!(gpu.counts().submits > submits);
            for (start, n, outputs) in parts {
                let got = outputs.download(gpu).unwrap();
                let slice = |array: &Array<f64>| {
                    array.gather(&Layout::contiguous(array.shape()).narrow(2, start, n).unwrap()).unwrap()
                };
                let what = format!("page {page:?}, step at {start}");
                passes(&what, &got.output, &slice(&oracle.output), &cut(&baseline.output, 2, start, n));
                let lse = (slice(oracle.lse.as_ref().unwrap()), cut(baseline.lse.as_ref().unwrap(), 2, start, n));
                passes(&what, got.lse.as_ref().unwrap(), &lse.0, &lse.1);
            }
            assert_eq!(cache.lengths(), [33; 3]);
        }
    }
}

/// Rows that grow unevenly, are cut back and reuse pages that held something else; the memory is full of poison.
#[test]
fn uneven_rows_share_a_pool_and_see_only_their_own() {
    let gpu = gpu();
    let (size, pages) = (4, 14);
    let shape = CacheShape { layers: 1, batch: 3, kv_heads: 1, capacity: 40, key_dim: 4, value_dim: 4 };
    let mut cache = KvCache::paged(gpu, shape, size, pages, DType::F32).unwrap();
    assert_eq!(cache.free_pages(), Some(14));
    let poison = Array::filled(&[pages, 1, size, 4], f32::NAN);
    for tensor in cache.tensors(0).unwrap() {
        let mut run = Run::new(gpu);
        let source = upload(gpu, &poison, DType::F32);
        let (source, target) = (run.bind("poison", &source), run.bind("pool", tensor));
        let caps = gpu.caps();
        regard::kernels::copy::record(run.recording_mut(), caps, &source, &target).unwrap();
        run.submit().unwrap();
    }
    // What each row holds, on the host.
    let mut held: [Vec<[f32; 4]>; 3] = Default::default();
    let mut tick = 0.0;
    // How much each row grows, and what is then cut to what length.
    type Step = (&'static [usize], &'static [(usize, usize)]);
    let script: [Step; 6] = [
        (&[5, 0, 9], &[]),
        (&[3, 7, 1], &[(2, 2)]),
        (&[0, 6, 2], &[(0, 4), (1, 1)]),
        (&[9, 3, 0], &[]),
        (&[1, 1, 1], &[(0, 0)]),
        (&[12, 0, 20], &[]),
    ];
    for (counts, cuts) in script {
        let n = counts.iter().copied().max().unwrap();
        tick += 1.0;
        // Past a row's count the new rows are poison too.
        let new = Array::from_fn(&[3, 1, n, 4], |k| match k / 4 % n < counts[k / 4 / n] {
            true => ((k as f32 + 1.0) * (0.3 + tick)).sin(),
            false => f32::INFINITY,
        });
        let mut run = Run::new(gpu);
        let tensor = upload(gpu, &new, DType::F32);
        cache.append(&mut run, &tensor, &tensor, Some(counts)).unwrap();
        for (b, &count) in counts.iter().enumerate() {
            held[b].extend((0..count).map(|k| [0, 1, 2, 3].map(|d| new.data()[(b * n + k) * 4 + d])));
        }
        let query = numbers(&[3, 2, 2, 4], tick);
        let options = Attention { weights: true, ..Attention::default() };
        let inputs = cache.inputs(&mut run, &upload(gpu, &query, DType::F32), None).unwrap();
        let outputs = options.record(&mut run, &inputs).unwrap();
        // The new rows themselves as queries, causal: the last real one of each batch row sees all its keys.
        let own = numbers(&[3, 2, n, 4], tick + 0.5);
        let causal = Attention { causal: Some(Causal::TopLeft), ..Attention::default() };
        let inputs = cache.inputs(&mut run, &upload(gpu, &own, DType::F32), Some(counts)).unwrap();
        let seen = causal.record(&mut run, &inputs).unwrap();
        run.submit().unwrap();
        assert_eq!(cache.lengths(), held.each_ref().map(Vec::len));
        let seen = seen.download(gpu).unwrap().output;
        for (b, &count) in counts.iter().enumerate() {
            let (real, padding) =
                (cut(&cut(&seen, 0, b, 1), 2, 0, count), cut(&cut(&seen, 0, b, 1), 2, count, n - count));
            assert!(padding.data().iter().all(|&x| x == 0.0));
            if count > 0 {
                let keys = Array::new(&[1, 1, held[b].len(), 4], held[b].concat()).unwrap();
                let alone = AttentionInputs::new(cut(&cut(&own, 0, b, 1), 2, 0, count), keys.clone(), keys);
                let causal = Attention { causal: Some(Causal::BottomRight), ..causal.clone() };
                let oracle = reference::attention(&causal, &alone.map_numbers(wide)).unwrap();
                passes("own", &real, &oracle.output, &reference::attention(&causal, &alone).unwrap().output);
            }
        }
        let got = outputs.download(gpu).unwrap();
        for (b, held) in held.iter().enumerate() {
            let output = cut(&got.output, 0, b, 1);
            if held.is_empty() {
                assert!(output.data().iter().all(|&x| x == 0.0));
                continue;
            }
            let keys = Array::new(&[1, 1, held.len(), 4], held.concat()).unwrap();
            let alone = AttentionInputs::new(cut(&query, 0, b, 1), keys.clone(), keys);
            let oracle = reference::attention(&options, &alone.map_numbers(wide)).unwrap();
            passes("uneven row", &output, &oracle.output, &reference::attention(&options, &alone).unwrap().output);
        }
        for &(row, length) in cuts {
            cache.truncate(row, length).unwrap();
            held[row].truncate(length);
        }
        let used: usize = held.iter().map(|held| held.len().div_ceil(size)).sum();
        assert_eq!(cache.free_pages(), Some(pages - used));
    }
    // Six more keys for each row need four pages; the pool has two.
    let more = upload(gpu, &numbers(&[3, 1, 6, 4], 1.0), DType::F32);
    let before = (cache.lengths(), cache.free_pages());
    let error = cache.append(&mut Run::new(gpu), &more, &more, Some(&[6, 6, 6])).unwrap_err();
    assert!(matches!(&error, Error::Limit { what, .. } if what == "free pages of a cache"), "{error}");
    assert_eq!((cache.lengths(), cache.free_pages()), before);
}

#[test]
fn what_a_cache_cannot_hold_is_refused_and_changes_nothing() {
    let gpu = gpu();
    let mut cache = KvCache::new(gpu, SHAPE, DType::F32).unwrap();
    let rows = |n: usize, dim: usize| upload(gpu, &numbers(&[3, 2, n, dim], 1.0), DType::F32);
    let mut run = Run::new(gpu);
    let refused = |result: regard::Result<()>| result.unwrap_err().to_string();
    let error = refused(cache.append(&mut run, &rows(41, 6), &rows(41, 5), None));
    assert_eq!(error, "keys in batch row 0 of a cache: needs 41, the device allows 40");
    let error = refused(cache.append(&mut run, &rows(2, 5), &rows(2, 5), None));
    assert_eq!(error, "`key` shape: expected [3, 2, 2, 6], found [3, 2, 2, 5]");
    let error = refused(cache.append(&mut run, &rows(2, 6), &rows(2, 5), Some(&[1, 3, 0])));
    assert_eq!(error, "`counts` elements: expected 3 numbers from 0 to 2, found [1, 3, 0]");
    let error = refused(cache.truncate(0, 1));
    assert_eq!(error, "`cache` length of row 0: expected at most 0, found 1");
    let error = refused(cache.truncate(3, 0));
    assert_eq!(error, "`cache` row: expected below 3, found 3");
    assert_eq!(cache.lengths(), [0; 3]);
    assert!(KvCache::paged(gpu, SHAPE, 0, 4, DType::F32).is_err());
    assert!(KvCache::new(gpu, CacheShape { layers: 1, batch: 0, ..SHAPE }, DType::F32).is_err());
    assert!(KvCache::new(gpu, SHAPE, DType::U32).is_err());
}

#[test]
fn appended_rows_lie_where_the_reference_puts_them() {
    let (cache, rows) = (numbers(&[3, 2, 7, 5], 1.0), numbers(&[3, 2, 4, 5], 2.0));
    for gpu in [gpu(), minimal_gpu()] {
        for wrap in [false, true] {
            for starts in [[0, 3, 6], [7, 1, 5], [2, 2, 100]] {
                let tensor = upload(gpu, &cache, DType::F32);
                let at = Array::new(&[3], starts.to_vec()).unwrap();
                let mut run = Run::new(gpu);
                let new = upload(gpu, &rows, DType::F32);
                append(&mut run, &tensor, &new, &Tensor::upload_u32(gpu, "starts", &at).unwrap(), None, wrap).unwrap();
                run.submit().unwrap();
                let want = reference::append(&cache, &rows, &starts.map(|n| n as usize), wrap).unwrap();
                assert_eq!(tensor.download(gpu).unwrap(), want, "{starts:?} {wrap}");
            }
        }
    }
}

#[test]
fn rows_are_turned_as_the_reference_turns_them() {
    let x = numbers(&[2, 3, 5, 12], 1.0);
    for gpu in [gpu(), minimal_gpu()] {
        for (layout, width) in [
            (RotaryLayout::HalfSplit, 12),
            (RotaryLayout::HalfSplit, 8),
            (RotaryLayout::Interleaved, 12),
            (RotaryLayout::Interleaved, 2),
        ] {
            let [cos, sin] = Rotary::tables(10_000.0, width, 5000).unwrap();
            let options = Rotary { layout, offset: 2 };
            let lists = [None, Some(Array::new(&[2, 5], vec![4990, 0, 7, 7, 3, 9, 4997, 1, 2, 4096]).unwrap())];
            for list in lists {
                let oracle = reference::rotary(&wide(&x), &wide(&cos), &wide(&sin), list.as_ref(), options).unwrap();
                let baseline = reference::rotary(&x, &cos, &sin, list.as_ref(), options).unwrap();
                let mut run = Run::new(gpu);
                // A view with the heads behind the rows.
                let strided = upload(gpu, &x.permute(&[0, 2, 1, 3]).unwrap(), DType::F32);
                let view = strided.permute(&[0, 2, 1, 3]).unwrap();
                let tables = [upload(gpu, &cos, DType::F32), upload(gpu, &sin, DType::F32)];
                let list = list.map(|list| Tensor::upload_u32(gpu, "positions", &list).unwrap());
                let turned = rotary(&mut run, &view, tables.each_ref(), list.as_ref(), options).unwrap();
                run.submit().unwrap();
                passes("rotary", &turned.download(gpu).unwrap(), &oracle, &baseline);
            }
        }
    }
}

/// Any cut of the keys, merged, is the whole; parts that saw nothing may hold anything.
#[test]
fn merged_parts_are_the_whole() {
    let (query, key, value) = (numbers(&[2, 4, 5, 6], 1.0), numbers(&[2, 2, 23, 6], 2.0), numbers(&[2, 2, 23, 7], 3.0));
    let options = Attention { lse: true, ..Attention::default() };
    let whole = AttentionInputs::new(query.clone(), key.clone(), value.clone());
    let oracle = reference::attention(&options, &whole.map_numbers(wide)).unwrap();
    let baseline = reference::attention(&options, &whole).unwrap();
    for gpu in [gpu(), minimal_gpu()] {
        for cuts in [&[0, 23][..], &[0, 1, 23], &[0, 11, 12, 23], &[0, 4, 8, 12, 16, 20, 23]] {
            let mut run = Run::new(gpu);
            let q = upload(gpu, &query, DType::F32);
            let mut parts: Vec<_> = cuts
                .windows(2)
                .map(|ends| {
                    let part = |array| upload(gpu, &cut(array, 2, ends[0], ends[1] - ends[0]), DType::F32);
                    let inputs = AttentionInputs::new(q.clone(), part(&key), part(&value));
                    let outputs = options.record(&mut run, &inputs).unwrap();
                    (outputs.output, outputs.lse.unwrap())
                })
                .collect();
            let nothing = (
                upload(gpu, &Array::filled(&[2, 4, 5, 7], f32::NAN), DType::F32),
                upload(gpu, &Array::filled(&[2, 4, 5], f32::NEG_INFINITY), DType::F32),
            );
            parts.insert(parts.len() / 2, nothing.clone());
            let pairs: Vec<_> = parts.iter().map(|(output, lse)| (output, lse)).collect();
            let (output, lse) = merge(&mut run, &pairs).unwrap();
            let empty = merge(&mut run, &[(&nothing.0, &nothing.1), (&nothing.0, &nothing.1)]).unwrap();
            run.submit().unwrap();
            passes("merged output", &output.download(gpu).unwrap(), &oracle.output, &baseline.output);
            let (oracle, baseline) = (oracle.lse.as_ref().unwrap(), baseline.lse.as_ref().unwrap());
            passes("merged lse", &lse.download(gpu).unwrap(), oracle, baseline);
            assert!(empty.0.download(gpu).unwrap().data().iter().all(|&x| x == 0.0));
            assert!(empty.1.download(gpu).unwrap().data().iter().all(|&x| x == f32::NEG_INFINITY));
        }
    }
}

const BLOCKS: CacheShape = CacheShape { layers: 1, batch: 2, kv_heads: 2, capacity: 40, key_dim: 64, value_dim: 32 };

/// Rows of f32 and f16 are rounded to q8 on the device exactly as on the host: every magnitude, halves of steps, blocks
/// that are all but 0, NaN and infinities.
#[test]
fn an_8_bit_cache_holds_what_the_host_makes_of_its_rows() {
    let blocks = 4000;
    let rows = Array::from_fn(&[1, 1, blocks, 32], |k| {
        let (block, within) = (k / 32, k % 32);
        let size = 10f32.powi((block % 75) as i32 - 37);
        match (block % 10, within) {
            (7, 3) => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][block % 3],
            (8, _) => (k * 7 % 509) as f32 * 0.5 - 127.0,
            (9, _) => 0.0,
            _ => ((k * k % 7919) as f32 * 0.37).sin() * size,
        }
    });
    for gpu in [gpu(), minimal_gpu()] {
        let types = if gpu.caps().f16 { vec![DType::F32, DType::F16] } else { vec![DType::F32] };
        for dtype in types {
            let cache = Tensor::uninitialized(gpu, "cache", rows.shape(), DType::Q8).unwrap();
            let start = Tensor::upload_u32(gpu, "start", &Array::filled(&[1], 0)).unwrap();
            let mut run = Run::new(gpu);
            append(&mut run, &cache, &upload(gpu, &rows, dtype), &start, None, false).unwrap();
            let got = run.submit_and_read(&[&cache]).unwrap().remove(0);
            let want = stored("rows", &stored("rows", &rows, dtype).unwrap(), DType::Q8).unwrap();
            for (k, (got, want)) in got.data().iter().zip(want.data()).enumerate() {
                let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                assert!(same, "{dtype} block {} element {}: {got} for {want}", k / 32, k % 32);
            }
            assert!(want.data().iter().any(|x| x.is_nan()) && want.data().contains(&0.0));
        }
    }
}

/// What is appended to an 8-bit cache is attended to as the values that it holds, in one piece and in pages.
#[test]
fn decoding_through_an_8_bit_cache_attends_to_what_it_holds() {
    let (query, key, value) =
        (numbers(&[2, 4, 33, 64], 1.0), numbers(&[2, 2, 33, 64], 2.0), numbers(&[2, 2, 33, 32], 3.0));
    let options = Attention { causal: Some(Causal::TopLeft), lse: true, ..Attention::default() };
    let kept = |array: &Array<f32>| stored("test", array, DType::Q8).unwrap();
    let whole = AttentionInputs::new(query.clone(), kept(&key), kept(&value));
    let oracle = reference::attention(&options, &whole.map_numbers(wide)).unwrap();
    let baseline = reference::attention(&options, &whole).unwrap();
    for gpu in some([gpu(), minimal_gpu()], 2) {
        for page in [None, Some(1), Some(7), Some(16)] {
            let mut cache = match page {
                None => KvCache::new(gpu, BLOCKS, DType::Q8).unwrap(),
                Some(size) => KvCache::paged(gpu, BLOCKS, size, 2 * 40usize.div_ceil(size), DType::Q8).unwrap(),
            };
            let mut run = Run::new(gpu);
            let mut parts = Vec::new();
            for (start, n) in [(0, 17), (17, 1), (18, 15)] {
                let part = |array: &Array<f32>| upload(gpu, &cut(array, 2, start, n), DType::F32);
                cache.append(&mut run, &part(&key), &part(&value), None).unwrap();
                let inputs = cache.inputs(&mut run, &part(&query), None).unwrap();
                parts.push((start, n, options.record(&mut run, &inputs).unwrap().output));
            }
            run.submit().unwrap();
            for (start, n, output) in parts {
                let layout = Layout::contiguous(oracle.output.shape()).narrow(2, start, n).unwrap();
                let want = oracle.output.gather(&layout).unwrap();
                let what = format!("page {page:?}, step at {start}");
                passes(&what, &output.download(gpu).unwrap(), &want, &cut(&baseline.output, 2, start, n));
            }
        }
    }
}

/// Views of whole blocks are views; what would cut a block, and what reads no blocks, is refused by name.
#[test]
fn blocks_of_an_8_bit_tensor_stay_whole() {
    let gpu = gpu();
    let array = numbers(&[3, 2, 5, 64], 1.0);
    let tensor = upload(gpu, &array, DType::Q8);
    assert_eq!(tensor.buffer().unwrap().size(), 3 * 2 * 5 * 2 * 36);
    let kept = stored("test", &array, DType::Q8).unwrap();
    assert_eq!(tensor.download(gpu).unwrap(), kept);
    // Every batch row and half row by itself: offsets that no alignment of bindings divides.
    for (b, half) in [(0, 0), (1, 1), (2, 0), (2, 1)] {
        let view = tensor.narrow(0, b, 1).unwrap().narrow(3, 32 * half, 32).unwrap().permute(&[0, 2, 1, 3]).unwrap();
        let want = cut(&cut(&kept, 0, b, 1), 3, 32 * half, 32).permute(&[0, 2, 1, 3]).unwrap();
        assert_eq!(view.download(gpu).unwrap(), want, "{b} {half}");
    }
    let refused = |result: regard::Result<Tensor>| result.unwrap_err().to_string();
    let q8 = |shape: &[usize]| Tensor::upload(gpu, "key", &numbers(shape, 1.0), DType::Q8);
    assert_eq!(refused(q8(&[1, 2, 3, 40])), "`key` axis 3: expected a multiple of 32 as q8, found 40");
    let cut_up = [
        (tensor.narrow(3, 16, 32), "offset: expected a multiple of 32 as q8, found 16"),
        (tensor.narrow(3, 0, 16), "axis 3: expected a multiple of 32 as q8, found 16"),
        (tensor.permute(&[0, 1, 3, 2]), "axis 3: expected a multiple of 32 as q8, found 5"),
        (
            tensor.with_layout(Layout { shape: [2, 32].into(), strides: [16, 1].into(), offset: 0 }),
            "stride of axis 0: expected a multiple of 32 as q8, found 16",
        ),
        (
            tensor.with_layout(Layout { shape: [32].into(), strides: [2].into(), offset: 0 }),
            "stride of axis 0: expected 1 as q8, found 2",
        ),
    ];
    for (result, reason) in cut_up {
        assert_eq!(refused(result), format!("`test` {reason}"));
    }
    let shape = CacheShape { key_dim: 48, ..BLOCKS };
    let error = KvCache::new(gpu, shape, DType::Q8).unwrap_err().to_string();
    assert_eq!(error, "`cached keys` axis 3: expected a multiple of 32 as q8, found 48");

    let (plain, half) = (upload(gpu, &array, DType::F32), upload(gpu, &array, DType::Q8));
    let attend = |query: &Tensor, key: &Tensor, value: &Tensor| {
        let inputs = AttentionInputs::new(query.clone(), key.clone(), value.clone());
        Attention::default().run(gpu, &inputs).map(|outputs| outputs.output)
    };
    assert!(attend(&plain, &half, &half).is_ok());
    assert_eq!(refused(attend(&half, &half, &half)), "`query` dtype: expected f32 or f16, found q8");
    assert_eq!(refused(attend(&plain, &half, &plain)), "`value` dtype: expected q8, found f32");
    assert_eq!(refused(attend(&plain, &plain, &half)), "`value` dtype: expected f32, found q8");
    let mut run = Run::new(gpu);
    let start = Tensor::upload_u32(gpu, "starts", &Array::filled(&[3], 0)).unwrap();
    let error = append(&mut run, &plain, &half, &start, None, false).unwrap_err().to_string();
    assert_eq!(error, "`rows` dtype: expected f32 or f16, found q8");
    let (source, target) = (run.bind("source", &plain), run.bind("target", &half));
    let error = regard::kernels::copy::record(run.recording_mut(), gpu.caps(), &source, &target).unwrap_err();
    assert_eq!(error.to_string(), "`target of a copy` dtype: expected f32, f16 or u32, found q8");
}
