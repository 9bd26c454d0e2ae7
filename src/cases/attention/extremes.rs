//! Numbers that plain arithmetic loses: scores so large that one f32 has no room for the sum beside them, over more than
//! one range of keys; scores of −∞ in sight; infinite sinks; vectors whose squares leave the range of f32.

use std::sync::Arc;

use super::sequences::paged;
use super::{AttentionCase, Size, Table, every_output, numbers, spoil};
use crate::attention::{Attention, Causal, Mask, Normalize, Score, ScoreMod};
use crate::tensor::Array;

pub(super) fn add(table: &mut Table) {
    levels(table);
    forms(table);
    infinities(table);
    ranges(table);
    sinks(table);
    lengths_of_vectors(table);
}

/// Small on every axis but the rows and keys, so that there are few workgroups and splits of the keys are merged.
fn narrow(queries: usize, keys: usize) -> Size {
    Size { batch: 1, heads: 2, kv_heads: 1, queries, keys, dim: 8, key_dim: 8, value_dim: 8 }
}

/// The next level that f32 tells from `level`, one apart where it can.
fn above(level: f32) -> f32 {
    let next = level + 1.0;
    if next == level { f32::from_bits(level.to_bits() + 1) } else { next }
}

/// Scores of nothing but a mask over the keys.
fn flat(case: &mut AttentionCase, mask: impl Fn(usize) -> f32) {
    case.inputs.query.data_mut().fill(0.0);
    case.inputs.mask = Some(Mask::Float(Array::from_fn(&[case.inputs.key.shape()[2]], mask)));
}

/// Every score the same, and two levels, above and below 0.
fn levels(table: &mut Table) {
    for (n, (queries, keys)) in [(1, 97), (5, 129), (33, 200), (1, 513), (17, 300), (2, 1500)].into_iter().enumerate() {
        for (k, level) in [1e3f32, 1e4, 1e6, 1e8].into_iter().enumerate() {
            let level = if (n + k) % 2 == 0 { level } else { -level };
            let size = narrow(queries, keys);
            table.add(format!("every score {level:e}, {queries} queries, {keys} keys"), size, |case, _| {
                flat(case, |_| level);
                case.options.max_sum = true;
            });
            table.add(format!("scores of {level:e} and more, {queries} queries, {keys} keys"), size, |case, _| {
                flat(case, |j| if j % 3 == 0 { above(level) } else { level });
                (case.options.lse, case.options.max_sum) = (false, k % 2 == 0);
            });
        }
    }
    for (name, level) in [("-1e9", -1e9), ("the least number", f32::MIN)] {
        table.add(format!("every score {name}, 129 keys"), narrow(5, 129), |case, _| flat(case, |_| level));
        table.add(format!("every score {name}, 1500 keys, every output"), narrow(2, 1500), |case, _| {
            flat(case, |_| level);
            every_output(case);
        });
    }
}

/// The same by other ways than a mask over the keys.
fn forms(table: &mut Table) {
    const LEVEL: f32 = 1e6;
    let size = narrow(5, 200);
    let levels = |j: usize| if j.is_multiple_of(3) { above(LEVEL) } else { LEVEL };
    // Products that are exact: 1000 · 1000, and 1 · 0 or 1.
    let products = |case: &mut AttentionCase| {
        let dim = case.inputs.query.shape()[3];
        case.options.scale = Some(1.0);
        let first = |d: usize| if d == 0 { 1000.0 } else { f32::from(d == 1) };
        case.inputs.query = Array::from_fn(case.inputs.query.shape(), |k| first(k % dim));
        case.inputs.key = Array::from_fn(case.inputs.key.shape(), |k| match k % dim {
            0 => 1000.0,
            1 => f32::from((k / dim).is_multiple_of(3)),
            _ => 0.0,
        });
    };
    table.add("scores of 1e6 and more by products", size, |case, _| products(case));
    table.add("scores of 1e6 and more, grouped heads", Size { batch: 2, heads: 6, kv_heads: 2, ..size }, |case, _| {
        products(case);
    });
    table.add("scores of 1e6 and more, causal", narrow(33, 300), |case, _| {
        products(case);
        case.options.causal = Some(Causal::BottomRight);
    });
    table.add("scores of 1e6 and more, lengths", Size { batch: 3, ..size }, |case, _| {
        products(case);
        let lengths = [200, 131, 0];
        spoil(case, |b, j| j >= lengths[b]);
        case.inputs.kv_lengths = numbers(&lengths);
    });
    table.add("scores of 1e6 and more, pages", Size { batch: 2, ..size }, |case, random| {
        paged(case, random, 16, &[199, 140]);
        case.inputs.query.data_mut().fill(0.0);
        case.inputs.mask = Some(Mask::Float(Array::from_fn(&[208], levels)));
    });
    let blocks = Size { dim: 32, key_dim: 32, value_dim: 32, ..size };
    table.add("scores of 1e6 and more, whole blocks of 32", blocks, |case, _| flat(case, levels));
    for temperature in [0.25, 3.0] {
        table.add(format!("scores of 1e6 and more, temperature {temperature}"), size, |case, _| {
            flat(case, levels);
            (case.options.temperature, case.options.max_sum) = (Some(temperature), true);
        });
    }
    table.add("scores of 1e6 and more by a score function", size, |case, _| {
        case.inputs.query.data_mut().fill(0.0);
        case.options.score_mod = Some(raised());
    });
    table.add("every score 1e6 by a softcap", size, |case, _| {
        products(case);
        (case.options.scale, case.options.softcap) = (Some(100.0), Some(LEVEL));
    });
    table.add("sinks beside scores of 1e6 and more", size, |case, _| {
        flat(case, levels);
        case.options.max_sum = true;
        case.inputs.sinks = Array::new(&[2], vec![LEVEL, above(LEVEL)]).ok();
    });
    // tanh is 1 for every unit, −1 in one for every third key, which is worth 2 · 0.5.
    table.add("additive scores of 7e5 and more", size, |case, _| {
        case.options.score = Score::Additive;
        case.inputs.query.data_mut().fill(20.0);
        case.inputs.key = Array::from_fn(case.inputs.key.shape(), |k| match (k % 8, k / 8 % 3) {
            (0, 0) => -60.0,
            _ => 0.0,
        });
        case.inputs.score.v = Some(Array::from_fn(&[8], |unit| if unit == 0 { 0.5 } else { 1e5 }));
    });
}

/// Raises scores to 1e6, every second key's one higher.
fn raised() -> ScoreMod {
    let wgsl = "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
    return score + 1e6 + f32(j % 2u);
}
";
    ScoreMod::new(wgsl, Some(Arc::new(|score, _, _, _, j| score + 1e6 + (j % 2) as f64)))
}

/// Scores of −∞ in sight: they weigh 0, and a row that has no other is NaN.
fn infinities(table: &mut Table) {
    let size = narrow(5, 200);
    // Query 2 is −∞ · (above 0) with every key.
    let one_row = |case: &mut AttentionCase| {
        let dim = case.inputs.query.shape()[3];
        case.inputs.key.data_mut().chunks_exact_mut(dim).for_each(|key| key[0] = key[0].abs() + 0.5);
        for query in case.inputs.query.data_mut().chunks_exact_mut(dim).skip(2).step_by(5) {
            query.fill(0.0);
            query[0] = f32::NEG_INFINITY;
        }
    };
    // The keys that `is_infinite` names are −∞ for every query.
    let keys = |case: &mut AttentionCase, is_infinite: &dyn Fn(usize) -> bool| {
        let dim = case.inputs.query.shape()[3];
        let count = case.inputs.key.shape()[2];
        case.inputs.query.data_mut().chunks_exact_mut(dim).for_each(|query| query[0] = 1.0);
        for (j, key) in case.inputs.key.data_mut().chunks_exact_mut(dim).enumerate() {
            key[0] = if is_infinite(j % count) { f32::NEG_INFINITY } else { key[0] };
        }
    };
    table.add("NaN in the row of scores of minus infinity", size, |case, _| {
        one_row(case);
        case.options.max_sum = true;
    });
    table.add("NaN in the row of scores of minus infinity, causal", size, |case, _| {
        one_row(case);
        case.options.causal = Some(Causal::BottomRight);
    });
    table.add("NaN in the row of scores of minus infinity, mask", size, |case, random| {
        one_row(case);
        case.inputs.mask = Some(Mask::Bool(random.mask(&[5, 200], 8)));
    });
    table.add("NaN in the row of scores of minus infinity, temperature", size, |case, _| {
        one_row(case);
        case.options.temperature = Some(2.0);
    });
    for (name, normalize) in [
        ("softmax", Normalize::Softmax),
        ("sparsemax", Normalize::Sparsemax),
        ("sample", Normalize::Sample { seed: 4 }),
    ] {
        table.add(format!("NaN in the row of scores of minus infinity, {name}"), size, |case, random| {
            case.inputs.key = random.whole(case.inputs.key.shape(), 3);
            one_row(case);
            case.options.normalize = normalize;
            (case.options.weights, case.options.entropy) = (true, true);
            case.options.lse = normalize != Normalize::Sparsemax;
            case.options.max_sum = case.options.lse;
        });
    }
    table.add("a row of scores of minus infinity, hardmax", size, |case, random| {
        case.inputs.query = random.whole(case.inputs.query.shape(), 3);
        case.inputs.key = random.whole(case.inputs.key.shape(), 3);
        one_row(case);
        case.options = Attention { normalize: Normalize::Hardmax, weights: true, ..Attention::default() };
    });
    table.add("a row of scores of minus infinity beside sinks", size, |case, random| {
        one_row(case);
        case.inputs.sinks = Some(random.array(&[2]));
    });
    table.add("keys of minus infinity", size, |case, _| keys(case, &|j| j % 7 == 3));
    table.add("keys of minus infinity, every output", size, |case, _| {
        keys(case, &|j| j % 7 == 3);
        case.options.causal = Some(Causal::BottomRight);
        (case.options.weights, case.options.entropy) = (true, true);
    });
    table.add("a first range of keys of minus infinity", size, |case, _| keys(case, &|j| j < 150));
    table.add("a last range of keys of minus infinity", size, |case, _| keys(case, &|j| j > 50));
}

/// NaN in every score of a row, or in some; sums of values that pass what f32 holds before they are divided.
fn ranges(table: &mut Table) {
    for (name, queries, keys) in [("few queries", 3, 200), ("more", 33, 300)] {
        for (what, step) in [("all", 1), ("some", 7)] {
            table.add(format!("NaN in {what} scores of a row, {name}"), narrow(queries, keys), |case, random| {
                let mask = Array::from_fn(&[queries, keys], |k| match (k / keys, k % step) {
                    (2, 0) => f32::NAN,
                    _ => random.uniform(1.0),
                });
                case.inputs.mask = Some(Mask::Float(mask));
                case.options.max_sum = true;
            });
        }
        table.add(format!("NaN in a query, {name}"), narrow(queries, keys), |case, _| {
            case.inputs.query.data_mut()[8..16].fill(f32::NAN);
            case.options.causal = Some(Causal::BottomRight);
        });
        table.add(format!("values near the largest number, {name}"), narrow(queries, keys), |case, random| {
            case.f32_only = true;
            case.inputs.value = Array::from_fn(case.inputs.value.shape(), |_| 3e38 + random.uniform(1e37));
            case.inputs.query.data_mut().iter_mut().for_each(|x| *x *= 0.1);
        });
    }
}

/// Infinite sinks: a row without a visible key stays 0.
fn sinks(table: &mut Table) {
    for (name, causal) in [("", None), (", causal", Some(Causal::BottomRight))] {
        table.add(
            format!("NaN in rows beside an infinite sink{name}"),
            Size { batch: 2, ..narrow(5, 200) },
            |case, _| {
                case.inputs.sinks = Array::new(&[2], vec![f32::INFINITY, 0.5]).ok();
                case.inputs.kv_lengths = numbers(&[0, 190]);
                (case.options.causal, case.options.max_sum) = (causal, true);
            },
        );
    }
    for temperature in [None, Some(2.0)] {
        let end = if temperature.is_some() { ", temperature" } else { "" };
        table.add(format!("sinks of minus infinity{end}"), Size { batch: 2, ..narrow(5, 200) }, |case, _| {
            case.inputs.sinks = Array::new(&[2], vec![f32::NEG_INFINITY, 0.5]).ok();
            case.inputs.kv_lengths = numbers(&[0, 190]);
            (case.options.temperature, case.options.max_sum) = (temperature, true);
        });
    }
}

/// Vectors whose squares overflow or vanish, where they are divided by their length.
fn lengths_of_vectors(table: &mut Table) {
    let size = Size::rows(9, 35);
    for [query, key] in [[1e20, 1e20], [1e-25, 1e-25], [1e-23, 1e-23], [1e20, 1e-25], [1e38, 1e-30]] {
        table.add(format!("cosine of vectors near {query:e} and {key:e}"), size, |case, _| {
            case.f32_only = true;
            case.options.score = Score::Cosine;
            case.options.scale = Some(4.0);
            case.inputs.query.data_mut().iter_mut().for_each(|x| *x *= query);
            case.inputs.key.data_mut().iter_mut().for_each(|x| *x *= key);
            // one without a direction
            case.inputs.key.data_mut()[2 * size.dim..3 * size.dim].fill(0.0);
            every_output(case);
        });
    }
    for (score, length) in
        [(Score::Additive, 1e20), (Score::Additive, 1e-25), (Score::Additive, 1e-30), (Score::Concat, 1e38)]
    {
        table.add(format!("{score:?}, normalized v near {length:e}"), size, |case, random| {
            case.f32_only = true;
            case.options.score = score;
            if score == Score::Concat {
                case.inputs.score.weight = Some(random.array(&[7, 22]).map(|x| x * 0.3));
            }
            let units = if score == Score::Concat { 7 } else { size.dim };
            case.inputs.score.v = Some(random.array(&[units]).map(|x| x * length));
            case.inputs.score.g = Array::new(&[1], vec![2.5]).ok();
        });
    }
}
