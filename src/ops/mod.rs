//! Whole operations on the GPU: from options and tensors to a recording, and from a recording to tensors.
//!
//! Each comes twice: `record` adds to a [`Run`](crate::gpu::Run) that the caller submits or encodes into an encoder of
//! its own, `run` submits at once.

#[doc(hidden)]
pub mod attention;
pub mod cache;
pub mod custom;
pub mod linear;
pub mod merge;
pub mod rnn;
pub mod rotary;
