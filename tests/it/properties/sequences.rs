//! Which keys a query sees: ragged batches, lengths of queries, pages, blocks, windows with sink tokens.

use regard::attention::{BlockMask, CuSeqlens, Rotary, RotaryEmbedding};

use super::*;

/// Rows `start .. start + length` of queries or keys.
fn rows(array: &Tensor, start: usize, length: usize) -> Tensor {
    cut(array, 2, start, length)
}

fn bools(shape: &[usize], visible: impl Fn(usize) -> bool) -> Array<u32> {
    Array::from_fn(shape, |k| u32::from(visible(k)))
}

fn numbers_of(values: &[usize]) -> Option<Array<u32>> {
    Array::new(&[values.len()], values.iter().map(|&n| n as u32).collect()).ok()
}

/// One batch row of 10 queries and 12 keys: tokens before the first sequence, after the last one, one sequence without
/// queries, one without keys, and one longer in queries than in keys.
const QUERY_ENDS: [usize; 6] = [1, 4, 4, 5, 9, 9];
const KEY_ENDS: [usize; 6] = [0, 5, 8, 8, 10, 11];

fn sequences(q: &[usize], k: &[usize]) -> Option<CuSeqlens<Array<u32>>> {
    Some(CuSeqlens { q: numbers_of(q)?, k: numbers_of(k)? })
}

fn ragged_inputs() -> AttentionInputs<Tensor> {
    let mut inputs =
        AttentionInputs::new(numbers(&[1, 4, 10, 6], 1.0), numbers(&[1, 2, 12, 6], 2.0), numbers(&[1, 2, 12, 5], 3.0));
    inputs.cu_seqlens = sequences(&QUERY_ENDS, &KEY_ENDS);
    inputs
}

/// A ragged batch against every sequence run alone; `edit` turns the inputs of all, or of sequence n, into the case.
fn ragged_is_each_alone(options: &Attention, edit: impl Fn(&mut AttentionInputs<Tensor>, Option<usize>)) {
    let mut packed = ragged_inputs();
    // no sequence has the last key, nor the first query
    for tensor in [&mut packed.key, &mut packed.value] {
        let width = tensor.shape()[3];
        tensor.data_mut().chunks_exact_mut(width).skip(11).step_by(12).for_each(|row| row.fill(f64::NAN));
    }
    packed.query.data_mut().chunks_exact_mut(6).step_by(10).for_each(|row| row.fill(f64::NAN));
    let plain = packed.clone();
    edit(&mut packed, None);
    let got = attend(options, &packed);
    let mut seen = 0;
    for n in 0..5 {
        let [(q, nq), (k, nk)] = [QUERY_ENDS, KEY_ENDS].map(|ends| (ends[n], ends[n + 1] - ends[n]));
        if nq == 0 {
            continue;
        }
        let weights = rows(got.weights.as_ref().unwrap(), q, nq);
        if nk == 0 {
            assert!(weights.data().iter().all(|w| *w == 0.0));
            continue;
        }
        let [query, key, value] = [rows(&plain.query, q, nq), rows(&plain.key, k, nk), rows(&plain.value, k, nk)];
        let mut alone = AttentionInputs::new(query, key, value);
        edit(&mut alone, Some(n));
        let want = attend(options, &alone);
        same("output", &rows(&got.output, q, nq), &want.output);
        same("weights", &cut(&weights, 3, k, nk), want.weights.as_ref().unwrap());
        if let (Some(got), Some(want)) = (&got.lse, &want.lse) {
            same("lse", &rows(got, q, nq), want);
        }
        // nothing leaks into another sequence
        let inside: f64 = cut(&weights, 3, k, nk).data().iter().sum();
        assert!((inside - weights.data().iter().sum::<f64>()).abs() < 1e-12);
        seen += 1;
    }
    assert_eq!(seen, 2);
    // the tokens of no sequence
    for i in [0, 9] {
        assert!(rows(&got.output, i, 1).data().iter().all(|x| *x == 0.0));
        if let Some(lse) = &got.lse {
            assert!(rows(lse, i, 1).data().iter().all(|x| *x == f64::NEG_INFINITY));
        }
    }
}

#[test]
fn a_ragged_batch_equals_each_sequence_alone() {
    let sink = Window { sink_tokens: 1, ..Window::new(Some(1), Some(0)) };
    for causal in [None, Some(Causal::TopLeft), Some(Causal::BottomRight)] {
        for window in [None, Some(Window::new(Some(1), Some(1))), Some(sink)] {
            let options = Attention { causal, window, ..full() };
            ragged_is_each_alone(&options, |inputs, _| {
                inputs.alibi_slopes = Some(numbers(&[4], 7.0));
            });
        }
        let options = Attention { causal, ..full() };
        ragged_is_each_alone(&options, |inputs, _| {
            let rotary = Rotary { offset: 2, ..Rotary::default() };
            inputs.rotary = Some(RotaryEmbedding::new(rotary, [numbers(&[14, 2], 3.0), numbers(&[14, 2], 4.0)]));
        });
    }
}

/// Slopes with a row for each batch row, and for each sequence of a ragged batch.
#[test]
fn slopes_of_each_row_are_those_of_the_row_alone() {
    let options = Attention { causal: Some(Causal::BottomRight), ..full() };
    let mut inputs = inputs(5, 7);
    let slopes = numbers(&[2, 4], 8.0);
    inputs.alibi_slopes = Some(slopes.clone());
    let got = attend(&options, &inputs);
    let row = |x: &Tensor, b: usize| cut(x, 0, b, 1);
    for b in 0..2 {
        let mut alone = AttentionInputs::new(row(&inputs.query, b), row(&inputs.key, b), row(&inputs.value, b));
        alone.alibi_slopes = Some(row(&slopes, b).reshape(&[4]).unwrap());
        let want = attend(&options, &alone);
        same("output", &row(&got.output, b), &want.output);
        same("weights", &row(got.weights.as_ref().unwrap(), b), want.weights.as_ref().unwrap());
        alone.alibi_slopes = Some(row(&slopes, 1 - b).reshape(&[4]).unwrap());
        assert_ne!(attend(&options, &alone).output, want.output);
    }
    let slopes = numbers(&[5, 4], 8.0);
    ragged_is_each_alone(&options, |inputs, n| {
        inputs.alibi_slopes = Some(match n {
            None => slopes.clone(),
            Some(n) => row(&slopes, n).reshape(&[4]).unwrap(),
        });
    });
}

/// What a mask or a score function is told is the index in the packed tensor; ends past the last token mean the last.
#[test]
fn a_ragged_batch_is_masked_by_packed_indices() {
    let mut inputs = ragged_inputs();
    inputs.cu_seqlens = sequences(&[0, 6, 99], &[0, 7, 50]);
    let score_mod = |s: f64, _, _, i: usize, j: usize| s + (10 * i + j) as f64 / 50.0;
    let wgsl = "fn score_mod(s: f32, b: u32, h: u32, i: u32, j: u32) -> f32 { return s + f32(10u * i + j) / 50.0; }";
    let score_mod = ScoreMod::new(wgsl, Some(std::sync::Arc::new(score_mod)));
    let options = Attention { score_mod: Some(score_mod), ..full() };
    inputs.mask = Some(Mask::Float(numbers(&[10, 12], 5.0)));
    let got = attend(&options, &inputs);
    let together = |k: usize| (k / 12 < 6) == (k % 12 < 7);
    let written = Array::from_fn(&[10, 12], |k| {
        let (i, j) = (k / 12, k % 12);
        if together(k) { (10 * i + j) as f64 / 50.0 + numbers(&[10, 12], 5.0).data()[k] } else { f64::NEG_INFINITY }
    });
    inputs.cu_seqlens = None;
    inputs.mask = Some(Mask::Float(written));
    same_attention(&got, &attend(&full(), &inputs));
}

/// Padded queries see nothing; the others are as if the padding were not there.
#[test]
fn padded_queries_see_nothing_and_change_nothing() {
    for causal in [None, Some(Causal::TopLeft), Some(Causal::BottomRight)] {
        for kv_lengths in [None, Some([9, 3])] {
            let options = Attention { causal, ..full() };
            let mut padded = inputs(6, 9);
            padded.query_lengths = numbers_of(&[4, 0]);
            padded.kv_lengths = kv_lengths.and_then(|lengths| numbers_of(&lengths));
            let mut alone = AttentionInputs::new(
                rows(&cut(&padded.query, 0, 0, 1), 0, 4),
                cut(&padded.key, 0, 0, 1),
                cut(&padded.value, 0, 0, 1),
            );
            alone.kv_lengths = kv_lengths.and_then(|lengths| numbers_of(&lengths[..1]));
            padded.query.data_mut().chunks_exact_mut(6).enumerate().for_each(|(row, data)| {
                if row % 6 >= 4 || row >= 24 {
                    data.fill(f64::NAN);
                }
            });
            let got = attend(&options, &padded);
            let want = attend(&options, &alone);
            let real = |x: &Tensor| rows(&cut(x, 0, 0, 1), 0, 4);
            same("output", &real(&got.output), &want.output);
            same("weights", &real(got.weights.as_ref().unwrap()), want.weights.as_ref().unwrap());
            same("lse", &real(got.lse.as_ref().unwrap()), want.lse.as_ref().unwrap());
            for padding in [rows(&cut(&got.output, 0, 0, 1), 4, 2), cut(&got.output, 0, 1, 1)] {
                assert!(padding.data().iter().all(|x| *x == 0.0));
            }
            assert!(cut(got.lse.as_ref().unwrap(), 0, 1, 1).data().iter().all(|x| *x == f64::NEG_INFINITY));
        }
    }
}

/// Pages in any order against the same keys in a row. What the table says past the last real key is not looked at, and
/// a page past the last one is the last one.
#[test]
fn a_paged_cache_equals_a_contiguous_one() {
    let (size, pages, lengths) = (3, 4, [10, 4]);
    // page of each stretch of 3 keys; row 0 uses four of them, row 1 two
    let table = [[5, 0, 3, 6], [2, 4, usize::MAX, usize::MAX]];
    let mut paged = inputs(5, 3);
    paged.key = numbers(&[7, 2, size, 6], 2.0);
    paged.value = numbers(&[7, 2, size, 5], 3.0);
    let gathered = |cache: &Tensor| {
        let rows = table.iter().map(|row| {
            let pages: Vec<Tensor> = row.iter().map(|&page| cut(cache, 0, page.min(6), 1)).collect();
            join(&pages, 2)
        });
        join(&rows.collect::<Vec<_>>(), 0)
    };
    let mut whole = inputs(5, pages * size);
    (whole.key, whole.value) = (gathered(&paged.key), gathered(&paged.value));
    whole.kv_lengths = numbers_of(&lengths);
    paged.kv_lengths = numbers_of(&lengths);
    let garbage = [[5, 0, 3, 900], [2, 4, u32::MAX, 16_777_217]];
    paged.block_table = Array::new(&[2, 4], garbage.concat()).ok();
    for (causal, normalize) in [
        (None, Normalize::Softmax),
        (Some(Causal::TopLeft), Normalize::Softmax),
        (Some(Causal::BottomRight), Normalize::Sparsemax),
    ] {
        let options = Attention { causal, normalize, weights: true, ..Attention::default() };
        let [got, want] = [&paged, &whole].map(|inputs| attend(&options, inputs));
        same("output", &got.output, &want.output);
        same("weights", got.weights.as_ref().unwrap(), want.weights.as_ref().unwrap());
    }
}

#[test]
fn a_block_mask_equals_the_mask_written_out() {
    let (queries, keys) = (7usize, 9usize);
    for [rows, columns] in [[1, 1], [3, 2], [2, 5], [7, 9], [16, 64], [1, 128]] {
        for (batch, heads) in [(1, 1), (2, 1), (1, 4), (2, 4)] {
            let (down, across) = (queries.div_ceil(rows), keys.div_ceil(columns));
            let blocks = bools(&[batch, heads, down, across], |k| k % 3 != 1);
            let mut inputs = inputs(queries, keys);
            inputs.mask = Some(Mask::Float(numbers(&[queries, keys], 4.0)));
            inputs.block_mask = Some(BlockMask { mask: blocks.clone(), size: [rows, columns] });
            let options = Attention { causal: Some(Causal::TopLeft), ..full() };
            let got = attend(&options, &inputs);
            inputs.block_mask = None;
            inputs.mask = Some(Mask::Float(Array::from_fn(&[batch, heads, queries, keys], |k| {
                let (i, j) = (k / keys % queries, k % keys);
                let block = ((k / (queries * keys)) * down + i / rows) * across + j / columns;
                let bias = numbers(&[queries, keys], 4.0).data()[i * keys + j];
                if blocks.data()[block] == 0 { f64::NEG_INFINITY } else { bias }
            })));
            same_attention(&got, &attend(&Attention { causal: Some(Causal::TopLeft), ..full() }, &inputs));
        }
    }
}

#[test]
fn sink_tokens_stay_in_sight_of_a_window() {
    for (left, right) in [(Some(1), Some(0)), (Some(0), None), (None, Some(1))] {
        for sink_tokens in [0, 1, 3, 20] {
            for causal in [None, Some(Causal::TopLeft), Some(Causal::BottomRight)] {
                for lengths in [None, Some([6, 2])] {
                    let options = Attention { causal, window: Some(Window { left, right, sink_tokens }), ..full() };
                    let mut inputs = inputs(5, 8);
                    inputs.kv_lengths = lengths.and_then(|lengths| numbers_of(&lengths));
                    let got = attend(&options, &inputs);
                    let mask = bools(&[2, 1, 5, 8], |k| {
                        let (b, i, j) = (k / 40, (k / 8 % 5) as i64, (k % 8) as i64);
                        let length = lengths.map(|lengths| lengths[b] as i64);
                        let own = match (length, causal) {
                            (Some(length), _) => i + length - 5,
                            (None, Some(Causal::BottomRight)) => i + 8 - 5,
                            _ => i,
                        };
                        let near = left.is_none_or(|n| own - j <= i64::from(n))
                            && right.is_none_or(|n| j - own <= i64::from(n));
                        (near || j < i64::from(sink_tokens))
                            && (causal.is_none() || j <= own)
                            && length.is_none_or(|n| j < n)
                    });
                    inputs.kv_lengths = None;
                    inputs.mask = Some(Mask::Bool(mask));
                    same_attention(&got, &attend(&full(), &inputs));
                }
            }
        }
    }
}
