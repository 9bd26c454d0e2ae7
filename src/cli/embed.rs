//! `regard embed`: sentence vectors of a Transformer encoder.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use regard::backend::{Backend, DeviceRun};
use regard::models::{Encoded, Pooling, SentenceEncoder, SentenceNetwork, normalize};
use regard::tensor::Array;
use regard::{Error, Result};
use serde_json::{Value, json};

use crate::device::DeviceArgs;
use crate::drawing::Format;
use crate::failure::Outcome;
use crate::heatmap::{Curve, Heatmap, Panel};
use crate::lines::{self, Lines};
use crate::output::{self, OutputType, Warnings, finite};
use crate::picture;
use crate::progress::Counter;
use crate::stream;

/// Texts that are sorted by length together, so that a batch has few tokens that are none.
const WINDOW: usize = 256;
/// Tokens of a batch, those that are none included.
const BATCH: usize = 2048;
/// Texts whose pairs are all compared.
const COMPARED: usize = 1000;

/// Sentence vectors of a Transformer encoder
///
/// Each TEXT, or each line of standard input, becomes one vector: its tokens go through the encoder, and their vectors become one
/// as the model's folder says. Texts are answered in batches of similar length; a vector never depends on the other texts, but for
/// rounding. A text that is longer than the model reads is cut off, with a warning.
///
/// The folder is one as Hugging Face has it: config.json, tokenizer.json and model.safetensors of a BERT or DistilBERT, and of a
/// sentence encoder 1_Pooling/config.json. models/minilm/fetch.py fetches one.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Texts; standard input, a text a line, when left out
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// The model's folder
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// File to write `embedding` [N, dim] to; `-` is standard output
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: Option<PathBuf>,
    /// Element type of the tensor written; f32 when left out
    #[arg(long, value_enum, value_name = "TYPE")]
    output_dtype: Option<OutputType>,
    /// One JSON object a line: text, tokens, embedding, cut (whether the text was cut off)
    #[arg(long)]
    json: bool,
    /// Print the cosines of all pairs of texts
    #[arg(long)]
    similarity: bool,
    /// Draw those cosines: FILE.png, and the same as FILE.svg beside it; or FILE.svg alone
    #[arg(long, value_name = "FILE.png|FILE.svg", requires = "similarity")]
    heatmap: Option<PathBuf>,
    /// Draw what the heads of a layer attend to in the first text: FILE.png, and the same as FILE.svg beside it; or FILE.svg alone
    #[arg(long, value_name = "FILE.png|FILE.svg")]
    attention: Option<PathBuf>,
    /// The layer of that picture, from 0 on; the last one when left out
    #[arg(long, value_name = "N", requires = "attention")]
    layer: Option<usize>,
    /// How the tokens' vectors become one, whatever the folder says
    #[arg(long, value_enum, value_name = "POOLING")]
    pooling: Option<PoolingChoice>,
    /// Leave vectors as long as they are, instead of 1
    #[arg(long)]
    no_normalize: bool,
}

const EXAMPLES: &str = "\
Examples:
  regard embed --model target/models/all-MiniLM-L6-v2 --similarity 'a cat sleeps' 'a kitten naps' 'stocks fell'
  regard embed --model FOLDER -o vectors.safetensors < sentences.txt
  regard embed --model FOLDER --json < sentences.txt > vectors.jsonl
  regard embed --model FOLDER --attention heads.png --layer 3 'The cat sat on the mat because it was tired.'";

/// How the tokens' vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum PoolingChoice {
    /// Their mean.
    Mean,
    /// That of the first token.
    Cls,
}

/// A text with its tokens.
struct Text {
    text: String,
    tokens: Vec<u32>,
    cut: bool,
    /// Bytes of the input.
    bytes: u64,
}

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    check(args)?;
    let mut encoder = SentenceEncoder::from_folder(&args.model)?;
    if let Some(pooling) = args.pooling {
        encoder = encoder.with_pooling(match pooling {
            PoolingChoice::Mean => Pooling::Mean,
            PoolingChoice::Cls => Pooling::Cls,
        });
    }
    let device = device.open()?;
    let mut network = encoder.network(device.run())?;
    let mut session = Session {
        args,
        encoder: &encoder,
        warnings: Warnings::default(),
        count: 0,
        kept: Vec::new(),
        texts: Vec::new(),
    };
    if args.texts.is_empty() {
        let mut progress = Counter::new(lines::stdin_bytes());
        let mut input = Lines::of_stdin(2 * WINDOW);
        loop {
            let batch = input.batch(WINDOW)?;
            if batch.is_empty() {
                break;
            }
            let mut texts = Vec::with_capacity(batch.len());
            for line in batch {
                if let Some(reason) = line.refused {
                    return Err(Error::Text { text: line.text, reason }.into());
                }
                texts.push(session.read(line.text, line.bytes)?);
            }
            let (count, bytes) = (texts.len(), texts.iter().map(|text| text.bytes).sum());
            let out = session.answer(&mut network, texts)?;
            progress.pause(|| output::print(&out))?;
            progress.advance(count, bytes);
        }
        progress.finish();
    } else {
        let texts = args.texts.iter().map(|text| session.read(text.clone(), 0)).collect::<Result<Vec<_>>>()?;
        let out = session.answer(&mut network, texts)?;
        output::print(&out)?;
    }
    session.finish(&mut network)
}

/// Refuses options that contradict one another, or leave nothing to do.
fn check(args: &Args) -> Outcome {
    if args.texts.is_empty() && std::io::stdin().is_terminal() {
        return Err(Error::missing("TEXT", "texts, or lines on standard input").into());
    }
    output::refuse_dtype(args.output.as_deref(), args.output_dtype)?;
    let printed = (args.json || args.similarity).then_some(Path::new("-"));
    let outputs = [("output", args.output.as_deref()), ("json", printed), ("heatmap", args.heatmap.as_deref())];
    stream::refuse_two_outputs(outputs.into_iter().chain([("attention", args.attention.as_deref())]))?;
    for (name, path) in [("heatmap", &args.heatmap), ("attention", &args.attention)] {
        path.as_deref().map(|path| Format::of(name, path)).transpose()?;
    }
    if args.json && args.similarity {
        return Err(Error::option("similarity", "prints a table: leave out `--json`, or it").into());
    }
    if args.output.is_none() && !args.json && !args.similarity && args.attention.is_none() {
        let reason = "is not said: add `-o OUT.safetensors`, `--json`, `--similarity` or `--attention FILE.png`";
        return Err(Error::option("output", reason).into());
    }
    Ok(())
}

/// What lasts from one batch to the next.
struct Session<'a> {
    args: &'a Args,
    encoder: &'a SentenceEncoder,
    warnings: Warnings,
    count: usize,
    /// Vectors that are written or compared in the end.
    kept: Vec<f32>,
    /// Their texts, to be compared; of a picture of heads the first one's tokens.
    texts: Vec<Text>,
}

impl Session<'_> {
    fn read(&mut self, text: String, bytes: u64) -> Result<Text> {
        self.count += 1;
        let (tokens, cut) = self.encoder.tokens(&text)?;
        if cut {
            let most = self.encoder.config().most_tokens;
            self.warnings.add(&format!("text {}: cut off after {most} tokens", self.count));
        }
        if tokens.is_empty() {
            let reason = "the tokenizer makes no token of it".to_owned();
            return Err(Error::Text { text, reason });
        }
        Ok(Text { text, tokens, cut, bytes })
    }

    /// Encodes some texts, in batches of similar length; what is to be printed of them, in their order.
    fn answer(&mut self, network: &mut SentenceNetwork<'_, DeviceRun<'_>>, texts: Vec<Text>) -> Outcome<String> {
        let vectors = encode(network, &texts, !self.args.no_normalize)?;
        let width = self.encoder.config().channels;
        let mut out = String::new();
        for (text, vector) in texts.into_iter().zip(vectors.chunks_exact(width)) {
            if self.args.json {
                let embedding: Vec<Value> = vector.iter().map(|&x| finite(f64::from(x))).collect();
                let object = json!({
                    "text": text.text, "tokens": text.tokens.len(), "cut": text.cut, "embedding": embedding,
                });
                let _ = writeln!(out, "{object}");
            }
            if self.args.output.is_some() || self.args.similarity {
                self.kept.extend_from_slice(vector);
            }
            if self.args.similarity && self.texts.len() == COMPARED {
                let reason = format!("compares all pairs of at most {COMPARED} texts: write them with `-o` instead");
                return Err(Error::option("similarity", reason).into());
            }
            if self.args.similarity || (self.args.attention.is_some() && self.texts.is_empty()) {
                self.texts.push(text);
            }
        }
        Ok(out)
    }

    fn finish<B: Backend>(self, network: &mut SentenceNetwork<'_, B>) -> Outcome {
        let width = self.encoder.config().channels;
        if self.args.similarity {
            let cosines = cosines(&self.kept, width);
            let labels: Vec<&str> = self.texts.iter().map(|text| text.text.as_str()).collect();
            output::print(&similarity(&labels, &cosines))?;
            if let Some(path) = &self.args.heatmap {
                picture::save(path, &pairs(&labels, cosines))?;
            }
        }
        if let (Some(path), Some(first)) = (&self.args.attention, self.texts.first()) {
            let layer = self.args.layer.unwrap_or(self.encoder.config().layers.saturating_sub(1));
            let encoded = network.encode(std::slice::from_ref(&first.tokens), Some(layer))?;
            picture::save(path, &heads(self.encoder, first, layer, &encoded))?;
        }
        if let Some(path) = &self.args.output {
            let rows = self.kept.len() / width.max(1);
            let embedding = Array::new(&[rows, width], self.kept)?;
            output::save_tensors(path, &vec![("embedding", embedding)], self.args.output_dtype.unwrap_or_default())?;
        }
        self.warnings.finish();
        Ok(())
    }
}

/// [N, E] of some texts, in their order.
fn encode<B: Backend>(network: &mut SentenceNetwork<'_, B>, texts: &[Text], unit: bool) -> Result<Vec<f32>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&n| texts[n].tokens.len());
    let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); texts.len()];
    let mut rest = &order[..];
    while !rest.is_empty() {
        // As many as fit with the longest of them, which is the last.
        let fits = |count: usize| count * texts[rest[count - 1]].tokens.len() <= BATCH;
        let count = (1..=rest.len()).take_while(|&count| count == 1 || fits(count)).last().unwrap_or(1);
        let (batch, others) = rest.split_at(count);
        rest = others;
        let tokens: Vec<Vec<u32>> = batch.iter().map(|&n| texts[n].tokens.clone()).collect();
        let mut found = network.encode(&tokens, None)?.vectors;
        if unit {
            normalize(&mut found);
        }
        let width = found.shape()[1];
        batch.iter().zip(found.data().chunks_exact(width)).for_each(|(&n, vector)| vectors[n] = vector.to_vec());
    }
    Ok(vectors.concat())
}

/// [N, N] of rows of so many.
fn cosines(vectors: &[f32], width: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = vectors.chunks_exact(width.max(1)).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let lengths: Vec<f64> = rows.iter().map(|row| dot(row, row).sqrt()).collect();
    let cosine = |i: usize, j: usize| match lengths[i] * lengths[j] {
        0.0 => 0.0,
        both => (dot(rows[i], rows[j]) / both) as f32,
    };
    (0..rows.len() * rows.len()).map(|k| cosine(k / rows.len(), k % rows.len())).collect()
}

/// Characters of a text that stand in front of its row.
const SHOWN: usize = 40;

/// A text, cut to what is shown of it.
fn shown(text: &str) -> String {
    match text.chars().count() {
        0..=SHOWN => text.to_owned(),
        _ => text.chars().take(SHOWN - 1).chain(['…']).collect(),
    }
}

/// The cosines as a table: numbered texts, and a column for each number.
fn similarity(texts: &[&str], cosines: &[f32]) -> String {
    let labels: Vec<String> = texts.iter().map(|text| shown(text)).collect();
    let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let mut out = " ".repeat(width + 5);
    for n in 1..=texts.len() {
        let _ = write!(out, " {n:>5}");
    }
    out.push('\n');
    for ((n, label), row) in labels.iter().enumerate().zip(cosines.chunks_exact(texts.len().max(1))) {
        let padding = " ".repeat(width - label.chars().count());
        let _ = write!(out, "{:>4} {label}{padding}", n + 1);
        row.iter().for_each(|cosine| {
            let _ = write!(out, " {cosine:>5.2}");
        });
        out.push('\n');
    }
    out
}

/// The cosines as a picture.
fn pairs(texts: &[&str], cosines: Vec<f32>) -> Heatmap {
    let labels: Vec<String> = texts.iter().map(|text| shown(text)).collect();
    let panel = Panel {
        title: String::new(),
        rows: labels.clone(),
        columns: labels,
        weights: cosines.into_iter().map(|cosine| cosine.max(0.0)).collect(),
        hidden: Vec::new(),
    };
    Heatmap {
        title: "Cosines of sentence vectors".to_owned(),
        row_axis: "text".to_owned(),
        column_axis: "text".to_owned(),
        panels: vec![panel],
        measure: "cosine, 0 where it is below",
        curve: Curve::Linear,
    }
}

/// What each head of a layer attends to.
fn heads(encoder: &SentenceEncoder, text: &Text, layer: usize, encoded: &Encoded) -> Heatmap {
    let labels: Vec<String> = text.tokens.iter().map(|&token| encoder.label(token)).collect();
    let attention = encoded.attention.as_ref().map_or(&[][..], Array::data);
    let of_head = |(n, weights): (usize, &[f32])| Panel {
        title: format!("head {n}"),
        rows: labels.clone(),
        columns: labels.clone(),
        weights: weights.to_vec(),
        hidden: Vec::new(),
    };
    Heatmap {
        title: format!("Layer {layer}"),
        row_axis: "token".to_owned(),
        column_axis: "attends to".to_owned(),
        panels: attention.chunks_exact((labels.len() * labels.len()).max(1)).enumerate().map(of_head).collect(),
        measure: "attention weight",
        curve: Curve::Linear,
    }
}
