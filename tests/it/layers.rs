//! Layers: against other libraries, and the GPU against the f64 oracle.

use regard::Result;
use regard::reference::Float;

use crate::gpu::{all, gpu, minimal_gpu};
use crate::vectors::{self, MultiHeadCase, WrapperCase};

fn vectors_on(
    what: &str,
    multi_head: impl Fn(&MultiHeadCase) -> Result<f64>,
    wrapper: impl Fn(&WrapperCase) -> Result<f64>,
) {
    all(&format!("multi-head vectors, {what}"), vectors::multi_head_cases(), |c| c.name.clone(), multi_head);
    all(&format!("attention wrapper vectors, {what}"), vectors::wrapper_cases(), |c| c.name.clone(), wrapper);
}

fn vectors_on_the_cpu<T: Float>(what: &str) {
    vectors_on(what, |case| case.on_cpu::<T>(), |case| case.on_cpu::<T>());
}

#[test]
fn layers_agree_with_other_libraries() {
    assert_eq!((vectors::multi_head_cases().len(), vectors::wrapper_cases().len()), (19 + 4, 9));
    vectors_on_the_cpu::<f32>("f32");
    vectors_on_the_cpu::<f64>("f64");
}

#[test]
fn layers_agree_with_other_libraries_on_the_gpu() {
    vectors_on("GPU", |case| case.on_gpu(gpu()), |case| case.on_gpu(gpu()));
    vectors_on("minimal GPU", |case| case.on_gpu(minimal_gpu()), |case| case.on_gpu(minimal_gpu()));
}
