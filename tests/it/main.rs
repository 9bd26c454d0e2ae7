//! Every integration test, in one binary.

#![allow(clippy::unwrap_used)]

#[cfg(feature = "seq2seq")]
mod cards;
mod cases;
mod compare;
mod device;
#[cfg(feature = "seq2seq")]
mod golden;
mod gpu;
mod gpu_vectors;
mod kernels;
mod properties;
mod recordings;
mod recurrences;
mod reference;
#[cfg(feature = "seq2seq")]
mod seq2seq;
mod shaders;
#[cfg(feature = "seq2seq")]
mod store;
mod vectors;
#[cfg(feature = "seq2seq")]
mod wiring;
