//! The network of a model: encoder, attention, decoder, wired as the card says, on the CPU or a GPU.

use std::pin::Pin;

use super::Model;
use super::card::{Bridge, Card, Cell, State, Value, When};
use super::layers::{Layers, Recurrences};
use crate::attention::{Attention, AttentionInputs, Score};
#[cfg(not(target_arch = "wasm32"))]
use crate::backend::Driver;
use crate::backend::{self, Backend, IntegersOf};
use crate::error::{Error, Result};
use crate::rnn::RnnInputs;
use crate::search::{Candidates, CandidatesOf};
use crate::tensor::{Array, TensorLike};

/// S sources of up to T ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceBatch {
    /// S.
    pub sources: usize,
    /// T.
    pub steps: usize,
    /// [T, S]: id `t` of source `s` stands at `t·S + s`; anything past a source's end.
    pub ids: Vec<u32>,
    /// `[S]`: how many ids the encoder reads, and the bridge's mean runs over.
    pub lengths: Vec<u32>,
    /// `[S]`: how many rows of the memory the attention sees.
    pub visible: Vec<u32>,
}

/// What one decoder step gives back for each row.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutput {
    /// As many as were asked for, at most V.
    pub candidates: Candidates,
    /// [rows, T], if asked for.
    pub weights: Option<Array>,
}

/// A step under way.
pub type Stepping<'n> = Pin<Box<dyn Future<Output = Result<StepOutput>> + Send + 'n>>;

/// Runs a model's layers for S sources with `width` hypotheses each: row `r` belongs to source `r / width`.
pub trait Network: Send {
    /// Encodes a batch and sets the decoder's start state of every row.
    ///
    /// # Errors
    /// When the device fails or the batch does not fit it.
    fn start(&mut self, batch: &SourceBatch, width: usize) -> Result<()>;

    /// One decoder step: row `r` continues the state of row `parents[r]`, of the same source, and reads `tokens[r]`. So many
    /// candidates of each row are read back, and the attention weights where they are asked for.
    ///
    /// # Errors
    /// When the device fails, or before [`Network::start`].
    fn step(&mut self, parents: Vec<u32>, tokens: Vec<u32>, candidates: usize, weights: bool) -> Stepping<'_>;

    /// What waits for its futures.
    #[cfg(not(target_arch = "wasm32"))]
    fn driver(&self) -> Driver;
}

/// A model's network on a backend, made by [`Model::network`].
pub struct ModelNetwork<'m, B: Backend> {
    card: &'m Card,
    layers: Layers<B::Value>,
    recurrences: Recurrences<B::Recurrence>,
    backend: B,
    running: Option<Running<B::Value>>,
}

/// What lasts from one decoder step to the next.
#[derive(Debug)]
struct Running<T: TensorLike> {
    /// S.
    sources: usize,
    /// T.
    steps: usize,
    width: usize,
    /// [S, 1, T, A].
    keys: T,
    /// [S, 1, T, M].
    values: T,
    /// `[S]`.
    visible: T::Integers,
    /// [layers · rows, H].
    h: T,
    /// [layers · rows, H], of an LSTM.
    c: Option<T>,
}

/// The values inside a decoder step, each [rows, …], as they become known.
struct Known<T>(Vec<(Value, T)>);

impl<T: backend::Numbers> Known<T> {
    fn get(&self, value: Value) -> Result<T> {
        let found = self.0.iter().find(|(v, _)| *v == value).map(|(_, tensor)| tensor.clone());
        found.ok_or_else(|| Error::missing(value.to_string(), "a value computed earlier in the decoder step"))
    }

    /// Values side by side.
    fn join<B: Backend<Value = T>>(&self, backend: &mut B, inputs: &[Value]) -> Result<T> {
        let inputs: Vec<T> = inputs.iter().map(|&input| self.get(input)).collect::<Result<_>>()?;
        match inputs.as_slice() {
            [one] => Ok(one.clone()),
            inputs => backend.join(1, inputs),
        }
    }
}

impl<'m, B: Backend> ModelNetwork<'m, B> {
    /// The network of a model, its weights moved to the backend.
    pub(super) fn new(model: &'m Model, mut backend: B) -> Result<Self> {
        let card = model.card();
        let layers = model.layers.try_map(|array| backend.constant("weight", array))?;
        let recurrences = Recurrences {
            encoder: backend.recurrence(&card.encoder.rnn.options(), &model.recurrences.encoder)?,
            decoder: backend.recurrence(&card.decoder.rnn.options(), &model.recurrences.decoder)?,
        };
        Ok(Self { card, layers, recurrences, backend, running: None })
    }

    /// Rows of a matrix by number.
    fn rows(&mut self, table: &B::Value, ids: &[u32]) -> Result<B::Value> {
        self.backend.embed(table, &Array::new(&[ids.len()], ids.to_vec())?)
    }

    fn lengths(&mut self, lengths: &[u32]) -> Result<IntegersOf<B>> {
        self.backend.integers("lengths", &Array::new(&[lengths.len()], lengths.to_vec())?)
    }

    /// What was asked for before an error must not be done with the next batch.
    fn clean_up<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.backend.discard();
        }
        result
    }

    /// The start state [layers · rows, H] of h or c, by the bridge, from what the encoder left.
    fn bridge(&mut self, batch: &SourceBatch, width: usize, state: &B::Value, memory: &B::Value) -> Result<B::Value> {
        let (encoder, decoder) = (&self.card.encoder.rnn, &self.card.decoder.rnn);
        let (sources, rows) = (batch.sources, batch.sources * width);
        // Rows of a table [· S, H] that the start state is made of: for each decoder layer a block of S.
        let select = |block: &dyn Fn(usize) -> usize| -> Vec<u32> {
            (0..decoder.layers)
                .flat_map(|l| (0..rows).map(move |r| (l, r)))
                .map(|(l, r)| (block(l) * sources + r / width) as u32)
                .collect()
        };
        let last = encoder.layers.saturating_sub(decoder.layers);
        match &self.card.bridge {
            Bridge::Zeros => {
                self.backend.constant("start", &Array::filled(&[decoder.layers * rows, decoder.hidden], 0.0))
            }
            Bridge::FinalState => self.rows(state, &select(&|l| last + l)),
            Bridge::FinalStateConcat => {
                let forward = self.rows(state, &select(&|l| 2 * (last + l)))?;
                let backward = self.rows(state, &select(&|l| 2 * (last + l) + 1))?;
                self.backend.join(1, &[forward, backward])
            }
            Bridge::MeanLinear(_) => {
                let mut start = self.mean(batch, memory)?;
                if let Some(layer) = &self.layers.bridge {
                    start = layer.forward(&mut self.backend, &start)?;
                }
                self.rows(&start, &select(&|_| 0))
            }
        }
    }

    /// The mean [S, M] of the memory over each source's length: attention whose scores are all 0.
    fn mean(&mut self, batch: &SourceBatch, memory: &B::Value) -> Result<B::Value> {
        let width = self.layers.memory_width;
        let options = Attention { score: Score::Dot, scale: Some(0.0), ..Attention::default() };
        let query = self.backend.constant("start", &Array::filled(&[batch.sources, 1, 1, width], 0.0))?;
        let mut inputs = AttentionInputs::new(query, memory.clone(), memory.clone());
        inputs.kv_lengths = Some(self.lengths(&batch.lengths)?);
        let mean = self.backend.attention(&options, &inputs)?.output;
        self.backend.reshape(&mean, &[batch.sources, width])
    }

    /// Attention of the rows to the memory: adds the context, returns the weights.
    fn attend(
        &mut self,
        run: &Running<B::Value>,
        known: &mut Known<B::Value>,
        weights: bool,
    ) -> Result<Option<B::Value>> {
        let attention = &self.card.attention;
        let mut query = known.get(attention.query.source)?;
        if let Some(projection) = &self.layers.query {
            query = projection.forward(&mut self.backend, &query)?;
        }
        // The hypotheses of a source are the queries of one batch row, so its memory is stored once.
        let query = self.backend.reshape(&query, &[run.sources, 1, run.width, self.layers.key_width])?;
        let mut inputs = AttentionInputs::new(query, run.keys.clone(), run.values.clone());
        inputs.kv_lengths = Some(run.visible.clone());
        inputs.score.v = self.layers.v.clone();
        let outputs =
            self.backend.attention(&crate::attention::Attention { weights, ..attention.options() }, &inputs)?;
        let rows = run.sources * run.width;
        known.0.push((Value::Context, self.backend.reshape(&outputs.output, &[rows, self.layers.memory_width])?));
        outputs.weights.map(|w| self.backend.reshape(&w, &[rows, run.steps])).transpose()
    }

    /// The recurrence of the rows: adds the decoder's output, replaces the state.
    fn recur(&mut self, run: &mut Running<B::Value>, known: &mut Known<B::Value>) -> Result<()> {
        let rnn = &self.card.decoder.rnn;
        let rows = run.sources * run.width;
        let (state, flat) = ([rnn.layers, rows, rnn.hidden], [rnn.layers * rows, rnn.hidden]);
        let input = known.join(&mut self.backend, &rnn.input_parts)?;
        let mut inputs = RnnInputs::new(self.backend.reshape(&input, &[1, rows, rnn.input])?);
        if rnn.state == State::Carried {
            inputs.initial_h = Some(self.backend.reshape(&run.h, &state)?);
            inputs.initial_c = run.c.as_ref().map(|c| self.backend.reshape(c, &state)).transpose()?;
        }
        let outputs = self.backend.rnn(&self.recurrences.decoder, &inputs)?;
        run.h = self.backend.reshape(&outputs.final_h, &flat)?;
        run.c = outputs.final_c.map(|c| self.backend.reshape(&c, &flat)).transpose()?;
        known.0.push((Value::DecoderOutput, self.backend.reshape(&outputs.output, &[rows, rnn.hidden])?));
        Ok(())
    }

    /// The last layer's h before the step.
    fn previous_hidden(&mut self, run: &Running<B::Value>) -> Result<B::Value> {
        let rows = run.sources * run.width;
        let last = (self.card.decoder.rnn.layers - 1) * rows;
        let ids: Vec<u32> = (last..last + rows).map(|r| r as u32).collect();
        self.rows(&run.h, &ids)
    }
}

impl<B: Backend> ModelNetwork<'_, B> {
    fn encode(&mut self, batch: &SourceBatch, width: usize) -> Result<()> {
        self.running = None;
        let (t, s) = (batch.steps, batch.sources);
        let rnn = &self.card.encoder.rnn;
        let embedded = self.rows(&self.layers.source_embedding.clone(), &batch.ids)?;
        let mut inputs = RnnInputs::new(self.backend.reshape(&embedded, &[t, s, rnn.input])?);
        inputs.lengths = Some(self.lengths(&batch.lengths)?);
        let encoded = self.backend.rnn(&self.recurrences.encoder, &inputs)?;

        let mut memory = self.backend.reshape(&encoded.output, &[t * s, rnn.width()])?;
        if let Some(projection) = &self.layers.projection {
            memory = projection.forward(&mut self.backend, &memory)?;
        }
        let keys = match &self.layers.key {
            Some(projection) => projection.forward(&mut self.backend, &memory)?,
            None => memory.clone(),
        };
        // [T · S, D] → [S, 1, T, D]
        let mut batch_first = |x: &B::Value, width: usize| -> Result<B::Value> {
            let x = self.backend.reshape(x, &[t, s, 1, width])?;
            self.backend.permute(&x, &[1, 2, 0, 3])
        };
        let keys = batch_first(&keys, self.layers.key_width)?;
        let values = batch_first(&memory, self.layers.memory_width)?;

        let directions = if rnn.bidirectional { 2 } else { 1 };
        let flat = [rnn.layers * directions * s, rnn.hidden];
        let h = self.backend.reshape(&encoded.final_h, &flat)?;
        let h = self.bridge(batch, width, &h, &values)?;
        let c = match encoded.final_c.filter(|_| self.card.decoder.rnn.cell == Cell::Lstm) {
            Some(c) => {
                let c = self.backend.reshape(&c, &flat)?;
                Some(self.bridge(batch, width, &c, &values)?)
            }
            None => None,
        };
        let visible = self.lengths(&batch.visible)?;
        self.backend.submit()?;
        self.running = Some(Running { sources: s, steps: t, width, keys, values, visible, h, c });
        Ok(())
    }

    async fn decode(
        &mut self,
        parents: &[u32],
        tokens: &[u32],
        candidates: usize,
        weights: bool,
    ) -> Result<StepOutput> {
        let mut run = self.running.take().ok_or_else(|| Error::missing("batch", "`start` before `step`"))?;
        let rows = run.sources * run.width;
        if parents.iter().zip(0..).any(|(&parent, row)| parent != row) {
            let layers = self.card.decoder.rnn.layers;
            let ids: Vec<u32> = (0..layers).flat_map(|l| parents.iter().map(move |p| (l * rows) as u32 + p)).collect();
            run.h = self.rows(&run.h, &ids)?;
            run.c = run.c.map(|c| self.rows(&c, &ids)).transpose()?;
        }
        let attention = &self.card.attention;
        let mut known = Known(vec![(Value::TokenEmbedding, self.rows(&self.layers.target_embedding.clone(), tokens)?)]);
        if self.card.uses(Value::PreviousHidden) {
            known.0.push((Value::PreviousHidden, self.previous_hidden(&run)?));
        }
        let weights = match attention.when {
            When::BeforeRnn => {
                let weights = self.attend(&run, &mut known, weights)?;
                self.recur(&mut run, &mut known)?;
                weights
            }
            When::AfterRnn => {
                self.recur(&mut run, &mut known)?;
                self.attend(&run, &mut known, weights)?
            }
        };
        if let (Some(card), Some(layer)) = (&attention.combine, &self.layers.combine) {
            let input = known.join(&mut self.backend, &card.input_parts)?;
            known.0.push((Value::Combined, layer.forward(&mut self.backend, &input)?));
        }
        let input = known.join(&mut self.backend, &self.card.output.input_parts)?;
        let logits = self.layers.output.forward(&mut self.backend, &input)?;
        self.running = Some(run);

        let found = CandidatesOf::new(&mut self.backend, &logits, candidates)?;
        let mut numbers: Vec<&B::Value> = found.numbers.iter().collect();
        numbers.extend(&weights);
        let mut read = self.backend.finish(None, &numbers, &[&found.tokens]).await?;
        let weights = weights.and_then(|_| read.numbers.pop());
        Ok(StepOutput { candidates: Candidates::read(read)?, weights })
    }
}

impl<B: Backend> Network for ModelNetwork<'_, B> {
    fn start(&mut self, batch: &SourceBatch, width: usize) -> Result<()> {
        let started = self.encode(batch, width);
        self.clean_up(started)
    }

    fn step(&mut self, parents: Vec<u32>, tokens: Vec<u32>, candidates: usize, weights: bool) -> Stepping<'_> {
        Box::pin(async move {
            let stepped = self.decode(&parents, &tokens, candidates, weights).await;
            self.clean_up(stepped)
        })
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn driver(&self) -> Driver {
        self.backend.driver()
    }
}
