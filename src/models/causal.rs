//! Decoder-only language models: GPT-2 and LLaMA.

use std::path::Path;

use serde::Deserialize;

use super::config::{activation, found, json, needed};
use crate::attention::{Attention, Causal, Mask, Rotary, RotaryEmbedding, RotaryLayout};
use crate::backend::{Backend, Epilogue, IntegersOf};
use crate::error::{Error, Result};
use crate::layers::{
    BlockWeights, Cache, EncoderWeights, LoadedTransformer, NormOrder, NormWeights, TransformerBlock,
    TransformerEncoder, Visible,
};
use crate::norm::Norm;
use crate::reference::gumbel;
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
        let path = folder.join("config.json");
        let config: Config = json(&path)?;
        let store = Store::open(&folder.join("model.safetensors"))?;
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
        let table = |name: &str| find(name).ok_or_else(|| Error::missing(name, "[rows, E]"));
        let name = config.activation_function.as_deref().unwrap_or("gelu_new");
        let block = TransformerBlock {
            order: NormOrder::Pre,
            activation: activation(path, "activation_function", name)?,
            attention: Attention { causal: Some(Causal::TopLeft), ..Attention::default() },
            ..TransformerBlock::new(heads, config.layer_norm_epsilon.unwrap_or(1e-5))
        };
        let blocks = (0..layers).map(|n| BlockWeights::from_gpt2(&format!("h.{n}."), find)).collect::<Result<_>>()?;
        let norm = Some(NormWeights { weight: Some(table("ln_f.weight")?), bias: find("ln_f.bias") });
        let position = table("wpe.weight")?;
        if position.shape()[0] < positions {
            return Err(Error::shape("wpe.weight", "axis 0 (positions)", positions, position.shape()[0]));
        }
        let (word, head) = (table("wte.weight")?, found(store, "lm_head.weight"));
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
        let table = |name: &str| find(name).ok_or_else(|| Error::missing(name, "[rows, E]"));
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
        let (word, head) = (table("model.embed_tokens.weight")?, find("lm_head.weight"));
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
        let word = b.constant("word", &self.word)?;
        let position = self.position.as_ref().map(|position| b.constant("position", position)).transpose()?;
        let head = match &self.head {
            Some(head) => b.constant("head", head)?,
            None => word.clone(),
        };
        let rotary = match self.theta {
            None => None,
            Some(theta) => {
                let [cos, sin] = Rotary::tables(theta, self.head_width(), self.positions)?;
                let tables = [b.constant("rotary_cos", &cos)?, b.constant("rotary_sin", &sin)?];
                Some(RotaryEmbedding::new(Rotary { layout: RotaryLayout::HalfSplit, offset: 0 }, tables))
            }
        };
        Ok(CausalNetwork { model: self, backend, word, position, head, rotary, blocks, running: None })
    }

    /// D.
    fn head_width(&self) -> usize {
        let joined = self.weights.blocks.first().and_then(|block| block.output.weight.shape().get(1).copied());
        joined.unwrap_or(0) / self.block.heads
    }
}

/// The most probable tokens, with their log-probabilities, of the logits of all.
fn log_probabilities(logits: &[f32], count: usize) -> Vec<(u32, f64)> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, &x| largest.max(x));
    let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    order.truncate(count);
    let of = |token: u32| (token, f64::from(logits[token as usize] - largest) - sum.ln());
    order.into_iter().map(of).collect()
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Sampling {
    /// The most probable one.
    #[default]
    Greedy,
    /// Drawn from the k most probable ones, by softmax(logits / temperature) over them; the same seed draws the same.
    TopK {
        /// How many are drawn from; all, where that is more than there are.
        k: usize,
        /// Above 0.
        temperature: f32,
        /// Any number.
        seed: u32,
    },
}

/// What texts are continued with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Generation {
    /// Tokens at most.
    pub most: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// The token that ends a text, which is its last then.
    pub end: Option<u32>,
}

/// How the most probable continuations are looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beam {
    /// Continuations that are kept of each text.
    pub width: usize,
    /// Tokens at most.
    pub most: usize,
    /// The token that ends a text, which is its last then.
    pub end: Option<u32>,
    /// In the end continuations are ordered by log-probability / length^this: 0 by the probability itself, 1 by the mean of
    /// their tokens' log-probabilities.
    pub length_exponent: f64,
}

/// A continuation that a search has found.
#[derive(Debug, Clone, PartialEq)]
pub struct Continuation {
    /// Its tokens, the one that ends it included.
    pub tokens: Vec<u32>,
    /// The sum of their log-probabilities.
    pub log_probability: f64,
}

impl Continuation {
    fn extended(&self, token: u32, log_probability: f64) -> Self {
        let tokens = [&self.tokens[..], &[token]].concat();
        Self { tokens, log_probability: self.log_probability + log_probability }
    }
}

/// A [`CausalModel`] on a backend.
pub struct CausalNetwork<'m, B: Backend> {
    model: &'m CausalModel,
    backend: B,
    word: B::Value,
    position: Option<B::Value>,
    head: B::Value,
    rotary: Option<RotaryEmbedding<B::Value>>,
    blocks: LoadedTransformer<B::Value>,
    running: Option<Running<B::Value>>,
}

/// What lasts from one token to the next.
struct Running<V> {
    cache: Cache<V>,
    /// Of each text, how many places before it are filled up: texts end together.
    before: Vec<usize>,
    /// Places so far.
    length: usize,
}

impl<B: Backend> CausalNetwork<'_, B> {
    /// The logits [B, V] of the token after each text.
    ///
    /// # Errors
    /// [`Error::Shape`] for a text without tokens or with more than there are positions, and those of the backend.
    pub fn start(&mut self, texts: &[Vec<u32>]) -> Result<Array> {
        let logits = self.begin(texts)?;
        self.read(&logits)
    }

    /// The logits [B, V] of the token after one more of each text.
    ///
    /// # Errors
    /// [`Error::Missing`] before [`CausalNetwork::start`], [`Error::Shape`] for another number of texts or one that gets too
    /// long, and those of the backend.
    pub fn step(&mut self, tokens: &[u32]) -> Result<Array> {
        let logits = self.go_on(tokens)?;
        self.read(&logits)
    }

    /// What each text goes on with. A token is one submission, and of its logits nothing but the candidates is read.
    ///
    /// # Errors
    /// As [`CausalNetwork::start`], and [`Error::Option`] for a temperature that is not above 0 or no candidate.
    pub fn generate(&mut self, texts: &[Vec<u32>], options: &Generation) -> Result<Vec<Vec<u32>>> {
        let candidates = match options.sampling {
            Sampling::Greedy => 1,
            Sampling::TopK { k: 0, .. } => return Err(Error::option("k", "must be at least 1")),
            Sampling::TopK { temperature, .. } if !(temperature > 0.0 && temperature.is_finite()) => {
                return Err(Error::option("temperature", format!("must be above 0 and finite, not {temperature}")));
            }
            Sampling::TopK { k, .. } => k.min(self.model.words()),
        };
        let mut answers = vec![Vec::new(); texts.len()];
        let ended = |answer: &Vec<u32>| options.end.is_some() && answer.last().copied() == options.end;
        for n in 0..options.most {
            let logits = match n {
                0 => self.begin(texts)?,
                _ => {
                    let last: Vec<u32> =
                        answers.iter().map(|answer: &Vec<u32>| answer.last().copied().unwrap_or(0)).collect();
                    self.go_on(&last)?
                }
            };
            let chosen = self.choose(&logits, candidates, options.sampling, n * texts.len())?;
            for (answer, token) in answers.iter_mut().zip(chosen) {
                if !ended(answer) {
                    answer.push(token);
                }
            }
            if answers.iter().all(ended) {
                break;
            }
        }
        Ok(answers)
    }

    /// The most probable continuations of each text that a beam search finds, best first, at most [`Beam::width`]:
    /// ```text
    /// beam ← [nothing yet]
    /// until all have ended, at most `most` times:
    ///     candidates ← those that have ended ∪ each other one extended by its `width` most probable tokens
    ///     beam ← the `width` candidates with the largest sums of log-probabilities
    /// ```
    ///
    /// # Errors
    /// As [`CausalNetwork::start`], and [`Error::Option`] for a width that is not from 1 to the number of words.
    pub fn beam(&mut self, texts: &[Vec<u32>], options: &Beam) -> Result<Vec<Vec<Continuation>>> {
        let Beam { width, most, end, length_exponent } = *options;
        if width == 0 || width > self.model.words() {
            return Err(Error::option("width", format!("must be from 1 to {} words, not {width}", self.model.words())));
        }
        let nothing = Continuation { tokens: Vec::new(), log_probability: 0.0 };
        let mut beams = vec![vec![nothing]; texts.len()];
        let ended = |found: &Continuation| end.is_some() && found.tokens.last().copied() == end;
        // Row of each continuation in what was computed last: one a text at first, then `width`.
        let mut each = 1;
        for n in 0..most {
            let logits = match n {
                0 => self.start(texts)?,
                _ => {
                    let row = |k: usize| beams[k / width].get(k % width);
                    let last = |k: usize| row(k).and_then(|found| found.tokens.last().copied()).unwrap_or(0);
                    let tokens: Vec<u32> = (0..texts.len() * width).map(last).collect();
                    self.step(&tokens)?
                }
            };
            let words = self.model.words();
            let mut parents = Vec::with_capacity(texts.len() * width);
            for (text, beam) in beams.iter_mut().enumerate() {
                let mut candidates: Vec<(usize, Continuation)> = Vec::new();
                for (k, found) in beam.iter().enumerate() {
                    let row = text * each + k;
                    if ended(found) {
                        candidates.push((row, found.clone()));
                        continue;
                    }
                    let best = log_probabilities(&logits.data()[row * words..][..words], width);
                    candidates.extend(best.into_iter().map(|(token, log)| (row, found.extended(token, log))));
                }
                candidates.sort_by(|(_, a), (_, b)| b.log_probability.total_cmp(&a.log_probability));
                candidates.truncate(width);
                // Rows without a continuation compute along.
                let rows = candidates.iter().map(|&(row, _)| row).chain(std::iter::repeat(text * each));
                parents.extend(rows.take(width).map(|row| row as u32));
                *beam = candidates.into_iter().map(|(_, found)| found).collect();
            }
            if beams.iter().flatten().all(ended) || n + 1 == most {
                break;
            }
            self.continue_rows(&parents)?;
            each = width;
        }
        let score =
            |found: &Continuation| found.log_probability / (found.tokens.len().max(1) as f64).powf(length_exponent);
        for beam in &mut beams {
            beam.sort_by(|a, b| score(b).total_cmp(&score(a)));
        }
        Ok(beams)
    }

    /// Row r goes on from row `rows[r]`.
    fn continue_rows(&mut self, rows: &[u32]) -> Result<()> {
        let Some(running) = &mut self.running else {
            return Err(Error::missing("texts", "what goes on"));
        };
        running.cache = running.cache.of_rows(&mut self.backend, rows)?;
        running.before = rows.iter().map(|&row| running.before[row as usize]).collect();
        Ok(())
    }

    /// One token a row of the logits [B, V]; `row` numbers the first of them among all draws.
    fn choose(&mut self, logits: &B::Value, candidates: usize, sampling: Sampling, row: usize) -> Result<Vec<u32>> {
        let (values, ids) = self.backend.top_k(logits, candidates)?;
        let Sampling::TopK { temperature, seed, .. } = sampling else {
            return Ok(self.backend.read_integers_blocking(&[&ids])?.remove(0).into_data());
        };
        // One submission gives both.
        let values = self.backend.read_blocking(&[&values])?.remove(0);
        let ids = self.backend.read_integers_blocking(&[&ids])?.remove(0);
        let rows = values.data().chunks_exact(candidates).zip(ids.data().chunks_exact(candidates));
        let draw = |(n, (values, ids)): (usize, (&[f32], &[u32]))| {
            // The largest of scores with Gumbel noise is a draw from their softmax.
            let noisy = |&(&value, &id): &(&f32, &u32)| value / temperature + gumbel(seed, (row + n) as u32, id);
            let best = values.iter().zip(ids).max_by(|a, b| noisy(a).total_cmp(&noisy(b)));
            best.map_or(0, |(_, &id)| id)
        };
        Ok(rows.enumerate().map(draw).collect())
    }

    fn begin(&mut self, texts: &[Vec<u32>]) -> Result<B::Value> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        if texts.is_empty() {
            return Err(Error::missing("texts", "at least one"));
        }
        if let Some(n) = texts.iter().position(Vec::is_empty) {
            return Err(Error::shape(format!("text {n}"), "tokens", "at least 1", 0));
        }
        let before = texts.iter().map(|text| longest - text.len()).collect();
        let cache = self.blocks.cache(&mut self.backend, texts.len())?;
        self.running = Some(Running { cache, before, length: 0 });
        // Filled up in front.
        let padded = texts.iter().map(|text| [vec![0; longest - text.len()], text.clone()].concat());
        self.feed(&padded.collect::<Vec<_>>().concat())
    }

    fn go_on(&mut self, tokens: &[u32]) -> Result<B::Value> {
        let texts = self.running.as_ref().map(|running| running.before.len());
        match texts {
            None => Err(Error::missing("texts", "what goes on: `start` comes first")),
            Some(texts) if texts != tokens.len() => Err(Error::shape("tokens", "texts", texts, tokens.len())),
            Some(_) => self.feed(tokens),
        }
    }

    /// Tokens [B, N]: the logits [B, V] after the last of them.
    fn feed(&mut self, tokens: &[u32]) -> Result<B::Value> {
        let result = self.record(tokens);
        if result.is_err() {
            self.backend.discard();
            self.running = None;
        }
        result
    }

    fn record(&mut self, tokens: &[u32]) -> Result<B::Value> {
        let Self { model, backend: b, word, position, head, rotary, blocks, running } = self;
        let running = running.as_mut().ok_or_else(|| Error::missing("texts", "what goes on"))?;
        let batch = running.before.len();
        let count = tokens.len() / batch;
        let (first, length) = (running.length, running.length + count);
        if length > model.positions {
            return Err(Error::shape("text", "tokens", format!("at most {}", model.positions), length));
        }
        let shape = [batch, count];
        let mut x = b.embed(word, &Array::new(&shape, tokens.to_vec())?)?;
        if let Some(position) = position {
            let place = |k: usize| (first + k % count).saturating_sub(running.before[k / count]) as u32;
            let places = b.embed(position, &Array::from_fn(&shape, place))?;
            x = b.add(&x, &places)?;
        }
        let mut visible = Visible { rotary: rotary.clone(), ..Visible::default() };
        if running.before.iter().any(|&before| before > 0) {
            let seen = |k: usize| u32::from(k % length >= running.before[k / length]);
            let mask: IntegersOf<B> = b.integers("mask", &Array::from_fn(&[batch, 1, 1, length], seen))?;
            visible.mask = Some(Mask::Bool(mask));
        }
        let hidden = blocks.forward_cached(b, &x, &visible, &mut running.cache)?;
        running.length = length;
        let last = b.slice(&hidden, 1, count - 1, 1)?;
        let last = b.reshape(&last, &[batch, blocks.channels()])?;
        b.linear(&[(&last, head)], Epilogue::default())
    }

    fn read(&mut self, logits: &B::Value) -> Result<Array> {
        Ok(self.backend.read_blocking(&[logits])?.remove(0))
    }
}
