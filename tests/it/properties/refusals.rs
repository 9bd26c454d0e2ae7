//! Every refused combination of options and tensors, and what the error says.

use regard::attention::{BlockMask, CuSeqlens, Monotonic, Rotary, RotaryEmbedding};

use super::*;

type Edit = fn(&mut Attention, &mut AttentionInputs<Tensor>);

/// Two batch rows, 4 heads on 2, 5 queries of dim 6, 8 keys, values of dim 5, made a good request by `base`; each edit
/// makes it one that must be refused with these words, before any work.
fn all_refused(base: Edit, cases: &[(Edit, &str)]) {
    let (mut options, mut inputs) = (Attention::default(), inputs(5, 8));
    base(&mut options, &mut inputs);
    reference::attention(&options, &inputs).unwrap();
    for (edit, want) in cases {
        let (mut options, mut inputs) = (options.clone(), inputs.clone());
        edit(&mut options, &mut inputs);
        match reference::attention(&options, &inputs) {
            Ok(_) => panic!("accepted, but should be refused: {want}"),
            Err(error) => assert_eq!(error.to_string(), *want),
        }
    }
}

fn some(shape: &[usize]) -> Option<Tensor> {
    Some(numbers(shape, 1.0))
}

fn ones<T: From<u8>>(shape: &[usize]) -> Option<Array<T>> {
    Some(Array::from_fn(shape, |_| T::from(1)))
}

fn past(key: &[usize], value: &[usize]) -> Option<Past<Tensor>> {
    Some(Past { key: numbers(key, 1.0), value: numbers(value, 1.0) })
}

fn block_mask(shape: &[usize], size: [usize; 2]) -> Option<BlockMask<Array<u32>>> {
    Some(BlockMask { mask: Array::filled(shape, 1), size })
}

fn rotary_tables(cos: &[usize], sin: &[usize]) -> Option<RotaryEmbedding<Tensor>> {
    Some(RotaryEmbedding::new(Rotary::default(), [numbers(cos, 1.0), numbers(sin, 1.0)]))
}

fn sequences(inputs: &mut AttentionInputs<Tensor>) -> &mut CuSeqlens<Array<u32>> {
    inputs.cu_seqlens.as_mut().unwrap()
}

#[test]
fn shapes_that_do_not_fit() {
    all_refused(
        |_, _| {},
        &[
            (|_, i| i.query = numbers(&[4, 5, 6], 1.0), "`query` rank: expected 4 [B, Hq, Nq, D], found 3 [4, 5, 6]"),
            (|_, i| i.key = numbers(&[2, 2, 0, 6], 1.0), "`key` axis 2: expected at least 1, found 0"),
            (|_, i| i.value = numbers(&[1, 2, 8, 5], 1.0), "`value` axis 0 (batch): expected 2, found 1"),
            (|_, i| i.value = numbers(&[2, 1, 8, 5], 1.0), "`value` axis 1 (heads): expected 2, found 1"),
            (|_, i| i.value = numbers(&[2, 2, 7, 5], 1.0), "`value` axis 2 (keys): expected 8, found 7"),
            (
                |_, i| i.query = numbers(&[2, 3, 5, 6], 1.0),
                "`query` axis 1 (heads): expected a multiple of key's 2 heads, found 3",
            ),
            (|_, i| i.query = numbers(&[3, 4, 5, 6], 1.0), "`key` axis 0 (batch): expected 3, found 2"),
            (|_, i| i.query = numbers(&[2, 4, 5, 7], 1.0), "`key` axis 3 (head dim): expected 7, found 6"),
            (|_, i| i.past = past(&[2, 2, 3, 6], &[2, 2, 4, 5]), "`past_value` axis 2 (keys): expected 3, found 4"),
            (|_, i| i.past = past(&[2, 1, 3, 6], &[2, 2, 3, 5]), "`past_key` axis 1 (heads): expected 2, found 1"),
            (
                |_, i| {
                    i.past = past(&[2, 2, 3, 6], &[2, 2, 3, 5]);
                    i.kv_lengths = ones(&[2]);
                },
                "option `kv_lengths`: cannot stand beside past_key and past_value: join the cache first, or leave the \
             lengths out",
            ),
            (|_, i| i.mask = some(&[5, 9]).map(Mask::Float), "`mask` axis 1 (keys): expected 8 or 1, found 9"),
            (
                |_, i| i.mask = ones(&[2, 3, 5, 8]).map(Mask::Bool),
                "`mask` axis 1 (query heads): expected 4 or 1, found 3",
            ),
            (
                |_, i| i.mask = ones(&[1, 1, 1, 5, 8]).map(Mask::Bool),
                "`mask` rank: expected 1 to 4, broadcast to [2, 4, 5, 8], found 5 [1, 1, 1, 5, 8]",
            ),
            (|_, i| i.kv_lengths = ones(&[3]), "`kv_lengths` axis 0 (batch): expected 2, found 3"),
            (|_, i| i.query_lengths = ones(&[1, 2]), "`query_lengths` rank: expected 1 [2], found 2 [1, 2]"),
            (
                |_, i| i.query_lengths = Some(Array::filled(&[2], 6)),
                "`query_lengths` row 0: expected a whole number from 0 to 5, found 6",
            ),
            (|_, i| i.alibi_slopes = ones(&[2]), "`alibi_slopes` axis 0 (query heads): expected 4, found 2"),
            (|_, i| i.alibi_slopes = ones(&[3, 4]), "`alibi_slopes` axis 0 (batch): expected 2, found 3"),
            (|_, i| i.alibi_slopes = ones(&[2, 1]), "`alibi_slopes` axis 1 (query heads): expected 4, found 1"),
            (
                |_, i| i.alibi_slopes = ones(&[2, 4, 1]),
                "`alibi_slopes` rank: expected 1 [4] (query heads), or 2 [2, 4] (batch, query heads), found 3 [2, 4, 1]",
            ),
            (|_, i| i.sinks = ones(&[2]), "`sinks` axis 0 (query heads): expected 4, found 2"),
        ],
    );
}

#[test]
fn score_functions_without_what_they_need() {
    fn location(o: &mut Attention, i: &mut AttentionInputs<Tensor>) {
        o.score = Score::Location;
        i.previous = some(&[2, 4, 5, 8]);
        location_weights(i);
    }
    all_refused(
        |_, _| {},
        &[
            (
                |_, i| i.score.weight = some(&[6, 6]),
                "option `score`: ScaledDot has no parameter `score.weight`: leave it out",
            ),
            (
                |o, i| (o.score, i.score.v) = (Score::Cosine, some(&[6])),
                "option `score`: Cosine has no parameter `score.v`: leave it out",
            ),
            (
                |o, i| (o.score, i.score.bias) = (Score::General, some(&[6])),
                "option `score`: General has no parameter `score.bias`: leave it out",
            ),
            (
                |o, i| (o.score, i.score.weight) = (Score::Additive, some(&[6, 6])),
                "option `score`: Additive has no parameter `score.weight`: leave it out",
            ),
            (
                |o, i| (o.score, i.score.key_weight) = (Score::Concat, some(&[6, 6])),
                "option `score`: Concat has no parameter `score.key_weight`: leave it out",
            ),
            (
                |o, i| (o.score, i.score.location_filter) = (Score::Additive, some(&[2, 3])),
                "option `score`: Additive has no parameter `score.location_filter`: leave it out",
            ),
            (
                |_, i| i.score.location_weight = some(&[2, 3]),
                "option `score`: ScaledDot has no parameter `score.location_weight`: leave it out",
            ),
            (|o, _| o.score = Score::General, "`score.weight`: expected [Dq, Dk] for the general score, found none"),
            (
                |o, i| (o.score, i.score.weight) = (Score::General, some(&[5, 6])),
                "`score.weight` axis 0 (query dim): expected 6, found 5",
            ),
            (
                |o, i| (o.score, i.score.weight) = (Score::General, some(&[6, 5])),
                "`score.weight` axis 1 (key dim): expected 6, found 5",
            ),
            (
                |o, i| (o.score, i.score.weight) = (Score::General, some(&[6])),
                "`score.weight` rank: expected 2 [Dq, Dk], found 1 [6]",
            ),
            (
                |o, i| (o.score, i.score.weight) = (Score::General, some(&[0, 6])),
                "`score.weight` axis 0: expected at least 1, found 0",
            ),
            (
                |o, i| (o.score, i.score.bias) = (Score::Additive, some(&[6])),
                "`score.query_weight`: expected [A, Dq] beside score.bias, found none",
            ),
            (
                |o, i| (o.score, i.score.query_weight) = (Score::Additive, some(&[3, 6])),
                "`score.key_weight`: expected [A, Dk] beside score.query_weight, found none",
            ),
            (
                |o, i| (o.score, i.score.key_weight) = (Score::Additive, some(&[3, 6])),
                "`score.query_weight`: expected [A, Dq] beside score.key_weight, found none",
            ),
            (
                |o, i| {
                    o.score = Score::Additive;
                    (i.score.query_weight, i.score.key_weight) = (some(&[3, 6]), some(&[4, 6]));
                },
                "`score.key_weight` axis 0 (attention dim): expected 3, found 4",
            ),
            (
                |o, i| {
                    o.score = Score::Additive;
                    (i.score.query_weight, i.score.key_weight) = (some(&[3, 6]), some(&[3, 7]));
                },
                "`score.key_weight` axis 1 (key dim): expected 6, found 7",
            ),
            (
                |o, i| (o.score, i.score.v) = (Score::Additive, some(&[7])),
                "`score.v` axis 0 (attention dim): expected 6, found 7",
            ),
            (|_, i| i.score.g = some(&[1]), "option `score`: ScaledDot has no parameter `score.g`: leave it out"),
            (
                |o, i| (o.score, i.score.g) = (Score::Additive, some(&[1])),
                "`score.v`: expected [A], which `score.g` gives its length, found none",
            ),
            (
                |o, i| (o.score, i.score.v, i.score.g) = (Score::Additive, some(&[6]), some(&[6])),
                "`score.g` axis 0 (one number): expected 1, found 6",
            ),
            (|o, _| o.score = Score::Concat, "`score.weight`: expected [A, Dq + Dk] for the concat score, found none"),
            (
                |o, i| (o.score, i.score.weight) = (Score::Concat, some(&[3, 12])),
                "`score.v`: expected [A] for the concat score, found none",
            ),
            (
                |o, i| (o.score, i.score.weight) = (Score::Concat, some(&[3, 11])),
                "`score.weight` axis 1 (query dim + key dim): expected 12, found 11",
            ),
            (
                |_, i| i.previous = some(&[2, 4, 5, 8]),
                "option `previous`: belongs to a location-sensitive score or a monotonic alignment: leave it out",
            ),
            (
                |o, i| {
                    o.normalize = Normalize::Monotonic(Monotonic::Hard);
                    i.previous = some(&[2, 4, 5, 8]);
                },
                "`previous` axis 2 (queries): expected 1, found 5",
            ),
        ],
    );
    all_refused(
        location,
        &[
            (
                |_, i| (i.score.query_weight, i.score.key_weight) = (None, None),
                "`score.location_weight` axis 0 (attention dim): expected 6, found 3",
            ),
            (
                |_, i| i.score.location_filter = None,
                "`score.location_filter`: expected [C, W] for the location-sensitive score, found none",
            ),
            (
                |_, i| i.score.location_weight = None,
                "`score.location_weight`: expected [A, C] for the location-sensitive score, found none",
            ),
            (
                |_, i| i.score.location_weight = some(&[4, 2]),
                "`score.location_weight` axis 0 (attention dim): expected 3, found 4",
            ),
            (
                |_, i| i.score.location_weight = some(&[3, 3]),
                "`score.location_weight` axis 1 (channels): expected 2, found 3",
            ),
            (|_, i| i.score.v = None, "`score.v`: expected [A] for the location-sensitive score, found none"),
            (
                |_, i| i.previous = None,
                "`previous`: expected [B, Hq, Nq, Nk], the alignment before each query, found none",
            ),
            (|_, i| i.previous = some(&[2, 4, 1, 8]), "`previous` axis 2 (queries): expected 5, found 1"),
            (|_, i| i.previous = some(&[4, 5, 8]), "`previous` rank: expected 4 [2, 4, 5, 8], found 3"),
            (
                |o, _| o.normalize = Normalize::Monotonic(Monotonic::Hard),
                "option `score`: a location-sensitive score under a monotonic alignment takes one query at a time: give \
             Nq = 1",
            ),
        ],
    );
}

#[test]
fn sequences_pages_and_blocks_that_do_not_fit() {
    fn paged(_: &mut Attention, i: &mut AttentionInputs<Tensor>) {
        (i.key, i.value) = (numbers(&[7, 2, 4, 6], 2.0), numbers(&[7, 2, 4, 5], 3.0));
        (i.block_table, i.kv_lengths) = (ones(&[2, 3]), ones(&[2]));
    }
    fn ragged(_: &mut Attention, i: &mut AttentionInputs<Tensor>) {
        i.query = numbers(&[1, 4, 5, 6], 1.0);
        (i.key, i.value) = (numbers(&[1, 2, 8, 6], 2.0), numbers(&[1, 2, 8, 5], 3.0));
        i.cu_seqlens = ones(&[3]).zip(ones(&[3])).map(|(q, k)| CuSeqlens { q, k });
    }
    fn blocks(_: &mut Attention, i: &mut AttentionInputs<Tensor>) {
        i.block_mask = block_mask(&[2, 4, 3, 3], [2, 3]);
    }
    all_refused(
        paged,
        &[
            (|_, i| i.block_table = ones(&[6]), "`block_table` rank: expected 2 [B, pages], found 1"),
            (|_, i| i.block_table = ones(&[2, 0]), "`block_table` axis 1: expected at least 1, found 0"),
            (|_, i| i.block_table = ones(&[3, 3]), "`block_table` axis 0 (batch): expected 2, found 3"),
            (
                |_, i| i.kv_lengths = None,
                "`kv_lengths`: expected [B], how many keys behind `block_table` are real, found none",
            ),
            (
                |_, i| i.kv_lengths = Some(Array::filled(&[2], 13)),
                "`kv_lengths` row 0: expected a whole number from 0 to 12, found 13",
            ),
            (
                |_, i| i.past = past(&[2, 2, 3, 6], &[2, 2, 3, 5]),
                "option `block_table`: is a cache already: append new keys to its pages, and leave past_key and past_value \
             out",
            ),
            (
                |_, i| i.rotary = rotary_tables(&[9, 3], &[9, 3]),
                "option `rotary`: keys in pages are taken as turned already: turn query and new keys before they are \
             appended",
            ),
            (
                |o, _| o.score = Score::Location,
                "option `block_table`: a location-sensitive score makes keys of its own, which no page holds: give the \
             keys in one piece",
            ),
            (
                |o, i| {
                    o.score = Score::Additive;
                    (i.score.query_weight, i.score.key_weight) = (some(&[3, 6]), some(&[3, 6]));
                },
                "option `block_table`: Additive would project every page at each call: keep projected keys in the cache, \
             and compare them with projected queries by an additive score without weights",
            ),
        ],
    );
    all_refused(
        ragged,
        &[
            (|_, i| sequences(i).q = ones(&[1, 3]).unwrap(), "`cu_seqlens_q` rank: expected 1 [S + 1], found 2"),
            (|_, i| i.alibi_slopes = ones(&[1, 4]), "`alibi_slopes` axis 0 (sequences): expected 2, found 1"),
            (
                |_, i| sequences(i).q = ones(&[1]).unwrap(),
                "`cu_seqlens_q` axis 0 (sequences + 1): expected at least 2, found 1",
            ),
            (
                |o, _| o.normalize = Normalize::Monotonic(Monotonic::Hard),
                "option `cu_seqlens_q`: alignments would run from one sequence into the next: give a batch with lengths \
                 instead",
            ),
            (
                |o, i| {
                    o.score = Score::Location;
                    i.previous = some(&[1, 4, 5, 8]);
                    location_weights(i);
                },
                "option `cu_seqlens_q`: alignments would run from one sequence into the next: give a batch with lengths \
                 instead",
            ),
            (
                |_, i| sequences(i).q = Array::new(&[3], vec![0, 4, 3]).unwrap(),
                "`cu_seqlens_q` row 2: expected at least 4, where the sequence begins, found 3",
            ),
            (|_, i| sequences(i).k = ones(&[4]).unwrap(), "`cu_seqlens_k` axis 0 (sequences + 1): expected 3, found 4"),
            (
                |_, i| sequences(i).k = Array::new(&[3], vec![0, 9, 8]).unwrap(),
                "`cu_seqlens_k` row 2: expected at least 9, where the sequence begins, found 8",
            ),
            (
                |_, i| i.kv_lengths = ones(&[1]),
                "option `kv_lengths`: cannot stand beside cu_seqlens, which give every length already",
            ),
            (
                |_, i| i.query_lengths = ones(&[1]),
                "option `query_lengths`: cannot stand beside cu_seqlens, which give every length already",
            ),
            (
                |_, i| i.past = past(&[1, 2, 3, 6], &[1, 2, 3, 5]),
                "option `past_key`: cannot stand beside cu_seqlens, which give every length already",
            ),
        ],
    );
    all_refused(
        |_, _| {},
        &[(
            |_, i| i.cu_seqlens = ones(&[3]).zip(ones(&[3])).map(|(q, k)| CuSeqlens { q, k }),
            "`query` axis 0 (batch), with sequences one behind the other: expected 1, found 2",
        )],
    );
    all_refused(
        blocks,
        &[
            (
                |_, i| i.block_mask = block_mask(&[2, 4, 3, 3], [0, 3]),
                "option `block_size`: must be at least 1 by 1, not 0 by 3",
            ),
            (|_, i| i.block_mask = block_mask(&[3, 3], [2, 3]), "`block_mask` rank: expected 4 [B, Hq, 3, 3], found 2"),
            (
                |_, i| i.block_mask = block_mask(&[3, 4, 3, 3], [2, 3]),
                "`block_mask` axis 0 (batch): expected 2, found 3",
            ),
            (
                |_, i| i.block_mask = block_mask(&[2, 2, 3, 3], [2, 3]),
                "`block_mask` axis 1 (query heads): expected 4, found 2",
            ),
            (
                |_, i| i.block_mask = block_mask(&[2, 4, 1, 3], [2, 3]),
                "`block_mask` axis 2 (blocks of queries): expected 3, found 1",
            ),
            (
                |_, i| i.block_mask = block_mask(&[1, 1, 3, 8], [2, 3]),
                "`block_mask` axis 3 (blocks of keys): expected 3, found 8",
            ),
        ],
    );
}

#[test]
fn options_that_do_not_go_together() {
    fn rotary(_: &mut Attention, i: &mut AttentionInputs<Tensor>) {
        i.rotary = rotary_tables(&[8, 3], &[8, 3]);
    }
    all_refused(
        |_, _| {},
        &[
            (|o, _| o.scale = Some(f32::NAN), "option `scale`: must be finite, not NaN"),
            (|o, _| o.softcap = Some(f32::INFINITY), "option `softcap`: must be finite, not inf"),
            (|o, _| o.softcap = Some(0.0), "option `softcap`: must be above 0, not 0; leave it out for none"),
            (|o, _| o.temperature = Some(f32::NAN), "option `temperature`: must be finite, not NaN"),
            (|o, _| o.temperature = Some(-1.0), "option `temperature`: must be above 0, not -1"),
            (
                |o, _| o.temperature = Some(f32::MIN_POSITIVE / 2.0),
                "option `temperature`: must be at least 1.1754944e-38, the smallest normal f32, not 5.877472e-39",
            ),
            (
                |o, _| (o.temperature, o.normalize) = (Some(2.0), Normalize::Hardmax),
                "option `temperature`: changes nothing of a hard choice: leave it out",
            ),
            (
                |o, _| (o.temperature, o.normalize) = (Some(2.0), Normalize::Monotonic(Monotonic::Hard)),
                "option `temperature`: changes nothing of a hard choice: leave it out",
            ),
            (
                |o, _| o.window = Some(Window { sink_tokens: 2, ..Window::default() }),
                "option `window`: sink tokens belong to a window with a left or a right end",
            ),
            (
                |o, i| (o.normalize, i.sinks) = (Normalize::Sparsemax, ones(&[4])),
                "option `sinks`: take part in a softmax only: use `normalize = softmax`",
            ),
            (
                |o, i| (o.normalize, i.sinks) = (Normalize::Monotonic(Monotonic::Parallel), ones(&[4])),
                "option `sinks`: take part in a softmax only: use `normalize = softmax`",
            ),
            (
                |o, _| (o.normalize, o.lse) = (Normalize::Hardmax, true),
                "option `lse`: belongs to softmax and sample only",
            ),
            (
                |o, _| (o.normalize, o.lse) = (Normalize::Monotonic(Monotonic::Recursive), true),
                "option `lse`: belongs to softmax and sample only",
            ),
        ],
    );
    all_refused(
        rotary,
        &[
            (
                |_, i| i.rotary = rotary_tables(&[24], &[8, 3]),
                "`rotary_cos` rank: expected 2 [positions, width / 2], found 1",
            ),
            (|_, i| i.rotary = rotary_tables(&[8, 3], &[9, 3]), "`rotary_sin` axis 0 (positions): expected 8, found 9"),
            (|_, i| i.rotary = rotary_tables(&[8, 3], &[8, 2]), "`rotary_sin` axis 1 (width / 2): expected 3, found 2"),
            (
                |_, i| i.rotary = rotary_tables(&[8, 4], &[8, 4]),
                "`rotary_cos` axis 1 (width / 2): expected at most 3, found 4",
            ),
            (
                |_, i| i.rotary.as_mut().unwrap().options.offset = 3,
                "`rotary_cos` axis 0 (positions): expected at least 11, found 8",
            ),
        ],
    );
}
