//! Decoder-only language models: GPT-2 and LLaMA.

use std::path::Path;

use serde::Deserialize;

use super::config::{activation, found, needed};
use super::decoding::{Beam, Begin, Continuation, Decoder, Generation};
use super::files::Files;
use crate::attention::{Attention, Causal, Rotary, RotaryEmbedding, RotaryLayout};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::layers::{
    BlockWeights, Embedding, EncoderWeights, Linear, NormOrder, NormWeights, TransformerBlock, TransformerEncoder,
};
use crate::norm::Norm;
use crate::store::Store;
use crate::tensor::Array;

/// `config.json` of both families.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    n_layer: Option<usize>,
    n_head: Option<usize>,
    n_positions: Option<usize>,
    activation_function: Option<String>,
    layer_norm_epsilon: Option<f32>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    max_position_embeddings: Option<usize>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<RopeParameters>,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    scale_attn_weights: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

/// A decoder-only language model: the logits of a text's next token (Radford et al. 2019, "GPT-2"; Touvron et al. 2023,
/// "LLaMA"):
/// ```text
/// x_n = word[id_n] (+ position[n], of GPT-2)
/// h = norm(blocks(x))                       pre-norm, each token sees those before it; rotary positions, of LLaMA
/// logits = head · h                         the table of words again where the model has no other
/// ```
#[derive(Debug, Clone)]
pub struct CausalModel {
    block: TransformerBlock,
    /// [V, E].
    word: Array,
    /// [positions, E], of GPT-2.
    position: Option<Array>,
    /// θ of the rotary embedding, of LLaMA.
    theta: Option<f64>,
    positions: usize,
    weights: EncoderWeights<Array>,
    /// [V, E], where it is not the table of words.
    head: Option<Array>,
}

impl CausalModel {
    /// From a folder with `config.json` and `model.safetensors` of a GPT-2 or LLaMA.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read or asks for what is not computed here, [`Error::Missing`] and
    /// [`Error::Shape`] when the weights are not those of the configuration.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        Self::from_files(Files::Folder(folder))
    }

    /// As [`CausalModel::from_folder`], from files that may be in memory.
    ///
    /// # Errors
    /// As [`CausalModel::from_folder`].
    pub fn from_files(files: Files<'_>) -> Result<Self> {
        let path = files.path("config.json");
        let config: Config = files.json("config.json")?;
        let store = files.store("model.safetensors")?;
        match config.model_type.as_str() {
            "gpt2" => Self::gpt2(&path, &config, &store),
            "llama" => Self::llama(&path, &config, &store),
            other => Err(Error::file(&path, format!("`model_type` is `{other}`; gpt2 and llama can be read"))),
        }
    }

    fn gpt2(path: &Path, config: &Config, store: &Store) -> Result<Self> {
        if config.scale_attn_by_inverse_layer_idx {
            return Err(Error::file(path, "`scale_attn_by_inverse_layer_idx` is true, which is not computed here"));
        }
        if config.scale_attn_weights == Some(false) {
            return Err(Error::file(path, "`scale_attn_weights` is false, which is not computed here"));
        }
        let [layers, heads, positions] = [
            needed(path, "n_layer", config.n_layer)?,
            needed(path, "n_head", config.n_head)?,
            needed(path, "n_positions", config.n_positions)?,
        ];
        let prefix = if store.contains("transformer.wte.weight") { "transformer." } else { "" };
        let find = |name: &str| found(store, &format!("{prefix}{name}"));
        let table = |name: &str| find(name)?.ok_or_else(|| Error::missing(name, "[rows, E]"));
        let name = config.activation_function.as_deref().unwrap_or("gelu_new");
        let block = TransformerBlock {
            order: NormOrder::Pre,
            activation: activation(path, "activation_function", name)?,
            attention: Attention { causal: Some(Causal::TopLeft), ..Attention::default() },
            ..TransformerBlock::new(heads, config.layer_norm_epsilon.unwrap_or(1e-5))
        };
        let blocks = (0..layers).map(|n| BlockWeights::from_gpt2(&format!("h.{n}."), find)).collect::<Result<_>>()?;
        let norm = Some(NormWeights { weight: Some(table("ln_f.weight")?), bias: find("ln_f.bias")? });
        let position = table("wpe.weight")?;
        if position.shape()[0] < positions {
            return Err(Error::shape("wpe.weight", "axis 0 (positions)", positions, position.shape()[0]));
        }
        let (word, head) = (table("wte.weight")?, found(store, "lm_head.weight")?);
        let weights = EncoderWeights { blocks, norm };
        Self { block, word, position: Some(position), theta: None, positions, weights, head }.checked()
    }

    fn llama(path: &Path, config: &Config, store: &Store) -> Result<Self> {
        let kind = config.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref()).unwrap_or("default");
        if kind != "default" || config.rope_scaling.as_ref().is_some_and(|scaling| !scaling.is_null()) {
            let reason = "`rope_scaling` asks for scaled rotary positions, which are not computed here";
            return Err(Error::file(path, reason));
        }
        let [layers, heads, positions] = [
            needed(path, "num_hidden_layers", config.num_hidden_layers)?,
            needed(path, "num_attention_heads", config.num_attention_heads)?,
            needed(path, "max_position_embeddings", config.max_position_embeddings)?,
        ];
        let theta = config.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).or(config.rope_theta);
        let find = |name: &str| found(store, name);
        let table = |name: &str| find(name)?.ok_or_else(|| Error::missing(name, "[rows, E]"));
        let name = config.hidden_act.as_deref().unwrap_or("silu");
        let block = TransformerBlock {
            kv_heads: config.num_key_value_heads.unwrap_or(heads),
            order: NormOrder::Pre,
            norm: Norm::rms(config.rms_norm_eps.unwrap_or(1e-6)),
            activation: activation(path, "hidden_act", name)?,
            attention: Attention { causal: Some(Causal::TopLeft), ..Attention::default() },
            ..TransformerBlock::new(heads, 1.0)
        };
        let of_layer = |n| BlockWeights::from_llama(&format!("model.layers.{n}."), find);
        let blocks = (0..layers).map(of_layer).collect::<Result<_>>()?;
        let norm = Some(NormWeights { weight: Some(table("model.norm.weight")?), bias: None });
        let (word, head) = (table("model.embed_tokens.weight")?, find("lm_head.weight")?);
        let (weights, theta) = (EncoderWeights { blocks, norm }, Some(theta.unwrap_or(10_000.0)));
        Self { block, word, position: None, theta, positions, weights, head }.checked()
    }

    /// Itself, if its tables fit one another.
    fn checked(self) -> Result<Self> {
        let &[words, channels] = self.word.shape() else {
            return Err(Error::shape("table of words", "rank", "2 [V, E]", self.word.shape().len()));
        };
        let head = self.head.as_ref().map(|head| ("lm_head.weight", head, words));
        let position = self.position.as_ref().map(|position| ("wpe.weight", position, position.shape()[0]));
        for (name, table, rows) in head.into_iter().chain(position) {
            if table.shape() != [rows, channels] {
                let (wanted, found) = (format!("[{rows}, {channels}]"), format!("{:?}", table.shape()));
                return Err(Error::shape(name, "shape", wanted, found));
            }
        }
        Ok(self)
    }

    /// V.
    pub fn words(&self) -> usize {
        self.word.shape()[0]
    }

    /// Tokens that a text may have, what is generated included.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The network on a backend, with its weights there.
    ///
    /// # Errors
    /// [`Error::Shape`] when the weights do not fit one another, and those of the backend.
    pub fn network<B: Backend>(&self, mut backend: B) -> Result<CausalNetwork<'_, B>> {
        let b = &mut backend;
        let blocks = TransformerEncoder { block: self.block.clone() }.load(b, &self.weights)?;
        let host = Embedding { position: self.position.clone(), ..Embedding::new(self.word.clone()) };
        let embedding = host.try_map(|name, array| b.constant(name, array))?;
        let head = match &self.head {
            Some(head) => b.constant("head", head)?,
            None => embedding.word.clone(),
        };
        let rotary = match self.theta {
            None => None,
            Some(theta) => {
                let [cos, sin] = Rotary::tables(theta, self.head_width(), self.positions)?;
                let tables = [b.constant("rotary_cos", &cos)?, b.constant("rotary_sin", &sin)?];
                Some(RotaryEmbedding::new(Rotary { layout: RotaryLayout::HalfSplit, offset: 0 }, tables))
            }
        };
        let decoder = Decoder::new(embedding, blocks, rotary, Linear::new(head), self.positions);
        Ok(CausalNetwork { model: self, backend, decoder })
    }

    /// D.
    fn head_width(&self) -> usize {
        let joined = self.weights.blocks.first().and_then(|block| block.output.weight.shape().get(1).copied());
        joined.unwrap_or(0) / self.block.heads
    }
}

/// A [`CausalModel`] on a backend.
pub struct CausalNetwork<'m, B: Backend> {
    model: &'m CausalModel,
    backend: B,
    decoder: Decoder<B>,
}

impl<B: Backend> CausalNetwork<'_, B> {
    /// The model.
    pub fn model(&self) -> &CausalModel {
        self.model
    }

    /// The logits [B, V] of the token after each text.
    ///
    /// # Errors
    /// [`Error::Shape`] for a text without tokens or with more than there are positions, and those of the backend.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn start(&mut self, texts: &[Vec<u32>]) -> Result<Array> {
        let driver = self.backend.driver();
        driver.wait(self.start_async(texts))
    }

    /// As [`CausalNetwork::start`], without blocking.
    ///
    /// # Errors
    /// As [`CausalNetwork::start`].
    pub async fn start_async(&mut self, texts: &[Vec<u32>]) -> Result<Array> {
        self.decoder.start(&mut self.backend, texts, &Begin { width: 1, most: 1, memory: None }).await
    }

    /// The logits [B, V] of the token after one more of each text.
    ///
    /// # Errors
    /// [`Error::Missing`] before [`CausalNetwork::start`], [`Error::Shape`] for another number of texts or one that gets too
    /// long, and those of the backend.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn step(&mut self, tokens: &[u32]) -> Result<Array> {
        let driver = self.backend.driver();
        driver.wait(self.step_async(tokens))
    }

    /// As [`CausalNetwork::step`], without blocking.
    ///
    /// # Errors
    /// As [`CausalNetwork::step`].
    pub async fn step_async(&mut self, tokens: &[u32]) -> Result<Array> {
        self.decoder.step(&mut self.backend, tokens).await
    }

    /// What each text goes on with. Texts are read in one submission; a token that is drawn is another one, of which nothing but
    /// the candidates is read. Greedy search on a GPU submits eight tokens at once: each goes into the next without leaving the
    /// device. Keys and values lie in memory for all tokens, and a step is recorded once and submitted again.
    ///
    /// # Errors
    /// As [`CausalNetwork::start`], and [`Error::Option`] for a temperature that is not above 0 or no candidate.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn generate(&mut self, texts: &[Vec<u32>], options: &Generation) -> Result<Vec<Vec<u32>>> {
        let driver = self.backend.driver();
        driver.wait(self.generate_async(texts, options))
    }

    /// As [`CausalNetwork::generate`], without blocking.
    ///
    /// # Errors
    /// As [`CausalNetwork::generate`].
    pub async fn generate_async(&mut self, texts: &[Vec<u32>], options: &Generation) -> Result<Vec<Vec<u32>>> {
        self.decoder.generate(&mut self.backend, texts, None, options).await
    }

    /// The most probable continuations of each text that a beam search finds, best first, at most [`Beam::width`]:
    /// ```text
    /// beam ← [nothing yet]
    /// until all have ended, at most `most` times:
    ///     candidates ← those that have ended ∪ each other one extended by its `width` most probable tokens
    ///     beam ← the `width` candidates with the largest sums of log-probabilities
    /// ```
    /// A token is one submission, of which the candidates are read. Continuations share the keys and values that they have in
    /// common: none are copied.
    ///
    /// # Errors
    /// As [`CausalNetwork::start`], and [`Error::Option`] for a width that is not from 1 to the number of words.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn beam(&mut self, texts: &[Vec<u32>], options: &Beam) -> Result<Vec<Vec<Continuation>>> {
        let driver = self.backend.driver();
        driver.wait(self.beam_async(texts, options))
    }

    /// As [`CausalNetwork::beam`], without blocking.
    ///
    /// # Errors
    /// As [`CausalNetwork::beam`].
    pub async fn beam_async(&mut self, texts: &[Vec<u32>], options: &Beam) -> Result<Vec<Vec<Continuation>>> {
        self.decoder.beam(&mut self.backend, texts, None, options).await
    }
}
