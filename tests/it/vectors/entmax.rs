//! entmax: sparsemax, with and without a mask.

use regard::attention::{Attention, Normalize};
use regard::tensor::{Array, Layout};

use super::{AttentionCase, Entry, entries, of_scores, split_heads};

pub(super) fn attention() -> Vec<AttentionCase> {
    entries("entmax", &["Sparsemax"]).iter().map(case).collect()
}

/// Scores [B, N, M], and where a key takes part.
fn case(entry: &Entry) -> AttentionCase {
    let mut t = entry.tensors();
    let mut scores = t.take("in.scores");
    if let Some(mask) = t.get("in.mask") {
        let mask = mask.gather(&Layout::contiguous(mask.shape()).broadcast(scores.shape()).unwrap()).unwrap();
        let seen = scores.data().iter().zip(mask.data());
        let data = seen.map(|(&s, &seen)| if seen == 0.0 { f32::NEG_INFINITY } else { s }).collect();
        scores = Array::new(scores.shape(), data).unwrap();
    }
    let inputs = of_scores(scores);
    let options = Attention { normalize: Normalize::Sparsemax, weights: true, ..Attention::default() };
    let expect = vec![entry.expect("weights", "out.weights", split_heads(&t.take("out.weights"), 1))];
    t.finish();
    AttentionCase::new(entry, options, inputs, expect)
}
