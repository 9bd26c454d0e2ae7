//! Encoder–decoders: BART and Marian.

use std::path::Path;

use serde::Deserialize;

use super::config::{activation, found, needed};
use super::decoding::{Beam, Begin, Continuation, Decoder, Generation, check_tokens};
use super::files::Files;
use crate::attention::{Attention, Causal};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::layers::{
    BlockWeights, Embedding, EncoderWeights, Linear, LoadedTransformer, Memory, NormWeights, SinusoidLayout,
    TransformerBlock, TransformerEncoder, Visible, sinusoidal,
};
use crate::norm::Norm;
use crate::rnn::Activation;
use crate::store::Store;
use crate::tensor::Array;

/// ε of the families' layer norms.
const EPSILON: f32 = 1e-5;

/// Rows that BART's tables of positions begin with and nobody reads.
const BART_OFFSET: usize = 2;

/// `config.json` of both families.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    d_model: Option<usize>,
    encoder_layers: Option<usize>,
    decoder_layers: Option<usize>,
    encoder_attention_heads: Option<usize>,
    decoder_attention_heads: Option<usize>,
    max_position_embeddings: Option<usize>,
    activation_function: Option<String>,
    #[serde(default)]
    scale_embedding: bool,
    share_encoder_decoder_embeddings: Option<bool>,
    #[serde(default)]
    normalize_before: bool,
    #[serde(default)]
    add_final_layer_norm: bool,
    normalize_embedding: Option<bool>,
    static_position_embeddings: Option<bool>,
    #[serde(flatten)]
    generation: GenerationConfig,
}

/// What both `config.json` and `generation_config.json` may say; the latter counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GenerationConfig {
    decoder_start_token_id: Option<u32>,
    forced_bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    bad_words_ids: Option<Vec<Vec<u32>>>,
}

/// An encoder–decoder: a text as tokens, and the answer to it token by token (Vaswani et al. 2017, "Attention Is All You Need";
/// Lewis et al. 2020, "BART"; Junczys-Dowmunt et al. 2018, "Marian"):
/// ```text
/// x_n = norm(scale · word[id_n] + position[n])      sines and cosines of Marian, without a norm; learned of BART, with one
/// memory = encoder blocks(x)                        post-norm
/// h = decoder blocks(y, memory)                     each token of the answer sees those before it, and the whole memory
/// logits = word · h + bias                          the same table of words on both sides and here
/// ```
#[derive(Debug, Clone)]
pub struct EncoderDecoderModel {
    encoder: Side,
    decoder: Side,
    /// Of the logits `[V]`.
    bias: Option<Array>,
    positions: usize,
    prefix: Vec<u32>,
    end: Option<u32>,
    forbidden: Vec<u32>,
}

/// One half.
#[derive(Debug, Clone)]
struct Side {
    block: TransformerBlock,
    embedding: Embedding<Array>,
    weights: EncoderWeights<Array>,
}

/// What both halves are read from.
struct Source<'a> {
    path: &'a Path,
    config: &'a Config,
    store: &'a Store,
    activation: Activation,
    word: Array,
    positions: usize,
}

impl EncoderDecoderModel {
    /// From a folder with `config.json` and `model.safetensors` of a BART or Marian; with `generation_config.json` where it is
    /// there, of which the tokens that answers begin and end with are read, and those that they never have.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read or asks for what is not computed here, [`Error::Missing`] and
    /// [`Error::Shape`] when the weights are not those of the configuration.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        Self::from_files(Files::Folder(folder))
    }

    /// As [`EncoderDecoderModel::from_folder`], from files that may be in memory.
    ///
    /// # Errors
    /// As [`EncoderDecoderModel::from_folder`].
    pub fn from_files(files: Files<'_>) -> Result<Self> {
        let path = files.path("config.json");
        let mut config: Config = files.json("config.json")?;
        let refuse = |reason: String| Err(Error::file(&path, reason));
        match config.model_type.as_str() {
            "bart" | "marian" => {}
            other => return refuse(format!("`model_type` is `{other}`; bart and marian can be read")),
        }
        let marian = config.model_type == "marian";
        for (field, value, wanted) in [
            ("normalize_before", Some(config.normalize_before), false),
            ("add_final_layer_norm", Some(config.add_final_layer_norm), false),
            ("normalize_embedding", config.normalize_embedding, !marian),
            ("static_position_embeddings", config.static_position_embeddings, marian),
            ("share_encoder_decoder_embeddings", config.share_encoder_decoder_embeddings, true),
        ] {
            if value.is_some_and(|value| value != wanted) {
                return refuse(format!("`{field}` is {}, which is not computed here", !wanted));
            }
        }
        if files.has("generation_config.json") {
            let own: GenerationConfig = files.json("generation_config.json")?;
            let before = std::mem::take(&mut config.generation);
            config.generation = GenerationConfig {
                decoder_start_token_id: own.decoder_start_token_id.or(before.decoder_start_token_id),
                forced_bos_token_id: own.forced_bos_token_id.or(before.forced_bos_token_id),
                eos_token_id: own.eos_token_id.or(before.eos_token_id),
                bad_words_ids: own.bad_words_ids.or(before.bad_words_ids),
            };
        }
        let GenerationConfig { decoder_start_token_id, forced_bos_token_id, eos_token_id, bad_words_ids } =
            &config.generation;
        let Some(start) = decoder_start_token_id else {
            return refuse("`decoder_start_token_id` is missing".to_owned());
        };
        let mut forbidden = Vec::new();
        for words in bad_words_ids.iter().flatten() {
            match *words.as_slice() {
                [word] => forbidden.push(word),
                _ => {
                    return refuse(
                        "`bad_words_ids` has words of several tokens, which are not looked for here".to_owned(),
                    );
                }
            }
        }
        let store = files.store("model.safetensors")?;
        let positions = needed(&path, "max_position_embeddings", config.max_position_embeddings)?;
        let word = found(&store, "model.shared.weight")?
            .ok_or_else(|| Error::missing("model.shared.weight", "[V, E], the table of words"))?;
        let channels = needed(&path, "d_model", config.d_model)?;
        let &[words, found_channels] = word.shape() else {
            return Err(Error::shape("model.shared.weight", "rank", "2 [V, E]", word.shape().len()));
        };
        if found_channels != channels {
            return Err(Error::shape("model.shared.weight", "axis 1 (channels)", channels, found_channels));
        }
        for (name, token) in
            [("decoder_start_token_id", Some(start)), ("forced_bos_token_id", forced_bos_token_id.as_ref())]
        {
            if let Some(token) = token.filter(|token| **token as usize >= words) {
                return refuse(format!("`{name}` is {token}, but there are {words} words"));
            }
        }
        let bias = match found(&store, "final_logits_bias")? {
            Some(bias) if bias.data().len() == words => Some(bias.reshape(&[words])?),
            Some(bias) => {
                let shape = format!("{:?}", bias.shape());
                return Err(Error::shape("final_logits_bias", "shape", format!("[1, {words}]"), shape));
            }
            None => None,
        };
        let name = config.activation_function.as_deref().unwrap_or("gelu");
        let activation = activation(&path, "activation_function", name)?;
        let source = Source { path: &path, config: &config, store: &store, activation, word, positions };
        let encoder = source.side("encoder", config.encoder_layers, config.encoder_attention_heads, None)?;
        let causal = Some(Causal::TopLeft);
        let decoder = source.side("decoder", config.decoder_layers, config.decoder_attention_heads, causal)?;
        let prefix = std::iter::once(*start).chain(*forced_bos_token_id).collect();
        let end = *eos_token_id;
        Ok(Self { encoder, decoder, bias, positions, prefix, end, forbidden })
    }

    /// V.
    pub fn words(&self) -> usize {
        self.decoder.embedding.word.shape()[0]
    }

    /// Tokens that a text may have, and its answer.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The tokens that every answer begins with, which are not part of it.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The token that ends an answer, if the folder says.
    pub fn end(&self) -> Option<u32> {
        self.end
    }

    /// The network on a backend, with its weights there.
    ///
    /// # Errors
    /// [`Error::Shape`] when the weights do not fit one another, and those of the backend.
    pub fn network<B: Backend>(&self, mut backend: B) -> Result<EncoderDecoderNetwork<'_, B>> {
        let b = &mut backend;
        let mut load = |side: &Side| {
            let blocks = TransformerEncoder { block: side.block.clone() }.load(b, &side.weights)?;
            Ok::<_, Error>((side.embedding.try_map(|name, array| b.constant(name, array))?, blocks))
        };
        let (embedding, encoder) = load(&self.encoder)?;
        let (of_decoder, blocks) = load(&self.decoder)?;
        let bias = self.bias.as_ref().map(|bias| b.constant("final_logits_bias", bias)).transpose()?;
        let head = Linear::with(of_decoder.word.clone(), bias);
        // Both halves look up the same table.
        let embedding = Embedding { word: of_decoder.word.clone(), ..embedding };
        let decoder = Decoder::new(of_decoder, blocks, None, head, self.positions).without(b, &self.forbidden)?;
        Ok(EncoderDecoderNetwork { model: self, backend, embedding, encoder, decoder })
    }
}

impl Source<'_> {
    fn side(&self, name: &str, layers: Option<usize>, heads: Option<usize>, causal: Option<Causal>) -> Result<Side> {
        let Self { path, config, store, activation, word, positions } = self;
        let layers = needed(path, &format!("{name}_layers"), layers)?;
        let heads = needed(path, &format!("{name}_attention_heads"), heads)?;
        let channels = word.shape()[1];
        if !channels.is_multiple_of(heads) {
            let reason = format!("`{name}_attention_heads` is {heads}, which does not divide {channels} channels");
            return Err(Error::file(path, reason));
        }
        let block = TransformerBlock {
            activation: *activation,
            attention: Attention { causal, ..Attention::default() },
            ..TransformerBlock::new(heads, EPSILON)
        };
        let find = |tensor: &str| found(store, tensor);
        let table = |tensor: &str| {
            let tensor = format!("model.{name}.{tensor}");
            find(&tensor)?.ok_or_else(|| Error::missing(tensor, "[E] or [rows, E]"))
        };
        let marian = config.model_type == "marian";
        let position = match marian {
            true => sinusoidal(*positions, channels, SinusoidLayout::Halves)?,
            false => {
                let table = table("embed_positions.weight")?;
                let expected = [positions + BART_OFFSET, channels];
                if table.shape() != expected {
                    let found = format!("{:?}", table.shape());
                    let tensor = format!("model.{name}.embed_positions.weight");
                    return Err(Error::shape(tensor, "shape", format!("{expected:?}"), found));
                }
                Array::new(&[*positions, channels], table.data()[BART_OFFSET * channels..].to_vec())?
            }
        };
        let norm = match marian {
            true => None,
            false => {
                let weight = Some(table("layernorm_embedding.weight")?);
                let bias = Some(table("layernorm_embedding.bias")?);
                Some((Norm::layer(EPSILON), NormWeights { weight, bias }))
            }
        };
        let scale = config.scale_embedding.then(|| Array::filled(&[1, 1, 1], (channels as f32).sqrt()));
        let of_layer = |n| BlockWeights::from_bart(&format!("model.{name}.layers.{n}."), find);
        let blocks = (0..layers).map(of_layer).collect::<Result<_>>()?;
        let embedding = Embedding { word: word.clone(), scale, position: Some(position), norm };
        Ok(Side { block, embedding, weights: EncoderWeights { blocks, norm: None } })
    }
}

/// An [`EncoderDecoderModel`] on a backend.
pub struct EncoderDecoderNetwork<'m, B: Backend> {
    model: &'m EncoderDecoderModel,
    backend: B,
    embedding: Embedding<B::Value>,
    encoder: LoadedTransformer<B::Value>,
    decoder: Decoder<B>,
}

impl<B: Backend> EncoderDecoderNetwork<'_, B> {
    /// The model.
    pub fn model(&self) -> &EncoderDecoderModel {
        self.model
    }

    /// The encoder's states of texts, [B, N, E] of the longest.
    ///
    /// # Errors
    /// [`Error::Shape`] for a text without tokens or with more than there are positions, and those of the backend.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn encode(&mut self, texts: &[Vec<u32>]) -> Result<Array> {
        let driver = self.backend.driver();
        driver.wait(self.encode_async(texts))
    }

    /// As [`EncoderDecoderNetwork::encode`], without blocking.
    ///
    /// # Errors
    /// As [`EncoderDecoderNetwork::encode`].
    pub async fn encode_async(&mut self, texts: &[Vec<u32>]) -> Result<Array> {
        let memory = self.memory(texts)?;
        let read = self.backend.read(&[&memory.states]).await;
        read?.pop().ok_or_else(|| Error::missing("memory", "what was read back"))
    }

    /// The logits [B, V] of the token that each text's answer begins with, behind [`EncoderDecoderModel::prefix`].
    ///
    /// # Errors
    /// As [`EncoderDecoderNetwork::encode`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn start(&mut self, texts: &[Vec<u32>]) -> Result<Array> {
        let driver = self.backend.driver();
        driver.wait(self.start_async(texts))
    }

    /// As [`EncoderDecoderNetwork::start`], without blocking.
    ///
    /// # Errors
    /// As [`EncoderDecoderNetwork::start`].
    pub async fn start_async(&mut self, texts: &[Vec<u32>]) -> Result<Array> {
        let memory = self.memory(texts)?;
        let answers = vec![self.model.prefix.clone(); texts.len()];
        let begin = Begin { width: 1, most: 1, memory: Some(&memory) };
        self.decoder.start(&mut self.backend, &answers, &begin).await
    }

    /// The logits [B, V] of the token after one more of each answer.
    ///
    /// # Errors
    /// [`Error::Missing`] before [`EncoderDecoderNetwork::start`], [`Error::Shape`] for another number of answers or one that
    /// gets too long, and those of the backend.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn step(&mut self, tokens: &[u32]) -> Result<Array> {
        let driver = self.backend.driver();
        driver.wait(self.step_async(tokens))
    }

    /// As [`EncoderDecoderNetwork::step`], without blocking.
    ///
    /// # Errors
    /// As [`EncoderDecoderNetwork::step`].
    pub async fn step_async(&mut self, tokens: &[u32]) -> Result<Array> {
        self.decoder.step(&mut self.backend, tokens).await
    }

    /// The answer to each text, without the tokens that every answer begins with. Texts are encoded and answers begun in one
    /// submission; then as [`CausalNetwork::generate`](super::CausalNetwork::generate).
    ///
    /// # Errors
    /// As [`EncoderDecoderNetwork::encode`], and [`Error::Option`] for a temperature that is not above 0 or no candidate.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn generate(&mut self, texts: &[Vec<u32>], options: &Generation) -> Result<Vec<Vec<u32>>> {
        let driver = self.backend.driver();
        driver.wait(self.generate_async(texts, options))
    }

    /// As [`EncoderDecoderNetwork::generate`], without blocking.
    ///
    /// # Errors
    /// As [`EncoderDecoderNetwork::generate`].
    pub async fn generate_async(&mut self, texts: &[Vec<u32>], options: &Generation) -> Result<Vec<Vec<u32>>> {
        let memory = self.memory(texts)?;
        let answers = vec![self.model.prefix.clone(); texts.len()];
        self.decoder.generate(&mut self.backend, &answers, Some(&memory), options).await
    }

    /// The most probable answers to each text that a beam search finds, best first, as
    /// [`CausalNetwork::beam`](super::CausalNetwork::beam). The answers to a text share its memory.
    ///
    /// # Errors
    /// As [`EncoderDecoderNetwork::encode`], and [`Error::Option`] for a width that is not from 1 to the number of words.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn beam(&mut self, texts: &[Vec<u32>], options: &Beam) -> Result<Vec<Vec<Continuation>>> {
        let driver = self.backend.driver();
        driver.wait(self.beam_async(texts, options))
    }

    /// As [`EncoderDecoderNetwork::beam`], without blocking.
    ///
    /// # Errors
    /// As [`EncoderDecoderNetwork::beam`].
    pub async fn beam_async(&mut self, texts: &[Vec<u32>], options: &Beam) -> Result<Vec<Vec<Continuation>>> {
        let memory = self.memory(texts)?;
        let answers = vec![self.model.prefix.clone(); texts.len()];
        self.decoder.beam(&mut self.backend, &answers, Some(&memory), options).await
    }

    fn memory(&mut self, texts: &[Vec<u32>]) -> Result<Memory<B::Value>> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        if texts.is_empty() {
            return Err(Error::missing("texts", "at least one"));
        }
        let (positions, words) = (self.model.positions, self.model.words());
        for (n, text) in texts.iter().enumerate() {
            if text.is_empty() || text.len() > positions {
                return Err(Error::shape(format!("text {n}"), "tokens", format!("1 to {positions}"), text.len()));
            }
            check_tokens(&format!("text {n}"), text, words)?;
        }
        let Self { backend: b, embedding, encoder, .. } = self;
        // What an earlier call asked for and did not answer, as with 0 tokens, is not to be done with this one.
        b.discard();
        let mut record = || {
            let shape = [texts.len(), longest];
            let padded = |k: usize| texts[k / longest].get(k % longest).copied().unwrap_or(0);
            let tokens = b.integers("tokens", &Array::from_fn(&shape, padded))?;
            let places = b.integers("positions", &Array::from_fn(&shape, |k| (k % longest) as u32))?;
            let lengths = Array::from_fn(&[texts.len()], |n| texts[n].len() as u32);
            let lengths = b.integers("lengths", &lengths)?;
            let x = embedding.forward(b, &tokens, &places)?;
            let visible = Visible { lengths: Some(lengths.clone()), ..Visible::default() };
            let states = encoder.forward(b, &x, &visible, false, None)?.output;
            Ok(Memory { states, lengths: Some(lengths), mask: None })
        };
        let recorded = record();
        recorded.inspect_err(|_| self.backend.discard())
    }
}
