//! Greedy and beam search over a network's steps.
//!
//! ```text
//! beam(s) ← [empty hypothesis] for each source s
//! until every source is done, at most max_steps times:
//!     one step of the network for all rows: row s·width + i continues beam(s)[i]
//!     candidates(s) ← finished hypotheses ∪ each live one extended by its `width` most probable allowed tokens
//!     beam(s) ← the `width` candidates with the largest sums of log-probabilities
//! ```
//! Width 1 is greedy search. The grid of rows keeps its shape until the end: rows without a hypothesis, and those of
//! sources that are done, compute along and are ignored. A step is at most one batched call, and no row depends on
//! another source's.

use super::card::{Card, Rule};
use super::network::{Network, SourceBatch};
use super::text::{Source, Symbols};
use crate::error::{Error, Result};
use crate::tensor::Array;

/// [`Rule::FinishedList`] skips tokens that are not more probable than this.
const LEAST_PROBABLE: f64 = 1e-8;

/// An answer that the search found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hypothesis {
    /// Target ids, the end token included if it was reached.
    pub(super) ids: Vec<u32>,
    /// Sum of log-probabilities over length^alpha.
    pub(super) score: f64,
    /// [steps, source ids], if asked for.
    pub(super) weights: Option<Array>,
}

/// A hypothesis under way.
#[derive(Debug, Clone, Default)]
struct PartialHypothesis {
    ids: Vec<u32>,
    /// For each id the row of the grid that chose it.
    rows: Vec<u32>,
    /// Sum of log-probabilities.
    sum: f64,
    finished: bool,
}

impl PartialHypothesis {
    fn extended(&self, row: usize, id: u32, log_probability: f64) -> Self {
        let mut partial = self.clone();
        partial.ids.push(id);
        partial.rows.push(row as u32);
        partial.sum += log_probability;
        partial
    }
}

/// The hypotheses of one source.
#[derive(Debug, Clone)]
struct Beam {
    /// Those of the beam, the most probable first.
    hypotheses: Vec<PartialHypothesis>,
    /// [`Rule::FinishedList`]: hypotheses that have left the beam.
    finished: Vec<PartialHypothesis>,
    done: bool,
}

/// The best hypotheses of each source, at most `width`, best first.
pub(super) fn search(
    card: &Card,
    symbols: &Symbols,
    network: &mut dyn Network,
    sources: &[&Source],
    width: usize,
    weights: bool,
) -> Result<Vec<Vec<Hypothesis>>> {
    let rows = sources.len() * width;
    network.start(&batch(card, sources), width)?;
    let rule = Expansion {
        card,
        symbols,
        width,
        // Greedy search: the first end is the best there is.
        rule: if width == 1 { Rule::FixedWidth } else { card.decoding.rule },
    };
    let mut beams =
        vec![Beam { hypotheses: vec![PartialHypothesis::default()], finished: Vec::new(), done: false }; sources.len()];
    let mut steps = Vec::new();
    for step in 0..card.decoding.max_steps {
        if beams.iter().all(|beam| beam.done) {
            break;
        }
        let (parents, tokens) = rows_to_run(&beams, width, symbols);
        let output = network.step(&parents, &tokens, weights)?;
        if output.logits.shape() != [rows, card.target.vocab.len()] {
            let expected = format!("[{rows}, {}]", card.target.vocab.len());
            return Err(Error::shape("logits", "shape", expected, format!("{:?}", output.logits.shape())));
        }
        for (source, beam) in beams.iter_mut().enumerate().filter(|(_, beam)| !beam.done) {
            rule.advance(beam, source * width, step, &output.logits)?;
        }
        steps.extend(output.weights);
    }
    let finish = |(beam, source): (Beam, &&Source)| -> Result<Vec<Hypothesis>> {
        let mut hypotheses = beam.finished;
        hypotheses.extend(beam.hypotheses);
        hypotheses.sort_by(|a, b| b.sum.total_cmp(&a.sum));
        hypotheses.truncate(width);
        let hypothesis = |partial: PartialHypothesis| -> Result<Hypothesis> {
            let weights = if weights { Some(trace(&steps, &partial, source.ids.len())?) } else { None };
            let length = partial.ids.len().max(1) as f64;
            Ok(Hypothesis { score: partial.sum / length.powf(card.decoding.length_alpha), ids: partial.ids, weights })
        };
        let mut found: Vec<Hypothesis> = hypotheses.into_iter().map(hypothesis).collect::<Result<_>>()?;
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(found)
    };
    beams.into_iter().zip(sources).map(finish).collect()
}

/// Sources side by side, padded to the longest.
fn batch(card: &Card, sources: &[&Source]) -> SourceBatch {
    use super::card::{Lengths, Mask};
    let steps = sources.iter().map(|s| s.ids.len()).max().unwrap_or(0);
    let id = |t: usize, s: &&Source| s.ids.get(t).copied().unwrap_or(card.source.pad_id);
    let length = |padding: bool, s: &Source| (if padding { s.ids.len() } else { s.real }) as u32;
    SourceBatch {
        sources: sources.len(),
        steps,
        ids: (0..steps).flat_map(|t| sources.iter().map(move |s| id(t, s))).collect(),
        lengths: sources.iter().map(|s| length(card.encoder.rnn.lengths == Lengths::Ignore, s)).collect(),
        visible: sources.iter().map(|s| length(card.attention.mask == Mask::None, s)).collect(),
    }
}

/// For each row of the grid the row whose state it continues, and the token it reads.
fn rows_to_run(beams: &[Beam], width: usize, symbols: &Symbols) -> (Vec<u32>, Vec<u32>) {
    let (mut parents, mut tokens) = (Vec::new(), Vec::new());
    for (source, beam) in beams.iter().enumerate() {
        for i in 0..width {
            let partial = beam.hypotheses.get(i);
            let row = (source * width + i) as u32;
            parents.push(partial.and_then(|p| p.rows.last().copied()).unwrap_or(row));
            tokens.push(partial.and_then(|p| p.ids.last().copied()).unwrap_or(symbols.start));
        }
    }
    (parents, tokens)
}

/// The attention weights [steps, source ids] of one hypothesis.
fn trace(steps: &[Array], partial: &PartialHypothesis, source: usize) -> Result<Array> {
    let mut data = Vec::with_capacity(partial.rows.len() * source);
    for (weights, &row) in steps.iter().zip(&partial.rows) {
        let columns = weights.shape().last().copied().unwrap_or(0);
        data.extend(weights.data().iter().skip(row as usize * columns).take(source));
    }
    Array::new(&[partial.rows.len(), source], data)
}

struct Expansion<'a> {
    card: &'a Card,
    symbols: &'a Symbols,
    width: usize,
    rule: Rule,
}

impl Expansion<'_> {
    /// One step of one source, whose rows start at `first`.
    fn advance(&self, beam: &mut Beam, first: usize, step: usize, logits: &Array) -> Result<()> {
        let mut candidates = Vec::new();
        for (i, partial) in beam.hypotheses.iter().enumerate() {
            if partial.finished {
                candidates.push(partial.clone());
                continue;
            }
            for (id, log_probability) in self.best(logits, first + i, step)? {
                let mut partial = partial.extended(first + i, id, log_probability);
                partial.finished = id == self.symbols.end;
                candidates.push(partial);
            }
        }
        if candidates.is_empty() {
            beam.done = true;
            return Ok(());
        }
        if self.rule == Rule::FinishedList {
            let most = self.card.decoding.max_steps - 1;
            let (finished, live): (Vec<_>, Vec<_>) =
                candidates.into_iter().partition(|p| p.finished || p.ids.len() >= most);
            beam.finished.extend(finished);
            candidates = live;
        }
        candidates.sort_by(|a, b| b.sum.total_cmp(&a.sum));
        candidates.truncate(self.width);
        beam.done = match self.rule {
            Rule::FixedWidth => candidates.iter().all(|p| p.finished),
            Rule::FinishedList => beam.finished.len() >= self.width || candidates.is_empty(),
        };
        beam.hypotheses = candidates;
        Ok(())
    }

    /// The `width` most probable allowed tokens after a row, with their log-probabilities; the log-softmax runs over
    /// all tokens.
    fn best(&self, logits: &Array, row: usize, step: usize) -> Result<Vec<(u32, f64)>> {
        let columns = self.card.target.vocab.len();
        let logits = &logits.data()[row * columns..(row + 1) * columns];
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
        if !sum.is_finite() {
            return Err(Error::shape("logits", "values", "finite numbers", "NaN or infinity"));
        }
        let normalizer = f64::from(max) + sum.ln();
        let forbidden = |id: &u32| {
            self.symbols.always_forbidden.contains(id) || (step == 0 && self.symbols.first_step_forbidden.contains(id))
        };
        let improbable = |p: f64| self.rule == Rule::FinishedList && p.exp() <= LEAST_PROBABLE;
        let mut best: Vec<(u32, f64)> = Vec::with_capacity(self.width + 1);
        for (&logit, id) in logits.iter().zip(0..) {
            let log_probability = f64::from(logit) - normalizer;
            let rank = best.partition_point(|&(_, other)| other >= log_probability);
            if rank < self.width && !forbidden(&id) && !improbable(log_probability) {
                best.insert(rank, (id, log_probability));
                best.truncate(self.width);
            }
        }
        Ok(best)
    }
}
