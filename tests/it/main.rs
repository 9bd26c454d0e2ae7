//! Every integration test, in one binary.

#![allow(clippy::unwrap_used)]

#[cfg(feature = "cli")]
mod cli;
mod compare;
mod gpu;
mod gpu_vectors;
mod properties;
mod recordings;
mod reference;
#[cfg(feature = "seq2seq")]
mod seq2seq;
mod shaders;
mod vectors;
