//! Terms of a score, score functions, normalizers, and their statistics.

use std::sync::Arc;

use super::{AttentionCase, Size, Table, every_output, numbers};
use crate::attention::{Attention, Causal, Mask, Monotonic, Normalize, Score, ScoreMod, ScoreStage, Window};
use crate::cases::Random;
use crate::tensor::Array;

pub(super) fn add(table: &mut Table) {
    terms(table);
    scores(table);
    normalizers(table);
    temperature(table);
    outputs(table);
}

/// Scale, softcap, ALiBi, sinks, a user's term, large scores, scores at each stage, and all of it together.
fn terms(table: &mut Table) {
    let size = Size::rows(17, 33);
    for scale in [0.01, 1.0, -0.5] {
        table.add(format!("scale {scale}"), size, |case, _| case.options.scale = Some(scale));
    }
    for softcap in [0.5, 30.0] {
        table.add(format!("softcap {softcap}"), size, |case, _| case.options.softcap = Some(softcap));
    }
    let slopes = Array::from_fn(&[size.heads], |h| 0.5f32.powi(h as i32 + 1));
    table.add("ALiBi", size, |case, _| case.inputs.alibi_slopes = Some(slopes.clone()));
    table.add("ALiBi, bottom right", size, |case, _| {
        case.inputs.alibi_slopes = Some(slopes.clone());
        case.options.causal = Some(Causal::BottomRight);
    });
    // With other lists and alone; queries of several rows of a tile; few of them; sums over the visible keys of a row.
    for (name, size) in [("", size), (", one query", Size { queries: 1, keys: 130, ..size })] {
        table.add(format!("ALiBi of each batch row{name}"), size, |case, random| {
            case.inputs.alibi_slopes = Some(random.array(&[size.batch, size.heads]).map(|x| x.abs()));
        });
        table.add(format!("ALiBi of each batch row, lengths, causal, window{name}"), size, |case, random| {
            case.inputs.alibi_slopes = Some(random.array(&[size.batch, size.heads]).map(|x| x.abs()));
            case.inputs.kv_lengths = numbers(&[size.keys, size.keys / 2]);
            case.options.causal = Some(Causal::BottomRight);
            case.options.window = Some(Window::new(Some(9), None));
        });
    }
    table.add("ALiBi of each batch row, mask, sinks, weights", size, |case, random| {
        case.inputs.alibi_slopes = Some(random.array(&[size.batch, size.heads]).map(|x| x.abs()));
        case.inputs.mask = Some(Mask::Float(random.array(&[17, 30])));
        case.inputs.sinks = Some(random.array(&[size.heads]));
        every_output(case);
    });
    table.add("sinks", size, |case, random| case.inputs.sinks = Some(random.array(&[size.heads])));
    table.add("sinks and rows that see nothing", size, |case, random| {
        case.inputs.sinks = Some(random.array(&[size.heads]));
        case.inputs.kv_lengths = numbers(&[0, 20]);
        case.options.causal = Some(Causal::TopLeft);
        case.options.weights = true;
    });
    table.add("sinks far above and below", size, |case, _| {
        case.inputs.sinks = Some(Array::from_fn(&[size.heads], |h| [-1e4, 0.0, 50.0][h % 3]));
    });
    table.add("score function", size, |case, _| case.options.score_mod = Some(score_mod()));
    // Whole numbers, so that scores up to 1e4 are exact and only the softmax is judged.
    table.add("scores of 1e4", size, |case, random| {
        case.inputs.query = random.whole(case.inputs.query.shape(), 30);
        case.inputs.key = random.whole(case.inputs.key.shape(), 30);
        case.options.scale = Some(1.0);
    });
    table.add("scores of 1e4, causal", size, |case, random| {
        case.inputs.query = random.whole(case.inputs.query.shape(), 30);
        case.inputs.key = random.whole(case.inputs.key.shape(), 30);
        case.options = Attention { scale: Some(1.0), causal: Some(Causal::BottomRight), ..case.options.clone() };
    });
    for stage in [ScoreStage::Raw, ScoreStage::Capped, ScoreStage::Masked] {
        table.add(format!("scores at {stage:?}"), size, |case, random| {
            case.options.scores = Some(stage);
            case.options.softcap = Some(2.0);
            case.options.causal = Some(Causal::TopLeft);
            case.inputs.mask = Some(Mask::Float(random.array(&[17, 30])));
            case.inputs.alibi_slopes = Some(slopes.clone());
        });
    }
    table.add("all at once", Size { batch: 2, ..Size::rows(17, 65) }, |case, random| {
        case.options.scale = Some(0.4);
        case.options.softcap = Some(4.0);
        case.options.causal = Some(Causal::TopLeft);
        case.options.window = Some(Window::new(Some(40), Some(0)));
        case.options.score_mod = Some(score_mod());
        case.options.weights = true;
        case.inputs.mask = Some(Mask::Float(random.array(&[1, 6, 17, 60])));
        case.inputs.kv_lengths = numbers(&[65, 9]);
        case.inputs.alibi_slopes = Some(slopes.clone());
        case.inputs.sinks = Some(random.array(&[6]));
    });
}

pub(super) fn score_mod() -> ScoreMod {
    let wgsl = "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
    return score * (1.0 + 0.5 * f32(h)) + 0.25 * f32(b) - 0.125 * abs(f32(i) - f32(j));
}
";
    ScoreMod::new(
        wgsl,
        Some(Arc::new(|score, b, h, i, j| {
            score * (1.0 + 0.5 * h as f64) + 0.25 * b as f64 - 0.125 * (i as f64 - j as f64).abs()
        })),
    )
}

/// Every way to compare a query and a key.
fn scores(table: &mut Table) {
    let size = Size::rows(9, 35);
    let uneven = Size { dim: 10, key_dim: 14, ..size };
    table.add("dot", size, |case, _| case.options.score = Score::Dot);
    table.add("dot, scaled and causal", size, |case, _| {
        case.options.score = Score::Dot;
        case.options.scale = Some(0.25);
        case.options.causal = Some(Causal::TopLeft);
    });
    for (name, scale) in [("cosine", 1.0), ("cosine, scaled", 12.0)] {
        table.add(name, size, |case, _| {
            case.options.score = Score::Cosine;
            case.options.scale = Some(scale);
            // one query and one key without a direction
            case.inputs.query.data_mut()[..size.dim].fill(0.0);
            case.inputs.key.data_mut()[2 * size.dim..3 * size.dim].fill(0.0);
        });
    }
    table.add("general", uneven, |case, random| {
        case.options.score = Score::General;
        case.options.scale = Some(0.2);
        case.inputs.score.weight = Some(random.array(&[10, 14]));
    });
    table.add("additive without weights", size, |case, _| {
        case.options.score = Score::Additive;
        case.options.weights = true;
    });
    table.add("additive with v alone", size, |case, random| {
        case.options.score = Score::Additive;
        case.inputs.score.v = Some(random.array(&[11]));
    });
    for units in [1, 7, 64, 65] {
        table.add(format!("additive, {units} units"), uneven, |case, random| {
            case.options.score = Score::Additive;
            case.inputs.score.query_weight = Some(random.array(&[units, 10]).map(|x| x * 0.3));
            case.inputs.score.key_weight = Some(random.array(&[units, 14]).map(|x| x * 0.3));
            case.inputs.score.v = Some(random.array(&[units]));
            case.inputs.score.bias = Some(random.array(&[units]));
            case.inputs.kv_lengths = numbers(&[35, 8]);
        });
        table.add(format!("concat, {units} units"), uneven, |case, random| {
            case.options.score = Score::Concat;
            case.inputs.score.weight = Some(random.array(&[units, 24]).map(|x| x * 0.3));
            case.inputs.score.v = Some(random.array(&[units]));
            case.inputs.score.bias = (units != 7).then(|| random.array(&[units]));
        });
    }
    for (name, score, g) in [
        ("additive, normalized v", Score::Additive, 2.5),
        ("concat, normalized v", Score::Concat, -0.75),
        ("additive, v of length 0", Score::Additive, 1.0),
    ] {
        table.add(name, uneven, |case, random| {
            case.options.score = score;
            case.options.weights = true;
            let weights = &mut case.inputs.score;
            if score == Score::Concat {
                weights.weight = Some(random.array(&[7, 24]).map(|x| x * 0.3));
            } else {
                weights.query_weight = Some(random.array(&[7, 10]).map(|x| x * 0.3));
                weights.key_weight = Some(random.array(&[7, 14]).map(|x| x * 0.3));
            }
            let length = if g == 1.0 { 0.0 } else { 1.0 };
            (weights.v, weights.g) = (Some(random.array(&[7]).map(|x| x * length)), Array::new(&[1], vec![g]).ok());
        });
    }
    table.add("additive, saturated", size, |case, random| {
        case.options.score = Score::Additive;
        case.inputs.query = random.whole(case.inputs.query.shape(), 3).map(|x| x * 1e4);
        case.inputs.score.v = Some(random.array(&[11]));
    });
}

/// Hard attention and sparsemax. Scores of the hard ones are whole, so that ties are ties in any precision.
fn normalizers(table: &mut Table) {
    let size = Size::rows(17, 33);
    let lengths = || numbers(&[33, 0]);
    let hard = |case: &mut AttentionCase, random: &mut Random, normalize: Normalize| {
        case.inputs.query = random.whole(case.inputs.query.shape(), 1);
        case.inputs.key = random.whole(case.inputs.key.shape(), 1);
        case.options = Attention { scale: Some(0.5), normalize, weights: true, ..Attention::default() };
    };
    table.add("hardmax with ties", size, |case, random| hard(case, random, Normalize::Hardmax));
    table.add("hardmax, causal, lengths", size, |case, random| {
        hard(case, random, Normalize::Hardmax);
        case.options.causal = Some(Causal::BottomRight);
        case.inputs.kv_lengths = lengths();
    });
    table.add("hardmax over equal scores", size, |case, random| {
        hard(case, random, Normalize::Hardmax);
        case.inputs.query.data_mut().fill(0.0);
        case.inputs.mask = Some(Mask::Bool(random.mask(&[17, 33], 8)));
    });
    for seed in [5, 1, 0xdead_beef] {
        table.add(format!("sample, seed {seed}"), Size { heads: 3, ..size }, |case, random| {
            hard(case, random, Normalize::Sample { seed });
            case.options.lse = true;
        });
    }
    table.add("sample, masked", Size { heads: 3, ..size }, |case, random| {
        hard(case, random, Normalize::Sample { seed: 8 });
        case.inputs.mask = Some(Mask::Bool(random.mask(&[17, 33], 6)));
        case.inputs.kv_lengths = lengths();
    });
    let sparse = |case: &mut AttentionCase| {
        case.options = Attention { normalize: Normalize::Sparsemax, weights: true, ..Attention::default() };
    };
    for keys in [1, 2, 33, 65, 300] {
        table.add(format!("sparsemax over {keys}"), Size::rows(5, keys), |case, _| sparse(case));
    }
    table.add("sparsemax, many kept", size, |case, _| {
        sparse(case);
        case.options.scale = Some(0.01);
    });
    table.add("sparsemax, masked", size, |case, random| {
        sparse(case);
        case.options.causal = Some(Causal::TopLeft);
        case.inputs.mask = Some(Mask::Bool(random.mask(&[17, 33], 8)));
        case.inputs.kv_lengths = lengths();
    });
    table.add("sparsemax over equal scores", size, |case, _| {
        sparse(case);
        case.inputs.query.data_mut().fill(0.0);
    });
}

/// Every normalizer that a temperature means something to; masks, ALiBi and sinks are divided too.
fn temperature(table: &mut Table) {
    let size = Size::rows(17, 33);
    for temperature in [0.25, 3.0, 1e-30] {
        table.add(format!("temperature {temperature}"), size, |case, random| {
            case.options.temperature = Some(temperature);
            case.inputs.mask = Some(Mask::Float(random.array(&[17, 30])));
            case.inputs.alibi_slopes = Some(random.array(&[6]).map(|x| x.abs()));
            case.inputs.sinks = Some(random.array(&[6]));
            every_output(case);
        });
    }
    table.add("temperature, sparsemax", size, |case, _| {
        case.options.normalize = Normalize::Sparsemax;
        case.options.temperature = Some(0.7);
        every_output(case);
    });
    table.add("temperature, sample", Size { heads: 3, ..size }, |case, random| {
        case.inputs.query = random.whole(case.inputs.query.shape(), 1);
        case.inputs.key = random.whole(case.inputs.key.shape(), 1);
        case.options = Attention { scale: Some(0.5), temperature: Some(2.0), ..Attention::default() };
        case.options.normalize = Normalize::Sample { seed: 11 };
        every_output(case);
    });
    table.add("temperature, monotonic", size, |case, _| {
        case.options.normalize = Normalize::Monotonic(Monotonic::Recursive);
        case.options.temperature = Some(2.0);
        every_output(case);
    });
}

/// Every output of every normalizer, over rows that see all, some and none; large scores; hidden scores and a softcap.
fn outputs(table: &mut Table) {
    let size = Size::rows(17, 65);
    for (name, normalize) in [
        ("softmax", Normalize::Softmax),
        ("sparsemax", Normalize::Sparsemax),
        ("hardmax", Normalize::Hardmax),
        ("sample", Normalize::Sample { seed: 3 }),
    ] {
        let hard = matches!(normalize, Normalize::Hardmax | Normalize::Sample { .. });
        table.add(format!("every output of {name}"), Size { heads: 3, ..size }, |case, random| {
            if hard {
                case.inputs.query = random.whole(case.inputs.query.shape(), 1);
                case.inputs.key = random.whole(case.inputs.key.shape(), 1);
                case.options.scale = Some(0.5);
            }
            case.options.normalize = normalize;
            let mut mask = random.mask(&[17, 65], 9).map(|&x| if x == 0 { f32::NEG_INFINITY } else { 0.0 });
            mask.data_mut()[..2 * 65].fill(f32::NEG_INFINITY);
            case.inputs.mask = Some(Mask::Float(mask));
            case.inputs.kv_lengths = numbers(&[65, 0]);
            every_output(case);
        });
    }
    table.add("entropy over 1025 keys", Size { queries: 2, keys: 1025, ..Size::heads(1, 2, 1) }, |case, _| {
        case.options.scale = Some(0.01);
        case.options.entropy = true;
    });
    table.add("entropy with sinks", size, |case, random| {
        case.inputs.sinks = Some(random.array(&[6]).map(|x| x * 3.0));
        case.inputs.query_lengths = numbers(&[17, 3]);
        every_output(case);
    });
    table.add("softcap and a mask of minus infinity", size, |case, random| {
        let mut mask = random.mask(&[2, 1, 17, 65], 8).map(|&x| if x == 0 { f32::NEG_INFINITY } else { 1.0 });
        mask.data_mut()[3 * 65..5 * 65].fill(f32::NEG_INFINITY);
        case.inputs.mask = Some(Mask::Float(mask));
        case.options.softcap = Some(5.0);
        every_output(case);
    });
    // Whole numbers and a power of two, so that no product is rounded.
    table.add("scores of 1e4, masked", size, |case, random| {
        case.inputs.query = random.whole(case.inputs.query.shape(), 30);
        case.inputs.key = random.whole(case.inputs.key.shape(), 30);
        case.options.scale = Some(1.0);
        case.inputs.mask = Some(Mask::Bool(random.mask(&[17, 65], 8)));
        case.options.causal = Some(Causal::BottomRight);
        every_output(case);
    });
    for stage in [ScoreStage::Raw, ScoreStage::Capped] {
        table.add(format!("scores at {stage:?} of rows that see nothing"), size, |case, _| {
            case.options.scores = Some(stage);
            case.options.softcap = Some(3.0);
            case.inputs.kv_lengths = numbers(&[0, 40]);
            case.options.causal = Some(Causal::TopLeft);
        });
    }
}
