//! A model's answers beside those of its original runtime (`golden.json`).
//!
//! The network comes from a [`Device`], so that every device meets the same answers.

use std::path::Path;

use regard::seq2seq::{Decoding, Model, Network, SourceText, transliterate};
use serde_json::Value;

/// Makes a model's network on some device.
pub(crate) type Device = for<'m> fn(&'m Model) -> Box<dyn Network + 'm>;

/// The native CPU backend.
pub(crate) fn cpu(model: &Model) -> Box<dyn Network + '_> {
    Box::new(model.network(regard::Cpu::new()).unwrap())
}

/// The reference.
pub(crate) fn reference(model: &Model) -> Box<dyn Network + '_> {
    Box::new(model.network(regard::backend::Reference::<f32>::default()).unwrap())
}

/// The cases of the golden file in a model's folder, those with options among them.
pub(crate) fn cases(folder: &Path) -> Vec<Value> {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("golden.json")).unwrap()).unwrap();
    let list = |name: &str| file[name].as_array().cloned().unwrap_or_default();
    [list("cases"), list("hinted")].concat()
}

/// The text of a case.
pub(crate) fn source(case: &Value) -> SourceText {
    let mut source = SourceText::from(case["in"].as_str().unwrap());
    for option in ["country", "role"] {
        if let Some(value) = case[option].as_str() {
            source.options.insert(option.to_owned(), value.to_owned());
        }
    }
    source
}

/// How far answers are from the golden ones.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// Cases compared.
    pub(crate) cases: usize,
    /// Of these, with the same source ids.
    pub(crate) ids: usize,
    /// Of these, with the same text of every candidate.
    pub(crate) equal: usize,
    /// Largest difference of a score where the texts are the same.
    pub(crate) score: f64,
    /// Attention matrices compared.
    pub(crate) matrices: usize,
    /// Largest difference of an attention weight.
    pub(crate) weight: f64,
}

/// Compares one search of a model (`greedy`, `beam2` …) with its golden answers, all cases at once.
pub(crate) fn agreement(model: &Model, cases: &[Value], key: &str, beam: usize, device: Device) -> Agreement {
    let cases: Vec<&Value> = cases.iter().filter(|c| !c[key].is_null()).collect();
    let texts: Vec<SourceText> = cases.iter().map(|c| source(c)).collect();
    let decoding = Decoding { beam, top: beam, weights: beam == 1, ..Decoding::default() };
    let found = transliterate(model, &mut *device(model), &texts, &decoding).unwrap();
    let mut out = Agreement { cases: cases.len(), ..Agreement::default() };
    for ((case, text), found) in cases.iter().zip(&texts).zip(found) {
        let ids: Vec<u32> = model.read(text).unwrap().sources.into_iter().flat_map(|s| s.ids).collect();
        out.ids += usize::from(case["ids"] == Value::from(ids));
        let wanted: Vec<&Value> = match &case[key] {
            Value::Array(list) => list.iter().collect(),
            one => vec![one],
        };
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
            let rows: Vec<&Vec<Value>> = rows.iter().map(|r| r.as_array().unwrap()).collect();
            assert_eq!(weights.shape(), [rows.len(), rows[0].len()]);
            assert_eq!(weights.shape(), [found.target_labels.len(), found.source_labels.len()]);
            let wanted = rows.iter().flat_map(|r| r.iter()).map(|v| v.as_f64().unwrap());
            let worst = weights.data().iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            out.matrices += 1;
            out.weight = out.weight.max(worst);
        }
    }
    out
}
