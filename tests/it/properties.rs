//! What must hold of the reference whatever the numbers, in f64 to near exactness.

mod alignment;
mod parts;
mod refusals;
mod sequences;

use regard::attention::{
    Attention, AttentionInputs, AttentionOutputs, Causal, Mask, Monotonic, Normalize, Past, Score, ScoreMod,
    ScoreStage, Window,
};
use regard::compare::close;
use regard::reference;
use regard::tensor::{Array, Layout};
use regard::{Error, cases};

type Tensor = Array<f64>;

/// Deterministic numbers of about unit size.
fn numbers(shape: &[usize], seed: f64) -> Tensor {
    Array::from_fn(shape, |k| ((k as f64 + 1.0) * (seed + 0.37)).sin() * 1.5)
}

fn same(what: &str, got: &Tensor, want: &Tensor) {
    close(what, got, want, 1e-12, 1e-13).and_then(|verdict| verdict.check(what)).unwrap();
}

/// One axis cut to `length` entries from `start` on.
fn cut(array: &Tensor, axis: usize, start: usize, length: usize) -> Tensor {
    array.gather(&Layout::contiguous(array.shape()).narrow(axis, start, length).unwrap()).unwrap()
}

/// One axis in the order of `order`.
fn reorder(array: &Tensor, axis: usize, order: &[usize]) -> Tensor {
    let parts: Vec<Tensor> = order.iter().map(|&k| cut(array, axis, k, 1)).collect();
    join(&parts, axis)
}

/// Arrays joined along an axis.
fn join(parts: &[Tensor], axis: usize) -> Tensor {
    let mut shape = parts[0].shape().to_vec();
    shape[axis] = parts.iter().map(|part| part.shape()[axis]).sum();
    let outer: usize = shape[..axis].iter().product();
    let mut data = Vec::new();
    for k in 0..outer {
        for part in parts {
            let size = part.data().len() / outer;
            data.extend_from_slice(&part.data()[k * size..(k + 1) * size]);
        }
    }
    Array::new(&shape, data).unwrap()
}

fn wide(case: &cases::AttentionCase) -> AttentionInputs<Tensor> {
    case.inputs.map_numbers(|a| a.map(|&x| f64::from(x)))
}

fn inputs(queries: usize, keys: usize) -> AttentionInputs<Tensor> {
    AttentionInputs::new(
        numbers(&[2, 4, queries, 6], 1.0),
        numbers(&[2, 2, keys, 6], 2.0),
        numbers(&[2, 2, keys, 5], 3.0),
    )
}

fn full() -> Attention {
    Attention { weights: true, lse: true, scores: Some(ScoreStage::Masked), ..Attention::default() }
}

fn attend(options: &Attention, inputs: &AttentionInputs<Tensor>) -> AttentionOutputs<Tensor> {
    reference::attention(options, inputs).unwrap()
}

/// Weights of a location-sensitive score over heads of dim 6: 3 units, 2 channels of width 3.
fn location_weights(inputs: &mut AttentionInputs<Tensor>) {
    inputs.score.query_weight = Some(numbers(&[3, 6], 5.0));
    inputs.score.key_weight = Some(numbers(&[3, 6], 6.0));
    inputs.score.v = Some(numbers(&[3], 7.0));
    inputs.score.location_filter = Some(numbers(&[2, 3], 8.0));
    inputs.score.location_weight = Some(numbers(&[3, 2], 9.0));
}

fn same_attention(got: &AttentionOutputs<Tensor>, want: &AttentionOutputs<Tensor>) {
    same("output", &got.output, &want.output);
    same("weights", got.weights.as_ref().unwrap(), want.weights.as_ref().unwrap());
    same("lse", got.lse.as_ref().unwrap(), want.lse.as_ref().unwrap());
}

/// All weights are in [0, 1]; a row sums to 1, to 0 when it sees nothing, and to less with a sink or where a monotonic
/// scan can run off the end; hidden entries have weight 0.
#[test]
fn weights_are_a_distribution_over_what_is_visible() {
    let mut rows = [0, 0];
    // Where rows see nothing but −∞, that is no sign of what is hidden.
    let told = |case: &cases::AttentionCase| !case.name.contains("row of scores of minus infinity");
    for case in cases::attention().into_iter().filter(told) {
        let (mut options, inputs) = (case.options.clone(), wide(&case));
        (options.weights, options.scores) = (true, Some(ScoreStage::Masked));
        let got = attend(&options, &inputs);
        let (weights, scores) = (got.weights.unwrap(), got.scores.unwrap());
        let keys = weights.shape()[3];
        for (weights, scores) in weights.data().chunks_exact(keys).zip(scores.data().chunks_exact(keys)) {
            let hidden = scores.iter().filter(|s| **s == f64::NEG_INFINITY).count();
            if scores.iter().chain(weights).any(|x| x.is_nan()) {
                assert!(
                    weights.iter().zip(scores).all(|(w, s)| w.is_nan() == (*s != f64::NEG_INFINITY)),
                    "{}",
                    case.name
                );
                continue;
            }
            assert!(weights.iter().all(|w| (0.0..=1.0).contains(w)), "{}", case.name);
            assert!(weights.iter().zip(scores).all(|(w, s)| *s > f64::NEG_INFINITY || *w == 0.0), "{}", case.name);
            let sum: f64 = weights.iter().sum();
            if hidden == keys {
                rows[0] += 1;
                assert_eq!(sum, 0.0, "{}", case.name);
            } else if inputs.sinks.is_some() || matches!(options.normalize, Normalize::Monotonic(_)) {
                assert!(sum < 1.0 + 1e-12, "{}", case.name);
            } else {
                rows[1] += 1;
                assert!((sum - 1.0).abs() < 1e-12, "{}: {sum}", case.name);
            }
        }
    }
    assert!(rows[0] > 100 && rows[1] > 1000, "{rows:?}");
}

#[test]
fn a_constant_added_to_a_row_changes_no_weight() {
    for normalize in [Normalize::Softmax, Normalize::Hardmax, Normalize::Sparsemax, Normalize::Sample { seed: 3 }] {
        let mut options = Attention { normalize, weights: true, ..Attention::default() };
        let mut inputs = inputs(5, 9);
        let plain = attend(&options, &inputs);
        inputs.mask = Some(Mask::Float(numbers(&[2, 4, 5, 1], 9.0).map(|x| x * 100.0)));
        let shifted = attend(&options, &inputs);
        close("weights", &shifted.weights.unwrap(), &plain.weights.unwrap(), 0.0, 1e-11).unwrap().check("w").unwrap();
        options.normalize = Normalize::Softmax;
        options.lse = true;
        let raised = attend(&options, &inputs).lse.unwrap();
        inputs.mask = None;
        let level = attend(&options, &inputs).lse.unwrap();
        let shift = numbers(&[2, 4, 5, 1], 9.0);
        for ((raised, level), shift) in raised.data().iter().zip(level.data()).zip(shift.data()) {
            assert!((raised - level - shift * 100.0).abs() < 1e-11);
        }
    }
}

/// Causal, windows, lengths and past against the same thing written out as a mask.
#[test]
fn positions_equal_the_mask_written_out() {
    for (queries, keys) in [(7, 7), (4, 9), (9, 4), (1, 5)] {
        for causal in [None, Some(Causal::TopLeft), Some(Causal::BottomRight)] {
            for window in [None, Some((2, 1)), Some((0, 3))] {
                for lengths in [None, Some([keys, keys / 2]), Some([0, 1])] {
                    let window = window.map(|(left, right)| Window::new(Some(left), Some(right)));
                    let options = Attention { causal, window, ..full() };
                    let mut inputs = inputs(queries, keys);
                    let mut mask = Array::filled(&[2, 1, queries, keys], 0);
                    for (k, visible) in mask.data_mut().iter_mut().enumerate() {
                        let (b, i, j) = (k / (queries * keys), (k / keys % queries) as i64, (k % keys) as i64);
                        let (n, length) = (queries as i64, lengths.map(|lengths| lengths[b] as i64));
                        let offset = match (length, causal) {
                            (Some(length), _) => length - n,
                            (None, Some(Causal::BottomRight)) => keys as i64 - n,
                            _ => 0,
                        };
                        let near = window.is_none_or(|window| {
                            let (left, right) = (window.left.unwrap(), window.right.unwrap());
                            (i + offset - i64::from(left)..=i + offset + i64::from(right)).contains(&j)
                        });
                        let seen = near && (causal.is_none() || j <= i + offset) && length.is_none_or(|n| j < n);
                        *visible = u32::from(seen);
                    }
                    inputs.kv_lengths = lengths.map(|l| Array::new(&[2], l.map(|n| n as u32).to_vec()).unwrap());
                    let got = attend(&options, &inputs);
                    inputs.kv_lengths = None;
                    inputs.mask = Some(Mask::Bool(mask));
                    same_attention(&got, &attend(&full(), &inputs));
                }
            }
        }
    }
}

#[test]
fn a_float_mask_of_minus_infinity_hides_like_a_bool_mask() {
    let mut inputs = inputs(6, 8);
    let bools = Array::from_fn(&[2, 1, 6, 8], |k| u32::from(k % 3 != 0 && k / 8 != 4));
    inputs.mask = Some(Mask::Bool(bools.clone()));
    let want = attend(&full(), &inputs);
    inputs.mask = Some(Mask::Float(bools.map(|&x| if x == 0 { f64::NEG_INFINITY } else { 0.0 })));
    same_attention(&attend(&full(), &inputs), &want);
}

#[test]
fn permuted_keys_permute_the_weights() {
    let order = [4, 0, 6, 2, 1, 5, 3];
    let scores = [Score::ScaledDot, Score::Dot, Score::Additive, Score::Cosine];
    for (score, normalize) in scores.into_iter().flat_map(|s| [(s, Normalize::Softmax), (s, Normalize::Sparsemax)]) {
        let options = Attention { score, normalize, weights: true, ..Attention::default() };
        let mut inputs = inputs(5, 7);
        let mask = numbers(&[5, 7], 4.0);
        inputs.mask = Some(Mask::Float(mask.clone()));
        let plain = attend(&options, &inputs);
        inputs.key = reorder(&inputs.key, 2, &order);
        inputs.value = reorder(&inputs.value, 2, &order);
        inputs.mask = Some(Mask::Float(reorder(&mask, 1, &order)));
        let permuted = attend(&options, &inputs);
        same("output", &permuted.output, &plain.output);
        same("weights", &permuted.weights.unwrap(), &reorder(&plain.weights.unwrap(), 3, &order));
    }
}

#[test]
fn grouped_heads_equal_repeated_ones() {
    let mut inputs = inputs(5, 7);
    let got = attend(&full(), &inputs);
    inputs.key = reorder(&inputs.key, 1, &[0, 0, 1, 1]);
    inputs.value = reorder(&inputs.value, 1, &[0, 0, 1, 1]);
    same_attention(&got, &attend(&full(), &inputs));
}

#[test]
fn a_padded_batch_equals_each_row_alone() {
    let mut inputs = inputs(4, 9);
    let lengths = [6, 3];
    let alone: Vec<_> = (0..2)
        .map(|b| {
            let row = |a: &Tensor, n: usize| cut(&cut(a, 0, b, 1), 2, 0, n);
            let (key, value) = (row(&inputs.key, lengths[b]), row(&inputs.value, lengths[b]));
            attend(&full(), &AttentionInputs::new(row(&inputs.query, 4), key, value))
        })
        .collect();
    for (k, x) in inputs.key.data_mut().iter_mut().enumerate() {
        if k / 6 % 9 >= lengths[k / (2 * 9 * 6)] {
            *x = f64::NAN;
        }
    }
    inputs.kv_lengths = Some(Array::new(&[2], lengths.map(|n| n as u32).to_vec()).unwrap());
    let padded = attend(&full(), &inputs);
    for (b, alone) in alone.iter().enumerate() {
        same("output", &cut(&padded.output, 0, b, 1), &alone.output);
        same("lse", &cut(padded.lse.as_ref().unwrap(), 0, b, 1), alone.lse.as_ref().unwrap());
        let weights = cut(padded.weights.as_ref().unwrap(), 0, b, 1);
        same("weights", &cut(&weights, 3, 0, lengths[b]), alone.weights.as_ref().unwrap());
    }
}

#[test]
fn a_past_equals_one_long_call() {
    let whole = inputs(10, 10);
    let options = Attention { causal: Some(Causal::TopLeft), ..full() };
    let want = attend(&options, &whole);
    let mut past: Option<(Tensor, Tensor)> = None;
    let mut outputs = Vec::new();
    for (start, length) in [(0, 4), (4, 5), (9, 1)] {
        let part = |a: &Tensor| cut(a, 2, start, length);
        let mut step = AttentionInputs::new(part(&whole.query), part(&whole.key), part(&whole.value));
        step.past = past.map(|(key, value)| Past { key, value });
        let got = attend(&options, &step);
        past = Some((got.present_key.unwrap_or(step.key), got.present_value.unwrap_or(step.value)));
        outputs.push(got.output);
    }
    same("output", &join(&outputs, 2), &want.output);
    let (key, value) = past.unwrap();
    assert_eq!((key, value), (whole.key, whole.value));
}

/// One who sees a NaN gets NaN; one who does not is untouched.
#[test]
fn nan_reaches_those_who_see_it_and_no_one_else() {
    let monotonic = [Monotonic::Parallel, Monotonic::Recursive, Monotonic::Hard].map(Normalize::Monotonic);
    let alone = [Normalize::Softmax, Normalize::Hardmax, Normalize::Sparsemax, Normalize::Sample { seed: 1 }];
    for normalize in alone.into_iter().chain(monotonic) {
        let options = Attention { normalize, causal: Some(Causal::TopLeft), weights: true, ..Attention::default() };
        let clean = inputs(5, 5);
        let want = attend(&options, &clean);
        for spoilt in ["key", "value"] {
            let mut dirty = clean.clone();
            let tensor = if spoilt == "key" { &mut dirty.key } else { &mut dirty.value };
            let width = tensor.shape()[3];
            // key 3 of every batch row and head: hidden from queries 0, 1, 2
            tensor.data_mut().chunks_exact_mut(width).skip(3).step_by(5).for_each(|row| row.fill(f64::NAN));
            let got = attend(&options, &dirty);
            same(spoilt, &cut(&got.output, 2, 0, 3), &cut(&want.output, 2, 0, 3));
            // A NaN key spoils the whole row; a NaN value those rows that give it a weight.
            let (seen, weights) = (cut(&got.output, 2, 3, 2), cut(got.weights.as_ref().unwrap(), 2, 3, 2));
            for (row, weights) in seen.data().chunks_exact(5).zip(weights.data().chunks_exact(5)) {
                let spoils = spoilt == "key" || weights[3] != 0.0;
                assert!(row.iter().all(|x| x.is_nan() == spoils), "{normalize:?} {spoilt}");
            }
            assert!(seen.data().iter().any(|x| x.is_nan()) || normalize != Normalize::Softmax);
        }
    }
}

#[test]
fn sinks_take_their_share_and_give_no_value() {
    let mut inputs = inputs(4, 6);
    let plain = attend(&full(), &inputs);
    let sinks = Array::new(&[4], vec![0.5, -2.0, 3.0, 0.0]).unwrap();
    inputs.sinks = Some(sinks.clone());
    let got = attend(&full(), &inputs);
    let (lse, plain_lse) = (got.lse.unwrap(), plain.lse.unwrap());
    for (row, (lse, plain_lse)) in lse.data().iter().zip(plain_lse.data()).enumerate() {
        let sink = sinks.data()[row / 4 % 4];
        assert!((lse - (plain_lse.exp() + sink.exp()).ln()).abs() < 1e-12);
        let share = (plain_lse - lse).exp();
        for d in row * 5..(row + 1) * 5 {
            assert!((got.output.data()[d] - share * plain.output.data()[d]).abs() < 1e-12);
        }
    }
    // a row that sees nothing but the sink
    inputs.mask = Some(Mask::Bool(Array::filled(&[1], 0)));
    let empty = attend(&full(), &inputs);
    assert!(empty.output.data().iter().all(|x| *x == 0.0));
    let lse = empty.lse.unwrap();
    assert!(lse.data().iter().enumerate().all(|(row, x)| *x == sinks.data()[row / 4 % 4]));
}

/// Each score function against its formula, written out for one pair of query and key.
#[test]
fn scores_follow_their_formulas() {
    let (dq, dk, units) = (4, 3, 5);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (w, u, v, bias) =
        (numbers(&[units, dq], 5.0), numbers(&[units, dk], 6.0), numbers(&[units], 7.0), numbers(&[units], 8.0));
    let general = numbers(&[dq, dk], 9.0);
    let concat = join(&[w.clone(), u.clone()], 1);
    type Formula<'a> = &'a dyn Fn(&[f64], &[f64]) -> f64;
    let additive: Formula = &|q, k| {
        let hidden = |a: usize| dot(&w.data()[a * dq..][..dq], q) + dot(&u.data()[a * dk..][..dk], k) + bias.data()[a];
        (0..units).map(|a| v.data()[a] * hidden(a).tanh()).sum()
    };
    let bilinear: Formula = &|q, k| (0..dq).map(|r| q[r] * dot(&general.data()[r * dk..][..dk], k)).sum();
    let plain: Formula = &|q, k| q.iter().zip(k).map(|(q, k)| (q + k).tanh()).sum();
    let angle: Formula = &|q, k| dot(q, k) / (dot(q, q) * dot(k, k)).sqrt();
    for (score, key_dim, formula) in [
        (Score::ScaledDot, dq, &(|q: &[f64], k: &[f64]| dot(q, k) / 2.0) as Formula),
        (Score::Dot, dq, &|q, k| dot(q, k)),
        (Score::Cosine, dq, angle),
        (Score::General, dk, bilinear),
        (Score::Additive, dq, plain),
        (Score::Additive, dk, additive),
        (Score::Concat, dk, additive),
    ] {
        let (query, key) = (numbers(&[1, 1, 2, dq], 1.0), numbers(&[1, 1, 6, key_dim], 2.0));
        let mut inputs = AttentionInputs::new(query.clone(), key.clone(), numbers(&[1, 1, 6, 2], 3.0));
        match score {
            Score::General => inputs.score.weight = Some(general.clone()),
            Score::Additive if key_dim == dk => {
                (inputs.score.query_weight, inputs.score.key_weight) = (Some(w.clone()), Some(u.clone()));
                (inputs.score.v, inputs.score.bias) = (Some(v.clone()), Some(bias.clone()));
            }
            Score::Concat => {
                inputs.score.weight = Some(concat.clone());
                (inputs.score.v, inputs.score.bias) = (Some(v.clone()), Some(bias.clone()));
            }
            _ => {}
        }
        let options = Attention { score, ..full() };
        let want = Array::from_fn(&[1, 1, 2, 6], |at| {
            formula(&query.data()[at / 6 * dq..][..dq], &key.data()[at % 6 * key_dim..][..key_dim])
        });
        same(&format!("{score:?}"), &attend(&options, &inputs).scores.unwrap(), &want);
    }
}

#[test]
fn terms_apply_in_order() {
    let mut inputs = inputs(3, 4);
    inputs.alibi_slopes = Some(Array::new(&[4], vec![0.5, 0.25, 0.0, 1.0]).unwrap());
    inputs.mask = Some(Mask::Float(numbers(&[3, 4], 4.0)));
    let score_mod = ScoreMod::new(
        "fn score_mod(s: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
            return s + f32(1000u * b + 100u * h + 10u * i + j) / 500.0;
        }",
        Some(std::sync::Arc::new(|s, b, h, i, j| s + (1000 * b + 100 * h + 10 * i + j) as f64 / 500.0)),
    );
    let mut options = Attention { scale: Some(0.3), score_mod: Some(score_mod), softcap: Some(2.0), ..full() };
    let mut at = |stage| {
        options.scores = Some(stage);
        attend(&options, &inputs).scores.unwrap()
    };
    let [raw, capped, masked] = [ScoreStage::Raw, ScoreStage::Capped, ScoreStage::Masked].map(&mut at);
    for (k, raw) in raw.data().iter().enumerate() {
        let (b, h, i, j) = (k / 48, k / 12 % 4, k / 4 % 3, k % 4);
        let q = &inputs.query.data()[((b * 4 + h) * 3 + i) * 6..][..6];
        let key = &inputs.key.data()[((b * 2 + h / 2) * 4 + j) * 6..][..6];
        let dot: f64 = q.iter().zip(key).map(|(q, k)| q * k).sum();
        let want = f64::from(0.3f32) * dot + (1000 * b + 100 * h + 10 * i + j) as f64 / 500.0;
        assert!((raw - want).abs() < 1e-12);
        let want = 2.0 * (want / 2.0).tanh();
        assert!((capped.data()[k] - want).abs() < 1e-12);
        let slope = [0.5, 0.25, 0.0, 1.0][h];
        let Some(Mask::Float(mask)) = &inputs.mask else { panic!("a float mask") };
        let mask = mask.data()[i * 4 + j];
        let want = want - slope * (i as f64 - j as f64).abs() + mask;
        assert!((masked.data()[k] - want).abs() < 1e-12);
    }
}

#[test]
fn normalizers_give_known_weights() {
    let row = |x: &[f64]| Array::new(&[1, x.len()], x.to_vec()).unwrap();
    let sparse = |x: &[f64]| reference::sparsemax(&row(x)).unwrap();
    same("sparsemax", &sparse(&[0.1, 1.0, 0.8]), &row(&[0.0, 0.6, 0.4]));
    same("sparsemax", &sparse(&[3.0, 1.0]), &row(&[1.0, 0.0]));
    same("sparsemax", &sparse(&[7.0; 4]), &row(&[0.25; 4]));
    same("sparsemax", &sparse(&[1e6, 1e6 - 0.5]), &row(&[0.75, 0.25]));
    same("hardmax", &reference::hardmax(&row(&[1.0, 4.0, 4.0, -2.0])).unwrap(), &row(&[0.0, 1.0, 0.0, 0.0]));
    same("softmax", &reference::softmax(&row(&[1e4, 1e4])).unwrap(), &row(&[0.5, 0.5]));
    let want = row(&[-(1.0 + (-3.0f64).exp()).ln(), -3.0 - (1.0 + (-3.0f64).exp()).ln()]);
    same("log-softmax", &reference::log_softmax(&row(&[5.0, 2.0])).unwrap(), &want);
    assert!(reference::softmax(&Array::new(&[], vec![1.0]).unwrap()).is_err());
    assert_eq!(reference::softmax(&Array::<f64>::filled(&[3, 0], 0.0)).unwrap().shape(), [3, 0]);
}

/// One draw a row: over many rows the keys come up as often as softmax says, and each seed draws anew.
#[test]
fn samples_follow_the_softmax() {
    let (rows, keys) = (20_000, 4);
    let mut inputs = AttentionInputs::new(
        Array::filled(&[1, 1, rows, 1], 1.0),
        Array::new(&[1, 1, keys, 1], vec![0.0, 1.0, -1.0, 0.5]).unwrap(),
        Array::filled(&[1, 1, keys, 1], 1.0),
    );
    inputs.mask = Some(Mask::Bool(Array::new(&[keys], vec![1, 1, 1, 0]).unwrap()));
    let want = reference::softmax(&Array::new(&[1, 3], vec![0.0, 1.0, -1.0]).unwrap()).unwrap();
    let mut draws = Vec::new();
    for seed in [0, 5] {
        let options = Attention { normalize: Normalize::Sample { seed }, weights: true, ..Attention::default() };
        let weights = attend(&options, &inputs).weights.unwrap();
        for j in 0..keys {
            let share = weights.data().iter().skip(j).step_by(keys).sum::<f64>() / rows as f64;
            let want = want.data().get(j).copied().unwrap_or(0.0);
            assert!((share - want).abs() < 0.015, "seed {seed}, key {j}: {share} for {want}");
        }
        draws.push(weights);
    }
    assert_ne!(draws[0], draws[1]);
}

#[test]
fn noise_is_finite_and_fixed() {
    let noise: Vec<f32> = (0..100_000).map(|j| reference::gumbel(1, 2, j)).collect();
    assert!(noise.iter().all(|g| g.is_finite()));
    let mean = noise.iter().map(|&g| f64::from(g)).sum::<f64>() / noise.len() as f64;
    assert!((mean - 0.577_215_66).abs() < 0.02, "{mean}");
    assert_ne!(reference::gumbel(1, 2, 3), reference::gumbel(1, 3, 2));
}

#[test]
fn bad_requests_are_errors() {
    let good = inputs(3, 4);
    let mut bad = good.clone();
    bad.kv_lengths = Some(Array::new(&[2], vec![2, 5]).unwrap());
    let error = reference::attention(&full(), &bad).unwrap_err();
    assert_eq!(error.to_string(), "`kv_lengths` row 1: expected a whole number from 0 to 4, found 5");
    // Just above 2^24, where f32 has no odd numbers.
    bad.kv_lengths = Some(Array::new(&[2], vec![1, 16_777_217]).unwrap());
    let error = reference::attention(&full(), &bad).unwrap_err();
    assert_eq!(error.to_string(), "`kv_lengths` row 1: expected a whole number from 0 to 4, found 16777217");
    let score_mod = Some(ScoreMod::new(String::new(), None));
    let error = reference::attention(&Attention { score_mod, ..full() }, &good).unwrap_err();
    assert!(matches!(error, Error::Option { .. }));
    let table = numbers(&[3, 2], 1.0);
    assert_eq!(reference::embed(&table, &[2, 0]).unwrap(), reorder(&table, 0, &[2, 0]));
    assert_eq!(reference::embed(&table, &[3]).unwrap_err().to_string(), "`ids` id 0: expected below 3, found 3");
    assert!(reference::linear(&table, &numbers(&[4, 3], 1.0), None, None).is_err());
    assert!(reference::linear(&table, &numbers(&[4, 2], 1.0), Some(&numbers(&[2], 1.0)), None).is_err());
    assert_eq!(reference::linear(&table, &numbers(&[4, 2], 1.0), None, None).unwrap().shape(), [3, 4]);
}
