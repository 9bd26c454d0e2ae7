//! Padded queries, ragged batches, block masks, caches in pages.

use super::terms::score_mod;
use super::{AttentionCase, Size, Table, every_output, numbers, poison_rows, spoil};
use crate::attention::{BlockMask, Causal, CuSeqlens, Mask, Normalize, Past, Rotary, RotaryEmbedding, Score, Window};
use crate::cases::Random;
use crate::tensor::Array;

pub(super) fn add(table: &mut Table) {
    query_lengths(table);
    ragged(table);
    blocks(table);
    pages(table);
    caches(table);
}

fn query_lengths(table: &mut Table) {
    let size = Size { batch: 5, ..Size::rows(6, 40) };
    let (queries, keys) = ([0, 4, 6, 1, 3], [40, 33, 5, 0, 2]);
    for causal in [None, Some(Causal::TopLeft), Some(Causal::BottomRight)] {
        for padded_keys in [false, true] {
            let end = if padded_keys { ", lengths" } else { "" };
            table.add(format!("query lengths, causal {causal:?}{end}"), size, |case, _| {
                case.inputs.query_lengths = numbers(&queries);
                poison_rows(&mut case.inputs.query, |b, i| i >= queries[b]);
                if padded_keys {
                    case.inputs.kv_lengths = numbers(&keys);
                    spoil(case, |b, j| j >= keys[b]);
                }
                case.options.causal = causal;
                every_output(case);
            });
        }
    }
    table.add("query lengths, ALiBi, sinks, window", size, |case, random| {
        case.inputs.query_lengths = numbers(&queries);
        case.inputs.kv_lengths = numbers(&keys);
        case.inputs.alibi_slopes = Some(random.array(&[6]).map(|x| x.abs()));
        case.inputs.sinks = Some(random.array(&[6]));
        case.options.window = Some(Window { sink_tokens: 1, ..Window::new(Some(3), Some(1)) });
    });
}

/// Where S sequences begin and end among the queries and the keys.
type Ends = (&'static [usize], &'static [usize]);

/// Lengths around the tiles, one without queries, one without keys; tokens before the first sequence and after the last.
const UNEVEN: Ends = (&[2, 3, 8, 8, 12, 29, 30, 63], &[0, 4, 13, 30, 30, 63, 79, 80]);

fn ragged(table: &mut Table) {
    let size = |(queries, keys): Ends| {
        let last = |ends: &[usize]| ends.last().copied().unwrap_or(0);
        Size { queries: last(queries) + 3, keys: last(keys) + 5, ..Size::heads(1, 6, 3) }
    };
    // What belongs to no sequence is poison.
    let pack = |case: &mut AttentionCase, (queries, keys): Ends| {
        case.inputs.cu_seqlens = numbers(queries).zip(numbers(keys)).map(|(q, k)| CuSeqlens { q, k });
        let outside = |ends: &'static [usize], t: usize| t < ends[0] || t >= ends[ends.len() - 1];
        poison_rows(&mut case.inputs.query, |_, i| outside(queries, i));
        spoil(case, |_, j| outside(keys, j));
    };
    for causal in [None, Some(Causal::TopLeft), Some(Causal::BottomRight)] {
        table.add(format!("ragged, causal {causal:?}"), size(UNEVEN), |case, _| {
            pack(case, UNEVEN);
            case.options.causal = causal;
            every_output(case);
        });
        table.add(format!("ragged, window, ALiBi, causal {causal:?}"), size(UNEVEN), |case, random| {
            pack(case, UNEVEN);
            case.options.causal = causal;
            case.options.window = Some(Window { sink_tokens: 2, ..Window::new(Some(6), Some(3)) });
            case.inputs.alibi_slopes = Some(random.array(&[6]).map(|x| x.abs()));
        });
    }
    table.add("ragged, ALiBi of each sequence", size(UNEVEN), |case, random| {
        pack(case, UNEVEN);
        case.options.causal = Some(Causal::BottomRight);
        case.inputs.alibi_slopes = Some(random.array(&[UNEVEN.0.len() - 1, 6]).map(|x| x.abs()));
    });
    let even: [(&str, Ends); 4] = [
        ("one sequence", (&[1, 17], &[3, 70])),
        ("every token alone", (&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])),
        ("one query each", (&[0, 1, 2, 3], &[0, 64, 65, 130])),
        ("nothing at all", (&[4, 4, 4], &[5, 5, 5])),
    ];
    for (name, ends) in even {
        table.add(format!("ragged, {name}"), size(ends), |case, _| {
            pack(case, ends);
            case.options.causal = Some(Causal::BottomRight);
            every_output(case);
        });
    }
    table.add("ragged, packed indices", size(UNEVEN), |case, random| {
        pack(case, UNEVEN);
        case.options.score_mod = Some(score_mod());
        case.inputs.mask = Some(Mask::Float(random.array(&[66, 83])));
        case.inputs.block_mask = Some(BlockMask { mask: random.mask(&[1, 6, 5, 29], 12), size: [16, 3] });
        case.options.weights = true;
    });
    table.add("ragged, rotary", size(UNEVEN), |case, _| {
        pack(case, UNEVEN);
        let options = Rotary { offset: 4, ..Rotary::default() };
        case.inputs.rotary = Rotary::tables(100.0, 10, 60).ok().map(|tables| RotaryEmbedding::new(options, tables));
        case.options.causal = Some(Causal::BottomRight);
        every_output(case);
    });
    table.add("ragged, sinks, softcap", size(UNEVEN), |case, random| {
        pack(case, UNEVEN);
        case.options.softcap = Some(3.0);
        case.inputs.sinks = Some(random.array(&[6]));
        every_output(case);
    });
    table.add("ragged, additive, sparsemax", size(UNEVEN), |case, _| {
        pack(case, UNEVEN);
        case.options.score = Score::Additive;
        case.options.scale = Some(0.25);
        case.options.normalize = Normalize::Sparsemax;
        every_output(case);
    });
}

fn blocks(table: &mut Table) {
    let masked = |case: &mut AttentionCase, random: &mut Random, size: [usize; 2], batch: usize, heads: usize| {
        let [queries, keys] = [case.inputs.query.shape()[2], case.inputs.key.shape()[2]];
        let shape = [batch, heads, queries.div_ceil(size[0]), keys.div_ceil(size[1])];
        case.inputs.block_mask = Some(BlockMask { mask: random.mask(&shape, 8), size });
    };
    for (block, batch, heads, queries, keys) in [
        ([1, 1], 2, 6, 9, 21),
        ([3, 3], 2, 1, 17, 70),
        ([16, 16], 1, 6, 33, 70),
        ([64, 64], 2, 6, 70, 200),
        ([128, 128], 2, 6, 130, 259),
        ([16, 64], 1, 1, 65, 259),
        ([64, 16], 2, 1, 65, 130),
        ([3, 128], 1, 6, 33, 300),
        ([128, 1], 1, 6, 33, 65),
        ([1, 64], 2, 6, 1, 1025),
    ] {
        let size = Size { dim: 16, key_dim: 16, value_dim: 8, ..Size::rows(queries, keys) };
        let name = format!("blocks of {} by {}, {queries} on {keys}", block[0], block[1]);
        table.add(name, size, |case, random| {
            masked(case, random, block, batch, heads);
            case.options.weights = true;
        });
    }
    table.add("poison in hidden blocks", Size::rows(33, 200), |case, random| {
        masked(case, random, [16, 16], 2, 6);
        // one column of blocks in three is hidden from all, and one row of blocks has no visible block
        if let Some(BlockMask { mask, .. }) = &mut case.inputs.block_mask {
            for (k, x) in mask.data_mut().iter_mut().enumerate() {
                let (row, column) = (k / 13 % 3, k % 13);
                *x = u32::from(column % 3 != 1 && row != 1);
            }
        }
        spoil(case, |_, j| j / 16 % 3 == 1);
        poison_rows(&mut case.inputs.query, |_, i| i / 16 == 1);
        every_output(case);
    });
    table.add("every block hidden", Size::rows(9, 70), |case, _| {
        case.inputs.block_mask = Some(BlockMask { mask: Array::filled(&[1, 1, 3, 2], 0), size: [4, 64] });
        spoil(case, |_, _| true);
        every_output(case);
    });
    table.add("blocks, causal, lengths, mask", Size::rows(33, 130), |case, random| {
        masked(case, random, [16, 64], 2, 6);
        case.options.causal = Some(Causal::TopLeft);
        case.inputs.kv_lengths = numbers(&[130, 70]);
        case.inputs.mask = Some(Mask::Float(random.array(&[6, 33, 100])));
        spoil(case, |b, j| j >= [130, 70][b]);
        every_output(case);
    });
    for normalize in [Normalize::Sparsemax, Normalize::Softmax] {
        table.add(format!("blocks, cosine, {normalize:?}"), Size::rows(17, 65), |case, random| {
            masked(case, random, [8, 8], 1, 6);
            case.options.score = Score::Cosine;
            case.options.normalize = normalize;
            every_output(case);
        });
    }
}

/// Pages of a cache in no order; the pages of no row, the rest of a row's last page and the pages that the table has
/// past it are poison.
pub(super) fn paged(case: &mut AttentionCase, random: &mut Random, size: usize, lengths: &[usize]) {
    let pages = lengths.iter().map(|n| n.div_ceil(size)).max().unwrap_or(0) + 1;
    let used: usize = lengths.iter().map(|n| n.div_ceil(size)).sum();
    // Page 0 and the last one belong to no one.
    let mut free: Vec<usize> = (1..=used).collect();
    let mut table = vec![0; lengths.len() * pages];
    let mut real = vec![0; used + 2];
    for (row, &length) in table.chunks_exact_mut(pages).zip(lengths) {
        for (n, entry) in row.iter_mut().enumerate().take(length.div_ceil(size)) {
            let page = free.swap_remove(random.below(free.len()));
            (*entry, real[page]) = (page, size.min(length - n * size));
        }
        row.iter_mut().skip(length.div_ceil(size)).step_by(2).for_each(|entry| *entry = used + 1);
    }
    let [heads, dim] = [1, 3].map(|axis| case.inputs.key.shape()[axis]);
    case.inputs.key = random.array(&[used + 2, heads, size, dim]);
    case.inputs.value = random.array(&[used + 2, heads, size, case.inputs.value.shape()[3]]);
    spoil(case, |page, j| j >= real[page]);
    case.inputs.block_table = Some(Array::from_fn(&[lengths.len(), pages], |k| table[k] as u32));
    case.inputs.kv_lengths = numbers(lengths);
}

fn pages(table: &mut Table) {
    let lengths = [33, 0, 64, 7];
    let size = Size { batch: 4, ..Size::rows(9, 1) };
    for page in [1, 3, 4, 16, 64, 100] {
        table.add(format!("pages of {page}"), size, |case, random| {
            paged(case, random, page, &lengths);
            case.options.causal = Some(Causal::TopLeft);
        });
    }
    for (heads, kv_heads) in [(8, 2), (3, 1), (2, 2)] {
        let size = Size { queries: 1, dim: 64, key_dim: 64, value_dim: 64, ..Size::heads(4, heads, kv_heads) };
        table.add(format!("pages, one query, {heads} heads on {kv_heads}"), size, |case, random| {
            paged(case, random, 16, &[129, 1, 64, 300]);
        });
    }
    table.add("pages, every output", size, |case, random| {
        paged(case, random, 5, &lengths);
        case.options.causal = Some(Causal::BottomRight);
        every_output(case);
    });
    table.add("pages, window, sink tokens, ALiBi, sinks", size, |case, random| {
        paged(case, random, 8, &lengths);
        case.options.window = Some(Window { sink_tokens: 2, ..Window::new(Some(9), Some(0)) });
        case.inputs.alibi_slopes = Some(random.array(&[6]).map(|x| x.abs()));
        case.inputs.sinks = Some(random.array(&[6]));
    });
    table.add("pages, mask, blocks, padded queries", size, |case, random| {
        paged(case, random, 4, &lengths);
        // 17 pages of 4 keys
        case.inputs.mask = Some(Mask::Float(random.array(&[9, 60])));
        case.inputs.block_mask = Some(BlockMask { mask: random.mask(&[4, 6, 3, 5], 12), size: [4, 16] });
        case.inputs.query_lengths = numbers(&[9, 9, 5, 2]);
        every_output(case);
    });
    table.add("pages, general score", Size { dim: 10, key_dim: 14, ..size }, |case, random| {
        paged(case, random, 3, &lengths);
        case.options.score = Score::General;
        case.options.scale = Some(0.2);
        case.inputs.score.weight = Some(random.array(&[10, 14]));
    });
    table.add("pages, additive score, sparsemax", size, |case, random| {
        paged(case, random, 6, &lengths);
        case.options.score = Score::Additive;
        case.options.scale = Some(0.25);
        case.options.normalize = Normalize::Sparsemax;
        case.inputs.score.v = Some(random.array(&[11]));
        every_output(case);
    });
}

/// Caches whose rows are whole blocks of 32, so that they are held in 8 bits as well: in one piece and in pages, poison
/// behind what is held.
fn caches(table: &mut Table) {
    let lengths = [33, 0, 70, 7];
    let held = |case: &mut AttentionCase| {
        case.inputs.kv_lengths = numbers(&lengths);
        spoil(case, |b, j| j >= lengths[b]);
    };
    for (dim, value_dim) in [(32, 32), (64, 96), (128, 32), (32, 256)] {
        for queries in [1, 3, 9] {
            let size = Size { batch: 4, dim, key_dim: dim, value_dim, ..Size::rows(queries, 70) };
            let name = format!("{queries} queries on a cache of {dim} and {value_dim}");
            table.add(&name, size, |case, _| {
                held(case);
                case.options.causal = Some(Causal::TopLeft);
            });
            table.add(format!("{name} in pages"), size, |case, random| {
                paged(case, random, 16, &lengths);
                case.options.causal = Some(Causal::TopLeft);
            });
        }
    }
    let size = Size { batch: 4, dim: 32, key_dim: 32, value_dim: 64, ..Size::rows(5, 70) };
    table.add("cache, every output", size, |case, _| {
        held(case);
        every_output(case);
    });
    table.add("cache in pages, window, ALiBi, sinks", size, |case, random| {
        paged(case, random, 8, &lengths);
        case.options.window = Some(Window { sink_tokens: 2, ..Window::new(Some(9), Some(0)) });
        case.inputs.alibi_slopes = Some(random.array(&[6]).map(|x| x.abs()));
        case.inputs.sinks = Some(random.array(&[6]));
    });
    table.add("cache, rotary", size, |case, _| {
        held(case);
        let tables = Rotary::tables(100.0, 32, 80).ok();
        case.inputs.rotary = tables.map(|tables| RotaryEmbedding::new(Rotary::default(), tables));
    });
    table.add("cache, past before it", Size { queries: 2, keys: 3, ..size }, |case, random| {
        case.inputs.past = Some(Past { key: random.array(&[4, 3, 20, 32]), value: random.array(&[4, 3, 20, 64]) });
        case.options.causal = Some(Causal::TopLeft);
    });
    table.add("cache, general score", size, |case, random| {
        held(case);
        case.options.score = Score::General;
        case.options.scale = Some(0.05);
        case.inputs.score.weight = Some(random.array(&[32, 32]));
    });
    table.add("cache, additive score, projected", size, |case, random| {
        held(case);
        case.options.score = Score::Additive;
        case.options.scale = Some(0.2);
        case.inputs.score.query_weight = Some(random.array(&[12, 32]).map(|x| x * 0.2));
        case.inputs.score.key_weight = Some(random.array(&[12, 32]).map(|x| x * 0.2));
        case.inputs.score.v = Some(random.array(&[12]));
    });
    for normalize in [Normalize::Sparsemax, Normalize::Hardmax] {
        table.add(format!("cache, cosine score, {normalize:?}"), size, |case, _| {
            held(case);
            case.options.score = Score::Cosine;
            case.options.normalize = normalize;
            every_output(case);
        });
    }
    table.add("NaN in sight in a cache", Size { batch: 1, ..size }, |case, _| {
        case.options.causal = Some(Causal::TopLeft);
        // Query 2 and those after it see key 2.
        case.inputs.key.data_mut()[2 * 32 + 5] = f32::NAN;
        case.inputs.value.data_mut()[70 * 64 + 3 * 64 + 9] = f32::INFINITY;
    });
}
