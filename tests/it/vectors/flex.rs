//! PyTorch FlexAttention, each case twice: by the options that say the same as its mask function, and by that mask
//! written out.

use std::sync::Arc;

use regard::attention::{Attention, AttentionInputs, BlockMask, Causal, CuSeqlens, Mask, ScoreMod, Window};
use regard::tensor::Array;

use super::{AttentionCase, Entry, entries};

pub(super) fn attention() -> Vec<AttentionCase> {
    let flex = entries("flex", &["FlexAttention"]);
    let paged = entries("flex", &["PagedAttention"]);
    flex.iter().flat_map(cases).chain(paged.iter().map(paged_case)).collect()
}

fn cases(entry: &Entry) -> Vec<AttentionCase> {
    let mut t = entry.tensors();
    let mut inputs = AttentionInputs::new(t.take("in.q"), t.take("in.k"), t.take("in.v"));
    let shape = [inputs.query.shape()[1], inputs.query.shape()[2], inputs.key.shape()[2]];
    let mut options = Attention {
        scale: entry.number("scale").filter(|_| entry.flag("scale_given")),
        softcap: entry.number("softcap"),
        lse: true,
        ..Attention::default()
    };
    inputs.alibi_slopes = t.get("in.slopes");
    options.score_mod = match entry.attribute("score_mod").as_str() {
        Some("s * (1 - 0.0625 * ((3 * i + 5 * j + b) % 7)) + 0.125 * h") => Some(ScoreMod::new(
            "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
    return score * (1.0 - 0.0625 * f32((3u * i + 5u * j + b) % 7u)) + 0.125 * f32(h);
}
",
            Some(Arc::new(|s, b, h, i, j| s * (1.0 - 0.0625 * ((3 * i + 5 * j + b) % 7) as f64) + 0.125 * h as f64)),
        )),
        Some("s + 0.03125 * (i - j)") => Some(ScoreMod::new(
            "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
    return score + 0.03125 * (f32(i) - f32(j));
}
",
            Some(Arc::new(|s, _, _, i, j| s + 0.03125 * (i as f64 - j as f64))),
        )),
        // a bias for each head and distance is a float mask
        Some("s + bias[h, i - j + 11]") => {
            let bias = t.take("in.bias");
            let at = |k: usize| {
                let (h, i, j) = (k / (shape[1] * shape[2]), k / shape[2] % shape[1], k % shape[2]);
                bias.data()[h * bias.shape()[1] + i + 11 - j]
            };
            inputs.mask = Some(Mask::Float(Array::from_fn(&shape, at)));
            None
        }
        // by slopes and softcap
        Some("alibi" | "softcap" | "softcap, then alibi") | None => None,
        Some(other) => panic!("{}: score_mod {other}", entry.name),
    };
    let expect =
        vec![entry.expect("output", "out.y", t.take("out.y")), entry.expect("lse", "out.lse", t.take("out.lse"))];
    let written = t.integers("in.mask");
    let case = |options: &Attention, inputs: &AttentionInputs<Array<f32>>| {
        AttentionCase::new(entry, options.clone(), inputs.clone(), expect.clone())
    };
    let mut out = Vec::new();
    if let Some(mask) = &written {
        out.push(case(&options, &AttentionInputs { mask: Some(Mask::Bool(mask.clone())), ..inputs.clone() }));
    }

    options.causal = match entry.attribute("causal").as_str() {
        Some("top-left") => Some(Causal::TopLeft),
        Some("bottom-right") => Some(Causal::BottomRight),
        _ => None,
    };
    let side = |name: &str| entry.integer(name).map(|n| n as u32);
    let window = Window {
        sink_tokens: side("sink_tokens").unwrap_or(0),
        ..Window::new(side("left_window"), side("right_window"))
    };
    options.window = Some(window).filter(|&window| window != Window::default());
    let block = entry.attribute("block_size").as_array().map(|size| {
        let side = |n: usize| size[n].as_u64().unwrap() as usize;
        [side(0), side(1)]
    });
    let ends = t.integers("in.cu_seqlens_q").zip(t.integers("in.cu_seqlens_k"));
    inputs.cu_seqlens = ends.map(|(q, k)| CuSeqlens { q, k });
    (inputs.query_lengths, inputs.kv_lengths) = (t.integers("in.query_lengths"), t.integers("in.kv_lengths"));
    let blocks = t.integers("in.blocks").or_else(|| t.integers("in.block_mask"));
    inputs.block_mask = blocks.map(|mask| BlockMask { mask, size: block.unwrap() });
    // Each token's document follows from the ends; a prefix has no option but the mask.
    let _ = (t.get("in.document_q"), t.get("in.document_k"));
    if t.get("in.prefix").is_none() {
        out.push(case(&options, &inputs));
    }
    t.finish();
    out
}

fn paged_case(entry: &Entry) -> AttentionCase {
    let mut t = entry.tensors();
    let mut inputs = AttentionInputs::new(t.take("in.q"), t.take("in.k_pages"), t.take("in.v_pages"));
    inputs.block_table = t.integers("in.block_table");
    inputs.kv_lengths = t.integers("in.kv_lengths");
    let options = Attention { causal: Some(Causal::BottomRight), lse: true, ..Attention::default() };
    let expect =
        vec![entry.expect("output", "out.y", t.take("out.y")), entry.expect("lse", "out.lse", t.take("out.lse"))];
    t.finish();
    AttentionCase::new(entry, options, inputs, expect)
}
