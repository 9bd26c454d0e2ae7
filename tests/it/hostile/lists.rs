//! Lengths, pages, ends, positions and ids in device memory, where no host has looked at them: each counts for what its
//! documentation says, and nothing outside the tensors is touched.

use std::cell::Cell as Counter;

use proptest::prelude::*;
use regard::attention::{Algorithm, Attention, AttentionInputs, Causal, CuSeqlens, Rotary, Window};
use regard::gpu::{Gpu, Run};
use regard::ops::{cache::append, linear::embed, rnn::GpuRnn, rotary::rotary};
use regard::rnn::{Cell, Rnn, RnnAlgorithm, RnnInputs, RnnWeights};
use regard::tensor::{Array, DType, Layout};
use regard::{Result, Tensor, reference};

use crate::gpu::gpu;
use crate::gpu_properties::{hold, wrong};

fn numbers(shape: &[usize], seed: f32) -> Array<f32> {
    Array::from_fn(shape, |k| ((k as f32 + 1.0) * (seed + 0.37)).sin())
}

/// What no one would write, and what one would: around `end`, and where 32 bits end.
fn words(count: usize, end: u32) -> impl Strategy<Value = Vec<u32>> {
    let odd = prop::sample::select(vec![0, 1, end - 1, end, end + 1, i32::MAX as u32, 1 << 31, u32::MAX - 1, u32::MAX]);
    prop::collection::vec(prop_oneof![0..=end, odd], count)
}

fn list(gpu: &Gpu, shape: &[usize], words: &[u32]) -> Result<Tensor> {
    Tensor::upload_u32(gpu, "list", &Array::new(shape, words.to_vec())?)
}

fn bits(array: &Array<f32>) -> Vec<u32> {
    array.data().iter().map(|x| x.to_bits()).collect()
}

const GUARD: f32 = 123.456;
const MARGIN: usize = 64;

/// A tensor inside a larger one, and that one, which holds the same number everywhere.
fn guarded(gpu: &Gpu, shape: &[usize]) -> Result<(Tensor, Tensor)> {
    let elements: usize = shape.iter().product();
    let whole = Tensor::upload(gpu, "guarded", &Array::filled(&[elements + 2 * MARGIN], GUARD), DType::F32)?;
    let inside = whole.with_layout(Layout { offset: MARGIN, ..Layout::contiguous(shape) })?;
    Ok((whole, inside))
}

/// What lies inside, if nothing outside has changed.
fn unguarded(gpu: &Gpu, whole: &Tensor, shape: &[usize]) -> Result<Array<f32>> {
    let all = whole.download(gpu)?.into_data();
    let end = all.len() - MARGIN;
    if all[..MARGIN].iter().chain(&all[end..]).any(|&x| x != GUARD) {
        return Err(wrong("something outside the output was written"));
    }
    Array::new(shape, all[MARGIN..end].to_vec())
}

fn attend(gpu: &Gpu, options: &Attention, inputs: &AttentionInputs<Tensor>, shape: &[usize]) -> Result<Array<f32>> {
    let (whole, output) = guarded(gpu, shape)?;
    let mut run = Run::new(gpu);
    options.record_into(&mut run, inputs, &output)?;
    run.submit()?;
    unguarded(gpu, &whole, shape)
}

/// Attention with `edit` of its lists as they are and as they count gives the same bits; the latter is right.
fn counts_for(
    options: &Attention,
    inputs: &AttentionInputs<Array<f32>>,
    hostile: &AttentionInputs<Tensor>,
) -> Result<()> {
    let gpu = gpu();
    let shape = [&inputs.query.shape()[..3], &inputs.value.shape()[3..]].concat();
    let meant = attend(gpu, options, &inputs.upload(gpu, DType::F32)?, &shape)?;
    let found = attend(gpu, options, hostile, &shape)?;
    if bits(&found) != bits(&meant) {
        return Err(wrong(format!("{:?} instead of {:?}", found.data(), meant.data())));
    }
    let want = reference::attention(options, inputs)?.output;
    regard::compare::close("output", &found, &want, 1e-4, 1e-5)?.check("output").map(drop)
}

fn paths() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(vec![Algorithm::Auto, Algorithm::Staged])
}

#[test]
fn lengths_past_the_end_are_the_end() {
    let lists = (words(2, 11), words(2, 5), paths());
    hold(30, lists, |(kv, query, path)| {
        let options = Attention { causal: Some(Causal::BottomRight), path, ..Attention::default() };
        let mut inputs = AttentionInputs::new(
            numbers(&[2, 4, 5, 8], 1.0),
            numbers(&[2, 2, 11, 8], 2.0),
            numbers(&[2, 2, 11, 8], 3.0),
        );
        let mut hostile = inputs.upload(gpu(), DType::F32)?;
        (hostile.kv_lengths, hostile.query_lengths) = (list(gpu(), &[2], &kv).ok(), list(gpu(), &[2], &query).ok());
        inputs.kv_lengths = Some(Array::from_fn(&[2], |b| kv[b].min(11)));
        inputs.query_lengths = Some(Array::from_fn(&[2], |b| query[b].min(5)));
        counts_for(&options, &inputs, &hostile)
    });
}

#[test]
fn pages_past_the_pool_are_the_last_one() {
    hold(30, (words(6, 4), words(2, 9), paths()), |(table, kv, path)| {
        let options = Attention { path, ..Attention::default() };
        let mut inputs =
            AttentionInputs::new(numbers(&[2, 4, 2, 8], 1.0), numbers(&[4, 2, 3, 8], 2.0), numbers(&[4, 2, 3, 8], 3.0));
        let mut hostile = inputs.upload(gpu(), DType::F32)?;
        (hostile.block_table, hostile.kv_lengths) = (list(gpu(), &[2, 3], &table).ok(), list(gpu(), &[2], &kv).ok());
        inputs.block_table = Some(Array::from_fn(&[2, 3], |k| table[k].min(3)));
        inputs.kv_lengths = Some(Array::from_fn(&[2], |b| kv[b].min(9)));
        counts_for(&options, &inputs, &hostile)
    });
}

/// Lists that ascend mean their ends; of others nothing is said but that they do no harm.
#[test]
fn ends_past_the_last_token_are_the_last_token() {
    let (ascending, other) = (Counter::new(0), Counter::new(0));
    hold(60, (words(4, 7), words(4, 9), paths(), any::<bool>()), |(mut queries, mut keys, path, sorted)| {
        let options = Attention { window: Some(Window::new(Some(2), None)), path, ..Attention::default() };
        if sorted {
            queries.sort();
            keys.sort();
        }
        let mut inputs =
            AttentionInputs::new(numbers(&[1, 4, 7, 8], 1.0), numbers(&[1, 2, 9, 8], 2.0), numbers(&[1, 2, 9, 8], 3.0));
        let mut hostile = inputs.upload(gpu(), DType::F32)?;
        hostile.cu_seqlens = Some(CuSeqlens { q: list(gpu(), &[4], &queries)?, k: list(gpu(), &[4], &keys)? });
        if queries.is_sorted() && keys.is_sorted() {
            ascending.set(ascending.get() + 1);
            let (q, k) = (Array::from_fn(&[4], |n| queries[n].min(7)), Array::from_fn(&[4], |n| keys[n].min(9)));
            inputs.cu_seqlens = Some(CuSeqlens { q, k });
            return counts_for(&options, &inputs, &hostile);
        }
        other.set(other.get() + 1);
        let found = attend(gpu(), &options, &hostile, &[1, 4, 7, 8])?;
        // Averages of what is there.
        let most = inputs.value.data().iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let inside = found.data().iter().all(|x| x.abs() <= most * 1.0001);
        if inside { Ok(()) } else { Err(wrong(format!("{:?}", found.data()))) }
    });
    assert!(ascending.get() > 10 && other.get() > 10);
}

#[test]
fn ids_past_the_table_are_its_last_row() {
    hold(20, words(9, 6), |ids| {
        let table = numbers(&[6, 5], 1.0);
        let mut run = Run::new(gpu());
        let tensor = Tensor::upload(gpu(), "table", &table, DType::F32)?;
        let found = embed(&mut run, &tensor, &list(gpu(), &[9], &ids)?)?;
        run.submit()?;
        let want = Array::from_fn(&[9, 5], |k| table.data()[ids[k / 5].min(5) as usize * 5 + k % 5]);
        if found.download(gpu())? == want { Ok(()) } else { Err(wrong("other rows")) }
    });
}

#[test]
fn positions_past_the_tables_are_their_last_row() {
    let offsets = prop::sample::select(vec![0, 3, 6, 7, u32::MAX as usize, usize::MAX]);
    hold(20, (words(6, 7), offsets), |(positions, offset)| {
        let x = numbers(&[2, 1, 3, 4], 1.0);
        let tables = Rotary::tables(100.0, 4, 7)?;
        let upload = |name: &str, array: &Array<f32>| Tensor::upload(gpu(), name, array, DType::F32);
        let [cos, sin] = [upload("cos", &tables[0])?, upload("sin", &tables[1])?];
        let turned = |positions: &[u32], offset: usize| -> Result<Array<f32>> {
            let mut run = Run::new(gpu());
            let options = Rotary { offset, ..Rotary::default() };
            let list = list(gpu(), &[2, 3], positions)?;
            let found = rotary(&mut run, &upload("x", &x)?, [&cos, &sin], Some(&list), options)?;
            run.submit()?;
            found.download(gpu())
        };
        let meant: Vec<u32> = positions.iter().map(|&p| (p as usize).saturating_add(offset).min(6) as u32).collect();
        if turned(&positions, offset)? == turned(&meant, 0)? { Ok(()) } else { Err(wrong("turned otherwise")) }
    });
}

/// Rows past the end are dropped or begin again, rows whose page is none are dropped, and no other row changes.
#[test]
fn rows_for_no_place_in_a_cache_are_dropped() {
    hold(40, (words(2, 6), any::<bool>(), proptest::option::of(words(4, 4))), |(starts, wrap, table)| {
        let rows = numbers(&[2, 1, 4, 3], 2.0);
        let shape = if table.is_some() { [4, 1, 3, 3] } else { [2, 1, 6, 3] };
        let (whole, cache) = guarded(gpu(), &shape)?;
        let mut run = Run::new(gpu());
        let tensor = Tensor::upload(gpu(), "rows", &rows, DType::F32)?;
        let pages = table.as_ref().map(|words| list(gpu(), &[2, 2], words)).transpose()?;
        append(&mut run, &cache, &tensor, &list(gpu(), &[2], &starts)?, pages.as_ref(), wrap)?;
        run.submit()?;
        let found = unguarded(gpu(), &whole, &shape)?;
        let (rows_of_page, capacity) = (shape[2], 6);
        // Two batch rows may share a page: then either's row may stand there.
        let mut may = vec![vec![GUARD.to_bits()]; found.data().len()];
        let mut written = vec![Vec::new(); found.data().len()];
        for (b, n) in (0..2usize).flat_map(|b| (0..4usize).map(move |n| (b, n))) {
            let place = match starts[b] as usize + n {
                place if wrap => place % capacity,
                place if place < capacity => place,
                _ => continue,
            };
            let page = match &table {
                Some(table) => table[b * 2 + place / rows_of_page] as usize,
                None => b,
            };
            if page >= shape[0] {
                continue;
            }
            let row = if table.is_some() { place % rows_of_page } else { place };
            for d in 0..3 {
                let at = (page * rows_of_page + row) * 3 + d;
                written[at].push(rows.data()[(b * 4 + n) * 3 + d].to_bits());
            }
        }
        written.into_iter().enumerate().filter(|(_, found)| !found.is_empty()).for_each(|(at, found)| may[at] = found);
        let right = found.data().iter().zip(&may).all(|(x, may)| may.contains(&x.to_bits()));
        if right { Ok(()) } else { Err(wrong(format!("{:?}", found.data()))) }
    });
}

#[test]
fn steps_past_the_sequence_are_its_end() {
    let gpu = gpu();
    let one = Rnn::new(Cell::Lstm);
    let stack = vec![vec![RnnWeights::new(numbers(&[16, 3], 1.0), numbers(&[16, 4], 2.0)); 2]];
    for path in [RnnAlgorithm::Steps, RnnAlgorithm::Persistent] {
        let options = Rnn { path, ..one.clone().bidirectional() };
        let rnn = GpuRnn::upload(gpu, &options, &stack, DType::F32).unwrap();
        hold(15, words(5, 6), |lengths| {
            let mut inputs = RnnInputs::new(numbers(&[6, 5, 3], 3.0));
            let mut hostile = inputs.upload(gpu, DType::F32)?;
            hostile.lengths = Some(list(gpu, &[5], &lengths)?);
            inputs.lengths = Some(Array::from_fn(&[5], |b| lengths[b].min(6)));
            let (found, meant) = (rnn.run(gpu, &hostile)?, rnn.run(gpu, &inputs.upload(gpu, DType::F32)?)?);
            for ((name, found), (_, meant)) in found.named().zip(meant.named()) {
                if bits(&found.download(gpu)?) != bits(&meant.download(gpu)?) {
                    return Err(wrong(name));
                }
            }
            let want = reference::rnn(&options, &stack, &inputs)?.output;
            regard::compare::close("output", &found.output.download(gpu)?, &want, 1e-4, 1e-5)?.check("output").map(drop)
        });
    }
}
