//! Transformer blocks and encoders.

mod block;
mod encoder;
mod weights;

pub use block::{BlockOutputs, LoadedBlock, NormOrder, TransformerBlock, Visible};
pub use encoder::{EncoderOutputs, LoadedTransformer, TransformerEncoder};
pub use weights::{BlockWeights, EncoderWeights, NormWeights};
