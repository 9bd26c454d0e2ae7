//! TensorFlow Addons: `monotonic_attention`, and the mechanisms `BahdanauAttention`, `LuongAttention` and their
//! monotonic forms.

use regard::attention::{Attention, AttentionInputs, Mask, Monotonic, Normalize, Score};
use regard::tensor::Array;

use super::{AttentionCase, Entry, entries, of_scores, split_heads};

pub(super) fn attention() -> Vec<AttentionCase> {
    let mechanisms = ["BahdanauAttention", "LuongAttention", "BahdanauMonotonicAttention", "LuongMonotonicAttention"];
    let scores = entries("tfa", &["monotonic_attention"]);
    scores.iter().map(monotonic).chain(entries("tfa", &mechanisms).iter().map(mechanism)).collect()
}

fn form(entry: &Entry) -> Monotonic {
    match entry.attribute("mode").as_str() {
        Some("parallel") => Monotonic::Parallel,
        Some("recursive") => Monotonic::Recursive,
        Some("hard") => Monotonic::Hard,
        other => panic!("{}: mode {other:?}", entry.name),
    }
}

/// Scores [B, T, N] and the alignment before [B, N].
fn monotonic(entry: &Entry) -> AttentionCase {
    let mut t = entry.tensors();
    let mut inputs = of_scores(t.take("in.scores"));
    inputs.previous = t.get("in.previous").map(|previous| {
        let &[batch, keys] = previous.shape() else { panic!("rank 2 expected") };
        previous.reshape(&[batch, 1, 1, keys]).unwrap()
    });
    let options = Attention { normalize: Normalize::Monotonic(form(entry)), weights: true, ..Attention::default() };
    let expect = vec![entry.expect("weights", "out.weights", split_heads(&t.take("out.weights"), 1))];
    t.finish();
    AttentionCase::new(entry, options, inputs, expect)
}

/// [B, T, ·] and [B, N, ·], one head; the memory is key and value, its layer and the query's the score function's.
fn mechanism(entry: &Entry) -> AttentionCase {
    let mut t = entry.tensors();
    let head = |x: Array<f32>| split_heads(&x, 1);
    let memory = head(t.take("in.memory"));
    let mut inputs = AttentionInputs::new(head(t.take("in.query")), memory.clone(), memory);
    inputs.kv_lengths = t.integers("in.lengths");
    let transposed = |kernel: Array<f32>| kernel.permute(&[1, 0]).unwrap();
    let mut options = Attention { weights: true, ..Attention::default() };
    let memory_weight = transposed(t.take("w.memory_layer.kernel"));
    if entry.op.starts_with("Bahdanau") {
        options.score = Score::Additive;
        inputs.score.key_weight = Some(memory_weight);
        inputs.score.query_weight = Some(transposed(t.take("w.query_layer.kernel")));
        inputs.score.v = Some(t.take("w.attention_v"));
        inputs.score.g = t.get("w.attention_g");
        inputs.score.bias = t.get("w.attention_b");
    } else {
        // q · (memory · kernel)
        options.score = Score::General;
        inputs.score.weight = Some(memory_weight);
        options.scale = t.get("w.attention_g").map(|g| g.data()[0]);
    }
    inputs.mask = t.get("w.attention_score_bias").map(Mask::Float);
    if entry.op.contains("Monotonic") {
        options.normalize = Normalize::Monotonic(form(entry));
    } else if entry.attribute("probability_fn").as_str() == Some("hardmax") {
        options.normalize = Normalize::Hardmax;
    }
    let expect = [("output", "out.context"), ("weights", "out.weights")]
        .map(|(tensor, stored)| entry.expect(tensor, stored, head(t.take(stored))));
    t.finish();
    AttentionCase::new(entry, options, inputs, expect)
}
