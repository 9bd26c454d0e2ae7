//! Attention cases: sizes, masks, positions, poison, terms, score functions, normalizers.

use std::sync::Arc;

use super::{POISON, Random};
use crate::attention::{Attention, AttentionInputs, Causal, Mask, Normalize, Score, ScoreMod, ScoreStage, Window};
use crate::tensor::Array;

/// One call of attention.
#[derive(Debug, Clone)]
pub struct AttentionCase {
    /// Unique in the table.
    pub name: String,
    /// What is asked for.
    pub options: Attention,
    /// Host tensors.
    pub inputs: AttentionInputs<Array<f32>>,
}

/// Sizes of one case; the defaults differ on every axis.
#[derive(Clone, Copy)]
struct Size {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    key_dim: usize,
    value_dim: usize,
}

impl Size {
    const USUAL: Self =
        Self { batch: 2, heads: 6, kv_heads: 3, queries: 5, keys: 7, dim: 11, key_dim: 11, value_dim: 13 };

    fn rows(queries: usize, keys: usize) -> Self {
        Self { queries, keys, ..Self::USUAL }
    }

    fn dims(dim: usize, value_dim: usize) -> Self {
        Self { batch: 1, heads: 2, kv_heads: 1, queries: 9, keys: 35, dim, key_dim: dim, value_dim }
    }

    fn heads(batch: usize, heads: usize, kv_heads: usize) -> Self {
        Self { batch, heads, kv_heads, ..Self::USUAL }
    }
}

#[derive(Default)]
struct Table(Vec<AttentionCase>);

impl Table {
    /// Query, key and value of variance 1 and the log-sum-exp, changed by `edit`.
    fn add(&mut self, name: impl Into<String>, size: Size, edit: impl FnOnce(&mut AttentionCase, &mut Random)) {
        let name = name.into();
        let mut random = Random::new(&name);
        let Size { batch, heads, kv_heads, queries, keys, dim, key_dim, value_dim } = size;
        let inputs = AttentionInputs::new(
            random.array(&[batch, heads, queries, dim]),
            random.array(&[batch, kv_heads, keys, key_dim]),
            random.array(&[batch, kv_heads, keys, value_dim]),
        );
        let options = Attention { lse: true, ..Attention::default() };
        let mut case = AttentionCase { name, options, inputs };
        edit(&mut case, &mut random);
        self.0.push(case);
    }
}

/// Every attention case.
pub fn attention() -> Vec<AttentionCase> {
    let mut table = Table::default();
    sizes(&mut table);
    masks(&mut table);
    positions(&mut table);
    poison(&mut table);
    terms(&mut table);
    scores(&mut table);
    normalizers(&mut table);
    table.0
}

/// Tiles of 4 to 64 rows and keys, head dims up to 256, few and many rows, grouped heads.
fn sizes(table: &mut Table) {
    table.add("all axes differ", Size::USUAL, |_, _| {});
    let around = [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129];
    for (k, &queries) in around.iter().enumerate() {
        let keys = around[(k + 7) % around.len()];
        let size = Size { batch: 1, heads: 2, kv_heads: 1, queries, keys, dim: 16, key_dim: 16, value_dim: 8 };
        table.add(format!("{queries} queries, {keys} keys"), size, |_, _| {});
    }
    for dim in [1, 2, 3, 4, 8, 16, 32, 40, 59, 64, 80, 96, 111, 128, 192, 256] {
        table.add(format!("head dim {dim}"), Size::dims(dim, dim), |_, _| {});
    }
    for (dim, value_dim) in [(40, 24), (64, 128), (256, 59), (1, 9), (111, 1)] {
        table.add(format!("head dim {dim}, value dim {value_dim}"), Size::dims(dim, value_dim), |_, _| {});
    }
    for (batch, heads, kv_heads) in [(1, 1, 1), (5, 1, 1), (1, 7, 7), (3, 8, 2), (2, 6, 1), (1, 9, 3)] {
        let size = Size::heads(batch, heads, kv_heads);
        table.add(format!("batch {batch}, {heads} heads on {kv_heads}"), size, |_, _| {});
    }
    for keys in [1, 2, 63, 64, 65, 300, 1025] {
        let size = Size { queries: 1, keys, dim: 64, key_dim: 64, value_dim: 64, ..Size::heads(2, 8, 2) };
        table.add(format!("decode over {keys} keys"), size, |_, _| {});
    }
    let long = Size { batch: 1, heads: 2, kv_heads: 2, queries: 130, keys: 259, dim: 64, key_dim: 64, value_dim: 64 };
    table.add("long", long, |_, _| {});
    table.add("long, causal from the bottom right", long, |case, _| case.options.causal = Some(Causal::BottomRight));
    table.add("weights", Size::rows(17, 33), |case, _| case.options.weights = true);
}

/// Masks of every rank and kind, short ones, and rows that see nothing.
fn masks(table: &mut Table) {
    let size = Size::rows(9, 21);
    let (b, h, q, k) = (size.batch, size.heads, size.queries, size.keys);
    let shapes: [&[usize]; 9] =
        [&[k], &[1], &[q, k], &[h, q, k], &[b, 1, q, k], &[b, h, q, k], &[b, 1, 1, k], &[b, 1, q, 1], &[1, h, 1, k]];
    for shape in shapes {
        table.add(format!("bool mask {shape:?}"), size, |case, random| {
            case.inputs.mask = Some(Mask::Bool(random.mask(shape, 11)));
        });
        table.add(format!("float mask {shape:?}"), size, |case, random| {
            let mut mask = random.array(shape);
            mask.data_mut().iter_mut().step_by(5).for_each(|x| *x = f32::NEG_INFINITY);
            case.inputs.mask = Some(Mask::Float(mask));
        });
    }
    table.add("short bool mask", size, |case, random| case.inputs.mask = Some(Mask::Bool(random.mask(&[q, 10], 12))));
    table.add("short float mask", size, |case, random| {
        case.inputs.mask = Some(Mask::Float(random.array(&[b, 1, q, 2])));
    });
    table.add("mask of -1e9, not infinite", size, |case, random| {
        let mask = random.mask(&[b, 1, q, k], 12).map(|&x| if x == 0.0 { -1e9 } else { 0.0 });
        case.inputs.mask = Some(Mask::Float(mask));
    });
    table.add("rows hidden by a bool mask", size, |case, random| {
        let mut mask = random.mask(&[q, k], 10);
        mask.data_mut()[2 * k..4 * k].fill(0.0);
        case.inputs.mask = Some(Mask::Bool(mask));
        case.options.weights = true;
    });
    table.add("rows hidden by a float mask", size, |case, random| {
        let mut mask = random.array(&[b, 1, q, k]);
        mask.data_mut()[..3 * k].fill(f32::NEG_INFINITY);
        case.inputs.mask = Some(Mask::Float(mask));
        case.options.weights = true;
    });
    table.add("everything hidden", size, |case, _| case.inputs.mask = Some(Mask::Bool(Array::filled(&[q, k], 0.0))));
    table.add("a tile hidden, the next mixed, the last open", Size::rows(33, 200), |case, random| {
        let mut mask = Array::filled(&[33, 200], 1.0);
        for row in mask.data_mut().chunks_exact_mut(200) {
            row[..64].fill(0.0);
            row[64..128].iter_mut().for_each(|x| *x = random.below(2) as f32);
        }
        case.inputs.mask = Some(Mask::Bool(mask));
    });
}

/// Causal both ways, windows, lengths, past.
fn positions(table: &mut Table) {
    for (queries, keys) in [(33, 33), (17, 40), (40, 17), (1, 65), (65, 1), (64, 64), (2, 130)] {
        let size = Size::rows(queries, keys);
        table.add(format!("causal {queries} on {keys}"), size, |case, _| case.options.causal = Some(Causal::TopLeft));
        table.add(format!("causal {queries} on {keys}, bottom right"), size, |case, _| {
            case.options.causal = Some(Causal::BottomRight);
            case.options.weights = true;
        });
    }
    for (left, right) in
        [(Some(3), None), (None, Some(2)), (Some(4), Some(1)), (Some(0), Some(0)), (Some(70), Some(70))]
    {
        let size = Size::rows(33, 70);
        let window = Some(Window::new(left, right));
        let side = |n: Option<u32>| n.map_or("open".to_owned(), |n| n.to_string());
        let name = format!("window {} {}", side(left), side(right));
        table.add(&name, size, |case, _| case.options.window = window);
        table.add(format!("{name}, bottom right"), size, |case, _| {
            case.options.window = window;
            case.options.causal = Some(Causal::BottomRight);
        });
    }
    table.add("window that leaves rows empty", Size::rows(33, 12), |case, _| {
        case.options.window = Some(Window::new(Some(2), Some(2)));
    });
    let size = Size { batch: 5, ..Size::rows(6, 40) };
    let lengths = [0.0, 1.0, 33.0, 40.0, 4.0];
    let with_lengths = |case: &mut AttentionCase| {
        case.inputs.kv_lengths = Array::new(&[5], lengths.to_vec()).ok();
    };
    table.add("lengths", size, |case, _| with_lengths(case));
    for causal in [Causal::TopLeft, Causal::BottomRight] {
        table.add(format!("lengths, causal {causal:?}"), size, |case, _| {
            with_lengths(case);
            case.options.causal = Some(causal);
            case.options.weights = true;
        });
    }
    table.add("lengths, window", size, |case, _| {
        with_lengths(case);
        case.options.window = Some(Window::new(Some(5), Some(1)));
    });
    table.add("lengths, one query", Size { queries: 1, ..size }, |case, _| with_lengths(case));
    let past = |case: &mut AttentionCase, random: &mut Random, length: usize| {
        let longer = |shape: &[usize]| [shape[0], shape[1], length, shape[3]];
        case.inputs.past_key = Some(random.array(&longer(case.inputs.key.shape())));
        case.inputs.past_value = Some(random.array(&longer(case.inputs.value.shape())));
    };
    table.add("past", Size::rows(5, 5), |case, random| past(case, random, 13));
    table.add("past, causal", Size::rows(5, 5), |case, random| {
        past(case, random, 60);
        case.options.causal = Some(Causal::TopLeft);
    });
    table.add("past, causal, window, one query", Size::rows(1, 1), |case, random| {
        past(case, random, 100);
        case.options.causal = Some(Causal::TopLeft);
        case.options.window = Some(Window::new(Some(30), None));
    });
}

/// NaN, infinities and 1e30 in keys and values that no query may see.
fn poison(table: &mut Table) {
    /// Fills the rows of key and value of batch row `b` that `hidden` names.
    fn spoil(case: &mut AttentionCase, hidden: impl Fn(usize, usize) -> bool) {
        let [_, heads, keys, _] = [0, 1, 2, 3].map(|axis| case.inputs.key.shape()[axis]);
        for tensor in [&mut case.inputs.key, &mut case.inputs.value] {
            let width = tensor.shape()[3];
            for (row, data) in tensor.data_mut().chunks_exact_mut(width).enumerate() {
                if hidden(row / (heads * keys), row % keys) {
                    data.iter_mut().enumerate().for_each(|(d, x)| *x = POISON[(row + d) % POISON.len()]);
                }
            }
        }
    }
    let size = Size::rows(9, 40);
    let (b, q, k) = (size.batch, size.queries, size.keys);
    table.add("poison behind a bool mask", size, |case, random| {
        let mask = random.mask(&[b, 1, 1, k], 8);
        spoil(case, |b, j| mask.data()[b * k + j] == 0.0);
        case.inputs.mask = Some(Mask::Bool(mask));
    });
    table.add("poison behind a float mask", size, |case, random| {
        let mask = random.mask(&[b, 1, 1, k], 8).map(|&x| if x == 0.0 { f32::NEG_INFINITY } else { x });
        spoil(case, |b, j| mask.data()[b * k + j] == f32::NEG_INFINITY);
        case.inputs.mask = Some(Mask::Float(mask));
        case.options.weights = true;
    });
    table.add("poison past a short mask", size, |case, _| {
        spoil(case, |_, j| j >= 17);
        case.inputs.mask = Some(Mask::Bool(Array::filled(&[q, 17], 1.0)));
    });
    table.add("poison past the diagonal", size, |case, _| {
        spoil(case, |_, j| j >= q);
        case.options.causal = Some(Causal::TopLeft);
        case.options.weights = true;
    });
    table.add("poison outside the window", size, |case, _| {
        spoil(case, |_, j| j > q + 1);
        case.options.window = Some(Window::new(None, Some(2)));
    });
    // In the open, NaN belongs to the rows that see it, and to no other.
    for (name, normalize) in [
        ("NaN in sight, softmax", Normalize::Softmax),
        ("NaN in sight, hardmax", Normalize::Hardmax),
        ("NaN in sight, sample", Normalize::Sample { seed: 5 }),
        ("NaN in sight, sparsemax", Normalize::Sparsemax),
    ] {
        table.add(name, size, |case, _| {
            let width = case.inputs.query.shape()[3];
            case.inputs.query.data_mut()[2 * width + 1] = f32::NAN;
            let row = k - 3;
            case.inputs.key.data_mut()[row * width + 2] = f32::NAN;
            case.options.causal = Some(Causal::BottomRight);
            case.options.normalize = normalize;
            case.options.weights = true;
            case.options.lse = normalize == Normalize::Softmax;
        });
    }
    // The least number is no −∞: it hides nothing, and where it is everywhere the keys are alike.
    table.add("the least number as a mask", size, |case, random| {
        let mask = random.mask(&[b, 1, q, k], 8).map(|&x| if x == 0.0 { f32::MIN } else { x });
        let mut mask = mask;
        mask.data_mut()[..2 * k].fill(f32::MIN);
        case.inputs.mask = Some(Mask::Float(mask));
        case.options.weights = true;
        case.options.lse = true;
    });
    table.add("NaN in sight, additive", size, |case, _| {
        case.inputs.query.data_mut()[5] = f32::NAN;
        case.options.score = Score::Additive;
        case.options.weights = true;
    });
    for (name, score, normalize) in [
        ("poison past the lengths", Score::ScaledDot, Normalize::Softmax),
        ("poison past the lengths, additive", Score::Additive, Normalize::Softmax),
        ("poison past the lengths, cosine", Score::Cosine, Normalize::Softmax),
        ("poison past the lengths, sparsemax", Score::ScaledDot, Normalize::Sparsemax),
    ] {
        table.add(name, size, |case, _| {
            let lengths = [0, 23];
            spoil(case, |b, j| j >= lengths[b]);
            case.inputs.kv_lengths = Some(Array::from_fn(&[2], |b| lengths[b] as f32));
            case.options = Attention { score, normalize, lse: normalize == Normalize::Softmax, ..Attention::default() };
        });
    }
    table.add("everything hidden is poison", size, |case, _| {
        spoil(case, |_, _| true);
        case.inputs.mask = Some(Mask::Bool(Array::filled(&[1], 0.0)));
    });
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
    table.add("sinks", size, |case, random| case.inputs.sinks = Some(random.array(&[size.heads])));
    table.add("sinks and rows that see nothing", size, |case, random| {
        case.inputs.sinks = Some(random.array(&[size.heads]));
        case.inputs.kv_lengths = Array::new(&[2], vec![0.0, 20.0]).ok();
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
        case.inputs.kv_lengths = Array::new(&[2], vec![65.0, 9.0]).ok();
        case.inputs.alibi_slopes = Some(slopes.clone());
        case.inputs.sinks = Some(random.array(&[6]));
    });
}

fn score_mod() -> ScoreMod {
    let wgsl = "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
    return score * (1.0 + 0.5 * f32(h)) + 0.25 * f32(b) - 0.125 * abs(f32(i) - f32(j));
}
";
    ScoreMod {
        wgsl: wgsl.to_owned(),
        reference: Some(Arc::new(|score, b, h, i, j| {
            score * (1.0 + 0.5 * h as f64) + 0.25 * b as f64 - 0.125 * (i as f64 - j as f64).abs()
        })),
    }
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
            case.inputs.kv_lengths = Array::new(&[2], vec![35.0, 8.0]).ok();
        });
        table.add(format!("concat, {units} units"), uneven, |case, random| {
            case.options.score = Score::Concat;
            case.inputs.score.weight = Some(random.array(&[units, 24]).map(|x| x * 0.3));
            case.inputs.score.v = Some(random.array(&[units]));
            case.inputs.score.bias = (units != 7).then(|| random.array(&[units]));
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
    let lengths = || Array::new(&[2], vec![33.0, 0.0]).ok();
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
