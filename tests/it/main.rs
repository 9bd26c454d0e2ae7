//! Tests of the library and the program, in one binary.

#[cfg(feature = "seq2seq")]
mod cards;
#[cfg(feature = "seq2seq")]
mod golden;
#[cfg(feature = "seq2seq")]
mod seq2seq;
#[cfg(feature = "seq2seq")]
mod store;
#[cfg(feature = "seq2seq")]
mod wiring;
