//! Whole operations on the GPU: from options and tensors to a recording, and from a recording to tensors.
//!
//! Each comes twice: `record` adds to a [`Run`](crate::gpu::Run) that the caller submits or encodes into an encoder of
//! its own, `run` submits at once.

#[doc(hidden)]
pub mod attention;
pub mod attentive;
pub mod cache;
pub mod custom;
pub mod decoder;
pub mod linear;
pub mod merge;
mod multi_head;
pub mod rnn;
pub mod rotary;
pub mod visual;
