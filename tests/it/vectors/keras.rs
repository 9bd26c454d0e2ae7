//! Keras: `LSTM`, `GRU`, `SimpleRNN`, `Attention`, `AdditiveAttention`.

use regard::attention::{Attention, AttentionInputs, Causal, Mask, Score};
use regard::rnn::{Cell, Direction, Reset, Rnn, RnnInputs, RnnWeights};
use regard::tensor::Array;

use super::{AttentionCase, Entry, RnnCase, Tensors, entries, lift_mask, split_heads};

pub(super) fn attention() -> Vec<AttentionCase> {
    entries("keras", &["Attention", "AdditiveAttention"]).iter().map(attention_case).collect()
}

/// [B, N, D], one head.
fn attention_case(entry: &Entry) -> AttentionCase {
    let mut t = entry.tensors();
    let head = |x: Array<f32>| split_heads(&x, 1);
    let mut inputs = AttentionInputs::new(head(t.take("in.q")), head(t.take("in.k")), head(t.take("in.v")));
    inputs.mask = t.integers("in.v_mask").map(|mask| Mask::Bool(lift_mask(mask)));
    let dim = inputs.query.shape()[3];
    let mut options = Attention {
        causal: entry.flag("causal").then_some(Causal::TopLeft),
        weights: true,
        score: Score::Additive,
        ..Attention::default()
    };
    match entry.attribute("score").as_str() {
        Some("dot") => {
            options.score = Score::Dot;
            options.scale = t.get("w.scale").map(|scale| scale.data()[0]);
        }
        // Σ_d scale_d · tanh(q_d + k_d)
        Some("additive") => inputs.score.v = t.get("w.scale"),
        // weight · Σ_d tanh(scale · (q_d + k_d)): an additive score whose matrices are scale · 1
        _ => {
            inputs.score.v = Some(Array::filled(&[dim], t.take("w.concat_score_weight").data()[0]));
            let diagonal = |x: f32| Array::from_fn(&[dim, dim], |k| if k % (dim + 1) == 0 { x } else { 0.0 });
            inputs.score.query_weight = t.get("w.scale").map(|scale| diagonal(scale.data()[0]));
            inputs.score.key_weight = inputs.score.query_weight.clone();
        }
    }
    let expect = [("output", "out.y"), ("weights", "out.weights")]
        .map(|(tensor, stored)| entry.expect(tensor, stored, head(t.take(stored))));
    t.finish();
    AttentionCase::new(entry, options, inputs, expect)
}

pub(super) fn rnn() -> Vec<RnnCase> {
    entries("keras", &["LSTM", "GRU", "SimpleRNN"]).iter().map(rnn_case).collect()
}

fn rnn_case(entry: &Entry) -> RnnCase {
    let mut t = entry.tensors();
    let cell = match entry.op.as_str() {
        "LSTM" => Cell::Lstm,
        "GRU" if entry.flag("reset_after") => Cell::Gru { reset: Reset::After },
        "GRU" => Cell::Gru { reset: Reset::Before },
        _ => Cell::Rnn,
    };
    let mut options = Rnn::new(cell);
    let bidirectional = entry.flag("bidirectional");
    if bidirectional {
        options = options.bidirectional();
    }
    let backwards = entry.flag("go_backwards");
    if backwards {
        options.direction = Direction::Reverse;
    }
    let prefixes: &[&str] = if bidirectional { &["forward.", "backward."] } else { &[""] };
    let mut weights = |prefix: &&str| {
        let [kernel, recurrent, bias] =
            ["kernel", "recurrent_kernel", "bias"].map(|stem| t.take(&format!("w.{prefix}{stem}")));
        RnnWeights::from_keras(cell, &kernel, &recurrent, Some(&bias)).unwrap()
    };
    let stack = vec![prefixes.iter().map(&mut weights).collect::<Vec<_>>()];

    // [B, T, ·] with a mask: a masked step keeps the state, so leaving it out is the same, and lengths say the rest.
    let x = t.take("in.x");
    let (batch, steps) = (x.shape()[0], x.shape()[1]);
    let mask = t.integers("in.mask");
    let valid = |b: usize| -> Vec<usize> {
        (0..steps).filter(|&s| mask.as_ref().is_none_or(|mask| mask.data()[b * steps + s] != 0)).collect()
    };
    let pack = |x: Array<f32>, backwards: bool| -> Array<f32> {
        let width = x.shape()[2];
        let mut out = Array::filled(&[steps, batch, width], 0.0);
        for b in 0..batch {
            for (place, step) in valid(b).into_iter().enumerate() {
                let place = if backwards { steps - 1 - place } else { place };
                let row = &x.data()[(b * steps + step) * width..][..width];
                out.data_mut()[(place * batch + b) * width..][..width].copy_from_slice(row);
            }
        }
        out
    };
    let mut inputs = RnnInputs::new(pack(x, false));
    inputs.lengths = mask.as_ref().map(|_| Array::from_fn(&[batch], |b| valid(b).len() as u32));
    // h, or h and c, of each direction, one after the other
    let kinds = if cell == Cell::Lstm { 2 } else { 1 };
    let states = |t: &mut Tensors, folder: &str, kind: usize| -> Option<Array<f32>> {
        let each = (0..prefixes.len()).map(|d| t.get(&format!("{folder}.state{}", d * kinds + kind)));
        let each = each.collect::<Option<Vec<_>>>()?;
        let shape = [each.len(), batch, each[0].shape()[1]];
        Some(Array::new(&shape, each.into_iter().flat_map(Array::into_data).collect()).unwrap())
    };
    inputs.initial_h = states(&mut t, "in", 0);
    // Keras gives back the steps in the order it went through them.
    let mut expect = vec![entry.expect("output", "out.y", pack(t.take("out.y"), backwards))];
    expect.extend(states(&mut t, "out", 0).map(|h| entry.expect("final_h", "out.state0", h)));
    if cell == Cell::Lstm {
        inputs.initial_c = states(&mut t, "in", 1);
        expect.extend(states(&mut t, "out", 1).map(|c| entry.expect("final_c", "out.state1", c)));
    }
    t.finish();
    RnnCase { name: entry.name.clone(), options, stack, inputs, expect }
}
