//! Layers over host arrays: their one wiring, on the reference's primitives.

use super::Float;
use crate::attention::{AttentionInputs, AttentionOutputs};
use crate::backend::Reference;
use crate::error::Result;
use crate::layers::{
    AttentionDecoder, AttentiveEncoder, AttentiveInputs, AttentiveOutputs, AttentiveWeights, DecoderMemory,
    DecoderOutputs, DecoderState, DecoderWeights, LoadedDecoder, LoadedEncoder, MultiHeadAttention, MultiHeadWeights,
    VisualAttention, VisualOutputs, VisualState, VisualWeights,
};
use crate::tensor::Array;

/// A multi-head layer over host arrays.
///
/// # Errors
/// As [`MultiHeadAttention::forward`].
pub fn multi_head<T: Float>(
    layer: &MultiHeadAttention,
    weights: &MultiHeadWeights<Array<T>>,
    inputs: &AttentionInputs<Array<T>>,
) -> Result<AttentionOutputs<Array<T>>> {
    layer.forward(&mut Reference::default(), weights, inputs)
}

/// An encoder over host arrays, and what each query sees of its outputs.
///
/// # Errors
/// As [`LoadedEncoder::forward`].
pub fn attentive_encoder<T: Float>(
    layer: &AttentiveEncoder,
    weights: &AttentiveWeights<Array<T>>,
    inputs: &AttentiveInputs<Array<T>>,
) -> Result<AttentiveOutputs<Array<T>>> {
    let rnn = (layer.rnn.clone(), weights.rnn.clone());
    let encoder = LoadedEncoder { layer: layer.clone(), rnn, score: weights.score.clone() };
    encoder.forward(&mut Reference::default(), inputs)
}

/// Every step of `input` [T, B, I] over host arrays, after `state`, or after zeros.
///
/// # Errors
/// As [`LoadedDecoder::remember`] and [`LoadedDecoder::forward`].
pub fn attention_decoder<T: Float>(
    decoder: &AttentionDecoder,
    weights: &DecoderWeights<Array<T>>,
    memory: &DecoderMemory<Array<T>>,
    input: &Array<T>,
    state: Option<&DecoderState<Array<T>>>,
) -> Result<DecoderOutputs<Array<T>>> {
    let decoder = LoadedDecoder {
        options: decoder.clone(),
        cell: (decoder.cell.clone(), weights.cell.clone()),
        score: weights.score.clone(),
        attention: weights.attention.clone(),
    };
    let mut reference = Reference::default();
    let memory = decoder.remember(&mut reference, memory)?;
    decoder.forward(&mut reference, &memory, input, state)
}

/// The steps of `hidden` [T, B, H] over `annotations` [B, L, D], after `state`, or from the start.
///
/// # Errors
/// As [`VisualAttention::remember`] and [`VisualAttention::forward`].
pub fn visual<T: Float>(
    layer: &VisualAttention,
    weights: &VisualWeights<Array<T>>,
    annotations: &Array<T>,
    hidden: &Array<T>,
    state: Option<&VisualState<Array<T>>>,
) -> Result<VisualOutputs<Array<T>>> {
    let mut reference = Reference::default();
    let memory = layer.remember(&mut reference, weights, annotations)?;
    layer.forward(&mut reference, weights, &memory, hidden, state)
}
