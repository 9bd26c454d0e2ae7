//! The form that a computation takes, in a word.

use super::{Cpu, attention, rnn};
use crate::attention::Attention;
use crate::problem::AttentionProblem;
use crate::rnn::Rnn;

const REFERENCE: &str = "the reference";

/// Of an attention.
pub fn of_attention(cpu: &Cpu, options: &Attention, problem: &AttentionProblem) -> &'static str {
    if attention::handed_over(options).is_some() {
        return REFERENCE;
    }
    let blocks = attention::Blocks::new(problem, cpu.processor(), options.weights || options.entropy);
    match (blocks.vectors, blocks.range < problem.keys) {
        (0, false) => "along the head dimension",
        (0, true) => "along the head dimension, keys in ranges",
        (1, false) => "one vector of queries",
        (1, true) => "one vector of queries, keys in ranges",
        (_, false) => "two vectors of queries",
        (_, true) => "two vectors of queries, keys in ranges",
    }
}

/// Of a recurrence.
pub fn of_rnn(options: &Rnn) -> &'static str {
    if rnn::handed_over(options).is_some() { REFERENCE } else { "packed" }
}
