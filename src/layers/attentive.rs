//! A recurrent encoder and the attention of decoder states over its outputs.

use super::rank3;
use crate::attention::{Attention, AttentionInputs, Mask, Score, ScoreWeights};
use crate::backend::{Backend, Numbers, Recurrence, Value};
use crate::error::{Error, Result};
use crate::problem::{AttentionProblem, RnnProblem, same};
use crate::rnn::{Rnn, RnnInputs, RnnOutputs, RnnStack, Steps};
use crate::tensor::TensorLike;

/// Soft attention as it began (Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and
/// Translate", section 3; Luong et al. 2015, "dot"): an encoder reads a sequence, and each decoder state d asks for a
/// weighted sum of what it gave out.
/// ```text
/// x_1 … x_n = rnn(input)              n the row's length; both directions side by side if there are two
/// e_i = score(d, x_i)                 x_i · d by default
/// α   = softmax(e)                    or another normalizer
/// y   = Σ_i α_i · x_i
/// ```
/// One set of lengths serves both: past a row's length the encoder outputs 0 and its state does not change, as TensorFlow's
/// `dynamic_rnn`, and α is 0. A row of length 0 has α = 0 and y = 0.
///
/// ```
/// use regard::layers::{AttentiveEncoder, AttentiveInputs, AttentiveWeights};
/// use regard::reference;
/// use regard::rnn::{Cell, Rnn, RnnInputs, RnnWeights};
/// use regard::tensor::Array;
///
/// # fn main() -> regard::Result<()> {
/// let numbers = |shape: &[usize]| Array::from_fn(shape, |k| (k as f32 * 0.7).sin() * 0.3);
/// // TensorFlow's BasicLSTMCell: one kernel [I + H, 4·H], and a forget bias of 1 when it runs
/// let layer = AttentiveEncoder::new(Rnn { forget_bias: 1.0, ..Rnn::new(Cell::Lstm) });
/// let cell = RnnWeights::from_tensorflow(&numbers(&[5 + 8, 4 * 8]), None)?;
/// let weights = AttentiveWeights::new(vec![vec![cell]]);
/// // 7 steps of 2 rows, the second of which ends after 4; 3 decoder states for each row
/// let lengths = Some(Array::new(&[2], vec![7, 4])?);
/// let sequence = RnnInputs { lengths, ..RnnInputs::new(numbers(&[7, 2, 5])) };
/// let inputs = AttentiveInputs::new(sequence, numbers(&[2, 3, 8]));
/// let outputs = layer.reference(&weights, &inputs)?;
/// assert_eq!(outputs.context.shape(), [2, 3, 8]);
/// assert_eq!(outputs.weights.unwrap().shape(), [2, 3, 7]);
/// assert_eq!(outputs.encoded.output.shape(), [7, 2, 8]);
/// # Ok(())
/// # }
/// ```
/// On the GPU: [`GpuAttentiveEncoder`](super::GpuAttentiveEncoder).
#[derive(Debug, Clone)]
pub struct AttentiveEncoder {
    /// The encoder: any cell, one or both directions, any number of layers; [`Steps::All`].
    pub rnn: Rnn,
    /// How a decoder state is compared with the encoder's outputs and its scores become weights; one head.
    pub attention: Attention,
}

impl AttentiveEncoder {
    /// Dot products, softmax, weights returned.
    pub fn new(rnn: Rnn) -> Self {
        Self { rnn, attention: Attention { score: Score::Dot, weights: true, ..Attention::default() } }
    }
}

/// An [`AttentiveEncoder`] with its weights on a backend: `V` are its values, `R` is its recurrence.
#[derive(Debug, Clone)]
pub struct LoadedEncoder<V, R> {
    pub(crate) layer: AttentiveEncoder,
    pub(crate) rnn: R,
    pub(crate) score: ScoreWeights<V>,
}

impl<V: Numbers, R: Recurrence> LoadedEncoder<V, R> {
    /// The layer it was loaded with.
    pub fn layer(&self) -> &AttentiveEncoder {
        &self.layer
    }

    /// The whole sequence and the attention over it.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] with the first rule that is broken, and those of the
    /// backend.
    pub fn forward<B: Backend<Value = V, Recurrence = R>>(
        &self,
        backend: &mut B,
        inputs: &AttentiveInputs<V>,
    ) -> Result<AttentiveOutputs<V>> {
        let b = backend;
        let weights = AttentiveWeights { rnn: self.rnn.stack(), score: self.score.map(Value::shape) };
        check(&self.layer, &weights, &inputs.map(Value::shape, Value::shape))?;
        let query = b.wide("query", &inputs.query)?;
        let encoded = b.rnn(&self.rnn, &inputs.sequence)?;
        // [T, B, W] as one head, [B, 1, T, W]
        let states = b.permute(&encoded.output, &[1, 0, 2])?;
        let states = one_head(b, &states)?;
        let attended = AttentionInputs {
            mask: inputs.mask.clone(),
            kv_lengths: inputs.sequence.lengths.clone(),
            previous: inputs.previous.as_ref().map(|previous| one_head(b, previous)).transpose()?,
            score: self.score.clone(),
            ..AttentionInputs::new(one_head(b, &query)?, states.clone(), states)
        };
        let attended = b.attention(&self.layer.attention, &attended)?;
        let mut joined = |x: V| {
            let shape = [&x.shape()[..1], &x.shape()[2..]].concat();
            b.reshape(&x, &shape)
        };
        Ok(AttentiveOutputs {
            context: joined(attended.output)?,
            weights: attended.weights.map(&mut joined).transpose()?,
            lse: attended.lse.map(&mut joined).transpose()?,
            max_sum: attended.max_sum.map(&mut joined).transpose()?,
            entropy: attended.entropy.map(&mut joined).transpose()?,
            scores: attended.scores.map(&mut joined).transpose()?,
            encoded,
        })
    }
}

/// [B, ·, ·] as one head: [B, 1, ·, ·].
fn one_head<B: Backend>(b: &mut B, x: &B::Value) -> Result<B::Value> {
    let (batch, rest) = x.shape().split_at(1.min(x.shape().len()));
    let shape = [batch, &[1], rest].concat();
    b.reshape(x, &shape)
}

/// Weights of an [`AttentiveEncoder`].
#[derive(Debug, Clone, PartialEq)]
pub struct AttentiveWeights<A> {
    /// The encoder's, layer by layer.
    pub rnn: RnnStack<A>,
    /// Parameters of the score; keys have the width of the encoder's output.
    pub score: ScoreWeights<A>,
}

impl<A> AttentiveWeights<A> {
    /// For a score without parameters.
    pub fn new(rnn: RnnStack<A>) -> Self {
        Self { rnn, score: ScoreWeights::default() }
    }

    /// Each tensor through a fallible function of the tensor and its name: `weight_ih_l0`, `weight_ih_l0_reverse`,
    /// `score.v` and so on.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(
        &'a self,
        mut f: impl FnMut(&str, &'a A) -> Result<B, E>,
    ) -> Result<AttentiveWeights<B>, E> {
        let mut rnn = Vec::with_capacity(self.rnn.len());
        for (l, layer) in self.rnn.iter().enumerate() {
            let suffix = |d: usize| if d == 1 { "_reverse" } else { "" };
            let layer = layer.iter().enumerate();
            let layer = layer.map(|(d, w)| w.try_map(|name, a| f(&format!("{name}_l{l}{}", suffix(d)), a)));
            rnn.push(layer.collect::<Result<Vec<_>, E>>()?);
        }
        Ok(AttentiveWeights { rnn, score: self.score.try_map(&mut f)? })
    }

    /// Each tensor through a function.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> B) -> AttentiveWeights<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(f(a)));
        mapped
    }
}

/// What an [`AttentiveEncoder`] reads; T steps, B rows, Q queries.
#[derive(Debug, Clone)]
pub struct AttentiveInputs<A: TensorLike> {
    /// The sequence [T, B, I] with its lengths and initial states. Steps past a row's length are read by nothing.
    pub sequence: RnnInputs<A>,
    /// Decoder states [B, Q, Dq]; Dq is the width of the encoder's output unless the score has weights for both.
    pub query: A,
    /// Over [B, 1, Q, T], as [`AttentionInputs::mask`].
    pub mask: Option<Mask<A>>,
    /// The alignment before each query, [B, Q, T], for [`Score::Location`]; the one before the first, [B, 1, T], for
    /// [`Normalize::Monotonic`](crate::attention::Normalize::Monotonic).
    pub previous: Option<A>,
}

impl<A: TensorLike> AttentiveInputs<A> {
    /// A sequence and the states that ask.
    pub fn new(sequence: RnnInputs<A>, query: A) -> Self {
        Self { sequence, query, mask: None, previous: None }
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
    ) -> Result<AttentiveInputs<B>, E> {
        let (f, g) = (&mut numbers, &mut integers);
        Ok(AttentiveInputs {
            sequence: self.sequence.try_map(&mut *f, &mut *g)?,
            query: f("query", &self.query)?,
            mask: self.mask.as_ref().map(|mask| mask.try_map(|a| f("mask", a), |a| g("mask", a))).transpose()?,
            previous: self.previous.as_ref().map(|a| f("previous", a)).transpose()?,
        })
    }

    /// Each tensor through a function: one for tensors of numbers, one for those of integers.
    pub fn map<'a, B: TensorLike>(
        &'a self,
        mut numbers: impl FnMut(&'a A) -> B,
        mut integers: impl FnMut(&'a A::Integers) -> B::Integers,
    ) -> AttentiveInputs<B> {
        let Ok(mapped) = self.try_map(|_, a| Ok::<_, std::convert::Infallible>(numbers(a)), |_, a| Ok(integers(a)));
        mapped
    }

    /// Each tensor of numbers through a function, integers as they are: host arrays of another element type.
    pub fn map_numbers<'a, B: TensorLike<Integers = A::Integers>>(
        &'a self,
        numbers: impl FnMut(&'a A) -> B,
    ) -> AttentiveInputs<B> {
        self.map(numbers, A::Integers::clone)
    }
}

/// What an [`AttentiveEncoder`] gives back; W is the width of the encoder's output.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentiveOutputs<A> {
    /// y [B, Q, W].
    pub context: A,
    /// α [B, Q, T], if asked for.
    pub weights: Option<A>,
    /// [B, Q], if asked for.
    pub lse: Option<A>,
    /// [B, Q, 2], if asked for.
    pub max_sum: Option<A>,
    /// [B, Q], if asked for.
    pub entropy: Option<A>,
    /// e [B, Q, T], if asked for.
    pub scores: Option<A>,
    /// What the encoder gave out, and the state it ended in.
    pub encoded: RnnOutputs<A>,
}

impl<A> AttentiveOutputs<A> {
    /// The tensors there are, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &A)> {
        let optional = [
            ("weights", &self.weights),
            ("lse", &self.lse),
            ("max_sum", &self.max_sum),
            ("entropy", &self.entropy),
            ("scores", &self.scores),
        ];
        let some = optional.into_iter().filter_map(|(name, a)| Some((name, a.as_ref()?)));
        std::iter::once(("context", &self.context)).chain(some).chain(self.encoded.named())
    }
}

/// Checks an encoder and its attention.
fn check(
    layer: &AttentiveEncoder,
    weights: &AttentiveWeights<&[usize]>,
    inputs: &AttentiveInputs<&[usize]>,
) -> Result<()> {
    check_options(layer)?;
    let RnnProblem { steps, batch, width, .. } = RnnProblem::new(&layer.rnn, &weights.rnn, &inputs.sequence)?;
    let [rows, queries, dim] = rank3("query", "[B, Q, Dq]", inputs.query)?;
    same("query", "axis 0 (batch)", batch, rows)?;
    let score = &weights.score;
    let as_they_are = match layer.attention.score {
        Score::ScaledDot | Score::Dot | Score::Cosine => true,
        Score::Additive | Score::Location => score.query_weight.is_none() && score.key_weight.is_none(),
        Score::General | Score::Concat => false,
    };
    if as_they_are {
        same("query", "axis 2 (width of the encoder's output)", width, dim)?;
    }
    let previous = inputs.previous.map(|shape| rank3("previous", "[B, Q, T]", shape)).transpose()?;
    let previous = previous.map(|[rows, queries, keys]| [rows, 1, queries, keys]);
    let (query, key) = ([batch, 1, queries, dim], [batch, 1, steps, width]);
    let attended = AttentionInputs {
        mask: inputs.mask.as_ref().map(Mask::reborrow),
        kv_lengths: inputs.sequence.lengths,
        previous: previous.as_ref().map(|shape| &shape[..]),
        score: score.clone(),
        ..AttentionInputs::new(&query[..], &key[..], &key[..])
    };
    AttentionProblem::new(&layer.attention, &attended)?;
    Ok(())
}

fn check_options(layer: &AttentiveEncoder) -> Result<()> {
    if layer.rnn.steps != Steps::All {
        return Err(Error::option("rnn.steps", "attention reads every step: leave it at `Steps::All`"));
    }
    let attention = &layer.attention;
    let positional = [("causal", attention.causal.is_some()), ("window", attention.window.is_some())];
    match positional.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            let reason = "decoder states have no position among the encoder's steps: write it out as a mask";
            Err(Error::option(format!("attention.{name}"), reason))
        }
        None => Ok(()),
    }
}
