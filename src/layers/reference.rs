//! Layers over host arrays, on the reference's primitives.

use super::{
    AttentionDecoder, AttentiveEncoder, AttentiveInputs, AttentiveOutputs, AttentiveWeights, DecoderMemory,
    DecoderOutputs, DecoderState, DecoderWeights, LoadedDecoder, LoadedEncoder, LoadedMultiHead, LoadedVisual,
    MultiHeadAttention, MultiHeadWeights, VisualAttention, VisualOutputs, VisualState, VisualWeights,
};
use crate::attention::{AttentionInputs, AttentionOutputs};
use crate::backend::Reference;
use crate::error::Result;
use crate::reference::Float;
use crate::tensor::Array;

impl MultiHeadAttention {
    /// This layer over host arrays.
    ///
    /// # Errors
    /// As [`LoadedMultiHead::forward`].
    pub fn reference<T: Float>(
        &self,
        weights: &MultiHeadWeights<Array<T>>,
        inputs: &AttentionInputs<Array<T>>,
    ) -> Result<AttentionOutputs<Array<T>>> {
        LoadedMultiHead::new(self.clone(), weights.clone()).forward(&mut Reference::default(), inputs)
    }
}

impl AttentiveEncoder {
    /// The encoder over host arrays, and the context of each query over its outputs.
    ///
    /// # Errors
    /// As [`LoadedEncoder::forward`].
    pub fn reference<T: Float>(
        &self,
        weights: &AttentiveWeights<Array<T>>,
        inputs: &AttentiveInputs<Array<T>>,
    ) -> Result<AttentiveOutputs<Array<T>>> {
        let rnn = (self.rnn.clone(), weights.rnn.clone());
        let encoder = LoadedEncoder { layer: self.clone(), rnn, score: weights.score.clone() };
        encoder.forward(&mut Reference::default(), inputs)
    }
}

impl AttentionDecoder {
    /// Every step of `input` [T, B, I] over host arrays, after `state`, or after zeros.
    ///
    /// # Errors
    /// As [`LoadedDecoder::remember`] and [`LoadedDecoder::forward`].
    pub fn reference<T: Float>(
        &self,
        weights: &DecoderWeights<Array<T>>,
        memory: &DecoderMemory<Array<T>>,
        input: &Array<T>,
        state: Option<&DecoderState<Array<T>>>,
    ) -> Result<DecoderOutputs<Array<T>>> {
        let decoder = LoadedDecoder {
            options: self.clone(),
            cell: (self.cell.clone(), weights.cell.clone()),
            score: weights.score.clone(),
            attention: weights.attention.clone(),
        };
        let mut reference = Reference::default();
        let memory = decoder.remember(&mut reference, memory)?;
        decoder.forward(&mut reference, &memory, input, state)
    }
}

impl VisualAttention {
    /// The steps of `hidden` [T, B, H] over `annotations` [B, L, D], host arrays, after `state`, or from the start.
    ///
    /// # Errors
    /// As [`LoadedVisual::remember`] and [`LoadedVisual::forward`].
    pub fn reference<T: Float>(
        &self,
        weights: &VisualWeights<Array<T>>,
        annotations: &Array<T>,
        hidden: &Array<T>,
        state: Option<&VisualState<Array<T>>>,
    ) -> Result<VisualOutputs<Array<T>>> {
        let mut reference = Reference::default();
        let loaded = LoadedVisual::new(self.clone(), weights.clone());
        let memory = loaded.remember(&mut reference, annotations)?;
        loaded.forward(&mut reference, &memory, hidden, state)
    }
}
