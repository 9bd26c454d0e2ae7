//! Greedy and beam search over the steps of a network.
//!
//! ```text
//! beam(s) ← [empty hypothesis] for each source s
//! until every source is done, at most `most` times:
//!     one step of the network for all rows: row s·width + i continues beam(s)[i]
//!     candidates(s) ← finished hypotheses ∪ each live one extended by its `width` most probable allowed tokens
//!     beam(s) ← the `width` candidates with the largest sums of log-probabilities
//! ```
//! Width 1 is greedy search. The grid of rows keeps its shape until the end: rows without a hypothesis, and those of
//! sources that are done, compute along and are ignored. A step is at most one batched call, and no row depends on
//! another source's. Of a step nothing is read but the candidates.

use serde::Deserialize;

use crate::backend::{Backend, IntegersOf, OnHost, Value};
use crate::error::{Error, Result};
use crate::tensor::Array;

/// [`Rule::FinishedList`] skips tokens that are not more probable than this.
const LEAST_PROBABLE: f64 = 1e-8;

/// How beam search treats finished hypotheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// They keep their place among the `beam` kept; the search ends when all those are finished.
    #[default]
    FixedWidth,
    /// They move to a list of their own and leave their place to others; the search ends when that list has `beam`
    /// entries. Tokens less probable than 1e-8 are skipped, and `max_steps` counts the start token.
    FinishedList,
}

/// The most probable tokens after each row.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    /// [rows, k], the most probable first.
    pub tokens: Array<u32>,
    /// [rows, k].
    pub log_probabilities: Array,
}

/// The same on a backend.
pub(crate) struct CandidatesOf<B: Backend> {
    /// [rows, k] and [rows].
    pub(crate) numbers: [B::Value; 2],
    /// [rows, k].
    pub(crate) tokens: IntegersOf<B>,
}

impl<B: Backend> CandidatesOf<B> {
    /// The `count` most probable tokens of logits [rows, V], at most all; their log-softmax runs over all of them.
    pub(crate) fn new(b: &mut B, logits: &B::Value, count: usize) -> Result<Self> {
        let words = logits.shape().last().copied().unwrap_or(0);
        let (largest, tokens) = b.top_k(logits, count.min(words))?;
        Ok(Self { numbers: [largest, b.log_sum_exp(logits)?], tokens })
    }
}

impl Candidates {
    /// From what was read of [`CandidatesOf`].
    pub(crate) fn read(read: OnHost) -> Result<Self> {
        let missing = || Error::missing("candidates", "what was read back");
        let mut numbers = read.numbers.into_iter();
        let (mut logits, sums) = numbers.next().zip(numbers.next()).ok_or_else(missing)?;
        let width = logits.shape().last().copied().unwrap_or(1).max(1);
        for (row, &sum) in logits.data_mut().chunks_exact_mut(width).zip(sums.data()) {
            row.iter_mut().for_each(|logit| *logit -= sum);
        }
        Ok(Self { tokens: read.integers.into_iter().next().ok_or_else(missing)?, log_probabilities: logits })
    }

    fn row(&self, row: usize) -> impl Iterator<Item = (u32, f64)> {
        let width = self.tokens.shape().last().copied().unwrap_or(0);
        let of = |data: std::ops::Range<usize>| {
            let tokens = self.tokens.data().get(data.clone()).unwrap_or_default();
            tokens.iter().zip(self.log_probabilities.data().get(data).unwrap_or_default())
        };
        of(row * width..(row + 1) * width).map(|(&token, &log)| (token, f64::from(log)))
    }
}

/// A text that the search has found, or is finding.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hypothesis {
    pub(crate) tokens: Vec<u32>,
    /// For each token the row of the grid that chose it.
    pub(crate) rows: Vec<u32>,
    /// The sum of log-probabilities.
    pub(crate) sum: f64,
    finished: bool,
}

impl Hypothesis {
    fn extended(&self, row: usize, token: u32, log_probability: f64) -> Self {
        let mut extended = self.clone();
        extended.tokens.push(token);
        extended.rows.push(row as u32);
        extended.sum += log_probability;
        extended
    }

    /// The sum over length^exponent.
    pub(crate) fn score(&self, length_exponent: f64) -> f64 {
        self.sum / (self.tokens.len().max(1) as f64).powf(length_exponent)
    }
}

/// The hypotheses of one source.
#[derive(Debug, Clone)]
struct Beam {
    /// Those of the beam, the most probable first.
    hypotheses: Vec<Hypothesis>,
    /// [`Rule::FinishedList`]: hypotheses that have left the beam.
    finished: Vec<Hypothesis>,
    done: bool,
}

/// What is searched for.
pub(crate) struct Search<'a> {
    /// Hypotheses kept of each source.
    pub(crate) width: usize,
    /// Steps at most.
    pub(crate) most: usize,
    pub(crate) rule: Rule,
    /// The token that every text begins with, which is not part of it.
    pub(crate) start: u32,
    /// The token that ends a text, which is its last then.
    pub(crate) end: Option<u32>,
    /// Tokens that are never taken, and those that are not taken first.
    pub(crate) forbidden: [&'a [u32]; 2],
}

/// A step: for each row of the grid the row whose state it continues, and the token that it reads.
pub(crate) struct GridStep {
    /// [sources · width].
    pub(crate) parents: Vec<u32>,
    /// [sources · width].
    pub(crate) tokens: Vec<u32>,
    /// How many candidates are wanted of each row.
    pub(crate) candidates: usize,
}

/// What is searched: a network.
pub(crate) trait Steps: Send {
    /// The candidates of each row after a step.
    fn step(&mut self, step: GridStep) -> impl Future<Output = Result<Candidates>> + Send;
}

impl Search<'_> {
    /// The best hypotheses of each source, at most `width`, the most probable first.
    pub(crate) async fn run(&self, sources: usize, steps: &mut impl Steps) -> Result<Vec<Vec<Hypothesis>>> {
        let first = Beam { hypotheses: vec![Hypothesis::default()], finished: Vec::new(), done: false };
        let mut beams = vec![first; sources];
        for number in 0..self.most {
            if beams.iter().all(|beam| beam.done) {
                break;
            }
            let (parents, tokens) = self.rows_to_run(&beams);
            let forbidden = self.forbidden[0].len() + if number == 0 { self.forbidden[1].len() } else { 0 };
            let step = GridStep { parents, tokens, candidates: self.width + forbidden };
            let found = steps.step(step).await?;
            let rows = found.tokens.shape().first().copied().unwrap_or(0);
            if rows != sources * self.width || found.log_probabilities.shape() != found.tokens.shape() {
                let shape = format!("{:?}", found.tokens.shape());
                return Err(Error::shape("candidates", "shape", format!("[{}, ..]", sources * self.width), shape));
            }
            for (source, beam) in beams.iter_mut().enumerate().filter(|(_, beam)| !beam.done) {
                self.advance(beam, source * self.width, number, &found)?;
            }
        }
        let finish = |beam: Beam| {
            let mut hypotheses = beam.finished;
            hypotheses.extend(beam.hypotheses);
            hypotheses.sort_by(|a, b| b.sum.total_cmp(&a.sum));
            hypotheses.truncate(self.width);
            hypotheses
        };
        Ok(beams.into_iter().map(finish).collect())
    }

    /// For each row of the grid the row whose state it continues, and the token it reads.
    fn rows_to_run(&self, beams: &[Beam]) -> (Vec<u32>, Vec<u32>) {
        let (mut parents, mut tokens) = (Vec::new(), Vec::new());
        for (source, beam) in beams.iter().enumerate() {
            for i in 0..self.width {
                let hypothesis = beam.hypotheses.get(i);
                let row = (source * self.width + i) as u32;
                parents.push(hypothesis.and_then(|h| h.rows.last().copied()).unwrap_or(row));
                tokens.push(hypothesis.and_then(|h| h.tokens.last().copied()).unwrap_or(self.start));
            }
        }
        (parents, tokens)
    }

    /// One step of one source, whose rows start at `first`.
    fn advance(&self, beam: &mut Beam, first: usize, step: usize, found: &Candidates) -> Result<()> {
        let mut candidates = Vec::new();
        for (i, hypothesis) in beam.hypotheses.iter().enumerate() {
            if hypothesis.finished {
                candidates.push(hypothesis.clone());
                continue;
            }
            for (token, log_probability) in self.best(found, first + i, step)? {
                let mut extended = hypothesis.extended(first + i, token, log_probability);
                extended.finished = Some(token) == self.end;
                candidates.push(extended);
            }
        }
        if candidates.is_empty() {
            beam.done = true;
            return Ok(());
        }
        if self.rule == Rule::FinishedList {
            let (finished, live): (Vec<_>, Vec<_>) =
                candidates.into_iter().partition(|h| h.finished || h.tokens.len() + 1 >= self.most);
            beam.finished.extend(finished);
            candidates = live;
        }
        candidates.sort_by(|a, b| b.sum.total_cmp(&a.sum));
        candidates.truncate(self.width);
        beam.done = match self.rule {
            Rule::FixedWidth => candidates.iter().all(|h| h.finished),
            Rule::FinishedList => beam.finished.len() >= self.width || candidates.is_empty(),
        };
        beam.hypotheses = candidates;
        Ok(())
    }

    /// The `width` most probable allowed tokens after a row, with their log-probabilities.
    fn best(&self, found: &Candidates, row: usize, step: usize) -> Result<Vec<(u32, f64)>> {
        let [never, not_first] = self.forbidden;
        let forbidden = |token: &u32| never.contains(token) || (step == 0 && not_first.contains(token));
        let improbable = |log: f64| self.rule == Rule::FinishedList && log.exp() <= LEAST_PROBABLE;
        if found.row(row).any(|(_, log)| log.is_nan()) {
            return Err(Error::shape("logits", "values", "finite numbers", "NaN or infinity"));
        }
        let allowed = found.row(row).filter(|(token, log)| !forbidden(token) && !improbable(*log));
        Ok(allowed.take(self.width).collect())
    }
}
