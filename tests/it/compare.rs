//! The comparator must pass what is right and fail what is wrong.

use regard::Error;
use regard::compare::{Verdict, close, judge};
use regard::tensor::{Array, DType};

fn oracle() -> Array<f64> {
    Array::from_fn(&[3, 4], |k| (k as f64 * 0.7).sin())
}

/// Every element rounded to f32.
fn narrow(array: &Array<f64>) -> Array<f32> {
    array.map(|&x| x as f32)
}

fn verdict(got: &Array<f32>) -> Verdict {
    judge("y", got, &oracle(), &narrow(&oracle()), DType::F32).unwrap()
}

/// Both forms must give the same answer.
fn passes(got: &Array<f32>) -> bool {
    let by_rule = verdict(got).passed();
    let by_allowance = close("y", got, &oracle(), 1e-5, 1e-6).unwrap().passed();
    assert_eq!(by_rule, by_allowance);
    by_rule
}

fn with(k: usize, value: f32) -> Array<f32> {
    let mut got = narrow(&oracle());
    got.data_mut()[k] = value;
    got
}

#[test]
fn a_rounded_oracle_passes() {
    let got = narrow(&oracle());
    assert!(passes(&got));
    let verdict = verdict(&got);
    assert!(verdict.error > 0.0 && verdict.error == verdict.baseline);
    assert!(verdict.ratio() > 0.0 && verdict.ratio() < 1.0);
}

#[test]
fn one_element_off_fails_and_is_named() {
    let got = with(7, oracle().data()[7] as f32 + 1e-4);
    assert!(!passes(&got));
    let verdict = verdict(&got);
    assert_eq!(verdict.worst, 7);
    assert!((verdict.error - 1e-4).abs() < 1e-6);
    assert!(verdict.ratio() > 50.0);
    let error = verdict.check("output").unwrap_err();
    assert!(matches!(&error, Error::Tolerance { what, .. } if what == "output at element 7"), "{error}");
}

#[test]
fn nan_on_one_side_fails() {
    assert!(!passes(&with(2, f32::NAN)));
    let mut oracle = oracle();
    oracle.data_mut()[2] = f64::NAN;
    let got = narrow(&self::oracle());
    assert!(!judge("y", &got, &oracle, &got, DType::F32).unwrap().passed());
    assert!(!close("y", &got, &oracle, 1e-5, 1e-6).unwrap().passed());
    let both = narrow(&oracle);
    assert!(judge("y", &both, &oracle, &both, DType::F32).unwrap().passed());
    assert!(close("y", &both, &oracle, 1e-5, 1e-6).unwrap().passed());
}

#[test]
fn a_thousandth_for_zero_fails() {
    assert_eq!(oracle().data()[0], 0.0);
    assert!(!passes(&with(0, 1e-3)));
    let zero = Array::filled(&[5], 0.0);
    let got = Array::filled(&[5], 1e-3f32);
    assert!(!judge("y", &got, &zero, &narrow(&zero), DType::F32).unwrap().passed());
    assert!(!judge("y", &got.map(|x| x * 10.0), &zero, &narrow(&zero), DType::F16).unwrap().passed());
    assert!(!close("y", &got, &zero, 1e-3, 1e-7).unwrap().passed());
    assert!(!close("y", &got, &zero, 1e-3, 0.0).unwrap().passed());
}

#[test]
fn swapped_tensors_fail() {
    let [a, b] = [1.0, 2.0].map(|seed| Array::from_fn(&[4, 4], |k| (k as f64 + seed).cos()));
    assert!(judge("a", &narrow(&a), &a, &narrow(&a), DType::F32).unwrap().passed());
    assert!(!judge("a", &narrow(&b), &a, &narrow(&a), DType::F32).unwrap().passed());
    assert!(!close("a", &b, &a, 1e-3, 1e-3).unwrap().passed());
    let transposed = a.permute(&[1, 0]).unwrap();
    assert!(!close("a", &transposed, &a, 1e-3, 1e-3).unwrap().passed());
}

#[test]
fn a_wrong_shape_is_an_error() {
    let got = narrow(&oracle());
    let flat = got.clone().reshape(&[12]).unwrap();
    let error = judge("y", &flat, &oracle(), &got, DType::F32).unwrap_err();
    assert_eq!(error.to_string(), "`y` shape: expected [3, 4], found [12]");
    assert!(judge("y", &got, &oracle(), &flat, DType::F32).is_err());
    assert!(close("y", &flat, &oracle(), 1.0, 1.0).is_err());
    let short = Array::new(&[3, 3], got.data()[..9].to_vec()).unwrap();
    assert!(close("y", &short, &oracle(), 1.0, 1.0).is_err());
}

#[test]
fn infinities_equal_only_themselves() {
    let with = |x: f64| {
        let mut array = oracle();
        array.data_mut()[5] = x;
        array
    };
    for (got, want, equal) in [
        (f64::INFINITY, f64::INFINITY, true),
        (f64::NEG_INFINITY, f64::NEG_INFINITY, true),
        (f64::INFINITY, f64::NEG_INFINITY, false),
        (f64::INFINITY, 3.0, false),
        (3.0, f64::INFINITY, false),
        (3.0, f64::NEG_INFINITY, false),
        (f64::INFINITY, f64::NAN, false),
        (3e38, f64::INFINITY, false),
    ] {
        let (got, want) = (with(got), with(want));
        let by_rule = judge("y", &narrow(&got), &want, &narrow(&want), DType::F32).unwrap();
        assert_eq!(by_rule.passed(), equal, "{got:?} {want:?}");
        assert_eq!(close("y", &got, &want, 1e-3, 1e-3).unwrap().passed(), equal);
    }
}

#[test]
fn a_bad_baseline_grants_nothing() {
    let got = with(3, 0.5);
    let overflown = with(3, f32::INFINITY);
    assert!(!judge("y", &got, &oracle(), &overflown, DType::F32).unwrap().passed());
    assert!(!judge("y", &got, &oracle(), &with(3, f32::NAN), DType::F32).unwrap().passed());
}

/// Twice the error of a baseline that is far off would let anything through.
#[test]
fn a_pass_beside_a_baseline_that_is_far_off_says_nothing() {
    let size = oracle().data().iter().fold(0.0, |size: f64, x| size.max(x.abs()));
    let by = |share: f64| with(3, (oracle().data()[3] + share * size) as f32);
    let judged = |baseline: &Array<f32>| judge("y", baseline, &oracle(), baseline, DType::F32).unwrap();
    assert!(judged(&by(1e-4)).is_sound() && judged(&by(1e-4)).passed());
    let far = judged(&by(0.02));
    assert!(far.passed() && !far.is_sound(), "{far:?}");
    assert!((far.baseline_relative - 0.02).abs() < 1e-4, "{far:?}");
    assert!(!judged(&with(3, f32::INFINITY)).is_sound() && !judged(&with(3, f32::NAN)).is_sound());
    // What is left of numbers that cancel is judged by their size.
    let (zero, little) = (Array::filled(&[2, 3], 0.0), Array::filled(&[2, 3], 1e-9f32));
    let cancelled = judge("y", &little, &zero, &little, DType::F32).unwrap();
    assert!(!cancelled.is_sound() && cancelled.made_of(1.0, &little, &zero).is_sound());
    // A tensor of small numbers is judged by its own size.
    let (small, wrong) = (Array::filled(&[2, 3], 1e-30), Array::filled(&[2, 3], 2e-30));
    assert!(!judge("y", &wrong, &small, &wrong, DType::F32).unwrap().is_sound());
}

#[test]
fn half_precision_allows_its_own_rounding_and_no_more() {
    let half = |x: f32| half::f16::from_f32(x).to_f32();
    let rounded = narrow(&oracle()).map(|&x| half(x));
    assert!(judge("y", &rounded, &oracle(), &rounded, DType::F16).unwrap().passed());
    assert!(!judge("y", &rounded, &oracle(), &narrow(&oracle()), DType::F32).unwrap().passed());
    let off = rounded.map(|&x| x + 0.02);
    assert!(!judge("y", &off, &oracle(), &rounded, DType::F16).unwrap().passed());
}
