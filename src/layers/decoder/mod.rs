//! A recurrent decoder that attends to a memory.

mod steps;

pub use steps::{LoadedDecoder, LoadedMemory};

use super::{Linear, rank3};
use crate::attention::{Attention, AttentionInputs, Mask, Normalize, Score, ScoreWeights};
use crate::error::{Error, Result};
use crate::problem::{AttentionProblem, RnnProblem, same, vector};
use crate::rnn::{Activation, Cell, Direction, Rnn, RnnInputs, RnnStack};
use crate::tensor::TensorLike;

/// A recurrent decoder that attends to a memory at every step (Luong et al. 2015, "Effective Approaches to
/// Attention-based Neural Machine Translation", sections 3 and 3.3; TensorFlow Addons' `AttentionWrapper`):
/// ```text
/// h_t = cell([x_t; a_{t−1}], h_{t−1})             [x_t] alone without input feeding
/// α_t = attention weights of query h_t over the memory, context_t = Σ_j α_tj · memory_j
/// a_t = f(W · [h_t; context_t] + b)               the context itself without an attention layer
/// y_t = a_t or h_t
/// ```
/// With [`Score::Additive`] it compares as Bahdanau et al. 2015, with [`Score::Location`] as Chorowski et al. 2015 or, on
/// the coverage, as See et al. 2017; with [`Normalize::Monotonic`] each alignment goes on from the one before. Under
/// [`Normalize::Sample`] step t draws with seed + t.
///
/// ```
/// use regard::attention::{Attention, Score, ScoreWeights};
/// use regard::layers::{AttentionDecoder, DecoderMemory, DecoderWeights, Linear};
/// use regard::reference;
/// use regard::rnn::{Cell, Rnn, RnnWeights};
/// use regard::tensor::Array;
///
/// # fn main() -> regard::Result<()> {
/// let numbers = |shape: &[usize]| Array::from_fn(shape, |k| (k as f32 * 0.7).sin() * 0.3);
/// // Luong et al. 2015, eq. 5 to 8: 8 units, a memory of width 6, an attention layer of width 5
/// let decoder = AttentionDecoder::luong(Rnn::new(Cell::Lstm));
/// let weights = DecoderWeights {
///     // input and attention side by side
///     cell: vec![vec![RnnWeights::new(numbers(&[4 * 8, 3 + 5]), numbers(&[4 * 8, 8]))]],
///     score: ScoreWeights { weight: Some(numbers(&[8, 6])), ..ScoreWeights::default() },
///     attention: Some(Linear::new(numbers(&[5, 8 + 6]))),
/// };
/// let memory = DecoderMemory::new(numbers(&[2, 7, 6]));
/// let outputs = decoder.reference(&weights, &memory, &numbers(&[4, 2, 3]), None)?;
/// assert_eq!(outputs.output.shape(), [4, 2, 5]);
/// assert_eq!(outputs.alignments.shape(), [4, 2, 7]);
/// // and on from there, one step at a time or many
/// let more = decoder.reference(&weights, &memory, &numbers(&[1, 2, 3]), Some(&outputs.state))?;
/// assert_eq!(more.state.step, 5);
/// # Ok(())
/// # }
/// ```
/// On the GPU: [`GpuAttentionDecoder`](super::GpuAttentionDecoder).
#[derive(Debug, Clone)]
pub struct AttentionDecoder {
    /// The recurrence, forward; one or more layers, as its weights have it.
    pub cell: Rnn,
    /// How the cell's output is compared with the memory and its scores become weights; each step is query 0 of head 0.
    pub attention: Attention,
    /// What [`Score::Location`] convolves.
    pub location: LocationInput,
    /// The attention vector of the previous step is concatenated to the input of the cell ("input feeding").
    pub input_feeding: bool,
    /// f of the attention layer; `None` is the identity.
    pub activation: Option<Activation>,
    /// What a step gives back.
    pub output: DecoderOutput,
    /// Keep the running sum of the alignments, and report what overlaps with it.
    pub coverage: bool,
}

/// What a location-sensitive score convolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocationInput {
    /// The alignment of the step before; zeros at first (Chorowski et al. 2015).
    #[default]
    Alignment,
    /// The sum of all alignments before; zeros at first (See et al. 2017, "Get To The Point", eq. 10 and 11).
    Coverage,
}

/// What a decoder step gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DecoderOutput {
    /// The attention vector a_t (TensorFlow's `output_attention = True`).
    #[default]
    Attention,
    /// The cell's output h_t.
    Cell,
}

impl AttentionDecoder {
    /// Input feeding, the attention vector as output, no activation: `AttentionWrapper`'s defaults.
    pub fn new(cell: Rnn, attention: Attention) -> Self {
        Self {
            cell,
            attention,
            location: LocationInput::Alignment,
            input_feeding: true,
            activation: None,
            output: DecoderOutput::Attention,
            coverage: false,
        }
    }

    /// Luong et al. 2015: the general score, a_t = tanh(W · [h_t; context_t]).
    pub fn luong(cell: Rnn) -> Self {
        let attention = Attention { score: Score::General, ..Attention::default() };
        Self { activation: Some(Activation::Tanh), ..Self::new(cell, attention) }
    }

    /// The attention of one step: `step` is its number, from 0.
    pub(crate) fn step_attention(&self, step: u32) -> Attention {
        let normalize = match self.attention.normalize {
            Normalize::Sample { seed } => Normalize::Sample { seed: seed.wrapping_add(step) },
            normalize => normalize,
        };
        Attention { normalize, weights: true, ..self.attention.clone() }
    }

    /// Whether the sum of the alignments is part of the state.
    pub(crate) fn keeps_coverage(&self) -> bool {
        self.coverage || self.reads_coverage()
    }

    /// Whether the score reads the sum of the alignments.
    pub(crate) fn reads_coverage(&self) -> bool {
        self.attention.score == Score::Location && self.location == LocationInput::Coverage
    }
}

/// Weights of an [`AttentionDecoder`].
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderWeights<A> {
    /// The recurrence, layer by layer, one direction each: `cell[l][0]`. The first layer reads I + attention width
    /// columns with input feeding, the input first; else I.
    pub cell: RnnStack<A>,
    /// Parameters of the score; queries have H elements, keys the width of the memory.
    pub score: ScoreWeights<A>,
    /// The attention layer [W, H + M], the cell's output first. Without it the attention vector is the context.
    pub attention: Option<Linear<A>>,
}

impl<A> DecoderWeights<A> {
    /// Each tensor through a fallible function of the tensor and its name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(&'a self, mut f: impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<DecoderWeights<B>, E> {
        let mut cell = Vec::with_capacity(self.cell.len());
        for (l, layer) in self.cell.iter().enumerate() {
            let layer = layer.iter().map(|weights| weights.try_map(|name, a| f(&format!("cell.{name}_l{l}"), a)));
            cell.push(layer.collect::<Result<Vec<_>, E>>()?);
        }
        Ok(DecoderWeights {
            cell,
            score: self.score.try_map(&mut f)?,
            attention: self.attention.as_ref().map(|layer| layer.try_map("attention", &mut f)).transpose()?,
        })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> DecoderWeights<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a)));
        mapped
    }
}

/// What a decoder attends to.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderMemory<A: TensorLike> {
    /// [B, Nk, M]: keys (through the score's parameters) and values.
    pub memory: A,
    /// `[B]`: how many entries of each batch row are real.
    pub lengths: Option<A::Integers>,
    /// Over [B, 1, 1, Nk], as [`AttentionInputs::mask`]; a float mask `[1]` is a bias of every score (the r of Raffel et
    /// al. 2017, TensorFlow's `score_bias`).
    pub mask: Option<Mask<A>>,
}

impl<A: TensorLike> DecoderMemory<A> {
    /// All of it real and visible.
    pub fn new(memory: A) -> Self {
        Self { memory, lengths: None, mask: None }
    }

    /// Each tensor through a fallible function of the tensor and its name: one for tensors of numbers, one for those of
    /// integers.
    ///
    /// # Errors
    /// The first error of either.
    pub fn try_map<'a, B: TensorLike, E>(
        &'a self,
        mut numbers: impl FnMut(&str, &'a A) -> Result<B, E>,
        mut integers: impl FnMut(&str, &'a A::Integers) -> Result<B::Integers, E>,
    ) -> Result<DecoderMemory<B>, E> {
        let (f, g) = (&mut numbers, &mut integers);
        Ok(DecoderMemory {
            memory: f("memory", &self.memory)?,
            lengths: self.lengths.as_ref().map(|a| g("lengths", a)).transpose()?,
            mask: self.mask.as_ref().map(|mask| mask.try_map(|a| f("mask", a), |a| g("mask", a))).transpose()?,
        })
    }

    /// Each tensor through a function: one for tensors of numbers, one for those of integers.
    pub fn map<'a, B: TensorLike>(
        &'a self,
        mut numbers: impl FnMut(&'a A) -> B,
        mut integers: impl FnMut(&'a A::Integers) -> B::Integers,
    ) -> DecoderMemory<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(numbers(a)), |_, a| Ok(integers(a)));
        mapped
    }

    /// Each tensor of numbers through a function, integers as they are: host arrays of another element type.
    pub fn map_numbers<'a, B: TensorLike<Integers = A::Integers>>(
        &'a self,
        numbers: impl FnMut(&'a A) -> B,
    ) -> DecoderMemory<B> {
        self.map(numbers, A::Integers::clone)
    }
}

/// What a decoder carries from step to step. The first state is zeros, or what an encoder left in h and c; a monotonic
/// alignment starts at the first key.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderState<A> {
    /// [layers, B, H].
    pub h: A,
    /// LSTM: [layers, B, H].
    pub c: Option<A>,
    /// [B, W]: the attention vector.
    pub attention: Option<A>,
    /// [B, Nk]: the alignment.
    pub alignment: Option<A>,
    /// [B, Nk]: the sum of all alignments, if the decoder has it; not read otherwise.
    pub coverage: Option<A>,
    /// Steps done.
    pub step: u32,
}

impl<A> DecoderState<A> {
    /// Before the first step: an encoder's final state, and no attention yet.
    pub fn new(h: A, c: Option<A>) -> Self {
        Self { h, c, attention: None, alignment: None, coverage: None, step: 0 }
    }

    /// Each tensor through a fallible function of the tensor and its name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(&'a self, mut f: impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<DecoderState<B>, E> {
        let h = f("state.h", &self.h)?;
        let mut opt = |name: &str, a: &'a Option<A>| a.as_ref().map(|a| f(name, a)).transpose();
        Ok(DecoderState {
            h,
            c: opt("state.c", &self.c)?,
            attention: opt("state.attention", &self.attention)?,
            alignment: opt("state.alignment", &self.alignment)?,
            coverage: opt("state.coverage", &self.coverage)?,
            step: self.step,
        })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> DecoderState<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a)));
        mapped
    }
}

/// What a decoder gives back over T steps.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderOutputs<A> {
    /// [T, B, W], or [T, B, H] of the cell.
    pub output: A,
    /// [T, B, Nk]: the alignment of every step.
    pub alignments: A,
    /// [T, B]: Σ_j min(α_tj, coverage_tj) with the coverage before step t (See et al. 2017, eq. 12), if coverage is
    /// kept.
    pub coverage_loss: Option<A>,
    /// After the last step.
    pub state: DecoderState<A>,
}

impl<A> DecoderOutputs<A> {
    /// Each tensor through a fallible function of the tensor and its name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(&'a self, mut f: impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<DecoderOutputs<B>, E> {
        Ok(DecoderOutputs {
            output: f("output", &self.output)?,
            alignments: f("alignments", &self.alignments)?,
            coverage_loss: self.coverage_loss.as_ref().map(|a| f("coverage_loss", a)).transpose()?,
            state: self.state.try_map(&mut f)?,
        })
    }
}

/// A decoder's memory with its numbers checked: all that its projection needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MemoryProblem {
    pub(crate) batch: usize,
    /// Nk.
    pub(crate) keys: usize,
    /// M.
    pub(crate) memory: usize,
    pub(crate) hidden: usize,
    /// W: of the attention vector.
    pub(crate) attention: usize,
}

impl MemoryProblem {
    pub(crate) fn new(
        decoder: &AttentionDecoder,
        weights: &DecoderWeights<&[usize]>,
        memory: &DecoderMemory<&[usize]>,
    ) -> Result<Self> {
        check_options(decoder)?;
        let [batch, keys, width] = rank3("memory", "[B, Nk, M]", memory.memory)?;
        let hidden = weights.cell.last().and_then(|layer| layer.first()).and_then(|w| w.weight_hh.get(1)).copied();
        let hidden = hidden.filter(|&units| units > 0);
        let hidden = hidden.ok_or_else(|| Error::missing("weight_hh_l0", "[G·H, H] of the first layer"))?;
        let attention = match &weights.attention {
            Some(layer) => layer.check("attention", hidden + width, "cell output + memory")?,
            None => width,
        };
        if weights.attention.is_none() && decoder.activation.is_some() {
            return Err(Error::option("activation", "belongs to the attention layer, which is not there"));
        }
        vector("lengths", memory.lengths, batch, "batch")?;
        let query = [batch, 1, 1, hidden];
        let key = [batch, 1, keys, width];
        let alignment = [batch, 1, 1, keys];
        let needs_previous = decoder.attention.score == Score::Location;
        let inside = AttentionInputs {
            mask: memory.mask.as_ref().map(Mask::reborrow),
            kv_lengths: memory.lengths,
            previous: needs_previous.then_some(&alignment[..]),
            score: weights.score.clone(),
            ..AttentionInputs::new(&query[..], &key[..], &key[..])
        };
        AttentionProblem::new(&decoder.attention, &inside)?;
        Ok(Self { batch, keys, memory: width, hidden, attention })
    }
}

/// A decoder with its numbers checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DecoderProblem {
    pub(crate) steps: usize,
    pub(crate) batch: usize,
    /// I.
    pub(crate) input: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    /// Nk.
    pub(crate) keys: usize,
    /// M.
    pub(crate) memory: usize,
    /// W: of the attention vector.
    pub(crate) attention: usize,
    /// Of the output.
    pub(crate) width: usize,
}

impl DecoderProblem {
    pub(crate) fn new(
        decoder: &AttentionDecoder,
        weights: &DecoderWeights<&[usize]>,
        memory: &DecoderMemory<&[usize]>,
        input: &[usize],
        state: Option<&DecoderState<&[usize]>>,
    ) -> Result<Self> {
        let MemoryProblem { batch, keys, memory, hidden, attention } = MemoryProblem::new(decoder, weights, memory)?;
        let [steps, rows, input] = rank3("input", "[T, B, I]", input)?;
        same("input", "axis 1 (batch)", batch, rows)?;
        let fed = if decoder.input_feeding { input + attention } else { input };
        let cell_input = [steps, batch, fed];
        let layers = RnnProblem::new(&decoder.cell, &weights.cell, &RnnInputs::new(&cell_input[..]))?.layers;
        if let Some(state) = state {
            if state.c.is_some() && decoder.cell.cell != Cell::Lstm {
                return Err(Error::option("state.c", "only an LSTM has a cell state"));
            }
            let cell: &[usize] = &[layers, batch, hidden];
            let wanted = [
                ("state.h", Some(state.h), cell),
                ("state.c", state.c, cell),
                ("state.attention", state.attention, &[batch, attention]),
                ("state.alignment", state.alignment, &[batch, keys]),
                ("state.coverage", state.coverage, &[batch, keys]),
            ];
            for (name, found, shape) in wanted {
                if let Some(found) = found
                    && found != shape
                {
                    return Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{found:?}")));
                }
            }
        }
        let width = match decoder.output {
            DecoderOutput::Attention => attention,
            DecoderOutput::Cell => hidden,
        };
        Ok(Self { steps, batch, input, hidden, layers, keys, memory, attention, width })
    }
}

fn check_options(decoder: &AttentionDecoder) -> Result<()> {
    if decoder.cell.direction != Direction::Forward {
        return Err(Error::option("cell.direction", "a decoder goes forward"));
    }
    let attention = &decoder.attention;
    let idle = [
        ("causal", attention.causal.is_some(), "a decoder has one query a step, which sees all of the memory"),
        ("window", attention.window.is_some(), "a decoder has one query a step, which sees all of the memory"),
        ("lse", attention.lse, "a decoder gives back output and alignments: leave it out"),
        ("max_sum", attention.max_sum, "a decoder gives back output and alignments: leave it out"),
        ("entropy", attention.entropy, "a decoder gives back output and alignments: leave it out"),
        ("scores", attention.scores.is_some(), "a decoder gives back output and alignments: leave it out"),
    ];
    if let Some((name, _, reason)) = idle.into_iter().find(|(_, given, _)| *given) {
        return Err(Error::option(format!("attention.{name}"), reason));
    }
    let coverage = decoder.location == LocationInput::Coverage;
    if coverage && attention.score != Score::Location {
        return Err(Error::option("location", "coverage is read by `Score::Location` only"));
    }
    if coverage && matches!(attention.normalize, Normalize::Monotonic(_)) {
        let reason = "a monotonic alignment goes on from the alignment before, so the score cannot read the coverage";
        return Err(Error::option("location", reason));
    }
    Ok(())
}
