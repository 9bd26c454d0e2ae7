//! Every integration test, in one binary.

#![allow(clippy::unwrap_used)]

mod cases;
mod compare;
mod gpu;
mod gpu_vectors;
mod properties;
mod recordings;
mod recurrences;
mod reference;
mod seq2seq;
mod shaders;
mod vectors;
