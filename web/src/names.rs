//! Names written in another script, with the attention between the letters.

use std::cell::RefCell;
use std::collections::BTreeMap;

use regard::backend::DeviceRun;
use regard::seq2seq::{Decoding, Model, ModelNetwork, SourceText, transliterate_async};
use serde::Deserialize;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::engine::Engine;
use crate::{parsed, thrown};

/// How an answer is searched for.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    beam: usize,
    top: usize,
    /// Values of the model's options, such as a country.
    options: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { beam: 1, top: 1, options: BTreeMap::new() }
    }
}

/// A model on a device.
#[wasm_bindgen]
pub struct Transliterator {
    model: &'static Model,
    network: RefCell<ModelNetwork<'static, DeviceRun<'static>>>,
}

#[wasm_bindgen]
impl Transliterator {
    /// From a model's card and its file of tensors. It stays in memory as long as the page: make one for each model and device.
    #[wasm_bindgen(constructor)]
    pub fn new(engine: &Engine, card: &str, weights: &[u8]) -> Result<Transliterator, JsError> {
        let model: &'static Model = Box::leak(Box::new(Model::from_bytes(card, weights).map_err(thrown)?));
        let device = Box::leak(Box::new(engine.device.clone()));
        let network = RefCell::new(model.network(device.run()).map_err(thrown)?);
        Ok(Self { model, network })
    }

    /// The answer to a text as JSON: `output`, `candidates` with scores, `weights` with a row for each of `target_labels` and a
    /// column for each of `source_labels`, `warnings`. One at a time.
    // The borrow is the lock: who comes while it is held is told so.
    #[allow(clippy::await_holding_refcell_ref)]
    pub async fn answer(&self, text: String, options: String) -> Result<String, JsError> {
        let Options { beam, top, options } = parsed(&options)?;
        let busy = |_| JsError::new("the model is answering another text: wait for it");
        let mut network = self.network.try_borrow_mut().map_err(busy)?;
        let decoding = Decoding { beam, top, weights: true, ..Decoding::default() };
        let text = SourceText { text, options };
        let answers = transliterate_async(self.model, &mut *network, &[text], &decoding).await.map_err(thrown)?;
        let Some(answer) = answers.into_iter().next() else {
            return Err(JsError::new("no answer came back"));
        };
        let weights: Vec<&[f32]> = match &answer.weights {
            Some(weights) => weights.data().chunks_exact(weights.shape()[1].max(1)).collect(),
            None => Vec::new(),
        };
        let candidates: Vec<_> = answer.candidates.iter().map(|c| json!({"text": c.text, "score": c.score})).collect();
        let answer = json!({
            "output": answer.output,
            "candidates": candidates,
            "source_labels": answer.source_labels,
            "target_labels": answer.target_labels,
            "weights": weights,
            "warnings": answer.warnings,
        });
        Ok(answer.to_string())
    }
}
