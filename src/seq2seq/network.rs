//! The network of a model: encoder, attention, decoder, wired as the card says, on the CPU or a GPU.

use super::Model;
use super::card::{Bridge, Card, Cell, State, Value, When};
use super::layers::{Dense, Layers, Recurrences};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs, Score};
use crate::error::{Error, Result};
use crate::rnn::{Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::Array;

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
    /// [rows, V].
    pub logits: Array,
    /// [rows, T], if asked for.
    pub weights: Option<Array>,
}

/// Runs a model's layers for S sources with `width` hypotheses each: row `r` belongs to source `r / width`.
pub trait Network {
    /// Encodes a batch and sets the decoder's start state of every row.
    ///
    /// # Errors
    /// When the device fails or the batch does not fit it.
    fn start(&mut self, batch: &SourceBatch, width: usize) -> Result<()>;

    /// One decoder step: row `r` continues the state of row `parents[r]`, of the same source, and reads `tokens[r]`.
    ///
    /// # Errors
    /// When the device fails, or before [`Network::start`].
    fn step(&mut self, parents: &[u32], tokens: &[u32], weights: bool) -> Result<StepOutput>;
}

/// The operations that networks are made of, on tensors of one device.
pub trait Ops {
    /// A handle on a dense row-major tensor; a clone is the same tensor.
    type Tensor: Clone;

    /// A recurrence with its weights.
    type Recurrence;

    /// A host array as a tensor.
    ///
    /// # Errors
    /// As the device has them.
    fn upload(&mut self, array: &Array) -> Result<Self::Tensor>;

    /// Lengths as a tensor `[N]`, as [`RnnInputs::lengths`] and [`AttentionInputs::kv_lengths`] want it.
    ///
    /// # Errors
    /// As the device has them.
    fn lengths(&mut self, lengths: &[u32]) -> Result<Self::Tensor>;

    /// Rows of a table [N, D] by number: [ids, D].
    ///
    /// # Errors
    /// When an id is not below N.
    fn embed(&mut self, table: &Self::Tensor, ids: &[u32]) -> Result<Self::Tensor>;

    /// Rows side by side: [R, D₁], [R, D₂] … → [R, D₁ + D₂ + …].
    ///
    /// # Errors
    /// When the parts differ in their number of rows.
    fn concat(&mut self, parts: &[Self::Tensor]) -> Result<Self::Tensor>;

    /// activation(x·Wᵀ + b): [R, in] → [R, out].
    ///
    /// # Errors
    /// When the widths differ.
    fn dense(&mut self, layer: &Dense<Self::Tensor>, x: &Self::Tensor) -> Result<Self::Tensor>;

    /// The weights of a recurrence, moved to the device.
    ///
    /// # Errors
    /// As the device has them.
    fn recurrence(&mut self, options: &Rnn, stack: &RnnStack<Array>) -> Result<Self::Recurrence>;

    /// A recurrence over a sequence.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn rnn(
        &mut self,
        recurrence: &Self::Recurrence,
        inputs: &RnnInputs<Self::Tensor>,
    ) -> Result<RnnOutputs<Self::Tensor>>;

    /// Attention.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn attention(
        &mut self,
        options: &Attention,
        inputs: &AttentionInputs<Self::Tensor>,
    ) -> Result<AttentionOutputs<Self::Tensor>>;

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    fn reshape(&mut self, x: &Self::Tensor, shape: &[usize]) -> Result<Self::Tensor>;

    /// Axis `k` of the result is axis `order[k]` of `x`; only [`Ops::attention`] is given the result.
    ///
    /// # Errors
    /// When `order` is no permutation of the axes.
    fn permute(&mut self, x: &Self::Tensor, order: &[usize]) -> Result<Self::Tensor>;

    /// Sets the device to work on everything asked for so far, without waiting for it.
    ///
    /// # Errors
    /// As the device has them.
    fn submit(&mut self) -> Result<()>;

    /// The elements of several tensors, on the host.
    ///
    /// # Errors
    /// As the device has them.
    fn read(&mut self, tensors: &[&Self::Tensor]) -> Result<Vec<Array>>;
}

/// A card's network over the operations of one device.
pub struct Graph<'m, O: Ops> {
    card: &'m Card,
    layers: Layers<O::Tensor>,
    recurrences: Recurrences<O::Recurrence>,
    ops: O,
    running: Option<Running<O::Tensor>>,
}

/// What lasts from one decoder step to the next.
#[derive(Debug)]
struct Running<T> {
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
    visible: T,
    /// [layers · rows, H].
    h: T,
    /// [layers · rows, H], of an LSTM.
    c: Option<T>,
}

/// The values inside a decoder step, each [rows, …], as they become known.
struct Known<T>(Vec<(Value, T)>);

impl<T: Clone> Known<T> {
    fn get(&self, value: Value) -> Result<T> {
        let found = self.0.iter().find(|(v, _)| *v == value).map(|(_, tensor)| tensor.clone());
        found.ok_or_else(|| Error::missing(value.to_string(), "a value computed earlier in the decoder step"))
    }

    /// Values side by side.
    fn join<O: Ops<Tensor = T>>(&self, ops: &mut O, parts: &[Value]) -> Result<T> {
        let parts: Vec<T> = parts.iter().map(|&part| self.get(part)).collect::<Result<_>>()?;
        match parts.as_slice() {
            [one] => Ok(one.clone()),
            parts => ops.concat(parts),
        }
    }
}

impl<'m, O: Ops> Graph<'m, O> {
    /// The network of a model, its weights moved to the device of `ops`.
    ///
    /// # Errors
    /// When the device does not take them.
    pub fn new(model: &'m Model, mut ops: O) -> Result<Self> {
        let card = model.card();
        let layers = model.layers().try_map(|array| ops.upload(array))?;
        let recurrences = Recurrences {
            encoder: ops.recurrence(&card.encoder.rnn.options(), &model.recurrences().encoder)?,
            decoder: ops.recurrence(&card.decoder.rnn.options(), &model.recurrences().decoder)?,
        };
        Ok(Self { card, layers, recurrences, ops, running: None })
    }

    /// The operations underneath.
    pub(super) fn ops_mut(&mut self) -> &mut O {
        &mut self.ops
    }

    /// The start state [layers · rows, H] of h or c, by the bridge, from what the encoder left.
    fn bridge(
        &mut self,
        batch: &SourceBatch,
        width: usize,
        state: &O::Tensor,
        memory: &O::Tensor,
    ) -> Result<O::Tensor> {
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
            Bridge::Zeros => self.ops.upload(&Array::filled(&[decoder.layers * rows, decoder.hidden], 0.0)),
            Bridge::FinalState => self.ops.embed(state, &select(&|l| last + l)),
            Bridge::FinalStateConcat => {
                let forward = self.ops.embed(state, &select(&|l| 2 * (last + l)))?;
                let backward = self.ops.embed(state, &select(&|l| 2 * (last + l) + 1))?;
                self.ops.concat(&[forward, backward])
            }
            Bridge::MeanLinear(_) => {
                let mut start = self.mean(batch, memory)?;
                if let Some(layer) = &self.layers.bridge {
                    start = self.ops.dense(layer, &start)?;
                }
                self.ops.embed(&start, &select(&|_| 0))
            }
        }
    }

    /// The mean [S, M] of the memory over each source's length: attention whose scores are all 0.
    fn mean(&mut self, batch: &SourceBatch, memory: &O::Tensor) -> Result<O::Tensor> {
        let width = self.layers.memory_width;
        let options = Attention { score: Score::Dot, scale: Some(0.0), ..Attention::default() };
        let query = self.ops.upload(&Array::filled(&[batch.sources, 1, 1, width], 0.0))?;
        let mut inputs = AttentionInputs::new(query, memory.clone(), memory.clone());
        inputs.kv_lengths = Some(self.ops.lengths(&batch.lengths)?);
        let mean = self.ops.attention(&options, &inputs)?.output;
        self.ops.reshape(&mean, &[batch.sources, width])
    }

    /// Attention of the rows to the memory: adds the context, returns the weights.
    fn attend(
        &mut self,
        run: &Running<O::Tensor>,
        known: &mut Known<O::Tensor>,
        weights: bool,
    ) -> Result<Option<O::Tensor>> {
        let attention = &self.card.attention;
        let mut query = known.get(attention.query.source)?;
        if let Some(projection) = &self.layers.query {
            query = self.ops.dense(projection, &query)?;
        }
        // The hypotheses of a source are the queries of one batch row, so its memory is stored once.
        let query = self.ops.reshape(&query, &[run.sources, 1, run.width, self.layers.key_width])?;
        let mut inputs = AttentionInputs::new(query, run.keys.clone(), run.values.clone());
        inputs.kv_lengths = Some(run.visible.clone());
        inputs.score.v = self.layers.v.clone();
        let outputs = self.ops.attention(&crate::attention::Attention { weights, ..attention.options() }, &inputs)?;
        let rows = run.sources * run.width;
        known.0.push((Value::Context, self.ops.reshape(&outputs.output, &[rows, self.layers.memory_width])?));
        outputs.weights.map(|w| self.ops.reshape(&w, &[rows, run.steps])).transpose()
    }

    /// The recurrence of the rows: adds the decoder's output, replaces the state.
    fn recur(&mut self, run: &mut Running<O::Tensor>, known: &mut Known<O::Tensor>) -> Result<()> {
        let rnn = &self.card.decoder.rnn;
        let rows = run.sources * run.width;
        let (state, flat) = ([rnn.layers, rows, rnn.hidden], [rnn.layers * rows, rnn.hidden]);
        let input = known.join(&mut self.ops, &rnn.input_parts)?;
        let mut inputs = RnnInputs::new(self.ops.reshape(&input, &[1, rows, rnn.input])?);
        if rnn.state == State::Carried {
            inputs.initial_h = Some(self.ops.reshape(&run.h, &state)?);
            inputs.initial_c = run.c.as_ref().map(|c| self.ops.reshape(c, &state)).transpose()?;
        }
        let outputs = self.ops.rnn(&self.recurrences.decoder, &inputs)?;
        run.h = self.ops.reshape(&outputs.final_h, &flat)?;
        run.c = outputs.final_c.map(|c| self.ops.reshape(&c, &flat)).transpose()?;
        known.0.push((Value::DecoderOutput, self.ops.reshape(&outputs.output, &[rows, rnn.hidden])?));
        Ok(())
    }

    /// The last layer's h before the step.
    fn previous_hidden(&mut self, run: &Running<O::Tensor>) -> Result<O::Tensor> {
        let rows = run.sources * run.width;
        let last = (self.card.decoder.rnn.layers - 1) * rows;
        let ids: Vec<u32> = (last..last + rows).map(|r| r as u32).collect();
        self.ops.embed(&run.h, &ids)
    }
}

impl<O: Ops> Network for Graph<'_, O> {
    fn start(&mut self, batch: &SourceBatch, width: usize) -> Result<()> {
        self.running = None;
        let (t, s) = (batch.steps, batch.sources);
        let rnn = &self.card.encoder.rnn;
        let embedded = self.ops.embed(&self.layers.source_embedding, &batch.ids)?;
        let mut inputs = RnnInputs::new(self.ops.reshape(&embedded, &[t, s, rnn.input])?);
        inputs.lengths = Some(self.ops.lengths(&batch.lengths)?);
        let encoded = self.ops.rnn(&self.recurrences.encoder, &inputs)?;

        let mut memory = self.ops.reshape(&encoded.output, &[t * s, rnn.width()])?;
        if let Some(projection) = &self.layers.projection {
            memory = self.ops.dense(projection, &memory)?;
        }
        let keys = match &self.layers.key {
            Some(projection) => self.ops.dense(projection, &memory)?,
            None => memory.clone(),
        };
        // [T · S, D] → [S, 1, T, D]
        let mut batch_first = |x: &O::Tensor, width: usize| -> Result<O::Tensor> {
            let x = self.ops.reshape(x, &[t, s, 1, width])?;
            self.ops.permute(&x, &[1, 2, 0, 3])
        };
        let keys = batch_first(&keys, self.layers.key_width)?;
        let values = batch_first(&memory, self.layers.memory_width)?;

        let directions = if rnn.bidirectional { 2 } else { 1 };
        let flat = [rnn.layers * directions * s, rnn.hidden];
        let h = self.ops.reshape(&encoded.final_h, &flat)?;
        let h = self.bridge(batch, width, &h, &values)?;
        let c = match encoded.final_c.filter(|_| self.card.decoder.rnn.cell == Cell::Lstm) {
            Some(c) => {
                let c = self.ops.reshape(&c, &flat)?;
                Some(self.bridge(batch, width, &c, &values)?)
            }
            None => None,
        };
        let visible = self.ops.lengths(&batch.visible)?;
        self.ops.submit()?;
        self.running = Some(Running { sources: s, steps: t, width, keys, values, visible, h, c });
        Ok(())
    }

    fn step(&mut self, parents: &[u32], tokens: &[u32], weights: bool) -> Result<StepOutput> {
        let mut run = self.running.take().ok_or_else(|| Error::missing("batch", "`start` before `step`"))?;
        let rows = run.sources * run.width;
        if parents.iter().zip(0..).any(|(&parent, row)| parent != row) {
            let layers = self.card.decoder.rnn.layers;
            let ids: Vec<u32> = (0..layers).flat_map(|l| parents.iter().map(move |p| (l * rows) as u32 + p)).collect();
            run.h = self.ops.embed(&run.h, &ids)?;
            run.c = run.c.map(|c| self.ops.embed(&c, &ids)).transpose()?;
        }
        let attention = &self.card.attention;
        let mut known = Known(vec![(Value::TokenEmbedding, self.ops.embed(&self.layers.target_embedding, tokens)?)]);
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
            let input = known.join(&mut self.ops, &card.input_parts)?;
            known.0.push((Value::Combined, self.ops.dense(layer, &input)?));
        }
        let input = known.join(&mut self.ops, &self.card.output.input_parts)?;
        let logits = self.ops.dense(&self.layers.output, &input)?;
        self.running = Some(run);

        let mut read: Vec<&O::Tensor> = vec![&logits];
        read.extend(&weights);
        let mut read = self.ops.read(&read)?.into_iter();
        match read.next() {
            Some(logits) => Ok(StepOutput { logits, weights: read.next() }),
            None => Err(Error::missing("logits", "the tensor that was read back")),
        }
    }
}
