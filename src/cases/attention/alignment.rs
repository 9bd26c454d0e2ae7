//! Monotonic and location-sensitive attention.

use super::{AttentionCase, Size, Table, every_output, numbers, spoil};
use crate::attention::{Attention, Causal, Mask, Monotonic, Normalize, Score};
use crate::cases::{POISON, Random};
use crate::tensor::Array;

pub(super) fn add(table: &mut Table) {
    monotonic(table);
    hard(table);
    location(table);
}

const SOFT: [Monotonic; 2] = [Monotonic::Parallel, Monotonic::Recursive];

/// Each row at least 0 and of sum 1.
fn distributions(random: &mut Random, shape: [usize; 4]) -> Array<f32> {
    let mut array = random.array(&shape).map(|x| x.abs());
    for row in array.data_mut().chunks_exact_mut(shape[3]) {
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    }
    array
}

/// Poison past the keys of each batch row of an alignment [B, Hq, N, Nk].
fn poison_columns(array: &mut Array<f32>, lengths: &[usize]) {
    let [heads, rows, keys] = [1, 2, 3].map(|axis| array.shape()[axis]);
    for (at, x) in array.data_mut().iter_mut().enumerate() {
        if at % keys >= lengths[at / (heads * rows * keys)] {
            *x = POISON[at % POISON.len()];
        }
    }
}

/// Chances to stop of 5 % and around, so that the scan gets somewhere.
fn go_on(case: &mut AttentionCase) {
    case.inputs.mask = Some(Mask::Float(Array::filled(&[1], -3.0)));
}

fn monotonic(table: &mut Table) {
    for form in SOFT {
        let start = |case: &mut AttentionCase| {
            case.options = Attention { normalize: Normalize::Monotonic(form), ..Attention::default() };
            every_output(case);
        };
        let name = |rest: &str| format!("monotonic {form:?}{rest}");
        for (queries, keys) in [(17, 33), (1, 65), (5, 1), (4, 300)] {
            table.add(name(&format!(", {queries} on {keys}")), Size::rows(queries, keys), |case, _| {
                start(case);
                go_on(case);
            });
        }
        table.add(name(", no bias"), Size::rows(9, 20), |case, _| start(case));
        table.add(name(", given a start"), Size::rows(9, 40), |case, random| {
            start(case);
            go_on(case);
            case.inputs.previous = Some(distributions(random, [2, 6, 1, 40]));
        });
        table.add(name(", one query, given a start"), Size::rows(1, 65), |case, random| {
            start(case);
            case.inputs.previous = Some(distributions(random, [2, 6, 1, 65]));
        });
        table.add(name(", lengths"), Size { batch: 3, ..Size::rows(9, 40) }, |case, random| {
            let lengths = [40, 0, 17];
            start(case);
            go_on(case);
            case.inputs.kv_lengths = numbers(&lengths);
            case.inputs.query_lengths = numbers(&[9, 9, 4]);
            spoil(case, |b, j| j >= lengths[b]);
            let mut previous = distributions(random, [3, 6, 1, 40]);
            poison_columns(&mut previous, &lengths);
            case.inputs.previous = Some(previous);
        });
        table.add(name(", masked, causal"), Size::rows(17, 33), |case, random| {
            start(case);
            case.options.causal = Some(Causal::TopLeft);
            let mut mask = random.mask(&[17, 33], 12).map(|&x| if x == 0 { f32::NEG_INFINITY } else { -1.0 });
            // the first key stays, or the scan would have nowhere to stop
            mask.data_mut().iter_mut().step_by(33).for_each(|x| *x = -1.0);
            case.inputs.mask = Some(Mask::Float(mask));
        });
    }
    for form in [Monotonic::Parallel, Monotonic::Recursive, Monotonic::Hard] {
        table.add(format!("NaN in sight, monotonic {form:?}"), Size::rows(9, 12), |case, _| {
            // visible to the queries from 5 on
            let width = case.inputs.key.shape()[3];
            case.inputs.key.data_mut()[5 * width + 2] = f32::NAN;
            case.options.causal = Some(Causal::TopLeft);
            case.options.normalize = Normalize::Monotonic(form);
            case.options.weights = true;
            case.options.lse = false;
        });
    }
    table.add("NaN in the alignment before, monotonic", Size::rows(3, 12), |case, random| {
        case.options = Attention { normalize: Normalize::Monotonic(Monotonic::Parallel), ..Attention::default() };
        case.options.weights = true;
        let mut previous = distributions(random, [2, 6, 1, 12]);
        previous.data_mut()[15] = f32::NAN;
        case.inputs.previous = Some(previous);
    });
    table.add("a query that sees nothing ends the scan", Size::rows(9, 20), |case, random| {
        case.options = Attention { normalize: Normalize::Monotonic(Monotonic::Recursive), ..Attention::default() };
        let mut mask = random.mask(&[2, 1, 9, 20], 14);
        mask.data_mut()[4 * 20..5 * 20].fill(0);
        case.inputs.mask = Some(Mask::Bool(mask));
        every_output(case);
    });
    table.add("monotonic, additive score", Size { dim: 10, key_dim: 14, ..Size::rows(9, 35) }, |case, random| {
        case.options = Attention { normalize: Normalize::Monotonic(Monotonic::Parallel), ..Attention::default() };
        case.options.score = Score::Additive;
        let weights = &mut case.inputs.score;
        weights.query_weight = Some(random.array(&[7, 10]).map(|x| x * 0.3));
        weights.key_weight = Some(random.array(&[7, 14]).map(|x| x * 0.3));
        (weights.v, weights.g) = (Some(random.array(&[7])), Array::new(&[1], vec![1.5]).ok());
        go_on(case);
        every_output(case);
    });
}

/// Whole scores, none of them close to the 0 that decides.
fn hard(table: &mut Table) {
    let start = |case: &mut AttentionCase, random: &mut Random| {
        case.inputs.query = random.whole(case.inputs.query.shape(), 1);
        case.inputs.key = random.whole(case.inputs.key.shape(), 1);
        case.options = Attention { scale: Some(1.0), ..Attention::default() };
        case.options.normalize = Normalize::Monotonic(Monotonic::Hard);
        every_output(case);
    };
    for (queries, keys, bias) in [(9, 33, -1.0), (17, 300, -4.0), (1, 65, 0.0), (5, 1, 0.0), (33, 17, -2.0)] {
        table.add(format!("monotonic Hard, {queries} on {keys}"), Size::rows(queries, keys), |case, random| {
            start(case, random);
            case.inputs.mask = Some(Mask::Float(Array::filled(&[1], bias)));
        });
    }
    table.add("monotonic Hard, given a start", Size::rows(9, 40), |case, random| {
        start(case, random);
        case.inputs.mask = Some(Mask::Float(Array::filled(&[1], -2.0)));
        let mut previous = Array::filled(&[2, 6, 1, 40], 0.0);
        previous.data_mut().chunks_exact_mut(40).for_each(|row| row[random.below(20)] = 1.0);
        case.inputs.previous = Some(previous);
    });
    table.add("monotonic Hard, lengths, masked", Size { batch: 3, ..Size::rows(9, 40) }, |case, random| {
        let lengths = [40, 0, 17];
        start(case, random);
        case.inputs.kv_lengths = numbers(&lengths);
        case.inputs.mask = Some(Mask::Bool(random.mask(&[3, 1, 9, 40], 8)));
        spoil(case, |b, j| j >= lengths[b]);
    });
}

fn location(table: &mut Table) {
    let size = Size { dim: 10, key_dim: 14, ..Size::rows(9, 35) };
    let start = |case: &mut AttentionCase, random: &mut Random, [units, channels, width]: [usize; 3]| {
        let [b, h, q] = [0, 1, 2].map(|axis| case.inputs.query.shape()[axis]);
        let keys = case.inputs.key.shape()[2];
        let [dq, dk] = [&case.inputs.query, &case.inputs.key].map(|x| x.shape()[3]);
        let weights = &mut case.inputs.score;
        weights.query_weight = Some(random.array(&[units, dq]).map(|x| x * 0.3));
        weights.key_weight = Some(random.array(&[units, dk]).map(|x| x * 0.3));
        (weights.v, weights.bias) = (Some(random.array(&[units])), Some(random.array(&[units])));
        weights.location_filter = Some(random.array(&[channels, width]));
        weights.location_weight = Some(random.array(&[units, channels]));
        case.inputs.previous = Some(distributions(random, [b, h, q, keys]));
        case.options.score = Score::Location;
    };
    for numbers in [[1, 1, 1], [7, 3, 2], [64, 10, 31], [65, 2, 5], [5, 32, 99]] {
        let [units, channels, width] = numbers;
        table.add(format!("location, {units} units, {channels} channels of {width}"), size, |case, random| {
            start(case, random, numbers);
            case.options.weights = true;
        });
    }
    table.add("location, one query", Size { queries: 1, keys: 130, ..size }, |case, random| {
        start(case, random, [16, 4, 15]);
        case.options.weights = true;
    });
    table.add("location, lengths", Size { batch: 3, ..size }, |case, random| {
        let lengths = [35, 0, 16];
        start(case, random, [7, 3, 9]);
        case.inputs.kv_lengths = numbers(&lengths);
        spoil(case, |b, j| j >= lengths[b]);
        if let Some(previous) = &mut case.inputs.previous {
            poison_columns(previous, &lengths);
        }
        every_output(case);
    });
    table.add("location, normalized v, causal, sparsemax", size, |case, random| {
        start(case, random, [7, 3, 8]);
        case.inputs.score.bias = None;
        case.inputs.score.g = Array::new(&[1], vec![3.0]).ok();
        case.options.causal = Some(Causal::BottomRight);
        case.options.normalize = Normalize::Sparsemax;
        every_output(case);
    });
    table.add("location, coverage", size, |case, random| {
        // the sum of all alignments so far, one channel of width 1
        start(case, random, [7, 1, 1]);
        case.inputs.previous = case.inputs.previous.as_ref().map(|previous| previous.map(|x| x * 8.0));
        case.inputs.mask = Some(Mask::Float(random.array(&[9, 30])));
        case.options.temperature = Some(0.5);
        every_output(case);
    });
    table.add("location, monotonic", Size { queries: 1, ..size }, |case, random| {
        start(case, random, [7, 3, 4]);
        case.options.normalize = Normalize::Monotonic(Monotonic::Parallel);
        every_output(case);
    });
}
