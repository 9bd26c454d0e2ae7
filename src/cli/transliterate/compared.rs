//! `--check`: each text again, alone, on the CPU.

use regard::Error;
use regard::backend::Reference;
use regard::seq2seq::{Decoding, Model, ModelNetwork, SourceText, Transliteration, transliterate};

use crate::failure::{Failure, Outcome};
use crate::output;

/// Largest difference of scores: two answers this close in score are a tie that rounding decides.
const SCORE: f64 = 1e-3;
/// Largest difference of attention weights.
const WEIGHT: f64 = 2e-3;

/// Answers compared so far.
pub(super) struct Compared<'m> {
    model: &'m Model,
    network: ModelNetwork<'m, Reference<f32>>,
    decoding: Decoding,
    texts: usize,
    ties: usize,
    different: usize,
    score: f64,
    weight: f64,
    first: Option<String>,
}

impl<'m> Compared<'m> {
    pub(super) fn new(model: &'m Model, decoding: Decoding) -> regard::Result<Self> {
        let network = model.network(Reference::default())?;
        let decoding = Decoding { weights: true, batch: 1, ..decoding };
        Ok(Self { model, network, decoding, texts: 0, ties: 0, different: 0, score: 0.0, weight: 0.0, first: None })
    }

    /// Compares answers with those of the CPU.
    pub(super) fn add(&mut self, sources: &[SourceText], answers: &[Transliteration]) -> Outcome {
        for (source, answer) in sources.iter().zip(answers) {
            self.texts += 1;
            let alone = transliterate(self.model, &mut self.network, std::slice::from_ref(source), &self.decoding)?;
            let Some(alone) = alone.first() else { continue };
            let score = f64::from((answer.score - alone.score).abs());
            if answer.output != alone.output {
                if score <= SCORE {
                    self.ties += 1;
                } else {
                    self.fail(format!(
                        "`{}` gives `{}`, alone on the CPU `{}`",
                        source.text, answer.output, alone.output
                    ));
                }
                continue;
            }
            let weight = match (&answer.weights, &alone.weights) {
                (Some(a), Some(b)) if a.shape() == b.shape() => {
                    a.data().iter().zip(b.data()).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
                }
                (None, None) => 0.0,
                _ => f64::INFINITY,
            };
            if !(score <= SCORE && weight <= WEIGHT) {
                self.fail(format!("`{}`: score differs by {score:.1e}, weights by {weight:.1e}", source.text));
            }
            self.score = self.score.max(score);
            self.weight = self.weight.max(weight);
        }
        Ok(())
    }

    fn fail(&mut self, text: String) {
        self.different += 1;
        self.first.get_or_insert(text);
    }

    /// Prints what was found; fails if an answer differs.
    pub(super) fn finish(self) -> Outcome {
        let ties = if self.ties > 0 { format!(", {} of them ties", self.ties) } else { String::new() };
        output::aside(&format!(
            "check: {} of {} texts as on the CPU alone{ties}; scores within {:.1e} (allowed {SCORE:.0e}), weights within \
             {:.1e} (allowed {WEIGHT:.0e})\n",
            self.texts - self.different,
            self.texts,
            self.score,
            self.weight
        ));
        match self.first {
            None => Ok(()),
            Some(first) => {
                let what = format!("{} of {} texts differ, first {first}", self.different, self.texts);
                Err(Failure::from(Error::Tolerance { what, error: self.score, tolerance: SCORE }))
            }
        }
    }
}
