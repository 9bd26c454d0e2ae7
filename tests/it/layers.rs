//! Layers: against other libraries, and the GPU against the f64 oracle.

mod attentive;
mod decoder;
mod multi_head;
mod visual;

use half::f16;
use regard::compare::judge;
use regard::reference::Float;
use regard::tensor::{Array, DType};
use regard::{Error, Result};

use crate::gpu::{all, gpu, minimal_gpu, whole};
use crate::vectors::{self, MultiHeadCase, WrapperCase};

fn vectors_on(
    device: &str,
    multi_head: impl Fn(&MultiHeadCase) -> Result<f64>,
    wrapper: impl Fn(&WrapperCase) -> Result<f64>,
) {
    let heads = vectors::multi_head_cases().into_iter().map(|case| (case.name.clone(), multi_head(&case)));
    let wrapped = vectors::wrapper_cases().into_iter().map(|case| (case.name.clone(), wrapper(&case)));
    vectors::report(device, heads.chain(wrapped));
}

fn vectors_on_the_cpu<T: Float>(what: &str) {
    vectors_on(what, |case| case.on_cpu::<T>(), |case| case.on_cpu::<T>());
}

#[test]
fn layers_agree_with_other_libraries() {
    assert_eq!((vectors::multi_head_cases().len(), vectors::wrapper_cases().len()), (19 + 4, 9));
    vectors_on_the_cpu::<f32>("CPU, f32");
    vectors_on_the_cpu::<f64>("CPU, f64");
}

#[test]
fn layers_agree_with_other_libraries_on_the_gpu() {
    vectors_on("GPU", |case| case.on_gpu(gpu()), |case| case.on_gpu(gpu()));
    if whole() {
        vectors_on("minimal GPU", |case| case.on_gpu(minimal_gpu()), |case| case.on_gpu(minimal_gpu()));
    }
}

/// Deterministic numbers within ±`size`.
pub(crate) fn numbers(shape: &[usize], seed: f32, size: f32) -> Array<f32> {
    Array::from_fn(shape, |k| {
        let x = f64::from(((k as f32 + 1.0) * (seed + 0.377)).sin()) * 43_758.547;
        (2.0 * (x - x.floor()) - 1.0) as f32 * size
    })
}

/// The values that storage as `dtype` leaves.
fn stored(array: &Array<f32>, dtype: DType) -> Array<f32> {
    if dtype == DType::F16 { array.cast::<f16>().cast() } else { array.clone() }
}

/// The element types that the shared device can store.
fn types() -> Vec<DType> {
    if gpu().caps().f16 { vec![DType::F32, DType::F16] } else { vec![DType::F32] }
}

/// Named tensors of one result.
pub(crate) type Named<T> = Vec<(String, Array<T>)>;

/// What a `try_map` is told.
type Keep<'k, T> = dyn FnMut(&str, &Array<T>) -> Result<()> + 'k;

/// The tensors that a `try_map` comes by.
fn collected<T: Clone>(visit: impl FnOnce(&mut Keep<'_, T>) -> Result<()>) -> Named<T> {
    let mut all = Vec::new();
    visit(&mut |name, array| {
        all.push((name.to_owned(), array.clone()));
        Ok(())
    })
    .unwrap();
    all
}

/// Every tensor of a result, which is f32 whatever the storage of the inputs, against oracle and baseline: the largest
/// error ÷ tolerance.
pub(crate) fn judge_all(got: &Named<f32>, oracle: &Named<f64>, baseline: &Named<f32>) -> Result<f64> {
    fn names<T>(of: &Named<T>) -> Vec<&str> {
        of.iter().map(|(name, _)| name.as_str()).collect()
    }
    assert_eq!((names(got), names(baseline)), (names(oracle), names(oracle)));
    let mut worst = 0.0f64;
    for ((name, got), ((_, oracle), (_, baseline))) in got.iter().zip(oracle.iter().zip(baseline)) {
        worst = worst.max(judge(name, got, oracle, baseline, DType::F32)?.check(name)?);
    }
    Ok(worst)
}

/// Edits of what was right, each with the message of the refusal.
type Wrong<'a, R> = &'a [(fn(&mut R), &'a str)];

/// `run` says what a device makes of each request.
fn refused<R>(right: impl Fn() -> R, wrong: Wrong<'_, R>, run: impl Fn(&R) -> Result<()>) {
    run(&right()).unwrap();
    for (edit, message) in wrong {
        let mut request = right();
        edit(&mut request);
        let error = run(&request).expect_err(message);
        assert_eq!(error.to_string(), *message);
        assert!(matches!(error, Error::Shape { .. } | Error::Missing { .. } | Error::Option { .. }));
    }
}
