//! Attention cases: sizes, masks, positions, poison here; what is a subject of its own in a file of its own.

mod alignment;
mod extremes;
mod positions;
mod sequences;
mod terms;

use super::{POISON, Random};
use crate::attention::{Attention, AttentionInputs, Causal, Mask, Normalize, Past, Score, ScoreStage, Window};
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
    /// Has numbers that f16 does not hold.
    pub f32_only: bool,
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

/// Fills the rows (b, n) of an array [B, H, N, D] that `hidden` names.
fn poison_rows(array: &mut Array<f32>, hidden: impl Fn(usize, usize) -> bool) {
    let [heads, rows, width] = [1, 2, 3].map(|axis| array.shape()[axis]);
    for (row, data) in array.data_mut().chunks_exact_mut(width).enumerate() {
        if hidden(row / (heads * rows), row % rows) {
            data.iter_mut().enumerate().for_each(|(d, x)| *x = POISON[(row + d) % POISON.len()]);
        }
    }
}

/// The same of key and value: a batch row, or a page, and a key in it.
fn spoil(case: &mut AttentionCase, hidden: impl Fn(usize, usize) -> bool) {
    poison_rows(&mut case.inputs.key, &hidden);
    poison_rows(&mut case.inputs.value, &hidden);
}

fn numbers(values: &[usize]) -> Option<Array<u32>> {
    Some(Array::from_fn(&[values.len()], |k| values[k] as u32))
}

/// Everything that can be asked for beside the output.
fn every_output(case: &mut AttentionCase) {
    (case.options.weights, case.options.entropy) = (true, true);
    case.options.scores = Some(ScoreStage::Masked);
    case.options.lse = matches!(case.options.normalize, Normalize::Softmax | Normalize::Sample { .. });
    case.options.max_sum = case.options.lse;
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
        let mut case = AttentionCase { name, options, inputs, f32_only: false };
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
    terms::add(&mut table);
    positions::add(&mut table);
    sequences::add(&mut table);
    alignment::add(&mut table);
    extremes::add(&mut table);
    table.0
}

/// Tiles of 4 to 64 rows and keys, head dims up to 256 and one beyond, few and many rows, grouped heads.
fn sizes(table: &mut Table) {
    table.add("all axes differ", Size::USUAL, |_, _| {});
    let around = [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129];
    for (k, &queries) in around.iter().enumerate() {
        let keys = around[(k + 7) % around.len()];
        let size = Size { batch: 1, heads: 2, kv_heads: 1, queries, keys, dim: 16, key_dim: 16, value_dim: 8 };
        table.add(format!("{queries} queries, {keys} keys"), size, |_, _| {});
    }
    for dim in [1, 2, 3, 4, 8, 16, 32, 40, 59, 64, 80, 96, 111, 128, 192, 256, 513] {
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

/// Masks of every rank and kind, short ones, and rows without a visible key.
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
        let mask = random.mask(&[b, 1, q, k], 12).map(|&x| if x == 0 { -1e9 } else { 0.0 });
        case.inputs.mask = Some(Mask::Float(mask));
    });
    table.add("rows hidden by a bool mask", size, |case, random| {
        let mut mask = random.mask(&[q, k], 10);
        mask.data_mut()[2 * k..4 * k].fill(0);
        case.inputs.mask = Some(Mask::Bool(mask));
        case.options.weights = true;
    });
    table.add("rows hidden by a float mask", size, |case, random| {
        let mut mask = random.array(&[b, 1, q, k]);
        mask.data_mut()[..3 * k].fill(f32::NEG_INFINITY);
        case.inputs.mask = Some(Mask::Float(mask));
        case.options.weights = true;
    });
    table.add("everything hidden", size, |case, _| case.inputs.mask = Some(Mask::Bool(Array::filled(&[q, k], 0))));
    table.add("a tile hidden, the next mixed, the last open", Size::rows(33, 200), |case, random| {
        let mut mask = Array::filled(&[33, 200], 1);
        for row in mask.data_mut().chunks_exact_mut(200) {
            row[..64].fill(0);
            row[64..128].iter_mut().for_each(|x| *x = random.below(2) as u32);
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
    let lengths = [0, 1, 33, 40, 4];
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
        let (key, value) = (longer(case.inputs.key.shape()), longer(case.inputs.value.shape()));
        case.inputs.past = Some(Past { key: random.array(&key), value: random.array(&value) });
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
    let size = Size::rows(9, 40);
    let (b, q, k) = (size.batch, size.queries, size.keys);
    table.add("poison behind a bool mask", size, |case, random| {
        let mask = random.mask(&[b, 1, 1, k], 8);
        spoil(case, |b, j| mask.data()[b * k + j] == 0);
        case.inputs.mask = Some(Mask::Bool(mask));
    });
    table.add("poison behind a float mask", size, |case, random| {
        let mask = random.mask(&[b, 1, 1, k], 8).map(|&x| if x == 0 { f32::NEG_INFINITY } else { 1.0 });
        spoil(case, |b, j| mask.data()[b * k + j] == f32::NEG_INFINITY);
        case.inputs.mask = Some(Mask::Float(mask));
        case.options.weights = true;
    });
    table.add("poison past a short mask", size, |case, _| {
        spoil(case, |_, j| j >= 17);
        case.inputs.mask = Some(Mask::Bool(Array::filled(&[q, 17], 1)));
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
        let mask = random.mask(&[b, 1, q, k], 8).map(|&x| if x == 0 { f32::MIN } else { 1.0 });
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
            case.inputs.kv_lengths = numbers(&lengths);
            case.options = Attention { score, normalize, lse: normalize == Normalize::Softmax, ..Attention::default() };
        });
    }
    for (name, normalize) in [
        ("poison in values of weight 0, hardmax", Normalize::Hardmax),
        ("poison in values of weight 0, sample", Normalize::Sample { seed: 4 }),
        ("poison in values of weight 0, sparsemax", Normalize::Sparsemax),
    ] {
        table.add(name, size, |case, _| {
            let keys = case.inputs.key.clone();
            spoil(case, |_, j| j != 3);
            case.inputs.key = keys;
            // Key 3 wins by far.
            case.inputs.mask = Some(Mask::Float(Array::from_fn(&[k], |j| if j == 3 { 100.0 } else { 0.0 })));
            case.options.normalize = normalize;
            case.options.weights = true;
            case.options.lse = false;
        });
    }
    table.add("everything hidden is poison", size, |case, _| {
        spoil(case, |_, _| true);
        case.inputs.mask = Some(Mask::Bool(Array::filled(&[1], 0)));
    });
}
