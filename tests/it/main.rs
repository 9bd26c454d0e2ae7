//! Every integration test, in one binary.

#![allow(clippy::unwrap_used)]

mod cases;
mod compare;
mod gpu;
mod gpu_vectors;
mod kernels;
mod properties;
mod recordings;
mod reference;
mod seq2seq;
mod shaders;
mod vectors;
