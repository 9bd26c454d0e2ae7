//! Sentence encoders of the BERT family.

use std::path::Path;

use tokenizers::{Tokenizer, TruncationParams};

use super::config::{Family, Pooling, SentenceConfig, found};
use super::files::Files;
use crate::attention::Attention;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::layers::{
    BlockWeights, EncoderOutputs, EncoderWeights, LoadedTransformer, NormOrder, NormWeights, TransformerBlock,
    TransformerEncoder, Visible,
};
use crate::norm::Norm;
use crate::store::Store;
use crate::tensor::Array;

/// A sentence encoder: tokens of a text through Transformer blocks, and one vector of them (Devlin et al. 2019, "BERT";
/// Reimers and Gurevych 2019, "Sentence-BERT"):
/// ```text
/// x_n = norm(word[id_n] + position[n] + type[0])
/// h = blocks(x)                                      post-norm, see TransformerBlock
/// v = mean of h over the text's tokens, or h of the first one
/// ```
pub struct SentenceEncoder {
    config: SentenceConfig,
    tokenizer: Tokenizer,
    /// [V, E].
    word: Array,
    /// [positions, E], with the first token type's row added: most texts have no other.
    position: Array,
    /// [types, E], each without the first; of DistilBERT none.
    types: Option<Array>,
    norm: NormWeights<Array>,
    weights: EncoderWeights<Array>,
}

impl std::fmt::Debug for SentenceEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SentenceEncoder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Tensors by the names that the family has for them, behind whatever stands before all of them.
struct Tensors<'s> {
    store: &'s Store,
    prefix: &'static str,
}

impl Tensors<'_> {
    fn find(&self, name: &str) -> Result<Option<Array>> {
        found(self.store, &format!("{}{name}", self.prefix))
    }

    fn table(&self, name: &str, channels: usize) -> Result<Array> {
        let table = self.store.get(&format!("{}{name}", self.prefix))?;
        match *table.shape() {
            [_, found] if found == channels => Ok(table),
            ref shape => Err(Error::shape(
                name,
                "shape",
                format!("[rows, {channels}], as `config.json` says"),
                format!("{shape:?}"),
            )),
        }
    }
}

impl SentenceEncoder {
    /// From a folder with `config.json`, `tokenizer.json` and `model.safetensors`; with `1_Pooling/config.json` and
    /// `sentence_bert_config.json` where they are there.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read or asks for what is not computed here, [`Error::Missing`] and
    /// [`Error::Shape`] when the weights are not those of the configuration.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        Self::from_files(Files::Folder(folder))
    }

    /// As [`SentenceEncoder::from_folder`], from files that may be in memory.
    ///
    /// # Errors
    /// As [`SentenceEncoder::from_folder`].
    pub fn from_files(files: Files<'_>) -> Result<Self> {
        let config = SentenceConfig::of_files(files)?;
        let path = files.path("tokenizer.json");
        let text = files.text("tokenizer.json")?;
        let mut tokenizer: Tokenizer = text.parse().map_err(|error| Error::file(&path, format!("{error}")))?;
        let truncation = TruncationParams { max_length: config.most_tokens, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| Error::file(&path, error.to_string()))?;
        tokenizer.with_padding(None);

        let store = files.store("model.safetensors")?;
        let prefix = ["", "bert.", "distilbert."]
            .into_iter()
            .find(|prefix| store.contains(&format!("{prefix}embeddings.word_embeddings.weight")))
            .ok_or_else(|| Error::missing("embeddings.word_embeddings.weight", "[V, E], the table of words"))?;
        let tensors = Tensors { store: &store, prefix };
        let word = tensors.table("embeddings.word_embeddings.weight", config.channels)?;
        let mut position = tensors.table("embeddings.position_embeddings.weight", config.channels)?;
        if position.shape()[0] < config.most_tokens {
            let expected = format!("at least {}", config.most_tokens);
            let found = position.shape()[0];
            return Err(Error::shape("embeddings.position_embeddings.weight", "axis 0 (positions)", expected, found));
        }
        let types = match config.family {
            Family::DistilBert => None,
            Family::Bert => {
                let mut types = tensors.table("embeddings.token_type_embeddings.weight", config.channels)?;
                let first = types.data()[..config.channels].to_vec();
                for row in position.data_mut().chunks_exact_mut(config.channels) {
                    row.iter_mut().zip(&first).for_each(|(x, first)| *x += first);
                }
                for row in types.data_mut().chunks_exact_mut(config.channels) {
                    row.iter_mut().zip(&first).for_each(|(x, first)| *x -= first);
                }
                Some(types)
            }
        };
        let find = |name: &str| tensors.find(name);
        let block = |n: usize| match config.family {
            Family::Bert => BlockWeights::from_bert(&format!("encoder.layer.{n}."), find),
            Family::DistilBert => BlockWeights::from_distilbert(&format!("transformer.layer.{n}."), find),
        };
        let blocks = (0..config.layers).map(block).collect::<Result<_>>()?;
        let of_norm = |kind: &str| find(&format!("embeddings.LayerNorm.{kind}"));
        let weight = of_norm("weight")?.ok_or_else(|| Error::missing("embeddings.LayerNorm.weight", "[E]"))?;
        let norm = NormWeights { weight: Some(weight), bias: of_norm("bias")? };
        Ok(Self { config, tokenizer, word, position, types, norm, weights: EncoderWeights { blocks, norm: None } })
    }

    /// What its configuration says.
    pub fn config(&self) -> &SentenceConfig {
        &self.config
    }

    /// The same with another pooling.
    #[must_use]
    pub fn with_pooling(mut self, pooling: Pooling) -> Self {
        self.config.pooling = pooling;
        self
    }

    /// The tokens of a text, special ones included, as many as are read, and whether the text has more.
    ///
    /// # Errors
    /// [`Error::Text`] when the tokenizer does not take it.
    pub fn tokens(&self, text: &str) -> Result<(Vec<u32>, bool)> {
        let encoding = self
            .tokenizer
            .encode(text, true)
            .map_err(|error| Error::Text { text: text.to_owned(), reason: error.to_string() })?;
        Ok((encoding.get_ids().to_vec(), !encoding.get_overflowing().is_empty()))
    }

    /// What a token is, to be read.
    pub fn label(&self, token: u32) -> String {
        self.tokenizer.id_to_token(token).unwrap_or_else(|| token.to_string())
    }

    /// The network on a backend, with its weights there.
    ///
    /// # Errors
    /// [`Error::Shape`] when the weights do not fit one another, and those of the backend.
    pub fn network<B: Backend>(&self, mut backend: B) -> Result<SentenceNetwork<'_, B>> {
        let b = &mut backend;
        let block = TransformerBlock {
            attention: Attention::default(),
            order: NormOrder::Post,
            activation: self.config.activation,
            ..TransformerBlock::new(self.config.heads, self.config.epsilon)
        };
        let mut given = |name: &str, array: &Option<Array>| array.as_ref().map(|a| b.constant(name, a)).transpose();
        let norm = NormWeights {
            weight: given("embeddings.LayerNorm.weight", &self.norm.weight)?,
            bias: given("embeddings.LayerNorm.bias", &self.norm.bias)?,
        };
        let types = given("embeddings.token_type_embeddings", &self.types)?;
        let (word, position) = (b.constant("word", &self.word)?, b.constant("position", &self.position)?);
        let blocks = TransformerEncoder { block }.load(b, &self.weights)?;
        Ok(SentenceNetwork { encoder: self, backend, word, position, types, norm, blocks })
    }
}

/// A [`SentenceEncoder`] on a backend.
pub struct SentenceNetwork<'m, B: Backend> {
    encoder: &'m SentenceEncoder,
    backend: B,
    word: B::Value,
    position: B::Value,
    types: Option<B::Value>,
    norm: NormWeights<B::Value>,
    blocks: LoadedTransformer<B::Value>,
}

/// What became of a batch of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// [B, E], as pooled.
    pub vectors: Array,
    /// Of each block and before the first one, [B, N, E], if asked for.
    pub hidden: Vec<Array>,
    /// [B, H, N, N] of one block, if asked for.
    pub attention: Option<Array>,
}

impl<B: Backend> SentenceNetwork<'_, B> {
    /// One vector for each text of a batch, given as tokens: one submission. `attention` asks for the weights of a block.
    ///
    /// # Errors
    /// [`Error::Shape`] for a text without tokens or with more than there are positions, and those of the backend.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn encode(&mut self, texts: &[Vec<u32>], attention: Option<usize>) -> Result<Encoded> {
        let driver = self.backend.driver();
        driver.wait(self.encode_async(texts, attention))
    }

    /// As [`SentenceNetwork::encode`], without blocking.
    ///
    /// # Errors
    /// As [`SentenceNetwork::encode`].
    pub async fn encode_async(&mut self, texts: &[Vec<u32>], attention: Option<usize>) -> Result<Encoded> {
        self.run(texts, None, attention, false).await
    }

    /// As [`SentenceNetwork::encode`], with a type for each token where there are any, and every block's result.
    ///
    /// # Errors
    /// As [`SentenceNetwork::encode`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn inspect(&mut self, texts: &[Vec<u32>], types: Option<&[Vec<u32>]>, attention: usize) -> Result<Encoded> {
        let driver = self.backend.driver();
        driver.wait(self.run(texts, types, Some(attention), true))
    }

    async fn run(
        &mut self,
        texts: &[Vec<u32>],
        types: Option<&[Vec<u32>]>,
        attention: Option<usize>,
        hidden: bool,
    ) -> Result<Encoded> {
        let config = &self.encoder.config;
        if let Some(layer) = attention.filter(|&layer| layer >= self.blocks.layers()) {
            let reason = format!("there are {} layers, from 0 on: no {layer}", self.blocks.layers());
            return Err(Error::option("layer", reason));
        }
        let (batch, longest) = (texts.len(), texts.iter().map(Vec::len).max().unwrap_or(0));
        if batch == 0 {
            let vectors = Array::new(&[0, config.channels], Vec::new())?;
            return Ok(Encoded { vectors, hidden: Vec::new(), attention: None });
        }
        for (n, text) in texts.iter().enumerate() {
            if text.is_empty() || text.len() > config.positions {
                let expected = format!("1 to {}", config.positions);
                return Err(Error::shape(format!("text {n}"), "tokens", expected, text.len()));
            }
        }
        let result = self.record(texts, types, attention, hidden, longest);
        let (pooled, outputs) = result.inspect_err(|_| self.backend.discard())?;
        let mut wanted = vec![&pooled];
        wanted.extend(&outputs.hidden);
        wanted.extend(&outputs.weights);
        let mut read = self.backend.read(&wanted).await?;
        let attention = outputs.weights.as_ref().and_then(|_| read.pop());
        let hidden = read.split_off(1);
        let vectors = read.pop().ok_or_else(|| Error::missing("vectors", "what was read back"))?;
        Ok(Encoded { vectors, hidden, attention })
    }

    /// [B, E] and what the blocks gave.
    fn record(
        &mut self,
        texts: &[Vec<u32>],
        types: Option<&[Vec<u32>]>,
        attention: Option<usize>,
        hidden: bool,
        longest: usize,
    ) -> Result<(B::Value, EncoderOutputs<B::Value>)> {
        let Self { encoder, backend: b, word, position, types: type_table, norm, blocks } = self;
        let config = &encoder.config;
        let shape = [texts.len(), longest];
        let padded = |rows: &[Vec<u32>], padding: u32| {
            Array::from_fn(&shape, |k| {
                rows.get(k / longest).and_then(|row| row.get(k % longest)).copied().unwrap_or(padding)
            })
        };
        let words = b.embed(word, &padded(texts, config.padding))?;
        let mut places = b.embed(position, &Array::from_fn(&shape, |k| (k % longest) as u32))?;
        if let (Some(types), Some(table)) = (types, type_table) {
            let types = b.embed(table, &padded(types, 0))?;
            places = b.add(&places, &types)?;
        }
        let layer_norm = Norm::layer(config.epsilon);
        let [x, _] = b.norm_residual(layer_norm, &words, &places, norm.weight.as_ref(), norm.bias.as_ref())?;
        let lengths = Array::from_fn(&[texts.len()], |n| texts[n].len() as u32);
        let lengths = b.integers("lengths", &lengths)?;
        let visible = Visible { lengths: Some(lengths.clone()), ..Visible::default() };
        let outputs = blocks.forward(b, &x, &visible, hidden, attention)?;
        let pooled = match config.pooling {
            Pooling::Mean => {
                let turned = b.permute(&outputs.output, &[0, 2, 1])?;
                b.mean(&turned, Some(&lengths))?
            }
            Pooling::Cls => {
                let first = b.slice(&outputs.output, 1, 0, 1)?;
                b.reshape(&first, &[texts.len(), config.channels])?
            }
        };
        Ok((pooled, outputs))
    }
}

/// Each row [.., E] divided by its length, so that products of rows are cosines; a row of zeros stays.
pub fn normalize(vectors: &mut Array) {
    let width = vectors.shape().last().copied().unwrap_or(1).max(1);
    for row in vectors.data_mut().chunks_exact_mut(width) {
        let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    }
}
