//! Hugging Face transformers: rotary embeddings of LLaMA, GPT-NeoX and GPT-J, their tables, and GPT-OSS's sinks.

use regard::attention::{Attention, AttentionInputs, Causal, Mask, Rotary, RotaryEmbedding, RotaryLayout, Window};

use super::{AttentionCase, Entry, Expect, RotaryCase, entries};

pub(super) fn attention() -> Vec<AttentionCase> {
    let sinks = entries("transformers", &["GptOssAttention"]);
    entries("transformers", &["Rotary"])
        .iter()
        .map(|entry| turned(entry).0)
        .chain(sinks.iter().flat_map(sink))
        .collect()
}

pub(super) fn rotary() -> Vec<RotaryCase> {
    entries("transformers", &["Rotary"]).iter().flat_map(|entry| turned(entry).1).collect()
}

/// Attention with the embedding in it, and query and key turned by themselves.
fn turned(entry: &Entry) -> (AttentionCase, [RotaryCase; 2]) {
    let mut t = entry.tensors();
    let mut inputs = AttentionInputs::new(t.take("in.q"), t.take("in.k"), t.take("in.v"));
    let tables = [t.take("in.cos"), t.take("in.sin")];
    let layout = match entry.attribute("layout").as_str() {
        Some("half-split") => RotaryLayout::HalfSplit,
        Some("interleaved") => RotaryLayout::Interleaved,
        other => panic!("{}: layout {other:?}", entry.name),
    };
    let offset = entry.integer("offset").unwrap() as usize;
    // The last query stands where the last key does.
    let ahead = inputs.key.shape()[2] - inputs.query.shape()[2];
    let alone =
        [("out.q", &inputs.query, offset + ahead), ("out.k", &inputs.key, offset)].map(|(stored, x, offset)| {
            RotaryCase {
                name: entry.name.clone(),
                x: x.clone(),
                tables: tables.clone(),
                positions: None,
                rotary: Rotary { layout, offset },
                expect: entry.expect("turned", stored, t.take(stored)),
            }
        });
    inputs.rotary = Some(RotaryEmbedding::new(Rotary { layout, offset }, tables));
    let options = Attention { causal: Some(Causal::BottomRight), ..Attention::default() };
    let expect = vec![entry.expect("output", "out.y", t.take("out.y"))];
    t.finish();
    (AttentionCase::new(entry, options, inputs, expect), alone)
}

/// By the mask written out, and by options where there are some.
fn sink(entry: &Entry) -> Vec<AttentionCase> {
    let mut t = entry.tensors();
    let mut inputs = AttentionInputs::new(t.take("in.q"), t.take("in.k"), t.take("in.v"));
    inputs.sinks = Some(t.take("in.sinks"));
    let mask = t.integers("in.mask").unwrap();
    let expect = vec![
        entry.expect("output", "out.y", t.take("out.y")),
        entry.expect("weights", "out.weights", t.take("out.weights")),
    ];
    t.finish();
    let plain = Attention { weights: true, ..Attention::default() };
    let case = |options, inputs| AttentionCase::new(entry, options, inputs, expect.clone());
    let written = AttentionInputs { mask: Some(Mask::Bool(mask)), ..inputs.clone() };
    let mut out = vec![case(plain.clone(), written)];
    if entry.attribute("causal").as_str() == Some("top-left") {
        let left = entry.integer("left_window").map(|n| n as u32);
        let window = left.map(|left| Window::new(Some(left), None));
        out.push(case(Attention { causal: Some(Causal::TopLeft), window, ..plain }, inputs));
    }
    out
}

/// Base, width and positions of a table, and what its cosines and sines should be.
pub(crate) fn tables() -> Vec<(String, f64, [usize; 2], [Expect; 2])> {
    let table = |entry: &Entry| {
        let mut t = entry.tensors();
        let number = |name: &str| entry.integer(name).unwrap() as usize;
        let expect = [("cos", "out.cos"), ("sin", "out.sin")]
            .map(|(tensor, stored)| entry.expect(tensor, stored, t.take(stored)));
        t.finish();
        let base = entry.attribute("base").as_f64().unwrap();
        (entry.name.clone(), base, [number("width"), number("positions")], expect)
    };
    entries("transformers", &["RotaryTables"]).iter().map(table).collect()
}
