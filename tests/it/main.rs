//! Every integration test, in one binary.

#![allow(clippy::unwrap_used)]

mod cache;
mod cases;
mod cli;
mod compare;
mod cooperative;
mod cpu;
mod custom;
mod device;
mod dispatches;
mod docs;
mod embedding;
mod examples;
mod extent;
mod faults;
mod golden;
mod gpu;
mod gpu_properties;
mod gpu_recurrences;
mod gpu_vectors;
mod hostile;
mod layers;
mod limits;
mod long_work;
mod model_cards;
mod order;
mod prepared;
mod primitives;
mod products;
mod properties;
mod rates;
mod recordings;
mod recurrences;
mod reference;
mod seq2seq;
mod shaders;
mod soak;
mod store;
mod supply;
mod table;
mod transformers;
mod trusted;
mod tuning;
mod vectors;
mod wiring;
