//! Transformer blocks one after the other.

use super::block::{LoadedBlock, TransformerBlock, Visible};
use super::weights::{EncoderWeights, NormWeights};
use crate::attention::Past;
use crate::backend::{Backend, Numbers, Value};
use crate::error::{Error, Result};
use crate::norm::Norm;
use crate::tensor::Array;

/// Blocks that differ in their weights alone, and a last norm if the weights have one (PyTorch's `nn.TransformerEncoder`; with
/// [`CrossWeights`](super::CrossWeights) and a memory, `nn.TransformerDecoder`).
#[derive(Debug, Clone)]
pub struct TransformerEncoder {
    /// Each of them.
    pub block: TransformerBlock,
}

/// What an encoder gives back.
#[derive(Debug, Clone)]
pub struct EncoderOutputs<A> {
    /// [B, N, E].
    pub output: A,
    /// What went into the first block and came out of each, before the last norm, if asked for.
    pub hidden: Vec<A>,
    /// [B, H, N, N] of the block that was asked for them.
    pub weights: Option<A>,
}

/// A [`TransformerEncoder`] with its weights on a backend, `V` its values.
#[derive(Debug, Clone)]
pub struct LoadedTransformer<V> {
    norm: Norm,
    blocks: Vec<LoadedBlock<V>>,
    last: Option<NormWeights<V>>,
}

impl TransformerEncoder {
    /// Loads weights of the host, block by block.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when they do not fit, and those of the device.
    pub fn load<B: Backend>(&self, b: &mut B, weights: &EncoderWeights<Array>) -> Result<LoadedTransformer<B::Value>> {
        LoadedTransformer::new(self, weights.try_map(|name, array| b.constant(name, array))?)
    }
}

impl<V: Numbers> LoadedTransformer<V> {
    /// From weights that are on the backend already.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when they do not fit the block or one another.
    pub fn new(encoder: &TransformerEncoder, weights: EncoderWeights<V>) -> Result<Self> {
        let load = |weights| LoadedBlock::new(encoder.block.clone(), weights);
        let blocks = weights.blocks.into_iter().map(load).collect::<Result<_>>()?;
        Ok(Self { norm: encoder.block.norm, blocks, last: weights.norm })
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// The encoder over x [B, N, E]; `hidden` asks for what each block gives, `weights` for the attention weights of one.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when x does not fit, and those of the backend.
    pub fn forward<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        x: &V,
        visible: &Visible<V>,
        hidden: bool,
        weights: Option<usize>,
    ) -> Result<EncoderOutputs<V>> {
        let mut outputs = EncoderOutputs { output: x.clone(), hidden: Vec::new(), weights: None };
        for (n, block) in self.blocks.iter().enumerate() {
            let next = block.forward(b, &outputs.output, visible, weights == Some(n))?;
            let before = std::mem::replace(&mut outputs.output, next.output);
            if hidden {
                outputs.hidden.push(before);
            }
            outputs.weights = next.weights.or(outputs.weights);
        }
        if hidden {
            outputs.hidden.push(outputs.output.clone());
        }
        if let Some(last) = &self.last {
            outputs.output = last.forward(b, self.norm, &outputs.output)?;
        }
        Ok(outputs)
    }
}

/// Keys and values of the tokens so far, block by block.
#[derive(Debug, Clone)]
pub struct Cache<V> {
    blocks: Vec<Past<V>>,
}

impl<V: Numbers> Cache<V> {
    /// The cache of other batch rows: row r of it is row `rows[r]` of this one.
    ///
    /// # Errors
    /// [`Error::Shape`] for a row that is not there, and those of the backend.
    pub fn of_rows<B: Backend<Value = V>>(&self, b: &mut B, rows: &[u32]) -> Result<Self> {
        let ids = Array::new(&[rows.len()], rows.to_vec())?;
        let mut gather = |x: &V| {
            let shape = x.shape().to_vec();
            let flat = b.reshape(x, &[shape[0], shape[1..].iter().product()])?;
            let taken = b.embed(&flat, &ids)?;
            b.reshape(&taken, &[&[rows.len()], &shape[1..]].concat())
        };
        let mut block = |past: &Past<V>| Ok(Past { key: gather(&past.key)?, value: gather(&past.value)? });
        Ok(Self { blocks: self.blocks.iter().map(&mut block).collect::<Result<_>>()? })
    }
}

impl<V: Numbers> LoadedTransformer<V> {
    /// A cache of no tokens yet.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn cache<B: Backend<Value = V>>(&self, b: &mut B, batch: usize) -> Result<Cache<V>> {
        let mut none = |block: &LoadedBlock<V>| {
            let empty = Array::new(&block.key_shape(batch, 0), Vec::new())?;
            Ok(Past { key: b.constant("past_key", &empty)?, value: b.constant("past_value", &empty)? })
        };
        Ok(Cache { blocks: self.blocks.iter().map(&mut none).collect::<Result<_>>()? })
    }

    /// Some more tokens x [B, N, E], which see those in the cache as well and are added to it. Lengths cannot be given; a mask
    /// over [B, H, N, P + N] can.
    ///
    /// # Errors
    /// As [`LoadedTransformer::forward`], and [`Error::Shape`] for a cache of another number of blocks.
    pub fn forward_cached<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        x: &V,
        visible: &Visible<V>,
        cache: &mut Cache<V>,
    ) -> Result<V> {
        if cache.blocks.len() != self.blocks.len() {
            return Err(Error::shape("cache", "blocks", self.blocks.len(), cache.blocks.len()));
        }
        let mut x = x.clone();
        for (block, past) in self.blocks.iter().zip(&mut cache.blocks) {
            let outputs = block.forward_after(b, &x, visible, Some(past), false)?;
            x = outputs.output;
            *past = outputs.present.ok_or_else(|| Error::missing("present_key", "[B, Hkv, P + N, D]"))?;
        }
        match &self.last {
            Some(last) => last.forward(b, self.norm, &x),
            None => Ok(x),
        }
    }
}

impl<V: Value> LoadedTransformer<V> {
    /// E.
    pub fn channels(&self) -> usize {
        self.blocks.first().map_or(0, LoadedBlock::channels)
    }
}
