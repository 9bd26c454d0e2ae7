//! Scores and weights that depend on the alignment before a query: monotonic and location-sensitive attention.

use regard::attention::Monotonic;

use super::*;

/// Scores of a single head straight from a mask, so that they are what they look like.
fn scored(scores: &Tensor) -> AttentionInputs<Tensor> {
    let &[queries, keys] = scores.shape() else { unreachable!() };
    let mut inputs = AttentionInputs::new(
        Array::filled(&[1, 1, queries, 2], 0.0),
        numbers(&[1, 1, keys, 2], 2.0),
        numbers(&[1, 1, keys, 3], 3.0),
    );
    inputs.mask = Some(Mask::Float(scores.clone()));
    inputs
}

fn aligned(form: Monotonic, inputs: &AttentionInputs<Tensor>) -> Tensor {
    let options = Attention { normalize: Normalize::Monotonic(form), weights: true, ..Attention::default() };
    attend(&options, inputs).weights.unwrap()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Query after query, step by step: go on from where the last one stopped, stop at the first key with a score above 0.
#[test]
fn hard_monotonic_attention_is_a_scan() {
    for seed in 0..40 {
        let (queries, keys) = (6, 9);
        let scores = numbers(&[queries, keys], f64::from(seed)).map(|&x| match (x * 2.0).round() {
            s if s < -2.0 => f64::NEG_INFINITY,
            s => s - 1.0,
        });
        let weights = aligned(Monotonic::Hard, &scored(&scores));
        let mut place = Some(0);
        for i in 0..queries {
            let stops = |&j: &usize| scores.data()[i * keys + j] > 0.0;
            place = place.and_then(|place| (place..keys).find(stops));
            for j in 0..keys {
                let want = f64::from(u8::from(place == Some(j)));
                assert_eq!(weights.data()[i * keys + j], want, "seed {seed}, query {i}, key {j}");
            }
        }
    }
}

/// Adds the chance of every way to stop at queries `i ..`, having stopped at `from`, to the key each query stopped at.
fn walk(stop: &Tensor, i: usize, from: usize, chance: f64, weights: &mut Tensor) {
    let &[queries, keys] = stop.shape() else { unreachable!() };
    if i == queries {
        return;
    }
    let mut looks = chance;
    for j in from..keys {
        let p = stop.data()[i * keys + j];
        weights.data_mut()[i * keys + j] += looks * p;
        walk(stop, i + 1, j, looks * p, weights);
        looks *= 1.0 - p;
    }
}

/// Against the sum over all ways to stop; a hidden key is never stopped at.
#[test]
fn monotonic_attention_sums_over_all_ways_to_stop() {
    for seed in 0..5 {
        let (queries, keys) = (4, 6);
        let scores =
            numbers(&[queries, keys], f64::from(seed)).map(|&x| if x > 1.3 { f64::NEG_INFINITY } else { 2.0 * x });
        let stop = scores.map(|&s| if s == f64::NEG_INFINITY { 0.0 } else { sigmoid(s) });
        let mut inputs = scored(&scores);
        let shape = [1, 1, queries, keys];
        let mut want = Array::filled(&[queries, keys], 0.0);
        walk(&stop, 0, 0, 1.0, &mut want);
        let want = want.reshape(&shape).unwrap();
        same("recursive", &aligned(Monotonic::Recursive, &inputs), &want);
        same("parallel", &aligned(Monotonic::Parallel, &inputs), &want);
        // from an alignment that has been somewhere already
        let start = [0.1, 0.4, 0.0, 0.2, 0.05, 0.0];
        let mut want = Array::filled(&[queries, keys], 0.0);
        start.iter().enumerate().for_each(|(j, &chance)| walk(&stop, 0, j, chance, &mut want));
        let want = want.reshape(&shape).unwrap();
        inputs.previous = Array::new(&[1, 1, 1, keys], start.to_vec()).ok();
        same("recursive", &aligned(Monotonic::Recursive, &inputs), &want);
        same("parallel", &aligned(Monotonic::Parallel, &inputs), &want);
        // one query at a time, each from the weights of the one before
        let mut previous = inputs.previous.clone();
        for i in 0..queries {
            let mut step = scored(&cut(&scores, 0, i, 1));
            step.previous = previous.take();
            let weights = aligned(Monotonic::Recursive, &step);
            same("step", &weights, &cut(&want, 2, i, 1));
            previous = Some(weights);
        }
    }
}

/// The parallel form as its formula has it, clamp and all, where the clamp matters.
#[test]
fn the_parallel_form_clamps_what_has_vanished() {
    let (queries, keys) = (3, 8);
    let scores = numbers(&[queries, keys], 3.0).map(|x| 12.0 * x.abs());
    let mut previous = vec![0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.75, 0.0];
    let mut inputs = scored(&scores);
    inputs.previous = Array::new(&[1, 1, 1, keys], previous.clone()).ok();
    let weights = aligned(Monotonic::Parallel, &inputs);
    for i in 0..queries {
        let p: Vec<f64> = (0..keys).map(|j| sigmoid(scores.data()[i * keys + j])).collect();
        let c = |j: usize| p[..j].iter().map(|p| 1.0 - p).product::<f64>();
        let row: Vec<f64> = (0..keys)
            .map(|j| p[j] * c(j) * (0..=j).map(|k| previous[k] / c(k).clamp(1e-10, 1.0)).sum::<f64>())
            .collect();
        let want = Array::new(&[1, 1, 1, keys], row.clone()).unwrap();
        close("weights", &cut(&weights, 2, i, 1), &want, 1e-9, 0.0).unwrap().check("weights").unwrap();
        previous = row;
    }
    let exact = aligned(Monotonic::Recursive, &inputs);
    let far = weights.data().iter().zip(exact.data()).any(|(w, e)| (w - e).abs() > 1e-3);
    assert!(far, "no weight shows the clamp");
}

/// Padding neither stops a scan nor is read, and a query that sees nothing ends it.
#[test]
fn a_scan_keeps_to_its_own_keys() {
    let scores = numbers(&[4, 6], 2.0);
    let mut inputs = scored(&scores);
    inputs.kv_lengths = Array::new(&[1], vec![4]).ok();
    inputs.previous = Array::new(&[1, 1, 1, 6], vec![0.5, 0.25, 0.0, 0.25, f64::NAN, 1e30]).ok();
    let mut alone = scored(&cut(&scores, 1, 0, 4));
    alone.previous = Array::new(&[1, 1, 1, 4], vec![0.5, 0.25, 0.0, 0.25]).ok();
    for form in [Monotonic::Parallel, Monotonic::Recursive, Monotonic::Hard] {
        let weights = aligned(form, &inputs);
        same("weights", &cut(&weights, 3, 0, 4), &aligned(form, &alone));
        assert!(cut(&weights, 3, 4, 2).data().iter().all(|w| *w == 0.0));
        let mut blind = alone.clone();
        let mut mask = cut(&scores, 1, 0, 4);
        mask.data_mut()[4..8].fill(f64::NEG_INFINITY);
        blind.mask = Some(Mask::Float(mask));
        assert!(cut(&aligned(form, &blind), 2, 1, 3).data().iter().all(|w| *w == 0.0), "{form:?}");
    }
}

/// A location-sensitive score against its formula, for filters of odd and even width and for one that only looks.
#[test]
fn location_sensitive_scores_follow_their_formula() {
    let (dq, dk, units, channels, queries, keys) = (4, 3, 5, 2, 3, 7);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for width in [1, 2, 3, 4, 9] {
        let mut inputs = AttentionInputs::new(
            numbers(&[1, 2, queries, dq], 1.0),
            numbers(&[1, 1, keys, dk], 2.0),
            numbers(&[1, 1, keys, 2], 3.0),
        );
        let (w, u, v, b) =
            (numbers(&[units, dq], 5.0), numbers(&[units, dk], 6.0), numbers(&[units], 7.0), numbers(&[units], 8.0));
        let (filter, mix) = (numbers(&[channels, width], 9.0), numbers(&[units, channels], 10.0));
        let previous = numbers(&[1, 2, queries, keys], 11.0);
        let weights = &mut inputs.score;
        (weights.query_weight, weights.key_weight) = (Some(w.clone()), Some(u.clone()));
        (weights.v, weights.bias) = (Some(v.clone()), Some(b.clone()));
        (weights.location_filter, weights.location_weight) = (Some(filter.clone()), Some(mix.clone()));
        inputs.previous = Some(previous.clone());
        let want = |filter: &Tensor| {
            Array::from_fn(&[1, 2, queries, keys], |at| {
                let (row, j) = (at / keys, at % keys);
                let (q, k) = (&inputs.query.data()[row * dq..][..dq], &inputs.key.data()[j * dk..][..dk]);
                let alignment = |place: i64| match usize::try_from(place) {
                    Ok(place) if place < keys => previous.data()[row * keys + place],
                    _ => 0.0,
                };
                let left = ((width - 1) / 2) as i64;
                let f: Vec<f64> = (0..channels)
                    .map(|c| (0..width).map(|n| filter.data()[c * width + n] * alignment((j + n) as i64 - left)).sum())
                    .collect();
                let unit = |a: usize| {
                    let sum = dot(&w.data()[a * dq..][..dq], q)
                        + dot(&u.data()[a * dk..][..dk], k)
                        + dot(&mix.data()[a * channels..][..channels], &f)
                        + b.data()[a];
                    v.data()[a] * sum.tanh()
                };
                (0..units).map(unit).sum()
            })
        };
        let options = Attention { score: Score::Location, ..full() };
        same(&format!("width {width}"), &attend(&options, &inputs).scores.unwrap(), &want(&filter));
        // one-hot in the middle: the previous alignment itself
        let middle = bools_at(&[channels, width], |k| k % width == (width - 1) / 2);
        let same_place = want(&middle);
        inputs.score.location_filter = Some(bools_at(&[channels, 1], |_| true));
        same("one-hot", &attend(&options, &inputs).scores.unwrap(), &same_place);
        // without an alignment it is the additive score
        inputs.previous = Some(Array::filled(&[1, 2, queries, keys], 0.0));
        let located = attend(&options, &inputs);
        (inputs.score.location_filter, inputs.score.location_weight, inputs.previous) = (None, None, None);
        same_attention(&located, &attend(&Attention { score: Score::Additive, ..full() }, &inputs));
    }
}

fn bools_at(shape: &[usize], f: impl Fn(usize) -> bool) -> Tensor {
    Array::from_fn(shape, |k| f64::from(u8::from(f(k))))
}

/// Queries and keys that are projected already, with the bias in the query.
#[test]
fn location_sensitive_scores_take_projections() {
    let mut inputs = inputs(4, 5);
    location_weights(&mut inputs);
    inputs.previous = Some(numbers(&[2, 4, 4, 5], 11.0));
    inputs.score.bias = Some(numbers(&[3], 12.0));
    let options = Attention { score: Score::Location, ..full() };
    let want = attend(&options, &inputs);
    let project = |x: &Tensor, w: &Option<Tensor>, b: Option<&Tensor>| {
        reference::linear(x, w.as_ref().unwrap(), b, None).unwrap()
    };
    inputs.query = project(&inputs.query, &inputs.score.query_weight, inputs.score.bias.as_ref());
    inputs.key = project(&inputs.key, &inputs.score.key_weight, None);
    (inputs.score.query_weight, inputs.score.key_weight, inputs.score.bias) = (None, None, None);
    same_attention(&attend(&options, &inputs), &want);
}

/// g · v / ‖v‖ in the place of v.
#[test]
fn a_normalized_v_has_the_length_g() {
    let units = 6;
    let v = numbers(&[units], 7.0);
    let norm = v.data().iter().map(|v| v * v).sum::<f64>().sqrt();
    for score in [Score::Additive, Score::Concat] {
        let mut inputs = inputs(4, 5);
        match score {
            Score::Concat => inputs.score.weight = Some(numbers(&[units, 12], 5.0)),
            _ => {
                inputs.score.query_weight = Some(numbers(&[units, 6], 5.0));
                inputs.score.key_weight = Some(numbers(&[units, 6], 6.0));
            }
        }
        inputs.score.v = Some(v.map(|v| 1.7 * v / norm));
        let options = Attention { score, ..full() };
        let want = attend(&options, &inputs);
        inputs.score.v = Some(v.clone());
        inputs.score.g = Array::new(&[1], vec![1.7]).ok();
        same_attention(&attend(&options, &inputs), &want);
        inputs.score.v = Some(Array::filled(&[units], 0.0));
        let flat = attend(&options, &inputs);
        assert!(flat.scores.unwrap().data().iter().all(|s| *s == 0.0));
    }
}
