//! The options of `regard attend` and what they mean to the library.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use regard::attention::{
    Algorithm, Attention, Causal, Monotonic, Normalize, Rotary, RotaryLayout, Score, ScoreMod, ScoreStage, Window,
};
use regard::tensor::{Array, DType};
use regard::{Error, Result};

use crate::stream;

/// Base of the rotary angles where none is given (Su et al. 2021).
const ROTARY_BASE: f64 = 10_000.0;
/// Elements of both rotary tables at most: 1 GiB.
const MOST_TABLE_ELEMENTS: usize = 1 << 28;

/// What attention to compute.
#[derive(Debug, Args)]
#[command(next_help_heading = "Attention")]
pub(super) struct Options {
    /// How a query and a key are compared
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    score: ScoreKind,
    /// Multiplies the scores; 1/√D for scaled-dot, 1 otherwise, when left out
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    scale: Option<f32>,
    /// A score function of your own in WGSL, applied after the scale: `fn score_mod(score: f32, b: u32, h: u32,
    /// i: u32, j: u32) -> f32` (batch row, query head, query, key); runs on a GPU only
    #[arg(long, value_name = "FILE")]
    score_wgsl: Option<PathBuf>,
    /// Cap scores softly: X·tanh(s/X), before the mask
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    softcap: Option<f32>,
    /// Turn query and key by their positions before they are compared: rotary embedding (Su et al. 2021). Which
    /// elements of a head form a pair
    #[arg(long, value_enum, value_name = "PAIRS")]
    rotary: Option<RotaryKind>,
    /// Base of the rotary angles position · X^(−2n / width); 10000 when left out
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    rotary_base: Option<f64>,
    /// How many elements of a head are turned, the first N; all when left out
    #[arg(long, value_name = "N")]
    rotary_width: Option<usize>,
    /// Added to every position of the rotary embedding; 0 when left out
    #[arg(long, value_name = "N")]
    rotary_offset: Option<usize>,
    /// Hide keys after the query's own position: query i sees key j when j <= i + offset. top-left: the offset is the
    /// length of the past; bottom-right: Nk - Nq, so that the last query sees the last key. With `kv_lengths` either is
    /// a batch row's length of keys - Nq, so that the last of all queries sees the last real key; with `query_lengths`
    /// too, as a padded batch should have them, it is the length of keys - the length of queries
    #[arg(long, value_enum, value_name = "ALIGNMENT", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "top-left")]
    causal: Option<CausalKind>,
    /// Hide keys outside p-L ... p+R around the query's own position p = i + offset, the offset as for --causal; -1 leaves
    /// a side open. The first SINKS keys stay visible
    #[arg(long, value_name = "L,R[,SINKS]", allow_hyphen_values = true, value_parser = window)]
    window: Option<Window>,
    /// Queries and keys that one entry of `block_mask` stands for
    #[arg(long, value_name = "Q,K", value_parser = block_size)]
    block_size: Option<[usize; 2]>,
    /// How the scores of a query become weights
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    normalize: NormalizeKind,
    /// Divides the scores on their way into the weights: above 1 flattens, below 1 sharpens
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    temperature: Option<f32>,
    /// Seed of `--normalize sample`, 0 when left out; the same seed draws the same keys on every device
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Which kernels run, on a GPU only: `staged` is score, softmax and weighted sum one after the other
    #[arg(long, value_enum, default_value_t, value_name = "PATH")]
    path: PathKind,
}

/// Element type on the device.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum ElementType {
    /// Single precision.
    #[default]
    F32,
    /// Half precision, where the device has it.
    F16,
}

impl From<ElementType> for DType {
    fn from(dtype: ElementType) -> Self {
        match dtype {
            ElementType::F32 => Self::F32,
            ElementType::F16 => Self::F16,
        }
    }
}

/// Element type of keys and values on the device.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum CacheType {
    /// Signed bytes in blocks of 32 that share a scale: 9 bits an element.
    Q8,
}

impl From<CacheType> for DType {
    fn from(dtype: CacheType) -> Self {
        match dtype {
            CacheType::Q8 => Self::Q8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum ScoreKind {
    /// q·k / √D (Vaswani et al. 2017).
    #[default]
    ScaledDot,
    /// q·k (Luong et al. 2015).
    Dot,
    /// q·W·k with `score.weight` [D, D] (Luong et al. 2015).
    General,
    /// v·tanh(Wq·q + Wk·k + b) with `score.query_weight` and `score.key_weight` [A, D], `score.v` and `score.bias`
    /// `[A]` (Bahdanau et al. 2015), normalized to g·v/‖v‖ with `score.g` (TensorFlow); without weights Σ tanh(q + k),
    /// times `score.v` [D] if given (Keras' AdditiveAttention).
    Additive,
    /// v·tanh(W·[q; k]) with `score.weight` [A, 2D] and `score.v` `[A]` (Luong et al. 2015).
    Concat,
    /// q·k / (‖q‖·‖k‖) (Graves et al. 2014).
    Cosine,
    /// v·tanh(Wq·q + Wk·k + U·f + b): the additive score with f, the alignment `previous` [B, Hq, Nq, Nk] convolved
    /// along the keys by `score.location_filter` [C, W], and U, `score.location_weight` [A, C] (Chorowski et al. 2015).
    Location,
    /// w·Σ tanh(c·(q + k)) with the numbers `score.concat_score_weight` and `score.scale`, 1 where they are not given
    /// (Keras' Attention with score_mode="concat").
    KerasConcat,
}

impl From<ScoreKind> for Score {
    fn from(kind: ScoreKind) -> Self {
        match kind {
            ScoreKind::ScaledDot => Self::ScaledDot,
            ScoreKind::Dot => Self::Dot,
            ScoreKind::General => Self::General,
            // The scale of Keras is inside the tanh: two matrices c·1.
            ScoreKind::Additive | ScoreKind::KerasConcat => Self::Additive,
            ScoreKind::Concat => Self::Concat,
            ScoreKind::Cosine => Self::Cosine,
            ScoreKind::Location => Self::Location,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum NormalizeKind {
    /// exp(s) / Σ exp(s).
    #[default]
    Softmax,
    /// 1 at the largest score, the first one on ties.
    Hardmax,
    /// 1 at one key drawn from the softmax.
    Sample,
    /// Projection onto the simplex: sparse weights (Martins and Astudillo 2016).
    Sparsemax,
    /// Monotonic alignment (Raffel et al. 2017): each query scans on from where the one before stopped, and stops at key
    /// j with probability sigmoid(s). The first starts from `previous` [B, Hq, 1, Nk], or at key 0. In closed form.
    #[value(alias = "monotonic")]
    MonotonicParallel,
    /// The same key by key, which loses nothing behind keys that nearly all stop at.
    MonotonicRecursive,
    /// The same, but each query stops at the first key whose score is above 0.
    MonotonicHard,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RotaryKind {
    /// n with n + width / 2 (GPT-NeoX, LLaMA).
    HalfSplit,
    /// 2n with 2n + 1 (RoFormer, GPT-J).
    Interleaved,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CausalKind {
    /// PyTorch's and ONNX's alignment.
    TopLeft,
    /// FlashAttention's alignment.
    BottomRight,
}

/// A stage at which the scores can be had.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Stage {
    /// After the scale.
    Raw,
    /// After the soft cap.
    Capped,
    /// After bias and mask; hidden entries are −∞.
    Masked,
}

impl From<Stage> for ScoreStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Raw => Self::Raw,
            Stage::Capped => Self::Capped,
            Stage::Masked => Self::Masked,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum PathKind {
    /// The planner chooses.
    #[default]
    Auto,
    /// Scores in memory.
    Staged,
    /// One kernel with an online softmax, scores never in memory.
    Fused,
    /// The same for few queries, keys split among workgroups.
    Split,
}

impl Options {
    /// As the library has them, without outputs.
    pub(super) fn attention(&self) -> Result<Attention> {
        Ok(Attention {
            score: self.score.into(),
            scale: self.scale,
            score_mod: self.score_mod()?,
            softcap: self.softcap,
            causal: self.causal.map(|causal| match causal {
                CausalKind::TopLeft => Causal::TopLeft,
                CausalKind::BottomRight => Causal::BottomRight,
            }),
            window: self.window,
            temperature: self.temperature,
            normalize: self.normalize()?,
            path: match self.path {
                PathKind::Auto => Algorithm::Auto,
                PathKind::Staged => Algorithm::Staged,
                PathKind::Fused => Algorithm::Fused,
                PathKind::Split => Algorithm::Split,
            },
            ..Attention::default()
        })
    }

    fn normalize(&self) -> Result<Normalize> {
        if self.seed.is_some() && self.normalize != NormalizeKind::Sample {
            return Err(Error::option("seed", "belongs to `--normalize sample`: add that, or leave it out"));
        }
        Ok(match self.normalize {
            NormalizeKind::Softmax => Normalize::Softmax,
            NormalizeKind::Hardmax => Normalize::Hardmax,
            NormalizeKind::Sample => Normalize::Sample { seed: self.seed.unwrap_or(0) },
            NormalizeKind::Sparsemax => Normalize::Sparsemax,
            NormalizeKind::MonotonicParallel => Normalize::Monotonic(Monotonic::Parallel),
            NormalizeKind::MonotonicRecursive => Normalize::Monotonic(Monotonic::Recursive),
            NormalizeKind::MonotonicHard => Normalize::Monotonic(Monotonic::Hard),
        })
    }

    /// Queries and keys of one entry of a block mask.
    pub(super) fn block_size(&self) -> Option<[usize; 2]> {
        self.block_size
    }

    /// The rotary embedding that is asked for, without its tables.
    pub(super) fn rotary(&self) -> Result<Option<Rotary>> {
        let Some(kind) = self.rotary else {
            let given = [
                ("rotary-base", self.rotary_base.is_some()),
                ("rotary-width", self.rotary_width.is_some()),
                ("rotary-offset", self.rotary_offset.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((name, _)) => {
                    let reason = "belongs to a rotary embedding: add `--rotary half-split` or `--rotary interleaved`";
                    Err(Error::option(*name, reason))
                }
                None => Ok(None),
            };
        };
        let layout = match kind {
            RotaryKind::HalfSplit => RotaryLayout::HalfSplit,
            RotaryKind::Interleaved => RotaryLayout::Interleaved,
        };
        Ok(Some(Rotary { layout, offset: self.rotary_offset.unwrap_or(0) }))
    }

    /// The tables [positions, width / 2] of a rotary embedding, for a file that has none.
    pub(super) fn rotary_tables(&self, head_dim: usize, positions: usize) -> Result<[Array; 2]> {
        let width = self.rotary_width.unwrap_or(head_dim);
        if width > head_dim {
            return Err(Error::option("rotary-width", format!("{width}, but a head has {head_dim} elements")));
        }
        let positions = positions.saturating_add(self.rotary_offset.unwrap_or(0));
        if positions.saturating_mul(width) > MOST_TABLE_ELEMENTS {
            let reason = format!("tables of {positions} positions would be too large");
            return Err(Error::option("rotary-offset", reason));
        }
        Rotary::tables(self.rotary_base.unwrap_or(ROTARY_BASE), width, positions)
    }

    /// Refuses what would shape tables that the file has already.
    pub(super) fn refuse_rotary_tables(&self) -> Result<()> {
        let given = [("rotary-base", self.rotary_base.is_some()), ("rotary-width", self.rotary_width.is_some())];
        match given.iter().find(|(_, given)| *given) {
            Some((name, _)) => {
                let reason = "the file has tables `rotary_cos` and `rotary_sin`, which say it: leave it out, or them";
                Err(Error::option(*name, reason))
            }
            None => Ok(()),
        }
    }

    /// Whether the parameters of the score are Keras' two numbers.
    pub(super) fn is_keras_concat(&self) -> bool {
        self.score == ScoreKind::KerasConcat
    }

    /// The file of a score function.
    pub(super) fn score_file(&self) -> Option<&std::path::Path> {
        self.score_wgsl.as_deref()
    }

    fn score_mod(&self) -> Result<Option<ScoreMod>> {
        let Some(path) = &self.score_wgsl else { return Ok(None) };
        let wgsl = stream::read_text(path)?;
        Ok(Some(ScoreMod::new(wgsl, None)))
    }
}

/// The name on the command line.
pub(super) fn path_name(path: Algorithm) -> &'static str {
    match path {
        Algorithm::Auto => "auto",
        Algorithm::Staged => "staged",
        Algorithm::Fused => "fused",
        Algorithm::Split => "split",
    }
}

/// `L,R` or `L,R,SINKS`, with −1 for an open side.
fn window(text: &str) -> std::result::Result<Window, String> {
    let side = |text: &str| match text.trim().parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(n) => u32::try_from(n).map(Some).map_err(|_| format!("{n} is neither -1 nor a number of keys")),
        Err(_) => Err(format!("`{text}` is no whole number")),
    };
    let sinks = |text: &str| text.trim().parse().map_err(|_| format!("`{text}` is no number of keys"));
    match text.split(',').collect::<Vec<_>>()[..] {
        [left, right] => Ok(Window::new(side(left)?, side(right)?)),
        [left, right, first] => Ok(Window { sink_tokens: sinks(first)?, ..Window::new(side(left)?, side(right)?) }),
        _ => Err("expected two numbers as in `128,0`, or three as in `128,0,4`".to_owned()),
    }
}

/// `Q,K`.
fn block_size(text: &str) -> std::result::Result<[usize; 2], String> {
    let side = |text: &str| text.trim().parse().map_err(|_| format!("`{text}` is no whole number"));
    match text.split_once(',') {
        Some((queries, keys)) => Ok([side(queries)?, side(keys)?]),
        None => Err("expected two numbers as in `64,64`".to_owned()),
    }
}
