//! A sentence encoder: what its heads attend to.

use std::cell::RefCell;
use std::collections::BTreeMap;

use regard::backend::DeviceRun;
use regard::models::{Files, SentenceEncoder, SentenceNetwork, normalize};
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::engine::Engine;
use crate::thrown;

/// The files of a model, one after the other.
#[wasm_bindgen]
#[derive(Default)]
pub struct ModelFiles(BTreeMap<String, Vec<u8>>);

#[wasm_bindgen]
impl ModelFiles {
    /// None yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more, by its path within the folder.
    pub fn add(&mut self, name: String, bytes: Vec<u8>) {
        self.0.insert(name, bytes);
    }
}

/// A sentence encoder on a device.
#[wasm_bindgen]
pub struct Sentences {
    encoder: &'static SentenceEncoder,
    network: RefCell<SentenceNetwork<'static, DeviceRun<'static>>>,
    layers: usize,
}

#[wasm_bindgen]
impl Sentences {
    /// From the files of a BERT or DistilBERT as Hugging Face has them. It stays in memory as long as the page.
    #[wasm_bindgen(constructor)]
    pub fn new(engine: &Engine, files: ModelFiles) -> Result<Sentences, JsError> {
        let encoder = SentenceEncoder::from_files(Files::Memory(&files.0)).map_err(thrown)?;
        drop(files);
        let encoder: &'static SentenceEncoder = Box::leak(Box::new(encoder));
        let device = Box::leak(Box::new(engine.device.clone()));
        let network = RefCell::new(encoder.network(device.run()).map_err(thrown)?);
        Ok(Self { encoder, network, layers: encoder.config().layers })
    }

    /// Blocks.
    #[wasm_bindgen(getter)]
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// A sentence as JSON: `tokens`, the `heads` of a layer [heads][tokens][tokens], and its normalised `vector`. One at a time.
    // The borrow is the lock: who comes while it is held is told so.
    #[allow(clippy::await_holding_refcell_ref)]
    pub async fn encode(&self, text: String, layer: usize) -> Result<String, JsError> {
        let busy = |_| JsError::new("the model is encoding another sentence: wait for it");
        let mut network = self.network.try_borrow_mut().map_err(busy)?;
        let (tokens, cut) = self.encoder.tokens(&text).map_err(thrown)?;
        let labels: Vec<String> = tokens.iter().map(|&token| self.encoder.label(token)).collect();
        let count = tokens.len();
        let mut encoded = network.encode_async(&[tokens], Some(layer)).await.map_err(thrown)?;
        normalize(&mut encoded.vectors);
        let heads: Vec<Vec<&[f32]>> = match &encoded.attention {
            Some(weights) => {
                weights.data().chunks_exact(count * count).map(|head| head.chunks_exact(count).collect()).collect()
            }
            None => Vec::new(),
        };
        let found = json!({ "tokens": labels, "cut": cut, "heads": heads, "vector": encoded.vectors.data() });
        Ok(found.to_string())
    }
}
