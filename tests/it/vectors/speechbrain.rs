//! SpeechBrain: `LocationAwareAttention` over the steps of a decoder.

use regard::attention::{Attention, AttentionInputs, Score};
use regard::reference::linear;
use regard::tensor::Array;

use super::{AttentionCase, Entry, entries, split_heads};

/// With the context as output, and with the layer behind it moved in front of the sum: the weights of a row sum to 1.
pub(super) fn attention() -> Vec<AttentionCase> {
    entries("speechbrain", &["LocationAwareAttention"]).iter().flat_map(cases).collect()
}

fn cases(entry: &Entry) -> [AttentionCase; 2] {
    let mut t = entry.tensors();
    let head = |x: Array<f32>| split_heads(&x, 1);
    let memory = head(t.take("in.memory"));
    let mut inputs = AttentionInputs::new(head(t.take("in.query")), memory.clone(), memory.clone());
    inputs.kv_lengths = t.integers("in.lengths");
    let weights = head(t.take("out.weights"));
    inputs.previous = Some(before(&t.take("in.previous"), &weights));

    let score = &mut inputs.score;
    score.key_weight = Some(t.take("w.mlp_enc.weight"));
    score.query_weight = Some(t.take("w.mlp_dec.weight"));
    score.location_weight = Some(t.take("w.mlp_loc.weight"));
    let filter = t.take("w.conv_loc.weight");
    let shape = [filter.shape()[0], filter.shape()[2]];
    score.location_filter = Some(filter.reshape(&shape).unwrap());
    let biases = ["w.mlp_enc.bias", "w.mlp_dec.bias", "w.mlp_loc.bias"].map(|name| t.take(name));
    let units = biases[0].shape()[0];
    score.bias = Some(Array::from_fn(&[units], |a| biases.iter().map(|bias| bias.data()[a]).sum()));
    score.v = Some(t.take("w.mlp_attn.weight").reshape(&[units]).unwrap());
    let scale = entry.number("scale");
    let options = Attention { score: Score::Location, scale, weights: true, ..Attention::default() };

    let layer = linear(&memory, &t.take("w.mlp_out.weight"), Some(&t.take("w.mlp_out.bias")), None).unwrap();
    let expect_weights = entry.expect("weights", "out.weights", weights);
    let out = [("out.context", memory), ("out.output", layer)].map(|(stored, value)| {
        let expect = [entry.expect("output", stored, head(t.take(stored))), expect_weights.clone()];
        AttentionCase::new(entry, options.clone(), AttentionInputs { value, ..inputs.clone() }, expect)
    });
    t.finish();
    out
}

/// The alignment before each step [B, 1, T, N]: the first one [B, N], then the weights [B, 1, T, N] of the step before.
fn before(first: &Array<f32>, weights: &Array<f32>) -> Array<f32> {
    let &[batch, _, steps, keys] = weights.shape() else { panic!("rank 4 expected") };
    Array::from_fn(&[batch, 1, steps, keys], |at| match at / keys % steps {
        0 => first.data()[at / (steps * keys) * keys + at % keys],
        _ => weights.data()[at - keys],
    })
}
