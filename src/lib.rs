//! Soft and hard attention, and recurrent encoders (LSTM, GRU, RNN), as portable GPU compute shaders.

pub mod attention;
#[doc(hidden)]
pub mod cases;
pub mod compare;
pub mod error;
pub mod problem;
pub mod reference;
pub mod rnn;
pub mod tensor;

pub use error::{Error, Result};
