//! The model card, `model.json`: what a model is, as typed choices. Fields that only explain are ignored.

pub(super) mod check;
mod text;

use std::collections::BTreeMap;

use serde::de::{Error as _, IntoDeserializer};
use serde::{Deserialize, Deserializer};

pub use text::{Part, Prepare, Range, Several, Source, SourceOption, Target, TooLong, Unknown, Words};

use crate::error::{Cause, Error, Result};
use crate::rnn::{self, Activation, Activations, Direction, Rnn};
pub use crate::search::Rule;

/// A model card.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Card {
    /// The model's name.
    pub name: String,
    /// What kind of model it is.
    pub kind: Kind,
    /// What it does, for people.
    #[serde(default)]
    pub task: Option<String>,
    /// The file of tensors.
    pub weights: WeightsFile,
    /// The tensors in that file, if the card lists them.
    #[serde(default)]
    pub tensors: BTreeMap<String, TensorInfo>,
    /// How text becomes source ids.
    pub source: Source,
    /// How target ids become text.
    pub target: Target,
    /// Embedding, recurrence and projection that make the memory.
    pub encoder: Encoder,
    /// How the decoder's start state comes from the encoder.
    pub bridge: Bridge,
    /// How the decoder looks at the memory.
    pub attention: Attention,
    /// Embedding and recurrence of the decoder.
    pub decoder: Decoder,
    /// The last layer: logits over the target vocabulary.
    pub output: Dense,
    /// How an answer is searched for.
    pub decoding: Decoding,
}

/// What kind of model a card describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Encoder, attention, decoder.
    Seq2seq,
}

/// The file of tensors, beside the card.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct WeightsFile {
    /// Its name, without a folder.
    pub file: String,
    /// Its SHA-256 in hexadecimal digits; not checked when absent.
    #[serde(default)]
    pub sha256: Option<String>,
    /// The SHA-256 of the same tensors stored as f32, accepted as well.
    #[serde(default)]
    pub sha256_f32: Option<String>,
}

/// A tensor that the card lists.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TensorInfo {
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The encoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Encoder {
    /// Source tokens as vectors.
    pub embedding: Embedding,
    /// The recurrence over the source.
    pub rnn: Recurrence,
    /// A layer on the outputs of the recurrence; its result, or without it those outputs, are the memory.
    #[serde(default)]
    pub projection: Option<Dense>,
}

/// The decoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Decoder {
    /// Target tokens as vectors.
    pub embedding: Embedding,
    /// The recurrence over the target.
    pub rnn: Recurrence,
}

/// A table of vectors [size, dim].
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Embedding {
    /// Name of the tensor.
    pub weight: String,
    /// Number of tokens.
    pub size: usize,
    /// Width of a vector.
    pub dim: usize,
}

/// A stack of recurrent layers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Recurrence {
    /// The tensors are `{prefix}.weight_ih_l0` and so on.
    pub prefix: String,
    /// Kind of cell.
    pub cell: Cell,
    /// Number of layers.
    pub layers: usize,
    /// Both directions, outputs [forward; backward].
    #[serde(default)]
    pub bidirectional: bool,
    /// Width of the input.
    pub input: usize,
    /// Units of one layer in one direction.
    pub hidden: usize,
    /// Order of the gates in the tensors, checked if given.
    #[serde(default)]
    pub gates: Option<Vec<String>>,
    /// GRU: where the reset gate acts.
    #[serde(default)]
    pub reset: Reset,
    /// Activation of the candidate and the output, if not the cell's usual one.
    #[serde(default, deserialize_with = "activation")]
    pub activation: Option<Activation>,
    /// Activation of the gates, if not the cell's usual one.
    #[serde(default, deserialize_with = "activation")]
    pub gate_activation: Option<Activation>,
    /// Encoder: whether padding is run through.
    #[serde(default, deserialize_with = "first_word")]
    pub lengths: Lengths,
    /// Decoder: what its input is made of, in order.
    #[serde(default)]
    pub input_parts: Vec<Value>,
    /// Decoder: the state a step starts from.
    #[serde(default)]
    pub state: State,
}

impl Recurrence {
    /// The options of the recurrence.
    pub fn options(&self) -> Rnn {
        let cell = match (self.cell, self.reset) {
            (Cell::Lstm, _) => rnn::Cell::Lstm,
            (Cell::Gru, Reset::After) => rnn::Cell::Gru { reset: rnn::Reset::After },
            (Cell::Gru, Reset::Before) => rnn::Cell::Gru { reset: rnn::Reset::Before },
            (Cell::Rnn, _) => rnn::Cell::Rnn,
        };
        let mut options = Rnn::new(cell);
        if self.bidirectional {
            options.direction = Direction::Bidirectional;
        }
        let candidate = self.activation.unwrap_or(Activation::Tanh);
        let gate = match self.cell {
            Cell::Rnn => candidate,
            _ => self.gate_activation.unwrap_or(Activation::Sigmoid),
        };
        options.activations = Activations::onnx(cell, [gate, candidate, candidate]);
        options
    }

    /// Width of the output.
    pub fn width(&self) -> usize {
        self.hidden * if self.bidirectional { 2 } else { 1 }
    }
}

/// Kind of recurrent cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent unit.
    Gru,
    /// Elman's simple recurrence.
    Rnn,
}

/// Where a GRU's reset gate acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// On the recurrent product.
    #[default]
    After,
    /// On the state.
    Before,
}

/// Whether the encoder knows the length of a source that the model pads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// It ends at the last real token.
    #[default]
    Respect,
    /// Padding is run through like any token.
    Ignore,
}

/// The state that a decoder step starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The state of the step before.
    #[default]
    Carried,
    /// Zeros, at every step.
    ZerosEachStep,
}

/// How the decoder's start state comes from the encoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Bridge {
    /// A layer on the mean of the memory; every decoder layer starts from the same vector.
    MeanLinear(Dense),
    /// The encoder's last state; decoder layers pair with the last layers of the encoder.
    FinalState,
    /// The same of both directions, [forward; backward].
    FinalStateConcat,
    /// Zeros.
    Zeros,
}

/// How the decoder looks at the memory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Attention {
    /// How query and key are compared.
    pub score: Score,
    /// Before or after the decoder's recurrence.
    pub when: When,
    /// The query.
    pub query: Query,
    /// The keys.
    pub key: Key,
    /// The values.
    #[serde(default)]
    pub value: Values,
    /// Additive score: the tensor v `[A]`.
    #[serde(default)]
    pub v: Option<String>,
    /// Multiplies the scores.
    #[serde(default = "one")]
    pub scale: f32,
    /// Whether padding of the model takes part.
    pub mask: Mask,
    /// A layer that makes `combined` of its `input_parts`.
    #[serde(default)]
    pub combine: Option<Dense>,
}

impl Attention {
    /// The options of the attention over projected queries and keys.
    pub fn options(&self) -> crate::attention::Attention {
        use crate::attention::Score as Kind;
        crate::attention::Attention {
            // q·W·k: the card gives W as a projection of the query or of the keys, which comes before.
            score: if self.score == Score::Additive { Kind::Additive } else { Kind::Dot },
            scale: Some(self.scale),
            ..Default::default()
        }
    }
}

/// How a query and a key are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// q·k.
    Dot,
    /// q·W·k, W being the query's projection, the keys', or one of each; with their biases, if they have some.
    General,
    /// v·tanh(q + k).
    Additive,
}

/// When the decoder looks at the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before its recurrence (Bahdanau et al. 2015).
    BeforeRnn,
    /// After its recurrence (Luong et al. 2015).
    AfterRnn,
}

/// The attention's query.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Query {
    /// What it is made of.
    pub source: Value,
    /// A layer on it.
    #[serde(default)]
    pub projection: Option<Dense>,
}

/// The attention's keys.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Key {
    /// What they are made of.
    #[serde(default)]
    pub source: MemorySource,
    /// A layer on them.
    #[serde(default)]
    pub projection: Option<Dense>,
}

/// The attention's values.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Values {
    /// What they are made of.
    #[serde(default)]
    pub source: MemorySource,
}

/// Where keys and values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemorySource {
    /// The memory.
    #[default]
    Memory,
}

/// Whether padding of the model takes part in the attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Real tokens alone.
    SourceLength,
    /// Padding too.
    None,
}

/// A value inside a decoder step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// The token before, as a vector.
    TokenEmbedding,
    /// The last layer's h before the step.
    PreviousHidden,
    /// The attention's output.
    Context,
    /// The last layer's h after the step.
    DecoderOutput,
    /// The result of `attention.combine`.
    Combined,
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TokenEmbedding => "token_embedding",
            Self::PreviousHidden => "previous_hidden",
            Self::Context => "context",
            Self::DecoderOutput => "decoder_output",
            Self::Combined => "combined",
        })
    }
}

/// A layer y = activation(W·x + b).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Dense {
    /// Name of W [out, in].
    pub weight: String,
    /// Name of b `[out]`.
    #[serde(default)]
    pub bias: Option<String>,
    /// None is the identity.
    #[serde(default, deserialize_with = "activation")]
    pub activation: Option<Activation>,
    /// Width of the input, checked if given.
    #[serde(default, rename = "in")]
    pub input: Option<usize>,
    /// Width of the output, checked if given.
    #[serde(default, rename = "out")]
    pub output: Option<usize>,
    /// In a decoder step: what the input is made of, in order.
    #[serde(default)]
    pub input_parts: Vec<Value>,
}

/// How an answer is searched for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Decoding {
    /// How the model's authors search.
    pub default: Search,
    /// Hypotheses kept by their beam search.
    pub beam_width: usize,
    /// Most tokens of an answer.
    pub max_steps: usize,
    /// Tokens that cannot be the first.
    #[serde(default)]
    pub first_step_forbidden: Vec<String>,
    /// Tokens that never come.
    #[serde(default)]
    pub always_forbidden: Vec<String>,
    /// A score is the sum of log-probabilities over the number of tokens (end token included) to this power.
    #[serde(default)]
    pub length_alpha: f64,
    /// How beam search treats finished hypotheses.
    #[serde(default)]
    pub rule: Rule,
}

/// A way to search for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Search {
    /// The most probable token at each step.
    Greedy,
    /// The most probable few hypotheses at each step.
    Beam,
}

fn one() -> f32 {
    1.0
}

fn activation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Activation>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("none" | "linear") => Ok(None),
        Some(name) => Activation::from_name(name).map(Some).map_err(D::Error::custom),
    }
}

/// A choice whose word may be followed by an explanation.
fn first_word<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    T::deserialize(text.split_whitespace().next().unwrap_or("").to_owned().into_deserializer())
}

impl Card {
    /// From the text of a `model.json`, checked against itself; `model` stands in errors until the name is known.
    ///
    /// # Errors
    /// [`Error::Card`] when a field is missing, has a value it cannot have or contradicts another.
    pub fn parse(model: &str, json: &str) -> Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let card: Self = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| {
            let (path, reason) = (e.path().to_string(), e.inner().to_string());
            // A missing field is reported at the object that lacks it.
            let missing = reason.strip_prefix("missing field `").and_then(|r| r.split('`').next());
            let field = match (path.as_str(), missing) {
                (".", Some(name)) => name.to_owned(),
                (path, Some(name)) => format!("{path}.{name}"),
                (path, None) => path.to_owned(),
            };
            Error::Card { model: model.to_owned(), field, reason: Cause::new(reason, e.into_inner()) }
        })?;
        deserializer.end().map_err(|e| Error::Card {
            model: card.name.clone(),
            field: ".".to_owned(),
            reason: Cause::of(e),
        })?;
        check::check(&card)?;
        Ok(card)
    }

    /// True when a decoder step reads the value.
    pub fn uses(&self, value: Value) -> bool {
        let combine = self.attention.combine.iter().flat_map(|c| &c.input_parts);
        let parts = self.decoder.rnn.input_parts.iter().chain(&self.output.input_parts).chain(combine);
        parts.chain([&self.attention.query.source]).any(|&part| part == value)
    }
}
