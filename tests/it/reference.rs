//! The reference against PyTorch, Keras and ONNX, in f32 and f64.

use std::collections::BTreeSet;

use regard::Result;
use regard::reference::{self, Float};
use regard::tensor::Array;

use crate::vectors;

/// Runs every case of a list, prints the worst share of a tolerance, and fails with all that failed.
fn all(kind: &str, results: impl IntoIterator<Item = (String, Result<f64>)>) {
    let (mut worst, mut failed, mut count) = ((0.0, String::new()), Vec::new(), 0);
    for (name, result) in results {
        count += 1;
        match result {
            Ok(share) if share >= worst.0 => worst = (share, name),
            Ok(_) => {}
            Err(error) => failed.push(format!("{name}: {error}")),
        }
    }
    assert!(failed.is_empty(), "{} of {count} {kind} cases failed:\n{}", failed.len(), failed.join("\n"));
    assert!(count > 0);
    println!("{kind}: {count} cases, worst uses {:.2} of its tolerance ({})", worst.0, worst.1);
}

fn attention<T: Float>(kind: &str) {
    let run = |case: vectors::AttentionCase| {
        let inputs = case.inputs.map(|a| a.map(|&x| T::from_f32(x)));
        let got = reference::attention(&case.options, &inputs);
        (case.name.clone(), got.and_then(|got| case.check(&got, 1.0)))
    };
    all(kind, vectors::attention_cases().into_iter().map(run));
}

fn rnn<T: Float>(kind: &str) {
    let run = |case: vectors::RnnCase| {
        let cast = |a: &Array<f32>| a.map(|&x| T::from_f32(x));
        let stack = case.stack.iter().map(|layer| layer.iter().map(|w| w.map(cast)).collect()).collect();
        let got = reference::rnn(&case.options, &stack, &case.inputs.map(cast));
        (case.name.clone(), got.and_then(|got| case.check(&got, 1.0)))
    };
    all(kind, vectors::rnn_cases().into_iter().map(run));
}

fn softmax<T: Float>(kind: &str) {
    let run = |case: vectors::SoftmaxCase| {
        let share = match case.op.as_str() {
            "Softmax" => case.run(reference::softmax::<T>),
            "LogSoftmax" => case.run(reference::log_softmax::<T>),
            _ => case.run(reference::hardmax::<T>),
        };
        (case.name.clone(), share)
    };
    all(kind, vectors::softmax_cases().into_iter().map(run));
}

#[test]
fn attention_agrees_with_other_libraries() {
    attention::<f32>("attention f32");
    attention::<f64>("attention f64");
}

#[test]
fn recurrences_agree_with_other_libraries() {
    rnn::<f32>("rnn f32");
    rnn::<f64>("rnn f64");
}

#[test]
fn softmax_agrees_with_other_libraries() {
    softmax::<f32>("softmax f32");
    softmax::<f64>("softmax f64");
}

#[test]
fn every_vector_is_run_or_listed() {
    let mut run: BTreeSet<String> = BTreeSet::new();
    run.extend(vectors::attention_cases().into_iter().map(|case| case.name));
    run.extend(vectors::layer_names().into_iter().filter(|name| vectors::all_names().contains(name)));
    run.extend(vectors::rnn_cases().into_iter().map(|case| case.name));
    run.extend(vectors::softmax_cases().into_iter().map(|case| case.name));
    let listed: BTreeSet<String> = vectors::NOT_COVERED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert!(run.is_disjoint(&listed));
    let all = vectors::all_names();
    assert_eq!(all.len(), 132 + 59 + 27);
    let missing: Vec<&String> = all.iter().filter(|name| !run.contains(*name) && !listed.contains(*name)).collect();
    assert!(missing.is_empty(), "neither run nor listed: {missing:?}");
    assert_eq!(run.len() + listed.len(), all.len());
}
