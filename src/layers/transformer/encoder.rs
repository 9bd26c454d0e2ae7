//! Transformer blocks one after the other.

use super::block::{BlockCache, LoadedBlock, Memory, Places, TransformerBlock, Visible};
use super::weights::{EncoderWeights, NormWeights};
use crate::attention::RotaryEmbedding;
use crate::backend::{Backend, IntegersOf, Numbers, Value};
use crate::error::{Error, Result};
use crate::norm::Norm;
use crate::tensor::{Array, TensorLike};

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
    /// [`Error::Shape`] when they do not fit, and those of the device.
    pub fn load<B: Backend>(&self, b: &mut B, weights: &EncoderWeights<Array>) -> Result<LoadedTransformer<B::Value>> {
        LoadedTransformer::new(self, weights.try_map(|name, array| b.constant(name, array))?)
    }
}

impl<V: Numbers> LoadedTransformer<V> {
    /// From weights that are on the backend already.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not fit the block or one another.
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
    /// [`Error::Shape`] when x does not fit, [`Error::Option`] for a block that is not there, and those of the backend.
    pub fn forward<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        x: &V,
        visible: &Visible<V>,
        hidden: bool,
        weights: Option<usize>,
    ) -> Result<EncoderOutputs<V>> {
        if let Some(n) = weights.filter(|&n| n >= self.blocks.len()) {
            let reason = format!("there are {} blocks, from 0 on: no {n}", self.blocks.len());
            return Err(Error::option("weights", reason));
        }
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

/// Keys and values of the tokens so far, block by block, in memory for a number of them that is fixed; and those of the memory
/// that decoders attend to, computed once.
#[derive(Debug, Clone)]
pub struct Cache<V: TensorLike> {
    blocks: Vec<BlockCache<V>>,
    size: CacheSize,
}

/// How much a [`Cache`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSize {
    /// B.
    pub rows: usize,
    /// C: tokens of each row.
    pub capacity: usize,
    /// Whether rows share what they hold: each token lies where [`Places::table`] says, from 0 to B·C − 1, and a row that goes
    /// on from another one copies nothing but its part of the table.
    pub shared: bool,
}

impl<V: TensorLike> Cache<V> {
    /// How much it holds.
    pub fn size(&self) -> CacheSize {
        self.size
    }
}

impl<V: Numbers> LoadedTransformer<V> {
    /// A cache without tokens. Blocks that attend to a memory [S, Nm, M] are given it here, B / S rows for each of its rows: row
    /// r attends to row r·S / B.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows that are not a multiple of the memory's, [`Error::Missing`] or [`Error::Option`] for a memory that
    /// is not there or that nobody attends to, and those of the backend.
    pub fn cache<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        size: CacheSize,
        memory: Option<&Memory<V>>,
    ) -> Result<Cache<V>> {
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            blocks.push(BlockCache { own: block.empty_cache(b, size)?, memory: block.remember(b, memory)? });
        }
        Ok(Cache { blocks, size })
    }

    /// The same tokens in a cache of other capacity, of one that rows do not share.
    ///
    /// # Errors
    /// [`Error::Option`] for one that they do, and those of the backend.
    pub fn enlarged<B: Backend<Value = V>>(&self, b: &mut B, cache: &Cache<V>, capacity: usize) -> Result<Cache<V>> {
        if cache.size.shared {
            return Err(Error::option("cache", "rows share it: its capacity stays"));
        }
        let size = CacheSize { capacity, ..cache.size };
        let starts = b.integers("starts", &Array::filled(&[size.rows], 0))?;
        let mut blocks = Vec::with_capacity(cache.blocks.len());
        for (block, old) in self.blocks.iter().zip(&cache.blocks) {
            let mut own = block.empty_cache(b, size)?;
            b.append(own.each_mut(), old.own.each_ref(), &starts, None)?;
            blocks.push(BlockCache { own, memory: old.memory.clone() });
        }
        Ok(Cache { blocks, size })
    }

    /// Some more tokens x [B, N, E], which see those in the cache as well, by the block's own causal rule, and are added to it;
    /// `places` say where. What is past the capacity is lost: whoever counts the tokens asks for enough.
    ///
    /// # Errors
    /// As [`LoadedTransformer::forward`], and [`Error::Shape`] for a cache of another number of blocks.
    pub fn forward_cached<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        x: &V,
        places: &Places<IntegersOf<B>>,
        rotary: Option<&RotaryEmbedding<V>>,
        cache: &mut Cache<V>,
    ) -> Result<V> {
        let Cache { blocks, size } = cache;
        if blocks.len() != self.blocks.len() {
            return Err(Error::shape("cache", "blocks", self.blocks.len(), blocks.len()));
        }
        if places.table.is_some() != size.shared {
            let reason =
                if size.shared { "is missing: rows share this cache" } else { "is for caches that rows share" };
            return Err(Error::option("table", reason));
        }
        let mut x = x.clone();
        for (block, own) in self.blocks.iter().zip(blocks) {
            x = block.forward_cached(b, &x, places, rotary, own)?;
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
