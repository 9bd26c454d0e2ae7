//! Transformer blocks, encoders and decoders.

mod block;
mod encoder;
mod weights;

pub use block::{BlockOutputs, LoadedBlock, Memory, NormOrder, Places, TransformerBlock, Visible};
pub use encoder::{Cache, CacheSize, EncoderOutputs, LoadedTransformer, TransformerEncoder};
pub use weights::{BlockWeights, CrossWeights, EncoderWeights, NormWeights};
