//! Operations beside attention itself: merging, rotary embedding, caches; temperature and entropy.

use regard::attention::{Monotonic, Rotary, RotaryEmbedding, RotaryLayout};

use super::*;

/// The keys split anywhere, in any number of parts, some of them hidden from some rows or from all.
#[test]
fn merged_parts_equal_the_whole() {
    let keys = 9;
    let mut inputs = inputs(5, keys);
    let mut mask = numbers(&[2, 4, 5, keys], 4.0).map(|&x| if x > 1.0 { f64::NEG_INFINITY } else { x });
    mask.data_mut()[..keys].fill(f64::NEG_INFINITY);
    inputs.mask = Some(Mask::Float(mask.clone()));
    let options = Attention { max_sum: true, ..full() };
    let whole = attend(&options, &inputs);
    for cuts in [&[0, 9][..], &[0, 1, 9], &[0, 4, 9], &[0, 8, 9], &[0, 2, 3, 3, 7, 9], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]
    {
        let part = |ends: &[usize]| {
            let (start, length) = (ends[0], ends[1] - ends[0]);
            if length == 0 {
                // a part without a key, whatever it holds
                let nothing = |k: usize| if k.is_multiple_of(2) { f64::NEG_INFINITY } else { 0.0 };
                let output = Array::filled(&[2, 4, 5, 5], f64::NAN);
                return (output, Array::filled(&[2, 4, 5], f64::NEG_INFINITY), Array::from_fn(&[2, 4, 5, 2], nothing));
            }
            let mut part = inputs.clone();
            part.key = cut(&inputs.key, 2, start, length);
            part.value = cut(&inputs.value, 2, start, length);
            part.mask = Some(Mask::Float(cut(&mask, 3, start, length)));
            let got = attend(&options, &part);
            (got.output, got.lse.unwrap(), got.max_sum.unwrap())
        };
        let parts: Vec<_> = cuts.windows(2).map(part).collect();
        let by_lse: Vec<_> = parts.iter().map(|(output, lse, _)| (output, lse)).collect();
        let (output, lse) = reference::merge(&by_lse).unwrap();
        same("output", &output, &whole.output);
        same("lse", &lse, whole.lse.as_ref().unwrap());
        assert_eq!(lse.data()[0], f64::NEG_INFINITY);
        let by_max_sum: Vec<_> = parts.iter().map(|(output, _, max_sum)| (output, max_sum)).collect();
        let (output, max_sum) = reference::merge_max_sum(&by_max_sum).unwrap();
        same("output", &output, &whole.output);
        same("max_sum", &max_sum, whole.max_sum.as_ref().unwrap());
        assert_eq!(max_sum.data()[..2], [f64::NEG_INFINITY, 0.0]);
    }
}

#[test]
fn merging_bears_large_numbers_and_refuses_odd_shapes() {
    let (a, b) = (numbers(&[1, 1, 2, 3], 1.0), numbers(&[1, 1, 2, 3], 2.0));
    let lse = |x: f64, y: f64| Array::new(&[1, 1, 2], vec![x, y]).unwrap();
    let (output, sum) = reference::merge(&[(&a, &lse(1e5, -1e5)), (&b, &lse(1e5 - 800.0, -1e5))]).unwrap();
    same("output", &cut(&output, 2, 0, 1), &cut(&a, 2, 0, 1));
    let mean = Array::from_fn(&[1, 1, 1, 3], |k| (a.data()[3 + k] + b.data()[3 + k]) / 2.0);
    same("output", &cut(&output, 2, 1, 1), &mean);
    same("lse", &sum, &lse(1e5, -1e5 + 2f64.ln()));
    let error = |parts: &[(&Tensor, &Tensor)]| reference::merge(parts).unwrap_err().to_string();
    assert_eq!(error(&[]), "`parts`: expected at least one output and its log-sum-exp, found none");
    assert_eq!(
        error(&[(&a, &lse(0.0, 0.0)), (&cut(&b, 2, 0, 1), &lse(0.0, 0.0))]),
        "`parts[1] output` shape: expected [1, 1, 2, 3], found [1, 1, 1, 3]"
    );
    assert_eq!(
        error(&[(&a, &cut(&lse(0.0, 0.0), 2, 0, 1))]),
        "`parts[0] log-sum-exp` shape: expected [1, 1, 2], found [1, 1, 1]"
    );
    let flat = numbers(&[2, 3], 1.0);
    assert_eq!(error(&[(&flat, &flat)]), "`parts[0] output` rank: expected 4 [B, H, N, Dv], found 2");
}

fn tables(base: f64, width: usize, positions: usize) -> [Tensor; 2] {
    Rotary::tables(base, width, positions).unwrap().map(|table| table.map(|&x| f64::from(x)))
}

/// Each pair as a complex number, turned by the angle of its place.
#[test]
fn a_rotary_embedding_turns_complex_numbers() {
    let (heads, n, dim, width, base) = (3, 5, 8, 6, 50.0);
    let x = numbers(&[2, heads, n, dim], 1.0);
    let [cos, sin] = tables(base, width, 20);
    let positions = Array::from_fn(&[2, n], |k| ((7 * k + 3) % 11) as u32);
    for layout in [RotaryLayout::HalfSplit, RotaryLayout::Interleaved] {
        for (offset, positions) in [(0, None), (4, None), (2, Some(&positions))] {
            let rotary = Rotary { layout, offset };
            let got = reference::rotary(&x, &cos, &sin, positions, rotary).unwrap();
            for (row, (x, y)) in x.data().chunks_exact(dim).zip(got.data().chunks_exact(dim)).enumerate() {
                let (b, token) = (row / (heads * n), row % n);
                let place = positions.map_or(token, |p| p.data()[b * n + token] as usize) + offset;
                for pair in 0..width / 2 {
                    let (re, im) = match layout {
                        RotaryLayout::HalfSplit => (pair, pair + width / 2),
                        RotaryLayout::Interleaved => (2 * pair, 2 * pair + 1),
                    };
                    let angle = place as f64 / base.powf(2.0 * pair as f64 / width as f64);
                    let (length, phase) = (x[re].hypot(x[im]), x[im].atan2(x[re]));
                    assert!((y[re] - length * (phase + angle).cos()).abs() < 1e-6);
                    assert!((y[im] - length * (phase + angle).sin()).abs() < 1e-6);
                }
                assert_eq!(x[width..], y[width..]);
            }
        }
    }
}

/// Norms stay, and q·k depends on the distance alone.
#[test]
fn rotary_scores_depend_on_the_distance() {
    let (n, dim) = (9, 6);
    let [cos, sin] = tables(100.0, dim, 2 * n);
    // exactly on the unit circle, so that nothing but the distance is left
    let length: Vec<f64> = cos.data().iter().zip(sin.data()).map(|(c, s)| c.hypot(*s)).collect();
    let unit = |table: &Tensor| Array::from_fn(table.shape(), |k| table.data()[k] / length[k]);
    let (cos, sin) = (unit(&cos), unit(&sin));
    let repeat = |seed| Array::from_fn(&[1, 1, n, dim], |k| numbers(&[dim], seed).data()[k % dim]);
    for layout in [RotaryLayout::HalfSplit, RotaryLayout::Interleaved] {
        let rotary = Rotary { layout, offset: 3 };
        let mut inputs = AttentionInputs::new(repeat(1.0), repeat(2.0), repeat(3.0));
        let turned = reference::rotary(&inputs.query, &cos, &sin, None, rotary).unwrap();
        for (x, y) in inputs.query.data().chunks_exact(dim).zip(turned.data().chunks_exact(dim)) {
            let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
            assert!((norm(x) - norm(y)).abs() < 1e-12);
        }
        inputs.rotary = Some(RotaryEmbedding::new(rotary, [cos.clone(), sin.clone()]));
        let scores = attend(&full(), &inputs).scores.unwrap();
        let at = |i: usize, j: usize| scores.data()[i * n + j];
        for (i, j) in (1..n).flat_map(|i| (1..n).map(move |j| (i, j))) {
            assert!((at(i, j) - at(i - 1, j - 1)).abs() < 1e-6, "{layout:?} {i} {j}");
        }
        assert!((at(4, 0) - at(0, 0)).abs() > 1e-2);
    }
}

/// In attention: queries at their own position among the keys, keys at theirs, a past as it is.
#[test]
fn attention_turns_queries_and_keys_where_they_stand() {
    let [cos, sin] = tables(30.0, 4, 40);
    for layout in [RotaryLayout::HalfSplit, RotaryLayout::Interleaved] {
        let rotary = Rotary { layout, offset: 5 };
        let options = full();
        let with_tables = |inputs: &AttentionInputs<Tensor>| {
            let mut inputs = inputs.clone();
            inputs.rotary = Some(RotaryEmbedding::new(rotary, [cos.clone(), sin.clone()]));
            inputs
        };
        let turned = |x: &Tensor, positions: &dyn Fn(usize, usize) -> i64| {
            let n = x.shape()[2];
            let positions = Array::from_fn(&[2, n], |k| positions(k / n, k % n).max(0) as u32);
            reference::rotary(x, &cos, &sin, Some(&positions), rotary).unwrap()
        };
        // from the start
        let plain = inputs(4, 7);
        let mut want = plain.clone();
        want.query = turned(&plain.query, &|_, i| i as i64);
        want.key = turned(&plain.key, &|_, j| j as i64);
        same_attention(&attend(&options, &with_tables(&plain)), &attend(&full(), &want));
        // against lengths, one of them shorter than the queries
        let lengths = [6, 2];
        let mut padded = plain.clone();
        padded.kv_lengths = Array::new(&[2], lengths.map(|n| n as u32).to_vec()).ok();
        want.kv_lengths = padded.kv_lengths.clone();
        want.query = turned(&plain.query, &|b, i| i as i64 + lengths[b] - 4);
        same_attention(&attend(&options, &with_tables(&padded)), &attend(&full(), &want));
        // after a past that is turned already
        let past = turned(&numbers(&[2, 2, 3, 6], 8.0), &|_, j| j as i64);
        let mut step = plain.clone();
        step.past = Some(Past { key: past.clone(), value: numbers(&[2, 2, 3, 5], 9.0) });
        let mut want = step.clone();
        want.query = turned(&plain.query, &|_, i| i as i64 + 3);
        want.key = turned(&plain.key, &|_, j| j as i64 + 3);
        let causal = |options: &Attention| Attention { causal: Some(Causal::TopLeft), ..options.clone() };
        let (got, want) = (attend(&causal(&options), &with_tables(&step)), attend(&causal(&full()), &want));
        same_attention(&got, &want);
        same("present_key", got.present_key.as_ref().unwrap(), want.present_key.as_ref().unwrap());
    }
}

#[test]
fn rotary_refuses_what_does_not_fit() {
    let x = numbers(&[2, 3, 5, 8], 1.0);
    let [cos, sin] = tables(10.0, 8, 6);
    let refused = |x: &Tensor, cos: &Tensor, sin: &Tensor, positions: Option<&Array<u32>>, offset: usize| {
        let rotary = Rotary { offset, ..Rotary::default() };
        reference::rotary(x, cos, sin, positions, rotary).unwrap_err().to_string()
    };
    assert_eq!(refused(&x, &cos, &sin, None, 2), "`cos` axis 0 (positions): expected at least 7, found 6");
    assert_eq!(refused(&x, &cos, &cut(&sin, 0, 0, 3), None, 0), "`sin` shape: expected [6, 4], found [3, 4]");
    let [wide, wide_sin] = tables(10.0, 10, 6);
    assert_eq!(refused(&x, &wide, &wide_sin, None, 0), "`cos` axis 1 (width / 2): expected at most 4, found 5");
    let flat = numbers(&[2, 3], 1.0);
    assert_eq!(refused(&flat, &cos, &sin, None, 0), "`x` rank: expected 4 [B, H, N, D], found 2");
    assert_eq!(refused(&x, &x, &sin, None, 0), "`cos` rank: expected 2 [positions, width / 2], found 4");
    assert_eq!(
        refused(&x, &cos, &sin, Some(&Array::filled(&[2, 3], 0)), 0),
        "`positions` shape: expected [2, 5], found [2, 3]"
    );
    let far = Array::filled(&[2, 5], 4);
    assert_eq!(
        refused(&x, &cos, &sin, Some(&far), 2),
        "`positions` row 0: expected a whole number from 0 to 3, found 4"
    );
    assert_eq!(refused(&x, &cos, &sin, Some(&far), 6), "`cos` axis 0 (positions): expected at least 7, found 6");
    let width = |width, base| Rotary::tables(base, width, 3).unwrap_err().to_string();
    assert_eq!(width(5, 10.0), "option `rotary width`: must be even and above 0, not 5");
    assert_eq!(width(4, 0.0), "option `rotary base`: must be finite and above 0, not 0");
}

/// Rows from a start on: past the end they are dropped, or begin again at the front.
#[test]
fn rows_are_appended_to_a_cache() {
    let (cache, rows) = (numbers(&[2, 3, 5, 2], 1.0), numbers(&[2, 3, 4, 2], 2.0));
    for wrap in [false, true] {
        for starts in [[0, 1], [2, 4], [5, 12], [3, usize::MAX]] {
            let got = reference::append(&cache, &rows, &starts, wrap).unwrap();
            for (at, &found) in got.data().iter().enumerate() {
                let (head, place, d) = (at / 10, at / 2 % 5, at % 2);
                let start = starts[head / 3];
                // the last row that lands here
                let lands =
                    |k: &usize| start.checked_add(*k).is_some_and(|to| to == place || (wrap && to % 5 == place));
                let want = match (0..4).rev().find(lands) {
                    Some(k) => rows.data()[(head * 4 + k) * 2 + d],
                    None => cache.data()[at],
                };
                assert_eq!(found, want, "wrap {wrap}, starts {starts:?}, element {at}");
            }
        }
    }
    // longer than the cache: the last ones stay
    let long = numbers(&[2, 3, 7, 2], 3.0);
    let got = reference::append(&cache, &long, &[0, 0], true).unwrap();
    assert_eq!(got, reorder(&long, 2, &[5, 6, 2, 3, 4]));
    let refused =
        |rows: &Tensor, starts: &[usize]| reference::append(&cache, rows, starts, false).unwrap_err().to_string();
    assert_eq!(refused(&cut(&rows, 1, 0, 2), &[0, 0]), "`rows` axis 1 (heads): expected 3, found 2");
    assert_eq!(refused(&cut(&rows, 3, 0, 1), &[0, 0]), "`rows` axis 3 (dim): expected 2, found 1");
    assert_eq!(refused(&rows, &[0]), "`starts` axis 0 (batch): expected 2, found 1");
    assert_eq!(refused(&numbers(&[2, 3], 1.0), &[0, 0]), "`rows` rank: expected 4 [B, H, n, D], found 2");
}

/// Without a mask it is a scale; mask, ALiBi and sinks are divided too.
#[test]
fn a_temperature_divides_what_is_normalized() {
    let temperature = Some(2.5);
    for normalize in [
        Normalize::Softmax,
        Normalize::Sparsemax,
        Normalize::Sample { seed: 3 },
        Normalize::Monotonic(Monotonic::Recursive),
    ] {
        let options = Attention { normalize, weights: true, scale: Some(1.0), ..Attention::default() };
        let mut inputs = inputs(5, 8);
        let scaled = attend(&Attention { scale: Some(0.4), ..options.clone() }, &inputs);
        let tempered = attend(&Attention { temperature, ..options.clone() }, &inputs);
        close("weights", &tempered.weights.unwrap(), &scaled.weights.unwrap(), 1e-6, 1e-7).unwrap().check("w").unwrap();
        let mask = numbers(&[5, 8], 4.0);
        inputs.mask = Some(Mask::Float(mask.clone()));
        inputs.sinks = (normalize == Normalize::Softmax).then(|| numbers(&[4], 5.0));
        let tempered = attend(&Attention { temperature, ..options.clone() }, &inputs);
        inputs.mask = Some(Mask::Float(mask.map(|x| x / 2.5)));
        inputs.sinks = inputs.sinks.map(|sinks| sinks.map(|x| x / 2.5));
        inputs.query = inputs.query.map(|x| x / 2.5);
        same("weights", &tempered.weights.unwrap(), &attend(&options, &inputs).weights.unwrap());
    }
    // the scores are told as they were before it
    let stage = |temperature| attend(&Attention { temperature, ..full() }, &inputs(5, 8)).scores.unwrap();
    assert_eq!(stage(temperature), stage(None));
}

#[test]
fn the_entropy_of_a_row_is_that_of_its_weights() {
    let entropy = |options: &Attention, inputs: &AttentionInputs<Tensor>| {
        let options = Attention { entropy: true, weights: true, ..options.clone() };
        let got = attend(&options, inputs);
        (got.entropy.unwrap(), got.weights.unwrap(), got.scores, got.lse)
    };
    // uniform over what is visible: ln n; nothing visible: 0
    let mut even = inputs(5, 8);
    even.query.data_mut().fill(0.0);
    even.mask = Some(Mask::Bool(Array::from_fn(&[5, 8], |k| u32::from(k % 8 < 2 * (k / 8)))));
    let (found, ..) = entropy(&Attention::default(), &even);
    let want = Array::from_fn(&[2, 4, 5], |row| if row % 5 == 0 { 0.0 } else { (2.0 * (row % 5) as f64).ln() });
    same("uniform", &found, &want);
    assert!(found.data().iter().all(|x| x.is_sign_positive()));
    // one key chosen: 0
    for normalize in [Normalize::Hardmax, Normalize::Sample { seed: 2 }] {
        let (found, ..) = entropy(&Attention { normalize, ..Attention::default() }, &inputs(5, 8));
        assert!(found.data().iter().all(|x| *x == 0.0));
    }
    // softmax: Σ w (lse − s)
    let (found, weights, scores, lse) = entropy(&full(), &inputs(5, 8));
    let (scores, lse) = (scores.unwrap(), lse.unwrap());
    let want = Array::from_fn(&[2, 4, 5], |row| {
        let places = row * 8..(row + 1) * 8;
        places.map(|k| weights.data()[k] * (lse.data()[row] - scores.data()[k])).sum()
    });
    same("softmax", &found, &want);
    // sparsemax and monotonic: by definition
    for normalize in [Normalize::Sparsemax, Normalize::Monotonic(Monotonic::Parallel)] {
        let (found, weights, ..) = entropy(&Attention { normalize, ..Attention::default() }, &inputs(5, 8));
        let want = Array::from_fn(&[2, 4, 5], |row| {
            let row = &weights.data()[row * 8..(row + 1) * 8];
            row.iter().filter(|w| **w > 0.0).map(|w| w * (1.0 / w).ln()).sum()
        });
        same("entropy", &found, &want);
    }
}
