//! Third-party vectors on the GPU.

use regard::tensor::DType;

use crate::gpu::{self, all, gpu, minimal_gpu};
use crate::vectors;

#[test]
fn attention_vectors_pass_on_the_gpu() {
    all(
        "attention vectors",
        vectors::attention_cases(),
        |c| c.name.clone(),
        |c| c.check(&gpu::attention(gpu(), &c.options, &c.inputs, DType::F32)?, 1.0),
    );
}

#[test]
fn recurrent_vectors_pass_on_the_gpu() {
    all(
        "recurrent vectors",
        vectors::rnn_cases(),
        |c| c.name.clone(),
        |c| c.check(&gpu::rnn(gpu(), &c.options, &c.stack, &c.inputs, DType::F32)?, 1.0),
    );
}

#[test]
fn vectors_pass_with_default_limits_and_no_features() {
    all(
        "attention vectors, minimal device",
        vectors::attention_cases(),
        |c| c.name.clone(),
        |c| c.check(&gpu::attention(minimal_gpu(), &c.options, &c.inputs, DType::F32)?, 1.0),
    );
    all(
        "recurrent vectors, minimal device",
        vectors::rnn_cases(),
        |c| c.name.clone(),
        |c| c.check(&gpu::rnn(minimal_gpu(), &c.options, &c.stack, &c.inputs, DType::F32)?, 1.0),
    );
}
