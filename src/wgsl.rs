//! Composition of shader sources: a short typed header, the shared files a kernel asks for, the kernel.
//!
//! Files are plain WGSL and are only concatenated. What differs between variants is said in one of three ways:
//! `override` constants for numbers and switches, aliases in the header for element types, and a choice of files.

mod score_mod;

use std::fmt::Write;
use std::sync::Arc;

pub(crate) use score_mod::{check as check_score_mod, excerpt as excerpt_of_score_mod};

use crate::tensor::DType;

/// The kernels, one per file in `shaders/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kernel {
    /// Rows into a cache.
    Append,
    /// Measurement: workgroup barriers per second.
    BarrierRate,
    /// Measurement: multiply-adds per second by cooperative matrices.
    CoopRate,
    /// Strided copy.
    Copy,
    /// Running sum of alignments.
    Coverage,
    /// Entropy of rows of weights.
    Entropy,
    /// Attention, tiles in workgroup memory.
    Flash,
    /// Attention, a workgroup for a tile of queries, by cooperative matrices.
    FlashCoop,
    /// Attention, a workgroup for 16 or 32 query rows.
    FlashRows,
    /// Attention, ranges of keys side by side.
    FlashSplit,
    /// Measurement: multiply-adds per second.
    FmaRate,
    /// Embedding look-up.
    Gather,
    /// Keys of a location-sensitive score.
    Location,
    /// Tiles of a mask tensor.
    MaskTiles,
    /// Matrix product in registers.
    Matmul,
    /// Sums over ranges of a product's depth.
    MatmulSum,
    /// Matrix product by tiles in workgroup memory.
    MatmulTiled,
    /// Join of two directions.
    Merge,
    /// Join of partial results over disjoint keys.
    MergePartials,
    /// Scores to monotonic alignments.
    Monotonic,
    /// Step of a recurrence.
    Recurrent,
    /// Many steps of a recurrence.
    RecurrentLoop,
    /// Gates of a recurrence with layer normalisation.
    RecurrentNorm,
    /// Rotary position embedding.
    Rotary,
    /// Attention scores.
    Score,
    /// Scores to weights.
    Softmax,
    /// Weights times values.
    WeightedSum,
}

macro_rules! shader {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path))
    };
}

const LAYOUT: &str = shader!("common/layout.wgsl");
const MATH: &str = shader!("common/math.wgsl");
const ACTIVATION: &str = shader!("common/activation.wgsl");
const HIDDEN: &str = shader!("common/hidden.wgsl");
const MASK: &str = shader!("common/mask.wgsl");
const REDUCE4_SHARED: &str = shader!("common/reduce4_shared.wgsl");
const REDUCE4_SUBGROUP: &str = shader!("common/reduce4_subgroup.wgsl");
const ADDITIVE: &str = shader!("common/additive.wgsl");
const GROUP_SHARED: &str = shader!("common/group_shared.wgsl");
const GROUP_SUBGROUP: &str = shader!("common/group_subgroup.wgsl");
const SPREAD_DIRECT: &str = shader!("common/spread_direct.wgsl");
const SPREAD_SUBGROUP: &str = shader!("common/spread_subgroup.wgsl");
const PAIR: &str = shader!("common/pair.wgsl");
const REACH: &str = shader!("common/reach.wgsl");
const ONLINE_SOFTMAX: &str = shader!("common/online_softmax.wgsl");
const FUSED: &str = shader!("common/fused.wgsl");
const POSITIONS: &str = shader!("common/positions.wgsl");
const BLOCKS: &str = shader!("common/blocks.wgsl");
const PAGES: &str = shader!("common/pages.wgsl");
const PARAMS_UNIFORM: &str = shader!("common/params_uniform.wgsl");
const PARAMS_STORAGE: &str = shader!("common/params_storage.wgsl");
const CELL: &str = shader!("common/cell.wgsl");
const PRODUCT: &str = shader!("common/product.wgsl");
const PRODUCT_X: [&str; 2] = [shader!("common/product_x_any.wgsl"), shader!("common/product_x_depth.wgsl")];
const PRODUCT_W: [&str; 3] = [
    shader!("common/product_w_any.wgsl"),
    shader!("common/product_w_depth.wgsl"),
    shader!("common/product_w_columns.wgsl"),
];
const PRODUCT_Y: [&str; 2] = [shader!("common/product_y_any.wgsl"), shader!("common/product_y_columns.wgsl")];
const ROWS_DIRECT: &str = shader!("common/rows_direct.wgsl");
const ROWS_SPREAD: &str = shader!("common/rows_spread.wgsl");
const Q8: &str = shader!("common/q8.wgsl");
const READ_PLAIN: &str = shader!("common/read_plain.wgsl");
const READ_Q8: &str = shader!("common/read_q8.wgsl");
const KEY_PLAIN: &str = shader!("common/key_plain.wgsl");
const KEY_Q8: &str = shader!("common/key_q8.wgsl");
const VALUE_PLAIN: &str = shader!("common/value_plain.wgsl");
const VALUE_Q8: &str = shader!("common/value_q8.wgsl");
const WRITE_PLAIN: &str = shader!("common/write_plain.wgsl");
const WRITE_Q8: &str = shader!("common/write_q8.wgsl");
const TILE: &str = shader!("common/tile.wgsl");
const SPLIT_SHARED: &str = shader!("common/split_shared.wgsl");
const SPLIT_SUBGROUP: &str = shader!("common/split_subgroup.wgsl");
const COOP_8: &str = shader!("common/coop_8.wgsl");
const COOP_16: &str = shader!("common/coop_16.wgsl");
const REDUCE_SHARED: &str = shader!("common/reduce_shared.wgsl");
const SCORE_MOD_NONE: &str = shader!("common/score_mod_none.wgsl");

/// The files of a fused attention kernel.
macro_rules! fused {
    ($path:literal) => {
        &[
            LAYOUT,
            MATH,
            HIDDEN,
            POSITIONS,
            BLOCKS,
            PAGES,
            MASK,
            PAIR,
            REACH,
            ONLINE_SOFTMAX,
            FUSED,
            ADDITIVE,
            shader!($path),
        ]
    };
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 27] = [
        Self::Append,
        Self::BarrierRate,
        Self::CoopRate,
        Self::Copy,
        Self::Coverage,
        Self::Entropy,
        Self::Flash,
        Self::FlashCoop,
        Self::FlashRows,
        Self::FlashSplit,
        Self::FmaRate,
        Self::Gather,
        Self::Location,
        Self::MaskTiles,
        Self::Matmul,
        Self::MatmulSum,
        Self::MatmulTiled,
        Self::Merge,
        Self::MergePartials,
        Self::Monotonic,
        Self::Recurrent,
        Self::RecurrentLoop,
        Self::RecurrentNorm,
        Self::Rotary,
        Self::Score,
        Self::Softmax,
        Self::WeightedSum,
    ];

    /// Those that call a `score_mod`.
    const SCORING: [Self; 5] = [Self::Score, Self::Flash, Self::FlashCoop, Self::FlashRows, Self::FlashSplit];

    /// Name of the shader file without its ending.
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::BarrierRate => "barrier_rate",
            Self::CoopRate => "coop_rate",
            Self::Copy => "copy",
            Self::Coverage => "coverage",
            Self::Entropy => "entropy",
            Self::Flash => "flash",
            Self::FlashCoop => "flash_coop",
            Self::FlashRows => "flash_rows",
            Self::FlashSplit => "flash_split",
            Self::FmaRate => "fma_rate",
            Self::Gather => "gather",
            Self::Location => "location",
            Self::MaskTiles => "mask_tiles",
            Self::Matmul => "matmul",
            Self::MatmulSum => "matmul_sum",
            Self::MatmulTiled => "matmul_tiled",
            Self::Merge => "merge",
            Self::MergePartials => "merge_partials",
            Self::Monotonic => "monotonic",
            Self::Recurrent => "recurrent",
            Self::RecurrentLoop => "recurrent_loop",
            Self::RecurrentNorm => "recurrent_norm",
            Self::Rotary => "rotary",
            Self::Score => "score",
            Self::Softmax => "softmax",
            Self::WeightedSum => "weighted_sum",
        }
    }

    /// How lanes talk to each other: through subgroup operations, or through workgroup memory.
    fn lane_files(self, subgroups: bool) -> &'static [&'static str] {
        match (self, subgroups) {
            (Self::Recurrent, true) => &[SPLIT_SUBGROUP],
            (Self::Recurrent, false) => &[SPLIT_SHARED],
            (Self::Flash, true) => &[GROUP_SUBGROUP],
            (Self::Flash, false) => &[GROUP_SHARED],
            (Self::FlashRows, true) => &[SPREAD_SUBGROUP, REDUCE4_SUBGROUP],
            (Self::FlashRows, false) => &[SPREAD_DIRECT, REDUCE4_SHARED],
            (Self::FlashSplit, true) => &[SPLIT_SUBGROUP, REDUCE4_SUBGROUP],
            (Self::FlashSplit, false) => &[SPLIT_SHARED, REDUCE4_SHARED],
            _ => &[],
        }
    }

    /// Every text that may stand in the source of one of its variants, one after the other.
    fn every_text(self) -> impl Iterator<Item = &'static str> {
        // As `Variant::source` writes them, of any type.
        const HEADER: &str = "alias elem = f32; alias k_elem = f32; alias v_elem = f32; alias out_elem = f32;";
        let storage = [HEADER, PARAMS_UNIFORM, COOP_8, Q8, KEY_PLAIN, VALUE_PLAIN, KEY_Q8, VALUE_Q8];
        let lanes = [self.lane_files(false), self.lane_files(true), self.files()].into_iter().flatten();
        storage.into_iter().chain(lanes.copied())
    }

    /// The shared files and the kernel's own, in order.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Append => &[LAYOUT, PAGES, shader!("append.wgsl")],
            Self::BarrierRate => &[LAYOUT, shader!("barrier_rate.wgsl")],
            Self::CoopRate => &[LAYOUT, shader!("coop_rate.wgsl")],
            Self::Copy => &[LAYOUT, shader!("copy.wgsl")],
            Self::Coverage => &[LAYOUT, REDUCE_SHARED, shader!("coverage.wgsl")],
            Self::Entropy => &[LAYOUT, MATH, REDUCE_SHARED, shader!("entropy.wgsl")],
            Self::Flash => fused!("flash.wgsl"),
            Self::FlashCoop => fused!("flash_coop.wgsl"),
            Self::FlashRows => fused!("flash_rows.wgsl"),
            Self::FlashSplit => fused!("flash_split.wgsl"),
            Self::FmaRate => &[LAYOUT, shader!("fma_rate.wgsl")],
            Self::Gather => &[LAYOUT, shader!("gather.wgsl")],
            Self::Location => &[LAYOUT, shader!("location.wgsl")],
            Self::MaskTiles => &[LAYOUT, shader!("mask_tiles.wgsl")],
            Self::Matmul => &[LAYOUT, MATH, ACTIVATION, PRODUCT, shader!("matmul.wgsl")],
            Self::MatmulSum => &[LAYOUT, MATH, ACTIVATION, PRODUCT, shader!("matmul_sum.wgsl")],
            Self::MatmulTiled => &[LAYOUT, MATH, ACTIVATION, PRODUCT, shader!("matmul_tiled.wgsl")],
            Self::Merge => &[LAYOUT, shader!("merge.wgsl")],
            Self::MergePartials => &[LAYOUT, MATH, HIDDEN, ONLINE_SOFTMAX, shader!("merge_partials.wgsl")],
            Self::Monotonic => &[LAYOUT, MATH, HIDDEN, REDUCE_SHARED, shader!("monotonic.wgsl")],
            Self::Recurrent => &[LAYOUT, MATH, ACTIVATION, CELL, TILE, shader!("recurrent.wgsl")],
            Self::RecurrentLoop => &[LAYOUT, MATH, ACTIVATION, CELL, shader!("recurrent_loop.wgsl")],
            Self::RecurrentNorm => &[LAYOUT, MATH, ACTIVATION, CELL, shader!("recurrent_norm.wgsl")],
            Self::Rotary => &[LAYOUT, POSITIONS, shader!("rotary.wgsl")],
            Self::Score => &[LAYOUT, MATH, HIDDEN, POSITIONS, BLOCKS, PAGES, MASK, PAIR, shader!("score.wgsl")],
            Self::Softmax => &[LAYOUT, MATH, HIDDEN, REDUCE_SHARED, ONLINE_SOFTMAX, shader!("softmax.wgsl")],
            Self::WeightedSum => &[LAYOUT, POSITIONS, BLOCKS, PAGES, shader!("weighted_sum.wgsl")],
        }
    }
}

/// Where the parameters of a dispatch lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParamsSpace {
    /// A uniform buffer.
    Uniform,
    /// A storage buffer, which counts towards the device's limit of them.
    Storage,
}

/// A value of an `override` constant; f64 as WebGPU has it.
pub type Override = (&'static str, f64);

/// One program: a kernel with its types and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Which kernel.
    pub kernel: Kernel,
    /// Element types by alias.
    pub aliases: Vec<(&'static str, DType)>,
    /// Values of `override` constants.
    pub overrides: Vec<Override>,
    /// A user's `score_mod`.
    pub score_mod: Option<Arc<str>>,
    /// Whether lanes talk through subgroup operations instead of workgroup memory, where the kernel has both.
    pub subgroups: bool,
}

impl Variant {
    /// Whether it multiplies cooperative matrices: of the side that its constant SIDE says, which their type must say
    /// too.
    pub fn is_cooperative(&self) -> bool {
        matches!(self.kernel, Kernel::CoopRate | Kernel::FlashCoop)
    }

    /// The whole WGSL source.
    pub fn source(&self, params: ParamsSpace) -> String {
        let mut source = String::new();
        if self.is_cooperative() || self.aliases.iter().any(|(_, dtype)| *dtype == DType::F16) {
            source.push_str("enable f16;\n");
        }
        if self.is_cooperative() {
            // Matrices want all lanes of a subgroup together. naga asks for all lanes of the workgroup, which a
            // condition on the subgroup's number does not keep together, and goes by this filter in it.
            source.push_str("enable wgpu_cooperative_matrix;\ndiagnostic(off, derivative_uniformity);\n");
        }
        // Blocks have no type of their own.
        for (alias, dtype) in self.aliases.iter().filter(|(_, dtype)| *dtype != DType::Q8) {
            let _ = writeln!(source, "alias {alias} = {dtype};");
        }
        if Kernel::SCORING.contains(&self.kernel) {
            source.push_str(self.score_mod.as_deref().unwrap_or(SCORE_MOD_NONE));
            source.push('\n');
        }
        source.push_str(match params {
            ParamsSpace::Uniform => PARAMS_UNIFORM,
            ParamsSpace::Storage => PARAMS_STORAGE,
        });
        if self.is_cooperative() {
            source.push_str(if self.constant("SIDE") == Some(16) { COOP_16 } else { COOP_8 });
        }
        let lanes = self.kernel.lane_files(self.subgroups);
        for file in lanes.iter().chain(&self.storage_files()).chain(self.kernel.files()) {
            source.push_str(file);
            source.push('\n');
        }
        source
    }

    /// The value of an `override` constant that is a number or a choice.
    fn constant(&self, name: &str) -> Option<u32> {
        self.overrides.iter().find(|(found, _)| *found == name).map(|(_, value)| *value as u32)
    }

    /// How the kernel reads and writes what may lie in several ways.
    fn storage_files(&self) -> Vec<&'static str> {
        let is_q8 = |alias: &str| self.aliases.contains(&(alias, DType::Q8));
        let layout = |name: &str, files: &[&'static str]| {
            let number = self.constant(name).unwrap_or(0);
            files.get(number as usize).copied().unwrap_or_default()
        };
        match self.kernel {
            Kernel::Matmul | Kernel::MatmulTiled => {
                let operands = [("X_LAYOUT", &PRODUCT_X[..]), ("W_LAYOUT", &PRODUCT_W), ("Y_LAYOUT", &PRODUCT_Y)];
                let mut files: Vec<_> = operands.iter().map(|(name, files)| layout(name, files)).collect();
                if self.kernel == Kernel::Matmul {
                    files.extend(match (self.subgroups, self.constant("PARTS")) {
                        (true, Some(1)) => [ROWS_SPREAD, ""],
                        (true, _) => [SPLIT_SUBGROUP, ROWS_DIRECT],
                        (false, _) => [SPLIT_SHARED, ROWS_DIRECT],
                    });
                }
                files
            }
            Kernel::MatmulSum => vec![layout("Y_LAYOUT", &PRODUCT_Y)],
            Kernel::Copy if is_q8("elem") => vec![Q8, READ_Q8],
            Kernel::Copy => vec![READ_PLAIN],
            Kernel::Append if is_q8("out_elem") => vec![Q8, WRITE_Q8],
            Kernel::Append => vec![WRITE_PLAIN],
            Kernel::Flash | Kernel::FlashCoop | Kernel::FlashRows | Kernel::FlashSplit => vec![
                if is_q8("k_elem") || is_q8("v_elem") { Q8 } else { "" },
                if is_q8("k_elem") { KEY_Q8 } else { KEY_PLAIN },
                if is_q8("v_elem") { VALUE_Q8 } else { VALUE_PLAIN },
            ],
            _ => Vec::new(),
        }
    }

    /// A text that is the same for the same program, for caches and labels.
    pub fn key(&self) -> String {
        let mut key = self.kernel.name().to_owned();
        for (alias, dtype) in &self.aliases {
            let _ = write!(key, " {alias}={dtype}");
        }
        for (name, value) in &self.overrides {
            let _ = write!(key, " {name}={value}");
        }
        if self.subgroups {
            key.push_str(" subgroups");
        }
        if let Some(user) = &self.score_mod {
            let _ = write!(key, " score_mod={user}");
        }
        key
    }

    /// The key without a user's source: short enough for labels and tables.
    pub fn label(&self) -> String {
        Self { score_mod: None, ..self.clone() }.key()
    }
}
