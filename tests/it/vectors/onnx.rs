//! ONNX node tests: `Attention` 23 to 25, `FlexAttention` (preview), `RotaryEmbedding` 23, `TensorScatter` 24, `LSTM`, `GRU`, `RNN` 22, `Softmax`, `LogSoftmax`, `Hardmax` 13.

use std::sync::Arc;

use regard::attention::{
    Attention, AttentionInputs, Causal, Mask, Past, Rotary, RotaryLayout, ScoreMod, ScoreStage, Window,
};
use regard::rnn::{OnnxAttributes, OnnxWeights, RnnInputs, onnx_stack};
use regard::tensor::{Array, DType};

use super::{
    AppendCase, AttentionCase, Entry, Expect, RnnCase, RotaryCase, SoftmaxCase, Tensors, entries, split_heads,
};

/// The tolerance that the case asks for. ONNX computes its bf16 cases in bf16 throughout, so their weights and outputs
/// each carry a rounding, larger than that tolerance, that sums in f32 do not have (see `tests/vectors/README.md`).
fn expect(entry: &Entry, output: usize, tensor: &'static str, want: Array<f32>) -> Expect {
    let rounding = match entry.json["outputs"][output]["dtype"].as_str() {
        Some("bfloat16") => f64::from(half::bf16::EPSILON.to_f32()),
        _ => 0.0,
    };
    let number = |name: &str| entry.json[name].as_f64().unwrap();
    Expect { tensor, want, rtol: number("rtol") + 2.0 * rounding, atol: number("atol") }
}

fn storage(entry: &Entry) -> DType {
    if entry.json["inputs"][0]["dtype"].as_str() == Some("float16") { DType::F16 } else { DType::F32 }
}

/// Fails on an attribute that the mapping does not know.
fn only(entry: &Entry, known: &[&str]) {
    for name in entry.json["attributes"].as_object().unwrap().keys() {
        assert!(known.contains(&name.as_str()), "{}: attribute {name}", entry.name);
    }
}

fn input(entry: &Entry, t: &mut Tensors, position: usize) -> Option<Array<f32>> {
    t.get(&format!("in.{position}.{}", entry.json["inputs"][position]["name"].as_str()?))
}

/// As [`input`], of integers or bools.
fn integers(entry: &Entry, t: &mut Tensors, position: usize) -> Option<Array<u32>> {
    t.integers(&format!("in.{position}.{}", entry.json["inputs"][position]["name"].as_str()?))
}

fn output(entry: &Entry, t: &mut Tensors, position: usize) -> Option<Array<f32>> {
    t.get(&format!("out.{position}.{}", entry.json["outputs"][position]["name"].as_str()?))
}

pub(super) fn attention() -> Vec<AttentionCase> {
    let flex = entries("onnx", &["FlexAttention"]);
    entries("onnx", &["Attention"]).iter().map(attention_case).chain(flex.iter().map(flex_case)).collect()
}

/// A graph over the scores is the option, or the function of one score, that says the same.
fn flex_case(entry: &Entry) -> AttentionCase {
    only(entry, &["scale", "score_mod"]);
    let mut t = entry.tensors();
    let [q, k, v] = [0, 1, 2].map(|position| input(entry, &mut t, position).unwrap());
    let mut options = Attention { scale: entry.number("scale"), ..Attention::default() };
    let score_mod = |wgsl: &str, reference: fn(f64, usize, usize, usize, usize) -> f64| {
        let signature = "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32";
        let wgsl = format!("{signature} {{\n    return {wgsl};\n}}\n");
        Some(ScoreMod::new(wgsl, Some(Arc::new(reference))))
    };
    let graph = entry.attribute("score_mod")["text"].as_str().map(|text| text.split(' ').next().unwrap());
    match graph {
        None => {}
        Some("score_mod_causal_mask") => options.causal = Some(Causal::TopLeft),
        Some("score_mod_soft_cap") => options.softcap = Some(20.0),
        Some("score_mod_bias") => options.score_mod = score_mod("score + 0.5", |score, _, _, _, _| score + 0.5),
        Some("score_mod_relative_positional") => {
            options.score_mod = score_mod("score + f32(i) - f32(j)", |score, _, _, i, j| score + i as f64 - j as f64);
        }
        Some(other) => panic!("{}: graph {other}", entry.name),
    }
    let wanted = vec![expect(entry, 0, "output", output(entry, &mut t, 0).unwrap())];
    t.finish();
    let inputs = AttentionInputs::new(q, k, v);
    AttentionCase { storage: storage(entry), ..AttentionCase::new(entry, options, inputs, wanted) }
}

pub(super) fn rotary() -> Vec<RotaryCase> {
    entries("onnx", &["RotaryEmbedding"]).iter().map(rotary_case).collect()
}

fn rotary_case(entry: &Entry) -> RotaryCase {
    only(entry, &["interleaved", "num_heads", "rotary_embedding_dim"]);
    let mut t = entry.tensors();
    let heads = entry.integer("num_heads").map(|heads| heads as usize);
    let packed = |x: Array<f32>| if x.shape().len() == 3 { split_heads(&x, heads.unwrap()) } else { x };
    let x = packed(input(entry, &mut t, 0).unwrap());
    let mut tables = [1, 2].map(|position| input(entry, &mut t, position).unwrap());
    let mut positions = if entry.json["inputs"][3].is_null() { None } else { integers(entry, &mut t, 3) };
    // Without positions the tables are [B, N, width / 2]: a row for each token.
    if let &[batch, n, pairs] = tables[0].shape() {
        tables = tables.map(|table| table.reshape(&[batch * n, pairs]).unwrap());
        positions = Some(Array::from_fn(&[batch, n], |k| k as u32));
    }
    if let Some(width) = entry.integer("rotary_embedding_dim") {
        assert_eq!(tables[0].shape()[1], width as usize / 2, "{}", entry.name);
    }
    let layout = if entry.flag("interleaved") { RotaryLayout::Interleaved } else { RotaryLayout::HalfSplit };
    let wanted = expect(entry, 0, "turned", packed(output(entry, &mut t, 0).unwrap()));
    t.finish();
    RotaryCase { name: entry.name.clone(), x, tables, positions, rotary: Rotary { layout, offset: 0 }, expect: wanted }
}

pub(super) fn append() -> Vec<AppendCase> {
    entries("onnx", &["TensorScatter"]).iter().map(append_case).collect()
}

fn append_case(entry: &Entry) -> AppendCase {
    only(entry, &["mode"]);
    let mut t = entry.tensors();
    // [B, C, D] is one head.
    let heads = |x: Array<f32>| match *x.shape() {
        [batch, rows, dim] => x.reshape(&[batch, 1, rows, dim]).unwrap(),
        _ => x,
    };
    let [cache, rows] = [0, 1].map(|position| heads(input(entry, &mut t, position).unwrap()));
    let starts = input(entry, &mut t, 2).unwrap().data().iter().map(|&start| start as usize).collect();
    let wrap = entry.attribute("mode").as_str() == Some("circular");
    let wanted = expect(entry, 0, "present_cache", heads(output(entry, &mut t, 0).unwrap()));
    t.finish();
    AppendCase { name: entry.name.clone(), cache, rows, starts, wrap, expect: wanted }
}

fn attention_case(entry: &Entry) -> AttentionCase {
    only(
        entry,
        &[
            "is_causal",
            "kv_num_heads",
            "left_window_size",
            "q_num_heads",
            "qk_matmul_output_mode",
            "right_window_size",
            "scale",
            "softcap",
            // The sums here are never narrower than f32.
            "softmax_precision",
        ],
    );
    let mut t = entry.tensors();
    let packed = |x: Array<f32>, heads: &str| match x.shape().len() {
        3 => split_heads(&x, entry.integer(heads).unwrap() as usize),
        _ => x,
    };
    let [q, k, v] = [0, 1, 2].map(|position| input(entry, &mut t, position).unwrap());
    let mut inputs =
        AttentionInputs::new(packed(q, "q_num_heads"), packed(k, "kv_num_heads"), packed(v, "kv_num_heads"));
    let is_bool = entry.json["inputs"][3]["dtype"].as_str() == Some("bool");
    inputs.mask = match is_bool {
        true => integers(entry, &mut t, 3).map(Mask::Bool),
        false => input(entry, &mut t, 3).map(Mask::Float),
    };
    let past = input(entry, &mut t, 4).zip(input(entry, &mut t, 5));
    inputs.past = past.map(|(key, value)| Past { key, value });
    inputs.kv_lengths = integers(entry, &mut t, 6);

    let side = |name: &str| entry.integer(name).and_then(|n| u32::try_from(n).ok());
    let window = Window::new(side("left_window_size"), side("right_window_size"));
    let mut options = Attention {
        scale: entry.number("scale"),
        softcap: entry.number("softcap").filter(|&cap| cap != 0.0),
        causal: entry.flag("is_causal").then_some(Causal::TopLeft),
        window: Some(window).filter(|&window| window != Window::default()),
        ..Attention::default()
    };
    let mut wanted = vec![expect(entry, 0, "output", packed(output(entry, &mut t, 0).unwrap(), "q_num_heads"))];
    for (position, tensor) in [(1, "present_key"), (2, "present_value")] {
        wanted.extend(output(entry, &mut t, position).map(|want| expect(entry, position, tensor, want)));
    }
    if let Some(want) = output(entry, &mut t, 3) {
        options.scores = match entry.integer("qk_matmul_output_mode").unwrap_or(0) {
            0 => Some(ScoreStage::Raw),
            1 => Some(ScoreStage::Capped),
            2 => Some(ScoreStage::Masked),
            _ => None,
        };
        options.weights = options.scores.is_none();
        wanted.push(expect(entry, 3, if options.weights { "weights" } else { "scores" }, want));
    }
    t.finish();
    AttentionCase { storage: storage(entry), ..AttentionCase::new(entry, options, inputs, wanted) }
}

pub(super) fn rnn() -> Vec<RnnCase> {
    entries("onnx", &["LSTM", "GRU", "RNN"]).iter().map(rnn_case).collect()
}

fn rnn_case(entry: &Entry) -> RnnCase {
    let mut t = entry.tensors();
    // Layout 1 is batch first: [B, T, I], [B, dirs, H] and [B, T, dirs, H].
    let batch_first = entry.flag("layout");
    let order = |x: Array<f32>, order: &[usize]| if batch_first { x.permute(order).unwrap() } else { x };
    let mut inputs = RnnInputs::new(order(input(entry, &mut t, 0).unwrap(), &[1, 0, 2]));
    let [w, r, b] = [1, 2, 3].map(|position| input(entry, &mut t, position));
    inputs.lengths = integers(entry, &mut t, 4);
    inputs.initial_h = input(entry, &mut t, 5).map(|h| order(h, &[1, 0, 2]));
    inputs.initial_c = input(entry, &mut t, 6).map(|c| order(c, &[1, 0, 2]));
    let weights = OnnxWeights { w: w.unwrap(), r: r.unwrap(), b, p: input(entry, &mut t, 7) };
    let (options, stack) = onnx_stack(&entry.op, &node_attributes(entry), &weights).unwrap();

    let mut wanted = Vec::new();
    if let Some(y) = output(entry, &mut t, 0) {
        // to [T, dirs, B, H]
        wanted.push(expect(entry, 0, "output", directions_last(order(y, &[1, 2, 0, 3]))));
    }
    for (position, tensor) in [(1, "final_h"), (2, "final_c")] {
        let state = output(entry, &mut t, position).map(|state| order(state, &[1, 0, 2]));
        wanted.extend(state.map(|want| expect(entry, position, tensor, want)));
    }
    t.finish();
    RnnCase { name: entry.name.clone(), options, stack, inputs, expect: wanted }
}

/// The attributes of a recurrent node; fails on one that the mapping does not know.
pub(super) fn node_attributes(entry: &Entry) -> OnnxAttributes<'_> {
    let own = ["opset", "layout", "direction", "hidden_size", "clip", "input_forget", "linear_before_reset"];
    let lists = ["activations", "activation_alpha", "activation_beta"];
    only(entry, &[&own[..], &lists[..]].concat());
    let list = |name: &str| entry.attribute(name).as_array().map(Vec::as_slice).unwrap_or_default();
    let numbers = |name: &str| list(name).iter().map(|x| x.as_f64().unwrap() as f32).collect();
    OnnxAttributes {
        direction: entry.attribute("direction").as_str(),
        hidden_size: entry.integer("hidden_size").map(|n| n as usize),
        activations: list("activations").iter().map(|name| name.as_str().unwrap()).collect(),
        activation_alpha: numbers("activation_alpha"),
        activation_beta: numbers("activation_beta"),
        clip: entry.number("clip"),
        input_forget: entry.flag("input_forget"),
        linear_before_reset: entry.flag("linear_before_reset"),
    }
}

/// `Y` [T, dirs, B, H] as [T, B, dirs·H].
pub(super) fn directions_last(y: Array<f32>) -> Array<f32> {
    let &[steps, directions, batch, units] = y.shape() else { panic!("rank 4 expected") };
    y.permute(&[0, 2, 1, 3]).unwrap().reshape(&[steps, batch, directions * units]).unwrap()
}

pub(super) fn softmax() -> Vec<SoftmaxCase> {
    entries("onnx", &["Softmax", "LogSoftmax", "Hardmax"]).iter().map(softmax_case).collect()
}

fn softmax_case(entry: &Entry) -> SoftmaxCase {
    only(entry, &["axis"]);
    let mut t = entry.tensors();
    let x = input(entry, &mut t, 0).unwrap();
    let axis = entry.integer("axis").unwrap_or(-1).rem_euclid(x.shape().len() as i64) as usize;
    let want = expect(entry, 0, "y", output(entry, &mut t, 0).unwrap());
    t.finish();
    SoftmaxCase { name: entry.name.clone(), op: entry.op.clone(), axis, x, expect: want }
}
