//! The host side of each kernel: one file per shader, same stem. Each declares its [`Kernel`], fills in the uniform
//! `params`, picks the variant and pushes a dispatch into a [`Recording`](crate::recording::Recording); nothing here knows
//! wgpu.
//!
//! A new kernel is a shader, a file here, and its line in [`ALL`]; tests hold what it declares against its shader.

pub mod append;
pub mod barrier_rate;
pub mod coop_rate;
pub mod copy;
pub mod coverage;
pub mod elementwise;
pub mod entropy;
pub mod flash;
pub mod flash_coop;
pub mod flash_rows;
pub mod flash_split;
pub mod fma_rate;
pub mod fused;
pub mod gather;
pub mod location;
pub mod mask_tiles;
pub mod matmul;
pub mod merge;
pub mod merge_partials;
pub mod monotonic;
pub mod norm;
pub mod recurrent;
pub mod recurrent_loop;
pub mod recurrent_norm;
pub mod reduce;
pub mod rotary;
pub mod score;
pub mod softmax;
pub mod top_k;
pub mod visibility;
pub mod weighted_sum;

use crate::error::{Error, Result};
use crate::recording::{Binding, View};
use crate::rnn::Activation;
use crate::tensor::Layout;
use crate::wgsl::{Kernel, params};

params! {
    /// `View` of `common/layout.wgsl`: a strided tensor of four axes, counted in elements.
    struct View4 {
        shape: [u32; 4],
        strides: [u32; 4],
        offset: u32,
    }
}

params! {
    /// `Activation` of `common/activation.wgsl`.
    struct ActivationParams {
        kind: u32,
        alpha: f32,
        beta: f32,
    }
}

/// Every kernel.
pub static ALL: [&Kernel; 32] = [
    &append::KERNEL,
    &barrier_rate::KERNEL,
    &coop_rate::KERNEL,
    &copy::KERNEL,
    &coverage::KERNEL,
    &elementwise::KERNEL,
    &entropy::KERNEL,
    &flash::KERNEL,
    &flash_coop::KERNEL,
    &flash_rows::KERNEL,
    &flash_split::KERNEL,
    &fma_rate::KERNEL,
    &gather::KERNEL,
    &location::KERNEL,
    &mask_tiles::KERNEL,
    &matmul::KERNEL,
    &matmul::COOPERATIVE,
    &matmul::SUM,
    &matmul::TILED,
    &merge::KERNEL,
    &merge_partials::KERNEL,
    &monotonic::KERNEL,
    &norm::KERNEL,
    &recurrent::KERNEL,
    &recurrent_loop::KERNEL,
    &recurrent_norm::KERNEL,
    &reduce::KERNEL,
    &rotary::KERNEL,
    &score::KERNEL,
    &softmax::KERNEL,
    &top_k::KERNEL,
    &weighted_sum::KERNEL,
];

impl View4 {
    /// A view of at most four axes, lifted to four. Shaders index with 32 bits.
    ///
    /// # Errors
    /// [`Error::Limit`] when an element's index does not fit in 32 bits.
    pub fn new(view: &View) -> Result<Self> {
        Self::of(&view.layout)
    }

    /// As [`View4::new`], of a layout alone.
    ///
    /// # Errors
    /// As [`View4::new`].
    pub fn of(layout: &Layout) -> Result<Self> {
        let allowed = u64::from(u32::MAX);
        let rank = layout.rank();
        if rank > 4 || layout.strides.len() != rank {
            return Err(Error::shape("tensor of a kernel", "rank", "at most 4", rank));
        }
        let needed = layout.span() as u64;
        if needed > allowed {
            return Err(Error::Limit { what: "elements of a tensor".into(), needed, allowed });
        }
        let four = |values: &[usize], missing: u32| {
            let mut four = [missing; 4];
            four[4 - rank..].iter_mut().zip(values).for_each(|(four, &value)| *four = value as u32);
            four
        };
        Ok(Self { shape: four(&layout.shape, 1), strides: four(&layout.strides, 0), offset: layout.offset as u32 })
    }
}

impl ActivationParams {
    /// Numbers as in `common/activation.wgsl`; `None` is the identity.
    pub fn new(activation: Option<Activation>) -> Self {
        let (kind, alpha, beta) = match activation {
            None => (0, 0.0, 0.0),
            Some(Activation::Sigmoid) => (1, 0.0, 0.0),
            Some(Activation::Tanh) => (2, 0.0, 0.0),
            Some(Activation::Relu) => (3, 0.0, 0.0),
            Some(Activation::Affine { alpha, beta }) => (4, alpha, beta),
            Some(Activation::LeakyRelu { alpha }) => (5, alpha, 0.0),
            Some(Activation::ThresholdedRelu { alpha }) => (6, alpha, 0.0),
            Some(Activation::ScaledTanh { alpha, beta }) => (7, alpha, beta),
            Some(Activation::HardSigmoid { alpha, beta }) => (8, alpha, beta),
            Some(Activation::Elu { alpha }) => (9, alpha, 0.0),
            Some(Activation::Softsign) => (10, 0.0, 0.0),
            Some(Activation::Softplus) => (11, 0.0, 0.0),
            Some(Activation::Gelu) => (12, 0.0, 0.0),
            Some(Activation::GeluTanh) => (13, 0.0, 0.0),
            Some(Activation::Silu) => (14, 0.0, 0.0),
        };
        Self { kind, alpha, beta }
    }
}

/// A read binding, or none.
pub(crate) fn read(view: Option<&View>) -> Binding {
    view.map_or(Binding::Unused, |view| Binding::Read(view.slot))
}

/// Index of a view's first element in an array of vec4.
///
/// # Errors
/// [`Error::Shape`] when it does not start at a multiple of 4 elements.
pub(crate) fn vec4_index(name: &str, view: &View) -> Result<u32> {
    match view.layout.offset {
        offset if offset % 4 == 0 => Ok((offset / 4) as u32),
        offset => Err(Error::shape(name, "offset", "a multiple of 4 elements", offset)),
    }
}

/// Index of the first element of a vector and the distance between neighbours; zeros without one.
pub(crate) fn vector(view: Option<&View>) -> [u32; 2] {
    view.map_or([0, 0], |view| [view.layout.offset as u32, view.layout.strides.first().map_or(0, |&s| s as u32)])
}

/// Operations of one e^x of `common/math.wgsl`.
pub(crate) const EXP_OPERATIONS: usize = 22;

/// Operations of one tanh of `common/math.wgsl`.
pub(crate) const TANH_FLOPS: u64 = 26;

/// 1 or 0, as `override` constants take switches.
pub(crate) fn switch(on: bool) -> f64 {
    f64::from(u8::from(on))
}
