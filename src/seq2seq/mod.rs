//! Sequence-to-sequence models: a recurrent encoder, soft attention, a recurrent decoder, from a folder with
//! `model.json` (the [card](Card)) and its tensors.
//!
//! ```text
//! text → text.rs → ids → Network (encoder, attention, decoder on a backend) → search.rs → ids → text.rs → text
//! ```
//! The card says how a model is wired; nothing here knows a model by name, but for the two that are built in.

pub mod card;
mod layers;
mod network;
mod prepare;
mod search;
mod text;

use std::path::Path;

use sha2::{Digest, Sha256};

pub use crate::search::Candidates;
pub use card::Card;
pub use network::{ModelNetwork, Network, SourceBatch, StepOutput, Stepping};
pub use text::{Prepared, Source, SourceText};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::rnn::RnnStack;
use crate::store::{Store, read_text};
use crate::tensor::Array;
use layers::{Layers, Recurrences};
use search::Hypothesis;
use text::Symbols;

/// Most attention weights given for one text that is split into words.
const MOST_WEIGHTS: usize = 1 << 24;

/// Longest card read, in bytes.
const LONGEST_CARD: u64 = 16 << 20;

/// A model: its card and its weights in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    card: Card,
    layers: Layers<Array>,
    recurrences: Recurrences<RnnStack<Array>>,
    symbols: Symbols,
}

impl Model {
    /// From a folder with `model.json` and the file of tensors that it names.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read, [`Error::Card`] when the card is wrong or contradicts the tensors.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("model.json");
        let json = read_text(&path, LONGEST_CARD)?;
        let card = Card::parse(&folder.display().to_string(), &json)?;
        let file = Path::new(&card.weights.file);
        if file.file_name() != Some(file.as_os_str()) {
            let reason = format!("`{}` is not the name of a file in the same folder", card.weights.file);
            return Err(card_error(&card, "weights.file", reason));
        }
        let store = Store::open(&folder.join(file))?;
        Self::new(card, &store)
    }

    /// From the text of a card and the content of its file of tensors.
    ///
    /// # Errors
    /// As [`Model::from_folder`].
    pub fn from_bytes(card: &str, weights: &[u8]) -> Result<Self> {
        let card = Card::parse("model.json", card)?;
        let store = Store::from_bytes(&card.weights.file, weights)?;
        Self::new(card, &store)
    }

    fn new(card: Card, store: &Store) -> Result<Self> {
        let expected: Vec<&String> = card.weights.sha256.iter().chain(&card.weights.sha256_f32).collect();
        if let Some(first) = expected.first() {
            let found: String = Sha256::digest(store.bytes()).iter().map(|b| format!("{b:02x}")).collect();
            if !expected.iter().any(|e| e.eq_ignore_ascii_case(&found)) {
                let reason = format!("expected {first}, {} has {found}", store.path().display());
                return Err(card_error(&card, "weights.sha256", reason));
            }
        }
        let (layers, recurrences) = layers::load(&card, store)?;
        Ok(Self { symbols: Symbols::new(&card), card, layers, recurrences })
    }

    /// The card.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// The model's network on a backend: a [`Run`](crate::gpu::Run) of a GPU, or the
    /// [`Reference`](crate::backend::Reference).
    ///
    /// # Errors
    /// When the backend does not take the weights.
    pub fn network<B: Backend>(&self, backend: B) -> Result<ModelNetwork<'_, B>> {
        ModelNetwork::new(self, backend)
    }

    /// A text as the encoder reads it.
    ///
    /// # Errors
    /// [`Error::Text`] when the card has such a text refused, [`Error::Option`] when the model has no option of a
    /// name that is given.
    pub fn read(&self, text: &SourceText) -> Result<Prepared> {
        self.symbols.read(&self.card, text)
    }
}

/// The models that are part of the program.
#[cfg(feature = "cli")]
impl Model {
    /// Their names.
    pub const BUILT_IN: [&'static str; 2] = ["arabic-names", "khmer"];

    /// One of them by name.
    ///
    /// # Errors
    /// [`Error::Option`] when none has that name.
    pub fn built_in(name: &str) -> Result<Self> {
        macro_rules! embedded {
            ($folder:literal) => {
                Self::from_bytes(
                    include_str!(concat!("../../models/", $folder, "/model.json")),
                    include_bytes!(concat!("../../models/", $folder, "/weights.safetensors")),
                )
            };
        }
        match name {
            "arabic-names" => embedded!("arabic-names"),
            "khmer" => embedded!("khmer"),
            _ => Err(Error::option(
                "model",
                format!("no built-in model `{name}`; there are {}", Self::BUILT_IN.join(", ")),
            )),
        }
    }
}

fn card_error(card: &Card, field: &str, reason: String) -> Error {
    Error::Card { model: card.name.clone(), field: field.to_owned(), reason: reason.into() }
}

/// How an answer is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoding {
    /// Hypotheses kept at each step; 1 is greedy search.
    pub beam: usize,
    /// Most candidates given back for each text.
    pub top: usize,
    /// Also give the attention weights of the best answer.
    pub weights: bool,
    /// Most sources in one run of the network. Answers do not depend on it.
    pub batch: usize,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { beam: 1, top: 1, weights: false, batch: 64 }
    }
}

impl Decoding {
    /// Checks the numbers against what the model allows.
    ///
    /// # Errors
    /// [`Error::Option`] with the number that is out of range.
    pub fn check(&self, model: &Model) -> Result<()> {
        let most = model.card.target.vocab.len();
        for (option, value, most) in
            [("beam", self.beam, most), ("top", self.top, usize::MAX), ("batch", self.batch, usize::MAX)]
        {
            if !(1..=most).contains(&value) {
                let range = if most == usize::MAX { "at least 1".to_owned() } else { format!("1 to {most}") };
                return Err(Error::option(option, format!("expected {range}, found {value}")));
            }
        }
        Ok(())
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The text.
    pub text: String,
    /// Log-probability, normalised by length as the card says; summed over the words of a text that is split.
    pub score: f32,
}

/// What became of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Transliteration {
    /// The text as given.
    pub input: String,
    /// The best answer; empty when the model reads nothing of the text.
    pub output: String,
    /// The best answer's score; 0 without an answer.
    pub score: f32,
    /// Distinct answers, best first, `output` among them.
    pub candidates: Vec<Candidate>,
    /// One label for each column of the weights: a source token, or nothing for padding.
    pub source_labels: Vec<String>,
    /// One label for each row of the weights: a target token, or `<end>`.
    pub target_labels: Vec<String>,
    /// Attention weights [steps, source ids] of the best answer, if asked for. The words of a text that is split lie
    /// along the diagonal.
    pub weights: Option<Array>,
    /// What was skipped, replaced or cut off.
    pub warnings: Vec<String>,
}

/// Writes texts in the model's other script. Each answer is the same whatever else is among the texts.
///
/// # Errors
/// Those of [`Model::read`], of the options, and of the network.
#[cfg(not(target_arch = "wasm32"))]
pub fn transliterate(
    model: &Model,
    network: &mut dyn Network,
    texts: &[SourceText],
    decoding: &Decoding,
) -> Result<Vec<Transliteration>> {
    let driver = network.driver();
    driver.wait(transliterate_async(model, network, texts, decoding))
}

/// As [`transliterate`], without blocking.
///
/// # Errors
/// As [`transliterate`].
pub async fn transliterate_async(
    model: &Model,
    network: &mut (dyn Network + '_),
    texts: &[SourceText],
    decoding: &Decoding,
) -> Result<Vec<Transliteration>> {
    decoding.check(model)?;
    let prepared: Vec<Prepared> = texts.iter().map(|text| model.read(text)).collect::<Result<_>>()?;
    let sources: Vec<&Source> = prepared.iter().flat_map(|p| &p.sources).collect();
    // Sources of like length share a run, so that little of it is padding.
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|&i| sources[i].ids.len());
    let mut found: Vec<Vec<Hypothesis>> = vec![Vec::new(); sources.len()];
    for run in order.chunks(decoding.batch) {
        let batch: Vec<&Source> = run.iter().map(|&i| sources[i]).collect();
        let Decoding { beam, weights, .. } = *decoding;
        let answers = search::search(&model.card, &model.symbols, network, &batch, beam, weights).await?;
        for (&i, answer) in run.iter().zip(answers) {
            found[i] = answer;
        }
    }
    let mut found = found.into_iter();
    texts
        .iter()
        .zip(prepared)
        .map(|(text, p)| {
            let found: Vec<Vec<Hypothesis>> = found.by_ref().take(p.sources.len()).collect();
            model.assemble(text, p, &found, decoding.top)
        })
        .collect()
}

impl Model {
    /// The answer to one text from the hypotheses of its sources.
    fn assemble(
        &self,
        text: &SourceText,
        mut prepared: Prepared,
        found: &[Vec<Hypothesis>],
        top: usize,
    ) -> Result<Transliteration> {
        let mut candidates = Vec::new();
        for (k, hypotheses) in found.iter().enumerate() {
            let word = self.candidates(hypotheses);
            candidates = if k == 0 { word } else { join(&candidates, &word) };
            candidates.truncate(top);
        }
        let best: Vec<&Hypothesis> = found.iter().filter_map(|h| self.best(h)).collect();
        let labels = |ids: &[u32]| self.symbols.labels(&self.card, ids);
        let blocks: Vec<&Array> = best.iter().filter_map(|h| h.weights.as_ref()).collect();
        let [rows, columns] = [0, 1].map(|axis| blocks.iter().map(|b| b.shape()[axis]).sum::<usize>());
        let fits = rows.saturating_mul(columns) <= MOST_WEIGHTS;
        if !fits {
            prepared.warnings.push(format!("{rows} · {columns} attention weights are too many to give"));
        }
        Ok(Transliteration {
            input: text.text.clone(),
            output: candidates.first().map(|c| c.text.clone()).unwrap_or_default(),
            score: candidates.first().map_or(0.0, |c| c.score),
            candidates,
            source_labels: prepared.sources.into_iter().flat_map(|s| s.labels).collect(),
            target_labels: best.iter().flat_map(|h| labels(&h.ids)).collect(),
            weights: if fits && !blocks.is_empty() { Some(diagonal(&blocks, columns)?) } else { None },
            warnings: prepared.warnings,
        })
    }

    /// Distinct texts, empty ones only if there is nothing else.
    fn candidates(&self, hypotheses: &[Hypothesis]) -> Vec<Candidate> {
        let mut out: Vec<Candidate> = Vec::new();
        for h in hypotheses {
            let text = self.symbols.text(&self.card, &h.ids);
            if !text.is_empty() && out.iter().all(|c| c.text != text) {
                out.push(Candidate { text, score: h.score as f32 });
            }
        }
        if let (true, Some(best)) = (out.is_empty(), hypotheses.first()) {
            out.push(Candidate { text: String::new(), score: best.score as f32 });
        }
        out
    }

    /// The hypothesis behind the first candidate.
    fn best<'h>(&self, hypotheses: &'h [Hypothesis]) -> Option<&'h Hypothesis> {
        let has_text = |h: &&Hypothesis| !self.symbols.text(&self.card, &h.ids).is_empty();
        hypotheses.iter().find(has_text).or(hypotheses.first())
    }
}

/// Every answer so far with every answer to the next word, best first.
fn join(before: &[Candidate], word: &[Candidate]) -> Vec<Candidate> {
    let pair =
        |a: &Candidate, b: &Candidate| Candidate { text: format!("{} {}", a.text, b.text), score: a.score + b.score };
    let mut out: Vec<Candidate> = before.iter().flat_map(|a| word.iter().map(move |b| pair(a, b))).collect();
    out.sort_by(|a, b| b.score.total_cmp(&a.score));
    out
}

/// Matrices along the diagonal of a larger one.
fn diagonal(blocks: &[&Array], columns: usize) -> Result<Array> {
    let (mut data, mut rows, mut before) = (Vec::new(), 0, 0);
    for block in blocks {
        let width = block.shape().last().copied().unwrap_or(0);
        for row in block.data().chunks_exact(width.max(1)) {
            data.extend(std::iter::repeat_n(0.0, before));
            data.extend_from_slice(row);
            data.extend(std::iter::repeat_n(0.0, columns - before - width));
            rows += 1;
        }
        before += width;
    }
    Array::new(&[rows, columns], data)
}
