//! Transformer encoders and sentence encoders: PyTorch's and Hugging Face's numbers, on every backend.

use std::path::{Path, PathBuf};

use regard::attention::{Attention, Mask};
use regard::backend::{Backend, Cpu, CpuTensor, IntegersOf, Reference, Value as _};
use regard::gpu::{Gpu, Open, Run};
use regard::layers::{
    CacheSize, EncoderWeights, LoadedTransformer, Memory, NormOrder, Places, TransformerBlock, TransformerEncoder,
    Visible,
};
use regard::models::{Pooling, SentenceEncoder, normalize};
use regard::rnn::Activation;
use regard::store::Store;
use regard::tensor::Array;
use serde_json::Value;

use crate::gpu::gpu;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Rows of [B, N, ..] up to each length, against what they have to be, within four times the library's own error in f32 and a few
/// units in the last place of the largest.
fn near(got: &Array, wanted: &Array, lengths: &[usize], error: f64, what: &str) {
    assert_eq!(got.shape(), wanted.shape(), "{what}");
    let [batch, rows] = [got.shape()[0], got.shape()[1]];
    let width = got.data().len() / (batch * rows);
    let size = wanted.data().iter().fold(1.0f32, |size, x| size.max(x.abs()));
    let tolerance = 4.0 * error + 2e-6 * f64::from(size);
    for (row, (got, wanted)) in got.data().chunks_exact(width).zip(wanted.data().chunks_exact(width)).enumerate() {
        if row % rows >= lengths[row / rows] {
            continue;
        }
        for (got, wanted) in got.iter().zip(wanted) {
            let off = f64::from((got - wanted).abs());
            assert!(off <= tolerance, "{what}, row {row}: {got}, not {wanted}: {off:.1e} over {tolerance:.1e}");
        }
    }
}

/// So many layers, by PyTorch's names behind `prefix`.
fn stack<B: Backend>(
    b: &mut B,
    case: &Value,
    store: &Store,
    layers: &str,
    prefix: &str,
) -> LoadedTransformer<B::Value> {
    let of = &case["attributes"];
    let block = TransformerBlock {
        order: if of["norm_first"] == true { NormOrder::Pre } else { NormOrder::Post },
        activation: if of["activation"] == "relu" { Activation::Relu } else { Activation::Gelu },
        attention: Attention::default(),
        ..TransformerBlock::new(of["heads"].as_u64().unwrap() as usize, of["layer_norm_eps"].as_f64().unwrap() as f32)
    };
    let find = |name: &str| {
        let name = format!("w.{prefix}{name}");
        store.contains(&name).then(|| store.get(&name)).transpose()
    };
    let weights = EncoderWeights::from_torch(of[layers].as_u64().unwrap() as usize, find).unwrap();
    assert_eq!(weights.norm.is_some(), of["final_norm"] == true);
    TransformerEncoder { block }.load(b, &weights).unwrap()
}

/// How many rows of each batch row of a tensor are real, and whether the case says so.
fn lengths(case: &Value, key: &str, shape: &[usize]) -> (Vec<usize>, bool) {
    match &case["attributes"][key] {
        Value::Array(lengths) => (lengths.iter().map(|n| n.as_u64().unwrap() as usize).collect(), true),
        _ => (vec![shape[1]; shape[0]], false),
    }
}

fn given<B: Backend>(b: &mut B, (lengths, said): &(Vec<usize>, bool)) -> Option<IntegersOf<B>> {
    let array = Array::from_fn(&[lengths.len()], |row| lengths[row] as u32);
    said.then(|| b.integers("lengths", &array).unwrap())
}

/// Tokens `in.NAME` through a stack: its output, and the attention weights of its second block.
fn forward<B: Backend>(
    b: &mut B,
    stack: &LoadedTransformer<B::Value>,
    case: &Value,
    store: &Store,
    name: &str,
    memory: Option<Memory<B::Value>>,
) -> (B::Value, B::Value) {
    let x = store.get(&format!("in.{name}")).unwrap();
    let lengths = lengths(case, &format!("{name}_lengths"), x.shape());
    let mut visible = Visible { lengths: given(b, &lengths), memory, ..Visible::default() };
    let mask = format!("in.{name}_mask");
    if store.contains(&mask) {
        let attend = store.get_u32(&mask).unwrap().map(|&ignored| u32::from(ignored == 0));
        visible.mask = Some(Mask::Bool(b.integers("mask", &attend).unwrap()));
    }
    let x = b.constant("x", &x).unwrap();
    let outputs = stack.forward(b, &x, &visible, true, Some(1)).unwrap();
    assert_eq!(outputs.hidden.len(), stack.layers() + 1);
    (outputs.output, outputs.weights.unwrap())
}

fn run_case<B: Backend>(mut b: B, case: &Value, store: &Store, what: &str) {
    let b = &mut b;
    let of_memory = |b: &mut B, states, (name, shape): (&str, &[usize])| {
        let lengths = lengths(case, name, shape);
        Some(Memory { states, lengths: given(b, &lengths), mask: None })
    };
    let (name, (output, weights)) = match case["op"].as_str().unwrap() {
        "TransformerEncoder" => {
            let encoder = stack(b, case, store, "layers", "");
            ("src", forward(b, &encoder, case, store, "src", None))
        }
        "TransformerDecoder" => {
            let decoder = stack(b, case, store, "layers", "");
            let states = store.get("in.memory").unwrap();
            let shape = states.shape().to_vec();
            let states = b.constant("memory", &states).unwrap();
            let memory = of_memory(b, states, ("memory_lengths", &shape));
            ("tgt", forward(b, &decoder, case, store, "tgt", memory))
        }
        _ => {
            let encoder = stack(b, case, store, "encoder_layers", "encoder.");
            let decoder = stack(b, case, store, "decoder_layers", "decoder.");
            let (states, _) = forward(b, &encoder, case, store, "src", None);
            let shape = states.shape().to_vec();
            let memory = of_memory(b, states, ("src_lengths", &shape));
            ("tgt", forward(b, &decoder, case, store, "tgt", memory))
        }
    };
    let read = b.read_blocking(&[&output, &weights]).unwrap();
    let (lengths, _) = lengths(case, &format!("{name}_lengths"), read[0].shape());
    let what = format!("{} {what}", case["case"]);
    let error = case["f32_err"]["out.y"].as_f64().unwrap();
    near(&read[0], &store.get("out.y").unwrap(), &lengths, error, &what);
    let [_, heads, tokens, _] = read[1].shape() else { panic!("{:?}", read[1].shape()) };
    for (row, weights) in read[1].data().chunks_exact(*tokens).enumerate() {
        if row % tokens < lengths[row / (heads * tokens)] {
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{what}");
        }
    }
}

#[test]
fn pytorchs_transformers_agree_on_every_backend() {
    let folder = vectors().join("transformer");
    let index = json(&folder.join("index.json"));
    let cases = index["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        let store = Store::open(&folder.join(case["file"].as_str().unwrap())).unwrap();
        run_case(Reference::<f64>::default(), case, &store, "f64");
        run_case(Reference::<f32>::default(), case, &store, "f32");
        for cpu in Cpu::new().levels() {
            let name = cpu.instructions();
            run_case(cpu, case, &store, name);
        }
        run_case(Run::new(gpu()), case, &store, "GPU");
    }
}

/// A decoder wants a memory, and an encoder none.
#[test]
fn blocks_and_memory_belong_together() {
    let folder = vectors().join("transformer");
    let index = json(&folder.join("index.json"));
    for (op, name, has) in [("TransformerEncoder", "src", true), ("TransformerDecoder", "tgt", false)] {
        let case = index["cases"].as_array().unwrap().iter().find(|case| case["op"] == op).unwrap();
        let store = Store::open(&folder.join(case["file"].as_str().unwrap())).unwrap();
        let mut cpu = Cpu::new();
        let stack = stack(&mut cpu, case, &store, "layers", "");
        let x = CpuTensor::from(store.get(&format!("in.{name}")).unwrap());
        let memory = has.then(|| Memory { states: x.clone(), lengths: None, mask: None });
        let visible = Visible { memory, ..Visible::default() };
        let error = stack.forward(&mut cpu, &x, &visible, false, None).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }
}

/// A cache of fewer blocks would leave the others out of the answer.
#[test]
fn a_cache_of_other_blocks_is_refused() {
    let folder = vectors().join("transformer");
    let index = json(&folder.join("index.json"));
    let case = index["cases"].as_array().unwrap().iter().find(|case| case["op"] == "TransformerEncoder").unwrap();
    let store = Store::open(&folder.join(case["file"].as_str().unwrap())).unwrap();
    let mut cpu = Cpu::new();
    let stack = stack(&mut cpu, case, &store, "layers", "");
    let x = CpuTensor::from(store.get("in.src").unwrap());
    let [batch, layers] = [x.shape()[0], stack.layers()];
    let tokens = x.shape()[1];
    let size = CacheSize { rows: batch, capacity: tokens, shared: false };
    let ids = |x: usize| Array::filled(&[batch], x as u32);
    let positions = Array::from_fn(&[batch, tokens], |k| (k % tokens) as u32);
    let places = Places { starts: ids(0), lengths: ids(tokens), positions, counts: None, table: None };
    let mut own = stack.cache(&mut cpu, size, None).unwrap();
    assert_eq!(stack.forward_cached(&mut cpu, &x, &places, None, &mut own).unwrap().shape(), x.shape());
    let weights = EncoderWeights { blocks: Vec::new(), norm: None };
    let none = TransformerEncoder { block: TransformerBlock::new(1, 1e-5) }.load(&mut cpu, &weights).unwrap();
    let mut other = none.cache(&mut cpu, size, None).unwrap();
    let error = stack.forward_cached(&mut cpu, &x, &places, None, &mut other).unwrap_err();
    assert_eq!(error.to_string(), format!("`cache` blocks: expected {layers}, found 0"));
}

fn bert_folders() -> Vec<PathBuf> {
    let mut folders: Vec<_> =
        std::fs::read_dir(vectors().join("bert")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 5);
    folders
}

fn run_bert<B: Backend>(b: B, folder: &Path, what: &str) {
    let expected = json(&folder.join("expected.json"));
    let store = Store::open(&folder.join("expected.safetensors")).unwrap();
    let encoder = SentenceEncoder::from_folder(folder).unwrap();
    let pooling = if expected["pooling"] == "cls" { Pooling::Cls } else { Pooling::Mean };
    assert_eq!(encoder.config().pooling, pooling);
    let lengths: Vec<usize> = store.get_u32("in.lengths").unwrap().data().iter().map(|&n| n as usize).collect();
    let rows = |name: &str| -> Vec<Vec<u32>> {
        let array = store.get_u32(name).unwrap();
        let rows = array.data().chunks_exact(array.shape()[1]).zip(&lengths);
        rows.map(|(row, &length)| row[..length].to_vec()).collect()
    };
    let (ids, types) = (rows("in.ids"), store.contains("in.types").then(|| rows("in.types")));
    let mut network = encoder.network(b).unwrap();
    let encoded = network.inspect(&ids, types.as_deref(), 0).unwrap();
    let name = format!("{} {what}", folder.display());
    let error = |tensor: &str| expected["f32_err"][tensor].as_f64().unwrap();
    assert_eq!(encoded.hidden.len(), encoder.config().layers + 1);
    for (n, hidden) in encoded.hidden.iter().enumerate() {
        let tensor = format!("out.hidden.{n}");
        near(hidden, &store.get(&tensor).unwrap(), &lengths, error(&tensor), &format!("{name} {tensor}"));
    }
    let attention = encoded.attention.unwrap();
    let heads = attention.shape()[1];
    let per_head: Vec<usize> = lengths.iter().flat_map(|&n| vec![n; heads]).collect();
    let tokens = attention.shape()[2];
    let flat = |array: Array| array.reshape(&[per_head.len(), tokens, tokens]).unwrap();
    let wanted = flat(store.get("out.attention.0").unwrap());
    near(&flat(attention), &wanted, &per_head, error("out.attention.0"), &format!("{name} attention"));
    let pooled = store.get("out.pooled").unwrap();
    let one_row = |array: Array| array.reshape(&[lengths.len(), 1, pooled.shape()[1]]).unwrap();
    let ones = vec![1; lengths.len()];
    near(
        &one_row(encoded.vectors.clone()),
        &one_row(pooled.clone()),
        &ones,
        error("out.pooled"),
        &format!("{name} pooled"),
    );
    // Alone as in the batch.
    if types.is_none() {
        for (n, text) in ids.iter().enumerate() {
            let alone = network.encode(std::slice::from_ref(text), None).unwrap().vectors;
            let row = &encoded.vectors.data()[n * alone.data().len()..][..alone.data().len()];
            assert!(alone.data().iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-5), "{name}, text {n}");
        }
    }
}

#[test]
fn hugging_faces_encoders_agree_on_every_backend() {
    for folder in bert_folders() {
        run_bert(Reference::<f64>::default(), &folder, "f64");
        for cpu in Cpu::new().levels() {
            let name = cpu.instructions();
            run_bert(cpu, &folder, name);
        }
        run_bert(Run::new(gpu()), &folder, "GPU");
    }
}

#[test]
fn tokenizers_give_the_tokens_that_they_gave_there() {
    for folder in bert_folders() {
        let encoder = SentenceEncoder::from_folder(&folder).unwrap();
        for case in json(&folder.join("expected.json"))["texts"].as_array().unwrap() {
            let (tokens, _) = encoder.tokens(case["text"].as_str().unwrap()).unwrap();
            let most = encoder.config().most_tokens;
            let wanted: Vec<u32> =
                case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            // Longer ones are cut off, their last token kept.
            let same = if wanted.len() <= most { tokens == wanted } else { tokens.len() == most };
            assert!(same, "{}: {tokens:?}, not {wanted:?}", case["text"]);
        }
    }
}

/// One submission a batch, and at most eight dispatches a layer.
#[test]
fn a_batch_is_one_submission_of_few_dispatches() {
    let folder = vectors().join("bert/bert");
    let encoder = SentenceEncoder::from_folder(&folder).unwrap();
    let own = Gpu::open(&Open::default()).unwrap();
    let mut network = encoder.network(Run::new(&own)).unwrap();
    let texts = [vec![1, 2, 3], vec![4, 5]];
    network.encode(&texts, None).unwrap();
    let before = own.counts();
    network.encode(&texts, None).unwrap();
    let after = own.counts();
    assert_eq!(after.submits - before.submits, 1);
    // Embedding, its norm and the pooling beside the layers.
    let dispatches = after.dispatches - before.dispatches;
    let layers = encoder.config().layers as u64;
    assert!(dispatches <= 8 * layers + 4, "{dispatches} dispatches for {layers} layers");
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let from = vectors().join("bert/bert");
    let changed = |file: &str, key: &str, value: Value| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"] {
            std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
        }
        let path = folder.path().join(file);
        let mut object = json(&path);
        object[key] = value;
        std::fs::write(&path, object.to_string()).unwrap();
        SentenceEncoder::from_folder(folder.path()).map(drop).unwrap_err().to_string()
    };
    for (file, key, value, wanted) in [
        ("config.json", "model_type", "mpnet".into(), "`model_type` is `mpnet`, whose relative positions"),
        ("config.json", "model_type", "t5".into(), "`model_type` is `t5`"),
        ("config.json", "hidden_act", "gelu_fast_new".into(), "`hidden_act` is `gelu_fast_new`"),
        ("config.json", "position_embedding_type", "relative_key".into(), "`position_embedding_type`"),
        ("config.json", "is_decoder", true.into(), "`is_decoder` is true"),
        ("config.json", "num_attention_heads", 5.into(), "`num_attention_heads` is 5"),
        ("config.json", "num_hidden_layers", 7.into(), "encoder.layer.2."),
        ("config.json", "hidden_size", 30.into(), "embeddings.word_embeddings.weight"),
        ("config.json", "hidden_size", Value::Null, "`hidden_size` is missing"),
        ("1_Pooling/config.json", "pooling_mode_max_tokens", true.into(), "`pooling_mode_max_tokens` is true"),
        ("1_Pooling/config.json", "pooling_mode_mean_tokens", false.into(), "asks for no pooling"),
    ] {
        let error = changed(file, key, value);
        assert!(error.contains(wanted), "{key}: {error}");
    }
}

/// The real model, beside its own vectors: alone, in a batch, on the CPU and the GPU.
#[test]
#[ignore = "fetches a model of 90 MB: by tests/all"]
fn minilm_gives_its_own_vectors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("target/models/all-MiniLM-L6-v2");
    assert!(folder.exists(), "models/minilm/fetch.py fetches it");
    let golden = json(&root.join("models/minilm/golden.json"));
    let wanted = Store::open(&root.join("models/minilm/golden.safetensors")).unwrap().get("vectors").unwrap();
    let encoder = SentenceEncoder::from_folder(&folder).unwrap();
    let mut texts = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let (tokens, cut) = encoder.tokens(case["text"].as_str().unwrap()).unwrap();
        let ids: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokens, ids, "{}", case["text"]);
        assert_eq!(cut, case["whole"].as_u64().unwrap() as usize > ids.len());
        texts.push(tokens);
    }
    fn check<B: Backend>(encoder: &SentenceEncoder, b: B, texts: &[Vec<u32>], wanted: &Array, what: &str) {
        let mut network = encoder.network(b).unwrap();
        let mut all = network.encode(texts, None).unwrap().vectors;
        normalize(&mut all);
        let off = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off(all.data(), wanted.data()) < 2e-5, "{what}: {}", off(all.data(), wanted.data()));
        for (text, wanted) in texts.iter().zip(wanted.data().chunks_exact(384)).take(6) {
            let mut alone = network.encode(std::slice::from_ref(text), None).unwrap().vectors;
            normalize(&mut alone);
            assert!(off(alone.data(), wanted) < 2e-5, "{what}, alone");
        }
    }
    check(&encoder, Cpu::new(), &texts, &wanted, "CPU");
    check(&encoder, Run::new(gpu()), &texts, &wanted, "GPU");
}
