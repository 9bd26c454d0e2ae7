//! PyTorch: `nn.LSTM`, `nn.GRU`, `nn.RNN` (packed and projected too), `scaled_dot_product_attention`, and
//! the attention of Luong and Bahdanau written out (`SoftAttention`).

use regard::attention::{Attention, AttentionInputs, Causal, Mask, Score, ScoreStage};
use regard::rnn::{Activation, Activations, Cell, Reset, Rnn, RnnInputs, RnnStack, RnnWeights};
use regard::tensor::Array;

use super::{AttentionCase, Entry, RnnCase, SoftmaxCase, Tensors, entries, split_heads};

pub(super) fn attention() -> Vec<AttentionCase> {
    let sdpa = ["torch", "mha"].into_iter().flat_map(|folder| entries(folder, &["SDPA"])).map(|entry| sdpa(&entry));
    sdpa.chain(entries("torch", &["SoftAttention"]).iter().map(soft)).collect()
}

fn sdpa(entry: &Entry) -> AttentionCase {
    let mut t = entry.tensors();
    let mut inputs = AttentionInputs::new(t.take("in.q"), t.take("in.k"), t.take("in.v"));
    inputs.mask = match entry.attribute("mask").as_str() {
        Some("bool") => t.integers("in.mask").map(Mask::Bool),
        Some("float") => Some(Mask::Float(t.take("in.mask"))),
        _ => None,
    };
    let mut expect = vec![entry.expect("output", "out.y", t.take("out.y"))];
    expect.extend(t.get("out.lse").map(|lse| entry.expect("lse", "out.lse", lse)));
    let weights = t.get("out.weights");
    let options = Attention {
        scale: if entry.flag("scale_given") { entry.number("scale") } else { None },
        causal: entry.flag("causal").then_some(Causal::TopLeft),
        lse: expect.len() > 1,
        weights: weights.is_some(),
        ..Attention::default()
    };
    expect.extend(weights.map(|w| entry.expect("weights", "out.weights", w)));
    t.finish();
    AttentionCase::new(entry, options, inputs, expect)
}

/// [B, N, D], one head; the memory is key and value.
fn soft(entry: &Entry) -> AttentionCase {
    let mut t = entry.tensors();
    let head = |x: Array<f32>| split_heads(&x, 1);
    let memory = head(t.take("in.memory"));
    let mut inputs = AttentionInputs::new(head(t.take("in.query")), memory.clone(), memory);
    inputs.kv_lengths = t.integers("in.lengths");
    let score = match entry.attribute("score").as_str() {
        Some("dot") => Score::Dot,
        Some("general") => {
            inputs.score.weight = Some(t.take("w.query.weight").permute(&[1, 0]).unwrap());
            Score::General
        }
        _ => {
            inputs.score.query_weight = Some(t.take("w.query.weight"));
            inputs.score.key_weight = Some(t.take("w.key.weight"));
            inputs.score.bias = Some(t.take("w.bias"));
            inputs.score.v = Some(t.take("w.v"));
            Score::Additive
        }
    };
    let options = Attention { score, weights: true, scores: Some(ScoreStage::Masked), ..Attention::default() };
    let expect = [("output", "out.context"), ("weights", "out.weights"), ("scores", "out.scores")]
        .map(|(tensor, stored)| entry.expect(tensor, stored, head(t.take(stored))));
    t.finish();
    AttentionCase::new(entry, options, inputs, expect)
}

pub(super) fn rnn() -> Vec<RnnCase> {
    let all = ["torch", "lstm"].into_iter().flat_map(|folder| entries(folder, &["LSTM", "GRU", "RNN"]));
    all.map(|entry| rnn_case(&entry)).collect()
}

fn rnn_case(entry: &Entry) -> RnnCase {
    let mut t = entry.tensors();
    let mut options = Rnn::new(match entry.op.as_str() {
        "LSTM" => Cell::Lstm,
        "GRU" => Cell::Gru { reset: Reset::After },
        _ => Cell::Rnn,
    });
    if entry.attribute("gates").as_str() == Some("relu") {
        options.activations = Activations::all(Activation::Relu);
    }
    if entry.flag("bidirectional") {
        options = options.bidirectional();
    }
    let order = |x: Array<f32>| if entry.flag("batch_first") { x.permute(&[1, 0, 2]).unwrap() } else { x };
    let mut inputs = RnnInputs::new(order(t.take("in.x")));
    inputs.initial_h = t.get("in.h0");
    inputs.initial_c = t.get("in.c0");
    inputs.lengths = t.integers("in.lengths");
    let layers = entry.integer("layers").unwrap() as usize;
    let directions: &[&str] = if entry.flag("bidirectional") { &["", "_reverse"] } else { &[""] };
    let stack = (0..layers).map(|l| directions.iter().map(|d| weights(&mut t, &format!("l{l}{d}"))).collect());
    let stack: RnnStack<Array<f32>> = stack.collect();
    let mut expect = vec![entry.expect("output", "out.y", order(t.take("out.y")))];
    for (tensor, stored) in [("final_h", "out.hn"), ("final_c", "out.cn")] {
        expect.extend(t.get(stored).map(|want| entry.expect(tensor, stored, want)));
    }
    t.finish();
    RnnCase { name: entry.name.clone(), options, stack, inputs, expect }
}

fn weights(t: &mut Tensors, suffix: &str) -> RnnWeights<Array<f32>> {
    RnnWeights {
        bias_ih: t.get(&format!("w.bias_ih_{suffix}")),
        bias_hh: t.get(&format!("w.bias_hh_{suffix}")),
        weight_hr: t.get(&format!("w.weight_hr_{suffix}")),
        ..RnnWeights::new(t.take(&format!("w.weight_ih_{suffix}")), t.take(&format!("w.weight_hh_{suffix}")))
    }
}

pub(super) fn softmax() -> Vec<SoftmaxCase> {
    let both = |entry: &Entry| {
        let mut t = entry.tensors();
        let x = t.take("in.x");
        let axis = x.shape().len() - 1;
        let cases = [("Softmax", "out.y"), ("LogSoftmax", "out.log")].map(|(op, stored)| SoftmaxCase {
            name: entry.name.clone(),
            op: op.to_owned(),
            axis,
            x: x.clone(),
            expect: entry.expect("y", stored, t.take(stored)),
        });
        t.finish();
        cases
    };
    entries("torch", &["Softmax"]).iter().flat_map(both).collect()
}
