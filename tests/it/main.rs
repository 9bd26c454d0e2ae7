//! Every integration test, in one binary.

#![allow(clippy::unwrap_used)]

mod cases;
mod compare;
mod properties;
mod reference;
mod vectors;
