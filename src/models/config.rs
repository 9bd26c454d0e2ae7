//! What the configuration files of a folder say.

use std::path::Path;

use serde::Deserialize;

use super::files::Files;
use crate::error::{Error, Result};
use crate::rnn::Activation;
use crate::store::Store;
use crate::tensor::Array;

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token, `[CLS]`.
    Cls,
}

/// A sentence encoder's network.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SentenceConfig {
    /// Where its tensors have their names from.
    pub(super) family: Family,
    /// E.
    pub channels: usize,
    /// Blocks.
    pub layers: usize,
    /// H.
    pub heads: usize,
    /// f of the feed-forward layers.
    pub activation: Activation,
    /// ε of the layer norms.
    pub epsilon: f32,
    /// Rows of the position table.
    pub positions: usize,
    /// Tokens that are read of a text, at most.
    pub most_tokens: usize,
    /// How the tokens' vectors become one; the mean where the folder does not say.
    pub pooling: Pooling,
    /// The token that fills up a batch.
    pub padding: u32,
}

/// Which names tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Bert,
    DistilBert,
}

/// `config.json` of both families.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    hidden_size: Option<usize>,
    dim: Option<usize>,
    num_hidden_layers: Option<usize>,
    n_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    n_heads: Option<usize>,
    hidden_act: Option<String>,
    activation: Option<String>,
    layer_norm_eps: Option<f32>,
    max_position_embeddings: Option<usize>,
    position_embedding_type: Option<String>,
    pad_token_id: Option<u32>,
    is_decoder: Option<bool>,
    add_cross_attention: Option<bool>,
}

/// `1_Pooling/config.json`; older ones have no such flags as newer ones.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PoolingConfig {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
    pooling_mode_weightedmean_tokens: bool,
    pooling_mode_lasttoken: bool,
}

#[derive(Debug, Deserialize)]
struct SentenceBertConfig {
    max_seq_length: Option<usize>,
}

impl SentenceConfig {
    /// Reads the configuration.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read, or asks for what is not computed here.
    pub(super) fn of_files(files: Files<'_>) -> Result<Self> {
        let path = files.path("config.json");
        let config: Config = files.json("config.json")?;
        let refuse = |field: &str, reason: String| Err(Error::file(&path, format!("`{field}` {reason}")));
        let family = match config.model_type.as_str() {
            "bert" => Family::Bert,
            "distilbert" => Family::DistilBert,
            "mpnet" => {
                let reason = "is `mpnet`, whose relative positions are not computed here: take a BERT or DistilBERT";
                return refuse("model_type", reason.to_owned());
            }
            other => return refuse("model_type", format!("is `{other}`; bert and distilbert can be read")),
        };
        if let Some(positions) = config.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return refuse("position_embedding_type", format!("is `{positions}`; only `absolute` is computed here"));
        }
        for (field, value) in [("is_decoder", config.is_decoder), ("add_cross_attention", config.add_cross_attention)] {
            if value == Some(true) {
                return refuse(field, "is true, but this is read as an encoder".to_owned());
            }
        }
        let needed = |field: &str, value: Option<usize>| needed(&path, field, value);
        let distil = family == Family::DistilBert;
        let [channels, layers, heads] = match distil {
            false => [
                needed("hidden_size", config.hidden_size)?,
                needed("num_hidden_layers", config.num_hidden_layers)?,
                needed("num_attention_heads", config.num_attention_heads)?,
            ],
            true => {
                [needed("dim", config.dim)?, needed("n_layers", config.n_layers)?, needed("n_heads", config.n_heads)?]
            }
        };
        if !channels.is_multiple_of(heads) {
            return refuse("num_attention_heads", format!("is {heads}, which does not divide {channels} channels"));
        }
        let (field, name) = match distil {
            false => ("hidden_act", config.hidden_act.unwrap_or_else(|| "gelu".to_owned())),
            true => ("activation", config.activation.unwrap_or_else(|| "gelu".to_owned())),
        };
        let activation = activation(&path, field, &name)?;
        let positions = needed("max_position_embeddings", config.max_position_embeddings.or(distil.then_some(512)))?;
        let of_sentences = "sentence_bert_config.json";
        let most = match files.has(of_sentences) {
            true => files.json::<SentenceBertConfig>(of_sentences)?.max_seq_length,
            false => None,
        };
        Ok(Self {
            family,
            channels,
            layers,
            heads,
            activation,
            epsilon: config.layer_norm_eps.unwrap_or(1e-12),
            positions,
            most_tokens: most.unwrap_or(positions).min(positions),
            pooling: pooling(files)?,
            padding: config.pad_token_id.unwrap_or(0),
        })
    }
}

/// What the pooling file says; the mean where there is none.
fn pooling(files: Files<'_>) -> Result<Pooling> {
    let name = "1_Pooling/config.json";
    if !files.has(name) {
        return Ok(Pooling::Mean);
    }
    let config: PoolingConfig = files.json(name)?;
    let path = &files.path(name);
    let others = [
        ("pooling_mode_max_tokens", config.pooling_mode_max_tokens),
        ("pooling_mode_mean_sqrt_len_tokens", config.pooling_mode_mean_sqrt_len_tokens),
        ("pooling_mode_weightedmean_tokens", config.pooling_mode_weightedmean_tokens),
        ("pooling_mode_lasttoken", config.pooling_mode_lasttoken),
    ];
    if let Some((name, _)) = others.iter().find(|(_, on)| *on) {
        return Err(Error::file(path, format!("`{name}` is true; the mean and the first token are computed here")));
    }
    match (config.pooling_mode_mean_tokens, config.pooling_mode_cls_token) {
        (true, false) => Ok(Pooling::Mean),
        (false, true) => Ok(Pooling::Cls),
        (both, _) => {
            let reason = if both { "asks for two poolings at once" } else { "asks for no pooling" };
            Err(Error::file(path, format!("{reason}: `pooling_mode_mean_tokens`, `pooling_mode_cls_token`")))
        }
    }
}

/// A count that has to be there.
pub(super) fn needed(path: &Path, field: &str, value: Option<usize>) -> Result<usize> {
    match value {
        Some(value) if value > 0 => Ok(value),
        Some(_) => Err(Error::file(path, format!("`{field}` is 0"))),
        None => Err(Error::file(path, format!("`{field}` is missing"))),
    }
}

/// A tensor, if it is there.
pub(super) fn found(store: &Store, name: &str) -> Result<Option<Array>> {
    store.contains(name).then(|| store.get(name)).transpose()
}

/// An activation function by the name that Hugging Face has for it.
pub(super) fn activation(path: &Path, field: &str, name: &str) -> Result<Activation> {
    Ok(match name {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        "tanh" => Activation::Tanh,
        _ => {
            let reason = format!("`{field}` is `{name}`; gelu, gelu_new, relu, silu and tanh are computed here");
            return Err(Error::file(path, reason));
        }
    })
}
