//! `regard transliterate`: texts in another script, through a sequence-to-sequence model.

mod compared;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use regard::gpu::Run;
use regard::seq2seq::{Decoding, Model, Network, SourceText, Transliteration, transliterate};
use regard::tensor::Array;
use regard::{Device, Error, Result};
use serde_json::{Value, json};

use crate::device::DeviceArgs;
use crate::drawing::Format;
use crate::example;
use crate::failure::{Failure, Outcome};
use crate::heatmap::Panel;
use crate::lines::{self, Line, Lines};
use crate::output::{self, Warnings};
use crate::picture;
use crate::progress::Counter;
use crate::stream;
use compared::Compared;

/// Lines answered together.
const BATCH: usize = 64;
/// Texts whose weights go into the picture.
const PICTURED: usize = 12;

/// Write texts in another script, with a sequence-to-sequence model with attention
///
/// Each TEXT, or each line of standard input, gives one line of output. Lines are answered in batches as they come; an
/// answer never depends on the other lines. Words are answered one by one where the model's card splits them.
///
/// Marks of text direction (bidi controls) count for nothing. Characters that the model does not know, those of another
/// script among them, are skipped, or read as the token that the card has for them, with one warning on standard error
/// that names them. A text of which nothing is left gives an empty line and a warning; the lines after it are answered,
/// and the exit status is 0. A text that is refused (longer than 65,536 characters or a line over 1 MiB, or where its
/// card asks for it) gives an empty line and a warning too, the others are answered, and the exit status is 2.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Texts to write; standard input when left out, or as `-` alone
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// A built-in model (arabic-names, khmer) or a folder with `model.json` and its file of weights
    #[arg(long, value_name = "NAME|FOLDER", default_value = "arabic-names")]
    model: String,
    /// Hypotheses kept in the search; 1 is greedy
    #[arg(long, value_name = "N", default_value_t = 1)]
    beam: usize,
    /// Candidates given for each text, best first, separated by tabs; at most as many as the beam finds
    #[arg(long, value_name = "N", default_value_t = 1)]
    top: usize,
    /// An option that the model's card defines, such as `country=DZ` or `role=surname`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Draw what the model looked at, for the first texts: FILE.png, and the same as FILE.svg beside it; or FILE.svg alone
    #[arg(long, value_name = "FILE.png|FILE.svg")]
    heatmap: Option<PathBuf>,
    /// Draw what the model looked at in the terminal, below each answer
    #[arg(long, conflicts_with = "json")]
    show: bool,
    /// Also run each text alone on the CPU; exit 1 if an answer differs
    #[arg(long)]
    check: bool,
    /// One JSON object a line: input, output, score, candidates, weights, source_labels, target_labels, warnings (what was
    /// skipped, replaced or cut off), error (why the text was refused, else null)
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  regard transliterate محمد 'عبد الرحمن'
  regard transliterate --set country=DZ --beam 4 --top 3 محمد
  regard transliterate --model khmer --show srolanh
  regard transliterate --heatmap alignment.png القحطاني
  regard transliterate < names.txt > latin.txt";

fn setting(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

impl Args {
    /// Whether the texts are the lines of standard input.
    fn reads_lines(&self) -> bool {
        self.texts.is_empty() || self.texts == ["-"]
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    if args.texts.is_empty() && std::io::stdin().is_terminal() {
        return example::run(device);
    }
    if args.texts.len() > 1 && args.texts.iter().any(|text| text == "-") {
        let reason = "`-` is standard input and stands alone: leave it out beside other texts";
        return Err(Error::option("TEXT", reason).into());
    }
    if let Some(path) = &args.heatmap {
        Format::of("heatmap", path)?;
        if stream::is_standard(path) {
            return Err(Error::option("heatmap", "standard output has the answers: name a file").into());
        }
    }
    let model = open(&args.model)?;
    let mut stream = Stream::new(args, &model)?;
    let device = device.open()?;
    let mut network = network(&model, &device)?;
    if args.reads_lines() {
        let mut lines = Lines::of_stdin(2 * BATCH);
        loop {
            let batch = lines.batch(BATCH)?;
            if batch.is_empty() {
                break;
            }
            stream.answer(network.as_mut(), &batch)?;
        }
    } else {
        let line =
            |text: &String| Line { text: text.clone(), replaced: false, refused: None, bytes: text.len() as u64 };
        let texts: Vec<Line> = args.texts.iter().map(line).collect();
        for batch in texts.chunks(BATCH) {
            stream.answer(network.as_mut(), batch)?;
        }
    }
    stream.finish()
}

/// A built-in model by name, or one from a folder.
pub(crate) fn open(name: &str) -> Result<Model> {
    if Model::BUILT_IN.contains(&name) {
        return Model::built_in(name);
    }
    let folder = Path::new(name);
    if !folder.exists() {
        let built_in = Model::BUILT_IN.join(", ");
        let reason = format!("`{name}` is neither a folder nor a built-in model; those are {built_in}");
        return Err(Error::option("model", reason));
    }
    Model::from_folder(folder)
}

/// The model's network on a device.
pub(crate) fn network<'m>(model: &'m Model, device: &'m Device) -> Result<Box<dyn Network + 'm>> {
    Ok(match device {
        Device::Gpu(gpu) => Box::new(model.network(Run::new(gpu))?),
        Device::Cpu(cpu) => Box::new(model.network(cpu.clone())?),
    })
}

/// Everything that lasts from one batch to the next.
struct Stream<'a> {
    args: &'a Args,
    model: &'a Model,
    options: BTreeMap<String, String>,
    decoding: Decoding,
    warnings: Warnings,
    progress: Counter,
    /// Number of lines answered.
    answered: usize,
    panels: Vec<Panel>,
    /// Lines that were refused, and the failure of the first.
    refused: Option<(usize, Failure)>,
    compared: Option<Compared<'a>>,
}

impl<'a> Stream<'a> {
    fn new(args: &'a Args, model: &'a Model) -> Result<Self> {
        let weights = args.json || args.show || args.check || args.heatmap.is_some();
        let decoding = Decoding { beam: args.beam, top: args.top, weights, batch: BATCH };
        let options: BTreeMap<_, _> = args.settings.iter().cloned().collect();
        // Wrong options are reported before a device is opened, and whatever the texts are.
        model.read(&SourceText { text: String::new(), options: options.clone() })?;
        decoding.check(model)?;
        if args.top > args.beam {
            output::note(&format!("--beam {} finds at most {0} candidates, not {}", args.beam, args.top));
        }
        let total = match args.reads_lines() {
            true => lines::stdin_bytes(),
            false => Some(args.texts.iter().map(|text| text.len() as u64).sum()),
        };
        Ok(Self {
            args,
            model,
            options,
            decoding,
            warnings: Warnings::default(),
            progress: Counter::new(total),
            answered: 0,
            panels: Vec::new(),
            refused: None,
            compared: args.check.then(|| Compared::new(model, decoding)).transpose()?,
        })
    }

    /// Answers some lines, in order, and hands the answers over at once. A line that is refused has its line of output too.
    fn answer(&mut self, network: &mut dyn Network, lines: &[Line]) -> Outcome {
        let mut sources = Vec::new();
        let mut fates = Vec::with_capacity(lines.len());
        for line in lines {
            let source = SourceText { text: line.text.clone(), options: self.options.clone() };
            fates.push(match &line.refused {
                Some(reason) => Fate::Refused(Error::Text { text: line.text.clone(), reason: reason.clone() }),
                None if line.text.trim().is_empty() => Fate::Blank,
                None => match self.model.read(&source) {
                    Ok(_) => {
                        sources.push(source);
                        Fate::Read
                    }
                    Err(error @ Error::Text { .. }) => Fate::Refused(error),
                    Err(error) => return Err(error.into()),
                },
            });
        }
        let answers = match sources.is_empty() {
            true => Vec::new(),
            false => transliterate(self.model, network, &sources, &self.decoding)?,
        };
        if let Some(compared) = &mut self.compared {
            compared.add(&sources, &answers)?;
        }
        let mut answers = answers.into_iter();
        let mut out = String::new();
        for (line, fate) in lines.iter().zip(fates) {
            self.answered += 1;
            let answer = match fate {
                Fate::Read => answers.next(),
                Fate::Blank | Fate::Refused(_) => None,
            };
            let reason = match &fate {
                Fate::Refused(Error::Text { reason, .. }) => Some(reason.as_str()),
                _ => None,
            };
            self.tell(line, answer.as_ref(), reason);
            out.push_str(&self.line(&line.text, answer.as_ref(), reason));
            if let Fate::Refused(error) = fate {
                self.refused.get_or_insert_with(|| (0, error.into())).0 += 1;
            }
        }
        self.progress.pause(|| output::print(&out))?;
        self.progress.advance(lines.len(), lines.iter().map(|line| line.bytes).sum());
        Ok(())
    }

    /// Warnings of one line.
    fn tell(&mut self, line: &Line, answer: Option<&Transliteration>, refused: Option<&str>) {
        let place = if self.args.reads_lines() { "line" } else { "text" };
        let replaced = line.replaced.then(|| "bytes that are no UTF-8 were replaced".to_owned());
        let refused = refused.map(|reason| format!("not answered: {reason}"));
        let warnings = answer.map_or(&[][..], |answer| &answer.warnings);
        for warning in replaced.iter().chain(&refused).chain(warnings) {
            let text = format!("{place} {}: {warning}", self.answered);
            self.progress.pause(|| self.warnings.add(&text));
        }
    }

    /// What goes to standard output for one line.
    fn line(&mut self, input: &str, answer: Option<&Transliteration>, refused: Option<&str>) -> String {
        if self.args.json {
            return format!("{}\n", answer.map_or_else(|| empty(input, refused), object));
        }
        let Some(answer) = answer else { return "\n".to_owned() };
        let candidates: Vec<&str> = answer.candidates.iter().map(|c| c.text.as_str()).collect();
        let mut out = format!("{}\n", candidates.join("\t"));
        let panel = if self.args.show || self.args.heatmap.is_some() { picture::alignment(answer) } else { None };
        if let Some(panel) = panel {
            if self.args.show {
                out.push_str(&picture::terminal(panel.clone()));
                out.push('\n');
            }
            if self.args.heatmap.is_some() && self.panels.len() < PICTURED {
                self.panels.push(panel);
            }
        }
        out
    }

    fn finish(mut self) -> Outcome {
        self.progress.finish();
        self.warnings.finish();
        if let Some(path) = &self.args.heatmap {
            if self.panels.is_empty() {
                output::warn("no text was answered: no picture is drawn");
            } else {
                if self.answered > PICTURED {
                    output::note(&format!("the picture shows the first {PICTURED} texts"));
                }
                let title = format!("{}: what the decoder looked at", self.model.card().name);
                picture::save(path, &picture::alignments(&title, std::mem::take(&mut self.panels)))?;
            }
        }
        self.compared.map_or(Ok(()), Compared::finish)?;
        match self.refused {
            None => Ok(()),
            Some((1, failure)) => Err(failure),
            Some((count, failure)) => Err(failure.among(&format!("{count} texts were refused, the first of them"))),
        }
    }
}

/// What becomes of a line.
enum Fate {
    /// It is among the texts that the model answers.
    Read,
    /// There is nothing on it.
    Blank,
    /// By [`Error::Text`].
    Refused(Error),
}

/// An answer as a JSON object.
fn object(answer: &Transliteration) -> Value {
    let candidate = |c: &regard::seq2seq::Candidate| json!({ "text": c.text, "score": rounded(c.score) });
    json!({
        "input": answer.input,
        "output": answer.output,
        "score": rounded(answer.score),
        "candidates": answer.candidates.iter().map(candidate).collect::<Vec<_>>(),
        "weights": answer.weights.as_ref().map_or(json!([]), rows),
        "source_labels": answer.source_labels,
        "target_labels": answer.target_labels,
        "warnings": answer.warnings,
        "error": null,
    })
}

/// The object of a line that is blank or refused.
fn empty(input: &str, refused: Option<&str>) -> Value {
    json!({
        "input": input,
        "output": "",
        "score": 0,
        "candidates": [],
        "weights": [],
        "source_labels": [],
        "target_labels": [],
        "warnings": [],
        "error": refused,
    })
}

/// A matrix as rows.
fn rows(matrix: &Array) -> Value {
    let width = matrix.shape().last().copied().unwrap_or(0).max(1);
    let row = |row: &[f32]| Value::Array(row.iter().map(|&x| rounded(x)).collect());
    Value::Array(matrix.data().chunks_exact(width).map(row).collect())
}

/// A number to seven decimals, which is what an f32 near 1 holds.
fn rounded(x: f32) -> Value {
    output::finite((f64::from(x) * 1e7).round() / 1e7)
}
