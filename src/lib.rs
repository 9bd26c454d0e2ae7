//! Soft and hard attention, and recurrent encoders (LSTM, GRU, RNN), as portable GPU compute shaders.

pub mod attention;
#[doc(hidden)]
pub mod cases;
pub mod compare;
pub mod error;
pub mod gpu;
pub mod kernels;
pub mod ops;
pub mod plan;
pub mod problem;
pub mod recording;
pub mod reference;
pub mod rnn;
#[cfg(feature = "seq2seq")]
pub mod seq2seq;
#[cfg(feature = "seq2seq")]
pub mod store;
pub mod tensor;
pub mod validate;
pub mod wgsl;

pub use error::{Error, Result};
pub use gpu::{Gpu, Tensor};
pub use wgpu;
