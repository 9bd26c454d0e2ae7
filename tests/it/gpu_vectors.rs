//! Third-party vectors on the GPU.

use regard::attention::{Attention, Normalize};
use regard::gpu::{Gpu, Run};
use regard::kernels::softmax;
use regard::tensor::{Array, DType};
use regard::{Result, Tensor};

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

/// The softmax kernel over the rows of an array.
fn normalized(gpu: &Gpu, op: &str, x: &Array<f32>) -> Result<Array<f32>> {
    let keys = x.shape()[x.shape().len() - 1];
    let shape = [1, 1, x.data().len() / keys, keys];
    let rows = Tensor::upload(gpu, "x", &x.clone().reshape(&shape)?, DType::F32)?;
    let mut run = Run::new(gpu);
    let (scores, (lse, sums)) = (run.bind("x", &rows), run.output("lse", &shape[..3], DType::F32)?);
    let (normalize, lse) = match op {
        "Hardmax" => (Normalize::Hardmax, None),
        _ => (Normalize::Softmax, Some(&lse)),
    };
    let options = Attention { normalize, ..Attention::default() };
    softmax::record(run.recording_mut(), gpu.caps(), &options, shape[2], 0, &scores, lse, None)?;
    run.submit()?;
    let (weights, sums) = (rows.download(gpu)?, sums.download(gpu)?);
    let found = match op {
        // ln softmax(x), by x − log-sum-exp(x) where the weight has vanished; elsewhere that would cancel for large x.
        "LogSoftmax" => Array::from_fn(&shape, |i| match weights.data()[i] {
            w if w > 1e-30 => w.ln(),
            _ => x.data()[i] - sums.data()[i / keys],
        }),
        _ => weights,
    };
    found.reshape(x.shape())
}

#[test]
fn softmax_vectors_pass_on_the_gpu() {
    let run = |c: &vectors::SoftmaxCase| c.run::<f32>(|x| normalized(gpu(), &c.op, x));
    all("softmax vectors", vectors::softmax_cases(), |c| c.name.clone(), run);
}
