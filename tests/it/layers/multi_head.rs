//! Multi-head attention.

use regard::Result;
use regard::attention::{
    Attention, AttentionInputs, AttentionOutputs, Causal, Mask, Normalize, Past, Rotary, RotaryEmbedding, Score,
    ScoreStage,
};
use regard::gpu::Run;
use regard::layers::{GpuMultiHeadAttention, Linear, MultiHeadAttention, MultiHeadWeights, torch_mask};
use regard::tensor::{Array, DType};

use super::{Named, Wrong, all, gpu, judge_all, numbers, refused, stored, types};

#[derive(Clone)]
struct Case {
    name: String,
    layer: MultiHeadAttention,
    weights: MultiHeadWeights<Array<f32>>,
    inputs: AttentionInputs<Array<f32>>,
}

/// B, Nq, Nk; H, Hkv, D, Dv; E of query, key, value and output.
#[derive(Clone, Copy)]
struct Size([usize; 3], [usize; 4], [usize; 4]);

const USUAL: Size = Size([2, 5, 7], [6, 3, 4, 9], [10, 11, 12, 13]);

fn case(name: &str, Size([b, q, k], [h, g, d, v], [eq, ek, ev, e]): Size) -> Case {
    let linear = |rows: usize, columns: usize, seed: f32| {
        let weight = numbers(&[rows, columns], seed, (3.0 / columns as f32).sqrt());
        Linear::with_bias(weight, numbers(&[rows], seed + 0.5, 0.3))
    };
    let weights = MultiHeadWeights {
        query: linear(h * d, eq, 1.0),
        key: linear(g * d, ek, 2.0),
        value: linear(g * v, ev, 3.0),
        output: linear(e, h * v, 4.0),
        bias_key: None,
        bias_value: None,
    };
    let inputs = AttentionInputs::new(
        numbers(&[b, q, eq], 5.0, 1.7),
        numbers(&[b, k, ek], 6.0, 1.7),
        numbers(&[b, k, ev], 7.0, 1.7),
    );
    let attention = Attention { weights: true, lse: true, ..Attention::default() };
    let layer = MultiHeadAttention { kv_heads: g, attention, ..MultiHeadAttention::new(h) };
    Case { name: name.to_owned(), layer, weights, inputs }
}

fn add_bias_kv(case: &mut Case) {
    case.weights.bias_key = Some(numbers(&[case.weights.key.weight.shape()[0]], 8.0, 1.0));
    case.weights.bias_value = Some(numbers(&[case.weights.value.weight.shape()[0]], 9.0, 1.0));
}

fn bools(shape: &[usize], seed: f32) -> Mask<Array<f32>> {
    Mask::Bool(numbers(shape, seed, 1.0).map(|&x| u32::from(x > -0.3)))
}

fn cases() -> Vec<Case> {
    let mut table = Vec::new();
    let mut add = |name: &str, size: Size, edit: &dyn Fn(&mut Case)| {
        let mut case = case(name, size);
        edit(&mut case);
        table.push(case);
    };
    add("all axes differ", USUAL, &|_| {});
    add("one of everything", Size([1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]), &|_| {});
    add("one query", Size([3, 1, 33], [4, 1, 16, 8], [64, 20, 30, 40]), &|_| {});
    add("wide", Size([1, 33, 65], [2, 2, 64, 32], [96, 96, 96, 96]), &|_| {});
    add("no biases", USUAL, &|case| {
        for layer in [&mut case.weights.query, &mut case.weights.value, &mut case.weights.output] {
            layer.bias = None;
        }
    });
    add("causal, every output", USUAL, &|case| {
        case.layer.attention.causal = Some(Causal::BottomRight);
        (case.layer.attention.entropy, case.layer.attention.scores) = (true, Some(ScoreStage::Masked));
    });
    add("mask of the heads and lengths", USUAL, &|case| {
        case.inputs.mask = Some(bools(&[6, 5, 7], 1.0));
        case.inputs.kv_lengths = Array::new(&[2], vec![6, 3]).ok();
    });
    add("past, rotary, ALiBi, sinks", USUAL, &|case| {
        let (key, value) = (numbers(&[2, 3, 6, 4], 1.0, 1.0), numbers(&[2, 3, 6, 9], 2.0, 1.0));
        case.inputs.past = Some(Past { key, value });
        let tables = Rotary::tables(10_000.0, 4, 20).unwrap();
        case.inputs.rotary = Some(RotaryEmbedding::new(Rotary::default(), tables));
        case.inputs.alibi_slopes = Some(numbers(&[6], 3.0, 0.3));
        case.inputs.sinks = Some(numbers(&[6], 4.0, 1.0));
    });
    add("additive, hardmax", USUAL, &|case| {
        case.layer.attention =
            Attention { score: Score::Additive, normalize: Normalize::Hardmax, weights: true, ..Attention::default() };
        case.inputs.score.v = Some(numbers(&[4], 1.0, 1.0));
    });
    add("mean weights", USUAL, &|case| case.layer.average_weights = true);
    add("learned key", USUAL, &add_bias_kv);
    add("zero key", USUAL, &|case| case.layer.add_zero_attn = true);
    for (name, mask) in [
        ("no mask", None),
        ("bool mask", Some(bools(&[2, 1, 5, 7], 2.0))),
        ("short bool mask", Some(bools(&[5, 3], 3.0))),
        ("float mask", Some(Mask::Float(numbers(&[6, 5, 7], 4.0, 2.0)))),
        ("short float mask", Some(Mask::Float(numbers(&[4], 5.0, 2.0)))),
        ("mask of the rows", Some(bools(&[5, 1], 6.0))),
    ] {
        add(&format!("learned and zero key, mean weights, {name}"), USUAL, &|case| {
            add_bias_kv(case);
            (case.layer.add_zero_attn, case.layer.average_weights) = (true, true);
            case.inputs.mask = mask.clone();
        });
    }
    table
}

fn named<T: Clone>(outputs: &AttentionOutputs<Array<T>>) -> Named<T> {
    outputs.named().map(|(name, array)| (name.to_owned(), array.clone())).collect()
}

fn check(case: &Case, dtype: DType) -> Result<f64> {
    let layer = GpuMultiHeadAttention::upload(gpu(), &case.layer, &case.weights, dtype)?;
    let mut inputs = case.inputs.upload(gpu(), dtype)?;
    // A cache holds what was projected, which is f32.
    let f32_cache = case.inputs.upload(gpu(), DType::F32)?;
    inputs.past = f32_cache.past;
    let got = layer.run(gpu(), &inputs)?.download(gpu())?;
    let oracle = case.layer.reference(&case.weights.map(Array::cast), &case.inputs.map_numbers(Array::cast))?;
    let round = |name: &str, array: &Array<f32>| -> Result<Array<f32>> {
        let kept = !(name.ends_with(".weight") || ["query", "key", "value"].contains(&name));
        Ok(if kept { array.clone() } else { stored(array, dtype) })
    };
    let inputs = case.inputs.try_map(round, |_, array| Ok(array.clone()))?;
    let baseline = case.layer.reference(&case.weights.try_map(round)?, &inputs)?;
    judge_all(&named(&got), &named(&oracle), &named(&baseline))
}

#[test]
fn multi_head_layers_are_within_the_tolerance() {
    for dtype in types() {
        all(&format!("multi-head layers, {dtype}"), cases(), |case| case.name.clone(), |case| check(case, dtype));
    }
}

/// Heads are views: three projections, the attention's own three, one projection.
#[test]
fn nothing_is_copied() {
    let case = case("counted", USUAL);
    let mut run = Run::new(gpu());
    let layer = GpuMultiHeadAttention::upload(gpu(), &case.layer, &case.weights, DType::F32).unwrap();
    layer.record(&mut run, &case.inputs.upload(gpu(), DType::F32).unwrap()).unwrap();
    let kernels: Vec<_> = run.recording().dispatches().map(|d| d.variant.kernel.name()).collect();
    assert_eq!(kernels, ["matmul", "matmul", "matmul", "score", "softmax", "weighted_sum", "matmul"]);
}

/// What a mask hides and what PyTorch's two masks hide, pair by pair.
#[test]
fn torch_masks_are_joined() {
    let (batch, heads, queries, keys) = (2, 3, 4, 5);
    let pairs = numbers(&[batch * heads, queries, keys], 1.0, 1.0).map(|&x| u32::from(x > 0.4));
    let padding = numbers(&[batch, keys], 2.0, 1.0).map(|&x| u32::from(x > 0.4));
    let hidden = |at: usize| {
        let (b, j) = (at / (heads * queries * keys), at % keys);
        pairs.data()[at] != 0 || padding.data()[b * keys + j] != 0
    };
    let [bool_pairs, bool_padding] = [Mask::Bool(pairs.clone()), Mask::Bool(padding.clone())];
    let joined = torch_mask(Some(&bool_pairs), Some(&bool_padding), batch, heads).unwrap().unwrap();
    let Mask::Bool(mask) = &joined else { panic!("{joined:?}") };
    assert_eq!(mask.shape(), [batch, heads, queries, keys]);
    assert!(mask.data().iter().enumerate().all(|(at, &seen)| (seen == 0) == hidden(at)));

    let bias = numbers(&[queries, keys], 3.0, 1.0);
    let joined = torch_mask(Some(&Mask::Float(bias.clone())), Some(&bool_padding), batch, heads).unwrap().unwrap();
    let Mask::Float(mask) = &joined else { panic!("{joined:?}") };
    assert_eq!(mask.shape(), [batch, 1, queries, keys]);
    for (at, &x) in mask.data().iter().enumerate() {
        let hides = padding.data()[at / (queries * keys) * keys + at % keys] != 0;
        assert_eq!(x, if hides { f32::NEG_INFINITY } else { bias.data()[at % (queries * keys)] });
    }
    assert_eq!(torch_mask(None, None, batch, heads).unwrap(), None);
    let wrong = [
        (torch_mask(Some(&bool_pairs), None, 2, 4), "`attn_mask` axis 0 (batch · heads): expected 8, found 6"),
        (torch_mask(None, Some(&bool_padding), 3, 3), "`key_padding_mask` axis 0 (batch): expected 3, found 2"),
        (torch_mask(Some(&bool_padding), Some(&bool_padding), 2, 3), ""),
        (torch_mask(None, Some(&bool_pairs), 2, 3), "`key_padding_mask` rank: expected 2 [B, Nk], found 3"),
    ];
    for (result, message) in wrong {
        match message {
            // [B, Nk] is [Nq, Nk] too
            "" => assert_eq!(result.unwrap().unwrap().shape(), [2, 1, 2, 5]),
            message => assert_eq!(result.unwrap_err().to_string(), message),
        }
    }
}

#[test]
fn weights_that_lack_something_are_refused() {
    let torch = |absent: &'static str, odd: &'static str| {
        let shapes: [(&str, &[usize]); 7] = [
            ("in_proj_weight", &[24, 8]),
            ("q_proj_weight", &[8, 8]),
            ("k_proj_weight", &[8, 5]),
            ("in_proj_bias", &[24]),
            ("out_proj.weight", &[8, 8]),
            ("out_proj.bias", &[8]),
            ("bias_k", &[1, 1, 8]),
        ];
        MultiHeadWeights::from_torch(move |name| {
            let (_, shape) = shapes.iter().find(|(known, _)| *known == name && *known != absent)?;
            let shape = if name == odd { vec![3; shape.len()] } else { shape.to_vec() };
            Some(Array::filled(&shape, 0.0f32))
        })
    };
    let said = |result: Result<MultiHeadWeights<Array<f32>>>| result.unwrap_err().to_string();
    assert_eq!(said(torch("out_proj.weight", "")), "`out_proj.weight`: expected [E, E], found none");
    assert_eq!(
        said(torch("in_proj_weight", "")),
        "`v_proj_weight`: expected [8, vdim], or `in_proj_weight` [24, 8], found none"
    );
    assert_eq!(said(torch("", "in_proj_weight")), "`in_proj_weight` shape: expected [24, 8], found [3, 3]");
    assert_eq!(said(torch("", "in_proj_bias")), "`in_proj_bias` shape: expected [24], found [3]");
    assert_eq!(said(torch("", "out_proj.bias")), "`out_proj.bias` shape: expected [8], found [3]");
    assert_eq!(said(torch("", "bias_k")), "`bias_k` shape: expected [1, 1, 8], found [3, 3, 3]");

    let keras = |layer: &MultiHeadAttention, absent: &'static str, odd: &'static str| {
        let shapes: [(&str, &[usize]); 5] = [
            ("query/kernel", &[10, 4, 3]),
            ("key/kernel", &[10, 2, 3]),
            ("value/kernel", &[10, 2, 5]),
            ("value/bias", &[2, 5]),
            ("attention_output/kernel", &[4, 5, 10]),
        ];
        MultiHeadWeights::from_keras(layer, move |name| {
            let (_, shape) = shapes.iter().find(|(known, _)| *known == name && *known != absent)?;
            let shape = if name == odd { vec![7; shape.len()] } else { shape.to_vec() };
            Some(Array::filled(&shape, 0.0f32))
        })
    };
    let layer = MultiHeadAttention { kv_heads: 2, ..MultiHeadAttention::new(4) };
    assert_eq!(keras(&layer, "", "").unwrap().value.weight.shape(), [10, 10]);
    assert_eq!(said(keras(&MultiHeadAttention::new(4), "", "")), "`key/kernel` axis 1 (heads): expected 4, found 2");
    assert_eq!(said(keras(&layer, "value/kernel", "")), "`value/kernel`: expected [E, Hkv, Dv], found none");
    assert_eq!(said(keras(&layer, "", "value/bias")), "`value/bias` shape: expected [2, 5], found [7, 7]");
    assert_eq!(
        said(keras(&layer, "", "attention_output/kernel")),
        "`attention_output/kernel` axis 0 (heads): expected 4, found 7"
    );
}

#[test]
fn wrong_requests_are_refused() {
    let added = "keys that `add_zero_attn` or `bias_key` add have no position: write it out as a mask";
    let causal = format!("option `causal`: {added}");
    let lengths = format!("option `kv_lengths`: {added}");
    let wrong: Wrong<'_, Case> = &[
        (
            |c| c.layer.kv_heads = 4,
            "option `heads, kv_heads`: 6 heads cannot share 4: heads must be a multiple, and neither 0",
        ),
        (
            |c| c.layer.heads = 0,
            "option `heads, kv_heads`: 0 heads cannot share 3: heads must be a multiple, and neither 0",
        ),
        (
            |c| c.inputs.query = numbers(&[2, 1, 5, 10], 1.0, 1.0),
            "`query` rank: expected 3 [B, Nq, E], found 4 [2, 1, 5, 10]",
        ),
        (|c| c.inputs.query = numbers(&[2, 5, 9], 1.0, 1.0), "`query.weight` axis 1 (input): expected 9, found 10"),
        (|c| c.inputs.key = numbers(&[3, 7, 11], 1.0, 1.0), "`key` axis 0 (batch): expected 2, found 3"),
        (|c| c.inputs.value = numbers(&[2, 6, 12], 1.0, 1.0), "`value` axis 1 (keys): expected 7, found 6"),
        (
            |c| c.weights.key = Linear::new(numbers(&[14, 11], 1.0, 1.0)),
            "`key.weight` axis 0 (heads · dim): expected a multiple of 3 heads, found 14",
        ),
        (|c| c.weights.key = Linear::new(numbers(&[15, 11], 1.0, 1.0)), "`key` axis 3 (head dim): expected 4, found 5"),
        (
            |c| c.weights.value.bias = Some(numbers(&[26], 1.0, 1.0)),
            "`value.bias` axis 0 (outputs): expected 27, found 26",
        ),
        (
            |c| c.weights.output = Linear::new(numbers(&[13, 50], 1.0, 1.0)),
            "`output.weight` axis 1 (heads · value dim): expected 54, found 50",
        ),
        (
            |c| c.weights.bias_key = Some(numbers(&[12], 1.0, 1.0)),
            "`bias_value`: expected the value that belongs to `bias_key`, found none",
        ),
        (
            |c| {
                add_bias_kv(c);
                c.weights.bias_key = Some(numbers(&[11], 1.0, 1.0));
            },
            "`bias_key` axis 0 (heads · dim): expected 12, found 11",
        ),
        (
            |c| (c.layer.average_weights, c.layer.attention.weights) = (true, false),
            "option `average_weights`: needs `attention.weights`, which is what it averages",
        ),
        (|c| (c.layer.add_zero_attn, c.layer.attention.causal) = (true, Some(Causal::TopLeft)), &causal),
        (|c| (c.layer.add_zero_attn, c.inputs.kv_lengths) = (true, Some(Array::filled(&[2], 3))), &lengths),
        (
            |c| c.inputs.block_table = Some(Array::filled(&[2, 2], 0)),
            "option `block_table`: a cache in pages holds projected keys: project new ones, append them, and call the \
             attention",
        ),
        (
            |c| c.inputs.mask = Some(Mask::Bool(Array::filled(&[4, 7], 1))),
            "`mask` axis 0 (queries): expected 5 or 1, found 4",
        ),
    ];
    let right = || case("right", USUAL);
    refused(right, wrong, |c| {
        let layer = GpuMultiHeadAttention::upload(gpu(), &c.layer, &c.weights, DType::F32)?;
        layer.run(gpu(), &c.inputs.upload(gpu(), DType::F32)?).map(|_| ())
    });
    refused(right, wrong, |c| c.layer.reference(&c.weights, &c.inputs).map(|_| ()));
}
