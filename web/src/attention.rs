//! Attention over typed arrays.

use regard::attention::{Attention, AttentionInputs, Causal, Mask, Normalize, Window};
use regard::backend::Backend;
use regard::tensor::Array;
use serde::Deserialize;
use wasm_bindgen::prelude::*;

use crate::engine::Engine;
use crate::{one, parsed, thrown};

/// The problem: query [batch, heads, queries, dim], key [batch, kv_heads, keys, dim], value [batch, kv_heads, keys, value_dim].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Problem {
    #[serde(default = "one")]
    batch: usize,
    #[serde(default = "one")]
    heads: usize,
    kv_heads: Option<usize>,
    queries: usize,
    keys: usize,
    dim: usize,
    value_dim: Option<usize>,
    #[serde(default)]
    causal: bool,
    window: Option<u32>,
    scale: Option<f32>,
    softcap: Option<f32>,
    /// `softmax`, `hardmax`, `sparsemax` or, with a seed, `sample`.
    normalize: Option<String>,
    #[serde(default)]
    seed: u32,
    /// Shape of the mask, which is added to the scores.
    mask_shape: Option<Vec<usize>>,
    /// Of each batch row, how many keys are real.
    lengths: Option<Vec<u32>>,
    #[serde(default)]
    weights: bool,
}

/// What attention gives.
#[wasm_bindgen]
pub struct Attended {
    output: Vec<f32>,
    weights: Option<Vec<f32>>,
}

#[wasm_bindgen]
impl Attended {
    /// [batch, heads, queries, value_dim].
    #[wasm_bindgen(getter)]
    pub fn output(&self) -> Vec<f32> {
        self.output.clone()
    }

    /// [batch, heads, queries, keys], if asked for.
    #[wasm_bindgen(getter)]
    pub fn weights(&self) -> Option<Vec<f32>> {
        self.weights.clone()
    }
}

#[wasm_bindgen]
impl Engine {
    /// Attention; `problem` as JSON says the shapes and options.
    pub async fn attention(
        &self,
        problem: String,
        query: Vec<f32>,
        key: Vec<f32>,
        value: Vec<f32>,
        mask: Option<Vec<f32>>,
    ) -> Result<Attended, JsError> {
        let p: Problem = parsed(&problem)?;
        let (kv_heads, value_dim) = (p.kv_heads.unwrap_or(p.heads), p.value_dim.unwrap_or(p.dim));
        let array = |shape: &[usize], data| Array::new(shape, data).map_err(thrown);
        let mut inputs = AttentionInputs::new(
            array(&[p.batch, p.heads, p.queries, p.dim], query)?,
            array(&[p.batch, kv_heads, p.keys, p.dim], key)?,
            array(&[p.batch, kv_heads, p.keys, value_dim], value)?,
        );
        inputs.mask = match mask {
            Some(mask) => {
                let shape = p.mask_shape.unwrap_or_else(|| vec![p.queries, p.keys]);
                Some(Mask::Float(array(&shape, mask)?))
            }
            None => None,
        };
        inputs.kv_lengths = match p.lengths {
            Some(lengths) => Some(Array::new(&[lengths.len()], lengths).map_err(thrown)?),
            None => None,
        };
        let normalize = match p.normalize.as_deref().unwrap_or("softmax") {
            "softmax" => Normalize::Softmax,
            "hardmax" => Normalize::Hardmax,
            "sparsemax" => Normalize::Sparsemax,
            "sample" => Normalize::Sample { seed: p.seed },
            other => {
                let known = "softmax, hardmax, sparsemax and sample are known";
                return Err(JsError::new(&format!("`normalize` is `{other}`; {known}")));
            }
        };
        let options = Attention {
            normalize,
            causal: p.causal.then_some(Causal::TopLeft),
            window: p.window.map(|left| Window::new(Some(left), None)),
            scale: p.scale,
            softcap: p.softcap,
            weights: p.weights,
            ..Attention::default()
        };
        let mut run = self.device.run();
        let inputs = run.inputs(&inputs, regard::tensor::DType::F32).map_err(thrown)?;
        let outputs = run.attention(&options, &inputs).map_err(thrown)?;
        let mut wanted = vec![&outputs.output];
        wanted.extend(&outputs.weights);
        let mut read = run.read(&wanted).await.map_err(thrown)?.into_iter().map(Array::into_data);
        Ok(Attended { output: read.next().unwrap_or_default(), weights: read.next() })
    }
}
