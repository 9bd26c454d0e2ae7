//! Soft and hard attention, and recurrent encoders (LSTM, GRU, RNN), as portable GPU compute shaders.
//!
//! Say what to compute with plain options, hand over tensors, get tensors back:
//!
//! ```no_run
//! use regard::attention::{Attention, AttentionInputs, Causal};
//! use regard::gpu::Open;
//! use regard::tensor::{Array, DType};
//! use regard::{Gpu, reference};
//!
//! # fn main() -> regard::Result<()> {
//! // [B, H, N, D]
//! let x = Array::from_fn(&[1, 4, 16, 32], |i| (i as f32 * 0.1).sin());
//! let inputs = AttentionInputs::new(x.clone(), x.clone(), x);
//! let attention = Attention { causal: Some(Causal::TopLeft), weights: true, ..Attention::default() };
//!
//! let gpu = Gpu::open(&Open::default())?;
//! let on_gpu = attention.run(&gpu, &inputs.upload(&gpu, DType::F32)?)?.download(&gpu)?;
//! let on_cpu = reference::attention(&attention, &inputs)?;
//! assert_eq!(on_gpu.output.shape(), on_cpu.output.shape());
//! # Ok(())
//! # }
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`attention`], [`rnn`] | options, inputs and outputs, with the formulas |
//! | [`layers`] | multi-head attention, attention decoder, attentive encoder, visual attention |
//! | [`backend`], [`norm`] | the primitives that layers are written over, on the GPU, the CPU and the reference |
//! | [`gpu`] | devices, tensors, runs |
//! | [`device`] | what a device can do, assumed and measured |
//! | [`ops`] | whole operations on the GPU |
//! | [`reference`](mod@reference) | the same on the CPU, naively, in f32 or f64: the oracle |
//! | [`compare`], [`baseline`] | how far a result may be from the truth |
//! | `validate` | every kernel held against it (feature `validate`) |
//! | [`q8`] | 8-bit storage of keys and values |
//! | [`problem`], [`plan`], [`recording`], [`wgsl`] | the way from options to shaders, without a device |

pub mod attention;
pub mod backend;
pub mod baseline;
#[doc(hidden)]
pub mod bounds;
#[cfg(feature = "validate")]
#[doc(hidden)]
pub mod cases;
mod clock;
pub mod compare;
mod coverage;
pub mod device;
pub mod epilogue;
pub mod error;
mod fill;
pub mod gpu;
mod hash;
#[doc(hidden)]
pub mod kernels;
pub mod layers;
#[cfg(feature = "models")]
pub mod models;
pub mod norm;
pub mod ops;
pub mod plan;
pub mod problem;
pub mod q8;
mod rates;
pub mod recording;
pub mod reference;
pub mod rnn;
#[cfg(feature = "seq2seq")]
mod search;
#[cfg(feature = "seq2seq")]
pub mod seq2seq;
#[cfg(feature = "seq2seq")]
pub mod store;
pub mod tensor;
#[cfg(feature = "validate")]
pub mod validate;
pub mod wgsl;
#[cfg(feature = "validate")]
#[doc(hidden)]
pub mod workload;

#[cfg(feature = "cpu")]
pub use backend::{Cpu, Device};
pub use error::{Error, Result};
pub use gpu::{Gpu, Tensor};
pub use wgpu;

/// The examples of the README and of docs/ compile.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../CONTRIBUTING.md")]
    struct Contributing;
    #[doc = include_str!("../docs/benchmarks.md")]
    struct Benchmarks;
    #[doc = include_str!("../docs/cards.md")]
    struct Cards;
    #[doc = include_str!("../docs/command-line.md")]
    struct CommandLine;
    #[doc = include_str!("../docs/cpu.md")]
    struct OnTheCpu;
    #[doc = include_str!("../docs/design.md")]
    struct Design;
    #[doc = include_str!("../docs/drivers.md")]
    struct Drivers;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
    #[doc = include_str!("../docs/numerics.md")]
    struct Numerics;
    #[doc = include_str!("../docs/testing.md")]
    struct Testing;
    #[doc = include_str!("../docs/web.md")]
    struct Web;
}
