//! Encoder–decoders: Hugging Face's BART and Marian, state by state and logit by logit, on every backend.

use std::path::{Path, PathBuf};

use regard::Error;
use regard::backend::{Backend, Cpu, Reference};
use regard::gpu::{Gpu, Open, Run};
use regard::models::{Beam, EncoderDecoderModel, Generation, Sampling};
use regard::store::Store;
use regard::tensor::Array;
use serde_json::{Value, json};

use crate::causal::near;
use crate::gpu::gpu;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/encoder_decoder").join(name)
}

/// What goes in and what comes out.
struct Expected {
    store: Store,
    record: Value,
    sources: Vec<Vec<u32>>,
    /// [texts, tokens].
    tokens: Array<u32>,
}

impl Expected {
    fn of(folder: &Path) -> Self {
        let store = Store::open(&folder.join("expected.safetensors")).unwrap();
        let record = serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
        let (padded, lengths) = (store.get_u32("in.sources").unwrap(), store.get_u32("in.lengths").unwrap());
        let rows = padded.data().chunks_exact(padded.shape()[1]).zip(lengths.data());
        let sources = rows.map(|(row, &length)| row[..length as usize].to_vec()).collect();
        let tokens = store.get_u32("out.tokens").unwrap();
        Self { store, record, sources, tokens }
    }

    fn error(&self, tensor: &str) -> f64 {
        self.record["f32_err"][tensor].as_f64().unwrap()
    }

    fn answer(&self, text: usize) -> &[u32] {
        let steps = self.tokens.shape()[1];
        &self.tokens.data()[text * steps..][..steps]
    }
}

fn run<B: Backend>(b: B, name: &str, what: &str) {
    let model = EncoderDecoderModel::from_folder(&folder(name)).unwrap();
    let expected = Expected::of(&folder(name));
    let what = format!("{name} {what}");
    let mut network = model.network(b).unwrap();
    let (words, steps) = (model.words(), expected.tokens.shape()[1]);

    // All together, of different lengths.
    let memory = network.encode(&expected.sources).unwrap();
    let [_, longest, channels] = *memory.shape() else { panic!("{:?}", memory.shape()) };
    for (n, source) in expected.sources.iter().enumerate() {
        let tensor = format!("out.memory.{n}");
        let own = &memory.data()[n * longest * channels..][..source.len() * channels];
        near(own, expected.store.get(&tensor).unwrap().data(), expected.error(&tensor), &format!("{what}, {tensor}"));
    }
    let logits = expected.store.get("out.logits").unwrap();
    let mut found = network.start(&expected.sources).unwrap();
    for step in 0..steps {
        for (n, row) in found.data().chunks_exact(words).enumerate() {
            let wanted = &logits.data()[(n * steps + step) * words..][..words];
            near(row, wanted, expected.error("out.logits"), &format!("{what}, text {n}, token {step}"));
        }
        let tokens: Vec<u32> = (0..expected.sources.len()).map(|n| expected.answer(n)[step]).collect();
        found = network.step(&tokens).unwrap();
    }

    let greedy = Generation { most: steps, sampling: Sampling::Greedy, end: None };
    for (n, answer) in network.generate(&expected.sources, &greedy).unwrap().iter().enumerate() {
        assert_eq!(answer, expected.answer(n), "{what}, text {n}");
    }
    let end = expected.answer(0)[3];
    let answers = network.generate(&expected.sources, &Generation { end: Some(end), ..greedy }).unwrap();
    for (n, answer) in answers.iter().enumerate() {
        let whole = expected.answer(n);
        let stop = whole.iter().position(|&token| token == end).map_or(steps, |stop| stop + 1);
        assert_eq!(*answer, whole[..stop], "{what}, text {n}");
    }

    let beams = expected.store.get_u32("out.beams").unwrap();
    let scores = expected.store.get("out.beam_scores").unwrap();
    let [_, width, most] = *beams.shape() else { panic!("{:?}", beams.shape()) };
    let options = Beam { width, most, end: None, length_exponent: 0.0 };
    for (n, found) in network.beam(&expected.sources, &options).unwrap().iter().enumerate() {
        assert_eq!(found.len(), width);
        for (k, found) in found.iter().enumerate() {
            let at = n * width + k;
            assert_eq!(found.tokens, beams.data()[at * most..][..most], "{what}, text {n}, answer {k}");
            let off = (found.log_probability - f64::from(scores.data()[at])).abs();
            assert!(off < 1e-3, "{what}, text {n}, answer {k}: {off}");
        }
    }
}

#[test]
fn hugging_faces_encoder_decoders_agree_on_every_backend() {
    for name in ["bart", "marian"] {
        run(Reference::<f64>::default(), name, "f64");
        for cpu in Cpu::new().levels() {
            let instructions = cpu.instructions();
            run(cpu, name, instructions);
        }
        run(Run::new(gpu()), name, "GPU");
    }
}

/// Encoding and the first token are one submission, and so is every further one of a beam; a greedy search takes eight at once.
#[test]
fn tokens_are_few_submissions() {
    let name = "bart";
    let model = EncoderDecoderModel::from_folder(&folder(name)).unwrap();
    let expected = Expected::of(&folder(name));
    let own = Gpu::open(&Open::default()).unwrap();
    let mut network = model.network(Run::new(&own)).unwrap();
    let greedy = Generation { most: 17, sampling: Sampling::Greedy, end: None };
    let before = own.counts();
    network.generate(&expected.sources, &greedy).unwrap();
    assert_eq!(own.counts().submits - before.submits, 3);
    let before = own.counts();
    network.beam(&expected.sources, &Beam { width: 3, most: 5, end: None, length_exponent: 0.0 }).unwrap();
    let counts = own.counts();
    assert_eq!((counts.submits - before.submits, counts.downloads - before.downloads), (5, 5));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let model = EncoderDecoderModel::from_folder(&folder("bart")).unwrap();
    let mut network = model.network(Cpu::new()).unwrap();
    let told = |error: Error, wanted: &str| assert!(error.to_string().contains(wanted), "{error}");
    told(network.step(&[1]).unwrap_err(), "`start` comes first");
    told(network.start(&[]).unwrap_err(), "texts");
    told(network.start(&[vec![1], vec![]]).unwrap_err(), "text 1");
    told(network.start(&[vec![1; model.positions() + 1]]).unwrap_err(), "1 to 40");
    told(network.start(&[vec![3, model.words() as u32]]).unwrap_err(), "token 1");
    let nothing = Generation { most: 0, sampling: Sampling::Greedy, end: None };
    assert_eq!(network.generate(&[vec![5]], &nothing).unwrap(), [vec![0; 0]]);
}

/// Each field of a configuration that asks for something else is named.
#[test]
fn what_is_not_computed_is_refused_by_name() {
    let changes = [
        ("config.json", "model_type", json!("t5"), "model_type"),
        ("config.json", "normalize_before", json!(true), "normalize_before"),
        ("config.json", "add_final_layer_norm", json!(true), "add_final_layer_norm"),
        ("config.json", "static_position_embeddings", json!(true), "static_position_embeddings"),
        ("config.json", "share_encoder_decoder_embeddings", json!(false), "share_encoder_decoder_embeddings"),
        ("config.json", "activation_function", json!("quick_gelu"), "activation_function"),
        ("config.json", "decoder_attention_heads", json!(5), "decoder_attention_heads"),
        ("config.json", "decoder_layers", json!(4), "model.decoder.layers.3."),
        ("config.json", "d_model", json!(32), "model.shared.weight"),
        ("config.json", "max_position_embeddings", json!(39), "embed_positions"),
        ("generation_config.json", "decoder_start_token_id", json!(48), "decoder_start_token_id"),
        ("generation_config.json", "bad_words_ids", json!([[1, 2]]), "bad_words_ids"),
    ];
    for (file, field, value, wanted) in changes {
        let target = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(folder("bart")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, target.path().join(path.file_name().unwrap())).unwrap();
        }
        let path = target.path().join(file);
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        config[field] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        let error = EncoderDecoderModel::from_folder(target.path()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{field}: {error}");
    }
}
