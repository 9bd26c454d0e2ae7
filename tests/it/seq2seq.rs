//! Models against what their original runtimes answered (`models/*/golden.json`), and everything that can be wrong
//! with a card, its tensors or a text.
//!
//! The checks against golden answers take the network from a [`Device`], so that every device meets the same ones.

use std::path::PathBuf;

use regard::seq2seq::{CpuNetwork, Decoding, GpuNetwork, Model, Network, SourceText, Transliteration, transliterate};
use serde_json::Value;

/// Makes a model's network on some device.
pub(crate) type Device = for<'m> fn(&'m Model) -> Box<dyn Network + 'm>;

fn cpu(model: &Model) -> Box<dyn Network + '_> {
    Box::new(CpuNetwork::new(model).unwrap())
}

fn folder(model: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models").join(model)
}

/// The cases of a golden file; those with options too.
fn golden(folder: &std::path::Path) -> Vec<Value> {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("golden.json")).unwrap()).unwrap();
    let list = |name: &str| file[name].as_array().cloned().unwrap_or_default();
    [list("cases"), list("hinted")].concat()
}

fn source(case: &Value) -> SourceText {
    let mut source = SourceText::from(case["in"].as_str().unwrap());
    for option in ["country", "role"] {
        if let Some(value) = case[option].as_str() {
            source.options.insert(option.to_owned(), value.to_owned());
        }
    }
    source
}

/// How far a device's answers are from the golden ones.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// Cases compared.
    pub(crate) cases: usize,
    /// Of these, all candidates' texts equal.
    pub(crate) equal: usize,
    /// Largest difference of a score, where the texts are equal.
    pub(crate) score: f64,
    /// Attention matrices compared, and the largest difference in them.
    pub(crate) matrices: usize,
    pub(crate) weight: f64,
}

/// Compares one search of a model with its golden answers, all cases in batches of mixed lengths.
pub(crate) fn agreement(model: &Model, cases: &[Value], key: &str, beam: usize, device: Device) -> Agreement {
    let cases: Vec<&Value> = cases.iter().filter(|c| !c[key].is_null()).collect();
    let texts: Vec<SourceText> = cases.iter().map(|c| source(c)).collect();
    let decoding = Decoding { beam, top: beam, weights: beam == 1, ..Decoding::default() };
    let found = transliterate(model, &mut *device(model), &texts, &decoding).unwrap();
    let mut out = Agreement::default();
    for (case, found) in cases.iter().zip(found) {
        let wanted: Vec<Value> = match &case[key] {
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        out.cases += 1;
        let texts: Vec<&str> = wanted.iter().map(|w| w["text"].as_str().unwrap()).collect();
        if texts != found.candidates.iter().map(|c| c.text.as_str()).collect::<Vec<_>>() {
            println!("{}: wanted {texts:?}, found {:?}", case["in"], found.candidates);
            continue;
        }
        out.equal += 1;
        for (wanted, found) in wanted.iter().zip(&found.candidates) {
            out.score = out.score.max((wanted["score"].as_f64().unwrap() - f64::from(found.score)).abs());
        }
        if let (Some(rows), Some(weights)) = (case["attention"].as_array(), &found.weights) {
            let wanted: Vec<f64> =
                rows.iter().flat_map(|r| r.as_array().unwrap()).map(|v| v.as_f64().unwrap()).collect();
            assert_eq!(weights.shape(), [rows.len(), rows[0].as_array().unwrap().len()]);
            assert_eq!([found.target_labels.len(), found.source_labels.len()], weights.shape());
            let worst = weights.data().iter().zip(&wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            out.matrices += 1;
            out.weight = out.weight.max(worst);
        }
    }
    out
}

/// The golden answers of arabic-names.
pub(crate) fn arabic_names(device: Device) {
    let (model, cases) = (Model::from_folder(&folder("arabic-names")).unwrap(), golden(&folder("arabic-names")));
    assert_eq!(cases.len(), 336);
    for (key, beam) in [("greedy", 1), ("beam2", 2)] {
        let found = agreement(&model, &cases, key, beam, device);
        println!("arabic-names {key}: {found:?}");
        assert_eq!(found.cases, 336);
        assert!(found.equal as f64 >= 0.995 * found.cases as f64, "{key}: {found:?}");
        assert!(found.score < 1e-3, "{key}: {found:?}");
        assert_eq!(found.matrices, if beam == 1 { 20 } else { 0 });
        assert!(found.weight < 2e-3, "{key}: {found:?}");
    }
}

/// The golden answers of khmer.
pub(crate) fn khmer(device: Device) {
    let (model, cases) = (Model::from_folder(&folder("khmer")).unwrap(), golden(&folder("khmer")));
    assert_eq!(cases.len(), 100);
    for (key, beam) in [("greedy", 1), ("beam3", 3)] {
        let found = agreement(&model, &cases, key, beam, device);
        println!("khmer {key}: {found:?}");
        assert_eq!((found.cases, found.equal), (100, 100), "{key}: {found:?}");
        assert!(found.score < 1e-3, "{key}: {found:?}");
        assert_eq!(found.matrices, if beam == 1 { 10 } else { 0 });
        assert!(found.weight < 2e-3, "{key}: {found:?}");
    }
}

#[test]
fn arabic_names_on_the_cpu() {
    arabic_names(cpu);
}

#[test]
fn khmer_on_the_cpu() {
    khmer(cpu);
}

fn on_gpu(model: &Model) -> Box<dyn Network + '_> {
    Box::new(GpuNetwork::new(model, crate::gpu::gpu()).unwrap())
}

#[test]
fn arabic_names_on_the_gpu() {
    arabic_names(on_gpu);
}

#[test]
fn khmer_on_the_gpu() {
    khmer(on_gpu);
}
