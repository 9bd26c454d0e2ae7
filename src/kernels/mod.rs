//! The host side of each kernel: one file per shader, same stem. Each fills in the uniform `params`, picks the variant
//! and pushes a dispatch into a [`Recording`](crate::recording::Recording); nothing here knows wgpu.

pub mod append;
pub mod barrier_rate;
pub mod coop_rate;
pub mod copy;
pub mod coverage;
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
pub mod recurrent;
pub mod recurrent_loop;
pub mod recurrent_norm;
pub mod rotary;
pub mod score;
pub mod softmax;
pub mod visibility;
pub mod weighted_sum;

use crate::error::{Error, Result};
use crate::recording::{Binding, View};
use crate::rnn::Activation;
use crate::wgsl::Kernel;
use visibility::{BlockParams, MaskParams, PageParams, PositionParams, TileParams};

/// Name and byte offset of each member of a uniform struct.
pub type Fields = &'static [(&'static str, usize)];

/// Declares the Rust twin of a WGSL uniform struct, with its offsets, which a test compares with the shader's.
macro_rules! params {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $ty,)* }

        impl $name {
            /// Name and byte offset of each member.
            pub const FIELDS: $crate::kernels::Fields = &[$((stringify!($field), std::mem::offset_of!($name, $field)),)*];
        }
    };
}
pub(crate) use params;

params! {
    /// `View` of `common/layout.wgsl`: a strided tensor of four axes, counted in elements.
    struct View4 {
        shape: [u32; 4],
        strides: [u32; 4],
        offset: u32,
        pad_0: u32,
        pad_1: u32,
        pad_2: u32,
    }
}

params! {
    /// `Activation` of `common/activation.wgsl`.
    struct ActivationParams {
        kind: u32,
        alpha: f32,
        beta: f32,
        pad: f32,
    }
}

/// The uniform structs of every kernel, for the test that compares them with the shaders.
pub fn uniform_structs() -> Vec<(Kernel, &'static str, Fields, usize)> {
    vec![
        (Kernel::Score, "View", View4::FIELDS, size_of::<View4>()),
        (Kernel::Score, "Positions", PositionParams::FIELDS, size_of::<PositionParams>()),
        (Kernel::Score, "Mask", MaskParams::FIELDS, size_of::<MaskParams>()),
        (Kernel::Score, "Blocks", BlockParams::FIELDS, size_of::<BlockParams>()),
        (Kernel::Score, "Pages", PageParams::FIELDS, size_of::<PageParams>()),
        (Kernel::FlashRows, "Tiles", TileParams::FIELDS, size_of::<TileParams>()),
        (Kernel::Flash, "Params", fused::Params::FIELDS, size_of::<fused::Params>()),
        (Kernel::FlashSplit, "Params", fused::Params::FIELDS, size_of::<fused::Params>()),
        (Kernel::FlashRows, "Params", fused::Params::FIELDS, size_of::<fused::Params>()),
        (Kernel::MaskTiles, "Params", mask_tiles::Params::FIELDS, size_of::<mask_tiles::Params>()),
        (Kernel::Score, "Params", score::Params::FIELDS, size_of::<score::Params>()),
        (Kernel::Softmax, "Params", softmax::Params::FIELDS, size_of::<softmax::Params>()),
        (Kernel::WeightedSum, "Params", weighted_sum::Params::FIELDS, size_of::<weighted_sum::Params>()),
        (Kernel::Matmul, "Activation", ActivationParams::FIELDS, size_of::<ActivationParams>()),
        (Kernel::Matmul, "Params", matmul::Params::FIELDS, size_of::<matmul::Params>()),
        (Kernel::MatmulSum, "Params", matmul::Params::FIELDS, size_of::<matmul::Params>()),
        (Kernel::MatmulTiled, "Params", matmul::Params::FIELDS, size_of::<matmul::Params>()),
        (Kernel::Recurrent, "CellParams", recurrent::CellParams::FIELDS, size_of::<recurrent::CellParams>()),
        (Kernel::RecurrentLoop, "Params", recurrent_loop::Params::FIELDS, size_of::<recurrent_loop::Params>()),
        (Kernel::RecurrentNorm, "Params", recurrent_norm::Params::FIELDS, size_of::<recurrent_norm::Params>()),
        (Kernel::Recurrent, "Params", recurrent::Params::FIELDS, size_of::<recurrent::Params>()),
        (Kernel::BarrierRate, "Params", barrier_rate::Params::FIELDS, size_of::<barrier_rate::Params>()),
        (Kernel::FlashCoop, "Params", fused::Params::FIELDS, size_of::<fused::Params>()),
        (Kernel::CoopRate, "Params", coop_rate::Params::FIELDS, size_of::<coop_rate::Params>()),
        (Kernel::FmaRate, "Params", fma_rate::Params::FIELDS, size_of::<fma_rate::Params>()),
        (Kernel::Gather, "Params", gather::Params::FIELDS, size_of::<gather::Params>()),
        (Kernel::Copy, "Params", copy::Params::FIELDS, size_of::<copy::Params>()),
        (Kernel::Coverage, "Params", coverage::Params::FIELDS, size_of::<coverage::Params>()),
        (Kernel::Append, "Params", append::Params::FIELDS, size_of::<append::Params>()),
        (Kernel::Entropy, "Params", entropy::Params::FIELDS, size_of::<entropy::Params>()),
        (Kernel::Location, "Params", location::Params::FIELDS, size_of::<location::Params>()),
        (Kernel::MergePartials, "Params", merge_partials::Params::FIELDS, size_of::<merge_partials::Params>()),
        (Kernel::Monotonic, "Params", monotonic::Params::FIELDS, size_of::<monotonic::Params>()),
        (Kernel::Rotary, "Params", rotary::Params::FIELDS, size_of::<rotary::Params>()),
        (Kernel::Merge, "Params", merge::Params::FIELDS, size_of::<merge::Params>()),
    ]
}

impl View4 {
    /// A view of at most four axes, lifted to four. Shaders index with 32 bits.
    ///
    /// # Errors
    /// [`Error::Limit`] when an element's index does not fit in 32 bits.
    pub fn new(view: &View) -> Result<Self> {
        let layout = view.layout.lift(4);
        let allowed = u64::from(u32::MAX);
        if layout.rank() != 4 || layout.strides.len() != 4 {
            return Err(Error::shape("tensor of a kernel", "rank", "at most 4", view.layout.rank()));
        }
        if layout.span() as u64 > allowed {
            return Err(Error::Limit { what: "elements of a tensor".into(), needed: layout.span() as u64, allowed });
        }
        let four = |values: &[usize]| std::array::from_fn(|axis| values[axis] as u32);
        Ok(Self {
            shape: four(&layout.shape),
            strides: four(&layout.strides),
            offset: layout.offset as u32,
            pad_0: 0,
            pad_1: 0,
            pad_2: 0,
        })
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
        };
        Self { kind, alpha, beta, pad: 0.0 }
    }
}

/// A read binding, or the one that stands for none.
pub(crate) fn read(view: Option<&View>) -> Binding {
    view.map_or(Binding::Unused, |view| Binding::Read(view.slot))
}

/// Index of a view's first element in an array of vec4.
///
/// # Errors
/// [`Error::Shape`] when it does not start at a multiple of 4 elements.
pub(crate) fn place(name: &str, view: &View) -> Result<u32> {
    match view.layout.offset {
        offset if offset % 4 == 0 => Ok((offset / 4) as u32),
        offset => Err(Error::shape(name, "offset", "a multiple of 4 elements", offset)),
    }
}

/// Index of the first element of a vector and the distance between neighbours; zeros without one.
pub(crate) fn vector(view: Option<&View>) -> [u32; 2] {
    view.map_or([0, 0], |view| [view.layout.offset as u32, view.layout.strides.first().map_or(0, |&s| s as u32)])
}

/// Operations of one tanh of `common/math.wgsl`.
pub(crate) const TANH_FLOPS: u64 = 26;

/// 1 or 0, as `override` constants take switches.
pub(crate) fn switch(on: bool) -> f64 {
    f64::from(u8::from(on))
}
