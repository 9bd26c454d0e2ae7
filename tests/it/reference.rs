//! The reference against other libraries, in f32 and f64.

use std::collections::BTreeSet;

use regard::Result;
use regard::attention::Rotary;
use regard::reference::{self, Float};
use regard::tensor::Array;

use crate::vectors;

/// Every case but those of layers: what it came to, by name.
fn results<T: Float>() -> Vec<(String, Result<f64>)> {
    fn cast<T: Float>(a: &Array<f32>) -> Array<T> {
        a.map(|&x| T::from_f32(x))
    }
    let attention = |case: vectors::AttentionCase| {
        let got = reference::attention(&case.options, &case.inputs.map_numbers(cast::<T>));
        (case.name.clone(), got.and_then(|got| case.check(&got, 1.0)))
    };
    let rotary = |case: vectors::RotaryCase| {
        let [cos, sin] = case.tables.each_ref().map(cast::<T>);
        let got = reference::rotary(&cast(&case.x), &cos, &sin, case.positions.as_ref(), case.rotary);
        (case.name.clone(), got.and_then(|got| case.expect.check(Some(&got), 1.0)))
    };
    let append = |case: vectors::AppendCase| {
        let got = reference::append::<T>(&cast(&case.cache), &cast(&case.rows), &case.starts, case.wrap);
        (case.name.clone(), got.and_then(|got| case.expect.check(Some(&got), 1.0)))
    };
    let rnn = |case: vectors::RnnCase| {
        let stack = case.stack.iter().map(|layer| layer.iter().map(|w| w.map(cast::<T>)).collect()).collect();
        let got = reference::rnn(&case.options, &stack, &case.inputs.map_numbers(cast));
        (case.name.clone(), got.and_then(|got| case.check(&got, 1.0)))
    };
    let softmax = |case: vectors::SoftmaxCase| {
        let share = match case.op.as_str() {
            "Softmax" => case.run(reference::softmax::<T>),
            "LogSoftmax" => case.run(reference::log_softmax::<T>),
            _ => case.run(reference::hardmax::<T>),
        };
        (case.name.clone(), share)
    };
    let attention = vectors::attention_cases().into_iter().map(attention);
    let rotary = vectors::rotary_cases().into_iter().map(rotary);
    let append = vectors::append_cases().into_iter().map(append);
    let rnn = vectors::rnn_cases().into_iter().map(rnn);
    attention.chain(rotary).chain(append).chain(rnn).chain(vectors::softmax_cases().into_iter().map(softmax)).collect()
}

#[test]
fn the_reference_agrees_with_other_libraries_in_f32() {
    vectors::report("CPU, f32", results::<f32>());
}

#[test]
fn the_reference_agrees_with_other_libraries_in_f64() {
    vectors::report("CPU, f64", results::<f64>());
}

#[test]
fn rotary_tables_agree_with_those_of_transformers() {
    for (name, base, [width, positions], expect) in vectors::tables() {
        let tables = Rotary::tables(base, width, positions).unwrap();
        for (table, expect) in tables.iter().zip(expect) {
            expect.check(Some(table), 1.0).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[test]
fn every_vector_is_run_or_listed() {
    let all: BTreeSet<String> = vectors::all_names().into_iter().collect();
    let mut run: BTreeSet<String> = BTreeSet::new();
    run.extend(vectors::attention_cases().into_iter().map(|case| case.name));
    run.extend(vectors::layer_names());
    run.extend(vectors::rotary_cases().into_iter().map(|case| case.name));
    run.extend(vectors::append_cases().into_iter().map(|case| case.name));
    run.extend(vectors::rnn_cases().into_iter().map(|case| case.name));
    run.extend(vectors::softmax_cases().into_iter().map(|case| case.name));
    run.extend(vectors::tables().into_iter().map(|(name, ..)| name));
    let listed: BTreeSet<String> = vectors::NOT_COVERED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert!(run.is_disjoint(&listed));
    assert_eq!(all.len(), 154 + 21 + 59 + 7 + 22 + 27 + 27 + 24 + 43 + 13 + 4 + 10);
    let missing: Vec<&String> = all.iter().filter(|name| !run.contains(*name) && !listed.contains(*name)).collect();
    assert!(missing.is_empty(), "neither run nor listed: {missing:?}");
    assert_eq!(run.len() + listed.len(), all.len());
}
