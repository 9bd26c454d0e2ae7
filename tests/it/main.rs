//! Tests of the library and the program, in one binary.

#[cfg(feature = "seq2seq")]
mod seq2seq;
