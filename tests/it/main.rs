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
mod shaders;
mod vectors;
