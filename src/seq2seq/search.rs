//! The search for a model's answers.

use super::card::Card;
use super::network::{Network, SourceBatch};
use super::text::{Source, Symbols};
use crate::error::Result;
use crate::search::{self, Candidates, GridStep, Rule, Search, Steps};
use crate::tensor::Array;

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

/// The best hypotheses of each source, at most `width`, best first.
pub(super) async fn search(
    card: &Card,
    symbols: &Symbols,
    network: &mut (dyn Network + '_),
    sources: &[&Source],
    width: usize,
    weights: bool,
) -> Result<Vec<Vec<Hypothesis>>> {
    network.start(&batch(card, sources), width)?;
    let search = Search {
        width,
        most: card.decoding.max_steps,
        // Greedy search: the first end is the best there is.
        rule: if width == 1 { Rule::FixedWidth } else { card.decoding.rule },
        start: symbols.start,
        end: Some(symbols.end),
        forbidden: [&symbols.always_forbidden, &symbols.first_step_forbidden],
    };
    let mut traced = Traced { network, weights, steps: Vec::new() };
    let beams = search.run(sources.len(), &mut traced).await?;
    let steps = traced.steps;
    let finish = |(beam, source): (Vec<search::Hypothesis>, &&Source)| -> Result<Vec<Hypothesis>> {
        let hypothesis = |found: search::Hypothesis| -> Result<Hypothesis> {
            let weights = if weights { Some(trace(&steps, &found, source.ids.len())?) } else { None };
            Ok(Hypothesis { score: found.score(card.decoding.length_alpha), ids: found.tokens, weights })
        };
        let mut found: Vec<Hypothesis> = beam.into_iter().map(hypothesis).collect::<Result<_>>()?;
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(found)
    };
    beams.into_iter().zip(sources).map(finish).collect()
}

/// A network whose attention weights are kept.
struct Traced<'a, 'n> {
    network: &'a mut (dyn Network + 'n),
    weights: bool,
    steps: Vec<Array>,
}

impl Steps for Traced<'_, '_> {
    async fn step(&mut self, step: GridStep) -> Result<Candidates> {
        let output = self.network.step(step.parents, step.tokens, step.candidates, self.weights).await?;
        self.steps.extend(output.weights);
        Ok(output.candidates)
    }
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

/// The attention weights [steps, source ids] of one hypothesis.
fn trace(steps: &[Array], found: &search::Hypothesis, source: usize) -> Result<Array> {
    let mut data = Vec::with_capacity(found.rows.len() * source);
    for (weights, &row) in steps.iter().zip(&found.rows) {
        let columns = weights.shape().last().copied().unwrap_or(0);
        data.extend(weights.data().iter().skip(row as usize * columns).take(source));
    }
    Array::new(&[found.rows.len(), source], data)
}
