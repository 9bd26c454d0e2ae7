//! Every choice of wiring that a card may make, also those that no model here makes: small random models against a
//! scalar reading of the card in f64, one source at a time, which shares no code with the library.

use std::collections::HashMap;

use regard::seq2seq::{Decoding, Model, SourceText, transliterate};
use regard::store::{FloatType, save};
use regard::tensor::Array;
use serde_json::{Value, json};

use crate::golden::{Device, cpu, reference};
use crate::seq2seq::on_gpu;

type Tensors = HashMap<String, Vec<Vec<f64>>>;

/// Random weights in ±0.6, the same every time.
struct Random(u64);

impl Random {
    fn value(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 1.2
    }
}

/// A model of 7 source and 9 target tokens: what differs from a plain one is in `change`, and the shapes of its
/// further tensors in `more`.
fn build(change: Value, more: &[(&str, &[usize])]) -> (Model, Value, Tensors) {
    let cell = change["cell"].as_str().unwrap_or("gru");
    let get = |name: &str, default: u64| change[name].as_u64().unwrap_or(default) as usize;
    let (encoder_layers, decoder_layers) = (get("encoder_layers", 1), get("decoder_layers", 1));
    let (e, h, both) = (get("encoder_hidden", 6), 6, change["bidirectional"] == json!(true));
    let memory = if both { 2 * e } else { e };
    let input = get("decoder_input", 4);
    let mut card = json!({
        "name": "random", "kind": "seq2seq", "weights": {"file": "weights.safetensors"},
        "source": {"vocab": [null, "a", "b", "c", "d", "e", "f"], "build": ["{text}"], "unknown": "error"},
        "target": {"vocab": ["<s>", "</s>", "t", "u", "v", "w", "x", "y", "z"], "start": "<s>", "end": "</s>"},
        "encoder": {
            "embedding": {"weight": "se", "size": 7, "dim": 5},
            "rnn": {"prefix": "enc", "cell": cell, "layers": encoder_layers, "bidirectional": both, "input": 5, "hidden": e},
        },
        "bridge": {"kind": "zeros"},
        "attention": {"score": "dot", "when": "after_rnn", "query": {"source": "decoder_output"}, "key": {}, "mask": "source_length"},
        "decoder": {
            "embedding": {"weight": "te", "size": 9, "dim": 4},
            "rnn": {"prefix": "dec", "cell": cell, "layers": decoder_layers, "input": input, "hidden": h, "input_parts": ["token_embedding"]},
        },
        "output": {"input_parts": ["decoder_output", "context"], "weight": "out"},
        "decoding": {"default": "greedy", "beam_width": 1, "max_steps": 7},
    });
    for (pointer, value) in change["card"].as_object().unwrap() {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        card.pointer_mut(parent).unwrap()[name] = value.clone();
    }
    let gates = match cell {
        "lstm" => 4,
        "gru" => 3,
        _ => 1,
    };
    let output: usize = card["output"]["input_parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| match part.as_str().unwrap() {
            "context" => memory,
            "token_embedding" => 4,
            "combined" => 5,
            _ => h,
        })
        .sum();
    let mut shapes: Vec<(String, Vec<usize>)> =
        vec![("se".into(), vec![7, 5]), ("te".into(), vec![9, 4]), ("out".into(), vec![9, output])];
    for (prefix, layers, first, hidden, both) in
        [("enc", encoder_layers, 5, e, both), ("dec", decoder_layers, input, h, false)]
    {
        for layer in 0..layers {
            let input = if layer == 0 {
                first
            } else if both {
                2 * hidden
            } else {
                hidden
            };
            for suffix in if both { &["", "_reverse"][..] } else { &[""] } {
                for (name, shape) in [
                    ("weight_ih", vec![gates * hidden, input]),
                    ("weight_hh", vec![gates * hidden, hidden]),
                    ("bias_ih", vec![gates * hidden]),
                    ("bias_hh", vec![gates * hidden]),
                ] {
                    shapes.push((format!("{prefix}.{name}_l{layer}{suffix}"), shape));
                }
            }
        }
    }
    shapes.extend(more.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())));
    let mut random = Random(7);
    let arrays: Vec<(String, Array)> =
        shapes.into_iter().map(|(name, shape)| (name, Array::from_fn(&shape, |_| random.value()))).collect();
    let folder = tempfile::tempdir().unwrap();
    save(&folder.path().join("weights.safetensors"), arrays.iter().map(|(n, a)| (n.as_str(), a)), FloatType::F32)
        .unwrap();
    std::fs::write(folder.path().join("model.json"), card.to_string()).unwrap();
    let rows = |a: &Array| {
        a.data().chunks(*a.shape().last().unwrap()).map(|r| r.iter().map(|&v| v.into()).collect()).collect()
    };
    let tensors = arrays.iter().map(|(name, array)| (name.clone(), rows(array))).collect();
    (Model::from_folder(folder.path()).unwrap(), card, tensors)
}

/// The scalar reading.
struct Scalar<'a> {
    card: &'a Value,
    tensors: &'a Tensors,
}

/// h and, of an LSTM, c.
type State = (Vec<f64>, Vec<f64>);

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Scalar<'_> {
    fn dense(&self, layer: &Value, x: &[f64]) -> Vec<f64> {
        let weight = &self.tensors[layer["weight"].as_str().unwrap()];
        let mut y: Vec<f64> = weight.iter().map(|row| dot(row, x)).collect();
        if let Some(bias) = layer["bias"].as_str() {
            y.iter_mut().zip(&self.tensors[bias][0]).for_each(|(y, b)| *y += b);
        }
        match layer["activation"].as_str() {
            Some("tanh") => y.iter().map(|y| y.tanh()).collect(),
            _ => y,
        }
    }

    fn cell(&self, rnn: &Value, suffix: &str, x: &[f64], (h, c): &State) -> State {
        let tensor = |name: &str| &self.tensors[&format!("{}.{name}_{suffix}", rnn["prefix"].as_str().unwrap())];
        let n = h.len();
        let a: Vec<f64> = tensor("weight_ih").iter().zip(&tensor("bias_ih")[0]).map(|(w, b)| dot(w, x) + b).collect();
        let b: Vec<f64> = tensor("weight_hh").iter().zip(&tensor("bias_hh")[0]).map(|(w, b)| dot(w, h) + b).collect();
        let gate = |k: usize, i: usize| a[k * n + i] + b[k * n + i];
        (0..n)
            .map(|i| match rnn["cell"].as_str().unwrap() {
                "lstm" => {
                    let c = sigmoid(gate(1, i)) * c[i] + sigmoid(gate(0, i)) * gate(2, i).tanh();
                    (sigmoid(gate(3, i)) * c.tanh(), c)
                }
                "gru" => {
                    let (r, z) = (sigmoid(gate(0, i)), sigmoid(gate(1, i)));
                    ((1.0 - z) * (a[2 * n + i] + r * b[2 * n + i]).tanh() + z * h[i], 0.0)
                }
                _ => (gate(0, i).tanh(), 0.0),
            })
            .unzip()
    }

    /// The memory and the decoder's start state.
    fn encode(&self, ids: &[u32]) -> (Vec<Vec<f64>>, Vec<State>) {
        let (rnn, decoder) = (&self.card["encoder"]["rnn"], &self.card["decoder"]["rnn"]);
        let zero = |rnn: &Value| -> State {
            let n = rnn["hidden"].as_u64().unwrap() as usize;
            (vec![0.0; n], vec![0.0; n])
        };
        let mut x: Vec<Vec<f64>> = ids.iter().map(|&id| self.tensors["se"][id as usize].clone()).collect();
        let mut last: Vec<Vec<State>> = Vec::new();
        for layer in 0..rnn["layers"].as_u64().unwrap() {
            let mut out = vec![Vec::new(); x.len()];
            let mut states = Vec::new();
            let directions = if rnn["bidirectional"] == json!(true) { &["", "_reverse"][..] } else { &[""] };
            for direction in directions {
                let mut state = zero(rnn);
                let order: Vec<usize> =
                    if direction.is_empty() { (0..x.len()).collect() } else { (0..x.len()).rev().collect() };
                for t in order {
                    state = self.cell(rnn, &format!("l{layer}{direction}"), &x[t], &state);
                    out[t].extend(&state.0);
                }
                states.push(state);
            }
            last.push(states);
            x = out;
        }
        let projection = &self.card["encoder"]["projection"];
        let memory: Vec<Vec<f64>> =
            if projection.is_null() { x } else { x.iter().map(|x| self.dense(projection, x)).collect() };
        let layers = decoder["layers"].as_u64().unwrap() as usize;
        let top = &last[last.len().saturating_sub(layers)..];
        let start = match self.card["bridge"]["kind"].as_str().unwrap() {
            "zeros" => vec![zero(decoder); layers],
            "final_state" => top.iter().map(|s| s[0].clone()).collect(),
            "final_state_concat" => {
                top.iter().map(|s| ([&s[0].0[..], &s[1].0].concat(), [&s[0].1[..], &s[1].1].concat())).collect()
            }
            _ => {
                let mean: Vec<f64> = (0..memory[0].len())
                    .map(|d| memory.iter().map(|m| m[d]).sum::<f64>() / memory.len() as f64)
                    .collect();
                vec![(self.dense(&self.card["bridge"], &mean), zero(decoder).1); layers]
            }
        };
        (memory, start)
    }

    fn attend(&self, values: &mut HashMap<&'static str, Vec<f64>>, memory: &[Vec<f64>]) {
        let a = &self.card["attention"];
        let project = |layer: &Value, x: &[f64]| if layer.is_null() { x.to_vec() } else { self.dense(layer, x) };
        let query = project(&a["query"]["projection"], &values[a["query"]["source"].as_str().unwrap()]);
        let scores: Vec<f64> = memory
            .iter()
            .map(|m| {
                let key = project(&a["key"]["projection"], m);
                let score = match a["score"].as_str().unwrap() {
                    "additive" => {
                        let sum: Vec<f64> = query.iter().zip(&key).map(|(q, k)| (q + k).tanh()).collect();
                        dot(&sum, &self.tensors["v"][0])
                    }
                    _ => dot(&query, &key),
                };
                score * a["scale"].as_f64().unwrap_or(1.0)
            })
            .collect();
        let total: f64 = scores.iter().map(|s| s.exp()).sum();
        let weights: Vec<f64> = scores.iter().map(|s| s.exp() / total).collect();
        let context = (0..memory[0].len()).map(|d| memory.iter().zip(&weights).map(|(m, w)| m[d] * w).sum()).collect();
        values.insert("context", context);
        values.insert("weights", weights);
    }

    /// Greedy search: text, mean or sum of log-probabilities, attention weights.
    fn answer(&self, ids: &[u32]) -> (String, f64, Vec<f64>) {
        let (memory, mut states) = self.encode(ids);
        let rnn = &self.card["decoder"]["rnn"];
        let (mut token, mut text, mut sum, mut all) = (0, String::new(), 0.0, Vec::new());
        for _ in 0..self.card["decoding"]["max_steps"].as_u64().unwrap() {
            let mut values = HashMap::from([("token_embedding", self.tensors["te"][token].clone())]);
            values.insert("previous_hidden", states.last().unwrap().0.clone());
            let join = |values: &HashMap<&str, Vec<f64>>, parts: &Value| -> Vec<f64> {
                parts.as_array().unwrap().iter().flat_map(|p| values[p.as_str().unwrap()].clone()).collect()
            };
            let before = self.card["attention"]["when"] == json!("before_rnn");
            if before {
                self.attend(&mut values, &memory);
            }
            let mut x = join(&values, &rnn["input_parts"]);
            for (layer, state) in states.iter_mut().enumerate() {
                if rnn["state"] == json!("zeros_each_step") {
                    *state = (vec![0.0; state.0.len()], vec![0.0; state.1.len()]);
                }
                *state = self.cell(rnn, &format!("l{layer}"), &x, state);
                x = state.0.clone();
            }
            values.insert("decoder_output", x);
            if !before {
                self.attend(&mut values, &memory);
            }
            let combine = &self.card["attention"]["combine"];
            if !combine.is_null() {
                let combined = self.dense(combine, &join(&values, &combine["input_parts"]));
                values.insert("combined", combined);
            }
            let logits = self.dense(&self.card["output"], &join(&values, &self.card["output"]["input_parts"]));
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            sum += logits[best] - logits.iter().map(|l| l.exp()).sum::<f64>().ln();
            all.extend(&values["weights"]);
            token = best;
            if token == 1 {
                break;
            }
            text.push_str(self.card["target"]["vocab"][token].as_str().unwrap());
        }
        (text, sum, all)
    }
}

/// Each wiring: the library's answers, batched, are those of the scalar reading.
fn every_wiring(device: Device) {
    let attend_first = |source: &str| {
        json!({"/attention/when": "before_rnn", "/attention/query/source": source,
               "/decoder/rnn/input_parts": ["context", "token_embedding"]})
    };
    let with = |mut card: Value, more: Value| {
        card.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        card
    };
    let additive = json!({"/attention/score": "additive", "/attention/v": "v",
        "/attention/query/projection": {"weight": "q", "bias": "qb"}, "/attention/key/projection": {"weight": "k"}});
    type Case<'a> = (&'a str, Value, Vec<(&'a str, &'a [usize])>);
    let cases: Vec<Case> = vec![
        ("dot, zeros, GRU", json!({"card": {}}), vec![]),
        ("simple recurrence, scale", json!({"cell": "rnn", "card": {"/attention/scale": 0.25}}), vec![]),
        ("LSTM, final state", json!({"cell": "lstm", "card": {"/bridge": {"kind": "final_state"}}}), vec![]),
        (
            "LSTM, final state, last two of three layers",
            json!({"cell": "lstm", "encoder_layers": 3, "decoder_layers": 2, "card": {"/bridge": {"kind": "final_state"}}}),
            vec![],
        ),
        (
            "LSTM, both directions, two layers, joined state",
            json!({"cell": "lstm", "encoder_hidden": 3, "bidirectional": true, "encoder_layers": 2, "decoder_layers": 2,
                   "card": {"/bridge": {"kind": "final_state_concat"}}}),
            vec![],
        ),
        (
            "mean of the memory, two layers",
            json!({"decoder_layers": 2, "card": {"/bridge": {"kind": "mean_linear", "weight": "b", "bias": "bb", "activation": "tanh"}}}),
            vec![("b", &[6, 6]), ("bb", &[6])],
        ),
        (
            "Bahdanau: additive, query from the previous state",
            json!({"decoder_input": 10, "card": with(attend_first("previous_hidden"), additive.clone())}),
            vec![("q", &[8, 6]), ("qb", &[8]), ("k", &[8, 6]), ("v", &[8])],
        ),
        (
            "the same, two layers, final state",
            json!({"decoder_input": 10, "encoder_layers": 2, "decoder_layers": 2,
                   "card": with(attend_first("previous_hidden"), with(additive, json!({"/bridge": {"kind": "final_state"}})))}),
            vec![("q", &[8, 6]), ("qb", &[8]), ("k", &[8, 6]), ("v", &[8])],
        ),
        (
            "query from the token, after the recurrence",
            json!({"card": {"/attention/query": {"source": "token_embedding", "projection": {"weight": "q"}},
                            "/attention/score": "general"}}),
            vec![("q", &[6, 4])],
        ),
        (
            "general, W on the query with a bias",
            json!({"encoder_hidden": 3, "card": {"/attention/score": "general",
                   "/attention/query": {"source": "decoder_output", "projection": {"weight": "q", "bias": "qb"}}}}),
            vec![("q", &[3, 6]), ("qb", &[3])],
        ),
        (
            "general, W on the keys",
            json!({"encoder_hidden": 3, "card": {"/attention/score": "general",
                   "/attention/key": {"projection": {"weight": "k"}}}}),
            vec![("k", &[6, 3])],
        ),
        (
            "general, W on the keys with a bias, both directions",
            json!({"encoder_hidden": 4, "bidirectional": true, "card": {"/attention/score": "general",
                   "/attention/key": {"projection": {"weight": "k", "bias": "kb"}}}}),
            vec![("k", &[6, 8]), ("kb", &[6])],
        ),
        (
            "general, a projection on either side",
            json!({"encoder_hidden": 3, "card": {"/attention/score": "general",
                   "/attention/query": {"source": "decoder_output", "projection": {"weight": "q", "bias": "qb"}},
                   "/attention/key": {"projection": {"weight": "k", "bias": "kb"}}}}),
            vec![("q", &[5, 6]), ("qb", &[5]), ("k", &[5, 3]), ("kb", &[5])],
        ),
        (
            "query from the previous state, after the recurrence",
            json!({"card": {"/attention/query/source": "previous_hidden", "/output/input_parts": ["previous_hidden", "context", "token_embedding"]}}),
            vec![],
        ),
        (
            "state zeroed at each step",
            json!({"decoder_input": 10, "card": with(attend_first("previous_hidden"), json!({"/decoder/rnn/state": "zeros_each_step"}))}),
            vec![],
        ),
        (
            "projection and combine",
            json!({"bidirectional": true, "encoder_hidden": 3, "card": {
                "/encoder/projection": {"weight": "p", "bias": "pb", "activation": "tanh", "out": 6},
                "/attention/combine": {"input_parts": ["context", "decoder_output", "token_embedding"], "weight": "c", "activation": "tanh"},
                "/output/input_parts": ["combined", "context"]}}),
            vec![("p", &[6, 6]), ("pb", &[6]), ("c", &[5, 16])],
        ),
    ];
    let texts = ["a", "fedcba", "bad", "cafe", "ff"];
    let mut answers = std::collections::BTreeSet::new();
    for (what, change, more) in cases {
        let (model, card, tensors) = build(change, &more);
        let scalar = Scalar { card: &card, tensors: &tensors };
        let sources: Vec<SourceText> = texts.into_iter().map(SourceText::from).collect();
        let decoding = Decoding { weights: true, ..Decoding::default() };
        for found in transliterate(&model, &mut *device(&model), &sources, &decoding).unwrap() {
            let ids: Vec<u32> = found.input.bytes().map(|b| u32::from(b - b'a' + 1)).collect();
            let (text, score, weights) = scalar.answer(&ids);
            assert_eq!(found.output, text, "{what}: {}", found.input);
            assert!((f64::from(found.score) - score).abs() < 1e-4, "{what}: {} against {score}", found.score);
            let found = found.weights.unwrap();
            assert_eq!(found.data().len(), weights.len(), "{what}");
            let worst = found.data().iter().zip(&weights).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-5, "{what}: weights differ by {worst}");
            answers.insert((text, format!("{score:.3}")));
        }
    }
    // Random models that all said the same would compare nothing.
    assert!(answers.len() > 40, "{answers:?}");
}

#[test]
fn every_wiring_by_the_reference() {
    every_wiring(reference);
}

#[test]
fn every_wiring_on_the_cpu() {
    every_wiring(cpu);
}

#[test]
fn every_wiring_on_the_gpu() {
    every_wiring(on_gpu);
}

#[test]
fn padding_that_a_model_does_not_read_changes_nothing() {
    let bidirectional = |card: Value| json!({"encoder_hidden": 3, "bidirectional": true, "card": card});
    let mean = json!({"kind": "mean_linear", "weight": "b"});
    let (plain, ..) = build(bidirectional(json!({"/bridge": mean})), &[("b", &[6, 6])]);
    let (padded, ..) = build(bidirectional(json!({"/bridge": mean, "/source/pad_to": 9})), &[("b", &[6, 6])]);
    let decoding = Decoding { weights: true, ..Decoding::default() };
    let sources: Vec<SourceText> = ["fedcba", "bad"].into_iter().map(SourceText::from).collect();
    let answer = |model: &Model| transliterate(model, &mut *cpu(model), &sources, &decoding).unwrap();
    for (a, b) in answer(&plain).into_iter().zip(answer(&padded)) {
        assert_eq!((&a.output, &a.candidates), (&b.output, &b.candidates));
        assert_eq!(b.source_labels.len(), 9);
        let (n, a, b) = (a.source_labels.len(), a.weights.unwrap(), b.weights.unwrap());
        for (a, b) in a.data().chunks_exact(n).zip(b.data().chunks_exact(9)) {
            assert_eq!((a, &[0.0; 9][n..]), (&b[..n], &b[n..]));
        }
    }
}

#[test]
fn words_of_a_text_that_is_split_are_answered_one_by_one() {
    let (model, ..) = build(json!({"card": {"/source/prepare": ["lowercase", "split_spaces"]}}), &[]);
    let decoding = Decoding { beam: 3, top: 4, weights: true, ..Decoding::default() };
    let answer = |text: &str| transliterate(&model, &mut *cpu(&model), &[text.into()], &decoding).unwrap().remove(0);
    let (both, first, second) = (answer("  FED  abc "), answer("fed"), answer("abc"));
    assert_eq!(both.output, format!("{} {}", first.output, second.output));
    assert!((both.score - first.score - second.score).abs() < 1e-5);
    assert_eq!(both.candidates.len(), 4);
    assert!(both.candidates.windows(2).all(|pair| pair[0].score >= pair[1].score));
    assert_eq!(both.source_labels.concat(), "fedabc");
    assert_eq!(both.target_labels, [first.target_labels, second.target_labels].concat());
    let (all, first, second) = (both.weights.unwrap(), first.weights.unwrap(), second.weights.unwrap());
    assert_eq!(all.shape(), [first.shape()[0] + second.shape()[0], 6]);
    for (row, all) in all.data().chunks_exact(6).enumerate() {
        let (block, start) = match row.checked_sub(first.shape()[0]) {
            None => (&first.data()[row * 3..][..3], 0),
            Some(row) => (&second.data()[row * 3..][..3], 3),
        };
        for (column, &weight) in all.iter().enumerate() {
            let wanted = if (start..start + 3).contains(&column) { block[column - start] } else { 0.0 };
            assert!((weight - wanted).abs() < 1e-5, "{row} {column}");
        }
    }
}

#[test]
fn characters_that_a_card_refuses_are_errors() {
    let (model, ..) = build(json!({"card": {}}), &[]);
    let error = transliterate(&model, &mut *cpu(&model), &["abxc".into()], &Decoding::default()).unwrap_err();
    assert_eq!(error.to_string(), "text `abxc`: `x` (U+0078) is not among the symbols of model `random`");
    let (model, ..) = build(json!({"card": {"/source/max_length": 4, "/source/too_long": "error"}}), &[]);
    assert!(model.read(&"abcd".into()).is_ok());
    let error = model.read(&"abcde".into()).unwrap_err();
    assert_eq!(error.to_string(), "text `abcde`: 5 characters, the model reads 4");
}
