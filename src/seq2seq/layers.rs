//! The weights of a model, layer by layer, on the host or on a GPU.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::card::{self, Bridge, Card, Recurrence, Score, Value, check};
use crate::error::{Error, Result};
use crate::layers::Linear;
use crate::rnn::{RnnStack, RnnWeights};
use crate::store::Store;
use crate::tensor::Array;

/// The recurrences of a model; `R` is a stack of host weights or what a device makes of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Recurrences<R> {
    /// Source embeddings → encoder states.
    pub(super) encoder: R,
    /// Decoder inputs → decoder states.
    pub(super) decoder: R,
}

/// All other weights of a model; `A` is a host array or a GPU tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layers<A> {
    /// Source tokens as vectors [size, dim].
    pub(super) source_embedding: A,
    /// Encoder outputs → memory; without it they are the memory.
    pub(super) projection: Option<Linear<A>>,
    /// Mean of the memory → start state.
    pub(super) bridge: Option<Linear<A>>,
    /// The query's projection.
    pub(super) query: Option<Linear<A>>,
    /// The keys' projection; without it the memory is the keys.
    pub(super) key: Option<Linear<A>>,
    /// v `[A]` of the additive score.
    pub(super) v: Option<A>,
    /// Target tokens as vectors [size, dim].
    pub(super) target_embedding: A,
    /// `attention.combine`.
    pub(super) combine: Option<Linear<A>>,
    /// Logits [size, …].
    pub(super) output: Linear<A>,
    /// Width of the memory: of values and context.
    pub(super) memory_width: usize,
    /// Width of keys and of the projected query.
    pub(super) key_width: usize,
}

impl<A> Layers<A> {
    /// Each tensor through a fallible function, such as an upload.
    ///
    /// # Errors
    /// The first error of `f`.
    pub(super) fn try_map<B>(&self, mut f: impl FnMut(&A) -> Result<B>) -> Result<Layers<B>> {
        let mut named = |_: &str, a: &A| f(a);
        let mut dense = |layer: &Option<Linear<A>>| layer.as_ref().map(|l| l.try_map("", &mut named)).transpose();
        Ok(Layers {
            projection: dense(&self.projection)?,
            bridge: dense(&self.bridge)?,
            query: dense(&self.query)?,
            key: dense(&self.key)?,
            combine: dense(&self.combine)?,
            output: self.output.try_map("", |_, a| f(a))?,
            source_embedding: f(&self.source_embedding)?,
            target_embedding: f(&self.target_embedding)?,
            v: self.v.as_ref().map(f).transpose()?,
            memory_width: self.memory_width,
            key_width: self.key_width,
        })
    }
}

/// The tensors that a card names, each checked against the shape that the card implies.
///
/// # Errors
/// [`Error::Card`] when a tensor is missing, has another shape, holds NaN or infinity, or is listed and not used.
pub(super) fn load(card: &Card, store: &Store) -> Result<(Layers<Array>, Recurrences<RnnStack<Array>>)> {
    let loader = Loader { card, store, used: RefCell::default() };
    for (name, info) in &card.tensors {
        loader.shape("tensors", name, &info.shape.iter().map(|&n| Some(n)).collect::<Vec<_>>())?;
    }
    let recurrences = Recurrences {
        encoder: loader.stack("encoder.rnn", &card.encoder.rnn)?,
        decoder: loader.stack("decoder.rnn", &card.decoder.rnn)?,
    };
    let layers = loader.layers()?;
    match card.tensors.keys().find(|name| !loader.used.borrow().contains(*name)) {
        Some(name) => Err(loader.error("tensors", format!("`{name}` is listed, but no layer of the card uses it"))),
        None => Ok((layers, recurrences)),
    }
}

struct Loader<'a> {
    card: &'a Card,
    store: &'a Store,
    /// Names of the tensors that were asked for.
    used: RefCell<BTreeSet<String>>,
}

impl Loader<'_> {
    fn error(&self, field: &str, reason: String) -> Error {
        Error::Card { model: self.card.name.clone(), field: field.to_owned(), reason: reason.into() }
    }

    /// Checks a tensor's shape; an axis without a length may have any but 0.
    fn shape(&self, field: &str, name: &str, expected: &[Option<usize>]) -> Result<()> {
        let Some(found) = self.store.shape(name) else {
            return Err(self.error(field, format!("`{name}` is not in {}", self.store.path().display())));
        };
        let fits = |(&found, expected): (&usize, &Option<usize>)| expected.map_or(found > 0, |n| n == found);
        if expected.len() == found.len() && found.iter().zip(expected).all(fits) {
            return Ok(());
        }
        let lengths: Vec<String> = expected.iter().map(|n| n.map_or("any".to_owned(), |n| n.to_string())).collect();
        Err(self.error(field, format!("`{name}`: expected [{}], found {found:?}", lengths.join(", "))))
    }

    fn tensor(&self, field: &str, name: &str, expected: &[Option<usize>]) -> Result<Array> {
        self.shape(field, name, expected)?;
        self.used.borrow_mut().insert(name.to_owned());
        let array = self.store.get(name)?;
        match array.data().iter().position(|v| !v.is_finite()) {
            Some(at) => Err(self.error(field, format!("`{name}`: element {at} is {}", array.data()[at]))),
            None => Ok(array),
        }
    }

    fn dense(
        &self,
        field: &str,
        d: &card::Dense,
        input: Option<usize>,
        output: Option<usize>,
    ) -> Result<Linear<Array>> {
        let weight = self.tensor(field, &d.weight, &[output, input])?;
        let rows = weight.shape().first().copied();
        let bias = d.bias.as_ref().map(|b| self.tensor(field, b, &[rows])).transpose()?;
        Ok(Linear { weight, bias, activation: d.activation })
    }

    fn stack(&self, field: &str, r: &Recurrence) -> Result<RnnStack<Array>> {
        let rows = r.options().cell.gates() * r.hidden;
        let suffixes: &[&str] = if r.bidirectional { &["", "_reverse"] } else { &[""] };
        let weights = |layer: usize, suffix: &&str| -> Result<RnnWeights<Array>> {
            let tensor = |name: &str, shape: &[Option<usize>]| {
                self.tensor(field, &format!("{}.{name}_l{layer}{suffix}", r.prefix), shape)
            };
            let input = if layer == 0 { r.input } else { r.width() };
            // First, so that an error names a matrix where a whole layer is missing.
            let matrices = RnnWeights::new(
                tensor("weight_ih", &[Some(rows), Some(input)])?,
                tensor("weight_hh", &[Some(rows), Some(r.hidden)])?,
            );
            Ok(RnnWeights {
                bias_ih: Some(tensor("bias_ih", &[Some(rows)])?),
                bias_hh: Some(tensor("bias_hh", &[Some(rows)])?),
                ..matrices
            })
        };
        (0..r.layers).map(|layer| suffixes.iter().map(|suffix| weights(layer, suffix)).collect()).collect()
    }

    /// All but the recurrences.
    fn layers(&self) -> Result<Layers<Array>> {
        let card = self.card;
        let (encoder, decoder, attention) = (&card.encoder, &card.decoder, &card.attention);
        let embedding = |field: &str, e: &card::Embedding| self.tensor(field, &e.weight, &[Some(e.size), Some(e.dim)]);
        let memory = check::memory_width(card);
        let projection = encoder
            .projection
            .as_ref()
            .map(|p| self.dense("encoder.projection", p, Some(encoder.rnn.width()), memory))
            .transpose()?;
        let bridge = match &card.bridge {
            Bridge::MeanLinear(b) => Some(self.dense("bridge", b, memory, Some(decoder.rnn.hidden))?),
            Bridge::FinalState | Bridge::FinalStateConcat | Bridge::Zeros => None,
        };

        // Queries and keys are compared element by element, so they must be equally wide.
        let key = attention
            .key
            .projection
            .as_ref()
            .map(|p| self.dense("attention.key.projection", p, memory, None))
            .transpose()?;
        let width = key.as_ref().map_or(memory, |k| k.weight.shape().first().copied());
        let source = check::width(card, attention.query.source, None);
        let query = match &attention.query.projection {
            Some(p) => Some(self.dense("attention.query.projection", p, source, width)?),
            None if source == width => None,
            None => {
                let numbers = |n: Option<usize>| n.map_or("?".to_owned(), |n| n.to_string());
                let reason = format!("expected {} (width of the keys), found {}", numbers(width), numbers(source));
                return Err(self.error("attention.query.source", reason));
            }
        };
        let v = match (&attention.v, attention.score) {
            (Some(v), Score::Additive) => Some(self.tensor("attention.v", v, &[width])?),
            _ => None,
        };

        let parts = |parts: &[Value], combined| parts.iter().map(|&p| check::width(card, p, combined)).sum();
        let combine = attention
            .combine
            .as_ref()
            .map(|c| self.dense("attention.combine", c, parts(&c.input_parts, None), c.output))
            .transpose()?;
        let combined = combine.as_ref().and_then(|c| c.weight.shape().first().copied());
        let output = parts(&card.output.input_parts, combined);
        Ok(Layers {
            source_embedding: embedding("encoder.embedding", &encoder.embedding)?,
            projection,
            bridge,
            query,
            key,
            v,
            target_embedding: embedding("decoder.embedding", &decoder.embedding)?,
            combine,
            output: self.dense("output", &card.output, output, Some(card.target.vocab.len()))?,
            memory_width: memory.unwrap_or_default(),
            key_width: width.unwrap_or_default(),
        })
    }
}
