//! A decoder's steps, on any backend.

use super::{
    AttentionDecoder, DecoderMemory, DecoderOutput, DecoderOutputs, DecoderProblem, DecoderState, DecoderWeights,
    LocationInput, MemoryProblem,
};
use crate::attention::{Attention, AttentionInputs, Normalize, Score, ScoreWeights};
use crate::backend::{Backend, Epilogue, Numbers, Recurrence, Value};
use crate::error::{Error, Result};
use crate::layers::{CoverageCost, Linear};
use crate::rnn::RnnInputs;
use crate::tensor::{Array, TensorLike};

/// An [`AttentionDecoder`] with its weights on a backend: `V` are its values, `R` is its recurrence.
#[derive(Debug, Clone)]
pub struct LoadedDecoder<V, R> {
    pub(crate) options: AttentionDecoder,
    pub(crate) cell: R,
    pub(crate) score: ScoreWeights<V>,
    pub(crate) attention: Option<Linear<V>>,
}

/// A memory whose keys are projected, once for all steps.
#[derive(Debug, Clone)]
pub struct LoadedMemory<V: TensorLike> {
    given: DecoderMemory<V>,
    /// [B, 1, Nk, A], as the score compares them.
    keys: V,
    /// [B, 1, Nk, M].
    values: V,
}

/// What is left of a score once the keys are projected: how the query is, and what compares the two.
struct Compared<V> {
    score: Score,
    query: Option<Linear<V>>,
}

impl<V: Numbers, R: Recurrence> LoadedDecoder<V, R> {
    /// The options it was loaded with.
    pub fn options(&self) -> &AttentionDecoder {
        &self.options
    }

    fn shapes(&self) -> DecoderWeights<&[usize]> {
        DecoderWeights {
            cell: self.cell.stack(),
            score: self.score.map(Value::shape),
            attention: self.attention.as_ref().map(|layer| layer.map(Value::shape)),
        }
    }

    /// Projects the keys, which every step then reads.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] when memory and decoder do not fit, and those of the
    /// backend.
    pub fn remember<B: Backend<Value = V>>(
        &self,
        backend: &mut B,
        memory: &DecoderMemory<V>,
    ) -> Result<LoadedMemory<V>> {
        let b = backend;
        let p = MemoryProblem::new(&self.options, &self.shapes(), &memory.map(Value::shape, Value::shape))?;
        let values = b.wide("memory", &memory.memory)?;
        let weight = match (self.options.attention.score, &self.score.weight) {
            // q·W·k = q·(W·k)
            (Score::General, weight) => weight.clone(),
            // W·[q; k] = Wq·q + Wk·k with W = [Wq | Wk]
            (Score::Concat, Some(weight)) => Some(b.slice(weight, 1, p.hidden, p.memory)?),
            _ => self.score.key_weight.clone(),
        };
        let keys = match weight {
            Some(weight) => b.linear(&[(&values, &weight)], Epilogue::default())?,
            None => values.clone(),
        };
        let mut head = |x: &V| {
            let width = x.shape().last().copied().unwrap_or(0);
            b.reshape(x, &[p.batch, 1, p.keys, width])
        };
        Ok(LoadedMemory { given: memory.clone(), keys: head(&keys)?, values: head(&values)? })
    }

    /// Every step of `input` [T, B, I] after `state`, or after zeros.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] when the request is wrong, and those of the backend.
    pub fn forward<B: Backend<Value = V, Recurrence = R>>(
        &self,
        backend: &mut B,
        memory: &LoadedMemory<V>,
        input: &V,
        state: Option<&DecoderState<V>>,
    ) -> Result<DecoderOutputs<V>> {
        let b = backend;
        let shapes = state.map(|state| state.map(Value::shape));
        let given = memory.given.map(Value::shape, Value::shape);
        let p = DecoderProblem::new(&self.options, &self.shapes(), &given, input.shape(), shapes.as_ref())?;
        let mut now = match state {
            Some(state) => state.clone(),
            None => DecoderState::new(zeros(b, &[p.layers, p.batch, p.hidden])?, None),
        };
        let (mut outputs, mut alignments, mut losses) = (Vec::new(), Vec::new(), Vec::new());
        for t in 0..p.steps {
            let mut x = b.slice(input, 0, t, 1)?;
            if self.options.input_feeding {
                let fed = match &now.attention {
                    Some(attention) => attention.clone(),
                    None => zeros(b, &[p.batch, p.attention])?,
                };
                let fed = b.reshape(&fed, &[1, p.batch, p.attention])?;
                x = b.join(2, &[x, fed])?;
            }
            let mut cell = RnnInputs::new(x);
            (cell.initial_h, cell.initial_c) = (Some(now.h.clone()), now.c.clone());
            let cell = b.rnn(&self.cell, &cell)?;
            let hidden = b.reshape(&cell.output, &[p.batch, p.hidden])?;
            let (attention, alignment) = self.attend(b, &p, memory, &hidden, &now)?;
            let coverage = match self.options.keeps_coverage() {
                true => {
                    let [after, loss] = b.coverage(&alignment, now.coverage.as_ref(), CoverageCost::Overlap)?;
                    losses.push(b.reshape(&loss, &[1, p.batch])?);
                    Some(after)
                }
                false => None,
            };
            outputs.push(match self.options.output {
                DecoderOutput::Attention => b.reshape(&attention, &[1, p.batch, p.attention])?,
                DecoderOutput::Cell => cell.output,
            });
            alignments.push(b.reshape(&alignment, &[1, p.batch, p.keys])?);
            now = DecoderState {
                h: cell.final_h,
                c: cell.final_c,
                attention: Some(attention),
                alignment: Some(alignment),
                coverage,
                step: now.step.wrapping_add(1),
            };
        }
        Ok(DecoderOutputs {
            output: b.join(0, &outputs)?,
            alignments: b.join(0, &alignments)?,
            coverage_loss: if losses.is_empty() { None } else { Some(b.join(0, &losses)?) },
            state: now,
        })
    }

    /// One step after the cell, whose output is `hidden` [B, H]: the attention vector [B, W] and the alignment [B, Nk].
    fn attend<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        p: &DecoderProblem,
        memory: &LoadedMemory<V>,
        hidden: &V,
        before: &DecoderState<V>,
    ) -> Result<(V, V)> {
        let Compared { score, query } = self.compared(b, p)?;
        let options = Attention { score, ..self.options.step_attention(before.step) };
        let query = match &query {
            Some(layer) => layer.forward(b, hidden)?,
            None => hidden.clone(),
        };
        let row = |b: &mut B, x: &V| {
            let width = x.shape().last().copied().unwrap_or(0);
            b.reshape(x, &[p.batch, 1, 1, width])
        };
        let previous = self.previous(b, p, before)?;
        let inputs = AttentionInputs {
            mask: memory.given.mask.clone(),
            kv_lengths: memory.given.lengths.clone(),
            previous: previous.as_ref().map(|previous| row(b, previous)).transpose()?,
            score: ScoreWeights {
                v: self.score.v.clone(),
                g: self.score.g.clone(),
                location_filter: self.score.location_filter.clone(),
                location_weight: self.score.location_weight.clone(),
                ..ScoreWeights::default()
            },
            ..AttentionInputs::new(row(b, &query)?, memory.keys.clone(), memory.values.clone())
        };
        let attended = b.attention(&options, &inputs)?;
        let context = b.reshape(&attended.output, &[p.batch, p.memory])?;
        let attention = match &self.attention {
            // W·[h; context] = Wh·h + Wc·context
            Some(layer) => {
                let of_hidden = b.slice(&layer.weight, 1, 0, p.hidden)?;
                let of_context = b.slice(&layer.weight, 1, p.hidden, p.memory)?;
                let activation = self.options.activation;
                let epilogue = Epilogue { bias: layer.bias.as_ref(), activation, ..Epilogue::default() };
                b.linear(&[(hidden, &of_hidden), (&context, &of_context)], epilogue)?
            }
            None => context,
        };
        let weights = attended.weights.ok_or_else(|| Error::missing("weights", "the alignment of a step"))?;
        Ok((attention, b.reshape(&weights, &[p.batch, p.keys])?))
    }

    fn compared<B: Backend<Value = V>>(&self, b: &mut B, p: &DecoderProblem) -> Result<Compared<V>> {
        let bias = self.score.bias.clone();
        let score = self.options.attention.score;
        Ok(match (score, &self.score.weight, &self.score.query_weight) {
            (Score::General, ..) => Compared { score: Score::Dot, query: None },
            (Score::Concat, Some(weight), _) => {
                let weight = b.slice(weight, 1, 0, p.hidden)?;
                Compared { score: Score::Additive, query: Some(Linear::with(weight, bias)) }
            }
            (_, _, Some(weight)) => Compared { score, query: Some(Linear::with(weight.clone(), bias)) },
            _ => Compared { score, query: None },
        })
    }

    /// The alignment, or the sum of them, that this step reads.
    fn previous<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        p: &DecoderProblem,
        before: &DecoderState<V>,
    ) -> Result<Option<V>> {
        let location = self.options.attention.score == Score::Location;
        let monotonic = matches!(self.options.attention.normalize, Normalize::Monotonic(_));
        let known = match self.options.location {
            _ if !location && !monotonic => return Ok(None),
            LocationInput::Alignment => &before.alignment,
            LocationInput::Coverage => &before.coverage,
        };
        match known {
            Some(known) => Ok(Some(known.clone())),
            // the attention's own start
            None if !location => Ok(None),
            None if monotonic => {
                let first = Array::from_fn(&[p.batch, p.keys], |k| f32::from(u8::from(k % p.keys == 0)));
                b.constant("first alignment", &first).map(Some)
            }
            None => zeros(b, &[p.batch, p.keys]).map(Some),
        }
    }
}

fn zeros<B: Backend>(b: &mut B, shape: &[usize]) -> Result<B::Value> {
    b.constant("zeros", &Array::filled(shape, 0.0))
}
