//! Third-party vectors on the GPU.

use regard::attention::{Attention, Normalize};
use regard::gpu::{Gpu, Run};
use regard::kernels::softmax;
use regard::tensor::{Array, DType};
use regard::{Result, Tensor, ops};

use crate::gpu::{self, gpu, minimal_gpu, some};
use crate::vectors;

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
    let stats = softmax::Stats { lse, max_sum: None };
    softmax::record(run.recording_mut(), gpu.caps(), &options, shape[2], 0, &scores, stats, None)?;
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

fn rotary(gpu: &Gpu, case: &vectors::RotaryCase) -> Result<Array<f32>> {
    let upload = |name: &str, array: &Array<f32>| Tensor::upload(gpu, name, array, DType::F32);
    let (x, [cos, sin]) = (upload("x", &case.x)?, &case.tables);
    let (cos, sin) = (upload("cos", cos)?, upload("sin", sin)?);
    let positions = case.positions.as_ref().map(|list| Tensor::upload_u32(gpu, "positions", list)).transpose()?;
    let mut run = Run::new(gpu);
    let turned = ops::rotary::rotary(&mut run, &x, [&cos, &sin], positions.as_ref(), case.rotary)?;
    run.submit()?;
    turned.download(gpu)
}

fn append(gpu: &Gpu, case: &vectors::AppendCase) -> Result<Array<f32>> {
    let upload = |name: &str, array: &Array<f32>| Tensor::upload(gpu, name, array, DType::F32);
    let (cache, rows) = (upload("cache", &case.cache)?, upload("rows", &case.rows)?);
    let starts = Array::new(&[case.starts.len()], case.starts.iter().map(|&start| start as u32).collect())?;
    let starts = Tensor::upload_u32(gpu, "starts", &starts)?;
    let mut run = Run::new(gpu);
    ops::cache::append(&mut run, &cache, &rows, &starts, None, case.wrap)?;
    run.submit()?;
    cache.download(gpu)
}

/// Every case but those of layers: what it came to, by name.
fn results(gpu: &Gpu) -> Vec<(String, Result<f64>)> {
    let half = |case: &vectors::AttentionCase| case.storage == DType::F16 && gpu.caps().f16;
    let attention = |case: vectors::AttentionCase| {
        let storage = if half(&case) { DType::F16 } else { DType::F32 };
        let got = gpu::attention(gpu, &case.options, &case.inputs, storage);
        (case.name.clone(), got.and_then(|got| case.check(&got, 1.0)))
    };
    let rotary = |case: vectors::RotaryCase| {
        (case.name.clone(), rotary(gpu, &case).and_then(|got| case.expect.check(Some(&got), 1.0)))
    };
    let append = |case: vectors::AppendCase| {
        (case.name.clone(), append(gpu, &case).and_then(|got| case.expect.check(Some(&got), 1.0)))
    };
    let rnn = |case: vectors::RnnCase| {
        let got = gpu::rnn(gpu, &case.options, &case.stack, &case.inputs, DType::F32);
        (case.name.clone(), got.and_then(|got| case.check(&got, 1.0)))
    };
    let softmax = |case: vectors::SoftmaxCase| (case.name.clone(), case.run::<f32>(|x| normalized(gpu, &case.op, x)));
    // The CPU judges all of them in every run.
    let attention = some(vectors::attention_cases(), 12).map(attention);
    let rotary = some(vectors::rotary_cases(), 3).map(rotary);
    let append = vectors::append_cases().into_iter().map(append);
    let rnn = some(vectors::rnn_cases(), 12).map(rnn);
    attention.chain(rotary).chain(append).chain(rnn).chain(vectors::softmax_cases().into_iter().map(softmax)).collect()
}

#[test]
fn vectors_pass_on_the_gpu() {
    vectors::report("GPU", results(gpu()));
}

#[test]
#[ignore = "minutes of compilation: by tests/all"]
fn vectors_pass_with_default_limits_and_no_features() {
    vectors::report("GPU with default limits", results(minimal_gpu()));
}
